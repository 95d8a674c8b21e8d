"""Tests of L{meshkit.gossip.session}."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import MalformedFrame
from meshkit.gossip import session as under_test
from meshkit.gossip.session import (
    MAX_ASKED,
    MAX_CLAIMS,
    MAX_WANTED,
    TURN,
    TURN_BYTES,
    Claims,
    Session,
)


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


A, B, C = key(1), key(2), key(3)


class SessionCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.claims = Claims()
        self.one, self.two = Session(self.claims), Session(self.claims)

    def hear(self, session: Session, *entries: tuple[bytes, int], **ours: int) -> None:
        """The peer tells something, and it is compared with what is stored."""
        stored = {bytes([0] * 31 + [ord(name)]): n for name, n in ours.items()}
        session.compare(session.note_have(entries), stored)

    def ask(self, session: Session, have: int = 0) -> list[bytes]:
        return [author for author in session.pick() if session.ask(author, have, 0.0)]


class Asking(SessionCase):
    def test_what_the_peer_has_more_of_is_asked_for(self) -> None:
        self.one.compare(self.one.note_have([(A, 3), (B, 2), (C, 1)]), {A: 2, B: 2})
        self.assertEqual(self.ask(self.one), [A, C])

    def test_a_feed_is_asked_from_one_peer_at_a_time(self) -> None:
        self.hear(self.one, (A, 3))
        self.hear(self.two, (A, 3), (B, 1))
        self.assertEqual(self.ask(self.one), [A])
        self.assertEqual(self.ask(self.two), [B])
        self.one.done_received(A)
        self.one.finish(A, 0)
        self.assertEqual(self.ask(self.two), [A])

    def test_what_came_from_elsewhere_meanwhile_is_not_asked_for(self) -> None:
        self.hear(self.one, (A, 3))
        (picked,) = self.one.pick()
        self.assertFalse(self.one.ask(picked, 3, 0.0))
        self.assertEqual((self.one.asked, len(self.claims)), ({}, 0))

    def test_a_lost_peer_gives_its_feeds_back(self) -> None:
        self.hear(self.one, (A, 3), (B, 3))
        self.ask(self.one)
        self.one.close()
        self.one.close()
        self.assertEqual(len(self.claims), 0)
        self.hear(self.two, (A, 3))
        self.assertEqual(self.ask(self.two), [A])

    def test_a_closed_session_takes_no_claim_of_another(self) -> None:
        self.hear(self.two, (A, 3))
        self.ask(self.two)
        self.one.close()
        self.assertEqual(len(self.claims), 1)

    def test_no_more_than_so_many_feeds_at_a_time(self) -> None:
        self.one.compare(self.one.note_have([(key(n), 1) for n in range(MAX_ASKED + 1)]), {})
        picked = self.ask(self.one)
        self.assertEqual(picked, [key(n) for n in range(MAX_ASKED)])
        self.assertEqual(self.one.pick(), [])
        self.one.done_received(key(5))
        self.one.finish(key(5), 1)
        self.assertEqual(self.one.pick(), [key(MAX_ASKED)])

    def test_an_answer_has_to_be_asked_for(self) -> None:
        self.assertRaises(MalformedFrame, self.one.page_received, A, 1)
        self.assertRaises(MalformedFrame, self.one.done_received, A)
        self.hear(self.one, (A, 3))
        self.one.pick()
        # Picked, but the Want is not sent yet.
        self.assertRaises(MalformedFrame, self.one.page_received, A, 1)
        self.one.ask(A, 0, 0.0)
        self.one.page_received(A, 1)
        self.one.done_received(A)
        self.assertRaises(MalformedFrame, self.one.page_received, A, 1)
        self.assertRaises(MalformedFrame, self.one.done_received, A)

    def test_pages_follow_one_another(self) -> None:
        self.hear(self.one, (A, 99))
        self.one.pick()
        self.one.ask(A, 5, 0.0)
        self.assertEqual(self.one.page_received(A, 10), 6)
        self.assertEqual(self.one.page_received(A, 1), 16)
        self.assertEqual(self.one.page_received(A, 1), 17)

    def test_a_request_is_finished_when_all_is_stored(self) -> None:
        self.hear(self.one, (A, 3))
        self.ask(self.one)
        self.one.page_received(A, 1)
        self.one.page_received(A, 1)
        self.assertFalse(self.one.page_stored(A, 1).finished)
        self.assertFalse(self.one.done_received(A).finished)
        self.assertTrue(self.one.page_stored(A, 1).finished)

    def test_the_peer_owes_from_the_want_to_the_done(self) -> None:
        self.hear(self.one, (A, 3))
        self.one.pick()
        self.assertFalse(self.one.owed)
        self.one.ask(A, 0, 0.0)
        self.assertTrue(self.one.owed)
        self.one.page_received(A, 3)
        self.assertTrue(self.one.owed)
        self.one.done_received(A)
        # What is left is for us to do.
        self.assertFalse(self.one.owed)


class Rate(SessionCase):
    """Time here is what a link has listened for."""

    def begin(self, *authors: bytes, now: float = 0.0) -> None:
        self.hear(self.one, *((author, 99) for author in authors))
        for author in self.one.pick():
            self.assertTrue(self.one.ask(author, 0, now))

    def bring(self, author: bytes, size: int) -> None:
        self.one.page_received(author, 1)
        self.one.page_stored(author, size)

    def test_a_request_that_brings_too_little_is_found_when_its_time_is_over(self) -> None:
        self.begin(A, now=5.0)
        self.bring(A, TURN_BYTES - 1)
        self.assertEqual(self.one.next_turn(), 5.0 + TURN)
        self.assertIsNone(self.one.too_slow(5.0 + TURN - 1))
        self.assertEqual(self.one.too_slow(5.0 + TURN), A)

    def test_what_brings_enough_begins_anew_and_keeps_no_surplus(self) -> None:
        self.begin(A)
        self.bring(A, 10 * TURN_BYTES)
        self.assertIsNone(self.one.too_slow(TURN))
        self.assertEqual(self.one.next_turn(), 2 * TURN)
        self.assertEqual(self.one.too_slow(2 * TURN), A)

    def test_requests_share_the_time(self) -> None:
        self.begin(A, B)
        self.assertEqual(self.one.next_turn(), 2 * TURN)
        self.assertIsNone(self.one.too_slow(2 * TURN - 1))
        self.bring(A, TURN_BYTES)
        self.assertEqual(self.one.too_slow(2 * TURN), B)
        self.one.done_received(B)
        self.assertEqual(self.one.next_turn(), 3 * TURN)

    def test_what_waits_for_our_store_is_not_late(self) -> None:
        self.begin(A)
        self.one.page_received(A, 1)
        self.assertIsNone(self.one.next_turn())
        self.assertIsNone(self.one.too_slow(9 * TURN))
        self.one.page_stored(A, 0)
        self.assertEqual(self.one.too_slow(9 * TURN), A)

    def test_what_is_not_owed_is_not_late(self) -> None:
        self.hear(self.one, (A, 99))
        self.one.pick()
        self.assertIsNone(self.one.next_turn())
        self.assertIsNone(self.one.too_slow(9 * TURN))


class Claiming(SessionCase):
    def fetch(self, have: int) -> None:
        """Ask, get the answer, and have so much of it then."""
        self.assertEqual(self.ask(self.one), [A])
        self.one.done_received(A)
        self.one.finish(A, have)

    def test_a_claim_that_was_not_made_good_is_not_asked_again(self) -> None:
        self.hear(self.one, (A, 9))
        self.fetch(4)
        for claim in (9, 8, 5):
            self.one.compare(self.one.note_have([(A, claim)]), {A: 4})
            self.assertEqual(self.one.pick(), [], claim)

    def test_until_it_is_larger(self) -> None:
        self.hear(self.one, (A, 9))
        self.fetch(4)
        self.one.compare(self.one.note_have([(A, 10)]), {A: 4})
        self.fetch(4)
        self.one.compare(self.one.note_have([(A, 10)]), {A: 4})
        self.assertEqual(self.one.pick(), [])

    def test_what_the_peer_claimed_while_it_answered_is_not_given_up(self) -> None:
        """
        The peer reads the end of the feed, stores one more, tells so, and only then
        says Done: what it told is not what it answered.
        """
        self.hear(self.one, (A, 9))
        self.assertEqual(self.ask(self.one), [A])
        self.one.page_received(A, 9)
        self.one.note_have([(A, 10)])
        self.one.done_received(A)
        self.one.page_stored(A, 1)
        self.one.finish(A, 9)
        self.one.compare([A], {A: 9})
        self.assertEqual(self.one.pick(), [A])
        self.assertTrue(self.one.ask(A, 9, 0.0))

    def test_what_it_claimed_meanwhile_is_worth_another_try_after_a_failure_too(self) -> None:
        self.hear(self.one, (A, 9))
        self.assertEqual(self.ask(self.one), [A])
        self.one.note_have([(A, 12)])
        self.one.done_received(A)
        self.one.finish(A, 4)
        self.one.compare([A], {A: 4})
        self.assertEqual(self.one.pick(), [A])

    def test_the_largest_claim_is_a_claim_like_any_other(self) -> None:
        self.hear(self.one, (A, 2**63 - 1))
        self.fetch(4)
        self.one.compare(self.one.note_have([(A, 2**63 - 1)]), {A: 4})
        self.assertEqual(self.one.pick(), [])

    def test_a_peer_that_falls_back_keeps_what_it_said(self) -> None:
        self.hear(self.one, (A, 9))
        self.hear(self.one, (A, 3))
        self.assertEqual(self.one.peer_has, {A: 9})


class Telling(SessionCase):
    def test_what_the_peer_said_or_was_given_is_not_told_again(self) -> None:
        self.one.note_have([(A, 3)])
        self.one.served(B, 5)
        heads = [(A, 3), (B, 5), (C, 1)]
        self.assertEqual(self.one.news_for_peer(heads), [(C, 1)])
        self.assertEqual(self.one.news_for_peer([(A, 4), (B, 6)]), [(A, 4), (B, 6)])


class Bounds(SessionCase):
    def setUp(self) -> None:
        super().setUp()
        self.patch(under_test, "MAX_CLAIMS", 10)

    def test_the_stalest_claims_are_forgotten(self) -> None:
        self.one.note_have([(key(n), 1) for n in range(10)])
        self.one.note_have([(key(0), 2), (key(10), 1)])
        self.assertEqual(len(self.one.peer_has), 10)
        self.assertNotIn(key(1), self.one.peer_has)
        self.assertEqual(self.one.peer_has[key(0)], 2)

    def test_feeds_that_wait_to_be_asked_for_do_not_push_one_another_out(self) -> None:
        """
        A peer with more feeds than are remembered tells all of them again and again,
        always in the same order: in the end all of them have to be asked for.
        """
        everything = [(key(n), 1) for n in range(35)]
        stored: dict[bytes, int] = {}
        for _ in range(10):
            for start in range(0, len(everything), 5):
                told = self.one.note_have(everything[start : start + 5])
                self.one.compare(told, stored)
                self.assertLessEqual(len(self.one.ahead), 10)
                self.assertLessEqual(len(self.one.peer_has), 10)
            # Fetching begins only after all was told: the worst case.
            while picked := self.ask(self.one):
                for author in picked:
                    self.one.done_received(author)
                    stored[author] = 1
                    self.one.finish(author, 1)
        self.assertEqual(len(stored), 35)

    def test_claims_that_cannot_be_made_good_are_bounded_too(self) -> None:
        for n in range(100):
            self.hear(self.one, (key(n), 5))
            self.ask(self.one)
            if n % 2:  # forgotten before the answer comes
                self.one.note_have([(key(1000 + 10 * n + k), 0) for k in range(10)])
            self.one.done_received(key(n))
            self.one.finish(key(n), 0)
        self.assertLessEqual(len(self.one._given_up), 10)

    def test_as_many_feeds_as_allowed_may_wait_to_be_served(self) -> None:
        self.one.want_received([(key(n), 0) for n in range(MAX_WANTED)])
        self.one.want_received([(key(0), 7)])
        self.assertEqual(self.one.wanted[key(0)], 7)
        self.assertRaises(MalformedFrame, self.one.want_received, [(key(MAX_WANTED), 0)])


class Model(RuleBasedStateMachine):
    """
    Three peers with growing feeds, some of which can never be fetched further, and
    every order of telling, asking, answering and losing.
    """

    FEEDS = [key(n) for n in range(6)]

    def __init__(self) -> None:
        super().__init__()
        self.claims = Claims()
        self.stored = dict.fromkeys(self.FEEDS, 0)
        self.sessions = [Session(self.claims) for _ in range(3)]
        self.tried: list[set[tuple[bytes, int]]] = [set() for _ in range(3)]

    @rule(peer=st.integers(0, 2), feed=st.sampled_from(FEEDS), claim=st.integers(0, 9))
    def tell(self, peer: int, feed: bytes, claim: int) -> None:
        session = self.sessions[peer]
        session.compare(session.note_have([(feed, claim)]), self.stored)

    @rule(peer=st.integers(0, 2))
    def ask(self, peer: int) -> None:
        session = self.sessions[peer]
        for feed in session.pick():
            if session.ask(feed, self.stored[feed], 0.0):
                claimed = session.asked[feed].claimed
                assert claimed > self.stored[feed]
                attempt = (feed, claimed)
                # A claim is not asked for twice unless some of it was made good.
                assert attempt not in self.tried[peer], attempt
                self.tried[peer].add(attempt)

    @precondition(lambda self: any(s.owed for s in self.sessions))
    @rule(data=st.data(), good=st.integers(0, 3))
    def answer(self, data: st.DataObject, good: int) -> None:
        peer, feed = data.draw(
            st.sampled_from(
                [
                    (n, feed)
                    for n, session in enumerate(self.sessions)
                    for feed, request in session.asked.items()
                    if request.owed
                ]
            )
        )
        session = self.sessions[peer]
        if good:
            session.page_received(feed, good)
            session.page_stored(feed, 1)
            new = max(self.stored[feed], min(self.stored[feed] + good, 9))
            if new > self.stored[feed]:
                self.stored[feed] = new
        session.done_received(feed)
        session.finish(feed, self.stored[feed])
        session.compare([feed], self.stored)

    @rule(peer=st.integers(0, 2))
    def lose(self, peer: int) -> None:
        self.sessions[peer].close()
        self.sessions[peer] = Session(self.claims)
        self.tried[peer] = set()

    @invariant()
    def one_feed_is_fetched_from_one_peer(self) -> None:
        asked = [feed for session in self.sessions for feed in session.asked]
        assert len(asked) == len(set(asked)) == len(self.claims)


Model.TestCase.settings = settings(stateful_step_count=30)


class Machine(Model.TestCase, SynchronousTestCase):  # type: ignore[misc]
    pass


class Constants(SynchronousTestCase):
    def test_the_table_of_claims_is_larger_than_what_one_frame_tells(self) -> None:
        self.assertGreater(MAX_CLAIMS, under_test.MAX_ENTRIES)
