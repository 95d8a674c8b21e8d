"""
A run as one page: what came of it, in words, numbers and plots.

The page is a single file of HTML and SVG.  It loads nothing and runs nothing, so it opens
from a disk, in a mail, and years later; and what nodes and messages are called cannot become
a part of it.  Every plot has its numbers beneath it, and nothing is said by colour alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import log2
from typing import Any, Final

from meshkit.sim.invariants import Violation
from meshkit.sim.markup import Markup, element, join, page
from meshkit.sim.minimise import Minimised
from meshkit.sim.plots import Bar, Curve, Row, Span, bars, columns, curves, spans
from meshkit.sim.running import Outcome
from meshkit.sim.schedule import Plan, describe, encode_plan

__all__ = [
    "MAX_PLAN_SHOWN",
    "MAX_ROWS",
    "STYLE",
    "folded",
    "section",
    "table",
    "write_report",
]

#: Bytes of the plan that are shown.
MAX_PLAN_SHOWN: Final = 1024 * 1024
#: Rows of a table.
MAX_ROWS: Final = 1_000

STYLE: Final = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #5a6472;
  --rule: #d5dae1; --first: #0072b2; --second: #b34700; --bar: #3d8fc4; --code: #f3f5f8; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171c; --ink: #e6e9ee;
  --soft: #a3adba; --rule: #343b45; --first: #6cc0f5; --second: #f0a050; --bar: #3f7fae;
  --code: #1d2229; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 4rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .25rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 0; }
p { margin: .25rem 0 .75rem; max-width: 45rem; }
.soft { color: var(--soft); }
.verdict { border: 2px solid var(--first); border-radius: .4rem; padding: .5rem .75rem;
  font-weight: 600; }
.verdict.bad { border-color: var(--second); border-style: double; border-width: 5px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .5rem 0; }
th, td { text-align: left; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid var(--rule);
  vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap; }
td:not(.number) { overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
pre { background: var(--code); border: 1px solid var(--rule); border-radius: .3rem;
  padding: .6rem .75rem; overflow: auto; max-height: 30rem; font-size: .85rem; }
summary { cursor: pointer; color: var(--soft); }
svg { display: block; width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--ink); }
svg .axis { stroke: var(--soft); stroke-width: 1; }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .moment { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 2 3; }
svg .curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
svg .curve.first { stroke: var(--first); }
svg .curve.second { stroke: var(--second); stroke-dasharray: 6 4; }
svg text.first { fill: var(--first); font-weight: 600; }
svg text.second { fill: var(--second); font-weight: 600; }
svg .bar { fill: var(--bar); }
svg .span { fill: var(--second); fill-opacity: .75; }
svg .instant { fill: var(--second); }
@media print { body { max-width: none; } details > :not(summary) { display: none; } }
"""


def write_report(
    outcome: Outcome,
    *,
    replay: str = "",
    real_s: float | None = None,
    minimised: Minimised | None = None,
) -> str:
    """
    @param replay: the command that plays the run again.
    @param real_s: seconds that the run took here.
    @param minimised: what of the plan is needed to fail, if it was looked for.
    @return: a page of HTML, in UTF-8 without surrogates.
    """
    plan = outcome.plan
    title = f"{plan.scenario or 'A run'}, seed {plan.seed}"
    return page(
        f"meshkit simulate: {title}",
        STYLE,
        element(
            "main",
            element("h1", title),
            element("p", _who(outcome.figures), class_="soft"),
            _verdict(outcome),
            _violations(outcome),
            _replay(replay),
            _needed(minimised),
            _figures(outcome, real_s),
            _over_time(outcome),
            _latencies(outcome.figures),
            _per_node(outcome.figures),
            _links(outcome.figures),
            _plan(outcome),
        ),
    )


# --- words and numbers -------------------------------------------------------------


def _who(found: dict[str, Any]) -> str:
    lying = f", and {found['liars']:,} peers that lie" if found["liars"] else ""
    return f"{found['nodes']:,} nodes of meshkit in a simulated world{lying}."


def _verdict(outcome: Outcome) -> Markup:
    count = len(outcome.violations)
    if not count:
        return element("p", "✓ Everything was as it must be.", class_="verdict")
    plural = "s" if count > 1 else ""
    return element(
        "p", f"✗ {count} violation{plural}: not everything was as it must be.", class_="verdict bad"
    )


def _violations(outcome: Outcome) -> Markup:
    if not outcome.violations:
        return join()
    rows = [
        [f"{_since_ready(each, outcome):.3f}", each.invariant, each.node, each.text]
        for each in outcome.violations
    ]
    return section("Violations", table(["s", "invariant", "node", "what"], rows, numbers=1))


def _since_ready(violation: Violation, outcome: Outcome) -> float:
    ready: float = outcome.figures["ready_s"]
    return violation.at_ns / 10**9 - ready


def _replay(replay: str) -> Markup:
    if not replay:
        return join()
    return section("Play it again", element("pre", element("code", replay)))


def _needed(found: Minimised | None) -> Markup:
    if found is None:
        return join()
    told = "It is the smallest part" if found.complete else "It is a part"
    return section(
        "What is needed",
        element("p", f"{told} of the plan that fails, after {found.plays} runs.", class_="soft"),
        element("pre", "\n".join(describe(found.plan)[:MAX_ROWS])),
        folded("As a plan", element("pre", _shown(found.plan))),
    )


def _figures(outcome: Outcome, real_s: float | None) -> Markup:
    found = outcome.figures
    converged = found["converged_s"]
    rows = [
        ["time in the world", f"{found['virtual_s']:,.3f} s"],
        ["everybody was ready after", f"{found['ready_s']:,.3f} s"],
        ["events", f"{found['events']:,}"],
        ["messages acknowledged", f"{found['acknowledged']:,}"],
        ["files stored", f"{found['files_stored']:,}"],
        ["files fetched", f"{found['files_fetched']:,}"],
        ["messages published", f"{found['published']:,}"],
        ["deliveries", f"{found['deliveries']:,} of {found['expected']:,}"],
        ["converged after", "not in the time" if converged is None else f"{converged:,.3f} s"],
        ["stored again after a loss", f"{found['again']:,}"],
        ["messages sent", f"{found['sent']:,}"],
        ["messages received, new", f"{found['received']:,}"],
        ["messages received, duplicates", f"{found['duplicates']:,}"],
        ["messages refused", f"{found['refused']:,}"],
        ["bytes", f"{found['bytes']:,} in {found['segments']:,} segments"],
        ["connections accepted", f"{found['connections']:,}"],
        ["connections reset", f"{found['resets']:,}"],
        ["segments sent again", f"{found['retransmissions']:,}"],
        ["digest of the trace", outcome.digest],
    ]
    memo = found["memo"]
    if memo is not None:
        times = f"{memo['verified']:,}, and {memo['remembered']:,} times one of them again"
        rows.append(["signatures verified", times])
    if real_s is not None:
        rate = found["virtual_s"] / max(real_s, 1e-3)
        real = f"{real_s:,.1f} s: {rate:,.1f} s of the world in each of them"
        rows.insert(1, ["time here", real])
    return section("Figures", table(["what", "how much"], rows))


def section(title: str, *content: str) -> Markup:
    """@return: a part of a page, under its title."""
    return element("section", element("h2", title), *content)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int = 0) -> Markup:
    """
    @param numbers: how many columns hold numbers, from the left.
    @return: at most L{MAX_ROWS} of the rows.
    """

    def cells(tag: str, row: Sequence[str]) -> Markup:
        return join(
            *(
                element(
                    tag,
                    cell,
                    class_="number" if place < numbers else None,
                    scope="col" if tag == "th" else None,
                )
                for place, cell in enumerate(row)
            )
        )

    shown = [element("tr", cells("td", row)) for row in rows[:MAX_ROWS]]
    left = len(rows) - len(shown)
    return element(
        "div",
        element(
            "table",
            element("thead", element("tr", cells("th", heads))),
            element("tbody", *shown),
        ),
        element("p", f"… and {left:,} more.", class_="soft") if left else join(),
        class_="wide",
    )


def folded(summary: str, *content: Markup) -> Markup:
    """@return: what is shown when its summary is clicked on."""
    return element("details", element("summary", summary), *content)


def _size(value: float) -> str:
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} GB"


def _share(value: float) -> str:
    return f"{value:.0%}"


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:,.3f}"


# --- over time ---------------------------------------------------------------------


def _over_time(outcome: Outcome) -> Markup:
    found = outcome.figures
    curve, samples = found["convergence"], found["samples"]
    phases = found["phases"]
    end = max([*curve["seconds"][-1:], *samples["seconds"][-1:], 1e-3])
    moments = [(phases["healed"], "all mended")] if "healed" in phases else []
    time: dict[str, Any] = {
        "x_label": "seconds since everybody was ready",
        "x_range": (0.0, end),
    }
    lines = [
        Curve("delivered", curve["delivered"], "first"),
        Curve("published", curve["published"], "second"),
    ]
    told = (
        f"After {end:,.1f} seconds {_share((curve['published'] or [0])[-1])} of the messages had "
        f"been published, and {_share((curve['delivered'] or [0])[-1])} of the deliveries made."
    )
    return section(
        "Over time",
        element("h3", "Convergence"),
        element(
            "p",
            "The share of the messages that had been published, and of the deliveries (each "
            "message to each of the other nodes) that had been made. Where the lines part, "
            "nodes lack what others know, or do not take it: they may follow some only.",
            class_="soft",
        ),
        curves(
            "convergence",
            "Convergence",
            told,
            curve["seconds"],
            lines,
            y_high=1.0,
            show=_share,
            moments=moments,
            **time,
        ),
        _convergence_numbers(curve),
        _faults(outcome, time),
        _traffic(samples, moments, time),
    )


def _convergence_numbers(curve: dict[str, Sequence[float]]) -> Markup:
    points = list(zip(curve["seconds"], curve["published"], curve["delivered"], strict=True))
    every = max(1, len(points) // 24)
    rows = [[f"{at:.2f}", f"{born:.1%}", f"{come:.1%}"] for at, born, come in points[::every]]
    return folded("The numbers", table(["s", "published", "delivered"], rows, numbers=3))


def _faults(outcome: Outcome, time: dict[str, Any]) -> Markup:
    found = outcome.figures
    marks = found["marks"]
    kinds: dict[str, list[Span]] = {}
    for violation in outcome.violations:
        at = _since_ready(violation, outcome)
        told = f"{violation.invariant}: {at:.2f} s: {violation.text}"
        # What is found while nodes stop is found after the axis has ended.
        at = min(max(at, 0.0), time["x_range"][1])
        kinds.setdefault("violations", []).append(Span(at, None, told))
    if not marks and not kinds:
        return join(element("h3", "Faults"), element("p", "Nothing was made to go wrong."))
    for mark in marks:
        kinds.setdefault(mark["kind"], []).append(
            Span(mark["at_s"], mark["until_s"], _mark_text(mark))
        )
    # The violations first.
    rows = [Row(kind, kinds[kind]) for kind in sorted(kinds, key=lambda k: (k != "violations", k))]
    told = "; ".join(f"{row.name}: {len(row.spans)}" for row in rows)
    shown = [
        [
            f"{mark['at_s']:.3f}",
            "" if mark["until_s"] is None else f"{mark['until_s']:.3f}",
            mark["kind"],
            mark["where"],
            mark["text"],
        ]
        for mark in marks
    ]
    left = found["marks_left"]
    return join(
        element("h3", "Faults"),
        element(
            "p",
            "What was made to go wrong, and what violated an invariant. Bars last as long as what "
            "they stand for, diamonds are moments. At the right, how many there were.",
            class_="soft",
        ),
        spans("faults", "Faults", told, rows, **time),
        folded(
            f"All {len(marks) + left:,} faults" if not left else f"The first {len(marks):,} faults",
            table(["from s", "to s", "kind", "where", "what"], shown, numbers=2),
        ),
    )


def _mark_text(mark: dict[str, Any]) -> str:
    until = "" if mark["until_s"] is None else f" to {mark['until_s']:.2f}"
    said = " ".join(each for each in (mark["kind"], mark["where"], mark["text"]) if each)
    return f"{said}: {mark['at_s']:.2f}{until} s"


def _traffic(
    samples: dict[str, Sequence[float]],
    moments: Sequence[tuple[float, str]],
    time: dict[str, Any],
) -> Markup:
    seconds = samples["seconds"]
    rates = _rates(seconds, samples["bytes"])
    most = max(samples["duplicates"], default=0)
    return join(
        element("h3", "Bytes each second"),
        curves(
            "bytes",
            "Bytes each second",
            f"At most {_size(max(rates, default=0))} in a second, over all links.",
            seconds,
            [Curve("bytes", rates, "first", steps=True)],
            show=_size,
            moments=moments,
            height=150,
            **time,
        ),
        element("h3", "Duplicates so far"),
        curves(
            "duplicates",
            "Duplicates so far",
            f"{most:,} messages came to nodes that had them already.",
            seconds,
            [Curve("duplicates", samples["duplicates"], "first", steps=True)],
            whole=True,
            moments=moments,
            height=150,
            **time,
        ),
        element("h3", "Nodes that run"),
        curves(
            "running",
            "Nodes that run",
            f"At least {min(samples['running'], default=0):,} at each look.",
            seconds,
            [Curve("running", samples["running"], "first", steps=True)],
            whole=True,
            moments=moments,
            height=150,
            **time,
        ),
        folded(
            "The numbers",
            table(
                ["s", "bytes so far", "duplicates so far", "running"],
                [
                    [f"{at:.2f}", f"{size:,}", f"{again:,}", f"{running:,}"]
                    for at, size, again, running in zip(
                        seconds,
                        samples["bytes"],
                        samples["duplicates"],
                        samples["running"],
                        strict=True,
                    )
                ],
                numbers=4,
            ),
        ),
    )


def _rates(seconds: Sequence[float], amounts: Sequence[float]) -> list[float]:
    """@return: how fast the amount grows from each moment on."""
    rates: list[float] = []
    for (begin, end), (before, after) in zip(pairwise(seconds), pairwise(amounts), strict=True):
        if end > begin:
            rates.append((after - before) / (end - begin))
        else:
            # Two looks at one moment.
            rates.append(rates[-1] if rates else 0.0)
    return rates + rates[-1:] if rates else [0.0] * len(seconds)


# --- latencies ---------------------------------------------------------------------


def _latencies(found: dict[str, Any]) -> Markup:
    classes = found["latencies"]
    latency, answer = found["latency_ms"], found["answer_ms"]
    told = _told(latency) + " milliseconds."
    shown = [Bar(_ms(limit), count) for limit, count in classes]
    moments = []
    if classes:
        low = classes[0][0]
        for name in ("p50", "p90", "p99"):
            # As many bars from the left as there are classes below it.
            at = 2 * log2(max(latency[name], 1e-9) / low) + 1
            moments.append((min(max(at, 0.0), float(len(classes))), name))
    names = ("count", "p50", "p90", "p99", "max")
    return section(
        "Latencies",
        element(
            "p",
            "From the moment a message is stored by the node that wrote it until it is stored "
            "by another node: so many deliveries took that long at most. The classes are those "
            "of a logarithmic scale.",
            class_="soft",
        ),
        bars("latencies", "Latencies", told, shown, x_label="at most so many ms", moments=moments),
        table(
            ["what", *names],
            [
                [name, *("" if each[key] is None else f"{each[key]:,}" for key in names)]
                for name, each in (("delivery, ms", latency), ("answer to publish, ms", answer))
            ],
        ),
        folded(
            "The numbers",
            table(
                ["at most ms", "deliveries"],
                [[_ms(limit), f"{count:,}"] for limit, count in classes],
                numbers=2,
            ),
        ),
        folded(
            "The messages that took longest",
            table(
                [
                    *("author", "number", "at s", "acknowledged at s", "nodes"),
                    *("to half of the others, s", "to all, s"),
                ],
                [
                    [
                        each["author"],
                        f"{each['sequence']:,}",
                        _seconds(each["at_s"]),
                        _seconds(each["acknowledged_s"]),
                        f"{each['nodes']:,}",
                        _seconds(each["half_s"]),
                        _seconds(each["last_s"]),
                    ]
                    for each in found["slowest"]
                ],
            ),
        ),
    )


def _told(found: dict[str, Any]) -> str:
    if not found["count"]:
        return "Nothing was delivered in 0"
    return (
        f"{found['count']:,} deliveries: half within {found['p50']:,}, nine of ten within "
        f"{found['p90']:,}, 99 of 100 within {found['p99']:,}, the slowest {found['max']:,}"
    )


def _ms(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


# --- nodes and links ---------------------------------------------------------------

_COLUMNS: Final = (
    ("stored", "Messages stored", None),
    ("sent", "Messages sent", None),
    ("duplicates", "Duplicates received", None),
    ("bytes_in", "Bytes received", _size),
    ("bytes_out", "Bytes sent", _size),
)


def _per_node(found: dict[str, Any]) -> Markup:
    nodes = found["per_node"]
    content: list[Markup] = []
    for key, title, show in _COLUMNS:
        values = nodes[key]
        shown = [Bar(name, value) for name, value in zip(nodes["name"], values, strict=True)]
        told = (
            f"From {min(values, default=0):,} to {max(values, default=0):,} at each of the nodes."
        )
        options: dict[str, Any] = {} if show is None else {"show": show}
        content += [element("h3", title), columns(f"node-{key}", title, told, shown, **options)]
    keys = ("stored", "received", "sent", "duplicates", "refused", "bytes_in", "bytes_out")
    rows = [
        [name, *(f"{nodes[key][place]:,}" for key in keys)]
        for place, name in enumerate(nodes["name"])
    ]
    heads = ["node", "stored", "new", "sent", "duplicates", "refused", "bytes in", "bytes out"]
    return section("Nodes", *content, folded("The numbers", table(heads, rows)))


def _links(found: dict[str, Any]) -> Markup:
    rows = [[f"{size:,}", source, sink] for source, sink, size in found["links"]]
    return section(
        "The links that carried most",
        table(["bytes", "from", "to"], rows, numbers=1),
    )


def _plan(outcome: Outcome) -> Markup:
    plan = outcome.plan
    summary = f"{len(plan.members):,} members, {len(plan.actions):,} actions"
    return section("Plan", folded(summary, element("pre", _shown(plan))))


def _shown(plan: Plan) -> str:
    text = encode_plan(plan)
    left = len(text) - MAX_PLAN_SHOWN
    note = f"\n… and {left:,} bytes more; --save-plan writes all of it" if left > 0 else ""
    return text[:MAX_PLAN_SHOWN].decode("utf-8", "ignore") + note
