"""
Seeds that nobody has tried: a few of each scenario, others for each state of the package, so that
who tries the same state again tries the same ones.

C{MESHKIT_FRESH_SEEDS=100} tries so many of each, others each time; C{.ci/soak} does that until its
time is up.
A seed that has failed belongs into C{test_regressions.py}, with what it has found.
"""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from random import Random, SystemRandom

from twisted.trial.unittest import SynchronousTestCase

import meshkit
from meshkit.sim.scenarios import SCENARIOS
from tests.sim.gates import check

ASKED = os.environ.get("MESHKIT_FRESH_SEEDS")
COUNT = int(ASKED or 3)


class FreshSeedTests(SynchronousTestCase):
    """Named after the scenarios, so that each is a test of its own."""


def _state() -> str:
    """@return: what names the package as it is."""
    digest = sha256()
    root = Path(meshkit.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _test(name: str) -> object:
    def test(case: FreshSeedTests) -> None:
        scenario = SCENARIOS[name]
        rng = SystemRandom() if ASKED else Random(f"{name} {_state()}")
        for _ in range(COUNT):
            # From the smallest mesh to a little more than usual.
            nodes = 2 + rng.randrange(scenario.nodes)
            check(case, scenario, rng.getrandbits(48), nodes)

    return test


for _name in SCENARIOS:
    setattr(FreshSeedTests, f"test_{_name.replace('-', '_')}", _test(_name))
