"""What the part C{registry} offers to the operator of a relay."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from meshkit.errors import InvalidPublicKey, NotRegistered, Overloaded, StorageFailed
from meshkit.operations import Id, Operation

_KEPT: Final = (StorageFailed, Overloaded)


class RegistryStatus(msgspec.Struct):
    """
    @ivar peers: how many are registered.
    @ivar listed: of them, how many are in the directory.
    @ivar max_peers: how many are taken.
    @ivar admission: who is: C{open}: every member of the network; C{allow-list}.
    """

    peers: int
    listed: int
    max_peers: int
    admission: str


class ListRegistry(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=1_000, description="how many at most")] = 100
    offset: Annotated[int, Meta(ge=0, le=1_000_000, description="how many to skip")] = 0


class RegisteredPeer(msgspec.Struct):
    """
    @ivar public_id: its key.
    @ivar nickname: what it calls itself.
    @ivar listed: does it want to be in the directory?
    @ivar since: RFC 3339 time at which it came.
    @ivar seen: RFC 3339 time at which it was there last, to the hour.
    """

    public_id: str
    nickname: str
    listed: bool
    since: str
    seen: str


LIST: Final = Operation(
    name="registry_list",
    method="GET",
    path="/v1/registry",
    request=ListRegistry,
    answer=RegisteredPeer,
    doc="The peers that are registered at this relay, also those that are not listed.",
    permission="admin",
    paged=True,
    untrusted=True,
)


class RemoveRegistered(msgspec.Struct, forbid_unknown_fields=True):
    peer: Annotated[Id, Meta(max_length=64, description="@<base64>.ed25519")]


REMOVE: Final = Operation(
    name="registry_remove",
    method="DELETE",
    path="/v1/registry/{peer}",
    request=RemoveRegistered,
    answer=None,
    doc="Forget a peer of this relay; unless registry.deny names it, it can register again.",
    permission="admin",
    success=204,
    destructive=True,
    errors=(InvalidPublicKey, NotRegistered, *_KEPT),
)
