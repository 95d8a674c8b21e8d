"""Real nodes that move, two at once, and find each other through a third."""

from __future__ import annotations

import sys
import time
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.process.mesh import Mesh, Node, Shared, wait_for

#: Others are found by asking peers, and by nothing else.
ALONE = ("--disable", "dht", "--disable", "lan", "--disable", "hooks")


def make(mesh: Mesh) -> tuple[Node, Node, Node]:
    """A third who stays; Ada, who dials it; Bob, who dials both."""
    third = mesh.node("third", *ALONE).start()
    ada = mesh.node("ada", "--peer", third.address, *ALONE, network=third).start()
    peers = ("--peer", third.address, "--peer", ada.address)
    bob = mesh.node("bob", *peers, *ALONE, network=third).start()
    return third, ada, bob


SHARED = Shared(make)


def tearDownModule() -> None:
    SHARED.close()


def links(node: Node) -> dict[str, Any]:
    return {each["public_id"]: each for each in node.get("/v1/exchange/links")}


class InTouchTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.third, self.ada, self.bob = SHARED.get()

    def key(self, node: Node) -> str:
        public_id: str = node.get("/v1/identity")["public_id"]
        return public_id

    def test_two_that_move_at_once_are_in_touch_again(self) -> None:
        ada, bob = self.ada, self.bob
        key, was = self.key(ada), ada.address
        wait_for("a greeting", lambda: links(bob)[key]["state"] == "well")
        known = wait_for("records", lambda: self.third.get("/v1/exchange/records"))
        self.assertIn([was], [each["addresses"] for each in known])
        for node in (ada, bob):
            node.stop()
        # Each gets another port from the system.
        ada.spawn()
        bob.spawn()
        for node in (ada, bob):
            node.wait_ready()
        began = time.monotonic()
        self.assertNotEqual(ada.address, was)

        def found() -> bool:
            peers = bob.get("/v1/peers")
            return any(each["connected"] and each["address"] == ada.address for each in peers)

        wait_for("Ada, where she is now", found)
        print(f"in touch {time.monotonic() - began:.1f} s after both moved", file=sys.stderr)
        self.assertEqual(links(bob)[key]["moved_to"], ada.address)
        self.assertIn(ada.address, bob.good("peer", "links").out)
        self.assertIn(ada.address, bob.good("peer", "find", key).out)
