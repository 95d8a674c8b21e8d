"""
Databases that forget at a crash what was not synced.

SQLite is trusted to do what it promises, and what is tested is whether we ask it for that.
A commit at C{PRAGMA synchronous = FULL} (or C{EXTRA}) is on the disk when it has returned;
one at a lower level is so at some later moment, or never.  Both kinds here are what
L{meshkit.runtime.database.Database} takes for its backing, with the shipped schema:

  - L{SimMemory} is in memory, for worlds of many nodes, and modelled by transaction.  At a
    crash an open transaction is gone, and with it all commits since the last one at FULL,
    but for those which, as drawn, had reached the disk by themselves.  The shipped code
    commits at FULL only, so nothing is copied before a commit at less comes along.
  - L{SimFile} is a real file.  At a crash the journal (C{-wal}) loses, keeps or tears what
    was written to it after the last commit at FULL, at a byte that is drawn.  Then whoever
    opens it, L{meshkit.runtime.container.DiskFile}, has to cope with what is there.

In both the machine can be stopped before any statement; if that is a C{COMMIT}, it is
drawn whether it takes effect, though nobody is told.  The disk can be full or fail.

What is not in the model: pages of the file itself that a checkpoint wrote without syncing
them (C{synchronous = OFF}) are kept, and a crash while L{SimFile} is being made.

Source: U{https://sqlite.org/pragma.html#pragma_synchronous}; U{https://sqlite.org/walformat.html}.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

from attrs import define, frozen

from meshkit.runtime.container import BUSY_SECONDS, DiskFile, MemoryFile, Versions
from meshkit.runtime.transactions import WriterConnection
from meshkit.sim.disk import PowerLost, fate

__all__ = ["DatabaseLoss", "SimFile", "SimMemory"]

# PRAGMA synchronous: from here on a commit is on the disk when it has returned.
_FULL: Final = 2
_OFF: Final = 0
_NO_LIMIT: Final = 2**32 - 2

# Layout of the journal: a header, then frames of a header and a page each.
_JOURNAL_HEADER: Final = 32
_PAGE_SIZE: Final = slice(8, 12)
_SALTS: Final = slice(16, 24)
_FRAME_HEADER: Final = 24
_COMMITTED: Final = slice(4, 8)
_FRAME_SALTS: Final = slice(8, 16)
# Where the index of the journal says how many frames a checkpoint has put into the file.
_BACKFILLED: Final = slice(96, 100)


@frozen
class DatabaseLoss:
    """
    What a crash did.

    @ivar open: transactions that were open, and are gone.
    @ivar commits: commits that had not been synced, and are gone; in memory only.
    @ivar journal: C{lost}, C{kept} or C{torn}: what became of the part of the journal that
        had not been synced, if there was one; of a file only.
    """

    open: int
    commits: int
    journal: str = ""


@define
class _Fault:
    """@ivar begins: how the statement begins that is to fail."""

    begins: str
    code: int
    text: str
    times: int


class _Watched(WriterConnection):
    """A connection whose statements go through the machine it is on."""

    def __init__(self, database: str, *, machine: _Machine, **options: Any) -> None:
        super().__init__(database, **options)
        self._machine = machine
        self._weak = False
        #: Can it change anything?
        self.writes = "mode=ro" not in database
        machine.opened(self)

    def execute(self, sql: str, /, *args: Any) -> sqlite3.Cursor:
        machine = self._machine
        if machine.calm and (self.in_transaction or not self.writes) and sql[:6] != "COMMIT":
            # Nearly all statements of a world.
            machine.statements += 1
            return super().execute(sql, *args)
        return machine.run(self, sql, partial(super().execute, sql, *args))

    def executemany(self, sql: str, /, *args: Any) -> sqlite3.Cursor:
        return self._machine.run(self, sql, partial(super().executemany, sql, *args))

    def quietly(self, sql: str) -> Any:
        """@return: the first value of the answer.  No statement of the program."""
        row = super().execute(sql).fetchone()
        return None if row is None else row[0]

    def level(self) -> int:
        """C{PRAGMA synchronous}."""
        return int(self.quietly("PRAGMA synchronous"))

    def close(self) -> None:
        self._machine.closed(self)
        super().close()


class _Machine:
    """
    What stops, fails and fills up under a database.

    @ivar statements: how many were run.
    @ivar calm: does nothing stop it, and does nothing fail?
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self.calm = True
        self._connections: dict[_Watched, None] = {}
        self._faults: list[_Fault] = []
        self._pages: int | None = None
        self._stop_at: int | None = None
        self._down = False
        self.statements = 0
        #: Called when the machine stops, while everything is as it was at that moment.
        self.on_stop: Callable[[], object] = int
        #: Called after that, when nothing can be done with it any more.
        self.on_down: Callable[[], object] = int
        #: Called before a connection is closed.
        self.on_close: Callable[[], object] = int
        #: Called before a writer leaves the state in which nothing is open.
        self.on_begin: Callable[[_Watched], object] = _nothing
        #: Called when a writer has committed.
        self.on_commit: Callable[[_Watched], object] = _nothing

    @property
    def connections(self) -> list[_Watched]:
        """Those that are open, the oldest first."""
        return list(self._connections)

    def opened(self, connection: _Watched) -> None:
        self._connections[connection] = None
        if self._pages is not None and connection.writes:
            connection.quietly(f"PRAGMA max_page_count = {self._pages}")

    def closed(self, connection: _Watched) -> None:
        if connection in self._connections:
            self.on_close()
            del self._connections[connection]

    def stop_before(self, statements: int) -> None:
        self._stop_at = self.statements + statements
        self.calm = False

    def fail(self, begins: str, code: int, text: str, times: int) -> None:
        self._faults.append(_Fault(begins, code, text, times))
        self.calm = False

    def mend(self) -> None:
        self._faults.clear()
        self._stop_at = None
        self.calm = True

    def limit(self, pages: int | None) -> None:
        self._pages = pages
        for connection in self._connections:
            if connection.writes:
                # SQLite makes at least as many of it as there are.
                connection.quietly(f"PRAGMA max_page_count = {pages or _NO_LIMIT}")

    @property
    def down(self) -> bool:
        """Has it stopped?"""
        return self._down

    def start_again(self) -> None:
        self._down = False
        self._stop_at = None
        self._faults.clear()
        self.calm = True

    def run(
        self, connection: _Watched, sql: str, statement: Callable[[], sqlite3.Cursor]
    ) -> sqlite3.Cursor:
        """@raise PowerLost: if the machine does not run."""
        if not self._down and self._stop_at is not None and self.statements >= self._stop_at:
            self._stop(sql, statement)
        if self._down:
            raise PowerLost(sql)
        self.statements += 1
        self._check(connection, sql)
        if not connection.writes:
            return statement()
        was_open = connection.in_transaction
        if not was_open:
            self.on_begin(connection)
        changes = connection.total_changes
        cursor = statement()
        if not connection.in_transaction and (
            sql.startswith("COMMIT") if was_open else connection.total_changes != changes
        ):
            self.on_commit(connection)
        return cursor

    def _stop(self, sql: str, statement: Callable[[], object]) -> None:
        if sql.startswith("COMMIT") and self._rng.random() < 0.5:
            with suppress(sqlite3.Error):  # which nobody would hear of either
                statement()
        self.on_stop()
        self._down = True
        self.on_down()

    def _check(self, connection: _Watched, sql: str) -> None:
        for fault in self._faults:
            if sql.startswith(fault.begins):
                fault.times -= 1
                if not fault.times:
                    self._faults.remove(fault)
                    self.calm = not self._faults and self._stop_at is None
                # SQLite may drop the transaction with the statement.
                if connection.in_transaction and self._rng.random() < 0.5:
                    connection.quietly("ROLLBACK")
                error = sqlite3.OperationalError(fault.text)
                error.sqlite_errorcode = fault.code
                raise error


def _nothing(_: object) -> None:
    pass


class _Troubles:
    """What can be done to a database of either kind."""

    machine: _Machine

    @property
    def statements(self) -> int:
        """How many statements were run."""
        return self.machine.statements

    def stop_before(self, statements: int) -> None:
        """
        Stop the machine before the statement that comes after so many more.  It raises
        L{PowerLost}, and so does every other one until the crash.
        """
        self.machine.stop_before(statements)

    def fail(
        self,
        begins: str = "COMMIT",
        code: int = sqlite3.SQLITE_IOERR,
        text: str = "disk I/O error",
        times: int = 1,
    ) -> None:
        """
        Let the next statements that begin so fail.

        @param code: SQLite's.
        @param text: what it says.
        """
        self.machine.fail(begins, code, text, times)

    def mend(self) -> None:
        """Nothing fails any more, and nothing stops the machine."""
        self.machine.mend()

    def limit(self, pages: int | None) -> None:
        """
        Let the disk be full.

        @param pages: how many the database may have; those that it has are there in any
            case, so with 1 it cannot grow.  L{None} for any number.
        """
        self.machine.limit(pages)


class SimMemory(_Troubles, MemoryFile):
    """
    A database in memory.  See the module.

    It outlives the processes of its host; their connections are closed by L{crash} and by
    L{end_process}.
    """

    def __init__(self, name: str, rng: Random, *, image: bytes | None = None) -> None:
        """
        @param name: unique among the databases that are in memory.
        @param rng: draws what a crash does.
        @param image: what another one gave as its L{image}, to begin with: so the tables of
            a thousand nodes are made once.
        """
        super().__init__(name)
        self.machine = _Machine(rng)
        self.machine.on_begin = self._begin
        self.machine.on_commit = self._commit
        self.connection = partial(_Watched, machine=self.machine)
        self._rng = rng
        self._first = image
        # What is on the disk, if that is not what is in the database.
        self._stable: bytes | None = None
        self._weak_commits = 0
        self._level = _FULL

    def _begin(self, connection: _Watched) -> None:
        # It cannot be changed within a transaction.
        self._level = connection.level()
        # An empty one is on the disk when it is there, as DiskFile sees to.
        if self._level < _FULL and self._stable is None and self._anchor is not None:
            self._stable = connection.serialize()

    def _commit(self, _: _Watched) -> None:
        if self._level >= _FULL or self._rng.random() < 0.25:
            self._stable = None
            self._weak_commits = 0
        else:
            self._weak_commits += 1

    def prepare(self) -> Versions:
        versions = super().prepare()
        if self._first is None or self._anchor is None:
            return versions
        _restore(self._anchor, self._first)
        self._first = None
        return super().prepare()

    def look(self, sql: str, *args: Any) -> list[Any]:
        """
        @return: rows, without anything that uses the database noticing.
        @raise sqlite3.Error: if it cannot be read now, or has not been made yet.
        """
        if self._anchor is None:
            raise sqlite3.OperationalError(f"the database {self.name} has not been made yet")
        return sqlite3.Connection.execute(self._anchor, sql, *args).fetchall()

    def image(self) -> bytes:
        """
        @return: all that has been committed.
        @raise RuntimeError: if it has not been made yet.
        """
        if self._anchor is None:
            raise RuntimeError(f"the database {self.name} has not been made yet")
        return self._anchor.serialize()

    def end_process(self) -> DatabaseLoss:
        """The processes end.  What they committed is there, synced or not, until a crash."""
        open_ones = 0
        for connection in self.machine.connections:
            if connection is not self._anchor:
                open_ones += connection.writes and connection.in_transaction
                connection.close()
        self.machine.start_again()
        return DatabaseLoss(open_ones, 0)

    def crash(self) -> DatabaseLoss:
        """The machine stops and starts again, with what is on its disk."""
        loss = DatabaseLoss(self.end_process().open, self._weak_commits)
        if self._stable is not None and self._anchor is not None:
            _restore(self._anchor, self._stable)
        self._stable = None
        self._weak_commits = 0
        return loss


def _restore(connection: sqlite3.Connection, image: bytes) -> None:
    with closing(sqlite3.connect(":memory:")) as past:
        past.deserialize(image)
        past.backup(connection)
    connection.execute("PRAGMA shrink_memory")


class SimFile(_Troubles, DiskFile):
    """
    A database in a real file.  See the module.

    For one thread.  L{crash} puts what is left in the place of the file, as whoever opens
    it next will find it.
    """

    def __init__(self, path: str, rng: Random, busy_seconds: float = BUSY_SECONDS) -> None:
        """
        @param path: of the file.
        @param rng: draws what a crash does.
        """
        super().__init__(path, busy_seconds)
        self.machine = _Machine(rng)
        self.machine.on_stop = self._freeze
        self.machine.on_close = self._before_close
        self.machine.on_begin = self._begin
        self.machine.on_commit = self._commit
        self.connection = partial(_Watched, machine=self.machine)
        self._rng = rng
        # Of the journal: which it is, how much of it is on the disk, and how much has been
        # looked through.
        self._salts = b""
        self._synced = 0
        self._seen = 0
        self._level = _FULL
        # What was there when the machine stopped, or when the last statement but those
        # that are closing it had been run; and how many that were.
        self._frozen: tuple[bytes, bytes, int] | None = None
        self._frozen_at = 0

    def look(self, sql: str, *args: Any) -> list[Any]:
        """See L{SimMemory.look}.  Only while a process uses it."""
        uri = f"{Path(self.name).as_uri()}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            return connection.execute(sql, *args).fetchall()

    def _begin(self, connection: _Watched) -> None:
        self._level = connection.level()

    def _commit(self, _: _Watched) -> None:
        if self._level >= _FULL:
            with open(f"{self.name}-wal", "rb") as journal:
                self._salts, self._seen = _committed(journal, self._salts, self._seen)
            self._synced = self._seen

    def _read(self, suffix: str) -> bytes:
        try:
            with open(self.name + suffix, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""

    def _before_close(self) -> None:
        # The last one that is closed folds the journal into the file, which a process that
        # is cut short does not do.  Whether it is, is not known before the end.
        if not self.machine.down and (
            self._frozen is None or self._frozen_at != self.machine.statements
        ):
            self._freeze()

    def _freeze(self) -> None:
        """Keep what is there now."""
        self._frozen_at = self.machine.statements
        journal = self._read("-wal")
        synced = self._synced if journal[_SALTS] == self._salts else 0
        if self._level != _OFF and journal:
            # Before a checkpoint the journal is synced.
            frames = int.from_bytes(self._read("-shm")[_BACKFILLED], "little")
            page = int.from_bytes(journal[_PAGE_SIZE], "big")
            if frames:
                synced = max(synced, _JOURNAL_HEADER + frames * (_FRAME_HEADER + page))
        self._frozen = (self._read(""), journal, min(synced, len(journal)))

    def _put_back(self, data: bytes, journal: bytes) -> None:
        for suffix, content in (("", data), ("-wal", journal)):
            if content:
                with open(self.name + suffix, "wb") as file:
                    file.write(content)
            else:
                with suppress(FileNotFoundError):
                    os.unlink(self.name + suffix)
        with suppress(FileNotFoundError):
            os.unlink(f"{self.name}-shm")

    def _end(self) -> tuple[int, bytes, bytes, int]:
        self._before_close()
        assert self._frozen is not None
        open_ones = 0
        for connection in self.machine.connections:
            open_ones += connection.writes and connection.in_transaction
            connection.close()
        frozen, self._frozen = self._frozen, None
        self.machine.start_again()
        return open_ones, *frozen

    def end_process(self) -> DatabaseLoss:
        """The processes end.  What they committed is there, synced or not, until a crash."""
        open_ones, data, journal, _ = self._end()
        self._put_back(data, journal)
        return DatabaseLoss(open_ones, 0)

    def crash(self) -> DatabaseLoss:
        """The machine stops and starts again, with what is on its disk."""
        open_ones, data, journal, synced = self._end()
        what = ""
        if synced < len(journal):
            what, journal = fate(self._rng, journal[:synced], journal, synced, len(journal))
        self._put_back(data, journal)
        # All that is there is on the disk; but where SQLite will go on, it has to find out.
        self._salts, self._synced, self._seen = journal[_SALTS], len(journal), 0
        return DatabaseLoss(open_ones, 0, what)


def _committed(journal: Any, salts: bytes, known: int) -> tuple[bytes, int]:
    """
    @param journal: the open file.
    @param salts: which journal it was the last time.
    @param known: how far it was written then.
    @return: which it is, and where its last commit ends.
    """
    header = journal.read(_JOURNAL_HEADER)
    length = _FRAME_HEADER + int.from_bytes(header[_PAGE_SIZE], "big")
    end = at = known if header[_SALTS] == salts and known else _JOURNAL_HEADER
    while True:
        journal.seek(at)
        frame = journal.read(_FRAME_HEADER)
        if len(frame) < _FRAME_HEADER or frame[_FRAME_SALTS] != header[_SALTS]:
            return header[_SALTS], end
        at += length
        if any(frame[_COMMITTED]):
            end = at
