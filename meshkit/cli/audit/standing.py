"""C{meshkit audit peers}: what is thought of storage peers."""

from __future__ import annotations

from typing import Any

import click

from meshkit.cli.door import Door, ask
from meshkit.cli.output import json_option, line, print_json, table


@click.command()
@json_option
@click.pass_obj
def peers(flag: str | None, as_json: bool) -> None:
    """
    What is thought of storage peers, by their audits.

    A peer whose audits fail is given less, and then nothing: 'refused' says why.
    """

    async def job(door: Door) -> Any:
        return (await door.get("/v1/audit/peers")).data

    found = ask(flag, job)
    if as_json:
        print_json(found)
    elif not found:
        line("No peer was audited yet. Begin with: meshkit audit run")
    else:
        table(
            ("peer", "score", "weight", "passed", "failed", "away", "state"),
            [
                (
                    each["peer"],
                    f"{each['score']:.3f}",
                    str(each["weight"]),
                    str(each["successes"]),
                    str(each["failures"]),
                    str(each["offlines"]),
                    _state(each),
                )
                for each in found
            ],
        )


def _state(peer: Any) -> str:
    if peer["refused"]:
        return f"refused: {peer['refused']}"
    if peer["offline_since"]:
        return f"away since {peer['offline_since']}"
    return "" if peer["vetted"] else "new"


@click.command()
@click.argument("peer", metavar="ID")
@json_option
@click.pass_obj
def forgive(flag: str | None, peer: str, as_json: bool) -> None:
    """
    Let a storage peer begin anew, as if it had never been audited.

    For one whose disk was mended, say: else what is held against it fades with time.
    """

    async def job(door: Door) -> None:
        await door.post("/v1/audit/peers/forgive", {"peer": peer})

    ask(flag, job)
    if as_json:
        print_json({"peer": peer})
    else:
        line("It begins anew.")
