"""What is thought of a peer, by what its audits came to."""

from __future__ import annotations

from itertools import permutations
from math import isclose
from random import Random

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit.standing import (
    MAX_PROBLEM,
    Beta,
    Results,
    Rule,
    Standing,
    StandingConfig,
    Window,
    judge,
    recorded,
    results_of,
)
from meshkit.audit.values import Outcome, ShareOutcome
from meshkit.storage.custody import FULL_WEIGHT, Judgement
from meshkit.testing.identities import make_identity

NOW = 1_800_000_000
HOUR = 3_600
DAY = 24 * HOUR
CONFIG = StandingConfig()
HERON = make_identity(1).public
EGRET = make_identity(2).public

counts = st.integers(0, 2_000)
factors = st.floats(0.5, 0.9999)
betas = st.builds(Beta, st.floats(0.0, 1e4), st.floats(0.0, 1e4).map(lambda bad: bad + 1e-6))
results = st.builds(
    Results,
    successes=st.integers(0, 30),
    failures=st.integers(0, 30),
    unknowns=st.integers(0, 30),
    contained=st.integers(0, 3),
    offlines=st.integers(0, 30),
)
#: What is recorded, and how many seconds after the last: the clock may be set back.
histories = st.lists(st.tuples(results, st.integers(-3 * DAY, 40 * DAY)), max_size=12)


def outcome(of: Outcome, peer: object = HERON, reason: str | None = None) -> ShareOutcome:
    return ShareOutcome(peer, b"c" * 32, 0, of, reason)  # type: ignore[arg-type]


def after(
    *history: Results, standing: Standing | None = None, now: int = NOW, every: int = 0
) -> Standing:
    for each in history:
        standing = recorded(standing, each, now, CONFIG)
        now += every
    assert standing is not None
    return standing


def good_standing(now: int = NOW) -> Standing:
    """@return: of a peer that was audited every day for a month, and has never failed."""
    return after(*30 * [Results(successes=20)], now=now - 30 * DAY, every=DAY)


class BetaTests(SynchronousTestCase):
    @given(betas, factors, counts, counts)
    def test_a_score_is_between_0_and_1(
        self, beta: Beta, forgetting: float, good: int, bad: int
    ) -> None:
        changed = beta.after(forgetting, good, bad)
        self.assertGreaterEqual(changed.score, 0)
        self.assertLessEqual(changed.score, 1)

    @given(betas, factors, st.integers(0, 200), st.booleans())
    def test_many_results_of_one_kind_are_as_one_after_the_other(
        self, beta: Beta, forgetting: float, count: int, is_good: bool
    ) -> None:
        wanted = beta
        for _ in range(count):
            wanted = Beta(
                forgetting * wanted.good + is_good, forgetting * wanted.bad + (not is_good)
            )
        found = beta.after(forgetting, count * is_good, count * (not is_good))
        self.assertTrue(isclose(found.good, wanted.good, rel_tol=1e-6, abs_tol=1e-9))
        self.assertTrue(isclose(found.bad, wanted.bad, rel_tol=1e-6, abs_tol=1e-9))

    def test_of_results_of_both_kinds_it_is_the_mean_of_all_orders(self) -> None:
        beta, found = Beta(20.0, 3.0), []
        for order in permutations([1, 1, 1, 0, 0]):
            each = beta
            for good in order:
                each = Beta(0.9 * each.good + good, 0.9 * each.bad + 1 - good)
            found.append(each)
        mean = beta.after(0.9, 3, 2)
        self.assertAlmostEqual(mean.good, sum(each.good for each in found) / len(found))
        self.assertAlmostEqual(mean.bad, sum(each.bad for each in found) / len(found))
        self.assertLess(min(each.score for each in found), mean.score)

    @given(betas, factors, counts, counts)
    def test_it_is_between_the_order_that_is_kindest_and_the_one_that_is_worst(
        self, beta: Beta, forgetting: float, good: int, bad: int
    ) -> None:
        kindest = beta.after(forgetting, 0, bad).after(forgetting, good, 0).score
        worst = beta.after(forgetting, good, 0).after(forgetting, 0, bad).score
        found = beta.after(forgetting, good, bad).score
        self.assertTrue(worst - 1e-9 <= found <= kindest + 1e-9)

    @given(betas, factors, counts, counts)
    def test_a_good_result_never_lowers_a_score_and_a_bad_one_never_raises_it(
        self, beta: Beta, forgetting: float, good: int, bad: int
    ) -> None:
        self.assertGreaterEqual(beta.after(forgetting, good, 0).score, beta.score - 1e-12)
        self.assertLessEqual(beta.after(forgetting, 0, bad).score, beta.score + 1e-12)

    @given(betas, st.floats(0, 1), st.floats(0, 1), st.floats(1, 1e4))
    def test_what_fades_more_is_held_against_a_peer_less(
        self, beta: Beta, one: float, other: float, start: float
    ) -> None:
        less, more = sorted([one, other])
        self.assertGreaterEqual(
            beta.faded(less, start).score, beta.faded(more, start).score - 1e-12
        )
        self.assertEqual(beta.faded(1.0, start), Beta(start + (beta.good - start), beta.bad))
        self.assertEqual(beta.faded(0.0, start).score, 1)

    @given(betas, st.integers(0, 100 * DAY), st.integers(0, 100 * DAY))
    def test_fading_twice_is_fading_for_as_long_as_both(
        self, beta: Beta, first: int, then: int
    ) -> None:
        rule = CONFIG.audits
        twice = rule.faded(rule.faded(beta, first), then)
        once = rule.faded(beta, first + then)
        self.assertTrue(isclose(twice.score, once.score, rel_tol=1e-6, abs_tol=1e-9))


rules = st.builds(
    Rule,
    forgetting=st.floats(0.8, 0.999),
    start=st.floats(1, 500),
    refuse_at=st.floats(0.3, 0.99),
    fade_days=st.floats(0.5, 90),
)


class RuleTests(SynchronousTestCase):
    """What the parameters mean in audits is what happens to a peer that is so audited."""

    @given(rules)
    def test_a_run_of_bad_results_refuses_a_peer_and_one_less_does_not(self, rule: Rule) -> None:
        for beta in (rule.new, rule.proven):
            run = rule.refusing_run(beta)
            self.assertGreater(rule.after(beta, 0, run - 1).score, rule.refuse_at)
            self.assertLessEqual(rule.after(beta, 0, run).score, rule.refuse_at)

    @given(rules, st.integers(1, 500))
    def test_a_run_of_good_ones_brings_it_back_and_so_does_time(
        self, rule: Rule, more: int
    ) -> None:
        beta = rule.after(rule.proven, 0, rule.refusing_run(rule.proven) + more)
        run, days = rule.returning_run(beta), rule.returning_days(beta)
        self.assertLess(rule.after(beta, run - 1, 0).score, rule.readmit_at)
        self.assertGreaterEqual(rule.after(beta, run, 0).score, rule.readmit_at)
        self.assertLess(rule.faded(beta, (days - 1) * DAY).score, rule.readmit_at)
        self.assertGreaterEqual(rule.faded(beta, days * DAY).score, rule.readmit_at)

    @given(rules, st.floats(0.5, 0.99))
    def test_a_rate_that_is_tolerated_is_so_for_ever(self, rule: Rule, part: float) -> None:
        # Bad results in part, evenly: as if each were that much of a bad one.
        rate = rule.tolerated * part
        beta = rule.proven
        for _ in range(2_000):
            beta = Beta(rule.forgetting * beta.good + 1 - rate, rule.forgetting * beta.bad + rate)
        self.assertGreater(beta.score, rule.refuse_at)
        self.assertIsNone(rule.refusing_results(rate))

    @given(rules, st.floats(1.05, 3))
    def test_a_higher_one_refuses_a_peer_when_it_was_said_to(
        self, rule: Rule, times: float
    ) -> None:
        rate = min(1.0, rule.tolerated * times)
        if rate <= rule.tolerated * 1.01:
            return
        wanted = rule.refusing_results(rate)
        beta, steps = rule.proven, 0
        while beta.score > rule.refuse_at:
            steps += 1
            beta = Beta(rule.forgetting * beta.good + 1 - rate, rule.forgetting * beta.bad + rate)
        assert wanted is not None
        self.assertLessEqual(abs(steps - wanted), 1)

    def test_the_chance_of_being_refused_is_what_is_seen(self) -> None:
        rule, rng = CONFIG.audits, Random(5)
        for rate, results in ((0.02, 600), (0.03, 300), (0.05, 200)):
            refused = 0
            for _ in range(200):
                bad = 0.0
                for _ in range(results):
                    bad = rule.forgetting * bad + (rng.random() < rate)
                    if 1 - bad / rule.memory <= rule.refuse_at:
                        refused += 1
                        break
            # Three times the deviation of what is seen.
            chance = rule.refusing_chance(rate, results)
            self.assertLess(abs(chance - refused / 200), 3 * (chance * (1 - chance) / 200) ** 0.5)
        self.assertEqual(rule.refusing_chance(0.0, 500), 0)
        self.assertAlmostEqual(rule.refusing_chance(1.0, 5), 0)
        self.assertAlmostEqual(rule.refusing_chance(1.0, 6), 1)

    @given(rules, st.floats(0, 1), st.integers(0, 60))
    @settings(max_examples=20)
    def test_it_is_a_chance_and_does_not_fall(self, rule: Rule, rate: float, more: int) -> None:
        sooner, later = rule.refusing_chance(rate, 20), rule.refusing_chance(rate, 20 + more)
        self.assertTrue(0 <= sooner <= later + 1e-9 <= 1 + 2e-9)

    def test_a_result_counts_for_half_after_so_many_others(self) -> None:
        rule = CONFIG.audits
        self.assertLessEqual(rule.forgetting**rule.half_forgotten, 0.5)
        self.assertGreater(rule.forgetting ** (rule.half_forgotten - 1), 0.5)
        self.assertAlmostEqual(rule.memory, 100)

    def test_six_failures_in_a_row_are_what_refuses_a_peer_as_we_come(self) -> None:
        self.assertEqual(CONFIG.audits.refusing_run(CONFIG.audits.proven), 6)
        self.assertEqual(CONFIG.audits.refusing_run(CONFIG.audits.new), 6)
        self.assertEqual(CONFIG.answers.refusing_run(CONFIG.answers.proven), 10)
        self.assertAlmostEqual(CONFIG.audits.tolerated, 0.05)
        self.assertLess(CONFIG.answers.memory, CONFIG.audits.memory)

    def test_parameters_that_make_no_sense_are_refused_by_name(self) -> None:
        for name, value in (
            ("forgetting", 1.0),
            ("forgetting", 0.0),
            ("start", 0.0),
            ("refuse_at", 1.0),
            ("fade_days", 0.0),
            ("unknown_refuse_at", 0.0),
            ("window_hours", 0),
            ("window_days", 91),
            ("online_refuse_at", 1.5),
            ("online_grace_days", -1),
            ("vetting_weight", 0),
            ("vetting_weight", FULL_WEIGHT + 1),
        ):
            with self.subTest(name), self.assertRaisesRegex(ValueError, name):
                StandingConfig(**{name: value})  # type: ignore[arg-type]


class RecordedTests(SynchronousTestCase):
    @given(histories)
    def test_whatever_happens_scores_weights_and_windows_keep_their_bounds(
        self, history: list[tuple[Results, int]]
    ) -> None:
        standing, now = None, NOW
        for found, seconds in history:
            now = max(0, now + seconds)
            standing = recorded(standing, found, now, CONFIG)
            self.assertTrue(0 <= standing.audits.score <= 1)
            self.assertTrue(0 <= standing.answers.score <= 1)
            numbers = [each.number for each in standing.windows]
            self.assertEqual(numbers, sorted(set(numbers)))
            self.assertLessEqual(len(numbers), CONFIG.windows + 1)
            self.assertTrue(all(n <= CONFIG.window_at(now) for n in numbers))
            self.assertTrue(all(0 <= w.online <= w.total for w in standing.windows))
            online = standing.online(now, CONFIG)
            self.assertTrue(online is None or 0 <= online <= 1)
            judgement = judge(standing, now, CONFIG)
            self.assertEqual(judgement.weight == 0, judgement.refused is not None)
            self.assertTrue(0 <= judgement.weight <= FULL_WEIGHT)

    @given(histories, st.integers(1, 10_000), st.integers(-DAY, 40 * DAY))
    def test_that_a_peer_is_not_there_never_lowers_the_score_of_its_audits(
        self, history: list[tuple[Results, int]], offlines: int, later: int
    ) -> None:
        now = NOW
        standing = recorded(None, Results(), now, CONFIG)
        for found, seconds in history:
            now = max(0, now + seconds)
            standing = recorded(standing, found, now, CONFIG)
        away = recorded(standing, Results(offlines=offlines), max(0, now + later), CONFIG)
        self.assertGreaterEqual(away.audits.score, standing.audits.score - 1e-12)
        self.assertGreaterEqual(away.answers.score, standing.answers.score - 1e-12)
        self.assertTrue(away.failing is None or standing.failing is not None)

    def test_who_loses_a_fifth_of_what_it_has_is_refused_however_much_it_has(self) -> None:
        for count in (50, 500, 5_000, 50_000):
            standing = after(Results(successes=count * 4 // 5, failures=count // 5))
            self.assertIsNotNone(judge(standing, NOW, CONFIG).refused, count)
        # One in a hundred is nothing that happens to no disk.
        standing = after(*10 * [Results(successes=4_950, failures=50)])
        self.assertIsNone(judge(standing, NOW, CONFIG).refused)

    def test_a_refused_peer_comes_back_by_good_results_and_not_at_once(self) -> None:
        rule = CONFIG.audits
        standing = after(Results(failures=6), standing=good_standing())
        self.assertEqual(standing.failing, NOW)
        judgement = judge(standing, NOW, CONFIG)
        self.assertEqual(judgement.weight, 0)
        self.assertIn("too many of its audits failed", str(judgement.refused))
        run = rule.returning_run(standing.audits)
        for _ in range(run - 1):
            standing = after(Results(successes=1), standing=standing)
            self.assertIsNotNone(judge(standing, NOW, CONFIG).refused)
        standing = after(Results(successes=1), standing=standing)
        self.assertIsNone(judge(standing, NOW, CONFIG).refused)
        # It is vetted anew: neither its audits before nor its days count any more.
        self.assertEqual(judge(standing, NOW, CONFIG).weight, CONFIG.vetting_weight)

    def test_five_failures_do_not_refuse_it_and_make_it_weigh_less(self) -> None:
        standing = good_standing()
        weights = []
        for _ in range(5):
            weights.append(judge(standing, NOW, CONFIG).weight)
            standing = after(Results(failures=1), standing=standing)
        weights.append(judge(standing, NOW, CONFIG).weight)
        self.assertEqual(weights, [1000, 1000, 1000, 500, 250, 125])
        self.assertIsNone(judge(standing, NOW, CONFIG).refused)

    def test_what_is_held_against_a_refused_peer_fades_and_against_no_other(self) -> None:
        five = after(Results(failures=5), standing=good_standing())
        self.assertEqual(five.at(NOW + 300 * DAY, CONFIG).audits, five.audits)
        six = after(Results(failures=6), standing=good_standing())
        days = CONFIG.audits.returning_days(six.audits)
        self.assertIsNotNone(judge(six, NOW + (days - 1) * DAY, CONFIG).refused)
        back = judge(six, NOW + days * DAY, CONFIG)
        self.assertEqual(back, Judgement(CONFIG.vetting_weight))
        # Nobody needs to look in between.
        looked = six
        for day in range(days):
            looked = looked.at(NOW + day * DAY, CONFIG)
            looked = evolve(looked, updated=NOW + day * DAY)
        self.assertIsNotNone(judge(looked, NOW + (days - 1) * DAY, CONFIG).refused)
        self.assertIsNone(judge(looked, NOW + days * DAY, CONFIG).refused)

    def test_nothing_fades_while_the_clock_is_behind(self) -> None:
        six = after(Results(failures=6), standing=good_standing())
        self.assertEqual(six.at(NOW - 90 * DAY, CONFIG).audits, six.audits)
        back = after(Results(), standing=six, now=NOW - 90 * DAY)
        self.assertEqual((back.audits, back.updated), (six.audits, NOW - 90 * DAY))

    def test_who_came_back_by_time_and_fails_again_is_refused_by_fewer(self) -> None:
        six = after(Results(failures=6), standing=good_standing())
        now = NOW + CONFIG.audits.returning_days(six.audits) * DAY
        once = after(Results(failures=1), standing=six, now=now)
        self.assertIsNone(once.failing)
        run = 1
        while once.failing is None:
            once = after(Results(failures=1), standing=once, now=now)
            run += 1
        self.assertEqual((run, once.failing), (3, now))

    def test_a_lost_disk_is_forgotten_later_than_six_failures(self) -> None:
        rule = CONFIG.audits
        lost = after(Results(failures=1_000), standing=good_standing())
        six = after(Results(failures=6), standing=good_standing())
        self.assertGreater(rule.returning_days(lost.audits), rule.returning_days(six.audits))

    def test_answers_that_say_nothing_refuse_a_peer_for_a_shorter_time(self) -> None:
        standing = good_standing()
        nine = after(Results(unknowns=9), standing=standing)
        self.assertEqual(judge(nine, NOW, CONFIG).weight, 1000)
        ten = after(Results(unknowns=10), standing=standing)
        self.assertIn("say nothing", str(judge(ten, NOW, CONFIG).refused))
        # They are no failures and failures are none of them, and what was vetted stays so.
        self.assertEqual(after(Results(failures=9), standing=standing).answers, standing.answers)
        self.assertEqual((ten.audits, ten.vetted), (standing.audits, standing.vetted))
        days = CONFIG.answers.returning_days(ten.answers)
        self.assertLess(days, 7)
        self.assertEqual(judge(ten, NOW + days * DAY, CONFIG).weight, 1000)
        run = CONFIG.answers.returning_run(ten.answers)
        back = after(Results(successes=run), standing=ten)
        self.assertEqual(judge(back, NOW, CONFIG).weight, 1000)

    def test_the_results_of_one_call_are_one_step(self) -> None:
        # Six failures in a row would have refused it, and it is not known that they were.
        mixed = after(Results(failures=6, successes=80), standing=good_standing())
        self.assertIsNone(mixed.failing)

    def test_all_results_are_counted_for_ever(self) -> None:
        standing = after(
            Results(successes=3, failures=1, problem="it has it no more"),
            Results(unknowns=2, offlines=4),
            Results(contained=1),
            every=HOUR,
        )
        self.assertEqual(
            (standing.successes, standing.failures, standing.unknowns, standing.offlines),
            (3, 1, 2, 4),
        )
        self.assertEqual((standing.last_success, standing.last_failure), (NOW, NOW))
        self.assertEqual((standing.since, standing.updated), (NOW, NOW + 2 * HOUR))
        self.assertEqual(standing.problem, "it has it no more")

    def test_a_peer_that_is_forgiven_is_new_and_what_it_did_is_not_forgotten(self) -> None:
        bad = after(Results(failures=900, unknowns=50), standing=good_standing())
        new = bad.forgiven(NOW + 5, CONFIG)
        self.assertEqual(judge(new, NOW + 5, CONFIG), judge(None, NOW + 5, CONFIG))
        self.assertEqual(new.audits, CONFIG.audits.new)
        self.assertEqual((new.failures, new.unknowns), (900, 50))

    def test_outcomes_are_counted_by_peer(self) -> None:
        found = results_of(
            [
                outcome("success"),
                outcome("failure", EGRET, "it has " + "nothing " * 99),
                outcome("contained", EGRET, "later"),
                outcome("offline"),
                outcome("unknown", reason="its disk is busy"),
                outcome("success"),
            ]
        )
        self.assertEqual(list(found), [HERON, EGRET])
        self.assertEqual(
            found[HERON],
            Results(successes=2, unknowns=1, offlines=1, problem="its disk is busy"),
        )
        self.assertEqual((found[EGRET].failures, found[EGRET].contained), (1, 1))
        self.assertEqual(len(found[EGRET].problem or ""), MAX_PROBLEM)
        self.assertEqual(found[EGRET].online, 2)

    def test_what_a_peer_had_not_promised_to_keep_any_more_is_not_held_against_it(self) -> None:
        gone = [evolve(outcome("failure"), blameless=True) for _ in range(50)]
        found = results_of(gone)[HERON]
        self.assertEqual((found.failures, found.blameless, found.online), (0, 50, 50))
        before = good_standing()
        standing = after(found, standing=before)
        self.assertEqual((standing.audits, standing.answers), (before.audits, before.answers))
        self.assertEqual(standing.failures, 0)


class VettingTests(SynchronousTestCase):
    def test_a_new_peer_weighs_less_until_it_has_audits_and_days_enough(self) -> None:
        self.assertEqual(judge(None, NOW, CONFIG), Judgement(CONFIG.vetting_weight))
        audits, days = CONFIG.vetting_audits, CONFIG.vetting_days
        quick = after(Results(successes=audits))
        self.assertEqual(judge(quick, NOW + days * DAY - 1, CONFIG).weight, 250)
        self.assertEqual(judge(quick, NOW + days * DAY, CONFIG).weight, 1000)
        slow = after(Results(successes=audits - 1))
        self.assertEqual(judge(slow, NOW + 99 * DAY, CONFIG).weight, 250)

    def test_failures_do_not_vet_a_peer(self) -> None:
        one = after(*20 * [Results(successes=2, failures=0), Results(offlines=5)])
        self.assertEqual(one.vetted, 40)

    def test_it_can_be_left_out(self) -> None:
        trusting = StandingConfig(vetting_audits=0, vetting_days=0)
        self.assertEqual(judge(None, NOW, trusting), Judgement(FULL_WEIGHT))

    def test_a_clock_that_was_ahead_does_not_keep_a_peer_waiting(self) -> None:
        ahead = recorded(None, Results(successes=60), NOW + 400 * DAY, CONFIG)
        back = recorded(ahead, Results(successes=1), NOW, CONFIG)
        self.assertEqual(judge(back, NOW + 7 * DAY, CONFIG).weight, 1000)


class WindowTests(SynchronousTestCase):
    def test_each_window_counts_as_much_as_any_other(self) -> None:
        start = NOW - NOW % (12 * HOUR)
        standing = None
        for number in range(14):
            now = start + number * 12 * HOUR
            found = Results(successes=1_000) if number % 2 else Results(offlines=1)
            standing = recorded(standing, found, now, CONFIG)
        assert standing is not None
        end = start + 14 * 12 * HOUR
        self.assertEqual(standing.online(end, CONFIG), 0.5)
        self.assertIn("50% of the last 30 days", str(judge(standing, end, CONFIG).refused))

    def test_nobody_is_judged_before_there_are_windows_enough_that_have_ended(self) -> None:
        start = NOW - NOW % (12 * HOUR)
        standing = after(*14 * [Results(offlines=9)], now=start, every=12 * HOUR)
        last = start + 14 * 12 * HOUR - 1
        self.assertIsNone(standing.online(last, CONFIG))
        self.assertIsNone(judge(standing, last, CONFIG).refused)
        self.assertEqual(standing.online(last + 1, CONFIG), 0)
        self.assertIsNotNone(judge(standing, last + 1, CONFIG).refused)

    def test_what_was_a_month_ago_counts_no_more(self) -> None:
        start = NOW - NOW % (12 * HOUR)
        away = after(*60 * [Results(offlines=1)], now=start, every=12 * HOUR)
        end = start + 30 * DAY
        self.assertIsNotNone(judge(away, end, CONFIG).refused)
        # By itself: 14 windows are needed to judge, and they fall out one by one.
        self.assertIsNotNone(judge(away, end + 46 * 12 * HOUR, CONFIG).refused)
        self.assertIsNone(judge(away, end + 47 * 12 * HOUR, CONFIG).refused)
        self.assertIsNone(away.online(end + 47 * 12 * HOUR, CONFIG))
        # And by being there.
        back, now = away, end
        while judge(back, now, CONFIG).refused is not None:
            back = recorded(back, Results(successes=1), now, CONFIG)
            now += 12 * HOUR
        self.assertEqual((now - end) // (12 * HOUR), 37)

    def test_windows_of_a_clock_that_was_ahead_are_forgotten_when_it_is_set_back(self) -> None:
        start = NOW - NOW % (12 * HOUR)
        standing = after(*5 * [Results(successes=1)], now=start, every=12 * HOUR)
        now = start + 4 * 12 * HOUR
        ahead = recorded(standing, Results(offlines=1), now + 24 * HOUR, CONFIG)
        self.assertEqual(len(ahead.windows), 6)
        back = recorded(ahead, Results(successes=1), now + 1, CONFIG)
        number = CONFIG.window_at(now)
        self.assertEqual(back.windows, (*standing.windows[:-1], Window(number, 2, 2)))

    def test_that_it_is_not_there_counts_in_no_window_while_nobody_is(self) -> None:
        standing = after(Results(successes=1), Results(offlines=7, excused=True))
        self.assertEqual(standing.windows, (Window(CONFIG.window_at(NOW), 1, 1),))
        self.assertEqual((standing.offlines, standing.offline_since), (7, NOW))

    def test_it_is_known_since_when_a_peer_is_away(self) -> None:
        standing = after(Results(successes=1), Results(offlines=1), Results(offlines=1), every=HOUR)
        self.assertEqual(standing.offline_since, NOW + HOUR)
        # Who is reached for one of several shares is there.
        there = after(Results(offlines=3, contained=1), standing=standing)
        self.assertIsNone(there.offline_since)

    def test_a_grace_that_is_longer_than_what_is_remembered_ends_with_it(self) -> None:
        config = StandingConfig(window_days=2, online_grace_days=30)
        self.assertEqual((config.windows, config.grace_windows), (4, 4))
        self.assertEqual(StandingConfig(window_days=1, window_hours=168).windows, 1)
        self.assertEqual(StandingConfig(online_grace_days=0).grace_windows, 1)


class OwingTests(SynchronousTestCase):
    def test_who_owes_an_answer_gets_nothing_however_good_it_was(self) -> None:
        standing = good_standing()
        self.assertIsNone(judge(standing, NOW, CONFIG).refused)
        judgement = judge(standing, NOW, CONFIG, owes=1)
        self.assertEqual(judgement.weight, 0)
        self.assertIn("has not answered", str(judgement.refused))
        self.assertIsNotNone(judge(None, NOW, CONFIG, owes=1).refused)
