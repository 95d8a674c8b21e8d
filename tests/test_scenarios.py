"""
One seed of each scenario, with few nodes; fresh ones are in C{tests/sim/test_fresh_seeds.py}.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim.scenarios import SCENARIOS
from tests.sim.gates import check

NODES = 3
SEEDS = dict.fromkeys(SCENARIOS, 7)


class ScenarioTests(SynchronousTestCase):
    """Named after the scenarios, so that each is a test of its own."""


def _test(name: str) -> object:
    def test(case: ScenarioTests) -> None:
        outcome = check(case, SCENARIOS[name], SEEDS[name], NODES)
        case.assertGreater(outcome.figures["acknowledged"], 5)

    return test


for _name in SCENARIOS:
    setattr(ScenarioTests, f"test_{_name.replace('-', '_')}", _test(_name))
