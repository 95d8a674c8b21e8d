"""
MCP over the standard input and output of this process, as clients launch servers.

Nothing but messages may be on that wire.  So it is moved to descriptors that nobody else
knows: what prints goes to the standard error, and what reads, also in a child process, finds
an empty standard input.
"""

from __future__ import annotations

import fcntl
import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from meshkit.web.mcp.lines import LineProtocol
from meshkit.web.mcp.server import Server

_FIRST_OTHER = 3


def claim_wire() -> tuple[int, int]:
    """
    Take the standard input and output away from everybody else in this process.

    @return: descriptors of what they were; children do not inherit them.
    @raise OSError: if they are not open.
    """
    source = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, _FIRST_OTHER)
    target = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, _FIRST_OTHER)
    nothing = os.open(os.devnull, os.O_RDWR)
    try:
        os.dup2(nothing, 0)
        try:
            os.dup2(2, 1)
        except OSError:
            # A program without standard error prints nowhere.
            os.dup2(nothing, 1)
    finally:
        os.close(nothing)
    return source, target


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
