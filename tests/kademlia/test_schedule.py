"""Tests of L{meshkit.kademlia.schedule}."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.kademlia.schedule import GOING_BACK, JITTER, Schedule, jittered


class Clocks(SynchronousTestCase):
    def test_a_clock_that_is_set_back_takes_what_is_due_with_it(self) -> None:
        schedule: Schedule[str] = Schedule()
        self.assertFalse(schedule.follow(10**12))
        schedule.set("later", 10**12 + 2_000)
        schedule.set("soon", 10**12 + 1_000)
        back = 10**12 - 86_400_000
        self.assertTrue(schedule.follow(back))
        self.assertFalse(schedule.follow(back))
        self.assertIsNone(schedule.pop(back + 999))
        self.assertEqual(schedule.pop(back + 1_000), "soon")
        self.assertEqual(schedule.when("later"), back + 2_000)

    def test_a_clock_that_goes_on_or_back_a_little_changes_nothing(self) -> None:
        schedule: Schedule[str] = Schedule()
        schedule.set("one", 10**12)
        for now in (10**12, 2 * 10**12, 2 * 10**12 - GOING_BACK):
            self.assertFalse(schedule.follow(now))
        self.assertEqual(schedule.when("one"), 10**12)


class Schedules(SynchronousTestCase):
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(("set", "set", "drop", "pop")),
                st.integers(0, 4),
                st.integers(0, 20),
            ),
            max_size=50,
        )
    )
    def test_it_gives_what_is_due_in_its_order(self, inputs: list[tuple[str, int, int]]) -> None:
        schedule: Schedule[int] = Schedule()
        model: dict[int, int] = {}
        for name, thing, when in inputs:
            if name == "set":
                schedule.set(thing, when)
                model[thing] = when
            elif name == "drop":
                schedule.drop(thing)
                model.pop(thing, None)
            else:
                found = schedule.pop(when)
                first = min(model.values(), default=when + 1)
                if first > when:
                    self.assertIsNone(found)
                else:
                    assert found is not None
                    self.assertEqual(model.pop(found), first)
            self.assertEqual(len(schedule), len(model))
            self.assertEqual([schedule.when(n) for n in range(5)], [model.get(n) for n in range(5)])

    def test_what_is_due_at_one_time_comes_in_the_order_in_which_it_was_set(self) -> None:
        schedule: Schedule[str] = Schedule()
        for thing in "zxy":
            schedule.set(thing, 1)
        self.assertEqual([schedule.pop(1) for _ in range(4)], ["z", "x", "y", None])

    def test_changing_the_time_again_and_again_takes_no_memory(self) -> None:
        schedule: Schedule[int] = Schedule()
        for n in range(10_000):
            schedule.set(n % 10, n)
            self.assertLessEqual(schedule.waste, 10 + 65)
        self.assertEqual([schedule.pop(10**6) for _ in range(11)], [*range(10), None])

    def test_tidying_up_changes_no_order(self) -> None:
        schedule: Schedule[int] = Schedule()
        for n in range(200):
            schedule.set(n % 20, 1000 - n)
        self.assertEqual([schedule.pop(1000) for _ in range(20)], [*range(19, -1, -1)])

    def test_what_came_and_went_takes_no_memory(self) -> None:
        schedule: Schedule[int] = Schedule()
        for n in range(1000):
            schedule.set(n, 10**6)
            schedule.drop(n)
            self.assertLessEqual(schedule.waste, 65)

    def test_pauses_are_spread_around_what_was_asked_for(self) -> None:
        rng = Random(1)
        pauses = [jittered(1000, rng) for _ in range(1000)]
        self.assertGreaterEqual(min(pauses), 1000 * (1 - JITTER))
        self.assertLessEqual(max(pauses), 1000 * (1 + JITTER))
        self.assertLess(abs(sum(pauses) / 1000 - 1000), 20)
        self.assertGreater(max(pauses) - min(pauses), 450)
