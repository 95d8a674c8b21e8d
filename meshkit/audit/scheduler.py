"""
When passes over the objects that are looked after are made (L{meshkit.audit.passing}), and by whom.

One after another, and in between a pause: they never overlap, however long they are.  And only one
scheduler makes passes at a time, whatever processes use the database: it takes the lead for that
and prolongs it while it is at work (L{meshkit.audit.state}).  If it loses it, it stops at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any, Final

import msgspec
from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.audit import state
from meshkit.audit.decisions import Policy
from meshkit.audit.passing import Means, Pace, Pass
from meshkit.audit.state import Lead, Metrics, Run, RunState
from meshkit.audit.values import Auditing, Repairing, Standings
from meshkit.errors import LeadLost, MeshkitError, PassUnderWay
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IStoragePeers, ITrackedObjects
from meshkit.runtime.database import Database

__all__ = ["Pace", "Scheduler"]

_SECONDS: Final = 10**9
#: Seconds after the start in which the first pass is begun.
_FIRST: Final = 60.0


class Scheduler:
    """
    See the module.  For the reactor's thread.

    @ivar policy: how objects are looked after.
    @ivar last: the pass that ended last, since the start; L{None} if none has.
    """

    _log = Logger()

    def __init__(
        self,
        database: Database,
        tracked: ITrackedObjects,
        peers: IStoragePeers,
        auditing: Auditing,
        repairing: Repairing,
        standings: Standings,
        *,
        reactor: Any,
        rng: Random,
        wall_clock: Callable[[], int],
        policy: Policy | None = None,
        pace: Pace | None = None,
        leaving: Callable[[PublicKey], bool] | None = None,
        ended: Callable[[Run], object] | None = None,
        holder: bytes | None = None,
    ) -> None:
        """
        @param database: with the tables of L{meshkit.audit.schema}.
        @param wall_clock: nanoseconds since 1970.
        @param leaving: does a peer go?  None does, if it is left out.
        @param ended: is told of each pass that has ended.
        @param holder: as which it takes the lead, L{state.HOLDER_BYTES} bytes.  It takes it at
            once from one of the same name that was killed: give a name only where there cannot
            be two of it, as where each has to lock a folder first.  One at random if left out.
        """
        self.policy = Policy() if policy is None else policy
        self.last: Run | None = None
        self._ended = ended
        self._pace = Pace() if pace is None else pace
        self._means = Means(
            database,
            tracked,
            peers,
            auditing,
            repairing,
            standings,
            reactor,
            wall_clock,
            self._pace,
            (lambda _key: False) if leaving is None else leaving,
        )
        self._reactor = reactor
        self._wall_clock = wall_clock
        self._rng = rng
        self._holder = rng.randbytes(state.HOLDER_BYTES) if holder is None else holder
        self._started = False
        self._next: IDelayedCall | None = None
        self._pass: Pass | None = None
        # All of a pass, with its beginning and its end; and what may be interrupted of it.
        self._whole: Deferred[None] | None = None
        self._making: Deferred[None] | None = None
        self._interrupted = False
        self._waiting: list[Deferred[Run | None]] = []

    # --- when ----------------------------------------------------------------------------------

    @property
    def holder(self) -> bytes:
        """By which others call it, L{state.HOLDER_BYTES} bytes."""
        return self._holder

    @property
    def running(self) -> int | None:
        """The pass that is under way."""
        return None if self._pass is None else self._pass.run.id

    @property
    def next_pass(self) -> float | None:
        """Seconds until the next pass by itself; L{None} if none is planned."""
        if self._next is None:
            return None
        return float(self._next.getTime() - self._reactor.seconds())

    def metrics(self) -> Metrics | None:
        """@return: what the pass that is under way has done so far."""
        return None if self._pass is None else self._pass.metrics()

    def start(self) -> None:
        """Make passes from now on, the first one soon."""
        if not self._started:
            self._started = True
            # Not all nodes of a machine at once.
            self._schedule(min(self._pace.interval, _FIRST) * self._rng.random())

    def stop(self) -> Deferred[None]:
        """
        Make no more passes.  One that is under way is interrupted; what it was about to do is due
        in the next one.

        @return: Deferred that fires when nothing is done any more, or C{stop_seconds} later.
        """
        self._started = False
        if self._next is not None:
            self._next.cancel()
            self._next = None
        if self._whole is None:
            return succeed(None)
        seconds = self._pace.stop_seconds
        ended: Deferred[None] = Deferred()

        def too_late() -> None:
            self._log.error("a pass did not stop within {seconds} s", seconds=seconds)
            ended.callback(None)

        late = self._reactor.callLater(seconds, too_late)

        def done(_: object) -> None:
            if late.active():
                late.cancel()
                ended.callback(None)

        self.when_ended().addCallback(done)
        self.interrupt()
        return ended

    def interrupt(self) -> None:
        """Have the pass that is under way stop where it is; L{when_ended} says when it has."""
        self._interrupted = True
        if self._making is not None:
            self._making.cancel()

    def _schedule(self, seconds: float) -> None:
        if self._started and self._next is None:
            self._next = self._reactor.callLater(seconds, self._by_itself)

    def _by_itself(self) -> None:
        self._next = None
        if self._whole is None:
            self._begin(None, False, self.policy).addErrback(self._not_begun)

    def _not_begun(self, failure: Failure) -> None:
        if failure.check(MeshkitError):
            self._log.info("no pass over the objects: {error}", error=str(failure.value))
        else:
            self._log.failure("no pass over the objects could be begun", failure)

    # --- making passes ---------------------------------------------------------------------------

    def run(
        self,
        objects: Sequence[bytes] | None = None,
        *,
        repair: bool | None = None,
        policy: Policy | None = None,
    ) -> Deferred[int]:
        """
        Make a pass now.

        @param objects: content ids of those to look at; L{None} is all.  All their shares are
            asked about, whenever that was done last.
        @param repair: make lost shares anew; as the policy has it, if it is left out.
        @param policy: how they are looked after this time; as always, if it is left out.
        @return: Deferred of the id of the pass, when it is begun and written down.  Fails with
            L{PassUnderWay}, with L{meshkit.errors.LeadTaken} if another scheduler makes passes,
            and with what the database says.  Cancelling it changes nothing: see L{interrupt}.
        """
        if self._whole is not None:
            which = "one" if self._pass is None else f"pass {self._pass.run.id}"
            return fail(PassUnderWay(f"{which} is under way: wait until it has ended"))
        policy = policy or self.policy
        if repair is not None:
            policy = msgspec.structs.replace(policy, repair=repair)
        return self._begin(objects, True, policy).addCallback(lambda run: run.id)

    def when_ended(self) -> Deferred[Run | None]:
        """
        @return: Deferred of the pass that is under way, when it has ended; of the last one if
            none is.  It does not fail: C{state} and C{error} say how it ended.
        """
        waiting: Deferred[Run | None] = Deferred()
        if self._whole is None:
            waiting.callback(self.last)
        else:
            self._waiting.append(waiting)
        return waiting

    def _begin(self, only: Sequence[bytes] | None, forced: bool, policy: Policy) -> Deferred[Run]:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._interrupted = False
        begun: Deferred[Run] = Deferred(lambda _: None)
        # Set before it ends, which may be at once.
        whole = self._whole = Deferred()
        Deferred.fromCoroutine(self._make(only, forced, policy, begun)).addErrback(
            self._broken
        ).chainDeferred(whole)
        whole.addCallback(self._made)
        return begun

    def _broken(self, failure: Failure) -> None:
        self._log.failure("a pass over the objects failed", failure)

    def _made(self, _: None) -> None:
        self._whole = None
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            if not each.called:
                each.callback(self.last)
        # Not all nodes of a network at once.
        self._schedule(self._pace.interval * (0.75 + self._rng.random() / 2))

    async def _make(
        self, only: Sequence[bytes] | None, forced: bool, policy: Policy, begun: Deferred[Run]
    ) -> None:
        write, now_ns = self._means.write, self._wall_clock()
        try:
            lead = await write(
                partial(
                    state.take_lead,
                    holder=self._holder,
                    now_ns=now_ns,
                    seconds=self._pace.lead_seconds,
                )
            )
            run = await write(
                partial(state.begin_run, mine=lead, now_ns=now_ns, policy=policy, forced=forced)
            )
            seen = await self._means.database.read(state.seen)
        except Exception:
            begun.errback()
            return
        this = self._pass = Pass(self._means, run, lead, only, seen)
        begun.callback(run)
        ended, error = await self._make_it(this)
        try:
            await self._end(this, ended, error)
        finally:
            self._pass = None

    async def _make_it(self, this: Pass) -> tuple[RunState, str | None]:
        making = self._making = Deferred.fromCoroutine(this.make())
        keeper = _LeadKeeper(self._means, this.lead, making)
        if self._interrupted:
            making.cancel()
        try:
            await making
        except CancelledError:
            if keeper.lost is None:
                return "stopped", None
            return "failed", str(keeper.lost)
        except MeshkitError as e:
            return "failed", str(e)
        except Exception as e:
            self._log.failure("pass {run} failed", run=this.run.id)
            return "failed", f"a fault of meshkit: {e!r}"
        finally:
            self._making = None
            await keeper.stop()
        return "done", None

    async def _end(self, this: Pass, ended: RunState, error: str | None) -> None:
        step = this.closing(f"run.{ended}", error or f"pass {this.run.id} is {ended}")
        now_ns = this.now_ns()
        try:
            await self._means.write(
                partial(
                    state.end_run,
                    mine=this.lead,
                    run=this.run.id,
                    state=ended,
                    now_ns=now_ns,
                    step=step,
                    error=error,
                )
            )
        except MeshkitError as e:
            # It stays as it is, and is abandoned by whoever makes the next one.
            ended, error = "failed", error or str(e)
        if ended == "failed":
            self._log.warn("pass {run} has failed: {error}", run=this.run.id, error=error)
        metrics = this.run.metrics if step.metrics is None else step.metrics
        self.last = evolve(this.run, state=ended, ended_ns=now_ns, error=error, metrics=metrics)
        if self._ended is not None:
            self._ended(self.last)


class _LeadKeeper:
    """
    Prolongs the lead while a pass is made, and ends the pass when it is lost.

    @ivar lost: why it was.
    """

    _log = Logger()

    def __init__(self, means: Means, lead: Lead, making: Deferred[None]) -> None:
        self._means = means
        self._lead = lead
        self._making = making
        self._seconds = means.pace.lead_seconds
        self._until = means.reactor.seconds() + self._seconds
        self._next: IDelayedCall | None = None
        self._writing: Deferred[None] | None = None
        self.lost: LeadLost | None = None
        self._wait()

    def _wait(self) -> None:
        self._next = self._means.reactor.callLater(self._seconds / 3, self._keep)

    def _keep(self) -> None:
        self._next = None
        now = self._means.reactor.seconds()
        if now >= self._until:
            self._lose(LeadLost("the lead could not be prolonged in time, so the pass was stopped"))
            return
        self._wait()
        if self._writing is None:
            until_ns = self._means.wall_clock() + int(self._seconds * _SECONDS)
            writing = self._writing = self._means.write(
                partial(state.keep_lead, mine=self._lead, until_ns=until_ns)
            )
            writing.addCallback(self._kept, now + self._seconds).addErrback(self._failed)

    def _kept(self, _: Lead, until: float) -> None:
        self._writing = None
        self._until = until

    def _failed(self, failure: Failure) -> None:
        self._writing = None
        error = failure.value
        if isinstance(error, LeadLost):
            self._lose(error)
        else:
            # There is still time to try again.
            self._log.warn("the lead was not prolonged: {error}", error=str(error))

    def _lose(self, error: LeadLost) -> None:
        self.lost = error
        self._forget()
        self._making.cancel()

    def _forget(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None

    async def stop(self) -> None:
        """Prolong it no more."""
        self._forget()
        if self._writing is not None:
            await self._writing
