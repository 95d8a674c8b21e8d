"""
Asking a router by UDP: the same question, again and again with longer pauses, until it answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Address
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger

from meshkit.errors import MappingFailed
from meshkit.mapping.values import MAX_DATAGRAM, ROUTER_PORT

T = TypeVar("T")


def ask(
    reactor: Any,
    router: IPv4Address | None,
    question: Callable[[IPv4Address], bytes],
    read: Callable[[bytes], T | None],
    waits: Sequence[float],
) -> Deferred[T]:
    """
    @param reactor: C{IReactorTime} and C{IReactorUDP}.
    @param router: whom to ask; it fails at once if that is not known.
    @param question: gives the datagram, for the address of this host that the router sees.
    @param read: gives what an answer says; L{None} for a datagram that is no answer to it.
        It raises L{MappingFailed} if the router refuses.
    @param waits: seconds that are waited for an answer, each time that it is asked.
    @return: Deferred of what C{read} gives.  It fails with L{MappingFailed}, as that does, or if
        the router does not answer.  Cancelling it ends it.
    """
    if router is None:
        return fail(MappingFailed("it is not known who the router is"))
    asking = _Asking(reactor, router, question, read, waits)
    # Only the router's datagrams come to a socket that is connected to it, and what its port says
    # by ICMP.
    try:
        reactor.listenUDP(0, asking, maxPacketSize=MAX_DATAGRAM)
    except CannotListenError as e:
        asking.fail(f"there is no socket to ask it with: {e}")
    return asking.answered


class _Asking(DatagramProtocol, Generic[T]):
    """
    One question.

    @ivar answered: see L{ask}.
    """

    noisy = False
    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        router: IPv4Address,
        question: Callable[[IPv4Address], bytes],
        read: Callable[[bytes], T | None],
        waits: Sequence[float],
    ) -> None:
        self._reactor = reactor
        self._router = router
        self._question = question
        self._read = read
        self._waits = list(waits)
        self._datagram = b""
        self._again: IDelayedCall | None = None
        self.answered: Deferred[T] = Deferred(lambda _: self._end())

    def startProtocol(self) -> None:
        transport: Any = self.transport
        try:
            transport.connect(str(self._router), ROUTER_PORT)
            self._datagram = self._question(IPv4Address(transport.getHost().host))
        except (OSError, ValueError) as e:
            # As there is no way to it at the moment.
            self.fail(f"it cannot be asked: {e}")
        else:
            self._ask()

    def _ask(self) -> None:
        self._again = None
        if not self._waits:
            self.fail("it does not answer")
            return
        self._again = self._reactor.callLater(self._waits.pop(0), self._ask)
        try:
            self._transport.write(self._datagram)
        except OSError as e:
            self.fail(f"it cannot be asked: {e}")

    @property
    def _transport(self) -> Any:
        return self.transport

    def datagramReceived(self, datagram: bytes, addr: object) -> None:
        if self.answered.called:
            return
        try:
            found = self._read(datagram)
        except MappingFailed as e:
            self._end()
            self.answered.errback(e)
            return
        if found is not None:
            self._end()
            self.answered.callback(found)

    def connectionRefused(self) -> None:
        self.fail("nothing there listens for it")

    def fail(self, why: str) -> None:
        """It came to nothing."""
        if not self.answered.called:
            self._end()
            self.answered.errback(MappingFailed(f"the router at {self._router}: {why}"))

    def _end(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self.transport is not None:
            closing = self._transport.stopListening()
            if closing is not None:
                closing.addErrback(
                    lambda failure: self._log.failure("a socket could not be closed", failure)
                )
