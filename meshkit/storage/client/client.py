"""
Objects at storage peers, for who has a secret to own them with.

No node, no database, no network of its own: the peers are given, and may be reached in any
way.  What is to be remembered of an object (manifest, key, placement document) is handed out,
and asked for again.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from random import Random
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred

from meshkit.errors import ObjectKeyWrong, ObjectTooLarge, TransferSuspended
from meshkit.identity.keys import Identity
from meshkit.runtime.waiting import in_the_end
from meshkit.runtime.workers import Workers
from meshkit.storage.client import checking
from meshkit.storage.client.checking import Checked, Deleted, Depth, Renewed
from meshkit.storage.client.getting import Get, Holders
from meshkit.storage.client.placing import Placer
from meshkit.storage.client.putting import Put, Suspension, withdraw
from meshkit.storage.client.spool import Spool
from meshkit.storage.client.streams import (
    BytesSink,
    FileIdentity,
    IteratorSource,
    PathSource,
    Sink,
    Source,
)
from meshkit.storage.client.values import (
    DEFAULT_SCHEME,
    ClientConfig,
    Fetched,
    Find,
    Offer,
    Progress,
    Stored,
    Tools,
)
from meshkit.storage.codecs import choose_codec
from meshkit.storage.custody import TrackedObject
from meshkit.storage.header import Header, new_content_key, new_upload
from meshkit.storage.manifest import Manifest
from meshkit.storage.placement_document import PlacementDocument, placement_seed
from meshkit.storage.scheme import Scheme
from meshkit.storage.terms import lease_secret

__all__ = ["MAX_READ", "StorageClient", "holders_of"]

T = TypeVar("T")

#: Bytes that L{StorageClient.read} gives at most; more is to be streamed.
MAX_READ = 16 * 1024 * 1024

#: Is told how far a transfer is.
OnProgress = Callable[[Progress], object]


def holders_of(document: PlacementDocument, find: Find) -> Holders:
    """@return: who has the shares of an object, as far as it is known how to reach them."""
    found: dict[int, Sequence[Any]] = {}
    for number, placed in enumerate(document.shares):
        peer = None if placed is None else find(placed.peer)
        if peer is not None:
            found[number] = [peer]
    return found


class StorageClient:
    """
    Puts, gets, checks, renews and deletes objects.

    Any number of transfers may be under way at a time, each with some segments in memory
    (L{ClientConfig.buffer_bytes}).  To cancel what a method gives ends it; a put that is
    cancelled gives up what it has done at all peers before its Deferred fires.
    """

    def __init__(
        self,
        secret: bytes,
        *,
        reactor: Any,
        workers: Workers,
        rng: Random,
        wall_clock: Callable[[], int],
        codec: Any = None,
        config: ClientConfig | None = None,
    ) -> None:
        """
        @param secret: 32 random bytes.  With them the shares of the objects that are put can
            be moved, renewed and deleted; they read nothing.
        @param reactor: C{IReactorTime}.
        @param workers: are running.
        @param rng: makes keys: of the operating system, or of a simulation.
        @param wall_clock: nanoseconds since 1970.
        @param codec: L{meshkit.interfaces.IErasureCodec}; without it the fastest.
        """
        self._secret = secret
        self._rng = rng
        self._tools = Tools(
            reactor,
            workers,
            wall_clock,
            choose_codec() if codec is None else codec,
            config or ClientConfig(),
        )
        self._transfers: dict[Deferred[Any], Suspension] = {}
        self._stopping: list[Deferred[None]] = []

    # --- what there is to do ---------------------------------------------------------------

    def put(
        self,
        source: Source,
        offers: Sequence[Offer],
        scheme: Scheme = DEFAULT_SCHEME,
        *,
        repeat: bool = False,
        progress: OnProgress | None = None,
        spool: Spool | None = None,
    ) -> Deferred[Stored]:
        """
        Store an object.

        @param source: its bytes; it is closed in any case.
        @param offers: peers that have room for a share, more than are needed if possible.
        @param scheme: how it is cut.
        @param repeat: if there are fewer peers than shares, give one several.
        @param progress: is called whenever a segment is with all peers.
        @param spool: of a L{PathSource}, so that the put can go on after a kill: L{put} again,
            with the same path and spool.  Not used for files below
            L{ClientConfig.spool_bytes}.  When the object is written down,
            remove it (L{Spool.remove}); it is removed if the put fails, and not if it is
            suspended (L{stop}).
        @return: Deferred of L{Stored}.  Fails with L{meshkit.errors.NotEnoughPeers},
            L{meshkit.errors.ObjectNotPlaced}, L{meshkit.errors.SourceChanged},
            L{meshkit.errors.ObjectTooLarge}, with what the source fails with, or
            L{TransferSuspended}; then nothing is kept at peers that answer.
        """
        suspension = Suspension()
        work = self._put(source, offers, scheme, repeat, progress, spool, suspension)
        return self._track(work, suspension)

    def get(
        self,
        manifest: Manifest,
        key: bytes,
        holders: Holders,
        sink: Sink,
        *,
        start: int = 0,
        length: int | None = None,
        progress: OnProgress | None = None,
    ) -> Deferred[Fetched]:
        """
        Read an object, or a piece of it.

        @param manifest: of the object, as its id says (L{Manifest.check}).
        @param key: its content key.
        @param holders: who has its shares (L{holders_of}).
        @param sink: where it goes, in order.  What was written before it fails is a piece of
            the object.
        @param start: the first byte.
        @param length: how many bytes; L{None} for all from there on.
        @return: Deferred of L{Fetched}.  Fails with L{meshkit.errors.NotEnoughShares},
            L{ObjectKeyWrong}, L{meshkit.errors.ObjectMismatch}, or with what the sink fails
            with.
        """

        async def run() -> Fetched:
            reading = Get(
                self._tools,
                manifest,
                key,
                holders,
                sink,
                start=start,
                length=length,
                progress=progress,
            )
            return await reading.run()

        return self._track(run())

    def read(
        self, manifest: Manifest, key: bytes, holders: Holders, start: int, length: int
    ) -> Deferred[bytes]:
        """
        Read some bytes of an object into memory.

        @param length: at most L{MAX_READ}.
        @return: Deferred of them; fewer if the object ends before.  Fails as L{get} does.
        @raise ObjectTooLarge: if they are too many.
        """
        if length > MAX_READ:
            raise ObjectTooLarge(
                f"{length} bytes are more than the {MAX_READ} that are read at once: stream them"
            )

        async def run() -> bytes:
            sink = BytesSink()
            await Get(self._tools, manifest, key, holders, sink, start=start, length=length).run()
            return bytes(sink.data)

        return self._track(run())

    def check(
        self,
        manifest: Manifest,
        document: PlacementDocument,
        find: Find,
        depth: Depth = "sample",
    ) -> Deferred[Checked]:
        """
        What has become of an object's shares?

        @param document: where they are.
        @param find: gives the peers.
        @param depth: how much is read of them.
        @return: Deferred of L{Checked}.
        """
        return self._track(checking.check(self._tools, manifest, document, find, depth, self._rng))

    def renew(
        self, manifest: Manifest, document: PlacementDocument, find: Find
    ) -> Deferred[Renewed]:
        """
        Renew the leases of an object that this secret has put.

        @return: Deferred of L{Renewed}.
        """
        secret, owner = self._rights(manifest)
        return self._track(checking.renew(self._tools, manifest, document, find, secret, owner))

    def renew_tracked(self, tracked: TrackedObject, find: Find) -> Deferred[Renewed]:
        """
        Renew the leases that somebody has who looks after an object, or have peers give him some.

        @return: Deferred of L{Renewed}.
        """
        return self._track(
            checking.renew(
                self._tools,
                tracked.manifest,
                tracked.document,
                find,
                tracked.lease_root,
                tracked.signer,
            )
        )

    def delete(
        self, manifest: Manifest, document: PlacementDocument, find: Find
    ) -> Deferred[Deleted]:
        """
        Give up an object that this secret has put.

        @return: Deferred of L{Deleted}.
        """
        secret, owner = self._rights(manifest)
        return self._track(checking.delete(self._tools, manifest, document, find, secret, owner))

    def stop(self) -> Deferred[None]:
        """
        End everything.  Puts that have a spool are left as they are, to be gone on with; all
        other transfers are cancelled.

        @return: Deferred that fires when nothing is under way any more.  It waits for peers
            that are told to give something up, and so no longer than their deadlines.
        """
        ended: Deferred[None] = Deferred()
        for deferred, suspension in tuple(self._transfers.items()):
            suspension.asked = True
            deferred.cancel()
        self._stopping.append(ended)
        self._tell_if_idle()
        return ended.addCallback(lambda _: self.quiet())

    def _tell_if_idle(self) -> None:
        if not self._transfers:
            stopping, self._stopping = self._stopping, []
            for each in stopping:
                each.callback(None)

    def quiet(self) -> Deferred[None]:
        """@return: Deferred that fires when peers were told what was given up until now."""
        return self._tools.background.quiet().addCallback(lambda _: None)

    # --- how it is done --------------------------------------------------------------------

    def _rights(self, manifest: Manifest) -> tuple[bytes, Identity]:
        """@raise ObjectKeyWrong: if another secret has put the object."""
        upload = manifest.header.upload
        owner = self._owner(upload)
        if owner.public != manifest.header.placement:
            raise ObjectKeyWrong("the object was put with another storage secret")
        return lease_secret(self._secret, upload), owner

    def _owner(self, upload: bytes) -> Identity:
        return Identity(placement_seed(self._secret, upload))

    def _track(
        self, work: Coroutine[Any, Any, T], suspension: Suspension | None = None
    ) -> Deferred[T]:
        deferred: Deferred[T] = Deferred.fromCoroutine(work)
        self._transfers[deferred] = suspension or Suspension()

        def ended(result: Any) -> Any:
            del self._transfers[deferred]
            self._tell_if_idle()
            return result

        return deferred.addBoth(ended)

    async def _put(
        self,
        source: Source,
        offers: Sequence[Offer],
        scheme: Scheme,
        repeat: bool,
        progress: OnProgress | None,
        spool: Spool | None,
        suspension: Suspension,
    ) -> Stored:
        async def put() -> Stored:
            if isinstance(source, PathSource):
                identity = await source.open()
                if spool is not None and identity.size >= self._tools.config.spool_bytes:
                    return await self._in_spool(
                        spool,
                        self._go_on(
                            spool, source, identity, offers, scheme, repeat, progress, suspension
                        ),
                    )
            return await self._begin(source, offers, scheme, repeat, progress, suspension)

        async def close() -> None:
            await maybeDeferred(source.close)

        return await in_the_end(put(), close)

    async def _begin(
        self,
        source: Source,
        offers: Sequence[Offer],
        scheme: Scheme,
        repeat: bool,
        progress: OnProgress | None,
        suspension: Suspension,
        spool: Spool | None = None,
        identity: FileIdentity | None = None,
    ) -> Stored:
        upload, key = new_upload(self._rng), new_content_key(self._rng)
        owner = self._owner(upload)
        header = Header.new(scheme, upload, owner.public, key, self._rng)
        candidates = [each.candidate for each in offers]
        placer = Placer(upload, scheme, candidates, repeat=repeat)
        if spool is not None and identity is not None:
            await self._tools.workers.run(spool.begin, identity, header, key)
        put = Put(
            self._tools,
            header,
            key,
            lease_secret(self._secret, upload),
            owner,
            offers,
            placer,
            source,
            suspension,
            spool=spool,
            progress=progress,
        )
        return await put.run()

    async def _in_spool(self, spool: Spool, work: Coroutine[Any, Any, Stored]) -> Stored:
        end = spool.remove

        async def watched() -> Stored:
            nonlocal end
            try:
                stored = await work
            except TransferSuspended:
                end = spool.close
                raise
            end = spool.close
            return stored

        async def leave() -> None:
            await self._tools.workers.run(end)

        return await in_the_end(watched(), leave)

    async def _go_on(
        self,
        spool: Spool,
        source: PathSource,
        identity: FileIdentity,
        offers: Sequence[Offer],
        scheme: Scheme,
        repeat: bool,
        progress: OnProgress | None,
        suspension: Suspension,
    ) -> Stored:
        """Go on with what is in a spool, or begin anew."""
        run = self._tools.workers.run
        stale = await run(spool.open, identity)
        journal = spool.journal
        # A process may have been killed before it had told all of them.
        owed = {} if journal is None else journal.owed
        for upload, places in (owed if stale is None else stale.given_up).items():
            self._withdraw(upload, places, offers)
        if journal is None:
            return await self._begin(
                source, offers, scheme, repeat, progress, suspension, spool, identity
            )
        header, layout = journal.header, journal.layout
        placer = Placer(
            header.upload, header.scheme, [each.candidate for each in offers], repeat=repeat
        )
        for number, peer in journal.places.items():
            placer.keep(number, peer)
        rest: Source = source
        if spool.count == layout.segments:
            # Whatever the file is now.
            rest = IteratorSource(self._tools.workers, (), layout.length)
        else:
            await source.skip(spool.count * header.scheme.text_bytes)
        put = Put(
            self._tools,
            header,
            journal.key,
            lease_secret(self._secret, header.upload),
            self._owner(header.upload),
            offers,
            placer,
            rest,
            suspension,
            spool=spool,
            progress=progress,
        )
        return await put.run()

    def _withdraw(
        self, upload: bytes, places: Mapping[int, bytes], offers: Sequence[Offer]
    ) -> None:
        """Give up what peers have of an upload that cannot be gone on with."""
        peers = {each.candidate.key: each.peer for each in offers}
        secret = lease_secret(self._secret, upload)
        for number, key in sorted(places.items()):
            if key in peers:
                giving_up = withdraw(self._tools, peers[key], upload, number, secret, True)
                self._tools.background.add(Deferred.fromCoroutine(giving_up))
