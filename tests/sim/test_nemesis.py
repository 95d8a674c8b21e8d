from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim.actions import ACTIONS
from meshkit.sim.nemesis import FAULTS, choose, disturb
from meshkit.sim.schedule import Member, Plan, decode_plan, encode_plan

MEMBERS = ["ada", "bob", "cat", "dan", "eve"]

#: What has begun, and what ends it.
ENDS = {
    "crash": {"start"},
    "kill": {"start"},
    "stop": {"start"},
    "power": {"mend", "start"},
    "fill": {"free"},
    "fail-syncs": {"mend"},
    "fail-commits": {"mend"},
    "skew": {"skew"},
    "partition": {"heal"},
    "block": {"heal"},
    "silence": {"heal"},
    "link": {"usual"},
    "reset": set(),
}


class NemesisTests(SynchronousTestCase):
    @given(
        st.sampled_from(sorted(FAULTS)),
        st.integers(0, 2**32),
        st.integers(2, len(MEMBERS)),
        st.floats(1, 1000),
    )
    def test_an_episode_ends_in_time(
        self, name: str, seed: int, count: int, seconds: float
    ) -> None:
        members = MEMBERS[:count]
        actions = FAULTS[name].draw(Random(seed), members, seconds)
        self.assertTrue(actions)
        for action in actions:
            self.assertIn(action.kind, ACTIONS)
            self.assertTrue(0 <= action.at <= seconds * 10**9)
            self.assertIn(action.where, ["", *members])
            if action.kind in ENDS:
                later = {
                    each.kind
                    for each in actions
                    if each.at >= action.at and each.where in ("", action.where)
                }
                self.assertTrue(later >= ENDS[action.kind], action)
            if action.kind == "partition":
                named = [name for group in action.args["groups"] for name in group]
                self.assertEqual(sorted(named), members)
        plan = Plan("", 0, seconds, 1.0, members=tuple(map(Member, members)))
        plan = plan.with_actions(actions)
        self.assertEqual(decode_plan(encode_plan(plan)), plan)

    def test_each_kind_of_action_that_is_a_fault_is_drawn_by_some(self) -> None:
        drawn = {
            action.kind
            for fault in FAULTS.values()
            for seed in range(30)
            for action in fault.draw(Random(seed), MEMBERS, 60.0)
        }
        # What others do; and decay and loss of disks, which the scenarios with storage draw
        # themselves.
        others = {"call", "drop", "fetch", "lose", "put", "rot", "swap", "watch"}
        self.assertEqual({*ACTIONS} - drawn, others)

    def test_as_many_episodes_as_are_asked_for_of_those_faults_alone(self) -> None:
        actions = disturb(Random(1), ["crash", "reset"], MEMBERS, 60.0, 20)
        kinds = [action.kind for action in actions]
        self.assertEqual({*kinds}, {"crash", "start", "reset"})
        self.assertEqual(actions, disturb(Random(1), ["crash", "reset"], MEMBERS, 60.0, 20))
        self.assertEqual(disturb(Random(1), [], MEMBERS, 60.0, 20), [])
        error = self.assertRaises(ValueError, disturb, Random(1), ["rain"], MEMBERS, 60.0, 1)
        self.assertIn("there is no fault 'rain': it is one of crash, power", str(error))

    def test_faults_are_chosen_by_name(self) -> None:
        self.assertIsNone(choose(""))
        self.assertEqual(choose("none"), ())
        self.assertEqual(choose("all"), tuple(FAULTS))
        self.assertEqual(choose("crash, reset"), ("crash", "reset"))
        self.assertRaises(ValueError, choose, "crash,rain")
