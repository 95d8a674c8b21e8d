"""
Secrets and names as text that a person can paste, or type.  Pure.

::

    text     = prefix | base32 of (data | checksum), lower case, without padding
    checksum = first 4 bytes of SHA-256("meshkit/text/1" | prefix | data)

The prefix says what it is and in which version.  Case and surrounding space do not matter;
otherwise each data has one text.  A letter that was misread is found with all but one chance
in four thousand million.
"""

from __future__ import annotations

import base64
import binascii
from hashlib import sha256
from typing import Final

from attrs import frozen

CHECKSUM_BYTES: Final = 4

_DOMAIN: Final = b"meshkit/text/1"


@frozen
class TextForm:
    """
    One kind of text.

    @ivar prefix: C{mk...1-}, in lower case.
    @ivar data_bytes: how long the data is.
    """

    prefix: str
    data_bytes: int

    def write(self, data: bytes) -> str:
        """@return: the text."""
        if len(data) != self.data_bytes:
            raise ValueError(f"what {self.prefix} stands for has {self.data_bytes} bytes")
        return write_any(self.prefix, data)

    def recognises(self, text: str) -> bool:
        """Does a text begin as those of this kind?"""
        return text.strip().lower().startswith(self.prefix)

    def read(self, text: str) -> bytes:
        """
        @return: the data.
        @raise ValueError: if it is not such a text, saying why and not showing it.
        """
        length = -(-8 * (self.data_bytes + CHECKSUM_BYTES) // 5)
        behind = len(text.strip()) - len(self.prefix)
        if self.recognises(text) and behind != length:
            raise ValueError(
                f"it has {behind} characters behind {self.prefix} instead of {length}: copy "
                f"the whole text"
            )
        return read_any(self.prefix, text)


def write_any(prefix: str, data: bytes) -> str:
    """@return: the text of a kind whose data may have any length."""
    encoded = base64.b32encode(data + _checksum(prefix, data)).decode("ascii")
    return prefix + encoded.rstrip("=").lower()


def read_any(prefix: str, text: str) -> bytes:
    """
    Read what L{write_any} wrote.

    @return: the data.
    @raise ValueError: if it is not such a text, saying why and not showing it.
    """
    stripped = text.strip().lower()
    if not stripped.startswith(prefix):
        raise ValueError(f"it does not begin with {prefix}")
    body = stripped[len(prefix) :].upper()
    try:
        both = base64.b32decode(body + "=" * (-len(body) % 8))
    except (binascii.Error, ValueError):
        raise ValueError(
            "it has a character that does not belong there, or is cut off: copy the whole text"
        ) from None
    data = both[:-CHECKSUM_BYTES]
    # Compared as text, with its checksum: the last character has bits that stand for nothing.
    if write_any(prefix, data) != stripped:
        raise ValueError("it is misspelt or cut off: copy the whole text")
    return data


def _checksum(prefix: str, data: bytes) -> bytes:
    return sha256(_DOMAIN + prefix.encode("ascii") + data).digest()[:CHECKSUM_BYTES]
