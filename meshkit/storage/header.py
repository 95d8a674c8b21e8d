"""
The header of an object: all that has to be known before its first byte.  Pure.

::

    header = ["header/1", upload: bin 32, salt: bin 32, commitment: bin 32, prefix: bin 7,
              placement: bin 32, required: uint, total: uint, block_bytes: uint]

    encryption key | commitment = HKDF-SHA256(salt, content key, "meshkit/object/1")
    sealed segment              : STREAM with this key and prefix; associated data
                                  SHA-256(header)
    share id                    = SHA-256("meshkit/share/1" | upload | u8 number of the share)

The object's id is known when its last byte is (L{meshkit.storage.manifest}); who keeps which
share is decided before, from C{upload}.  The content key is not in the header, and one key is
right: the commitment says which.

C{placement} is the public key that signs where the shares are.  As the id of the object is a
hash of the header too, whoever knows the id can find out who may say where it is.
"""

from __future__ import annotations

import hmac
import re
from functools import cached_property
from hashlib import sha256
from random import Random
from typing import Annotated, Final

from attrs import field, frozen
from msgspec import Meta

from meshkit.crypto.stream import (
    COMMITMENT_BYTES,
    KEY_BYTES,
    PREFIX_BYTES,
    SALT_BYTES,
    MakeCipher,
    Opener,
    Sealer,
    StreamKeys,
    fastest_cipher,
)
from meshkit.errors import ObjectKeyWrong, ObjectMalformed, SchemeInvalid
from meshkit.identity.keys import PublicKey
from meshkit.storage.canonical import Description, Form
from meshkit.storage.scheme import MAX_SHARES, Scheme

UPLOAD_BYTES: Final = 32
#: A header has 160 to 163 bytes.
MAX_HEADER: Final = 256

_INFO: Final = b"meshkit/object/1"
_SHARE: Final = b"meshkit/share/1"
_NAME: Final = re.compile(r"\b([0-9a-f]{16})[0-9a-f]{48}(?![0-9a-f])")

Bytes7 = Annotated[bytes, Meta(min_length=7, max_length=7)]
Bytes32 = Annotated[bytes, Meta(min_length=32, max_length=32)]


class _Wire(Description, frozen=True):
    upload: Bytes32
    salt: Bytes32
    commitment: Bytes32
    prefix: Bytes7
    placement: Bytes32
    required: int
    total: int
    block_bytes: int


_form: Final = Form("header/1", _Wire, MAX_HEADER)


def new_content_key(rng: Random) -> bytes:
    """@return: 32 bytes.  Who has them reads the object."""
    return rng.randbytes(KEY_BYTES)


@frozen(slots=False)
class Header:
    """
    The header of one object.

    @ivar scheme: how the object is cut.
    @ivar upload: 32 random bytes.  Placement and share ids follow from them, so that who
        knows them can ask for the shares.
    @ivar placement: whose signature says where the shares are.
    @ivar salt: 32 random bytes.
    @ivar commitment: to the content key.
    @ivar prefix: 7 random bytes.
    """

    scheme: Scheme
    upload: bytes = field(repr=False)
    placement: PublicKey
    salt: bytes = field(repr=False)
    commitment: bytes = field(repr=False)
    prefix: bytes = field(repr=False)

    def __attrs_post_init__(self) -> None:
        lengths = (UPLOAD_BYTES, SALT_BYTES, COMMITMENT_BYTES, PREFIX_BYTES)
        given = (self.upload, self.salt, self.commitment, self.prefix)
        if tuple(map(len, given)) != lengths:
            raise ValueError("a field of the header has another length than it has to have")

    @classmethod
    def new(
        cls,
        scheme: Scheme,
        upload: bytes,
        placement: PublicKey,
        content_key: bytes,
        rng: Random,
    ) -> Header:
        """
        The header of a new object.

        @param upload: see L{new_upload}.  It is known before C{placement} is.
        @param content_key: see L{new_content_key}.
        @param rng: for the salt and prefix.  With the same ones and the same key two
            objects would be sealed with the same nonces: never replay it.
        """
        salt, prefix = rng.randbytes(SALT_BYTES), rng.randbytes(PREFIX_BYTES)
        keys = StreamKeys.derive(content_key, salt, _INFO)
        return cls(scheme, upload, placement, salt, keys.commitment, prefix)

    @classmethod
    def decode(cls, raw: bytes) -> Header:
        """
        @raise ObjectMalformed: if these bytes are no header.
        """
        wire = _form.decode(raw)
        try:
            scheme = Scheme(wire.required, wire.total, wire.block_bytes)
        except SchemeInvalid as e:
            raise ObjectMalformed(f"the header of the object cannot be used: {e}") from None
        placement = PublicKey(wire.placement)
        return cls(scheme, wire.upload, placement, wire.salt, wire.commitment, wire.prefix)

    @cached_property
    def raw(self) -> bytes:
        """The bytes of the header."""
        wire = _Wire(
            _form.kind,
            self.upload,
            self.salt,
            self.commitment,
            self.prefix,
            self.placement.raw,
            self.scheme.required,
            self.scheme.total,
            self.scheme.block_bytes,
        )
        return _form.encode(wire)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the header, which is bound to every segment."""
        return sha256(self.raw).digest()

    def share_id(self, number: int) -> bytes:
        """
        The name of a share at whoever keeps it.  Who knows it can ask for the share: do not
        log it whole.

        @param number: from 0 to C{scheme.total - 1}.
        """
        if not 0 <= number < self.scheme.total:
            raise ValueError(f"the object has no share {number}")
        return share_id(self.upload, number)

    def fits(self, content_key: bytes) -> bool:
        """Is this the content key of the object?"""
        if len(content_key) != KEY_BYTES:
            return False
        keys = StreamKeys.derive(content_key, self.salt, _INFO)
        return hmac.compare_digest(keys.commitment, self.commitment)

    def sealer(self, content_key: bytes, make_cipher: MakeCipher = fastest_cipher) -> Sealer:
        """
        What seals the object, once.

        @raise ObjectKeyWrong: if the key is not that of the header.
        """
        return Sealer(*self._stream(content_key), make_cipher)

    def opener(self, content_key: bytes, make_cipher: MakeCipher = fastest_cipher) -> Opener:
        """
        What opens segments of the object.

        @raise ObjectKeyWrong: if the key is not that of the header.
        """
        return Opener(*self._stream(content_key), make_cipher)

    def _stream(self, content_key: bytes) -> tuple[bytes, bytes, bytes, int]:
        if not self.fits(content_key):
            raise ObjectKeyWrong("the key is not that of the object: compare the objects' ids")
        keys = StreamKeys.derive(content_key, self.salt, _INFO)
        return keys.key, self.prefix, self.digest, self.scheme.segment_bytes


def share_id(upload: bytes, number: int) -> bytes:
    """
    The name of a share, for who has not seen the header yet.

    @param upload: of the header.
    @param number: of the share.
    @raise ValueError: if no object has such a share.
    """
    if len(upload) != UPLOAD_BYTES or not 0 <= number < MAX_SHARES:
        raise ValueError(f"no object has a share {number} of an upload of {len(upload)} bytes")
    return sha256(_SHARE + upload + bytes([number])).digest()


def without_names(text: object) -> str:
    """
    @param text: such as the name of a file, or an error that has one in it.
    @return: it with the names of shares cut, to be logged.
    """
    return _NAME.sub(r"\1...", str(text))


def new_upload(rng: Random) -> bytes:
    """@return: 32 random bytes, which name an object before it is known."""
    return rng.randbytes(UPLOAD_BYTES)
