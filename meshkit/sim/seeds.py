"""
All randomness of a world, from one seed.

Each host draws for each purpose from a stream of its own, so that one more draw here
moves nothing there: what a change of the program changes in a run stays where it is.
"""

from __future__ import annotations

from hashlib import sha256
from random import Random
from typing import Final

_SEPARATOR: Final = "\x1f"


class Seeds:
    """@ivar seed: that of the world."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def stream(self, *names: str) -> Random:
        """
        @param names: who draws, and for what.
        @return: a new stream; the same names give the same one.  Only C{random()} and
            C{getrandbits()}, on which all else rests, are the same in every version of
            Python.
        """
        text = _SEPARATOR.join([str(self.seed), *names])
        return Random(int.from_bytes(sha256(text.encode("utf-8")).digest(), "big"))
