"""
The in-memory transports keep the contracts of TCP that protocols rely on.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import (
    CannotListenError,
    ConnectingCancelledError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    NoProtocol,
)
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IPushProducer,
    IStreamClientEndpoint,
    IStreamServerEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from meshkit.testing.transports import (
    HIGH_WATER,
    MemoryNetwork,
    MemoryTransport,
    connect_protocols,
)


class Recorder(Protocol):
    def __init__(self) -> None:
        self.events: list[Any] = []

    def connectionMade(self) -> None:
        self.events.append("made")

    def dataReceived(self, data: bytes) -> None:
        self.events.append(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.events.append(reason.type)

    @property
    def raw(self) -> MemoryTransport:
        assert isinstance(self.transport, MemoryTransport)
        return self.transport


@implementer(IHalfCloseableProtocol)
class HalfRecorder(Recorder):
    def readConnectionLost(self) -> None:
        self.events.append("read lost")

    def writeConnectionLost(self) -> None:
        self.events.append("write lost")


class Producer:
    def __init__(self, consumer: MemoryTransport | None = None, parts: int = 0) -> None:
        self.events: list[str] = []
        self.consumer = consumer
        self.parts = parts

    def pauseProducing(self) -> None:
        self.events.append("pause")

    def resumeProducing(self) -> None:
        self.events.append("resume")
        if self.consumer is not None:
            if self.parts:
                self.parts -= 1
                self.consumer.write(b"part")
            else:
                self.consumer.unregisterProducer()

    def stopProducing(self) -> None:
        self.events.append("stop")


class WireTestCase(SynchronousTestCase):
    def connect(self, client: Any = None, server: Any = None, **options: Any) -> Any:
        self.client = client or Recorder()
        self.server = server or Recorder()
        self.wire = connect_protocols(self.client, self.server, **options)
        return self.wire


class DeliveryTests(WireTestCase):
    def test_it_provides_the_interfaces_of_a_tcp_transport(self) -> None:
        self.connect()
        for interface in (ITCPTransport, IConsumer, IPushProducer):
            verifyObject(interface, self.client.transport)

    def test_nothing_moves_before_it_is_pumped(self) -> None:
        self.connect()
        self.client.raw.write(b"hello")
        self.assertEqual(self.server.events, ["made"])
        self.wire.pump()
        self.assertEqual(self.server.events, ["made", b"hello"])

    def test_the_stream_is_cut_as_told(self) -> None:
        self.connect(chunk=lambda waiting: 2)
        self.client.raw.writeSequence([b"ab", b"cde"])
        self.wire.pump()
        self.assertEqual(self.server.events, ["made", b"ab", b"cd", b"e"])

    def test_writes_are_joined_when_nothing_is_told(self) -> None:
        self.connect()
        self.client.raw.write(b"ab")
        self.client.raw.write(b"cde")
        self.wire.pump()
        self.assertEqual(self.server.events, ["made", b"abcde"])

    def test_a_step_moves_no_answers(self) -> None:
        self.connect()
        self.server.dataReceived = self.server.raw.write
        self.client.raw.write(b"x")
        self.wire.step()
        self.assertEqual(self.server.raw.waiting, 1)
        self.wire.step()
        self.assertEqual(self.client.events, ["made", b"x"])

    def test_a_man_in_the_middle(self) -> None:
        self.connect()
        self.wire.intercept = lambda source, data: data.upper()
        self.client.raw.write(b"abc")
        self.wire.pump()
        self.assertEqual(self.server.events, ["made", b"ABC"])

    def test_a_paused_reader_reads_nothing_not_even_the_end(self) -> None:
        self.connect()
        self.server.raw.pauseProducing()
        self.client.raw.write(b"abc")
        self.client.raw.loseConnection()
        self.wire.pump()
        self.assertEqual(self.server.events, ["made"])
        self.server.raw.resumeProducing()
        self.wire.pump()
        self.assertEqual(self.server.events, ["made", b"abc", ConnectionDone])

    def test_pausing_inside_datareceived_stops_the_next_piece(self) -> None:
        self.connect(chunk=lambda waiting: 1)

        def received(data: bytes) -> None:
            self.server.events.append(data)
            self.server.raw.pauseProducing()

        self.server.dataReceived = received
        self.client.raw.write(b"abc")
        self.wire.pump()
        self.assertEqual(self.server.events, ["made", b"a"])

    def test_two_protocols_that_never_finish_are_an_error(self) -> None:
        self.patch_rounds(50)
        self.connect()
        self.server.dataReceived = self.server.raw.write
        self.client.dataReceived = self.client.raw.write
        self.client.raw.write(b"x")
        with self.assertRaises(RuntimeError):
            self.wire.pump()

    def patch_rounds(self, rounds: int) -> None:
        from meshkit.testing import transports

        self.patch(transports, "MAX_ROUNDS", rounds)

    def test_pumping_from_within_is_an_error(self) -> None:
        self.connect()
        self.server.dataReceived = lambda data: self.wire.pump()
        self.client.raw.write(b"x")
        with self.assertRaises(RuntimeError):
            self.wire.pump()

    def test_a_protocols_exception_comes_out(self) -> None:
        self.connect()

        def received(data: bytes) -> None:
            raise ZeroDivisionError

        self.server.dataReceived = received
        self.client.raw.write(b"x")
        with self.assertRaises(ZeroDivisionError):
            self.wire.pump()

    def test_only_bytes_can_be_written(self) -> None:
        self.connect()
        with self.assertRaises(TypeError):
            self.client.raw.write("text")


class ProducerTests(WireTestCase):
    def test_a_push_producer_is_paused_above_the_mark_and_resumed_when_empty(self) -> None:
        self.connect()
        producer = Producer()
        self.client.raw.registerProducer(producer, True)
        self.server.raw.pauseProducing()
        self.client.raw.write(bytes(HIGH_WATER))
        self.assertEqual(producer.events, [])
        self.client.raw.write(b"x")
        self.assertEqual(producer.events, ["pause"])
        self.wire.pump()
        self.assertEqual(producer.events, ["pause"])
        self.server.raw.resumeProducing()
        self.wire.pump()
        self.assertEqual(producer.events, ["pause", "resume"])

    def test_a_pull_producer_is_asked_when_empty(self) -> None:
        self.connect()
        producer = Producer(self.client.raw, 3)
        self.client.raw.registerProducer(producer, False)
        self.assertEqual(producer.events, ["resume"])
        self.wire.pump()
        self.assertEqual(producer.events, ["resume"] * 4)
        self.assertEqual(b"".join(self.server.events[1:]), b"part" * 3)

    def test_a_producer_is_stopped_when_the_connection_is_lost(self) -> None:
        self.connect()
        producer = Producer()
        self.client.raw.registerProducer(producer, True)
        self.wire.cut()
        self.wire.pump()
        self.assertEqual(producer.events, ["stop"])
        late = Producer()
        self.client.raw.registerProducer(late, True)
        self.assertEqual(late.events, ["stop"])

    def test_a_close_waits_for_a_producer_that_was_paused(self) -> None:
        self.connect()
        producer = Producer()
        self.client.raw.registerProducer(producer, True)
        self.client.raw.write(bytes(HIGH_WATER + 1))
        self.client.raw.loseConnection()
        self.wire.pump()
        self.assertEqual((producer.events, self.client.events), (["pause", "resume"], ["made"]))
        self.client.raw.unregisterProducer()
        self.wire.pump()
        self.assertEqual(self.client.events, ["made", ConnectionDone])

    def test_a_pull_producer_that_gives_nothing_is_not_asked_again(self) -> None:
        self.connect()
        producer = Producer()
        self.client.raw.registerProducer(producer, False)
        self.wire.pump()
        self.assertEqual(producer.events, ["resume"])

    def test_there_is_one_at_a_time(self) -> None:
        self.connect()
        self.client.raw.registerProducer(Producer(), True)
        with self.assertRaises(RuntimeError):
            self.client.raw.registerProducer(Producer(), True)


class ClosingTests(WireTestCase):
    def test_loseconnection_sends_what_was_written(self) -> None:
        self.connect()
        self.client.raw.write(b"last")
        self.client.raw.loseConnection()
        self.assertEqual(self.client.events, ["made"])
        self.wire.pump()
        self.assertEqual(self.client.events, ["made", ConnectionDone])
        self.assertEqual(self.server.events, ["made", b"last", ConnectionDone])

    def test_loseconnection_stops_reading_at_once(self) -> None:
        self.connect()
        self.server.raw.write(b"unread")
        self.client.raw.loseConnection()
        self.wire.pump()
        self.assertEqual(self.client.events, ["made", ConnectionDone])

    def test_both_may_close_with_data_on_its_way(self) -> None:
        self.connect()
        for protocol in (self.client, self.server):
            protocol.raw.write(b"bye")
            protocol.raw.loseConnection()
        self.wire.pump()
        self.assertEqual(self.client.events, ["made", ConnectionDone])
        self.assertEqual(self.server.events, ["made", ConnectionDone])

    def test_an_abort_is_a_reset_for_the_other_side_even_if_it_is_paused(self) -> None:
        self.connect()
        self.server.raw.pauseProducing()
        self.client.raw.write(b"dropped")
        self.client.raw.abortConnection()
        self.assertEqual(self.client.events, ["made"])
        self.wire.pump()
        self.assertEqual(self.client.events, ["made", ConnectionAborted])
        self.assertEqual(self.server.events, ["made", ConnectionLost])

    def test_a_cut_loses_what_was_on_its_way(self) -> None:
        self.connect()
        self.client.raw.write(b"lost")
        self.wire.cut()
        self.wire.pump()
        self.assertEqual(self.client.events, ["made", ConnectionLost])
        self.assertEqual(self.server.events, ["made", ConnectionLost])

    def test_writing_to_a_closed_peer_is_a_reset(self) -> None:
        self.connect(client=HalfRecorder())
        self.server.raw.loseConnection()
        self.wire.pump()
        self.client.raw.write(b"too late")
        self.wire.pump()
        self.assertEqual(self.client.events, ["made", "read lost", ConnectionLost])

    def test_half_close_with_half_closeable_protocols(self) -> None:
        self.connect(HalfRecorder(), HalfRecorder())
        self.client.raw.write(b"ask")
        self.client.raw.loseWriteConnection()
        self.wire.pump()
        self.assertEqual(self.client.events, ["made", "write lost"])
        self.assertEqual(self.server.events, ["made", b"ask", "read lost"])
        self.client.raw.write(b"dropped")
        self.server.raw.write(b"answer")
        self.server.raw.loseConnection()
        self.wire.pump()
        self.assertEqual(self.client.events, ["made", "write lost", b"answer", "read lost"])
        self.assertEqual(self.server.events, ["made", b"ask", "read lost", ConnectionDone])

    def test_the_end_closes_a_protocol_that_is_not_half_closeable(self) -> None:
        self.connect(HalfRecorder(), Recorder())
        self.client.raw.loseWriteConnection()
        self.wire.pump()
        self.assertEqual(self.server.events, ["made", ConnectionDone])
        self.assertEqual(self.client.events, ["made", "write lost", "read lost"])

    def test_connectionlost_comes_once(self) -> None:
        self.connect()
        self.client.raw.loseConnection()
        self.client.raw.abortConnection()
        self.wire.cut()
        self.wire.pump()
        self.client.raw.abortConnection()
        self.wire.pump()
        self.assertEqual(self.client.events, ["made", ConnectionAborted])
        self.assertEqual(self.server.events, ["made", ConnectionLost])


class NetworkTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.network = MemoryNetwork()
        self.factory = Factory.forProtocol(Recorder)

    def test_it_provides_endpoints(self) -> None:
        verifyObject(IStreamServerEndpoint, self.network.server_endpoint(1))
        verifyObject(IStreamClientEndpoint, self.network.client_endpoint(1))

    def connect(self, **options: Any) -> Deferred[Any]:
        d = self.network.client_endpoint(1, **options).connect(Factory.forProtocol(Recorder))
        self.network.pump()
        return d

    def test_client_and_server_meet(self) -> None:
        seen: list[Any] = []
        factory = Factory()
        factory.buildProtocol = lambda address: seen.append(address) or Recorder()  # type: ignore
        self.successResultOf(self.network.server_endpoint(1).listen(factory))
        client = self.successResultOf(self.connect(source="192.0.2.1"))
        self.assertEqual(client.events, ["made"])
        self.assertEqual(seen[0].host, "192.0.2.1")
        self.assertEqual(client.transport.getHost(), seen[0])
        self.assertEqual(client.transport.getPeer().port, 1)

    def test_every_connection_has_its_own_port(self) -> None:
        self.network.server_endpoint(1).listen(self.factory)
        ports = {self.successResultOf(self.connect()).transport.getHost().port for _ in range(5)}
        self.assertEqual(len(ports), 5)

    def test_nobody_listens(self) -> None:
        self.failureResultOf(self.connect()).trap(ConnectionRefusedError)

    def test_a_port_that_stopped_refuses_and_can_listen_again(self) -> None:
        port = self.successResultOf(self.network.server_endpoint(1).listen(self.factory))
        self.assertEqual(port.getHost().port, 1)
        port.stopListening()
        self.assertEqual(self.factory.numPorts, 0)
        self.failureResultOf(self.connect()).trap(ConnectionRefusedError)
        port.startListening()
        self.successResultOf(self.connect())

    def test_a_port_is_taken_once(self) -> None:
        self.network.server_endpoint(1).listen(self.factory)
        d = self.network.server_endpoint(1).listen(self.factory)
        self.failureResultOf(d).trap(CannotListenError)
        other_host = self.network.server_endpoint(1, "192.0.2.7").listen(self.factory)
        self.successResultOf(other_host)

    def test_cancelling_before_it_is_up(self) -> None:
        self.network.server_endpoint(1).listen(self.factory)
        d = self.network.client_endpoint(1).connect(self.factory)
        d.cancel()
        self.failureResultOf(d).trap(ConnectingCancelledError)
        self.network.pump()
        self.assertEqual(self.network.wires, [])

    def test_a_server_that_builds_nothing_accepts_and_closes(self) -> None:
        factory = Factory()
        factory.buildProtocol = lambda address: None  # type: ignore[method-assign]
        self.network.server_endpoint(1).listen(factory)
        client = self.successResultOf(self.connect())
        self.assertEqual(client.events, ["made", ConnectionDone])

    def test_a_client_that_builds_nothing_fails(self) -> None:
        self.network.server_endpoint(1).listen(self.factory)
        factory = Factory()
        factory.buildProtocol = lambda address: None  # type: ignore[method-assign]
        d = self.network.client_endpoint(1).connect(factory)
        self.network.pump()
        self.failureResultOf(d).trap(NoProtocol)


class ClockTests(SynchronousTestCase):
    def test_bytes_take_their_time_each_way(self) -> None:
        clock = Clock()
        network = MemoryNetwork(clock, latency=0.5)
        network.server_endpoint(1).listen(Factory.forProtocol(Recorder))
        d = network.client_endpoint(1).connect(Factory.forProtocol(Recorder))
        self.assertNoResult(d)
        clock.advance(0.5)
        client = self.successResultOf(d)
        server = network.wires[0].second.protocol
        server.dataReceived = server.raw.write
        client.raw.write(b"ping")
        clock.advance(0.4)
        self.assertEqual(server.raw.waiting, 0)
        clock.advance(0.1)
        self.assertEqual(client.events, ["made"])
        clock.advance(0.5)
        self.assertEqual(client.events, ["made", b"ping"])

    def test_when_all_is_quiet_nothing_is_scheduled(self) -> None:
        clock = Clock()
        client, server = Recorder(), Recorder()
        connect_protocols(client, server, clock=clock, latency=0.1)
        client.raw.write(b"x")
        client.raw.loseConnection()
        clock.pump([0.1] * 10)
        self.assertEqual(server.events, ["made", b"x", ConnectionDone])
        self.assertEqual(clock.getDelayedCalls(), [])
