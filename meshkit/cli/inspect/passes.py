"""C{meshkit inspect run} and C{replay}."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator, Sequence
from typing import BinaryIO, Final

import click

from meshkit.audit import state
from meshkit.audit.replay import Replayed
from meshkit.audit.replay import replay as replay_trace
from meshkit.cli.health import size
from meshkit.cli.inspect.reading import opened, state_option
from meshkit.cli.inspect.showing import counts, event_fields, run_fields, tell, tell_events
from meshkit.cli.output import json_option, line, print_json
from meshkit.errors import NotFound

#: Events that are shown, if nobody says how many.
_EVENTS: Final = 50
#: Differences that are named.
_DIFFERENCES: Final = 100
#: Bytes of a line of a trace; an object with 255 shares has 64 KiB.
_MAX_LINE: Final = 1024 * 1024
_STANDARD: Final = "-"
_LATEST: Final = "latest"
#: Of the number of a pass.
_DIGITS: Final = 18


def _run_id(_context: click.Context, _parameter: click.Parameter, text: str) -> int | None:
    """C{latest}, or the number of a pass."""
    if text == _LATEST:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > _DIGITS:
        raise click.BadParameter(f"{text!r} is not the number of a pass, nor {_LATEST!r}")
    return int(text)


@click.command("run")
@click.argument("run_id", metavar="[RUN]", default=_LATEST, callback=_run_id)
@click.option(
    "--events",
    "limit",
    type=click.IntRange(min=0, max=state.MAX_EVENTS),
    default=_EVENTS,
    metavar="N",
    help=f"Show the last N things that happened [default: {_EVENTS}].",
)
@click.option("--trace", is_flag=True, help="Print its trace: JSON, a line for each object.")
@state_option
@json_option
@click.pass_obj
def show_run(
    flag: str | None,
    run_id: int | None,
    limit: int,
    trace: bool,
    state_file: str | None,
    as_json: bool,
) -> None:
    """
    What a pass has done: its figures, and what happened.

    RUN is the number of a pass, or 'latest'. With --trace all that was decided is printed, and of
    what; 'replay' decides it again.
    """
    with opened(flag, state_file) as connection:
        run = state.find_run(connection, run_id)
        if trace:
            for each in _trace_of(connection, run.id):
                sys.stdout.buffer.write(each + b"\n")
            sys.stdout.flush()
            return
        last = state.last_event(connection, run.id)
        events = state.events(connection, run.id, limit, max(0, last - limit))
    did = run.metrics
    if as_json:
        print_json({**run_fields(run), "events": [event_fields(each) for each in events]})
        return
    fields = run_fields(run)
    tell(
        [
            ("pass", f"{run.id}, asked for" if run.forced else run.id),
            ("state", run.state if run.error is None else f"{run.state}: {run.error}"),
            ("begun", fields["begun"]),
            ("ended", fields["ended"]),
            ("seconds", f"{did.seconds:.3f}"),
            ("objects", f"{did.objects}, of which {did.skipped} were not due"),
            ("asked", f"{did.asked} shares: {counts(did.outcomes)}" if did.asked else "nobody"),
            ("decided", counts(did.codes)),
            ("repaired", f"{did.repaired} objects, {did.not_repaired} could not be"),
            ("placed", f"{did.placed} shares, {did.deferred} have to wait"),
            ("moved", f"{size(did.read)} read, {size(did.written)} written"),
            ("recovered", f"{did.recovered} passes broken off before" if did.recovered else None),
            ("scheduler", run.holder.hex()),
        ]
    )
    if events:
        line("")
        tell_events(events)
    hidden = last - len(events)
    if hidden:
        line(f"Not shown: {hidden} events before these, see --events.")
    if did.unwritten:
        line(f"Not kept: {did.unwritten} further events.")


def _trace_of(connection: sqlite3.Connection, run: int) -> Iterator[bytes]:
    """@raise NotFound: if it is kept no more."""
    found = False
    for each in state.trace(connection, run):
        found = True
        yield each
    if not found:
        raise NotFound(f"the trace of pass {run} is kept no more: those of later passes have room")


@click.command()
@click.argument("run_id", metavar="[RUN]", default=_LATEST, callback=_run_id)
@click.option(
    "--trace",
    "trace_file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Replay a trace that was printed by 'run --trace'; - for stdin.",
)
@state_option
@json_option
@click.pass_obj
def replay(
    flag: str | None,
    run_id: int | None,
    trace_file: str | None,
    state_file: str | None,
    as_json: bool,
) -> None:
    """
    Decide again what a pass has decided, and say what would be decided differently.

    The pass has written down what it knew of each object, and what came of it; its figures have
    to be the sum of that. Exit code 1: something would be decided differently, so this version
    of meshkit is not the one that made the pass; or the figures are others.
    """
    wrong: list[str] = []
    if trace_file is None:
        with opened(flag, state_file) as connection:
            run = state.find_run(connection, run_id)
            found = replay_trace(_trace_of(connection, run.id), _DIFFERENCES)
        if run.state == "done":
            wrong = _wrong_figures(run.metrics, found)
    elif trace_file == _STANDARD:
        found = replay_trace(_read_lines(sys.stdin.buffer), _DIFFERENCES)
    else:
        with open(trace_file, "rb") as file:
            found = replay_trace(_read_lines(file), _DIFFERENCES)
    _tell(found, wrong, as_json)
    sys.exit(0 if found.same and not wrong else 1)


def _wrong_figures(metrics: state.Metrics, found: Replayed) -> list[str]:
    """@return: where what a pass says of itself is not what its trace comes to."""
    return [
        f"{name} is {getattr(metrics, name)} in the figures of the pass, and {value} in its trace"
        for name, value in found.figures.items()
        if getattr(metrics, name) != value
    ]


def _read_lines(file: BinaryIO) -> Iterator[bytes]:
    while raw := file.readline(_MAX_LINE):
        yield raw


def _tell(found: Replayed, wrong: Sequence[str], as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "run": found.head.run,
                "decisions": found.decisions,
                "differing": found.differing,
                "differences": [
                    {
                        "line": each.line,
                        "object": each.object,
                        "field": each.field,
                        "then": each.then,
                        "now": each.now,
                    }
                    for each in found.differences
                ],
                "figures": found.figures,
                "wrong_figures": wrong,
            }
        )
        return
    for text in (*(each.text for each in found.differences), *wrong):
        line(text)
    line(
        f"Pass {found.head.run}: decisions made again: {found.decisions}, different ones: "
        f"{found.differing}."
    )
