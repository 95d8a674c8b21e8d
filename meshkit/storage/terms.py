"""
On what terms a storage peer keeps shares, and how it answers those who ask.  Pure.

A share lives as long as somebody has a lease on it.  A lease lasts L{LEASE_SECONDS} and is
renewed at half of that; when it has ended, the peer waits L{GRACE_SECONDS} more.  Whoever
shows the secret of a lease may renew it and give it up: the peer is told its hash only
(L{lease_hash}), so that neither the receipt nor a backup of the peer gives that right.  It
sees the secret when the lease is renewed for the first time.  So each peer has one of its own
(L{peer_lease_secret}): with one for all of them, a single peer could give up every share.

Times are seconds of Unix time.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from attrs import field, frozen

from meshkit.crypto.hpke import hkdf_expand, hkdf_extract
from meshkit.identity.keys import PublicKey

#: A lease, from the moment it is given or renewed.
LEASE_SECONDS: Final = 31 * 86_400
#: A share that nobody has a lease on any more is kept for so long.
GRACE_SECONDS: Final = 7 * 86_400
#: Room that is reserved, and not used.
RESERVATION_SECONDS: Final = 3_600

#: Bytes of a block: what is sent at a time.
MAX_BLOCK: Final = 1024 * 1024
#: Bytes of the secret of a lease, and of its hash.
LEASE_BYTES: Final = 32
#: Bytes of the note of a shard.
MAX_NOTE: Final = 64 * 1024

_LEASE: Final = b"meshkit/lease/1"
_PEER_LEASE: Final = b"meshkit/peer-lease/1"


def lease_secret(secret: bytes, upload: bytes) -> bytes:
    """
    What the secrets of the leases on the shares of one object are made of
    (L{peer_lease_secret}), so that none has to be kept.  No peer is ever shown it.

    @param secret: the storage secret of the owner, as in
        L{meshkit.storage.placement_document.placement_seed}.
    @param upload: C{upload} of the object's header.
    @return: C{HKDF-SHA256(no salt, secret, "meshkit/lease/1" | upload)}, L{LEASE_BYTES} bytes.
    """
    if len(secret) != LEASE_BYTES or len(upload) != LEASE_BYTES:
        raise ValueError(f"a storage secret and an upload id have {LEASE_BYTES} bytes each")
    return hkdf_expand(hkdf_extract(b"", secret), _LEASE + upload, LEASE_BYTES)


def peer_lease_secret(secret: bytes, peer: PublicKey) -> bytes:
    """
    The secret of the leases that one peer has given on the shares of one object.

    @param secret: L{lease_secret} of the object.
    @return: C{HKDF-Expand-SHA256(secret, "meshkit/peer-lease/1" | key of the peer)},
        L{LEASE_BYTES} bytes.  It says nothing about those of other peers.
    """
    if len(secret) != LEASE_BYTES:
        raise ValueError(f"the secret of a lease has {LEASE_BYTES} bytes, not {len(secret)}")
    return hkdf_expand(secret, _PEER_LEASE + peer.raw, LEASE_BYTES)


def lease_hash(secret: bytes) -> bytes:
    """
    @param secret: of a lease, L{LEASE_BYTES} random bytes.
    @return: what the peer is told of it.
    """
    if len(secret) != LEASE_BYTES:
        raise ValueError(f"the secret of a lease has {LEASE_BYTES} bytes, not {len(secret)}")
    return sha256(_LEASE + secret).digest()


@frozen
class Reservation:
    """
    Room for a share.

    @ivar next_segment: the number of the segment whose block comes next.
    @ivar size: bytes that the share may have.
    @ivar expires: when the room is given to others, unless something is sent.
    @ivar complete: the peer has this share already, and only C{close} is left to be asked for.
    """

    next_segment: int
    size: int
    expires: int
    complete: bool = False


@frozen
class ShareStat:
    """
    What a peer says about a share.

    @ivar size: bytes of the share itself.
    @ivar root: of its Merkle tree.
    @ivar lease_end: the latest end of a lease on it; 0 if there is none any more.
    """

    size: int
    root: bytes = field(repr=lambda root: root.hex()[:16])
    lease_end: int


@frozen
class Shard:
    """
    What a store has.

    @ivar name: 32 bytes.
    @ivar size: bytes of it.
    @ivar note: see L{meshkit.interfaces.IShardStore}.
    @ivar set_aside: where it is now, if it was found damaged.  Then it is not there any more.
    """

    name: bytes = field(repr=lambda name: name.hex()[:16])
    size: int
    note: bytes = field(repr=False)
    set_aside: str = ""
