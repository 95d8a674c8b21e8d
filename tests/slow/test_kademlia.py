"""
Ten thousand nodes on the pure cores of the hash table (L{tests.kademlia.swarm}).

The figures are printed: C{pytest -rP tests/slow/test_kademlia.py} shows them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from meshkit.kademlia.distance import ID_BITS
from meshkit.kademlia.lookup import PATHS, SAFE_PATHS
from meshkit.kademlia.routing import MAX_CHECKS, MAX_LOST, MAX_WAITING, K, RoutingTable
from tests.kademlia.support import contact, contact_at, host_of
from tests.kademlia.swarm import (
    Lie,
    measure_apart,
    measure_churn,
    measure_liars,
    measure_lookups,
)

SIZE = 10_000


def shown(figures: Iterable[object]) -> None:
    for each in figures:
        print(each)


class Large(SynchronousTestCase):
    def test_every_lookup_succeeds_in_few_hops(self) -> None:
        for size in (1_000, SIZE):
            figures = measure_lookups(size, 500)
            shown(figures)
            for each in figures:
                self.assertEqual(each.found, each.lookups, each)
                self.assertLess(each.hops, math.log2(size) / 3, each)
                self.assertLess(each.asked, K + (2 + each.paths) * math.log2(size), each)

    def test_for_a_day_three_in_ten_leave_each_hour(self) -> None:
        figures = measure_churn(SIZE, 24, 100)
        shown([figures])
        self.assertGreater(figures.left, 2 * SIZE)
        self.assertLessEqual(figures.missed, figures.lookups / 1_000, figures)
        self.assertEqual(figures.lost, 0, figures)

    def test_two_halves_that_were_apart_for_six_hours_become_one(self) -> None:
        figures = measure_apart(1_000, 100)
        shown([figures])
        self.assertLess(figures.knew[0], 0.6)
        self.assertGreater(figures.knew[1], 0.99, figures)
        self.assertEqual(figures.newest, figures.records)


class LiarTests(SynchronousTestCase):
    def test_those_that_collude_around_a_place_with_keys_made_for_it(self) -> None:
        for part, most in ((0.1, 2), (0.2, 2), (0.3, 6)):
            figures = measure_liars(SIZE, part, K, 200)
            shown([figures])
            for paths in (PATHS, SAFE_PATHS):
                self.assertGreaterEqual(figures.found[paths], 200 - most, figures)

    def test_too_few_to_seem_a_crowd(self) -> None:
        figures = measure_liars(SIZE, 0.2, 12, 200)
        shown([figures])
        self.assertGreaterEqual(figures.found[SAFE_PATHS], 198, figures)

    def test_those_that_say_nothing_or_nonsense_or_what_is_old(self) -> None:
        for lie in (Lie.SILENT, Lie.NONSENSE, Lie.STALE):
            figures = measure_liars(SIZE, 0.2, K, 100, lie)
            shown([figures])
            self.assertGreaterEqual(figures.found[SAFE_PATHS], 99, figures)

    def test_it_is_the_region_behind_the_crowd_that_helps(self) -> None:
        without = measure_liars(SIZE, 0.2, K, 50, regions=False)
        shown([without])
        self.assertLess(without.found[SAFE_PATHS], 45)


class Floods(SynchronousTestCase):
    def test_a_hundred_thousand_ids_near_us_take_little_of_the_table(self) -> None:
        own = contact(0).id
        here = int.from_bytes(own, "big")
        table = RoutingTable(own)
        rng = Random(1)
        honest = [contact(n) for n in range(1, 3_000)]
        for each in honest:
            table.answered(each, 0.0)
        before = set(table)
        for n in range(100_000):
            place = here ^ rng.getrandbits(rng.randrange(200, 240))
            if place != here:
                host = host_of(n % 20_000 << 12)
                table.answered(contact_at(place.to_bytes(32, "big"), n % 20_000, host), 1_000.0)
        self.assertLessEqual(before, set(table), "the old were pushed out")
        self.assertLessEqual(len(table), len(before) + K * 60)
        waiting = sum(len(bucket.waiting) for bucket in table._buckets.values())
        self.assertLessEqual(waiting, MAX_WAITING * ID_BITS)
        self.assertLessEqual(len(table._checks), MAX_CHECKS)
        self.assertLessEqual(len(table._lost), MAX_LOST)
