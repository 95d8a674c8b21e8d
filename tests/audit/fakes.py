"""
A world of storage peers that is only remembered: what schedulers talk to, without a network.

Everything that another room gives is here with the same shape, and obeys: peers go away, hang,
lose shares and lie when a test says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, Final

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock, deferLater
from zope.interface import implementer

from meshkit.audit.values import AskedShare, Blame, Outcome, Repaired, ShareOutcome
from meshkit.errors import (
    MeshkitError,
    NotEnoughShares,
    NotFound,
    ObjectRemoved,
    PlacementConflict,
)
from meshkit.identity.keys import Identity, PublicKey
from meshkit.interfaces import IStoragePeers, ITrackedObjects
from meshkit.storage.custody import Judgement, TrackedObject
from meshkit.storage.header import Header, new_content_key, new_upload
from meshkit.storage.manifest import Manifest
from meshkit.storage.placement_document import Placed, PlacementDocument
from meshkit.storage.rendezvous import Candidate
from meshkit.storage.scheme import Scheme
from meshkit.testing.identities import DAY_NS, make_identity

__all__ = [
    "Auditing",
    "Holder",
    "Peers",
    "Repairing",
    "Standings",
    "Tracked",
    "World",
    "make_object",
]

MONTH: Final = 31 * 86_400


def make_object(
    seed: int, peers: Sequence[PublicKey], scheme: str = "4+2", length: int = 24 * 1024
) -> TrackedObject:
    """
    @param peers: who has which share, in order; as many as the scheme has shares.
    @return: an object whose every byte follows from the seed.
    """
    rng = Random(seed)
    shape = Scheme.parse(scheme)
    signer = Identity(rng.randbytes(32))
    header = Header.new(shape, new_upload(rng), signer.public, new_content_key(rng), rng)
    root, *shares = (rng.randbytes(32) for _ in range(1 + shape.total))
    manifest = Manifest(header, length, root, tuple(shares))
    end = DAY_NS // 10**9 + MONTH
    document = PlacementDocument(manifest.content_id, 1, tuple(Placed(peer, end) for peer in peers))
    return TrackedObject(manifest, document, document.sign(signer), signer, rng.randbytes(32))


@define(eq=False)
class Holder:
    """
    A storage peer.

    @ivar shares: what it has: content id and number.
    @ivar says: what every audit of it comes to, if that does not depend on what it has.
    @ivar delay: seconds until it answers; L{None} is never.
    @ivar lies: shares that it gives wrong to who repairs.
    @ivar domain: what it says it may be lost with.
    @ivar asked: how many shares it was asked about.
    @ivar times: how many times it was.
    """

    key: PublicKey
    shares: set[tuple[bytes, int]] = field(factory=set)
    says: Outcome | None = None
    delay: float | None = 0.0
    lies: bool = False
    domain: str | None = None
    asked: int = 0
    times: int = 0
    leaving: bool = False


@implementer(ITrackedObjects)
class Tracked:
    """Objects that are looked after, in memory."""

    def __init__(self) -> None:
        self.objects: dict[bytes, TrackedObject] = {}
        #: What somebody else has made of an object, for who looks.
        self.elsewhere: dict[bytes, TrackedObject | MeshkitError] = {}
        self.swaps = 0
        self.pages: list[int] = []

    def add(self, tracked: TrackedObject) -> None:
        self.objects[tracked.content_id] = tracked

    def tracked(self, after: bytes = b"", limit: int = 500) -> Deferred[list[TrackedObject]]:
        found = sorted(each for each in self.objects if each > after)[:limit]
        self.pages.append(len(found))
        return succeed([self.objects[each] for each in found])

    def find(self, content_id: bytes) -> Deferred[TrackedObject]:
        if content_id not in self.objects:
            return fail(NotFound(f"no object {content_id.hex()[:16]} is looked after"))
        return succeed(self.objects[content_id])

    def newest(self, tracked: TrackedObject) -> Deferred[TrackedObject]:
        found = self.elsewhere.pop(tracked.content_id, None)
        if isinstance(found, ObjectRemoved):
            del self.objects[tracked.content_id]
        if isinstance(found, MeshkitError):
            return fail(found)
        if found is not None:
            self.objects[tracked.content_id] = found
        return succeed(self.objects[tracked.content_id])

    def swap(self, tracked: TrackedObject, document: PlacementDocument) -> Deferred[TrackedObject]:
        now = self.objects[tracked.content_id]
        if now.document.version != tracked.document.version:
            return fail(PlacementConflict("it was changed meanwhile"))
        self.swaps += 1
        self.objects[tracked.content_id] = tracked.with_document(document)
        return succeed(self.objects[tracked.content_id])

    def watch(self, capability: Any) -> Any:
        raise NotImplementedError("no test of passes watches an object")

    def unwatch(self, content_id: bytes) -> Any:
        raise NotImplementedError("no test of passes watches an object")

    def handed_over(self, limit: int, offset: int) -> Any:
        raise NotImplementedError("no test of passes watches an object")


@implementer(IStoragePeers)
class Peers:
    """Who there is."""

    def __init__(self, holders: Mapping[PublicKey, Holder]) -> None:
        self.holders = holders

    def find(self, key: PublicKey) -> Any:
        raise NotImplementedError("a pass talks to no peer by itself")

    address_of = record_of = find

    def candidates(self, size: int, repair: bool = False) -> list[Candidate]:
        return [self.describe(key) for key in sorted(self.holders, key=lambda key: key.raw)]

    def describe(self, key: PublicKey) -> Candidate:
        holder = self.holders.get(key)
        return Candidate(key.raw, declared=None if holder is None else holder.domain)

    def refresh(self) -> Deferred[None]:
        return succeed(None)

    def judged_by(self, judge: Callable[[Any], Any]) -> None:
        raise NotImplementedError("a pass tells nobody what it thinks")


class Auditing:
    """
    Asks holders.

    @ivar at_once: how many are being asked.
    @ivar most: how many were at the same time, at most.
    """

    def __init__(self, clock: Clock, holders: Mapping[PublicKey, Holder]) -> None:
        self._clock = clock
        self._holders = holders
        self.at_once = self.most = 0
        self.problem: Exception | None = None

    def audit(
        self, peer: PublicKey, shares: Sequence[AskedShare]
    ) -> Deferred[Sequence[ShareOutcome]]:
        holder = self._holders[peer]
        holder.asked += len(shares)
        holder.times += 1
        if self.problem is not None:
            return fail(self.problem)
        self.at_once += 1
        self.most = max(self.most, self.at_once)

        def answer() -> Sequence[ShareOutcome]:
            return [self._outcome(holder, each) for each in shares]

        def ended(result: Any) -> Any:
            self.at_once -= 1
            return result

        if holder.delay is None:
            waiting: Deferred[Sequence[ShareOutcome]] = Deferred()
        elif holder.delay:
            waiting = deferLater(self._clock, holder.delay, answer)
        else:
            waiting = succeed(answer())
        return waiting.addBoth(ended)

    @staticmethod
    def _outcome(holder: Holder, asked: AskedShare) -> ShareOutcome:
        content_id, number = asked.tracked.content_id, asked.number
        outcome: Outcome = "success"
        if holder.says is not None:
            outcome = holder.says
        elif (content_id, number) not in holder.shares:
            outcome = "failure"
        reason = None if outcome == "success" else f"it is {outcome}"
        return ShareOutcome(holder.key, content_id, number, outcome, reason)


@frozen
class Asked:
    """A repair that was asked for."""

    object: bytes
    lost: tuple[int, ...]
    leaving: tuple[int, ...]


class Repairing:
    """
    Gives shares to the holder that has fewest.

    @ivar asked: what was to be repaired, in order.
    @ivar problems: what repairs of an object fail with, each once.
    @ivar delay: seconds that a repair takes.
    """

    def __init__(self, clock: Clock, holders: Mapping[PublicKey, Holder], tracked: Tracked) -> None:
        self._clock = clock
        self._holders = holders
        self._tracked = tracked
        self.asked: list[Asked] = []
        self.problems: dict[bytes, list[Exception]] = {}
        self.delay = 0.0
        self.cancelled = 0
        #: No share is placed beyond so many of an object.
        self.room: int | None = None
        self.at_once = self.most = 0

    def repair(
        self,
        tracked: TrackedObject,
        lost: Sequence[int],
        *,
        leaving: Sequence[int] = (),
        at_most: int | None = None,
    ) -> Deferred[Repaired]:
        self.asked.append(Asked(tracked.content_id, tuple(lost), tuple(leaving)))
        if problems := self.problems.get(tracked.content_id):
            return fail(problems.pop(0))
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        waiting: Deferred[Any] = deferLater(self._clock, self.delay, lambda: None)
        if not self.delay:
            waiting.cancel()
            waiting.addErrback(lambda _: None)

        def done(result: Any) -> Any:
            self.at_once -= 1
            if result is not None:
                self.cancelled += 1
                return result
            return self._repair(tracked, [*lost, *leaving][:at_most])

        return waiting.addBoth(done)

    def _repair(self, tracked: TrackedObject, numbers: Sequence[int]) -> Deferred[Repaired]:
        size, required = (
            tracked.manifest.layout.share_bytes,
            tracked.manifest.header.scheme.required,
        )
        content_id, shares = tracked.content_id, list(tracked.document.shares)
        good, blames = 0, []
        for number, placed in enumerate(shares):
            holder = None if placed is None else self._holders[placed.peer]
            if holder is None or holder.says is not None:
                continue
            if holder.lies:
                blames.append(Blame(holder.key, number, "its block is wrong", lied=True))
            elif (content_id, number) in holder.shares:
                good += 1
        if good < required:
            return fail(NotEnoughShares(f"{good} of {required} shares can be had"))
        placed_at: dict[int, PublicKey] = {}
        left: dict[int, str] = {}
        for number in numbers:
            used = {placed.peer for placed in shares if placed is not None}
            free = [
                each
                for each in self._holders.values()
                if each.says is None and not each.leaving and each.key not in used
            ]
            if not free or (self.room is not None and len(placed_at) >= self.room):
                left[number] = "no peer has room for it"
                continue
            best = min(free, key=lambda each: (len(each.shares), each.key.raw))
            placed_at[number] = best.key
            shares[number] = Placed(best.key, DAY_NS // 10**9 + 2 * MONTH)
        document = PlacementDocument(content_id, tracked.document.version + 1, tuple(shares))

        def swapped(now: TrackedObject) -> Repaired:
            for number, key in placed_at.items():
                self._holders[key].shares.add((content_id, number))
            return Repaired(now, placed_at, left, blames, required * size, len(placed_at) * size)

        if not placed_at:
            return succeed(Repaired(tracked, placed_at, left, blames, required * size, 0))
        return self._tracked.swap(tracked, document).addCallback(swapped)


class Standings:
    """
    What is thought of peers.

    @ivar recorded: all outcomes, in order.
    @ivar keep: they are kept.
    @ivar judgements: what is thought of some of them.
    """

    def __init__(self) -> None:
        self.recorded: list[ShareOutcome] = []
        self.keep = True
        self.judgements: dict[PublicKey, Judgement] = {}

    def judge(self, peer: PublicKey) -> Judgement:
        return self.judgements.get(peer, Judgement())

    def record(self, outcomes: Sequence[ShareOutcome], now: int) -> Deferred[None]:
        if self.keep:
            self.recorded.extend(outcomes)
        return succeed(None)


class World:
    """
    Peers with shares, and all that a scheduler wants of its node.

    @ivar holders: the peers, in order.
    """

    def __init__(self, clock: Clock, peers: int = 10, *, domains: int = 0) -> None:
        """@param domains: how many failure domains the peers declare, if any."""
        self.clock = clock
        self.offset = 0.0
        self.holders: list[Holder] = []
        self.by_key: dict[PublicKey, Holder] = {}
        for number in range(peers):
            holder = Holder(make_identity(f"holder-{number}").public)
            if domains:
                holder.domain = f"rack-{number % domains}"
            self.holders.append(holder)
            self.by_key[holder.key] = holder
        self.tracked = Tracked()
        self.peers = Peers(self.by_key)
        self.auditing = Auditing(clock, self.by_key)
        self.repairing = Repairing(clock, self.by_key, self.tracked)
        self.standings = Standings()

    def wall_clock(self) -> int:
        return DAY_NS + int((self.clock.seconds() + self.offset) * 10**9)

    def now(self) -> int:
        return self.wall_clock() // 10**9

    def pass_time(self, seconds: float) -> None:
        """The wall clock is later, and nothing has happened in between."""
        self.offset += seconds

    def put(self, seed: int = 1, scheme: str = "4+2", length: int = 24 * 1024) -> TrackedObject:
        """@return: an object, whose shares the peers have."""
        total = Scheme.parse(scheme).total
        chosen = [self.holders[(seed + n) % len(self.holders)] for n in range(total)]
        tracked = make_object(seed, [each.key for each in chosen], scheme, length)
        for number, holder in enumerate(chosen):
            holder.shares.add((tracked.content_id, number))
        self.tracked.add(tracked)
        return tracked

    def holder_of(self, tracked: TrackedObject, number: int) -> Holder:
        """@return: who has a share now."""
        placed = self.tracked.objects[tracked.content_id].document.shares[number]
        assert placed is not None
        return self.by_key[placed.peer]
