"""Medians, spreads and the tables they are printed in."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """The value that C{share} of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread(values: Sequence[float], unit: str = "", digits: int = 0) -> str:
    """C{median [min..max]}; C{absent} if nothing was measured."""
    if not values:
        return "absent"

    def show(value: float) -> str:
        return f"{value:,.{digits}f}"

    text = f"{show(statistics.median(values))} [{show(min(values))}..{show(max(values))}]"
    return f"{text} {unit}".rstrip()


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Median of the ratios of one round each, so that a busy moment hits both sides."""
    if not ours or not theirs:
        return "absent"
    return spread([a / b for a, b in zip(ours, theirs, strict=True)], digits=2)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose source is aligned as well."""
    widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(c.ljust(w) for c, w in zip(cells, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(heads), rule, *map(line, rows)])
