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
    connection or attempt at one, no database that is open, and no lock.  That is looked at
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
        if left:
            run.violated(self.name, host, f"it has stopped, and there is still {', '.join(left)}")
