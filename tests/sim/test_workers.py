from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import NotReady, Overloaded
from meshkit.sim.clock import SimClock
from meshkit.sim.workers import LONGEST, InterleavedWorkers


class InterleavedWorkersTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = SimClock()
        self.log: list[Any] = []

    def workers(self, size: int = 4, seed: int = 1, **more: Any) -> InterleavedWorkers:
        workers = InterleavedWorkers(self.clock, size, rng=Random(seed), **more)
        workers.startService()
        return workers

    def finish(self, size: int, seed: int) -> list[int]:
        """@return: the order in which eight calls are done."""
        workers = self.workers(size, seed)
        done: list[int] = []
        for number in range(8):
            workers.run(int, number).addCallback(lambda each: done.append(each))
        self.clock.advance(1)
        return done

    def test_the_seed_says_what_is_done_first(self) -> None:
        orders = {tuple(self.finish(4, seed)) for seed in range(20)}
        self.assertGreater(len(orders), 10)
        self.assertEqual({tuple(sorted(order)) for order in orders}, {tuple(range(8))})
        self.assertEqual(self.finish(4, 3), self.finish(4, 3))

    def test_one_thread_keeps_the_order(self) -> None:
        for seed in range(10):
            self.assertEqual(self.finish(1, seed), list(range(8)))

    def test_no_more_calls_are_made_at_a_time_than_there_are_threads(self) -> None:
        workers = self.workers(3)
        made: list[int] = []
        told: list[int] = []
        for number in range(30):
            workers.run(made.append, number).addCallback(lambda _: told.append(1))
        most = 0
        while self.clock.step():
            most = max(most, len(made) - len(told))
        self.assertEqual((most, len(told)), (3, 30))

    def test_a_call_has_its_effects_before_its_outcome_is_known(self) -> None:
        workers = self.workers()
        workers.run(self.log.append, "made").addCallback(lambda _: self.log.append("told"))
        self.assertEqual(self.log, [])
        self.clock.step()
        self.assertEqual(self.log, ["made"])
        self.clock.step()
        self.assertEqual(self.log, ["made", "told"])
        self.assertLessEqual(self.clock.seconds(), 2 * LONGEST)

    def test_what_a_call_raises_belongs_to_whoever_waits_for_it(self) -> None:
        failing = self.workers().run(lambda: 1 / 0)
        self.clock.advance(1)
        self.failureResultOf(failing, ZeroDivisionError)

    def test_a_call_that_is_cancelled_in_time_is_never_made(self) -> None:
        workers = self.workers(1)
        first = workers.run(self.log.append, 1)
        second = workers.run(self.log.append, 2)
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.clock.advance(1)
        self.successResultOf(first)
        self.assertEqual((self.log, workers.outstanding), ([1], 0))

    def test_a_stop_waits_for_what_was_accepted(self) -> None:
        workers = self.workers(1)
        for number in range(3):
            workers.run(self.log.append, number)
        stopping = workers.stopService()
        self.failureResultOf(workers.run(self.log.append, 3), NotReady)
        self.assertNoResult(stopping)
        self.clock.advance(1)
        self.successResultOf(stopping)
        self.assertEqual(self.log, [0, 1, 2])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_waits_is_limited(self) -> None:
        workers = self.workers(1, max_waiting=2)
        for number in range(3):
            workers.run(self.log.append, number)
        self.failureResultOf(workers.run(self.log.append, 3), Overloaded)
