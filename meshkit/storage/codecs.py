"""
Which erasure codec is used, and the fast one.

ISA-L (Intel's library, in Debian as C{libisal2}) multiplies matrices over the same field as
zfec.  Given zfec's coefficients it makes the same bytes, ten times as fast and more.  It is
not a requirement of meshkit: where it is installed it is used, after it has made the right
shares here, on this machine (L{self_test}).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes.util import find_library
from functools import lru_cache
from hashlib import shake_128
from typing import Any, Final

from zope.interface import implementer

from meshkit.errors import CodecUnavailable, SharesInvalid
from meshkit.interfaces import IErasureCode, IErasureCodec
from meshkit.storage.erasure import (
    Block,
    PythonCodec,
    ZfecCodec,
    check_shape,
    checked_blocks,
    checked_shares,
    checked_wanted,
    measure,
)
from meshkit.storage.galois import coefficients

__all__ = [
    "AUTOMATIC",
    "CODECS",
    "IsalCode",
    "IsalCodec",
    "choose_codec",
    "open_isal",
    "self_test",
]

#: The name that stands for the fastest codec that works.
AUTOMATIC: Final = "auto"

#: Bytes that ISA-L makes of one coefficient: products with low and high half bytes.
_TABLE: Final = 32
#: It counts bytes in a C{int} of C.
_MAX_LENGTH: Final = 2**31 - 1


@implementer(IErasureCodec)
class IsalCodec:
    """ISA-L, called through C{ctypes}, which releases the GIL."""

    name = "isal"

    def __init__(self, library: Any) -> None:
        """@param library: L{ctypes.CDLL}; see L{open_isal}."""
        self._init_tables = library.ec_init_tables
        self._init_tables.argtypes = [
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_char_p,
            ctypes.c_void_p,
        ]
        self._init_tables.restype = None
        self._encode_data = library.ec_encode_data
        self._encode_data.argtypes = [
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ]
        self._encode_data.restype = None

    def code(self, required: int, total: int) -> IsalCode:
        return IsalCode(self, required, total)

    def tables(self, rows: Sequence[bytes]) -> Any:
        """
        @param rows: the coefficients of each share to be made, as many in each.
        @return: them, in the form that L{multiply} takes.
        """
        made = ctypes.create_string_buffer(_TABLE * sum(map(len, rows)))
        if rows:
            self._init_tables(len(rows[0]), len(rows), b"".join(rows), made)
        return made

    def multiply(
        self, tables: Any, rows: int, blocks: Sequence[Block], length: int
    ) -> list[bytearray]:
        """
        @param tables: of this many rows, of a coefficient for each block.
        @param length: of each block, in bytes.
        @return: the sums of products, of the same length.
        """
        if length > _MAX_LENGTH:
            raise SharesInvalid(f"blocks of {length} bytes are too long for ISA-L: cut them")
        made = [bytearray(length) for _ in range(rows)]
        if rows and length:
            # The memory itself is held until the call has returned.
            sources = [_memory(block) for block in blocks]
            targets = [_memory(block) for block in made]
            self._encode_data(
                length, len(blocks), rows, tables, _addresses(sources), _addresses(targets)
            )
        return made


@implementer(IErasureCode)
class IsalCode:
    """The tables of one shape.  No call changes them."""

    def __init__(self, codec: IsalCodec, required: int, total: int) -> None:
        """@raise SchemeInvalid: if there is no such code."""
        check_shape(required, total)
        self.required = required
        self.total = total
        self._codec = codec
        primary = range(required)
        self._tables = codec.tables(
            [coefficients(primary, number) for number in range(required, total)]
        )

    def encode(self, blocks: Sequence[Block]) -> list[bytearray]:
        length = checked_blocks(self.required, blocks)
        return self._codec.multiply(self._tables, self.total - self.required, blocks, length)

    def recover(
        self, blocks: Sequence[Block], numbers: Sequence[int], wanted: Sequence[int]
    ) -> list[bytearray]:
        length = checked_shares(self.required, self.total, blocks, numbers)
        checked_wanted(self.total, wanted)
        tables = self._codec.tables([coefficients(numbers, number) for number in wanted])
        return self._codec.multiply(tables, len(wanted), blocks, length)


def _memory(block: Block) -> Any:
    """@return: a ctypes object on the memory of a block, without copying where that can be."""
    if isinstance(block, memoryview) and (block.readonly or not block.contiguous):
        # ctypes has no way to such memory but that of bytes.
        block = block.tobytes()
    if isinstance(block, bytes):
        return ctypes.c_char_p(block)
    return (ctypes.c_char * measure(block)).from_buffer(block)


def _addresses(memories: Sequence[Any]) -> Any:
    return (ctypes.c_void_p * len(memories))(*map(_address, memories))


def _address(memory: Any) -> int | None:
    if isinstance(memory, ctypes.c_char_p):
        return ctypes.cast(memory, ctypes.c_void_p).value
    # A cast of an array leaves a cycle, which keeps the block until it is collected.
    return ctypes.addressof(memory)


# --- the choice --------------------------------------------------------------------


@lru_cache(maxsize=1)
def find_isal() -> str | None:
    """
    Look once for the library: where there is none, that starts a compiler and a linker.

    @return: a name for C{dlopen}.
    """
    return find_library("isal")


def open_isal() -> Any:
    """
    Load the library of this machine.

    @raise CodecUnavailable: if it has none.
    """
    name = find_isal()
    if name is None:
        raise CodecUnavailable(
            "the erasure codec 'isal' needs the library ISA-L (Debian: apt install libisal2)"
        )
    try:
        return ctypes.CDLL(name)
    except OSError as e:
        raise CodecUnavailable(f"the library ISA-L of this machine cannot be used: {e}") from e


def _isal(load: Callable[[], Any]) -> IsalCodec:
    try:
        return IsalCodec(load())
    except AttributeError as e:
        raise CodecUnavailable(f"the library ISA-L of this machine lacks a function: {e}") from e


_MAKERS: Final[dict[str, Callable[[Callable[[], Any]], Any]]] = {
    IsalCodec.name: _isal,
    ZfecCodec.name: lambda _: ZfecCodec(),
    PythonCodec.name: lambda _: PythonCodec(),
}

#: The names of all codecs, the fastest one first.
CODECS: Final = tuple(_MAKERS)


def choose_codec(name: str = AUTOMATIC, load: Callable[[], Any] = open_isal) -> Any:
    """
    Make a codec.  The first one of a name has to show that it makes the right shares, which
    takes some milliseconds.

    @param name: one of L{CODECS}, or L{AUTOMATIC} for the first of them that works.
    @param load: gives the library ISA-L, or raises L{CodecUnavailable}.
    @return: L{IErasureCodec}.
    @raise CodecUnavailable: if there is none of this name, or it does not work here.
    """
    if name == AUTOMATIC:
        for each in CODECS[:-1]:
            try:
                return choose_codec(each, load)
            except CodecUnavailable:
                continue
        return PythonCodec()
    if name not in _MAKERS:
        known = ", ".join(CODECS)
        raise CodecUnavailable(
            f"there is no erasure codec {name!r}: choose {AUTOMATIC!r}, or one of {known}"
        )
    codec = _MAKERS[name](load)
    _show_its_work(name, load)
    return codec


@lru_cache(maxsize=8)
def _show_its_work(name: str, load: Callable[[], Any]) -> None:
    """Test a codec, unless one of this name has passed in this process."""
    self_test(_MAKERS[name](load))


#: Shapes that a codec shows its work with.  Libraries have code of its own for every few
#: rows that are made at a time, and for what is left of a length.
_SHAPES: Final = ((1, 1), (1, 3), (2, 3), (3, 5), (6, 9), (5, 9), (4, 9), (10, 16), (5, 12))
_LENGTHS: Final = (0, 1, 31, 64, 97, 1_000)


def self_test(codec: Any) -> None:
    """
    @param codec: L{IErasureCodec}.
    @raise CodecUnavailable: if it makes other shares than L{PythonCodec} does.
    """
    for required, total in _SHAPES:
        code, oracle = codec.code(required, total), PythonCodec().code(required, total)
        for length in _LENGTHS:
            blocks = [
                shake_128(bytes([required, total, number])).digest(length)
                for number in range(required)
            ]
            shares = blocks + oracle.encode(blocks)
            last = range(total - required, total)
            recovered = code.recover([shares[each] for each in last], last, range(total))
            if [*blocks, *code.encode(blocks)] != shares or recovered != shares:
                raise CodecUnavailable(
                    f"the erasure codec {codec.name!r} makes wrong shares on this machine "
                    f"({required} of {total}, {length} bytes): it is not used"
                )
