"""
Shows the token of a node at its door, for programs that cannot: a forwarder of TCP that puts
one header into every request, and has the others name the node's port instead of its own.
"""

from __future__ import annotations

import re
from typing import Any, Final

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ClientFactory, Factory, Protocol, connectionDone
from twisted.python.failure import Failure

_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)


class Doorman(Factory):
    """Listens for the program, and dials the node for each of its connections."""

    noisy = False

    def __init__(self, reactor: Any, port: int, token: str) -> None:
        """@param port: of the node's door, on the loopback interface."""
        self.reactor = reactor
        self.port = port
        self.header = f"Authorization: Bearer {token}\r\n".encode("ascii")

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return _Front(self)


class _Front(Protocol):
    """The program's side.  What it says waits until the node is there."""

    transport: Any

    def __init__(self, doorman: Doorman) -> None:
        self._doorman = doorman
        self._buffer = b""
        self._body = 0
        self._back: _Back | None = None
        self._lost = False

    def connectionMade(self) -> None:
        factory = ClientFactory()
        factory.noisy = False
        factory.buildProtocol = lambda addr: _Back(self)  # type: ignore[method-assign]
        self._doorman.reactor.connectTCP("127.0.0.1", self._doorman.port, factory)

    def connected_to(self, back: _Back) -> None:
        self._back = back
        if self._lost:
            back.transport.abortConnection()
        else:
            self.dataReceived(b"")

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        if self._back is None:
            return
        while self._buffer:
            if self._body:
                part, self._buffer = self._buffer[: self._body], self._buffer[self._body :]
                self._body -= len(part)
                self._back.transport.write(part)
                continue
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            length = _LENGTH.search(head)
            self._body = 0 if length is None else int(length[1])
            line, _, others = head.partition(b"\r\n")
            own, theirs = self.transport.getHost().port, self._doorman.port
            others = others.replace(b":%d" % own, b":%d" % theirs)
            self._back.transport.write(line + b"\r\n" + self._doorman.header + others + found)
            self._buffer = rest

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        if self._back is not None:
            self._back.transport.abortConnection()


class _Back(Protocol):
    """The node's side."""

    transport: Any

    def __init__(self, front: _Front) -> None:
        self._front = front

    def connectionMade(self) -> None:
        self._front.connected_to(self)

    def dataReceived(self, data: bytes) -> None:
        self._front.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._front.transport.loseConnection()
