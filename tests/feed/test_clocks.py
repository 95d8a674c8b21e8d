"""What wrong clocks do to a store: L{meshkit.feed.store} and L{meshkit.feed.search}."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from meshkit.feed import search
from meshkit.feed.doctor import examine
from meshkit.testing.identities import DAY_NS, Author
from tests.feed.test_part import PartCase
from tests.feed.test_search import _dated
from tests.feed.test_store import fresh, ingest

#: Times that an author can write, from before the epoch of any clock to its end, with those
#: beside them that 64 bits of nanoseconds just hold.
PAST: Final = (
    "0000-01-01T00:00:00Z",
    "1601-01-01T00:00:00Z",
    "1677-09-21T00:12:43.145224193Z",
    "1969-12-31T23:59:59.999999999Z",
    "1970-01-01T00:00:00Z",
)
FUTURE: Final = (
    "2038-01-19T03:14:08Z",
    "2262-04-11T23:47:16.854775807Z",
    "2262-04-11T23:47:16.854775808Z",
    "9999-12-31T23:59:60Z",
    "9999-12-31T23:59:59.999999999Z",
)


class Stored(SynchronousTestCase):
    def setUp(self) -> None:
        self.connection = fresh()
        self.raws: dict[str, bytes] = {}
        for number, time in enumerate((*PAST, *FUTURE)):
            self.raws[time] = _dated(Author(f"at {time}"), time)
            (verdict,) = ingest(self.connection, self.raws[time], now_ns=DAY_NS + number)
            self.assertEqual(verdict.status, "accepted", time)

    def test_every_time_is_held_in_64_bits_and_none_is_later_than_the_arrival(self) -> None:
        rows = self.connection.execute(
            "SELECT shown_ns, received_ns, typeof(shown_ns) FROM feed_messages ORDER BY id"
        ).fetchall()
        self.assertEqual(len(rows), len(PAST + FUTURE))
        for (shown, received, kind), time in zip(rows, PAST + FUTURE, strict=True):
            self.assertEqual(kind, "integer", time)
            self.assertTrue(-(2**63) <= shown <= received, time)
        self.assertEqual([shown for shown, _, _ in rows], sorted(shown for shown, _, _ in rows))

    def test_the_text_still_says_what_its_author_signed(self) -> None:
        for time, raw in self.raws.items():
            self.assertIn(f'"timestamp":"{time}"'.encode(), raw)
        rows = search.list_messages(self.connection, search.Filter(), 99, 0).rows
        self.assertEqual({row.raw for row in rows}, set(self.raws.values()))

    def test_a_message_of_a_right_clock_comes_first_though_it_comes_last(self) -> None:
        now = DAY_NS + 10**9
        right = Author("right").write(timestamp_ns=now).raw
        ingest(self.connection, right, now_ns=now + 1)
        rows = search.list_messages(self.connection, search.Filter(), 99, 0).rows
        self.assertEqual(rows[0].raw, right)
        # Those of the future follow in the order in which they came, those of the past last.
        self.assertEqual(
            [row.raw for row in rows[1:]],
            [self.raws[time] for time in (*FUTURE[::-1], *PAST[::-1])],
        )

    def test_a_clock_here_that_was_wrong_pins_nothing_for_ever(self) -> None:
        """What came while our clock stood in 2100 is shown as of 2100, at most."""
        ahead = DAY_NS + 75 * 365 * 86_400 * 10**9
        far = _dated(Author("far"), "9999-12-31T23:59:59Z")
        ingest(self.connection, far, now_ns=ahead)
        honest = Author("honest").write(timestamp_ns=DAY_NS + 5).raw
        ingest(self.connection, honest, now_ns=ahead)
        shown = dict(self.connection.execute("SELECT raw, shown_ns FROM feed_messages").fetchall())
        self.assertEqual((shown[far], shown[honest]), (ahead, DAY_NS + 5))

    def test_the_doctor_finds_nothing_wrong(self) -> None:
        self.connection.commit()
        report = examine(self.connection, repair=False, own=None, now_ns=DAY_NS)
        self.assertEqual(report.counts, {})


class Positions(PartCase):
    """What is listed by arrival does not ask the authors for the time."""

    def test_a_message_from_1970_is_told_when_it_comes(self) -> None:
        ada = Author("ada")
        self.done(self.part.ingest([ada.write().raw]))
        self.done(self.part.ingest([_dated(Author("old"), PAST[-1])]))
        self.done(self.part.ingest([_dated(Author("new"), FUTURE[-1])]))
        positions = [message.position for event in self.events for message in event.messages]
        self.assertEqual(positions, [1, 2, 3])
        shown: list[Any] = [msgspec.json.decode(item) for item in self.ok("feed_list").items]
        self.assertEqual([message["timestamp"][:4] for message in shown], ["9999", "2026", "1970"])

    def test_an_author_whose_clock_jumps_keeps_a_feed_in_order(self) -> None:
        """The chain is ordered by its numbers, whatever the times are."""
        ada = Author("ada")
        times = (DAY_NS + 5, 0, DAY_NS + 3, 2**62, 1)
        raws = [ada.write(timestamp_ns=at).raw for at in times]
        self.done(self.part.ingest(raws[::-1]))
        self.assertEqual(self.done(self.part.read(ada.key, 0, 10**9, 99)), raws)
