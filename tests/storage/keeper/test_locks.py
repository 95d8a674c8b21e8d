"""Tests of L{meshkit.storage.keeper.locks}."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from meshkit.storage.keeper.locks import Turns


class TurnsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.turns = Turns()

    def test_one_has_it_alone_and_the_others_come_in_order(self) -> None:
        self.successResultOf(self.turns.take("x"))
        second, third = self.turns.take("x"), self.turns.take("x")
        self.successResultOf(self.turns.take("y"))
        self.assertEqual(self.turns.waiting("x"), 2)
        self.assertNoResult(second)
        self.turns.give_back("x")
        self.successResultOf(second)
        self.assertNoResult(third)
        self.turns.give_back("x")
        self.successResultOf(third)

    def test_several_share_it(self) -> None:
        for _ in range(3):
            self.successResultOf(self.turns.take("x", shared=True))
        alone = self.turns.take("x")
        for _ in range(3):
            self.assertNoResult(alone)
            self.turns.give_back("x")
        self.successResultOf(alone)

    def test_who_wants_it_alone_is_not_passed_over(self) -> None:
        self.successResultOf(self.turns.take("x", shared=True))
        alone, late = self.turns.take("x"), self.turns.take("x", shared=True)
        self.assertNoResult(late)
        self.turns.give_back("x")
        self.successResultOf(alone)
        self.assertNoResult(late)
        self.turns.give_back("x")
        self.successResultOf(late)

    def test_all_who_share_come_together(self) -> None:
        self.successResultOf(self.turns.take("x"))
        some = [self.turns.take("x", shared=True) for _ in range(3)]
        self.turns.give_back("x")
        for each in some:
            self.successResultOf(each)

    def test_who_gives_up_is_out_of_the_way(self) -> None:
        self.successResultOf(self.turns.take("x", shared=True))
        alone, late = self.turns.take("x"), self.turns.take("x", shared=True)
        alone.cancel()
        self.failureResultOf(alone, CancelledError)
        self.successResultOf(late)

    def test_what_nobody_wants_costs_nothing(self) -> None:
        self.successResultOf(self.turns.take("x"))
        waiting = self.turns.take("x")
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.turns.give_back("x")
        self.assertEqual((len(self.turns), self.turns.taken("x")), (0, False))
        self.assertRaises(KeyError, self.turns.give_back, "x")

    def test_it_may_be_given_back_the_moment_it_is_had(self) -> None:
        self.successResultOf(self.turns.take("x"))
        some = [self.turns.take("x", shared=bool(number % 2)) for number in range(20)]
        for each in some:
            each.addCallback(lambda _: self.turns.give_back("x"))
        self.turns.give_back("x")
        for each in some:
            self.successResultOf(each)
        self.assertEqual(len(self.turns), 0)

    @given(st.lists(st.sampled_from(["alone", "shared", "back", "leave"])))
    def test_nobody_shares_with_one_who_has_it_alone(self, steps: list[str]) -> None:
        turns, have, wait = Turns(), list[bool](), list[tuple[Deferred[None], bool]]()

        def had(_: None, shared: bool) -> None:
            have.append(shared)

        for step in steps:
            if step == "back" and have:
                have.pop()
                turns.give_back("x")
            elif step == "leave" and wait:
                deferred, _ = wait.pop(0)
                deferred.addErrback(lambda failure: failure.trap(CancelledError) and None)
                deferred.cancel()
            elif step in ("alone", "shared"):
                deferred = turns.take("x", shared=step == "shared")
                deferred.addCallback(had, step == "shared")
                wait.append((deferred, step == "shared"))
            wait = [each for each in wait if not each[0].called]
            self.assertTrue(all(have) or len(have) == 1)
            self.assertEqual(turns.waiting("x"), len(wait))
            # Whoever waits waits for somebody.
            self.assertTrue(have or not wait)
        self.assertEqual(turns.taken("x"), bool(have))
