"""Tests of L{meshkit.kademlia.search}."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import PeerUnreachable
from meshkit.kademlia.contacts import Contact
from meshkit.kademlia.lookup import ALPHA, Ask, Lookup
from meshkit.kademlia.protocol import Answer
from meshkit.kademlia.routing import K
from meshkit.kademlia.search import DEADLINE, LATE, Records, Search, together
from tests.kademlia.support import contact

TARGET = bytes(32)


class Searching(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.contacts = [contact(n) for n in range(1, K + 6)]
        self.asked: list[tuple[Contact, Deferred[Answer]]] = []
        self.answered: list[Contact] = []
        self.failed: list[Contact] = []
        self.quiet: list[Search] = []

    def search(self, ask: Any = None, count: int = 1_000) -> Search:
        lookup: Lookup[Records] = Lookup(TARGET, self.contacts[:count], own=contact(0).id, paths=1)
        return Search(
            self.clock,
            lookup,
            ask or self.ask,
            self.answered.append,
            lambda contact, failure: self.failed.append(contact),
            self.quiet.append,
        )

    def ask(self, ask: Ask) -> Deferred[Answer]:
        deferred: Deferred[Answer] = Deferred()
        self.asked.append((ask.contact, deferred))
        return deferred

    def test_it_ends_with_what_it_has_when_nobody_answers_for_long(self) -> None:
        search = self.search()
        done = search.start()
        (first, answer), *_ = self.asked
        answer.callback(Answer(first))
        self.clock.pump([1.0] * (int(DEADLINE) - 1))
        self.assertNoResult(done)
        self.clock.advance(1.0)
        self.assertEqual(self.successResultOf(done).closest(), [first])
        asked = len(self.asked)
        self.assertEqual(self.quiet, [])
        # What is under way is told to the table, and nothing else is asked.
        for _, deferred in self.asked[1:]:
            deferred.errback(PeerUnreachable("gone"))
        self.assertEqual((len(self.asked), len(self.failed)), (asked, asked - 1))
        self.assertEqual(self.quiet, [search])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_who_takes_long_is_not_waited_for_and_still_told_of(self) -> None:
        search = self.search()
        done = search.start()
        self.assertEqual(len(self.asked), ALPHA)
        (slow, answer), *_ = self.asked
        for _ in range(40):
            for each, deferred in self.asked[1:]:
                if not deferred.called:
                    deferred.callback(Answer(each))
        self.assertNoResult(done)
        self.clock.advance(LATE)
        for _ in range(40):
            for each, deferred in self.asked[1:]:
                if not deferred.called:
                    deferred.callback(Answer(each))
        self.assertEqual(len(self.successResultOf(done).closest()), K)
        self.assertEqual(self.quiet, [])
        answer.callback(Answer(slow))
        self.assertIn(slow, self.answered)
        self.assertEqual(self.quiet, [search])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_comes_at_once_goes_no_deeper(self) -> None:
        depths: list[int] = []
        deep = 0

        def ask(ask: Ask) -> Deferred[Answer]:
            nonlocal deep
            deep += 1
            depths.append(deep)
            try:
                return fail(PeerUnreachable("nobody")) if deep else succeed(Answer(ask.contact))
            finally:
                deep -= 1

        done = self.search(ask).start()
        self.assertEqual(self.successResultOf(done).closest(), [])
        self.assertEqual(len(self.failed), len(self.contacts))
        self.assertEqual(set(depths), {1})
        self.assertEqual(len(self.quiet), 1)

    def test_nobody_to_ask_is_the_end(self) -> None:
        self.successResultOf(self.search(count=0).start())
        self.assertEqual(len(self.quiet), 1)

    def test_cancelling_ends_all_that_is_in_flight(self) -> None:
        done = self.search().start()
        done.cancel()
        self.failureResultOf(done, CancelledError)
        for _, deferred in self.asked:
            self.assertTrue(deferred.called)
        # They did not fail: nobody waited for them.
        self.assertEqual((self.answered, self.failed, len(self.quiet)), ([], [], 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_who_waits_for_what_is_abandoned_is_told(self) -> None:
        search = self.search()
        done = search.start()
        search.abandon()
        self.failureResultOf(done, CancelledError)

    def test_a_mistake_of_ours_leaves_nobody_waiting(self) -> None:
        search = self.search()
        done = search.start()
        search.lookup.answered = None  # type: ignore[assignment, method-assign]
        each, deferred = self.asked[0]
        deferred.callback(Answer(each))
        self.failureResultOf(done, TypeError)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)
        self.assertTrue(all(deferred.called for _, deferred in self.asked))
        self.assertEqual(len(self.quiet), 1)


class Together(SynchronousTestCase):
    def test_it_gives_all(self) -> None:
        self.assertEqual(self.successResultOf(together([succeed(1), succeed(2)])), [1, 2])

    def test_it_fails_with_what_one_fails_with(self) -> None:
        self.failureResultOf(together([Deferred(), fail(ValueError())]), ValueError)

    def test_cancelling_cancels_all(self) -> None:
        some: list[Deferred[int]] = [Deferred(), Deferred()]
        both = together(some)
        both.cancel()
        self.failureResultOf(both, CancelledError)
        self.assertTrue(all(each.called for each in some))
