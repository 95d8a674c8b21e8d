"""
Nine folders that keep a file together: any six of them give it back, and none can read it.

The folders might be disks, network drives, or sticks in drawers::

    python examples/store_files.py notes.pdf shelf

A node, a network and a database are not needed.  The peers of this process could as well be
far away (L{meshkit.storage.http.client}): the client does not know the difference.
"""

import shutil
import sys
import time
from random import SystemRandom

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from meshkit.identity.keys import Identity
from meshkit.runtime.workers import WorkerPool
from meshkit.storage.client.client import StorageClient, holders_of
from meshkit.storage.client.streams import FileSink, PathSource
from meshkit.storage.client.values import Offer
from meshkit.storage.keeper.capacity import KeeperConfig
from meshkit.storage.keeper.keeper import Keeper
from meshkit.storage.rendezvous import Candidate
from meshkit.storage.shards.files import FileShardStore

RNG = SystemRandom()


# [peers]
async def open_peers(reactor, workers, shelf):
    """A keeper for each folder, as one owner sees it."""
    owner, peers = Identity(RNG.randbytes(32)), {}
    for number in range(9):
        keeper = Keeper(
            FileShardStore(f"{shelf}/disk-{number}"),
            Identity(RNG.randbytes(32)),
            network_id=bytes(16),
            reactor=reactor,
            workers=workers,
            wall_clock=time.time_ns,
            config=KeeperConfig(capacity=10**9),
        )
        await keeper.start()
        peers[keeper.key] = keeper.for_caller(owner.public)
    return peers
    # [peers-end]


# [store]
async def store_and_fetch(reactor, path, shelf):
    workers = WorkerPool(reactor, 2)
    workers.startService()
    peers = await open_peers(reactor, workers, shelf)
    secret = RNG.randbytes(32)  # keep it: it renews, moves and deletes what is put with it
    client = StorageClient(
        secret, reactor=reactor, workers=workers, rng=RNG, wall_clock=time.time_ns
    )
    offers = [
        # What may be lost at once: each folder for itself.
        Offer(Candidate(key.raw, decided=f"disk-{number}"), peer)
        for number, (key, peer) in enumerate(peers.items())
    ]
    stored = await client.put(PathSource(workers, path), offers)
    print("kept in", len(stored.receipts), "folders:", stored.capability.text)

    for number in range(3):
        shutil.rmtree(f"{shelf}/disk-{number}")
    with open(f"{path}.back", "wb") as file:
        holders = holders_of(stored.document, peers.get)
        key = stored.capability.key
        fetched = await client.get(stored.manifest, key, holders, FileSink(workers, file))
    print("read from shares", *fetched.shares, "into", file.name)
    for problem in fetched.problems:
        print(f"share {problem.share}: {problem.text}")
    # [store-end]


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(store_and_fetch(reactor, *sys.argv[1:])))
