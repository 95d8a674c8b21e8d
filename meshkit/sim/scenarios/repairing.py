"""
Files are stored at nodes that go away, lose what they keep, and lie to those who audit them; and
are made whole again.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from meshkit.sim.invariants import USUAL
from meshkit.sim.invariants.explained import Explained
from meshkit.sim.invariants.healthy import ROOM, Healthy
from meshkit.sim.invariants.kept import Kept
from meshkit.sim.invariants.lent import Lent
from meshkit.sim.invariants.placed import Placed
from meshkit.sim.invariants.readable import Readable
from meshkit.sim.invariants.remembered import Remembered
from meshkit.sim.liars import AUDITED, KEEPING
from meshkit.sim.nemesis import disturb
from meshkit.sim.running import Scenario
from meshkit.sim.scenarios.drawing import names, neighbours
from meshkit.sim.schedule import Action, Member, Plan

__all__ = ["REPAIR"]

_SECONDS: Final = 90.0
#: Any two of four, at five peers or more.
_SCHEME: Final = "2+2"
#: Of the first member the files are; the second may look after them as well.
_OWNER, _WATCHER = 0, 1
#: In which all files are put.
_PUTTING: Final = 20.0
#: Seconds for which a peer may be away, in most runs.
_GRACE: Final = 15


def _audits(rng: Random) -> str:
    below = 4 if rng.random() < 0.7 else 0
    return (
        "[audit]\ninterval = 5\nevery = 18\nrecheck = 5\ncooldown = 1\nbackoff = 3\n"
        f"max_backoff = 12\noffline_grace = {_GRACE}\noutage_grace = {2 * _GRACE}\n"
        f"repair_below = {below}\n"
    )


def _size(rng: Random) -> int:
    return int(10 ** (1 + rng.random() * 4.5))


def _files(rng: Random, members: Sequence[str], count: int) -> list[Action]:
    owner, watcher = members[_OWNER], members[_WATCHER]
    actions = []
    for number in range(count):
        file = f"file-{number}"
        at = 5.0 + rng.random() * (_PUTTING - 5.0)
        actions.append(Action.after(at, "put", owner, file=file, size=_size(rng), scheme=_SCHEME))
        if rng.random() < 0.5:
            # Two who repair, and find that the other one was first.
            later = at + 4.0 + rng.random() * 20.0
            actions.append(Action.after(later, "watch", watcher, file=file))
        if rng.random() < 0.5:
            later = at + 4.0 + rng.random() * (_SECONDS - at - 4.0) * 0.95
            actions.append(Action.after(later, "fetch", owner, file=file))
        if rng.random() < 0.1:
            later = at + 10.0 + rng.random() * (_SECONDS - at - 10.0) * 0.9
            actions.append(Action.after(later, "drop", owner, file=file))
    return actions


def _losses(rng: Random, keepers: Sequence[str]) -> list[Action]:
    """
    One peer after the other is gone for longer than is put up with, loses all shares, or gives
    them back changed; and somewhere the power fails when shares are made anew because of that.
    """
    actions, at = [], _PUTTING + 4.0
    while at < _SECONDS - 20.0:
        peer = keepers[int(rng.random() * len(keepers))]
        how = rng.random()
        if how < 0.35:
            actions.append(Action.after(at, "lose", peer))
            actions.append(Action.after(at + 1.0 + rng.random() * 20.0, "start", peer))
        elif how < 0.55:
            actions.append(Action.after(at, "rot", peer, at=rng.random()))
        else:
            actions.append(Action.after(at, "crash", peer))
            actions.append(Action.after(at + 2.0 + rng.random() * 35.0, "start", peer))
        if rng.random() < 0.6:
            other = keepers[int(rng.random() * len(keepers))]
            strike = at + 1.0 + rng.random() * (_GRACE + 10.0)
            after = int(rng.random() * 60)
            of = "files" if rng.random() < 0.7 else "databases"
            actions += [
                Action.after(strike, "power", other, of=of, after=after),
                Action.after(strike + 12.0, "mend", other),
                Action.after(strike + 12.0, "start", other),
            ]
        at += 15.0 + rng.random() * 25.0
    return actions


def _draw(rng: Random, nodes: int, faults: Sequence[str]) -> Plan:
    members = names(nodes)
    known = neighbours(rng, members)
    kinds = sorted({*KEEPING, *AUDITED})
    false = [
        Member(f"liar{number}", (members[0],), liar=kinds[int(rng.random() * len(kinds))])
        for number in range(int(rng.random() * 2.5))
    ]
    keepers = members[1:]
    peers = ", ".join(f'"{{address:{each}}}"' for each in [*keepers, *(it.name for it in false)])
    actions = _files(rng, members, max(2, nodes // 2))
    if {"crash", "power"} & {*faults} and len(keepers) > 1:
        actions += _losses(rng, keepers[1:])
    usual = [each for each in faults if each != "power"]
    actions += disturb(rng, usual, members, _SECONDS, max(1, nodes // 3))
    config = f"[storage]\npeers = [{peers}]\nreserve_seconds = 5\nrequest_seconds = 10\n"
    audits = _audits(rng)
    return Plan(
        scenario="",
        seed=0,
        seconds=_SECONDS,
        settle=400.0,
        members=(
            *(
                Member(
                    name,
                    known[name],
                    config + audits + (_lending(rng) if name in keepers else ""),
                )
                for name in members
            ),
            *false,
        ),
        actions=tuple(actions),
    )


def _lending(rng: Random) -> str:
    lent = 30_000 + int(rng.random() * 170_000) if rng.random() < 0.1 else ROOM
    return f"[keeper]\nmax_storage = {lent}\n"


REPAIR: Final = Scenario(
    "repair",
    "Shares are lost with peers that crash, rot, run full and lie to audits, and made anew.",
    nodes=7,
    draw=_draw,
    faults=("crash", "power", "kill", "restart", "full-disk", "syncs", "silence", "reset"),
    invariants=(*USUAL, Lent, Kept, Readable, Placed, Explained, Remembered, Healthy),
    parts=("keeper", "storage", "audit"),
)
