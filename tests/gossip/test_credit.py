"""Tests of L{meshkit.gossip.credit}."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import MalformedFrame
from meshkit.gossip.codec import MAX_TEXT
from meshkit.gossip.credit import (
    FIRST,
    LEAST_BYTES,
    WINDOW_BYTES,
    WINDOW_MESSAGES,
    Granting,
    Spending,
)


class Grants(SynchronousTestCase):
    def setUp(self) -> None:
        self.granting = Granting()

    def test_what_may_come_at_first_and_no_more(self) -> None:
        self.granting.received(FIRST.messages, FIRST.bytes)
        self.assertRaises(MalformedFrame, self.granting.received, 1, 0)
        other = Granting()
        self.assertRaises(MalformedFrame, other.received, 1, FIRST.bytes + 1)

    def test_the_limit_is_raised_when_half_is_used_and_stored(self) -> None:
        half = FIRST.messages // 2
        self.granting.received(half, 100)
        self.assertIsNone(self.granting.done(half - 1, 90, WINDOW_BYTES))
        raised = self.granting.done(1, 10, WINDOW_BYTES)
        assert raised is not None
        self.assertEqual(raised.messages, half + WINDOW_MESSAGES)
        self.assertEqual(raised.bytes, 100 + WINDOW_BYTES)
        self.assertIsNone(self.granting.done(0, 0, WINDOW_BYTES))

    def test_by_bytes_as_well(self) -> None:
        self.granting.received(2, FIRST.bytes)
        self.assertIsNone(self.granting.done(1, FIRST.bytes // 2 - 1, WINDOW_BYTES))
        self.assertIsNotNone(self.granting.done(1, 1, WINDOW_BYTES))

    def test_with_little_room_the_largest_message_still_gets_through(self) -> None:
        self.granting.received(3, FIRST.bytes)
        self.granting.done(3, FIRST.bytes, 1)
        self.assertEqual(self.granting.limit.bytes, FIRST.bytes + LEAST_BYTES)
        self.granting.received(1, MAX_TEXT)
        self.assertFalse(self.granting.exhausted)

    def test_it_is_exhausted_when_the_largest_message_may_not_come(self) -> None:
        self.granting.received(1, FIRST.bytes - MAX_TEXT)
        self.assertFalse(self.granting.exhausted)
        self.granting.received(1, 1)
        self.assertTrue(self.granting.exhausted)

    @given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, MAX_TEXT)), max_size=60))
    def test_a_sender_that_keeps_to_it_is_never_stuck_and_never_over(
        self, wishes: list[tuple[int, int]]
    ) -> None:
        granting, spending = Granting(), Spending()
        for count, size in wishes:
            texts = [b"x" * size] + [b""] * (count - 1)
            while texts:
                fit = spending.fitting(texts)
                self.assertGreater(fit, 0)
                now, texts = texts[:fit], texts[fit:]
                spending.spend(now)
                granting.received(len(now), sum(map(len, now)))
                raised = granting.done(len(now), sum(map(len, now)), LEAST_BYTES)
                if raised is not None:
                    spending.raised(raised.messages, raised.bytes)


class Spends(SynchronousTestCase):
    def test_as_many_as_may_be_sent(self) -> None:
        spending = Spending()
        self.assertEqual(spending.fitting([b""] * (FIRST.messages + 5)), FIRST.messages)
        self.assertEqual(spending.fitting([bytes(FIRST.bytes), b"x"]), 1)
        self.assertEqual(spending.fitting([bytes(FIRST.bytes + 1)]), 0)
        spending.spend([b"xy"] * 6)
        self.assertEqual((spending.messages, spending.size), (FIRST.messages - 6, FIRST.bytes - 12))

    def test_limits_are_absolute_and_never_fall(self) -> None:
        spending = Spending()
        spending.spend([b"xy"] * 6)
        spending.raised(1_000, 5)
        spending.raised(999, 2 * FIRST.bytes)
        self.assertEqual((spending.messages, spending.size), (994, 2 * FIRST.bytes - 12))
