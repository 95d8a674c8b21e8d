"""
What was done for an object follows from what was known of it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from meshkit.audit import replay, state
from meshkit.identity.keys import PublicKey
from meshkit.sim.invariants.invariant import Invariant
from meshkit.sim.objects import Placement

if TYPE_CHECKING:
    from meshkit.sim.node import SimNode
    from meshkit.sim.running import Run

__all__ = ["Explained"]

_FAILED: Final = "SELECT peer, failures, problem FROM audit_peers WHERE failures > 0 ORDER BY peer"


class _Eyes:
    """As a connection to a node's database, behind its back."""

    def __init__(self, node: SimNode) -> None:
        self._node = node

    def execute(self, sql: str, args: Iterable[Any] = ()) -> Iterator[Any]:
        return iter(self._node.look(sql, [*args]))


@frozen
class _Moved:
    """Somebody was given a share."""

    object: str
    number: int
    name: str


class Explained(Invariant):
    """
    Every decision of every pass, made again from the trace, is the same.  Every share that was
    given to somebody else was so by a decision to do that, which is in a trace of somebody who
    looks after the object; but for passes that were broken off.  And whoever is honest, and has
    what he should, has failed no audit: that he was not there is no failure, nor that he has given
    up what he was told to, as far as whoever asks can know.
    """

    name = "explained"

    def __init__(self) -> None:
        self._before: dict[str, Placement] = {}
        self._moved: dict[_Moved, str] = {}

    def sampled(self, run: Run) -> None:
        for file in run.objects.files.values():
            if file.state != "stored":
                continue
            placement = run.objects.placement(file)
            before = self._before.get(file.name, placement)
            if placement is None or before is None:
                continue
            self._before[file.name] = placement
            for number, name in placement.peers.items():
                if before.peers.get(number) != name:
                    self._moved[_Moved(file.object, number, name)] = file.owner

    def settled(self, run: Run) -> None:
        self.sampled(run)
        told: set[_Moved] = set()
        broken = False
        for node in run.nodes.values():
            try:
                runs = node.look("SELECT id, state FROM audit_runs ORDER BY id")
            except sqlite3.Error as e:
                run.violated(self.name, node.name, f"its passes cannot be read: {e}")
                continue
            self._blame(run, node)
            # Of very many passes the first are forgotten.
            broken = broken or (bool(runs) and runs[0][0] != 1)
            for number, ended in runs:
                broken = broken or ended != "done"
                told.update(self._replay(run, node, number))
        if broken:
            # What was swapped, and not written down any more, is in no trace.
            return
        for moved, owner in self._moved.items():
            if moved not in told:
                text = f"{moved.name} has share {moved.number} of {moved.object[:16]} now, and no "
                run.violated(self.name, owner, f"{text}trace says why")

    def _replay(self, run: Run, node: SimNode, number: int) -> Iterator[_Moved]:
        lines = [*state.trace(_Eyes(node), number)]  # type: ignore[arg-type]
        if not lines:
            return
        found = replay.replay(lines)
        for each in found.differences:
            run.violated(self.name, node.name, f"pass {number}: {each.text}")
        for at, raw in enumerate(lines[1:], start=2):
            line = replay.read_line(raw, at)
            if line.happened is not None:
                for share, peer in line.happened.placed.items():
                    wanted = (*line.decision.repair, *line.decision.move)
                    if share not in wanted:
                        text = f"share {share} of {line.facts.object[:16]} was moved, unasked"
                        run.violated(self.name, node.name, text)
                    yield _Moved(line.facts.object, share, _name(run, peer))

    def _blame(self, run: Run, node: SimNode) -> None:
        if self._is_in_the_dark(run, node):
            return
        spoilt = {name for name, _, _ in run.objects.ruined}
        for peer, failures, problem in node.look(_FAILED):
            name = run.name_of(peer)
            if name in run.nodes and name not in spoilt:
                text = (
                    f"{name} has all that it should, and is said to have failed {failures} audits"
                )
                run.violated(self.name, node.name, f"{text}: {problem}")

    @staticmethod
    def _is_in_the_dark(run: Run, node: SimNode) -> bool:
        """
        Does it look after an object that its owner has removed?  He may have been cut off before
        he could say so, and then nobody knows that the shares were to go.
        """
        return any(
            each.kind == "watch"
            and each.where == node.name
            and (file := run.objects.files.get(each.args["file"])) is not None
            and file.state == "removing"
            for each in run.plan.actions
        )


def _name(run: Run, peer: str) -> str:
    """@return: of a member, by its key as text."""
    return run.name_of(PublicKey.parse(peer).raw)
