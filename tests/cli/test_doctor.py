"""Tests of L{meshkit.cli.doctor}."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing

from meshkit.cli.backup import all_migrations
from meshkit.errors import DataFolderLocked, NewerSchema, NotADatabase, NotFound
from meshkit.feed import guard, store
from meshkit.identity.keyfile import encode_identity
from meshkit.runtime.container import DiskFile, migrate
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import DataFolder
from meshkit.testing.identities import DAY_NS, Author
from tests.cli.test_backup import FolderCase


class DoctorTests(FolderCase):
    def sql(self, *statements: str) -> None:
        with closing(DiskFile(self.db(self.home)).open_writer()) as connection:
            for statement in statements:
                connection.execute(statement)

    def content(self, home: str) -> dict[str, bytes]:
        """Of the database and what lies beside it."""
        found = {}
        for name in sorted(os.listdir(home)):
            if name.startswith("node.db"):
                with open(os.path.join(home, name), "rb") as file:
                    found[name] = file.read()
        return found

    def test_a_sound_store(self) -> None:
        before = self.content(self.home)
        self.assertIn("5 messages of 1 authors", self.good(self.home, "doctor"))
        shown = json.loads(self.good(self.home, "doctor", "--json"))
        self.assertEqual(
            shown,
            {
                "database": self.db(self.home),
                "messages": 5,
                "feeds": 1,
                "sound": True,
                "repaired": 0,
                "left": 0,
                "forks": 0,
                "forked": [],
                "counts": {},
                "findings": [],
                "objects": {},
                "degraded": [],
                "refused_peers": {},
            },
        )
        self.assertEqual(self.content(self.home), before)

    def test_a_forked_feed_is_named_though_it_is_no_fault_of_the_store(self) -> None:
        other = Author("ada")
        other.messages = self.ada.messages[:3]
        other.write("something else")
        with closing(DiskFile(self.db(self.home)).open_writer()) as connection:
            store.prove_fork(connection, self.ada.messages[3], other.messages[3], DAY_NS)
        told = self.good(self.home, "doctor")
        self.assertIn(f"{self.ada.identity.public.text} ends before number 4", told)
        self.assertIn("Everything is as it should be", told)
        shown = json.loads(self.good(self.home, "doctor", "--json"))
        self.assertEqual((shown["sound"], shown["forks"]), (True, 1))
        forked = {"author": self.ada.identity.public.text, "sequence": 4}
        self.assertEqual(shown["forked"], [forked])

    def test_what_is_wrong_is_told_and_mended_on_demand(self) -> None:
        self.sql("UPDATE feed_messages SET raw = x'00' WHERE sequence = 5")
        done = self.run_cli(self.home, "doctor", "--json")
        self.assertEqual(done.exit_code, 1)
        shown = json.loads(done.output)
        self.assertEqual((shown["sound"], shown["counts"]["message_damaged"]), (False, 1))
        self.assertEqual(shown["left"], sum(shown["counts"].values()))
        self.assertEqual(shown["findings"][0]["kind"], "message_damaged")
        done = self.run_cli(self.home, "doctor")
        self.assertEqual(done.exit_code, 1)
        self.assertIn("to be mended with --repair: set it aside", done.output)
        said = self.good(self.home, "doctor", "--repair")
        self.assertIn("done: set it aside", said)
        self.assertIn("Left: 0.", said)
        self.assertIn("Everything is as it should be.", self.good(self.home, "doctor"))

    def test_whose_node_it_is_stands_in_the_key_file(self) -> None:
        key = os.path.join(self.home, "secret.key")
        with open(key, "wb") as file:
            file.write(encode_identity(self.ada.identity))
        os.chmod(key, 0o600)
        self.sql("UPDATE feed_messages SET raw = x'00' WHERE sequence = 5")
        self.good(self.home, "doctor", "--repair")
        with closing(DiskFile(self.db(self.home)).open_writer()) as connection:
            found = guard.read_guard(connection)
        assert found is not None
        self.assertEqual((found.reason, found.had), ("repaired", 5))

    def test_damage_in_the_file_is_told_and_cannot_be_mended(self) -> None:
        with closing(DiskFile(self.db(self.home)).open_writer()) as connection:
            (page,) = connection.execute(
                "SELECT rootpage FROM sqlite_master WHERE name = 'feed_messages_author'"
            ).fetchone()
        with open(self.db(self.home), "r+b") as file:
            file.seek((page - 1) * 4096)
            file.write(b"\x0a" + b"\xff" * 200)
        for words in (("doctor",), ("doctor", "--repair")):
            done = self.run_cli(self.home, *words)
            self.assertEqual(done.exit_code, 1, done.output)
            self.assertIn("page_damage", done.output)
            self.assertIn("cannot be mended here", done.output)

    def test_a_running_node_is_not_disturbed(self) -> None:
        folder = DataFolder(self.home, LocalFiles())
        folder.lock(1)
        self.addCleanup(folder.unlock)
        self.assertIsInstance(self.run_cli(self.home, "doctor").exception, DataFolderLocked)

    def test_an_older_store_is_brought_here_first(self) -> None:
        os.unlink(self.db(self.home))
        migrations = {"feed": store.MIGRATIONS[:1]}
        migrate(DiskFile(self.db(self.home)), migrations)
        self.good(self.home, "doctor")
        self.assertEqual(
            DiskFile(self.db(self.home)).prepare().parts["feed"], len(store.MIGRATIONS)
        )

    def test_what_is_not_ours_is_named_and_untouched(self) -> None:
        """... by any of the verbs that look into a database."""
        with closing(sqlite3.connect(":memory:")) as other:
            other.execute("CREATE TABLE feed_messages (theirs TEXT)")
            foreign = other.serialize()
        with open(self.db(self.home), "rb") as file:
            ours = file.read()
        for what, content in (
            ("random bytes", bytes(range(256)) * 40),
            ("nothing", b""),
            ("another program's", foreign),
            ("cut off", ours[: len(ours) // 2]),
            ("a header alone", ours[:100]),
        ):
            with self.subTest(what):
                with open(self.db(self.home), "wb") as file:
                    file.write(content)
                for words in (("doctor",), ("doctor", "--repair"), ("backup", self.file)):
                    done = self.run_cli(self.home, *words)
                    self.assertIsInstance(done.exception, NotADatabase)
                    self.assertIn(self.db(self.home), str(done.exception))
                    self.assertEqual(self.content(self.home), {"node.db": content})
                done = self.run_cli(self.other, "restore", self.db(self.home))
                self.assertIsInstance(done.exception, NotADatabase)
                self.assertEqual(self.content(self.other), {})
                self.assertFalse(os.path.lexists(self.file))

    def test_a_newer_store_is_named_and_untouched(self) -> None:
        self.sql("UPDATE schema_version SET version = 999 WHERE part = 'feed'")
        before = self.content(self.home)
        for words in (("doctor",), ("doctor", "--repair"), ("backup", self.file)):
            done = self.run_cli(self.home, *words)
            self.assertIsInstance(done.exception, NewerSchema)
            self.assertIn(self.db(self.home), str(done.exception))
            self.assertEqual(self.content(self.home), before)

    def test_tables_of_a_part_that_is_not_installed_are_left_alone(self) -> None:
        self.sql("CREATE TABLE theirs (word TEXT)", "INSERT INTO theirs VALUES ('kept')")
        self.good(self.home, "doctor", "--repair")
        self.good(self.home, "backup", self.file)
        self.good(self.other, "restore", self.file)
        with closing(DiskFile(self.db(self.other)).open_writer()) as connection:
            self.assertEqual(connection.execute("SELECT word FROM theirs").fetchall(), [("kept",)])

    def test_a_folder_without_a_database(self) -> None:
        self.assertIsInstance(self.run_cli(self.other, "doctor").exception, NotFound)
        self.assertGreater(len(all_migrations()["feed"]), 4)
