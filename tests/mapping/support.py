"""A router without a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.address import IPv4Address
from twisted.internet.error import CannotListenError
from twisted.internet.task import Clock

OWN: Final = "192.168.1.2"
ROUTER: Final = "192.168.1.1"


class Socket:
    """A UDP socket that is connected to the router."""

    def __init__(self, reactor: Reactor, protocol: Any) -> None:
        self._reactor = reactor
        self._protocol = protocol
        self.to: tuple[str, int] | None = None

    def connect(self, host: str, port: int) -> None:
        if self._reactor.no_way:
            raise OSError(101, "Network is unreachable")
        self.to = (host, port)

    def getHost(self) -> IPv4Address:
        return IPv4Address("UDP", OWN, 50_000)

    def write(self, datagram: bytes) -> None:
        self._reactor.asked.append((self._reactor.seconds(), datagram))
        self._reactor.callLater(0.01, self._answer, datagram)

    def _answer(self, datagram: bytes) -> None:
        if self not in self._reactor.sockets:
            return
        answers = self._reactor.router(datagram)
        if answers is None:
            self._protocol.connectionRefused()
            return
        for answer in answers:
            # Two may come in one turn of the reactor.
            self._protocol.datagramReceived(answer, self.to)

    def stopListening(self) -> None:
        self._reactor.sockets.remove(self)


class Reactor(Clock):
    """
    A clock, and sockets.

    @ivar router: what it answers to a datagram: nothing or more; L{None} if nobody listens there.
    @ivar asked: when it was asked what.
    @ivar sockets: those that are open.
    @ivar no_way: the network is down.
    @ivar full: there are no more sockets.
    """

    def __init__(self, router: Callable[[bytes], list[bytes] | None] = lambda _: []) -> None:
        super().__init__()
        self.router = router
        self.asked: list[tuple[float, bytes]] = []
        self.sockets: list[Socket] = []
        self.no_way = False
        self.full = False

    def listenUDP(self, port: int, protocol: Any, maxPacketSize: int = 0) -> Socket:
        if self.full:
            raise CannotListenError("", port, OSError(24, "Too many open files"))
        opened = Socket(self, protocol)
        self.sockets.append(opened)
        protocol.makeConnection(opened)
        return opened

    def run(self, seconds: float) -> None:
        """Let time pass in small steps."""
        self.pump([0.01] * round(seconds * 100))
