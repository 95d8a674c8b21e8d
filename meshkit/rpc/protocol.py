"""
MessagePack-RPC on a connection, with bounds on both sides.

B{What a peer can make us keep.}  Of its bytes: one unfinished message, within the
largest size that this connection's methods allow.  Of its calls:
L{MAX_SERVED <meshkit.rpc.table.MAX_SERVED>}, worked on or held.  Of our answers: what
the transport holds when it is full, and the answers of the calls that were being worked
on then.  While the transport is full no call is begun: calls are held, and when too many
are, nothing is read.  Answers to our own calls go on being read until then, as two peers
that both wait for the other to read would wait for ever.

B{What ends what.}

::

    what happens                       what follows
    ---------------------------------  --------------------------------------------------
    the connection is lost             our calls fail with the reason; the peer's are
                                       cancelled; calls made later fail with it at once
    the peer breaks a rule             logged by name; abort; then as above, with the
                                       broken rule as the reason
    close(), or the peer's goodbye     new calls fail; what was written is sent; the
                                       peer's calls are cancelled; then as above
    a call is cancelled, or its        it fails; its answer is ignored when it comes (the
    deadline passes                    protocol has no word for telling the peer)
    a handler raises MeshkitError      its code, sentence and details are the answer
    a handler raises anything else     logged; the answer is INTERNAL_ERROR
"""

from __future__ import annotations

from collections import deque
from types import CoroutineType
from typing import Any, Final, TypeVar

import msgspec
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.errors import (
    CallTimedOut,
    FrameTooLarge,
    InvalidAnswer,
    MeshkitError,
    NotReady,
    Overloaded,
    OverRate,
    PeerTooSlow,
    UnknownMethod,
)
from meshkit.identity.addresses import PeerAddress
from meshkit.identity.keys import PublicKey
from meshkit.rpc.codec import (
    ENVELOPE_BYTES,
    MAX_ERROR,
    Message,
    MessageDecoder,
    Notification,
    Request,
    Response,
    decode_error,
    decode_message,
    encode_error,
    encode_notification,
    encode_request,
    encode_result,
    encoded_size,
)
from meshkit.rpc.methods import Dispatcher, Method
from meshkit.rpc.table import CallTable, RPCLimits, ServedTable
from meshkit.runtime.limits import PeerBuckets, check_size

Q = TypeVar("Q", bound=msgspec.Struct)
A = TypeVar("A")

#: Seconds in which a call has to be answered, unless it says otherwise.
CALL_TIMEOUT: Final = 30.0
#: Seconds that a peer may take for the rest of a message, and to read what we sent.
PATIENCE: Final = 30.0
#: Seconds that a close may take.
CLOSE_TIMEOUT: Final = 15.0
#: What is written while one read is handled is collected up to this many bytes.
CORK_BYTES: Final = 64 * 1024

_DEFAULTS: Final = RPCLimits()
_NOTHING_SERVED: Final = Dispatcher()


class _Call:
    """A call of ours that waits."""

    __slots__ = ("deferred", "method", "msgid", "protocol")

    def __init__(self, protocol: RPCProtocol, method: Method[Any, Any]) -> None:
        self.protocol = protocol
        self.method = method
        self.msgid = -1
        self.deferred: Deferred[Any] = Deferred(self._cancelled)

    def _cancelled(self, _: Deferred[Any]) -> None:
        self.protocol._forget(self.msgid)


@implementer(IPushProducer, IHalfCloseableProtocol)
class RPCProtocol(Protocol):
    """
    One connection, over any stream transport.  Both sides may call.

    Who wants it closed calls L{close} or L{abort}; C{transport.loseConnection()} does as
    well, but lets the peer's calls run on until the connection is gone.

    @ivar key: the peer's proven key; L{None} where the transport proves none.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        dispatcher: Dispatcher = _NOTHING_SERVED,
        *,
        limits: RPCLimits = _DEFAULTS,
        buckets: PeerBuckets | None = None,
    ) -> None:
        """
        @param dispatcher: what the peer may call.
        @param buckets: shared by all connections, so that coming again resets nothing;
            L{None} grants any rate.
        """
        self._reactor = reactor
        self._dispatcher = dispatcher
        self._buckets = buckets
        self._limits = limits
        self.key: PublicKey | None = None
        # The transport: a SecureChannel, or any other stream.
        self._stream: Any = None
        self._open = False
        # Why calls fail while it is not open.
        self._reason = Failure(NotReady("the connection to the peer is not made yet"))
        self._broken = False  # by the peer: that is the reason, whatever the transport says
        self._calls: CallTable[_Call] = CallTable(limits)
        # Receiving.
        self._decoder = MessageDecoder(MAX_ERROR + ENVELOPE_BYTES)
        self._reading = False
        self._reading_paused = False
        # Serving.
        self._served: ServedTable[Deferred[Any]] = ServedTable(limits)
        self._held: deque[tuple[int, Request | Notification]] = deque()
        self._held_bytes = 0
        # Sending.
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._blocked = False
        # One timer for the deadlines of calls and for these.
        self._timer: IDelayedCall | None = None
        self._timer_at = 0.0
        self._message_due: float | None = None
        self._drain_due: float | None = None
        self._close_due: float | None = None

    # --- calling -------------------------------------------------------------------------

    def call(
        self, method: Method[Q, A], request: Q, *, timeout: float = CALL_TIMEOUT
    ) -> Deferred[A]:
        """
        Ask the peer.

        @param timeout: seconds until the answer has to be here.
        @return: Deferred of the answer.  It fails with
            L{RemoteError <meshkit.errors.RemoteError>} if the peer refuses (with its
            code), L{CallTimedOut <meshkit.errors.CallTimedOut>},
            L{InvalidAnswer <meshkit.errors.InvalidAnswer>},
            L{Overloaded <meshkit.errors.Overloaded>} if too many calls wait,
            L{FrameTooLarge <meshkit.errors.FrameTooLarge>} if the request is larger than
            the method allows, or with the reason for which the connection ended.
            Cancelling it forgets the call; the peer does not learn of it.
        """
        if not self._open:
            return fail(self._reason)
        deadline = self._reactor.seconds() + timeout
        call = _Call(self, method)
        try:
            call.msgid = self._calls.add(call, deadline)
        except Overloaded as e:
            return fail(e)
        try:
            data = encode_request(call.msgid, method.name, request)
            _check_request(method, request, data)
        except Exception as e:
            # Nothing was sent, so no answer will come.
            self._calls.take(call.msgid)
            return fail(e)
        self._expect(method.max_answer)
        self._wake_at(deadline)
        self._send(data)
        return call.deferred

    def notify(self, method: Method[Q, A], request: Q) -> None:
        """
        Tell the peer something that it does not answer; what it makes of it stays unknown.

        @raise Exception: that with which L{call} would fail at once.
        """
        if not self._open:
            self._reason.raiseException()
        data = encode_notification(method.name, request)
        _check_request(method, request, data)
        self._send(data)

    def _forget(self, msgid: int) -> None:
        """The answer to this call is not wanted any more."""
        try:
            self._calls.forget(msgid)
        except PeerTooSlow as e:
            self._drop(e)

    @property
    def calling(self) -> int:
        """How many calls of ours wait for their answers."""
        return len(self._calls)

    @property
    def serving(self) -> int:
        """How many calls of the peer are worked on, or held."""
        return len(self._served)

    # --- the connection ------------------------------------------------------------------

    @property
    def connected_to(self) -> IAddress:
        """The peer's address, as the transport gives it."""
        address: IAddress = self._stream.getPeer()
        return address

    def connectionMade(self) -> None:
        self._stream = self.transport
        peer = self._stream.getPeer()
        if isinstance(peer, PeerAddress):
            self.key = peer.key
        if ITCPTransport.providedBy(self._stream):
            # Else a second small call would wait for the first one's acknowledgement.
            self._stream.setTcpNoDelay(True)
        self._open = True

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._end(reason)
        if not self._broken:
            self._reason = reason
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # Emptied before anybody is told, who may look, or call again.
        for call in self._calls.clear():
            if not call.deferred.called:  # cancelled by one that was told before
                call.deferred.errback(self._reason)

    def readConnectionLost(self) -> None:
        """The peer said goodbye, and would not answer any more: so do we."""
        self.close()

    def writeConnectionLost(self) -> None:
        """Our half is never closed alone."""

    def close(self) -> None:
        """
        End the connection in good order.  Calls of ours that wait fail when it is closed,
        those of the peer are cancelled.
        """
        if self._open:
            self._flush()
            self._end(Failure(ConnectionDone()))
            self._close_due = self._reactor.seconds() + CLOSE_TIMEOUT
            self._wake_at(self._close_due)
            self._stream.loseConnection()

    def abort(self) -> None:
        """End the connection now, also one that is being closed."""
        self._end(Failure(ConnectionAborted()))
        if self._stream is not None:
            self._stream.abortConnection()

    def _drop(self, error: MeshkitError) -> None:
        """End the connection because of what the peer did, or did not do."""
        if self._open:
            self._log.info(
                "calls with {peer} dropped: {code}: {error}",
                peer=self._name(),
                code=error.code,
                error=str(error),
            )
            self._broken = True
            self._end(Failure(error))
            self._stream.abortConnection()

    def _end(self, reason: Failure) -> None:
        """Nothing is called, answered or begun from now on."""
        if not self._open:
            return
        self._open = False
        self._reason = reason
        self._out.clear()
        self._held.clear()
        self._message_due = self._drain_due = None
        for work in self._served.clear():
            work.cancel()

    def _name(self) -> str:
        return str(self.connected_to if self.key is None else self.key)

    # --- receiving -----------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        if not self._open:
            return
        self._expect(self._dispatcher.largest_request)
        message = None
        if not self._reading and not self._blocked:
            message = self._decoder.whole(data)
        if message is None:
            try:
                self._decoder.feed(data)
            except FrameTooLarge as e:
                self._drop(e)
                return
        self._read(message)

    def _expect(self, size: int) -> None:
        """Messages with so many bytes of params or result are welcome."""
        if size + ENVELOPE_BYTES > self._decoder.limit:
            self._decoder.limit = size + ENVELOPE_BYTES

    def _read(self, message: Message | None = None) -> None:
        """
        Handle the messages that are here, and send what comes of it in one piece.

        @param message: one that was read before.
        """
        if self._reading:
            return
        self._reading = True
        progress = message is not None
        try:
            if message is not None:
                self._handle(message)
            while self._open:
                if self._crowded():
                    self._reading_paused = True
                    self._stream.pauseProducing()
                    break
                data = self._decoder.next_message()
                if data is None:
                    break
                progress = True
                self._handle(decode_message(data))
        except MeshkitError as e:
            self._drop(e)
        finally:
            self._reading = False
            self._flush()
        self._watch(progress)
        self._go_on()

    def _handle(self, message: Message) -> None:
        """@raise MeshkitError: the peer breaks a rule."""
        if isinstance(message, Response):
            self._answered(message)
            return
        msgid = message.msgid if isinstance(message, Request) else None
        key = self._served.admit(msgid)
        if key is None:
            if msgid is not None:
                error = Overloaded(
                    f"{self._limits.served} calls of yours are worked on already: wait for answers"
                )
                self._send(encode_error(msgid, error))
        elif self._blocked:
            self._held.append((key, message))
            self._held_bytes += len(message.params)
        else:
            self._begin(key, message)

    def _answered(self, response: Response) -> None:
        call = self._calls.take(response.msgid)
        if call is None:
            return  # cancelled, or too late
        if response.failed:
            call.deferred.errback(decode_error(response.error))
            return
        try:
            answer = call.method.read_answer(response.result)
        except InvalidAnswer as e:
            call.deferred.errback(e)
        else:
            call.deferred.callback(answer)

    def _crowded(self) -> bool:
        """Has too much come that cannot be answered, as the peer does not read?"""
        return self._blocked and (self._served.full or self._held_bytes > self._limits.held_bytes)

    def _go_on(self) -> None:
        """Begin what was held, and read on where reading had stopped, if that may be."""
        if self._reading:
            return  # who reads does so at the end
        if self._held and not self._blocked:
            self._serve_held()
        if self._reading_paused and self._open and not self._crowded():
            self._reading_paused = False
            self._stream.resumeProducing()
            self._read()

    # --- serving -------------------------------------------------------------------------

    def _begin(self, key: int, message: Request | Notification) -> None:
        """@raise OverRate: the peer does not heed refusals."""
        name = message.method
        served = self._dispatcher.find(name)
        if self._buckets is not None:
            cost = 1.0 if served is None else served.method.cost
            wait = self._buckets.take(self.key, cost, self._reactor.seconds())
            if wait == PeerBuckets.BEYOND:
                raise OverRate("the peer goes on calling although it was told to wait")
            if wait > 0:
                error = OverRate(
                    f"{name!r} was called too often: call again in {wait:.3f} s",
                    retry_after=round(wait, 3),
                )
                self._refuse(key, name, error)
                return
        if served is None:
            self._refuse(key, name, UnknownMethod(f"{name!r} is not served on this connection"))
            return
        try:
            result = served.handler(self, served.method.read_request(message.params))
        except MeshkitError as e:
            self._refuse(key, name, e)
        except Exception:
            self._fail(key, name, Failure())
        else:
            if isinstance(result, CoroutineType):
                result = Deferred.fromCoroutine(result)
            if isinstance(result, Deferred):
                self._served.attach(key, result)
                result.addCallbacks(
                    self._succeed,
                    self._not_handled,
                    callbackArgs=(key, served.method),
                    errbackArgs=(key, name),
                )
                # A mistake of ours would otherwise vanish with the Deferred.
                result.addErrback(self._bug)
            else:
                self._succeed(result, key, served.method)

    def _succeed(self, result: Any, key: int, method: Method[Any, Any]) -> None:
        if not self._served.finish(key):
            return  # the connection ended
        if key >= 0:
            try:
                data = encode_result(key, result)
                if len(data) > method.max_answer:
                    check_size(
                        f"an answer of {method.name!r}", encoded_size(result), method.max_answer
                    )
            except Exception:
                failure = Failure()
                self._log.failure(
                    "the answer of {method} cannot be sent", failure, method=method.name
                )
                data = encode_error(key, _internal_error())
            self._send(data)
        self._go_on()

    def _refuse(self, key: int, name: str, error: MeshkitError) -> None:
        if not self._served.finish(key):
            return
        self._log.debug(
            "call of {method} by {peer} refused: {code}: {error}",
            method=name,
            peer=self._name(),
            code=error.code,
            error=str(error),
        )
        if key >= 0:
            self._send(encode_error(key, error))
        self._go_on()

    def _fail(self, key: int, name: str, failure: Failure) -> None:
        """A handler raised what it should not."""
        self._log.failure("the handler of {method} failed", failure, method=name)
        self._refuse(key, name, _internal_error())

    def _not_handled(self, failure: Failure, key: int, name: str) -> None:
        if isinstance(failure.value, MeshkitError):
            self._refuse(key, name, failure.value)
        elif self._open or not failure.check(CancelledError):
            self._fail(key, name, failure)

    def _bug(self, failure: Failure) -> None:
        self._log.failure("answering {peer} broke", failure, peer=self._name())
        self.abort()

    def _serve_held(self) -> None:
        """Begin what was held, as long as the transport takes the answers."""
        self._reading = True
        try:
            while self._held and not self._blocked:
                key, message = self._held.popleft()
                self._held_bytes -= len(message.params)
                self._begin(key, message)
        except MeshkitError as e:
            self._drop(e)
        finally:
            self._reading = False
            self._flush()

    # --- sending -------------------------------------------------------------------------

    def _send(self, data: bytes) -> None:
        if not self._reading:
            self._write(data)
            return
        self._out.append(data)
        self._out_bytes += len(data)
        if self._out_bytes >= CORK_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._out:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            self._out.clear()
            self._out_bytes = 0
            self._write(data)

    def _write(self, data: bytes) -> None:
        # A producer only while the transport is full: whoever closes it, as a listener or
        # a ClientService does, would else wait for us for ever.
        if not self._blocked:
            self._stream.registerProducer(self, True)
        self._stream.write(data)
        if not self._blocked:
            self._stream.unregisterProducer()

    # IPushProducer: the transport says when it is full.

    def pauseProducing(self) -> None:
        if not self._blocked and self._open:
            self._blocked = True
            self._drain_due = self._reactor.seconds() + PATIENCE
            self._wake_at(self._drain_due)

    def resumeProducing(self) -> None:
        if self._blocked:
            self._blocked = False
            self._drain_due = None
            self._stream.unregisterProducer()
            if self._open:
                self._go_on()

    def stopProducing(self) -> None:
        """The connection is going; C{connectionLost} follows."""

    # --- time ----------------------------------------------------------------------------

    def _watch(self, progress: bool) -> None:
        """
        The clock runs while the peer owes the rest of a message, and we are listening.

        @param progress: a message came to its end: start anew.
        """
        if not self._open or self._reading_paused or not self._decoder.mid_message:
            self._message_due = None
        elif progress or self._message_due is None:
            self._message_due = self._reactor.seconds() + PATIENCE
            self._wake_at(self._message_due)

    def _wake_at(self, when: float) -> None:
        """
        See that L{_wake} is called by then.  It is not called off when there is no need
        any more: setting a timer costs as much as half a call.
        """
        if self._timer is not None:
            if self._timer_at <= when:
                return
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._reactor.callLater(max(0.0, when - self._reactor.seconds()), self._wake)

    def _wake(self) -> None:
        self._timer = None
        now = self._reactor.seconds()
        for msgid, call in self._calls.expired(now):
            try:
                waited = self._calls.forget(msgid)
            except PeerTooSlow as e:
                waited = True
                self._drop(e)
            if waited:
                call.deferred.errback(
                    CallTimedOut(f"the peer did not answer {call.method.name!r} in time")
                )
        if _passed(self._message_due, now):
            self._drop(PeerTooSlow(f"the peer did not end a message within {PATIENCE:.0f} s"))
        if _passed(self._drain_due, now):
            self._drop(PeerTooSlow(f"the peer did not read what it was sent for {PATIENCE:.0f} s"))
        if _passed(self._close_due, now):
            self._close_due = None
            self._stream.abortConnection()
        due = (self._calls.next_deadline(), self._message_due, self._drain_due, self._close_due)
        times = [when for when in due if when is not None]
        if times:
            self._wake_at(min(times))

    def __repr__(self) -> str:
        state = "open" if self._open else "closed"
        who = "" if self._stream is None else f" with {self._name()}"
        return f"<{type(self).__name__} {state}{who}>"


class RPCFactory(Factory):
    """Builds a L{RPCProtocol} for each connection, all with the same arguments."""

    noisy = False
    protocol: type[RPCProtocol] = RPCProtocol

    def __init__(
        self,
        reactor: IReactorTime,
        dispatcher: Dispatcher = _NOTHING_SERVED,
        *,
        limits: RPCLimits = _DEFAULTS,
        buckets: PeerBuckets | None = None,
    ) -> None:
        """See L{RPCProtocol}."""
        self._reactor = reactor
        self._dispatcher = dispatcher
        self._limits = limits
        self._buckets = buckets

    def buildProtocol(self, addr: IAddress | None) -> RPCProtocol:
        protocol = self.protocol(
            self._reactor, self._dispatcher, limits=self._limits, buckets=self._buckets
        )
        protocol.factory = self
        return protocol


def _check_request(method: Method[Any, Any], request: Any, data: bytes) -> None:
    # The message is larger than its params: mostly there is no need to weigh them.
    if len(data) > method.max_request:
        check_size(f"a request of {method.name!r}", encoded_size(request), method.max_request)


def _internal_error() -> MeshkitError:
    return MeshkitError("the peer failed to answer the call: its log has the details")


def _passed(due: float | None, now: float) -> bool:
    return due is not None and due <= now
