"""Long objects, put and read through real files in little memory."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from hashlib import sha256
from random import Random
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.runtime.workers import InlineWorkers
from meshkit.storage.client.client import StorageClient, holders_of
from meshkit.storage.client.streams import CallSink, IteratorSource
from meshkit.storage.client.values import Offer
from meshkit.storage.keeper.capacity import KeeperConfig
from meshkit.storage.keeper.keeper import Keeper
from meshkit.storage.rendezvous import Candidate
from meshkit.storage.shards.files import FileShardStore
from meshkit.testing.identities import make_identity
from tests.runtime.support import scratch
from tests.storage.client.peers import Unruly, at_now, run_until

MIB = 1024 * 1024
#: Of the object.  Twice as long takes no more memory.
LENGTHS = (128 * MIB + 5, 256 * MIB + 5)
#: A few segments of 6 MiB and their shares.
LIMIT = 64 * MIB


class MemoryTests(SynchronousTestCase):
    def test_a_long_object_takes_the_memory_of_some_segments(self) -> None:
        clock = Clock()
        workers = InlineWorkers(clock, 2)
        workers.startService()
        peers = {}
        for number in range(9):
            identity = make_identity(f"storage-{number}")
            keeper = Keeper(
                FileShardStore(f"{scratch(self)}/{number}"),
                identity,
                bytes(16),
                reactor=clock,
                workers=workers,
                wall_clock=at_now,
                config=KeeperConfig(10**10, scrub_rate=0),
            )
            run_until(clock, keeper.start())
            caller = keeper.for_caller(make_identity("owner").public)
            peers[keeper.key] = Unruly(caller, clock, delay=0.001 * number)
        client = StorageClient(
            b"s" * 32, reactor=clock, workers=workers, rng=Random(1), wall_clock=at_now
        )
        offers = [
            Offer(Candidate(key.raw, decided=str(number)), peer)
            for number, (key, peer) in enumerate(peers.items())
        ]
        for length in LENGTHS:
            self.put_and_get(client, clock, workers, offers, peers, length)

    def put_and_get(
        self,
        client: StorageClient,
        clock: Clock,
        workers: Any,
        offers: list[Offer],
        peers: dict[Any, Any],
        length: int,
    ) -> None:
        given, taken = sha256(), sha256()
        chunk = Random(1).randbytes(MIB)

        def chunks() -> Iterator[bytes]:
            left = length
            while left:
                piece = chunk[: min(left, MIB)]
                given.update(piece)
                left -= len(piece)
                yield piece

        gc.collect()
        tracemalloc.start()
        try:
            putting = client.put(IteratorSource(workers, chunks()), offers)
            stored = run_until(clock, putting, 10_000)
            _, peak = tracemalloc.get_traced_memory()
            self.assertLess(peak, LIMIT)
            tracemalloc.reset_peak()
            getting = client.get(
                stored.manifest,
                stored.capability.key,
                holders_of(stored.document, peers.get),
                CallSink(taken.update),
            )
            fetched = run_until(clock, getting, 10_000)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertLess(peak, LIMIT)
        self.assertEqual((fetched.length, stored.missing), (length, ()))
        self.assertEqual(given.digest(), taken.digest())
