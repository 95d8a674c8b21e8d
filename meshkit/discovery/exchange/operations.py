"""What the part C{exchange} offers at the doors."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from meshkit.errors import InvalidPublicKey, NotFound, NotReady
from meshkit.operations import Id, Nothing, Operation


class LinkShown(msgspec.Struct):
    """
    A peer that this node looks after.

    @ivar public_id: who it is.
    @ivar state: C{well}; C{silent}: nothing was heard of it for a while; C{lost}: it has not
        answered; C{suspect}: several times in a row.
    @ivar last_heard: RFC 3339 time of the last sign of it, since this node's start.
    @ivar missed: looks in a row that failed.
    @ivar next_look_secs: seconds until it is looked at again, if nothing is heard of it.
    @ivar round_trip_ms: milliseconds, the mean of the last few.
    @ivar moved_to: where it has answered, if that is not where the operator has it.
    """

    public_id: str
    state: str
    last_heard: str | None
    missed: int
    next_look_secs: float
    round_trip_ms: float | None
    moved_to: str | None


class RecordShown(msgspec.Struct):
    """
    An address record, whose signature was verified.

    @ivar public_id: whose it is, and who has signed it.
    @ivar addresses: C{net:HOST:PORT~shs:KEY}, where it says that it can be reached.
    @ivar sequence: milliseconds since 1970, when it was made.
    @ivar expires: RFC 3339 time.
    """

    public_id: str
    addresses: list[str]
    sequence: int
    expires: str


class ExchangeStatus(msgspec.Struct):
    """
    @ivar watched: peers that are looked after.
    @ivar lost: those of them that have not answered when they were looked at last.
    @ivar suspect: those of them that have not done so several times in a row.
    @ivar moved: those that answer somewhere else than where the operator has them.
    @ivar more: those that are dialled beyond those in the peer book.
    @ivar records: address records that are known.
    @ivar looks: since the start.
    @ivar missed: those that failed.
    @ivar woke: how often this node went on after it was asleep.
    @ivar last_woke: RFC 3339 time of the last one.
    @ivar outdated: records that peers gave although newer ones are known, by peer: one who
        withholds what is new is among them.
    @ivar refused: records that peers gave and that are none, by code.
    """

    watched: int
    lost: int
    suspect: int
    moved: int
    more: int
    records: int
    looks: int
    missed: int
    woke: int
    last_woke: str | None
    outdated: dict[str, int]
    refused: dict[str, int]


class WhoseRecord(msgspec.Struct, forbid_unknown_fields=True):
    public_id: Annotated[Id, Meta(description="@<base64>.ed25519, URL-safe base64 allowed")]


LINKS: Final = Operation(
    name="exchange_links",
    method="GET",
    path="/v1/exchange/links",
    request=Nothing,
    answer=list[LinkShown],
    doc="How the peers are that this node looks after: heard of, lost, or suspect.",
)
RECORDS: Final = Operation(
    name="exchange_records",
    method="GET",
    path="/v1/exchange/records",
    request=Nothing,
    answer=list[RecordShown],
    doc="The address records that this node has, as the peers have signed them.",
    untrusted=True,
)
FIND: Final = Operation(
    name="exchange_find",
    method="GET",
    path="/v1/exchange/records/{public_id}",
    request=WhoseRecord,
    answer=RecordShown,
    doc="Ask a peer, and others, for its address record, and give the newest.",
    untrusted=True,
    open_world=True,
    errors=(InvalidPublicKey, NotFound, NotReady),
)
