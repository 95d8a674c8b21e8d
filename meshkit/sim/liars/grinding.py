"""
Who has made keys until one was near to a place.

B{On the wire.}  Its id is nearer to the topic of L{TOPIC} than those of most others.  It answers
as it should, until it is asked about that place: then it names (C{nodes}) only those who lie in
the same way, has nothing (C{values}), and says that it keeps what it drops (C{stores}).

B{What honest nodes must do.}  Find what is there by ways that it is not on, and store it at all
of those that are nearest; where so many of them are near that it cannot be chance, at all of
that region.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from twisted.internet.defer import Deferred

from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import Identity
from meshkit.kademlia.distance import NodeId, distance, node_id, record_key
from meshkit.kademlia.wire import FindValue, Nodes, Store, Stored, Values
from meshkit.sim.liars.hashing import HashLiar
from meshkit.sim.liars.liar import EVERY
from meshkit.testing.nodes import MESH_PORT

if TYPE_CHECKING:
    from meshkit.sim.host import SimHost
    from meshkit.sim.world import World

__all__ = ["TOPIC", "Grinding"]

#: The topic that it wants to have for itself.
TOPIC: Final = b"topic 0"
_PLACE: Final = record_key("topic", TOPIC)
#: Keys that it makes: its id is as near as that of the nearest of so many nodes.
_TRIES: Final = 200


class Grinding(HashLiar):
    """See the module."""

    kind: ClassVar[str] = "grinding"
    ways: tuple[str, ...] = ("nodes", "values", "stores")

    def __init__(
        self, world: World, host: SimHost, dials: Sequence[str] = (), *, every: float = EVERY
    ) -> None:
        super().__init__(world, host, dials, every=every)
        made = (Identity(self.rng.randbytes(32)) for _ in range(_TRIES))
        self.identity = min(made, key=lambda each: distance(node_id(each.public), _PLACE))
        self.key = self.identity.public.raw
        self.address = MeshAddress(host.address, MESH_PORT, self.identity.public).text

    def nodes(self, target: NodeId, answer: Nodes) -> Nodes:
        if target != _PLACE:
            return answer
        self.lied("nodes")
        return Nodes(self.accomplices())

    def values(self, request: FindValue, answer: Values) -> Values:
        if request.key != _PLACE:
            return answer
        self.lied("values")
        return Values([], 0, self.nodes(_PLACE, Nodes(answer.contacts)).contacts)

    def store(self, request: Store, keep: Any) -> Stored | Deferred[Stored]:
        if not any(
            record.key == _PLACE for record in map(self.records.get, request.records) if record
        ):
            return super().store(request, keep)
        self.lied("stores")
        return self.kept_all(request)
