"""
Many jobs in one SQLite transaction, such that each keeps its own fate.  Pure: no
Twisted, no threads, no clock.

A batch is one transaction, each job in it a savepoint::

    BEGIN IMMEDIATE
      SAVEPOINT   job 1   RELEASE
      SAVEPOINT   job 2   ROLLBACK TO, RELEASE      it failed: alone
      ...
    COMMIT                                          one sync for all of them

SQLite sometimes rolls back more than it was asked to: when the disk is full or
fails, it may drop the whole transaction (U{https://sqlite.org/lang_transaction.html},
section 3.1), and C{INSERT OR ROLLBACK} always does.  What the jobs before had done is
lost then, though they had succeeded.  L{run_batch} notices, and runs the other jobs of
that batch again, each in a transaction of its own.
"""

from __future__ import annotations

import sqlite3
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import isawaitable
from typing import Any, Final, Generic, TypeVar

from attrs import frozen

from meshkit.errors import StorageFailed

__all__ = [
    "BEGIN",
    "COMMIT",
    "Failed",
    "Job",
    "Outcome",
    "Succeeded",
    "WriterConnection",
    "primary_code",
    "run_batch",
    "run_read",
    "write_failed",
]

T = TypeVar("T")

#: What is done with a connection.  It must let SQLite's errors pass, and must have no
#: effect but through the connection: it may be run again (see the module).
Job = Callable[[sqlite3.Connection], T]

# The comments keep these apart, in the cache of prepared statements, from the same
# words in a job: a cached statement is not shown to the authorizer again.
BEGIN: Final = "BEGIN IMMEDIATE -- batch"
COMMIT: Final = "COMMIT -- batch"
_ROLLBACK: Final = "ROLLBACK -- batch"
_SAVEPOINT: Final = "SAVEPOINT meshkit_job"
_RELEASE: Final = "RELEASE meshkit_job"
_ROLLBACK_JOB: Final = "ROLLBACK TO meshkit_job"

# Primary result codes that speak of the disk or the file, not of the statement.
_DISK_ERRORS: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)


@frozen
class Succeeded(Generic[T]):
    """The job is stored.  @ivar value: what it returned."""

    value: T


@frozen
class Failed:
    """Nothing of the job is stored.  @ivar error: why."""

    error: BaseException


Outcome = Succeeded[Any] | Failed


class WriterConnection(sqlite3.Connection):
    """
    A connection that knows whether a job is using it, and then keeps the job from
    ending the transaction which it shares with others: C{COMMIT}, C{ROLLBACK},
    C{BEGIN}, C{commit()}, C{executescript()} and C{with connection:} all fail.

    Nested savepoints of other names are allowed.
    """

    #: The connection could not roll back: it has to be closed, which does.
    broken = False
    _lent = False

    def guard(self) -> None:
        """To be called once, after opening."""
        self.set_authorizer(self._authorize)

    def _authorize(self, action: int, *_arguments: str | None) -> int:
        if self._lent and action == sqlite3.SQLITE_TRANSACTION:
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK

    @contextmanager
    def lent(self) -> Iterator[None]:
        """For as long as a job runs."""
        self._lent = True
        try:
            yield
        finally:
            self._lent = False

    def roll_back(self) -> None:
        """Drop the whole transaction, if there still is one."""
        if self.in_transaction:
            try:
                self.execute(_ROLLBACK)
            except sqlite3.Error:
                # Nothing can be begun or committed on it any more: every later job
                # fails by name until the owner has opened another one.
                self.broken = True


def primary_code(error: BaseException) -> int | None:
    """
    @return: SQLite's result code without its extension; L{None} for any other error,
        such as those that the sqlite3 module raises by itself.
    """
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None


def _is_disk_error(error: BaseException) -> bool:
    return primary_code(error) in _DISK_ERRORS


def write_failed(error: BaseException) -> StorageFailed:
    """@return: what a caller is told whose job the disk refused."""
    failure = StorageFailed(
        f"the disk refused a write to the database ({error}) and nothing of it was stored: "
        f"look at the free space and the state of the disk, then try again"
    )
    failure.__cause__ = error
    return failure


def _read_failed(error: BaseException) -> StorageFailed:
    failure = StorageFailed(
        f"the database could not be read ({error}): look at the state of the disk"
    )
    failure.__cause__ = error
    return failure


def _job_failed(error: BaseException) -> Failed:
    # The traceback keeps the job's local variables alive.  A cursor among them would
    # hold its statement open, and die in whichever thread drops the error.
    traceback.clear_frames(error.__traceback__)
    return Failed(write_failed(error) if _is_disk_error(error) else error)


def _run_in_savepoint(connection: WriterConnection, job: Job[Any]) -> Outcome:
    """
    Run one job.  Whether the transaction still stands afterwards is for the caller
    to check.
    """
    try:
        connection.execute(_SAVEPOINT)
        with connection.lent():
            value = job(connection)
        if isawaitable(value):
            raise TypeError(f"a job has to return its result, not {type(value).__name__}")
        if not connection.in_transaction:
            raise StorageFailed(
                "the transaction was dropped while a job ran, and the job hid the error of "
                "SQLite that said so: this is a fault of the part that gave the job"
            )
        connection.execute(_RELEASE)
    except BaseException as error:
        # Whatever a job raises is its own caller's, and must not end the thread.
        outcome = _job_failed(error)
    else:
        return Succeeded(value)
    if connection.in_transaction:
        try:
            connection.execute(_ROLLBACK_JOB)
            connection.execute(_RELEASE)
        except sqlite3.Error:
            # What the job did cannot be taken back alone.
            connection.roll_back()
    return outcome


def _run_alone(connection: WriterConnection, job: Job[Any]) -> Outcome:
    """Run one job in a transaction of its own."""
    try:
        connection.execute(BEGIN)
    except sqlite3.Error as error:
        return Failed(write_failed(error))
    outcome = _run_in_savepoint(connection, job)
    if isinstance(outcome, Failed):
        connection.roll_back()
        return outcome
    try:
        connection.execute(COMMIT)
    except sqlite3.Error as error:
        connection.roll_back()
        return _job_failed(error)
    return outcome


def run_batch(connection: WriterConnection, jobs: Sequence[Job[Any]]) -> list[Outcome]:
    """
    Run jobs in one transaction, such that one which fails leaves no trace and the
    others do not notice.

    If the disk refuses the commit, each job that had not failed by itself is
    L{Failed} with L{StorageFailed}.  If something else does (a deferred constraint),
    or if SQLite dropped the transaction under the jobs, they are run again one by one.
    So a job runs at most twice.

    After an I/O error during a commit, nothing is stored as far as this process and
    its successors see; if the machine loses power at that moment as well, it is
    unknown, as it is for every database.

    @return: one outcome for each job, in their order.  What is L{Succeeded} has been
        committed.
    """
    if not jobs:
        return []
    try:
        connection.execute(BEGIN)
    except sqlite3.Error as error:
        return [Failed(write_failed(error)) for _ in jobs]
    outcomes: list[Outcome] = []
    for index, job in enumerate(jobs):
        outcome = _run_in_savepoint(connection, job)
        if connection.broken or not connection.in_transaction:
            return [
                outcome if other == index else _run_alone(connection, again)
                for other, again in enumerate(jobs)
            ]
        outcomes.append(outcome)
    try:
        connection.execute(COMMIT)
    except sqlite3.Error as error:
        connection.roll_back()
        refused = _is_disk_error(error)
        return [
            outcome
            if isinstance(outcome, Failed)
            else (Failed(write_failed(error)) if refused else _run_alone(connection, job))
            for outcome, job in zip(outcomes, jobs, strict=True)
        ]
    return outcomes


def run_read(connection: sqlite3.Connection, job: Job[T]) -> T:
    """
    Run a job that only reads, in a transaction, so that all its statements see the
    same state of the database.

    @return: what the job returned.
    @raise StorageFailed: if the disk fails it; whatever else the job raises passes.
    """
    try:
        connection.execute("BEGIN")
        try:
            return job(connection)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        if _is_disk_error(error):
            raise _read_failed(error) from error
        raise
