"""C{meshkit network}: the network's secret, and how it is replaced."""

from __future__ import annotations

from random import SystemRandom
from typing import Any

import click

from meshkit.cli.door import Door, ask, open_folder
from meshkit.cli.locate import init_command
from meshkit.cli.output import json_option, line, print_json
from meshkit.errors import ConfigError, DoorUnreachable, NotFound
from meshkit.identity.network import NetworkSecret
from meshkit.runtime.folder import DataFolder
from meshkit.runtime.keyring import NETWORK_SECRET, stored_networks, write_networks


@click.group()
def network() -> None:
    """Show the network's secret, and replace it."""


@network.command()
@click.option("--secret", is_flag=True, help="Show the secret itself, for a new member.")
@json_option
@click.pass_obj
def show(flag: str | None, secret: bool, as_json: bool) -> None:
    """The network of this data folder: its public name, and whether it is being replaced."""
    folder = open_folder(flag)
    secrets = _stored(folder)
    using = _peers_on_previous(flag) if len(secrets) > 1 else None
    if as_json:
        print_json(
            {
                "networks": [
                    {
                        "network": each.key().net_id.hex(),
                        "weak": each.weak,
                        **({"secret": each.text} if secret else {}),
                    }
                    for each in secrets
                ],
                "peers_on_previous": using,
            }
        )
        return
    for name, each in zip(("current", "previous"), secrets, strict=False):
        weak = " (weak: from a passphrase)" if each.weak else ""
        line(f"{name.ljust(8)}  {each.key().net_id.hex()}{weak}")
        if secret:
            line(f"          {each.text}")
    if len(secrets) > 1:
        line(_still(using))


@network.command()
@click.option("--to", metavar="SECRET", help="The new secret (mknet1-...) [default: a random one].")
@click.option("--finish", is_flag=True, help="Forget the previous secret.")
@click.option("--force", is_flag=True, help="... although peers still use it.")
@json_option
@click.pass_obj
def rotate(flag: str | None, to: str | None, finish: bool, force: bool, as_json: bool) -> None:
    """
    Replace the network's secret, without cutting off those who have the old one.

    The first call makes a new secret: this node then dials with it, and answers to both.
    Give it to the other members ('meshkit network rotate --to SECRET') and restart each
    node. Called again, it says how many peers still use the old one; when none does,
    end it with --finish and restart.
    """
    folder = open_folder(flag)
    secrets = _stored(folder)
    rotating = len(secrets) > 1
    if finish:
        _finish(flag, folder, secrets, force, as_json)
    elif rotating and to is not None and NetworkSecret.parse(to).raw != secrets[0].raw:
        raise ConfigError(
            "the secret is being replaced by another one already: end that first with "
            "'meshkit network rotate --finish'"
        )
    elif rotating:
        using = _peers_on_previous(flag)
        if as_json:
            print_json({"network_secret": secrets[0].text, "peers_on_previous": using})
            return
        line(f"New secret    {secrets[0].text}")
        line(_still(using))
    else:
        new = NetworkSecret.generate(SystemRandom()) if to is None else NetworkSecret.parse(to)
        write_networks(folder, (new, secrets[0]))
        if as_json:
            print_json({"network_secret": new.text, "peers_on_previous": None})
            return
        line(f"New secret    {new.text}")
        line("Restart this node: it then answers to both secrets, and dials with the new one.")
        line("Then each other member runs, and restarts its node:")
        line(f"  meshkit network rotate --to {new.text}")


def _finish(
    flag: str | None,
    folder: DataFolder,
    secrets: tuple[NetworkSecret, ...],
    force: bool,
    as_json: bool,
) -> None:
    if len(secrets) < 2:
        raise ConfigError(f"the network secret of {folder.path} is not being replaced")
    using = _peers_on_previous(flag)
    if using and not force:
        raise ConfigError(
            f"the old secret is still used, by {using} of the peers that dialled this node since "
            f"its start, and they would be cut off: wait for them, or add --force"
        )
    write_networks(folder, secrets[:1])
    if as_json:
        print_json({"network_secret": secrets[0].text, "peers_on_previous": using})
    else:
        line("The old secret is forgotten. Restart this node: it then answers to the new one only.")


def _stored(folder: DataFolder) -> tuple[NetworkSecret, ...]:
    secrets = stored_networks(folder)
    if not secrets:
        raise NotFound(
            f"{folder.file(NETWORK_SECRET)} does not exist: make a network with "
            f"'{init_command(folder)}'"
        )
    return secrets


def _peers_on_previous(flag: str | None) -> int | None:
    """As the running node counts them; nothing, if it does not run or was not restarted."""

    async def job(door: Door) -> Any:
        return (await door.get("/v1/status")).data

    try:
        status = ask(flag, job)
    except DoorUnreachable:
        return None
    return None if status["network_previous"] is None else int(status["peers_on_previous"])


def _still(using: int | None) -> str:
    if using is None:
        return "This node does not run with both secrets yet: start it again to have peers counted."
    if using == 0:
        return "Since its start no peer has dialled this node with the old secret."
    return f"Peers that dialled this node since its start and still use the old secret: {using}"
