"""
What came of a simulation as one page, which loads nothing and runs nothing.
"""

from __future__ import annotations

from math import log10
from typing import Final

from meshkit.sim.durability.findings import Findings
from meshkit.sim.durability.model import ASSUMPTIONS
from meshkit.sim.durability.setting import DAY, YEAR
from meshkit.sim.markup import Markup, element, join, page
from meshkit.sim.plots import Bar, Curve, bars, curves
from meshkit.sim.report import STYLE, folded, section, table

__all__ = ["as_size", "as_time", "write_page"]

_HOUR: Final = 3600.0
#: Moments at which the model is asked for its curve.
_MOMENTS: Final = 24


def as_size(value: float) -> str:
    """@return: so many bytes, in words."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} PB"


def as_time(seconds: float | None) -> str:
    """@return: so many seconds, in words."""
    if seconds is None:
        return "never"
    units = ((YEAR, "year"), (DAY, "day"), (_HOUR, "hour"), (60.0, "minute"))
    unit, name = next((each for each in units if seconds >= each[0]), (1.0, "second"))
    number = f"{seconds / unit:.3g}"
    return f"{number} {name}" if number == "1" else f"{number} {name}s"


def write_page(found: Findings, replay: str = "") -> str:
    """
    @param replay: the command that does the same again.
    @return: a page of HTML, in UTF-8 without surrogates.
    """
    setting = found.setting
    title = f"Storage as {setting.scheme.text}, {setting.years:g} years, seed {found.seed}"
    return page(
        f"meshkit simulate: {title}",
        STYLE,
        element(
            "main",
            element("h1", title),
            element(
                "p",
                f"{setting.objects:,} objects of {as_size(setting.size)} at {setting.peers:,} "
                f"peers in {setting.domains:,} failure domains, in virtual time and without "
                f"sockets.",
                class_="soft",
            ),
            section("The same again", element("pre", element("code", replay))),
            _losses(found),
            _traffic(found),
            _shares(found),
            _beyond(found),
            _counted(found),
            _setting(found),
        ),
    )


def _losses(found: Findings) -> Markup:
    observed, model, setting = found.observed, found.model, found.setting
    rows = [
        [
            "losses per object and year",
            f"{observed.value:.4g}",
            f"{observed.low:.4g} to {observed.high:.4g}",
            "" if model is None else f"{model.rate:.4g}",
        ],
        [
            "objects lost",
            f"{found.lost:,}",
            "",
            "" if found.expected is None else f"{found.expected:.4g}",
        ],
    ]
    years = [month.at / YEAR for month in found.months]
    lines = [Curve("observed", [float(month.lost) for month in found.months], "first", steps=True)]
    if model is not None:
        chain = setting.model().chain
        lines.append(
            Curve(
                "model",
                [chain.chance_of_end(month.at) * setting.objects for month in found.months]
                if len(years) <= _MOMENTS
                else _thinned(found),
                "second",
            )
        )
    told = f"{found.lost:,} of {setting.objects:,} objects were lost in {setting.years:g} years."
    return section(
        "Losses",
        element(
            "p",
            "Objects that were lost, and how many the model expects. The interval holds the true "
            "rate in 95 of 100 cases; objects that are lost at one moment count as one there.",
            class_="soft",
        ),
        table(["", "observed", "95 % interval", "model"], rows),
        curves(
            "losses",
            "Objects lost",
            told,
            years,
            lines,
            x_label="years",
            x_range=(0.0, setting.years),
        ),
        folded(
            "The numbers",
            table(
                ["years", *(line.name for line in lines)],
                [
                    [f"{year:.3f}", *(f"{line.values[place]:.4g}" for line in lines)]
                    for place, year in enumerate(years)
                ],
                numbers=3,
            ),
        ),
    )


def _thinned(found: Findings) -> list[float]:
    """@return: the model at all moments, asked at some of them and straight in between."""
    setting, chain = found.setting, found.setting.model().chain
    asked = [setting.seconds * number / _MOMENTS for number in range(_MOMENTS + 1)]
    known = [chain.chance_of_end(at) * setting.objects for at in asked]
    told = []
    for month in found.months:
        place = min(int(month.at / setting.seconds * _MOMENTS), _MOMENTS - 1)
        part = month.at / setting.seconds * _MOMENTS - place
        told.append(known[place] + part * (known[place + 1] - known[place]))
    return told


def _traffic(found: Findings) -> Markup:
    years = [month.at / YEAR for month in found.months]
    moved = [float(month.read + month.written) for month in found.months]
    least = [float(month.least) for month in found.months]
    model = found.model_moved
    rows = [
        [
            "moved by repairs",
            as_size(found.moved),
            as_size(found.least),
            "" if model is None else as_size(model),
        ],
        ["shown in audits, at most", as_size(found.audited), "", ""],
    ]
    return section(
        "Traffic",
        element(
            "p",
            "Bytes per object and year. The least is what the repairs that were made need if "
            "nothing is read in vain: as many shares as are required in, and the new ones out.",
            class_="soft",
        ),
        table(["", "observed", "the least", "model"], rows),
        curves(
            "moved",
            "Bytes moved by repairs so far",
            f"{as_size(moved[-1] if moved else 0)} in all.",
            years,
            [Curve("moved", moved, "first"), Curve("the least", least, "second")],
            x_label="years",
            x_range=(0.0, found.setting.years),
            show=as_size,
        ),
    )


def _shares(found: Findings) -> Markup:
    total, required = found.setting.scheme.total, found.setting.scheme.required
    shown = [
        Bar(str(count), float(found.counts.get(count, 0))) for count in range(required, total + 1)
    ]
    every = sum(found.counts.values())
    told = "; ".join(
        f"{bar.name} good shares: {bar.value / every:.2%}" for bar in shown if every and bar.value
    )
    return section(
        "Good shares",
        element(
            "p",
            "How many objects had how many good shares, looked at once a month or so. Those of "
            "peers that are only away are good.",
            class_="soft",
        ),
        bars("shares", "Good shares", told or "There was none.", shown, x_label="good shares"),
    )


def _beyond(found: Findings) -> Markup:
    beyond = found.beyond()
    if not beyond:
        return section("Beyond", element("p", "The model says nothing of such a setting."))
    shown = [
        Bar(as_time(each.lifetime * YEAR), max(0.0, -log10(max(each.rate, 1e-300))))
        for each in beyond
    ]
    return section(
        "Beyond",
        element(
            "p",
            "Where losses are too rare to be counted it is the model alone that speaks. It "
            f"assumes: {ASSUMPTIONS}",
            class_="soft",
        ),
        table(
            ["lifetime of a peer", "losses per object and year", "bytes of repairs, likewise"],
            [
                [as_time(each.lifetime * YEAR), f"{each.rate:.3g}", as_size(each.moved)]
                for each in beyond
            ],
        ),
        bars(
            "nines",
            "Zeros behind the point of the losses per object and year",
            "; ".join(f"{bar.name}: {bar.value:.1f}" for bar in shown),
            shown,
            x_label="lifetime of a peer; how high: minus the logarithm of the rate",
        ),
    )


def _counted(found: Findings) -> Markup:
    rows = [
        [
            name.replace("_", " "),
            as_size(count) if name in ("read", "written", "least") else f"{count:,}",
        ]
        for name, count in found.sums.items()
    ]
    if found.liars:
        days = found.days_to_refuse
        rows += [
            ["liars", f"{found.liars:,}"],
            ["liars that were refused", f"{len(found.found_after):,}"],
            ["days until that, median", "" if days is None else f"{days:.1f}"],
            ["chance to find one by a share's audit", f"{found.chance_to_find:.4f}"],
        ]
    return section(
        "Counted",
        table(["what", "how much"], rows),
        element("h3", "Decisions"),
        table(["decision", "times"], [[code, f"{count:,}"] for code, count in found.codes.items()]),
    )


def _setting(found: Findings) -> Markup:
    setting = found.setting
    mean, variance = setting.delay
    rows = [
        ["lifetime of a peer", as_time(setting.lifetime)],
        ["it is there for", as_time(setting.outage_every)],
        ["and away for", as_time(setting.outage)],
        ["lifetime of a domain", as_time(setting.domain_lifetime)],
        ["a domain is there for", as_time(setting.domain_outage_every)],
        ["peers that lie", f"{setting.liars:.0%}, and keep {setting.kept:.0%} of the leaves"],
        ["a share has", as_size(setting.share_bytes)],
        ["repaired below", f"{setting.threshold} good shares"],
        ["audited every", as_time(setting.policy.every)],
        ["grace for who is away", as_time(setting.policy.offline_grace)],
        ["from a loss to its repair", f"{as_time(mean)}, deviation {as_time(variance**0.5)}"],
    ]
    return section("Setting", folded("All of it", table(["what", "how much"], rows)), join())
