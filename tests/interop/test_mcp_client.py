"""The official Python client of MCP, in its two versions, over HTTP and as stdio's launcher."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from twisted.internet import reactor as installed
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource

from meshkit.web.limits import LimitedSite
from meshkit.web.mcp import McpResource
from meshkit.web.mcp.wire import CANCELLED, INVALID_PARAMS, RESOURCE_NOT_FOUND
from tests.interop.mcp_fixture import Fixture
from tests.interop.node import ROOT, TOOLS

HERE: Final = Path(__file__).parent
STDIO: Final = ("stdio", sys.executable, "-m", "tests.interop.mcp_fixture")

reactor: Any = installed


class ClientTests(TestCase):
    timeout = 120

    def setUp(self) -> None:
        self.home = tempfile.mkdtemp(prefix="meshkit-mcp-")
        self.addCleanup(shutil.rmtree, self.home)

    def serve(self) -> str:
        fixture = Fixture(reactor)
        root = Resource()
        root.putChild(b"mcp", McpResource(fixture.server, reactor))
        site = LimitedSite(root, reactor)
        port = reactor.listenTCP(0, site, interface="127.0.0.1")

        async def stop() -> None:
            await port.stopListening()
            fixture.server.stop()
            await site.close(1)

        self.addCleanup(stop)
        return f"http://127.0.0.1:{port.getHost().port}/mcp"

    async def client(self, version: str, *arguments: str) -> dict[str, Any]:
        """@return: what the client saw."""
        script = "mcp_client.py" if version == "mcp" else "mcp_client_v1.py"
        python = TOOLS / version / "bin" / "python"
        self.assertTrue(python.exists(), "the client is missing: run .ci/tools")
        out, err, code = await getProcessOutputAndValue(
            str(python),
            [str(HERE / script), *arguments],
            {"HOME": self.home, "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
            str(ROOT),
            reactor,
        )
        self.assertEqual(code, 0, (out + err).decode("utf-8", "replace"))
        seen: dict[str, Any] = json.loads(out)
        return seen

    async def check_new(self, mode: str, version: str, *where: str) -> None:
        seen = await self.client("mcp", mode, *where)
        self.check(seen, version)
        self.assertEqual(seen["unknown"], INVALID_PARAMS)
        self.assertEqual(
            seen["told"],
            "ToolsListChanged" if version == "2026-07-28" else "ToolListChangedNotification",
        )
        self.assertEqual(json.loads(seen["resource"])["id"], "7")
        self.assertEqual(seen["prompt"], "This is a simple prompt for testing.")

    async def check_old(self, ended: list[int], *where: str) -> None:
        seen = await self.client("mcp-v1", *where)
        self.assertEqual(seen["ended"], ended)
        self.check(seen, "2025-11-25")
        self.assertEqual(seen["unknown"], RESOURCE_NOT_FOUND)

    def check(self, seen: dict[str, Any], version: str) -> None:
        self.assertEqual(seen["version"], version)
        self.assertEqual(seen["server"], "meshkit-fixture")
        self.assertEqual(seen["tools"], [tool.name for tool in Fixture(reactor)._tools()])
        self.assertEqual(seen["simple"], "This is a simple text response for testing.")
        self.assertEqual(
            seen["steps"],
            [[done, 100, f"Completed step {done} of 100"] for done in (0, 50, 100)],
        )
        self.assertIs(seen["wrong"], True)
        self.assertEqual(seen["asked"], "Hello, Heron!")
        self.assertEqual(seen["more"], 1)
        self.assertEqual(seen["cancelled"], "1")

    async def test_the_new_client_over_http(self) -> None:
        await self.check_new("auto", "2026-07-28", self.serve())

    async def test_the_new_client_in_the_old_way_over_http(self) -> None:
        await self.check_new("legacy", "2025-11-25", self.serve())

    async def test_the_new_client_over_stdio(self) -> None:
        await self.check_new("auto", "2026-07-28", *STDIO)

    async def test_the_new_client_in_the_old_way_over_stdio(self) -> None:
        await self.check_new("legacy", "2025-11-25", *STDIO)

    async def test_the_old_client_over_http(self) -> None:
        await self.check_old([CANCELLED], self.serve())

    async def test_the_old_client_over_stdio(self) -> None:
        await self.check_old([], *STDIO)
