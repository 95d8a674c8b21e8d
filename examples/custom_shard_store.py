"""
A store of shards of one's own: all that a storage peer keeps, in one SQLite file.

Try it, with a file that is not there yet::

    python examples/custom_shard_store.py shards.db
"""

import errno
import shutil
import sqlite3
import sys
from itertools import count

from zope.interface import implementer

from meshkit.errors import ShareDamaged, ShareUnknown
from meshkit.interfaces import IShardStore, IShardWriter
from meshkit.storage.terms import Shard
from meshkit.testing.shards import shard_store_problems

# [tables]
# FULL: a statement that has returned is on the disk.  Pieces whose writer has no row among
# the shards were not committed, and go when the store is opened.
TABLES = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS piece (writer INTEGER, at INTEGER, data BLOB);
CREATE INDEX IF NOT EXISTS piece_at ON piece (writer, at);
CREATE TABLE IF NOT EXISTS shard
    (writer INTEGER PRIMARY KEY, name BLOB, size INTEGER, note BLOB, damage TEXT);
CREATE UNIQUE INDEX IF NOT EXISTS shard_name ON shard (name) WHERE damage IS NULL;
DELETE FROM piece WHERE writer NOT IN (SELECT writer FROM shard);
"""
# [tables-end]


@implementer(IShardStore)
class SQLiteShardStore:
    """Shards in one file.  Each statement is a transaction of its own."""

    def __init__(self, path):
        self.path = path

    def open(self):
        # It is used in several threads, which SQLite lets in one after the other.
        self.db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        self.db.executescript(TABLES)
        self.numbers = count(self.do("SELECT ifnull(max(writer), 0) + 1 FROM shard")[0][0])
        good = self.do("SELECT name, size, note FROM shard WHERE damage IS NULL")
        return [Shard(name, size, note) for name, size, note in good]

    def close(self):
        self.db.close()

    def begin(self, name):
        return SQLiteShardWriter(self, name, next(self.numbers))

    def read(self, name, offset, length):
        pieces = self.do(
            "SELECT at, data FROM piece WHERE writer = ? AND at < ? AND at + length(data) > ?"
            " ORDER BY at",
            *(self.find(name), offset + length, offset),
        )
        start = offset - pieces[0][0] if pieces else 0
        data = b"".join(piece for _, piece in pieces)[start : start + length]
        if len(data) < length:
            raise ShareDamaged(f"the share {name.hex()} ends before its byte {offset + length}")
        return data

    def set_note(self, name, note):
        self.do("UPDATE shard SET note = ? WHERE writer = ?", note, self.find(name))

    def remove(self, name):
        gone = "DELETE FROM shard WHERE name = ? AND damage IS NULL RETURNING writer"
        for (writer,) in self.do(gone, name):
            self.forget(writer)

    def set_aside(self, name, reason):
        writer = self.find(name)
        self.do("UPDATE shard SET damage = ? WHERE writer = ?", reason, writer)
        return f"{self.path}, writer {writer}"

    def free(self):
        return shutil.disk_usage(self.path).free

    def find(self, name):
        named = "SELECT writer FROM shard WHERE name = ? AND damage IS NULL"
        for (writer,) in self.do(named, name):
            return writer
        raise ShareUnknown(f"there is no share {name.hex()} in {self.path}")

    def forget(self, writer):
        self.do("DELETE FROM piece WHERE writer = ?", writer)

    def do(self, statement, *values):
        try:
            return self.db.execute(statement, values).fetchall()
        except sqlite3.OperationalError as e:
            full = e.sqlite_errorcode == sqlite3.SQLITE_FULL
            raise OSError(errno.ENOSPC if full else errno.EIO, str(e), self.path) from e


@implementer(IShardWriter)
class SQLiteShardWriter:
    """One shard as it is written."""

    def __init__(self, store, name, writer):
        self.store, self.name, self.writer = store, name, writer
        self.size, self.kept, self.ended = 0, bytearray(), False

    def append(self, data):
        self.store.do("INSERT INTO piece VALUES (?, ?, ?)", self.writer, self.size, data)
        self.size += len(data)

    def keep(self, data):
        self.kept += data

    def commit(self, tail, note):
        self.append(self.kept + tail)
        # A name has one good shard at most, so this takes the place of another one.  The
        # pieces of that go at the next start.
        shard = (self.writer, self.name, self.size, note)
        self.store.do("REPLACE INTO shard VALUES (?, ?, ?, ?, NULL)", *shard)
        self.ended = True

    def discard(self):
        if not self.ended:
            self.ended = True
            self.store.forget(self.writer)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} FILE")
    # [checked]
    problems = shard_store_problems(lambda: SQLiteShardStore(sys.argv[1]))
    print("\n".join(problems) or "it keeps what it is given")
    # [checked-end]
    sys.exit(bool(problems))
