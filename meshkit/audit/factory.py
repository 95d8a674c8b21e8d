"""
Being audited: says what is kept, and shows leaves of it, to those who may ask.

L{AuditFactory} does so for any L{IShareSampler <meshkit.interfaces.IShareSampler>}, on any
connections that prove who calls::

    factory = AuditFactory(reactor, identity, network_id, sampler, rng=rng,
                           wall_clock=time.time_ns)
    listener.register(capability, factory)

B{Who may ask.}  Who has a lease on a share, and whoever shows a grant of the placement key of
the object (L{meshkit.audit.transcript.Grant}).  If there is one share among them which somebody
may not ask about, the audit is refused, and is told which: what is not here is no secret to who
knows its name.

B{What it takes here.}  An audit under way is a table of names, sizes and hashes; leaves are read
when they are asked for, once, and are not held.  Each auditor has L{AuditLimits}, and so have all
together.  An audit that was asked for is remembered as long as its opening would be taken: so
nobody gets two answers to one opening, or two to one commitment.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

from attrs import define, field, frozen
from twisted.internet.defer import DeferredSemaphore
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from meshkit.audit.challenge import NONCE_BYTES, Challenge
from meshkit.audit.transcript import Answer, Grant, Opening, Said, Transcript
from meshkit.audit.wire import (
    AGAIN,
    LEAVES,
    OPEN,
    REVEAL,
    AgainRequest,
    LeavesRequest,
    OpenRequest,
    Page,
    RevealRequest,
    pages_of,
)
from meshkit.crypto.samples import Samples
from meshkit.errors import (
    AuditBusy,
    AuditInvalid,
    AuditRefused,
    AuditReplayed,
    AuditStale,
    AuditUnknown,
    OverRate,
)
from meshkit.identity.keys import Identity, PublicKey
from meshkit.rpc.methods import Dispatcher
from meshkit.rpc.protocol import RPCFactory, RPCProtocol
from meshkit.runtime.limits import PeerBuckets
from meshkit.runtime.workers import Workers

__all__ = ["AuditFactory", "AuditFigures", "AuditLimits"]

#: Shares that an error names.
MAX_NAMED: Final = 1_024
#: Grants that were verified, and are remembered.
MAX_KNOWN_GRANTS: Final = 4_096


@frozen
class AuditLimits:
    """
    What auditors may ask for.

    @ivar audits_per_second: that one may begin.
    @ivar audits_burst: those that it may begin at once, after it was quiet.
    @ivar shares_per_second: about which one may ask.  A grant that is new counts as a share.
    @ivar shares_burst: likewise, at once.
    @ivar under_way: audits of one auditor at the same time.
    @ivar under_way_in_all: audits of all.
    @ivar hollow: of them, those of shares of which none is here.
    @ivar seconds: after which an audit under way is given up if nothing is asked of it.
    @ivar skew: seconds by which the clocks may differ.
    @ivar remembered: audits that are remembered, so that none is answered twice.
    @ivar pages: that are read at the same time.
    """

    audits_per_second: float = 10.0
    audits_burst: float = 20.0
    shares_per_second: float = 2_000.0
    shares_burst: float = 4_096.0
    under_way: int = 4
    under_way_in_all: int = 64
    hollow: int = 16
    seconds: float = 60.0
    skew: float = 120.0
    remembered: int = 65_536
    pages: int = 8


@frozen
class AuditFigures:
    """
    How much was asked.

    @ivar under_way: audits that are not at their end.
    @ivar answered: audits that were answered.
    @ivar shown: audits of which all leaves were shown.
    @ivar shares: of which leaves were shown.
    @ivar missing: shares that were asked for and are not here.
    @ivar given_up: audits that were answered, and of which the rest was not asked for in time.
    """

    under_way: int
    answered: int
    shown: int
    shares: int
    missing: int
    given_up: int


@define(eq=False)
class _Audit:
    """
    An audit under way.

    @ivar auditor: who asks.
    @ivar opening: what it asked.
    @ivar answer: what was said; L{None} as long as that is not known.
    @ivar hollow: nothing is here of what it asks about.
    @ivar timer: gives it up.
    @ivar seed: empty as long as it is not revealed.
    @ivar numbers: the leaves that are asked for.
    @ivar waiting: numbers of the pages that were not asked for yet.
    @ivar left: pages that were not given.
    @ivar digests: what was shown of each share.
    """

    auditor: PublicKey
    opening: Opening
    answer: Answer | None = None
    hollow: bool = False
    timer: IDelayedCall | None = None
    seed: bytes = b""
    numbers: list[list[int]] = field(factory=list)
    pages: list[range] = field(factory=list)
    waiting: set[int] = field(factory=set)
    left: int = 0
    digests: list[bytes | None] = field(factory=list)


class AuditFactory(RPCFactory):
    """See the module."""

    def __init__(
        self,
        reactor: IReactorTime,
        identity: Identity,
        network: bytes,
        sampler: Any,
        *,
        rng: Random,
        wall_clock: Callable[[], int],
        workers: Workers,
        limits: AuditLimits | None = None,
    ) -> None:
        """
        @param identity: of this peer.
        @param network: its id, 16 bytes.
        @param sampler: L{meshkit.interfaces.IShareSampler}.
        @param rng: for what is random in the answers; that has to be beyond prediction.
        @param wall_clock: nanoseconds since 1970.
        @param workers: check the signatures of grants.
        """
        self.limits = AuditLimits() if limits is None else limits
        dispatcher = Dispatcher()
        dispatcher.serve(OPEN, self._open)
        dispatcher.serve(REVEAL, self._reveal)
        dispatcher.serve(AGAIN, self._again)
        dispatcher.serve(LEAVES, self._leaves)
        buckets = PeerBuckets(self.limits.audits_per_second, self.limits.audits_burst)
        super().__init__(reactor, dispatcher, buckets=buckets)
        self._identity = identity
        self._network = network
        self._sampler = sampler
        self._rng = rng
        self._wall_clock = wall_clock
        self._workers = workers
        self._shares = PeerBuckets(self.limits.shares_per_second, self.limits.shares_burst)
        self._audits: dict[tuple[PublicKey, bytes], _Audit] = {}
        self._reading = DeferredSemaphore(self.limits.pages)
        # What was asked for, by auditor and id or commitment, and when it may be forgotten.
        self._remembered: OrderedDict[tuple[PublicKey, bytes], int] = OrderedDict()
        # Openings that are older may have been answered before we were started.
        self._started = self._now()
        self._grants: OrderedDict[bytes, Grant] = OrderedDict()
        self._answered = self._shown = self._shares_shown = self._missing = self._given_up = 0

    def figures(self) -> AuditFigures:
        """@return: how much was asked."""
        return AuditFigures(
            len(self._audits),
            self._answered,
            self._shown,
            self._shares_shown,
            self._missing,
            self._given_up,
        )

    def stop(self) -> None:
        """Forget all audits that are under way."""
        for audit in list(self._audits.values()):
            self._close(audit)

    def _now(self) -> int:
        """Milliseconds of Unix time."""
        return self._wall_clock() // 1_000_000

    # --- open

    async def _open(self, connection: RPCProtocol, request: OpenRequest) -> bytes:
        auditor = _caller(connection)
        opening = Opening.open(request.opening, auditor)
        self._check_for_us(opening)
        self._check_time(opening)
        # A grant that is to be verified costs about as much as a share.
        new = sum(raw not in self._grants for raw in request.grants)
        self._charge(auditor, len(opening.names) + new)
        audit = self._admit(auditor, opening)
        try:
            stats = await self._sampler.kept(opening.names)
            await self._check_rights(auditor, opening, stats, request.grants)
            if any(each is not None for each in stats):
                self._remember(audit)
            else:
                self._check_hollow(audit)
        except BaseException:
            self._close(audit)
            raise
        said = [None if each is None else Said(each.size, each.root) for each in stats]
        nonce = self._rng.randbytes(NONCE_BYTES)
        audit.answer = Answer.make(self._identity, opening, nonce, self._now(), said)
        self._answered += 1
        self._missing += said.count(None)
        return audit.answer.raw

    def _check_for_us(self, opening: Opening) -> None:
        if opening.peer != self._identity.public:
            raise AuditInvalid("the opening of the audit is for another peer")
        if opening.network != self._network:
            raise AuditInvalid("the opening of the audit is for another network")

    def _check_time(self, opening: Opening) -> None:
        now, skew = self._now(), int(self.limits.skew * 1000)
        if abs(now - opening.issued) > skew:
            raise AuditStale(
                f"the audit was begun {(now - opening.issued) / 1000:.0f} seconds ago by the clock "
                f"here, which may be {skew // 1000} at most: are both clocks right?"
            )
        if opening.issued < self._started:
            raise AuditStale("the audit was begun before this peer was started: begin it anew")

    def _charge(self, auditor: PublicKey, shares: int) -> None:
        wait = self._shares.take(auditor, shares, self._reactor.seconds())
        if wait == PeerBuckets.BEYOND:
            wait = self.limits.shares_burst / self.limits.shares_per_second
        if wait > 0:
            raise OverRate(
                f"too many shares were asked about: ask again in {wait:.3f} s",
                retry_after=round(wait, 3),
            )

    def _admit(self, auditor: PublicKey, opening: Opening) -> _Audit:
        mine = sum(each.auditor == auditor for each in self._audits.values())
        if mine >= self.limits.under_way or len(self._audits) >= self.limits.under_way_in_all:
            raise AuditBusy(
                f"{mine} audits of yours and {len(self._audits)} in all are under way here: end "
                "one, or try again in a moment"
            )
        key = auditor, opening.audit_id
        if key in self._audits:
            raise AuditReplayed("this audit is under way already")
        audit = self._audits[key] = _Audit(auditor, opening)
        audit.timer = self._reactor.callLater(self.limits.seconds, self._give_up, audit)
        return audit

    def _check_hollow(self, audit: _Audit) -> None:
        """
        To ask about what is not here needs no right.  So those who have nothing here may not
        keep out those who have.

        @raise AuditBusy: if there are enough of them.
        """
        if sum(each.hollow for each in self._audits.values()) >= self.limits.hollow:
            raise AuditBusy("too many ask about shares that are not here: try again in a moment")
        audit.hollow = True

    def _remember(self, audit: _Audit) -> None:
        """@raise AuditReplayed: if the same was asked before."""
        now = self._now()
        while self._remembered and next(iter(self._remembered.values())) <= now:
            self._remembered.popitem(last=False)
        keys = [(audit.auditor, audit.opening.audit_id), (audit.auditor, audit.opening.commitment)]
        if any(key in self._remembered for key in keys):
            raise AuditReplayed("this was asked before: begin another audit, with another seed")
        if len(self._remembered) + len(keys) > self.limits.remembered:
            # Nothing may be forgotten before its time.
            raise AuditBusy("too many audits were asked for: try again in some minutes")
        for key in keys:
            self._remembered[key] = now + int(self.limits.skew * 2_000) + 1

    async def _check_rights(
        self,
        auditor: PublicKey,
        opening: Opening,
        stats: Sequence[Any],
        grants: Sequence[bytes],
    ) -> None:
        may, names = self._sampler.may_audit, opening.names
        without = [
            at
            for at, stat in enumerate(stats)
            if stat is not None and not may(auditor.raw, names[at])
        ]
        if without and grants:
            placements = await self._sampler.placements_of([names[at] for at in without])
            granted = await self._granted(auditor, grants)
            without = [
                at
                for at, placement in zip(without, placements, strict=True)
                if placement is None or placement not in granted
            ]
        if without:
            raise AuditRefused(
                f"you have no lease on {len(without)} of these shares, and show no grant for them "
                "that holds",
                shares=without[:MAX_NAMED],
            )

    async def _granted(
        self, auditor: PublicKey, grants: Sequence[bytes]
    ) -> set[tuple[PublicKey, bytes]]:
        """@return: placement keys and ids of objects that somebody may ask about."""
        now = self._now() // 1000
        new = [raw for raw in grants if raw not in self._grants]
        if new:
            opened = await self._workers.run(_open_grants, new)
            for raw, grant in zip(new, opened, strict=True):
                self._grants[raw] = grant
        granted = set()
        for raw in grants:
            grant = self._grants[raw]
            self._grants.move_to_end(raw)
            if grant.holds(auditor, now):
                granted.add((grant.placement, grant.content_id))
        while len(self._grants) > MAX_KNOWN_GRANTS:
            self._grants.popitem(last=False)
        return granted

    # --- show

    async def _reveal(self, connection: RPCProtocol, request: RevealRequest) -> Page:
        audit = self._find(_caller(connection), request.audit)
        if audit.answer is None or audit.seed:
            raise AuditUnknown("this audit is not one that waits for its seed")
        audit.opening.check_seed(request.seed)
        self._begin_showing(audit, audit.answer, request.seed)
        return await self._page(audit, 0)

    async def _again(self, connection: RPCProtocol, request: AgainRequest) -> Page:
        auditor = _caller(connection)
        opening = Opening.open(request.opening, auditor)
        self._check_for_us(opening)
        answer = Answer.open(request.answer, opening)
        opening.check_seed(request.seed)
        self._charge(auditor, len(opening.names))
        under_way = self._audits.get((auditor, opening.audit_id))
        if under_way is not None:
            # Of a connection that was lost, of which we may not know yet.
            self._close(under_way)
        audit = self._admit(auditor, opening)
        audit.answer = answer
        self._begin_showing(audit, answer, request.seed)
        return await self._page(audit, 0)

    async def _leaves(self, connection: RPCProtocol, request: LeavesRequest) -> Page:
        audit = self._find(_caller(connection), request.audit)
        return await self._page(audit, request.page)

    def _begin_showing(self, audit: _Audit, answer: Answer, seed: bytes) -> None:
        audit.seed = seed
        audit.numbers = answer.numbers(Challenge(seed, answer.nonce), audit.opening)
        audit.pages = pages_of(answer.said)
        audit.waiting = set(range(len(audit.pages)))
        audit.left = len(audit.pages)
        audit.digests = [None] * len(answer.said)

    def _find(self, auditor: PublicKey, audit_id: bytes) -> _Audit:
        audit = self._audits.get((auditor, audit_id))
        if audit is None:
            raise AuditUnknown("there is no such audit under way here, or not any more")
        return audit

    async def _page(self, audit: _Audit, number: int) -> Page:
        if number not in audit.waiting or audit.answer is None:
            raise AuditUnknown(f"there is no page {number} of this audit, or it was asked for")
        audit.waiting.remove(number)
        places = [at for at in audit.pages[number] if audit.answer.said[at] is not None]
        wanted = [(audit.opening.names[at], audit.numbers[at]) for at in places]
        try:
            await self._reading.acquire()
            try:
                found = await self._sampler.leaves(wanted) if wanted else []
            finally:
                self._reading.release()
        except BaseException:
            # It says nothing of the shares, and may be asked for again.
            audit.waiting.add(number)
            raise
        shares: list[list[bytes]] = [[] for _ in audit.pages[number]]
        for at, each in zip(places, found, strict=True):
            if isinstance(each, Samples):
                audit.digests[at] = each.digest
                shares[at - audit.pages[number].start] = each.samples
                self._shares_shown += 1
            else:
                self._missing += 1
        if audit.timer is not None:
            audit.timer.reset(self.limits.seconds)
        audit.left -= 1
        return Page(shares, None if audit.left else self._conclude(audit))

    def _conclude(self, audit: _Audit) -> bytes:
        if audit.answer is None:
            raise ValueError("an audit ends when it was answered")
        self._close(audit)
        self._shown += 1
        return Transcript.make(
            self._identity, audit.opening, audit.answer, audit.seed, self._now(), audit.digests
        ).raw

    def _give_up(self, audit: _Audit) -> None:
        audit.timer = None
        self._close(audit)
        self._given_up += 1

    def _close(self, audit: _Audit) -> None:
        key = audit.auditor, audit.opening.audit_id
        if self._audits.get(key) is audit:
            del self._audits[key]
        if audit.timer is not None:
            audit.timer.cancel()
            audit.timer = None


def _caller(connection: RPCProtocol) -> PublicKey:
    if connection.key is None:
        raise AuditRefused("audits are for those who prove who they are: use a secure channel")
    return connection.key


def _open_grants(raws: Sequence[bytes]) -> list[Grant]:
    return [Grant.open(raw) for raw in raws]
