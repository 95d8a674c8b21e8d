"""
Handshakes one at a time, with a look at all connections between any two.

A message of a handshake costs a few operations on a curve, a tenth of a millisecond and
more.  When many peers come at once, answering all of them in one turn of the reactor keeps
everybody else waiting for as long as that takes, and it keeps them waiting too: what is
written leaves when the turn is over, so that both sides only ever work by turns.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Turns:
    """A line, of which one comes up in each turn of the reactor: first come, first served."""

    def __init__(self, reactor: IReactorTime) -> None:
        self._reactor = reactor
        # The values say nothing.
        self._line: dict[Callable[[], None], None] = {}
        self._call: IDelayedCall | None = None

    def enter(self, step: Callable[[], None]) -> None:
        """Stand in line, unless it does already.  @param step: called once, when it is up."""
        self._line.setdefault(step)
        if self._call is None:
            self._call = self._reactor.callLater(0, self._next)

    def leave(self, step: Callable[[], None]) -> None:
        """Stand in line no longer, if it does."""
        self._line.pop(step, None)
        if not self._line and self._call is not None:
            self._call.cancel()
            self._call = None

    def _next(self) -> None:
        step = next(iter(self._line))
        del self._line[step]
        # Before the step is made, as it may enter again, or have others leave.
        self._call = self._reactor.callLater(0, self._next) if self._line else None
        step()
