"""Whose feeds are replicated, and what is kept of them: C{follow}, C{topic}, C{block}, ..."""

from __future__ import annotations

from typing import Any

import click

from meshkit.cli.door import Door, ask, segment
from meshkit.cli.output import json_option, line, print_json


@click.command()
@click.argument("author", required=False)
@click.option("--remove", is_flag=True, help="Stop following AUTHOR.")
@json_option
@click.pass_obj
def follow(flag: str | None, author: str | None, remove: bool, as_json: bool) -> None:
    """
    Follow an author, or list whom you follow.

    As long as you follow nobody and subscribe to no topic, the feeds of everybody are
    replicated.
    """
    answer = _select(flag, "/v1/follows", author, remove, "AUTHOR", as_json)
    if as_json:
        return
    if author is None:
        for each in answer:
            line(f"{each['author']}{_from_config(each)}")
        if not answer:
            line("You follow nobody. Without topics, the feeds of everybody are replicated.")
    else:
        line(f"No longer following {author}" if remove else f"Following {answer['author']}")


@click.command()
@click.argument("tag", required=False)
@click.option("--remove", is_flag=True, help="Subscribe to TAG no more.")
@json_option
@click.pass_obj
def topic(flag: str | None, tag: str | None, remove: bool, as_json: bool) -> None:
    """
    Subscribe to a tag, or list those you subscribe to.

    The whole feeds of authors who have used it are replicated, beside those of authors you
    follow.
    """
    answer = _select(flag, "/v1/topics", tag, remove, "TAG", as_json)
    if as_json:
        return
    if tag is None:
        for each in answer:
            line(f"{each['topic']}{_from_config(each)}")
        if not answer:
            line("You subscribe to no topic.")
    else:
        line(f"No longer subscribed to {tag}" if remove else f"Subscribed to {tag}")


@click.command()
@click.argument("author", required=False)
@click.option("--remove", is_flag=True, help="Block AUTHOR no more.")
@json_option
@click.pass_obj
def block(flag: str | None, author: str | None, remove: bool, as_json: bool) -> None:
    """
    Block an author or node, or list those who are blocked.

    Nothing of its feed is asked for, taken, served or listed, and as a peer it is not let in.
    What is stored stays: see 'meshkit feed forget'.
    """
    answer = _select(flag, "/v1/blocks", author, remove, "AUTHOR", as_json)
    if as_json:
        return
    if author is None:
        for each in answer:
            line(f"{each['author']}{_from_config(each)}")
        if not answer:
            line("Nobody is blocked.")
    else:
        line(f"No longer blocking {author}" if remove else f"Blocking {answer['author']}")


def _select(
    flag: str | None, path: str, subject: str | None, remove: bool, name: str, as_json: bool
) -> Any:
    """
    List, add or remove entries of the selection.

    @param subject: which; L{None} for the list.
    @param name: of the argument, for people.
    """
    if remove and subject is None:
        raise click.UsageError(f"--remove needs {'an' if name[0] in 'AEIOU' else 'a'} {name}.")

    async def job(door: Door) -> Any:
        if subject is None:
            return (await door.get(path)).data
        if remove:
            await door.delete(f"{path}/{segment(subject)}")
            return {"removed": subject}
        return (await door.post(f"{path}/{segment(subject)}")).data

    answer = ask(flag, job)
    if as_json:
        print_json(answer)
    return answer


def _from_config(each: Any) -> str:
    return "  (config)" if each["origin"] == "config" else ""


@click.command()
@click.argument("author")
@click.confirmation_option(
    "--yes", prompt="The texts are gone from this node then, for good. Forget them?"
)
@json_option
@click.pass_obj
def forget(flag: str | None, author: str, as_json: bool) -> None:
    """Empty all messages of an AUTHOR who is blocked."""

    async def job(door: Door) -> Any:
        return (await door.post(f"/v1/feed/{segment(author)}/forget")).data

    _print_forgotten(ask(flag, job), as_json)


@click.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go. The default.")
@click.option("--run", "running", is_flag=True, help="Do it now.")
@json_option
@click.pass_obj
def retention(flag: str | None, dry_run: bool, running: bool, as_json: bool) -> None:
    """
    Say which messages the settings of retention have emptied next, or empty them now.

    Their places and hashes stay, the newest message of each feed does too, and your own feed
    unless feed.retention_own is set.
    """
    if dry_run and running:
        raise click.UsageError("--dry-run or --run, not both.")

    async def job(door: Door) -> Any:
        if running:
            return (await door.post("/v1/retention/run")).data
        return (await door.get("/v1/retention")).data

    answer = ask(flag, job)
    if running:
        _print_forgotten(answer, as_json)
    elif as_json:
        print_json(answer)
    else:
        more = "At least " if answer["more"] else ""
        line(f"{more}{answer['messages']} messages would go, {answer['bytes']} bytes of text.")
        for reason, count in answer["by_reason"].items():
            line(f"  {reason:<8} {count}")


def _print_forgotten(answer: Any, as_json: bool) -> None:
    if as_json:
        print_json(answer)
    else:
        line(f"Emptied {answer['messages']} messages, {answer['bytes']} bytes of text.")
