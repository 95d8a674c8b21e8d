"""C{meshkit init}, C{id} and C{status}."""

from __future__ import annotations

from random import Random, SystemRandom
from typing import Any

import click

from meshkit.cli.door import Door, open_folder
from meshkit.cli.door import ask as ask_node
from meshkit.cli.locate import init_command
from meshkit.cli.output import json_option, line, print_json, table
from meshkit.errors import ConfigError, DoorUnreachable, NotFound, PassphraseRequired
from meshkit.identity import egregore
from meshkit.identity.keys import SEED_BYTES, Identity, PublicKey
from meshkit.identity.network import NetworkSecret
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import DataFolder
from meshkit.runtime.keyring import (
    NETWORK_SECRET,
    create_identity,
    load_networks,
    load_token,
    needs_passphrase,
    stored_networks,
    stored_public,
)
from meshkit.tap.passphrase import ask, ask_new, can_ask, read_from


@click.command()
@click.option(
    "--network-key",
    metavar="SECRET",
    help="Join the network with this secret (mknet1-...), or make one of a passphrase (weak).",
)
@click.option("--passphrase", is_flag=True, help="Ask for a passphrase to put the key file under.")
@click.option(
    "--passphrase-fd",
    type=int,
    metavar="N",
    help="Put the key file under the passphrase that file descriptor N gives.",
)
@click.option(
    "--import-egregore",
    "imported",
    metavar="FILE",
    help="Take over Egregore's identity/secret.key or secret.key.enc.",
)
@click.option(
    "--import-passphrase-fd",
    "imported_fd",
    type=int,
    metavar="N",
    help="File descriptor with the passphrase of that secret.key.enc.",
)
@json_option
@click.pass_obj
def init(
    flag: str | None,
    network_key: str | None,
    passphrase: bool,
    passphrase_fd: int | None,
    imported: str | None,
    imported_fd: int | None,
    as_json: bool,
) -> None:
    """
    Make the identity and the network of a data folder.

    Without --network-key a new random network is made. What is there already is kept:
    running it again shows the same.
    """
    folder = open_folder(flag)
    folder.prepare()
    rng = SystemRandom()
    stored = stored_networks(folder)
    # Given but empty is a variable that somebody forgot to set, not a wish for a new network.
    other = None if network_key is None else NetworkSecret.from_setting(network_key)
    if stored and other is not None and other.raw != stored[0].raw:
        raise ConfigError(
            f"{folder.path} belongs to another network already: use another --data-dir, or "
            f"remove {folder.file(NETWORK_SECRET)} to leave that network"
        )
    sealing = passphrase or passphrase_fd is not None
    try:
        public = stored_public(folder)
    except FileNotFoundError:
        fresh = True
        public = _new_identity(folder, rng, sealing, passphrase_fd, imported, imported_fd)
    else:
        fresh = False
        if imported is not None:
            raise ConfigError(
                f"{folder.path} has the identity {public.text} already: import into another "
                f"--data-dir"
            )
        if sealing and not needs_passphrase(folder):
            raise ConfigError(
                f"{folder.path} has an identity already: put it under a passphrase with "
                f"'meshkit passphrase'"
            )
    network = load_networks(folder, network_key or "", (), rng)[0]
    load_token(folder, rng)
    if as_json:
        print_json(
            {
                "public_id": public.text,
                "data_dir": folder.path,
                "network_secret": network.text,
                "network_weak": network.weak,
                "passphrase": needs_passphrase(folder),
                "created": fresh,
            }
        )
        return
    line(f"{'New identity' if fresh else 'Identity'}  {public.text}")
    line(f"Data folder   {folder.path}")
    line(f"Network       {network.text}")
    line("")
    if imported is not None:
        line(
            "Do not publish with Egregore under this identity any more: two nodes with one "
            "identity make a fork of its feed."
        )
    if network.weak:
        line(
            "This network was made from a passphrase: whoever records one connection can guess it."
        )
    line("Give the network secret to the members of your network only, each runs:")
    line(f"  meshkit init --network-key {network.text}")


def _new_identity(
    folder: DataFolder,
    rng: Random,
    sealing: bool,
    descriptor: int | None,
    imported: str | None,
    imported_descriptor: int | None,
) -> PublicKey:
    if imported is None:
        identity = Identity(rng.randbytes(SEED_BYTES))
    else:
        identity = _import(imported, imported_descriptor)
    passphrase = None
    if sealing:
        passphrase = ask_new("New passphrase") if descriptor is None else read_from(descriptor)
    create_identity(folder, identity, rng, passphrase)
    return identity.public


def _import(path: str, descriptor: int | None) -> Identity:
    files = LocalFiles()
    data = files.read(path, egregore.MAX_FILE)
    if not egregore.is_encrypted(data):
        # Nobody else may know a key that we are to use.
        data = files.read_secret(path, egregore.MAX_FILE)
        return egregore.import_identity(data, path)
    if descriptor is not None:
        return egregore.import_identity(data, path, read_from(descriptor))
    if not can_ask():
        raise PassphraseRequired(
            f"{path} is encrypted, and there is no terminal to ask on: give its passphrase with "
            f"--import-passphrase-fd"
        )
    return egregore.import_identity(data, path, ask(f"Passphrase of {path}"))


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
        public = stored_public(folder)
    except FileNotFoundError:
        raise NotFound(
            f"there is no identity in {folder.path}: make one with '{init_command(folder)}'"
        ) from None
    addresses = (folder.live_endpoints() or {}).get("mesh", [])
    if as_json:
        print_json({"public_id": public.text, "addresses": addresses})
        return
    line(public.text)
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
        data = ask_node(flag, job)
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
    if data["network_previous"]:
        using = f"{data['network_previous']}, still used by: {data['peers_on_previous']}"
        rows.insert(2, ("replaces", using))
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
    for key, value in part.items():
        name = key.replace("_", " ")
        if isinstance(value, bool):
            shown.append(name if value else f"not {name}")
        elif isinstance(value, dict):
            if value:
                shown.append(f"{name}: {_counts(value)}")
        elif isinstance(value, list):
            shown.append(f"{len(value)} {name}")
        elif value is not None:
            shown.append(f"{value} {name}" if isinstance(value, int) else f"{name}: {value}")
    return ", ".join(shown)
