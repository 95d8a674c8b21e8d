"""
The network of a simulated world: TCP between hosts, with all that can happen to it.

Bytes cross a link as segments, each of which is one call of the clock.  A segment takes the
link's latency, some jitter that never reorders a stream, and the time that its bytes need on
the link; it may be lost, and then comes when it is sent again, after a time that doubles.
What a partition, a silent host or a host without power swallows is sent again too, and
arrives if the network heals in time; else the connection dies, no sooner than a kernel would
give it up.  Until then nobody is told anything: half-open connections are the rule.

A reader that pauses stops the sender, when what is on its way and what it has not read fill
L{Tcp.window}.  Data for a connection that its host does not know, because it has been started
anew, is answered with a reset.

The state machine of a transport is that of L{meshkit.testing.transports}; here is what lies
beneath it.  What happens depends on the clock, on the order of the calls and on the seed: each
link draws its losses, its jitter and where streams are cut from streams of its own.

What it leaves out: congestion control (links have a bandwidth, and each connection a window),
fast retransmission, the loss of single acknowledgements (a later one makes up for it), TIME_WAIT.

Sources: RFC 9293 (the states, resets, half-open connections), RFC 6298 (retransmission), and
Linux for the numbers in L{Tcp}.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Sequence
from typing import Any, Final

from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import (
    IConnector,
    IReactorTCP,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from zope.interface import implementer

from meshkit.sim.clock import SimClock
from meshkit.sim.handshakes import Attempt, SimConnector, SimPort, cannot_listen
from meshkit.sim.links import Link, Quality
from meshkit.sim.seeds import Seeds
from meshkit.sim.streams import Pipe, Segment, SimTransport, Tcp
from meshkit.sim.trace import Trace

__all__ = ["NetHost", "SimNetwork", "Tcp"]

_FIRST_PORT: Final = 49152
_LAST_PORT: Final = 65535


@implementer(IReactorTCP)
class NetHost:
    """
    What a host has of the network: an address, a loopback interface, ports, connections.
    It is what a reactor of that host has for TCP.

    @ivar network: it is one of.
    @ivar name: unique in the network.
    @ivar address: dotted quad.
    @ivar up: does its kernel run?
    @ivar boots: how often it was started anew.
    @ivar group: its side of a partition, or L{None}.
    @ivar mute: neither sends nor gets anything, for lack of power or as it was silenced.
    """

    def __init__(self, network: SimNetwork, name: str, address: str) -> None:
        self.network = network
        self.name = name
        self.address = address
        self.up = True
        self.boots = 0
        self.group: int | None = None
        self.silent = False
        self.mute = False
        self.ports: dict[tuple[str, int], SimPort] = {}
        self._ports_given = 0
        # In the order in which they were made.
        self.sockets: dict[SimTransport, None] = {}
        self.attempts: dict[Attempt, None] = {}

    @property
    def transports(self) -> Sequence[SimTransport]:
        """Its connections, the oldest first."""
        return list(self.sockets)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> SimPort:
        """
        See C{IReactorTCP}.

        @param interface: its address, one that begins with C{127.}, or all of them.
        @raise CannotListenError: if the port is taken, or the address is not its own.
        """
        host = "" if interface == "0.0.0.0" else interface
        if host and host != self.address and not host.startswith("127."):
            raise cannot_listen(IPv4Address("TCP", host, port), errno.EADDRNOTAVAIL)
        listening = SimPort(self, host, port or self.next_port(), factory, backlog)
        listening.startListening()
        return listening

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: Any,
        timeout: float | None = 30,
        bindAddress: tuple[str, int] | None = None,
    ) -> IConnector:
        """
        See C{IReactorTCP}.

        @param host: dotted quad.
        @param timeout: seconds; L{None} leaves it to the kernel.
        @param bindAddress: own address and port to connect from, where they are not empty.
        """
        connector = SimConnector(
            self, IPv4Address("TCP", host, port), factory, timeout, bindAddress
        )
        connector.connect()
        return connector

    def crash(self, *, power: bool = True) -> None:
        """
        The process is no more: none of its code is called again by the network.

        @param power: the whole host is gone.  It answers nothing, until it is started
            again, and then does not know its connections.  If not, its kernel closes them.
        """
        if power:
            self.boots += 1
            self.up = False
            self._mute()
        for port in list(self.ports.values()):
            port.close()
        for attempt in list(self.attempts):
            attempt.detach()
        for transport in list(self.sockets):
            transport.let_go(True)
            transport.detach()

    def restart(self) -> None:
        """Its kernel runs again."""
        self.up = True
        self._mute()

    def silence(self, silent: bool = True) -> None:
        """Nothing gets in or out, though it runs; or it does again."""
        self.silent = silent
        self._mute()

    def _mute(self) -> None:
        self.mute = self.silent or not self.up

    def reaches(self, address: str) -> NetHost | None:
        """Whom it reaches at an address."""
        if address.startswith("127.") or address == self.address:
            return self
        return self.network._addresses.get(address)

    def port_at(self, target: IPv4Address) -> SimPort | None:
        found = self.ports.get((target.host, target.port))
        return self.ports.get(("", target.port)) if found is None else found

    def next_port(self) -> int:
        """A port that was not used for long."""
        self._ports_given += 1
        return _FIRST_PORT + self._ports_given % (_LAST_PORT + 1 - _FIRST_PORT)

    def __repr__(self) -> str:
        return f"<NetHost {self.name} {self.address}>"


class SimNetwork:
    """
    See the module.  Hosts are named by their names.

    @ivar clock: of the world.
    @ivar seeds: of the world.
    @ivar tcp: what all kernels do.
    @ivar cuts: how likely a segment reaches the protocol in two pieces.
    @ivar hosts: by name, in the order in which they were made.
    @ivar segments: how many arrived with data.
    @ivar bytes: how many they held.
    @ivar retransmissions: how many were sent again.
    @ivar resets: connections that ended for one side by a reset.
    """

    def __init__(
        self,
        clock: SimClock,
        seeds: Seeds,
        trace: Trace | None = None,
        *,
        tcp: Tcp | None = None,
        latency: float = 0.02,
        jitter: float = 0.0,
        bandwidth: float | None = None,
        loss: float = 0.0,
        cuts: float = 0.0,
    ) -> None:
        """
        @param trace: is told of each segment, and of what becomes of connections.
        @param latency: seconds one way, for links that are not set otherwise.
        @param jitter: seconds that are added to it, at most.
        @param bandwidth: bytes in a second; no limit, if L{None}.
        @param loss: how likely a segment is lost.
        """
        self.clock = clock
        self.seeds = seeds
        self.tcp = Tcp() if tcp is None else tcp
        self.cuts = cuts
        self.hosts: dict[str, NetHost] = {}
        self.segments = 0
        self.bytes = 0
        self.retransmissions = 0
        self.resets = 0
        self._trace = trace
        self._addresses: dict[str, NetHost] = {}
        self._links: dict[tuple[str, str], Link] = {}
        self._usual = Quality(0, 0, None, 0.0).changed(latency, jitter, bandwidth, loss)

    def host(self, name: str, address: str | None = None) -> NetHost:
        """
        Connect a host.

        @param address: dotted quad; the next of C{10.0.0.0/8}, if not given.
        @raise ValueError: if the name or the address is taken.
        """
        if address is None:
            number = len(self.hosts) + 1
            address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        if name in self.hosts or address in self._addresses:
            raise ValueError(f"there is a host {name} or at {address} already")
        made = self.hosts[name] = self._addresses[address] = NetHost(self, name, address)
        return made

    def attach(self, name: str, *, behind: Any = None) -> str:
        """
        Connect a host, and tell its address; see L{host}.

        @param behind: what stands between it and the others.
        """
        if behind is not None:
            raise ValueError("nothing can stand between a host and the others yet")
        return self.host(name).address

    def server_endpoint(self, port: int, host: str) -> IStreamServerEndpoint:
        """Twisted's endpoint, on the host with that address."""
        return TCP4ServerEndpoint(self._addresses[host], port, interface=host)

    def client_endpoint(
        self, port: int, host: str, *, source: str, timeout: float = 30
    ) -> IStreamClientEndpoint:
        """Twisted's endpoint, on the host with the address C{source}."""
        return TCP4ClientEndpoint(self._addresses[source], host, port, timeout)

    # --- how links are ---

    def link(
        self,
        first: str,
        second: str,
        *,
        latency: float | None = None,
        jitter: float | None = None,
        bandwidth: float | None = None,
        loss: float | None = None,
        both: bool = True,
    ) -> None:
        """
        Set how the link between two hosts is, as far as it is said; see L{__init__}.

        @param both: not only from the first to the second.
        """
        for link in self._between(first, second, both):
            link.change(latency=latency, jitter=jitter, bandwidth=bandwidth, loss=loss)

    def usual(self, first: str, second: str, *, both: bool = True) -> None:
        """Make a link what all are that are not set otherwise."""
        for link in self._between(first, second, both):
            link.become(self._usual)

    # --- faults ---

    def block(self, first: str, second: str, *, both: bool = True) -> None:
        """Swallow all between two hosts; or only from the first to the second."""
        for link in self._between(first, second, both):
            link.blocked = True
        self.tell("net.block", first, to=second, both=both)

    def partition(self, groups: Sequence[Collection[str]]) -> None:
        """
        Swallow all between hosts of different groups.  Hosts of none reach everybody.

        @raise ValueError: if a host is in two groups.
        """
        named = [sorted(group) for group in groups]
        names = [name for group in named for name in group]
        if len(names) != len({*names}):
            raise ValueError("a host is on two sides of the partition")
        for host in self.hosts.values():
            host.group = None
        for number, group in enumerate(named):
            for name in group:
                self.hosts[name].group = number
        self.tell("net.partition", "", groups=named)

    def heal(self) -> None:
        """End all partitions, blocks and silences.  Links stay as slow as they are."""
        for host in self.hosts.values():
            host.group = None
            host.silence(False)
        for link in self._links.values():
            link.blocked = False
        self.tell("net.heal", "")

    def silence(self, name: str) -> None:
        """A host neither sends nor gets anything, though it runs."""
        self.hosts[name].silence()
        self.tell("net.silence", name)

    def reset(self, first: str, second: str) -> int:
        """
        Something between two hosts resets their connections.

        @return: how many there were.
        """
        host, other = self.hosts[first], self.hosts[second]
        found = 0
        for transport in host.transports:
            connection = transport.connection
            if connection.other(transport).machine is other:
                found += 1
                for end in (transport, connection.other(transport)):
                    self.clock.call_at(self.clock.ns, connection.end, end, "net.reset")
        return found

    def crash(self, name: str, *, power: bool = True) -> None:
        """See L{NetHost.crash}."""
        self.tell("net.crash", name, power=power)
        self.hosts[name].crash(power=power)

    def restart(self, name: str) -> None:
        """See L{NetHost.restart}."""
        self.tell("net.restart", name)
        self.hosts[name].restart()

    # --- for the classes of this module ---

    def _between(self, first: str, second: str, both: bool) -> list[Link]:
        one, other = self.hosts[first], self.hosts[second]
        links = [self.link_between(one, other)]
        return [*links, self.link_between(other, one)] if both else links

    def link_between(self, source: NetHost, sink: NetHost) -> Link:
        key = (source.name, sink.name)
        found = self._links.get(key)
        if found is None:
            found = self._links[key] = Link(self, source, sink)
        return found

    def delivered(self, pipe: Pipe, segment: Segment) -> None:
        self.segments += 1
        self.bytes += segment.size
        if self._trace is not None:
            source, sink = pipe.source, pipe.sink
            self._trace.event(
                "net.data",
                sink.machine.name,
                source=source.machine.name,
                ports=[source.port, sink.port],
                data=b"".join(segment.chunks),
            )

    def tell_of(self, kind: str, transport: SimTransport, other: SimTransport) -> None:
        if self._trace is not None:
            self._trace.event(
                kind,
                transport.machine.name,
                peer=other.machine.name,
                ports=[transport.port, other.port],
            )

    def tell(self, kind: str, name: str, **details: Any) -> None:
        if self._trace is not None:
            self._trace.event(kind, name, **details)
