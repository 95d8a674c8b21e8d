"""
The network of a simulated world: TCP between hosts, with all that can happen to it.

Bytes cross a link as segments, each of which is one call of the clock.  A segment takes the
link's latency, some jitter that never reorders a stream, and the time that its bytes need on
the link; it may be lost, and then comes when it is sent again, after a time that doubles.
What a partition, a silent host or a host without power swallows is sent again too, and
arrives if the network heals in time; else the connection dies, no sooner than a kernel would
give it up.  Until then nobody is told anything: half-open connections are the rule.

A reader that pauses stops the sender, when what is on its way and what it has not read fill
L{Tcp.window}.  Data for a connection that its host does not know, because it has been started
anew, is answered with a reset.

The state machine of a transport is that of L{meshkit.testing.transports}; here is what lies
beneath it.  What happens depends on the clock, on the order of the calls and on the seed: each
link draws its losses, its jitter and where streams are cut from streams of its own.

What it leaves out: congestion control (links have a bandwidth, and each connection a window),
fast retransmission, the loss of single acknowledgements (a later one makes up for it), TIME_WAIT.

Sources: RFC 9293 (the states, resets, half-open connections), RFC 6298 (retransmission), and
Linux for the numbers in L{Tcp}.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Sequence
from random import Random
from typing import Any, Final

from attrs import frozen
from twisted.internet.address import IPv4Address
from twisted.internet.base import BaseConnector
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import (
    CannotListenError,
    ConnectionLost,
    ConnectionRefusedError,
    TCPTimedOutError,
)
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IListeningPort,
    IReactorTCP,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.sim.clock import SECOND, SimCall, SimClock, nanoseconds
from meshkit.sim.seeds import Seeds
from meshkit.sim.trace import Trace
from meshkit.testing.transports import StreamTransport

__all__ = ["BURST", "NetHost", "SimNetwork", "SimTransport", "Tcp"]

_log = Logger()

#: Bytes of a segment, at most: what Twisted reads from a socket at once.
BURST: Final = 65536

# How long a listener waits for the end of a handshake: Linux repeats itself five times.
_OPENING_NS: Final = 63 * SECOND

# Words of the receiver that are remembered before those that have come are looked at.
_MANY_ACKS: Final = 64

_LOOPBACK: Final = "127.0.0.1"
_FIRST_PORT: Final = 49152
_LAST_PORT: Final = 65535


@frozen
class Tcp:
    """
    What the kernels of all hosts do.

    @ivar window: bytes of one direction that are on their way or not read, at most.
    @ivar retries: how often a segment is sent again before the connection is given up.
    @ivar min_rto: seconds until a segment is sent again, at least; doubled each time.
    @ivar max_rto: seconds between two attempts, at most.
    @ivar connect_rto: the same for the first segment of all.
    @ivar connect_retries: how often that is sent again.
    @ivar keep_alive: seconds of silence after which a transport with C{SO_KEEPALIVE} asks.
    @ivar keep_alive_interval: seconds between two such questions.
    @ivar keep_alive_probes: how many stay unanswered before the connection is given up.
    """

    window: int = 262_144
    retries: int = 15
    min_rto: float = 0.2
    max_rto: float = 120.0
    connect_rto: float = 1.0
    connect_retries: int = 6
    keep_alive: float = 7200.0
    keep_alive_interval: float = 75.0
    keep_alive_probes: int = 9


# --- links -------------------------------------------------------------------------


@frozen
class _Quality:
    latency_ns: int
    jitter_ns: int
    bandwidth: float | None
    loss: float

    def changed(
        self,
        latency: float | None,
        jitter: float | None,
        bandwidth: float | None,
        loss: float | None,
    ) -> _Quality:
        """The same, but for what is given."""
        if not 0 <= (loss or 0) <= 1 or min(latency or 0, jitter or 0) < 0:
            raise ValueError("a latency is not negative, and a loss lies between 0 and 1")
        if bandwidth is not None and not bandwidth > 0:
            raise ValueError("a link carries some bytes in a second: block it to stop it")
        return _Quality(
            self.latency_ns if latency is None else nanoseconds(latency),
            self.jitter_ns if jitter is None else nanoseconds(jitter),
            self.bandwidth if bandwidth is None else bandwidth,
            self.loss if loss is None else loss,
        )


_LOOPBACK_QUALITY: Final = _Quality(20_000, 0, None, 0.0)


class _Link:
    """One direction between two hosts."""

    __slots__ = (
        "_draws",
        "_free_ns",
        "_quality",
        "bandwidth",
        "blocked",
        "jitter_ns",
        "latency_ns",
        "loss",
        "network",
        "sink",
        "source",
    )

    def __init__(self, network: SimNetwork, source: NetHost, sink: NetHost) -> None:
        self.network = network
        self.source = source
        self.sink = sink
        self.blocked = False
        self._free_ns = 0
        self._draws: dict[str, Random] = {}
        self.become(_LOOPBACK_QUALITY if source is sink else network._usual)

    def become(self, quality: _Quality) -> None:
        """Be like that from now on; what is on its way arrives when it would have."""
        self._quality = quality
        # Asked for with every segment.
        self.latency_ns = quality.latency_ns
        self.jitter_ns = quality.jitter_ns
        self.bandwidth = quality.bandwidth
        self.loss = quality.loss

    def change(self, **changes: float | None) -> None:
        """See L{_Quality.changed}."""
        self.become(self._quality.changed(**changes))

    def draws(self, purpose: str) -> Random:
        """The stream of one purpose on this link."""
        if purpose not in self._draws:
            self._draws[purpose] = self.network.seeds.stream(
                "network", purpose, self.source.name, self.sink.name
            )
        return self._draws[purpose]

    def passes(self) -> bool:
        """Does what arrives now arrive?"""
        source, sink = self.source, self.sink
        if source is sink:
            return sink.up
        if self.blocked or source.mute or sink.mute:
            return False
        return source.group == sink.group or source.group is None or sink.group is None

    def loses(self) -> bool:
        """Is the next packet lost?"""
        return self.loss > 0 and self.draws("loss").random() < self.loss

    def transit(self, size: int, begin_ns: int) -> int:
        """
        @return: when so many bytes arrive, if they are sent at that moment.  Those that are
            sent later than now, as they were lost, do not keep others waiting.
        """
        if self.bandwidth is not None:
            needed = round(size * SECOND / self.bandwidth)
            if begin_ns <= self.network.clock.ns:
                begin_ns = max(begin_ns, self._free_ns)
                self._free_ns = begin_ns + needed
            begin_ns += needed
        if self.jitter_ns:
            begin_ns += int(self.jitter_ns * self.draws("jitter").random())
        return begin_ns + self.latency_ns


# --- streams -----------------------------------------------------------------------

_FLYING: Final = 0
_ARRIVED: Final = 1
_HELD_BACK: Final = 2


class _Segment:
    """
    @ivar chunks: what was written.
    @ivar opens: it completes the handshake as well.
    @ivar ends: nothing comes after it.
    @ivar state: on its way (with a call of the clock); at the receiver, who lacks something
        before it; or not to be sent before what lacks has arrived.
    """

    __slots__ = ("attempt", "call", "chunks", "ends", "opens", "sent_ns", "size", "state")

    def __init__(self, data: bytes, opens: bool, ends: bool, now: int) -> None:
        self.chunks = [data] if data else []
        self.size = len(data)
        self.opens = opens
        self.ends = ends
        self.sent_ns = now
        self.attempt = 0
        self.state = _HELD_BACK
        self.call: SimCall | None = None


class _Pipe:
    """
    One direction of a connection: from the kernel of the source to that of the sink.

    The first segment in C{flight} always has a call of the clock.  The sender learns of what
    is read one latency later: those moments are kept in C{_acks} and looked up when it has
    more to send, so that a connection with room costs no calls for them.
    """

    __slots__ = (
        "_acks",
        "_blocked",
        "_clock",
        "_connection",
        "_failures",
        "_held_end",
        "_last_ns",
        "_limit",
        "_probe_call",
        "_read",
        "_sent",
        "_stalled",
        "_tries",
        "_unacknowledged",
        "_wake_call",
        "back",
        "ended",
        "flight",
        "held",
        "link",
        "sink",
        "source",
    )

    def __init__(
        self, connection: _Connection, source: SimTransport, sink: SimTransport, link: _Link
    ) -> None:
        self._connection = connection
        self._clock = link.network.clock
        self.source = source
        self.sink = sink
        self.link = link
        self.back: _Pipe
        self.flight: list[_Segment] = []
        #: What arrived while the reader was paused.
        self.held: list[bytes] = []
        self._held_end = False
        self.ended = False
        self._sent = 0
        self._read = 0
        self._limit = link.network.tcp.window
        self._acks: list[tuple[int, int]] = []
        self._last_ns = 0
        self._stalled = False
        self._blocked = False
        self._unacknowledged = False
        self._tries = 0
        self._failures = 0
        self._wake_call: SimCall | None = None
        self._probe_call: SimCall | None = None

    # --- the sender ---

    def push(self) -> None:
        """Send what the window allows."""
        waiting = self.source._waiting
        if not waiting or self.ended or self.source.gone:
            return
        if self._limit - self._sent < len(waiting):
            self._learn()
        while waiting:
            size = min(len(waiting), self._limit - self._sent, BURST)
            if size <= 0:
                self._wait()
                return
            if size == len(waiting):
                piece = bytes(waiting)
                waiting.clear()
            else:
                piece = bytes(waiting[:size])
                del waiting[:size]
            self._send(piece)

    def open(self) -> None:
        """Complete the handshake."""
        self._send(b"", opens=True)

    def end(self) -> None:
        """Nothing follows what was written."""
        if not self.ended:
            self.ended = True
            self._send(b"", ends=True)

    def _send(self, data: bytes, opens: bool = False, ends: bool = False) -> None:
        now = self._clock.ns
        self._sent += len(data)
        if self.flight:
            last = self.flight[-1]
            if last.size + len(data) <= BURST and (
                last.state == _HELD_BACK
                or (
                    last.state == _FLYING
                    and last.sent_ns == now
                    and last.attempt == 0
                    and self.link.bandwidth is None
                )
            ):
                # What is written at one moment travels together.
                if data:
                    last.chunks.append(data)
                    last.size += len(data)
                last.ends = ends
                return
        segment = _Segment(data, opens, ends, now)
        self.flight.append(segment)
        if not self._stalled:
            self._launch(segment, now)

    def _launch(self, segment: _Segment, begin_ns: int) -> None:
        """Put it on its way, after as many attempts as the link loses."""
        segment.state = _FLYING
        while self.link.loses():
            due = begin_ns + self._backoff(segment.attempt)
            segment.attempt += 1
            self.link.network.retransmissions += 1
            if segment.attempt > self.link.network.tcp.retries:
                segment.call = self._clock.call_at(due, self._expire, segment)
                return
            begin_ns = due
        segment.sent_ns = begin_ns
        due = self.link.transit(segment.size, begin_ns)
        if segment.attempt == 0:
            due = self._last_ns = max(due, self._last_ns)
        segment.call = self._clock.call_at(due, self._arrive, segment)

    def _backoff(self, attempt: int) -> int:
        """Nanoseconds until the next attempt after one that failed."""
        tcp = self.link.network.tcp
        forth, back = self.link, self.back.link
        round_trip = forth.latency_ns + forth.jitter_ns + back.latency_ns + back.jitter_ns
        rto = max(nanoseconds(tcp.min_rto), 2 * round_trip)
        return min(rto << min(attempt, 32), max(nanoseconds(tcp.max_rto), rto))

    def _learn(self) -> None:
        """Take notice of what the sink has read, as far as word of it has come."""
        now = self._clock.ns
        known = 0
        for due, read in self._acks:
            if due > now:
                break
            known += 1
            self._limit = read + self.link.network.tcp.window
        del self._acks[:known]

    def _wait(self) -> None:
        """The window is full."""
        self._blocked = True
        if self._acks:
            self._wake_at(self._acks[0][0])
        elif not self.flight:
            self._start_probe()

    def _wake_at(self, due_ns: int) -> None:
        if self._wake_call is None:
            self._wake_call = self._clock.call_at(due_ns, self._wake)

    def _wake(self) -> None:
        self._wake_call = None
        self._blocked = False
        self._tries = 0
        self.source._touch()

    # A sender that waits for word of the sink asks for it: word may have been lost.

    def _start_probe(self) -> None:
        if self._probe_call is None:
            due = self._clock.ns + self._backoff(self._tries)
            self._probe_call = self._clock.call_at(due, self._probe)

    def _probe(self) -> None:
        self._probe_call = None
        if self.source.gone or not (self._blocked or self._unacknowledged):
            self._tries = self._failures = 0
            return
        self._tries += 1
        if not self.link.passes():
            self._unanswered()
        elif self.sink.gone:
            self._connection.answer(self, self.link.latency_ns)
            self._start_probe()
        elif not self.back.link.passes():
            self._unanswered()
        else:
            self._unacknowledged = False
            self._failures = 0
            self._acks.clear()
            self._limit = self._read + self.link.network.tcp.window
            self._blocked = False
            self.source._touch()
            if not self._blocked:
                self._tries = 0

    def _unanswered(self) -> None:
        self._failures += 1
        self.link.network.retransmissions += 1
        if self._failures > self.link.network.tcp.retries:
            self._give_up()
        else:
            self._start_probe()

    def _expire(self, segment: _Segment) -> None:
        segment.call = None
        self._give_up()

    def _give_up(self) -> None:
        self._connection.give_up(self.source)

    def drop(self) -> None:
        """The source is no more: nothing is sent again, and nothing waits."""
        for segment in self.flight:
            if segment.call is not None:
                segment.call.cancel()
        self.flight.clear()
        self._acks.clear()
        for call in (self._wake_call, self._probe_call):
            if call is not None:
                call.cancel()
        self._wake_call = self._probe_call = None

    # --- the sink ---

    def _arrive(self, segment: _Segment) -> None:
        segment.call = None
        if not self.link.passes():
            self._swallowed(segment)
            return
        segment.state = _ARRIVED
        flight = self.flight
        while flight and flight[0].state == _ARRIVED:
            self._take(flight.pop(0))
        if flight[0].state == _HELD_BACK if flight else self._stalled:
            self._resume()
        if self._blocked and not flight and not self._acks:
            self._start_probe()

    def _swallowed(self, segment: _Segment) -> None:
        if self.source.gone:
            # Nobody is there who would send it again.
            self.drop()
        elif segment is not self.flight[0]:
            segment.state = _HELD_BACK
        else:
            self._stalled = True
            due = segment.sent_ns + self._backoff(segment.attempt)
            segment.attempt += 1
            self.link.network.retransmissions += 1
            if segment.attempt > self.link.network.tcp.retries:
                segment.call = self._clock.call_at(due, self._expire, segment)
            else:
                self._launch(segment, max(due, self._clock.ns))

    def _resume(self) -> None:
        """What lacked has arrived: the sender learns it, and goes on."""
        self._stalled = False
        begin_ns = self._clock.ns + self.back.link.latency_ns
        for segment in self.flight:
            if segment.state == _HELD_BACK:
                segment.attempt = 0
                self._launch(segment, begin_ns)

    def _take(self, segment: _Segment) -> None:
        """The next piece of the stream is in the sink's kernel."""
        sink = self.sink
        network = self.link.network
        if sink.gone:
            self._connection.answer(self)
            return
        if self.back.link.passes():
            self._unacknowledged = False
        else:
            self._unacknowledged = True
            self._start_probe()
        sink.heard_ns = self._clock.ns
        if segment.opens and not self._connection.accept():
            return
        if segment.size:
            network._delivered(self, segment)
            if not sink.connected:
                # It closed, and will not read this.
                self._connection.refuse(sink)
                return
            for piece in network._pieces(self.link, segment):
                if sink.reading and not self.held:
                    self._hand_over(piece)
                elif not sink.gone:
                    self.held.append(piece)
        if segment.ends:
            self._held_end = True
            self.read()

    def read(self) -> None:
        """Hand over what the sink has not read, if it reads."""
        sink = self.sink
        while self.held and sink.reading:
            self._hand_over(self.held.pop(0))
        if self._held_end and not self.held and sink.reading:
            self._held_end = False
            sink._run(sink._read_end)

    @property
    def readable(self) -> bool:
        """Is there something that was not read?"""
        return bool(self.held) or self._held_end

    def _hand_over(self, piece: bytes) -> None:
        self._read += len(piece)
        if self.back.link.passes():
            due = self._clock.ns + self.back.link.latency_ns
            if self._acks and self._acks[-1][0] == due:
                self._acks.pop()
            elif len(self._acks) >= _MANY_ACKS:
                self._learn()
            self._acks.append((due, self._read))
            if self._blocked:
                self._wake_at(due)
        elif self._blocked:
            self._start_probe()
        self.sink._run(self.sink.protocol.dataReceived, piece)


class SimTransport(StreamTransport):
    """
    One end of a connection between two hosts.

    @ivar machine: the host whose kernel keeps it.
    @ivar heard_ns: when something came from the other side.
    @ivar on_lost: called after the protocol was told that the connection ended.
    """

    def __init__(self, machine: NetHost, host: IAddress, peer: IAddress) -> None:
        super().__init__(host, peer)
        self.machine = machine
        self.heard_ns = machine.network.clock.ns
        self.on_lost: Callable[[Failure], object] | None = None
        self._boots = machine.boots
        self._gone = False
        self._connection: _Connection
        self._out: _Pipe
        self._report_call: SimCall | None = None
        self._keep_alive_call: SimCall | None = None
        self._keep_alive_failures = 0

    @property
    def port(self) -> int:
        """The number of its own port."""
        return int(self.getHost().port)

    @property
    def gone(self) -> bool:
        """Does the kernel know nothing of it (any more)?"""
        return self._gone or self._boots != self.machine.boots

    def setTcpKeepAlive(self, enabled: bool) -> None:
        super().setTcpKeepAlive(enabled)
        if enabled and self.connected and self._keep_alive_call is None:
            self._watch_silence(self.machine.network.tcp.keep_alive)

    def _watch_silence(self, seconds: float) -> None:
        clock = self.machine.network.clock
        self._keep_alive_call = clock.callLater(seconds, self._silent)

    def _silent(self) -> None:
        self._keep_alive_call = None
        if not self._keep_alive or not self.connected:
            return
        tcp = self.machine.network.tcp
        idle_ns = self.machine.network.clock.ns - self.heard_ns
        if idle_ns < nanoseconds(tcp.keep_alive):
            self._watch_silence(tcp.keep_alive - idle_ns / SECOND)
            return
        out = self._out
        answered = False
        if out.link.passes():
            if out.sink.gone:
                self._connection.answer(out, out.link.latency_ns)
            else:
                answered = out.back.link.passes()
        if answered:
            self.heard_ns = self.machine.network.clock.ns
            self._keep_alive_failures = 0
            self._watch_silence(tcp.keep_alive)
            return
        self._keep_alive_failures += 1
        if self._keep_alive_failures > tcp.keep_alive_probes:
            self._connection.give_up(self)
        else:
            self._watch_silence(tcp.keep_alive_interval)

    # --- what StreamTransport asks for ---

    def _touch(self) -> None:
        self._out.push()
        if self._report_call is None and self._has_to_tell():
            clock = self.machine.network.clock
            self._report_call = clock.call_at(clock.ns, self._report)

    def _leave(self) -> None:
        self._connection.abort(self)

    def _has_to_tell(self) -> bool:
        if self._ending is not None:
            return True
        if not self.connected:
            return False
        if self._out.back.readable and self.reading:
            return True
        if not self._watched or self._waiting:
            return False
        if (
            self.disconnecting
            or (self._write_ending and not self._write_ended)
            or (self.producer is not None and (self.producer_paused or not self.streaming))
        ):
            return True
        self._watched = False
        return False

    def _report(self) -> None:
        """The turn of the reactor in which it notices what became of the socket."""
        self._report_call = None
        if not self.connected:
            return
        if self._ending is not None:
            self._run(self._end, self._ending)
            return
        self._out.back.read()
        if self.connected and not self._waiting:
            self._run(self._drained)
            if self._write_ended and not self.gone:
                self._out.end()
        if self.connected:
            self._touch()

    def _end(self, reason: Failure) -> None:
        if not self.connected:
            return
        self._close(reason.check(ConnectionLost) is None)
        super()._end(reason)
        if self.on_lost is not None:
            self.on_lost(reason)

    def _close(self, orderly: bool) -> None:
        """The process lets go of the socket."""
        self.machine._transports.pop(self, None)
        for call in (self._report_call, self._keep_alive_call):
            if call is not None:
                call.cancel()
        self._report_call = self._keep_alive_call = None
        if self.gone:
            return
        if not orderly:
            self._gone = True
        elif self._out.back.held:
            # What was sent to it has not been read: the other side has to know.
            self._connection.refuse(self)
        else:
            self._out.end()

    def _run(self, call: Callable[..., object], *args: object) -> None:
        """Call a protocol as a reactor does: what it raises costs it its connection."""
        try:
            call(*args)
        except Exception:
            _log.failure("a protocol on {host} failed", host=self.machine.name)
            reason = Failure()
            try:
                self._end(reason)
            except Exception:
                _log.failure("a protocol on {host} failed again", host=self.machine.name)

    def _detach(self) -> None:
        """The process is no more: none of its code runs, and nothing is told to it."""
        self.connected = False
        self.disconnecting = True
        self.protocol = self.producer = self._ending = self.on_lost = None
        self._waiting.clear()


class _Connection:
    """Both ends and both directions of a TCP connection."""

    __slots__ = ("_attempt", "_port", "client", "network", "server")

    def __init__(self, attempt: _Attempt, port: SimPort) -> None:
        self._attempt = attempt
        self._port = port
        self.network = attempt.source.network
        source, sink = attempt.source, port.machine
        self.client = SimTransport(source, attempt.local, attempt.target)
        self.server = SimTransport(sink, attempt.target, attempt.local)
        forth = _Pipe(self, self.client, self.server, attempt.forth)
        back = _Pipe(self, self.server, self.client, attempt.back)
        forth.back, back.back = back, forth
        for transport, pipe in ((self.client, forth), (self.server, back)):
            transport._connection = self
            transport._out = pipe

    def accept(self) -> bool:
        """
        The handshake is complete at the listener.

        @return: is there a transport?
        """
        port = self._port
        if port._opening.pop(self._attempt, None) is None or not port.listening:
            self.refuse(self.server)
            return False
        server = self.server
        self.network._event("net.accept", server, self.client)
        protocol: Any = None
        try:
            protocol = port.factory.buildProtocol(self._attempt.local)
        except Exception:
            _log.failure("the factory of a port on {host} failed", host=server.machine.name)
        server._connect(Protocol() if protocol is None else protocol)
        server.machine._transports[server] = None
        server._run(server.protocol.makeConnection, server)
        if protocol is None:
            server.loseConnection()
        return True

    def abort(self, leaving: SimTransport) -> None:
        """One side wants no more of it: nothing more is sent but a reset."""
        if not leaving.gone:
            flight = leaving._out.flight
            now = self.network.clock.ns
            if flight and flight[-1].sent_ns == now and not flight[-1].attempt:
                # A reactor would not have come to send it.
                last = flight.pop()
                if last.call is not None:
                    last.call.cancel()
            self.refuse(leaving)

    def refuse(self, leaving: SimTransport) -> None:
        """The kernel of one side knows it no more, and tells the other side."""
        out = leaving._out
        self._reset(out, out._last_ns)
        leaving._gone = True
        self._forget(out.back)

    def answer(self, pipe: _Pipe, in_ns: int = 0) -> None:
        """Something came that the sink does not know, or will come in so many nanoseconds."""
        back = pipe.back
        self._reset(back, self.network.clock.ns + in_ns + back.link.latency_ns)

    def _reset(self, pipe: _Pipe, after_ns: int) -> None:
        """One packet, which may be lost like any other, and is not sent again."""
        link = pipe.link
        if link.passes() and not link.loses():
            due = max(link.transit(0, self.network.clock.ns), after_ns)
            self.network.clock.call_at(due, self._reset_arrives, pipe)

    def _reset_arrives(self, pipe: _Pipe) -> None:
        if pipe.link.passes():
            self.end(pipe.sink, "net.reset")

    def end(self, transport: SimTransport, why: str) -> None:
        """It is over for one side, now."""
        if transport.gone:
            return
        self.network.resets += why == "net.reset"
        self.network._event(why, transport, self.other(transport))
        transport._gone = True
        transport._out.drop()
        self._forget(transport._out.back)
        transport._reset()
        if transport._ending is not None and transport.connected:
            transport._run(transport._end, transport._ending)

    def give_up(self, transport: SimTransport) -> None:
        """One side has heard nothing for too long."""
        self.end(transport, "net.timeout")

    def other(self, transport: SimTransport) -> SimTransport:
        """The opposite end."""
        return self.server if transport is self.client else self.client

    def _forget(self, pipe: _Pipe) -> None:
        """The sink is gone: what it had not read is, too."""
        pipe.held.clear()
        pipe._held_end = False


# --- connecting --------------------------------------------------------------------


class _Attempt:
    """
    A handshake from its first segment to its second: what a connector takes for a transport
    until there is one.

    @ivar connection: both sockets, once the listener has answered.
    """

    def __init__(
        self, connector: SimConnector, source: NetHost, local: IPv4Address, target: IPv4Address
    ) -> None:
        self._connector = connector
        self._clock = source.network.clock
        self.source = source
        self.local = local
        self.target = target
        self._sink = source._at(target.host)
        self.forth: _Link
        self.back: _Link
        self._port: SimPort | None = None
        self.connection: _Connection | None = None
        self._number = 0
        self._sent_ns = 0
        self._done = False
        source._attempts[self] = None
        if self._sink is not None:
            self.forth = source.network._link(source, self._sink)
            self.back = source.network._link(self._sink, source)
            self._call = self._clock.call_at(self._clock.ns, self._send)
        else:
            # Nobody is there, not even somebody to refuse.
            tcp = source.network.tcp
            unanswered = tcp.connect_rto * (2 ** (tcp.connect_retries + 1) - 1)
            self._call = self._clock.callLater(unanswered, self._unanswered)

    def _send(self) -> None:
        self._sent_ns = self._clock.ns
        self._on_its_way(self.forth, self._arrives)

    def _on_its_way(self, link: _Link, arrives: Callable[[], None]) -> None:
        if link.loses():
            self._again()
        else:
            self._call = self._clock.call_at(link.transit(0, self._clock.ns), arrives)

    def _again(self) -> None:
        tcp = self.source.network.tcp
        due = self._sent_ns + (nanoseconds(tcp.connect_rto) << self._number)
        self._number += 1
        over = self._number > tcp.connect_retries
        self._call = self._clock.call_at(due, self._unanswered if over else self._send)

    def _arrives(self) -> None:
        assert self._sink is not None
        if not self.forth.passes():
            self._again()
            return
        self._port = self._sink._port_at(self.target)
        if self._port is None:
            self._on_its_way(self.back, self._refused)
        elif self._port._open(self):
            self.connection = self._port._opening[self][0]
            self._on_its_way(self.back, self._established)
        else:
            self.source.network._event_at("net.full", self._sink, self.target.port)
            self._again()

    def _refused(self) -> None:
        if self.back.passes():
            self._fail(ConnectionRefusedError())
        else:
            self._again()

    def _unanswered(self) -> None:
        self._fail(TCPTimedOutError())

    def _established(self) -> None:
        if not self.back.passes():
            self._again()
            return
        self._over()
        assert self.connection is not None
        connection = self.connection
        client = connection.client
        self.source.network._event("net.connect", client, connection.server)
        connector = self._connector
        protocol: Any = None
        try:
            protocol = connector.buildProtocol(self.target)
        except Exception:
            _log.failure("the factory of a client on {host} failed", host=self.source.name)
        connector.transport = client
        client.on_lost = connector.connectionLost
        client._connect(Protocol() if protocol is None else protocol)
        self.source._transports[client] = None
        client._out.open()
        client._run(client.protocol.makeConnection, client)
        if protocol is None:
            client.loseConnection()

    def failIfNotConnected(self, reason: Exception) -> None:
        """Called by the connector when it has waited long enough, or does not want to."""
        if not self._done:
            self._fail(reason)

    def _fail(self, reason: Exception) -> None:
        self._over()
        if self._port is not None:
            # Its answer to the listener's answer would be a reset.
            self._port._opening.pop(self, None)
        try:
            self._connector.connectionFailed(Failure(reason))
        except Exception:
            _log.failure("the factory of a client on {host} failed", host=self.source.name)

    def _over(self) -> None:
        self._done = True
        self.source._attempts.pop(self, None)
        if self._call.active():
            self._call.cancel()

    def detach(self) -> None:
        """The process is no more: nobody is told."""
        self._over()
        self._connector.cancelTimeout()


class SimConnector(BaseConnector):
    """What C{connectTCP} gives: Twisted's own, on the clock of the world."""

    def __init__(
        self,
        machine: NetHost,
        target: IPv4Address,
        factory: Any,
        timeout: float | None,
        bind: tuple[str, int] | None,
    ) -> None:
        clock: Any = machine.network.clock
        limit: Any = timeout
        super().__init__(factory, limit, clock)
        self.transport: Any
        self._machine = machine
        self._target = target
        self._bind = bind

    def _makeTransport(self) -> Any:
        host, port = self._bind or ("", 0)
        own = _LOOPBACK if self._target.host.startswith("127.") else self._machine.address
        local = IPv4Address("TCP", host or own, port or self._machine._next_port())
        return _Attempt(self, self._machine, local, self._target)

    def getDestination(self) -> IAddress:
        return self._target

    def __repr__(self) -> str:
        return f"<SimConnector {self.state} {self._target.host}:{self._target.port}>"


@implementer(IListeningPort)
class SimPort:
    """
    A port on which a host listens.

    @ivar machine: the host.
    @ivar factory: makes the protocols.
    @ivar backlog: handshakes that may be under way; further ones are not answered.
    @ivar listening: does it?
    """

    def __init__(
        self, machine: NetHost, interface: str, port: int, factory: Any, backlog: int
    ) -> None:
        self.machine = machine
        self.factory = factory
        self.backlog = backlog
        self.listening = False
        self._key = (interface, port)
        self._address = IPv4Address("TCP", interface or "0.0.0.0", port)
        self._opening: dict[_Attempt, tuple[_Connection, int]] = {}

    def startListening(self) -> None:
        interface, port = self._key
        for host, taken in self.machine._ports:
            if taken == port and (host == interface or not host or not interface):
                raise _cannot_listen(self._address, errno.EADDRINUSE)
        self.machine._ports[self._key] = self
        self.listening = True
        self.factory.doStart()

    def stopListening(self) -> Deferred[None]:
        if self.listening:
            self._stop()
            self.factory.doStop()
        return succeed(None)

    def getHost(self) -> IAddress:
        return self._address

    def _stop(self) -> None:
        self.listening = False
        self.machine._ports.pop(self._key, None)
        self._opening.clear()

    def _open(self, attempt: _Attempt) -> bool:
        """@return: is there room for another handshake?"""
        opening = self._opening
        if attempt not in opening:
            now = self.machine.network.clock.ns
            if len(opening) >= self.backlog:
                # Whoever began them may have crashed.
                for old in [old for old, (_, until_ns) in opening.items() if until_ns <= now]:
                    del opening[old]
            if len(opening) >= self.backlog:
                return False
            opening[attempt] = (_Connection(attempt, self), now + _OPENING_NS)
        return True

    def __repr__(self) -> str:
        return f"<SimPort {self._address.host}:{self._address.port}>"


def _cannot_listen(address: IPv4Address, number: int) -> CannotListenError:
    return CannotListenError(address.host, address.port, OSError(number, os.strerror(number)))


# --- hosts and the network ---------------------------------------------------------


@implementer(IReactorTCP)
class NetHost:
    """
    What a host has of the network: an address, a loopback interface, ports, connections.
    It is what a reactor of that host has for TCP.

    @ivar network: it is one of.
    @ivar name: unique in the network.
    @ivar address: dotted quad.
    @ivar up: does its kernel run?
    @ivar boots: how often it was started anew.
    @ivar group: its side of a partition, or L{None}.
    @ivar mute: neither sends nor gets anything, for lack of power or as it was silenced.
    """

    def __init__(self, network: SimNetwork, name: str, address: str) -> None:
        self.network = network
        self.name = name
        self.address = address
        self.up = True
        self.boots = 0
        self.group: int | None = None
        self.silent = False
        self.mute = False
        self._ports: dict[tuple[str, int], SimPort] = {}
        self._ports_given = 0
        # In the order in which they were made.
        self._transports: dict[SimTransport, None] = {}
        self._attempts: dict[_Attempt, None] = {}

    @property
    def transports(self) -> Sequence[SimTransport]:
        """Its connections, the oldest first."""
        return list(self._transports)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> SimPort:
        """
        See C{IReactorTCP}.

        @param interface: its address, one that begins with C{127.}, or all of them.
        @raise CannotListenError: if the port is taken, or the address is not its own.
        """
        host = "" if interface == "0.0.0.0" else interface
        if host and host != self.address and not host.startswith("127."):
            raise _cannot_listen(IPv4Address("TCP", host, port), errno.EADDRNOTAVAIL)
        listening = SimPort(self, host, port or self._next_port(), factory, backlog)
        listening.startListening()
        return listening

    def connectTCP(
        self,
        host: str,
        port: int,
        factory: Any,
        timeout: float | None = 30,
        bindAddress: tuple[str, int] | None = None,
    ) -> IConnector:
        """
        See C{IReactorTCP}.

        @param host: dotted quad.
        @param timeout: seconds; L{None} leaves it to the kernel.
        @param bindAddress: own address and port to connect from, where they are not empty.
        """
        connector = SimConnector(
            self, IPv4Address("TCP", host, port), factory, timeout, bindAddress
        )
        connector.connect()
        return connector

    def crash(self, *, power: bool = True) -> None:
        """
        The process is no more: none of its code is called again by the network.

        @param power: the whole host is gone.  It answers nothing, until it is started
            again, and then does not know its connections.  If not, its kernel closes them.
        """
        if power:
            self.boots += 1
            self.up = False
            self._mute()
        for port in list(self._ports.values()):
            port._stop()
        for attempt in list(self._attempts):
            attempt.detach()
        for transport in list(self._transports):
            transport._close(True)
            transport._detach()

    def restart(self) -> None:
        """Its kernel runs again."""
        self.up = True
        self._mute()

    def silence(self, silent: bool = True) -> None:
        """Nothing gets in or out, though it runs; or it does again."""
        self.silent = silent
        self._mute()

    def _mute(self) -> None:
        self.mute = self.silent or not self.up

    def _at(self, address: str) -> NetHost | None:
        """Whom it reaches at an address."""
        if address.startswith("127.") or address == self.address:
            return self
        return self.network._addresses.get(address)

    def _port_at(self, target: IPv4Address) -> SimPort | None:
        found = self._ports.get((target.host, target.port))
        return self._ports.get(("", target.port)) if found is None else found

    def _next_port(self) -> int:
        """A port that was not used for long."""
        self._ports_given += 1
        return _FIRST_PORT + self._ports_given % (_LAST_PORT + 1 - _FIRST_PORT)

    def __repr__(self) -> str:
        return f"<NetHost {self.name} {self.address}>"


class SimNetwork:
    """
    See the module.  Hosts are named by their names.

    @ivar clock: of the world.
    @ivar seeds: of the world.
    @ivar tcp: what all kernels do.
    @ivar cuts: how likely a segment reaches the protocol in two pieces.
    @ivar hosts: by name, in the order in which they were made.
    @ivar segments: how many arrived with data.
    @ivar bytes: how many they held.
    @ivar retransmissions: how many were sent again.
    @ivar resets: connections that ended for one side by a reset.
    """

    def __init__(
        self,
        clock: SimClock,
        seeds: Seeds,
        trace: Trace | None = None,
        *,
        tcp: Tcp | None = None,
        latency: float = 0.02,
        jitter: float = 0.0,
        bandwidth: float | None = None,
        loss: float = 0.0,
        cuts: float = 0.0,
    ) -> None:
        """
        @param trace: is told of each segment, and of what becomes of connections.
        @param latency: seconds one way, for links that are not set otherwise.
        @param jitter: seconds that are added to it, at most.
        @param bandwidth: bytes in a second; no limit, if L{None}.
        @param loss: how likely a segment is lost.
        """
        self.clock = clock
        self.seeds = seeds
        self.tcp = Tcp() if tcp is None else tcp
        self.cuts = cuts
        self.hosts: dict[str, NetHost] = {}
        self.segments = 0
        self.bytes = 0
        self.retransmissions = 0
        self.resets = 0
        self._trace = trace
        self._addresses: dict[str, NetHost] = {}
        self._links: dict[tuple[str, str], _Link] = {}
        self._usual = _Quality(0, 0, None, 0.0).changed(latency, jitter, bandwidth, loss)

    def host(self, name: str, address: str | None = None) -> NetHost:
        """
        Connect a host.

        @param address: dotted quad; the next of C{10.0.0.0/8}, if not given.
        @raise ValueError: if the name or the address is taken.
        """
        if address is None:
            number = len(self.hosts) + 1
            address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        if name in self.hosts or address in self._addresses:
            raise ValueError(f"there is a host {name} or at {address} already")
        made = self.hosts[name] = self._addresses[address] = NetHost(self, name, address)
        return made

    def attach(self, name: str, *, behind: Any = None) -> str:
        """
        Connect a host, and tell its address; see L{host}.

        @param behind: what stands between it and the others.
        """
        if behind is not None:
            raise ValueError("nothing can stand between a host and the others yet")
        return self.host(name).address

    def server_endpoint(self, port: int, host: str) -> IStreamServerEndpoint:
        """Twisted's endpoint, on the host with that address."""
        return TCP4ServerEndpoint(self._addresses[host], port, interface=host)

    def client_endpoint(
        self, port: int, host: str, *, source: str, timeout: float = 30
    ) -> IStreamClientEndpoint:
        """Twisted's endpoint, on the host with the address C{source}."""
        return TCP4ClientEndpoint(self._addresses[source], host, port, timeout)

    # --- how links are ---

    def link(
        self,
        first: str,
        second: str,
        *,
        latency: float | None = None,
        jitter: float | None = None,
        bandwidth: float | None = None,
        loss: float | None = None,
        both: bool = True,
    ) -> None:
        """
        Set how the link between two hosts is, as far as it is said; see L{__init__}.

        @param both: not only from the first to the second.
        """
        for link in self._between(first, second, both):
            link.change(latency=latency, jitter=jitter, bandwidth=bandwidth, loss=loss)

    def usual(self, first: str, second: str, *, both: bool = True) -> None:
        """Make a link what all are that are not set otherwise."""
        for link in self._between(first, second, both):
            link.become(self._usual)

    # --- faults ---

    def block(self, first: str, second: str, *, both: bool = True) -> None:
        """Swallow all between two hosts; or only from the first to the second."""
        for link in self._between(first, second, both):
            link.blocked = True
        self._event_named("net.block", first, to=second, both=both)

    def partition(self, groups: Sequence[Collection[str]]) -> None:
        """
        Swallow all between hosts of different groups.  Hosts of none reach everybody.

        @raise ValueError: if a host is in two groups.
        """
        named = [sorted(group) for group in groups]
        names = [name for group in named for name in group]
        if len(names) != len({*names}):
            raise ValueError("a host is on two sides of the partition")
        for host in self.hosts.values():
            host.group = None
        for number, group in enumerate(named):
            for name in group:
                self.hosts[name].group = number
        self._event_named("net.partition", "", groups=named)

    def heal(self) -> None:
        """End all partitions, blocks and silences.  Links stay as slow as they are."""
        for host in self.hosts.values():
            host.group = None
            host.silence(False)
        for link in self._links.values():
            link.blocked = False
        self._event_named("net.heal", "")

    def silence(self, name: str) -> None:
        """A host neither sends nor gets anything, though it runs."""
        self.hosts[name].silence()
        self._event_named("net.silence", name)

    def reset(self, first: str, second: str) -> int:
        """
        Something between two hosts resets their connections.

        @return: how many there were.
        """
        host, other = self.hosts[first], self.hosts[second]
        found = 0
        for transport in host.transports:
            connection = transport._connection
            if connection.other(transport).machine is other:
                found += 1
                for end in (transport, connection.other(transport)):
                    self.clock.call_at(self.clock.ns, connection.end, end, "net.reset")
        return found

    def crash(self, name: str, *, power: bool = True) -> None:
        """See L{NetHost.crash}."""
        self._event_named("net.crash", name, power=power)
        self.hosts[name].crash(power=power)

    def restart(self, name: str) -> None:
        """See L{NetHost.restart}."""
        self._event_named("net.restart", name)
        self.hosts[name].restart()

    # --- for the classes of this module ---

    def _between(self, first: str, second: str, both: bool) -> list[_Link]:
        one, other = self.hosts[first], self.hosts[second]
        links = [self._link(one, other)]
        return [*links, self._link(other, one)] if both else links

    def _link(self, source: NetHost, sink: NetHost) -> _Link:
        key = (source.name, sink.name)
        found = self._links.get(key)
        if found is None:
            found = self._links[key] = _Link(self, source, sink)
        return found

    def _pieces(self, link: _Link, segment: _Segment) -> tuple[bytes, ...]:
        """What the protocol gets at once, each time."""
        chunks = segment.chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if self.cuts and len(data) > 1 and link.draws("cuts").random() < self.cuts:
            place = 1 + int(link.draws("cuts").random() * (len(data) - 1))
            return data[:place], data[place:]
        return (data,)

    def _delivered(self, pipe: _Pipe, segment: _Segment) -> None:
        self.segments += 1
        self.bytes += segment.size
        if self._trace is not None:
            source, sink = pipe.source, pipe.sink
            self._trace.event(
                "net.data",
                sink.machine.name,
                source=source.machine.name,
                ports=[source.port, sink.port],
                data=b"".join(segment.chunks),
            )

    def _event(self, kind: str, transport: SimTransport, other: SimTransport) -> None:
        if self._trace is not None:
            self._trace.event(
                kind,
                transport.machine.name,
                peer=other.machine.name,
                ports=[transport.port, other.port],
            )

    def _event_at(self, kind: str, host: NetHost, port: int) -> None:
        if self._trace is not None:
            self._trace.event(kind, host.name, port=port)

    def _event_named(self, kind: str, name: str, **details: Any) -> None:
        if self._trace is not None:
            self._trace.event(kind, name, **details)
