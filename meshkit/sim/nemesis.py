"""
What goes wrong, by name: L{FAULTS}.

Each of them draws one episode: actions that begin it and, within the time that is given, end
it again.  What an action of an episode does makes sense without the others, so plans can be
made smaller; and when the time is over, all that was left is mended anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

from attrs import frozen

from meshkit.sim.schedule import Action

__all__ = ["FAULTS", "Fault", "choose", "disturb"]

#: Given randomness, the names of the members and the seconds there are, draws one episode.
Draw = Callable[[Random, Sequence[str], float], list[Action]]


@frozen
class Fault:
    """
    A kind of trouble.

    @ivar name: in a word or two.
    @ivar summary: what happens, in a sentence.
    @ivar draw: one episode of it.
    """

    name: str
    summary: str
    draw: Draw


def _pick(rng: Random, names: Sequence[str]) -> str:
    return names[int(rng.random() * len(names))]


def _between(rng: Random, least: float, most: float) -> float:
    return least + rng.random() * (most - least)


def _span(rng: Random, seconds: float, longest: float) -> tuple[float, float]:
    """@return: a beginning and an end within the time there is."""
    begin = rng.random() * seconds * 0.9
    # Short ones are as likely as long ones: much happens in the first second.
    length: float = longest ** rng.random() * 0.5
    return begin, min(begin + length, seconds * 0.95)


def _pair(rng: Random, members: Sequence[str]) -> tuple[str, str]:
    one = int(rng.random() * len(members))
    other = int(rng.random() * (len(members) - 1))
    return members[one], members[other + (other >= one)]


# --- of machines and processes


def _crash(rng: Random, members: Sequence[str], seconds: float) -> list[Action]:
    name, (begin, end) = _pick(rng, members), _span(rng, seconds, 60.0)
    return [Action.after(begin, "crash", name), Action.after(end, "start", name)]


def _kill(rng: Random, members: Sequence[str], seconds: float) -> list[Action]:
    name, (begin, end) = _pick(rng, members), _span(rng, seconds, 60.0)
    return [Action.after(begin, "kill", name), Action.after(end, "start", name)]


def _power(rng: Random, members: Sequence[str], seconds: float) -> list[Action]:
    name, (begin, end) = _pick(rng, members), _span(rng, seconds, 60.0)
    of = "files" if rng.random() < 0.2 else "databases"
    after = int(_between(rng, 0, 40 if of == "databases" else 8))
    # It may be that it writes nothing for long: then it is the end of that trouble.
    return [
        Action.after(begin, "power", name, of=of, after=after),
        Action.after(end, "mend", name),
        Action.after(end, "start", name),
    ]


def _restart(rng: Random, members: Sequence[str], seconds: float) -> list[Action]:
    name, (begin, end) = _pick(rng, members), _span(rng, seconds, 120.0)
    return [Action.after(begin, "stop", name), Action.after(end, "start", name)]


def _skew(rng: Random, members: Sequence[str], seconds: float) -> list[Action]:
    name, (begin, end) = _pick(rng, members), _span(rng, seconds, 120.0)
    # From a second to some months, ahead or behind.
    ahead: float = 10 ** _between(rng, 0, 7) * (1 if rng.random() < 0.5 else -1)
    return [
        Action.after(begin, "skew", name, seconds=round(ahead, 3)),
        Action.after(end, "skew", name, seconds=0),
    ]


# --- of disks


def _full(rng: Random, members: Sequence[str], seconds: float) -> list[Action]:
    name, (begin, end) = _pick(rng, members), _span(rng, seconds, 60.0)
    return [
        Action.after(begin, "fill", name),
        Action.after(end, "free", name),
        Action.after(end, "start", name),
    ]


def _syncs(rng: Random, members: Sequence[str], seconds: float) -> list[Action]:
    name, (begin, end) = _pick(rng, members), _span(rng, seconds, 60.0)
    kind = "fail-syncs" if rng.random() < 0.3 else "fail-commits"
    return [
        Action.after(begin, kind, name, times=1 + int(rng.random() * 4)),
        Action.after(end, "mend", name),
        Action.after(end, "start", name),
    ]


# --- of the network

# Seconds that it may be away, twice: some of it has to be longer than the time after which
# a silent peer is taken for dead.
_LONG: Final = 600.0


def _partition(rng: Random, members: Sequence[str], seconds: float) -> list[Action]:
    begin, end = _span(rng, seconds, _LONG)
    sides = 3 if len(members) > 4 and rng.random() < 0.25 else 2
    groups: list[list[str]] = [[] for _ in range(sides)]
    # From one against all to halves.
    bias = rng.random()
    for name in members:
        groups[0 if rng.random() < bias else int(rng.random() * sides)].append(name)
    return [
        Action.after(begin, "partition", groups=[group for group in groups if group]),
        Action.after(end, "heal"),
    ]


def _one_way(rng: Random, members: Sequence[str], seconds: float) -> list[Action]:
    begin, end = _span(rng, seconds, _LONG)
    actions = []
    for _ in range(1 + int(rng.random() * 3)):
        name, other = _pair(rng, members)
        actions.append(Action.after(begin, "block", name, to=other, both=False))
    return [*actions, Action.after(end, "heal")]


def _silence(rng: Random, members: Sequence[str], seconds: float) -> list[Action]:
    name, (begin, end) = _pick(rng, members), _span(rng, seconds, _LONG)
    return [Action.after(begin, "silence", name), Action.after(end, "heal")]


def _slow(rng: Random, members: Sequence[str], seconds: float) -> list[Action]:
    begin, end = _span(rng, seconds, 240.0)
    name, other = _pair(rng, members)
    quality: dict[str, float] = {"latency": round(_between(rng, 0.05, 2.0), 3)}
    if rng.random() < 0.5:
        quality["loss"] = round(_between(rng, 0.01, 0.3), 3)
    if rng.random() < 0.5:
        quality["bandwidth"] = round(10 ** _between(rng, 3, 6))
    return [
        Action.after(begin, "link", name, to=other, **quality),
        Action.after(end, "usual", name, to=other),
    ]


def _reset(rng: Random, members: Sequence[str], seconds: float) -> list[Action]:
    actions = []
    begin = rng.random() * seconds * 0.9
    for _ in range(1 + int(rng.random() * 4)):
        name, other = _pair(rng, members)
        actions.append(Action.after(begin, "reset", name, to=other))
        begin = min(begin + _between(rng, 0, 3), seconds * 0.95)
    return actions


#: By name.
FAULTS: Final[dict[str, Fault]] = {
    each.name: each
    for each in (
        Fault("crash", "a machine loses power, and gets it back", _crash),
        Fault("power", "a machine loses power in the middle of a write", _power),
        Fault("kill", "a process is killed, and started again", _kill),
        Fault("restart", "a node is stopped in good order, and started again", _restart),
        Fault("skew", "a clock is wrong, by seconds or months", _skew),
        Fault("full-disk", "a disk is full for a while", _full),
        Fault("syncs", "a disk fails to sync or to commit a few times", _syncs),
        Fault("partition", "nothing crosses from some nodes to others", _partition),
        Fault("one-way", "some links carry in one direction only", _one_way),
        Fault("silence", "a machine runs, and nothing gets in or out", _silence),
        Fault("slow", "a link is slow, and perhaps loses much", _slow),
        Fault("reset", "connections are reset by something between", _reset),
    )
}


def choose(names: str) -> tuple[str, ...] | None:
    """
    @param names: of faults, with commas between them; C{all}; or C{none}.
    @return: these names; L{None} for an empty text, which leaves it to the scenario.
    @raise ValueError: if there is no such fault.
    """
    if not names:
        return None
    if names == "all":
        return tuple(FAULTS)
    if names == "none":
        return ()
    chosen = tuple(name.strip() for name in names.split(","))
    for name in chosen:
        if name not in FAULTS:
            raise ValueError(f"there is no fault {name!r}: it is one of {', '.join(FAULTS)}")
    return chosen


def disturb(
    rng: Random, faults: Sequence[str], members: Sequence[str], seconds: float, count: int
) -> list[Action]:
    """
    @param faults: names, of which each episode has one.
    @param members: whom it may concern: two at least.
    @param count: episodes.
    @return: so many episodes.
    @raise ValueError: if there is no such fault, or if there are too few members.
    """
    unknown = [name for name in faults if name not in FAULTS]
    if unknown:
        raise ValueError(f"there is no fault {unknown[0]!r}: it is one of {', '.join(FAULTS)}")
    if not faults:
        return []
    if len(members) < 2:
        raise ValueError("what goes wrong between nodes takes two of them at least")
    return [
        action
        for _ in range(count)
        for action in FAULTS[_pick(rng, faults)].draw(rng, members, seconds)
    ]
