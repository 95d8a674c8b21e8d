"""
A minority lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from meshkit.sim.liars import GOSSIPS
from meshkit.sim.nemesis import disturb
from meshkit.sim.running import Scenario
from meshkit.sim.scenarios.drawing import liars, names, neighbours, publications
from meshkit.sim.schedule import Member, Plan

__all__ = ["BYZANTINE"]

_SECONDS: Final = 60.0
# Two branches of a feed that goes on are seen where both are of one length when they are
# compared; so that is done now and then, and not in step with those who write them.
_CONFIG: Final = "[gossip]\ninterval = 47\n"


def _draw(rng: Random, nodes: int, faults: Sequence[str]) -> Plan:
    count = max(1, nodes // 3)
    members = names(max(2, nodes - count))
    known = neighbours(rng, members, 2)
    lying = liars(rng, members, known, count, sorted(GOSSIPS))
    actions = publications(rng, members, 8 * len(members), _SECONDS, mixed=True)
    actions += disturb(rng, faults, members, _SECONDS, len(members))
    return Plan(
        scenario="",
        seed=0,
        seconds=_SECONDS,
        settle=600.0,
        network={"latency": 0.02, "jitter": 0.02},
        members=(
            *(Member(name, known[name], _CONFIG) for name in members),
            *lying,
        ),
        actions=tuple(actions),
    )


BYZANTINE: Final = Scenario(
    "byzantine",
    "A third of the nodes lie, each in its way; the others have their usual troubles.",
    nodes=6,
    draw=_draw,
    faults=("crash", "restart", "partition", "reset"),
)
