"""
Ten thousand audits, over the wire, of shares of which a peer has all hashes and not all leaves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

import pytest
from attrs import define
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit.factory import AuditLimits
from meshkit.crypto.samples import Samples, digest_of, leaf_count
from tests.audit.audits import World
from tests.audit.test_trials import bounds, exact_chance

TRIALS: Final = 10_240
OBJECTS: Final = 16
#: Bytes of an object whose shares have a hundred leaves.
LENGTH: Final = 2_450_000

LIMITS: Final = AuditLimits(
    audits_per_second=10**6,
    audits_burst=10**6,
    shares_per_second=10**6,
    shares_burst=10**6,
    remembered=10**6,
)


@define(eq=False)
class Holed:
    """
    What looks at shares, for a peer that has lost some of their leaves, and makes up something in
    their place.  All it signs fits what it shows.

    @ivar honest: has all of it.
    @ivar lost: numbers of leaves, the same ones of each share.
    """

    honest: Any
    lost: frozenset[int] = frozenset()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.honest, name)

    def leaves(self, wanted: Sequence[tuple[bytes, Sequence[int]]]) -> Deferred[list[Any]]:
        found: Deferred[list[Any]] = self.honest.leaves(wanted)

        def make_up(all_of_them: list[Any]) -> list[Any]:
            return [
                self._made_up(name, numbers, each)
                for (name, numbers), each in zip(wanted, all_of_them, strict=True)
            ]

        return found.addCallback(make_up)

    def _made_up(self, name: bytes, numbers: Sequence[int], true: Samples) -> Samples:
        shown = [
            bytes(4_096) + sample[4_096:] if number in self.lost else sample
            for number, sample in zip(numbers, true.samples, strict=True)
        ]
        size = self.honest._index.get(name).note.size
        return Samples(digest_of(size, numbers, shown), shown)


class Ten(SynchronousTestCase):
    @pytest.fixture(autouse=True)
    def _properties(self, record_property: Callable[[str, object], None]) -> None:
        self.record = record_property

    def test_a_peer_with_holes_is_caught_with_the_computed_chance(self) -> None:
        world = World(limits=LIMITS)
        holed = Holed(world.keeping.keeper.sampler)
        world.factory.stop()
        world.factory = world.make_factory(sampler=holed)
        asked = world.objects(OBJECTS, LENGTH)
        leaves = leaf_count(asked[0].size)
        rng = Random("holes")
        for part in (0.01, 0.05, 0.5):
            lost = round(part * leaves)
            outcomes: Counter[str] = Counter()
            while outcomes.total() < TRIALS:
                holed.lost = frozenset(rng.sample(range(leaves - 1), lost))
                outcomes.update(world.outcomes(asked))
                world.receipts.clear()
            chance = exact_chance(leaves, lost)
            low, high = bounds(TRIALS, chance)
            self.record(
                "figures",
                f"over the wire, {lost} of {leaves} leaves lost: caught "
                f"{outcomes['failure']:,} times of {TRIALS:,}, computed {TRIALS * chance:,.1f} "
                f"({low:,.0f} to {high:,.0f})",
            )
            self.assertEqual(set(outcomes), {"success", "failure"})
            self.assertEqual(outcomes.total(), TRIALS)
            self.assertTrue(low <= outcomes["failure"] <= high, outcomes)
