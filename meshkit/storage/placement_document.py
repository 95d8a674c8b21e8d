"""
Where the shares of an object are, as a statement that can be handed around.  Pure.

::

    payload = ["placement/1", content id: bin 32, version: uint, status: str,
               [[peer: bin 32, lease_end: uint] or nil, ...]]

in a signed envelope of the context L{meshkit.identity.contexts.PLACEMENT}.  The signer is
no person: each object has a key of its own, derived from a secret of its owner::

    seed = HKDF-SHA256(storage secret, no salt, "meshkit/placement-key/1" | upload)

Who has the seed may say where the shares are, so that it can be handed to who repairs.  Who
has the public key, which is in the header, can check it.  It ties no two objects of an owner
together.

A version is written once: whoever changes the document takes the next number, and whoever
keeps it takes nothing that is not newer (L{PlacementDocument.check_successor}).
"""

from __future__ import annotations

import hmac
from typing import Annotated, Final, Literal

from attrs import evolve, field, frozen
from msgspec import Meta

from meshkit.crypto.hpke import hkdf_expand, hkdf_extract
from meshkit.errors import (
    EnvelopeError,
    ObjectMalformed,
    ObjectMismatch,
    PlacementConflict,
)
from meshkit.identity.contexts import PLACEMENT
from meshkit.identity.envelope import Envelope
from meshkit.identity.keys import SEED_BYTES, Identity, PublicKey
from meshkit.storage.canonical import Description, Form
from meshkit.storage.header import UPLOAD_BYTES, Bytes32
from meshkit.storage.manifest import ID_BYTES, Manifest
from meshkit.storage.scheme import MAX_SHARES

#: Bytes of the secret of an owner of objects.
SECRET_BYTES: Final = 32
#: Bytes of a signed document.  With 255 shares it has 11 KiB.
MAX_DOCUMENT: Final = 16 * 1024
#: Largest version, and latest end of a lease in seconds of Unix time: what SQLite holds.
MAX_NUMBER: Final = 2**63 - 1

_KEY_INFO: Final = b"meshkit/placement-key/1"

#: C{deleted}: the owner has given the object up, and nobody repairs it.  That is final.
Status = Literal["live", "deleted"]

_Number = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]


class _Wire(Description, frozen=True):
    content_id: Bytes32
    version: Annotated[int, Meta(ge=1, le=MAX_NUMBER)]
    status: Status
    shares: Annotated[
        list[tuple[Bytes32, _Number] | None], Meta(min_length=1, max_length=MAX_SHARES)
    ]


_form: Final = Form(PLACEMENT, _Wire, MAX_DOCUMENT)


def placement_seed(secret: bytes, upload: bytes) -> bytes:
    """
    The seed of the key that says where the shares of one object are.

    @param secret: L{SECRET_BYTES} random bytes of the owner.
    @param upload: C{upload} of the object's header.
    @return: 32 bytes, for an L{Identity}.
    """
    if len(secret) != SECRET_BYTES or len(upload) != UPLOAD_BYTES:
        raise ValueError(f"a storage secret and an upload id have {SECRET_BYTES} bytes each")
    return hkdf_expand(hkdf_extract(b"", secret), _KEY_INFO + upload, SEED_BYTES)


@frozen
class Placed:
    """
    Where a share is.

    @ivar peer: who keeps it.
    @ivar lease_end: until when it was promised, in seconds of Unix time.
    """

    peer: PublicKey
    lease_end: int = field()

    @lease_end.validator
    def _check(self, _attribute: object, value: int) -> None:
        if not 0 <= value <= MAX_NUMBER:
            raise ValueError(f"a lease cannot end at {value}")


@frozen
class PlacementDocument:
    """
    Where the shares of one object are.

    @ivar content_id: which object.
    @ivar version: counts from 1.
    @ivar shares: for each share where it is, or L{None} if it is nowhere at present.
    @ivar status: whether there is anything to keep.
    """

    content_id: bytes = field(repr=lambda content_id: content_id.hex()[:16])
    version: int
    shares: tuple[Placed | None, ...]
    status: Status = "live"

    def __attrs_post_init__(self) -> None:
        if len(self.content_id) != ID_BYTES:
            raise ValueError(f"the id of an object has {ID_BYTES} bytes")
        if not 1 <= self.version <= MAX_NUMBER:
            raise ValueError(f"there is no version {self.version} of a placement document")
        if not 1 <= len(self.shares) <= MAX_SHARES:
            raise ValueError(f"no object has {len(self.shares)} shares")

    @classmethod
    def open(cls, raw: bytes, placement: PublicKey) -> PlacementDocument:
        """
        Read a signed document.

        @param placement: the key that the object's header names.
        @raise ObjectMalformed: if it is none, or its signature is wrong.
        @raise ObjectMismatch: if somebody else signed it.
        """
        if len(raw) > MAX_DOCUMENT:
            raise ObjectMalformed(
                f"a placement document of {len(raw)} bytes is over the limit of {MAX_DOCUMENT}"
            )
        try:
            envelope = Envelope.open(raw, PLACEMENT)
        except EnvelopeError as e:
            raise ObjectMalformed(f"the placement document cannot be used: {e}") from None
        if envelope.signer != placement:
            raise ObjectMismatch(
                f"the placement document was signed by {envelope.signer.text}, which is not the "
                f"key of the object"
            )
        return cls.decode(envelope.payload)

    @classmethod
    def reopen(cls, raw: bytes) -> PlacementDocument:
        """
        Read a signed document that was checked before, such as one that we have kept.

        @raise ObjectMalformed: if it is none.
        """
        try:
            envelope = Envelope.reopen(raw, PLACEMENT)
        except EnvelopeError as e:
            raise ObjectMalformed(f"the placement document cannot be used: {e}") from None
        return cls.decode(envelope.payload)

    @classmethod
    def decode(cls, payload: bytes) -> PlacementDocument:
        """
        Read what was signed, whose signature the caller has looked at.

        @raise ObjectMalformed: if it is no such document.
        """
        wire = _form.decode(payload)
        shares = tuple(
            None if each is None else Placed(PublicKey(each[0]), each[1]) for each in wire.shares
        )
        return cls(wire.content_id, wire.version, shares, wire.status)

    @property
    def payload(self) -> bytes:
        """What is signed."""
        shares = [None if each is None else (each.peer.raw, each.lease_end) for each in self.shares]
        return _form.encode(_Wire(_form.kind, self.content_id, self.version, self.status, shares))

    def sign(self, identity: Identity) -> bytes:
        """
        @param identity: of L{placement_seed}.
        @return: the signed document, at most L{MAX_DOCUMENT} bytes.
        """
        return Envelope.seal(identity, PLACEMENT, self.payload).raw

    def check(self, manifest: Manifest) -> None:
        """
        Is it about the object of this manifest?

        @raise ObjectMismatch: if not.
        """
        if not hmac.compare_digest(self.content_id, manifest.content_id):
            raise ObjectMismatch("the placement document is about another object")
        if len(self.shares) != manifest.header.scheme.total:
            raise ObjectMismatch(
                f"the placement document has {len(self.shares)} shares, and the object "
                f"{manifest.header.scheme.total}"
            )

    def check_successor(self, new: PlacementDocument) -> None:
        """
        May a document take the place of this one, wherever it is kept?

        @raise PlacementConflict: if it is not newer, is about another object, or takes back
            that the object is deleted.
        """
        if new.version <= self.version:
            raise PlacementConflict(
                f"version {new.version} of the placement does not follow version {self.version}: "
                f"read it again, then repeat the change"
            )
        if new.content_id != self.content_id or len(new.shares) != len(self.shares):
            raise PlacementConflict("the object of a placement document does not change")
        if self.status == "deleted" and new.status != "deleted":
            raise PlacementConflict("the object is deleted, and stays so")

    def moved(self, number: int, placed: Placed | None) -> PlacementDocument:
        """
        @param number: of a share.
        @param placed: where it is now.
        @return: the next version.
        """
        if not 0 <= number < len(self.shares):
            raise ValueError(f"the object has no share {number}")
        shares = (*self.shares[:number], placed, *self.shares[number + 1 :])
        return evolve(self, version=self.version + 1, shares=shares)

    def deleted(self) -> PlacementDocument:
        """@return: the last version: the shares are nowhere, and nobody makes them anew."""
        return evolve(
            self,
            version=self.version + 1,
            status="deleted",
            shares=(None,) * len(self.shares),
        )
