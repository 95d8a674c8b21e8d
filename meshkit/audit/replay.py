"""
The trace of a pass: what was decided for each object, and of what; and the same decided again.
Pure.

A trace is a text of JSON documents, a line each.  The first says of which pass it is, and how
objects were looked after::

    {"trace": "meshkit-audit-trace/1", "run": 7, "begun_ns": ..., "policy": {...}}

Each other one is an object whose turn it was: what was known of it, what was decided, and what
came of it (L{Line})::

    {"at_ns": ..., "facts": {...}, "sight": {...}, "budget": {...}, "decision": {...}, ...}

As decisions depend on nothing else (L{meshkit.audit.decisions}), they can be made again, by the
code of today.  Where that decides differently, either it was changed, or the trace was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from math import isclose
from typing import Any, Final

import msgspec
from attrs import frozen
from msgspec import Struct

from meshkit.audit.decisions import (
    Budget,
    Decision,
    ObjectFacts,
    Policy,
    Sight,
    decide,
)
from meshkit.errors import TraceUnusable

__all__ = ["VERSION", "Difference", "Happened", "Head", "Line", "Replayed", "encode", "replay"]

#: What the first line of a trace says, and the version.
VERSION: Final = "meshkit-audit-trace/1"
_KIND: Final = "meshkit-audit-trace/"

#: What is summed up of the lines of a trace.
FIGURES: Final = ("repaired", "not_repaired", "placed", "deferred", "read", "written")

#: Urgencies are sums of floats, which differ in their last digits from machine to machine.
_TOLERANCE: Final = 1e-9


class Head(Struct, frozen=True, kw_only=True):
    """
    The first line of a trace.

    @ivar trace: L{VERSION}.
    @ivar run: which pass.
    @ivar begun_ns: when it was begun, in nanoseconds since 1970.
    @ivar policy: how objects were looked after.
    """

    trace: str = VERSION
    run: int
    begun_ns: int
    policy: Policy


class Happened(Struct, frozen=True, omit_defaults=True):
    """
    What came of a decision.

    @ivar placed: who was given which share anew, as text.
    @ivar left: which shares are still missing, and why.
    @ivar lied: who gave for which share something else than the manifest says, as text.
    @ivar read: bytes that were read for it.
    @ivar written: bytes that were written.
    @ivar error: why it failed.
    @ivar conflict: somebody else has moved shares meanwhile, so that nothing was done.
    """

    placed: dict[int, str] = {}
    left: dict[int, str] = {}
    lied: dict[int, str] = {}
    read: int = 0
    written: int = 0
    error: str | None = None
    conflict: str | None = None

    @property
    def failed(self) -> bool:
        """Was something not done that was to be, and not because others were quicker?"""
        return self.error is not None or bool(self.left)


class Line(Struct, frozen=True, omit_defaults=True):
    """
    What was decided for an object.

    @ivar at_ns: when, in nanoseconds since 1970.
    @ivar facts: what was known of it.
    @ivar sight: what was known beyond it.
    @ivar budget: what might still be done in the pass.
    @ivar decision: what was decided.
    @ivar happened: what came of it, if something was done.
    """

    at_ns: int
    facts: ObjectFacts
    sight: Sight
    budget: Budget
    decision: Decision
    happened: Happened | None = None


_encoder: Final = msgspec.json.Encoder()
_lines: Final = msgspec.json.Decoder(Line)


def encode(line: Head | Line) -> bytes:
    """@return: a line of a trace, without its end."""
    return _encoder.encode(line)


def read_head(raw: bytes) -> Head:
    """
    @raise TraceUnusable: if this is no first line of a trace, or of a version that is not known.
    """
    try:
        named = msgspec.json.decode(raw, type=_Named)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise TraceUnusable("this is no trace of a pass: its first line does not say so") from None
    if named.trace != VERSION:
        raise TraceUnusable(
            f"the trace is {named.trace!r}, and this version of meshkit replays {VERSION!r}: use "
            f"the version that wrote it"
            if named.trace.startswith(_KIND)
            else "this is no trace of a pass: its first line does not say so"
        )
    try:
        return msgspec.json.decode(raw, type=Head)
    except (msgspec.MsgspecError, UnicodeDecodeError) as e:
        raise TraceUnusable(f"the first line of the trace is damaged: {e}") from None


class _Named(Struct):
    trace: str


def read_line(raw: bytes, number: int) -> Line:
    """
    @param number: of the line, the first one being 1.
    @raise TraceUnusable: if it is none.
    """
    try:
        return _lines.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError) as e:
        raise TraceUnusable(f"line {number} of the trace is damaged: {e}") from None


# --- replaying ---------------------------------------------------------------------------


@frozen
class Difference:
    """
    Something that would be decided differently.

    @ivar line: of the trace, the first one being 1.
    @ivar object: its content id, in hex.
    @ivar field: of the decision.
    @ivar then: what the trace says.
    @ivar now: what this code says.
    """

    line: int
    object: str
    field: str
    then: Any
    now: Any

    @property
    def text(self) -> str:
        """The same in a sentence."""
        return (
            f"line {self.line}, object {self.object[:16]}...: {self.field} was {self.then!r}, and "
            f"would be {self.now!r}"
        )


@frozen
class Replayed:
    """
    What came of a replay.

    @ivar head: of the trace.
    @ivar decisions: how many were made again.
    @ivar differences: where they differ, at most as many as were asked for.
    @ivar differing: how many decisions differ.
    @ivar figures: what the lines come to, by the names of L{meshkit.audit.state.Metrics}.
    """

    head: Head
    decisions: int
    differences: tuple[Difference, ...]
    differing: int
    figures: Mapping[str, int | Mapping[str, int]]

    @property
    def same(self) -> bool:
        """Is all as it was?"""
        return not self.differing


def replay(lines: Iterable[bytes], limit: int = 100) -> Replayed:
    """
    Make the decisions of a pass again.

    @param lines: of a trace.
    @param limit: differences that are named.
    @raise TraceUnusable: if it is none, or of a version that is not known.
    """
    each = iter(lines)
    head = read_head(next(each, b""))
    named: list[Difference] = []
    sums: Counter[str] = Counter()
    codes: Counter[str] = Counter()
    decisions = differing = 0
    for number, raw in enumerate(each, start=2):
        line = read_line(raw, number)
        decisions += 1
        codes[line.decision.code] += 1
        sums.update(_sums(line))
        again = decide(line.facts, head.policy, line.sight, line.budget)
        found = list(_differences(number, line, again))
        differing += bool(found)
        named.extend(found[: max(0, limit - len(named))])
    figures = {name: sums[name] for name in FIGURES} | {"codes": dict(sorted(codes.items()))}
    return Replayed(head, decisions, tuple(named), differing, figures)


def _sums(line: Line) -> dict[str, int]:
    """@return: what one object adds to the figures of its pass."""
    done = line.happened or Happened()
    return {
        "repaired": bool(done.placed),
        "not_repaired": done.failed,
        "placed": len(done.placed),
        "deferred": len(line.decision.deferred),
        "read": done.read,
        "written": done.written,
    }


def _differences(number: int, line: Line, again: Decision) -> Iterator[Difference]:
    for name in Decision.__struct_fields__:
        then, now = getattr(line.decision, name), getattr(again, name)
        same = isclose(then, now, rel_tol=_TOLERANCE) if name == "urgency" else then == now
        if not same:
            yield Difference(number, line.facts.object, name, then, now)
