"""Our MCP library in a plain Twisted application, with one tool."""

from __future__ import annotations

from collections.abc import Mapping
from random import SystemRandom
from typing import Any

from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.web.resource import Resource
from twisted.web.server import Site

from meshkit.web.mcp import Call, McpResource, Server, Tool, ToolResult
from tests.bench.peers.jobs import Job, run


def add(arguments: Any, call: Call) -> ToolResult:
    """The sum of two numbers."""
    total = arguments["a"] + arguments["b"]
    return ToolResult([{"type": "text", "text": str(total)}], {"result": total})


def jobs(reactor: Any) -> Mapping[str, Job]:
    async def listen() -> str:
        server = Server("bench", "1", clock=reactor, rng=SystemRandom())
        number = {"type": "integer"}
        server.add_tool(
            Tool(
                "add",
                "Add two numbers.",
                {
                    "type": "object",
                    "properties": {"a": number, "b": number},
                    "required": ["a", "b"],
                },
                add,
                output_schema={
                    "type": "object",
                    "properties": {"result": number},
                    "required": ["result"],
                },
            )
        )
        root = Resource()
        root.putChild(b"mcp", McpResource(server, reactor))
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(Site(root))
        return f"http://127.0.0.1:{port.getHost().port}"

    return {"listen": listen}


if __name__ == "__main__":
    run(jobs)
