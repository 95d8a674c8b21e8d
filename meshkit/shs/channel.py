"""
The secure channel: a Twisted protocol below, a Twisted transport above.

L{SecureChannel} sits on any stream transport, runs the Secret Handshake on it, and
only then asks for the application's protocol, whose transport it becomes.  The
application's protocol needs no change and no knowledge of it.

B{Closing.}  The two directions end one by one, each with a I{goodbye}, an encrypted
end mark that nobody else can make.  C{H} stands for an application protocol that
provides L{IHalfCloseableProtocol}, C{P} for any other::

    what happens                  what follows
    ----------------------------  ------------------------------------------------------
    app: loseWriteConnection()    when the producer has unregistered: goodbye is sent;
                                  H gets writeConnectionLost(); reading goes on
    peer's goodbye arrives        H gets readConnectionLost() and may go on writing;
                                  P's producer is stopped, what P has written is sent,
                                  then as if P had called loseConnection()
    both goodbyes are through     connectionLost(ConnectionDone)
    app: loseConnection()         nothing is delivered any more; when the producer has
                                  unregistered: goodbye; the peer's goodbye is waited
                                  for; connectionLost(ConnectionDone)
    ... and the peer is silent    after CLOSE_TIMEOUT without progress: abort,
                                  connectionLost(PeerTooSlow)
    app: abortConnection()        nothing is sent or delivered any more;
                                  connectionLost(ConnectionAborted)
    the connection ends without   connectionLost(TruncatedStream), never ConnectionDone:
    the peer's goodbye            somebody may have cut it
    ... after the peer's goodbye  what the transport beneath reports; ConnectionLost if
                                  our goodbye was not sent
    a box does not open           abort; connectionLost(TamperedStream)
    the app's protocol raises     logged; abort; connectionLost(that exception)

C{connectionLost} is called exactly once, is the last call, and never comes from
within a call that the application made.

B{Flow.}  Nothing that is sent waits here: it is encrypted and handed down at once, or
at the end of the C{dataReceived} it was written in, or of the C{resumeProducing} of the
producer that wrote it, so that many small pieces share a box; L{CORK_BYTES} of them never
wait.  The marks at which a producer is paused and resumed are therefore those of the
transport beneath; for TCP it is paused above 65,536 bytes and resumed when all are
written.  What is written without a producer, or by one that does not heed its pause,
piles up beneath without a limit, as it does with TCP.  On the receiving side at most one
read of the transport beneath waits, still encrypted, while the application has paused.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final, Protocol

from attrs import define, field
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.error import ConnectionLost as ConnectionLostError
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IDelayedCall,
    IHalfCloseableProtocol,
    ILoggingContext,
    IProtocol,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
    ITransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.errors import (
    HandshakeError,
    MeshkitError,
    PeerNotAllowed,
    PeerTooSlow,
    ProtocolRefused,
    StreamError,
    TruncatedStream,
)
from meshkit.identity.addresses import LocalAddress, PeerAddress
from meshkit.identity.keys import PublicKey
from meshkit.shs.boxstream import Opener, Sealer
from meshkit.shs.handshake import Outcome
from meshkit.shs.hellos import Capability
from meshkit.shs.suites import Session
from meshkit.shs.turns import Turns
from meshkit.shs.unsent import Unsent

#: Seconds for the whole handshake, from the first byte to the last.
HANDSHAKE_TIMEOUT: Final = 10.0

#: Seconds in which C{authorize} has to decide.
AUTHORIZE_TIMEOUT: Final = 2.0

#: Seconds that a closing connection may go without progress.
CLOSE_TIMEOUT: Final = 15.0

#: What is written within one C{dataReceived}, or one C{resumeProducing} of a producer, is
#: collected up to this many bytes.
CORK_BYTES: Final = 64 * 1024

#: Bytes of a handshake that wait for their turn at which the transport beneath is paused.
#: An honest peer sends far less before it is answered.
MAX_EARLY: Final = 4 * 1024

#: A transport beneath that goes on delivering although it is paused is cut off here.
MAX_UNREAD: Final = 1024 * 1024


class ISecureTransport(ITransport, IConsumer, IPushProducer):
    """
    The transport that an application's protocol gets.

    C{getPeer()} is a L{PeerAddress} with the peer's proven key, C{getHost()} a
    L{LocalAddress} with our key and the label of the protocol that was chosen.
    """

    def loseWriteConnection() -> None:
        """End our direction; go on reading.  See the table of the module."""

    def abortConnection() -> None:
        """Drop everything and close at once."""


@define
class Traffic:
    """
    What some channels did together, for those who watch.

    @ivar opened: channels whose peers proved their keys and were given a protocol.
    @ivar received: bytes that came from the transports beneath.
    @ivar sent: bytes that were handed down to them.
    @ivar live: those of the channels that are not gone yet, oldest first, with the second of
        their reactor's clock at which they were opened.
    """

    opened: int = 0
    received: int = 0
    sent: int = 0
    live: dict[SecureChannel, float] = field(factory=dict, repr=False)


class ChannelOwner(Protocol):
    """Who made a channel: it decides and is told."""

    def authorize(self, channel: SecureChannel, peer: PublicKey) -> Any:
        """
        Server only: the peer has proved its key; may it use C{channel.capability}?

        @return: C{True} admits; C{bool} or a Deferred of it.
        """

    def build_protocol(self, channel: SecureChannel, address: PeerAddress) -> IProtocol | None:
        """The handshake succeeded.  @return: L{None} closes the connection."""

    def channel_opened(self, channel: SecureChannel, protocol: IProtocol) -> None:
        """The protocol is connected; nothing was delivered to it yet."""

    def channel_failed(self, channel: SecureChannel, reason: Failure) -> None:
        """
        There will be no protocol.  Called once, instead of C{channel_opened}; neither is
        called for a handshake that was never to lead to one, such as the key probe.
        """

    def channel_lost(self, channel: SecureChannel) -> None:
        """The connection beneath is gone.  Called once, the last call."""


class _Phase(Enum):
    """
    In order.  From each, loss of the connection beneath leads to GONE, and an error
    or C{abortConnection} to DYING.
    """

    NEW = auto()  # no transport yet
    SHAKING = auto()
    ASKING = auto()  # server: C{authorize} decides; nothing is read
    OPEN = auto()
    DYING = auto()  # aborted; waiting for connectionLost from below
    GONE = auto()


@implementer(IPushProducer)
class _Outflow:
    """
    What the transport beneath pauses and resumes on behalf of the app's producer.

    Transports may repeat themselves; the application's producer never sees two pauses
    in a row, nor a resume without a pause.

    @ivar blocked: the transport beneath has enough for now.
    """

    __slots__ = ("_channel", "blocked", "producer", "streaming")

    def __init__(self, channel: SecureChannel) -> None:
        self._channel = channel
        self.producer: Any = None
        self.streaming = True
        self.blocked = False

    def pauseProducing(self) -> None:
        if self.blocked:
            return
        self.blocked = True
        if self.producer is not None and self.streaming:
            self.producer.pauseProducing()
        self._channel._outflow_changed()

    def resumeProducing(self) -> None:
        was_blocked, self.blocked = self.blocked, False
        if self.producer is not None and (was_blocked or not self.streaming):
            self._channel._gather(self.producer.resumeProducing)
        self._channel._outflow_changed()

    def stopProducing(self) -> None:
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()


@implementer(ISecureTransport, IProtocol, IHalfCloseableProtocol, ILoggingContext)
class SecureChannel:
    """
    One secure connection.  Made by the endpoints and the listener of this package.

    The transport beneath has to be a stream transport that provides L{IConsumer} and
    L{IPushProducer}, as those of Twisted do.  None of its attributes are passed on:
    writing past the encryption must not be possible by accident.

    @ivar disconnecting: C{loseConnection} was called, or the connection is going down;
        some of Twisted's protocols stop parsing when this is set.
    """

    # Thousands of them may be idle: a dict of so many names takes 1.5 KiB.
    __slots__ = (
        "_answered",
        "_app",
        "_boxer",
        "_capability",
        "_closing",
        "_corked",
        "_corked_bytes",
        "_deadline",
        "_early",
        "_gathering",
        "_goodbye_sent",
        "_handshake",
        "_host",
        "_inner_peer",
        "_opened",
        "_outflow",
        "_owner",
        "_paused",
        "_peer",
        "_phase",
        "_pumping",
        "_raw",
        "_raw_ended",
        "_raw_paused",
        "_reactor",
        "_read_ended",
        "_reason",
        "_tell_write_lost",
        "_timeout",
        "_traffic",
        "_turn_call",
        "_turns",
        "_unboxer",
        "_unsent",
        "_verdict",
        "_write_closing",
    )

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        handshake: Session,
        owner: ChannelOwner,
        *,
        timeout: float = HANDSHAKE_TIMEOUT,
        turns: Turns | None = None,
        traffic: Traffic | None = None,
        unsent: Unsent[SecureChannel, PublicKey] | None = None,
    ) -> None:
        """
        @param timeout: seconds for the whole handshake.
        @param turns: where to wait before each message of the peer's is answered.
        @param traffic: counts what this does, beside others.
        @param unsent: counts what is written while the peer does not read, beside others.
        """
        self._traffic = traffic
        self._unsent = unsent
        self._turns = turns
        self._reactor = reactor
        self._handshake = handshake
        self._owner = owner
        self._timeout = timeout
        self._phase = _Phase.NEW
        self._opened = False
        #: The handshake ended with a last word and leads to no stream.
        self._answered = False
        self._raw: Any = None
        self._capability: Capability | None = handshake.capability
        self._inner_peer: IAddress | None = None
        self._host: LocalAddress | None = None
        self._peer: PeerAddress | None = None
        self._app: IProtocol | None = None
        #: The first reason why this ends; later ones do not replace it.
        self._reason: Failure | None = None
        self._deadline: IDelayedCall | None = None
        self._turn_call: IDelayedCall | None = None
        self._verdict: Deferred[Any] | None = None
        # Receiving.
        self._unboxer: Opener | None = None
        # What came while a message waited for its turn, or behind message 3 while we decide.
        self._early = bytearray()
        self._paused = False  # by the application
        self._raw_paused = False
        self._raw_ended = False
        self._read_ended = False
        self._pumping = False
        # Sending.
        self._boxer: Sealer | None = None
        self._outflow = _Outflow(self)
        self._gathering = False
        self._corked: list[bytes] = []
        self._corked_bytes = 0
        self._closing = False
        self._write_closing = False
        self._goodbye_sent = False
        self._tell_write_lost = False

    # --- what the owner sees ---

    @property
    def capability(self) -> Capability | None:
        """The protocol that was chosen; L{None} before a hello has matched."""
        return self._capability

    @property
    def inner_peer(self) -> IAddress:
        """The peer's address beneath, also after the connection is gone."""
        if self._inner_peer is None:
            raise RuntimeError("the channel was never connected")
        return self._inner_peer

    def refuse(self, error: HandshakeError) -> None:
        """Give up a handshake that is under way; later than that, nothing happens."""
        if self._phase in (_Phase.SHAKING, _Phase.ASKING):
            self._die(Failure(error))

    def give_up(self, error: MeshkitError) -> None:
        """Cut a connection off because of what its peer did, or did not do."""
        self._die(Failure(error))

    # --- IProtocol: called by the transport beneath ---

    def makeConnection(self, transport: ITransport) -> None:
        self._raw = transport
        self._inner_peer = transport.getPeer()
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
            transport.setTcpKeepAlive(True)
        self._phase = _Phase.SHAKING
        self._deadline = self._reactor.callLater(self._timeout, self._handshake_timed_out)
        self.connectionMade()

    def connectionMade(self) -> None:
        """The connection beneath is up: start the handshake."""
        hello = self._handshake.start()
        if hello:
            self._hand_down(hello)

    def _hand_down(self, data: bytes) -> None:
        if self._traffic is not None:
            self._traffic.sent += len(data)
        self._raw.write(data)
        if self._outflow.blocked and self._unsent is not None and self._peer is not None:
            # It may cut this channel, or another.
            self._unsent.add(self, self._peer.key, len(data))

    def dataReceived(self, data: bytes) -> None:
        if self._traffic is not None:
            self._traffic.received += len(data)
        if self._phase is _Phase.SHAKING:
            if self._turns is None:
                self._shake(data)
            else:
                self._shake_in_turn(self._turns, data)
        elif self._phase is _Phase.ASKING:
            self._early += data
            self._check_unread(len(self._early))
        elif self._unboxer is not None and not self._read_ended:
            unboxer = self._unboxer
            unboxer.feed(data)
            self._pump()
            if self._raw_paused:
                self._check_unread(unboxer.pending)

    def readConnectionLost(self) -> None:
        """The transport beneath has read its end; its other direction is still open."""
        if self._phase is _Phase.SHAKING and self._early:
            self._shake_now()  # what it said before it left
        if self._phase in (_Phase.SHAKING, _Phase.ASKING):
            self._die(Failure(self._handshake.lost()))
        elif self._phase is _Phase.OPEN:
            self._raw_ended = True
            self._pump()

    def writeConnectionLost(self) -> None:
        """Nothing to do: we never half-close the transport beneath."""

    def connectionLost(self, reason: Failure) -> None:
        if self._phase is _Phase.GONE:
            return
        final = self._final_reason(reason)
        self._phase = _Phase.GONE
        self._release()
        self._raw = None
        app, self._app = self._app, None
        if not self._opened and not self._answered:
            self._owner.channel_failed(self, final)
        if self._traffic is not None:
            self._traffic.live.pop(self, None)
        self._owner.channel_lost(self)
        if app is not None:
            app.connectionLost(final)

    def logPrefix(self) -> str:
        return "SecureChannel"

    # --- the handshake ---

    def _shake_in_turn(self, turns: Turns, data: bytes) -> None:
        self._early += data
        if len(self._early) > MAX_EARLY and not self._raw_paused:
            self._raw_paused = True
            self._raw.pauseProducing()
        turns.enter(self._shake_now)

    def _shake_now(self) -> None:
        data = bytes(self._early)
        self._early.clear()
        self._shake(data)
        if self._phase is _Phase.SHAKING and self._raw_paused:
            self._raw_paused = False
            self._raw.resumeProducing()

    def _shake(self, data: bytes) -> None:
        if self._answered:
            return  # the transport beneath is closing
        try:
            step = self._handshake.receive(data)
        except HandshakeError as error:
            self._capability = self._handshake.capability
            self._die(Failure(error))
            return
        self._capability = self._handshake.capability
        if step.send:
            self._hand_down(step.send)
        if step.finished:
            # The deadline stays: it cuts off a peer that does not take the last word.
            self._answered = True
            self._raw.loseConnection()
        elif step.outcome is not None:
            self._open(step.outcome, step.rest)
        elif step.peer is not None:
            self._ask(step.peer, step.rest)

    def _ask(self, peer: PublicKey, rest: bytes) -> None:
        self._phase = _Phase.ASKING
        self._early += rest
        verdict = maybeDeferred(self._owner.authorize, self, peer)
        self._verdict = verdict
        if verdict.paused or not verdict.called:  # most owners know at once
            verdict.addTimeout(AUTHORIZE_TIMEOUT, self._reactor)
        verdict.addCallbacks(self._judged, self._not_judged, callbackArgs=(peer,))
        # A mistake of ours in the callbacks would otherwise vanish with the Deferred.
        verdict.addErrback(self._bug, "while opening a channel")
        self._steer()

    def _judged(self, verdict: object, peer: PublicKey) -> None:
        if self._phase is not _Phase.ASKING:
            return
        self._verdict = None
        # Only True admits: anything else that happens to be truthy is a mistake.
        if verdict is not True:
            self._die(Failure(PeerNotAllowed(self._not_served(f"is not open to {peer.text}"))))
            return
        answer, outcome = self._handshake.accept()
        self._hand_down(answer)
        self._open(outcome, bytes(self._early))

    def _not_judged(self, failure: Failure) -> None:
        if self._phase is not _Phase.ASKING:
            return  # we cancelled it because the connection went away
        self._verdict = None
        if failure.check(DeferredTimeout):
            error = PeerNotAllowed(
                self._not_served(f"took more than {AUTHORIZE_TIMEOUT:g} s to decide about a peer")
            )
        else:
            self._log.failure("authorize() failed for {name}", failure, name=self._name())
            error = PeerNotAllowed(self._not_served("failed to decide about a peer: see the log"))
        self._die(Failure(error))

    def _bug(self, failure: Failure, when: str) -> None:
        self._log.failure("bug {when}", failure, when=when)
        self._die(failure)

    def _name(self) -> str:
        return "?" if self._capability is None else self._capability.name

    def _not_served(self, why: str) -> str:
        return f"the protocol {self._name()} {why}"

    def _handshake_timed_out(self) -> None:
        self._deadline = None
        self._die(Failure(self._handshake.timed_out(self._timeout)))

    def _open(self, outcome: Outcome, rest: bytes) -> None:
        self._early.clear()
        self._cancel_deadline()
        self._phase = _Phase.OPEN
        self._opened = True
        self._boxer = outcome.stream.sealer(outcome.encrypt_key, outcome.encrypt_nonce)
        self._unboxer = outcome.stream.opener(outcome.decrypt_key, outcome.decrypt_nonce)
        self._peer = PeerAddress(outcome.peer, self.inner_peer)
        self._host = LocalAddress(
            self._handshake.identity.public, outcome.capability.label, self._raw.getHost()
        )
        # It has served, and what it holds is not small: nothing asks it from here on.
        del self._handshake
        self._unboxer.feed(rest)
        # Always registered, so that a closing channel knows whether the peer still reads.
        self._raw.registerProducer(self._outflow, True)
        try:
            app = self._owner.build_protocol(self, self._peer)
        except Exception:
            # The application's mistake is its owner's to report, the peer's to survive.
            self._owner.channel_failed(self, Failure())
            self.loseConnection()
            return
        if self._reason is not None:
            # Whoever dialled gave up while it was built: it is not told of a connection
            # that is gone already.
            self._owner.channel_failed(self, self._reason)
            return
        if app is None:
            error = ProtocolRefused(
                f"the handshake with {outcome.peer.text} succeeded, but the local factory for "
                f"{outcome.capability.name} declined the connection"
            )
            self._owner.channel_failed(self, Failure(error))
            self.loseConnection()
            return
        self._app = app
        if self._traffic is not None:
            # Before it is connected, as it may be gone at once.
            self._traffic.live[self] = self._reactor.seconds()
        mistake = self._call_app(lambda: app.makeConnection(self))
        if mistake is None:
            if self._traffic is not None:
                self._traffic.opened += 1
            self._owner.channel_opened(self, app)
        else:
            self._owner.channel_failed(self, mistake)
        self._pump()

    # --- receiving ---

    def _pump(self) -> None:
        """Deliver what is here and may be delivered."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while self._phase is _Phase.OPEN and not self._read_ended:
                if self._paused and not self._closing:
                    break
                if not self._receive_once():
                    break
        finally:
            self._pumping = False
        self._flush()
        self._steer()

    def _receive_once(self) -> bool:
        """@return: is there anything more to be had?"""
        unboxer = self._unboxer
        if unboxer is None:
            return False
        try:
            data = unboxer.read()
        except StreamError as error:
            self._die(Failure(error))
            return False
        if data:
            app = self._app
            if app is not None and not self._closing:
                self._call_app(lambda: app.dataReceived(data))
            return True
        if unboxer.ended:
            self._goodbye_received()
        elif self._raw_ended:
            self._die(Failure(self._truncated(None)))
        return False

    def _goodbye_received(self) -> None:
        self._read_ended = True
        if not self._closing:
            half = IHalfCloseableProtocol(self._app, None)
            if half is None:
                # It does not know that a stream can end in one direction.  As with TCP,
                # this is the end of the connection: twisted.web's server, for one, has a
                # producer registered until then.
                self._stop_producer()
                self.loseConnection()
            else:
                self._call_app(half.readConnectionLost)
        self._finish_if_done()

    def _stop_producer(self) -> None:
        producer = self._outflow.producer
        if producer is not None:
            self.unregisterProducer()
            self._call_app(producer.stopProducing)

    def _call_app(self, call: Callable[[], None]) -> Failure | None:
        """
        Call the application; what it writes meanwhile is collected.

        @return: the exception it raised, which ends this connection and no other.
        """
        failure: Failure | None = None
        pumping, self._pumping = self._pumping, True
        try:
            call()
        except Exception:
            failure = Failure()
            self._log.failure(
                "the protocol {name} raised an exception; its connection is closed",
                failure,
                name=self._name(),
            )
            self._die(failure)
        finally:
            self._pumping = pumping
        if not pumping:
            self._flush()
        return failure

    def _steer(self) -> None:
        """Pause or resume the transport beneath, if that changes anything."""
        if self._phase not in (_Phase.ASKING, _Phase.OPEN):
            return
        pause = self._phase is _Phase.ASKING or (
            self._paused and not self._closing and not self._read_ended
        )
        if pause is not self._raw_paused:
            self._raw_paused = pause
            if pause:
                self._raw.pauseProducing()
            else:
                self._raw.resumeProducing()

    def _check_unread(self, size: int) -> None:
        if size > MAX_UNREAD:
            self._die(
                Failure(
                    StreamError(
                        f"more than {MAX_UNREAD} bytes arrived while reading was paused: the "
                        f"transport beneath does not honour pauseProducing()"
                    )
                )
            )

    def _schedule_turn(self) -> None:
        """Go on in a later turn: what the application calls never calls it back."""
        if self._turn_call is None:
            self._turn_call = self._reactor.callLater(0, self._turn)

    def _turn(self) -> None:
        self._turn_call = None
        if self._tell_write_lost:
            self._tell_write_lost = False
            half = IHalfCloseableProtocol(self._app, None)
            if half is not None and not self._closing:
                self._call_app(half.writeConnectionLost)
        if self._phase is _Phase.OPEN:
            self._pump()
            self._finish_if_done()

    # --- IPushProducer: called by the application ---

    def pauseProducing(self) -> None:
        """Deliver nothing more until L{resumeProducing}, not even what is here already."""
        self._paused = True
        self._steer()

    def resumeProducing(self) -> None:
        """Deliver what is here, in a later turn, and then read on."""
        if self._paused:
            self._paused = False
            if self._phase is _Phase.OPEN:
                self._schedule_turn()

    def stopProducing(self) -> None:
        """The consumer of what we receive is gone.  As for TCP: L{loseConnection}."""
        self.loseConnection()

    # --- ITransport and IConsumer: called by the application ---

    def write(self, data: bytes) -> None:
        """Send bytes.  After the goodbye they are dropped, as TCP does after a close."""
        if not isinstance(data, bytes):
            raise TypeError(f"data must be bytes, not {type(data).__name__}")
        if self._phase is not _Phase.OPEN or self._goodbye_sent or not data:
            return
        self._corked.append(data)
        self._corked_bytes += len(data)
        if self._corked_bytes >= CORK_BYTES or not (self._pumping or self._gathering):
            self._flush()

    def writeSequence(self, data: Any) -> None:
        """Send many pieces of bytes as one."""
        self.write(b"".join(data))

    def _gather(self, produce: Callable[[], object]) -> None:
        """
        Let a producer write.  If it writes many small pieces, they fill boxes together;
        what it raises is the business of the transport beneath, as it is without us.
        """
        gathering, self._gathering = self._gathering, True
        try:
            produce()
        finally:
            self._gathering = gathering
            if not (gathering or self._pumping):
                self._flush()

    def _flush(self) -> None:
        if not self._corked or self._boxer is None:
            return
        data = self._corked[0] if len(self._corked) == 1 else b"".join(self._corked)
        self._corked.clear()
        self._corked_bytes = 0
        if len(data) <= CORK_BYTES:
            self._hand_down(self._boxer.box(data))
            return
        # The memory of small pieces is used again and again; that of a megabyte is given back
        # to the system each time, and to get it anew takes as long as to encrypt.
        for start in range(0, len(data), CORK_BYTES):
            if self._boxer is None:
                return  # cut off on the way, as the peer leaves too much unread
            self._hand_down(self._boxer.box(data[start : start + CORK_BYTES]))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """
        @param streaming: true for an L{IPushProducer}, which is paused and resumed;
            false for an L{IPullProducer}, which is asked for more whenever the
            transport beneath has written everything.
        @raise RuntimeError: if there is one already.
        """
        if self._outflow.producer is not None:
            raise RuntimeError(
                f"cannot register producer {producer!r}: {self._outflow.producer!r} was never "
                f"unregistered"
            )
        if self._phase is not _Phase.OPEN or self._goodbye_sent:
            producer.stopProducing()
            return
        self._outflow.producer = producer
        self._outflow.streaming = streaming
        if streaming:
            if self._outflow.blocked:
                producer.pauseProducing()
        else:
            self._outflow.blocked = False
            self._raw.unregisterProducer()
            self._raw.registerProducer(self._outflow, False)

    def unregisterProducer(self) -> None:
        """The producer is finished.  A close that waited for it goes on."""
        outflow = self._outflow
        pulled = outflow.producer is not None and not outflow.streaming
        outflow.producer = None
        outflow.streaming = True
        if self._phase is not _Phase.OPEN:
            return
        if pulled:
            self._raw.unregisterProducer()
            self._raw.registerProducer(outflow, True)
        self._end_writing()

    def loseWriteConnection(self) -> None:
        """End our direction after all that was written; go on reading."""
        if self._phase is _Phase.OPEN and not self._closing and not self._write_closing:
            self._write_closing = True
            self._tell_write_lost = True
            self._end_writing()

    def loseConnection(self) -> None:
        """
        Close after all that was written.  While a producer is registered, that waits
        until it has unregistered; unread data is discarded.
        """
        if self._closing:
            return
        if self._phase in (_Phase.SHAKING, _Phase.ASKING):
            self.abortConnection()
        elif self._phase is _Phase.OPEN:
            self._closing = True
            self._end_writing()
            self._outflow_changed()
            # The peer's goodbye may wait behind data that a paused application left.
            self._schedule_turn()

    def abortConnection(self) -> None:
        """Close at once.  What was written but not sent is dropped."""
        self._die(None)

    @property
    def disconnecting(self) -> bool:
        return self._closing or self._phase in (_Phase.DYING, _Phase.GONE)

    def getPeer(self) -> IAddress:
        """@return: L{PeerAddress}; the transport beneath's before the handshake is over."""
        return self._peer or self.inner_peer

    def getHost(self) -> IAddress:
        """@return: L{LocalAddress}; the transport beneath's before the handshake is over."""
        if self._host is None:
            address: IAddress = self._raw.getHost()
            return address
        return self._host

    def getTcpNoDelay(self) -> bool:
        """Is Nagle's algorithm off beneath?  False where there is no TCP."""
        return bool(self._is_tcp() and self._raw.getTcpNoDelay())

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Passed on to TCP.  It is on from the start; other transports ignore it."""
        if self._is_tcp():
            self._raw.setTcpNoDelay(enabled)

    def getTcpKeepAlive(self) -> bool:
        """Does the TCP connection beneath send keep-alives?  False where there is none."""
        return bool(self._is_tcp() and self._raw.getTcpKeepAlive())

    def setTcpKeepAlive(self, enabled: bool) -> None:
        """Passed on to TCP.  It is on from the start; other transports ignore it."""
        if self._is_tcp():
            self._raw.setTcpKeepAlive(enabled)

    def _is_tcp(self) -> bool:
        return self._raw is not None and ITCPTransport.providedBy(self._raw)

    # --- closing ---

    def _end_writing(self) -> None:
        """Say goodbye, if we are to and the producer is finished."""
        if not (self._closing or self._write_closing) or self._goodbye_sent:
            return
        if self._outflow.producer is not None or self._boxer is None:
            return
        self._flush()
        self._say_goodbye()

    def _say_goodbye(self) -> None:
        if self._boxer is None:
            return  # cut off by what was flushed
        self._goodbye_sent = True
        self._hand_down(self._boxer.goodbye())
        if self._phase is not _Phase.OPEN:
            return
        # Also tells H of it, and ends the connection if the peer was first.
        self._schedule_turn()
        self._outflow_changed()

    def _outflow_changed(self) -> None:
        """
        Start the deadline of a close anew: something moved, or we began to wait.

        It runs while the peer is what the close is waiting for, not while that is a
        producer of our own.
        """
        outflow = self._outflow
        if self._unsent is not None and not outflow.blocked:
            self._unsent.forget(self)
        if self._phase is not _Phase.OPEN or not self._closing:
            return
        self._cancel_deadline()
        if self._goodbye_sent or outflow.blocked or not outflow.streaming:
            self._deadline = self._reactor.callLater(CLOSE_TIMEOUT, self._close_timed_out)

    def _finish_if_done(self) -> None:
        """Both goodbyes are through: let go of the transport beneath."""
        if self._phase is _Phase.OPEN and self._goodbye_sent and self._read_ended:
            if not self._closing:
                self._closing = True
                self._outflow_changed()
            # It sends what it still has; while a producer is registered it would not close.
            self._raw.unregisterProducer()
            self._raw.loseConnection()

    def _close_timed_out(self) -> None:
        self._deadline = None
        self._die(
            Failure(
                PeerTooSlow(
                    f"the connection was cut: the peer neither took the rest of the data nor "
                    f"closed its side within {CLOSE_TIMEOUT:g} s"
                )
            )
        )

    def _die(self, reason: Failure | None) -> None:
        """
        Close at once; C{connectionLost} follows from below.

        @param reason: L{None} if that is what the application wanted.
        """
        if self._phase in (_Phase.NEW, _Phase.DYING, _Phase.GONE):
            return
        self._reason = reason or Failure(ConnectionAborted())
        if reason is not None and reason.check(MeshkitError) and self._opened:
            self._log.info(
                "channel {name} with {peer} broken: {error}",
                name=self._name(),
                peer=self._peer.key.text if self._peer else None,
                error=str(reason.value),
            )
        self._phase = _Phase.DYING
        raw = self._raw
        self._release()
        abort = getattr(raw, "abortConnection", None)
        if abort is not None:
            abort()
        else:
            raw.unregisterProducer()
            raw.loseConnection()

    def _release(self) -> None:
        """Stop everything that could act later, and forget keys and data."""
        self._cancel_deadline()
        if self._turns is not None:
            self._turns.leave(self._shake_now)
            self._turns = None
        if self._turn_call is not None:
            self._turn_call.cancel()
            self._turn_call = None
        verdict, self._verdict = self._verdict, None
        if verdict is not None:
            verdict.cancel()
        self._corked.clear()
        self._corked_bytes = 0
        self._early.clear()
        if self._unsent is not None:
            self._unsent.forget(self)
            self._unsent = None
        self._boxer = None
        self._unboxer = None
        if self._phase is _Phase.GONE:
            self._outflow.stopProducing()

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _truncated(self, reason: Failure | None) -> TruncatedStream:
        cause = "" if reason is None else f" ({reason.getErrorMessage()})"
        return TruncatedStream(
            f"the connection ended without the peer's goodbye{cause}: what was received may be "
            f"incomplete, ask again"
        )

    def _final_reason(self, reason: Failure) -> Failure:
        if self._reason is not None:
            return self._reason
        if not self._opened:
            return Failure(self._handshake.lost())
        if not self._read_ended:
            return Failure(self._truncated(reason))
        if not self._goodbye_sent and reason.check(ConnectionDone):
            return Failure(ConnectionLostError("the peer is gone; our data may not have arrived"))
        return reason

    def __repr__(self) -> str:
        who = "" if self._peer is None else f" with {self._peer.key.short}"
        return f"<SecureChannel {self._name()} {self._phase.name}{who}>"
