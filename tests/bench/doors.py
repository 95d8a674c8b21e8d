"""
A small HTTP/1.1 client over kept-alive sockets, so that what is measured is the server:
one request costs it tens of microseconds.  It reads answers with a Content-Length only,
which is what the doors of both kinds of node give.
"""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from time import perf_counter
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from attrs import define, field, frozen

#: Seconds for any one answer.
PATIENCE: Final = 60.0


@frozen
class Door:
    """
    Where a node listens for HTTP.

    @ivar url: C{http://HOST:PORT}.
    @ivar token: the bearer token, if it wants one.
    """

    url: str
    token: str | None = None

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """A whole request as bytes."""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {urlsplit(self.url).netloc}"]
        if self.token is not None:
            lines.append(f"Authorization: Bearer {self.token}")
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        return "\r\n".join([*lines, "", ""]).encode("ascii") + body

    def connect(self) -> socket.socket:
        parts = urlsplit(self.url)
        connection = socket.create_connection((parts.hostname, parts.port), PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


@define
class Answer:
    """An answer while it arrives."""

    buffer: bytearray = field(factory=bytearray)

    def feed(self, data: bytes) -> tuple[int, bytes] | None:
        """@return: status and body once they are whole."""
        if not data:
            raise ConnectionError("the node closed the connection in the middle of an answer")
        self.buffer += data
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return None
        head = bytes(self.buffer[:end]).lower()
        _, found, rest = head.partition(b"content-length:")
        length = int(rest.partition(b"\r\n")[0]) if found else 0
        if len(self.buffer) < end + 4 + length:
            return None
        return int(head.split(None, 2)[1]), bytes(self.buffer[end + 4 :])


@define
class Client:
    """One kept-alive connection."""

    door: Door
    connection: socket.socket

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """@return: status and body, whatever the status."""
        self.connection.sendall(self.door.request(method, path, body))
        answer = Answer()
        while (whole := answer.feed(self.connection.recv(256 * 1024))) is None:
            pass
        return whole

    def data(self, method: str, path: str, body: bytes = b"") -> Any:
        """
        @return: the envelope of a successful answer, decoded.
        @raise RuntimeError: if the node refused.
        """
        status, text = self.ask(method, path, body)
        if not 200 <= status < 300:
            raise RuntimeError(f"{method} {path}: HTTP {status} {text[:300]!r}")
        return msgspec.json.decode(text) if text else None


@contextmanager
def client(door: Door) -> Iterator[Client]:
    with closing(door.connect()) as connection:
        yield Client(door, connection)


def closed_loop(
    door: Door, clients: int, requests: Iterator[bytes], go_on: Callable[[float], bool]
) -> tuple[list[float], float]:
    """
    Some clients, each of which sends its next request when the last one was answered.

    @param requests: whole requests, enough of them.
    @param go_on: told the seconds since the start: send more?
    @return: seconds that each request took, and seconds from the first to the last answer.
    """
    latencies: list[float] = []
    with selectors.DefaultSelector() as selector:
        connections = [door.connect() for _ in range(clients)]
        try:
            start = perf_counter()
            for connection in connections:
                selector.register(connection, selectors.EVENT_READ, [Answer(), perf_counter()])
                connection.sendall(next(requests))
            while selector.get_map():
                for key, _ in selector.select(PATIENCE):
                    connection = key.fileobj  # type: ignore[assignment]
                    answer, sent = key.data
                    whole = answer.feed(connection.recv(256 * 1024))
                    if whole is None:
                        continue
                    if not 200 <= whole[0] < 300:
                        raise RuntimeError(f"HTTP {whole[0]}: {whole[1][:300]!r}")
                    now = perf_counter()
                    latencies.append(now - sent)
                    if go_on(now - start):
                        key.data[:] = [Answer(), now]
                        connection.sendall(next(requests))
                    else:
                        selector.unregister(connection)
            return latencies, perf_counter() - start
        finally:
            for connection in connections:
                connection.close()
