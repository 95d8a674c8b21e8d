"""A scheduler over a database in memory or on disk, in a world that is only remembered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit import state
from meshkit.audit.decisions import Policy
from meshkit.audit.passing import Pace
from meshkit.audit.scheduler import Scheduler
from meshkit.audit.schema import MIGRATIONS
from meshkit.audit.state import Event, ObjectState, Run
from meshkit.runtime.container import Backing, MemoryFile
from meshkit.runtime.database import Database
from meshkit.runtime.workers import InlineWorkers
from meshkit.storage.custody import TrackedObject
from tests.audit.fakes import World

#: Every pass looks at everything, and nothing is waited for.
EAGER = Policy(every=0, recheck=0, offline_grace=0, cooldown=0, backoff=0, outage_part=1.0)


class PassesCase(SynchronousTestCase):
    """
    @ivar world: what there is besides the database.
    @ivar database: started.
    """

    policy = EAGER
    peers = 10

    def setUp(self) -> None:
        self.clock = Clock()
        self.world = World(self.clock, self.peers)
        self.backing = self.make_backing()
        self.database = self.open()
        self.scheduler = self.make()

    def make_backing(self) -> Backing:
        backing = MemoryFile(self.id())
        self.addCleanup(backing.close)
        return backing

    def open(self) -> Database:
        """@return: another connection to the same database, started."""
        database = Database(
            self.clock, self.id(), threads=InlineWorkers, backing=lambda _: self.backing
        )
        database.open_and_migrate({"audit": MIGRATIONS})
        database.startService()
        self.clock.advance(0)
        self.addCleanup(lambda: self.done(database.stopService()))
        return database

    def make(
        self,
        database: Database | None = None,
        *,
        seed: int = 1,
        pace: Pace | None = None,
        holder: bytes | None = None,
        **policy: Any,
    ) -> Scheduler:
        """@return: another scheduler."""
        world = self.world
        return Scheduler(
            self.database if database is None else database,
            world.tracked,
            world.peers,
            world.auditing,
            world.repairing,
            world.standings,
            reactor=self.clock,
            rng=Random(seed),
            wall_clock=world.wall_clock,
            policy=msgspec.structs.replace(self.policy, **policy),
            pace=pace,
            leaving=lambda key: world.by_key[key].leaving,
            holder=holder,
        )

    def done(self, deferred: Deferred[Any], seconds: float = 10_000) -> Any:
        """@return: what comes of it when time goes on; what it fails with is raised."""
        results: list[Any] = []
        deferred.addBoth(results.append)
        self.until(lambda: bool(results), seconds)
        if hasattr(results[0], "raiseException"):
            results[0].raiseException()
        return results[0]

    def until(self, condition: Callable[[], bool], seconds: float = 10_000) -> None:
        end = self.clock.seconds() + seconds
        while not condition():
            moments = [call.getTime() for call in self.clock.getDelayedCalls()]
            if not moments or min(moments) > end:
                raise AssertionError("it does not come to that")
            self.clock.advance(max(0.0, min(moments) - self.clock.seconds()))

    def run_pass(
        self,
        scheduler: Scheduler | None = None,
        objects: Sequence[TrackedObject] | None = None,
        **more: Any,
    ) -> Run:
        """@return: a pass that somebody has asked for, when it has ended."""
        scheduler = self.scheduler if scheduler is None else scheduler
        ids = None if objects is None else [each.content_id for each in objects]
        self.done(scheduler.run(ids, **more))
        return self.ended(scheduler)

    def pass_by_itself(self, scheduler: Scheduler | None = None) -> Run:
        """@return: a pass over what is due, when it has ended."""
        scheduler = self.scheduler if scheduler is None else scheduler
        self.done(scheduler._begin(None, False, scheduler.policy))
        return self.ended(scheduler)

    def ended(self, scheduler: Scheduler | None = None) -> Run:
        scheduler = self.scheduler if scheduler is None else scheduler
        run: Run = self.done(scheduler.when_ended())
        return run

    def read(self, job: Callable[..., Any], *args: Any, **more: Any) -> Any:
        def reading(connection: Any) -> Any:
            found = job(connection, *args, **more)
            return list(found) if hasattr(found, "__next__") else found

        return self.done(self.database.read(reading))

    def state_of(self, tracked: TrackedObject) -> ObjectState:
        found = self.read(state.objects, [tracked.content_id])
        result: ObjectState = found[tracked.content_id]
        return result

    def events(self, run: int) -> list[Event]:
        found: list[Event] = self.read(state.events, run)
        return found

    def kinds(self, run: int) -> list[str]:
        return [each.kind for each in self.events(run)]
