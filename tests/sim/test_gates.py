from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim.invariants import Invariant
from meshkit.sim.running import Run, reduce, run
from meshkit.sim.scenarios import SCENARIOS
from tests.sim.gates import check


class Calm(Invariant):
    """Nobody may be stopped, after somebody was killed."""

    name = "calm"

    def __init__(self) -> None:
        self._killed = False

    def event(self, run: Run, kind: str, host: str, details: dict[str, Any]) -> None:
        if kind == "action":
            self._killed = self._killed or details["kind"] == "kill"
            if details["kind"] == "stop" and self._killed:
                run.violated(self.name, host, "it is stopped")


CALM = evolve(SCENARIOS["churn"], name="calm", invariants=[Calm])


class GateTests(SynchronousTestCase):
    def test_a_run_that_fails_says_how_it_is_made_again_and_what_matters_of_it(self) -> None:
        seed = next(seed for seed in range(50) if run(CALM, seed, nodes=2).violations)
        error = str(self.assertRaises(AssertionError, check, self, CALM, seed, 2))
        self.assertIn(f"meshkit simulate calm --nodes 2 --seed {seed}\n", error)
        self.assertIn(": it is stopped\n", error)
        actions = error.partition('"actions"')[2]
        self.assertEqual(actions.count('"kind"'), 2)
        self.assertLess(actions.index('"kill"'), actions.index('"stop"'))

    def test_what_did_not_fail_is_not_made_smaller(self) -> None:
        good = run(SCENARIOS["convergence"], 1, nodes=2)
        error = self.assertRaises(ValueError, reduce, good, SCENARIOS["convergence"])
        self.assertEqual(str(error), "nothing failed in this run")
