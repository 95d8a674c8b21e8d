"""
The protocol scenarios of the official conformance suite of MCP, against a node that runs.

Those that want tools, prompts or resources of the suite's own stand in the baselines: the
fixture server passes them (L{tests.interop.test_mcp_conformance}).
"""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor as installed

from tests.interop.mcp_doorman import Doorman
from tests.interop.test_mcp_conformance import HANDSHAKE, HERE, STATELESS, SuiteCase
from tests.process.mesh import Mesh, Node, Shared

reactor: Any = installed


def _node(mesh: Mesh) -> Node:
    return mesh.node("judged").start()


NODE = Shared(_node)


def tearDownModule() -> None:
    NODE.close()


class NodeTests(SuiteCase):
    async def check(self, version: str) -> None:
        node: Node = NODE.get()
        _, door = node.door
        assert isinstance(door, int)
        port = reactor.listenTCP(0, Doorman(reactor, door, node.token), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        code, said = await self.suite(
            f"http://127.0.0.1:{port.getHost().port}/mcp",
            *("--suite", "all", "--spec-version", version),
            *("--expected-failures", str(HERE / f"mcp_baseline_node_{version}.yml")),
        )
        self.assertEqual(code, 0, said)

    async def test_the_handshake_generation(self) -> None:
        await self.check(HANDSHAKE)

    async def test_the_stateless_generation(self) -> None:
        await self.check(STATELESS)
