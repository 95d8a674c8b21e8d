"""
Nodes and a relay in processes of their own: two who are never there together, and a relay that is
killed.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import TestCase

from tests.process.mesh import Mesh, Node, wait_for
from tests.process.relays import RelayNode


class MailboxTests(TestCase):
    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)

    def sent(self, node: Node) -> list[Any]:
        found: list[Any] = node.get("/v1/mailbox/sent")
        return found

    def send(self, node: Node, to: str, text: str) -> None:
        body = json.dumps({"to": to, "text": text}).encode()
        self.assertEqual(node.ask("POST", "/v1/mailbox/send", body).status, 202)

    def test_what_a_relay_has_signed_for_survives_its_end_and_reaches_who_comes_later(self) -> None:
        relay = self.mesh.node("relay", kind=RelayNode)
        relay.start()
        use = ("--relays-use", relay.address)
        ada = self.mesh.node("ada", *use, network=relay)
        bob = self.mesh.node("bob", *use, network=relay)
        bob.start()
        bobs = str(bob.status["identity"])
        wait_for("bob's mailbox", lambda: _state(bob) == "connected")
        bob.kill()
        ada.start()
        for number in range(20):
            self.send(ada, bobs, f"letter {number}")
        wait_for(
            "receipts for some", lambda: any(each["state"] == "kept" for each in self.sent(ada))
        )
        # Some it has signed for, others it may be writing.
        relay.kill()
        signed = {each["id"] for each in self.sent(ada) if each["state"] == "kept"}
        self.assertTrue(signed)
        # Nothing is lost of what ada was told to send either.
        ada.kill()
        port = relay.address.partition("~")[0].rpartition(":")[2]
        relay.start("--listen", f"tcp:{port}:interface=127.0.0.1")
        ada.start()
        wait_for("all receipts", lambda: all(each["receipt"] for each in self.sent(ada)))
        self.assertEqual(len(self.sent(ada)), 20)
        adas = str(ada.status["identity"])
        ada.stop()

        bob.start()
        letters = wait_for("all letters", lambda: _all(bob, 20))
        self.assertEqual({each["sender"] for each in letters}, {adas})
        self.assertLessEqual(signed, {each["id"] for each in letters})
        # In the order in which they were handed over, and each once.
        self.assertEqual([each["preview"] for each in letters], [f"letter {n}" for n in range(20)])

        done = bob.good("mailbox", "read", "1")
        self.assertIn("letter 0", done.out)
        self.assertIn(" 20 messages, 19 of them not read", bob.good("mailbox", "status").out)
        bob.good("mailbox", "rm", "1", "2")
        self.assertEqual(len(bob.good("mailbox", "list", "--json").json), 18)


def _state(node: Node) -> str:
    (relay,) = node.status["parts"]["mailbox"]["relays"]
    return str(relay["state"])


def _all(node: Node, count: int) -> Any:
    letters = node.get("/v1/mailbox/letters")
    return letters if len(letters) >= count else None
