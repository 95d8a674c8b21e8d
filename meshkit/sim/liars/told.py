"""
What liars have told, so that it can be looked for where it must not be.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any, Final

import msgspec
from attrs import frozen

__all__ = ["KEPT", "Lie", "Told"]

#: Texts, and places in feeds, that are remembered of one liar; more are only counted.
KEPT: Final = 10_000


@frozen
class Lie:
    """
    One lie about a message.

    @ivar at_ns: when it was told first, in the world's time.
    @ivar way: how, in one of the ways of its kind.
    @ivar author: 32-byte key of who wrote it, as the lie says.
    @ivar sequence: as the lie says.
    @ivar hash: as the lie says, 64 hex digits.
    @ivar text: the message as it was sent.
    """

    at_ns: int
    way: str
    author: bytes
    sequence: int
    hash: str
    text: bytes

    @property
    def content(self) -> Any:
        """What it says."""
        return msgspec.json.decode(self.text)["content"]


class Told:
    """
    The lies of one liar.  A lie counts when it has gone out to somebody.

    @ivar ways: how often it has lied, by way.
    @ivar forged: texts that no author has signed as they are, in the order in which they
        were told first.  No node may ever store or show one.
    @ivar forks: (author, sequence) -> the hashes of messages that their author has signed
        for one place, by what was told.  Once both have met, no node may take one of them,
        or what is after it, for valid.
    """

    def __init__(self) -> None:
        self.ways: Counter[str] = Counter()
        self.forged: list[Lie] = []
        self.forks: dict[tuple[bytes, int], tuple[str, ...]] = {}
        self._texts: dict[bytes, None] = {}
        self._branches: dict[tuple[bytes, int], tuple[str, ...]] = {}

    def __len__(self) -> int:
        """How many lies it has told."""
        return sum(self.ways.values())

    def forge(self, lie: Lie) -> None:
        """Somebody was sent a message that its author has not signed."""
        key = _digest(lie.text)
        if key not in self._texts and len(self._texts) < KEPT:
            self._texts[key] = None
            self.forged.append(lie)

    def branch(self, author: bytes, sequence: int, digest: str) -> bool:
        """
        Somebody was sent a message that its author has signed.

        @return: is it another one than somebody was sent for that place?
        """
        place = author, sequence
        known = self._branches.get(place, ())
        if digest in known or (not known and len(self._branches) >= KEPT):
            return False
        self._branches[place] = known = (*known, digest)
        if len(known) == 1:
            return False
        self.forks[place] = known
        return True

    def is_forged(self, text: bytes) -> bool:
        """Is this text, byte for byte, one of L{forged}?"""
        return _digest(text) in self._texts


def _digest(text: bytes) -> bytes:
    return hashlib.sha256(text).digest()
