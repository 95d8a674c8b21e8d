"""
A machine on which somebody lies as a node of the hash table.

What runs on it is a whole honest node of the hash table, L{KademliaNode
<meshkit.kademlia.node.KademliaNode>}, beside honest gossip in small.  Each kind of liar
replaces what it answers: L{HashLiar.nodes}, L{HashLiar.values}, L{HashLiar.store}; or does
something of its own accord: L{HashLiar.act}.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Final

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint

from meshkit.errors import MeshkitError
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.kademlia.contacts import DialRules
from meshkit.kademlia.distance import NodeId
from meshkit.kademlia.node import KademliaNode
from meshkit.kademlia.protocol import LABEL, VERSION, AddressReader, Server
from meshkit.kademlia.records import Record
from meshkit.kademlia.wire import FindNode, FindValue, Nodes, Outcome, Store, Stored, Values
from meshkit.rpc.protocol import RPCProtocol
from meshkit.shs import Capability, SecureListener, wrap_client
from meshkit.sim.liars.liar import EVERY, Liar
from meshkit.sim.liars.told import Lie
from meshkit.testing.nodes import MESH_PORT

if TYPE_CHECKING:
    from meshkit.sim.host import SimHost
    from meshkit.sim.world import World

__all__ = ["HashLiar"]

#: Seconds after the start at which it looks for its place first.
_FIRST: Final = 1.0
#: Records of others that it remembers.
_MAX_RECORDS: Final = 1_000


class _Server(Server):
    """Has the liar say what is answered."""

    def __init__(
        self, liar: HashLiar, reactor: IReactorTime, node: KademliaNode, reader: AddressReader
    ) -> None:
        self._liar = liar
        super().__init__(reactor, node, reader)

    def _find_node(self, peer: RPCProtocol, request: FindNode) -> Any:
        answer = super()._find_node(peer, request)
        return self._liar.nodes(request.target, answer)

    def _find_value(self, peer: RPCProtocol, request: FindValue) -> Any:
        answer = super()._find_value(peer, request)
        return self._liar.values(request, answer)

    def _store(self, peer: RPCProtocol, request: Store) -> Any:
        self._liar.remember(request.records)
        return self._liar.store(request, lambda: super(_Server, self)._store(peer, request))


class HashLiar(Liar):
    """
    See the module.  This one tells no lies.

    @ivar node: what runs; a new one at each start.
    @ivar records: those that others wanted to be kept, by their bytes, as they came first.
    """

    kind: ClassVar[str] = "honest-hashing"

    node: KademliaNode

    def __init__(
        self, world: World, host: SimHost, dials: Sequence[str] = (), *, every: float = EVERY
    ) -> None:
        super().__init__(world, host, dials, every=every)
        self.network = world.network_secret.key().net_id
        self.records: dict[bytes, Record] = {}
        self._way = 0

    def serve(self, listener: SecureListener) -> None:
        process = self.process
        rules = DialRules()
        self.node = node = KademliaNode(
            process,
            self.identity,
            self.network,
            self._endpoint,
            rng=self.rng,
            wall_clock=self.host.wall_clock,
            addresses=lambda: [HostPort(self.host.address, MESH_PORT)],
            rules=rules,
        )
        node.server = _Server(self, process, node, AddressReader(self.network, rules))
        listener.register(self._hashing(), node.server)
        node.start().addErrback(lambda _: None)
        process.callLater(_FIRST, self._find_place)

    def _hashing(self) -> Capability:
        return Capability.of(self._world.network_secret.key(), LABEL, VERSION)

    def _endpoint(self, address: MeshAddress) -> IStreamClientEndpoint:
        process = self.process
        return wrap_client(
            process,
            TCP4ClientEndpoint(process, address.host, address.port),
            identity=self.identity,
            capability=self._hashing(),
            peer=address.key,
            rng=self.rng,
        )

    def _find_place(self) -> None:
        """Begin at those whom it dials, again and again until somebody is there."""
        if not len(self.node.table):
            self.process.callLater(10 * _FIRST, self._find_place)
            known = [MeshAddress.parse(address) for address in self.dials]
            self.node.bootstrap(known).addErrback(lambda failure: failure.trap(MeshkitError))

    # --- what it answers --------------------------------------------------------------

    def nodes(self, target: NodeId, answer: Nodes) -> Nodes | Deferred[Nodes]:
        """
        @param answer: what an honest node would say.
        @return: whom it names near to a place.
        """
        return answer

    def values(self, request: FindValue, answer: Values) -> Values | Deferred[Values]:
        """@return: what it gives of a key, likewise."""
        named = self.nodes(request.key, Nodes(answer.contacts))
        if isinstance(named, Deferred):
            return answer
        return Values(answer.records, answer.held, named.contacts)

    def store(self, request: Store, keep: Any) -> Stored | Deferred[Stored]:
        """
        @param keep: does what an honest node would.
        @return: what it says of keeping something.
        """
        kept: Deferred[Stored] = keep()
        return kept

    # --- what it lies with ------------------------------------------------------------

    def remember(self, raws: Sequence[bytes]) -> None:
        """Somebody wants these to be kept."""
        for raw in raws:
            if len(self.records) < _MAX_RECORDS and raw not in self.records:
                # There are others who lie.
                with suppress(MeshkitError):
                    self.records[raw] = Record.open(raw, self.network, self.now())

    def now(self) -> int:
        """Milliseconds since 1970."""
        return self.host.wall_clock() // 1_000_000

    def kept_all(self, request: Store) -> Stored:
        """@return: that all of it is kept."""
        return Stored([Outcome() for _ in request.records])

    def accomplices(self) -> list[bytes]:
        """@return: address records of all who lie in this way, and this one's own."""
        return [
            each.node.own_record()
            for each in self._world.liars
            if isinstance(each, HashLiar) and each.running and each.node.running
        ]

    def next_way(self) -> str:
        """@return: how to lie the next time, each way in turn."""
        self._way += 1
        return self.ways[self._way % len(self.ways)]

    def forged_record(self, way: str, owner: PublicKey, raw: bytes) -> None:
        """It has sent a record that its owner has not signed."""
        now = self.host.clock.ns
        self.told.forge(Lie(now, way, owner.raw, 0, "", raw))
        self.lied(way)
