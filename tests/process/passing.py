"""
A scheduler as a process of its own, in a world that is only remembered, on a database in a file.

C{python -m tests.process.passing DATABASE [before|after COMMIT]} makes one pass over objects of
which a third has lost shares, and prints how many commits that took.  With the rest it is killed
before that commit, or when it was just made.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import time
from random import Random
from typing import Any, Final

from twisted.internet.defer import ensureDeferred
from twisted.internet.task import react

from meshkit.audit.scheduler import Pace, Scheduler
from meshkit.audit.schema import MIGRATIONS
from meshkit.runtime.container import DiskFile
from meshkit.runtime.database import Database
from meshkit.runtime.transactions import COMMIT, WriterConnection
from meshkit.testing.identities import DAY_NS
from tests.audit.fakes import World
from tests.audit.passes import EAGER

OBJECTS: Final = 6


def fill(world: World) -> None:
    """Put objects into a world; every third has lost two shares."""
    for seed in range(OBJECTS):
        tracked = world.put(seed)
        if seed % 3 == 0:
            for number in (0, 1):
                holder = world.holder_of(tracked, number)
                holder.shares.discard((tracked.content_id, number))


class Killing(WriterConnection):
    """
    A connection that kills its process.

    @cvar commits: how many there were since the pass was begun; L{None} before.
    """

    commits: int | None = None
    at = 0
    before = False

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if sql != COMMIT or Killing.commits is None:
            return super().execute(sql, *args)
        Killing.commits += 1
        if Killing.commits == Killing.at and Killing.before:
            os.kill(os.getpid(), signal.SIGKILL)
        done = super().execute(sql, *args)
        if Killing.commits == Killing.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return done


class KillingFile(DiskFile):
    connection = Killing


async def make_pass(reactor: Any, path: str) -> None:
    # Promises to keep shares are as old as the world.
    begun = time.monotonic_ns()
    world = World(reactor)
    fill(world)
    database = Database(reactor, path, backing=KillingFile)
    database.open_and_migrate({"audit": MIGRATIONS})
    database.startService()
    await database.when_ready()
    scheduler = Scheduler(
        database,
        world.tracked,
        world.peers,
        world.auditing,
        world.repairing,
        world.standings,
        reactor=reactor,
        rng=Random(os.getpid()),
        wall_clock=lambda: DAY_NS + time.monotonic_ns() - begun,
        policy=EAGER,
        pace=Pace(page=2, repairs_at_once=1),
    )
    Killing.commits = 0
    await scheduler.run()
    run = await scheduler.when_ended()
    assert run is not None and run.state == "done", run
    commits, Killing.commits = Killing.commits, None
    await database.stopService()
    print(commits, flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        Killing.before, Killing.at = sys.argv[2] == "before", int(sys.argv[3])
    react(lambda reactor: ensureDeferred(make_pass(reactor, sys.argv[1])))
