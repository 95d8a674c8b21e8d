"""Lengths of time, as they are written on the command line."""

from __future__ import annotations

import re
from typing import Final

import click

_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}
_SPAN: Final = re.compile(r"([1-9][0-9]{0,9}) ?([smhdw])")


def span(text: str) -> int:
    """@return: the seconds of a length of time such as C{30d}; a type of click's options."""
    found = _SPAN.fullmatch(text)
    if found is None:
        raise click.BadParameter(
            f"{text!r} is no length of time: write a number and s, m, h, d or w, such as 30d"
        )
    return int(found[1]) * _SECONDS[found[2]]
