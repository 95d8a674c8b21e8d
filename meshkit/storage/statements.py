"""
What storage peers sign.  Pure.

::

    record  = ["storage-record/1", network: bin 16, sequence: uint, issued: uint, expires: uint,
               addresses: [str], capacity: uint, reserved: uint, headroom: uint, used: uint,
               domain: str or nil, accepts: bool, leaving: bool]
    receipt = ["storage-receipt/1", share: bin 32, root: bin 32, size: uint, lease: bin 32,
               lease_end: uint, issued: uint]

in envelopes (L{meshkit.identity.envelope}) of the contexts with these names.  Times are seconds
of Unix time.

A B{record} is a heartbeat: the peer is there, there is so much room, and that holds until it
expires, L{RECORD_SECONDS} later.  A B{receipt} is given when a share is synced to disk.

A record proves that the peer has said it, not that it is so.  Whoever places shares asks for
more: see L{meshkit.storage.membership} and L{meshkit.storage.rendezvous.domains_of}.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Annotated, Final

from attrs import field, frozen
from msgspec import Meta

from meshkit.errors import (
    EnvelopeError,
    InvalidAddress,
    ObjectMalformed,
    StatementInvalid,
    StatementStale,
)
from meshkit.identity.addresses import HostPort
from meshkit.identity.contexts import STORAGE_RECEIPT, STORAGE_RECORD, Context
from meshkit.identity.envelope import Envelope
from meshkit.identity.keys import Identity, PublicKey
from meshkit.identity.records import MAX_ADDRESSES, NETWORK_BYTES
from meshkit.storage.canonical import Description, Form
from meshkit.storage.header import Bytes32

#: How long a record holds, and the longest that is believed.
RECORD_SECONDS: Final = 30
MAX_RECORD_SECONDS: Final = 600
#: Seconds that the clocks of two peers may differ.
MAX_SKEW: Final = 60
#: Bytes of a signed statement.
MAX_STATEMENT: Final = 2_048
#: Largest of all numbers here: what SQLite holds.
MAX_NUMBER: Final = 2**63 - 1
#: Characters of the name of a failure domain.
MAX_DOMAIN: Final = 64

_PEERS: Final = b"meshkit/storage-peers/1"
_DOMAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]*")
_WILDCARDS: Final = frozenset({"0.0.0.0", "::", "*"})

_Number = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
_Address = Annotated[str, Meta(max_length=300)]


class _Record(Description, frozen=True):
    network: Annotated[bytes, Meta(min_length=NETWORK_BYTES, max_length=NETWORK_BYTES)]
    sequence: _Number
    issued: _Number
    expires: _Number
    addresses: Annotated[list[_Address], Meta(max_length=MAX_ADDRESSES)]
    capacity: _Number
    reserved: _Number
    headroom: _Number
    used: _Number
    domain: Annotated[str, Meta(max_length=MAX_DOMAIN)] | None
    accepts: bool
    leaving: bool


class _Receipt(Description, frozen=True):
    share: Bytes32
    root: Bytes32
    size: _Number
    lease: Bytes32
    lease_end: _Number
    issued: _Number


_records: Final = Form(STORAGE_RECORD, _Record, MAX_STATEMENT)
_receipts: Final = Form(STORAGE_RECEIPT, _Receipt, MAX_STATEMENT)


def peers_content(network: bytes) -> bytes:
    """
    What the storage peers of a network have in common, so that they are found by it: each says
    in the hash table that it provides this content.

    @param network: id of the network.
    @return: a content id, 32 bytes.
    """
    return sha256(_PEERS + network).digest()


def is_reachable(place: HostPort) -> bool:
    """Could somebody else reach this place?  A wildcard, or port 0, is none."""
    return place.host not in _WILDCARDS and bool(place.port)


def check_domain(domain: str) -> str:
    """
    @return: the name of a failure domain.
    @raise ValueError: if it cannot be one.
    """
    if len(domain) > MAX_DOMAIN or not _DOMAIN.fullmatch(domain):
        raise ValueError(
            f"{domain[:MAX_DOMAIN]!r} cannot be a failure domain: it has at most {MAX_DOMAIN} "
            "letters, digits and . _ : / -, and begins with a letter or digit"
        )
    return domain


def _open(raw: bytes, context: Context) -> Envelope:
    if len(raw) > MAX_STATEMENT:
        raise StatementInvalid(
            f"a statement of {len(raw)} bytes is over the limit of {MAX_STATEMENT}"
        )
    try:
        envelope = Envelope.open(raw, context)
    except EnvelopeError as e:
        raise StatementInvalid(f"the statement of a storage peer cannot be used: {e}") from None
    if not envelope.shortest:
        raise StatementInvalid("the statement of a storage peer is not in its one form")
    return envelope


@frozen
class StorageRecord:
    """
    What a storage peer says about itself.

    @ivar peer: who.
    @ivar network: id of the network in which it is.
    @ivar sequence: grows with each record.
    @ivar issued: when it was made.
    @ivar expires: until when it holds.
    @ivar addresses: where it is reached.
    @ivar capacity: bytes that it has for shares in all.
    @ivar reserved: those of them that it does not lend.
    @ivar headroom: those that are kept for shares that replace lost ones.
    @ivar used: those that have shares, or are reserved for some.
    @ivar domain: what it may be lost together with, as it says; L{None} if it says nothing.
    @ivar accepts: it takes new shares.
    @ivar leaving: it is to be shut down.  What it has can be read as long as there are leases on
        it, and is to be brought elsewhere first.
    """

    peer: PublicKey
    network: bytes = field(repr=lambda network: network.hex())
    sequence: int
    issued: int
    expires: int
    addresses: tuple[HostPort, ...]
    capacity: int
    reserved: int
    headroom: int
    used: int
    domain: str | None = None
    accepts: bool = True
    leaving: bool = False

    def __attrs_post_init__(self) -> None:
        """
        @raise ValueError: if it says what cannot be.
        """
        if self.domain is not None:
            check_domain(self.domain)
        if not self.issued < self.expires <= self.issued + MAX_RECORD_SECONDS:
            raise ValueError(
                f"it would hold for {self.expires - self.issued} seconds; that is at least 1 "
                f"and at most {MAX_RECORD_SECONDS}"
            )
        if self.reserved + self.headroom > self.capacity:
            raise ValueError("more is reserved than there is")
        if self.leaving and self.accepts:
            raise ValueError("who leaves takes no new shares")
        for place in self.addresses:
            if not is_reachable(place):
                raise ValueError(f"nobody can be reached at {place.text}")

    @property
    def free(self) -> int:
        """Bytes that there are for new shares."""
        return max(0, self.capacity - self.reserved - self.headroom - self.used)

    @property
    def free_for_repair(self) -> int:
        """Bytes that there are for shares that replace lost ones."""
        return max(0, self.capacity - self.reserved - self.used)

    @classmethod
    def open(cls, raw: bytes, peer: PublicKey | None = None) -> StorageRecord:
        """
        Read a signed record.

        @param peer: who must have signed it; L{None} if anybody may.
        @raise StatementInvalid: if it is none, or says what cannot be, or somebody else has
            signed it.
        """
        envelope = _open(raw, STORAGE_RECORD)
        if peer is not None and envelope.signer != peer:
            raise StatementInvalid(
                f"the record was signed by {envelope.signer.text}, and not by {peer.text}"
            )
        try:
            wire = _records.decode(envelope.payload)
            addresses = tuple(HostPort.parse(text) for text in wire.addresses)
            return cls(
                envelope.signer,
                wire.network,
                wire.sequence,
                wire.issued,
                wire.expires,
                addresses,
                wire.capacity,
                wire.reserved,
                wire.headroom,
                wire.used,
                wire.domain,
                wire.accepts,
                wire.leaving,
            )
        except (ObjectMalformed, InvalidAddress, ValueError) as e:
            raise StatementInvalid(
                f"the record of {envelope.signer.text} cannot be used: {e}"
            ) from None

    def sign(self, identity: Identity) -> bytes:
        """
        @param identity: of C{peer}.
        @return: the signed record.
        """
        wire = _Record(
            _records.kind,
            self.network,
            self.sequence,
            self.issued,
            self.expires,
            [place.text for place in self.addresses],
            self.capacity,
            self.reserved,
            self.headroom,
            self.used,
            self.domain,
            self.accepts,
            self.leaving,
        )
        return Envelope.seal(identity, STORAGE_RECORD, _records.encode(wire)).raw

    def check_time(self, now: int) -> None:
        """
        Does it hold now?

        @param now: seconds of Unix time.
        @raise StatementStale: if it has expired.
        @raise StatementInvalid: if it comes from the future.
        """
        if now >= self.expires:
            raise StatementStale(f"the record of {self.peer.text} has expired")
        if self.issued > now + MAX_SKEW:
            raise StatementInvalid(
                f"the record of {self.peer.text} was made {self.issued - now} seconds from now: "
                "is its clock wrong, or the one here?"
            )


@frozen
class Receipt:
    """
    What a storage peer says when it has a share on its disk.

    @ivar peer: who.
    @ivar share: the name of the share.
    @ivar root: of its Merkle tree, as the peer has computed it.
    @ivar size: its bytes.
    @ivar lease: see L{meshkit.storage.terms.lease_hash}.
    @ivar lease_end: until when it is promised.
    @ivar issued: when it was said.
    """

    peer: PublicKey
    share: bytes = field(repr=lambda share: share.hex()[:16])
    root: bytes = field(repr=lambda root: root.hex()[:16])
    size: int
    lease: bytes = field(repr=False)
    lease_end: int
    issued: int

    @classmethod
    def open(cls, raw: bytes, peer: PublicKey) -> Receipt:
        """
        Read a signed receipt.

        @param peer: who must have signed it.
        @raise StatementInvalid: if it is none, or somebody else has signed it.
        """
        envelope = _open(raw, STORAGE_RECEIPT)
        if envelope.signer != peer:
            raise StatementInvalid(
                f"the receipt was signed by {envelope.signer.text}, and not by {peer.text}"
            )
        try:
            wire = _receipts.decode(envelope.payload)
        except ObjectMalformed as e:
            raise StatementInvalid(f"the receipt of {peer.text} cannot be used: {e}") from None
        return cls(peer, wire.share, wire.root, wire.size, wire.lease, wire.lease_end, wire.issued)

    def sign(self, identity: Identity) -> bytes:
        """
        @param identity: of C{peer}.
        @return: the signed receipt.
        """
        wire = _Receipt(
            _receipts.kind,
            self.share,
            self.root,
            self.size,
            self.lease,
            self.lease_end,
            self.issued,
        )
        return Envelope.seal(identity, STORAGE_RECEIPT, _receipts.encode(wire)).raw

    def check(self, share: bytes, root: bytes, size: int, lease: bytes) -> None:
        """
        Is it about this share?

        @raise StatementInvalid: if not.
        """
        if (self.share, self.root, self.size, self.lease) != (share, root, size, lease):
            raise StatementInvalid(f"the receipt of {self.peer.text} is about another share")
