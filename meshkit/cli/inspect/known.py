"""C{meshkit inspect object}, C{peer} and C{degraded}."""

from __future__ import annotations

import re
from typing import Any, Final

import click

from meshkit.audit import state
from meshkit.audit.standings import find_peer, notes_of
from meshkit.audit.state import Event, ObjectState
from meshkit.cli.inspect.reading import opened, state_option
from meshkit.cli.inspect.showing import (
    SHORT,
    event_fields,
    moment,
    object_fields,
    span,
    tell,
    tell_events,
)
from meshkit.cli.output import json_option, line, print_json, table
from meshkit.errors import NotFound
from meshkit.identity.keys import PublicKey

#: Events that are shown.
_EVENTS: Final = 20
#: Objects that are listed if nobody says how many, and at most.
_LISTED: Final = 100
_MAX_LISTED: Final = 100_000

_PREFIX: Final = re.compile(f"[0-9a-f]{{{state.MIN_PREFIX},64}}")


def _prefix(_context: click.Context, _parameter: click.Parameter, text: str) -> str:
    if not _PREFIX.fullmatch(text.lower()):
        raise click.BadParameter(
            f"give the id of an object, or its first {state.MIN_PREFIX} digits or more"
        )
    return text.lower()


@click.command("object")
@click.argument("object_id", metavar="OBJECT", callback=_prefix)
@state_option
@json_option
@click.pass_obj
def show_object(flag: str | None, object_id: str, state_file: str | None, as_json: bool) -> None:
    """
    What is known of an object, and what was done for it.

    OBJECT is its id, or its first eight digits or more.
    """
    with opened(flag, state_file) as connection:
        found = state.resolve(connection, object_id)
        events = state.events_about(connection, object_=found.content_id, limit=_EVENTS)
    if as_json:
        print_json({**object_fields(found), "events": _event_list(events)})
        return
    tell(
        [
            ("object", found.content_id.hex()),
            ("state", f"{found.code}: {found.reason}"),
            ("good", f"{found.good} of {found.total}, and {found.required} suffice"),
            ("loss", f"expected in {span(found.urgency)}, if nothing is done"),
            ("looked at", f"in pass {found.run}; again {moment(found.due_at)}"),
            ("repaired", moment(found.repaired_at)),
            (
                "repairs",
                f"{found.failures} failed in a row; not before {moment(found.not_before)}"
                if found.failures
                else None,
            ),
        ]
    )
    line("")
    table(
        ("share", "last verdict", "asked", "seen", "peer"),
        [
            (
                str(each.number),
                each.outcome or "",
                moment(each.at) or "never",
                moment(each.good_at) or "never",
                each.peer or "nobody",
            )
            for each in found.shares
        ],
    )
    _tell_about(events)


def _event_list(events: list[tuple[int, Event]]) -> list[dict[str, Any]]:
    return [{"run": run, **event_fields(event)} for run, event in events]


def _tell_about(events: list[tuple[int, Event]]) -> None:
    if events:
        line("")
        tell_events([event for _, event in events], [run for run, _ in events])


@click.command("peer")
@click.argument("key", metavar="KEY")
@state_option
@json_option
@click.pass_obj
def show_peer(flag: str | None, key: str, state_file: str | None, as_json: bool) -> None:
    """
    What is known of a storage peer, and which objects it has shares of.

    KEY is its id, as 'meshkit object stat' shows it.
    """
    peer = PublicKey.parse(key)
    with opened(flag, state_file) as connection:
        standing = find_peer(connection, peer)
        owed = notes_of(connection, peer)
        seen = state.seen_peer(connection, peer.raw)
        held = state.held_by(connection, peer.text)
        events = state.events_about(connection, peer=peer.raw, limit=_EVENTS)
    if standing is None and seen is None and not held:
        raise NotFound(f"no pass has asked a peer {peer.text}")
    fields = {
        "peer": peer.text,
        "asked": None if seen is None else moment(seen.asked),
        "away_since": None if seen is None else moment(seen.since),
        "score": None if standing is None else standing.audits.score,
        "successes": 0 if standing is None else standing.successes,
        "failures": 0 if standing is None else standing.failures,
        "unknowns": 0 if standing is None else standing.unknowns,
        "offlines": 0 if standing is None else standing.offlines,
        "last_failure": None if standing is None else moment(standing.last_failure),
        "problem": None if standing is None else standing.problem,
        "owes": len(owed),
    }
    if as_json:
        print_json(
            {
                **fields,
                "shares": [
                    {
                        "object": object_.hex(),
                        "share": share.number,
                        "outcome": share.outcome,
                        "seen": moment(share.good_at),
                    }
                    for object_, share in held
                ],
                "events": _event_list(events),
            }
        )
        return
    tell(
        [
            ("peer", fields["peer"]),
            ("asked", fields["asked"]),
            ("away since", fields["away_since"]),
            ("score", None if standing is None else f"{standing.audits.score:.3f}"),
            (
                "audits",
                f"{fields['successes']} success, {fields['failures']} failure, "
                f"{fields['unknowns']} unknown, {fields['offlines']} offline",
            ),
            ("failed last", fields["last_failure"]),
            ("problem", fields["problem"]),
            ("owes", f"{len(owed)} answers" if owed else None),
            ("shares", len(held)),
        ]
    )
    wrong = [(object_, share) for object_, share in held if share.outcome != "success"]
    if wrong:
        line("")
        table(
            ("object", "share", "last verdict", "seen"),
            [
                (
                    object_.hex()[:SHORT],
                    str(share.number),
                    share.outcome or "never asked",
                    moment(share.good_at) or "never",
                )
                for object_, share in wrong[:_LISTED]
            ],
        )
    _tell_about(events)


@click.command()
@click.option(
    "--limit",
    type=click.IntRange(min=1, max=_MAX_LISTED),
    default=_LISTED,
    metavar="N",
    help=f"List so many at most [default: {_LISTED}].",
)
@state_option
@json_option
@click.pass_obj
def degraded(flag: str | None, limit: int, state_file: str | None, as_json: bool) -> None:
    """List the objects that are not wholly healthy, the most urgent first."""
    with opened(flag, state_file) as connection:
        found, count = state.degraded(connection, limit)
        looked_at = sum(state.codes(connection).values())
    if as_json:
        print_json(
            {
                "objects": [_without_shares(each) for each in found],
                "degraded": count,
                "looked_at": looked_at,
            }
        )
        return
    if found:
        table(
            ("object", "good", "needs", "state", "loss expected in", "why"),
            [
                (
                    each.content_id.hex()[:SHORT],
                    f"{each.good} of {each.total}",
                    str(each.required),
                    each.code,
                    span(each.urgency),
                    each.reason,
                )
                for each in found
            ],
        )
    line(f"{count} of {looked_at} objects that were looked at are not wholly healthy.")


def _without_shares(found: ObjectState) -> dict[str, Any]:
    fields = object_fields(found)
    del fields["shares"]
    return fields
