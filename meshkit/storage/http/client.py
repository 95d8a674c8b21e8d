"""
A storage peer that is reached over HTTP.

L{HTTPStoragePeer} provides L{IStoragePeer} over any endpoint whose connections lead to the peer
and to nobody else: one of L{meshkit.shs.wrap_client}, or one over TLS, where each request is
signed (L{meshkit.runtime.signed.signatures}).

Connections are kept and used again, a request at a time on each, at most L{MAX_CONNECTIONS} of
them; further requests wait for one.  A block is handed to the transport in one piece, and nothing
else is until the answer is here, so that a peer that does not read holds one block for each
connection and no more.

Everything that a peer can do wrong has a limit: an answer has a size that the request sets
(L{meshkit.storage.http.messages}), and a request has a deadline, from the moment that it is made
to the last byte of its answer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.errors import (
    SignatureRetry,
    StoragePeerError,
    StoragePeerSilent,
    TruncatedStream,
)
from meshkit.identity.addresses import PeerAddress
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IStoragePeer
from meshkit.runtime.signed.signing import Signer, believed, unsigned
from meshkit.storage.encoding import Piece
from meshkit.storage.erasure import Block
from meshkit.storage.http.messages import (
    MalformedMessage,
    Response,
    ResponseReader,
    encode_request,
)
from meshkit.storage.http.wire import (
    JSON,
    LEASE_HEADER,
    MAX_JSON_ANSWER,
    MAX_MANIFEST,
    MAX_PIECE,
    MAX_STATEMENT,
    OCTETS,
    Renew,
    Reserve,
    Reserved,
    Stat,
    block_path,
    decode_data,
    decode_error,
    decode_piece,
    encode_json,
    share_path,
    upload_path,
)
from meshkit.storage.terms import Reservation, ShareStat

#: Connections to one peer.
MAX_CONNECTIONS: Final = 4
#: Requests that wait for one of them.
MAX_WAITING: Final = 256
#: Seconds from the moment that a request is made to the end of its answer.
REQUEST_SECONDS: Final = 30.0
#: Seconds after which a connection that is not used is closed: before the server does.
IDLE_SECONDS: Final = 45.0
#: Seconds in which the peer has to agree that a connection is closed.
CLOSE_SECONDS: Final = 5.0

_T = TypeVar("_T")

#: A connection that ends in one of these before an answer began may have been closed by the
#: peer as it was idle, when the request was on its way.
_CLOSED: Final = (ConnectionDone, ConnectionLost, TruncatedStream)


class _Connection(Protocol):
    """
    One connection.

    @ivar used: answers that came over it.
    @ivar begun: a byte of the answer that is, or was, waited for last has come.
    @ivar lost: nothing can be asked over it any more.
    """

    def __init__(self, pool: _Pool) -> None:
        self._pool = pool
        self._reader: ResponseReader | None = None
        self._answer: Deferred[Response] | None = None
        self._timer: IDelayedCall | None = None
        self.used = 0
        self.begun = False
        self.lost = False

    def ask(self, head: bytes, body: Block, max_body: int) -> Deferred[Response]:
        """
        @param max_body: bytes that the answer may have.
        @return: Deferred of the answer.  To cancel it ends the connection.
        """
        self._stop_timer()
        self.begun = False
        self._reader = ResponseReader(max_body)
        answer: Deferred[Response] = Deferred(self._cancelled)
        self._answer = answer
        transport: Any = self.transport
        transport.write(head)
        if body:
            # What is bytes already is not copied.
            transport.write(bytes(body))
        return answer

    def rest(self) -> None:
        """Nothing is asked over it for now."""
        self._set_timer(self._pool.idle_seconds, self._let_go)

    def close(self) -> None:
        """Close it; what is asked over it fails."""
        if self._answer is None:
            self._let_go()
        else:
            self._break_off()

    # --- Protocol ---

    def dataReceived(self, data: bytes) -> None:
        self.begun = True
        if self._reader is None:
            # Nothing was asked.
            self._break_off()
            return
        try:
            response = self._reader.feed(data)
        except MalformedMessage as e:
            self._break_off()
            self._finish(Failure(self._pool.malformed(e)))
            return
        if response is None:
            return
        self.used += 1
        if response.last:
            self._let_go()
        self._finish(response)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        self._stop_timer()
        self._pool.gone(self)
        self._finish(reason)

    # --- ends ---

    def _finish(self, result: Response | Failure) -> None:
        self._reader = None
        answer, self._answer = self._answer, None
        if answer is not None:
            answer.callback(result)

    def _cancelled(self, _: Deferred[Response]) -> None:
        self._answer = None
        self._break_off()

    def _let_go(self) -> None:
        self.lost = True
        self._set_timer(CLOSE_SECONDS, self._break_off)
        transport: Any = self.transport
        transport.loseConnection()

    def _break_off(self) -> None:
        self.lost = True
        self._stop_timer()
        transport: Any = self.transport
        transport.abortConnection()

    def _set_timer(self, seconds: float, what: Callable[[], None]) -> None:
        self._stop_timer()
        self._timer = self._pool.reactor.callLater(seconds, self._run_timer, what)

    def _run_timer(self, what: Callable[[], None]) -> None:
        self._timer = None
        what()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Pool:
    """The connections to one peer."""

    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: IStreamClientEndpoint,
        key: PublicKey,
        max_connections: int,
        idle_seconds: float,
    ) -> None:
        self.reactor = reactor
        self.idle_seconds = idle_seconds
        self._endpoint = endpoint
        self._key = key
        self._max = max_connections
        # Those that are open, and how many are about to be.
        self._open: dict[_Connection, None] = {}
        self._opening: dict[Deferred[Any], None] = {}
        # Those that nothing is asked over, the one that was used last at the end.
        self._idle: list[_Connection] = []
        self._waiting: deque[Deferred[None]] = deque()
        self._closed = False
        self._all_gone: list[Deferred[None]] = []

    async def take(self) -> _Connection:
        """
        @return: a connection over which nothing is asked.  Give it back.
        @raise StoragePeerError: if too many wait for one, or it leads to somebody else.
        """
        while True:
            self._check_open()
            while self._idle:
                connection = self._idle.pop()
                if not connection.lost:
                    return connection
            live = sum(not connection.lost for connection in self._open)
            if live + len(self._opening) < self._max:
                return await self._connect()
            await self._wait()

    def give_back(self, connection: _Connection) -> None:
        """
        @param connection: that was taken.  If it is lost already, nothing happens.
        """
        if connection.lost:
            return
        if self._closed:
            connection.close()
            return
        self._idle.append(connection)
        connection.rest()
        self._wake()

    def gone(self, connection: _Connection) -> None:
        """Called by a connection that is lost."""
        self._open.pop(connection, None)
        if connection in self._idle:
            self._idle.remove(connection)
        self._wake()
        self._tell_if_empty()

    def drop_idle(self) -> None:
        """Close those that are not used: the peer seems to have begun anew."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def close(self) -> Deferred[None]:
        """@return: Deferred that fires when no connection is left."""
        self._closed = True
        while self._waiting:
            self._waiting.popleft().callback(None)
        for opening in list(self._opening):
            opening.cancel()
        for connection in list(self._open):
            connection.close()
        done: Deferred[None] = Deferred()
        self._all_gone.append(done)
        self._tell_if_empty()
        return done

    def malformed(self, error: MalformedMessage) -> StoragePeerError:
        """@return: what to tell of an answer that cannot be read."""
        return StoragePeerError(
            f"the answer of the storage peer {self._key.text} cannot be used: {error}"
        )

    async def _connect(self) -> _Connection:
        factory: Any = Factory.forProtocol(lambda: _Connection(self))
        # The channel beneath says what becomes of a connection.
        factory.noisy = False
        opening: Deferred[Any] = self._endpoint.connect(factory)
        self._opening[opening] = None
        try:
            connection: _Connection = await opening
        except BaseException:
            self._opening.pop(opening, None)
            self._wake()
            self._tell_if_empty()
            raise
        self._opening.pop(opening, None)
        if connection.lost:
            raise StoragePeerError(f"the storage peer {self._key.text} closes its connections")
        self._open[connection] = None
        transport: Any = connection.transport
        peer = transport.getPeer()
        if isinstance(peer, PeerAddress) and peer.key != self._key:
            connection.close()
            raise StoragePeerError(f"{peer.key.text} answers in the place of {self._key.text}")
        if self._closed:
            connection.close()
            self._check_open()
        return connection

    async def _wait(self) -> None:
        if len(self._waiting) >= MAX_WAITING:
            raise StoragePeerError(
                f"{MAX_WAITING} requests to the storage peer {self._key.text} wait already"
            )
        turn: Deferred[None] = Deferred()
        self._waiting.append(turn)
        try:
            await turn
        except CancelledError:
            if turn in self._waiting:
                self._waiting.remove(turn)
            raise

    def _wake(self) -> None:
        if self._waiting:
            self._waiting.popleft().callback(None)

    def _check_open(self) -> None:
        if self._closed:
            raise StoragePeerError(f"what leads to the storage peer {self._key.text} was closed")

    def _tell_if_empty(self) -> None:
        if self._closed and not self._open and not self._opening:
            waiting, self._all_gone = self._all_gone, []
            for done in waiting:
                done.callback(None)


@frozen
class _Request:
    """What is asked, before it is signed."""

    method: str
    path: str
    content_type: str
    body: Block
    more: tuple[tuple[str, str], ...]
    public: bool


@implementer(IStoragePeer)
class HTTPStoragePeer:
    """
    See the module.  Every Deferred fails with what the peer says (L{StoragePeerError}), with
    L{StoragePeerSilent} when the deadline has passed, or with what the network says; it can be
    cancelled, which ends a connection.

    @ivar key: of the peer.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        endpoint: IStreamClientEndpoint,
        key: PublicKey,
        *,
        timeout: float = REQUEST_SECONDS,
        max_connections: int = MAX_CONNECTIONS,
        idle_seconds: float = IDLE_SECONDS,
        signer: Signer | None = None,
    ) -> None:
        """
        @param endpoint: leads to the peer.
        @param key: of the peer.
        @param timeout: seconds for each request, waiting and connecting included.
        @param max_connections: at a time.
        @param idle_seconds: after which a connection that is not used is closed.
        @param signer: signs requests, and checks the answers, where the connection does not
            say who is at its ends.
        """
        self.key = key
        self._reactor = reactor
        self._timeout = timeout
        self._pool = _Pool(reactor, endpoint, key, max_connections, idle_seconds)
        self._signer = signer
        self._host = key.raw.hex() if signer is None else signer.authority

    def stop(self) -> Deferred[None]:
        """
        Close all connections.  What is under way fails.

        @return: Deferred that fires when none is left.
        """
        return self._pool.close()

    # --- IStoragePeer ---

    def statement(self) -> Deferred[bytes]:
        return self._raw("GET", "/v1/heartbeat", MAX_STATEMENT, public=True)

    def reserve(
        self, upload: bytes, number: int, size: int, lease: bytes, repair: bool = False
    ) -> Deferred[Reservation]:
        body = encode_json(Reserve(size, lease.hex(), repair))
        path = upload_path(upload, number)
        return self._json("POST", path, Reserved, body).addCallback(lambda it: it.reservation)

    def write(self, upload: bytes, number: int, segment: int, block: Block) -> Deferred[None]:
        return self._raw("PUT", block_path(upload, number, segment), 0, block).addCallback(_none)

    def close(self, upload: bytes, number: int, manifest: bytes) -> Deferred[bytes]:
        return self._raw("POST", f"{upload_path(upload, number)}/close", MAX_STATEMENT, manifest)

    def abort(self, upload: bytes, number: int) -> Deferred[None]:
        return self._raw("DELETE", upload_path(upload, number), 0).addCallback(_none)

    def stat(self, share: bytes) -> Deferred[ShareStat]:
        return self._json("GET", share_path(share), Stat).addCallback(lambda it: it.stat)

    def manifest(self, share: bytes) -> Deferred[bytes]:
        return self._raw("GET", f"{share_path(share)}/manifest", MAX_MANIFEST)

    def read(self, share: bytes, segment: int) -> Deferred[Piece]:
        path = f"{share_path(share)}/blocks/{segment}"
        return self._raw("GET", path, MAX_PIECE).addCallback(self._decoded, decode_piece)

    def renew(self, share: bytes, secret: bytes) -> Deferred[bytes]:
        body = encode_json(Renew(secret.hex()))
        return self._raw("POST", f"{share_path(share)}/lease", MAX_STATEMENT, body, JSON)

    def release(self, share: bytes, secret: bytes) -> Deferred[None]:
        more = ((LEASE_HEADER.decode(), secret.hex()),)
        path = f"{share_path(share)}/lease"
        return self._raw("DELETE", path, 0, more=more).addCallback(_none)

    # --- beneath ---

    def _json(self, method: str, path: str, kind: type[_T], body: bytes = b"") -> Deferred[_T]:
        asked = self._raw(method, path, MAX_JSON_ANSWER, body, JSON)
        return asked.addCallback(self._decoded, lambda raw: decode_data(raw, kind))

    def _decoded(self, raw: bytes, decode: Callable[[bytes], _T]) -> _T:
        try:
            return decode(raw)
        except ValueError as e:
            raise StoragePeerError(
                f"the answer of the storage peer {self.key.text} cannot be used: {e}"
            ) from None

    def _raw(
        self,
        method: str,
        path: str,
        max_answer: int,
        body: Block = b"",
        content_type: bytes = OCTETS,
        more: Iterable[tuple[str, str]] = (),
        public: bool = False,
    ) -> Deferred[bytes]:
        """
        @param max_answer: bytes of a good answer.
        @param public: it is neither signed nor is the answer.
        @return: Deferred of its body.
        """
        request = _Request(method, path, content_type.decode("ascii"), body, tuple(more), public)
        asked = Deferred.fromCoroutine(self._ask(request, max_answer))
        return asked.addTimeout(self._timeout, self._reactor, self._too_slow)

    async def _ask(self, request: _Request, max_answer: int) -> bytes:
        try:
            return await self._ask_once(request, max_answer, 0)
        except SignatureRetry as e:
            # The peer was started a moment ago, and cannot tell whether it has let this in
            # before.  It says from when on it can.
            if e.details is None:
                raise
            after = int(str(e.details["after"]))
        return await self._ask_once(request, max_answer, after)

    async def _ask_once(self, request: _Request, max_answer: int, after: int) -> bytes:
        headers = [
            ("Host", self._host),
            ("Content-Type", request.content_type),
            ("Content-Length", str(len(request.body))),
            *request.more,
        ]
        signer = None if request.public else self._signer
        signature = ""
        if signer is not None:
            signed, signature = signer.sign(
                self.key, request.method, request.path, request.content_type, request.body, after
            )
            headers += signed
        head = encode_request(request.method, request.path, headers)
        # An error may be longer than what was asked for.
        limit = max(max_answer, MAX_JSON_ANSWER)
        response = await self._exchange(head, request.body, limit)
        if signer is not None:
            if unsigned(response):
                raise believed(decode_error(response.status, response.body, self.key.text))
            signer.check(self.key, response, request.method, request.path, signature)
        return self._judge(response, max_answer)

    async def _exchange(self, head: bytes, body: Block, max_body: int) -> Response:
        connection = await self._pool.take()
        again = connection.used > 0
        try:
            response = await self._ask_over(connection, head, body, max_body)
        except _CLOSED:
            if not again or connection.begun:
                raise
        else:
            return response
        # The peer closed a connection that was idle, when the request was on its way.  All
        # requests can be made twice.
        self._pool.drop_idle()
        connection = await self._pool.take()
        return await self._ask_over(connection, head, body, max_body)

    async def _ask_over(
        self, connection: _Connection, head: bytes, body: Block, max_body: int
    ) -> Response:
        try:
            return await connection.ask(head, body, max_body)
        finally:
            self._pool.give_back(connection)

    def _judge(self, response: Response, max_answer: int) -> bytes:
        if response.status not in (200, 201, 204):
            raise decode_error(response.status, response.body, self.key.text)
        if len(response.body) > max_answer:
            raise StoragePeerError(
                f"the storage peer {self.key.text} answers with {len(response.body)} bytes, where "
                f"{max_answer} are the most"
            )
        return response.body

    def _too_slow(self, result: bytes | Failure, timeout: float) -> bytes | Failure:
        if isinstance(result, Failure) and result.check(CancelledError, DeferredTimeout):
            raise StoragePeerSilent(
                f"the storage peer {self.key.text} did not answer within {timeout:g} seconds"
            )
        return result

    def __repr__(self) -> str:
        return f"<HTTPStoragePeer {self.key.short}>"


def _none(_: bytes) -> None:
    """What is asked to do something, and has done it, says no more."""
