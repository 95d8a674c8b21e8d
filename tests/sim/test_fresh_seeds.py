"""
Seeds that nobody has tried: a few of each scenario, others each time.

C{MESHKIT_FRESH_SEEDS=100} tries so many of each; C{.ci/soak} does that until its time is up.
A seed that has failed belongs into C{test_regressions.py}, with what it has found.
"""

from __future__ import annotations

import os
from random import SystemRandom

from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim.scenarios import SCENARIOS
from tests.sim.gates import check

COUNT = int(os.environ.get("MESHKIT_FRESH_SEEDS", "3"))


class FreshSeedTests(SynchronousTestCase):
    """Named after the scenarios, so that each is a test of its own."""


def _test(name: str) -> object:
    def test(case: FreshSeedTests) -> None:
        scenario, rng = SCENARIOS[name], SystemRandom()
        for _ in range(COUNT):
            # From the smallest mesh to a little more than usual.
            nodes = 2 + rng.randrange(scenario.nodes)
            check(case, scenario, rng.getrandbits(48), nodes)

    return test


for _name in SCENARIOS:
    setattr(FreshSeedTests, f"test_{_name.replace('-', '_')}", _test(_name))
