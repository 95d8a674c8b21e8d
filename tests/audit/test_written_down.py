"""
Audits of a real peer by an auditor that writes into a database, and that may be killed: what was
asked is asked again, and nobody gets away or is blamed because of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from meshkit.audit.receipts import Receipts
from meshkit.audit.standing import StandingConfig
from meshkit.audit.standings import PeerStandings
from meshkit.audit.transcript import examine
from meshkit.audit.values import AskedShare
from meshkit.sim.disk import PowerLost
from tests.audit.audits import World
from tests.audit.machines import Machine
from tests.storage.keeper.keepers import shelf

TRUSTING = StandingConfig(vetting_audits=0, vetting_days=0)
OBJECTS = 3


class Silent:
    """
    L{IShareSampler} of a keeper that can fall silent.

    @ivar silent: no leaf is shown.
    """

    def __init__(self, sampler: Any) -> None:
        self.silent = False
        self._sampler = sampler

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)

    def leaves(self, *asked: Any) -> Any:
        return Deferred() if self.silent else self._sampler.leaves(*asked)


class Process:
    """
    A peer, and a process that audits it and writes down what comes of it.

    @ivar machine: on which that process runs.
    """

    def __init__(self, machine: Machine | None = None) -> None:
        self.world = World()
        self.sampler = Silent(self.world.sampler)
        self.world.sampler = self.sampler
        self.world.factory = self.world.make_factory()
        self.shares = self.world.objects(OBJECTS)
        self.machine = Machine() if machine is None else machine
        self.machine.clock = self.world.clock

    def begin(self) -> Process:
        """The process reads what there is."""
        self.standings = PeerStandings(
            self.machine.database, lambda: float(self.world.keeping.now()), TRUSTING
        )
        self.receipts = Receipts(self.machine.database)
        self.auditor = self.world.make_auditor(containments=self.standings, receipts=self.receipts)
        self.world.done(self.standings.start())
        return self

    def audit(self, shares: Sequence[AskedShare] | None = None) -> list[str]:
        """As a pass does.  @return: what comes of it."""
        found = self.world.audit(self.shares if shares is None else shares, self.auditor)
        self.world.done(self.standings.record(found, self.world.keeping.now()))
        return [each.outcome for each in found]

    @property
    def refused(self) -> str | None:
        """Why the peer is given nothing."""
        return self.standings.judge(self.world.peer).refused


def started() -> Process:
    process = Process()
    process.machine.start()
    return process.begin()


class AuditsTests(SynchronousTestCase):
    def test_what_came_of_an_audit_is_in_the_database(self) -> None:
        process = started()
        self.addCleanup(process.machine.stop)
        self.assertEqual(process.audit(), ["success"] * OBJECTS)
        (kept,) = process.world.done(process.receipts.list(9))
        self.assertEqual((kept.outcomes, kept.failed), ({"success": OBJECTS}, False))
        seen = examine(process.world.done(process.receipts.find(kept.audit_id)))
        self.assertEqual([each.outcome for each in seen.shares], ["success"] * OBJECTS)
        standing = process.standings.find(process.world.peer).standing
        assert standing is not None
        self.assertEqual((standing.successes, standing.vetted), (OBJECTS, OBJECTS))
        self.assertIsNone(process.refused)

    def test_who_does_not_show_what_it_was_asked_gets_nothing_until_it_does(self) -> None:
        process = started()
        self.addCleanup(process.machine.stop)
        process.sampler.silent = True
        self.assertEqual(process.audit(), ["contained"] * OBJECTS)
        self.assertIn("has not answered", str(process.refused))
        process.sampler.silent = False
        process.world.advance(601)
        self.assertEqual(process.audit(), ["success"] * OBJECTS)
        self.assertIsNone(process.refused)
        standing = process.standings.find(process.world.peer).standing
        assert standing is not None
        self.assertEqual(standing.failures, 0)

    def test_starting_anew_does_not_let_a_peer_off(self) -> None:
        process = started()
        self.addCleanup(process.machine.stop)
        process.sampler.silent = True
        process.audit()
        process.machine.crash()
        process.begin()
        self.assertIn("has not answered", str(process.refused))
        process.world.advance(601)
        self.assertEqual(process.audit(), ["contained"] * OBJECTS)
        process.machine.crash()
        process.begin()
        process.world.advance(601)
        # The third time is a failure, of all that it was asked about.
        self.assertNotIn("success", process.audit())
        self.assertEqual([each.outcome for each in process.world.settled], ["failure"] * OBJECTS)

    def test_a_shelf_that_is_gone_is_a_failure_with_a_receipt_that_stays(self) -> None:
        process = started()
        self.addCleanup(process.machine.stop)
        gone = process.world.ask_for(shelf(9_000, 99))
        self.assertEqual(process.audit([*process.shares, gone])[-1], "failure")
        process.machine.crash()
        process.begin()
        (kept,) = process.world.done(process.receipts.list(9))
        self.assertTrue(kept.failed)
        self.assertEqual(kept.outcomes, {"success": OBJECTS, "failure": 1})


class KilledTests(SynchronousTestCase):
    """The auditor's machine stops before each of its statements in turn."""

    def live(self, statements: int) -> bool:
        """@return: whether it stopped before all was done; C{owing} counts what was left."""
        process = started()
        machine = process.machine
        machine.backing.stop_before(statements)
        stopped = False
        try:
            process.audit()
        except PowerLost:
            stopped = True
        # The peer goes on; to have nothing left of the old process, it is made again as it was.
        again = Process(machine)
        machine.crash()
        again.begin()
        self.assertIsNone(again.refused, "nobody is blamed because we have stopped")
        owed = again.world.done(again.standings.of(again.world.peer))
        self.assertLessEqual(len(owed), 1)
        self.assertEqual(again.audit(), ["success"] * OBJECTS)
        self.assertEqual(len(again.world.done(again.standings.of(again.world.peer))), 0)
        kept = again.world.done(again.receipts.list(9))
        # What was asked before is settled with a receipt of its own, and then there is the new one.
        self.assertIn(len(kept), (1, 2))
        self.assertTrue(all(each.outcomes == {"success": OBJECTS} for each in kept))
        if owed:
            self.owing += 1
            self.assertIn(owed[0].audit_id, [each.audit_id for each in kept])
        standing = again.standings.find(again.world.peer).standing
        assert standing is not None
        self.assertEqual((standing.failures, standing.unknowns), (0, 0))
        machine.stop()
        return stopped

    def test_at_every_statement(self) -> None:
        self.owing = statements = 0
        while self.live(statements):
            statements += 1
        self.assertGreater(statements, 10)
        self.assertGreater(self.owing, 2)
