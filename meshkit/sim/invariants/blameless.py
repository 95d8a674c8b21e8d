"""
Honest nodes keep to the protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meshkit.errors import PeerFloods, PeerTooSlow, PromiseBroken
from meshkit.sim.invariants.invariant import Invariant

if TYPE_CHECKING:
    from meshkit.sim.node import SimNode
    from meshkit.sim.running import Run

__all__ = ["Blameless"]

# What a bad network and a bad disk can make an honest node look like.
_EXCUSED: Final = frozenset({PromiseBroken.code, PeerTooSlow.code, PeerFloods.code})


class Blameless(Invariant):
    """
    No honest node has found that another one broke the protocol: sent a frame that is none,
    a message that nobody asked for or that its author has not signed, or more than it may.

    A promise that was not kept, and slowness, are excused: on a bad network nobody can help
    that.  What nodes have noted against each other is read from their ledgers when a
    process ends, and at the end.
    """

    name = "blameless"

    def __init__(self) -> None:
        self._told: set[tuple[str, str, str]] = set()

    def event(self, run: Run, kind: str, host: str, details: dict[str, object]) -> None:
        if kind in ("node.stop", "process.end", "host.crash") and host in run.nodes:
            self._read(run, run.nodes[host])

    def settled(self, run: Run) -> None:
        for node in run.nodes.values():
            if node.ready:
                self._read(run, node)

    def _read(self, run: Run, node: SimNode) -> None:
        for account in node.service.peers.ledger.accounts():
            name = run.name_of(account.key.raw)
            if name not in run.nodes:
                continue
            for reason in account.reasons:
                told = (node.name, name, reason.code)
                if reason.code not in _EXCUSED and told not in self._told:
                    self._told.add(told)
                    text = f"it has noted of {name}, who is honest: {reason.code}: {reason.text}"
                    run.violated(self.name, node.name, text)
