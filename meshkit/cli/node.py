"""C{meshkit init}, C{id} and C{status}."""

from __future__ import annotations

from random import Random, SystemRandom
from typing import Any

import click
import msgspec

from meshkit.cli.door import Door, open_folder
from meshkit.cli.door import ask as ask_node
from meshkit.cli.locate import init_command, start_command
from meshkit.cli.output import json_option, line, print_json, table
from meshkit.cli.role import is_blind
from meshkit.errors import ConfigError, DoorUnreachable, MeshkitError, NotFound, PassphraseRequired
from meshkit.identity import egregore
from meshkit.identity.keys import SEED_BYTES, Identity, PublicKey
from meshkit.identity.network import NetworkSecret
from meshkit.runtime.config import CONFIG_FILE
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
from meshkit.services.programs import MESH_RELAY, MESH_STORAGE
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
@click.option(
    "--blind",
    is_flag=True,
    help="With --relay: for a relay that serves whoever comes, and is in no network.",
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
    blind: bool,
    as_json: bool,
) -> None:
    """
    Make the identity and the network of a data folder.

    Without --network-key a new random network is made. What is there already is kept:
    running it again shows the same.
    """
    flags = click.get_current_context().find_root().params
    relay = bool(flags.get("relay"))
    if blind and not relay:
        raise ConfigError("only a relay can be blind: run 'meshkit --relay init --blind'")
    folder = open_folder(flag)
    folder.prepare()
    if relay or flags.get("storage"):
        folder.remember_program((MESH_RELAY if relay else MESH_STORAGE).command)
    if relay:
        blind = _make_blind(folder, blind, network_key)
    rng = SystemRandom()
    stored = () if blind else stored_networks(folder)
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
    network = None if blind else load_networks(folder, network_key or "", (), rng)[0]
    load_token(folder, rng)
    if as_json:
        print_json(
            {
                "public_id": public.text,
                "data_dir": folder.path,
                "network_secret": None if network is None else network.text,
                "network_weak": network is not None and network.weak,
                "passphrase": needs_passphrase(folder),
                "created": fresh,
            }
        )
        return
    line(f"{'New identity' if fresh else 'Identity'}  {public.text}")
    line(f"Data folder   {folder.path}")
    line(f"Network       {'none: a blind relay' if network is None else network.text}")
    line("")
    if imported is not None:
        line(
            "Do not publish with Egregore under this identity any more: two nodes with one "
            "identity make a fork of its feed."
        )
    if network is None:
        line("Whoever wants to be found here needs its address, which it has once it runs:")
        line(f"  {start_command(folder)}")
        return
    if network.weak:
        line(
            "This network was made from a passphrase: whoever records one connection can guess it."
        )
    line("Give the network secret to the members of your network only, each runs:")
    line(f"  meshkit init --network-key {network.text}")


def _make_blind(folder: DataFolder, wanted: bool, network_key: str | None) -> bool:
    """
    Is the relay of a folder to be blind?  What is wanted is written down for every start.

    @raise ConfigError: if the relay has a configuration file that says otherwise, or is given
        a network.
    """
    path = folder.file(CONFIG_FILE)
    known = is_blind(folder)
    blind = wanted or known
    if blind and network_key is not None:
        raise ConfigError(
            f"{folder.path} is that of a blind relay, which is in no network: leave out "
            f"--network-key, or use another --data-dir for a relay of your network"
        )
    if wanted and not known:
        try:
            LocalFiles().create(path, b'role = "blind"\n')
        except FileExistsError:
            raise ConfigError(
                f'there is a {path} already: write role = "blind" at its beginning'
            ) from None
    return blind


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
@click.option(
    "--well-known",
    is_flag=True,
    help="Print the document that leads others here by the name of a domain, for a web server to "
    "answer /.well-known/meshkit.json with.",
)
@json_option
@click.pass_obj
def show_id(flag: str | None, well_known: bool, as_json: bool) -> None:
    """
    Print this node's id and, while it runs, the addresses others can dial.

    Works without a running node as well: the id stands in the key file.
    """
    if well_known:
        print_json(ask_node(flag, _well_known))
        return
    folder = open_folder(flag)
    try:
        public = stored_public(folder)
    except FileNotFoundError:
        raise NotFound(
            f"there is no identity in {folder.path}: make one with '{init_command(folder)}'"
        ) from None
    addresses = _dialled_at(flag, folder)
    if as_json:
        print_json({"public_id": public.text, "addresses": addresses})
        return
    line(public.text)
    for address in addresses:
        line(address)
    if any(address.startswith(("net:127.0.0.1:", "net:[::1]:")) for address in addresses):
        line("(from another machine, write this machine's name in place of the loopback address)")


async def _well_known(door: Door) -> Any:
    answer = await door.call("GET", "/.well-known/meshkit.json", raw=True)
    return msgspec.json.decode(answer.data)


def _dialled_at(flag: str | None, folder: DataFolder) -> list[str]:
    """@return: where others dial the node, as it says itself; none if it does not run."""
    listening = (folder.live_endpoints() or {}).get("mesh", [])
    if not listening:
        return []

    async def job(door: Door) -> Any:
        return (await door.get("/v1/identity")).data["addresses"]

    try:
        told: list[str] = ask_node(flag, job)
    except MeshkitError:
        # One without a door, or that does not tell whoever asks.
        return listening
    return told


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
    rows = [("identity", data["identity"])]
    if data["relay"]:
        rows.append(("relay", data["relay"]))
    rows.append(("network", _network(data)))
    if data["network_previous"]:
        using = f"{data['network_previous']}, still used by: {data['peers_on_previous']}"
        rows.append(("replaces", using))
    rows += [
        ("mesh", ", ".join(data["mesh"])),
        ("reached at", ", ".join(data["advertised"]) or "not known yet"),
        ("door", ", ".join(data["api"])),
        ("up", f"{data['uptime_secs']:.0f} s" + ("" if data["ready"] else ", starting")),
        ("peers", f"{data['peer_count']} in the book, {data['channels']} have dialled us"),
        ("channels", _counts(data["transports"]) or "none"),
    ]
    rows += [("refused", _counts(data["refused"]))] if data["refused"] else []
    for name, part in sorted(data["parts"].items()):
        rows.append((name, _summary(part)))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        line(f"{name.ljust(width)}  {text}")
    relays = data["parts"].get("tunnel", {}).get("relays", [])
    if relays:
        line("")
        table(
            ("reached through", "by", "problem"),
            [
                (
                    f"{each['role']} relay" if each["reachable"] else "nothing yet",
                    each["address"],
                    each["problem"] or "",
                )
                for each in relays
            ],
        )
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


def _network(data: dict[str, Any]) -> str:
    name: str = data["network"]
    if data["relay"] == "blind":
        return f"none ({name} is that of all blind relays)"
    return name + (" (weak: from a passphrase)" if data["network_weak"] else "")


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
