"""C{meshkit audit run} and C{show}: passes over objects, and what they found."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import click

from meshkit.cli.door import Door, ask, segment
from meshkit.cli.health import size
from meshkit.cli.output import json_option, line, print_json, printable, table
from meshkit.cli.passes import begin, exit_code, follow, tell, tell_run
from meshkit.errors import ConfigError
from meshkit.runtime.files import LocalFiles

#: Digits of the id of an audit, by which it has a receipt.
_AUDIT_DIGITS: Final = 32


@click.command()
@click.argument("objects", metavar="[OBJECT]...", nargs=-1)
@click.option("--no-repair", is_flag=True, help="Only look, and make nothing anew.")
@click.option("--detach", is_flag=True, help="Do not wait until it is done.")
@json_option
@click.pass_obj
def run(
    flag: str | None, objects: Sequence[str], no_repair: bool, detach: bool, as_json: bool
) -> None:
    """
    Audit the shares of OBJECTs now; of all that are looked after, if none is named.

    Lost shares are made anew where that is called for: when fewer are good than
    audit.repair_below says. Exit code 0: nothing is missing now; 3: something is, and enough is
    there; 4: of an object too little is. OBJECT is an id, or its first eight digits or more.
    """

    async def job(door: Door) -> Any:
        body = {"objects": list(objects), "repair": not no_repair}
        begun = await begin(door, "/v1/audit/runs", body)
        return begun if detach else await follow(door, begun)

    tell(ask(flag, job), detach, as_json)


@click.command()
@click.argument("what", metavar="[RUN or AUDIT]", required=False)
@click.option("--out", "-o", type=click.Path(), help="Write the receipt of AUDIT into this file.")
@click.option("--limit", type=click.IntRange(1, 500), default=20, help="How many at most.")
@json_option
@click.pass_obj
def show(flag: str | None, what: str | None, out: str | None, limit: int, as_json: bool) -> None:
    """
    What passes found, and which receipts there are.

    Without an argument the last passes and receipts are listed. RUN is the number of a pass, or
    'latest'. AUDIT is the id of an audit, of 32 hex digits: with --out its receipt is written
    into a file, for 'meshkit audit verify'.
    """
    is_audit = what is not None and len(what) == _AUDIT_DIGITS
    if out is not None and not is_audit:
        raise click.UsageError("--out needs the id of an audit, of 32 hex digits.")
    if what is None:
        _list(flag, limit, as_json)
    elif is_audit:
        _receipt(flag, what, out, as_json)
    else:
        _run(flag, what, as_json)


def _list(flag: str | None, limit: int, as_json: bool) -> None:
    async def job(door: Door) -> tuple[Any, Any]:
        runs = (await door.get("/v1/audit/runs", limit=limit)).data
        return runs, (await door.get("/v1/audit/receipts", limit=limit)).data

    runs, receipts = ask(flag, job)
    if as_json:
        print_json({"runs": runs, "receipts": receipts})
        return
    if not runs:
        line("No passes yet. Begin one with: meshkit audit run")
    else:
        table(
            ("run", "state", "begun", "objects", "shares", "made anew", "decisions"),
            [
                (
                    each["run"],
                    each["state"],
                    each["begun"],
                    str(each["objects"]),
                    str(each["shares"]),
                    str(each["placed"]),
                    _counts(each["decisions"]),
                )
                for each in runs
            ],
        )
    if receipts:
        line("")
        table(
            ("audit", "judged", "shares", "outcomes", "peer"),
            [
                (
                    each["id"],
                    each["judged"],
                    str(each["shares"]),
                    _counts(each["outcomes"]),
                    each["peer"],
                )
                for each in receipts
            ],
        )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _run(flag: str | None, name: str, as_json: bool) -> None:
    async def job(door: Door) -> Any:
        return (await door.get(f"/v1/audit/runs/{segment(name)}")).data

    found = ask(flag, job)
    if as_json:
        print_json(found)
    else:
        tell_run(found)
    sys.exit(exit_code(found))


def _receipt(flag: str | None, audit_id: str, out: str | None, as_json: bool) -> None:
    if out is None:
        raise click.UsageError("say with --out FILE where the receipt goes.")
    if os.path.lexists(out):
        raise ConfigError(f"{out} exists: name another file")

    async def job(door: Door) -> bytes:
        path = f"/v1/audit/receipts/{segment(audit_id)}"
        return bytes((await door.call("GET", path, raw=True)).data)

    data = ask(flag, job)
    LocalFiles().create(os.path.abspath(out), data, 0o644)
    if as_json:
        print_json({"audit": audit_id, "file": os.path.abspath(out), "bytes": len(data)})
    else:
        line(f"Wrote {printable(out)}, {size(len(data))}. See: meshkit audit verify {out}")
