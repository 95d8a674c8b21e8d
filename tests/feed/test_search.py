"""Tests of L{meshkit.feed.search}."""

from __future__ import annotations

import base64
import hashlib
import re
import sqlite3
from collections.abc import Sequence
from functools import partial
from itertools import count
from typing import Any

import msgspec
from attrs import define
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import SearchTooSlow
from meshkit.feed import search, store
from meshkit.feed.message import Message, content_text, parse_message
from meshkit.feed.search import Filter
from meshkit.feed.store import Row
from meshkit.feed.words import BREAK, parse_query
from meshkit.testing.identities import DAY_NS, Author
from tests.feed.test_store import NOW_NS, fresh, ingest


def never() -> bool:
    return False


def _dated(author: Author, timestamp: str) -> bytes:
    """A first message with a time that does not fit 64 bits of nanoseconds."""
    signed, _, _ = author.write("dated").raw.partition(b',"hash":')
    text = re.sub(rb'"timestamp":"[^"]*"', f'"timestamp":"{timestamp}"'.encode(), signed) + b"}"
    digest = hashlib.sha256(text).hexdigest().encode("ascii")
    signature = base64.b64encode(author.identity._sign_raw(digest))
    return text[:-1] + b',"hash":"' + digest + b'","signature":"' + signature + b'"}'


class StoreCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = fresh()

    def publish(
        self, author: Author, at_ns: int, content: Any, now_ns: int = NOW_NS, **fields: Any
    ) -> bytes:
        raw = author.write(content, timestamp_ns=at_ns, **fields).raw
        (verdict,) = ingest(self.connection, raw, now_ns=now_ns)
        self.assertEqual(verdict.status, "accepted")
        return raw


class Lists(StoreCase):
    def listed(self, limit: int = 50, offset: int = 0, **wanted: Any) -> list[bytes]:
        listed = search.list_messages(self.connection, Filter(**wanted), limit, offset)
        everything = search.list_messages(self.connection, Filter(**wanted), 1000)
        self.assertEqual(listed.total, len(everything.rows))
        self.assertTrue(listed.counted)
        self.assertEqual(listed.rows, everything.rows[offset : offset + limit])
        return [row.raw for row in listed.rows]

    def test_newest_first_by_the_authors_clock(self) -> None:
        ada, bob = Author("a"), Author("b")
        raws = [
            self.publish(author, DAY_NS + ns, n)
            for n, (author, ns) in enumerate([(ada, 5), (bob, 9), (ada, 7), (bob, 1)])
        ]
        self.assertEqual(self.listed(), [raws[1], raws[2], raws[0], raws[3]])

    def test_one_moment_is_listed_in_the_order_of_arrival(self) -> None:
        ada, bob = Author("a"), Author("b")
        raws = [self.publish(author, DAY_NS, n) for n, author in enumerate([ada, bob, ada])]
        self.assertEqual(self.listed(), raws[::-1])

    def test_wrong_clocks_pin_nothing_to_the_top_of_any_list(self) -> None:
        ada, bob = Author("a"), Author("b")
        far = _dated(ada, "9999-12-31T23:59:59.999999999Z")
        ingest(self.connection, far, now_ns=DAY_NS)
        note = {"type": "note"}
        past = self.publish(bob, 0, note, now_ns=DAY_NS + 1, tags=["t"])
        latest = self.publish(bob, 2**63 - 1, note, now_ns=DAY_NS + 2, tags=["t"])
        now = self.publish(bob, DAY_NS + 3, note, now_ns=DAY_NS + 3, tags=["t"])
        self.assertIn(b'"1970-01-01T00:00:00Z"', past)
        self.assertEqual(self.listed(), [now, latest, far, past])
        for wanted in ({"author": bob.key}, {"content_type": "note"}, {"tag": "t"}):
            self.assertEqual(self.listed(**wanted), [now, latest, past], wanted)

    def test_filters(self) -> None:
        ada, bob = Author("a"), Author("b")
        note = self.publish(ada, DAY_NS + 1, {"type": "note"}, tags=["x", "y", "x"])
        about = parse_message(note).hash
        insight = self.publish(ada, DAY_NS + 2, {"type": "insight"}, relates=about)
        other = self.publish(bob, DAY_NS + 3, {"type": "insight"}, tags=["x"])
        plain = self.publish(bob, DAY_NS + 4, "no type", relates=about, tags=["X"])
        for expected, wanted in (
            ([plain, other, insight, note], {}),
            ([insight, note], {"author": ada.key}),
            ([plain, other], {"not_author": ada.key}),
            ([other, insight], {"content_type": "insight"}),
            ([insight], {"content_type": "insight", "author": ada.key}),
            ([other], {"content_type": "insight", "not_author": ada.key}),
            ([other, note], {"tag": "x"}),
            ([note], {"tag": "y"}),
            ([plain], {"tag": "X"}),
            ([other], {"tag": "x", "author": bob.key}),
            ([other], {"tag": "x", "content_type": "insight"}),
            ([plain, insight], {"relates": about}),
            ([plain], {"relates": about, "tag": "X"}),
            ([plain], {"relates": about, "not_author": ada.key}),
            ([plain, other], {"since_ns": DAY_NS + 3}),
            ([insight, note], {"until_ns": DAY_NS + 3}),
            ([other, insight], {"since_ns": DAY_NS + 2, "until_ns": DAY_NS + 4}),
            ([note], {"tag": "x", "until_ns": DAY_NS + 3}),
            ([], {"content_type": "' OR 1 --"}),
            ([], {"tag": "' OR 1 --"}),
            ([], {"author": bytes(32)}),
            ([plain, other, insight, note], {"not_author": bytes(32)}),
        ):
            with self.subTest(wanted=wanted):
                self.assertEqual(self.listed(**wanted), expected)

    def test_limit_and_offset_cut_a_stretch_out(self) -> None:
        ada = Author("a")
        raws = [self.publish(ada, DAY_NS + n, n) for n in range(7)][::-1]
        self.assertEqual(self.listed(limit=3), raws[:3])
        self.assertEqual(self.listed(limit=3, offset=5), raws[5:])
        self.assertEqual(self.listed(limit=3, offset=7), [])

    def test_the_last_page_leads_no_further(self) -> None:
        ada = Author("a")
        for n in range(4):
            self.publish(ada, DAY_NS + n, n)
        for limit, goes_on in ((3, True), (4, False), (5, False)):
            listed = search.list_messages(self.connection, Filter(), limit)
            self.assertEqual(listed.last is not None, goes_on, limit)

    def test_counting_ends_somewhere_and_says_so(self) -> None:
        self.patch(search, "COUNTED", 3)
        ada = Author("a")
        for expected in ((1, True), (2, True), (3, True), (3, False), (3, False)):
            self.publish(ada, DAY_NS, {"type": "note", "text": "heron"}, tags=["t"])
            for wanted in ({}, {"tag": "t"}, {"tag": "t", "content_type": "note"}):
                listed = search.list_messages(self.connection, Filter(**wanted), 2)
                self.assertEqual((listed.total, listed.counted), expected)
            found = search.newest_hits(self.connection, '"heron"', Filter(), 2)
            self.assertEqual((found.total, found.counted), expected)


# --- lists against a model ---------------------------------------------------------

AUTHORS = [Author(n) for n in range(3)]
HASHES = ["ab" * 32, "cd" * 32]
TAGS = ["x", "y", "東京"]


@define
class Arrival:
    """A message, what a list needs to know of it, and its place in the order."""

    message: Message
    place: tuple[int, int]


@st.composite
def arrivals(draw: Any) -> list[Arrival]:
    made: list[Arrival] = []
    authors = [Author(n) for n in range(3)]
    for position in range(1, draw(st.integers(0, 12)) + 1):
        at_ns = DAY_NS + draw(st.integers(0, 5))
        message = draw(st.sampled_from(authors)).write(
            {"type": draw(st.sampled_from(["note", "insight"])), "text": "heron"},
            timestamp_ns=at_ns,
            tags=draw(st.lists(st.sampled_from(TAGS), max_size=3)),
            relates=draw(st.sampled_from([None, *HASHES])),
        )
        made.append(Arrival(message, (at_ns, position)))
    return made


filters = st.builds(
    Filter,
    author=st.sampled_from([None, None, AUTHORS[0].key]),
    not_author=st.sampled_from([None, None, AUTHORS[1].key]),
    content_type=st.sampled_from([None, "note"]),
    tag=st.sampled_from([None, *TAGS]),
    relates=st.sampled_from([None, None, HASHES[0]]),
    since_ns=st.sampled_from([None, DAY_NS + 2]),
    until_ns=st.sampled_from([None, DAY_NS + 4]),
)


def fits(wanted: Filter, arrival: Arrival) -> bool:
    message = arrival.message
    return (
        wanted.author in (None, message.author.raw)
        and wanted.not_author != message.author.raw
        and wanted.content_type in (None, message.content_type)
        and (wanted.tag is None or wanted.tag in message.tags)
        and wanted.relates in (None, message.relates)
        and (wanted.since_ns is None or arrival.place[0] >= wanted.since_ns)
        and (wanted.until_ns is None or arrival.place[0] < wanted.until_ns)
    )


def stored(made: Sequence[Arrival]) -> sqlite3.Connection:
    connection = fresh()
    store.store_batch(connection, [arrival.message for arrival in made], NOW_NS)
    return connection


class AgainstAModel(SynchronousTestCase):
    @given(arrivals(), filters)
    def test_a_list_is_what_fits_in_order(self, made: list[Arrival], wanted: Filter) -> None:
        listed = search.list_messages(stored(made), wanted, 100)
        fitting = sorted((it for it in made if fits(wanted, it)), key=lambda it: it.place)
        self.assertEqual([row.raw for row in listed.rows], [it.message.raw for it in fitting[::-1]])
        self.assertEqual(listed.total, len(fitting))

    @given(arrivals(), filters, st.sampled_from([0, 2, 100]))
    def test_a_search_is_what_fits_in_order(
        self, made: list[Arrival], wanted: Filter, few: int
    ) -> None:
        """... whether a filter leaves few messages or many."""
        self.patch(search, "FEW", few)
        connection = stored(made)
        fitting = [it.place[1] for it in made if fits(wanted, it)]
        found = search.newest_hits(connection, '"heron"', wanted, 100)
        self.assertEqual(list(found.positions), fitting[::-1])
        self.assertEqual(found.total, len(fitting))
        ranked = search.rank(connection, '"heron"', wanted)
        self.assertEqual(sorted(ranked.positions), fitting)

    @given(arrivals(), filters, st.data())
    def test_pages_neither_repeat_nor_miss_while_messages_arrive(
        self, made: list[Arrival], wanted: Filter, data: st.DataObject
    ) -> None:
        cut = data.draw(st.integers(0, len(made)))
        connection = stored(made[:cut])
        there = {it.message.raw for it in made[:cut] if fits(wanted, it)}
        waiting = list(made[cut:])
        seen: list[bytes] = []
        places: list[tuple[int, int]] = []
        at = {it.message.raw: it.place for it in made}
        after = None
        while True:
            listed = search.list_messages(connection, wanted, 2, after=after)
            seen += [row.raw for row in listed.rows]
            if listed.last is None:
                break
            after = listed.last
            few = data.draw(st.integers(0, 3))
            store.store_batch(connection, [it.message for it in waiting[:few]], NOW_NS)
            del waiting[:few]
        places = [at[raw] for raw in seen]
        self.assertEqual(places, sorted(set(places), reverse=True))
        self.assertLessEqual(there, set(seen))

    @given(arrivals(), filters, st.data())
    def test_pages_of_a_search_neither_repeat_nor_miss(
        self, made: list[Arrival], wanted: Filter, data: st.DataObject
    ) -> None:
        cut = data.draw(st.integers(0, len(made)))
        connection = stored(made[:cut])
        waiting = [it.message for it in made[cut:]]
        seen: list[int] = []
        before = None
        while True:
            found = search.newest_hits(connection, '"heron"', wanted, 2, before=before)
            seen += found.positions
            if not found.more:
                break
            before = found.positions[-1]
            store.store_batch(connection, waiting[:2], NOW_NS)
            del waiting[:2]
        self.assertEqual(seen, [it.place[1] for it in made[:cut][::-1] if fits(wanted, it)])


class Plans(StoreCase):
    """How SQLite goes about it: along an index, without sorting."""

    def plan(self, sql: str, values: Sequence[object]) -> str:
        rows = self.connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)
        return "\n".join(row[3] for row in rows)

    def test_no_list_reads_or_sorts_more_than_it_shows(self) -> None:
        key = bytes(32)
        for wanted in (
            Filter(),
            Filter(not_author=key),
            Filter(since_ns=1, until_ns=9),
            Filter(author=key),
            Filter(author=key, content_type="x"),
            Filter(author=key, since_ns=1),
            Filter(content_type="x"),
            Filter(content_type="x", not_author=key),
            Filter(content_type="x", until_ns=9),
            Filter(tag="t"),
            Filter(tag="t", author=key),
            Filter(tag="t", content_type="x", since_ns=1),
            Filter(relates="h"),
            Filter(relates="h", tag="t", author=key),
        ):
            for after in (None, (5, 5)):
                plan = self.plan(*search.list_query(wanted, 50, 0, after))
                with self.subTest(wanted=wanted, after=after, plan=plan):
                    self.assertNotIn("TEMP B-TREE", plan)
                    for step in plan.splitlines():
                        if step.startswith("SCAN"):
                            # From the newest entry on: only where nothing narrows it.
                            self.assertIn("INDEX feed_messages_newest", step)
                            self.assertEqual((wanted.since_ns, after), (None, None))

    def test_of_several_filters_the_narrowest_is_followed(self) -> None:
        """The planner guesses otherwise for some: it does not know how much there is."""
        key = bytes(32)
        for wanted, index in (
            (Filter(not_author=key, until_ns=9), "feed_messages_newest"),
            (Filter(content_type="x", since_ns=1), "feed_messages_type"),
            (Filter(author=key, content_type="x", since_ns=1, until_ns=9), "feed_messages_author"),
            (Filter(relates="h", author=key, content_type="x"), "feed_messages_relates"),
        ):
            for sql, values in (
                search.list_query(wanted, 50, 0, None),
                search.count_query(wanted),
            ):
                self.assertIn(f"INDEX {index} ", self.plan(sql, values))

    def test_counts_do_not_look_at_messages(self) -> None:
        key = bytes(32)
        for wanted in (
            Filter(),
            Filter(not_author=key),
            Filter(author=key, content_type="x"),
            Filter(content_type="x", not_author=key),
            Filter(tag="t"),
            Filter(tag="t", author=key),
        ):
            plan = self.plan(*search.count_query(wanted))
            with self.subTest(wanted=wanted, plan=plan):
                self.assertRegex(plan, r"COVERING INDEX|SEARCH t USING PRIMARY KEY")
                self.assertNotIn("SEARCH m USING INTEGER PRIMARY KEY", plan)

    def test_a_search_follows_the_index_of_words(self) -> None:
        ada = Author("a")
        self.publish(ada, DAY_NS, "heron", tags=["t"])
        for wanted in (Filter(), Filter(author=ada.key), Filter(tag="t")):
            for few in (0, 10):
                self.patch(search, "FEW", few)
                matching, values = search._matching(self.connection, '"heron"', wanted)
                plan = self.plan(
                    f"SELECT feed_text.rowid {matching} ORDER BY feed_text.rowid DESC", values
                )
                with self.subTest(wanted=wanted, few=few, plan=plan):
                    self.assertTrue(plan.startswith("SCAN feed_text VIRTUAL TABLE"))
                    self.assertNotIn("TEMP B-TREE", plan)


class Tags(StoreCase):
    def test_who_has_written_with_a_tag(self) -> None:
        authors = sorted((Author(n) for n in range(5)), key=lambda it: it.key)
        for author in authors:
            for _ in range(3):
                self.publish(author, DAY_NS, "x", tags=["all"])
        self.publish(authors[3], DAY_NS, "x", tags=["some"])
        self.publish(authors[1], DAY_NS, "x", tags=["some", "all"])
        keys = [author.key for author in authors]
        tagged = partial(search.authors_with_tags, self.connection, after=b"", limit=9)
        self.assertEqual(tagged(["all"]), keys)
        self.assertEqual(tagged(["some"]), [keys[1], keys[3]])
        self.assertEqual(tagged(["none", "some"]), [keys[1], keys[3]])
        self.assertEqual(tagged(["some", "all"]), keys)
        self.assertEqual(tagged(["none"]), [])
        self.assertEqual(tagged([]), [])
        self.assertEqual(tagged(["all"], after=keys[1], limit=2), keys[2:4])

    def test_the_work_goes_by_authors_not_by_messages(self) -> None:
        author = Author("prolific")
        author.write_many(1)
        messages = [author.write("x", tags=["t"]) for _ in range(400)]
        store.store_batch(self.connection, [author.messages[0], *messages], NOW_NS)
        steps = count()
        self.connection.set_progress_handler(lambda: next(steps) < 0, 10)
        self.assertEqual(search.authors_with_tags(self.connection, ["t"], b"", 9), [author.key])
        self.connection.set_progress_handler(None, 0)
        self.assertLess(next(steps) * 10, 400)


class Searching(StoreCase):
    def setUp(self) -> None:
        super().setUp()
        self.author = Author("searched")

    def add(self, content: Any, **fields: Any) -> bytes:
        return self.publish(self.author, DAY_NS, content, **fields)

    def search(self, text: str, wanted: Filter | None = None) -> list[bytes]:
        expression = parse_query(text)
        ranked = search.rank(self.connection, expression, wanted or Filter())
        newest = search.newest_hits(self.connection, expression, wanted or Filter(), 100)
        self.assertEqual(sorted(ranked.positions), sorted(newest.positions))
        self.assertEqual(sorted(newest.positions, reverse=True), newest.positions)
        return [row.raw for row in search.messages_at(self.connection, ranked.positions)]

    def test_values_are_found_and_keys_are_not(self) -> None:
        raw = self.add({"type": "insight", "title": "heron", "deep": [{"more": ["kestrel"]}]})
        for word in ("heron", "HERON", "kestrel", "insight"):
            self.assertEqual(self.search(word), [raw], word)
        for word in ("title", "deep", "more"):
            self.assertEqual(self.search(word), [], word)

    def test_the_best_match_comes_first(self) -> None:
        weak = self.add("heron " + "filler " * 50)
        strong = self.add("heron heron heron")
        same = self.add("heron heron heron")
        self.assertEqual(self.search("heron"), [same, strong, weak])

    def test_only_the_newest_hits_are_ranked_and_it_is_said(self) -> None:
        self.patch(search, "RANKED", 3)
        raws = [self.add("heron heron heron"), *(self.add(f"heron {n}") for n in range(3))]
        ranked = search.rank(self.connection, '"heron"', Filter())
        found = search.messages_at(self.connection, ranked.positions)
        self.assertEqual({row.raw for row in found}, set(raws[1:]))
        self.assertFalse(ranked.complete)
        self.assertTrue(search.rank(self.connection, '"0"', Filter()).complete)

    def test_content_with_a_nul_is_searchable_on_both_sides(self) -> None:
        raw = self.add("heron\x00kestrel")
        self.assertEqual(self.search("heron"), [raw])
        self.assertEqual(self.search("kestrel"), [raw])

    def test_scripts_without_spaces(self) -> None:
        raw = self.add({"type": "note", "text": "私は東京に住む"})
        self.add("東の京")
        self.assertEqual(self.search("東京"), [raw])

    def test_what_is_gone_is_left_out(self) -> None:
        self.add("heron")
        self.assertEqual(
            search.messages_at(self.connection, [7, 1, 8]), [Row(self.author.raws[0], True)]
        )


class Snippets(StoreCase):
    def snippet(self, content: Any, query: str) -> tuple[str, ...]:
        row = Row(Author("s").write(content).raw, True)
        (pieces,) = search.snippets([row], parse_query(query), never)
        return pieces

    def test_every_second_piece_is_a_hit(self) -> None:
        self.assertEqual(
            self.snippet("the grey heron waits", "heron"), ("the grey ", "heron", " waits")
        )
        self.assertEqual(
            self.snippet("heron and heron", "heron"), ("", "heron", " and ", "heron", "")
        )

    def test_a_phrase_is_one_hit_and_a_beginning_marks_the_word(self) -> None:
        self.assertEqual(self.snippet("a grey heron b", '"grey heron"')[1], "grey heron")
        self.assertEqual(self.snippet("a herons b", "her*")[1], "herons")

    def test_hits_are_marked_as_the_search_sees_words(self) -> None:
        self.assertEqual(self.snippet("ein Café", "CAFE"), ("ein ", "Café", ""))

    def test_keys_and_numbers_are_not_in_it(self) -> None:
        pieces = self.snippet({"type": "note", "n": 5, "title": "owl"}, "owl")
        self.assertEqual(pieces, ("", "owl", " \u00b7 note"))

    def test_a_script_without_spaces_is_shown_as_it_was_written(self) -> None:
        self.assertEqual(self.snippet("私は東京に住む", "東京"), ("私は", "東京", "に住む"))

    def test_a_long_text_is_cut_around_the_hit(self) -> None:
        pieces = self.snippet("before " * 5_000 + "heron" + " after" * 5_000, "heron")
        self.assertEqual(pieces[1], "heron")
        self.assertTrue(pieces[0].startswith("\u2026") and pieces[2].endswith("\u2026"))
        self.assertLessEqual(sum(map(len, pieces)), search.SNIPPET_CHARS + 2)

    def test_words_without_end_are_cut_as_well(self) -> None:
        pieces = self.snippet("x" * 30_000 + " heron " + "y" * 30_000, "heron")
        self.assertEqual(pieces[1], "heron")
        self.assertLessEqual(sum(map(len, pieces)), search.SNIPPET_CHARS + 2)
        pieces = self.snippet("h" * 60_000, "hhh*")
        self.assertLessEqual(sum(map(len, pieces)), search.SNIPPET_CHARS + 2)
        self.assertEqual(pieces[0], "")

    @given(
        st.text(alphabet="ab \n\x00\x01\x02\x03" + BREAK, max_size=30),
        st.text(alphabet="ab \n\x01\x02", max_size=30),
    )
    def test_a_text_cannot_forge_a_hit(self, before: str, after: str) -> None:
        pieces = self.snippet(f"{before} heron {after}", "heron")
        self.assertEqual(pieces[1::2], ("heron",))
        shown = "".join(pieces)
        self.assertFalse(set("\x00\x01\x02\x03" + BREAK) & set(shown))
        words = "".join(c if c in "ab" else " " for c in f"{before} % {after}").split()
        if BREAK not in before:
            self.assertEqual(re.findall("[ab]+", shown.replace("heron", "")), words)

    def test_no_hits_need_no_index(self) -> None:
        self.assertEqual(search.snippets([], '"heron"', never), [])

    def test_an_excluding_search_has_snippets_too(self) -> None:
        self.assertEqual(self.snippet("grey heron", "heron -owl"), ("grey ", "heron", ""))

    def test_what_is_shown_is_the_message_and_why(self) -> None:
        row = Row(Author("s").write("a heron").raw, False)
        shown = msgspec.json.decode(search.shown(row, ("a ", "heron", "")))
        self.assertEqual(shown["snippet"], ["a ", "heron", ""])
        self.assertEqual(shown["chain_valid"], False)
        self.assertNotIn("snippet", msgspec.json.decode(search.shown(row)))


class Deadlines(StoreCase):
    def endless(self, connection: sqlite3.Connection) -> Any:
        return connection.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
        ).fetchone()

    def test_what_takes_too_long_is_ended(self) -> None:
        asked = count()
        self.assertRaises(
            SearchTooSlow, search.within, self.connection, lambda: next(asked) > 3, self.endless
        )
        self.assertEqual(next(asked), 5)

    def test_the_connection_is_as_before(self) -> None:
        self.assertRaises(SearchTooSlow, search.within, self.connection, lambda: True, self.endless)
        ingest(self.connection, Author("a").write().raw)
        self.assertEqual(search.list_messages(self.connection, Filter(), 9).total, 1)
        (last,) = self.connection.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 100000) "
            "SELECT max(i) FROM n"
        ).fetchone()
        self.assertEqual(last, 100_000)

    def test_other_errors_pass(self) -> None:
        self.assertRaises(
            sqlite3.OperationalError,
            search.within,
            self.connection,
            never,
            lambda connection: connection.execute("SELECT nothing FROM nowhere"),
        )


# --- older stores ------------------------------------------------------------------


def older(messages: Sequence[Message]) -> sqlite3.Connection:
    """A store as the first version of meshkit left it."""
    connection = sqlite3.connect(":memory:")
    connection.executescript(store.MIGRATIONS[0])
    for position, message in enumerate(messages, 1):
        connection.execute(
            "INSERT OR IGNORE INTO feed_authors (key, contiguous, latest) VALUES (?, 0, 0)",
            (message.author.raw,),
        )
        connection.execute(
            "INSERT INTO feed_messages SELECT ?, id, ?, ?, NULL, ?, ?, ?, 1, ? FROM feed_authors "
            "WHERE key = ?",
            (
                position,
                message.sequence,
                bytes.fromhex(message.hash),
                message.timestamp_ns,
                NOW_NS,
                message.content_type,
                message.raw,
                message.author.raw,
            ),
        )
        connection.execute(
            "INSERT INTO feed_text (rowid, body) VALUES (?, ?)",
            (position, content_text(message.content)),
        )
    return connection


def migrated(messages: Sequence[Message]) -> sqlite3.Connection:
    connection = older(messages)
    for script in store.MIGRATIONS[1:]:
        connection.executescript(script)
    return connection


def tables(connection: sqlite3.Connection) -> list[Any]:
    tags = "SELECT tag, shown_ns, message, author FROM feed_tags ORDER BY 1, 2, 3"
    return [
        connection.execute(tags).fetchall(),
        connection.execute("SELECT id, relates FROM feed_messages ORDER BY id").fetchall(),
    ]


ODD = Author("odd")
ODD.write({"tags": ["not one"], "relates": "no", "type": "note"})
ODD.write('","tags":["forged"],"relates":"forged"')
ODD.write("plain heron", tags=["x", "y", "x"], relates="ab" * 32)
ODD.write("東京タワー", tags=["東京", 'quo"ted', "back\\slash", "\U0001f989", ""])
ODD.write("nul", tags=["cut\0here", "cut\0there", "cut"], relates="re\0lated")
ODD.write("私は東京に住む")
ODD.write("kestrel " * 3)


class OlderStores(SynchronousTestCase):
    def finish(self, connection: sqlite3.Connection) -> int:
        for steps in count(1):
            if search.reindex(connection):
                return steps
        raise AssertionError

    def test_a_migrated_store_is_as_one_that_was_filled_today(self) -> None:
        connection, today = migrated(ODD.messages), fresh()
        store.store_batch(today, ODD.messages, NOW_NS)
        self.finish(connection)
        self.assertEqual(tables(connection), tables(today))
        for query in ("heron", "東京", "タワー", "京に", "kestrel", "東京タワー", "nul"):
            expression = parse_query(query)
            hits = [
                search.newest_hits(it, expression, Filter(), 9).positions
                for it in (connection, today)
            ]
            self.assertEqual(hits[0], hits[1], query)
            self.assertNotEqual(hits[0], [], query)
        # Nothing is left of the old entries.
        self.assertEqual(search.newest_hits(connection, '"東京タワー"', Filter(), 9).positions, [])

    def test_until_it_is_done_it_says_so(self) -> None:
        connection = migrated(ODD.messages)
        self.assertFalse(search.reindex_complete(connection))
        self.finish(connection)
        self.assertTrue(search.reindex_complete(connection))
        self.assertTrue(search.reindex(connection))

    def test_a_new_store_has_nothing_to_do(self) -> None:
        self.assertTrue(search.reindex_complete(fresh()))

    def test_it_is_done_in_steps_each_of_which_may_be_the_last(self) -> None:
        """Killed after any step, or in the middle of one, it ends in the same index."""
        self.patch(search, "REINDEX_ROWS", 2)
        connection = migrated(ODD.messages)
        connection.isolation_level = None
        steps = 0
        while not search.reindex_complete(connection):
            connection.execute("BEGIN")
            search.reindex(connection)
            connection.execute("ROLLBACK")  # killed
            search.reindex(connection)
            steps += 1
        self.assertEqual(steps, 4)
        hits = search.newest_hits(connection, parse_query("東京"), Filter(), 9)
        self.assertEqual(hits.positions, [6, 4])

    def test_a_step_is_bounded_by_what_it_writes(self) -> None:
        author = Author("cjk")
        for _ in range(5):
            author.write("東京" * 10_000)
        self.patch(search, "REINDEX_BYTES", 100_000)
        self.assertEqual(self.finish(migrated(author.messages)), 3)

    def test_messages_that_came_meanwhile_are_left_alone(self) -> None:
        connection = migrated(ODD.messages)
        author = Author("late")
        store.store_batch(connection, [author.write("東京")], NOW_NS)
        self.finish(connection)
        hits = search.newest_hits(connection, parse_query("東京"), Filter(), 9)
        self.assertEqual(hits.positions, [8, 6, 4])
        connection.execute("INSERT INTO feed_text (feed_text) VALUES ('integrity-check')")


class Unindexing(StoreCase):
    def test_what_is_taken_out_is_found_no_more_and_the_rest_is(self) -> None:
        store.store_batch(self.connection, ODD.messages, NOW_NS)
        search.unindex(self.connection, {n: ODD.messages[n - 1] for n in (3, 4, 5)})
        self.check(self.connection)

    def test_from_an_older_store_as_well_before_and_after_it_is_indexed_anew(self) -> None:
        self.patch(search, "REINDEX_ROWS", 4)
        connection = migrated(ODD.messages)
        search.reindex(connection)
        # The last of these waits for the step that is not made yet.
        taken = {n: ODD.messages[n - 1] for n in (3, 4, 5)}
        search.unindex(connection, taken)
        connection.execute("UPDATE feed_messages SET raw = x'' WHERE id IN (3, 4, 5)")
        while not search.reindex(connection):
            pass
        self.check(connection)

    def check(self, connection: sqlite3.Connection) -> None:
        for query, positions in (
            ("heron", []),
            ("タワー", []),
            ("nul", []),
            ("東京", [6]),
            ("kestrel", [7]),
        ):
            found = search.newest_hits(connection, parse_query(query), Filter(), 9)
            self.assertEqual(found.positions, positions, query)
        left = connection.execute("SELECT tag FROM feed_tags WHERE message <> 5").fetchall()
        self.assertEqual(left, [])
        connection.execute("INSERT INTO feed_text (feed_text) VALUES ('integrity-check')")
        connection.execute("CREATE VIRTUAL TABLE temp.words USING fts5vocab (main, feed_text, row)")
        terms = {term for (term,) in connection.execute("SELECT term FROM temp.words")}
        self.assertEqual({"heron", "nul", "タ", "東京タワー"} & terms, set())
