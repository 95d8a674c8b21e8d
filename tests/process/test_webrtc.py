"""Real peers that a real relay leads to each other, and that find a direct path by aiortc."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from meshkit.discovery.interfaces import find_interfaces
from meshkit.errors import WebRTCMissing
from meshkit.relay.webrtc.aio import load_aiortc
from tests.process.mesh import Mesh, wait_for
from tests.process.relays import RelayNode

#: There is no other direct path.
ON = "[webrtc]\nenabled = true\n[tunnel]\nupgrade = false\n"


class WebRTCTests(SynchronousTestCase):
    def test_what_two_hidden_nodes_say_goes_by_a_direct_path(self) -> None:
        try:
            load_aiortc()
        except WebRTCMissing:
            raise SkipTest("aiortc is not installed (the extra webrtc)") from None
        if not find_interfaces():
            raise SkipTest("there is no network interface but loopback, which WebRTC leaves out")
        mesh = Mesh()
        self.addCleanup(mesh.close)
        relay = RelayNode(mesh.folder / "relay", ())
        relay.home.mkdir()
        mesh._nodes.append(relay)
        relay.good("--relay", "init", "--blind")
        relay.start()
        # Nobody but through the relay comes to what listens there.
        hides = ("--listen", "unix:mesh.sock", "--relays-blind", relay.address)
        ada = mesh.node("ada", *hides)
        ben = mesh.node("ben", *hides, network=ada)
        for node in (ada, ben):
            (node.data / "meshkit.toml").write_text(ON)
            node.start()

        def reached() -> str:
            (shown,) = ada.status["parts"]["tunnel"]["relays"]
            return str(shown["address"]) if shown["reachable"] else ""

        address = wait_for("address of ada", reached)
        ben.ask("POST", "/v1/peers", json.dumps({"address": address}).encode())
        ada.publish({"type": "note", "text": "by whatever way"})
        author = ada.status["identity"]
        wait_for("the message at ben", lambda: ben.stored(author))

        def ways() -> Any:
            return {each["transport"] for each in ben.get("/v1/peers/connections")} >= {"webrtc"}

        wait_for("a direct path", ways)
        self.assertEqual(ben.status["parts"]["webrtc"]["paths"], 1)
        self.assertEqual(ada.status["parts"]["webrtc"]["answered"], 1)
        # It is there without the relay.
        relay.kill()
        ada.publish({"type": "note", "text": "the relay is gone"})
        wait_for("the second message", lambda: len(ben.stored(author)) == 2)
        for node in (ada, ben):
            node.stop()
            self.assertIn("Server Shut Down", node.log_tail(2))
            self.assertNotIn('"level":"critical"', node.log.read_text())
