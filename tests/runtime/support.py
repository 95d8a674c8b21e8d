"""What the tests of this folder share."""

from __future__ import annotations

import queue
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from meshkit.runtime.transactions import WriterConnection

#: Longest wait for a thread, in seconds: reached only by a test that fails.
PATIENCE = 10.0
_GLANCE = 0.005


def scratch(case: SynchronousTestCase | TestCase) -> str:
    """@return: path of an empty folder that is removed after the test."""
    path = tempfile.mkdtemp(prefix="meshkit-test-")
    case.addCleanup(shutil.rmtree, path)
    return path


class ThreadedClock(Clock):
    """
    A L{Clock} to which real threads can hand calls, so that what they do is tested
    without the global reactor and without sleeping.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: queue.SimpleQueue[Callable[[], Any]] = queue.SimpleQueue()

    def callFromThread(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._calls.put(partial(function, *args, **kwargs))

    def until(self, condition: Callable[[], bool]) -> None:
        """Make the calls of threads until something is so."""
        self.advance(0)
        waits = int(PATIENCE / _GLANCE)
        while not condition():
            try:
                call = self._calls.get(timeout=_GLANCE)
            except queue.Empty:
                # A condition may come true in a thread that calls nobody.
                waits -= 1
                if not waits:
                    raise AssertionError("the threads did not get there") from None
            else:
                call()
                self.advance(0)


def rows(path: str, sql: str) -> list[Any]:
    """What another program sees in the file.  One column: values; else tuples."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(sql).fetchall()
    return [row[0] if len(row) == 1 else row for row in found]


class RefusingConnection(WriterConnection):
    """
    A connection on which chosen statements fail.

    @ivar refused: for each statement, the error to raise.
    """

    refused: dict[str, sqlite3.Error]

    def execute(self, sql: str, /, *args: Any) -> sqlite3.Cursor:
        error = getattr(self, "refused", {}).get(sql)
        if error is not None:
            raise error
        return super().execute(sql, *args)


def disk_error(name: str) -> sqlite3.OperationalError:
    """An error such as SQLite gives: C{disk_error("SQLITE_IOERR")}."""
    error = sqlite3.OperationalError(f"simulated {name}")
    error.sqlite_errorname = name
    error.sqlite_errorcode = getattr(sqlite3, name)
    return error
