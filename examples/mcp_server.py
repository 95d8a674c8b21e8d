"""
Kitchen timers for an agent: an MCP server in a Twisted program of your own.

::

    python examples/mcp_server.py 8765       serve http://127.0.0.1:8765/mcp
    python examples/mcp_server.py --stdio    serve the client that has launched us

Nothing of a mesh is needed for it, and any client of MCP can use it.
"""

import json
import sys
from collections.abc import Callable
from random import SystemRandom
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater, react
from twisted.web.resource import Resource as Folder

from meshkit.errors import NotFound
from meshkit.web.limits import LimitedSite
from meshkit.web.mcp import (
    Call,
    McpResource,
    Resource,
    ResourceTemplate,
    Server,
    Tool,
    ToolResult,
    text_result,
)
from meshkit.web.mcp.stdio import serve_stdio

# [schemas]
NAMED = {
    "type": "object",
    "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 40}},
    "required": ["name"],
    "additionalProperties": False,
}
SET = {
    **NAMED,
    "properties": {
        **NAMED["properties"],
        "seconds": {"type": "number", "exclusiveMinimum": 0, "maximum": 86400},
    },
    "required": ["name", "seconds"],
}
LEFT = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "left": {"type": "number"}},
    "required": ["name", "left"],
}
# [schemas-end]


@define
class Timers:
    """What the program is about, whoever uses it."""

    clock: IReactorTime
    changed: Callable[[str], None] = field(default=lambda name: None)
    ends: dict[str, float] = field(factory=dict)

    def set(self, name: str, seconds: float) -> None:
        self.ends[name] = self.clock.seconds() + seconds
        self.changed(name)

    def left(self, name: str) -> float:
        if name not in self.ends:
            raise NotFound(f"there is no timer {name!r}: set it first")
        return max(0.0, self.ends[name] - self.clock.seconds())


# [tools]
class TimerTools:
    """What an agent can do with them."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers

    def describe(self) -> str:
        """Asked at each listing: what an agent should know now stands in it."""
        running = sorted(name for name in self._timers.ends if self._timers.left(name))
        return f"Set a kitchen timer. Running now: {', '.join(running) or 'none'}."

    def set(self, arguments: Any, call: Call) -> ToolResult:
        self._timers.set(arguments["name"], arguments["seconds"])
        return self._shown(arguments["name"])

    async def wait(self, arguments: Any, call: Call) -> ToolResult:
        """Cancelled by the client, or by its going away: then deferLater is."""
        name = arguments["name"]
        whole = self._timers.left(name)
        while left := self._timers.left(name):
            call.progress(whole - left, whole, f"{left:.0f} s to go")
            await deferLater(self._timers.clock, min(1.0, left))
        return self._shown(name)

    def read(self, uri: str, call: Call) -> str:
        name = call.variables["name"]
        return json.dumps({"name": name, "left": self._timers.left(name)})

    def read_all(self, uri: str, call: Call) -> str:
        return json.dumps({name: self._timers.left(name) for name in self._timers.ends})

    def _shown(self, name: str) -> ToolResult:
        left = self._timers.left(name)
        return text_result(f"{name}: {left:.0f} s left", {"name": name, "left": left})


# [tools-end]


# [server]
def make_server(reactor: Any, timers: Timers, rng: SystemRandom) -> Server:
    tools = TimerTools(timers)
    server = Server(
        "timers",
        "1.0",
        clock=reactor,
        rng=rng,
        instructions="Kitchen timers. Set one before you wait for it.",
    )
    server.add_tool(Tool("timer_set", tools.describe, SET, tools.set, LEFT))
    server.add_tool(
        Tool(
            "timer_wait",
            "Wait until a timer ends.",
            NAMED,
            tools.wait,
            LEFT,
            annotations={"readOnlyHint": True},
        )
    )
    server.add_resource(Resource("timer://", "timers", tools.read_all, "All timers."))
    server.add_template(ResourceTemplate("timer://{name}", "timer", tools.read, "One of them."))

    def changed(name: str) -> None:
        # To every client that listens, in whatever way its generation does.
        server.tools_changed()
        server.resource_updated("timer://")
        server.resource_updated(f"timer://{name}")

    timers.changed = changed
    return server


# [server-end]


# [main]
def main(reactor: Any, where: str) -> Deferred[None]:
    server = make_server(reactor, Timers(reactor), SystemRandom())
    if where == "--stdio":
        return serve_stdio(reactor, server)
    root = Folder()
    root.putChild(b"mcp", McpResource(server, reactor))
    site = LimitedSite(root, reactor, max_body=server.limits.message)
    port = reactor.listenTCP(int(where), site, interface="127.0.0.1")
    print(f"http://127.0.0.1:{port.getHost().port}/mcp", flush=True)
    return Deferred()


# [main-end]


if __name__ == "__main__":
    where = sys.argv[1] if len(sys.argv) == 2 else ""
    if where != "--stdio" and not (where.isdecimal() and int(where) < 65536):
        sys.exit(f"usage: {sys.argv[0]} PORT | --stdio")
    react(main, [where])
