"""
What is thought of peers is not forgotten.
"""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from meshkit.identity.keys import PublicKey
from meshkit.sim.invariants.invariant import Invariant

if TYPE_CHECKING:
    from meshkit.sim.node import SimNode
    from meshkit.sim.running import Run

__all__ = ["Remembered"]

_RESULTS = "SELECT peer, successes + failures + unknowns + offlines FROM audit_peers ORDER BY peer"


class Remembered(Invariant):
    """
    Results of audits that were written down stay so through every crash and every restart; and
    at the end each node says at its door of its peers, after a restart, what it said before.
    """

    name = "remembered"

    def __init__(self) -> None:
        self._known: dict[str, dict[bytes, int]] = {}

    def sampled(self, run: Run) -> None:
        for name, node in run.nodes.items():
            try:
                now = dict(node.look(_RESULTS))
            except sqlite3.Error:
                continue
            for peer, count in self._known.get(name, {}).items():
                if now.get(peer, 0) < count:
                    text = f"of {count} results of {run.name_of(peer)} {now.get(peer, 0)} are left"
                    run.violated(self.name, name, text)
            self._known[name] = now

    def settled(self, run: Run) -> None:
        self.sampled(run)
        before = {node.name: _said(node) for node in run.nodes.values()}
        asking = [node for node in run.nodes.values() if before[node.name]]
        for node in asking:
            node.stop()
            node.start()
        for node in asking:
            after = _said(node)
            for peer, (count, refused) in before[node.name].items():
                now, still = after.get(peer, (0, False))
                if now < count or (refused and not still):
                    text = f"of {run.name_of(peer)} it knew {count} results, refused: {refused}; "
                    text += f"after a restart {now}, refused: {still}"
                    run.violated(self.name, node.name, text)


def _said(node: SimNode) -> dict[bytes, tuple[int, bool]]:
    """@return: how many results there are of each peer, and whether it is refused."""
    shown = node.ask("GET", "/v1/audit/peers").json["data"]
    return {
        PublicKey.parse(each["peer"]).raw: (
            sum(each[name] for name in ("successes", "failures", "unknowns", "offlines")),
            each["refused"] is not None,
        )
        for each in shown
    }
