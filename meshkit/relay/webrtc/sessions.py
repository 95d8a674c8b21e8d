"""
What two peers have with one another: a connection of WebRTC, and the data channels on it.

One side offers, the other answers, by a way that they have already; whoever passes these on has
proved who is there (L{meshkit.relay.webrtc}).  Then each side may open channels, as many as
L{MAX_CHANNELS} at a time, and each is a stream of its own.  A connection on which there is none for
L{IDLE_SECONDS} is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.errors import Overloaded, ProtocolRefused, WebRTCFailed
from meshkit.identity.keys import PublicKey
from meshkit.relay.webrtc.channel import ChannelTransport, DataChannel, WebRTCAddress

#: Bytes of an offer or an answer: they hold the addresses of all interfaces.
MAX_DESCRIPTION: Final = 16 * 1024
#: Channels of one connection, and connections that others may have offered, at a time.
MAX_CHANNELS: Final = 16
MAX_ANSWERED: Final = 64
#: Seconds in which a path has to be found, and in which a channel has to open.
CONNECT_SECONDS: Final = 20.0
OPEN_SECONDS: Final = 10.0
#: Seconds without a channel after which a connection is closed.
IDLE_SECONDS: Final = 60.0

#: C{make(channel)}: hands the channel that is open to what runs on it.
OnChannel = Callable[[DataChannel], "ChannelTransport | None"]


class Connection(Protocol):
    """
    One connection of WebRTC, of whatever library.  All of it is called, and calls back, in the
    reactor's thread; a Deferred fails with L{WebRTCFailed}.

    @ivar on_channel: called with a channel that the peer has opened; gives who gets its
        messages, or L{None} to have it closed.
    @ivar on_closed: called once, when it is gone, by whomever.
    """

    on_channel: OnChannel
    on_closed: Callable[[], None]

    def offer(self) -> Deferred[bytes]:
        """Begin.  @return: Deferred of what the peer has to be told."""

    def answer(self, offer: bytes) -> Deferred[bytes]:
        """Answer.  @return: Deferred of what the peer has to be told."""

    def accept(self, answer: bytes) -> Deferred[None]:
        """@return: Deferred that fires when there is a path."""

    def open(self, make: OnChannel) -> Deferred[None]:
        """
        Open a channel.

        @param make: called when it is open, before anything can come.
        @return: Deferred that fires after that.
        """

    def close(self) -> None:
        """Close it, and all that is on it."""


Make = Callable[[], Connection]


class _Counted:
    """A connection that closes itself when nobody uses it."""

    def __init__(self, reactor: IReactorTime, connection: Connection) -> None:
        self._reactor = reactor
        self.connection = connection
        self._channels = 0
        self._idle: IDelayedCall | None = None
        self.over = False

    def taken(self) -> None:
        self._channels += 1
        self._stop()

    def given_back(self) -> None:
        self._channels -= 1
        self.watch()

    @property
    def full(self) -> bool:
        return self._channels >= MAX_CHANNELS

    def watch(self) -> None:
        """Nobody may have it now."""
        if not self._channels and not self.over and self._idle is None:
            self._idle = self._reactor.callLater(IDLE_SECONDS, self.close)

    def _stop(self) -> None:
        idle, self._idle = self._idle, None
        if idle is not None and idle.active():
            idle.cancel()

    def close(self) -> None:
        self._stop()
        self.connection.close()

    def closed(self) -> None:
        self.over = True
        self._stop()


class _Leased:
    """A channel that counts until it is closed."""

    def __init__(self, channel: DataChannel, counted: _Counted) -> None:
        self._channel = channel
        self._counted: _Counted | None = counted
        counted.taken()

    def send(self, messages: list[bytes]) -> None:
        self._channel.send(messages)

    def close(self) -> None:
        self._channel.close()

    def gone(self) -> None:
        counted, self._counted = self._counted, None
        if counted is not None:
            counted.given_back()


class _Transport(ChannelTransport):
    """Gives its place back when it is closed."""

    def __init__(self, reactor: IReactorTime, leased: _Leased, address: WebRTCAddress) -> None:
        super().__init__(reactor, leased, address)
        self._leased = leased

    def closed(self) -> None:
        super().closed()
        self._leased.gone()


@implementer(IStreamClientEndpoint)
class WebRTCEndpoint:
    """
    Leads to one peer, by a connection that is made when it is needed and used by all.

    C{connect(factory)} gives a Deferred of the connected protocol, built by
    C{factory.buildProtocol(WebRTCAddress)} when a channel is open: wrap it with
    L{meshkit.shs.wrap_client}.  It fails with

      - L{WebRTCFailed} if there is no direct path, within L{CONNECT_SECONDS}: use the way by which
        the offer went;
      - what C{signal} fails with;
      - L{Overloaded} if there are L{MAX_CHANNELS} channels;
      - L{ProtocolRefused} if the factory builds nothing.

    Cancelling it lets the others have the connection.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        make: Make,
        signal: Callable[[bytes], Deferred[bytes]],
        peer: PublicKey | None = None,
    ) -> None:
        """
        @param make: makes a connection.
        @param signal: takes an offer to the peer, and gives a Deferred of its answer.
        @param peer: who is at the other end of C{signal}.
        """
        self._reactor = reactor
        self._make = make
        self._signal = signal
        self._address = WebRTCAddress(peer)
        self._counted: _Counted | None = None
        self._connecting: Deferred[None] | None = None
        self._waiting: list[Deferred[None]] = []

    @property
    def connected(self) -> bool:
        """Is there a path now?"""
        return self._counted is not None

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """See the class."""
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    def find(self) -> Deferred[None]:
        """
        Make the connection now.

        @return: Deferred that fires when there is a path; fails as C{connect} does.
        """
        if self._counted is not None:
            return succeed(None)
        return self._ready()

    async def _connect(self, factory: IProtocolFactory) -> IProtocol:
        if self._counted is None:
            await self._ready()
        counted = self._counted
        if counted is None or counted.over:
            raise WebRTCFailed(f"the connection for {self._address} was lost at once")
        if counted.full:
            raise Overloaded(f"there are {MAX_CHANNELS} channels on one connection already")
        built: list[IProtocol] = []

        def opened(channel: DataChannel) -> ChannelTransport | None:
            protocol = factory.buildProtocol(self._address)
            if protocol is None:
                return None
            built.append(protocol)
            transport = _Transport(self._reactor, _Leased(channel, counted), self._address)
            transport.connect(protocol)
            return transport

        factory.doStart()
        opening = counted.connection.open(opened)
        opening.addTimeout(OPEN_SECONDS, self._reactor, _not_opened)
        try:
            await opening
        except BaseException:
            factory.doStop()
            raise
        if not built:
            factory.doStop()
            raise ProtocolRefused(f"the local factory declined {self._address}")
        return built[0]

    def _ready(self) -> Deferred[None]:
        """Wait for the connection, with all others who want it."""
        waiting: Deferred[None] = Deferred(self._waiting_cancelled)
        self._waiting.append(waiting)
        if self._connecting is None:
            self._connecting = Deferred.fromCoroutine(self._negotiate())
            self._connecting.addBoth(self._negotiated)
        return waiting

    def _waiting_cancelled(self, waiting: Deferred[None]) -> None:
        self._waiting.remove(waiting)
        if not self._waiting and self._connecting is not None:
            self._connecting.cancel()

    async def _negotiate(self) -> None:
        connection = self._make()
        counted = _Counted(self._reactor, connection)
        connection.on_channel = _refuse

        def closed() -> None:
            counted.closed()
            if self._counted is counted:
                self._counted = None

        connection.on_closed = closed
        finding = Deferred.fromCoroutine(self._find(connection))
        finding.addTimeout(CONNECT_SECONDS, self._reactor, _no_path)
        try:
            await finding
        except BaseException:
            connection.close()
            raise
        if counted.over:
            raise WebRTCFailed(f"the connection for {self._address} was lost at once")
        self._counted = counted
        counted.watch()

    async def _find(self, connection: Connection) -> None:
        answer = await self._signal(_checked(await connection.offer()))
        await connection.accept(_checked(answer))

    def _negotiated(self, result: Any) -> None:
        self._connecting = None
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if isinstance(result, Failure):
                each.errback(result)
            else:
                each.callback(None)

    def close(self) -> None:
        """Close the connection, if there is one, and all channels on it."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._counted is not None:
            self._counted.close()


class WebRTCAnswers:
    """
    The other side: answers offers, and gives each channel that a peer opens to a factory.

    Of L{MAX_ANSWERED} connections one more is not taken; of one peer the new one takes the place
    of the old, which it may not know of any more.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        make: Make,
        accept: Callable[[WebRTCAddress], IProtocol | None],
    ) -> None:
        """
        @param make: makes a connection.
        @param accept: builds what runs on a channel, such as
            L{meshkit.shs.SecureListener.buildProtocol}; gives L{None} to have it closed.
        """
        self._reactor = reactor
        self._make = make
        self._accept = accept
        self._by_peer: dict[PublicKey, _Counted] = {}

    def __len__(self) -> int:
        """Connections that there are."""
        return len(self._by_peer)

    def answer(self, offer: bytes, peer: PublicKey) -> Deferred[bytes]:
        """
        @param peer: who has made the offer, as whoever passed it on has proved.
        @return: Deferred of the answer.  It fails with L{WebRTCFailed} or L{Overloaded}.
        """
        return Deferred.fromCoroutine(self._answer(offer, peer))

    async def _answer(self, offer: bytes, peer: PublicKey) -> bytes:
        _checked(offer)
        old = self._by_peer.get(peer)
        if old is None and len(self._by_peer) >= MAX_ANSWERED:
            raise Overloaded(f"{MAX_ANSWERED} peers have direct paths here already: come later")
        connection = self._make()
        counted = _Counted(self._reactor, connection)
        address = WebRTCAddress(peer)

        def opened(channel: DataChannel) -> ChannelTransport | None:
            if counted.full:
                return None
            protocol = self._accept(address)
            if protocol is None:
                return None
            transport = _Transport(self._reactor, _Leased(channel, counted), address)
            transport.connect(protocol)
            return transport

        def closed() -> None:
            counted.closed()
            if self._by_peer.get(peer) is counted:
                del self._by_peer[peer]

        connection.on_channel = opened
        connection.on_closed = closed
        # Counted before anything is waited for.
        self._by_peer[peer] = counted
        if old is not None:
            old.close()
        # One to which nobody finds a path is closed like one that nobody uses.
        counted.watch()
        answering = connection.answer(offer)
        answering.addTimeout(CONNECT_SECONDS, self._reactor, _no_path)
        try:
            return _checked(await answering)
        except BaseException:
            counted.close()
            raise

    def close(self) -> None:
        """Close all connections."""
        for counted in list(self._by_peer.values()):
            counted.close()


def _refuse(channel: DataChannel) -> None:
    """Who has answered opens no channels: he has a listener of his own for that."""


def _checked(description: bytes) -> bytes:
    """@raise WebRTCFailed: if it is too large to be one."""
    if len(description) > MAX_DESCRIPTION:
        raise WebRTCFailed(
            f"an offer or answer of {len(description)} bytes is over the limit of {MAX_DESCRIPTION}"
        )
    return description


def _no_path(_result: object, seconds: float) -> None:
    raise WebRTCFailed(f"no direct path was found within {seconds:g} s: the relay remains")


def _not_opened(_result: object, seconds: float) -> None:
    raise WebRTCFailed(f"no data channel was opened within {seconds:g} s: the relay remains")
