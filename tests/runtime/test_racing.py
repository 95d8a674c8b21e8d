"""Tests of L{meshkit.runtime.racing}."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from meshkit.runtime.racing import Racing
from meshkit.storage.hedging import UNKNOWN, Latencies, Race, Runner

ALL = [Runner(share, f"peer-{share}") for share in range(5)]


class RacingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.calls: dict[Runner, Deferred[Any]] = {}
        self.cancelled: list[Runner] = []
        self.failed: list[tuple[Runner, str]] = []
        race = Race(2, ALL, Latencies())
        self.racing = Racing(self.clock, race, self.ask, self.note)
        self.chosen = Deferred.fromCoroutine(self.racing.chosen())

    def tearDown(self) -> None:
        self.racing.leave()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def ask(self, runner: Runner) -> Deferred[Any]:
        call = self.calls[runner] = Deferred(lambda _: self.cancelled.append(runner))
        return call

    def note(self, runner: Runner, failure: Failure) -> None:
        self.failed.append((runner, str(failure.value)))

    def test_as_many_are_asked_as_are_needed_and_their_pieces_chosen(self) -> None:
        self.assertEqual(list(self.calls), ALL[:2])
        self.calls[ALL[1]].callback("b")
        self.assertNoResult(self.chosen)
        self.calls[ALL[0]].callback("a")
        self.assertEqual(self.successResultOf(self.chosen), {0: ALL[0], 1: ALL[1]})
        self.assertEqual(self.racing.pieces, {ALL[0]: "a", ALL[1]: "b"})

    def test_who_fails_is_told_and_replaced(self) -> None:
        self.calls[ALL[0]].errback(ConnectionError("gone"))
        self.assertEqual(self.failed, [(ALL[0], "gone")])
        self.assertEqual(list(self.calls), ALL[:3])

    def test_who_is_late_has_another_asked_beside_it(self) -> None:
        self.calls[ALL[0]].callback("a")
        self.clock.advance(UNKNOWN - 0.01)
        self.assertEqual(len(self.calls), 2)
        self.clock.advance(0.01)
        self.assertEqual(list(self.calls), ALL[:3])
        self.calls[ALL[2]].callback("c")
        self.assertEqual(set(self.successResultOf(self.chosen)), {0, 2})

    def test_if_too_few_can_come_there_is_nothing_to_choose(self) -> None:
        for runner in ALL[:4]:
            self.calls[runner].errback(ConnectionError())
        self.assertIsNone(self.successResultOf(self.chosen))

    def test_a_wrong_piece_does_not_count_any_more(self) -> None:
        self.calls[ALL[0]].callback("a")
        self.calls[ALL[1]].callback("b")
        self.racing.wrong([ALL[0]])
        self.assertEqual(self.racing.pieces, {ALL[1]: "b"})
        again = Deferred.fromCoroutine(self.racing.chosen())
        self.calls[ALL[2]].callback("c")
        self.assertEqual(self.successResultOf(again), {1: ALL[1], 2: ALL[2]})

    def test_what_is_under_way_at_the_end_is_cancelled_and_nobody_blamed(self) -> None:
        self.calls[ALL[0]].callback("a")
        self.racing.leave()
        self.assertEqual(self.cancelled, [ALL[1]])
        self.assertEqual(self.failed, [])
        self.assertEqual(list(self.calls), ALL[:2])
        self.chosen.cancel()
        self.failureResultOf(self.chosen)
