"""Bare addresses, pins and two secrets of one network, with the programs that people run."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.process.mesh import Mesh, Node, Shared, wait_for


def _make(mesh: Mesh) -> tuple[Node, Node]:
    a = mesh.node("a").start()
    b = mesh.node("b", network=a).start()
    return a, b


_nodes = Shared(_make)


def tearDownModule() -> None:
    _nodes.close()


def bare(node: Node) -> str:
    """C{HOST:PORT} of a running node."""
    (address,) = node.endpoints["mesh"]
    return str(address).removeprefix("net:").partition("~")[0]


class ProbeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.a, self.b = _nodes.get()

    def peer(self, node: Node) -> Any:
        (found,) = node.good("peer", "list", "--json").json
        return found

    def test_a_bare_address_is_pinned_and_a_changed_key_refused(self) -> None:
        where = bare(self.a)
        public = self.a.good("id").lines[0]
        added = self.b.good("peer", "add", where)
        self.assertIn(f"first seen, pinned: {public}", added.out)
        wait_for("connection", lambda: self.peer(self.b)["connected"])
        self.assertIn("first seen, pinned", self.b.good("peer", "list").out)
        dialled = self.b.good("peer", "dial", where, "--json").json
        self.assertEqual(dialled["public_id"], public)
        pinged = self.b.good("peer", "ping", where, "-c", "3")
        self.assertEqual(len(pinged.lines), 5)
        self.assertIn("3 of 3", pinged.out)

        # The same port, another identity.
        listen = f"tcp:{where.rpartition(':')[2]}:interface=127.0.0.1"
        self.a.stop()
        for name in ("secret.key", "node.db", "node.db-wal", "node.db-shm"):
            (self.a.data / name).unlink(missing_ok=True)
        changed = self.a.good("init", "--json").json["public_id"]
        self.assertNotEqual(changed, public)
        self.a.start("--listen", listen)

        def told() -> bool:
            return "PEER_KEY_CHANGED" in (self.peer(self.b)["last_error"] or "")

        wait_for("change of key", told)
        for text in (public, changed):
            self.assertIn(text, self.peer(self.b)["last_error"])
        self.b.good("peer", "rm", where)

        def refused() -> str:
            # One key a second is told to an address.
            done = self.b.cli("peer", "add", where)
            self.assertEqual(done.code, 1)
            return done.err if "KEY_PROBE_FAILED" not in done.err else ""

        error = wait_for("refusal", refused, step=0.3)
        self.assertIn("[PEER_KEY_CHANGED]", error)
        self.assertIn(public, error)
        self.assertIn(changed, error)

        def repinned() -> Any:
            done = self.b.cli("peer", "repin", where, "--json")
            return done.json if done.code == 0 else None

        done = wait_for("new pin", repinned, step=0.3)
        self.assertEqual((done["before"], done["public_id"]), (public, changed))
        with closing(sqlite3.connect(f"file:{self.b.database}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT place, how FROM node_pins").fetchall()
        self.assertEqual(rows, [(where, "by hand")])

    def test_nobody_there(self) -> None:
        for verb in ("add", "dial", "ping", "repin"):
            done = self.b.cli("peer", verb, "127.0.0.1:9")
            self.assertEqual(done.code, 1)
            self.assertIn("[PEER_UNREACHABLE]", done.err)


class RotationTests(SynchronousTestCase):
    """A network's secret is replaced while its nodes go on."""

    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)

    def test_from_the_first_call_to_the_last(self) -> None:
        a = self.mesh.node("a").start()
        where = bare(a)
        listen = f"tcp:{where.rpartition(':')[2]}:interface=127.0.0.1"
        b = self.mesh.node("b", "--peer", where, network=a).start()
        wait_for("connection", lambda: a.status["channels"])
        shown = a.good("network", "show", "--json").json
        self.assertEqual([each["network"] for each in shown["networks"]], [a.status["network"]])
        self.assertNotIn("mknet1-", json.dumps(shown))
        self.assertIn(a.network_secret, a.good("network", "show", "--secret").out)
        self.assertIn("CONFIG_INVALID", a.cli("network", "rotate", "--finish").err)

        new = a.good("network", "rotate", "--json").json["network_secret"]
        self.assertNotEqual(new, a.network_secret)
        self.assertIn("start it again", a.good("network", "rotate").out)
        a.stop()
        a.start("--listen", listen)
        wait_for("the old secret", lambda: a.status["peers_on_previous"] == 1)
        self.assertIn("old secret: 1\n", a.good("network", "rotate").out)
        self.assertIn("still used by: 1\n", a.good("status").out)
        refused = a.cli("network", "rotate", "--finish")
        self.assertIn("still used, by 1", refused.err)

        b.good("network", "rotate", "--to", new)
        b.stop()
        b.start()
        wait_for("the new secret", lambda: a.status["peers_on_previous"] == 0)
        self.assertIn("no peer", a.good("network", "rotate").out)
        for node in (a, b):
            node.good("network", "rotate", "--finish")
            self.assertEqual((node.data / "network.secret").read_text(), new + "\n")
        a.stop()
        a.start("--listen", listen)
        wait_for("connection", lambda: a.status["channels"])
        self.assertIsNone(a.status["network_previous"])
