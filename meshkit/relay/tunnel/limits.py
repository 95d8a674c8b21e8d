"""
How much a relay does for whom.  Pure.

The numbers for strangers are those of go-libp2p's circuit relay v2: enough to find a direct path,
too little to live on.
"""

from __future__ import annotations

from typing import Any, Final

from attrs import field, frozen

#: Seconds for which a reservation holds; it is renewed at half.
RESERVATION_SECONDS: Final = 3600.0
#: Seconds in which the reserved peer has to fetch a circuit that was announced to it.
JOIN_SECONDS: Final = 10.0
#: Seconds in which a connection has to say what it is for.
OPENING_SECONDS: Final = 10.0
#: Seconds in which a control connection has to reserve something.
RESERVE_SECONDS: Final = 30.0
#: Seconds after which a circuit in which nothing moves is cut.
IDLE_SECONDS: Final = 600.0
#: Requests for circuits that one key, and one address, may make each second and at once.
ASK_RATE: Final = 1.0
ASK_BURST: Final = 16.0
#: Reservations that one key may ask for each second and at once.
RESERVE_RATE: Final = 0.1
RESERVE_BURST: Final = 10.0
#: Circuits that a hidden peer takes at a time, whatever its relay announces.
MAX_JOINED: Final = 32
#: Connections of one key that have not said what they are for, or wait for the other side.
MAX_WAITING: Final = 16
#: ... and of all keys.
MAX_WAITING_ALL: Final = 1_024
#: The part of all circuits, of strangers' and of members', that those who ask from one IPv4 address
#: or IPv6 /64 may have, with all their keys: 1/8; and no less than one key may have.
ORIGIN_SHARE: Final = 8
#: Bytes from a peer beyond which a circuit is charged to its day, and not to the asker's alone: a
#: handshake that it refuses takes less, so it has taken up who has asked.
HANDSHAKE_BYTES: Final = 1_024

_DAY: Final = 86_400


def _positive(_instance: object, _attribute: object, value: Any) -> None:
    if not value > 0:
        raise ValueError(f"a limit of {value} leaves no room for anything")


@frozen
class Allowance:
    """
    What a relay does for one class of peers: strangers, or members.

    @ivar reservations: how many there may be in all.
    @ivar per_origin: how many from one IPv4 address or IPv6 /64.
    @ivar circuits: how many there may be in all.
    @ivar per_peer: how many of one key, be it at the asking or at the hidden end.
    @ivar seconds: how long a circuit may last.
    @ivar size: bytes that a circuit may carry in each direction.
    @ivar daily: bytes of all circuits of one key in a day; see L{HANDSHAKE_BYTES}.
    """

    reservations: int = field(validator=_positive)
    per_origin: int = field(validator=_positive)
    circuits: int = field(validator=_positive)
    per_peer: int = field(validator=_positive)
    seconds: float = field(validator=_positive)
    size: int = field(validator=_positive)
    daily: int = field(validator=_positive)

    @property
    def byte_rate(self) -> float:
        """C{daily} as bytes per second."""
        return self.daily / _DAY

    @property
    def circuits_of_origin(self) -> int:
        """How many circuits those may ask for who come from one address."""
        return max(self.per_peer, self.circuits // ORIGIN_SHARE)


#: What anybody gets.
STRANGERS: Final = Allowance(
    reservations=128,
    per_origin=8,
    circuits=256,
    per_peer=16,
    seconds=120.0,
    size=128 * 1024,
    daily=64 * 2**20,
)
#: What members of the relay's own mesh get, or whom its owner names.  One key has as many circuits
#: as a hidden peer takes, and as an owner needs for the peers of an object: nine, which are given
#: shares, audited and looked at for direct paths.
MEMBERS: Final = Allowance(
    reservations=8_192,
    per_origin=64,
    circuits=1_024,
    per_peer=32,
    seconds=86_400.0,
    size=2**40,
    daily=16 * 2**30,
)


@frozen
class TunnelLimits:
    """
    @ivar strangers: a circuit counts here if one of its two ends is a stranger, so that a flood
        of them takes nothing from the members.
    @ivar members: a circuit counts here if both are members.
    """

    strangers: Allowance = STRANGERS
    members: Allowance = MEMBERS
    reservation_seconds: float = field(default=RESERVATION_SECONDS, validator=_positive)
    join_seconds: float = field(default=JOIN_SECONDS, validator=_positive)
    idle_seconds: float = field(default=IDLE_SECONDS, validator=_positive)

    def of(self, member: bool) -> Allowance:
        """@return: what a member, or a stranger, gets."""
        return self.members if member else self.strangers
