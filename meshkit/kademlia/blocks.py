"""
Address blocks: how many of some nodes one landlord can provide.  Pure.

Keys cost nothing, addresses do.  So where nodes are chosen (for a bucket, for the table, for
the answer of a lookup, for keeping a record), only so many of one block count: the /24 of an
IPv4 address and the /48 of an IPv6 address, which is what one customer gets; where it
matters most also the /16 and the /32, which is what a provider has.

An IPv6 address that wraps an IPv4 address is counted as that, so that nobody gets a block
of his own per address by a tunnel.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, TypeAlias

from attrs import frozen

from meshkit.identity.scopes import parse_ip

Network: TypeAlias = IPv4Network | IPv6Network

#: Nodes of one /24 or /48 in a bucket, and in the whole table.
BUCKET_LIMIT: Final = 2
TABLE_LIMIT: Final = 10
#: Nodes of one /24 or /48, and of one /16 or /32, among those that a lookup finds.
NARROW_LIMIT: Final = 2
WIDE_LIMIT: Final = 4

_NARROW: Final = {4: 24, 6: 48}
_WIDE: Final = {4: 16, 6: 32}


@frozen
class Blocks:
    """
    What an address is counted for.

    @ivar narrow: its /24 or /48.
    @ivar wide: its /16 or /32.
    """

    narrow: str
    wide: str


def blocks_of(host: str, own: Sequence[Network] = ()) -> Blocks | None:
    """
    @param own: blocks of which the operator says that the nodes there are his.
    @return: what a host is counted for; L{None} if it is in one of those, or is no IP
        address.
    """
    address = parse_ip(host)
    if address is None or any(address in network for network in own):
        return None
    return Blocks(_block(address, _NARROW), _block(address, _WIDE))


def _block(address: IPv4Address | IPv6Address, lengths: dict[int, int]) -> str:
    length = lengths[address.version]
    below = address.max_prefixlen - length
    return f"{type(address)(int(address) >> below << below)}/{length}"


class BlockCount:
    """
    How many of some nodes each block has.

    @ivar narrow: how many a /24 or /48 may have.
    @ivar wide: how many a /16 or /32 may have; L{None} for any number.
    """

    __slots__ = ("_counts", "narrow", "wide")

    def __init__(self, narrow: int, wide: int | None = None) -> None:
        self.narrow = narrow
        self.wide = wide
        # Blocks of which there are none are not in it.
        self._counts: dict[str, int] = {}

    def __len__(self) -> int:
        """Blocks of which there is a node."""
        return len(self._counts)

    def room(self, blocks: Blocks | None) -> bool:
        """Could there be one more?  For a node that counts for none there always is."""
        if blocks is None:
            return True
        if self._counts.get(blocks.narrow, 0) >= self.narrow:
            return False
        return self.wide is None or self._counts.get(blocks.wide, 0) < self.wide

    def add(self, blocks: Blocks | None) -> None:
        """Count one more, whether there was room or not."""
        for block in self._named(blocks):
            self._counts[block] = self._counts.get(block, 0) + 1

    def take(self, blocks: Blocks | None) -> bool:
        """@return: there was room, and one more is counted."""
        if blocks is None:
            return True
        counts = self._counts
        narrow = counts.get(blocks.narrow, 0)
        if narrow >= self.narrow:
            return False
        if self.wide is not None:
            wide = counts.get(blocks.wide, 0)
            if wide >= self.wide:
                return False
            counts[blocks.wide] = wide + 1
        counts[blocks.narrow] = narrow + 1
        return True

    def remove(self, blocks: Blocks | None) -> None:
        """
        Count one less.

        @raise ValueError: none was counted.
        """
        for block in self._named(blocks):
            left = self._counts.get(block, 0) - 1
            if left < 0:
                raise ValueError(f"no node of {block} was counted")
            if left:
                self._counts[block] = left
            else:
                del self._counts[block]

    def _named(self, blocks: Blocks | None) -> tuple[str, ...]:
        if blocks is None:
            return ()
        return (blocks.narrow,) if self.wide is None else (blocks.narrow, blocks.wide)
