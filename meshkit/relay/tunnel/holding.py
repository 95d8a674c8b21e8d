"""
When a hidden peer asks its relay for what.  Pure; the time is an argument.

::

    OUT --(due)--> ASKING --granted--> HELD --(due: half is over)--> RENEWING --granted--> HELD
    ASKING --failed--> OUT, due after a pause that grows
    RENEWING --failed, with the connection up--> HELD, due after such a pause
    any --lost (the connection)--> OUT, due after such a pause; the relay has dropped it
"""

from __future__ import annotations

from enum import Enum, auto
from random import Random
from typing import Final

#: Seconds of the first pause, and of the longest.
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 300.0


class HoldingState(Enum):
    """See the module."""

    OUT = auto()
    ASKING = auto()
    HELD = auto()
    RENEWING = auto()


class Holding:
    """
    One reservation of ours at one relay.

    @ivar state: see the module.
    @ivar due: when there is something to do again, in seconds; there is nothing while an
        answer is waited for.
    @ivar expires: until when we can be reached through the relay; L{None} if we cannot.
    """

    def __init__(self, rng: Random, now: float) -> None:
        """@param rng: spreads the pauses, so that not all peers of a relay come back at once."""
        self._rng = rng
        self._failures = 0
        self.state = HoldingState.OUT
        self.due = now
        self.expires: float | None = None

    def ask(self) -> None:
        """
        What is due is done: the relay is asked.

        @raise RuntimeError: it was asked already.
        """
        if self.state is HoldingState.OUT:
            self.state = HoldingState.ASKING
        elif self.state is HoldingState.HELD:
            self.state = HoldingState.RENEWING
        else:
            raise RuntimeError("the relay was asked already")

    def granted(self, lifetime: float, now: float) -> None:
        """
        @param lifetime: seconds for which it holds from now on, more than 0.
        """
        self._failures = 0
        self.state = HoldingState.HELD
        self.expires = now + lifetime
        self.due = now + lifetime / 2

    def failed(self, now: float) -> None:
        """The relay refused, or did not answer; the connection to it may be up."""
        if self.state is HoldingState.RENEWING and self.expires is not None and self.expires > now:
            self.state = HoldingState.HELD
            self.due = min(now + self._pause(), self.expires)
        elif self.state in (HoldingState.ASKING, HoldingState.RENEWING):
            self.lost(now)
        # Else the connection was lost under the call, which is one failure and not two.

    def lost(self, now: float) -> None:
        """There is no connection to the relay: so it leads nobody to us."""
        self.state = HoldingState.OUT
        self.expires = None
        self.due = now + self._pause()

    def _pause(self) -> float:
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._failures, 16))
        self._failures += 1
        return longest * (1 + self._rng.random()) / 2
