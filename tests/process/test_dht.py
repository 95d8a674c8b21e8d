"""Real nodes that find one another, and what they keep for one another, in the hash table."""

from __future__ import annotations

import hashlib
import json
from typing import Any
from urllib.parse import quote

from twisted.trial.unittest import SynchronousTestCase

from tests.process.mesh import Mesh, Node, Shared, wait_for

NAMES = ("ada", "bob", "eve", "joe", "may")
# All of these nodes have one address.  There may be two of it in a bucket, but for those whose
# owner says that they are his.
OWN_BLOCK = ("--dht-own-block", "127.0.0.0/8")
#: Messages go from node to node by gossip; here nothing may.
ALONE = ("--disable", "gossip", "--disable", "hooks")


def make(mesh: Mesh) -> dict[str, Node]:
    """Ada runs; all others are given her address, and no other.  May comes last."""
    ada = mesh.node("ada", *OWN_BLOCK, *ALONE).start()
    nodes = {"ada": ada}
    for name in NAMES[1:]:
        nodes[name] = mesh.node(name, "--peer", ada.address, *OWN_BLOCK, *ALONE, network=ada)
    *others, may = nodes.values()
    for node in others[1:]:
        node.spawn()
    for node in others:
        node.wait_ready()
    wait_for("tables", lambda: all(_settled(node, len(others)) for node in others))
    may.start()
    wait_for("tables", lambda: all(_settled(node, len(nodes)) for node in nodes.values()))
    return nodes


def _settled(node: Node, count: int) -> bool:
    """It knows all others, and has published where it is."""
    stats = _stats(node)
    known = stats["contacts"] == count - 1
    return bool(known and stats["publications"] and not stats["lookups"])


def _stats(node: Node) -> Any:
    return node.get("/v1/dht/stats")


def _known(node: Node) -> set[str]:
    return {each["public_id"] for each in node.get("/v1/dht/table")}


def _put(node: Node, **record: Any) -> Any:
    return node.ask("POST", "/v1/dht/records", json.dumps(record).encode()).data


def _found(node: Node, kind: str, name: str, salt: str = "") -> list[Any]:
    path = f"/v1/dht/records/{kind}/{quote(name, safe='@')}?salt={salt}"
    records: list[Any] = node.get(path)["records"]
    return records


def _id(node: Node) -> str:
    return str(node.get("/v1/identity")["public_id"])


_shared = Shared(make)


def tearDownModule() -> None:
    _shared.close()


class _Tests(SynchronousTestCase):
    def setUp(self) -> None:
        self.nodes: dict[str, Node] = _shared.get()
        self.ada, self.bob, self.eve, self.joe, self.may = (self.nodes[name] for name in NAMES)


class FindingTests(_Tests):
    def test_a_third_node_is_dialled_by_its_key_alone(self) -> None:
        key = _id(self.eve)
        said, found, handshake = self.bob.good("peer", "dial", key).lines
        self.assertEqual(said, f"{key} answers at {self.eve.address}")
        self.assertEqual(found, "found       by the part dht")
        self.assertTrue(handshake.startswith("handshake   "), handshake)
        (peer,) = self.bob.get("/v1/peers")
        self.assertEqual(peer["address"], self.ada.address)

    def test_a_node_is_found_again_where_it_is_now(self) -> None:
        before, key = self.may.address, _id(self.may)
        self.may.stop()
        self.may.start()
        self.assertNotEqual(self.may.address, before)

        def look() -> bool:
            answer = self.bob.ask("GET", f"/v1/dht/peers/{quote(key, safe='@')}")
            return answer.status == 200 and self.may.address in answer.data["addresses"]

        wait_for("the new address", look, step=0.1)
        self.assertIn(self.may.address, self.bob.good("peer", "dial", key).out)

    def test_each_kind_is_found_by_others(self) -> None:
        for node, text in ((self.bob, "a heron"), (self.eve, "an egret")):
            self.assertIn(
                "Published; kept by ", node.good("dht", "put", "topic", "birds", text).out
            )
        texts = {each["text"] for each in _found(self.joe, "topic", "birds")}
        self.assertEqual(texts, {"a heron", "an egret"})

        self.bob.good("dht", "put", "mutable", "at home", "--salt", "status")
        self.bob.good("dht", "put", "mutable", "out", "--salt", "status")
        (item,) = _found(self.may, "mutable", _id(self.bob), "status")
        self.assertEqual((item["text"], item["owner"]), ("out", _id(self.bob)))

        data = bytes(range(256)) * 128
        self.eve.good("dht", "put", "immutable", "-", stdin=data)
        digest = hashlib.sha256(data).hexdigest()
        self.bob.good("dht", "get", "immutable", digest, "-o", "copy")
        self.assertEqual((self.bob.home / "copy").read_bytes(), data)

        for node in (self.eve, self.joe):
            node.good("dht", "provide", digest)
        shown = self.bob.good("dht", "providers", digest).out
        self.assertEqual(
            {line.split()[0] for line in shown.splitlines()}, {_id(self.eve), _id(self.joe)}
        )

        (address,) = _found(self.may, "address", _id(self.bob))
        self.assertEqual(address["owner"], _id(self.bob))


class KillTests(_Tests):
    def test_who_is_killed_has_its_table_and_its_records_still(self) -> None:
        key = _id(self.may)
        _put(self.may, kind="mutable", text="mine")
        for number in range(5):
            _put(self.ada, kind="topic", name=f"topic {number}", text="kept by all")
        before, known = _stats(self.may), _known(self.may)
        self.assertGreaterEqual(before["records"], 5)
        self.may.kill()
        self.assertEqual(_found(self.bob, "mutable", key)[0]["text"], "mine")
        # Nobody tells it of a peer now: what it knows it has from its own disk.
        with_peer, self.may.arguments = self.may.arguments, (*OWN_BLOCK, *ALONE)
        try:
            self.may.start()
        finally:
            self.may.arguments = with_peer
        self.assertEqual(self.may.get("/v1/peers"), [])
        after = _stats(self.may)
        self.assertLessEqual(known, _known(self.may))
        self.assertGreaterEqual(after["records"], before["records"])
        self.assertEqual(after["publications"], before["publications"])
        for number in range(5):
            (record,) = _found(self.may, "topic", f"topic {number}")
            self.assertEqual(record["text"], "kept by all")
        self.assertIn(self.joe.address, self.may.good("peer", "dial", _id(self.joe)).out)

    def test_what_was_published_outlives_its_publisher(self) -> None:
        mesh_gone = self.eve
        key = _id(mesh_gone)
        placed = _put(mesh_gone, kind="mutable", text="my last words", salt="will")
        self.assertGreaterEqual(placed["accepted"], 4)
        _put(mesh_gone, kind="topic", name="wills", text="see my item")
        mesh_gone.kill()
        try:
            for node in (self.bob, self.joe):
                (said,) = node.good("dht", "get", "topic", "wills").lines[1:]
                self.assertEqual(said, "  see my item")
                (record,) = _found(node, "mutable", key, "will")
                self.assertEqual(record["text"], "my last words")
                self.assertEqual(record["sequence"], placed["sequence"])
        finally:
            mesh_gone.start()


class StrangerTests(SynchronousTestCase):
    """Nodes with the settings that everybody has."""

    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)

    def test_one_that_is_alone_publishes_as_soon_as_there_are_others(self) -> None:
        hermit = self.mesh.node("hermit", "--dht-client", *ALONE).start()
        done = hermit.cli("dht", "put", "topic", "birds", "a heron")
        self.assertEqual((done.code, done.out), (1, ""))
        self.assertIn("it is published, but no other node is known", done.err)
        self.assertTrue(done.err.endswith("[RECORD_NOT_PLACED]\n"), done.err)
        ada = self.mesh.node("ada", *ALONE, network=hermit).start()
        bob = self.mesh.node("bob", "--peer", ada.address, *ALONE, network=hermit).start()
        hermit.good("peer", "add", ada.address)
        wait_for("others", lambda: _stats(hermit)["contacts"] == 2)
        shown = hermit.good("dht", "put", "topic", "birds", "a grey heron").lines
        self.assertEqual(shown[0], "Published; kept by 2 of 2 nodes.")
        self.assertEqual(bob.good("dht", "get", "topic", "birds").lines[1], "  a grey heron")
        # Others are not told of one that cannot be reached.
        self.assertEqual(_known(bob), {_id(ada)})
        self.assertEqual(_known(ada), {_id(bob)})
        done = bob.cli("peer", "dial", _id(hermit))
        self.assertEqual((done.code, done.out), (1, ""))
        self.assertTrue(done.err.endswith("[NOT_FOUND]\n"), done.err)
