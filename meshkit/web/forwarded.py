"""
From whom a request is that a reverse proxy hands on.  Pure.

Each proxy on the way adds, at the right end of one header, from whom it has the request.  So the
list is read from the right, for as long as who has added an entry is trusted: what a client has
written itself stands to the left of what a trusted proxy has, and is never reached.  Of the two
headers that say it, one is read, as a proxy that knows the other hands this one on as it came.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, Literal

__all__ = ["FORWARDED", "MAX_HOPS", "X_FORWARDED_FOR", "ProxyHeader", "TrustedProxies"]

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
ProxyHeader = Literal["X-Forwarded-For", "Forwarded"]

X_FORWARDED_FOR: Final[ProxyHeader] = "X-Forwarded-For"
#: That of RFC 7239.
FORWARDED: Final[ProxyHeader] = "Forwarded"

#: Proxies one behind the other, at most; those beyond that are not looked at.
MAX_HOPS: Final = 16

#: An element of a list, and a pair of it, in which commas and semicolons may be quoted.
_QUOTED: Final = r'"(?:[^"\\]|\\.)*"'
_ELEMENT: Final = re.compile(rf'(?:[^",]|{_QUOTED})+')
_PAIR: Final = re.compile(rf'\s*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)=({_QUOTED}|[^\s";,]*)\s*(?:;|$)')
_WHOLE: Final = re.compile(rf'(?:[^"]|{_QUOTED})*')
_PORT: Final = r":[0-9A-Za-z_.-]+"
_WITH_PORT: Final = re.compile(rf"(\d+\.\d+\.\d+\.\d+){_PORT}|\[([^\]]*)\](?:{_PORT})?")


class TrustedProxies:
    """Whose word is taken."""

    def __init__(self, networks: Collection[str], header: ProxyHeader = X_FORWARDED_FOR) -> None:
        """
        @param networks: addresses, and networks in CIDR notation.  Without any nobody is believed.
        @param header: which they write.
        @raise ValueError: one of them is neither.
        """
        self._networks: tuple[Network, ...] = tuple(ip_network(each) for each in networks)
        self.header: ProxyHeader = header

    def __bool__(self) -> bool:
        return bool(self._networks)

    def trusts(self, address: Address) -> bool:
        """Is it one of them?"""
        return any(address in network for network in self._networks)

    def client(self, peer: Address, lines: Sequence[str]) -> Address:
        """
        @param peer: from whom the connection is.
        @param lines: the values of the header, in order.
        @return: the last one on the way that is not trusted; of what nobody can say, the last
            proxy that could say it.
        """
        found = peer
        for element in reversed(self._elements(",".join(lines))):
            if not self.trusts(found):
                break
            address = _node(_for(element) if self.header == FORWARDED else element.strip())
            if address is None:
                break
            found = address
        return found

    def _elements(self, text: str) -> list[str]:
        """@return: those at the right end, as many as are looked at."""
        if self.header != FORWARDED:
            return text.rsplit(",", MAX_HOPS)[-MAX_HOPS:]
        # Who leaves a quote open could swallow what is added behind it: then nothing of it counts.
        return _ELEMENT.findall(text)[-MAX_HOPS:] if _WHOLE.fullmatch(text) else []


def _for(element: str) -> str:
    """@return: what an element of C{Forwarded} says of who has asked; empty if it is malformed."""
    at, found = 0, ""
    while at < len(element):
        pair = _PAIR.match(element, at)
        if pair is None:
            return ""
        name, value = pair.groups()
        if name.lower() == "for":
            if found:
                return ""
            found = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
        at = pair.end()
    return found


def _node(text: str) -> Address | None:
    """@return: the address in it, perhaps with a port; L{None} if it is hidden, or is none."""
    found = _WITH_PORT.fullmatch(text)
    if found is not None:
        text = found[1] or found[2]
    if "%" in text:
        return None
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or address
    return address
