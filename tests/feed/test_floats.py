"""L{meshkit.feed.floats}: numbers as the programs we share feeds with read and write them."""

from __future__ import annotations

import math

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import MalformedMessage, NumberNotPortable
from meshkit.feed.canonical import canonicalise, read_json
from meshkit.feed.floats import (
    FLOAT_LIMIT,
    canonical_number,
    portable_float,
    read_number,
    write_float,
)
from meshkit.testing.strategies import portable_floats
from tests.feed.known import error_of, vectors

NUMBERS = vectors("numbers.json")["rows"]

# Two floats that a real node is known to misread.
MISREAD = ("0.36995516654807925", "0.47274908866546683")


def spelled_by_a_writer(token: str) -> bool:
    written = write_float(float(token))
    return token in (written, written.replace("e+", "e"))


class KnownNumbersTests(SynchronousTestCase):
    def test_reading_and_writing_does_what_rust_does(self) -> None:
        tried = 0
        for token, text in NUMBERS:
            if text is not None and any(c in text for c in ".e"):
                self.assertEqual(write_float(read_number(token)), text, token)
                tried += 1
        self.assertGreater(tried, 90)

    def test_every_number_gets_rusts_canonical_text_or_keeps_a_writers_spelling(self) -> None:
        for token, text in NUMBERS:
            if text is None:
                self.assertIs(error_of(read_json, token.encode()), MalformedMessage, token)
                continue
            canonical = canonicalise(read_json(token.encode())[0]).text
            if any(c in text for c in ".e") and spelled_by_a_writer(token):
                self.assertEqual(canonical, token)
            else:
                self.assertEqual(canonical, text, token)

    def test_a_number_that_rust_misreads_is_verified_as_its_author_spelled_it(self) -> None:
        for token in MISREAD:
            self.assertNotEqual(write_float(read_number(token)), token)
            self.assertEqual(canonical_number(token), token)

    def test_both_spellings_of_large_floats_are_kept_and_others_become_the_newer(self) -> None:
        for kept in ("1e+16", "1e16", "-1.5e+300", "-1.5e300"):
            self.assertEqual(canonical_number(kept), kept)
        for other in ("1E16", "1e+016", "1.0e16", "10000000000000000.0", "10e15"):
            self.assertEqual(canonical_number(other), "1e+16")
        # Small exponents have one spelling, and a minus is not a plus.
        self.assertEqual(canonical_number("1e-07"), "1e-7")
        self.assertEqual(canonical_number("1e-7"), "1e-7")

    def test_what_is_no_number_is_refused(self) -> None:
        for text in ("", "-", "1.", ".5", "1e", "nan", "inf", "0x1", " 1", "1_0", "\uff11"):
            self.assertIs(error_of(read_number, text), MalformedMessage, text)

    def test_numbers_of_any_length_are_read_quickly(self) -> None:
        zeros = "0" * 100_000
        self.assertEqual(read_number(f"0.{zeros}1"), 0.0)
        self.assertEqual(read_number(f"0.{zeros}1e100001"), 1.0)
        self.assertEqual(read_number(f"1{zeros}e-100000"), 1.0)
        self.assertEqual(read_number(f"1e{zeros}1"), 10.0)
        self.assertEqual(read_number(f"0.1{zeros}"), 0.1)
        with self.assertRaises(MalformedMessage):
            read_number("9" * 100_000)


class PortableFloatTests(SynchronousTestCase):
    @given(st.floats(allow_nan=False, allow_infinity=False))
    @example(1e16)
    @example(1e-5)
    @example(5e-324)
    def test_what_is_written_gives_the_float_back(self, x: float) -> None:
        self.assertEqual(float(write_float(x)), x)

    @given(st.floats(min_value=1e-290, max_value=1e290))
    def test_rust_is_wrong_by_some_units_in_the_last_place_at_most(self, x: float) -> None:
        self.assertLessEqual(abs(read_number(write_float(x)) - x), 8 * math.ulp(x))

    @given(portable_floats())
    @example(0.36995516654807925)
    @example(-9.53931237061242e-10)
    @example(5e-324)
    @example(-0.0)
    @example(math.nextafter(FLOAT_LIMIT, 0))
    def test_what_is_published_is_read_back_unchanged(self, x: float) -> None:
        published = portable_float(x)
        self.assertEqual(read_number(write_float(published)), published)
        self.assertEqual(portable_float(published), published)
        self.assertLessEqual(abs(published - x), 64 * math.ulp(x))
        self.assertEqual(math.copysign(1, published), math.copysign(1, x))

    def test_of_two_stable_neighbours_the_nearer_is_taken(self) -> None:
        for token in MISREAD:
            x = float(token)
            moved = portable_float(x)
            self.assertNotEqual(moved, x)
            self.assertEqual(abs(moved - x), math.ulp(x))

    def test_both_sides_are_searched(self) -> None:
        for sign in (1, -1):
            self.assertEqual(portable_float(sign * 0.9109877835080679), sign * 0.910987783508068)
            self.assertEqual(portable_float(sign * 0.36995516654807925), sign * 0.3699551665480792)

    def test_a_float_that_goes_round_in_circles_is_published_all_the_same(self) -> None:
        x = -9.53931237061242e-10
        visited = [x]
        for _ in range(8):
            visited.append(read_number(write_float(visited[-1])))
        self.assertLess(len(set(visited)), len(visited), "this float settles: choose another")
        self.assertNotEqual(visited[-1], visited[-2])
        self.assertAlmostEqual(portable_float(x) / x, 1.0, places=13)

    def test_floats_from_the_limit_on_are_refused_and_below_it_are_not(self) -> None:
        below = math.nextafter(FLOAT_LIMIT, 0)
        for sign in (1, -1):
            self.assertEqual(portable_float(sign * below), sign * below)
            with self.assertRaisesRegex(NumberNotPortable, "publish it as a string"):
                portable_float(sign * FLOAT_LIMIT)

    def test_what_is_not_finite_is_refused(self) -> None:
        for x in (math.inf, -math.inf, math.nan):
            with self.assertRaises(NumberNotPortable):
                portable_float(x)
