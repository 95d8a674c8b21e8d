"""
What scenarios draw their plans from.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Final

from msgspec.structs import replace

from meshkit.sim.schedule import Action, Member

__all__ = ["bursts", "changes", "liars", "names", "neighbours", "publications"]

#: Tags that messages have, and that are subscribed to.
TAGS: Final = ("north", "east", "south", "west")

# Paths, and what is sent there to add something.
_CHANGES: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    ("/v1/follows", {}),
    ("/v1/follows", {}),
    ("/v1/blocks", {}),
    ("/v1/topics", {}),
    ("/v1/peers", {"address": "{address}"}),
    ("/v1/tokens", {"name": "", "scopes": ["read"]}),
)
_OF_OTHERS: Final = frozenset({"/v1/follows", "/v1/blocks", "/v1/peers"})


def names(count: int) -> list[str]:
    """@return: of so many nodes, in order."""
    width = len(str(count - 1))
    return [f"n{number:0{width}}" for number in range(count)]


def neighbours(rng: Random, members: Sequence[str], degree: int = 3) -> dict[str, tuple[str, ...]]:
    """
    @param degree: how many others each dials, at most.
    @return: whom each knows, such that all are connected: all but the first dial somebody
        before them, and others at random.
    """
    found: dict[str, tuple[str, ...]] = {}
    for number, name in enumerate(members):
        known: list[str] = []
        if number:
            known.append(members[int(rng.random() * number)])
        while len(known) < min(degree, len(members) - 1):
            other = members[int(rng.random() * len(members))]
            if other != name and other not in known and name not in found.get(other, ()):
                known.append(other)
            elif rng.random() < 0.1:
                # In small meshes there may be nobody left.
                break
        found[name] = tuple(known)
    return found


def liars(
    rng: Random,
    members: Sequence[str],
    known: dict[str, tuple[str, ...]],
    count: int,
    kinds: Sequence[str],
) -> list[Member]:
    """
    @param members: the honest ones.
    @param known: whom each of them knows; some come to know some liars.
    @param kinds: of which each liar is one.
    @return: the liars, each of whom dials some of the members, and is dialled by some.
    """
    found: list[Member] = []
    for number in range(count):
        kind = kinds[int(rng.random() * len(kinds))] if len(kinds) > 1 else kinds[0]
        dialled = [name for name in members if rng.random() < 0.6] or members[:1]
        found.append(Member(f"liar{number}", tuple(dialled), liar=kind))
        for name in members:
            if name not in dialled and rng.random() < 0.5:
                known[name] = (*known[name], f"liar{number}")
    return found


def publications(
    rng: Random,
    authors: Sequence[str],
    count: int,
    seconds: float,
    *,
    size: int = 80,
    mixed: bool = False,
) -> list[Action]:
    """
    @param seconds: within which they are published.
    @param size: letters of each, on average.
    @param mixed: one of ten is a batch of several, and one of five has a tag.
    @return: so many calls by which these authors publish.
    """
    actions = []
    for number in range(count):
        author = authors[int(rng.random() * len(authors))]
        letters = 1 + int(rng.random() * 2 * size)
        text = f"{number} ".ljust(letters, "abcdefghij"[number % 10])
        at = rng.random() * seconds
        how = rng.random() if mixed else 1.0
        target, body = "/v1/publish", dict[str, Any](content=text)
        if how < 0.1:
            target, body = "/v1/publish/batch", {"contents": [text, text, text]}
        elif how < 0.3:
            body["tags"] = [TAGS[number % len(TAGS)]]
        actions.append(Action.after(at, "call", author, method="POST", target=target, body=body))
    return actions


def changes(rng: Random, members: Sequence[str], count: int, seconds: float) -> list[Action]:
    """
    @param seconds: within which they are made.
    @return: so many calls by which nodes follow, block, subscribe and the like, or take it
        back.
    """
    actions = []
    for number in range(count):
        name = members[int(rng.random() * len(members))]
        about = members[int(rng.random() * len(members))]
        path, what = _CHANGES[int(rng.random() * len(_CHANGES))]
        if about == name and path in _OF_OTHERS:
            continue
        method, body = ("POST", dict(what)) if rng.random() < 0.6 else ("DELETE", None)
        tag = TAGS[number % len(TAGS)]
        key = "{address}" if path == "/v1/peers" else "{key}"
        if path == "/v1/topics" or path == "/v1/tokens":
            key = tag
        target = path if method == "POST" and what else f"{path}/{key}"
        if body and "name" in body:
            body["name"] = tag
        at = rng.random() * seconds
        args = dict[str, Any](method=method, target=target, about=about)
        if body:
            args["body"] = body
        actions.append(Action.after(at, "call", name, **args))
    return actions


def bursts(
    rng: Random, members: Sequence[str], count: int, seconds: float, *, crash: bool
) -> list[Action]:
    """
    @param seconds: within which they are.
    @param crash: at each second one, the machine loses power when one of them is answered.
    @return: so many moments, at each of which several programs call one node at once.
    """
    actions = []
    for number in range(count):
        name = members[int(rng.random() * len(members))]
        at = rng.random() * seconds * 0.9
        calls = [
            Action.after(
                at,
                "call",
                name,
                method="POST",
                target="/v1/publish",
                body={"content": f"burst {number}.{each}"},
            )
            for each in range(2 + int(rng.random() * 4))
        ]
        calls += [
            Action(round(at * 10**9), each.kind, name, each.args)
            for each in changes(rng, members, 2, seconds)
            if each.args["about"] != name
        ]
        if crash and rng.random() < 0.5:
            last = int(rng.random() * len(calls))
            calls[last] = replace(calls[last], args={**calls[last].args, "then": "crash"})
            up = min(at + 0.2 + rng.random() * 5, seconds * 0.97)
            actions.append(Action.after(up, "start", name))
        actions += calls
    return actions
