"""
Who can be reached through a relay, until when.  Pure; the time is an argument.

::

    [none] --reserve--> HELD --reserve (renewed)--> HELD
    HELD --release, expire--> [none]
    reserve when there is no room for one more --> refused; who holds one can always renew it
"""

from __future__ import annotations

from collections import OrderedDict

from attrs import frozen

from meshkit.errors import RelayLimitReached
from meshkit.identity.keys import PublicKey
from meshkit.relay.tunnel.limits import TunnelLimits
from meshkit.runtime.limits import Shares


@frozen
class Reservation:
    """
    @ivar peer: who can be reached.
    @ivar origin: the address, or block of addresses, from which it has reserved.
    @ivar member: is it a member, or a stranger?
    @ivar expires: in seconds of the clock that L{Reservations} is given.
    """

    peer: PublicKey
    origin: str
    member: bool
    expires: float


class Reservations:
    """All reservations of one relay.  At most as many as its limits allow."""

    def __init__(self, limits: TunnelLimits) -> None:
        self._seconds = limits.reservation_seconds
        self._room = {
            member: Shares(limits.of(member).reservations, limits.of(member).per_origin)
            for member in (False, True)
        }
        # The one that expires first is the first: all hold equally long.
        self._held: OrderedDict[PublicKey, Reservation] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def reserve(self, peer: PublicKey, origin: str, member: bool, now: float) -> Reservation:
        """
        Reserve, or renew.

        @raise RelayLimitReached: there is no room.  What the peer held before stays.
        """
        self.expire(now)
        # What it has is its own to replace.
        before = self._held.get(peer)
        if before is not None:
            self._room[before.member].give_back(before.origin)
        room = self._room[member]
        if not room.room(origin):
            if before is not None:
                self._room[before.member].take(before.origin)
            raise RelayLimitReached(
                f"this relay has {room.taken} of {room.total} reservations for such as you, and "
                f"{room.held(origin)} of {room.each} from {origin}: use another relay, or come "
                f"again later"
            )
        room.take(origin)
        made = Reservation(peer, origin, member, now + self._seconds)
        self._held[peer] = made
        self._held.move_to_end(peer)
        return made

    def find(self, peer: PublicKey, now: float) -> Reservation | None:
        """@return: what a peer holds now."""
        held = self._held.get(peer)
        return None if held is None or held.expires <= now else held

    def release(self, peer: PublicKey) -> None:
        """The peer is gone, or does not want to be reached any more; it may have had none."""
        held = self._held.pop(peer, None)
        if held is not None:
            self._room[held.member].give_back(held.origin)

    def expire(self, now: float) -> tuple[PublicKey, ...]:
        """@return: whose reservations are over; they are gone."""
        gone = []
        while self._held:
            first = next(iter(self._held.values()))
            if first.expires > now:
                break
            self.release(first.peer)
            gone.append(first.peer)
        return tuple(gone)

    def next_expiry(self) -> float | None:
        """@return: when the first of them is over."""
        return next(iter(self._held.values())).expires if self._held else None
