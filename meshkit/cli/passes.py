"""Waiting for a pass over objects, which runs in the node, and showing what it found."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

from meshkit.cli.door import Door, segment
from meshkit.cli.health import EXIT_DEGRADED, EXIT_LOST, size
from meshkit.cli.output import line, print_json
from meshkit.errors import DoorUnreachable, PassUnderWay, RemoteError

#: Digits of an id by which people tell objects apart; the node takes at least eight.
SHORT: Final = 16
#: Seconds that one question waits for the end.
_WAIT: Final = 10.0
#: What is done about an object, as it is said to people.
_ACTIONS: Final = {
    "none": "Nothing to do",
    "wait": "Put off",
    "repair": "Repair",
    "move": "Move",
    "lost": "Given up",
}


def exit_code(run: Mapping[str, Any]) -> int:
    """@return: what a command that has shown a run ends with: as C{meshkit object check}."""
    if run["state"] not in ("running", "done"):
        return 1
    return EXIT_LOST if run["lost"] else EXIT_DEGRADED if run["degraded"] else 0


async def begin(door: Door, path: str, body: Mapping[str, Any]) -> Any:
    """
    Ask for a pass.  If one is under way, it is waited for first.

    @return: the run, as it was accepted.
    """
    while True:
        try:
            return (await door.post(path, body)).data
        except RemoteError as e:
            if e.code != PassUnderWay.code:
                raise
        await door.get("/v1/audit/runs/latest", wait=_WAIT)


async def follow(door: Door, run: Mapping[str, Any]) -> Any:
    """
    @param run: as it was accepted.
    @return: the run, as it ended.
    """
    path = f"/v1/audit/runs/{segment(run['run'])}"
    found: Any = run
    while found["ended"] is None or "seen" not in found:
        try:
            found = (await door.get(path, wait=_WAIT)).data
        except (DoorUnreachable, RemoteError) as e:
            if isinstance(e, RemoteError) and e.code != "NOT_READY":
                raise
            door = await door.reopened()
    return found


def tell_run(run: Mapping[str, Any]) -> None:
    """Show a run and what it found."""
    for seen in run["seen"]:
        _tell_object(seen)
    more = run["objects"] - len(run["seen"])
    if more > 0:
        line(f"... and {_several(more, 'object')} more.")
    found = ", ".join(f"{count} {name}" for name, count in run["outcomes"].items() if count)
    line(
        f"Run {run['run']}, {run['state']}: {_several(run['objects'], 'object')}, "
        f"{_several(run['shares'], 'share')} audited{': ' + found if found else ''}."
    )
    if run["placed"]:
        line(
            f"{_several(run['placed'], 'share')} made anew: {size(run['read'])} read, "
            f"{size(run['written'])} sent."
        )
    if run["deferred"]:
        line(f"{_several(run['deferred'], 'share')} in the next pass.")
    if run["error"]:
        line(f"It failed: {run['error']}")


def _tell_object(seen: Mapping[str, Any]) -> None:
    line(
        f"Object {seen['object'][:SHORT]}, {seen['health']}: {seen['good']} of "
        f"{len(seen['shares'])} shares are good, and {seen['required']} suffice. "
        f"{_ACTIONS.get(seen['action'], seen['action'])}, {seen['code']}: {seen['reason']}."
    )
    for share in seen["shares"]:
        if share["outcome"] != "success":
            what = share["outcome"] or "not asked about"
            reason = f": {share['reason']}" if share["reason"] else ""
            line(f"  share {share['share']}  {what}  {share['peer'] or 'nobody'}{reason}")
    for placed in seen["placed"]:
        line(f"  share {placed['share']}  made anew, at {placed['peer']}")
    for left in seen["left"]:
        line(f"  share {left['share']}  still missing: {left['problem']}")
    if seen["problem"]:
        line(f"  not done: {seen['problem']}")


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def tell(found: Mapping[str, Any], detached: bool, as_json: bool) -> None:
    """Show a run that was asked for, and end with its exit code."""
    if as_json:
        print_json(found)
    elif detached:
        line(f"Run {found['run']}. See: meshkit audit show {found['run']}")
    else:
        tell_run(found)
    sys.exit(0 if detached else exit_code(found))
