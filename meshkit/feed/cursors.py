"""
Cursors: where a page of a list ended, as a text to be handed back.  Pure.

A cursor holds two numbers, and a digest of them and of the list that it belongs to: the
operation, its filters, its order.  It is no secret and grants nothing.  The digest keeps
one that was cut, altered or taken from another list from being read as a place in this one.
"""

from __future__ import annotations

import binascii
import hashlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from struct import Struct
from typing import Any, Final

import msgspec

from meshkit.errors import InvalidRequest

_PLACE: Final = Struct(">qq")
_DIGEST_BYTES: Final = 11  # 27 bytes in all: base64 without padding
#: Characters of a cursor.
CURSOR_CHARS: Final = 36


def _digest(place: bytes, subject: Any) -> bytes:
    return hashlib.blake2b(
        place + msgspec.json.encode(subject), digest_size=_DIGEST_BYTES, person=b"meshkit cursor/1"
    ).digest()


def write_cursor(subject: Any, place: tuple[int, int]) -> str:
    """
    @param subject: what the list is, as JSON can say it.
    @param place: two numbers of 64 bits with a sign.
    """
    packed = _PLACE.pack(*place)
    return urlsafe_b64encode(packed + _digest(packed, subject)).decode("ascii")


def read_cursor(subject: Any, text: str) -> tuple[int, int]:
    """
    @return: the place that L{write_cursor} was given for this very subject.
    @raise InvalidRequest: if it was not.
    """
    try:
        data = urlsafe_b64decode(text.encode("ascii"))
    except (UnicodeEncodeError, binascii.Error):
        data = b""
    packed = data[: _PLACE.size]
    # The decoder takes other letters as well: plus for minus, and some that it skips.
    same = urlsafe_b64encode(data).decode("ascii") == text and len(text) == CURSOR_CHARS
    if not same or data[_PLACE.size :] != _digest(packed, subject):
        raise InvalidRequest(
            "cursor: it belongs to another list, or was altered: hand it back as it came, with "
            "the same filters, or leave it out to begin anew",
            field="cursor",
        )
    first, second = _PLACE.unpack(packed)
    return first, second
