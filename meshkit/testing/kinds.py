"""
Trying a kind of records of one's own.

Nodes hear of records in any order, so a merge rule that depends on it leaves them with
different ones for ever, and none of them notices::

    def test_the_kind_is_lawful(self):
        self.assertEqual(kind_problems(MY_KIND, [one, another, a_third], now), [])
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

from meshkit.errors import RecordError
from meshkit.interfaces import IRecordKind
from meshkit.kademlia.records import Record

__all__ = ["kind_problems"]


def kind_problems(kind: IRecordKind, records: Sequence[Record], now: int) -> list[str]:
    """
    What is wrong with a kind of records, as far as some records show it.

    @param records: valid ones, several of them for one place: with the same sequence and with
        another, of the same expiry and of another.
    @param now: milliseconds since 1970.
    @return: sentences; empty if all is well.
    """
    return list(dict.fromkeys(_problems(kind, records, now)))


def _problems(kind: IRecordKind, records: Sequence[Record], now: int) -> Iterator[str]:
    places: dict[tuple[bytes, bytes], list[Record]] = {}
    for record in records:
        yield from _validity(kind, record, now)
        slot = kind.slot(record)
        if slot != kind.slot(Record.reopen(record.raw)):
            yield "slot() gives another place when it is asked again"
        places.setdefault((record.key, slot), []).append(record)
    if all(len(some) < 2 for some in places.values()):
        yield "no two of the records are for one place, so nothing is known of merge()"
    for some in places.values():
        yield from _laws(kind, some)


def _validity(kind: IRecordKind, record: Record, now: int) -> Iterator[str]:
    if record.kind != kind.name:
        yield f"a record is of the kind {record.kind!r}"
    if len(record.value) > kind.max_value:
        yield f"a value of {len(record.value)} bytes is over max_value"
    for moment in (now, record.expires - 1):
        try:
            kind.validate(record, moment)
        except RecordError as e:
            when = "now" if moment == now else "just before it expires"
            yield f"validate() refuses a record {when}: {e}"


def _laws(kind: IRecordKind, some: Sequence[Record]) -> Iterator[str]:
    merge = kind.merge
    for a, b in product(some, repeat=2):
        winner = merge(a, b)
        if winner not in (a, b):
            yield "merge() gives a record that is neither of the two"
        if winner != merge(b, a):
            yield "merge() depends on which of two comes first"
        if merge(winner, a) != winner or merge(winner, b) != winner:
            yield "merge() changes its mind when one of the two comes again"
    for a, b, c in product(some, repeat=3):
        if merge(merge(a, b), c) != merge(a, merge(b, c)):
            yield "merge() depends on the order in which three are merged"
