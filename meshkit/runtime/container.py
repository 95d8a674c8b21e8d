"""
The SQLite file that the parts of a daemon keep their tables in: how it is made,
recognised, opened and brought to this version.

It carries C{PRAGMA application_id} (ours) and C{PRAGMA user_version} (the version of
what is described here), and the table C{schema_version (part, version)}, which says
how many of its migration scripts each part has been through.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final, Protocol

from attrs import frozen

from meshkit.errors import MigrationFailed, NewerSchema, NotADatabase, StartError
from meshkit.runtime.files import sync_folder
from meshkit.runtime.transactions import BEGIN, COMMIT, WriterConnection, primary_code

__all__ = [
    "APPLICATION_ID",
    "BUSY_SECONDS",
    "CONTAINER_VERSION",
    "Backing",
    "DiskFile",
    "MemoryFile",
    "Versions",
    "check_not_newer",
    "migrate",
    "require_fts5",
]

#: "MESH" in ASCII, in the header of every database of ours (C{PRAGMA application_id}).
APPLICATION_ID: Final = 0x4D455348
#: Version of what surrounds the parts' tables (C{PRAGMA user_version}).
CONTAINER_VERSION: Final = 1

#: How long to wait for another program (the sqlite3 shell, a backup) that holds the file.
BUSY_SECONDS: Final = 5.0

_CACHED_STATEMENTS: Final = 256
# Bytes of a page in memory, where a page that is read costs no seek.
_MEMORY_PAGE: Final = 1024
# After a checkpoint the journal is cut back to this.
_JOURNAL_BYTES: Final = 64 * 1024 * 1024

# Layout of a database's first 100 bytes: https://sqlite.org/fileformat2.html, 1.3.
_MAGIC: Final = b"SQLite format 3\x00"
_HEADER_BYTES: Final = 100
_FORMAT_VERSIONS: Final = slice(18, 20)
_PAGE_SIZE: Final = slice(16, 18)
_CHANGE_COUNTER: Final = slice(24, 28)
_PAGE_COUNT: Final = slice(28, 32)
_APPLICATION_ID: Final = slice(68, 72)
_COUNTED_AT: Final = slice(92, 96)
_KNOWN_FORMATS: Final = (b"\x01\x01", b"\x02\x02")  # rollback journal, WAL

_NO_COMMENTS: Final = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)


@frozen
class Versions:
    """
    What a database holds.

    @ivar container: see L{CONTAINER_VERSION}.
    @ivar parts: how many of its scripts each part has been through.
    """

    container: int
    parts: Mapping[str, int]


class Backing(Protocol):
    """
    Where a database is kept.  L{DiskFile} for daemons; a simulation passes its own.

    @ivar name: the path, for messages.
    """

    name: str

    def prepare(self) -> Versions:
        """
        See to it that there is a container of ours, and change nothing if there is
        something else.  Called while nothing is open.

        @return: what it holds.
        @raise StartError: if there cannot be one.
        """

    def open_writer(self) -> WriterConnection:
        """@return: a new connection, for the calling thread alone."""

    def open_reader(self) -> sqlite3.Connection:
        """@return: a new connection that cannot write, for the calling thread alone."""


def _connect(
    uri: str, factory: Callable[..., WriterConnection], busy_seconds: float = BUSY_SECONDS
) -> WriterConnection:
    return factory(
        uri,
        uri=True,
        timeout=busy_seconds,
        # We write BEGIN and COMMIT ourselves.
        isolation_level=None,
        cached_statements=_CACHED_STATEMENTS,
    )


@contextmanager
def _closed_on_error(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise


def _configure_writer(connection: WriterConnection) -> WriterConnection:
    with _closed_on_error(connection):
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_BYTES}")
        connection.guard()
    return connection


def _configure_reader(connection: sqlite3.Connection) -> sqlite3.Connection:
    with _closed_on_error(connection):
        connection.execute("PRAGMA query_only = ON")
    return connection


def _lay_out(connection: WriterConnection) -> None:
    """Make an empty database a container of ours."""
    connection.execute(BEGIN)
    connection.execute(
        "CREATE TABLE schema_version (part TEXT PRIMARY KEY NOT NULL, version INTEGER NOT NULL)"
    )
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {CONTAINER_VERSION}")
    connection.execute(COMMIT)


def _announced_size(header: bytes) -> int:
    """How long the file is at least, if the header is up to date; 0 if it is not."""
    if header[_CHANGE_COUNTER] != header[_COUNTED_AT]:
        return 0
    page_size = int.from_bytes(header[_PAGE_SIZE], "big")
    # The largest size does not fit into two bytes, so 1 stands for it.
    return int.from_bytes(header[_PAGE_COUNT], "big") * (65_536 if page_size == 1 else page_size)


class DiskFile:
    """
    A database in a file, with its journal (C{-wal}) and the journal's index (C{-shm})
    beside it.  All three are for their owner alone (0600).

    The file appears under its name only when it is whole, so that an empty or
    headless one is never the rest of a crash but always damage.

    @ivar connection: makes each connection, as C{sqlite3.Connection} does; for a simulation
        that watches them.
    """

    connection: Callable[..., WriterConnection] = WriterConnection

    def __init__(self, path: str, busy_seconds: float = BUSY_SECONDS) -> None:
        self._busy_seconds = busy_seconds
        # SQLite follows symbolic links, and keeps the journal beside what they lead to.
        self.name = os.path.realpath(path)

    def prepare(self) -> Versions:
        try:
            return self.inspect()
        except FileNotFoundError:
            return self._create()

    def inspect(self) -> Versions:
        """
        Look at what is there, and make nothing.

        @return: what it holds.
        @raise FileNotFoundError: if there is no file.
        @raise StartError: if it is not a container of ours.
        """
        try:
            with open(self.name, "rb") as file:
                header = file.read(_HEADER_BYTES)
                size = os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StartError(
                f"the database {self.name} cannot be opened: {error.strerror}"
            ) from error
        # Looking at the bytes first means that SQLite, which would repair or convert
        # what it opens, gets to see files of ours only.
        if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
            raise self._refused("is damaged, or is not an SQLite database at all")
        if header[_APPLICATION_ID] != APPLICATION_ID.to_bytes(4, "big"):
            raise self._refused("is a database of another program")
        if header[_FORMAT_VERSIONS] not in _KNOWN_FORMATS:
            raise self._refused("has a damaged header")
        # SQLite would find out much later.  With a journal the rest may be in that.
        whole = self._has("-wal") or self._has("-journal") or size >= _announced_size(header)
        if not whole:
            raise self._refused("is cut off")
        return self._probe()

    def open_writer(self) -> WriterConnection:
        connection = self._connect("rw")
        with _closed_on_error(connection):
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise StartError(
                    f"the database {self.name} cannot have a write-ahead journal here "
                    f"(SQLite chose {mode!r}): keep the data folder on a local disk"
                )
            _configure_writer(connection)
        return connection

    def open_reader(self) -> sqlite3.Connection:
        return _configure_reader(self._connect("ro"))

    def open_onlooker(self) -> sqlite3.Connection:
        """
        @return: as L{open_reader}, for who looks at it once, whoever uses it meanwhile.  It makes
            no files beside it.
        """
        # If nobody uses it there is no journal, and SQLite would make one to read it.
        used = os.path.exists(self.name + "-wal")
        return _configure_reader(self._connect("ro" if used else "ro&immutable=1"))

    def copy_to(self, path: str) -> None:
        """
        Write one state of it into an empty file, whoever is using it meanwhile.

        @raise sqlite3.Error: if it is damaged, or the copy cannot be written.
        """
        # One that may write removes the journal that it had to make; it writes nothing.
        with closing(self._connect("ro" if self._has("-wal") else "rw")) as connection:
            connection.execute("VACUUM INTO ?", (path,))

    def _connect(self, mode: str) -> WriterConnection:
        uri = f"{Path(self.name).as_uri()}?mode={mode}"
        return _connect(uri, self.connection, self._busy_seconds)

    def _refused(self, what: str) -> NotADatabase:
        return NotADatabase(
            f"{self.name} {what}; it was left untouched: put a backup in its place, or move "
            f"it away to start with an empty database"
        )

    def _probe(self) -> Versions:
        """Let SQLite look at the file, without writing to it wherever that is possible."""
        if self._has("-journal"):
            mode = "rw"  # what it holds has to be put back before anything can be read
        elif self._has("-wal"):
            mode = "ro"
        else:
            mode = "ro&immutable=1"  # which makes no files beside it
        try:
            with closing(self._connect(mode)) as connection:
                return _read_versions(connection)
        except sqlite3.Error as error:
            if primary_code(error) == sqlite3.SQLITE_BUSY:
                raise StartError(
                    f"the database {self.name} is in use by another program: end that first"
                ) from error
            raise self._refused(f"is damaged ({error})") from error

    def _has(self, suffix: str) -> bool:
        try:
            return os.stat(self.name + suffix).st_size > 0
        except FileNotFoundError:
            return False

    def _create(self) -> Versions:
        for suffix in ("-wal", "-journal"):
            if self._has(suffix):
                # SQLite would replay it into the new file.
                raise NotADatabase(
                    f"the database {self.name} is missing, but its journal {self.name}{suffix} "
                    f"is there; it was left untouched: put both back, or move the journal away"
                )
        fresh = DiskFile(self.name)
        fresh.name += ".new"
        try:
            for suffix in ("", "-wal", "-shm", "-journal"):
                with suppress(FileNotFoundError):
                    os.unlink(fresh.name + suffix)
            os.close(os.open(fresh.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            with closing(fresh.open_writer()) as connection:
                _lay_out(connection)
            descriptor = os.open(fresh.name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.rename(fresh.name, self.name)
            sync_folder(os.path.dirname(self.name))
            return Versions(CONTAINER_VERSION, {})
        except (OSError, sqlite3.Error) as error:
            raise StartError(f"the database {self.name} cannot be made: {error}") from error


class MemoryFile:
    """
    A database in memory, for simulations and tests.  It lasts as long as this object,
    so a node that is stopped and made again finds its data.

    Readers and the writer lock each other out here, so use it with
    L{meshkit.runtime.workers.InlineWorkers} only.

    @ivar connection: as of L{DiskFile}.
    """

    connection: Callable[..., WriterConnection] = WriterConnection

    def __init__(self, name: str) -> None:
        """@param name: unique among the databases that are in memory."""
        self.name = name
        self._anchor: WriterConnection | None = None

    def prepare(self) -> Versions:
        if self._anchor is None:
            anchor = self._connect("rwc")
            with _closed_on_error(anchor):
                # Half a hundred tables of a page each are nearly all that most of them hold.
                anchor.execute(f"PRAGMA page_size = {_MEMORY_PAGE}")
                _lay_out(_configure_writer(anchor))
            self._anchor = anchor
        # Not by the anchor, which would keep the whole schema in memory.
        with closing(self._connect("ro")) as reader:
            return _read_versions(reader)

    def open_writer(self) -> WriterConnection:
        return _configure_writer(self._connect("rw"))

    def open_reader(self) -> sqlite3.Connection:
        return _configure_reader(self._connect("ro"))

    def close(self) -> None:
        """Forget the data."""
        if self._anchor is not None:
            self._anchor.close()
            self._anchor = None

    def _connect(self, mode: str) -> WriterConnection:
        # A name with a leading slash is shared by the connections of a process.
        uri = f"{Path('/', self.name.lstrip('/')).as_uri()}?vfs=memdb&mode={mode}"
        return _connect(uri, self.connection)


# --- migrations -------------------------------------------------------------------


def _read_versions(connection: sqlite3.Connection) -> Versions:
    """@raise sqlite3.DatabaseError: if they are not what was written."""
    (container,) = connection.execute("PRAGMA user_version").fetchone()
    if container > CONTAINER_VERSION:
        return Versions(container, {})  # how to read the rest is not known yet
    parts: dict[str, int] = {}
    for part, version in connection.execute(
        "SELECT part, version FROM schema_version ORDER BY part"
    ):
        if not isinstance(part, str) or not isinstance(version, int) or version < 0:
            raise sqlite3.DatabaseError(f"version {version!r} of part {part!r}")
        parts[part] = version
    return Versions(container, parts)


def require_fts5(connection: sqlite3.Connection) -> None:
    """@raise StartError: if this SQLite has no full-text search."""
    try:
        connection.execute("CREATE VIRTUAL TABLE temp.fts5_probe USING fts5 (words)")
    except sqlite3.Error as error:
        raise StartError(
            f"the SQLite of this Python ({sqlite3.sqlite_version}) was built without the "
            f"full-text search FTS5 ({error}): install a Python or a libsqlite3 that has it"
        ) from error


def _statements(script: str) -> Iterator[str]:
    """Cut a script at the semicolons that end a statement: not those in a trigger."""
    start = 0
    for match in re.finditer(";", script):
        if sqlite3.complete_statement(script[start : match.end()]):
            yield script[start : match.end()]
            start = match.end()
    if _NO_COMMENTS.sub("", script[start:]).strip():
        yield script[start:]


def _migrate_part(
    connection: WriterConnection, part: str, have: int, scripts: Sequence[str], name: str
) -> None:
    for version, script in enumerate(scripts[have:], start=have + 1):
        try:
            connection.execute(BEGIN)
            with connection.lent():
                for statement in _statements(script):
                    connection.execute(statement)
            dangling = connection.execute("PRAGMA foreign_key_check").fetchone()
            if dangling is not None:
                raise sqlite3.IntegrityError(
                    f"a row of {dangling[0]} refers to a row of {dangling[2]} that is not there"
                )
            connection.execute(
                "INSERT INTO schema_version (part, version) VALUES (?, ?) "
                "ON CONFLICT (part) DO UPDATE SET version = excluded.version",
                (part, version),
            )
            connection.execute(COMMIT)
        except sqlite3.Error as error:
            # Our caller closes the connection, which rolls back.
            raise MigrationFailed(
                f"the tables of part {part!r} in {name} could not be brought from version "
                f"{version - 1} to {version} ({error}); they are as they were"
            ) from error


def check_not_newer(found: Versions, migrations: Mapping[str, Sequence[str]], name: str) -> None:
    """@raise NewerSchema: if a newer meshkit has been here."""
    if found.container > CONTAINER_VERSION:
        raise NewerSchema(
            f"the database {name} has format {found.container}, and this version of meshkit "
            f"knows formats up to {CONTAINER_VERSION}: upgrade meshkit"
        )
    for part, scripts in migrations.items():
        have = found.parts.get(part, 0)
        if have > len(scripts):
            raise NewerSchema(
                f"the tables of part {part!r} in {name} have version {have}, and this version "
                f"of meshkit knows versions up to {len(scripts)}: upgrade meshkit"
            )


def migrate(backing: Backing, migrations: Mapping[str, Sequence[str]]) -> None:
    """
    Make the database if there is none, check it, and bring every part's tables to this
    version.  See L{meshkit.runtime.database.Database.open_and_migrate}.
    """
    with closing(sqlite3.connect(":memory:")) as probe:
        require_fts5(probe)
    found = backing.prepare()
    check_not_newer(found, migrations, backing.name)
    try:
        with closing(backing.open_writer()) as connection:
            connection.execute("PRAGMA foreign_keys = OFF")
            for part, scripts in migrations.items():
                have = found.parts.get(part, 0)
                _migrate_part(connection, part, have, scripts, backing.name)
    except sqlite3.Error as error:
        raise StartError(f"the database {backing.name} cannot be opened: {error}") from error
