"""The log of a real daemon: its form, and what never stands in it."""

from __future__ import annotations

import json
import os
import signal
from typing import Any, Final

from twisted.trial.unittest import SynchronousTestCase

from tests.process.mesh import TWIST, TWISTD, Done, Mesh, Node, alive, exchange, run, wait_for

PASSPHRASE: Final = "correct horse battery staple"
STRANGER: Final = "Str4nger" * 8


def lines(text: str) -> list[Any]:
    """A log whose every line is a JSON object."""
    return [json.loads(line) for line in text.splitlines()]


class FormTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)
        self.node = self.mesh.node("a")

    def test_in_the_foreground_it_is_json_off_a_terminal(self) -> None:
        self.node.start()
        self.node.ask("GET", "/v1/status", X_Request_Id="mine")
        self.node.stop()
        (ready,) = (
            each for each in lines(self.node.log.read_text()) if "is ready" in each["message"]
        )
        self.assertEqual(ready["level"], "info")
        self.assertEqual(ready["namespace"], "meshkit.services.node.NodeService")
        self.assertRegex(ready["time"], r"^2\d{3}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$")

    def test_text_and_a_level_can_be_asked_for(self) -> None:
        self.node.start("--log-format", "text", "--log-level", "warn")
        self.node.stop()
        self.assertEqual(self.node.log.read_text(), "")
        self.node.start(more={"MESHKIT_LOG_FORMAT": "text"})
        self.node.stop()
        self.assertRegex(
            self.node.log.read_text(), r"(?m)^\S+Z \[meshkit\.\S+#info\] node @.* is ready"
        )

    def test_twist_writes_the_same(self) -> None:
        for more, is_json in (((), True), (("--log-format=text",), False)):
            self.node.runner = (*TWIST, *more)
            self.node.log.unlink(missing_ok=True)
            self.node.start()
            self.node.stop()
            text = self.node.log.read_text()
            self.assertEqual(text.startswith("{"), is_json)
            self.assertIn("is ready", text)
            if is_json:
                lines(text)

    def test_a_daemon_turns_its_file_over_at_a_signal(self) -> None:
        home = self.node.home
        done = run(*TWISTD, "--pidfile=d.pid", "--logfile=d.log", *self.node.command(), home=home)
        self.assertEqual(done, Done(0, "", ""))
        pid = int((home / "d.pid").read_text())
        try:
            self.node.wait_ready()
            os.kill(pid, signal.SIGUSR1)
            wait_for("the old file", (home / "d.log.1").exists)
        finally:
            os.kill(pid, signal.SIGTERM)
            wait_for(f"end of {pid}", lambda: not alive(pid))
        self.assertIn("is ready", lines((home / "d.log.1").read_text())[-1]["message"])
        self.assertIn("shutting down", (home / "d.log").read_text())
        lines((home / "d.log").read_text())


class SecretTests(SynchronousTestCase):
    """All that a node does with secrets is done, and its log is searched for them."""

    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)

    def bother(self, node: Node) -> None:
        """Send secrets where they belong and where they do not, right ones and wrong ones."""
        for token in (node.token, STRANGER, f"mkt_{'ab' * 8}_{STRANGER}"):
            headers = {"Authorization": f"Bearer {token}"}
            node.ask("GET", "/v1/status", **headers)
            node.ask("GET", f"/v1/status?token={token}", **headers)
            node.ask("GET", f"/v1/{token}", **headers)
            node.ask("POST", "/v1/publish", json.dumps({"token": token}).encode(), **headers)
            node.ask("POST", "/v1/publish", token.encode(), **headers)
            node.ask("PUT", "/v1/status", **headers)
            node.ask("GET", "/v1/status", Authorization=f"Basic {token}")
            node.ask("GET", "/v1/status", Cookie=token, X_Request_Id=f"{token}/")
            exchange(node.door, f"GET / HTTP/1.1\r\nAuthorization {token}\r\n\r\n".encode())
        node.good("peer", "list")
        node.good("publish", "hello", "--to", node.get("/v1/identity")["public_id"])

    def test_no_secret_of_a_node_stands_in_its_log(self) -> None:
        ada = self.mesh.node("ada").start("--log-level", "debug")
        bob = self.mesh.node("bob", network=ada)
        bob.start("--peer", ada.address, "--log-level", "debug", "--log-format", "text")
        eve = self.mesh.node("eve").start("--network-key", PASSPHRASE, "--peer", ada.address)
        wait_for("link", ada.links)
        for node in (ada, bob, eve):
            self.bother(node)
        for node in (ada, bob, eve):
            node.stop()
            log = node.log.read_text()
            self.assertIn("is ready", log)
            for name, secret in self.secrets(node).items():
                self.assertNotIn(secret, log, f"{name} of {node.home.name}")

    def secrets(self, node: Node) -> dict[str, str]:
        return {
            "the door's token": node.token,
            "a stranger's token": STRANGER,
            "the network's secret": node.network_secret,
            "the passphrase": PASSPHRASE,
            "the seed": json.loads((node.data / "secret.key").read_text())["seed"],
        }
