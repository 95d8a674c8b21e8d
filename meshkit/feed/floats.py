"""
How the programs we share feeds with read and write numbers.

A message is signed over its canonical text, and Egregore makes that text by reading
the JSON and writing it again.  Its reader (serde_json without C{float_roundtrip}) is
off by one unit in the last place for one float in seven, so a float survives the trip
only if reading what is written gives it back.  This module emulates that reader and
the two writers in use: zmij, which writes C{1e+16}, and the older ryu, which writes
C{1e16}.  Below 1e16 the two agree.

Source: serde_json 1.0.149 (C{de.rs}, C{f64_from_parts}) and zmij 1.0.21.
"""

from __future__ import annotations

import math
import re
from typing import Final

from meshkit.errors import MalformedMessage, NumberNotPortable

#: Integers outside this range are read as floats.
MIN_INTEGER: Final = -(2**63)
MAX_INTEGER: Final = 2**64 - 1

#: From here on the two writers disagree, so nothing of this size is published.
FLOAT_LIMIT: Final = 1e16

# How many floats on each side are tried for one that Egregore reads back.  Of 300,000
# random ones the worst was 26 steps away: 64 are an error of 1.4e-14 at most.
_MAX_STEPS: Final = 64

_POWERS_OF_TEN: Final = tuple(float(f"1e{n}") for n in range(309))
_NUMBER: Final = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?)([0-9]+))?")


def write_float(x: float) -> str:
    """
    Write a finite float as zmij does: the shortest digits that give it back, plain
    where the decimal point falls 4 places before to 16 places behind the first digit.
    """
    # Python's repr finds the same digits; it differs in small exponents only.
    text = repr(x)
    digits, _, exponent = text.partition("e")
    if not exponent:
        return text
    if exponent == "-05":
        sign, digits = ("-", digits[1:]) if digits[0] == "-" else ("", digits)
        return f"{sign}0.0000{digits.replace('.', '')}"
    return f"{digits}e{int(exponent):+d}"


def read_number(token: str) -> float:
    """
    Read a JSON number as serde_json does where it makes a float of it.

    @param token: a JSON number, of any length.
    @raise MalformedMessage: if it is too large for a float.
    """
    match = _NUMBER.fullmatch(token)
    if match is None:
        raise MalformedMessage(f"{token[:40]!r} is not a JSON number")
    sign, whole, fraction, exponent_sign, exponent_digits = match.groups()
    # Digits are collected in 64 bits.  A digit that does not fit is dropped: before the
    # point with all that follow it there, behind the point with all the rest.
    significand, used = _collect(0, whole)
    exponent = len(whole) - used
    if fraction is not None:
        significand, used = _collect(significand, fraction)
        exponent -= used
    if exponent_digits is not None:
        # An exponent of 11 digits decides alone, and int() is slow on thousands.
        power = int(exponent_digits.lstrip("0")[:11] or "0")
        exponent += -power if exponent_sign == "-" else power
    x = _scale(significand, exponent, token)
    return -x if sign else x


def _collect(significand: int, digits: str) -> tuple[int, int]:
    """
    @return: the significand with digits appended while it fits 64 bits, and how many
        were used.
    """
    used = 0
    if significand == 0:
        used = len(digits) - len(digits.lstrip("0"))
    for digit in digits[used : used + 21]:
        longer = significand * 10 + int(digit)
        if longer > MAX_INTEGER:
            break
        significand = longer
        used += 1
    return significand, used


def _scale(significand: int, exponent: int, token: str) -> float:
    x = float(significand)
    while exponent < -308 and x != 0.0:
        x /= 1e308
        exponent += 308
    if x == 0.0:
        return x
    if exponent < 0:
        return x / _POWERS_OF_TEN[-exponent]
    if exponent > 308 or math.isinf(x := x * _POWERS_OF_TEN[exponent]):
        raise _out_of_range(token)
    return x


def _out_of_range(token: str) -> MalformedMessage:
    return MalformedMessage(f"the number {token[:40]} is too large for a 64-bit float")


def canonical_number(token: str) -> str:
    """
    How a number that is read as a float stands in the canonical text.

    A token that is spelled as one of the two writers spells that double stays as it
    is: this is what its author hashed.  Any other spelling was never written by a
    signing program, and becomes what Egregore makes of it.

    @param token: a JSON number with a fraction or an exponent, or an integer outside
        L{MIN_INTEGER} to L{MAX_INTEGER}, or C{-0}.
    @raise MalformedMessage: if it is too large for a float.
    """
    # The longest spelling, -1.7976931348623157e+308, has 24 characters.
    if len(token) <= 24:
        x = float(token)
        if math.isfinite(x) and token in ((written := write_float(x)), written.replace("+", "")):
            return token
    return write_float(read_number(token))


def portable_float(x: float) -> float:
    """
    The float to publish for C{x}: the nearest one that Egregore reads back as it is
    written.  For nine in ten that is C{x}, for most others its neighbour.

    @raise NumberNotPortable: for infinities, NaN, and all that is not below
        L{FLOAT_LIMIT}.
    """
    if not math.isfinite(x):
        raise NumberNotPortable(f"JSON has no number {x}: publish it as a string or leave it out")
    if abs(x) >= FLOAT_LIMIT:
        raise NumberNotPortable(
            f"other programs spell the number {x} in other ways, which breaks the signature: "
            "publish it as a string, or as an integer if it is one"
        )
    # Reading back again and again may go round in a circle, so look on both sides.
    smaller = larger = x
    for _ in range(_MAX_STEPS):
        if _is_stable(smaller):
            return smaller
        if abs(larger) < FLOAT_LIMIT and _is_stable(larger):
            return larger
        smaller = math.nextafter(smaller, 0.0)
        larger = math.nextafter(larger, math.copysign(math.inf, x))
    raise NumberNotPortable(f"other programs read the number {x} differently: publish a string")


def _is_stable(x: float) -> bool:
    return read_number(write_float(x)) == x
