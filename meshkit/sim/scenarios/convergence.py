"""
Nothing goes wrong: what is published reaches everybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from meshkit.sim.running import Scenario
from meshkit.sim.scenarios.drawing import names, neighbours, publications
from meshkit.sim.schedule import Member, Plan

__all__ = ["CONVERGENCE"]

_SECONDS: Final = 10.0


def _draw(rng: Random, nodes: int, faults: Sequence[str]) -> Plan:
    members = names(nodes)
    known = neighbours(rng, members)
    return Plan(
        scenario="",
        seed=0,
        seconds=_SECONDS,
        settle=120.0,
        network={"latency": 0.03, "jitter": 0.03, "loss": 0.002},
        members=tuple(Member(name, known[name]) for name in members),
        actions=tuple(publications(rng, members, 5 * nodes, _SECONDS)),
    )


CONVERGENCE: Final = Scenario(
    "convergence",
    "Everybody publishes, and nothing goes wrong but that packets are lost.",
    nodes=5,
    draw=_draw,
)
