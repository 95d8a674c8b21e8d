"""Tests of L{meshkit.runtime.ledger}."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import StorageFailed
from meshkit.runtime import ledger as module
from meshkit.runtime.container import MemoryFile
from meshkit.runtime.ledger import FULL_SCORE, MAX_REASON, MAX_REASONS, Ledger
from meshkit.testing.identities import Author
from meshkit.testing.nodes import make_context, run_clock

A, B, C = (Author(name).identity.public for name in "abc")


class LedgerCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.file = MemoryFile(self.id())
        self.addCleanup(self.file.close)
        self.ledger = self.open()

    def open(self) -> Ledger:
        """As after a start."""
        context = make_context(self.clock, backing=self.file)
        self.addCleanup(context.database.stopService)
        ledger: Ledger = context.peers.ledger
        self.wait(ledger.load())
        return ledger

    def wait(self, waiting: Deferred[Any]) -> Any:
        run_clock(self.clock)
        return self.successResultOf(waiting)


class Scores(LedgerCase):
    def test_who_is_not_known_has_done_nothing_wrong(self) -> None:
        self.assertEqual(self.ledger.score(A), FULL_SCORE)
        self.assertIsNone(self.ledger.find(A))
        self.assertFalse(self.ledger.is_banned(A))

    def test_what_it_costs_comes_back_with_time(self) -> None:
        self.assertEqual(self.ledger.offend(A, "CODE", "why", 30), 70)
        self.clock.advance(60)
        self.assertEqual(self.ledger.score(A), 71)
        self.assertEqual(self.ledger.offend(A, "CODE", "again", 30), 41)
        self.clock.advance(60 * 59 + 1)
        self.assertEqual(self.ledger.score(A), FULL_SCORE)
        self.assertEqual(self.ledger.score(B), FULL_SCORE)

    def test_the_last_reasons_are_kept_with_their_times(self) -> None:
        for n in range(MAX_REASONS + 2):
            self.clock.advance(1)
            self.ledger.offend(A, "CODE", f"{n}" + "x" * MAX_REASON, 0)
        reasons = list(self.ledger.account(A).reasons)
        self.assertEqual([reason.text[0] for reason in reasons], list("23456789"))
        self.assertEqual(len(reasons[0].text), MAX_REASON)
        self.assertEqual(reasons[-1].at_ns - reasons[0].at_ns, (MAX_REASONS - 1) * 10**9)

    def test_a_ban_ends_and_half_the_score_is_left(self) -> None:
        self.ledger.ban(A, 600)
        self.clock.advance(599)
        self.assertTrue(self.ledger.is_banned(A))
        self.clock.advance(1)
        self.assertFalse(self.ledger.is_banned(A))
        self.assertEqual(self.ledger.score(A), FULL_SCORE / 2)

    def test_round_trips_are_a_mean_that_forgets(self) -> None:
        self.ledger.measured(A, 1.0)
        self.assertEqual(self.ledger.account(A).round_trip, 1.0)
        for _ in range(40):
            self.ledger.measured(A, 0.1)
        trip = self.ledger.account(A).round_trip
        assert trip is not None
        self.assertAlmostEqual(trip, 0.1, 3)

    def test_the_longest_quiet_make_room(self) -> None:
        self.patch(module, "MAX_ACCOUNTS", 2)
        self.ledger.account(A)
        self.ledger.account(B)
        self.ledger.account(A)
        self.ledger.account(C)
        self.assertEqual([account.key for account in self.ledger.accounts()], [C, A])

    def test_who_is_banned_makes_room_last(self) -> None:
        self.patch(module, "MAX_ACCOUNTS", 2)
        self.ledger.ban(A, 600)
        self.ledger.account(B)
        self.ledger.account(C)
        self.assertEqual([account.key for account in self.ledger.accounts()], [C, A])
        self.ledger.ban(C, 600)
        self.ledger.account(B)
        # All are: the one that was quiet for longest.
        self.assertEqual([account.key for account in self.ledger.accounts()], [B, C])
        self.assertTrue(self.ledger.is_banned(C))

    def test_what_all_did_together_counts_those_who_made_room_as_well(self) -> None:
        self.patch(module, "MAX_ACCOUNTS", 2)
        for number, key in enumerate((A, B, C), 1):
            account = self.ledger.account(key)
            account.received, account.sent = number, 10 * number
            account.duplicates, account.refused = 100 * number, 1000 * number
        self.assertEqual(len(self.ledger.accounts()), 2)
        self.assertEqual(self.ledger.totals(), module.Totals(6, 60, 600, 6000))

    def test_how_many_are_banned_is_known(self) -> None:
        self.ledger.account(A)
        self.ledger.ban(B, 600)
        self.assertEqual(self.ledger.banned(), 1)


class Restarts(LedgerCase):
    def test_what_was_bad_and_bans_outlast_a_restart(self) -> None:
        self.ledger.offend(A, "CODE", "why", 30)
        self.ledger.ban(B, 600)
        self.ledger.measured(C, 1.0)
        run_clock(self.clock, 1)
        again = self.open()
        self.assertEqual([reason.text for reason in again.account(A).reasons], ["why"])
        self.assertEqual(round(again.score(A)), 70)
        self.assertTrue(again.is_banned(B))
        self.assertIsNone(again.find(C))

    def test_so_many_are_kept(self) -> None:
        self.patch(module, "MAX_KEPT", 2)
        for key in (A, B, C):
            self.clock.advance(1)
            self.ledger.offend(key, "CODE", "why", 1)
        run_clock(self.clock, 1)
        self.assertEqual([account.key for account in self.open().accounts()], [C, B])

    def test_a_disk_that_fails_is_reported_and_the_score_counts(self) -> None:
        database = self.ledger.database
        self.patch(database, "write", lambda job: fail(StorageFailed("disk full")))
        self.ledger.offend(A, "CODE", "why", 30)
        run_clock(self.clock, 1)
        self.assertEqual(round(self.ledger.score(A)), 70)
        self.patch(database, "write", type(database).write.__get__(database))
        self.ledger.offend(A, "CODE", "again", 30)
        run_clock(self.clock, 1)
        self.assertEqual(len(self.open().account(A).reasons), 2)
