"""What storage peers sign, checked.  Pure."""

from __future__ import annotations

from typing import Final

from meshkit.errors import StatementInvalid
from meshkit.identity.keys import PublicKey
from meshkit.storage.manifest import Manifest
from meshkit.storage.statements import Receipt
from meshkit.storage.terms import LEASE_SECONDS, lease_hash

__all__ = ["checked_receipt", "lease_end_of"]

#: A lease that is shorter is not what was asked for.
LEAST_LEASE: Final = LEASE_SECONDS // 2


def checked_receipt(
    raw: bytes, peer: PublicKey, manifest: Manifest, number: int, secret: bytes, now: int
) -> Receipt:
    """
    @param raw: what the peer has sent.
    @param number: of the share that it has to be about.
    @param secret: of the lease.
    @param now: seconds of Unix time.
    @raise StatementInvalid: if it is not a receipt of this peer for this share, or promises
        less than half of a lease.
    """
    receipt = Receipt.open(raw, peer)
    receipt.check(
        manifest.header.share_id(number),
        manifest.shares[number],
        manifest.layout.share_bytes,
        lease_hash(secret),
    )
    if receipt.lease_end < now + LEAST_LEASE:
        raise StatementInvalid(
            f"the receipt of {peer.text} promises to keep the share for "
            f"{max(0, receipt.lease_end - now)} seconds, and a lease has {LEASE_SECONDS}"
        )
    return receipt


def lease_end_of(receipt: Receipt, now: int) -> int:
    """@return: until when to count on it.  Who promises more is asked again all the same."""
    return min(receipt.lease_end, now + LEASE_SECONDS)
