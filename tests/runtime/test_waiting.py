"""Tests of L{meshkit.runtime.waiting}."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import CapacityReached, StorageBusy, StoragePeerSilent
from meshkit.runtime.waiting import (
    FIRST_PAUSE,
    LAST_PAUSE,
    Background,
    Signal,
    ask,
    never_cancelled,
)


class Asking(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.answers: list[Any] = []
        self.asked: list[float] = []

    def tearDown(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def peer(self) -> Any:
        self.asked.append(self.clock.seconds())
        answer = self.answers.pop(0)
        return fail(answer) if isinstance(answer, Exception) else answer

    def test_an_answer_comes_through(self) -> None:
        self.answers = [succeed(3)]
        self.assertEqual(self.successResultOf(ask(self.clock, 5, self.peer)), 3)

    def test_an_error_comes_through_and_what_is_raised(self) -> None:
        self.answers = [CapacityReached()]
        self.failureResultOf(ask(self.clock, 5, self.peer), CapacityReached)
        self.failureResultOf(ask(self.clock, 5, self.peer), IndexError)

    def test_silence_ends_at_the_deadline_and_the_call_is_cancelled(self) -> None:
        cancelled: list[Any] = []
        self.answers = [Deferred(cancelled.append)]
        outcome = ask(self.clock, 5, self.peer)
        self.clock.advance(4.9)
        self.assertNoResult(outcome)
        self.clock.advance(0.2)
        self.failureResultOf(outcome, StoragePeerSilent)
        self.assertEqual(len(cancelled), 1)

    def test_who_answers_after_the_deadline_is_not_heard(self) -> None:
        late: Deferred[int] = Deferred(lambda _: None)
        self.answers = [late]
        outcome = ask(self.clock, 5, self.peer)
        self.clock.advance(5)
        self.failureResultOf(outcome, StoragePeerSilent)
        if not late.called:
            late.callback(4)

    def test_who_is_busy_is_asked_again_after_longer_and_longer_pauses(self) -> None:
        self.answers = [StorageBusy() for _ in range(9)] + [succeed(1)]
        outcome = ask(self.clock, 60, self.peer)
        self.clock.pump([0.0625] * 200)
        self.assertEqual(self.successResultOf(outcome), 1)
        pauses = [b - a for a, b in zip(self.asked, self.asked[1:], strict=False)]
        self.assertAlmostEqual(pauses[0], FIRST_PAUSE)
        self.assertAlmostEqual(pauses[-1], LAST_PAUSE)

    def test_who_stays_busy_is_silent_in_the_end(self) -> None:
        self.answers = [StorageBusy() for _ in range(99)]
        outcome = ask(self.clock, 3, self.peer)
        self.clock.pump([0.5] * 7)
        self.failureResultOf(outcome, StoragePeerSilent)

    def test_a_cancel_ends_the_call_and_the_pauses(self) -> None:
        cancelled: list[Any] = []
        self.answers = [Deferred(cancelled.append), StorageBusy()]
        for _ in range(2):
            outcome = ask(self.clock, 5, self.peer)
            outcome.cancel()
            self.failureResultOf(outcome, CancelledError)
        self.assertEqual(len(cancelled), 1)


class Helpers(SynchronousTestCase):
    def test_who_waits_can_be_cancelled_and_what_is_waited_for_is_not(self) -> None:
        work: Deferred[int] = Deferred(lambda _: self.fail("cancelled"))
        waiter = never_cancelled(work)
        waiter.cancel()
        self.failureResultOf(waiter, CancelledError)
        work.callback(1)
        other = never_cancelled(succeed(2))
        self.assertEqual(self.successResultOf(other), 2)

    def test_a_signal_is_remembered_once(self) -> None:
        signal = Signal()
        signal.set()
        signal.set()
        self.successResultOf(signal.wait())
        waiting = signal.wait()
        self.assertNoResult(waiting)
        signal.set()
        self.successResultOf(waiting)
        self.assertNoResult(signal.wait())

    def test_who_stopped_waiting_for_a_signal_takes_it_from_nobody(self) -> None:
        signal = Signal()
        waiting = signal.wait()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        signal.set()
        self.successResultOf(signal.wait())

    def test_all_that_is_in_the_background_is_waited_for(self) -> None:
        background, first, second = Background(), Deferred[None](), Deferred[None]()
        self.successResultOf(background.quiet())
        background.add(first)
        background.add(second)
        quiet = background.quiet()
        first.errback(CapacityReached())
        self.assertNoResult(quiet)
        second.callback(None)
        self.successResultOf(quiet)
