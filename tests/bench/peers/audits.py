"""
C{python -m tests.bench.peers.audits}: a storage peer that is audited, or who audits it, or both
in one process, as a child of the bench.

The peer has its shares in files, and the auditor its notes and receipts in a database, as the
daemons do.  Shares are full of zeros, in files with holes: a thousand of 100 MiB have room on any
disk that way.  Nothing that an audit does is spared by that, but that the disk is never waited
for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from random import SystemRandom
from time import perf_counter
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint

from meshkit.audit.auditor import Auditor, AuditorLimits
from meshkit.audit.challenge import MAX_SHARES
from meshkit.audit.containment import MemoryContainments
from meshkit.audit.factory import AuditFactory, AuditLimits
from meshkit.audit.receipts import Receipts
from meshkit.audit.schema import MIGRATIONS
from meshkit.audit.standings import PeerStandings
from meshkit.audit.values import AskedShare
from meshkit.audit.wire import LABEL, VERSION
from meshkit.identity.keys import Identity, PublicKey
from meshkit.runtime.container import DiskFile
from meshkit.runtime.database import Database
from meshkit.runtime.memory import keep_freed_memory
from meshkit.runtime.workers import WorkerPool
from meshkit.shs import Capability, SecureListener, wrap_client
from meshkit.storage.keeper.capacity import KeeperConfig
from meshkit.storage.keeper.keeper import Keeper
from meshkit.storage.shards.files import SHARDS, FileShardStore
from meshkit.storage.share_files import SUFFIX
from meshkit.testing.transports import MemoryNetwork
from tests.bench.peers.jobs import Job, run
from tests.bench.peers.links import listen
from tests.bench.peers.zeros import SCHEME, manifest_of, note_of, tail_of, tracked_of, tree_of

_LIFETIME: Final = 1_200
_CAPACITY: Final = 1024**4
_NETWORK: Final = bytes(16)
_CAPABILITY: Final = Capability(LABEL, VERSION, bytes(range(32)))
_THREADS: Final = 2
_RNG: Final = SystemRandom()
_AUDITOR: Final = Identity(b"who audits in the bench, fixed.."[:32])
_PORT: Final = 7655
#: What a peer lets its auditors do is not what is measured.
_NO_LIMITS: Final = AuditLimits(
    audits_per_second=10**6,
    audits_burst=10**6,
    shares_per_second=10**8,
    shares_burst=10**8,
    under_way=64,
    remembered=10**8,
)


# Of many batches at once each waits for the others, and here that is not the fault of the peer.
_PATIENT: Final = AuditorLimits(peers=64, batches=64, grace=60.0, longest=60.0)


def _write_share(folder: Path, size: int, number: int, now: int) -> None:
    manifest = manifest_of(size, number)
    name = manifest.header.share_id(0)
    place = folder / SHARDS / name[:1].hex()
    place.mkdir(parents=True, exist_ok=True)
    with (place / f"{name.hex()}{SUFFIX}").open("wb") as file:
        file.seek(size)  # and what is before it is a hole
        file.write(tree_of(size)[1] + tail_of(manifest, 0))
    (place / f"{name.hex()}.note").write_bytes(note_of(manifest, size, now, _AUDITOR.public))


@define(eq=False)
class _Dialler:
    """IStoragePeers and IConnections, as far as they are asked: leads to one peer."""

    endpoint_of: Any
    reactor: Any

    def address_of(self, key: PublicKey) -> Deferred[PublicKey]:
        return succeed(key)

    def endpoint(self, address: PublicKey, label: str, version: int = 1) -> Any:
        return wrap_client(
            self.reactor,
            self.endpoint_of(),
            identity=_AUDITOR,
            capability=_CAPABILITY,
            peer=address,
            rng=_RNG,
        )


class _NoReceipts:
    def keep(self, *_: Any) -> Deferred[None]:
        return succeed(None)


@define
class _Audits:
    reactor: Any
    _identity: Identity = field(factory=lambda: Identity(_RNG.randbytes(32)))
    _workers: WorkerPool | None = None
    _database: Database | None = None
    _auditors: dict[bool, Auditor] = field(factory=dict)
    _peer: PublicKey | None = None
    _shares: list[AskedShare] = field(factory=list)
    _at: int = 0

    def _pool(self) -> WorkerPool:
        if self._workers is None:
            self._workers = WorkerPool(self.reactor, _THREADS)
            self._workers.startService()
        return self._workers

    async def _keeper(self, folder: str, sizes: Sequence[int], count: int) -> SecureListener:
        now = int(time.time())
        for size in sizes:
            for number in range(count):
                _write_share(Path(folder), size, number, now)
        keeper = Keeper(
            FileShardStore(folder),
            self._identity,
            _NETWORK,
            reactor=self.reactor,
            workers=self._pool(),
            wall_clock=time.time_ns,
            # It reads nothing again by itself meanwhile.
            config=KeeperConfig(capacity=_CAPACITY, scrub_rate=0),
        )
        await keeper.start()
        factory = AuditFactory(
            self.reactor,
            self._identity,
            _NETWORK,
            keeper.sampler,
            rng=_RNG,
            wall_clock=time.time_ns,
            workers=self._pool(),
            limits=_NO_LIMITS,
        )
        listener = SecureListener(self.reactor, self._identity, _RNG)
        listener.register(_CAPABILITY, factory)
        return listener

    async def listen(self, folder: str, sizes: Sequence[int], count: int) -> dict[str, Any]:
        """Job: be a peer with so many shares of each size."""
        listener = await self._keeper(folder, sizes, count)
        port = await listen(self.reactor, listener)
        return {"port": port, "key": self._identity.public.text}

    async def connect(self, peer: dict[str, Any], folder: str) -> None:
        """Job: be who audits a peer in another process."""
        port = peer["port"]
        await self._audit(
            PublicKey.parse(peer["key"]),
            lambda: TCP4ClientEndpoint(self.reactor, "127.0.0.1", port),
            folder,
        )

    async def both(self, folder: str, sizes: Sequence[int], count: int) -> None:
        """Job: be both, connected in memory."""
        network = MemoryNetwork(self.reactor)
        listener = await self._keeper(folder, sizes, count)
        await network.server_endpoint(_PORT).listen(listener)
        await self._audit(self._identity.public, lambda: network.client_endpoint(_PORT), folder)

    async def _audit(self, peer: PublicKey, endpoint_of: Any, folder: str) -> None:
        self._peer = peer
        path = Path(folder) / "auditor.db"
        database = self._database = Database(
            self.reactor, str(path), threads=WorkerPool, backing=DiskFile
        )
        database.open_and_migrate({"audit": MIGRATIONS})
        database.startService()
        standings = PeerStandings(database, time.time)
        await standings.start()
        dialler = _Dialler(endpoint_of, self.reactor)
        kept: dict[bool, tuple[Any, Any]] = {
            True: (standings, Receipts(database)),
            False: (MemoryContainments(), _NoReceipts()),
        }
        for durable, (containments, receipts) in kept.items():
            self._auditors[durable] = Auditor(
                _AUDITOR,
                _NETWORK,
                dialler,
                dialler,
                containments,
                receipts,
                reactor=self.reactor,
                rng=_RNG,
                wall_clock=time.time_ns,
                workers=self._pool(),
                limits=_PATIENT,
            )

    async def look(self, size: int, count: int) -> None:
        """Job: the shares of this size are what is audited from now on."""
        assert self._peer is not None
        now, rest = int(time.time()), (None,) * (SCHEME.total - 1)
        self._shares = []
        for number in range(count):
            holders = (self._peer, *rest)
            tracked = tracked_of(manifest_of(size, number), size, number, holders, now)
            self._shares.append(AskedShare(tracked, 0))

    async def audits(
        self, batch: int, in_flight: int, seconds: float, durable: bool
    ) -> dict[str, float]:
        """
        Job: audit so many shares in a batch, and so many batches at a time.

        @param durable: notes and receipts are written to a database.
        @return: how many shares were audited, and in how many seconds.
        """
        assert self._peer is not None
        auditor, peer = self._auditors[durable], self._peer
        audited = 0
        start = perf_counter()

        async def one() -> None:
            nonlocal audited
            while perf_counter() - start < seconds:
                shares = self._next(min(batch, MAX_SHARES))
                outcomes = await auditor.audit(peer, shares)
                bad = [each for each in outcomes if each.outcome != "success"]
                if bad:
                    raise RuntimeError(f"an audit of a good share came to {bad[0]}")
                audited += len(outcomes)

        await gatherResults([Deferred.fromCoroutine(one()) for _ in range(in_flight)])
        return {"audited": audited, "seconds": perf_counter() - start}

    def _next(self, count: int) -> list[AskedShare]:
        found = self._shares[self._at : self._at + count]
        found += islice(self._shares, count - len(found))
        self._at = (self._at + count) % len(self._shares)
        return found


def main() -> None:
    # As daemons do.
    keep_freed_memory()

    def jobs(reactor: Any) -> Mapping[str, Job]:
        audits = _Audits(reactor)
        return {
            "listen": audits.listen,
            "connect": audits.connect,
            "both": audits.both,
            "look": audits.look,
            "audits": audits.audits,
        }

    run(jobs, _LIFETIME)


if __name__ == "__main__":
    main()
