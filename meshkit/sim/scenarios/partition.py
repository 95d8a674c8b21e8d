"""
The network comes apart, and together again.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from meshkit.sim.nemesis import disturb
from meshkit.sim.running import Scenario
from meshkit.sim.scenarios.drawing import changes, names, neighbours, publications
from meshkit.sim.schedule import Member, Plan

__all__ = ["PARTITION"]

_SECONDS: Final = 300.0


def _draw(rng: Random, nodes: int, faults: Sequence[str]) -> Plan:
    members = names(nodes)
    known = neighbours(rng, members)
    actions = publications(rng, members, 6 * nodes, _SECONDS, mixed=True)
    actions += changes(rng, members, 2 * nodes, _SECONDS)
    actions += disturb(rng, faults, members, _SECONDS, 2 * nodes)
    return Plan(
        scenario="",
        seed=0,
        seconds=_SECONDS,
        # Somebody dials again after a minute at most, and what died in silence is noticed
        # after a minute and a half.
        settle=600.0,
        network={"latency": 0.02, "jitter": 0.05, "loss": 0.005, "cuts": 0.05},
        members=tuple(Member(name, known[name]) for name in members),
        actions=tuple(actions),
    )


PARTITION: Final = Scenario(
    "partition",
    "The network comes apart in several ways, and heals; both sides publish meanwhile.",
    nodes=6,
    draw=_draw,
    faults=("partition", "one-way", "silence", "slow", "reset"),
)
