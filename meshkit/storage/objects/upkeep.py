"""
What objects need now and then: to be published, to have their leases renewed, and when they
were removed, to have the leases given up that could not be at once.

What is due stands in the ledger, so that a node that was off for a week knows what to do when
it is started, and nothing is done twice.  One thing at a time: there is no hurry, as leases are
renewed when half of them is over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any, Final

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.errors import (
    LeaseUnknown,
    MeshkitError,
    ObjectRemoved,
    PlacementConflict,
    ShareUnknown,
)
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IHashTable
from meshkit.runtime.database import Database
from meshkit.runtime.waiting import ask
from meshkit.storage.client.client import StorageClient
from meshkit.storage.header import share_id
from meshkit.storage.objects import ledger
from meshkit.storage.objects.finding import StoragePeers
from meshkit.storage.objects.guarding import Guard
from meshkit.storage.objects.ledger import Entry, Release, Totals
from meshkit.storage.objects.publishing import publish
from meshkit.storage.objects.reconciling import newest_of
from meshkit.storage.objects.rights import OwnerRights
from meshkit.storage.objects.tracking import Tracking
from meshkit.storage.objects.working import RETRY_SECONDS, renewal_of, retry_at
from meshkit.storage.placement_document import PlacementDocument
from meshkit.storage.terms import GRACE_SECONDS, LEASE_SECONDS, peer_lease_secret

#: Seconds between two looks at what is due.
PAUSE: Final = 60.0
#: Objects that are seen to in one go, and leases.
MAX_OBJECTS: Final = 20
MAX_RELEASES: Final = 200
#: Seconds after which it is said again that an object was removed.
REPEAT_SECONDS: Final = 86_400
#: Seconds for which it is said that an object was removed: then nobody keeps anything of it.
REMEMBER_SECONDS: Final = LEASE_SECONDS + GRACE_SECONDS

_SECONDS: Final = 10**9


class Upkeep:
    """
    See the module.  For the reactor's thread.

    @ivar totals: what there is and is due, when it was looked at last.
    @ivar published: objects that were published, since the start.
    @ivar renewed: leases that were renewed.
    @ivar not_renewed: leases that should have been, each time.
    @ivar released: leases that were given up.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        rng: Random,
        wall_clock: Callable[[], int],
        database: Database,
        client: StorageClient,
        peers: StoragePeers,
        table: IHashTable | None,
        rights: OwnerRights,
        tracking: Tracking,
        guard: Guard,
        *,
        deadline: float,
    ) -> None:
        """
        @param wall_clock: nanoseconds since 1970.
        @param table: where objects are published, if they are.
        @param rights: of the owner of the objects.
        @param tracking: knows what others have changed.
        @param guard: sees to the objects of others.
        @param deadline: seconds that a peer has to answer.
        """
        self._reactor = reactor
        self._rng = rng
        self._wall_clock = wall_clock
        self._database = database
        self._client = client
        self._peers = peers
        self._table = table
        self._rights = rights
        self._tracking = tracking
        self._guard = guard
        self._deadline = deadline
        self._next: IDelayedCall | None = None
        self._running: Deferred[None] | None = None
        self._again = False
        # Seconds until the next look, about.
        self._pause = PAUSE
        self._started = False
        # Times that was looked what there is, and which of them C{totals} comes from.
        self._counts = self._counted = 0
        self.totals = Totals(0, 0, 0, 0)
        self.published = 0
        self.renewed = 0
        self.not_renewed = 0
        self.released = 0

    def _now(self) -> int:
        return self._wall_clock() // _SECONDS

    @property
    def publishes(self) -> bool:
        """Is there where objects are published?"""
        return self._table is not None

    # --- when ------------------------------------------------------------------------------

    def start(self) -> None:
        """Look at once, and then again and again."""
        self._started = True
        self.wake()

    def stop(self) -> Deferred[None]:
        """@return: Deferred that fires when nothing is done any more."""
        self._started = False
        if self._next is not None:
            self._next.cancel()
            self._next = None
        ended: Deferred[None] = Deferred()
        if self._running is None:
            ended.callback(None)
        else:
            self._running.addBoth(lambda _: ended.callback(None))
            self._running.cancel()
        return ended

    def wake(self) -> None:
        """Something may be due."""
        if not self._started:
            return
        if self._running is not None:
            self._again = True
            return
        if self._next is not None:
            self._next.cancel()
        self._next = self._reactor.callLater(0, self._begin)

    def changed(self) -> Deferred[None]:
        """
        Something that is due now was written down.

        @return: Deferred that fires with L{None} when C{totals} tells of it; what is due is done
            after that.  It does not fail because of the database, which is logged.
        """
        self.wake()
        return Deferred.fromCoroutine(self._tell())

    async def _tell(self) -> None:
        try:
            await self._count()
        except MeshkitError as e:
            # The next look does.
            self._log.info("what is due is not counted: {error}", error=str(e))

    async def _count(self) -> None:
        self._counts += 1
        number = self._counts
        totals = await self._database.read(partial(ledger.totals, now=self._now()))
        # Of two that read at the same time the first may be the last to end.
        if number > self._counted:
            self._counted, self.totals = number, totals

    def _begin(self) -> None:
        self._next = None
        self._again = False
        self._pause = PAUSE
        running = self._running = Deferred.fromCoroutine(self.look())
        running.addErrback(self._broken)
        running.addBoth(self._looked)

    def _broken(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return
        if failure.check(MeshkitError):
            self._log.info("upkeep of objects: {error}", error=str(failure.value))
        else:
            self._log.failure("the upkeep of objects failed", failure)

    def _looked(self, _: object) -> None:
        self._running = None
        if self._started:
            pause = 0.0 if self._again else self._pause * (0.75 + self._rng.random() / 2)
            self._next = self._reactor.callLater(pause, self._begin)

    async def look(self) -> None:
        """Do what is due, as much as is done in one go."""
        now = self._now()
        for entry in await self._database.read(
            partial(ledger.due_to_publish, now=now, limit=MAX_OBJECTS)
        ):
            await self._publish(entry)
        due = await self._database.read(partial(ledger.due_to_renew, now=now, limit=MAX_OBJECTS))
        if due:
            await self._peers.refresh()
        # At the same time: one peer that hangs must not hold up the leases at all others.
        outcomes: Sequence[tuple[bool, Any]] = await DeferredList(
            [Deferred.fromCoroutine(self._renew(entry)) for entry in due], consumeErrors=True
        )
        for good, outcome in outcomes:
            if not good:
                outcome.raiseException()
        if await self._guard.look():
            self._again = True
        releases = await self._database.read(
            partial(ledger.due_releases, now=now, limit=MAX_RELEASES)
        )
        await self.release(releases)
        old = now - REMEMBER_SECONDS
        for entry in await self._database.read(
            partial(ledger.forgettable, before=old, limit=MAX_OBJECTS)
        ):
            await self._database.write(partial(ledger.forget, content_id=entry.content_id))
        # What was put just now is tried again before the next look would come.
        soon = await self._database.read(partial(ledger.next_to_publish, after=now))
        if soon is not None:
            self._pause = min(self._pause, max(1.0, soon - self._now()))
        await self._count()

    # --- publishing --------------------------------------------------------------------------

    async def _publish(self, entry: Entry) -> None:
        """Have others find an object, or hear that it was removed."""
        if self._table is None:
            await self._set_publish(entry, None)
            return
        until = again = None
        if entry.status == "deleted":
            entry = await self._outdo(entry)
            until = (self._now() + REMEMBER_SECONDS) * 1000
            again = self._now() + REPEAT_SECONDS
        problem = await publish(self._table, entry.manifest, entry.signed, until)
        if problem is not None:
            self._log.info(
                "the object {object} is not published: {error}",
                object=entry.content_id.hex()[:16],
                error=problem.why,
            )
            now = self._now()
            await self._set_publish(entry, now + problem.wait(entry.added_ns, now))
            return
        self.published += 1
        await self._set_publish(entry, again)

    async def _outdo(self, entry: Entry) -> Entry:
        """
        Of two documents the hash table keeps that of the higher version.  If somebody who repairs
        has moved shares of an object before he heard that it was removed, it is said once more,
        and the leases are given up where they are now.
        """
        found = newest_of(
            [
                each
                for each in await self._tracking.documents(self._rights.track(entry))
                if each.status == "live" and each.version >= entry.document.version
            ]
        )
        if found is None:
            return entry
        document = evolve(entry.document, version=found.version + 1)
        upload, now = entry.manifest.header.upload, self._now()
        signed = document.sign(self._rights.signer(upload))
        releases = ledger.releases_of(upload, found)

        def write(connection: Any) -> None:
            ledger.replace(
                connection, entry, document, signed, base=None, renew_at=None, publish_at=now
            )
            ledger.release(connection, releases, now)

        await self._database.write(write)
        self._again = True
        return evolve(entry, document=document, signed=signed)

    async def _set_publish(self, entry: Entry, publish_at: int | None) -> None:
        await self._database.write(
            partial(
                ledger.set_publish,
                content_id=entry.content_id,
                version=entry.document.version,
                publish_at=publish_at,
            )
        )

    # --- renewing ----------------------------------------------------------------------------

    async def _current(self, entry: Entry) -> Entry | None:
        """@return: an object as it is when it is known what others have changed."""
        try:
            tracked = await self._tracking.newest(self._rights.track(entry))
        except ObjectRemoved:
            # This node did not give it up: whoever else has the storage secret, or was given the
            # right to repair, has said so.  Its leases are renewed until its owner says it here.
            self._log.warn(
                "somebody else has said that the object {object} is given up: remove it here, "
                "too, or do not trust whoever was given its repair capability",
                object=entry.content_id.hex()[:16],
            )
            return entry
        if tracked.document == entry.document:
            return entry
        found = await self._database.read(partial(ledger.find, content_id=entry.content_id))
        return found if found is not None and found.status == "live" else None

    async def _renew(self, entry: Entry) -> None:
        current = await self._current(entry)
        if current is None:
            return
        entry = current
        renewed = await self._client.renew(entry.manifest, entry.document, self._peers.find)
        now = self._now()
        failed = {problem.share for problem in renewed.problems}
        self.not_renewed += len(failed)
        self.renewed += sum(each is not None for each in entry.document.shares) - len(failed)
        for problem in renewed.problems:
            self._log.info(
                "the lease of share {share} of {object} is not renewed by {peer}: {problem}",
                share=problem.share,
                object=entry.content_id.hex()[:16],
                peer=problem.peer.text,
                problem=problem.text,
            )
        document = renewed.document
        if len(renewed.numbers) >= entry.manifest.header.scheme.required:
            document = _without_ended(document, now)
        renew_at = renewal_of(document)
        if failed and renew_at is not None:
            renew_at = retry_at(document, failed, now)
        changed = document.shares != entry.document.shares
        upload = entry.manifest.header.upload
        signed = document.sign(self._rights.signer(upload))
        publish_at = None if self._table is None else now

        def write(connection: Any) -> None:
            if changed:
                ledger.swap(
                    connection, entry, document, signed, renew_at=renew_at, publish_at=publish_at
                )
            else:
                # Nobody has answered, or the leases were new.
                ledger.set_renewal(connection, entry, renew_at)
            ledger.hasten(connection, upload, renewed.numbers, now)

        try:
            await self._database.write(write)
        except PlacementConflict as e:
            # Somebody has moved or removed it meanwhile; what is due then is due then.
            self._log.info("{error}", error=str(e))
            return
        self._again |= changed

    # --- giving up -----------------------------------------------------------------------------

    async def release(self, releases: Sequence[Release]) -> int:
        """
        Give up leases.  Those that cannot be are tried again later, until they have ended by
        themselves.

        @return: how many are given up.
        """
        if not releases:
            return 0
        outcomes = await DeferredList(
            [Deferred.fromCoroutine(self._release(each)) for each in releases],
            consumeErrors=True,
        )
        now = self._now()
        done, left = [], []
        for each, (good, _) in zip(releases, outcomes, strict=True):
            if good or each.lease_end <= now:
                done.append(each)
            else:
                left.append(each)

        def write(connection: Any) -> None:
            ledger.released(connection, done)
            ledger.release(connection, left, now + RETRY_SECONDS)

        await self._database.write(write)
        self.released += len(done)
        return len(done)

    async def _release(self, release: Release) -> None:
        peer = self._peers.find(PublicKey(release.peer))
        name = share_id(release.upload, release.number)
        for root in self._roots(release):
            secret = peer_lease_secret(root, peer.key)
            try:
                await ask(self._reactor, self._deadline, peer.release, name, secret)
            except LeaseUnknown:
                continue  # it is given up already
            except ShareUnknown:
                return  # all of it is gone already

    def _roots(self, release: Release) -> tuple[bytes, ...]:
        """@return: of what the secrets are made of the leases that are to be given up."""
        if release.lease_root is not None:
            return (release.lease_root,)
        # Those as well that somebody was given who repairs, and may be gone.
        upload = release.upload
        return (self._rights.lease_root(upload), self._rights.repair_lease_root(upload))


def _without_ended(document: PlacementDocument, now: int) -> PlacementDocument:
    """
    Without the shares that nobody has to have any more, as their leases ended long ago.

    That is for an object that can be read without them.  An owner who comes back after months
    may reach nobody at first, and must not forget where all of it was: some of the peers were
    off as well, or have leases of somebody who repairs, and have it still.
    """
    return evolve(
        document,
        shares=tuple(
            None if placed is not None and placed.lease_end + GRACE_SECONDS <= now else placed
            for placed in document.shares
        ),
    )
