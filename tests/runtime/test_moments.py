"""Tests of L{meshkit.runtime.moments}."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from meshkit.runtime.moments import rfc3339


class Moments(SynchronousTestCase):
    def test_they_are_shown_to_the_millisecond(self) -> None:
        for ns, text in (
            (0, "1970-01-01T00:00:00.000Z"),
            (1_767_225_600_000_000_000, "2026-01-01T00:00:00.000Z"),
            # Never later than it was.
            (1_767_225_600_123_999_999, "2026-01-01T00:00:00.123Z"),
        ):
            self.assertEqual(rfc3339(ns), text)
