"""
What theory says of an object's shares: a birth-death process.

A state is how many good shares there are.  Each of them is lost at a constant rate, and all of a
failure domain at another; below C{required} the object is lost, and that is the end::

            n a          (n-1) a           (t-1) a            k a
    ( n ) -------> (n-1) -------> ... ---> (t-1) ---> ... ( k ) ---> lost
      ^                                      |              |
      +--------------------------------------+--------------+   once in `delay` on average

Repair is lazy: it is on its way where there are fewer good shares than the threshold C{t}, and
then all that is lost is made anew.  What it takes until that is done, from the loss of the last
share to spare until the new ones are there, is not exponential: waiting for an audit, a grace and
a transfer take nearly the same each time.  So it has C{phases}, one after the other and each
exponential (A. K. Erlang's stages); with one phase it is the model of the textbooks, which lets
objects be lost more often than they are.

The chain is solved exactly: L{meshkit.sim.durability.chain}.
"""

from __future__ import annotations

from fractions import Fraction
from math import comb
from typing import Final, Generic, TypeVar

from attrs import frozen

from meshkit.sim.durability.chain import Chain, State, Step

__all__ = ["ASSUMPTIONS", "MAX_PHASES", "Forecast", "StorageModel", "forecast", "phases_for"]

Number = TypeVar("Number", float, Fraction)

#: More of them make the delay hardly more regular.
MAX_PHASES: Final = 16
# Good shares below the threshold, times phases, at most: so that it is solved in a second.
_MAX_BELOW: Final = 64

#: All that the model takes for granted, in a line.
ASSUMPTIONS: Final = (
    "Peers are lost independently and at a constant rate, domains likewise; a repair takes as long "
    "as its mean says, in phases, and brings all shares back; there is always room and bandwidth; "
    "who is away comes back in time; nobody lies."
)


@frozen
class StorageModel(Generic[Number]):
    """
    See the module.  Times are in any one unit.

    @ivar required: shares that suffice.
    @ivar total: shares that there are.
    @ivar threshold: repair begins when there are fewer good ones; at most C{total}.
    @ivar loss_rate: at which each share is lost: more than 0.
    @ivar delay: how long a repair takes on average; L{None} if nothing is repaired.
    @ivar phases: in how many steps.
    @ivar domains: how many of the shares each failure domain has.
    @ivar domain_rate: at which each domain is lost, with all shares in it.
    """

    required: int
    total: int
    threshold: int
    loss_rate: Number
    delay: Number | None
    phases: int = 1
    domains: tuple[int, ...] = ()
    domain_rate: Number | None = None

    def __attrs_post_init__(self) -> None:
        if not 1 <= self.required <= self.total <= 255:
            raise ValueError(f"there is no code with {self.required} of {self.total} shares")
        if not self.required < self.threshold <= self.total and self.total > self.required:
            raise ValueError(f"a threshold of {self.threshold} is not above {self.required}")
        if not 1 <= self.phases <= MAX_PHASES:
            raise ValueError(f"a repair has 1 to {MAX_PHASES} phases, not {self.phases}")
        if self.domains and sum(self.domains) != self.total:
            raise ValueError(f"the domains have {sum(self.domains)} shares, not {self.total}")

    @property
    def chain(self) -> Chain[Number]:
        """Its states are C{(good shares, phase)}."""
        states: dict[State, list[Step[Number]]] = {}
        for good in range(self.total, self.required - 1, -1):
            for phase in range(self._phases(good)):
                states[good, phase] = self._steps(good, phase)
        return Chain(states)

    def _phases(self, good: int) -> int:
        return self.phases if self.delay is not None and good < self.threshold else 1

    def _steps(self, good: int, phase: int) -> list[Step[Number]]:
        steps = [self._lost(self.loss_rate * good, good, phase, 1)]
        if self.domain_rate is not None:
            for lost, chance in sorted(self._together(good).items()):
                steps.append(self._lost(self.domain_rate * chance, good, phase, lost))
        if self.delay is not None and good < self.threshold:
            rate = self.phases / self.delay
            if phase + 1 < self.phases:
                steps.append(Step(rate, (good, phase + 1)))
            else:
                missing = self.total - good
                gains = {"repairs": 1, "rebuilt": missing, "moved": self.required + missing}
                steps.append(Step(rate, (self.total, 0), gains))
        return steps

    def _lost(self, rate: Number, good: int, phase: int, count: int) -> Step[Number]:
        left = good - count
        if left < self.required:
            return Step(rate, None)
        return Step(rate, (left, min(phase, self._phases(left) - 1)))

    def _together(self, good: int) -> dict[int, Number]:
        """
        @return: how many domains there are, as it were, with which so many good shares are lost,
            if those that are lost already are any.
        """
        found: dict[int, Number] = {}
        one = self.loss_rate / self.loss_rate
        for size in self.domains:
            ways = comb(self.total, good)
            for lost in range(max(1, size + good - self.total), min(size, good) + 1):
                count = comb(size, lost) * comb(self.total - size, good - lost)
                if count:
                    found[lost] = found.get(lost, one * 0) + one * count / ways
        return found


@frozen
class Forecast:
    """
    What the model says.  Times are in the unit that it was given.

    @ivar mean_time: expected, until the object is lost.
    @ivar repairs: for each unit of time, in the long run; an object that is lost is put anew.
    @ivar rebuilt: shares, likewise.
    @ivar moved: shares that are read and written for that, likewise.
    """

    mean_time: float
    repairs: float
    rebuilt: float
    moved: float

    @property
    def rate(self) -> float:
        """Losses for each unit of time."""
        return 1.0 / self.mean_time


def forecast(model: StorageModel[float]) -> Forecast:
    """@return: what the model says."""
    time, *counted = model.chain.until_end("repairs", "rebuilt", "moved")
    repairs, rebuilt, moved = (each / time for each in counted)
    return Forecast(time, repairs, rebuilt, moved)


def phases_for(mean: float, variance: float, below: int) -> int:
    """
    @param mean: of a delay.
    @param variance: of the same.
    @param below: how many numbers of good shares are below the threshold.
    @return: in how many phases it varies as much, or as little as can be computed.
    """
    most = max(1, min(MAX_PHASES, _MAX_BELOW // max(1, below)))
    return most if variance * most <= mean * mean else max(1, round(mean * mean / variance))
