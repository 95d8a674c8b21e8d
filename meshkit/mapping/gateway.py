"""
Which router stands between this host and the others.  Pure.
"""

from __future__ import annotations

import sys
from ipaddress import IPv4Address
from typing import Final

#: Where Linux shows its IPv4 routes.
ROUTES: Final = "/proc/net/route"
#: Bytes of that which are read: some thousand routes.
MAX_ROUTES: Final = 1024 * 1024

_UP: Final = 0x1
_BY_GATEWAY: Final = 0x2


def default_gateway(routes: str) -> IPv4Address | None:
    """
    @param routes: content of L{ROUTES}.
    @return: through whom goes what goes nowhere else, by the route that counts most; L{None} if
        there is nobody.
    """
    found: list[tuple[int, int, IPv4Address]] = []
    for number, text in enumerate(routes.splitlines()):
        columns = text.split()
        if len(columns) < 8:
            continue
        try:
            destination, gateway, flags, mask = (int(columns[n], 16) for n in (1, 2, 3, 7))
            metric = int(columns[6])
        except ValueError:
            continue  # the line with the names of the columns
        if destination or mask or flags & (_UP | _BY_GATEWAY) != _UP | _BY_GATEWAY:
            continue
        if 0 < gateway < 2**32:
            # It is shown as the number that its bytes are on this machine.
            address = IPv4Address(gateway.to_bytes(4, sys.byteorder))
            found.append((metric, number, address))
    return min(found)[2] if found else None
