"""Feeds to and from files: C{export}, C{import}."""

from __future__ import annotations

import errno
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, BinaryIO, Final

import click
import msgspec

from meshkit.cli.door import Door, ask
from meshkit.cli.feed.lines import MAX_LINE, checked_json, gather
from meshkit.cli.output import json_option, line, print_json
from meshkit.errors import (
    ContentTooLarge,
    ForkRefused,
    InvalidRequest,
    MalformedMessage,
    MeshkitError,
)

#: Most messages and bytes of one request of an import.
IMPORT_MESSAGES: Final = 2_000
IMPORT_BYTES: Final = 4 * 1024 * 1024
#: Refused lines that are told one by one.
MAX_TOLD: Final = 20


@click.command("export")
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


@click.command("import")
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
        for batch in gather(counts.usable(file), IMPORT_MESSAGES, IMPORT_BYTES):
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
        while text := file.readline(MAX_LINE + 1):
            number += 1
            if len(text) > MAX_LINE:
                self._refuse(number, ContentTooLarge(f"the line is longer than {MAX_LINE} bytes"))
                while text and not text.endswith(b"\n"):
                    text = file.readline(MAX_LINE)
            elif text.strip():
                try:
                    yield number, checked_json(text, "the line")
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
