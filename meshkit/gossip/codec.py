"""
The frames of gossip, as bytes.

::

    frame = u32be length | MessagePack array [kind, ...]      length <= MAX_FRAME

    ["have",     [[author (bin 32), sequence], ...]]   "I am complete up to here"
    ["want",     [[author (bin 32), after], ...]]      "send what follows"
    ["messages", author (bin 32), [text (bin), ...]]   consecutive messages of one feed
    ["done",     author (bin 32)]                      "that was all of it"
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from meshkit.errors import FrameTooLarge, MalformedFrame

#: Most bytes of one frame after its length.  A single message has 128 KiB at most.
MAX_FRAME: Final = 256 * 1024
#: Most entries of one Have or Want.
MAX_ENTRIES: Final = 1_000
#: Bytes of message text at which a page is closed.
PAGE_BYTES: Final = 64 * 1024
#: Most messages of one page.
PAGE_MESSAGES: Final = 256

_LENGTH: Final = 4

Author = Annotated[bytes, Meta(min_length=32, max_length=32)]
Sequence = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Entry = tuple[Author, Sequence]


class Have(msgspec.Struct, array_like=True, frozen=True, tag="have"):
    """Feeds and the sequence up to which the sender has all of each."""

    entries: Annotated[list[Entry], Meta(min_length=1, max_length=MAX_ENTRIES)]


class Want(msgspec.Struct, array_like=True, frozen=True, tag="want"):
    """Feeds and the sequence after which the sender wants the messages."""

    entries: Annotated[list[Entry], Meta(min_length=1, max_length=MAX_ENTRIES)]


class Messages(msgspec.Struct, array_like=True, frozen=True, tag="messages"):
    """Consecutive messages of one wanted feed, as raw texts."""

    author: Author
    texts: Annotated[list[bytes], Meta(min_length=1, max_length=PAGE_MESSAGES)]


class Done(msgspec.Struct, array_like=True, frozen=True, tag="done"):
    """The end of what the sender has of a wanted feed."""

    author: Author


Frame = Have | Want | Messages | Done

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Frame)


def encode(frame: Frame) -> bytes:
    """A frame with its length."""
    body = _encoder.encode(frame)
    return len(body).to_bytes(_LENGTH, "big") + body


class FrameDecoder:
    """
    Cuts a stream into frames, one at a time.  Holds at most one unfinished frame of
    L{MAX_FRAME} bytes, and what it was given and nobody has taken.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def mid_frame(self) -> bool:
        """Is a frame begun and not taken?"""
        return bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """Add bytes.  Take the frames that they complete before adding more."""
        self._buffer += data

    def next_frame(self) -> Frame | None:
        """
        @return: the next frame, or L{None} if it is not complete.
        @raise FrameTooLarge: it announces more than L{MAX_FRAME} bytes.
        @raise MalformedFrame: it is not one of the four.
        """
        if len(self._buffer) < _LENGTH:
            return None
        length = int.from_bytes(self._buffer[:_LENGTH], "big")
        if length > MAX_FRAME:
            raise FrameTooLarge(
                f"a gossip frame of {length} bytes is over the limit of {MAX_FRAME}"
            )
        end = _LENGTH + length
        if len(self._buffer) < end:
            return None
        # A copy, since the decoded frame outlives the buffer.
        body = bytes(self._buffer[_LENGTH:end])
        # Cheap, as a bytearray moves its start and not what follows.
        del self._buffer[:end]
        try:
            frame: Frame = _decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            raise MalformedFrame(f"a gossip frame is malformed: {e}") from None
        return frame

    def receive(self, data: bytes) -> Iterator[Frame]:
        """
        Give bytes, get the frames that they complete.  Consume the iterator before
        the next call; it raises what L{next_frame} raises.
        """
        self.feed(data)
        return iter(self.next_frame, None)
