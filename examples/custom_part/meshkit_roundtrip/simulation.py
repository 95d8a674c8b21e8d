"""
What must be so of measurements, whatever happens to the nodes; and runs that try it.

Play them with C{meshkit simulate meshkit_roundtrip.simulation:MEASURING --seeds 100}.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from meshkit.sim.invariants import USUAL, Invariant
from meshkit.sim.nemesis import disturb
from meshkit.sim.node import Said
from meshkit.sim.running import Run, Scenario
from meshkit.sim.scenarios.drawing import names, neighbours
from meshkit.sim.schedule import Action, Member, Plan

#: Seconds one way, on every link: nothing makes them fewer.
LATENCY: Final = 0.02
#: Seconds in which measurements are made, and things go wrong.
SECONDS: Final = 30.0

_ROUTE: Final = "/v1/roundtrip"


# [invariants]
class Kept(Invariant):
    """A measurement that was answered is there for good, or a later one is."""

    name = "roundtrip kept"

    def __init__(self) -> None:
        # By the node that was asked and the peer: the time of the last.
        self._told: dict[tuple[str, str], int] = {}

    def said(self, run: Run, said: Said) -> None:
        if (said.method, said.target) == ("POST", _ROUTE) and said.answer.status == 200:
            result = said.answer.json["data"]
            key = said.node, result["peer"]
            self._told[key] = max(result["measured_at"], self._told.get(key, 0))

    def settled(self, run: Run) -> None:
        for name, node in run.nodes.items():
            results = node.ask("GET", _ROUTE).json["data"]
            stored = {each["peer"]: each["measured_at"] for each in results}
            for (asked, peer), told in self._told.items():
                if asked == name and stored.get(peer, 0) < told:
                    run.violated(self.name, name, f"the measurement of {peer} is lost")


class Physical(Invariant):
    """Nothing comes back before it can have been there."""

    name = "roundtrip physical"

    def said(self, run: Run, said: Said) -> None:
        if (said.method, said.target) == ("POST", _ROUTE) and said.answer.status == 200:
            fastest = said.answer.json["data"]["fastest_ms"]
            if fastest < 2 * LATENCY * 1000:
                run.violated(self.name, said.node, f"a probe came back after {fastest} ms")


# [invariants-end]


# [scenario]
def measure(seconds: float, asker: str, peer: str) -> Action:
    """@return: a node is asked to measure one of its peers; its key is filled in."""
    body = {"peer": "{key}"}
    return Action.after(seconds, "call", asker, method="POST", target=_ROUTE, about=peer, body=body)


def _draw(rng: Random, nodes: int, faults: Sequence[str]) -> Plan:
    members = names(nodes)
    known = neighbours(rng, members)
    pairs = [(asker, peer) for asker in members for peer in known[asker]]
    actions = []
    for _ in range(8 * nodes):
        asker, peer = pairs[int(rng.random() * len(pairs))]
        actions.append(measure(rng.random() * SECONDS, asker, peer))
    actions += disturb(rng, faults, members, SECONDS, 2 * nodes)
    return Plan(
        scenario="",
        seed=0,
        seconds=SECONDS,
        settle=120.0,
        network={"latency": LATENCY, "jitter": 0.01},
        members=tuple(
            Member(name, known[name], config="[roundtrip]\nprobes = 3\n") for name in members
        ),
        actions=tuple(actions),
    )


MEASURING: Final = Scenario(
    "measuring",
    "Nodes measure how long it takes to their peers, while machines fail.",
    nodes=4,
    draw=_draw,
    faults=("crash", "power", "kill", "restart", "skew", "slow"),
    invariants=[*USUAL, Kept, Physical],
)
# [scenario-end]
