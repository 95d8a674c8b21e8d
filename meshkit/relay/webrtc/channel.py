"""
A data channel as a Twisted transport.

B{Who closes what.}

::

    what happens                         what follows
    -----------------------------------  -----------------------------------------------------
    loseConnection()                     what was written is sent, then our end; nothing is
                                         delivered any more; when the peer's end is here too,
                                         or after L{CLOSE_SECONDS}, the channel is closed
    loseWriteConnection()                our end after what was written; reading goes on
    the peer's end comes                 C{readConnectionLost}, if the protocol knows of such;
                                         else as loseConnection()
    both ends are over, ours was seen    the channel is closed: ConnectionDone
    abortConnection()                    the channel is closed at once: ConnectionAborted
    the channel is closed by others      ConnectionLost, if the peer's end has not come
    the peer breaks a rule               logged; the channel is closed, with that reason

C{connectionLost} is called once, last, in a later turn than what led to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Final, Protocol

from attrs import frozen
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IDelayedCall,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    IReactorTime,
    ITransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.errors import StreamError
from meshkit.identity.keys import PublicKey
from meshkit.relay.webrtc.stream import Stream

#: Bytes that wait to be sent above which a producer is paused.
HIGH_WATER: Final = 64 * 1024
#: Bytes that are delivered at a time, as of TCP.
MAX_DELIVERED: Final = 64 * 1024
#: Seconds that a close may take.
CLOSE_SECONDS: Final = 15.0


class DataChannel(Protocol):
    """
    What is beneath: a reliable, ordered channel of messages.  All of it happens in the
    reactor's thread.
    """

    def send(self, messages: list[bytes]) -> None:
        """Send messages; nothing happens if it is closed."""

    def close(self) -> None:
        """Close it; L{ChannelTransport.closed} is called, if it was not yet."""


@implementer(IAddress)
@frozen
class WebRTCAddress:
    """
    Where a data channel leads, as C{transport.getPeer()} gives it.

    @cvar transport: see L{meshkit.identity.addresses.transport_of}.
    @ivar peer: who was to be at the other end, as whoever passed on the offer has proved; the
        handshake inside proves it again.
    """

    transport: ClassVar[str] = "webrtc"

    peer: PublicKey | None = None

    def __str__(self) -> str:
        return "a data channel" if self.peer is None else f"a data channel to {self.peer.text}"


@implementer(ITransport, IConsumer, IPushProducer)
class ChannelTransport:
    """
    See the module.  Whoever has made it calls L{connect}, and then L{message} and L{closed}.
    """

    _log = Logger()

    def __init__(self, reactor: IReactorTime, channel: DataChannel, address: WebRTCAddress) -> None:
        self._reactor = reactor
        self._channel = channel
        self._address = address
        self._stream = Stream()
        self._app: IProtocol | None = None
        # What came and was not delivered: no more than a window, however small the messages.
        self._here = bytearray()
        self._reading = True
        self._end_told = False
        self._delivering = False
        self._due: IDelayedCall | None = None
        self._producer: Any = None
        self._streaming = False
        self._producer_paused = False
        self._closing: IDelayedCall | None = None
        self._reason: Failure | None = None
        self._gone = False
        self._write_ended = False
        self.disconnecting = False
        self.connected = False

    def connect(self, app: IProtocol) -> None:
        """The channel is open: what runs on it begins."""
        self._app = app
        self.connected = True
        app.makeConnection(self)

    # --- called by what is beneath -------------------------------------------------------

    def message(self, message: bytes) -> None:
        """A message came."""
        if self._gone or self._reason is not None:
            return
        try:
            data = self._stream.feed(message)
        except StreamError as e:
            self._log.info(
                "{peer} dropped: {code}: {error}",
                peer=str(self._address),
                code=e.code,
                error=str(e),
            )
            self._abort(Failure(e))
            return
        if data:
            self._here += data
        self._deliver()
        self._flush()

    def closed(self) -> None:
        """It is closed, by whomever."""
        if not self._gone:
            self._gone = True
            self._cancel(self._closing)
            self._cancel(self._due)
            # Later, so that nobody is told within a call of his own.
            self._reactor.callLater(0, self._lost)

    def _lost(self) -> None:
        app, self._app = self._app, None
        self.connected = False
        self._here.clear()
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()
        if app is not None:
            app.connectionLost(self._reason or Failure(self._why()))

    def _why(self) -> Exception:
        done = self._stream.received_end and self._stream.sent_end
        return ConnectionDone() if done else ConnectionLost()

    # --- reading ---------------------------------------------------------------------------

    def _deliver(self) -> None:
        if self._delivering or self._app is None:
            return
        self._delivering = True
        try:
            while self._here and self._reading and not self._gone and self._app is not None:
                data = bytes(self._here[:MAX_DELIVERED])
                del self._here[:MAX_DELIVERED]
                self._stream.consume(len(data))
                if not self.disconnecting:
                    self._app.dataReceived(data)
            if self._stream.received_end and not self._here and self._reading:
                self._end_came()
        finally:
            self._delivering = False

    def _end_came(self) -> None:
        if not self._end_told:
            self._end_told = True
            half = IHalfCloseableProtocol(self._app, None)
            if self.disconnecting or half is None:
                self.loseConnection()
            else:
                half.readConnectionLost()

    def pauseProducing(self) -> None:
        """Deliver nothing more, not even what is here already."""
        self._reading = False

    def resumeProducing(self) -> None:
        """Deliver what is here, in a later turn, and what comes."""
        if not self._reading and not self.disconnecting:
            self._reading = True
            if self._due is None:
                self._due = self._reactor.callLater(0, self._deliver_later)

    def _deliver_later(self) -> None:
        self._due = None
        self._deliver()
        self._flush()

    def stopProducing(self) -> None:
        """As for TCP: L{loseConnection}."""
        self.loseConnection()

    # --- writing ---------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send bytes; those that come after the end are dropped, as for TCP."""
        if not isinstance(data, bytes):
            raise TypeError(f"data must be bytes, not {type(data).__name__}")
        if not data or self._gone:
            return
        if (self.disconnecting or self._write_ended) and self._producer is None:
            return  # whoever produces still ends what it has begun
        self._stream.write(data)
        self._flush()
        if (
            self._producer is not None
            and self._streaming
            and self._stream.waiting > HIGH_WATER
            and not self._producer_paused
        ):
            self._producer_paused = True
            self._producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Send many pieces of bytes as one."""
        self.write(b"".join(data))

    def _flush(self) -> None:
        if self._gone:
            return
        messages = list(self._stream.take())
        if messages:
            self._channel.send(messages)
        if self._producer_paused and not self._stream.waiting and self._producer is not None:
            self._producer_paused = False
            # Later, as a pull producer writes as soon as it is asked.
            self._reactor.callLater(0, self._resume, self._producer)
        if self._stream.seen_end and self._stream.received_end and not self._here:
            self._channel.close()

    def _resume(self, producer: Any) -> None:
        if self._producer is producer and not self._producer_paused:
            self._producer_paused = not self._streaming
            producer.resumeProducing()
            if not self._streaming:
                self._flush()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """See C{IConsumer}; a producer is paused above L{HIGH_WATER}."""
        if self._producer is not None:
            raise RuntimeError(f"{self._producer!r} is registered already")
        if self._gone:
            producer.stopProducing()
            return
        self._producer = producer
        self._streaming = streaming
        # A pull producer is always asked for more when there is room.
        self._producer_paused = not streaming
        self._flush()

    def unregisterProducer(self) -> None:
        """The producer is finished."""
        self._producer = None
        if self.disconnecting or self._write_ended:
            self._end_ours()

    # --- ending ----------------------------------------------------------------------------

    def loseWriteConnection(self) -> None:
        """End our direction after all that was written; go on reading."""
        self._write_ended = True
        if self._producer is None:
            self._end_ours()

    def _end_ours(self) -> None:
        if not self._gone:
            self._stream.end()
            self._flush()

    def loseConnection(self) -> None:
        """Close after all that was written."""
        if self._gone or self.disconnecting:
            return
        self.disconnecting = True
        # What is here is not for anybody any more, and the peer may wait for its credit.
        self._reading = True
        self._closing = self._reactor.callLater(CLOSE_SECONDS, self._too_long)
        if self._producer is None:
            self._end_ours()
        self._deliver()
        self._flush()

    def _too_long(self) -> None:
        self._closing = None
        self._channel.close()

    def abortConnection(self) -> None:
        """Close at once."""
        self._abort(Failure(ConnectionAborted()))

    def _abort(self, reason: Failure) -> None:
        if self._reason is None and not self._gone:
            self._reason = reason
            self.disconnecting = True
            self._channel.close()

    def _cancel(self, call: IDelayedCall | None) -> None:
        if call is not None and call.active():
            call.cancel()

    # --- who is there ------------------------------------------------------------------------

    def getPeer(self) -> IAddress:
        """@return: a L{WebRTCAddress}."""
        return self._address

    def getHost(self) -> IAddress:
        """@return: a L{WebRTCAddress} of nobody."""
        return WebRTCAddress()

    def __repr__(self) -> str:
        return f"<ChannelTransport, {self._address}>"
