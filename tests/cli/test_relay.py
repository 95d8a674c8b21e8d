"""Tests of C{meshkit relay}, against a relay and a node in memory."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from meshkit.testing.nodes import MemoryNode
from tests.cli.memory import Done, run_command
from tests.relay.registration.world import Mesh


class VerbTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.mesh.stop)
        self.node = self.mesh.node("ada")

    def cli(self, *arguments: str, node: MemoryNode | None = None) -> Done:
        return run_command(self.mesh.mesh, node or self.node, "relay", *arguments)

    def good(self, *arguments: str, node: MemoryNode | None = None) -> list[str]:
        done = self.cli(*arguments, node=node)
        self.assertEqual((done.code, done.err), (0, ""))
        return done.out.decode().splitlines()

    def refused(self, *arguments: str) -> str:
        done = self.cli(*arguments)
        self.assertEqual((done.code, done.out), (1, b""))
        return done.err

    def test_a_node_registers_changes_its_mind_and_leaves(self) -> None:
        address = self.mesh.address
        self.assertEqual(
            self.good("register", address, "--listed", "--nickname", "ada"),
            [f"Registered at {address} as ada, listed"],
        )
        self.assertEqual(
            self.good("settings", "--private"), [f"Registered at {address} as ada, private"]
        )
        self.assertEqual(
            self.good("settings", address, "--nickname", ""), [f"Registered at {address}, private"]
        )
        self.assertEqual(self.good("leave"), [f"Not registered any more at {address}"])
        self.assertEqual(self.mesh.registered(), [])

    def test_what_is_said_as_json(self) -> None:
        shown = json.loads(self.cli("register", self.mesh.address, "--json").out)
        self.assertTrue(shown["registered"])
        self.assertFalse(shown["listed"])

    def test_the_status_of_a_node(self) -> None:
        (nothing,) = self.good("status")
        self.assertIn("meshkit relay register", nothing)
        self.good("register", self.mesh.address, "--listed")
        head, row = self.good("status")
        self.assertTrue(head.startswith("state"))
        self.assertTrue(row.startswith("registered  member  listed"))
        self.assertIn(self.mesh.address, row)
        (shown,) = json.loads(self.cli("status", "--json").out)
        self.assertEqual(shown["address"], self.mesh.address)

    def test_the_status_of_a_relay(self) -> None:
        self.good("register", self.mesh.address, "--listed")
        lines = self.good("status", node=self.mesh.relay)
        self.assertIn("role        member", lines)
        self.assertIn(f"reached at  {self.mesh.address}", lines)
        self.assertIn("peers       1 registered, 1 listed, 10000 at most", lines)
        shown = json.loads(self.cli("status", "--json", node=self.mesh.relay).out)
        self.assertEqual(shown["registry"]["peers"], 1)

    def test_the_operator_of_a_relay_sees_all_and_removes_one(self) -> None:
        self.good("register", self.mesh.address, "--nickname", "ada")
        relay, key = self.mesh.relay, self.node.identity.public.text
        listed = run_command(self.mesh.mesh, relay, "call", "registry_list")
        (peer,) = json.loads(listed.out)
        self.assertEqual((peer["public_id"], peer["nickname"]), (key, "ada"))
        removed = run_command(self.mesh.mesh, relay, "call", "registry_remove", f"peer={key}")
        self.assertEqual((removed.code, removed.err), (0, ""))
        self.assertEqual(self.mesh.registered(), [])
        again = run_command(self.mesh.mesh, relay, "call", "registry_remove", f"peer={key}")
        self.assertIn("[NOT_REGISTERED]", again.err)

    def test_the_directory_names_those_who_want_it(self) -> None:
        self.good("register", self.mesh.address)
        self.assertEqual(self.good("directory"), ["Nobody is listed there."])
        for number in range(3):
            self.mesh.user(
                f"peer {number}", f'[registration]\nlisted = true\nnickname = "{number}"'
            )
        head, *rows = self.good("directory", self.mesh.address)
        self.assertTrue(head.startswith("peer"))
        self.assertEqual(sorted(row.split()[1] for row in rows), ["0", "1", "2"])
        *_, last = self.good("directory", "--limit", "2")
        self.assertEqual(last, "2 of 3")
        shown = json.loads(self.cli("directory", "--json").out)
        self.assertEqual(len(shown), 3)

    def test_refusals_are_one_line(self) -> None:
        self.assertIn("[NOT_REGISTERED]", self.refused("settings", "--listed"))
        self.assertIn("[NOT_REGISTERED]", self.refused("directory"))
        self.assertIn("[INVALID_ADDRESS]", self.refused("register", "nowhere"))
        self.assertIn(
            "[REGISTRATION_INVALID]", self.refused("register", self.mesh.address, "--nickname", " ")
        )

    def test_settings_have_something_to_say(self) -> None:
        done = self.cli("settings")
        self.assertEqual(done.code, 2)
        self.assertIn("--nickname", done.err)
