"""A batch is one transaction, and yet every job in it keeps its own fate."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import StorageFailed
from meshkit.runtime.transactions import (
    COMMIT,
    Failed,
    Job,
    Outcome,
    Succeeded,
    WriterConnection,
    primary_code,
    run_batch,
    run_read,
)

from .support import RefusingConnection, disk_error, rows, scratch


def insert(value: object) -> Job[int]:
    def job(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO t (value) VALUES (?)", (value,))
        (count,) = connection.execute("SELECT count(*) FROM t").fetchone()
        return int(count)

    return job


def broken(value: object) -> Job[int]:
    """Does something, then fails."""

    def job(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO t (value) VALUES (?)", (value,))
        raise LookupError(f"job {value}")

    return job


def values(outcomes: list[Outcome]) -> list[Any]:
    """Results, and the types of errors."""
    return [
        outcome.value if isinstance(outcome, Succeeded) else type(outcome.error)
        for outcome in outcomes
    ]


class Held:
    """Something that a weak reference can watch."""


class Batches(SynchronousTestCase):
    """A file with a table, and a connection that traces what is run on it."""

    schema = "CREATE TABLE t (value UNIQUE)"

    def setUp(self) -> None:
        self.path = os.path.join(scratch(self), "test.db")
        self.connection = sqlite3.connect(
            self.path, isolation_level=None, factory=RefusingConnection
        )
        self.addCleanup(self.connection.close)
        self.connection.guard()
        self.connection.execute("PRAGMA journal_mode = WAL")
        for statement in self.schema.split(";"):
            self.connection.execute(statement)
        self.trace: list[str] = []
        self.connection.set_trace_callback(self.trace.append)

    def stored(self) -> list[Any]:
        """What another connection sees."""
        return rows(self.path, "SELECT value FROM t ORDER BY value")

    def commits(self) -> int:
        return sum(statement.startswith("COMMIT") for statement in self.trace)


class GroupCommitTests(Batches):
    def test_many_jobs_share_one_commit(self) -> None:
        outcomes = run_batch(self.connection, [insert(n) for n in range(100)])
        self.assertEqual(values(outcomes), list(range(1, 101)))
        self.assertEqual(self.commits(), 1)
        self.assertEqual(self.stored(), list(range(100)))

    def test_an_empty_batch_does_not_touch_the_database(self) -> None:
        self.assertEqual(run_batch(self.connection, []), [])
        self.assertEqual(self.trace, [])

    def test_a_failing_job_is_rolled_back_alone(self) -> None:
        outcomes = run_batch(self.connection, [insert(1), broken(2), insert(3)])
        self.assertEqual(values(outcomes), [1, LookupError, 2])
        self.assertEqual(self.stored(), [1, 3])
        self.assertEqual(self.commits(), 1)

    def test_a_job_sees_what_the_jobs_before_it_did_and_nothing_of_those_that_failed(self) -> None:
        outcomes = run_batch(self.connection, [insert(1), broken(2), insert(2), insert(1)])
        self.assertEqual(values(outcomes), [1, LookupError, 2, sqlite3.IntegrityError])

    def test_an_error_of_a_statement_is_handed_on_as_it_is(self) -> None:
        (outcome,) = run_batch(self.connection, [lambda c: c.execute("SELECT nonsense")])
        assert isinstance(outcome, Failed)
        self.assertIsInstance(outcome.error, sqlite3.OperationalError)
        self.assertIn("nonsense", str(outcome.error))

    def test_even_an_exit_is_the_jobs_own_affair(self) -> None:
        def leave(connection: sqlite3.Connection) -> None:
            raise SystemExit

        self.assertEqual(values(run_batch(self.connection, [leave, insert(1)])), [SystemExit, 1])

    def test_a_job_that_returns_something_to_wait_for_is_refused_and_not_stored(self) -> None:
        def late(connection: sqlite3.Connection) -> Deferred[None]:
            insert(1)(connection)
            return Deferred()

        self.assertEqual(values(run_batch(self.connection, [late])), [TypeError])
        self.assertEqual(self.stored(), [])

    def test_the_error_of_a_job_does_not_keep_its_variables_alive(self) -> None:
        seen: list[weakref.ref[Held]] = []

        def job(connection: sqlite3.Connection) -> None:
            held = Held()
            seen.append(weakref.ref(held))
            raise LookupError

        outcomes = run_batch(self.connection, [job])
        self.assertEqual(values(outcomes), [LookupError])
        self.assertIsNone(seen[0]())

    @given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=12))
    def test_the_outcome_is_that_of_running_the_jobs_one_by_one(
        self, plan: list[tuple[int, bool]]
    ) -> None:
        self.connection.execute("DELETE FROM t")
        expected: list[Any] = []
        kept: list[int] = []
        for value, fails in plan:
            if value in kept:
                expected.append(sqlite3.IntegrityError)
            elif fails:
                expected.append(LookupError)
            else:
                kept.append(value)
                expected.append(len(kept))
        jobs = [broken(value) if fails else insert(value) for value, fails in plan]
        self.assertEqual(values(run_batch(self.connection, jobs)), expected)
        self.assertEqual(self.stored(), sorted(kept))


class GuardTests(Batches):
    """A job cannot end the transaction that it shares with others."""

    def _refused(self, act: Callable[[sqlite3.Connection], object]) -> None:
        def job(connection: sqlite3.Connection) -> None:
            insert("mine")(connection)
            act(connection)

        outcomes = run_batch(self.connection, [insert("before"), job, insert("later")])
        self.assertEqual(values(outcomes), [1, sqlite3.DatabaseError, 2])
        self.assertEqual(self.stored(), ["before", "later"])
        self.assertEqual(self.commits(), 1)

    def test_by_the_method_commit(self) -> None:
        self._refused(lambda connection: connection.commit())

    def test_by_the_method_rollback(self) -> None:
        self._refused(lambda connection: connection.rollback())

    def test_by_a_statement(self) -> None:
        self._refused(lambda connection: connection.execute("COMMIT"))

    def test_by_a_statement_that_rolls_back(self) -> None:
        self._refused(lambda connection: connection.execute("ROLLBACK"))

    def test_by_a_script(self) -> None:
        self._refused(lambda connection: connection.executescript("SELECT 1"))

    def test_by_using_the_connection_as_a_context(self) -> None:
        def act(connection: sqlite3.Connection) -> None:
            with connection:
                pass

        self._refused(act)

    def test_also_after_a_commit_of_ours_was_prepared(self) -> None:
        run_batch(self.connection, [insert("first")])
        self.connection.execute("DELETE FROM t")
        self.trace.clear()
        self._refused(lambda connection: connection.execute("COMMIT"))

    def test_a_nested_savepoint_is_allowed(self) -> None:
        def job(connection: sqlite3.Connection) -> None:
            connection.execute("SAVEPOINT inner")
            insert("undone")(connection)
            connection.execute("ROLLBACK TO inner")
            insert("done")(connection)
            connection.execute("RELEASE inner")

        self.assertEqual(values(run_batch(self.connection, [job])), [None])
        self.assertEqual(self.stored(), ["done"])


class LostTransactionTests(Batches):
    """SQLite drops the whole transaction under the jobs."""

    def _full(self, connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO t (value) VALUES (zeroblob(200000))")

    def test_a_full_disk_fails_the_job_that_met_it_and_the_others_are_stored(self) -> None:
        self.connection.execute("PRAGMA max_page_count = 10")
        outcomes = run_batch(self.connection, [insert(1), insert(2), self._full, insert(3)])
        self.assertEqual(values(outcomes), [1, 2, StorageFailed, 3])
        self.assertEqual(self.stored(), [1, 2, 3])
        assert isinstance(outcomes[2], Failed)
        self.assertIn("database or disk is full", str(outcomes[2].error))
        self.assertIn("nothing of it was stored", str(outcomes[2].error))

    def test_the_connection_can_be_used_afterwards(self) -> None:
        self.connection.execute("PRAGMA max_page_count = 10")
        run_batch(self.connection, [self._full])
        self.assertEqual(values(run_batch(self.connection, [insert(1)])), [1])
        self.connection.execute("PRAGMA max_page_count = 1000")
        self.assertEqual(values(run_batch(self.connection, [self._full])), [None])

    def test_a_statement_that_rolls_everything_back_harms_its_own_job_only(self) -> None:
        def careless(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR ROLLBACK INTO t (value) VALUES (1)")

        outcomes = run_batch(self.connection, [insert(1), insert(2), careless, insert(3)])
        self.assertEqual(values(outcomes), [1, 2, sqlite3.IntegrityError, 3])
        self.assertEqual(self.stored(), [1, 2, 3])

    def test_a_job_is_run_twice_at_most(self) -> None:
        runs: list[int] = []

        def counted(number: int) -> Job[None]:
            def job(connection: sqlite3.Connection) -> None:
                runs.append(number)
                connection.execute("INSERT OR ROLLBACK INTO t (value) VALUES (?)", (number // 2,))

            return job

        outcomes = run_batch(self.connection, [counted(number) for number in range(10)])
        self.assertEqual(values(outcomes), [None, sqlite3.IntegrityError] * 5)
        self.assertEqual(self.stored(), [0, 1, 2, 3, 4])
        self.assertLessEqual(max(runs.count(number) for number in range(10)), 2)

    def test_a_job_that_hides_the_loss_is_found_out(self) -> None:
        def careless(connection: sqlite3.Connection) -> str:
            try:
                connection.execute("INSERT OR ROLLBACK INTO t (value) VALUES (1)")
            except sqlite3.IntegrityError:
                return "fine"
            return "what?"

        outcomes = run_batch(self.connection, [insert(1), careless, insert(2)])
        self.assertEqual(values(outcomes), [1, StorageFailed, 2])
        self.assertEqual(self.stored(), [1, 2])

    def test_a_job_that_cannot_be_taken_back_alone_is_taken_back_with_the_others(self) -> None:
        self.connection.refused = {"ROLLBACK TO meshkit_job": disk_error("SQLITE_IOERR")}
        outcomes = run_batch(self.connection, [insert(1), broken(2), insert(3)])
        self.assertEqual(values(outcomes), [1, LookupError, 2])
        self.assertEqual(self.stored(), [1, 3])

    def test_nothing_is_committed_on_a_connection_that_cannot_roll_back(self) -> None:
        self.connection.refused = {
            "ROLLBACK TO meshkit_job": disk_error("SQLITE_IOERR"),
            "ROLLBACK -- batch": disk_error("SQLITE_IOERR"),
        }
        outcomes = run_batch(self.connection, [insert(1), broken(2), insert(3)])
        self.assertTrue(self.connection.broken)
        self.assertEqual(values(outcomes)[1], LookupError)
        self.assertTrue(all(isinstance(outcome, Failed) for outcome in outcomes))
        self.connection.close()
        self.assertEqual(self.stored(), [])


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """Let the kernel refuse to write beyond C{limit} bytes into any file."""
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old_handler)


class RefusedCommitTests(Batches):
    schema = (
        "CREATE TABLE t (value UNIQUE);"
        "CREATE TABLE child (id REFERENCES t (value) DEFERRABLE INITIALLY DEFERRED)"
    )

    def setUp(self) -> None:
        super().setUp()
        self.connection.execute("PRAGMA foreign_keys = ON")

    def test_a_commit_that_the_disk_refuses_fails_every_job_and_stores_nothing(self) -> None:
        journal = os.path.getsize(f"{self.path}-wal")
        with small_files(journal):
            outcomes = run_batch(self.connection, [insert(1), broken(2), insert(3)])
        self.assertEqual(values(outcomes), [StorageFailed, LookupError, StorageFailed])
        assert isinstance(outcomes[0], Failed)
        self.assertIn("disk I/O error", str(outcomes[0].error))
        self.assertEqual(self.stored(), [])
        # And then there is room again.
        self.assertEqual(values(run_batch(self.connection, [insert(1)])), [1])
        self.assertEqual(self.stored(), [1])

    def test_a_full_disk_at_the_commit_does_the_same(self) -> None:
        self.connection.refused = {COMMIT: disk_error("SQLITE_FULL")}
        outcomes = run_batch(self.connection, [insert(1), insert(2)])
        self.assertEqual(values(outcomes), [StorageFailed, StorageFailed])
        # They are not tried again on a disk that has just refused them.
        self.assertEqual(sum(s.startswith("BEGIN") for s in self.trace), 1)
        self.connection.refused = {}
        self.assertEqual(values(run_batch(self.connection, [insert(3)])), [1])
        self.assertEqual(self.stored(), [3])

    def test_a_constraint_that_speaks_at_the_commit_fails_its_own_job_only(self) -> None:
        def orphan(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO child VALUES ('nobody')")

        outcomes = run_batch(self.connection, [insert(1), orphan, broken(7), insert(2)])
        self.assertEqual(values(outcomes), [1, sqlite3.IntegrityError, LookupError, 2])
        self.assertEqual(self.stored(), [1, 2])

    def test_a_file_that_another_program_holds_fails_every_job(self) -> None:
        other = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(other.close)
        other.execute("BEGIN IMMEDIATE")
        self.connection.execute("PRAGMA busy_timeout = 1")
        outcomes = run_batch(self.connection, [insert(1), insert(2)])
        self.assertEqual(values(outcomes), [StorageFailed, StorageFailed])
        other.execute("ROLLBACK")
        self.assertEqual(values(run_batch(self.connection, [insert(1)])), [1])


class ReadTests(Batches):
    def setUp(self) -> None:
        super().setUp()
        run_batch(self.connection, [insert(1)])
        self.reader = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(self.reader.close)

    def test_a_job_sees_one_state_from_its_first_statement_to_its_last(self) -> None:
        def count(connection: sqlite3.Connection) -> tuple[int, int]:
            (first,) = connection.execute("SELECT count(*) FROM t").fetchone()
            run_batch(self.connection, [insert(2)])
            (second,) = connection.execute("SELECT count(*) FROM t").fetchone()
            return first, second

        self.assertEqual(run_read(self.reader, count), (1, 1))
        self.assertEqual(
            run_read(self.reader, lambda c: c.execute("SELECT count(*) FROM t").fetchone()), (2,)
        )

    def test_a_failed_job_does_not_hold_its_state(self) -> None:
        def unfinished(connection: sqlite3.Connection) -> None:
            cursor = connection.execute("SELECT value FROM t")
            cursor.fetchone()
            raise LookupError

        self.assertRaises(LookupError, run_read, self.reader, unfinished)
        run_batch(self.connection, [insert(2)])
        # A reader in the middle of a state would keep the journal from being emptied.
        (busy, _, _) = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self.assertEqual(busy, 0)

    def test_the_error_of_a_job_does_not_keep_its_variables_alive(self) -> None:
        seen: list[weakref.ref[Held]] = []

        def job(connection: sqlite3.Connection) -> None:
            held = Held()
            seen.append(weakref.ref(held))
            raise LookupError

        try:
            run_read(self.reader, job)
        except LookupError as error:
            self.assertIsNotNone(error.__traceback__)
            self.assertIsNone(seen[0]())
        else:
            self.fail("the error was lost")

    def test_a_failing_disk_is_named(self) -> None:
        def job(connection: sqlite3.Connection) -> None:
            raise disk_error("SQLITE_IOERR")

        error = self.assertRaises(StorageFailed, run_read, self.reader, job)
        self.assertIn("could not be read (simulated SQLITE_IOERR)", str(error))
        self.assertFalse(self.reader.in_transaction)


class CodeTests(SynchronousTestCase):
    def test_an_extended_code_is_reduced_to_its_primary_one(self) -> None:
        self.assertEqual(primary_code(disk_error("SQLITE_IOERR_WRITE")), sqlite3.SQLITE_IOERR)

    def test_other_errors_have_none(self) -> None:
        self.assertIsNone(primary_code(sqlite3.ProgrammingError("closed")))

    def test_a_connection_without_a_job_may_commit(self) -> None:
        connection = sqlite3.connect(":memory:", isolation_level=None, factory=WriterConnection)
        self.addCleanup(connection.close)
        connection.guard()
        connection.execute("BEGIN")
        connection.commit()
        self.assertFalse(connection.in_transaction)
