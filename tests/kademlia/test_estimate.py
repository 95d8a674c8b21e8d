"""Tests of L{meshkit.kademlia.estimate}."""

from __future__ import annotations

import math
from random import Random
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from meshkit.kademlia.contacts import Contact
from meshkit.kademlia.distance import ID_BITS, number
from meshkit.kademlia.estimate import (
    CROWDED,
    MIN_SAMPLES,
    SAMPLES,
    SizeEstimate,
    is_crowded,
    region_bits,
)
from meshkit.kademlia.routing import K
from tests.kademlia.support import contact_at

TARGET: Final = bytes(32)


def nearest(size: int, rng: Random, target: bytes = TARGET) -> list[Contact]:
    """The nearest of so many random ids, without making them all."""
    distances: list[float] = []
    reached = 0.0
    for n in range(min(K, size)):
        # The least of m even numbers in what is left of the space.
        reached += (1 - reached) * (1 - rng.random() ** (1 / (size - n)))
        distances.append(reached)
    here = number(target)
    return [
        contact_at((here ^ int(each * 2.0**ID_BITS)).to_bytes(32, "big"), n)
        for n, each in enumerate(distances)
    ]


def estimate(size: int, samples: int, seed: int) -> float | None:
    rng = Random(seed)
    made = SizeEstimate()
    for _ in range(samples):
        target = rng.randbytes(32)
        made.saw(target, nearest(size, rng, target))
    return made.size


class SizeTests(SynchronousTestCase):
    def test_it_is_right_within_a_tenth(self) -> None:
        for size in (100, 1_000, 10_000, 10_000_000):
            for seed in range(5):
                found = estimate(size, SAMPLES, seed)
                assert found is not None
                self.assertLess(abs(found / size - 1), 0.1, (size, seed))

    def test_a_network_of_fewer_than_an_answer_is_counted(self) -> None:
        self.assertEqual(estimate(7, MIN_SAMPLES, 1), 8)

    def test_of_too_little_nothing_is_said(self) -> None:
        self.assertIsNone(estimate(1_000, MIN_SAMPLES - 1, 1))

    def test_only_the_last_lookups_count(self) -> None:
        rng = Random(1)
        made = SizeEstimate()
        for size in (10, 1_000_000):
            for _ in range(SAMPLES):
                made.saw(TARGET, nearest(size, rng))
        self.assertEqual(len(made), SAMPLES)
        assert made.size is not None
        self.assertGreater(made.size, 500_000)

    def test_who_crowds_a_third_of_the_places_changes_little(self) -> None:
        rng = Random(1)
        made = SizeEstimate()
        for n in range(60):
            made.saw(TARGET, nearest(10_000 if n % 3 else 10**12, rng))
        assert made.size is not None
        self.assertLess(made.size, 13_000)

    def test_nodes_at_the_target_itself_break_nothing(self) -> None:
        made = SizeEstimate()
        for _ in range(MIN_SAMPLES):
            made.saw(TARGET, [contact_at(TARGET, n) for n in range(K)])
        self.assertIsNotNone(made.size)


class CrowdTests(SynchronousTestCase):
    def test_honest_nodes_hardly_ever_seem_to_crowd(self) -> None:
        rng = Random(1)
        seen = sum(is_crowded(TARGET, nearest(10_000, rng), 10_000) for _ in range(2_000))
        self.assertEqual(seen, 0)

    def test_twenty_that_are_all_nearer_than_the_honest_are_seen(self) -> None:
        rng = Random(2)
        missed = 0
        for _ in range(1_000):
            first = nearest(10_000, rng)[0].number
            missed += not is_crowded(
                TARGET,
                [contact_at(TARGET, n) for n in range(19)]
                + [contact_at(first.to_bytes(32, "big"), 19)],
                10_000,
            )
        # The nearest honest node is beyond a third of twenty in 1 of 800 places.
        self.assertLess(missed, 10)

    def test_the_limit_is_a_third_of_the_distance_that_is_expected(self) -> None:
        for factor, crowded in ((0.99, True), (1.01, False)):
            last = int(K / 10_000 * CROWDED * factor * 2.0**ID_BITS).to_bytes(32, "big")
            found = [contact_at(TARGET, n) for n in range(K - 1)] + [contact_at(last, K)]
            self.assertEqual(is_crowded(TARGET, found, 10_000), crowded)

    def test_where_too_little_is_known_there_is_no_crowd(self) -> None:
        found = [contact_at(TARGET, n) for n in range(K)]
        self.assertTrue(is_crowded(TARGET, found, 10_000))
        self.assertFalse(is_crowded(TARGET, found, None))
        self.assertFalse(is_crowded(TARGET, found[1:], 10_000))
        self.assertFalse(is_crowded(TARGET, found, K))

    def test_a_region_has_twenty_to_forty_honest_nodes(self) -> None:
        for size in (1, 19, 20, 39, 40, 1_000, 10_000, 10**9):
            bits = region_bits(size)
            expected = size / 2**bits
            self.assertLess(expected, 2 * K)
            self.assertTrue(expected >= K or bits == 0)
        self.assertEqual(region_bits(10_000), math.floor(math.log2(500)))
