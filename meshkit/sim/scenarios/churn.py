"""
Nodes come and go, in good order or not, while everybody publishes.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final, Literal

from meshkit.sim.nemesis import disturb
from meshkit.sim.running import Scenario
from meshkit.sim.scenarios.drawing import bursts, changes, names, neighbours, publications
from meshkit.sim.schedule import Action, Member, Plan

__all__ = ["CHURN"]

_SECONDS: Final = 60.0


def _draw(rng: Random, nodes: int, faults: Sequence[str]) -> Plan:
    members = names(nodes)
    known = neighbours(rng, members)
    # One in five comes later, but never the first one.
    late = [name for name in members[1:] if rng.random() < 0.2]
    actions = [Action.after(rng.random() * _SECONDS * 0.8, "start", name) for name in late]
    actions += publications(rng, members, 5 * nodes, _SECONDS, mixed=True)
    actions += changes(rng, members, nodes, _SECONDS)
    actions += disturb(rng, faults, members, _SECONDS, 2 * nodes)
    # Small meshes can have their databases in real files.
    disk: Literal["memory", "files"] = "files" if nodes <= 5 and rng.random() < 0.25 else "memory"
    actions += bursts(rng, members, 2 * nodes, _SECONDS, crash="crash" in faults)
    return Plan(
        scenario="",
        seed=0,
        seconds=_SECONDS,
        settle=300.0,
        network={"latency": 0.02, "jitter": 0.02},
        disk=disk,
        members=tuple(Member(name, known[name], late=name in late) for name in members),
        actions=tuple(actions),
    )


CHURN: Final = Scenario(
    "churn",
    "Nodes crash, restart, come late and have failing disks, while everybody publishes.",
    nodes=5,
    draw=_draw,
    faults=("crash", "power", "kill", "restart", "skew", "full-disk", "syncs"),
)
