"""C{meshkit object repair}."""

from __future__ import annotations

from typing import Any

import click

from meshkit.cli.door import Door, ask
from meshkit.cli.output import json_option
from meshkit.cli.passes import begin, follow, tell


@click.command()
@click.argument("object_id", metavar="OBJECT")
@click.option("--detach", is_flag=True, help="Do not wait until it is done.")
@json_option
@click.pass_obj
def repair(flag: str | None, object_id: str, detach: bool, as_json: bool) -> None:
    """
    Make every share of OBJECT anew that is not there now.

    Peers are not waited for that may come back: 'meshkit audit run' does that, and repairs
    when it is called for. Only shares that are missing are made, out of those that are there, and
    the object is not opened for it. Exit codes are as for 'meshkit audit run'.
    """

    async def job(door: Door) -> Any:
        begun = await begin(door, "/v1/objects/repair", {"object": object_id})
        return begun if detach else await follow(door, begun)

    tell(ask(flag, job), detach, as_json)
