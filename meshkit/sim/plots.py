"""
Plots as inline SVG, with what a report of a run needs and no more.

Whoever cannot see colours reads them too: lines differ in how they are dashed and carry
their names, and every plot says in words what it shows (C{<title>} and C{<desc>}).  Colours
come from CSS classes of the page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, floor, log10
from typing import Final

from attrs import frozen

from meshkit.sim.markup import Markup, element

__all__ = ["Bar", "Curve", "Row", "Span", "bars", "columns", "curves", "spans", "ticks"]

_WIDTH: Final = 760.0
_LEFT: Final = 92.0
_RIGHT: Final = 96.0
_TOP: Final = 10.0
_BOTTOM: Final = 40.0
_LINE: Final = 16.0
_LANE: Final = 9.0
#: Lanes of a row of spans, at most: what does not fit lies over what is in the last.
MAX_LANES: Final = 8
#: Columns that have a name of their own beneath.
MAX_NAMED: Final = 20
#: Columns that say their value when pointed at.
MAX_TOLD: Final = 200

Show = Callable[[float], str]


@frozen
class Curve:
    """
    A line of a plot.

    @ivar name: stands at its end.
    @ivar style: CSS classes, C{first} or C{second}.
    @ivar steps: it keeps its value until the next point.
    """

    name: str
    values: Sequence[float]
    style: str = "first"
    steps: bool = False


@frozen
class Bar:
    """
    One of a histogram.

    @ivar name: of the class, in words.
    """

    name: str
    value: float


@frozen
class Span:
    """
    Something that lasted for a while, or happened at a moment.

    @ivar until: L{None} for a moment.
    """

    begin: float
    until: float | None
    text: str


@frozen
class Row:
    """What happened of one kind."""

    name: str
    spans: Sequence[Span]


@frozen
class _Scale:
    """From values to places on the page."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        if self.high <= self.low:
            return self.begin
        share = (value - self.low) / (self.high - self.low)
        return round(self.begin + share * (self.end - self.begin), 1)


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """@return: round numbers from C{low} to C{high}, of which there are about so many."""
    if high <= low:
        return [low]
    wanted = (high - low) / about
    unit: float = 10.0 ** floor(log10(wanted))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= wanted * 0.999)
    return [
        number * step for number in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)
    ]


def _number(value: float) -> str:
    return f"{value:g}" if abs(value) < 10_000 else f"{value:,.0f}"


def _text(x: float, y: float, text: str, anchor: str = "start", style: str = "") -> Markup:
    return element(
        "text", text, x=round(x, 1), y=round(y, 1), text_anchor=anchor, class_=style or None
    )


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=style)


def _figure(name: str, title: str, told: str, height: float, *content: Markup) -> Markup:
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", told, id=f"{name}-desc"),
        *content,
        viewBox=f"0 0 {_WIDTH:g} {height:g}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        xmlns="http://www.w3.org/2000/svg",
    )


def _x_axis(scale: _Scale, y: float, label: str, top: float) -> list[Markup]:
    content = [_line(scale.begin, y, scale.end, y, "axis")]
    for value in ticks(scale.low, scale.high, 8):
        x = scale(value)
        content.append(_line(x, top, x, y, "grid"))
        content.append(_text(x, y + _LINE, _number(value), "middle"))
    content.append(_text((scale.begin + scale.end) / 2, y + 2 * _LINE, label, "middle"))
    return content


def _y_axis(scale: _Scale, show: Show, whole: bool = False) -> list[Markup]:
    content = []
    for value in ticks(scale.low, scale.high, 4):
        if whole and value != round(value):
            continue
        y = scale(value)
        content.append(_line(_LEFT, y, _WIDTH - _RIGHT, y, "grid"))
        content.append(_text(_LEFT - 8, y + 4, show(value), "end"))
    return content


def _apart(wanted: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """@return: places for labels, near those that are wanted and not on one another."""
    order = sorted(range(len(wanted)), key=lambda number: wanted[number])
    places = [0.0] * len(wanted)
    free = low
    for number in order:
        places[number] = free = max(wanted[number], free)
        free += least
    free = high
    for number in reversed(order):
        places[number] = free = min(places[number], free)
        free -= least
    return places


def curves(
    name: str,
    title: str,
    told: str,
    xs: Sequence[float],
    lines: Sequence[Curve],
    *,
    x_label: str,
    x_range: tuple[float, float],
    y_high: float | None = None,
    show: Show = _number,
    whole: bool = False,
    moments: Sequence[tuple[float, str]] = (),
    height: float = 220,
) -> Markup:
    """
    Lines over one axis.

    @param name: unique in the page.
    @param told: what the plot shows, in words.
    @param xs: the place of each value, in order.
    @param y_high: the upper end; that of the values, if not given.
    @param show: how values are written at the axis.
    @param whole: there are no halves of what is counted.
    @param moments: vertical lines, with what they are.
    """
    x = _Scale(*x_range, _LEFT, _WIDTH - _RIGHT)
    most = max((value for line in lines for value in line.values), default=0)
    top = _TOP + (_LINE if moments else 0)
    y = _Scale(0, (y_high or most) or 1, height - _BOTTOM, top)
    content = [*_y_axis(y, show, whole), *_x_axis(x, height - _BOTTOM, x_label, top)]
    for at, text in moments:
        content.append(_line(x(at), top, x(at), height - _BOTTOM, "moment"))
        # At the right stand the names of the lines.
        content.append(_text(x(at), top - 4, text, "end" if at > x.high * 0.8 else "middle"))
    ends = [y(line.values[-1]) + 4 if line.values else top for line in lines]
    places = _apart(ends, _LINE, top + 4, height - _BOTTOM + 4)
    for line, place in zip(lines, places, strict=True):
        points = [(x(at), y(value)) for at, value in zip(xs, line.values, strict=True)]
        if points:
            content.append(
                element("path", d=_path(points, line.steps), class_=f"curve {line.style}")
            )
            content.append(_text(_WIDTH - _RIGHT + 6, place, line.name, "start", line.style))
    return _figure(name, title, told, height, *content)


def _path(points: Sequence[tuple[float, float]], steps: bool) -> str:
    (x, y), *others = points
    to = "H{0:g}V{1:g}" if steps else "L{0:g} {1:g}"
    return "".join([f"M{x:g} {y:g}", *(to.format(*point) for point in others)])


def bars(
    name: str,
    title: str,
    told: str,
    found: Sequence[Bar],
    *,
    x_label: str,
    moments: Sequence[tuple[float, str]] = (),
    height: float = 220,
) -> Markup:
    """
    A histogram.

    @param moments: vertical lines: a place, counted in bars from the left, and its name.
    """
    base = height - _BOTTOM
    top = _TOP + _LINE
    y = _Scale(0, max((bar.value for bar in found), default=0) or 1, base, top)
    width = (_WIDTH - _LEFT - _RIGHT) / max(1, len(found))
    content = _y_axis(y, _number, whole=True)
    every = ceil(len(found) * 52 / (_WIDTH - _LEFT - _RIGHT))
    for number, bar in enumerate(found):
        x = _LEFT + number * width
        if bar.value:
            box = element(
                "rect",
                element("title", f"{bar.name}: {_number(bar.value)}"),
                x=round(x + 1, 1),
                y=y(bar.value),
                width=round(max(1, width - 2), 1),
                height=round(base - y(bar.value), 1),
                class_="bar",
            )
            content.append(box)
        if number % every == 0:
            content.append(_text(x + width, base + _LINE, bar.name, "middle"))
    content.append(_line(_LEFT, base, _WIDTH - _RIGHT, base, "axis"))
    content.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, base + 2 * _LINE, x_label, "middle"))
    places = _apart([_LEFT + at * width for at, _ in moments], 34, _LEFT, _WIDTH - _RIGHT + 20)
    for (at, text), place in zip(moments, places, strict=True):
        x = round(_LEFT + at * width, 1)
        content.append(_line(x, top, x, base, "moment"))
        content.append(_text(place, top - 4, text, "middle"))
    return _figure(name, title, told, height, *content)


def columns(
    name: str,
    title: str,
    told: str,
    found: Sequence[Bar],
    *,
    show: Show = _number,
    height: float = 150,
) -> Markup:
    """
    One column for each of many, the highest first.

    @param show: how values are written.
    """
    ordered = sorted(found, key=lambda bar: (-bar.value, bar.name))
    base = height - _BOTTOM
    y = _Scale(0, max((bar.value for bar in found), default=0) or 1, base, _TOP)
    width = (_WIDTH - _LEFT - _RIGHT) / max(1, len(ordered))
    content = _y_axis(y, show, whole=True)
    if len(ordered) <= MAX_TOLD:
        gap = min(2.0, width / 4)
        for number, bar in enumerate(ordered):
            box = element(
                "rect",
                element("title", f"{bar.name}: {show(bar.value)}"),
                x=round(_LEFT + number * width + gap / 2, 2),
                y=y(bar.value),
                width=round(width - gap, 2),
                height=round(base - y(bar.value), 1),
                class_="bar",
            )
            content.append(box)
    else:
        outline = [f"M{_LEFT:g} {base:g}"]
        for number, bar in enumerate(ordered):
            outline.append(f"V{y(bar.value):g}H{_LEFT + (number + 1) * width:.1f}")
        content.append(element("path", d="".join([*outline, f"V{base:g}Z"]), class_="bar"))
    content.append(_line(_LEFT, base, _WIDTH - _RIGHT, base, "axis"))
    if len(ordered) <= MAX_NAMED:
        for number, bar in enumerate(ordered):
            place = _LEFT + (number + 0.5) * width
            content.append(_text(place, base + _LINE, _short(bar.name, width), "middle"))
        label = "nodes, the highest first"
    else:
        label = f"{len(ordered):,} nodes, the highest first"
    content.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, base + 2 * _LINE, label, "middle"))
    if ordered:
        said = {"most": ordered[0], "median": ordered[len(ordered) // 2], "least": ordered[-1]}
        for number, (text, bar) in enumerate(said.items()):
            place = _TOP + 8 + number * _LINE
            content.append(_text(_WIDTH - _RIGHT + 6, place, f"{text} {show(bar.value)}"))
    return _figure(name, title, told, height, *content)


def _short(name: str, width: float) -> str:
    letters = max(1, int(width / 7))
    return name if len(name) <= letters else name[: max(1, letters - 1)] + "…"


def spans(
    name: str,
    title: str,
    told: str,
    rows: Sequence[Row],
    *,
    x_label: str,
    x_range: tuple[float, float],
) -> Markup:
    """What lasted how long, a row for each kind, over one axis."""
    x = _Scale(*x_range, _LEFT, _WIDTH - _RIGHT)
    shapes: list[Markup] = []
    labels: list[Markup] = []
    place = _TOP
    for row in rows:
        lanes = _lanes(row.spans)
        height = (max(lanes, default=0) + 1) * _LANE
        for span, lane in zip(row.spans, lanes, strict=True):
            shapes.append(_shape(span, x, place + lane * _LANE))
        labels.append(_text(_LEFT - 8, place + height / 2 + 4, _short(row.name, _LEFT), "end"))
        labels.append(_text(_WIDTH - _RIGHT + 6, place + height / 2 + 4, f"{len(row.spans):,}"))
        place += max(height, _LINE) + 6
    height = place + _BOTTOM
    axis = _x_axis(x, place, x_label, _TOP)
    return _figure(name, title, told, height, *axis, *shapes, *labels)


def _lanes(found: Sequence[Span]) -> list[int]:
    """@return: a lane for each, so that few lie upon one another."""
    ends: list[float] = []
    lanes = []
    for span in found:
        until = span.begin if span.until is None else span.until
        lane = next((number for number, end in enumerate(ends) if end < span.begin), len(ends))
        lane = min(lane, MAX_LANES - 1)
        if lane == len(ends):
            ends.append(until)
        else:
            ends[lane] = max(ends[lane], until)
        lanes.append(lane)
    return lanes


def _shape(span: Span, x: _Scale, y: float) -> Markup:
    title = element("title", span.text)
    begin = x(span.begin)
    if span.until is None:
        half = (_LANE - 2) / 2
        corners = f"M{begin - 4:g} {y + half:g}l4 {-half:g}l4 {half:g}l-4 {half:g}Z"
        return element("path", title, d=corners, class_="instant")
    return element(
        "rect",
        title,
        x=begin,
        y=y,
        width=round(max(2, x(span.until) - begin), 1),
        height=_LANE - 2,
        class_="span",
    )
