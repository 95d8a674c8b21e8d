"""Tests of L{meshkit.storage.client.placing}."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import NotEnoughPeers
from meshkit.storage.client.placing import Placer, least_receipts
from meshkit.storage.rendezvous import Candidate, place
from meshkit.storage.scheme import Scheme

UPLOAD = b"u" * 32
SCHEME = Scheme(2, 4, 4096)


def candidates(count: int, domains: int = 100) -> list[Candidate]:
    return [
        Candidate(bytes([number]) * 32, decided=str(number % domains))
        for number in range(1, count + 1)
    ]


class Placing(SynchronousTestCase):
    def settle(self, placer: Placer, refusing: set[bytes]) -> list[bytes]:
        """@return: who was asked, in order."""
        asked: list[bytes] = []
        while wanted := placer.ask():
            for number, candidate in wanted.items():
                asked.append(candidate.key)
                if candidate.key in refusing:
                    placer.refuse(number)
                else:
                    placer.accept(number)
        return asked

    def test_the_first_are_those_of_the_rendezvous(self) -> None:
        some = candidates(9)
        placer = Placer(UPLOAD, SCHEME, some)
        self.assertEqual(placer.ask(), place(UPLOAD, 2, 4, some)[0])
        self.assertEqual(placer.ask(), {})

    def test_who_refuses_is_replaced_by_the_next_one_and_others_stay(self) -> None:
        some = candidates(9)
        first, _ = place(UPLOAD, 2, 4, some)
        placer = Placer(UPLOAD, SCHEME, some)
        self.settle(placer, {first[1].key})
        rest = [each for each in some if each.key != first[1].key]
        kept = {number: each for number, each in first.items() if number != 1}
        self.assertEqual(placer.placed, place(UPLOAD, 2, 4, rest, held=kept)[0])

    def test_too_few_peers_are_refused_before_anybody_is_asked(self) -> None:
        self.assertRaises(NotEnoughPeers, Placer(UPLOAD, SCHEME, candidates(3)).ask)
        self.assertRaises(NotEnoughPeers, Placer(UPLOAD, SCHEME, []).ask)

    def test_with_too_few_that_agree_the_others_are_used(self) -> None:
        some = candidates(5)
        placer = Placer(UPLOAD, SCHEME, some)
        self.settle(placer, {some[0].key, some[1].key, some[2].key})
        self.assertEqual(len(placer.placed), 2)
        self.assertEqual(placer.asking, {})

    def test_who_goes_on_asks_the_same_peers_and_takes_what_there_is(self) -> None:
        some = candidates(3)
        placer = Placer(UPLOAD, SCHEME, some)
        placer.keep(3, some[2].key)
        placer.keep(0, b"gone" * 8)
        asked = placer.ask()
        self.assertEqual(asked[3], some[2])
        self.assertEqual(len({each.key for each in asked.values()}), 3)
        self.assertEqual(placer.placed, {})

    def test_one_may_have_several_only_if_that_is_asked_for(self) -> None:
        some = candidates(2)
        placer = Placer(UPLOAD, SCHEME, some, repeat=True)
        self.settle(placer, set())
        self.assertEqual(len(placer.placed), 4)
        spread = placer.spread(range(4))
        self.assertIn("several-shares-at-one-peer", spread.flags)

    def test_domains_stay_even_when_peers_are_replaced(self) -> None:
        some = candidates(12, domains=4)
        first, _ = place(UPLOAD, 2, 4, some)
        placer = Placer(UPLOAD, SCHEME, some)
        self.settle(placer, {first[0].key, first[2].key})
        self.assertEqual(placer.spread(range(4)).flags, ())

    def test_a_domain_that_could_kill_the_object_is_flagged(self) -> None:
        some = [*candidates(3, domains=1), Candidate(b"x" * 32, decided="other")]
        placer = Placer(UPLOAD, SCHEME, some)
        self.settle(placer, set())
        self.assertIn("one-domain-is-fatal", placer.spread(range(4)).flags)

    @given(
        count=st.integers(4, 12),
        refusing=st.sets(st.integers(1, 12)),
        repeat=st.booleans(),
        domains=st.integers(1, 5),
    )
    def test_nobody_is_asked_after_it_refused(
        self, count: int, refusing: set[int], repeat: bool, domains: int
    ) -> None:
        out = {bytes([number]) * 32 for number in refusing}
        some = candidates(count, domains)
        placer = Placer(UPLOAD, SCHEME, some, repeat=repeat)
        asked = self.settle(placer, out)
        willing = [each.key for each in some if each.key not in out]
        keys = [each.key for each in placer.placed.values()]
        if not repeat:
            self.assertEqual(len(set(asked)), len(asked))
            self.assertEqual(len(placer.placed), min(4, len(willing)))
            self.assertEqual(len(set(keys)), len(keys))
        else:
            self.assertEqual(len(placer.placed), 4 if willing else 0)
        self.assertFalse(out & set(keys))


class Quorum(SynchronousTestCase):
    def test_half_of_those_that_may_be_lost_have_to_be_kept(self) -> None:
        for required, total, least in ((6, 9, 8), (3, 5, 4), (1, 1, 1), (2, 3, 3), (1, 10, 6)):
            self.assertEqual(least_receipts(Scheme(required, total, 4096)), least)

    def test_what_is_asked_for_is_kept_within_what_is_possible(self) -> None:
        scheme = Scheme(6, 9, 4096)
        for asked, least in ((0, 6), (7, 7), (9, 9), (99, 9)):
            self.assertEqual(least_receipts(scheme, asked), least)
