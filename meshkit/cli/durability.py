"""
C{meshkit simulate storage --years N}: years of storage in the abstract, without nodes.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from random import SystemRandom
from shlex import join
from typing import Any, Final

import click

from meshkit.audit.decisions import Policy
from meshkit.cli.output import line, print_json
from meshkit.errors import ConfigError, NotEnoughPeers, SchemeInvalid
from meshkit.runtime.config import parse_size
from meshkit.sim.durability.findings import Findings
from meshkit.sim.durability.model import ASSUMPTIONS
from meshkit.sim.durability.page import as_size, as_time, write_page
from meshkit.sim.durability.setting import MAX_YEARS, YEAR, Setting
from meshkit.sim.durability.simulation import Simulation
from meshkit.storage.scheme import Scheme

__all__ = ["chosen", "durability_options", "simulate_durability"]

_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0, "y": YEAR}
_TIME: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?([smhdwy])")
_NEVER: Final = "never"

Options = Mapping[str, Any]


class _Time(click.ParamType[Any]):
    """Seconds of C{90d}, C{1.5y}; and of C{never}, where that may be."""

    name = "time"

    def __init__(self, *, never: bool = False) -> None:
        self._never = never

    def convert(self, value: Any, _parameter: Any, _context: Any) -> float | str:
        if self._never and value == _NEVER:
            return _NEVER
        found = _TIME.fullmatch(str(value))
        if found is None or float(found[1]) == 0:
            more = ", or never" if self._never else ""
            self.fail(
                f"{value!r} is no length of time: write a number and s, m, h, d, w or y, such as "
                f"30d{more}"
            )
        return float(found[1]) * _UNITS[found[2]]


class _Size(click.ParamType[Any]):
    """Bytes of C{64 MiB}."""

    name = "size"

    def convert(self, value: Any, _parameter: Any, _context: Any) -> int:
        try:
            return parse_size(str(value))
        except ValueError as e:
            self.fail(str(e))


class _Scheme(click.ParamType[Any]):
    """Such as C{6+3}."""

    name = "k+m"

    def convert(self, value: Any, _parameter: Any, _context: Any) -> Scheme:
        try:
            return Scheme.parse(str(value))
        except SchemeInvalid as e:
            self.fail(str(e))


_COUNT: Final = click.IntRange(min=0)
_PART: Final = click.FloatRange(0.0, 1.0)

#: Of the setting: option, type, and what is said of it.
_SETTING: Final[tuple[tuple[str, Any, str], ...]] = (
    ("--years", click.FloatRange(0.001, MAX_YEARS), "How many years go by [default: 5]."),
    ("--peers", click.IntRange(1), "Peers at every moment [default: 60]."),
    ("--objects", click.IntRange(1), "Objects that are stored [default: 500]."),
    ("--scheme", _Scheme(), "Shares that suffice, and those besides [default: 6+3]."),
    ("--size", _Size(), "Bytes of each object [default: 64 MiB]."),
    ("--lifetime", _Time(never=True), "Until a peer is gone for good, on average [default: 1y]."),
    ("--outage-every", _Time(never=True), "For so long a peer is there [default: 30d]."),
    ("--outage", _Time(), "For so long it is away then [default: 2h]."),
    ("--domains", click.IntRange(1), "Failure domains [default: 12]."),
    ("--domain-lifetime", _Time(never=True), "Until a whole domain is gone [default: never]."),
    ("--domain-outage-every", _Time(never=True), "Until one is away [default: never]."),
    ("--domain-outage", _Time(), "For so long it is away then [default: 2h]."),
    ("--liars", _PART, "Which part of the peers lies, 0 to 1 [default: 0]."),
    ("--kept", _PART, "What liars keep of a share, 0 to 1 [default: 0.95]."),
    ("--capacity", _Size(), "Bytes that a peer lends [default: no limit]."),
    ("--reserved", _Size(), "Those of them that are not lent [default: 0]."),
    ("--headroom", _Size(), "Those that are kept for repairs [default: a tenth]."),
    ("--bandwidth", _Size(), "Bytes per second for repairs [default: 12.5 MB]."),
    ("--fail", _COUNT, "So many peers are gone after a day, and none comes [default: 0]."),
    ("--gone", _PART, "Which part of them is away after a day, all at once [default: 0]."),
    ("--gone-for", _Time(), "For so long [default: 1h]."),
)
_INTERVAL: Final = ("--interval", _Time(), "Time between two passes [default: 1h].")
#: Of the policy, likewise.  The defaults are those of the section C{[audit]}.
_POLICY: Final[tuple[tuple[str, Any, str], ...]] = (
    ("--every", _Time(), "After so long a share is audited again [default: 1d]."),
    ("--offline-grace", _Time(), "For so long a peer may be away [default: 4h]."),
    ("--outage-grace", _Time(), "The same, while many are [default: 1d]."),
    ("--repair-below", _COUNT, "Good shares below which others are made anew."),
    ("--max-repairs", _COUNT, "Shares that are made anew in one pass."),
    ("--cooldown", _Time(), "For so long an object is left alone after a repair."),
    ("--backoff", _Time(), "The same after one that failed; doubled each time."),
    ("--max-backoff", _Time(), "And never longer than that."),
)


def _name(option: str) -> str:
    return option.removeprefix("--").replace("-", "_")


_NAMES: Final = tuple(_name(option) for option, _, _ in (*_SETTING, _INTERVAL, *_POLICY))


def durability_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command what says how years of storage are simulated."""
    for option, kind, said in reversed((*_SETTING, _INTERVAL, *_POLICY)):
        command = click.option(option, type=kind, help=f"storage in years: {said}")(command)
    said = "storage in years: Make nothing anew."
    return click.option("--no-repair", is_flag=True, help=said)(command)


def chosen(options: Options) -> bool:
    """@return: does one of these options ask for years, and not for nodes?"""
    return options["no_repair"] or any(options[name] is not None for name in _NAMES)


def _setting(options: Options) -> Setting:
    """@raise click.UsageError: if there can be no such thing."""

    def said(table: tuple[tuple[str, Any, str], ...]) -> dict[str, Any]:
        found = {_name(option): options[_name(option)] for option, _, _ in table}
        return {
            name: None if value == _NEVER else value
            for name, value in found.items()
            if value is not None
        }

    more = said(_SETTING)
    if options["interval"] is not None:
        more["every_pass"] = int(options["interval"])
    lifetime = more.get("lifetime", YEAR)
    policy = said(_POLICY) | ({"repair": False} if options["no_repair"] else {})
    try:
        return Setting(**more, policy=Policy(**policy, peer_life=lifetime or MAX_YEARS * YEAR))
    except (ValueError, ConfigError) as e:
        raise click.UsageError(f"that cannot be simulated: {e}") from None


def _replay(options: Options, seed: int) -> str:
    """@return: the command that does the same, for a shell."""
    words = ["meshkit", "simulate", "storage"]
    for option, _, _ in (*_SETTING, _INTERVAL, *_POLICY):
        value = options[_name(option)]
        if isinstance(value, Scheme):
            words += [option, value.text]
        elif isinstance(value, float) and option not in ("--years", "--liars", "--kept", "--gone"):
            words += [option, f"{value:.6f}".rstrip("0").rstrip(".") + "s"]
        elif value is not None:
            words += [option, str(value)]
    return join([*words, *(["--no-repair"] if options["no_repair"] else []), "--seed", str(seed)])


def simulate_durability(
    options: Options, seed: int | None, report: str | None, as_json: bool
) -> None:
    """
    Simulate it, and say what came of it.

    @param report: where a page is written, if anywhere.
    @raise click.UsageError: if there can be no such thing.
    """
    setting = _setting(options)
    seed = SystemRandom().getrandbits(32) if seed is None else seed
    if report is not None:
        # Whether it can be written is better known before the run than after it.
        Path(report).open("ab").close()
    begun = time.time()
    watching = sys.stderr.isatty()

    def show(part: float) -> None:
        click.echo(f"\r\033[K{part:.0%} of {setting.years:g} years", nl=False, err=True)

    try:
        found = Simulation(setting, seed).run(show if watching else None)
    except NotEnoughPeers as e:
        raise click.UsageError(f"that cannot be simulated: {e}") from None
    if watching:
        click.echo("\r\033[K", nl=False, err=True)
    taken, replay = time.time() - begun, _replay(options, seed)
    if as_json:
        print_json(found.as_json() | {"replay": replay, "real_s": round(taken, 3)})
    else:
        _print(found, taken, replay)
    if report is not None:
        Path(report).write_text(write_page(found, replay), "utf-8")


# --- in words ----------------------------------------------------------------------


def _print(found: Findings, taken: float, replay: str) -> None:
    setting, sums = found.setting, found.sums
    line(
        f"{setting.objects:,} objects of {as_size(setting.size)} as {setting.scheme.text} at "
        f"{setting.peers:,} peers in {setting.domains:,} domains, {setting.years:g} years, seed "
        f"{found.seed}; {taken:,.1f} s"
    )
    line("")
    observed, model = found.observed, found.model
    width = 0 if model is None else 1
    rows = [
        [
            "losses per object and year",
            f"{observed.value:.3g}  ({observed.low:.3g} to {observed.high:.3g})",
            "" if model is None else f"{model.rate:.3g}",
        ],
        [
            "objects lost",
            f"{found.lost:,} of {setting.objects:,}",
            "" if found.expected is None else f"{found.expected:.3g}",
        ],
        [
            "repairs per object and year",
            f"{sums['repairs'] / max(found.object_years, 1e-9):.3g}",
            "" if model is None else f"{model.repairs:.3g}",
        ],
        [
            "bytes of repairs, likewise",
            f"{as_size(found.moved)}  (at least {as_size(found.least)})",
            "" if found.model_moved is None else as_size(found.model_moved),
        ],
        ["bytes of audits, likewise", as_size(found.audited), ""],
    ]
    _table(["", "observed, 95 %", "model"][: 2 + width], [row[: 2 + width] for row in rows])
    _table(
        ["what happened", ""],
        [
            ["peers gone for good", f"{sums['peers_lost']:,}"],
            ["outages of peers", f"{sums['outages']:,}"],
            ["domains gone, away", f"{sums['domains_lost']:,}, {sums['domain_outages']:,}"],
            ["shares audited", f"{sums['audits']:,}"],
            ["repairs, failed", f"{sums['repairs']:,}, {sums['repairs_failed']:,}"],
            ["shares made anew, copied", f"{sums['rebuilt']:,}, {sums['copied']:,}"],
            ["of them were only away", f"{sums['needless']:,}"],
            ["repairs that lowered the good shares", f"{sums['lowered']:,}"],
            *_liars(found),
        ],
    )
    _table(["decision", "times"], [[code, f"{count:,}"] for code, count in found.codes.items()])
    beyond = found.beyond()
    if beyond:
        line("What the model, and it alone, says of other lifetimes of peers:")
        _table(
            ["lifetime", "losses per object and year", "bytes of repairs, likewise"],
            [
                [as_time(each.lifetime * YEAR), f"{each.rate:.2g}", as_size(each.moved)]
                for each in beyond
            ],
        )
        line(f"It assumes: {ASSUMPTIONS}")
    else:
        line("The model says nothing of such a setting.")
    line("")
    line("The same again:")
    line(f"  {replay}")


def _liars(found: Findings) -> list[list[str]]:
    if not found.liars:
        return []
    days = found.days_to_refuse
    after = "" if days is None else f", half of them within {days:.1f} days"
    return [
        ["liars, refused", f"{found.liars:,}, {len(found.found_after):,}{after}"],
        ["chance to find one by a share's audit", f"{found.chance_to_find:.4f}"],
    ]


def _table(heads: list[str], rows: list[list[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, head in enumerate(heads):
        shown.add_column(head, justify="left" if number == 0 else "right")
    for row in rows:
        shown.add_row(*row)
    Console(file=sys.stdout, highlight=False, markup=False, emoji=False).print(shown)
