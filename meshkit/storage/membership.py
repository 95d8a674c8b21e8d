"""
Which storage peers are there, as they say themselves.  Pure.

A peer's signed record (L{meshkit.storage.statements.StorageRecord}) is its heartbeat: it is a
member from then on until the record expires.  Nobody has to be believed for that but the peer,
and it not too far:

  - Members are known by their keys.  Who is asked at an address under one key and answers
    under another one is not that member, and takes nothing from it.
  - The sequence of a peer's records grows.  What does not is a repetition.  That is remembered
    for longer than any record holds, so that an expired member is not brought back by an older
    record of its own.
  - A record of another network, from the future, or good for longer than
    L{MAX_RECORD_SECONDS <meshkit.storage.statements.MAX_RECORD_SECONDS>} is refused, and so
    is one that names an address where nobody can be reached.
  - There are at most L{MAX_MEMBERS}, and those whom the operator has invited.  Who comes after
    that is refused, and nobody is put out: whoever can make keys could otherwise put out
    everybody.

Times are seconds of Unix time.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import define, frozen

from meshkit.errors import Overloaded, StatementInvalid, StatementStale
from meshkit.identity.keys import PublicKey
from meshkit.storage.statements import MAX_RECORD_SECONDS, MAX_SKEW, StorageRecord

#: Peers that are known at the same time.
MAX_MEMBERS: Final = 1_000
#: Seconds for which the sequence of a peer is remembered: any record that was made before has
#: expired by then, whatever the clocks say within what they may.
REMEMBERED: Final = MAX_RECORD_SECONDS + 2 * MAX_SKEW


@frozen
class Member:
    """
    A peer whose record holds.

    @ivar record: what it said last.
    @ivar heard: when.
    """

    record: StorageRecord
    heard: int

    @property
    def key(self) -> PublicKey:
        """Who."""
        return self.record.peer


@define
class _Known:
    record: StorageRecord
    heard: int
    # It has neither expired nor left, as far as that was noticed.
    there: bool = True


class Membership:
    """
    See the module.
    """

    def __init__(
        self, network: bytes, limit: int = MAX_MEMBERS, invited: Iterable[PublicKey] = ()
    ) -> None:
        """
        @param network: id of the network whose peers are admitted.
        @param limit: how many are known at the same time.
        @param invited: peers for whom there is room in any case.
        """
        self._network = network
        self._limit = limit
        self._invited = frozenset(invited)
        self._known: dict[PublicKey, _Known] = {}

    def __len__(self) -> int:
        """How many are known, members or not."""
        return len(self._known)

    def take(self, raw: bytes, now: int, peer: PublicKey | None = None) -> Member:
        """
        A record has come.

        @param raw: as it was signed.
        @param peer: who was asked for it; L{None} if it came by itself.
        @raise StatementStale: if it has expired, or is no newer than what is known.
        @raise StatementInvalid: if it cannot be used, or is not that peer's own.
        @raise Overloaded: if there is no room for one more peer.
        """
        record = StorageRecord.open(raw, peer)
        if record.network != self._network:
            raise StatementInvalid(
                f"the record of {record.peer.text} is of another network: is the peer set up for "
                f"this one?"
            )
        record.check_time(now)
        known = self._known.get(record.peer)
        if known is not None and record.sequence <= known.record.sequence:
            raise StatementStale(
                f"record {record.sequence} of {record.peer.text} does not follow record "
                f"{known.record.sequence}: it was seen before"
            )
        if known is None and record.peer not in self._invited:
            self._make_room(now)
        self._known[record.peer] = _Known(record, now)
        return Member(record, now)

    def _make_room(self, now: int) -> None:
        if self._strangers() < self._limit:
            return
        self._forget(now)
        if self._strangers() >= self._limit:
            raise Overloaded(f"{self._limit} storage peers are known already")

    def _strangers(self) -> int:
        return sum(peer not in self._invited for peer in self._known)

    def _forget(self, now: int) -> None:
        over = [key for key, known in self._known.items() if now >= known.heard + REMEMBERED]
        for key in over:
            del self._known[key]

    def find(self, peer: PublicKey, now: int) -> Member | None:
        """@return: a peer whose record holds now; L{None} if it is no member, or no more."""
        known = self._known.get(peer)
        if known is None or not known.there or now >= known.record.expires:
            return None
        return Member(known.record, known.heard)

    def members(self, now: int) -> list[Member]:
        """@return: those whose records hold now, in the order of their keys."""
        found = (self.find(peer, now) for peer in self._sorted())
        return [member for member in found if member is not None]

    def _sorted(self) -> list[PublicKey]:
        return sorted(self._known, key=lambda each: each.raw)

    def leave(self, peer: PublicKey) -> None:
        """A peer was not reached: it is no member until it says something new."""
        known = self._known.get(peer)
        if known is not None:
            known.there = False

    def prune(self, now: int) -> list[PublicKey]:
        """
        Put out those whose records have expired.  What it takes to refuse their older ones is
        kept for a while.

        @return: who was a member and is none any more, in the order of their keys.
        """
        gone = []
        for peer in self._sorted():
            known = self._known[peer]
            if known.there and now >= known.record.expires:
                known.there = False
                gone.append(peer)
        self._forget(now)
        return gone
