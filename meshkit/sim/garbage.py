"""
When the garbage of a world is collected.

What a collection ends (it may report a Deferred whose error nobody has heard of) must not
depend on when Python thinks it is time for one: it is called at every so many events, and looks
at what was made since the last time.  What a thousand nodes consist of is too much to be looked
at each time.  That is done when there may be much more than before, which depends on what
happened in the world alone.

A process that is killed runs no finalisers; here those of its coroutines run when they are
collected, in an order that no program has to expect.  So one that held a lock gives the turn to one
that waits, of which a part is no more, and whose error is logged.  Such errors are of no process:
L{Garbage.has_made} tells them from those that were there before.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from twisted.python.failure import Failure

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
        # While it is collected: the number of the last failure before that.
        self._last: int | None = None

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
        self._collect()
        gc.freeze()
        self._frozen = True

    def collect(self) -> None:
        """Collect all of it now."""
        self.give_back()
        self._collect()

    def _collect(self) -> None:
        # Twisted numbers them.
        self._last = Failure(Exception()).count
        try:
            gc.collect()
        finally:
            self._last = None

    def has_made(self, failure: Failure | None) -> bool:
        """
        @param failure: of something that is just being logged; L{None} if that has none, as what
            Twisted says before it logs a failure that nobody has taken.
        @return: is it logged by something that is being collected, and was not there before?
        """
        if self._last is None:
            return False
        return failure is None or failure.count > self._last

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
