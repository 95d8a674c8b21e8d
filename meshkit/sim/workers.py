"""
Worker pools of a simulated machine: no threads, but the orders of events that threads make.
"""

from __future__ import annotations

from collections import deque
from random import Random
from typing import Any, Final

from meshkit.runtime.workers import MAX_WAITING, STOP_SECONDS, AbstractWorkers, WorkerCall

__all__ = ["LONGEST", "InterleavedWorkers"]

#: Seconds that a call takes at the most, and as many until its outcome is known.
LONGEST: Final = 0.002


class InterleavedWorkers(AbstractWorkers):
    """
    As many calls at the same time as there would be threads; which of them is done first,
    and what else happens meanwhile, is drawn from the seed.

    A call has its effects at one moment, and its outcome is known at a later one.  In
    between the process may end: what it did is done then, and nobody was told.
    """

    def __init__(
        self,
        reactor: Any,
        size: int,
        *,
        rng: Random,
        longest: float = LONGEST,
        name: str = "workers",
        max_waiting: int = MAX_WAITING,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        """
        @param rng: of how long calls take.
        @param longest: seconds that a call takes at the most, and as many until its
            outcome is known.
        """
        super().__init__(
            reactor, size, name=name, max_waiting=max_waiting, stop_seconds=stop_seconds
        )
        self._rng = rng
        self._longest = longest
        self._queue: deque[WorkerCall] = deque()
        self._busy = 0

    def _open(self) -> None:
        """Nothing to get ready."""

    def _submit(self, call: WorkerCall) -> None:
        self._queue.append(call)
        self._begin()

    def _begin(self) -> None:
        if self._queue and self._busy < self.size:
            self._busy += 1
            self._later(self._perform, self._queue.popleft())

    def _perform(self, call: WorkerCall) -> None:
        self._later(self._report, call, call.outcome())

    def _report(self, call: WorkerCall, outcome: object) -> None:
        self._busy -= 1
        self._begin()
        self._delivered(call, outcome)

    def _later(self, call: Any, *args: Any) -> None:
        self._reactor.callLater(self._rng.random() * self._longest, call, *args)

    def _close(self) -> None:
        """Nothing to end."""
