"""The database file: made whole or not at all, and never harmed when it is not ours."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Mapping, Sequence
from contextlib import closing

from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import MigrationFailed, NewerSchema, NotADatabase, StartError
from meshkit.runtime.container import (
    APPLICATION_ID,
    CONTAINER_VERSION,
    DiskFile,
    MemoryFile,
    migrate,
    require_fts5,
)

from .support import rows, scratch

FEED = (
    "CREATE TABLE message (id INTEGER PRIMARY KEY, body TEXT NOT NULL);",
    """
    CREATE TABLE counter (value INTEGER NOT NULL);  -- one row; no more
    INSERT INTO counter VALUES (0);
    CREATE TRIGGER counted AFTER INSERT ON message BEGIN
        UPDATE counter SET value = value + 1;
    END;
    /* the last statement has no semicolon */
    INSERT INTO message (body) VALUES ('a;b')
    """,
)
PEERS = ("CREATE TABLE peer (address TEXT PRIMARY KEY)",)


class Files(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = scratch(self)
        self.path = os.path.join(self.folder, "mesh.db")

    def migrate(self, migrations: Mapping[str, Sequence[str]] | None = None) -> None:
        migrate(DiskFile(self.path), {"feed": FEED} if migrations is None else migrations)

    def content(self, suffix: str = "") -> bytes:
        with open(self.path + suffix, "rb") as file:
            return file.read()

    def write(self, content: bytes, suffix: str = "") -> None:
        with open(self.path + suffix, "wb") as file:
            file.write(content)

    def refused(self, *words: str, kind: type[StartError] = NotADatabase) -> None:
        """Starting fails, names the path, and changes nothing in the folder."""
        before = {name: self._bytes(name) for name in sorted(os.listdir(self.folder))}
        error = self.assertRaises(kind, self.migrate)
        for word in (self.path, *words):
            self.assertIn(word, str(error))
        after = {name: self._bytes(name) for name in sorted(os.listdir(self.folder))}
        self.assertEqual(after, before)

    def _bytes(self, name: str) -> bytes:
        with open(os.path.join(self.folder, name), "rb") as file:
            return file.read()


class CreationTests(Files):
    def test_a_new_file_is_for_its_owner_alone_and_says_what_it_is(self) -> None:
        old = os.umask(0)
        self.addCleanup(os.umask, old)
        self.migrate()
        self.assertEqual(stat.S_IMODE(os.stat(self.path).st_mode), 0o600)
        self.assertEqual(rows(self.path, "PRAGMA application_id"), [APPLICATION_ID])
        self.assertEqual(rows(self.path, "PRAGMA user_version"), [CONTAINER_VERSION])
        self.assertEqual(rows(self.path, "PRAGMA journal_mode"), ["wal"])

    def test_nothing_is_left_beside_it(self) -> None:
        self.migrate()
        self.assertEqual(os.listdir(self.folder), ["mesh.db"])

    def test_no_handle_stays_open(self) -> None:
        self.migrate()
        self.migrate()
        held = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
        self.assertEqual([path for path in held if path.startswith(self.folder)], [])

    def test_what_a_crash_left_while_it_was_made_is_swept_away(self) -> None:
        for suffix in (".new", ".new-wal", ".new-shm", ".new-journal"):
            self.write(b"half", suffix)
        self.migrate()
        self.assertEqual(os.listdir(self.folder), ["mesh.db"])
        self.assertEqual(rows(self.path, "SELECT part, version FROM schema_version"), [("feed", 2)])

    def test_a_folder_that_is_not_there_is_named(self) -> None:
        self.path = os.path.join(self.folder, "missing", "mesh.db")
        error = self.assertRaises(StartError, self.migrate)
        self.assertIn(self.path, str(error))

    def test_a_path_with_odd_characters_works(self) -> None:
        self.path = os.path.join(self.folder, "a b?mode=ro#%41é.db")
        self.migrate()
        self.migrate()
        self.assertEqual(rows(self.path, "SELECT body FROM message"), ["a;b"])

    def test_a_symbolic_link_is_followed(self) -> None:
        elsewhere = os.path.join(scratch(self), "real.db")
        os.symlink(elsewhere, self.path)
        self.migrate()
        self.assertTrue(os.path.islink(self.path))
        self.assertEqual(rows(elsewhere, "SELECT body FROM message"), ["a;b"])

    def test_the_writer_syncs_every_commit_and_checks_references(self) -> None:
        self.migrate()
        with closing(DiskFile(self.path).open_writer()) as connection:
            self.assertEqual(connection.execute("PRAGMA synchronous").fetchone(), (2,))
            self.assertEqual(connection.execute("PRAGMA foreign_keys").fetchone(), (1,))
            self.assertEqual(connection.execute("PRAGMA busy_timeout").fetchone(), (5000,))

    def test_a_reader_cannot_write(self) -> None:
        self.migrate()
        with closing(DiskFile(self.path).open_reader()) as connection:
            self.assertEqual(connection.execute("PRAGMA query_only").fetchone(), (1,))
            error = self.assertRaises(
                sqlite3.OperationalError, connection.execute, "DELETE FROM message"
            )
            self.assertIn("readonly", str(error))
            connection.execute("PRAGMA query_only = OFF")
            self.assertRaises(sqlite3.OperationalError, connection.execute, "DELETE FROM message")

    def test_an_sqlite_without_full_text_search_is_named(self) -> None:
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.set_authorizer(
                lambda action, *_: (
                    sqlite3.SQLITE_DENY
                    if action == sqlite3.SQLITE_CREATE_VTABLE
                    else sqlite3.SQLITE_OK
                )
            )
            error = self.assertRaises(StartError, require_fts5, connection)
        self.assertIn("FTS5", str(error))
        self.assertIn(sqlite3.sqlite_version, str(error))


class RefusalTests(Files):
    """Files that are not ours, or not whole, are left byte for byte as they were."""

    def test_a_file_that_is_no_database(self) -> None:
        self.write(b"Dear diary, " * 100)
        self.refused("is damaged, or is not an SQLite database")

    def test_an_empty_file(self) -> None:
        self.write(b"")
        self.refused("is damaged, or is not an SQLite database")

    def test_a_database_of_another_program(self) -> None:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("CREATE TABLE diary (entry)")
        self.refused("is a database of another program")

    def test_a_database_cut_off_anywhere(self) -> None:
        self.migrate()
        whole = self.content()
        for length in (1, 99, 100, 511, 4095, 4096, len(whole) // 2, len(whole) - 1):
            self.write(whole[:length])
            self.refused()

    def test_a_changed_byte_in_any_field_of_the_header_that_matters(self) -> None:
        self.migrate()
        whole = self.content()
        # Magic, page size, format versions, payload fractions, application id.
        for offset in (0, 15, 16, 18, 19, 21, 22, 23, 68, 71):
            broken = bytearray(whole)
            broken[offset] ^= 0x55
            self.write(bytes(broken))
            self.refused()

    def test_a_damaged_schema(self) -> None:
        self.migrate()
        whole = bytearray(self.content())
        whole[100:4096] = b"\xff" * 3996
        self.write(bytes(whole))
        self.refused("is damaged (")

    def test_a_nonsensical_version(self) -> None:
        for nonsense in ("'two'", "-1"):
            self.migrate()
            with closing(sqlite3.connect(self.path)) as connection, connection:
                connection.execute(f"UPDATE schema_version SET version = {nonsense}")
            self.refused("is damaged (")
            os.unlink(self.path)

    def test_a_journal_without_its_database(self) -> None:
        for suffix in ("-wal", "-journal"):
            self.write(b"frames", suffix)
            self.refused(f"mesh.db{suffix}", "is missing")
            os.unlink(self.path + suffix)

    def test_a_folder_in_its_place(self) -> None:
        os.mkdir(self.path)
        error = self.assertRaises(StartError, self.migrate)
        self.assertIn(self.path, str(error))

    def test_a_database_that_another_program_holds(self) -> None:
        self.migrate()
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("PRAGMA journal_mode = DELETE")
            other.execute("PRAGMA locking_mode = EXCLUSIVE")
            other.execute("BEGIN EXCLUSIVE")
            other.execute("INSERT INTO message (body) VALUES ('x')")
            impatient = DiskFile(self.path, busy_seconds=0.01)
            error = self.assertRaises(StartError, migrate, impatient, {"feed": FEED})
        self.assertNotIsInstance(error, NotADatabase)
        self.assertIn("in use by another program", str(error))


class NewerTests(Files):
    def test_a_newer_part_is_refused_and_both_versions_named(self) -> None:
        self.migrate({"feed": (*FEED, "CREATE TABLE more (x)")})
        self.refused("'feed'", "version 3", "up to 2", "upgrade meshkit", kind=NewerSchema)

    def test_no_other_part_is_touched_before_the_newer_one_is_found(self) -> None:
        self.migrate({"zebra": ("CREATE TABLE zebra (x)",)})
        before = self.content()
        self.assertRaises(NewerSchema, self.migrate, {"feed": FEED, "zebra": ()})
        self.assertEqual(self.content(), before)

    def test_a_newer_container_is_refused_even_if_nothing_else_is_understood(self) -> None:
        self.migrate()
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("DROP TABLE schema_version")
            connection.execute(f"PRAGMA user_version = {CONTAINER_VERSION + 1}")
        self.refused(
            f"format {CONTAINER_VERSION + 1}", f"up to {CONTAINER_VERSION}", kind=NewerSchema
        )


class MigrationTests(Files):
    def versions(self) -> list[object]:
        return rows(self.path, "SELECT part, version FROM schema_version ORDER BY part")

    def test_scripts_run_once_and_in_order(self) -> None:
        self.migrate({"feed": FEED[:1]})
        self.assertEqual(self.versions(), [("feed", 1)])
        self.migrate()
        self.migrate()
        self.assertEqual(self.versions(), [("feed", 2)])
        self.assertEqual(rows(self.path, "SELECT body FROM message"), ["a;b"])
        self.assertEqual(rows(self.path, "SELECT value FROM counter"), [1])

    def test_parts_are_counted_apart_and_one_that_is_off_keeps_its_tables(self) -> None:
        self.migrate({"feed": FEED, "peers": PEERS})
        self.migrate({"peers": PEERS})
        self.assertEqual(self.versions(), [("feed", 2), ("peers", 1)])
        self.assertEqual(rows(self.path, "SELECT body FROM message"), ["a;b"])

    def test_a_failing_script_is_rolled_back_and_the_part_named(self) -> None:
        broken = "CREATE TABLE fine (x); INSERT INTO nowhere VALUES (1);"
        error = self.assertRaises(
            MigrationFailed, self.migrate, {"peers": PEERS, "feed": (*FEED, broken, "SELECT 1")}
        )
        for word in ("'feed'", self.path, "from version 2 to 3", "nowhere"):
            self.assertIn(word, str(error))
        # What came before it stands, and what it had done is gone.
        self.assertEqual(self.versions(), [("feed", 2), ("peers", 1)])
        self.assertEqual(rows(self.path, "SELECT name FROM sqlite_schema WHERE name = 'fine'"), [])
        self.migrate({"feed": (*FEED, "CREATE TABLE fine (x)")})
        self.assertEqual(self.versions(), [("feed", 3), ("peers", 1)])

    def test_a_script_cannot_end_its_transaction(self) -> None:
        for script in (
            "CREATE TABLE early (x); COMMIT; CREATE TABLE late (x)",
            "CREATE TABLE early (x); ROLLBACK",
            "BEGIN",
        ):
            error = self.assertRaises(MigrationFailed, self.migrate, {"feed": (script,)})
            self.assertIn("not authorized", str(error))
            self.assertEqual(self.versions(), [])
            self.assertEqual(
                rows(self.path, "SELECT name FROM sqlite_schema WHERE name = 'early'"), []
            )

    def test_a_script_that_leaves_a_dangling_reference_is_rolled_back(self) -> None:
        script = """
            CREATE TABLE parent (id INTEGER PRIMARY KEY);
            CREATE TABLE child (parent REFERENCES parent (id));
            INSERT INTO child VALUES (7);
        """
        error = self.assertRaises(MigrationFailed, self.migrate, {"feed": (script,)})
        self.assertIn("child refers to a row of parent", str(error))
        self.assertEqual(self.versions(), [])

    def test_a_table_that_others_refer_to_can_be_made_anew(self) -> None:
        first = """
            CREATE TABLE parent (id INTEGER PRIMARY KEY);
            CREATE TABLE child (parent REFERENCES parent (id));
            INSERT INTO parent VALUES (7);
            INSERT INTO child VALUES (7);
        """
        second = """
            CREATE TABLE parent_anew (id INTEGER PRIMARY KEY, name TEXT);
            INSERT INTO parent_anew (id) SELECT id FROM parent ORDER BY id;
            DROP TABLE parent;
            ALTER TABLE parent_anew RENAME TO parent;
        """
        self.migrate({"feed": (first, second)})
        self.assertEqual(rows(self.path, "SELECT id, name FROM parent"), [(7, None)])
        self.assertEqual(rows(self.path, "SELECT parent FROM child"), [7])

    def test_the_journal_of_a_crash_is_recovered_first(self) -> None:
        self.migrate({"feed": FEED[:1]})
        with closing(DiskFile(self.path).open_writer()) as connection:
            connection.execute("INSERT INTO message (body) VALUES ('kept')")
            crashed = {suffix: self.content(suffix) for suffix in ("", "-wal")}
        for suffix, content in crashed.items():
            self.write(content, suffix)
        self.migrate()
        self.assertEqual(rows(self.path, "SELECT body FROM message"), ["kept", "a;b"])

    def test_the_versions_in_the_journal_of_a_crash_are_the_ones_that_count(self) -> None:
        self.migrate({"feed": FEED[:1]})
        with closing(DiskFile(self.path).open_reader()) as reader:
            # A reader in the middle keeps the second migration in the journal.
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM message").fetchall()
            self.migrate()
            crashed = {suffix: self.content(suffix) for suffix in ("", "-wal")}
        for suffix, content in crashed.items():
            self.write(content, suffix)
        self.assertRaises(NewerSchema, self.migrate, {"feed": FEED[:1]})
        self.migrate()
        self.assertEqual(self.versions(), [("feed", 2)])

    def test_the_rollback_journal_of_a_crash_is_recovered_first(self) -> None:
        self.migrate({"feed": FEED[:1]})
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("INSERT INTO message (body) VALUES ('kept')")
            connection.execute("PRAGMA cache_size = 1")
            connection.execute("BEGIN")
            connection.executemany(
                "INSERT INTO message (body) VALUES (?)", [("lost" * 1000,)] * 100
            )
            connection.execute("UPDATE message SET body = 'changed'")
            crashed = {suffix: self.content(suffix) for suffix in ("", "-journal")}
        for suffix, content in crashed.items():
            self.write(content, suffix)
        self.migrate()
        self.assertEqual(rows(self.path, "SELECT body FROM message"), ["kept", "a;b"])

    def test_a_restored_backup_gets_its_journal_mode_back(self) -> None:
        self.migrate()
        copy = os.path.join(self.folder, "copy.db")
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("VACUUM INTO ?", (copy,))
        os.replace(copy, self.path)
        self.migrate()
        self.assertEqual(rows(self.path, "PRAGMA journal_mode"), ["wal"])


class MemoryTests(SynchronousTestCase):
    def test_data_last_as_long_as_the_object(self) -> None:
        memory = MemoryFile("/host 1/mesh.db")
        self.addCleanup(memory.close)
        migrate(memory, {"feed": FEED})
        migrate(memory, {"feed": FEED})
        with closing(memory.open_reader()) as reader:
            self.assertEqual(reader.execute("SELECT body FROM message").fetchall(), [("a;b",)])
            self.assertRaises(sqlite3.OperationalError, reader.execute, "DELETE FROM message")
        memory.close()
        migrate(memory, {"feed": FEED[:1]})
        with closing(memory.open_reader()) as reader:
            self.assertEqual(reader.execute("SELECT body FROM message").fetchall(), [])

    def test_two_names_are_two_databases(self) -> None:
        one, two = MemoryFile(f"/{self.id()}/one"), MemoryFile(f"/{self.id()}/two")
        self.addCleanup(one.close)
        self.addCleanup(two.close)
        migrate(one, {"feed": FEED})
        migrate(two, {"peers": PEERS})
        self.assertEqual(dict(one.prepare().parts), {"feed": 2})
        self.assertEqual(dict(two.prepare().parts), {"peers": 1})

    def test_a_newer_schema_is_refused_here_too(self) -> None:
        memory = MemoryFile("/newer")
        self.addCleanup(memory.close)
        migrate(memory, {"feed": FEED})
        self.assertRaises(NewerSchema, migrate, memory, {"feed": FEED[:1]})
