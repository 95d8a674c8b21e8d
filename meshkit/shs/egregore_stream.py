"""
What follows the handshake of Egregore's generation W2: a stream of messages, in frames.

On the wire::

    u32be length | header, 34 bytes                      | body
                   AEAD, nonce n                           AEAD, nonce n + 1, without its tag
                   u16be length of body | tag of body      0x01 or 0x00 | at most 4095 bytes

The AEAD is XChaCha20-Poly1305 (IETF) without associated data; the nonce is a 24-byte
big-endian counter.  A body that begins with 0x01 is continued in the next frame, one that
begins with 0x00 ends a message.  A header of eighteen zero bytes without a body, whose
frame has length 34, is the goodbye.

To its user the stream is one of bytes, as any other, in which each message stands behind
its length (L{record})::

    u32be length | message, at most MAX_MESSAGE bytes

So L{meshkit.shs.channel.SecureChannel} runs it as it runs the box stream.  What is
written at once has to be whole records, and what is delivered is whole records.
"""

from __future__ import annotations

from typing import Final

from nacl import bindings
from nacl.exceptions import CryptoError

from meshkit.errors import FrameTooLarge, MalformedFrame, StreamError, TamperedStream
from meshkit.shs.boxstream import READ_SIZE, Half, Stream

#: Most bytes of a message.
MAX_MESSAGE: Final = 128 * 1024
#: Most bytes of a body, of which the first says whether more follows.
MAX_BODY: Final = 4096
_MAX_CHUNK: Final = MAX_BODY - 1

_LENGTH: Final = 4
_TAG: Final = 16
_HEADER: Final = 2 + _TAG
#: Bytes of a sealed header: the least that a frame has.
SEALED_HEADER: Final = _HEADER + _TAG
#: The most that a frame has after its length.
MAX_FRAME: Final = SEALED_HEADER + MAX_BODY

_GOODBYE: Final = bytes(_HEADER)
_MORE: Final = b"\x01"
_LAST: Final = b"\x00"

_NACL_ERRORS: Final = (CryptoError, RuntimeError, ValueError)


def record(message: bytes) -> bytes:
    """
    A message as it is written to the stream.

    @raise ValueError: if it has more than L{MAX_MESSAGE} bytes.
    """
    if len(message) > MAX_MESSAGE:
        raise ValueError(f"a message of {len(message)} bytes is over the limit of {MAX_MESSAGE}")
    return len(message).to_bytes(_LENGTH, "big") + message


def split(data: bytes) -> list[bytes]:
    """
    The messages in whole records.

    @raise ValueError: if the last one is cut off, or one is over L{MAX_MESSAGE}.
    """
    messages = []
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at : at + _LENGTH], "big")
        start = at + _LENGTH
        at = start + length
        if start > len(data) or at > len(data) or length > MAX_MESSAGE:
            raise ValueError("the stream carries whole records of bounded length")
        messages.append(data[start:at])
    return messages


class MessageSealer(Half):
    """
    The sending direction.

    @ivar ended: the goodbye was made, nothing may follow.
    """

    ended = False

    def box(self, data: bytes) -> bytes:
        """
        Encrypt messages.

        @param data: whole records.
        @raise RuntimeError: after the goodbye.
        @raise ValueError: if a record is cut off or too large.
        """
        if self.ended:
            raise RuntimeError("nothing can be sent after the goodbye")
        return b"".join(frame for message in split(data) for frame in self._frames(message))

    def _frames(self, message: bytes) -> list[bytes]:
        frames = []
        # An empty message is one chunk without bytes.
        for start in range(0, len(message) or 1, _MAX_CHUNK):
            end = start + _MAX_CHUNK
            prefix = _MORE if end < len(message) else _LAST
            frames.append(self._frame(prefix + message[start:end]))
        return frames

    def _frame(self, body: bytes) -> bytes:
        header_nonce = self._next_nonce()
        sealed = _seal(body, self._next_nonce(), self._key)
        header = len(body).to_bytes(2, "big") + sealed[-_TAG:]
        frame = _seal(header, header_nonce, self._key) + sealed[:-_TAG]
        return len(frame).to_bytes(_LENGTH, "big") + frame

    def goodbye(self) -> bytes:
        """@return: the end of the stream, 38 bytes."""
        if self.ended:
            raise RuntimeError("the goodbye was said already")
        self.ended = True
        sealed = _seal(_GOODBYE, self._next_nonce(), self._key)
        return len(sealed).to_bytes(_LENGTH, "big") + sealed


class MessageOpener(Half):
    """
    The receiving direction.  Holds one unfinished message and what was not read yet.

    @ivar ended: the goodbye was read; what follows it is ignored.
    """

    ended = False

    def __init__(self, key: bytes, nonce: bytes) -> None:
        super().__init__(key, nonce)
        self._buffer = bytearray()
        self._offset = 0
        self._message = bytearray()
        self._in_message = False
        self._error: StreamError | None = None

    @property
    def pending(self) -> int:
        """How many received bytes have not been opened."""
        return len(self._buffer) - self._offset

    def feed(self, data: bytes) -> None:
        """Take the next bytes, in pieces of any size."""
        if not self.ended and self._error is None:
            self._buffer += data

    def read(self) -> bytes:
        """
        Open the frames that are complete, until about L{READ_SIZE} bytes of whole
        messages are together.

        @return: whole records; nothing if more has to arrive, or at the end.
        @raise TamperedStream: a frame does not open.
        @raise FrameTooLarge: a frame or a message is over its limit.  A frame is refused
            before it is waited for.
        @raise MalformedFrame: a frame has a form that the protocol does not know.
        """
        records: list[bytes] = []
        size = 0
        try:
            while size < READ_SIZE and self._error is None and not self.ended:
                frame = self._next_frame()
                if frame is None:
                    break
                message = self._open_frame(frame)
                if message is not None:
                    records.append(record(message))
                    size += len(message)
        except StreamError as error:
            self._error = error
            self._buffer.clear()
            self._offset = 0
        if self._error is not None and not records:
            raise self._error
        if self._offset:
            del self._buffer[: self._offset]
            self._offset = 0
        return b"".join(records)

    def _next_frame(self) -> bytes | None:
        if self.pending < _LENGTH:
            return None
        start = self._offset + _LENGTH
        length = int.from_bytes(self._buffer[self._offset : start], "big")
        if length > MAX_FRAME:
            raise FrameTooLarge(
                f"the peer announces a frame of {length} bytes, more than the {MAX_FRAME} that "
                f"its protocol allows"
            )
        if length < SEALED_HEADER:
            raise MalformedFrame(
                f"a frame of {length} bytes is too short for its header of {SEALED_HEADER}"
            )
        if self.pending < _LENGTH + length:
            return None
        self._offset = start + length
        return bytes(self._buffer[start : self._offset])

    def _open_frame(self, frame: bytes) -> bytes | None:
        """@return: the message that this frame completes, if it does."""
        header = self._open(frame[:SEALED_HEADER], "the header of a frame")
        sealed = frame[SEALED_HEADER:]
        if header == _GOODBYE:
            if sealed or self._in_message:
                raise MalformedFrame("the peer said goodbye in the middle of something")
            self.ended = True
            self._buffer.clear()
            self._offset = 0
            return None
        length = int.from_bytes(header[:2], "big")
        if length != len(sealed):
            raise MalformedFrame(
                f"a frame carries {len(sealed)} bytes, but its header says {length}"
            )
        body = self._open(sealed + header[2:], "the body of a frame")
        prefix, chunk = body[:1], body[1:]
        if prefix not in (_MORE, _LAST):
            raise MalformedFrame("a frame says neither that more follows nor that it is the last")
        if len(self._message) + len(chunk) > MAX_MESSAGE:
            raise FrameTooLarge(f"a message of the peer has more than {MAX_MESSAGE} bytes")
        self._message += chunk
        self._in_message = prefix == _MORE
        if self._in_message:
            return None
        message = bytes(self._message)
        self._message.clear()
        return message

    def _open(self, sealed: bytes, what: str) -> bytes:
        try:
            return bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(
                sealed, None, self._next_nonce(), self._key
            )
        except _NACL_ERRORS:
            raise TamperedStream(
                f"{what} does not open: bytes were changed, lost or reordered on the way; the "
                f"connection was closed, dial again"
            ) from None


def _seal(message: bytes, nonce: bytes, key: bytes) -> bytes:
    return bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(message, None, nonce, key)


#: What L{meshkit.shs.egregore} leads to.
MESSAGE_STREAM: Final = Stream(MessageSealer, MessageOpener)
