"""Reading the database of a node, which may be running, without writing anything."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Final

import click

from meshkit.audit.schema import MIGRATIONS
from meshkit.cli.locate import open_folder
from meshkit.errors import NotFound, StorageFailed
from meshkit.runtime.container import DiskFile, check_not_newer
from meshkit.services.node import DATABASE

#: Of the tables, as the database counts their versions.
PART: Final = "audit"


def state_option(command: Any) -> Any:
    """The option C{--state}, the same for every verb."""
    return click.option(
        "--state",
        "state_file",
        type=click.Path(dir_okay=False),
        metavar="FILE",
        help="The database to look at [default: that of the data folder].",
    )(command)


@contextmanager
def opened(flag: str | None, state_file: str | None) -> Iterator[sqlite3.Connection]:
    """
    @param flag: the data folder that was named.
    @param state_file: the database that was.
    @return: a connection that cannot write, in a transaction: it sees one state.
    @raise NotFound: if there is no database, or no pass was ever made on it; nothing is made.
    @raise StartError: if it is something else, or of a newer version.
    """
    path = open_folder(flag).file(DATABASE) if state_file is None else state_file
    file = DiskFile(path)
    try:
        found = file.inspect()
    except FileNotFoundError:
        raise NotFound(
            f"there is no database {os.path.abspath(path)}, and none was made: a node makes one "
            f"when it starts; name another folder with --data-dir, or the file with --state"
        ) from None
    check_not_newer(found, {PART: MIGRATIONS}, file.name)
    if found.parts.get(PART, 0) < len(MIGRATIONS):
        raise NotFound(
            f"no pass over objects was ever made on {file.name}: start its node with this version"
        )
    try:
        with closing(file.open_onlooker()) as connection:
            connection.execute("BEGIN")
            yield connection
    except sqlite3.Error as e:
        raise StorageFailed(
            f"the database {file.name} could not be read ({e}): look at the state of the disk"
        ) from e
