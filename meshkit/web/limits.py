"""
A web site with a limit on everything a client can make grow.

C{twisted.web} reads a whole request before any resource is asked: a body of any size,
kept in a temporary file, for as long as the client sends a byte a minute.
L{LimitedSite} decides as soon as the headers are complete, and before a byte of the
body is kept::

    bytes -> request line, headers   size, number, form, Host        400 431
          -> LimitedSite.admit(head)                                 what it says
          -> Content-Length > max_body                               413
             no memory left for it, or answers not fetched           503
          -> body                    counted as it arrives           413 503
             (all of it within receive_timeout)                      408
          -> the resource

A refusal is a JSON answer, after which the connection is closed; what one connection may
do is bounded by L{meshkit.runtime.http}.

What all connections hold together is limited as well, and no caller may hold more than half
of it: bytes of bodies, from their arrival until the answer is given (C{bodies}), and bytes
of answers that clients have not taken, or that are being compressed for them (C{answers});
where these leave no room, those are cut off that have not read for L{STUCK_SECONDS}.  Of
connections there may be so many that most are idle; at the limit the one that has been idle
longest makes room for a new one, and nobody is turned away while there is such a one.

HTTP/1.1 only; 1.0 is answered and closed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from http import HTTPStatus
from io import BytesIO
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableDescriptor,
    IProtocol,
    IReactorTime,
    ISSLTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.error import UnsupportedMethod
from twisted.web.http import HTTPChannel, datetimeToString
from twisted.web.http_headers import Headers
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from meshkit.errors import (
    MeshkitError,
    OperationError,
    Overloaded,
)
from meshkit.operations import MAX_BODY
from meshkit.runtime.http import BoundedChannel, OpenChannels, Refused, too_large
from meshkit.runtime.limits import Shares
from meshkit.runtime.logs import noting
from meshkit.web.answers import (
    PHRASES,
    Header,
    encode_error,
    error_headers,
    internal_error,
    method_not_allowed,
    prepare_error,
    tokens,
)
from meshkit.web.callers import ANYONE, Caller
from meshkit.web.request_ids import HEADER, RequestIds
from meshkit.web.tally import Tally

MAX_HEADER_BYTES: Final = 16 * 1024
MAX_HEADERS: Final = 100
MAX_CONNECTIONS: Final = 128
#: Bytes of answers that clients may leave unfetched, beyond some 64 KiB for each of them.
MAX_UNFETCHED: Final = 128 * 1024 * 1024
#: Seconds after which a client that does not take its answer may be cut off, if there is no
#: memory left for others.  Over loopback the largest answers take a tenth of one.
STUCK_SECONDS: Final = 2.0
#: Bodies of the largest size for which there is memory at a time.
BODIES: Final = 4
IDLE_SECONDS: Final = 60.0
RECEIVE_SECONDS: Final = 30.0
LINGER_BYTES: Final = 1024 * 1024
#: Seconds in which an answer that is being worked on has to be given when the token that
#: asked for it is good for nothing any more.
OVER_SECONDS: Final = 5.0

_ABSOLUTE: Final = re.compile(rb"([^ ]*) (?i:http)://([^/?# ]*)([^ ]*) ([^ ]*)")

_CLOSE: Final[Header] = (b"Connection", b"close")


@define
class RequestHead:
    """
    What is known of a request when its headers are complete.

    @ivar method: such as C{GET}; any token, in the client's spelling.
    @ivar target: path and query string, percent-encoded, starting with C{/}.
    @ivar headers: the request's headers.
    @ivar length: bytes of the body; L{None} if it comes in chunks.
    @ivar local: the address that was connected to.
    @ivar peer: the address of the client.
    @ivar passed: who has let this request in, and need not look at it again.
    @ivar caller: whose token it bears; set by who lets it in.
    @ivar request_id: what it is called in the log and in the answer; empty where the site
        gives no names.
    @ivar found: what it means, as far as who let it in has found out.
    """

    method: str
    target: str
    headers: Headers
    length: int | None
    local: IAddress
    peer: IAddress
    passed: list[object] = field(factory=list, init=False, eq=False, repr=False)
    caller: Caller = field(default=ANYONE, init=False, eq=False)
    request_id: str = field(default="", init=False, eq=False)
    found: object = field(default=None, init=False, eq=False, repr=False)

    @property
    def path(self) -> str:
        """The target without its query string, still percent-encoded."""
        return self.target.partition("?")[0]

    def values(self, name: bytes) -> list[str]:
        """@return: every value of a header, in order; bytes outside ASCII are escaped."""
        raw = self.headers.getRawHeaders(name, [])
        return [value.decode("ascii", "backslashreplace") for value in raw]


Admit = Callable[[RequestHead], MeshkitError | None]


def admit_all(head: RequestHead) -> MeshkitError | None:
    """Refuse nobody."""
    return None


class LimitedSite(Site):
    """
    A factory for HTTP connections, as L{twisted.web.server.Site} is one.

    There is no access log: what an operator wants to count is counted elsewhere, and
    nothing of a request is written down by default.
    """

    protocol: Any

    def __init__(
        self,
        resource: IResource,
        reactor: IReactorTime,
        *,
        max_body: int = MAX_BODY,
        max_bodies: int | None = None,
        max_unfetched: int = MAX_UNFETCHED,
        max_header_bytes: int = MAX_HEADER_BYTES,
        max_headers: int = MAX_HEADERS,
        max_connections: int = MAX_CONNECTIONS,
        idle_timeout: float = IDLE_SECONDS,
        receive_timeout: float = RECEIVE_SECONDS,
        admit: Admit = admit_all,
        wall_clock: Callable[[], int] | None = None,
        request_ids: RequestIds | None = None,
    ) -> None:
        """
        @param resource: the root of the site.
        @param reactor: gives the time for every deadline.
        @param max_body: bytes of one request body, which is kept in memory.
        @param max_bodies: bytes of all request bodies at a time, of one caller half of it;
            in any case one of the largest fits.  Without it, L{BODIES} times C{max_body}.
        @param max_unfetched: bytes of answers that clients may leave unfetched, together
            with those L{held <LimitedRequest.holding>}, of one caller half of it; who has
            more gets no further answer.
        @param max_header_bytes: bytes of request line and headers together.
        @param max_headers: number of header lines.
        @param max_connections: connections at a time.  For one more the one is closed
            that has been idle longest, or has sent least lately of a request; if all have
            requests that were let in, it is told C{OVERLOADED} and closed.  One caller can
            have three quarters of them at work.
        @param idle_timeout: seconds without a byte from the client, after which the
            connection is closed; also how long it may take to fetch an answer.  While
            a resource works on its answer, no time is counted.
        @param receive_timeout: seconds in which a whole request has to arrive, from
            its first byte on.
        @param admit: asked when the headers are complete.  Returns the error to
            answer with, or L{None}.  It must not wait: it decides on what is in memory.
        @param wall_clock: nanoseconds since 1970, for the C{Date} header.  Without
            it there is none, as RFC 9110 (6.6.1) wants of a server without a clock.
        @param request_ids: names each request; without it they have none.
        """
        super().__init__(
            resource,
            requestFactory=LimitedRequest,
            parsePOSTFormSubmission=False,
            timeout=idle_timeout,
            reactor=reactor,
        )
        self.protocol = LimitedChannel
        self.max_body = max_body
        total = max(max_body, BODIES * max_body if max_bodies is None else max_bodies)
        self.bodies = Shares(total, max(max_body, total // 2))
        self.answers = Shares(max_unfetched, max_unfetched // 2)
        self.max_header_bytes = max_header_bytes
        self.max_headers = max_headers
        self.idle_timeout = idle_timeout
        self.receive_timeout = receive_timeout
        self.admit = admit
        self._max_connections = max_connections
        # Those with a request that was let in: a quarter is out of the reach of any one caller.
        self._busy = Shares(max_connections, max(1, max_connections - max_connections // 4))
        self._wall_clock = wall_clock
        # The date is spelt once a second.
        self._dated: int | None = None
        self._date = b""
        self.request_ids = request_ids
        self.tally = Tally()
        self._channels = OpenChannels(reactor)
        # Those without a request that was let in, the one that is so longest first.
        self._unused: dict[LimitedChannel, None] = {}
        # How many are on their way out to make room.
        self._leaving = 0
        # Whose clients do not take their answers, and since when.
        self._stuck: dict[LimitedChannel, float] = {}

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._channels)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if len(self._channels) - self._leaving >= self._max_connections:
            if not self._unused:
                self.tally.turned_away += 1
                return _TurnedAway(self._max_connections)
            self._leaving += 1
            channel = next(iter(self._unused))
            del self._unused[channel]
            channel.make_room()
        self.tally.connections += 1
        return super().buildProtocol(addr)

    def startFactory(self) -> None:
        """Start no access log, and no timer for its time stamps."""

    def stopFactory(self) -> None:
        """There is nothing to stop.  Connections are closed by L{close}."""

    def log(self, request: Any) -> None:
        """Write no access log."""

    def getContentFile(self, length: int | None) -> BytesIO:
        """Keep bodies in memory: C{twisted.web} would put large ones on the disk."""
        return BytesIO()

    def getResourceFor(self, request: Any) -> Any:
        """Set what C{twisted.web} has just set from the machine's own clock, and look up."""
        request.responseHeaders.removeHeader(b"Server")
        request.responseHeaders.removeHeader(b"Date")
        for header in self.date_header():
            request.setHeader(*header)
        return super().getResourceFor(request)

    def date_header(self) -> list[Header]:
        """@return: the C{Date} header, if there is a clock."""
        if self._wall_clock is None:
            return []
        now = self._wall_clock() // 10**9
        if now != self._dated:
            self._dated, self._date = now, datetimeToString(now)
        return [(b"Date", self._date)]

    def close(self, grace: float) -> Deferred[None]:
        """
        Close every connection: idle ones now, the others after the answer they wait
        for.  Call it when the port has stopped listening.

        @param grace: seconds after which what is still open is aborted, which cancels
            the handlers that are still at work.
        @return: Deferred that fires when no connection is left.
        """
        return self._channels.close(grace)

    def opened(self, channel: LimitedChannel) -> None:
        """Called by a channel when it is connected."""
        self._channels.add(channel)
        self._unused[channel] = None

    def used(self, channel: LimitedChannel) -> None:
        """Called by a channel when it has a request that was let in."""
        self._unused.pop(channel, None)
        channel.busy_for = channel.holder
        self._busy.take(channel.holder)

    def unused(self, channel: LimitedChannel) -> None:
        """Called by a channel when it has none any more."""
        self._at_rest(channel)
        if not channel.leaving:
            self._unused[channel] = None

    def _at_rest(self, channel: LimitedChannel) -> None:
        who, channel.busy_for = channel.busy_for, None
        if who is not None:
            self._busy.give_back(who)

    def has_connection_for(self, who: str) -> bool:
        """May a caller have one more at work?"""
        return self._busy.room(who)

    def stuck(self, channel: LimitedChannel) -> None:
        """Called by a channel when its client does not take what is sent."""
        self._stuck.setdefault(channel, self.reactor.seconds())

    def taken(self, channel: LimitedChannel) -> None:
        """Called by a channel when its client has taken all."""
        self._stuck.pop(channel, None)

    def make_room_for_answers(self, who: str, size: int = 1) -> None:
        """
        Cut off clients that do not take theirs, those with the largest first, until there
        is room for a caller's next one.

        @param size: its length, if it is known.
        @raise Overloaded: if there is none yet.
        """
        now = self.reactor.seconds()
        size = min(size, self.answers.each)
        while not self.answers.room(who, size):
            mine = self.answers.held(who) + size > self.answers.each
            stuck = [c for c in self._stuck if not mine or c.holder == who]
            overdue = [c for c in stuck if now - self._stuck[c] >= STUCK_SECONDS]
            if not overdue:
                raise _no_room_for_answers([self._stuck[c] - now for c in stuck])
            channel = max(overdue, key=lambda c: c.unfetched)
            channel.cut_off()

    def closed(self, channel: LimitedChannel) -> None:
        """Called by a channel when its connection is lost."""
        self._unused.pop(channel, None)
        self._at_rest(channel)
        self._leaving -= channel.leaving
        self._channels.remove(channel)


class LimitedRequest(Request):
    """A request whose body is counted as it arrives, and whose failures are JSON."""

    _log = Logger()

    channel: Any
    content: Any
    #: What it was let in by.
    head: RequestHead | None = None
    #: Who holds its body, and how many bytes of it.
    who = ANYONE.name
    held = 0
    #: Told the whole body of an answer before any of it is sent, gives headers that depend on
    #: it.  Of a stream, which has no whole, it is not told.
    seal: Callable[[bytes], Sequence[Header]] | None = None

    def handleContentChunk(self, data: bytes) -> None:
        site: LimitedSite = self.channel.site
        size = len(data)
        if self.held + size > site.max_body:
            raise Refused(too_large(site.max_body))
        if not site.bodies.room(self.who, size):
            raise Refused(_no_room())
        site.bodies.take(self.who, size)
        self.held += size
        site.tally.received += size
        super().handleContentChunk(data)

    def write(self, data: bytes) -> None:
        seal, self.seal = self.seal, None
        if seal is not None and not self.startedWriting and self.method != b"HEAD":
            # Who gives an answer in one piece has said how long it is.
            said = self.responseHeaders.getRawHeaders(b"Content-Length", [])
            if said == [b"%d" % len(data)]:
                for name, value in seal(data):
                    self.setHeader(name, value)
        super().write(data)

    def ensure_room(self, size: int) -> None:
        """
        Called before an answer of that length is begun.

        @raise Overloaded: if there is no room for it.
        """
        if self.channel is not None:
            self.channel.site.make_room_for_answers(self.who, size)

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """
        While an answer of that length is worked on: it counts as one that is not fetched.

        @raise Overloaded: if there is no room for it.
        """
        if self.channel is None:
            # The client is gone, and what is done for it is about to be cancelled.
            yield
            return
        site: LimitedSite = self.channel.site
        site.make_room_for_answers(self.who, size)
        site.answers.take(self.who, size)
        try:
            yield
        finally:
            site.answers.give_back(self.who, size)

    def let_go(self, site: LimitedSite) -> None:
        """The body is needed no more.  May be called again."""
        held, self.held = self.held, 0
        if held:
            site.bodies.give_back(self.who, held)

    def processingFailed(self, reason: Failure) -> Failure:
        """A resource raised an error that nobody foresaw: say so, without the insides."""
        with self._named():
            self._log.failure("answering {method} failed", failure=reason, method=self.method)
        if self.startedWriting:
            # Half an answer is out.  Only a broken connection tells the client so.
            self.loseConnection()
        else:
            self.write(prepare_error(self, internal_error()))
            self.finish()
        return reason

    def render(self, resrc: IResource) -> None:
        # What is begun in here, and goes on later, is logged under the same name.
        with self._named():
            super().render(_MethodsInJSON(resrc))

    def _named(self) -> AbstractContextManager[None]:
        name = "" if self.head is None else self.head.request_id
        return noting(request_id=name) if name else nullcontext()

    def hand_over(
        self, successor: IProtocol, name: str, closing: Callable[[], None] | None
    ) -> None:
        """See L{meshkit.web.takeover.take_over}.  If the client is gone, nothing is done."""
        channel = self.channel
        if channel is None:
            return
        headers = Headers()
        for key, value in (
            (b"Upgrade", name.encode("ascii")),
            (b"Connection", b"upgrade"),
            *channel.site.date_header(),
        ):
            headers.addRawHeader(key, value)
        status = HTTPStatus.SWITCHING_PROTOCOLS
        self.setResponseCode(status)
        channel.writeHeaders(b"HTTP/1.1", b"%d" % status, status.phrase.encode("ascii"), headers)
        # That was the answer.  Ending it is what switches the channel over.
        self.startedWriting = 1
        channel.succeed(successor, closing)
        self.finish()


class _MethodsInJSON:
    """A resource that refuses a method as the rest of the site does, not in HTML."""

    def __init__(self, resource: IResource) -> None:
        self._resource = resource

    def render(self, request: LimitedRequest) -> Any:
        try:
            return self._resource.render(request)
        except UnsupportedMethod as e:
            if request.method == b"HEAD" and b"GET" in e.allowedMethods:
                raise  # C{twisted.web} makes a GET of it
            method = request.method.decode("ascii")
            methods: Sequence[bytes] = e.allowedMethods
            allowed = [known.decode("ascii") for known in methods]
            return prepare_error(request, method_not_allowed(method, allowed))


class LimitedChannel(BoundedChannel):
    """
    One connection of a L{LimitedSite}.

    It has one state more: handed over, when all that arrives is another protocol's
    (L{meshkit.web.takeover}).
    """

    _log = Logger()

    linger_bytes = LINGER_BYTES
    malformed = OperationError

    site: LimitedSite
    _request_id = b""
    _successor: IProtocol | None = None
    _closing: Callable[[], None] | None = None
    # Who has the connection now, how not to be told of its end any more, and what follows it.
    _caller = ANYONE
    _unwatch: Callable[[], None] | None = None
    _over: IDelayedCall | None = None
    # Of a target that was a whole URL.
    _authority: str | None = None
    _local: IAddress
    #: Bytes of answers that its client has not taken, and to whose account they are.
    unfetched = 0
    holder = ANYONE.name
    #: On whose account it is at work.
    busy_for: str | None = None
    _peer: IAddress

    def connectionMade(self) -> None:
        site = self.site
        self.limit(
            max_head=site.max_header_bytes,
            max_headers=site.max_headers,
            max_body=site.max_body,
            receive_seconds=site.receive_timeout,
        )
        super().connectionMade()
        # Asking costs a system call, and they stay the same.
        self._local = self.transport.getHost()
        self._peer = self.transport.getPeer()
        self.site.opened(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_deadline()
        self._let_go()
        self._fetched()
        for request in self.requests:
            request.let_go(self.site)
        super().connectionLost(reason)
        try:
            if self._successor is not None:
                self._successor.connectionLost(reason)
        finally:
            self.site.closed(self)

    # --- receiving -----------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        if self._successor is not None and not self._answering:
            self._successor.dataReceived(data)
            return
        super().dataReceived(data)

    def allHeadersReceived(self) -> None:
        """
        The moment of decision: nothing of the body is kept yet, and a client that
        asked for it (C{Expect: 100-continue}) has not been told to go on.
        """
        request = self.requests[-1]
        headers = request.requestHeaders
        method, target, version = self._request_line.decode("latin-1").split(" ")
        if not target.startswith("/"):
            raise Refused(OperationError("the request's target has to be a path"))
        hosts = headers.getRawHeaders(b"Host", [])
        if len(hosts) != 1 and version == "HTTP/1.1":
            # RFC 9112, 3.2.
            raise Refused(OperationError("the request needs exactly one Host header"))
        named = [host.decode("latin-1").lower() for host in hosts]
        if self._authority is not None and named != [self._authority]:
            raise Refused(OperationError("target and Host header name different hosts"))
        head = RequestHead(method, target, headers, self.length, self._local, self._peer)
        if self.site.request_ids is not None:
            head.request_id = self.site.request_ids.of(headers.getRawHeaders(HEADER, []))
            self._request_id = head.request_id.encode("ascii")
            request.setHeader(HEADER, self._request_id)
        try:
            error = self.site.admit(head)
        except Exception:
            self._log.failure("deciding on a request failed")
            error = internal_error()
        error = error or self._over_the_limit(head)
        if error is not None:
            raise Refused(error)
        request.head = head
        self._belongs_to(head.caller)
        request.who = self.holder = head.caller.name
        self.site.used(self)
        super().allHeadersReceived()

    def _over_the_limit(self, head: RequestHead) -> MeshkitError | None:
        site, who = self.site, head.caller.name
        if head.length is not None and head.length > site.max_body:
            return too_large(site.max_body)
        if head.length and not site.bodies.room(who, head.length):
            return _no_room()
        if not site.has_connection_for(who):
            return Overloaded("this token has as many connections at work as one may have")
        try:
            site.make_room_for_answers(who)
        except Overloaded as e:
            return e
        return None

    def origin_form(self, line: bytes) -> bytes:
        """
        A request line whose target is the path alone.  That of a whole URL is noted, to be
        compared with the C{Host} header (RFC 9112, 3.2.2).
        """
        found = _ABSOLUTE.fullmatch(line)
        if found is None:
            return line
        method, authority, target, version = found.groups()
        self._authority = authority.decode("latin-1").lower()
        slash = b"" if target.startswith(b"/") else b"/"
        return b"%b %b%b %b" % (method, slash, target, version)

    def checkPersistence(self, request: Any, version: bytes) -> bool:
        # C{HTTPChannel} takes a list with commas for one word.
        if version != b"HTTP/1.1":
            return False
        if "close" in tokens(request.requestHeaders, b"Connection"):
            request.setHeader(b"Connection", b"close")
            return False
        return True

    def rawDataReceived(self, data: bytes) -> None:
        if self._successor is not None and not self._answering:
            # Of the bytes that ended the last request, those after it.
            self._pass_on(data)
            return
        super().rawDataReceived(data)

    def allContentReceived(self) -> None:
        self._request_id = b""
        self._authority = None
        super().allContentReceived()

    def requestDone(self, request: Any) -> None:
        self._answering = False
        request.let_go(self.site)
        self.site.tally.answered(request.code, request.sentLength)
        if self._successor is not None:
            # Whatever else its Connection header says.
            self.persistent = 1
        elif self._full:
            self.hold()
        else:
            self.site.unused(self)
        super().requestDone(request)
        if not self.persistent:
            # Closing waits until the client has taken its answer, but not for ever.
            self.give_up_after(self.site.idle_timeout)

    # --- whose it is -----------------------------------------------------------------

    def _belongs_to(self, caller: Caller) -> None:
        if caller is not self._caller:
            self._let_go()
            self._caller = caller
            self._unwatch = caller.watch(self._caller_is_over)

    def _let_go(self) -> None:
        if self._unwatch is not None:
            self._unwatch()
            self._unwatch = None
        if self._over is not None:
            self._over.cancel()
            self._over = None

    def _caller_is_over(self) -> None:
        """The token was revoked, has expired or was replaced: nothing goes on for it."""
        if self._answering and self.requests[0].startedWriting and self._successor is None:
            # A stream, which would otherwise have no end.
            self.abort()
            return
        self.close_when_answered()
        self._over = self.callLater(OVER_SECONDS, self._over_for_good)

    def _over_for_good(self) -> None:
        self._over = None
        self.abort()

    # --- what the client takes ---------------------------------------------------------

    def write(self, data: bytes) -> None:
        super().write(data)
        if self._full:
            self._left(len(data))

    def writeSequence(self, iovec: Sequence[bytes]) -> None:
        super().writeSequence(iovec)
        if self._full:
            self._left(sum(map(len, iovec)))

    def pauseProducing(self) -> None:
        self.site.stuck(self)
        super().pauseProducing()

    def resumeProducing(self) -> None:
        self._fetched()
        super().resumeProducing()

    def cut_off(self) -> None:
        """Give up on a client that does not take its answer."""
        self._log.info(
            "a client left {size} bytes of an answer unfetched: its connection is cut",
            size=self.unfetched,
        )
        self._fetched()
        self.abort()

    def _left(self, size: int) -> None:
        self.unfetched += size
        self.site.answers.take(self.holder, size)

    def _fetched(self) -> None:
        self.site.taken(self)
        unfetched, self.unfetched = self.unfetched, 0
        if unfetched:
            self.site.answers.give_back(self.holder, unfetched)

    # --- handing over ----------------------------------------------------------------

    def succeed(self, successor: IProtocol, closing: Callable[[], None] | None) -> None:
        """Give the connection to another protocol as soon as the request is done."""
        self._successor = successor
        self._closing = closing

    def setLineMode(self, extra: bytes = b"") -> None:
        # C{HTTPChannel} does this when a request was answered, with what came after it.
        if self._successor is None:
            super().setLineMode(extra)
            return
        self.setTimeout(None)
        self.transport.unregisterProducer()
        self._fetched()
        # It may have been paused while the request was worked on.
        self.transport.resumeProducing()
        self._successor.makeConnection(self.transport)
        if self._site_closes:
            self.close_when_answered()
        self._pass_on(extra)

    def _pass_on(self, data: bytes) -> None:
        if data and self._successor is not None and not self.transport.disconnecting:
            self._successor.dataReceived(data)

    # --- refusing ------------------------------------------------------------------

    def write_refusal(self, error: MeshkitError, known: Any) -> None:
        more = self.site.date_header()
        if self.site.request_ids is not None:
            name = self._request_id or self.site.request_ids.new().encode("ascii")
            more.append((HEADER, name))
        _write_error(self, error, more, not self._request_line.startswith(b"HEAD "))
        self.site.tally.answered(error.status, 0)

    def let_go(self, request: Any) -> None:
        request.let_go(self.site)

    def can_half_close(self) -> bool:
        # A TLS transport names the interface too, but would close the socket beneath it
        # without sending what it holds.
        transport: Any = self.transport
        half = IHalfCloseableDescriptor(transport, None)
        return half is not None and not ISSLTransport.providedBy(transport)

    def close_when_answered(self) -> None:
        if self._answering or self._successor is None:
            super().close_when_answered()
            return
        self._site_closes = True
        if self._closing is None:
            self.transport.loseConnection()
        else:
            self._closing()


class _TurnedAway(Protocol):
    """A connection too many: told so, and closed, without being read."""

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def connectionMade(self) -> None:
        assert self.transport is not None
        channel = HTTPChannel()
        channel.transport = self.transport
        error = Overloaded(f"{self._limit} connections are open already: try again in a moment")
        _write_error(channel, error, [], True)
        self.transport.loseConnection()


def _no_room() -> Overloaded:
    return Overloaded("other requests take up the memory for bodies: try again in a moment")


def _no_room_for_answers(stuck: Sequence[float]) -> Overloaded:
    """@param stuck: since when clients do not read whose going would help; seconds, negative."""
    error = Overloaded(
        "other answers are being made or wait to be fetched: read them, then ask for more"
    )
    if stuck:
        error.details = {"retry_after": round(min(stuck) + STUCK_SECONDS, 3)}
    return error


def _write_error(
    channel: HTTPChannel, error: MeshkitError, more: list[Header], with_body: bool
) -> None:
    body = encode_error(error)
    headers = Headers()
    for name, value in [*error_headers(error), *more, _CLOSE]:
        headers.addRawHeader(name, value)
    headers.addRawHeader(b"Content-Length", b"%d" % len(body))
    phrase = PHRASES.get(error.status, b"Error")
    channel.writeHeaders(b"HTTP/1.1", b"%d" % error.status, phrase, headers)
    if with_body:
        channel.write(body)
