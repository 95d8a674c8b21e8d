"""
The messages of the Model Context Protocol: JSON-RPC 2.0, as MCP narrows it.

Pure: bytes in, values out.  Two generations are spoken::

    handshake   2024-11-05 ... 2025-11-25    initialize first, then requests in a session
    stateless   2026-07-28                   every request says in params._meta what it needs

JSON texts are taken apart one level at a time, and what is not looked at stays as it was
spelt: the arguments of a tool are handed on byte by byte.

Sources: modelcontextprotocol.io/specification, revisions 2025-11-25 and 2026-07-28;
JSON-RPC 2.0 specification.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from attrs import frozen

from meshkit.errors import McpRefused

HANDSHAKE_VERSIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
STATELESS_VERSIONS: Final = ("2026-07-28",)
#: What a client gets that asks for a version that nobody knows.
NEWEST_HANDSHAKE: Final = HANDSHAKE_VERSIONS[-1]
#: What a session over HTTP speaks if its client does not say (2025-11-25, transports).
ASSUMED_VERSION: Final = "2025-03-26"

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
#: Within what JSON-RPC leaves to servers: too much is under way.
BUSY: Final = -32000
RESOURCE_NOT_FOUND: Final = -32002
HEADER_MISMATCH: Final = -32020
MISSING_CAPABILITY: Final = -32021
UNSUPPORTED_VERSION: Final = -32022
#: A stream has to end with an answer, also that of a call that was cancelled.
CANCELLED: Final = -32800

META_VERSION: Final = "io.modelcontextprotocol/protocolVersion"
META_CAPABILITIES: Final = "io.modelcontextprotocol/clientCapabilities"
META_CLIENT: Final = "io.modelcontextprotocol/clientInfo"
META_SERVER: Final = "io.modelcontextprotocol/serverInfo"
META_LOG_LEVEL: Final = "io.modelcontextprotocol/logLevel"
META_SUBSCRIPTION: Final = "io.modelcontextprotocol/subscriptionId"

#: Characters of an id that a client chooses: it is kept for as long as its request lasts.
MAX_ID: Final = 256

#: From what is told always to what is told last (RFC 5424).
LOG_LEVELS: Final = (
    "emergency",
    "alert",
    "critical",
    "error",
    "warning",
    "notice",
    "info",
    "debug",
)

#: The parameter that the header C{Mcp-Name} repeats.
NAMED_BY: Final[Mapping[str, str]] = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
}

Id = int | str

_ALL_BUT_BRACKETS: Final = bytes(sorted(set(range(256)) - set(b"[]{}")))
_ONE_KIND_OF_BRACKET: Final = bytes.maketrans(b"{}", b"[]")
# Possessive, and content with a string that has no end: linear in whatever is sent.
_STRING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_IN_BASE64: Final = re.compile(r"=\?base64\?(.*)\?=", re.DOTALL)


class _Envelope(msgspec.Struct, gc=False):
    jsonrpc: str = ""
    id: int | str | None | msgspec.UnsetType = msgspec.UNSET
    method: str | msgspec.UnsetType = msgspec.UNSET
    params: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _OnlyId(msgspec.Struct, gc=False):
    id: int | str | None = None


class Params:
    """
    The parameters of a message, each as it was spelt.

    Whatever is asked for and is not there, or is of another type, raises L{McpRefused}
    (invalid params), which names it.
    """

    __slots__ = ("_fields", "_meta")

    def __init__(self, fields: Mapping[str, msgspec.Raw]) -> None:
        self._fields = fields
        self._meta: dict[str, Any] | None = None

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    def raw(self, name: str) -> bytes | None:
        """@return: the JSON text of a field; L{None} if it is not there."""
        found = self._fields.get(name)
        return None if found is None else bytes(found)

    def text(self, name: str) -> str:
        """@return: a field that has to be a string."""
        found: str = self._read(name, str, "a string")
        return found

    def optional_text(self, name: str) -> str | None:
        """@return: a field that is a string, if it is there."""
        return self.text(name) if name in self._fields else None

    def mapping(self, name: str) -> dict[str, Any]:
        """@return: a field that has to be an object."""
        found: dict[str, Any] = self._read(name, dict[str, Any], "an object")
        return found

    def id(self, name: str) -> Id:
        """@return: a field that has to be an id of a request."""
        found: Id = self._read(name, int | str, "a string or an integer")
        return found

    @property
    def meta(self) -> dict[str, Any]:
        """The object C{_meta}; empty if there is none."""
        if self._meta is None:
            self._meta = self.mapping("_meta") if "_meta" in self._fields else {}
        return self._meta

    def _read(self, name: str, kind: Any, what: str) -> Any:
        found = self._fields.get(name)
        if found is None:
            raise McpRefused(INVALID_PARAMS, f"params.{name} is missing: it has to be {what}")
        try:
            return msgspec.json.decode(found, type=kind)
        except msgspec.ValidationError:
            raise McpRefused(INVALID_PARAMS, f"params.{name} has to be {what}") from None


@frozen
class Request:
    """Something that is owed an answer."""

    id: Id
    method: str
    params: Params


@frozen
class Notice:
    """Something that is told, and gets no answer."""

    method: str
    params: Params


@frozen
class Reply:
    """
    The answer to what we had asked.

    @ivar result: the JSON text of the result; L{None} if there is an error.
    @ivar error: code and message of the error.
    """

    id: Id
    result: bytes | None
    error: tuple[int, str] | None


Message = Request | Notice | Reply


class Malformed(McpRefused):
    """
    What came is no message.

    @ivar id: what to address the answer to; L{None} if that cannot be read.
    """

    def __init__(self, rpc_code: int, message: str, id: Id | None = None) -> None:
        super().__init__(rpc_code, message)
        self.id = id


def nests_deeper(text: bytes, limit: int) -> bool:
    """
    @return: is a JSON text nested deeper than C{limit} levels?  For what is no JSON, anything.

    All the work is done by C code, as whoever sends garbage should not cost much: every
    round takes off the innermost level.
    """
    # Most messages have not even so many brackets.
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    brackets = _STRING.sub(b"", text).translate(_ONE_KIND_OF_BRACKET, _ALL_BUT_BRACKETS)
    for _ in range(limit):
        shorter = brackets.replace(b"[]", b"")
        if len(shorter) == len(brackets):
            break
        brackets = shorter
    return bool(brackets)


def read_message(text: bytes, max_nesting: int) -> Message:
    """
    @param text: one JSON text.
    @param max_nesting: how deep it may be nested.
    @raise Malformed: if it is no message; batches, which MCP has given up, are none.
    """
    if nests_deeper(text, max_nesting):
        raise Malformed(
            INVALID_REQUEST,
            f"the message is nested deeper than {max_nesting} levels, or is no JSON",
        )
    try:
        envelope = msgspec.json.decode(text, type=_Envelope)
    except msgspec.ValidationError:
        raise Malformed(
            INVALID_REQUEST,
            "this is not one JSON-RPC request, notification or response",
            _id_of(text),
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Malformed(PARSE_ERROR, "this is not JSON") from None
    id = envelope.id
    if isinstance(id, str) and len(id) > MAX_ID:
        raise Malformed(INVALID_REQUEST, f"an id can have {MAX_ID} characters")
    if isinstance(id, int) and abs(id) > 1 << 63:
        raise Malformed(INVALID_REQUEST, "an id that is a number has to fit in 64 bits")
    known = id if isinstance(id, int | str) else None
    if envelope.jsonrpc != "2.0":
        raise Malformed(INVALID_REQUEST, 'the member "jsonrpc" has to be "2.0"', known)
    if envelope.method is not msgspec.UNSET:
        if id is None:
            raise Malformed(INVALID_REQUEST, "the id of a request cannot be null")
        params = _read_params(envelope.params, known)
        if isinstance(id, msgspec.UnsetType):
            return Notice(envelope.method, params)
        return Request(id, envelope.method, params)
    if known is None or (envelope.result is msgspec.UNSET) == (envelope.error is msgspec.UNSET):
        raise Malformed(
            INVALID_REQUEST, "this is not one JSON-RPC request, notification or response", known
        )
    if isinstance(envelope.error, msgspec.UnsetType):
        assert isinstance(envelope.result, msgspec.Raw)
        return Reply(known, bytes(envelope.result), None)
    try:
        error = msgspec.json.decode(envelope.error, type=_Error)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Malformed(INVALID_REQUEST, "the error of a response has to have a code") from None
    return Reply(known, None, (error.code, error.message))


class _Error(msgspec.Struct, gc=False):
    code: int
    message: str = ""


def _id_of(text: bytes) -> Id | None:
    try:
        return msgspec.json.decode(text, type=_OnlyId).id
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


_NO_PARAMS: Final = Params({})


def _read_params(raw: msgspec.Raw | msgspec.UnsetType, id: Id | None) -> Params:
    if isinstance(raw, msgspec.UnsetType):
        return _NO_PARAMS
    try:
        return Params(msgspec.json.decode(raw, type=dict[str, msgspec.Raw]))
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Malformed(INVALID_PARAMS, "params has to be an object", id) from None


# --- what goes out -------------------------------------------------------------------


class _Answer(msgspec.Struct, gc=False, tag_field="jsonrpc", tag="2.0"):
    id: Id
    result: Any


class _Refusal(msgspec.Struct, gc=False, tag_field="jsonrpc", tag="2.0"):
    id: Id | None
    error: Any


class _Asked(msgspec.Struct, gc=False, tag_field="jsonrpc", tag="2.0"):
    id: Id
    method: str
    params: Any


_encoder: Final = msgspec.json.Encoder()


def answer(id: Id, result: Any) -> bytes:
    """@return: the text of a good answer."""
    return _encoder.encode(_Answer(id, result))


def refusal(id: Id | None, error: McpRefused) -> bytes:
    """@return: the text of an answer that says what went wrong."""
    said: dict[str, Any] = {"code": error.rpc_code, "message": shown(str(error))}
    if error.data is not None:
        said["data"] = error.data
    return _encoder.encode(_Refusal(id, said))


def notification(method: str, params: Mapping[str, Any] | None = None) -> bytes:
    """@return: the text of a notification."""
    said: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        said["params"] = params
    return _encoder.encode(said)


def request(id: Id, method: str, params: Mapping[str, Any]) -> bytes:
    """@return: the text of a request of ours."""
    return _encoder.encode(_Asked(id, method, params))


def shown(text: str) -> str:
    """A message may quote a file name or a peer's text that is not valid Unicode."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


# --- the stateless generation --------------------------------------------------------


@frozen
class Envelope:
    """
    What a stateless request says of its client.

    @ivar version: the version that it speaks.
    @ivar capabilities: what the client can do.
    @ivar log_level: what it wants to be told; L{None} for nothing.
    @ivar headers: those of its HTTP request; L{None} if it came by another way.
    """

    version: str
    capabilities: Mapping[str, Any]
    log_level: str | None
    headers: Headers | None


@frozen
class Headers:
    """
    What the headers of an HTTP request say: every value that was given, spaces trimmed.

    @ivar values: gives those of any other header.
    """

    version: Sequence[str]
    method: Sequence[str]
    name: Sequence[str]
    values: Callable[[str], Sequence[str]]


def is_stateless(params: Params) -> bool:
    """Does a request speak the stateless generation?"""
    return "_meta" in params and META_VERSION in params.meta


def read_envelope(message: Request, headers: Headers | None) -> Envelope:
    """
    @param headers: those of the HTTP request; L{None} if it came by another way.
    @raise McpRefused: if the request lacks something, contradicts its headers, or wants
        a version that is not spoken here.
    """
    meta = message.params.meta
    version, capabilities = meta.get(META_VERSION), meta.get(META_CAPABILITIES)
    foreign = isinstance(version, str) and version not in STATELESS_VERSIONS
    missing = [key for key in (META_VERSION, META_CAPABILITIES) if key not in meta]
    # What a request of another version has to hold is not known here.
    if missing and not foreign:
        raise McpRefused(INVALID_PARAMS, f"params._meta lacks {' and '.join(missing)}")
    if headers is not None:
        _check_headers(message, version, headers)
    if not isinstance(version, str):
        raise McpRefused(INVALID_PARAMS, f"params._meta: {META_VERSION} has to be a string")
    if foreign:
        raise unsupported(version)
    if not isinstance(capabilities, dict):
        raise McpRefused(INVALID_PARAMS, f"params._meta: {META_CAPABILITIES} has to be an object")
    level = meta.get(META_LOG_LEVEL)
    return Envelope(version, capabilities, None if level is None else check_level(level), headers)


def check_level(level: object) -> str:
    """@raise McpRefused: if that is no level of a log."""
    if not isinstance(level, str) or level not in LOG_LEVELS:
        raise McpRefused(INVALID_PARAMS, f"the level has to be one of {', '.join(LOG_LEVELS)}")
    return level


def unsupported(version: str) -> McpRefused:
    """@return: the error that says what is spoken here."""
    data = {"supported": list(STATELESS_VERSIONS), "requested": version}
    return McpRefused(
        UNSUPPORTED_VERSION, f"the protocol version {version!r} is not spoken here", data
    )


def _check_headers(message: Request, version: object, headers: Headers) -> None:
    _check_header("MCP-Protocol-Version", headers.version, version)
    _check_header("Mcp-Method", headers.method, message.method)
    parameter = NAMED_BY.get(message.method)
    if parameter is None or parameter not in message.params:
        # Which parameters are missing is for the method to say.
        _check_once("Mcp-Name", headers.name)
        return
    wanted = message.params.text(parameter)
    _check_header("Mcp-Name", [decode_header(value) for value in headers.name], wanted)


def _check_once(name: str, values: Sequence[str | None]) -> None:
    if len(values) > 1:
        raise McpRefused(HEADER_MISMATCH, f"the header {name} is given {len(values)} times")


def _check_header(name: str, values: Sequence[str | None], wanted: object) -> None:
    _check_once(name, values)
    if not values:
        raise McpRefused(HEADER_MISMATCH, f"the header {name} is missing")
    if values[0] != wanted:
        raise McpRefused(HEADER_MISMATCH, f"the header {name} does not say what the body says")


def decode_header(value: str) -> str | None:
    """
    @param value: of a header; what does not fit in one is written C{=?base64?...?=}.
    @return: what it stands for; L{None} if the base64 is none.
    """
    found = _IN_BASE64.fullmatch(value)
    if found is None:
        return value
    try:
        decoded = base64.b64decode(found[1], validate=True)
        # One text has one spelling, or two who look would see different things.
        same = base64.b64encode(decoded).decode("ascii") == found[1]
        return decoded.decode("utf-8") if same else None
    except (binascii.Error, ValueError):
        return None
