"""Tests of L{meshkit.discovery.exchange.health}."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.discovery.exchange.health import Health, Link, Rhythm
from meshkit.testing.identities import make_identity

ADA, BOB = (make_identity(name).public for name in ("ada", "bob"))


class HealthCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.health = Health(Rhythm())
        self.health.watch([ADA], 0.0)

    def link(self) -> Link:
        link = self.health.find(ADA)
        assert link is not None
        return link

    def due(self, now: float) -> list[str]:
        return [{ADA: "ada", BOB: "bob"}[link.key] for link in self.health.due(now)]


class Looking(HealthCase):
    def test_who_is_new_is_looked_at_within_seconds(self) -> None:
        self.health.watch([ADA, BOB], 0.0, lot=1.0)
        self.assertEqual(self.due(0.0), ["ada"])
        self.assertEqual(self.due(3.0), ["ada", "bob"])

    def test_who_answered_is_left_alone_until_it_was_idle_for_five_minutes(self) -> None:
        self.health.answered(ADA, 10.0)
        self.assertEqual(self.due(309.0), [])
        self.assertEqual(self.health.wait(self.link(), 109.0), 201.0)
        self.assertEqual(self.due(310.0), ["ada"])

    def test_who_is_heard_of_is_not_looked_at(self) -> None:
        self.health.answered(ADA, 10.0)
        self.health.heard(ADA, 300.0, 301.0)
        self.assertEqual(self.due(599.0), [])
        self.assertEqual(self.due(600.0), ["ada"])
        # What is older than what is known tells nothing.
        self.health.heard(ADA, 200.0, 602.0)
        self.assertEqual(self.due(602.0), ["ada"])

    def test_nobody_is_looked_at_twice_at_a_time(self) -> None:
        self.health.began(ADA)
        self.assertEqual(self.due(1.0), [])
        self.health.missed(ADA, 1.0, 0.0)
        self.assertEqual(self.due(61.0), ["ada"])

    def test_who_is_silent_is_looked_at_each_minute_and_suspect_after_three(self) -> None:
        self.health.answered(ADA, 0.0)
        looks, suspected = [], []
        now = 0.0
        while len(looks) < 7:
            now += 1
            for link in self.health.due(now):
                looks.append(now)
                self.health.began(link.key)
                if self.health.missed(link.key, now, 0.0):
                    suspected.append(now)
        self.assertEqual(looks[:3], [300, 360, 420])
        self.assertEqual(suspected, [420])
        self.assertTrue(self.health.suspect(self.link()))
        # Then later and later.
        self.assertEqual([b - a for a, b in pairwise(looks[2:])], [60, 120, 240, 480])

    def test_the_pause_has_an_end(self) -> None:
        for _ in range(200):
            self.health.missed(ADA, 0.0, 1.0)
        self.assertEqual(self.link().next_look, 3600.0 * 1.25)

    def test_a_suspect_that_answers_is_well_and_it_is_told_for_how_long_it_was_not(self) -> None:
        self.health.answered(ADA, 0.0)
        for now in (300.0, 360.0, 420.0):
            self.health.missed(ADA, now, 0.0)
        self.assertEqual(self.health.answered(ADA, 500.0), 200.0)
        self.assertFalse(self.health.suspect(self.link()))
        self.assertEqual(self.due(799.0), [])
        self.assertIsNone(self.health.answered(ADA, 600.0))

    def test_who_is_heard_of_and_never_answered_is_looked_at_and_not_blamed(self) -> None:
        self.health.heard(ADA, 1.0, 1.0)
        self.assertEqual(self.due(2.0), ["ada"])
        for now in range(2, 500, 60):
            self.health.heard(ADA, now - 1.0, float(now))
            self.assertFalse(self.health.missed(ADA, float(now), 0.0))
        self.assertEqual((self.link().missed, self.link().lost), (0, None))
        self.health.answered(ADA, 500.0)
        self.assertEqual(self.due(700.0), [])

    def test_who_does_not_know_what_is_asked_is_looked_at_each_hour(self) -> None:
        self.health.began(ADA)
        self.health.speechless(ADA, 5.0)
        self.assertEqual(self.due(3604.0), [])
        self.assertEqual(self.due(3605.0), ["ada"])
        self.assertIsNone(self.link().lost)


class Losing(HealthCase):
    def test_a_connection_that_is_lost_is_looked_at_now(self) -> None:
        self.health.answered(ADA, 10.0)
        self.health.dropped(ADA, 20.0)
        self.assertEqual(self.due(20.0), ["ada"])
        # Once: the next look has its pause.
        self.health.missed(ADA, 20.0, 0.0)
        self.health.dropped(ADA, 21.0)
        self.assertEqual(self.due(21.0), [])

    def test_what_was_heard_before_it_was_lost_does_not_bring_it_back(self) -> None:
        self.health.dropped(ADA, 20.0)
        self.assertIsNone(self.health.heard(ADA, 15.0, 21.0))
        self.assertIsNotNone(self.link().lost)
        self.assertEqual(self.health.heard(ADA, 25.0, 26.0), 6.0)

    def test_after_a_sleep_everybody_is_looked_at_and_pauses_begin_anew(self) -> None:
        for _ in range(20):
            self.health.missed(ADA, 0.0, 0.0)
        self.health.look_at_all(50.0)
        self.assertEqual(self.due(50.0), ["ada"])
        self.health.missed(ADA, 50.0, 0.0)
        self.assertLessEqual(self.link().next_look, 50.0 + 120.0)

    def test_what_was_heard_before_a_sleep_tells_nothing_after_it(self) -> None:
        self.health.answered(ADA, 10.0)
        self.health.look_at_all(50.0)
        self.health.heard(ADA, 49.0, 50.0)
        self.assertEqual(self.due(50.0), ["ada"])
        self.health.heard(ADA, 51.0, 52.0)
        self.assertEqual(self.due(52.0), [])
        # Nor is what is heard after a clock was set back ignored until it is as late again.
        self.assertEqual(self.due(5.0), [])
        self.health.dropped(ADA, 6.0)
        self.assertIsNotNone(self.health.heard(ADA, 7.0, 8.0))

    def test_a_clock_that_is_set_back_puts_nothing_off(self) -> None:
        self.health.answered(ADA, 1_000_000.0)
        self.assertEqual(self.due(0.0), [])
        self.assertEqual(self.due(300.0), ["ada"])
        self.health.missed(ADA, 1_000_000.0, 0.0)
        self.assertEqual(self.due(400.0), ["ada"])

    def test_who_is_not_in_the_book_any_more_is_not_looked_at(self) -> None:
        self.health.watch([BOB], 5.0)
        self.assertEqual(self.due(10.0), ["bob"])
        for call in (
            lambda: self.health.answered(ADA, 1.0),
            lambda: self.health.missed(ADA, 1.0, 0.0),
            lambda: self.health.heard(ADA, 1.0, 1.0),
            lambda: self.health.dropped(ADA, 1.0),
            lambda: self.health.began(ADA),
        ):
            self.assertFalse(call())
        self.assertNotIn(ADA, self.health)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["answered", "missed", "heard", "dropped", "all", "due"]),
                st.floats(0, 5000),
                st.floats(0, 1),
            ),
            max_size=60,
        )
    )
    def test_whatever_happens_nobody_is_forgotten(
        self, steps: list[tuple[str, float, float]]
    ) -> None:
        health, now = Health(Rhythm()), 0.0
        health.watch([ADA], now)
        for what, seconds, lot in steps:
            now += seconds
            if what == "answered":
                health.answered(ADA, now)
            elif what == "missed":
                health.missed(ADA, now, lot)
            elif what == "heard":
                health.heard(ADA, now - seconds / 2, now)
            elif what == "dropped":
                health.dropped(ADA, now)
            elif what == "all":
                health.look_at_all(now)
            else:
                health.due(now)
        [link] = health.links()
        wait = health.wait(link, now)
        self.assertLessEqual(wait, 3600 * 1.25)
        self.assertEqual(health.due(now + wait + 0.001), [link])
        self.assertEqual(health.suspect(link), link.missed >= 3)
