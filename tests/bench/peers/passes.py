"""
C{python -m tests.bench.peers.passes}: a scheduler, the objects it looks after, and the peers that
have their shares, in one process, as a child of the bench.

Each peer has its shares in memory and a secure channel of its own, in memory too.  What the
scheduler and the auditor write down is in a database on the disk, as in a daemon.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import SystemRandom
from time import perf_counter, process_time
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from meshkit.audit.auditor import Auditor
from meshkit.audit.decisions import Policy
from meshkit.audit.factory import AuditFactory, AuditLimits
from meshkit.audit.passing import Pace
from meshkit.audit.receipts import Receipts
from meshkit.audit.repair import Repairer
from meshkit.audit.scheduler import Scheduler
from meshkit.audit.schema import MIGRATIONS
from meshkit.audit.standings import PeerStandings
from meshkit.audit.wire import LABEL, VERSION
from meshkit.errors import NotFound
from meshkit.identity.keys import Identity, PublicKey
from meshkit.interfaces import IStoragePeers, ITrackedObjects
from meshkit.runtime.container import DiskFile
from meshkit.runtime.database import Database
from meshkit.runtime.memory import keep_freed_memory
from meshkit.runtime.workers import WorkerPool
from meshkit.shs import Capability, SecureListener, wrap_client
from meshkit.storage.custody import TrackedObject
from meshkit.storage.keeper.capacity import KeeperConfig
from meshkit.storage.keeper.keeper import Keeper
from meshkit.storage.rendezvous import Candidate
from meshkit.storage.shards.memory import MemoryShardStore
from meshkit.testing.transports import MemoryNetwork
from tests.bench.peers.jobs import Job, run
from tests.bench.peers.zeros import SCHEME, manifest_of, note_of, tail_of, tracked_of, tree_of

_LIFETIME: Final = 1_200
_CAPACITY: Final = 1024**4
_NETWORK: Final = bytes(16)
_CAPABILITY: Final = Capability(LABEL, VERSION, bytes(range(32)))
_THREADS: Final = 2
_RNG: Final = SystemRandom()
#: Of the shares of an object of 16 KiB.
_SHARE: Final = 2_736
#: Many passes in a row are more than peers allow, and that is not what is measured.
_LIMITS: Final = AuditLimits(
    audits_per_second=10**6,
    audits_burst=10**6,
    shares_per_second=10**8,
    shares_burst=10**8,
    remembered=10**8,
)


@implementer(IStoragePeers)
class _Peers:
    """All there are, each on a port of its own in memory; also IConnections, as far as asked."""

    def __init__(self, reactor: Any, identity: Identity) -> None:
        self._reactor = reactor
        self._identity = identity
        self.network = MemoryNetwork(reactor)
        self._ports: dict[PublicKey, int] = {}

    async def add(self, listener: Any, key: PublicKey) -> None:
        """There is another one."""
        port = self._ports[key] = len(self._ports) + 1
        await self.network.server_endpoint(port).listen(listener)

    def address_of(self, key: PublicKey) -> Deferred[PublicKey]:
        return succeed(key)

    def endpoint(self, address: PublicKey, label: str, version: int = 1) -> Any:
        return wrap_client(
            self._reactor,
            self.network.client_endpoint(self._ports[address]),
            identity=self._identity,
            capability=_CAPABILITY,
            peer=address,
            rng=_RNG,
        )

    def candidates(self, size: int, repair: bool = False) -> list[Candidate]:
        return [self.describe(key) for key in sorted(self._ports, key=lambda key: key.raw)]

    def describe(self, key: PublicKey) -> Candidate:
        return Candidate(key.raw)

    def refresh(self) -> Deferred[None]:
        return succeed(None)

    def _unasked(self, key: Any) -> Any:
        raise NotImplementedError("a pass in which all is well asks no peer for that")

    find = record_of = judged_by = _unasked


@implementer(ITrackedObjects)
class _Objects:
    """In memory."""

    def __init__(self) -> None:
        self._objects: dict[bytes, TrackedObject] = {}
        self._order: list[bytes] = []

    def add(self, objects: Sequence[TrackedObject]) -> None:
        """There are more."""
        self._objects.update((each.content_id, each) for each in objects)
        self._order = sorted(self._objects)

    def tracked(self, after: bytes = b"", limit: int = 500) -> Deferred[list[TrackedObject]]:
        found = [each for each in self._order if each > after][:limit]
        return succeed([self._objects[each] for each in found])

    def find(self, content_id: bytes) -> Deferred[TrackedObject]:
        if content_id not in self._objects:
            raise NotFound("there is no such object")
        return succeed(self._objects[content_id])

    def newest(self, tracked: TrackedObject) -> Deferred[TrackedObject]:
        return succeed(tracked)

    def _unasked(self, *_: Any) -> Any:
        raise NotImplementedError("a pass in which all is well changes nothing")

    swap = watch = unwatch = _unasked


@define
class _Passes:
    reactor: Any
    _identity: Identity = field(factory=lambda: Identity(_RNG.randbytes(32)))
    _scheduler: Scheduler | None = None

    async def track(self, objects: int, peers: int, folder: str) -> None:
        """Job: have so many objects looked after, with shares at so many peers."""
        now = int(time.time())
        workers = WorkerPool(self.reactor, _THREADS)
        workers.startService()
        there, tracked = _Peers(self.reactor, self._identity), _Objects()
        stores = {Identity(_RNG.randbytes(32)): MemoryShardStore() for _ in range(peers)}
        tracked.add(self._put(objects, stores, now))
        for identity, store in stores.items():
            keeper = Keeper(
                store,
                identity,
                _NETWORK,
                reactor=self.reactor,
                workers=workers,
                wall_clock=time.time_ns,
                # It reads nothing again by itself meanwhile.
                config=KeeperConfig(capacity=_CAPACITY, scrub_rate=0),
            )
            await keeper.start()
            factory = AuditFactory(
                self.reactor,
                identity,
                _NETWORK,
                keeper.sampler,
                rng=_RNG,
                wall_clock=time.time_ns,
                workers=workers,
                limits=_LIMITS,
            )
            listener = SecureListener(self.reactor, identity, _RNG)
            listener.register(_CAPABILITY, factory)
            await there.add(listener, identity.public)
        await self._schedule(there, tracked, workers, folder)

    def _put(
        self, objects: int, stores: Mapping[Identity, MemoryShardStore], now: int
    ) -> list[TrackedObject]:
        tracked, around = [], list(stores)
        zeros, (_, nodes) = bytes(_SHARE), tree_of(_SHARE)
        for number in range(objects):
            manifest = manifest_of(_SHARE, number)
            holders = [around[(number + at) % len(around)] for at in range(SCHEME.total)]
            note = note_of(manifest, _SHARE, now, self._identity.public)
            for share, holder in enumerate(holders):
                writer = stores[holder].begin(manifest.header.share_id(share))
                writer.append(zeros)
                writer.keep(nodes)
                writer.commit(tail_of(manifest, share), note)
            keys = [holder.public for holder in holders]
            tracked.append(tracked_of(manifest, _SHARE, number, keys, now))
        return tracked

    async def _schedule(
        self, peers: _Peers, tracked: _Objects, workers: WorkerPool, folder: str
    ) -> None:
        path = Path(folder) / "scheduler.db"
        database = Database(self.reactor, str(path), threads=WorkerPool, backing=DiskFile)
        database.open_and_migrate({"audit": MIGRATIONS})
        database.startService()
        standings = PeerStandings(database, time.time)
        await standings.start()
        auditor = Auditor(
            self._identity,
            _NETWORK,
            peers,
            peers,
            standings,
            Receipts(database),
            reactor=self.reactor,
            rng=_RNG,
            wall_clock=time.time_ns,
            workers=workers,
        )
        repairer = Repairer(
            peers, tracked, reactor=self.reactor, workers=workers, wall_clock=time.time_ns
        )
        self._scheduler = Scheduler(
            database,
            tracked,
            peers,
            auditor,
            repairer,
            standings,
            reactor=self.reactor,
            rng=_RNG,
            wall_clock=time.time_ns,
            policy=Policy(),
            pace=Pace(),
        )

    async def run(self, objects: int) -> dict[str, float]:
        """Job: one pass over all of them, in which every share is audited and found good."""
        assert self._scheduler is not None
        start, cpu = perf_counter(), process_time()
        await self._scheduler.run()
        run = await self._scheduler.when_ended()
        seconds = perf_counter() - start
        if run is None or run.metrics.outcomes != {"success": objects * SCHEME.total}:
            raise RuntimeError(f"not all is well: {run}")
        if run.metrics.codes != {"healthy": objects}:
            raise RuntimeError(f"not all is well: {run}")
        return {"seconds": seconds, "cpu": process_time() - cpu}


def main() -> None:
    # As daemons do.
    keep_freed_memory()

    def jobs(reactor: Any) -> Mapping[str, Job]:
        passes = _Passes(reactor)
        return {"track": passes.track, "pass": passes.run}

    run(jobs, _LIFETIME)


if __name__ == "__main__":
    main()
