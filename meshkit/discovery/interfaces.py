"""The interfaces of this machine, and those at which others can be called."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Interface
from typing import Final

#: Interfaces at which a node calls out.
MAX_INTERFACES: Final = 32
#: Networks with longer prefixes than this have no room for anybody else.
_LONGEST_PREFIX: Final = 30


def find_networks() -> list[IPv4Interface]:
    """
    @return: the IPv4 addresses of this machine with the networks in which they are, sorted.
    @raise OSError: if the system does not say.
    """
    # Here, as most nodes do not need it.
    import ifaddr

    return sorted(
        {
            IPv4Interface((address.ip, address.network_prefix))
            for adapter in ifaddr.get_adapters()
            for address in adapter.ips
            if isinstance(address.ip, str)
        }
    )


def shared(networks: Iterable[IPv4Interface]) -> list[str]:
    """@return: the addresses in networks that this machine shares with others, sorted."""
    found = {
        each.ip
        for each in networks
        if each.network.prefixlen <= _LONGEST_PREFIX and not each.is_loopback
    }
    return [str(address) for address in sorted(found)[:MAX_INTERFACES]]


def find_interfaces() -> list[str]:
    """
    @return: L{shared} of L{find_networks}.
    @raise OSError: if the system does not say.
    """
    return shared(find_networks())
