"""
What scenarios draw their plans from.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from meshkit.sim.schedule import Action

__all__ = ["names", "neighbours", "publications"]


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


def publications(
    rng: Random, authors: Sequence[str], count: int, seconds: float, *, size: int = 80
) -> list[Action]:
    """
    @param seconds: within which they are published.
    @param size: letters of each, on average.
    @return: so many messages by these authors.
    """
    actions = []
    for number in range(count):
        author = authors[int(rng.random() * len(authors))]
        letters = 1 + int(rng.random() * 2 * size)
        text = f"{number} ".ljust(letters, "abcdefghij"[number % 10])
        body = {"content": text}
        at = rng.random() * seconds
        actions.append(
            Action.after(at, "call", author, method="POST", target="/v1/publish", body=body)
        )
    return actions
