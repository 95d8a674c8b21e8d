"""
The key of an object, wrapped for those who may have it.  Pure.

A file of JSON, for which it does no harm to be seen::

    {"meshkit": "object-key", "version": 1, "object": "<content id, hex>",
     "passphrase": {"kdf": "argon2id", "passes": 3, "memory_kib": 262144, "salt": "<base64>",
                    "commit": "<base64>", "sealed": "<base64>"},
     "recipients": [{"key": "@....ed25519", "sealed": "<base64>"}]}

C{passphrase} or C{recipients} may be missing, not both.  Under a passphrase the key is sealed
as L{meshkit.identity.passphrase} does it, with C{"meshkit/wrap/1" | content id} as associated
data.  For a recipient it is sealed with HPKE (L{meshkit.crypto.hpke}) and the C{info}
C{"meshkit/wrap/1" | content id | recipient's Ed25519 key}.

So a wrapped key belongs to one object and cannot be moved to another.  That all recipients
were given the same key is not to be seen here: whoever uses one compares it with the
commitment in the object's header (L{meshkit.storage.header}), as only one key fits that.
"""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from random import Random
from typing import Final, Literal

import msgspec
from attrs import frozen

from meshkit.crypto import hpke
from meshkit.errors import InvalidPublicKey, KeyFileInvalid, NoKeyFor
from meshkit.identity.keys import Identity, PublicKey
from meshkit.identity.passphrase import DEFAULT_COST, SALT_BYTES, Cost, Sealed, seal, unseal

KEY_BYTES: Final = 32
ID_BYTES: Final = 32
#: A wrapped key for one recipient.
WRAPPED_BYTES: Final = hpke.KEY_BYTES + KEY_BYTES + hpke.TAG_BYTES

MAX_RECIPIENTS: Final = 64
#: A file is never larger.
MAX_FILE: Final = 24 * 1024
#: The newest version that this meshkit reads.
VERSION: Final = 1

_INFO: Final = b"meshkit/wrap/1"


class _Recipient(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str
    sealed: bytes


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    meshkit: Literal["object-key"]
    version: int
    object: str
    passphrase: Sealed | None = None
    recipients: tuple[_Recipient, ...] = ()


class _Versioned(msgspec.Struct):
    meshkit: Literal["object-key"]
    version: int


@frozen
class WrappedKey:
    """
    A key for one recipient.

    @ivar recipient: for whom.
    @ivar sealed: 80 bytes.
    """

    recipient: PublicKey
    sealed: bytes


@frozen(repr=False)
class KeyFile:
    """
    The key of one object, wrapped.

    @ivar content_id: which object.
    @ivar passphrase: the key under a passphrase, if it is under one.
    @ivar recipients: the key for others.
    """

    content_id: bytes
    passphrase: Sealed | None
    recipients: tuple[WrappedKey, ...]

    @classmethod
    def wrap(
        cls,
        content_id: bytes,
        key: bytes,
        rng: Random,
        passphrase: str | None = None,
        recipients: Sequence[PublicKey] = (),
        cost: Cost = DEFAULT_COST,
    ) -> KeyFile:
        """
        Wrap a key.  With a passphrase that blocks for about a second.

        @param content_id: which object it is the key of.
        @param key: 32 bytes.
        @param rng: for a salt, and an ephemeral key for each recipient.
        @param recipients: up to L{MAX_RECIPIENTS} different keys.
        @raise KeyFileInvalid: if it is for nobody, or for too many, or nothing can be
            wrapped for one of them.
        @raise ValueError: if the passphrase is empty or too long.
        """
        if len(content_id) != ID_BYTES or len(key) != KEY_BYTES:
            raise ValueError("a content id and a key have 32 bytes each")
        if passphrase is None and not recipients:
            raise KeyFileInvalid("a key is wrapped for a passphrase or a recipient at least")
        if len(recipients) > MAX_RECIPIENTS or len(set(recipients)) < len(recipients):
            raise KeyFileInvalid(
                f"a key is wrapped for up to {MAX_RECIPIENTS} different recipients, not for "
                f"{len(recipients)}"
            )
        under = None
        if passphrase is not None:
            salt = rng.randbytes(SALT_BYTES)
            under = seal(key, passphrase, _INFO + content_id, salt, cost)
        wrapped = tuple(_wrap_for(each, content_id, key, rng) for each in recipients)
        return cls(content_id, under, wrapped)

    @classmethod
    def decode(cls, data: bytes, path: str) -> KeyFile:
        """
        Read what L{encode} wrote.  Nothing is computed yet.

        @param path: for the error.
        @raise KeyFileInvalid: saying what is wrong.
        """
        try:
            file = _parse(data, path)
            content_id = binascii.unhexlify(file.object)
            recipients = tuple(
                WrappedKey(PublicKey.parse(each.key), each.sealed) for each in file.recipients
            )
        except (msgspec.DecodeError, ValueError, RecursionError, InvalidPublicKey):
            raise KeyFileInvalid(
                f"{path} does not hold the key of an object: restore it from a backup"
            ) from None
        try:
            if file.passphrase is not None:
                file.passphrase.check(KEY_BYTES)
            _check(content_id, file.passphrase, recipients)
        except ValueError as e:
            raise KeyFileInvalid(
                f"the key file {path} cannot be used: {e}; restore it from a backup"
            ) from None
        return cls(content_id, file.passphrase, recipients)

    def encode(self) -> bytes:
        """The content of the file."""
        recipients = tuple(_Recipient(each.recipient.text, each.sealed) for each in self.recipients)
        file = _File("object-key", VERSION, self.content_id.hex(), self.passphrase, recipients)
        return msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"

    def open_with(self, passphrase: str) -> bytes:
        """
        Unwrap the key with a passphrase.  Blocks as long as the file asks, within bounds.

        @raise NoKeyFor: if it is under none.
        @raise WrongPassphrase: if it is under another one.
        @raise KeyFileInvalid: if the file was changed.
        """
        if self.passphrase is None:
            raise NoKeyFor(f"the key is under no passphrase: it is for {self._for_whom()}")
        try:
            return unseal(self.passphrase, passphrase, _INFO + self.content_id)
        except ValueError:
            raise KeyFileInvalid("the wrapped key was changed: restore it from a backup") from None

    def open_as(self, identity: Identity) -> bytes:
        """
        Unwrap the key as one of the recipients.

        @raise NoKeyFor: if it is not for this one.
        @raise KeyFileInvalid: if the file was changed.
        """
        public = identity.public
        for each in self.recipients:
            if each.recipient == public:
                info = _info(self.content_id, public)
                secret = identity._x25519_secret
                try:
                    return hpke.open_sealed(secret, public.x25519, info, b"", each.sealed)
                except ValueError:
                    raise KeyFileInvalid(
                        f"the key that is wrapped for {public.text} was changed: restore it from "
                        f"a backup"
                    ) from None
        raise NoKeyFor(f"the key is not for {public.text}: it is for {self._for_whom()}")

    def _for_whom(self) -> str:
        there = [each.recipient.text for each in self.recipients]
        if self.passphrase is not None:
            there.append("who knows a passphrase")
        return ", ".join(there)

    def __repr__(self) -> str:
        return f"<KeyFile {self.content_id.hex()[:16]} for {self._for_whom()}>"


def _info(content_id: bytes, recipient: PublicKey) -> bytes:
    return _INFO + content_id + recipient.raw


def _wrap_for(recipient: PublicKey, content_id: bytes, key: bytes, rng: Random) -> WrappedKey:
    try:
        sealed = hpke.seal(
            recipient.x25519, _info(content_id, recipient), b"", key, rng.randbytes(hpke.KEY_BYTES)
        )
    except (ValueError, InvalidPublicKey):
        raise KeyFileInvalid(f"no key can be wrapped for {recipient.text}") from None
    return WrappedKey(recipient, sealed)


def _parse(data: bytes, path: str) -> _File:
    if len(data) > MAX_FILE:
        raise KeyFileInvalid(
            f"the key file {path} has {len(data)} bytes, and {MAX_FILE} are the limit"
        )
    version = msgspec.json.decode(data, type=_Versioned).version
    if version < 1:
        raise ValueError("no such version")
    if version > VERSION:
        raise KeyFileInvalid(
            f"the key file {path} is of version {version}: upgrade meshkit to read it"
        )
    return msgspec.json.decode(data, type=_File)


def _check(content_id: bytes, passphrase: Sealed | None, recipients: Sequence[WrappedKey]) -> None:
    """@raise ValueError: if something is out of form."""
    if len(content_id) != ID_BYTES:
        raise ValueError(f"the id of an object has {ID_BYTES} bytes, not {len(content_id)}")
    if passphrase is None and not recipients:
        raise ValueError("it is for nobody")
    if len(recipients) > MAX_RECIPIENTS:
        raise ValueError(f"it is for more than {MAX_RECIPIENTS} recipients")
    if len({each.recipient for each in recipients}) < len(recipients):
        raise ValueError("a recipient stands in it twice")
    if any(len(each.sealed) != WRAPPED_BYTES for each in recipients):
        raise ValueError(f"a wrapped key has not {WRAPPED_BYTES} bytes")
