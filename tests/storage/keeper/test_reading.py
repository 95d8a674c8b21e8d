"""Tests of L{meshkit.storage.keeper.reading}."""

from __future__ import annotations

import errno

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import ShareDamaged, ShareUnknown
from meshkit.storage.keeper.leases import ShardNote
from meshkit.storage.keeper.reading import STEP, Check, file_bytes, find, readable
from meshkit.storage.keeper.uploads import Assembly
from meshkit.storage.scheme import Scheme
from meshkit.storage.shards.memory import MemoryShardStore
from tests.storage.keeper.keepers import block_of, shelf
from tests.storage.shelves import Shelf


def kept(of: Shelf, number: int = 1) -> tuple[MemoryShardStore, bytes, int, ShardNote]:
    """@return: a store with a share, its name, the bytes of its file and its note."""
    store, name = MemoryShardStore(), of.header.share_id(number)
    assembly = Assembly(store, name, of.header.upload, number)
    for segment in range(of.layout.segments):
        assembly.append(block_of(of, segment, number))
    note = assembly.commit(of.manifest.raw, ShardNote(b"", b"", 0, 7))
    (shard,) = store.open()
    return store, name, shard.size, note


def changed(store: MemoryShardStore, name: bytes, size: int, at: int, by: int) -> MemoryShardStore:
    """@return: a store in which one byte of a share is another."""
    data = bytearray(store.read(name, 0, size))
    data[at] ^= by
    other = MemoryShardStore()
    writer = other.begin(name)
    writer.append(data)
    writer.commit(b"", b"")
    return other


def run(check: Check) -> list[int]:
    """@return: how much was read in each step."""
    counts = []
    while not check.done:
        counts.append(check.step())
    return counts


class PieceTests(SynchronousTestCase):
    def test_pieces_are_those_that_an_honest_peer_gives(self) -> None:
        for length in (0, 1, 4096, 24_560, 24_561, 300_000):
            of = shelf(length)
            store, name, size, _ = kept(of)
            found = find(store, name, size)
            for segment in range(of.layout.segments):
                self.assertEqual(found.piece(store, segment), of.piece(segment, 1))

    def test_there_are_no_segments_beyond_the_end(self) -> None:
        of = shelf()
        store, name, size, _ = kept(of)
        found = find(store, name, size)
        for wrong in (-1, of.layout.segments):
            self.assertRaises(ShareUnknown, found.piece, store, wrong)

    def test_the_length_of_a_file_follows_from_that_of_the_share(self) -> None:
        for length in (0, 1, 100_000):
            of = shelf(length)
            _, _, size, note = kept(of)
            self.assertEqual(file_bytes(note.size, len(of.manifest.raw)), size)

    def test_a_file_that_is_shorter_is_damaged(self) -> None:
        of = shelf(100)
        store, name, size, _ = kept(of)
        for length in (0, 1, 12, 13, size - 1):
            other = MemoryShardStore()
            writer = other.begin(name)
            writer.append(store.read(name, 0, length))
            writer.commit(b"", b"")
            self.assertRaises(ShareDamaged, find, other, name, length)

    def test_a_file_under_the_name_of_another_is_damaged(self) -> None:
        of = shelf()
        store, name, size, _ = kept(of)
        other = MemoryShardStore()
        writer = other.begin(bytes(32))
        writer.append(store.read(name, 0, size))
        writer.commit(b"", b"")
        error = self.assertRaises(ShareDamaged, find, other, bytes(32), size)
        self.assertIn("another share", str(error))

    def test_only_a_disk_that_cannot_read_makes_a_share_damaged(self) -> None:
        def fail(number: int) -> None:
            with readable(bytes(32)):
                raise OSError(number, "oh")

        self.assertRaises(ShareDamaged, fail, errno.EIO)
        self.assertRaises(OSError, fail, errno.EMFILE)


class CheckTests(SynchronousTestCase):
    def test_a_share_that_is_what_it_was_is_read_to_its_end(self) -> None:
        for length in (0, 1, 24_560, 300_000):
            of = shelf(length)
            store, name, size, note = kept(of)
            self.assertEqual(sum(run(Check(store, name, size, note))), len(of.shares[1]))
            self.assertEqual(sum(run(Check(store, name, size, None))), len(of.shares[1]))

    def test_no_step_reads_much(self) -> None:
        of = shelf(3 * STEP, scheme=Scheme(1, 2))
        store, name, size, note = kept(of)
        counts = run(Check(store, name, size, note))
        self.assertEqual(counts, [STEP, STEP, STEP, len(of.shares[1]) - 3 * STEP])

    @given(at=st.integers(0, 10**6), by=st.integers(1, 255))
    def test_no_byte_of_a_file_can_change_unseen(self, at: int, by: int) -> None:
        of = _BIG
        store, name, size, note = _KEPT
        other = changed(store, name, size, at % size, by)
        self.assertRaises(ShareDamaged, run, Check(other, name, size, note))
        self.assertEqual(sum(run(Check(store, name, size, note))), len(of.shares[1]))

    def test_every_byte_behind_a_share_counts(self) -> None:
        """Nodes, manifest, and the end of the file."""
        of = shelf(10)
        store, name, size, note = kept(of)
        for at in range(size):
            other = changed(store, name, size, at, 1)
            self.assertRaises(ShareDamaged, run, Check(other, name, size, note))

    def test_the_note_says_what_the_manifest_was(self) -> None:
        of = shelf()
        store, name, size, note = kept(of)
        for wrong in (
            evolve(note, content=bytes(32)),
            evolve(note, root=bytes(32)),
            evolve(note, size=1),
        ):
            error = self.assertRaises(ShareDamaged, run, Check(store, name, size, wrong))
            self.assertIn("manifest", str(error))


_BIG = shelf(300_000)
_KEPT = kept(_BIG)
