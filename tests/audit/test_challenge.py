"""Which leaves are asked for."""

from __future__ import annotations

from hashlib import sha256
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit.challenge import SAMPLED, Challenge, chance_to_catch, commitment

#: Computed with the words of the book alone.
KNOWN_1000 = [0, 493, 499, 923]
KNOWN_LARGE = [1408889051509895493, 4840981549848214026, 7743525259046671164, 7770043421367738406]

bytes32 = st.binary(min_size=32, max_size=32)


def by_the_book(seed: bytes, nonce: bytes, name: bytes, count: int) -> list[int]:
    """What docs/protocol/auditing.md says, word for word."""
    found: list[int] = []
    step = 0
    while len(found) < min(SAMPLED, count):
        text = b"meshkit/audit-index/1" + seed + nonce + name + step.to_bytes(4, "big")
        number = int.from_bytes(sha256(text).digest()[:8], "big")
        if number < 2**64 - 2**64 % count and number % count not in found:
            found.append(number % count)
        step += 1
    return sorted(found)


class Leaves(SynchronousTestCase):
    @given(bytes32, bytes32, bytes32, st.integers(5, 2**40))
    def test_they_are_those_of_the_book(
        self, seed: bytes, nonce: bytes, name: bytes, count: int
    ) -> None:
        self.assertEqual(
            Challenge(seed, nonce).leaves(name, count), by_the_book(seed, nonce, name, count)
        )

    @given(bytes32, bytes32, bytes32, st.integers(0, SAMPLED))
    def test_of_few_leaves_all_are_asked_for(
        self, seed: bytes, nonce: bytes, name: bytes, count: int
    ) -> None:
        self.assertEqual(Challenge(seed, nonce).leaves(name, count), list(range(count)))

    def test_a_known_answer(self) -> None:
        challenge = Challenge(bytes(32), bytes([1]) * 32)
        self.assertEqual(challenge.leaves(bytes([2]) * 32, 1_000), KNOWN_1000)
        self.assertEqual(challenge.leaves(bytes([2]) * 32, 2**63 + 1), KNOWN_LARGE)

    def test_a_number_that_would_favour_low_leaves_is_passed_over(self) -> None:
        # Of 2^63 + 1 leaves almost half of the numbers are.
        count = 2**63 + 1
        rng = Random(1)
        for _ in range(50):
            seed, nonce, name = (rng.randbytes(32) for _ in range(3))
            leaves = Challenge(seed, nonce).leaves(name, count)
            self.assertEqual(leaves, by_the_book(seed, nonce, name, count))
            self.assertTrue(all(0 <= leaf < count for leaf in leaves))

    def test_every_leaf_is_as_likely_as_any_other(self) -> None:
        rng, counts = Random(2), [0] * 10
        trials = 4_000
        for _ in range(trials):
            for leaf in Challenge(rng.randbytes(32), rng.randbytes(32)).leaves(bytes(32), 10):
                counts[leaf] += 1
        expected = trials * SAMPLED / 10
        chi = sum((count - expected) ** 2 / expected for count in counts)
        # With nine degrees of freedom, once in ten thousand.
        self.assertLess(chi, 33.7)

    def test_seeds_and_nonces_have_their_lengths(self) -> None:
        for seed, nonce in ((bytes(31), bytes(32)), (bytes(32), bytes(33))):
            with self.assertRaises(ValueError):
                Challenge(seed, nonce)
        with self.assertRaises(ValueError):
            commitment(bytes(16))

    def test_neither_side_alone_decides(self) -> None:
        name, count = bytes(32), 1_000_000
        before = Challenge(bytes(32), bytes(32)).leaves(name, count)
        self.assertNotEqual(Challenge(bytes([1]) * 32, bytes(32)).leaves(name, count), before)
        self.assertNotEqual(Challenge(bytes(32), bytes([1]) * 32).leaves(name, count), before)
        self.assertNotEqual(Challenge(bytes(32), bytes(32)).leaves(bytes([1]) * 32, count), before)


class Chances(SynchronousTestCase):
    def test_they_are_those_of_the_table(self) -> None:
        self.assertAlmostEqual(chance_to_catch(0.01), 0.0394, 4)
        self.assertAlmostEqual(chance_to_catch(0.5), 0.9375, 4)
        self.assertAlmostEqual(chance_to_catch(0.05, 10), 1 - 0.95**40, 12)
        self.assertEqual((chance_to_catch(0.0), chance_to_catch(1.0)), (0.0, 1.0))
