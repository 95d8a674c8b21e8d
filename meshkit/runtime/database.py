"""
The database of a daemon: one SQLite file, one thread that writes, a few that read.

Writes are grouped.  While one batch is on its way to the disk, the next ones gather;
L{meshkit.runtime.transactions.run_batch} makes one transaction of each.  Only after its
C{COMMIT} has returned do the Deferreds of the batch fire, all in one turn of the reactor
and in the order in which the jobs were given.  With C{synchronous=FULL} a job whose
Deferred has fired is on the disk.

Readers have connections of their own.  In WAL mode they see the last commit and
neither wait for the writer nor hold it up.

Every queue and every Deferred here belongs to the reactor's thread; what goes to
another thread is a list of jobs, and what comes back is a list of outcomes.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from attrs import define, frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.errors import NotReady, Overloaded, StartError
from meshkit.runtime.container import Backing, DiskFile, migrate
from meshkit.runtime.transactions import (
    Failed,
    Job,
    Outcome,
    Succeeded,
    WriterConnection,
    run_batch,
    run_read,
    write_failed,
)
from meshkit.runtime.workers import WorkerFactory, WorkerPool, Workers

__all__ = ["MAX_BATCH", "MAX_WAITING", "STOP_SECONDS", "Database", "DatabaseStatus"]

T = TypeVar("T")

#: How many writes, and how many reads, may wait.
MAX_WAITING: Final = 10_000
#: How many jobs one transaction holds.  More gain nothing: the sync is under 1 % by then.
MAX_BATCH: Final = 1_000
#: How long a stop waits for what was accepted, in seconds.
STOP_SECONDS: Final = 30.0


class _Handle:
    """One connection, opened, used and closed in one thread."""

    def __init__(self, backing: Backing) -> None:
        self._backing = backing
        self._writer: WriterConnection | None = None
        self._reader: sqlite3.Connection | None = None

    def open_writer(self) -> None:
        self._writer = self._backing.open_writer()

    def open_reader(self) -> None:
        self._reader = self._backing.open_reader()

    def write(self, jobs: Sequence[Job[Any]]) -> list[Outcome]:
        try:
            writer = self._writer
            if writer is not None and writer.broken:
                self._writer = None
                writer.close()
            if self._writer is None:
                self._writer = self._backing.open_writer()
        except (sqlite3.Error, StartError) as error:
            return [Failed(write_failed(error)) for _ in jobs]
        return run_batch(self._writer, jobs)

    def read(self, job: Job[T]) -> T:
        reader = self._reader
        if reader is not None and reader.in_transaction:
            # The last job's could not be ended.
            self._reader = None
            reader.close()
        if self._reader is None:
            self._reader = self._backing.open_reader()
        return run_read(self._reader, job)

    def close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def close_writer(self) -> sqlite3.Error | None:
        """@return: why the journal was not folded into the file.  It is safe all the same."""
        if self._writer is None:
            return None
        problem = None
        try:
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            problem = error
        self._writer.close()
        self._writer = None
        return problem


@define(eq=False)
class _Waiting:
    """A job that nobody has begun."""

    job: Job[Any]
    deferred: Deferred[Any]


@define(eq=False)
class _Reader:
    """One reading thread and its connection."""

    lane: Workers
    handle: _Handle


@frozen
class DatabaseStatus:
    """
    What the database is doing.

    @ivar waiting_writes: jobs that no transaction has begun with.
    @ivar waiting_reads: jobs that no thread has begun.
    @ivar writes: jobs that were given an outcome since the start.
    @ivar batches: how many times the writer thread was asked for them.
    """

    waiting_writes: int
    waiting_reads: int
    writes: int
    batches: int


class _Once:
    """Something that happens once, and any number of waiters for it."""

    def __init__(self) -> None:
        self._waiters: list[Deferred[None]] = []
        self._result: Failure | None = None
        self._happened = False

    def wait(self) -> Deferred[None]:
        waiter: Deferred[None] = Deferred()
        if self._happened:
            waiter.callback(self._result)
        else:
            self._waiters.append(waiter)
        return waiter

    def fire(self, result: Failure | None = None) -> None:
        if self._happened:
            return
        self._happened = True
        self._result = result
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.called:  # the waiter may have been cancelled
                waiter.callback(result)


def _fire(waiting: _Waiting, result: object) -> None:
    # A caller who cancelled after the job was begun has had its CancelledError.
    if not waiting.deferred.called:
        waiting.deferred.callback(result)


def _results(outcomes: Sequence[Outcome]) -> list[object]:
    return [
        outcome.value if isinstance(outcome, Succeeded) else Failure(outcome.error)
        for outcome in outcomes
    ]


class _Session:
    """The time from a start of the database to the end of the stop that follows it."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        backing: Backing,
        threads: WorkerFactory,
        readers: int,
        max_waiting: int,
        max_batch: int,
        written: Callable[[int, float], None],
    ) -> None:
        self._reactor = reactor
        self._written = written
        self._name = backing.name
        self._max_waiting = max_waiting
        self._max_batch = max_batch
        self._writer = _Handle(backing)
        self._writer_lane = threads(reactor, 1, name="database-writer")
        self._readers = [
            _Reader(threads(reactor, 1, name=f"database-reader-{number}"), _Handle(backing))
            for number in range(readers)
        ]
        self._idle: list[_Reader] = []
        self._open = False
        self._failed: Failure | None = None
        self._writing = False
        self._next_batch: IDelayedCall | None = None
        self._writes: OrderedDict[int, _Waiting] = OrderedDict()
        self._reads: OrderedDict[int, _Waiting] = OrderedDict()
        self._tickets = 0
        self._write_count = 0
        self._batch_count = 0
        self._stopping = False
        self._drained = _Once()
        self.opened = _Once()
        self.stopped = _Once()

    def status(self) -> DatabaseStatus:
        return DatabaseStatus(
            len(self._writes), len(self._reads), self._write_count, self._batch_count
        )

    # --- opening

    def start(self) -> None:
        opening = Deferred.fromCoroutine(self._open_all())
        opening.addCallbacks(self._all_open, self._open_failed)

    async def _open_all(self) -> None:
        for lane in self._lanes():
            lane.startService()
        await self._writer_lane.run(self._writer.open_writer)
        # One shows that it can be done.  Others are opened when two read at the same time, as
        # each keeps the whole schema in memory.
        await self._readers[0].lane.run(self._readers[0].handle.open_reader)

    def _lanes(self) -> list[Workers]:
        return [self._writer_lane, *(reader.lane for reader in self._readers)]

    def _all_open(self, _: None) -> None:
        self._open = True
        self._idle.extend(reversed(self._readers))
        self.opened.fire()
        self._schedule_batch()
        self._dispatch_reads()
        self._check_drained()

    def _open_failed(self, reason: Failure) -> None:
        if not reason.check(StartError):
            reason = Failure(
                StartError(f"the database {self._name} cannot be opened: {reason.value}")
            )
        self._failed = reason
        self._drop_waiting(reason)
        self.opened.fire(reason)
        self._check_drained()

    def _drop_waiting(self, reason: Failure) -> None:
        dropped = [*self._writes.values(), *self._reads.values()]
        self._writes.clear()
        self._reads.clear()
        for waiting in dropped:
            _fire(waiting, reason)

    # --- writing

    def write(self, job: Job[T]) -> Deferred[T]:
        return self._accept(job, self._writes, "writes", self._schedule_batch)

    def _accept(
        self,
        job: Job[T],
        queue: OrderedDict[int, _Waiting],
        what: str,
        then: Callable[[], None],
    ) -> Deferred[T]:
        if self._failed is not None:
            return fail(self._failed)
        if len(queue) >= self._max_waiting:
            return fail(
                Overloaded(
                    f"{self._max_waiting} {what} wait for the database already: "
                    f"try again in a moment"
                )
            )
        ticket = self._tickets
        self._tickets += 1

        def forget(_: Deferred[T]) -> None:
            queue.pop(ticket, None)

        deferred: Deferred[T] = Deferred(forget)
        queue[ticket] = _Waiting(job, deferred)
        then()
        return deferred

    def _schedule_batch(self) -> None:
        # Not at once: all that is written in one turn of the reactor is one batch.
        if self._open and self._writes and not self._writing and self._next_batch is None:
            self._next_batch = self._reactor.callLater(0, self._begin_batch)

    def _begin_batch(self) -> None:
        self._next_batch = None
        batch = [
            self._writes.popitem(last=False)[1]
            for _ in range(min(len(self._writes), self._max_batch))
        ]
        if not batch:
            self._check_drained()  # all were cancelled
            return
        self._writing = True
        began = self._reactor.seconds()
        done = self._writer_lane.run(self._writer.write, [waiting.job for waiting in batch])
        done.addCallbacks(_results, lambda reason: [reason for _ in batch]).addCallback(
            self._batch_done, batch, began
        )

    def _batch_done(
        self, results: Sequence[object], batch: Sequence[_Waiting], began: float
    ) -> None:
        self._writing = False
        self._batch_count += 1
        self._write_count += len(batch)
        taken = self._reactor.seconds() - began
        # The disk first: it can work while the callbacks below are run.
        if self._writes:
            self._begin_batch()
        self._written(len(batch), taken)
        for waiting, result in zip(batch, results, strict=True):
            _fire(waiting, result)
        self._check_drained()

    # --- reading

    def read(self, job: Job[T]) -> Deferred[T]:
        return self._accept(job, self._reads, "reads", self._dispatch_reads)

    def _dispatch_reads(self) -> None:
        while self._idle and self._reads:
            # The one that read last, whose pages are at hand.
            reader = self._idle.pop()
            waiting = self._reads.popitem(last=False)[1]
            reader.lane.run(reader.handle.read, waiting.job).addBoth(
                self._read_done, reader, waiting
            )

    def _read_done(self, result: object, reader: _Reader, waiting: _Waiting) -> None:
        self._idle.append(reader)
        self._dispatch_reads()
        _fire(waiting, result)
        self._check_drained()

    # --- stopping

    def stop(self, seconds: float) -> None:
        self._stopping = True
        deadline = self._reactor.callLater(seconds, self._abandon, seconds)

        def shut_down(_: object) -> None:
            if deadline.active():
                deadline.cancel()
            self.stopped.fire()

        Deferred.fromCoroutine(self._shut_down()).addErrback(self._bug).addCallback(shut_down)
        self._check_drained()

    def _check_drained(self) -> None:
        # A read that is being made need not be waited for: its thread closes after it.
        writing = self._writing or self._next_batch is not None
        if self._stopping and not (writing or self._writes or self._reads):
            self._drained.fire()

    async def _shut_down(self) -> None:
        with suppress(StartError):  # when_ready has said so; close what was opened
            await self.opened.wait()
        await self._drained.wait()
        for reader in self._readers:
            await reader.lane.run(reader.handle.close_reader)
        # Last, as the last one to close folds the journal into the file.
        problem = await self._writer_lane.run(self._writer.close_writer)
        if problem is not None:
            self._log.warn(
                "the journal of {name} was not folded into it ({problem}): "
                "that is done at the next start",
                name=self._name,
                problem=str(problem),
            )
        for lane in self._lanes():
            await lane.stopService()

    def _bug(self, reason: Failure) -> None:
        self._log.failure("closing the database {name}", reason, name=self._name)

    def _abandon(self, seconds: float) -> None:
        self._log.error(
            "the database {name} did not finish within {seconds} s: {writes} writes and "
            "{reads} reads are given up",
            name=self._name,
            seconds=seconds,
            writes=len(self._writes),
            reads=len(self._reads),
        )
        self._drop_waiting(
            Failure(NotReady(f"the database {self._name} stopped before this was begun"))
        )
        self.stopped.fire()
        self._check_drained()


def _unwatched(jobs: int, seconds: float) -> None:
    pass


class Database(Service):
    """
    See the module.

    All its methods are for the reactor's thread.  The order is: L{open_and_migrate}
    before the daemon forks or after, C{startService} after; nothing stays open in
    between, since SQLite's handles do not survive a fork.

    @ivar on_batch: called with the number of jobs of each batch, and the seconds from when
        it was handed to the writer thread until it was on the disk.
    """

    def __init__(
        self,
        reactor: Any,
        path: str,
        *,
        threads: WorkerFactory = WorkerPool,
        backing: Callable[[str], Backing] = DiskFile,
        readers: int = 2,
        max_waiting: int = MAX_WAITING,
        max_batch: int = MAX_BATCH,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        """
        @param reactor: clock, and what C{threads} needs of it.
        @param path: of the file.  Its folder must exist.
        @param threads: makes the one-thread pools, one for the writer and one for each
            reader.
        @param backing: makes what keeps the data under that path.
        @param readers: how many reads run at the same time.
        @param max_waiting: how many writes may wait, and how many reads.
        @param max_batch: how many jobs go into one transaction.
        @param stop_seconds: how long L{stopService} waits for what was accepted.
        """
        if readers < 1 or max_batch < 1:
            raise ValueError("a database needs at least one reader and one job to a batch")
        self._reactor = reactor
        self._threads = threads
        self._backing = backing(path)
        self._reader_count = readers
        self._max_waiting = max_waiting
        self._max_batch = max_batch
        self._stop_seconds = stop_seconds
        self.on_batch: Callable[[int, float], None] = _unwatched
        self._session: _Session | None = None
        self._ending: _Session | None = None

    def open_and_migrate(self, migrations: Mapping[str, Sequence[str]]) -> None:
        """
        Make the file if there is none, check it, and bring every part's tables to this
        version.  Blocks; may be called again while the service is not running, and
        leaves nothing open.

        Script I{i} of a part takes its tables from version I{i} to I{i+1}, in one
        transaction together with the note that it did.  Foreign keys are checked at
        the end of a script rather than in it, so that a table can be made anew.  Parts
        that are not named are left as they are.

        @param migrations: SQL scripts of each part, oldest first.
        @raise NotADatabase: if the file is damaged or is not ours.  It is untouched.
        @raise NewerSchema: if a newer meshkit has been here.  The file is untouched.
        @raise MigrationFailed: if a script cannot be run; those before it are in force.
        @raise StartError: if the file cannot be made or opened, or SQLite lacks FTS5.
        """
        if self._session is not None or self._ending is not None:
            raise RuntimeError("the database is running: migrate it before it is started")
        migrate(self._backing, migrations)

    def startService(self) -> None:
        """
        Start the threads and have them open the connections.  Jobs given from now on
        wait for that; if it fails, they fail with the same L{StartError} as
        L{when_ready}.

        @raise NotReady: if it is still stopping.
        """
        if self._ending is not None:
            raise NotReady(f"the database {self._backing.name} is still stopping")
        if self._session is None:
            super().startService()
            self._session = _Session(
                self._reactor,
                self._backing,
                self._threads,
                self._reader_count,
                self._max_waiting,
                self._max_batch,
                # Whoever watches may come later.
                lambda jobs, seconds: self.on_batch(jobs, seconds),
            )
            self._session.start()

    def when_ready(self) -> Deferred[None]:
        """
        @return: Deferred that fires when the connections are open.  Fails with
            L{StartError} if one cannot be opened, with L{NotReady} if the service is
            not running.
        """
        if self._session is None:
            return fail(self._not_running())
        return self._session.opened.wait()

    def write(self, job: Job[T]) -> Deferred[T]:
        """
        Run a job in the writer thread, in a transaction that it shares with others.

        Jobs are run in the order in which they are given.  A job that raises leaves
        no trace, and others do not notice.  It must not begin, commit or roll back
        (that fails), must let the errors of SQLite pass, and must have no effect but
        through its connection, as it may be run a second time: see
        L{run_batch}.

        Cancelling the Deferred while the job waits takes it out of the queue; once its
        transaction has begun, cancelling has no effect on what is stored.

        @param job: called with the connection; returns the result.  It must not keep
            the connection or a cursor.
        @return: Deferred of what the job returned, fired when that is on the disk.
            Fails with what the job raised; with L{StorageFailed} if the disk refused
            it; with L{Overloaded} if C{max_waiting} writes wait already; with
            L{NotReady} if the service is not running.  Unless it fires, nothing of the
            job is stored.
        """
        if self._session is None:
            return fail(self._not_running())
        return self._session.write(job)

    def read(self, job: Job[T]) -> Deferred[T]:
        """
        Run a job that only reads, in a thread that never waits for the writer.

        It sees one state of the database from its first statement to its last, which
        contains every write whose Deferred had fired when it was given.  Cancelling
        works as for L{write}.

        @param job: called with a connection that cannot write; returns the result.
        @return: Deferred of what the job returned; fails as L{write}'s does.
        """
        if self._session is None:
            return fail(self._not_running())
        return self._session.read(job)

    def status(self) -> DatabaseStatus:
        """@return: what is going on now.  All zero if the service is not running."""
        if self._session is None:
            return DatabaseStatus(0, 0, 0, 0)
        return self._session.status()

    def stopService(self) -> Deferred[None]:
        """
        Accept nothing more, do what was accepted, fold the journal into the file and
        close everything.

        After C{stop_seconds} what was not begun fails with L{NotReady}, and the Deferred
        fires even if the disk keeps a thread busy.

        @return: Deferred that fires with L{None}; it does not fail.
        """
        if self._session is not None:
            super().stopService()
            self._ending, self._session = self._session, None
            self._ending.stopped.wait().addCallback(self._ended)
            self._ending.stop(self._stop_seconds)
        if self._ending is None:
            return succeed(None)
        return self._ending.stopped.wait()

    def _ended(self, _: None) -> None:
        self._ending = None

    def _not_running(self) -> NotReady:
        return NotReady(f"the database {self._backing.name} is not running")
