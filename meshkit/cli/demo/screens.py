"""
What the demo shows: a terminal gets colours and live counters, anything else plain
lines.  Where the encoding has no dashes and ticks, ASCII does.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol, TextIO

from attrs import frozen

from meshkit.cli.demo.checks import Check
from meshkit.cli.output import printable

#: Columns of running text.
WIDTH: Final = 88
#: Seconds between the lines of a counter that cannot be drawn in place.
LINE_EVERY: Final = 1.0
_FANCY: Final = "\N{CHECK MARK}\N{BALLOT X}\N{BOX DRAWINGS LIGHT HORIZONTAL}\N{HORIZONTAL ELLIPSIS}"
_C_LOCALES: Final = ("C", "POSIX")


@frozen
class Counter:
    """
    One bar of the live counters.

    @ivar name: what is counted.
    @ivar value: how many by now.
    @ivar total: how many there will be.
    """

    name: str
    value: int
    total: int


class Screen(Protocol):
    """Where the demo is shown."""

    def title(self, number: int, name: str, sentence: str) -> None:
        """A new act: what happens, and why it matters."""

    def say(self, text: str) -> None:
        """A sentence of the demo's own."""

    def rows(self, rows: Sequence[tuple[str, ...]]) -> None:
        """Facts in columns.  What others wrote is made printable."""

    def quote(self, text: str) -> None:
        """What others wrote, in two lines at most."""

    def command(self, text: str) -> None:
        """A command to try, in one piece."""

    def count(self, counters: Sequence[Counter], seconds: float, last: bool = False) -> None:
        """
        Show the counters as they stand.

        @param seconds: since they started.
        @param last: they stay as they are.
        """

    def checks(self, checks: Sequence[Check]) -> None:
        """The table at the end."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def shows_unicode(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """
    Can the reader of a stream be expected to see more than ASCII?

    In the C locale Python writes UTF-8 all the same (PEP 540), but whoever asked for
    that locale did not ask for it.
    """
    try:
        _FANCY.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    if environ.get("PYTHONIOENCODING") or environ.get("PYTHONUTF8") == "1":
        return True
    for name in ("LC_ALL", "LC_CTYPE", "LANG"):
        if environ.get(name):
            return environ[name].split(".")[0] not in _C_LOCALES or "UTF" in environ[name].upper()
    return True


def open_screen() -> Screen:
    """The screen for standard output."""
    stream = sys.stdout
    fancy = shows_unicode(stream, os.environ)
    if not fancy:
        _to_ascii(stream)
    if stream.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return TerminalScreen(fancy)
    return PlainScreen(fancy, lambda text: print(text, flush=True))


def _to_ascii(stream: Any) -> None:
    stream.reconfigure(encoding="ascii", errors="backslashreplace")


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    cells = [[printable(cell) for cell in row] for row in rows]
    count = max((len(row) for row in cells), default=0)
    widths = [
        max((len(row[at]) for row in cells if at < len(row)), default=0) for at in range(count)
    ]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]


def _quoted(text: str, width: int, fancy: bool) -> list[str]:
    end = " \N{HORIZONTAL ELLIPSIS}" if fancy else " ..."
    # Printable first: what is shown of a control character takes room.
    lines = textwrap.wrap(printable(" ".join(text.split())), width, max_lines=2, placeholder=end)
    return [printable(line) for line in lines]


class PlainScreen:
    """Lines that can be piped, kept and compared."""

    def __init__(self, fancy: bool, write: Callable[[str], None]) -> None:
        self._fancy = fancy
        self._write = write
        self._counted_at: float | None = None

    def title(self, number: int, name: str, sentence: str) -> None:
        self._write("")
        self._write(f"{number}. {name}")
        self.say(sentence)

    def say(self, text: str) -> None:
        for line in textwrap.wrap(text, WIDTH - 3, break_on_hyphens=False, break_long_words=False):
            self._write(f"   {printable(line)}")

    def rows(self, rows: Sequence[tuple[str, ...]]) -> None:
        for line in _columns(rows):
            self._write(f"     {line}")

    def quote(self, text: str) -> None:
        for line in _quoted(text, WIDTH - 7, self._fancy):
            self._write(f"       {line}")

    def command(self, text: str) -> None:
        self._write(f"     {printable(text)}")

    def count(self, counters: Sequence[Counter], seconds: float, last: bool = False) -> None:
        due = self._counted_at is None or seconds - self._counted_at >= LINE_EVERY
        if last or due:
            self._counted_at = None if last else seconds
            counts = ", ".join(f"{each.name} {each.value:,}/{each.total:,}" for each in counters)
            self._write(f"     {seconds:5.1f} s  {counts}")

    def checks(self, checks: Sequence[Check]) -> None:
        self._write("")
        rows = [("", "check", "measured")]
        rows += [("ok" if each.passed else "FAILED", each.name, each.figure) for each in checks]
        for line in _columns(rows):
            self._write(f"   {line}")

    def close(self) -> None:
        pass


class TerminalScreen:
    """The same with colours, and counters that are drawn in place."""

    def __init__(self, fancy: bool) -> None:
        from rich.console import Console

        self._fancy = fancy
        self._console = Console(highlight=False, markup=False, emoji=False)
        self._live: Any = None

    @property
    def _width(self) -> int:
        return min(WIDTH, shutil.get_terminal_size().columns)

    def _print(self, text: str, style: str = "", indent: int = 3) -> None:
        from rich.text import Text

        self._console.print(Text(" " * indent + text, style), soft_wrap=True)

    def title(self, number: int, name: str, sentence: str) -> None:
        from rich.text import Text

        dash = "\N{BOX DRAWINGS LIGHT HORIZONTAL}" if self._fancy else "-"
        left = self._width - len(name) - len(str(number)) - 5
        head = Text(f"\n {number}  ", "bold cyan") + Text(name, "bold")
        self._console.print(head + Text(f" {dash * max(left, 0)}", "cyan dim"))
        self.say(sentence)
        self._console.print()

    def say(self, text: str) -> None:
        width = self._width - 4
        for line in textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False):
            self._print(printable(line), indent=4)

    def rows(self, rows: Sequence[tuple[str, ...]]) -> None:
        from rich.text import Text

        for row, line in zip(rows, _columns(rows), strict=True):
            head = len(printable(row[0]))
            self._console.print(
                Text("    ") + Text(line[:head], "cyan") + Text(line[head:]), soft_wrap=True
            )

    def quote(self, text: str) -> None:
        for line in _quoted(text, self._width - 6, self._fancy):
            self._print(line, "italic", indent=6)

    def command(self, text: str) -> None:
        self._print(printable(text), "bold green", indent=4)

    def count(self, counters: Sequence[Counter], seconds: float, last: bool = False) -> None:
        from rich.live import Live

        if self._live is None:
            # Drawn when we say so: no thread beside the reactor's.
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        self._live.update(self._bars(counters, seconds), refresh=True)
        if last:
            self.close()

    def _bars(self, counters: Sequence[Counter], seconds: float) -> Any:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        grid.add_column()
        for each in counters:
            grid.add_row(
                Text(f"    {each.name}", "cyan"),
                ProgressBar(max(each.total, 1), min(each.value, each.total), width=32),
                Text(f"{each.value:>7,} of {each.total:,}"),
                Text(f"{seconds:5.1f} s", "dim"),
            )
        return grid

    def checks(self, checks: Sequence[Check]) -> None:
        from rich.text import Text

        yes, no = ("\N{CHECK MARK}", "\N{BALLOT X}") if self._fancy else ("ok", "FAILED")
        lines = _columns([(each.name, each.figure) for each in checks])
        for each, line in zip(checks, lines, strict=True):
            mark = Text(f"    {yes}  ", "green") if each.passed else Text(f"    {no}  ", "bold red")
            head = len(printable(each.name))
            self._console.print(
                mark + Text(line[:head]) + Text(line[head:], "bold"), soft_wrap=True
            )

    def close(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()
