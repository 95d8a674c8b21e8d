"""C{meshkit mailbox}: messages for those who are away, and those that were left for us."""

from __future__ import annotations

import base64
import os
import sys
from typing import Any, Final

import click

from meshkit.cli.door import Door, ask, segment
from meshkit.cli.output import json_option, line, print_json, printable, table, visible
from meshkit.cli.spans import span
from meshkit.errors import InvalidRequest

#: Messages that are asked for at a time.
_PAGE: Final = 1000
#: Bytes that are read of what is to be sent: one more than can be, so that the node says so.
_MAX_READ: Final = 65_332


@click.group()
def mailbox() -> None:
    """
    Write to those who are away, and read what they wrote.

    Messages are sealed for their recipient and wait at a relay until he comes. A node has
    mailboxes at the relays of its settings, [relays] use and blind.
    """


@mailbox.command()
@click.argument("recipient")
@click.argument("text", required=False)
@click.option("--file", "-f", type=click.Path(dir_okay=False), help="Send FILE; - is stdin.")
@click.option(
    "--ttl",
    type=span,
    metavar="TIME",
    help="How long it may wait, such as 12h, at most 30d [default: 7d].",
)
@click.option(
    "--relay",
    metavar="ADDRESS",
    help="Leave it at this relay, net:HOST:PORT~shs:KEY, and no other.",
)
@click.option("--blind", is_flag=True, help="That relay serves whoever comes, of any network.")
@json_option
@click.pass_obj
def send(
    flag: str | None,
    recipient: str,
    text: str | None,
    file: str | None,
    ttl: int | None,
    relay: str | None,
    blind: bool,
    as_json: bool,
) -> None:
    """
    Send TEXT to RECIPIENT, an id such as @3Wz...=.ed25519.

    The node keeps it until a relay has it: it may be sent while neither the recipient nor a relay
    can be reached. How it goes: meshkit mailbox sent

    \b
    Examples:
    meshkit mailbox send @3Wz...=.ed25519 "come home"
    meshkit mailbox send @3Wz...=.ed25519 --file letter.txt --ttl 30d
    """
    if (text is None) == (file is None):
        raise click.UsageError("Give a TEXT or a --file, and not both.")
    if blind and relay is None:
        raise click.UsageError("--blind says of which kind the --relay is: give that, too.")
    body: dict[str, Any] = {"to": recipient}
    if file is not None:
        body["body"] = base64.b64encode(_read(file)).decode("ascii")
    else:
        body["text"] = text
    if ttl is not None:
        body["ttl_secs"] = ttl
    if relay is not None:
        body |= {"relay": relay, "blind": blind}

    async def job(door: Door) -> Any:
        return (await door.post("/v1/mailbox/send", body)).data

    sent = ask(flag, job)
    if as_json:
        print_json(sent)
    else:
        line(f"Taken over: {sent['id']}. How it goes: meshkit mailbox sent")


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read(_MAX_READ)
    with open(file, "rb") as source:
        return source.read(_MAX_READ)


@mailbox.command("list")
@click.option("--unread", is_flag=True, help="Only those that were not read.")
@json_option
@click.pass_obj
def list_letters(flag: str | None, unread: bool, as_json: bool) -> None:
    """The messages that were left for this node, oldest first."""
    found = ask(flag, lambda door: _all(door, "/v1/mailbox/letters", unread=unread))
    if as_json:
        print_json(found)
    elif not found:
        line("No messages." if not unread else "No message that was not read.")
    else:
        table(
            ("number", "came", "from", "bytes", "", "says"),
            [
                (
                    str(each["number"]),
                    each["taken"],
                    each["sender"],
                    str(each["size"]),
                    _marks(each),
                    "(no text)" if each["preview"] is None else each["preview"],
                )
                for each in found
            ],
        )


def _marks(each: Any) -> str:
    marks = [] if each["read"] else ["new"]
    if not each["forward_secret"]:
        marks.append("no forward secrecy")
    return ", ".join(marks)


async def _all(door: Door, path: str, **query: Any) -> list[Any]:
    found: list[Any] = []
    while True:
        after = found[-1]["number"] if found else 0
        page = (await door.get(path, after=after, limit=_PAGE, **query)).data
        found += page
        if len(page) < _PAGE:
            return found


@mailbox.command()
@click.argument("number", type=click.IntRange(min=1))
@click.option(
    "--out",
    "-o",
    type=click.Path(dir_okay=False),
    help="Write what it says into this new file, byte for byte; - is stdout.",
)
@json_option
@click.pass_obj
def read(flag: str | None, number: int, out: str | None, as_json: bool) -> None:
    """Read the message NUMBER of 'meshkit mailbox list'; it stays until it is removed."""

    async def job(door: Door) -> Any:
        return (await door.post(f"/v1/mailbox/letters/{number}/read")).data

    # Before it counts as read.
    if out not in (None, "-") and os.path.lexists(str(out)):
        raise InvalidRequest(f"{out} is there already: choose another name")
    letter = ask(flag, job)
    if as_json:
        print_json(letter)
    elif out is not None:
        _write(out, base64.b64decode(letter["body"]))
    else:
        line(f"From {letter['sender']}, sealed {letter['created']}, came {letter['taken']}.")
        if not letter["forward_secret"]:
            line("It was sealed without forward secrecy: with the identity, and no prekey.")
        line("")
        if letter["text"] is None:
            line(f"It is no text: meshkit mailbox read {number} --out FILE")
        else:
            line(printable(letter["text"]))


def _write(out: str, body: bytes) -> None:
    if out == "-":
        sys.stdout.buffer.write(body)
        sys.stdout.buffer.flush()
        return
    with open(out, "xb") as target:
        target.write(body)
    line(f"Wrote {out}, {len(body)} bytes.")


@mailbox.command("rm")
@click.argument("numbers", type=click.IntRange(min=1), nargs=-1, required=True)
@json_option
@click.pass_obj
def remove(flag: str | None, numbers: tuple[int, ...], as_json: bool) -> None:
    """Remove the messages NUMBERS of 'meshkit mailbox list'."""

    async def job(door: Door) -> None:
        for number in numbers:
            await door.delete(f"/v1/mailbox/letters/{number}")

    ask(flag, job)
    if as_json:
        print_json({"removed": list(numbers)})
    else:
        line(f"Removed: {', '.join(map(str, numbers))}")


@mailbox.command()
@click.option("--waiting", is_flag=True, help="Only those that no relay has yet.")
@json_option
@click.pass_obj
def sent(flag: str | None, waiting: bool, as_json: bool) -> None:
    """
    The messages that this node was told to send, oldest first.

    A message is waiting here, kept by a relay, which has signed for it, or given up, as no relay
    took it in time. That somebody has read it nobody is told. The relay's receipt is in --json.
    """
    found = ask(flag, lambda door: _all(door, "/v1/mailbox/sent", waiting=waiting))
    if as_json:
        print_json(found)
    elif not found:
        line("No messages.")
    else:
        table(
            ("id", "to", "bytes", "state", "until", "attempts", "last error"),
            [
                (
                    each["id"],
                    each["to"],
                    str(each["size"]),
                    _how(each),
                    each["until"] or each["expires"],
                    str(each["attempts"]),
                    each["last_error"] or "",
                )
                for each in found
            ],
        )


def _how(each: Any) -> str:
    if each["forward_secret"] is False:
        return f"{each['state']}, no forward secrecy"
    return str(each["state"])


@mailbox.command()
@click.argument("id")
@json_option
@click.pass_obj
def forget(flag: str | None, id: str, as_json: bool) -> None:
    """
    Forget the sent message ID, and its receipt.

    If no relay has it yet, it is not sent. If one has, the recipient gets it all the same.
    """

    async def job(door: Door) -> None:
        await door.delete(f"/v1/mailbox/sent/{segment(id)}")

    ask(flag, job)
    if as_json:
        print_json({"forgotten": id})
    else:
        line(f"Forgotten: {visible(id)}")


@mailbox.command()
@json_option
@click.pass_obj
def check(flag: str | None, as_json: bool) -> None:
    """Try all relays now, without waiting for the next attempt, and show how it stands."""

    async def job(door: Door) -> Any:
        return (await door.post("/v1/mailbox/check")).data

    _show(ask(flag, job), as_json)


@mailbox.command()
@json_option
@click.pass_obj
def status(flag: str | None, as_json: bool) -> None:
    """Where this node has mailboxes, and how many messages there are."""

    async def job(door: Door) -> Any:
        return (await door.get("/v1/status")).data["parts"].get("mailbox")

    found = ask(flag, job)
    if found is None:
        raise InvalidRequest("this node has no mailboxes: the part 'mailbox' is left out")
    _show(found, as_json)


def _show(found: Any, as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    line(f"here      {found['letters']} messages, {found['unread']} of them not read")
    line(f"to send   {found['waiting']} messages that no relay has yet")
    if not found["relays"]:
        line("relays    none: nobody can leave a message. Name some in the settings: [relays]")
        return
    line(f"prekey    made {found['prekey_made'] or 'not yet'}")
    line("")
    table(
        ("relay", "kind", "state", "open until", "lacks", "last error"),
        [
            (
                each["address"],
                each["role"],
                each["state"],
                each["open_until"] or "",
                str(each["lacks"] or ""),
                each["last_error"] or "",
            )
            for each in found["relays"]
        ],
    )
