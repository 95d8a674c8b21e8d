"""C{meshkit invite}: one text, or one picture, with which somebody joins the network."""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from contextlib import closing
from ipaddress import ip_address
from typing import Any

import click

from meshkit.cli.door import Door, ask, segment
from meshkit.cli.output import json_option, line, print_json, table, visible
from meshkit.cli.spans import span
from meshkit.identity.addresses import MeshAddress

_NEVER = "never"
#: Columns of a terminal, in each of which is a dot of a code.
_TERMINAL = 80


def _lifetime(text: str) -> int | None:
    """@return: the seconds that an invite is good for; a type of click's options."""
    return None if text == _NEVER else span(text)


@click.group(invoke_without_command=True)
@click.option(
    "--uses",
    type=click.IntRange(1, 1_000),
    default=1,
    show_default=True,
    help="By how many it may be used.",
)
@click.option(
    "--expires",
    type=_lifetime,
    metavar="TIME",
    default="7d",
    show_default=True,
    help="How long it is good, such as 12h or 30d, or 'never'.",
)
@click.option(
    "--open",
    "is_open",
    is_flag=True,
    help="Put the network's secret itself in it: it works without this node, for anybody, "
    "for ever.",
)
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="HOST[:PORT]",
    help="Where the newcomer reaches this node, or its address through a relay, as 'meshkit "
    "status' shows it; may be repeated [default: what the node knows].",
)
@click.option(
    "--note", metavar="TEXT", default="", help="What it is for, for 'meshkit invite list'."
)
@click.option("--qr", is_flag=True, help="Show it as a QR code, too.")
@click.option(
    "--qr-file",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Draw the QR code into a new FILE, .svg or .png.",
)
@json_option
@click.pass_context
def invite(
    ctx: click.Context,
    uses: int,
    expires: int | None,
    is_open: bool,
    addresses: Sequence[str],
    note: str,
    qr: bool,
    qr_file: str | None,
    as_json: bool,
) -> None:
    """
    Make an invite and print it. It is not kept: copy it now.

    Whoever has it runs 'meshkit join' with it, on a machine that reaches this node. It holds no
    secret of the network: this node, which has to run, gives that out for it, once, and within a
    week, unless you say otherwise. Until then it is worth as much as the network's secret: send
    it where nobody else reads it.

    \b
    Examples:
    meshkit invite --qr
    meshkit invite --uses 20 --expires 2d --address mesh.example.org
    """
    if ctx.invoked_subcommand is not None:
        return
    if is_open:
        for name, option in (("uses", "--uses"), ("expires", "--expires"), ("note", "--note")):
            source = ctx.get_parameter_source(name)
            if source is not click.core.ParameterSource.DEFAULT:
                raise click.UsageError(
                    f"{option} cannot be had with --open: such an invite is not counted, and "
                    f"cannot be ended"
                )
    if qr_file is not None:
        _check_picture(qr_file)
    body: dict[str, Any] = {"addresses": list(addresses), "otherwise": _own_host()}
    if not is_open:
        body |= {"uses": uses, "expires_secs": expires, "note": note}

    async def job(door: Door) -> Any:
        return (await door.post("/v1/invites/open" if is_open else "/v1/invites", body)).data

    made = ask(ctx.obj, job)
    if qr_file is not None:
        _draw(made["invite"], qr_file)
    if as_json:
        print_json(made)
        return
    line(made["invite"])
    if qr:
        _show(made["invite"])
    for text in _remarks(made, qr_file):
        # Beside it, so that '> FILE' makes a file for 'meshkit join -'.
        click.echo(visible(text), err=True)


def _remarks(made: Any, qr_file: str | None) -> list[str]:
    remarks = []
    if qr_file is not None:
        remarks.append(f"Drawn into {qr_file}.")
    if "id" in made:
        uses = "one use" if made["uses"] == 1 else f"{made['uses']} uses"
        until = "no end" if made["expires"] is None else f"good until {made['expires']}"
        remarks.append(f"Invite {made['id']}: {uses}, {until}. It is shown this once.")
    else:
        remarks.append(
            "It holds the secret of the network: whoever sees it is a member for good, and it "
            "cannot be taken back."
        )
    relays = [MeshAddress.parse(each).place.text for each in made["relays"]]
    through = [f"here through the relay at {place}" for place in relays]
    remarks.append(f"It leads to {', '.join([*made['addresses'], *through])}.")
    if not any(map(_is_public, [*made["addresses"], *relays])):
        remarks.append("No one far away can dial that: for those, name an address with --address.")
    remarks.append("The newcomer runs: meshkit join CODE")
    return remarks


def _is_public(address: str) -> bool:
    try:
        return ip_address(address.rpartition(":")[0].strip("[]")).is_global
    except ValueError:
        return True  # a name: whoever wrote it knows


def _own_host() -> str | None:
    """
    The address by which this machine would speak to others, for a node that listens on all of
    its addresses and has not been told by anybody at which one it was reached.
    """
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sock:
        try:
            # Nothing is sent: the system only looks up the way.
            sock.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return str(sock.getsockname()[0])


def _code(text: str) -> Any:
    # Pure Python, and a QR code is no business of a mesh; the best kept of those there are.
    import segno

    # In upper case, as a QR code has room for nearly twice as many letters of that.
    code = segno.make(text.upper(), error="m", micro=False)
    if code.symbol_size()[0] > _TERMINAL:
        code = segno.make(text.upper(), error="l", micro=False)
    return code


def _show(text: str) -> None:
    _code(text).terminal(out=sys.stdout, compact=True)


def _check_picture(path: str) -> None:
    if not path.lower().endswith((".svg", ".png")):
        raise click.BadParameter(f"{path}: the name has to end in .svg or .png")


def _draw(text: str, path: str) -> None:
    import os

    # For its owner's eyes, as it is a secret, and never in the place of something else.
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        _code(text).save(file, kind=path.lower()[-3:], scale=8)


@invite.command("list")
@json_option
@click.pass_obj
def list_invites(flag: str | None, as_json: bool) -> None:
    """The invites that were made here, and who has joined with them."""

    async def job(door: Door) -> Any:
        return (await door.get("/v1/invites")).data

    invites = ask(flag, job)
    if as_json:
        print_json(invites)
        return
    if not invites:
        line("No invites. Make one: meshkit invite")
        return
    table(
        ("id", "state", "used", "expires", "note"),
        [
            (
                each["id"],
                each["state"],
                f"{len(each['used'])} of {each['uses']}",
                each["expires"] or "never",
                each["note"],
            )
            for each in invites
        ],
    )
    joined = [(use["public_id"], use["at"], each["id"]) for each in invites for use in each["used"]]
    if joined:
        line("")
        table(("joined", "at", "with"), joined)


@invite.command()
@click.argument("id")
@json_option
@click.pass_obj
def revoke(flag: str | None, id: str, as_json: bool) -> None:
    """Take the invite ID back. Whoever has joined with it stays in the network."""

    async def job(door: Door) -> Any:
        return (await door.delete(f"/v1/invites/{segment(id)}")).data

    ask(flag, job)
    if as_json:
        print_json({"revoked": id})
    else:
        line(f"Revoked: {id}")
