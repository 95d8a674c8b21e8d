"""
How connections between hosts begin: connectors, ports, and what lies between them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.address import IPv4Address
from twisted.internet.base import BaseConnector
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError, ConnectionRefusedError, TCPTimedOutError
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.sim.clock import SECOND, nanoseconds
from meshkit.sim.links import Link
from meshkit.sim.streams import Connection

if TYPE_CHECKING:
    from meshkit.sim.network import NetHost, Route

_log = Logger()

_LOOPBACK: Final = "127.0.0.1"

# How long a listener waits for the end of a handshake: Linux repeats itself five times.
_OPENING_NS: Final = 63 * SECOND


class Attempt:
    """
    A handshake from its first segment to its second: what a connector takes for a transport
    until there is one.

    @ivar connection: both sockets, once the listener has answered.
    """

    def __init__(
        self, connector: SimConnector, source: NetHost, local: IPv4Address, target: IPv4Address
    ) -> None:
        self._connector = connector
        self._clock = source.network.clock
        self.source = source
        self.local = local
        self.target = target
        self._route: Route
        self._port: SimPort | None = None
        self.connection: Connection | None = None
        self._number = 0
        self._sent_ns = 0
        self._done = False
        source.attempts[self] = None
        self._call = self._clock.call_at(self._clock.ns, self._send)

    def _send(self) -> None:
        self._sent_ns = self._clock.ns
        route = self._find()
        if route is None:
            # Nobody is there, not even somebody to refuse.
            self._again()
        else:
            self._route = route
            self._on_its_way(route.forth, self._arrives)

    def _find(self) -> Route | None:
        local, target = self.local, self.target
        return self.source.network.route(
            "TCP", self.source, (local.host, local.port), (target.host, target.port)
        )

    def _on_its_way(self, link: Link, arrives: Callable[[], None]) -> None:
        if link.loses():
            self._again()
        else:
            self._call = self._clock.call_at(link.transit(0, self._clock.ns), arrives)

    def _again(self) -> None:
        tcp = self.source.network.tcp
        due = self._sent_ns + (nanoseconds(tcp.connect_rto) << self._number)
        self._number += 1
        over = self._number > tcp.connect_retries
        self._call = self._clock.call_at(due, self._unanswered if over else self._send)

    def _arrives(self) -> None:
        route = self._route
        if route.nat is not None:
            # What a box lets in may have changed.
            found = self._find()
            assert found is not None
            route = self._route = found
        if not route.forth.passes() or (route.nat is not None and route.nat.box.mute):
            self._again()
            return
        if route.barred:
            assert route.nat is not None
            if route.nat.refuses:
                self._on_its_way(route.back, self._refused)
            else:
                self._again()
            return
        self._port = route.sink.port_at(route.place)
        if self._port is None:
            self._on_its_way(route.back, self._refused)
        elif self._port.open_for(self, route):
            self.connection = self._port.opening[self][0]
            self._on_its_way(route.back, self._established)
        else:
            self.source.network.tell("net.full", route.sink.name, port=route.place[1])
            self._again()

    def _refused(self) -> None:
        if self._route.back.passes():
            self._fail(ConnectionRefusedError())
        else:
            self._again()

    def _unanswered(self) -> None:
        self._fail(TCPTimedOutError())

    def _established(self) -> None:
        if not self._route.back.passes():
            self._again()
            return
        self._over()
        assert self.connection is not None
        connection = self.connection
        client = connection.client
        self.source.network.tell_of("net.connect", client, connection.server)
        connector = self._connector
        protocol: Any = None
        try:
            protocol = connector.buildProtocol(self.target)
        except Exception:
            _log.failure("the factory of a client on {host} failed", host=self.source.name)
        if client.gone:
            # The power failed meanwhile.
            return
        connector.transport = client
        client.on_lost = connector.connectionLost
        client._connect(Protocol() if protocol is None else protocol)
        self.source.sockets[client] = None
        client.out.open()
        client.run(client.protocol.makeConnection, client)
        if protocol is None:
            client.loseConnection()

    def failIfNotConnected(self, reason: Exception) -> None:
        """Called by the connector when it has waited long enough, or does not want to."""
        if not self._done:
            self._fail(reason)

    def _fail(self, reason: Exception) -> None:
        self._over()
        if self._port is not None:
            # Its answer to the listener's answer would be a reset.
            self._port.opening.pop(self, None)
        try:
            self._connector.connectionFailed(Failure(reason))
        except Exception:
            _log.failure("the factory of a client on {host} failed", host=self.source.name)

    def _over(self) -> None:
        self._done = True
        self.source.attempts.pop(self, None)
        if self._call.active():
            self._call.cancel()

    def detach(self) -> None:
        """The process is no more: nobody is told."""
        self._over()
        self._connector.cancelTimeout()


class SimConnector(BaseConnector):
    """What C{connectTCP} gives: Twisted's own, on the clock of the world."""

    def __init__(
        self,
        machine: NetHost,
        target: IPv4Address,
        factory: Any,
        timeout: float | None,
        bind: tuple[str, int] | None,
    ) -> None:
        clock: Any = machine.network.clock
        limit: Any = timeout
        super().__init__(factory, limit, clock)
        self.transport: Any
        self._machine = machine
        self._target = target
        self._bind = bind

    def _makeTransport(self) -> Any:
        host, port = self._bind or ("", 0)
        own = _LOOPBACK if self._target.host.startswith("127.") else self._machine.address
        local = IPv4Address("TCP", host or own, port or self._machine.next_port())
        return Attempt(self, self._machine, local, self._target)

    def getDestination(self) -> IAddress:
        return self._target

    def __repr__(self) -> str:
        return f"<SimConnector {self.state} {self._target.host}:{self._target.port}>"


@implementer(IListeningPort)
class SimPort:
    """
    A port on which a host listens.

    @ivar machine: the host.
    @ivar factory: makes the protocols.
    @ivar backlog: handshakes that may be under way; further ones are not answered.
    @ivar listening: does it?
    @ivar opening: the handshakes that are under way, and until when they may be.
    """

    def __init__(
        self, machine: NetHost, interface: str, port: int, factory: Any, backlog: int
    ) -> None:
        self.machine = machine
        self.factory = factory
        self.backlog = backlog
        self.listening = False
        self._key = (interface, port)
        self._address = IPv4Address("TCP", interface or "0.0.0.0", port)
        self.opening: dict[Attempt, tuple[Connection, int]] = {}

    def startListening(self) -> None:
        interface, port = self._key
        for host, taken in self.machine.ports:
            if taken == port and (host == interface or not host or not interface):
                raise cannot_listen(self._address, errno.EADDRINUSE)
        self.machine.ports[self._key] = self
        self.listening = True
        self.factory.doStart()

    def stopListening(self) -> Deferred[None]:
        if self.listening:
            self.close()
            self.factory.doStop()
        return succeed(None)

    def getHost(self) -> IAddress:
        return self._address

    def close(self) -> None:
        """Listen no more; those whose handshakes are under way will be reset."""
        self.listening = False
        self.machine.ports.pop(self._key, None)
        self.opening.clear()

    def open_for(self, attempt: Attempt, route: Route) -> bool:
        """@return: is there room for another handshake?"""
        opening = self.opening
        if attempt not in opening:
            now = self.machine.network.clock.ns
            if len(opening) >= self.backlog:
                # Whoever began them may have crashed.
                for old in [old for old, (_, until_ns) in opening.items() if until_ns <= now]:
                    del opening[old]
            if len(opening) >= self.backlog:
                return False
            opening[attempt] = (Connection(attempt, self, route), now + _OPENING_NS)
        return True

    def __repr__(self) -> str:
        return f"<SimPort {self._address.host}:{self._address.port}>"


def cannot_listen(address: IPv4Address, number: int) -> CannotListenError:
    """@param number: of the error."""
    return CannotListenError(address.host, address.port, OSError(number, os.strerror(number)))
