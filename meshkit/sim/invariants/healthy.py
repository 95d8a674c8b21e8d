"""
Objects come back to full health, when there are peers enough.
"""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING, Final

from meshkit.audit.decisions import Policy
from meshkit.sim.invariants.invariant import Invariant
from meshkit.sim.invariants.placed import GoodShares
from meshkit.sim.objects import StoredFile

if TYPE_CHECKING:
    from meshkit.sim.running import Run

__all__ = ["ROOM", "Healthy"]

#: A node that lends so much has room for all shares of a run.
ROOM: Final = 20_000_000

_LENT: Final = re.compile(r"^max_storage = (\d+)$", re.MULTILINE)
_BELOW: Final = re.compile(r"^repair_below = (\d+)$", re.MULTILINE)
#: Liars that audits find out.
_FOUND: Final = frozenset({"hollow", "swearing"})
_REFUSED: Final = (
    "SELECT peer FROM audit_peers WHERE failing IS NOT NULL OR confusing IS NOT NULL ORDER BY peer"
)


class Healthy(Invariant):
    """
    When all is mended, every object of which enough good shares are left gets all of its shares
    anew that are missed, down to the number that its owner's node is set to put up with; if there
    are as many honest nodes as shares that have room, and of which nothing bad is known.  Shares
    of those who lie and pass every audit count as good ones: nobody can know.
    """

    name = "healthy"

    def __init__(self) -> None:
        self._disks = GoodShares()

    def agrees(self, run: Run) -> bool:
        return not self._ill(run)

    def settled(self, run: Run) -> None:
        for file, good, wanted in self._ill(run):
            text = f"{file.name} has {good} good shares, and should have {wanted} again"
            run.violated(self.name, file.owner, text)

    def _ill(self, run: Run) -> list[tuple[StoredFile, int, int]]:
        """@return: files, how many good shares they have, and how many they should have."""
        found = []
        look = self._disks.look(run)
        configs = {member.name: member.config for member in run.plan.members}
        for file in run.objects.files.values():
            placement = run.objects.placement(file) if file.state == "stored" else None
            if placement is None or not placement.peers:
                continue
            total = max(placement.peers) + 1
            good = real = 0
            for number, name in placement.peers.items():
                if name in run.liars:
                    kind = next(m.liar for m in run.plan.members if m.name == name)
                    good += kind not in _FOUND
                else:
                    here = look.is_good(placement, number, name)
                    good, real = good + here, real + here
            below = _BELOW.search(configs[file.owner])
            policy = Policy(repair_below=int(below[1]) if below else 0)
            wanted = policy.threshold(file.required, total)
            if file.required <= real and good < wanted and self._enough(run, file.owner, total):
                found.append((file, good, wanted))
        return found

    def _enough(self, run: Run, owner: str, total: int) -> bool:
        """@return: are there as many honest nodes with room as shares?"""
        try:
            refused = {run.name_of(peer) for (peer,) in run.nodes[owner].look(_REFUSED)}
        except sqlite3.Error:
            return True
        roomy = {
            member.name
            for member in run.plan.members
            if not member.liar
            for lent in (_LENT.search(member.config),)
            if lent is not None and int(lent[1]) >= ROOM
        }
        return len(roomy - refused) >= total
