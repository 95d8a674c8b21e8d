"""Tests of C{meshkit audit} and C{object repair}, with storage peers in memory."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import meshkit_plugins
from meshkit.runtime.registry import discover_parts
from meshkit.testing.nodes import MemoryMesh, MemoryNode
from tests.cli.memory import Done, run_command

OWN = '[dht]\nown_blocks = ["10.0.0.0/8"]\n'
KEEPERS = 4
#: Others cost time, and are not needed here.
PARTS = ("audit", "dht", "keeper", "storage")


class AuditCase(SynchronousTestCase):
    """Ada has a file at two of four peers; passes are made when she asks for them."""

    def setUp(self) -> None:
        self.folder = Path(mkdtemp())
        self.addCleanup(rmtree, self.folder)
        self.mesh = MemoryMesh()
        self.addCleanup(self.mesh.stop)
        self.ada = self.node(
            "ada", '[storage]\nscheme = "1+1"\n[audit]\nenabled = false\noffline_grace = 0\n'
        )
        self.keepers = [
            self.node(
                f"keeper-{number}", f'[keeper]\nmax_storage = 9000000\ndomain = "d{number}"\n'
            )
            for number in range(KEEPERS)
        ]
        self.mesh.run(60)
        path = self.folder / "heron.txt"
        path.write_bytes(b"a grey heron by the weir\n" * 1_000)
        self.object: str = self.json("put", str(path))["object"]

    def node(self, name: str, more: str) -> MemoryNode:
        peers = "" if name == "ada" else f'peers = ["{self.ada.address}"]\n'
        makers = [each for each in discover_parts(meshkit_plugins) if each.name in PARTS]
        node = self.mesh.node(name, f"{peers}{OWN}{more}", makers=makers)
        node.start()
        return node

    def run_it(self, *arguments: str, node: MemoryNode | None = None, stdin: bytes = b"") -> Done:
        return run_command(self.mesh, node or self.ada, *arguments, stdin=stdin)

    def good(self, *arguments: str, code: int = 0, **more: Any) -> str:
        done = self.run_it(*arguments, **more)
        self.assertEqual(done.code, code, done)
        return done.out.decode("utf-8")

    def json(self, *arguments: str, **more: Any) -> Any:
        return json.loads(self.good(*arguments, "--json", **more))

    def refused(self, code: int, text: str, *arguments: str) -> None:
        done = self.run_it(*arguments)
        self.assertEqual(done.code, code, done)
        self.assertIn(text, done.err)

    def holder(self, number: int = 0) -> MemoryNode:
        peer = self.json("object", "stat", self.object)["shares"][number]["peer"]
        return next(node for node in self.keepers if node.identity.public.text == peer)


class PassTests(AuditCase):
    def test_a_pass_over_what_is_whole_says_so(self) -> None:
        self.assertIn("No passes yet", self.good("audit", "show"))
        shown = self.good("audit", "run")
        self.assertIn(f"Object {self.object[:16]}, healthy: 2 of 2 shares are good", shown)
        self.assertIn("1 object, 2 shares audited: 2 success.", shown)
        self.assertIn("2 success", self.good("audit", "run", self.object[:8]))
        listed = self.good("audit", "show")
        self.assertIn("1 healthy", listed)
        self.assertEqual(len(self.json("audit", "show")["runs"]), 2)
        self.assertEqual(self.good("audit", "show", "latest"), self.good("audit", "show", "2"))

    def test_exit_codes_say_how_things_are(self) -> None:
        first, second = self.holder(0), self.holder(1)
        first.stop()
        looked = self.good("audit", "run", "--no-repair", code=3)
        self.assertIn(f"share 0  offline  {first.identity.public.text}", looked)
        self.assertIn("degraded: 1 of 2 shares are good, and 1 suffice", looked)
        second.stop()
        self.assertIn(", lost: 0 of 2", self.good("audit", "run", "--no-repair", code=4))
        self.good("audit", "show", "latest", code=4)

    def test_what_is_lost_is_made_anew(self) -> None:
        gone = self.holder(0)
        gone.stop()
        shown = self.good("audit", "run")
        self.assertIn(f"share 0  made anew, at {self.holder(0).identity.public.text}", shown)
        self.assertIn("1 share made anew", shown)
        self.assertIsNot(self.holder(0), gone)

    def test_a_repair_waits_for_nobody(self) -> None:
        self.ada.stop()
        self.ada._config = self.ada._config.replace("offline_grace = 0", "offline_grace = 9000")
        self.ada.start()
        self.holder(0).stop()
        self.assertIn("Put off, grace", self.good("audit", "run", code=3))
        self.assertIn("1 share made anew", self.good("object", "repair", self.object))

    def test_what_is_detached_goes_on_in_the_node(self) -> None:
        begun = self.json("audit", "run", "--detach")
        self.assertEqual(begun["state"], "running")
        self.mesh.run(60)
        self.assertEqual(self.json("audit", "show", begun["run"])["state"], "done")
        self.assertIn(
            "meshkit audit show 2", self.good("object", "repair", self.object, "--detach")
        )

    def test_one_that_is_under_way_is_waited_for(self) -> None:
        self.json("audit", "run", "--detach")
        self.assertEqual(self.json("audit", "run")["run"], "2")
        self.json("audit", "run", "--detach")
        self.assertEqual(self.json("object", "repair", self.object)["run"], "4")

    def test_what_is_not_there_is_refused(self) -> None:
        self.refused(1, "[NOT_FOUND]", "audit", "run", "0" * 64)
        self.refused(1, "[INVALID_REQUEST]", "audit", "run", "heron.txt")
        self.refused(1, "[NOT_FOUND]", "audit", "show", "7")
        self.refused(1, "[INVALID_REQUEST]", "audit", "show", "seven")
        self.refused(1, "[NOT_FOUND]", "object", "repair", "0" * 8)
        done = self.run_it("audit", "run", node=self.keepers[0])
        # It has no objects, and so there is nothing to do.
        self.assertEqual(done.code, 0, done)


class ReceiptTests(AuditCase):
    def test_a_receipt_is_written_to_a_file(self) -> None:
        self.good("audit", "run")
        receipts = self.json("audit", "show")["receipts"]
        self.assertEqual(
            sorted(each["peer"] for each in receipts),
            sorted(self.holder(number).identity.public.text for number in (0, 1)),
        )
        audit = receipts[0]["id"]
        path = self.folder / "one.mkaudit"
        said = self.good("audit", "show", audit, "--out", str(path))
        self.assertIn(f"See: meshkit audit verify {path}", said)
        self.assertEqual(path.stat().st_size, receipts[0]["bytes"])
        self.refused(1, "exists", "audit", "show", audit, "--out", str(path))
        self.refused(2, "--out FILE", "audit", "show", audit)
        self.refused(2, "32 hex digits", "audit", "show", "latest", "--out", "x")
        self.refused(1, "[NOT_FOUND]", "audit", "show", "0" * 32, "--out", str(path) + "2")


class StandingTests(AuditCase):
    def test_what_is_thought_of_peers_is_shown_and_forgiven(self) -> None:
        self.assertIn("No peer was audited yet", self.good("audit", "peers"))
        self.good("audit", "run")
        peers = self.json("audit", "peers")
        self.assertEqual([each["successes"] for each in peers], [1, 1])
        self.assertIn("1.000", self.good("audit", "peers"))
        self.assertIn("begins anew", self.good("audit", "forgive", peers[0]["peer"]))
        self.refused(1, "[NOT_FOUND]", "audit", "forgive", self.ada.identity.public.text)
        self.refused(1, "[INVALID_PUBLIC_KEY]", "audit", "forgive", "nobody")


class WatchTests(AuditCase):
    def test_somebody_elses_object_is_looked_after(self) -> None:
        bob = self.node("bob", "[audit]\nenabled = false\noffline_grace = 0\n")
        self.mesh.run(60)
        capability = self.json("object", "stat", self.object, "--capabilities")["capabilities"]
        self.assertIn("None.", self.good("audit", "watched", node=bob))
        said = self.good(
            "audit", "watch", "-", node=bob, stdin=capability["repair"].encode() + b"\n"
        )
        self.assertIn(f"Looking after {self.object}: 2 shares, 1+1.", said)
        (watched,) = self.json("audit", "watched", node=bob)
        self.assertEqual(watched["object"], self.object)
        self.assertIn(self.object[:16], self.good("audit", "watched", node=bob))
        gone = self.holder(0)
        gone.stop()
        self.assertIn("1 share made anew", self.good("audit", "run", node=bob))
        self.assertIn("not looked after", self.good("audit", "unwatch", self.object[:8], node=bob))
        self.assertEqual(self.json("audit", "watched", node=bob), [])
        # The owner hears of it from the hash table, before it would repair.
        self.mesh.run(60)
        self.assertNotIn("made anew", self.good("object", "repair", self.object))
        self.assertIsNot(self.holder(0), gone)
