"""Tests of L{meshkit.storage.canonical}."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import ObjectMalformed
from meshkit.storage.canonical import Description, Form


class _Thing(Description, frozen=True):
    number: int
    data: bytes
    inner: list[int | None]


FORM = Form("thing/1", _Thing, 200)
THING = _Thing("thing/1", 300, b"abc", [1, None])
RAW = FORM.encode(THING)


class Forms(SynchronousTestCase):
    def refused(self, raw: bytes, why: str) -> None:
        with self.assertRaisesRegex(ObjectMalformed, why):
            FORM.decode(raw)

    def test_the_bytes(self) -> None:
        self.assertEqual(RAW, b"\x94\xa7thing/1\xcd\x01\x2c\xc4\x03abc\x92\x01\xc0")
        self.assertEqual(FORM.decode(RAW), THING)

    def test_numbers_and_lengths_are_as_short_as_they_can_be(self) -> None:
        for short, long in (
            (b"\xcd\x01\x2c", b"\xce\x00\x00\x01\x2c"),
            (b"\xcd\x01\x2c", b"\xd1\x01\x2c"),
            (b"\xcd\x01\x2c", b"\xca\x43\x96\x00\x00"),
            (b"\xc4\x03", b"\xc5\x00\x03"),
            (b"\x94", b"\xdc\x00\x04"),
            (b"\x92\x01", b"\x92\xcc\x01"),
            (b"\xa7", b"\xd9\x07"),
            (b"\xc4\x03abc", b"\xa3abc"),
        ):
            self.assertEqual(RAW.count(short), 1)
            self.refused(RAW.replace(short, long), "(one form|no thing)")

    def test_every_truncation_and_what_comes_behind(self) -> None:
        for length in range(len(RAW)):
            self.refused(RAW[:length], "no thing")
        self.refused(RAW + b"\xc0", "no thing")

    def test_fields_that_are_missing_or_more(self) -> None:
        encode = msgspec.msgpack.encode
        self.refused(encode(["thing/1", 300, b"abc"]), "no thing")
        self.refused(encode(["thing/1", 300, b"abc", [1, None], 1]), "no thing")
        self.refused(encode({"kind": "thing/1"}), "no thing")
        self.refused(encode([]), "no thing")
        self.refused(encode([1, 300, b"abc", []]), "no thing")

    def test_other_kinds(self) -> None:
        encode = msgspec.msgpack.encode
        self.refused(encode(["thing/2", {"anything": 1}]), "'thing/2': upgrade meshkit")
        self.refused(encode(["other/1"]), "'other/1' was given where a thing")
        self.refused(b"\x91\xa1\xff", "no thing")

    def test_the_limit(self) -> None:
        full = _Thing("thing/1", 300, b"x" * (200 - len(RAW) + 3), [1, None])
        self.assertEqual(len(FORM.encode(full)), 200)
        self.assertEqual(FORM.decode(FORM.encode(full)), full)
        over = _Thing("thing/1", 300, full.data + b"x", [1, None])
        for what in (lambda: FORM.encode(over), lambda: FORM.decode(bytes(201))):
            with self.assertRaisesRegex(ObjectMalformed, "201 bytes is over the limit of 200"):
                what()

    def test_deep_nesting(self) -> None:
        self.refused(b"\x91" * 200, "no thing")

    @given(
        st.binary(max_size=60)
        | st.builds(msgspec.msgpack.encode, st.lists(st.text() | st.integers(0, 2**63)))
    )
    def test_garbage(self, raw: bytes) -> None:
        self.refused(raw, ".")

    @given(
        st.binary(max_size=40), st.integers(), st.lists(st.none() | st.integers(0, 9), max_size=9)
    )
    def test_what_is_read_is_what_was_written(
        self, data: bytes, number: int, inner: list[Any]
    ) -> None:
        thing = _Thing("thing/1", number % 2**64, data, inner)
        self.assertEqual(FORM.decode(FORM.encode(thing)), thing)

    @given(st.integers(0, 8 * len(RAW) - 1))
    def test_two_different_bytes_mean_different_things(self, bit: int) -> None:
        changed = bytearray(RAW)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            thing = FORM.decode(bytes(changed))
        except ObjectMalformed:
            return
        self.assertNotEqual(thing, THING)
