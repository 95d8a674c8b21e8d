"""
Of whom there are most, so that one of those goes when there is room for no more.  Pure.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

__all__ = ["Places"]

T = TypeVar("T", bound=Hashable)

#: By how many places somebody has to be ahead of a newcomer to give one of them up: then that
#: leaves it no less than the newcomer has, so that places do not go to and fro.
_AHEAD: Final = 2


class Places(Generic[T]):
    """
    Things by the groups to which they belong, such as connections by where they come from.

    All that is asked costs the same, however many there are.
    """

    def __init__(self) -> None:
        self._of: dict[T, str] = {}
        # Oldest first.
        self._groups: dict[str, dict[T, None]] = {}
        # Groups by how many they have; none of these is empty.
        self._sized: dict[int, dict[str, None]] = {}
        self._most = 0

    def __len__(self) -> int:
        return len(self._of)

    def __contains__(self, thing: object) -> bool:
        return thing in self._of

    def take(self, thing: T, group: str) -> None:
        """
        It has a place from now on.

        @raise ValueError: it has one.
        """
        if thing in self._of:
            raise ValueError(f"{thing!r} has a place already")
        self._of[thing] = group
        things = self._groups.setdefault(group, {})
        things[thing] = None
        self._resized(group, len(things) - 1, len(things))
        self._most = max(self._most, len(things))

    def leave(self, thing: T) -> None:
        """It has no place any more.  May be called again."""
        group = self._of.pop(thing, None)
        if group is None:
            return
        things = self._groups[group]
        del things[thing]
        self._resized(group, len(things) + 1, len(things))
        if not things:
            del self._groups[group]
        if self._most not in self._sized:
            # One of the largest has become smaller by one.
            self._most -= 1

    def _resized(self, group: str, before: int, now: int) -> None:
        if before:
            same = self._sized[before]
            del same[group]
            if not same:
                del self._sized[before]
        if now:
            self._sized.setdefault(now, {})[group] = None

    def of(self, group: str) -> int:
        """@return: how many places a group has."""
        return len(self._groups.get(group, ()))

    def gives_way(self, group: str) -> T | None:
        """
        @param group: to which a newcomer belongs.
        @return: the oldest thing of a group that has most; L{None} if no group has so many more
            than the newcomer's that it is only fair.
        """
        if self._most < self.of(group) + _AHEAD:
            return None
        largest = next(iter(self._sized[self._most]))
        return next(iter(self._groups[largest]))
