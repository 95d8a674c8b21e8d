"""C{meshkit peer}: whom the node dials."""

from __future__ import annotations

from typing import Any

import click

from meshkit.cli.door import Door, ask, segment
from meshkit.cli.output import json_option, line, print_json, table


@click.group()
def peer() -> None:
    """List, add and remove the peers to dial."""


@peer.command("list")
@json_option
@click.pass_obj
def list_peers(flag: str | None, as_json: bool) -> None:
    """The addresses this node dials, and what happened when it did."""

    async def job(door: Door) -> Any:
        return (await door.get("/v1/peers")).data

    peers = ask(flag, job)
    if as_json:
        print_json(peers)
    elif not peers:
        line("No peers yet. Add one: meshkit peer add net:HOST:PORT~shs:KEY")
    else:
        table(
            ("state", "source", "address", "last error"),
            [
                (
                    "connected" if each["connected"] else "down",
                    each["source"],
                    each["address"],
                    each["last_error"] or "",
                )
                for each in peers
            ],
        )


@peer.command("add")
@click.argument("address")
@json_option
@click.pass_obj
def add_peer(flag: str | None, address: str, as_json: bool) -> None:
    """Dial ADDRESS (net:HOST:PORT~shs:KEY), now and after every start."""

    async def job(door: Door) -> Any:
        return (await door.post("/v1/peers", {"address": address})).data

    added = ask(flag, job)
    if as_json:
        print_json(added)
    else:
        line(f"Dialling {added['address']}. How it goes: meshkit peer list")


@peer.command("rm")
@click.argument("address")
@json_option
@click.pass_obj
def remove_peer(flag: str | None, address: str, as_json: bool) -> None:
    """Stop dialling ADDRESS and forget it."""

    async def job(door: Door) -> Any:
        return (await door.delete(f"/v1/peers/{segment(address)}")).data

    ask(flag, job)
    if as_json:
        print_json({"removed": address})
    else:
        line(f"Forgotten: {address}")
