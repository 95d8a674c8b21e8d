"""Tests of L{meshkit.feed.doctor}."""

from __future__ import annotations

import sqlite3
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.feed import doctor, guard, retention, search, store
from meshkit.feed.doctor import MAX_TOLD, Report, examine
from meshkit.feed.part import check_texts
from meshkit.feed.retention import Policy
from meshkit.feed.store import GONE
from meshkit.feed.words import parse_query
from meshkit.testing.identities import DAY_NS, Author
from tests.feed.test_store import NOW_NS, branch

ADA, BOB = Author("ada"), Author("bob")
for _author in (ADA, BOB):
    for _n in range(1, 8):
        _author.write({"type": "note", "text": f"heron {_n}"}, tags=["a", f"t{_n}"])


class DoctorCase(SynchronousTestCase):
    """A store with two feeds, one of them with a gap, and one that is forked."""

    def setUp(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.addCleanup(self.connection.close)
        for script in store.MIGRATIONS:
            self.connection.executescript(script)
        self.forked = Author("forked")
        self.forked.write_many(5)
        other = branch(self.forked, 2, 1, "other")
        self.put(*ADA.raws, *BOB.raws[:4], BOB.raws[5], *self.forked.raws, other[0].raw)

    def put(self, *raws: bytes) -> None:
        store.store_batch(self.connection, check_texts(raws), NOW_NS)

    def examine(self, repair: bool = False, own: bytes | None = BOB.key) -> Report:
        return examine(self.connection, repair=repair, own=own, now_ns=DAY_NS)

    def sql(self, statement: str, *values: Any) -> None:
        self.assertNotEqual(self.connection.execute(statement, values).rowcount, 0)

    def dump(self) -> list[str]:
        # The segments of the index can be cut in many ways.
        return [line for line in self.connection.iterdump() if '"feed_text_' not in line]

    def heals(self, *kinds: str) -> Report:
        """
        These are found, left alone, and mended; then nothing is found.

        @return: what was found.
        """
        before = self.dump()
        found = self.examine()
        self.assertEqual(sorted(found.counts), sorted(kinds))
        self.assertEqual(found.left, found.counts.total())
        self.assertEqual(self.dump(), before)
        mended = self.examine(repair=True)
        self.assertEqual((mended.left, mended.counts >= found.counts), (0, True))
        again = self.examine()
        self.assertEqual((again.counts, again.left), ({}, 0))
        return found


class Sound(DoctorCase):
    def test_nothing_is_found_and_nothing_changed(self) -> None:
        before = self.dump()
        for repair in (False, True):
            report = self.examine(repair)
            self.assertEqual((report.counts, report.findings, report.left), ({}, [], 0))
            self.assertEqual((report.messages, report.feeds), (17, 3))
        self.assertEqual(self.dump(), before)

    def test_an_empty_store(self) -> None:
        for table in ("feed_tags", "feed_forks", "feed_messages", "feed_authors"):
            self.connection.execute(f"DELETE FROM {table}")
        self.connection.execute("INSERT INTO feed_text (feed_text) VALUES ('delete-all')")
        self.connection.execute("UPDATE feed_totals SET stored = 0, texts = 0, size = 0")
        report = self.examine()
        self.assertEqual((report.counts, report.messages), ({}, 0))

    def test_a_proof_without_messages(self) -> None:
        eve = Author("eve")
        eve.write_many(2)
        (other,) = branch(eve, 1, 1, "other")
        store.prove_fork(self.connection, eve.messages[1], other, NOW_NS)
        self.assertEqual(self.examine().counts, {})

    def test_messages_whose_text_was_emptied(self) -> None:
        retention.empty(self.connection, [1, 2, 4, 9])
        self.assertEqual(self.examine().counts, {})

    def test_a_newest_message_that_has_expired(self) -> None:
        eve = Author("eve")
        for _ in range(3):
            eve.write(expires_at="2020-01-01T00:00:00Z", tags=["a"], relates="ab" * 32)
        self.put(*eve.raws)
        doomed = retention.plan(self.connection, Policy(), BOB.key, NOW_NS)
        self.assertEqual(retention.empty(self.connection, [d.position for d in doomed]).messages, 3)
        self.assertEqual(self.examine().counts, {})
        self.sql("UPDATE feed_messages SET relates = 'x' WHERE shown_ns = ? AND raw <> x''", GONE)
        self.heals("message_columns")

    def test_a_gap_that_is_done_without(self) -> None:
        eve = Author("eve")
        eve.write_many(6)
        self.put(*eve.raws[:2], *eve.raws[4:])
        self.assertEqual(self.examine().counts, {})
        head = bytes.fromhex(eve.messages[3].hash)
        self.assertEqual(store.skip(self.connection, eve.key, 4, head, NOW_NS), 6)
        self.assertEqual(self.examine().counts, {})

    def test_a_feed_that_was_forgotten(self) -> None:
        retention.forget_end(self.connection, ADA.key)
        found = retention.of_author(self.connection, ADA.key)
        retention.empty_forgotten(self.connection, [d.position for d in found])
        self.assertEqual(self.examine().counts, {})

    def test_amounts_that_are_wrong(self) -> None:
        self.sql("UPDATE feed_authors SET texts = texts + 1, size = size - 7 WHERE id = 1")
        self.sql("UPDATE feed_totals SET stored = stored + 1")
        self.assertEqual(self.heals("amounts").counts, {"amounts": 2})


class Columns(DoctorCase):
    """What is made from the messages is made anew."""

    def test_columns_beside_the_text(self) -> None:
        for column, value in (
            ("hash", bytes(32)),
            ("previous", bytes(32)),
            ("content_type", "other"),
            ("relates", "other"),
            ("shown_ns", 5),
        ):
            with self.subTest(column):
                before = self.dump()
                self.sql(f"UPDATE feed_messages SET {column} = ? WHERE id = 3", value)
                kinds = (
                    ("message_columns", "tags") if column == "shown_ns" else ("message_columns",)
                )
                report = self.heals(*kinds)
                self.assertIn(f"not what it says: {column}", report.findings[0].subject)
                self.assertIn(ADA.identity.public.text, report.findings[0].subject)
                self.assertEqual(self.dump(), before)

    def test_links(self) -> None:
        self.sql("UPDATE feed_messages SET chain_valid = 0 WHERE id = 3")
        self.heals("link")
        beyond = "SELECT id FROM feed_messages WHERE sequence = 6 AND id > 7"
        self.sql(f"UPDATE feed_messages SET chain_valid = 1 WHERE id IN ({beyond})")
        self.assertIn("is not", self.heals("link").findings[0].subject)

    def test_positions_of_feeds(self) -> None:
        for change in (
            "contiguous = 5",
            "contiguous = 9",
            "head = x'00'",
            "head = NULL",
            "latest = 6",
            "forked = 4",
        ):
            with self.subTest(change):
                before = self.dump()
                self.sql(f"UPDATE feed_authors SET {change} WHERE key = ?", ADA.key)
                self.heals("feed_position")
                self.assertEqual(self.dump(), before)

    def test_a_fork_that_was_forgotten_is_found_by_its_proof(self) -> None:
        before = self.dump()
        self.sql("UPDATE feed_authors SET forked = NULL, contiguous = 5 WHERE forked = 3")
        self.heals("feed_position")
        self.assertEqual(self.dump(), before)

    def test_what_is_forked_is_told_and_is_no_fault(self) -> None:
        report = doctor.examine(self.connection, repair=False, own=None, now_ns=NOW_NS)
        self.assertEqual(report.forked, [(self.forked.identity.public.text, 3)])
        self.assertEqual((report.forks, report.counts.total()), (1, 0))

    def test_a_proof_that_proves_nothing_is_forgotten(self) -> None:
        self.sql("UPDATE feed_forks SET other = one")
        self.heals("fork_proof", "feed_position")
        (found,) = store.list_frontier(self.connection, [self.forked.key], b"", 1)
        self.assertEqual((found.sequence, found.forked), (5, None))
        # Its author is somebody else's: as bad.
        eve = Author("eve")
        eve.write_many(1)
        (other,) = branch(eve, 0, 1, "other")
        store.prove_fork(self.connection, eve.messages[0], other, NOW_NS)
        self.sql("UPDATE feed_forks SET one = ?, other = ?", *sorted([BOB.raws[0], *_other(BOB)]))
        self.heals("fork_proof", "feed_position")

    def test_tags(self) -> None:
        before = self.dump()
        self.sql("DELETE FROM feed_tags WHERE message = 3")
        self.assertIn("2 are missing; 0 are too many", self.heals("tags").findings[0].subject)
        self.sql("INSERT INTO feed_tags VALUES ('surplus', 1, 3, 1)")
        self.assertIn("0 are missing; 1 are too many", self.heals("tags").findings[0].subject)
        self.assertEqual(self.dump(), before)

    def test_the_index_of_words(self) -> None:
        self.connection.execute("INSERT INTO feed_text (feed_text) VALUES ('delete-all')")
        self.assertIn("17 messages are not in it", self.heals("search_index").findings[0].subject)
        self.sql("INSERT INTO feed_text (rowid, body) VALUES (999, 'heron')")
        self.assertIn("1 entries are of no", self.heals("search_index").findings[0].subject)
        self.sql("UPDATE feed_text_data SET block = zeroblob(30) WHERE id > 10")
        self.assertIn("damaged in itself", self.heals("search_index").findings[0].subject)
        hits = search.newest_hits(self.connection, parse_query("heron"), search.Filter(), 99)
        self.assertEqual(len(hits.positions), 12)

    def test_an_index_that_is_made_anew_needs_no_more_of_the_node(self) -> None:
        self.put(Author("tokyo").write("東京タワー").raw)
        self.sql("UPDATE feed_reindex SET next = 1, last = 18")
        self.connection.execute("INSERT INTO feed_text (feed_text) VALUES ('delete-all')")
        self.heals("search_index")
        self.assertTrue(search.reindex_complete(self.connection))


def _other(author: Author) -> list[bytes]:
    return [message.raw for message in branch(author, 0, 1, "other")]


class Damage(DoctorCase):
    """Messages that are not what was stored."""

    def flip(self, position: int, place: int = 100) -> None:
        (raw,) = self.connection.execute(
            "SELECT raw FROM feed_messages WHERE id = ?", (position,)
        ).fetchone()
        flipped = raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :]
        self.sql("UPDATE feed_messages SET raw = ? WHERE id = ?", flipped, position)

    def frontier(self, key: bytes) -> Any:
        return store.list_frontier(self.connection, [key], b"", 1)[0]

    def test_a_damaged_message_is_set_aside_and_fetched_again(self) -> None:
        before = self.dump()
        self.flip(3)
        found = self.examine()
        self.assertIn(f"message 3 of {ADA.identity.public.text}", found.findings[0].subject)
        self.assertEqual(found.counts["message_damaged"], 1)
        self.assertNotEqual(self.dump(), before)
        self.assertEqual(self.examine(repair=True).left, 0)
        self.assertEqual(self.examine().counts, {})
        self.assertEqual(self.frontier(ADA.key).sequence, 2)
        aside = self.connection.execute(
            "SELECT position, author, sequence FROM feed_set_aside"
        ).fetchall()
        self.assertEqual(aside, [(3, ADA.key, 3)])
        self.put(ADA.raws[2])
        self.assertEqual(self.frontier(ADA.key).sequence, 7)
        self.assertEqual(self.examine().counts, {})

    def test_no_position_is_given_twice(self) -> None:
        (last,) = self.connection.execute("SELECT max(id) FROM feed_messages").fetchone()
        self.flip(last)
        self.examine(repair=True)
        stored = store.store_batch(self.connection, BOB.messages[4:5], NOW_NS)
        ((_, _, (message,)),) = stored.added
        self.assertEqual(message.position, last + 1)

    def test_a_message_in_the_place_of_another(self) -> None:
        for position, raw in enumerate((ADA.raws[6], BOB.raws[6], b"?", b"{}"), 2):
            self.sql("UPDATE feed_messages SET raw = ? WHERE id = ?", raw, position)
        found = self.examine()
        self.assertEqual(found.counts["message_damaged"], 4)
        self.assertIn("in its place stands message 7", found.findings[0].subject)
        self.examine(repair=True)
        self.assertEqual(self.frontier(ADA.key).sequence, 1)
        self.put(*ADA.raws[1:5])
        self.assertEqual(self.frontier(ADA.key).sequence, 7)
        self.assertEqual(self.examine().counts, {})

    def test_a_number_of_ones_own_that_was_set_aside_is_not_used_again(self) -> None:
        (last,) = self.connection.execute(
            "SELECT max(m.id) FROM feed_messages m JOIN feed_authors a ON a.id = m.author "
            "WHERE a.key = ?",
            (ADA.key,),
        ).fetchone()
        self.flip(last)
        self.examine(repair=True, own=ADA.key)
        found = guard.read_guard(self.connection)
        self.assertEqual(found, guard.Guard("repaired", DAY_NS, 7, 0))

    def test_if_it_is_not_known_whose_the_node_is_its_feed_is_guarded(self) -> None:
        self.flip(3)
        self.examine(repair=True, own=None)
        found = guard.read_guard(self.connection)
        assert found is not None
        self.assertEqual((found.reason, found.had), ("repaired", 0))

    def test_a_message_of_somebody_else_guards_nothing(self) -> None:
        self.flip(3)
        self.examine(repair=True, own=BOB.key)
        self.assertIsNone(guard.read_guard(self.connection))

    @given(st.data())
    def test_whatever_byte_of_whatever_message_is_changed_is_found(self, data: Any) -> None:
        position = data.draw(st.integers(1, 17))
        (raw,) = self.connection.execute(
            "SELECT raw FROM feed_messages WHERE id = ?", (position,)
        ).fetchone()
        self.connection.execute("SAVEPOINT one")
        self.flip(position, data.draw(st.integers(0, len(raw) - 1)))
        self.connection.execute("RELEASE one")
        self.assertEqual(self.examine().counts["message_damaged"], 1)
        self.sql("UPDATE feed_messages SET raw = ? WHERE id = ?", raw, position)

    def test_many_findings_are_counted_and_the_first_are_told(self) -> None:
        author = Author("many")
        author.write_many(MAX_TOLD + 50)
        self.put(*author.raws)
        self.sql("UPDATE feed_messages SET content_type = 'x' WHERE id > 17")
        report = self.examine()
        self.assertEqual(report.counts, {"message_columns": MAX_TOLD + 50})
        self.assertEqual(len(report.findings), MAX_TOLD)
        self.assertEqual(self.examine(repair=True).left, 0)
        self.assertEqual(self.examine().counts, {})

    def test_more_messages_than_are_held_at_a_time(self) -> None:
        author = Author("long")
        author.write_many(3 * doctor._ROWS)
        self.put(*author.raws)
        self.assertEqual(self.examine().messages, 17 + 3 * doctor._ROWS)
        self.assertEqual(self.examine().counts, {})

    def test_a_reference_into_nothing_is_told_and_left(self) -> None:
        self.sql("UPDATE feed_forks SET author = 999")
        report = self.examine(repair=True)
        self.assertEqual(report.counts["dangling_reference"], 1)
        self.assertEqual(report.left, 1)
        self.assertIsNone(report.findings[0].repair)
