"""
The two ends of a circuit: a stream to somebody behind a relay, as an endpoint.

The asker's end names whom it wants, the hidden peer's end names the circuit it was told of; from
then on both are the same.  Inside runs whatever the two agree on, which is the secret handshake to
the peer's own key: the relay sees no more than how much goes to and fro.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Final

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
    ITransport,
)
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.errors import CallTimedOut, MalformedFrame, ProtocolRefused, StreamError
from meshkit.identity.keys import PublicKey
from meshkit.relay.tunnel.limits import JOIN_SECONDS, OPENING_SECONDS
from meshkit.relay.tunnel.wire import (
    Answer,
    FrameReader,
    Join,
    Open,
    decode_answer,
    encode_frame,
    refused,
)
from meshkit.shs.channel import ISecureTransport

#: Seconds that a relay has to answer: it waits for the other side meanwhile.
ANSWER_SECONDS: Final = JOIN_SECONDS + OPENING_SECONDS


@implementer(IAddress)
@frozen
class TunnelAddress:
    """
    Where a circuit leads, as C{transport.getPeer()} gives it.

    @cvar transport: see L{meshkit.identity.addresses.transport_of}.
    @ivar relay: through whom.
    @ivar target: to whom, for who has asked; L{None} for who was asked for: a relay cannot know
        who is there, and the handshake inside says so.
    """

    transport: ClassVar[str] = "relay"

    relay: PublicKey
    target: PublicKey | None = None

    def __str__(self) -> str:
        # The same for all circuits of one relay: so they share one limit of handshakes.
        return f"the relay {self.relay.text}"


@implementer(ISecureTransport, IProtocol, IHalfCloseableProtocol)
class CircuitEnd:
    """
    A protocol for the connection to the relay, and the transport of what runs inside.

    The connection to the relay is a secure channel of its own, whose flow control and ends are
    those of the circuit (L{meshkit.shs.channel}).  If it ends without the goodbye, as it does when
    the relay resets the circuit, C{connectionLost} is called with a
    L{TruncatedStream <meshkit.errors.TruncatedStream>}.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        opening: Open | Join,
        address: TunnelAddress,
        factory: IProtocolFactory,
        *,
        opened: Callable[[IProtocol], None],
        failed: Callable[[Failure], None],
        gone: Callable[[], None],
    ) -> None:
        """
        @param opened: called with the protocol that runs inside, when it is connected.
        @param failed: called instead, if there is no circuit.
        @param gone: called last, when the connection is gone.
        """
        self._reactor = reactor
        self._opening = opening
        self._address = address
        self._factory = factory
        self._opened = opened
        self._failed = failed
        self._gone = gone
        # A SecureChannel, or another stream with as much.
        self._raw: Any = None
        self._app: IProtocol | None = None
        self._reader: FrameReader | None = FrameReader()
        self._deadline: IDelayedCall | None = None
        # Somebody knows whether there is a circuit.
        self._told = False
        self._paused = False
        # What came with the relay's answer and was not delivered yet.
        self._early = b""
        self._early_call: IDelayedCall | None = None

    # --- IProtocol: called by the connection to the relay ---

    def makeConnection(self, transport: ITransport) -> None:
        self._raw = transport
        self.connectionMade()

    def connectionMade(self) -> None:
        self._deadline = self._reactor.callLater(ANSWER_SECONDS, self._timed_out)
        self._raw.write(encode_frame(self._opening))

    def dataReceived(self, data: bytes) -> None:
        if self._app is not None:
            self._app.dataReceived(data)
        elif self._reader is not None:
            try:
                found = self._reader.feed(data)
                if found is not None:
                    self._answered(decode_answer(found[0]), found[1])
            except StreamError as error:
                self._give_up(Failure(error))

    def readConnectionLost(self) -> None:
        if self._app is None:
            self._give_up(Failure(MalformedFrame("the relay ended a circuit without an answer")))
            return
        half = IHalfCloseableProtocol(self._app, None)
        if half is None:
            # It does not know that a stream can end in one direction: this is its end.
            self.loseConnection()
        else:
            half.readConnectionLost()

    def writeConnectionLost(self) -> None:
        half = IHalfCloseableProtocol(self._app, None)
        if half is not None:
            half.writeConnectionLost()

    def connectionLost(self, reason: Failure) -> None:
        app, self._app = self._app, None
        self._release()
        self._fail(reason)
        self._gone()
        if app is not None:
            app.connectionLost(reason)

    # --- opening ---

    def _answered(self, answer: Answer, rest: bytes) -> None:
        if answer.code:
            self._give_up(Failure(refused(answer)))
            return
        self._reader = None
        self._cancel_deadline()
        app = self._factory.buildProtocol(self._address)
        if app is None:
            self._give_up(
                Failure(ProtocolRefused(f"the local factory declined a circuit of {self._address}"))
            )
            return
        self._app = app
        # What it reads has come already: it is not to be read before it is connected.
        self._early = rest
        app.makeConnection(self)
        self._told = True
        self._opened(app)
        self._deliver_early()

    def _give_up(self, failure: Failure) -> None:
        self._fail(failure)
        self._release()
        self._raw.abortConnection()

    def _fail(self, failure: Failure) -> None:
        # Who has been told of a circuit learns of its end by its protocol.
        if not self._told:
            self._told = True
            self._failed(failure)

    def _timed_out(self) -> None:
        error = CallTimedOut(f"the relay did not answer within {ANSWER_SECONDS:g} s")
        self._give_up(Failure(error))

    def _release(self) -> None:
        self._cancel_deadline()
        self._reader = None
        self._early = b""
        if self._early_call is not None:
            self._early_call.cancel()
            self._early_call = None

    def _cancel_deadline(self) -> None:
        deadline, self._deadline = self._deadline, None
        if deadline is not None and deadline.active():
            deadline.cancel()

    def _deliver_early(self) -> None:
        self._early_call = None
        if self._paused or self._app is None:
            return
        early, self._early = self._early, b""
        if early and not self._raw.disconnecting:
            self._app.dataReceived(early)

    # --- IPushProducer and IConsumer, ITransport: called by what runs inside ---

    def pauseProducing(self) -> None:
        """Deliver nothing more, not even what is here already."""
        self._paused = True
        self._raw.pauseProducing()

    def resumeProducing(self) -> None:
        """Deliver what is here, in a later turn, and then read on."""
        self._paused = False
        if self._early and self._early_call is None:
            self._early_call = self._reactor.callLater(0, self._deliver_first)
        elif not self._early:
            self._raw.resumeProducing()

    def _deliver_first(self) -> None:
        self._deliver_early()
        if not self._paused and self._app is not None:
            self._raw.resumeProducing()

    def stopProducing(self) -> None:
        """As for TCP: L{loseConnection}."""
        self.loseConnection()

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self._raw.write(data)

    def writeSequence(self, data: Any) -> None:
        """Send many pieces of bytes as one."""
        self._raw.writeSequence(data)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See C{IConsumer}; the marks are those of the connection to the relay."""
        self._raw.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """The producer is finished."""
        self._raw.unregisterProducer()

    def loseWriteConnection(self) -> None:
        """End our direction after all that was written; go on reading."""
        self._raw.loseWriteConnection()

    def loseConnection(self) -> None:
        """Close after all that was written."""
        self._raw.loseConnection()

    def abortConnection(self) -> None:
        """Close at once: the other end sees that the stream is not whole."""
        self._raw.abortConnection()

    @property
    def disconnecting(self) -> bool:
        """Is it being closed?"""
        return bool(self._raw.disconnecting)

    def getPeer(self) -> IAddress:
        """@return: a L{TunnelAddress}."""
        return self._address

    def getHost(self) -> IAddress:
        """@return: our end of the connection to the relay."""
        address: IAddress = self._raw.getHost()
        return address

    def __repr__(self) -> str:
        return f"<CircuitEnd by {self._address}>"


class _Attempt(ClientFactory):
    """One C{connect()}: the factory of the connection to the relay."""

    noisy = False

    def __init__(self, endpoint: CircuitEndpoint, factory: IProtocolFactory) -> None:
        self._factory = factory
        self._connecting: Deferred[IProtocol] | None = None
        self._cancelled = False
        self._on_gone = endpoint.on_gone
        self.done: Deferred[IProtocol] = Deferred(self._cancel)
        self._end = CircuitEnd(
            endpoint.reactor,
            endpoint.opening,
            endpoint.address,
            factory,
            opened=self._opened,
            failed=self._failed,
            gone=self._gone,
        )

    def run(self, endpoint: IStreamClientEndpoint) -> Deferred[IProtocol]:
        self._connecting = endpoint.connect(self)
        self._connecting.addCallbacks(self._connected, self._not_connected)
        return self.done

    def _connected(self, _end: IProtocol) -> None:
        self._connecting = None

    def _not_connected(self, failure: Failure) -> None:
        self._connecting = None
        self._failed(failure)
        # It may have been built, and dropped before it was connected.
        self._gone()

    def _cancel(self, done: Deferred[IProtocol]) -> None:
        self._cancelled = True
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        else:
            done.errback(ConnectingCancelledError(self._end.getPeer()))
            self._end.abortConnection()

    def _opened(self, app: IProtocol) -> None:
        if not self.done.called:
            self.done.callback(app)

    def _failed(self, failure: Failure) -> None:
        if not self.done.called:
            self.done.errback(failure)

    def _gone(self) -> None:
        on_gone, self._on_gone = self._on_gone, None
        if on_gone is not None:
            on_gone()

    # The factory of the connection to the relay.

    def doStart(self) -> None:
        self._factory.doStart()

    def doStop(self) -> None:
        self._factory.doStop()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if self._cancelled:
            return None
        return self._end


@implementer(IStreamClientEndpoint)
@frozen
class CircuitEndpoint:
    """
    Dial through a relay.

    C{connect(factory)} gives a Deferred of the connected protocol, built by
    C{factory.buildProtocol(TunnelAddress)} when the relay has made the circuit: wrap it with
    L{meshkit.shs.wrap_client}, so that it leads to the peer's key and to nobody else.  It fails
    with

      - what the endpoint of the relay fails with, if the relay cannot be reached;
      - L{RelayNoReservation <meshkit.errors.RelayNoReservation>},
        L{RelayTargetSilent <meshkit.errors.RelayTargetSilent>},
        L{RelayLimitReached <meshkit.errors.RelayLimitReached>} or another of
        L{RelayError <meshkit.errors.RelayError>};
      - L{TruncatedStream <meshkit.errors.TruncatedStream>} or
        L{CallTimedOut <meshkit.errors.CallTimedOut>} if the relay is lost, or silent;
      - L{ProtocolRefused <meshkit.errors.ProtocolRefused>} if the factory builds nothing;
      - L{ConnectingCancelledError} if it is cancelled, which aborts the connection.

    @ivar reactor: for deadlines.
    @ivar relay: leads to the relay, and proves its key: L{meshkit.shs.wrap_client} with the
        label L{meshkit.relay.tunnel.wire.CIRCUIT_LABEL}.
    @ivar opening: whom we want, or which circuit is ours.
    @ivar address: what the transport says of its peer.
    @ivar on_gone: called when a connection that was asked for is no more, or never was.
    """

    reactor: IReactorTime
    relay: IStreamClientEndpoint
    opening: Open | Join
    address: TunnelAddress
    on_gone: Callable[[], None] | None = None

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        return _Attempt(self, protocolFactory).run(self.relay)


def dial_through(
    reactor: IReactorTime, relay: IStreamClientEndpoint, relay_key: PublicKey, target: PublicKey
) -> CircuitEndpoint:
    """
    @param relay: see L{CircuitEndpoint.relay}.
    @return: what leads to a peer through a relay.
    """
    return CircuitEndpoint(reactor, relay, Open(target.raw), TunnelAddress(relay_key, target))


__all__ = ["ANSWER_SECONDS", "CircuitEnd", "CircuitEndpoint", "TunnelAddress", "dial_through"]
