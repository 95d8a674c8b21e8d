"""Writing this node's own feed: C{publish}, C{unlock}, C{rotate}."""

from __future__ import annotations

import sys
from typing import Any, BinaryIO, Final

import click
import msgspec

from meshkit.cli.door import Answer, Door, RemoteError, ask
from meshkit.cli.feed.lines import MAX_LINE, checked_json, gather, json_lines
from meshkit.cli.output import json_option, line, print_json, visible
from meshkit.errors import (
    ContentTooLarge,
    MeshkitError,
)

#: Most messages and bytes of one batch; the door's limit is a little above.
BATCH_MESSAGES: Final = 10_000
BATCH_BYTES: Final = 15 * 1024 * 1024


@click.command()
@click.argument("text", required=False)
@click.option("--title", help="A title for the text.")
@click.option("--tag", "tags", multiple=True, help="A tag; may be repeated.")
@click.option("--relates", metavar="HASH", help="The message this one is about.")
@click.option(
    "--to",
    "recipients",
    multiple=True,
    metavar="ID",
    help="Seal it: only this reader, and you, can open it; may be repeated.",
)
@click.option(
    "--private-box", is_flag=True, help="With --to: seal it in the form of Egregore's nodes."
)
@click.option(
    "--content", metavar="JSON", help="The whole content as JSON, or - to read it from stdin."
)
@click.option(
    "--lines",
    metavar="FILE",
    type=click.File("rb"),
    help="Publish each line of FILE (JSON Lines; - for stdin) as one message.",
)
@json_option
@click.pass_obj
def publish(
    flag: str | None,
    text: str | None,
    title: str | None,
    tags: tuple[str, ...],
    relates: str | None,
    recipients: tuple[str, ...],
    private_box: bool,
    content: str | None,
    lines: BinaryIO | None,
    as_json: bool,
) -> None:
    """
    Sign a message and publish it.

    TEXT becomes {"type": "message", "text": TEXT}; --content publishes any JSON; --lines
    publishes many, in batches of 10,000 lines or 15 MiB, each of them whole or not at all.

    With --to the content is sealed. That you wrote it, when, its tags and what it relates to
    stay readable to everybody.
    """
    if (text, content, lines).count(None) != 2:
        raise click.UsageError("Give either TEXT or --content or --lines.")
    if lines is not None:
        if title is not None or tags or relates is not None or recipients:
            raise click.UsageError("--title, --tag, --relates and --to do not go with --lines.")
        _publish_lines(flag, lines, as_json)
        return
    if content is not None:
        if title is not None:
            raise click.UsageError("--title goes with TEXT; put it into the --content instead.")
        raw = sys.stdin.buffer.read(MAX_LINE + 1) if content == "-" else content.encode("utf-8")
        if len(raw) > MAX_LINE:
            raise ContentTooLarge(f"the content is longer than {MAX_LINE} bytes")
        body = checked_json(raw, "the content")
    else:
        value = {"type": "message", "text": text} | ({"title": title} if title else {})
        body = msgspec.json.encode(value)
    request: dict[str, Any] = {"content": msgspec.Raw(body)}
    if tags:
        request["tags"] = tags
    if relates:
        request["relates"] = relates
    if private_box and not recipients:
        raise click.UsageError("--private-box needs --to.")
    if recipients:
        request |= {"recipients": recipients, "form": "egregore" if private_box else "own"}

    async def job(door: Door) -> Answer:
        return await door.post("/v1/publish", request)

    answer = ask(flag, job)
    message = answer.data
    _warn(answer)
    if as_json:
        print_json(message)
    else:
        line(f"Published as number {message['sequence']} of your feed: {message['hash']}")


def _warn(answer: Answer) -> None:
    """Say on the standard error what the node thinks of a message that is published."""
    for warning in answer.metadata.get("warnings", ()):
        click.echo(f"Warning: {visible(warning)}", err=True)


def _publish_lines(flag: str | None, file: BinaryIO, as_json: bool) -> None:
    async def job(door: Door) -> list[dict[str, Any]]:
        done: list[dict[str, Any]] = []
        try:
            for batch in gather(json_lines(file), BATCH_MESSAGES, BATCH_BYTES):
                body = b'{"contents":[' + b",".join(batch.texts) + b"]}"
                first, last = batch.numbers[0], batch.numbers[-1]
                try:
                    answer = await door.post("/v1/publish/batch", body)
                    done.append(answer.data)
                    _warn(answer)
                except RemoteError as e:
                    raise RemoteError(
                        f"of the batch in lines {first} to {last}: {e}", e.code, e.status
                    ) from None
        except MeshkitError as e:
            if done:
                count = sum(batch["count"] for batch in done)
                raise RemoteError(
                    f"{e} (the {count} messages of the batches before it are published)",
                    e.code,
                    e.status,
                ) from None
            raise
        return done

    batches = ask(flag, job)
    count = sum(batch["count"] for batch in batches)
    if as_json:
        print_json({"count": count, "batches": batches})
    elif not count:
        line("The file has no lines: nothing was published.")
    else:
        line(f"Published {count} messages, up to number {batches[-1]['last']} of your feed.")


@click.command()
@click.option(
    "--passphrase-fd",
    "descriptor",
    type=int,
    metavar="N",
    help="File descriptor with the key file's passphrase [default: asked for].",
)
@click.option("--yes", is_flag=True, help="Do not ask whether you are sure.")
@json_option
@click.pass_obj
def rotate(flag: str | None, descriptor: int | None, yes: bool, as_json: bool) -> None:
    """
    Go on with a new key: this node's feed ends, and a new one follows it.

    The node must not run. The last message of the old feed names the new key, and both keys
    sign that; whoever follows the old feed follows the new one. Nothing can be published in
    the old feed again. The old key is kept aside, and opens what was sealed for it.

    If this is interrupted at any point, run it again.
    """
    # All that a node is made of.
    from meshkit.cli.rotate import run

    run(flag, descriptor, yes, as_json)


@click.command()
@json_option
@click.pass_obj
def unlock(flag: str | None, as_json: bool) -> None:
    """
    Publish again, though this node's feed may have gone on elsewhere.

    After a restore, a node waits until two peers have shown how far they have its feed. If
    there are no such peers, nobody can have more of it, and there is nothing to wait for.
    """

    async def job(door: Door) -> Any:
        return (await door.post("/v1/own-feed/unlock")).data

    own = ask(flag, job)
    if as_json:
        print_json(own)
    else:
        line(own["read_only"] or f"Unlocked: the next message is number {own['latest'] + 1}.")
