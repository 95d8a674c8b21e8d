"""C{meshkit backup} and C{meshkit restore}."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

import meshkit_plugins
from meshkit.cli.door import open_folder
from meshkit.cli.output import json_option, line, print_json
from meshkit.cli.role import is_blind
from meshkit.discovery.inviting import issued as invites
from meshkit.errors import NotFound
from meshkit.feed import guard
from meshkit.runtime import tokens
from meshkit.runtime.backup import copy_database
from meshkit.runtime.folder import DataFolder
from meshkit.runtime.keyring import NETWORK_SECRET, SECRET_KEY
from meshkit.runtime.registry import discover_parts
from meshkit.runtime.tables import MIGRATIONS
from meshkit.services.node import DATABASE
from meshkit.services.programs import MESH_STORAGE, program_of


def all_migrations() -> dict[str, Sequence[str]]:
    """The migrations of every part that is installed, enabled or not."""
    parts = discover_parts(meshkit_plugins)
    return {"node": MIGRATIONS} | {maker.name: tuple(maker.migrations()) for maker in parts}


@contextmanager
def held(folder: DataFolder) -> Iterator[None]:
    """
    With the folder's lock.

    @raise DataFolderLocked: if a node runs on it.
    """
    folder.lock(os.getpid())
    try:
        yield
    finally:
        folder.unlock()


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@json_option
@click.pass_obj
def backup(flag: str | None, file: str, as_json: bool) -> None:
    """
    Copy the node's database into FILE, while the node runs or not.

    It holds all feeds, peers and follows, and whatever the parts have stored. It does not
    hold the secrets: keep secret.key and network.secret of the data folder somewhere else,
    as who has them is you. Nor does it hold mailbox.prekeys, of which there should be no
    copy, nor the tokens of 'meshkit token' and the invites of 'meshkit invite', which might
    be revoked or used by the time it is restored.
    """
    folder = open_folder(flag)
    now_ns = time.time_ns()

    def mark(connection: sqlite3.Connection) -> None:
        guard.mark_restored(connection, now_ns)
        tokens.forget_all(connection)
        invites.forget_all(connection)

    source = folder.file(DATABASE)
    if not os.path.lexists(source):
        raise NotFound(f"there is no database in {folder.path}: a node makes one when it starts")
    copy_database(source, file, all_migrations(), mark)
    size = os.stat(file).st_size
    if as_json:
        print_json({"file": os.path.abspath(file), "bytes": size})
    else:
        line(f"Wrote {file}, {size} bytes. Not in it: {SECRET_KEY} and {NETWORK_SECRET}.")


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@json_option
@click.pass_obj
def restore(flag: str | None, file: str, as_json: bool) -> None:
    """
    Put the database in FILE, from 'meshkit backup', into the data folder.

    The node must not run, and the folder must have no database: move one that is there
    away. As others may have more of this node's feed than the backup, the node publishes
    nothing until it has compared the feed with two peers, or 'meshkit feed unlock' is said.
    """
    folder = open_folder(flag)
    now_ns = time.time_ns()

    def mark(connection: sqlite3.Connection) -> None:
        guard.mark_again(connection, now_ns)
        tokens.forget_all(connection)
        invites.forget_all(connection)

    with held(folder):
        copy_database(file, folder.file(DATABASE), all_migrations(), mark)
        # A blind relay has no network.
        blind = is_blind(folder)
        needed = [SECRET_KEY, *([] if blind else [NETWORK_SECRET])]
        missing = [name for name in needed if not os.path.lexists(folder.file(name))]
    if as_json:
        print_json({"folder": folder.path, "missing_secrets": missing})
        return
    line(f"Restored into {folder.path}.")
    for name in missing:
        line(f"There is no {name}: put yours there before the node starts, or it makes a new one.")
    if program_of(folder) is not MESH_STORAGE and not blind:
        line("The node is read-only at first: see 'meshkit status'.")
