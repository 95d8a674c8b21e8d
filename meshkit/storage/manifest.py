"""
The manifest of an object: what it is, once it is known, for everybody who keeps, checks,
repairs or reads it.  Pure.

::

    manifest = ["manifest/1", header: bin, length: uint, root: bin 32, shares: [bin 32, ...]]

    content id = SHA-256(manifest)

C{root} is that of the tree of the sealed segments, C{shares} are the roots of the shares, in
order.  It never changes, as the erasure code makes the same shares again.  It holds no secret
and names no person.

The name of an object is the hash of its manifest, so that nobody can give another one for it:
neither of other bytes, nor with roots that make good shares look bad.  And who knows no more
than the name finds the manifest wherever things are found by their hash.

The roots of the shares do not show that all choices of shares give one text, as who made the
object may have made them of several.  C{root} does, to who reads all of it.
"""

from __future__ import annotations

import hmac
from functools import cached_property
from hashlib import sha256
from typing import Annotated, Final

from attrs import field, frozen
from msgspec import Meta

from meshkit.crypto.merkle import HASH_BYTES
from meshkit.errors import ObjectMalformed, ObjectMismatch, ObjectTooLarge
from meshkit.storage.canonical import Description, Form
from meshkit.storage.header import MAX_HEADER, Bytes32, Header
from meshkit.storage.scheme import MAX_SHARES, Layout

#: Bytes of the id of an object.
ID_BYTES: Final = 32
#: With 255 shares it has 9 KiB.
MAX_MANIFEST: Final = 16 * 1024


class _Wire(Description, frozen=True):
    header: Annotated[bytes, Meta(max_length=MAX_HEADER)]
    length: int
    root: Bytes32
    shares: Annotated[list[Bytes32], Meta(max_length=MAX_SHARES)]


_form: Final = Form("manifest/1", _Wire, MAX_MANIFEST)


@frozen(slots=False)
class Manifest:
    """
    The manifest of one object.

    @ivar header: its header.
    @ivar length: its bytes.
    @ivar root: of the Merkle tree of its sealed segments (C{Layout.sealed_shape}).
    @ivar shares: the root of each share (C{Layout.share_shape}).
    """

    header: Header
    length: int
    root: bytes = field(repr=lambda root: root.hex())
    shares: tuple[bytes, ...] = field(repr=False)

    def __attrs_post_init__(self) -> None:
        """
        @raise ObjectMalformed: if there are not as many shares as the header says.
        @raise ObjectTooLarge: if no object has that length.
        """
        if any(len(each) != HASH_BYTES for each in (self.root, *self.shares)):
            raise ObjectMalformed(f"a root in the manifest does not have {HASH_BYTES} bytes")
        if len(self.shares) != self.header.scheme.total:
            raise ObjectMalformed(
                f"the manifest has {len(self.shares)} shares, and its header says "
                f"{self.header.scheme.total}"
            )
        Layout(self.header.scheme, self.length)

    @classmethod
    def decode(cls, raw: bytes) -> Manifest:
        """
        @raise ObjectMalformed: if these bytes are no manifest.
        """
        wire = _form.decode(raw)
        header = Header.decode(wire.header)
        try:
            return cls(header, wire.length, wire.root, tuple(wire.shares))
        except (ObjectTooLarge, ValueError) as e:
            raise ObjectMalformed(f"the manifest cannot be used: {e}") from None

    @cached_property
    def raw(self) -> bytes:
        """The bytes of the manifest."""
        wire = _Wire(_form.kind, self.header.raw, self.length, self.root, list(self.shares))
        return _form.encode(wire)

    @cached_property
    def content_id(self) -> bytes:
        """The id of the object: the SHA-256 of its manifest."""
        return sha256(self.raw).digest()

    @cached_property
    def layout(self) -> Layout:
        """Where everything is in the object."""
        return Layout(self.header.scheme, self.length)

    def check(self, content_id: bytes) -> None:
        """
        Is it the manifest of this object?

        @raise ObjectMismatch: if not.
        """
        if not hmac.compare_digest(self.content_id, content_id):
            raise ObjectMismatch(
                f"the manifest is that of the object {self.content_id.hex()[:16]}..., not of "
                f"{content_id.hex()[:16]}..."
            )
