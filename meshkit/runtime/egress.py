"""
Which addresses may be dialled to send or fetch something by HTTP.  Pure.

Whoever can have this node send something somewhere could have it talk to what only this
machine can reach: its own services, those of its network, a cloud's metadata.  So an
address is dialled if it is public, or if the operator has named it.  An IPv6 address that
stands for an IPv4 address is judged as that.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final

#: What there is of public addresses in IPv6 (RFC 4291, 2.4; IANA has given out no other).
_GLOBAL_UNICAST: Final = IPv6Network("2000::/3")
#: IPv4 behind a translator (RFC 6052), and in a tunnel (RFC 3056).
_TRANSLATED: Final = IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR: Final = IPv6Network("2002::/16")
#: Public in the registry, but no hosts: protocol assignments, relays of tunnels.
_NO_HOSTS: Final = (IPv4Network("192.0.0.0/24"), IPv4Network("192.88.99.0/24"))


def _meant(address: IPv6Address) -> IPv4Address | IPv6Address:
    """The address that is reached in the end."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address in _TRANSLATED:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    if address in _SIX_TO_FOUR:
        return IPv4Address((int(address) >> 80) & 0xFFFF_FFFF)
    return address


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """May anybody's host be there, seen from anywhere?"""
    if isinstance(address, IPv6Address):
        meant = _meant(address)
        if isinstance(meant, IPv4Address):
            return is_public(meant)
        return address in _GLOBAL_UNICAST and address.is_global
    in_use = not any(address in network for network in _NO_HOSTS)
    return address.is_global and not address.is_multicast and in_use


def may_dial(host: str, allowed: Sequence[IPv4Network | IPv6Network] = ()) -> bool:
    """
    Judge an address at the moment when it is dialled.

    @param host: an IP address.  What is none (a name, which might mean another address a
        moment later) may not be dialled.
    @param allowed: networks that the operator has named.
    """
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if is_public(address):
        return True
    meant = _meant(address) if isinstance(address, IPv6Address) else address
    return any(each in network for network in allowed for each in (address, meant))
