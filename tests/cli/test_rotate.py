"""Tests of C{meshkit feed rotate}."""

from __future__ import annotations

import json
import os
from contextlib import closing
from random import Random
from typing import Any

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from meshkit.cli import locate, rotate
from meshkit.cli.backup import all_migrations
from meshkit.cli.main import cli
from meshkit.errors import DataFolderLocked, FeedClosed, NotFound, WrongPassphrase
from meshkit.feed import closings, store
from meshkit.identity.keys import Identity
from meshkit.identity.passphrase import Cost
from meshkit.runtime import keyring
from meshkit.runtime.container import DiskFile, migrate
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import DataFolder
from meshkit.testing.identities import DAY_NS, Author
from tests.runtime.support import scratch


class _Killed(Exception):
    """The process ends here."""


class _DyingFiles(LocalFiles):
    """A disk that is there until so many changes were made to it."""

    left = 10**9

    def _changed(self) -> None:
        if not self.left:
            raise _Killed
        type(self).left -= 1

    def create(self, path: str, data: bytes, mode: int = 0o600) -> None:
        self._changed()
        super().create(path, data, mode)

    def write_atomic(self, path: str, data: bytes, mode: int = 0o600) -> None:
        self._changed()
        super().write_atomic(path, data, mode)

    def remove(self, path: str) -> None:
        self._changed()
        super().remove(path)


class RotateTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = os.path.join(scratch(self), "home")
        self.old = Author("me")
        self.folder = DataFolder(self.home, LocalFiles())
        self.folder.prepare()
        keyring.create_identity(self.folder, self.old.identity, Random(1))
        migrate(DiskFile(self.db), all_migrations())
        self.old.write_many(3)
        with closing(DiskFile(self.db).open_writer()) as connection:
            store.store_batch(connection, self.old.messages, DAY_NS)

    @property
    def db(self) -> str:
        return os.path.join(self.home, "node.db")

    def run_cli(self, *words: str, input: str | None = None) -> Result:
        return CliRunner().invoke(cli, ["-d", self.home, "feed", "rotate", *words], input=input)

    def good(self, *words: str) -> Any:
        done = self.run_cli("--yes", "--json", *words)
        self.assertEqual((done.exit_code, done.exception), (0, None), done.output)
        return json.loads(done.output)

    def check(self) -> Identity:
        """The folder is in order, with a new identity.  @return: it."""
        new = keyring.stored_identity(self.folder)
        self.assertNotEqual(new.public, self.old.identity.public)
        with closing(DiskFile(self.db).open_writer()) as connection:
            end = closings.closing(connection, self.old.key)
            assert end is not None
            self.assertEqual((end.new, end.sequence), (new.public, 4))
            raws = store.read_chain(connection, self.old.key, 0, 10**6, 99)
            self.assertEqual(raws[:3], self.old.raws)
            self.assertEqual(len(raws), 4)
            self.assertEqual(len(store.read_chain(connection, new.public.raw, 0, 10**6, 99)), 1)
        names = sorted(os.listdir(self.home))
        self.assertNotIn("next.key", names)
        (retired,) = [name for name in names if name.startswith("retired-")]
        kept = keyring.decode_identity(self.folder.read_secret(retired), retired, None)
        self.assertEqual(kept.public, self.old.identity.public)
        self.assertEqual([name for name in names if name.endswith(".new")], [])
        return new

    def test_the_node_has_a_new_identity_and_the_old_feed_ends(self) -> None:
        shown = self.good()
        new = self.check()
        self.assertEqual(shown["public_id"], new.public.text)
        self.assertTrue(os.path.exists(shown["retired"]))
        self.assertEqual(os.stat(shown["retired"]).st_mode & 0o777, 0o600)

    def test_it_can_be_interrupted_anywhere(self) -> None:
        """Ended after each of the changes it makes to the disk, and run again."""
        self.addCleanup(setattr, locate, "LocalFiles", LocalFiles)
        steps = 0
        while True:
            self.setUp()
            _DyingFiles.left = steps
            with self.subTest(steps=steps):
                locate.LocalFiles = _DyingFiles  # type: ignore[misc]
                done = self.run_cli("--yes")
                locate.LocalFiles = LocalFiles  # type: ignore[misc]
                finished = not isinstance(done.exception, _Killed)
                present = keyring.stored_public(self.folder)
                # It may have ended while the folder was given back, with all done.
                if keyring.has_next(self.folder) or present == self.old.identity.public:
                    self.good()
                self.check()
            if finished:
                break
            steps += 1
        # next.key, the old one aside, secret.key, next.key away; and what the lock takes.
        self.assertGreaterEqual(steps, 4)

    def test_it_goes_on_between_the_database_and_the_keys(self) -> None:
        """What is signed is signed: the key that it names is the one that is taken."""

        def killed(folder: DataFolder) -> str:
            raise _Killed

        self.patch(rotate, "succeed_identity", killed)
        self.assertIsInstance(self.run_cli("--yes").exception, _Killed)
        planned = keyring.next_identity(self.folder, Random(9), None)
        # The node could be started in between: its feed takes nothing.
        with (
            closing(DiskFile(self.db).open_writer()) as connection,
            self.assertRaisesRegex(FeedClosed, "has ended"),
        ):
            store.own_tail(connection, self.old.key)
        self.patch(rotate, "succeed_identity", keyring.succeed_identity)
        self.good()
        self.assertEqual(self.check().public, planned.public)

    def test_a_copy_of_the_folder_cannot_name_another_key(self) -> None:
        before = self.folder.read_secret("secret.key")
        self.good()
        os.unlink(os.path.join(self.home, "secret.key"))
        self.folder.create_secret("secret.key", before)
        done = self.run_cli("--yes")
        self.assertIsInstance(done.exception, FeedClosed)

    def test_it_is_asked_for(self) -> None:
        done = self.run_cli(input="n\n")
        self.assertEqual(done.exit_code, 1)
        self.assertEqual(keyring.stored_public(self.folder), self.old.identity.public)
        self.assertFalse(keyring.has_next(self.folder))
        self.assertEqual(self.run_cli(input="y\n").exit_code, 0)
        self.check()

    def test_under_a_passphrase(self) -> None:
        cheap = Cost(passes=1, memory_kib=8)
        keyring.rewrite_identity(self.folder, self.old.identity, Random(2), "sesame", cheap)
        self.patch(keyring, "DEFAULT_COST", cheap)

        def given(passphrase: str) -> Result:
            read, write = os.pipe()
            os.write(write, passphrase.encode() + b"\n")
            os.close(write)
            return self.run_cli("--yes", "--passphrase-fd", str(read))

        self.assertIsInstance(given("wrong").exception, WrongPassphrase)
        self.assertFalse(keyring.has_next(self.folder))
        self.assertEqual(given("sesame").exit_code, 0)
        self.assertTrue(keyring.needs_passphrase(self.folder))
        new = keyring.stored_identity(self.folder, "sesame")
        self.assertNotEqual(new.public, self.old.identity.public)

    def test_not_while_the_node_runs_and_not_without_an_identity(self) -> None:
        self.folder.lock(1)
        self.assertIsInstance(self.run_cli("--yes").exception, DataFolderLocked)
        self.folder.unlock()
        os.unlink(os.path.join(self.home, "secret.key"))
        self.assertIsInstance(self.run_cli("--yes").exception, NotFound)
