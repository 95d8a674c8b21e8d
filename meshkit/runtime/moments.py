"""Moments, as people and programs are shown them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def rfc3339(ns: int) -> str:
    """
    @param ns: nanoseconds since 1970.
    @return: the moment in UTC, to the millisecond, as RFC 3339 writes it.
    """
    moment = _EPOCH + timedelta(microseconds=ns // 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
