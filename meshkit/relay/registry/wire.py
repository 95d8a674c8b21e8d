"""
What is asked of a member relay about its peers, as methods of L{meshkit.rpc}.  Pure.

::

    peer                                    relay
    register(statement)           ------->  enters who has signed it, which is who asks
                                  <-------  signed word that it is on the disk
    standing()                    ------->
                                  <-------  what the relay has of who asks
    directory(after, limit)       ------->
                                  <-------  statements of the peers that want to be listed

C{registry}, version 1, is the capability.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from meshkit.identity.keys import KEY_BYTES
from meshkit.relay.registry.registration import MAX_ENTERED, MAX_REGISTRATION
from meshkit.rpc.methods import Method

__all__ = [
    "DIRECTORY",
    "LABEL",
    "MAX_LISTED",
    "REGISTER",
    "STANDING",
    "VERSION",
    "DirectoryRequest",
    "Listed",
    "RegisterRequest",
    "Standing",
    "StandingRequest",
]

LABEL: Final = "registry"
VERSION: Final = 1

#: Peers in one stretch of the directory.
MAX_LISTED: Final = 100

_Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class RegisterRequest(msgspec.Struct, array_like=True, frozen=True):
    """@ivar statement: see L{meshkit.relay.registry.registration}."""

    statement: Annotated[bytes, Meta(max_length=MAX_REGISTRATION)]


class StandingRequest(msgspec.Struct, array_like=True, frozen=True):
    """Nothing has to be said: it is about who asks."""


class Standing(msgspec.Struct, array_like=True, frozen=True):
    """
    How who asks stands.

    @ivar statement: its registration; L{None} if there is none.
    @ivar since: when it came, in seconds of Unix time.
    @ivar peers: how many the relay has.
    @ivar max_peers: how many it takes.
    """

    statement: Annotated[bytes, Meta(max_length=MAX_REGISTRATION)] | None
    since: _Number
    peers: _Number
    max_peers: _Number


class DirectoryRequest(msgspec.Struct, array_like=True, frozen=True):
    """
    @ivar after: key of the last peer that is not wanted again; empty at first.
    @ivar limit: how many at most.
    """

    after: Annotated[bytes, Meta(max_length=KEY_BYTES)]
    limit: Annotated[int, Meta(ge=1, le=MAX_LISTED)]


class Listed(msgspec.Struct, array_like=True, frozen=True):
    """
    A stretch of the directory.

    @ivar statements: in the order of the keys that have signed them.
    @ivar total: how many are listed in all.
    @ivar more: are there others behind these?
    """

    statements: Annotated[
        list[Annotated[bytes, Meta(max_length=MAX_REGISTRATION)]], Meta(max_length=MAX_LISTED)
    ]
    total: _Number
    more: bool


REGISTER: Final = Method(
    "register",
    RegisterRequest,
    bytes,
    # It is a write to the disk, and few are needed in a life.
    cost=4.0,
    max_request=MAX_REGISTRATION + 16,
    max_answer=MAX_ENTERED + 16,
    doc="Enters the caller, and gives a signed word of it.",
)
STANDING: Final = Method(
    "standing", StandingRequest, Standing, doc="What the relay has of the caller."
)
DIRECTORY: Final = Method(
    "directory",
    DirectoryRequest,
    Listed,
    cost=2.0,
    doc="Peers of the relay that want to be listed.",
)
