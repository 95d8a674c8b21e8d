"""Of whom there are most: against a plain count."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.shs.places import Places

STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 12), st.sampled_from("abcd")))


class PlacesTests(SynchronousTestCase):
    @given(STEPS)
    def test_the_oldest_of_the_largest_group_gives_way_if_it_is_two_ahead(
        self, steps: list[tuple[bool, int, str]]
    ) -> None:
        places: Places[int] = Places()
        plain: dict[int, str] = {}
        for takes, thing, group in steps:
            if takes and thing not in plain:
                places.take(thing, group)
                plain[thing] = group
            elif not takes:
                places.leave(thing)
                plain.pop(thing, None)
            self.assertEqual((len(places), thing in places), (len(plain), thing in plain))
            counts = Counter(plain.values())
            most = max(counts.values(), default=0)
            for newcomer in "abcde":
                self.assertEqual(places.of(newcomer), counts[newcomer])
                victim = places.gives_way(newcomer)
                if most < counts[newcomer] + 2:
                    self.assertIsNone(victim)
                else:
                    assert victim is not None
                    of = plain[victim]
                    self.assertEqual(counts[of], most)
                    self.assertEqual(victim, next(t for t, g in plain.items() if g == of))

    def test_nothing_has_two_places(self) -> None:
        places: Places[int] = Places()
        places.take(1, "a")
        with self.assertRaisesRegex(ValueError, "has a place already"):
            places.take(1, "b")
