"""What C{examples/embed_a_node.py} shows, in a mesh in memory."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout

from twisted.trial.unittest import SynchronousTestCase

import meshkit_plugins
from meshkit.runtime.registry import discover_parts
from meshkit.testing.nodes import MemoryMesh, MemoryNode
from tests.examples.support import load

example = load("embed_a_node.py")


class LoadTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.addCleanup(self.mesh.stop)
        self.makers = [*discover_parts(meshkit_plugins), example.LoadMaker()]
        self.shown = io.StringIO()
        into = redirect_stdout(self.shown)
        into.__enter__()
        self.addCleanup(into.__exit__, None, None, None)

    def node(self, name: str, config: str = "") -> MemoryNode:
        node = self.mesh.node(name, f"{config}\n[load]\nevery = 60\n", makers=self.makers)
        node.start()
        return node

    def seen(self, node: MemoryNode) -> int:
        """How often a node's load was shown, on either of the nodes."""
        short = re.escape(node.identity.public.short)
        return len(re.findall(rf"^{short} \d+\.\d+$", self.shown.getvalue(), re.MULTILINE))

    def test_each_shows_its_own_load_and_that_of_the_other(self) -> None:
        ada = self.node("ada")
        bob = self.node("bob", f'peers = ["{ada.address}"]')
        self.mesh.run(59)
        self.assertEqual((self.seen(ada), self.seen(bob)), (2, 2))
        self.mesh.run(3)
        self.assertEqual((self.seen(ada), self.seen(bob)), (4, 4))

    def test_what_others_write_is_not_obeyed(self) -> None:
        ada = self.node("ada")
        self.mesh.run(1)
        before = self.shown.getvalue()
        for content in ("text", {"type": "else"}, {"type": example.TYPE, "load": "\x1b[2J"}):
            self.assertEqual(ada.ask("POST", "/v1/publish", {"content": content}).status, 201)
        after = self.shown.getvalue().removeprefix(before)
        self.assertEqual(after, f"{ada.identity.public.short} '\\x1b[2J'\n")
