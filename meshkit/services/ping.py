"""
The protocol C{ping}, which every node serves: what is sent comes back.

It tells that a peer is there, proves with its handshake that it owns its key, and shows
how long a round trip takes.  The dialler sends L{PING_BYTES} random bytes at a time and
waits for them before it sends the next.
"""

from __future__ import annotations

from random import Random
from typing import Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from meshkit.errors import MalformedFrame, PeerTooSlow

#: The label of its capability.
LABEL: Final = "ping"

PING_BYTES: Final = 16
#: Pings that one connection may send.
MAX_PINGS: Final = 64
#: Connections that are answered at a time.
MAX_CONNECTIONS: Final = 64
#: Seconds for each ping, on either side.
PATIENCE: Final = 10.0


class PingFactory(Factory):
    """Answers pings."""

    noisy = False

    def __init__(self, reactor: IReactorTime) -> None:
        self.reactor = reactor
        self._open = 0

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        return None if self._open >= MAX_CONNECTIONS else _Answering(self)

    def opened(self) -> None:
        self._open += 1

    def lost(self) -> None:
        self._open -= 1


class _Answering(Protocol):
    def __init__(self, factory: PingFactory) -> None:
        self._factory = factory
        self._left = MAX_PINGS * PING_BYTES
        self._deadline: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._factory.opened()
        self._deadline = self._factory.reactor.callLater(PATIENCE, self._give_up)

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        if self._deadline is not None and self._deadline.active():
            self._deadline.reset(PATIENCE)
        self._left -= len(data)
        if self._left < 0:
            self.transport.loseConnection()
        else:
            self.transport.write(data)

    def _give_up(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._factory.lost()
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()


class Pinging(Protocol):
    """
    The dialler's side.

    @ivar connected_to: what the transport says of the peer.
    """

    connected_to: IAddress | None = None

    def __init__(self, reactor: IReactorTime, rng: Random) -> None:
        self._reactor = reactor
        self._rng = rng
        self._sent = b""
        self._received = bytearray()
        self._came_back: Deferred[None] | None = None
        self._lost: Failure | None = None

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.connected_to = self.transport.getPeer()

    async def ping(self) -> float:
        """
        @return: seconds until what was sent had come back.
        @raise PeerTooSlow: if that takes more than L{PATIENCE}.
        @raise MalformedFrame: if something else comes.
        """
        assert self.transport is not None
        if self._lost is not None:
            self._lost.raiseException()
        began = self._reactor.seconds()
        self._sent = self._rng.randbytes(PING_BYTES)
        self._received.clear()
        waiting: Deferred[None] = Deferred()
        self._came_back = waiting
        waiting.addTimeout(PATIENCE, self._reactor, _too_slow)
        self.transport.write(self._sent)
        try:
            await waiting
        finally:
            self._came_back = None
        return self._reactor.seconds() - began

    def dataReceived(self, data: bytes) -> None:
        self._received += data[: PING_BYTES + 1 - len(self._received)]
        waiting = self._came_back
        if waiting is None or len(self._received) < PING_BYTES:
            return
        self._came_back = None
        if self._received == self._sent:
            waiting.callback(None)
        else:
            waiting.errback(MalformedFrame("the peer did not send back what it was sent"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = reason
        waiting, self._came_back = self._came_back, None
        if waiting is not None:
            waiting.errback(reason)


def _too_slow(_result: object, seconds: float) -> None:
    raise PeerTooSlow(f"the peer did not answer a ping within {seconds:g} s")
