"""
Which registrations count.  Pure.

A registration counts if it is of this moment, newer than the last one of its peer, and if the
operator wants that peer.  As it has to be of this moment, nothing but the last one of each peer
has to be remembered, and that of a peer that has left no longer than for L{KEPT}: what is older
is refused by its age.  So a statement that was overheard is worth nothing, over a restart and
over a restored backup too.
"""

from __future__ import annotations

from typing import Final, Literal

from attrs import frozen

from meshkit.errors import (
    NotRegistered,
    RegistrationRefused,
    RegistrationStale,
    RegistryFull,
)
from meshkit.identity.keys import PublicKey
from meshkit.relay.registry.registration import Registration

__all__ = ["KEPT", "MAX_AGE", "MAX_SKEW", "Known", "Outcome", "Rules", "judge"]

#: Milliseconds by which the clock of a peer may be ahead, and by which it may be behind with
#: the way of the statement added.
MAX_SKEW: Final = 600_000
MAX_AGE: Final = 600_000
#: Milliseconds for which the last word of a peer that has left is kept.
KEPT: Final = MAX_AGE + MAX_SKEW

#: What becomes of a registration: the peer is new, is known already, has left, or has said
#: nothing that the relay had not heard.
Outcome = Literal["entered", "changed", "left", "unchanged"]


@frozen
class Rules:
    """
    Whom the operator wants.

    @ivar max_peers: how many; those that have left less than L{KEPT} ago, and those that are
        not listed, have a place too.
    @ivar allow: only these; L{None}: every member of the network.
    @ivar deny: not these.
    """

    max_peers: int = 10_000
    allow: frozenset[PublicKey] | None = None
    deny: frozenset[PublicKey] = frozenset()

    def admits(self, peer: PublicKey) -> bool:
        """May this peer be known here?"""
        return peer not in self.deny and (self.allow is None or peer in self.allow)


@frozen
class Known:
    """
    What is kept of a peer.

    @ivar last: its last registration.
    @ivar here: is it registered?  It may be not, by its own word or that of the operator.
    """

    last: Registration
    here: bool


def judge(
    registration: Registration, known: Known | None, places: int, rules: Rules, now: int
) -> Outcome:
    """
    @param registration: verified.
    @param known: of its peer; L{None} if there is nothing.
    @param places: that are taken.
    @param now: milliseconds since 1970.
    @return: what becomes of it.
    @raise RegistrationStale: it is not of this moment, or not newer than the last one.
    @raise RegistrationRefused: the operator does not want the peer.
    @raise RegistryFull: there is no place.
    @raise NotRegistered: it wants to leave and is not there.
    """
    _check_time(registration.number, now)
    if known is not None and registration.number <= known.last.number:
        if registration.raw == known.last.raw and registration.stays == known.here:
            # Who has not got the answer asks again; to say it twice changes nothing.
            return "unchanged"
        raise _stale(
            f"the relay has a newer registration of {registration.peer.text}: sign it anew", now
        )
    here = known is not None and known.here
    if not registration.stays:
        if not here:
            raise NotRegistered(f"{registration.peer.text} is not registered at this relay")
        return "left"
    if not rules.admits(registration.peer):
        raise RegistrationRefused(
            f"the operator of this relay does not take {registration.peer.text}: ask them"
        )
    if here:
        return "changed"
    if known is None and places >= rules.max_peers:
        raise RegistryFull(
            f"this relay has {rules.max_peers} peers and takes no more: ask another relay"
        )
    return "entered"


def _check_time(number: int, now: int) -> None:
    if number > now + MAX_SKEW:
        ahead = (number - now) // 1000
        raise _stale(
            f"the registration is of {ahead} seconds from now: is the clock of the peer right?", now
        )
    if number < now - MAX_AGE:
        ago = (now - number) // 1000
        raise _stale(
            f"the registration was signed {ago} seconds ago, and {MAX_AGE // 1000} are the limit: "
            "sign it anew; is the clock of the peer right?",
            now,
        )


def _stale(why: str, now: int) -> RegistrationStale:
    error = RegistrationStale(why)
    error.details = {"now": now}
    return error
