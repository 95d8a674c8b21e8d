"""
Who is there, and does not answer.

B{On the wire.}  It answers pings, so that it comes into tables.  Other questions it leaves
without an answer: C{nodes}, C{values}, C{stores}; of those for nodes just every second, as
it would soon be in no table any more.

B{What honest nodes must do.}  Ask others after a second, wait no longer than 5 s, and 15 s
for storing, and take out of their tables who leaves two questions in a row without an answer,
until it answers a ping again.
"""

from __future__ import annotations

from typing import Any, ClassVar

from twisted.internet.defer import Deferred

from meshkit.kademlia.distance import NodeId
from meshkit.kademlia.wire import FindValue, Nodes, Store, Stored, Values
from meshkit.sim.liars.hashing import HashLiar

__all__ = ["Mute"]


class Mute(HashLiar):
    """See the module."""

    kind: ClassVar[str] = "mute"
    ways: tuple[str, ...] = ("nodes", "values", "stores")

    def nodes(self, target: NodeId, answer: Nodes) -> Nodes | Deferred[Nodes]:
        self._way += 1
        if self._way % 2:
            return answer
        self.lied("nodes")
        return Deferred()

    def values(self, request: FindValue, answer: Values) -> Values | Deferred[Values]:
        self.lied("values")
        return Deferred()

    def store(self, request: Store, keep: Any) -> Stored | Deferred[Stored]:
        self.lied("stores")
        return Deferred()
