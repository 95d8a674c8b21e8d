"""
The objects that this node looks after, as those who audit and repair see them: its own, and
those of others for which it was given a repair capability.

Where the shares of an object are is changed by its owner and by those who repair for him, each
in his own database first.  A change is one transaction: the new document, that it is to be
published, and the leases that are to be given up where shares were.  Then it is published; so a
node that is killed in between goes on where it was (L{meshkit.storage.objects.upkeep}).

What others have changed is read in the hash table (L{Tracking.newest}).  Of it nothing is
believed but what the key of the object has signed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from meshkit.errors import (
    InvalidRequest,
    MeshkitError,
    NotFound,
    ObjectError,
    ObjectKeyWrong,
    ObjectRemoved,
)
from meshkit.interfaces import IHashTable, ITrackedObjects
from meshkit.runtime.database import Database
from meshkit.storage.capability import RepairCapability
from meshkit.storage.custody import TrackedObject
from meshkit.storage.objects import ledger, watching
from meshkit.storage.objects.ledger import Entry
from meshkit.storage.objects.locating import Called, Locator
from meshkit.storage.objects.reconciling import newest_of, reconcile
from meshkit.storage.objects.rights import OwnerRights
from meshkit.storage.objects.watching import Watched
from meshkit.storage.objects.working import renewal_of
from meshkit.storage.placement_document import PlacementDocument
from meshkit.storage.placement_record import KIND

#: Objects that are read at once: some 2 KiB each, or 30 KiB with 255 shares.
MAX_PAGE: Final = 1_000
#: How far the version of a document may be ahead of ours to be believed.  Whoever was given
#: the right to repair could take the last number there is, and then nobody could say anything
#: any more.
MAX_LEAP: Final = 2**32

#: Seconds in which it is looked up, before an object is removed, where others have moved it.
REMOVAL_SECONDS: Final = 10.0

_SECONDS: Final = 10**9

Row = Entry | Watched


@implementer(ITrackedObjects)
class Tracking:
    """See the module.  For the reactor's thread."""

    _log = Logger()

    def __init__(
        self,
        database: Database,
        rights: OwnerRights,
        table: IHashTable | None,
        locator: Locator,
        wall_clock: Callable[[], int],
        changed: Callable[[], Deferred[None]],
        *,
        publishes: bool,
    ) -> None:
        """
        @param rights: to the objects of this node.
        @param table: where others say where shares are; L{None} if there is none.
        @param locator: finds objects of others there.
        @param wall_clock: nanoseconds since 1970.
        @param changed: is called when something is to be published, or given up, and that is
            written down; its Deferred fires when that is known.
        @param publishes: the objects of this node are in the table.
        """
        self._database = database
        self._rights = rights
        self._table = table
        self._locator = locator
        self._wall_clock = wall_clock
        self._changed = changed
        self._publishes = publishes and table is not None

    def _now(self) -> int:
        return self._wall_clock() // _SECONDS

    def _track(self, row: Row) -> TrackedObject:
        return self._rights.track(row) if isinstance(row, Entry) else row.track()

    # --- what there is ---------------------------------------------------------------------

    def tracked(self, after: bytes = b"", limit: int = 500) -> Deferred[list[TrackedObject]]:
        """
        See L{ITrackedObjects.tracked}.

        @param limit: 1 to L{MAX_PAGE}.
        @raise ValueError: if it is not.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise ValueError(f"1 to {MAX_PAGE} objects are read at once, not {limit}")
        return self._database.read(partial(self._page, after=after, limit=limit))

    def _page(
        self, connection: sqlite3.Connection, after: bytes, limit: int
    ) -> list[TrackedObject]:
        rows: list[Row] = [
            *ledger.live(connection, after, limit),
            *watching.page(connection, after, limit),
        ]
        rows.sort(key=lambda each: each.content_id)
        return [self._track(each) for each in rows[:limit]]

    def find(self, content_id: bytes) -> Deferred[TrackedObject]:
        """See L{ITrackedObjects.find}."""
        return self._database.read(partial(self._find, content_id=content_id))

    def _find(self, connection: sqlite3.Connection, content_id: bytes) -> TrackedObject:
        row = _row(connection, content_id)
        if row is None:
            raise NotFound(f"this node does not look after the object {content_id.hex()[:16]}...")
        return self._track(row)

    # --- what others have changed ----------------------------------------------------------

    def newest(self, tracked: TrackedObject) -> Deferred[TrackedObject]:
        """
        See L{ITrackedObjects.newest}.

        What is found and what was changed here meanwhile are brought together
        (L{meshkit.storage.objects.reconciling}).  If nobody can be asked now, the object is as
        it was.
        """
        return Deferred.fromCoroutine(self._newest(tracked))

    async def _newest(self, tracked: TrackedObject) -> TrackedObject:
        found = newest_of(await self._documents(tracked))
        if found is None or found == tracked.document:
            return tracked
        if found.status == "live" and found.version < tracked.document.version:
            return tracked
        return await self._take_over(tracked, found)

    def documents(self, tracked: TrackedObject) -> Deferred[Sequence[PlacementDocument]]:
        """
        @return: Deferred of what the hash table has that the key of the object has signed; empty
            if it cannot be asked now.
        """
        return Deferred.fromCoroutine(self._documents(tracked))

    async def _documents(self, tracked: TrackedObject) -> Sequence[PlacementDocument]:
        table = self._table
        if table is None or (tracked.own and not self._publishes):
            return ()
        placement = tracked.manifest.header.placement
        short = tracked.content_id.hex()[:16]
        try:
            records = await table.get(KIND, placement.raw)
        except MeshkitError as e:
            self._log.info(
                "it is not known whether the shares of {object} were moved: {error}",
                object=short,
                error=str(e),
            )
            return ()
        found = []
        for record in records:
            try:
                document = PlacementDocument.open(record.value, placement)
                document.check(tracked.manifest)
            except ObjectError as e:
                self._log.info(
                    "the hash table has something else for {object}: {error}",
                    object=short,
                    error=str(e),
                )
                continue
            if document.version > tracked.document.version + MAX_LEAP:
                self._log.warn(
                    "version {version} of where the shares of {object} are is not believed",
                    version=document.version,
                    object=short,
                )
                continue
            found.append(document)
        return found

    async def _take_over(self, tracked: TrackedObject, found: PlacementDocument) -> TrackedObject:
        content_id = tracked.content_id
        if found.status == "deleted":
            if not tracked.own and await self._database.write(
                partial(self._end, content_id=content_id)
            ):
                await self._changed()
            raise ObjectRemoved(
                f"the object {content_id.hex()[:16]}... was given up by its owner: nobody has to "
                f"keep it"
            )
        row, changed = await self._database.write(
            partial(self._reconcile, content_id=content_id, found=found)
        )
        if changed:
            self._log.info(
                "shares of {object} were moved by somebody else: version {version}",
                object=content_id.hex()[:16],
                version=row.document.version,
            )
            await self._changed()
        return self._track(row)

    def _end(self, connection: sqlite3.Connection, content_id: bytes) -> bool:
        """@return: whether somebody else's object was looked after until now."""
        row = watching.find(connection, content_id)
        if row is None:
            return False
        gone, now = row.document.deleted(), self._now()
        ledger.release_moved(
            connection, row.manifest, row.document, gone, row.lease_root, now, by_us=True
        )
        ledger.hasten(connection, row.manifest.header.upload, range(len(gone.shares)), now)
        return watching.remove(connection, content_id)

    def _reconcile(
        self, connection: sqlite3.Connection, content_id: bytes, found: PlacementDocument
    ) -> tuple[Row, bool]:
        """@return: the object as it is now, and whether that is new."""
        row = _row(connection, content_id)
        if row is None:
            raise ObjectRemoved(
                f"the object {content_id.hex()[:16]}... is not looked after any more"
            )
        outcome = reconcile(row.base, row.document, found)
        if outcome.what == "keep":
            return row, False
        now = self._now()
        renew_at = row.renew_at
        if _is_elsewhere(row.document, outcome.document):
            # There we have no lease yet.
            renew_at = now
        # What was moved here is told with a merged one, and told once: whoever says something
        # newer has read it.  Two could go on for ever to insist otherwise.
        self._write(connection, row, outcome.document, None, renew_at, now, by_us=False)
        return self._read_again(connection, content_id), True

    # --- what is changed here --------------------------------------------------------------

    def swap(self, tracked: TrackedObject, document: PlacementDocument) -> Deferred[TrackedObject]:
        """
        See L{ITrackedObjects.swap}.

        @raise ValueError: if C{document} says that the object is deleted, which is not for
            those who look after it to say.
        @raise ObjectMismatch: if it is about another object.
        @raise ObjectKeyWrong: if the object was put with another storage secret.
        """
        if document.status != "live":
            raise ValueError("an object is given up by 'object rm' alone")
        document.check(tracked.manifest)
        tracked.document.check_successor(document)
        if tracked.signer.public != tracked.manifest.header.placement:
            raise ObjectKeyWrong("the object was put with another storage secret")
        swapping = self._database.write(partial(self._swap, tracked=tracked, document=document))

        def swapped(result: TrackedObject) -> Deferred[TrackedObject]:
            return self._changed().addCallback(lambda _: result)

        return swapping.addCallback(swapped)

    def _swap(
        self, connection: sqlite3.Connection, tracked: TrackedObject, document: PlacementDocument
    ) -> TrackedObject:
        row = _row(connection, tracked.content_id)
        if row is None or row.document != tracked.document:
            raise ledger.conflict(tracked.content_id)
        base = row.document if row.base is None else row.base
        times = [each for each in (row.renew_at, renewal_of(document)) if each is not None]
        renew_at = min(times) if times else None
        self._write(connection, row, document, base, renew_at, self._now(), by_us=True)
        return self._track(self._read_again(connection, tracked.content_id))

    def _write(
        self,
        connection: sqlite3.Connection,
        row: Row,
        document: PlacementDocument,
        base: PlacementDocument | None,
        renew_at: int | None,
        now: int,
        *,
        by_us: bool,
    ) -> None:
        """
        Write down where the shares of an object are now, what is to be published, and what is
        to be given up.

        @param by_us: see L{ledger.release_moved}.
        """
        own = isinstance(row, Entry)
        upload = row.manifest.header.upload
        signer = self._rights.signer(upload) if own else self._track(row).signer
        _table_of(row).replace(
            connection,
            row,
            document,
            document.sign(signer),
            base=base,
            renew_at=renew_at,
            publish_at=now if self._publishes or not own else None,
        )
        # Of our own alone.  Who repairs has leases where the shares are by his own document, and
        # gives them up when he has read this one.
        lease_root = row.lease_root if isinstance(row, Watched) else self._rights.lease_root(upload)
        ledger.release_moved(
            connection, row.manifest, row.document, document, lease_root, now, by_us=by_us
        )

    # --- objects of others -----------------------------------------------------------------

    def watch(self, capability: RepairCapability) -> Deferred[TrackedObject]:
        """
        See L{ITrackedObjects.watch}.  One that is looked after already stays as it is.

        @return: as there.  Fails with L{NotFound} if nobody knows the object, or where its
            shares are; with L{ObjectRemoved} if it was given up; with
            L{InvalidRequest} if it is this node's own, or the capability is not that of the
            object; with L{ObjectMismatch} or L{ObjectMalformed} if what the hash table has of
            it cannot be used; with L{Overloaded} at L{watching.MAX_WATCHED}; and as the hash
            table does.
        """
        return Deferred.fromCoroutine(self._watch(capability))

    async def _watch(self, capability: RepairCapability) -> TrackedObject:
        content_id, placement = capability.content_id, capability.identity.public
        there = await self._database.read(partial(watching.find, content_id=content_id))
        if there is not None and there.manifest.header.placement == placement:
            return there.track()
        located = await self._locator.locate(Called(content_id, placement=placement))
        if located.entry is not None:
            raise InvalidRequest(
                f"the object {content_id.hex()[:16]}... is of this node itself, which looks after "
                f"it anyway",
                field="object",
            )
        if located.document.status == "deleted":
            raise ObjectRemoved(
                f"the object {content_id.hex()[:16]}... was given up by its owner: nobody has to "
                f"keep it"
            )
        now = self._wall_clock()
        watched = Watched(
            located.manifest,
            capability.seed,
            located.document,
            located.document.sign(capability.identity),
            now,
            renew_at=now // _SECONDS,
        )

        def add(connection: sqlite3.Connection) -> TrackedObject:
            watching.add(connection, watched, publish_at=now // _SECONDS)
            return self._find(connection, content_id)

        tracked = await self._database.write(add)
        await self._changed()
        return tracked

    def unwatch(self, content_id: bytes) -> Deferred[None]:
        """See L{ITrackedObjects.unwatch}.  The leases that it was given end by themselves."""
        removing = self._database.write(partial(watching.remove, content_id=content_id))

        def removed(was_there: bool) -> None:
            if not was_there:
                raise NotFound(
                    f"no repair capability of the object {content_id.hex()[:16]}... was handed "
                    f"to this node"
                )

        return removing.addCallback(removed)

    def handed_over(self, limit: int, offset: int) -> Deferred[tuple[list[TrackedObject], int]]:
        """See L{ITrackedObjects.handed_over}."""

        def look(connection: sqlite3.Connection) -> tuple[list[TrackedObject], int]:
            found = watching.listed(connection, limit, offset)
            return [each.track() for each in found], watching.count(connection)

        return self._database.read(look)

    @staticmethod
    def _read_again(connection: sqlite3.Connection, content_id: bytes) -> Row:
        row = _row(connection, content_id)
        if row is None:
            raise NotFound("an object that was written down is not there")
        return row


def _row(connection: sqlite3.Connection, content_id: bytes) -> Row | None:
    """@return: what is written down of an object, if it is looked after and live."""
    entry = ledger.find(connection, content_id)
    if entry is not None:
        return entry if entry.status == "live" else None
    return watching.find(connection, content_id)


def _table_of(row: Row) -> Any:
    return ledger if isinstance(row, Entry) else watching


def _is_elsewhere(before: PlacementDocument, after: PlacementDocument) -> bool:
    """Is a share at a peer that had it not before?"""
    return any(
        now is not None and (was is None or was.peer != now.peer)
        for was, now in zip(before.shares, after.shares, strict=True)
    )
