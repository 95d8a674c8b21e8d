"""A storage peer that goes, in whole nodes: its shares are moved, and it comes to hold nothing."""

from __future__ import annotations

from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.testing.nodes import MemoryMesh, MemoryNode

OWN = '[dht]\nown_blocks = ["10.0.0.0/8"]\n'
TEXT = b"a grey heron by the weir\n" * 1_000


class LeavingTests(SynchronousTestCase):
    """Ada has a file at three of four peers."""

    def setUp(self) -> None:
        self.folder = Path(mkdtemp())
        self.addCleanup(rmtree, self.folder)
        self.mesh = MemoryMesh()
        self.addCleanup(self.mesh.stop)
        self.ada = self.node("ada", '[storage]\nscheme = "2+1"\n[audit]\nenabled = false\n')
        self.keepers = [
            self.node(f"keeper-{n}", f'[keeper]\nmax_storage = 9000000\ndomain = "d{n}"\n')
            for n in range(4)
        ]
        self.mesh.run(20)
        path = self.folder / "heron.txt"
        path.write_bytes(TEXT)
        put = self.ask("POST", "/v1/objects", {"path": str(path)})["id"]
        self.object: str = self.ask("GET", f"/v1/transfers/{put}?wait=30")["object"]

    def node(self, name: str, more: str) -> MemoryNode:
        peers = "" if name == "ada" else f'peers = ["{self.ada.address}"]\n'
        node = self.mesh.node(name, f"{peers}{OWN}{more}")
        node.start()
        return node

    def ask(self, method: str, path: str, body: Any = None, node: MemoryNode | None = None) -> Any:
        answer = (node or self.ada).ask(method, path, body)
        self.assertLess(answer.status, 300, answer.body)
        return answer.json["data"]

    def holders(self) -> list[str]:
        shown = self.ask("POST", "/v1/objects/stat", {"object": self.object})
        return [each["peer"] for each in shown["shares"]]

    def shares(self, node: MemoryNode) -> int:
        shares: int = self.ask("GET", "/v1/storage", node=node)["shares"]
        return shares

    def passed(self) -> Any:
        """@return: what the pass that is made now has done."""
        self.ask("POST", "/v1/audit/runs", {})
        self.mesh.run(20)
        return self.ask("GET", "/v1/audit/runs")[0]

    def get(self) -> bytes:
        path = self.folder / "back.txt"
        got = self.ask("POST", "/v1/objects/get", {"object": self.object, "path": str(path)})
        self.ask("GET", f"/v1/transfers/{got['id']}?wait=30")
        data = path.read_bytes()
        path.unlink()
        return data

    def test_its_shares_are_copied_and_its_leases_given_up(self) -> None:
        by_key = {node.identity.public.text: node for node in self.keepers}
        leaver = by_key[self.holders()[0]]
        (spare,) = [node for key, node in by_key.items() if key not in self.holders()]
        others = self.holders()[1:]
        self.ask("POST", "/v1/storage/disconnect", {}, leaver)
        self.assertEqual(self.shares(leaver), 1)
        self.mesh.run(40)
        # Nothing happens to it before somebody looks.
        self.assertEqual(self.shares(leaver), 1)
        self.passed()
        self.assertEqual(self.holders(), [spare.identity.public.text, *others])
        self.assertEqual((self.shares(leaver), self.shares(spare)), (0, 1))
        status = self.ask("GET", "/v1/storage", node=leaver)
        self.assertEqual((status["state"], status["announced"]), ("draining", None))
        leaver.stop()
        self.assertEqual(self.get(), TEXT)

    def test_it_is_copied_even_while_too_few_are_there_to_make_it_anew(self) -> None:
        by_key = {node.identity.public.text: node for node in self.keepers}
        leaver, *away = (by_key[key] for key in self.holders())
        (spare,) = [node for key, node in by_key.items() if key not in self.holders()]
        for node in away:
            node.stop()
        self.ask("POST", "/v1/storage/disconnect", {}, leaver)
        self.assertEqual(self.passed()["placed"], 1)
        self.assertEqual(self.holders()[0], spare.identity.public.text)
        self.assertEqual((self.shares(leaver), self.shares(spare)), (0, 1))

    def test_who_finds_no_other_place_leaves_it_where_it_is(self) -> None:
        by_key = {node.identity.public.text: node for node in self.keepers}
        leaver = by_key[self.holders()[0]]
        (spare,) = [node for key, node in by_key.items() if key not in self.holders()]
        spare.stop()
        before = self.holders()
        self.ask("POST", "/v1/storage/disconnect", {}, leaver)
        self.passed()
        self.assertEqual(self.holders(), before)
        self.assertEqual(self.shares(leaver), 1)
        self.assertEqual(self.get(), TEXT)

    def test_a_node_that_was_started_since_hears_of_it_too(self) -> None:
        by_key = {node.identity.public.text: node for node in self.keepers}
        leaver = by_key[self.holders()[0]]
        self.ask("POST", "/v1/storage/disconnect", {}, leaver)
        self.ada.stop()
        self.ada.start()
        self.mesh.run(20)
        self.passed()
        self.assertNotIn(leaver.identity.public.text, self.holders())
        self.assertEqual(self.shares(leaver), 0)
