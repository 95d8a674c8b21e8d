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

from attrs import evolve, frozen
from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import (
    IConnector,
    IReactorTCP,
    IReactorUDP,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from zope.interface import implementer

from meshkit.sim.clock import SimClock
from meshkit.sim.datagrams import SimDatagramPort
from meshkit.sim.handshakes import Attempt, SimConnector, SimPort, cannot_listen
from meshkit.sim.links import Link, Quality
from meshkit.sim.nat import Crossing, Nat, Place
from meshkit.sim.seeds import Seeds
from meshkit.sim.streams import Pipe, Segment, SimTransport, Tcp
from meshkit.sim.trace import Trace

__all__ = ["NetHost", "SimNetwork", "Tcp"]

_FIRST_PORT: Final = 49152
_LAST_PORT: Final = 65535


@frozen
class Route:
    """
    How one host reaches another at a moment.

    @ivar sink: who is there: the box, if it lets nothing in.
    @ivar place: the target, as the sink knows it.
    @ivar seen: the source, as the sink knows it.
    @ivar forth: the link.
    @ivar back: the link in the other direction.
    @ivar crossings: of boxes, in both directions.
    @ivar nat: the box before the sink, if there is one.
    @ivar barred: the box lets nothing in.
    """

    sink: NetHost
    place: Place
    seen: Place
    forth: Link
    back: Link
    crossings: tuple[Crossing | None, Crossing | None] = (None, None)
    nat: Nat | None = None
    barred: bool = False


@implementer(IReactorTCP, IReactorUDP)
class NetHost:
    """
    What a host has of the network: an address, a loopback interface, ports, connections.
    It is what a reactor of that host has for TCP and UDP.

    @ivar network: it is one of.
    @ivar name: unique in the network.
    @ivar address: dotted quad.
    @ivar behind: the box between it and the others, if there is one.
    @ivar guards: what it does for those behind it, if it is such a box.
    @ivar datagram_ports: open UDP sockets, by address (or empty) and port.
    @ivar up: does its kernel run?
    @ivar boots: how often it was started anew.
    @ivar group: its side of a partition, or L{None}.
    @ivar mute: neither sends nor gets anything, for lack of power or as it was silenced.
    """

    def __init__(
        self, network: SimNetwork, name: str, address: str, behind: Nat | None = None
    ) -> None:
        self.network = network
        self.name = name
        self.address = address
        self.behind = behind
        self.guards: Nat | None = None
        self.up = True
        self.boots = 0
        self.group: int | None = None
        self.silent = False
        self.mute = False
        self.ports: dict[tuple[str, int], SimPort] = {}
        self._ports_given = 0
        self.datagram_ports: dict[Place, SimDatagramPort] = {}
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
        host = self._interface(interface, port)
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

    def listenUDP(
        self, port: int, protocol: Any, interface: str = "", maxPacketSize: int = 8192
    ) -> SimDatagramPort:
        """
        See C{IReactorUDP}.

        @raise CannotListenError: as L{listenTCP}.
        """
        host = self._interface(interface, port)
        made = SimDatagramPort(self, host, port or self.next_port(), protocol, maxPacketSize)
        made.startListening()
        return made

    def _interface(self, interface: str, port: int) -> str:
        host = "" if interface == "0.0.0.0" else interface
        if host and host != self.address and not host.startswith("127."):
            raise cannot_listen(IPv4Address("TCP", host, port), errno.EADDRNOTAVAIL)
        return host

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
        for socket in list(self.datagram_ports.values()):
            socket.close()
        for attempt in list(self.attempts):
            attempt.detach()
        for transport in list(self.sockets):
            transport.let_go(True)
            if power:
                transport.out.stop()
            transport.detach()

    def restart(self) -> None:
        """Its kernel runs again.  If it is a box between others, it has forgotten them."""
        if self.guards is not None:
            self.guards.forget()
        self.up = True
        self._mute()

    def silence(self, silent: bool = True) -> None:
        """Nothing gets in or out, though it runs; or it does again."""
        self.silent = silent
        self._mute()

    def _mute(self) -> None:
        self.mute = self.silent or not self.up

    def port_at(self, place: Place) -> SimPort | None:
        """Who listens at an address and a port of it."""
        found = self.ports.get(place)
        return self.ports.get(("", place[1])) if found is None else found

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
        trace_data: bool = True,
    ) -> None:
        """
        @param trace: is told of what becomes of connections.
        @param trace_data: and of each segment.
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
        self._trace_data = trace_data
        self._addresses: dict[str, NetHost] = {}
        # Of all addresses; two boxes may have the same behind them.
        self._owners: dict[str, NetHost] = {}
        self._links: dict[tuple[str, str], Link] = {}
        self._usual = Quality(0, 0, None, 0.0).changed(latency, jitter, bandwidth, loss)

    def host(self, name: str, address: str | None = None, *, behind: Nat | None = None) -> NetHost:
        """
        Connect a host.

        @param address: dotted quad; the next of C{10.0.0.0/8}, or of C{192.168.0.0/16}
            behind a box, if not given.
        @param behind: a box that L{nat} gave; hosts behind one reach each other.
        @raise ValueError: if the name or the address is taken.
        """
        number = len(self.hosts) + 1
        if address is None:
            high, middle, low = number >> 16, number >> 8 & 255, number & 255
            # Hosts of the common network are far from each other, as those of different
            # people: no two of the first 65,535 are in one /24.
            address = f"192.168.{middle}.{low}" if behind else f"10.{low}.{middle}.{high + 1}"
        known = self._addresses if behind is None else behind.hosts
        if name in self.hosts or address in known:
            raise ValueError(f"there is a host {name} or at {address} already")
        made = self.hosts[name] = known[address] = NetHost(self, name, address, behind)
        self._owners.setdefault(address, made)
        return made

    def nat(self, name: str, address: str | None = None, **options: Any) -> Nat:
        """
        Connect a box for L{host}s to be behind.

        @param name: of the box, which is a host as well.
        @param options: see L{Nat}.
        """
        box = self.host(name, address)
        box.guards = Nat(self.clock, box, **options)
        return box.guards

    def attach(self, name: str, *, behind: Nat | None = None) -> str:
        """Connect a host, and tell its address; see L{host}."""
        return self.host(name, behind=behind).address

    def route(self, protocol: str, source: NetHost, inside: Place, target: Place) -> Route | None:
        """
        @param protocol: C{TCP} or C{UDP}.
        @param inside: where something comes from, as the source knows it.
        @param target: where it goes to.
        @return: how it gets there; L{None}, if nobody has that address.
        """
        address = target[0]
        if address.startswith("127.") or address == source.address:
            return self._direct(source, source, target, inside)
        nat = source.behind
        if nat is not None and address in nat.hosts:
            return self._direct(source, nat.hosts[address], target, inside)
        found = self._addresses.get(address)
        if found is None:
            return None
        seen = inside
        if nat is not None:
            seen = (nat.box.address, nat.outbound(protocol, inside, target))
        other = found.guards
        if nat is None and other is None:
            return self._direct(source, found, target, inside)
        if other is None or other is nat:
            # From behind a box to that box: this one does not turn it around.
            sink, place, other = found, target, None
        else:
            let_in = other.inbound(protocol, target[1], seen)
            if let_in is None:
                direct = self._direct(source, found, target, seen)
                return evolve(direct, nat=other, barred=True)
            sink, place = other.hosts[let_in[0]], let_in
        return Route(
            sink,
            place,
            seen,
            self.link_between(source, sink),
            self.link_between(sink, source),
            (
                Crossing(protocol, (inside, place), (seen, target), (nat, other)),
                Crossing(protocol, (place, inside), (target, seen), (other, nat)),
            ),
            other,
        )

    def _direct(self, source: NetHost, sink: NetHost, place: Place, seen: Place) -> Route:
        forth, back = self.link_between(source, sink), self.link_between(sink, source)
        return Route(sink, place, seen, forth, back)

    def server_endpoint(self, port: int, host: str) -> IStreamServerEndpoint:
        """Twisted's endpoint, on the host with that address."""
        return TCP4ServerEndpoint(self._owners[host], port, interface=host)

    def client_endpoint(
        self, port: int, host: str, *, source: str, timeout: float = 30
    ) -> IStreamClientEndpoint:
        """Twisted's endpoint, on the host with the address C{source}."""
        return TCP4ClientEndpoint(self._owners[source], host, port, timeout)

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
        duplicates: float | None = None,
        both: bool = True,
    ) -> None:
        """
        Set how the link between two hosts is, as far as it is said; see L{__init__}.

        @param duplicates: how likely a datagram comes twice.
        @param both: not only from the first to the second.
        """
        for link in self._between(first, second, both):
            link.change(
                latency=latency,
                jitter=jitter,
                bandwidth=bandwidth,
                loss=loss,
                duplicates=duplicates,
            )

    def usual(self, first: str, second: str, *, both: bool = True) -> None:
        """Make a link what all are that are not set otherwise."""
        for link in self._between(first, second, both):
            link.become(self._usual)

    def carried(self) -> list[tuple[str, str, int]]:
        """
        @return: source, sink and the bytes that arrived, for each link between two hosts that
            has carried any.
        """
        return [
            (*names, link.bytes)
            for names, link in self._links.items()
            if link.bytes and link.source is not link.sink
        ]

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

    def mend(self) -> None:
        """L{heal}, and let all links be L{usual}."""
        self.heal()
        for (source, sink), link in self._links.items():
            if source != sink:
                link.become(self._usual)

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
        pipe.link.bytes += segment.size
        if self._trace is not None and self._trace_data:
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
