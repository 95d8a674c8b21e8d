"""
C{meshkit mcp} at work: lines of JSON between our standard input and output and the node.

It holds nothing of the node's.  Tools, resources, permissions and limits are the node's, and
every client sees the same ones.  What it adds is L{meshkit.cli.pump}: that a node may be
started late, or anew.

How much can pile up: a line of L{MAX_LINE} each way, L{meshkit.cli.pump.MAX_WAITING} of lines
for a node that is not there, and what the transports hold before they tell their producers to
pause (64 KiB).  A client that does not read is not read from, and then the node is not read
from either.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.cli.bearer import Bearer
from meshkit.cli.locate import DoorEndpoint, find_door
from meshkit.cli.pump import Pump, State
from meshkit.cli.starting import LOOK_EVERY, Starter
from meshkit.errors import (
    DoorUnreachable,
    MeshkitError,
    NodeNotStarted,
    NotFound,
    PassphraseRequired,
    RemoteError,
)
from meshkit.runtime.folder import DataFolder
from meshkit.web.lines import LineCutter, TooLong, UpgradeReader, upgrade_request

__all__ = [
    "ANSWER_SECONDS",
    "FINISH_SECONDS",
    "GRACE_SECONDS",
    "HOLD_SECONDS",
    "MAX_ANSWER",
    "MAX_LINE",
    "STOP_SECONDS",
    "NodeLink",
    "NodePlace",
    "Proxy",
]

#: Bytes of one message of the client's: what the node takes.
MAX_LINE: Final = 4 * 1024 * 1024
#: Bytes of one message of the node's.
MAX_ANSWER: Final = 64 * 1024 * 1024
#: Seconds in which the door has to answer, and a new node has to take the handshake.
ANSWER_SECONDS: Final = 20.0
#: Seconds that a request waits for a node to be there again.
HOLD_SECONDS: Final = 30.0
#: Seconds that a node that has gone is given to come back by itself, before a request has
#: one started.
GRACE_SECONDS: Final = 3.0
#: Seconds for the answers that are owed when the client has closed our input, ...
FINISH_SECONDS: Final = 10.0
#: ... when we are told to end, and for what is written to be taken.
STOP_SECONDS: Final = 2.0
#: Seconds between two tries at a door that is busy or has just gone.
RETRY_SECONDS: Final = 0.25

#: Refusals that say "later".
_LATER: Final = frozenset({"NOT_READY", "OVERLOADED", "RATE_LIMITED"})

_GONE: Final = (
    "the node was stopped or restarted while it worked on this, and whether it was done is not "
    "known: look, then ask again"
)


# --- the node's side -----------------------------------------------------------------


class NodeLink(Protocol):
    """
    A connection to the node's door, as it becomes one of lines.

    It says nothing before L{open}: until then it is not known who is at the other end.

    @ivar lost: Deferred that fires with L{None} when an open connection has ended.
    """

    transport: Any

    def __init__(self, on_line: Callable[[bytes | TooLong], None]) -> None:
        """@param on_line: called with each line of the node's."""
        self._on_line = on_line
        self._reader: UpgradeReader | None = UpgradeReader()
        self._cutter = LineCutter(MAX_ANSWER)
        self._opening: Deferred[None] | None = None
        self.lost: Deferred[None] = Deferred()

    def open(self, reactor: Any, request: bytes) -> Deferred[None]:
        """
        Ask the door for the lines.

        @param reactor: gives the time.
        @param request: from L{upgrade_request}.
        @return: Deferred that fires when lines may be sent.  Fails with L{RemoteError}: what
            the door refused; or L{DoorUnreachable}.
        """
        opening: Deferred[None] = Deferred(lambda _: self._abandon())
        self._opening = opening
        self.transport.write(request)
        return opening.addTimeout(ANSWER_SECONDS, reactor)

    def _abandon(self) -> None:
        self._opening = None
        self.abort()

    def send(self, line: bytes) -> None:
        self.transport.writeSequence((line, b"\n"))

    def abort(self) -> None:
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        if self._reader is not None:
            rest = self._read_answer(data)
            if not rest:
                return
            data = rest
        for line in self._cutter.feed(data):
            self._on_line(line)

    def _read_answer(self, data: bytes) -> bytes | None:
        assert self._reader is not None
        try:
            rest = self._reader.feed(data)
        except MeshkitError as e:
            self.abort()
            self._opened(Failure(e))
            return None
        if rest is not None:
            self._reader = None
            self._opened(None)
        return rest

    def _opened(self, result: Any) -> None:
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.callback(result)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._reader is not None:
            self._opened(Failure(self._reader.end()))
        self.lost.callback(None)


class NodePlace:
    """
    Where the node is, as far as a proxy has to know: how it is found, started and connected to.
    """

    def __init__(
        self, reactor: Any, folder: DataFolder, starter: Starter, token: Callable[[], Bearer]
    ) -> None:
        """
        @param starter: finds it, and starts it.
        @param token: what opens the door, read anew each time.
        """
        self._reactor = reactor
        self._folder = folder
        self._starter = starter
        self._token = token

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"the node on {self._folder.path}"

    def find(self) -> str | None:
        """@return: where its door is, if it runs; see L{find_door}."""
        return find_door(self._folder)

    def in_use(self) -> bool:
        """Does anybody hold its folder?"""
        return self._folder.in_use()

    def start(self) -> Coroutine[Any, Any, str]:
        """@return: where its door is, after it was started if need be; see L{Starter.door}."""
        return self._starter.door()

    async def connect(
        self, url: str, profile: str | None, on_line: Callable[[bytes | TooLong], None]
    ) -> NodeLink:
        """
        @param url: from L{find} or L{start}.
        @return: a connection on which lines may be sent.
        @raise RemoteError: what the door refused.
        @raise DoorUnreachable: if nobody answers.
        """
        endpoint = DoorEndpoint(self._reactor, self._folder, url)
        bearer = self._token()
        request = upgrade_request(endpoint.host, bearer.text, profile)
        try:
            link: Any = await endpoint.connect(Factory.forProtocol(lambda: NodeLink(on_line)))
            await link.open(self._reactor, request)
        except RemoteError as e:
            raise bearer.judged(e) from None
        except (ConnectError, ConnectionClosed, DeferredTimeout) as e:
            raise DoorUnreachable(f"{self.name} does not answer at {url} ({e})") from None
        opened: NodeLink = link
        return opened


# --- the client's side ------------------------------------------------------------------


@implementer(IHalfCloseableProtocol)
class _ClientSide(Protocol):
    """Standard input and output."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._cutter = LineCutter(MAX_LINE)

    def connectionMade(self) -> None:
        self._proxy.client_connected(self.transport)

    def dataReceived(self, data: bytes) -> None:
        for line in self._cutter.feed(data):
            self._proxy.client_said(line)

    def readConnectionLost(self) -> None:
        self._proxy.finish(FINISH_SECONDS)

    def writeConnectionLost(self) -> None:
        # Nobody hears the answers any more.
        self._proxy.client_lost()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._proxy.client_lost()


@implementer(IPushProducer)
class _Pausing:
    """What a transport that is full tells to pause: the reading of the other side."""

    def __init__(self, pause: Callable[[bool], None]) -> None:
        self._pause = pause

    def pauseProducing(self) -> None:
        self._pause(True)

    def resumeProducing(self) -> None:
        self._pause(False)

    def stopProducing(self) -> None:
        self._pause(False)


class Proxy:
    """
    See the module.

    @ivar client: the protocol for standard input and output.
    @ivar done: Deferred that fires when all is over, with L{None}, or with the
        L{MeshkitError} because of which it could not go on.
    """

    _log = Logger()

    def __init__(self, reactor: Any, place: NodePlace, profile: str | None = None) -> None:
        """
        @param reactor: gives the time.
        @param place: where the node is.
        @param profile: which names of tools the client wants.
        """
        self._reactor = reactor
        self._place = place
        self._profile = profile
        self._pump = Pump(self._to_client, self._to_node, self._broken)
        self._io: Any = None
        self._link: NodeLink | None = None
        # Why the client is not read, and is the node not read?
        self._client_pauses: set[str] = set()
        self._node_paused = False
        self._error: MeshkitError | None = None
        # What stands in the way of a new connection, if it is not that there is no node.
        self._obstacle: MeshkitError | None = None
        self._was_open = False
        self._finishing = False
        self._ended = False
        self._bound: IDelayedCall | None = None
        # Of what waits for a node, and with a new node's handshake.
        self._impatience: IDelayedCall | None = None
        self._patience: IDelayedCall | None = None
        self._serving: Deferred[None] | None = None
        self.client = _ClientSide(self)
        self.done: Deferred[MeshkitError | None] = Deferred()

    def start(self) -> None:
        """Begin; L{client} has to be connected."""
        self._serving = Deferred.fromCoroutine(self._serve())
        self._serving.addErrback(self._failed)

    # --- the node ------------------------------------------------------------------

    async def _serve(self) -> None:
        link = await self._first()
        while True:
            self._opened(link)
            await link.lost
            self._lost()
            # Not at once: whoever hangs up as soon as we are there would be called for ever.
            await deferLater(self._reactor, RETRY_SECONDS)
            link = await self._again()

    async def _first(self) -> NodeLink:
        """The first connection.  What stands in its way is told, and that was all."""
        deadline = self._reactor.seconds() + HOLD_SECONDS
        while True:
            url = await self._place.start()
            try:
                return await self._place.connect(url, self._profile, self._node_said)
            except MeshkitError as e:
                if not _passes(e) or self._reactor.seconds() >= deadline:
                    raise
            await deferLater(self._reactor, RETRY_SECONDS)

    async def _again(self) -> NodeLink:
        """
        A node that has gone is waited for: whoever stopped it, or looks into its database,
        may not want it now.  Only when the client asks for something is one started.
        """
        gone = self._reactor.seconds()
        while True:
            self._obstacle = None
            try:
                url = self._place.find()
                patient = self._reactor.seconds() - gone < GRACE_SECONDS
                if url is None and self._pump.wanted and not (patient or self._place.in_use()):
                    url = await self._place.start()
                if url is not None:
                    return await self._place.connect(url, self._profile, self._node_said)
            except (NodeNotStarted, NotFound, PassphraseRequired) as e:
                # Whoever has stopped it may start it again.
                self._log.warn("{reason}", reason=str(e))
                self._refuse(e)
                gone = self._reactor.seconds()
            except MeshkitError as e:
                if not _passes(e):
                    raise
                self._obstacle = e
            self._progress()
            await deferLater(self._reactor, LOOK_EVERY if self._pump.wanted else RETRY_SECONDS)

    def _opened(self, link: NodeLink) -> None:
        self._link = link
        self._was_open = True
        link.transport.registerProducer(_Pausing(self._pause_client("node")), True)
        if self._node_paused:
            link.transport.pauseProducing()
        self._pump.node_up()
        if self._pump.state is State.RESTORING:
            self._patience = self._reactor.callLater(ANSWER_SECONDS, self._too_slow, link)
        self._progress()

    def _too_slow(self, link: NodeLink) -> None:
        if self._link is link and self._pump.state is State.RESTORING:
            self._log.warn("the node takes no handshake: trying again")
            link.abort()

    def _lost(self) -> None:
        self._link = None
        if self._patience is not None and self._patience.active():
            self._patience.cancel()
        self._pause_client("node")(False)
        self._pump.node_down(_GONE)
        self._progress()

    def _node_said(self, line: bytes | TooLong) -> None:
        if self._ended:
            return
        if isinstance(line, TooLong):
            self._pump.node_too_long(line.id, MAX_ANSWER)
        else:
            self._pump.from_node(line)
        self._progress()

    def _to_node(self, line: bytes) -> None:
        assert self._link is not None
        self._link.send(line)

    # --- the client ----------------------------------------------------------------

    def client_connected(self, io: Any) -> None:
        """Standard input and output are ours."""
        self._io = io
        io.registerProducer(_Pausing(self._client_is_full), True)

    def client_said(self, line: bytes | TooLong) -> None:
        """A line came in."""
        if self._ended:
            return
        if isinstance(line, TooLong):
            self._pump.too_long(line.id, MAX_LINE)
        else:
            self._pump.from_client(line)
        if self._error is not None and self._pump.wanted:
            self._stop(self._error)
        self._progress()

    def _to_client(self, line: bytes) -> None:
        if not self._ended:
            self._io.writeSequence((line, b"\n"))

    def _pause_client(self, why: str) -> Callable[[bool], None]:
        def pause(paused: bool) -> None:
            before = bool(self._client_pauses)
            (self._client_pauses.add if paused else self._client_pauses.discard)(why)
            after = bool(self._client_pauses)
            if before != after and not self._finishing and not self._ended:
                (self._io.pauseProducing if after else self._io.resumeProducing)()

        return pause

    def _client_is_full(self, full: bool) -> None:
        """It does not read: then there is nothing to be read for it, nor from it."""
        self._pause_client("client")(full)
        self._node_paused = full
        if self._link is not None:
            transport = self._link.transport
            (transport.pauseProducing if full else transport.resumeProducing)()

    def _progress(self) -> None:
        """
        After anything that may have changed who waits for what.  The first time, it is the
        start that says what went wrong, and when.
        """
        if self._ended:
            return
        self._pause_client("waiting")(self._pump.full)
        waits = self._pump.wanted and self._link is None and self._was_open
        if waits and self._impatience is None:
            self._impatience = self._reactor.callLater(HOLD_SECONDS, self._give_up)
        elif not waits and self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None
        if self._finishing and self._pump.idle:
            self.end()

    def _give_up(self) -> None:
        self._impatience = None
        nothing = DoorUnreachable(f"{self._place.name} is not running: start it")
        self._refuse(self._obstacle or nothing)
        self._progress()

    def _refuse(self, error: MeshkitError) -> None:
        """No node comes: the requests that wait for one are answered with why."""
        self._pump.give_up(f"{error} [{error.code}]", error.code)

    # --- the end -------------------------------------------------------------------

    def finish(self, seconds: float) -> None:
        """
        Take nothing more from the client, and end when no answer is owed, or after so many
        seconds.
        """
        if self._ended:
            return
        self._finishing = True
        self._io.pauseProducing()
        if self._bound is not None and self._bound.active():
            self._bound.cancel()
        self._bound = self._reactor.callLater(seconds, self.end)
        self._progress()

    def _broken(self, why: str) -> None:
        self._stop(DoorUnreachable(f"{self._place.name}: {why}"))

    def _failed(self, failure: Failure) -> None:
        if self._ended:
            # Then it was cancelled, which some say in words of their own.
            return
        if not isinstance(failure.value, MeshkitError):
            self._log.failure("this should not have happened", failure)
            self._stop(MeshkitError(f"something went wrong: {failure.getErrorMessage()}"))
        else:
            self._stop(failure.value)

    def _stop(self, error: MeshkitError) -> None:
        """It cannot go on.  The client is told in answer to something that it asks."""
        if self._error is None:
            self._error = error
        if self._pump.wanted or self._was_open or self._finishing:
            self._refuse(error)
            self.end()
        elif self._bound is None:
            self._bound = self._reactor.callLater(STOP_SECONDS, self.end)

    def end(self) -> None:
        """End now: what was written is still delivered."""
        if self._ended:
            return
        self._ended = True
        for timer in (self._bound, self._impatience, self._patience):
            if timer is not None and timer.active():
                timer.cancel()
        self._bound = self._reactor.callLater(STOP_SECONDS, self.client_lost)
        if self._serving is not None:
            self._serving.cancel()
        if self._link is not None:
            self._link.transport.unregisterProducer()
            self._link.transport.loseConnection()
        if self._io is not None:
            self._io.unregisterProducer()
            self._io.loseConnection()

    def client_lost(self) -> None:
        """All that was written is delivered, or nobody takes it."""
        self.end()
        if self._bound is not None and self._bound.active():
            self._bound.cancel()
        if not self.done.called:
            self.done.callback(self._error)


def _passes(error: MeshkitError) -> bool:
    """May it be otherwise in a moment?"""
    if isinstance(error, RemoteError):
        return error.code in _LATER
    return type(error) is DoorUnreachable
