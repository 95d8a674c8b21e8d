"""Tests of L{meshkit.discovery.trying}."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from meshkit.discovery.trying import REST, Trials
from meshkit.identity.addresses import MeshAddress
from meshkit.kademlia.contacts import MAX_FAILED_DIALS
from meshkit.testing.identities import make_identity

KEYS = [make_identity(f"node {n}").public for n in range(8)]


def address(number: int, host: int = 1, port: int = 7655) -> MeshAddress:
    return MeshAddress(f"192.0.2.{host}", port, KEYS[number])


class TrialTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.trials = Trials()

    def told(self, heard: list[MeshAddress], now: float = 0.0) -> list[MeshAddress]:
        return self.trials.dial(self.trials.rested(heard, now), now)

    def test_few_at_a_host_are_dialled_before_one_was_reached(self) -> None:
        near = [address(n) for n in range(8)]
        self.assertEqual(self.told(near), near[:MAX_FAILED_DIALS])
        self.assertEqual(self.told(near), near[:MAX_FAILED_DIALS])
        for n in range(8):
            self.assertTrue(self.trials.reached(near[n]))
            self.assertFalse(self.trials.reached(near[n]))
            self.assertEqual(self.told(near), near[: n + 1 + MAX_FAILED_DIALS])

    def test_a_host_at_which_dials_failed_rests(self) -> None:
        near = [address(n) for n in range(3)]
        self.told([*near, address(4, 2)])
        for n in (0, 1):
            self.assertTrue(self.trials.failed(near[n], 1, 5))
            self.assertFalse(self.trials.failed(near[n], 1, 5))
            self.assertEqual(self.told(near, 5), near)
        self.trials.failed(near[0], 2, 5)
        self.assertEqual(self.told([*near, address(4, 2)], 5), [address(4, 2)])
        self.assertEqual(self.told(near, 4 + REST), [])
        self.assertEqual(self.told(near, 5 + REST), near)

    def test_a_dial_that_is_given_up_has_failed(self) -> None:
        """Or each beacon, with another port, would have one more place of that host dialled."""
        dialled = [self.told([address(0, port=7655 + n)], n / 10) for n in range(20)]
        self.assertEqual(sum(map(len, dialled)), MAX_FAILED_DIALS)

    def test_who_was_reached_may_be_away_for_a_while(self) -> None:
        real, forged = address(0), address(1)
        self.told([real])
        self.trials.reached(real)
        for n in range(1, 9):
            self.assertFalse(self.trials.failed(real, n, n))
        self.told([real, forged])
        for n in range(1, 4):
            self.trials.failed(forged, n, 9)
        self.assertEqual(self.told([real, forged], 9), [real])
        # When it is heard no more it is like any other.
        self.assertEqual(self.told([], 10), [])
        self.assertEqual(self.told([real], 10), [])
        self.assertEqual(self.told([real], 9 + REST), [real])

    def test_what_is_none_of_ours_changes_nothing(self) -> None:
        self.assertFalse(self.trials.failed(address(0), 3, 0))
        self.assertFalse(self.trials.reached(address(0)))
