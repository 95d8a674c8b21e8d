"""
A hash table whose nodes come and go, and in which everybody publishes and looks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from random import Random
from typing import Any, Final

from meshkit.sim.nat import KINDS
from meshkit.sim.nemesis import disturb
from meshkit.sim.running import Scenario
from meshkit.sim.scenarios.drawing import names, neighbours, publications
from meshkit.sim.schedule import Action, Member, Plan

__all__ = ["DHT", "calls", "member"]

_SECONDS: Final = 150.0
#: One in so many runs goes on for more than an hour, in which records are republished and the
#: tables are looked after.
_LONG_ONCE_IN: Final = 10
_LONG: Final = 4_800.0
#: Topics, contents and salts: few, so that several nodes write about one.
_FEW: Final = 3


def calls(rng: Random, members: Sequence[str], count: int, seconds: float) -> list[Action]:
    """
    @param seconds: within which they are made.
    @return: so many calls of the hash table, at the doors of any.
    """
    return [_call(rng, members, number, rng.random() * seconds * 0.95) for number in range(count)]


def _call(rng: Random, members: Sequence[str], number: int, at: float) -> Action:
    name, which, how = _pick(rng, members), int(rng.random() * _FEW), rng.random()
    about = _pick(rng, members)
    text = f"{number} ".ljust(1 + int(rng.random() ** 4 * 8_000), "x")
    content = hashlib.sha256(f"content {which}".encode()).hexdigest()
    put: dict[str, Any] = {}
    if how < 0.2:
        put = {"kind": "topic", "name": f"topic {which}", "text": text[:4_000]}
    elif how < 0.4:
        put = {"kind": "mutable", "salt": f"salt {which}", "text": text}
    elif how < 0.5:
        put = {"kind": "immutable", "text": text}
    if put:
        if rng.random() < 0.15:
            put["expires_secs"] = 60 + int(rng.random() * 600)
        return _ask(at, name, "POST", "/v1/dht/records", body=put)
    if how < 0.6:
        return Action.after(at, "swap", name, salt=f"salt {which}", text=text)
    if how < 0.7:
        return _ask(at, name, "POST", f"/v1/dht/providers/{content}")
    if how < 0.74:
        target = f"/v1/dht/records/topic/topic%20{which}"
        return _ask(at, name, "DELETE", target)
    looks = (
        f"/v1/dht/records/topic/topic%20{which}",
        f"/v1/dht/records/mutable/{{key}}?salt=salt%20{which}",
        f"/v1/dht/providers/{content}",
        "/v1/dht/peers/{key}",
        "/v1/dht/nodes/{key}",
        "/v1/dht/table",
        "/v1/dht/stats",
    )
    return _ask(at, name, "GET", looks[int(rng.random() * len(looks))], about=about)


def _ask(at: float, name: str, method: str, target: str, **more: Any) -> Action:
    return Action.after(at, "call", name, method=method, target=target, **more)


def _pick(rng: Random, members: Sequence[str]) -> str:
    return members[int(rng.random() * len(members))]


def member(rng: Random, name: str, peers: tuple[str, ...], box: str, late: bool) -> Member:
    """
    @param box: behind which it is, if any.
    @return: a node, of which others may or may not be told where it can be reached.
    """
    config = ""
    if box and rng.random() < 0.5:
        config = "[dht]\nclient = true\n"
    elif rng.random() < 0.3:
        # It has to find out from others at which address that is.
        config = 'listen = "tcp:7655"\n'
    return Member(name, peers, config, behind=box, late=late)


def _draw(rng: Random, nodes: int, faults: Sequence[str]) -> Plan:
    members = names(nodes)
    known = neighbours(rng, members, 2)
    seconds = _LONG if rng.random() * _LONG_ONCE_IN < 1 else _SECONDS
    boxes = {f"box{number}": KINDS[int(rng.random() * len(KINDS))] for number in range(2)}
    # Those that others know from the beginning can be reached; of the others not all can.
    named = {other for peers in known.values() for other in peers}
    behind = {
        name: f"box{int(rng.random() * 2)}"
        for name in members[2:]
        if name not in named and rng.random() < 0.5
    }
    late = [name for name in members[2:] if rng.random() < 0.3]
    actions = [Action.after(rng.random() * seconds * 0.8, "start", name) for name in late]
    actions += calls(rng, members, 8 * nodes, seconds)
    actions += publications(rng, members, 3 * nodes, seconds)
    actions += disturb(rng, faults, members, seconds, 2 * nodes)
    return Plan(
        scenario="",
        seed=0,
        seconds=seconds,
        settle=600.0,
        network={"latency": 0.02, "jitter": 0.02},
        boxes=boxes,
        members=tuple(
            member(rng, name, known[name], behind.get(name, ""), name in late) for name in members
        ),
        actions=tuple(actions),
    )


DHT: Final = Scenario(
    "dht",
    "Records are published, swapped and looked for in a hash table whose nodes come and go.",
    nodes=8,
    draw=_draw,
    faults=("crash", "power", "kill", "restart", "partition", "silence", "reset"),
)
