"""Tests of L{meshkit.discovery.inviting.issued}."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.discovery.inviting import issued as under_test
from meshkit.discovery.inviting.issued import (
    KEPT_AFTER,
    MAX_LIFETIME,
    MAX_NOTE,
    MAX_USES,
    MIGRATIONS,
    InviteBook,
    forget_all,
)
from meshkit.errors import InviteExpired, InviteUnknown, InviteUsed, NotFound, Overloaded
from meshkit.runtime.container import MemoryFile
from meshkit.testing.identities import DAY_NS, make_identity
from meshkit.testing.nodes import make_context, run_clock

SECOND = 10**9
#: The network, and the same with a new secret.
HERE, NEW = bytes(16), bytes(15) + b"\1"
BOB, EVE = (make_identity(name).public for name in ("bob", "eve"))


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.file = MemoryFile(f"invites-{self.id()}")
        self.addCleanup(self.file.close)
        context = make_context(self.clock, backing=self.file, migrations={"invites": MIGRATIONS})
        self.database = context.database
        self.now_ns = DAY_NS
        self.books = 0
        self.addCleanup(self.stop)
        self.book = self.open()

    def stop(self) -> None:
        self.database.stopService()
        run_clock(self.clock)

    def open(self) -> InviteBook:
        """A book as it is after a start."""
        self.books += 1
        book = InviteBook(self.database, lambda: self.now_ns, Random(self.books))
        self.done(book.load())
        return book

    def done(self, waiting: Deferred[Any]) -> Any:
        run_clock(self.clock)
        return self.successResultOf(waiting)

    def refused(self, waiting: Deferred[Any], error: type[Exception]) -> None:
        run_clock(self.clock)
        self.failureResultOf(waiting, error)

    def passes(self, seconds: float) -> None:
        self.now_ns += int(seconds * SECOND)


class Uses(Case):
    def test_one_use_is_for_one(self) -> None:
        _, code = self.done(self.book.issue())
        used = self.done(self.book.use(code, BOB, HERE))
        self.assertEqual([use.peer for use in used.used], [BOB])
        self.refused(self.book.use(code, EVE, HERE), InviteUsed)
        self.assertEqual(self.book.all()[0].state(self.now_ns), "used")

    def test_two_at_the_same_moment(self) -> None:
        """Both were asked for before either was written."""
        _, code = self.done(self.book.issue())
        both = [self.book.use(code, peer, HERE) for peer in (BOB, EVE)]
        run_clock(self.clock)
        self.successResultOf(both[0])
        self.failureResultOf(both[1], InviteUsed)
        self.assertEqual([use.peer for use in self.book.all()[0].used], [BOB])

    def test_who_has_used_it_may_ask_again(self) -> None:
        """The first answer may have been lost, also with the node's memory."""
        _, code = self.done(self.book.issue())
        first = self.done(self.book.use(code, BOB, HERE))
        for book in (self.book, self.open()):
            self.assertEqual(self.done(book.use(code, BOB, HERE)), first)
        self.refused(self.book.use(code, EVE, HERE), InviteUsed)

    def test_who_has_used_it_is_not_told_a_new_secret(self) -> None:
        """It may be the one because of whom there is a new one."""
        _, code = self.done(self.book.issue(uses=2))
        first = self.done(self.book.use(code, BOB, HERE))
        for book in (self.book, self.open()):
            self.refused(book.use(code, BOB, NEW), InviteUsed)
            self.assertEqual(self.done(book.use(code, BOB, HERE)), first)
        self.done(self.book.use(code, EVE, NEW))

    def test_no_restart_gives_a_use_back(self) -> None:
        _, code = self.done(self.book.issue())
        self.done(self.book.use(code, BOB, HERE))
        again = self.open()
        self.refused(again.use(code, EVE, HERE), InviteUsed)
        self.assertEqual(again.all(), self.book.all())

    def test_as_many_as_were_agreed(self) -> None:
        _, code = self.done(self.book.issue(uses=3))
        for n in range(3):
            self.passes(1)
            self.done(self.book.use(code, make_identity(n).public, HERE))
            self.done(self.book.use(code, make_identity(0).public, HERE))
        self.refused(self.book.use(code, EVE, HERE), InviteUsed)
        (known,) = self.book.all()
        self.assertEqual(
            [(use.peer, use.used_ns) for use in known.used],
            [(make_identity(n).public, DAY_NS + (n + 1) * SECOND) for n in range(3)],
        )

    def test_a_code_that_nobody_was_given(self) -> None:
        self.done(self.book.issue())
        self.refused(self.book.use(bytes(16), BOB, HERE), InviteUnknown)

    def test_the_code_is_kept_nowhere(self) -> None:
        _, code = self.done(self.book.issue())
        dump = self.done(self.database.read(lambda connection: list(connection.iterdump())))
        self.assertNotIn(code.hex().upper(), "".join(dump).upper())
        self.assertNotIn(code.hex(), repr(self.book))

    def test_nobody_is_told_before_it_is_on_the_disk(self) -> None:
        _, code = self.done(self.book.issue())
        waiting = self.book.use(code, BOB, HERE)
        self.assertNoResult(waiting)
        self.done(waiting)
        rows = self.done(
            self.database.read(
                lambda connection: connection.execute(
                    "SELECT peer FROM invites_used ORDER BY peer"
                ).fetchall()
            )
        )
        self.assertEqual(rows, [(BOB.raw,)])


class Ends(Case):
    def test_late_is_late_to_the_second(self) -> None:
        _, code = self.done(self.book.issue(lifetime=60))
        self.passes(59)
        self.done(self.book.use(code, BOB, HERE))
        self.passes(1)
        self.refused(self.book.use(code, BOB, HERE), InviteExpired)
        self.refused(self.book.use(code, EVE, HERE), InviteExpired)

    def test_one_that_nobody_has_used_expires_too(self) -> None:
        _, code = self.done(self.book.issue(lifetime=60))
        self.passes(60)
        self.refused(self.book.use(code, BOB, HERE), InviteExpired)
        self.assertEqual(self.book.all()[0].state(self.now_ns), "expired")
        self.refused(self.open().use(code, BOB, HERE), InviteExpired)

    def test_one_without_an_end(self) -> None:
        _, code = self.done(self.book.issue())
        self.passes(100 * MAX_LIFETIME)
        self.done(self.book.use(code, BOB, HERE))

    def test_who_comes_late_is_told_so_for_a_month(self) -> None:
        _, code = self.done(self.book.issue(lifetime=60))
        self.assertTrue(self.book.answering)
        self.passes(60 + KEPT_AFTER - 1)
        self.refused(self.book.use(code, BOB, HERE), InviteExpired)
        self.assertTrue(self.book.answering)
        self.passes(1)
        self.refused(self.book.use(code, BOB, HERE), InviteUnknown)
        self.assertFalse(self.book.answering)

    def test_one_that_was_taken_back(self) -> None:
        made, code = self.done(self.book.issue())
        self.done(self.book.revoke(made.id))
        self.refused(self.book.use(code, BOB, HERE), InviteUnknown)
        self.refused(self.open().use(code, BOB, HERE), InviteUnknown)
        self.assertFalse(self.book.answering)
        self.refused(self.book.revoke(made.id), NotFound)

    def test_one_that_is_taken_back_while_it_is_used(self) -> None:
        made, code = self.done(self.book.issue())
        revoking, using = self.book.revoke(made.id), self.book.use(code, BOB, HERE)
        run_clock(self.clock)
        self.successResultOf(revoking)
        self.failureResultOf(using, InviteUnknown)
        self.assertEqual(len(self.book), 0)

    def test_a_copy_of_the_database_lets_nobody_in(self) -> None:
        _, code = self.done(self.book.issue())
        self.done(self.database.write(forget_all))
        self.refused(self.open().use(code, BOB, HERE), InviteUnknown)


class Room(Case):
    def test_the_table_has_a_limit(self) -> None:
        self.patch(under_test, "MAX_INVITES", 3)
        for _ in range(3):
            self.done(self.book.issue())
        self.refused(self.book.issue(), Overloaded)
        self.assertEqual(len(self.book), 3)
        self.assertEqual(len(self.open()), 3)

    def test_those_that_are_over_make_room(self) -> None:
        self.patch(under_test, "MAX_INVITES", 3)
        _, used = self.done(self.book.issue())
        self.done(self.book.use(used, BOB, HERE))
        self.done(self.book.issue(lifetime=1))
        kept, _ = self.done(self.book.issue())
        self.passes(1)
        made, _ = self.done(self.book.issue())
        for book in (self.book, self.open()):
            self.assertEqual([each.id for each in book.all()], [kept.id, made.id])

    def test_what_was_over_long_ago_is_forgotten_anyway(self) -> None:
        self.done(self.book.issue(lifetime=1))
        self.passes(1 + KEPT_AFTER)
        made, _ = self.done(self.book.issue())
        for book in (self.book, self.open()):
            self.assertEqual([each.id for each in book.all()], [made.id])

    def test_what_cannot_be_made(self) -> None:
        for wrong in (
            {"uses": 0},
            {"uses": MAX_USES + 1},
            {"lifetime": 0},
            {"lifetime": MAX_LIFETIME + 1},
            {"note": "n" * (MAX_NOTE + 1)},
        ):
            with self.assertRaises(ValueError):
                self.book.issue(**wrong)  # type: ignore[arg-type]
