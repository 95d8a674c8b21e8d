"""
Markov chains in continuous time that end, solved without losing digits.

An object with enough shares is lost once in 10^20 years or so, and repaired every few weeks.
Elimination as one learns it subtracts numbers that are nearly equal there, and what is left is
noise.  Here nothing is ever subtracted: states are taken out one by one, and what went through
them goes on to where they would have led (W. Grassmann, M. Taksar and D. Heyman, "Regenerative
analysis and steady state distributions for Markov chains", 1985).  So floats are good for all
but the last of their digits, and with L{fractions.Fraction} the result is exact.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from fractions import Fraction
from math import ceil, exp, log2
from typing import Any, Final, Generic, TypeVar

from attrs import field, frozen

__all__ = ["MAX_STATES", "Chain", "Step"]

Number = TypeVar("Number", float, Fraction)
State = Hashable

#: The work grows with the cube of it.
MAX_STATES: Final = 400

# Of the length of a step in which the chain moves once, on average: the series of its
# exponential needs few terms then.
_SHORT: Final = 0.125
_TERMS: Final = 12


@frozen
class Step(Generic[Number]):
    """
    What may happen in a state.

    @ivar rate: how often, for each unit of time: more than 0.
    @ivar to: the next state; L{None} is the end.
    @ivar gains: what is counted when it happens, by name.
    """

    rate: Number
    to: State | None
    gains: Mapping[str, int] = field(factory=dict)


class Chain(Generic[Number]):
    """
    See the module.

    @ivar states: all of them but the end, the first one is where it begins.
    """

    def __init__(self, steps: Mapping[Any, Sequence[Step[Number]]]) -> None:
        """
        @param steps: out of each state, the first one first.
        @raise ValueError: if there are too many states, or a step goes nowhere.
        """
        if not 1 <= len(steps) <= MAX_STATES:
            raise ValueError(f"a chain of {len(steps)} states cannot be solved: 1 to {MAX_STATES}")
        self.states = tuple(steps)
        self._steps: Mapping[State, Sequence[Step[Number]]] = steps
        for each in (step for found in steps.values() for step in found):
            if each.to is not None and each.to not in steps:
                raise ValueError(f"a step leads to {each.to!r}, which is no state")
            if not each.rate > 0:
                raise ValueError(f"a step has the rate {each.rate}: it has to be more than 0")

    def until_end(self, *names: str) -> tuple[Number, ...]:
        """
        @param names: of what is counted on the way.
        @return: the expected time from the first state to the end, and how much of each is
            counted until then.
        @raise ValueError: if it does not end for sure.
        """
        steps = self._steps
        zero: Number = self._zero()
        number = {state: place for place, state in enumerate(self.states)}
        # Of each state: the rates to others, the rate of the end, and what is had per unit of
        # time in it: time itself, then what is counted.
        to: list[dict[int, Number]] = []
        ends: list[Number] = []
        yields: list[list[Number]] = []
        for state in self.states:
            rates: dict[int, Number] = {}
            end = zero
            had: list[Number] = [zero + 1]
            had += [zero for _ in names]
            for step in steps[state]:
                for place, name in enumerate(names, 1):
                    had[place] += step.rate * step.gains.get(name, 0)
                if step.to is None:
                    end += step.rate
                elif step.to != state:
                    there = number[step.to]
                    rates[there] = rates.get(there, zero) + step.rate
            to.append(rates)
            ends.append(end)
            yields.append(had)
        for gone in range(len(self.states) - 1, 0, -1):
            rates, end = to[gone], ends[gone]
            out = sum(rates.values(), end)
            for before in range(gone):
                through = to[before].pop(gone, None)
                if through is None:
                    continue
                if not out > 0:
                    raise ValueError(f"nothing leads out of {self.states[gone]!r}")
                part = through / out
                for there, rate in rates.items():
                    if there != before:
                        known = to[before].get(there)
                        to[before][there] = part * rate if known is None else known + part * rate
                ends[before] += part * end
                mine, its = yields[before], yields[gone]
                yields[before] = [a + part * b for a, b in zip(mine, its, strict=True)]
        if not ends[0] > 0:
            raise ValueError("it never ends")
        return tuple(had / ends[0] for had in yields[0])

    def _zero(self) -> Number:
        """@return: 0, as the numbers of this chain have it."""
        for step in (step for found in self._steps.values() for step in found):
            return step.rate - step.rate
        raise ValueError("it never ends")

    def chance_of_end(self, time: float) -> float:
        """
        @param time: from the beginning on.
        @return: how likely it is that it has ended by then, 0 to 1.  Good for six digits at
            least, however small.
        """
        if time <= 0:
            return 0.0
        count = len(self.states)
        number = {state: place for place, state in enumerate(self.states)}
        # It is looked at as often as the fastest state moves (A. Jensen's uniformisation, 1953).
        fastest = max(float(sum(step.rate for step in self._steps[s])) for s in self.states)
        if not fastest > 0:
            return 0.0
        halvings = max(0, ceil(log2(fastest * time / _SHORT)))
        mean = fastest * time / 2.0**halvings
        once = [[0.0] * count for _ in range(count)]
        ended = [0.0] * count
        for place, state in enumerate(self.states):
            out = 0.0
            for step in self._steps[state]:
                part = float(step.rate) / fastest
                if step.to is None:
                    ended[place] += part
                    out += part
                elif step.to != state:
                    once[place][number[step.to]] += part
                    out += part
            once[place][place] += max(0.0, 1.0 - out)
        matrix, end = _short_step(once, ended, mean)
        for _ in range(halvings):
            end = [
                mine + sum(a * b for a, b in zip(row, end, strict=True))
                for mine, row in zip(end, matrix, strict=True)
            ]
            matrix = _product(matrix, matrix)
            _normalise(matrix, end)
        return min(1.0, end[0])


def _short_step(
    once: list[list[float]], ended: list[float], mean: float
) -> tuple[list[list[float]], list[float]]:
    """@return: what becomes of each state when there were C{mean} moves on average."""
    count = len(once)
    weight = exp(-mean)
    power = [[float(i == j) for j in range(count)] for i in range(count)]
    gone = [0.0] * count
    matrix = [[weight * each for each in row] for row in power]
    end = [0.0] * count
    for term in range(1, _TERMS + 1):
        # Of those that are still there after one move less, some end with this one.
        gone = [
            before + sum(a * b for a, b in zip(row, ended, strict=True))
            for before, row in zip(gone, power, strict=True)
        ]
        power = _product(power, once)
        weight *= mean / term
        for i in range(count):
            end[i] += weight * gone[i]
            matrix[i] = [a + weight * b for a, b in zip(matrix[i], power[i], strict=True)]
    _normalise(matrix, end)
    return matrix, end


def _normalise(matrix: list[list[float]], end: list[float]) -> None:
    """What becomes of a state are all the ways that there are."""
    for place, row in enumerate(matrix):
        total = sum(row) + end[place]
        matrix[place] = [each / total for each in row]
        end[place] /= total


def _product(first: list[list[float]], second: list[list[float]]) -> list[list[float]]:
    columns = list(zip(*second, strict=True))
    return [
        [sum(a * b for a, b in zip(row, column, strict=True)) for column in columns]
        for row in first
    ]
