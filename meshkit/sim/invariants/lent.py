"""
Nobody has more of others on his disk than he lends.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from meshkit.sim.invariants.invariant import Invariant
from meshkit.sim.objects import lent_files
from meshkit.storage.share_files import SUFFIX

if TYPE_CHECKING:
    from meshkit.sim.node import SimNode
    from meshkit.sim.running import Run

__all__ = ["Lent"]

_LENT: Final = re.compile(r"^max_storage = (\d+)$", re.MULTILINE)
#: Of files that are not finished, those that hold what was sent.
_SENT: Final = (".share", ".kept", SUFFIX)


class Lent(Invariant):
    """
    The files of a node's shares, those that are being written among them, never have more bytes
    than its C{max_storage}; what it notes beside them is not counted.
    """

    name = "lent"

    def __init__(self) -> None:
        self._told: set[str] = set()

    def sampled(self, run: Run) -> None:
        for member in run.plan.members:
            found = _LENT.search(member.config)
            if found is not None and not member.liar and member.name not in self._told:
                self._look(run, run.nodes[member.name], int(found[1]))

    def settled(self, run: Run) -> None:
        self.sampled(run)

    def _look(self, run: Run, node: SimNode, most: int) -> None:
        used = sum(len(data) for path, data in lent_files(node) if path.endswith(_SENT))
        if used > most:
            self._told.add(node.name)
            run.violated(self.name, node.name, f"it lends {most} bytes, and {used} are used")
