"""
Seeds that have failed once: what they found, and what is left of their plans.

The product was wrong each time, or what watches it; it was changed, and these have to stay good.
"""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import StartError
from meshkit.sim.running import Run, play
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

    def test_a_node_whose_disk_is_full_as_it_starts_says_so(self) -> None:
        """
        C{churn}, seed 229790636690739: if nothing fitted on the disk any more as
        C{endpoints.json} was written, an error of the program was logged, with a traceback.
        """
        plan = Plan(
            "",
            229790636690739,
            10.0,
            30.0,
            members=(Member("n3"),),
            actions=(
                Action(3369132824, "crash", "n3"),
                Action(4501336993, "start", "n3"),
                Action(4523130558, "fill", "n3"),
            ),
        )
        run = Run(plan, SCENARIOS["convergence"].invariants)
        outcome = run.play()
        self.assertEqual(outcome.violations, ())
        (error,) = run.nodes["n3"].failures
        self.assertIsInstance(error, StartError)
        self.assertEqual(str(error), "cannot write /n3/endpoints.json: No space left on device")

    def test_a_peer_that_does_not_answer_does_not_hold_up_the_stop_of_a_node(self) -> None:
        """
        C{storage}, seed 5: a node that was stopped in the middle of a put waited for a peer
        that hangs, for longer than a part has for stopping.  What it had open was left.
        """
        put = {"file": "file", "size": 40_000, "scheme": "1+1"}
        plan = Plan(
            "",
            5,
            60.0,
            60.0,
            members=(
                Member(
                    "ada", (), '[storage]\npeers = ["{address:bob}", "{address:eve}"]\nquorum = 2\n'
                ),
                Member("bob", ("ada",), "[keeper]\nmax_storage = 10000000\n"),
                Member("eve", ("ada",), liar="stalling"),
            ),
            actions=(
                Action.after(5, "put", "ada", **{**put, "file": "first"}),
                # Of two shares' ends that she is asked for, she answers one.
                Action.after(15, "put", "ada", **put),
                Action.after(17, "stop", "ada"),
                Action.after(40, "start", "ada"),
            ),
        )
        outcome = play(plan, SCENARIOS["storage"])
        self.assertEqual(outcome.violations, ())

    def test_two_topics_that_are_added_at_once_are_both_selected(self) -> None:
        """
        C{churn}, seed 166238166473778: the store was asked for the authors of one topic, then of
        both.  The answer about the one came last, and took back what the other one had found: these
        authors were replicated no more until the next start.
        """
        publish = {"method": "POST", "target": "/v1/publish"}
        tagged = {"content": "x", "tags": ["east"]}
        north, east = ({"method": "POST", "target": f"/v1/topics/{t}"} for t in ("north", "east"))
        self.good(
            Plan(
                "",
                3,
                5.0,
                30.0,
                members=(Member("n1"), Member("n2", ("n1",))),
                actions=(
                    Action.after(1, "call", "n1", body=tagged, **publish),
                    Action.after(2, "call", "n2", **north),
                    Action.after(2, "call", "n2", **east),
                    Action.after(3, "call", "n1", body={"content": "y"}, **publish),
                ),
            )
        )

    def test_what_a_liar_was_just_given_counts_until_feeds_are_compared(self) -> None:
        """
        C{relay}, seed 164146799291262: when all had come to rest, a member gave a relay that
        pockets everything the end of a feed, and said until the next comparison that it lacks
        nothing.  It was asked in between.
        """
        used = '[relays]\nuse = ["{address:liar}", "{address:relay}"]\n'
        config = f'disable = ["dht"]\n[gossip]\ninterval = 47\n{used}'
        publish = {"method": "POST", "target": "/v1/publish", "body": {"content": "x"}}
        plan = Plan(
            "",
            164146799291262,
            197.092,
            600.0,
            network={"jitter": 0.02, "latency": 0.02},
            members=(
                Member("relay", (), 'disable = ["dht"]\n', program="mesh-relay"),
                Member("liar", liar="pocketing"),
                *(Member(name, ("relay",), config, late=True) for name in ("n0", "n1", "n2")),
            ),
            actions=(
                Action(81449732558, "start", "n1"),
                Action(100987391747, "start", "n0"),
                Action(120455851914, "call", "n0", publish),
                Action(126707444388, "crash", "n0"),
                Action(127699219290, "start", "n0"),
                Action(138983187708, "call", "n0", publish),
                Action(151842207050, "stop", "n0"),
                Action(174032180149, "start", "n2"),
                Action(195215280754, "stop", "n2"),
            ),
        )
        self.assertEqual(play(plan, SCENARIOS["relay"]).violations, ())
