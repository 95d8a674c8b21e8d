"""Tests of L{meshkit.feed.guard} and L{meshkit.feed.own}."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import FeedForked, FeedReadOnly, NotReady
from meshkit.feed import guard
from meshkit.feed import part as feed_part
from meshkit.feed.guard import MAX_CLAIMS, MAX_DISBELIEVED, PATIENCE, Claims, Guard
from meshkit.feed.part import Config
from meshkit.testing.identities import DAY_NS, Author, make_identity
from meshkit.testing.nodes import make_context, run_clock
from tests.feed.test_part import PartCase
from tests.feed.test_store import NOW_NS, branch, fresh, ingest

ADA = Author("ada")
ADA.write_many(9)
PEERS = [make_identity(f"peer {number}").public.raw for number in range(70)]


class Rows(SynchronousTestCase):
    """What is kept over restarts."""

    def setUp(self) -> None:
        self.connection = fresh()
        self.addCleanup(self.connection.close)

    def hear(self, *shown: tuple[bytes, int], needed: int = 2, may_lift: bool = True) -> Any:
        return guard.hear(self.connection, ADA.key, shown, needed, may_lift)

    def restored(self, sequences: int) -> Guard | None:
        ingest(self.connection, *ADA.raws[:sequences])
        guard.mark_restored(self.connection, NOW_NS)
        return guard.begin(self.connection, ADA.key)[0]

    def test_a_backup_learns_at_the_start_whose_feed_it_guards(self) -> None:
        self.assertEqual(self.restored(4), Guard("restored", NOW_NS, 4, 0))
        # A later start changes nothing, though more has come meanwhile.
        ingest(self.connection, *ADA.raws[4:])
        found = guard.begin(self.connection, ADA.key)
        self.assertEqual(found, (Guard("restored", NOW_NS, 4, 0), 9, None))

    def test_two_peers_that_have_no_more_lift_it(self) -> None:
        self.restored(4)
        self.assertEqual(self.hear((PEERS[0], 4)), Guard("restored", NOW_NS, 4, 1))
        self.assertIsNone(self.hear((PEERS[1], 4)))
        self.assertIsNone(guard.read_guard(self.connection))

    def test_one_peer_that_says_it_twice_is_one(self) -> None:
        self.restored(4)
        for _ in range(3):
            self.assertEqual(self.hear((PEERS[0], 4)).witnesses, 1)

    def test_who_has_less_than_was_here_is_no_witness(self) -> None:
        self.restored(4)
        self.assertEqual(self.hear((PEERS[0], 3), (PEERS[1], 0)).witnesses, 0)

    def test_who_has_more_than_is_here_is_none_yet(self) -> None:
        self.restored(4)
        self.assertEqual(self.hear((PEERS[0], 6), (PEERS[1], 4)).witnesses, 1)
        ingest(self.connection, *ADA.raws[4:6])
        self.assertIsNone(self.hear((PEERS[0], 6)))

    def test_it_is_not_lifted_while_somebody_claims_more(self) -> None:
        self.restored(4)
        self.assertEqual(self.hear((PEERS[0], 4), (PEERS[1], 4), may_lift=False).witnesses, 2)
        self.assertIsNone(self.hear())

    def test_it_is_not_lifted_while_something_is_missing(self) -> None:
        self.restored(4)
        ingest(self.connection, ADA.raws[6])
        self.assertEqual(self.hear((PEERS[0], 4), (PEERS[1], 4)).witnesses, 2)
        ingest(self.connection, *ADA.raws[4:6])
        self.assertIsNone(self.hear())

    def test_it_is_not_lifted_for_a_feed_that_is_forked(self) -> None:
        self.restored(4)
        ingest(self.connection, *(m.raw for m in branch(ADA, 3, 1, "other")))
        self.assertEqual(self.hear((PEERS[0], 3), (PEERS[1], 4)).witnesses, 0)

    def test_an_empty_store_is_guarded_as_well(self) -> None:
        self.assertEqual(self.restored(0), Guard("restored", NOW_NS, 0, 0))
        self.assertIsNone(self.hear((PEERS[0], 0), (PEERS[1], 0)))

    def test_a_backup_of_a_guarded_store_begins_anew(self) -> None:
        self.restored(4)
        self.hear((PEERS[0], 4))
        guard.mark_restored(self.connection, NOW_NS + 5)
        found, _, _ = guard.begin(self.connection, ADA.key)
        self.assertEqual(found, Guard("restored", NOW_NS + 5, 4, 0))

    def test_what_comes_back_does_not_change_the_reason(self) -> None:
        self.restored(4)
        guard.set_behind(self.connection, 9, NOW_NS + 1)
        self.assertEqual(guard.read_guard(self.connection), Guard("restored", NOW_NS, 4, 0))

    def test_by_hand_it_is_lifted_at_once(self) -> None:
        self.restored(4)
        self.hear((PEERS[0], 4))
        guard.lift(self.connection)
        self.assertIsNone(guard.read_guard(self.connection))
        guard.mark_restored(self.connection, NOW_NS)
        self.assertEqual(guard.begin(self.connection, ADA.key)[0], Guard("restored", NOW_NS, 4, 0))


class ClaimsTests(SynchronousTestCase):
    """What peers say is believed for a while."""

    def setUp(self) -> None:
        self.claims = Claims()

    def test_a_claim_lapses_and_its_peer_is_not_believed_again(self) -> None:
        self.assertTrue(self.claims.add(PEERS[0], 5, now=10.0))
        self.assertEqual(self.claims.next_expiry(), 10.0 + PATIENCE)
        self.assertEqual(self.claims.expire(9.9 + PATIENCE), [])
        self.assertEqual(self.claims.expire(10.0 + PATIENCE), [PEERS[0]])
        self.assertFalse(self.claims.add(PEERS[0], 6, now=200.0))
        self.assertEqual((len(self.claims), self.claims.next_expiry()), (0, None))
        self.assertTrue(self.claims.add(PEERS[1], 6, now=200.0))

    def test_to_claim_more_and_more_gains_no_time(self) -> None:
        self.claims.add(PEERS[0], 5, now=0.0)
        self.claims.add(PEERS[0], 6, now=30.0)
        self.assertEqual(self.claims.next_expiry(), PATIENCE)
        self.assertEqual(self.claims.highest(), (PEERS[0], 6))

    def test_what_is_brought_makes_claims_good_and_gives_the_others_time(self) -> None:
        self.claims.add(PEERS[0], 5, now=0.0)
        self.claims.add(PEERS[1], 9, now=0.0)
        self.assertEqual(self.claims.brought(5, now=40.0), [(PEERS[0], 5)])
        self.assertEqual(self.claims.next_expiry(), 40.0 + PATIENCE)
        self.assertEqual(self.claims.highest(), (PEERS[1], 9))

    def test_a_claim_can_be_withdrawn(self) -> None:
        self.claims.add(PEERS[0], 5, now=0.0)
        self.assertTrue(self.claims.withdraw(PEERS[0]))
        self.assertFalse(self.claims.withdraw(PEERS[0]))
        self.assertTrue(self.claims.add(PEERS[0], 5, now=0.0))

    def test_to_withdraw_a_claim_and_to_make_it_again_gains_no_time(self) -> None:
        """One peer would keep a node from publishing for ever."""
        self.claims.add(PEERS[0], 5, now=0.0)
        self.claims.withdraw(PEERS[0])
        self.assertTrue(self.claims.add(PEERS[0], 6, now=50.0))
        self.assertEqual(self.claims.next_expiry(), PATIENCE)
        self.claims.withdraw(PEERS[0])
        self.assertFalse(self.claims.add(PEERS[0], 7, now=PATIENCE))
        self.assertFalse(self.claims.add(PEERS[0], 7, now=0.0))

    def test_who_has_brought_something_is_believed_anew(self) -> None:
        self.claims.add(PEERS[0], 5, now=0.0)
        self.claims.withdraw(PEERS[0])
        self.claims.add(PEERS[0], 5, now=50.0)
        self.claims.brought(5, now=55.0)
        self.assertTrue(self.claims.add(PEERS[0], 9, now=100.0))
        self.assertEqual(self.claims.next_expiry(), 100.0 + PATIENCE)

    def test_who_has_withdrawn_is_remembered_up_to_a_limit(self) -> None:
        for number in range(MAX_DISBELIEVED + 5):
            peer = number.to_bytes(32, "big")
            self.claims.add(peer, 1, now=0.0)
            self.claims.withdraw(peer)
        self.assertEqual(len(self.claims._withdrawn), MAX_DISBELIEVED)

    def test_who_is_dropped_is_not_believed_again(self) -> None:
        self.claims.add(PEERS[0], 5, now=0.0)
        self.claims.drop()
        self.assertFalse(self.claims.add(PEERS[0], 5, now=0.0))
        self.assertIsNone(self.claims.highest())

    @given(st.lists(st.tuples(st.integers(0, 69), st.integers(1, 99)), max_size=200))
    def test_the_tables_are_bounded(self, said: list[tuple[int, int]]) -> None:
        claims = Claims()
        for who, sequence in said:
            claims.add(PEERS[who], sequence, now=0.0)
        self.assertLessEqual(len(claims), MAX_CLAIMS)

    def test_so_is_the_list_of_liars(self) -> None:
        for number in range(MAX_DISBELIEVED + 5):
            self.claims.add(number.to_bytes(32, "big"), 5, now=0.0)
            self.claims.expire(PATIENCE)
        self.assertEqual(len(self.claims._disbelieved), MAX_DISBELIEVED)
        self.assertTrue(self.claims.add((0).to_bytes(32, "big"), 5, now=0.0))


class GuardCase(PartCase):
    """A node, and an author with its key that was there before."""

    def setUp(self) -> None:
        super().setUp()
        self.mine = Author("me")
        self.mine.identity = self.context.identity
        self.mine.write_many(6)

    def restart(self, **config: Any) -> None:
        backing = self.context.database._backing
        self.done(self.part.stopService())
        self.done(self.context.database.stopService())
        self.use(
            make_context(
                self.clock,
                "me",
                config=Config(retention_expiry=False, **config),
                migrations=self.migrations(),
                backing=backing,
            )
        )

    def restore(self, sequences: int = 4, **config: Any) -> None:
        """Restart as a node that has had an older state of its data put back."""
        self.done(self.part.ingest(self.mine.raws[:sequences]))
        with closing(self.context.database._backing.open_writer()) as connection:
            guard.mark_restored(connection, DAY_NS)
        self.restart(**config)

    def see(self, peer: int, sequence: int) -> None:
        self.done(self.part.note_own_seen(PEERS[peer], sequence))

    def refused(self) -> str:
        return str(self.failed(self.part.publish("too early"), FeedReadOnly))


class Restored(GuardCase):
    """A node whose database is a backup."""

    def test_it_publishes_when_two_peers_have_shown_all_they_have(self) -> None:
        self.restore()
        self.assertIn("backup of 2026-01-01T00:00:00Z", self.refused())
        self.assertIn("2 peers have shown that they have it up to 4", self.refused())
        self.failed(self.answer("feed_publish_batch", contents=[]), FeedReadOnly)
        self.see(0, 4)
        self.assertIn("(1 so far)", self.refused())
        self.see(1, 4)
        self.assertEqual(self.done(self.part.publish("at last")).sequence, 5)

    def test_what_peers_have_more_is_fetched_first(self) -> None:
        self.restore()
        self.see(0, 4)
        self.see(1, 4)
        self.restore()
        self.see(0, 6)
        self.see(1, 4)
        self.see(2, 4)
        self.refused()
        self.done(self.part.ingest(self.mine.raws[4:6]))
        self.assertEqual(self.done(self.part.publish("at last")).sequence, 7)

    def test_what_is_said_twice_is_told_once(self) -> None:
        self.restore()
        self.see(0, 4)
        with capturedLogs() as events:
            for sequence in (6, 6, 7):
                self.see(1, sequence)
            self.see(1, 4)
            # Both are heard before the database has answered one.
            waiting = [self.part.note_own_seen(PEERS[peer], 4) for peer in (2, 3)]
            for each in waiting:
                self.done(each)
        told = [str(formatEvent(event)) for event in events]
        self.assertEqual(sum("says that it has" in text for text in told), 1, told)
        self.assertEqual(sum("publishes again" in text for text in told), 1, told)

    def test_it_is_still_closed_after_the_next_start(self) -> None:
        self.restore()
        self.see(0, 4)
        self.restart()
        self.assertIn("(1 so far)", self.refused())
        self.see(1, 4)
        self.restart()
        self.done(self.part.publish("at last"))

    def test_the_number_of_peers_is_a_setting(self) -> None:
        self.restore(witnesses=1)
        self.assertIn("1 peers", self.refused())
        self.see(0, 4)
        self.done(self.part.publish("at last"))

    def test_a_peer_that_lies_does_not_keep_it_closed(self) -> None:
        self.restore()
        self.see(0, 10**9)
        self.see(1, 4)
        self.see(2, 4)
        self.assertIn("(2 so far)", self.refused())
        run_clock(self.clock, PATIENCE)
        self.done(self.part.publish("at last"))
        self.see(0, 10**9)
        self.done(self.part.publish("and again"))

    def test_the_operator_can_open_it(self) -> None:
        self.restore()
        own = self.ok("feed_own")
        self.assertEqual((own.sequence, own.latest, own.witnesses, own.needed), (4, 4, 0, 2))
        self.assertEqual((own.read_only, own.since), (self.refused(), "2026-01-01T00:00:00Z"))
        self.assertEqual(self.part.status().read_only, own.read_only)
        own = self.ok("feed_unlock")
        self.assertEqual((own.read_only, own.since), (None, None))
        self.done(self.part.publish("at my own risk"))
        self.restart()
        self.done(self.part.publish("still"))

    def test_a_publish_that_waits_behind_what_comes_back_is_refused(self) -> None:
        """The guard is read in the job that writes, whatever was known when it was asked."""
        publishing: list[Deferred[Any]] = []
        store = self.context.database.write

        def write(job: Any) -> Any:
            # The job that stores them is given, and not done.
            self.patch(self.context.database, "write", store)
            given = store(job)
            publishing.append(self.part.publish("too early"))
            return given

        self.patch(self.context.database, "write", write)
        self.done(self.part.ingest(self.mine.raws[:3]))
        self.failureResultOf(publishing[0], FeedReadOnly)
        self.assertEqual(self.own(), self.mine.raws[:3])


class Repaired(GuardCase):
    def test_it_says_why_it_does_not_publish(self) -> None:
        self.done(self.part.ingest(self.mine.raws[:4]))
        with closing(self.context.database._backing.open_writer()) as connection:
            guard.lift(connection)
            guard.set_repaired(connection, 4, DAY_NS)
            guard.set_repaired(connection, 9, DAY_NS)
        self.restart()
        self.assertIn("was damaged and set aside", self.refused())
        self.see(0, 4)
        self.see(1, 4)
        self.done(self.part.publish("at last"))


class Behind(GuardCase):
    """A node whose disk was set back, and that knows nothing of it."""

    def test_it_stops_when_a_peer_says_that_it_has_more(self) -> None:
        self.done(self.part.ingest(self.mine.raws[:4]))
        self.ok("feed_unlock")
        self.see(0, 6)
        self.assertIn("has this node's feed up to 6, and here it ends at 4", self.refused())
        self.assertIsNone(self.ok("feed_own").since)
        self.done(self.part.ingest(self.mine.raws[4:6]))
        # That it was behind is certain now: one peer is not enough.
        self.assertIn("a peer had messages of it that were missing here", self.refused())
        self.restart()
        self.refused()
        self.see(1, 6)
        self.see(2, 6)
        self.assertEqual(self.done(self.part.publish("at last")).sequence, 7)

    def test_a_claim_that_comes_to_nothing_lapses(self) -> None:
        self.done(self.part.publish("one"))
        self.see(0, 2)
        run_clock(self.clock, PATIENCE - 1)
        self.refused()
        run_clock(self.clock, 1)
        self.done(self.part.publish("two"))
        self.see(0, 9)
        self.done(self.part.publish("three"))

    def test_a_claim_that_is_withdrawn_is_over_at_once(self) -> None:
        self.done(self.part.publish("one"))
        self.see(0, 2)
        self.refused()
        self.see(0, 1)
        self.done(self.part.publish("two"))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_peers_have_of_it_in_step_costs_no_write(self) -> None:
        self.done(self.part.publish("one"))
        writes = self.context.database.status().writes
        for peer in range(20):
            self.see(peer, peer % 2)
        self.assertEqual(self.context.database.status().writes, writes)

    def test_what_fills_a_gap_in_its_feed_is_no_sign_of_more(self) -> None:
        """Only what lies beyond its end shows that the end was forgotten."""
        self.done(self.part.ingest([self.mine.raws[0], self.mine.raws[2]]))
        self.ok("feed_unlock")
        self.done(self.part.ingest([self.mine.raws[1]]))
        self.assertEqual(self.done(self.part.publish("on")).sequence, 4)

    def test_its_own_messages_that_come_back_to_it_are_nothing_new(self) -> None:
        self.done(self.part.publish("one"))
        self.done(self.part.ingest(self.own()))
        self.done(self.part.publish("two"))

    def test_what_was_published_meanwhile_is_found_to_be_a_fork(self) -> None:
        self.done(self.part.publish("another first"))
        self.see(0, 6)
        self.done(self.part.ingest(self.mine.raws[:2]))
        self.failed(self.part.publish("too late"), FeedForked)
        # Nobody waits for more of it, and a restart does not forget.
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.see(1, 9)
        self.restart()
        self.failed(self.part.publish("too late"), FeedForked)
        self.assertEqual(self.ok("feed_own").forked, 1)

    def test_a_node_that_stops_leaves_no_timer(self) -> None:
        self.see(0, 6)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.done(self.part.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_claim_heard_while_the_database_is_gone_fails_by_name(self) -> None:
        self.restore()
        self.done(self.context.database.stopService())
        self.failed(self.part.note_own_seen(PEERS[0], 4), NotReady)


class Columns(SynchronousTestCase):
    def test_an_older_database_is_brought_here(self) -> None:
        """... with its feeds as they were, and no guard."""
        connection = sqlite3.connect(":memory:")
        self.addCleanup(connection.close)
        connection.executescript(feed_part.MIGRATIONS[0])
        connection.execute("INSERT INTO feed_authors VALUES (1, ?, 3, ?, 3)", (ADA.key, bytes(32)))
        for script in feed_part.MIGRATIONS[1:]:
            connection.executescript(script)
        self.assertEqual(guard.begin(connection, ADA.key), (None, 3, None))
        row = connection.execute("SELECT contiguous, forked FROM feed_authors").fetchone()
        self.assertEqual(row, (3, None))
