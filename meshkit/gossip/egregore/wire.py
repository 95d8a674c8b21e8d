"""
The messages of Egregore's replication: one JSON object each, told apart by C{type}.

Members that are not known here are ignored, as every node of theirs ignores them; so are
the Bloom filters and the health of other peers that a C{have} may carry.  An unknown
C{type} ends the session, there as here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from meshkit.errors import InvalidPublicKey, MalformedFrame
from meshkit.identity.keys import PublicKey

#: Feeds that one C{have} of ours names.  Theirs cannot be larger than a message.
MAX_HAVE: Final = 500
#: Requests of one C{want} that are answered, there as here.
MAX_WANT: Final = 500
#: Messages of one C{messages} that their nodes use.
MAX_TOGETHER: Final = 200
#: Messages that one side of a session takes at most.
MAX_TAKEN: Final = 10_000
#: ... and that we send: their nodes stop reading at the last one above, before the C{done}
#: behind it, and the two sides would fall out of step.
MAX_GIVEN: Final = MAX_TAKEN - 1
#: Bytes at which a C{messages} is closed, so that most fit a frame.
PACKED: Final = 3_800
#: What is reckoned for C{{"type":"messages","messages":[]}}, and for each comma.
_AROUND: Final = 40
_BETWEEN: Final = 2

_MAX_U32: Final = 2**32 - 1
#: They store sequences in 64 bits with a sign.
_MAX_SEQUENCE: Final = 2**63 - 1

U32 = Annotated[int, Meta(ge=0, le=_MAX_U32)]
Sequence64 = Annotated[int, Meta(ge=0, le=_MAX_SEQUENCE)]
Mode = Literal["persistent", "pull_only"]


class FeedState(msgspec.Struct, frozen=True):
    """Of one feed, the highest sequence that the sender has."""

    author: str
    latest_sequence: Sequence64


class FeedRequest(msgspec.Struct, frozen=True):
    """Of one feed, the sequence after which the sender wants the messages."""

    author: str
    after_sequence: Sequence64


class Have(msgspec.Struct, frozen=True, tag="have"):
    """What the sender has, and the topics that it wants to be pushed and sent."""

    feeds: list[FeedState]
    subscribed_topics: list[str] = []


class Want(msgspec.Struct, frozen=True, tag="want"):
    requests: list[FeedRequest]


class Messages(msgspec.Struct, frozen=True, tag="messages"):
    messages: list[msgspec.Raw]


class Done(msgspec.Struct, frozen=True, tag="done"):
    pass


class Push(msgspec.Struct, frozen=True, tag="push"):
    message: msgspec.Raw


class Subscribe(msgspec.Struct, frozen=True, tag="subscribe"):
    mode: Mode


class SubscribeAck(msgspec.Struct, frozen=True, tag="subscribeack"):
    accepted: bool
    mode: Mode


class CreditGrant(msgspec.Struct, frozen=True, tag="credit_grant"):
    amount: U32


class CreditRequest(msgspec.Struct, frozen=True, tag="credit_request"):
    suggested: U32


class FlowControlAck(msgspec.Struct, frozen=True, tag="flow_control_ack"):
    supported: bool
    initial_credits: U32


Message = (
    Have
    | Want
    | Messages
    | Done
    | Push
    | Subscribe
    | SubscribeAck
    | CreditGrant
    | CreditRequest
    | FlowControlAck
)

_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Message)


def decode(data: bytes) -> Message:
    """
    @raise MalformedFrame: if it is none of the messages above.
    """
    try:
        message: Message = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise MalformedFrame(f"a message of the peer is malformed: {e}") from None
    return message


def encode(message: Message) -> bytes:
    """A message that carries no signed texts."""
    return _encoder.encode(message)


def encode_have(entries: Iterable[tuple[bytes, int]], topics: Sequence[str]) -> bytes:
    """@param entries: author key and sequence."""
    states = [FeedState(PublicKey(author).text, sequence) for author, sequence in entries]
    # Left out if empty, as their older nodes know no topics.
    known = {"subscribed_topics": list(topics)} if topics else {}
    return _encoder.encode({"type": "have", "feeds": states, **known})


def encode_want(entries: Iterable[tuple[bytes, int]]) -> bytes:
    """@param entries: author key and the sequence after which messages are wanted."""
    return encode(Want([FeedRequest(PublicKey(author).text, after) for author, after in entries]))


def encode_push(text: bytes) -> bytes:
    """@param text: a message, which travels as it was signed."""
    return b'{"type":"push","message":' + text + b"}"


def pack(texts: Iterable[bytes]) -> list[bytes]:
    """
    As few C{messages} as hold these, each about L{PACKED} bytes unless a single message
    has more.

    @param texts: messages, which travel as they were signed.
    """
    packed: list[bytes] = []
    page: list[bytes] = []
    size = _AROUND
    for text in texts:
        cost = len(text) + _BETWEEN
        if page and (size + cost > PACKED or len(page) >= MAX_TOGETHER):
            packed.append(_page(page))
            page, size = [], _AROUND
        page.append(text)
        size += cost
    if page:
        packed.append(_page(page))
    return packed


def _page(texts: Sequence[bytes]) -> bytes:
    return b'{"type":"messages","messages":[' + b",".join(texts) + b"]}"


def author_key(text: str) -> bytes | None:
    """The key in an id; L{None} if it is none, or is spelled in another way than theirs."""
    try:
        key = PublicKey.parse(text)
    except InvalidPublicKey:
        return None
    return key.raw if key.text == text else None


class _Place(msgspec.Struct, frozen=True):
    author: str
    sequence: Sequence64
    tags: list[str] | None = None


_place_decoder: Final = msgspec.json.Decoder(_Place)


def place_of(text: bytes) -> tuple[bytes, int, list[str]] | None:
    """
    Where a message says that it belongs, before anything of it is believed.

    @return: author key, sequence and tags; L{None} if it does not say.
    """
    try:
        place = _place_decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    key = author_key(place.author)
    return None if key is None else (key, place.sequence, place.tags or [])
