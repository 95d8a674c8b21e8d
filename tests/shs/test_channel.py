"""
The secure channel as a transport: opening, delivery, flow control, every way to close.
"""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    ITCPTransport,
    ITransport,
)
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from meshkit.errors import (
    HandshakeTimeout,
    HandshakeTruncated,
    NetworkKeyRefused,
    PeerKeyRefused,
    PeerNotAllowed,
    PeerTooSlow,
    ProtocolRefused,
    StreamError,
    TamperedStream,
    TruncatedStream,
)
from meshkit.identity.addresses import LocalAddress, PeerAddress
from meshkit.shs.boxstream import Boxer
from meshkit.shs.channel import (
    AUTHORIZE_TIMEOUT,
    CLOSE_TIMEOUT,
    CORK_BYTES,
    HANDSHAKE_TIMEOUT,
    MAX_UNREAD,
    ISecureTransport,
    SecureChannel,
)
from tests.shs.common import (
    ALICE,
    BOB,
    CAROL,
    CHAT,
    ECHO,
    HalfRecorder,
    Owner,
    Pair,
    PullProducer,
    PushProducer,
    Recorder,
    new_client,
    new_server,
    transcript,
)


class ChannelTestCase(SynchronousTestCase):
    def assert_ended(self, protocol: Recorder, expected: type[BaseException]) -> None:
        """connectionLost came once, last, and with this reason."""
        lost = [e for e in protocol.events if isinstance(e, tuple)]
        self.assertEqual(lost, [("lost", expected)])
        self.assertEqual(protocol.events[-1], lost[0])

    def assert_clean(self, pair: Pair) -> None:
        """Nothing of the connection is left behind."""
        self.assertEqual(pair.clock.getDelayedCalls(), [])
        for owner in (pair.client_owner, pair.server_owner):
            self.assertEqual(owner.events.count("lost"), 1)
            self.assertEqual(owner.events[-1], "lost")
        for end in (pair.wire.first, pair.wire.second):
            self.assertFalse(end.connected)
            self.assertIsNone(end.producer)


class OpeningTests(ChannelTestCase):
    def test_both_sides_are_connected_after_the_handshake(self) -> None:
        pair = Pair()
        self.assertEqual((pair.client.events, pair.server.events), ([], []))
        pair.open()
        self.assertEqual((pair.client.events, pair.server.events), (["made"], ["made"]))
        self.assertEqual(pair.server_owner.asked, [ALICE.public])

    def test_the_addresses_carry_the_keys_and_the_label(self) -> None:
        pair = Pair().open()
        for protocol, own, other, end in (
            (pair.client, ALICE, BOB, pair.wire.first),
            (pair.server, BOB, ALICE, pair.wire.second),
        ):
            transport = protocol.transport
            self.assertEqual(transport.getPeer(), PeerAddress(other.public, end.getPeer()))
            self.assertEqual(transport.getHost(), LocalAddress(own.public, "echo", end.getHost()))
        self.assertEqual(pair.client_owner.address, pair.client.transport.getPeer())

    def test_it_provides_the_interfaces_it_claims(self) -> None:
        channel = Pair().open().client_channel
        for interface in (
            ITransport,
            IConsumer,
            IPushProducer,
            ISecureTransport,
            IProtocol,
            IHalfCloseableProtocol,
        ):
            verifyObject(interface, channel)

    def test_nothing_of_the_transport_beneath_shows_through(self) -> None:
        transport = Pair().open().client_channel
        for name in ("protocol", "high_water", "waiting", "getHandle", "stopReading", "_wire"):
            self.assertFalse(hasattr(transport, name), name)

    def test_tcp_options_are_set_and_passed_on_where_there_is_tcp(self) -> None:
        pair = Pair().open()
        channel, raw = pair.client_channel, pair.wire.first
        self.assertTrue(ITCPTransport.providedBy(raw))
        self.assertTrue(raw.getTcpNoDelay() and raw.getTcpKeepAlive())
        channel.setTcpNoDelay(False)
        channel.setTcpKeepAlive(False)
        self.assertFalse(raw.getTcpNoDelay() or raw.getTcpKeepAlive())
        self.assertFalse(channel.getTcpNoDelay() or channel.getTcpKeepAlive())

    def test_tcp_options_are_ignored_where_there_is_none(self) -> None:
        channel = SecureChannel(Clock(), new_client(), Owner(Recorder()))
        channel.makeConnection(StringTransport())
        channel.setTcpNoDelay(True)
        channel.setTcpKeepAlive(True)
        self.assertFalse(channel.getTcpNoDelay() or channel.getTcpKeepAlive())
        channel.abortConnection()

    def test_bytes_arrive_both_ways(self) -> None:
        pair = Pair().open()
        pair.client.transport.write(b"question")
        pair.server.transport.writeSequence([b"ans", b"wer"])
        pair.pump()
        self.assertEqual(bytes(pair.server.received), b"question")
        self.assertEqual(bytes(pair.client.received), b"answer")

    def test_nothing_is_readable_on_the_wire(self) -> None:
        pair = Pair().open()
        seen = bytearray()

        def listen(_source: Any, data: bytes) -> bytes:
            seen.extend(data)
            return data

        pair.wire.intercept = listen
        pair.client.transport.write(b"a secret of ours" * 100)
        pair.pump()
        self.assertEqual(len(pair.server.received), 1600)
        self.assertNotIn(b"secret", bytes(seen))

    def test_data_right_behind_the_last_handshake_message_is_delivered(self) -> None:
        # The server's application speaks first, so message 4 and a box come together.
        server = Recorder()
        server.script = lambda p, e: p.transport.write(b"welcome") if e == "made" else None
        pair = Pair(server=server)
        pair.pump()
        self.assertEqual(pair.client.events, ["made", b"welcome"])

    def test_byte_by_byte(self) -> None:
        pair = Pair(chunk=lambda waiting: 1).open()
        pair.client.transport.write(b"hello" * 50)
        pair.client.transport.loseConnection()
        pair.pump()
        self.assertEqual(bytes(pair.server.received), b"hello" * 50)
        self.assert_ended(pair.server, ConnectionDone)
        self.assert_ended(pair.client, ConnectionDone)

    def test_random_chunks_of_a_long_stream(self) -> None:
        for seed in range(5):
            rng = Random(seed)
            pair = Pair(chunk=lambda waiting, rng=rng: rng.randint(1, 9000)).open()
            data = rng.randbytes(100_000)
            pair.client.transport.write(data)
            pair.server.transport.write(data[::-1])
            pair.client.transport.loseConnection()
            pair.pump()
            self.assertEqual(bytes(pair.server.received), data)

    def test_the_handshake_deadline_ends_with_the_handshake(self) -> None:
        pair = Pair().open()
        self.assertEqual(pair.clock.getDelayedCalls(), [])
        pair.advance(HANDSHAKE_TIMEOUT * 100)
        self.assertEqual(pair.client.events, ["made"])

    def test_only_bytes_can_be_written(self) -> None:
        pair = Pair().open()
        for wrong in ("text", bytearray(b"x"), None, 3):
            with self.assertRaises(TypeError):
                pair.client.transport.write(wrong)

    def test_a_server_that_is_fed_by_an_unmodified_line_protocol(self) -> None:
        class Lines(LineReceiver):
            def __init__(self) -> None:
                self.lines: list[bytes] = []

            def lineReceived(self, line: bytes) -> None:
                self.lines.append(line)
                if line == b"quit":
                    self.transport.loseConnection()

        lines = Lines()
        pair = Pair(server=lines).open()
        pair.client.transport.write(b"one\r\ntwo\r\nquit\r\nnever\r\n")
        pair.pump()
        self.assertEqual(lines.lines, [b"one", b"two", b"quit"])
        self.assert_ended(pair.client, ConnectionDone)
        self.assert_clean(pair)


class FailingHandshakeTests(ChannelTestCase):
    """Each failure has its name on each side; no application protocol is ever built."""

    def failed(self, owner: Owner) -> BaseException:
        self.assertEqual(owner.events, ["failed", "lost"])
        self.assertIsNone(owner.address)
        assert owner.failure is not None
        error: BaseException = owner.failure.value
        return error

    def assert_failed(self, pair: Pair, client: type, server: type) -> None:
        pair.pump()
        self.assertIs(type(self.failed(pair.client_owner)), client)
        self.assertIs(type(self.failed(pair.server_owner)), server)
        self.assertEqual((pair.client.events, pair.server.events), ([], []))
        self.assert_clean(pair)

    def test_another_network(self) -> None:
        pair = Pair(client_handshake=new_client(capability=CHAT))
        self.assert_failed(pair, NetworkKeyRefused, NetworkKeyRefused)
        self.assertEqual(pair.wire.second.sent, 0)

    def test_another_peer(self) -> None:
        pair = Pair(client_handshake=new_client(peer=CAROL.public))
        self.assert_failed(pair, PeerKeyRefused, PeerKeyRefused)

    def test_a_peer_that_is_not_admitted_sees_the_same_silence(self) -> None:
        wrong = Pair(client_handshake=new_client(peer=CAROL.public))
        self.assert_failed(wrong, PeerKeyRefused, PeerKeyRefused)
        refused = Pair(verdict=False)
        self.assert_failed(refused, PeerKeyRefused, PeerNotAllowed)
        self.assertEqual(refused.wire.second.sent, wrong.wire.second.sent)
        self.assertEqual(
            (refused.wire.second.aborted, refused.wire.first.lost.type),
            (wrong.wire.second.aborted, wrong.wire.first.lost.type),
        )

    def test_only_true_admits(self) -> None:
        for verdict in (None, 1, "yes", object()):
            self.assert_failed(Pair(verdict=verdict), PeerKeyRefused, PeerNotAllowed)

    def test_an_authorize_that_raises_refuses_and_is_logged(self) -> None:
        pair = Pair(verdict=ZeroDivisionError("a bug"))
        self.assert_failed(pair, PeerKeyRefused, PeerNotAllowed)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_later_verdict_is_waited_for_with_reading_paused(self) -> None:
        verdict: Deferred[bool] = Deferred()
        pair = Pair(verdict=verdict)
        pair.pump()
        self.assertFalse(pair.wire.second.reading)
        self.assertEqual(pair.server_owner.events, [])
        before = pair.wire.second.sent
        self.assertEqual(before, 64)
        verdict.callback(True)
        self.assertEqual(pair.wire.second.sent, 64 + 80)
        pair.open()
        self.assertTrue(pair.wire.second.reading)

    def test_a_later_no(self) -> None:
        verdict: Deferred[bool] = Deferred()
        pair = Pair(verdict=verdict)
        pair.pump()
        verdict.callback(False)
        self.assert_failed(pair, PeerKeyRefused, PeerNotAllowed)

    def test_a_verdict_that_takes_too_long_is_a_no(self) -> None:
        self.assertEqual(AUTHORIZE_TIMEOUT, 2)
        cancelled: list[Any] = []
        pair = Pair(verdict=Deferred(cancelled.append))
        pair.pump()
        pair.advance(AUTHORIZE_TIMEOUT - 0.1)
        self.assertEqual(pair.server_owner.events, [])
        pair.advance(0.2)
        self.assert_failed(pair, PeerKeyRefused, PeerNotAllowed)
        self.assertEqual(len(cancelled), 1)

    def test_a_verdict_that_waits_for_another_has_as_little_time(self) -> None:
        verdict: Deferred[Any] = succeed(None)
        verdict.addCallback(lambda _: Deferred())
        pair = Pair(verdict=verdict)
        pair.pump()
        pair.advance(AUTHORIZE_TIMEOUT + 0.1)
        self.assert_failed(pair, PeerKeyRefused, PeerNotAllowed)

    def test_a_peer_that_goes_while_we_decide_cancels_the_decision(self) -> None:
        cancelled: list[Any] = []
        pair = Pair(verdict=Deferred(cancelled.append))
        pair.pump()
        pair.wire.cut()
        self.assert_failed(pair, PeerKeyRefused, HandshakeTruncated)
        self.assertEqual(len(cancelled), 1)

    def test_bytes_that_come_while_we_decide_are_kept_for_the_stream(self) -> None:
        verdict: Deferred[bool] = Deferred()
        pair = Pair(verdict=verdict)
        pair.pump()
        pair.server_channel.dataReceived(b"x" * 100)
        self.assertEqual(len(pair.server_channel._early), 100)
        verdict.callback(True)
        self.assert_ended_in_tampering(pair)

    def test_a_box_that_comes_together_with_the_proof_is_delivered(self) -> None:
        # With the same ephemeral keys, so that the client's key is known in advance.
        messages, outcome, _ = transcript(new_client(), new_server())
        box = Boxer(outcome.encrypt_key, outcome.encrypt_nonce).box(b"early")
        for verdict in (True, Deferred()):
            app = Recorder()
            owner = Owner(app, verdict)
            channel = SecureChannel(Clock(), new_server(), owner)
            channel.makeConnection(StringTransport())
            channel.dataReceived(messages[0] + messages[2] + box)
            if isinstance(verdict, Deferred):
                self.assertEqual(app.events, [])
                verdict.callback(True)
            self.assertEqual(app.events, ["made", b"early"])

    def assert_ended_in_tampering(self, pair: Pair) -> None:
        pair.pump()
        self.assert_ended(pair.server, TamperedStream)

    def test_bytes_that_come_while_we_decide_have_a_limit(self) -> None:
        pair = Pair(verdict=Deferred())
        pair.pump()
        pair.server_channel.dataReceived(bytes(MAX_UNREAD))
        self.assertEqual(pair.server_owner.events, [])
        pair.server_channel.dataReceived(b"x")
        self.assert_failed(pair, PeerKeyRefused, StreamError)

    def test_nothing_is_reported_twice_when_the_verdict_comes_after_the_end(self) -> None:
        class Stubborn(Deferred[bool]):
            def cancel(self) -> None:
                pass

        verdict = Stubborn()
        pair = Pair(verdict=verdict)
        pair.pump()
        pair.wire.cut()
        pair.pump()
        verdict.callback(True)
        self.assertEqual(pair.server_owner.events, ["failed", "lost"])

    def test_the_deadline_is_for_the_whole_handshake(self) -> None:
        # One byte a second: each step is quick, the whole is not.
        channel = SecureChannel(clock := Clock(), new_server(), owner := Owner(Recorder()))
        transport = StringTransport()
        channel.makeConnection(transport)
        for byte in new_client().start()[:9]:
            clock.advance(1.0)
            channel.dataReceived(bytes([byte]))
        self.assertFalse(transport.disconnecting)
        clock.advance(1.0)
        self.assertTrue(transport.disconnecting)
        channel.connectionLost(None)  # type: ignore[arg-type]
        self.assertIs(type(self.failed(owner)), HandshakeTimeout)

    def test_a_silent_server_at_each_step(self) -> None:
        for step in range(2):
            pair = Pair()
            for _ in range(step * 2):
                pair.wire.step()
            pair.wire.second.pauseProducing()
            pair.wire.pump()
            pair.clock.advance(HANDSHAKE_TIMEOUT - 0.1)
            self.assertEqual(pair.client_owner.events, [])
            pair.clock.advance(0.2)
            pair.pump()
            self.assertIs(type(self.failed(pair.client_owner)), HandshakeTimeout)
            self.assertEqual(pair.client.events, [])
            self.assert_clean(pair)

    def test_a_silent_client_at_each_step(self) -> None:
        for sent in (b"", new_client().start()):
            channel = SecureChannel(clock := Clock(), new_server(), owner := Owner(Recorder()))
            channel.makeConnection(transport := StringTransport())
            channel.dataReceived(sent)
            clock.advance(HANDSHAKE_TIMEOUT)
            self.assertTrue(transport.disconnecting)
            channel.connectionLost(None)  # type: ignore[arg-type]
            self.assertIs(type(self.failed(owner)), HandshakeTimeout)
            self.assertEqual(clock.getDelayedCalls(), [])

    def test_loss_at_every_byte_the_client_reads(self) -> None:
        self.loss_at_every_byte(second_sends=True)

    def test_loss_at_every_byte_the_server_reads(self) -> None:
        self.loss_at_every_byte(second_sends=False)

    def loss_at_every_byte(self, second_sends: bool) -> None:
        total = 64 + (80 if second_sends else 112)
        for length in range(total):
            pair = Pair(chunk=lambda waiting: 1)
            counted = 0

            def cut(source: Any, data: bytes, pair: Pair = pair, length: int = length) -> bytes:
                nonlocal counted
                if (source is pair.wire.second) is second_sends:
                    if counted == length:
                        pair.wire.cut()
                        return b""
                    counted += 1
                return data

            pair.wire.intercept = cut
            pair.pump()
            victim = pair.client_owner if second_sends else pair.server_owner
            expected: type = HandshakeTruncated
            if second_sends:
                expected = {0: NetworkKeyRefused, 64: PeerKeyRefused}.get(length, expected)
            self.assertIs(type(self.failed(victim)), expected, length)
            self.assertEqual(pair.client.events, [])
            self.assertEqual(pair.clock.getDelayedCalls(), [])

    def test_a_half_closed_connection_is_a_lost_one(self) -> None:
        pair = Pair(verdict=Deferred())
        pair.pump()
        pair.server_channel.readConnectionLost()
        self.assert_failed(pair, PeerKeyRefused, HandshakeTruncated)

    def test_a_factory_that_declines_closes_cleanly(self) -> None:
        for declining in ("client", "server"):
            pair = Pair()
            owner = pair.client_owner if declining == "client" else pair.server_owner
            other = pair.server if declining == "client" else pair.client
            owner.app = None
            pair.pump()
            self.assertIs(type(owner.failure and owner.failure.value), ProtocolRefused)
            self.assertEqual(owner.events, ["failed", "lost"])
            self.assertEqual(other.events, ["made", ("lost", ConnectionDone)])
            self.assert_clean(pair)

    def test_a_factory_that_raises_closes_cleanly(self) -> None:
        pair = Pair()
        pair.server_owner.app = ZeroDivisionError("a bug")
        pair.pump()
        self.assertEqual(pair.server_owner.events, ["failed", "lost"])
        pair.server_owner.failure.trap(ZeroDivisionError)  # type: ignore[union-attr]
        self.assertEqual(pair.client.events, ["made", ("lost", ConnectionDone)])
        self.assert_clean(pair)

    def test_a_protocol_that_raises_when_connected_is_reported(self) -> None:
        client = Recorder()

        def script(protocol: Recorder, event: Any) -> None:
            if event == "made":
                raise ZeroDivisionError("a bug")

        client.script = script
        pair = Pair(client=client)
        pair.pump()
        self.assertEqual(pair.client_owner.events, ["failed", "lost"])
        self.assert_ended(client, ZeroDivisionError)
        self.assert_ended(pair.server, TruncatedStream)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assert_clean(pair)

    def test_losing_it_before_it_is_open_aborts(self) -> None:
        pair = Pair()
        pair.client_channel.loseConnection()
        self.assertTrue(pair.wire.first.aborted)
        pair.pump()
        self.assertIs(type(self.failed(pair.client_owner)), ConnectionAborted)


class PausingTests(ChannelTestCase):
    def test_nothing_is_delivered_while_paused_not_even_what_is_here(self) -> None:
        pair = Pair().open()

        def script(protocol: Recorder, event: Any) -> None:
            if isinstance(event, bytes):
                protocol.transport.pauseProducing()

        pair.server.script = script
        # More than one read's worth of boxes in one chunk.
        data = Random(0).randbytes(200_000)
        pair.client.transport.write(data)
        pair.pump()
        first = len(pair.server.received)
        self.assertTrue(0 < first < 100_000, first)
        pair.pump()
        self.assertEqual(len(pair.server.received), first)
        self.assertFalse(pair.wire.second.reading)
        for _ in range(10):
            pair.server.transport.resumeProducing()
            pair.pump()
        self.assertEqual(bytes(pair.server.received), data)

    def test_resuming_delivers_later_and_reads_on_only_then(self) -> None:
        pair = Pair().open()
        pair.server.transport.pauseProducing()
        pair.server_channel.dataReceived(self.boxed(pair, b"here already"))
        self.assertEqual(pair.server.events, ["made"])
        pair.server.transport.resumeProducing()
        self.assertEqual(pair.server.events, ["made"])
        self.assertFalse(pair.wire.second.reading)
        pair.clock.advance(0)
        self.assertEqual(pair.server.events, ["made", b"here already"])
        self.assertTrue(pair.wire.second.reading)

    def boxed(self, pair: Pair, data: bytes) -> bytes:
        assert pair.client_channel._boxer is not None
        return pair.client_channel._boxer.box(data)

    def test_pausing_again_before_the_turn_comes_delivers_nothing(self) -> None:
        pair = Pair().open()
        pair.server.transport.pauseProducing()
        pair.server_channel.dataReceived(self.boxed(pair, b"data"))
        pair.server.transport.resumeProducing()
        pair.server.transport.pauseProducing()
        pair.pump()
        self.assertEqual(pair.server.events, ["made"])
        pair.server.transport.resumeProducing()
        pair.pump()
        self.assertEqual(pair.server.events, ["made", b"data"])

    def test_repeated_calls_reach_the_transport_beneath_once(self) -> None:
        pair = Pair().open()
        calls: list[str] = []
        raw = pair.wire.second
        for name in ("pauseProducing", "resumeProducing"):
            self.patch(raw, name, lambda name=name: calls.append(name))
        transport = pair.server.transport
        transport.pauseProducing()
        transport.pauseProducing()
        transport.resumeProducing()
        transport.resumeProducing()
        pair.clock.advance(0)
        transport.resumeProducing()
        pair.clock.advance(0)
        self.assertEqual(calls, ["pauseProducing", "resumeProducing"])

    def test_pausing_when_connected_is_honoured(self) -> None:
        server = Recorder()
        server.script = lambda p, e: p.transport.write(b"hi") if e == "made" else None
        client = Recorder()
        client.script = lambda p, e: p.transport.pauseProducing() if e == "made" else None
        pair = Pair(client=client, server=server)
        pair.pump()
        self.assertEqual(client.events, ["made"])
        client.transport.resumeProducing()
        pair.pump()
        self.assertEqual(client.events, ["made", b"hi"])

    def test_pausing_and_resuming_inside_datareceived_keeps_the_order(self) -> None:
        pair = Pair().open()

        def script(protocol: Recorder, event: Any) -> None:
            if isinstance(event, bytes):
                protocol.transport.pauseProducing()
                protocol.transport.resumeProducing()

        pair.server.script = script
        data = Random(3).randbytes(300_000)
        pair.client.transport.write(data)
        pair.client.transport.loseConnection()
        pair.pump()
        self.assertEqual(bytes(pair.server.received), data)
        self.assert_ended(pair.server, ConnectionDone)

    def test_an_end_that_arrives_while_paused_waits_for_what_is_before_it(self) -> None:
        pair = Pair().open()
        pair.server.transport.pauseProducing()
        data = self.boxed(pair, b"the last words")
        pair.server_channel.dataReceived(data)
        pair.server_channel.readConnectionLost()
        pair.pump()
        self.assertEqual(pair.server.events, ["made"])
        pair.server.transport.resumeProducing()
        pair.pump()
        self.assertEqual(pair.server.events, ["made", b"the last words", ("lost", TruncatedStream)])

    def test_a_transport_that_ignores_the_pause_is_cut_off_at_a_limit(self) -> None:
        pair = Pair().open()
        pair.server.transport.pauseProducing()
        pair.server_channel.dataReceived(bytes(MAX_UNREAD))
        self.assertFalse(pair.wire.second.aborted)
        pair.server_channel.dataReceived(b"x")
        self.assertTrue(pair.wire.second.aborted)
        pair.pump()
        self.assert_ended(pair.server, StreamError)

    def test_stopproducing_closes_as_tcp_does(self) -> None:
        pair = Pair().open()
        pair.server.transport.stopProducing()
        pair.pump()
        self.assert_ended(pair.server, ConnectionDone)
        self.assert_ended(pair.client, ConnectionDone)


class ProducerTests(ChannelTestCase):
    def test_a_push_producer_is_paused_above_the_mark_and_resumed_when_all_is_sent(self) -> None:
        pair = Pair().open()
        producer = PushProducer()
        transport = pair.client.transport
        transport.registerProducer(producer, True)
        pair.wire.second.pauseProducing()
        transport.write(bytes(60_000))
        self.assertEqual(producer.events, [])
        transport.write(bytes(10_000))
        self.assertEqual(producer.events, ["pause"])
        transport.write(bytes(10_000))  # the transport beneath repeats itself, we do not
        self.assertEqual(producer.events, ["pause"])
        pair.pump()
        self.assertEqual(producer.events, ["pause"])
        pair.wire.second.resumeProducing()
        pair.pump()
        self.assertEqual(producer.events, ["pause", "resume"])
        self.assertEqual(len(pair.server.received), 80_000)

    def test_what_is_written_in_spite_of_a_pause_is_kept_and_sent_whole(self) -> None:
        pair = Pair().open()
        producer = PushProducer()
        transport = pair.client.transport
        transport.registerProducer(producer, True)
        pair.wire.second.pauseProducing()
        data = Random(6).randbytes(1_000_000)
        for at in range(0, len(data), 50_000):
            transport.write(data[at : at + 50_000])
        # Nothing waits in the channel; beneath it is what a TCP transport would hold as well.
        self.assertEqual(pair.client_channel._corked, [])
        self.assertGreater(pair.wire.first.waiting, len(data))
        self.assertEqual(producer.events, ["pause"])
        pair.wire.second.resumeProducing()
        pair.pump()
        self.assertEqual(bytes(pair.server.received), data)
        self.assertEqual(producer.events, ["pause", "resume"])

    def test_a_producer_registered_when_it_is_full_is_paused_at_once(self) -> None:
        pair = Pair().open()
        pair.wire.second.pauseProducing()
        pair.client.transport.write(bytes(100_000))
        producer = PushProducer()
        pair.client.transport.registerProducer(producer, True)
        self.assertEqual(producer.events, ["pause"])
        pair.wire.second.resumeProducing()
        pair.pump()
        self.assertEqual(producer.events, ["pause", "resume"])

    def test_a_paused_application_stops_the_other_sides_producer(self) -> None:
        pair = Pair().open()
        pair.server.transport.pauseProducing()
        producer = PushProducer()
        pair.client.transport.registerProducer(producer, True)
        pair.client.transport.write(bytes(100_000))
        pair.pump()
        self.assertEqual(producer.events, ["pause"])
        self.assertEqual(pair.server.events, ["made"])
        pair.server.transport.resumeProducing()
        pair.pump()
        self.assertEqual(producer.events, ["pause", "resume"])

    def test_a_pull_producer_is_asked_whenever_all_is_sent(self) -> None:
        pair = Pair().open()
        transport = pair.client.transport
        parts = [b"%d" % n * 1000 for n in range(5)]
        producer = PullProducer(transport, list(parts))
        transport.registerProducer(producer, False)
        self.assertEqual(producer.asked, 1)
        pair.pump()
        self.assertEqual(producer.asked, 6)
        self.assertEqual(bytes(pair.server.received), b"".join(parts))

    def test_a_pull_producer_is_not_asked_while_the_peer_does_not_read(self) -> None:
        pair = Pair().open()
        pair.wire.second.pauseProducing()
        producer = PullProducer(pair.client.transport, [b"x"] * 5)
        pair.client.transport.registerProducer(producer, False)
        pair.pump()
        self.assertEqual(producer.asked, 1)

    def test_push_after_pull(self) -> None:
        pair = Pair().open()
        transport = pair.client.transport
        transport.registerProducer(PullProducer(transport, [b"x"]), False)
        pair.pump()
        producer = PushProducer()
        transport.registerProducer(producer, True)
        pair.wire.second.pauseProducing()
        transport.write(bytes(100_000))
        self.assertEqual(producer.events, ["pause"])

    def test_a_resume_that_no_pause_came_before_is_not_passed_on(self) -> None:
        pair = Pair().open()
        producer = PushProducer()
        pair.client.transport.registerProducer(producer, True)
        pair.wire.first.producer.resumeProducing()
        self.assertEqual(producer.events, [])
        pair.wire.first.producer.pauseProducing()
        pair.wire.first.producer.resumeProducing()
        pair.wire.first.producer.resumeProducing()
        self.assertEqual(producer.events, ["pause", "resume"])

    def test_a_producer_is_stopped_even_if_the_transport_beneath_does_not(self) -> None:
        pair = Pair().open()
        producer = PushProducer()
        pair.client.transport.registerProducer(producer, True)
        pair.wire.first.producer = None
        pair.wire.cut()
        pair.pump()
        self.assertEqual(producer.events, ["stop"])

    def test_there_is_one_producer_at_a_time(self) -> None:
        pair = Pair().open()
        transport = pair.client.transport
        transport.registerProducer(PushProducer(), True)
        with self.assertRaises(RuntimeError):
            transport.registerProducer(PushProducer(), True)
        transport.unregisterProducer()
        transport.registerProducer(PushProducer(), True)

    def test_a_producer_is_stopped_once_when_the_connection_is_lost(self) -> None:
        for streaming in (True, False):
            pair = Pair().open()
            producer = PushProducer()
            pair.client.transport.registerProducer(producer, streaming)
            pair.wire.cut()
            pair.pump()
            self.assertEqual(producer.events.count("stop"), 1)
            self.assertEqual(producer.events[-1], "stop")
            self.assert_ended(pair.client, TruncatedStream)

    def test_a_producer_is_stopped_when_the_connection_is_aborted(self) -> None:
        pair = Pair().open()
        producer = PushProducer()
        pair.client.transport.registerProducer(producer, True)
        pair.client.transport.abortConnection()
        pair.pump()
        self.assertEqual(producer.events, ["stop"])
        self.assert_clean(pair)

    def test_a_producer_that_comes_too_late_is_stopped(self) -> None:
        pair = Pair().open()
        pair.client.transport.loseConnection()
        closing, lost = PushProducer(), PushProducer()
        pair.client.transport.registerProducer(closing, True)
        self.assertEqual(closing.events, ["stop"])
        pair.pump()
        pair.client.transport.registerProducer(lost, True)
        self.assertEqual(lost.events, ["stop"])

    def test_a_producer_that_closes_when_it_is_stopped(self) -> None:
        pair = Pair().open()
        transport = pair.client.transport

        class Closing(PushProducer):
            def stopProducing(self) -> None:
                super().stopProducing()
                transport.unregisterProducer()
                transport.loseConnection()

        producer = Closing()
        transport.registerProducer(producer, True)
        pair.wire.cut()
        pair.pump()
        self.assertEqual(producer.events, ["stop"])
        self.assert_ended(pair.client, TruncatedStream)
        self.assert_clean(pair)


class CorkTests(ChannelTestCase):
    def test_what_is_written_in_one_datareceived_travels_in_one_box(self) -> None:
        pair = Pair().open()

        def script(protocol: Recorder, event: Any) -> None:
            if isinstance(event, bytes):
                for _ in range(100):
                    protocol.transport.write(b"0123456789")

        pair.server.script = script
        pair.client.transport.write(b"go")
        before = pair.wire.second.sent
        pair.pump()
        self.assertEqual(pair.wire.second.sent - before, 1000 + 34)
        self.assertEqual(bytes(pair.client.received), b"0123456789" * 100)

    def test_it_is_sent_at_once_when_it_is_much(self) -> None:
        pair = Pair().open()
        sizes: list[int] = []

        def script(protocol: Recorder, event: Any) -> None:
            if isinstance(event, bytes):
                for _ in range(3):
                    protocol.transport.write(bytes(CORK_BYTES // 2))
                    sizes.append(pair.wire.second.waiting)

        pair.server.script = script
        pair.client.transport.write(b"go")
        pair.wire.step()
        self.assertEqual(sizes[0], 0)
        self.assertGreater(sizes[1], CORK_BYTES)
        self.assertEqual(sizes[2], sizes[1])
        pair.pump()
        self.assertEqual(len(pair.client.received), CORK_BYTES * 3 // 2)

    def test_what_is_written_elsewhere_is_sent_at_once(self) -> None:
        pair = Pair().open()
        pair.client.transport.write(b"x")
        self.assertEqual(pair.wire.first.waiting, 35)
        pair.client.transport.write(b"")
        self.assertEqual(pair.wire.first.waiting, 35)


class ClosingTests(ChannelTestCase):
    def test_loseconnection_sends_everything_and_ends_cleanly(self) -> None:
        pair = Pair().open()
        data = Random(1).randbytes(300_000)
        pair.client.transport.write(data)
        pair.client.transport.loseConnection()
        self.assertTrue(pair.client.transport.disconnecting)
        pair.pump()
        self.assertEqual(bytes(pair.server.received), data)
        self.assert_ended(pair.client, ConnectionDone)
        self.assert_ended(pair.server, ConnectionDone)
        self.assert_clean(pair)

    def test_both_close_at_the_same_time(self) -> None:
        pair = Pair().open()
        for protocol in (pair.client, pair.server):
            protocol.transport.write(b"bye")
            protocol.transport.loseConnection()
            protocol.transport.loseConnection()
        pair.pump()
        self.assert_ended(pair.client, ConnectionDone)
        self.assert_ended(pair.server, ConnectionDone)
        self.assert_clean(pair)

    def test_after_loseconnection_nothing_is_delivered(self) -> None:
        pair = Pair().open()
        pair.server.transport.write(b"on its way")
        pair.client.transport.loseConnection()
        pair.pump()
        self.assertEqual(pair.client.events, ["made", ("lost", ConnectionDone)])

    def test_what_is_written_after_the_goodbye_is_dropped(self) -> None:
        pair = Pair().open()
        pair.client.transport.loseConnection()
        pair.client.transport.write(b"late")
        pair.pump()
        pair.client.transport.write(b"later")
        self.assertEqual(bytes(pair.server.received), b"")

    def test_data_that_a_paused_application_left_does_not_keep_it_open(self) -> None:
        pair = Pair().open()
        pair.client.transport.pauseProducing()
        pair.server.transport.write(bytes(300_000))
        pair.pump()
        pair.client.transport.loseConnection()
        pair.pump()
        self.assertEqual(pair.client.events, ["made", ("lost", ConnectionDone)])
        self.assert_clean(pair)

    def test_a_goodbye_that_waits_behind_unread_data_is_found(self) -> None:
        pair = Pair().open()
        pair.client.transport.pauseProducing()
        pair.server.transport.write(b"unread")
        pair.server.transport.loseConnection()
        # The transport beneath had read this already when it was paused.
        pair.client_channel.dataReceived(bytes(pair.wire.second._waiting))
        pair.wire.second._waiting.clear()
        self.assertEqual(pair.client.events, ["made"])
        pair.client.transport.loseConnection()
        pair.pump()
        self.assertEqual(pair.client.events, ["made", ("lost", ConnectionDone)])

    def test_a_peer_that_does_not_answer_is_cut_off_after_the_deadline(self) -> None:
        pair = Pair().open()
        pair.wire.second.pauseProducing()
        pair.client.transport.write(b"last words")
        pair.client.transport.loseConnection()
        pair.advance(CLOSE_TIMEOUT - 0.1)
        self.assertEqual(pair.client.events, ["made"])
        pair.advance(0.2)
        self.assert_ended(pair.client, PeerTooSlow)
        self.assertTrue(pair.wire.first.aborted)
        self.assert_clean(pair)

    def test_a_slow_peer_has_as_long_as_it_makes_progress(self) -> None:
        pair = Pair().open()
        pair.wire.second.pauseProducing()
        pair.client.transport.write(bytes(200_000))
        pair.client.transport.loseConnection()
        pair.advance(CLOSE_TIMEOUT - 1)
        pair.wire.first.pauseProducing()  # its goodbye does not come yet
        pair.wire.second.resumeProducing()
        pair.pump()
        pair.advance(CLOSE_TIMEOUT - 1)
        self.assertEqual(pair.client.events, ["made"])
        pair.wire.first.resumeProducing()
        pair.pump()
        self.assert_ended(pair.client, ConnectionDone)
        self.assertEqual(len(pair.server.received), 200_000)

    def test_a_peer_that_talks_on_but_never_says_goodbye_is_cut_off(self) -> None:
        pair = Pair().open()
        self.patch(SecureChannel, "_goodbye_received", lambda _: None)
        pair.client.transport.loseConnection()
        for _ in range(4):
            pair.server.transport.write(b"blah")
            pair.advance(CLOSE_TIMEOUT / 4 + 0.1)
        self.assert_ended(pair.client, PeerTooSlow)

    def test_a_close_waits_for_the_producer(self) -> None:
        pair = Pair().open()
        transport = pair.client.transport
        transport.registerProducer(PushProducer(), True)
        transport.loseConnection()
        # A producer of our own may take its time: no deadline runs against it.
        pair.advance(CLOSE_TIMEOUT * 10)
        self.assertEqual(pair.client.events, ["made"])
        transport.write(b"produced")
        transport.unregisterProducer()
        pair.pump()
        self.assertEqual(bytes(pair.server.received), b"produced")
        self.assert_ended(pair.client, ConnectionDone)

    def test_a_close_that_waits_for_a_pull_producer(self) -> None:
        pair = Pair().open()
        transport = pair.client.transport
        transport.registerProducer(PullProducer(transport, [b"a", b"b"]), False)
        transport.loseConnection()
        pair.pump()
        self.assertEqual(bytes(pair.server.received), b"ab")
        self.assert_ended(pair.client, ConnectionDone)
        self.assert_clean(pair)

    def test_a_dead_peer_does_not_hold_a_close_that_waits_for_a_producer(self) -> None:
        for streaming in (True, False):
            pair = Pair().open()
            transport = pair.client.transport
            pair.wire.second.pauseProducing()
            if streaming:
                transport.registerProducer(PushProducer(), True)
                transport.write(bytes(100_000))
            else:
                transport.registerProducer(PullProducer(transport, [b"x"] * 9), False)
            transport.loseConnection()
            pair.advance(CLOSE_TIMEOUT + 0.1)
            self.assert_ended(pair.client, PeerTooSlow)
            self.assert_clean(pair)

    def test_abort_sends_and_delivers_nothing_more(self) -> None:
        pair = Pair().open()
        pair.client.transport.write(b"never sent")
        pair.server.transport.write(b"never delivered")
        pair.client.transport.abortConnection()
        pair.client.transport.write(b"nor this")
        self.assertEqual(pair.client.events, ["made"])  # never from within the call
        pair.pump()
        self.assertEqual(pair.client.events, ["made", ("lost", ConnectionAborted)])
        self.assertEqual(pair.server.events, ["made", ("lost", TruncatedStream)])
        self.assert_clean(pair)

    def test_abort_cuts_a_close_short(self) -> None:
        pair = Pair().open()
        pair.wire.second.pauseProducing()
        pair.client.transport.write(bytes(100_000))
        pair.client.transport.loseConnection()
        pair.client.transport.abortConnection()
        pair.client.transport.abortConnection()
        pair.pump()
        self.assert_ended(pair.client, ConnectionAborted)
        self.assert_clean(pair)

    def test_abort_keeps_no_keys_and_no_data(self) -> None:
        pair = Pair().open()
        channel = pair.client_channel

        def script(protocol: Recorder, event: Any) -> None:
            if isinstance(event, bytes):
                protocol.transport.write(b"collected, not encrypted yet")
                protocol.transport.abortConnection()

        pair.client.script = script
        pair.server.transport.write(b"go")
        pair.pump()
        self.assertEqual((channel._boxer, channel._unboxer, channel._corked), (None, None, []))

    def test_after_the_end_calls_do_nothing(self) -> None:
        pair = Pair().open()
        transport = pair.client.transport
        transport.loseConnection()
        pair.pump()
        events = list(pair.client.events)
        transport.write(b"x")
        transport.pauseProducing()
        transport.resumeProducing()
        transport.loseWriteConnection()
        transport.loseConnection()
        transport.abortConnection()
        transport.unregisterProducer()
        pair.client_channel.dataReceived(b"x")
        pair.client_channel.connectionLost(None)  # type: ignore[arg-type]
        pair.pump()
        self.assertEqual(pair.client.events, events)
        self.assertIsInstance(transport.getPeer(), PeerAddress)
        self.assertIsInstance(transport.getHost(), LocalAddress)
        self.assert_clean(pair)


class ReentrancyTests(ChannelTestCase):
    def test_writing_inside_datareceived(self) -> None:
        pair = Pair().open()

        def script(protocol: Recorder, event: Any) -> None:
            if isinstance(event, bytes):
                protocol.transport.write(event.upper())

        pair.server.script = script
        pair.client.transport.write(b"abc")
        pair.pump()
        self.assertEqual(bytes(pair.client.received), b"ABC")

    def test_losing_inside_datareceived_drops_the_rest_of_the_chunk(self) -> None:
        pair = Pair().open()

        def script(protocol: Recorder, event: Any) -> None:
            if isinstance(event, bytes):
                protocol.transport.write(b"answer")
                protocol.transport.loseConnection()

        pair.server.script = script
        pair.client.transport.write(bytes(300_000))
        pair.pump()
        self.assertEqual(len([e for e in pair.server.events if isinstance(e, bytes)]), 1)
        self.assertEqual(bytes(pair.client.received), b"answer")
        self.assert_ended(pair.client, ConnectionDone)
        self.assert_ended(pair.server, ConnectionDone)

    def test_aborting_inside_datareceived_drops_the_rest_of_the_chunk(self) -> None:
        pair = Pair().open()

        def script(protocol: Recorder, event: Any) -> None:
            if isinstance(event, bytes):
                protocol.transport.write(b"never sent")
                protocol.transport.abortConnection()

        pair.server.script = script
        pair.client.transport.write(bytes(300_000))
        pair.pump()
        self.assertEqual(len([e for e in pair.server.events if isinstance(e, bytes)]), 1)
        self.assertEqual(bytes(pair.client.received), b"")
        self.assert_ended(pair.server, ConnectionAborted)
        self.assert_clean(pair)

    def test_losing_when_connected(self) -> None:
        client = Recorder()
        client.script = lambda p, e: p.transport.loseConnection() if e == "made" else None
        pair = Pair(client=client)
        pair.pump()
        self.assertEqual(pair.client_owner.events, ["opened", "lost"])
        self.assert_ended(client, ConnectionDone)
        self.assert_clean(pair)

    def test_aborting_when_connected(self) -> None:
        client = Recorder()
        client.script = lambda p, e: p.transport.abortConnection() if e == "made" else None
        pair = Pair(client=client)
        pair.pump()
        self.assertEqual(pair.client_owner.events, ["opened", "lost"])
        self.assert_ended(client, ConnectionAborted)
        self.assert_clean(pair)

    def test_a_protocol_that_raises_loses_its_connection_and_is_logged(self) -> None:
        pair = Pair().open()

        def script(protocol: Recorder, event: Any) -> None:
            if isinstance(event, bytes):
                raise ZeroDivisionError("a bug")

        pair.server.script = script
        pair.client.transport.write(bytes(200_000))
        pair.pump()
        self.assert_ended(pair.server, ZeroDivisionError)
        self.assert_ended(pair.client, TruncatedStream)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assert_clean(pair)


class HalfCloseTests(ChannelTestCase):
    """The table of the module's docstring, row by row."""

    def test_h_ends_its_writing_and_reads_on(self) -> None:
        pair = Pair(HalfRecorder(), HalfRecorder()).open()
        pair.client.transport.write(b"request")
        pair.client.transport.loseWriteConnection()
        self.assertEqual(pair.client.events, ["made"])  # told in a later turn
        pair.pump()
        self.assertEqual(pair.client.events, ["made", "write lost"])
        self.assertEqual(pair.server.events, ["made", b"request", "read lost"])
        pair.client.transport.write(b"dropped")
        pair.server.transport.write(b"response")
        pair.pump()
        self.assertEqual(bytes(pair.client.received), b"response")
        self.assertEqual(bytes(pair.server.received), b"request")
        pair.server.transport.loseWriteConnection()
        pair.pump()
        self.assertEqual(
            pair.client.events,
            ["made", "write lost", b"response", "read lost", ("lost", ConnectionDone)],
        )
        self.assert_ended(pair.server, ConnectionDone)
        self.assert_clean(pair)

    def test_p_ends_its_writing_and_reads_on_without_being_told(self) -> None:
        pair = Pair(Recorder(), HalfRecorder()).open()
        pair.client.transport.loseWriteConnection()
        pair.pump()
        pair.server.transport.write(b"response")
        pair.pump()
        self.assertEqual(pair.client.events, ["made", b"response"])
        pair.server.transport.loseConnection()
        pair.pump()
        self.assertEqual(pair.client.events, ["made", b"response", ("lost", ConnectionDone)])
        self.assert_clean(pair)

    def test_the_peers_goodbye_closes_p_after_what_it_wrote(self) -> None:
        pair = Pair(HalfRecorder(), Recorder()).open()
        data = Random(2).randbytes(200_000)
        pair.server.transport.write(data)
        pair.client.transport.loseWriteConnection()
        pair.pump()
        self.assertEqual(bytes(pair.client.received), data)
        self.assert_ended(pair.server, ConnectionDone)
        self.assert_ended(pair.client, ConnectionDone)
        self.assert_clean(pair)

    def test_the_peers_goodbye_stops_ps_producer(self) -> None:
        for streaming in (True, False):
            pair = Pair(HalfRecorder(), Recorder()).open()
            transport = pair.server.transport
            producer: Any = PushProducer() if streaming else PullProducer(transport, [b"a", b"b"])
            if not streaming:
                # It gives nothing more; a transfer that is stuck must not hold the close.
                producer.resumeProducing = lambda: None
            transport.registerProducer(producer, streaming)
            transport.write(b"rest")
            pair.client.transport.loseWriteConnection()
            pair.pump()
            self.assertEqual(bytes(pair.client.received), b"rest")
            self.assertTrue(producer.stopped if not streaming else producer.events == ["stop"])
            self.assert_ended(pair.server, ConnectionDone)
            self.assert_ended(pair.client, ConnectionDone)
            self.assert_clean(pair)

    def test_a_producer_of_p_that_fails_when_it_is_stopped_ends_that_connection_only(self) -> None:
        pair = Pair(HalfRecorder(), Recorder()).open()
        producer: Any = PushProducer()
        producer.stopProducing = lambda: 1 / 0
        pair.server.transport.registerProducer(producer, True)
        pair.client.transport.loseWriteConnection()
        pair.pump()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assert_ended(pair.server, ZeroDivisionError)
        self.assert_clean(pair)

    def test_a_half_close_waits_for_the_producer(self) -> None:
        pair = Pair(HalfRecorder(), HalfRecorder()).open()
        transport = pair.client.transport
        transport.registerProducer(PushProducer(), True)
        transport.loseWriteConnection()
        pair.pump()
        self.assertEqual(pair.server.events, ["made"])
        transport.write(b"x")
        transport.unregisterProducer()
        pair.pump()
        self.assertEqual(pair.server.events, ["made", b"x", "read lost"])
        self.assertEqual(pair.client.events, ["made", "write lost"])

    def test_h_may_close_when_it_is_told(self) -> None:
        server = HalfRecorder()
        server.script = lambda p, e: p.transport.loseConnection() if e == "read lost" else None
        pair = Pair(HalfRecorder(), server).open()
        pair.client.transport.loseWriteConnection()
        pair.pump()
        self.assertEqual(server.events, ["made", "read lost", ("lost", ConnectionDone)])
        self.assert_clean(pair)

    def test_h_may_write_when_it_is_told(self) -> None:
        server = HalfRecorder()

        def script(protocol: Recorder, event: Any) -> None:
            if event == "read lost":
                protocol.transport.write(b"sum")
                protocol.transport.loseWriteConnection()

        server.script = script
        pair = Pair(HalfRecorder(), server).open()
        pair.client.transport.loseWriteConnection()
        pair.pump()
        self.assertEqual(bytes(pair.client.received), b"sum")
        self.assert_ended(pair.client, ConnectionDone)
        self.assert_ended(server, ConnectionDone)

    def test_a_half_closed_connection_has_no_deadline(self) -> None:
        pair = Pair(HalfRecorder(), HalfRecorder()).open()
        pair.client.transport.loseWriteConnection()
        pair.pump()
        pair.advance(CLOSE_TIMEOUT * 100)
        self.assertEqual(pair.client.events, ["made", "write lost"])
        self.assertEqual(pair.clock.getDelayedCalls(), [])

    def test_closing_after_a_half_close_has_the_deadline(self) -> None:
        pair = Pair(HalfRecorder(), HalfRecorder()).open()
        pair.client.transport.loseWriteConnection()
        pair.pump()
        pair.client.transport.loseConnection()
        pair.advance(CLOSE_TIMEOUT + 0.1)
        self.assert_ended(pair.client, PeerTooSlow)

    def test_closing_right_after_a_half_close_is_a_close(self) -> None:
        pair = Pair(HalfRecorder(), HalfRecorder()).open()
        pair.client.transport.loseWriteConnection()
        pair.client.transport.loseConnection()
        pair.pump()
        self.assertEqual(pair.client.events, ["made"])
        self.assertEqual(pair.server.events, ["made", "read lost"])

    def test_closing_after_a_half_close_finds_the_goodbye_behind_unread_data(self) -> None:
        pair = Pair(HalfRecorder(), HalfRecorder()).open()
        pair.client.transport.loseWriteConnection()
        pair.pump()
        pair.client.transport.pauseProducing()
        pair.server.transport.write(b"unread")
        pair.server.transport.loseConnection()
        pair.pump()
        self.assertEqual(pair.client.events, ["made", "write lost"])
        pair.client.transport.loseConnection()
        pair.pump()
        self.assertEqual(pair.client.events, ["made", "write lost", ("lost", ConnectionDone)])
        self.assert_clean(pair)

    def test_the_rest_is_sent_when_the_peer_was_first_and_reads_late(self) -> None:
        pair = Pair(HalfRecorder(), Recorder()).open()
        pair.wire.first.pauseProducing()
        data = Random(5).randbytes(200_000)
        pair.server.transport.write(data)
        pair.client.transport.loseWriteConnection()
        pair.pump()
        self.assertEqual(pair.server.events, ["made"])
        pair.wire.first.resumeProducing()
        pair.pump()
        self.assertEqual(bytes(pair.client.received), data)
        self.assert_ended(pair.server, ConnectionDone)
        self.assert_clean(pair)

    def test_a_dead_peer_does_not_hold_what_two_half_closes_ended(self) -> None:
        pair = Pair(HalfRecorder(), HalfRecorder()).open()
        pair.server.transport.loseWriteConnection()
        pair.pump()
        pair.wire.second.pauseProducing()
        pair.client.transport.write(bytes(200_000))
        pair.client.transport.loseWriteConnection()
        pair.pump()
        pair.advance(CLOSE_TIMEOUT - 0.1)
        self.assertTrue(pair.wire.first.connected)
        pair.advance(0.2)
        self.assert_ended(pair.client, PeerTooSlow)
        self.assert_clean(pair)

    def test_both_ends_half_close_at_the_same_time(self) -> None:
        pair = Pair(HalfRecorder(), HalfRecorder()).open()
        pair.client.transport.loseWriteConnection()
        pair.server.transport.loseWriteConnection()
        pair.pump()
        self.assert_ended(pair.client, ConnectionDone)
        self.assert_ended(pair.server, ConnectionDone)
        self.assert_clean(pair)

    def test_a_fin_after_the_goodbye_leaves_our_direction_open(self) -> None:
        # Scuttlebutt's programs end the TCP direction together with the stream.
        pair = Pair(HalfRecorder(), HalfRecorder()).open()
        pair.client.transport.loseWriteConnection()
        pair.wire.first.loseWriteConnection()
        pair.pump()
        self.assertEqual(pair.server.events, ["made", "read lost"])
        pair.server.transport.write(b"still here")
        pair.server.transport.loseConnection()
        pair.pump()
        self.assertEqual(bytes(pair.client.received), b"still here")
        self.assert_ended(pair.server, ConnectionDone)
        self.assert_ended(pair.client, ConnectionDone)


class BrokenStreamTests(ChannelTestCase):
    def test_an_end_without_goodbye_is_a_truncation(self) -> None:
        for protocol in (Recorder, HalfRecorder):
            pair = Pair(server=protocol()).open()
            pair.client.transport.write(b"some")
            pair.wire.first.loseWriteConnection()
            pair.pump()
            self.assertEqual(bytes(pair.server.received), b"some")
            self.assertNotIn("read lost", pair.server.events)
            self.assert_ended(pair.server, TruncatedStream)
            self.assertTrue(pair.wire.second.aborted)

    def test_a_lost_connection_is_a_truncation_and_says_so(self) -> None:
        pair = Pair().open()
        pair.wire.cut()
        pair.pump()
        for protocol in (pair.client, pair.server):
            self.assert_ended(protocol, TruncatedStream)
            assert protocol.reason is not None
            self.assertIn("goodbye", protocol.reason.getErrorMessage())
        self.assert_clean(pair)

    def test_even_a_clean_end_of_the_transport_beneath_is_a_truncation(self) -> None:
        pair = Pair().open()
        pair.client_channel.connectionLost(Failure(ConnectionDone()))
        self.assert_ended(pair.client, TruncatedStream)

    def test_truncation_at_every_byte_of_the_last_box_and_goodbye(self) -> None:
        probe = Pair().open()
        probe.client.transport.write(b"last")
        probe.client.transport.loseConnection()
        total = probe.wire.first.waiting
        for length in range(total + 1):
            pair = Pair().open()
            passed = 0

            def cut(source: Any, data: bytes, pair: Pair = pair, length: int = length) -> bytes:
                nonlocal passed
                if source is not pair.wire.first:
                    return data
                kept = data[: length - passed]
                passed += len(kept)
                return kept

            pair.wire.intercept = cut
            pair.client.transport.write(b"last")
            pair.client.transport.loseConnection()
            pair.wire.step()
            pair.wire.first.loseWriteConnection()
            pair.pump()
            expected = ConnectionDone if length == total else TruncatedStream
            self.assert_ended(pair.server, expected)
            self.assertEqual(bytes(pair.server.received), b"last" * (length >= 38))

    def test_a_changed_byte_ends_the_connection_with_the_cause(self) -> None:
        pair = Pair().open()
        pair.wire.intercept = lambda source, data: data[:-1] + bytes([data[-1] ^ 1])
        pair.client.transport.write(b"text")
        pair.pump()
        self.assertEqual(bytes(pair.server.received), b"")
        self.assert_ended(pair.server, TamperedStream)
        self.assert_ended(pair.client, TruncatedStream)
        self.assert_clean(pair)

    def test_what_came_before_the_changed_byte_is_delivered_first(self) -> None:
        pair = Pair().open()
        pair.client.transport.write(b"good")
        pair.client.transport.write(b"bad!")
        pair.wire.intercept = lambda source, data: data[:-1] + bytes([data[-1] ^ 1])
        pair.pump()
        self.assertEqual(pair.server.events, ["made", b"good", ("lost", TamperedStream)])

    def test_the_first_reason_is_kept(self) -> None:
        pair = Pair().open()
        pair.server_channel.dataReceived(bytes(34))  # tampered
        pair.server.transport.abortConnection()
        pair.wire.cut()
        pair.pump()
        self.assert_ended(pair.server, TamperedStream)

    def test_a_peer_that_is_gone_after_its_goodbye_lost_our_data(self) -> None:
        pair = Pair(HalfRecorder(), HalfRecorder()).open()
        pair.client.transport.loseWriteConnection()
        pair.pump()
        pair.server.transport.write(b"half an answer")
        pair.server_channel.connectionLost(Failure(ConnectionDone()))
        self.assert_ended(pair.server, ConnectionLost)

    def test_a_reset_after_both_goodbyes_is_reported_as_it_is(self) -> None:
        pair = Pair(HalfRecorder(), HalfRecorder()).open()
        pair.client.transport.loseWriteConnection()
        pair.pump()
        pair.wire.cut()
        pair.pump()
        self.assert_ended(pair.server, ConnectionLost)


class OldTransportTests(ChannelTestCase):
    def test_a_transport_that_cannot_abort_is_closed(self) -> None:
        class Plain:
            """ITransport, and no more than that."""

            def __init__(self, inner: StringTransport) -> None:
                self.write, self.getPeer, self.getHost = inner.write, inner.getPeer, inner.getHost
                self.unregisterProducer = lambda: None
                self.closed = 0

            def loseConnection(self) -> None:
                self.closed += 1

        channel = SecureChannel(Clock(), new_client(), Owner(Recorder()))
        plain = Plain(StringTransport())
        channel.makeConnection(plain)  # type: ignore[arg-type]
        channel.abortConnection()
        self.assertEqual(plain.closed, 1)

    def test_its_repr_names_the_peer_and_no_key(self) -> None:
        channel = Pair().open().client_channel
        self.assertIn(BOB.public.short, repr(channel))
        self.assertIn(ECHO.name, repr(channel))
