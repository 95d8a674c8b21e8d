"""
In-memory stream connections that behave as TCP does where it matters to a protocol.

They have flow control (a high-water mark, push and pull producers, a paused reader
that reads nothing, not even the end), half-close in both directions, an abort that
the other side sees as a reset, and they cut the stream into pieces as they are told.
Nothing happens by itself: bytes move when L{MemoryWire.pump} or L{MemoryNetwork.pump}
is called, or, if a clock is given, as it advances::

    wire = connect_protocols(client, server)
    client.transport.write(b"hello")
    wire.pump()

    clock = Clock()
    network = MemoryNetwork(clock, latency=0.02)
    network.server_endpoint(7655).listen(factory)
    d = network.client_endpoint(7655).connect(client_factory)
    clock.pump([0.02] * 10)

An exception that a protocol raises comes out of C{pump}, where a real reactor would
log it and close the connection.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Final

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import (
    CannotListenError,
    ConnectError,
    ConnectingCancelledError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    NoProtocol,
)
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IDelayedCall,
    IHalfCloseableProtocol,
    IListeningPort,
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IReactorTime,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

__all__ = [
    "Chunker",
    "MemoryNetwork",
    "MemoryTransport",
    "MemoryWire",
    "StreamTransport",
    "connect_protocols",
]

#: A producer is paused when more than this waits, as with TCP in Twisted.
HIGH_WATER: Final = 65536

#: A pump that goes on for so many rounds has two protocols that never finish.
MAX_ROUNDS: Final = 100_000

_FIRST_CLIENT_PORT: Final = 49152

#: Given how many bytes wait, says how many the next C{dataReceived} gets (at least 1).
Chunker = Callable[[int], int]


@implementer(ITCPTransport, IConsumer, IPushProducer)
class StreamTransport(ABC):
    """
    One end of a stream: what a transport owes to its protocol and its producer, apart from
    how bytes get to the other side.  Whoever makes it one of a network of his own says what
    is to be done by L{_touch} and L{_leave}, takes the bytes from C{_waiting}, and calls
    L{_drained}, L{_read_end} and L{_end}.

    @ivar protocol: whom this transport serves.
    @ivar high_water: a push producer is paused when more bytes than this wait.
    @ivar sent: how many bytes were written.
    @ivar lost: why the connection ended, or L{None}.
    @ivar aborted: C{abortConnection} was called.
    """

    def __init__(self, host: IAddress, peer: IAddress) -> None:
        self._host = host
        self._peer = peer
        self.protocol: Any = None
        self.high_water = HIGH_WATER
        self.sent = 0
        self.lost: Failure | None = None
        self.connected = False
        self.disconnecting = False
        self.aborted = False
        self.producer: Any = None
        self.streaming = False
        self.producer_paused = False
        self._waiting = bytearray()
        self._reading = True
        # What a reactor's list of writers is: whether emptiness will be noticed.
        self._watched = False
        self._write_ending = False
        self._write_ended = False  # our end mark is on its way or was seen
        self._end_seen = False  # by the other side
        self._ending: Failure | None = None  # to be reported in the next round
        self._no_delay = False
        self._keep_alive = False

    @property
    def waiting(self) -> int:
        """How many bytes were written and have not reached the other side."""
        return len(self._waiting)

    @property
    def reading(self) -> bool:
        """Does the protocol get what arrives?"""
        return self._reading and not self.disconnecting and self.connected

    # --- ITransport ---

    def write(self, data: bytes) -> None:
        if not isinstance(data, bytes):
            raise TypeError(f"data must be bytes, not {type(data).__name__}")
        if not self.connected or self.aborted or self._write_ended or not data:
            return
        self._waiting += data
        self._watched = True
        self.sent += len(data)
        if self.producer is not None and self.streaming and len(self._waiting) > self.high_water:
            # Again at each further write, as Twisted's transports do.
            self.producer_paused = True
            self.producer.pauseProducing()
        self._touch()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        if self.connected and not self.disconnecting:
            self.disconnecting = self._watched = True
            self._touch()

    def loseWriteConnection(self) -> None:
        self._write_ending = self._watched = True
        self._touch()

    def abortConnection(self) -> None:
        if self.connected and not self.aborted:
            self.aborted = self.disconnecting = True
            self._waiting.clear()
            self._ending = Failure(ConnectionAborted())
            self._leave()
            self._touch()

    def getPeer(self) -> Any:
        return self._peer

    def getHost(self) -> Any:
        return self._host

    def getTcpNoDelay(self) -> bool:
        return self._no_delay

    def setTcpNoDelay(self, enabled: bool) -> None:
        self._no_delay = bool(enabled)

    def getTcpKeepAlive(self) -> bool:
        return self._keep_alive

    def setTcpKeepAlive(self, enabled: bool) -> None:
        self._keep_alive = bool(enabled)

    # --- IConsumer ---

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self.producer is not None:
            raise RuntimeError(f"cannot register {producer!r}: {self.producer!r} is registered")
        if not self.connected:
            producer.stopProducing()
            return
        self.producer = producer
        self.streaming = streaming
        self.producer_paused = False
        if not streaming:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        self.producer = None
        if self.disconnecting:
            self._watched = True
        self._touch()

    # --- IPushProducer ---

    def pauseProducing(self) -> None:
        self._reading = False

    def resumeProducing(self) -> None:
        if self.connected and not self.disconnecting:
            self._reading = True
            self._touch()

    def stopProducing(self) -> None:
        self.loseConnection()

    # --- what a network does ---

    @abstractmethod
    def _touch(self) -> None:
        """Something may move, or is to be told, now."""

    @abstractmethod
    def _leave(self) -> None:
        """This side has given up; the other one is to learn it."""

    # --- called by a network ---

    def _connect(self, protocol: IProtocol) -> None:
        self.protocol = protocol
        self.connected = True

    def _reset(self) -> None:
        """The other side is gone: whatever was between us is lost."""
        if self.connected and self._ending is None:
            self._waiting.clear()
            self._ending = Failure(ConnectionLost())

    def _end(self, reason: Failure) -> None:
        if not self.connected:
            return
        self.connected = False
        self.lost = reason
        if reason.check(ConnectionDone):
            self._write_ended = True  # closing an idle socket tells the other side
        self._ending = None
        self._waiting.clear()
        producer, self.producer = self.producer, None
        if producer is not None:
            producer.stopProducing()
        # In a simulated world the power may have failed in there.
        if self.protocol is not None:
            self.protocol.connectionLost(reason)

    def _drained(self) -> bool:
        """
        All that was written has left: once for each time that something was written or
        an end was asked for, as a reactor reports it.  So a close does not happen while
        a producer that was paused, or pulls, is registered and writes nothing.

        @return: did anything happen?
        """
        if not self._watched:
            return False
        self._watched = False
        if self.producer is not None and (self.producer_paused or not self.streaming):
            self.producer_paused = False
            self.producer.resumeProducing()
            return True
        if self.disconnecting:
            self._end(Failure(ConnectionDone()))
            return True
        if self._write_ending and not self._write_ended:
            self._write_ended = True
            half = IHalfCloseableProtocol(self.protocol, None)
            if half is not None:
                half.writeConnectionLost()
            return True
        return False

    def _read_end(self) -> None:
        half = IHalfCloseableProtocol(self.protocol, None)
        if half is None:
            self._end(Failure(ConnectionDone()))
        else:
            half.readConnectionLost()

    def __repr__(self) -> str:
        state = "connected" if self.connected else "lost"
        return f"<{type(self).__name__} {state}, {self.waiting} bytes wait>"


class MemoryTransport(StreamTransport):
    """One end of a L{MemoryWire}."""

    def __init__(self, wire: MemoryWire, host: IAddress, peer: IAddress) -> None:
        super().__init__(host, peer)
        self._wire = wire

    def _touch(self) -> None:
        self._wire.touch()

    def _leave(self) -> None:
        self._wire.other(self)._reset()


class MemoryWire:
    """
    Two transports and what is between them.

    @ivar first: the dialler's end.
    @ivar second: the listener's end.
    @ivar intercept: a man in the middle: given the sending transport and a piece of
        its bytes, says what arrives instead.
    """

    def __init__(
        self,
        first: IAddress,
        second: IAddress,
        *,
        chunk: Chunker | None = None,
        clock: IReactorTime | None = None,
        latency: float = 0.0,
    ) -> None:
        self.first = MemoryTransport(self, first, second)
        self.second = MemoryTransport(self, second, first)
        self.intercept: Callable[[MemoryTransport, bytes], bytes] | None = None
        self._chunk = chunk
        self._clock = clock
        self._latency = latency
        self._call: IDelayedCall | None = None
        self._pumping = False

    def other(self, transport: MemoryTransport) -> MemoryTransport:
        """The opposite end."""
        return self.second if transport is self.first else self.first

    def connect(self, client: IProtocol, server: IProtocol) -> None:
        """Make the connection; the server's protocol is told first, as it accepts first."""
        self.second._connect(server)
        self.first._connect(client)
        server.makeConnection(self.second)
        client.makeConnection(self.first)

    def touch(self) -> None:
        """Something may move now; with a clock, see to it."""
        if self._clock is not None and self._call is None:
            self._call = self._clock.callLater(self._latency, self._tick)

    def pump(self) -> int:
        """
        Move everything that can move, to and fro, until all is quiet.

        @return: how many rounds it took.
        @raise RuntimeError: if called from within itself, or after L{MAX_ROUNDS}.
        """
        if self._pumping:
            raise RuntimeError("pump() was called by a protocol that it delivers to")
        for rounds in range(MAX_ROUNDS):
            if not self._round():
                return rounds
        raise RuntimeError(f"the two protocols were not quiet after {MAX_ROUNDS} rounds")

    def step(self) -> bool:
        """One round: what waits now moves, but not the answers to it."""
        return self._round()

    def cut(self) -> None:
        """The network fails: both sides lose the connection, with what was on its way."""
        self.first._reset()
        self.second._reset()
        self.touch()

    def _tick(self) -> None:
        self._call = None
        if self._round():
            self.touch()

    def _round(self) -> bool:
        self._pumping = True
        try:
            amounts = [self.first.waiting, self.second.waiting]
            moved = False
            for source, amount in zip((self.first, self.second), amounts, strict=True):
                moved = self._move(source, amount) or moved
            return moved
        finally:
            self._pumping = False

    def _move(self, source: MemoryTransport, amount: int) -> bool:
        sink = self.other(source)
        moved = False
        if source._ending is not None:
            source._end(source._ending)
            return True
        while amount > 0 and source._waiting and sink.reading and not sink._ending:
            size = len(source._waiting) if self._chunk is None else self._chunk(source.waiting)
            piece = bytes(source._waiting[: max(1, min(size, amount))])
            del source._waiting[: len(piece)]
            amount -= len(piece)
            if self.intercept is not None:
                piece = self.intercept(source, piece)
            if piece:
                sink.protocol.dataReceived(piece)
            moved = True
        if source._waiting and source.disconnecting and sink.disconnecting:
            # Neither reads any more: the kernels' buffers take what is left.
            source._waiting.clear()
            moved = True
        if source._waiting and not sink.connected and source.connected:
            # Data for a closed socket is answered with a reset.
            source._reset()
            return True
        if not source._waiting and source.connected and source._ending is None:
            moved = source._drained() or moved
        if (
            source._write_ended
            and not source._waiting
            and not source._end_seen
            and sink.reading
            and sink._ending is None
        ):
            source._end_seen = True
            sink._read_end()
            moved = True
        return moved

    def __repr__(self) -> str:
        return f"<MemoryWire {self.first!r} {self.second!r}>"


def connect_protocols(
    client: IProtocol,
    server: IProtocol,
    *,
    chunk: Chunker | None = None,
    clock: IReactorTime | None = None,
    latency: float = 0.0,
) -> MemoryWire:
    """
    Connect two protocols.

    @param chunk: how the stream is cut into pieces; all that waits, if not given.
    @param clock: if given, bytes move as it advances, one way in C{latency} seconds.
    @return: the wire between them, to be pumped.
    """
    wire = MemoryWire(
        IPv4Address("TCP", "127.0.0.1", _FIRST_CLIENT_PORT),
        IPv4Address("TCP", "127.0.0.1", 7655),
        chunk=chunk,
        clock=clock,
        latency=latency,
    )
    wire.connect(client, server)
    return wire


@implementer(IListeningPort)
class _MemoryPort:
    def __init__(
        self, network: MemoryNetwork, address: IPv4Address, factory: IProtocolFactory
    ) -> None:
        self._network = network
        self._address = address
        self.factory = factory

    def startListening(self) -> None:
        key = (self._address.host, self._address.port)
        if key in self._network._ports:
            raise CannotListenError(key[0], key[1], OSError("the address is in use"))
        self._network._ports[key] = self
        self.factory.doStart()

    @property
    def listening(self) -> bool:
        key = (self._address.host, self._address.port)
        return self._network._ports.get(key) is self

    def stopListening(self) -> Deferred[None]:
        key = (self._address.host, self._address.port)
        if self._network._ports.pop(key, None) is not None:
            self.factory.doStop()
        return succeed(None)

    def getHost(self) -> IAddress:
        return self._address


@implementer(IStreamServerEndpoint)
class _MemoryServerEndpoint:
    def __init__(self, network: MemoryNetwork, address: IPv4Address) -> None:
        self._network = network
        self._address = address

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        port = _MemoryPort(self._network, self._address, protocolFactory)
        result: Deferred[IListeningPort] = Deferred()
        try:
            port.startListening()
        except CannotListenError:
            result.errback()
        else:
            result.callback(port)
        return result


@implementer(IStreamClientEndpoint)
class _MemoryClientEndpoint:
    def __init__(self, network: MemoryNetwork, target: IPv4Address, source: str) -> None:
        self._network = network
        self._target = target
        self._source = source

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        attempt = _Attempt(self._network, self._target, self._source, protocolFactory)
        self._network._attempts.append(attempt)
        self._network._touch()
        return attempt.done


class _Attempt:
    def __init__(
        self, network: MemoryNetwork, target: IPv4Address, source: str, factory: IProtocolFactory
    ) -> None:
        self._network = network
        self._target = target
        self._source = source
        self._factory = factory
        self.done: Deferred[IProtocol] = Deferred(self._cancel)

    def _cancel(self, done: Deferred[IProtocol]) -> None:
        self._network._attempts.remove(self)
        done.errback(ConnectingCancelledError(self._target))

    def run(self) -> None:
        port = self._network._ports.get((self._target.host, self._target.port))
        if port is None:
            self._fail(ConnectionRefusedError())
            return
        client = self._factory.buildProtocol(self._target)
        if client is None:
            self._fail(NoProtocol())
            return
        source = IPv4Address("TCP", self._source, self._network._next_port())
        server = port.factory.buildProtocol(source)
        wire = MemoryWire(
            source,
            self._target,
            chunk=self._network.chunk,
            clock=self._network._clock,
            latency=self._network._latency,
        )
        self._network.wires.append(wire)
        # A factory that builds nothing makes TCP accept and close.
        wire.connect(client, server if server is not None else Protocol())
        if server is None:
            wire.second.loseConnection()
        self.done.callback(client)

    def _fail(self, error: ConnectError | NoProtocol) -> None:
        self.done.errback(error)


class MemoryNetwork:
    """
    Hosts and ports in memory, with endpoints for both sides.

    @ivar wires: every connection that was made, in order.
    @ivar chunk: how streams of later connections are cut.
    """

    def __init__(
        self,
        clock: IReactorTime | None = None,
        *,
        latency: float = 0.0,
        chunk: Chunker | None = None,
    ) -> None:
        """
        @param clock: if given, everything moves as it advances; else L{pump} moves it.
        @param latency: seconds one way, with a clock.
        """
        self._clock = clock
        self._latency = latency
        self.chunk = chunk
        self.wires: list[MemoryWire] = []
        self._ports: dict[tuple[str, int], _MemoryPort] = {}
        self._attempts: list[_Attempt] = []
        self._ports_given = 0

    def server_endpoint(self, port: int, host: str = "127.0.0.1") -> IStreamServerEndpoint:
        """An endpoint to listen on."""
        return _MemoryServerEndpoint(self, IPv4Address("TCP", host, port))

    def client_endpoint(
        self, port: int, host: str = "127.0.0.1", *, source: str = "127.0.0.1"
    ) -> IStreamClientEndpoint:
        """
        An endpoint that leads to a listening one; else C{connect} fails with
        L{ConnectionRefusedError}.

        @param source: the address that the listener sees.
        """
        return _MemoryClientEndpoint(self, IPv4Address("TCP", host, port), source)

    def pump(self) -> None:
        """Make the connections that were asked for and move all bytes, until quiet."""
        for _ in range(MAX_ROUNDS):
            busy = self._connect_waiting()
            for wire in tuple(self.wires):
                busy = wire.pump() > 0 or busy
            if not busy:
                return
        raise RuntimeError(f"the network was not quiet after {MAX_ROUNDS} rounds")

    def _touch(self) -> None:
        if self._clock is not None:
            self._clock.callLater(self._latency, self._connect_waiting)

    def _connect_waiting(self) -> bool:
        attempts, self._attempts = self._attempts, []
        for attempt in attempts:
            attempt.run()
        return bool(attempts)

    def _next_port(self) -> int:
        self._ports_given += 1
        return _FIRST_CLIENT_PORT + self._ports_given % (65536 - _FIRST_CLIENT_PORT)
