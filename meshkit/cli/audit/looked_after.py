"""C{meshkit audit watch}, C{unwatch} and C{watched}: objects of others that are looked after."""

from __future__ import annotations

import sys
from typing import Any, Final

import click

from meshkit.cli.door import Door, ask, segment
from meshkit.cli.object.whole_files import STANDARD
from meshkit.cli.output import json_option, line, print_json, table
from meshkit.cli.passes import SHORT

#: Characters of a capability on standard input.
_MAX_TEXT: Final = 1_024
#: Objects that are asked for at a time.
_PAGE: Final = 500


@click.command()
@click.argument("capability", metavar="CAP")
@json_option
@click.pass_obj
def watch(flag: str | None, capability: str, as_json: bool) -> None:
    """
    Look after somebody else's object: audit it, and make its lost shares anew.

    CAP is its repair capability, mkrepair1-..., which its owner gets from 'meshkit object stat
    --capabilities'; or - to read it from standard input, as others on this machine see what is
    on a command line. It lets shares be moved. Nobody can read the object with it, or change it.
    """
    text = sys.stdin.readline(_MAX_TEXT).strip() if capability == STANDARD else capability

    async def job(door: Door) -> Any:
        return (await door.post("/v1/audit/watched", {"capability": text})).data

    found = ask(flag, job)
    if as_json:
        print_json(found)
    else:
        line(f"Looking after {found['object']}: {found['placed']} shares, {found['scheme']}.")


@click.command()
@click.argument("object_id", metavar="OBJECT")
@json_option
@click.pass_obj
def unwatch(flag: str | None, object_id: str, as_json: bool) -> None:
    """Look after somebody else's OBJECT no more. Its shares stay where they are."""

    async def job(door: Door) -> None:
        await door.delete(f"/v1/audit/watched/{segment(object_id)}")

    ask(flag, job)
    if as_json:
        print_json({"object": object_id})
    else:
        line("It is not looked after any more. Its shares stay where they are.")


@click.command()
@json_option
@click.pass_obj
def watched(flag: str | None, as_json: bool) -> None:
    """The objects of others that this node looks after."""

    async def job(door: Door) -> list[Any]:
        found: list[Any] = []
        while True:
            page = await door.get("/v1/audit/watched", limit=_PAGE, offset=len(found))
            found += page.data
            if len(page.data) < _PAGE:
                return found

    found = ask(flag, job)
    if as_json:
        print_json(found)
    elif not found:
        line("None. Their owners give you the capability for: meshkit audit watch CAP")
    else:
        table(
            ("object", "bytes", "scheme", "shares", "version"),
            [
                (
                    each["object"][:SHORT],
                    str(each["bytes"]),
                    each["scheme"],
                    str(each["placed"]),
                    str(each["version"]),
                )
                for each in found
            ],
        )
