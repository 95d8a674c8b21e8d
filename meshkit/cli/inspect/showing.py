"""What is in the database, as people and as programs are shown it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from meshkit.audit.decisions import ShareFacts
from meshkit.audit.state import Event, ObjectState, Run
from meshkit.cli.output import line, table
from meshkit.identity.keys import PublicKey
from meshkit.runtime.moments import rfc3339

#: Digits of an id by which people tell objects apart.
SHORT: Final = 16

_SECONDS: Final = 10**9
_UNITS: Final = ((86_400 * 365.25, "years"), (86_400, "days"), (3_600, "hours"), (60, "minutes"))


def moment(seconds: int | None) -> str | None:
    """@return: seconds of Unix time, as RFC 3339 writes it; L{None} stays."""
    return None if seconds is None else rfc3339(seconds * _SECONDS)


def span(seconds: float) -> str:
    """@return: about how long that is, for people."""
    for length, unit in _UNITS:
        if seconds >= 2 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} seconds"


def run_fields(run: Run) -> dict[str, Any]:
    """@return: a pass, for JSON."""
    return {
        "run": run.id,
        "state": run.state,
        "forced": run.forced,
        "scheduler": run.holder.hex(),
        "fence": run.fence,
        "begun": rfc3339(run.begun_ns),
        "ended": None if run.ended_ns is None else rfc3339(run.ended_ns),
        "error": run.error,
        "policy": msgspec.to_builtins(run.policy),
        "metrics": {
            **dict.fromkeys(run.metrics.__struct_fields__, 0),
            "outcomes": {},
            "codes": {},
            **msgspec.to_builtins(run.metrics),
        },
    }


def event_fields(event: Event) -> dict[str, Any]:
    """@return: something that happened, for JSON."""
    return {
        "number": event.number,
        "at": rfc3339(event.at_ns),
        "kind": event.kind,
        "object": None if event.object is None else event.object.hex(),
        "share": event.share,
        "peer": None if event.peer is None else PublicKey(event.peer).text,
        "text": event.text,
    }


def object_fields(state: ObjectState) -> dict[str, Any]:
    """@return: what is known of an object, for JSON."""
    return {
        "object": state.content_id.hex(),
        "run": state.run,
        "version": state.version,
        "required": state.required,
        "total": state.total,
        "good": state.good,
        "action": state.action,
        "code": state.code,
        "reason": state.reason,
        "expected_seconds_to_loss": state.urgency,
        "due": moment(state.due_at),
        "failed_repairs": state.failures,
        "not_before": moment(state.not_before) if state.not_before else None,
        "repaired": moment(state.repaired_at),
        "shares": [_share_fields(each) for each in state.shares],
    }


def _share_fields(share: ShareFacts) -> dict[str, Any]:
    return {
        "share": share.number,
        "peer": share.peer,
        "outcome": share.outcome,
        "asked": moment(share.at),
        "seen": moment(share.good_at),
        "silent_since": moment(share.since),
    }


def tell(rows: Sequence[tuple[str, object]]) -> None:
    """Print names with their values; those that have none are left out."""
    shown = [(name, str(value)) for name, value in rows if value is not None and value != ""]
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        line(f"{name:<{width}}  {value}")


def counts(values: dict[str, int]) -> str:
    """@return: how many there are of each, for people."""
    return ", ".join(f"{count} {name}" for name, count in values.items() if count)


def tell_events(events: Sequence[Event], runs: Sequence[int] | None = None) -> None:
    """
    @param runs: the pass of each, if they are of several.
    """
    table(
        (*(() if runs is None else ("pass",)), "at", "what", "object", "share", "why"),
        [
            (
                *(() if runs is None else (str(runs[number]),)),
                rfc3339(each.at_ns),
                each.kind,
                "" if each.object is None else each.object.hex()[:SHORT],
                "" if each.share is None else str(each.share),
                _why(each),
            )
            for number, each in enumerate(events)
        ],
    )


def _why(event: Event) -> str:
    if event.peer is None:
        return event.text
    return f"{PublicKey(event.peer).text}: {event.text}"
