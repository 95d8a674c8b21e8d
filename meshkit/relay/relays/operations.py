"""What the part C{relays} shows at the doors."""

from __future__ import annotations

import msgspec


class UsedRelay(msgspec.Struct):
    """
    @ivar address: where the relay is, and its key.
    @ivar role: C{member} or C{blind}.
    """

    address: str
    role: str


class RelaysStatus(msgspec.Struct):
    """
    @ivar relays: those of the settings, the member relays first.
    """

    relays: list[UsedRelay]
