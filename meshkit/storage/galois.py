"""
The field and the matrix of zfec's erasure code.  Pure.

Shares are values of a polynomial.  Over GF(256) with the polynomial 0x11d, take byte I{b}
of the I{k} blocks of a segment as the values, at the points of the shares 0 to I{k}-1, of
the one polynomial of a degree below I{k} that has these values.  Byte I{b} of share I{i} is
its value at the point of share I{i}.  So the first I{k} shares are the blocks themselves, and
any I{k} shares determine the polynomial and with it all others.

The point of share 0 is 0, that of share I{i} is 2 to the power I{i}-1: this is what zfec's
matrix comes down to (C{fec.c} of zfec 1.6, after Luigi Rizzo, "Effective erasure codes for
reliable computer communication protocols", 1997).  A share is then a sum of the known ones,
each times a coefficient by Lagrange's formula, and no matrix has to be inverted.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Final

#: As many points as the field has: no more shares are possible.
MAX_SHARES: Final = 256

_POLYNOMIAL: Final = 0x11D
#: How many elements are not zero; 2 generates them all.
_ORDER: Final = 255


def _tables() -> tuple[bytes, tuple[int, ...]]:
    exponentials = bytearray(2 * _ORDER)
    logarithms = [0] * 256
    value = 1
    for power in range(_ORDER):
        # Twice, so that a sum of two logarithms needs no reduction.
        exponentials[power] = exponentials[power + _ORDER] = value
        logarithms[value] = power
        value <<= 1
        if value & 0x100:
            value ^= _POLYNOMIAL
    return bytes(exponentials), tuple(logarithms)


_EXP, _LOG = _tables()


def product(one: int, other: int) -> int:
    """Two elements of the field, multiplied.  Their sum is C{one ^ other}."""
    return _EXP[_LOG[one] + _LOG[other]] if one and other else 0


@cache
def multiples(factor: int) -> bytes:
    """@return: the products of C{factor} with 0 to 255: a table for C{bytes.translate}."""
    return bytes(product(factor, each) for each in range(256))


def point(number: int) -> int:
    """Where the polynomials take the values that are share C{number}."""
    return _EXP[number - 1] if number else 0


def coefficients(known: Sequence[int], wanted: int) -> bytes:
    """
    What to multiply the known shares with, so that their sum is the wanted one.

    @param known: I{k} different numbers below L{MAX_SHARES}.
    @param wanted: the number of the share; one of the known ones is given by itself.
    @return: a factor for each known share, in their order.
    @raise ValueError: if a number stands there twice: then there is no such sum.
    """
    if len(set(known)) != len(known):
        raise ValueError("the shares that are known have to be different ones")
    if wanted in known:
        return bytes(number == wanted for number in known)
    points = [point(number) for number in known]
    target = point(wanted)
    # Logarithms of the product over all b of (target - b), and of that over all b but a of
    # (a - b); subtraction is addition, and addition is exclusive or.
    above = sum(_LOG[target ^ each] for each in points)
    return bytes(
        _EXP[(above - _LOG[target ^ each] - sum(_LOG[each ^ other] for other in points)) % _ORDER]
        for each in points
    )
