"""Tests of C{meshkit --storage}: all verbs, for the folder of a storage peer."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from click.testing import CliRunner, Result
from twisted.trial.unittest import SynchronousTestCase

from meshkit.cli.main import cli


class StorageFolderTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.home = Path(self.enterContext(TemporaryDirectory()))

    def run_cli(self, *arguments: str, **more: str) -> Result:
        environment = {"HOME": str(self.home), "XDG_DATA_HOME": "", "MESHKIT_HOME": "", **more}
        done = CliRunner(env=environment).invoke(cli, arguments)
        return done

    def good(self, *arguments: str, **more: str) -> str:
        done = self.run_cli(*arguments, **more)
        if done.exception is not None:
            raise done.exception
        return done.stdout

    def test_it_has_a_folder_of_its_own_beside_that_of_the_node(self) -> None:
        node = json.loads(self.good("init", "--json"))
        peer = json.loads(self.good("--storage", "init", "--json"))
        share = self.home / ".local/share"
        self.assertEqual(node["data_dir"], str(share / "meshkit"))
        self.assertEqual(peer["data_dir"], str(share / "meshkit-storage"))
        self.assertNotEqual(node["public_id"], peer["public_id"])
        self.assertEqual(self.good("-s", "id").strip(), peer["public_id"])
        self.assertEqual(self.good("id").strip(), node["public_id"])

    def test_whoever_names_a_folder_gets_that_one(self) -> None:
        named = self.home / "disk"
        made = json.loads(self.good("-s", "-d", str(named), "init", "--json"))
        self.assertEqual(made["data_dir"], str(named))
        self.assertEqual((named / "program").read_text(), "mesh-storage\n")
        by_variable = self.good("-s", "id", MESHKIT_HOME=str(named))
        self.assertEqual(by_variable.strip(), made["public_id"])

    def test_settings_are_those_of_the_daemon_that_the_folder_is_for(self) -> None:
        self.good("init")
        self.good("-s", "init")

        def settings(*flags: str) -> dict[str, str]:
            shown = json.loads(self.good(*flags, "config", "show", "--json"))
            return {row["key"]: row["value"] for row in shown}

        node, peer = settings(), settings("-s")
        self.assertEqual((node["listen"], peer["listen"]), ("tcp:7655", "tcp:7670"))
        self.assertIn("gossip.interval", node)
        self.assertNotIn("gossip.interval", peer)
        self.assertIn("dht.client", peer)
        self.assertIn("--origin", self.run_cli("-s", "config", "show", "--help").stdout)
