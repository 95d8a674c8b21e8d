from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim.actions import check_plan
from meshkit.sim.minimise import Minimised, minimise, without
from meshkit.sim.schedule import Action, Member, Plan, decode_plan, encode_plan

NAMES = [f"n{number}" for number in range(6)]


def make(count: int, members: int = len(NAMES)) -> Plan:
    """A plan of so many actions, each at another moment."""
    names = NAMES[:members]
    return Plan(
        "",
        0,
        60.0,
        60.0,
        members=tuple(Member(name, tuple(names[:at][:2])) for at, name in enumerate(names)),
        actions=tuple(Action(at, "crash", names[at % members]) for at in range(count)),
    )


def moments(plan: Plan) -> set[int]:
    return {action.at for action in plan.actions}


class MinimiseTests(SynchronousTestCase):
    @given(st.integers(0, 60), st.data())
    def test_what_is_needed_together_is_what_is_left(self, count: int, data: st.DataObject) -> None:
        plan = make(count)
        some = st.sets(st.integers(0, count - 1), max_size=6) if count else st.just(set())
        needed = data.draw(some)

        def fails(each: Plan) -> bool:
            return needed <= moments(each)

        found = minimise(plan, fails, budget=10**6)
        self.assertTrue(found.complete)
        self.assertEqual(moments(found.plan), needed)
        # Members that are named by what is left, or the one that there has to be.
        left = {member.name for member in found.plan.members}
        self.assertEqual(
            left, {action.where for action in found.plan.actions} or {found.plan.members[0].name}
        )
        self.assertEqual(decode_plan(encode_plan(found.plan)), found.plan)

    @given(
        st.integers(0, 30),
        st.lists(st.sets(st.integers(0, 29), max_size=4), min_size=1, max_size=4),
        st.sets(st.integers(0, 29), max_size=3),
        st.integers(0, 200),
    )
    def test_whatever_fails_is_smaller_fails_and_costs_no_more_than_allowed(
        self, count: int, ways: list[set[int]], but: set[int], budget: int
    ) -> None:
        """Several ways to fail, and something that hides the failure if it is there alone."""
        plan = make(count)
        played = 0

        def fails(each: Plan) -> bool:
            nonlocal played
            played += 1
            there = moments(each)
            return any(way <= there for way in ways) and there != but

        assume_fails = any(way <= moments(plan) for way in ways) and moments(plan) != but
        found = minimise(plan, fails, budget=budget)
        self.assertLessEqual(played, budget)
        self.assertEqual(found.plays, played)
        if not assume_fails:
            return
        self.assertTrue(fails(found.plan))
        kept = found.plan.actions
        self.assertEqual(list(kept), [each for each in plan.actions if each in kept])
        if found.complete:
            for each in kept:
                fewer = found.plan.with_actions(other for other in kept if other is not each)
                self.assertFalse(fails(fewer))

    def test_a_plan_that_fails_whatever_is_done_is_found_at_once(self) -> None:
        found = minimise(make(500, 2), lambda plan: True)
        self.assertEqual((found.plan.actions, len(found.plan.members)), ((), 1))
        self.assertLess(found.plays, 5)

    def test_few_out_of_many_are_found_soon(self) -> None:
        found = minimise(make(400), lambda plan: {7, 300} <= moments(plan), budget=100)
        self.assertEqual(moments(found.plan), {7, 300})
        self.assertTrue(found.complete)

    def test_a_budget_that_is_used_up_gives_what_there_is(self) -> None:
        plan = make(50)
        self.assertEqual(minimise(plan, lambda _: False, budget=0), Minimised(plan, 0, False))
        found = minimise(plan, lambda each: {7, 30} <= moments(each), budget=5)
        self.assertFalse(found.complete)
        self.assertTrue({7, 30} <= moments(found.plan))
        self.assertLess(len(found.plan.actions), 50)

    def test_a_member_is_left_out_with_all_that_names_it(self) -> None:
        plan = make(0, 3).with_actions(
            [
                Action(1, "crash", "n1"),
                Action(2, "block", "n0", {"to": "n1"}),
                Action(3, "call", "n0", {"method": "POST", "target": "/", "about": "n1"}),
                Action(4, "partition", "", {"groups": [["n0", "n1"], ["n2"]]}),
                Action(5, "partition", "", {"groups": [["n1"], ["n0", "n2"]]}),
                Action(6, "crash", "n2"),
            ]
        )
        left = without(plan, "n1")
        self.assertEqual([each.name for each in left.members], ["n0", "n2"])
        self.assertEqual(left.members[1].peers, ("n0",))
        self.assertEqual([each.at for each in left.actions], [4, 5, 6])
        self.assertEqual(left.actions[0].args["groups"], [["n0"], ["n2"]])
        self.assertEqual(left.actions[1].args["groups"], [["n0", "n2"]])

    def test_a_member_whose_key_another_one_is_set_to_is_left_out_as_well(self) -> None:
        config = '[gossip]\nfollow = ["{key:n1}"]\nhops = 2\n'
        plan = msgspec.structs.replace(
            make(0, 2), members=(Member("n0", config=config), Member("n1"))
        )
        self.assertEqual(
            without(plan, "n1").members, (Member("n0", config="[gossip]\nhops = 2\n"),)
        )
        check_plan(minimise(plan, lambda each: "n0" in {m.name for m in each.members}).plan)

    def test_one_whose_address_another_one_is_set_to_is_left_out_of_the_list(self) -> None:
        config = '[storage]\npeers = ["{address:n0}", "{address:n1}", "{address:n2}"]\n'
        members = [Member(name, config=config) for name in ("n0", "n1", "n2")]
        plan = msgspec.structs.replace(make(0, 3), members=tuple(members))
        for name in ("n0", "n1", "n2"):
            left = without(plan, name)
            check_plan(left)
            self.assertEqual(left.members[0].config.count("address:"), 2)
        alone = without(without(plan, "n0"), "n2")
        self.assertEqual(alone.members[0].config, '[storage]\npeers = ["{address:n1}"]\n')
