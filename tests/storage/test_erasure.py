"""Tests of L{meshkit.storage.galois}, L{meshkit.storage.erasure} and L{meshkit.storage.codecs}."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from itertools import combinations, permutations
from random import Random
from threading import Thread
from typing import Any
from unittest import SkipTest

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from meshkit.errors import CodecUnavailable, SchemeInvalid, SharesInvalid
from meshkit.interfaces import IErasureCode, IErasureCodec
from meshkit.storage import codecs, erasure
from meshkit.storage.codecs import CODECS, IsalCodec, choose_codec, open_isal, self_test
from meshkit.storage.erasure import PythonCodec, ZfecCodec, check_shape
from meshkit.storage.galois import MAX_SHARES, coefficients, multiples, point, product

NO_ISAL = "there is no ISA-L on this machine (Debian: apt install libisal2)"

# What zfec 1.6.0.0 makes of blocks of which block i is the first 8 bytes of the SHA-256 of
# the byte i.
VECTORS = {
    (3, 5): ("c276668ed1e57434", "605ee962b000daff"),
    (6, 9): ("68dba069d6828cd7", "e05308553d671ae1", "81f6240898a5a7cd"),
}
# SHA-256 of the 256 shares of a byte each, of which 200 suffice, block i being the byte i.
VECTOR_200_256 = "56a32780553e4796caf4e4b571add88c2bcbebf2b87a49c12d3bf8941272d240"


def blocks_of(required: int, length: int, seed: int = 0) -> list[bytes]:
    rng = Random(seed)
    return [rng.randbytes(length) for _ in range(required)]


def usable() -> list[Any]:
    """The codecs of this machine."""
    found = []
    for name in CODECS:
        try:
            found.append(choose_codec(name))
        except CodecUnavailable:
            if name != IsalCodec.name:
                raise
    return found


class Field(SynchronousTestCase):
    def test_what_the_polynomial_says(self) -> None:
        self.assertEqual(product(0x80, 2), 0x1D)
        self.assertEqual(product(0, 7), 0)
        self.assertEqual(product(7, 0), 0)
        # Multiplication without tables, bit by bit.
        for one in range(256):
            for other in (1, 2, 3, 0x53, 0x8E, 0xFF):
                expected, shifted = 0, one
                for bit in range(8):
                    if other >> bit & 1:
                        expected ^= shifted
                    shifted = (shifted << 1) ^ (0x11D if shifted & 0x80 else 0)
                self.assertEqual(product(one, other), expected)

    def test_a_table_holds_the_products(self) -> None:
        for factor in (0, 1, 0x53):
            self.assertEqual(list(multiples(factor)), [product(factor, x) for x in range(256)])

    def test_every_share_has_a_point_of_its_own(self) -> None:
        self.assertEqual(len({point(number) for number in range(MAX_SHARES)}), MAX_SHARES)

    def test_a_share_that_is_known_is_itself(self) -> None:
        self.assertEqual(coefficients([4, 7, 2], 7), bytes([0, 1, 0]))

    def test_the_same_share_twice_determines_nothing(self) -> None:
        with self.assertRaisesRegex(ValueError, "different ones"):
            coefficients([4, 7, 4], 1)


class Vectors(SynchronousTestCase):
    def test_the_bytes_are_those_of_zfec(self) -> None:
        for codec in usable():
            for (required, total), expected in VECTORS.items():
                blocks = [sha256(bytes([number])).digest()[:8] for number in range(required)]
                made = codec.code(required, total).encode(blocks)
                self.assertEqual(tuple(each.hex() for each in made), expected, codec.name)

    def test_the_most_shares_there_can_be(self) -> None:
        blocks = [bytes([number]) for number in range(200)]
        for codec in usable():
            shares = [*blocks, *codec.code(200, 256).encode(blocks)]
            self.assertEqual(len(shares), 256)
            self.assertEqual(sha256(b"".join(shares)).hexdigest(), VECTOR_200_256, codec.name)


class AnyShares(SynchronousTestCase):
    def test_every_subset_gives_every_share_for_small_shapes(self) -> None:
        for codec in usable():
            for total in range(1, 7):
                for required in range(1, total + 1):
                    code = codec.code(required, total)
                    blocks = blocks_of(required, 5, total)
                    shares = [*blocks, *code.encode(blocks)]
                    for numbers in combinations(range(total), required):
                        given_shares = [shares[number] for number in numbers]
                        recovered = code.recover(given_shares, numbers, range(total))
                        self.assertEqual(recovered, shares, (codec.name, numbers))

    def test_the_order_does_not_matter(self) -> None:
        for codec in usable():
            code = codec.code(3, 5)
            blocks = blocks_of(3, 9)
            shares = [*blocks, *code.encode(blocks)]
            for numbers in permutations(range(5), 3):
                found = code.recover([shares[each] for each in numbers], numbers, (2, 0, 4, 2))
                self.assertEqual(found, [shares[2], shares[0], shares[4], shares[2]])

    @given(
        shape=st.tuples(st.integers(1, 24), st.integers(0, 16)),
        length=st.integers(0, 200),
        seed=st.integers(0, 2**32),
    )
    def test_all_codecs_agree(self, shape: tuple[int, int], length: int, seed: int) -> None:
        required, further = shape
        total = required + further
        rng = Random(seed)
        blocks = blocks_of(required, length, seed)
        oracle = PythonCodec().code(required, total)
        shares = blocks + oracle.encode(blocks)
        numbers = rng.sample(range(total), required)
        wanted = rng.choices(range(total), k=rng.randint(0, total))
        for codec in usable():
            code = codec.code(required, total)
            self.assertEqual([*blocks, *code.encode(blocks)], shares)
            found = code.recover([shares[each] for each in numbers], numbers, wanted)
            self.assertEqual(found, [shares[each] for each in wanted])

    def test_any_kind_of_bytes_is_taken_and_none_is_changed(self) -> None:
        plain = blocks_of(3, 8)
        expected = PythonCodec().code(3, 5).encode(plain)
        whole = bytearray(b"".join(plain))
        views = [memoryview(whole)[8 * i : 8 * i + 8] for i in range(3)]
        for codec in usable():
            code = codec.code(3, 5)
            for blocks in (
                plain,
                [bytearray(each) for each in plain],
                views,
                [each.toreadonly() for each in views],
                [memoryview(each).cast("I") for each in plain],
                (plain[0], views[1], bytearray(plain[2])),
            ):
                self.assertEqual(list(code.encode(blocks)), expected)
                shares: list[Any] = [blocks[1], expected[0], expected[1]]
                found = code.recover(shares, [1, 3, 4], [0, 2])
                self.assertEqual(found, [plain[0], plain[2]])
        self.assertEqual(bytes(whole), b"".join(plain))

    def test_the_callers_lists_stay_as_they_are(self) -> None:
        """zfec 1.6 sorts what it is given in place, and the next call with it gives garbage."""
        for codec in usable():
            code = codec.code(3, 5)
            blocks = blocks_of(3, 8)
            shares = [*blocks, *code.encode(blocks)]
            for numbers in ([4, 0, 3], (1, 3, 0)):
                given_shares = [shares[each] for each in numbers]
                for _ in range(2):
                    self.assertEqual(code.recover(given_shares, numbers, range(3)), blocks)
                self.assertEqual(given_shares, [shares[each] for each in numbers])
            self.assertEqual(numbers, (1, 3, 0))

    def test_one_code_serves_many_threads(self) -> None:
        for codec in usable():
            code = codec.code(6, 9)
            wrong: list[int] = []

            def work(seed: int, code: Any = code, wrong: list[int] = wrong) -> None:
                blocks = blocks_of(6, 4_096, seed)
                for _ in range(5):
                    shares = [*blocks, *code.encode(blocks)]
                    if code.recover(shares[3:], range(3, 9), range(6)) != blocks:
                        wrong.append(seed)

            threads = [Thread(target=work, args=(seed,)) for seed in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(wrong, [])


class Refusals(SynchronousTestCase):
    """What makes zfec hang, read beyond its matrix or lie is refused by every codec."""

    def refused(self, numbers: Sequence[Any], text: str, lengths: Sequence[int] = (4,) * 3) -> None:
        for codec in usable():
            code = codec.code(3, 5)
            blocks = [bytes(length) for length in lengths]
            with self.assertRaisesRegex(SharesInvalid, text):
                code.recover(blocks, numbers, range(3))

    def test_the_same_share_twice(self) -> None:
        self.refused([1, 1, 4], "share 1 was given twice")  # for ever, in zfec
        self.refused([0, 4, 4], "share 4 was given twice")  # garbage, in zfec
        self.refused([3, 3, 3], "share 3 was given twice")

    def test_a_share_that_does_not_exist(self) -> None:
        self.refused([0, 1, 5], "no share 5: they go from 0 to 4")
        self.refused([0, 1, 255], "no share 255")
        self.refused([-1, 1, 2], "no share -1")
        self.refused([0, 1, 2**40], "no share")
        self.refused([0, 1.0, 2], "no share 1.0")
        self.refused([0, True, 2], "no share True")
        self.refused([0, "1", 2], "no share '1'")

    def test_too_few_and_too_many(self) -> None:
        self.refused([0, 1], "2 shares were given where 3 are needed", (4, 4))
        self.refused([0, 1, 2, 3], "4 shares were given where 3", (4,) * 4)
        self.refused([], "0 shares were given", ())
        self.refused([0, 1], "3 shares were given, and 2 numbers")
        self.refused([0, 1, 2, 3], "3 shares were given, and 4 numbers")

    def test_different_lengths(self) -> None:
        self.refused([0, 1, 2], "differ in length: 3, 4 bytes", (4, 3, 4))
        for codec in usable():
            code = codec.code(2, 3)
            with self.assertRaisesRegex(SharesInvalid, "differ in length"):
                code.encode([b"abc", b"ab"])
            with self.assertRaisesRegex(SharesInvalid, "1 shares were given where 2"):
                code.encode([b"abc"])
            # As many items, and four times the bytes.
            with self.assertRaisesRegex(SharesInvalid, "differ in length"):
                code.encode([b"ab", memoryview(bytes(8)).cast("I")])

    def test_shares_that_nobody_can_make(self) -> None:
        for codec in usable():
            code = codec.code(3, 5)
            for wanted in (5, -1, 256):
                with self.assertRaisesRegex(SharesInvalid, "no share"):
                    code.recover([b"a", b"b", b"c"], range(3), [0, wanted])
            self.assertEqual(code.recover([b"a", b"b", b"c"], range(3), []), [])

    @given(
        st.lists(
            st.one_of(st.integers(-1, 6), st.sampled_from([255, 256, 2**31, 2**64])), max_size=5
        )
    )
    def test_no_numbers_make_it_hang_or_lie(self, numbers: list[int]) -> None:
        blocks = blocks_of(3, 4)
        shares = blocks + PythonCodec().code(3, 5).encode(blocks)
        sound = len(numbers) == 3 == len(set(numbers)) and all(0 <= each < 5 for each in numbers)
        given_shares = [shares[each % 5] for each in numbers]
        for codec in usable():
            recover = partial(codec.code(3, 5).recover, given_shares, numbers, range(5))
            if sound:
                self.assertEqual(recover(), shares)
            else:
                self.assertRaises(SharesInvalid, recover)

    def test_shapes_that_do_not_exist(self) -> None:
        for required, total in ((0, 3), (-1, 3), (4, 3), (1, 257), (257, 257), (0, 0)):
            self.assertRaises(SchemeInvalid, check_shape, required, total)
            for codec in usable():
                self.assertRaises(SchemeInvalid, codec.code, required, total)
        for required, total in ((1, 1), (256, 256), (1, 256)):
            check_shape(required, total)


class Choice(SynchronousTestCase):
    def without(self) -> Any:
        raise CodecUnavailable("no library")

    def test_what_they_provide(self) -> None:
        for codec in usable():
            verifyObject(IErasureCodec, codec)
            verifyObject(IErasureCode, codec.code(2, 3))

    def test_the_fastest_that_works_is_taken(self) -> None:
        self.assertIs(type(choose_codec(load=self.without)), ZfecCodec)
        try:
            open_isal()
        except CodecUnavailable:
            self.assertIs(type(choose_codec()), ZfecCodec)
        else:
            self.assertIs(type(choose_codec()), IsalCodec)

    def test_one_that_is_named_is_taken_or_refused(self) -> None:
        self.assertIs(type(choose_codec("python")), PythonCodec)
        self.assertIs(type(choose_codec("zfec")), ZfecCodec)
        with self.assertRaisesRegex(CodecUnavailable, "no library"):
            choose_codec("isal", self.without)
        with self.assertRaisesRegex(CodecUnavailable, "'auto', or one of isal, zfec, python"):
            choose_codec("raptor")

    def test_a_codec_that_is_wrong_is_not_used(self) -> None:
        def broken(codec: Any) -> None:
            if codec.name != "python":
                raise CodecUnavailable(f"{codec.name} makes wrong shares")

        self.patch(codecs, "self_test", broken)
        # Another loader than usual: those of that one may have shown their work before.
        load = partial(open_isal)
        self.assertIs(type(choose_codec(load=load)), PythonCodec)
        with self.assertRaisesRegex(CodecUnavailable, "zfec makes wrong shares"):
            choose_codec("zfec", load)

    def test_one_that_was_right_need_not_show_it_again_and_one_that_was_wrong_has_to(self) -> None:
        shown: list[str] = []

        def fails_once(codec: Any) -> None:
            shown.append(codec.name)
            if len(shown) == 1:
                raise CodecUnavailable("wrong shares")

        self.patch(codecs, "self_test", fails_once)
        load = partial(self.without)
        self.assertRaises(CodecUnavailable, choose_codec, "zfec", load)
        for _ in range(3):
            choose_codec("zfec", load)
        self.assertEqual(shown, ["zfec", "zfec"])

    def test_a_machine_without_zfec(self) -> None:
        def missing(name: str) -> Any:
            raise ImportError(f"No module named {name!r}")

        self.patch(erasure, "import_module", missing)
        self.assertIs(type(choose_codec(load=self.without)), PythonCodec)
        with self.assertRaisesRegex(CodecUnavailable, "No module named 'zfec'"):
            choose_codec("zfec")

    def test_a_library_of_another_kind(self) -> None:
        with self.assertRaisesRegex(CodecUnavailable, "lacks a function: .*ec_init_tables"):
            choose_codec("isal", object)

    def test_a_library_that_is_not_there(self) -> None:
        self.patch(codecs, "find_isal", lambda: None)
        with self.assertRaisesRegex(CodecUnavailable, "apt install libisal2"):
            choose_codec("isal")
        self.patch(codecs, "find_isal", lambda: "libno-such-thing.so.7")
        with self.assertRaisesRegex(CodecUnavailable, "cannot be used: libno-such-thing"):
            choose_codec("isal")


class SelfTest(SynchronousTestCase):
    """Codecs that are wrong somewhere, as a library could be on some processor."""

    def found(self, spoil: Any) -> None:
        class Wrong(PythonCodec):
            name = "wrong"

            def code(self, required: int, total: int) -> Any:
                code = PythonCodec().code(required, total)
                spoil(code)
                return code

        with self.assertRaisesRegex(CodecUnavailable, "'wrong' makes wrong shares"):
            self_test(Wrong())

    def test_the_ones_we_have_are_right(self) -> None:
        for codec in usable():
            self_test(codec)

    def test_a_last_byte_that_is_wrong(self) -> None:
        def spoil(code: Any) -> None:
            encode = code.encode

            def wrong(blocks: Any) -> Any:
                made = encode(blocks)
                # Only where the length is no multiple of what it works on at a time.
                if made and len(made[-1]) % 32 == 1:
                    made[-1] = made[-1][:-1] + bytes([made[-1][-1] ^ 1])
                return made

            code.encode = wrong

        self.found(spoil)

    def test_a_seventh_row_that_is_wrong(self) -> None:
        def spoil(code: Any) -> None:
            encode = code.encode

            def wrong(blocks: Any) -> Any:
                made = encode(blocks)
                return [*made[:6], *(bytes(len(each)) for each in made[6:])]

            code.encode = wrong

        self.found(spoil)

    def test_shares_that_are_recovered_wrongly(self) -> None:
        def spoil(code: Any) -> None:
            code.recover = lambda blocks, numbers, wanted: [blocks[0] for _ in wanted]

        self.found(spoil)


@pytest.mark.fuller
class Isal(SynchronousTestCase):
    """The library, where it is installed."""

    def setUp(self) -> None:
        try:
            self.codec = IsalCodec(open_isal())
        except CodecUnavailable:
            raise SkipTest(NO_ISAL) from None

    @given(
        shape=st.tuples(st.integers(1, 40), st.integers(0, 20)),
        length=st.integers(0, 3_000),
        seed=st.integers(0, 2**32),
    )
    def test_it_makes_the_bytes_of_zfec(
        self, shape: tuple[int, int], length: int, seed: int
    ) -> None:
        required, further = shape
        total = required + further
        blocks = blocks_of(required, length, seed)
        shares = [*blocks, *ZfecCodec().code(required, total).encode(blocks)]
        code = self.codec.code(required, total)
        self.assertEqual([*blocks, *code.encode(blocks)], shares)
        numbers = Random(seed).sample(range(total), required)
        found = code.recover([shares[each] for each in numbers], numbers, range(total))
        self.assertEqual(found, shares)

    def test_no_block_is_left_for_the_collector(self) -> None:
        """They have a MiB each, and go with the last reference to them."""
        code = self.codec.code(3, 5)
        plain = blocks_of(3, 1_000)
        blocks = [bytearray(plain[0]), memoryview(plain[1]), plain[2]]
        self.addCleanup(gc.enable)
        gc.disable()
        before = [sys.getrefcount(each) for each in (*plain, *blocks)]
        made = code.encode(blocks)
        found = code.recover([plain[0], *made], [0, 3, 4], [1])
        self.assertEqual([sys.getrefcount(each) for each in (*plain, *blocks)], before)
        for each in (*made, *found):
            # Those of the two lists, of the loop's name and of the call.
            self.assertEqual(sys.getrefcount(each), 4)

    def test_lengths_beyond_its_numbers_are_refused(self) -> None:
        with self.assertRaisesRegex(SharesInvalid, "too long for ISA-L"):
            self.codec.multiply(self.codec.tables([b"\x02"]), 1, [b""], 2**31)
