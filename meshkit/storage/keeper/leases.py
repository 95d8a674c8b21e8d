"""
Who wants a share to be kept, and until when: the note beside each share.  Pure.

::

    note = ["shard-note/1", stored: uint, checked: uint, content: bin 32, root: bin 32,
            size: uint, [[account: bin 32, lease: bin 32, end: uint], ...]]

C{account} is the key that was given the lease and is charged for the share, C{lease} the hash
of the secret that renews and ends it (L{meshkit.storage.terms.lease_hash}), C{end} a time in
seconds of Unix time, as C{stored} and C{checked} are.

A lease is remembered for L{GRACE_SECONDS} after its end, and its owner is charged so long.
When the last one was forgotten the share goes.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heapify, heappop, heappush
from typing import Annotated, Final

from attrs import evolve, field, frozen
from msgspec import Meta, Struct

from meshkit.errors import CapacityReached, LeaseUnknown, QuotaReached
from meshkit.storage.canonical import Description, Form
from meshkit.storage.header import Bytes32
from meshkit.storage.statements import MAX_NUMBER
from meshkit.storage.terms import GRACE_SECONDS, LEASE_SECONDS, MAX_NOTE

#: Leases on one share, and those of one owner among them.
MAX_LEASES: Final = 64
MAX_LEASES_EACH: Final = 8

_Number = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]


class _Lease(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    account: Bytes32
    lease: Bytes32
    end: _Number


class _Note(Description, frozen=True):
    stored: _Number
    checked: _Number
    content: Bytes32
    root: Bytes32
    size: _Number
    leases: Annotated[list[_Lease], Meta(max_length=MAX_LEASES)]


_form: Final = Form("shard-note/1", _Note, MAX_NOTE)


@frozen
class Lease:
    """
    Somebody wants a share to be kept.

    @ivar account: 32 bytes, the key of who was given the lease.
    @ivar lease: 32 bytes, the hash of its secret.
    @ivar end: when it ends.
    """

    account: bytes = field(repr=lambda account: account.hex()[:16])
    lease: bytes = field(repr=False)
    end: int


@frozen
class ShardNote:
    """
    What is kept with a share.

    @ivar content: id of the object.
    @ivar root: of the share, as it was computed here.
    @ivar size: bytes of the share itself.
    @ivar stored: when it came.
    @ivar checked: when scrubbing last came by and left a mark.
    @ivar leases: on it, at most L{MAX_LEASES}.
    """

    content: bytes = field(repr=lambda content: content.hex()[:16])
    root: bytes = field(repr=lambda root: root.hex()[:16])
    size: int
    stored: int
    checked: int = 0
    leases: tuple[Lease, ...] = ()

    @classmethod
    def decode(cls, raw: bytes) -> ShardNote:
        """@raise ObjectMalformed: if these bytes are no note."""
        wire = _form.decode(raw)
        leases = tuple(Lease(each.account, each.lease, each.end) for each in wire.leases)
        return cls(wire.content, wire.root, wire.size, wire.stored, wire.checked, leases)

    def encode(self) -> bytes:
        """@return: the note as the store keeps it."""
        leases = [_Lease(each.account, each.lease, each.end) for each in self.leases]
        wire = _Note(
            _form.kind, self.stored, self.checked, self.content, self.root, self.size, leases
        )
        return _form.encode(wire)

    @property
    def accounts(self) -> tuple[bytes, ...]:
        """Who is charged for the share, each once."""
        return tuple(dict.fromkeys(each.account for each in self.leases))

    @property
    def keep_until(self) -> int:
        """
        When the share may go.  One that has no lease is kept as though it had been given one
        when it came: its note may have been lost, and its owners may renew theirs.
        """
        ends = (each.end for each in self.leases)
        return max((self.stored + LEASE_SECONDS, *ends)) + GRACE_SECONDS

    @property
    def next_change(self) -> int:
        """When the first lease is forgotten, or the share may go."""
        if not self.leases:
            return self.keep_until
        return min(each.end for each in self.leases) + GRACE_SECONDS

    def lease_end(self, now: int) -> int:
        """@return: the latest end of a lease; 0 if none lasts."""
        return max((each.end for each in self.leases if each.end > now), default=0)

    def find(self, lease: bytes) -> Lease | None:
        """@return: the lease with this hash."""
        return next((each for each in self.leases if each.lease == lease), None)

    def with_lease(self, account: bytes, lease: bytes, now: int) -> ShardNote:
        """
        Have a lease last its full time from now on.

        @param account: who is charged, if there is no such lease yet.
        @raise QuotaReached: if the owner has as many leases on the share as one may have.
        @raise CapacityReached: if there are as many leases on it as there can be.
        """
        note, end = self.pruned(now), now + LEASE_SECONDS
        there = note.find(lease)
        if there is not None:
            # Never earlier than promised, also if the clock was set back.
            renewed = evolve(there, end=max(end, there.end))
            leases = tuple(renewed if each is there else each for each in note.leases)
            return evolve(note, leases=leases)
        if sum(each.account == account for each in note.leases) >= MAX_LEASES_EACH:
            raise QuotaReached(
                f"this owner has {MAX_LEASES_EACH} leases on the share: release one of them"
            )
        if len(note.leases) >= MAX_LEASES:
            raise CapacityReached(f"the share has {MAX_LEASES} leases, and can have no more")
        return evolve(note, leases=(*note.leases, Lease(account, lease, end)))

    def without_lease(self, lease: bytes, now: int) -> ShardNote:
        """
        Give a lease up.

        @raise LeaseUnknown: if there is no such lease.
        """
        note = self.pruned(now)
        if note.find(lease) is None:
            raise LeaseUnknown("there is no lease of this secret on the share")
        return evolve(note, leases=tuple(each for each in note.leases if each.lease != lease))

    def pruned(self, now: int) -> ShardNote:
        """@return: the note without leases that are to be forgotten."""
        lasting = tuple(each for each in self.leases if each.end + GRACE_SECONDS > now)
        return self if len(lasting) == len(self.leases) else evolve(self, leases=lasting)


class Deadlines:
    """
    When something has to be done about which share.

    Each has one entry, which may come too early and never too late: who finds that nothing
    is to be done puts it back.  What has no share any more costs little until there is more of
    that than of the others.
    """

    #: Entries below which nothing is tidied up.
    FEW: Final = 1_024

    def __init__(self) -> None:
        self._heap: list[tuple[int, bytes]] = []
        self._known: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._known)

    @property
    def entries(self) -> int:
        """How many there are, with those that are of no use."""
        return len(self._heap)

    def add(self, name: bytes, when: int) -> None:
        """@param when: at the latest.  Without effect if it comes up earlier anyway."""
        if when < self._known.get(name, MAX_NUMBER + 1):
            self._known[name] = when
            heappush(self._heap, (when, name))
            self._tidy()

    def discard(self, name: bytes) -> None:
        """The share is gone."""
        self._known.pop(name, None)
        self._tidy()

    def due(self, now: int, most: int) -> list[bytes]:
        """@return: at most so many that have come up.  They have no entry any more."""
        found: list[bytes] = []
        while self._heap and self._heap[0][0] <= now and len(found) < most:
            when, name = heappop(self._heap)
            if self._known.get(name) == when:
                del self._known[name]
                found.append(name)
        return found

    def _tidy(self) -> None:
        if len(self._heap) > 2 * len(self._known) + self.FEW:
            self._heap = [(when, name) for name, when in self._known.items()]
            heapify(self._heap)


def changed_accounts(
    before: Iterable[bytes], after: Iterable[bytes]
) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """@return: who is charged from now on, and who is not any more."""
    old, new = dict.fromkeys(before), dict.fromkeys(after)
    return tuple(a for a in new if a not in old), tuple(a for a in old if a not in new)
