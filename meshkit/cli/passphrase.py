"""C{meshkit passphrase}: the passphrase that the key file is under."""

from __future__ import annotations

from random import SystemRandom

import click

from meshkit.cli.door import open_folder
from meshkit.cli.locate import init_command
from meshkit.cli.output import json_option, line, print_json
from meshkit.errors import ConfigError, NotFound
from meshkit.runtime.keyring import (
    needs_passphrase,
    rewrite_identity,
    stored_identity,
    stored_public,
)
from meshkit.tap.passphrase import ask_new, read_from, unlock


@click.command()
@click.option("--remove", is_flag=True, help="Leave the key file without a passphrase.")
@click.option(
    "--passphrase-fd",
    "old_fd",
    type=int,
    metavar="N",
    help="File descriptor with the present passphrase [default: asked for].",
)
@click.option(
    "--new-passphrase-fd",
    "new_fd",
    type=int,
    metavar="N",
    help="File descriptor with the new one [default: asked for, twice].",
)
@json_option
@click.pass_obj
def passphrase(
    flag: str | None, remove: bool, old_fd: int | None, new_fd: int | None, as_json: bool
) -> None:
    """
    Set, change or remove the passphrase of this node's key file.

    A node that runs is not disturbed: it asks at its next start. Copies of the file, in
    backups for example, stay under what they were under.
    """
    folder = open_folder(flag)
    try:
        public = stored_public(folder)
    except FileNotFoundError:
        raise NotFound(
            f"there is no identity in {folder.path}: make one with '{init_command(folder)}'"
        ) from None
    sealed = needs_passphrase(folder)
    if remove and (new_fd is not None or not sealed):
        raise ConfigError(
            "give either --remove or a new passphrase"
            if sealed
            else f"the key file of {folder.path} is under no passphrase"
        )
    identity = unlock(folder, old_fd) if sealed else stored_identity(folder)
    new = None
    if not remove:
        new = ask_new("New passphrase") if new_fd is None else read_from(new_fd)
    rewrite_identity(folder, identity, SystemRandom(), new)
    if as_json:
        print_json({"public_id": public.text, "passphrase": new is not None})
    elif new is None:
        line(f"The key file of {public.text} is under no passphrase any more.")
    else:
        line(f"The key file of {public.text} is under the new passphrase.")
