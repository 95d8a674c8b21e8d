"""
Both ends of a transfer (see L{tests.bench.peers}) as protocols: over any transport of
Twisted, and, for the ceiling, with nothing but libsodium between them and TCP.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final

from nacl._sodium import ffi, lib
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol
from zope.interface import implementer

COUNT_BYTES: Final = 8
ALL_THERE: Final = b"!"


class Sink(Protocol):
    """Counts what it receives."""

    transport: Any

    def __init__(self) -> None:
        self._head = b""
        self._left = 0

    def dataReceived(self, data: bytes) -> None:
        if self._left:
            self._count(len(data))
            return
        self._head += data
        if len(self._head) >= COUNT_BYTES:
            head, self._head = self._head, b""
            self._left = int.from_bytes(head[:COUNT_BYTES], "big")
            self._count(len(head) - COUNT_BYTES)

    def _count(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise RuntimeError("more came than was announced")
        if self._left == 0:
            self.transport.write(ALL_THERE)


@implementer(IPushProducer)
class Sender(Protocol):
    """Writes as fast as the transport lets it, and no faster."""

    transport: Any

    def __init__(self) -> None:
        self._piece = b""
        self._left = 0
        self._paused = False
        self._arrived: Deferred[None] | None = None

    def send(self, count: int, write: int) -> Deferred[None]:
        """
        @param count: bytes in all, a multiple of C{write}.
        @return: fires when the other side has them.
        """
        self._piece = Random(1).randbytes(write)
        self._left = count
        self._paused = False
        self._arrived = Deferred()
        self._write(count.to_bytes(COUNT_BYTES, "big"))
        self.transport.registerProducer(self, True)
        if not self._paused:
            self.resumeProducing()
        return self._arrived

    def _write(self, data: bytes) -> None:
        self.transport.write(data)

    def resumeProducing(self) -> None:
        self._paused = False
        piece = self._piece
        while self._left and not self._paused:
            self._left -= len(piece)
            self._write(piece)
        if not self._left:
            self.transport.unregisterProducer()

    def pauseProducing(self) -> None:
        self._paused = True

    def stopProducing(self) -> None:
        self._left = 0

    def dataReceived(self, data: bytes) -> None:
        arrived, self._arrived = self._arrived, None
        if arrived is not None:
            arrived.callback(None)


# --- the ceiling -----------------------------------------------------------------------

BODY: Final = 4096
_COLLECT: Final = 64 * 1024
_MAC: Final = 16
_LENGTH: Final = 2
_HEADER: Final = _LENGTH + _MAC
_OVERHEAD: Final = _MAC + _HEADER
_KEY: Final = bytes(range(32))


class BareSender(Sender):
    """
    What a box stream cannot do without: two calls of libsodium for each box.  Boxes are as
    full as what is written in one go fills them.  It knows no handshake, and its key is no
    secret.
    """

    def __init__(self) -> None:
        super().__init__()
        self._nonce = 0
        self._written: list[bytes] = []
        self._size = 0

    def _write(self, data: bytes) -> None:
        self._written.append(data)
        self._size += len(data)
        if self._size >= _COLLECT:
            self._flush()

    def resumeProducing(self) -> None:
        super().resumeProducing()
        self._flush()

    def _flush(self) -> None:
        data = self._written[0] if len(self._written) == 1 else b"".join(self._written)
        self._written.clear()
        self._size = 0
        if data:
            self.transport.write(self._boxes(data))

    def _boxes(self, data: bytes) -> bytes:
        count = -(-len(data) // BODY)
        out = bytearray(len(data) + count * _OVERHEAD)
        target, source = ffi.from_buffer(out), ffi.from_buffer(data)
        at = 0
        for start in range(0, len(data), BODY):
            size = min(BODY, len(data) - start)
            header_nonce = self._nonce.to_bytes(24, "big")
            body_nonce = (self._nonce + 1).to_bytes(24, "big")
            self._nonce += 2
            # The MAC comes to lie where the header goes, which then carries it.
            sealed = at + _HEADER
            lib.crypto_secretbox_easy(target + sealed, source + start, size, body_nonce, _KEY)
            header = size.to_bytes(_LENGTH, "big") + out[sealed : sealed + _MAC]
            lib.crypto_secretbox_easy(target + at, header, _HEADER, header_nonce, _KEY)
            at += _OVERHEAD + size
        return bytes(out)


class BareSink(Sink):
    """The other end of L{BareSender}: it opens each box where it lies, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self._nonce = 0
        self._buffer = bytearray()
        self._header = bytearray(_HEADER)
        self._body: int | None = None  # of the box whose header was opened

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        buffer, header = ffi.from_buffer(self._buffer), ffi.from_buffer(self._header)
        at, end, counted = 0, len(self._buffer), 0
        while end - at >= _OVERHEAD:
            if self._body is None:
                self._open(header, buffer + at, _OVERHEAD)
                self._body = int.from_bytes(self._header[:_LENGTH], "big")
            if end - at < _OVERHEAD + self._body:
                break
            sealed, body = at + _HEADER, at + _OVERHEAD
            self._buffer[sealed:body] = self._header[_LENGTH:]
            self._open(buffer + body, buffer + sealed, _MAC + self._body)
            at = body + self._body
            if self._left == 0:
                # With the count of bytes.
                super().dataReceived(bytes(self._buffer[body:at]))
            else:
                counted += self._body
            self._body = None
        # A bytearray that somebody looks into cannot be made shorter.
        ffi.release(buffer)
        del self._buffer[:at]
        if counted:
            self._count(counted)

    def _open(self, target: Any, box: Any, size: int) -> None:
        nonce = self._nonce.to_bytes(24, "big")
        self._nonce += 1
        if lib.crypto_secretbox_open_easy(target, box, size, nonce, _KEY) != 0:
            raise RuntimeError("a box does not open")
