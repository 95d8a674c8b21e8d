"""C{meshkit token}: who may use the door beside its owner, and what for."""

from __future__ import annotations

from collections.abc import Sequence
from random import SystemRandom
from typing import Any

import click

from meshkit.cli.backup import held
from meshkit.cli.door import Door, ask, open_folder, segment
from meshkit.cli.output import json_option, line, print_json, table, visible
from meshkit.cli.spans import span
from meshkit.errors import DoorUnreachable
from meshkit.runtime.keyring import DOOR_TOKEN, make_token, write_token


@click.group()
def token() -> None:
    """Give others a token for the door, and take it back."""


@token.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    help="What it is good for, such as read or write:feed_publish; may be repeated.",
)
@click.option(
    "--expires",
    type=span,
    metavar="TIME",
    help="How long it is good, such as 12h or 30d [default: no end].",
)
@json_option
@click.pass_obj
def add(
    flag: str | None, name: str, scopes: Sequence[str], expires: int | None, as_json: bool
) -> None:
    """
    Make a token that is called NAME, and print it. It is not kept: copy it now.

    A scope is read, write (which includes read) or admin (everything), perhaps with the name
    of an operation or the beginning of names: read, write:feed_publish, read:feed_*.
    """
    body = {"name": name, "scopes": list(scopes), "expires_secs": expires}

    async def job(door: Door) -> Any:
        return await door.post("/v1/tokens", body)

    answer = ask(flag, job)
    added = answer.data
    for warning in answer.metadata.get("warnings", []):
        click.echo(f"Warning: {visible(warning)}", err=True)
    if as_json:
        print_json(added)
        return
    line(added["token"])
    until = "no end" if added["expires"] is None else f"good until {added['expires']}"
    # Beside it, so that '> FILE' makes a file for --token-file.
    scopes_shown = ", ".join(added["scopes"])
    click.echo(visible(f"{name}: {scopes_shown}; {until}. It is shown this once."), err=True)


@token.command("list")
@json_option
@click.pass_obj
def list_tokens(flag: str | None, as_json: bool) -> None:
    """The tokens there are, what each is good for, and when it was used last."""

    async def job(door: Door) -> Any:
        return (await door.get("/v1/tokens")).data

    tokens = ask(flag, job)
    if as_json:
        print_json(tokens)
        return
    if not tokens:
        line("No tokens but the owner's. Make one: meshkit token add NAME --scope read")
        return
    table(
        ("name", "state", "scopes", "expires", "last used", "id"),
        [
            (
                each["name"],
                each["state"],
                ", ".join(each["scopes"]),
                each["expires"] or "never",
                each["last_used"] or "never",
                each["id"],
            )
            for each in tokens
        ],
    )


@token.command()
@click.argument("name")
@json_option
@click.pass_obj
def revoke(flag: str | None, name: str, as_json: bool) -> None:
    """The token NAME opens nothing from now on, and what is open by it is closed."""

    async def job(door: Door) -> Any:
        return (await door.delete(f"/v1/tokens/{segment(name)}")).data

    ask(flag, job)
    if as_json:
        print_json({"revoked": name})
    else:
        line(f"Revoked: {name}")


@token.command()
@json_option
@click.pass_obj
def rotate(flag: str | None, as_json: bool) -> None:
    """
    Replace the owner's token, the one in door.token, whether the node runs or not.

    The old one opens nothing from now on; the tokens of others are not touched. Programs
    that read the file, as meshkit does, need not be told.
    """
    folder = open_folder(flag)

    async def job(door: Door) -> Any:
        return (await door.post("/v1/tokens/rotate")).data

    try:
        ask(flag, job)
    except DoorUnreachable:
        # If a node runs after all, it holds the folder, and this says so.
        with held(folder):
            write_token(folder, make_token(SystemRandom()))
    path = folder.file(DOOR_TOKEN)
    if as_json:
        print_json({"token_file": path})
    else:
        line(f"There is a new token in {path}.")
