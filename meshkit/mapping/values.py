"""
What is agreed with a router, whatever protocol it was asked in.  Pure.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Final

from attrs import frozen

from meshkit.errors import MappingFailed
from meshkit.identity.addresses import HostPort
from meshkit.identity.scopes import scope_of

#: UDP port of routers, for NAT-PMP and for PCP.
ROUTER_PORT: Final = 5351

#: No datagram of either is longer (RFC 6887, 7).
MAX_DATAGRAM: Final = 1_100


@frozen
class Granted:
    """
    A port that a router passes on.

    @ivar port: of this host, to which it does.
    @ivar place: its own, where others come.
    @ivar lifetime: seconds, from when it said so; L{None} if that lasts until it is told to stop.
    """

    port: int
    place: HostPort
    lifetime: int | None


def outside(address: IPv4Address, port: int) -> HostPort:
    """
    @return: where others come.
    @raise MappingFailed: nobody can come there.
    """
    if scope_of(address) is None:
        raise MappingFailed(
            f"the router gives {address} for its own address: it has no connection to the outside"
        )
    if not port:
        raise MappingFailed("the router passes on what comes to its port 0, where nobody comes")
    return HostPort(str(address), port)
