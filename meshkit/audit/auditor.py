"""
Auditing others: asks peers for leaves of shares that they should have, and judges what comes.

One batch, of at most L{MAX_SHARES} shares of one peer::

    what happens                             what follows
    ---------------------------------------  -----------------------------------------------------
    the peer cannot be reached, or goes      C{offline}
    before it has answered the opening
    it refuses to be asked, or its answer    C{unknown}; where it is only too early, it is asked
    cannot be used                           again a little later
    it has answered                          what it will be asked is written down
                                             (L{Containments}), and then the seed is revealed
    leaves and transcript come, and hold     C{success}, or C{failure} where it has said that it has
    together                                 not what it should, or has shown what it should not;
                                             a receipt is kept, and the note is taken away
    they do not come in time, or are         C{contained}: the note stays.  The same is asked again
    no valid answer                          before anything else, L{AuditorLimits.retry_seconds}
                                             later at the earliest
    that fails L{AuditorLimits.tries}        C{failure}, with a receipt that proves nothing
    times, or L{AuditorLimits.contained_     to others
    seconds} are over

A peer has two times its own median for a page, and L{AuditorLimits.grace} more, where the median
is that of the seconds for each share that was waited for.  When it is asked the same again it has
as long as anybody may have: it has known for a while what is asked, so haste would prove nothing.

Connections are kept for a while, as the next batch comes soon.  Whoever goes away leaves, at
worst, a note, and the audit is asked for again.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from random import Random
from statistics import median
from typing import Any, Final, Protocol, TypeVar

from attrs import define, evolve, field, frozen
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredLock,
    DeferredSemaphore,
    FirstError,
    gatherResults,
)
from twisted.internet.error import ConnectionClosed
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.logger import Logger

from meshkit.audit.challenge import AUDIT_ID_BYTES, MAX_SHARES, SEED_BYTES, Challenge, commitment
from meshkit.audit.containment import Contained, ContainedShare, Containments
from meshkit.audit.judging import Judged, Shown, check_page, judge
from meshkit.audit.transcript import (
    Answer,
    Grant,
    Opening,
    Receipt,
    ReceiptFile,
    Transcript,
    encode_evidence,
)
from meshkit.audit.values import AskedShare, Outcome, ShareOutcome
from meshkit.audit.wire import (
    AGAIN,
    LABEL,
    LEAVES,
    OPEN,
    REVEAL,
    VERSION,
    AgainRequest,
    LeavesRequest,
    OpenRequest,
    Page,
    RevealRequest,
    pages_of,
)
from meshkit.errors import (
    AuditInvalid,
    CallTimedOut,
    InvalidAnswer,
    MeshkitError,
    Overloaded,
    RemoteError,
)
from meshkit.identity.keys import Identity, PublicKey
from meshkit.parts import shield
from meshkit.rpc.links import LinkProtocol, Links
from meshkit.rpc.methods import Method
from meshkit.runtime.workers import Workers

__all__ = ["Auditor", "AuditorLimits", "ReceiptSink"]

T = TypeVar("T")

#: Milliseconds, as they are counted here.
_MS: Final = 1_000
#: What a peer says when it is only too early: it is asked again.
_EARLY: Final = frozenset({"OVER_RATE", "OVERLOADED", "AUDIT_BUSY", "STORAGE_BUSY"})
#: How often it is asked again for that reason, and seconds between, unless the peer says more.
_EARLY_TRIES: Final = 3
_EARLY_SECONDS: Final = 0.5
_LONGEST_PAUSE: Final = 10.0
#: How often a peer may refuse some of the shares of a batch.
_ROUNDS: Final = 4
#: Pages of which is remembered how long they took.
_TIMES: Final = 31
#: Peers of which that is remembered.
_MAX_KNOWN: Final = 1_024
#: Grants that were made, and are used again until half of their time is over.
_MAX_GRANTS: Final = 4_096
_GRANT_SECONDS: Final = 86_400


class ReceiptSink(Protocol):
    """Who keeps receipts: L{meshkit.audit.receipts.Receipts}."""

    def keep(
        self,
        audit_id: bytes,
        peer: PublicKey,
        judged: int,
        outcomes: Mapping[str, int],
        body: bytes,
    ) -> Deferred[None]:
        """
        @param judged: when, in seconds of Unix time.
        @param outcomes: how many of the shares had which outcome.
        @param body: the file, see L{meshkit.audit.transcript.ReceiptFile}.
        """


@frozen
class AuditorLimits:
    """
    How others are audited.

    @ivar peers: that are audited at the same time.
    @ivar batches: of one peer at the same time.
    @ivar pages: of one batch that are asked for ahead.
    @ivar grace: seconds that a page may take beyond twice the median of the peer.
    @ivar longest: seconds that a page may take at most, and as long as nothing is known.
    @ivar open_seconds: that the answer to an opening may take.
    @ivar idle_seconds: after which a connection that nobody uses is closed.
    @ivar connections: that are kept.
    @ivar tries: of an audit that is not answered.
    @ivar retry_seconds: between two of them, at least.
    @ivar contained_seconds: after which it has failed in any case.
    @ivar skew: seconds by which clocks may differ.
    """

    peers: int = 16
    batches: int = 2
    pages: int = 3
    grace: float = 2.0
    longest: float = 30.0
    open_seconds: float = 15.0
    idle_seconds: float = 600.0
    connections: int = 64
    tries: int = 3
    retry_seconds: float = 600.0
    contained_seconds: float = 48 * 3600.0
    skew: float = 120.0


@define(eq=False)
class _Peer:
    """
    What is known of a peer.

    @ivar users: audits of it that are under way, or wait.
    @ivar turn: one looks after its contained audits at a time.
    @ivar slots: for batches.
    @ivar times: seconds that its last pages took, for each share that was waited for.
    @ivar waiting: shares of pages that were asked for, and are not here.
    @ivar running: ids of audits that are under way, whose notes are no containment yet.
    @ivar contained: why it is asked nothing; L{None} if it may be.
    @ivar granted: objects for which it wanted to be shown grants.
    """

    slots: DeferredSemaphore
    users: int = 0
    turn: DeferredLock = field(factory=DeferredLock)
    times: deque[float] = field(factory=lambda: deque(maxlen=_TIMES))
    waiting: int = 0
    running: set[bytes] = field(factory=set)
    contained: str | None = None
    granted: OrderedDict[bytes, None] = field(factory=OrderedDict)


@frozen
class _Batch:
    """
    What is asked of a peer at once.

    @ivar started: when it was begun, by the reactor's clock.
    @ivar audit_id: empty as long as there was no answer.
    """

    peer: PublicKey
    state: _Peer
    shares: Sequence[AskedShare]
    started: float
    audit_id: bytes = b""


class _Ended(Exception):
    """An audit has come to nothing, and nobody has learned what was to be asked."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.reason = reason


class _Refused(Exception):
    """About some of the shares one may not ask."""

    def __init__(self, places: Sequence[int], reason: str) -> None:
        super().__init__(reason)
        self.places = places
        self.reason = reason


class _Unreached(Exception):
    """There is no connection to the peer."""


class _Unanswered(Exception):
    """The peer has learned what is asked, and has not shown it."""


class _Ours(Exception):
    """What failed here, and is no fault of the peer."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Auditor:
    """L{meshkit.audit.values.Auditing}.  See the module."""

    _log = Logger()

    def __init__(
        self,
        identity: Identity,
        network: bytes,
        peers: Any,
        connections: Any,
        containments: Containments,
        receipts: ReceiptSink,
        *,
        reactor: IReactorTime,
        rng: Random,
        wall_clock: Callable[[], int],
        workers: Workers,
        settled: Callable[[Sequence[ShareOutcome]], Deferred[None]] | None = None,
        kept: Any = None,
        limits: AuditorLimits | None = None,
    ) -> None:
        """
        @param identity: of who asks.
        @param network: id of the network, 16 bytes.
        @param peers: L{meshkit.interfaces.IStoragePeers}.
        @param connections: L{meshkit.interfaces.IConnections}.
        @param receipts: keeps what came of each audit.
        @param rng: for seeds; it has to be beyond prediction.
        @param wall_clock: nanoseconds since 1970.
        @param workers: check leaves.
        @param settled: is told what came of earlier audits of a peer, which were contained and
            have come to an end now.  Nobody else is told.
        @param kept: L{meshkit.interfaces.IShareSampler}, of shares that this node keeps itself;
            L{None} if it keeps none.
        """
        self._identity = identity
        self._network = network
        self._reactor = reactor
        self._rng = rng
        self._wall_clock = wall_clock
        self._workers = workers
        self._containments = containments
        self._receipts = receipts
        self._settled = settled
        self._kept = kept
        self.limits = AuditorLimits() if limits is None else limits

        async def endpoint(peer: PublicKey) -> IStreamClientEndpoint:
            found: IStreamClientEndpoint = connections.endpoint(
                await peers.address_of(peer), LABEL, VERSION
            )
            return found

        self._links = Links(
            reactor,
            endpoint,
            lambda peer: peer,
            most=self.limits.connections,
            idle_seconds=self.limits.idle_seconds,
        )
        self._stopped = False
        self._slots = DeferredSemaphore(self.limits.peers)
        self._peers: OrderedDict[PublicKey, _Peer] = OrderedDict()
        self._grants: OrderedDict[bytes, tuple[int, bytes]] = OrderedDict()

    def stop(self) -> Deferred[None]:
        """
        Close all connections.  Audits that are under way are cancelled by that, and none is begun
        afterwards.

        @return: Deferred that fires with L{None} when all connections are gone, soon.
        """
        self._stopped = True
        return self._links.close()

    def audit(
        self, peer: PublicKey, shares: Sequence[AskedShare]
    ) -> Deferred[Sequence[ShareOutcome]]:
        """
        See L{meshkit.audit.values.Auditing.audit}.  Fails with what the database says, where
        containments and receipts are kept.  May be cancelled at any time.
        """
        return Deferred.fromCoroutine(self._audit(peer, list(shares)))

    def deadline(self, peer: PublicKey, shares: int = 1) -> float:
        """
        @param shares: in the pages that are waited for.
        @return: seconds that a peer has for the last of them.
        """
        state = self._peers.get(peer)
        if state is None or not state.times:
            return self.limits.longest
        return min(2 * median(state.times) * shares + self.limits.grace, self.limits.longest)

    async def _audit(self, peer: PublicKey, shares: Sequence[AskedShare]) -> Sequence[ShareOutcome]:
        if not shares:
            return []
        if peer == self._identity.public:
            return await self._look(peer, shares)
        state = self._state(peer)
        state.users += 1
        try:
            await self._slots.acquire()
            try:
                return await self._audit_in_turn(peer, state, shares)
            finally:
                self._slots.release()
        finally:
            state.users -= 1

    async def _look(self, peer: PublicKey, shares: Sequence[AskedShare]) -> Sequence[ShareOutcome]:
        """
        Shares of others that this node keeps, and looks after as well.  Nobody dials himself, and
        nothing has to be proven: they are there, or not, as is noted here.
        """
        self._check_running()
        if self._kept is None:
            stats: Sequence[Any] = [None] * len(shares)
        else:
            stats = await self._kept.kept([each.name for each in shares])
        return [
            ShareOutcome(
                peer,
                each.tracked.content_id,
                each.number,
                "failure" if problem else "success",
                problem,
            )
            for each, stat in zip(shares, stats, strict=True)
            for problem in (_problem_here(each, stat),)
        ]

    def _state(self, peer: PublicKey) -> _Peer:
        state = self._peers.get(peer)
        if state is None:
            state = self._peers[peer] = _Peer(DeferredSemaphore(self.limits.batches))
        self._peers.move_to_end(peer)
        if len(self._peers) > _MAX_KNOWN:
            idle = next((key for key, each in self._peers.items() if not each.users), peer)
            if idle != peer:
                del self._peers[idle]
        return state

    async def _audit_in_turn(
        self, peer: PublicKey, state: _Peer, shares: Sequence[AskedShare]
    ) -> Sequence[ShareOutcome]:
        await self._settle(peer, state, shares)
        # Of each share one only, however often it is asked for.
        distinct = {each.name: each for each in shares}
        asked = list(distinct.values())
        found = await _together(
            [
                Deferred.fromCoroutine(
                    self._batch_in_turn(peer, state, asked[at : at + MAX_SHARES])
                )
                for at in range(0, len(asked), MAX_SHARES)
            ]
        )
        outcomes = dict(zip(distinct, (each for batch in found for each in batch), strict=True))
        return [outcomes[each.name] for each in shares]

    async def _batch_in_turn(
        self, peer: PublicKey, state: _Peer, shares: Sequence[AskedShare]
    ) -> Sequence[ShareOutcome]:
        await state.slots.acquire()
        try:
            batch = _Batch(peer, state, shares, self._reactor.seconds())
            if state.contained is not None:
                return self._all(batch, "contained", state.contained)
            return await self._batch(batch)
        finally:
            state.slots.release()

    def _now(self) -> int:
        """Milliseconds of Unix time."""
        return self._wall_clock() // 1_000_000

    def _all(self, batch: _Batch, outcome: Outcome, reason: str) -> list[ShareOutcome]:
        return [self._outcome(batch, each, outcome, reason) for each in batch.shares]

    def _outcome(
        self, batch: _Batch, share: AskedShare, outcome: Outcome, reason: str
    ) -> ShareOutcome:
        seconds = self._reactor.seconds() - batch.started
        return ShareOutcome(
            batch.peer,
            share.tracked.content_id,
            share.number,
            outcome,
            reason,
            batch.audit_id,
            seconds,
        )

    # --- for one batch

    def seconds(self) -> float:
        """Of the reactor's clock."""
        return self._reactor.seconds()

    def pause(self, seconds: float) -> Deferred[None]:
        """@return: Deferred that fires later."""
        return deferLater(self._reactor, seconds)

    def run(self, work: Callable[..., T], *args: Any) -> Deferred[T]:
        """@return: see L{Workers.run}."""
        return self._workers.run(work, *args)

    async def _take(self, peer: PublicKey) -> LinkProtocol:
        """
        @return: a connection to a peer, which is to be given back.
        @raise _Unreached: if there is none.
        """
        self._check_running()
        try:
            return await self._links.take(peer)
        except CancelledError:
            raise
        except Exception as e:
            self._check_running()
            raise _Unreached(_said(e)) from None

    def _check_running(self) -> None:
        """@raise CancelledError: if this is the end: then no peer is the reason of anything."""
        if self._stopped:
            raise CancelledError

    # --- one batch

    async def _batch(self, batch: _Batch) -> Sequence[ShareOutcome]:
        try:
            connection = await self._take(batch.peer)
        except _Unreached as e:
            return self._all(batch, "offline", f"the peer cannot be reached: {e}")
        try:
            return await self._ask(batch, connection)
        finally:
            self._links.give_back(batch.peer)

    async def _ask(self, batch: _Batch, connection: LinkProtocol) -> Sequence[ShareOutcome]:
        """Ask about all shares, or about those about which one may ask."""
        refused: dict[bytes, ShareOutcome] = {}
        found: Sequence[ShareOutcome] = ()
        left = batch.shares
        for _ in range(_ROUNDS):
            try:
                found = await self._ask_about(evolve(batch, shares=left), connection)
                break
            except _Refused as e:
                reason = f"the peer refuses to be asked: {e.reason}"
                for share in self._show_grants(batch, [left[at] for at in e.places]):
                    refused[share.name] = self._outcome(batch, share, "unknown", reason)
                left = [each for each in left if each.name not in refused]
                if not left:
                    break
        else:
            reason = "the peer refuses to be asked about shares, again and again others"
            found = self._all(evolve(batch, shares=left), "unknown", reason)
        if not refused:
            return found
        outcomes = {each.name: outcome for each, outcome in zip(left, found, strict=True)} | refused
        return [outcomes[each.name] for each in batch.shares]

    def _show_grants(self, batch: _Batch, shares: Sequence[AskedShare]) -> list[AskedShare]:
        """
        The peer wants to see that one may ask about these.

        @return: those for which it was shown that already.
        """
        granted = batch.state.granted
        shown = [each for each in shares if each.tracked.content_id in granted]
        for each in shares:
            granted[each.tracked.content_id] = None
        while len(granted) > _MAX_GRANTS:
            granted.popitem(last=False)
        return shown

    def _grants_for(self, batch: _Batch) -> list[bytes]:
        """
        Whoever may say where the shares of an object are may say who audits them, and that is
        also who looks after it.
        """
        grants: dict[bytes, bytes] = {}
        now = self._now() // _MS
        for share in batch.shares:
            tracked = share.tracked
            content_id = tracked.content_id
            if content_id in grants or (tracked.own and content_id not in batch.state.granted):
                continue
            batch.state.granted[content_id] = None
            known = self._grants.get(content_id)
            if known is None or known[0] - now < _GRANT_SECONDS // 2:
                expires = now + _GRANT_SECONDS
                signer, auditor = tracked.signer, self._identity.public
                grant = Grant(signer.public, content_id, auditor, expires).sign(signer)
                known = self._grants[content_id] = expires, grant
            self._grants.move_to_end(content_id)
            grants[content_id] = known[1]
        while len(self._grants) > _MAX_GRANTS:
            self._grants.popitem(last=False)
        return list(grants.values())

    async def _ask_about(self, batch: _Batch, connection: LinkProtocol) -> Sequence[ShareOutcome]:
        """@raise _Refused: if about some of them one may not ask."""
        try:
            seed, opening, answer = await self._open(batch, connection)
        except _Ended as e:
            return self._all(batch, e.outcome, e.reason)
        audit_id = opening.audit_id
        batch = evolve(batch, audit_id=audit_id)
        shares = tuple(_contained_share(batch.peer, each) for each in batch.shares)
        note = Contained(
            batch.peer, audit_id, opening.raw, answer.raw, seed, opening.issued, shares
        )
        batch.state.running.add(audit_id)
        try:
            try:
                await self._containments.put(note)
            except Overloaded as e:
                return self._all(batch, "unknown", f"nothing more can be written down here: {e}")
            try:
                transcript, shown = await self._show(
                    batch, connection, opening, answer, REVEAL, RevealRequest(audit_id, seed)
                )
                judged = judge(answer, transcript, shown, shares, _manifests_of(batch.shares))
            except (_Unanswered, AuditInvalid) as e:
                reason = f"the peer knew what was asked, and has given no valid answer: {e}"
                await self._containments.put(evolve(note, tries=1, tried=self._now()))
                batch.state.contained = reason
                return self._all(batch, "contained", reason)
            return await self._conclude(batch, note, opening, answer, transcript, judged)
        finally:
            batch.state.running.discard(audit_id)

    async def _open(self, batch: _Batch, connection: LinkProtocol) -> tuple[bytes, Opening, Answer]:
        """@raise _Ended: if nothing comes of it."""
        tries = 0
        while True:
            seed = self._rng.randbytes(SEED_BYTES)
            opening = Opening.make(
                self._identity,
                self._network,
                batch.peer,
                self._rng.randbytes(AUDIT_ID_BYTES),
                commitment(seed),
                self._now(),
                [each.name for each in batch.shares],
            )
            request = OpenRequest(opening.raw, self._grants_for(batch))
            try:
                raw = await connection.call(OPEN, request, timeout=self.limits.open_seconds)
                answer = Answer.open(raw, opening)
                apart = abs(answer.answered - self._now()) / _MS
                if apart > self.limits.skew:
                    raise AuditInvalid(f"its clock and the one here are {apart:.0f} seconds apart")
                return seed, opening, answer
            except RemoteError as e:
                places = _places_in(e, len(batch.shares))
                if places:
                    raise _Refused(places, _said(e)) from None
                tries += 1
                if e.code not in _EARLY or tries > _EARLY_TRIES:
                    raise _Ended("unknown", f"the peer refuses to be asked: {_said(e)}") from None
                await deferLater(self._reactor, _pause(e))
            except (AuditInvalid, InvalidAnswer) as e:
                reason = f"what the peer has answered cannot be used: {e}"
                raise _Ended("unknown", reason) from None
            except (MeshkitError, ConnectionClosed) as e:
                self._check_running()
                if isinstance(e, CallTimedOut):
                    # It may be gone without a word.
                    connection.abort()
                raise _Ended("offline", f"the peer went away: {_said(e)}") from None

    async def _show(
        self,
        batch: _Batch,
        connection: LinkProtocol,
        opening: Opening,
        answer: Answer,
        method: Method[Any, Page],
        first: Any,
    ) -> tuple[Transcript, list[Shown]]:
        """
        Have all leaves shown.

        @param method: gives the first page.
        @param first: its request.
        @raise _Unanswered: if they are not.
        @raise Exception: if that is no fault of the peer.
        """
        showing = _Showing(self, batch, connection, opening, answer)
        try:
            return await showing.show(method, first)
        except _Ours as e:
            raise e.error from None
        except (MeshkitError, ConnectionClosed) as e:
            self._check_running()
            if isinstance(e, CallTimedOut):
                connection.abort()
            raise _Unanswered(_said(e)) from None
        finally:
            showing.stop()

    async def _conclude(
        self,
        batch: _Batch,
        note: Contained,
        opening: Opening,
        answer: Answer,
        transcript: Transcript | None,
        judged: Sequence[Judged],
    ) -> Sequence[ShareOutcome]:
        """It is decided: keep a receipt, and then take the note away."""
        now = self._now()
        evidence = encode_evidence([each.evidence for each in judged if each.evidence])
        # Nobody is accused of what was not promised any more.
        verdicts: list[Outcome] = ["unknown" if each.blameless else each.outcome for each in judged]
        last = answer.raw if transcript is None else transcript.raw
        receipt = Receipt.make(self._identity, last, evidence, now, verdicts)
        body = ReceiptFile(
            opening.raw,
            answer.raw,
            None if transcript is None else transcript.raw,
            receipt.raw,
            evidence,
        ).encode()
        await shield(self._keep(note, now // _MS, Counter(each.outcome for each in judged), body))
        seconds = self._reactor.seconds() - batch.started
        return [
            ShareOutcome(
                note.peer,
                share.content_id,
                share.number,
                each.outcome,
                each.reason,
                note.audit_id,
                seconds,
                each.blameless,
            )
            for share, each in zip(note.shares, judged, strict=True)
        ]

    async def _keep(
        self, note: Contained, judged: int, outcomes: Mapping[str, int], body: bytes
    ) -> None:
        await self._receipts.keep(note.audit_id, note.peer, judged, outcomes, body)
        await self._containments.remove(note.peer, note.audit_id)

    # --- what was not answered

    async def _settle(self, peer: PublicKey, state: _Peer, shares: Sequence[AskedShare]) -> None:
        """Ask again what a peer has not answered, if it is time."""
        await state.turn.acquire()
        try:
            state.contained = None
            for note in await self._containments.of(peer):
                if note.audit_id not in state.running:
                    batch = _Batch(peer, state, shares, self._reactor.seconds(), note.audit_id)
                    state.contained = await self._ask_again(batch, note)
                    if state.contained is not None:
                        break
        finally:
            state.turn.release()

    async def _ask_again(self, batch: _Batch, note: Contained) -> str | None:
        """@return: why the peer stays contained; L{None} if it does not."""
        now = self._now()
        over = now - note.since > self.limits.contained_seconds * _MS
        wait = note.tried + self.limits.retry_seconds * _MS - now
        if wait > 0 and not over:
            return f"it has not answered an audit, and is asked again in {wait / _MS:.0f} seconds"
        try:
            opening = Opening.open(note.opening, self._identity.public)
            answer = Answer.open(note.answer, opening)
            if opening.network != self._network:
                raise AuditInvalid("it was begun in another network")
        except AuditInvalid as e:
            # Of a key or a network that this node has no more: nobody would answer to that.
            self._log.warn(
                "what {peer} has not answered is asked no more: {error}",
                peer=batch.peer.text,
                error=str(e),
            )
            await self._containments.remove(note.peer, note.audit_id)
            return None
        transcript = None
        try:
            connection = await self._take(batch.peer)
        except _Unreached as e:
            # That is no try: the same may be the matter with the network.
            if not over:
                return f"it has not answered an audit, and cannot be reached: {e}"
            judged = _given_up(answer, note)
        else:
            try:
                again = AgainRequest(note.opening, note.answer, note.seed)
                transcript, shown = await self._show(
                    batch, connection, opening, answer, AGAIN, again
                )
                manifests = _manifests_of(batch.shares)
                judged = judge(answer, transcript, shown, note.shares, manifests)
            except (_Unanswered, AuditInvalid) as e:
                transcript = None
                note = evolve(note, tries=note.tries + 1, tried=now)
                if note.tries < self.limits.tries and not over:
                    await self._containments.put(note)
                    return f"it has not answered an audit, {note.tries} times: {e}"
                judged = _given_up(answer, note)
            finally:
                self._links.give_back(batch.peer)
        outcomes = await self._conclude(batch, note, opening, answer, transcript, judged)
        if self._settled is not None:
            await self._settled(outcomes)
        return None


class _Showing:
    """One audit, from the moment its seed is shown until the transcript is there."""

    def __init__(
        self,
        auditor: Auditor,
        batch: _Batch,
        connection: LinkProtocol,
        opening: Opening,
        answer: Answer,
    ) -> None:
        self._auditor = auditor
        self._batch = batch
        self._connection = connection
        self._opening = opening
        self._answer = answer
        self._calls: deque[Deferred[Page]] = deque()
        self._checks: deque[Deferred[list[Shown]]] = deque()

    async def show(self, method: Method[Any, Page], first: Any) -> tuple[Transcript, list[Shown]]:
        """
        Ask for one page after the other, some of them ahead, and have them checked meanwhile.

        @raise Exception: why the peer does not show all; L{_Ours} if it is no fault of it.
        """
        limits, answer = self._auditor.limits, self._answer
        pages = pages_of(answer.said)
        numbers = answer.numbers(Challenge(_seed_of(first), answer.nonce), self._opening)
        shown: list[Shown] = []
        signed: bytes | None = None
        if method is AGAIN:
            # What it took before is no measure any more.
            self._batch.state.times.clear()
        self._calls.append(self._call(method, first, pages[0]))
        following = iter(range(1, len(pages)))
        for at, places in enumerate(pages):
            if at or method is REVEAL:
                for page in islice(following, limits.pages - len(self._calls)):
                    request = LeavesRequest(self._opening.audit_id, page)
                    self._calls.append(self._call(LEAVES, request, pages[page]))
            page_given = await self._calls[0]
            self._calls.popleft()
            if page_given.transcript is not None:
                signed = page_given.transcript
            said = answer.said[places.start : places.stop]
            wanted = numbers[places.start : places.stop]
            check = self._auditor.run(check_page, said, wanted, page_given.shares)
            self._checks.append(check)
            if len(self._checks) > limits.pages:
                shown += await self._checked()
        while self._checks:
            shown += await self._checked()
        if signed is None:
            raise AuditInvalid("the peer has shown leaves, and signed no transcript")
        return Transcript.open(signed, self._opening, answer), shown

    async def _checked(self) -> list[Shown]:
        """@return: what has come of the oldest page that is being checked."""
        try:
            shown = await self._checks[0]
        except (AuditInvalid, CancelledError):
            raise
        except Exception as e:
            raise _Ours(e) from None
        self._checks.popleft()
        return shown

    def _call(self, method: Method[Any, Page], request: Any, places: range) -> Deferred[Page]:
        return Deferred.fromCoroutine(self._page(method, request, len(places)))

    async def _page(self, method: Method[Any, Page], request: Any, shares: int) -> Page:
        auditor, state = self._auditor, self._batch.state
        state.waiting += shares
        try:
            # It comes behind what was asked for before.
            waited_for = state.waiting
            deadline = auditor.limits.longest
            if method is not AGAIN:
                deadline = auditor.deadline(self._batch.peer, waited_for)
            started = auditor.seconds()
            page = await self._patiently(method, request, started + deadline)
            state.times.append((auditor.seconds() - started) / waited_for)
            return page
        finally:
            state.waiting -= shares

    async def _patiently(self, method: Method[Any, Page], request: Any, until: float) -> Page:
        tries = 0
        while True:
            left = max(0.0, until - self._auditor.seconds())
            try:
                return await self._connection.call(method, request, timeout=left)
            except RemoteError as e:
                tries += 1
                # Of all that is too early, this is what comes after the seed was taken note of.
                if e.code != "STORAGE_BUSY" or tries > _EARLY_TRIES:
                    raise
                await self._auditor.pause(_EARLY_SECONDS)
                if method is REVEAL:
                    method, request = LEAVES, LeavesRequest(self._opening.audit_id, 0)

    def stop(self) -> None:
        """What is still under way is not wanted any more."""
        waiting: list[Deferred[Any]] = [*self._calls, *self._checks]
        for each in waiting:
            each.addErrback(lambda _: None)
            each.cancel()


async def _together(works: Sequence[Deferred[T]]) -> list[T]:
    """@return: what all of them give.  Where one fails, the others are cancelled."""
    try:
        return await gatherResults(works, consumeErrors=True)
    except FirstError as e:
        for each in works:
            each.cancel()
        e.subFailure.raiseException()
        raise


def _problem_here(share: AskedShare, stat: Any) -> str | None:
    if stat is None:
        return "this node does not have the share"
    if (stat.size, stat.root) != (share.size, share.root):
        return "what this node has is not the share"
    return None


def _contained_share(peer: PublicKey, share: AskedShare) -> ContainedShare:
    placed = share.tracked.document.shares[share.number]
    lease_end = 0 if placed is None or placed.peer != peer else placed.lease_end
    return ContainedShare(share.tracked.content_id, share.number, share.root, share.size, lease_end)


def _manifests_of(shares: Sequence[AskedShare]) -> Callable[[bytes], bytes]:
    def find(content_id: bytes) -> bytes:
        for each in shares:
            if each.tracked.content_id == content_id:
                return each.tracked.manifest.raw
        return b""

    return find


def _given_up(answer: Answer, note: Contained) -> list[Judged]:
    """
    @return: what it comes to that a peer does not answer any more.  What counts is what it had
        promised when it was asked, and not what is left of that when it is given up.
    """
    asked = answer.answered // _MS
    return [
        Judged(
            "failure",
            "the peer says that it does not have the share"
            if said is None
            else "the peer knew what was asked, and has never given a valid answer",
            share.lease_end <= asked,
        )
        for said, share in zip(answer.said, note.shares, strict=True)
    ]


def _seed_of(request: RevealRequest | AgainRequest) -> bytes:
    return request.seed


def _places_in(error: RemoteError, shares: int) -> list[int]:
    """@return: about which of so many shares the peer does not want to be asked."""
    if error.code != "AUDIT_REFUSED" or error.details is None:
        return []
    places = error.details.get("shares")
    if not isinstance(places, list):
        return []
    return sorted({at for at in places if type(at) is int and 0 <= at < shares})


def _pause(error: RemoteError) -> float:
    """@return: seconds after which to ask again."""
    wait = None if error.details is None else error.details.get("retry_after")
    if not isinstance(wait, int | float) or not wait >= 0:
        wait = _EARLY_SECONDS
    return min(float(wait), _LONGEST_PAUSE)


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
