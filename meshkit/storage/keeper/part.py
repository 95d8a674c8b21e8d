"""
The part C{keeper}: a L{Keeper <meshkit.storage.keeper.keeper.Keeper>} in a node, for the members
of its network.

It is in every node and does nothing there until space is lent: by the setting
C{keeper.max_storage}, or at the door (C{meshkit storage connect}), which is remembered.  Until
then it makes no folder, lets nobody in and is not in the hash table.  C{meshkit storage
disconnect} has it drain: it takes nothing new, says in its record that it leaves, so that whoever
looks after objects takes their shares elsewhere, and goes on giving what it has until nobody has a
lease on it any more.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta
from twisted.internet.defer import CancelledError, Deferred, DeferredLock, fail, gatherResults
from twisted.internet.interfaces import IProtocolFactory
from twisted.logger import Logger
from zope.interface import implementer

from meshkit.crypto.samples import Samples
from meshkit.errors import (
    ConfigError,
    InvalidAddress,
    InvalidPublicKey,
    InvalidRequest,
    MeshkitError,
    NotReady,
    StartError,
    StorageFailed,
    StorageRefused,
)
from meshkit.identity.addresses import HostPort
from meshkit.identity.keys import PublicKey
from meshkit.identity.records import MAX_ADDRESSES
from meshkit.interfaces import (
    IAdvisesAgents,
    IDetours,
    IFeedStore,
    IHashTable,
    IMetrics,
    IShareKeeper,
    IShareSampler,
)
from meshkit.operations import Advised, BoundOperation, Nothing
from meshkit.parts import Part, PartContext, shield
from meshkit.runtime.metrics import CODES
from meshkit.runtime.moments import rfc3339
from meshkit.storage.http.door import SignedDoor
from meshkit.storage.http.server import storage_factory
from meshkit.storage.http.wire import LABEL, VERSION
from meshkit.storage.keeper import lending
from meshkit.storage.keeper import operations as offered
from meshkit.storage.keeper.announcing import Announcer
from meshkit.storage.keeper.capacity import SCRUB_RATE, KeeperConfig
from meshkit.storage.keeper.keeper import Keeper, KeeperFigures
from meshkit.storage.keeper.lending import Lending
from meshkit.storage.keeper.tls_door import (
    TLSSettings,
    make_tls_door,
    open_tls_door,
    place_of,
)
from meshkit.storage.placement_record import PLACEMENT_KIND
from meshkit.storage.shards.files import SHARDS, FileShardStore
from meshkit.storage.shards.memory import MemoryShardStore
from meshkit.storage.statements import MAX_NUMBER, is_reachable, peers_content
from meshkit.storage.terms import ShareStat

T = TypeVar("T")

MIGRATIONS: Final = lending.MIGRATIONS

#: Seconds that callers have to take their answers when the node stops, or nothing is kept any
#: more.
CLOSE_GRACE: Final = 5.0
#: Shares that are removed at a time, when all are.
REMOVED: Final = 64

_NS: Final = 10**9
_SIZE: Final = {"size": True}


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section C{[keeper]}."""

    max_storage: Annotated[
        int,
        Meta(
            ge=0,
            le=offered.MAX_STORAGE,
            description="bytes to lend to the members of the network in all; 0 lends what "
            "'meshkit storage connect' was told",
            extra=_SIZE,
        ),
    ] = 0
    reserved: Annotated[
        int,
        Meta(
            ge=0,
            le=MAX_NUMBER,
            description="bytes of max_storage that are given to nobody",
            extra=_SIZE,
        ),
    ] = 0
    headroom: Annotated[
        Annotated[int, Meta(ge=0, le=MAX_NUMBER)] | None,
        Meta(
            description="bytes of max_storage that only shares may have which replace lost ones; "
            "a tenth, if nothing is said",
            extra=_SIZE,
        ),
    ] = None
    quota: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_NUMBER)] | None,
        Meta(
            description="bytes that one owner may have; any number, if nothing is said", extra=_SIZE
        ),
    ] = None
    admission: Annotated[
        Literal["open", "allow-list"],
        Meta(description="whose shares are taken: those of all members, or those that allow names"),
    ] = "open"
    allow: Annotated[
        tuple[str, ...],
        Meta(
            description="@<base64>.ed25519 of who may have shares kept, with allow-list",
            extra={"flag": "allow"},
        ),
    ] = ()
    domain: Annotated[
        Annotated[str, Meta(min_length=1, max_length=64)] | None,
        Meta(description="name of what this node may be lost together with, such as rack-3"),
    ] = None
    addresses: Annotated[
        tuple[str, ...],
        Meta(
            description="HOST:PORT where storage clients reach this node, if it cannot find that "
            "out by itself",
            extra={"flag": "address"},
        ),
    ] = ()
    scrub_rate: Annotated[
        int,
        Meta(
            ge=0,
            le=MAX_NUMBER,
            description="bytes a second that are read again to find damage; 0 reads none",
            extra=_SIZE,
        ),
    ] = SCRUB_RATE

    tls_listen: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(
            description="Endpoint for clients that come over TLS and sign their requests, such as "
            "tcp:7672; there is none, if nothing is said"
        ),
    ] = None
    tls_certificate: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="file with the certificate for that, in PEM, and those that lead to it"),
    ] = None
    tls_key: Annotated[
        Annotated[str, Meta(min_length=1)] | None,
        Meta(description="file with its key, in PEM, of mode 0600"),
    ] = None

    def places(self) -> tuple[HostPort, ...]:
        """
        @return: C{addresses}.
        @raise ConfigError: if one is none, or nobody can be reached at one, or there are too
            many.
        """
        if len(self.addresses) > MAX_ADDRESSES:
            raise ConfigError(f"keeper.addresses: {MAX_ADDRESSES} addresses are the limit")
        try:
            found = tuple(HostPort.parse(text) for text in self.addresses)
        except InvalidAddress as e:
            raise ConfigError(f"keeper.addresses: {e}") from None
        for place in found:
            if not is_reachable(place):
                raise ConfigError(
                    f"keeper.addresses: nobody can be reached at {place.text}: write the address "
                    "that others dial, or leave it out and the node finds out"
                )
        return found

    def terms(self, capacity: int) -> KeeperConfig:
        """
        @param capacity: bytes to lend in all.
        @return: how a keeper is to lend them.
        @raise ConfigError: if that cannot be done under these settings.
        """
        try:
            allow = tuple(PublicKey.parse(text) for text in self.allow)
        except InvalidPublicKey as e:
            raise ConfigError(f"keeper.allow: {e}") from None
        try:
            return KeeperConfig(
                capacity=capacity,
                reserved=self.reserved,
                headroom=self.headroom,
                quota=self.quota,
                admission=self.admission,
                allow=allow,
                domain=self.domain,
                scrub_rate=self.scrub_rate,
            )
        except ConfigError as e:
            raise ConfigError(f"keeper: {e}") from None


@implementer(IAdvisesAgents, IShareKeeper, IShareSampler)
class KeeperPart(Part):
    """
    See the module.

    @ivar keeper: what keeps the shares; L{None} as long as nothing is to be kept.
    """

    _log = Logger()

    def __init__(self, context: PartContext) -> None:
        """@raise ConfigError: if the settings cannot be used."""
        self._context = context
        self._config: Config = context.config
        self._places = self._config.places()
        self._config.terms(self._config.max_storage)
        self._blocks = context.find(IFeedStore)
        self._detours: Any = context.find(IDetours)
        table: IHashTable | None = context.find(IHashTable)
        if table is not None:
            # Where the owner of a file is gone, those who have its shares are who is left to say
            # where they are.
            table.register_kind(PLACEMENT_KIND)
        self._announcer = Announcer(context.reactor, table, peers_content(context.network.net_id))
        self._site = storage_factory(context.reactor, self.for_caller, self._record)
        self._tls_settings = TLSSettings.of(
            self._config.tls_listen, self._config.tls_certificate, self._config.tls_key
        )
        self._tls: SignedDoor | None = None
        if self._tls_settings is not None:
            self._tls = make_tls_door(context, self._tls_settings, self.for_caller, self._record)
        # Of a node that has no disk, and as lasting as the node.
        self._memory = MemoryShardStore()
        self._lending = Lending()
        # What is said at the door is done one after the other.
        self._turn = DeferredLock()
        self._emptying: Deferred[None] | None = None
        self.keeper: Keeper | None = None
        self._measure(context.metrics)

    def _measure(self, metrics: IMetrics) -> None:
        def gauge(name: str, doc: str, read: Callable[[KeeperFigures], float]) -> None:
            metrics.gauge(name, doc, lambda: self._figure(read))

        def count(name: str, doc: str, read: Callable[[KeeperFigures], float]) -> None:
            metrics.count(name, doc, lambda: self._figure(read))

        gauge("capacity_bytes", "Bytes that are lent in all.", lambda it: it.config.capacity)
        gauge("stored_bytes", "Bytes of the shares that are kept.", lambda it: it.stored)
        gauge("promised_bytes", "Bytes reserved for shares on their way.", lambda it: it.promised)
        gauge("free_bytes", "Bytes left for new shares.", lambda it: it.free)
        gauge("disk_free_bytes", "Bytes that the disk has left.", lambda it: it.disk_free or 0)
        gauge("shares", "Shares that are kept.", lambda it: it.shares)
        gauge("owners", "How many have shares kept.", lambda it: it.owners)
        gauge("uploads", "Shares that are on their way.", lambda it: it.uploads)
        metrics.gauge("connections", "Connections of clients.", self._connections)
        gauge("draining", "1 if nothing new is taken.", lambda it: it.draining)
        count("damaged_total", "Shares found damaged and set aside.", lambda it: it.damaged)
        count("collected_total", "Shares removed after their leases.", lambda it: it.collected)
        count("expired_total", "Uploads given up as nothing came.", lambda it: it.expired)
        count("receipts_total", "Receipts that were signed.", lambda it: it.receipts)
        count("written_bytes_total", "Bytes of blocks that were taken.", lambda it: it.written)
        count("read_bytes_total", "Bytes of blocks that were given.", lambda it: it.read)
        count("scrubbed_bytes_total", "Bytes read to find damage.", lambda it: it.scrubbed_bytes)
        count("scrub_rounds_total", "Rounds of reading all.", lambda it: it.scrub_rounds)
        metrics.count(
            "refused_total",
            "Calls of clients that were refused.",
            lambda: {} if self.keeper is None else dict(self.keeper.figures().refused),
            code=CODES,
        )

    def _connections(self) -> int:
        return self._site.connections + (0 if self._tls is None else self._tls.connections)

    def _figure(self, read: Callable[[KeeperFigures], float]) -> float:
        return 0 if self.keeper is None else read(self.keeper.figures())

    # --- the service ----------------------------------------------------------------------

    def startService(self) -> Deferred[None]:
        super().startService()
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        said = await self._context.database.read(lending.read)
        self._lending = Lending.of(self._config.max_storage, said)
        try:
            if self._lending.keeps:
                await self._begin()
            elif self._lending.state == "left":
                # A crash may have come before the last of them was gone.
                await self._remove_all()
            else:
                self._look_for_forgotten()
            if self._tls is not None and self._tls_settings is not None:
                await open_tls_door(self._tls, self._context, self._tls_settings)
        except OSError as e:
            raise StartError(
                f"the shares in {self._context.data_folder} cannot be used "
                f"({e.filename or 'the disk'}: {e.strerror}): look at the disk, or leave them "
                "alone with --disable keeper"
            ) from e
        self._announce()

    def _look_for_forgotten(self) -> None:
        folder = os.path.join(self._context.data_folder, SHARDS)
        if self._context.files.mode(folder) is not None:
            self._log.warn(
                "{folder} may have shares of others, who cannot get them as nothing is lent now: "
                "lend again ('meshkit storage connect'), and end it in good order ('meshkit "
                "storage disconnect')",
                folder=folder,
            )

    async def _begin(self) -> None:
        """Begin to keep shares, those that are there already and new ones."""
        context = self._context
        keeper = Keeper(
            self._store(),
            context.identity,
            context.network.net_id,
            reactor=context.reactor,
            workers=context.workers,
            wall_clock=context.wall_clock,
            config=self._config.terms(self._lending.capacity),
            addresses=self._addresses,
        )
        if self._lending.state == "draining":
            keeper.drain()
        try:
            await keeper.start()
        except BaseException:
            await keeper.stop()
            raise
        self.keeper = keeper
        self._watch()
        self._log.info(
            "{state}: {shares} shares of others, {used} of {capacity} bytes",
            state=self._lending.state,
            shares=keeper.figures().shares,
            used=keeper.figures().stored,
            capacity=self._lending.capacity,
        )

    def _watch(self) -> None:
        """While it drains, notice when nothing is here any more."""
        if self._emptying is not None:
            self._emptying.cancel()
            self._emptying = None
        if self.keeper is not None and self._lending.state == "draining":
            emptying = self._emptying = self.keeper.when_empty()
            emptying.addCallbacks(self._emptied, lambda failure: failure.trap(CancelledError))

    def _emptied(self, _: None) -> None:
        self._emptying = None
        if self._drained:
            self._log.info(
                "nothing is kept for others any more, and nothing new is taken: this node can be "
                "stopped for good"
            )
            self._announce()

    @property
    def _drained(self) -> bool:
        """Does it drain, and is nothing left?"""
        keeper = self.keeper
        return (
            keeper is not None
            and self._lending.state == "draining"
            and not keeper.figures().shares
            and not keeper.figures().uploads
        )

    def _store(self) -> Any:
        system = self._context.files.system
        if system is None:
            return self._memory
        return FileShardStore(self._context.data_folder, system)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._announcer.stop()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        # Whoever says something at the door is heard to the end.
        stopping = [self._turn.run(lambda: Deferred.fromCoroutine(self._end()))]
        if self._tls is not None:
            # At the same time: a node has not for ever to stop.
            stopping.append(self._tls.stop())
        await gatherResults(stopping)

    async def _end(self) -> None:
        """Keep nothing any more, here; on the disk it stays."""
        keeper, self.keeper = self.keeper, None
        self._watch()
        await self._site.close(CLOSE_GRACE)
        if keeper is not None:
            await keeper.stop()

    def capabilities(self) -> dict[Any, IProtocolFactory]:
        return {(LABEL, VERSION): self._site}

    def authorize(self, peer: PublicKey, label: str) -> bool:
        return bool(self.running and self.keeper is not None and not self._shunned(peer))

    def _shunned(self, peer: PublicKey) -> bool:
        blocked = self._blocks is not None and self._blocks.is_blocked(peer.raw)
        return bool(blocked or self._context.peers.ledger.is_banned(peer))

    def advice(self) -> Sequence[str]:
        if self.keeper is None or not self.keeper.figures().damaged:
            return ()
        return (
            "Shares that this node keeps for others were found damaged on its disk and set aside: "
            "its operator should look at the disk, and at the log.",
        )

    # --- audits: IShareSampler ------------------------------------------------------------

    def kept(self, names: Sequence[bytes]) -> Deferred[list[ShareStat | None]]:
        return fail(_nothing_kept()) if self.keeper is None else self.keeper.sampler.kept(names)

    def may_audit(self, account: bytes, name: bytes) -> bool:
        return self.keeper is not None and self.keeper.sampler.may_audit(account, name)

    def placements_of(
        self, names: Sequence[bytes]
    ) -> Deferred[list[tuple[PublicKey, bytes] | None]]:
        return (
            fail(_nothing_kept())
            if self.keeper is None
            else self.keeper.sampler.placements_of(names)
        )

    def leaves(
        self, wanted: Sequence[tuple[bytes, Sequence[int]]]
    ) -> Deferred[list[Samples | MeshkitError]]:
        return fail(_nothing_kept()) if self.keeper is None else self.keeper.sampler.leaves(wanted)

    # --- clients --------------------------------------------------------------------------

    def for_caller(self, key: PublicKey) -> Any:
        """See L{IShareKeeper.for_caller}."""
        if self.keeper is None:
            raise StorageRefused("nothing is kept here any more: take another storage peer")
        if self._shunned(key):
            raise StorageRefused("this storage peer keeps nothing for this key: ask its operator")
        return self.keeper.for_caller(key)

    def _record(self) -> bytes:
        if self.keeper is None:
            raise _nothing_kept()
        return self.keeper.record()

    def _addresses(self) -> list[HostPort]:
        """Where clients reach this node, as far as is known; never a wildcard."""
        return list(self._places or self._context.whereabouts.places())[:MAX_ADDRESSES]

    def _led(self) -> list[str]:
        """The addresses by which relays lead clients here."""
        return [] if self._detours is None else [each.text for each in self._detours.to_us()]

    def _tls_places(self) -> list[str]:
        place = None if self._tls is None else place_of(self._tls)
        return [] if place is None else [place.text]

    def _announce(self) -> None:
        # Who leaves is still to be found by those whose shares it has: it tells them so.
        self._announcer.say(self._lending.keeps and not self._drained)

    # --- what is offered at the doors -----------------------------------------------------

    def operations(self) -> Sequence[BoundOperation]:
        return (
            BoundOperation(offered.STATUS, self._answer_status),
            BoundOperation(offered.CONNECT, self._answer_connect),
            BoundOperation(offered.DISCONNECT, self._answer_disconnect),
        )

    def status(self) -> offered.StorageStatus | None:
        return None if self._lending.state == "none" else self._show(None)

    def _answer_status(self, request: Nothing) -> offered.StorageStatus:
        # All shares are looked at for that, so it is told only to who asks for it.
        return self._show(None if self.keeper is None else self.keeper.last_lease_end())

    def _show(self, last_lease_end: int | None) -> offered.StorageStatus:
        terms = self._config.terms(self._lending.capacity)
        status = offered.StorageStatus(
            state=self._lending.state,
            source=self._lending.source,
            max_storage=terms.capacity,
            admission=terms.admission,
            domain=terms.domain,
            announced=self._announcer.accepted,
            tls=self._tls_places(),
        )
        if self.keeper is None:
            return status
        figures = self.keeper.figures()
        return msgspec.structs.replace(
            status,
            reserved=terms.reserved,
            headroom=terms.headroom_bytes,
            used=figures.stored + figures.promised,
            free=0 if figures.draining else figures.free,
            disk_free=figures.disk_free,
            shares=figures.shares,
            owners=figures.owners,
            uploads=figures.uploads,
            damaged=figures.damaged,
            last_lease_end=rfc3339(last_lease_end * _NS) if last_lease_end else None,
            addresses=[place.text for place in self._addresses()] + self._led(),
        )

    def _answer_connect(self, request: offered.ConnectStorage) -> Deferred[Any]:
        return self._one_at_a_time(lambda: self._connect(request.max_storage))

    def _answer_disconnect(self, request: offered.DisconnectStorage) -> Deferred[Any]:
        return self._one_at_a_time(self._leave if request.now else self._drain)

    def _one_at_a_time(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Deferred[T]:
        async def wait() -> T:
            await self._turn.acquire()
            try:
                if not self.running:
                    raise NotReady("the node is stopping")
                return await work()
            finally:
                self._turn.release()

        return shield(wait())

    async def _connect(self, max_storage: int | None) -> Any:
        old, new, fresh = self._lending, self._lending.connected(max_storage), self.keeper is None
        try:
            terms = self._config.terms(new.capacity)
        except ConfigError as e:
            raise InvalidRequest(str(e), field="max_storage") from None
        self._lending = new
        try:
            if fresh:
                await self._begin()
            await self._write(new)
        except BaseException as e:
            self._lending = old
            if fresh:
                await self._end()
            if isinstance(e, OSError):
                raise StorageFailed(
                    f"shares cannot be kept in {self._context.data_folder} "
                    f"({e.filename or 'the disk'}: {e.strerror}): look at the disk"
                ) from None
            raise
        if self.keeper is not None:
            self.keeper.reconfigure(terms)
            self.keeper.undrain()
            self._watch()
        self._announce()
        status = self._answer_status(Nothing())
        more = status.max_storage - status.used
        if status.disk_free is not None and status.disk_free < more:
            return Advised(
                status,
                [
                    f"the disk has {status.disk_free} bytes left, and {more} more are lent: what "
                    "does not fit will be refused"
                ],
            )
        return status

    async def _drain(self) -> offered.StorageLeft:
        await self._change(self._lending.draining())
        if self.keeper is not None:
            self.keeper.drain()
            self._watch()
        self._announce()
        return offered.StorageLeft(self._answer_status(Nothing()), 0, 0, 0)

    async def _leave(self) -> offered.StorageLeft:
        # Before the first share goes: who is killed meanwhile does not come back with some.
        await self._change(self._lending.left())
        self._announce()
        before = None if self.keeper is None else self.keeper.figures()
        await self._end()
        if before is None:
            return offered.StorageLeft(self._answer_status(Nothing()), 0, 0, 0)
        try:
            await self._remove_all()
        except OSError as e:
            raise StorageFailed(
                f"the shares in {self._context.data_folder} cannot be removed "
                f"({e.filename or 'the disk'}: {e.strerror}): nobody gets them any more, and the "
                "next start of the node tries again"
            ) from None
        self._log.warn(
            "by order of its owner this node has removed all that it kept for others: {shares} "
            "shares, {stored} bytes, of {owners} owners",
            shares=before.shares,
            stored=before.stored,
            owners=before.owners,
        )
        return offered.StorageLeft(
            self._answer_status(Nothing()), before.shares, before.stored, before.owners
        )

    async def _change(self, new: Lending) -> None:
        if new != self._lending:
            await self._write(new)
            self._lending = new

    async def _write(self, new: Lending) -> None:
        await self._context.database.write(lambda connection: lending.write(connection, new))

    async def _remove_all(self) -> None:
        store, run = self._store(), self._context.workers.run
        names = [shard.name for shard in await run(store.open)]
        try:
            for start in range(0, len(names), REMOVED):
                await run(_remove, store, names[start : start + REMOVED])
        finally:
            await run(store.close)


def _nothing_kept() -> NotReady:
    return NotReady("nothing is kept here any more: take another storage peer")


def _remove(store: Any, names: Sequence[bytes]) -> None:
    for name in names:
        store.remove(name)


def make_part(context: PartContext) -> KeeperPart:
    return KeeperPart(context)
