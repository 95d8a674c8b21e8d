"""The line in front of the store: order, what is stored together, and what fails alone."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import MalformedMessage, Overloaded, StorageFailed
from meshkit.feed.chain import Verdict
from meshkit.feed.intake import MAX_TOGETHER, MIN_TOGETHER, Checked, Intake, Queue


def page(name: str, size: int) -> list[Any]:
    """Refusals: they are let through like messages, and are made in less time."""
    return [MalformedMessage(f"{name} {number}") for number in range(size)]


class _Store:
    """A store that is finished when the test says so."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Checked, Deferred[list[Verdict]]]] = []

    def __call__(self, checked: Checked) -> Deferred[list[Verdict]]:
        self.jobs.append((list(checked), Deferred()))
        return self.jobs[-1][1]

    def sizes(self) -> list[int]:
        return [len(checked) for checked, _ in self.jobs]

    def finish(self, number: int) -> None:
        checked, done = self.jobs[number]
        done.callback([Verdict.refused(cast(MalformedMessage, item)) for item in checked])


class IntakeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.store = _Store()
        self.intake = Intake(self.store)
        self.checking: list[Deferred[Any]] = []
        self.stored: list[Deferred[list[Verdict]]] = []

    def give(self, pages: int) -> None:
        for _ in range(pages):
            self.checking.append(Deferred())
            self.stored.append(self.intake.add(self.checking[-1]))

    def names(self, number: int) -> list[str]:
        """What the giver of a page was told about it."""
        return [str(verdict.error) for verdict in self.successResultOf(self.stored[number])]

    def test_pages_are_stored_in_the_order_in_which_they_were_given(self) -> None:
        self.give(3)
        self.checking[2].callback(page("third", 2))
        self.checking[1].callback(page("second", 1))
        self.assertEqual(self.store.jobs, [])
        self.checking[0].callback(page("first", 1))
        (checked, _), *others = self.store.jobs
        self.assertEqual(others, [])
        self.assertEqual([str(e) for e in checked], ["first 0", "second 0", "third 0", "third 1"])

    def test_every_giver_is_told_about_its_own_page(self) -> None:
        self.give(3)
        for number, size in enumerate((2, 0, 1)):
            self.checking[number].callback(page(str(number), size))
        for stored in self.stored:
            self.assertNoResult(stored)
        for number in range(len(self.store.jobs)):
            self.store.finish(number)
        self.assertEqual(self.names(0), ["0 0", "0 1"])
        self.assertEqual(self.names(1), [])
        self.assertEqual(self.names(2), ["2 0"])

    def test_a_lone_page_is_stored_at_once(self) -> None:
        self.give(1)
        self.checking[0].callback(page("only", 1))
        self.assertEqual(self.store.sizes(), [1])

    def test_a_small_job_waits_for_the_pages_that_are_being_checked(self) -> None:
        self.give(2)
        self.checking[0].callback(page("first", MIN_TOGETHER - 1))
        self.assertEqual(self.store.jobs, [])
        self.checking[1].callback(page("second", 1))
        self.assertEqual(self.store.sizes(), [MIN_TOGETHER])

    def test_a_job_that_is_large_enough_does_not_wait(self) -> None:
        self.give(2)
        self.checking[0].callback(page("first", MIN_TOGETHER))
        self.assertEqual(self.store.sizes(), [MIN_TOGETHER])

    def test_what_is_checked_while_a_job_is_stored_becomes_the_next_one(self) -> None:
        self.give(1)
        self.checking[0].callback(page("first", 1))
        self.give(2)
        self.checking[1].callback(page("second", 1))
        self.checking[2].callback(page("third", 1))
        self.assertEqual(self.store.sizes(), [1])
        self.store.finish(0)
        self.assertEqual(self.store.sizes(), [1, 2])

    def test_no_page_joins_a_job_at_the_limit(self) -> None:
        self.give(3)
        self.checking[2].callback(page("third", 1))
        self.checking[1].callback(page("second", 1))
        self.checking[0].callback(page("first", MAX_TOGETHER))
        self.assertEqual(self.store.sizes(), [MAX_TOGETHER])
        self.store.finish(0)
        self.assertEqual(self.store.sizes(), [MAX_TOGETHER, 2])

    def test_a_page_that_cannot_be_checked_fails_alone(self) -> None:
        self.give(3)
        self.checking[2].callback(page("third", 1))
        self.checking[0].callback(page("first", 1))
        self.checking[1].errback(Overloaded("the workers are busy"))
        self.failureResultOf(self.stored[1], Overloaded)
        self.assertEqual(self.store.sizes(), [2])
        self.store.finish(0)
        self.assertEqual((self.names(0), self.names(2)), (["first 0"], ["third 0"]))

    def test_a_job_that_cannot_be_stored_fails_its_pages_and_no_others(self) -> None:
        self.give(2)
        self.checking[1].callback(page("second", 1))
        self.checking[0].callback(page("first", 1))
        self.give(1)
        self.checking[2].callback(page("third", 1))
        self.store.jobs[0][1].errback(StorageFailed("the disk is full"))
        self.failureResultOf(self.stored[0], StorageFailed)
        self.failureResultOf(self.stored[1], StorageFailed)
        self.store.finish(1)
        self.assertEqual(self.names(2), ["third 0"])

    def test_a_giver_may_give_the_next_page_when_it_is_told(self) -> None:
        self.give(1)
        self.stored[0].addCallback(lambda verdicts: self.give(1) or verdicts)
        self.checking[0].callback(page("first", 1))
        self.store.finish(0)
        self.checking[1].callback(page("second", 1))
        self.store.finish(1)
        self.assertEqual(self.names(1), ["second 0"])


class QueueTests(SynchronousTestCase):
    """The queue in front of the threads."""

    def setUp(self) -> None:
        self.running: list[tuple[str, Deferred[str]]] = []

    def run_one(self, name: str) -> Deferred[str]:
        self.running.append((name, Deferred()))
        return self.running[-1][1]

    def test_so_many_run_and_the_others_follow_in_their_order(self) -> None:
        queue = Queue(self.run_one, 2)
        results = [queue.run(name) for name in "abcd"]
        self.assertEqual([name for name, _ in self.running], ["a", "b"])
        self.running[1][1].callback("B")
        self.assertEqual(self.successResultOf(results[1]), "B")
        self.assertEqual([name for name, _ in self.running], ["a", "b", "c"])
        self.running[0][1].errback(StorageFailed("a"))
        self.failureResultOf(results[0], StorageFailed)
        self.assertEqual([name for name, _ in self.running], ["a", "b", "c", "d"])
        for number, name in ((2, "C"), (3, "D")):
            self.running[number][1].callback(name)
            self.assertEqual(self.successResultOf(results[number]), name)

    def test_thousands_that_fail_at_once_are_no_recursion(self) -> None:
        first: Deferred[None] = Deferred()
        answers = [first]

        def busy() -> Deferred[None]:
            return answers.pop() if answers else fail(Overloaded("the workers have stopped"))

        queue = Queue(busy, 1)
        results = [queue.run() for _ in range(5_000)]
        first.callback(None)
        self.assertIsNone(self.successResultOf(results[0]))
        for result in results[1:]:
            self.failureResultOf(result, Overloaded)
