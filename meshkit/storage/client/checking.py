"""
What has become of the shares of an object: asked for, kept for longer, and given up.

Each peer is asked at the same time as the others, once for each of its shares.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Any, Literal, TypeVar

from attrs import evolve, field, frozen
from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from meshkit.errors import (
    LeaseUnknown,
    ObjectDamaged,
    PeerUnreachable,
    ShareDamaged,
    ShareUnknown,
    StatementInvalid,
)
from meshkit.identity.keys import Identity, PublicKey
from meshkit.runtime.waiting import ask, problem_of
from meshkit.storage.client.values import Find, Problem, Tools
from meshkit.storage.encoding import SegmentReader
from meshkit.storage.manifest import Manifest
from meshkit.storage.placement_document import Placed, PlacementDocument
from meshkit.storage.receipts import checked_receipt, lease_end_of
from meshkit.storage.statements import Receipt
from meshkit.storage.terms import ShareStat, peer_lease_secret

__all__ = ["Checked", "Deleted", "Depth", "Renewed", "ShareState", "check", "delete", "renew"]

T = TypeVar("T")

#: C{stat} believes what peers say, C{sample} reads a block of each share, C{full} all of them.
Depth = Literal["stat", "sample", "full"]

#: C{good}; C{missing}: the peer has it no more, or nobody ever had; C{damaged}: the peer says
#: so, or what it gives is wrong; C{unreachable}: nothing is known of it.
State = Literal["good", "missing", "damaged", "unreachable"]


@frozen
class ShareState:
    """
    What is known of one share.

    @ivar state: see L{State}.
    @ivar peer: who should have it; L{None} if nobody.
    @ivar lease_end: until when, as the peer says; 0 if it says nothing.
    @ivar problem: why it is not good.
    """

    state: State
    peer: PublicKey | None = None
    lease_end: int = 0
    problem: str | None = None


@frozen
class Checked:
    """
    What is known of an object.

    @ivar shares: each of them, in order.
    @ivar required: how many suffice.
    """

    shares: tuple[ShareState, ...]
    required: int

    @property
    def good(self) -> int:
        """How many are good."""
        return sum(each.state == "good" for each in self.shares)

    @property
    def readable(self) -> bool:
        """Can it be read?"""
        return self.good >= self.required

    @property
    def whole(self) -> bool:
        """Is nothing lost?"""
        return self.good == len(self.shares)


@frozen
class Renewed:
    """
    Leases that were renewed.

    @ivar document: where the shares are, and until when.
    @ivar signed: that, signed.
    @ivar problems: of peers that have not renewed theirs; their shares stay in the document,
        with the end that was promised before.
    @ivar numbers: of the shares whose leases were renewed.
    """

    document: PlacementDocument
    signed: bytes = field(repr=False)
    problems: tuple[Problem, ...] = ()
    numbers: tuple[int, ...] = ()


@frozen
class Deleted:
    """
    An object that was given up.

    @ivar document: says that it is deleted.
    @ivar signed: that, signed.
    @ivar problems: of peers that could not be told.  They give up their shares when the leases
        end; until then one may try again, with the document from before.
    """

    document: PlacementDocument
    signed: bytes = field(repr=False)
    problems: tuple[Problem, ...] = ()


async def _of_each(
    document: PlacementDocument, work: Callable[[int, Placed], Awaitable[T]]
) -> dict[int, T | Failure]:
    """@return: what came of some work for each share that is somewhere, by number."""

    async def one(number: int, placed: Placed) -> T:
        return await work(number, placed)

    placed = {number: each for number, each in enumerate(document.shares) if each is not None}
    outcomes = await DeferredList(
        [Deferred.fromCoroutine(one(number, each)) for number, each in placed.items()],
        consumeErrors=True,
    )
    return {number: result for number, (_, result) in zip(placed, outcomes, strict=True)}


def _peer(find: Find, key: PublicKey) -> Any:
    peer = find(key)
    if peer is None:
        raise PeerUnreachable(f"it is not known where {key.text} is")
    return peer


async def check(
    tools: Tools,
    manifest: Manifest,
    document: PlacementDocument,
    find: Find,
    depth: Depth,
    rng: Random,
) -> Checked:
    """
    What has become of an object.

    @param find: gives the peers.
    @param rng: chooses the blocks of C{sample}.
    """
    layout, header = manifest.layout, manifest.header
    reader = SegmentReader(manifest, tools.codec)
    seconds = tools.config.request_seconds

    async def one(number: int, placed: Placed) -> int:
        peer, name = _peer(find, placed.peer), header.share_id(number)
        stat: ShareStat = await ask(tools.reactor, seconds, peer.stat, name)
        if (stat.size, stat.root) != (layout.share_bytes, manifest.shares[number]):
            raise ObjectDamaged("the peer has something else in the place of the share")
        segments: range | list[int] = []
        if depth == "sample":
            segments = [int(rng.random() * layout.segments)]
        elif depth == "full":
            segments = range(layout.segments)
        for segment in segments:
            piece = await ask(tools.reactor, seconds, peer.read, name, segment)
            await tools.workers.run(reader.check, segment, number, piece)
        return stat.lease_end

    outcomes = await _of_each(document, one)
    return Checked(
        tuple(_state(each, outcomes.get(number)) for number, each in enumerate(document.shares)),
        header.scheme.required,
    )


def _state(placed: Placed | None, outcome: int | Failure | None) -> ShareState:
    if placed is None or outcome is None:
        return ShareState("missing", problem="it is nowhere")
    if not isinstance(outcome, Failure):
        return ShareState("good", placed.peer, outcome)
    state: State = "unreachable"
    if outcome.check(ShareUnknown):
        state = "missing"
    elif outcome.check(ShareDamaged, ObjectDamaged):
        state = "damaged"
    return ShareState(state, placed.peer, 0, problem_of(outcome))


async def renew(
    tools: Tools,
    manifest: Manifest,
    document: PlacementDocument,
    find: Find,
    secret: bytes,
    owner: Identity,
) -> Renewed:
    """
    Have the leases of an object last their full time from now on.

    @param secret: L{meshkit.storage.terms.lease_secret} of the object.
    @param owner: has the key of the header's C{placement}.
    """
    seconds, name = tools.config.request_seconds, manifest.header.share_id

    async def one(number: int, placed: Placed) -> Receipt:
        peer = _peer(find, placed.peer)
        shown = peer_lease_secret(secret, placed.peer)
        raw = await ask(tools.reactor, seconds, peer.renew, name(number), shown)
        now = tools.now
        return checked_receipt(raw, placed.peer, manifest, number, shown, now)

    outcomes = await _of_each(document, one)
    now = tools.now
    shares = list(document.shares)
    for number, outcome in outcomes.items():
        if isinstance(outcome, Receipt):
            shares[number] = Placed(outcome.peer, lease_end_of(outcome, now))
    new = evolve(document, version=document.version + 1, shares=tuple(shares))
    return Renewed(
        new,
        new.sign(owner),
        _problems(document, outcomes),
        tuple(number for number, each in outcomes.items() if isinstance(each, Receipt)),
    )


async def delete(
    tools: Tools,
    manifest: Manifest,
    document: PlacementDocument,
    find: Find,
    secret: bytes,
    owner: Identity,
) -> Deleted:
    """
    Give an object up: at peers that answer its shares are gone then.

    @param secret: L{meshkit.storage.terms.lease_secret} of the object.
    @param owner: has the key of the header's C{placement}.
    """
    seconds, name = tools.config.request_seconds, manifest.header.share_id

    async def one(number: int, placed: Placed) -> None:
        try:
            peer = _peer(find, placed.peer)
            shown = peer_lease_secret(secret, placed.peer)
            await ask(tools.reactor, seconds, peer.release, name(number), shown)
        except (ShareUnknown, LeaseUnknown):
            return  # it is gone already

    outcomes = await _of_each(document, one)
    new = document.deleted()
    return Deleted(new, new.sign(owner), _problems(document, outcomes))


def _problems(document: PlacementDocument, outcomes: Mapping[int, Any]) -> tuple[Problem, ...]:
    found = []
    for number, outcome in sorted(outcomes.items()):
        placed = document.shares[number]
        if isinstance(outcome, Failure) and placed is not None:
            lied = outcome.check(StatementInvalid) is not None
            found.append(Problem(placed.peer, number, problem_of(outcome), lied))
    return tuple(found)
