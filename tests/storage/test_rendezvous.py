"""Tests of L{meshkit.storage.rendezvous}."""

from __future__ import annotations

from collections import Counter
from decimal import Context, Decimal
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import NotEnoughPeers, SchemeInvalid, SharesInvalid
from meshkit.storage import rendezvous
from meshkit.storage.rendezvous import (
    MAX_CANDIDATES,
    MAX_WEIGHT,
    Candidate,
    domains_of,
    lot,
    place,
    spread_of,
)

UPLOAD = bytes(range(32))

#: Share, weight, and what the peer with the key 7 draws for that share of this upload.
LOTS = (
    (0, 1, 70638349189564350750534880529636917248),
    (1, 1, 390387826489429579538648814171860238336),
    (254, 1, 124263919065559215432495693223761543168),
    (0, 1000, 70638349189564350750534880529636917),
)


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def peers(*domains: str, weight: int = 1) -> list[Candidate]:
    """Candidates, one in each of these domains."""
    return [Candidate(key(i), weight, decided=domain) for i, domain in enumerate(domains)]


def upload(number: int) -> bytes:
    return number.to_bytes(32, "little")


class Lots(SynchronousTestCase):
    @given(st.one_of(st.integers(1, 2**64), st.integers(2**64 - 2**20, 2**64)))
    def test_the_logarithm_is_one(self, u: int) -> None:
        context = Context(prec=50)
        exact = context.multiply(context.divide(Decimal(u), Decimal(2**64)).ln(context), -(2**64))
        self.assertLess(abs(rendezvous._minus_logarithm(u) - exact), 32)

    def test_its_ends(self) -> None:
        self.assertEqual(rendezvous._minus_logarithm(2**64), 0)
        self.assertEqual(rendezvous._minus_logarithm(2**63), 0xB17217F7D1CF79AC)
        self.assertEqual(rendezvous._minus_logarithm(1), 64 * 0xB17217F7D1CF79AC)

    def test_what_a_peer_draws(self) -> None:
        """Known answers: whoever computes others finds other peers."""
        for share, weight, expected in LOTS:
            self.assertEqual(lot(UPLOAD, share, Candidate(key(7), weight)), expected)

    def test_everything_counts(self) -> None:
        peer = Candidate(key(1))
        drawn = {
            lot(UPLOAD, 0, peer),
            lot(UPLOAD, 1, peer),
            lot(bytes(32), 0, peer),
            lot(UPLOAD, 0, Candidate(key(2))),
            lot(UPLOAD, 0, Candidate(key(1), 2)),
        }
        self.assertEqual(len(drawn), 5)

    def test_weights_have_a_range(self) -> None:
        for weight in (0, -1, MAX_WEIGHT + 1):
            self.assertRaises(ValueError, Candidate, key(0), weight)
        Candidate(key(0), MAX_WEIGHT)


class Weights(SynchronousTestCase):
    def test_a_peer_is_chosen_as_often_as_its_weight_says(self) -> None:
        found = [Candidate(key(i), weight, decided=str(i)) for i, weight in enumerate((1, 2, 5))]
        chosen = Counter(place(upload(i), 1, 1, found)[0][0].key for i in range(4_000))
        # Expected 500, 1,000 and 2,500; five standard deviations are at most 155.
        for number, expected in enumerate((500, 1_000, 2_500)):
            self.assertLess(abs(chosen[key(number)] - expected), 155)

    def test_who_leaves_moves_only_its_own(self) -> None:
        found = [Candidate(key(i), 1 + i % 3, decided=str(i)) for i in range(12)]
        for number in range(200):
            placed, _ = place(upload(number), 1, 1, found)
            for gone in found:
                without, _ = place(upload(number), 1, 1, [each for each in found if each != gone])
                if placed[0] != gone:
                    self.assertEqual(without, placed)


class Spreading(SynchronousTestCase):
    def test_two_domains_share_evenly_and_either_is_fatal(self) -> None:
        for number in range(50):
            placed, spread = place(upload(number), 4, 6, peers(*"abababab"))
            self.assertEqual(spread.counts, {"owner:a": 3, "owner:b": 3})
            self.assertEqual(spread.fatal, ("owner:a", "owner:b"))
            self.assertEqual(spread.flags, ("one-domain-is-fatal",))
            self.assertEqual(len({each.key for each in placed.values()}), 6)

    def test_three_domains_of_four_peers(self) -> None:
        for number in range(50):
            _, spread = place(upload(number), 6, 9, peers(*"abcabcabcabc"))
            self.assertEqual(spread.counts, {"owner:a": 3, "owner:b": 3, "owner:c": 3})
            self.assertEqual(spread.flags, ())

    def test_domains_differ_by_one_at_most(self) -> None:
        """9 shares in 4 domains: 3, 2, 2, 2, and never 3, 3, 3, 0."""
        for number in range(50):
            _, spread = place(upload(number), 6, 9, peers(*"abcd" * 4))
            self.assertEqual(sorted(spread.counts.values()), [2, 2, 2, 3])
            self.assertFalse(spread.uneven)

    def test_a_domain_with_too_few_peers(self) -> None:
        _, spread = place(UPLOAD, 6, 9, peers("a", *"b" * 20))
        self.assertEqual(spread.counts, {"owner:a": 1, "owner:b": 8})
        self.assertEqual(spread.fatal, ("owner:b",))
        self.assertEqual(spread.flags, ("one-domain-is-fatal", "uneven-domains"))

    @given(
        sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6),
        shape=st.tuples(st.integers(1, 12), st.integers(0, 6)),
        seed=st.integers(0, 2**32),
        repeat=st.booleans(),
    )
    def test_it_is_as_even_as_it_can_be(
        self, sizes: list[int], shape: tuple[int, int], seed: int, repeat: bool
    ) -> None:
        required, further = shape
        total = required + further
        found = peers(*[str(i) for i, size in enumerate(sizes) for _ in range(size)])
        rng = Random(seed)
        if len(found) < total and not repeat:
            with self.assertRaises(NotEnoughPeers):
                place(UPLOAD, required, total, found)
            return
        placed, spread = place(upload(seed), required, total, found, repeat=repeat)
        self.assertEqual(list(placed), list(range(total)))
        # The same, whatever the order.
        rng.shuffle(found)
        self.assertEqual(
            place(upload(seed), required, total, found, repeat=repeat), (placed, spread)
        )
        self.assertEqual(sum(spread.counts.values()), total)
        at_peers = Counter(each.key for each in placed.values())
        most = -(-total // len(found))
        self.assertLessEqual(max(at_peers.values()), most)
        self.assertEqual(bool(spread.doubled), most > 1)
        # No domain that could take one more has two less than another.
        counts = [spread.counts.get(f"owner:{i}", 0) for i in range(len(sizes))]
        for count, size in zip(counts, sizes, strict=True):
            if count < size * most:
                self.assertLessEqual(max(counts), count + 1)
        fair = -(-total // len(sizes))
        self.assertEqual(spread.uneven, max(counts) > fair)
        if all(size * most >= fair for size in sizes):
            self.assertFalse(spread.uneven)
        fatal = [
            f"owner:{i}" for i, count in enumerate(counts) if count and total - count < required
        ]
        self.assertEqual(list(spread.fatal), fatal)

    def test_too_few_peers_are_refused_unless_asked_for(self) -> None:
        with self.assertRaisesRegex(NotEnoughPeers, "6 shares need a peer each, and too few of 3"):
            place(UPLOAD, 4, 6, peers(*"abc"))
        placed, spread = place(UPLOAD, 4, 6, peers(*"abc"), repeat=True)
        self.assertEqual(spread.doubled, (key(0), key(1), key(2)))
        self.assertEqual(spread.flags, ("several-shares-at-one-peer",))
        with self.assertRaises(NotEnoughPeers):
            place(UPLOAD, 4, 6, [], repeat=True)

    def test_nobody_gets_a_second_share_before_everybody_has_one(self) -> None:
        for number in range(20):
            placed, _ = place(upload(number), 6, 9, peers(*"aaaaaa"), repeat=True)
            at_peers = Counter(each.key for each in placed.values())
            self.assertEqual(sorted(at_peers.values()), [1, 1, 1, 2, 2, 2])

    def test_the_same_peer_twice_is_one_peer(self) -> None:
        with self.assertRaises(NotEnoughPeers):
            place(UPLOAD, 1, 2, [*peers("a"), *peers("a")])

    def test_limits(self) -> None:
        with self.assertRaises(SchemeInvalid):
            place(UPLOAD, 3, 2, peers(*"abc"))
        with self.assertRaisesRegex(ValueError, "at most 10000"):
            place(UPLOAD, 1, 1, peers("a") * (MAX_CANDIDATES + 1))


class Repair(SynchronousTestCase):
    def test_shares_stay_where_they_are(self) -> None:
        found = peers(*"abcabcabcabc")
        placed, _ = place(UPLOAD, 6, 9, found)
        for lost in range(9):
            held = {share: peer for share, peer in placed.items() if share != lost}
            gone = placed[lost]
            again, spread = place(UPLOAD, 6, 9, [each for each in found if each != gone], held=held)
            self.assertEqual({share: again[share] for share in held}, held)
            self.assertNotEqual(again[lost], gone)
            # In the domain that has lost one, as the others are full.
            self.assertEqual(again[lost].decided, gone.decided)
            self.assertEqual(spread.flags, ())

    def test_a_new_peer_of_a_full_domain_is_better_than_none(self) -> None:
        placed, _ = place(UPLOAD, 2, 3, peers(*"abc"))
        held = {share: peer for share, peer in placed.items() if peer.decided != "c"}
        again, spread = place(
            UPLOAD, 2, 3, [Candidate(key(9), decided="a"), *held.values()], held=held
        )
        self.assertEqual(spread.counts, {"owner:a": 2, "owner:b": 1})
        self.assertEqual(len({each.key for each in again.values()}), 3)
        self.assertEqual(spread.fatal, ("owner:a",))

    def test_who_has_a_share_gets_no_second(self) -> None:
        found = peers(*"aaa")
        with self.assertRaises(NotEnoughPeers):
            place(UPLOAD, 2, 4, found, held={0: found[0]})

    def test_nothing_missing(self) -> None:
        found = peers(*"ab")
        held = {1: found[1], 0: found[0]}
        placed, _ = place(UPLOAD, 1, 2, [], held=held)
        self.assertEqual(placed, held)
        self.assertEqual(list(placed), [0, 1])

    def test_a_share_that_does_not_exist(self) -> None:
        for share in (2, -1):
            with self.assertRaises(SharesInvalid):
                place(UPLOAD, 1, 2, peers(*"ab"), held={share: peers("a")[0]})

    def test_what_is_left_is_judged(self) -> None:
        """Of 2 of 4 shares 3 are left, 2 of them in one domain."""
        found = peers(*"aabc")
        held = dict(enumerate(found[:3]))
        spread = spread_of(2, held, domains_of(found))
        self.assertEqual(spread.counts, {"owner:a": 2, "owner:b": 1})
        self.assertEqual(spread.fatal, ("owner:a",))
        self.assertTrue(spread.uneven)


class Domains(SynchronousTestCase):
    def domains(self, *found: tuple[str | None, str | None, str | None]) -> list[str]:
        """@param found: what is declared, observed and decided of each peer."""
        candidates = [
            Candidate(key(i), 1, declared, observed, decided)
            for i, (declared, observed, decided) in enumerate(found)
        ]
        return [domains_of(candidates)[each.key] for each in candidates]

    def test_what_is_declared_holds_where_nothing_contradicts(self) -> None:
        self.assertEqual(
            self.domains(("rack", "1.2.3.0/24", None), ("rack", "9.9.9.0/24", None)),
            ["declared:rack", "declared:rack"],
        )

    def test_one_block_cannot_be_many_domains(self) -> None:
        """Somebody runs many peers in one place and says that each is on its own."""
        self.assertEqual(
            self.domains(*[(f"rack-{i}", "1.2.3.0/24", None) for i in range(5)]),
            ["block:1.2.3.0/24"] * 5,
        )

    def test_liars_do_not_draw_others_into_their_domain(self) -> None:
        found = self.domains(
            ("x", "1.1.1.0/24", None),
            ("y", "2.2.2.0/24", None),
            ("x", "6.6.6.0/24", None),
            ("y", "6.6.6.0/24", None),
        )
        self.assertEqual(
            found, ["declared:x", "declared:y", "block:6.6.6.0/24", "block:6.6.6.0/24"]
        )

    def test_who_declares_nothing_is_in_its_block(self) -> None:
        self.assertEqual(
            self.domains((None, "1.1.1.0/24", None), ("x", "1.1.1.0/24", None)),
            ["block:1.1.1.0/24"] * 2,
        )

    def test_the_owner_decides(self) -> None:
        found = self.domains(
            ("x", "1.1.1.0/24", "mine"), ("y", "1.1.1.0/24", None), (None, None, "mine")
        )
        self.assertEqual(found, ["owner:mine", "declared:y", "owner:mine"])

    def test_what_is_unknown_is_one_domain(self) -> None:
        self.assertEqual(self.domains((None, None, None), (None, None, None)), ["unknown"] * 2)

    def test_no_kind_of_name_is_another(self) -> None:
        found = self.domains(("a", None, None), (None, "a", None), (None, None, "a"))
        self.assertEqual(len(set(found)), 3)
