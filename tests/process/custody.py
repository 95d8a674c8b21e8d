"""
An audit, or a repair, with a database on the disk, to be watched from outside:
C{python -m tests.process.custody audit|contain|repair DATABASE}.

Peers are in this process, and whenever one of them is told something that must not be told too
early, it says so with one write to standard output, so that it stands in a trace of system calls at
the place where it happened.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Final

from meshkit.audit.receipts import Receipts
from meshkit.audit.repair import Repairer
from meshkit.audit.schema import MIGRATIONS
from meshkit.audit.standings import PeerStandings
from meshkit.audit.wire import Page, RevealRequest
from meshkit.rpc.protocol import RPCProtocol
from meshkit.runtime.container import DiskFile
from meshkit.runtime.database import Database
from meshkit.runtime.workers import InlineWorkers
from meshkit.storage.erasure import ZfecCodec
from tests.audit.audits import World
from tests.audit.liars import Liar, make_liar
from tests.storage.objects.test_tracking import TrackingCase

#: The share that is lost, and made anew.
LOST: Final = 1


def say(text: str) -> None:
    """One write."""
    os.write(1, f"{text}\n".encode("ascii"))


class Telling(Liar):
    """Says when it is shown a seed."""

    async def _reveal(self, connection: RPCProtocol, request: RevealRequest) -> Page:
        say(f"seed of {request.audit.hex()}")
        return await super()._reveal(connection, request)


def audit(path: str, silent: bool) -> None:
    """@param silent: the peer says nothing any more when it knows the seed."""
    world = World()
    database = Database(world.clock, path, threads=InlineWorkers, backing=DiskFile)
    database.open_and_migrate({"audit": MIGRATIONS})
    database.startService()
    standings = PeerStandings(database, lambda: world.keeping.wall_ns() / 10**9)
    world.done(standings.start())
    asked = world.objects(3)
    liar = make_liar(world, kind=Telling, silent=frozenset({"reveal"} if silent else ()))
    auditor = world.make_auditor(containments=standings, receipts=Receipts(database))
    assert isinstance(liar, Telling)
    say("begin")
    (outcome,) = {each.outcome for each in world.audit(asked, auditor)}
    say(outcome)
    auditor.stop()
    world.done(database.stopService())


class Repair(TrackingCase):
    """
    @cvar path: of the database.
    """

    path = ""

    def runTest(self) -> None:
        """Nothing: it is not run as a test."""

    def new_context(self, name: str = "owner") -> Any:
        self.backing = DiskFile(self.path)  # type: ignore[assignment]
        return super().new_context(name)

    def repair(self) -> None:
        """Make a share anew whose peer is still there, and give up what it had."""
        tracked = self.tracked(self.put())
        old = self.holder(tracked, LOST)

        def told(name: str, peer: Any, _args: Any) -> None:
            if name in ("close", "release"):
                say(f"{name} {peer.key.raw.hex()}")

        for front in self.fronts:
            front.rule = told
        repairer = Repairer(
            self.part.peers,
            self.tracking,
            reactor=self.clock,
            workers=self.workers,
            wall_clock=self.wall_clock,
            codec=ZfecCodec(),
        )
        say("begin")
        self.done(repairer.repair(tracked, [LOST]))
        say("repaired")
        self.run_upkeep()
        assert "release" in self.fronts[old].calls, "the old lease was not given up"


def repair(path: str) -> None:
    """See L{Repair.repair}."""
    Repair.path = path
    case = Repair()
    case.setUp()
    case.repair()
    case.tearDown()
    case.doCleanups()


if __name__ == "__main__":
    what, where = sys.argv[1:]
    if what == "repair":
        repair(where)
    else:
        audit(where, silent=what == "contain")
