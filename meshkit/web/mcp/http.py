"""
MCP over HTTP: the transport "Streamable HTTP", for both generations at one address.

Which generation a request speaks, it says itself::

    MCP-Protocol-Version: 2026-07-28, or params._meta      stateless: POST, nothing else
    an older version, or none                              handshake: POST, GET, DELETE

    POST initialize           -> a session: Mcp-Session-Id, to be sent with all that follows
    POST a request            -> 200, its answer; as events if there is more than the answer
    POST a notification       -> 202
    GET                       -> events that belong to no request; one such stream a session
    DELETE                    -> the session ends

A call whose client goes away is cancelled.  The handshake generation would let it run, for a
client that comes back for its events; here nothing is kept for one that might.

Sources: specification 2025-11-25, basic/transports; 2026-07-28, basic/transports.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from meshkit.errors import McpRefused
from meshkit.web.answers import JSON, SAFE_HEADERS, Header
from meshkit.web.mcp import wire
from meshkit.web.mcp.backlog import Events
from meshkit.web.mcp.server import Server
from meshkit.web.mcp.sessions import Session
from meshkit.web.sse import KEEP_ALIVE, EventWriter, cut

SESSION_HEADER: Final = b"Mcp-Session-Id"
VERSION_HEADER: Final = b"MCP-Protocol-Version"

#: Characters of the view that a client chooses.
MAX_VIEW: Final = 64

#: The names of this machine, which no name of somebody else's can be pointed at.
LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")

_HOST: Final = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_ORIGIN: Final = re.compile(r"https?://(.+)")

#: The statuses of the errors of the stateless generation; 200 for those of the handshake's.
_STATUS: Final = {
    wire.BUSY: 503,
    wire.CANCELLED: 503,  # by nobody else than a server that stops
    wire.HEADER_MISMATCH: 400,
    wire.INVALID_PARAMS: 400,
    wire.INVALID_REQUEST: 400,
    wire.METHOD_NOT_FOUND: 404,
    wire.MISSING_CAPABILITY: 400,
    wire.PARSE_ERROR: 400,
    wire.UNSUPPORTED_VERSION: 400,
}

_RETRY_SECONDS: Final = b"1"

#: Spellings of a header of which it is remembered what they mean.
_REMEMBERED: Final = 64


class McpResource(Resource):
    """
    A server as a resource of C{twisted.web}, for any site; klein routes can return it.

    It answers at its own path and at that with a slash: put it into its parent by
    C{putChild(b"mcp", ...)}.  C{twisted.web} reads a whole body before a resource is asked,
    however long it is: behind a L{LimitedSite<meshkit.web.limits.LimitedSite>} it does not.
    """

    isLeaf = True

    _log = Logger()

    def __init__(
        self,
        server: Server,
        clock: IReactorTime,
        *,
        hosts: Collection[str] | None = LOOPBACK,
        views: Collection[str] | None = None,
        caller: Callable[[Any], Any] | None = None,
    ) -> None:
        """
        @param server: what is served.
        @param clock: for the comments that keep a connection alive.
        @param hosts: the names under which it is reached, without port: another C{Host} is
            answered 421, a page of another C{Origin} 403.  Only so no web page can reach
            a server on its reader's machine.  L{None} if somebody else sees to that.
        @param views: what a client may choose by C{?profile=}; L{None}: anything.
        @param caller: gives the caller of a request.  Without it that is C{request.caller},
            or L{None} if there is no such attribute.
        @raise ValueError: if a host is none.
        """
        super().__init__()
        self._server = server
        self._clock = clock
        self._hosts = None if hosts is None else frozenset(host.lower() for host in hosts)
        for host in sorted(self._hosts or ()):
            found = _HOST.fullmatch(host)
            if found is None or found[2] is not None:
                raise ValueError(f"{host!r} is not a host without port")
        self._views = None if views is None else tuple(views)
        self._caller = _its_caller if caller is None else caller

    def render(self, request: Any) -> Any:
        try:
            self._check(request)
            view = self._view(request)
            versions = _values(request, VERSION_HEADER)
            if request.method == b"POST":
                return self._post(request, view, versions)
            if any(version not in wire.HANDSHAKE_VERSIONS for version in versions):
                raise _Refused(405, "this version of the protocol knows POST only", [_ALLOW_POST])
            if request.method == b"GET":
                return self._get(request)
            if request.method == b"DELETE":
                return self._delete(request)
            raise _Refused(405, "MCP uses POST, GET and DELETE", [_ALLOW])
        except _Refused as e:
            return _refuse(request, e)

    def _check(self, request: Any) -> None:
        if request.postpath not in ([], [b""]):
            raise _Refused(404, "there is nothing at this path")
        if self._hosts is None:
            return
        hosts = _values(request, b"Host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            raise _Refused(421, "the Host header is not a name of this server")
        for origin in _values(request, b"Origin"):
            found = _ORIGIN.fullmatch(origin.lower())
            if found is None or not self._is_ours(found[1]):
                raise _Refused(403, "a web page of another origin may not use this server")

    def _is_ours(self, host: str) -> bool:
        assert self._hosts is not None
        found = _HOST.fullmatch(host.lower())
        return found is not None and found[1] in self._hosts

    def _view(self, request: Any) -> str | None:
        given = (request.args or {}).get(b"profile", [])
        if not given:
            return None
        view: str = given[0].decode("utf-8", "replace")
        if len(given) > 1 or len(view) > MAX_VIEW:
            raise _Refused(400, f"profile has to be given once, with {MAX_VIEW} characters at most")
        if self._views is not None and view not in self._views:
            raise _Refused(400, f"there is no profile {view!r}: choose {_listed(self._views)}")
        return view

    # --- POST ------------------------------------------------------------------------

    def _post(self, request: Any, view: str | None, versions: list[str]) -> Any:
        _check_types(request)
        body = request.content.read()
        if len(body) > self._server.limits.message:
            raise _Refused(413, f"a message can have {self._server.limits.message} bytes")
        try:
            message = self._server.read(body)
        except wire.Malformed as e:
            raise _Refused(400, str(e), (), e.rpc_code, e.id) from None
        stateless = any(version not in wire.HANDSHAKE_VERSIONS for version in versions)
        if not stateless and isinstance(message, wire.Request):
            try:
                stateless = wire.is_stateless(message.params)
            except McpRefused as e:
                raise _Refused(400, str(e), (), e.rpc_code, message.id) from None
        if stateless:
            return self._stateless(request, view, versions, message)
        return self._handshake(request, view, versions, message)

    def _stateless(
        self, request: Any, view: str | None, versions: list[str], message: wire.Message
    ) -> Any:
        if isinstance(message, wire.Reply):
            raise _Refused(400, "nothing was asked that this could be the answer to")
        if isinstance(message, wire.Notice):
            if versions != [wire.STATELESS_VERSIONS[-1]]:
                error = wire.unsupported(", ".join(versions))
                raise _Refused(400, str(error), (), error.rpc_code, None, error.data)
            # A client cancels by closing its stream, and has nothing else to say.
            return _accept(request)
        headers = wire.Headers(
            versions,
            _values(request, b"Mcp-Method"),
            _values(request, b"Mcp-Name"),
            lambda name: _values(request, name.encode("ascii")),
        )
        session = self._server.session(None, self._caller(request), view)
        outlet = _Outlet(request, self._server, self._clock, True, over=session.close)
        session.handle(message, outlet, headers)
        outlet.wait()
        return NOT_DONE_YET

    def _handshake(
        self, request: Any, view: str | None, versions: list[str], message: wire.Message
    ) -> Any:
        ids = _values(request, SESSION_HEADER)
        if isinstance(message, wire.Request) and message.method == "initialize" and not ids:
            return self._initialize(request, view, message)
        session = self._session(request)
        if not isinstance(message, wire.Request):
            # Its outlet is never used: neither of them is answered.
            session.handle(message, _Nowhere())
            return _accept(request)
        id = message.id

        def gone() -> None:
            session.cancel(id)

        outlet = _Outlet(request, self._server, self._clock, False, gone=gone)
        session.handle(message, outlet)
        outlet.wait()
        return NOT_DONE_YET

    def _initialize(self, request: Any, view: str | None, message: wire.Request) -> Any:
        session = self._server.session(None, self._caller(request), view)
        try:
            id = self._server.register(session)
        except McpRefused as e:
            session.close()
            raise _Refused(503, str(e), [_RETRY], e.rpc_code, message.id) from None
        request.setHeader(SESSION_HEADER, id.encode("ascii"))
        session.handle(message, _Outlet(request, self._server, self._clock, False))
        if session.version is None:
            session.close()
        return NOT_DONE_YET

    def _session(self, request: Any) -> Session:
        ids = _values(request, SESSION_HEADER)
        if len(ids) != 1:
            raise _Refused(400, "the header Mcp-Session-Id is missing: initialize first")
        session = self._server.resume(ids[0], self._caller(request))
        if session is None:
            raise _Refused(404, "there is no such session any more: initialize a new one")
        return session

    # --- GET and DELETE --------------------------------------------------------------

    def _get(self, request: Any) -> Any:
        if not _accepts(tuple(_values(request, b"Accept")), "text/event-stream"):
            raise _Refused(406, "the Accept header has to admit text/event-stream")
        session = self._session(request)
        if session.attached:
            raise _Refused(409, "this session has a stream already")
        stream = _Stream(request, self._server, self._clock)
        session.attach(stream.send, stream.end)

        def gone(_: object) -> None:
            session.detach()
            self._server.rested(session)

        stream.closed.addBoth(gone)
        return NOT_DONE_YET

    def _delete(self, request: Any) -> Any:
        self._session(request).close()
        return _empty(request, 204)


class _Refused(Exception):
    """What is answered before there is a request of the protocol to answer."""

    def __init__(
        self,
        status: int,
        why: str,
        headers: Iterable[Header] = (),
        code: int = wire.INVALID_REQUEST,
        id: wire.Id | None = None,
        data: object = None,
    ) -> None:
        super().__init__(why)
        self.status = status
        self.headers = headers
        self.text = wire.refusal(id, McpRefused(code, why, data))


_ALLOW: Final[Header] = (b"Allow", b"DELETE, GET, POST")
_ALLOW_POST: Final[Header] = (b"Allow", b"POST")
_RETRY: Final[Header] = (b"Retry-After", _RETRY_SECONDS)


class _Stream:
    """
    Events on one request, until they end or the client goes.

    @ivar closed: fires when no more can be sent.
    """

    _log = Logger()

    def __init__(self, request: Any, server: Server, clock: IReactorTime) -> None:
        self._request = request
        self._events = Events(server.limits, self._overflow)
        self.closed: Deferred[None] = Deferred()
        self._gone = False
        writer = EventWriter(request, clock)
        self._running = Deferred.fromCoroutine(writer.write(self._events))
        # After the writer, which has to know before it is cancelled.
        request.notifyFinish().addErrback(self._client_gone)
        self._running.addBoth(self._done)

    def send(self, text: bytes) -> None:
        """Send one message."""
        self._events.put(text)

    def room(self) -> bool:
        """Is there room for what can as well be left out?"""
        return self._events.room

    def end(self) -> None:
        """Send no more after those that wait."""
        self._events.end()

    def _client_gone(self, _: Failure) -> None:
        self._gone = True
        self._running.cancel()

    def _done(self, result: Any) -> None:
        if isinstance(result, Failure):
            self._log.failure("writing events failed", result)
        if not self._gone:
            self._request.finish()
        self.closed.callback(None)

    def _overflow(self) -> None:
        self._log.info("an MCP client does not read: its connection is cut")
        cut(self._request)


class _Outlet:
    """
    The answer to one request: JSON if there is nothing but the answer, else events.
    """

    _log = Logger()

    def __init__(
        self,
        request: Any,
        server: Server,
        clock: IReactorTime,
        stateless: bool,
        *,
        gone: Callable[[], None] | None = None,
        over: Callable[[], None] | None = None,
    ) -> None:
        """
        @param gone: called when the client goes before its answer.
        @param over: called when the answer is complete, or the client is gone.
        """
        self._request = request
        self._server = server
        self._clock = clock
        self._stateless = stateless
        self._on_gone = gone
        self._on_over = over
        self._stream: _Stream | None = None
        self._timer: IDelayedCall | None = None
        self._over = False
        request.notifyFinish().addErrback(self._client_gone)

    def wait(self) -> None:
        """If there is no answer yet, let the client know now and then that there will be."""
        if not self._over and self._stream is None:
            self._timer = self._clock.callLater(KEEP_ALIVE, self._begin_events)

    def _begin_events(self) -> _Stream:
        self._stop_timer()
        if self._stream is None:
            self._stream = _Stream(self._request, self._server, self._clock)
        return self._stream

    def send(self, text: bytes) -> None:
        if not self._over:
            self._begin_events().send(text)

    def room(self) -> bool:
        return self._stream is None or self._stream.room()

    def finish(self, text: bytes, code: int) -> None:
        if self._over:
            return
        if self._stream is None:
            status = _STATUS.get(code, 200) if self._stateless else 200
            headers = [_RETRY] if status == 503 else []
            self._request.write(_prepare(self._request, status, headers, text))
            self._end()
            self._request.finish()
        else:
            self._stream.send(text)
            self._stream.end()
            self._end()

    def cancelled(self, text: bytes) -> None:
        self.finish(text, wire.CANCELLED)

    def _client_gone(self, _: Failure) -> None:
        if not self._over:
            self._end()
            if self._on_gone is not None:
                self._on_gone()

    def _end(self) -> None:
        self._over = True
        self._stop_timer()
        if self._on_over is not None:
            self._on_over()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            if self._timer.active():
                self._timer.cancel()
            self._timer = None


class _Nowhere:
    """Where nothing is sent to."""

    def send(self, text: bytes) -> None:
        """Nothing."""

    def room(self) -> bool:
        return False

    def finish(self, text: bytes, code: int) -> None:
        """Nothing."""

    def cancelled(self, text: bytes) -> None:
        """Nothing."""


def _its_caller(request: Any) -> Any:
    return getattr(request, "caller", None)


def _values(request: Any, name: bytes) -> list[str]:
    raw = request.requestHeaders.getRawHeaders(name, [])
    return [value.decode("latin-1").strip(" \t") for value in raw]


def _check_types(request: Any) -> None:
    if not _is_json(tuple(_values(request, b"Content-Type"))):
        raise _Refused(415, "the Content-Type has to be application/json")
    if request.requestHeaders.hasHeader(b"Content-Encoding"):
        raise _Refused(415, "the body cannot be compressed: send it as it is")
    accepted = tuple(_values(request, b"Accept"))
    if not (_accepts(accepted, "application/json") and _accepts(accepted, "text/event-stream")):
        raise _Refused(406, "the Accept header has to admit application/json and text/event-stream")


# A client says the same with every request.
@lru_cache(_REMEMBERED)
def _is_json(given: tuple[str, ...]) -> bool:
    return [value.partition(";")[0].strip().lower() for value in given] == ["application/json"]


@lru_cache(_REMEMBERED)
def _accepts(given: tuple[str, ...], wanted: str) -> bool:
    """RFC 9110, 12.5.1: without the header, everything is admitted."""
    if not given:
        return True
    ranges = {wanted, f"{wanted.partition('/')[0]}/*", "*/*"}
    for value in ",".join(given).split(","):
        kind, *parameters = (part.strip().lower() for part in value.split(";"))
        if kind in ranges and not any(re.fullmatch(r"q=0(\.0*)?", p) for p in parameters):
            return True
    return False


def _listed(names: Collection[str]) -> str:
    return " or ".join(names)


def _prepare(request: Any, status: int, headers: Iterable[Header], body: bytes) -> bytes:
    request.setResponseCode(status)
    for name, value in ((b"Content-Type", JSON), *SAFE_HEADERS, *headers):
        request.setHeader(name, value)
    request.setHeader(b"Content-Length", b"%d" % len(body))
    return body


def _refuse(request: Any, refused: _Refused) -> bytes:
    return _prepare(request, refused.status, refused.headers, refused.text)


def _empty(request: Any, status: int) -> bytes:
    request.setResponseCode(status)
    for name, value in SAFE_HEADERS:
        request.setHeader(name, value)
    if status != 204:
        request.setHeader(b"Content-Length", b"0")
    return b""


def _accept(request: Any) -> bytes:
    return _empty(request, 202)
