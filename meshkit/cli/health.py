"""How the size and the health of objects are told, by all verbs alike."""

from __future__ import annotations

from typing import Final

#: Exit codes of verbs that look at objects, beside 1 for what could not be asked: shares are
#: missing, and enough are there; or too few are.
EXIT_DEGRADED: Final = 3
EXIT_LOST: Final = 4

_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB")


def size(count: int) -> str:
    """@return: a number of bytes, for people."""
    amount, unit = float(count), 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{count} bytes" if unit == 0 else f"{amount:.1f} {_UNITS[unit]}"
