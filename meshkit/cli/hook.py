"""C{meshkit hook}: the commands and webhooks of the node, and what they could not deliver."""

from __future__ import annotations

from typing import Any, Final

import click

from meshkit.cli.door import Door, ask, segment
from meshkit.cli.output import json_option, line, print_json, table

#: Parked messages that are asked for at a time.
_PAGE: Final = 1000


@click.group()
def hook() -> None:
    """
    See what the hooks do, and try again what failed.

    Which hooks there are stands in the configuration file, as [[hooks.command]] and
    [[hooks.webhook]].
    """


@hook.command("list")
@json_option
@click.pass_obj
def list_hooks(flag: str | None, as_json: bool) -> None:
    """The hooks, and how each is doing."""

    async def job(door: Door) -> Any:
        return (await door.get("/v1/hooks")).data

    hooks = ask(flag, job)
    if as_json:
        print_json(hooks)
    elif not hooks:
        line("No hooks. Write [[hooks.command]] or [[hooks.webhook]] into the configuration file.")
    else:
        table(
            ("hook", "kind", "state", "behind", "delivered", "parked", "target", "last error"),
            [
                (
                    each["name"],
                    each["kind"],
                    _state(each),
                    str(each["behind"]),
                    str(each["delivered"]),
                    str(each["parked"]),
                    each["target"],
                    each["last_error"] or "",
                )
                for each in hooks
            ],
        )


def _state(each: Any) -> str:
    if each["next_attempt"] is None:
        return str(each["state"])
    return f"{each['state']} {each['next_attempt']:.0f} s"


@hook.command()
@click.argument("name")
@json_option
@click.pass_obj
def parked(flag: str | None, name: str, as_json: bool) -> None:
    """The messages that the hook NAME has given up, and why."""

    async def job(door: Door) -> list[Any]:
        found: list[Any] = []
        while True:
            after = found[-1]["position"] if found else 0
            path = f"/v1/hooks/{segment(name)}/parked"
            page = (await door.get(path, after=after, limit=_PAGE)).data
            found += page
            if len(page) < _PAGE:
                return found

    found = ask(flag, job)
    if as_json:
        print_json(found)
    elif not found:
        line(f"The hook {name} has given up no message.")
    else:
        table(
            ("position", "given up", "attempts", "message", "error"),
            [
                (
                    str(each["position"]),
                    each["parked"] + (" (being tried again)" if each["again"] else ""),
                    str(each["attempts"]),
                    each["hash"],
                    each["error"],
                )
                for each in found
            ],
        )


@hook.command()
@click.argument("name")
@click.argument("position", type=click.IntRange(min=1), required=False)
@json_option
@click.pass_obj
def retry(flag: str | None, name: str, position: int | None, as_json: bool) -> None:
    """
    Make the next attempt of the hook NAME now, and try what it has given up once more.

    With POSITION, only that message of those.
    """
    count = _some(flag, name, "retry", position)
    if as_json:
        print_json({"count": count})
    else:
        line(f"Parked messages that are tried once more: {count}. See: meshkit hook list")


@hook.command()
@click.argument("name")
@click.argument("position", type=click.IntRange(min=1), required=False)
@json_option
@click.pass_obj
def discard(flag: str | None, name: str, position: int | None, as_json: bool) -> None:
    """
    Forget what the hook NAME has given up: it never gets these messages.

    They stay in their feeds. With POSITION, only that one.
    """
    count = _some(flag, name, "discard", position)
    if as_json:
        print_json({"count": count})
    else:
        line(f"Parked messages that are forgotten: {count}")


def _some(flag: str | None, name: str, verb: str, position: int | None) -> int:
    async def job(door: Door) -> Any:
        body = {} if position is None else {"position": position}
        return (await door.post(f"/v1/hooks/{segment(name)}/{verb}", body)).data["count"]

    return int(ask(flag, job))
