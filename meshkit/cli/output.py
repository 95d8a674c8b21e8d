"""What the verbs print: one JSON document with C{--json}, tables and text without."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any, Final

import click
import msgspec


def json_option(command: Any) -> Any:
    """The option C{--json}, the same for every verb."""
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


# Control characters that JSON may hold as they are: DEL, and C1, which some terminals obey.
_UNSHOWN: Final = re.compile("[\x7f-\x9f]")


def print_json(value: Any, *, one_line: bool = False) -> None:
    """
    Print a JSON document, indented for people and stable for scripts.  It is UTF-8
    whatever the locale, as JSON is.

    @param one_line: as one of many, a line each (JSON Lines).
    """
    # A negative indent takes out what white space there is, also that of raw texts.
    indent = -1 if one_line else 2
    text = msgspec.json.format(msgspec.json.encode(value), indent=indent).decode("utf-8")
    shown = _UNSHOWN.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    sys.stdout.buffer.write(shown.encode("utf-8") + b"\n")
    sys.stdout.flush()


def visible(text: str) -> str:
    """
    What other people wrote, such that it can be sent to a terminal: control characters
    and others that print nothing are spelt out.
    """
    return "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in text)


def printable(text: str) -> str:
    """
    Text for the terminal: control characters that could drive it are shown, not sent,
    and so are characters that it cannot show.
    """
    shown = "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in text)
    encoding = sys.stdout.encoding or "utf-8"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def line(text: str) -> None:
    """Print a line.  What other people wrote is printed through here: L{printable}."""
    click.echo(printable(text))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns that are as wide as they need to be."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        line("  ".join(cells).rstrip())
