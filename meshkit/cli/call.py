"""
C{meshkit call}: any operation of the running node.

The node is asked what it offers (C{operations_list}); so the operations of every part can
be called, of parts from elsewhere as well, and this module knows none of them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click
import msgspec
from attrs import frozen
from click.shell_completion import CompletionItem

from meshkit.cli.arguments import Sending, Word, compose, explain, find
from meshkit.cli.door import Answer, Door, ask
from meshkit.cli.output import json_option, line, print_json, printable, visible
from meshkit.errors import InvalidRequest, MeshkitError, NotFound, RemoteError
from meshkit.services.operations import OPERATIONS, OperationShown
from meshkit.web.requests import JSON_BODY, RAW_BODY
from meshkit.web.sse import Event

#: Largest file whose content is sent.
MAX_INPUT: Final = 64 * 1024 * 1024
_STDIN: Final = "-"
# Media types that may be sent to a terminal.
_TEXTS: Final = ("text/", "application/json")


class _Enough(Exception):
    """So many items of a stream were wanted, and came."""


@frozen
class _Files:
    """
    What is read from outside.

    Standard input is read before the reactor runs: it would keep Ctrl-C from having an
    effect until the end of the input.

    @ivar stdin: its content, if it is used.
    """

    stdin: bytes | None

    @classmethod
    def open(cls, given: str | None, words: Sequence[Word]) -> _Files:
        wanted = given == _STDIN or any(word.value == f"@{_STDIN}" for word in words)
        return cls(_limited(sys.stdin.buffer, "standard input") if wanted else None)

    def read(self, name: str) -> bytes:
        if name == _STDIN:
            assert self.stdin is not None
            return self.stdin
        with Path(name).open("rb") as file:
            return _limited(file, name)

    def whole(self, given: str | None) -> bytes | None:
        """The text of C{--input}."""
        if given is None:
            return None
        if given == _STDIN:
            return self.read(given)
        return self.read(given[1:]) if given.startswith("@") else given.encode("utf-8")


def _limited(file: Any, name: str) -> bytes:
    data: bytes = file.read(MAX_INPUT + 1)
    if len(data) > MAX_INPUT:
        raise InvalidRequest(f"{name} is larger than the {MAX_INPUT} bytes that are sent")
    return data


async def _operations(door: Door) -> list[OperationShown]:
    try:
        return await door.read(OPERATIONS.path, list[OperationShown])
    except RemoteError as e:
        if e.code == NotFound.code:
            raise RemoteError(
                "the node does not tell what it offers: it is of an older version, restart it",
                e.code,
                e.status,
            ) from None
        raise
    except msgspec.ValidationError as e:
        raise RemoteError(
            f"the node tells what it offers in another way than is known here ({e}): use the "
            f"meshkit of its version"
        ) from None


def _completions(ctx: click.Context) -> list[OperationShown]:
    """The operations to choose from; none where there is no node to ask."""
    folder = ctx.find_root().params.get("data_dir")
    # A shell that completes a word has no place for an error.
    with suppress(MeshkitError, OSError):
        return [each for each in ask(folder, _operations) if each.usable]
    return []


def _complete_name(
    ctx: click.Context, _parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    return [
        CompletionItem(each.name, help=each.doc)
        for each in _completions(ctx)
        if each.name.startswith(begun)
    ]


def _complete_field(
    ctx: click.Context, _parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    return [
        CompletionItem(f"{field.name}=")
        for each in _completions(ctx)
        if each.name == ctx.params.get("name")
        for field in each.fields
        if field.name.startswith(begun)
    ]


@click.command(add_help_option=False)
@click.argument("name", metavar="[OPERATION]", required=False, shell_complete=_complete_name)
@click.argument("words", metavar="[FIELD=VALUE]...", nargs=-1, shell_complete=_complete_field)
@click.option(
    "--input",
    "-i",
    "given",
    metavar="JSON|@FILE|-",
    help="Fields as one JSON object: its text, a file, or standard input.",
)
@click.option(
    "--output", "-o", metavar="FILE", help="Where to write an answer that is bytes, as of a file."
)
@click.option(
    "--max-items", type=click.IntRange(1), metavar="N", help="End a stream after N items."
)
@click.option(
    "--token-file",
    metavar="FILE",
    help="Show the token in FILE [default: $MESHKIT_TOKEN, else the owner's].",
)
@json_option
@click.option("--help", "-h", "helped", is_flag=True, help="Show this, or what OPERATION takes.")
@click.pass_context
def call(
    ctx: click.Context,
    name: str | None,
    words: tuple[str, ...],
    given: str | None,
    output: str | None,
    max_items: int | None,
    token_file: str | None,
    as_json: bool,
    helped: bool,
) -> None:
    """
    Call OPERATION of the running node, whichever part offers it.

    Without OPERATION, all operations are listed; 'meshkit call OPERATION --help' tells
    which fields it takes.

    \b
    limit=5                  a number, where the field is one; else a text
    tags=birds tags=herons   a list takes its items one by one
    content='{"n": 1.0}'     any JSON, where the field takes it; sent as it is spelt
    content:='"5"'           JSON, whatever the field is
    content:=@note.json      the same, out of a file
    data=@photo.jpg          the bytes of a file, where the field takes bytes
    data=@-                  those of standard input

    The data of the answer are printed as JSON, and what is to be said of them on standard
    error; with --json it is one document with "data" and "metadata". A stream is one line of
    JSON for each item, until you press Ctrl-C.
    """
    if helped and name is None:
        click.echo(ctx.get_help())
        return
    flag = ctx.obj
    if name is None or helped:
        operations = ask(flag, _operations, token_file)
        if name is None:
            _print_list(operations, as_json)
        else:
            _print_help(find(operations, name), as_json)
        return
    try:
        parsed = [Word.parse(word) for word in words]
    except InvalidRequest as e:
        raise click.UsageError(str(e)) from None
    files = _Files.open(given, parsed)
    whole = files.whole(given)

    async def job(door: Door) -> tuple[OperationShown, Answer | None]:
        operation = find(await _operations(door), name)
        _check(operation, output, max_items, as_json)
        sending = compose(operation, parsed, whole, files.read)
        if operation.kind == "stream":
            await _stream(door, sending, max_items, as_json)
            return operation, None
        return operation, await door.call(
            operation.method,
            sending.path,
            sending.query,
            sending.body,
            body_type=RAW_BODY if sending.raw else JSON_BODY,
            raw=operation.sends is not None,
        )

    try:
        operation, answer = ask(flag, job, token_file)
    except _Enough:
        return
    if answer is None:
        return
    if operation.sends is None:
        _print_answer(answer, as_json)
    else:
        _put(answer.data, operation.sends, output, as_json)


def _check(
    operation: OperationShown, output: str | None, max_items: int | None, as_json: bool
) -> None:
    """Before anything is done: do the options fit the operation?"""
    if operation.sends is None and output is not None:
        raise click.UsageError(f"{operation.name} answers with JSON: --output is for bytes.")
    if operation.kind != "stream" and max_items is not None:
        raise click.UsageError(f"{operation.name} is no stream: --max-items is for streams.")
    if operation.sends is None or output is not None or as_json:
        return
    if sys.stdout.isatty() and not operation.sends.startswith(_TEXTS):
        raise click.UsageError(
            f"{operation.name} answers with {operation.sends}: give it a file with --output."
        )


# --- answers -----------------------------------------------------------------------


def _print_answer(answer: Answer, as_json: bool) -> None:
    if as_json:
        metadata = {"metadata": answer.metadata} if answer.metadata else {}
        print_json({"data": answer.data, **metadata})
        return
    print_json(answer.data)
    about = dict(answer.metadata)
    for warning in about.pop("warnings", ()):
        _say(f"warning: {warning}")
    cursor = about.pop("next_cursor", None)
    if about:
        _say(", ".join(f"{key}: {_plain(value)}" for key, value in about.items()))
    if cursor is not None:
        _say(f"there is more: go on with cursor={cursor}")


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode("utf-8")


def _say(text: str) -> None:
    """Something beside the answer, which has standard output for itself."""
    click.echo(f"meshkit: {visible(text)}", err=True)


def _put(data: bytes, kind: str, output: str | None, as_json: bool) -> None:
    """An answer that is bytes."""
    if output is not None:
        Path(output).write_bytes(data)
    if as_json:
        # msgspec writes bytes in base64.
        where = {"base64": data} if output is None else {"file": output}
        print_json({"type": kind, "bytes": len(data), **where})
    elif output is None:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
    else:
        line(f"{len(data)} bytes of {kind} are in {output}")


async def _stream(door: Door, sending: Sending, max_items: int | None, as_json: bool) -> None:
    left = max_items

    def show(event: Event) -> None:
        nonlocal left
        if event.event == "error":
            error = msgspec.json.decode(event.data)
            raise RemoteError(error["message"], error["code"], 500, error.get("details"))
        data, notice = msgspec.Raw(event.data.encode("utf-8")), event.event != "message"
        if as_json:
            print_json({"id": event.id or None, "event": event.event, "data": data}, one_line=True)
        elif notice:
            _say(f"{event.event}: {event.data}")
        else:
            print_json(data, one_line=True)
        if left is not None and not notice:
            left -= 1
            if not left:
                raise _Enough

    await door.stream(sending.path, show, sending.query)


# --- what there is -----------------------------------------------------------------


def _print_list(operations: Sequence[OperationShown], as_json: bool) -> None:
    if as_json:
        print_json(operations)
        return
    parts: dict[str, list[OperationShown]] = {}
    for each in operations:
        parts.setdefault(each.part, []).append(each)
    formatter = click.HelpFormatter(max_width=100)
    for part, offered in parts.items():
        with formatter.section(printable(part)):
            formatter.write_dl([(printable(each.name), _in_short(each)) for each in offered])
    click.echo(formatter.getvalue().rstrip("\n"))


def _in_short(operation: OperationShown) -> str:
    marks: list[str] = [operation.permission]
    if operation.kind != "unary":
        marks.append(operation.kind)
    if not operation.usable:
        marks.append("not with this token")
    return printable(f"[{', '.join(marks)}] {operation.doc}")


def _print_help(operation: OperationShown, as_json: bool) -> None:
    if as_json:
        print_json(operation)
        return
    formatter = click.HelpFormatter(max_width=100)
    formatter.write_usage("meshkit call", f"{printable(operation.name)} [FIELD=VALUE]...")
    about = [
        f"Offered by {operation.part}; needs the permission {operation.permission}"
        f"{'' if operation.usable else ', which your token does not give'}.",
        f"{operation.method} {operation.path}",
    ]
    if operation.kind == "stream":
        about.append("A stream: one line of JSON for each item, until you press Ctrl-C.")
    if operation.sends is not None:
        about.append(f"Answers with bytes: {operation.sends}.")
    if operation.paged:
        about.append("Answers with a stretch of a list, and says where the next one begins.")
    for text in (operation.doc, *about):
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(printable(text))
    fields = [(printable(each.usage), printable(each.text)) for each in explain(operation)]
    if fields:
        with formatter.section("Fields"):
            formatter.write_dl(fields)
    click.echo(formatter.getvalue().rstrip("\n"))
