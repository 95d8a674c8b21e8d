"""Tests of L{meshkit.audit.targets}."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit.targets import Targets
from meshkit.storage.rendezvous import Candidate, place
from meshkit.storage.scheme import Scheme

UPLOAD = bytes(range(32))
SCHEME = Scheme(3, 6)


def peer(number: int, domain: str | None = None) -> Candidate:
    return Candidate(bytes([number]) * 32, decided=domain or f"d{number}")


PEERS = [peer(number) for number in range(1, 13)]
HELD = {0: PEERS[0], 1: PEERS[1], 2: PEERS[2]}


def targets(candidates: list[Candidate], **more: object) -> Targets:
    arguments = {"held": HELD, "wanted": [5, 3, 4], **more}
    return Targets(UPLOAD, SCHEME, candidates, **arguments)  # type: ignore[arg-type]


class TargetTests(SynchronousTestCase):
    def test_shares_go_where_hashing_says(self) -> None:
        expected, _ = place(UPLOAD, 3, 6, PEERS, held=HELD)
        found = targets(PEERS).ask()
        self.assertEqual(found, {number: expected[number] for number in (3, 4, 5)})

    def test_they_are_spread_over_domains(self) -> None:
        held = {number: peer(number + 1, "a" if number < 2 else "b") for number in range(3)}
        others = [peer(number, "abc"[number % 3]) for number in range(6, 12)]
        found = targets(others, held=held).ask()
        counts = Counter(each.decided for each in (*held.values(), *found.values()))
        self.assertEqual(counts, {"a": 2, "b": 2, "c": 2})

    def test_if_there_are_too_few_peers_the_first_that_are_wanted_get_them(self) -> None:
        self.assertEqual(set(targets(PEERS[:5]).ask()), {5, 3})
        self.assertEqual(set(targets(PEERS[:4]).ask()), {5})
        self.assertEqual(targets(PEERS[:3]).ask(), {})

    def test_who_refuses_is_not_asked_again_and_another_is(self) -> None:
        them, asked = targets(PEERS), []
        for _ in range(12):
            for number, each in them.ask().items():
                asked.append(each.key)
                them.refuse(number)
        self.assertEqual(sorted(asked), sorted(each.key for each in PEERS[3:]))
        self.assertEqual(them.ask(), {})

    def test_who_has_agreed_and_fails_later_is_replaced(self) -> None:
        them = targets(PEERS)
        first = them.ask()
        for number in first:
            them.accept(number)
        self.assertEqual(them.ask(), {})
        them.refuse(3)
        (again,) = them.ask().values()
        self.assertNotIn(again, [*HELD.values(), *first.values()])

    def test_who_has_lost_a_share_comes_last_and_some_come_never(self) -> None:
        last, never = [PEERS[4].key], [PEERS[5].key]
        found = targets(PEERS[:6], last=last, never=never).ask()
        self.assertEqual(found, {5: PEERS[3], 3: PEERS[4]})

    def test_a_second_share_is_given_only_if_somebody_has_two_already(self) -> None:
        self.assertEqual(set(targets(PEERS[:4]).ask()), {5})
        doubled = {0: PEERS[0], 1: PEERS[0], 2: PEERS[2]}
        found = targets(PEERS[:4], held=doubled).ask()
        self.assertEqual(set(found), {3, 4, 5})
        counts = Counter(each.key for each in (*doubled.values(), *found.values()))
        self.assertEqual(max(counts.values()), 2)
        # Others that are there go first.
        several = targets(PEERS, held=doubled).ask()
        self.assertEqual(len({each.key for each in (*several.values(), PEERS[0], PEERS[2])}), 5)

    def test_who_has_lost_a_share_comes_before_a_second_one_for_somebody(self) -> None:
        doubled = {0: PEERS[0], 1: PEERS[0], 2: PEERS[2]}
        them = targets([PEERS[2], PEERS[4]], held=doubled, wanted=[3], last=[PEERS[4].key])
        self.assertEqual(them.ask(), {3: PEERS[4]})
        them.refuse(3)
        self.assertEqual(them.ask(), {3: PEERS[2]})

    @given(
        st.permutations(PEERS),
        st.integers(0, 12),
        st.lists(st.booleans(), min_size=40, max_size=40),
        st.lists(st.sampled_from([each.key for each in PEERS]), max_size=4),
        st.lists(st.sampled_from([each.key for each in PEERS]), max_size=4),
    )
    def test_whatever_they_answer_nobody_has_two_and_nobody_is_asked_twice(
        self,
        order: list[Candidate],
        count: int,
        answers: list[bool],
        last: list[bytes],
        never: list[bytes],
    ) -> None:
        them, asked, left = targets(order[:count], last=last, never=never), [], iter(answers)
        while found := them.ask():
            for number, each in found.items():
                asked.append(each.key)
                (them.accept if next(left) else them.refuse)(number)
        held = {each.key for each in HELD.values()}
        self.assertEqual(len(asked), len(set(asked)))
        self.assertFalse((held | set(never)) & set(asked))
        placed = [each.key for each in them.placed.values()]
        self.assertEqual(len(set(placed)), len(placed))
        # Whoever might have taken one was asked, as long as one was missing.
        if len(placed) < 3:
            there = {each.key for each in order[:count]} - held - set(never)
            self.assertEqual(set(asked), there)
