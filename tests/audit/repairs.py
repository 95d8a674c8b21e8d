"""
What repairs are tried on: objects at keepers in memory, each behind something that may be
unruly, and what a node would provide besides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from meshkit.audit.repair import RepairConfig, Repairer
from meshkit.audit.values import Repaired
from meshkit.errors import LeaseUnknown, NotFound, PlacementConflict, ShareUnknown
from meshkit.identity.keys import Identity, PublicKey
from meshkit.interfaces import IStoragePeers, ITrackedObjects
from meshkit.runtime.waiting import never_cancelled
from meshkit.runtime.workers import InlineWorkers
from meshkit.storage.client.client import StorageClient, holders_of
from meshkit.storage.client.streams import BytesSink, IteratorSource
from meshkit.storage.client.values import ClientConfig, Offer, Stored
from meshkit.storage.custody import TrackedObject, repair_lease_root
from meshkit.storage.encoding import Piece
from meshkit.storage.erasure import ZfecCodec
from meshkit.storage.keeper.capacity import KeeperConfig
from meshkit.storage.keeper.keeper import Keeper
from meshkit.storage.placement_document import PlacementDocument, placement_seed
from meshkit.storage.rendezvous import Candidate
from meshkit.storage.scheme import Scheme
from meshkit.storage.shards.memory import MemoryShardStore
from meshkit.storage.terms import lease_secret, peer_lease_secret
from meshkit.testing.identities import make_identity
from tests.storage.client.peers import NOW, Unruly, run_until
from tests.storage.objects import SMALL
from tests.storage.shelves import text_of

OWNER = make_identity("owner").public
REPAIRER = make_identity("repairer").public
SECRET = b"s" * 32
TEXT = text_of(5 * SMALL.text_bytes + 77)


@implementer(IStoragePeers)
class FakePeers:
    """
    @ivar gone: keys of those that are no candidates.
    @ivar domains: by key.
    """

    def __init__(self, fronts: Sequence[Unruly]) -> None:
        self.fronts = list(fronts)
        self.gone: set[PublicKey] = set()
        self.domains: dict[PublicKey, str] = {}
        self.asked: list[tuple[int, bool]] = []
        self.refreshed = 0
        self.refreshing: Deferred[None] | None = None

    def find(self, key: Any) -> Any:
        return next(each for each in self.fronts if each.key == key)

    def address_of(self, key: Any) -> Any:
        raise NotImplementedError

    def record_of(self, key: Any) -> Any:
        raise NotImplementedError

    def candidates(self, size: int, repair: bool = False) -> Any:
        self.asked.append((size, repair))
        there = [each.key for each in self.fronts if each.key not in self.gone]
        return [self.describe(key) for key in sorted(there, key=lambda key: key.raw)]

    def describe(self, key: Any) -> Any:
        return Candidate(key.raw, decided=self.domains.get(key, key.text))

    def refresh(self) -> Any:
        self.refreshed += 1
        return succeed(None) if self.refreshing is None else never_cancelled(self.refreshing)

    def judged_by(self, judge: Callable[[Any], Any]) -> None:
        raise NotImplementedError


@implementer(ITrackedObjects)
class FakeObjects:
    """
    @ivar objects: by content id.
    @ivar release: is told the object, the number and the peer of what is given up.
    """

    def __init__(self, release: Callable[[TrackedObject, int, PublicKey], object]) -> None:
        self.objects: dict[bytes, TrackedObject] = {}
        self.release = release
        self.swaps = 0
        self.before_swap: Callable[[], Any] = lambda: None

    def tracked(self, after: bytes = b"", limit: int = 500) -> Any:
        raise NotImplementedError

    def find(self, content_id: bytes) -> Any:
        found = self.objects.get(content_id)
        return fail(NotFound("no")) if found is None else succeed(found)

    def newest(self, tracked: Any) -> Any:
        return succeed(tracked)

    def swap(self, tracked: TrackedObject, document: PlacementDocument) -> Any:
        done = self.before_swap()
        if done is None:
            return self._swap(tracked, document)
        # As a database does: who waits no more does not change what is done.
        return never_cancelled(done.addCallback(lambda _: self._swap(tracked, document)))

    def _swap(self, tracked: TrackedObject, document: PlacementDocument) -> Any:
        now = self.objects.get(tracked.content_id)
        if now is None or now.document.version != tracked.document.version:
            return fail(PlacementConflict("it was changed"))
        now.document.check_successor(document)
        self.swaps += 1
        new = self.objects[tracked.content_id] = tracked.with_document(document)
        for number, (old, there) in enumerate(
            zip(tracked.document.shares, document.shares, strict=True)
        ):
            if old is not None and (there is None or there.peer != old.peer):
                self.release(tracked, number, old.peer)
        return succeed(new)

    def watch(self, capability: Any) -> Any:
        raise NotImplementedError

    def unwatch(self, content_id: bytes) -> Any:
        raise NotImplementedError

    def handed_over(self, limit: int, offset: int) -> Any:
        raise NotImplementedError


def lie(name: str, peer: Any, args: tuple[Any, ...]) -> Any:
    """What is read has one bit changed."""
    if name != "read":
        return None

    def spoil(piece: Piece) -> Piece:
        block = bytearray(piece.block)
        block[len(block) // 2] ^= 1
        return evolve(piece, block=bytes(block))

    return peer.read(*args).addCallback(spoil)


class RepairCase(SynchronousTestCase):
    """
    Some keepers, and an object whose shares the first of them have.

    @ivar stored: the object, as its owner knows it.
    """

    count = 14
    scheme = SMALL
    text = TEXT
    capacity = 10**8
    config = RepairConfig()

    def setUp(self) -> None:
        self.clock = Clock()
        self.workers = InlineWorkers(self.clock, 2)
        self.workers.startService()
        self.keepers: dict[PublicKey, Keeper] = {}
        self.stores: dict[PublicKey, MemoryShardStore] = {}
        self.fronts: list[Unruly] = []
        self.owned: dict[PublicKey, Any] = {}
        for number in range(self.count):
            self.add_keeper(make_identity(f"storage-{number}"))
        self.peers = FakePeers(self.fronts)
        self.objects = FakeObjects(self.give_up_lease)
        self.client = StorageClient(
            SECRET,
            reactor=self.clock,
            workers=self.workers,
            rng=Random(1),
            wall_clock=self.wall_clock,
            codec=ZfecCodec(),
            config=ClientConfig(),
        )
        self.repairer = self.new_repairer()
        self.stored = self.put(self.text)
        self.tracked = self.track(self.stored)

    def tearDown(self) -> None:
        for front in self.fronts:
            front.rule = None
        self.wait(self.client.quiet())
        self.wait(self.repairer.stop())
        for keeper in self.keepers.values():
            self.wait(keeper.stop())
        self.wait(self.workers.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def begin_anew(self) -> None:
        self.tearDown()
        self.setUp()

    # --- what there is -----------------------------------------------------------------

    def add_keeper(self, identity: Identity, **config: Any) -> None:
        store = self.stores[identity.public] = MemoryShardStore()
        keeper = self.keepers[identity.public] = Keeper(
            store,
            identity,
            bytes(16),
            reactor=self.clock,
            workers=self.workers,
            wall_clock=self.wall_clock,
            config=KeeperConfig(**{"capacity": self.capacity, **config}),
        )
        self.wait(keeper.start())
        self.fronts.append(Unruly(keeper.for_caller(REPAIRER), self.clock))
        self.owned[identity.public] = keeper.for_caller(OWNER)

    def new_repairer(self, **config: Any) -> Repairer:
        return Repairer(
            self.peers,
            self.objects,
            reactor=self.clock,
            workers=self.workers,
            wall_clock=self.wall_clock,
            codec=ZfecCodec(),
            config=evolve(self.config, **config),
        )

    def put(self, text: bytes, scheme: Scheme | None = None, **more: Any) -> Stored:
        offers = [
            Offer(self.peers.describe(front.key), self.owned[front.key])
            for front in self.fronts[: (scheme or self.scheme).total]
        ]
        source = IteratorSource(self.workers, [text])
        stored: Stored = self.wait(self.client.put(source, offers, scheme or self.scheme, **more))
        self.assertEqual(stored.missing, ())
        return stored

    def track(self, stored: Stored, own: bool = False) -> TrackedObject:
        seed = placement_seed(SECRET, stored.manifest.header.upload)
        tracked = TrackedObject(
            stored.manifest,
            stored.document,
            stored.signed,
            Identity(seed),
            repair_lease_root(seed),
            own,
        )
        self.objects.objects[tracked.content_id] = tracked
        return tracked

    def give_up_lease(self, tracked: TrackedObject, number: int, peer: PublicKey) -> None:
        """As the owner does when a share is elsewhere, later."""
        keeper = self.owned[peer]
        name = tracked.manifest.header.share_id(number)
        secrets = [tracked.lease_secret(peer), self.client_lease(tracked, peer)]
        for secret in secrets:
            deferred: Deferred[Any] = keeper.release(name, secret)
            deferred.addErrback(lambda failure: failure.trap(LeaseUnknown, ShareUnknown))

    def client_lease(self, tracked: TrackedObject, peer: PublicKey) -> bytes:
        return peer_lease_secret(lease_secret(SECRET, tracked.manifest.header.upload), peer)

    # --- what happens ------------------------------------------------------------------

    def wall_clock(self) -> int:
        return NOW * 10**9 + int(self.clock.seconds() * 10**9)

    def wait(self, deferred: Deferred[Any]) -> Any:
        return run_until(self.clock, deferred)

    def front(self, number: int) -> Unruly:
        """Who has a share, by its number."""
        placed = self.tracked.document.shares[number]
        assert placed is not None
        found: Unruly = self.peers.find(placed.peer)
        return found

    @property
    def spare(self) -> list[Unruly]:
        """Those that have no share."""
        holders = {each.peer for each in self.tracked.document.shares if each is not None}
        return [each for each in self.fronts if each.key not in holders]

    def kill(self, *numbers: int) -> None:
        """The peers with these shares answer no more."""
        for number in numbers:
            front = self.front(number)
            self.peers.gone.add(front.key)
            front.rule = lambda *_: fail(ConnectionError("it is gone"))

    def step(self) -> None:
        calls = self.clock.getDelayedCalls()
        due = min(call.getTime() for call in calls)
        self.clock.advance(max(0.0, due - self.clock.seconds()))

    def repair(self, lost: Sequence[int], **more: Any) -> Repaired:
        repaired: Repaired = self.wait(self.repairer.repair(self.tracked, lost, **more))
        self.wait(self.repairer.quiet())
        return repaired

    # --- what came of it ---------------------------------------------------------------

    def holders(self, tracked: TrackedObject) -> list[PublicKey | None]:
        return [each and each.peer for each in tracked.document.shares]

    def kept(self, tracked: TrackedObject) -> dict[int, set[PublicKey]]:
        """Who really has which share."""
        header = tracked.manifest.header
        found: dict[int, set[PublicKey]] = {}
        for number in range(header.scheme.total):
            name = header.share_id(number)
            found[number] = {key for key, keeper in self.keepers.items() if name in keeper.names()}
        return found

    def assert_sound(self, tracked: TrackedObject, *, without: Sequence[int] = ()) -> None:
        """
        The shares are where the document says, and nowhere else; those of them that are
        asked suffice to read the object; nothing is half sent.
        """
        self.assertEqual(self.objects.objects[tracked.content_id], tracked)
        expected = {
            number: set() if each is None else {each.peer}
            for number, each in enumerate(tracked.document.shares)
        }
        dead = self.peers.gone
        there = {number: keys - dead for number, keys in self.kept(tracked).items()}
        self.assertEqual(
            {number: keys for number, keys in there.items() if number not in without},
            {number: keys for number, keys in expected.items() if number not in without},
        )
        self.assertEqual(self.half_sent, 0)
        self.assertEqual(self.read(tracked), self.text)

    @property
    def half_sent(self) -> int:
        """Shares that were begun, and neither closed nor given up."""
        return sum(keeper.figures().uploads for keeper in self.keepers.values())

    def read(self, tracked: TrackedObject) -> bytes:
        sink = BytesSink()
        holders = holders_of(tracked.document, self.peers.find)
        self.wait(self.client.get(tracked.manifest, self.stored.capability.key, holders, sink))
        return bytes(sink.data)
