"""
Where this node can be reached, from what others say of it.  Pure; times are seconds of any
clock that does not go back.

A node that listens at all of its addresses does not know which of them others can dial, and
behind a translator it does not even have that address.  Others know more:

  - whom we have dialled sees from which host we come;
  - who has dialled us knows where: that is a proof, too, as far as one believes it.

Any of them may lie.  So each is a vote: one for each peer, and for each address block of
those that are far away, on a place that is as far away as the peer itself.  The newest few
count, and what more than half of them name is shown to others.  It is on trial then: whoever
is shown it dials it sooner or later, so a place at which nobody comes within L{TRIAL} is shown
no more for L{REST}.  A lie costs us that much, and nobody else more than he could be made to
dial anyway: anybody may show any place as his own.

If a single peer has voted, its word is enough for a trial.  In a young network all have
dialled the same node, and nobody would ever have a second vote.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from attrs import define, field, frozen

from meshkit.errors import InvalidAddress
from meshkit.identity.addresses import HostPort
from meshkit.identity.keys import PublicKey
from meshkit.identity.scopes import Scope, parse_ip, scope_of
from meshkit.kademlia.blocks import Network, blocks_of

#: Seconds for which a place is shown to which nobody comes.
TRIAL: Final = 600.0
#: Seconds for which it is shown after somebody came.
PROVED: Final = 7_200.0
#: Seconds for which it is not shown when nobody has come.
REST: Final = 3_600.0
#: Votes that count, of those on places of one family and as far away.
MAX_VOTES: Final = 9
#: Places that are remembered as resting, of each of these.
MAX_RESTING: Final = 8

_WILDCARDS: Final = {"0.0.0.0": (4,), "::": (4, 6)}


@frozen
class _Vote:
    """
    @ivar block: where the voter is; empty if that does not matter: it is near, or in a block of
        the operator's own.
    """

    voter: PublicKey
    block: str
    place: HostPort


@define(eq=False)
class _Slot:
    """
    Places of one family that are equally far away: one of them is shown at a time.

    @ivar votes: at most L{MAX_VOTES}, the newest last.
    @ivar shown: the one that is shown.
    @ivar until: how long it is, unless somebody comes.
    @ivar proved: somebody has come since it is shown.
    @ivar resting: those that are not, and how long.
    """

    votes: list[_Vote] = field(factory=list)
    shown: HostPort | None = None
    until: float = 0.0
    proved: bool = False
    resting: dict[HostPort, float] = field(factory=dict)

    def vote(self, vote: _Vote) -> None:
        self.votes = [
            other
            for other in self.votes
            if other.voter != vote.voter and (not vote.block or other.block != vote.block)
        ][1 - MAX_VOTES :]
        self.votes.append(vote)

    def came(self, place: HostPort, now: float) -> None:
        """Somebody has dialled this place, and it was us."""
        self.resting.pop(place, None)
        if place == self.shown:
            self.until = now + PROVED
            self.proved = True

    def choose(self, now: float) -> HostPort | None:
        """@return: what to show now."""
        for place in [place for place, until in self.resting.items() if until <= now]:
            del self.resting[place]
        if self.shown is not None and self.until <= now:
            self._rest(self.shown, self.until + REST)
            self.shown = None
        chosen = self._majority()
        if chosen is not None and chosen != self.shown:
            self.shown = chosen
            self.until = now + TRIAL
            self.proved = False
        return self.shown

    def _majority(self) -> HostPort | None:
        """@return: what more than half say, of those who do not speak of what rests."""
        places = [vote.place for vote in self.votes if vote.place not in self.resting]
        most = max(places, key=places.count, default=None)
        return most if most is not None and 2 * places.count(most) > len(places) else None

    def _rest(self, place: HostPort, until: float) -> None:
        self.resting[place] = until
        if len(self.resting) > MAX_RESTING:
            del self.resting[next(iter(self.resting))]


class Reachability:
    """See the module."""

    def __init__(self, own_blocks: Sequence[Network] = ()) -> None:
        """@param own_blocks: where each peer has a vote of its own: the operator's blocks."""
        self._own_blocks = tuple(own_blocks)
        self._slots: dict[tuple[Scope, int], _Slot] = {}

    def seen_from(
        self,
        peer: PublicKey,
        peer_host: str,
        host: str,
        listening: Iterable[HostPort],
    ) -> None:
        """
        A peer that we have dialled says from which host we come.

        @param peer_host: where we have dialled it.
        @param host: what it says; not an address, if it does not know.
        @param listening: see L{places}.
        """
        address = parse_ip(host)
        if address is None:
            return
        for place in listening:
            if address.version in _WILDCARDS.get(place.host, ()):
                self._vote(peer, peer_host, address, place.port)
                return

    def dialled_at(self, peer: PublicKey, peer_host: str, text: str, now: float) -> None:
        """
        A peer that has dialled us says where.

        @param peer_host: from where it comes.
        @param text: what it says, C{IP:PORT}; anything else, if it does not know.
        """
        found = _read(text)
        if found is None:
            return
        address, place = found
        slot = self._vote(peer, peer_host, address, place.port)
        if slot is not None:
            # If it is what most say, it is shown from now on.
            slot.choose(now)
            slot.came(place, now)

    def in_use(self, text: str, now: float) -> None:
        """A connection of somebody who has said this of it (L{dialled_at}) is in use still."""
        found = _read(text)
        if found is not None:
            for slot in self._slots.values():
                if slot.shown == found[1]:
                    slot.came(found[1], now)

    def _vote(
        self, peer: PublicKey, peer_host: str, address: IPv4Address | IPv6Address, port: int
    ) -> _Slot | None:
        """@return: where it counts."""
        where = parse_ip(peer_host)
        scope = scope_of(address)
        if where is None or scope is None or scope_of(where) is not scope:
            # Who is far away cannot know where we are near by, and the other way round.
            return None
        if scope is Scope.LINK and address.version == 6:
            return None  # nobody can dial that without the name of an interface
        blocks = blocks_of(peer_host, self._own_blocks) if scope is Scope.WORLD else None
        block = "" if blocks is None else blocks.narrow
        slot = self._slots.setdefault((scope, address.version), _Slot())
        slot.vote(_Vote(peer, block, HostPort(str(address), port)))
        return slot

    def places(self, listening: Iterable[HostPort], now: float) -> tuple[HostPort, ...]:
        """
        @param listening: where we listen for others; a host may be the wildcard C{0.0.0.0}
            or C{::}, and each other is shown as it is.  If there is none, nobody reaches us.
        @return: what to show to others.  The nearest are first, as who may dial those at all
            is near.
        """
        own = list(listening)
        if not own:
            return ()
        found = [(scope, place) for scope, place in map(_fixed, own) if scope is not None]
        # Where one is certain, no other one is tried: it is somebody else's, if the router gave
        # the port to him, and us another one.
        certain = {(scope, _version(place)) for scope, place in found}
        for (scope, version), slot in self._slots.items():
            shown = slot.choose(now)
            if shown is not None and (slot.proved or (scope, version) not in certain):
                found.append((scope, shown))
        found.sort(key=lambda each: each[0])
        return tuple(dict.fromkeys(place for _, place in found))

    def on_trial(self, now: float) -> bool:
        """Is a place shown at which nobody has come yet?"""
        return any(slot.choose(now) and not slot.proved for slot in self._slots.values())

    def proved(self, listening: Iterable[HostPort], now: float) -> bool:
        """Is there one of L{places} at which somebody has come, or that is shown as it is?"""
        if any(_fixed(place)[0] is not None for place in listening):
            return True
        return any(slot.choose(now) and slot.proved for slot in self._slots.values())


def _read(text: str) -> tuple[IPv4Address | IPv6Address, HostPort] | None:
    """@return: what is written as C{IP:PORT}, in its one form."""
    try:
        place = HostPort.parse(text)
    except InvalidAddress:
        return None
    address = parse_ip(place.host)
    return None if address is None else (address, HostPort(str(address), place.port))


def _version(place: HostPort) -> int:
    """@return: of the address that is meant."""
    address = parse_ip(place.host)
    assert address is not None
    return address.version


def _fixed(place: HostPort) -> tuple[Scope | None, HostPort]:
    """@return: how far away it is; L{None} if it is no place that others can dial."""
    address = parse_ip(place.host)
    scope = None if address is None else scope_of(address)
    return scope, place
