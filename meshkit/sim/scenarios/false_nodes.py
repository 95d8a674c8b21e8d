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
from meshkit.sim.scenarios.drawing import liars, names, neighbours, publications
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
    if rng.random() < 0.5:
        kinds = [kinds[int(rng.random() * len(kinds))]]
    lying = liars(rng, members, known, count, kinds)
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
            *lying,
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
