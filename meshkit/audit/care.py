"""
Looking after objects: all that it takes, put together.

What is thought of peers, and what they owe, is read before anything else begins; from then on it
is told to those who choose among peers.  Then passes are made by themselves, if they are to be,
and when somebody asks for one.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from msgspec.structs import replace
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.logger import Logger

from meshkit.audit import operations as offered
from meshkit.audit import replay, showing, state
from meshkit.audit.auditor import Auditor
from meshkit.audit.config import Config
from meshkit.audit.decisions import Code, Policy
from meshkit.audit.receipts import Receipts
from meshkit.audit.repair import Repairer
from meshkit.audit.scheduler import Pace, Scheduler
from meshkit.audit.standings import PeerStandings
from meshkit.audit.state import Run
from meshkit.audit.values import AskedShare, Repaired, ShareOutcome
from meshkit.errors import InvalidRequest, NotFound, ObjectAmbiguous
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IMetrics, IShareSampler
from meshkit.operations import Page
from meshkit.parts import PartContext
from meshkit.runtime.moments import rfc3339
from meshkit.storage.capability import RepairCapability, expect_capability
from meshkit.storage.custody import TrackedObject

__all__ = ["Care"]

_SECONDS: Final = 10**9
#: Bytes of a content id, and digits of its beginning by which an object may be called.
_ID_BYTES: Final = 32
_MIN_PREFIX: Final = 8
#: Bytes of the id of an audit.
_AUDIT_BYTES: Final = 16
#: What the pass that ended last is called, and the largest number of one.
_LATEST: Final = "latest"
_MAX_RUN: Final = 2**53

_OUTCOMES: Final = ("success", "failure", "offline", "unknown", "contained")
_RESULTS: Final = ("done", "failed")
_CODES: Final[tuple[str, ...]] = Code.__args__  # type: ignore[attr-defined]


class _Counted:
    """Audits and repairs, counted on their way."""

    def __init__(self, auditor: Auditor, repairer: Repairer) -> None:
        self._auditor = auditor
        self._repairer = repairer
        self.outcomes: Counter[str] = Counter()
        self.repairs: Counter[str] = Counter()
        self.placed = 0
        self.read = 0
        self.written = 0

    def audit(
        self, peer: PublicKey, shares: Sequence[AskedShare]
    ) -> Deferred[Sequence[ShareOutcome]]:
        """See L{meshkit.audit.values.Auditing.audit}."""

        def heard(outcomes: Sequence[ShareOutcome]) -> Sequence[ShareOutcome]:
            self.outcomes.update(each.outcome for each in outcomes)
            return outcomes

        return self._auditor.audit(peer, shares).addCallback(heard)

    def repair(
        self,
        tracked: TrackedObject,
        lost: Sequence[int],
        *,
        leaving: Sequence[int] = (),
        at_most: int | None = None,
    ) -> Deferred[Repaired]:
        """See L{meshkit.audit.values.Repairing.repair}."""

        def done(repaired: Repaired) -> Repaired:
            self.repairs["failed" if repaired.left else "done"] += 1
            self.placed += len(repaired.placed)
            self.read += repaired.read
            self.written += repaired.written
            return repaired

        def failed(failure: Any) -> Any:
            self.repairs["failed"] += 1
            return failure

        repairing = self._repairer.repair(tracked, lost, leaving=leaving, at_most=at_most)
        return repairing.addCallbacks(done, failed)


class Care:
    """
    See the module.  For the reactor's thread.

    @ivar standings: what is thought of peers.
    @ivar scheduler: makes the passes.
    """

    _log = Logger()

    def __init__(self, context: PartContext, tracked: Any, peers: Any) -> None:
        """
        @param tracked: L{meshkit.interfaces.ITrackedObjects}.
        @param peers: L{meshkit.interfaces.IStoragePeers}.
        @raise ConfigError: if a setting cannot be used.
        """
        config: Config = context.config
        self._config = config
        self._context = context
        self._database = context.database
        self._tracked = tracked
        self._peers = peers
        self._standing_config = config.standing()
        self._receipts = Receipts(context.database)
        self.standings = PeerStandings(
            context.database, lambda: context.wall_clock() / _SECONDS, self._standing_config
        )
        self._auditor = Auditor(
            context.identity,
            context.network.net_id,
            peers,
            context.connections,
            self.standings,
            self._receipts,
            reactor=context.reactor,
            rng=context.rng,
            wall_clock=context.wall_clock,
            workers=context.workers,
            settled=self._settled,
            kept=context.find(IShareSampler),
        )
        self._repairer = Repairer(
            peers,
            tracked,
            reactor=context.reactor,
            workers=context.workers,
            wall_clock=context.wall_clock,
        )
        self._counted = _Counted(self._auditor, self._repairer)
        self.scheduler = Scheduler(
            context.database,
            tracked,
            peers,
            self._counted,
            self._counted,
            self.standings,
            reactor=context.reactor,
            rng=context.rng,
            wall_clock=context.wall_clock,
            policy=config.policy(),
            pace=Pace(
                interval=config.interval,
                peers_at_once=config.peers_at_once,
                repairs_at_once=config.repairs_at_once,
            ),
            leaving=self._leaves,
            ended=self._pass_ended,
            # Whoever has this database has locked its folder.
            holder=context.identity.public.raw[: state.HOLDER_BYTES],
        )
        peers.judged_by(self.standings.judge)
        self._codes: dict[str, int] = {}
        self._last: Run | None = None
        self._measure(context.metrics)

    # --- what is counted -----------------------------------------------------------------

    def _measure(self, metrics: IMetrics) -> None:
        counted = self._counted
        metrics.count(
            "audits_total",
            "Shares that peers were asked about.",
            lambda: dict(counted.outcomes),
            outcome=_OUTCOMES,
        )
        metrics.count(
            "repairs_total",
            "Objects of which shares were to be made anew.",
            lambda: dict(counted.repairs),
            result=_RESULTS,
        )
        metrics.count("placed_total", "Shares that were made anew.", lambda: counted.placed)
        metrics.count("read_bytes_total", "Bytes that repairs have read.", lambda: counted.read)
        metrics.count("sent_bytes_total", "Bytes that they have sent.", lambda: counted.written)
        metrics.gauge(
            "objects",
            "Objects that are looked after, by what was decided of them last.",
            lambda: dict(self._codes),
            decision=_CODES,
        )
        metrics.gauge(
            "refused_peers", "Peers that get nothing.", lambda: self.standings.totals().refused
        )
        metrics.gauge(
            "contained_peers",
            "Peers that owe an answer.",
            lambda: self.standings.totals().contained,
        )
        metrics.gauge(
            "last_pass_seconds", "Unix time of the end of the last good pass.", self._last_time
        )
        self._pass_seconds = metrics.histogram(
            "pass_seconds",
            "How long passes took.",
            (0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0, 1800.0, 7200.0),
        )

    def _last_time(self) -> float:
        last = self._last
        return 0.0 if last is None or last.ended_ns is None else last.ended_ns / _SECONDS

    def _leaves(self, peer: PublicKey) -> bool:
        record = self._peers.record_of(peer)
        return record is not None and bool(record.leaving)

    def _settled(self, outcomes: Sequence[ShareOutcome]) -> Deferred[None]:
        """Of earlier audits, which have come to an end now."""
        self._counted.outcomes.update(each.outcome for each in outcomes)
        return self.standings.record(outcomes, self._context.wall_clock() // _SECONDS)

    # --- from the start to the end -------------------------------------------------------

    async def start(self) -> None:
        """Read what is known, and begin."""
        await self.standings.start()
        await self._look()
        if self._config.enabled:
            self.scheduler.start()

    async def stop(self) -> None:
        """End what is under way; peers are told what is given up, for as long as they answer."""
        await self.scheduler.stop()
        await self._auditor.stop()
        await self._repairer.stop()

    def _pass_ended(self, run: Run) -> None:
        self._pass_seconds.observe(run.metrics.seconds)
        if run.state == "done":
            self._last = run
        looking = Deferred.fromCoroutine(self._look())
        looking.addErrback(
            lambda failure: self._log.info(
                "what objects there are is not known: {error}", error=failure.getErrorMessage()
            )
        )

    async def _look(self) -> None:
        def look(connection: Any) -> tuple[dict[str, int], Run | None]:
            done = (run for run in state.runs(connection, state.MAX_RUNS) if run.state == "done")
            return state.codes(connection), next(done, None)

        self._codes, self._last = await self._database.read(look)

    def status(self) -> dict[str, Any]:
        """@return: what L{offered.AuditStatus} says of it."""
        next_pass = self.scheduler.next_pass
        last = self._last
        totals = self.standings.totals()
        return {
            "running": self.scheduler.running is not None,
            "last_pass": None if last is None else rfc3339(last.ended_ns or last.begun_ns),
            "next_pass": None
            if next_pass is None
            else rfc3339(self._context.wall_clock() + int(next_pass * _SECONDS)),
            "objects": dict(self._codes),
            "refused_peers": totals.refused,
            "contained_peers": totals.contained,
        }

    def troubled(self) -> int:
        """@return: objects that cannot be read now, as far as is known."""
        return self._codes.get("lost", 0) + self._codes.get("unreachable", 0)

    # --- passes --------------------------------------------------------------------------

    async def run(self, request: offered.RunAudit) -> offered.RunShown:
        """Make a pass now."""
        objects: list[bytes] | None = None
        if request.objects:
            objects = [await self._called(text) for text in request.objects]
        policy = self.scheduler.policy
        return await self._begin(
            objects, policy if request.repair else replace(policy, repair=False)
        )

    async def repair(self, request: offered.RepairObject) -> offered.RunShown:
        """Make anew what is missing of one object, whoever may come back."""
        everything = replace(
            self.scheduler.policy,
            repair=True,
            repair_below=255,
            offline_grace=0.0,
            outage_grace=0.0,
        )
        return await self._begin([await self._called(request.object)], everything)

    async def _begin(self, objects: list[bytes] | None, policy: Policy) -> offered.RunShown:
        # Somebody waits, who may have brought new peers, or given one more room.  The pass waits
        # for the same.
        self._peers.refresh(again=True).addErrback(
            lambda failure: self._log.debug(
                "storage peers are not looked for: {error}", error=failure.getErrorMessage()
            )
        )
        run = await self.scheduler.run(objects, policy=policy)
        return showing.run_shown(await self._database.read(partial(state.find_run, run=run)))

    async def runs(self, request: offered.ListRuns) -> list[offered.RunShown]:
        """@return: the last passes."""
        found = await self._database.read(partial(state.runs, limit=request.limit))
        return [showing.run_shown(each) for each in found]

    async def show_run(self, request: offered.FindRun) -> offered.RunDetails:
        """@return: a pass, with what it found."""
        run = _run_number(request.run)
        running = self.scheduler.running
        if request.wait and running is not None and run in (None, running):
            ended = self.scheduler.when_ended()
            waited = maybeDeferred(lambda: ended)
            waited.addTimeout(
                request.wait, self._context.reactor, onTimeoutCancel=lambda _result, _timeout: None
            )
            await waited

        def read(connection: Any) -> offered.RunDetails:
            found = state.find_run(connection, run)
            lines = state.trace(connection, found.id)
            next(lines, None)  # what it says first
            return showing.run_details(
                found,
                (replay.read_line(raw, number) for number, raw in enumerate(lines, 2)),
                state.events(connection, found.id),
            )

        details: offered.RunDetails = await self._database.read(read)
        return details

    # --- objects -------------------------------------------------------------------------

    async def _called(self, text: str) -> bytes:
        """
        @param text: a content id in hex, or its beginning.
        @return: the content id of an object that is looked after.
        @raise InvalidRequest: if it is neither.
        @raise NotFound: if there is none.
        @raise ObjectAmbiguous: if several begin like that.
        """
        digits = text.strip().lower()
        if not _MIN_PREFIX <= len(digits) <= 2 * _ID_BYTES or set(digits) - set(string.hexdigits):
            raise InvalidRequest(
                f"an object is called by its id in hex, or at least {_MIN_PREFIX} digits of its "
                "beginning",
                field="object",
            )
        first = bytes.fromhex(digits.ljust(2 * _ID_BYTES, "0"))
        before = int.from_bytes(first, "big") - 1
        after = b"" if before < 0 else before.to_bytes(_ID_BYTES, "big")
        found: Sequence[TrackedObject] = await self._tracked.tracked(after, 2)
        fitting = [each.content_id for each in found if each.content_id.hex().startswith(digits)]
        if not fitting:
            raise NotFound(f"this node looks after no object {digits}")
        if len(fitting) > 1:
            raise ObjectAmbiguous(f"several objects begin with {digits}: give more digits")
        return fitting[0]

    async def watched(self, request: offered.ListWatched) -> Page:
        """@return: objects of others that are looked after."""
        found, total = await self._tracked.handed_over(request.limit, request.offset)
        shown = [showing.watched_shown(each) for each in found]
        return Page(shown, total, request.limit, request.offset)

    async def watch(self, request: offered.WatchObject) -> offered.WatchedObject:
        """Look after somebody else's object."""
        capability = expect_capability(request.capability, RepairCapability)
        return showing.watched_shown(await self._tracked.watch(capability))

    async def unwatch(self, request: offered.UnwatchObject) -> None:
        """Look after it no more."""
        await self._tracked.unwatch(await self._called(request.object))

    # --- peers and receipts --------------------------------------------------------------

    async def peers(self, _: Any) -> list[offered.PeerStanding]:
        """@return: what is thought of peers."""
        now = self._context.wall_clock() // _SECONDS
        found = []
        for each in self.standings.known():
            standing = each.standing
            online = vetted = None
            if standing is not None:
                online = standing.online(now, self._standing_config)
                vetted = standing.is_vetted(now, self._standing_config)
            found.append(showing.peer_shown(each, online, bool(vetted)))
        return found

    async def forgive(self, request: offered.ForgivePeer) -> None:
        """Let a peer begin anew."""
        await self.standings.forgive(PublicKey.parse(request.peer))

    async def receipts(self, request: offered.ListReceipts) -> list[offered.ReceiptShown]:
        """@return: the receipts that are kept."""
        peer = None if request.peer is None else PublicKey.parse(request.peer)
        return [
            showing.receipt_shown(each) for each in await self._receipts.list(request.limit, peer)
        ]

    async def receipt(self, request: offered.FindReceipt) -> bytes:
        """@return: a receipt, as a file."""
        try:
            audit_id = bytes.fromhex(request.id)
        except ValueError:
            audit_id = b""
        if len(audit_id) != _AUDIT_BYTES:
            raise InvalidRequest(f"an audit is called by {2 * _AUDIT_BYTES} hex digits", field="id")
        return await self._receipts.find(audit_id)


def _run_number(text: str) -> int | None:
    """@return: the number of a pass; L{None} is the last one."""
    if text == _LATEST:
        return None
    if not (text.isascii() and text.isdigit() and int(text[:20]) <= _MAX_RUN):
        raise InvalidRequest("a pass is called by its number, or 'latest'", field="run")
    return int(text)
