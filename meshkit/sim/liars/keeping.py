"""
A machine on which somebody lies as a storage peer.

What runs on it is a whole honest storage peer, L{Keeper
<meshkit.storage.keeper.keeper.Keeper>}, with its shares in memory, over the real HTTP and
beside honest gossip in small.  Each kind of liar replaces what the peer answers to whoever
asks: L{FalsePeer.reserve}, L{FalsePeer.close}, L{FalsePeer.read} and so on; and what it shows
to whoever audits it: L{FalseSampler}.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from twisted.internet.defer import Deferred
from zope.interface import implementer

from meshkit.audit import wire
from meshkit.audit.factory import AuditFactory
from meshkit.identity.addresses import HostPort
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IShareSampler, IStoragePeer
from meshkit.runtime.workers import InlineWorkers
from meshkit.shs import Capability, SecureListener
from meshkit.sim.liars.liar import EVERY, Liar
from meshkit.storage.encoding import Piece
from meshkit.storage.http.server import storage_factory
from meshkit.storage.http.wire import LABEL, VERSION
from meshkit.storage.keeper.capacity import KeeperConfig
from meshkit.storage.keeper.keeper import Keeper
from meshkit.storage.shards.memory import MemoryShardStore
from meshkit.storage.terms import Reservation, ShareStat
from meshkit.testing.nodes import MESH_PORT

if TYPE_CHECKING:
    from meshkit.sim.host import SimHost
    from meshkit.sim.world import World

__all__ = ["FalsePeer", "FalseSampler", "KeepLiar"]

_CAPACITY = 1 << 30


@implementer(IStoragePeer)
class FalsePeer:
    """
    The peer as somebody sees it.  This one is honest.

    @ivar key: of the peer.
    """

    def __init__(self, liar: KeepLiar, honest: Any) -> None:
        self.key: PublicKey = honest.key
        self.liar = liar
        self.honest = honest

    def statement(self) -> Deferred[bytes]:
        told: Deferred[bytes] = self.honest.statement()
        return told

    def reserve(
        self, upload: bytes, number: int, size: int, lease: bytes, repair: bool = False
    ) -> Deferred[Reservation]:
        reserved: Deferred[Reservation] = self.honest.reserve(upload, number, size, lease, repair)
        return reserved

    def write(self, upload: bytes, number: int, segment: int, block: Any) -> Deferred[None]:
        written: Deferred[None] = self.honest.write(upload, number, segment, block)
        return written

    def close(self, upload: bytes, number: int, manifest: bytes) -> Deferred[bytes]:
        closed: Deferred[bytes] = self.honest.close(upload, number, manifest)
        return closed

    def abort(self, upload: bytes, number: int) -> Deferred[None]:
        aborted: Deferred[None] = self.honest.abort(upload, number)
        return aborted

    def stat(self, share: bytes) -> Deferred[ShareStat]:
        told: Deferred[ShareStat] = self.honest.stat(share)
        return told

    def manifest(self, share: bytes) -> Deferred[bytes]:
        told: Deferred[bytes] = self.honest.manifest(share)
        return told

    def read(self, share: bytes, segment: int) -> Deferred[Piece]:
        given: Deferred[Piece] = self.honest.read(share, segment)
        return given

    def renew(self, share: bytes, secret: bytes) -> Deferred[bytes]:
        renewed: Deferred[bytes] = self.honest.renew(share, secret)
        return renewed

    def release(self, share: bytes, secret: bytes) -> Deferred[None]:
        released: Deferred[None] = self.honest.release(share, secret)
        return released


@implementer(IShareSampler)
class FalseSampler:
    """What it keeps, as it is shown to those who audit it.  This one is honest."""

    def __init__(self, liar: KeepLiar, honest: Any) -> None:
        self.liar = liar
        self.honest = honest

    def kept(self, names: Sequence[bytes]) -> Deferred[list[Any]]:
        told: Deferred[list[Any]] = self.honest.kept(names)
        return told

    def may_audit(self, account: bytes, name: bytes) -> bool:
        return bool(self.honest.may_audit(account, name))

    def placements_of(self, names: Sequence[bytes]) -> Deferred[list[Any]]:
        told: Deferred[list[Any]] = self.honest.placements_of(names)
        return told

    def leaves(self, wanted: Sequence[tuple[bytes, Sequence[int]]]) -> Deferred[list[Any]]:
        shown: Deferred[list[Any]] = self.honest.leaves(wanted)
        return shown


class KeepLiar(Liar):
    """
    See the module.  This one tells no lies.

    @cvar false: what it is to those who come.
    @cvar sampler: what it shows to those who audit it.
    @ivar keeper: what runs; a new one at each start.
    """

    kind: ClassVar[str] = "honest-keeping"
    false: ClassVar[type[FalsePeer]] = FalsePeer
    sampler: ClassVar[type[FalseSampler]] = FalseSampler

    keeper: Keeper

    def __init__(
        self, world: World, host: SimHost, dials: Sequence[str] = (), *, every: float = EVERY
    ) -> None:
        super().__init__(world, host, dials, every=every)
        self._way = 0
        self._asked: Counter[str] = Counter()

    def serve(self, listener: SecureListener) -> None:
        process, network = self.process, self._world.network_secret.key()
        workers = InlineWorkers(process, 1)
        workers.startService()
        self.keeper = keeper = Keeper(
            MemoryShardStore(),
            self.identity,
            network.net_id,
            reactor=process,
            workers=workers,
            wall_clock=self.host.wall_clock,
            config=KeeperConfig(capacity=_CAPACITY),
            addresses=lambda: [HostPort(self.host.address, MESH_PORT)],
        )
        keeper.start()
        site = storage_factory(
            process, lambda key: self.false(self, keeper.for_caller(key)), keeper.record
        )
        listener.register(Capability.of(network, LABEL, VERSION), site)
        audits = AuditFactory(
            process,
            self.identity,
            network.net_id,
            self.sampler(self, keeper.sampler),
            rng=self._world.seeds.stream(self.name, "audits"),
            wall_clock=self.host.wall_clock,
            workers=workers,
        )
        listener.register(Capability.of(network, wire.LABEL, wire.VERSION), audits)

    def now_and_then(self, what: str, every: int) -> bool:
        """@return: true each time that is the C{every}th of its kind."""
        self._asked[what] += 1
        return self._asked[what] % every == 0

    def next_way(self) -> str:
        """@return: how to lie the next time, each way in turn."""
        self._way += 1
        return self.ways[self._way % len(self.ways)]
