"""
Contacts: what is known of another node, and where it may be dialled.  Pure.

An answer of a lookup makes us dial addresses, so it could be used to have many nodes dial
one victim, or what only this machine can reach (C{docs/protocol/kademlia.md}):

  - Contacts travel as address records, which their owners signed.  No record, no dial.
  - An address of this machine, this link or this site is dialled only if whoever named it
    is at least as near.
  - Host names are not dialled: anybody can have one point anywhere, at any time.
  - Ports below 1024 are not, but for those of the web.
  - A host at which nobody answered three times in a minute rests, whoever names it.
"""

from __future__ import annotations

from collections import deque
from ipaddress import IPv6Address
from typing import Final

from attrs import evolve, field, frozen

from meshkit.identity.addresses import HostPort
from meshkit.identity.keys import PublicKey
from meshkit.identity.records import AddressRecord
from meshkit.identity.scopes import Scope, parse_ip, scope_of
from meshkit.kademlia.blocks import Blocks, Network, blocks_of
from meshkit.kademlia.distance import NodeId, node_id, number

#: Ports below 1024 that are dialled: a node may well hide behind those.
LOW_PORTS: Final = frozenset({80, 443})
#: Dials to one address that may fail within how many seconds.
MAX_FAILED_DIALS: Final = 3
FAILED_DIALS_WITHIN: Final = 60.0
#: Hosts whose failed dials are remembered.
MAX_FAILED_HOSTS: Final = 10_000


@frozen
class Contact:
    """
    Another node, as one may ask it.

    @ivar key: its key, which it proves when it is dialled.
    @ivar record: what it says of itself.
    @ivar places: where it may be dialled, never empty; where it was reached is first.
    @ivar blocks: what it is counted for: the address of the first of them.
    @ivar id: where it is.
    @ivar number: the same as an integer.
    """

    key: PublicKey
    record: AddressRecord = field(eq=False, repr=False)
    places: tuple[HostPort, ...] = field(eq=False)
    blocks: Blocks | None = field(eq=False, repr=False)
    id: NodeId = field(init=False, eq=False, repr=False)
    number: int = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        place = node_id(self.key)
        object.__setattr__(self, "id", place)
        object.__setattr__(self, "number", number(place))


@frozen
class DialRules:
    """
    Where this node dials on somebody's word.

    @ivar own_blocks: address blocks of which the operator says that the nodes there are
        his: they are not counted.
    @ivar low_ports: dial ports below 1024, too.
    """

    own_blocks: tuple[Network, ...] = ()
    low_ports: bool = False

    def contact(self, record: AddressRecord, namer: Scope) -> Contact | None:
        """
        @param record: a verified one, of our network.
        @param namer: how near whoever gave it is: L{scope_of} the address at which it was
            reached.
        @return: whom it is of; L{None} if there is no address that may be dialled.
        """
        places = tuple(place for place in record.addresses if self.may_dial(place, namer))
        if not places:
            return None
        blocks = blocks_of(places[0].host, self.own_blocks)
        return Contact(record.key, record, places, blocks)

    def may_dial(self, place: HostPort, namer: Scope) -> bool:
        """May this address be dialled because somebody named it?"""
        address = parse_ip(place.host)
        scope = None if address is None else scope_of(address)
        if scope is None or scope < namer:
            return False
        return place.port >= 1024 or place.port in LOW_PORTS or self.low_ports

    def reached(self, contact: Contact, place: HostPort) -> Contact:
        """
        @param place: where it answered, and proved its key.
        @return: the same contact, with that place first, and counted for it.
        """
        if contact.places[0] == place:
            return contact
        others = tuple(other for other in contact.places if other != place)
        return evolve(
            contact, places=(place, *others), blocks=blocks_of(place.host, self.own_blocks)
        )


class FailedDials:
    """
    At which hosts nobody answered lately, from whomever they were heard: an IPv4 address or
    an IPv6 /64, whatever the port.  In the operator's own blocks each port is for itself.

    A dial that is under way counts as one that fails, or as many would be sent to one host before
    the first has failed.

    When L{MAX_FAILED_HOSTS} are remembered, the one that failed longest ago is forgotten before
    its time.  To have it dialled three times more takes as many failed dials to others; if none
    were dialled instead, whoever names so many could keep us from everybody.
    """

    def __init__(self, own_blocks: tuple[Network, ...] = (), limit: int = MAX_FAILED_HOSTS) -> None:
        self._own_blocks = own_blocks
        self._limit = limit
        # Host -> when dials to it failed; the hosts in the order of their last failure.
        self._failures: dict[str, deque[float]] = {}
        # Host -> dials that are under way.
        self._under_way: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._failures)

    def may_dial(self, place: HostPort, now: float) -> bool:
        """@param now: seconds."""
        return self._room(place, now) > 0

    def busy(self, place: HostPort, now: float) -> bool:
        """May it not be dialled now, but perhaps when a dial that is under way has ended?"""
        under_way = self._under_way.get(self._host(place), 0)
        return under_way > 0 and -under_way < self._room(place, now) <= 0

    def _room(self, place: HostPort, now: float) -> int:
        """How many dials there may be."""
        self._forget(now)
        host = self._host(place)
        failures = self._failures.get(host)
        if failures is None:
            return MAX_FAILED_DIALS - self._under_way.get(host, 0)
        while failures and failures[0] <= now - FAILED_DIALS_WITHIN:
            failures.popleft()
        return MAX_FAILED_DIALS - len(failures) - self._under_way.get(host, 0)

    def began(self, place: HostPort) -> None:
        """A dial to it is under way, until L{ended}."""
        host = self._host(place)
        self._under_way[host] = self._under_way.get(host, 0) + 1

    def ended(self, place: HostPort) -> None:
        """It is no more, whatever came of it."""
        host = self._host(place)
        left = self._under_way.pop(host) - 1
        if left:
            self._under_way[host] = left

    def failed(self, place: HostPort, now: float) -> None:
        """A dial to it failed."""
        self._forget(now)
        host = self._host(place)
        failures = self._failures.pop(host, None)
        if failures is None:
            failures = deque(maxlen=MAX_FAILED_DIALS)
        failures.append(now)
        self._failures[host] = failures
        if len(self._failures) > self._limit:
            del self._failures[next(iter(self._failures))]

    def reached(self, place: HostPort) -> None:
        """Somebody answered there."""
        self._failures.pop(self._host(place), None)

    def _host(self, place: HostPort) -> str:
        address = parse_ip(place.host)
        if address is None or any(address in network for network in self._own_blocks):
            return place.text
        if address.version == 4:
            return str(address)
        return f"{IPv6Address(int(address) >> 64 << 64)}/64"

    def _forget(self, now: float) -> None:
        while self._failures:
            host = next(iter(self._failures))
            if self._failures[host][-1] > now - FAILED_DIALS_WITHIN:
                return
            del self._failures[host]
