"""
What it takes to look after an object whose shares others keep: which object, where its shares
are, and the right to say so.  Pure.

Two kinds of people have that right.  The owner has it for all objects of his storage secret;
somebody who was handed a L{RepairCapability} has it for one.  Neither needs the content key:
whoever looks after an object reads none of it.

The leases of the shares that are placed anew under a repair capability have secrets of their
own, made of what the capability holds::

    lease root = HKDF-SHA256(placement seed, no salt, "meshkit/repair-lease/1")

and of that, for each peer, as L{meshkit.storage.terms.peer_lease_secret} says.  The owner can
make the seed, so he can renew and give up these leases too.
"""

from __future__ import annotations

from typing import Final

from attrs import evolve, field, frozen

from meshkit.crypto.hpke import hkdf_expand, hkdf_extract
from meshkit.identity.keys import SEED_BYTES, Identity, PublicKey
from meshkit.storage.manifest import Manifest
from meshkit.storage.placement_document import PlacementDocument
from meshkit.storage.terms import LEASE_BYTES, lease_hash, peer_lease_secret

__all__ = ["FULL_WEIGHT", "Judgement", "TrackedObject", "repair_lease_root"]

_REPAIR_LEASE: Final = b"meshkit/repair-lease/1"

#: What a peer of which nothing bad is known weighs in L{Judgement.weight}.
FULL_WEIGHT: Final = 1000


def repair_lease_root(seed: bytes) -> bytes:
    """
    What the secrets of leases are made of that a repairer asks for.

    @param seed: of the key that signs the placement of the object, L{SEED_BYTES} bytes.
    @return: L{LEASE_BYTES} bytes, for L{peer_lease_secret}.
    """
    if len(seed) != SEED_BYTES:
        raise ValueError(f"the seed of a placement key has {SEED_BYTES} bytes, not {len(seed)}")
    return hkdf_expand(hkdf_extract(b"", seed), _REPAIR_LEASE, LEASE_BYTES)


@frozen
class TrackedObject:
    """
    An object that is looked after, as it was when it was read.

    @ivar manifest: what it is.
    @ivar document: where its shares are.
    @ivar signed: the same, signed.
    @ivar signer: has the key that says where they are (the header's C{placement}).
    @ivar lease_root: of it the secrets of new leases are made.
    @ivar own: it is of this node's own ledger; else it was handed over to be looked after.
    """

    manifest: Manifest
    document: PlacementDocument
    signed: bytes = field(repr=False)
    signer: Identity = field(repr=False, eq=False)
    lease_root: bytes = field(repr=False)
    own: bool = True

    @property
    def content_id(self) -> bytes:
        """By which it is found."""
        return self.manifest.content_id

    def lease_secret(self, peer: PublicKey) -> bytes:
        """@return: the secret of the leases on its shares at one peer."""
        return peer_lease_secret(self.lease_root, peer)

    def lease(self, peer: PublicKey) -> bytes:
        """@return: what the peer is told of that."""
        return lease_hash(self.lease_secret(peer))

    def with_document(self, document: PlacementDocument) -> TrackedObject:
        """@return: the same object with its shares elsewhere; C{document} is signed for it."""
        return evolve(self, document=document, signed=document.sign(self.signer))


@frozen
class Judgement:
    """
    What is thought of a storage peer, by whoever audits it.

    @ivar weight: how much of what it would be given otherwise it is to get: 0 to
        L{FULL_WEIGHT}.
    @ivar refused: why it is to get nothing; L{None} if it may get something.
    @ivar passing: it is refused for a while only, and what it has is trusted as before.
    """

    weight: int = FULL_WEIGHT
    refused: str | None = None
    passing: bool = False
