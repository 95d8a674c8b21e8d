"""
How often a peer is caught that has lost some leaves of a share, and has kept all hashes: as often
as was computed, wherever the holes are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import comb, sqrt
from random import Random

import pytest
from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit.challenge import Challenge, chance_to_catch

TRIALS = 10_000
#: Of a share of 100 MiB.
LEAVES = 25_600

Holes = Callable[[Random, int], Sequence[int]]


def scattered(rng: Random, lost: int) -> Sequence[int]:
    """As a disk loses them."""
    return rng.sample(range(LEAVES), lost)


def at_the_end(rng: Random, lost: int) -> Sequence[int]:
    """As a peer does that wants to keep less."""
    return range(LEAVES - lost, LEAVES)


def evenly(rng: Random, lost: int) -> Sequence[int]:
    """One in so many."""
    return range(rng.randrange(LEAVES // lost), LEAVES, LEAVES // lost)[:lost]


def exact_chance(leaves: int, lost: int) -> float:
    """@return: that one of four different leaves is one of those that are lost."""
    return 1 - comb(leaves - lost, 4) / comb(leaves, 4)


def bounds(trials: int, chance: float) -> tuple[float, float]:
    """
    @return: between which two numbers there are as many hits as there may be, but for one series of
        trials in sixteen thousand.
    """
    spread = 4 * sqrt(trials * chance * (1 - chance))
    return trials * chance - spread, trials * chance + spread


class Trials(SynchronousTestCase):
    @pytest.fixture(autouse=True)
    def _properties(self, record_property: Callable[[str, object], None]) -> None:
        self.record = record_property

    def caught(self, part: float, holes: Holes) -> int:
        rng = Random(f"{part}, {holes.__name__}")
        lost = round(part * LEAVES)
        found = 0
        for trial in range(TRIALS):
            if trial % 500 == 0:
                gone = frozenset(holes(rng, lost))
                self.assertEqual(len(gone), lost)
            # The holes are where they are before anybody knows the seed.
            challenge = Challenge(rng.randbytes(32), rng.randbytes(32))
            found += not gone.isdisjoint(challenge.leaves(rng.randbytes(32), LEAVES))
        return found

    def judge(self, part: float) -> None:
        chance = exact_chance(LEAVES, round(part * LEAVES))
        # What is documented is about shares that are large.
        self.assertAlmostEqual(chance, chance_to_catch(part), places=4)
        low, high = bounds(TRIALS, chance)
        for holes in (scattered, at_the_end, evenly):
            found = self.caught(part, holes)
            self.record(
                "figures",
                f"{part:.0%} of the leaves lost, {holes.__name__}: caught {found:,} times of "
                f"{TRIALS:,}, computed {TRIALS * chance:,.1f} ({low:,.0f} to {high:,.0f})",
            )
            self.assertTrue(low <= found <= high, f"{holes.__name__}: {found}, {low} to {high}")

    def test_one_that_kept_99_percent_is_caught_with_the_computed_chance(self) -> None:
        self.judge(0.01)

    def test_one_that_kept_95_percent_is_caught_with_the_computed_chance(self) -> None:
        self.judge(0.05)

    def test_one_that_kept_half_is_caught_with_the_computed_chance(self) -> None:
        self.judge(0.5)
