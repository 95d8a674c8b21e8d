"""L{meshkit.feed.timestamps}: times to the nanosecond, in one spelling."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import MalformedMessage
from meshkit.feed.timestamps import MAX_TIMESTAMP_CHARS, format_timestamp, parse_timestamp
from tests.feed.known import error_of, vectors

INT64 = st.integers(-(2**63), 2**63 - 1)


class ParseTests(SynchronousTestCase):
    def test_every_spelling_gets_the_normal_form_that_rust_gives_it(self) -> None:
        rows = vectors("timestamps.json")["rows"]
        for text, normal in rows:
            if normal is None:
                self.assertIs(error_of(parse_timestamp, text), MalformedMessage, repr(text))
            else:
                self.assertEqual(parse_timestamp(text)[0], normal, repr(text))
                self.assertEqual(parse_timestamp(normal)[0], normal)
        self.assertGreater(len(rows), 90)

    def test_nanoseconds_count_from_1970(self) -> None:
        for text, ns in (
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T00:00:00.000000001Z", 1),
            ("1969-12-31T23:59:59.999999999Z", -1),
            ("2026-02-12T18:30:00.123456789Z", 1770921000_123456789),
            ("2026-02-12T19:30:00.5+01:00", 1770921000_500000000),
            ("2000-03-01T00:00:00Z", 951868800_000000000),
            # A second 60 sorts with the first of the next minute.
            ("2016-12-31T23:59:60.25Z", 1483228800_250000000),
        ):
            self.assertEqual(parse_timestamp(text)[1], ns, text)

    def test_nanoseconds_are_cut_off_to_64_bits_while_the_text_stays(self) -> None:
        for text, ns in (
            ("2262-04-11T23:47:16.854775807Z", 2**63 - 1),
            ("2262-04-11T23:47:16.854775808Z", 2**63 - 1),
            ("+262142-12-31T23:59:59Z", 2**63 - 1),
            ("1677-09-21T00:12:43.145224192Z", -(2**63)),
            ("1677-09-21T00:12:43.145224191Z", -(2**63)),
            ("-262143-01-01T00:00:00Z", -(2**63)),
        ):
            self.assertEqual(parse_timestamp(text), (text, ns))

    def test_texts_up_to_the_limit_are_read_and_longer_ones_refused(self) -> None:
        stem = "2026-02-12T18:30:00."
        longest = stem + "9" * (MAX_TIMESTAMP_CHARS - len(stem) - 1) + "Z"
        self.assertEqual(parse_timestamp(longest)[0], "2026-02-12T18:30:00.999999999Z")
        with self.assertRaises(MalformedMessage):
            parse_timestamp(longest.replace(".", ".9"))

    def test_the_error_shows_the_text_and_an_example(self) -> None:
        with self.assertRaisesRegex(MalformedMessage, "'tomorrow' is not a time such as 2026-"):
            parse_timestamp("tomorrow")

    @given(
        st.from_regex(
            r"[0-9]{3,4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]*0{0,6})?[Zz]",
            fullmatch=True,
        )
    )
    def test_the_quick_way_of_the_normal_form_gives_what_the_other_gives(self, text: str) -> None:
        def read() -> object:
            try:
                return parse_timestamp(text)
            except MalformedMessage as e:
                return str(e)

        quickly = read()
        with patch("meshkit.feed.timestamps._NORMAL", re.compile("(?!)")):
            self.assertEqual(quickly, read())

    @given(
        st.datetimes(min_value=datetime(1700, 1, 1), max_value=datetime(2200, 1, 1)),
        st.integers(-23 * 60 - 59, 23 * 60 + 59),
    )
    def test_offsets_are_taken_off(self, local: datetime, offset: int) -> None:
        moment = local.replace(tzinfo=timezone(timedelta(minutes=offset)))
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        ns = (moment - epoch) // timedelta(microseconds=1) * 1000
        self.assertEqual(parse_timestamp(moment.isoformat()), (format_timestamp(ns), ns))


class FormatTests(SynchronousTestCase):
    @given(INT64)
    def test_what_is_written_is_normal_and_gives_the_nanoseconds_back(self, ns: int) -> None:
        text = format_timestamp(ns)
        self.assertEqual(parse_timestamp(text), (text, ns))

    def test_the_fraction_is_the_shortest_of_three_that_is_exact(self) -> None:
        second = 1770921000_000000000
        for ns, fraction in (
            (0, ""),
            (500_000_000, ".500"),
            (1_000_000, ".001"),
            (1_001_000, ".001001"),
            (1_000, ".000001"),
            (1, ".000000001"),
            (999_999_999, ".999999999"),
        ):
            self.assertEqual(format_timestamp(second + ns), f"2026-02-12T18:30:00{fraction}Z")

    def test_more_than_64_bits_are_refused(self) -> None:
        for ns in (2**63, -(2**63) - 1):
            with self.assertRaises(ValueError):
                format_timestamp(ns)
