"""
Seeds that have failed once: what they found, and what is left of their plans.

The product was wrong each time; it was changed, and these have to stay good.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim.running import play
from meshkit.sim.scenarios import SCENARIOS
from meshkit.sim.schedule import Action, Member, Plan


class RegressionTests(SynchronousTestCase):
    def good(self, plan: Plan) -> None:
        outcome = play(plan, SCENARIOS["convergence"])
        self.assertEqual(outcome.violations, ())

    def test_a_node_publishes_on_while_it_finds_to_be_in_step(self) -> None:
        """
        C{reunion}, seed 8: what had been published since a comparison had begun was taken
        for what the peer was found to have.  So an honest peer was said to have more of the
        node's feed than the node, which published nothing for a minute.
        """
        batch = {"method": "POST", "target": "/v1/publish/batch", "body": {"contents": ["x"] * 20}}
        self.good(
            Plan(
                "",
                8,
                5.0,
                30.0,
                network={"bandwidth": 200_000, "jitter": 0.02, "latency": 0.05},
                members=(Member("n1"), Member("n2", ("n1",))),
                actions=tuple(Action(at, "call", "n2", batch) for at in (499_109_133, 563_448_760)),
            )
        )

    def test_a_node_on_a_disk_that_fails_stops(self) -> None:
        """
        C{clients}, seed 3014: a stop ended in an C{OSError}, at its very end, since the
        folder that C{endpoints.json} was removed from could not be synced.
        """
        self.good(
            Plan(
                "",
                3014,
                5.0,
                30.0,
                members=(Member("n2"),),
                actions=(
                    Action.after(1, "fail-syncs", "n2", times=4),
                    Action.after(2, "stop", "n2"),
                    Action.after(3, "mend", "n2"),
                    Action.after(3, "start", "n2"),
                ),
            )
        )
