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
from typing import Any, Final, Protocol

from attrs import frozen

from meshkit.errors import FrameTooLarge, StreamError, TamperedStream
from meshkit.shs import secretbox
from meshkit.shs.secretbox import InPlace

#: The largest body of a box.
MAX_BODY: Final = 4096

MAC_BYTES: Final = secretbox.MAC_BYTES
_LENGTH_BYTES: Final = 2
_HEADER_BYTES: Final = _LENGTH_BYTES + MAC_BYTES
#: What each box adds to its body.
OVERHEAD: Final = MAC_BYTES + _HEADER_BYTES

_GOODBYE: Final = bytes(_HEADER_BYTES)

_NONCE_BYTES: Final = secretbox.NONCE_BYTES
_LAST_NONCE: Final = (1 << (8 * _NONCE_BYTES)) - 1

#: L{Unboxer.read} gives at most about this much at a time.
READ_SIZE: Final = 64 * 1024


class Half:
    """One direction: a key and a nonce that is never used twice."""

    __slots__ = ("_counter", "_key")

    def __init__(self, key: bytes, nonce: bytes) -> None:
        if len(key) != secretbox.KEY_BYTES or len(nonce) != _NONCE_BYTES:
            raise ValueError("a box stream needs a key of 32 bytes and a nonce of 24")
        self._key = key
        self._counter = int.from_bytes(nonce, "big")

    def _next_nonce(self) -> bytes:
        nonce = self._counter.to_bytes(_NONCE_BYTES, "big")
        self._counter = 0 if self._counter == _LAST_NONCE else self._counter + 1
        return nonce

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"


class Boxer(Half):
    """
    The sending direction.

    @ivar ended: the goodbye was made, nothing may follow.
    """

    __slots__ = ("_secretbox", "ended")

    def __init__(self, key: bytes, nonce: bytes, box: InPlace = secretbox.BEST) -> None:
        """
        @param key: 32 bytes.
        @param nonce: 24 bytes, of the first box.
        @param box: how to seal; all ways give the same bytes.
        """
        super().__init__(key, nonce)
        self._secretbox = box
        self.ended = False

    def box(self, data: bytes) -> bytes:
        """
        Encrypt bytes, filling boxes of L{MAX_BODY}.  No bytes make no box.

        @raise RuntimeError: after the goodbye.
        """
        if self.ended:
            raise RuntimeError("nothing can be sent after the goodbye")
        size = len(data)
        boxes = -(-size // MAX_BODY)
        out = bytearray(size + boxes * OVERHEAD)
        hold, seal, key = self._secretbox.hold, self._secretbox.seal, self._key
        at = 0
        with hold(data) as plain, hold(out) as into:
            for start in range(0, size, MAX_BODY):
                length = min(MAX_BODY, size - start)
                header_nonce = self._next_nonce()
                # The MAC of the body comes to lie behind the length, where the header
                # needs it; then the header is sealed where it stands.
                header = at + MAC_BYTES
                mac = header + _LENGTH_BYTES
                seal(plain, start, length, into, mac, self._next_nonce(), key)
                out[header:mac] = length.to_bytes(_LENGTH_BYTES, "big")
                seal(into, header, _HEADER_BYTES, into, at, header_nonce, key)
                at += OVERHEAD + length
        return bytes(out)

    def goodbye(self) -> bytes:
        """@return: the end of the stream, 34 bytes."""
        if self.ended:
            raise RuntimeError("the goodbye was said already")
        self.ended = True
        out = bytearray(OVERHEAD)
        with self._secretbox.hold(out) as into:
            # What is sealed is L{_GOODBYE}: the buffer is new, all zeros.
            self._secretbox.seal(
                into, MAC_BYTES, _HEADER_BYTES, into, 0, self._next_nonce(), self._key
            )
        return bytes(out)


class Unboxer(Half):
    """
    The receiving direction: L{feed} it with bytes as they come, L{read} what they say.

    Nothing is opened before it is asked for, so a receiver that pauses leaves what it
    has not read encrypted; C{pending} tells how much that is.

    @ivar ended: the goodbye was read.  What follows it is ignored: nobody vouches
        for it.
    """

    __slots__ = ("_body", "_buffer", "_error", "_secretbox", "ended")

    def __init__(self, key: bytes, nonce: bytes, box: InPlace = secretbox.BEST) -> None:
        """
        @param key: 32 bytes.
        @param nonce: 24 bytes, of the first box.
        @param box: how to open; all ways give the same bytes.
        """
        super().__init__(key, nonce)
        self._secretbox = box
        self.ended = False
        self._buffer = bytearray()
        # The header of the first box is opened, and its body is not all here: the length
        # of that.  The buffer then begins with its MAC.
        self._body: int | None = None
        self._error: StreamError | None = None

    @property
    def pending(self) -> int:
        """How many received bytes have not been read."""
        return len(self._buffer) - (0 if self._body is None else MAC_BYTES)

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
        if self._error is not None:
            raise self._error
        buffer = self._buffer
        if not buffer:
            return b""
        with self._secretbox.hold(buffer) as held:
            taken, size = self._open_boxes(held)
        data = b""
        if size:
            with memoryview(buffer) as view, view[:size] as front:
                data = bytes(front)
        if self._error is not None or self.ended:
            self._body = None
            buffer.clear()
        else:
            # Once per read rather than per box: deleting from the front moves the rest.
            del buffer[:taken]
        if self._error is not None and not data:
            raise self._error
        return data

    def _open_boxes(self, held: Any) -> tuple[int, int]:
        """
        Open boxes where they lie and move what they say together, to the front.

        @param held: the buffer, which is not resized meanwhile.
        @return: up to where the buffer is read, and how much plain text is at its front.
        """
        buffer, key, open_box = self._buffer, self._key, self._secretbox.open
        taken = size = 0
        while size < READ_SIZE:
            length = self._body
            if length is None:
                if len(buffer) - taken < OVERHEAD:
                    break
                header = taken + MAC_BYTES
                if not open_box(held, taken, _HEADER_BYTES, header, self._next_nonce(), key):
                    self._error = _tampered("the header of a box")
                    break
                # The MAC of the body stands in the header, just before the body.
                taken = header + _LENGTH_BYTES
                length = buffer[header] << 8 | buffer[header + 1]
                if length == 0 and buffer[header : header + _HEADER_BYTES] == _GOODBYE:
                    self.ended = True
                    break
                if length > MAX_BODY:
                    self._error = _too_large(length)
                    break
                self._body = length
            if len(buffer) - taken < MAC_BYTES + length:
                break
            if not open_box(held, taken, length, size, self._next_nonce(), key):
                self._error = _tampered("the body of a box")
                break
            self._body = None
            taken += MAC_BYTES + length
            size += length
        return taken, size


def _tampered(what: str) -> TamperedStream:
    return TamperedStream(
        f"{what} does not open: bytes were changed, lost or reordered on the way; "
        f"the connection was closed, dial again"
    )


def _too_large(length: int) -> FrameTooLarge:
    return FrameTooLarge(
        f"the peer announces a box of {length} bytes, more than the {MAX_BODY} "
        f"that the box stream allows: it does not follow the protocol"
    )


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
