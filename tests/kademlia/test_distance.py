"""Tests of L{meshkit.kademlia.distance}."""

from __future__ import annotations

import hashlib
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.identity.keys import Identity
from meshkit.kademlia.distance import (
    ID_BITS,
    bucket_index,
    closest,
    distance,
    flipped,
    node_id,
    number,
    random_id,
    record_key,
    shared_bits,
)

ids = st.binary(min_size=32, max_size=32)
ZERO = bytes(32)
ONES = b"\xff" * 32


class Ids(SynchronousTestCase):
    def test_a_node_is_where_the_hash_of_its_key_is(self) -> None:
        # RFC 8032, 7.1, TEST 1; the hash is that of sha256sum.
        seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
        self.assertEqual(
            node_id(Identity(seed).public).hex(),
            "21fe31dfa154a261626bf854046fd2271b7bed4b6abe45aa58877ef47f9721b9",
        )

    def test_a_record_is_where_the_hash_of_kind_and_name_is(self) -> None:
        expected = hashlib.sha256(b"meshkit/dht/provider/1" + b"name").digest()
        self.assertEqual(record_key("provider", b"name"), expected)
        self.assertNotEqual(record_key("topic", b"name"), expected)

    def test_no_kind_can_be_taken_for_another(self) -> None:
        # "a/1" with the name "x" would be the kind "a" with the name "/1x".
        for kind in ("", "a/1", "A", "1a", "a" * 33, "a\n", "\u00e4"):
            self.assertRaises(ValueError, record_key, kind, b"")

    def test_an_id_has_32_bytes(self) -> None:
        for wrong in (b"", bytes(31), bytes(33)):
            self.assertRaises(ValueError, number, wrong)
            self.assertRaises(ValueError, distance, ZERO, wrong)
            self.assertRaises(ValueError, closest, [wrong], ZERO, 1)


class Distances(SynchronousTestCase):
    def test_the_ends_of_the_space(self) -> None:
        self.assertEqual(distance(ZERO, ONES), 2**256 - 1)
        self.assertEqual(shared_bits(ZERO, ONES), 0)
        self.assertEqual(shared_bits(ZERO, bytes(31) + b"\x01"), 255)
        self.assertEqual(shared_bits(ONES, ONES), 256)
        self.assertEqual(bucket_index(ZERO, b"\x80" + bytes(31)), 0)
        self.assertEqual(bucket_index(ZERO, b"\x10" + bytes(31)), 3)
        self.assertRaises(ValueError, bucket_index, ONES, ONES)

    @given(ids, ids, ids)
    def test_it_is_a_metric_and_the_same_from_both_ends(self, a: bytes, b: bytes, c: bytes) -> None:
        self.assertEqual(distance(a, b), distance(b, a))
        self.assertEqual(distance(a, b) == 0, a == b)
        self.assertLessEqual(distance(a, c), distance(a, b) + distance(b, c))

    @given(ids, ids, ids)
    def test_of_all_ids_one_only_has_a_given_distance(self, a: bytes, b: bytes, c: bytes) -> None:
        self.assertEqual(distance(a, b) == distance(a, c), b == c)

    @given(ids, ids, ids)
    def test_who_shares_more_bits_is_nearer(self, target: bytes, a: bytes, b: bytes) -> None:
        if shared_bits(target, a) > shared_bits(target, b):
            self.assertLess(distance(target, a), distance(target, b))

    @given(st.lists(ids), ids, st.integers(0, 10))
    def test_the_closest_are_those_of_a_full_sort(
        self, some: list[bytes], target: bytes, count: int
    ) -> None:
        expected = sorted(some, key=lambda place: distance(place, target))[:count]
        self.assertEqual(closest(some, target, count), expected)


class Places(SynchronousTestCase):
    @given(ids, st.integers(0, ID_BITS - 1), st.integers(0, 2**32))
    def test_a_random_id_is_in_the_bucket_that_was_asked_for(
        self, own: bytes, bits: int, seed: int
    ) -> None:
        self.assertEqual(bucket_index(own, random_id(own, bits, Random(seed))), bits)

    def test_random_ids_fill_their_bucket(self) -> None:
        rng = Random(1)
        seen = {random_id(ZERO, 253, rng) for _ in range(100)}
        self.assertEqual(seen, {bytes(31) + bytes([n]) for n in (4, 5, 6, 7)})

    @given(ids, st.integers(0, ID_BITS - 1))
    def test_a_flipped_bit_is_the_first_that_differs(self, place: bytes, bit: int) -> None:
        self.assertEqual(shared_bits(place, flipped(place, bit)), bit)
        self.assertEqual(distance(place, flipped(place, bit)).bit_count(), 1)

    def test_there_are_256_bits(self) -> None:
        for bit in (-1, 256):
            self.assertRaises(ValueError, flipped, ZERO, bit)
            self.assertRaises(ValueError, random_id, ZERO, bit, Random(1))
