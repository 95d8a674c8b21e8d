"""
The message of a feed, in Egregore's format (protocol/feed.md).

A message is one JSON object::

    {"author":"@...","sequence":1,"previous":null,"timestamp":"...","content":{...},
     [schema_id] [relates] [tags] [trace_id] [span_id] [expires_at]
     "hash":"...","signature":"..."}

Fields in brackets are left out when they are absent, C{tags} also when it is empty; an
empty string is kept and hashed.  C{hash} is the
lower-case hex SHA-256 of the object without its last two fields, in exactly this order
and without white space, C{content} in canonical form (L{meshkit.feed.canonical}).
C{signature} is the base64 Ed25519 signature of those 64 hex digits.

A received text may differ from this form in white space, key order, escapes and
spelling of times.  It is read as Egregore's serde reads it, and unknown fields, which
no hash covers, are ignored.  What is kept and passed on is L{Message.raw}, the form
above: byte for byte what any Egregore node sends, and nothing that nobody signed.

Everything here is a pure function and may be called from any thread.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
from attrs import field, frozen

from meshkit.errors import (
    ContentTooLarge,
    HashMismatch,
    InvalidPublicKey,
    InvalidSequence,
    MalformedMessage,
    SignatureInvalid,
)
from meshkit.feed.canonical import (
    MAX_CONTENT_BYTES,
    MAX_MESSAGE_NESTING,
    Prepared,
    Unusual,
    canonicalise,
    check_content_size,
    prepare_content,
    read_json,
    usual_float,
    write_string,
)
from meshkit.feed.timestamps import format_timestamp, parse_timestamp
from meshkit.identity.keys import SIGNATURE_BYTES, Identity, PublicKey, Verify

#: An Egregore node takes 128 KiB from a connection at once: a message and the frame
#: C{{"type":"messages","messages":[...]}} around it.
MAX_MESSAGE_BYTES: Final = 128 * 1024 - len('{"type":"messages","messages":[]}')

#: Sequence numbers are stored in 64 bits with a sign.
MAX_SEQUENCE: Final = 2**63 - 1

#: Most tags of a message, and most characters of a tag.
MAX_TAGS: Final = 128
MAX_TAG_CHARS: Final = 256

#: Most characters of C{schema_id}, C{relates}, C{trace_id} and C{span_id}.
MAX_FIELD_CHARS: Final = 256

_REQUIRED: Final = (
    "author",
    "sequence",
    "previous",
    "timestamp",
    "content",
    "hash",
    "signature",
)
_OPTIONAL: Final = ("schema_id", "relates", "tags", "trace_id", "span_id", "expires_at")
_FIELDS: Final = frozenset(_REQUIRED + _OPTIONAL)

#: C{type} of a content that is a sealed box: see L{meshkit.feed.sealing}.
SEALED_TYPE: Final = "sealed"

_HASH: Final = re.compile("[0-9a-f]{64}")

# Authors whose ids are remembered in parsed form: pages come from one author each.
_KNOWN_AUTHORS: Final = 1_024

# The last two fields, which are not signed: 64 hex digits, 88 characters of base64.
_END: Final = ',"hash":"{}","signature":"{}"}}'
_END_BYTES: Final = len(_END.format("", "")) + 64 + 88


@frozen
class Message:
    """
    A message in good form: L{parse_message} and L{sign_message} make them.

    Only L{verify_message} says whether its author wrote it.

    @ivar author: who signed it.
    @ivar sequence: place in the author's feed, from 1 to L{MAX_SEQUENCE}.
    @ivar previous: hash of the message before it, 64 hex digits; L{None} for the first.
    @ivar timestamp: when the author says it was written, in normal form.
    @ivar timestamp_ns: the same in nanoseconds since 1970, cut off to 64 bits.
    @ivar content: what it says, a JSON value.
    @ivar content_type: the content's C{type}, if that is a string.
    @ivar schema_id: name of the content's schema.
    @ivar relates: hash of the message it is about.
    @ivar tags: its topics.
    @ivar trace_id: for following one cause through many messages.
    @ivar span_id: likewise.
    @ivar expires_at: when it may be forgotten, in normal form.
    @ivar hash: its name, 64 hex digits.
    @ivar signature: 64 bytes.
    @ivar raw: its text, without white space and in the order of fields that is signed:
        what to store and to pass on.  All other attributes are read from it.
    """

    author: PublicKey
    sequence: int
    previous: str | None
    timestamp: str
    timestamp_ns: int
    content: Any = field(hash=False)
    content_type: str | None
    schema_id: str | None
    relates: str | None
    tags: tuple[str, ...]
    trace_id: str | None
    span_id: str | None
    expires_at: str | None
    hash: str
    signature: bytes
    raw: bytes = field(repr=False)


def parse_message(raw: bytes, *, max_bytes: int = MAX_MESSAGE_BYTES) -> Message:
    """
    Read a message and check its form; who wrote it is for L{verify_message} to say.

    @param raw: the JSON text.
    @param max_bytes: refuse a larger text, also one that becomes larger in normal form.
    @raise ContentTooLarge: if it, or its content, is over the limit.
    @raise InvalidSequence: if the sequence number is out of range.
    @raise MalformedMessage: if anything else in it is out of form, saying what.
    """
    _check_size(len(raw), max_bytes)
    fields = _read_normal(raw)
    is_normal = fields is not None
    if fields is None:
        fields = _read_fields(raw)
    author = _author(fields.author)
    sequence = _sequence(fields.sequence)
    previous = None if fields.previous is None else _digest(fields.previous, "previous")
    timestamp, timestamp_ns = _time(fields.timestamp, "timestamp")
    schema_id = _short(fields.schema_id, "schema_id")
    relates = _short(fields.relates, "relates")
    tags = _tags(fields.tags)
    trace_id = _short(fields.trace_id, "trace_id")
    span_id = _short(fields.span_id, "span_id")
    expires_at = _short(fields.expires_at, "expires_at")
    if expires_at is not None:
        expires_at, _ = _time(expires_at, "expires_at")
    digest = _digest(fields.hash, "hash")
    signature = _signature(fields.signature)
    content = fields.content
    if (
        not is_normal
        or timestamp != fields.timestamp
        or expires_at != fields.expires_at
        or len(raw) > MAX_CONTENT_BYTES
    ):
        prepared = canonicalise(content)
        check_content_size(len(prepared.text.encode("utf-8")))
        content = prepared.value
        text = _signed_text(
            author.text,
            sequence,
            previous,
            timestamp,
            prepared.text,
            schema_id=schema_id,
            relates=relates,
            tags=tags,
            trace_id=trace_id,
            span_id=span_id,
            expires_at=expires_at,
        )
        raw = _complete(text, digest, fields.signature).encode("utf-8")
        # A number can grow: 1e15 is signed as 1000000000000000.0.
        _check_size(len(raw), max_bytes)
    return Message(
        author=author,
        sequence=sequence,
        previous=previous,
        timestamp=timestamp,
        timestamp_ns=timestamp_ns,
        content=content,
        content_type=_content_type(content),
        schema_id=schema_id,
        relates=relates,
        tags=tags,
        trace_id=trace_id,
        span_id=span_id,
        expires_at=expires_at,
        hash=digest,
        signature=signature,
        raw=raw,
    )


def verify_message(message: Message, verify: Verify = PublicKey.verifies) -> None:
    """
    Check that the author wrote it: the signature over the hash, then the hash over the
    rest.

    @param verify: of the signature.
    @raise SignatureInvalid: if the hash was not signed by the author's key.
    @raise HashMismatch: if the author signed this hash, but of another message.
    """
    if not verify(message.author, message.hash.encode("ascii"), message.signature):
        raise SignatureInvalid(
            f"message {message.sequence} was not signed by {message.author.text}, whom it names"
        )
    signed = message.raw[:-_END_BYTES] + b"}"
    if hashlib.sha256(signed).hexdigest() != message.hash:
        raise HashMismatch(
            f"message {message.sequence} of {message.author.text} was altered: its hash is "
            "that of another text"
        )


def sign_message(
    identity: Identity,
    *,
    sequence: int,
    previous: str | None,
    timestamp_ns: int,
    content: Any,
    schema_id: str | None = None,
    relates: str | None = None,
    tags: Sequence[str] = (),
    trace_id: str | None = None,
    span_id: str | None = None,
    expires_at: str | None = None,
) -> Message:
    """
    Write a message.

    @param identity: the author's.
    @param sequence: one more than that of the author's last message, or 1.
    @param previous: hash of that message, or L{None} for the first.
    @param timestamp_ns: the wall clock, nanoseconds since 1970.
    @param content: a JSON value, or what L{meshkit.feed.canonical.prepare_content_text}
        made of a text.
    @param expires_at: RFC 3339.
    @raise FeedError: for whatever L{prepare_content} or L{parse_message} refuse.
    """
    prepared = content if isinstance(content, Prepared) else prepare_content(content)
    text = _signed_text(
        identity.public.text,
        sequence,
        previous,
        format_timestamp(timestamp_ns),
        prepared.text,
        schema_id=schema_id,
        relates=relates,
        tags=tags,
        trace_id=trace_id,
        span_id=span_id,
        expires_at=None if expires_at is None else _time(expires_at, "expires_at")[0],
    )
    try:
        digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    except UnicodeEncodeError:
        raise MalformedMessage("a field holds half of a surrogate pair, which is no text") from None
    signature = base64.b64encode(identity._sign_raw(digest.encode("ascii")))
    # Read back, so that nothing is published that other nodes would refuse.
    return parse_message(_complete(text, digest, signature.decode("ascii")).encode("utf-8"))


def check_hash(text: str, name: str) -> None:
    """
    Can this be the hash of a message?

    What others have written is not held to it: the fields that name messages are free
    text in Egregore's format.

    @param name: of the field, for the error.
    @raise MalformedMessage: if it cannot.
    """
    if not _HASH.fullmatch(text):
        raise MalformedMessage(f"the message's {name!r} is not 64 lower-case hex digits")


def content_text(value: Any) -> str:
    """
    The words in a content, for searching: its strings, in order, one per line.  Keys
    and numbers are left out, and so is all of a sealed message: what is in it is not for
    the index, which is not encrypted, and its box has no words.

    @param value: L{Message.content}.
    """
    if type(value) is dict and value.get("type") == SEALED_TYPE and len(value) == 2:
        return ""
    return "\n".join(_strings(value))


def _strings(value: Any) -> Iterator[str]:
    # A stack of its own: generators within generators take longer with every level.
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            stack.extend(reversed(item.values()))
        elif isinstance(item, list):
            stack.extend(reversed(item))


# --- the text ----------------------------------------------------------------------


def _signed_text(
    author: str,
    sequence: int,
    previous: str | None,
    timestamp: str,
    content: str,
    *,
    schema_id: str | None,
    relates: str | None,
    tags: Sequence[str],
    trace_id: str | None,
    span_id: str | None,
    expires_at: str | None,
) -> str:
    """
    What the hash is made of.

    @param content: canonical JSON.
    """
    before = "null" if previous is None else f'"{previous}"'
    pieces = [
        f'{{"author":"{author}","sequence":{sequence},"previous":{before},'
        f'"timestamp":"{timestamp}","content":{content}'
    ]
    if schema_id is not None:
        pieces.append(f',"schema_id":{write_string(schema_id)}')
    if relates is not None:
        pieces.append(f',"relates":{write_string(relates)}')
    if tags:
        pieces.append(f',"tags":[{",".join(map(write_string, tags))}]')
    if trace_id is not None:
        pieces.append(f',"trace_id":{write_string(trace_id)}')
    if span_id is not None:
        pieces.append(f',"span_id":{write_string(span_id)}')
    if expires_at is not None:
        pieces.append(f',"expires_at":"{expires_at}"')
    pieces.append("}")
    return "".join(pieces)


def _complete(signed_text: str, digest: str, signature: str) -> str:
    return signed_text[:-1] + _END.format(digest, signature)


# --- reading -----------------------------------------------------------------------


class _Fields(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A message of which the types are known, in the order in which it is signed."""

    author: str
    sequence: int
    previous: str | None
    timestamp: str
    content: Any
    schema_id: str | None = None
    relates: str | None = None
    tags: list[str] = []
    trace_id: str | None = None
    span_id: str | None = None
    expires_at: str | None = None
    hash: str
    signature: str


_decoder: Final = msgspec.json.Decoder(_Fields, float_hook=usual_float)
_encoder: Final = msgspec.json.Encoder(order="deterministic")
_integers: Final = msgspec.msgpack.Encoder()


def _read_normal(raw: bytes) -> _Fields | None:
    """
    Read a text that is in normal form but perhaps for its times, as nearly all are: it is,
    if writing what it says gives it back.

    That holds for any JSON library that writes strings and integers as L{canonicalise}
    does, sorts keys, and reads no two texts of such values as one.  Floats are looked at
    as they are read.  Of the integers there are those of 64 bits, as in MessagePack.

    @return: L{None} if it has to be read in the slow way: it may be a message all the same.
    """
    if raw.count(b"{") + raw.count(b"[") > MAX_MESSAGE_NESTING:
        return None
    try:
        fields = _decoder.decode(raw)
        if _encoder.encode(fields) != raw:
            return None
        _integers.encode(fields.content)
    except (msgspec.MsgspecError, UnicodeDecodeError, OverflowError, Unusual):
        return None
    return fields


def _read_fields(raw: bytes) -> _Fields:
    """Read a text as Egregore's nodes do, and say what is wrong with it."""
    tree, repeated = read_json(raw, MAX_MESSAGE_NESTING)
    if type(tree) is not dict:
        raise MalformedMessage("a message is a JSON object")
    for name in repeated:
        # Repeating what is ignored anyway is as harmless as saying it once.
        if name in _FIELDS:
            raise MalformedMessage(f"the message has the field {name!r} twice")
    for name in _REQUIRED:
        if name not in tree:
            raise MalformedMessage(f"the message has no field {name!r}")
    tags = tree.get("tags", [])
    if type(tags) is not list or not all(type(tag) is str for tag in tags):
        raise MalformedMessage("the message's 'tags' is not an array of strings")
    if type(tree["sequence"]) is not int:
        raise MalformedMessage("the message's 'sequence' is not an integer")
    return _Fields(
        author=_text(tree, "author"),
        sequence=tree["sequence"],
        previous=_optional_text(tree, "previous"),
        timestamp=_text(tree, "timestamp"),
        content=tree["content"],
        schema_id=_optional_text(tree, "schema_id"),
        relates=_optional_text(tree, "relates"),
        tags=tags,
        trace_id=_optional_text(tree, "trace_id"),
        span_id=_optional_text(tree, "span_id"),
        expires_at=_optional_text(tree, "expires_at"),
        hash=_text(tree, "hash"),
        signature=_text(tree, "signature"),
    )


def _text(tree: dict[str, Any], name: str) -> str:
    value = tree[name]
    if type(value) is not str:
        raise MalformedMessage(f"the message's {name!r} is not a string")
    return value


def _optional_text(tree: dict[str, Any], name: str) -> str | None:
    return None if tree.get(name) is None else _text(tree, name)


# --- fields ------------------------------------------------------------------------


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise ContentTooLarge(
            f"a message of {size} bytes is over the limit of {max_bytes}: nodes cannot pass it on"
        )


def _short(text: str | None, name: str) -> str | None:
    if text is not None and len(text) > MAX_FIELD_CHARS:
        raise MalformedMessage(
            f"the message's {name!r} has {len(text)} characters, {MAX_FIELD_CHARS} are the limit"
        )
    return text


def _time(text: str, name: str) -> tuple[str, int]:
    try:
        return parse_timestamp(text)
    except MalformedMessage as e:
        raise MalformedMessage(f"the message's {name!r} cannot be read: {e}") from None


def _tags(value: list[str]) -> tuple[str, ...]:
    if len(value) > MAX_TAGS:
        raise MalformedMessage(f"the message has {len(value)} tags, {MAX_TAGS} are the limit")
    if any(len(tag) > MAX_TAG_CHARS for tag in value):
        raise MalformedMessage(f"a tag has more than {MAX_TAG_CHARS} characters")
    return tuple(value)


@lru_cache(_KNOWN_AUTHORS)
def _author(text: str) -> PublicKey:
    try:
        key = PublicKey.parse(text)
    except InvalidPublicKey as e:
        raise MalformedMessage(f"the message's 'author' is no key: {e}") from None
    # The id is hashed as text, so that no other spelling of the key will do.
    if key.text != text:
        raise MalformedMessage(f"the message's 'author' has to be spelled {key.text}")
    return key


def _sequence(value: int) -> int:
    if not 1 <= value <= MAX_SEQUENCE:
        raise InvalidSequence(f"sequence numbers start at 1 and end at {MAX_SEQUENCE}: not {value}")
    return value


def _digest(text: str, name: str) -> str:
    if not _HASH.fullmatch(text):
        raise MalformedMessage(f"the message's {name!r} is not 64 lower-case hex digits")
    return text


def _signature(text: str) -> bytes:
    try:
        signature = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        signature = b""
    # Comparing the re-encoded form refuses a second spelling of the same signature.
    if len(signature) != SIGNATURE_BYTES or base64.b64encode(signature).decode("ascii") != text:
        raise MalformedMessage("the message's 'signature' is not the base64 of 64 bytes")
    return signature


def _content_type(content: Any) -> str | None:
    value = content.get("type") if type(content) is dict else None
    return value if type(value) is str else None
