"""
What a node remembers of the ways to peers that it has looked for, and of relays that it did not
reach.  Pure; the time is an argument.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from attrs import frozen

from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.identity.keys import PublicKey

#: Seconds for which is remembered where a peer was found, and that it was not: the latter for twice
#: as long each time, up to the last.  Who is gone for good is not looked for by all who knew him.
FOUND_SECONDS: Final = 300.0
NOT_FOUND_SECONDS: Final = 60.0
LAST_NOT_FOUND_SECONDS: Final = 3_600.0
#: Seconds for which a relay is left alone that was not reached: a record that names the address
#: of somebody else costs him one dial of ours in that time.
REST_SECONDS: Final = 60.0
#: Peers, and relays, of which that is remembered; the one of longest ago is forgotten first.
MAX_KNOWN: Final = 1_000


@frozen
class _Found:
    ways: tuple[MeshAddress, ...]
    pause: float
    until: float


class Ways:
    """See the module."""

    def __init__(self) -> None:
        self._found: OrderedDict[PublicKey, _Found] = OrderedDict()
        self._missed: OrderedDict[HostPort, float] = OrderedDict()

    def known(self, key: PublicKey, now: float) -> tuple[MeshAddress, ...] | None:
        """@return: what was found when it was looked for, or L{None} if it is to be again."""
        found = self._found.get(key)
        return None if found is None or found.until <= now else found.ways

    def found(self, key: PublicKey, ways: Sequence[MeshAddress], now: float) -> None:
        """A peer was looked for."""
        before, pause = self._found.get(key), NOT_FOUND_SECONDS
        if ways:
            pause = FOUND_SECONDS
        elif before is not None and not before.ways:
            pause = min(2 * before.pause, LAST_NOT_FOUND_SECONDS)
        self._found[key] = _Found(tuple(ways), pause, now + pause)
        self._found.move_to_end(key)
        if len(self._found) > MAX_KNOWN:
            self._found.popitem(last=False)

    def missed(self, place: HostPort, now: float) -> None:
        """A relay was not reached."""
        self._missed[place] = now + REST_SECONDS
        self._missed.move_to_end(place)
        if len(self._missed) > MAX_KNOWN:
            self._missed.popitem(last=False)

    def reached(self, place: HostPort) -> None:
        """A relay was reached."""
        self._missed.pop(place, None)

    def resting(self, place: HostPort, now: float) -> bool:
        """Is a relay to be left alone?"""
        return self._missed.get(place, now) > now
