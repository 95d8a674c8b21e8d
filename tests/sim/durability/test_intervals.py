"""Intervals are those of the tables, and hold the truth as often as they say."""

from __future__ import annotations

from math import exp, factorial
from random import Random

from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim.durability.intervals import gamma_below, gamma_quantile, rate_of

#: Of a Poisson variable that was n, 95 %: Garwood's table (Biometrika 28, 1936).
GARWOOD = {
    0: (0.0, 3.689),
    1: (0.0253, 5.572),
    2: (0.242, 7.225),
    5: (1.623, 11.668),
    10: (4.795, 18.390),
    20: (12.217, 30.888),
    50: (37.111, 65.919),
}


class IntervalTests(SynchronousTestCase):
    def test_single_losses_have_garwoods_interval(self) -> None:
        for count, (low, high) in GARWOOD.items():
            found = rate_of([1] * count, 10.0)
            self.assertAlmostEqual(found.value, count / 10)
            self.assertAlmostEqual(found.low * 10, low, 2)
            self.assertAlmostEqual(found.high * 10, high, 2)

    def test_losses_that_come_together_say_less(self) -> None:
        alone, together = rate_of([1] * 50, 1.0), rate_of([10] * 5, 1.0)
        self.assertEqual(alone.value, together.value)
        self.assertAlmostEqual(together.low, 10 * 1.623, 1)
        self.assertAlmostEqual(together.high, 10 * 11.668, 1)

    def test_of_a_whole_shape_it_is_the_sum_of_poisson(self) -> None:
        for shape in (1, 3, 20):
            for x in (0.1, 2.0, 19.0, 60.0):
                above = exp(-x) * sum(x**n / factorial(n) for n in range(shape))
                self.assertAlmostEqual(gamma_below(shape, x), 1 - above, 12)

    def test_a_quantile_is_the_inverse(self) -> None:
        for shape in (0.3, 1.0, 7.5, 400.0, 30_000.0):
            for chance in (0.025, 0.5, 0.975):
                found = gamma_below(shape, gamma_quantile(shape, chance))
                self.assertAlmostEqual(found, chance, 9)

    def test_it_holds_the_truth_as_often_as_it_says(self) -> None:
        rng = Random(7)
        held, rounds = 0, 400
        for _ in range(rounds):
            # Moments at rate 12, each with 1 to 4 losses: 30 on average.
            moments, at = [], rng.expovariate(12.0)
            while at < 1.0:
                moments.append(1 + int(rng.random() * 4))
                at += rng.expovariate(12.0)
            held += rate_of(moments, 1.0).holds(30.0)
        self.assertGreaterEqual(held / rounds, 0.94)

    def test_nothing_that_was_watched_has_no_rate(self) -> None:
        self.assertRaisesRegex(ValueError, "nothing was watched", rate_of, [1], 0.0)
