"""
What two peers say to each other::

    dialler                          listener
    16 random bytes, a probe   -->
                               <--   the same 16 bytes
    the next probe             -->
    ...
    goodbye                    -->

Who is there and that nobody listens in is the channel's affair.  The probes are random,
so that an answer cannot have been sent before its question was read.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure

from meshkit.errors import MalformedFrame
from meshkit.shs import ISecureTransport

PROBE_BYTES: Final = 16
#: Probes on one connection.  So one who does not read his answers can make us keep no
#: more than these.
MAX_PROBES: Final = 1000
#: Seconds without a byte after which a listener hangs up.
MAX_SILENCE: Final = 30.0


class Answerer(Protocol, TimeoutMixin):
    """The listener's side."""

    transport: ISecureTransport

    def __init__(self, reactor: IReactorTime, count: Callable[[], None]) -> None:
        """@param count: called for each answer."""
        self._reactor = reactor
        self._count = count
        self._answered = 0
        self._held = bytearray()

    def callLater(self, period: float, func: Callable[[], None]) -> IDelayedCall:
        # TimeoutMixin's own takes the global reactor.
        return self._reactor.callLater(period, func)

    def connectionMade(self) -> None:
        self.setTimeout(MAX_SILENCE)

    def dataReceived(self, data: bytes) -> None:
        self.resetTimeout()
        self._held += data
        whole = len(self._held) // PROBE_BYTES
        for _ in range(min(whole, MAX_PROBES - self._answered)):
            self.transport.write(bytes(self._held[:PROBE_BYTES]))
            del self._held[:PROBE_BYTES]
            self._answered += 1
            self._count()
        if self._answered == MAX_PROBES:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.setTimeout(None)


class Prober(Protocol):
    """
    The dialler's side: sends one probe after the other.

    @ivar done: Deferred of the seconds that each took, or of why the connection ended
        before all were back.  Cancelling it drops the connection.
    """

    transport: ISecureTransport

    def __init__(self, reactor: IReactorTime, rng: Random, probes: int) -> None:
        """@param probes: how many, from 1 to L{MAX_PROBES}."""
        self._reactor = reactor
        self._rng = rng
        self._probes = probes
        self._probe = b""
        self._sent_at = 0.0
        self._held = b""
        self._seconds: list[float] = []
        self.done: Deferred[list[float]] = Deferred(self._cancel)

    def connectionMade(self) -> None:
        self._send()

    def _send(self) -> None:
        self._probe, self._held = self._rng.randbytes(PROBE_BYTES), b""
        self._sent_at = self._reactor.seconds()
        self.transport.write(self._probe)

    def dataReceived(self, data: bytes) -> None:
        self._held += data
        if not self._probe.startswith(self._held):
            self._finish(Failure(MalformedFrame("the peer sent back something else than it got")))
            self.transport.abortConnection()
        elif self._held == self._probe:
            self._seconds.append(self._reactor.seconds() - self._sent_at)
            if len(self._seconds) < self._probes:
                self._send()
            else:
                self._finish(self._seconds)
                self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._finish(reason)

    def _finish(self, result: Any) -> None:
        if not self.done.called:
            self.done.callback(result)

    def _cancel(self, done: Deferred[list[float]]) -> None:
        self.transport.abortConnection()
