"""
TCP as a kernel sees it: segments, windows, retransmission, resets.

See L{meshkit.sim.network} for what is simulated and what is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.sim.clock import SECOND, SimCall, nanoseconds
from meshkit.sim.links import Link
from meshkit.sim.nat import Crossing
from meshkit.testing.transports import StreamTransport

if TYPE_CHECKING:
    from meshkit.sim.handshakes import Attempt, SimPort
    from meshkit.sim.network import NetHost, Route

_log = Logger()

#: Bytes of a segment, at most: what Twisted reads from a socket at once.
BURST: Final = 65536

# Words of the receiver that are remembered before those that have come are looked at.
_MANY_ACKS: Final = 64


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


_FLYING: Final = 0
_ARRIVED: Final = 1
_HELD_BACK: Final = 2


class Segment:
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


class Pipe:
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
        "connection",
        "_failures",
        "_held_end",
        "last_ns",
        "_limit",
        "_probe_call",
        "_read",
        "_sent",
        "_stalled",
        "_tries",
        "_unacknowledged",
        "_wake_call",
        "back",
        "crossing",
        "ended",
        "flight",
        "held",
        "link",
        "sink",
        "source",
    )

    def __init__(
        self, connection: Connection, source: SimTransport, sink: SimTransport, link: Link
    ) -> None:
        self.connection = connection
        self._clock = link.network.clock
        self.source = source
        self.sink = sink
        self.link = link
        self.back: Pipe
        #: What stands between both hosts.
        self.crossing: Crossing | None = None
        self.flight: list[Segment] = []
        #: What arrived while the reader was paused.
        self.held: list[bytes] = []
        self._held_end = False
        self.ended = False
        self._sent = 0
        self._read = 0
        self._limit = link.network.tcp.window
        self._acks: list[tuple[int, int]] = []
        self.last_ns = 0
        self._stalled = False
        self._blocked = False
        self._unacknowledged = False
        self._tries = 0
        self._failures = 0
        self._wake_call: SimCall | None = None
        self._probe_call: SimCall | None = None

    def passes(self) -> bool:
        """Does what arrives now arrive?"""
        return self.link.passes() and (self.crossing is None or self.crossing.passes())

    @property
    def unknown(self) -> bool:
        """Does the sink's kernel not know what has just come?"""
        return self.sink.gone or (self.crossing is not None and self.crossing.stray)

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
        segment = Segment(data, opens, ends, now)
        self.flight.append(segment)
        if not self._stalled:
            self._launch(segment, now)

    def _launch(self, segment: Segment, begin_ns: int) -> None:
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
            self.last_ns = max(due, self.last_ns)
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
        if not self.passes():
            self._unanswered()
        elif self.unknown:
            self.connection.answer(self, self.link.latency_ns)
            self._start_probe()
        elif not self.back.passes():
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

    def _expire(self, segment: Segment) -> None:
        segment.call = None
        self._give_up()

    def _give_up(self) -> None:
        self.connection.give_up(self.source)

    def stop(self) -> None:
        """The source is no more: only what is on its way arrives, and nothing waits."""
        now = self._clock.ns
        left = [
            place
            for place, segment in enumerate(self.flight)
            if segment.sent_ns > now or (segment.state != _ARRIVED and segment.call is None)
        ]
        self._cut(left[0] if left else len(self.flight))

    def drop(self) -> None:
        """It is over: not even what is on its way arrives."""
        self._cut(0)

    def _cut(self, place: int) -> None:
        for segment in self.flight[place:]:
            if segment.call is not None:
                segment.call.cancel()
        del self.flight[place:]
        self._acks.clear()
        for call in (self._wake_call, self._probe_call):
            if call is not None:
                call.cancel()
        self._wake_call = self._probe_call = None

    # --- the sink ---

    def _arrive(self, segment: Segment) -> None:
        segment.call = None
        if not self.passes():
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

    def _swallowed(self, segment: Segment) -> None:
        if self.source.gone:
            # Nobody is there who would send it again.
            self.stop()
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

    def _take(self, segment: Segment) -> None:
        """The next piece of the stream is in the sink's kernel."""
        sink = self.sink
        network = self.link.network
        if self.unknown:
            self.connection.answer(self)
            return
        if self.back.passes():
            self._unacknowledged = False
        else:
            self._unacknowledged = True
            self._start_probe()
        sink.heard_ns = self._clock.ns
        if segment.opens and not self.connection.accept():
            return
        if segment.size:
            network.delivered(self, segment)
            if not sink.connected:
                # It closed, and will not read this.
                self.connection.refuse(sink)
                return
            for piece in self._pieces(segment):
                if sink.reading and not self.held:
                    self._hand_over(piece)
                elif not sink.gone:
                    self.held.append(piece)
        if segment.ends:
            self._held_end = True
            self.read()

    def forget(self) -> None:
        """The sink is gone, and what it had not read with it."""
        self.held.clear()
        self._held_end = False

    def _pieces(self, segment: Segment) -> tuple[bytes, ...]:
        """What the protocol gets at once, each time."""
        link, chunks = self.link, segment.chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if link.network.cuts and len(data) > 1:
            draws = link.draws("cuts")
            if draws.random() < link.network.cuts:
                place = 1 + int(draws.random() * (len(data) - 1))
                return data[:place], data[place:]
        return (data,)

    def read(self) -> None:
        """Hand over what the sink has not read, if it reads."""
        sink = self.sink
        while self.held and sink.reading:
            self._hand_over(self.held.pop(0))
        if self._held_end and not self.held and sink.reading:
            self._held_end = False
            sink.run(sink._read_end)

    @property
    def readable(self) -> bool:
        """Is there something that was not read?"""
        return bool(self.held) or self._held_end

    def _hand_over(self, piece: bytes) -> None:
        self._read += len(piece)
        if self.back.passes():
            due = self._clock.ns + self.back.link.latency_ns
            if self._acks and self._acks[-1][0] == due:
                self._acks.pop()
            elif len(self._acks) >= _MANY_ACKS:
                self._learn()
            self._acks.append((due, self._read))
            if self._blocked:
                self._wake_at(due)
        self.sink.run(self.sink.protocol.dataReceived, piece)


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
        self.connection: Connection
        self.out: Pipe
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
        out = self.out
        answered = False
        if out.passes():
            if out.unknown:
                self.connection.answer(out, out.link.latency_ns)
            else:
                answered = out.back.passes()
        if answered:
            self.heard_ns = self.machine.network.clock.ns
            self._keep_alive_failures = 0
            self._watch_silence(tcp.keep_alive)
            return
        self._keep_alive_failures += 1
        if self._keep_alive_failures > tcp.keep_alive_probes:
            self.connection.give_up(self)
        else:
            self._watch_silence(tcp.keep_alive_interval)

    # --- what StreamTransport asks for ---

    def _touch(self) -> None:
        self.out.push()
        if self._report_call is None and self._has_to_tell():
            clock = self.machine.network.clock
            self._report_call = clock.call_at(clock.ns, self._report)

    def _leave(self) -> None:
        self.connection.abort(self)

    def _has_to_tell(self) -> bool:
        if self._ending is not None:
            return True
        if not self.connected:
            return False
        if self.out.back.readable and self.reading:
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
            self.run(self._end, self._ending)
            return
        self.out.back.read()
        if self.connected and not self._waiting:
            self.run(self._drained)
            if self._write_ended and not self.gone:
                self.out.end()
        if self.connected:
            self._touch()

    def _end(self, reason: Failure) -> None:
        if not self.connected:
            return
        self.let_go(reason.check(ConnectionLost) is None)
        try:
            super()._end(reason)
        finally:
            # Not before, as the power may fail in there.
            self.machine.sockets.pop(self, None)
        if self.on_lost is not None:
            self.on_lost(reason)

    def let_go(self, orderly: bool) -> None:
        """The process lets go of the socket."""
        for call in (self._report_call, self._keep_alive_call):
            if call is not None:
                call.cancel()
        self._report_call = self._keep_alive_call = None
        if self.gone:
            return
        if not orderly:
            self._gone = True
        elif self.out.back.held:
            # What was sent to it has not been read: the other side has to know.
            self.connection.refuse(self)
        else:
            self.out.end()

    def run(self, call: Callable[..., object], *args: object) -> None:
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

    def detach(self) -> None:
        """The process is no more: none of its code runs, and nothing is told to it."""
        self.connected = False
        self.disconnecting = True
        self.protocol = self.producer = self._ending = self.on_lost = None
        self._waiting.clear()
        self.machine.sockets.pop(self, None)


class Connection:
    """Both ends and both directions of a TCP connection."""

    __slots__ = ("_attempt", "_port", "client", "network", "server")

    def __init__(self, attempt: Attempt, port: SimPort, route: Route) -> None:
        self._attempt = attempt
        self._port = port
        self.network = attempt.source.network
        source, sink = attempt.source, port.machine
        self.client = SimTransport(source, attempt.local, attempt.target)
        self.server = SimTransport(
            sink, IPv4Address("TCP", *route.place), IPv4Address("TCP", *route.seen)
        )
        forth = Pipe(self, self.client, self.server, route.forth)
        back = Pipe(self, self.server, self.client, route.back)
        forth.back, back.back = back, forth
        forth.crossing, back.crossing = route.crossings
        for transport, pipe in ((self.client, forth), (self.server, back)):
            transport.connection = self
            transport.out = pipe

    def accept(self) -> bool:
        """
        The handshake is complete at the listener.

        @return: is there a transport?
        """
        port = self._port
        if port.opening.pop(self._attempt, None) is None or not port.listening:
            self.refuse(self.server)
            return False
        server = self.server
        self.network.tell_of("net.accept", server, self.client)
        protocol: Any = None
        try:
            protocol = port.factory.buildProtocol(server.getPeer())
        except Exception:
            _log.failure("the factory of a port on {host} failed", host=server.machine.name)
        if server.gone:
            # The power failed meanwhile.
            return False
        server._connect(Protocol() if protocol is None else protocol)
        server.machine.sockets[server] = None
        server.run(server.protocol.makeConnection, server)
        if protocol is None:
            server.loseConnection()
        return True

    def abort(self, leaving: SimTransport) -> None:
        """One side wants no more of it: nothing more is sent but a reset."""
        if not leaving.gone:
            flight = leaving.out.flight
            now = self.network.clock.ns
            if flight and flight[-1].sent_ns == now and not flight[-1].attempt:
                # A reactor would not have come to send it.
                last = flight.pop()
                if last.call is not None:
                    last.call.cancel()
            self.refuse(leaving)

    def refuse(self, leaving: SimTransport) -> None:
        """The kernel of one side knows it no more, and tells the other side."""
        out = leaving.out
        self._reset(out, out.last_ns)
        leaving._gone = True
        out.stop()
        out.back.forget()

    def answer(self, pipe: Pipe, in_ns: int = 0) -> None:
        """Something came that the sink does not know, or will come in so many nanoseconds."""
        back = pipe.back
        self._reset(back, self.network.clock.ns + in_ns + back.link.latency_ns)

    def _reset(self, pipe: Pipe, after_ns: int) -> None:
        """One packet, which may be lost like any other, and is not sent again."""
        link = pipe.link
        if self._reaches(pipe) and not link.loses():
            due = max(link.transit(0, self.network.clock.ns), after_ns)
            self.network.clock.call_at(due, self._reset_arrives, pipe)

    def _reaches(self, pipe: Pipe) -> bool:
        """Does a reset arrive?  That for a stray goes to where it came from."""
        stray = pipe.back.crossing is not None and pipe.back.crossing.stray
        return pipe.link.passes() if stray else pipe.passes()

    def _reset_arrives(self, pipe: Pipe) -> None:
        if self._reaches(pipe):
            self.end(pipe.sink, "net.reset")

    def end(self, transport: SimTransport, why: str) -> None:
        """It is over for one side, now."""
        if transport.gone:
            return
        self.network.resets += why == "net.reset"
        self.network.tell_of(why, transport, self.other(transport))
        transport._gone = True
        transport.out.drop()
        transport.out.back.forget()
        transport._reset()
        if transport._ending is not None and transport.connected:
            transport.run(transport._end, transport._ending)

    def give_up(self, transport: SimTransport) -> None:
        """One side has heard nothing for too long."""
        self.end(transport, "net.timeout")

    def other(self, transport: SimTransport) -> SimTransport:
        """The opposite end."""
        return self.server if transport is self.client else self.client
