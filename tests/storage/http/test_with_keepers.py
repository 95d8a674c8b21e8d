"""An object put and read whole, with everything real but the disk and the wires."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import ReservationExceeded, UploadUnknown
from meshkit.identity.network import NetworkSecret
from meshkit.runtime.signed.replays import Replays
from meshkit.runtime.signed.signing import Signatures, Signer
from meshkit.runtime.workers import InlineWorkers
from meshkit.shs import Capability, SecureListener, wrap_client
from meshkit.storage.client.client import StorageClient, holders_of
from meshkit.storage.client.streams import BytesSink, IteratorSource
from meshkit.storage.client.values import Offer
from meshkit.storage.erasure import ZfecCodec
from meshkit.storage.http.client import HTTPStoragePeer
from meshkit.storage.http.server import storage_factory
from meshkit.storage.http.wire import LABEL, VERSION
from meshkit.storage.keeper.capacity import KeeperConfig
from meshkit.storage.keeper.keeper import Keeper
from meshkit.storage.rendezvous import Candidate
from meshkit.storage.shards.memory import MemoryShardStore
from meshkit.storage.statements import StorageRecord
from meshkit.storage.terms import MAX_BLOCK
from meshkit.testing.identities import make_identity
from meshkit.testing.transports import MemoryNetwork
from tests.storage.client.peers import run_until
from tests.storage.http.peers import UPLOAD
from tests.storage.objects import SMALL
from tests.storage.shelves import text_of

NETWORK = bytes(16)
NOW = 1_700_000_000
TEXT = text_of(3 * SMALL.text_bytes + 77)
COUNT = 9


class OverChannels(SynchronousTestCase):
    """Peers in a mesh."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.workers = InlineWorkers(self.clock, 2)
        self.workers.startService()
        self.rng = Random(1)
        self.owner = make_identity("owner")
        self.keepers: list[Keeper] = []
        self.sites: list[Any] = []
        self.peers: list[HTTPStoragePeer] = []
        for number in range(COUNT):
            self._add(number)
        self.client = StorageClient(
            b"s" * 32,
            reactor=self.clock,
            workers=self.workers,
            rng=self.rng,
            wall_clock=self.wall_clock,
            codec=ZfecCodec(),
        )

    def tearDown(self) -> None:
        self.wait(self.client.quiet())
        for peer in self.peers:
            self.wait(peer.stop())
        for site in self.sites:
            self.wait(site.close(1))
        for keeper in self.keepers:
            self.wait(keeper.stop())
        self.wait(self.workers.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def wall_clock(self) -> int:
        return NOW * 10**9 + int(self.clock.seconds() * 10**9)

    def wait(self, deferred: Deferred[Any]) -> Any:
        return run_until(self.clock, deferred)

    def _add(self, number: int) -> None:
        identity = make_identity(f"storage-{number}")
        keeper = Keeper(
            MemoryShardStore(),
            identity,
            NETWORK,
            reactor=self.clock,
            workers=self.workers,
            wall_clock=self.wall_clock,
            config=KeeperConfig(10**8),
        )
        self.wait(keeper.start())
        self.keepers.append(keeper)
        self._connect(number, identity, keeper)

    def _connect(self, number: int, identity: Any, keeper: Keeper) -> None:
        network = MemoryNetwork(self.clock)
        key = NetworkSecret.generate(Random(2)).key().capability(LABEL)
        capability = Capability(LABEL, VERSION, key)
        listener = SecureListener(self.clock, identity, self.rng)
        site = storage_factory(self.clock, keeper.for_caller, keeper.record)
        listener.register(capability, site)
        network.server_endpoint(1_000 + number).listen(listener)
        endpoint = wrap_client(
            self.clock,
            network.client_endpoint(1_000 + number),
            identity=self.owner,
            capability=capability,
            peer=identity.public,
            rng=self.rng,
        )
        self.sites.append(site)
        self.peers.append(HTTPStoragePeer(self.clock, endpoint, identity.public))

    def find(self, key: Any) -> Any:
        return next(peer for peer in self.peers if peer.key == key)

    def test_what_was_put_is_read(self) -> None:
        offers = [
            Offer(Candidate(peer.key.raw, decided=str(number)), peer)
            for number, peer in enumerate(self.peers)
        ]
        stored = self.wait(self.client.put(IteratorSource(self.workers, [TEXT]), offers, SMALL))
        self.assertEqual(len(stored.receipts), SMALL.total)
        sink = BytesSink()
        holders = holders_of(stored.document, self.find)
        key = stored.capability.key
        fetched = self.wait(self.client.get(stored.manifest, key, holders, sink))
        self.assertEqual((bytes(sink.data), fetched.problems), (TEXT, ()))
        deleted = self.wait(self.client.delete(stored.manifest, stored.document, self.find))
        self.assertEqual(deleted.problems, ())
        self.assertEqual([keeper.figures().shares for keeper in self.keepers], [0] * COUNT)

    def test_a_record_says_what_the_peer_has_signed(self) -> None:
        raw = self.wait(self.peers[0].statement())
        record = StorageRecord.open(raw, self.keepers[0].key)
        self.assertEqual(record.capacity, 10**8)

    def test_a_block_for_which_there_is_no_room_is_refused_at_its_headers(self) -> None:
        (peer, keeper) = self.peers[0], self.keepers[0]
        asked = peer.write(UPLOAD, 0, 0, bytes(MAX_BLOCK))
        self.assertRaises(UploadUnknown, self.wait, asked)
        self.wait(peer.reserve(UPLOAD, 0, 4_096, b"l" * 32))
        asked = peer.write(UPLOAD, 0, 0, bytes(MAX_BLOCK))
        self.assertRaises(ReservationExceeded, self.wait, asked)
        self.assertEqual(keeper.figures().written, 0)
        self.wait(peer.write(UPLOAD, 0, 0, bytes(4_096)))
        self.wait(peer.abort(UPLOAD, 0))


class Signed(OverChannels):
    """Peers that are in no mesh with their client."""

    def _connect(self, number: int, identity: Any, keeper: Keeper) -> None:
        network = MemoryNetwork(self.clock)
        replays = Replays(0)
        replays.stored(NOW + 10_000)
        signatures = Signatures(identity, NETWORK, replays, self.wall_clock)
        site = storage_factory(self.clock, keeper.for_caller, keeper.record, signatures=signatures)
        network.server_endpoint(1_000 + number).listen(site)
        signer = Signer(self.owner, NETWORK, f"host:{1_000 + number}", self.rng, self.wall_clock)
        endpoint = network.client_endpoint(1_000 + number)
        self.sites.append(site)
        self.peers.append(HTTPStoragePeer(self.clock, endpoint, identity.public, signer=signer))
