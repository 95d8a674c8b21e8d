"""
What nodes ask each other about the addresses of peers: two methods of L{meshkit.rpc}, under a
capability of their own.  Pure.

::

    greet   [record]        -> [record]
    find    [keys, more]    -> [[record, ...]]

Records are the address records that peers have signed themselves
(L{meshkit.identity.records}).  Nobody says where somebody else is, he can only hand on what
that one has said.  They are bytes here: whoever reads them verifies them.  What the methods are
for is described in C{docs/protocol/exchange.md}.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from meshkit.identity.records import MAX_RECORD
from meshkit.rpc.methods import Method

__all__ = [
    "FIND",
    "GREET",
    "LABEL",
    "MAX_KEYS",
    "MAX_MORE",
    "VERSION",
    "Find",
    "Given",
    "Greeted",
    "Greeting",
]

#: The capability.
LABEL: Final = "exchange"
VERSION: Final = 1

#: Peers that are asked for at a time.
MAX_KEYS: Final = 32
#: Records of others that are given besides.
MAX_MORE: Final = 16
#: Calls of one peer, each second and at once.
RATE: Final = 1.0
BURST: Final = 30.0

#: What MessagePack takes around a string of bytes that is as large as a record.
_AROUND_EACH: Final = 3
_AROUND: Final = 256

Key = Annotated[bytes, Meta(min_length=32, max_length=32)]
#: An address record; empty if there is none.
Own = Annotated[bytes, Meta(max_length=MAX_RECORD)]
Record = Annotated[bytes, Meta(min_length=1, max_length=MAX_RECORD)]


class Greeting(msgspec.Struct, array_like=True, frozen=True):
    """
    Here I am.

    @ivar record: where the asker can be reached; empty, if nobody reaches it from outside.
    """

    record: Own = b""


class Greeted(msgspec.Struct, array_like=True, frozen=True):
    """
    And here am I.

    @ivar record: likewise, of who answers.
    """

    record: Own = b""


class Find(msgspec.Struct, array_like=True, frozen=True):
    """
    Where are these?

    @ivar keys: of peers.
    @ivar more: records of how many others, drawn by lot, are welcome.
    """

    keys: Annotated[list[Key], Meta(max_length=MAX_KEYS)] = []
    more: Annotated[int, Meta(ge=0, le=MAX_MORE)] = 0


class Given(msgspec.Struct, array_like=True, frozen=True):
    """
    As far as they are known.

    @ivar records: address records, of those asked for and of others.
    """

    records: Annotated[list[Record], Meta(max_length=MAX_KEYS + MAX_MORE)] = []


GREET: Final = Method(
    "greet",
    Greeting,
    Greeted,
    max_request=MAX_RECORD + _AROUND,
    max_answer=MAX_RECORD + _AROUND,
    doc="Swaps the address records of the two.",
)
FIND: Final = Method(
    "find",
    Find,
    Given,
    cost=2.0,
    max_request=MAX_KEYS * (32 + _AROUND_EACH) + _AROUND,
    max_answer=(MAX_KEYS + MAX_MORE) * (MAX_RECORD + _AROUND_EACH) + _AROUND,
    doc="Gives the newest address records of peers that are known.",
)
