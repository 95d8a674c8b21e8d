"""
A name for each request, by which its answer and its lines in the log find each other.

A client that has a name already, because it comes from somewhere else, sends it as
C{X-Request-Id}; others are given one.  The answer says which it is in the same header.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random
from typing import Final

HEADER: Final = b"X-Request-Id"

#: What a client may call its request: it stands in headers and in the log.
_SANE: Final = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_PREFIX_BYTES: Final = 5


class RequestIds:
    """Makes names: a random part that is this node's since its start, and a number."""

    def __init__(self, rng: Random) -> None:
        self._prefix = rng.randbytes(_PREFIX_BYTES).hex()
        self._count = 0

    def new(self) -> str:
        """@return: a name that was not given before."""
        self._count += 1
        return f"{self._prefix}-{self._count}"

    def of(self, given: Sequence[bytes]) -> str:
        """
        @param given: the values of the header, as the client sent them.
        @return: the client's name, if it has given one that can be used, or a new one.
        """
        if len(given) == 1 and _SANE.fullmatch(given[0]):
            return given[0].decode("ascii")
        return self.new()
