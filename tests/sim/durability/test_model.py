"""The model agrees with what others have computed by hand, and with itself."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.sim.durability.model import MAX_PHASES, StorageModel, forecast, phases_for

RATES = st.fractions(Fraction(1, 1000), 1)


def model(required: int, total: int, rate: Any, delay: Any, **more: Any) -> StorageModel[Any]:
    more.setdefault("threshold", total)
    return StorageModel(required, total, loss_rate=rate, delay=delay, **more)


def mean(found: StorageModel[Any]) -> Any:
    return found.chain.until_end()[0]


class ClosedFormTests(SynchronousTestCase):
    @given(RATES, st.integers(1, 5), st.integers(1, 4))
    def test_without_repair_shares_go_one_after_the_other(
        self, rate: Fraction, required: int, more: int
    ) -> None:
        total = required + more
        expected = sum(1 / (i * rate) for i in range(required, total + 1))
        self.assertEqual(mean(model(required, total, rate, None)), expected)

    @given(RATES, RATES)
    def test_a_mirror(self, loss: Fraction, repair: Fraction) -> None:
        # Patterson, Gibson and Katz, 1988, without their approximation.
        expected = (3 * loss + repair) / (2 * loss**2)
        self.assertEqual(mean(model(1, 2, loss, 1 / repair)), expected)

    @given(RATES, RATES, st.integers(3, 12))
    def test_one_share_to_spare(self, loss: Fraction, repair: Fraction, n: int) -> None:
        # RAID 5, likewise.
        expected = ((2 * n - 1) * loss + repair) / (n * (n - 1) * loss**2)
        self.assertEqual(mean(model(n - 1, n, loss, 1 / repair)), expected)

    @given(RATES, RATES, st.integers(3, 12))
    def test_two_shares_to_spare_and_all_repaired_at_once(
        self, loss: Fraction, repair: Fraction, n: int
    ) -> None:
        # By first-step analysis: from n, n-1 and n-2 shares.
        a, b, c = n * loss, (n - 1) * loss, (n - 2) * loss
        # The chance to be lost before a repair, once a share is gone, and the time until one of
        # both.
        lost = b / (b + repair) * c / (c + repair)
        taken = 1 / a + 1 / (b + repair) + b / (b + repair) / (c + repair)
        self.assertEqual(mean(model(n - 2, n, loss, 1 / repair)), taken / lost)

    @given(RATES, RATES, st.integers(1, 6))
    def test_a_mirror_with_phases(self, loss: Fraction, repair: Fraction, phases: int) -> None:
        # Laplace transform of an Erlang variable: that no share is lost while it lasts.
        safe = (phases * repair / (phases * repair + loss)) ** phases
        expected = (1 / (2 * loss) + (1 - safe) / loss) / (1 - safe)
        self.assertEqual(mean(model(1, 2, loss, 1 / repair, phases=phases)), expected)

    @given(RATES, RATES)
    def test_lazy_repair_waits_until_the_threshold(self, loss: Fraction, repair: Fraction) -> None:
        # 1 of 4, repaired below 2: three are lost before anything is done.
        before = 1 / (4 * loss) + 1 / (3 * loss) + 1 / (2 * loss)
        lost = loss / (loss + repair)
        expected = (before + 1 / (loss + repair)) / lost
        found = model(1, 4, loss, 1 / repair, threshold=2)
        time, repairs, rebuilt, moved = found.chain.until_end("repairs", "rebuilt", "moved")
        self.assertEqual(time, expected)
        self.assertEqual(repairs, (1 - lost) / lost)
        self.assertEqual((rebuilt, moved), (3 * repairs, 4 * repairs))

    @given(RATES, RATES)
    def test_domains_that_are_fatal_end_it(self, loss: Fraction, domain: Fraction) -> None:
        # Two domains of two shares each, three are required: the first loss of a domain ends it,
        # and the second of a share.
        found = model(3, 4, loss, None, domains=(2, 2), domain_rate=domain)
        # With three left one domain has two of them: losing the other one is fatal as well.
        expected = 1 / (4 * loss + 2 * domain) * (1 + 4 * loss / (3 * loss + 2 * domain))
        self.assertEqual(mean(found), expected)

    @given(RATES)
    def test_domains_of_one_share_are_shares(self, rate: Fraction) -> None:
        both = model(2, 5, rate, Fraction(3), domains=(1,) * 5, domain_rate=rate, threshold=4)
        alone = model(2, 5, 2 * rate, Fraction(3), threshold=4)
        self.assertEqual(mean(both), mean(alone))


class ModelTests(SynchronousTestCase):
    def test_floats_lose_no_digits(self) -> None:
        for scheme in ((6, 9, 8), (3, 10, 7), (20, 40, 30)):
            required, total, threshold = scheme
            rate, delay = Fraction(1, 3 * 365 * 24), Fraction(16)
            exact = mean(model(required, total, rate, delay, threshold=threshold, phases=2))
            quick = mean(model(required, total, float(rate), 16.0, threshold=threshold, phases=2))
            self.assertLess(abs(Fraction(quick) / exact - 1), Fraction(1, 10**12), scheme)

    def test_more_phases_lose_less_and_never_less_than_half(self) -> None:
        # Two losses within a delay: an exponential one has twice the mean square of a fixed one.
        found = [
            forecast(model(6, 9, 1e-5, 16.0, threshold=8, phases=phases)).rate
            for phases in range(1, MAX_PHASES + 1)
        ]
        self.assertEqual(found, sorted(found, reverse=True))
        self.assertTrue(0.5 < found[-1] / found[0] < 0.6, found[-1] / found[0])

    def test_phases_fit_the_delay(self) -> None:
        self.assertEqual(phases_for(10.0, 100.0, 2), 1)
        self.assertEqual(phases_for(10.0, 20.0, 2), 5)
        self.assertEqual(phases_for(10.0, 0.0, 2), MAX_PHASES)
        self.assertEqual(phases_for(10.0, 0.0, 30), 2)
        self.assertEqual(phases_for(10.0, 500.0, 300), 1)

    def test_models_that_make_no_sense_are_refused(self) -> None:
        for more, said in (
            ({"threshold": 6}, "threshold of 6"),
            ({"threshold": 10}, "threshold of 10"),
            ({"phases": 0}, "phases, not 0"),
            ({"domains": (3, 3)}, "have 6 shares, not 9"),
        ):
            with self.subTest(said):
                self.assertRaisesRegex(ValueError, said, model, 6, 9, 1.0, 1.0, **more)
        self.assertRaisesRegex(ValueError, "7 of 6", model, 7, 6, 1.0, 1.0)
