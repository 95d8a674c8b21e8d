"""
What a node keeps for others.

Anybody may ask for anything to be kept, under as many keys as he likes to make.  So:

  - What is not what its kind asks for is refused; so is what is older than what is here, or
    than what was here until it expired.
  - There are quotas (L{Quota}): for each owner, or, of kinds that anybody may publish, for
    each peer that brings records; for each key; and for all together.
  - Where a key or everything is full, those with whom we have no history make room first,
    and of these who has not renewed his record for longest.  An owner over his own quota is
    refused instead: it is his to choose.
  - A record is good until the time that its owner has signed.  Storing it again makes it
    neither younger nor longer lived.

It is republished every hour, so that it outlives the nodes that keep it, unless somebody
nearer to it has just done that; and handed to newcomers that are nearer than we are.

Pure: what is to be done is decided here, and done by others.  What changed is to be written
to the disk (L{Holdings.changes}) before anybody is told that it is kept.  Times are
milliseconds since 1970.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from enum import Enum
from random import Random
from typing import Final, TypeAlias

from attrs import define, field, frozen

from meshkit.errors import (
    RecordChanged,
    RecordError,
    RecordNotKept,
    RecordQuotaReached,
    RecordReplayed,
    RecordStale,
)
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IRecordKind
from meshkit.kademlia.distance import NodeId, node_id, number
from meshkit.kademlia.kinds import Kinds
from meshkit.kademlia.records import MAX_LIFETIME, Record, digest_of
from meshkit.kademlia.routing import K
from meshkit.kademlia.schedule import REPUBLISH, Schedule, jittered
from meshkit.runtime.limits import Shares

#: Milliseconds after which a record is republished even if others did so all the time: else
#: who stores it here again and again, and nowhere else, would have us let it die out.
LONGEST: Final = 6 * 3_600_000
#: Milliseconds of what is due at a key soon, and goes with what is due now.
AHEAD: Final = 1_800_000
#: So many of those that keep a record give it to a newcomer: the next behind it.
HANDING: Final = 3
#: How many of the nodes near to a key it takes to know which these are.
NEAREST: Final = K + HANDING

#: Bytes of records in an answer, and how many.
ANSWER_BYTES: Final = 64 * 1024
MAX_ANSWERED: Final = 200
#: What MessagePack takes for each, at most.
_AROUND_EACH: Final = 3
#: Places of which is remembered how old a record may not be.
MAX_FLOORS: Final = 20_000
#: Places of which has to be written what has changed, while the disk takes nothing, beside as many
#: as there are records: then nothing else is taken either.
MAX_UNWRITTEN: Final = 2 * MAX_FLOORS
#: Records that are looked at in one go of something that looks at all.
STEP: Final = 256

#: A place for one record: its kind, its key, and which of those there it is.
Place: TypeAlias = tuple[str, NodeId, bytes]
_Spot: TypeAlias = tuple[str, NodeId]


def _positive(_instance: object, attribute: object, value: int) -> None:
    if value < 1:
        raise ValueError(f"a quota of {value} keeps nothing")


@frozen
class Quota:
    """
    How much is kept.

    @ivar records: in all.
    @ivar size: bytes, in all.
    @ivar each_records: of one owner, or of kinds that anybody may publish, of one peer.
    @ivar each_size: likewise.
    """

    records: int = field(default=20_000, validator=_positive)
    size: int = field(default=64 * 1024 * 1024, validator=_positive)
    each_records: int = field(default=1_000, validator=_positive)
    each_size: int = field(default=4 * 1024 * 1024, validator=_positive)

    def __attrs_post_init__(self) -> None:
        if self.each_records > self.records or self.each_size > self.size:
            raise ValueError("one may not have more kept than there is room for in all")


class Kept(Enum):
    """
    What came of storing a record.

    @cvar NEW: there was none.
    @cvar RENEWED: it has taken the place of an older one.
    @cvar KNOWN: it was here already, or the same value is kept for at least as long.  It may
        still be on its way to the disk.
    """

    NEW = "new"
    RENEWED = "renewed"
    KNOWN = "known"


@frozen
class Seen:
    """
    A record that somebody has read, and wants to replace.

    @ivar sequence: its own; 0 if there was none.
    @ivar digest: its L{Record.digest}.
    """

    sequence: int
    digest: bytes = bytes(32)


@frozen
class Found:
    """
    What is kept at a key.

    @ivar records: some of them, at random, as they travel.
    @ivar held: how many there are.
    """

    records: tuple[bytes, ...]
    held: int


@frozen
class Due:
    """
    Records of one key that should be stored at others.

    @ivar records: as they travel, in any order.
    """

    kind: str
    key: NodeId
    records: tuple[bytes, ...]


@frozen
class Row:
    """
    What is written down of a place.

    @ivar sequence: of the record there.  If C{raw} is empty there is none, and no older one
        of this owner is taken before C{expires}.
    @ivar account: on whose quota it counts.
    @ivar history: had we a history with that key when it was stored?
    @ivar stored: when it was stored.
    """

    kind: str
    key: NodeId
    slot: bytes
    owner: bytes
    sequence: int
    expires: int
    account: bytes
    history: bool
    stored: int
    raw: bytes = field(repr=False)

    @property
    def place(self) -> Place:
        return self.kind, self.key, self.slot


@frozen
class Changes:
    """
    What is to be written, in one transaction.

    @ivar rows: new or changed ones.
    @ivar gone: places of which there is nothing to be kept any more.
    """

    rows: tuple[Row, ...]
    gone: tuple[Place, ...]

    def __bool__(self) -> bool:
        return bool(self.rows or self.gone)


@define(eq=False)
class _Entry:
    """
    A record that is kept.  See L{Row}.

    @ivar republished: when that was done from here, or it was stored.
    """

    raw: bytes
    digest: bytes
    owner: bytes
    sequence: int
    expires: int
    account: bytes
    history: bool
    stored: int
    republished: int


@frozen
class _Floor:
    """No record of this owner with a lower sequence is taken until then."""

    owner: bytes
    sequence: int
    until: int


class Holdings:
    """
    What one node keeps.

    @ivar quota: how much that may be.
    """

    def __init__(
        self,
        own: NodeId,
        network: bytes,
        kinds: Kinds,
        rng: Random,
        quota: Quota | None = None,
    ) -> None:
        """
        @param own: our id.
        @param network: id of our network, 16 bytes.
        @param rng: chooses when to republish, and what to answer with.
        """
        self.quota = Quota() if quota is None else quota
        self._own = number(own)
        self._network = network
        self._kinds = kinds
        self._rng = rng
        self._entries: dict[Place, _Entry] = {}
        self._digests: dict[bytes, Place] = {}
        # At each key, and in all, in the order in which they were stored.
        self._spots: dict[_Spot, dict[bytes, _Entry]] = {}
        self._strangers: OrderedDict[Place, _Entry] = OrderedDict()
        self._elders: OrderedDict[Place, _Entry] = OrderedDict()
        self._strangers_size = 0
        self._counts = Shares(self.quota.records, self.quota.each_records)
        self._sizes = Shares(self.quota.size, self.quota.each_size)
        self._floors: OrderedDict[Place, _Floor] = OrderedDict()
        self._expiry: Schedule[Place] = Schedule()
        self._republishing: Schedule[Place] = Schedule()
        self._changed: dict[Place, None] = {}

    def __len__(self) -> int:
        """Records that are kept."""
        return len(self._entries)

    @property
    def size(self) -> int:
        """Their bytes."""
        return self._sizes.taken

    @property
    def floors(self) -> int:
        """Places of which is remembered how old a record may not be."""
        return len(self._floors)

    def has(self, raw: bytes, now: int) -> bool:
        """Is this very record kept, so that it need not be verified?"""
        place = self._digests.get(digest_of(raw))
        return place is not None and self._entries[place].expires > now

    def share(self, account: PublicKey) -> tuple[int, int]:
        """@return: records and bytes that count on somebody's quota."""
        return self._counts.held(account.raw), self._sizes.held(account.raw)

    # --- storing --------------------------------------------------------------------------

    def store(
        self,
        raw: bytes,
        now: int,
        storer: PublicKey,
        elders: Container[PublicKey] = (),
        expected: Seen | None = None,
        opened: Record | None = None,
    ) -> Kept:
        """
        Somebody wants a record to be kept.

        @param raw: it, as it travels; the wire limits its size.
        @param storer: who; it has proved its key.
        @param elders: those with whom we have a history.
        @param expected: compare and swap: take it only if what is here is this, or older.
        @param opened: what L{Kinds.open} has made of it a moment ago, on a thread for which
            many of them were no matter; left out, it is called.
        @raise RecordError: it is refused, and nothing has changed.
        """
        self.expire(now, STEP)
        if len(self._changed) >= self.quota.records + MAX_UNWRITTEN:
            raise RecordNotKept("this node can write nothing to its disk at the moment")
        digest = digest_of(raw)
        known = self._digests.get(digest)
        if known is not None and self._entries[known].expires > now:
            # The same bytes were verified when they came first.
            self._heard_again(known, storer, now)
            return Kept.KNOWN
        if opened is None:
            record = self._kinds.open(raw, self._network, now)
        elif opened.raw != raw:
            raise ValueError("another record was verified than is to be kept")
        else:
            record = opened
            record.check_time(now)
        kind = self._kinds.find(record.kind)
        place = (record.kind, record.key, kind.slot(record))
        held = self._held(place, now)
        _check_expected(record, held, expected)
        if held is None:
            self._check_floor(place, record, now)
        else:
            current = Record.reopen(held.raw)
            if kind.merge(current, record).raw != raw:
                if current.value == record.value and current.expires >= record.expires:
                    # Such as an item that somebody else has published, too.
                    self._heard_again(place, storer, now)
                    return Kept.KNOWN
                raise RecordStale(
                    f"{record.shown} is older than the one that is kept", sequence=held.sequence
                )
        account = storer if kind.counts_on_storer else record.owner
        history = account in elders
        if kind.counts_on_storer and held is not None:
            # Who brings what an elder has brought must not make it a stranger's.
            history = history or held.history
        entry = _Entry(
            raw,
            digest,
            record.owner.raw,
            record.sequence,
            record.expires,
            account.raw,
            history,
            now,
            now,
        )
        self._make_room(kind, place, entry, held)
        self._add(place, entry)
        self._floors.pop(place, None)
        self._republishing.set(place, self._next(now))
        self._changed[place] = None
        return Kept.NEW if held is None else Kept.RENEWED

    def _held(self, place: Place, now: int) -> _Entry | None:
        """@return: what is in a place and has not expired."""
        entry = self._entries.get(place)
        if entry is not None and entry.expires <= now:
            self._end(place)
            return None
        return entry

    def _check_floor(self, place: Place, record: Record, now: int) -> None:
        floor = self._floors.get(place)
        if floor is None or floor.until <= now or floor.owner != record.owner.raw:
            return
        if record.sequence < floor.sequence:
            raise RecordReplayed(
                f"{record.shown} was replaced by a newer one, which is gone",
                sequence=floor.sequence,
            )

    def _heard_again(self, place: Place, storer: PublicKey, now: int) -> None:
        """Somebody republishes a record: we need not, if he is likelier to do it well."""
        entry = self._entries[place]
        if now - entry.republished >= LONGEST:
            return
        key = number(place[1])
        if storer.raw == entry.owner or number(node_id(storer)) ^ key < self._own ^ key:
            self._republishing.set(place, self._next(now))

    def _next(self, now: int, pause: int = REPUBLISH) -> int:
        """@return: when to republish what was just stored."""
        return now + jittered(pause, self._rng)

    # --- room -----------------------------------------------------------------------------

    def _make_room(
        self, kind: IRecordKind, place: Place, entry: _Entry, held: _Entry | None
    ) -> None:
        """
        @raise RecordNotKept: there is none; nothing has changed.
        """
        self._check_share(entry, held)
        spot = self._spots.get(place[:2], {})
        leaving: list[Place] = [] if held is None else [place]
        if held is None and len(spot) >= kind.max_entries:
            leaving.append(self._first_to_go(spot, place, entry))
        self._check_total(entry, leaving)
        for each in leaving:
            if each is place:
                self._remove(place)
            else:
                self._evict(each)
        size = len(entry.raw)
        while not (self._room_for(self._counts, 1) and self._room_for(self._sizes, size)):
            self._evict(next(iter(self._strangers or self._elders)))

    def _check_share(self, entry: _Entry, held: _Entry | None) -> None:
        """May one have so much more?"""
        count, size = self._counts.held(entry.account), self._sizes.held(entry.account)
        if held is not None and held.account == entry.account:
            count -= 1
            size -= len(held.raw)
        if count + 1 > self.quota.each_records:
            raise RecordQuotaReached(
                f"{self.quota.each_records} records of {PublicKey(entry.account).short} are kept "
                "here, and no more"
            )
        if size + len(entry.raw) > self.quota.each_size:
            raise RecordQuotaReached(
                f"{size} bytes of {PublicKey(entry.account).short} are kept here, of "
                f"{self.quota.each_size} at most"
            )

    def _first_to_go(self, spot: dict[bytes, _Entry], place: Place, entry: _Entry) -> Place:
        """@return: who makes room at a key that is full."""
        kind, key, _ = place
        for slot, other in spot.items():
            if not other.history:
                return kind, key, slot
        if not entry.history:
            raise RecordNotKept(
                f"all {len(spot)} {kind} records of this key are of those whom we know for longer"
            )
        return kind, key, next(iter(spot))

    def _check_total(self, entry: _Entry, leaving: Sequence[Place]) -> None:
        """Is there room, with what is leaving and all strangers gone?"""
        if entry.history:
            return
        gone = [self._entries[each] for each in leaving if self._entries[each].history]
        count = len(self._elders) - len(gone)
        size = self.size - self._strangers_size - sum(len(each.raw) for each in gone)
        if count + 1 > self.quota.records or size + len(entry.raw) > self.quota.size:
            raise RecordNotKept("this node is full of records of those whom it knows for longer")

    @staticmethod
    def _room_for(shares: Shares, amount: int) -> bool:
        return shares.taken + amount <= shares.total

    def _add(self, place: Place, entry: _Entry) -> None:
        kind, key, slot = place
        self._entries[place] = entry
        self._digests[entry.digest] = place
        self._spots.setdefault((kind, key), {})[slot] = entry
        size = len(entry.raw)
        if entry.history:
            self._elders[place] = entry
        else:
            self._strangers[place] = entry
            self._strangers_size += size
        self._counts.take(entry.account)
        self._sizes.take(entry.account, size)
        self._expiry.set(place, entry.expires)

    def _remove(self, place: Place) -> _Entry:
        kind, key, slot = place
        entry = self._entries.pop(place)
        del self._digests[entry.digest]
        spot = self._spots[kind, key]
        del spot[slot]
        if not spot:
            del self._spots[kind, key]
        size = len(entry.raw)
        if entry.history:
            del self._elders[place]
        else:
            del self._strangers[place]
            self._strangers_size -= size
        self._counts.give_back(entry.account)
        self._sizes.give_back(entry.account, size)
        self._expiry.drop(place)
        self._republishing.drop(place)
        self._changed[place] = None
        return entry

    def _evict(self, place: Place) -> None:
        self._set_floor(place, self._remove(place))

    def _end(self, place: Place) -> None:
        """A record has expired."""
        entry = self._remove(place)
        if entry.expires < _floor_until(entry):
            self._set_floor(place, entry)

    def _set_floor(self, place: Place, entry: _Entry) -> None:
        self._keep_out(place, _Floor(entry.owner, entry.sequence, _floor_until(entry)))

    def _keep_out(self, place: Place, floor: _Floor) -> None:
        self._floors[place] = floor
        while len(self._floors) > MAX_FLOORS:
            gone, _ = self._floors.popitem(last=False)
            self._changed[gone] = None

    # --- reading --------------------------------------------------------------------------

    def find(
        self,
        kind: str,
        key: NodeId,
        now: int,
        max_bytes: int = ANSWER_BYTES,
        max_records: int = MAX_ANSWERED,
    ) -> Found:
        """
        What is kept at a key.

        @param max_bytes: of the records given, with what it takes to send each.
        @param max_records: how many are given.
        @return: if there are more, some at random, so that who asks several nodes, or
            several times, gets to know them all.
        """
        spot = self._spots.get((kind, key), {})
        entries = [entry for entry in spot.values() if entry.expires > now]
        held = len(entries)
        given: list[bytes] = []
        left = max_bytes
        # Draw without putting back; a large one does not keep out the small ones behind.
        for at in range(min(held, 2 * max_records)):
            other = at + int(self._rng.random() * (held - at))
            entries[at], entries[other] = entries[other], entries[at]
            size = len(entries[at].raw) + _AROUND_EACH
            if size <= left:
                given.append(entries[at].raw)
                left -= size
                if len(given) == max_records:
                    break
        return Found(tuple(given), held)

    # --- in the course of time --------------------------------------------------------------

    def expire(self, now: int, limit: int = STEP) -> int:
        """
        Forget what has expired.

        @param limit: so many at most; call it again if it did so many.
        @return: how many.
        """
        count = 0
        while count < limit:
            place = self._expiry.pop(now)
            if place is None:
                break
            self._end(place)
            count += 1
        while self._floors and count < limit:
            first = next(iter(self._floors))
            if self._floors[first].until > now:
                break
            del self._floors[first]
            self._changed[first] = None
            count += 1
        return count

    def due(self, now: int, limit: int) -> list[Due]:
        """
        What to republish now: look up who is nearest, and store it there.

        @param limit: keys, at most; the others are given at the next call.
        @return: the records of each key.  They are not given again for an hour.
        """
        if self._republishing.follow(now):
            for entry in self._entries.values():
                entry.republished = min(entry.republished, now)
        found: list[Due] = []
        while len(found) < limit:
            place = self._republishing.pop(now)
            if place is None:
                break
            kind, key, slot = place
            spot = self._spots[kind, key]
            records: list[bytes] = []
            for other, entry in spot.items():
                when = self._republishing.when((kind, key, other))
                if other == slot or (when is not None and when <= now + AHEAD):
                    entry.republished = now
                    self._republishing.set((kind, key, other), self._next(now))
                    if entry.expires > now:
                        records.append(entry.raw)
            if records:
                found.append(Due(kind, key, self._mixed(records)))
        return found

    def _mixed(self, records: list[bytes]) -> tuple[bytes, ...]:
        """
        In any order: of a key with many records a node takes only so many at a time, and it must
        not be the same ones from everybody, each time.
        """
        for at in range(len(records) - 1):
            other = at + int(self._rng.random() * (len(records) - at))
            records[at], records[other] = records[other], records[at]
        return tuple(records)

    def relieve(self, kind: str, key: NodeId, now: int) -> None:
        """
        Others, all of them nearer, keep the records of a key: republish them only after
        L{LONGEST}, for the case that all of these are gone at once.
        """
        for slot in self._spots.get((kind, key), ()):
            self._republishing.set((kind, key, slot), self._next(now, LONGEST))

    def handover(
        self,
        newcomer: NodeId,
        nearest: Callable[[NodeId], Iterable[NodeId]],
        now: int,
        step: int = STEP,
    ) -> Iterator[list[Due]]:
        """
        What a node should be given that was not there before: the records of keys to which
        it is nearer than we are, and among the L{K} nearest.  Only the next L{HANDING} behind it
        give them, so that they do not come from all.

        @param nearest: the L{NEAREST} nodes that are nearest to a key, as far as we know,
            without the newcomer and us.
        @param step: keys that are looked at between two results.
        @return: what to store there, bit by bit; to be read whenever there is time.
        """
        there = number(newcomer)
        found: list[Due] = []
        for at, spot in enumerate(list(self._spots), 1):
            kind, name = spot
            key = number(name)
            if key ^ there < key ^ self._own and self._hands_over(key, there, nearest(name)):
                entries = self._spots.get(spot, {}).values()
                records = [entry.raw for entry in entries if entry.expires > now]
                if records:
                    found.append(Due(kind, name, self._mixed(records)))
            if at % step == 0:
                yield found
                found = []
        yield found

    def _hands_over(self, key: int, there: int, nearest: Iterable[NodeId]) -> bool:
        newcomer, own = key ^ there, key ^ self._own
        distances = [number(other) ^ key for other in nearest]
        nearer = sum(distance < newcomer for distance in distances)
        between = sum(newcomer < distance < own for distance in distances)
        return nearer < K and between < HANDING

    # --- on the disk ----------------------------------------------------------------------

    def changes(self) -> Changes:
        """
        What has changed since this was asked last.  Write it in the order in which it was
        given; if that fails, say so (L{not_written}).
        """
        changed, self._changed = self._changed, {}
        rows: list[Row] = []
        gone: list[Place] = []
        for place in changed:
            row = self._row(place)
            if row is None:
                gone.append(place)
            else:
                rows.append(row)
        return Changes(tuple(rows), tuple(gone))

    def not_written(self, changes: Changes) -> None:
        """The disk refused them: L{changes} gives what is there now with the next ones."""
        for row in changes.rows:
            self._changed[row.place] = None
        for place in changes.gone:
            self._changed[place] = None

    def _row(self, place: Place) -> Row | None:
        entry = self._entries.get(place)
        if entry is not None:
            return Row(
                *place,
                entry.owner,
                entry.sequence,
                entry.expires,
                entry.account,
                entry.history,
                entry.stored,
                entry.raw,
            )
        floor = self._floors.get(place)
        if floor is None:
            return None
        stored = floor.until - MAX_LIFETIME
        return Row(*place, floor.owner, floor.sequence, floor.until, b"", False, stored, b"")

    def restore(self, rows: Iterable[Row], now: int) -> int:
        """
        Take over what was kept before a restart, into empty holdings.

        What has expired since, what is of another network, what no part keeps any more, and what
        the quotas have no room for is left out, and gone with the next L{changes}; but for how
        old a record may not be in the place of one that has expired.

        @param rows: in the order in which they were stored.
        @return: how many records are kept.
        """
        for row in rows:
            # A record that has expired meanwhile still keeps out those that are older.
            floor = row.expires if not row.raw else row.stored + MAX_LIFETIME
            if row.kind not in self._kinds or (row.expires <= now and floor <= now):
                self._changed[row.place] = None
            elif row.raw and row.expires > now:
                if self._of_our_network(row):
                    self._restore_record(row, now)
                else:
                    self._changed[row.place] = None
            else:
                self._keep_out(row.place, _Floor(row.owner, row.sequence, floor))
                if row.raw:
                    self._changed[row.place] = None
        return len(self)

    def _of_our_network(self, row: Row) -> bool:
        """Is it?  The key of the network may have been changed meanwhile."""
        try:
            return Record.reopen(row.raw).network == self._network
        except RecordError:
            return False  # the row is damaged

    def _restore_record(self, row: Row, now: int) -> None:
        entry = _Entry(
            row.raw,
            digest_of(row.raw),
            row.owner,
            row.sequence,
            row.expires,
            row.account,
            row.history,
            row.stored,
            now,
        )
        size = len(row.raw)
        if not (self._counts.room(row.account) and self._sizes.room(row.account, size)):
            self._changed[row.place] = None
            return
        self._add(row.place, entry)
        # All at once would be a flood, just when we have come back.
        self._republishing.set(row.place, now + int(REPUBLISH * self._rng.random()))


def _floor_until(entry: _Entry) -> int:
    """@return: until when an older record is good, that was good when this one came."""
    return entry.stored + MAX_LIFETIME


def _check_expected(record: Record, held: _Entry | None, expected: Seen | None) -> None:
    """
    Compare and swap.  An older record than the one that was read is no reason to refuse: a
    node that has missed that one may catch up.
    """
    if expected is None or held is None:
        return
    if held.sequence < expected.sequence:
        return
    if held.digest != expected.digest:
        raise RecordChanged(
            f"{record.shown} was to replace one with the sequence {expected.sequence}, and there "
            f"is one with {held.sequence}",
            sequence=held.sequence,
        )
