"""
Programs that change what a node does and ask again when they hear nothing, while the power
fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Final, Literal

from meshkit.sim.nemesis import disturb
from meshkit.sim.running import Scenario
from meshkit.sim.scenarios.drawing import bursts, changes, names, neighbours
from meshkit.sim.schedule import Action, Member, Plan

__all__ = ["CLIENTS"]

_SECONDS: Final = 40.0


def _draw(rng: Random, nodes: int, faults: Sequence[str]) -> Plan:
    members = names(nodes)
    known = neighbours(rng, members)
    actions = _requests(rng, members, 6 * nodes)
    changed = changes(rng, members, 6 * nodes, _SECONDS)
    actions += [*changed, *_taken_back(rng, changed), *_beside(rng, changed)]
    if "power" in faults:
        # Just when something is to be written.
        struck = [action for action in actions if rng.random() < 0.3]
        for action in struck:
            actions += _strike(rng, action)
    actions += disturb(rng, faults, members, _SECONDS, nodes)
    disk: Literal["memory", "files"] = "files" if nodes <= 5 and rng.random() < 0.2 else "memory"
    there = tuple(Member(name, known[name], _config(rng, name, members)) for name in members)
    actions += bursts(rng, members, 2 * nodes, _SECONDS, crash="crash" in faults)
    return Plan(
        scenario="",
        seed=0,
        seconds=_SECONDS,
        settle=300.0,
        disk=disk,
        members=there,
        actions=tuple(actions),
    )


def _config(rng: Random, name: str, members: Sequence[str]) -> str:
    """A third of them follow somebody by what stands in the file."""
    others = [other for other in members if other != name]
    if not others or rng.random() > 0.33:
        return ""
    return f'[gossip]\nfollow = ["{{key:{others[int(rng.random() * len(others))]}}}"]\n'


def _requests(rng: Random, members: Sequence[str], count: int) -> list[Action]:
    """Messages with a key, each sent again and again until there is an answer."""
    actions = []
    for number in range(count):
        body: dict[str, Any] = {"content": f"request {number}", "idempotency_key": f"key-{number}"}
        actions.append(
            Action.after(
                rng.random() * _SECONDS * 0.9,
                "call",
                members[int(rng.random() * len(members))],
                method="POST",
                target="/v1/publish",
                body=body,
                again=1.0,
            )
        )
    return actions


def _taken_back(rng: Random, changed: Sequence[Action]) -> list[Action]:
    """Half of what was added is removed again, soon after."""
    actions = []
    for action in changed:
        path, args = action.args["target"], dict(action.args)
        if args["method"] != "POST" or rng.random() < 0.5:
            continue
        body = args.pop("body", None)
        if body is not None:
            path = f"{path}/{body.get('name', '{address}')}"
        at = min(action.at / 10**9 + 0.5 + rng.random() * 4, _SECONDS)
        actions.append(
            Action.after(at, "call", action.where, **{**args, "method": "DELETE", "target": path})
        )
    return actions


def _beside(rng: Random, changed: Sequence[Action]) -> list[Action]:
    """At the same moment another program publishes: both are written together."""
    return [
        Action(
            action.at,
            "call",
            action.where,
            {"method": "POST", "target": "/v1/publish", "body": {"content": f"beside {number}"}},
        )
        for number, action in enumerate(changed)
        if rng.random() < 0.5
    ]


def _strike(rng: Random, action: Action) -> list[Action]:
    """The power fails some statements after a call."""
    seconds = action.at / 10**9
    later = min(seconds + 0.1 + rng.random() * 3, _SECONDS * 0.97)
    # In the first transaction, or in one that follows from it.
    after = int(60 * rng.random() ** 3)
    return [
        Action(max(0, action.at - 1), "power", action.where, {"after": after}),
        Action.after(later, "mend", action.where),
        Action.after(later, "start", action.where),
    ]


CLIENTS: Final = Scenario(
    "clients",
    "Programs follow, block and publish, and ask again what was not answered; the power fails.",
    nodes=4,
    draw=_draw,
    faults=("crash", "power", "kill", "restart", "syncs"),
)
