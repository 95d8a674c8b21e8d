"""
Calling out to nodes of Egregore on the local network, and listening for them: UDP around
L{meshkit.gossip.egregore.datagrams}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IMulticastTransport
from twisted.internet.protocol import DatagramProtocol
from twisted.logger import Logger

from meshkit.gossip.egregore.datagrams import (
    BROADCAST,
    BURST,
    EVERY,
    MAX_DATAGRAM,
    PAUSE,
    PORT,
    Callers,
    write,
)
from meshkit.identity.addresses import HostPort

#: Seconds between two looks whether somebody is to be forgotten.
LOOK: Final = 60.0


class Calling:
    """See the module.  Call L{start}, and in the end L{stop}."""

    _log: ClassVar[Logger] = Logger()

    def __init__(
        self,
        reactor: Any,
        network: bytes,
        own: str,
        *,
        listening: Callable[[], int | None],
        changed: Callable[[], None],
        port: int = PORT,
    ) -> None:
        """
        @param reactor: C{IReactorTime} and C{IReactorMulticast}.
        @param network: L{meshkit.gossip.egregore.datagrams.discriminator}.
        @param own: our own id.
        @param listening: gives the TCP port at which others reach us; L{None} if there is none.
        @param changed: called when L{places} gives others.
        """
        self._reactor = reactor
        self._network = network
        self._own = own
        self._listening = listening
        self._changed = changed
        self._port = port
        self._callers = Callers(network, own)
        self._socket: IMulticastTransport | None = None
        self._calls: dict[str, IDelayedCall] = {}
        self._fault: str | None = None

    def places(self) -> list[HostPort]:
        """Where others can be dialled who called lately, sorted."""
        return self._callers.places()

    @property
    def fault(self) -> str | None:
        """Why nobody hears us; L{None} if they may."""
        return self._fault

    def start(self) -> None:
        """
        Listen, and begin to call.

        @raise CannotListenError: from L{twisted.internet.error}: the UDP port is taken.
        """
        # Of their nodes one alone can be on a machine.  This one shares the port with others that
        # do so, such as our own beacons.
        self._socket = socket = self._reactor.listenMulticast(
            self._port, _Receiving(self), "", MAX_DATAGRAM + 1, listenMultiple=True
        )
        socket.setBroadcastAllowed(True)
        self._call(int(BURST / EVERY))
        self._later("look", LOOK, self._look)

    def stop(self) -> Deferred[None]:
        """@return: Deferred that fires when the socket is closed.  It cannot be cancelled."""
        for call in self._calls.values():
            call.cancel()
        self._calls.clear()
        socket, self._socket = self._socket, None
        if socket is None:
            return succeed(None)
        return maybeDeferred(socket.stopListening).addCallback(lambda _: None)

    def _later(self, name: str, seconds: float, function: Callable[[], None]) -> None:
        def run() -> None:
            del self._calls[name]
            function()

        self._calls[name] = self._reactor.callLater(seconds, run)

    def _call(self, left: int) -> None:
        """@param left: of the burst, with this one."""
        port = self._listening()
        if port is not None and self._socket is not None:
            try:
                self._socket.write(write(self._network, port, self._own), (BROADCAST, self._port))
                self._fault = None
            except OSError as e:
                self._note(str(e))
        if left > 1:
            self._later("call", EVERY, lambda: self._call(left - 1))
        else:
            self._later("call", EVERY + PAUSE, lambda: self._call(int(BURST / EVERY)))

    def _note(self, fault: str) -> None:
        if self._fault is None:
            self._log.info("egregore: nobody hears us call: {fault}", fault=fault)
        self._fault = fault

    def _look(self) -> None:
        if self._callers.forget(self._reactor.seconds()):
            self._changed()
        self._later("look", LOOK, self._look)

    def received(self, datagram: bytes, host: str) -> None:
        """Somebody's datagram came."""
        if self._socket is not None and self._callers.heard(
            datagram, host, self._reactor.seconds()
        ):
            self._changed()


class _Receiving(DatagramProtocol):
    noisy = False

    def __init__(self, calling: Calling) -> None:
        self._calling = calling

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:
        self._calling.received(datagram, addr[0])
