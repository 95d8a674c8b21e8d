"""Tests of L{meshkit.storage.keeper.uploads}."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    ReservationExceeded,
    ShareMismatch,
    StorageBusy,
    UploadOutOfStep,
    UploadUnknown,
)
from meshkit.storage.keeper.leases import ShardNote
from meshkit.storage.keeper.uploads import (
    MAX_UPLOADS,
    MAX_UPLOADS_EACH,
    Assembly,
    Upload,
    Uploads,
    check_manifest_length,
)
from meshkit.storage.manifest import MAX_MANIFEST, Manifest
from meshkit.storage.scheme import Scheme
from meshkit.storage.shards.memory import MemoryShardStore
from meshkit.storage.terms import MAX_BLOCK
from tests.storage.keeper.keepers import block_of, shelf
from tests.storage.objects import make_manifest

NAME = bytes(32)


def upload(account: int = 1, name: int = 1, size: int = 10 * MAX_BLOCK) -> Upload:
    store = MemoryShardStore()
    return Upload(
        key=(account.to_bytes(32, "big"), name.to_bytes(32, "big")),
        upload=bytes(32),
        number=0,
        lease=bytes(32),
        size=size,
        room=size,
        charge=size,
        expires=100,
        assembly=Assembly(store, NAME, bytes(32), 0),
    )


class StepTests(SynchronousTestCase):
    def test_blocks_come_in_order(self) -> None:
        it = upload()
        for segment in range(3):
            self.assertFalse(it.check(segment, MAX_BLOCK))
            it.advance(MAX_BLOCK)
        for wrong in (0, 1, 4):
            error = self.assertRaises(UploadOutOfStep, it.check, wrong, MAX_BLOCK)
            self.assertEqual(error.next_segment, 3)

    def test_the_last_one_may_come_again(self) -> None:
        it = upload()
        it.advance(8192)
        self.assertTrue(it.check(0, 8192))
        self.assertRaises(UploadOutOfStep, it.check, 0, 4096)

    def test_nothing_comes_again_before_anything_came(self) -> None:
        self.assertRaises(UploadOutOfStep, upload().check, -1, 0)

    def test_a_block_has_a_mebibyte_at_most_and_one_byte_at_least(self) -> None:
        it = upload()
        self.assertFalse(it.check(0, 1))
        self.assertFalse(it.check(0, MAX_BLOCK))
        for wrong in (0, MAX_BLOCK + 1):
            self.assertRaises(ShareMismatch, it.check, 0, wrong)

    def test_all_but_the_last_have_one_length(self) -> None:
        it = upload()
        it.advance(8192)
        self.assertRaises(ShareMismatch, it.check, 1, 8193)
        self.assertFalse(it.check(1, 8192))
        self.assertFalse(it.check(1, 5))
        it.advance(5)
        self.assertRaises(ShareMismatch, it.check, 2, 8192)
        self.assertRaises(ShareMismatch, it.check, 2, 5)

    def test_a_block_that_is_no_multiple_of_a_leaf_is_the_last(self) -> None:
        it = upload()
        it.advance(4097)
        self.assertRaises(ShareMismatch, it.check, 1, 4097)

    def test_no_more_comes_than_was_reserved(self) -> None:
        it = upload(size=8192 + 5)
        it.advance(8192)
        self.assertFalse(it.check(1, 5))
        self.assertRaises(ReservationExceeded, it.check, 1, 6)

    def test_nothing_comes_for_a_share_that_is_here(self) -> None:
        it = upload()
        it.assembly, it.next_segment = None, 4
        error = self.assertRaises(UploadOutOfStep, it.check, 4, 1)
        self.assertEqual(error.next_segment, 4)


class TableTests(SynchronousTestCase):
    def test_one_caller_has_only_so_many_open(self) -> None:
        table = Uploads()
        for number in range(MAX_UPLOADS_EACH):
            table.add(upload(1, number))
        self.assertRaises(StorageBusy, table.add, upload(1, 1000))
        table.add(upload(2, 1000))
        self.assertTrue(table.remove(table.get(upload(1, 5).key)))
        table.add(upload(1, 1000))

    def test_only_so_many_are_open_in_all(self) -> None:
        table = Uploads()
        for number in range(MAX_UPLOADS):
            table.add(upload(number // MAX_UPLOADS_EACH, number))
        self.assertRaises(StorageBusy, table.add, upload(9, 1000))
        self.assertEqual(len(table), MAX_UPLOADS)

    def test_what_is_over_is_gone_once(self) -> None:
        table, it = Uploads(), upload()
        table.add(it)
        self.assertEqual((table.expired(99.9), table.expired(100)), ([], [it]))
        self.assertEqual((table.remove(it), table.remove(it)), (True, False))
        self.assertRaises(UploadUnknown, table.get, it.key)

    def test_one_that_took_its_place_is_not_taken_for_it(self) -> None:
        table, first, second = Uploads(), upload(), upload()
        table.add(first)
        table.remove(first)
        table.add(second)
        self.assertFalse(table.remove(first))
        self.assertIs(table.find(second.key), second)

    def test_it_knows_what_is_still_to_come(self) -> None:
        table, it = Uploads(), upload(size=10_000)
        table.add(it)
        it.advance(4096)
        self.assertEqual(table.to_come, 10_000 - 4096)

    def test_a_manifest_has_a_largest_length(self) -> None:
        check_manifest_length(bytes(MAX_MANIFEST))
        self.assertRaises(ShareMismatch, check_manifest_length, bytes(MAX_MANIFEST + 1))


class AssemblyTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.shelf = shelf()
        self.store = MemoryShardStore()
        self.note = ShardNote(b"", b"", 0, 7)

    def assembly(self, number: int = 2, sent: int | None = None) -> Assembly:
        it = self.shelf
        name = it.header.share_id(number)
        assembly = Assembly(self.store, name, it.header.upload, number)
        for segment in range(it.layout.segments):
            assembly.append(block_of(it, segment, number if sent is None else sent))
        return assembly

    def test_the_file_is_one_that_stands_for_itself(self) -> None:
        note = self.assembly().commit(self.shelf.manifest.raw, self.note)
        (shard,) = self.store.open()
        data = self.store.read(shard.name, 0, shard.size)
        share, nodes = bytes(self.shelf.shares[2]), bytes(self.shelf.nodes[2])
        raw = self.shelf.manifest.raw
        end = bytes([2]) + len(raw).to_bytes(4, "big") + b"mkshare1"
        self.assertEqual(data, share + nodes + raw + end)
        self.assertEqual(ShardNote.decode(shard.note), note)
        self.assertEqual(note.root, self.shelf.manifest.shares[2])
        self.assertEqual(note.content, self.shelf.manifest.content_id)

    def test_nothing_but_the_share_of_the_manifest_is_kept(self) -> None:
        raw = self.shelf.manifest.raw
        short = Assembly(self.store, NAME, self.shelf.header.upload, 2)
        short.append(block_of(self.shelf, 0, 2))
        changed = Assembly(self.store, NAME, self.shelf.header.upload, 2)
        for segment in range(self.shelf.layout.segments):
            block = bytearray(block_of(self.shelf, segment, 2))
            block[0] ^= segment == 1
            changed.append(block)
        few = Manifest(shelf(scheme=Scheme(1, 2, 4096)).header, 1, bytes(32), (bytes(32),) * 2)
        # The same shares, under the name of another upload.
        there = self.shelf.manifest
        header = evolve(there.header, upload=bytes(32))
        renamed = Manifest(header, there.length, there.root, there.shares)
        for wrong, manifest in (
            (self.assembly(), renamed.raw),
            (self.assembly(2, sent=3), raw),
            (short, raw),
            (changed, raw),
            (Assembly(self.store, NAME, self.shelf.header.upload, 2), raw),
            (self.assembly(), raw[:-1]),
            (self.assembly(), b""),
            (self.assembly(), shelf(seed=2).manifest.raw),
            (self.assembly(), make_manifest(50_000).raw),
            (self.assembly(), few.raw),
        ):
            self.assertRaises(ShareMismatch, wrong.commit, manifest, self.note)
        self.assertEqual(self.store.open(), [])
        self.assertFalse(self.store._writers)

    def test_what_comes_again_is_compared(self) -> None:
        it = self.assembly()
        last = block_of(self.shelf, self.shelf.layout.segments - 1, 2)
        self.assertTrue(it.repeats(last))
        self.assertTrue(it.repeats(memoryview(bytearray(last))))
        self.assertFalse(it.repeats(bytes(len(last))))
        self.assertFalse(it.repeats(last[:-1]))

    def test_what_is_given_up_leaves_nothing(self) -> None:
        store = MemoryShardStore(10**6)
        it = Assembly(store, NAME, bytes(32), 0)
        it.discard()
        it.append(bytes(4096))
        it.discard()
        it.discard()
        self.assertEqual(store.free(), 10**6)
