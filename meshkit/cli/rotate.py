"""C{meshkit feed rotate}: end this node's feed in favour of a new key."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from random import SystemRandom

import click

from meshkit.cli.backup import all_migrations, held
from meshkit.cli.door import open_folder
from meshkit.cli.locate import init_command
from meshkit.cli.output import line, print_json
from meshkit.errors import NotFound, PassphraseRequired
from meshkit.feed.rotating import rotate as rotate_feed
from meshkit.feed.rotation import Rotation
from meshkit.identity.keys import Identity
from meshkit.runtime.container import DiskFile, migrate
from meshkit.runtime.folder import DataFolder
from meshkit.runtime.keyring import (
    SECRET_KEY,
    discard_next,
    has_next,
    needs_passphrase,
    next_identity,
    stored_identity,
    succeed_identity,
)
from meshkit.runtime.transactions import BEGIN, COMMIT, write_failed
from meshkit.services.node import DATABASE
from meshkit.tap.passphrase import ask, can_ask, read_from


def run(flag: str | None, descriptor: int | None, yes: bool, as_json: bool) -> None:
    """
    See L{meshkit.cli.feed.publishing.rotate}.  Each step is durable before the next one begins, and
    whether it was done is seen from what is there: it can be ended anywhere.
    """
    folder = open_folder(flag)
    with held(folder):
        passphrase = _passphrase(folder, descriptor)
        try:
            old = stored_identity(folder, passphrase)
        except FileNotFoundError:
            raise NotFound(
                f"there is no identity in {folder.path}: make one with '{init_command(folder)}'"
            ) from None
        if not (yes or has_next(folder)):
            click.confirm(
                f"End the feed of {old.public.text} for ever, and go on with a new key?",
                abort=True,
                err=True,
            )
        new = next_identity(folder, SystemRandom(), passphrase)
        if new.public == old.public:
            # All was done but for this.
            discard_next(folder)
            retired = None
        else:
            _end_feed(folder, old, new)
            retired = succeed_identity(folder)
    if as_json:
        print_json({"public_id": new.public.text, "retired": retired})
        return
    line(f"New identity  {new.public.text}")
    if retired is not None:
        line(f"The old one   {old.public.text}")
        line(f"is kept in    {retired}")
    line("Start the node: it tells its peers. Give them its new address (meshkit id).")


def _passphrase(folder: DataFolder, descriptor: int | None) -> str | None:
    if not needs_passphrase(folder):
        return None
    if descriptor is not None:
        return read_from(descriptor)
    path = folder.file(SECRET_KEY)
    if not can_ask():
        raise PassphraseRequired(
            f"{path} is under a passphrase, and there is no terminal to ask on: give it with "
            f"--passphrase-fd"
        )
    return ask(f"Passphrase of {path}")


def _end_feed(folder: DataFolder, old: Identity, new: Identity) -> Rotation:
    """Publish the last message of the old feed and the first of the new one, durably."""
    backing = DiskFile(folder.file(DATABASE))
    migrate(backing, all_migrations())
    try:
        with closing(backing.open_writer()) as connection:
            connection.execute(BEGIN)
            rotation = rotate_feed(connection, old, new, time.time_ns())
            connection.execute(COMMIT)
    except sqlite3.Error as e:
        raise write_failed(e) from e
    return rotation
