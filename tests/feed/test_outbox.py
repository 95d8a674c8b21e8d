"""The line of this node's own messages: what is written together, and what fails alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import MalformedMessage, Overloaded, StorageFailed
from meshkit.feed.outbox import MAX_TOGETHER, MAX_WAITING, Entry, Outbox, Outcome


class OutboxTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.jobs: list[tuple[list[Any], Deferred[list[Outcome]]]] = []
        self.outbox = Outbox(self.write)

    def write(self, entries: Sequence[Entry]) -> Deferred[list[Outcome]]:
        self.jobs.append(([entry.contents for entry in entries], Deferred()))
        return self.jobs[-1][1]

    def add(self, *contents: Any) -> Deferred[Any]:
        return self.outbox.add(cast(Any, contents), cast(Any, None))

    def finish(self, number: int, *outcomes: Any) -> None:
        self.jobs[number][1].callback(list(outcomes))

    def test_what_comes_while_a_job_is_written_goes_into_the_next_one_together(self) -> None:
        first, second, third = self.add("a"), self.add("b"), self.add("c", "d")
        self.assertEqual([contents for contents, _ in self.jobs], [[("a",)]])
        self.finish(0, ["A"])
        self.assertEqual(self.jobs[1][0], [("b",), ("c", "d")])
        self.assertEqual(self.successResultOf(first), ["A"])
        self.assertNoResult(second)
        self.finish(1, ["B"], ["C", "D"])
        self.assertEqual(self.successResultOf(second), ["B"])
        self.assertEqual(self.successResultOf(third), ["C", "D"])

    def test_how_long_each_waited_and_was_written_is_told(self) -> None:
        clock, told = Clock(), list[tuple[float, float]]()
        self.outbox = Outbox(self.write, clock.seconds, lambda *took: told.append(took))
        self.add("a")
        clock.advance(1)
        self.add("b")
        clock.advance(2)
        self.assertEqual(self.outbox.waiting, 1)
        self.finish(0, ["A"])
        clock.advance(4)
        self.finish(1, ["B"])
        self.assertEqual(told, [(0, 3), (2, 4)])
        self.assertEqual(self.outbox.waiting, 0)

    def test_the_next_job_is_given_before_anybody_is_told_of_the_last_one(self) -> None:
        jobs_when_told: list[int] = []
        self.add("a").addCallback(lambda _: jobs_when_told.append(len(self.jobs)))
        self.add("b")
        self.finish(0, ["A"])
        self.assertEqual(jobs_when_told, [2])

    def test_who_is_told_may_publish_again_at_once(self) -> None:
        again: list[Deferred[Any]] = []
        self.add("a").addCallback(lambda _: again.append(self.add("b")))
        self.finish(0, ["A"])
        self.finish(1, ["B"])
        self.assertEqual(self.successResultOf(again[0]), ["B"])

    def test_an_entry_that_cannot_be_signed_fails_alone(self) -> None:
        self.add("first")
        bad, good = self.add("bad"), self.add("good")
        self.finish(0, ["first"])
        self.finish(1, MalformedMessage("no"), ["good"])
        self.failureResultOf(bad, MalformedMessage)
        self.assertEqual(self.successResultOf(good), ["good"])

    def test_a_job_that_cannot_be_written_fails_all_of_its_entries_and_no_others(self) -> None:
        first, second, third = self.add("a"), self.add("b"), self.add("c")
        self.finish(0, ["A"])
        later = self.add("d")
        self.jobs[1][1].errback(StorageFailed("disk full"))
        self.assertEqual(self.successResultOf(first), ["A"])
        self.failureResultOf(second, StorageFailed)
        self.failureResultOf(third, StorageFailed)
        self.finish(2, ["D"])
        self.assertEqual(self.successResultOf(later), ["D"])

    def test_a_job_takes_no_further_entry_once_it_has_enough_messages(self) -> None:
        self.add("first")
        for _ in range(3):
            self.add(*["x"] * (MAX_TOGETHER - 1))
        self.finish(0, ["first"])
        self.assertEqual([len(contents) for contents in self.jobs[1][0]], [MAX_TOGETHER - 1] * 2)

    def test_beyond_the_limit_nobody_may_wait(self) -> None:
        self.add("being written")
        waiting = [self.add("x") for _ in range(MAX_WAITING)]
        self.failureResultOf(self.add("one too many"), Overloaded)
        self.assertNoResult(waiting[-1])
        self.finish(0, ["A"])
        self.assertNoResult(self.add("there is room again"))
