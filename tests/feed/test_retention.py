"""Tests of L{meshkit.feed.retention}."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import DuplicateMessage, ForkRefused
from meshkit.feed import retention, search, store
from meshkit.feed.doctor import examine
from meshkit.feed.limits import Amount
from meshkit.feed.part import check_texts
from meshkit.feed.retention import Doomed, Policy
from meshkit.feed.search import Filter
from meshkit.interfaces import Frontier, Gap, Retention
from meshkit.testing.identities import DAY_NS, Author
from tests.feed.test_store import branch

ME, ADA, BOB = Author("me"), Author("ada"), Author("bob")
ADA.write_many(10)
BOB.write_many(10)
ME.write_many(10)
SECOND = 10**9
NOW_NS = DAY_NS + 100 * SECOND


def fresh() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for script in store.MIGRATIONS:
        connection.executescript(script)
    return connection


def put(connection: sqlite3.Connection, *raws: bytes) -> store.Stored:
    return store.store_batch(connection, check_texts(raws), NOW_NS)


def plan(connection: sqlite3.Connection, **policy: object) -> list[Doomed]:
    return retention.plan(
        connection,
        Policy(**policy),  # type: ignore[arg-type]
        ME.key,
        NOW_NS,
    )


def run(connection: sqlite3.Connection, **policy: object) -> int:
    """What a run does.  @return: how many messages it emptied."""
    messages = 0
    while doomed := plan(connection, **policy):
        emptied = retention.empty(connection, [each.position for each in doomed])
        if not emptied.messages:
            break
        messages += emptied.messages
    return messages


def kept(connection: sqlite3.Connection, author: Author) -> list[int]:
    """The places of which a text is kept."""
    return [
        sequence
        for (sequence,) in connection.execute(
            "SELECT sequence FROM feed_messages WHERE raw <> x'' AND author = "
            "(SELECT id FROM feed_authors WHERE key = ?) ORDER BY sequence",
            (author.key,),
        )
    ]


def listed(connection: sqlite3.Connection, **wanted: object) -> int:
    page = search.list_messages(connection, Filter(**wanted), 100)  # type: ignore[arg-type]
    assert len(page.rows) == page.total
    return page.total


def sync(
    source: sqlite3.Connection, target: sqlite3.Connection, authors: Sequence[Author], page: int
) -> int:
    """
    Bring a store into step with another, as gossip does where all agree on what is gone.

    @return: how many texts were sent.
    """
    sent = 0
    for author in authors:
        theirs = store.list_frontier(source, [author.key], b"", 1)
        ours = store.list_frontier(target, [author.key], b"", 1)
        goal = theirs[0].sequence if theirs else 0
        have = ours[0].sequence if ours else 0
        while have < goal:
            texts = store.read_chain(source, author.key, have, 10**9, page)
            if texts:
                sent += len(texts)
                put(target, *texts)
            else:
                gap = store.gone_until(source, author.key, have)
                assert gap is not None and gap.next is not None and gap.head is not None
                sent += 1
                put(target, gap.next)
                assert store.skip(target, author.key, gap.until, gap.head, NOW_NS)
            (now,) = store.list_frontier(target, [author.key], b"", 1)
            assert now.sequence > have
            have = now.sequence
    return sent


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = fresh()
        self.addCleanup(self.connection.close)

    def sound(self, connection: sqlite3.Connection | None = None) -> None:
        report = examine(connection or self.connection, repair=False, own=ME.key, now_ns=NOW_NS)
        self.assertEqual([f.subject for f in report.findings], [])


class Rules(Case):
    def test_by_default_only_what_has_expired_goes(self) -> None:
        put(self.connection, *ADA.raws)
        self.assertEqual(plan(self.connection), [])

    def test_what_has_expired_goes_to_the_nanosecond(self) -> None:
        eve = Author("eve")
        for at in (
            "2026-01-01T00:00:00Z",
            "2020-01-01T00:00:00.000000001Z",
            "9999-12-31T00:00:00Z",
        ):
            eve.write(expires_at=at)
        eve.write()
        put(self.connection, *eve.raws)
        at = 1_577_836_800 * SECOND
        found = [
            [d.position for d in retention.plan(self.connection, Policy(), ME.key, now)]
            for now in (at, at + 1)
        ]
        self.assertEqual(found, [[], [2]])
        self.assertEqual(plan(self.connection, expiry=False), [])

    def test_what_is_too_old_goes_but_for_the_newest_of_each_feed(self) -> None:
        put(self.connection, *ADA.raws[:4], *BOB.raws)
        # Message n was written n seconds after DAY_NS.
        self.assertEqual(run(self.connection, max_age_ns=96 * SECOND), 6)
        self.assertEqual((kept(self.connection, ADA), kept(self.connection, BOB)[0]), ([4], 4))
        self.assertEqual(run(self.connection, max_age_ns=1), 6)
        self.assertEqual((kept(self.connection, ADA), kept(self.connection, BOB)), ([4], [10]))

    def test_what_came_too_long_ago_goes_whatever_its_author_says_of_time(self) -> None:
        tomorrow, yesterday = Author("tomorrow"), Author("yesterday")
        for author, at in ((tomorrow, NOW_NS + 10**17), (yesterday, NOW_NS - 10**17)):
            for _ in range(4):
                author.write(timestamp_ns=at)
        for number in range(4):
            store.store_batch(
                self.connection,
                check_texts([tomorrow.raws[number], yesterday.raws[number]]),
                NOW_NS - (4 - number) * SECOND,
            )
        self.assertEqual(run(self.connection, max_stay_ns=4 * SECOND), 0)
        self.assertEqual(run(self.connection, max_stay_ns=3 * SECOND), 2)
        for author in (tomorrow, yesterday):
            self.assertEqual(kept(self.connection, author), [2, 3, 4])
        self.assertEqual(run(self.connection, max_stay_ns=1), 4)
        for author in (tomorrow, yesterday):
            self.assertEqual(kept(self.connection, author), [4])
        self.sound()

    def test_in_fairness_those_give_who_have_most_and_the_others_nothing(self) -> None:
        eve, old = Author("eve"), Author("old clock")
        for _ in range(2):
            old.write(timestamp_ns=SECOND)
        put(self.connection, *old.raws, *ADA.raws, *eve.write_many(20))
        self.assertEqual(run(self.connection, messages=32, fair=True), 0)
        self.assertEqual(run(self.connection, messages=20, fair=True), 12)
        # Two for the one and nine for each of the others: whatever their clocks say.
        self.assertEqual(kept(self.connection, old), [1, 2])
        self.assertEqual(kept(self.connection, ADA), [2, 3, 4, 5, 6, 7, 8, 9, 10])
        self.assertEqual(kept(self.connection, eve), [*range(12, 21)])
        self.sound()
        # Without that, the oldest of all go first.
        self.assertEqual(run(self.connection, messages=19), 1)
        self.assertEqual(kept(self.connection, old), [2])

    def test_in_fairness_bytes_are_shared_as_well_and_the_own_feed_is_not_touched(self) -> None:
        large = Author("large")
        for _ in range(6):
            large.write("x" * 2_000)
        put(self.connection, *ME.raws, *ADA.raws, *large.raws)
        own, ada = (sum(map(len, each.raws)) for each in (ME, ADA))
        most = own + ada + 2 * len(large.raws[-1]) + 9
        run(self.connection, bytes=most, fair=True)
        self.assertEqual(kept(self.connection, large), [5, 6])
        self.assertEqual(len(kept(self.connection, ADA)), 10)
        self.assertEqual(len(kept(self.connection, ME)), 10)
        run(self.connection, bytes=1, fair=True)
        self.assertEqual((kept(self.connection, large), kept(self.connection, ADA)), ([6], [10]))
        self.assertEqual(len(kept(self.connection, ME)), 10)

    @given(st.lists(st.integers(0, 50), max_size=8), st.integers(-5, 200))
    def test_a_level_is_the_highest_at_which_there_is_room(
        self, amounts: list[int], most: int
    ) -> None:
        found = retention.level(amounts, most)

        def together(share: int) -> int:
            return sum(min(share, amount) for amount in amounts)

        self.assertLessEqual(together(found), max(0, most))
        if found < max(amounts, default=0):
            self.assertGreater(together(found + 1), max(0, most))

    def test_what_comes_again_came_now(self) -> None:
        put(self.connection, *ADA.raws[:4])
        retention.forget_end(self.connection, ADA.key)
        doomed = retention.of_author(self.connection, ADA.key)
        retention.empty_forgotten(self.connection, [each.position for each in doomed])
        store.store_batch(self.connection, check_texts(ADA.raws[:4]), NOW_NS + 9 * SECOND)
        later = NOW_NS + 10 * SECOND
        for stay, gone in ((2 * SECOND, 0), (1, 3)):
            policy = Policy(max_stay_ns=stay)
            found = retention.plan(self.connection, policy, ME.key, later)
            self.assertEqual(len(found), gone)
        self.sound()

    def test_the_oldest_to_come_are_found_without_looking_at_what_is_gone(self) -> None:
        seen: list[str] = []
        put(self.connection, *ADA.raws)
        self.connection.set_trace_callback(seen.append)
        plan(self.connection, max_stay_ns=1)
        self.connection.set_trace_callback(None)
        (sql,) = [each for each in seen if "feed_messages_arrived" in each]
        steps = [row[3] for row in self.connection.execute(f"EXPLAIN QUERY PLAN {sql}")]
        self.assertIn("feed_messages_arrived", steps[0])
        self.assertNotIn("TEMP B-TREE", " ".join(steps))

    def test_a_policy_within_another_is_the_stricter_in_everything(self) -> None:
        free, strict = Policy(), Policy(True, 5, 10, 20, 30, 40, True)
        rule = Retention(seconds=1.5, author_messages=15, author_bytes=0, messages=7, bytes=99)
        self.assertEqual(
            free.within(rule),
            Policy(
                True,
                0,
                15,
                0,
                7,
                99,
                False,
                max_stay_ns=1_500_000_000,
                fair=True,
                prompt=True,
            ),
        )
        self.assertEqual(
            strict.within(rule),
            Policy(
                True,
                5,
                10,
                20,
                7,
                40,
                True,
                max_stay_ns=1_500_000_000,
                fair=True,
                prompt=True,
            ),
        )
        self.assertTrue(Policy(expiry=False).within(Retention()).idle)
        self.assertFalse(Policy(expiry=False).within(Retention(seconds=1)).idle)

    def test_of_an_author_the_oldest_beyond_a_number_go(self) -> None:
        put(self.connection, *ADA.raws, *BOB.raws[:3])
        self.assertEqual(run(self.connection, author_messages=10), 0)
        self.assertEqual(run(self.connection, author_messages=3), 7)
        self.assertEqual(kept(self.connection, ADA), [8, 9, 10])
        self.assertEqual(kept(self.connection, BOB), [1, 2, 3])

    def test_of_an_author_the_oldest_beyond_a_size_go(self) -> None:
        put(self.connection, *ADA.raws)
        size = sum(map(len, ADA.raws[6:]))
        self.assertEqual(run(self.connection, author_bytes=size), 6)
        self.assertEqual(run(self.connection, author_bytes=size - 1), 1)
        self.assertEqual(kept(self.connection, ADA), [8, 9, 10])

    def test_of_all_the_oldest_beyond_a_number_go(self) -> None:
        put(self.connection, *ADA.raws, *BOB.raws)
        self.assertEqual(run(self.connection, messages=20), 0)
        self.assertEqual(run(self.connection, messages=15), 5)
        self.assertEqual(kept(self.connection, ADA)[0] + kept(self.connection, BOB)[0], 7)
        self.assertEqual(store.total(self.connection).texts, 15)

    def test_of_all_the_oldest_beyond_a_size_go(self) -> None:
        put(self.connection, *ADA.raws, *BOB.raws)
        size = store.total(self.connection).size
        self.assertEqual(run(self.connection, bytes=size), 0)
        self.assertEqual(run(self.connection, bytes=size - 1), 1)

    def test_a_limit_that_cannot_be_kept_to_leaves_the_newest(self) -> None:
        put(self.connection, *ADA.raws, *BOB.raws)
        self.assertEqual(run(self.connection, messages=1, bytes=1, author_messages=1), 18)
        self.assertEqual((kept(self.connection, ADA), kept(self.connection, BOB)), ([10], [10]))

    def test_ones_own_feed_is_kept_unless_asked_for(self) -> None:
        put(self.connection, *ME.raws)
        self.assertEqual(run(self.connection, messages=1, max_age_ns=1, author_messages=1), 0)
        self.assertEqual(run(self.connection, messages=2, own=True), 8)
        self.assertEqual(kept(self.connection, ME), [9, 10])

    def test_what_waits_beyond_a_gap_is_kept(self) -> None:
        put(self.connection, *ADA.raws[:3], *ADA.raws[5:])
        self.assertEqual(run(self.connection, author_messages=1), 2)
        self.assertEqual(kept(self.connection, ADA), [3, 6, 7, 8, 9, 10])

    def test_what_a_fork_has_cut_off_goes(self) -> None:
        (other,) = branch(ADA, 5, 1, "other")
        put(self.connection, *ADA.raws, other.raw)
        self.assertEqual(run(self.connection, author_messages=1), 9)
        self.assertEqual(kept(self.connection, ADA), [5])
        self.assertIsNotNone(store.fork_proof(self.connection, ADA.key))
        self.sound()

    def test_a_plan_is_bounded(self) -> None:
        put(self.connection, *ADA.raws)
        doomed = retention.plan(self.connection, Policy(max_age_ns=1), ME.key, NOW_NS, 4)
        self.assertEqual([d.position for d in doomed], [1, 2, 3, 4])
        size = len(ADA.raws[0]) + 1
        doomed = retention.plan(self.connection, Policy(max_age_ns=1), ME.key, NOW_NS, 99, size)
        self.assertEqual([d.position for d in doomed], [1, 2])

    def test_a_plan_tells_each_message_once_and_the_rule_that_takes_it(self) -> None:
        eve = Author("eve")
        eve.write(expires_at="2020-01-01T00:00:00Z")
        for _ in range(5):
            eve.write()
        put(self.connection, *eve.raws)
        doomed = plan(self.connection, author_messages=4, messages=2)
        self.assertEqual(
            [(d.position, d.reason) for d in doomed],
            [(1, "expired"), (2, "author"), (3, "total"), (4, "total")],
        )


class Emptying(Case):
    def test_the_text_goes_and_the_place_stays(self) -> None:
        eve = Author("eve")
        for n in range(3):
            eve.write({"type": "note", "text": f"heron {n}"}, tags=["a"], relates="ab" * 32)
        put(self.connection, *eve.raws)
        self.assertEqual(run(self.connection, author_messages=1), 2)
        rows = self.connection.execute(
            "SELECT id, sequence, hash, previous, content_type, relates, length(raw) "
            "FROM feed_messages ORDER BY id"
        ).fetchall()
        hashes = [bytes.fromhex(m.hash) for m in eve.messages]
        self.assertEqual(
            rows,
            [
                (1, 1, hashes[0], None, None, None, 0),
                (2, 2, hashes[1], hashes[0], None, None, 0),
                (3, 3, hashes[2], hashes[1], "note", "ab" * 32, len(eve.raws[2])),
            ],
        )
        self.assertEqual(
            [
                listed(self.connection, **wanted)
                for wanted in (
                    {},
                    {"author": eve.key},
                    {"tag": "a"},
                    {"content_type": "note"},
                    {"relates": "ab" * 32},
                    {"until_ns": NOW_NS},
                )
            ],
            [1] * 6,
        )
        hits = search.newest_hits(self.connection, '"heron"', Filter(), 9)
        self.assertEqual(hits.positions, [3])
        self.assertEqual(store.total(self.connection), Amount(3, 1, len(eve.raws[2])))
        self.assertIsNone(store.message_by_hash(self.connection, hashes[0]))
        self.assertEqual(store.place_by_hash(self.connection, hashes[0]), (eve.key, 1))
        self.sound()

    def test_to_empty_twice_does_nothing(self) -> None:
        put(self.connection, *ADA.raws)
        self.assertEqual(retention.empty(self.connection, [2, 2, 77]).messages, 1)
        self.assertEqual(retention.empty(self.connection, [2]).messages, 0)
        self.sound()

    def test_a_newest_message_that_has_expired_is_served_and_shown_nowhere(self) -> None:
        eve = Author("eve")
        first = eve.write(expires_at="2020-01-01T00:00:00Z", tags=["a"])
        put(self.connection, first.raw)
        self.assertEqual(run(self.connection), 1)
        self.assertEqual(run(self.connection), 0)
        self.assertEqual((listed(self.connection), listed(self.connection, tag="a")), (0, 0))
        self.assertIsNone(store.message_by_hash(self.connection, bytes.fromhex(first.hash)))
        self.assertEqual(store.read_chain(self.connection, eve.key, 0, 9**9, 9), [first.raw])
        self.sound()
        # As soon as there is a newer one, it is gone.
        put(self.connection, eve.write().raw)
        self.assertEqual(run(self.connection), 1)
        self.assertEqual(kept(self.connection, eve), [2])
        self.sound()

    def test_a_damaged_text_stays_as_it_is(self) -> None:
        put(self.connection, *ADA.raws)
        self.connection.execute("UPDATE feed_messages SET raw = x'78' WHERE id = 2")
        self.assertEqual(run(self.connection, author_messages=1), 8)
        self.assertEqual(kept(self.connection, ADA), [2, 10])

    def test_a_message_that_is_emptied_is_still_stored(self) -> None:
        put(self.connection, *ADA.raws)
        run(self.connection, author_messages=1)
        (verdict,) = put(self.connection, ADA.raws[3]).verdicts
        self.assertIsInstance(verdict.error, DuplicateMessage)
        self.assertEqual(kept(self.connection, ADA), [10])

    def test_another_message_in_an_emptied_place_is_a_fork_which_the_proof_then_shows(self) -> None:
        put(self.connection, *ADA.raws)
        run(self.connection, author_messages=1)
        (other,) = branch(ADA, 3, 1, "other")
        (verdict,) = put(self.connection, other.raw).verdicts
        self.assertIsInstance(verdict.error, ForkRefused)
        self.assertIsNone(store.fork_proof(self.connection, ADA.key))
        store.prove_fork(self.connection, ADA.messages[3], other, NOW_NS)
        (frontier,) = store.list_frontier(self.connection, [ADA.key], b"", 1)
        self.assertEqual((frontier.sequence, frontier.forked), (3, 4))
        self.sound()


class Serving(Case):
    def test_reading_ends_before_what_is_gone(self) -> None:
        put(self.connection, *ADA.raws)
        retention.empty(self.connection, [3, 4, 8])
        read = [
            len(store.read_chain(self.connection, ADA.key, after, 9**9, 99)) for after in range(11)
        ]
        self.assertEqual(read, [2, 1, 0, 0, 3, 2, 1, 0, 2, 1, 0])

    def test_a_gap_is_told_with_the_message_that_names_its_end(self) -> None:
        put(self.connection, *ADA.raws)
        retention.empty(self.connection, [3, 8, 4, 1, 2])
        head = bytes.fromhex(ADA.messages[3].hash)
        for after in range(4):
            self.assertEqual(
                store.gone_until(self.connection, ADA.key, after), Gap(4, head, ADA.raws[4])
            )
        for after in (4, 5, 6, 8, 9, 10, 11):
            self.assertIsNone(store.gone_until(self.connection, ADA.key, after))
        self.assertIsNone(store.gone_until(self.connection, BOB.key, 0))

    def test_a_gap_at_which_a_fork_was_proven_leads_nowhere(self) -> None:
        put(self.connection, *ADA.raws)
        retention.empty(self.connection, [1, 2, 3, 4, 5, 6])
        (other,) = branch(ADA, 3, 1, "other")
        store.prove_fork(self.connection, ADA.messages[3], other, NOW_NS)
        self.assertEqual(store.gone_until(self.connection, ADA.key, 0), Gap(3, None, None))

    def test_runs_are_joined(self) -> None:
        put(self.connection, *ADA.raws)
        for n in (2, 4, 6, 3, 5, 1, 9, 8):
            retention.empty(self.connection, [n])
        gaps = self.connection.execute("SELECT first, last FROM feed_gaps ORDER BY first")
        self.assertEqual(gaps.fetchall(), [(1, 6), (8, 9)])


class Skipping(Case):
    def test_nothing_is_done_without_unless_the_author_says_what_was_there(self) -> None:
        head = bytes.fromhex(ADA.messages[4].hash)

        def skip(until: int = 5, head: bytes = head) -> int | None:
            return store.skip(self.connection, ADA.key, until, head, NOW_NS)

        self.assertIsNone(skip())
        put(self.connection, *ADA.raws[:2])
        self.assertIsNone(skip())
        put(self.connection, *ADA.raws[5:8])
        self.assertIsNone(skip(head=bytes(32)))
        self.assertIsNone(skip(until=6))
        self.assertIsNone(skip(until=2))
        self.assertEqual(skip(), 8)
        self.assertIsNone(skip())
        (frontier,) = store.list_frontier(self.connection, [ADA.key], b"", 1)
        self.assertEqual(frontier, Frontier(ADA.key, 8, bytes.fromhex(ADA.messages[7].hash), None))
        self.assertEqual(store.read_chain(self.connection, ADA.key, 2, 9**9, 9), [])
        self.assertEqual(store.gone_until(self.connection, ADA.key, 2), Gap(5, head, ADA.raws[5]))
        self.assertEqual(put(self.connection, ADA.raws[8]).added[0][1], 9)
        self.sound()

    def test_beyond_a_fork_nothing_is_done_without(self) -> None:
        put(self.connection, ADA.raws[5])
        (other,) = branch(ADA, 3, 1, "other")
        store.prove_fork(self.connection, ADA.messages[3], other, NOW_NS)
        head = bytes.fromhex(ADA.messages[4].hash)
        self.assertIsNone(store.skip(self.connection, ADA.key, 5, head, NOW_NS))

    def test_a_fork_in_what_was_done_without_ends_the_feed_before_it(self) -> None:
        put(self.connection, *ADA.raws[:2], *ADA.raws[5:8])
        store.skip(self.connection, ADA.key, 5, bytes.fromhex(ADA.messages[4].hash), NOW_NS)
        (other,) = branch(ADA, 3, 1, "other")
        store.prove_fork(self.connection, ADA.messages[3], other, NOW_NS)
        (frontier,) = store.list_frontier(self.connection, [ADA.key], b"", 1)
        self.assertEqual(frontier, Frontier(ADA.key, 2, bytes.fromhex(ADA.messages[1].hash), 4))


class Forgetting(Case):
    def forget(self) -> None:
        retention.forget_end(self.connection, ADA.key)
        while found := retention.of_author(self.connection, ADA.key):
            retention.empty_forgotten(self.connection, [d.position for d in found])

    def test_all_of_a_feed_is_forgotten_and_nothing_of_it_is_told(self) -> None:
        put(self.connection, *ADA.raws)
        self.forget()
        self.assertEqual(kept(self.connection, ADA), [])
        self.assertEqual(store.list_frontier(self.connection, None, b"", 9), [])
        self.assertEqual(store.total(self.connection), Amount(10, 0, 0))
        self.assertIsNone(store.gone_until(self.connection, ADA.key, 0))
        self.sound()

    def test_a_feed_that_was_forgotten_can_be_fetched_again(self) -> None:
        put(self.connection, *ADA.raws)
        self.forget()
        statuses = [v.status for v in put(self.connection, *ADA.raws[:6]).verdicts]
        self.assertEqual(statuses, ["accepted"] * 6)
        self.assertEqual(store.list_heads(self.connection, None, b"", 9), [(ADA.key, 6)])
        self.assertEqual(listed(self.connection), 6)
        self.assertEqual(store.total(self.connection).stored, 10)
        self.sound()
        put(self.connection, *ADA.raws[6:])
        self.assertEqual(store.read_chain(self.connection, ADA.key, 0, 9**9, 99), ADA.raws)
        self.sound()

    def test_it_still_cannot_be_forked(self) -> None:
        put(self.connection, *ADA.raws)
        self.forget()
        (other,) = branch(ADA, 2, 1, "other")
        first, second = put(self.connection, ADA.raws[0], other.raw).verdicts
        self.assertEqual(first.status, "accepted")
        self.assertIsInstance(second.error, ForkRefused)


class Properties(SynchronousTestCase):
    """Whatever is emptied, in whatever order."""

    @given(
        st.lists(st.lists(st.integers(1, 30), max_size=8), min_size=1, max_size=6),
        st.integers(1, 6),
    )
    def test_ones_own_feed_goes_on_where_it_was(
        self, doomed: list[list[int]], each_time: int
    ) -> None:
        connection, me = fresh(), Author("own")
        self.addCleanup(connection.close)
        for positions in doomed:
            for _ in range(each_time):
                sequence, previous = store.own_tail(connection, me.key)
                right = (len(me.messages), me.messages[-1].hash if me.messages else None)
                self.assertEqual((sequence, previous), right)
                store.append_own(connection, [me.write()], NOW_NS)
            retention.empty(connection, positions)
        report = examine(connection, repair=False, own=me.key, now_ns=NOW_NS)
        self.assertEqual([f.subject for f in report.findings], [])
        self.assertEqual(store.list_heads(connection, None, b"", 9), [(me.key, len(me.messages))])

    @given(
        st.lists(st.integers(1, 20), max_size=20),
        st.lists(st.integers(1, 20), max_size=20),
        st.integers(0, 10),
        st.integers(1, 12),
    )
    def test_who_comes_later_ends_in_step_and_is_sent_nothing_again(
        self, here: list[int], there: list[int], head_start: int, page: int
    ) -> None:
        source, target = fresh(), fresh()
        self.addCleanup(source.close)
        self.addCleanup(target.close)
        put(source, *ADA.raws, *BOB.raws)
        put(target, *ADA.raws[:head_start])
        retention.empty(source, here)
        retention.empty(target, there)
        texts = store.total(source).texts
        sent = sync(source, target, [ADA, BOB], page)
        # No text comes twice, but for the one that ends a gap.
        gaps = source.execute("SELECT count(*) FROM feed_gaps").fetchone()[0]
        self.assertLessEqual(sent, texts + gaps)
        authors = [ADA.key, BOB.key]
        self.assertEqual(
            store.list_frontier(target, authors, b"", 9),
            store.list_frontier(source, authors, b"", 9),
        )
        self.assertEqual(sync(source, target, [ADA, BOB], page), 0)
        self.assertEqual(sync(target, source, [ADA, BOB], page), 0)
        for connection in (source, target):
            report = examine(connection, repair=False, own=ME.key, now_ns=NOW_NS)
            self.assertEqual([f.subject for f in report.findings], [])

    @given(st.lists(st.integers(1, 12), max_size=12), st.integers(1, 9), st.booleans())
    def test_no_fork_is_made_nor_hidden(
        self, doomed: list[int], place: int, proof_comes: bool
    ) -> None:
        connection = fresh()
        self.addCleanup(connection.close)
        put(connection, *ADA.raws)
        retention.empty(connection, doomed)
        self.assertEqual(connection.execute("SELECT count(*) FROM feed_forks").fetchone(), (0,))
        (other,) = branch(ADA, place - 1, 1, "other")
        (verdict,) = put(connection, other.raw).verdicts
        self.assertIsInstance(verdict.error, ForkRefused)
        emptied = place in doomed and place < 10
        self.assertEqual(store.fork_proof(connection, ADA.key) is None, emptied)
        if proof_comes:
            store.prove_fork(connection, ADA.messages[place - 1], other, NOW_NS)
        if proof_comes or not emptied:
            (frontier,) = store.list_frontier(connection, [ADA.key], b"", 1)
            self.assertEqual((frontier.sequence, frontier.forked), (place - 1, place))
        report = examine(connection, repair=False, own=ME.key, now_ns=NOW_NS)
        self.assertEqual([f.subject for f in report.findings], [])
