"""
What audits have found, for C{meshkit doctor}: objects that are not whole, and peers that get
nothing more.

Nothing can be mended here: that is done by passes, while the node runs.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final

from attrs import frozen

from meshkit.audit import state
from meshkit.audit.standing import StandingConfig, judge
from meshkit.audit.standings import load_notes, load_peers
from meshkit.audit.state import ObjectState

__all__ = ["MAX_SHOWN", "AuditReport", "examine"]

#: Objects that are named; all are counted.
MAX_SHOWN: Final = 100
#: What was decided of objects that cannot be read.
_LOST: Final = ("lost", "unreachable")


@frozen
class AuditReport:
    """
    @ivar objects: how many objects are looked after, by what was decided of them last.
    @ivar degraded: those that are not whole, the most urgent first, at most L{MAX_SHOWN}.
    @ivar refused: peers that get nothing, and why, by key.
    """

    objects: Mapping[str, int]
    degraded: Sequence[ObjectState]
    refused: Mapping[str, str]

    @property
    def lost(self) -> int:
        """Objects of which too few shares are there."""
        return sum(self.objects.get(code, 0) for code in _LOST)


def examine(connection: sqlite3.Connection, now: int, config: StandingConfig) -> AuditReport:
    """
    @param now: seconds of Unix time.
    @param config: how peers are judged.
    """
    degraded, _ = state.degraded(connection, MAX_SHOWN)
    notes = load_notes(connection)
    refused = {}
    for peer, standing in load_peers(connection).items():
        owes = sum(tries > 0 for tries in notes.get(peer, {}).values())
        why = judge(standing, now, config, owes=owes).refused
        if why is not None:
            refused[peer.text] = why
    return AuditReport(state.codes(connection), degraded, refused)
