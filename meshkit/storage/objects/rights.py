"""What the secret of an owner gives him for each of his objects."""

from __future__ import annotations

from attrs import field, frozen

from meshkit.identity.keys import Identity
from meshkit.storage.custody import TrackedObject, repair_lease_root
from meshkit.storage.objects.ledger import Entry
from meshkit.storage.placement_document import placement_seed
from meshkit.storage.terms import lease_secret

__all__ = ["OwnerRights"]


@frozen
class OwnerRights:
    """
    @ivar secret: the storage secret of the node.
    """

    secret: bytes = field(repr=False)

    def seed(self, upload: bytes) -> bytes:
        """@return: the right to say where the shares of an object are.  It is a secret."""
        return placement_seed(self.secret, upload)

    def signer(self, upload: bytes) -> Identity:
        """@return: who signs where they are."""
        return Identity(self.seed(upload))

    def lease_root(self, upload: bytes) -> bytes:
        """@return: of what the secrets of the owner's leases are made."""
        return lease_secret(self.secret, upload)

    def repair_lease_root(self, upload: bytes) -> bytes:
        """@return: the same for those of whoever was given the right to repair."""
        return repair_lease_root(self.seed(upload))

    def track(self, entry: Entry) -> TrackedObject:
        """@return: an object of the ledger, with what it takes to look after it."""
        upload = entry.manifest.header.upload
        return TrackedObject(
            entry.manifest,
            entry.document,
            entry.signed,
            self.signer(upload),
            self.lease_root(upload),
        )
