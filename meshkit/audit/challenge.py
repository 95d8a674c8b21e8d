"""
What an audit asks for: leaves that neither side can choose.  Pure.

Who asks chooses a seed and says its hash first; who is asked chooses random bytes of its own
without knowing the seed; which leaves are asked for follows from both (M. Blum, "Coin flipping
by telephone", 1983)::

    commitment = SHA-256("meshkit/audit-commit/1" | seed 32)
    number_j   = the first 8 bytes, as u64be, of
                 SHA-256("meshkit/audit-index/1" | seed | r 32 | name of the share 32 | u32be j)
    leaf_j     = number_j mod leaves; a number_j of 2^64 - 2^64 mod leaves or more is passed over

for I{j} = 0, 1, 2, ... until there are L{SAMPLED} different ones; where there are no more than
that, all.  So a peer that has lost the part I{p} of a share's leaves goes unnoticed with
chance C{(1 - p)^4} in each audit, whatever it does (L{chance_to_catch}).
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

__all__ = [
    "AUDIT_ID_BYTES",
    "MAX_SHARES",
    "NONCE_BYTES",
    "SAMPLED",
    "SEED_BYTES",
    "Challenge",
    "chance_to_catch",
    "commitment",
]

#: Shares in one audit.
MAX_SHARES: Final = 1_024
#: Bytes of the id of an audit.
AUDIT_ID_BYTES: Final = 16
#: Leaves of a share that are looked at in one audit.
SAMPLED: Final = 4
#: Bytes of what who asks chooses, and of what who is asked chooses.
SEED_BYTES: Final = 32
NONCE_BYTES: Final = 32

_COMMIT: Final = b"meshkit/audit-commit/1"
_INDEX: Final = b"meshkit/audit-index/1"
_SPAN: Final = 2**64


def commitment(seed: bytes) -> bytes:
    """@return: what is said of a seed before it is shown, 32 bytes."""
    _check("seed", seed, SEED_BYTES)
    return sha256(_COMMIT + seed).digest()


class Challenge:
    """Which leaves are asked for, once both have said what they chose."""

    def __init__(self, seed: bytes, nonce: bytes) -> None:
        """
        @param seed: of who asks.
        @param nonce: of who is asked.
        """
        _check("seed", seed, SEED_BYTES)
        _check("nonce", nonce, NONCE_BYTES)
        # A copy of the beginning costs less than to hash it for each share again.
        self._state = sha256(_INDEX + seed + nonce)

    def leaves(self, name: bytes, count: int) -> list[int]:
        """
        @param name: of a share.
        @param count: how many leaves it has.
        @return: the numbers of those that are asked for, ascending.
        """
        if count <= SAMPLED:
            return list(range(count))
        state = self._state.copy()
        state.update(name)
        bound = _SPAN - _SPAN % count
        found: set[int] = set()
        step = 0
        while len(found) < SAMPLED:
            each = state.copy()
            each.update(step.to_bytes(4, "big"))
            number = int.from_bytes(each.digest()[:8], "big")
            if number < bound:
                found.add(number % count)
            step += 1
        return sorted(found)


def chance_to_catch(lost: float, audits: int = 1) -> float:
    """
    @param lost: which part of the leaves of a share is missing, 0 to 1.
    @param audits: of the share, each with its own leaves.
    @return: how likely it is that one of them finds that out, 0 to 1.  For shares with few
        leaves it is more.
    """
    return 1.0 - (1.0 - lost) ** (SAMPLED * audits)


def _check(what: str, value: bytes, length: int) -> None:
    if len(value) != length:
        raise ValueError(f"the {what} of an audit has {length} bytes, not {len(value)}")
