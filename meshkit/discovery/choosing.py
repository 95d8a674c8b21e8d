"""
Whom to dial of those who are near.  Pure.

On a wire with hundreds of nodes not everybody has to be connected with everybody.  Each takes
its own few, by a hash of its key and theirs: the choices of different nodes have nothing to do
with each other, which is what holds such a mesh together.  Whoever was chosen stays so for as
long as it is heard, so that newcomers, who may have made their keys to be chosen, push nobody
out.  The same is true of the addresses of one node: a forged one takes no other's place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from typing import Final

from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import PublicKey

#: Addresses at which one node is dialled: one may be forged, or not lead to it from here.  At each
#: of them there is a connection, and it dials us as well.
MAX_PLACES: Final = 2


class Choice:
    """See the module."""

    def __init__(self, own: PublicKey, limit: int) -> None:
        """@param limit: nodes at most, each with L{MAX_PLACES} addresses at most."""
        self._own = own
        self._limit = limit
        self._chosen: frozenset[PublicKey] = frozenset()
        self._dialled: frozenset[MeshAddress] = frozenset()

    def choose(self, near: Iterable[MeshAddress]) -> list[MeshAddress]:
        """
        @param near: all who are near now.
        @return: those of them to dial, in their order.
        """
        addresses = list(near)
        keys = sorted(dict.fromkeys(address.key for address in addresses), key=self._rank)
        kept = [key for key in keys if key in self._chosen]
        new = [key for key in keys if key not in self._chosen]
        self._chosen = frozenset((kept + new)[: self._limit])
        places: Counter[PublicKey] = Counter()
        found = set()
        for address in sorted(addresses, key=lambda each: each not in self._dialled):
            if address.key in self._chosen and places[address.key] < MAX_PLACES:
                places[address.key] += 1
                found.add(address)
        self._dialled = frozenset(found)
        return [address for address in addresses if address in found]

    def _rank(self, key: PublicKey) -> bytes:
        return sha256(self._own.raw + key.raw).digest()
