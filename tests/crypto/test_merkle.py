"""
Tests of L{meshkit.crypto.merkle}, with the text of RFC 9162 as a second opinion.

C{mth}, C{path} and C{verify} below are its definitions, written down as they stand there.
"""

from __future__ import annotations

from hashlib import sha256
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.crypto import merkle
from meshkit.crypto.merkle import (
    GROUP,
    HASH_BYTES,
    LEAF_BYTES,
    MAX_BYTES,
    MAX_LEAF_BYTES,
    Data,
    Prover,
    Shape,
    TreeBuilder,
    check_leaves,
    leaf_hash,
    node_hash,
    top_from,
)
from meshkit.errors import ObjectDamaged

# The leaves and tops that implementations of Certificate Transparency are tried with.
CT_LEAVES = [
    bytes.fromhex(each)
    for each in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_TOPS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)


def mth(leaves: list[bytes]) -> bytes:
    """RFC 9162, 2.1.1."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    k = _split(len(leaves))
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 9162, 2.1.3.1."""
    if len(leaves) == 1:
        return []
    k = _split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def verify(leaf: bytes, index: int, size: int, proof: list[bytes], top: bytes) -> bool:
    """RFC 9162, 2.1.3.2."""
    fn, sn, r = index, size - 1, sha256(b"\x00" + leaf).digest()
    for p in proof:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = sha256(b"\x01" + p + r).digest()
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = sha256(b"\x01" + r + p).digest()
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == top


def _split(n: int) -> int:
    """The largest power of two smaller than n."""
    return 1 << (n - 1).bit_length() - 1


def cut(data: bytes, leaf_bytes: int) -> list[bytes]:
    return [data[at : at + leaf_bytes] for at in range(0, len(data), leaf_bytes)]


def some_bytes(size: int, seed: int = 1) -> bytes:
    return Random(seed).randbytes(size)


def plant(data: bytes, leaf_bytes: int) -> tuple[bytes, bytearray]:
    """@return: root, and what was kept."""
    kept = bytearray()
    builder = TreeBuilder(leaf_bytes, kept.extend)
    builder.update(data)
    return builder.finish(), kept


def prover(data: bytes, leaf_bytes: int) -> Prover:
    _, kept = plant(data, leaf_bytes)
    return Prover(Shape(len(data), leaf_bytes), reads(kept), reads(data))


def reads(there: Data) -> merkle.Read:
    def read(offset: int, length: int) -> Data:
        assert 0 <= offset < offset + length <= len(there), (offset, length, len(there))
        return memoryview(there)[offset : offset + length]

    return read


class KnownAnswers(SynchronousTestCase):
    def test_the_tops_of_certificate_transparency(self) -> None:
        for count in range(1, 9):
            hashes = [leaf_hash(each) for each in CT_LEAVES[:count]]
            self.assertEqual(
                top_from(Shape(count, 1), 0, hashes, []), bytes.fromhex(CT_TOPS[count])
            )
            self.assertEqual(mth(CT_LEAVES[:count]).hex(), CT_TOPS[count])
        self.assertEqual(mth([]).hex(), CT_TOPS[0])

    def test_a_proof_of_certificate_transparency(self) -> None:
        proof = [
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ]
        self.assertEqual(
            top_from(Shape(8, 1), 0, [leaf_hash(b"")], [bytes.fromhex(each) for each in proof]),
            bytes.fromhex(CT_TOPS[8]),
        )

    def test_roots(self) -> None:
        """This form, once published, is used for ever.  Written from the description."""
        for size, leaf_bytes in ((0, 4096), (1, 4096), (4096, 4096), (4097, 4096), (10_000, 512)):
            data = bytes(range(256)) * 40
            top = mth(cut(data[:size], leaf_bytes))
            expected = sha256(
                b"\x02" + size.to_bytes(8, "big") + leaf_bytes.to_bytes(4, "big") + top
            ).digest()
            self.assertEqual(plant(data[:size], leaf_bytes)[0], expected)
        self.assertEqual(
            plant(bytes(range(256)) * 40, 4096)[0].hex(),
            "a202ffeacb16a5429bc555258c6ee7e8775b202970a9d1cb85c9c367ae7bed27",
        )


class Building(SynchronousTestCase):
    @given(
        size=st.integers(0, 700),
        leaf_bytes=st.integers(1, 40),
        cuts=st.lists(st.integers(0, 700), max_size=6),
    )
    def test_however_the_bytes_come(self, size: int, leaf_bytes: int, cuts: list[int]) -> None:
        data = some_bytes(size)
        kept = bytearray()
        builder = TreeBuilder(leaf_bytes, kept.extend)
        for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 700], strict=True):
            builder.update(memoryview(data)[start:end])
        root = builder.finish()
        self.assertEqual((root, kept), plant(data, leaf_bytes))
        self.assertEqual(builder.size, size)
        shape = Shape(size, leaf_bytes)
        self.assertEqual(root, shape.root(mth(cut(data, leaf_bytes))))
        self.assertEqual(len(kept), shape.kept_bytes)

    def test_byte_by_byte(self) -> None:
        data = some_bytes(1_000)
        builder = TreeBuilder(7)
        for at in range(1_000):
            builder.update(data[at : at + 1])
        self.assertEqual(builder.finish(), plant(data, 7)[0])

    def test_every_number_of_leaves(self) -> None:
        data = some_bytes(140)
        for count in range(141):
            root, kept = plant(data[:count], 1)
            shape = Shape(count, 1)
            self.assertEqual(root, shape.root(mth(cut(data[:count], 1))))
            self.assertEqual(len(kept), shape.kept_bytes)
            self.assertEqual(Prover(shape, reads(kept), reads(data)).root(), root)

    def test_roots_of_different_bytes_differ(self) -> None:
        """Of lengths, leaves and bytes; zeros at the end count."""
        roots = {
            plant(bytes(size), leaf_bytes)[0]
            for size in range(40)
            for leaf_bytes in (1, 2, 3, 8, 64)
        }
        self.assertEqual(len(roots), 200)

    def test_no_two_leaves_are_taken_for_one(self) -> None:
        """A node shown as a leaf has another hash, and another length besides."""
        data = some_bytes(128)
        one, two = (leaf_hash(each) for each in (data[:64], data[64:]))
        self.assertNotEqual(plant(data, 64)[0], plant(one + two, 64)[0])
        self.assertNotEqual(leaf_hash(one + two), node_hash(one, two))

    def test_the_last_one_is_not_paired_with_itself(self) -> None:
        """Else three leaves and four, of which the last two are the same, were one tree."""
        shape = Shape(3, 1)
        tops = [top_from(Shape(n, 1), 0, [leaf_hash(b"x")] * n, []) for n in (3, 4)]
        self.assertNotEqual(tops[0], tops[1])
        self.assertEqual(list(shape.branch(2, 1)), [(1, 0)])

    def test_memory_is_constant(self) -> None:
        """What is remembered is a hash for each level."""
        builder = TreeBuilder(1)
        for _ in range(40):
            builder.update(bytes(100))
            self.assertLessEqual(len(builder._whole), 12)
            self.assertEqual((len(builder._nodes), len(builder._partial)), (0, 0))
        builder = TreeBuilder(4096)
        builder.update(bytes(4095))
        self.assertEqual(len(builder._partial), 4095)
        builder.update(bytes(2))
        self.assertEqual(len(builder._partial), 1)

    def test_what_is_kept_of_a_share(self) -> None:
        """Not more than 0.2 %; of a GiB, 2^18 leaves: 2 MiB, and proofs of 576 bytes."""
        shape = Shape(2**30)
        self.assertEqual(shape.leaves, 2**18)
        self.assertEqual(shape.kept_bytes, 32 * (2**16 - 1))
        self.assertEqual(HASH_BYTES * len(list(shape.branch(12_345, 1))), 576)

    def test_a_tree_is_finished_once(self) -> None:
        builder = TreeBuilder()
        builder.finish()
        with self.assertRaises(ValueError):
            builder.finish()
        with self.assertRaises(ValueError):
            builder.update(b"x")

    def test_lengths_that_are_none(self) -> None:
        for size, leaf_bytes in ((-1, 1), (MAX_BYTES + 1, 1), (1, 0), (1, MAX_LEAF_BYTES + 1)):
            with self.assertRaises(ValueError):
                Shape(size, leaf_bytes)
        for leaf_bytes in (0, -1, MAX_LEAF_BYTES + 1):
            with self.assertRaises(ValueError):
                TreeBuilder(leaf_bytes)
        Shape(MAX_BYTES, MAX_LEAF_BYTES)


class Proving(SynchronousTestCase):
    def test_every_leaf_of_small_trees(self) -> None:
        """The branches are those of the RFC, and its verifier takes them."""
        data = some_bytes(70)
        for count in range(1, 71):
            there, leaves = prover(data[:count], 1), cut(data[:count], 1)
            for index in {0, 1, count // 3, count // 2, count - 2, count - 1} & set(range(count)):
                branch = there.branch(index, 1)
                self.assertEqual(branch, path(index, leaves))
                self.assertTrue(verify(leaves[index], index, count, branch, mth(leaves)))

    @given(size=st.integers(1, 3_000), leaf_bytes=st.integers(1, 64), data=st.data())
    def test_any_leaves_in_a_row(self, size: int, leaf_bytes: int, data: st.DataObject) -> None:
        there = some_bytes(size)
        shape = Shape(size, leaf_bytes)
        first = data.draw(st.integers(0, shape.leaves - 1))
        count = data.draw(st.integers(1, shape.leaves - first))
        root, kept = plant(there, leaf_bytes)
        branch = Prover(shape, reads(kept), reads(there)).branch(first, count)
        self.assertEqual(len(branch), len(list(shape.branch(first, count))))
        start = first * leaf_bytes
        piece = there[start : start + shape.length(first, count)]
        check_leaves(root, shape, first, piece, branch)
        # Twice the levels, at most.
        self.assertLessEqual(len(branch), 2 * shape.leaves.bit_length())
        if count == 1:
            leaves = cut(there, leaf_bytes)
            self.assertTrue(verify(piece, first, shape.leaves, branch, mth(leaves)))

    def test_a_block_of_whole_groups_needs_no_leaves(self) -> None:
        data = some_bytes(100 * GROUP)
        _, kept = plant(data, 1)

        def refuse(offset: int, length: int) -> bytes:
            raise AssertionError("leaves are read")

        there = Prover(Shape(len(data), 1), reads(kept), refuse)
        self.assertEqual(len(there.branch(16 * GROUP, 16 * GROUP)), 3)
        self.assertTrue(there.branch(96 * GROUP, 4 * GROUP))

    def test_two_groups_of_leaves_are_read_at_most(self) -> None:
        data = some_bytes(1_003)
        _, kept = plant(data, 1)
        offsets: list[int] = []

        def read(offset: int, length: int) -> bytes:
            offsets.append(offset)
            self.assertLessEqual(length, GROUP)
            return data[offset : offset + length]

        there = Prover(Shape(len(data), 1), reads(kept), read)
        there.branch(13, 1)
        self.assertEqual(offsets, [8])
        offsets.clear()
        there.branch(13, 700)
        self.assertEqual(offsets, [8, 712])
        offsets.clear()
        there.branch(1_002, 1)
        self.assertEqual(offsets, [1_000])

    def test_leaves_that_are_none(self) -> None:
        there = prover(bytes(100), 1)
        for first, count in ((-1, 1), (0, 0), (100, 1), (99, 2), (0, 101)):
            with self.assertRaises(ValueError):
                there.branch(first, count)
            if count > 0:
                with self.assertRaisesRegex(ValueError, f"no {count} leaves from {first} "):
                    top_from(Shape(100, 1), first, [leaf_hash(b"")] * count, [])
        with self.assertRaises(ValueError):
            top_from(Shape(100, 1), 5, [], [])
        with self.assertRaises(ValueError):
            prover(b"", 1).branch(0, 1)

    def test_what_was_damaged_proves_nothing(self) -> None:
        data = some_bytes(100)
        root, kept = plant(data, 1)
        shape = Shape(100, 1)
        for at in range(0, len(kept), HASH_BYTES):
            bad = bytearray(kept)
            bad[at] ^= 1
            there = Prover(shape, reads(bad), reads(data))
            good = sum(self.proves(root, shape, there, data, first) for first in range(100))
            # Of those below it, no branch needs it.
            self.assertTrue(0 < good < 100, good)

    def proves(self, root: bytes, shape: Shape, there: Prover, data: bytes, first: int) -> bool:
        try:
            check_leaves(root, shape, first, data[first : first + 1], there.branch(first, 1))
        except ObjectDamaged:
            return False
        return True


class Checking(SynchronousTestCase):
    def setUp(self) -> None:
        self.data = some_bytes(1_003)
        self.shape = Shape(1_003, 10)
        self.root, _ = plant(self.data, 10)
        self.prover = prover(self.data, 10)

    def refused(
        self, first: int, data: Data, branch: list[bytes], shape: Shape | None = None
    ) -> None:
        with self.assertRaisesRegex(ObjectDamaged, f"leaf {first} "):
            check_leaves(self.root, shape or self.shape, first, data, branch)

    def test_every_bit_counts(self) -> None:
        for first, count in ((37, 1), (100, 1), (30, 4)):
            piece = self.data[first * 10 : (first + count) * 10]
            branch = self.prover.branch(first, count)
            check_leaves(self.root, self.shape, first, piece, branch)
            for bit in range(8 * len(piece)):
                changed = bytearray(piece)
                changed[bit // 8] ^= 1 << bit % 8
                self.refused(first, changed, branch)
            for number in range(len(branch)):
                for bit in (0, 7, 100, 255):
                    hashed = bytearray(branch[number])
                    hashed[bit // 8] ^= 1 << bit % 8
                    self.refused(
                        first, piece, [*branch[:number], bytes(hashed), *branch[number + 1 :]]
                    )

    def test_every_length_of_the_branch(self) -> None:
        branch = self.prover.branch(37, 1)
        piece = self.data[370:380]
        for length in range(len(branch)):
            self.refused(37, piece, branch[:length])
            self.refused(37, piece, branch[length + 1 :])
        self.refused(37, piece, [*branch, branch[-1]])
        self.refused(37, piece, [*branch, b""])
        for length in range(HASH_BYTES):
            self.refused(37, piece, [*branch[:-1], branch[-1][:length]])
        # Cut elsewhere, these are the same bytes to be hashed.
        one, two = branch[0] + branch[1][:1], branch[1][1:]
        self.refused(37, piece, [one, two, *branch[2:]])

    def test_every_truncation_of_the_bytes(self) -> None:
        for first, count in ((37, 1), (30, 4), (99, 2)):
            piece = self.data[first * 10 : (first + count) * 10]
            branch = self.prover.branch(first, count)
            check_leaves(self.root, self.shape, first, piece, branch)
            for length in range(len(piece)):
                self.refused(first, piece[:length], branch)
            self.refused(first, piece + b"\x00", branch)

    def test_leaves_stay_where_they_are(self) -> None:
        branch = self.prover.branch(37, 1)
        for first in (-1, 0, 36, 38, 99, 100, 101, 2**70):
            self.refused(first, self.data[370:380], branch)

    def test_a_length_that_is_not_the_true_one(self) -> None:
        """The same leaves and levels, and another length: the root says no."""
        branch = self.prover.branch(37, 1)
        for size in (1_001, 1_002, 1_004, 1_010, 1_020):
            self.refused(37, self.data[370:380], branch, Shape(size, 10))

    def test_a_node_is_no_leaf(self) -> None:
        """As would be in a tree whose root does not hold the lengths of its leaves."""
        data = some_bytes(128)
        root, _ = plant(data, 32)
        hashes = [leaf_hash(each) for each in cut(data, 32)]
        upper = [node_hash(hashes[0], hashes[1]), node_hash(hashes[2], hashes[3])]
        with self.assertRaises(ObjectDamaged):
            check_leaves(root, Shape(128, 64), 0, hashes[0] + hashes[1], [upper[1]])

    def test_another_root(self) -> None:
        branch = self.prover.branch(37, 1)
        for root in (bytes(32), b"", self.root[:-1], self.root + b"\x00"):
            with self.assertRaises(ObjectDamaged):
                check_leaves(root, self.shape, 37, self.data[370:380], branch)

    def test_all_leaves_need_no_branch(self) -> None:
        check_leaves(self.root, self.shape, 0, self.data, [])
        self.refused(0, self.data, [bytes(32)])

    def test_a_share_of_no_bytes(self) -> None:
        root, kept = plant(b"", 10)
        self.assertEqual(kept, b"")
        shape = Shape(0, 10)
        self.assertEqual((shape.leaves, shape.kept_bytes), (0, 0))
        with self.assertRaises(ObjectDamaged):
            check_leaves(root, shape, 0, b"", [])
        self.assertEqual(Prover(shape, reads(b""), reads(b"")).root(), root)

    @given(data=st.data())
    def test_what_passes_is_the_truth(self, data: st.DataObject) -> None:
        """Mostly true calls, with one thing changed or none."""
        first = data.draw(st.integers(0, 100))
        count = data.draw(st.integers(1, 101 - first))
        piece = self.data[first * 10 : (first + count) * 10]
        branch = self.prover.branch(first, count)
        other = data.draw(st.integers(0, 100))
        change = data.draw(st.sampled_from(["nothing", "first", "piece", "branch", "size"]))
        there, shape, given_branch, at = piece, self.shape, branch, first
        if change == "first":
            at = other
        elif change == "piece":
            there = self.data[other * 10 : (other + count) * 10]
        elif change == "branch":
            given_branch = self.prover.branch(other, 1)
        elif change == "size":
            shape = Shape(data.draw(st.integers(1, 2_000)), 10)
        same = (at, there, given_branch, shape) == (first, piece, branch, self.shape)
        try:
            check_leaves(self.root, shape, at, there, given_branch)
        except ObjectDamaged:
            self.assertFalse(same)
        else:
            self.assertTrue(same)


class Defaults(SynchronousTestCase):
    def test_leaves_of_shares(self) -> None:
        """A block of 1 MiB is whole groups, and so is one of 256 KiB."""
        self.assertEqual(LEAF_BYTES, 4096)
        self.assertEqual(2**20 % (GROUP * LEAF_BYTES), 0)
        self.assertEqual(Shape(2**20).leaf_bytes, LEAF_BYTES)
        self.assertEqual(TreeBuilder().leaf_bytes, LEAF_BYTES)
