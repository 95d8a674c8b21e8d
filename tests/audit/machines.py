"""
A database with the tables of audits, on a machine that can be stopped.
"""

from __future__ import annotations

from itertools import count
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from meshkit.audit.schema import MIGRATIONS
from meshkit.runtime.database import Database
from meshkit.runtime.workers import InlineWorkers
from meshkit.sim.clock import SimClock
from meshkit.sim.databases import SimFile, SimMemory
from meshkit.sim.seeds import Seeds

_names = count()


class Machine:
    """
    @ivar backing: what can be done to the database.
    @ivar clock: for the processes that begin from now on.
    @ivar database: of the process that runs now.
    """

    def __init__(self, seed: int = 0, path: str | None = None) -> None:
        """@param path: of a file to have the database in; it is in memory, if there is none."""
        rng = Seeds(seed).stream("ada", "database")
        self.backing = (
            SimMemory(f"audit-{next(_names)}", rng) if path is None else SimFile(path, rng)
        )
        self.clock: Any = SimClock()
        self.database: Database

    def start(self) -> None:
        """Begin a process."""
        self.database = Database(
            self.clock, "/ada/mesh.db", threads=InlineWorkers, backing=lambda _: self.backing
        )
        self.database.open_and_migrate({"audit": MIGRATIONS})
        self.database.startService()
        self.clock.advance(0)

    def kill(self) -> None:
        """The process ends in the middle of whatever it does, and another one begins."""
        self.backing.end_process()
        self.start()

    def crash(self) -> None:
        """The machine stops, and another process begins on it."""
        self.backing.crash()
        self.start()

    def stop(self) -> None:
        """The process ends in good order, and nothing of the machine is left."""
        self.backing.mend()
        self.wait(self.database.stopService())
        if isinstance(self.backing, SimMemory):
            self.backing.close()

    def wait(self, deferred: Deferred[Any]) -> Any:
        """@return: what came of something that needs nobody else.  Raises what it failed with."""
        found: list[Any] = []
        deferred.addBoth(found.append)
        self.clock.advance(0)
        if not found:
            raise AssertionError("nothing came of it")
        if isinstance(found[0], Failure):
            found[0].raiseException()
        return found[0]
