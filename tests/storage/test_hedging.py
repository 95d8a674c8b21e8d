"""Tests of L{meshkit.storage.hedging}."""

from __future__ import annotations

from math import inf
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.storage.hedging import (
    FORGET,
    LEAST,
    MAX_PEERS,
    MAX_SAMPLES,
    UNKNOWN,
    Latencies,
    Race,
    Runner,
)


def runners(count: int) -> list[Runner]:
    return [Runner(share, f"peer-{share}") for share in range(count)]


def shares(some: list[Runner]) -> list[int]:
    return [each.share for each in some]


class LatencyTests(SynchronousTestCase):
    def test_the_usual_is_the_median_of_the_last_answers(self) -> None:
        latencies = Latencies()
        self.assertIsNone(latencies.usual("a", 0))
        for seconds in (5.0, 1.0, 2.0):
            latencies.add("a", seconds, 0)
        self.assertEqual(latencies.usual("a", 0), 2.0)
        for _ in range(MAX_SAMPLES):
            latencies.add("a", 9.0, 0)
        self.assertEqual(latencies.usual("a", 0), 9.0)

    def test_patience_is_twice_the_usual_and_not_less_than_its_least(self) -> None:
        latencies = Latencies()
        self.assertEqual(latencies.patience(["a", "b"], 0), UNKNOWN)
        latencies.add("a", 0.001, 0)
        self.assertEqual(latencies.patience(["a", "b"], 0), LEAST)
        latencies.add("a", 3.0, 0)
        latencies.add("a", 3.0, 0)
        self.assertEqual(latencies.patience(["a", "b"], 0), 6.0)

    def test_who_hung_is_slower_than_anybody_until_it_answers(self) -> None:
        latencies = Latencies()
        latencies.add("a", 1.0, 0)
        latencies.hung("a", 0)
        self.assertEqual(latencies.usual("a", 0), inf)
        self.assertEqual(latencies.patience(["a"], 0), UNKNOWN)
        latencies.add("a", 2.0, 0)
        self.assertEqual(latencies.usual("a", 0), 1.5)

    def test_what_is_old_does_not_count(self) -> None:
        latencies = Latencies()
        latencies.add("a", 9.0, 0)
        latencies.hung("b", 0)
        self.assertEqual(latencies.usual("a", FORGET), 9.0)
        self.assertIsNone(latencies.usual("a", FORGET + 1))
        self.assertIsNone(latencies.usual("b", FORGET + 1))
        latencies.add("a", 1.0, FORGET + 1)
        self.assertEqual(latencies.usual("a", FORGET + 1), 1.0)

    def test_the_peer_of_which_nothing_was_heard_for_longest_is_forgotten(self) -> None:
        latencies = Latencies()
        for number in range(MAX_PEERS):
            latencies.add(number, 1.0, 0)
        latencies.add(0, 1.0, 0)
        latencies.add("new", 1.0, 0)
        self.assertIsNone(latencies.usual(1, 0))
        self.assertEqual(latencies.usual(0, 0), 1.0)


class RaceTests(SynchronousTestCase):
    def test_the_first_shares_are_asked_for(self) -> None:
        race = Race(3, runners(5), Latencies())
        self.assertEqual(shares(race.start(0)), [0, 1, 2])
        self.assertFalse(race.ready)
        for runner in runners(3):
            race.arrived(runner, 1)
        self.assertTrue(race.ready)

    def test_who_is_slow_or_shunned_is_asked_last(self) -> None:
        latencies = Latencies()
        for share, seconds in enumerate((1.0, 0.2, 0.3, 0.2, 0.2)):
            latencies.add(f"peer-{share}", seconds, 0)
        self.assertEqual(shares(Race(3, runners(5), latencies).start(0)), [1, 2, 3])
        self.assertEqual(shares(Race(3, runners(5), latencies, ["peer-2"]).start(0)), [1, 3, 4])
        self.assertEqual(
            shares(Race(5, runners(5), latencies, ["peer-2"]).start(0)), [1, 3, 4, 0, 2]
        )

    def test_one_more_is_asked_when_somebody_is_late_and_only_once(self) -> None:
        race = Race(2, runners(4), Latencies())
        race.start(0)
        race.arrived(Runner(0, "peer-0"), 0.01)
        self.assertEqual(race.due(0), LEAST)
        self.assertEqual(race.late(LEAST / 2), [])
        self.assertEqual(shares(race.late(LEAST)), [2])
        # The one that was asked then is late at its own time.
        self.assertEqual(race.due(0), 2 * LEAST)
        self.assertEqual(shares(race.late(2 * LEAST)), [3])
        self.assertIsNone(race.due(0))

    def test_who_fails_is_replaced_unless_somebody_was_asked_beside_it(self) -> None:
        race = Race(2, runners(4), Latencies())
        race.start(0)
        self.assertEqual(shares(race.failed(Runner(1, "peer-1"), 0.01)), [2])
        self.assertEqual(shares(race.late(UNKNOWN)), [3])
        self.assertEqual(race.failed(Runner(0, "peer-0"), 0.6), [])
        self.assertFalse(race.hopeless)
        race.failed(Runner(3, "peer-3"), 0.7)
        self.assertTrue(race.hopeless)

    def test_what_was_wrong_is_replaced_also_while_somebody_hangs(self) -> None:
        race = Race(2, runners(6), Latencies())
        race.start(0)
        race.late(UNKNOWN)  # 2 and 3 beside 0 and 1
        race.arrived(Runner(2, "peer-2"), 0.6)
        race.arrived(Runner(3, "peer-3"), 0.6)
        self.assertTrue(race.ready)
        self.assertEqual(shares(race.wrong([Runner(2, "peer-2")], 0.6)), [4])

    def test_a_share_that_two_have_is_used_once_and_the_other_is_there_if_it_is_wrong(self) -> None:
        both = [Runner(0, "a"), Runner(0, "b"), Runner(1, "c")]
        race = Race(2, both, Latencies())
        self.assertEqual(race.start(0), [both[0], both[2]])
        race.arrived(both[2], 0.01)
        self.assertEqual(race.late(5), [both[1]])
        race.arrived(both[1], 5.1)
        race.arrived(both[0], 5.2)
        self.assertEqual(race.chosen(), {0: both[1], 1: both[2]})
        race.wrong([both[1]], 5.3)
        self.assertEqual(race.chosen(), {0: both[0], 1: both[2]})

    def test_who_hung_is_known_to_be_slow(self) -> None:
        latencies = Latencies()
        race = Race(2, runners(3), latencies)
        race.start(0)
        race.arrived(Runner(1, "peer-1"), 0.01)
        race.late(UNKNOWN)
        race.arrived(Runner(2, "peer-2"), UNKNOWN + 0.01)
        self.assertEqual(race.leave(UNKNOWN + 0.01), [Runner(0, "peer-0")])
        self.assertEqual(shares(Race(2, runners(3), latencies).start(9)), [1, 2])

    @given(seed=st.integers(0, 2**32), needed=st.integers(1, 5), extra=st.integers(0, 5))
    def test_as_long_as_enough_answer_there_are_enough_in_the_end(
        self, seed: int, needed: int, extra: int
    ) -> None:
        rng = Random(seed)
        some = runners(needed + extra)
        fate = {each: rng.choice(["good", "good", "fails", "hangs", "lies"]) for each in some}
        race, now = Race(needed, some, Latencies()), 0.0
        waiting = race.start(now)
        asked = list(waiting)
        for _ in range(1_000):
            while waiting:
                each = waiting.pop(rng.randrange(len(waiting)))
                now += rng.random() / 100
                more = []
                if fate[each] in ("good", "lies"):
                    race.arrived(each, now)
                elif fate[each] == "fails":
                    more = race.failed(each, now)
                waiting += more
                asked += more
            if race.ready:
                lied = [each for each in race.chosen().values() if fate[each] == "lies"]
                if not lied:
                    break
                more = race.wrong(lied, now)
            else:
                due = race.due(now)
                if due is None:
                    break
                now = max(now, due)
                more = race.late(now)
            waiting += more
            asked += more
        good = sum(each == "good" for each in fate.values())
        self.assertEqual(len(set(asked)), len(asked))
        self.assertEqual(race.ready, good >= needed)
