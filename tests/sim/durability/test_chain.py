"""Chains are solved exactly, whatever their rates."""

from __future__ import annotations

from fractions import Fraction
from math import exp, expm1, factorial

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim.durability.chain import MAX_STATES, Chain, Step


class UntilEndTests(SynchronousTestCase):
    def test_a_row_of_steps_takes_the_sum_of_their_times(self) -> None:
        chain = Chain(
            {
                "a": [Step(Fraction(2), "b", {"moves": 1})],
                "b": [Step(Fraction(3), "c", {"moves": 1})],
                "c": [Step(Fraction(5), None, {"ends": 1})],
            }
        )
        expected = Fraction(1, 2) + Fraction(1, 3) + Fraction(1, 5)
        self.assertEqual(chain.until_end("moves", "ends"), (expected, 2, 1))

    @given(st.fractions(Fraction(1, 99), 99), st.fractions(Fraction(1, 99), 99))
    def test_the_gambler_who_has_one_and_wants_two(self, up: Fraction, down: Fraction) -> None:
        # From 1 up to 2, where the next step ends it, or down to 0 and back with rate 1.
        chain = Chain(
            {
                1: [Step(up, 2), Step(down, 0, {"ruined": 1})],
                0: [Step(Fraction(1), 1)],
                2: [Step(Fraction(1), None)],
            }
        )
        time, ruined = chain.until_end("ruined")
        # He goes down a geometrically distributed number of times, before he goes up.
        downs = down / up
        self.assertEqual(ruined, downs)
        self.assertEqual(time, (downs + 1) / (up + down) + downs + 1)

    def test_a_million_years_are_no_noise(self) -> None:
        # Where plain elimination has no digit left: (2m + l + ...) as of a mirror, 1e-12 : 1.
        rare, quick = Fraction(1, 10**12), Fraction(1)
        steps: dict[int, list[tuple[Fraction, int | None]]] = {
            2: [(2 * rare, 1)],
            1: [(quick, 2), (rare, None)],
        }
        exact = (3 * rare + quick) / (2 * rare * rare)
        (time,) = Chain(
            {state: [Step(rate, to) for rate, to in found] for state, found in steps.items()}
        ).until_end()
        self.assertEqual(time, exact)
        rounded = Chain(
            {state: [Step(float(rate), to) for rate, to in found] for state, found in steps.items()}
        )
        self.assertLess(abs(Fraction(rounded.until_end()[0]) / exact - 1), Fraction(1, 10**14))

    def test_what_never_ends_is_refused(self) -> None:
        around = {1: [Step(1.0, 2)], 2: [Step(1.0, 1)]}
        self.assertRaisesRegex(ValueError, "never ends", Chain(around).until_end)
        stuck: dict[int, list[Step[float]]] = {1: [Step(1.0, 2), Step(1.0, None)], 2: []}
        self.assertRaisesRegex(ValueError, "nothing leads out of 2", Chain(stuck).until_end)

    def test_chains_that_make_no_sense_are_refused(self) -> None:
        for steps, said in (
            ({1: [Step(1.0, 3)]}, "no state"),
            ({1: [Step(0.0, None)]}, "rate 0.0"),
            ({}, "0 states"),
            ({n: [Step(1.0, None)] for n in range(MAX_STATES + 1)}, f"{MAX_STATES + 1} states"),
        ):
            with self.subTest(said):
                self.assertRaisesRegex(ValueError, said, Chain, steps)


class ChanceTests(SynchronousTestCase):
    def test_one_step_ends_as_the_exponential_says(self) -> None:
        for rate in (1e-12, 0.3, 50.0):
            found = Chain({1: [Step(rate, None)]}).chance_of_end(2.0)
            self.assertAlmostEqual(found / -expm1(-rate * 2.0), 1.0, 9)

    def test_a_row_of_equal_steps_ends_as_erlang_says(self) -> None:
        chain = Chain({n: [Step(1.5, n + 1 if n < 3 else None)] for n in range(4)})
        for time in (0.01, 1.0, 7.0):
            x = 1.5 * time
            # At least four arrivals: those of fewer are left out, or where that loses digits the
            # others added up.
            wanted = exp(-x) * sum(x**n / factorial(n) for n in range(4, 80))
            self.assertAlmostEqual(chain.chance_of_end(time) / wanted, 1.0, 8)

    def test_where_the_end_is_rare_it_comes_at_its_mean_rate(self) -> None:
        # A mirror with a repair a million times faster than the loss; a long time.
        chain = Chain({2: [Step(2e-6, 1)], 1: [Step(1.0, 2), Step(1e-6, None)]})
        (mean,) = chain.until_end()
        found = chain.chance_of_end(mean / 1000)
        self.assertAlmostEqual(found / -expm1(-1 / 1000), 1.0, 5)

    def test_nothing_ends_in_no_time_or_where_there_is_no_end(self) -> None:
        self.assertEqual(Chain({1: [Step(1.0, None)]}).chance_of_end(0), 0.0)
        around: dict[int, list[Step[float]]] = {1: [Step(1.0, 2)], 2: [Step(1.0, 1)]}
        self.assertEqual(Chain(around).chance_of_end(100.0), 0.0)
        self.assertEqual(Chain({1: list[Step[float]]()}).chance_of_end(1.0), 0.0)
