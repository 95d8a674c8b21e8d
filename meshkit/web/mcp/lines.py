"""
MCP over lines: the transport "stdio", over any connection that carries bytes.

Each message is one line of JSON, in UTF-8, without line breaks in it.  A client that does not
read is not read from either, and is cut off when too much waits for it.  One that has closed
its side has nothing more to say: what is under way is cancelled, and what was answered is sent.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.web.mcp import wire
from meshkit.web.mcp.backlog import Backlog
from meshkit.web.mcp.server import Server
from meshkit.web.mcp.sessions import Session


@implementer(IHalfCloseableProtocol, IPushProducer)
class LineProtocol(Protocol):
    """
    One client on one connection; its session lasts as long as that.

    @ivar session: the client, while it is connected.
    """

    _log = Logger()

    transport: Any

    def __init__(self, server: Server, caller: Any = None, view: Any = None) -> None:
        """
        @param server: what is served.
        @param caller: who is at the other end; whoever launched us, over stdio.
        @param view: what the client chose to be shown.
        """
        self._server = server
        self._caller = caller
        self._view = view
        self._buffer = bytearray()
        # Up to here there is no end of a line.
        self._searched = 0
        self._backlog = Backlog(server.limits)
        self._paused = False
        self._reading = False
        self._closing = False
        self.session: Session | None = None

    def connectionMade(self) -> None:
        self.session = self._server.session(
            self._send, self._caller, self._view, self._close, self._room
        )
        self.transport.registerProducer(self, True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._closing = True
        self._buffer.clear()
        self._backlog.clear()
        session, self.session = self.session, None
        if session is not None:
            session.close()

    def readConnectionLost(self) -> None:
        # Who neither says nor takes anything more is not waited for.
        if self._paused:
            self._abort()
        elif self.session is not None:
            self.session.close()

    def writeConnectionLost(self) -> None:
        """The client takes nothing any more."""
        self.transport.loseConnection()

    # --- what comes ------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        if self._closing:
            return
        self._buffer += data
        self._read_lines()

    def _read_lines(self) -> None:
        if self._reading:
            return  # A handler made the connection resume: the loop below goes on.
        self._reading = True
        start = 0
        try:
            while not self._paused and not self._closing:
                end = self._buffer.find(b"\n", max(start, self._searched))
                if end < 0:
                    self._searched = len(self._buffer)
                    break
                line = bytes(self._buffer[start:end])
                start = self._searched = end + 1
                self._line(line)
        finally:
            self._reading = False
            del self._buffer[:start]
            self._searched = max(0, self._searched - start)
        if self._searched > self._server.limits.message and not self._closing:
            self._too_long()

    def _line(self, line: bytes) -> None:
        line = line.strip(b" \t\r")
        if line and self.session is not None:
            self.session.receive(line)

    def _too_long(self) -> None:
        # What follows cannot be told from the rest of it.
        limit = self._server.limits.message
        error = wire.Malformed(wire.INVALID_REQUEST, f"a message can have {limit} bytes")
        self._send(wire.refusal(None, error))
        if self.session is not None:
            self.session.close()

    # --- what goes -------------------------------------------------------------------

    def _send(self, text: bytes) -> None:
        if self._closing:
            return
        if not self._paused:
            self.transport.write(text + b"\n")
        elif not self._backlog.put(text):
            self._log.info("an MCP client does not read: its connection is cut")
            self._closing = True
            self._abort()

    def _room(self) -> bool:
        return self._backlog.room

    def _abort(self) -> None:
        abort = getattr(self.transport, "abortConnection", None)
        if abort is None:
            # Standard input and output have no such thing, and can be left at once.
            self.transport.unregisterProducer()
            self.transport.loseConnection()
        else:
            abort()

    def _close(self) -> None:
        """The session is closed: what waits is sent, then the connection ends."""
        if self._closing:
            return
        self._closing = True
        while self._backlog:
            self.transport.write(self._backlog.take() + b"\n")
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    # --- what the connection says ----------------------------------------------------

    def pauseProducing(self) -> None:
        if not self._paused:
            self._paused = True
            self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        if not self._paused or self._closing:
            return
        self._paused = False
        while self._backlog and not self._paused:
            self.transport.write(self._backlog.take() + b"\n")
        if not self._paused:
            self.transport.resumeProducing()
            self._read_lines()

    def stopProducing(self) -> None:
        """The connection is gone: C{connectionLost} comes as well."""
