"""
Whole nodes of the hash table in memory, on a virtual clock.

Their connections are streams whose ends know each other's keys, as those of the secure
channel do, without its cryptography: a test has dozens of nodes.  Records are signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Final

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from meshkit.identity.addresses import HostPort, MeshAddress, PeerAddress
from meshkit.identity.keys import Identity
from meshkit.identity.records import AddressRecord
from meshkit.identity.scopes import Scope
from meshkit.kademlia.connections import Limits
from meshkit.kademlia.contacts import Contact
from meshkit.kademlia.distance import number
from meshkit.kademlia.estimate import MIN_SAMPLES
from meshkit.kademlia.node import KademliaNode
from meshkit.kademlia.routing import K
from meshkit.sim.clock import SimClock
from meshkit.testing.transports import MemoryWire
from tests.kademlia.recording import NETWORK, NOW, owner
from tests.kademlia.support import host_of

PORT: Final = 7655
#: Seconds one way.
LATENCY: Final = 0.01


@implementer(IStreamClientEndpoint)
class _Way:
    """From one node to another."""

    def __init__(self, mesh: Mesh, source: PeerAddress, target: MeshAddress) -> None:
        self._mesh = mesh
        self._source = source
        self._target = target

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        mesh = self._mesh
        mesh.dials.append(self._target)
        if self._target.place in mesh.black_holes:
            return Deferred()
        connecting: Deferred[IProtocol] = Deferred(lambda _: call.cancel())
        call = mesh.clock.callLater(LATENCY, self._arrive, protocolFactory, connecting)
        return connecting

    def _arrive(self, factory: IProtocolFactory, connecting: Deferred[IProtocol]) -> None:
        mesh = self._mesh
        factories = mesh.listening.get(self._target.place)
        if factories is None:
            connecting.errback(ConnectionRefusedError())
            return
        key, listening = factories
        if key != self._target.key or not mesh.reaches(key, self._source.key):
            connecting.errback(ConnectionRefusedError())
            return
        host = mesh.names.get(self._target.host, self._target.host)
        inner = IPv4Address("TCP", host, self._target.port)
        target = PeerAddress(key, inner)
        client = factory.buildProtocol(target)
        if client is None:
            connecting.errback(ConnectionRefusedError())
            return
        server = listening.buildProtocol(self._source) or Protocol()
        wire = MemoryWire(self._source, target, clock=mesh.clock, latency=LATENCY)
        mesh.wires.append(wire)
        wire.connect(client, server)
        if type(server) is Protocol:
            wire.second.loseConnection()
        connecting.callback(client)


class Mesh:
    """
    @ivar clock: of all of them.
    @ivar nodes: in the order in which they were made.
    @ivar listening: place -> key and factory of who listens there.
    @ivar black_holes: places at which nothing ever answers.
    @ivar names: of hosts, and their addresses.
    @ivar dials: all that there were.
    @ivar wires: all connections that were made.
    @ivar apart: keys of those that reach one another only.
    """

    def __init__(self) -> None:
        self.clock = SimClock()
        self.nodes: list[KademliaNode] = []
        self.listening: dict[HostPort, tuple[Any, IProtocolFactory]] = {}
        self.black_holes: set[HostPort] = set()
        self.names: dict[str, str] = {}
        self.dials: list[MeshAddress] = []
        self.wires: list[MemoryWire] = []
        self.apart: list[set[Any]] = []

    def reaches(self, one: Any, other: Any) -> bool:
        """Are these keys on one side?"""
        return all((one in half) == (other in half) for half in self.apart)

    def wall_clock(self) -> int:
        """Nanoseconds since 1970."""
        return NOW * 1_000_000 + int(self.clock.seconds() * 1_000_000_000)

    def endpoint(self, n: int, identity: Identity, host: str = "") -> Any:
        """@param host: from which others see it come; by default that of its place."""
        address = IPv4Address("TCP", host or place_of(n).host, 40_000)
        source = PeerAddress(identity.public, address)
        return lambda address: _Way(self, source, address)

    def make(
        self,
        n: int | None = None,
        *,
        client: bool = False,
        limits: Limits | None = None,
        places: Sequence[HostPort] = (),
        source: str = "",
        wildcard: bool = False,
        identity: Identity | None = None,
        **more: Any,
    ) -> KademliaNode:
        """
        A node that is not started.

        @param places: where it is; by default at an address of its own.
        @param source: from where others see it come; by default from that address.
        @param wildcard: it does not know where it is.
        @param identity: by default that with its number.
        """
        n = len(self.nodes) if n is None else n
        identity = owner(n) if identity is None else identity
        places = places or [place_of(n)]
        node = KademliaNode(
            self.clock,
            identity,
            NETWORK,
            self.endpoint(n, identity, source),
            rng=Random(n),
            wall_clock=self.wall_clock,
            addresses=tuple if client or wildcard else lambda: places,
            listening=(lambda: [HostPort("0.0.0.0", PORT)]) if wildcard else tuple,
            limits=limits,
            **more,
        )
        for place in () if client else places:
            self.listening[place] = (identity.public, node.server)
        self.nodes.append(node)
        return node

    def add(self, count: int = 1, **more: Any) -> list[KademliaNode]:
        """So many nodes that are started, and know the first one."""
        made = []
        for _ in range(count):
            node = self.make(**more)
            self.result(node.start())
            made.append(node)
            if len(self.nodes) > 1:
                self.result(node.bootstrap([self.address(0)]))
        return made

    def acquainted(self, count: int) -> list[KademliaNode]:
        """So many nodes that are started, as if they had found all others long ago."""
        made = [self.make() for _ in range(count)]
        for node in made:
            self.result(node.start())
        contacts = self.acquaint(made, made)
        rng = Random(1)
        for _ in range(MIN_SAMPLES):
            target = rng.randbytes(32)
            here = number(target)
            contacts.sort(key=lambda contact: contact.number ^ here)
            for node in made:
                node.size.saw(target, contacts[:K])
        return made

    def acquaint(
        self, nodes: Sequence[KademliaNode], others: Sequence[KademliaNode]
    ) -> list[Contact]:
        """
        Those know these, as if they had answered.

        @return: what these are as contacts.
        """
        contacts = []
        for other in others:
            contact = other.rules.contact(_record(other), Scope.WORLD)
            assert contact is not None
            contacts.append(contact)
            for node in nodes:
                node.table.answered(contact, node.wall_ms() / 1000)
        return contacts

    def place(self, node: KademliaNode) -> HostPort:
        """Where one of these listens."""
        return place_of(self.nodes.index(node))

    def address(self, n: int) -> MeshAddress:
        place = place_of(n)
        return MeshAddress(place.host, place.port, owner(n).public)

    def run(self, seconds: float = 0.0) -> None:
        self.clock.advance(seconds)

    def result(self, deferred: Deferred[Any], seconds: float = 60.0) -> Any:
        """@return: what a Deferred gives, within so much time; it raises what it fails with."""
        results: list[Any] = []
        deferred.addCallbacks(results.append, lambda failure: results.append(failure))
        end = self.clock.seconds() + seconds
        while not results:
            if not self.clock.step() or self.clock.seconds() > end:
                raise AssertionError(f"it did not fire within {seconds} s")
        (result,) = results
        if hasattr(result, "raiseException"):
            result.raiseException()
        return result

    def stop(self) -> None:
        """Stop all nodes."""
        for node in self.nodes:
            self.result(node.stop())
        # What the wires still have to say.
        self.run(5 * LATENCY)


def _record(node: KademliaNode) -> AddressRecord:
    record = node.own_address()
    assert record is not None
    return record


def place_of(n: int) -> HostPort:
    return HostPort(host_of(n << 16), PORT)
