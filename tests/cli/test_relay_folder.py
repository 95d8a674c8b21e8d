"""Tests of C{meshkit --relay}: all verbs, for the folder of a relay."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from meshkit.cli.backup import all_migrations
from meshkit.cli.main import cli
from meshkit.errors import ConfigError
from meshkit.identity.network import PUBLIC_RELAYS
from meshkit.runtime.container import DiskFile, migrate


class FolderCase(SynchronousTestCase):
    """Somebody's home."""

    def setUp(self) -> None:
        self.home = Path(self.enterContext(TemporaryDirectory()))
        self.folder = self.home / ".local/share/meshkit-relay"

    def run_cli(self, *arguments: str) -> Result:
        environment = {"HOME": str(self.home), "XDG_DATA_HOME": "", "MESHKIT_HOME": ""}
        return CliRunner(env=environment).invoke(cli, arguments)

    def good(self, *arguments: str) -> str:
        done = self.run_cli(*arguments)
        if done.exception is not None:
            raise done.exception
        return done.stdout


class RelayFolderTests(FolderCase):
    def test_a_member_relay_has_a_folder_an_identity_and_a_network(self) -> None:
        made = json.loads(self.good("--relay", "init", "--json"))
        self.assertEqual(made["data_dir"], str(self.folder))
        self.assertTrue(made["network_secret"].startswith("mknet1-"))
        self.assertEqual((self.folder / "program").read_text(), "mesh-relay\n")
        self.assertFalse((self.folder / "meshkit.toml").exists())
        self.assertEqual(self.good("-r", "id").strip(), made["public_id"])

    def test_a_blind_one_has_no_network_and_stays_blind(self) -> None:
        made = json.loads(self.good("-r", "init", "--blind", "--json"))
        self.assertIsNone(made["network_secret"])
        self.assertEqual((self.folder / "meshkit.toml").read_text(), 'role = "blind"\n')
        self.assertFalse((self.folder / "network.secret").exists())
        for again in (("init",), ("init", "--blind")):
            shown = self.good("-r", *again)
            self.assertIn("none: a blind relay", shown)
            self.assertIn(f"twistd -n mesh-relay --data-dir {self.folder}", shown)
        self.assertFalse((self.folder / "network.secret").exists())

    def test_settings_are_those_of_a_relay(self) -> None:
        self.good("-r", "init", "--blind")
        shown = json.loads(self.good("-r", "config", "show", "--json"))
        values = {row["key"]: row["value"] for row in shown}
        self.assertEqual(values["role"], "blind")
        self.assertEqual(values["listen"], "tcp:7661")
        self.assertEqual(values["api"], "tcp:7662:interface=127.0.0.1")
        self.assertNotIn("relays.use", values)

    def test_a_relay_is_blind_or_in_a_network(self) -> None:
        self.good("init")
        secret = (self.home / ".local/share/meshkit/network.secret").read_text().strip()
        with self.assertRaisesRegex(ConfigError, "leave out --network-key"):
            self.good("-r", "init", "--blind", "--network-key", secret)
        self.assertEqual(sorted(each.name for each in self.folder.iterdir()), ["program"])
        self.good("-r", "init", "--blind")
        with self.assertRaisesRegex(ConfigError, "leave out --network-key"):
            self.good("-r", "init", "--network-key", secret)

    def test_a_network_of_everybody_is_refused(self) -> None:
        with self.assertRaisesRegex(ConfigError, "which everybody has"):
            self.good("init", "--network-key", PUBLIC_RELAYS.text)

    def test_settings_that_say_otherwise_are_not_overwritten(self) -> None:
        self.folder.mkdir(parents=True, mode=0o700)
        file = self.folder / "meshkit.toml"
        for text, said in (("workers = 4\n", "write role ="), ("role = \n", "is not TOML")):
            file.write_text(text)
            with self.assertRaisesRegex(ConfigError, said):
                self.good("-r", "init", "--blind")
            self.assertEqual(file.read_text(), text)

    def test_only_a_relay_is_blind(self) -> None:
        for flags in ((), ("--storage",)):
            with self.assertRaisesRegex(ConfigError, "only a relay can be blind"):
                self.good(*flags, "init", "--blind")

    def test_it_is_no_storage_peer_at_the_same_time(self) -> None:
        done = self.run_cli("-r", "-s", "id")
        self.assertEqual(done.exit_code, 2)
        self.assertIn("give one of them", done.stderr)


class RestoringTests(FolderCase):
    """A relay that is put back into an empty folder."""

    def test_a_blind_relay_misses_no_network_and_has_no_feed(self) -> None:
        self.good("-r", "init", "--blind")
        self.assertEqual(self.restored(), [f"Restored into {self.folder}."])

    def test_a_member_relay_is_told_what_a_node_is(self) -> None:
        self.good("-r", "init")
        (self.folder / "network.secret").unlink()
        said = self.restored()
        self.assertIn("There is no network.secret", said[1])
        self.assertIn("read-only at first", said[2])

    def restored(self) -> list[str]:
        source = self.home / "source.db"
        migrate(DiskFile(str(source)), all_migrations())
        return self.good("-r", "restore", str(source)).splitlines()
