"""Work leaves the reactor's thread, and only its outcome comes back."""

from __future__ import annotations

import threading
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase, TestCase

from meshkit.errors import NotReady, Overloaded
from meshkit.runtime.workers import InlineWorkers, WorkerPool, Workers

from .support import PATIENCE, ThreadedClock


class Gate:
    """Holds a thread until it is opened, and says when it has come."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._opened = threading.Event()

    def work(self) -> str:
        self._reached.set()
        if not self._opened.wait(PATIENCE):
            raise AssertionError("nobody opened the gate")
        return "through"

    def reached(self) -> None:
        if not self._reached.wait(PATIENCE):
            raise AssertionError("no thread came")

    def open(self) -> None:
        self._opened.set()


class Common:
    """What holds with threads and without; the subclasses say how time passes."""

    make: Any

    def settle(self: Any, *deferreds: Deferred[Any]) -> None:
        raise NotImplementedError

    def start(self: Any, **options: Any) -> Workers:
        workers: Workers = self.make(self.clock, options.pop("size", 1), **options)
        workers.startService()
        self.addCleanup(self._stop, workers)
        return workers

    def _stop(self: Any, workers: Workers) -> None:
        self.settle(workers.stopService())

    def test_the_result_is_delivered_later(self: Any) -> None:
        result = self.start().run(divmod, 17, 5)
        self.assertNoResult(result)
        self.settle(result)
        self.assertEqual(self.successResultOf(result), (3, 2))

    def test_keywords_are_handed_on(self: Any) -> None:
        result = self.start().run(sorted, [1, 3, 2], reverse=True)
        self.settle(result)
        self.assertEqual(self.successResultOf(result), [3, 2, 1])

    def test_an_error_is_delivered_as_it_is(self: Any) -> None:
        result = self.start().run(divmod, 1, 0)
        self.settle(result)
        self.failureResultOf(result, ZeroDivisionError)

    def test_even_an_exit_is_only_an_error(self: Any) -> None:
        def leave() -> None:
            raise SystemExit

        workers = self.start()
        result, after = workers.run(leave), workers.run(int, "7")
        self.settle(result, after)
        self.failureResultOf(result, SystemExit)
        self.assertEqual(self.successResultOf(after), 7)

    def test_what_has_to_be_waited_for_cannot_be_delivered(self: Any) -> None:
        result = self.start().run(Deferred)
        self.settle(result)
        self.failureResultOf(result, TypeError)

    def test_nothing_is_accepted_before_the_start(self: Any) -> None:
        failure = self.failureResultOf(self.make(self.clock, 1, name="idle").run(int), NotReady)
        self.assertIn("'idle'", str(failure.value))

    def test_nothing_is_accepted_after_the_stop(self: Any) -> None:
        workers = self.start()
        stopped = workers.stopService()
        self.failureResultOf(workers.run(int), NotReady)
        self.settle(stopped)
        self.failureResultOf(workers.run(int), NotReady)

    def test_it_can_be_started_again(self: Any) -> None:
        workers = self.start()
        self.settle(workers.stopService())
        workers.startService()
        result = workers.run(int, "7")
        self.settle(result)
        self.assertEqual(self.successResultOf(result), 7)

    def test_starting_twice_is_starting_once(self: Any) -> None:
        workers = self.start()
        result = workers.run(int, "7")
        workers.startService()
        self.settle(result)
        self.assertEqual(self.successResultOf(result), 7)

    def test_stopping_what_is_not_running_is_done_at_once(self: Any) -> None:
        self.assertIsNone(self.successResultOf(self.make(self.clock, 1).stopService()))

    def test_a_pool_without_threads_is_refused(self: Any) -> None:
        self.assertRaises(ValueError, self.make, self.clock, 0)


class PoolTests(Common, SynchronousTestCase):
    """L{WorkerPool}: real threads, a clock of our own."""

    make = WorkerPool

    def setUp(self) -> None:
        self.clock = ThreadedClock()

    def settle(self, *deferreds: Deferred[Any]) -> None:
        self.clock.until(lambda: all(deferred.called for deferred in deferreds))

    def test_the_work_is_done_in_another_thread_and_the_callback_in_ours(self) -> None:
        places: list[threading.Thread] = []
        result = self.start(name="elsewhere").run(threading.current_thread)
        result.addCallback(places.append)
        result.addCallback(lambda _: places.append(threading.current_thread()))
        self.settle(result)
        self.assertIn("elsewhere", places[0].name)
        self.assertTrue(places[0].daemon)
        self.assertIs(places[1], threading.current_thread())

    def test_as_many_calls_are_made_at_once_as_it_has_threads(self) -> None:
        gates = [Gate(), Gate()]
        workers = self.start(size=2)
        results = [workers.run(gate.work) for gate in gates]
        for gate in gates:
            gate.reached()
        for gate in gates:
            gate.open()
        self.settle(*results)
        self.assertEqual([self.successResultOf(result) for result in results], ["through"] * 2)

    def test_one_thread_makes_the_calls_in_order_and_stays_the_same(self) -> None:
        workers = self.start()
        made: list[tuple[int, int]] = []
        results = [
            workers.run(lambda n=n: made.append((n, threading.get_ident()))) for n in range(50)
        ]
        self.settle(*results)
        self.assertEqual([number for number, _ in made], list(range(50)))
        self.assertEqual(len({thread for _, thread in made}), 1)

    def test_beyond_the_limit_calls_are_refused_until_there_is_room(self) -> None:
        gate = Gate()
        workers = self.start(max_waiting=2)
        accepted = [workers.run(gate.work), workers.run(int), workers.run(int)]
        self.failureResultOf(workers.run(int), Overloaded)
        gate.open()
        self.settle(*accepted)
        again = workers.run(int)
        self.settle(again)
        self.assertEqual(self.successResultOf(again), 0)

    def test_a_call_cancelled_while_it_waits_is_never_made(self) -> None:
        gate, made = Gate(), []
        workers = self.start()
        first, second = workers.run(gate.work), workers.run(lambda: made.append("second"))
        third = workers.run(lambda: made.append("third"))
        gate.reached()
        second.cancel()
        self.failureResultOf(second, CancelledError)
        gate.open()
        self.settle(first, third)
        self.assertEqual(made, ["third"])

    def test_a_call_cancelled_while_it_is_made_loses_its_result_only(self) -> None:
        gate = Gate()
        workers = self.start()
        first = workers.run(gate.work)
        gate.reached()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        second = workers.run(int)
        gate.open()
        self.settle(second)
        self.assertEqual(self.successResultOf(second), 0)

    def test_a_stop_finishes_what_was_accepted_and_joins_the_threads_last(self) -> None:
        gate = Gate()
        workers = self.start()
        threads: list[threading.Thread] = []
        workers.run(threading.current_thread).addCallback(threads.append)
        first, second = workers.run(gate.work), workers.run(int)
        stopped, again = workers.stopService(), workers.stopService()
        gate.reached()
        self.assertNoResult(stopped)
        gate.open()
        self.settle(stopped, again)
        self.assertEqual(self.successResultOf(first), "through")
        self.assertEqual(self.successResultOf(second), 0)
        self.assertFalse(threads[0].is_alive())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_stop_is_bounded_even_if_a_call_is_not(self) -> None:
        gate = Gate()
        workers = WorkerPool(self.clock, 1, name="stuck", stop_seconds=5)
        workers.startService()
        stuck, waiting = workers.run(gate.work), workers.run(int)
        gate.reached()
        stopped = workers.stopService()
        self.clock.advance(4.9)
        self.assertNoResult(stopped)
        with capturedLogs() as logs:
            self.clock.advance(0.1)
        self.assertIsNone(self.successResultOf(stopped))
        self.failureResultOf(waiting, NotReady)
        self.assertEqual([event["log_level"] for event in logs], [LogLevel.error])
        self.assertNoResult(stuck)
        self.assertRaises(NotReady, workers.startService)
        # What comes late is delivered all the same, and then it can start again.
        late = workers.stopService()
        gate.open()
        self.settle(stuck, late)
        self.assertEqual(self.successResultOf(stuck), "through")
        workers.startService()
        self.settle(workers.stopService())


class InlineTests(Common, SynchronousTestCase):
    """L{InlineWorkers}: the same, in the reactor's thread."""

    make = InlineWorkers

    def setUp(self) -> None:
        self.clock = Clock()

    def settle(self, *deferreds: Deferred[Any]) -> None:
        self.clock.advance(0)

    def test_everything_happens_in_this_thread_and_in_order(self) -> None:
        workers = self.start()
        made: list[object] = []
        for number in range(3):
            workers.run(lambda number=number: made.append((number, threading.get_ident())))
        self.assertEqual(made, [])
        self.clock.advance(0)
        self.assertEqual(made, [(number, threading.get_ident()) for number in range(3)])

    def test_beyond_the_limit_calls_are_refused(self) -> None:
        workers = self.start(size=2, max_waiting=1)
        accepted = [workers.run(int) for _ in range(3)]
        self.failureResultOf(workers.run(int), Overloaded)
        self.clock.advance(0)
        self.assertEqual([self.successResultOf(result) for result in accepted], [0, 0, 0])

    def test_a_call_cancelled_while_it_waits_is_never_made(self) -> None:
        workers, made = self.start(), []
        result = workers.run(lambda: made.append(1))
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.clock.advance(0)
        self.assertEqual(made, [])

    def test_a_stop_waits_for_what_was_accepted(self) -> None:
        workers = self.start()
        result, stopped = workers.run(int), workers.stopService()
        self.assertNoResult(stopped)
        self.clock.advance(0)
        self.assertEqual(self.successResultOf(result), 0)
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class RealReactorTests(TestCase):
    """On the reactor that a daemon runs."""

    async def test_a_pool_works_and_stops(self) -> None:
        workers = WorkerPool(reactor, 2)
        workers.startService()
        results = [workers.run(sum, range(number)) for number in range(20)]
        self.assertEqual(await gatherResults(results), [sum(range(number)) for number in range(20)])
        last = workers.run(int, "7")
        await workers.stopService()
        self.assertEqual(self.successResultOf(last), 7)
