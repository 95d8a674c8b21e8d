"""C{meshkit simulate}: runs of a mesh in one process, under virtual time, from a seed."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from random import SystemRandom
from shlex import join
from signal import SIGINT, signal
from typing import Any, Final

import click
from attrs import evolve, frozen
from twisted.logger import globalLogBeginner, globalLogPublisher

from meshkit.cli.durability import chosen, durability_options, simulate_durability
from meshkit.cli.output import json_option, line, print_json, table, visible
from meshkit.sim.disk import PowerLost
from meshkit.sim.invariants import Invariant, Violation
from meshkit.sim.minimise import BUDGET, Minimised
from meshkit.sim.nemesis import FAULTS, choose
from meshkit.sim.report import write_report
from meshkit.sim.running import Outcome, Run, Scenario, reduce
from meshkit.sim.scenarios import SCENARIOS
from meshkit.sim.schedule import MAX_PLAN, Plan, decode_plan, describe, encode_plan

#: Nodes of one run.  How many a machine can hold depends on its memory.
MAX_NODES: Final = 100_000
#: Seeds of one call.
MAX_SEEDS: Final = 1_000_000
MAX_SEED: Final = 2**63 - 1
#: Seconds in which a part of a plan that fails is looked for, unless told otherwise.
MINIMISE_SECONDS: Final = 60.0
#: Lines of a plan that are printed.
MAX_TOLD: Final = 40
# Runs that are too few to make a plan smaller.
_FEW: Final = 8
#: Violations that are printed; all of them are in the JSON.
_SHOWN: Final = 10

_SEEDS: Final = re.compile(r"([0-9]{1,18})(?:\.\.([0-9]{1,18}))?")


def _parse_seeds(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[int | None, int] | None:
    """@return: the first of them, if it is said, and how many."""
    if text is None:
        return None
    found = _SEEDS.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"{text!r} is neither a number of seeds nor a range such as 0..99")
    low = None if found[2] is None else int(found[1])
    count = int(found[1]) if low is None else int(found[2]) - low + 1
    if not 1 <= count <= MAX_SEEDS:
        raise click.BadParameter(f"{text!r} are {max(count, 0):,} seeds: give 1 to {MAX_SEEDS:,}")
    return low, count


def _parse_faults(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> str | None:
    try:
        choose(text or "")
    except ValueError as e:
        raise click.BadParameter(str(e))
    return text or None


class _Progress(Invariant):
    """Says how far a run has come, where somebody watches."""

    name = "progress"

    def sampled(self, run: Run) -> None:
        total = run.plan.seconds + run.plan.settle
        _show(f"{run.seconds:.0f} s of the world, of {total:.0f} at most")


@contextmanager
def _interruptible() -> Iterator[type[Invariant]]:
    """
    Ctrl-C ends runs, wherever they are.  The exception alone does not: if it is raised in a
    callback, the Deferred takes it for a failure of a node, and the run goes on.

    @return: a context manager that gives what has to watch the runs.
    @raise KeyboardInterrupt: at the end, if it was heard and nothing else has come of it.
    """
    heard = False

    def hear(number: int, frame: Any) -> None:
        nonlocal heard
        heard = True
        raise KeyboardInterrupt

    class Interrupted(Invariant):
        name = "interrupted"

        def sampled(self, run: Run) -> None:
            if heard:
                raise KeyboardInterrupt

    before = signal(SIGINT, hear)
    try:
        yield Interrupted
    finally:
        signal(SIGINT, before)
    if heard:
        raise KeyboardInterrupt


@frozen
class _Played:
    """
    A run that is over.

    @ivar replay: the command that makes it again.
    @ivar real_s: seconds that it took here.
    @ivar minimised: what of its plan is needed to fail, if that was looked for.
    """

    outcome: Outcome
    replay: str
    real_s: float
    minimised: Minimised | None = None

    @property
    def smaller(self) -> dict[str, Any] | None:
        """What is needed, as JSON."""
        found = self.minimised
        if found is None:
            return None
        return {"plan": found.plan, "plays": found.plays, "complete": found.complete}

    def as_json(self, *, whole: bool) -> dict[str, Any]:
        outcome = self.outcome
        figures = outcome.figures
        if not whole:
            figures = {
                name: value
                for name, value in figures.items()
                if not isinstance(value, list | dict) or name.endswith("_ms")
            }
        return {
            "scenario": outcome.plan.scenario,
            "seed": outcome.seed,
            "digest": outcome.digest,
            "violations": outcome.violations,
            "figures": figures,
            "real_s": round(self.real_s, 3),
            "replay": self.replay,
            **({"minimised": self.smaller} if whole else {}),
        }


@click.command()
@click.argument("scenario", required=False)
@click.option("--list", "listing", is_flag=True, help="List the scenarios there are.")
@click.option("--nodes", type=click.IntRange(1, MAX_NODES), help="How many nodes take part.")
@click.option("--seed", type=click.IntRange(0, MAX_SEED), help="Draw it from this [default: any].")
@click.option(
    "--seeds",
    metavar="A..B|COUNT",
    callback=_parse_seeds,
    help="Run one for each of several seeds.",
)
@click.option(
    "--faults",
    metavar="NAME,...|all|none",
    callback=_parse_faults,
    help="What may go wrong [default: as the scenario has it].",
)
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(exists=True, dir_okay=False),
    help="Play this plan, rather than draw one.",
)
@click.option(
    "--save-plan",
    type=click.Path(dir_okay=False, writable=True),
    help="Write the plan into a file, as JSON.",
)
@click.option(
    "--report",
    type=click.Path(dir_okay=False, writable=True),
    help="Write a page with plots, which opens offline.",
)
@click.option(
    "--minimise/--no-minimise",
    default=None,
    help="Play parts of a plan that fails, to find what is needed [default: for a minute].",
)
@click.option("--memo", is_flag=True, help="Verify each signature once, not once for each node.")
@durability_options
@json_option
def simulate(
    scenario: str | None,
    listing: bool,
    nodes: int | None,
    seed: int | None,
    seeds: tuple[int | None, int] | None,
    faults: str | None,
    plan_file: str | None,
    save_plan: str | None,
    report: str | None,
    minimise: bool | None,
    memo: bool,
    as_json: bool,
    **abstract: Any,
) -> None:
    """
    Run whole nodes in a simulated world, and see whether all goes well.

    The nodes are those that 'twistd mesh-node' runs; network, disks, clocks and what goes
    wrong are drawn from a seed, and time is virtual. The same seed gives the same run, byte
    for byte. SCENARIO is one of 'meshkit simulate --list', or MODULE:NAME of your own.

    Exit code 1 says that something was not as it must be. Then the command that replays that
    run is printed, and the smallest part of its plan that was found to fail as well, which is
    what --save-plan writes. With --seeds each run is a line, and the first that fails is told
    in full; --report is of that one, or of the last.

    With the options of storage in years, such as --years, there are no nodes: the scenario is
    'storage', and peers, outages, audits and repairs are simulated for so long, to see how many
    objects are lost, beside what a model says.
    """
    if chosen(abstract):
        others = (nodes, seeds, faults, plan_file, save_plan, minimise)
        if scenario != "storage" or listing or memo or any(each is not None for each in others):
            raise click.UsageError(
                "the options of storage in years go with the scenario storage, --seed, --report "
                "and --json"
            )
        simulate_durability(abstract, seed, report, as_json)
        return
    if listing or (scenario is None and plan_file is None):
        _list(as_json)
        return
    if plan_file is not None:
        if (nodes, seed, seeds, faults) != (None, None, None, None):
            raise click.UsageError("--plan says all of a run: leave out what else would say it")
        plan = _read_plan(plan_file)
        drawing = _Drawing(_find(scenario or plan.scenario), scenario, memo=memo)
        replay = drawing.command(plan=plan_file)
    else:
        assert scenario is not None
        drawing = _Drawing(_find(scenario), scenario, nodes, faults, memo)
    if seeds is not None and save_plan is not None:
        raise click.UsageError("--save-plan goes with one seed")
    if report is not None:
        # Whether it can be written is better known before the run than after it.
        Path(report).open("ab").close()
    _hush_twisted()
    if seeds is not None:
        played, runs = _several(drawing, _range(seed, *seeds), as_json)
    else:
        if plan_file is None:
            drawn = SystemRandom().getrandbits(32) if seed is None else seed
            plan, replay = drawing.plan(drawn), drawing.replay(drawn)
        if save_plan is not None:
            Path(save_plan).write_bytes(encode_plan(plan))
        played, runs = _play(drawing, plan, replay), None
        if not as_json:
            _print(played)
    if played.outcome.violations:
        played = _smaller(drawing, played, minimise)
        if not as_json:
            _print_smaller(played, save_plan)
        if save_plan is not None and played.minimised is not None:
            Path(save_plan).write_bytes(encode_plan(played.minimised.plan))
    if as_json:
        print_json(played.as_json(whole=True) if runs is None else runs | {"first": played.smaller})
    if report is not None:
        text = write_report(
            played.outcome,
            replay=played.replay,
            real_s=played.real_s,
            minimised=played.minimised,
        )
        Path(report).write_text(text, "utf-8")
    if played.outcome.violations:
        sys.exit(1)


@frozen
class _Drawing:
    """
    What runs are drawn from, besides the seed.

    @ivar name: how the scenario was named on the command line.
    @ivar faults: likewise.
    """

    scenario: Scenario
    name: str | None
    nodes: int | None = None
    faults: str | None = None
    memo: bool = False

    def plan(self, seed: int) -> Plan:
        """@raise click.UsageError: if the scenario does not take so many nodes."""
        faults = choose(self.faults or "")
        try:
            return self.scenario.plan(seed, nodes=self.nodes, faults=faults)
        except ValueError as e:
            raise click.UsageError(f"{self.name} cannot be drawn like that: {e}")

    def replay(self, seed: int) -> str:
        """@return: the command that makes that run, whatever the defaults will be."""
        options: dict[str, Any] = {"nodes": self.nodes or self.scenario.nodes, "seed": seed}
        if self.faults is not None:
            options["faults"] = self.faults
        return self.command(**options)

    def command(self, **options: Any) -> str:
        """@return: with these options, for a shell."""
        words = ["meshkit", "simulate", *([] if self.name is None else [self.name])]
        for name, value in options.items():
            words += [f"--{name}", str(value)]
        return join([*words, *(["--memo"] if self.memo else [])])


def _range(seed: int | None, low: int | None, count: int) -> range:
    if low is None:
        low = SystemRandom().getrandbits(32) if seed is None else seed
    elif seed is not None:
        raise click.UsageError("--seed is the first of --seeds COUNT; --seeds A..B names all")
    return range(low, low + count)


def _find(name: str) -> Scenario:
    """@raise click.UsageError: if there is no such scenario."""
    if name in SCENARIOS:
        return SCENARIOS[name]
    module, colon, attribute = name.partition(":")
    if not colon:
        known = ", ".join(sorted(SCENARIOS))
        raise click.UsageError(f"there is no scenario {name!r}: there are {known}, and MODULE:NAME")
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as e:
        raise click.UsageError(f"there is no scenario {name!r}: {e}")
    if not isinstance(found, Scenario):
        raise click.UsageError(f"{name} is no scenario, but {type(found).__name__}")
    return found


def _read_plan(name: str) -> Plan:
    with Path(name).open("rb") as file:
        text = file.read(MAX_PLAN + 1)
    try:
        return decode_plan(text)
    except ValueError as e:
        raise click.UsageError(f"{name}: {e}")


# --- playing -----------------------------------------------------------------------


def _several(drawing: _Drawing, seeds: range, as_json: bool) -> tuple[_Played, dict[str, Any]]:
    """@return: the first that failed, or the last; and what is told of all of them as JSON."""
    runs: list[dict[str, Any]] = []
    failed: list[int] = []
    shown: _Played | None = None
    for seed in seeds:
        played = _play(drawing, drawing.plan(seed), drawing.replay(seed))
        if not failed:
            shown = played
        if played.outcome.violations:
            failed.append(seed)
        if as_json:
            runs.append(played.as_json(whole=False))
        else:
            _print_line(played)
    assert shown is not None
    if not as_json:
        line(f"{len(seeds)} runs, {len(failed)} failed")
        if failed:
            line("")
            line("The first that failed:")
            _print(shown)
    return shown, {"runs": runs, "failed": failed}


def _play(drawing: _Drawing, plan: Plan, replay: str) -> _Played:
    watching = sys.stderr.isatty()
    invariants: Sequence[type[Invariant]] = drawing.scenario.invariants
    if watching:
        _show(f"seed {plan.seed}: {len(plan.members)} nodes start")
        invariants = [*invariants, _Progress]
    begun = time.time()
    observer: Any = _print_failure
    with _interruptible() as interrupted:
        invariants = [*invariants, interrupted]
        try:
            scenario = drawing.scenario
            run = Run(plan, invariants, scenario.makers, memo=drawing.memo, parts=scenario.parts)
        except (TypeError, ValueError) as e:
            raise click.UsageError(f"the plan cannot be played: {e}")
        globalLogPublisher.addObserver(observer)
        try:
            outcome = run.play()
        finally:
            globalLogPublisher.removeObserver(observer)
    taken = time.time() - begun
    if watching:
        _show("")
    return _Played(outcome, replay, taken)


def _smaller(drawing: _Drawing, played: _Played, minimise: bool | None) -> _Played:
    """
    @param minimise: L{None} leaves it to how long a run takes.
    @return: with the part of the plan that is needed.
    """
    budget = BUDGET if minimise else int(min(BUDGET, MINIMISE_SECONDS / max(played.real_s, 1e-3)))
    if minimise is False or budget < _FEW:
        return played
    if sys.stderr.isatty():
        _show(f"looking for what of it is needed: up to {budget} runs")
    with _interruptible() as interrupted:
        scenario = drawing.scenario
        watched = evolve(scenario, invariants=[*scenario.invariants, interrupted])
        found = reduce(played.outcome, watched, budget=budget, memo=drawing.memo)
    if sys.stderr.isatty():
        _show("")
    return evolve(played, minimised=found)


@cache
def _hush_twisted() -> None:
    """
    Twisted prints errors that are logged while nobody has said where the log goes.  Here it
    is L{_play} that says so: runs that only look for what is needed are not to be heard.
    """
    globalLogBeginner.beginLoggingTo([], discardBuffer=True, redirectStandardIO=False)


# --- in words ----------------------------------------------------------------------


def _show(text: str) -> None:
    """Replace the line of progress."""
    click.echo(f"\r\033[K{text}", nl=False, err=True)


def _print_failure(event: Any) -> None:
    """An observer of the log, for the tracebacks of what has failed in a run."""
    failure = event.get("log_failure")
    if failure is not None and not failure.check(PowerLost, KeyboardInterrupt):
        for each in failure.getTraceback().splitlines():
            click.echo(visible(each), err=True)


def _list(as_json: bool) -> None:
    scenarios = [SCENARIOS[name] for name in sorted(SCENARIOS)]
    if as_json:
        names = ("name", "summary", "nodes", "faults")
        print_json(
            {
                "scenarios": [{name: getattr(each, name) for name in names} for each in scenarios],
                "faults": [
                    {"name": each.name, "summary": each.summary} for each in FAULTS.values()
                ],
            }
        )
        return
    table(
        ["SCENARIO", "NODES", "WHAT HAPPENS"],
        [[each.name, str(each.nodes), each.summary] for each in scenarios],
    )
    line("")
    table(["FAULT", "WHAT HAPPENS"], [[each.name, each.summary] for each in FAULTS.values()])


def _files(figures: dict[str, Any]) -> str:
    return f"{figures['files_stored']:,} stored, {figures['files_fetched']:,} fetched"


def _print_line(played: _Played) -> None:
    outcome, figures = played.outcome, played.outcome.figures
    if outcome.violations:
        (first, *more) = outcome.violations
        what = f"FAILED  {_said(first, figures)}" + (f" (and {len(more)} more)" if more else "")
    else:
        files = f"files {_files(figures)}, " if figures["files_stored"] else ""
        what = (
            f"good    {figures['acknowledged']:,} acknowledged, "
            f"{figures['deliveries']:,} deliveries, "
            f"{files}{figures['events']:,} events, {played.real_s:.1f} s"
        )
    line(f"seed {outcome.seed}  {what}")


def _print(played: _Played) -> None:
    outcome, figures = played.outcome, played.outcome.figures
    virtual = figures["virtual_s"]
    converged, memo = figures["converged_s"], figures["memo"]
    rows = [
        ("scenario", f"{outcome.plan.scenario}, seed {outcome.seed}"),
        ("nodes", f"{figures['nodes']:,}{_lying(figures['liars'])}"),
        ("virtual time", f"{virtual:,.1f} s, in {played.real_s:,.1f} s ({_rate(virtual, played)})"),
        ("events", f"{figures['events']:,} ({_rate(figures['events'], played)} a second)"),
        ("acknowledged", f"{figures['acknowledged']:,} messages"),
        ("deliveries", f"{figures['deliveries']:,} of {figures['expected']:,}"),
        *([("files", _files(figures))] if figures["files_stored"] else []),
        ("converged", "not in the time" if converged is None else f"after {converged:,.2f} s"),
        ("duplicates", f"{figures['duplicates']:,}{_share(figures)}"),
        ("bytes", f"{figures['bytes']:,} in {figures['segments']:,} segments"),
        ("latency", _latency(figures["latency_ms"])),
        ("answers", _latency(figures["answer_ms"])),
        *([] if memo is None else [("signatures", _remembered(memo))]),
        ("violations", str(len(outcome.violations))),
        ("digest", outcome.digest),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        line(f"{name.ljust(width)}  {value}")
    for each in outcome.violations[:_SHOWN]:
        line(f"  {_said(each, figures)}")
    if len(outcome.violations) > _SHOWN:
        line(f"  ... and {len(outcome.violations) - _SHOWN} more")
    if outcome.violations:
        line("")
        line("Replay it with:")
        line(f"  {played.replay}")


def _print_smaller(played: _Played, save_plan: str | None) -> None:
    found = played.minimised
    line("")
    if found is None:
        line("Add --minimise to find the smallest part of its plan that fails.")
        return
    kind = "The smallest part" if found.complete else "A part"
    line(f"{kind} of its plan that fails, after {found.plays} runs:")
    told = describe(found.plan)
    for each in told[:MAX_TOLD]:
        line(f"  {each}")
    if len(told) > MAX_TOLD:
        line(f"  ... and {len(told) - MAX_TOLD} lines more")
    if save_plan is None:
        line("Add --save-plan FILE to have it in a file, for --plan FILE.")


def _lying(count: int) -> str:
    return f", and {count:,} peers that lie" if count else ""


def _remembered(memo: dict[str, int]) -> str:
    return f"{memo['verified']:,} verified, and {memo['remembered']:,} times one of them again"


def _rate(amount: float, played: _Played) -> str:
    return f"{amount / max(played.real_s, 1e-3):,.1f}"


def _share(figures: dict[str, Any]) -> str:
    received = figures["received"] + figures["duplicates"]
    return f" ({figures['duplicates'] / received:.1%} of what came)" if received else ""


def _latency(found: dict[str, Any]) -> str:
    if not found["count"]:
        return "none"
    return ", ".join(f"{name} {found[name]:,.1f} ms" for name in ("p50", "p90", "p99", "max"))


def _said(violation: Violation, figures: dict[str, Any]) -> str:
    # As the actions of the plan: since everybody was ready.
    at = violation.at_ns / 10**9 - figures["ready_s"]
    where = f" at {violation.node}" if violation.node else ""
    return f"{at:.3f} s: {violation.invariant}{where}: {violation.text}"
