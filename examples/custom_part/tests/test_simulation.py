"""
The part on nodes whose machines fail, in simulated worlds.

Run it with C{python -m twisted.trial tests/test_simulation.py}, or with pytest.
"""

from __future__ import annotations

from typing import Any

from attrs import evolve
from meshkit_roundtrip.simulation import MEASURING, measure
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

import meshkit_plugins
from meshkit.parts import PartContext, PartMaker
from meshkit.runtime.registry import discover_parts
from meshkit.sim.running import Scenario, play, run
from meshkit.sim.schedule import Action, Member, Plan


def with_part(maker: PartMaker) -> Scenario:
    """@return: the scenario, on nodes with this part, also where it is not installed."""
    installed = {each.name: each for each in discover_parts(meshkit_plugins)}
    installed[maker.name] = maker
    return evolve(MEASURING, makers=[installed[name] for name in sorted(installed)])


ROUNDTRIP = with_part(PartMaker("roundtrip", "meshkit_roundtrip.part"))


# [run]
class SeedTests(SynchronousTestCase):
    """One drawn run with the other tests; C{meshkit simulate} tries many."""

    def test_a_seed(self) -> None:
        outcome = run(ROUNDTRIP, seed=7, nodes=2)
        self.assertEqual(outcome.violations, (), f"seed {outcome.seed}")

    def test_a_run_is_the_same_each_time(self) -> None:
        plan = Plan("", 3, 2.0, 60.0, members=(Member("ada"), Member("bob", ("ada",))))
        plan = plan.with_actions([measure(1, "bob", "ada")])
        self.assertEqual(play(plan, ROUNDTRIP).digest, play(plan, ROUNDTRIP).digest)
        # [run-end]


# [hasty]
class HastyDatabase:
    """Says that something is stored before it is: the mistake that C{Kept} is there for."""

    def __init__(self, database: Any) -> None:
        self._database = database

    def read(self, job: Any) -> Any:
        return self._database.read(job)

    def write(self, job: Any) -> Deferred[None]:
        # What fails there is for the log.
        self._database.write(job).addErrback(lambda failure: None)
        return succeed(None)


class HastyMaker(PartMaker):
    def create(self, context: PartContext) -> Any:
        return super().create(evolve(context, database=HastyDatabase(context.database)))


class PlanTests(SynchronousTestCase):
    """What happens can be said exactly, too."""

    #: The power of the machine fails in the first write of the node that comes.
    PLAN = Plan(
        scenario="",
        seed=1,
        seconds=5.0,
        settle=60.0,
        members=(Member("ada"), Member("bob", ("ada",))),
        actions=(
            Action.after(2, "power", "bob", of="databases", after=0),
            measure(2, "bob", "ada"),
            Action.after(4, "start", "bob"),
        ),
    )

    def test_what_was_not_stored_was_not_answered(self) -> None:
        self.assertEqual(play(self.PLAN, ROUNDTRIP).violations, ())

    def test_an_answer_that_comes_too_early_is_found(self) -> None:
        hasty = with_part(HastyMaker("roundtrip", "meshkit_roundtrip.part"))
        (violation,) = play(self.PLAN, hasty).violations
        self.assertEqual((violation.invariant, violation.node), ("roundtrip kept", "bob"))
        self.assertIn("is lost", violation.text)
        # [hasty-end]
