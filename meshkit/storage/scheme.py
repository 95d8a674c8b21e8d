"""
How an object is cut: into segments, blocks and shares.  Pure.

The text of an object is cut into segments, all of one length but the last.  Each is sealed
(L{meshkit.crypto.stream}), which makes it C{required} blocks long, and cut into these
blocks; the erasure code makes C{total - required} more of them.  A share is a row of blocks,
one of each segment.

The last sealed segment may be shorter.  Its blocks are as short as they can be, with zeros
behind its end, so that a small object costs little.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Final

from attrs import field, frozen

from meshkit.crypto.merkle import LEAF_BYTES, Shape
from meshkit.crypto.stream import MAX_SEGMENTS, MAX_TEXT, TAG_BYTES
from meshkit.errors import ObjectTooLarge, SchemeInvalid

#: A share has a number of one byte, and 255 ones are a manifest of 9 KiB.
MAX_SHARES: Final = 255
MAX_BLOCK: Final = 1024 * 1024
#: A sealed segment, its shares and its text are in memory at once.
MAX_SEGMENT_BYTES: Final = 16 * 1024 * 1024

#: Up to so many required shares have blocks of L{MAX_BLOCK}, more have a quarter of that.
_FEW: Final = 16

_TEXT: Final = re.compile(r"([0-9]{1,3})\+([0-9]{1,3})")


@frozen
class Scheme:
    """
    Into what an object is cut.

    @ivar required: how many shares suffice to read it.
    @ivar total: how many there are.
    @ivar block_bytes: of every block but those of the last segment.  A multiple of
        L{LEAF_BYTES}, so that each block has leaves of its own.
    """

    required: int
    total: int
    block_bytes: int = field()

    @block_bytes.default
    def _usual_block(self) -> int:
        return MAX_BLOCK if self.required <= _FEW else MAX_BLOCK // 4

    def __attrs_post_init__(self) -> None:
        """@raise SchemeInvalid: if there is no such scheme."""
        if not 1 <= self.required <= self.total <= MAX_SHARES:
            raise SchemeInvalid(
                f"an object cannot have {self.total} shares of which {self.required} suffice: "
                f"at least 1 has to, and there are at most {MAX_SHARES}"
            )
        if not LEAF_BYTES <= self.block_bytes <= MAX_BLOCK or self.block_bytes % LEAF_BYTES:
            raise SchemeInvalid(
                f"a block cannot have {self.block_bytes} bytes: take a multiple of {LEAF_BYTES} "
                f"up to {MAX_BLOCK}"
            )
        if self.segment_bytes > MAX_SEGMENT_BYTES:
            raise SchemeInvalid(
                f"{self.required} blocks of {self.block_bytes} bytes are over the limit of "
                f"{MAX_SEGMENT_BYTES} in all: require fewer shares, or take smaller blocks"
            )

    @classmethod
    def parse(cls, text: str) -> Scheme:
        """
        Read C{6+3}: 6 shares suffice, and there are 3 more.

        @raise SchemeInvalid: if it is anything else.
        """
        found = _TEXT.fullmatch(text.strip())
        if found is None:
            raise SchemeInvalid(
                f"{text[:32]!r} is not of the form 6+3: as many shares as are required, and how "
                f"many there are besides"
            )
        required, more = (int(each) for each in found.groups())
        return cls(required, required + more)

    @property
    def text(self) -> str:
        """C{6+3}."""
        return f"{self.required}+{self.total - self.required}"

    @property
    def segment_bytes(self) -> int:
        """Bytes of a sealed segment."""
        return self.required * self.block_bytes

    @property
    def text_bytes(self) -> int:
        """Bytes of the object in a segment."""
        return self.segment_bytes - TAG_BYTES


@frozen(slots=False)
class Layout:
    """
    Where everything is in an object of one length.  Segments and shares count from 0.

    @ivar scheme: how it is cut.
    @ivar length: bytes of the object.
    """

    scheme: Scheme
    length: int = field()

    @length.validator
    def _check_length(self, _attribute: object, value: int) -> None:
        if value < 0:
            raise ValueError(f"no object has {value} bytes")
        if value > MAX_TEXT or self.segments > MAX_SEGMENTS:
            raise ObjectTooLarge(
                f"an object of {value} bytes is over the limit of {MAX_TEXT >> 40} TiB and "
                f"{MAX_SEGMENTS} segments: store it in pieces"
            )

    @property
    def segments(self) -> int:
        """How many there are: one at least."""
        return max(1, -(-self.length // self.scheme.text_bytes))

    def is_last(self, segment: int) -> bool:
        """Does the object end with this segment?"""
        self._check(segment)
        return segment == self.segments - 1

    def text_bytes(self, segment: int) -> int:
        """@return: bytes of the object in a segment."""
        if not self.is_last(segment):
            return self.scheme.text_bytes
        return self.length - segment * self.scheme.text_bytes

    def sealed_bytes(self, segment: int) -> int:
        """@return: bytes of a sealed segment, without the zeros behind it."""
        return self.text_bytes(segment) + TAG_BYTES

    def block_bytes(self, segment: int) -> int:
        """@return: bytes that a segment has in each share."""
        return -(-self.sealed_bytes(segment) // self.scheme.required)

    def block_at(self, segment: int) -> int:
        """@return: where the block of a segment begins in each share."""
        self._check(segment)
        return segment * self.scheme.block_bytes

    @cached_property
    def share_bytes(self) -> int:
        """Bytes of each share."""
        last = self.segments - 1
        return self.block_at(last) + self.block_bytes(last)

    @property
    def share_shape(self) -> Shape:
        """Of the Merkle tree of each share."""
        return Shape(self.share_bytes, LEAF_BYTES)

    @property
    def sealed_shape(self) -> Shape:
        """Of the Merkle tree of the object, whose leaves are the sealed segments."""
        return Shape(self.length + self.segments * TAG_BYTES, self.scheme.segment_bytes)

    def segments_with(self, start: int, length: int) -> range:
        """
        Which segments have these bytes of the object?

        @param start: of the bytes, which may lie beyond the end.
        @return: as far as there are such bytes.
        """
        end = min(start + length, self.length)
        if start < 0 or start >= end:
            return range(0)
        return range(start // self.scheme.text_bytes, (end - 1) // self.scheme.text_bytes + 1)

    def _check(self, segment: int) -> None:
        if not 0 <= segment < self.segments:
            raise ValueError(f"there is no segment {segment} among {self.segments}")
