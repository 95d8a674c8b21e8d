"""
When the garbage of a world is collected.

What a collection ends (it may report a Deferred whose error nobody has heard of) must not
depend on when Python thinks it is time for one: it is called at every so many events, and looks
at what was made since the last time.  What a thousand nodes consist of is too much to be looked
at each time.  That is done when there may be much more than before, which depends on what
happened in the world alone.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["COLLECT_EVERY", "Garbage", "collecting_by_hand", "sparing_what_was_there"]

#: Events between two collections.
COLLECT_EVERY: Final = 10_000
# All is looked at when a quarter more processes have begun, and so many; and when there were
# half as many events again, and so many for each process.
_PROCESSES: Final = 16
_EVENTS: Final = 1_000


class Garbage:
    """Of one world.  See the module."""

    def __init__(self, every: int = COLLECT_EVERY) -> None:
        """@param every: so many events it is collected."""
        self._every = every
        # How many processes had begun, and how many events there had been, when all was
        # looked at.
        self._processes = 0
        self._events = 0
        self._frozen = False

    def happened(self, events: int, processes: int) -> None:
        """
        Something has happened in the world.

        @param events: how many there have been.
        @param processes: how many have begun.
        """
        if events % self._every:
            return
        grown = processes > self._processes + self._processes // 4 + _PROCESSES
        if grown or events - self._events >= max(self._events // 2, _EVENTS * processes):
            self.give_back()
            self._processes, self._events = processes, events
        gc.collect()
        gc.freeze()
        self._frozen = True

    def give_back(self) -> None:
        """The next collection, also one that Python makes by itself, looks at everything."""
        if self._frozen:
            self._frozen = False
            gc.unfreeze()


@contextmanager
def collecting_by_hand() -> Iterator[None]:
    """While this lasts, Python does not collect by itself."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def sparing_what_was_there() -> Iterator[None]:
    """
    While this lasts, collections do not look at what this process had before, which may be
    far more than a small world.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
