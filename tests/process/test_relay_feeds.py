"""
A real relay, C{twistd mesh-relay}, that keeps feeds for peers who are never there together.

It is killed while messages come.  Whatever it has told to be stored is there when it runs again,
for those who know nobody but the relay.
"""

from __future__ import annotations

import json
import random
import time
from typing import Final

from attrs import define
from twisted.trial.unittest import SynchronousTestCase

from tests.process.mesh import Mesh, Node, wait_for

#: Messages that are published in one request.
MANY: Final = 500


@define(eq=False)
class Relay(Node):
    """
    A relay, which is where it was first after a restart.

    @ivar port: of the mesh.
    """

    port: int = 0

    def command(self, *arguments: str) -> list[str]:
        listen = ("--listen", f"tcp:{self.port}:interface=127.0.0.1") if self.port else ()
        return ["mesh-relay", *super().command(*listen, *arguments)[1:]]

    def wait_ready(self) -> None:
        super().wait_ready()
        self.port = int(self.mesh_port[1])

    def kept(self) -> int:
        """How many messages it says that it has."""
        return int(self.status["parts"]["feed"]["messages"])

    def registered(self) -> int:
        return int(self.status["parts"]["forwarding"]["authors"])


class RelayFeedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)
        self.seed = random.SystemRandom().randrange(2**32)
        self.rng = random.Random(self.seed)

    def peer(self, name: str, relay: Relay) -> Node:
        """A node that knows the relay and nobody else."""
        node = self.mesh.node(
            name, "--relays-use", relay.address, "--gossip-retry-max=1", network=relay
        )
        return node.start()

    def test_a_relay_that_is_killed_has_all_that_it_said_it_had(self) -> None:
        relay = self.mesh.node("relay", kind=Relay)
        assert isinstance(relay, Relay)
        relay.start()
        self.assertEqual(relay.status["relay"], "member")
        ada = self.peer("ada", relay)
        author = ada.status["identity"]
        wait_for("registration", lambda: relay.registered() == 1)
        contents = [{"type": "note", "text": f"message {n}"} for n in range(MANY)]
        body = json.dumps({"contents": contents}).encode()
        self.assertEqual(ada.ask("POST", "/v1/publish/batch", body).data["last"], MANY)
        wait_for("messages at the relay", relay.kept)
        time.sleep(self.rng.uniform(0, 0.2))
        told = relay.kept()
        relay.kill()
        # Nobody who could bring it again runs now.
        ada.stop()
        relay.start()
        self.assertGreaterEqual(relay.kept(), told, self.seed)
        self.assertEqual(relay.registered(), 1)

        ada.start()
        wait_for("all of it", lambda: relay.kept() == MANY)
        ada.stop()
        relay.kill()
        relay.start()
        bob = self.peer("bob", relay)
        wait_for("feed of who is away", lambda: len(bob.stored(author)) == MANY)
        self.assertEqual(bob.stored(author), ada.stored(author))
        self.assertEqual(bob.status["parts"]["gossip"]["refused"], {})
