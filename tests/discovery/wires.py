"""Local networks in memory: hosts whose UDP ports hear each other's multicast and broadcast."""

from __future__ import annotations

import errno
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError, MulticastJoinError
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock

from meshkit.discovery.lan import BROADCAST, GROUP


@define
class Socket:
    """A UDP port of a L{Host}."""

    host: Host
    port: int
    protocol: Any
    interface: str
    groups: set[str] = field(factory=set)
    outgoing: str = ""
    ttl: int = 0
    broadcasts: bool = False
    closed: bool = False

    def write(self, datagram: bytes, addr: tuple[str, int]) -> None:
        assert not self.closed
        assert self.ttl == 1
        assert addr[0] == GROUP or self.broadcasts
        assert self.outgoing == self.interface
        address = self.interface or self.host.addresses[0]
        self.host.sent.append((self.host.clock.seconds(), address, addr, datagram))
        if addr[0] in self.host.unreachable:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        self.host.wire.carry(datagram, address, addr)

    def joinGroup(self, group: str, interface: str) -> Deferred[None]:
        interface = interface or self.host.addresses[0]
        if self.host.without_multicast:
            return fail(MulticastJoinError(group, interface, errno.ENODEV, "No such device"))
        if interface in self.groups:
            return fail(MulticastJoinError(group, interface, errno.EADDRINUSE, "in use"))
        assert group == GROUP
        self.groups.add(interface)
        return succeed(None)

    def setOutgoingInterface(self, interface: str) -> Deferred[int]:
        self.outgoing = interface
        return succeed(1)

    def setTTL(self, ttl: int) -> None:
        self.ttl = ttl

    def setBroadcastAllowed(self, allowed: bool) -> None:
        self.broadcasts = allowed

    def stopListening(self) -> Deferred[None]:
        self.closed = True
        self.host.sockets.remove(self)
        return succeed(None)


class Host:
    """The reactor of a machine with some addresses."""

    def __init__(self, wire: Wire, *addresses: str) -> None:
        self.wire = wire
        self.clock = wire.clock
        self.addresses = list(addresses)
        self.sockets: list[Socket] = []
        self.sent: list[tuple[float, str, tuple[str, int], bytes]] = []
        self.unreachable: set[str] = set()
        self.without_multicast = False
        wire.hosts.append(self)

    def seconds(self) -> float:
        return self.clock.seconds()

    def callLater(self, delay: float, function: Any, *args: Any) -> IDelayedCall:
        return self.clock.callLater(delay, function, *args)

    def listenMulticast(
        self,
        port: int,
        protocol: Any,
        interface: str = "",
        maxPacketSize: int = 8192,
        listenMultiple: bool = False,
    ) -> Socket:
        if interface and interface not in self.addresses:
            raise CannotListenError(interface, port, OSError(errno.EADDRNOTAVAIL, "not here"))
        assert (port != 0) == listenMultiple
        made = Socket(self, port, protocol, interface)
        self.sockets.append(made)
        return made


class Wire:
    """Local networks: hosts hear those whose address has the same beginning."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.hosts: list[Host] = []

    def carry(self, datagram: bytes, source: str, to: tuple[str, int]) -> None:
        link = source.rpartition(".")[0]
        for host in self.hosts:
            here = [each for each in host.addresses if each.rpartition(".")[0] == link]
            for socket in list(host.sockets):
                if socket.port == to[1] and (
                    (to[0] == BROADCAST and here) or socket.groups.intersection(here)
                ):
                    socket.protocol.datagramReceived(datagram, (source, 40_000))
