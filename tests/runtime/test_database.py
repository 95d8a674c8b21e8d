"""What a fired Deferred says is on the disk is on the disk, and nobody waits too long."""

from __future__ import annotations

import os
import sqlite3
import threading
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase, TestCase

from meshkit.errors import NotReady, Overloaded, StartError, StorageFailed
from meshkit.runtime.container import DiskFile, MemoryFile
from meshkit.runtime.database import Database, DatabaseStatus
from meshkit.runtime.transactions import WriterConnection
from meshkit.runtime.workers import InlineWorkers

from .support import PATIENCE, ThreadedClock, rows, scratch

SCHEMA = {"test": ("CREATE TABLE t (value UNIQUE); CREATE TABLE counter (n);",)}


def insert(value: object) -> Any:
    def job(connection: sqlite3.Connection) -> object:
        connection.execute("INSERT INTO t (value) VALUES (?)", (value,))
        return value

    return job


def everything(connection: sqlite3.Connection) -> list[Any]:
    return [row[0] for row in connection.execute("SELECT value FROM t ORDER BY value")]


def next_number(connection: sqlite3.Connection) -> int:
    """Read, then write what follows: wrong as soon as two of them overlap."""
    (highest,) = connection.execute("SELECT coalesce(max(n), 0) FROM counter").fetchone()
    connection.execute("INSERT INTO counter (n) VALUES (?)", (highest + 1,))
    return int(highest) + 1


class TracingFile(DiskFile):
    """
    A file whose writer notes the commits.

    @cvar commits: how many there were since the test began.
    @cvar opened: the writers' connections.
    """

    commits = 0
    opened: list[WriterConnection]

    def open_writer(self) -> WriterConnection:
        connection = super().open_writer()
        connection.set_trace_callback(self._trace)
        self.opened.append(connection)
        return connection

    @classmethod
    def _trace(cls, statement: str) -> None:
        if statement.startswith("COMMIT"):
            cls.commits += 1


class Inline(SynchronousTestCase):
    """A database in a file, with a clock and without threads."""

    options: dict[str, Any] = {}

    def setUp(self) -> None:
        self.clock = Clock()
        self.path = os.path.join(scratch(self), "mesh.db")
        TracingFile.opened = []
        self.database = self.make(**self.options)
        self.database.open_and_migrate(SCHEMA)
        TracingFile.opened.clear()
        TracingFile.commits = 0
        self.database.startService()
        self.addCleanup(self.stop)
        self.successResultOf(self.after(self.database.when_ready()))

    def make(self, **options: Any) -> Database:
        options = {"threads": InlineWorkers, "backing": TracingFile, **options}
        return Database(self.clock, self.path, **options)

    def stop(self) -> None:
        self.successResultOf(self.after(self.database.stopService()))

    def after(self, deferred: Deferred[Any]) -> Deferred[Any]:
        self.clock.advance(0)
        return deferred

    def stored(self) -> list[Any]:
        """What another program sees in the file."""
        return rows(self.path, "SELECT value FROM t ORDER BY value")


class WritingTests(Inline):
    def test_the_writes_of_one_turn_share_one_commit(self) -> None:
        results = [self.database.write(insert(number)) for number in range(100)]
        self.clock.advance(0)
        self.assertEqual([self.successResultOf(r) for r in results], list(range(100)))
        self.assertEqual(TracingFile.commits, 1)
        self.assertEqual(self.stored(), list(range(100)))

    def test_deferreds_fire_after_the_commit_in_order_and_in_one_turn(self) -> None:
        events: list[object] = []

        def fired(value: int) -> None:
            # Another connection sees all of the batch already.
            events.append((value, len(self.stored()), TracingFile.commits))

        self.clock.callLater(0, events.append, "turn")
        for number in range(3):
            self.database.write(insert(number)).addCallback(fired)
        self.assertEqual(events, [])
        self.clock.advance(0)
        self.assertEqual(events, ["turn", (0, 3, 1), (1, 3, 1), (2, 3, 1)])

    def test_nothing_is_run_before_the_turn_is_over(self) -> None:
        result = self.database.write(insert(1))
        self.assertNoResult(result)
        self.assertEqual(self.database.status(), DatabaseStatus(1, 0, 0, 0))
        self.clock.advance(0)
        self.assertEqual(self.database.status(), DatabaseStatus(0, 0, 1, 1))

    def test_a_failing_job_fails_its_own_deferred_only(self) -> None:
        results = [self.database.write(insert(value)) for value in (1, 1, 2)]
        self.clock.advance(0)
        self.assertEqual(self.successResultOf(results[0]), 1)
        self.failureResultOf(results[1], sqlite3.IntegrityError)
        self.assertEqual(self.successResultOf(results[2]), 2)
        self.assertEqual(self.stored(), [1, 2])

    def test_what_a_callback_writes_goes_into_the_next_commit(self) -> None:
        second = self.database.write(insert(1)).addCallback(
            lambda _: self.database.write(insert(2))
        )
        self.clock.advance(0)
        self.assertEqual(self.successResultOf(second), 2)
        self.assertEqual(TracingFile.commits, 2)

    def test_a_callback_that_raises_does_not_harm_the_others(self) -> None:
        first = self.database.write(insert(1)).addCallback(lambda _: 1 / 0)
        second = self.database.write(insert(2))
        self.clock.advance(0)
        self.failureResultOf(first, ZeroDivisionError)
        self.assertEqual(self.successResultOf(second), 2)

    def test_two_who_count_up_together_never_get_the_same_number(self) -> None:
        numbers: list[int] = []

        def again(number: int | None = None) -> None:
            if number is not None:
                numbers.append(number)
            if len(numbers) < 20:
                self.database.write(next_number).addCallback(again)

        again()
        again()
        self.clock.advance(0)
        self.assertEqual(sorted(numbers), list(range(1, len(numbers) + 1)))
        self.assertEqual(rows(self.path, "SELECT n FROM counter ORDER BY n"), sorted(numbers))

    def test_a_full_disk_is_said_to_the_job_that_met_it(self) -> None:
        TracingFile.opened[0].execute("PRAGMA max_page_count = 12")
        small = self.database.write(insert(1))
        large = self.database.write(
            lambda c: c.execute("INSERT INTO t VALUES (zeroblob(500000))") and None
        )
        other = self.database.write(insert(2))
        self.clock.advance(0)
        self.assertEqual([self.successResultOf(d) for d in (small, other)], [1, 2])
        failure = self.failureResultOf(large, StorageFailed)
        self.assertIn("full", str(failure.value))
        self.assertEqual(self.stored(), [1, 2])

    def test_a_connection_that_cannot_roll_back_is_replaced(self) -> None:
        TracingFile.opened[0].execute("BEGIN")
        TracingFile.opened[0].broken = True
        result = self.database.write(insert(1))
        self.clock.advance(0)
        self.assertEqual(self.successResultOf(result), 1)
        self.assertEqual(len(TracingFile.opened), 2)

    def test_if_it_cannot_be_replaced_the_jobs_fail_by_name(self) -> None:
        TracingFile.opened[0].broken = True
        os.rename(self.path, f"{self.path}.away")
        result = self.database.write(insert(1))
        self.clock.advance(0)
        self.failureResultOf(result, StorageFailed)
        os.rename(f"{self.path}.away", self.path)
        again = self.database.write(insert(1))
        self.clock.advance(0)
        self.assertEqual(self.successResultOf(again), 1)


class SmallBatchTests(Inline):
    options = {"max_batch": 10}

    def test_a_batch_is_bounded(self) -> None:
        results = [self.database.write(insert(number)) for number in range(25)]
        self.clock.advance(0)
        self.assertEqual([self.successResultOf(r) for r in results], list(range(25)))
        self.assertEqual(TracingFile.commits, 3)

    def test_who_watches_is_told_of_each_batch(self) -> None:
        told: list[tuple[int, float]] = []
        self.database.on_batch = lambda jobs, seconds: told.append((jobs, seconds))
        for number in range(25):
            self.database.write(insert(number))
        self.clock.advance(0)
        self.assertEqual(told, [(10, 0.0), (10, 0.0), (5, 0.0)])

    def test_a_stop_waits_for_all_batches(self) -> None:
        results = [self.database.write(insert(number)) for number in range(45)]
        reads = [self.database.read(everything) for _ in range(45)]
        stopped = self.database.stopService()
        self.clock.advance(0)
        self.assertEqual([self.successResultOf(r) for r in results], list(range(45)))
        self.assertEqual(len([self.successResultOf(r) for r in reads]), 45)
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual(TracingFile.commits, 5)
        self.assertEqual(len(TracingFile.opened), 1)


class LimitTests(Inline):
    options = {"max_waiting": 5, "readers": 1}

    def test_beyond_the_limit_writes_are_refused_at_once(self) -> None:
        accepted = [self.database.write(insert(number)) for number in range(5)]
        failure = self.failureResultOf(self.database.write(insert(5)), Overloaded)
        self.assertIn("5 writes", str(failure.value))
        self.clock.advance(0)
        self.assertEqual([self.successResultOf(r) for r in accepted], list(range(5)))
        self.assertEqual(self.successResultOf(self.after(self.database.write(insert(5)))), 5)

    def test_beyond_the_limit_reads_are_refused_at_once(self) -> None:
        accepted = [self.database.read(everything) for _ in range(6)]  # one is being run
        failure = self.failureResultOf(self.database.read(everything), Overloaded)
        self.assertIn("5 reads", str(failure.value))
        self.clock.advance(0)
        self.assertEqual([self.successResultOf(r) for r in accepted], [[]] * 6)
        self.assertEqual(self.successResultOf(self.after(self.database.read(everything))), [])

    def test_a_cancelled_write_makes_room(self) -> None:
        waiting = [self.database.write(insert(number)) for number in range(5)]
        waiting[2].cancel()
        self.failureResultOf(waiting[2], CancelledError)
        last = self.database.write(insert(9))
        self.clock.advance(0)
        self.assertEqual(self.successResultOf(last), 9)
        self.assertEqual(self.stored(), [0, 1, 3, 4, 9])


class CancelTests(Inline):
    def test_a_write_cancelled_while_it_waits_is_never_run(self) -> None:
        result = self.database.write(insert(1))
        result.cancel()
        self.clock.advance(0)
        self.failureResultOf(result, CancelledError)
        self.assertEqual(self.stored(), [])
        self.assertEqual(TracingFile.commits, 0)

    def test_a_write_cancelled_once_its_batch_has_begun_is_stored(self) -> None:
        def during(connection: sqlite3.Connection) -> None:
            insert("mine")(connection)
            mine.cancel()
            neighbour.cancel()

        mine = self.database.write(during)
        neighbour = self.database.write(insert("neighbour"))
        last = self.database.write(insert("last"))
        self.clock.advance(0)
        self.failureResultOf(mine, CancelledError)
        self.failureResultOf(neighbour, CancelledError)
        self.assertEqual(self.successResultOf(last), "last")
        self.assertEqual(self.stored(), ["last", "mine", "neighbour"])

    def test_a_read_cancelled_while_it_waits_is_never_run(self) -> None:
        ran: list[int] = []
        results = [self.database.read(lambda _, n=n: ran.append(n)) for n in range(5)]
        results[4].cancel()  # three are waiting for the two readers
        self.clock.advance(0)
        self.failureResultOf(results[4], CancelledError)
        self.assertEqual(ran, [0, 1, 2, 3])

    def test_a_read_cancelled_while_it_runs_only_loses_its_result(self) -> None:
        result = self.database.read(lambda _: result.cancel())
        self.clock.advance(0)
        self.failureResultOf(result, CancelledError)
        self.assertEqual(self.successResultOf(self.after(self.database.read(everything))), [])


class ReadingTests(Inline):
    def test_a_read_sees_every_write_that_has_fired(self) -> None:
        result = self.database.write(insert(1)).addCallback(
            lambda _: self.database.read(everything)
        )
        self.clock.advance(0)
        self.assertEqual(self.successResultOf(result), [1])

    def test_a_read_sees_what_is_committed_while_a_write_is_open(self) -> None:
        seen: list[list[Any]] = []

        def job(connection: sqlite3.Connection) -> None:
            insert(2)(connection)
            # The very thing a reader's thread would run at this moment.
            with_reader = DiskFile(self.path).open_reader()
            seen.append(everything(with_reader))
            with_reader.close()

        self.successResultOf(self.after(self.database.write(insert(1))))
        self.successResultOf(self.after(self.database.write(job)))
        self.assertEqual(seen, [[1]])

    def test_a_read_cannot_write(self) -> None:
        result = self.database.read(insert(1))
        self.clock.advance(0)
        failure = self.failureResultOf(result, StorageFailed)
        self.assertIn("readonly", str(failure.value))
        self.assertEqual(self.stored(), [])

    def test_an_error_of_a_read_is_its_own(self) -> None:
        bad = self.database.read(lambda c: c.execute("SELECT nonsense"))
        good = self.database.read(everything)
        self.clock.advance(0)
        self.failureResultOf(bad, sqlite3.OperationalError)
        self.assertEqual(self.successResultOf(good), [])

    def test_a_read_whose_state_could_not_be_ended_does_not_spoil_the_next(self) -> None:
        def job(connection: sqlite3.Connection) -> None:
            connection.execute("ROLLBACK")
            connection.execute("BEGIN")
            connection.set_authorizer(lambda *_: sqlite3.SQLITE_DENY)

        results = [self.after(self.database.read(job)) for _ in range(2)]  # both readers
        for result in results:
            self.failureResultOf(result, sqlite3.DatabaseError)
        for _ in range(3):
            self.assertEqual(self.successResultOf(self.after(self.database.read(everything))), [])


class LifeTests(Inline):
    def test_data_outlive_a_stop(self) -> None:
        self.successResultOf(self.after(self.database.write(insert(1))))
        for _ in range(2):  # once for each reader
            self.successResultOf(self.after(self.database.read(everything)))
        self.stop()
        self.assertEqual(os.listdir(os.path.dirname(self.path)), ["mesh.db"])
        again = self.make()
        again.open_and_migrate(SCHEMA)
        again.startService()
        self.assertEqual(self.successResultOf(self.after(again.read(everything))), [1])
        self.successResultOf(self.after(again.stopService()))

    def test_the_same_object_can_be_started_again(self) -> None:
        self.stop()
        self.database.startService()
        self.assertEqual(self.successResultOf(self.after(self.database.write(insert(1)))), 1)

    def test_a_stop_does_what_was_accepted_first(self) -> None:
        writes = [self.database.write(insert(number)) for number in range(3)]
        reads = [self.database.read(everything) for _ in range(5)]
        stopped = self.database.stopService()
        again = self.database.stopService()
        self.assertNoResult(stopped)
        self.failureResultOf(self.database.write(insert(9)), NotReady)
        self.failureResultOf(self.database.read(everything), NotReady)
        self.clock.advance(0)
        self.assertEqual([self.successResultOf(d) for d in writes], [0, 1, 2])
        self.assertEqual(len([self.successResultOf(d) for d in reads]), 5)
        self.assertIsNone(self.successResultOf(stopped))
        self.assertIsNone(self.successResultOf(again))
        self.assertEqual(self.stored(), [0, 1, 2])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_stop_is_not_held_up_by_what_was_cancelled(self) -> None:
        write = self.database.write(insert(1))
        reads = [self.database.read(everything) for _ in range(3)]
        stopped = self.database.stopService()
        write.cancel()
        reads[2].cancel()
        self.clock.advance(0)
        self.failureResultOf(write, CancelledError)
        self.failureResultOf(reads[2], CancelledError)
        self.assertEqual([self.successResultOf(read) for read in reads[:2]], [[], []])
        self.assertIsNone(self.successResultOf(stopped))

    def test_a_stop_with_nothing_but_a_cancelled_write(self) -> None:
        write = self.database.write(insert(1))
        stopped = self.database.stopService()
        write.cancel()
        self.failureResultOf(write, CancelledError)
        self.clock.advance(0)
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_stop_right_after_the_start(self) -> None:
        self.stop()
        self.database.startService()
        ready, write = self.database.when_ready(), self.database.write(insert(1))
        stopped = self.database.stopService()
        self.assertRaises(NotReady, self.database.startService)
        self.clock.advance(0)
        self.assertIsNone(self.successResultOf(ready))
        self.assertEqual(self.successResultOf(write), 1)
        self.assertIsNone(self.successResultOf(stopped))

    def test_a_callback_may_stop_it(self) -> None:
        first = self.database.write(insert(1)).addCallback(lambda _: self.database.stopService())
        second = self.database.write(insert(2))
        self.clock.advance(0)
        self.assertIsNone(self.successResultOf(first))
        self.assertEqual(self.successResultOf(second), 2)

    def test_before_the_start_and_after_the_stop_nothing_is_accepted(self) -> None:
        idle = self.make()
        for database in (idle, self.database):
            if database is self.database:
                self.stop()
            self.failureResultOf(database.write(insert(1)), NotReady)
            self.failureResultOf(database.read(everything), NotReady)
            self.failureResultOf(database.when_ready(), NotReady)
            self.assertEqual(database.status(), DatabaseStatus(0, 0, 0, 0))
            self.assertIsNone(self.successResultOf(database.stopService()))

    def test_it_cannot_be_migrated_while_it_runs(self) -> None:
        self.assertRaises(RuntimeError, self.database.open_and_migrate, SCHEMA)

    def test_if_the_file_is_gone_everything_fails_by_name(self) -> None:
        self.stop()
        os.unlink(self.path)
        self.database.startService()
        early = [self.database.write(insert(1)), self.database.read(everything)]
        ready = self.database.when_ready()
        self.clock.advance(0)
        late = [self.database.write(insert(1)), self.database.read(everything)]
        for result in (*early, ready, *late, self.database.when_ready()):
            failure = self.failureResultOf(result, StartError)
            self.assertIn(self.path, str(failure.value))
        self.assertFalse(os.path.exists(self.path))

    def test_a_journal_that_cannot_be_folded_in_is_logged_and_nothing_is_lost(self) -> None:
        self.successResultOf(self.after(self.database.write(insert(1))))
        TracingFile.opened[0].set_authorizer(
            lambda action, name, *_: (
                sqlite3.SQLITE_DENY if name == "wal_checkpoint" else sqlite3.SQLITE_OK
            )
        )
        with capturedLogs() as logs:
            self.stop()
        self.assertEqual([event["log_level"] for event in logs], [LogLevel.warn])
        self.assertEqual(self.stored(), [1])

    def test_it_needs_a_reader_and_a_batch(self) -> None:
        self.assertRaises(ValueError, self.make, readers=0)
        self.assertRaises(ValueError, self.make, max_batch=0)


class MemoryTests(Inline):
    """The same in memory, as a simulation has it."""

    def make(self, **options: Any) -> Database:
        self.memory = MemoryFile("/simulated/mesh.db")
        self.addCleanup(self.memory.close)
        return super().make(backing=lambda path: self.memory, **options)

    def test_it_writes_reads_stops_and_starts(self) -> None:
        written = [self.database.write(insert(number)) for number in range(3)]
        self.clock.advance(0)
        self.assertEqual([self.successResultOf(d) for d in written], [0, 1, 2])
        self.stop()
        self.database.open_and_migrate(SCHEMA)
        self.database.startService()
        self.assertEqual(
            self.successResultOf(self.after(self.database.read(everything))), [0, 1, 2]
        )


class ThreadTests(SynchronousTestCase):
    """With real threads, on a clock of our own."""

    def setUp(self) -> None:
        self.clock = ThreadedClock()
        self.path = os.path.join(scratch(self), "mesh.db")

    def start(self, **options: Any) -> Database:
        database = Database(self.clock, self.path, **options)
        database.open_and_migrate(SCHEMA)
        database.startService()
        return database

    def until(self, *deferreds: Deferred[Any]) -> None:
        self.clock.until(lambda: all(deferred.called for deferred in deferreds))

    def test_readers_do_not_wait_for_a_writer_that_is_at_it(self) -> None:
        database = self.start()
        inside, leave = threading.Event(), threading.Event()

        def slow(connection: sqlite3.Connection) -> None:
            insert(2)(connection)
            inside.set()
            if not leave.wait(PATIENCE):
                raise AssertionError("nobody let the writer go")

        self.until(database.write(insert(1)))
        write = database.write(slow)
        self.clock.until(inside.is_set)
        reads = [database.read(everything) for _ in range(6)]
        self.until(*reads)
        self.assertEqual([self.successResultOf(read) for read in reads], [[1]] * 6)
        self.assertNoResult(write)
        leave.set()
        self.until(write)
        after = database.read(everything)
        self.until(after)
        self.assertEqual(self.successResultOf(after), [1, 2])
        self.until(database.stopService())

    def test_what_comes_while_a_batch_is_written_is_the_next_batch(self) -> None:
        database = self.start()
        inside, leave = threading.Event(), threading.Event()

        def slow(connection: sqlite3.Connection) -> None:
            inside.set()
            leave.wait(PATIENCE)

        first = database.write(slow)
        self.clock.until(inside.is_set)
        others = [database.write(insert(number)) for number in range(50)]
        self.clock.advance(0)
        self.assertEqual(database.status().waiting_writes, 50)
        leave.set()
        self.until(first, *others)
        self.assertEqual(database.status(), DatabaseStatus(0, 0, 51, 2))
        self.until(database.stopService())

    def test_no_thread_outlives_the_stop(self) -> None:
        before = threading.active_count()
        database = self.start(readers=3)
        work = [database.read(lambda _: threading.current_thread().name) for _ in range(3)]
        write = database.write(insert(1))
        self.until(write, *work)
        names = [self.successResultOf(name) for name in work]
        self.assertEqual(len(set(names)), 3)
        self.assertTrue(all("database-reader" in name for name in names))
        self.until(database.stopService())
        self.assertEqual(threading.active_count(), before)

    def test_a_stop_is_bounded_even_if_a_job_is_not(self) -> None:
        database = self.start(stop_seconds=5, max_batch=1)
        inside, leave = threading.Event(), threading.Event()

        def stuck(connection: sqlite3.Connection) -> str:
            insert("stuck")(connection)
            inside.set()
            leave.wait(PATIENCE)
            return "late"

        stuck_write, waiting = database.write(stuck), database.write(insert("waiting"))
        self.clock.until(inside.is_set)
        stopped = database.stopService()
        self.clock.advance(4.9)
        self.assertNoResult(stopped)
        with capturedLogs() as logs:
            self.clock.advance(0.1)
        self.assertIsNone(self.successResultOf(stopped))
        self.assertEqual([event["log_level"] for event in logs], [LogLevel.error])
        self.failureResultOf(waiting, NotReady)
        self.assertNoResult(stuck_write)
        # It comes through after all: what it says is true, and its thread ends.
        leave.set()
        self.until(stuck_write)
        self.assertEqual(self.successResultOf(stuck_write), "late")
        name = "database-writer"
        self.clock.until(lambda: not any(name in thread.name for thread in threading.enumerate()))
        self.assertEqual(rows(self.path, "SELECT value FROM t"), ["stuck"])


class RealReactorTests(TestCase):
    """On the reactor that a daemon runs."""

    async def test_two_writers_and_a_reader(self) -> None:
        path = os.path.join(scratch(self), "mesh.db")
        database = Database(reactor, path)
        database.open_and_migrate(SCHEMA)
        database.startService()
        await database.when_ready()

        async def count() -> list[int]:
            return [await database.write(next_number) for _ in range(25)]

        one, two = await gatherResults([Deferred.fromCoroutine(count()) for _ in range(2)])
        self.assertEqual(sorted(one + two), list(range(1, 51)))
        self.assertEqual(one, sorted(one))
        self.assertLess(database.status().batches, 50)
        total = await database.read(
            lambda connection: connection.execute("SELECT count(*) FROM counter").fetchone()[0]
        )
        self.assertEqual(total, 50)
        pending = database.write(insert("last"))
        await database.stopService()
        self.assertEqual(self.successResultOf(pending), "last")
        self.assertEqual(rows(path, "SELECT value FROM t"), ["last"])
