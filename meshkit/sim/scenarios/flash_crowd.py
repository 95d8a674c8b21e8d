"""
Many come at once to few who have much.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from meshkit.sim.nat import KINDS
from meshkit.sim.nemesis import disturb
from meshkit.sim.running import Scenario
from meshkit.sim.scenarios.drawing import names, publications
from meshkit.sim.schedule import Action, Member, Plan

__all__ = ["FLASH_CROWD"]

_SECONDS: Final = 45.0
#: When they come, and within how many seconds.
_AT: Final = 10.0
_WITHIN: Final = 1.0


def _draw(rng: Random, nodes: int, faults: Sequence[str]) -> Plan:
    members = names(nodes)
    old = members[: 1 + (nodes > 4)]
    crowd = members[len(old) :]
    # A third of them sit behind boxes, some together behind one.
    boxes = {f"box{number}": KINDS[int(rng.random() * len(KINDS))] for number in range(2)}
    behind = {name: f"box{int(rng.random() * 2)}" for name in crowd if rng.random() < 0.33}
    actions = [
        # Old feeds: twenty messages at a time.
        Action.after(
            rng.random() * _AT * 0.8,
            "call",
            old[number % len(old)],
            method="POST",
            target="/v1/publish/batch",
            body={"contents": [f"{number}.{each} " + "x" * 200 for each in range(20)]},
        )
        for number in range(4 * nodes)
    ]
    actions += [Action.after(_AT + rng.random() * _WITHIN, "start", name) for name in crowd]
    for action in publications(rng, members, 3 * nodes, _SECONDS - _AT - 2, mixed=True):
        actions.append(
            Action(action.at + int((_AT + 2) * 10**9), "call", action.where, action.args)
        )
    actions += disturb(rng, faults, members, _SECONDS, nodes // 2)
    return Plan(
        scenario="",
        seed=0,
        seconds=_SECONDS,
        settle=300.0,
        network={"latency": 0.03, "jitter": 0.03, "loss": 0.002, "bandwidth": 2_000_000},
        boxes=boxes,
        members=(
            *(Member(name, tuple(old[:at])) for at, name in enumerate(old)),
            *(Member(name, tuple(old), late=True, behind=behind.get(name, "")) for name in crowd),
        ),
        actions=tuple(actions),
    )


FLASH_CROWD: Final = Scenario(
    "flash-crowd",
    "Many nodes, some behind NATs, join at once at one or two that have long feeds.",
    nodes=8,
    draw=_draw,
    faults=("crash", "restart", "slow", "reset"),
)
