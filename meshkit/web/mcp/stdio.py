"""
MCP over the standard input and output of this process, as clients launch servers.

Nothing but messages may be on that wire, so it is moved away first: see
L{meshkit.runtime.descriptors}.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from meshkit.runtime.descriptors import claim_wire
from meshkit.web.mcp.lines import LineProtocol
from meshkit.web.mcp.server import Server


class _Stdio(LineProtocol):
    def __init__(self, server: Server, caller: Any, view: Any, over: Deferred[None]) -> None:
        super().__init__(server, caller, view)
        self._over = over

    def writeConnectionLost(self) -> None:
        # It would wait for the end of the input.
        self.transport.connectionLost(Failure(ConnectionLost()))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._over.callback(None)


def serve_stdio(
    reactor: Any, server: Server, caller: Any = None, view: Any = None
) -> Deferred[None]:
    """
    Serve the program that launched this process.

    @param reactor: watches the descriptors.
    @param caller: who that is: whoever can launch us may do what we may do.
    @return: Deferred that fires when it has closed our input, or the server was stopped.
    """
    # It reaches for the reactor where it is imported.
    from twisted.internet.stdio import StandardIO

    source, target = claim_wire()
    over: Deferred[None] = Deferred()
    # What type checkers take for it depends on the machine they run on.
    connect: Any = StandardIO
    connect(_Stdio(server, caller, view, over), stdin=source, stdout=target, reactor=reactor)
    return over
