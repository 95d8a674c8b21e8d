"""Reading feeds: C{show}, C{search}, C{thread}, C{watch}."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import Any, Final

import click
import msgspec

from meshkit.cli.door import Answer, Door, RemoteError, ask, segment
from meshkit.cli.output import json_option, line, print_json, printable
from meshkit.web.sse import Event

_SHOWN: Final = 160


def _filters(command: Any) -> Any:
    """The options of everything that lists messages."""
    for option in reversed(
        (
            click.option("--type", "content_type", help="Only messages of this content type."),
            click.option("--tag", help="Only messages with this tag, as it is spelled."),
            click.option("--relates", metavar="HASH", help="Only messages about this one."),
            click.option("--since", metavar="TIME", help="Only messages of this time or later."),
            click.option(
                "--until", metavar="TIME", help="Only messages before this time (RFC 3339)."
            ),
            click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True),
            click.option("--offset", type=click.IntRange(0), default=0, help="Skip so many."),
            click.option(
                "--cursor",
                metavar="CURSOR",
                help="Go on where a page ended, whatever has arrived since.",
            ),
        )
    ):
        command = option(command)
    return command


@click.command()
@click.argument("author", required=False)
@click.option("--all", "include_self", is_flag=True, help="Your own messages as well.")
@_filters
@json_option
@click.pass_obj
def show(
    flag: str | None,
    /,
    author: str | None = None,
    include_self: bool = False,
    as_json: bool = False,
    **query: Any,
) -> None:
    """
    The newest messages of others, or of AUTHOR.

    A TIME is like 2026-02-12T18:30:00Z. "Newest" is by the author's clock, but never later
    than the arrival.
    """

    async def job(door: Door) -> Answer:
        if author is not None:
            return await door.get(f"/v1/feed/{segment(author)}", **query)
        return await door.get("/v1/feed", include_self=include_self, **query)

    _print_page(ask(flag, job), as_json, "Nothing here yet.")


@click.command()
@click.argument("query", nargs=-1, required=True)
@click.option("--newest", is_flag=True, help="What arrived last first, not the best match.")
@click.option("--author", metavar="ID", help="Only messages of this author.")
@click.option("--not-author", metavar="ID", help="All but this author's messages.")
@_filters
@click.option(
    "--marks",
    nargs=2,
    metavar="BEFORE AFTER",
    help="What stands around a hit.  [default: bold on a terminal, else [ and ]]",
)
@json_option
@click.pass_obj
def search(
    flag: str | None,
    /,
    query: tuple[str, ...],
    newest: bool,
    marks: tuple[str, str] | None,
    as_json: bool,
    **filters: Any,
) -> None:
    """
    Search the text of all messages.

    \b
    grey heron        both words, in any order
    '"grey heron"'    the two together; the shell takes the outer quotes
    heron OR egret    one of them
    'heron -owl'      not this; in quotes, or it would be an option
    her*              words that begin so

    Case and accents do not matter, and all else is text. Shown is the stretch
    of each message that matched. With --json a hit has it as "snippet": pieces of text, of
    which every second one is a hit.
    """
    order = "newest" if newest else "relevance"

    async def job(door: Door) -> Answer:
        return await door.get("/v1/insights/search", q=" ".join(query), order=order, **filters)

    _print_page(ask(flag, job), as_json, "Nothing found.", marks)


@click.command()
@click.argument("digest", metavar="HASH")
@click.option("--from-here", is_flag=True, help="Not what the message itself is about.")
@click.option("--depth", type=click.IntRange(0, 64), default=64, help="How far to follow replies.")
@click.option("--limit", type=click.IntRange(1, 200), default=50, show_default=True)
@click.option("--cursor", metavar="CURSOR", help="Go on where a page ended.")
@json_option
@click.pass_obj
def thread(flag: str | None, /, digest: str, from_here: bool, as_json: bool, **query: Any) -> None:
    """
    A message and what was said about it, each reply below what it is about.

    The thread begins with the message that HASH leads up to. A message that somebody replied
    to and that is not stored here is named by its hash.
    """

    async def job(door: Door) -> Answer:
        path = f"/v1/thread/{segment(digest)}"
        return await door.get(path, from_root=not from_here, **query)

    answer = ask(flag, job)
    if as_json:
        print_json({"messages": answer.data, **answer.metadata})
        return
    if "earlier" in answer.metadata:
        line(f"(this goes on from {answer.metadata['earlier']}, which is not shown)")
    for message in answer.data:
        indent = "  " * message["depth"]
        if message.get("missing"):
            line(f"{indent}{message['hash']}  (not stored here)")
        else:
            _print_message(message, indent=indent)
        if message["replies"] and message["depth"] == query["depth"]:
            line(f"{indent}  ({message['replies']} replies; see --from-here {message['hash']})")
    _print_rest(answer)


@click.command()
@click.option("--author", metavar="ID", help="Only messages of this author.")
@click.option("--type", "content_type", help="Only messages of this content type.")
@click.option("--tag", help="Only messages with this tag.")
@click.option("--after", metavar="POSITION", help="Begin after this id; 0 is the beginning.")
@json_option
@click.pass_obj
def watch(
    flag: str | None,
    author: str | None,
    content_type: str | None,
    tag: str | None,
    after: str | None,
    as_json: bool,
) -> None:
    """
    Show messages as they are stored here, until you press Ctrl-C.

    If the node is restarted meanwhile, it goes on where it was.
    """
    seen = after or ""

    def show_event(event: Event) -> None:
        nonlocal seen
        seen = event.id or seen
        if event.event == "error":
            error = msgspec.json.decode(event.data)
            raise RemoteError(error["message"], error["code"], 500)
        if event.event == "lagged":
            behind = msgspec.json.decode(event.data)["behind"]
            click.echo(f"meshkit: {behind} messages behind", err=True)
        elif event.event == "message":
            message = msgspec.json.decode(event.data)
            if as_json:
                print_json({"position": event.id, "message": message}, one_line=True)
            else:
                _print_message(message)
            sys.stdout.flush()

    async def job(door: Door) -> None:
        while True:
            await door.events(
                "/v1/events", show_event, seen, author=author, content_type=content_type, tag=tag
            )
            door = await door.reopened()

    with suppress(KeyboardInterrupt):
        ask(flag, job)


def _print_page(
    answer: Answer, as_json: bool, nothing: str, marks: tuple[str, str] | None = None
) -> None:
    if as_json:
        print_json({"messages": answer.data, **answer.metadata})
        return
    if not answer.data:
        line(nothing)
    for message in answer.data:
        _print_message(message, marks)
    _print_rest(answer)


def _print_rest(answer: Answer) -> None:
    """What there is beyond the page."""
    about = answer.metadata
    if "ranked_newest" in about:
        line(f"Ranked are the newest {about['ranked_newest']} of more hits; see also --newest.")
    if "index_complete" in about:
        line("Messages of an older version are being indexed anew: there may be more hits.")
    if "next_cursor" in about:
        least = "at least " if "total_is_at_least" in about else ""
        end = about["offset"] + len(answer.data) if "offset" in about else None
        shown = "" if end is None else f"{end} of "
        line(f"{shown}{least}{about['total']}; go on with --cursor {about['next_cursor']}")


def _marked(pieces: list[str], marks: tuple[str, str] | None) -> str:
    """A snippet for the terminal: every second piece is a hit."""
    shown = []
    for number, piece in enumerate(pieces):
        text = printable(piece)
        if number % 2 == 0:
            shown.append(text)
        elif marks is None and sys.stdout.isatty():
            shown.append(click.style(text, bold=True))
        else:
            before, after = map(printable, marks or ("[", "]"))
            shown.append(f"{before}{text}{after}")
    return "".join(shown)


def _print_message(message: Any, marks: tuple[str, str] | None = None, indent: str = "") -> None:
    flag = ""
    if message.get("forked"):
        flag = "  (the feed is forked here: do not rely on it)"
    elif not message["chain_valid"]:
        flag = "  (a message before this one is missing)"
    line(f"{indent}{message['timestamp']}  {message['author']}  #{message['sequence']}{flag}")
    if "snippet" in message:
        click.echo(f"{indent}  {_marked(message['snippet'], marks)}")
    else:
        line(f"{indent}  {_told(message)}")


def _told(message: Any) -> str:
    """What a message says, in one line."""
    if not message.get("sealed"):
        return _excerpt(message["content"])
    if "opened" in message:
        return f"(sealed) {_excerpt(message['opened'])}"
    if "problem" in message:
        return f"(sealed, and cannot be opened: {message['problem']})"
    return "(sealed for others)"


def _excerpt(content: Any) -> str:
    if isinstance(content, dict):
        told = [content[key] for key in ("title", "text", "observation") if key in content]
        text = ": ".join(value for value in told if isinstance(value, str))
        if text:
            kind = content.get("type")
            return _cut(f"[{kind}] {text}" if isinstance(kind, str) else text)
    return _cut(json.dumps(content, ensure_ascii=False))


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
