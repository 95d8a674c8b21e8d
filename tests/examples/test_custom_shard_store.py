"""The example of a store of shards."""

from __future__ import annotations

import errno
import sqlite3
from contextlib import closing
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.testing.shards import shard_end, shard_store_problems
from tests.examples.support import load
from tests.runtime.support import scratch

NAME, OTHER = bytes(32), b"\1" * 32

SQLiteShardStore = load("custom_shard_store.py").SQLiteShardStore


class StoreTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.path = f"{scratch(self)}/shards.db"

    def opened(self) -> Any:
        store = SQLiteShardStore(self.path)
        self.found = store.open()
        self.addCleanup(store.close)
        return store

    def pieces(self) -> int:
        with closing(sqlite3.connect(self.path)) as db:
            return int(db.execute("SELECT count(*) FROM piece").fetchone()[0])

    def test_it_keeps_what_it_is_given(self) -> None:
        self.assertEqual(shard_store_problems(lambda: SQLiteShardStore(self.path)), [])

    def test_pieces_of_shards_that_are_gone_go_too(self) -> None:
        store = self.opened()
        for name in (NAME, NAME, OTHER):
            writer = store.begin(name)
            writer.append(b"piece")
            writer.commit(shard_end(), b"note")
            writer.discard()
        store.begin(NAME).append(b"left by a crash")
        given_up = store.begin(NAME)
        given_up.append(b"given up")
        given_up.discard()
        store.remove(OTHER)
        self.assertEqual(self.pieces(), 2 + 2 + 1)
        self.opened()
        self.assertEqual(self.pieces(), 2)
        self.assertEqual([shard.name for shard in self.found], [NAME])

    def test_a_full_disk_is_said_to_be_full(self) -> None:
        store = self.opened()
        store.do("PRAGMA max_page_count = 20")
        writer = store.begin(NAME)
        writer.append(bytes(10_000))
        full = self.assertRaises(OSError, writer.append, bytes(100_000))
        self.assertEqual((full.errno, full.filename), (errno.ENOSPC, self.path))
        writer.append(bytes(10_000))
        writer.commit(shard_end(), b"")
        whole = bytes(20_000) + shard_end()
        self.assertEqual(store.read(NAME, 0, len(whole)), whole)

    def test_what_else_is_wrong_with_the_file_is_an_error_of_the_disk(self) -> None:
        store = self.opened()
        store.do("DROP TABLE piece")
        fault = self.assertRaises(OSError, store.begin(NAME).append, b"piece")
        self.assertEqual((fault.errno, fault.filename), (errno.EIO, self.path))
