"""
What nodes of the hash table ask each other: four methods of MessagePack-RPC
(L{meshkit.rpc}), under a capability of their own.

::

    ping        [record, dialled, back]         -> [record, observed]
    find_node   [target]                        -> [contacts]
    find_value  [kind, key]                     -> [records, held, contacts]
    store       [records, expected]             -> [[code, sequence], ...]

Contacts are address records, as their owners signed them (L{meshkit.identity.records});
records are those of L{meshkit.kademlia.records}.  All of them are bytes here: whoever
reads them verifies them.  What the methods are for is described in
C{docs/protocol/kademlia.md}.  Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from meshkit.errors import FrameTooLarge, InvalidAnswer, InvalidRequest, RecordConflict, RecordError
from meshkit.identity.records import MAX_RECORD as MAX_ADDRESS_RECORD
from meshkit.identity.records import MAX_SEQUENCE
from meshkit.kademlia.distance import ID_BYTES, KIND
from meshkit.kademlia.holdings import ANSWER_BYTES, MAX_ANSWERED, Seen
from meshkit.kademlia.kinds import MAX_ENTRIES
from meshkit.kademlia.records import MAX_RECORD
from meshkit.kademlia.routing import K
from meshkit.rpc.methods import Method

#: Bytes of the records of one request to store, with what it takes to send each.
STORE_BYTES: Final = 64 * 1024
#: Records of one request to store.
MAX_STORED: Final = 200
#: Characters of the code of an outcome.
MAX_CODE: Final = 64
#: Characters of an IP address and a port.
MAX_WHERE: Final = 64
#: What MessagePack takes around a string of bytes that is as large as one is here.
_AROUND_EACH: Final = 3
#: What a request or an answer has around its lists and byte strings.
_AROUND: Final = 256

#: Calls of one peer, each second and at once, where each costs one.  Answers cost nothing.
RATE: Final = 100 / 60
BURST: Final = 100.0
#: What it costs beside to be dialled: a connection and its handshake.
BACK_COST: Final = 5.0
#: What each record of a request to store costs beside the first: a signature to verify.
RECORD_COST: Final = 0.25

Id = Annotated[bytes, Meta(min_length=ID_BYTES, max_length=ID_BYTES)]
KindName = Annotated[str, Meta(pattern=rf"\A{KIND.pattern}\Z")]
#: An IP address, with a port or without; empty if it is not known.
Where = Annotated[str, Meta(max_length=MAX_WHERE)]
#: An address record; empty if there is none.
Own = Annotated[bytes, Meta(max_length=MAX_ADDRESS_RECORD)]
Contact = Annotated[bytes, Meta(min_length=1, max_length=MAX_ADDRESS_RECORD)]
Contacts = Annotated[list[Contact], Meta(max_length=K)]
RecordBytes = Annotated[bytes, Meta(min_length=1, max_length=MAX_RECORD)]
Sequence = Annotated[int, Meta(ge=0, le=MAX_SEQUENCE)]
Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]


class Ping(msgspec.Struct, array_like=True, frozen=True):
    """
    Are you there?

    @ivar record: the asker's address record; empty, if nobody reaches it from outside: then
        it enters nobody's table.
    @ivar dialled: where the asker has reached the other, C{IP:PORT}: said once on a connection,
        by who has opened it.
    @ivar back: the asker wants to be dialled before he is answered, to know whether that can be
        done.
    """

    record: Own = b""
    dialled: Where = ""
    back: bool = False


class Pong(msgspec.Struct, array_like=True, frozen=True):
    """
    Yes.

    @ivar record: that of who answers, likewise.
    @ivar observed: the IP address from which the asker comes.
    """

    record: Own = b""
    observed: Where = ""


class FindNode(msgspec.Struct, array_like=True, frozen=True):
    """Whom do you know near to a place?"""

    target: Id


class Nodes(msgspec.Struct, array_like=True, frozen=True):
    """
    @ivar contacts: the nearest, at most L{K}.
    """

    contacts: Contacts


class FindValue(msgspec.Struct, array_like=True, frozen=True):
    """What do you keep at a key, and whom do you know near to it?"""

    kind: KindName
    key: Id


class Values(msgspec.Struct, array_like=True, frozen=True):
    """
    @ivar records: some of those that are kept, at random; L{ANSWER_BYTES} in all.
    @ivar held: how many are kept.
    @ivar contacts: as in L{Nodes}, always: a lookup does not end with the first value.
    """

    records: Annotated[list[RecordBytes], Meta(max_length=MAX_ANSWERED)]
    held: Annotated[int, Meta(ge=0, le=MAX_ENTRIES)]
    contacts: Contacts


class Expected(msgspec.Struct, array_like=True, frozen=True):
    """See L{meshkit.kademlia.holdings.Seen}."""

    sequence: Sequence
    digest: Digest

    @property
    def seen(self) -> Seen:
        return Seen(self.sequence, self.digest)


class Store(msgspec.Struct, array_like=True, frozen=True):
    """
    Keep these.

    @ivar records: L{STORE_BYTES} in all.
    @ivar expected: compare and swap; then there is one record.
    """

    records: Annotated[list[RecordBytes], Meta(min_length=1, max_length=MAX_STORED)]
    expected: Expected | None = None


class Outcome(msgspec.Struct, array_like=True, frozen=True):
    """
    What came of one record.

    @ivar code: that of the error with which it was refused; empty, if it is kept, which
        means: on the disk.
    @ivar sequence: where it was refused because another has or had its place, that of this
        other one; else 0.
    """

    code: Annotated[str, Meta(max_length=MAX_CODE)] = ""
    sequence: Sequence = 0

    @property
    def kept(self) -> bool:
        return not self.code

    @classmethod
    def refused(cls, error: RecordError) -> Outcome:
        sequence = error.sequence if isinstance(error, RecordConflict) else 0
        return cls(error.code, sequence)


class Stored(msgspec.Struct, array_like=True, frozen=True):
    """
    @ivar outcomes: one for each record, in order.
    """

    outcomes: Annotated[list[Outcome], Meta(min_length=1, max_length=MAX_STORED)]


_CONTACTS_BYTES: Final = K * (MAX_ADDRESS_RECORD + _AROUND_EACH)

PING: Final = Method(
    "ping",
    Ping,
    Pong,
    cost=0.5,
    max_request=MAX_ADDRESS_RECORD + _AROUND,
    max_answer=MAX_ADDRESS_RECORD + _AROUND,
    doc="Is there somebody, and where can it be reached?",
)
FIND_NODE: Final = Method(
    "find_node",
    FindNode,
    Nodes,
    max_request=_AROUND,
    max_answer=_CONTACTS_BYTES + _AROUND,
    doc="Who is near to a place?",
)
FIND_VALUE: Final = Method(
    "find_value",
    FindValue,
    Values,
    max_request=_AROUND,
    max_answer=_CONTACTS_BYTES + ANSWER_BYTES + _AROUND,
    doc="What is kept at a key, and who is near to it?",
)
STORE: Final = Method(
    "store",
    Store,
    Stored,
    max_request=STORE_BYTES + _AROUND,
    max_answer=MAX_STORED * (MAX_CODE + 16) + _AROUND,
    doc="Keeps records.",
)
METHODS: Final[tuple[Method[Any, Any], ...]] = (PING, FIND_NODE, FIND_VALUE, STORE)


def store_cost(request: Store) -> float:
    """@return: tokens that a request costs beside those of its method."""
    return RECORD_COST * (len(request.records) - 1)


def check_store(request: Store) -> None:
    """
    What the types do not say.

    @raise FrameTooLarge: the records have too many bytes in all.
    @raise InvalidRequest: C{expected} goes with one record.
    """
    size = _size(request.records)
    if size > STORE_BYTES:
        raise FrameTooLarge(
            f"{size} bytes of records in one request are over the limit of {STORE_BYTES}"
        )
    if request.expected is not None and len(request.records) != 1:
        raise InvalidRequest("compare and swap is for one record at a time")


def check_values(answer: Values) -> None:
    """
    What the types do not say.

    @raise InvalidAnswer: there are more records than are kept, one stands twice, or they have
        too many bytes in all.
    """
    if len(answer.records) > answer.held:
        raise InvalidAnswer(
            f"the peer gives {len(answer.records)} records of the {answer.held} that it keeps"
        )
    if len(set(answer.records)) != len(answer.records):
        raise InvalidAnswer("the peer gives a record twice")
    size = _size(answer.records)
    if size > ANSWER_BYTES:
        raise InvalidAnswer(f"{size} bytes of records are over the limit of {ANSWER_BYTES}")


def check_stored(request: Store, answer: Stored) -> None:
    """@raise InvalidAnswer: there is not one outcome for each record."""
    if len(answer.outcomes) != len(request.records):
        raise InvalidAnswer(
            f"the peer gives {len(answer.outcomes)} outcomes for {len(request.records)} records"
        )


def requests(records: Iterable[bytes]) -> Iterator[Store]:
    """
    Requests that store records, as few as it takes, in their order.

    @param records: of at most L{MAX_RECORD} bytes each.
    """
    batch: list[bytes] = []
    left = STORE_BYTES
    for raw in records:
        size = len(raw) + _AROUND_EACH
        if batch and (size > left or len(batch) == MAX_STORED):
            yield Store(batch)
            batch, left = [], STORE_BYTES
        batch.append(raw)
        left -= size
    if batch:
        yield Store(batch)


def _size(records: Iterable[bytes]) -> int:
    return sum(len(raw) + _AROUND_EACH for raw in records)
