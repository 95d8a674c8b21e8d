"""
The same over real sockets, with an unmodified protocol at both ends.
"""

from __future__ import annotations

from io import BytesIO
from random import Random
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory
from twisted.protocols.basic import FileSender, LineReceiver
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from meshkit.errors import NetworkKeyRefused, PeerKeyRefused
from meshkit.shs.endpoints import wrap_client, wrap_server
from meshkit.shs.listener import SecureListener
from tests.shs.common import ALICE, BOB, CAROL, CHAT, ECHO

reactor: Any = installed


class Upper(LineReceiver):
    """Answers lines in capitals; sends a file on demand; hangs up on C{quit}."""

    def lineReceived(self, line: bytes) -> None:
        if line == b"quit":
            self.transport.loseConnection()
        elif line == b"file":
            sent = FileSender().beginFileTransfer(BytesIO(FILE), self.transport)
            sent.addCallback(lambda _: self.transport.loseConnection())
        else:
            self.sendLine(line.upper())


FILE = Random(9).randbytes(1_500_000)


class Collector(LineReceiver):
    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.raw: list[bytes] = []
        self.ended: Deferred[type[BaseException]] = Deferred()
        self.line_came: Deferred[bytes] = Deferred()

    def lineReceived(self, line: bytes) -> None:
        self.lines.append(line)
        came, self.line_came = self.line_came, Deferred()
        came.callback(line)

    def rawDataReceived(self, data: bytes) -> None:
        self.raw.append(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.ended.callback(reason.type)


class LoopbackTests(TestCase):
    async def listen(self) -> tuple[Any, SecureListener]:
        listener = SecureListener(reactor, BOB, Random(1))
        listener.register(ECHO, Factory.forProtocol(Upper))
        listener.register(CHAT, Factory.forProtocol(Upper), lambda peer, _: peer == CAROL.public)
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(listener)

        async def close() -> None:
            await port.stopListening()
            await listener.close_all()

        self.addCleanup(lambda: Deferred.fromCoroutine(close()))
        return port, listener

    async def dial(self, port: Any, **options: Any) -> Collector:
        settings: dict[str, Any] = {"identity": ALICE, "capability": ECHO, "peer": BOB.public}
        endpoint = wrap_client(
            reactor,
            TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port),
            rng=Random(2),
            **{**settings, **options},
        )
        client = await endpoint.connect(Factory.forProtocol(Collector))
        assert isinstance(client, Collector)
        return client

    async def test_lines_there_and_back_and_a_clean_end(self) -> None:
        port, listener = await self.listen()
        client = await self.dial(port)
        self.assertEqual(client.transport.getPeer().key, BOB.public)
        self.assertEqual([c.getPeer().key for c in listener.channels], [ALICE.public])
        client.sendLine(b"hello")
        self.assertEqual(await client.line_came, b"HELLO")
        client.sendLine(b"quit")
        reason = await client.ended
        self.assertIs(reason, ConnectionDone)

    async def test_a_file_through_a_pull_producer_against_a_reader_that_pauses(self) -> None:
        port, _ = await self.listen()
        client = await self.dial(port)
        client.setRawMode()
        client.sendLine(b"file")
        client.transport.pauseProducing()
        paused: Deferred[None] = Deferred()
        reactor.callLater(0.05, paused.callback, None)
        await paused
        self.assertEqual(client.raw, [])
        client.transport.resumeProducing()
        reason = await client.ended
        self.assertIs(reason, ConnectionDone)
        self.assertEqual(b"".join(client.raw), FILE)

    async def test_refusals_by_name(self) -> None:
        port, listener = await self.listen()
        with self.assertRaises(PeerKeyRefused):
            await self.dial(port, peer=CAROL.public)
        with self.assertRaises(PeerKeyRefused):
            await self.dial(port, capability=CHAT)
        listener.unregister(CHAT)
        with self.assertRaises(NetworkKeyRefused):
            await self.dial(port, capability=CHAT)
        self.assertEqual(
            listener.refusals,
            {"PEER_KEY_REFUSED": 1, "PEER_NOT_ALLOWED": 1, "NETWORK_KEY_REFUSED": 1},
        )

    async def test_stopping_closes_what_is_open(self) -> None:
        port, listener = await self.listen()
        client = await self.dial(port)
        client.sendLine(b"hello")
        await client.line_came
        await listener.close_all()
        self.assertEqual(listener.channels, ())
        reason = await client.ended
        self.assertIs(reason, ConnectionDone)

    async def test_the_two_wrappers_with_an_unmodified_line_protocol(self) -> None:
        gone: Deferred[type[BaseException]] = Deferred()

        class Server(Upper):
            def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
                gone.callback(reason.type)

        endpoint = wrap_server(
            reactor,
            TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"),
            identity=BOB,
            capability=ECHO,
            rng=Random(3),
        )
        port = await endpoint.listen(Factory.forProtocol(Server))
        self.addCleanup(port.stopListening)
        client = await self.dial(port)
        client.sendLine(b"one")
        client.sendLine(b"two")
        await client.line_came
        if len(client.lines) < 2:
            await client.line_came
        self.assertEqual(client.lines, [b"ONE", b"TWO"])
        client.transport.loseConnection()
        self.assertIs(await client.ended, ConnectionDone)
        self.assertIs(await gone, ConnectionDone)
