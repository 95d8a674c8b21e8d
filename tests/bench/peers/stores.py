"""
C{python -m tests.bench.peers.stores}: storage peers and a client of them, as children of the
bench, with neither a node nor a daemon around them.

A child is a peer (job C{listen}), or the client.  The peers keep shares in files, and answer
when these are synced; C{forgetful} ones throw away what they are given, for what no disk here
has room for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from random import SystemRandom
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.endpoints import TCP4ClientEndpoint
from zope.interface import implementer

from meshkit.audit.auditor import Auditor
from meshkit.audit.containment import MemoryContainments
from meshkit.audit.factory import AuditFactory, AuditLimits
from meshkit.audit.repair import Repairer
from meshkit.audit.values import AskedShare
from meshkit.audit.wire import LABEL as AUDIT_LABEL
from meshkit.audit.wire import VERSION as AUDIT_VERSION
from meshkit.errors import PlacementConflict
from meshkit.identity.keys import Identity, PublicKey
from meshkit.interfaces import IShardStore, IShardWriter, IStoragePeers, ITrackedObjects
from meshkit.runtime.memory import keep_freed_memory
from meshkit.runtime.workers import WorkerPool
from meshkit.shs import Capability, SecureListener, wrap_client
from meshkit.storage.client.client import StorageClient, holders_of
from meshkit.storage.client.streams import FileSink, FileSource, IteratorSource
from meshkit.storage.client.values import Offer, Stored
from meshkit.storage.custody import TrackedObject
from meshkit.storage.http.client import HTTPStoragePeer
from meshkit.storage.http.server import storage_factory
from meshkit.storage.http.wire import LABEL, VERSION
from meshkit.storage.keeper.capacity import KeeperConfig
from meshkit.storage.keeper.keeper import Keeper
from meshkit.storage.placement_document import PlacementDocument, placement_seed
from meshkit.storage.rendezvous import Candidate
from meshkit.storage.scheme import Scheme
from meshkit.storage.shards.files import FileShardStore
from meshkit.storage.terms import lease_secret
from tests.bench.peers.jobs import Job, run
from tests.bench.peers.links import listen

_LIFETIME: Final = 1_200
_CAPACITY: Final = 64 * 1024**3
_NETWORK: Final = bytes(16)
_CAPABILITY: Final = Capability(LABEL, VERSION, bytes(range(32)))
_AUDITS: Final = Capability(AUDIT_LABEL, AUDIT_VERSION, bytes(range(1, 33)))
#: An audit more often than peers allow is not what is measured.
_AUDIT_LIMITS: Final = AuditLimits(audits_per_second=10**6, audits_burst=10**6)
_THREADS: Final = 2
_PIECE: Final = 1024 * 1024
_RNG: Final = SystemRandom()


@implementer(IShardWriter)
class _Forgetting:
    def append(self, data: Any) -> None:
        """It is gone."""

    def keep(self, data: bytes) -> None:
        """It is gone."""

    def commit(self, tail: bytes, note: bytes) -> None:
        """It is gone."""

    def discard(self) -> None:
        """There is nothing."""


@implementer(IShardStore)
class _Forgetful:
    """Takes anything, and has nothing."""

    def open(self) -> list[Any]:
        return []

    def close(self) -> None:
        """There is nothing."""

    def begin(self, name: bytes) -> _Forgetting:
        return _Forgetting()

    def read(self, name: bytes, offset: int, length: int) -> bytes:
        raise OSError("what was kept here was thrown away")

    def set_note(self, name: bytes, note: bytes) -> None:
        """It is gone."""

    def remove(self, name: bytes) -> None:
        """There is nothing."""

    def set_aside(self, name: bytes, reason: str) -> str:
        return ""

    def free(self) -> None:
        return None


@implementer(IStoragePeers)
@define(eq=False)
class _Peers:
    """Those that a client was told of; also IConnections, as far as it is asked."""

    reactor: Any
    identity: Identity
    peers: dict[PublicKey, HTTPStoragePeer] = field(factory=dict)
    ports: dict[PublicKey, int] = field(factory=dict)

    def _wrapped(self, key: PublicKey, capability: Capability) -> Any:
        return wrap_client(
            self.reactor,
            TCP4ClientEndpoint(self.reactor, "127.0.0.1", self.ports[key]),
            identity=self.identity,
            capability=capability,
            peer=key,
            rng=_RNG,
        )

    def add(self, key: PublicKey, port: int) -> None:
        """There is another one."""
        self.ports[key] = port
        endpoint = self._wrapped(key, _CAPABILITY)
        self.peers[key] = HTTPStoragePeer(self.reactor, endpoint, key)

    def find(self, key: PublicKey) -> HTTPStoragePeer:
        return self.peers[key]

    def address_of(self, key: PublicKey) -> Deferred[PublicKey]:
        return succeed(key)

    def endpoint(self, address: PublicKey, label: str, version: int = 1) -> Any:
        return self._wrapped(address, _AUDITS)

    def candidates(self, size: int, repair: bool = False) -> list[Candidate]:
        return [self.describe(key) for key in sorted(self.ports, key=lambda key: key.raw)]

    def describe(self, key: PublicKey) -> Candidate:
        return Candidate(key.raw)

    def refresh(self) -> Deferred[None]:
        return succeed(None)

    def record_of(self, key: PublicKey) -> None:
        return None

    def judged_by(self, judge: Any) -> None:
        """Nobody judges."""


@implementer(ITrackedObjects)
class _Tracked:
    """In memory: what it takes to write down where shares are now is not in the figures."""

    def __init__(self) -> None:
        self.objects: dict[bytes, TrackedObject] = {}

    def tracked(self, after: bytes = b"", limit: int = 500) -> Deferred[list[TrackedObject]]:
        return succeed([self.objects[each] for each in sorted(self.objects)])

    def find(self, content_id: bytes) -> Deferred[TrackedObject]:
        return succeed(self.objects[content_id])

    def newest(self, tracked: TrackedObject) -> Deferred[TrackedObject]:
        return succeed(tracked)

    def swap(self, tracked: TrackedObject, document: PlacementDocument) -> Deferred[TrackedObject]:
        now = self.objects[tracked.content_id]
        if now.document.version != tracked.document.version:
            raise PlacementConflict("somebody else was first")
        now.document.check_successor(document)
        self.objects[tracked.content_id] = tracked.with_document(document)
        return succeed(self.objects[tracked.content_id])

    def watch(self, capability: Any) -> Any:
        raise NotImplementedError("nobody is handed anything here")

    def unwatch(self, content_id: bytes) -> Any:
        raise NotImplementedError("nobody is handed anything here")


class _NoReceipts:
    def keep(self, *_: Any) -> Deferred[None]:
        return succeed(None)


@define
class _Stores:
    reactor: Any
    _identity: Identity = field(factory=lambda: Identity(_RNG.randbytes(32)))
    _workers: WorkerPool | None = None
    _client: StorageClient | None = None
    _secret: bytes = field(factory=lambda: _RNG.randbytes(32))
    _there: _Peers | None = None
    _auditor: Auditor | None = None
    _repairer: Repairer | None = None
    _tracked: _Tracked = field(factory=_Tracked)
    _made: dict[str, Stored] = field(factory=dict)

    def _pool(self) -> WorkerPool:
        if self._workers is None:
            self._workers = WorkerPool(self.reactor, _THREADS)
            self._workers.startService()
        return self._workers

    async def listen(self, folder: str, forgetful: bool = False) -> dict[str, Any]:
        """Job: be a peer."""
        keeper = Keeper(
            _Forgetful() if forgetful else FileShardStore(folder),
            self._identity,
            _NETWORK,
            reactor=self.reactor,
            workers=self._pool(),
            wall_clock=time.time_ns,
            config=KeeperConfig(capacity=_CAPACITY),
        )
        await keeper.start()
        listener = SecureListener(self.reactor, self._identity, _RNG)
        site = storage_factory(self.reactor, keeper.for_caller, keeper.record)
        listener.register(_CAPABILITY, site)
        audits = AuditFactory(
            self.reactor,
            self._identity,
            _NETWORK,
            keeper.sampler,
            rng=_RNG,
            wall_clock=time.time_ns,
            workers=self._pool(),
            limits=_AUDIT_LIMITS,
        )
        listener.register(_AUDITS, audits)
        port = await listen(self.reactor, listener)
        return {"port": port, "key": self._identity.public.text}

    async def connect(self, peers: list[dict[str, Any]]) -> None:
        """Job: be a client."""
        there = self._there = _Peers(self.reactor, self._identity)
        for each in peers:
            there.add(PublicKey.parse(each["key"]), each["port"])
        self._client = StorageClient(
            self._secret,
            reactor=self.reactor,
            workers=self._pool(),
            rng=_RNG,
            wall_clock=time.time_ns,
        )
        self._auditor = Auditor(
            self._identity,
            _NETWORK,
            there,
            there,
            MemoryContainments(),
            _NoReceipts(),
            reactor=self.reactor,
            rng=_RNG,
            wall_clock=time.time_ns,
            workers=self._pool(),
        )
        self._repairer = Repairer(
            there,
            self._tracked,
            reactor=self.reactor,
            workers=self._pool(),
            wall_clock=time.time_ns,
        )
        # As those do that members of a network are.
        await gatherResults([peer.statement() for peer in there.peers.values()])

    async def put(self, path: str, required: int, total: int) -> str:
        """Job: store a file."""
        file = await self._pool().run(open, path, "rb")
        return await self._put(FileSource(self._pool(), file), required, total)

    async def put_generated(self, size: int, required: int, total: int) -> str:
        """Job: store so many bytes that are made while they are stored."""
        pieces = (os.urandom(min(_PIECE, size - at)) for at in range(0, size, _PIECE))
        return await self._put(IteratorSource(self._pool(), pieces), required, total)

    async def _put(self, source: Any, required: int, total: int) -> str:
        assert self._client is not None and self._there is not None
        offers = [Offer(Candidate(key.raw), peer) for key, peer in self._there.peers.items()]
        stored = await self._client.put(source, offers, Scheme(required, total))
        if stored.missing:
            raise RuntimeError(f"nobody keeps the shares {stored.missing}: {stored.problems}")
        manifest = stored.manifest
        name = manifest.content_id.hex()
        self._made[name] = stored
        upload = manifest.header.upload
        self._tracked.objects[manifest.content_id] = TrackedObject(
            manifest,
            stored.document,
            stored.signed,
            Identity(placement_seed(self._secret, upload)),
            lease_secret(self._secret, upload),
        )
        return name

    async def get(self, capability: str, path: str) -> None:
        """Job: fetch a file."""
        assert self._client is not None and self._there is not None
        stored = self._made[capability]
        document = self._tracked.objects[stored.manifest.content_id].document
        with Path(path).open("wb", buffering=0) as file:
            await self._client.get(
                stored.manifest,
                stored.capability.key,
                holders_of(document, self._there.find),
                FileSink(self._pool(), file),
            )

    async def lose(self, capability: str, numbers: list[int]) -> int:
        """Job: nobody has these shares any more.  @return: bytes of them."""
        tracked, there = self._tracked.objects[bytes.fromhex(capability)], self._there
        assert there is not None
        for number in numbers:
            placed = tracked.document.shares[number]
            assert placed is not None
            name = tracked.manifest.header.share_id(number)
            await there.peers[placed.peer].release(name, tracked.lease_secret(placed.peer))
        return len(numbers) * tracked.manifest.layout.share_bytes

    async def repair(self, capability: str, numbers: list[int]) -> dict[str, int]:
        """
        Job: ask for an audit of every share, and make anew what is not there.

        @return: bytes that were moved for the repair, and how many it takes at least.
        """
        assert self._auditor is not None and self._repairer is not None
        tracked = self._tracked.objects[bytes.fromhex(capability)]
        asked = [
            self._auditor.audit(placed.peer, [AskedShare(tracked, number)])
            for number, placed in enumerate(tracked.document.shares)
            if placed is not None
        ]
        outcomes = [each[0] for each in await gatherResults(asked)]
        lost = [each.number for each in outcomes if each.outcome == "failure"]
        rest = [each for each in outcomes if each.outcome not in ("failure", "success")]
        if lost != numbers or rest:
            raise RuntimeError(f"{lost} are lost, and not {numbers}: {rest}")
        done = await self._repairer.repair(tracked, lost)
        if done.left or sorted(done.placed) != numbers:
            raise RuntimeError(f"not all was made anew: {done}")
        layout = tracked.manifest.layout
        return {
            "moved": done.read + done.written,
            "least": layout.share_bytes * (layout.scheme.required + len(numbers)),
        }


def main() -> None:
    # As daemons do.
    keep_freed_memory()

    def jobs(reactor: Any) -> Mapping[str, Job]:
        stores = _Stores(reactor)
        return {
            "listen": stores.listen,
            "connect": stores.connect,
            "put": stores.put,
            "put_generated": stores.put_generated,
            "get": stores.get,
            "lose": stores.lose,
            "repair": stores.repair,
        }

    run(jobs, _LIFETIME)


if __name__ == "__main__":
    main()
