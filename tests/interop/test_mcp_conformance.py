"""
The official conformance suite of MCP (npm C{@modelcontextprotocol/conformance}), against a
server made with our library, in both generations.

The suite also compares every message of ours with the JSON schema of its specification.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

from twisted.internet import reactor as installed
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from meshkit.web.limits import LimitedSite
from meshkit.web.mcp import McpResource, Server, Tool, text_result
from tests.interop.mcp_fixture import NOTHING, Fixture
from tests.interop.node import MODULES, environment, node

SUITE: Final = MODULES / "@modelcontextprotocol" / "conformance"
HERE: Final = Path(__file__).parent
HANDSHAKE: Final = "2025-11-25"
STATELESS: Final = "2026-07-28"

reactor: Any = installed


class SuiteCase(TestCase):
    """Runs the suite.  Each run takes a few seconds."""

    timeout = 240

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="meshkit-mcp-"))
        self.addCleanup(shutil.rmtree, self.folder)

    async def suite(self, url: str, *arguments: str) -> tuple[int, str]:
        """@return: its exit code, and what it said."""
        program = json.loads((SUITE / "package.json").read_text("utf-8"))["bin"]["conformance"]
        out, err, code = await getProcessOutputAndValue(
            node(),
            [str(SUITE / program), "server", "--url", url, "-o", str(self.folder), *arguments],
            environment() | {"HOME": str(self.folder)},
            str(self.folder),
            reactor,
        )
        return code, (out + err).decode("utf-8", "replace")


class FixtureTests(SuiteCase):
    def serve(self, server: Server, plain: bool = False, path: str = "/mcp") -> str:
        """@return: where a server can be reached."""
        root = Resource()
        root.putChild(b"mcp", McpResource(server, reactor))
        site = Site(root) if plain else LimitedSite(root, reactor)
        port = reactor.listenTCP(0, site, interface="127.0.0.1")

        async def stop() -> None:
            server.stop()
            await port.stopListening()
            if isinstance(site, LimitedSite):
                await site.close(1)

        self.addCleanup(stop)
        return f"http://127.0.0.1:{port.getHost().port}{path}"

    async def check_requirements(self, version: str) -> None:
        url = self.serve(Fixture(reactor).server)
        code, said = await self.suite(url, "--requirements", version)
        self.assertEqual(code, 0, said)
        self.assertIn(f"Not scored for {version}", said)

    async def check_everything(self, version: str) -> None:
        url = self.serve(Fixture(reactor).server, plain=True, path="/mcp/")
        baseline = HERE / f"mcp_baseline_{version}.yml"
        code, said = await self.suite(
            url,
            *("--suite", "all", "--spec-version", version, "--expected-failures", str(baseline)),
        )
        self.assertEqual(code, 0, said)

    async def test_what_the_handshake_generation_requires(self) -> None:
        await self.check_requirements(HANDSHAKE)

    async def test_what_the_stateless_generation_requires(self) -> None:
        await self.check_requirements(STATELESS)

    async def test_every_scenario_of_the_handshake_generation(self) -> None:
        """Behind a plain C{twisted.web} site, at the path with a slash."""
        await self.check_everything(HANDSHAKE)

    async def test_every_scenario_of_the_stateless_generation(self) -> None:
        """Behind a plain C{twisted.web} site, at the path with a slash."""
        await self.check_everything(STATELESS)

    async def test_the_suite_can_tell(self) -> None:
        """A server without what is expected of it does not pass."""
        server = Server("bare", "1", clock=reactor, rng=Fixture(reactor).server._rng)
        server.add_tool(Tool("nothing", "Does nothing.", NOTHING, lambda a, c: text_result("")))
        url = self.serve(server)
        for version in (HANDSHAKE, STATELESS):
            code, said = await self.suite(url, "--requirements", version)
            self.assertEqual(code, 1, said)
