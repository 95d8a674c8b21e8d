"""
The Model Context Protocol on Twisted, as a library: tools, resources and prompts for agents.

It needs nothing else of meshkit's: any Twisted application can mount it::

    server = Server("clock", "1.0", clock=reactor, rng=SystemRandom())
    server.add_tool(Tool("now", "What time it is.", {"type": "object"}, tell_time))
    root.putChild(b"mcp", McpResource(server, reactor))

A server knows no transport: C{server} (who is there), C{offers} and C{catalogue} (what there
is), C{sessions} and C{calls} (one client, one call), C{methods} (what is answered), C{changes}
(who is told).  C{wire} has the messages.  The bindings are thin: C{http}, C{lines}, C{stdio},
C{memory}.  Both of today's generations of clients are served by each of them, at the same time.
"""

from meshkit.errors import McpRefused
from meshkit.web.mcp.calls import Call
from meshkit.web.mcp.catalogue import (
    Argument,
    Contents,
    InputRequired,
    Prompt,
    Resource,
    ResourceTemplate,
    Tool,
    ToolResult,
    text_result,
)
from meshkit.web.mcp.http import McpResource
from meshkit.web.mcp.limits import Limits
from meshkit.web.mcp.lines import LineProtocol
from meshkit.web.mcp.memory import MemoryClient, connect
from meshkit.web.mcp.server import Server
from meshkit.web.mcp.sessions import Session

__all__ = [
    "Argument",
    "Call",
    "Contents",
    "InputRequired",
    "Limits",
    "LineProtocol",
    "McpRefused",
    "McpResource",
    "MemoryClient",
    "Prompt",
    "Resource",
    "ResourceTemplate",
    "Server",
    "Session",
    "Tool",
    "ToolResult",
    "connect",
    "text_result",
]
