"""
Members that are never there together, and relays of which some lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from meshkit.sim.invariants import USUAL
from meshkit.sim.invariants.delivered import Delivered
from meshkit.sim.invariants.noticed import Noticed
from meshkit.sim.liars import RELAYING
from meshkit.sim.nemesis import FAULTS
from meshkit.sim.running import Scenario
from meshkit.sim.scenarios.drawing import names
from meshkit.sim.schedule import Action, Member, Plan

__all__ = ["RELAY"]

#: The honest relay, and how often each member is there.
_RELAY: Final = "relay"
_ROUNDS: Final = 3
#: Seconds for which a member is there at a time, and before the next one comes.
_LEAST, _MOST, _BETWEEN = 12.0, 28.0, 2.0
#: Ways in which a machine is gone, by the fault, for one of five each; else it stops in good order.
_GONE: Final = {"crash": "crash", "kill": "kill"}


def _draw(rng: Random, nodes: int, faults: Sequence[str]) -> Plan:
    kinds = sorted(RELAYING)
    lying = [f"liar{number}" for number in range(1 + (nodes > 4 and rng.random() < 0.3))]
    members = names(max(2, nodes - 1 - len(lying)))
    # Where there is no hash table either, what relays say of prekeys is all there is.
    bare = 'disable = ["dht"]\n' if rng.random() < 0.7 else ""
    actions: list[Action] = []
    at, number = 1.0, 0
    for turn in range(_ROUNDS):
        for name in _shuffled(rng, members):
            there = _LEAST + rng.random() * (_MOST - _LEAST)
            actions.append(Action.after(at, "start", name))
            for _ in range(1 + int(rng.random() * 3)):
                when = at + 3.0 + rng.random() * (there - 4.0)
                actions.append(_publish(rng, when, name, number))
                number += 1
            for other in members if turn else ():
                if other != name and rng.random() < 0.7:
                    when = at + 3.0 + rng.random() * (there - 4.0)
                    actions.append(_send(when, name, other, number))
                    number += 1
            at += there
            actions.append(Action.after(at, _gone(rng, faults), name))
            at += rng.random() * _BETWEEN
    for fault in faults:
        if rng.random() < 0.4:
            actions += FAULTS[fault].draw(rng, [_RELAY], at)
    return Plan(
        scenario="",
        seed=0,
        seconds=round(at, 3) + 1.0,
        settle=600.0,
        network={"latency": 0.02, "jitter": 0.02},
        members=(
            Member(_RELAY, (), bare, program="mesh-relay"),
            *(Member(name, liar=kinds[int(rng.random() * len(kinds))]) for name in lying),
            *_members(rng, members, lying, bare),
        ),
        actions=tuple(actions),
    )


def _members(rng: Random, members: Sequence[str], lying: Sequence[str], bare: str) -> list[Member]:
    """All use those that lie; most, and the first two always, use the honest one as well."""
    found = []
    for number, name in enumerate(members):
        honest = number < 2 or rng.random() < 0.8
        used = _shuffled(rng, [*lying, *([_RELAY] if honest else [])])
        addresses = ", ".join(f'"{{address:{each}}}"' for each in used)
        # In the minutes at the end feeds are compared more than once.
        config = f"{bare}[gossip]\ninterval = 47\n[relays]\nuse = [{addresses}]\n"
        found.append(Member(name, (_RELAY,) if honest else (), config, late=True))
    return found


def _shuffled(rng: Random, names: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda _: rng.random())


def _gone(rng: Random, faults: Sequence[str]) -> str:
    how = rng.random()
    for number, (fault, kind) in enumerate(_GONE.items(), 1):
        if fault in faults and how < number / 5:
            return kind
    return "stop"


def _publish(rng: Random, at: float, name: str, number: int) -> Action:
    body = {"content": f"{number} ".ljust(1 + int(rng.random() * 160), "abcdefghij"[number % 10])}
    return Action.after(at, "call", name, method="POST", target="/v1/publish", body=body)


def _send(at: float, name: str, other: str, number: int) -> Action:
    body = {"to": "{key}", "text": f"letter {number} of {name} for {other}"}
    return Action.after(
        at, "call", name, method="POST", target="/v1/mailbox/send", about=other, body=body
    )


RELAY: Final = Scenario(
    "relay",
    "Members that are never there together use an honest relay, and one or two that lie.",
    nodes=5,
    draw=_draw,
    faults=("crash", "kill", "restart"),
    invariants=(*USUAL, Delivered, Noticed),
    parts=("mailbox",),
)
