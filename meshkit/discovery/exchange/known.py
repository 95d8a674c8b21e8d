"""
The address records that this node knows: of each peer the newest, as the peer has signed it.
Pure; times are milliseconds since 1970.

Of two records of one peer the one with the higher sequence counts, whoever gave it, and however
often the other one is given.  So whoever withholds a new record, or gives an old one, delays us
until somebody else gives the new one, and no more; and that he did is seen then.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterable
from enum import Enum
from ipaddress import IPv6Address
from random import Random
from typing import Final

from attrs import define

from meshkit.errors import AddressRecordInvalid
from meshkit.identity.addresses import HostPort
from meshkit.identity.keys import PublicKey
from meshkit.identity.records import AddressRecord
from meshkit.identity.scopes import Scope, parse_ip, scope_of

__all__ = ["AGAIN", "MAX_KNOWN", "Known", "Taken"]

#: Peers whose records are kept.  Of those that this node has nothing to do with, the one heard
#: of longest ago makes room.
MAX_KNOWN: Final = 1_000
#: Seconds after which a peer is dialled again at a host where it did not answer, and which
#: somebody names: in its own record, or out of the hash table.
AGAIN: Final = 3_600.0
#: Such hosts at which a peer is dialled within that time.
MAX_TRIED: Final = 32


class Taken(Enum):
    """What came of a record that was given."""

    NEWER = "newer"
    SAME = "same"
    OLDER = "older"


@define(eq=False)
class _Peer:
    """
    @ivar record: the newest.
    @ivar nearest: how near the nearest of those is who gave it.
    @ivar spoke: the peer itself has given one once, and proved its key.
    """

    record: AddressRecord
    nearest: Scope
    spoke: bool = False


class Known:
    """See the module."""

    def __init__(self, kept: Container[PublicKey] = (), limit: int = MAX_KNOWN) -> None:
        """@param kept: peers whose records do not make room for others as long as there are
        records of others."""
        self._kept = kept
        self._limit = limit
        # Those heard of last are last.
        self._peers: OrderedDict[PublicKey, _Peer] = OrderedDict()
        # At which hosts they were dialled in vain, and when: seconds of any clock.  The last is
        # last.
        self._tried: OrderedDict[PublicKey, dict[str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._peers)

    def take(self, record: AddressRecord, nearest: Scope) -> Taken:
        """
        @param record: a verified one, of our network.
        @param nearest: how near whoever gave it is.
        @return: is it news?
        """
        peer = self._peers.get(record.key)
        if peer is not None:
            self._peers.move_to_end(record.key)
            if record.sequence < peer.record.sequence:
                return Taken.OLDER
            if record.sequence == peer.record.sequence:
                if record.raw == peer.record.raw:
                    peer.nearest = min(peer.nearest, nearest)
                return Taken.SAME
            peer.record, peer.nearest = record, nearest
            return Taken.NEWER
        self._peers[record.key] = _Peer(record, nearest)
        if len(self._peers) > self._limit:
            del self._peers[self._least()]
        return Taken.NEWER

    def _least(self) -> PublicKey:
        for key in self._peers:
            if key not in self._kept:
                return key
        return next(iter(self._peers))

    def find(self, key: PublicKey) -> AddressRecord | None:
        """@return: the newest record of a peer; it may have expired."""
        peer = self._peers.get(key)
        return None if peer is None else peer.record

    def nearest(self, key: PublicKey) -> Scope:
        """@return: how near the nearest of those is who gave it."""
        return self._peers[key].nearest

    def spoke(self, key: PublicKey) -> bool:
        """
        A peer has given its record itself, and proved its key.

        @return: that is news.
        """
        peer = self._peers.get(key)
        if peer is None or peer.spoke:
            return False
        peer.spoke = True
        return True

    def has_spoken(self, key: PublicKey) -> bool:
        """Is a peer known not only from what others say?"""
        peer = self._peers.get(key)
        return peer is not None and peer.spoke

    def records(self) -> list[AddressRecord]:
        """All of them, those heard of last first."""
        return [peer.record for peer in reversed(self._peers.values())]

    # --- what others are told --------------------------------------------------------------

    def given(
        self,
        keys: Iterable[PublicKey],
        more: int,
        now: int,
        rng: Random,
        asker: PublicKey | None = None,
    ) -> list[AddressRecord]:
        """
        @param keys: who is asked for.
        @param more: how many others are welcome.
        @param asker: whose own record is of no use.
        @return: records that are good now, those asked for first.
        """
        found = {}
        for key in keys:
            record = self.find(key)
            if record is not None and _good(record, now):
                found[key] = record
        if more:
            others = [
                record
                for record in self.records()
                if record.key not in found
                and record.key != asker
                and record.addresses
                and _good(record, now)
            ]
            if len(others) > more:
                others = rng.sample(others, more)
            found.update((record.key, record) for record in others)
        return list(found.values())

    # --- where it was tried -----------------------------------------------------------------

    def untried(self, key: PublicKey, now: float) -> list[HostPort]:
        """
        @param now: seconds, as those of L{trying}.
        @return: the places that the newest record of a peer names, but for those that
            L{was_tried}.
        """
        peer = self._peers.get(key)
        if peer is None:
            return []
        return [each for each in peer.record.addresses if not self.was_tried(key, each, now)]

    def was_tried(self, key: PublicKey, place: HostPort, now: float) -> bool:
        """
        Was a peer dialled at the host of a place, whatever the port, within L{AGAIN}, and did not
        answer?  Or at so many others that it has had its share?
        """
        hosts = self._tried.get(key, {})
        lately = {host for host, at in hosts.items() if 0 <= now - at < AGAIN}
        return _host(place) in lately or len(lately) >= MAX_TRIED

    def trying(self, key: PublicKey, place: HostPort, now: float) -> None:
        """A peer is dialled somewhere; until L{reached}, in vain."""
        hosts = self._tried.pop(key, {})
        hosts.pop(_host(place), None)
        hosts[_host(place)] = now
        if len(hosts) > MAX_TRIED:
            del hosts[next(iter(hosts))]
        self._tried[key] = hosts
        if len(self._tried) > self._limit:
            self._tried.popitem(last=False)

    def reached(self, key: PublicKey) -> None:
        """It answered: what was tried in vain may be tried again when it is lost."""
        self._tried.pop(key, None)

    def seen_at(self, key: PublicKey, place: HostPort) -> None:
        """It dialled us from this host: to dial it there, at whatever port, hurts nobody else."""
        self._tried.get(key, {}).pop(_host(place), None)

    def try_again(self) -> None:
        """This node is somewhere else, or was asleep: what failed may not fail from here."""
        self._tried.clear()


def _host(place: HostPort) -> str:
    """
    @return: an IPv4 address or an IPv6 /64, as that of one who is to be spared.  On this machine
        each port is for itself: nodes there differ in nothing else.
    """
    address = parse_ip(place.host)
    if address is None or scope_of(address) is Scope.MACHINE:
        return place.text
    if address.version == 4:
        return str(address)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"


def _good(record: AddressRecord, now: int) -> bool:
    try:
        record.check_time(now)
    except AddressRecordInvalid:
        return False
    return True
