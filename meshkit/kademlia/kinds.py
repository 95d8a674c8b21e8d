"""
Kinds of records: what a record of each has to be, and which of two counts.

A kind is an L{IRecordKind}.  Parts bring their own (L{IHashTable.register_kind
<meshkit.interfaces.IHashTable>}); these five are here::

    address    where a peer can be reached, as it says itself; one per peer
    provider   who has some content; one per peer that has it
    mutable    anything, by its owner and a salt
    immutable  anything, by the hash of it, whoever published it
    topic      what an author has to say under a topic; one per author, so that two who
               write at the same time never overwrite each other

Pure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Final, Literal, TypeAlias

from attrs import field, frozen
from zope.interface import implementer

from meshkit.errors import (
    AddressRecordInvalid,
    RecordForeignOwner,
    RecordInvalid,
    RecordTooLarge,
    RecordWrongKey,
    RecordWrongKind,
)
from meshkit.identity.keys import PublicKey
from meshkit.identity.records import MAX_RECORD as MAX_ADDRESS_RECORD
from meshkit.identity.records import AddressRecord
from meshkit.interfaces import IRecordKind
from meshkit.kademlia.distance import KIND, NodeId, record_key
from meshkit.kademlia.records import MAX_VALUE, Record

#: Records of one key, where a kind keeps several.
MAX_ENTRIES: Final = 1_000
#: Bytes of what an author says under a topic.  Who has more to say puts it into an item, and
#: says here where; so an answer has room for many authors.
MAX_TOPIC_VALUE: Final = 4 * 1024
#: How names are written at the doors: see L{IRecordKind}.
Written: TypeAlias = Literal["id", "hex", "text"]
#: Kinds that a node knows.
MAX_KINDS: Final = 64


def newest(held: Record, new: Record) -> Record:
    """
    The merge rule of most kinds: the higher sequence; where it is the same, the later expiry;
    then the higher digest, so that all nodes choose the same.
    """
    return max(held, new, key=lambda each: (each.sequence, each.expires, each.digest))


def lasting(held: Record, new: Record) -> Record:
    """
    The merge rule where anybody may publish the same: what expires later, so that nobody
    can shorten the life of what others have published.
    """
    return max(held, new, key=lambda each: (each.expires, each.sequence, each.digest))


def _anything(record: Record, now: int) -> None:
    """All values are fine."""


def _one(record: Record) -> bytes:
    """There is one place at a key."""
    return b""


def _one_each(record: Record) -> bytes:
    """Each owner has a place at a key."""
    return record.owner.raw


def _check_name(_instance: object, _attribute: object, name: str) -> None:
    if not KIND.fullmatch(name):
        raise ValueError(f"{name!r} cannot be the name of a kind of records")


def _check_value(_instance: object, _attribute: object, size: int) -> None:
    if not 0 <= size <= MAX_VALUE:
        raise ValueError(f"a value has at most {MAX_VALUE} bytes, not {size}")


def _check_entries(_instance: object, _attribute: object, count: int) -> None:
    if not 1 <= count <= MAX_ENTRIES:
        raise ValueError(f"there are 1 to {MAX_ENTRIES} records at a key, not {count}")


@implementer(IRecordKind)
@frozen
class Kind:
    """
    A kind of records made of functions: see L{IRecordKind}.

    @ivar written: how names are written at the doors.
    @ivar validate: C{validate(record, now)}.
    @ivar slot: C{slot(record)}.
    @ivar merge: C{merge(held, new)}.
    """

    name: str = field(validator=_check_name)
    written: Written = field(default="text", kw_only=True)
    max_value: int = field(default=MAX_VALUE, kw_only=True, validator=_check_value)
    max_entries: int = field(default=1, kw_only=True, validator=_check_entries)
    counts_on_storer: bool = field(default=False, kw_only=True)
    validate: Callable[[Record, int], None] = field(default=_anything, kw_only=True)
    slot: Callable[[Record], bytes] = field(default=_one, kw_only=True)
    merge: Callable[[Record, Record], Record] = field(default=newest, kw_only=True)


# --- address ---------------------------------------------------------------------------


def address_key(peer: PublicKey) -> NodeId:
    """@return: where the address record of a peer is."""
    return record_key("address", peer.raw)


def _validate_address(record: Record, now: int) -> None:
    if record.key != address_key(record.owner):
        raise RecordForeignOwner(f"{record.shown} is where somebody else's address is kept")
    inner = _open_inner(record, now)
    if record.sequence != inner.sequence:
        raise RecordInvalid(f"{record.shown} has another sequence than what it holds")


def _open_inner(record: Record, now: int) -> AddressRecord:
    """The address record that is the value of a record; good for as long as that."""
    try:
        inner = AddressRecord.open(record.value, record.network, now)
    except AddressRecordInvalid as e:
        raise RecordInvalid(f"{record.shown} holds no address record: {e}") from None
    if inner.key != record.owner:
        raise RecordForeignOwner(f"{record.shown} holds the address of {inner.key.short}")
    if record.expires > inner.expires:
        raise RecordInvalid(f"{record.shown} is good for longer than the address it holds")
    return inner


ADDRESS: Final = Kind(
    "address", written="id", max_value=MAX_ADDRESS_RECORD, validate=_validate_address
)


# --- provider --------------------------------------------------------------------------


def provider_key(content: bytes) -> NodeId:
    """
    @param content: a content id, which those who keep the records are not told.
    @return: where those are named that have it.
    """
    return record_key("provider", content)


def _validate_provider(record: Record, now: int) -> None:
    _no_salt(record)
    if record.value:
        _open_inner(record, now)


PROVIDER: Final = Kind(
    "provider",
    written="hex",
    max_value=MAX_ADDRESS_RECORD,
    max_entries=MAX_ENTRIES,
    validate=_validate_provider,
    slot=_one_each,
)


# --- mutable ---------------------------------------------------------------------------


def mutable_key(owner: PublicKey, salt: bytes = b"") -> NodeId:
    """
    @param salt: which of the owner's items, at most L{MAX_SALT
        <meshkit.kademlia.records.MAX_SALT>} bytes.
    """
    return record_key("mutable", owner.raw + salt)


def _validate_mutable(record: Record, _now: int) -> None:
    if record.key != mutable_key(record.owner, record.salt):
        raise RecordForeignOwner(
            f"{record.shown} is not at the key that its owner and its salt make"
        )


MUTABLE: Final = Kind("mutable", written="id", validate=_validate_mutable)


# --- immutable -------------------------------------------------------------------------


def immutable_key(value: bytes) -> NodeId:
    """@return: where an item is, whoever has published it."""
    return record_key("immutable", hashlib.sha256(value).digest())


def _validate_immutable(record: Record, _now: int) -> None:
    _no_salt(record)
    if record.key != immutable_key(record.value):
        raise RecordWrongKey(f"{record.shown} is not at the hash of its value")


IMMUTABLE: Final = Kind(
    "immutable",
    written="hex",
    counts_on_storer=True,
    validate=_validate_immutable,
    merge=lasting,
)


# --- topic -----------------------------------------------------------------------------


def topic_key(name: str) -> NodeId:
    """
    @param name: a topic, which those who keep the records are not told.
    @return: where its entries are.
    """
    return record_key("topic", name.encode("utf-8"))


def _validate_topic(record: Record, _now: int) -> None:
    _no_salt(record)


TOPIC: Final = Kind(
    "topic",
    max_value=MAX_TOPIC_VALUE,
    max_entries=MAX_ENTRIES,
    validate=_validate_topic,
    slot=_one_each,
)

#: Those that every node has.
BUILT_IN: Final = (ADDRESS, PROVIDER, MUTABLE, IMMUTABLE, TOPIC)


def _no_salt(record: Record) -> None:
    # Else one record could be given in as many forms as there are salts.
    if record.salt:
        raise RecordInvalid(f"{record.shown} has a salt, which its kind has not")


# --- all of them -------------------------------------------------------------------------


class Kinds:
    """The kinds that a node knows, and so those that it keeps."""

    def __init__(self, kinds: Iterable[IRecordKind] = BUILT_IN) -> None:
        self._kinds: dict[str, IRecordKind] = {}
        for kind in kinds:
            self.register(kind)

    def __contains__(self, name: str) -> bool:
        return name in self._kinds

    @property
    def names(self) -> list[str]:
        """Sorted."""
        return sorted(self._kinds)

    def register(self, kind: IRecordKind) -> None:
        """
        Know a kind; to say it again changes nothing, as several parts may need one.

        @raise ValueError: there is another one of this name, there are L{MAX_KINDS} already, or it
            asks for more than records can be.
        """
        name = kind.name
        if self._kinds.get(name) == kind:
            return
        if name in self._kinds:
            raise ValueError(f"there are two kinds of records of the name {name!r}")
        if len(self._kinds) >= MAX_KINDS:
            raise ValueError(f"there are {MAX_KINDS} kinds of records already")
        _check_name(kind, None, name)
        _check_value(kind, None, kind.max_value)
        _check_entries(kind, None, kind.max_entries)
        self._kinds[name] = kind

    def find(self, name: str) -> IRecordKind:
        """@raise RecordWrongKind: there is none of this name."""
        kind = self._kinds.get(name)
        if kind is None:
            raise RecordWrongKind(f"records of the kind {name[:40]!r} are not kept here")
        return kind

    def check(self, record: Record, now: int) -> IRecordKind:
        """
        Is a record, whose owner has signed it, what its kind asks for?

        @return: its kind.
        @raise RecordError: it is not.
        """
        kind = self.find(record.kind)
        if len(record.value) > kind.max_value:
            raise RecordTooLarge(
                f"{record.shown} has a value of {len(record.value)} bytes, over its kind's limit "
                f"of {kind.max_value}"
            )
        kind.validate(record, now)
        return kind

    def open(self, raw: bytes, network: bytes, now: int) -> Record:
        """
        Verify a record that somebody wants to be kept.

        @raise RecordError: as L{Record.open} and L{check}.
        """
        record = Record.open(raw, network, now)
        self.check(record, now)
        return record

    def open_answer(self, raw: bytes, network: bytes, now: int, kind: str, key: NodeId) -> Record:
        """
        Verify a record that somebody answered with.

        @param kind: what was asked for.
        @param key: likewise.
        @raise RecordError: as L{open}.
        @raise RecordWrongKind: it is of another kind.
        @raise RecordWrongKey: it is of another key.
        """
        record = Record.open(raw, network, now)
        if record.kind != kind:
            raise RecordWrongKind(f"{record.shown} is no record of the kind {kind!r}")
        if record.key != key:
            raise RecordWrongKey(f"{record.shown} is not of the key that was asked for")
        self.check(record, now)
        return record

    def merged(self, records: Iterable[Record]) -> list[Record]:
        """
        What several nodes have of one key, in one: of each place the record that counts.

        @param records: checked ones, of one kind and key.
        @return: in the order of the places.
        """
        found: dict[bytes, Record] = {}
        for record in records:
            kind = self.find(record.kind)
            slot = kind.slot(record)
            held = found.get(slot)
            found[slot] = record if held is None else kind.merge(held, record)
        return [found[slot] for slot in sorted(found)]
