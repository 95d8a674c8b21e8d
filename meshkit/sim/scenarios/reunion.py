"""
Two halves that were apart for long have much to tell each other, over a narrow link.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from meshkit.sim.nemesis import disturb
from meshkit.sim.running import Scenario
from meshkit.sim.scenarios.drawing import names, publications
from meshkit.sim.schedule import Action, Member, Plan

__all__ = ["REUNION"]

_SECONDS: Final = 60.0
#: When they meet again.
_AT: Final = 20.0
#: Messages of each half before that, how many at a time, and letters of each: more than
#: the messages and the bytes for which there is credit at the beginning.
_MESSAGES: Final = 320
_TOGETHER: Final = 20
_LETTERS: Final = 4_000


def _draw(rng: Random, nodes: int, faults: Sequence[str]) -> Plan:
    members = names(nodes)
    middle = max(1, nodes // 2)
    halves = [half for half in (members[:middle], members[middle:]) if half]
    known = {}
    for half in halves:
        for at, name in enumerate(half):
            known[name] = tuple(half[max(0, at - 1) : at])
    # One link, or two, between the halves.
    for name in halves[-1][: 1 + int(rng.random() * 2)] if len(halves) > 1 else ():
        known[name] = (*known[name], halves[0][int(rng.random() * len(halves[0]))])
    actions = [Action(0, "partition", args={"groups": halves}), Action.after(_AT, "heal")]
    for half in halves:
        for number in range(_MESSAGES // _TOGETHER):
            text = f"{number} ".ljust(int(rng.random() * 2 * _LETTERS), "x")
            actions.append(
                Action.after(
                    0.1 + rng.random() * (_AT - 4),
                    "call",
                    half[int(rng.random() * len(half))],
                    method="POST",
                    target="/v1/publish/batch",
                    body={"contents": [f"{each} {text}" for each in range(_TOGETHER)]},
                )
            )
    # What is new comes while they still tell each other what is old.
    for action in publications(rng, members, 10 * nodes, 15.0):
        at = action.at + round(_AT * 10**9)
        actions.append(Action(at, action.kind, action.where, action.args))
    actions += disturb(rng, faults, members, _SECONDS, nodes // 2)
    return Plan(
        scenario="",
        seed=0,
        seconds=_SECONDS,
        # Nodes compare again after five minutes: all has to have come before.
        settle=200.0,
        network={"latency": 0.05, "jitter": 0.02, "bandwidth": 200_000},
        members=tuple(Member(name, known[name]) for name in members),
        actions=tuple(actions),
    )


REUNION: Final = Scenario(
    "reunion",
    "Two halves of a mesh meet again after long, over a narrow link, and both have much to tell.",
    nodes=4,
    draw=_draw,
    faults=("reset", "slow"),
)
