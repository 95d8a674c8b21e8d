"""
Turns: who may do something with a thing that has a name, and who waits until he may.

Several may I{share} a thing, or one has it alone.  All are served in the order in which they
came, so that who wants it alone is not passed over for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable

from attrs import define, field
from twisted.internet.defer import Deferred, succeed


@define(eq=False)
class _Waiting:
    deferred: Deferred[None]
    shared: bool


@define
class _Line:
    """
    @ivar holders: how many have it.
    @ivar shared: whether they have it together.
    """

    holders: int = 0
    shared: bool = False
    waiting: deque[_Waiting] = field(factory=deque)


class Turns:
    """Turns at any number of things.  What nobody wants costs nothing."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, _Line] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def waiting(self, name: Hashable) -> int:
        """@return: how many wait for a thing."""
        line = self._lines.get(name)
        return 0 if line is None else len(line.waiting)

    def taken(self, name: Hashable) -> bool:
        """Has anybody a thing?"""
        return name in self._lines

    def take(self, name: Hashable, shared: bool = False) -> Deferred[None]:
        """
        @return: Deferred that fires when one has it.  It can be cancelled before.  Afterwards
            L{give_back} is owed.
        """
        line = self._lines.setdefault(name, _Line())
        if not line.waiting and (not line.holders or (shared and line.shared)):
            line.holders += 1
            line.shared = shared
            return succeed(None)

        def leave(_: Deferred[None]) -> None:
            line.waiting.remove(waiting)
            # Others may have waited for this one only.
            self._serve(name, line)

        waiting = _Waiting(Deferred(leave), shared)
        line.waiting.append(waiting)
        return waiting.deferred

    def give_back(self, name: Hashable) -> None:
        """@raise KeyError: if nobody had it."""
        line = self._lines[name]
        line.holders -= 1
        self._serve(name, line)

    def _serve(self, name: Hashable, line: _Line) -> None:
        while line.waiting:
            first = line.waiting[0]
            if line.holders and not (first.shared and line.shared):
                return
            line.waiting.popleft()
            line.holders += 1
            line.shared = first.shared
            first.deferred.callback(None)
        if not line.holders and self._lines.get(name) is line:
            del self._lines[name]
