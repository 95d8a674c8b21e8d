"""C{meshkit object put}, C{get}, C{ls}, C{stat}, C{rm} and C{check}: objects at storage peers."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

import click

from meshkit.cli.door import Door, ask, segment
from meshkit.cli.health import EXIT_DEGRADED, EXIT_LOST, size
from meshkit.cli.object.following import bar, follow
from meshkit.cli.object.whole_files import STANDARD
from meshkit.cli.output import json_option, line, print_json, printable, table
from meshkit.errors import ConfigError

#: Objects that are asked for at a time.
_PAGE: Final = 500
#: Digits of an id by which people tell objects apart; the node takes at least eight.
_SHORT: Final = 16
#: Characters of what an object is called on standard input.
_MAX_CALLED: Final = 1_024

#: What the flags of a placement mean.
_FLAGS: Final = {
    "one-domain-is-fatal": "all that is in one failure domain may be lost at once, and then the "
    "object is: find peers elsewhere, or say where they are with storage.domains",
    "uneven-domains": "some failure domains have more shares than others, which have too few peers",
    "several-shares-at-one-peer": "some peers have more than one share",
}


def _not_standard(path: str, instead: str) -> None:
    if path == STANDARD:
        raise click.UsageError(
            f"'-' is not possible: the node reads and writes the file by itself, so that it can "
            f"go on after a restart. {instead}"
        )


def _warn(text: str) -> None:
    click.echo(printable(text), err=True)


# --- put and get -----------------------------------------------------------------------


def _called(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    """What an object is called; a read capability is a secret, and need not stand in C{argv}."""
    return sys.stdin.readline(_MAX_CALLED).strip() if text == STANDARD else text


@click.command()
@click.argument("file", type=click.Path())
@click.option("--scheme", metavar="K+M", help="Shares that suffice, and how many more.")
@click.option("--detach", is_flag=True, help="Do not wait until it is done.")
@json_option
@click.pass_obj
def put(flag: str | None, file: str, scheme: str | None, detach: bool, as_json: bool) -> None:
    """
    Seal FILE, cut it into shares and give each to another storage peer.

    The node does it, in the background, and goes on with it after a restart. It keeps the key;
    'meshkit object stat --capabilities' shows what to hand on to others.
    """
    _not_standard(file, "Write it to a file first.")

    async def job(door: Door) -> Any:
        body = {"path": os.path.abspath(file), "scheme": scheme}
        transfer = (await door.post("/v1/objects", body)).data
        if detach:
            return transfer
        with bar(f"put {os.path.basename(file)}", not as_json) as watch:
            return await _following(door, transfer, watch)

    transfer = ask(flag, job)
    if as_json:
        print_json(transfer)
        return
    if detach:
        _tell_detached(transfer)
        return
    result = transfer["result"]
    line(
        f"Object {result['object']}, {size(result['bytes'])}, {len(result['shares'])} of "
        f"{len(result['shares']) + len(result['missing'])} shares."
    )
    line(f"Get it with: meshkit get {result['object'][:_SHORT]} -o FILE")
    if result["missing"]:
        _warn(f"Nobody keeps the shares {_numbers(result['missing'])}: fewer may be lost.")
    for name in result["flags"]:
        _warn(f"Note: {_FLAGS.get(name, name)}.")
    _tell_problems(result["problems"])


@click.command()
@click.argument("object_id", metavar="OBJECT", callback=_called)
@click.option(
    "--output",
    "-o",
    type=click.Path(),
    help="Write into this file [default: what it was called, in this folder].",
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.option("--detach", is_flag=True, help="Do not wait until it is done.")
@json_option
@click.pass_obj
def get(
    flag: str | None,
    object_id: str,
    output: str | None,
    force: bool,
    detach: bool,
    as_json: bool,
) -> None:
    """
    Get an object from its storage peers.

    OBJECT is the id of one of yours, its first eight digits or more, or a read capability,
    mkread1-..., of anybody's; or - to read that from standard input, as others on this machine
    see what is on a command line. The file gets its name when it is whole and on the disk.
    """
    if output is not None:
        _not_standard(output, "Get it into a file, and read that.")

    async def job(door: Door) -> Any:
        path = output
        if path is None:
            details = (await door.post("/v1/objects/stat", {"object": object_id})).data
            path = details["name"]
            if path is None:
                raise ConfigError("it is not known what this object is called: say -o FILE")
        body = {"object": object_id, "path": os.path.abspath(path), "force": force}
        transfer = (await door.post("/v1/objects/get", body)).data
        if detach:
            return transfer
        with bar(f"get {os.path.basename(path)}", not as_json) as watch:
            return await _following(door, transfer, watch)

    transfer = ask(flag, job)
    if as_json:
        print_json(transfer)
    elif detach:
        _tell_detached(transfer)
    else:
        line(f"Wrote {transfer['path']}, {size(transfer['result']['bytes'])}.")
        _tell_problems(transfer["result"]["problems"])


async def _following(door: Door, transfer: Any, watch: Any) -> Any:
    try:
        return await follow(door, transfer, watch)
    except GeneratorExit:
        # Ctrl-C.
        _warn(
            f"The transfer goes on in the node. See it with 'meshkit call transfer "
            f"id={transfer['id']}', end it with 'meshkit call transfer_cancel "
            f"id={transfer['id']}'."
        )
        raise


def _tell_detached(transfer: Any) -> None:
    line(f"Transfer {transfer['id']}. See: meshkit call transfer id={transfer['id']}")


def _tell_problems(problems: Any) -> None:
    for each in problems:
        what = "lied" if each["lied"] else "failed"
        _warn(f"Done without {each['peer']}, which {what}: {each['problem']}")


def _numbers(numbers: Any) -> str:
    return ", ".join(map(str, numbers))


# --- looking at them ---------------------------------------------------------------------


@click.command("ls")
@click.option("--removed", is_flag=True, help="Those that were removed lately, too.")
@json_option
@click.pass_obj
def list_objects(flag: str | None, removed: bool, as_json: bool) -> None:
    """The objects of this node, the newest first."""

    async def job(door: Door) -> list[Any]:
        found: list[Any] = []
        while True:
            page = await door.get("/v1/objects", limit=_PAGE, offset=len(found), removed=removed)
            found += page.data
            if len(page.data) < _PAGE:
                return found

    found = ask(flag, job)
    if as_json:
        print_json(found)
    elif not found:
        line("No objects. Store a file with: meshkit put FILE")
    else:
        table(
            ("object", "bytes", "scheme", "shares", "added", "name"),
            [
                (
                    each["object"][:_SHORT],
                    str(each["bytes"]),
                    each["scheme"],
                    str(each["placed"]) if each["status"] == "live" else "removed",
                    each["added"],
                    each["name"],
                )
                for each in found
            ],
        )


@click.command()
@click.argument("object_id", metavar="OBJECT", callback=_called)
@click.option(
    "--capabilities",
    is_flag=True,
    help="Show the strings with which others read, check or repair it: two are secrets.",
)
@json_option
@click.pass_obj
def stat(flag: str | None, object_id: str, capabilities: bool, as_json: bool) -> None:
    """
    What an object is, and where its shares are.

    OBJECT is as for 'get', or a verify capability, mkverify1-...
    """

    async def job(door: Door) -> Any:
        details = (await door.post("/v1/objects/stat", {"object": object_id})).data
        if capabilities:
            path = f"/v1/objects/{segment(details['object'])}/capabilities"
            details["capabilities"] = (await door.get(path)).data
        return details

    found = ask(flag, job)
    if as_json:
        print_json(found)
        return
    rows = [
        ("object", found["object"]),
        ("name", found["name"]),
        ("bytes", str(found["bytes"])),
        ("scheme", found["scheme"]),
        ("status", found["status"]),
        ("added", found["added"]),
        ("verify", found["verify"]),
    ]
    if capabilities:
        rows += [
            ("read", found["capabilities"]["read"]),
            ("repair", found["capabilities"]["repair"]),
        ]
    for name, value in rows:
        if value is not None:
            line(f"{name:<8}{value}")
    table(
        ("share", "kept until", "peer"),
        [
            (str(each["share"]), each["lease_end"] or "", each["peer"] or "nobody")
            for each in found["shares"]
        ],
    )
    for name in found["flags"]:
        line(f"Note: {_FLAGS.get(name, name)}.")


@click.command()
@click.argument("object_id", metavar="OBJECT", callback=_called)
@click.option(
    "--depth",
    type=click.Choice(("stat", "sample", "full")),
    default="sample",
    help="Believe the peers, read a block of each share, or all [default: sample].",
)
@json_option
@click.pass_obj
def check(flag: str | None, object_id: str, depth: str, as_json: bool) -> None:
    """
    Ask the peers of an object whether they have its shares.

    Exit code 0: all are good; 3: some are not, and enough are; 4: too few are. OBJECT is as for
    'stat'.
    """

    async def job(door: Door) -> Any:
        body = {"object": object_id, "depth": depth}
        return (await door.post("/v1/objects/check", body)).data

    found = ask(flag, job)
    if as_json:
        print_json(found)
    else:
        table(
            ("share", "state", "kept until", "peer", "problem"),
            [
                (
                    str(each["share"]),
                    each["state"],
                    each["lease_end"] or "",
                    each["peer"] or "nobody",
                    each["problem"] or "",
                )
                for each in found["shares"]
            ],
        )
        line(
            f"{found['health'].capitalize()}: {found['good']} of {len(found['shares'])} shares are "
            f"good, and {found['required']} suffice."
        )
        for name in found["flags"]:
            line(f"Note: {_FLAGS.get(name, name)}.")
    sys.exit({"healthy": 0, "degraded": EXIT_DEGRADED, "lost": EXIT_LOST}[found["health"]])


@click.command("rm")
@click.argument("object_id", metavar="OBJECT")
@json_option
@click.pass_obj
def remove(flag: str | None, object_id: str, as_json: bool) -> None:
    """
    Destroy the key of an object, and have its peers forget the shares.

    Nobody can read it any more who has not been given the key before. OBJECT is the id of one
    of yours, or its first eight digits or more.
    """

    async def job(door: Door) -> Any:
        return (await door.delete(f"/v1/objects/{segment(object_id)}")).data

    found = ask(flag, job)
    if as_json:
        print_json(found)
        return
    line(f"Removed {found['object']}; {found['released']} shares are given up.")
    if found["pending"]:
        line(
            f"{found['pending']} are at peers that did not answer: the node asks them again, and "
            f"without that they end with their leases."
        )
