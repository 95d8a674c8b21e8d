"""Tests of L{meshkit.crypto.shamir}."""

from __future__ import annotations

from hashlib import sha256
from itertools import combinations
from random import Random

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.crypto import shamir
from meshkit.crypto.shamir import (
    MAX_PARTS,
    KeyPart,
    combine_parts,
    divide,
    multiply,
    split_key,
    value_at,
)
from meshkit.errors import KeyPartsInvalid

KEY = bytes(range(32))

# Three points and values elsewhere, by shamir-mnemonic 0.3.0 (SLIP-39), C{_interpolate}.
SLIP39 = {
    0: "19181b1a939291909d9c9f9e1011121309080b0a838281808e8f8c8d29282b2a",
    2: "2b2a2928a7a6a5a4adacafae2a2b28293b3a3938b7b6b5b4babbb8b95f5e5d5c",
    255: "363734358f8e8d8c64656667bcbdbebf262724259f9e9d9cc0c1c2c360616263",
}

# The key in five parts, of which three suffice: y and x, by pyshamir 1.1.0, which does it as
# Hashicorp's Vault does.
VAULT = (
    "e8d0d96a38bb929f99ad058ef74f2e71cbe410553d75b75e6f3e8dd4a1e1fd95a3",
    "ea23dd5943721d4b1d6c70801cf840567f2b9f2a20e7f73faaac3d814524f14398",
    "844f196a0eb4800a645872227b5548da0103dfdf2246e27656e4d69ad69bf4ebe1",
    "6d3d45fa29cc630f65d732bce514d42608cff4e7b79c6b1b4273fd19604d19b5b5",
    "1a99dcaf119a732f5f0f0b4a9361fa90b79ffd6ddc7f7921b5fc92e3f169403f4b",
)


def slow_multiply(a: int, b: int) -> int:
    """By the definition: multiply the polynomials, then take the remainder."""
    product = 0
    for bit in range(8):
        if b >> bit & 1:
            product ^= a << bit
    for bit in range(14, 7, -1):
        if product >> bit & 1:
            product ^= 0x11B << bit - 8
    return product


class Field(SynchronousTestCase):
    def test_products(self) -> None:
        """All of them by the definition; FIPS 197 has these two."""
        self.assertEqual((multiply(0x57, 0x83), multiply(0x57, 0x13)), (0xC1, 0xFE))
        for a in range(256):
            for b in range(0, 256, 5):
                self.assertEqual(multiply(a, b), slow_multiply(a, b))

    def test_quotients(self) -> None:
        for a in range(0, 256, 5):
            for b in range(1, 256):
                self.assertEqual(multiply(divide(a, b), b), a)


class KnownAnswers(SynchronousTestCase):
    def test_points_of_slip_39(self) -> None:
        points = [(1, KEY), (5, bytes(range(100, 132))), (9, bytes(range(200, 232)))]
        for x, y in SLIP39.items():
            self.assertEqual(value_at(points, x).hex(), y)
        for point in points:
            self.assertEqual(value_at(points, point[0]), point[1])

    def test_parts_of_vault(self) -> None:
        points = [(part[-1], part[:-1]) for part in map(bytes.fromhex, VAULT)]
        for chosen in combinations(points, 3):
            self.assertEqual(value_at(chosen, 0), KEY)

    def test_our_parts(self) -> None:
        """This form, once published, is read for ever."""
        parts = split_key(KEY, 2, 3, Random(1))
        self.assertEqual(
            [part.text for part in parts],
            [
                "mkpart1-6wywkisklc3zcaqbuxhh45dz3elhhtxgnbg2mnuvfhiqeyqsxhgadjts5v77zzowsn5n62xr"
                "3ayd4yonys5ynq6ryqtrapbujrayt2zpdz55lvd6irx45qvxnai5g",
                "mkpart1-6wywkisklc3zcaqcuxhh45dz3elhhtxgnbg2mnuvfhiqeyqsxhgadjts5v77zzowsn5klv77"
                "vzwhhseirn3atafnqrodcsc3v23tl4teaxpjvhorvt42lpwaxmsku",
                "mkpart1-6wywkisklc3zcaqduxhh45dz3elhhtxgnbg2mnuvfhiqeyqsxhgadjts5v77zzowsn5hvpam"
                "ovmerl2ci7ciksdqjv2s4zd66ds2qdc5bs6vmu5u6sfxky376p5nu",
            ],
        )

    def test_from_the_page_alone(self) -> None:
        """Written from the description, with nothing of ours but the field."""
        one, two, three = split_key(KEY, 2, 3, Random(1))
        for part in (one, two, three):
            self.assertEqual(
                part.commitment,
                sha256(b"meshkit/key-parts/1" + part.set_id + b"\x02" + KEY).digest(),
            )
        # A line through the key at 0: y = key + slope * x.
        for j in range(32):
            slope = one.y[j] ^ KEY[j]
            self.assertEqual(two.y[j], KEY[j] ^ slow_multiply(slope, 2))
            self.assertEqual(three.y[j], KEY[j] ^ slow_multiply(slope, 3))


class Splitting(SynchronousTestCase):
    def test_every_choice_of_small_sets(self) -> None:
        for total in range(2, 7):
            for required in range(2, total + 1):
                parts = split_key(KEY, required, total, Random(total))
                for count in range(1, total + 1):
                    for chosen in combinations(parts, count):
                        if count < required:
                            with self.assertRaisesRegex(KeyPartsInvalid, f"{required} parts"):
                                combine_parts(chosen)
                        else:
                            found = combine_parts(chosen)
                            self.assertEqual((found.key, found.wrong), (KEY, ()))

    @given(
        key=st.binary(min_size=32, max_size=32),
        required=st.integers(2, 12),
        more=st.integers(0, 20),
        seed=st.integers(0, 2**32),
    )
    def test_any_enough_parts_in_any_order(
        self, key: bytes, required: int, more: int, seed: int
    ) -> None:
        rng = Random(seed)
        parts = [
            KeyPart.parse(part.text) for part in split_key(key, required, required + more, rng)
        ]
        rng.shuffle(parts)
        self.assertEqual(combine_parts(parts[:required]).key, key)
        self.assertEqual(combine_parts(parts + parts).key, key)

    def test_the_largest_sets(self) -> None:
        parts = split_key(KEY, 20, MAX_PARTS, Random(1))
        self.assertEqual([part.x for part in parts], list(range(1, 256)))
        self.assertEqual(combine_parts(parts[-20:]).key, KEY)

    def test_fewer_parts_fit_any_key(self) -> None:
        """For each other key there is one part that would complete it to that."""
        one, two = split_key(KEY, 3, 5, Random(1))[:2]
        for other in (bytes(32), b"\xff" * 32, sha256(b"other").digest()):
            points = [(0, other), (one.x, one.y), (two.x, two.y)]
            third = value_at(points, 3)
            self.assertEqual(value_at([(one.x, one.y), (two.x, two.y), (3, third)], 0), other)

    def test_two_splittings_have_nothing_in_common(self) -> None:
        rng = Random(1)
        one, two = split_key(KEY, 2, 3, rng), split_key(KEY, 2, 3, rng)
        self.assertNotEqual(one[0].set_id, two[0].set_id)
        self.assertNotEqual(one[0].commitment, two[0].commitment)
        self.assertFalse({part.y for part in one} & {part.y for part in two})

    def test_what_cannot_be_split(self) -> None:
        for required, total in ((0, 3), (1, 3), (4, 3), (2, MAX_PARTS + 1), (-1, 2)):
            with self.assertRaisesRegex(KeyPartsInvalid, f"into {total} parts"):
                split_key(KEY, required, total, Random(1))
        for key in (b"", KEY[1:], KEY + b"x"):
            with self.assertRaises(ValueError):
                split_key(key, 2, 3, Random(1))


class Wrong(SynchronousTestCase):
    """Parts that are not what was handed out."""

    def setUp(self) -> None:
        self.parts = split_key(KEY, 3, 6, Random(1))
        self.lie = evolve(self.parts[1], y=bytes(32))

    def test_are_named_if_there_are_others(self) -> None:
        for at in range(4):
            given_parts = [self.parts[0], self.parts[2], self.parts[3]]
            given_parts.insert(at, self.lie)
            found = combine_parts(given_parts)
            self.assertEqual((found.key, found.wrong), (KEY, (self.lie,)))

    def test_two_lies_among_five(self) -> None:
        other = evolve(self.parts[4], y=b"x" * 32)
        found = combine_parts([self.lie, other, *self.parts[::2], self.parts[3]])
        # The sixth part was given, and the fifth both ways.
        self.assertEqual((found.key, found.wrong), (KEY, (self.lie, other)))

    def test_are_suspected_if_there_are_no_others(self) -> None:
        with self.assertRaises(KeyPartsInvalid) as caught:
            combine_parts([self.lie, self.parts[0], self.parts[2]])
        message = str(caught.exception)
        for part in (self.lie, self.parts[0], self.parts[2]):
            self.assertIn(part.name, message)
            self.assertNotIn(part.y.hex(), message)

    def test_every_changed_bit(self) -> None:
        for bit in range(0, 256, 7):
            changed = bytearray(self.parts[1].y)
            changed[bit // 8] ^= 1 << bit % 8
            lie = evolve(self.parts[1], y=bytes(changed))
            with self.assertRaises(KeyPartsInvalid):
                combine_parts([lie, self.parts[0], self.parts[2]])
            self.assertEqual(combine_parts([lie, *self.parts[2:5]]).wrong, (lie,))

    def test_the_same_part_both_ways(self) -> None:
        found = combine_parts([self.lie, *self.parts[:3]])
        self.assertEqual((found.key, found.wrong), (KEY, (self.lie,)))
        with self.assertRaisesRegex(KeyPartsInvalid, "only 2"):
            combine_parts([self.lie, self.parts[1], self.parts[0]])

    def test_parts_of_another_key(self) -> None:
        others = split_key(bytes(32), 3, 6, Random(2))
        found = combine_parts([others[0], *self.parts[:3], others[1]])
        self.assertEqual((found.key, found.wrong), (KEY, (others[0], others[1])))
        with self.assertRaisesRegex(KeyPartsInvalid, f"only 2 .*{others[0].name}"):
            combine_parts([others[0], *self.parts[:2]])
        # One that says that fewer suffice is of another set.
        fewer = evolve(self.parts[0], required=2)
        self.assertEqual(combine_parts([fewer, *self.parts[1:4]]).wrong, (fewer,))

    def test_how_long_it_is_tried(self) -> None:
        parts = split_key(KEY, 4, 40, Random(1))
        lies = [evolve(part, y=bytes([part.x]) * 32) for part in parts[:36]]
        self.patch(shamir, "MAX_TRIES", 100)
        with self.assertRaisesRegex(KeyPartsInvalid, "do not give the key"):
            combine_parts(lies + parts[36:])
        self.assertEqual(combine_parts(parts[36:] + lies).wrong, tuple(lies))

    def test_none(self) -> None:
        with self.assertRaisesRegex(KeyPartsInvalid, "no part"):
            combine_parts([])


class Texts(SynchronousTestCase):
    def test_what_is_read_is_what_was_written(self) -> None:
        for part in split_key(KEY, 3, 6, Random(1)):
            self.assertEqual(KeyPart.parse(f" {part.text.upper()}\n"), part)
            self.assertEqual(len(part.text), 133)

    def test_what_is_none(self) -> None:
        part = split_key(KEY, 3, 6, Random(1))[0]
        for text in (part.text[:-1], part.text + "a", "mkpart2-" + part.text[8:], ""):
            with self.assertRaises(KeyPartsInvalid):
                KeyPart.parse(text)
        other = part.text[:30] + ("a" if part.text[30] != "a" else "b") + part.text[31:]
        with self.assertRaisesRegex(KeyPartsInvalid, "misspelt"):
            KeyPart.parse(other)
        for changed in (evolve(part, required=1), evolve(part, required=0), evolve(part, x=0)):
            with self.assertRaisesRegex(KeyPartsInvalid, "numbers"):
                KeyPart.parse(changed.text)

    def test_secrets_are_not_shown(self) -> None:
        parts = split_key(KEY, 2, 2, Random(1))
        for shown in (repr(parts[0]), parts[0].name, repr(combine_parts(parts))):
            for secret in (KEY, parts[0].y):
                self.assertNotIn(secret.hex(), shown)
                self.assertNotIn(repr(secret), shown)
