"""
A byte stream over the messages of a data channel, with flow control.  Pure.

A data channel delivers whole messages, in order, as fast as they come, and has no way to say that
the other side should wait.  So each side grants the other so many bytes, as the credits of gossip
do: a total since the beginning, which only grows.  What is granted and not consumed is all that a
peer can make us hold.

A message is one byte that says its kind, and the rest::

    0x00 DATA     1 to 16,383 bytes of the stream
    0x01 CREDIT   u64be: bytes that the receiver of this may have sent in all
    0x02 END      nothing: the end of this direction
    0x03 SEEN     nothing: the end of the other direction has come

Both begin with a credit of L{WINDOW}.  16 KiB is what RFC 8831 (6.6) recommends for programs whose
peers may not interleave messages.

A channel that is closed may drop what was given to it just before.  So who wants to close it first
waits until its end was seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from meshkit.errors import FrameTooLarge, MalformedFrame

#: Bytes that one side may have sent and the other not consumed.
WINDOW: Final = 256 * 1024
#: Bytes of a message at most.
MAX_MESSAGE: Final = 16 * 1024

_DATA: Final = b"\x00"
_CREDIT: Final = b"\x01"
_END: Final = b"\x02"
_SEEN: Final = b"\x03"
_CREDIT_BYTES: Final = 9
_MAX_CREDIT: Final = 2**63 - 1


class Stream:
    """
    One end.  What is to be sent is asked for with L{take} after each call of the others.

    @ivar received_end: the peer's direction is over.
    @ivar sent_end: ours is, and all of it was given out.
    @ivar seen_end: the peer has seen that: both ends may be closed once the other is over, too.
    """

    def __init__(self) -> None:
        self._out = bytearray()
        self._sent = 0
        self._may_send = WINDOW
        self._ending = False
        self.sent_end = False
        self.seen_end = False
        self._owes_seen = False
        self._received = 0
        self._consumed = 0
        self._granted = WINDOW
        self._told = WINDOW
        self.received_end = False

    # --- sending -----------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Bytes that were written, and for which there is no credit yet or that were not taken."""
        return len(self._out)

    def write(self, data: bytes) -> None:
        """
        @raise ValueError: if the stream was ended before.
        """
        if self._ending:
            raise ValueError("this direction was ended")
        self._out += data

    def end(self) -> None:
        """End our direction after what was written."""
        self._ending = True

    def take(self) -> Iterator[bytes]:
        """@return: the messages that may be sent now, each to be sent."""
        if self._owes_seen:
            self._owes_seen = False
            yield _SEEN
        if self._told < self._granted:
            self._told = self._granted
            yield _CREDIT + self._granted.to_bytes(8, "big")
        room = min(len(self._out), self._may_send - self._sent)
        at = 0
        while at < room:
            piece = bytes(self._out[at : min(room, at + MAX_MESSAGE - 1)])
            at += len(piece)
            yield _DATA + piece
        if at:
            # Once, and not for each message.
            del self._out[:at]
            self._sent += at
        if self._ending and not self._out and not self.sent_end:
            self.sent_end = True
            yield _END

    # --- receiving ---------------------------------------------------------------------

    def feed(self, message: bytes) -> bytes:
        """
        @return: bytes of the stream; empty for a message that holds none.
        @raise MalformedFrame: it is no message, or one that may not come now.
        @raise FrameTooLarge: it is too large, or more than was granted.
        """
        if len(message) > MAX_MESSAGE:
            raise FrameTooLarge(
                f"a message of {len(message)} bytes is over the limit of {MAX_MESSAGE}"
            )
        kind, rest = message[:1], message[1:]
        if kind == _DATA and rest:
            self._feed_data(len(rest))
            return rest
        if kind == _CREDIT and len(message) == _CREDIT_BYTES:
            self._feed_credit(int.from_bytes(rest, "big"))
        elif message == _END and not self.received_end:
            self.received_end = self._owes_seen = True
        elif message == _SEEN and self.sent_end and not self.seen_end:
            self.seen_end = True
        else:
            raise MalformedFrame("what came on the data channel is no message of a stream")
        return b""

    def _feed_data(self, size: int) -> None:
        if self.received_end:
            raise MalformedFrame("the peer goes on after the end of its stream")
        if self._received + size > self._granted:
            raise FrameTooLarge("the peer sends more than it was granted")
        self._received += size

    def _feed_credit(self, total: int) -> None:
        if not self._may_send <= total <= min(self._sent + WINDOW, _MAX_CREDIT):
            raise MalformedFrame(f"a credit of {total} bytes is none that can be granted now")
        self._may_send = total

    def consume(self, size: int) -> None:
        """
        So many of the bytes that came were used: the peer may send as many more, and is told when
        it is half of the window.
        """
        if self._consumed + size > self._received:
            raise ValueError(f"{size} bytes cannot be consumed that did not come")
        self._consumed += size
        if self._consumed + WINDOW - self._granted >= WINDOW // 2:
            self._granted = self._consumed + WINDOW

    @property
    def held(self) -> int:
        """Bytes that came and were not consumed."""
        return self._received - self._consumed
