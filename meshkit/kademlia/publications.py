"""
What this node has published in the hash table, and when to do so again.

A record is stored anew every hour, as it is, so that it is where lookups find it; when half
its life is over it is signed anew.  That goes on until it is taken back, or as long as was
said.  What no other node keeps yet is stored anew sooner (L{Publications.missed}).  Pure: times
are milliseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from random import Random
from types import MappingProxyType
from typing import Final, TypeAlias

from attrs import field, frozen

from meshkit.errors import NotFound, RecordError, RecordNotKept
from meshkit.identity.keys import Identity
from meshkit.identity.records import MAX_SKEW, next_sequence
from meshkit.kademlia.distance import NodeId
from meshkit.kademlia.kinds import Kinds
from meshkit.kademlia.records import LIFETIME, Record
from meshkit.kademlia.schedule import REPUBLISH, Schedule, jittered

#: Records that a node publishes.
MAX_PUBLICATIONS: Final = 10_000
#: Milliseconds that are left of a record when it is signed anew.
RENEW: Final = LIFETIME // 2
#: Milliseconds after which a record is stored again that no other node keeps, about, at first.
#: Then twice as long each time, up to L{REPUBLISH}.
FIRST_RETRY: Final = 10_000
#: Milliseconds for which the record is good that takes another one back.
FAREWELL: Final = 60_000

#: Gives a value, and until when it is good, in milliseconds since 1970, if not for ever.
Current: TypeAlias = Callable[[], tuple[bytes, int | None]]
_NOTHING: Final[Mapping[str, Current]] = MappingProxyType({})

#: What tells publications apart: kind, key, salt.
Name: TypeAlias = tuple[str, NodeId, bytes]


@frozen
class Publication:
    """
    A record of ours.

    @ivar until: no record of it is good for longer; L{None}: until it is taken back.
    """

    record: Record
    until: int | None = field(default=None)

    @property
    def name(self) -> Name:
        return self.record.kind, self.record.key, self.record.salt

    def over(self, now: int) -> bool:
        """Is it to be published no more?"""
        return self.until is not None and self.until <= now


@frozen
class Published:
    """
    What is to be written of publications, in one transaction.

    @ivar rows: new and changed ones.
    @ivar gone: those that are none any more.
    """

    rows: tuple[Publication, ...]
    gone: tuple[Name, ...]

    def __bool__(self) -> bool:
        return bool(self.rows or self.gone)


class Publications:
    """What one node publishes."""

    def __init__(
        self,
        identity: Identity,
        network: bytes,
        kinds: Kinds,
        rng: Random,
        current: Mapping[str, Current] = _NOTHING,
        refused: Callable[[Record, RecordError], None] = lambda record, error: None,
        previous: bytes | None = None,
    ) -> None:
        """
        @param network: id of our network, 16 bytes.
        @param rng: chooses the moments.
        @param current: what gives the value of records of a kind, whenever they are stored,
            whatever they were published with; such as where we can be reached just then.
        @param refused: told of what cannot be signed anew, as its kind takes it no more.
        @param previous: id of the network before its key was changed, of which records are
            taken over.
        """
        self._identity = identity
        self._network = network
        self._networks = {network} if previous is None else {network, previous}
        self._kinds = kinds
        self._rng = rng
        self._current = current
        self._refused = refused
        self._publications: dict[Name, Publication] = {}
        self._schedule: Schedule[Name] = Schedule()
        # What no other node keeps, and how long was waited for that the last time.
        self._missed: dict[Name, int] = {}
        self._changed: dict[Name, None] = {}

    def __len__(self) -> int:
        return len(self._publications)

    def find(self, kind: str, key: NodeId, salt: bytes = b"") -> Publication | None:
        """@return: what is published there."""
        return self._publications.get((kind, key, salt))

    def publish(
        self,
        kind: str,
        key: NodeId,
        value: bytes,
        now: int,
        *,
        salt: bytes = b"",
        until: int | None = None,
        after: int = 0,
        sequence: int | None = None,
    ) -> Record:
        """
        Publish something, in the place of what we have published there before.

        @param until: when to stop, and when no record of it may be good any more; for a value
            that is itself good for a time only.
        @param after: sequence of a record that it replaces, if one was found that is not known
            here.
        @param sequence: its own, for a kind that asks for a certain one; by default the time,
            or one more than that of what it replaces.
        @return: what to store at the nodes that are nearest to the key.
        @raise RecordError: it is nothing that the kind takes, or nobody would.
        @raise RecordNotKept: there are L{MAX_PUBLICATIONS}.
        """
        name = (kind, key, salt)
        before = self._publications.get(name)
        # Where we are has to be said in any case.
        full = len(self._publications) >= MAX_PUBLICATIONS and kind != "address"
        if before is None and full:
            raise RecordNotKept(f"{MAX_PUBLICATIONS} records are published by this node already")
        if before is None or before.record.value != value:
            self._missed.pop(name, None)
        if sequence is None:
            sequence = max(next_sequence(now, *_sequence(before)), after + 1)
        value, good = self._made(kind, value)
        record = self._seal(name, value, now, sequence, _earliest(now + LIFETIME, until, good))
        self._keep(Publication(record, until), now)
        return record

    def withdraw(
        self,
        kind: str,
        key: NodeId,
        now: int,
        salt: bytes = b"",
        *,
        value: bytes | None = None,
        sequence: int | None = None,
    ) -> Record:
        """
        Take something back.

        @param value: what to say for a last time; left out, the same again.
        @param sequence: of that, where the value has one itself.
        @return: what to store at the nodes that are nearest to the key: in a moment it is
            gone there, and keeps others from bringing back what it replaces.
        @raise NotFound: we have published nothing there that is good still.
        @raise RecordError: records of this kind cannot be taken back: publish another.
        """
        name = (kind, key, salt)
        before = self._publications.get(name)
        if before is None or before.over(now):
            raise NotFound(f"this node has published no {kind} record there that is good still")
        if sequence is None:
            sequence = next_sequence(now, before.record.sequence)
        if value is None:
            value = before.record.value
        value, good = self._made(kind, value)
        expires = _earliest(now + FAREWELL, before.until, good)
        record = self._seal(name, value, now, sequence, expires)
        self._forget(name)
        return record

    def due(self, now: int, limit: int) -> list[Record]:
        """
        What to store again now at the nodes that are nearest to its key.

        @param limit: how many at most; the others are given at the next call.  What cannot be
            signed anew keeps no others from it, and is tried again in an hour.
        """
        self._schedule.follow(now)
        found: list[Record] = []
        while len(found) < limit:
            name = self._schedule.pop(now)
            if name is None:
                break
            try:
                publication = self._renewed(self._publications[name], now)
            except RecordError as e:
                self._refused(self._publications[name].record, e)
                self._schedule.set(name, now + jittered(REPUBLISH, self._rng))
                continue
            if publication is None:
                self._forget(name)
            else:
                found.append(publication.record)
                self._schedule.set(name, now + jittered(REPUBLISH, self._rng))
        return found

    # --- what others keep -------------------------------------------------------------------

    def missed(self, record: Record, now: int) -> int | None:
        """
        No other node keeps this record: it is due again soon, and less soon each time that this
        is said.

        @return: when, about; L{None} if it is not what is published.
        """
        name = self._name_of(record)
        if name is None:
            return None
        pause = min(max(FIRST_RETRY, 2 * self._missed.get(name, 0)), REPUBLISH)
        self._missed[name] = pause
        when = now + jittered(pause, self._rng)
        self._schedule.set(name, when)
        return when

    def kept(self, record: Record) -> None:
        """Another node keeps this record, or a newer one: it is due in an hour, as all are."""
        name = self._name_of(record)
        if name is not None:
            self._missed.pop(name, None)

    def hurry(self, now: int) -> None:
        """There is somebody new: what no other node keeps is due now."""
        for name in self._missed:
            self._missed[name] = 0
            self._schedule.set(name, now)

    @property
    def missing(self) -> int:
        """How many records no other node keeps, as far as is known."""
        return len(self._missed)

    def soonest(self) -> int | None:
        """@return: when the first of these is due, if there is one."""
        times = (self._schedule.when(name) for name in self._missed)
        return min((when for when in times if when is not None), default=None)

    def _name_of(self, record: Record) -> Name | None:
        """@return: what is published by this record; L{None} if nothing is, or by a newer one."""
        publication = self._publications.get((record.kind, record.key, record.salt))
        return None if publication is None or publication.record != record else publication.name

    def _renewed(self, publication: Publication, now: int) -> Publication | None:
        """@return: it, if need be with a longer life; L{None} if it is over."""
        record, until = publication.record, publication.until
        if publication.over(now):
            return None
        value, good = self._made(record.kind, record.value)
        expires = _earliest(now + LIFETIME, until, good)
        lasts = record.expires - now >= RENEW or record.expires >= expires
        # It may have been made while our clock was ahead, or for the network as it was.
        taken = record.sequence <= now + MAX_SKEW and record.network == self._network
        if lasts and taken and value == record.value:
            return publication
        sequence = next_sequence(now, record.sequence)
        again = self._seal(publication.name, value, now, sequence, expires)
        self._changed[publication.name] = None
        renewed = self._publications[publication.name] = Publication(again, until)
        return renewed

    def _made(self, kind: str, value: bytes) -> tuple[bytes, int | None]:
        """@return: what to say now, and until when that is good."""
        current = self._current.get(kind)
        return (value, None) if current is None else current()

    def _seal(self, name: Name, value: bytes, now: int, sequence: int, expires: int) -> Record:
        kind, key, salt = name
        record = Record.seal(
            self._identity,
            self._network,
            kind,
            key,
            value,
            sequence=sequence,
            expires=expires,
            salt=salt,
        )
        record.check_time(now)
        self._kinds.check(record, now)
        return record

    def _keep(self, publication: Publication, now: int) -> None:
        name = publication.name
        self._publications[name] = publication
        self._schedule.set(name, now + jittered(REPUBLISH, self._rng))
        self._changed[name] = None

    def _forget(self, name: Name) -> None:
        del self._publications[name]
        self._schedule.drop(name)
        self._missed.pop(name, None)
        self._changed[name] = None

    # --- on the disk ----------------------------------------------------------------------

    def changes(self) -> Published:
        """
        What has changed since this was asked last.  Write it in the order in which it was
        given; if that fails, say so (L{not_written}).
        """
        changed, self._changed = self._changed, {}
        rows: list[Publication] = []
        gone: list[Name] = []
        for name in changed:
            publication = self._publications.get(name)
            if publication is None:
                gone.append(name)
            else:
                rows.append(publication)
        return Published(tuple(rows), tuple(gone))

    def not_written(self, changes: Published) -> None:
        """The disk refused them: L{changes} gives what is there now with the next ones."""
        for publication in changes.rows:
            self._changed[publication.name] = None
        for name in changes.gone:
            self._changed[name] = None

    def restore(self, publications: Iterable[Publication], now: int) -> int:
        """
        Take over what was published before a restart.

        Those of another identity or network, and those that are over, are left out, and gone with
        the next L{changes}.  If the key of the network was changed, those from before are signed
        for the new one, but for our address, which we publish anyway.

        @return: how many there are.  Those whose records are good no longer are due now, the
            others within an hour.
        """
        for publication in publications:
            record, name = publication.record, publication.name
            changed = record.network != self._network
            ours = record.owner == self._identity.public and record.network in self._networks
            ours = ours and not (changed and record.kind == "address")
            if not ours or publication.over(now) or record.kind not in self._kinds:
                self._changed[name] = None
                continue
            self._publications[name] = publication
            expired = changed or record.expires <= now
            self._schedule.set(name, now if expired else now + int(REPUBLISH * self._rng.random()))
        return len(self)


def _sequence(publication: Publication | None) -> tuple[int, ...]:
    return () if publication is None else (publication.record.sequence,)


def _earliest(latest: int, *others: int | None) -> int:
    return min([latest, *(other for other in others if other is not None)])
