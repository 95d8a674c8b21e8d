"""Tests of L{meshkit.hooks.retries}."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.hooks.config import Hook
from meshkit.hooks.retries import Failed, fate, judge_status, longest_pause, next_pause

hooks = st.builds(
    Hook,
    name=st.just("a"),
    pause=st.floats(0.1, 3600),
    max_pause=st.floats(0.1, 86_400),
    max_attempts=st.integers(1, 1000),
    max_age=st.floats(1, 10**6),
)
OOPS = Failed("oops")


class Pauses(SynchronousTestCase):
    def test_they_double_up_to_a_limit(self) -> None:
        hook = Hook(name="a", pause=2.0, max_pause=60.0)
        self.assertEqual(
            [longest_pause(hook, failing) for failing in range(1, 9)],
            [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0],
        )

    @given(hooks, st.integers(1, 10**9), st.integers(), st.none() | st.floats(0, 10**9))
    def test_they_are_never_longer_than_allowed(
        self, hook: Hook, failing: int, seed: int, wanted: float | None
    ) -> None:
        pause = next_pause(hook, failing, Failed("x", retry_after=wanted), Random(seed))
        self.assertGreaterEqual(pause, min(hook.max_pause, wanted or 0.0))
        self.assertLessEqual(pause, hook.max_pause)
        if wanted is None:
            self.assertLessEqual(pause, longest_pause(hook, failing))

    @given(hooks, st.integers(1, 100))
    def test_more_failures_never_make_it_shorter(self, hook: Hook, failing: int) -> None:
        self.assertLessEqual(longest_pause(hook, failing), longest_pause(hook, failing + 1))

    def test_they_are_spread_over_the_whole_range(self) -> None:
        hook = Hook(name="a", pause=100.0)
        rng = Random(1)
        drawn = sorted(next_pause(hook, 1, OOPS, rng) for _ in range(1000))
        self.assertLess(drawn[0], 2)
        self.assertGreater(drawn[-1], 98)
        self.assertTrue(45 < drawn[500] < 55, drawn[500])


class Fates(SynchronousTestCase):
    @given(hooks, st.integers(1, 2000), st.floats(0, 10**7))
    def test_a_message_is_given_up_once_and_not_before(
        self, hook: Hook, attempts: int, age: float
    ) -> None:
        over = attempts >= hook.max_attempts or age >= hook.max_age
        self.assertEqual(fate(hook, OOPS, attempts, age), "park" if over else "again")

    @given(hooks)
    def test_what_is_refused_for_good_is_given_up_at_once(self, hook: Hook) -> None:
        self.assertEqual(fate(hook, Failed("no", final=True), 1, 0.0), "park")


class Statuses(SynchronousTestCase):
    def test_only_a_two_hundred_takes_a_message(self) -> None:
        for status in range(100, 1000):
            taken = judge_status(status) is None
            self.assertEqual(taken, 200 <= status < 300, status)

    def test_only_what_is_about_the_message_is_final(self) -> None:
        final = [
            status
            for status in range(100, 600)
            if (failed := judge_status(status)) is not None and failed.final
        ]
        self.assertEqual(final, [400, 413, 415, 422])

    def test_a_redirect_says_what_to_mend(self) -> None:
        for status in (301, 302, 303, 307, 308):
            failed = judge_status(status)
            assert failed is not None
            self.assertIn("redirect", failed.error)

    def test_the_wish_to_be_left_alone_is_read(self) -> None:
        for text, seconds in (
            ("120", 120.0),
            (" 7 ", 7.0),
            ("9" * 50, 999_999_999.0),
            ("-1", None),
            ("1.5", None),
            ("\u0661", None),
            ("Fri, 31 Dec 1999 23:59:59 GMT", None),
            ("", None),
            (None, None),
        ):
            failed = judge_status(503, text)
            assert failed is not None
            self.assertEqual(failed.retry_after, seconds, text)
