"""
UDP between hosts: datagrams that are lost, overtake each other, and come twice.

One with more jitter than another is overtaken by it: nothing keeps datagrams in order.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError, MessageLengthError
from twisted.internet.interfaces import IListeningPort, IUDPTransport
from twisted.logger import Logger
from zope.interface import implementer

from meshkit.sim.nat import Place

if TYPE_CHECKING:
    from meshkit.sim.network import NetHost, Route

__all__ = ["BROADCAST", "LARGEST", "SimDatagramPort"]

#: Reaches all who are behind one box with the sender.
BROADCAST: Final = "255.255.255.255"

#: Bytes of a datagram, at most.
LARGEST: Final = 65_507


@implementer(IUDPTransport, IListeningPort)
class SimDatagramPort:
    """
    A UDP socket.

    @ivar machine: its host.
    @ivar protocol: a C{DatagramProtocol}.
    """

    _log = Logger()

    def __init__(
        self, machine: NetHost, interface: str, port: int, protocol: Any, largest: int
    ) -> None:
        """@param largest: of what comes; the rest of a larger one is cut off."""
        self.machine = machine
        self.protocol = protocol
        self._key = (interface, port)
        self._largest = largest
        self._remote: Place | None = None
        self._broadcasts = False
        self._open = False

    def startListening(self) -> None:
        interface, port = self._key
        for host, taken in self.machine.datagram_ports:
            if taken == port and (host == interface or not host or not interface):
                taken_already = OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
                raise CannotListenError(interface, port, taken_already)
        self.machine.datagram_ports[self._key] = self
        self._open = True
        self.protocol.makeConnection(self)

    def stopListening(self) -> Deferred[None]:
        return maybeDeferred(self._stop)

    def loseConnection(self) -> None:
        self.stopListening()

    def _stop(self) -> None:
        if self._open:
            self.close()
            self.protocol.doStop()

    def close(self) -> None:
        """Get nothing any more."""
        self._open = False
        self.machine.datagram_ports.pop(self._key, None)

    def getHost(self) -> Any:
        return IPv4Address("UDP", self._key[0] or "0.0.0.0", self._key[1])

    def connect(self, host: str, port: int) -> None:
        if self._remote is not None:
            raise RuntimeError("it is connected already")
        self._remote = (host, port)

    def setBroadcastAllowed(self, enabled: bool) -> None:
        self._broadcasts = bool(enabled)

    def getBroadcastAllowed(self) -> bool:
        return self._broadcasts

    def write(self, packet: bytes, addr: Place | None = None) -> None:
        target = self._remote if addr is None else addr
        if target is None:
            raise ValueError("a datagram needs an address to go to")
        if len(packet) > LARGEST:
            raise MessageLengthError(f"a datagram holds {LARGEST} bytes, not {len(packet)}")
        if not self._open:
            return
        if target[0] != BROADCAST:
            self._send(packet, target)
            return
        if not self._broadcasts:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        nat = self.machine.behind
        for address in [] if nat is None else list(nat.hosts):
            if address != self.machine.address:
                self._send(packet, (address, target[1]))

    def writeSequence(self, packets: Any, addr: Place) -> None:
        self.write(b"".join(packets), addr)

    def _find(self, target: Place) -> Route | None:
        own = self._key[0] or ("127.0.0.1" if target[0][:4] == "127." else self.machine.address)
        return self.machine.network.route("UDP", self.machine, (own, self._key[1]), target)

    def _send(self, packet: bytes, target: Place) -> None:
        route = self._find(target)
        if route is None:
            return
        network, link = self.machine.network, route.forth
        copies = 2 if link.duplicates and link.draws("copies").random() < link.duplicates else 1
        for _ in range(copies):
            if not link.loses():
                due = link.transit(len(packet), network.clock.ns)
                network.clock.call_at(due, self._arrive, packet, target, route)

    def _arrive(self, packet: bytes, target: Place, route: Route) -> None:
        if not route.forth.passes() or (route.nat is not None and route.nat.box.mute):
            return
        place: Place | None = route.place
        if route.nat is not None:
            # What a box lets in may have changed meanwhile.
            place = route.nat.inbound("UDP", target[1], route.seen)
            if place is None:
                return
            sink = route.nat.hosts[place[0]]
        else:
            sink = route.sink
        assert place is not None
        ports = sink.datagram_ports
        port = ports.get(place) or ports.get(("", place[1]))
        if port is not None:
            self.machine.network.tell(
                "net.datagram", sink.name, source=self.machine.name, port=place[1], data=packet
            )
            port.receive(packet, route.seen)

    def receive(self, packet: bytes, source: Place) -> None:
        """Something has come."""
        if self._remote not in (None, source):
            return
        try:
            self.protocol.datagramReceived(packet[: self._largest], source)
        except Exception:
            self._log.failure("a protocol on {host} failed", host=self.machine.name)

    def __repr__(self) -> str:
        return f"<SimDatagramPort {self.machine.name}:{self._key[1]}>"
