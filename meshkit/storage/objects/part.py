"""
The part C{storage}: files of this machine as objects at storage peers, in a node.

It brings together whom there is to keep shares (L{meshkit.storage.objects.finding}), the client
that gives them and gets them (L{meshkit.storage.client}), the ledger
(L{meshkit.storage.objects.ledger}), transfers in the background
(L{meshkit.storage.objects.transfers}) and what is to be done now and then
(L{meshkit.storage.objects.upkeep}).  Who audits and repairs is given the storage peers
(L{IStoragePeers}) and the objects that are looked after (L{ITrackedObjects}).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred, maybeDeferred

from meshkit.errors import InvalidRequest, ObjectRemoved
from meshkit.identity.addresses import MeshAddress
from meshkit.interfaces import (
    IFeedStore,
    IHashTable,
    IMetrics,
    IPeerFinder,
    IShareKeeper,
    IStoragePeers,
    ITrackedObjects,
)
from meshkit.operations import BoundOperation, Page
from meshkit.parts import Part, PartContext, shield
from meshkit.runtime.folder import DataFolder
from meshkit.runtime.keyring import load_storage_secret
from meshkit.runtime.moments import rfc3339
from meshkit.storage.capability import ReadCapability, RepairCapability, VerifyCapability
from meshkit.storage.client.checking import Checked
from meshkit.storage.client.client import StorageClient
from meshkit.storage.client.values import ClientConfig, Problem
from meshkit.storage.codecs import choose_codec
from meshkit.storage.http.client import MAX_CONNECTIONS, HTTPStoragePeer
from meshkit.storage.http.wire import LABEL, VERSION
from meshkit.storage.objects import ledger
from meshkit.storage.objects import operations as offered
from meshkit.storage.objects.config import Config as Config
from meshkit.storage.objects.finding import KnownPeer, MakePeer, StoragePeers
from meshkit.storage.objects.guarding import Guard
from meshkit.storage.objects.ledger import MIGRATIONS as MIGRATIONS
from meshkit.storage.objects.ledger import Entry, Release, Transfer
from meshkit.storage.objects.locating import Located, Locator
from meshkit.storage.objects.rights import OwnerRights
from meshkit.storage.objects.tracking import REMOVAL_SECONDS, Tracking
from meshkit.storage.objects.transfers import ID_BYTES, Shown, Transfers
from meshkit.storage.objects.upkeep import Upkeep
from meshkit.storage.objects.working import Figures, ObjectWork
from meshkit.storage.placement_document import PlacementDocument
from meshkit.storage.placement_record import PLACEMENT_KIND
from meshkit.storage.rendezvous import domains_of, spread_of
from meshkit.storage.scheme import Scheme

#: Folder of the spools, in that of the part.
UPLOADS: Final = "uploads"
#: Connections to one peer that is reached through a relay: the peers of an object may all be behind
#: one, which has so many circuits for each key, whoever they lead to.
RELAYED_CONNECTIONS: Final = 1
#: Seconds that peers have to hear what is given up when the node stops.
STOP_GRACE: Final = 3.0
#: Says which start of the machine this is (Linux).
BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"

_SECONDS: Final = 10**9
#: Bytes of a path.
_MAX_PATH: Final = 4_096
_STATES: Final = ("cancelled", "done", "failed")


class StoragePart(Part):
    """
    See the module.

    @ivar peers: the storage peers.
    @ivar tracking: the objects that are looked after.
    @ivar guard: what those of others need.
    @ivar transfers: puts and gets.
    @ivar upkeep: what objects need.
    """

    def __init__(self, context: PartContext, make_peer: MakePeer | None = None) -> None:
        """
        @param make_peer: how peers are reached, if not over the node's channels.
        @raise ConfigError: if a setting cannot be used.
        """
        config: Config = context.config
        self._context = context
        self._scheme = config.parsed_scheme()
        self._database = context.database
        self._wall_clock = context.wall_clock
        store: IFeedStore | None = context.find(IFeedStore)
        table: IHashTable | None = context.find(IHashTable)
        if table is not None:
            table.register_kind(PLACEMENT_KIND)
        # That of the owner of the folder: 'meshkit object encode' uses the same.
        folder = DataFolder(os.path.dirname(context.data_folder), context.files)
        secret = load_storage_secret(folder, context.rng)
        self._rights = OwnerRights(secret)
        self._uploads = os.path.join(context.data_folder, UPLOADS)
        context.files.make_folder(self._uploads)
        self.peers = StoragePeers(
            context.reactor,
            context.network.net_id,
            context.identity.public,
            self._make_peer if make_peer is None else make_peer,
            self._seconds,
            configured=config.addresses(),
            decided=config.decided(),
            table=table if config.discover else None,
            finder=context.find(IPeerFinder),
            keeper=context.find(IShareKeeper),
            shunned=lambda peer: bool(
                (store is not None and store.is_blocked(peer.raw))
                or context.peers.ledger.is_banned(peer)
            ),
            deadline=config.reserve_seconds,
        )
        self._request_seconds = config.request_seconds
        self._client = StorageClient(
            secret,
            reactor=context.reactor,
            workers=context.workers,
            rng=context.rng,
            wall_clock=context.wall_clock,
            codec=choose_codec(config.codec),
            config=ClientConfig(
                quorum=config.quorum or None,
                reserve_seconds=config.reserve_seconds,
                request_seconds=config.request_seconds,
            ),
        )
        self._locator = Locator(context.database, table)
        self._put_bytes = 0
        self._got_bytes = 0
        self._failures = {"failed": 0, "lied": 0}
        self._work = ObjectWork(
            self._client,
            self.peers,
            self._locator,
            context.database,
            context.workers,
            context.files,
            self._uploads,
            self._boot_id(),
            context.wall_clock,
            Figures(self._count_put, self._count_got, self._count_problem),
            repeat=config.repeat,
            publish=config.publish and table is not None,
        )
        self.transfers = Transfers(
            context.reactor,
            context.database,
            context.rng,
            context.wall_clock,
            self._work.do,
            self._client.stop,
            at_once=config.transfers,
        )
        self.tracking = Tracking(
            context.database,
            self._rights,
            table,
            self._locator,
            context.wall_clock,
            lambda: self.upkeep.changed(),
            publishes=config.publish,
        )
        self.guard = Guard(
            context.wall_clock, context.database, self._client, self.peers, table, self.tracking
        )
        self.upkeep = Upkeep(
            context.reactor,
            context.rng,
            context.wall_clock,
            context.database,
            self._client,
            self.peers,
            table if config.publish else None,
            self._rights,
            self.tracking,
            self.guard,
            deadline=config.request_seconds,
        )
        self._measure(context.metrics)

    def __conform__(self, interface: Any) -> Any:
        # Both have a method 'find'.
        return {IStoragePeers: self.peers, ITrackedObjects: self.tracking}.get(interface)

    def _make_peer(self, address: MeshAddress) -> HTTPStoragePeer:
        endpoint = self._context.connections.endpoint(address, LABEL, VERSION)
        connections = MAX_CONNECTIONS if address.via is None else RELAYED_CONNECTIONS
        return HTTPStoragePeer(
            self._context.reactor,
            endpoint,
            address.key,
            timeout=self._request_seconds,
            max_connections=connections,
        )

    def _boot_id(self) -> str:
        # Where there is none, a put that was interrupted goes on only from a whole spool.
        with suppress(OSError, UnicodeDecodeError):
            return self._context.files.read(BOOT_ID, 256).decode("ascii").strip()
        return ""

    def _seconds(self) -> float:
        return self._wall_clock() / _SECONDS

    # --- what is counted -------------------------------------------------------------------

    def _count_put(self, size: int) -> Deferred[None]:
        self._put_bytes += size
        return self.upkeep.changed()

    def _count_got(self, size: int) -> None:
        self._got_bytes += size

    def _count_problem(self, problem: Problem) -> None:
        self._failures["lied" if problem.lied else "failed"] += 1

    def _measure(self, metrics: IMetrics) -> None:
        transfers, upkeep, guard = self.transfers, self.upkeep, self.guard
        metrics.gauge("peers", "Storage peers that are known.", lambda: len(self.peers.peers()))
        metrics.gauge("members", "Those whose word holds.", self._members)
        metrics.gauge("objects", "Objects of this node.", lambda: upkeep.totals.objects)
        metrics.gauge(
            "unpublished", "Objects that are to be published.", lambda: upkeep.totals.publishing
        )
        metrics.gauge(
            "renewals_due",
            "Objects whose leases are due to be renewed.",
            lambda: upkeep.totals.renewing,
        )
        metrics.gauge(
            "releases_due",
            "Leases of removed objects and moved shares that could not be given up yet.",
            lambda: upkeep.totals.releases,
        )
        metrics.gauge(
            "watched", "Objects of others that are looked after.", lambda: upkeep.totals.watched
        )
        metrics.gauge("running", "Puts and gets that run.", lambda: transfers.under_way)
        metrics.gauge("waiting", "Those that wait.", lambda: transfers.waiting)
        metrics.count(
            "transfers_total", "Those that ended.", lambda: dict(transfers.ended), state=_STATES
        )
        metrics.count("put_bytes_total", "Bytes that were put.", lambda: self._put_bytes)
        metrics.count("got_bytes_total", "Bytes that were got.", lambda: self._got_bytes)
        metrics.count(
            "peer_problems_total",
            "Peers that others had to stand in for.",
            lambda: dict(self._failures),
            how=tuple(self._failures),
        )
        metrics.count(
            "renewed_total", "Leases that were renewed.", lambda: upkeep.renewed + guard.renewed
        )
        metrics.count(
            "not_renewed_total",
            "Leases that were not, each time.",
            lambda: upkeep.not_renewed + guard.not_renewed,
        )

    def _members(self) -> int:
        return len(self.peers.membership.members(int(self._seconds())))

    # --- the service -----------------------------------------------------------------------

    def startService(self) -> Deferred[None]:
        super().startService()
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        await self._work.tidy()
        await self.transfers.start()
        self.upkeep.start()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        # Peers are told what is given up; who does not answer may not hold up the node.
        hurry = self._context.reactor.callLater(STOP_GRACE, self.peers.stop)
        await self.upkeep.stop()
        await self.transfers.stop()
        if hurry.active():
            hurry.cancel()
        await self.peers.stop()

    def status(self) -> offered.StorageStatus:
        totals = self.upkeep.totals
        return offered.StorageStatus(
            scheme=self._scheme.text,
            peers=len(self.peers.peers()),
            members=self._members(),
            objects=totals.objects,
            transfers=self.transfers.under_way,
            waiting=self.transfers.waiting,
            publishing=totals.publishing,
            renewing=totals.renewing,
            releases=totals.releases,
            watched=totals.watched,
        )

    # --- the doors -------------------------------------------------------------------------

    def operations(self) -> Sequence[BoundOperation]:
        return (
            BoundOperation(offered.PUT, self._answer_put),
            BoundOperation(offered.GET, self._answer_get),
            BoundOperation(offered.LIST, self._answer_list),
            BoundOperation(offered.STAT, self._answer_stat),
            BoundOperation(offered.CAPABILITIES, self._answer_capabilities),
            BoundOperation(offered.CHECK, self._answer_check),
            BoundOperation(offered.REMOVE, self._answer_remove),
            BoundOperation(offered.TRANSFERS, self._answer_transfers),
            BoundOperation(offered.TRANSFER, self._answer_transfer),
            BoundOperation(offered.CANCEL, self._answer_cancel),
            BoundOperation(offered.PEERS, self._answer_peers),
        )

    # --- transfers -------------------------------------------------------------------------

    async def _answer_put(self, request: offered.PutObject) -> offered.TransferShown:
        scheme = self._scheme if request.scheme is None else Scheme.parse(request.scheme)
        path = _absolute(request.path)
        await self._context.workers.run(self._work.check_source, path)
        begun = await self.transfers.begin(
            Transfer(b"", 0, "put", "waiting", path, scheme=scheme.text)
        )
        return _transfer_shown(begun)

    async def _answer_get(self, request: offered.GetObject) -> offered.TransferShown:
        path = _absolute(request.path)
        called = await self._locator.call(request.object)
        if called.placement is not None:
            raise InvalidRequest(
                "a verify capability does not read an object: give its read capability",
                field="object",
            )
        key = called.key
        if key is None:
            entry = await self._locator.own(called.content_id)
            _check_live(entry)
            key = entry.key
        await self._context.workers.run(self._work.check_target, path, request.force)
        begun = await self.transfers.begin(
            Transfer(
                b"",
                0,
                "get",
                "waiting",
                path,
                replace=request.force,
                content_id=called.content_id,
                key=key,
            )
        )
        return _transfer_shown(begun)

    async def _answer_transfers(
        self, request: offered.ListTransfers
    ) -> list[offered.TransferShown]:
        return [_transfer_shown(each) for each in await self.transfers.list(request.limit)]

    async def _answer_transfer(self, request: offered.FindTransfer) -> offered.TransferShown:
        transfer_id = _transfer_id(request.id)
        if request.wait:
            ending = self.transfers.ending(transfer_id)
            waited = maybeDeferred(lambda: ending)
            waited.addTimeout(
                request.wait, self._context.reactor, onTimeoutCancel=lambda _result, _timeout: None
            )
            await waited
        return _transfer_shown(await self.transfers.find(transfer_id))

    async def _answer_cancel(self, request: offered.CancelTransfer) -> offered.TransferShown:
        cancelling = Deferred.fromCoroutine(self.transfers.cancel(_transfer_id(request.id)))
        return _transfer_shown(await shield(cancelling))

    # --- objects ---------------------------------------------------------------------------

    async def _answer_list(self, request: offered.ListObjects) -> Page:
        entries, total = await self._database.read(
            partial(
                ledger.page,
                limit=request.limit,
                offset=request.offset,
                removed=request.removed,
            )
        )
        return Page([_shown(each) for each in entries], total, request.limit, request.offset)

    async def _locate(self, text: str) -> Located:
        return await self._locator.locate(await self._locator.call(text))

    async def _answer_stat(self, request: offered.FindObject) -> offered.ObjectDetails:
        located = await self._locate(request.object)
        manifest, document, entry = located.manifest, located.document, located.entry
        held = range(len(document.shares))
        renew_at = None if entry is None else entry.renew_at
        return offered.ObjectDetails(
            object=manifest.content_id.hex(),
            own=entry is not None,
            name=None if entry is None else entry.name,
            bytes=manifest.length,
            scheme=manifest.header.scheme.text,
            status=document.status,
            added=None if entry is None else rfc3339(entry.added_ns),
            version=document.version,
            verify=VerifyCapability(manifest.content_id, manifest.header.placement.raw).text,
            renew_at=None if renew_at is None else _moment(renew_at),
            shares=[
                offered.SharePlace(
                    number,
                    None if placed is None else placed.peer.text,
                    None if placed is None else _moment(placed.lease_end),
                )
                for number, placed in enumerate(document.shares)
            ],
            flags=self._flags(manifest.header.scheme, document, held),
        )

    def _flags(
        self, scheme: Scheme, document: PlacementDocument, numbers: Sequence[int]
    ) -> list[str]:
        """What is not as it should be with the places of some shares, as far as that is known."""
        held = {
            number: self.peers.describe(placed.peer)
            for number, placed in enumerate(document.shares)
            if placed is not None and number in numbers
        }
        if not held:
            return []
        others = [each.key for each in self.peers.peers() if each.member is not None]
        known = {each.raw: self.peers.describe(each) for each in others}
        known |= {each.key: each for each in held.values()}
        return list(spread_of(scheme.required, held, domains_of(known.values())).flags)

    async def _answer_capabilities(self, request: offered.FindOwnObject) -> offered.Capabilities:
        entry = await self._own(request.object)
        _check_live(entry)
        seed = self._rights.seed(entry.manifest.header.upload)
        repair = RepairCapability(entry.content_id, seed)
        return offered.Capabilities(
            read=ReadCapability(entry.content_id, entry.key or b"").text,
            verify=repair.verify.text,
            repair=repair.text,
        )

    async def _own(self, text: str) -> Entry:
        return await self._locator.own((await self._locator.call(text)).content_id)

    async def _answer_check(self, request: offered.CheckObject) -> offered.ObjectChecked:
        located = await self._locate(request.object)
        if located.document.status == "deleted":
            raise ObjectRemoved("the object was given up by its owner: nobody has to keep it")
        await self.peers.refresh(look=False)
        checked = await self._client.check(
            located.manifest, located.document, self.peers.find, request.depth
        )
        return self._checked(located, checked)

    def _checked(self, located: Located, checked: Checked) -> offered.ObjectChecked:
        good = [n for n, each in enumerate(checked.shares) if each.state == "good"]
        health = "healthy" if checked.whole else "degraded" if checked.readable else "lost"
        return offered.ObjectChecked(
            object=located.manifest.content_id.hex(),
            health=health,  # type: ignore[arg-type]
            required=checked.required,
            good=checked.good,
            shares=[
                offered.ShareChecked(
                    share=number,
                    peer=None if each.peer is None else each.peer.text,
                    state=each.state,
                    lease_end=_moment(each.lease_end) if each.lease_end else None,
                    problem=each.problem,
                )
                for number, each in enumerate(checked.shares)
            ],
            flags=self._flags(located.manifest.header.scheme, located.document, good),
        )

    async def _answer_remove(self, request: offered.FindOwnObject) -> offered.ObjectRemoval:
        return await shield(self._remove(request.object))

    async def _remove(self, text: str) -> offered.ObjectRemoval:
        entry = await self._own(text)
        if entry.status == "live":
            entry = await self._moved_by_others(entry)
        now = int(self._seconds())
        released = 0
        releases: list[Release] = []
        if entry.status == "live":
            upload = entry.manifest.header.upload
            document = entry.document.deleted()
            await self._database.write(
                partial(
                    ledger.remove,
                    entry=entry,
                    document=document,
                    signed=document.sign(self._rights.signer(upload)),
                    now=now,
                    publish_at=now if self.upkeep.publishes else None,
                )
            )
            releases = ledger.releases_of(upload, entry.document)
            released = await self.upkeep.release(releases)
            await self.upkeep.changed()
        return offered.ObjectRemoval(
            object=entry.content_id.hex(),
            released=released,
            pending=len(releases) - released,
        )

    async def _moved_by_others(self, entry: Entry) -> Entry:
        """
        @return: an object with its shares where they are, as far as that is found out soon, so
            that they are given up there.
        """
        looking = self.tracking.newest(self._rights.track(entry))
        looking.addTimeout(
            REMOVAL_SECONDS, self._context.reactor, onTimeoutCancel=lambda _result, _timeout: None
        )
        with suppress(ObjectRemoved):
            await looking
        return await self._locator.own(entry.content_id)

    # --- peers -----------------------------------------------------------------------------

    async def _answer_peers(self, request: offered.ListPeers) -> list[offered.PeerShown]:
        if request.refresh:
            await self.peers.refresh(everybody=True, again=True)
        known = self.peers.peers()
        domains = domains_of(self.peers.describe(each.key) for each in known)
        return [_peer_shown(each, domains[each.key.raw]) for each in known]


def _absolute(path: str) -> str:
    if not os.path.isabs(path) or "\\0" in path or len(os.fsencode(path)) > _MAX_PATH:
        raise InvalidRequest(
            "a path has to be absolute, as the node's own folder is not yours", field="path"
        )
    return os.path.normpath(path)


def _transfer_id(text: str) -> bytes:
    with suppress(ValueError):
        found = bytes.fromhex(text)
        if len(found) == ID_BYTES:
            return found
    raise InvalidRequest(f"a transfer is called by {2 * ID_BYTES} hex digits", field="id")


def _check_live(entry: Entry) -> None:
    if entry.status == "deleted":
        raise ObjectRemoved(
            f"the object {entry.content_id.hex()[:16]}... was removed, and its key is gone"
        )


def _moment(seconds: int) -> str:
    return rfc3339(seconds * _SECONDS)


def _transfer_shown(shown: Shown) -> offered.TransferShown:
    transfer = shown.transfer
    result = error = None
    if transfer.result is not None:
        result = msgspec.json.decode(transfer.result, type=offered.TransferResult)
    if transfer.error_code is not None:
        error = offered.TransferError(transfer.error_code, transfer.error or "")
    return offered.TransferShown(
        id=transfer.id.hex(),
        kind=transfer.kind,
        state=shown.doing,
        path=transfer.path,
        object=None if transfer.content_id is None else transfer.content_id.hex(),
        done=shown.done if result is None else result.bytes,
        total=shown.total if result is None else result.bytes,
        begun=rfc3339(transfer.begun_ns),
        ended=None if transfer.ended_ns is None else rfc3339(transfer.ended_ns),
        result=result,
        error=error,
    )


def _shown(entry: Entry) -> offered.ObjectShown:
    ends = [placed.lease_end for placed in entry.document.shares if placed is not None]
    return offered.ObjectShown(
        object=entry.content_id.hex(),
        name=entry.name,
        bytes=entry.manifest.length,
        scheme=entry.manifest.header.scheme.text,
        status=entry.status,
        added=rfc3339(entry.added_ns),
        placed=len(ends),
        lease_end=_moment(min(ends)) if ends else None,
    )


def _peer_shown(peer: KnownPeer, domain: str) -> offered.PeerShown:
    record = None if peer.member is None else peer.member.record
    return offered.PeerShown(
        peer=peer.key.text,
        source=peer.source,
        addresses=[address.text for address in peer.addresses],
        member=record is not None,
        accepts=record is not None and record.accepts,
        leaving=record is not None and record.leaving,
        capacity=None if record is None else record.capacity,
        free=None if record is None else record.free,
        declared=None if record is None else record.domain,
        domain=domain,
        heard=None if peer.member is None else _moment(peer.member.heard),
        problem=peer.problem,
        refused=peer.refused,
    )


def make_part(context: PartContext) -> StoragePart:
    return StoragePart(context)
