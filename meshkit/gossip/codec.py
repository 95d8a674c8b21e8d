"""
The frames of gossip, as bytes.

::

    frame = u32be length | MessagePack array [kind, ...]      length <= MAX_FRAME

What they are for is described in C{docs/protocol/gossip.md}.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from meshkit.errors import FrameTooLarge, MalformedFrame
from meshkit.gossip.reconcile import NONCE_BYTES, STEP_BYTES

#: Most bytes of one frame after its length: a proof has two messages of 128 KiB.
MAX_FRAME: Final = 288 * 1024
#: Most entries of one frame that lists feeds.
MAX_ENTRIES: Final = 1_000
#: Bytes of message text at which a page is closed.
PAGE_BYTES: Final = 64 * 1024
#: Most messages of one page.
PAGE_MESSAGES: Final = 256
#: Most bytes of one message.
MAX_TEXT: Final = 128 * 1024
#: Most characters of a topic.
MAX_TOPIC: Final = 256

_LENGTH: Final = 4

Author = Annotated[bytes, Meta(min_length=32, max_length=32)]
Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
Sequence = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Place = Annotated[int, Meta(ge=1, le=2**63 - 1)]
Flags = Annotated[int, Meta(ge=0, le=3)]
Entry = tuple[Author, Sequence, Flags]
Topic = Annotated[str, Meta(min_length=1, max_length=MAX_TOPIC)]
Text = Annotated[bytes, Meta(max_length=MAX_TEXT)]
Word = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Amount = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class Hello(msgspec.Struct, array_like=True, frozen=True, tag="hello"):
    """The first frame.  Both nonces make the salt of the fingerprints."""

    nonce: Annotated[bytes, Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]


class Interest(msgspec.Struct, array_like=True, frozen=True, tag="interest"):
    """What the sender replicates: everything, or these, ascending; C{more} pages follow."""

    all: bool
    authors: Annotated[list[Author], Meta(max_length=MAX_ENTRIES)]
    topics: Annotated[list[Topic], Meta(max_length=MAX_ENTRIES)]
    more: bool


class Ranges(msgspec.Struct, array_like=True, frozen=True, tag="ranges"):
    """A step of a reconciliation, see L{meshkit.gossip.reconcile.Step}."""

    window: Word
    round: Annotated[int, Meta(ge=0, le=255)]
    more: bool
    body: Annotated[bytes, Meta(max_length=STEP_BYTES)]


class Note(msgspec.Struct, array_like=True, frozen=True, tag="note"):
    """How far the sender has feeds, and whether it wants what follows."""

    entries: Annotated[list[Entry], Meta(min_length=1, max_length=MAX_ENTRIES)]


class Stopped(msgspec.Struct, array_like=True, frozen=True, tag="stopped"):
    """Feeds that were turned off: nothing more of them comes."""

    authors: Annotated[list[Author], Meta(min_length=1, max_length=MAX_ENTRIES)]


class Messages(msgspec.Struct, array_like=True, frozen=True, tag="messages"):
    """Consecutive messages of a feed that is on, as raw texts."""

    author: Author
    first: Place
    texts: Annotated[list[Text], Meta(min_length=1, max_length=PAGE_MESSAGES)]


class Gone(msgspec.Struct, array_like=True, frozen=True, tag="gone"):
    """
    The sender does not keep the texts up to C{until}; C{hash} is that of the last, as the
    message after it says, C{next}.  No text: the sender has nothing of the feed to give.
    """

    author: Author
    until: Place
    hash: Hash
    next: Text


class Tagged(msgspec.Struct, array_like=True, frozen=True, tag="tagged"):
    """A message with which an author has used a topic of the receiver's interest."""

    author: Author
    text: Annotated[bytes, Meta(min_length=1, max_length=MAX_TEXT)]


class Proof(msgspec.Struct, array_like=True, frozen=True, tag="proof"):
    """Two messages of one author with one sequence."""

    author: Author
    one: Text
    two: Text


class Credit(msgspec.Struct, array_like=True, frozen=True, tag="credit"):
    """How much the sender takes in all, since the connection began."""

    messages: Amount
    bytes: Amount


class Ping(msgspec.Struct, array_like=True, frozen=True, tag="ping"):
    """Are you there?"""

    token: Word


class Pong(msgspec.Struct, array_like=True, frozen=True, tag="pong"):
    """Yes."""

    token: Word


Frame = (
    Hello
    | Interest
    | Ranges
    | Note
    | Stopped
    | Messages
    | Gone
    | Tagged
    | Proof
    | Credit
    | Ping
    | Pong
)

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
        @raise MalformedFrame: it is none of those above.
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
