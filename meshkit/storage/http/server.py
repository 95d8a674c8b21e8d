"""
Serves a storage peer over HTTP/1.1.

C{twisted.web} reads a whole request before anybody is asked.  Here the I{gate} decides when the
headers are complete, and before a byte of the body is kept::

    bytes -> request line, headers     size, number, form                 400 431
          -> route                     path, method                       404 405
          -> Content-Length            needed, and within the route's     400 413
          -> who asks                  key of the channel, or signature   401
          -> ILocalStoragePeer.expect  for a block: reservation, order    403 404 409 413
          -> body                      all of it within RECEIVE_SECONDS   408
          -> digest of the body        if the request is signed           401
          -> the peer

Who is refused while a body is on its way gets the answer, and then the connection is closed
(L{meshkit.runtime.http}).  A connection holds one body of at most a block, or one answer, as
requests that follow at once are not read before the answer is taken.  docs/protocol/storage.md
has all limits.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from hashlib import sha256
from http import HTTPStatus
from typing import Any, Final

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IAddress, IProtocolFactory, IReactorTime
from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.http_headers import Headers
from zope.interface import implementer

from meshkit.errors import (
    InvalidRequest,
    MeshkitError,
    SignatureRefused,
    StorageBusy,
)
from meshkit.identity.addresses import PeerAddress
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import ILocalStoragePeer, IStoragePeer
from meshkit.runtime.http import BoundedChannel, OpenChannels, Refused, too_large
from meshkit.runtime.limits import Shares
from meshkit.runtime.signed.signatures import SignedRequest
from meshkit.runtime.signed.signing import Signatures
from meshkit.storage.http.messages import MAX_HEAD, MAX_HEADERS
from meshkit.storage.http.resource import Answer, Route, StorageResource
from meshkit.storage.http.wire import JSON, encode_error
from meshkit.storage.terms import MAX_BLOCK

#: Connections at a time, which is also the MiB of bodies and the answers that are held.
MAX_CONNECTIONS: Final = 128
#: Those of one key.
MAX_PER_KEY: Final = 8
#: Seconds without a byte from who is connected, when nothing is asked.
IDLE_SECONDS: Final = 60.0
#: Seconds in which a request has to arrive, from its first byte to its last.
RECEIVE_SECONDS: Final = 60.0
#: Seconds in which an answer has to be taken.
TAKE_SECONDS: Final = 60.0
#: How much is dropped that was on its way to who was refused.
LINGER_BYTES: Final = 2 * MAX_BLOCK

_PHRASES: Final = {int(status): status.phrase.encode("ascii") for status in HTTPStatus}

_log = Logger()


@frozen
class Head:
    """
    What is known of a request when its headers are complete.

    @ivar method: any token.
    @ivar target: as it was sent.
    @ivar headers: all.
    @ivar length: bytes of the body; L{None} if it does not say.
    @ivar channel_key: whose the channel is; L{None} if there is none.
    """

    method: str
    target: str
    headers: Headers
    length: int | None
    channel_key: PublicKey | None


@define
class Admitted:
    """
    What the gate says of a request.

    @ivar refusal: why it is not let in; L{None} if it is.
    @ivar route: what is asked.
    @ivar peer: whom it is asked of; L{None} for what is public.
    @ivar caller: who asks; L{None} likewise.
    @ivar signed: how that is known, if by a signature.
    """

    refusal: MeshkitError | None = None
    route: Route | None = None
    peer: IStoragePeer | None = None
    caller: PublicKey | None = None
    signed: SignedRequest | None = field(default=None, repr=False)


class Gate:
    """Decides on requests when their headers are complete."""

    def __init__(
        self,
        resource: StorageResource,
        for_caller: Callable[[PublicKey], IStoragePeer],
        signatures: Signatures | None,
    ) -> None:
        """
        @param for_caller: the peer, as one who has this key sees it.
        @param signatures: say who asks where no channel does; without them nobody is let in
            there.
        """
        self._resource = resource
        self._for_caller = for_caller
        self._signatures = signatures

    def judge(self, head: Head) -> Admitted:
        """@return: whether it is let in.  Nothing is raised."""
        admitted = Admitted()
        try:
            self._admit(head, admitted)
        except MeshkitError as e:
            admitted.refusal = e
        except Exception:
            _log.failure("deciding on a request to the storage peer failed")
            admitted.refusal = _own_error()
        return admitted

    def _admit(self, head: Head, admitted: Admitted) -> None:
        path, question, _ = head.target.partition("?")
        if question:
            raise InvalidRequest("no request to a storage peer has a query string")
        admitted.route = route = self._resource.find(head.method, path)
        length = self._length(head, route)
        if route.public:
            return
        admitted.caller = caller = self._caller(head, admitted)
        admitted.peer = peer = self._for_caller(caller)
        local = ILocalStoragePeer(peer, None)
        if route.endpoint == "write" and local is not None:
            local.expect(**route.fields, size=length)

    def _length(self, head: Head, route: Route) -> int:
        if head.headers.hasHeader(b"Transfer-Encoding") or head.length is None:
            raise InvalidRequest("a request needs a Content-Length, and no Transfer-Encoding")
        if head.headers.hasHeader(b"Content-Encoding"):
            raise InvalidRequest("a body is sent as it is: leave out the Content-Encoding")
        if head.length > route.max_body:
            raise too_large(route.max_body)
        return head.length

    def _caller(self, head: Head, admitted: Admitted) -> PublicKey:
        if head.channel_key is not None:
            return head.channel_key
        if self._signatures is None:
            raise SignatureRefused("the request does not come over a secure channel")

        def values(name: str) -> list[str]:
            raw = head.headers.getRawHeaders(name.encode("ascii"), [])
            return [value.decode("latin-1") for value in raw]

        admitted.signed = self._signatures.admit(head.method, head.target, values)
        return admitted.signed.caller

    def sign(
        self, admitted: Admitted, method: str, path: str, answer: Answer
    ) -> list[tuple[bytes, bytes]]:
        """@return: headers that say who gives this answer, if the request was signed."""
        if admitted.signed is None or self._signatures is None:
            return []
        digest = sha256()
        for piece in answer.body:
            digest.update(piece)
        signed = self._signatures.sign(
            admitted.signed, method, path, answer.status, digest.digest()
        )
        return [(name.encode("ascii"), value.encode("latin-1")) for name, value in signed]


def _own_error() -> MeshkitError:
    return MeshkitError("the storage peer has met an error of its own: see its log")


class Call(Request):
    """
    One request, and its answer.  Handlers find in it what is asked (L{StorageResource}).

    @ivar peer: whom it is asked of.
    @ivar body: all of it.
    """

    channel: Any
    admitted: Admitted
    peer: Any = None
    body: bytes = b""

    def __init__(self, channel: Any, queued: object = False) -> None:
        super().__init__(channel)
        self._chunks: list[bytes] = []
        self._digest: Any = None
        self._running: Deferred[Any] | None = None

    def let_in(self, admitted: Admitted) -> None:
        """It is read, and answered."""
        self.admitted = admitted
        if admitted.signed is not None:
            self._digest = sha256()

    # Called by the channel.

    def parseCookies(self) -> None:
        """There are none."""

    def gotLength(self, length: int | None) -> None:
        """A body is kept in L{handleContentChunk}: C{twisted.web} would use the disk."""

    def handleContentChunk(self, data: bytes) -> None:
        self._chunks.append(data)
        if self._digest is not None:
            self._digest.update(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        self.method, self.uri, self.path, self.clientproto = command, path, path, version
        chunks = self._chunks
        self.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self.peer = self.admitted.peer
        self._running = running = maybeDeferred(self._run)
        running.addErrback(self._failed).addCallback(self._answered).addErrback(self._bug)

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)
        running, self._running = self._running, None
        if running is not None:
            # Nobody is there to be answered.
            running.cancel()

    def let_go(self) -> None:
        """Nobody will ask for the body."""
        self._chunks.clear()
        self.body = b""

    def _run(self) -> Any:
        admitted = self.admitted
        route = admitted.route
        if admitted.refusal is not None or route is None:
            raise admitted.refusal or _own_error()
        if admitted.signed is not None:
            digest = self._digest.digest()
            if not hmac.compare_digest(digest, admitted.signed.digest):
                raise SignatureRefused("the body is not the one of the Content-Digest")
        app: Any = self.channel.site.resource.app
        return app.execute_endpoint(route.endpoint, self, **route.fields)

    def _failed(self, failure: Failure) -> Answer:
        if self._disconnected:
            return Answer()  # nobody sees it
        if not isinstance(failure.value, MeshkitError):
            _log.failure("answering a request to the storage peer failed", failure)
        return error_answer(failure.value)

    def _answered(self, answer: Answer) -> None:
        self._running = None
        self.body = b""
        if self._disconnected:
            return
        method, path = self.method.decode("latin-1"), self.path.decode("latin-1")
        signed = self.channel.site.gate.sign(self.admitted, method, path, answer)
        for name, value in [*answer_headers(answer), *signed]:
            self.responseHeaders.addRawHeader(name, value)
        self.setResponseCode(answer.status, _PHRASES.get(answer.status, b"Unknown"))
        self.write(b"")
        for piece in answer.body:
            if piece:
                self.write(bytes(piece))
        self.finish()

    def _bug(self, failure: Failure) -> None:
        _log.failure("answering a request to the storage peer failed", failure)
        if not self._disconnected:
            self.channel.abort()


def answer_headers(answer: Answer) -> list[tuple[bytes, bytes]]:
    """@return: what says how long an answer is, and what it is."""
    length = sum(len(piece) for piece in answer.body)
    return [
        (b"Content-Type", answer.content_type),
        (b"Content-Length", b"%d" % length),
        (b"Cache-Control", b"no-store"),
    ]


def error_answer(error: BaseException | None) -> Answer:
    """@return: what a caller is told of an error.  Of our own mistakes no more than that."""
    if not isinstance(error, MeshkitError):
        error = _own_error()
    return Answer(JSON, (encode_error(error),), error.status)


class StorageChannel(BoundedChannel):
    """
    One connection.

    While an answer is not taken, a deadline runs as well.
    """

    _log = Logger()

    linger_bytes = LINGER_BYTES
    malformed = InvalidRequest

    requestFactory: Any
    timeOut: Any
    callLater: Any
    _busy: PublicKey | None = None

    def __init__(self, site: StorageSite, key: PublicKey | None) -> None:
        """@param key: whose the secure channel beneath is, if there is one."""
        super().__init__()
        self.site = site
        self.key = key
        self.requestFactory = Call
        self.timeOut = site.idle_seconds
        # C{TimeoutMixin} would take the reactor of the process.
        self.callLater = site.reactor.callLater
        self.limit(
            max_head=MAX_HEAD,
            max_headers=MAX_HEADERS,
            max_body=MAX_BLOCK,
            receive_seconds=site.receive_seconds,
        )

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.opened(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_deadline()
        self._rest()
        for request in self.requests:
            request.let_go()
        super().connectionLost(reason)
        self.site.closed(self)

    # --- receiving -----------------------------------------------------------------

    def allHeadersReceived(self) -> None:
        """The moment of decision: see the module."""
        request = self.requests[-1]
        headers = request.requestHeaders
        method, target, _ = self._request_line.decode("latin-1").split(" ")
        said = headers.hasHeader(b"Content-Length")
        # C{twisted.web} takes what says nothing for no body; it is right about GET.
        length = self.length if said or method in ("GET", "HEAD", "DELETE") else None
        head = Head(method, target, headers, length, self.key)
        admitted = self.site.gate.judge(head)
        if admitted.refusal is None:
            admitted.refusal = self._work(admitted.caller)
        if admitted.refusal is not None and (length != 0 or headers.hasHeader(b"Expect")):
            # What is on its way would be taken for the next request.
            raise Refused(admitted.refusal, admitted)
        request.let_in(admitted)
        super().allHeadersReceived()

    def _work(self, caller: PublicKey | None) -> MeshkitError | None:
        busy = self.site.busy
        if caller is not None:
            if not busy.room(caller):
                return StorageBusy(f"{busy.each} requests of this key are under way")
            busy.take(caller)
            self._busy = caller
        self.site.used(self)
        return None

    def _rest(self) -> None:
        caller, self._busy = self._busy, None
        if caller is not None:
            self.site.busy.give_back(caller)

    def checkPersistence(self, request: Any, version: bytes) -> bool:
        # C{HTTPChannel} takes a list with commas for one word.
        words = b",".join(request.requestHeaders.getRawHeaders(b"Connection", [])).split(b",")
        asked = any(word.strip().lower() == b"close" for word in words)
        if version == b"HTTP/1.1" and not asked and not self._site_closes:
            return True
        request.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        return False

    def requestDone(self, request: Any) -> None:
        self._answering = False
        self._rest()
        if self._full:
            self.hold()
        else:
            self.site.unused(self)
        super().requestDone(request)
        if not self.persistent:
            # Closing waits until the answer is taken, but not for ever.
            self.give_up_after(self.site.take_seconds)

    # --- what is taken ---------------------------------------------------------------

    def pauseProducing(self) -> None:
        if self._deadline is None:
            self.give_up_after(self.site.take_seconds)
        super().pauseProducing()

    def resumeProducing(self) -> None:
        if self.persistent:
            self._stop_deadline()
        super().resumeProducing()

    # --- refusing ----------------------------------------------------------------------

    def write_refusal(self, error: MeshkitError, known: Any) -> None:
        answer = error_answer(error)
        headers = Headers()
        method, target, _ = f"{self._request_line.decode('latin-1')}  ".split(" ", 2)
        signed = self.site.gate.sign(known or Admitted(), method, target, answer)
        for name, value in [*answer_headers(answer), *signed, (b"Connection", b"close")]:
            headers.addRawHeader(name, value)
        phrase = _PHRASES.get(answer.status, b"Unknown")
        self.writeHeaders(b"HTTP/1.1", b"%d" % answer.status, phrase, headers)
        if not self._request_line.startswith(b"HEAD "):
            self.writeSequence([bytes(piece) for piece in answer.body])

    def let_go(self, request: Any) -> None:
        request.let_go()
        self._rest()

    def can_half_close(self) -> bool:
        # A secure channel goes on reading: it would be reset if it did not.
        return self.key is not None

    def timeoutConnection(self) -> None:
        if self.requests:
            super().timeoutConnection()
        else:
            self.loseConnection()

    def loseConnection(self) -> None:
        if not self._losing:
            self.give_up_after(self.site.take_seconds)
        super().loseConnection()


@implementer(IProtocolFactory)
class StorageSite(ServerFactory):
    """
    The factory of connections.  Under a L{SecureListener} its C{buildProtocol} gets a
    L{PeerAddress}, and what is asked is asked by that key.

    @ivar busy: requests under way, by key.
    """

    noisy = False

    def __init__(
        self,
        reactor: IReactorTime,
        resource: StorageResource,
        gate: Gate,
        *,
        max_connections: int = MAX_CONNECTIONS,
        max_per_key: int = MAX_PER_KEY,
        idle_seconds: float = IDLE_SECONDS,
        receive_seconds: float = RECEIVE_SECONDS,
        take_seconds: float = TAKE_SECONDS,
    ) -> None:
        """See L{storage_factory}."""
        self.reactor = reactor
        self.resource = resource
        self.gate = gate
        self.idle_seconds = idle_seconds
        self.receive_seconds = receive_seconds
        self.take_seconds = take_seconds
        self.busy = Shares(max_connections, max_per_key)
        self._max_connections = max_connections
        self._max_per_key = max_per_key
        self._channels = OpenChannels(reactor)
        # Those for which nothing is being done, the one that is so longest first; a dict, for
        # its order.
        self._unused: dict[StorageChannel, None] = {}

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._channels)

    def buildProtocol(self, addr: IAddress | None) -> StorageChannel | None:
        key = addr.key if isinstance(addr, PeerAddress) else None
        staying = [channel for channel in self._channels if not channel.leaving]
        if key is not None:
            mine = [channel for channel in staying if channel.key == key]
            if len(mine) >= self._max_per_key and not self._make_room(mine):
                return None
        if len(staying) >= self._max_connections and not self._make_room(self._unused):
            return None
        return StorageChannel(self, key)

    def _make_room(self, channels: Sequence[StorageChannel] | dict[StorageChannel, None]) -> bool:
        for channel in channels:
            if channel in self._unused and not channel.leaving:
                del self._unused[channel]
                channel.make_room()
                return True
        return False

    def opened(self, channel: StorageChannel) -> None:
        """Called by a channel when it is connected."""
        self._channels.add(channel)
        self._unused[channel] = None

    def used(self, channel: StorageChannel) -> None:
        """Called by a channel when it has a request that was let in."""
        self._unused.pop(channel, None)

    def unused(self, channel: StorageChannel) -> None:
        """Called by a channel when it has none any more."""
        if not channel.leaving and channel in self._channels:
            self._unused[channel] = None

    def closed(self, channel: StorageChannel) -> None:
        """Called by a channel when its connection is lost."""
        self._unused.pop(channel, None)
        self._channels.remove(channel)

    def close(self, grace: float) -> Deferred[None]:
        """
        Close every connection: idle ones now, the others after the answer they wait for.  Call
        it when nothing new is let in.

        @param grace: seconds after which what is still open is aborted.
        @return: Deferred that fires when no connection is left.
        """
        return self._channels.close(grace)


def storage_factory(
    reactor: IReactorTime,
    for_caller: Callable[[PublicKey], IStoragePeer],
    record: Callable[[], Any],
    *,
    signatures: Signatures | None = None,
    max_connections: int = MAX_CONNECTIONS,
    max_per_key: int = MAX_PER_KEY,
    idle_seconds: float = IDLE_SECONDS,
    receive_seconds: float = RECEIVE_SECONDS,
    take_seconds: float = TAKE_SECONDS,
) -> StorageSite:
    """
    Serve a storage peer, to be registered at a L{SecureListener}::

        site = storage_factory(reactor, keeper.for_caller, keeper.record)
        listener.register(Capability(LABEL, VERSION, ...), site)

    @param for_caller: the peer, as who has this key sees it.  If it provides
        L{ILocalStoragePeer}, blocks are refused before they are read.
    @param record: gives its signed record, or a Deferred of it.
    @param signatures: for connections that are no secure channels, such as those of TLS; without
        it only what is public is answered there.
    @param max_connections: at a time; for one more the one is closed for which nothing has been
        done for longest.  If something is being done for all, nobody else is let in.
    @param max_per_key: connections of one key, likewise.
    @param idle_seconds: after which a connection is closed over which nothing comes.
    @param receive_seconds: in which a whole request has to arrive.
    @param take_seconds: in which an answer has to be taken.
    @return: the factory; call its L{close <StorageSite.close>} in the end.
    """
    resource = StorageResource(record)
    return StorageSite(
        reactor,
        resource,
        Gate(resource, for_caller, signatures),
        max_connections=max_connections,
        max_per_key=max_per_key,
        idle_seconds=idle_seconds,
        receive_seconds=receive_seconds,
        take_seconds=take_seconds,
    )
