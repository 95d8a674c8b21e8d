"""
Copies of a daemon's database: to keep, and to put back.

A copy is a database like any other, in one file.  It is made with C{VACUUM INTO}, which
reads one state of the source while others go on writing to it, reads all of it (so that
damage is found now and not when the copy is needed), and leaves nothing of what was
deleted.  It is whole and synced when it appears under its name.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress

from meshkit.errors import NotADatabase, StorageFailed
from meshkit.runtime.container import DiskFile, check_not_newer, migrate
from meshkit.runtime.files import sync_folder
from meshkit.runtime.transactions import BEGIN, COMMIT

__all__ = ["copy_database"]

_SUFFIXES = ("", "-wal", "-shm", "-journal")


def copy_database(
    source: str,
    target: str,
    migrations: Mapping[str, Sequence[str]],
    mark: Callable[[sqlite3.Connection], None],
) -> None:
    """
    Copy a database, which a daemon may be using, and bring the copy to this version.
    Blocks.

    @param source: path of the database.  It is not changed.
    @param target: path of the copy, which must not exist; for its owner alone.
    @param migrations: as of L{meshkit.runtime.database.Database.open_and_migrate}.
    @param mark: writes into the copy what a copy has to say; in a transaction.
    @raise FileNotFoundError: if there is no source.
    @raise FileExistsError: if there is a target.
    @raise NotADatabase: if the source is damaged or is not ours.
    @raise StartError: as C{open_and_migrate}.
    @raise StorageFailed: if the disk refuses the copy.
    @raise OSError: if the folder of the target cannot be used.
    """
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    backing = DiskFile(source)
    check_not_newer(backing.inspect(), migrations, backing.name)
    fresh = f"{os.path.realpath(target)}.new"
    _sweep(fresh)
    os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        _copy(backing, fresh)
        copy = DiskFile(fresh)
        migrate(copy, migrations)
        with closing(copy.open_writer()) as connection:
            connection.execute(BEGIN)
            mark(connection)
            connection.execute(COMMIT)
            # Back to one file: what lies beside it would be left behind.
            connection.execute("PRAGMA journal_mode = DELETE")
        _sync(fresh)
        os.rename(fresh, target)
        sync_folder(os.path.dirname(os.path.abspath(target)))
    except sqlite3.Error as error:
        raise StorageFailed(
            f"the copy {target} could not be written ({error}): look at the free space and the "
            f"state of the disk, then try again"
        ) from error
    finally:
        _sweep(fresh)


def _copy(backing: DiskFile, fresh: str) -> None:
    try:
        backing.copy_to(fresh)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise  # the disk, or a lock
        raise NotADatabase(
            f"{backing.name} is damaged ({error}); it was left untouched: 'meshkit doctor' says "
            f"what of it can be saved"
        ) from error


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sweep(path: str) -> None:
    for suffix in _SUFFIXES:
        with suppress(FileNotFoundError):
            os.unlink(path + suffix)
