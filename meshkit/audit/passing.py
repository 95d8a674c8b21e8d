"""
One pass over the objects that are looked after.

It goes through all objects that are due, a page at a time.  The shares of a page are grouped by
peers, each peer is asked about all its own at once, and many peers at the same time; one that
does not answer costs a pass one deadline, however many shares it has.  Then it is decided for
each object what is to be done (L{meshkit.audit.decisions}), and all of the page that needs nothing
is written down in one transaction.  When all pages are done, what has to be repaired is, the most
urgent first; what was known of it and is old is asked about once more before that, and each object
is written down by itself when it is done.

So a pass may be broken off anywhere, by a kill, a full disk or a stop.  What is written down
stands, and the next pass goes on with the rest, since that is still due.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

import msgspec
from attrs import define, evolve, field, frozen
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredList,
    DeferredSemaphore,
    FirstError,
)
from twisted.internet.task import deferLater
from twisted.logger import Logger

from meshkit.audit import replay, state
from meshkit.audit.decisions import (
    Budget,
    Decision,
    ObjectFacts,
    Settled,
    ShareFacts,
    Sight,
    cost_of,
    decide,
    heard,
    settle,
    shares_to_ask,
)
from meshkit.audit.replay import Happened, Line
from meshkit.audit.state import Event, Lead, Metrics, ObjectState, Run, Seen, Step
from meshkit.audit.values import (
    AskedShare,
    Auditing,
    Blame,
    Repairing,
    ShareOutcome,
    Standings,
)
from meshkit.errors import (
    MeshkitError,
    NotEnoughShares,
    NotFound,
    ObjectRemoved,
    PlacementConflict,
)
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IStoragePeers, ITrackedObjects
from meshkit.parts import shield
from meshkit.runtime.database import Database
from meshkit.storage.custody import TrackedObject
from meshkit.storage.rendezvous import Candidate, domains_of

__all__ = ["Means", "Pace", "Pass"]

_SECONDS: Final = 10**9
#: Objects, or shares, that are seen to before others have the reactor: some milliseconds.
_PIECE: Final = 64
_DAY: Final = 86_400.0

#: Objects whose repair is kept in mind until all were looked at; if there are more, the least
#: urgent wait for the next pass.
MAX_CANDIDATES: Final = 5_000
#: A verdict that is older than so many seconds is asked for again before something is repaired
#: because of it.
FRESH_SECONDS: Final = 60
#: Objects of others that are looked up in the hash table at the same time.
LOOKED_UP_AT_ONCE: Final = 16


@frozen
class Pace:
    """
    How fast a scheduler goes.  Times are in seconds.

    @ivar interval: between the end of a pass and the beginning of the next.
    @ivar peers_at_once: peers that are asked at the same time.
    @ivar repairs_at_once: objects that are repaired at the same time.
    @ivar page: objects that are in memory at the same time.
    @ivar audit_seconds: for so long one peer may take to answer for its shares of a page.
    @ivar lead_seconds: for so long the lead is taken; another scheduler waits as long if this
        one is killed.
    @ivar stop_seconds: for so long a stop waits for what is under way.
    """

    interval: float = 900.0
    peers_at_once: int = 16
    repairs_at_once: int = 2
    page: int = 500
    audit_seconds: float = 120.0
    lead_seconds: float = 60.0
    stop_seconds: float = 15.0


@frozen
class Means:
    """
    What passes are made with.

    @ivar database: with the tables of L{meshkit.audit.schema}.
    @ivar tracked: the objects that are looked after.
    @ivar peers: those who have their shares.
    @ivar auditing: asks them.
    @ivar repairing: makes lost shares anew.
    @ivar standings: what is thought of peers.
    @ivar reactor: for deadlines.
    @ivar wall_clock: nanoseconds since 1970.
    @ivar pace: how fast it goes.
    @ivar leaving: does a peer go?
    """

    database: Database
    tracked: ITrackedObjects
    peers: IStoragePeers
    auditing: Auditing
    repairing: Repairing
    standings: Standings
    reactor: Any
    wall_clock: Callable[[], int]
    pace: Pace
    leaving: Callable[[PublicKey], bool]

    def write(self, job: Callable[[Any], Any]) -> Deferred[Any]:
        """Write something down, whoever stops waiting for it."""
        return shield(self.database.write(job))


#: A verdict that says nothing of the share.
_SILENT: Final = frozenset({"offline", "contained", "unknown"})
_NOTHING: Final = Budget(0, 0)


@define(eq=False)
class _Object:
    """
    An object while it is looked at.

    @ivar facts: what is known of it.
    @ivar code: what was decided for it in the pass before.
    @ivar gone: it was found out that it is looked after no more.
    @ivar shares: what is heard of them while they are asked about.
    """

    tracked: TrackedObject
    facts: ObjectFacts
    code: str | None
    gone: bool = False
    shares: list[ShareFacts] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.shares = list(self.facts.shares)


@frozen(order=True)
class _Candidate:
    """
    An object that is to be repaired.  The least urgent is the smallest.
    """

    rank: float
    content_id: bytes
    facts: ObjectFacts = field(order=False)
    code: str | None = field(order=False)


def _facts(
    tracked: TrackedObject,
    shares: Sequence[ShareFacts],
    *,
    failures: int = 0,
    not_before: int = 0,
    repaired_at: int | None = None,
) -> ObjectFacts:
    """
    @param shares: what was known of the shares, perhaps at other peers.
    @return: what is known of an object as its placement says where its shares are.
    """
    found = []
    for number, placed in enumerate(tracked.document.shares):
        if placed is None:
            found.append(ShareFacts(number))
            continue
        peer = placed.peer.text
        if number < len(shares) and shares[number].peer == peer:
            found.append(msgspec.structs.replace(shares[number], lease_end=placed.lease_end))
        else:
            found.append(ShareFacts(number, peer, placed.lease_end))
    return ObjectFacts(
        tracked.content_id.hex(),
        tracked.document.version,
        tracked.manifest.header.scheme.required,
        tracked.manifest.layout.share_bytes,
        tuple(found),
        failures,
        not_before,
        repaired_at,
    )


async def _together(works: Iterable[Deferred[Any]]) -> None:
    """Wait until all are done.  If one fails, the others are cancelled, and so they are with it."""
    begun = list(works)
    try:
        await DeferredList(begun, fireOnOneErrback=True, consumeErrors=True)
    except FirstError as e:
        for each in begun:
            each.cancel()
        await DeferredList(begun)
        e.subFailure.raiseException()


class Pass:
    """One pass, from the time when it was begun."""

    _log = Logger()

    def __init__(
        self,
        means: Means,
        run: Run,
        lead: Lead,
        only: Sequence[bytes] | None,
        seen: Iterable[Seen],
    ) -> None:
        self.run = run
        self.lead = lead
        self._policy = run.policy
        self._means = means
        self._pace = means.pace
        self._only = None if only is None else list(dict.fromkeys(only))
        self._seen = {each.peer: each for each in seen}
        self._asked: dict[bytes, Seen] = {}
        # What those said who gave no verdict in this pass, and when.
        self._silent: dict[bytes, tuple[ShareOutcome, int]] = {}
        self._described: dict[bytes, Candidate] = {}
        self._domains: dict[str, str] = {}
        self._flags: dict[str, tuple[bool, bool]] = {}
        self._candidates: list[_Candidate] = []
        self._budget = Budget.of(self._policy)
        self._counts: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._codes: Counter[str] = Counter()
        self._events: list[Event] = []
        self._event_count = 0
        self._last_ns = run.begun_ns

    # --- the clock, and what happened ------------------------------------------------------

    def now_ns(self) -> int:
        """@return: the time.  It only grows."""
        self._last_ns = max(self._means.wall_clock(), self._last_ns + 1)
        return self._last_ns

    def _now(self) -> int:
        return self.now_ns() // _SECONDS

    def _note(
        self,
        kind: str,
        text: str,
        object_: bytes | None = None,
        share: int | None = None,
        peer: bytes | None = None,
    ) -> None:
        if self._event_count >= state.MAX_EVENTS:
            self._counts["unwritten"] += 1
            return
        self._event_count += 1
        self._events.append(
            Event(kind, text, object_, share, peer, self.now_ns(), self._event_count)
        )

    def metrics(self) -> Metrics:
        """@return: what was done so far."""
        return Metrics(
            **self._counts,
            outcomes=dict(sorted(self._outcomes.items())),
            codes=dict(sorted(self._codes.items())),
            recovered=self.run.metrics.recovered,
            seconds=(self.now_ns() - self.run.begun_ns) / _SECONDS,
        )

    def closing(self, kind: str, text: str) -> Step:
        """@return: what is to be written at the end."""
        self._note(kind, text)
        return self._step()

    def _step(self, objects: Sequence[ObjectState] = (), trace: Sequence[bytes] = ()) -> Step:
        events, self._events = self._events, []
        asked, self._asked = self._asked, {}
        return Step(objects, events, trace, list(asked.values()), self.metrics())

    async def _write(
        self, objects: Sequence[ObjectState] = (), trace: Sequence[bytes] = ()
    ) -> None:
        step = self._step(objects, trace)
        await self._means.write(
            partial(state.write_step, mine=self.lead, run=self.run.id, step=step)
        )

    # --- all of it -------------------------------------------------------------------------

    async def make(self) -> None:
        """Make the pass."""
        asked_for = ", as was asked for" if self.run.forced else ""
        self._note("run.begun", f"pass {self.run.id} is begun{asked_for}")
        broken = self.run.metrics.recovered
        if broken:
            self._note("run.recovered", f"passes that were broken off before: {broken}")
        # What peers say of themselves holds for half a minute, and they are not asked all the time.
        await self._means.peers.refresh()
        await (self._all() if self._only is None else self._some(self._only))
        skipped = self._counts["skipped"]
        if skipped:
            self._note("objects.skipped", f"objects that are not due: {skipped}")
        await self._repair_all()

    async def _some(self, content_ids: Sequence[bytes]) -> None:
        for start in range(0, len(content_ids), self._pace.page):
            found = []
            for content_id in content_ids[start : start + self._pace.page]:
                try:
                    found.append(await self._means.tracked.find(content_id))
                except NotFound as e:
                    self._note("object.unknown", str(e), content_id)
            await self._page(found)

    async def _all(self) -> None:
        after, page = b"", self._pace.page
        while True:
            found: Sequence[TrackedObject] = await self._means.tracked.tracked(after, page)
            last = found[-1].content_id if len(found) >= page else None
            gone = await self._means.database.read(
                partial(
                    state.untracked,
                    after=after,
                    last=last,
                    tracked=[each.content_id for each in found],
                )
            )
            if gone:
                forget = partial(state.forget, mine=self.lead, content_ids=gone)
                await self._means.write(forget)
            await self._page(found)
            if last is None:
                return
            after = last

    async def _breathe(self, count: int) -> None:
        """Let others have the reactor now and then."""
        if count % _PIECE == _PIECE - 1:
            await deferLater(self._means.reactor, 0)

    # --- a page ------------------------------------------------------------------------------

    async def _page(self, found: Sequence[TrackedObject]) -> None:
        """Ask about the objects of a page that are due, and write down what needs no repair."""
        self._counts["objects"] += len(found)
        known = await self._means.database.read(
            partial(state.objects, content_ids=[each.content_id for each in found])
        )
        now = self._now()
        wanted = [each for each in found if self._is_due(known.get(each.content_id), now)]
        due = []
        for count, tracked in enumerate(await self._latest(wanted)):
            await self._breathe(count)
            due.append(_begin(tracked, known.get(tracked.content_id)))
        self._counts["due"] += len(due)
        self._counts["skipped"] += len(found) - len(due)
        if not due:
            return
        await self._ask(
            [
                (
                    each,
                    shares_to_ask(each.facts.shares, self._policy, now, every_one=self.run.forced),
                )
                for each in due
            ]
        )
        sight = self._sight()
        states: list[ObjectState] = []
        lines: list[bytes] = []
        for count, each in enumerate(due):
            await self._breathe(count)
            if each.gone:
                self._note("object.gone", "it was removed meanwhile", each.tracked.content_id)
                continue
            decision = decide(each.facts, self._policy, sight, self._budget)
            if decision.acts:
                # Until it is its turn it stays due, so that it is not forgotten with this pass.
                due_now = Settled(each.facts.failures, each.facts.not_before, sight.now)
                states.append(ObjectState.of(self.run.id, each.facts, decision, due_now))
                crowded = self._remember(
                    _Candidate(-decision.urgency, each.tracked.content_id, each.facts, each.code)
                )
                if crowded is not None:
                    self._defer(crowded, sight, states, lines)
            else:
                self._leave(each.facts, decision, sight, self._budget, each.code, states, lines)
        await self._write(states, lines)

    async def _latest(self, wanted: Sequence[TrackedObject]) -> list[TrackedObject]:
        """
        Objects of others are looked up before their peers are asked: when an owner removes one, the
        leases of whoever repairs it are given up as well, and no peer is to be blamed for that.

        @return: objects as they are now, without those that were removed.
        """
        semaphore = DeferredSemaphore(LOOKED_UP_AT_ONCE)
        latest = {each.content_id: each for each in wanted}

        async def look(tracked: TrackedObject) -> None:
            try:
                latest[tracked.content_id] = await self._means.tracked.newest(tracked)
            except (NotFound, ObjectRemoved) as e:
                del latest[tracked.content_id]
                self._note("object.gone", str(e), tracked.content_id)
            except MeshkitError as e:
                self._log.info(
                    "whether others have moved shares of {object} is not known: {error}",
                    object=tracked.content_id.hex()[:16],
                    error=str(e),
                )

        await _together(
            semaphore.run(lambda it: Deferred.fromCoroutine(look(it)), each)
            for each in wanted
            if not each.own
        )
        return list(latest.values())

    def _is_due(self, before: ObjectState | None, now: int) -> bool:
        if before is None or self.run.forced:
            return True
        # It is never put off for longer, so if it is, the clock was set back.
        policy = self._policy
        most = max(policy.every, policy.recheck, policy.max_backoff, policy.cooldown)
        return not now < before.due_at <= now + most

    def _remember(self, candidate: _Candidate) -> _Candidate | None:
        """@return: the one that has to wait for the next pass, as there are too many."""
        if len(self._candidates) < MAX_CANDIDATES:
            heapq.heappush(self._candidates, candidate)
            return None
        return heapq.heappushpop(self._candidates, candidate)

    def _defer(
        self,
        candidate: _Candidate,
        sight: Sight,
        states: list[ObjectState],
        lines: list[bytes],
    ) -> None:
        decision = decide(candidate.facts, self._policy, sight, _NOTHING)
        self._leave(candidate.facts, decision, sight, _NOTHING, candidate.code, states, lines)

    def _leave(
        self,
        facts: ObjectFacts,
        decision: Decision,
        sight: Sight,
        budget: Budget,
        before: str | None,
        states: list[ObjectState],
        lines: list[bytes],
    ) -> None:
        """Nothing is done for an object in this pass."""
        settled = settle(facts, decision, self._policy, sight.now)
        self._codes[decision.code] += 1
        self._counts["deferred"] += len(decision.deferred)
        if decision.code not in ("healthy", before):
            self._note(f"object.{decision.code}", decision.reason, bytes.fromhex(facts.object))
        elif before not in (None, "healthy") and decision.code == "healthy":
            self._note("object.healthy", decision.reason, bytes.fromhex(facts.object))
        states.append(ObjectState.of(self.run.id, facts, decision, settled))
        lines.append(replay.encode(Line(self.now_ns(), facts, sight, budget, decision)))

    # --- asking ------------------------------------------------------------------------------

    async def _ask(self, wanted: Iterable[tuple[_Object, Sequence[int]]]) -> None:
        """
        Ask peers about shares, and take what comes of it into the facts.

        @param wanted: objects, with the numbers of the shares.
        """
        by_peer: dict[PublicKey, list[tuple[_Object, int]]] = {}
        looked_at = []
        for each, numbers in wanted:
            looked_at.append(each)
            for number in numbers:
                placed = each.tracked.document.shares[number]
                if placed is not None:
                    by_peer.setdefault(placed.peer, []).append((each, number))
        heard_of: list[tuple[_Object, ShareOutcome]] = []
        fresh: list[ShareOutcome] = []

        def ask(peer: PublicKey, shares: Sequence[tuple[_Object, int]]) -> Deferred[None]:
            return Deferred.fromCoroutine(self._ask_peer(peer, shares, heard_of, fresh))

        semaphore = DeferredSemaphore(self._pace.peers_at_once)
        await _together(semaphore.run(ask, peer, shares) for peer, shares in by_peer.items())
        now = self._now()
        for count, (each, outcome) in enumerate(heard_of):
            await self._breathe(count)
            each.shares[outcome.number] = heard(each.shares[outcome.number], outcome.outcome, now)
        failed = {
            each.content_id for each in fresh if each.outcome == "failure" and not each.blameless
        }
        suspects = {
            each.tracked.content_id: each for each in looked_at if each.tracked.content_id in failed
        }
        await _together(semaphore.run(self._look_where, each) for each in suspects.values())
        if fresh:
            # All at once: whether nobody at all was reached matters to who judges.
            excused = [_excused(each, suspects.get(each.content_id)) for each in fresh]
            await self._means.standings.record(excused, now)
        self._look_at_peers(each.tracked for each in looked_at)
        for count, each in enumerate(looked_at):
            await self._breathe(count)
            each.facts = self._flagged(each.facts, each.shares)

    def _look_where(self, each: _Object) -> Deferred[None]:
        """
        Somebody has failed to show a share: was it still for him to have it?  The object may have
        been removed here, or the share moved, while he was asked.
        """
        return Deferred.fromCoroutine(self._find_where(each))

    async def _find_where(self, each: _Object) -> None:
        tracked, facts = each.tracked, each.facts
        try:
            now = await self._means.tracked.find(tracked.content_id)
        except NotFound:
            each.gone = True
            return
        if now.document != tracked.document:
            each.tracked = now
            each.facts = _facts(
                now,
                each.shares,
                failures=facts.failures,
                not_before=facts.not_before,
                repaired_at=facts.repaired_at,
            )
            each.shares = list(each.facts.shares)

    async def _ask_peer(
        self,
        peer: PublicKey,
        shares: Sequence[tuple[_Object, int]],
        heard_of: list[tuple[_Object, ShareOutcome]],
        fresh: list[ShareOutcome],
    ) -> None:
        silent, _ = self._silent.get(peer.raw, (None, 0))
        if silent is not None:
            # It costs a deadline to find out, and was found out in this pass.
            heard_of.extend(
                (each, evolve(silent, content_id=each.tracked.content_id, number=number))
                for each, number in shares
            )
            return
        asked = [AskedShare(each.tracked, number) for each, number in shares]
        outcomes = await self._audit(peer, asked)
        self._counts["asked"] += len(outcomes)
        self._outcomes.update(each.outcome for each in outcomes)
        heard_of.extend(
            (each, outcome) for (each, _), outcome in zip(shares, outcomes, strict=True)
        )
        fresh.extend(outcomes)
        self._hear(peer, outcomes, self._now())

    async def _audit(self, peer: PublicKey, asked: Sequence[AskedShare]) -> Sequence[ShareOutcome]:
        seconds = self._pace.audit_seconds
        late = False

        def too_late(result: Any, _seconds: float) -> Any:
            nonlocal late
            late = True
            return result

        auditing: Deferred[Sequence[ShareOutcome]] = self._means.auditing.audit(peer, asked)
        try:
            return await auditing.addTimeout(seconds, self._means.reactor, too_late)
        except CancelledError:
            if not late:
                raise
            reason = f"no answer within {seconds:g} seconds"
        except MeshkitError as e:
            reason = str(e)
        except Exception:
            self._log.failure("the audit of {peer} failed", peer=peer.text)
            reason = "the audit failed"
        return [
            ShareOutcome(peer, each.tracked.content_id, each.number, "unknown", reason)
            for each in asked
        ]

    def _hear(self, peer: PublicKey, outcomes: Sequence[ShareOutcome], now: int) -> None:
        """Note what is to be known of a peer that was asked."""
        silent = [each for each in outcomes if each.outcome in _SILENT]
        all_silent = len(silent) == len(outcomes)
        if all_silent:
            self._silent[peer.raw] = (silent[0], now)
            why = silent[0].reason or "no answer"
            self._note(f"peer.{silent[0].outcome}", f"{why} (shares: {len(silent)})", peer=peer.raw)
        else:
            self._silent.pop(peer.raw, None)
        for each in outcomes:
            if each.outcome == "failure":
                self._note(
                    "share.failed",
                    each.reason or "it is not what it should be",
                    each.content_id,
                    each.number,
                    peer.raw,
                )
        before = self._seen.get(peer.raw)
        since = None
        if all_silent and silent[0].outcome == "offline":
            since = now if before is None or before.since is None else before.since
        self._seen[peer.raw] = self._asked[peer.raw] = Seen(peer.raw, now, since)

    def _sight(self) -> Sight:
        """@return: how the network is, as far as this pass has seen it."""
        now = self._now()
        lately = now - max(_DAY, 2 * self._policy.every)
        seen = [each for each in self._seen.values() if each.asked >= lately]
        away = sum(
            each.since is not None and now - each.since < self._policy.outage_grace for each in seen
        )
        return Sight(now, len(seen), away, self.run.forced)

    def _look_at_peers(self, objects: Iterable[TrackedObject]) -> None:
        """Find out what is to be known of peers that were not met before."""
        means = self._means
        keys = {
            placed.peer.raw: placed.peer
            for each in objects
            for placed in each.document.shares
            if placed is not None
        }
        fresh = [key for raw, key in keys.items() if raw not in self._described]
        if fresh:
            self._described.update((key.raw, means.peers.describe(key)) for key in fresh)
            domains = domains_of(self._described.values())
            self._domains = {PublicKey(raw).text: domain for raw, domain in domains.items()}
        # Of these one may think otherwise since they were asked.
        for key in keys.values():
            judged = means.standings.judge(key)
            refused = judged.refused is not None and not judged.passing
            # Who has said in this pass that it leaves does so, also when its word holds no more.
            left, _ = self._flags.get(key.text, (False, False))
            self._flags[key.text] = (left or means.leaving(key), refused)

    def _flagged(self, facts: ObjectFacts, shares: Sequence[ShareFacts]) -> ObjectFacts:
        """
        @param shares: what is known of them by now.
        @return: facts with all that is known of the peers.
        """
        found = []
        for share in shares:
            if share.peer is not None:
                leaving, refused = self._flags[share.peer]
                share = msgspec.structs.replace(
                    share, domain=self._domains[share.peer], leaving=leaving, refused=refused
                )
            found.append(share)
        return msgspec.structs.replace(facts, shares=tuple(found))

    # --- repairing ---------------------------------------------------------------------------

    async def _repair_all(self) -> None:
        self._candidates.sort()  # the last is the most urgent
        at_once = min(self._pace.repairs_at_once, len(self._candidates))
        await _together(Deferred.fromCoroutine(self._repair_some()) for _ in range(at_once))
        # As much was done as may be.
        while self._candidates:
            states: list[ObjectState] = []
            lines: list[bytes] = []
            sight = self._sight()
            for _ in range(min(self._pace.page, len(self._candidates))):
                self._defer(self._candidates.pop(), sight, states, lines)
            await self._write(states, lines)

    async def _repair_some(self) -> None:
        while self._candidates and self._budget.shares > 0 and self._budget.bytes > 0:
            await self._repair(self._candidates.pop())

    async def _repair(self, candidate: _Candidate) -> None:
        """Repair one object, and write down what came of it."""
        try:
            each = await self._look_again(candidate)
        except (NotFound, ObjectRemoved) as e:
            self._note("object.gone", str(e), candidate.content_id)
            await self._write()
            return
        facts, sight, budget = each.facts, self._sight(), self._budget
        decision = decide(facts, self._policy, sight, budget)
        states: list[ObjectState] = []
        lines: list[bytes] = []
        if not decision.acts:
            self._leave(facts, decision, sight, budget, each.code, states, lines)
            await self._write(states, lines)
            return
        count = len(decision.repair) + len(decision.move)
        cost = cost_of(facts, len(decision.repair), len(decision.move))
        self._budget = budget.without(count, cost)
        happened, tracked = await self._do(each, decision)
        # What was not used is for others; what it took more is not.
        self._budget = Budget(
            self._budget.shares + count - len(happened.placed),
            max(0, self._budget.bytes + cost - happened.read - happened.written),
        )
        lines.append(replay.encode(Line(self.now_ns(), facts, sight, budget, decision, happened)))
        states.append(self._outcome(each, tracked, decision, happened))
        await self._write(states, lines)

    async def _look_again(self, candidate: _Candidate) -> _Object:
        """
        @return: an object as it is now, where what was known of it is old.
        @raise NotFound: if it is looked after no more.
        @raise ObjectRemoved: if its owner has removed it.
        """
        tracked: TrackedObject = await self._means.tracked.find(candidate.content_id)
        try:
            tracked = await self._means.tracked.newest(tracked)
        except ObjectRemoved:
            if not tracked.own:
                raise
            # This node did not give it up, and whoever was given the right to repair can say so:
            # that must not let an object die of which the owner still wants to have the leases.
            self._log.warn(
                "somebody else has said that the object {object} is given up: it is repaired all "
                "the same, until it is removed here",
                object=candidate.content_id.hex()[:16],
            )
        except MeshkitError as e:
            self._log.info(
                "whether others have moved shares of {object} is not known: {error}",
                object=candidate.content_id.hex()[:16],
                error=str(e),
            )
        before = candidate.facts
        each = _Object(
            tracked,
            _facts(
                tracked,
                before.shares,
                failures=before.failures,
                not_before=before.not_before,
                repaired_at=before.repaired_at,
            ),
            candidate.code,
        )
        now = self._now()
        # Those that seem to be lost as their peers are away, and those that were moved.
        doubtful = [
            share.number
            for share in each.facts.shares
            if share.peer is not None
            and (
                share.peer != before.shares[share.number].peer
                or (share.since is not None and now - (share.at or 0) >= FRESH_SECONDS)
            )
        ]
        self._silent = {
            peer: (said, at)
            for peer, (said, at) in self._silent.items()
            if now - at < FRESH_SECONDS
        }
        await self._ask([(each, doubtful)])
        if each.gone:
            raise NotFound("it was removed meanwhile")
        return each

    async def _do(self, each: _Object, decision: Decision) -> tuple[Happened, TrackedObject]:
        """@return: what came of a repair, and the object after it."""
        tracked = each.tracked
        try:
            repaired = await self._means.repairing.repair(
                tracked,
                decision.repair,
                leaving=decision.move,
                at_most=len(decision.repair) + len(decision.move),
            )
        except CancelledError:
            raise
        except PlacementConflict as e:
            return Happened(conflict=_cut(str(e))), tracked
        except NotEnoughShares as e:
            blames = [
                Blame(placed.peer, number, str(e), lied=True)
                for number in e.wrong
                if (placed := tracked.document.shares[number]) is not None
            ]
            lied = await self._blame(tracked, blames)
            return Happened(error=_cut(str(e)), lied=lied), tracked
        except MeshkitError as e:
            return Happened(error=_cut(str(e))), tracked
        except Exception as e:
            self._log.failure("the repair of {object} failed", object=each.facts.object[:16])
            return Happened(error=_cut(f"a fault of meshkit: {e!r}")), tracked
        placed_at = dict(sorted(repaired.placed.items()))
        for number, peer in placed_at.items():
            self._note(
                "share.placed", "it was given to the peer", tracked.content_id, number, peer.raw
            )
        happened = Happened(
            {number: peer.text for number, peer in placed_at.items()},
            {number: _cut(reason) for number, reason in sorted(repaired.left.items())},
            await self._blame(tracked, repaired.blames),
            repaired.read,
            repaired.written,
        )
        return happened, repaired.tracked

    async def _blame(self, tracked: TrackedObject, blames: Sequence[Blame]) -> dict[int, str]:
        """
        Note who could not be used for a repair; that somebody has lied is held against him.

        @return: who has lied about which share.
        """
        for each in blames:
            kind = "peer.lied" if each.lied else "peer.blamed"
            self._note(kind, each.reason, tracked.content_id, each.number, each.peer.raw)
        lied = [
            ShareOutcome(each.peer, tracked.content_id, each.number, "failure", each.reason)
            for each in blames
            if each.lied
        ]
        if lied:
            await self._means.standings.record(lied, self._now())
        return {each.number: each.peer.text for each in lied}

    def _outcome(
        self, each: _Object, tracked: TrackedObject, decision: Decision, happened: Happened
    ) -> ObjectState:
        """@return: what is known of an object of which something was to be repaired."""
        facts, now, object_ = each.facts, self._now(), tracked.content_id
        self._codes[decision.code] += 1
        self._counts["deferred"] += len(decision.deferred)
        self._counts["placed"] += len(happened.placed)
        self._counts["read"] += happened.read
        self._counts["written"] += happened.written
        if happened.placed:
            self._counts["repaired"] += 1
            self._note("object.repaired", decision.reason, object_)
        if happened.failed:
            self._counts["not_repaired"] += 1
            why = happened.error or "; ".join(
                f"share {number}: {reason}" for number, reason in happened.left.items()
            )
            self._note("object.not_repaired", why, object_)
        if happened.conflict is not None:
            self._note("object.conflict", happened.conflict, object_)
        settled = settle(
            facts, decision, self._policy, now, placed=len(happened.placed), failed=happened.failed
        )
        shares = [
            heard(share, "failure", now) if happened.lied.get(share.number) == share.peer else share
            for share in facts.shares
        ]
        after = _facts(
            tracked,
            shares,
            failures=settled.failures,
            not_before=settled.not_before,
            repaired_at=now if happened.placed else facts.repaired_at,
        )
        self._look_at_peers([tracked])
        after = self._flagged(after, after.shares)
        # Nothing more is done about it in this pass; so it stands there as it is now.
        sight = msgspec.structs.replace(self._sight(), forced=False)
        next_ = decide(after, self._policy, sight, _NOTHING)
        return ObjectState.of(self.run.id, after, next_, settled)


def _cut(text: str) -> str:
    """What peers say goes into it."""
    return text[: state.MAX_TEXT]


def _excused(outcome: ShareOutcome, each: _Object | None) -> ShareOutcome:
    """@return: an outcome that is not held against a peer that need not have the share."""
    if each is None or outcome.outcome != "failure":
        return outcome
    placed = each.tracked.document.shares[outcome.number]
    if not each.gone and placed is not None and placed.peer == outcome.peer:
        return outcome
    return evolve(outcome, blameless=True)


def _begin(tracked: TrackedObject, before: ObjectState | None) -> _Object:
    if before is None:
        return _Object(tracked, _facts(tracked, ()), None)
    facts = _facts(
        tracked,
        before.shares,
        failures=before.failures,
        not_before=before.not_before,
        repaired_at=before.repaired_at,
    )
    return _Object(tracked, facts, before.code)
