"""
Storing an object.

::

    source --Texts--> text --Encoder, in a worker--> blocks --a lane for each share--> peers
                                   |
                                   +--> spool, if the put is to survive a kill

  1. Room is asked for at all peers in parallel.  Those that refuse, or say nothing within the
     deadline, are replaced (L{meshkit.storage.client.placing}); this happens once more at most,
     so that peers that hang cost two deadlines however many they are, and one mostly.
  2. Segment after segment is encoded in a worker, while those before it are sent.  A bounded
     number is under way.  A peer that fails now is left out, as long as enough are left.
  3. Each share is closed with the manifest.  What the peers sign is checked.
  4. The places are signed.

If too few are left, or whoever waits cancels, everything is given up at all peers that were
asked for anything: reservations by C{abort}, and what was closed by C{release}.  A request to
reserve or to close that is under way is waited for first, as it may be obeyed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.python.failure import Failure

from meshkit.errors import (
    LeaseUnknown,
    ObjectNotPlaced,
    ShareUnknown,
    SourceChanged,
    StatementInvalid,
    StoragePeerError,
    TransferSuspended,
    UploadOutOfStep,
)
from meshkit.identity.keys import Identity
from meshkit.runtime.waiting import Signal, ask, never_cancelled, problem_of
from meshkit.storage.capability import ReadCapability
from meshkit.storage.client.placing import Placer, least_receipts
from meshkit.storage.client.spool import Spool
from meshkit.storage.client.streams import PathSource, Source, Text, Texts
from meshkit.storage.client.values import Offer, Problem, Progress, Stored, Tools
from meshkit.storage.encoding import EncodedSegment, Encoder
from meshkit.storage.erasure import Block, measure
from meshkit.storage.header import Header, share_id
from meshkit.storage.manifest import Manifest
from meshkit.storage.placement_document import Placed, PlacementDocument
from meshkit.storage.receipts import checked_receipt, lease_end_of
from meshkit.storage.scheme import Layout
from meshkit.storage.statements import Receipt
from meshkit.storage.terms import Reservation, lease_hash, peer_lease_secret

__all__ = ["Put", "Suspension", "withdraw"]

#: Of an object whose length is not known, room is reserved for so many segments first, and
#: for twice as much each time that it is full.
FIRST_SEGMENTS: Final = 4
#: Peers that an error names.
_NAMED: Final = 4

#: C{asked}: for room.  C{open}: has room.  C{kept}: has signed a receipt.  C{out}: has failed.
LaneState = Literal["asked", "open", "kept", "out"]


@define(eq=False)
class Lane:
    """
    One share, on its way to one peer.

    @ivar number: of the share.
    @ivar peer: who is to have it.
    @ivar room: bytes that were reserved.
    @ivar next_segment: the peer has the blocks of all segments before this one.
    @ivar waiting: blocks that it was not sent yet, with their segments.
    @ivar wake: there is something to do.
    @ivar serving: sends, then closes; L{None} while there is no room yet.
    @ivar change: asks for something that may be done even if nobody waits for it: to reserve,
        or to close.
    @ivar closed: it was asked to close, and may have a lease.
    @ivar receipt: what it has signed.
    """

    number: int
    peer: Any
    state: LaneState = "asked"
    room: int = 0
    next_segment: int = 0
    waiting: deque[tuple[int, Block]] = field(factory=deque)
    wake: Signal = field(factory=Signal)
    serving: Deferred[None] | None = None
    change: Deferred[Any] | None = None
    closed: bool = False
    receipt: Receipt | None = None


#: A segment, the bytes of its text, and whether it is the last.
_Encoded = tuple[EncodedSegment, int, bool]


@define
class Suspension:
    """
    What the cancel of a put means.

    @ivar asked: leave everything at the peers as it is, so that a later put goes on from the
        spool.  Without a spool it is given up all the same.
    """

    asked: bool = False


@define
class _Sent:
    """
    A segment under way.

    @ivar size: bytes of its text.
    @ivar lanes: how many have not sent their block.
    """

    size: int
    lanes: int


async def withdraw(
    tools: Tools, peer: Any, upload: bytes, number: int, secret: bytes, closed: bool
) -> str | None:
    """
    Give up what a peer has, or may have, of a share.

    @param peer: L{meshkit.interfaces.IStoragePeer}.
    @param secret: of the leases of the object.
    @param closed: it may be complete.
    @return: why that was not possible, or L{None}.
    """
    seconds, problem = tools.config.reserve_seconds, None
    try:
        await ask(tools.reactor, seconds, peer.abort, upload, number)
    except Exception:
        problem = problem_of(Failure())
    if closed:
        try:
            name = share_id(upload, number)
            shown = peer_lease_secret(secret, peer.key)
            await ask(tools.reactor, seconds, peer.release, name, shown)
        except (ShareUnknown, LeaseUnknown):
            return problem
        except Exception:
            problem = problem_of(Failure())
    return problem


class Put:
    """One object that is stored.  See the module."""

    def __init__(
        self,
        tools: Tools,
        header: Header,
        content_key: bytes,
        lease_secret: bytes,
        owner: Identity,
        offers: Sequence[Offer],
        placer: Placer,
        source: Source,
        suspension: Suspension,
        *,
        spool: Spool | None = None,
        progress: Callable[[Progress], object] | None = None,
    ) -> None:
        """
        @param owner: has the key of the header's C{placement}.
        @param offers: at least of all candidates of the placer.
        @param source: at its beginning, or behind what the spool has.
        @param suspension: says whether a cancel means that the put is to be gone on with.
        @param spool: is open.
        @param progress: is called whenever a segment has been sent to all peers.
        """
        self._tools = tools
        self._header = header
        self._scheme = header.scheme
        self._key = content_key
        self._secret = lease_secret
        self._owner = owner
        self._peers = {each.candidate.key: each.peer for each in offers}
        self._placer = placer
        self._source = source
        self._spool = spool
        # Segments that may have left in an earlier life.
        self._left_before = 0 if spool is None else spool.left
        behind = 0 if spool is None else spool.count * self._scheme.text_bytes
        self._texts = Texts(source, self._scheme, behind)
        self._progress = progress
        self._encoder = Encoder(header, content_key, tools.codec)
        self._least = least_receipts(self._scheme, tools.config.quorum)
        self._window = tools.config.segments(self._scheme.total * self._scheme.block_bytes)
        self._lanes: list[Lane] = []
        self._problems: list[Problem] = []
        self._under_way: dict[int, _Sent] = {}
        self._done = 0
        self._changed = Signal()
        self._manifest: Manifest | None = None
        self._lost: ObjectNotPlaced | None = None
        self._waiter: Deferred[Any] | None = None
        self._suspension = suspension
        self._ended = False

    # --- the whole of it -----------------------------------------------------------------

    async def run(self) -> Stored:
        """
        @return: what was stored.
        @raise ObjectNotPlaced: if too few peers have taken their shares.
        @raise NotEnoughPeers: if there are fewer than shares.
        @raise SourceChanged: if the source has not as many bytes as it said.
        @raise TransferSuspended: if it was cancelled to be gone on with.
        """
        try:
            await self._send_all()
            return await self._conclude()
        except Exception:
            self._stop_lanes()
            if self._suspension.asked and self._spool is not None:
                for lane in self._lanes:
                    if lane.change is not None:
                        # Whether it is done shows when the put goes on.
                        lane.change.cancel()
                raise TransferSuspended(
                    "the put was interrupted, and can be gone on with"
                ) from None
            await never_cancelled(Deferred.fromCoroutine(self._give_up()))
            raise

    async def _send_all(self) -> None:
        first: Text | None = None
        if self._spool is None or not self._spool.left:
            first = await self._texts.next()
        encoding: Deferred[_Encoded] | None = self._encode_next(first)
        try:
            await self._place(self._first_room(first))
            while encoding is not None:
                segment, size, last = await self._unless_lost(encoding)
                encoding = None if last else self._encode_next()
                while len(self._under_way) >= self._window:
                    await self._unless_lost(self._changed.wait())
                self._send(segment, size)
        except GeneratorExit:
            # All of it is thrown away together, and in what order nobody knows.
            encoding = None
            raise
        finally:
            if encoding is not None:
                self._tools.background.add(encoding)
                encoding.cancel()
        await self._check_source()

    async def _conclude(self) -> Stored:
        self._manifest = manifest = self._encoder.finish()
        for lane in self._lanes:
            lane.wake.set()
        while any(lane.state == "open" for lane in self._lanes):
            await self._unless_lost(self._changed.wait())
        self._raise_if_lost()
        now = self._tools.now
        kept = {lane.number: lane for lane in self._lanes if lane.receipt is not None}
        receipts = {number: lane.receipt for number, lane in sorted(kept.items()) if lane.receipt}
        document = PlacementDocument(
            manifest.content_id,
            1,
            tuple(
                Placed(receipts[number].peer, lease_end_of(receipts[number], now))
                if number in receipts
                else None
                for number in range(self._scheme.total)
            ),
        )
        missing = tuple(number for number in range(self._scheme.total) if number not in receipts)
        return Stored(
            manifest,
            ReadCapability(manifest.content_id, self._key),
            document,
            document.sign(self._owner),
            receipts,
            missing,
            self._placer.spread(tuple(receipts)).flags,
            tuple(self._problems),
        )

    # --- text ------------------------------------------------------------------------------

    def _encode_next(self, text: Text | None = None) -> Deferred[_Encoded]:
        """
        @param text: the next one, if it is there.
        """

        async def encode() -> _Encoded:
            if self._spool is not None and self._spool.left:
                return await self._tools.workers.run(self._replay)
            return await self._tools.workers.run(self._encode, text or await self._texts.next())

        return Deferred.fromCoroutine(encode())

    def _encode(self, text: Text) -> _Encoded:
        """In a worker."""
        segment = self._encoder.encode(text.data, text.last)
        if self._spool is not None:
            # Before anybody is sent anything of it.
            self._spool.append(segment.blocks[: self._scheme.required], measure(text.data))
        return segment, measure(text.data), text.last

    def _replay(self) -> _Encoded:
        """In a worker."""
        assert self._spool is not None
        before = self._encoder.length
        sealed, last = self._spool.next()
        segment = self._encoder.adopt(sealed, last)
        return segment, self._encoder.length - before, last

    async def _check_source(self) -> None:
        expected = self._source.length
        changed = expected is not None and self._encoder.length != expected
        if isinstance(self._source, PathSource):
            changed = changed or not await self._source.unchanged()
        if changed:
            raise SourceChanged(
                f"{self._encoder.length} bytes were read of what had {expected}: it was changed "
                f"while it was stored"
            )

    # --- room ------------------------------------------------------------------------------

    def _first_room(self, first: Text | None) -> int:
        """@return: bytes to reserve for each share."""
        length = self._source.length
        if length is None and first is not None and first.last:
            length = measure(first.data)
        if length is not None:
            return Layout(self._scheme, length).share_bytes
        return FIRST_SEGMENTS * self._scheme.block_bytes

    async def _place(self, room: int) -> None:
        """
        Find a peer for every share, or for as many as will.

        @param room: bytes to be reserved for each.
        """
        now = self._tools.reactor.seconds
        # Those that replace others that say nothing have one more deadline, and all of them
        # have no more.
        end = now() + 2 * self._tools.config.reserve_seconds

        def ask_more() -> None:
            left = end - now()
            if left > 0:
                # All of them before the first is asked, who may refuse at once.
                lanes = [
                    Lane(number, self._peers[candidate.key])
                    for number, candidate in self._placer.ask().items()
                ]
                self._lanes += lanes
                for lane in lanes:
                    self._reserve(lane, room, left, ask_more)

        ask_more()
        while self._placer.asking:
            await self._changed.wait()
        if self._spool is not None:
            # Before anything leaves, so that all of it can be found again.
            places = {number: each.key for number, each in self._placer.placed.items()}
            await self._tools.workers.run(self._spool.set_places, places)
        self._check_quorum()
        self._raise_if_lost()

    def _reserve(self, lane: Lane, room: int, left: float, ask_more: Callable[[], None]) -> None:
        number = lane.number
        seconds = min(left, self._tools.config.reserve_seconds)

        def agreed(reservation: Reservation) -> None:
            self._accept(lane, reservation, room)
            self._placer.accept(number)

        def refused(failure: Failure) -> None:
            self._placer.refuse(number)
            self._drop(lane, failure)
            if not self._ended:
                ask_more()

        def done(_: object) -> None:
            lane.change = None
            self._changed.set()

        lane.change = lane_change = ask(
            self._tools.reactor,
            seconds,
            lane.peer.reserve,
            self._header.upload,
            number,
            room,
            self._lease(lane),
        )
        lane_change.addCallback(agreed).addErrback(refused).addBoth(done)

    def _lease(self, lane: Lane) -> bytes:
        """@return: what the peer of a lane is told of the secret of its lease."""
        return lease_hash(peer_lease_secret(self._secret, lane.peer.key))

    def _accept(self, lane: Lane, reservation: Reservation, room: int) -> None:
        """@raise StoragePeerError: if it has what it was never sent."""
        if reservation.next_segment > self._left_before:
            raise StoragePeerError(
                f"the storage peer says that it has {reservation.next_segment} blocks of the "
                f"share, and was sent {self._left_before}"
            )
        if reservation.complete and not self._left_before:
            # Somebody has heard from another peer what the share will be called.
            raise StoragePeerError("the storage peer has another share under the name of this one")
        lane.next_segment = reservation.next_segment
        lane.closed = reservation.complete
        lane.room = room
        lane.state = "open"

    # --- sending ---------------------------------------------------------------------------

    def _send(self, segment: EncodedSegment, size: int) -> None:
        lanes = [lane for lane in self._lanes if lane.state == "open"]
        self._under_way[segment.number] = _Sent(size, len(lanes))
        for lane in lanes:
            lane.waiting.append((segment.number, segment.blocks[lane.number]))
            if lane.serving is None:
                self._serve(lane)
            lane.wake.set()

    def _serve(self, lane: Lane) -> None:
        serving = lane.serving = Deferred.fromCoroutine(self._run_lane(lane))

        def ended(result: object) -> None:
            if isinstance(result, Failure):
                self._drop(lane, result)
            self._changed.set()

        serving.addBoth(ended)

    async def _run_lane(self, lane: Lane) -> None:
        while True:
            while lane.waiting:
                number, block = lane.waiting[0]
                if number >= lane.next_segment and not lane.closed:
                    await self._make_room(lane, number, measure(block))
                    await self._write(lane, number, block)
                    lane.next_segment = number + 1
                del block  # of which the next one need not wait
                lane.waiting.popleft()
                self._sent(number)
            if self._manifest is not None:
                await self._close(lane, self._manifest)
                return
            await lane.wake.wait()

    async def _make_room(self, lane: Lane, number: int, size: int) -> None:
        end = number * self._scheme.block_bytes + size
        if end > lane.room:
            room = max(end, 2 * lane.room)
            await self._change(lane, lane.peer.reserve, lane.number, room, self._lease(lane))
            lane.room = room

    async def _write(self, lane: Lane, number: int, block: Block) -> None:
        args = (self._header.upload, lane.number, number, block)
        reactor, seconds = self._tools.reactor, self._tools.config.request_seconds
        try:
            await ask(reactor, seconds, lane.peer.write, *args)
        except (StoragePeerError, CancelledError):
            raise
        except Exception:
            # The connection broke.  The last block may be sent again, whether it came or not.
            try:
                await ask(reactor, seconds, lane.peer.write, *args)
            except UploadOutOfStep as e:
                if e.next_segment != number + 1:
                    raise

    async def _close(self, lane: Lane, manifest: Manifest) -> None:
        lane.closed = True
        try:
            raw = await self._change(lane, lane.peer.close, lane.number, manifest.raw)
        except (StoragePeerError, CancelledError):
            raise
        except Exception:
            # As above.  Who has closed it says so when it is asked to reserve.
            size = manifest.layout.share_bytes
            await self._change(lane, lane.peer.reserve, lane.number, size, self._lease(lane))
            raw = await self._change(lane, lane.peer.close, lane.number, manifest.raw)
        now = self._tools.now
        secret = peer_lease_secret(self._secret, lane.peer.key)
        lane.receipt = checked_receipt(raw, lane.peer.key, manifest, lane.number, secret, now)
        lane.state = "kept"

    async def _change(self, lane: Lane, call: Callable[..., Any], *args: Any) -> Any:
        """Ask for what may be done even if nobody waits for it: it is never cancelled."""
        seconds = self._tools.config.request_seconds
        change = ask(self._tools.reactor, seconds, call, self._header.upload, *args)
        lane.change = change
        try:
            return await never_cancelled(change)
        finally:
            if change.called:
                lane.change = None

    def _sent(self, number: int) -> None:
        """A lane has the block of a segment behind it."""
        under_way = self._under_way[number]
        under_way.lanes -= 1
        if not under_way.lanes:
            del self._under_way[number]
            self._done += under_way.size
            if self._progress is not None and not self._ended:
                self._progress(Progress(self._done, self._source.length))
            self._changed.set()

    # --- what goes wrong -------------------------------------------------------------------

    def _drop(self, lane: Lane, failure: Failure) -> None:
        """A peer has failed, and is left out."""
        if self._ended:
            return
        lane.state = "out"
        lied = failure.check(StatementInvalid) is not None
        text = problem_of(failure)
        self._problems.append(Problem(lane.peer.key, lane.number, text, lied))
        while lane.waiting:
            number, _ = lane.waiting.popleft()
            self._sent(number)
        self._tools.background.add(Deferred.fromCoroutine(self._withdraw(lane)))
        if lane.serving is not None:
            self._check_quorum()

    def _check_quorum(self) -> None:
        left = sum(lane.state != "out" for lane in self._lanes)
        if left >= self._least or self._lost is not None:
            return
        named = "; ".join(
            f"{problem.peer.text}: {problem.text}" for problem in self._problems[-_NAMED:]
        )
        self._lost = ObjectNotPlaced(
            f"{left} of {self._scheme.total} shares can be placed, and {self._least} have to be: "
            f"nothing of the object is kept" + (f" ({named})" if named else "")
        )
        if self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            waiter.errback(self._lost)

    def _raise_if_lost(self) -> None:
        if self._lost is not None:
            raise self._lost

    def _unless_lost(self, deferred: Deferred[Any]) -> Deferred[Any]:
        """@return: Deferred that fires as C{deferred} does, and fails if too few peers are left."""
        waiter: Deferred[Any] = Deferred(lambda _: deferred.cancel())
        if self._lost is not None:
            waiter.errback(self._lost)
        else:
            self._waiter = waiter

        def deliver(result: Any) -> None:
            if self._waiter is waiter:
                self._waiter = None
            if not waiter.called:
                waiter.callback(result)

        deferred.addBoth(deliver)
        return waiter

    def _stop_lanes(self) -> None:
        self._ended = True
        for lane in self._lanes:
            lane.waiting.clear()
            if lane.serving is not None:
                lane.serving.cancel()

    async def _give_up(self) -> None:
        lanes = [lane for lane in self._lanes if lane.state != "out"]
        await DeferredList([Deferred.fromCoroutine(self._withdraw(lane)) for lane in lanes])

    async def _withdraw(self, lane: Lane) -> None:
        if lane.change is not None:
            # It may be obeyed, and then there is more to be given up.
            await never_cancelled(lane.change.addErrback(lambda _: None))
        await withdraw(
            self._tools, lane.peer, self._header.upload, lane.number, self._secret, lane.closed
        )
