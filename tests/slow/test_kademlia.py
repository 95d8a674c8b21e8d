"""
Thousands of nodes on the pure cores of the hash table (L{tests.kademlia.swarm}).

The figures are printed: C{pytest -rP tests/slow/test_kademlia.py} shows them.  All of it
takes a processor about three minutes.  C{MESHKIT_SCALE=20} has ten thousand nodes live for a
day, and twenty times as many lookups, which takes hours; with C{MESHKIT_SCALE=2} it is the
thousand of C{docs/protocol/kademlia.md}.
"""

from __future__ import annotations

import gc
import math
import os
from collections.abc import Callable
from random import Random
from typing import ClassVar

import pytest
from twisted.trial.unittest import SynchronousTestCase

from meshkit.identity.keys import Identity
from meshkit.kademlia.distance import ID_BITS
from meshkit.kademlia.holdings import MAX_FLOORS, Holdings
from meshkit.kademlia.kinds import Kinds, topic_key
from meshkit.kademlia.lookup import PATHS, SAFE_PATHS
from meshkit.kademlia.records import LIFETIME, Record
from meshkit.kademlia.routing import MAX_CHECKS, MAX_LOST, MAX_WAITING, K, RoutingTable
from tests.kademlia.network import Lie
from tests.kademlia.support import NETWORK, contact, contact_at, host_of
from tests.kademlia.swarm import (
    Liars,
    Plan,
    Stage,
    measure_apart,
    measure_churn,
    measure_eclipse,
    measure_lookups,
)

SIZE = 10_000
LARGER = int(os.environ.get("MESHKIT_SCALE", "1"))
#: Where nodes live for hours.
SMALLER = min(SIZE, 500 * LARGER)
#: Attacks of each sort.
TRIALS = 25 * LARGER


_thresholds = gc.get_threshold()


def setUpModule() -> None:
    """Looking through all nodes for what can be freed took a fifth of the time."""
    gc.set_threshold(20_000, 10, 10)


def tearDownModule() -> None:
    gc.set_threshold(*_thresholds)


class Figures(SynchronousTestCase):
    _record: Callable[[str, object], None] | None = None

    @pytest.fixture(autouse=True)
    def _properties(self, record_property: Callable[[str, object], None]) -> None:
        self._record = record_property

    def show(self, figures: object) -> None:
        print(figures)
        if self._record is not None:
            self._record("figures", str(figures))


class Large(Figures):
    def test_every_lookup_succeeds_in_few_hops(self) -> None:
        for size in (1_000, SIZE):
            for each in measure_lookups(size, 200 * LARGER):
                self.show(each)
                self.assertEqual(each.found, each.lookups, each)
                self.assertLess(each.hops, math.log2(size) / 3, each)
                self.assertLess(each.asked, K + (2 + each.paths) * math.log2(size), each)

    def test_for_a_day_three_in_ten_leave_each_hour(self) -> None:
        figures = measure_churn(SMALLER, 24, 40 * LARGER)
        self.show(figures)
        self.assertGreater(figures.left, 8 * SMALLER)
        self.assertLessEqual(figures.missed, figures.lookups / 1_000, figures)
        self.assertEqual((figures.lost, figures.over), (0, 0), figures)

    def test_two_halves_that_were_apart_for_six_hours_become_one(self) -> None:
        figures = measure_apart(SMALLER, 20 * LARGER)
        self.show(figures)
        self.assertLess(figures.knew[0], 0.6, "they were not apart")
        self.assertGreater(figures.knew[1], 0.99, figures)
        self.assertEqual(figures.newest, figures.records, figures)
        self.assertEqual(figures.topics, figures.records, figures)


class LiarTests(Figures):
    stage: ClassVar[Stage]

    @classmethod
    def setUpClass(cls) -> None:
        cls.stage = Stage(SIZE)

    @classmethod
    def tearDownClass(cls) -> None:
        del cls.stage

    def measure(self, plan: Plan, trials: int = TRIALS) -> Liars:
        figures = self.stage.measure(plan, trials)
        self.show(figures)
        return figures

    def test_those_that_collude_around_a_place_with_keys_made_for_it(self) -> None:
        for part, missed in ((0.1, 0.01), (0.2, 0.01), (0.3, 0.03)):
            figures = self.measure(Plan(part))
            for paths in (PATHS, SAFE_PATHS):
                self.assertGreaterEqual(figures.found[paths], TRIALS * (1 - missed), figures)

    def test_too_few_to_seem_a_crowd_and_many(self) -> None:
        for made, trials in ((0, TRIALS), (12, TRIALS), (60, TRIALS // 2)):
            figures = self.measure(Plan(0.2, made), trials)
            self.assertGreaterEqual(figures.found[SAFE_PATHS], trials * 0.99, figures)

    def test_those_that_say_nothing_or_nonsense_or_what_is_old(self) -> None:
        for lie in (Lie.SILENT, Lie.NONSENSE, Lie.STALE):
            figures = self.measure(Plan(0.2, lie=lie))
            self.assertGreaterEqual(figures.found[SAFE_PATHS], figures.trials * 0.99, figures)

    def test_it_is_the_region_behind_the_crowd_that_helps(self) -> None:
        without = self.measure(Plan(0.2, regions=False), 10 * LARGER)
        self.assertEqual(without.found[SAFE_PATHS], 0)

    def test_paths_help_against_those_that_come_later(self) -> None:
        without = self.measure(Plan(0.2, regions=False, before=True))
        self.assertLess(without.found[1], TRIALS * 0.9)
        self.assertGreaterEqual(without.found[SAFE_PATHS], TRIALS * 0.95)

    def test_a_record_is_not_hidden_for_hours(self) -> None:
        for hushed in (False, True):
            figures = measure_eclipse(400 * LARGER, 0.2, K, 1, 3, hushed=hushed)
            self.show(figures)
            for _, many in figures.found:
                self.assertEqual(many, figures.records, figures)


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

    def test_a_flood_of_stores_is_held_to_the_limits(self) -> None:
        now = 1_800_000_000_000
        holdings = Holdings(contact(0).id, NETWORK, Kinds(), Random(1))
        quota = holdings.quota
        authors = [Identity(n.to_bytes(32, "big")) for n in range(1, 61)]

        def seal(author: Identity, topic: str) -> Record:
            key = topic_key(topic)
            return Record.seal(
                author, NETWORK, "topic", key, b"", sequence=now, expires=now + LIFETIME
            )

        elder = seal(authors[0], "of somebody known")
        holdings.store(elder.raw, now, elder.owner, [elder.owner])
        for n in range(2 * quota.records + 5_000):
            record = seal(authors[1 + n % 59], str(n))
            # Verified on a thread, as those of a node are.
            holdings.store(record.raw, now + n, contact(1).key, opened=record)
        self.assertEqual(len(holdings), quota.records)
        self.assertLessEqual(holdings.size, quota.size)
        self.assertEqual(holdings.floors, MAX_FLOORS)
        self.assertLessEqual(holdings._expiry.waste, len(holdings) + 65)
        self.assertLessEqual(holdings._republishing.waste, len(holdings) + 65)
        self.assertEqual(holdings.find("topic", elder.key, now).records, (elder.raw,))
