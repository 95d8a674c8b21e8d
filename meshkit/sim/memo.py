"""
Signatures that were verified in a world before.

A message that a thousand nodes receive is verified a thousand times, always with the same
outcome.  With C{World(memo=True)} each of its nodes is given L{Memo.verifies} in place of
L{PublicKey.verifies}: it remembers what has been verified for real, and nothing else.  Who
asks for another key, other data or another signature, by as much as one bit, has it verified;
and a signature that is wrong is verified anew each time.
"""

from __future__ import annotations

from typing import Final

from meshkit.identity.keys import PublicKey, Verify

__all__ = ["MAX_KNOWN", "Memo"]

#: Signatures that are remembered; of more the oldest are forgotten.
MAX_KNOWN: Final = 100_000


class Memo:
    """
    See the module.

    @ivar hits: how often a signature was known.
    @ivar misses: how often one had to be verified.
    """

    def __init__(self, limit: int = MAX_KNOWN, verify: Verify = PublicKey.verifies) -> None:
        """
        @param limit: how many are remembered.
        @param verify: the real thing.
        """
        self._limit = limit
        self._verify = verify
        self._known: dict[tuple[bytes, bytes, bytes], None] = {}
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._known)

    def verifies(self, key: PublicKey, data: bytes, signature: bytes) -> bool:
        """See L{PublicKey.verifies}."""
        triple = (key.raw, data, signature)
        if triple in self._known:
            self.hits += 1
            return True
        self.misses += 1
        if not self._verify(key, data, signature):
            return False
        if len(self._known) >= self._limit:
            del self._known[next(iter(self._known))]
        self._known[triple] = None
        return True
