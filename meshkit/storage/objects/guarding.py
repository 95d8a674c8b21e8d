"""
What objects of others need that were handed to this node to be looked after: leases, so that
they outlive the absence of their owner, and to be found in the hash table.

The leases are this node's own, beside those of the owner, and it is charged for them.  They
are renewed when half of them is over.  The document is left as it is, though it has the end of
the owner's lease, so that owner and repairer do not take turns in changing it; unless the owner
is late.

What is published is published for a while only, and again whenever leases are renewed, so that
nothing is left of an object that is not looked after any more.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from meshkit.errors import ObjectRemoved, PlacementConflict
from meshkit.interfaces import IHashTable
from meshkit.runtime.database import Database
from meshkit.storage.client.checking import Renewed
from meshkit.storage.client.client import StorageClient
from meshkit.storage.objects import ledger, watching
from meshkit.storage.objects.finding import StoragePeers
from meshkit.storage.objects.publishing import publish
from meshkit.storage.objects.tracking import Tracking
from meshkit.storage.objects.watching import Watched
from meshkit.storage.objects.working import retry_at
from meshkit.storage.placement_document import PlacementDocument
from meshkit.storage.terms import GRACE_SECONDS, LEASE_SECONDS

#: Objects that are seen to in one go.
MAX_OBJECTS: Final = 20
#: An owner who renews at half has more left than that.
LATE_SECONDS: Final = LEASE_SECONDS // 4
#: Seconds for which something is published.
PUBLISH_SECONDS: Final = LEASE_SECONDS + GRACE_SECONDS

_SECONDS: Final = 10**9


class Guard:
    """
    See the module.  For the reactor's thread.

    @ivar published: objects that were published, since the start.
    @ivar renewed: leases that were renewed.
    @ivar not_renewed: leases that should have been, each time.
    """

    _log = Logger()

    def __init__(
        self,
        wall_clock: Callable[[], int],
        database: Database,
        client: StorageClient,
        peers: StoragePeers,
        table: IHashTable | None,
        tracking: Tracking,
    ) -> None:
        """
        @param wall_clock: nanoseconds since 1970.
        @param table: where objects are found, if anywhere.
        @param tracking: knows what others have changed.
        """
        self._wall_clock = wall_clock
        self._database = database
        self._client = client
        self._peers = peers
        self._table = table
        self._tracking = tracking
        self.published = 0
        self.renewed = 0
        self.not_renewed = 0

    def _now(self) -> int:
        return self._wall_clock() // _SECONDS

    async def look(self) -> bool:
        """
        Do what is due, as much as is done in one go.

        @return: whether more is due now.
        """
        now = self._now()
        publishing = await self._database.read(
            partial(watching.due_to_publish, now=now, limit=MAX_OBJECTS)
        )
        for each in publishing:
            await self._publish(each)
        renewing = await self._database.read(
            partial(watching.due_to_renew, now=now, limit=MAX_OBJECTS)
        )
        if renewing:
            await self._peers.refresh()
        # At the same time: one peer that hangs must not hold up the leases at all others.
        outcomes: Sequence[tuple[bool, Any]] = await DeferredList(
            [Deferred.fromCoroutine(self._renew(each)) for each in renewing], consumeErrors=True
        )
        for good, outcome in outcomes:
            if not good:
                outcome.raiseException()
        return bool(renewing) or len(publishing) == MAX_OBJECTS

    # --- publishing ------------------------------------------------------------------------

    async def _publish(self, watched: Watched) -> None:
        again = None
        if self._table is not None:
            until = (self._now() + PUBLISH_SECONDS) * 1000
            problem = await publish(self._table, watched.manifest, watched.signed, until)
            if problem is None:
                self.published += 1
            else:
                self._log.info(
                    "the object {object} is not published: {error}",
                    object=watched.content_id.hex()[:16],
                    error=problem.why,
                )
                again = self._now() + problem.wait(watched.added_ns, self._now())
        await self._database.write(
            partial(
                watching.set_publish,
                content_id=watched.content_id,
                version=watched.document.version,
                publish_at=again,
            )
        )

    # --- renewing --------------------------------------------------------------------------

    async def _current(self, watched: Watched) -> Watched | None:
        """@return: an object as it is now; L{None} if it is not looked after any more."""
        try:
            await self._tracking.newest(watched.track())
        except ObjectRemoved as e:
            self._log.info("{error}", error=str(e))
            return None
        return await self._database.read(partial(watching.find, content_id=watched.content_id))

    async def _renew(self, watched: Watched) -> None:
        current = await self._current(watched)
        if current is None:
            return
        tracked = current.track()
        renewed = await self._client.renew_tracked(tracked, self._peers.find)
        now = self._now()
        failed = {problem.share for problem in renewed.problems}
        placed = sum(each is not None for each in tracked.document.shares)
        self.not_renewed += len(failed)
        self.renewed += placed - len(failed)
        for problem in renewed.problems:
            self._log.info(
                "the lease of share {share} of {object} is not renewed by {peer}: {problem}",
                share=problem.share,
                object=tracked.content_id.hex()[:16],
                peer=problem.peer.text,
                problem=problem.text,
            )
        when = now + LEASE_SECONDS // 2
        if failed:
            when = min(when, retry_at(tracked.document, failed, now))
        late = _is_late(tracked.document, renewed.numbers, now)

        def write(connection: Any) -> None:
            if late:
                _extend(connection, current, renewed, when, now)
            else:
                watching.set_renewal(connection, current, when, now)
            ledger.hasten(connection, current.manifest.header.upload, renewed.numbers, now)

        try:
            await self._database.write(write)
        except PlacementConflict as e:
            # What is due then is due then.
            self._log.info("{error}", error=str(e))


def _extend(
    connection: sqlite3.Connection, watched: Watched, renewed: Renewed, renew_at: int, now: int
) -> None:
    """The owner does not say any more that the shares are kept, so this node does."""
    watching.replace(
        connection,
        watched,
        renewed.document,
        renewed.signed,
        base=watched.document if watched.base is None else watched.base,
        renew_at=renew_at,
        publish_at=now,
    )


def _is_late(document: PlacementDocument, renewed: Sequence[int], now: int) -> bool:
    """Does a lease that was renewed here end soon, by what the document says?"""
    places = [document.shares[number] for number in renewed]
    return any(each is not None and each.lease_end < now + LATE_SECONDS for each in places)
