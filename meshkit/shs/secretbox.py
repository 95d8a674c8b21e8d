"""
XSalsa20-Poly1305 within buffers: libsodium's C{crypto_secretbox_easy}, without copies.

A I{sealed} text is a MAC of L{MAC_BYTES} and the encrypted text, of the length of the
plain one.  Both L{InPlace} functions work on parts of buffers that are I{held}: while
they are, C functions may write into them, and Python refuses to resize them
(C{BufferError}), so that no pointer outlives its memory.

There are two ways to the same bytes.  L{NATIVE} calls libsodium as PyNaCl has bound it,
in C{nacl._sodium}, and lets it read and write the buffers themselves.  That module is
private to PyNaCl and may change: this is the one place that uses it, and only if it
gives a known answer when this module is imported.  L{PORTABLE} uses the public
C{nacl.bindings}, which copy each text several times.  L{BEST} is the one to use.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, Final, Protocol

from nacl import bindings
from nacl.exceptions import CryptoError

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 24
MAC_BYTES: Final = 16

_PRIVATE: Final = "nacl._sodium"
_NACL_ERRORS: Final = (CryptoError, RuntimeError, ValueError)


class InPlace(Protocol):
    """
    A way to seal and to open within buffers.

    All offsets and sizes have to lie within the buffers, a key has L{KEY_BYTES} and a
    nonce L{NONCE_BYTES}: the caller sees to that, nothing here checks it.
    """

    def hold(self, buffer: bytes | bytearray) -> AbstractContextManager[Any]:
        """
        Make a buffer usable for C{seal} and C{open}, and keep it from being resized.
        What the context gives must not be used after it.
        """

    def seal(
        self, plain: Any, start: int, size: int, into: Any, at: int, nonce: bytes, key: bytes
    ) -> None:
        """
        Seal C{plain[start:start + size]}; write it to C{into[at:at + MAC_BYTES + size]}.

        The two may be parts of one buffer, and then may overlap.
        """

    def open(self, buffer: Any, start: int, size: int, to: int, nonce: bytes, key: bytes) -> bool:
        """
        Open the sealed text C{buffer[start:start + MAC_BYTES + size]}; write what it says
        to C{buffer[to:to + size]}, which may overlap it.

        @param size: that of the plain text.
        @return: C{False} if it does not open; the buffer is as it was.
        """


class _Native:
    """L{InPlace} by libsodium itself."""

    def __init__(self, sodium: Any) -> None:
        self._from_buffer = sodium.ffi.from_buffer
        self._kind = sodium.ffi.typeof("unsigned char[]")
        self._seal = sodium.lib.crypto_secretbox_easy
        self._open = sodium.lib.crypto_secretbox_open_easy

    def hold(self, buffer: bytes | bytearray) -> AbstractContextManager[Any]:
        held: AbstractContextManager[Any] = self._from_buffer(self._kind, buffer)
        return held

    def seal(
        self, plain: Any, start: int, size: int, into: Any, at: int, nonce: bytes, key: bytes
    ) -> None:
        if self._seal(into + at, plain + start, size, nonce, key) != 0:
            raise RuntimeError("libsodium refuses to seal a text")

    def open(self, buffer: Any, start: int, size: int, to: int, nonce: bytes, key: bytes) -> bool:
        opened: int = self._open(buffer + to, buffer + start, MAC_BYTES + size, nonce, key)
        return opened == 0

    def __repr__(self) -> str:
        return "<secretbox, native>"


class _Portable:
    """L{InPlace} by the public functions of PyNaCl."""

    def hold(self, buffer: bytes | bytearray) -> AbstractContextManager[Any]:
        return memoryview(buffer)

    def seal(
        self, plain: Any, start: int, size: int, into: Any, at: int, nonce: bytes, key: bytes
    ) -> None:
        sealed = bindings.crypto_secretbox(bytes(plain[start : start + size]), nonce, key)
        into[at : at + MAC_BYTES + size] = sealed

    def open(self, buffer: Any, start: int, size: int, to: int, nonce: bytes, key: bytes) -> bool:
        sealed = bytes(buffer[start : start + MAC_BYTES + size])
        try:
            buffer[to : to + size] = bindings.crypto_secretbox_open(sealed, nonce, key)
        except _NACL_ERRORS:
            return False
        return True

    def __repr__(self) -> str:
        return "<secretbox, portable>"


#: The known answer: that of C{tests/secretbox.c} in NaCl (D. J. Bernstein).
_KEY: Final = bytes.fromhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
_NONCE: Final = bytes.fromhex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")
_PLAIN: Final = bytes.fromhex(
    "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffc"
    "e5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f41db66cce314adb31"
    "0e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde"
    "048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f93776384864"
    "5e0705"
)
_SEALED: Final = bytes.fromhex(
    "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce"
    "48332ea7164d96a4476fb8c531a1186ac0dfc17c98dce87b4da7f011ec48c972"
    "71d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae"
    "90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b3"
    "7973f622a43d14a6599b1f654cb45a74e355a5"
)


def _answers(box: InPlace) -> bool:
    """Does it seal and open as the box stream will ask it to: in place, and overlapping?"""
    size = len(_PLAIN)
    buffer = bytearray(MAC_BYTES) + _PLAIN
    with box.hold(buffer) as held:
        box.seal(held, MAC_BYTES, size, held, 0, _NONCE, _KEY)
        sealed = bytes(buffer)
        opened = box.open(held, 0, size, MAC_BYTES // 2, _NONCE, _KEY)
    plain = buffer[MAC_BYTES // 2 : MAC_BYTES // 2 + size]
    changed = bytearray(sealed)
    changed[-1] ^= 1
    with box.hold(changed) as held:
        refused = not box.open(held, 0, size, 0, _NONCE, _KEY)
    return opened and refused and sealed == _SEALED and plain == _PLAIN


def find_native(module: str = _PRIVATE) -> InPlace | None:
    """
    @param module: where PyNaCl has its bindings of libsodium.
    @return: L{None} if it is not there, or is not what it was when this was written.
    """
    try:
        native = _Native(import_module(module))
        return native if _answers(native) else None
    except (ImportError, AttributeError, TypeError, ValueError, RuntimeError):
        return None


PORTABLE: Final[InPlace] = _Portable()
#: L{None} where PyNaCl's private module is not as expected.
NATIVE: Final[InPlace | None] = find_native()
BEST: Final[InPlace] = NATIVE or PORTABLE
