"""
The box stream of Secure Scuttlebutt: authenticated encryption after a handshake.

Source: Scuttlebutt Protocol Guide, "Box stream".  Bytes travel in boxes::

    header box, 34 bytes                          body, 0 to 4096 bytes
    +----------------+-------------------------+  +----------------------+
    | MAC of header  | length u16 | MAC of body|  | encrypted body       |
    |     16         |     2      |     16     |  |       length         |
    +----------------+-------------------------+  +----------------------+
                      encrypted, nonce n           encrypted, nonce n + 1

Both are XSalsa20-Poly1305; the nonce is a 24-byte big-endian counter that wraps and
grows by two a box.  A header of eighteen zero bytes is the I{goodbye}: a stream that
ends without one was cut off.

A key lasts as long as its connection.  Redial after 24 h or 1 TiB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from attrs import frozen
from nacl import bindings
from nacl.exceptions import CryptoError

from meshkit.errors import FrameTooLarge, StreamError, TamperedStream

#: The largest body of a box.
MAX_BODY: Final = 4096

MAC_BYTES: Final = 16
_LENGTH_BYTES: Final = 2
_HEADER_BYTES: Final = _LENGTH_BYTES + MAC_BYTES
#: What each box adds to its body.
OVERHEAD: Final = MAC_BYTES + _HEADER_BYTES

_GOODBYE: Final = bytes(_HEADER_BYTES)

_NONCE_BYTES: Final = 24
_NONCE_WRAP: Final = 1 << (8 * _NONCE_BYTES)

#: L{Unboxer.read} gives at most about this much at a time.
READ_SIZE: Final = 64 * 1024

_NACL_ERRORS: Final = (CryptoError, RuntimeError, ValueError)


class Half:
    """One direction: a key and a nonce that is never used twice."""

    def __init__(self, key: bytes, nonce: bytes) -> None:
        if len(key) != bindings.crypto_secretbox_KEYBYTES or len(nonce) != _NONCE_BYTES:
            raise ValueError("a box stream needs a key of 32 bytes and a nonce of 24")
        self._key = key
        self._counter = int.from_bytes(nonce, "big")

    def _next_nonce(self) -> bytes:
        nonce = self._counter.to_bytes(_NONCE_BYTES, "big")
        self._counter = (self._counter + 1) % _NONCE_WRAP
        return nonce

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class Boxer(Half):
    """
    The sending direction.

    @ivar ended: the goodbye was made, nothing may follow.
    """

    ended = False

    def box(self, data: bytes) -> bytes:
        """
        Encrypt bytes, filling boxes of L{MAX_BODY}.  No bytes make no box.

        @raise RuntimeError: after the goodbye.
        """
        if self.ended:
            raise RuntimeError("nothing can be sent after the goodbye")
        boxes = []
        for start in range(0, len(data), MAX_BODY):
            body = data[start : start + MAX_BODY]
            header_nonce = self._next_nonce()
            sealed = bindings.crypto_secretbox(body, self._next_nonce(), self._key)
            header = len(body).to_bytes(_LENGTH_BYTES, "big") + sealed[:MAC_BYTES]
            boxes.append(bindings.crypto_secretbox(header, header_nonce, self._key))
            boxes.append(sealed[MAC_BYTES:])
        return b"".join(boxes)

    def goodbye(self) -> bytes:
        """@return: the end of the stream, 34 bytes."""
        if self.ended:
            raise RuntimeError("the goodbye was said already")
        self.ended = True
        return bindings.crypto_secretbox(_GOODBYE, self._next_nonce(), self._key)


class Unboxer(Half):
    """
    The receiving direction: L{feed} it with bytes as they come, L{read} what they say.

    Nothing is opened before it is asked for, so a receiver that pauses leaves what it
    has not read encrypted; C{pending} tells how much that is.

    @ivar ended: the goodbye was read.  What follows it is ignored: nobody vouches
        for it.
    """

    ended = False

    def __init__(self, key: bytes, nonce: bytes) -> None:
        super().__init__(key, nonce)
        self._buffer = bytearray()
        self._offset = 0
        # From an opened header whose body is not all here: its length and MAC.
        self._body: tuple[int, bytes] | None = None
        self._error: StreamError | None = None

    @property
    def pending(self) -> int:
        """How many received bytes have not been read."""
        return len(self._buffer) - self._offset

    def feed(self, data: bytes) -> None:
        """Take the next bytes, in pieces of any size."""
        if not self.ended and self._error is None:
            self._buffer += data

    def read(self) -> bytes:
        """
        Open the boxes that are complete, until about L{READ_SIZE} bytes are together.

        @return: what they contain; nothing if more has to arrive, or at the L{ended}.
        @raise TamperedStream: a box does not open.  What came before it was given out.
        @raise FrameTooLarge: a header announces more than L{MAX_BODY}.  It is refused
            before its body is waited for.
        """
        bodies: list[bytes] = []
        size = 0
        try:
            while size < READ_SIZE and self._error is None:
                body = self._next_body()
                if body is None:
                    break
                bodies.append(body)
                size += len(body)
        except StreamError as error:
            self._error = error
            self._buffer.clear()
            self._offset = 0
        if self._error is not None and not bodies:
            raise self._error
        # Once per read rather than per box: deleting from the front moves the rest.
        if self._offset:
            del self._buffer[: self._offset]
            self._offset = 0
        return b"".join(bodies)

    def _take(self, size: int) -> bytes | None:
        if self.pending < size:
            return None
        start = self._offset
        self._offset += size
        return bytes(self._buffer[start : self._offset])

    def _next_body(self) -> bytes | None:
        if self.ended:
            return None
        if self._body is None:
            box = self._take(OVERHEAD)
            if box is None:
                return None
            header = self._open(box, "the header of a box")
            if header == _GOODBYE:
                self.ended = True
                self._buffer.clear()
                self._offset = 0
                return None
            length = int.from_bytes(header[:_LENGTH_BYTES], "big")
            if length > MAX_BODY:
                raise FrameTooLarge(
                    f"the peer announces a box of {length} bytes, more than the {MAX_BODY} "
                    f"that the box stream allows: it does not follow the protocol"
                )
            self._body = (length, header[_LENGTH_BYTES:])
        length, mac = self._body
        sealed = self._take(length)
        if sealed is None:
            return None
        self._body = None
        return self._open(mac + sealed, "the body of a box")

    def _open(self, box: bytes, what: str) -> bytes:
        try:
            return bindings.crypto_secretbox_open(box, self._next_nonce(), self._key)
        except _NACL_ERRORS:
            raise TamperedStream(
                f"{what} does not open: bytes were changed, lost or reordered on the way; "
                f"the connection was closed, dial again"
            ) from None


# --- what a handshake can lead to -------------------------------------------------


class Sealer(Protocol):
    """The sending direction of an encrypted stream; L{Boxer} is the model."""

    def box(self, data: bytes) -> bytes:
        """@return: what to send in order to say these bytes."""

    def goodbye(self) -> bytes:
        """@return: the end of the stream."""


class Opener(Protocol):
    """The receiving direction; L{Unboxer} is the model."""

    @property
    def ended(self) -> bool:
        """The goodbye was read."""

    @property
    def pending(self) -> int:
        """How many received bytes have not been read."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes, in pieces of any size."""

    def read(self) -> bytes:
        """
        @return: the next bytes; nothing if more has to arrive, or at the end.
        @raise StreamError: if the stream is broken.
        """


@frozen
class Stream:
    """
    How an authenticated connection is encrypted.

    @ivar sealer: makes the sending direction, given 32 bytes of key and 24 of nonce.
    @ivar opener: makes the receiving direction, likewise.
    """

    sealer: Callable[[bytes, bytes], Sealer]
    opener: Callable[[bytes, bytes], Opener]


#: What follows Secret Handshake 1.
BOX_STREAM: Final = Stream(Boxer, Unboxer)
