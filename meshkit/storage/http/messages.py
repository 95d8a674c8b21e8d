"""
HTTP/1.1 messages, as a storage peer and those who ask it need them.  Pure.

A client of the web takes whatever a server says: headers without end, bodies of any size, lengths
that contradict one another.  A server here may be anybody, so an answer is read by the letter of
RFC 9112, with a limit on all of it, and anything else ends the connection:

  - a status line and at most L{MAX_HEADERS} headers, in L{MAX_HEAD} bytes together;
  - exactly one C{Content-Length}, of no more than was asked for, and no C{Transfer-Encoding};
  - no interim answer (1xx), as none is asked for;
  - no byte after the body, as requests are sent one at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from attrs import field, frozen

#: Bytes of the first line and the headers of a message.
MAX_HEAD: Final = 8 * 1024
MAX_HEADERS: Final = 40

_STATUS: Final = re.compile(r"HTTP/1\.1 ([1-5][0-9]{2})(?: [\t\x20-\x7e\x80-\xff]*)?")
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_LENGTH: Final = re.compile(r"[0-9]{1,10}")
_END: Final = b"\r\n\r\n"
#: They contradict each other where they come twice.
_SINGLE: Final = frozenset({"content-length", "content-type", "content-digest"})


class MalformedMessage(ValueError):
    """It is not the HTTP that is spoken here.  The message says in what way."""


@frozen
class Response:
    """
    An answer.

    @ivar status: 200 to 599.
    @ivar headers: values by name in lower case, in the order they came.
    @ivar body: all of it.
    """

    status: int
    headers: Mapping[str, tuple[str, ...]]
    body: bytes = field(repr=lambda body: f"<{len(body)} bytes>")

    def header(self, name: str) -> str | None:
        """@return: the value of a header that is there once; L{None} if it is not."""
        values = self.headers.get(name, ())
        return values[0] if len(values) == 1 else None

    @property
    def last(self) -> bool:
        """The connection is closed after it."""
        words = ",".join(self.headers.get("connection", ())).lower().split(",")
        return any(word.strip() == "close" for word in words)


class ResponseReader:
    """
    Reads one answer, in pieces of any size.

    @ivar begun: a byte of it is here.
    """

    __slots__ = ("_body", "_head", "_headers", "_left", "_max_body", "_status", "begun")

    def __init__(self, max_body: int) -> None:
        """@param max_body: bytes that its body may have."""
        self._max_body = max_body
        self._head = bytearray()
        self._headers: Mapping[str, tuple[str, ...]] = {}
        self._body: list[bytes] = []
        self._status = 0
        self._left = 0
        self.begun = False

    def feed(self, data: bytes) -> Response | None:
        """
        @param data: the next bytes.
        @return: the answer, when it is complete.  Nothing may be fed after that.
        @raise MalformedMessage: if it is none that is accepted here.
        """
        self.begun = True
        if not self._status:
            rest = self._read_head(data)
            if rest is None:
                return None
            data = rest
        if len(data) > self._left:
            raise MalformedMessage("there are more bytes than its Content-Length says")
        if data:
            self._body.append(data)
            self._left -= len(data)
        if self._left:
            return None
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        return Response(self._status, self._headers, body)

    def _read_head(self, data: bytes) -> bytes | None:
        """@return: what follows the head; L{None} if the head is not complete."""
        head = self._head
        # The end may have begun in what was here before.
        searched = max(0, len(head) - len(_END) + 1)
        room = MAX_HEAD - len(head)
        head += data[:room]
        end = head.find(_END, searched)
        if end < 0:
            if len(data) >= room:
                raise MalformedMessage(f"its headers have more than {MAX_HEAD} bytes")
            return None
        taken = len(data) - (len(head) - end - len(_END)) - max(0, len(data) - room)
        first, *lines = head[:end].decode("latin-1").split("\r\n")
        head.clear()
        found = _STATUS.fullmatch(first)
        if found is None or found[1].startswith("1"):
            raise MalformedMessage("it does not begin with the status of an answer")
        self._headers = parse_headers(lines)
        self._left = self._length()
        self._status = int(found[1])
        return data[taken:]

    def _length(self) -> int:
        if "transfer-encoding" in self._headers:
            raise MalformedMessage("it has a Transfer-Encoding")
        (text,) = self._headers.get("content-length", ("",))
        if not _LENGTH.fullmatch(text):
            raise MalformedMessage("it has no Content-Length that is a number")
        length = int(text)
        if length > self._max_body:
            raise MalformedMessage(f"it has {length} bytes, and {self._max_body} are the most")
        return length


def parse_headers(lines: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
    """
    @param lines: each a header.
    @return: values by name in lower case.
    @raise MalformedMessage: if one is none, or comes twice though it must not, or there are
        more than L{MAX_HEADERS}.
    """
    headers: dict[str, tuple[str, ...]] = {}
    for count, line in enumerate(lines, 1):
        if count > MAX_HEADERS:
            raise MalformedMessage(f"it has more than {MAX_HEADERS} headers")
        name, colon, value = line.partition(":")
        if not colon or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise MalformedMessage("it has a header that is none")
        name = name.lower()
        if name in headers and name in _SINGLE:
            raise MalformedMessage(f"it has more than one {name}")
        headers[name] = (*headers.get(name, ()), value.strip(" \t"))
    return headers


def encode_request(method: str, path: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """
    @param headers: names and values; C{Host} and C{Content-Length} among them.
    @return: the head of a request.
    """
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")
