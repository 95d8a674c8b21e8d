"""
Who has stopped does nothing any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshkit.sim.invariants.invariant import Invariant

if TYPE_CHECKING:
    from meshkit.sim.running import Run

__all__ = ["Quiet"]


class Quiet(Invariant):
    """
    When a node has stopped in good order, nothing is left of it: no timer, no port, no
    connection or attempt at one, no database that is open, and no lock; nor does its hash
    table look for anything or owe anybody an answer any more.  That is looked at
    at the moment when its service says that it has stopped, before its process ends; at the
    end of a run all of them are stopped so.

    What the network itself has on its way, as what is sent again to dead machines, is
    nobody's.
    """

    name = "quiet"

    def event(self, run: Run, kind: str, host: str, details: dict[str, Any]) -> None:
        if kind != "node.stopped":
            return
        node = run.nodes[host]
        left = node.process.left()
        held = node.host.storage.files.system.held(node.process)
        if held:
            left.append(f"{held} x open or locked file")
        service: Any = node.service
        hashing = service._parts.get("dht")
        if hashing is not None:
            left += _left_of(hashing.node)
        if left:
            run.violated(self.name, host, f"it has stopped, and there is still {', '.join(left)}")


def _left_of(node: Any) -> list[str]:
    """@return: what a hash table that has stopped still does."""
    doing = {
        "lookup": len(node._searches),
        "task of the hash table": len(node._tasks),
        "connection of the hash table": len(node.connections) + len(node.server),
    }
    return [f"{count} x {what}" for what, count in doing.items() if count]
