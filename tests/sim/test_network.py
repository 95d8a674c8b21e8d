"""
The simulated network keeps what TCP promises, and what it does not promise it breaks.
"""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import (
    CannotListenError,
    ConnectingCancelledError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    TCPTimedOutError,
)
from twisted.internet.error import TimeoutError as ConnectTimeoutError
from twisted.internet.interfaces import (
    IConnector,
    IConsumer,
    IHalfCloseableProtocol,
    IListeningPort,
    IPushProducer,
    IReactorTCP,
    ITCPTransport,
)
from twisted.internet.protocol import ClientFactory, Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from meshkit.sim.clock import SimClock
from meshkit.sim.network import SimNetwork, Tcp
from meshkit.sim.seeds import Seeds
from meshkit.sim.streams import BURST, SimTransport
from meshkit.sim.trace import Trace
from meshkit.testing.transports import HIGH_WATER

PORT = 7655
LATENCY = 0.05


class Recorder(Protocol):
    """Keeps what it gets, and when the connection ended and why."""

    def __init__(self, clock: SimClock) -> None:
        self.clock = clock
        self.received = bytearray()
        self.pieces: list[int] = []
        self.made = 0
        self.lost: list[tuple[float, type[BaseException]]] = []

    def connectionMade(self) -> None:
        self.made += 1

    def dataReceived(self, data: bytes) -> None:
        assert not self.lost
        self.received += data
        self.pieces.append(len(data))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        assert reason.type is not None
        self.lost.append((self.clock.seconds(), reason.type))

    @property
    def raw(self) -> SimTransport:
        assert isinstance(self.transport, SimTransport)
        return self.transport

    @property
    def why(self) -> type[BaseException] | None:
        return self.lost[0][1] if self.lost else None


@implementer(IHalfCloseableProtocol)
class HalfRecorder(Recorder):
    read_ended = write_ended = 0

    def readConnectionLost(self) -> None:
        self.read_ended += 1

    def writeConnectionLost(self) -> None:
        self.write_ended += 1


class Client(ClientFactory):
    def __init__(self, make: Any) -> None:
        self.make = make
        self.events: list[Any] = []
        self.protocols: list[Any] = []

    def buildProtocol(self, addr: Any) -> Any:
        self.protocols.append(self.make())
        return self.protocols[-1]

    def startedConnecting(self, connector: Any) -> None:
        self.events.append("started")

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        self.events.append(reason.type)

    def clientConnectionLost(self, connector: Any, reason: Failure) -> None:
        self.events.append(("lost", reason.type))


class Producer:
    def __init__(self, consumer: Any = None, parts: int = 0, size: int = 1) -> None:
        self.events: list[str] = []
        self.consumer = consumer
        self.parts = parts
        self.size = size

    def pauseProducing(self) -> None:
        self.events.append("pause")

    def resumeProducing(self) -> None:
        self.events.append("resume")
        if self.parts:
            self.parts -= 1
            self.consumer.write(bytes(self.size))
        elif self.consumer is not None:
            self.consumer.unregisterProducer()

    def stopProducing(self) -> None:
        self.events.append("stop")


class NetworkTestCase(SynchronousTestCase):
    """Two hosts, C{ada} who dials and C{bob} who listens."""

    def make(self, seed: int = 1, **options: Any) -> SimNetwork:
        self.clock = SimClock()
        self.trace = Trace(self.clock, kept=None)
        options = {"latency": LATENCY} | options
        self.network = SimNetwork(self.clock, Seeds(seed), self.trace, **options)
        self.ada = self.network.host("ada")
        self.bob = self.network.host("bob")
        return self.network

    def listen(self, make: Any = None, backlog: int = 50) -> Any:
        self.servers: list[Any] = []

        def build(address: Any) -> Any:
            self.servers.append((make or (lambda: Recorder(self.clock)))())
            return self.servers[-1]

        factory = Factory()
        factory.buildProtocol = build  # type: ignore[method-assign,assignment]
        return self.bob.listenTCP(PORT, factory, backlog)

    def dial(self, make: Any = None, **options: Any) -> Client:
        factory = Client(make or (lambda: Recorder(self.clock)))
        self.connector = self.ada.connectTCP(self.bob.address, PORT, factory, **options)
        return factory

    def connect(
        self, client: Any = None, server: Any = None, seed: int = 1, **options: Any
    ) -> tuple[Any, Any]:
        self.make(seed, **options)
        self.listen(server and (lambda: server(self.clock)))
        self.factory = self.dial(client and (lambda: client(self.clock)))
        self.clock.advance(1.0)
        return self.factory.protocols[0], self.servers[0]

    def losing(self, name: str, *, both: bool = False) -> None:
        """From now on nothing of what a host sends arrives; others are not told."""
        self.network.block(name, "bob" if name == "ada" else "ada", both=both)


class ConnectingTests(NetworkTestCase):
    def test_it_provides_the_interfaces(self) -> None:
        client, server = self.connect()
        for interface in (ITCPTransport, IConsumer, IPushProducer):
            verifyObject(interface, client.transport)
        verifyObject(IReactorTCP, self.bob)
        verifyObject(IConnector, self.connector)
        verifyObject(IListeningPort, self.bob.listenTCP(1, Factory()))

    def test_the_dialler_is_connected_after_one_round_trip_the_listener_half_a_one_later(
        self,
    ) -> None:
        self.make()
        self.listen()
        factory = self.dial()
        self.clock.advance(2 * LATENCY - 0.001)
        self.assertEqual(factory.protocols, [])
        self.clock.advance(0.001)
        self.assertEqual((factory.protocols[0].made, self.servers), (1, []))
        self.clock.advance(LATENCY)
        self.assertEqual(self.servers[0].made, 1)
        client, server = factory.protocols[0].raw, self.servers[0].raw
        self.assertEqual(client.getHost(), server.getPeer())
        self.assertEqual(client.getPeer(), server.getHost())
        self.assertEqual((client.getPeer().host, client.getPeer().port), ("10.2.0.1", PORT))

    def test_a_host_is_a_reactor_for_endpoints(self) -> None:
        self.make()
        made = Factory.forProtocol(lambda: Recorder(self.clock))
        port: Any = self.successResultOf(TCP4ServerEndpoint(self.bob, 0).listen(made))
        target = port.getHost().port
        d: Deferred[Any] = TCP4ClientEndpoint(self.ada, self.bob.address, target).connect(made)
        self.assertNoResult(d)
        self.clock.advance(1)
        self.successResultOf(d).raw.write(b"x")
        late = self.network.client_endpoint(target, self.bob.address, source=self.ada.address)
        d = late.connect(made)
        d.cancel()
        self.failureResultOf(d, ConnectingCancelledError)
        self.clock.advance(1)

    def test_nobody_listens(self) -> None:
        self.make()
        factory = self.dial()
        self.clock.advance(2 * LATENCY - 0.001)
        self.assertEqual(factory.events, ["started"])
        self.clock.advance(0.001)
        self.assertEqual(factory.events, ["started", ConnectionRefusedError])
        self.assertEqual(factory.numPorts, 0)

    def test_a_silent_host_is_dialled_again_until_the_dialler_has_waited_enough(self) -> None:
        self.make()
        self.listen()
        self.network.silence("bob")
        factory = self.dial(timeout=30)
        self.clock.advance(29.9)
        self.assertEqual(factory.events, ["started"])
        self.clock.advance(0.1)
        self.assertEqual(factory.events, ["started", ConnectTimeoutError])
        self.assertEqual(self.clock.waiting, 0)

    def test_without_a_limit_of_its_own_the_kernel_gives_up(self) -> None:
        self.make()
        self.network.silence("bob")
        factories = [self.dial(timeout=None)]
        nobody = Client(lambda: None)
        self.ada.connectTCP("192.0.2.1", 1, nobody, timeout=None)
        factories.append(nobody)
        self.clock.advance(126.9)
        self.assertEqual([f.events for f in factories], [["started"]] * 2)
        self.clock.advance(0.2)
        self.assertEqual([f.events for f in factories], [["started", TCPTimedOutError]] * 2)

    def test_one_that_speaks_again_in_time_is_reached(self) -> None:
        self.make()
        self.listen()
        self.network.silence("bob")
        factory = self.dial()
        self.clock.advance(5)
        self.network.heal()
        self.clock.advance(1.9)
        self.assertEqual(factory.protocols, [])
        self.clock.advance(0.3)
        self.assertEqual(factory.protocols[0].made, 1)
        self.assertEqual(self.servers[0].made, 1)

    def test_the_backlog_is_finite_and_those_left_out_try_again(self) -> None:
        self.make()
        self.listen(backlog=3)
        factories = [self.dial() for _ in range(5)]
        self.clock.advance(0.9)
        self.assertEqual([len(f.protocols) for f in factories], [1, 1, 1, 0, 0])
        self.clock.advance(0.3)
        self.assertEqual([len(f.protocols) for f in factories], [1] * 5)

    def test_those_who_crash_in_a_handshake_do_not_fill_the_backlog_for_ever(self) -> None:
        self.make()
        self.listen(backlog=1)
        self.dial()
        self.clock.advance(1.5 * LATENCY)
        self.ada.crash()
        self.ada.restart()
        factory = self.dial(timeout=20)
        self.clock.advance(20)
        self.assertEqual(factory.events[-1], ConnectTimeoutError)
        factory = self.dial(timeout=120)
        self.clock.advance(120)
        self.assertEqual(len(factory.protocols), 1)

    def test_a_factory_that_builds_nothing_accepts_and_closes(self) -> None:
        self.make()
        factory = Factory()
        factory.buildProtocol = lambda addr: None  # type: ignore[method-assign]
        self.bob.listenTCP(PORT, factory)
        client = self.dial()
        self.clock.advance(1)
        self.assertEqual(client.protocols[0].why, ConnectionDone)
        self.assertEqual(client.events, ["started", ("lost", ConnectionDone)])

    def test_a_port_is_taken_once_and_free_when_it_stops(self) -> None:
        self.make()
        port = self.listen()
        with self.assertRaises(CannotListenError):
            self.bob.listenTCP(PORT, Factory(), interface=self.bob.address)
        with self.assertRaises(CannotListenError):
            self.bob.listenTCP(1, Factory(), interface="192.0.2.9")
        port.stopListening()
        self.bob.listenTCP(PORT, Factory(), interface=self.bob.address)
        self.bob.listenTCP(PORT, Factory(), interface="127.0.0.1")

    def test_a_port_that_stops_in_the_middle_of_a_handshake_resets(self) -> None:
        self.make()
        port = self.listen()
        factory = self.dial()
        self.clock.advance(2 * LATENCY)
        port.stopListening()
        self.clock.advance(1)
        self.assertEqual(factory.protocols[0].why, ConnectionLost)

    def test_loopback_is_its_own_and_never_cut(self) -> None:
        self.make()
        got: list[Any] = []
        for host in (self.ada, self.bob):
            host.listenTCP(1, Factory.forProtocol(lambda: Recorder(self.clock)), 50, "127.0.0.1")
            self.network.silence(host.name)
        factory = Client(lambda: Recorder(self.clock))
        self.ada.connectTCP("127.0.0.1", 1, factory)
        self.clock.advance(0.001)
        self.assertEqual(factory.protocols[0].raw.getHost().host, "127.0.0.1")
        outside = Client(lambda: Recorder(self.clock))
        self.network.heal()
        self.bob.connectTCP(self.ada.address, 1, outside)
        self.clock.advance(1)
        self.assertEqual(outside.events[1:], [ConnectionRefusedError], got)


class StreamTests(NetworkTestCase):
    def test_bytes_take_the_latency(self) -> None:
        client, server = self.connect()
        client.raw.write(b"ab")
        client.raw.write(b"c")
        self.clock.advance(LATENCY - 0.001)
        self.assertEqual(server.received, b"")
        self.clock.advance(0.001)
        self.assertEqual((bytes(server.received), server.pieces), (b"abc", [3]))
        self.assertEqual((self.network.segments, self.network.bytes), (1, 3))

    def test_a_segment_costs_one_call_of_the_clock(self) -> None:
        client, server = self.connect()
        before = self.clock.steps
        for _ in range(10):
            client.raw.write(b"header")
            client.raw.write(b"body")
            self.clock.advance(1)
        self.assertEqual(len(server.received), 100)
        self.assertEqual(self.clock.steps - before, 10)

    def test_bandwidth_is_shared_by_all_of_a_link(self) -> None:
        self.make(bandwidth=10_000.0)
        self.listen()
        clients = [self.dial().protocols for _ in range(2)]
        self.clock.advance(1)
        begin = self.clock.seconds()
        for (client,) in clients:
            client.raw.write(bytes(5_000))
        self.clock.advance(0.5 + LATENCY)
        self.assertEqual([len(server.received) for server in self.servers], [5_000, 0])
        self.clock.advance(0.5)
        self.assertEqual([len(server.received) for server in self.servers], [5_000, 5_000])
        self.assertAlmostEqual(self.clock.seconds() - begin, 1.05)

    def test_jitter_never_reorders(self) -> None:
        client, server = self.connect(jitter=0.5)
        for number in range(200):
            client.raw.write(number.to_bytes(2, "big"))
            self.clock.advance(0.01)
        self.clock.advance(1)
        self.assertEqual(bytes(server.received), b"".join(n.to_bytes(2, "big") for n in range(200)))

    def test_a_large_write_comes_in_pieces_of_what_is_read_at_once(self) -> None:
        client, server = self.connect()
        client.raw.write(bytes(3 * BURST + 1))
        self.clock.advance(1)
        self.assertEqual(server.pieces, [BURST, BURST, BURST, 1])

    def test_segments_are_in_the_trace_unless_somebody_else_puts_them_there(self) -> None:
        for trace_data in (True, False):
            client, server = self.connect(trace_data=trace_data)
            client.raw.write(b"secret")
            self.clock.advance(1)
            lines = b"".join(self.trace.lines)
            self.assertEqual((b"net.data" in lines, b"net.connect" in lines), (trace_data, True))

    def test_a_stream_is_cut_anywhere_if_asked_for(self) -> None:
        client, server = self.connect(cuts=1.0)
        client.raw.write(bytes(100))
        self.clock.advance(1)
        self.assertEqual((len(server.pieces), sum(server.pieces)), (2, 100))

    def test_a_protocol_that_raises_loses_its_connection_as_with_a_reactor(self) -> None:
        client, server = self.connect()

        def received(data: bytes) -> None:
            raise ZeroDivisionError

        server.dataReceived = received
        client.raw.write(b"x")
        self.clock.advance(1)
        self.assertEqual((server.why, client.why), (ZeroDivisionError, ConnectionDone))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class FlowTests(NetworkTestCase):
    def test_a_paused_reader_stops_the_sender(self) -> None:
        client, server = self.connect()
        server.raw.pauseProducing()
        producer = Producer()
        client.raw.registerProducer(producer, True)
        window = self.network.tcp.window
        client.raw.write(bytes(window))
        self.clock.advance(1)
        # The kernels hold all of it.
        self.assertEqual((client.raw.waiting, producer.events), (0, ["pause", "resume"]))
        client.raw.write(bytes(HIGH_WATER + 1))
        self.clock.advance(100)
        self.assertEqual(client.raw.waiting, HIGH_WATER + 1)
        self.assertEqual(producer.events, ["pause", "resume", "pause"])
        self.assertEqual(server.received, b"")
        server.raw.resumeProducing()
        self.clock.advance(1)
        self.assertEqual(len(server.received), window + HIGH_WATER + 1)
        self.assertEqual(producer.events, ["pause", "resume", "pause", "resume"])

    def test_pausing_inside_datareceived_holds_what_follows(self) -> None:
        client, server = self.connect()

        def received(data: bytes) -> None:
            Recorder.dataReceived(server, data)
            server.raw.pauseProducing()

        server.dataReceived = received
        client.raw.write(bytes(2 * BURST))
        client.raw.loseConnection()
        self.clock.advance(1)
        self.assertEqual((server.pieces, server.lost), ([BURST], []))
        server.raw.resumeProducing()
        self.clock.advance(1)
        self.assertEqual((server.pieces, server.lost), ([BURST, BURST], []))
        server.raw.resumeProducing()
        self.clock.advance(1)
        self.assertEqual(server.why, ConnectionDone)

    def test_a_pull_producer_is_asked_whenever_all_has_left(self) -> None:
        client, server = self.connect()
        producer = Producer(client.raw, 20, BURST)
        client.raw.registerProducer(producer, False)
        server.raw.pauseProducing()
        self.clock.advance(1)
        window = self.network.tcp.window // BURST
        self.assertEqual(len(producer.events), window + 1)
        server.raw.resumeProducing()
        self.clock.advance(10)
        self.assertEqual((len(server.received), len(producer.events)), (20 * BURST, 21))

    def test_a_protocol_that_raises_at_its_end_leaves_nothing_behind(self) -> None:
        client, server = self.connect()
        server.connectionLost = lambda reason: 1 / 0
        client.raw.loseConnection()
        self.clock.advance(1)
        self.assertEqual((self.bob.transports, self.clock.waiting), ([], 0))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_producer_is_stopped_when_the_connection_is_lost(self) -> None:
        client, server = self.connect()
        producer = Producer()
        client.raw.registerProducer(producer, True)
        server.raw.abortConnection()
        self.clock.advance(1)
        self.assertEqual(producer.events, ["stop"])

    def test_a_window_opens_though_word_of_it_was_lost(self) -> None:
        client, server = self.connect()
        server.raw.pauseProducing()
        client.raw.write(bytes(2 * self.network.tcp.window))
        self.clock.advance(1)
        self.losing("bob")
        server.raw.resumeProducing()
        self.clock.advance(1)
        self.network.heal()
        self.clock.advance(60)
        self.assertEqual(len(server.received), 2 * self.network.tcp.window)

    def test_resuming_in_the_moment_in_which_more_arrives_keeps_the_order(self) -> None:
        client, server = self.connect()
        server.raw.pauseProducing()
        client.raw.write(b"first ")
        self.clock.advance(1)
        self.clock.callLater(LATENCY, server.raw.resumeProducing)
        client.raw.write(b"second")
        self.clock.advance(1)
        self.assertEqual(bytes(server.received), b"first second")

    def test_what_a_sender_remembers_of_word_that_has_come_is_bounded(self) -> None:
        client, server = self.connect()
        for _ in range(1_000):
            client.raw.write(b"x")
            self.clock.advance(0.01)
        self.assertLessEqual(len(client.raw.out._acks), 100)

    def test_one_who_does_not_read_and_is_gone_is_found_out(self) -> None:
        client, server = self.connect(tcp=Tcp(retries=4))
        server.raw.pauseProducing()
        client.raw.write(bytes(self.network.tcp.window + 1))
        self.clock.advance(1)
        self.network.silence("bob")
        self.clock.advance(600)
        self.assertEqual(client.why, ConnectionLost)


class ClosingTests(NetworkTestCase):
    def test_loseconnection_sends_what_was_written(self) -> None:
        client, server = self.connect()
        client.raw.write(b"last")
        client.raw.loseConnection()
        self.assertEqual(client.lost, [])
        self.clock.advance(1)
        self.assertEqual((client.why, server.why), (ConnectionDone, ConnectionDone))
        self.assertEqual(server.received, b"last")
        self.assertEqual(self.factory.events, ["started", ("lost", ConnectionDone)])
        self.assertEqual((self.clock.waiting, self.ada.transports), (0, []))

    def test_a_close_is_known_at_once_here_and_a_latency_later_there(self) -> None:
        client, server = self.connect()
        begin = self.clock.seconds()
        client.raw.loseConnection()
        self.clock.advance(1)
        self.assertEqual(client.lost[0][0] - begin, 0)
        self.assertAlmostEqual(server.lost[0][0] - begin, LATENCY)

    def test_a_half_close_in_both_directions(self) -> None:
        client, server = self.connect(HalfRecorder, HalfRecorder)
        client.raw.write(b"ask")
        client.raw.loseWriteConnection()
        self.clock.advance(1)
        self.assertEqual((client.write_ended, server.read_ended), (1, 1))
        client.raw.write(b"dropped")
        server.raw.write(b"answer")
        server.raw.loseConnection()
        self.clock.advance(1)
        self.assertEqual((bytes(server.received), bytes(client.received)), (b"ask", b"answer"))
        self.assertEqual((client.read_ended, server.why), (1, ConnectionDone))
        client.raw.loseConnection()
        self.clock.advance(1)
        self.assertEqual(client.why, ConnectionDone)

    def test_an_abort_is_a_reset_for_the_other_side_even_if_it_is_paused(self) -> None:
        client, server = self.connect()
        server.raw.pauseProducing()
        client.raw.write(b"dropped")
        client.raw.abortConnection()
        self.clock.advance(1)
        self.assertEqual((client.why, server.why), (ConnectionAborted, ConnectionLost))
        self.assertEqual(server.received, b"")

    def test_what_was_sent_before_an_abort_arrives_before_the_reset(self) -> None:
        for seed in range(8):
            client, server = self.connect(seed=seed, jitter=0.2)
            client.raw.write(b"sent")
            self.clock.advance(0.001)
            client.raw.abortConnection()
            self.clock.advance(3)
            self.assertEqual((bytes(server.received), server.why), (b"sent", ConnectionLost))

    def test_what_is_written_in_the_moment_of_an_abort_is_not_sent(self) -> None:
        client, server = self.connect()
        client.raw.write(b"dropped")
        client.raw.abortConnection()
        self.clock.advance(1)
        self.assertEqual((server.received, server.why), (b"", ConnectionLost))

    def test_who_has_left_sends_nothing_again(self) -> None:
        for leave in ("abort", "crash"):
            client, server = self.connect()
            self.network.partition([{"ada"}, {"bob"}])
            client.raw.write(b"swallowed")
            self.clock.advance(1)
            client.raw.write(b" and held back")
            if leave == "abort":
                client.raw.abortConnection()
            else:
                self.network.crash("ada")
                self.network.restart("ada")
            self.network.heal()
            self.clock.advance(2_000)
            self.assertEqual((server.received, server.lost), (b"", []), leave)

    def test_an_abort_that_is_lost_leaves_the_other_side_half_open(self) -> None:
        client, server = self.connect()
        self.losing("ada")
        client.raw.abortConnection()
        self.clock.advance(10_000)
        self.assertEqual((client.why, server.lost), (ConnectionAborted, []))
        self.network.heal()
        server.raw.write(b"are you there?")
        self.clock.advance(1)
        self.assertEqual(server.why, ConnectionLost)

    def test_what_was_swallowed_of_somebody_who_has_left_is_not_sent_with_what_arrives(
        self,
    ) -> None:
        client, server = self.connect()
        self.network.link("ada", "bob", latency=2.0)
        client.raw.write(b"slow")
        self.clock.advance(0.1)
        self.network.usual("ada", "bob")
        self.network.block("ada", "bob")
        client.raw.write(b"swallowed")
        self.clock.advance(0.1)
        self.network.heal()
        self.network.crash("ada")
        self.network.restart("ada")
        self.clock.advance(2_000)
        self.assertEqual(bytes(server.received), b"slow")

    def test_data_for_a_closed_socket_is_answered_with_a_reset(self) -> None:
        client, server = self.connect(HalfRecorder)
        server.raw.loseConnection()
        self.clock.advance(1)
        client.raw.write(b"too late")
        self.clock.advance(1)
        self.assertEqual((client.read_ended, client.why), (1, ConnectionLost))

    def test_closing_without_reading_what_came_is_a_reset(self) -> None:
        client, server = self.connect()
        server.raw.pauseProducing()
        client.raw.write(b"unread")
        self.clock.advance(1)
        server.raw.loseConnection()
        self.clock.advance(1)
        self.assertEqual((server.why, client.why), (ConnectionDone, ConnectionLost))


class FaultTests(NetworkTestCase):
    def test_loss_is_delay(self) -> None:
        client, server = self.connect()
        self.network.link("ada", "bob", loss=0.5)
        slow = 0
        for number in range(50):
            begin = self.clock.seconds()
            client.raw.write(bytes([number]))
            while len(server.received) == number:
                self.clock.step()
            slow += self.clock.seconds() - begin > LATENCY + 0.19
        self.assertEqual(bytes(server.received), bytes(range(50)))
        self.assertTrue(10 < slow < 40, slow)

    def test_a_link_that_loses_all_kills_a_connection_after_all_retries(self) -> None:
        client, server = self.connect(tcp=Tcp(retries=5))
        self.network.link("ada", "bob", loss=1.0)
        begin = self.clock.seconds()
        client.raw.write(b"x")
        self.clock.advance(100)
        self.assertAlmostEqual(client.lost[0][0] - begin, 0.2 * 63)
        self.assertEqual((client.why, server.lost), (ConnectionLost, []))

    def test_nothing_crosses_a_partition_and_all_of_it_arrives_when_it_heals(self) -> None:
        client, server = self.connect()
        client.raw.write(b"on its way ")
        self.network.partition([{"ada"}, {"bob"}])
        for number in range(10):
            client.raw.write(b"%d" % number)
            server.raw.write(b"%d" % number)
            self.clock.advance(1)
        self.assertEqual((server.received, client.received), (b"", b""))
        self.network.heal()
        self.clock.advance(30)
        self.assertEqual(bytes(server.received), b"on its way 0123456789")
        self.assertEqual(bytes(client.received), b"0123456789")

    def test_a_partition_costs_few_calls(self) -> None:
        client, server = self.connect()
        self.network.partition([{"ada"}, {"bob"}])
        before = self.clock.steps
        for _ in range(1_000):
            client.raw.write(b"x")
            self.clock.advance(0.1)
        self.assertLess(self.clock.steps - before, 20)

    def test_a_partition_that_lasts_kills_it_no_sooner_than_a_kernel_would(self) -> None:
        client, server = self.connect()
        self.network.partition([{"ada"}, {"bob"}])
        begin = self.clock.seconds()
        client.raw.write(b"x")
        self.clock.advance(920)
        self.assertEqual((client.lost, server.lost), ([], []))
        self.clock.advance(10)
        self.assertAlmostEqual(client.lost[0][0] - begin, 924.6)
        self.assertEqual((client.why, server.lost), (ConnectionLost, []))

    def test_hosts_of_no_group_reach_everybody(self) -> None:
        self.make()
        self.listen()
        self.network.host("cat")
        self.network.partition([{"bob"}, {"cat"}])
        factory = self.dial()
        self.clock.advance(1)
        self.assertEqual(len(factory.protocols), 1)
        with self.assertRaises(ValueError):
            self.network.partition([{"ada"}, {"ada", "bob"}])

    def test_one_direction_alone_can_fail(self) -> None:
        client, server = self.connect(tcp=Tcp(retries=6))
        self.losing("bob")
        begin = self.clock.seconds()
        client.raw.write(b"arrives")
        self.clock.advance(1)
        self.assertEqual(bytes(server.received), b"arrives")
        server.raw.write(b"does not")
        self.clock.advance(200)
        # No word came back that it arrived: to the sender that is a loss.
        self.assertAlmostEqual(client.lost[0][0] - begin, 0.2 * 127 + LATENCY)
        self.assertEqual((client.received, client.why), (b"", ConnectionLost))
        self.assertEqual(server.why, ConnectionLost)

    def test_word_that_was_lost_is_asked_for_again(self) -> None:
        client, server = self.connect()
        self.losing("bob")
        client.raw.write(b"x")
        self.clock.advance(5)
        self.network.heal()
        self.clock.advance(3_000)
        self.assertEqual((bytes(server.received), client.lost), (b"x", []))

    def test_an_idle_connection_outlives_any_silence(self) -> None:
        client, server = self.connect()
        self.network.silence("bob")
        self.clock.advance(100_000)
        self.network.heal()
        client.raw.write(b"still there?")
        self.clock.advance(1)
        self.assertEqual(bytes(server.received), b"still there?")

    def test_a_reset_from_between(self) -> None:
        client, server = self.connect()
        self.assertEqual(self.network.reset("ada", "bob"), 1)
        self.clock.advance(0)
        self.assertEqual((client.why, server.why), (ConnectionLost, ConnectionLost))
        self.assertEqual(self.network.reset("bob", "ada"), 0)

    def test_a_slow_link_becomes_what_it_was(self) -> None:
        client, server = self.connect()
        self.network.link("ada", "bob", latency=2.0, both=False)
        client.raw.write(b"slow")
        server.raw.write(b"quick")
        self.clock.advance(1)
        self.assertEqual((server.received, bytes(client.received)), (b"", b"quick"))
        self.clock.advance(1)
        self.network.usual("ada", "bob")
        client.raw.write(b"er")
        self.clock.advance(LATENCY)
        self.assertEqual(bytes(server.received), b"slower")
        wrong: Any
        for wrong in ({"loss": 2.0}, {"latency": -1.0}, {"bandwidth": 0.0}):
            with self.assertRaises(ValueError):
                self.network.link("ada", "bob", **wrong)


class CrashTests(NetworkTestCase):
    def test_no_code_of_a_crashed_host_runs_again(self) -> None:
        client, server = self.connect()
        producer = Producer()
        server.raw.registerProducer(producer, True)
        client.raw.write(b"x")
        server.raw.loseConnection()
        self.network.crash("bob")
        self.clock.advance(2_000)
        self.assertEqual((server.lost, bytes(server.received), producer.events), ([], b"", []))
        self.assertEqual(client.why, ConnectionLost)
        self.assertEqual(self.bob.transports, [])

    def test_the_power_can_fail_while_code_of_a_host_runs(self) -> None:
        def data(client: Any, server: Any) -> None:
            server.dataReceived = lambda data: self.network.crash("bob")
            client.raw.write(b"x" * 3 * BURST)

        def ended(client: Any, server: Any) -> None:
            producer = Producer()
            producer.stopProducing = lambda: self.network.crash("bob")  # type: ignore
            server.raw.registerProducer(producer, True)
            client.raw.loseConnection()

        def pulled(client: Any, server: Any) -> None:
            producer = Producer()
            producer.resumeProducing = lambda: self.network.crash("bob")  # type: ignore
            server.raw.write(bytes(HIGH_WATER))
            server.raw.registerProducer(producer, False)

        for happens in (data, ended, pulled):
            client, server = self.connect(cuts=1.0)
            happens(client, server)
            self.clock.advance(1)
            self.assertEqual((self.bob.up, server.lost, self.bob.transports), (False, [], []))
            self.network.restart("bob")
            self.clock.advance(1_000)
            self.assertEqual((server.lost, bytes(server.received)), ([], b""))

    def test_the_power_can_fail_while_a_factory_builds(self) -> None:
        for name in ("ada", "bob"):
            self.make()

            def fails(name: str = name) -> Recorder:
                self.network.crash(name)
                self.network.restart(name)
                return Recorder(self.clock)

            self.listen(fails if name == "bob" else None)
            factory = self.dial(fails if name == "ada" else None)
            self.clock.advance(1_000)
            built = factory.protocols if name == "ada" else self.servers
            self.assertEqual([(each.made, each.lost) for each in built], [(0, [])])
            self.assertEqual(self.network.hosts[name].transports, [])

    def test_who_was_dialling_is_not_told_either(self) -> None:
        self.make()
        factory = self.dial()
        self.network.crash("ada")
        self.clock.advance(200)
        self.assertEqual((factory.events, self.clock.waiting), (["started"], 0))

    def test_a_crashed_host_answers_nothing_until_it_is_started_anew(self) -> None:
        client, server = self.connect()
        self.network.crash("bob")
        client.raw.write(b"anybody?")
        factory = self.dial()
        self.clock.advance(10)
        self.assertEqual((client.lost, factory.events), ([], ["started"]))
        self.network.restart("bob")
        self.clock.advance(20)
        self.assertEqual((client.why, server.lost), (ConnectionLost, []))
        self.assertEqual(factory.events, ["started", ConnectionRefusedError])
        self.listen()
        self.assertEqual(len(self.dial().events), 1)
        self.clock.advance(1)
        self.assertEqual(self.servers[0].made, 1)

    def test_an_idle_connection_to_a_crashed_host_stays_half_open(self) -> None:
        client, server = self.connect()
        self.network.crash("bob")
        self.network.restart("bob")
        self.clock.advance(100_000)
        self.assertEqual(client.lost, [])
        client.raw.write(b"x")
        self.clock.advance(2 * LATENCY)
        self.assertEqual(client.why, ConnectionLost)

    def test_keep_alive_finds_a_host_that_is_gone_and_one_that_has_forgotten(self) -> None:
        for restart, seconds in ((False, 7200 + 9 * 75), (True, 7200 + 2 * LATENCY)):
            client, server = self.connect()
            client.raw.setTcpKeepAlive(True)
            begin = self.clock.seconds()
            self.network.crash("bob")
            if restart:
                self.network.restart("bob")
            self.clock.advance(10_000)
            self.assertEqual(client.why, ConnectionLost)
            self.assertAlmostEqual(client.lost[0][0] - begin, seconds)

    def test_keep_alive_counts_from_when_something_came(self) -> None:
        client, server = self.connect()
        client.raw.setTcpKeepAlive(True)
        self.clock.advance(7_000)
        server.raw.write(b"x")
        self.clock.advance(1)
        heard = client.raw.heard_ns / 1e9
        self.network.crash("bob")
        self.clock.advance(20_000)
        self.assertAlmostEqual(client.lost[0][0] - heard, 7_200 + 9 * 75)

    def test_keep_alive_leaves_a_living_peer_alone(self) -> None:
        client, server = self.connect()
        client.raw.setTcpKeepAlive(True)
        server.raw.setTcpKeepAlive(True)
        self.clock.advance(100_000)
        self.assertEqual((client.lost, server.lost), ([], []))
        client.raw.loseConnection()
        self.clock.advance(1)
        self.assertEqual(self.clock.waiting, 0)

    def test_when_only_the_process_dies_its_kernel_closes(self) -> None:
        client, server = self.connect()
        server.raw.write(b"sent")
        self.network.crash("bob", power=False)
        factory = self.dial()
        self.clock.advance(1)
        self.assertEqual((bytes(client.received), client.why), (b"sent", ConnectionDone))
        self.assertEqual((server.lost, factory.events[-1]), ([], ConnectionRefusedError))


# --- against a model ---------------------------------------------------------------

_ACTIONS = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 1), st.integers(1, 200_000)),
    st.tuples(st.just("wait"), st.integers(0, 3_000)),
    st.tuples(st.just("pause"), st.integers(0, 1)),
    st.tuples(st.just("resume"), st.integers(0, 1)),
    st.tuples(st.just("part")),
    st.tuples(st.just("heal")),
    st.tuples(st.just("block"), st.integers(0, 1)),
    st.tuples(st.just("loss"), st.sampled_from([0.0, 0.3, 0.9])),
    st.tuples(st.just("close"), st.integers(0, 1)),
    st.tuples(st.just("abort"), st.integers(0, 1)),
    st.tuples(st.just("crash"), st.integers(0, 1)),
    st.tuples(st.just("reset")),
)


class PropertyTests(NetworkTestCase):
    def play(self, seed: int, actions: list[Any]) -> tuple[list[Any], list[bytes]]:
        """@return: both protocols, and what each wrote."""
        ends = list(self.connect(seed=seed, jitter=0.02, cuts=0.3, bandwidth=2e6))
        names = ["ada", "bob"]
        wrote = [b"", b""]
        self.parted = False
        self.over: list[str] = []
        crashed: list[str] = []
        for action, *args in actions:
            before = [len(end.received) for end in ends]
            if action == "write":
                which, size = args
                data = bytes([len(wrote[which]) % 251]) * size
                if not ends[which].lost and names[which] not in crashed and not self.over:
                    wrote[which] += data
                    ends[which].raw.write(data)
            elif action == "wait":
                self.clock.advance(args[0] / 1000)
                if self.parted:
                    self.assertEqual(before, [len(end.received) for end in ends])
            elif action == "pause":
                ends[args[0]].raw.pauseProducing()
            elif action == "resume":
                ends[args[0]].raw.resumeProducing()
            elif action == "part":
                self.network.partition([{"ada"}, {"bob"}])
                self.parted = True
            elif action == "heal":
                self.network.heal()
                self.parted = False
            elif action == "block":
                self.losing(names[args[0]])
            elif action == "loss":
                self.network.link("ada", "bob", loss=args[0])
            else:
                self.over.append(action)
                if action == "close":
                    ends[args[0]].raw.loseConnection()
                elif action == "abort":
                    ends[args[0]].raw.abortConnection()
                elif action == "crash":
                    if names[args[0]] not in crashed:
                        crashed.append(names[args[0]])
                        self.network.crash(names[args[0]])
                else:
                    self.network.reset("ada", "bob")
            for end, sent in zip(ends, reversed(wrote), strict=True):
                # Nothing out of order, nothing twice, nothing made up.
                self.assertTrue(sent.startswith(bytes(end.received)))
                self.assertLessEqual(len(end.lost), 1)
        return ends, wrote

    @given(st.integers(0, 2**32), st.lists(_ACTIONS, max_size=25))
    def test_bytes_come_in_order_and_once_or_the_connection_is_lost(
        self, seed: int, actions: list[Any]
    ) -> None:
        ends, wrote = self.play(seed, actions)
        lost_before = [list(end.lost) for end in ends]
        if not self.over:
            # Not one of these faults lasted as long as a kernel waits.
            self.assertEqual(lost_before, [[], []])
        self.network.heal()
        self.network.link("ada", "bob", loss=0.0)
        for end in ends:
            end.raw.resumeProducing()
        self.clock.advance(4_000)
        for end, sent in zip(ends, reversed(wrote), strict=True):
            self.assertTrue(sent.startswith(bytes(end.received)))
            if not self.over:
                self.assertEqual((len(end.received), end.lost), (len(sent), []))
        # Nobody goes on for ever, whatever happened.
        if not self.over:
            self.assertEqual(self.clock.waiting, 0)
            ends[0].raw.loseConnection()
            self.clock.advance(1)
            self.assertEqual([end.why for end in ends], [ConnectionDone] * 2)

    @given(st.integers(0, 2**32), st.lists(_ACTIONS, max_size=25))
    def test_the_same_seed_gives_the_same_trace(self, seed: int, actions: list[Any]) -> None:
        digests = []
        for _ in range(2):
            self.play(seed, actions)
            self.clock.advance(100)
            digests.append((self.trace.digest, self.clock.steps))
        self.assertEqual(digests[0], digests[1])

    def test_another_seed_gives_another_trace(self) -> None:
        actions = [("write", 0, 1000), ("wait", 1000)] * 5
        digests = set()
        for seed in range(3):
            self.play(seed, actions)
            digests.add(self.trace.digest)
        self.assertEqual(len(digests), 3)
