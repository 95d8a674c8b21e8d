"""
Erasure coding: of I{n} shares any I{k} give all others.  Pure.

Two codecs that make the same bytes.  L{ZfecCodec} calls zfec; L{PythonCodec} needs nothing
but Python, is little slower on large blocks, and judges the others.  A third one is in
L{meshkit.storage.codecs}, with the choice between them.

What is given to a codec may come from strangers, and zfec 1.6 trusts its arguments: a
number of a share that comes twice makes it loop for ever, holding the GIL, or give garbage;
numbers beyond the matrix make it read behind it; and it sorts the caller's list, even a
tuple, in place.  So everything is checked before (L{checked_blocks}, L{checked_shares}), by
every codec, and zfec is given lists of its own.  That the shares are the true ones is not
for a code to know: what was recovered has to be compared with a hash.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from zope.interface import implementer

from meshkit.errors import CodecUnavailable, SchemeInvalid, SharesInvalid
from meshkit.interfaces import IErasureCode, IErasureCodec
from meshkit.storage.galois import MAX_SHARES, coefficients, multiples

__all__ = [
    "Block",
    "PythonCode",
    "PythonCodec",
    "ZfecCode",
    "ZfecCodec",
    "check_shape",
    "checked_blocks",
    "checked_shares",
    "checked_wanted",
    "measure",
]

Block = bytes | bytearray | memoryview


def check_shape(required: int, total: int) -> None:
    """@raise SchemeInvalid: if no code has this shape."""
    if not 1 <= required <= total <= MAX_SHARES:
        raise SchemeInvalid(
            f"there is no code of {total} shares of which {required} suffice: at least 1 has to "
            f"be required, and there are at most {MAX_SHARES}"
        )


def measure(block: Block) -> int:
    """@return: bytes of a block; a C{memoryview} may count in other units."""
    return block.nbytes if isinstance(block, memoryview) else len(block)


def checked_blocks(required: int, blocks: Sequence[Block]) -> int:
    """
    @return: the length that all blocks have, in bytes.
    @raise SharesInvalid: if there are not as many as are required, or the lengths differ.
    """
    if len(blocks) != required:
        raise SharesInvalid(f"{len(blocks)} shares were given where {required} are needed")
    length = measure(blocks[0])
    if any(measure(block) != length for block in blocks):
        raise SharesInvalid(
            "the shares differ in length: "
            + ", ".join(str(each) for each in sorted({measure(block) for block in blocks}))
            + " bytes"
        )
    return length


def checked_shares(
    required: int, total: int, blocks: Sequence[Block], numbers: Sequence[int]
) -> int:
    """
    As L{checked_blocks}, for shares of any number.

    @raise SharesInvalid: also if a number is missing, there is no such share, or one
        stands there twice.
    """
    length = checked_blocks(required, blocks)
    if len(numbers) != required:
        raise SharesInvalid(f"{required} shares were given, and {len(numbers)} numbers of shares")
    checked_wanted(total, numbers)
    if len(set(numbers)) != required:
        twice = next(number for number in numbers if list(numbers).count(number) > 1)
        raise SharesInvalid(f"share {twice} was given twice: {required} different ones are needed")
    return length


def checked_wanted(total: int, wanted: Sequence[int]) -> None:
    """@raise SharesInvalid: if there is no share of one of these numbers."""
    for number in wanted:
        # A float or a bool may be equal to a number and is none.
        if type(number) is not int or not 0 <= number < total:
            raise SharesInvalid(f"there is no share {number!r}: they go from 0 to {total - 1}")


# --- zfec --------------------------------------------------------------------------


@implementer(IErasureCodec)
class ZfecCodec:
    """The codec of which the bytes are."""

    name = "zfec"

    def __init__(self) -> None:
        """@raise CodecUnavailable: if this machine has no zfec."""
        try:
            # Not every platform has a wheel of it, and the other codecs do without.
            self._zfec: Any = import_module("zfec")
        except ImportError as e:
            raise CodecUnavailable(f"the erasure codec 'zfec' cannot be imported: {e}") from e

    def code(self, required: int, total: int) -> ZfecCode:
        return ZfecCode(self._zfec, required, total)


@implementer(IErasureCode)
class ZfecCode:
    """
    zfec, never called with what it does not survive.

    Its objects hold a matrix and nothing that a call changes, so threads can share them.
    """

    def __init__(self, zfec: Any, required: int, total: int) -> None:
        """
        @param zfec: the module.
        @raise SchemeInvalid: if there is no such code.
        """
        check_shape(required, total)
        self.required = required
        self.total = total
        self._encoder: Any = zfec.Encoder(required, total)
        self._decoder: Any = zfec.Decoder(required, total)

    def encode(self, blocks: Sequence[Block]) -> list[bytes]:
        checked_blocks(self.required, blocks)
        return self._secondary(blocks, range(self.required, self.total))

    def recover(
        self, blocks: Sequence[Block], numbers: Sequence[int], wanted: Sequence[int]
    ) -> list[Block]:
        checked_shares(self.required, self.total, blocks, numbers)
        checked_wanted(self.total, wanted)
        # Lists of our own: zfec reorders the ones that it is given.
        primary = self._decoder.decode(list(blocks), list(numbers))
        further = sorted({number for number in wanted if number >= self.required})
        made = dict(zip(further, self._secondary(primary, further), strict=True))
        return [made[each] if each in made else primary[each] for each in wanted]

    def _secondary(self, primary: Sequence[Block], numbers: Sequence[int]) -> list[bytes]:
        made: list[bytes] = self._encoder.encode(tuple(primary), tuple(numbers))
        return made


# --- Python ------------------------------------------------------------------------


@implementer(IErasureCodec)
class PythonCodec:
    """The codec that says what the bytes have to be."""

    name = "python"

    def code(self, required: int, total: int) -> PythonCode:
        return PythonCode(required, total)


@implementer(IErasureCode)
class PythonCode:
    """
    Sums of products, a whole block at a time: C{bytes.translate} multiplies, the exclusive
    or of large integers adds.
    """

    def __init__(self, required: int, total: int) -> None:
        """@raise SchemeInvalid: if there is no such code."""
        check_shape(required, total)
        self.required = required
        self.total = total

    def encode(self, blocks: Sequence[Block]) -> list[bytes]:
        length = checked_blocks(self.required, blocks)
        primary = range(self.required)
        return [
            _sum_of_products(coefficients(primary, number), blocks, length)
            for number in range(self.required, self.total)
        ]

    def recover(
        self, blocks: Sequence[Block], numbers: Sequence[int], wanted: Sequence[int]
    ) -> list[bytes]:
        length = checked_shares(self.required, self.total, blocks, numbers)
        checked_wanted(self.total, wanted)
        return [
            _sum_of_products(coefficients(numbers, number), blocks, length) for number in wanted
        ]


def _sum_of_products(factors: bytes, blocks: Sequence[Block], length: int) -> bytes:
    total = 0
    for factor, block in zip(factors, blocks, strict=True):
        if factor:
            total ^= int.from_bytes(bytes(block).translate(multiples(factor)), "little")
    return total.to_bytes(length, "little")
