"""Tests of L{meshkit.cli.spans}."""

from __future__ import annotations

import click
from twisted.trial.unittest import SynchronousTestCase

from meshkit.cli.spans import span


class SpanTests(SynchronousTestCase):
    def test_a_length_of_time_is_a_number_and_a_unit(self) -> None:
        for text, seconds in (
            ("1s", 1),
            ("90 s", 90),
            ("15m", 900),
            ("12h", 43_200),
            ("30d", 2_592_000),
            ("2w", 1_209_600),
        ):
            self.assertEqual(span(text), seconds, text)

    def test_what_is_none_is_refused_by_name(self) -> None:
        for text in ("", "30", "d", "0d", "-1d", "1.5h", "1y", "1D", "30d ", " 30d", "\u0663d"):
            error = self.assertRaises(click.BadParameter, span, text)
            self.assertIn(repr(text), str(error))
