"""
MCP over lines at the door: requests at C{/mcp} whose connection is wanted for that
(L{meshkit.web.lines}).

Each connection may hold a message that has not come to its end, and what waits for a client that
does not read, so there are only so many of them.  One token cannot have them all.
"""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from meshkit.errors import Overloaded
from meshkit.web.answers import prepare_error
from meshkit.web.callers import Caller
from meshkit.web.lines import PROTOCOL
from meshkit.web.mcp.lines import LineProtocol
from meshkit.web.mcp.server import Server
from meshkit.web.takeover import asks_for, take_over

__all__ = ["MAX_LINES", "MAX_OF_ONE", "LineDoor"]

#: Connections of lines at a time, and how many of them one token may have.
MAX_LINES: Final = 64
MAX_OF_ONE: Final = 32


class LineDoor:
    """See the module."""

    def __init__(self, server: Server) -> None:
        """@param server: what is served."""
        self._server = server
        # In the order in which they came.
        self._open: dict[LineProtocol, Caller] = {}

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._open)

    def wanted_by(self, request: Any) -> bool:
        """Does a request ask for lines?"""
        return asks_for(request, PROTOCOL)

    def render(self, request: Any, caller: Caller, view: Any) -> bytes | int:
        """
        Answer a request that asks for lines.

        @param request: of a L{meshkit.web.limits.LimitedSite}.
        @param caller: whose it is.
        @param view: what the client chose to be shown.
        @return: what C{render} returns.
        """
        error = self._refusal(caller)
        if error is not None:
            return prepare_error(request, error)
        lines = _Lines(self, self._server, caller, view)
        return take_over(request, PROTOCOL, lambda: lines, closing=lines.say_goodbye)

    def _refusal(self, caller: Caller) -> Overloaded | None:
        if len(self._open) >= MAX_LINES:
            return Overloaded(f"{MAX_LINES} clients have a connection of lines already")
        if list(self._open.values()).count(caller) >= MAX_OF_ONE:
            return Overloaded(f"{MAX_OF_ONE} clients with this token have one already")
        return None

    def opened(self, lines: LineProtocol, caller: Caller) -> None:
        """Called when a connection has become one of lines."""
        self._open[lines] = caller

    def closed(self, lines: LineProtocol) -> None:
        """Called when such a connection is lost."""
        del self._open[lines]


class _Lines(LineProtocol):
    """One of them, counted."""

    def __init__(self, door: LineDoor, server: Server, caller: Caller, view: Any) -> None:
        super().__init__(server, caller, view)
        self._door = door
        self._whose = caller

    def connectionMade(self) -> None:
        self._door.opened(self, self._whose)
        super().connectionMade()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._door.closed(self)
        super().connectionLost(reason)

    def say_goodbye(self) -> None:
        """End the session, which sends what waits for the client and closes the connection."""
        if self.session is not None:
            self.session.close()
