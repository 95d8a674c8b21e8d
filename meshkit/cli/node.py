"""C{meshkit init}, C{id} and C{status}."""

from __future__ import annotations

from random import SystemRandom
from typing import Any

import click

from meshkit.cli.door import Door, ask, open_folder
from meshkit.cli.output import json_option, line, print_json, table
from meshkit.errors import ConfigError, DoorUnreachable, NotFound
from meshkit.identity.network import NetworkSecret
from meshkit.services.node import (
    NETWORK_SECRET,
    load_identity,
    load_network,
    load_token,
    stored_identity,
    stored_network,
)


@click.command()
@click.option(
    "--network-key",
    metavar="SECRET",
    default="",
    help="Join the network with this secret (mknet1-...), or make one of a passphrase (weak).",
)
@json_option
@click.pass_obj
def init(flag: str | None, network_key: str, as_json: bool) -> None:
    """
    Make the identity and the network of a data folder.

    Without --network-key a new random network is made. What is there already is kept:
    running it again shows the same.
    """
    folder = open_folder(flag)
    folder.prepare()
    rng = SystemRandom()
    stored = stored_network(folder)
    other = NetworkSecret.from_setting(network_key) if network_key else stored
    if stored is not None and other is not None and other.raw != stored.raw:
        raise ConfigError(
            f"{folder.path} belongs to another network already: use another --data-dir, or "
            f"remove {folder.file(NETWORK_SECRET)} to leave that network"
        )
    try:
        stored_identity(folder)
        fresh = False
    except FileNotFoundError:
        fresh = True
    identity = load_identity(folder, rng)
    network = load_network(folder, network_key, rng)
    load_token(folder, rng)
    if as_json:
        print_json(
            {
                "public_id": identity.public.text,
                "data_dir": folder.path,
                "network_secret": network.text,
                "network_weak": network.weak,
                "created": fresh,
            }
        )
        return
    line(f"{'New identity' if fresh else 'Identity'}  {identity.public.text}")
    line(f"Data folder   {folder.path}")
    line(f"Network       {network.text}")
    line("")
    if network.weak:
        line(
            "This network was made from a passphrase: whoever records one connection can guess it."
        )
    line("Give the network secret to the members of your network only, each runs:")
    line(f"  meshkit init --network-key {network.text}")


@click.command("id")
@json_option
@click.pass_obj
def show_id(flag: str | None, as_json: bool) -> None:
    """
    Print this node's id and, while it runs, the addresses others can dial.

    Works without a running node as well: the id stands in the key file.
    """
    folder = open_folder(flag)
    try:
        identity = stored_identity(folder)
    except FileNotFoundError:
        raise NotFound(
            f"there is no identity in {folder.path}: make one with 'meshkit init'"
        ) from None
    addresses = (folder.read_endpoints() or {}).get("mesh", [])
    if as_json:
        print_json({"public_id": identity.public.text, "addresses": addresses})
        return
    line(identity.public.text)
    for address in addresses:
        line(address)
    if any(address.startswith(("net:127.0.0.1:", "net:[::1]:")) for address in addresses):
        line("(from another machine, write this machine's name in place of the loopback address)")


@click.command()
@json_option
@click.pass_obj
def status(flag: str | None, as_json: bool) -> None:
    """Show how the node is doing."""

    async def job(door: Door) -> Any:
        return (await door.get("/v1/status")).data

    try:
        data = ask(flag, job)
    except DoorUnreachable:
        if as_json:
            print_json({"running": False})
        raise
    if as_json:
        print_json({"running": True, **data})
        return
    rows = [
        ("identity", data["identity"]),
        (
            "network",
            data["network"] + (" (weak: from a passphrase)" if data["network_weak"] else ""),
        ),
        ("mesh", ", ".join(data["mesh"])),
        ("door", ", ".join(data["api"])),
        ("up", f"{data['uptime_secs']:.0f} s" + ("" if data["ready"] else ", starting")),
        ("peers", f"{data['peer_count']} in the book, {data['channels']} have dialled us"),
    ]
    rows += [("refused", _counts(data["refused"]))] if data["refused"] else []
    for name, part in sorted(data["parts"].items()):
        rows.append((name, _summary(part)))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        line(f"{name.ljust(width)}  {text}")
    links = data["parts"].get("gossip", {}).get("links", [])
    if links:
        line("")
        table(
            ("peer", "direction", "received", "sent"),
            [
                (
                    link["peer"],
                    "dialled" if link["dialled"] else "accepted",
                    str(link["received"]),
                    str(link["sent"]),
                )
                for link in links
            ],
        )


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


def _summary(part: dict[str, Any]) -> str:
    shown = []
    for name, value in part.items():
        if isinstance(value, dict):
            if value:
                shown.append(f"{name}: {_counts(value)}")
        elif isinstance(value, list):
            shown.append(f"{len(value)} {name}")
        elif value is not None:
            shown.append(f"{value} {name}" if isinstance(value, int) else f"{name}: {value}")
    return ", ".join(shown)
