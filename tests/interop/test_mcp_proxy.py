"""
The official Python client of MCP, launching C{meshkit mcp}: in both generations, on one node
with a client over HTTP, and while the node is killed and started again.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from pathlib import Path
from typing import Any, Final

from twisted.trial.unittest import SynchronousTestCase

from tests.interop.node import TOOLS
from tests.process.agents import HttpAgent, daemons, end_daemon
from tests.process.mesh import MESHKIT, PATIENCE, Mesh, Node, environment

HERE: Final = Path(__file__).parent
CHANGED: Final = "notifications/tools/list_changed"


class Official:
    """One of them, in a process of its own."""

    def __init__(self, mode: str, node: Node) -> None:
        python = TOOLS / "mcp" / "bin" / "python"
        if not python.exists():
            raise AssertionError("the client is missing: run .ci/tools")
        self.errors = node.home / f"{mode}.err"
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [
                    *(str(python), str(HERE / "mcp_proxy_client.py"), mode),
                    *(*MESHKIT, "--data-dir", str(node.data), "mcp"),
                ],
                cwd=node.home,
                env=environment(node.home),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
            )
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._answers.put(line)

    def tell(self, *what: Any) -> Any:
        """@return: what it answers."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        try:
            return json.loads(self._answers.get(timeout=PATIENCE))
        except queue.Empty:
            said = self.errors.read_text(errors="replace")
            raise AssertionError(f"no answer to {what}:\n{said}") from None

    def call(self, name: str, **arguments: Any) -> Any:
        return self.tell("call", name, arguments)

    def leave(self) -> None:
        """Close its input, and wait until it has left in good order."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        if self.process.wait(PATIENCE):
            raise AssertionError(self.errors.read_text(errors="replace"))
        self._reader.join(PATIENCE)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()


class ProxyTests(SynchronousTestCase):
    def test_both_generations_and_a_client_over_http_on_one_node(self) -> None:
        mesh = Mesh()
        self.addCleanup(mesh.close)
        node = mesh.node("a")
        (node.data / "meshkit.toml").write_text('listen = "tcp:0"\napi = "auto"\n')
        self.addCleanup(end_daemon, node)

        clients = [Official(mode, node) for mode in ("legacy", "auto")]
        for client in clients:
            self.addCleanup(client.kill)
        old, new = clients
        versions, lists = zip(*(client.tell("hello") for client in clients), strict=True)
        self.assertEqual(versions, ("2025-11-25", "2026-07-28"))
        self.assertEqual(lists[0], lists[1])
        self.assertEqual(len(daemons(node)), 1)
        visitor = HttpAgent(node)
        visitor.shake_hands()
        visitor.listen()
        self.addCleanup(visitor.close)
        self.assertEqual(visitor.tools, lists[0])

        old.call("feed_publish", content={"text": "heron of the old one"})
        new.call("feed_publish", content={"text": "heron of the new one"})
        for agent in (old, new, visitor):
            found = agent.call("feed_search", q="heron")
            self.assertEqual(found["metadata"]["total"], 2)

        # Something is to be read anew: a peer has come.
        other = mesh.node("b", "--peer", node.address, network=node).start()
        for client in clients:
            client.tell("told")
        visitor.wait_told(CHANGED)
        other.stop()
        for client in clients:
            client.tell("told")

        # The node is killed and started again, and nobody has to do anything.
        end_daemon(node)
        node.start()
        for client in clients:
            client.tell("told")
            self.assertEqual(client.call("feed_search", q="heron")["metadata"]["total"], 2)
            self.assertEqual(client.tell("hello")[1], lists[0])
        for client in clients:
            client.leave()
        node.stop()
