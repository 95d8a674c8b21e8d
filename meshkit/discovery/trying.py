"""
Dials to places that were only heard of, and of which nobody has proved yet to be there.  Pure.

A member can say that nodes are at a host which is none, with as many keys and ports as it likes.
So a host at which dials failed rests for a while, by the same rule as one that is heard of in a
lookup (L{meshkit.kademlia.contacts.FailedDials}).  A dial that is given up counts as one that
failed.  Where a node was reached once it may fail as often as it wants, for as long as it is heard.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from meshkit.identity.addresses import MeshAddress
from meshkit.kademlia.contacts import FAILED_DIALS_WITHIN, FailedDials

#: Seconds that a host rests.
REST: Final = FAILED_DIALS_WITHIN


class Trials:
    """See the module."""

    def __init__(self) -> None:
        self._dials = FailedDials()
        # What is dialled, and how often that has failed.
        self._trying: dict[MeshAddress, int] = {}
        self._proved: set[MeshAddress] = set()

    def rested(self, heard: Iterable[MeshAddress], now: float) -> list[MeshAddress]:
        """
        @param heard: all that are heard now.
        @param now: seconds.
        @return: those of them that may be dialled.
        """
        there = list(heard)
        self._proved.intersection_update(there)
        return [each for each in there if self._may_go_on(each, now)]

    def _may_go_on(self, address: MeshAddress, now: float) -> bool:
        place = address.place
        return (
            address in self._proved
            or self._dials.may_dial(place, now)
            or (address in self._trying and self._dials.busy(place, now))
        )

    def dial(self, chosen: Iterable[MeshAddress], now: float) -> list[MeshAddress]:
        """
        @param chosen: of those that L{rested} gave, which are to be dialled from now on.
        @return: those for which there is room: of the places of one host only so many are dialled
            at a time before somebody was reached there.
        """
        wanted = list(chosen)
        for address in sorted(self._trying.keys() - set(wanted)):
            del self._trying[address]
            self._dials.ended(address.place)
            self._dials.failed(address.place, now)
        found = []
        for address in wanted:
            if address not in self._proved and address not in self._trying:
                if not self._dials.may_dial(address.place, now):
                    continue
                self._trying[address] = 0
                self._dials.began(address.place)
            found.append(address)
        return found

    def reached(self, address: MeshAddress) -> bool:
        """
        Somebody has proved the key there.

        @return: does that change anything?
        """
        if self._trying.pop(address, None) is None:
            return False
        self._dials.ended(address.place)
        self._dials.reached(address.place)
        self._proved.add(address)
        return True

    def failed(self, address: MeshAddress, times: int, now: float) -> bool:
        """
        @param times: how often it has failed.
        @return: does that change anything?
        """
        before = self._trying.get(address)
        if before is None or times <= before:
            return False
        self._trying[address] = times
        self._dials.failed(address.place, now)
        return True
