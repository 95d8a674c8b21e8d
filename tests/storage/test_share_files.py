"""Tests of L{meshkit.storage.share_files}."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from io import BytesIO
from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import NotEnoughShares, ObjectMalformed
from meshkit.storage.encoding import Decoder, Rebuilder, WholeDecoder
from meshkit.storage.erasure import ZfecCodec
from meshkit.storage.scheme import Scheme
from meshkit.storage.share_files import ShareFile, Shares, ShareWriter, share_file_name
from tests.runtime.support import scratch
from tests.storage.objects import make_header
from tests.storage.shelves import Shelf, text_of

CODEC = ZfecCodec()
#: A block is one group of leaves, as those of the usual schemes are many.
BLOCK = 8 * 4096
TINY = Scheme(2, 4, BLOCK)


def files_of(shelf: Shelf) -> list[bytes]:
    """What L{ShareWriter} makes of the shares, whole."""
    made = []
    for number, (share, nodes) in enumerate(zip(shelf.shares, shelf.nodes, strict=True)):
        file = BytesIO()
        writer = ShareWriter(number, file, BytesIO())
        # As they come: some of each, again and again.
        for segment in range(shelf.layout.segments):
            at = shelf.layout.block_at(segment)
            writer.write(share[at : at + shelf.layout.block_bytes(segment)])
            third = -(-len(nodes) // shelf.layout.segments)
            writer.keep(bytes(nodes[segment * third : (segment + 1) * third]))
        writer.finish(shelf.manifest)
        made.append(file.getvalue())
    return made


def gather(files: Iterable[tuple[str, bytes]], content_id: bytes | None = None) -> Shares:
    return Shares.gather([(name, BytesIO(data)) for name, data in files], content_id)


def named(files: Iterable[bytes]) -> list[tuple[str, bytes]]:
    return [(f"f{number}", data) for number, data in enumerate(files)]


def read(shares: Shares, key: bytes) -> bytes:
    """The whole object."""
    whole = WholeDecoder(shares.manifest, Decoder(shares.manifest, key, CODEC))
    texts = [
        shares.read(segment, whole.decode).text
        for segment in range(shares.manifest.layout.segments)
    ]
    whole.finish()
    return b"".join(texts)


class ShelfCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.shelf = Shelf(text_of(7 * TINY.text_bytes + 55), TINY)
        self.files = files_of(self.shelf)

    def read(self, files: Iterable[tuple[str, bytes]], content_id: bytes | None = None) -> Shares:
        """They give the object all the same.  @return: with the faults."""
        shares = gather(files, content_id)
        self.assertEqual(read(shares, self.shelf.key), self.shelf.text)
        return shares

    def blamed(self, shares: Shares) -> list[str]:
        return sorted(fault.name for fault in shares.faults)


class Reading(ShelfCase):
    def test_names_sort(self) -> None:
        self.assertEqual(share_file_name(3, 9), "3.mkshare")
        self.assertEqual(share_file_name(3, 10), "3.mkshare")
        self.assertEqual(share_file_name(3, 11), "03.mkshare")
        self.assertEqual(share_file_name(3, 255), "003.mkshare")

    def test_any_files_that_suffice(self) -> None:
        files = named(self.files)
        for some in (files[:2], files[2:], files[::-1], files[1:3]):
            self.assertEqual(self.read(some).faults, [])

    def test_an_empty_object(self) -> None:
        shelf = Shelf(b"", TINY)
        shares = gather(named(files_of(shelf)[2:]))
        self.assertEqual(read(shares, shelf.key), b"")

    def test_a_range_touches_its_segment_alone(self) -> None:
        spoilt = [bytearray(each) for each in self.files]
        for each in spoilt:
            each[BLOCK : 3 * BLOCK] = bytes(2 * BLOCK)
        shares = gather(named(map(bytes, spoilt)))
        decoder = Decoder(shares.manifest, self.shelf.key, CODEC)
        width = TINY.text_bytes
        found = shares.read(4, lambda pieces: decoder.decode(4, pieces))
        self.assertEqual(found.text, self.shelf.text[4 * width : 5 * width])
        self.assertEqual(shares.faults, [])
        with self.assertRaises(NotEnoughShares):
            shares.read(2, lambda pieces: decoder.decode(2, pieces))

    def test_a_lost_file_is_made_anew(self) -> None:
        shares = gather(named(self.files[1:]))
        file, waiting = BytesIO(), BytesIO()
        writer = ShareWriter(0, file, waiting)
        rebuilder = Rebuilder(
            shares.manifest, CODEC, [0], lambda _number, nodes: writer.keep(nodes)
        )
        for segment in range(shares.manifest.layout.segments):
            (block,) = shares.read(segment, rebuilder.rebuild).blocks
            writer.write(block)
        rebuilder.finish()
        writer.finish(shares.manifest)
        self.assertEqual(file.getvalue(), self.files[0])


class Damage(ShelfCase):
    def test_one_byte_in_any_part_of_any_file(self) -> None:
        """The share, the nodes, the manifest, and what is behind them."""
        for number, good in enumerate(self.files):
            size = len(good)
            places = {*range(0, size, 20_011), *range(self.shelf.layout.share_bytes, size, 197)}
            for at in sorted({*places, *range(size - 13, size)}):
                spoilt = bytearray(good)
                spoilt[at] ^= 0x10
                files = named(self.files)
                # Two files have to do, so that this one is needed if it can be.
                others = [file for file in files if file[0] != f"f{number}"][:2]
                self.read([(f"f{number}", bytes(spoilt)), *others])

    def test_who_was_changed_is_named_once(self) -> None:
        spoilt = bytearray(self.files[1])
        for segment in (2, 5, 6):
            spoilt[segment * BLOCK + 7] ^= 1
        shares = self.read(named([self.files[0], bytes(spoilt), *self.files[2:]]))
        (fault,) = shares.faults
        self.assertEqual(fault.name, "f1")
        self.assertIn("f1 was changed, in segment 2", fault.problem)

    def test_a_file_that_was_wrong_is_left_for_others(self) -> None:
        spoilt = bytearray(self.files[0])
        spoilt[7] ^= 1
        shares = gather(named([bytes(spoilt), *self.files[1:]]))
        decoder = Decoder(shares.manifest, self.shelf.key, CODEC)
        used = [
            shares.read(
                segment, lambda pieces, segment=segment: decoder.decode(segment, pieces)
            ).used
            for segment in range(3)
        ]
        self.assertEqual(used, [[1, 2], [1, 2], [1, 2]])

    def test_files_that_are_each_good_somewhere(self) -> None:
        """Every file is damaged, and every segment is good in two of them."""
        spoilt = [bytearray(each) for each in self.files]
        for segment in range(self.shelf.layout.segments):
            for number in (segment % 4, (segment + 1) % 4):
                spoilt[number][segment * BLOCK + 1] ^= 1
        shares = self.read(named(map(bytes, spoilt)))
        self.assertEqual(self.blamed(shares), ["f0", "f1", "f2", "f3"])

    def test_a_second_copy_of_a_share_stands_in_for_it(self) -> None:
        spoilt = bytearray(self.files[0])
        spoilt[5 * BLOCK] ^= 1
        files = [("bad", bytes(spoilt)), ("good", self.files[0]), ("other", self.files[1])]
        self.assertEqual(self.blamed(self.read(files)), ["bad"])
        with self.assertRaisesRegex(
            NotEnoughShares, "2 shares are needed, and 1 are good in segment 5; .*: bad"
        ):
            self.read([files[0], files[2]])

    def test_copies_of_one_share_are_one(self) -> None:
        with self.assertRaisesRegex(NotEnoughShares, "2 shares are needed, and 1 are good"):
            self.read([("a", self.files[0]), ("b", self.files[0]), ("c", self.files[0])])

    @given(st.data())
    def test_any_end_may_be_missing(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, 3))
        length = data.draw(st.integers(0, len(self.files[number]) - 1))
        files = dict(named(self.files))
        files[f"f{number}"] = files[f"f{number}"][:length]
        shares = self.read(files.items())
        self.assertEqual(self.blamed(shares), [f"f{number}"])

    def test_a_file_whose_middle_is_missing(self) -> None:
        """Its end is as it should be, and everything before it is elsewhere."""
        cut = self.files[0][:BLOCK] + self.files[0][BLOCK + 8 :]
        self.assertEqual(self.blamed(self.read([("cut", cut), *named(self.files[1:])])), ["cut"])

    def test_a_disk_that_fails(self) -> None:
        class Failing(BytesIO):
            def read(self, *args: Any) -> bytes:
                if self.tell() == 3 * BLOCK:
                    raise OSError(errno.EIO, "Input/output error")
                return super().read(*args)

        files = [("bad", Failing(self.files[0]))]
        files += [(name, BytesIO(data)) for name, data in named(self.files[1:])]
        shares = Shares.gather(files)
        self.assertEqual(read(shares, self.shelf.key), self.shelf.text)
        self.assertEqual(
            [fault.problem for fault in shares.faults], ["bad cannot be read: Input/output error"]
        )


class Strangers(ShelfCase):
    def test_files_of_another_object(self) -> None:
        other = Shelf(text_of(300, seed=3), TINY, header=make_header(TINY, 5))
        mixed = [("x", files_of(other)[3]), *named(self.files[:3])]
        shares = self.read(mixed)
        self.assertEqual([fault.problem for fault in shares.faults], ["x is of another object"])
        # Whoever knows what he wants gets it from among many others.
        mixed = [*named(files_of(other)), ("a", self.files[0]), ("b", self.files[3])]
        self.read(mixed, self.shelf.manifest.content_id)

    def test_a_manifest_that_was_changed(self) -> None:
        """Where nobody knows the id of the object, most files decide."""
        roots = list(self.shelf.manifest.shares)
        roots[2] = bytes(32)
        file = BytesIO()
        end = 13 + len(self.shelf.manifest.raw)
        file.write(self.files[0][:-end])
        ShareWriter(0, file, BytesIO()).finish(evolve(self.shelf.manifest, shares=tuple(roots)))
        shares = self.read([("x", file.getvalue()), *named(self.files[1:])])
        self.assertEqual([f.problem for f in shares.faults], ["the manifest in x was changed"])
        # What is in it is used all the same.
        self.assertEqual(
            self.blamed(self.read([("x", file.getvalue()), *named(self.files[2:])])), ["x"]
        )

    def test_files_of_another_kind(self) -> None:
        junk = [
            b"",
            b"mkshare1",
            b"\0" * 100,
            b"x" * 5 + b"mkshare1",
            b"\0\xff\xff\xff\xffmkshare1",
        ]
        shares = self.read(
            [*((f"j{i}", each) for i, each in enumerate(junk)), *named(self.files[2:])]
        )
        self.assertEqual(self.blamed(shares), ["j0", "j1", "j2", "j3", "j4"])
        for each in junk:
            with self.assertRaisesRegex(ObjectMalformed, "name is no share of an object"):
                ShareFile("name", BytesIO(each))

    @given(st.binary(max_size=60), st.integers(0, 255), st.integers(0, 2**32 - 1))
    def test_garbage(self, body: bytes, number: int, length: int) -> None:
        data = body + bytes([number]) + length.to_bytes(4, "big") + b"mkshare1"
        with self.assertRaises(ObjectMalformed):
            ShareFile("name", BytesIO(data))

    def test_no_more_is_read_than_a_manifest_can_have(self) -> None:
        class Counting(BytesIO):
            longest = 0

            def read(self, *args: Any) -> bytes:
                data = super().read(*args)
                self.longest = max(self.longest, len(data))
                return data

        file = Counting(bytes(10**6) + b"\0" + (10**5).to_bytes(4, "big") + b"mkshare1")
        self.assertRaises(ObjectMalformed, ShareFile, "name", file)
        self.assertLess(file.longest, 100)

    def test_a_manifest_that_would_begin_before_the_file(self) -> None:
        path = os.path.join(scratch(self), "file")
        with open(path, "w+b") as file:
            file.write(b"\0" + (500).to_bytes(4, "big") + b"mkshare1")
            self.assertRaises(ObjectMalformed, ShareFile, "name", file)

    def test_a_share_that_there_is_not(self) -> None:
        file = BytesIO()
        ShareWriter(4, file, BytesIO()).finish(self.shelf.manifest)
        with self.assertRaisesRegex(ObjectMalformed, "says that it is share 4, and there is none"):
            ShareFile("name", BytesIO(file.getvalue()))

    def test_nothing_at_all(self) -> None:
        with self.assertRaisesRegex(NotEnoughShares, "none of 0 files is a share of an object"):
            gather([])
        with self.assertRaisesRegex(NotEnoughShares, "none of 1 files .*; x is no share"):
            gather([("x", b"junk")])
        with self.assertRaisesRegex(NotEnoughShares, "share of the object 0000"):
            gather(named(self.files), bytes(32))
