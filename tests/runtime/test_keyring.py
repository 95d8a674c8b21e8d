"""Tests of L{meshkit.runtime.keyring}."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    ConfigError,
    InvalidKeyFile,
    InvalidNetworkSecret,
    PassphraseRequired,
    UnsafePermissions,
    WrongPassphrase,
)
from meshkit.identity.keys import Identity
from meshkit.identity.network import NetworkSecret
from meshkit.identity.passphrase import Cost
from meshkit.runtime.folder import DataFolder
from meshkit.runtime.keyring import (
    create_identity,
    load_identity,
    load_networks,
    load_token,
    needs_passphrase,
    rewrite_identity,
    stored_identity,
    stored_networks,
    stored_public,
    stored_token,
    write_networks,
)
from meshkit.testing.nodes import MemoryFiles

ME = Identity(bytes(range(32)))
CHEAP = Cost(passes=1, memory_kib=8)
NEW, OLD = NetworkSecret(b"n" * 32), NetworkSecret(b"o" * 32)


class KeyringTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.files = MemoryFiles()
        self.folder = DataFolder("/home", self.files)
        self.rng = Random(1)


class IdentityTests(KeyringTestCase):
    def test_it_is_made_once(self) -> None:
        self.assertRaises(FileNotFoundError, stored_identity, self.folder)
        self.assertRaises(FileNotFoundError, stored_public, self.folder)
        made = load_identity(self.folder, self.rng)
        for again in (load_identity(self.folder, self.rng), stored_identity(self.folder)):
            self.assertEqual(again.public, made.public)
        self.assertEqual(stored_public(self.folder), made.public)
        self.assertEqual(self.files.modes["/home/secret.key"], 0o600)

    def test_one_is_not_made_in_the_place_of_another(self) -> None:
        create_identity(self.folder, ME, self.rng)
        self.assertRaises(FileExistsError, create_identity, self.folder, ME, self.rng)

    def test_under_a_passphrase(self) -> None:
        self.assertFalse(needs_passphrase(self.folder))
        create_identity(self.folder, ME, self.rng, "one", CHEAP)
        self.assertTrue(needs_passphrase(self.folder))
        self.assertEqual(stored_public(self.folder), ME.public)
        self.assertEqual(stored_identity(self.folder, "one").seed(), ME.seed())
        self.assertRaises(WrongPassphrase, stored_identity, self.folder, "two")
        for read in (stored_identity, lambda folder: load_identity(folder, self.rng)):
            self.assertRaises(PassphraseRequired, read, self.folder)
        self.assertEqual(self.files.modes["/home/secret.key"], 0o600)

    def test_changing_and_removing_it(self) -> None:
        create_identity(self.folder, ME, self.rng, "one", CHEAP)
        first = self.files.content["/home/secret.key"]
        rewrite_identity(self.folder, ME, self.rng, "one", CHEAP)
        # A fresh salt, though the passphrase is the same.
        self.assertNotEqual(self.files.content["/home/secret.key"], first)
        rewrite_identity(self.folder, ME, self.rng, "two", CHEAP)
        self.assertRaises(WrongPassphrase, stored_identity, self.folder, "one")
        self.assertEqual(stored_identity(self.folder, "two").seed(), ME.seed())
        rewrite_identity(self.folder, ME, self.rng, None)
        self.assertFalse(needs_passphrase(self.folder))
        self.assertEqual(stored_identity(self.folder).seed(), ME.seed())

    def test_a_passphrase_that_cannot_be_used_leaves_the_file_alone(self) -> None:
        create_identity(self.folder, ME, self.rng)
        self.assertRaises(ValueError, rewrite_identity, self.folder, ME, self.rng, "", CHEAP)
        self.assertEqual(stored_identity(self.folder).seed(), ME.seed())

    def test_a_file_that_is_damaged_or_open_to_others(self) -> None:
        create_identity(self.folder, ME, self.rng)
        self.files.modes["/home/secret.key"] = 0o644
        self.assertRaises(UnsafePermissions, needs_passphrase, self.folder)
        self.files.write_atomic("/home/secret.key", b"{}")
        self.assertRaises(InvalidKeyFile, needs_passphrase, self.folder)
        self.files.write_atomic("/home/secret.key", b" " * 10_000)
        self.assertFalse(needs_passphrase(self.folder))
        self.assertRaises(OSError, stored_identity, self.folder)


class NetworkTests(KeyringTestCase):
    def test_it_is_made_once(self) -> None:
        self.assertEqual(stored_networks(self.folder), ())
        made = load_networks(self.folder, "", (), self.rng)
        self.assertEqual(len(made), 1)
        self.assertFalse(made[0].weak)
        self.assertEqual(load_networks(self.folder, "", (), self.rng), made)
        self.assertEqual(stored_networks(self.folder), made)

    def test_what_is_set_comes_first_and_is_stored_only_where_nothing_was(self) -> None:
        self.assertEqual(load_networks(self.folder, NEW.text, (), self.rng), (NEW,))
        self.assertEqual(stored_networks(self.folder), (NEW,))
        self.assertEqual(load_networks(self.folder, OLD.text, (), self.rng), (OLD,))
        keys = (OLD.text, NEW.text)
        self.assertEqual(load_networks(self.folder, "", keys, self.rng), (OLD, NEW))
        self.assertEqual(stored_networks(self.folder), (NEW,))

    def test_the_current_and_the_previous_one(self) -> None:
        write_networks(self.folder, (NEW, OLD))
        self.assertEqual(load_networks(self.folder, "", (), self.rng), (NEW, OLD))
        write_networks(self.folder, (NEW,))
        self.assertEqual(load_networks(self.folder, "", (), self.rng), (NEW,))

    def test_settings_that_do_not_go_together(self) -> None:
        def refuse(error: type[Exception], key: str, *keys: str) -> None:
            self.assertRaises(error, load_networks, self.folder, key, keys, self.rng)

        refuse(ConfigError, NEW.text, NEW.text)
        refuse(InvalidNetworkSecret, "", NEW.text, NEW.text)
        # A passphrase with a space in it, in the variable for the list.
        refuse(InvalidNetworkSecret, "", "correct", "horse")
        self.assertEqual(stored_networks(self.folder), ())


class TokenTests(KeyringTestCase):
    def test_it_is_made_once(self) -> None:
        self.assertRaises(FileNotFoundError, stored_token, self.folder)
        made = load_token(self.folder, self.rng)
        self.assertRegex(made, b"^[0-9a-f]{64}$")
        self.assertEqual(load_token(self.folder, self.rng), made)
        self.assertEqual(stored_token(self.folder), made)
