"""Tests of L{meshkit.gossip.selection}."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import MalformedFrame
from meshkit.gossip import selection as module
from meshkit.gossip.selection import MAX_AUTHORS, MAX_TOPICS, MIGRATIONS, Follows, PeerInterest
from meshkit.testing.nodes import make_context, run_clock
from meshkit.testing.strategies import key_bytes

KEYS = [n.to_bytes(32, "big") for n in range(1, 8)]


class PeerInterests(SynchronousTestCase):
    def setUp(self) -> None:
        self.interest = PeerInterest()

    def test_nothing_before_it_was_told(self) -> None:
        self.assertFalse(self.interest.complete)
        self.assertNotIn(KEYS[0], self.interest)

    def test_everything(self) -> None:
        self.assertTrue(self.interest.page(True, [], [], False))
        self.assertIn(KEYS[0], self.interest)

    def test_a_list_counts_when_its_last_page_is_here(self) -> None:
        self.assertFalse(self.interest.page(False, KEYS[:2], ["one"], True))
        self.assertNotIn(KEYS[0], self.interest)
        self.assertTrue(self.interest.page(False, KEYS[2:4], ["two"], False))
        self.assertEqual([key in self.interest for key in KEYS[:5]], [True] * 4 + [False])
        self.assertEqual(self.interest.topics, ("one", "two"))
        # Another one takes its place, as a whole.
        self.interest.page(False, KEYS[5:6], [], True)
        self.assertIn(KEYS[0], self.interest)
        self.interest.page(False, [], [], False)
        self.assertEqual([key in self.interest for key in (KEYS[0], KEYS[5])], [False, True])

    def test_authors_ascend_over_all_pages(self) -> None:
        self.interest.page(False, KEYS[3:4], [], True)
        for wrong in ([KEYS[3]], [KEYS[1]], [KEYS[5], KEYS[4]]):
            fresh = PeerInterest()
            fresh.page(False, KEYS[3:4], [], True)
            self.assertRaises(MalformedFrame, fresh.page, False, wrong, [], False)

    def test_as_many_as_allowed_and_one_more(self) -> None:
        self.patch(module, "MAX_AUTHORS", 3)
        self.patch(module, "MAX_TOPICS", 2)
        self.interest.page(False, KEYS[:3], ["a", "b"], True)
        for authors, topics in ((KEYS[3:4], []), ([], ["c"])):
            fresh = PeerInterest()
            fresh.page(False, KEYS[:3], ["a", "b"], True)
            self.assertRaises(MalformedFrame, fresh.page, False, authors, topics, False)
        self.assertEqual((MAX_AUTHORS, MAX_TOPICS), (50_000, 1_000))

    @given(st.sets(key_bytes(), max_size=30), st.sets(key_bytes(), max_size=5))
    def test_who_is_in_it(self, authors: set[bytes], others: set[bytes]) -> None:
        interest = PeerInterest()
        interest.page(False, sorted(authors), [], False)
        self.assertEqual(len(interest), len(authors))
        for key in sorted(authors | others):
            self.assertEqual(key in interest, key in authors)


class Following(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.context: Any = make_context(self.clock, migrations={"gossip": MIGRATIONS})
        self.addCleanup(self.context.database.stopService)
        self.follows = self.open()

    def open(self) -> Follows:
        follows = Follows(KEYS[0], self.context.database, lambda: 1)
        self.wait(follows.load())
        return follows

    def wait(self, waiting: Any) -> Any:
        run_clock(self.clock)
        return self.successResultOf(waiting)

    def test_everybody_until_somebody_is_followed(self) -> None:
        self.assertTrue(self.follows.wants(KEYS[1]))
        self.assertTrue(self.follows.interest().all)
        self.wait(self.follows.follow(KEYS[2]))
        self.assertEqual([self.follows.wants(key) for key in KEYS[:3]], [True, False, True])
        interest = self.follows.interest()
        self.assertEqual((interest.all, interest.authors), (False, (KEYS[0], KEYS[2])))
        self.wait(self.follows.unfollow(KEYS[2]))
        self.assertTrue(self.follows.interest().all)

    def test_it_is_kept_and_told(self) -> None:
        told: list[int] = []
        self.follows.watch(lambda: told.append(len(self.follows)))
        self.wait(self.follows.follow(KEYS[2]))
        self.wait(self.follows.follow(KEYS[1]))
        self.wait(self.follows.unfollow(KEYS[2]))
        self.assertEqual(told, [1, 2, 1])
        self.assertEqual(self.open().authors(), [KEYS[1]])

    def test_more_than_can_be_told_is_everything(self) -> None:
        self.patch(module, "MAX_AUTHORS", 2)
        for key in KEYS[1:3]:
            self.wait(self.follows.follow(key))
        self.assertTrue(self.follows.interest().all)
        self.assertFalse(self.follows.wants(KEYS[5]))
