"""
Making lost shares anew, without the key of the object and without its owner.

  1. Room for the missing shares is asked for where rendezvous hashing says
     (L{meshkit.audit.targets}), as for shares that replace others.  Who refuses, or says
     nothing, is replaced.
  2. What was lost is made of other shares (L{meshkit.audit.rebuilding}); what is good at a peer
     that leaves is copied (L{meshkit.audit.copying}), and made anew if that fails.  Shares whose
     new peers have failed meanwhile have another round, with other peers.
  3. What the new peers have signed is checked, and the places are written down
     (L{meshkit.interfaces.ITrackedObjects.swap}).  Only then the old peers are told.

Until the third step nothing counts.  If it fails, or whoever waits cancels, what was placed is
given up; if the repairer is killed, it is found again by the next repair, or ends with its
lease.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from attrs import evolve
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import Logger

from meshkit.audit.copying import copy
from meshkit.audit.delivery import Delivery
from meshkit.audit.rebuilding import close_all, rebuild
from meshkit.audit.repairing import Account, RepairConfig, RepairTools
from meshkit.audit.sources import Sources
from meshkit.audit.targets import Targets
from meshkit.audit.values import Repaired
from meshkit.errors import NotEnoughShares, NotFound
from meshkit.identity.keys import PublicKey
from meshkit.runtime.waiting import Background, Signal, never_cancelled, over
from meshkit.runtime.workers import Workers
from meshkit.storage.codecs import choose_codec
from meshkit.storage.custody import TrackedObject
from meshkit.storage.placement_document import Placed
from meshkit.storage.receipts import lease_end_of
from meshkit.storage.rendezvous import Candidate

__all__ = ["RepairConfig", "Repairer"]

T = TypeVar("T")

_NO_ROOM = "no storage peer that may have it has room for it: wait for others, or invite some"
_PUT_OFF = "put off: no more shares were to be placed at a time"


class Repairer:
    """
    Repairs objects: L{meshkit.audit.values.Repairing}.

    Any number of repairs may be under way at a time, each with some segments in memory
    (L{RepairConfig.buffer_bytes}).  It needs no node: the peers and the objects are given.
    """

    def __init__(
        self,
        peers: Any,
        objects: Any,
        *,
        reactor: Any,
        workers: Workers,
        wall_clock: Callable[[], int],
        codec: Any = None,
        config: RepairConfig | None = None,
    ) -> None:
        """
        @param peers: L{meshkit.interfaces.IStoragePeers}.
        @param objects: L{meshkit.interfaces.ITrackedObjects}.
        @param reactor: C{IReactorTime}.
        @param workers: are running.
        @param wall_clock: nanoseconds since 1970.
        @param codec: L{meshkit.interfaces.IErasureCodec}; without it the fastest.
        """
        self._peers = peers
        self._objects = objects
        self._tools = RepairTools(
            reactor,
            workers,
            wall_clock,
            choose_codec() if codec is None else codec,
            config or RepairConfig(),
        )
        self._running: dict[Deferred[Any], None] = {}

    def repair(
        self,
        tracked: TrackedObject,
        lost: Sequence[int],
        *,
        leaving: Sequence[int] = (),
        at_most: int | None = None,
    ) -> Deferred[Repaired]:
        """
        See L{meshkit.audit.values.Repairing.repair}.  To cancel it gives up what was not
        written down, at all peers, before it fires.

        @raise ValueError: if there are no such shares, one comes twice, or one that leaves is
            nowhere.
        """
        repair = _Repair(self._tools, self._peers, self._objects, tracked, lost, leaving, at_most)
        return self._track(repair.run())

    def stop(self) -> Deferred[None]:
        """
        Give up everything.

        @return: Deferred that fires when nothing is under way any more: peers that hang are
            waited for no longer than their deadlines.
        """
        running = list(self._running)
        ended = DeferredList([over(each) for each in running])
        for each in running:
            each.cancel()
        return ended.addCallback(lambda _: self.quiet())

    def quiet(self) -> Deferred[None]:
        """@return: Deferred that fires when peers were told what was given up until now."""
        return self._tools.background.quiet().addCallback(lambda _: None)

    def _track(self, work: Coroutine[Any, Any, T]) -> Deferred[T]:
        deferred: Deferred[T] = Deferred.fromCoroutine(work)
        self._running[deferred] = None

        def ended(result: Any) -> Any:
            del self._running[deferred]
            return result

        return deferred.addBoth(ended)


class _Repair:
    """The repair of one object, once.  See the module."""

    _log = Logger()

    def __init__(
        self,
        tools: RepairTools,
        peers: Any,
        objects: Any,
        tracked: TrackedObject,
        lost: Sequence[int],
        leaving: Sequence[int],
        at_most: int | None,
    ) -> None:
        shares = tracked.document.shares
        wanted = [*lost, *leaving]
        if any(not 0 <= number < len(shares) for number in wanted):
            raise ValueError(f"the object has {len(shares)} shares, and not all of {wanted}")
        if len(set(wanted)) < len(wanted):
            raise ValueError(f"some share comes twice in {wanted}")
        if any(shares[number] is None for number in leaving):
            raise ValueError("a share that is nowhere cannot leave")
        self._tools = evolve(tools, background=Background())
        self._later = tools.background
        self._peers = peers
        self._objects = objects
        self._tracked = tracked
        self._manifest = tracked.manifest
        self._lost = frozenset(lost)
        # Those that leave, as long as they can be read there.
        self._copied = set(leaving)
        most = self._tools.config.at_once(self._manifest.header.scheme)
        self._wanted = wanted[: most if at_most is None else min(at_most, most)]
        self._left = dict.fromkeys(wanted[len(self._wanted) :], _PUT_OFF)
        self._account = Account()
        self._changed = Signal()
        self._placed: dict[int, PublicKey] = {}
        self._deliveries: dict[int, Delivery] = {}
        self._writing: Deferred[None] | None = None
        self._too_few: NotEnoughShares | None = None

    # --- the whole of it -------------------------------------------------------------------

    async def run(self) -> Repaired:
        """
        @return: what was done.
        @raise NotEnoughShares: if nothing could be, as too few shares are good.
        @raise PlacementConflict: if somebody else has moved shares of the object.
        """
        try:
            await self._run()
        except GeneratorExit:
            raise
        except BaseException:
            await never_cancelled(Deferred.fromCoroutine(self._give_up()))
            raise
        self._later.add(self._tools.background.quiet())
        return Repaired(
            self._tracked,
            dict(sorted(self._placed.items())),
            dict(sorted(self._left.items())),
            self._account.blames,
            self._account.read,
            self._account.written,
        )

    async def _run(self) -> None:
        if not self._wanted:
            return
        sources = self._sources()
        if not self._copied.intersection(self._wanted):
            # Before anybody is asked for room.
            sources.check()
        await self._refresh()
        targets = self._targets()
        for _ in range(self._tools.config.rounds):
            await self._find_room(targets)
            if not self._deliveries:
                break
            await self._go_on(sources)
            again = self._settle(targets)
            if not again:
                break
        if self._too_few is not None and not self._placed:
            raise self._too_few
        for number, delivery in self._deliveries.items():
            # Its peer has room, and what was to be copied could not be read.
            self._left[number] = "it could not be copied from where it is, nor made anew"
            delivery.drop(self._left[number])
        self._deliveries.clear()

    async def _go_on(self, sources: Sources) -> None:
        """Have all shares kept for which there is room, as far as that can be done."""
        there = [each for each in self._deliveries.values() if each.complete]
        await close_all(there, self._changed)
        # What was lost is more urgent than what leaves.
        made = self._open(lambda number: number not in self._copied)
        if made:
            try:
                await rebuild(self._tools, self._manifest, sources, made, self._changed)
            except NotEnoughShares as e:
                self._too_few = e
                for each in made:
                    each.drop(str(e))
        await self._write_down()
        for delivery in self._open(lambda number: number in self._copied):
            source = self._holder(delivery.number)
            if not await copy(
                self._tools, self._account, self._manifest, source, delivery, self._changed
            ):
                self._copied.remove(delivery.number)
        await self._write_down()

    def _open(self, which: Callable[[int], bool]) -> list[Delivery]:
        return [
            each
            for number, each in sorted(self._deliveries.items())
            if each.state == "open" and which(number)
        ]

    def _settle(self, targets: Targets) -> bool:
        """
        Note what came of a round.

        @return: whether there is anything for another one.
        """
        again = False
        for number, delivery in tuple(self._deliveries.items()):
            if delivery.state == "out":
                del self._deliveries[number]
                targets.refuse(number)
                self._left[number] = f"{delivery.key.text}: {delivery.problem}"
            again = True
        return again and self._too_few is None

    # --- whom to read from, and whom to give -----------------------------------------------

    def _holder(self, number: int) -> Any:
        placed = self._tracked.document.shares[number]
        assert placed is not None
        return self._peers.find(placed.peer)

    def _sources(self) -> Sources:
        good = [
            number
            for number, placed in enumerate(self._tracked.document.shares)
            if placed is not None and number not in self._lost
        ]
        holders = {number: self._holder(number) for number in good}
        return Sources(self._tools, self._account, self._manifest, holders)

    def _candidates(self) -> Sequence[Candidate]:
        size = self._manifest.layout.share_bytes
        found: Sequence[Candidate] = self._peers.candidates(size, repair=True)
        return found

    async def _refresh(self) -> None:
        """Ask the peers for room that they have now.  Those that hang hold up no repair."""
        refreshing = maybeDeferred(self._peers.refresh)
        waiting = over(refreshing)
        waiting.addTimeout(self._tools.config.refresh_seconds, self._tools.reactor)
        try:
            await waiting
        except DeferredTimeout:
            holders = {each.peer.raw for each in self._tracked.document.shares if each is not None}
            if sum(each.key not in holders for each in self._candidates()) < len(self._wanted):
                await over(refreshing)

    def _targets(self) -> Targets:
        shares, header = self._tracked.document.shares, self._manifest.header
        wanted = frozenset(self._wanted)
        # What is lost, and made anew another time, may come back: its peer gets nothing else.
        stay = {
            number: self._peers.describe(placed.peer)
            for number, placed in enumerate(shares)
            if placed is not None and number not in wanted
        }
        holders = {number: placed.peer.raw for number, placed in enumerate(shares) if placed}
        return Targets(
            header.upload,
            header.scheme,
            self._candidates(),
            stay,
            self._wanted,
            last=[key for number, key in holders.items() if number in self._lost],
            never=[key for number, key in holders.items() if number in self._copied],
        )

    async def _find_room(self, targets: Targets) -> None:
        """Ask peers for room, and others in place of those that have none."""
        now, config = self._tools.reactor.seconds, self._tools.config
        # Those that replace others that say nothing have one more deadline, and no more.
        end = now() + 2 * config.reserve_seconds
        asked = targets.ask()
        while asked:
            deliveries = []
            for number, candidate in asked.items():
                peer = self._peers.find(PublicKey(candidate.key))
                delivery = self._deliveries[number] = Delivery(
                    self._tools,
                    self._account,
                    self._tracked,
                    number,
                    peer,
                    self._changed.set,
                )
                deliveries.append(delivery)
            # A list that is cancelled does not say so.
            await never_cancelled(DeferredList([each.reserve() for each in deliveries]))
            for delivery in deliveries:
                self._agree(targets, delivery)
            asked = targets.ask() if now() < end else {}
        for number in self._wanted:
            if number not in self._placed and number not in self._deliveries:
                self._left.setdefault(number, _NO_ROOM)

    def _agree(self, targets: Targets, delivery: Delivery) -> None:
        number = delivery.number
        before = self._tracked.document.shares[number]
        if delivery.complete and before is not None and before.peer == delivery.key:
            delivery.drop("the storage peer that has lost the share says that it has it")
        if delivery.state == "open":
            targets.accept(number)
            return
        del self._deliveries[number]
        targets.refuse(number)
        self._left.setdefault(number, f"{delivery.key.text}: {delivery.problem}")

    # --- what counts -----------------------------------------------------------------------

    async def _write_down(self) -> None:
        """Write down who keeps shares now that were placed since the last time."""
        kept = [each for each in self._deliveries.values() if each.state == "kept"]
        if kept:
            for each in kept:
                del self._deliveries[each.number]
            writing = Deferred.fromCoroutine(self._swap(kept))
            # It is not known what came of it before it has ended.
            self._writing = over(writing)
            await never_cancelled(writing)

    async def _swap(self, kept: Sequence[Delivery]) -> None:
        """@raise PlacementConflict: if it was changed meanwhile.  Then they are given up."""
        tracked, now = self._tracked, self._tools.now
        shares = list(tracked.document.shares)
        for each in kept:
            assert each.receipt is not None
            shares[each.number] = Placed(each.key, lease_end_of(each.receipt, now))
        document = evolve(
            tracked.document, version=tracked.document.version + 1, shares=tuple(shares)
        )
        try:
            self._tracked = await maybeDeferred(self._objects.swap, tracked, document)
        except Exception:
            await self._take_back(kept)
            raise
        for each in kept:
            self._placed[each.number] = each.key
            self._left.pop(each.number, None)

    async def _take_back(self, kept: Sequence[Delivery]) -> None:
        """
        Give up what does not count.

        Another repairer of the object has the same leases, and may have chosen the same peers:
        what he has written down stays.  So does everything if it cannot be found out what is
        written down: a share too many ends with its lease.
        """
        shares: Sequence[Placed | None] = ()
        try:
            newest = await maybeDeferred(self._objects.find, self._tracked.content_id)
            shares = newest.document.shares
        except NotFound:
            pass  # it was removed meanwhile
        except Exception:
            self._log.failure("it is not known where the shares of an object are")
            return
        for each in kept:
            there = shares[each.number] if shares else None
            if there is None or there.peer != each.key:
                await each.give_up()

    async def _give_up(self) -> None:
        if self._writing is not None:
            await self._writing
        await DeferredList(
            [Deferred.fromCoroutine(each.give_up()) for each in self._deliveries.values()]
        )
        await self._tools.background.quiet()
