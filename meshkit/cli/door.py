"""
Asking the node, over its local door.

Where the door is and what opens it stand in the node's data folder: the addresses it
really listens on in C{endpoints.json}, the bearer token in C{door.token}.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar, cast
from urllib.parse import quote

import msgspec
from attrs import frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater, react
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseFailed, ResponseNeverReceived
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer
from zope.interface import implementer

from meshkit.cli.bearer import TokenSource
from meshkit.cli.locate import DoorEndpoint, open_folder, start_command, the_door
from meshkit.errors import DoorUnreachable, RemoteError
from meshkit.runtime.folder import DataFolder
from meshkit.web.requests import JSON_BODY
from meshkit.web.sse import Event, EventReader

T = TypeVar("T")

#: Fields of a query string; one may stand there again and again.
Query = list[tuple[str, str]]

#: Seconds to wait for an answer.
PATIENCE: Final = 60.0
#: Seconds to wait for a node that was stopped to be started again, and between two looks.
REOPEN_SECONDS: Final = 60.0
REOPEN_PAUSE: Final = 0.5
_IPV6: Final = re.compile(r"\[.*\]")
#: Largest answer that is read.
MAX_ANSWER: Final = 64 * 1024 * 1024


@implementer(IAgentEndpointFactory)
@frozen
class _DoorEndpoints:
    """Every request goes to the one door, whatever its URI says."""

    endpoint: IStreamClientEndpoint

    def endpointForURI(self, uri: Any) -> IStreamClientEndpoint:
        return self.endpoint


@frozen
class Answer:
    """
    @ivar data: the answer, decoded.
    @ivar metadata: of a paged list: total, limit, offset; of some answers: warnings.
    """

    data: Any
    metadata: dict[str, Any]


class Door:
    """A node's door, for one command."""

    def __init__(self, reactor: Any, folder: DataFolder, tokens: TokenSource | None = None) -> None:
        """
        @param tokens: where the token is; by default it is the owner's, which lies in the
            folder.
        @raise DoorUnreachable: if the folder's node does not run.
        @raise ConfigError: if there is no token.
        """
        self._folder = folder
        self._reactor = reactor
        self._url = the_door(folder)
        self._tokens = TokenSource(folder, None, {}) if tokens is None else tokens
        self._bearer = self._tokens.read()
        inner = DoorEndpoint(reactor, folder, self._url)
        # treq takes an IPv6 address in a URL for a name that it cannot encode.
        self._base = f"http://{_IPV6.sub('localhost', inner.host)}"
        self._pool = HTTPConnectionPool(reactor, persistent=False)
        self._agent = Agent.usingEndpointFactory(reactor, _DoorEndpoints(inner), pool=self._pool)

    async def get(self, path: str, **query: Any) -> Answer:
        """@raise MeshkitError: what the node refused, or L{DoorUnreachable}."""
        return _decoded(await self._ask("GET", path, query=_query(query)))

    async def read(self, path: str, kind: type[T], **query: Any) -> T:
        """
        Like L{get}.

        @param kind: what the answer is decoded as; C{msgspec.Raw} in it stays as it came.
        """
        answer = await self._ask("GET", path, query=_query(query))
        return msgspec.json.decode(answer.data, type=kind)

    async def post(self, path: str, body: Any = None) -> Answer:
        """See L{get}."""
        return _decoded(await self._ask("POST", path, body=body))

    async def delete(self, path: str, **query: Any) -> Answer:
        """See L{get}."""
        return _decoded(await self._ask("DELETE", path, query=_query(query)))

    async def call(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: bytes | None = None,
        *,
        body_type: str = JSON_BODY,
        raw: bool = False,
    ) -> Answer:
        """
        Like L{get}, for a route that was told by the node.

        @param path: percent-encoded.
        @param body_type: media type of the body.
        @param raw: a good answer is bytes as they are.
        @return: with the data as they came: C{msgspec.Raw}, or bytes if C{raw}.
        """
        return await self._ask(method, path, query, body, body_type=body_type, raw=raw)

    async def events(
        self, path: str, on_event: Callable[[Event], None], after: str = "", **query: Any
    ) -> str:
        """See L{stream}."""
        return await self.stream(path, on_event, _query(query), after)

    async def stream(
        self,
        path: str,
        on_event: Callable[[Event], None],
        query: Query | None = None,
        after: str = "",
    ) -> str:
        """
        Read a stream of events until it ends, which is when the node stops.

        @param on_event: called with each.  What it raises ends the reading.
        @param after: id of the last event seen, if any was.
        @return: id of the last event seen.
        @raise MeshkitError: what the node refused, or L{DoorUnreachable} if it cannot be
            reached or does not even send comments any more.
        """
        headers: dict[bytes | str, bytes | str] = {
            "Authorization": f"Bearer {self._bearer.text}",
            "Accept": "text/event-stream",
        }
        if after:
            headers["Last-Event-ID"] = after
        try:
            response = await self._request("GET", self._base + path, query or [], headers, None)
            if response.code == 200:
                stream = _EventStream(self._reactor, on_event, after)
                response.deliverBody(stream)
                return await stream.ended
            received = await _read(response)
        except (ConnectError, ResponseFailed, ConnectionClosed) as e:
            raise self._unreachable(e) from None
        return str(self._open_envelope(response.code, received).data)

    async def reopened(self) -> Door:
        """
        Wait for the node to be started again.

        @return: its door, wherever it is now.
        @raise DoorUnreachable: if it was not within L{REOPEN_SECONDS}.
        """
        deadline = self._reactor.seconds() + REOPEN_SECONDS
        while True:
            try:
                door = Door(self._reactor, self._folder, self._tokens)
                await door.get("/v1/status")
                return door
            except (DoorUnreachable, RemoteError):
                if self._reactor.seconds() >= deadline:
                    raise
            await deferLater(self._reactor, REOPEN_PAUSE)

    def seconds(self) -> float:
        """@return: what a clock shows that is never set."""
        now: float = self._reactor.seconds()
        return now

    def pause(self, seconds: float) -> Deferred[None]:
        """@return: Deferred that fires after so many seconds."""
        return deferLater(self._reactor, seconds)

    async def _ask(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Any = None,
        *,
        body_type: str = JSON_BODY,
        raw: bool = False,
    ) -> Answer:
        """@return: an answer whose data are not decoded."""
        headers: dict[bytes | str, bytes | str] = {"Authorization": f"Bearer {self._bearer.text}"}
        data = b""
        if method == "POST":
            headers["Content-Type"] = body_type
            data = body if isinstance(body, bytes) else msgspec.json.encode(body or {})
        asking = Deferred.fromCoroutine(
            self._exchange(method, self._base + path, query or [], headers, data or None)
        )
        try:
            code, received = await asking.addTimeout(PATIENCE, self._reactor)
        except (ConnectError, ResponseFailed, ConnectionClosed, DeferredTimeout) as e:
            raise self._unreachable(e) from None
        if code == 204:
            return Answer(msgspec.Raw(b"null"), {})
        if raw and code < 300:
            return Answer(received, {})
        return self._open_envelope(code, received)

    def _unreachable(self, error: BaseException) -> DoorUnreachable:
        return DoorUnreachable(
            f"the node at {self._url} does not answer ({_reason(error)}): is it still running? "
            f"Start it with '{start_command(self._folder)}'"
        )

    def _open_envelope(self, code: int, received: bytes) -> Answer:
        """@raise RemoteError: what the node refused."""
        try:
            envelope = msgspec.json.decode(received, type=_Envelope)
        except msgspec.DecodeError:
            raise DoorUnreachable(
                f"what answers at {self._url} is not a meshkit node (HTTP {code})"
            ) from None
        if envelope.success:
            return Answer(envelope.data, envelope.metadata or {})
        error = envelope.error or _Error("INTERNAL_ERROR", f"HTTP {code}")
        raise self._bearer.judged(RemoteError(error.message, error.code, code, error.details))

    async def _exchange(
        self,
        method: str,
        url: str,
        query: Query,
        headers: dict[bytes | str, bytes | str],
        data: bytes | None,
    ) -> tuple[int, bytes]:
        response = await self._request(method, url, query, headers, data)
        return response.code, await _read(response)

    async def _request(
        self,
        method: str,
        url: str,
        query: Query,
        headers: dict[bytes | str, bytes | str],
        data: bytes | None,
    ) -> Any:
        from treq.client import HTTPClient

        return await HTTPClient(self._agent).request(
            method,
            url,
            params=query,
            headers=headers,
            data=None if data is None else _Body(data),
            # What is at this port after a crash may be anybody's.
            allow_redirects=False,
            # It is read once, and a stream has no end.
            unbuffered=True,
        )


@implementer(IBodyProducer)
class _Body:
    """
    The body of a request, all at once.  treq's own producer takes turns by the clock of the
    global reactor, which is not always the one that is used here.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length = len(data)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        consumer.write(self._data)
        return succeed(None)

    def pauseProducing(self) -> None:
        """It is all written already."""

    def resumeProducing(self) -> None:
        """See L{pauseProducing}."""

    def stopProducing(self) -> None:
        """See L{pauseProducing}."""


class _EventStream(Protocol):
    """
    The body of an answer that is a stream of events.

    @ivar ended: Deferred of the id of the last event, fired when the stream has ended.
        Fails with L{DoorUnreachable} if nothing comes for L{PATIENCE}.
    """

    def __init__(self, reactor: Any, on_event: Callable[[Event], None], after: str) -> None:
        self._reader = EventReader()
        self._reader.last_id = after
        self._on_event = on_event
        self._due = reactor.callLater(PATIENCE, self._silent)
        self.ended: Deferred[str] = Deferred(lambda _: self._give_up())

    def dataReceived(self, data: bytes) -> None:
        if self.ended.called:
            return
        self._due.reset(PATIENCE)
        try:
            for event in self._reader.feed(data):
                self._on_event(event)
        except Exception:
            self._end(Failure())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end(self._reader.last_id)

    def _silent(self) -> None:
        self._end(Failure(DoorUnreachable(f"the node has said nothing for {PATIENCE:.0f} s")))

    def _end(self, result: str | Failure) -> None:
        if not self.ended.called:
            self._give_up()
            self.ended.callback(cast(Any, result))

    def _give_up(self) -> None:
        if self._due.active():
            self._due.cancel()
        transport: Any = self.transport
        if transport is not None:
            transport.stopProducing()


class _Error(msgspec.Struct):
    code: str
    message: str
    details: dict[str, Any] | None = None


class _Envelope(msgspec.Struct):
    success: bool
    data: msgspec.Raw = msgspec.Raw(b"null")
    error: _Error | None = None
    metadata: dict[str, Any] | None = None


def _decoded(answer: Answer) -> Answer:
    return Answer(msgspec.json.decode(answer.data), answer.metadata)


def _query(given: Mapping[str, Any]) -> Query:
    texts = []
    for name, value in given.items():
        if value is not None:
            texts.append((name, str(value).lower() if isinstance(value, bool) else str(value)))
    return texts


async def _read(response: Any) -> bytes:
    pieces: list[bytes] = []
    size = 0

    def collect(piece: bytes) -> None:
        nonlocal size
        size += len(piece)
        if size > MAX_ANSWER:
            raise DoorUnreachable(f"the answer is larger than {MAX_ANSWER} bytes")
        pieces.append(piece)

    from treq import collect as treq_collect

    await treq_collect(response, collect)
    return b"".join(pieces)


def _reason(error: BaseException) -> str:
    if isinstance(error, (ResponseFailed, ResponseNeverReceived)) and error.reasons:
        return str(error.reasons[0].getErrorMessage()).rstrip(".")
    return str(error).rstrip(".") or type(error).__name__


def segment(text: str) -> str:
    """Text as one segment of a path."""
    return quote(text, safe="@")


def ask(
    flag: str | None, job: Callable[[Door], Coroutine[Any, Any, T]], token_file: str | None = None
) -> T:
    """
    Run one conversation with the node and return what it gave.

    @param flag: the data folder, as the command line has it.
    @param token_file: a file with the token to show; see L{TokenSource}.
    @raise MeshkitError: what the node refused, or that there is none.
    """
    folder = open_folder(flag)
    tokens = TokenSource(folder, token_file, os.environ)
    if token_file is not None:
        # Out of a pipe it comes when it comes, and Ctrl-C has no effect while the reactor waits.
        tokens.read()

    async def talk(reactor: Any) -> T:
        return await job(Door(reactor, folder, tokens))

    return converse(talk)


def converse(job: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """
    Run the reactor until something is done; once in a process.

    @param job: called with the reactor.
    @return: what C{job} returns; what it raises is raised.
    """
    results: list[T] = []
    problems: list[Failure] = []

    async def talk(reactor: Any) -> None:
        results.append(await job(reactor))

    def run(reactor: Any) -> Deferred[None]:
        talking = Deferred.fromCoroutine(talk(reactor))
        return talking.addErrback(keep)

    def keep(failure: Failure) -> None:
        problems.append(failure)

    try:
        react(run)
    except SystemExit as e:
        if e.code not in (0, None):
            raise
    if problems:
        problems[0].raiseException()
    if not results:
        # The reactor was stopped by a signal before the node had answered.
        raise KeyboardInterrupt
    return results[0]


__all__ = ["Answer", "Door", "RemoteError", "ask", "converse", "open_folder", "segment"]
