"""
The JavaScript reference of Secret Handshake and box stream (npm C{secret-handshake},
C{pull-box-stream}) as a peer, over TCP: its client at our server, and the reverse.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, ProcessProtocol, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from meshkit.errors import NetworkKeyRefused, PeerKeyRefused, TruncatedStream
from meshkit.identity.keys import Identity, PublicKey
from meshkit.shs import Capability, SecureListener, wrap_client
from tests.interop.node import environment, node

PEER = Path(__file__).with_name("shs_peer.js")

#: One byte, a whole box, one more than that, and many boxes.
SIZES = (1, 4096, 4097, 100_000)

LABEL = "stream"


class JavaScript(ProcessProtocol):
    """C{shs_peer.js} at work: collects the events that it tells."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.errors = b""
        self._line = b""
        self._wanted: list[tuple[Callable[[dict[str, Any]], bool], Deferred[Any]]] = []
        self.ended: Deferred[int | None] = Deferred()
        self.running = True

    def outReceived(self, data: bytes) -> None:
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            self.events.append(json.loads(line))
        self._look()

    def errReceived(self, data: bytes) -> None:
        self.errors += data

    def processEnded(self, reason: Failure) -> None:
        self.running = False
        self._look()
        self.ended.callback(reason.value.exitCode)  # type: ignore[union-attr]

    def _look(self) -> None:
        waiting, self._wanted = self._wanted, []
        for wanted, deferred in waiting:
            self.event(wanted).chainDeferred(deferred)

    def event(self, wanted: Callable[[dict[str, Any]], bool]) -> Deferred[dict[str, Any]]:
        """The first event like that, as soon as it was told."""
        for event in self.events:
            if wanted(event):
                return succeed(event)
        if not self.running:
            return fail(AssertionError(f"it ended after {self.events}: {self.errors!r}"))
        deferred: Deferred[dict[str, Any]] = Deferred()
        self._wanted.append((wanted, deferred))
        return deferred

    def named(self, name: str) -> Deferred[dict[str, Any]]:
        return self.event(lambda event: event.get("event") == name)


class Echo(Protocol):
    """Gives back what it gets."""

    def __init__(self) -> None:
        self.lost: Deferred[BaseException] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[union-attr]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(reason.value)


class Silent(Echo):
    """Gives nothing back."""

    def dataReceived(self, data: bytes) -> None:
        pass


class EchoFactory(Factory):
    noisy = False

    def __init__(self) -> None:
        self.peers: list[Any] = []
        self.built: list[Echo] = []

    def buildProtocol(self, addr: IAddress | None) -> Echo:
        self.peers.append(addr)
        self.built.append(Echo())
        return self.built[-1]


class Collector(Protocol):
    """Waits for as many bytes as it was told to."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.lost: Deferred[BaseException] = Deferred()
        self._waiting: tuple[int, Deferred[bytes]] | None = None

    def take(self, size: int) -> Deferred[bytes]:
        deferred: Deferred[bytes] = Deferred()
        self._waiting = (size, deferred)
        self._look()
        return deferred

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._look()

    def _look(self) -> None:
        if self._waiting is not None and len(self.received) >= self._waiting[0]:
            (size, deferred), self._waiting = self._waiting, None
            data = bytes(self.received[:size])
            del self.received[:size]
            deferred.callback(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(reason.value)


class _Tests(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.rng = Random(self.id())
        self.us = Identity(self.rng.randbytes(32))
        self.seed = self.rng.randbytes(32)
        self.them = Identity(self.seed).public
        self.app_key = self.rng.randbytes(32)
        self.capability = Capability(LABEL, 1, self.app_key)

    def javascript(self, *arguments: str | int) -> JavaScript:
        process = JavaScript()
        program = node()
        transport = reactor.spawnProcess(
            process,
            program,
            [program, str(PEER), *map(str, arguments)],
            env=environment(),
        )

        async def end() -> None:
            if process.running:
                transport.signalProcess("KILL")
            await process.ended
            self.assertEqual(process.errors, b"")

        self.addCleanup(lambda: Deferred.fromCoroutine(end()))
        return process


class TheirClientTests(_Tests):
    """Their client, our server."""

    async def listen(self) -> tuple[int, SecureListener, EchoFactory]:
        factory = EchoFactory()
        listener = SecureListener(reactor, self.us, self.rng)
        listener.register(self.capability, factory)
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(listener)
        self.addCleanup(port.stopListening)
        self.addCleanup(listener.close_all)
        return port.getHost().port, listener, factory

    def client(self, port: int, app_key: bytes, key: PublicKey, *sizes: int) -> JavaScript:
        return self.javascript(
            "client", app_key.hex(), self.seed.hex(), port, key.raw.hex(), *sizes
        )

    async def test_what_it_sends_comes_back_and_both_say_goodbye(self) -> None:
        port, listener, factory = await self.listen()
        client = self.client(port, self.app_key, self.us.public, *SIZES)
        opened = await client.named("opened")
        self.assertEqual(opened["peer"], self.us.public.raw.hex())
        ended = await client.named("ended")
        self.assertEqual(ended, {"event": "ended", "goodbye": True})
        self.assertEqual(
            [event for event in client.events if event["event"] == "echoed"],
            [{"event": "echoed", "size": size, "same": True} for size in SIZES],
        )
        # The same on our side: who it was, and that nothing was cut off.
        (peer,) = factory.peers
        self.assertEqual(peer.key, self.them)
        self.assertIsInstance(await factory.built[0].lost, ConnectionDone)
        self.assertEqual(dict(listener.refusals), {})

    async def test_of_another_network_it_is_refused(self) -> None:
        port, listener, factory = await self.listen()
        client = self.client(port, self.rng.randbytes(32), self.us.public, 1)
        refused = await client.named("refused")
        self.assertTrue(refused["error"])
        self.assertEqual(dict(listener.refusals), {"NETWORK_KEY_REFUSED": 1})
        self.assertEqual(factory.built, [])

    async def test_taking_us_for_another_it_is_refused(self) -> None:
        port, listener, factory = await self.listen()
        other = Identity(self.rng.randbytes(32)).public
        client = self.client(port, self.app_key, other, 1)
        refused = await client.named("refused")
        self.assertTrue(refused["error"])
        self.assertEqual(dict(listener.refusals), {"PEER_KEY_REFUSED": 1})
        self.assertEqual(factory.built, [])

    async def test_a_goodbye_that_is_missing_is_noticed(self) -> None:
        port, _, factory = await self.listen()
        # It waits for an echo that it does not get, and is killed.
        silent = Silent()
        self.patch(factory, "buildProtocol", lambda addr: silent)
        client = self.client(port, self.app_key, self.us.public, 1)
        await client.named("opened")
        os.kill(client.transport.pid, signal.SIGKILL)  # type: ignore[union-attr]
        self.assertIsInstance(await silent.lost, TruncatedStream)


class OurClientTests(_Tests):
    """Our client, their server."""

    async def server(self) -> tuple[JavaScript, int]:
        server = self.javascript("server", self.app_key.hex(), self.seed.hex())
        told = await server.event(lambda event: "port" in event)
        self.assertEqual(told["publicKey"], self.them.raw.hex())
        return server, told["port"]

    def connect(self, port: int, capability: Capability, key: PublicKey) -> Deferred[Collector]:
        endpoint = wrap_client(
            reactor,
            TCP4ClientEndpoint(reactor, "127.0.0.1", port),
            identity=self.us,
            capability=capability,
            peer=key,
            rng=self.rng,
        )
        connected: Deferred[Any] = endpoint.connect(Factory.forProtocol(Collector))
        return connected

    async def test_what_we_send_comes_back_and_both_say_goodbye(self) -> None:
        server, port = await self.server()
        channel = await self.connect(port, self.capability, self.them)
        opened = await server.named("opened")
        self.assertEqual(opened["peer"], self.us.public.raw.hex())
        for size in SIZES:
            data = self.rng.randbytes(size)
            channel.transport.write(data)  # type: ignore[union-attr]
            self.assertEqual(await channel.take(size), data)
        channel.transport.loseConnection()  # type: ignore[union-attr]
        self.assertEqual(await server.named("ended"), {"event": "ended", "goodbye": True})
        self.assertIsInstance(await channel.lost, ConnectionDone)

    async def test_of_another_network_we_are_refused(self) -> None:
        server, port = await self.server()
        wrong = Capability(LABEL, 1, self.rng.randbytes(32))
        await self.assertFailure(self.connect(port, wrong, self.them), NetworkKeyRefused)
        self.assertTrue((await server.named("refused"))["error"])

    async def test_taking_it_for_another_we_are_refused(self) -> None:
        server, port = await self.server()
        other = Identity(self.rng.randbytes(32)).public
        await self.assertFailure(self.connect(port, self.capability, other), PeerKeyRefused)
        self.assertTrue((await server.named("refused"))["error"])

    async def test_without_our_goodbye_it_complains(self) -> None:
        server, port = await self.server()
        channel = await self.connect(port, self.capability, self.them)
        await server.named("opened")
        channel.transport.abortConnection()  # type: ignore[union-attr]
        ended = await server.named("ended")
        self.assertIn("error", ended)
        await channel.lost

    async def test_killed_it_leaves_us_a_truncated_stream(self) -> None:
        server, port = await self.server()
        channel = await self.connect(port, self.capability, self.them)
        await server.named("opened")
        server.transport.signalProcess("KILL")  # type: ignore[union-attr]
        self.assertIsInstance(await channel.lost, TruncatedStream)
