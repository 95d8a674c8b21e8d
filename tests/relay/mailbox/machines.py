"""A machine with a database of mailboxes, which can be stopped at any moment."""

from __future__ import annotations

from itertools import count
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from meshkit.relay.mailbox.schema import MIGRATIONS, RELAY_MIGRATIONS
from meshkit.runtime.database import Database
from meshkit.runtime.workers import InlineWorkers
from meshkit.sim.databases import SimMemory
from meshkit.sim.seeds import Seeds
from meshkit.testing.nodes import run_clock

_names = count()


class Machine:
    """
    @ivar backing: what can be done to the database.
    @ivar clock: of all processes.
    @ivar database: of the process that runs now.
    """

    database: Database

    def __init__(self, clock: Clock | None = None) -> None:
        rng = Seeds(0).stream("relay", "database")
        self.backing = SimMemory(f"mailbox-{next(_names)}", rng)
        self.clock = Clock() if clock is None else clock
        self._start()

    def _start(self) -> None:
        self.database = Database(
            self.clock, "/mesh.db", threads=InlineWorkers, backing=lambda _: self.backing
        )
        self.database.open_and_migrate({"mailbox": MIGRATIONS, "mailboxes": RELAY_MIGRATIONS})
        self.database.startService()
        run_clock(self.clock, 0)

    def crash(self) -> None:
        """The machine stops, and another process begins on it."""
        self.backing.crash()
        self._start()

    def stop(self) -> None:
        """The process ends in good order, and nothing of the machine is left."""
        self.backing.mend()
        self.wait(self.database.stopService())
        self.backing.close()

    def wait(self, deferred: Deferred[Any]) -> Any:
        """@return: what came of it at once.  Raises what it failed with."""
        found: list[Any] = []
        deferred.addBoth(found.append)
        run_clock(self.clock, 0)
        if not found:
            raise AssertionError("nothing came of it")
        if isinstance(found[0], Failure):
            found[0].raiseException()
        return found[0]
