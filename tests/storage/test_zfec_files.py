"""Tests of L{meshkit.storage.zfec_files}, with the program zfec as the other side."""

from __future__ import annotations

import os
from io import BytesIO
from itertools import combinations
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zfec import filefec

from meshkit.errors import SchemeInvalid, SharesInvalid
from meshkit.storage.erasure import PythonCodec, ZfecCodec
from meshkit.storage.zfec_files import (
    HEADER_BYTES,
    PIECE_BYTES,
    ZfecHeader,
    decode_shares,
    encode_shares,
    share_name,
)
from tests.runtime.support import scratch

CODEC = ZfecCodec()
#: Lengths around every border there is, for 3 required shares.
STRIPE = 3 * PIECE_BYTES
SIZES = (0, 1, 2, 3, 4, PIECE_BYTES, STRIPE - 1, STRIPE, STRIPE + 1, STRIPE + 5, 64 * STRIPE + 7)


def made(
    data: bytes, required: int, total: int, cut: int = 10_000, codec: Any = CODEC
) -> list[bytes]:
    """The files, each whole."""
    chunks = [data[at : at + cut] for at in range(0, len(data), cut)]
    files = [b""] * total
    for pieces in encode_shares(codec, required, total, len(data), chunks):
        files = [file + piece for file, piece in zip(files, pieces, strict=True)]
    return files


def read(files: list[bytes], pieces: int = 3, codec: Any = CODEC) -> bytes:
    """The data of some of the files."""
    headers, bodies = [], []
    for file in files:
        header, length = ZfecHeader.parse(file[:HEADER_BYTES])
        headers.append(header)
        bodies.append(file[length:])
    step = pieces * PIECE_BYTES
    batches = [
        [body[at : at + step] for body in bodies]
        for at in range(0, max(map(len, bodies), default=0), step)
    ]
    return b"".join(decode_shares(codec, headers, batches))


class Headers(SynchronousTestCase):
    @given(st.data())
    def test_they_are_those_of_the_program(self, data: st.DataObject) -> None:
        total = data.draw(st.integers(1, 256))
        required = data.draw(st.integers(1, total))
        header = ZfecHeader(
            required,
            total,
            data.draw(st.integers(0, required - 1)),
            data.draw(st.integers(0, total - 1)),
        )
        theirs = filefec._build_header(total, required, header.padding, header.number)
        self.assertEqual(header.encode(), theirs)
        self.assertEqual(ZfecHeader.parse(theirs + b"share"), (header, len(theirs)))

    @given(st.binary(max_size=HEADER_BYTES))
    def test_garbage_is_refused_or_read_as_the_program_does(self, start: bytes) -> None:
        try:
            header, length = ZfecHeader.parse(start)
        except SharesInvalid:
            return
        found = filefec._parse_header(BytesIO(start))
        self.assertEqual((header.total, header.required, header.padding, header.number), found)
        self.assertLessEqual(length, len(start))

    def test_every_end_is_missed(self) -> None:
        whole = ZfecHeader(100, 200, 99, 199).encode()
        self.assertEqual(len(whole), HEADER_BYTES)
        for length in range(HEADER_BYTES):
            with self.assertRaisesRegex(SharesInvalid, "cut off within its header"):
                ZfecHeader.parse(whole[:length])

    def test_numbers_that_do_not_fit(self) -> None:
        # 4 bits each are read, and 10 shares need them all.
        for total, required, padding, number in ((9, 15, 0, 0), (9, 4, 0, 12), (9, 4, 7, 0)):
            value = (total << 4 | required) << 3 | padding
            start = (value << 4 | number) << 5
            with self.assertRaisesRegex(SharesInvalid, "no share file of zfec"):
                ZfecHeader.parse(start.to_bytes(3, "big"))

    def test_names(self) -> None:
        self.assertEqual(share_name("a.txt", 2, 5), "a.txt.2_5.fec")
        self.assertEqual(share_name("a", 2, 12), "a.02_12.fec")


class WithTheProgram(SynchronousTestCase):
    def test_the_files_are_its_files(self) -> None:
        for size in SIZES:
            data = Random(size).randbytes(size)
            folder = scratch(self)
            self.assertEqual(filefec.encode_to_files(BytesIO(data), size, folder, "x", 3, 5), 0)
            for number, file in enumerate(made(data, 3, 5)):
                with open(os.path.join(folder, share_name("x", number, 5)), "rb") as theirs:
                    self.assertEqual(file, theirs.read(), (size, number))

    def test_it_reads_ours(self) -> None:
        for size in SIZES:
            data = Random(size).randbytes(size)
            files = made(data, 3, 5, codec=PythonCodec())
            for some in combinations(files, 3):
                sources = [BytesIO(file) for file in some]
                for source in sources:
                    source.name = "share"  # type: ignore[attr-defined]
                out = BytesIO()
                filefec.decode_from_files(out, sources)
                self.assertEqual(out.getvalue(), data, size)


class RoundTrip(SynchronousTestCase):
    @given(
        shape=st.tuples(st.integers(1, 8), st.integers(0, 4)),
        size=st.one_of(st.integers(0, 100), st.integers(0, 100_000)),
        cut=st.integers(1, 50_000),
        pieces=st.integers(1, 70),
        seed=st.integers(0, 2**32),
    )
    def test_any_shares_give_the_data(
        self, shape: tuple[int, int], size: int, cut: int, pieces: int, seed: int
    ) -> None:
        required, total = shape[0], sum(shape)
        rng = Random(seed)
        data = rng.randbytes(size)
        cut = max(cut, size // 50)
        files = made(data, required, total, cut)
        some = rng.sample(files, rng.randint(required, total))
        self.assertEqual(read(some, pieces), data)

    def test_data_that_changed_meanwhile(self) -> None:
        for size in (9, 11):
            with self.assertRaisesRegex(SharesInvalid, f"{size} were announced"):
                list(encode_shares(CODEC, 2, 3, size, [b"12345", b"67890"]))

    def test_it_stops_at_more_than_was_announced(self) -> None:
        def endless() -> Any:
            while True:
                yield bytes(1_000)

        with self.assertRaisesRegex(SharesInvalid, "more than 5000 bytes"):
            list(encode_shares(CODEC, 2, 3, 5_000, endless()))

    def test_shapes_that_do_not_exist(self) -> None:
        with self.assertRaises(SchemeInvalid):
            list(encode_shares(CODEC, 3, 2, 0, []))


class Refusals(SynchronousTestCase):
    def setUp(self) -> None:
        self.data = Random(1).randbytes(2 * STRIPE + 100)
        self.files = made(self.data, 3, 5)

    def refused(self, files: list[bytes], text: str) -> None:
        with self.assertRaisesRegex(SharesInvalid, text):
            read(files)

    def test_too_few(self) -> None:
        self.refused([], "there are no shares")
        self.refused(self.files[:2], "there are 2 shares, and 3 are needed")

    def test_one_twice(self) -> None:
        self.refused([self.files[1], self.files[1], self.files[4]], "share 1 was given twice")
        self.refused([*self.files[:4], self.files[3]], "share 3 was given twice")

    def test_of_different_files(self) -> None:
        other = made(self.data + b"x", 3, 5)
        self.refused([*self.files[:2], other[2]], "are of different files")
        self.refused([*self.files[:2], made(self.data, 3, 6)[5]], "of different files")

    def test_different_lengths(self) -> None:
        self.refused([*self.files[:2], self.files[2][:-1]], "one of them was cut off")
        self.refused([*self.files[:2], self.files[2] + b"x"], "one of them was cut off")
        self.refused([self.files[0] + bytes(PIECE_BYTES), *self.files[1:]], "was cut off")

    def test_padding_that_is_missing(self) -> None:
        cut = [file[: -34 - PIECE_BYTES] for file in self.files]
        self.refused(cut, "do not end with their padding")
        self.refused([file[:3] for file in self.files], "do not end with their padding")

    def test_one_that_was_changed_is_noticed_among_more(self) -> None:
        for number in range(5):
            for at in (3, 2_000, len(self.files[0]) - 1):
                files = list(self.files)
                changed = bytearray(files[number])
                changed[at] ^= 1
                files[number] = bytes(changed)
                self.refused(files, "contradict each other")
                self.refused(files[max(0, number - 3) :][:4], "contradict each other")
