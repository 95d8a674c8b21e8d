"""Tests of L{meshkit.runtime.backup}."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import NewerSchema, NotADatabase, StorageFailed
from meshkit.runtime import backup
from meshkit.runtime.backup import copy_database
from meshkit.runtime.container import DiskFile, migrate
from tests.runtime.support import disk_error, rows, scratch

NOTES = ("CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT NOT NULL);",)
MARKS = (*NOTES, "CREATE TABLE mark (word TEXT NOT NULL);")


def mark(connection: sqlite3.Connection) -> None:
    connection.execute("INSERT INTO mark VALUES ('copied')")


class Copies(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = scratch(self)
        self.path = os.path.join(self.folder, "node.db")
        self.target = os.path.join(self.folder, "backup")
        migrate(DiskFile(self.path), {"notes": MARKS})
        self.write(*(f"note {n}" for n in range(500)))

    def write(self, *bodies: str) -> None:
        with closing(DiskFile(self.path).open_writer()) as connection:
            connection.executemany("INSERT INTO note (body) VALUES (?)", [(b,) for b in bodies])

    def copy(self, source: str | None = None, **kw: Any) -> None:
        copy_database(source or self.path, self.target, {"notes": MARKS}, mark, **kw)

    def left(self) -> list[str]:
        return sorted(os.listdir(self.folder))

    def test_a_copy_is_one_file_for_its_owner_that_holds_everything_and_the_mark(self) -> None:
        before = self.bytes(self.path)
        self.copy()
        self.assertEqual(self.left(), ["backup", "node.db"])
        self.assertEqual(os.stat(self.target).st_mode & 0o777, 0o600)
        self.assertEqual(rows(self.target, "SELECT count(*) FROM note"), [500])
        self.assertEqual(rows(self.target, "SELECT word FROM mark"), ["copied"])
        self.assertEqual(rows(self.path, "SELECT word FROM mark"), [])
        self.assertEqual(self.bytes(self.path), before)
        # It is a database of ours, in its own right.
        self.assertEqual(DiskFile(self.target).prepare().parts, {"notes": 2})

    def bytes(self, path: str) -> bytes:
        with open(path, "rb") as file:
            return file.read()

    def test_a_database_in_use_is_copied_as_it_was_at_one_moment(self) -> None:
        with closing(DiskFile(self.path).open_writer()) as writer:
            # Committed, and still in the journal.
            writer.execute("INSERT INTO note (body) VALUES ('in the journal')")
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("INSERT INTO note (body) VALUES ('not committed')")
            self.copy()
            writer.execute("COMMIT")
        found = rows(self.target, "SELECT body FROM note WHERE body LIKE '%o%' ORDER BY id")
        self.assertIn("in the journal", found)
        self.assertNotIn("not committed", found)

    def test_what_a_killed_daemon_left_is_copied_with_its_journal(self) -> None:
        killed = os.path.join(self.folder, "killed.db")
        with closing(DiskFile(self.path).open_writer()) as writer:
            writer.execute("INSERT INTO note (body) VALUES ('in the journal')")
            for suffix in ("", "-wal"):
                shutil.copyfile(self.path + suffix, killed + suffix)
        before = self.bytes(killed), self.bytes(killed + "-wal")
        self.copy(killed)
        self.assertEqual(rows(self.target, "SELECT count(*) FROM note"), [501])
        self.assertEqual((self.bytes(killed), self.bytes(killed + "-wal")), before)

    def test_an_older_database_is_brought_to_this_version_in_the_copy_alone(self) -> None:
        old = os.path.join(self.folder, "old.db")
        migrate(DiskFile(old), {"notes": NOTES})
        self.copy(old)
        self.assertEqual(DiskFile(self.target).prepare().parts, {"notes": 2})
        self.assertEqual(DiskFile(old).prepare().parts, {"notes": 1})

    def test_nothing_is_written_over(self) -> None:
        with open(self.target, "wb") as file:
            file.write(b"precious")
        self.assertRaises(FileExistsError, self.copy)
        self.assertEqual(self.bytes(self.target), b"precious")

    def test_what_is_not_there_is_named(self) -> None:
        error = self.assertRaises(FileNotFoundError, self.copy, "/nowhere/node.db")
        self.assertEqual(error.filename, "/nowhere/node.db")
        self.assertEqual(self.left(), ["node.db"])

    def test_a_newer_database_is_refused(self) -> None:
        error = self.assertRaises(
            NewerSchema, copy_database, self.path, self.target, {"notes": NOTES}, mark
        )
        self.assertIn(self.path, str(error))
        self.assertEqual(self.left(), ["node.db"])

    def test_a_file_of_another_kind_is_refused(self) -> None:
        other = os.path.join(self.folder, "other")
        for content in (b"", b"not a database", os.urandom(10_000)):
            with open(other, "wb") as file:
                file.write(content)
            self.assertRaises(NotADatabase, self.copy, other)
            self.assertEqual(self.bytes(other), content)
            self.assertEqual(self.left(), ["node.db", "other"])

    def test_damage_is_found_and_leaves_no_copy(self) -> None:
        """A copy of a damaged database would be found to be one when it is needed."""
        damaged = bytearray(self.bytes(self.path))
        damaged[-4096:] = bytes(4096)
        with open(self.path, "wb") as file:
            file.write(damaged)
        error = self.assertRaises(NotADatabase, self.copy)
        self.assertIn("meshkit doctor", str(error))
        self.assertEqual(self.left(), ["node.db"])
        self.assertEqual(self.bytes(self.path), damaged)

    def test_a_disk_that_refuses_is_reported_and_leaves_nothing(self) -> None:
        def full(*_: Any) -> None:
            raise disk_error("SQLITE_FULL")

        self.patch(DiskFile, "copy_to", full)
        self.assertRaises(StorageFailed, self.copy)
        self.assertEqual(self.left(), ["node.db"])

    def test_it_appears_under_its_name_when_it_is_on_the_disk(self) -> None:
        order: list[str] = []
        sync, rename, folder = backup._sync, os.rename, backup.sync_folder
        self.patch(backup, "_sync", lambda *a: (order.append("sync"), sync(*a)))
        self.patch(os, "rename", lambda *a: (order.append("rename"), rename(*a)))
        self.patch(backup, "sync_folder", lambda *a: (order.append("folder"), folder(*a)))
        self.copy()
        self.assertEqual(order, ["sync", "rename", "folder"])

    def test_what_a_crash_left_of_another_try_is_swept_away(self) -> None:
        for suffix in ("", "-wal", "-journal"):
            with open(self.target + ".new" + suffix, "wb") as file:
                file.write(b"half")
        self.copy()
        self.assertEqual(self.left(), ["backup", "node.db"])
