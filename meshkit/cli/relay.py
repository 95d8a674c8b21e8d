"""C{meshkit relay}: at which relays the node is known, and who else is."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import click

from meshkit.cli.door import Door, ask
from meshkit.cli.output import json_option, line, print_json, table

_NONE = (
    "No relays yet. Name one in meshkit.toml ([relays] use), or register at one: meshkit relay "
    "register net:HOST:PORT~shs:KEY"
)
#: Entries of a directory that are asked for at a time.
_STRETCH = 100


@click.group()
def relay() -> None:
    """
    Be known at relays, and see who else is.

    A member relay keeps the feeds of those who are registered there, and mail for them. A node
    registers by itself at the relays that its settings name ([relays] use), and is not listed.

    RELAY is net:HOST:PORT~shs:KEY, as 'meshkit id' prints it at the relay, or the key alone, of the
    form @...ed25519, of one that this node has; with a single relay it can be left out.
    """


def _listed(command: Any) -> Any:
    return click.option(
        "--listed/--private",
        default=None,
        help="Let others see this node in the directory of the relay, or not.",
    )(command)


def _nickname(command: Any) -> Any:
    return click.option(
        "--nickname", metavar="NAME", help="What to be called there, at most 64 bytes."
    )(command)


@relay.command("register")
@click.argument("relay", required=False)
@_listed
@_nickname
@json_option
@click.pass_obj
def register(
    flag: str | None, relay: str | None, listed: bool | None, nickname: str | None, as_json: bool
) -> None:
    """
    Register this node at RELAY, now and from now on.

    The node has to run. It signs that it wants to be known there, and how; the relay signs that
    it is. Where nothing is said, it is as before, and private at first.

    \b
    Example:
    meshkit relay register net:192.0.2.7:7661~shs:3Wz... --listed --nickname ada
    """
    _say(flag, "register", relay, {"listed": listed, "nickname": nickname}, as_json)


@relay.command("settings")
@click.argument("relay", required=False)
@_listed
@_nickname
@json_option
@click.pass_obj
def settings(
    flag: str | None, relay: str | None, listed: bool | None, nickname: str | None, as_json: bool
) -> None:
    """
    Change how this node is registered at RELAY.

    \b
    Examples:
    meshkit relay settings --private
    meshkit relay settings --nickname ada
    """
    if listed is None and nickname is None:
        raise click.UsageError("say what to change: --listed, --private or --nickname")
    _say(flag, "settings", relay, {"listed": listed, "nickname": nickname}, as_json)


@relay.command("leave")
@click.argument("relay", required=False)
@json_option
@click.pass_obj
def leave(flag: str | None, relay: str | None, as_json: bool) -> None:
    """
    Have RELAY forget this node, also after restarts.

    What the relay keeps of the node's feed is for the relay to forget when it likes.
    """
    _say(flag, "leave", relay, {}, as_json)


def _say(
    flag: str | None, what: str, which: str | None, fields: dict[str, Any], as_json: bool
) -> None:
    async def job(door: Door) -> Any:
        body = {"relay": which, **fields}
        return (await door.post(f"/v1/relays/{what}", body)).data

    shown = ask(flag, job)
    if as_json:
        print_json(shown)
        return
    if not shown["registered"]:
        line(f"Not registered any more at {shown['address']}")
        return
    named = f" as {shown['nickname']}" if shown["nickname"] else ""
    seen = "listed" if shown["listed"] else "private"
    line(f"Registered at {shown['address']}{named}, {seen}")


@relay.command("directory")
@click.argument("relay", required=False)
@click.option(
    "--limit", type=click.IntRange(1), metavar="N", help="How many at most [default: all]."
)
@json_option
@click.pass_obj
def directory(flag: str | None, relay: str | None, limit: int | None, as_json: bool) -> None:
    """
    The peers of RELAY that want to be listed.

    Each has signed its entry, and the node has verified that: a relay can leave a peer out, but
    neither invent one nor give it another name. Anybody can call himself anything: a peer is its
    key.
    """

    async def job(door: Door) -> tuple[list[Any], int]:
        found: list[Any] = []
        query: dict[str, Any] = {} if relay is None else {"relay": relay}
        while True:
            rest = _STRETCH if limit is None else min(_STRETCH, limit - len(found))
            asked = urlencode({**query, "limit": rest})
            answer = await door.get(f"/v1/relays/directory?{asked}")
            found += answer.data
            cursor = answer.metadata.get("next_cursor")
            if cursor is None or len(found) == limit:
                return found, answer.metadata["total"]
            query["cursor"] = cursor

    found, total = ask(flag, job)
    if as_json:
        print_json(found)
        return
    if not found:
        line("Nobody is listed there.")
        return
    table(
        ("peer", "nickname", "signed"),
        [(each["public_id"], each["nickname"], each["said_at"]) for each in found],
    )
    if len(found) < total:
        line(f"{len(found)} of {total}")


@relay.command("status")
@json_option
@click.pass_obj
def status(flag: str | None, as_json: bool) -> None:
    """
    The relays of this node; of a relay, who is registered there.

    A relay is asked with its own data folder: meshkit --relay relay status
    """

    async def job(door: Door) -> Any:
        node = (await door.get("/v1/status")).data
        if node["relay"] is None:
            return None, (await door.get("/v1/relays")).data
        return node, None

    node, relays = ask(flag, job)
    if as_json:
        print_json(relays if node is None else _own(node))
    elif node is not None:
        _print_own(node)
    elif not relays:
        line(_NONE)
    else:
        _print_relays(relays)


def _print_relays(relays: list[Any]) -> None:
    table(
        ("state", "role", "seen by others", "nickname", "peers", "relay", "last error"),
        [
            (
                _state(each),
                each["role"],
                "listed" if each["listed"] else "no",
                each["nickname"],
                "" if each["peers"] is None else str(each["peers"]),
                each["address"],
                each["last_error"] or "",
            )
            for each in relays
        ],
    )


def _state(each: Any) -> str:
    if each["role"] == "blind":
        return "used"
    return "registered" if each["registered"] else "not registered"


def _own(node: Any) -> dict[str, Any]:
    """@return: what the status of a relay says of what it does for others."""
    parts = node["parts"]
    return {
        "role": node["relay"],
        "identity": node["identity"],
        "mesh": node["mesh"],
        "door": parts.get("relay_door"),
        "registry": parts.get("registry"),
    }


def _print_own(node: Any) -> None:
    own = _own(node)
    rows = [("role", own["role"]), ("reached at", ", ".join(own["mesh"]))]
    if own["door"] is not None:
        rows.append(("door", ", ".join(own["door"]["urls"])))
    if own["registry"] is not None:
        registry = own["registry"]
        listed = f"{registry['listed']} listed, {registry['max_peers']} at most"
        rows.append(("peers", f"{registry['peers']} registered, {listed}"))
        rows.append(("admission", registry["admission"]))
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        line(f"{name.ljust(width)}  {text}")
