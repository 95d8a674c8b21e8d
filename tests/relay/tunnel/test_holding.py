"""Tests of L{meshkit.relay.tunnel.holding}."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.relay.tunnel.holding import LONGEST_PAUSE, Holding, HoldingState


class HoldingTests(SynchronousTestCase):
    """When a relay is asked."""

    def granted(self, lifetime: float = 100.0) -> Holding:
        holding = Holding(Random(1), 0)
        holding.ask()
        holding.granted(lifetime, 0)
        return holding

    def test_it_is_asked_at_once_and_again_at_half(self) -> None:
        holding = Holding(Random(1), 7)
        self.assertEqual((holding.due, holding.expires), (7, None))
        holding.ask()
        self.assertRaises(RuntimeError, holding.ask)
        holding.granted(100, 8)
        self.assertEqual((holding.due, holding.expires), (58, 108))
        holding.ask()
        self.assertIs(holding.state, HoldingState.RENEWING)
        holding.granted(100, 58)
        self.assertEqual((holding.due, holding.expires), (108, 158))

    def test_a_renewal_that_fails_is_tried_again_while_it_still_holds(self) -> None:
        holding = self.granted()
        holding.ask()
        holding.failed(50)
        self.assertIs(holding.state, HoldingState.HELD)
        self.assertEqual(holding.expires, 100)
        self.assertTrue(50 < holding.due <= 51)
        holding.ask()
        holding.failed(100)
        self.assertIs(holding.state, HoldingState.OUT)
        self.assertIsNone(holding.expires)

    def test_with_the_connection_the_reservation_is_gone(self) -> None:
        holding = self.granted()
        holding.lost(10)
        self.assertIsNone(holding.expires)
        self.assertTrue(10 < holding.due <= 11)

    def test_a_call_that_fails_with_its_connection_counts_once(self) -> None:
        holding = self.granted()
        holding.ask()
        holding.lost(50)
        due = holding.due
        holding.failed(50)
        self.assertEqual(holding.due, due)

    @given(st.integers(1, 60), st.integers())
    def test_pauses_grow_to_a_limit_and_are_spread(self, failures: int, seed: int) -> None:
        holding = Holding(Random(seed), 0)
        for number in range(failures):
            holding.ask()
            holding.failed(0)
            longest = min(LONGEST_PAUSE, 2.0**number)
            self.assertTrue(longest / 2 <= holding.due <= longest)
        holding.ask()
        holding.granted(10, 0)
        holding.lost(0)
        self.assertLessEqual(holding.due, 1)
