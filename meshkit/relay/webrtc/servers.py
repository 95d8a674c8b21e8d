"""Which STUN servers are asked, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv6Address, ip_address
from random import Random
from typing import Final

from attrs import frozen
from twisted.logger import Logger

from meshkit.identity.addresses import HostPort
from meshkit.relay.stun.message import IP, TRANSACTION_BYTES

#: Servers that are asked for one look.
MAX_STUN: Final = 4


@frozen
class Question:
    """
    What one server is asked, for one look.

    @ivar place: where it is.
    @ivar transaction: 12 bytes, by which its answer is known.
    """

    place: HostPort
    transaction: bytes


@frozen
class Seen:
    """
    @ivar server: which server has answered.
    @ivar ip: where it sees this machine.
    """

    server: HostPort
    ip: IP


class StunServers:
    """
    Those that are named are asked; if none is, those of the relays that lead others here.

    All of them at once, and the first to answer is the one: aiortc asks no more than one, and
    waits five seconds for one that is silent.

    @ivar seen: what the last look has found; L{None} if no server has answered.
    """

    _log = Logger()

    def __init__(self, rng: Random, named: Iterable[HostPort] = ()) -> None:
        """
        @param rng: nobody may guess what it gives.
        @param named: the operator's choice; of more than L{MAX_STUN} the first.
        """
        self._rng = rng
        self._named = tuple(named)[:MAX_STUN]
        self._heard: tuple[HostPort, ...] = ()
        self.seen: Seen | None = None

    @property
    def places(self) -> tuple[HostPort, ...]:
        """Which servers are asked now."""
        return self._named or self._heard

    def hear(self, places: Iterable[HostPort]) -> None:
        """
        @param places: where relays say that they answer.  aiortc asks by IPv4 alone, so others
            are left out.
        """
        found = dict.fromkeys(place for place in places if not is_ipv6(place.host))
        self._heard = tuple(found)[:MAX_STUN]

    def questions(self) -> Sequence[Question]:
        """@return: what to ask for one look."""
        return [Question(each, self._rng.randbytes(TRANSACTION_BYTES)) for each in self.places]

    def answered(self, seen: Seen | None) -> None:
        """Servers were asked.  @param seen: the first answer; L{None} if there was none."""
        self.seen = seen
        if seen is None:
            self._log.info(
                "none of the STUN servers answers: {servers}",
                servers=", ".join(each.text for each in self.places),
            )


def is_ipv6(host: str) -> bool:
    """Is it an IPv6 address?"""
    try:
        return isinstance(ip_address(host), IPv6Address)
    except ValueError:
        return False
