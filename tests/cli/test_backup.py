"""Tests of L{meshkit.cli.backup}."""

from __future__ import annotations

import json
import os
from contextlib import closing
from random import Random
from typing import Any

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from meshkit.cli.backup import all_migrations
from meshkit.cli.main import cli
from meshkit.errors import DataFolderLocked, NotADatabase, NotFound
from meshkit.feed import guard, store
from meshkit.relay.mailbox.keeping import FILE, turn_ring
from meshkit.runtime.container import DiskFile, migrate
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import DataFolder
from meshkit.testing.identities import DAY_NS, Author
from tests.runtime.support import scratch


class FolderCase(SynchronousTestCase):
    """A data folder with a database, and another without one."""

    def setUp(self) -> None:
        self.scratch = scratch(self)
        self.home, self.other = (os.path.join(self.scratch, name) for name in ("home", "other"))
        self.file = os.path.join(self.scratch, "kept")
        os.mkdir(self.home, 0o700)
        self.ada = Author("ada")
        self.ada.write_many(5)
        migrate(DiskFile(self.db(self.home)), all_migrations())
        with closing(DiskFile(self.db(self.home)).open_writer()) as connection:
            store.store_batch(connection, self.ada.messages, DAY_NS)

    def db(self, home: str) -> str:
        return os.path.join(home, "node.db")

    def run_cli(self, home: str, *words: str) -> Result:
        return CliRunner().invoke(cli, ["-d", home, *words])

    def good(self, home: str, *words: str) -> Any:
        done = self.run_cli(home, *words)
        self.assertEqual((done.exit_code, done.exception), (0, None), done.output)
        return done.output


class BackupTests(FolderCase):
    def guard(self, path: str) -> guard.Guard | None:
        with closing(DiskFile(path).open_writer()) as connection:
            return guard.read_guard(connection)

    def test_what_is_kept_can_be_put_back_and_is_guarded(self) -> None:
        said = self.good(self.home, "backup", self.file)
        self.assertIn("Not in it: secret.key and network.secret", said)
        shown = json.loads(self.good(self.other, "restore", self.file, "--json"))
        self.assertEqual(
            shown, {"folder": self.other, "missing_secrets": ["secret.key", "network.secret"]}
        )
        with closing(DiskFile(self.db(self.other)).open_writer()) as connection:
            raws = store.read_chain(connection, self.ada.key, 0, 10**9, 99)
            found, latest, _ = guard.begin(connection, self.ada.key)
        self.assertEqual(raws, self.ada.raws)
        assert found is not None
        self.assertEqual((found.reason, found.had, latest), ("restored", 5, 5))
        self.assertIsNone(self.guard(self.db(self.home)))
        # The time is that of the backup, which also guards when it is put back by hand.
        kept = self.guard(self.file)
        assert kept is not None
        self.assertEqual(kept.since_ns, found.since_ns)

    def test_the_keys_of_messages_for_us_are_in_no_backup(self) -> None:
        ring = turn_ring(LocalFiles(), os.path.join(self.home, FILE), 10**9, Random("prekeys"))
        self.good(self.home, "backup", self.file)
        with open(self.file, "rb") as backup:
            self.assertNotIn(ring.secrets[-1].secret, backup.read())
        self.good(self.other, "restore", self.file)
        self.assertNotIn(FILE, os.listdir(self.other))

    def test_what_was_found_out_before_a_second_restore_is_forgotten(self) -> None:
        self.good(self.home, "backup", self.file)
        with closing(DiskFile(self.file).open_writer()) as connection:
            guard.begin(connection, self.ada.key)
            guard.hear(connection, self.ada.key, [(bytes(32), 5)], 2, True)
        self.good(self.other, "restore", self.file)
        found = self.guard(self.db(self.other))
        assert found is not None
        self.assertEqual((found.reason, found.witnesses), ("restored", 0))

    def test_a_plain_copy_of_the_database_is_guarded_as_well(self) -> None:
        self.good(self.other, "restore", self.db(self.home))
        found = self.guard(self.db(self.other))
        assert found is not None
        self.assertEqual(found.reason, "restored")

    def test_nothing_is_restored_over_a_database_or_under_a_node(self) -> None:
        self.good(self.home, "backup", self.file)
        self.assertIsInstance(
            self.run_cli(self.home, "restore", self.file).exception, FileExistsError
        )
        folder = DataFolder(self.other, LocalFiles())
        folder.lock(1)
        self.addCleanup(folder.unlock)
        self.assertIsInstance(
            self.run_cli(self.other, "restore", self.file).exception, DataFolderLocked
        )

    def test_a_failed_restore_gives_the_folder_back(self) -> None:
        with open(self.file, "wb") as file:
            file.write(b"no backup")
        for _ in range(2):
            done = self.run_cli(self.other, "restore", self.file)
            self.assertIsInstance(done.exception, NotADatabase)
        self.assertFalse(os.path.exists(self.db(self.other)))

    def test_a_folder_without_a_database_has_nothing_to_keep(self) -> None:
        done = self.run_cli(self.other, "backup", self.file)
        self.assertIsInstance(done.exception, NotFound)
        self.assertFalse(os.path.exists(self.file))
