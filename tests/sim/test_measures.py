from __future__ import annotations

from typing import Any
from unittest.mock import patch

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim import measures
from meshkit.sim.invariants import Invariant
from meshkit.sim.measures import POINTS, Measures
from meshkit.sim.running import Run, play
from meshkit.sim.scenarios import SCENARIOS
from meshkit.sim.schedule import Action, Member, Plan
from tests.sim.test_running import evolve, publish

QUIET = SCENARIOS["convergence"]
LATENCY = 0.1


class Patient(Invariant):
    """Waits until everybody has what is in its own feed and in those of the others."""

    def agrees(self, run: Run) -> bool:
        feeds = [sum(node.ready for node in run.nodes.values())]
        figures = run.measures.figures()
        return feeds == [len(run.nodes)] and figures["deliveries"] == figures["expected"]


def three(*actions: Action, seconds: float = 5.0) -> Plan:
    members = (Member("ada"), Member("bob", ("ada",)), Member("cat", ("ada", "bob")))
    return Plan("", 3, seconds, 60.0, {"latency": LATENCY}, members=members, actions=actions)


def measured(plan: Plan) -> dict[str, Any]:
    outcome = play(plan, evolve(QUIET, invariants=[Patient]))
    assert outcome.violations == ()
    return outcome.figures


class MessageTests(SynchronousTestCase):
    def test_each_is_followed_from_its_author_to_the_others(self) -> None:
        found = measured(three(publish(1, "ada"), publish(2, "ada"), publish(2, "cat")))
        self.assertEqual(
            {name: found[name] for name in ("published", "deliveries", "expected", "again")},
            {"published": 3, "deliveries": 6, "expected": 6, "again": 0},
        )
        self.assertEqual((found["received"], found["sent"] - found["duplicates"]), (6, 6))
        self.assertEqual(found["latency_ms"]["count"], 6)
        self.assertGreater(found["latency_ms"]["p50"], LATENCY * 1000)
        self.assertLess(found["latency_ms"]["max"], 2.5 * LATENCY * 1000)
        self.assertEqual(sum(count for _, count in found["latencies"]), 6)
        self.assertEqual(found["answer_ms"]["count"], 3)
        self.assertLess(found["answer_ms"]["max"], LATENCY * 1000)
        self.assertGreater(found["converged_s"], 2 + LATENCY)
        self.assertLess(found["converged_s"], 3)
        slowest = found["slowest"]
        self.assertEqual(
            sorted((each["author"], each["sequence"], each["nodes"]) for each in slowest),
            [("ada", 1, 3), ("ada", 2, 3), ("cat", 1, 3)],
        )
        for each in slowest:
            self.assertEqual(each["at_s"], each["acknowledged_s"])
            self.assertLessEqual(each["half_s"], each["last_s"])
        self.assertEqual(max(each["last_s"] for each in slowest), found["latency_ms"]["max"] / 1000)

    def test_bytes_go_from_somebody_to_somebody(self) -> None:
        found = measured(three(publish(1, "ada")))
        nodes = found["per_node"]
        self.assertEqual(nodes["name"], ["ada", "bob", "cat"])
        self.assertEqual(nodes["stored"], [1, 1, 1])
        self.assertEqual(sum(nodes["bytes_in"]), found["bytes"])
        self.assertEqual(sum(nodes["bytes_out"]), found["bytes"])
        self.assertEqual(sum(size for _, _, size in found["links"]), found["bytes"])
        # What they say when they are stopped comes after the last look.
        samples = found["samples"]["bytes"]
        self.assertEqual(samples, sorted(samples))
        self.assertTrue(found["bytes"] / 2 < samples[-1] <= found["bytes"])
        self.assertEqual(found["links"], sorted(found["links"], key=lambda each: -each[2]))
        self.assertGreaterEqual(found["connections"], 3)

    def test_a_partition_is_seen_in_the_curve_and_on_the_axis(self) -> None:
        apart = Action.after(1, "partition", groups=[["ada"], ["bob", "cat"]])
        found = measured(three(apart, publish(2, "ada"), publish(2, "bob"), seconds=10))
        (mark,) = found["marks"]
        self.assertEqual(
            (mark["kind"], mark["at_s"], mark["until_s"], mark["text"]),
            ("partition", 1.0, 10.0, "1 / 2"),
        )
        self.assertGreater(found["converged_s"], 10)
        curve = found["convergence"]
        (at,) = [n for n, s in enumerate(curve["seconds"]) if s <= 9 < curve["seconds"][n + 1]]
        self.assertEqual((curve["published"][at], curve["delivered"][at]), (1.0, 0.25))
        self.assertEqual(curve["delivered"][-1], 1.0)
        self.assertEqual(curve["delivered"], sorted(curve["delivered"]))
        self.assertEqual(len(curve["seconds"]), POINTS + 1)

    def test_what_never_came_to_all_is_told_first(self) -> None:
        apart = Action.after(1, "partition", groups=[["ada"], ["bob", "cat"]])
        plan = three(apart, publish(0.2, "ada"), publish(2, "ada"), publish(2, "bob"))
        plan = msgspec.structs.replace(plan, settle=0.0)
        found = measured(plan)
        self.assertEqual((found["converged_s"], found["deliveries"]), (None, 3))
        self.assertEqual([each["last_s"] is None for each in found["slowest"]], [True, True, False])
        self.assertEqual([each["nodes"] for each in found["slowest"]], [1, 2, 3])

    def test_only_the_invariants_know_whether_all_have_what_they_want(self) -> None:
        follows = 'follow = ["@' + "A" * 43 + '=.ed25519"]\n'
        plan = three(publish(1, "ada"), publish(2, "bob"))
        choosy = Member("cat", ("ada", "bob"), config=f"[gossip]\n{follows}")
        plan = msgspec.structs.replace(plan, members=(*plan.members[:2], choosy))
        found = play(plan, SCENARIOS["convergence"]).figures
        self.assertEqual((found["deliveries"], found["expected"]), (2, 4))
        self.assertTrue(2 + LATENCY < found["converged_s"] < 2 + 2 * LATENCY)

    def test_nobody_has_published(self) -> None:
        found = measured(three())
        self.assertEqual((found["published"], found["converged_s"]), (0, 0.0))
        self.assertEqual(
            found["latency_ms"], {"count": 0} | dict.fromkeys(("p50", "p90", "p99", "max"))
        )
        self.assertEqual((found["latencies"], found["slowest"]), ([], []))
        self.assertEqual({*found["convergence"]["delivered"]}, {0.0})


class FaultTests(SynchronousTestCase):
    def marks(self, *actions: Action) -> list[tuple[Any, ...]]:
        found = measured(three(*actions))
        return [
            (each["kind"], each["where"], each["at_s"], each["until_s"]) for each in found["marks"]
        ]

    def test_what_ends_is_told_with_its_end(self) -> None:
        self.assertEqual(
            self.marks(
                Action.after(1, "fill", "bob"),
                Action.after(2, "free", "bob"),
                Action.after(2.5, "skew", "ada", seconds=-3),
                Action.after(3, "silence", "cat"),
                Action.after(3.5, "heal"),
                Action.after(4, "block", "ada", to="bob", both=False),
                Action.after(4.5, "link", "ada", to="cat", latency=0.5),
                Action.after(4.7, "reset", "ada", to="cat"),
                Action.after(1.1, "fail-syncs", "cat"),
                Action.after(1.2, "fail-commits", "ada"),
                Action.after(1.3, "mend", "cat"),
            ),
            [
                ("full disk", "bob", 1.0, 2.0),
                ("fail-syncs", "cat", 1.1, 1.3),
                ("fail-commits", "ada", 1.2, 5.0),
                ("wrong clock", "ada", 2.5, 5.0),
                ("silenced", "cat", 3.0, 3.5),
                ("blocked", "ada -> bob", 4.0, 5.0),
                ("slow link", "ada <-> cat", 4.5, 5.0),
                ("reset", "ada", 4.7, None),
            ],
        )

    def test_a_node_is_down_from_its_end_to_its_start(self) -> None:
        self.assertEqual(
            self.marks(
                Action.after(1, "crash", "bob"),
                Action.after(2, "start", "bob"),
                Action.after(3, "kill", "ada"),
            ),
            [("down", "bob", 1.0, 2.0), ("down", "ada", 3.0, 5.0)],
        )

    def test_who_lies_does_so_all_the_time(self) -> None:
        plan = three(publish(1, "ada"), Action.after(2, "partition", groups=[["ada"], ["bob"]]))
        eve = Member("eve", ("ada", "bob"), liar="equivocating")
        plan = msgspec.structs.replace(plan, members=(*plan.members, eve))
        found = measured(plan)
        told = [(each["kind"], each["where"], each["text"]) for each in found["marks"]]
        self.assertEqual(told, [("liar", "eve", "equivocating"), ("partition", "", "1 / 1")])
        self.assertEqual(found["marks"][0]["until_s"], found["phases"]["settled"])
        # What it has written does not count.
        self.assertEqual((found["liars"], found["published"], found["expected"]), (1, 1, 2))
        self.assertGreater(sum(found["per_node"]["stored"]), 0)
        self.assertEqual(len(found["per_node"]["name"]), 3)

    def test_what_was_counted_before_a_crash_counts(self) -> None:
        restarts = [Action.after(3, "crash", "bob"), Action.after(3.5, "start", "bob")]
        found = measured(three(publish(1, "ada"), *restarts, publish(4, "ada"), seconds=8))
        self.assertEqual((found["received"], found["deliveries"]), (4, 4))
        self.assertEqual(found["samples"]["running"][:6], [3, 3, 3, 2, 3, 3])

    def test_there_are_not_more_than_so_many(self) -> None:
        resets = [Action.after(1 + n / 10, "reset", "ada", to="bob") for n in range(5)]
        with patch.object(measures, "MAX_MARKS", 3):
            found = measured(three(*resets))
        self.assertEqual((len(found["marks"]), found["marks_left"]), (3, 2))


class SameTests(SynchronousTestCase):
    def test_a_run_that_is_measured_is_the_run_that_is_not(self) -> None:
        plan = three(publish(1, "ada"), Action.after(2, "crash", "bob"), publish(3, "cat"))
        outcome = play(plan, QUIET)
        self.assertEqual(msgspec.json.decode(msgspec.json.encode(outcome.figures)), outcome.figures)
        with (
            patch.object(Measures, "event", lambda *a: None),
            patch.object(Measures, "told", lambda *a: None),
        ):
            unmeasured = play(plan, QUIET)
        self.assertEqual(unmeasured.figures["published"], 0)
        self.assertEqual(unmeasured.digest, outcome.digest)


class ArithmeticTests(SynchronousTestCase):
    @given(st.lists(st.integers(0, 10**13), min_size=1, max_size=300))
    def test_so_many_are_not_above_a_quantile(self, values: list[int]) -> None:
        found = measures._quantiles(sorted(values))
        self.assertEqual(found["count"], len(values))
        self.assertEqual(found["max"], round(max(values) / 10**6, 3))
        for name, share in (("p50", 50), ("p90", 90), ("p99", 99)):
            below = sum(round(value / 10**6, 3) <= found[name] for value in values)
            self.assertGreaterEqual(below * 100, share * len(values))
            under = sum(round(value / 10**6, 3) < found[name] for value in values)
            self.assertLess(under * 100, share * len(values))

    @given(st.lists(st.integers(0, 10**13), max_size=300))
    def test_each_delay_is_in_one_class(self, values: list[int]) -> None:
        classes = measures._classes(sorted(values))
        self.assertEqual(sum(count for _, count in classes), len(values))
        below = 0
        for limit, count in classes:
            below += count
            self.assertLessEqual(
                abs(below - sum(value <= limit * 10**6 for value in values)),
                sum(abs(value - limit * 10**6) < 10**4 for value in values),
            )
        self.assertLess(len(classes), 60)
