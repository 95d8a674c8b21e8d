"""A keeper over files, in real threads."""

from __future__ import annotations

import time
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from meshkit.runtime.workers import WorkerPool
from meshkit.storage.encoding import SegmentReader
from meshkit.storage.keeper.capacity import KeeperConfig
from meshkit.storage.keeper.keeper import Keeper
from meshkit.storage.scheme import Scheme
from meshkit.storage.shards.files import FileShardStore
from meshkit.storage.statements import Receipt
from meshkit.storage.terms import lease_hash
from meshkit.testing.identities import make_identity
from tests.runtime.support import scratch
from tests.storage.keeper.keepers import ALICE, BOB, OTHER_SECRET, SECRET, block_of, shelf
from tests.storage.shelves import Shelf

WIDE = Scheme(1, 3, 64 * 1024)


class ThreadTests(TestCase):
    async def test_many_put_and_read_and_give_up_at_the_same_time(self) -> None:
        folder = str(Path(scratch(self)) / "shares")
        pool = WorkerPool(reactor, 4, name="keeper")
        pool.startService()
        self.addCleanup(pool.stopService)

        def make() -> Keeper:
            return Keeper(
                FileShardStore(folder),
                make_identity("keeper"),
                bytes(16),
                reactor=reactor,
                workers=pool,
                wall_clock=time.time_ns,
                config=KeeperConfig(10**9),
            )

        keeper = make()
        await keeper.start()
        objects = [shelf(500_000, seed=seed, scheme=WIDE) for seed in range(4)]

        async def live(of: Shelf, number: int, caller: object, secret: bytes) -> None:
            peer, name = keeper.for_caller(caller), of.header.share_id(number)  # type: ignore[arg-type]
            lease, size = lease_hash(secret), len(of.shares[number])
            reservation = await peer.reserve(of.header.upload, number, size, lease)
            if not reservation.complete:
                for segment in range(of.layout.segments):
                    block = block_of(of, segment, number)
                    await peer.write(of.header.upload, number, segment, block)
            raw = await peer.close(of.header.upload, number, of.manifest.raw)
            Receipt.open(raw, keeper.key).check(name, of.manifest.shares[number], size, lease)
            reader = SegmentReader(of.manifest, of.codec)
            reads = [peer.read(name, segment) for segment in range(of.layout.segments)]
            renewed = peer.renew(name, secret)
            for segment, piece in enumerate(await gatherResults(reads)):
                reader.check(segment, number, piece)
            await renewed

        async def bring(of: Shelf, number: int) -> None:
            # A share is brought by one at a time: the other one joins him.
            for caller, secret in ((ALICE, SECRET), (BOB, OTHER_SECRET)):
                await live(of, number, caller, secret)

        await gatherResults(
            [Deferred.fromCoroutine(bring(of, number)) for of in objects for number in range(3)]
        )
        # All of the third shares, by both owners, who do not wait for one another.
        await gatherResults(
            [
                keeper.for_caller(caller).release(of.header.share_id(2), secret)
                for of in objects
                for caller, secret in ((ALICE, SECRET), (BOB, OTHER_SECRET))
            ]
        )
        before = keeper.figures()
        charged = keeper.charged(ALICE), keeper.charged(BOB)
        self.assertEqual((before.shares, before.promised, before.blocks), (8, 0, 0))
        self.assertEqual(charged, (before.stored, before.stored))
        await keeper.stop()
        keeper = make()
        await keeper.start()
        after = keeper.figures()
        self.assertEqual((after.shares, after.stored), (before.shares, before.stored))
        self.assertEqual((keeper.charged(ALICE), keeper.charged(BOB)), charged)
        await keeper.stop()
