"""
A hash table of which a minority lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from meshkit.sim.liars import HASHING
from meshkit.sim.nemesis import disturb
from meshkit.sim.running import Scenario
from meshkit.sim.scenarios.drawing import names, neighbours, publications
from meshkit.sim.scenarios.hash_table import calls
from meshkit.sim.schedule import Member, Plan

__all__ = ["FALSE_NODES"]

_SECONDS: Final = 120.0


def _draw(rng: Random, nodes: int, faults: Sequence[str]) -> Plan:
    count = max(1, nodes // 3)
    members = names(max(2, nodes - count))
    known = neighbours(rng, members, 2)
    kinds = sorted(HASHING)
    # Half of the time they are accomplices.
    together = kinds[int(rng.random() * len(kinds))] if rng.random() < 0.5 else ""
    liars = {}
    for number in range(count):
        kind = together or kinds[int(rng.random() * len(kinds))]
        dialled = [name for name in members if rng.random() < 0.6] or members[:1]
        liars[f"liar{number}"] = (kind, tuple(dialled))
        for name in members:
            if name not in dialled and rng.random() < 0.5:
                known[name] = (*known[name], f"liar{number}")
    actions = calls(rng, members, 8 * len(members), _SECONDS)
    actions += publications(rng, members, 3 * len(members), _SECONDS)
    actions += disturb(rng, faults, members, _SECONDS, len(members))
    return Plan(
        scenario="",
        seed=0,
        seconds=_SECONDS,
        settle=600.0,
        network={"latency": 0.02, "jitter": 0.02},
        members=(
            *(Member(name, known[name]) for name in members),
            *(Member(name, peers, liar=kind) for name, (kind, peers) in liars.items()),
        ),
        actions=tuple(actions),
    )


FALSE_NODES: Final = Scenario(
    "false-nodes",
    "A third of the nodes of a hash table lie, each in its way or together.",
    nodes=8,
    draw=_draw,
    faults=("crash", "restart", "partition", "reset"),
)
