"""Single leaves with their proofs, beside what L{meshkit.crypto.merkle} says of the same."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.crypto import samples
from meshkit.crypto.merkle import HASH_BYTES, LEAF_BYTES, Shape, TreeBuilder, check_leaves
from meshkit.crypto.samples import (
    MAX_SAMPLE,
    Taking,
    checked,
    digest_of,
    largest_sample,
    leads_to,
    leaf_count,
    sample_bytes,
    samples_of,
)

SIZES = (1, 31, 4_096, 4_097, 9_000, 32_768, 32_769, 70_000, 262_144, 262_145, 1_000_003)


class Tree:
    """Bytes and their tree."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.data = Random(size).randbytes(size)
        kept = bytearray()
        builder = TreeBuilder(LEAF_BYTES, kept.extend)
        builder.update(self.data)
        self.root = builder.finish()
        self.nodes = bytes(kept)
        self.leaves = leaf_count(size)


TREES = {size: Tree(size) for size in SIZES}
trees = st.sampled_from(SIZES).map(TREES.__getitem__)


def some_leaves(tree: Tree, seed: int) -> list[int]:
    """Up to four of them, among them the first or the last."""
    rng = Random(seed)
    chosen = {rng.choice([0, tree.leaves - 1])}
    chosen.update(rng.sample(range(tree.leaves), min(3, tree.leaves)))
    return sorted(chosen)


class Taken(SynchronousTestCase):
    @given(trees, st.integers(0, 2**32))
    def test_they_are_what_the_other_way_of_checking_takes(self, tree: Tree, seed: int) -> None:
        numbers = some_leaves(tree, seed)
        taken = samples_of(tree.size, numbers, tree.data, tree.nodes)
        for number, sample in zip(numbers, taken.samples, strict=True):
            self.assertEqual(len(sample), sample_bytes(tree.size, number))
            self.assertLessEqual(len(sample), largest_sample(tree.size))
            end = min(LEAF_BYTES, tree.size - number * LEAF_BYTES)
            branch = [sample[at : at + HASH_BYTES] for at in range(end, len(sample), HASH_BYTES)]
            check_leaves(tree.root, Shape(tree.size), number, sample[:end], branch)
            self.assertIsNotNone(leads_to(tree.root, tree.size, number, sample))

    @given(trees, st.integers(0, 2**32))
    def test_nodes_one_by_one_make_the_same_as_all_of_them(self, tree: Tree, seed: int) -> None:
        numbers = some_leaves(tree, seed)
        whole = samples_of(tree.size, numbers, tree.data, tree.nodes)
        before, samples.WHOLE_NODES = samples.WHOLE_NODES, 0  # type: ignore[misc]
        try:
            one_by_one = samples_of(tree.size, numbers, tree.data, tree.nodes)
        finally:
            samples.WHOLE_NODES = before  # type: ignore[misc]
        self.assertEqual(whole, one_by_one)

    def test_a_group_that_two_leaves_are_in_is_read_once(self) -> None:
        ranges = Taking(262_144, [8, 9, 15, 16]).ranges
        self.assertEqual([each[0] for each in ranges], [32_768, 65_536, 262_144])

    def test_what_is_read_of_a_large_share_is_little(self) -> None:
        numbers = [0, 1_000_000, 2_000_000, 2**22 - 1]
        ranges = Taking(2**34, numbers).ranges
        self.assertEqual(sum(length for _, length in ranges[:4]), 4 * 32_768)
        self.assertLess(sum(length for _, length in ranges[4:]), 4 * 20 * HASH_BYTES)

    def test_leaves_that_there_are_not_cannot_be_taken(self) -> None:
        for numbers in ([3], [-1], [0, 3]):
            with self.assertRaises(ValueError):
                Taking(9_000, numbers)

    def test_no_sample_is_larger_than_the_largest(self) -> None:
        self.assertLessEqual(largest_sample(2**63 - 1), MAX_SAMPLE)
        for size in (*SIZES, 2**63 - 1):
            for number in (0, leaf_count(size) // 2, leaf_count(size) - 1):
                self.assertLessEqual(sample_bytes(size, number), largest_sample(size))


class Digests(SynchronousTestCase):
    @given(trees, st.integers(0, 2**32))
    def test_all_who_compute_it_get_the_same(self, tree: Tree, seed: int) -> None:
        numbers = some_leaves(tree, seed)
        taken = samples_of(tree.size, numbers, tree.data, tree.nodes)
        self.assertEqual(digest_of(tree.size, numbers, taken.samples), taken.digest)
        self.assertEqual(
            checked(tree.root, tree.size, numbers, taken.samples), (taken.digest, True)
        )

    @given(trees, st.integers(0, 2**32), st.integers(0), st.integers(1, 255))
    def test_a_changed_byte_of_a_leaf_or_a_node_shows(
        self, tree: Tree, seed: int, at: int, change: int
    ) -> None:
        numbers = some_leaves(tree, seed)
        taken = samples_of(tree.size, numbers, tree.data, tree.nodes)
        spoilt = bytearray(taken.samples[0])
        spoilt[at % len(spoilt)] ^= change
        given_ = [bytes(spoilt), *taken.samples[1:]]
        digest, good = checked(tree.root, tree.size, numbers, given_)
        self.assertFalse(good)
        self.assertNotEqual(digest, taken.digest)
        self.assertIsNone(leads_to(tree.root, tree.size, numbers[0], bytes(spoilt)))

    def test_the_same_leaf_elsewhere_is_none(self) -> None:
        tree = TREES[262_144]
        (sample,) = samples_of(tree.size, [5], tree.data, tree.nodes).samples
        self.assertIsNone(leads_to(tree.root, tree.size, 4, sample))
        self.assertIsNone(leads_to(tree.root, tree.size + LEAF_BYTES, 5, sample))
