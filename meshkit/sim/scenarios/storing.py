"""
Files are stored at nodes that come and go, forget what they have not synced, and lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

from meshkit.sim.invariants import USUAL
from meshkit.sim.invariants.kept import Kept
from meshkit.sim.invariants.lent import Lent
from meshkit.sim.invariants.readable import Readable
from meshkit.sim.liars import KEEPING
from meshkit.sim.nemesis import disturb
from meshkit.sim.running import Scenario
from meshkit.sim.scenarios.drawing import names, neighbours
from meshkit.sim.schedule import Action, Member, Plan

__all__ = ["STORAGE"]

_SECONDS: Final = 150.0
#: Any two of four, at six peers or so.
_SCHEME: Final = "2+2"
#: Members whose programs store files; nobody keeps his own shares.
_OWNERS: Final = 2
#: Bytes that nodes lend: most of them enough, others soon too little.
_LEAST, _FEW, _MOST = 30_000, 200_000, 20_000_000
#: A file of more than one segment.
_LARGE: Final = 2_500_000


def _size(rng: Random) -> int:
    how = rng.random()
    if how < 0.1:
        return int(rng.random() * 2)
    if how < 0.2:
        return _LARGE + int(rng.random() * 500_000)
    return int(10 ** (1 + rng.random() * 4.5))


def _files(rng: Random, members: Sequence[str], count: int) -> list[Action]:
    """Each file is put, then fetched now and then by somebody, and perhaps removed."""
    owners = members[:_OWNERS]
    actions = []
    for number in range(count):
        file, owner = f"file-{number}", owners[int(rng.random() * len(owners))]
        at = 15.0 + rng.random() * (_SECONDS - 45.0)
        actions.append(Action.after(at, "put", owner, file=file, size=_size(rng), scheme=_SCHEME))
        for _ in range(1 + int(rng.random() * 2)):
            who = owner if rng.random() < 0.7 else members[int(rng.random() * len(members))]
            later = at + 3.0 + rng.random() * (_SECONDS - at - 3.0) * 0.95
            actions.append(Action.after(later, "fetch", who, file=file))
        if rng.random() < 0.15:
            later = at + 10.0 + rng.random() * (_SECONDS - at - 10.0) * 0.9
            actions.append(Action.after(later, "drop", owner, file=file))
    return actions


def _strikes(rng: Random, members: Sequence[str], puts: Sequence[Action]) -> list[Action]:
    """While a file is put, the power of a peer fails at one of its system calls, or soon after."""
    actions = []
    for put in puts:
        if rng.random() > 0.5:
            continue
        peer = members[_OWNERS + int(rng.random() * (len(members) - _OWNERS))]
        at, later = put.at / 10**9, put.at / 10**9 + 5.0 + rng.random() * 20.0
        if rng.random() < 0.6:
            after = int(rng.random() * 40)
            actions.append(Action.after(at, "power", peer, of="files", after=after))
        else:
            actions.append(Action.after(at + 0.05 + 2.0 * rng.random() ** 2, "crash", peer))
        later = min(later, _SECONDS * 0.97)
        actions += [Action.after(later, "mend", peer), Action.after(later, "start", peer)]
    return actions


def _draw(rng: Random, nodes: int, faults: Sequence[str]) -> Plan:
    members = names(nodes)
    known = neighbours(rng, members)
    kinds = sorted(KEEPING)
    false = [
        Member(f"liar{number}", (members[0],), liar=kinds[int(rng.random() * len(kinds))])
        for number in range(int(rng.random() * 2.5))
    ]
    keepers = members if nodes <= _OWNERS else members[_OWNERS:]
    # Who is not named is found in the hash table.
    named = [each for each in keepers if rng.random() < 0.8] if rng.random() < 0.5 else keepers
    peers = ", ".join(f'"{{address:{each}}}"' for each in [*named, *(it.name for it in false)])
    actions = _files(rng, members, 2 * nodes)
    puts = [action for action in actions if action.kind == "put"]
    if {"crash", "power"} & {*faults} and nodes > _OWNERS:
        actions += _strikes(rng, members, puts)
    actions += disturb(rng, faults, members, _SECONDS, nodes)
    if rng.random() < 0.5:
        # Of one node at a time, so that no more is spoilt than may be.
        at = rng.random()
        actions.append(Action.after(rng.random() * _SECONDS, "rot", keepers[-1], at=at))
    # Nobody has much.
    narrow = rng.random() < 0.3
    config = f"[storage]\npeers = [{peers}]\nreserve_seconds = 5\nrequest_seconds = 15\n"
    return Plan(
        scenario="",
        seed=0,
        seconds=_SECONDS,
        settle=300.0,
        members=(
            *(
                Member(
                    name,
                    known[name],
                    config + (_lending(rng, narrow) if name in keepers else ""),
                )
                for name in members
            ),
            *false,
        ),
        actions=tuple(actions),
    )


def _lending(rng: Random, narrow: bool) -> str:
    little = _LEAST + int(rng.random() * (_FEW - _LEAST))
    lent = little if narrow or rng.random() < 0.2 else _MOST
    return f"[keeper]\nmax_storage = {lent}\n"


STORAGE: Final = Scenario(
    "storage",
    "Files are stored at peers that crash, run full, hang and lie, and have to come back.",
    nodes=7,
    draw=_draw,
    faults=("crash", "power", "kill", "restart", "full-disk", "syncs", "silence", "reset"),
    invariants=(*USUAL, Lent, Kept, Readable),
    parts=("keeper", "storage"),
)
