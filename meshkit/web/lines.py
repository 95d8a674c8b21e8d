"""
Lines of JSON over a connection of the local door, and how a connection becomes one of them.

::

    GET /mcp?profile=core HTTP/1.1          HTTP/1.1 101 Switching Protocols
    Host: 127.0.0.1:7654                    Connection: Upgrade
    Authorization: Bearer ...               Upgrade: mcp-lines
    Connection: Upgrade
    Upgrade: mcp-lines                      {"jsonrpc":"2.0","id":1,...}\\n

From the empty line on both sides send JSON-RPC messages, one a line, as MCP has it for
standard input and output.  An answer other than 101 is the door's refusal, in JSON.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec
from attrs import frozen

from meshkit.errors import DoorUnreachable, InvalidRequest, RemoteError

__all__ = [
    "MAX_ID_BYTES",
    "PATH",
    "PROTOCOL",
    "IdScanner",
    "LineCutter",
    "TooLong",
    "UpgradeReader",
    "target",
    "upgrade_request",
]

#: What the C{Upgrade} header says.
PROTOCOL: Final = "mcp-lines"
#: Where the door speaks MCP.
PATH: Final = "/mcp"
#: Bytes of the head and of the body of the door's answer.
MAX_HEAD: Final = 16 * 1024
MAX_BODY: Final = 64 * 1024
#: Bytes of a JSON-RPC id that are remembered of a message that is too long.
MAX_ID_BYTES: Final = 256

_PROFILE: Final = re.compile(r"[a-z0-9_-]{1,64}")
_STATUS: Final = re.compile(rb"HTTP/1\.1 ([0-9]{3})(?: |\r\n)")
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*\r\n", re.IGNORECASE)
_UPGRADED: Final = re.compile(rb"\r\nupgrade:[ \t]*mcp-lines[ \t]*\r\n", re.IGNORECASE)


# --- lines -------------------------------------------------------------------------


@frozen
class TooLong:
    """
    A line that was longer than the limit, and is gone.

    @ivar id: the JSON text of its C{id}, if it has one.
    """

    id: bytes | None


class LineCutter:
    """
    Cuts a stream into lines.  Of a line that is too long, no more is kept than its id, so
    that whoever sent it can be told.
    """

    def __init__(self, limit: int) -> None:
        """@param limit: bytes of a line, without its end."""
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0
        self._scanner: IdScanner | None = None

    def feed(self, data: bytes) -> Iterator[bytes | TooLong]:
        """
        @return: the lines that are complete now, without their ends; empty ones are left out.
        """
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            self._add(data[start:end])
            start = end + 1
            line = self._take()
            if line:
                yield line
        self._add(data[start:])

    def _add(self, piece: bytes) -> None:
        if self._scanner is not None:
            self._scanner.feed(piece)
            return
        self._pieces.append(piece)
        self._size += len(piece)
        # A line may end in \r\n.
        if self._size > self._limit + 1:
            self._scanner = IdScanner()
            for each in self._pieces:
                self._scanner.feed(each)
            self._pieces = []

    def _take(self) -> bytes | TooLong:
        scanner, self._scanner = self._scanner, None
        line = b"".join(self._pieces).removesuffix(b"\r")
        self._pieces, self._size = [], 0
        if scanner is not None:
            return TooLong(scanner.id)
        if len(line) > self._limit:
            scanner = IdScanner()
            scanner.feed(line)
            return TooLong(scanner.id)
        return line


_IN_STRING: Final = re.compile(rb'["\\]')
_AT_TOP: Final = re.compile(rb'["{}\[\],:]')
_DEEPER: Final = re.compile(rb'["{}\[\]]')


class IdScanner:
    """
    Finds the C{id} of a JSON object without keeping the object: its members come in any order.

    @ivar id: the JSON text of the member C{id}, once it has been seen whole; L{None} also if
        it is longer than L{MAX_ID_BYTES}.
    """

    def __init__(self) -> None:
        self.id: bytes | None = None
        self._depth = 0
        self._in_string = False
        self._escaped = False
        # The text since the last , : or { at depth one: a name, or a value.
        self._text = b""
        self._name = b""

    def feed(self, data: bytes) -> None:
        """@param data: the next bytes, cut anywhere."""
        at = 0
        while at < len(data):
            if self._escaped:
                self._escaped = False
                self._keep(data[at : at + 1])
                at += 1
                continue
            if self._in_string:
                pattern = _IN_STRING
            else:
                pattern = _AT_TOP if self._depth <= 1 else _DEEPER
            found = pattern.search(data, at)
            if found is None:
                self._keep(data[at:])
                return
            self._keep(data[at : found.start()])
            self._mark(found[0])
            at = found.end()

    def _keep(self, text: bytes) -> None:
        if self._depth == 1 and len(self._text) <= MAX_ID_BYTES:
            self._text += text[: MAX_ID_BYTES + 1]

    def _mark(self, mark: bytes) -> None:
        if self._in_string:
            self._keep(mark)
            if mark == b"\\":
                self._escaped = True
            else:
                self._in_string = False
        elif mark == b'"':
            self._keep(mark)
            self._in_string = True
        elif mark in b"{[":
            self._depth += 1
        elif mark in b"}]":
            if self._depth == 1:
                self._end_member()
            self._depth -= 1
        elif self._depth == 1 and mark == b":":
            self._name, self._text = self._text.strip(), b""
        elif self._depth == 1:
            self._end_member()

    def _end_member(self) -> None:
        value = self._text.strip()
        if self._name == b'"id"' and value and len(value) <= MAX_ID_BYTES:
            self.id = value
        self._name = self._text = b""


# --- becoming a connection of lines ------------------------------------------------------


def target(profile: str | None) -> str:
    """
    @return: path and query string for those who want a profile, or none.
    @raise InvalidRequest: if that cannot be the name of one.
    """
    if profile is None:
        return PATH
    if not _PROFILE.fullmatch(profile):
        raise InvalidRequest(
            f"{profile[:80]!r} is not the name of a profile: write core, egregore or all",
            field="profile",
        )
    return f"{PATH}?profile={profile}"


def upgrade_request(host: str, token: str, profile: str | None) -> bytes:
    """
    What a client sends first.

    @param host: the C{Host} header.
    @param token: the bearer token.
    @param profile: which names of tools are wanted; L{None} for what the node shows.
    @raise InvalidRequest: if the profile cannot be the name of one.
    @raise ValueError: if the token cannot stand in a header.
    """
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("this is not a token")
    lines = (
        f"GET {target(profile)} HTTP/1.1",
        f"Host: {host}",
        f"Authorization: Bearer {token}",
        "Connection: Upgrade",
        f"Upgrade: {PROTOCOL}",
        "",
        "",
    )
    return "\r\n".join(lines).encode("ascii")


class UpgradeReader:
    """
    Reads the door's answer to L{upgrade_request}.

    @ivar accepted: it was 101, and what follows are lines.
    """

    def __init__(self) -> None:
        self.accepted = False
        self._received = b""

    def feed(self, data: bytes) -> bytes | None:
        """
        @return: once the connection is one of lines, what has come of them; L{None} as long
            as the answer is not complete.
        @raise RemoteError: what the door refused.
        @raise DoorUnreachable: if this is no answer of a door.
        """
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        if len(head) > MAX_HEAD:
            raise DoorUnreachable("what answers is not a meshkit node: its headers have no end")
        status = _STATUS.match(head + b"\r\n")
        if status is None and (end or len(self._received) > len("HTTP/1.1 101 ")):
            raise DoorUnreachable("what answers is not a meshkit node: it does not speak HTTP")
        if not end or status is None:
            return None
        if status[1] == b"101":
            if not _UPGRADED.search(head + b"\r\n"):
                raise DoorUnreachable("what answers is not a meshkit node: it speaks otherwise")
            self.accepted = True
            self._received = b""
            return rest
        length = _LENGTH.search(head + b"\r\n")
        wanted = min(int(length[1]), MAX_BODY) if length else 0
        if len(rest) < wanted:
            return None
        raise self._refusal(int(status[1]), rest[:wanted])

    def end(self) -> Exception:
        """@return: what it means that the connection ends before the answer is complete."""
        return DoorUnreachable("the node hung up before it answered")

    def _refusal(self, status: int, body: bytes) -> Exception:
        try:
            error = msgspec.json.decode(body, type=_Envelope).error
        except msgspec.MsgspecError:
            return DoorUnreachable(f"the door does not speak {PROTOCOL} (HTTP {status})")
        return RemoteError(error.message, error.code, status)


class _Error(msgspec.Struct):
    code: str
    message: str


class _Envelope(msgspec.Struct):
    error: _Error
