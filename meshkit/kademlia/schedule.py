"""
What is due when.  Pure; times are milliseconds of any clock.
"""

from __future__ import annotations

import heapq
from random import Random
from typing import Final, Generic, TypeVar

#: Milliseconds after which a record is republished.
REPUBLISH: Final = 3_600_000
#: How much sooner or later that is, as a part of it: else all would do it at once.
JITTER: Final = 0.25
#: Milliseconds by which a clock may go back without anything being made of it.
GOING_BACK: Final = 60_000

T = TypeVar("T")


def jittered(pause: int, rng: Random) -> int:
    """@return: about so long."""
    return int(pause * (1 - JITTER + 2 * JITTER * rng.random()))


class Schedule(Generic[T]):
    """Things that are due, each at a time, which may be changed any number of times."""

    __slots__ = ("_clock", "_heap", "_ticks", "_times")

    def __init__(self) -> None:
        self._times: dict[T, int] = {}
        # Entries whose time is no longer that of the thing say nothing.
        self._heap: list[tuple[int, int, T]] = []
        self._ticks = 0
        self._clock = 0

    def __len__(self) -> int:
        return len(self._times)

    @property
    def waste(self) -> int:
        """Entries that say nothing any more."""
        return len(self._heap) - len(self._times)

    def set(self, thing: T, when: int) -> None:
        """Have it be due then, and not when it was before."""
        self._times[thing] = when
        self._ticks += 1
        heapq.heappush(self._heap, (when, self._ticks, thing))
        self._tidy()

    def _tidy(self) -> None:
        if len(self._heap) > 2 * len(self._times) + 64:
            self._sort()

    def _sort(self) -> None:
        self._heap = [(at, n, each) for n, (each, at) in enumerate(self._times.items())]
        self._ticks = len(self._heap)
        heapq.heapify(self._heap)

    def follow(self, now: int) -> bool:
        """
        For pauses, not for moments: if the clock was set back since this was called last, all is
        due that much sooner; else what is due in an hour would be in a day.

        @return: was it, by more than L{GOING_BACK}?
        """
        back, self._clock = self._clock - now, now
        if back <= GOING_BACK:
            return False
        self._times = {thing: when - back for thing, when in self._times.items()}
        self._sort()
        return True

    def drop(self, thing: T) -> None:
        """Have it be due no more, whether it was or not."""
        self._times.pop(thing, None)
        self._tidy()

    def when(self, thing: T) -> int | None:
        """@return: when it is due, if it is."""
        return self._times.get(thing)

    def pop(self, now: int) -> T | None:
        """@return: what is due first, if it is by now; it is dropped."""
        while self._heap and self._heap[0][0] <= now:
            when, _, thing = heapq.heappop(self._heap)
            if self._times.get(thing) == when:
                del self._times[thing]
                return thing
        return None
