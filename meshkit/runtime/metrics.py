"""
What a node counts and measures, and how Prometheus is told.

Each node has its own L{Metrics}; nothing is kept in the process beside it.  Most figures
are in what parts keep of themselves anyway: these are asked for when somebody looks, and
cost nothing until then.  What only happens (how long something took, what it ended in) is
added up in a L{Counter} or a L{Histogram}, on the reactor's thread.

Names are C{meshkit_<part>_<what>_<unit>}; units are seconds and bytes, and what only grows
ends in C{_total}.

B{Nobody can make it grow.}  A label is declared with the values that it may have: names of
operations, codes of errors.  Any other value is counted as L{OTHER}, and so is all beyond
L{MAX_SERIES} combinations of one metric.  Keys of peers, names of tokens and texts of any
kind are never labels.

Source: Prometheus, "Metric and label naming" and "Exposition formats" (text, 0.0.4).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any, Final

from attrs import define, field
from twisted.logger import Logger
from zope.interface import implementer

from meshkit.errors import MeshkitError
from meshkit.interfaces import IMetrics

__all__ = [
    "CODES",
    "CONTENT_TYPE",
    "MAX_SERIES",
    "OTHER",
    "SECONDS",
    "Counter",
    "Histogram",
    "Metrics",
    "PartMetrics",
    "Reading",
]

#: Media type of L{Metrics.exposition}.
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
#: Combinations of labels of one metric, beyond which all others are one.
MAX_SERIES: Final = 1_000
#: What a label says in place of a value that was not declared.
OTHER: Final = "other"
#: Upper ends, in seconds, of what is usual: from a look into memory to a slow disk.
SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_TOTAL: Final = "_total"
_UNITS: Final = ("_seconds", "_bytes")

#: One combination of values, in the order of the labels.
Values = tuple[str, ...]
#: What somebody gives who is asked: a number, or one for each value of the one label, or
#: for each combination of values.
Reading = float | Mapping[str, float] | Mapping[Values, float]


class _Codes:
    """The codes of every error that is declared anywhere, and C{OK}."""

    def __init__(self) -> None:
        self._known: frozenset[str] = frozenset()

    def __contains__(self, code: object) -> bool:
        if code not in self._known:
            # A part of somebody else's may have been imported since.
            self._known = frozenset({"OK", *_codes_of(MeshkitError)})
        return code in self._known


def _codes_of(error: type[MeshkitError]) -> Iterator[str]:
    yield error.code
    for each in error.__subclasses__():
        yield from _codes_of(each)


#: The values of a label C{code}.
CODES: Final[Container[str]] = _Codes()


class _Folded:
    """The labels of one metric, and which combinations of them are kept apart."""

    def __init__(self, labels: Mapping[str, Container[str]]) -> None:
        self.names = tuple(labels)
        self._allowed = tuple(labels.values())
        self._others = (OTHER,) * len(labels)

    def fold(self, values: Sequence[str], kept: Container[Values], count: int) -> Values:
        """
        @param kept: the combinations that are there.
        @param count: how many they are.
        @raise ValueError: if it is not one value for each label.
        """
        folded = tuple(
            value if value in allowed else OTHER
            for value, allowed in zip(values, self._allowed, strict=True)
        )
        return self._others if folded not in kept and count >= MAX_SERIES else folded


class Counter:
    """What only grows.  Made by L{PartMetrics.counter}."""

    def __init__(self, labels: Mapping[str, Container[str]]) -> None:
        self._labels = _Folded(labels)
        self._counts: dict[Values, float] = {} if labels else {(): 0}

    def add(self, *values: str, by: float = 1) -> None:
        """
        @param values: of the labels, in the order in which they were declared.
        @param by: how much more it is.
        """
        counts = self._counts
        key = values if values in counts else self._labels.fold(values, counts, len(counts))
        counts[key] = counts.get(key, 0) + by

    def samples(self) -> Mapping[Values, float]:
        """@return: the counts so far."""
        return self._counts


@define
class _Series:
    """
    @ivar counts: how many fell into each bucket; the last one has no end.
    @ivar total: the sum of what was observed.
    """

    counts: list[int]
    total: float = 0.0


class Histogram:
    """How what is measured is spread.  Made by L{PartMetrics.histogram}."""

    def __init__(self, bounds: Sequence[float], labels: Mapping[str, Container[str]]) -> None:
        if list(bounds) != sorted(bounds) or not bounds:
            raise ValueError("the bounds of a histogram have to ascend")
        self.bounds = tuple(bounds)
        self._labels = _Folded(labels)
        self._series: dict[Values, _Series] = {}
        if not labels:
            self._series[()] = self._empty()

    def _empty(self) -> _Series:
        return _Series([0] * (len(self.bounds) + 1))

    def observe(self, value: float, *values: str) -> None:
        """
        @param value: in the unit of the name; a bucket includes its bound.
        @param values: of the labels, in the order in which they were declared.
        """
        series = self._series.get(values)
        if series is None:
            key = self._labels.fold(values, self._series, len(self._series))
            series = self._series.get(key)
            if series is None:
                series = self._series[key] = self._empty()
        series.counts[bisect_left(self.bounds, value)] += 1
        series.total += value

    def samples(self) -> Mapping[Values, _Series]:
        """@return: what was observed so far."""
        return self._series


@define(eq=False)
class _Metric:
    """
    One name and what is behind it.

    @ivar kind: C{counter}, C{gauge} or C{histogram}.
    @ivar read: for what is asked for when somebody looks.
    """

    name: str
    doc: str
    kind: str
    labels: _Folded
    source: Counter | Histogram | None = None
    read: Callable[[], Reading] | None = None

    def numbers(self) -> Mapping[Values, float]:
        if isinstance(self.source, Counter):
            return self.source.samples()
        assert self.read is not None
        reading = self.read()
        given = reading if isinstance(reading, Mapping) else {(): reading}
        folded: dict[Values, float] = {}
        for said, number in given.items():
            values = (said,) if isinstance(said, str) else said
            key = self.labels.fold(values, folded, len(folded))
            folded[key] = folded.get(key, 0) + number
        return folded


class Metrics:
    """All that one node counts."""

    _log = Logger()

    def __init__(self, further: Callable[[], Sequence[Any]] = tuple) -> None:
        """
        @param further: gives collectors of C{prometheus_client} whose figures are told as
            well, such as the one that knows the process.  Called once, when somebody looks
            for the first time.
        """
        self._further = further
        self._metrics: dict[str, _Metric] = {}
        self._registry: Any = None

    def part(self, name: str) -> PartMetrics:
        """@return: what counts under the name of a part."""
        return PartMetrics(self, name)

    def add(self, metric: _Metric) -> None:
        """@raise ValueError: if there is one of that name."""
        # For Prometheus a counter is of the family that is called as it is without its end.
        family = metric.name.removesuffix(_TOTAL)
        if family in self._metrics:
            raise ValueError(f"the metric {metric.name} is declared twice")
        self._metrics[family] = metric

    @property
    def names(self) -> list[str]:
        """The names of what is counted."""
        return [metric.name for metric in self._metrics.values()]

    def exposition(self) -> bytes:
        """
        @return: all of it, as text of the type L{CONTENT_TYPE}.  What cannot be read is
            logged and left out.
        """
        # Not needed before, and nobody waits for its import who is never scraped.
        from prometheus_client import CollectorRegistry, generate_latest

        if self._registry is None:
            self._registry = CollectorRegistry(auto_describe=False)
            self._registry.register(self)
            for collector in self._further():
                self._registry.register(collector)
        text: bytes = generate_latest(self._registry)
        return text

    def collect(self) -> Iterator[Any]:
        """For C{prometheus_client}.  @return: families of samples."""
        for metric in self._metrics.values():
            try:
                family = _family(metric)
            except Exception:
                # A part with a fault must not hide the others.
                self._log.failure("the metric {metric} cannot be read", metric=metric.name)
            else:
                yield family


def _family(metric: _Metric) -> Any:
    from prometheus_client import core, utils

    labels = metric.labels.names
    if isinstance(metric.source, Histogram):
        spread = core.HistogramMetricFamily(metric.name, metric.doc, labels=labels)
        ends = [*map(utils.floatToGoString, metric.source.bounds), "+Inf"]
        for values, series in sorted(metric.source.samples().items()):
            seen = 0
            buckets = []
            for end, count in zip(ends, series.counts, strict=True):
                seen += count
                buckets.append((end, seen))
            spread.add_metric(values, buckets, series.total)
        return spread
    kind = core.CounterMetricFamily if metric.kind == "counter" else core.GaugeMetricFamily
    family = kind(metric.name.removesuffix(_TOTAL), metric.doc, labels=labels)
    for values, number in sorted(metric.numbers().items()):
        family.add_metric(values, number)
    return family


@implementer(IMetrics)
@define
class PartMetrics:
    """What one part counts: see L{IMetrics}."""

    _all: Metrics
    _part: str = field()

    def counter(self, name: str, doc: str, /, **labels: Container[str]) -> Counter:
        counter = Counter(labels)
        self._add(name, doc, "counter", labels, source=counter)
        return counter

    def histogram(
        self, name: str, doc: str, bounds: Sequence[float] = (), /, **labels: Container[str]
    ) -> Histogram:
        histogram = Histogram(bounds or SECONDS, labels)
        self._add(name, doc, "histogram", labels, source=histogram)
        return histogram

    def count(
        self, name: str, doc: str, read: Callable[[], Reading], /, **labels: Container[str]
    ) -> None:
        self._add(name, doc, "counter", labels, read=read)

    def gauge(
        self, name: str, doc: str, read: Callable[[], Reading], /, **labels: Container[str]
    ) -> None:
        self._add(name, doc, "gauge", labels, read=read)

    def _add(
        self, name: str, doc: str, kind: str, labels: Mapping[str, Container[str]], **source: Any
    ) -> None:
        full = f"meshkit_{self._part}_{name}"
        if not _NAME.fullmatch(full) or not doc:
            raise ValueError(f"{full!r} needs words of lower-case letters and digits, and a doc")
        if (kind == "counter") is not name.endswith(_TOTAL):
            raise ValueError(f"{full}: the names of counters, and of no others, end in {_TOTAL}")
        if kind == "histogram" and not name.endswith(_UNITS):
            raise ValueError(f"{full}: the name of a histogram ends in {' or '.join(_UNITS)}")
        self._all.add(_Metric(full, doc, kind, _Folded(labels), **source))
