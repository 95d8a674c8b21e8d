"""
From how far away an address can be reached.  Pure.
"""

from __future__ import annotations

from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

#: RFC 6052: an IPv4 address behind a translator.
_TRANSLATED: Final = IPv6Network("64:ff9b::/96")
#: Shared by the customers of a provider (RFC 6598); nobody reaches it from outside.
_SHARED: Final = IPv4Network("100.64.0.0/10")
_PRIVATE: Final[tuple[IPv4Network | IPv6Network, ...]] = (
    IPv4Network("10.0.0.0/8"),
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.168.0.0/16"),
    _SHARED,
    IPv6Network("fc00::/7"),
    # What was meant for sites before, and behind translators of one's own (RFC 8215).
    IPv6Network("fec0::/10"),
    IPv6Network("64:ff9b:1::/48"),
)


class Scope(IntEnum):
    """From how far away an address can be reached; the nearer, the smaller."""

    MACHINE = 0
    LINK = 1
    SITE = 2
    WORLD = 3


def parse_ip(host: str) -> IPv4Address | IPv6Address | None:
    """
    @return: the address that is meant: of one that wraps an IPv4 address, that one.
        L{None} for a name, and for an address with an interface.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return None
    if isinstance(address, IPv4Address):
        return address
    if address.scope_id is not None:
        return None
    if address in _TRANSLATED:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    if address.teredo is not None:
        return address.teredo[1]
    return address.ipv4_mapped or address.sixtofour or address


def scope_of(address: IPv4Address | IPv6Address) -> Scope | None:
    """@return: L{None} if no host can have it: a group, nobody, reserved."""
    if address.is_multicast or address.is_unspecified:
        return None
    if address.is_loopback:
        return Scope.MACHINE
    if address.is_link_local:
        return Scope.LINK
    if any(address in network for network in _PRIVATE if network.version == address.version):
        return Scope.SITE
    if address.is_reserved or (address.version == 4 and int(address) >> 24 == 0):
        return None
    return Scope.WORLD
