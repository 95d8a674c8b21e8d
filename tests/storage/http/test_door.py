"""The port with TLS, over a real loopback."""

from __future__ import annotations

import shutil
import tempfile
import time
from random import Random
from typing import Any, Final

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import CertificateOptions
from twisted.trial.unittest import SynchronousTestCase, TestCase

from meshkit.errors import ConfigError, SignatureRefused, StoragePeerError
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.signed.signing import Signer
from meshkit.runtime.signed.tls import load_certificate, wrap_tls_client
from meshkit.runtime.workers import WorkerPool
from meshkit.storage.encoding import Piece
from meshkit.storage.http.client import HTTPStoragePeer
from meshkit.storage.http.door import SignedDoor
from meshkit.storage.terms import MAX_BLOCK
from meshkit.testing.identities import make_identity
from tests.storage.http.certificates import make_certificate
from tests.storage.http.peers import ANSWERS, SHARE, UPLOAD, ToldPeer
from tests.storage.http.test_conversation import all_requests

NETWORK: Final = bytes(range(16))
reactor: Any = installed


class DoorTests(TestCase):
    async def _open(self) -> tuple[SignedDoor, ToldPeer]:
        told = ToldPeer()
        workers = WorkerPool(reactor, 1, name="test")
        workers.startService()
        self.addCleanup(workers.stopService)
        door = SignedDoor(
            reactor,
            TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"),
            load_certificate(*make_certificate("storage.example")),
            identity=make_identity("server"),
            network_id=NETWORK,
            workers=workers,
            files=LocalFiles(),
            mark_path=f"{self.folder}/signed-until",
            wall_clock=time.time_ns,
            for_caller=told.for_caller,
            record=told.record,
        )
        await door.start()
        return door, told

    def setUp(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="meshkit-door-")
        self.addCleanup(shutil.rmtree, self.folder)

    def _client(self, door: SignedDoor, name: str | None = None) -> HTTPStoragePeer:
        address: Any = door.address
        signer = Signer(
            make_identity("caller"),
            NETWORK,
            f"127.0.0.1:{address.port}",
            Random(),
            time.time_ns,
        )
        client = HTTPStoragePeer(
            reactor,
            wrap_tls_client(TCP4ClientEndpoint(reactor, "127.0.0.1", address.port), name),
            make_identity("server").public,
            signer=signer,
            timeout=15,
        )
        self.addCleanup(client.stop)
        return client

    async def test_everything_is_asked_and_answered_over_tls(self) -> None:
        door, told = await self._open()
        client = self._client(door)
        for name, ask in all_requests(client).items():
            self.assertEqual(await ask(), ANSWERS[name], name)
        block = bytes(range(256)) * (MAX_BLOCK // 256)
        self.assertIsNone(await client.write(UPLOAD, 1, 2, block))
        self.assertEqual(told.calls[-1][2], (UPLOAD, 1, 2, block))
        told.answers["read"] = Piece(block, [b"h" * 32])
        piece = await client.read(SHARE, 2)
        self.assertEqual(bytes(piece.block), block)
        self.assertEqual(door.connections, 1)
        await client.stop()
        await door.stop()
        self.assertEqual(door.connections, 0)

    async def test_a_block_that_is_refused_is_answered_though_it_is_on_its_way(self) -> None:
        door, told = await self._open()
        told.answers["expect"] = SignatureRefused("no")
        client = self._client(door)
        for _ in range(5):
            with self.assertRaises(StoragePeerError):
                await client.write(UPLOAD, 1, 2, bytes(MAX_BLOCK))
        self.assertNotIn("write", [name for _, name, _ in told.calls])
        await client.stop()
        await door.stop()

    async def test_a_certificate_that_is_asked_for_has_to_be_trusted(self) -> None:
        door, _ = await self._open()
        client = self._client(door, "storage.example")
        with self.assertRaises(Exception):  # noqa: B017 - what OpenSSL says of it
            await client.manifest(SHARE)
        await door.stop()
        self.flushLoggedErrors()

    async def test_what_is_no_tls_ends(self) -> None:
        door, _ = await self._open()
        address: Any = door.address
        lost: Deferred[Any] = Deferred()

        class Plain(Protocol):
            def connectionMade(self) -> None:
                transport: Any = self.transport
                transport.write(b"GET /v1/health HTTP/1.1\r\nHost: a\r\n\r\n")

            def connectionLost(self, reason: Any = None) -> None:
                lost.callback(None)

        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", address.port)
        await endpoint.connect(Factory.forProtocol(Plain))
        await lost
        await door.stop()

    async def test_a_clean_stop_is_written_down_and_the_next_start_goes_on(self) -> None:
        door, _ = await self._open()
        client = self._client(door)
        await client.manifest(SHARE)
        await client.stop()
        await door.stop()
        door, _ = await self._open()
        client = self._client(door)
        self.assertEqual(await client.manifest(SHARE), b"a manifest")
        await client.stop()
        await door.stop()


class Certificates(SynchronousTestCase):
    def test_a_chain_may_follow(self) -> None:
        certificate, key = make_certificate("a")
        other, _ = make_certificate("b")
        self.assertIsInstance(load_certificate(certificate + other, key), CertificateOptions)

    def test_what_does_not_belong_together_is_told(self) -> None:
        certificate, key = make_certificate("a")
        other, _ = make_certificate("b")
        for pair in (
            (b"", key),
            (certificate, b""),
            (other, key),
            (certificate, key[:100]),
            (certificate.replace(b"M", b"N"), key),
            (key, certificate),
        ):
            self.assertRaises(ConfigError, load_certificate, *pair)
