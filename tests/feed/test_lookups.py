"""Tests of L{meshkit.feed.lookups}: lists and searches as the doors ask for them."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred, succeed

from meshkit.errors import (
    CursorExpired,
    InvalidPublicKey,
    InvalidRequest,
    NotReady,
    Overloaded,
    SearchTooSlow,
)
from meshkit.feed import lookups, search, store
from meshkit.feed.lookups import MAX_RANKINGS, MAX_WAITING, Lane, Rankings
from meshkit.feed.part import Config
from meshkit.feed.search import Ranked
from meshkit.testing.identities import DAY_NS, Author
from meshkit.testing.nodes import make_context, run_clock
from tests.feed.test_part import PartCase
from tests.feed.test_search import ODD, older


class LookupCase(PartCase):
    def setUp(self) -> None:
        super().setUp()
        self.ada, self.bob = Author("ada"), Author("bob")

    def put(self, author: Author, content: Any, **fields: Any) -> int:
        """@return: the sequence number of the message that is now stored."""
        message = author.write(content, **fields)
        (verdict,) = self.done(self.part.ingest([message.raw]))
        self.assertEqual(verdict.status, "accepted")
        return message.sequence

    def found(self, page: Any) -> list[Any]:
        return [msgspec.json.decode(item)["sequence"] for item in page.items]

    def pages(
        self, name: str, between: Callable[[], Any] = lambda: None, **fields: Any
    ) -> list[Any]:
        """All that a list shows, page by page."""
        found: list[Any] = []
        cursor = None
        while True:
            page = self.ok(name, cursor=cursor, **fields)
            found += [msgspec.json.decode(item)["hash"] for item in page.items]
            cursor = page.next_cursor
            if cursor is None:
                return found
            between()


class Cursors(LookupCase):
    def test_a_list_goes_on_where_its_page_ended(self) -> None:
        for n in range(5):
            self.put(self.ada, {"type": "insight"}, timestamp_ns=DAY_NS - 9 + n)
        there = [message.hash for message in reversed(self.ada.messages)]
        text = self.ada.identity.public.text
        for name, fields in (
            ("feed_list", {}),
            ("feed_author", {"author": text}),
            ("feed_insights", {}),
        ):
            seen = self.pages(
                name, lambda: self.put(self.bob, {"type": "insight"}), limit=2, **fields
            )
            self.assertEqual([it for it in seen if it in there], there, name)
            self.assertEqual(len(set(seen)), len(seen))

    def test_a_search_goes_on_in_the_order_it_began_with(self) -> None:
        """Whatever comes in between, which changes how relevant everything is."""
        for n in range(7):
            self.put(self.ada, "heron " * (n % 3 + 1) + "filler " * n)
        texts = iter(range(100))

        def arrive() -> None:
            self.put(self.bob, "heron " + "other words and many of them " * 20)
            self.put(self.bob, "heron " * (next(texts) + 5))

        for order in ("relevance", "newest"):
            first = self.ok("feed_search", q="heron", order=order, limit=200)
            expected = [msgspec.json.decode(item)["hash"] for item in first.items]
            seen = self.pages("feed_search", arrive, q="heron", order=order, limit=2)
            self.assertEqual(seen, expected, order)

    def test_a_cursor_belongs_to_its_list(self) -> None:
        self.done(self.part.ingest(self.ada.write_many(5)))
        listed = self.ok("feed_list", limit=2).next_cursor
        searched = self.ok("feed_search", q="number", limit=2).next_cursor
        newest = self.ok("feed_search", q="number", limit=2, order="newest").next_cursor
        for name, fields in (
            ("feed_list", {"include_self": True, "cursor": listed}),
            ("feed_list", {"tag": "x", "cursor": listed}),
            ("feed_list", {"cursor": searched}),
            ("feed_list", {"cursor": "A" * 36}),
            ("feed_insights", {"cursor": listed}),
            ("feed_search", {"q": "numbers", "cursor": searched}),
            ("feed_search", {"q": "number", "cursor": newest}),
            ("feed_search", {"q": "number", "order": "newest", "cursor": searched}),
        ):
            with self.subTest(name=name, **fields):
                error = self.failed(self.answer(name, **fields), InvalidRequest)
                self.assertEqual(error.details, {"field": "cursor"})
        # How many are shown at a time may change.
        self.assertEqual(self.found(self.ok("feed_list", limit=1, cursor=listed)), [3])

    def test_a_cursor_or_an_offset(self) -> None:
        self.done(self.part.ingest(self.ada.write_many(5)))
        page = self.ok("feed_list", limit=2)
        self.assertEqual(page.offset, 0)
        self.failed(
            self.answer("feed_list", limit=2, offset=2, cursor=page.next_cursor), InvalidRequest
        )
        page = self.ok("feed_list", limit=2, cursor=page.next_cursor)
        self.assertIsNone(page.offset)
        page = self.ok("feed_list", limit=2, offset=2)
        self.assertEqual(self.found(page), [3, 2])
        self.assertEqual(self.found(self.ok("feed_list", cursor=page.next_cursor)), [1])

    def test_an_order_that_is_not_kept_any_more_is_refused_by_name(self) -> None:
        self.done(self.part.ingest(self.ada.write_many(5)))
        cursor = self.ok("feed_search", q="number", limit=2).next_cursor
        for _ in range(MAX_RANKINGS):
            self.ok("feed_search", q="number", limit=2)
        self.failed(self.answer("feed_search", q="number", cursor=cursor), CursorExpired)

    def test_an_order_in_use_is_kept(self) -> None:
        rankings = Rankings(Random(1), most=3)
        names = [rankings.keep(Ranked(_array(n), complete=True)) for n in range(3)]
        rankings.find(names[0])
        rankings.keep(Ranked(_array(9), complete=True))
        self.assertEqual(list(rankings.find(names[0]).positions), [0])
        self.assertRaises(CursorExpired, rankings.find, names[1])

    def test_a_search_that_fits_a_page_is_not_remembered(self) -> None:
        self.done(self.part.ingest(self.ada.write_many(5)))
        self.ok("feed_search", q="number", limit=5)
        self.assertEqual(len(self.part._lookups._rankings._kept), 0)


def _array(*values: int) -> Any:
    return array("q", values)


class Asking(LookupCase):
    def test_filters_are_those_of_the_request(self) -> None:
        mine = self.done(self.part.publish({"type": "note", "text": "heron"}))
        one = self.put(self.ada, {"type": "note", "text": "heron"}, tags=["t"], relates=mine.hash)
        two = self.put(self.ada, {"type": "insight", "text": "heron"}, timestamp_ns=DAY_NS - 10**9)
        ada, me = self.ada.identity.public.text, self.context.identity.public.text
        for fields, expected in (
            ({"author": ada}, {one, two}),
            ({"not_author": me, "content_type": "note"}, {one}),
            ({"tag": "t"}, {one}),
            ({"relates": mine.hash}, {one}),
            ({"author": ada, "until": "2026-01-01T00:00:00Z"}, {two}),
            ({"author": ada, "since": "2026-01-01T01:00:00+01:00"}, {one}),
        ):
            for order in ("relevance", "newest"):
                with self.subTest(order=order, **fields):
                    page = self.ok("feed_search", q="heron", order=order, **fields)
                    self.assertEqual(set(self.found(page)), expected)
                    self.assertEqual(page.total, len(expected))
        self.assertEqual(self.found(self.ok("feed_list", tag="t")), [one])
        self.assertEqual(self.found(self.ok("feed_author", author=ada, relates=mine.hash)), [one])
        self.assertEqual(self.found(self.ok("feed_insights", author=ada)), [two])

    def test_what_cannot_be_asked_is_refused_by_name(self) -> None:
        for field in ("since", "until"):
            error = self.failed(
                self.answer("feed_search", q="x", **{field: "yesterday"}), InvalidRequest
            )
            self.assertEqual(error.details, {"field": field})
        for field in ("author", "not_author"):
            self.failed(self.answer("feed_search", q="x", **{field: "me"}), InvalidPublicKey)
        self.failed(self.answer("feed_search", q="-x"), InvalidRequest)

    def test_hits_come_with_the_stretch_that_matched(self) -> None:
        self.put(self.ada, {"type": "note", "text": "the grey heron waits"})
        for order in ("relevance", "newest"):
            (item,) = self.ok("feed_search", q="heron", order=order).items
            self.assertEqual(
                msgspec.json.decode(item)["snippet"], ["the grey ", "heron", " waits \u00b7 note"]
            )

    def test_it_is_said_how_far_was_counted_and_ranked(self) -> None:
        self.patch(search, "RANKED", 3)
        self.patch(search, "COUNTED", 3)
        self.done(self.part.ingest(self.ada.write_many(3)))
        page = self.ok("feed_search", q="number")
        self.assertEqual((page.total, page.counted, page.notes), (3, True, {}))
        self.done(self.part.ingest([self.ada.write().raw]))
        page = self.ok("feed_search", q="number")
        self.assertEqual((page.total, page.counted, page.notes), (3, False, {"ranked_newest": 3}))
        page = self.ok("feed_search", q="number", order="newest")
        self.assertEqual((page.total, page.counted, page.notes), (3, False, {}))
        self.assertEqual(len(page.items), 4)
        page = self.ok("feed_list")
        self.assertEqual((page.total, page.counted), (3, False))


class Deadlines(LookupCase):
    def setUp(self) -> None:
        super().setUp()
        self.done(self.part.ingest(self.ada.write_many(50)))

    def test_what_takes_too_long_is_ended(self) -> None:
        """The clock of this node leaps whenever it is looked at."""
        self.patch(search, "_STEPS", 10)
        now = 0.0

        def leaping() -> float:
            nonlocal now
            now += 1.0
            return now

        for lane in (self.part._lookups._lists, self.part._lookups._searches):
            self.patch(lane, "_seconds", leaping)
        self.failed(self.answer("feed_list"), SearchTooSlow)
        for order in ("relevance", "newest"):
            self.failed(self.answer("feed_search", q="number", order=order), SearchTooSlow)

    def test_a_time_that_is_enough_is_enough(self) -> None:
        self.patch(search, "_STEPS", 10)
        self.assertEqual(self.ok("feed_search", q="number").total, 50)

    def test_one_search_at_a_time(self) -> None:
        lane, started = self.slow_lane()
        first, second = lane.run(lambda *_: 1), lane.run(lambda *_: 2)
        self.assertEqual(len(started), 1)
        started[0].callback(None)
        self.assertEqual(self.successResultOf(first), 1)
        self.assertNoResult(second)
        started[1].callback(None)
        self.assertEqual(self.successResultOf(second), 2)

    def test_who_goes_away_ends_the_search_and_the_next_waits_for_that(self) -> None:
        lane, started = self.slow_lane()
        ended: list[bool] = []
        first = lane.run(lambda connection, expired: ended.append(expired()))
        first.cancel()
        self.failureResultOf(first, CancelledError)
        second = lane.run(lambda *_: 2)
        self.assertEqual(len(started), 1)
        started[0].callback(None)
        self.assertEqual(ended, [])
        self.assertEqual(len(started), 2)
        started[1].callback(None)
        self.assertEqual(self.successResultOf(second), 2)

    def test_who_goes_away_in_the_middle_is_noticed(self) -> None:
        lane, started = self.slow_lane()
        seen: list[bool] = []

        def job(connection: Any, expired: Callable[[], bool]) -> None:
            seen.append(expired())
            waiting.cancel()
            seen.append(expired())

        waiting = lane.run(job)
        started[0].callback(None)
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(seen, [False, True])

    def test_a_failure_that_nobody_waits_for_is_logged_if_it_is_a_fault(self) -> None:
        lane, started = self.slow_lane()

        def job(connection: Any, expired: Callable[[], bool]) -> None:
            waiting.cancel()
            raise ZeroDivisionError

        waiting = lane.run(job)
        started[0].callback(None)
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_only_so_many_wait(self) -> None:
        lane, started = self.slow_lane()
        waiting = [lane.run(lambda *_: None) for _ in range(MAX_WAITING)]
        self.failureResultOf(lane.run(lambda *_: None), Overloaded)
        started[0].callback(None)
        self.assertNoResult(lane.run(lambda *_: None))
        self.assertEqual(len(waiting), MAX_WAITING)

    def slow_lane(self) -> tuple[Lane, list[Deferred[None]]]:
        """A lane over a database whose reads begin when they are told to."""
        started: list[Deferred[None]] = []

        class Slow:
            def read(self, job: Callable[[Any], Any]) -> Deferred[Any]:
                begin: Deferred[None] = Deferred()
                started.append(begin)
                return begin.addCallback(lambda _: job(_NoConnection()))

        return Lane(Slow(), lambda: 0.0, 1.0), started


class _NoConnection:
    def set_progress_handler(self, handler: Any, steps: int) -> None:
        pass


class OlderStores(LookupCase):
    """A store that the first version of meshkit has filled."""

    def migrations(self) -> dict[str, Any]:
        return {}

    def use(self, context: Any) -> None:
        def fill(connection: Any) -> None:
            for line in older(ODD.messages).iterdump():
                # The index of words is filled below: its shadow tables are SQLite's.
                if line.startswith("INSERT INTO") and not re.search("feed_text|sqlite_", line):
                    connection.execute(line)
            for number, message in enumerate(ODD.messages, 1):
                connection.execute(
                    "INSERT INTO feed_text (rowid, body) VALUES (?, ?)",
                    (number, search.content_text(message.content)),
                )

        first = make_context(
            self.clock, "me", config=Config(), migrations={"feed": store.MIGRATIONS[:1]}
        )
        self.wait(first.database.write(fill))
        backing = first.database._backing
        self.wait(first.database.stopService())
        self.patch(search, "REINDEX_ROWS", 2)
        super().use(
            make_context(
                self.clock,
                "me",
                config=Config(),
                migrations={"feed": store.MIGRATIONS},
                backing=backing,
            )
        )

    def wait(self, deferred: Deferred[Any]) -> Any:
        run_clock(self.clock)
        return self.successResultOf(deferred)

    def test_it_is_indexed_anew_in_the_background(self) -> None:
        page = self.ok("feed_search", q="京に")
        self.assertEqual((self.found(page), page.notes), ([6], {}))

    def test_until_then_searches_say_so(self) -> None:
        self.wait(
            self.context.database.write(
                lambda connection: connection.execute("UPDATE feed_reindex SET next = 1").fetchall()
            )
        )
        for order in ("relevance", "newest"):
            page = self.ok("feed_search", q="heron", order=order)
            self.assertEqual(page.notes, {"index_complete": False})

    def test_a_stop_waits_for_the_step_that_is_made_and_begins_no_other(self) -> None:
        steps: list[Deferred[bool]] = []

        class Held:
            def read(self, job: Any) -> Deferred[Any]:
                return succeed(False)

            def write(self, job: Any) -> Deferred[bool]:
                steps.append(Deferred())
                return steps[-1]

        it = lookups.Lookups(
            Held(), self.context.identity.public, self.clock.seconds, Random(1), 1.0
        )
        it.start()
        steps[0].callback(False)
        stopped = it.stop()
        self.assertNoResult(stopped)
        steps[1].callback(False)
        self.successResultOf(stopped)
        self.assertEqual(len(steps), 2)

    def test_a_disk_that_refuses_is_logged_and_nothing_else_is_harmed(self) -> None:
        class Refusing:
            def read(self, job: Any) -> Deferred[Any]:
                return succeed(False)

            def write(self, job: Any) -> Deferred[bool]:
                raise NotReady

        it = lookups.Lookups(
            Refusing(), self.context.identity.public, self.clock.seconds, Random(1), 1.0
        )
        it.start()
        self.assertEqual(len(self.flushLoggedErrors(NotReady)), 1)
        self.successResultOf(it.stop())
