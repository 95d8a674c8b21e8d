"""Two protocols are connected by a secure channel in one call."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    PeerKeyRefused,
    ProtocolRefused,
    TamperedStream,
    TruncatedStream,
)
from meshkit.identity.addresses import LocalAddress, PeerAddress
from meshkit.shs import ISecureTransport
from meshkit.testing.channels import ChannelPair, connect_channels
from meshkit.testing.identities import make_identity
from meshkit.testing.strategies import chunkers
from meshkit.testing.transports import Chunker


class Recorder(Protocol):
    def __init__(self) -> None:
        self.received = b""
        self.lost: Any = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.lost = reason.type


def connect(clock: Clock | None = None, **arguments: Any) -> ChannelPair:
    factory = Factory.forProtocol(Recorder)
    return connect_channels(
        factory, factory, clock=Clock() if clock is None else clock, **arguments
    )


class ChannelTests(SynchronousTestCase):
    def test_both_ends_are_open_and_know_each_other(self) -> None:
        pair = connect(label="org.example.test")
        for protocol, own, other in (
            (pair.client, "client", "server"),
            (pair.server, "server", "client"),
        ):
            transport = protocol.transport
            self.assertTrue(ISecureTransport.providedBy(transport))
            peer, host = transport.getPeer(), transport.getHost()
            assert isinstance(peer, PeerAddress) and isinstance(host, LocalAddress)
            self.assertEqual(peer.key, make_identity(other).public)
            self.assertEqual(host.key, make_identity(own).public)
            self.assertEqual(host.label, "org.example.test")

    def test_other_identities(self) -> None:
        ada, bob = make_identity("ada"), make_identity("bob")
        pair = connect(client_identity=ada, server_identity=bob)
        self.assertEqual(pair.client.transport.getPeer().key, bob.public)
        self.assertEqual(pair.server.transport.getPeer().key, ada.public)

    @given(chunkers())
    def test_bytes_go_both_ways_however_they_are_cut(self, chunk: Chunker) -> None:
        pair = connect(chunk=chunk)
        pair.client.transport.write(b"question" * 100)
        pair.server.transport.write(b"answer" * 100)
        self.assertEqual(pair.server.received, b"")
        pair.run()
        self.assertEqual(pair.server.received, b"question" * 100)
        self.assertEqual(pair.client.received, b"answer" * 100)

    def test_the_encrypted_stream_is_cut_as_asked(self) -> None:
        sizes = []

        def watch(_sender: object, data: bytes) -> bytes:
            sizes.append(len(data))
            return data

        pair = connect(chunk=lambda waiting: 7)
        pair.wire.intercept = watch
        pair.client.transport.write(b"x" * 100)
        pair.run()
        self.assertEqual(set(sizes[:-1]), {7})
        self.assertGreater(sum(sizes), 100)

    def test_what_crosses_the_wire_is_encrypted(self) -> None:
        pair = connect()
        seen = []

        def watch(_sender: object, data: bytes) -> bytes:
            seen.append(data)
            return data

        pair.wire.intercept = watch
        pair.client.transport.write(b"in clear")
        pair.run()
        self.assertEqual(pair.server.received, b"in clear")
        self.assertGreater(len(b"".join(seen)), len(b"in clear"))
        self.assertNotIn(b"in clear", b"".join(seen))

    def test_bytes_take_their_time(self) -> None:
        clock = Clock()
        pair = connect(clock, latency=0.5)
        opened = clock.seconds()
        # TCP's own turn, and two messages of the handshake from each side.
        self.assertGreaterEqual(opened, 2.0)
        pair.client.transport.write(b"late")
        pair.run(0.4)
        self.assertEqual(pair.server.received, b"")
        pair.run(0.1)
        self.assertEqual(pair.server.received, b"late")

    def test_closing_ends_both(self) -> None:
        pair = connect()
        pair.client.transport.write(b"last words")
        pair.client.transport.loseConnection()
        pair.run()
        self.assertEqual(pair.server.received, b"last words")
        self.assertEqual((pair.client.lost, pair.server.lost), (ConnectionDone, ConnectionDone))
        self.assertEqual(pair.clock.getDelayedCalls(), [])

    def test_a_cut_wire_truncates_both(self) -> None:
        pair = connect()
        pair.wire.cut()
        pair.run()
        self.assertEqual((pair.client.lost, pair.server.lost), (TruncatedStream, TruncatedStream))

    def test_a_flipped_bit_is_noticed(self) -> None:
        pair = connect()
        pair.wire.intercept = lambda _sender, data: bytes([data[0] ^ 1]) + data[1:]
        pair.client.transport.write(b"whatever")
        pair.run()
        self.assertEqual(pair.server.received, b"")
        self.assertIs(pair.server.lost, TamperedStream)

    def test_a_seed_gives_the_same_bytes_each_time(self) -> None:
        def sent(seed: int) -> bytes:
            pair = connect(seed=seed)
            found = []
            pair.wire.intercept = lambda _sender, data: (found.append(data), data)[1]  # type: ignore[func-returns-value]
            pair.client.transport.write(b"whatever")
            pair.run()
            return b"".join(found)

        self.assertEqual(sent(1), sent(1))
        self.assertNotEqual(sent(1), sent(2))


class RefusalTests(SynchronousTestCase):
    """A channel that cannot be opened says why."""

    def test_the_server_does_not_admit_the_client(self) -> None:
        asked = []

        def authorize(peer: object, label: str) -> bool:
            asked.append((peer, label))
            return False

        self.assertRaises(PeerKeyRefused, connect, authorize=authorize)
        self.assertEqual(asked, [(make_identity("client").public, "test")])

    def test_the_client_builds_nothing(self) -> None:
        class Nobody(Factory):
            def buildProtocol(self, addr: object) -> None:
                return None

        with self.assertRaises(ProtocolRefused):
            connect_channels(Nobody(), Factory.forProtocol(Recorder), clock=Clock())

    def test_the_client_is_the_server(self) -> None:
        same = make_identity("narcissus")
        with self.assertRaises(PeerKeyRefused):
            connect(client_identity=same, server_identity=same)
