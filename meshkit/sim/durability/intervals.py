"""
How sure one can be of a rate that was counted.

Objects are lost together: those that share peers with one another.  So losses are no Poisson
process, but the moments at which something is lost nearly are; a moment counts with as many
objects as were lost then.  For such weighted sums Fay and Feuer ("Confidence intervals for
directly standardized rates", Statistics in Medicine 16, 1997) give an interval that is Garwood's
exact one (1936) where every moment counts the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, lgamma, log
from typing import Final

from attrs import frozen

__all__ = ["LEVEL", "Rate", "gamma_below", "gamma_quantile", "rate_of"]

#: How often an interval holds the true value, at least.
LEVEL: Final = 0.95

_CLOSE: Final = 1e-16
_TERMS: Final = 100_000
_HALVINGS: Final = 200


def gamma_below(shape: float, x: float) -> float:
    """
    @param shape: more than 0.
    @return: the chance that a gamma variable of that shape, and scale 1, is less than C{x}.
    """
    if x <= 0:
        return 0.0
    begin = exp(shape * log(x) - x - lgamma(shape + 1))
    if x < shape + 1:
        # begin * (1 + x/(a+1) + x^2/((a+1)(a+2)) + ...)
        total = term = 1.0
        for number in range(1, _TERMS):
            term *= x / (shape + number)
            total += term
            if term < total * _CLOSE:
                break
        return min(1.0, begin * total)
    # What is above: begin * a / (x+1-a - 1(1-a)/(x+3-a - 2(2-a)/(x+5-a - ...))), from its end on.
    depth = 200 + int(20 * shape**0.5)
    tail = x + 2 * depth + 1 - shape
    for number in range(depth, 0, -1):
        tail = x + 2 * number - 1 - shape - number * (number - shape) / tail
    return max(0.0, 1.0 - begin * shape / tail)


def gamma_quantile(shape: float, chance: float) -> float:
    """
    @param chance: 0 to 1, without its ends.
    @return: what a gamma variable of that shape is less than with that chance.
    """
    high = shape + 1.0
    while gamma_below(shape, high) < chance:
        high *= 2
    low = 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if gamma_below(shape, middle) < chance:
            low = middle
        else:
            high = middle
    return high


@frozen
class Rate:
    """
    Losses for each unit of exposure.

    @ivar value: as it was counted.
    @ivar low: the lower end of the interval.
    @ivar high: the upper one.
    """

    value: float
    low: float
    high: float

    def holds(self, value: float) -> bool:
        """Is a value within the interval?"""
        return self.low <= value <= self.high


def rate_of(together: Sequence[int], exposure: float, level: float = LEVEL) -> Rate:
    """
    @param together: how many were lost at each moment at which any were.
    @param exposure: how long all of them were watched, together: more than 0.
    @param level: how often the interval is to hold the true rate.
    """
    if not exposure > 0:
        raise ValueError("nothing was watched")
    rest = (1.0 - level) / 2
    count = float(sum(together))
    squares = float(sum(each * each for each in together))
    largest = float(max(together, default=1))
    low = 0.0
    if count:
        low = squares / count * gamma_quantile(count * count / squares, rest)
    more, square = count + largest, squares + largest * largest
    high = square / more * gamma_quantile(more * more / square, 1.0 - rest)
    return Rate(count / exposure, low / exposure, high / exposure)
