"""
Who names others than those that are near to a place.

B{On the wire.}  It keeps records and gives them as it should, and answers pings.  Asked for
nodes near to a place, it gives, one way after the other:

  - C{accomplices}: address records of those who lie like it;
  - C{ghosts}: address records of keys that it has just made, at addresses where nobody is;
  - C{nonsense}: bytes that are no address records;
  - C{nobody}.

B{What honest nodes must do.}  Ask others as well: a lookup goes on several ways.  Ask nothing
more of those that only a node has named whose nodes do not answer; keep nobody in a table who
has not answered; and dial an address at which nobody answers three times a minute at most.
"""

from __future__ import annotations

from typing import ClassVar, Final

from meshkit.identity.addresses import HostPort
from meshkit.identity.keys import Identity
from meshkit.identity.records import AddressRecord
from meshkit.kademlia.distance import NodeId
from meshkit.kademlia.wire import Nodes
from meshkit.sim.liars.hashing import HashLiar
from meshkit.testing.nodes import MESH_PORT

__all__ = ["Misleading"]

#: Ghosts of an answer.
_GHOSTS: Final = 8
_HOUR_MS: Final = 3_600_000


class Misleading(HashLiar):
    """See the module."""

    kind: ClassVar[str] = "misleading"
    ways: tuple[str, ...] = ("accomplices", "ghosts", "nonsense", "nobody")

    def nodes(self, target: NodeId, answer: Nodes) -> Nodes:
        way = self.next_way()
        self.lied(way)
        if way == "accomplices":
            return Nodes(self.accomplices())
        if way == "ghosts":
            return Nodes([self._ghost() for _ in range(_GHOSTS)])
        if way == "nonsense":
            return Nodes([self.rng.randbytes(100) for _ in range(_GHOSTS)])
        return Nodes([])

    def _ghost(self) -> bytes:
        # The machines of a world are far below.
        host = f"10.{self.rng.randrange(256)}.{self.rng.randrange(256)}.{200}"
        return AddressRecord.seal(
            Identity(self.rng.randbytes(32)),
            self.network,
            [HostPort(host, MESH_PORT)],
            sequence=self.now(),
            expires=self.now() + _HOUR_MS,
        ).raw
