"""
One seed of each scenario, with few nodes; fresh ones are in C{tests/sim/test_fresh_seeds.py}.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from attrs import evolve
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim.clock import nanoseconds
from meshkit.sim.running import Scenario
from meshkit.sim.scenarios import SCENARIOS
from meshkit.sim.schedule import Plan
from tests.sim.gates import check

NODES = 3
#: Of an object with four shares that nobody keeps himself.
STORING_NODES = 6
#: That of C{storage} has a peer that lies, a disk that rots and one power failure in a write, and
#: few files: most seeds take half as long again.
#: That of C{repair} makes shares anew, and that of C{relay} is short.
SEEDS = dict.fromkeys(SCENARIOS, 7) | {"storage": 53, "repair": 9, "relay": 51}


class ScenarioTests(SynchronousTestCase):
    """Named after the scenarios, so that each is a test of its own."""


#: Of C{repair} not all of its time is needed to see shares made anew.
SECONDS = 25.0


def _shortened(scenario: Scenario) -> Scenario:
    def draw(rng: Random, nodes: int, faults: Sequence[str]) -> Plan:
        plan = scenario.draw(rng, nodes, faults)
        actions = tuple(each for each in plan.actions if each.at <= nanoseconds(SECONDS))
        return replace(plan, seconds=SECONDS, actions=actions)

    return evolve(scenario, draw=draw)


def _test(name: str) -> object:
    scenario = SCENARIOS[name]
    if name == "repair":
        scenario = _shortened(scenario)

    def test(case: ScenarioTests) -> None:
        if "storage" in scenario.parts:
            outcome = check(case, scenario, SEEDS[name], STORING_NODES)
            case.assertGreater(outcome.figures["files_stored"], 1)
            case.assertGreater(outcome.figures["files_fetched"], 3)
            case.assertEqual(outcome.figures["shares_moved"] > 1, name == "repair")
        else:
            outcome = check(case, scenario, SEEDS[name], NODES)
            case.assertGreater(outcome.figures["acknowledged"], 5)

    return test


for _name in SCENARIOS:
    setattr(ScenarioTests, f"test_{_name.replace('-', '_')}", _test(_name))
