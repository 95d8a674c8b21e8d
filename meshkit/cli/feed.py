"""C{meshkit feed} and its shortcuts: publish, read, search, export, import, follow."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, Final

import click
import msgspec
from attrs import define, field

from meshkit.cli.door import Answer, Door, RemoteError, ask, segment
from meshkit.cli.output import json_option, line, print_json, printable, visible
from meshkit.errors import (
    ContentTooLarge,
    ForkRefused,
    InvalidRequest,
    MalformedMessage,
    MeshkitError,
)
from meshkit.web.sse import Event

#: Most messages and bytes of one batch; the door's limit is a little above.
BATCH_MESSAGES: Final = 10_000
BATCH_BYTES: Final = 15 * 1024 * 1024
#: Most messages and bytes of one request of an import.
IMPORT_MESSAGES: Final = 2_000
IMPORT_BYTES: Final = 4 * 1024 * 1024
#: Refused lines that are told one by one.
MAX_TOLD: Final = 20
_MAX_LINE: Final = 256 * 1024
_SHOWN: Final = 160


@click.group(invoke_without_command=True)
@click.pass_context
def feed(ctx: click.Context) -> None:
    """Publish, read, search, export, import, follow. Alone: show the newest messages."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(show)


@feed.command()
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
        raw = sys.stdin.buffer.read(_MAX_LINE + 1) if content == "-" else content.encode("utf-8")
        if len(raw) > _MAX_LINE:
            raise ContentTooLarge(f"the content is longer than {_MAX_LINE} bytes")
        body = _checked(raw, "the content")
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


def _checked(raw: bytes, what: str) -> bytes:
    """JSON text that can stand inside a request.  The node checks it in earnest."""
    try:
        msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise InvalidRequest(f"{what} is not JSON: {e}") from None
    return raw.strip()


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


@feed.command()
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


@feed.command()
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


@feed.command()
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


def _publish_lines(flag: str | None, file: BinaryIO, as_json: bool) -> None:
    async def job(door: Door) -> list[dict[str, Any]]:
        done: list[dict[str, Any]] = []
        try:
            for batch in _batches(_json_lines(file), BATCH_MESSAGES, BATCH_BYTES):
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


@define
class _Batch:
    """
    Lines that go into one request.

    @ivar texts: what is in them.
    @ivar numbers: of each, the number of its line.
    """

    texts: list[bytes] = field(factory=list)
    numbers: list[int] = field(factory=list)


def _json_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """
    @return: number and text of every line that has one.
    @raise InvalidRequest: at the first that is no JSON.
    """
    for number, text in enumerate(iter(lambda: file.readline(_MAX_LINE + 1), b""), 1):
        if len(text) > _MAX_LINE:
            raise InvalidRequest(f"line {number} is longer than {_MAX_LINE} bytes")
        if text.strip():
            yield number, _checked(text, f"line {number}")


def _batches(
    lines: Iterable[tuple[int, bytes]], max_messages: int, max_bytes: int
) -> Iterator[_Batch]:
    """Gather lines for requests, while the file is read."""
    batch = _Batch()
    size = 0
    for number, text in lines:
        if batch.texts and (len(batch.texts) >= max_messages or size + len(text) > max_bytes):
            yield batch
            batch, size = _Batch(), 0
        batch.texts.append(text)
        batch.numbers.append(number)
        size += len(text) + 1
    if batch.texts:
        yield batch


@feed.command("export")
@click.option("--author", metavar="ID", help="Only this author's feed.")
@click.option(
    "--output",
    "-o",
    type=click.Path(dir_okay=False),
    help="Write into this file, which must not exist [default: the standard output].",
)
@json_option
@click.pass_obj
def export_feeds(flag: str | None, author: str | None, output: str | None, as_json: bool) -> None:
    """
    Write messages as they were signed, one on a line, for 'meshkit feed import'.

    They come by author and number. A feed that is forked ends with the two messages that
    prove it. --json says how much was written, if it goes into a file.
    """
    if as_json and output is None:
        raise click.UsageError("--json needs --output: the messages go to the standard output.")
    if output is None:
        _, gone = _export(flag, author, sys.stdout.buffer)
        sys.stdout.flush()
        _tell_gone(gone)
        return
    # Under another name until it is whole.
    unfinished = f"{output}.part"
    if os.path.lexists(output):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), output)
    try:
        with open(unfinished, "wb") as file:
            count, gone = _export(flag, author, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(unfinished, output)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(unfinished)
        raise
    if as_json:
        print_json({"file": os.path.abspath(output), "messages": count, "gone": gone})
    else:
        line(f"Wrote {count} messages into {output}.")
        _tell_gone(gone)


def _tell_gone(gone: int) -> None:
    if gone:
        click.echo(f"Left out {gone} messages: their texts are not kept here any more.", err=True)


def _export(flag: str | None, author: str | None, file: BinaryIO) -> tuple[int, int]:
    """
    @return: how many messages were written, each as soon as it is here, and how many were
        left out, as their texts are gone.
    """

    async def job(door: Door) -> tuple[int, int]:
        count = gone = 0
        at: dict[str, Any] = {}
        while True:
            page = await door.read("/v1/export", _ExportPage, author=author, **at)
            for message in page.messages:
                file.write(message)
                file.write(b"\n")
            count += len(page.messages)
            gone += page.gone
            if page.next is None:
                return count, gone
            at = page.next

    return ask(flag, job)


class _ExportPage(msgspec.Struct):
    messages: list[msgspec.Raw]
    next: dict[str, Any] | None
    gone: int = 0


@feed.group(invoke_without_command=True)
@click.pass_context
def schema(ctx: click.Context) -> None:
    """
    The JSON Schemas by which contents are checked. Alone: list them.

    A content is checked by the schema that its message names, or else by the first version
    for its type: a content of the type "note" by note/v1. What others wrote is never refused
    for it.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_schemas)


@schema.command("list")
@json_option
@click.pass_obj
def list_schemas(flag: str | None, as_json: bool = False) -> None:
    """List the schemas."""

    async def job(door: Door) -> Any:
        return (await door.get("/v1/schemas")).data

    schemas = ask(flag, job)
    if as_json:
        print_json(schemas)
        return
    for each in schemas:
        line(f"{each['name']}  {each['bytes']} bytes, added {each['added']}")
    if not schemas:
        line("No schemas: contents are not checked.")


@schema.command("show")
@click.argument("name")
@click.pass_obj
def show_schema(flag: str | None, name: str) -> None:
    """Print the schema NAME, such as note/v1."""

    async def job(door: Door) -> Any:
        return (await door.get("/v1/schema", name=name)).data

    print_json(ask(flag, job))


@schema.command("add")
@click.argument("name")
@click.argument("file", type=click.File("rb"))
@json_option
@click.pass_obj
def add_schema(flag: str | None, name: str, file: BinaryIO, as_json: bool) -> None:
    """Check contents by the schema in FILE (- for stdin) from now on, under NAME."""
    body = {"name": name, "schema": msgspec.Raw(_checked(file.read(_MAX_LINE), "the schema"))}

    async def job(door: Door) -> Any:
        return (await door.post("/v1/schema", body)).data

    added = ask(flag, job)
    if as_json:
        print_json(added)
    else:
        line(f"Contents are checked by {added['name']} from now on.")


@schema.command("rm")
@click.argument("name")
@json_option
@click.pass_obj
def remove_schema(flag: str | None, name: str, as_json: bool) -> None:
    """Check contents by the schema NAME no longer."""

    async def job(door: Door) -> Any:
        await door.delete("/v1/schema", name=name)

    ask(flag, job)
    if as_json:
        print_json({"removed": name})
    else:
        line(f"Contents are checked by {name} no longer.")


@feed.command("import")
@click.argument("file", type=click.File("rb"))
@json_option
@click.pass_obj
def import_feeds(flag: str | None, file: BinaryIO, as_json: bool) -> None:
    """
    Store the messages in FILE (from 'meshkit feed export'; - for stdin).

    Every line is checked as one that came from a peer: form, hash, signature, place. What
    is refused is counted by code, and the rest is stored. Exit code 1 says that something
    was refused, other than the second message of a fork.

    Messages of this node's own that are not here yet are a sign that the feed has gone on
    elsewhere: the node then publishes nothing until it has compared it with its peers.
    """
    counts = ImportCounts()

    async def job(door: Door) -> str | None:
        for batch in _batches(counts.usable(file), IMPORT_MESSAGES, IMPORT_BYTES):
            body = b'{"messages":[' + b",".join(batch.texts) + b"]}"
            counts.add((await door.post("/v1/import", body)).data, batch.numbers)
        own: str | None = (await door.get("/v1/own-feed")).data["read_only"]
        return own

    read_only = ask(flag, job)
    if as_json:
        print_json({**counts.shown(), "read_only": read_only})
    else:
        line(f"{counts.accepted} stored, {counts.duplicate} were here already.")
        for code, count in sorted(counts.refused.items()):
            line(f"{count} refused: {code}")
        for error in counts.errors:
            line(f"  line {error['line']}: {error['message']} [{error['code']}]")
        if read_only is not None:
            line(f"Note: {read_only}")
    if counts.refused.keys() - {ForkRefused.code}:
        sys.exit(1)


class ImportCounts:
    """
    What became of the lines of a file.

    @ivar accepted: how many were stored.
    @ivar duplicate: how many had been stored before.
    @ivar refused: how many were refused, by code.
    @ivar errors: the first of these, with their lines.
    """

    def __init__(self) -> None:
        self.accepted = 0
        self.duplicate = 0
        self.refused: Counter[str] = Counter()
        self.errors: list[dict[str, Any]] = []

    def add(self, answer: dict[str, Any], numbers: Sequence[int]) -> None:
        """
        @param answer: what the node said of a request.
        @param numbers: the lines that were in it.
        """
        self.accepted += answer["accepted"]
        self.duplicate += answer["duplicate"]
        self.refused.update(answer["refused"])
        for error in answer["errors"]:
            self._tell(numbers[error["index"]], error["code"], error["message"])

    def usable(self, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
        """@return: number and text of the lines that can stand in a request; others are counted."""
        number = 0
        while text := file.readline(_MAX_LINE + 1):
            number += 1
            if len(text) > _MAX_LINE:
                self._refuse(number, ContentTooLarge(f"the line is longer than {_MAX_LINE} bytes"))
                while text and not text.endswith(b"\n"):
                    text = file.readline(_MAX_LINE)
            elif text.strip():
                try:
                    yield number, _checked(text, "the line")
                except InvalidRequest as e:
                    self._refuse(number, MalformedMessage(str(e)))

    def _refuse(self, number: int, error: MeshkitError) -> None:
        self.refused[error.code] += 1
        self._tell(number, error.code, str(error))

    def _tell(self, number: int, code: str, message: str) -> None:
        if len(self.errors) < MAX_TOLD:
            self.errors.append({"line": number, "code": code, "message": message})

    def shown(self) -> dict[str, Any]:
        return {
            "accepted": self.accepted,
            "duplicate": self.duplicate,
            "refused": dict(sorted(self.refused.items())),
            "errors": self.errors,
        }


@feed.command()
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


@feed.command()
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


@feed.command()
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


@feed.command()
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


@feed.command()
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


@feed.command()
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


@feed.command()
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


@feed.command()
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
