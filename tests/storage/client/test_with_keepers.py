"""The client and real storage peers, without a network between them."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random
from typing import Any

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import LeaseUnknown, ObjectNotPlaced, StoragePeerError, TransferSuspended
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.workers import InlineWorkers
from meshkit.storage.client.client import StorageClient, holders_of
from meshkit.storage.client.spool import Spool
from meshkit.storage.client.streams import BytesSink, IteratorSource, PathSource
from meshkit.storage.client.values import ClientConfig, Offer, Stored
from meshkit.storage.erasure import ZfecCodec
from meshkit.storage.keeper.capacity import KeeperConfig
from meshkit.storage.keeper.keeper import Keeper
from meshkit.storage.rendezvous import Candidate
from meshkit.storage.shards.memory import MemoryShardStore
from meshkit.storage.terms import LEASE_SECONDS
from meshkit.testing.identities import make_identity
from tests.runtime.support import scratch
from tests.storage.client.peers import NOW, Unruly, hang, run_until
from tests.storage.objects import SMALL, make_header
from tests.storage.shelves import Shelf, text_of

TEXT = text_of(5 * SMALL.text_bytes + 77)
OWNER = make_identity("owner").public


class KeeperCase(SynchronousTestCase):
    capacity = 10**8

    def setUp(self) -> None:
        self.clock = Clock()
        self.workers = InlineWorkers(self.clock, 2)
        self.workers.startService()
        self.stores: dict[Any, MemoryShardStore] = {}
        self.keepers: list[Keeper] = []
        self.fronts: list[Unruly] = []
        for number in range(11):
            identity, store = make_identity(f"storage-{number}"), MemoryShardStore()
            self.stores[identity.public] = store
            keeper = Keeper(
                store,
                identity,
                bytes(16),
                reactor=self.clock,
                workers=self.workers,
                wall_clock=self.wall_clock,
                config=KeeperConfig(self.capacity),
            )
            self.wait(keeper.start())
            self.keepers.append(keeper)
            self.fronts.append(Unruly(keeper.for_caller(OWNER), self.clock))
        self.client = StorageClient(
            b"s" * 32,
            reactor=self.clock,
            workers=self.workers,
            rng=Random(1),
            wall_clock=self.wall_clock,
            codec=ZfecCodec(),
            config=ClientConfig(buffer_bytes=1, spool_bytes=0),
        )

    def tearDown(self) -> None:
        self.wait(self.client.quiet())
        for keeper in self.keepers:
            self.wait(keeper.stop())
        self.wait(self.workers.stopService())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def wall_clock(self) -> int:
        return NOW * 10**9 + int(self.clock.seconds() * 10**9)

    def wait(self, deferred: Deferred[Any]) -> Any:
        return run_until(self.clock, deferred)

    def find(self, key: Any) -> Any:
        return next(each for each in self.fronts if each.key == key)

    def begin(self) -> Deferred[Stored]:
        offers = [
            Offer(Candidate(each.key.raw, decided=str(number)), each)
            for number, each in enumerate(self.fronts)
        ]
        return self.client.put(IteratorSource(self.workers, [TEXT]), offers, SMALL)

    def get(self, stored: Stored) -> bytes:
        sink = BytesSink()
        holders = holders_of(stored.document, self.find)
        key = stored.capability.key
        self.fetched = self.wait(self.client.get(stored.manifest, key, holders, sink))
        return bytes(sink.data)

    def held(self) -> list[int]:
        """@return: shares that are kept, uploads that are open, and bytes that are counted."""
        figures = [keeper.figures() for keeper in self.keepers]
        return [
            sum(each.shares for each in figures),
            sum(each.uploads for each in figures),
            sum(each.stored + each.promised for each in figures),
        ]


class KeeperTests(KeeperCase):
    def test_what_is_put_is_read_checked_renewed_and_deleted(self) -> None:
        stored = self.wait(self.begin())
        self.assertEqual((stored.missing, stored.problems, stored.flags), ((), (), ()))
        self.assertEqual(self.held()[:2], [9, 0])
        self.assertEqual(self.get(stored), TEXT)
        args = stored.manifest, stored.document, self.find
        self.assertTrue(self.wait(self.client.check(*args, "full")).whole)
        self.clock.advance(100)
        renewed = self.wait(self.client.renew(*args))
        self.assertEqual(renewed.problems, ())
        ends = {placed.lease_end for placed in renewed.document.shares}
        self.assertEqual(ends, {NOW + 100 + LEASE_SECONDS})
        self.assertEqual(self.wait(self.client.delete(*args)).problems, ())
        self.assertEqual(self.held(), [0, 0, 0])

    def test_what_one_peer_is_shown_gives_up_no_lease_at_another_one(self) -> None:
        stored = self.wait(self.begin())
        shown: dict[Any, bytes] = {}

        def renew_and_tell(front: Unruly) -> None:
            obey = front.renew

            def renew(share: bytes, secret: bytes) -> Any:
                shown[front.key] = secret
                return obey(share, secret)

            setattr(front, "renew", renew)  # noqa: B010 - it has none of its own

        for front in self.fronts:
            renew_and_tell(front)
        renewed = self.wait(self.client.renew(stored.manifest, stored.document, self.find))
        self.assertEqual((renewed.problems, len(shown)), ((), 9))
        thief, places = make_identity("thief").public, stored.document.shares
        for number, placed in enumerate(places):
            assert placed is not None
            keeper = next(each for each in self.keepers if each.key == placed.peer)
            share = stored.manifest.header.share_id(number)
            for other in shown.keys() - {placed.peer}:
                release = keeper.for_caller(thief).release(share, shown[other])
                self.assertRaises(LeaseUnknown, self.wait, release)
        self.assertEqual(self.get(stored), TEXT)
        self.assertEqual(self.held()[0], 9)

    def test_a_peer_that_is_asked_for_room_cannot_take_the_names_of_the_other_shares(self) -> None:
        thief, told, stolen = make_identity("thief").public, [], []

        def steal(upload: bytes) -> None:
            header = evolve(make_header()[0], upload=upload)
            of = Shelf(b"nothing much", header=(header, make_header()[1]))
            for keeper in self.keepers:
                for number, share in enumerate(of.shares):
                    stolen.append(Deferred.fromCoroutine(take(keeper, of, number, bytes(share))))
                    stolen[-1].addErrback(lambda failure: failure.trap(StoragePeerError))

        async def take(keeper: Keeper, of: Shelf, number: int, share: bytes) -> None:
            peer, upload = keeper.for_caller(thief), of.header.upload
            await peer.reserve(upload, number, len(share), bytes(32))
            await peer.write(upload, number, 0, share)
            await peer.close(upload, number, of.manifest.raw)

        def tell(name: str, _peer: Any, args: tuple[Any, ...]) -> Any:
            if name == "reserve" and not told:
                # He is not faster than all others.
                told.append(self.clock.callLater(0.0015, steal, args[0]))
            return None

        for front in self.fronts:
            front.rule, front.delay = tell, 0.001
        stored = self.wait(self.begin())
        self.assertEqual((stored.missing, len(stolen)), ((), 99))
        self.assertEqual(self.get(stored), TEXT)

    def test_a_put_that_is_cancelled_at_any_moment_leaves_nothing(self) -> None:
        for number, front in enumerate(self.fronts):
            front.delay = 0.1 + number / 64
        for steps in range(0, 400, 3):
            putting = self.begin()
            for _ in range(steps):
                if not putting.called:
                    earliest = min(call.getTime() for call in self.clock.getDelayedCalls())
                    self.clock.advance(max(0, earliest - self.clock.seconds()))
            if putting.called:
                break
            putting.cancel()
            self.assertRaises(CancelledError, self.wait, putting)
            self.wait(self.client.quiet())
            self.assertEqual(self.held(), [0, 0, 0], steps)
        self.assertGreater(steps, 50)

    def test_one_that_hangs_in_a_write_is_given_up_and_the_rest_is_sound(self) -> None:
        self.fronts[3].rule = self.fronts[4].rule = hang("write")
        outcome = self.begin()
        try:
            stored = self.wait(outcome)
        except ObjectNotPlaced:
            self.assertEqual(self.held()[0], 0)
            return
        self.assertEqual(self.get(stored), TEXT)
        self.wait(self.client.quiet())
        self.assertEqual(self.held()[:2], [len(stored.receipts), 0])

    def test_damage_on_the_disk_of_some_is_survived_and_found(self) -> None:
        stored = self.wait(self.begin())
        for number in (0, 4):
            placed = stored.document.shares[number]
            keeper = next(each for each in self.keepers if each.key == placed.peer)
            held: Any = self.stores[keeper.key]._held
            name = stored.manifest.header.share_id(number)
            spoiled = bytearray(held[name].data)
            spoiled[10] ^= 1
            held[name] = evolve(held[name], data=bytes(spoiled))
        self.assertEqual(self.get(stored), TEXT)
        checked = self.wait(self.client.check(stored.manifest, stored.document, self.find, "full"))
        self.assertEqual(checked.good, 7)


class GoingOnTests(KeeperCase):
    def put_file(self, path: str, folder: str) -> Deferred[Stored]:
        offers = [
            Offer(Candidate(each.key.raw, decided=str(number)), each)
            for number, each in enumerate(self.fronts)
        ]
        spool = Spool(folder, "put", "boot", LocalFiles())
        return self.client.put(PathSource(self.workers, path), offers, SMALL, spool=spool)

    def test_a_put_that_was_stopped_anywhere_goes_on_where_the_keepers_are(self) -> None:
        for name, done in (("write", False), ("close", False), ("close", True)):
            self.setUp()
            folder = scratch(self)
            path = os.path.join(folder, "file")
            Path(path).write_bytes(TEXT)

            def rule(called: str, peer: Any, args: Any, name: str = name, done: bool = done) -> Any:
                if called != name or (name == "write" and args[2] < 3):
                    return None
                if done:
                    getattr(peer, name)(*args)
                return Deferred(lambda _: None)

            for front in self.fronts[::2]:
                front.rule = rule
            putting = self.put_file(path, folder)
            self.clock.pump([0.01] * 20)
            self.assertTrue(any(name in each.calls for each in self.fronts[::2]))
            self.wait(self.client.stop())
            self.failureResultOf(putting, TransferSuspended)
            for front in self.fronts:
                front.rule = None
                front.calls.clear()
            stored = self.wait(self.put_file(path, folder))
            self.assertEqual((stored.missing, stored.problems), ((), ()))
            self.assertEqual(self.held()[:2], [9, 0])
            self.assertEqual(self.get(stored), TEXT)
            sent = sum(each.calls.count("write") for each in self.fronts)
            self.assertLess(sent, 9 * 4)
            self.tearDown()
        self.setUp()


class FullTests(KeeperCase):
    capacity = 60_000

    def test_full_peers_are_passed_over_until_too_few_have_room(self) -> None:
        kept = []
        for _ in range(20):
            try:
                kept.append(self.wait(self.begin()))
            except ObjectNotPlaced:
                break
        self.assertGreater(len(kept), 0)
        self.assertLess(len(kept), 20)
        self.wait(self.client.quiet())
        self.assertEqual(self.held()[:2], [sum(len(each.receipts) for each in kept), 0])
        for stored in kept:
            self.assertEqual(self.get(stored), TEXT)
