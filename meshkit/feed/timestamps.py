"""
The times in messages: RFC 3339 to the nanosecond, in the one spelling that is hashed.

Egregore normalises a time before it hashes a message, so whatever its reader (chrono
0.4.44, the relaxed form of RFC 3339) accepts has to be accepted here, with the same
result: UTC with C{Z}, and a fraction of 0, 3, 6 or 9 digits, the shortest that is
exact.  Python's C{datetime} has no nanoseconds, no second 60 and no year beyond 9999.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Final

from meshkit.errors import MalformedMessage

#: Longer texts are refused before they are looked at.
MAX_TIMESTAMP_CHARS: Final = 128

_SECOND_NS: Final = 1_000_000_000
_DAY_SECONDS: Final = 86_400

# The years that chrono can hold, in UTC.
_MIN_YEAR: Final = -262_143
_MAX_YEAR: Final = 262_142

# 400 years of the Gregorian calendar always have this many days.
_ERA_YEARS: Final = 400
_ERA_DAYS: Final = 146_097
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()

# Nanoseconds are kept in 64 bits, which reach from 1677 to 2262.
_MIN_NS: Final = -(2**63)
_MAX_NS: Final = 2**63 - 1

# White space is what Unicode calls so: Python's \s adds the separators U+001C-1F.
_SPACE: Final = "[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]*"
_RELAXED: Final = re.compile(
    # year, month, day, hour, minute, second, fraction; sign, hours, minutes of the offset
    rf"{_SPACE}([+-][0-9]+|[0-9]{{1,4}}){_SPACE}-"
    rf"{_SPACE}([0-9]{{1,2}}){_SPACE}-"
    rf"{_SPACE}([0-9]{{1,2}})[tT ]"
    rf"{_SPACE}([0-9]{{1,2}}){_SPACE}:"
    rf"{_SPACE}([0-9]{{1,2}}){_SPACE}:"
    rf"{_SPACE}([0-9]{{1,2}})(?:\.([0-9]+))?"
    rf"{_SPACE}(?:[zZ]|[uU][tT][cC]|([+\-\u2212])([0-9]{{2}})"
    rf"(?::|{_SPACE[:-1]})*([0-5][0-9])){_SPACE}"
)

# The normal form, of the years that have four digits: nearly all texts have it.
_NORMAL: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})T([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9]|60)"
    r"(?:\.((?:[0-9]{3}){0,2}(?!000)[0-9]{3}))?Z"
)


def parse_timestamp(text: str) -> tuple[str, int]:
    """
    Read a time.

    @param text: RFC 3339.  Offsets, C{t}, C{z} or C{UTC} in any case, a space in place
        of C{T}, one digit where two are usual, and a second 60 are accepted; digits
        after the ninth of the fraction are dropped.
    @return: the normal form, and nanoseconds since 1970.  The latter is for sorting:
        it is cut off to 64 bits.
    @raise MalformedMessage: if it is no time.
    """
    match = _NORMAL.fullmatch(text)
    if match is not None:
        days = _day_number(int(match[1]), int(match[2]), int(match[3]), text)
        ns = (days * _DAY_SECONDS + int(match[4]) * 3600 + int(match[5]) * 60 + int(match[6])) * (
            _SECOND_NS
        )
        if match[7] is not None:
            ns += int(match[7].ljust(9, "0"))
        return text, max(_MIN_NS, min(ns, _MAX_NS))
    match = _RELAXED.fullmatch(text) if len(text) <= MAX_TIMESTAMP_CHARS else None
    if match is None:
        raise _no_time(text)
    year, month, day, hour, minute, second = map(int, match.group(1, 2, 3, 4, 5, 6))
    digits, sign, ahead, minutes_ahead = match.group(7, 8, 9, 10)
    offset = 0
    if sign is not None:
        offset = int(ahead) * 60 + int(minutes_ahead)
        if sign != "+":
            offset = -offset
    if hour > 23 or minute > 59 or second > 60 or abs(offset) >= 24 * 60:
        raise _no_time(text)
    # The second is left out, so that a 60 stays one: offsets are whole minutes.
    days, minutes = divmod(
        _day_number(year, month, day, text) * 24 * 60 + hour * 60 + minute - offset, 24 * 60
    )
    fraction = int(digits[:9].ljust(9, "0")) if digits is not None else 0
    ns = ((days * 24 * 60 + minutes) * 60 + second) * _SECOND_NS + fraction
    normal = _write(_calendar(days, text), minutes, second, fraction)
    return normal, max(_MIN_NS, min(ns, _MAX_NS))


def format_timestamp(ns: int) -> str:
    """
    Write a time in the normal form.

    @param ns: nanoseconds since 1970, of 64 bits with a sign.
    @raise ValueError: if it is out of that range.
    """
    if not _MIN_NS <= ns <= _MAX_NS:
        raise ValueError(f"{ns} ns since 1970 are more than 64 bits")
    seconds, fraction = divmod(ns, _SECOND_NS)
    days, seconds = divmod(seconds, _DAY_SECONDS)
    minutes, second = divmod(seconds, 60)
    return _write(_calendar(days, ""), minutes, second, fraction)


def _day_number(year: int, month: int, day: int, text: str) -> int:
    """Days since 1970-01-01, for years that C{date} cannot hold as well."""
    era, year_of_era = divmod(year, _ERA_YEARS)
    try:
        # 2000 to 2399 has the same calendar as any other 400 years.
        ordinal = date(2000 + year_of_era, month, day).toordinal()
    except ValueError:
        raise _no_time(text) from None
    return ordinal - _EPOCH_DAY + (era - 5) * _ERA_DAYS


def _calendar(days: int, text: str) -> str:
    era, day_of_era = divmod(days + _EPOCH_DAY - date(2000, 1, 1).toordinal(), _ERA_DAYS)
    day = date.fromordinal(date(2000, 1, 1).toordinal() + day_of_era)
    year = day.year + era * _ERA_YEARS
    if not _MIN_YEAR <= year <= _MAX_YEAR:
        raise _no_time(text)
    # RFC 3339 has four digits; beyond them ISO 8601 asks for a sign.
    shown = f"{year:04d}" if 0 <= year <= 9999 else f"{year:+05d}"
    return f"{shown}-{day.month:02d}-{day.day:02d}"


def _write(day: str, minutes: int, second: int, fraction: int) -> str:
    text = f"{day}T{minutes // 60:02d}:{minutes % 60:02d}:{second:02d}"
    if fraction == 0:
        return f"{text}Z"
    if fraction % 1_000_000 == 0:
        return f"{text}.{fraction // 1_000_000:03d}Z"
    if fraction % 1_000 == 0:
        return f"{text}.{fraction // 1_000:06d}Z"
    return f"{text}.{fraction:09d}Z"


def _no_time(text: str) -> MalformedMessage:
    return MalformedMessage(f"{text[:40]!r} is not a time such as 2026-02-12T18:30:00Z (RFC 3339)")
