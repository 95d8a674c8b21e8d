"""
The share files of the program C{zfec}.  Pure.

Data that is kept as such files can be read without meshkit: C{zunfec} makes the file again
out of any I{k} of them.  They are neither encrypted nor protected: the format has no
checksums, so a share that was changed is found only if there are more than I{k}, and then
nobody knows which one it was.  For keeping data with strangers it is no use.

A file is a header, then the share::

    total - 1 (8 bits) | required - 1 | padding | number of the share | zeros to a whole byte

where C{required - 1} and the number take as many bits as are needed to count to C{total}, and
the padding as many as for C{required}.  The data is cut into stripes of I{k} pieces of 4,096
bytes.  A piece of the last stripe has an I{k}-th of what is left, zeros being added to the
end to make that whole: that is the padding.  Piece I{i} of each stripe goes to share I{i},
and the further shares are made of these (C{zfec/filefec.py} of zfec 1.6).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from attrs import frozen

from meshkit.errors import SharesInvalid
from meshkit.storage.erasure import Block, check_shape

__all__ = [
    "HEADER_BYTES",
    "PIECE_BYTES",
    "SUFFIX",
    "ZfecHeader",
    "decode_shares",
    "encode_shares",
    "share_name",
]

#: Of one stripe, in each share.
PIECE_BYTES: Final = 4096
#: A header has at most as many bytes.
HEADER_BYTES: Final = 4
SUFFIX: Final = ".fec"

#: Stripes that are coded in one call.
_BATCH: Final = 64


def _bits(numbers: int) -> int:
    """@return: the bits needed to tell so many numbers apart."""
    return (numbers - 1).bit_length()


def share_name(prefix: str, number: int, total: int) -> str:
    """@return: what the program calls the file of a share: C{prefix.2_5.fec}."""
    width = len(str(total))
    return f"{prefix}.{number:0{width}}_{total:0{width}}{SUFFIX}"


@frozen
class ZfecHeader:
    """
    What stands before a share.

    @ivar required: how many shares suffice.
    @ivar total: how many there are.
    @ivar padding: zeros at the end of the data that are not part of it.
    @ivar number: of this share, from 0.
    """

    required: int
    total: int
    padding: int
    number: int

    def encode(self) -> bytes:
        """@return: 2 to L{HEADER_BYTES} bytes."""
        fields = (
            (self.total - 1, 8),
            (self.required - 1, _bits(self.total)),
            (self.padding, _bits(self.required)),
            (self.number, _bits(self.total)),
        )
        value = width = 0
        for each, bits in fields:
            value, width = value << bits | each, width + bits
        length = self._length(self.required, self.total)
        return (value << 8 * length - width).to_bytes(length, "big")

    @staticmethod
    def _length(required: int, total: int) -> int:
        width = 8 + 2 * _bits(total) + _bits(required)
        # The program writes 2 bytes where one would do (of 1 share, 1 is required).
        return max(2, -(-width // 8))

    @classmethod
    def parse(cls, start: bytes) -> tuple[ZfecHeader, int]:
        """
        @param start: L{HEADER_BYTES} bytes of a file, or all there are.
        @return: the header, and how many bytes it has.
        @raise SharesInvalid: if this is no such file.
        """
        if len(start) < 2:
            raise SharesInvalid("a share file of zfec is cut off within its header")
        total = start[0] + 1
        required = (start[1] >> 8 - _bits(total)) + 1
        if required > total:
            raise SharesInvalid(f"this is no share file of zfec: it needs {required} of {total}")
        length = cls._length(required, total)
        if len(start) < length:
            raise SharesInvalid("a share file of zfec is cut off within its header")
        value = int.from_bytes(start[:length], "big")
        left = 8 * length - 8 - _bits(total)
        found = []
        for bits in (_bits(required), _bits(total)):
            left -= bits
            found.append(value >> left & (1 << bits) - 1)
        padding, number = found
        # Bits that are not used are left alone, as the program does.
        if padding >= required or number >= total:
            raise SharesInvalid(
                f"this is no share file of zfec: it would be share {number} of {total} with "
                f"{padding} bytes too many for {required}"
            )
        return cls(required, total, padding, number), length


# --- data to shares ----------------------------------------------------------------


def encode_shares(
    codec: Any, required: int, total: int, size: int, chunks: Iterable[Block]
) -> Iterator[list[bytes]]:
    """
    Cut data into shares, with memory for a few hundred kilobytes of each.

    @param codec: L{meshkit.interfaces.IErasureCodec}.
    @param size: bytes of the data.  The headers, which come first, depend on it.
    @param chunks: the data, in pieces of any length.
    @return: again and again, what is to be written to each of the C{total} files next.
    @raise SchemeInvalid: if there is no such code.
    @raise SharesInvalid: when there is more or less data than was said.
    """
    check_shape(required, total)
    code = codec.code(required, total)
    padding = -size % required
    yield [ZfecHeader(required, total, padding, number).encode() for number in range(total)]
    stripe = required * PIECE_BYTES
    waiting, seen = bytearray(), 0
    for chunk in chunks:
        waiting += chunk
        seen += len(chunk)
        if seen > size:
            break
        while len(waiting) >= _BATCH * stripe:
            yield _shares(code, bytes(waiting[: _BATCH * stripe]), PIECE_BYTES)
            del waiting[: _BATCH * stripe]
    if seen != size:
        raise SharesInvalid(
            f"the data has {'more than' if seen > size else 'only'} {min(seen, size)} bytes, and "
            f"{size} were announced: did it change meanwhile?"
        )
    whole = len(waiting) - len(waiting) % stripe
    if whole:
        yield _shares(code, bytes(waiting[:whole]), PIECE_BYTES)
    rest = bytes(waiting[whole:])
    if rest:
        yield _shares(code, rest + bytes(padding), -(-len(rest) // required))


def _shares(code: Any, data: bytes, piece: int) -> list[bytes]:
    """@param data: whole stripes of pieces of this length."""
    required = code.required
    primary = [
        b"".join(data[at : at + piece] for at in range(first, len(data), required * piece))
        for first in range(0, required * piece, piece)
    ]
    return [*primary, *code.encode(primary)]


# --- shares to data ----------------------------------------------------------------


def decode_shares(
    codec: Any,
    headers: Sequence[ZfecHeader],
    batches: Iterable[Sequence[bytes]],
) -> Iterator[bytes]:
    """
    Make data out of shares.  With more than are required, the others are compared.

    @param headers: of the shares that there are.
    @param batches: again and again, what comes next in each of these shares after its
        header, the same whole number of L{PIECE_BYTES} for all of them; less at the end.
    @return: the data, piece by piece.
    @raise SharesInvalid: if they do not belong together, one is there twice, there are too
        few, they differ in length, or one of them was changed.
    """
    if not headers:
        raise SharesInvalid("there are no shares")
    form = _common(headers)
    required, numbers = form.required, [header.number for header in headers]
    if len(set(numbers)) != len(numbers):
        twice = next(number for number in numbers if numbers.count(number) > 1)
        raise SharesInvalid(f"share {twice} was given twice: {required} different ones are needed")
    if len(numbers) < required:
        raise SharesInvalid(f"there are {len(numbers)} shares, and {required} are needed")
    code = codec.code(required, form.total)
    # What is at hand anyway is not computed.
    ordered = sorted(range(len(numbers)), key=lambda index: numbers[index])
    used, others = ordered[:required], ordered[required:]
    wanted = [*range(required), *(numbers[index] for index in others)]
    held = b""
    for batch in batches:
        length = len(batch[0])
        if len(batch) != len(headers) or any(len(each) != length for each in batch):
            raise SharesInvalid("the shares differ in length: one of them was cut off")
        made = code.recover(
            [batch[index] for index in used], [numbers[index] for index in used], wanted
        )
        for index, expected in zip(others, made[required:], strict=True):
            if batch[index] != expected:
                raise SharesInvalid(
                    f"the shares {', '.join(map(str, sorted(numbers)))} contradict each other: "
                    f"one of them was changed; the format cannot tell which, so leave out one "
                    f"after the other"
                )
        data = held + _interleaved(made[:required])
        # What is last is known only when nothing follows.
        keep = min(form.padding, len(data))
        held = data[len(data) - keep :]
        if len(data) > keep:
            yield data[: len(data) - keep]
    if held.strip(b"\0") or len(held) != form.padding:
        raise SharesInvalid("the shares do not end with their padding: they were cut off")


def _common(headers: Sequence[ZfecHeader]) -> ZfecHeader:
    first = headers[0]
    for header in headers:
        if (header.required, header.total, header.padding) != (
            first.required,
            first.total,
            first.padding,
        ):
            raise SharesInvalid(
                f"share {header.number} of {header.total} and share {first.number} of "
                f"{first.total} are of different files"
            )
    return first


def _interleaved(blocks: Sequence[Block]) -> bytes:
    length = len(blocks[0])
    return b"".join(
        bytes(block[at : at + PIECE_BYTES])
        for at in range(0, length, PIECE_BYTES)
        for block in blocks
    )
