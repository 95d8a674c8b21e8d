"""Tests of L{meshkit.storage.shards.memory}."""

from __future__ import annotations

import errno

from twisted.trial.unittest import SynchronousTestCase

from meshkit.storage.shards.memory import MemoryShardStore
from meshkit.storage.terms import MAX_NOTE, Shard
from meshkit.testing.shards import shard_end, shard_store_problems

NAME, OTHER = bytes(32), b"\1" * 32


class MemoryTests(SynchronousTestCase):
    def test_it_is_a_store(self) -> None:
        store = MemoryShardStore()
        self.assertEqual(shard_store_problems(lambda: store), [])
        self.assertIs(store.free(), None)

    def test_it_is_full_when_it_is(self) -> None:
        store = MemoryShardStore(len(shard_end()) + 10)
        writer = store.begin(NAME)
        writer.append(b"12345")
        writer.keep(b"678")
        refused = self.assertRaises(OSError, writer.append, b"9ab" + shard_end())
        self.assertEqual((refused.errno, refused.filename), (errno.ENOSPC, NAME.hex()))
        writer.append(b"9a")
        self.assertEqual(store.free(), len(shard_end()))
        writer.commit(shard_end(), b"note")
        self.assertEqual(store.free(), 0)
        self.assertEqual(store.read(NAME, 0, 10), b"123459a678")

        late = store.begin(OTHER)
        self.assertRaises(OSError, late.append, b"1")
        late.append(b"")
        late.discard()
        self.assertEqual(store.open(), [Shard(NAME, 10 + len(shard_end()), b"note")])

    def test_a_commit_that_finds_no_room_gives_the_shard_up(self) -> None:
        store = MemoryShardStore(10)
        writer = store.begin(NAME)
        writer.append(b"12345")
        self.assertRaises(OSError, writer.commit, b"678901", b"")
        self.assertEqual((store.open(), store.free()), ([], 10))
        self.assertRaises(ValueError, writer.append, b"")

    def test_room_comes_back(self) -> None:
        store = MemoryShardStore(100)
        for name, size in ((NAME, 10), (NAME, 20), (OTHER, 30)):
            writer = store.begin(name)
            writer.append(bytes(size))
            writer.commit(b"", b"")
        self.assertEqual(store.free(), 50)
        store.remove(OTHER)
        store.remove(OTHER)
        self.assertEqual(store.free(), 80)
        where = store.set_aside(NAME, "rotten")
        self.assertEqual(store.damaged, {where: (NAME, bytes(20), "rotten")})
        self.assertEqual(store.free(), 80)

    def test_closing_gives_up_what_is_being_written(self) -> None:
        store = MemoryShardStore(100)
        writer = store.begin(NAME)
        writer.append(bytes(10))
        store.close()
        self.assertEqual((store.free(), store.open()), (100, []))
        self.assertRaises(ValueError, writer.commit, b"", b"")

    def test_a_note_that_is_too_long_is_refused_and_the_shard_goes_on(self) -> None:
        store = MemoryShardStore()
        writer = store.begin(NAME)
        self.assertRaises(ValueError, writer.commit, b"", bytes(MAX_NOTE + 1))
        writer.commit(b"", bytes(MAX_NOTE))
        self.assertRaises(ValueError, store.set_note, NAME, bytes(MAX_NOTE + 1))
