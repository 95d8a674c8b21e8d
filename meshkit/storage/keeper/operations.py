"""What the part C{keeper} offers at the doors: to lend space, and to take it back."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from meshkit.errors import InvalidRequest, Overloaded, StorageConfigured, StorageFailed
from meshkit.operations import Nothing, Operation

#: Bytes that can be lent at least: less would hold no share with its manifest.
MIN_STORAGE: Final = 1024 * 1024
#: The largest number that JSON of other languages reads as it was written.
MAX_STORAGE: Final = 2**53 - 1

_CHANGED: Final = (StorageFailed, Overloaded)


class StorageStatus(msgspec.Struct):
    """
    What this node keeps for others.

    @ivar state: C{none}: it has never lent anything; C{lending}; C{draining}: it takes nothing
        new, and keeps what it has until the leases end; C{left}: nothing is kept any more.
    @ivar source: who says how much is lent: the C{config}, or C{connect}; nobody, if nothing is.
    @ivar max_storage: bytes that are lent in all.
    @ivar reserved: those of them that are given to nobody.
    @ivar headroom: those of them that only shares may have which replace lost ones.
    @ivar used: bytes of what is kept, and of what is on its way.
    @ivar free: bytes that there are for new shares.
    @ivar disk_free: bytes that the disk has left; nothing, if that cannot be said.
    @ivar shares: how many are kept.
    @ivar owners: for how many.
    @ivar uploads: shares that are on their way.
    @ivar damaged: shares that were found damaged and set aside, since the start.
    @ivar last_lease_end: RFC 3339 time at which the last lease on any of the shares ends, as
        things are; nothing, if there is none.
    @ivar admission: whose shares are taken: C{open}: those of all members; C{allow-list}.
    @ivar domain: what this node may be lost together with, as it says itself.
    @ivar addresses: where others are told that it can be reached, C{HOST:PORT}, and the addresses
        that lead to it through relays now.
    @ivar announced: how many nodes of the hash table keep the record by which it is found, as
        far as is known; nothing, if it does not announce itself.
    @ivar tls: where it listens for TLS, C{HOST:PORT}.
    """

    state: Literal["none", "lending", "draining", "left"]
    source: Literal["config", "connect"] | None
    max_storage: int
    admission: str
    domain: str | None
    announced: int | None
    tls: list[str]
    reserved: int = 0
    headroom: int = 0
    used: int = 0
    free: int = 0
    disk_free: int | None = None
    shares: int = 0
    owners: int = 0
    uploads: int = 0
    damaged: int = 0
    last_lease_end: str | None = None
    addresses: list[str] = []


STATUS: Final = Operation(
    name="storage_status",
    method="GET",
    path="/v1/storage",
    request=Nothing,
    answer=StorageStatus,
    doc="What this node keeps for others, and how much space it lends them.",
)


class ConnectStorage(msgspec.Struct, forbid_unknown_fields=True):
    max_storage: Annotated[
        Annotated[int, Meta(ge=MIN_STORAGE, le=MAX_STORAGE)] | None,
        Meta(description="bytes to lend in all; left out, as many as before"),
    ] = None


CONNECT: Final = Operation(
    name="storage_connect",
    method="POST",
    path="/v1/storage/connect",
    request=ConnectStorage,
    answer=StorageStatus,
    doc="Lend space to the members of the network from now on, also after restarts; or lend more, "
    "or less than before.",
    permission="admin",
    idempotent=True,
    errors=(InvalidRequest, StorageConfigured, *_CHANGED),
)


class DisconnectStorage(msgspec.Struct, forbid_unknown_fields=True):
    now: Annotated[
        bool,
        Meta(
            description="remove what is kept at once, although its owners count on it, in place "
            "of keeping it until their leases end"
        ),
    ] = False


class StorageLeft(msgspec.Struct):
    """
    @ivar status: how things are now.
    @ivar lost_shares: how many shares were removed.
    @ivar lost_bytes: bytes of these.
    @ivar lost_owners: to how many they belonged.
    """

    status: StorageStatus
    lost_shares: int
    lost_bytes: int
    lost_owners: int


DISCONNECT: Final = Operation(
    name="storage_disconnect",
    method="POST",
    path="/v1/storage/disconnect",
    request=DisconnectStorage,
    answer=StorageLeft,
    doc="Take nothing new for others any more, and keep what is here until the leases on it end.",
    permission="admin",
    destructive=True,
    idempotent=True,
    errors=_CHANGED,
)
