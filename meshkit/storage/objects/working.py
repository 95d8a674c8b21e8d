"""
What puts and gets do, from the file to the ledger, and back.

A put that was interrupted goes on from its spool (L{meshkit.storage.client.spool}), which is
named after the transfer and taken away when the object is in the ledger: so there is no moment
at which shares are at the peers and nobody here knows it.  A get begins anew.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from stat import S_ISDIR, S_ISREG
from typing import Final

import msgspec
from attrs import frozen
from twisted.internet.defer import Deferred

from meshkit.errors import InvalidRequest
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IFiles
from meshkit.runtime.database import Database
from meshkit.runtime.files import LOCAL, SystemCalls
from meshkit.runtime.workers import Workers
from meshkit.storage.client.client import StorageClient, holders_of
from meshkit.storage.client.spool import JOURNAL, SEALED, Spool
from meshkit.storage.client.streams import CallSink, PathSource
from meshkit.storage.client.values import Offer, Problem, Stored
from meshkit.storage.client.values import Progress as ClientProgress
from meshkit.storage.manifest import MAX_MANIFEST
from meshkit.storage.objects import ledger
from meshkit.storage.objects import operations as offered
from meshkit.storage.objects.finding import StoragePeers
from meshkit.storage.objects.ledger import Entry, Transfer
from meshkit.storage.objects.locating import Called, Locator
from meshkit.storage.objects.target import TargetFile
from meshkit.storage.objects.transfers import Outcome, Progress
from meshkit.storage.placement_document import PlacementDocument
from meshkit.storage.scheme import Layout, Scheme
from meshkit.storage.terms import LEASE_SECONDS

#: Seconds after which what did not work is tried again, at the earliest.
RETRY_SECONDS: Final = 3_600

_SECONDS: Final = 10**9


@frozen
class Figures:
    """
    What is counted.

    @ivar put: is told the bytes of an object that was put, when that is written down; its
        Deferred fires when it is known what there is to do for it.
    @ivar got: is told the bytes of an object that was got.
    @ivar problem: is told of a peer that failed or lied.
    """

    put: Callable[[int], Deferred[None]]
    got: Callable[[int], object]
    problem: Callable[[Problem], object]


def renewal_of(document: PlacementDocument) -> int | None:
    """
    @return: when the leases of an object are to be renewed, in seconds of Unix time: when half
        of the first is over.  L{None} if there are none.
    """
    ends = [placed.lease_end for placed in document.shares if placed is not None]
    return min(ends) - LEASE_SECONDS // 2 if ends else None


def retry_at(document: PlacementDocument, failed: set[int], now: int) -> int:
    """
    The nearer the end of a lease is, the more often it is tried.

    @param failed: the shares whose leases were not renewed.
    @param now: seconds of Unix time.
    @return: when to try it again, likewise.
    """
    ends = [
        placed.lease_end
        for number, placed in enumerate(document.shares)
        if placed is not None and number in failed
    ]
    left = min((end - now for end in ends), default=0)
    return now + max(RETRY_SECONDS, left // 8)


class ObjectWork:
    """See the module.  For the reactor's thread."""

    def __init__(
        self,
        client: StorageClient,
        peers: StoragePeers,
        locator: Locator,
        database: Database,
        workers: Workers,
        files: IFiles,
        folder: str,
        boot_id: str,
        wall_clock: Callable[[], int],
        figures: Figures,
        *,
        repeat: bool,
        publish: bool,
    ) -> None:
        """
        @param folder: for spools; it exists.
        @param boot_id: names the time since the machine was started; empty if nobody knows.
        @param wall_clock: nanoseconds since 1970.
        @param repeat: if there are fewer peers than shares, one may have several.
        @param publish: objects are published in the hash table.
        """
        self._client = client
        self._peers = peers
        self._locator = locator
        self._database = database
        self._workers = workers
        self._files = files
        self._folder = folder
        self._boot_id = boot_id
        self._wall_clock = wall_clock
        self._figures = figures
        self._repeat = repeat
        self._publish = publish

    @property
    def _system(self) -> SystemCalls:
        system: SystemCalls | None = self._files.system
        return LOCAL if system is None else system

    def do(self, transfer: Transfer, progress: Progress) -> Deferred[Outcome]:
        """See L{meshkit.storage.objects.transfers.DoTransfer}."""
        work = self._put if transfer.kind == "put" else self._get
        return Deferred.fromCoroutine(work(transfer, progress))

    def check_source(self, path: str) -> int:
        """
        Can this file be put?  Blocks.

        @return: its bytes.
        @raise InvalidRequest: if not.
        """
        try:
            found = self._system.stat(path)
        except (OSError, ValueError) as e:
            reason = e.strerror if isinstance(e, OSError) else str(e)
            raise InvalidRequest(f"cannot use {path}: {reason}", field="path") from None
        if not S_ISREG(found.st_mode):
            raise InvalidRequest(f"{path} is no file", field="path")
        return found.st_size

    def check_target(self, path: str, replace: bool) -> None:
        """
        Can an object be got into this file?  Blocks.

        @raise TargetExists: if there is one, and it is not to be replaced.
        @raise InvalidRequest: if there can be none.
        """
        folder = os.path.dirname(path)
        try:
            if not S_ISDIR(self._system.stat(folder).st_mode):
                raise InvalidRequest(f"{folder} is no folder", field="path")
            TargetFile(path, "", replace, self._system).check()
        except OSError as e:
            raise InvalidRequest(f"cannot write {path}: {e.strerror}", field="path") from None

    # --- put -------------------------------------------------------------------------------

    async def _put(self, transfer: Transfer, progress: Progress) -> Outcome:
        scheme = Scheme.parse(transfer.scheme or "")
        size = await self._workers.run(self.check_source, transfer.path)
        progress(0, size)
        await self._peers.refresh()
        share_bytes = Layout(scheme, size).share_bytes
        offers = self._offers(share_bytes)
        if len(offers) < scheme.total:
            # Others may be there by now; that there were none may have been heard minutes ago.
            await self._peers.refresh(again=True)
            offers = self._offers(share_bytes)
        spool = self._spool(transfer.id)
        stored = await self._client.put(
            PathSource(self._workers, transfer.path, self._system),
            offers,
            scheme,
            repeat=self._repeat,
            progress=_told(progress),
            spool=spool,
        )
        return self._stored(transfer, stored, spool)

    def _spool(self, transfer_id: bytes) -> Spool | None:
        if self._files.system is None:
            return None
        return Spool(
            self._folder, transfer_id.hex(), self._boot_id, self._files, self._files.system
        )

    def _offers(self, share_bytes: int) -> list[Offer]:
        # Who has given room for it already says that there is less; that one is asked as well.
        with_room = self._peers.candidates(share_bytes + share_bytes // 256 + MAX_MANIFEST)
        room = {each.key for each in with_room}
        others = [each for each in self._peers.candidates(0) if each.key not in room]
        return [
            Offer(each, self._peers.find(PublicKey(each.key))) for each in (*with_room, *others)
        ]

    def _stored(self, transfer: Transfer, stored: Stored, spool: Spool | None) -> Outcome:
        manifest = stored.manifest
        now = self._wall_clock()
        entry = Entry(
            os.path.basename(transfer.path),
            now,
            manifest,
            stored.capability.key,
            stored.document,
            stored.signed,
            renewal_of(stored.document),
        )
        result = offered.TransferResult(
            object=manifest.content_id.hex(),
            bytes=manifest.length,
            scheme=manifest.header.scheme.text,
            shares=sorted(stored.receipts),
            missing=list(stored.missing),
            flags=list(stored.flags),
            problems=self._problems(stored.problems),
        )
        publish_at = now // _SECONDS if self._publish else None

        async def after() -> None:
            await self._figures.put(manifest.length)
            if spool is not None:
                await self._workers.run(spool.remove)

        return Outcome(
            msgspec.json.encode(result),
            manifest.content_id,
            partial(ledger.add, entry=entry, publish_at=publish_at),
            lambda: Deferred.fromCoroutine(after()),
        )

    def _problems(self, problems: tuple[Problem, ...]) -> list[offered.PeerProblem]:
        for each in problems:
            self._figures.problem(each)
        return [
            offered.PeerProblem(each.peer.text, each.share, each.text, each.lied)
            for each in problems
        ]

    # --- get -------------------------------------------------------------------------------

    async def _get(self, transfer: Transfer, progress: Progress) -> Outcome:
        if transfer.content_id is None:
            raise ValueError("a get without an object")
        target = TargetFile(transfer.path, transfer.id.hex(), transfer.replace, self._system)
        await self._workers.run(target.open)
        try:
            located = await self._locator.locate(Called(transfer.content_id, transfer.key))
            key = located.readable()
            progress(0, located.manifest.length)
            fetched = await self._client.get(
                located.manifest,
                key,
                holders_of(located.document, self._peers.find),
                CallSink(partial(self._workers.run, target.write)),
                progress=_told(progress),
            )
            await self._workers.run(target.commit)
        except BaseException:
            # What was begun in a thread is over before it is taken away.
            self._workers.run(target.discard).addErrback(lambda _: None)
            raise
        self._figures.got(fetched.length)
        result = offered.TransferResult(
            object=transfer.content_id.hex(),
            bytes=fetched.length,
            scheme=located.manifest.header.scheme.text,
            shares=list(fetched.shares),
            missing=[],
            flags=[],
            problems=self._problems(fetched.problems),
        )
        return Outcome(msgspec.json.encode(result), transfer.content_id)

    # --- what is left of others ------------------------------------------------------------

    async def tidy(self) -> None:
        """Take away the spools of transfers that have ended.  Before any is begun."""
        if self._files.system is None:
            return
        waiting = await self._database.read(ledger.open_transfers)
        names = {each.id.hex() for each in waiting}
        await self._workers.run(self._tidy, names)

    def _tidy(self, names: set[str]) -> None:
        kept: set[str] = set()
        for name in self._system.listdir(self._folder):
            put, end = os.path.splitext(name)
            if end == JOURNAL:
                spool = Spool(self._folder, put, self._boot_id, self._files, self._system)
                if put not in names:
                    spool.remove()
                    continue
                try:
                    kept.update(spool.uploads())
                except OSError:
                    return  # the put says so, when it comes to it
        for name in self._system.listdir(self._folder):
            # A journal goes first, and the node may have been killed then.
            upload, end = os.path.splitext(name)
            if end == SEALED and upload not in kept:
                self._files.remove(os.path.join(self._folder, name))


def _told(progress: Progress) -> Callable[[ClientProgress], object]:
    return lambda it: progress(it.done, it.total)
