"""C{meshkit storage connect}, C{status} and C{disconnect}."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

from meshkit.cli.door import Door, ask
from meshkit.cli.output import json_option, line, print_json
from meshkit.errors import ConfigError, SharesLeft
from meshkit.runtime.config import parse_size

_STATES: Final = {
    "none": "nothing is lent: meshkit storage connect --max-storage 10GB",
    "lending": "lending",
    "draining": "draining: nothing new is taken, and what is here is kept until its leases end",
    "left": "nothing is kept any more",
}
_EMPTY: Final = (
    "draining: nothing new is taken, and nothing is here any more: the node may be stopped"
)
#: Seconds between two looks at what is left.
LOOK_EVERY: Final = 2.0
_ADMISSIONS: Final = {"open": "all members of the network", "allow-list": "those in keeper.allow"}
_UNITS: Final = ("bytes", "kB", "MB", "GB", "TB", "PB", "EB")


def _bytes(ctx: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_size(text)
    except ValueError as e:
        raise click.BadParameter(str(e), ctx, parameter) from None


@click.command()
@click.option(
    "--max-storage",
    callback=_bytes,
    metavar="SIZE",
    help="How much to lend in all, such as 10GB; left out, as much as before.",
)
@json_option
@click.pass_obj
def connect(flag: str | None, max_storage: int | None, as_json: bool) -> None:
    """
    Lend space to the members of the network, also after restarts.

    The node has to run. Said again, it lends more or less than before; what is kept already
    stays.

    Example: meshkit storage connect --max-storage 10GB
    """

    async def job(door: Door) -> Any:
        return await door.post("/v1/storage/connect", {"max_storage": max_storage})

    answer = ask(flag, job)
    _warn(answer.metadata)
    if as_json:
        print_json(answer.data)
        return
    _print(answer.data)


@click.command()
@json_option
@click.pass_obj
def status(flag: str | None, as_json: bool) -> None:
    """What this node keeps for others, and how much it lends them."""

    async def job(door: Door) -> Any:
        return await door.get("/v1/storage")

    found = ask(flag, job).data
    if as_json:
        print_json(found)
        return
    _print(found)


@click.command()
@click.option(
    "--now",
    is_flag=True,
    help="Remove what is kept at once, although its owners count on it.",
)
@click.option("--yes", "-y", is_flag=True, help="With --now: although something will be lost.")
@click.option("--wait", is_flag=True, help="Until nothing is kept here any more.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="With --wait: no longer than that; then the exit code is 1.",
)
@json_option
@click.pass_obj
def disconnect(
    flag: str | None, now: bool, yes: bool, wait: bool, timeout: float | None, as_json: bool
) -> None:
    """
    Take nothing new for others any more.

    What is kept already can be read until the leases on it end. Others are told that this node
    leaves: whoever looks after the objects takes their shares elsewhere, and gives up the leases
    here. Leave the node running until 'meshkit storage status' shows no shares, or --wait for it.
    With --now all of it is removed at once, and what was lost is said.
    """
    if timeout is not None and not wait:
        raise click.UsageError("--timeout says how long to --wait")

    async def job(door: Door) -> Any:
        if now and not yes:
            _check_nothing_is_lost((await door.get("/v1/storage")).data)
        answer = await door.post("/v1/storage/disconnect", {"now": now})
        if wait:
            answer.data["status"] = await _wait_until_empty(
                door, answer.data["status"], timeout, None if as_json else line
            )
        return answer

    answer = ask(flag, job)
    _warn(answer.metadata)
    left = answer.data
    if as_json:
        print_json(left)
        return
    if now:
        line(
            f"Removed {_count(left['lost_shares'], 'share')}, {size(left['lost_bytes'])}, of "
            f"{_count(left['lost_owners'], 'owner')}."
        )
    _print(left["status"])


async def _wait_until_empty(
    door: Door, status: Any, timeout: float | None, tell: Callable[[str], None] | None
) -> Any:
    """
    @param tell: is called with what is left, whenever that is another number.
    @return: how things are when nothing is kept any more.
    @raise SharesLeft: if that takes too long.
    """
    end = None if timeout is None else door.seconds() + timeout
    told = None
    while left := status["shares"] + status["uploads"]:
        if tell is not None and left != told:
            tell(f"{_count(left, 'share')} left, {size(status['used'])}, {_until(status)}")
            told = left
        pause = LOOK_EVERY if end is None else min(LOOK_EVERY, end - door.seconds())
        if pause <= 0:
            raise SharesLeft(
                f"{_count(left, 'share')}, {size(status['used'])}, of "
                f"{_count(status['owners'], 'owner')} are still here, {_until(status)}: leave "
                "the node running"
            )
        await door.pause(pause)
        status = (await door.get("/v1/storage")).data
    return status


def _until(status: Any) -> str:
    end = status["last_lease_end"]
    return f"until {end} at the latest" if end else "with no lease any more"


def _check_nothing_is_lost(status: Any) -> None:
    """@raise ConfigError: if something would be lost, saying what."""
    if status["shares"]:
        raise ConfigError(
            f"{_count(status['shares'], 'share')}, {size(status['used'])}, of "
            f"{_count(status['owners'], 'owner')} would be lost: say --yes as well if they may "
            "be, or leave --now out and keep the node running until their leases end"
        )


def _warn(metadata: dict[str, Any]) -> None:
    for each in metadata.get("warnings", ()):
        click.echo(f"Warning: {each}", err=True)


def _print(status: Any) -> None:
    drained = status["state"] == "draining" and not status["shares"] + status["uploads"]
    rows = [("state", _EMPTY if drained else _STATES[status["state"]])]
    if status["max_storage"]:
        rows += [
            ("lent", f"{size(status['max_storage'])}, as {_source(status['source'])} says"),
            ("kept", f"{_count(status['shares'], 'share')} of {_count(status['owners'], 'owner')}"),
            ("used", size(status["used"])),
            ("free", f"{size(status['free'])}, and {size(status['headroom'])} for repairs"),
        ]
        if status["uploads"]:
            rows.append(("coming", _count(status["uploads"], "share")))
        if status["damaged"]:
            rows.append(("damaged", f"{_count(status['damaged'], 'share')}: see the log"))
        if status["last_lease_end"]:
            rows.append(("leases end", status["last_lease_end"]))
        if status["disk_free"] is not None:
            rows.append(("disk", f"{size(status['disk_free'])} free"))
        rows.append(("for", _ADMISSIONS[status["admission"]]))
        rows.append(("reached at", ", ".join(status["addresses"]) or "not known yet"))
        if status["tls"]:
            rows.append(("by TLS at", ", ".join(status["tls"])))
        if status["announced"] is not None:
            rows.append(("announced", f"to {_count(status['announced'], 'node')}"))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        line(f"{name.ljust(width)}  {text}")


def _source(source: str | None) -> str:
    return "keeper.max_storage" if source == "config" else "'meshkit storage connect'"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def size(number: int) -> str:
    """@return: a number of bytes for people, with three digits."""
    value, unit = float(number), 0
    # What would be written as 1000 of one unit is 1 of the next.
    while unit < len(_UNITS) - 1 and float(f"{value:.3g}") >= 1000:
        value, unit = value / 1000, unit + 1
    shown = str(number) if unit == 0 else f"{value:.3g}"
    return f"{shown} {_UNITS[unit]}"
