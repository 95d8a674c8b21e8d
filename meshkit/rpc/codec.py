"""
The three messages of MessagePack-RPC, as bytes.

::

    [0, msgid, method, params]     request
    [1, msgid, error, result]      response: error is nil, or the call failed
    [2, method, params]            notification: never answered

    msgid   integer, 0 to 2^32 - 1, chosen by the caller
    method  string of 1 to MAX_METHOD characters
    params  array

Source: the MessagePack-RPC specification (github.com/msgpack-rpc/msgpack-rpc,
C{spec.md}).  Messages follow each other with nothing between them: each is read to its
end without being built (L{MessageDecoder}), and only then, whole and within its limit,
into types.  So no message makes more of itself in memory than its method declares.

An error is C{[code, sentence]} or C{[code, sentence, details]} on our side.  Those of
others may be anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgpack
import msgspec
from msgspec import Meta, Raw

from meshkit.errors import FrameTooLarge, MalformedFrame, MeshkitError, RemoteError
from meshkit.runtime.limits import MAX_MESSAGE

#: Characters of a method's name.
MAX_METHOD: Final = 64
#: Bytes of a message beside its params or its result: kind, msgid, name, nil.
ENVELOPE_BYTES: Final = 16 + 4 * MAX_METHOD
#: Bytes of an error that are looked at, and characters of its sentence that are kept.
MAX_ERROR: Final = 8 * 1024
MAX_ERROR_TEXT: Final = 1_000
#: Containers within containers; a message with more is refused before it is built.
#: This is the size of msgpack's stack, which a test holds on to.
MAX_NESTING: Final = 1024
#: Bytes that may be given to a decoder and not taken from it: a whole message, and a
#: read of the transport behind it.
MAX_UNREAD: Final = 2 * MAX_MESSAGE

MAX_MSGID: Final = 2**32 - 1

_NIL: Final = Raw(b"\xc0")
_FIRST_READ: Final = 8 * 1024
_CODE: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}")

MsgId = Annotated[int, Meta(ge=0, le=MAX_MSGID)]
MethodName = Annotated[str, Meta(min_length=1, max_length=MAX_METHOD)]


class Request(msgspec.Struct, array_like=True, frozen=True, tag=0, forbid_unknown_fields=True):
    """A call that wants an answer."""

    msgid: MsgId
    method: MethodName
    params: Raw


class Response(msgspec.Struct, array_like=True, frozen=True, tag=1, forbid_unknown_fields=True):
    """The answer to the call with this msgid."""

    msgid: MsgId
    error: Raw
    result: Raw

    @property
    def failed(self) -> bool:
        """Does it carry an error?"""
        return self.error != _NIL


class Notification(msgspec.Struct, array_like=True, frozen=True, tag=2, forbid_unknown_fields=True):
    """A call that wants no answer."""

    method: MethodName
    params: Raw


Message = Request | Response | Notification

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Message)

#: What reading bytes into types can fail with; of nesting, the last two.
DECODE_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, MemoryError)


def encode_request(msgid: int, method: str, params: Any) -> bytes:
    """@param params: an C{array_like} Struct, or a list."""
    return _encoder.encode((0, msgid, method, params))


def encode_notification(method: str, params: Any) -> bytes:
    """See L{encode_request}."""
    return _encoder.encode((2, method, params))


def encode_result(msgid: int, result: Any) -> bytes:
    """
    The answer of a call that succeeded.

    @raise TypeError: and others, where the result is nothing that MessagePack can say.
    """
    return _encoder.encode((1, msgid, None, result))


def encode_error(msgid: int, error: MeshkitError) -> bytes:
    """The answer of a call that failed.  Details that cannot be sent are left out."""
    sentence = str(error)[:MAX_ERROR_TEXT]
    plain = _encoder.encode((1, msgid, (error.code, sentence), None))
    if not error.details:
        return plain
    try:
        full = _encoder.encode((1, msgid, (error.code, sentence, dict(error.details)), None))
    except (TypeError, ValueError, OverflowError, RecursionError):
        return plain
    return full if len(full) <= MAX_ERROR else plain


def encoded_size(value: Any) -> int:
    """How many bytes it has as params or as a result."""
    return len(_encoder.encode(value))


def decode_message(data: bytes) -> Message:
    """
    @param data: exactly one message.
    @raise MalformedFrame: it is not one of the three.
    """
    try:
        message: Message = _decoder.decode(data)
    except DECODE_ERRORS as e:
        raise MalformedFrame(f"this is no MessagePack-RPC message: {e}") from None
    return message


# --- errors of the other side --------------------------------------------------------

_Fact = str | int | float | bool | None


class _Error(msgspec.Struct, array_like=True, frozen=True):
    code: str
    message: str
    details: dict[str, _Fact | list[_Fact]] | None = None


_error_decoder: Final = msgspec.msgpack.Decoder(_Error)
_text_decoder: Final = msgspec.msgpack.Decoder(str)


def decode_error(data: bytes | Raw) -> RemoteError:
    """
    What the other side says of a call that failed.

    @param data: the bytes of the error.
    @return: an error with its code and sentence.  Where it is not in our form, its text
        if it is one, with the code C{REMOTE_ERROR}.
    """
    raw = bytes(data)
    if len(raw) <= MAX_ERROR:
        try:
            error = _error_decoder.decode(raw)
            if _CODE.fullmatch(error.code):
                details: Mapping[str, object] | None = error.details
                return RemoteError(_printable(error.message), error.code, details=details)
        except DECODE_ERRORS:
            pass  # not our form
        try:
            return RemoteError(_printable(_text_decoder.decode(raw)))
        except DECODE_ERRORS:
            pass  # not a text either
    return RemoteError("the peer refused the call and gave a reason of its own kind")


def _printable(text: str) -> str:
    """Cut to size, without what a terminal would take for a command."""
    return "".join(c if c.isprintable() else "?" for c in text[:MAX_ERROR_TEXT])


# --- boundaries ----------------------------------------------------------------------


class MessageDecoder:
    """
    Cuts a stream into messages, one at a time.

    @ivar limit: bytes of the largest message that is wanted.  It may be raised while
        the stream runs.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        # Only while there is something of which the end has to be found: its buffer is large.
        self._unpacker: msgpack.Unpacker | None = None
        # The message that is being read: what came of it before, and what came last.
        self._before = bytearray()
        self._data = b""
        self._at = 0  # in the data
        self._base = 0  # place of the data's first byte in what the unpacker was given

    @property
    def mid_message(self) -> bool:
        """Is a message begun and not complete?  Only after L{next_message} gave none."""
        return bool(self._before)

    def whole(self, data: bytes) -> Message | None:
        """
        Read bytes that are just one message, as those of most reads of a transport are.

        @return: L{None} if they are something else, if there are too many, or if others are
            there that were not taken: they have to be given to L{feed}.
        """
        if self._unpacker is not None or len(data) > self.limit:
            return None
        try:
            message: Message = _decoder.decode(data)
        except DECODE_ERRORS:
            return None  # whether it is wrong, or a part, or several, is found out there
        return message

    def feed(self, data: bytes) -> None:
        """
        Add bytes.  Take the messages that they complete before adding more.

        @raise FrameTooLarge: more than L{MAX_UNREAD} bytes were added and none taken.
        """
        if self._unpacker is None:
            self._unpacker = msgpack.Unpacker(max_buffer_size=MAX_UNREAD, read_size=_FIRST_READ)
            self._base = 0
        try:
            self._unpacker.feed(data)
        except msgpack.BufferFull:
            raise FrameTooLarge(
                f"more than {MAX_UNREAD} bytes came while nothing was read: the transport does "
                f"not honour pauseProducing()"
            ) from None
        if self._at < len(self._data):
            data = self._data[self._at :] + data
        self._base += self._at
        self._data = data
        self._at = 0

    def next_message(self) -> bytes | None:
        """
        @return: the bytes of the next message, or L{None} if it is not complete.
        @raise FrameTooLarge: it is longer than L{limit}.
        @raise MalformedFrame: this is not MessagePack, or nested deeper than
            L{MAX_NESTING}.
        """
        if self._unpacker is None:
            return None
        if self._at == len(self._data):
            if not self._before:
                self._unpacker = None
                self._data = b""
                self._at = 0
            return None
        try:
            self._unpacker.skip()
        except msgpack.OutOfData:
            self._keep()
            return None
        except msgpack.StackError:
            raise MalformedFrame(
                f"a message is nested deeper than {MAX_NESTING} containers"
            ) from None
        except (msgpack.FormatError, ValueError):
            raise MalformedFrame("what comes is not MessagePack") from None
        end = self._unpacker.tell() - self._base
        raw = self._data[self._at : end]
        self._at = end
        if self._before:
            raw = bytes(self._before) + raw
            self._before = bytearray()
        if len(raw) > self.limit:
            raise self._too_large(len(raw))
        return raw

    def _keep(self) -> None:
        """What is here is the beginning of a message."""
        self._before += self._data[self._at :]
        self._base += len(self._data)
        self._data = b""
        self._at = 0
        if len(self._before) > self.limit:
            raise self._too_large(len(self._before))

    def _too_large(self, size: int) -> FrameTooLarge:
        return FrameTooLarge(
            f"a message of {size} bytes or more is over this connection's limit of {self.limit}"
        )
