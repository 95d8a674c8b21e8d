"""
The form of an identity in its file.  Reading and guarding the file is
C{runtime.folder}'s work; nothing here touches a disk.

::

    {"meshkit": "identity", "version": 1, "id": "@....ed25519", "seed": "<base64>"}

The C{id} is there for people; a file whose seed does not belong to its id is refused,
because one of the two was edited.  Under a passphrase the file is of version 2, with the
seed sealed as C{passphrase} describes it, and the id is readable without::

    {"meshkit": "identity", "version": 2, "id": "@....ed25519",
     "seed": {"kdf": "argon2id", "passes": 3, "memory_kib": 262144, "salt": "<base64>",
              "commit": "<base64>", "sealed": "<base64>"}}
"""

from __future__ import annotations

import base64
import binascii
from typing import Final, Literal

import msgspec

from meshkit.errors import InvalidKeyFile, InvalidPublicKey, PassphraseRequired, WrongPassphrase
from meshkit.identity.keys import SEED_BYTES, Identity, PublicKey
from meshkit.identity.passphrase import DEFAULT_COST, Cost, Sealed, seal, unseal

#: A key file is never larger.
MAX_KEY_FILE: Final = 4 * 1024

#: The newest version that this meshkit reads.
VERSION: Final = 2

_PLAIN: Final = 1
_SEALED: Final = 2


class _PlainFile(msgspec.Struct, forbid_unknown_fields=True):
    meshkit: Literal["identity"]
    version: int
    id: str
    seed: str


class _SealedFile(msgspec.Struct, forbid_unknown_fields=True):
    meshkit: Literal["identity"]
    version: int
    id: str
    seed: Sealed


class _Versioned(msgspec.Struct):
    meshkit: Literal["identity"]
    version: int


def encode_identity(identity: Identity) -> bytes:
    """The content of a key file.  It is the secret: write it 0600."""
    seed = base64.b64encode(identity.seed()).decode("ascii")
    return _pretty(_PlainFile("identity", _PLAIN, identity.public.text, seed))


def seal_identity(
    identity: Identity, passphrase: str, salt: bytes, cost: Cost = DEFAULT_COST
) -> bytes:
    """
    The content of a key file under a passphrase.  Blocks for about a second.

    @param salt: 16 random bytes, used once.
    @raise ValueError: if the passphrase is empty or too long.
    """
    who = identity.public.text
    sealed = seal(identity.seed(), passphrase, who.encode("ascii"), salt, cost)
    return _pretty(_SealedFile("identity", _SEALED, who, sealed))


def _pretty(file: msgspec.Struct) -> bytes:
    return msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"


def _parse(data: bytes, path: str) -> _PlainFile | _SealedFile:
    try:
        version = msgspec.json.decode(data, type=_Versioned).version
        if version < 1:
            raise ValueError("no such version")
        if version > VERSION:
            raise InvalidKeyFile(
                f"the key file {path} is of version {version}: upgrade meshkit to read it"
            )
        if version == _PLAIN:
            return msgspec.json.decode(data, type=_PlainFile)
        file = msgspec.json.decode(data, type=_SealedFile)
        PublicKey.parse(file.id)
    except (msgspec.DecodeError, ValueError, RecursionError, InvalidPublicKey):
        # "from None", so that no traceback carries a piece of the file.
        raise _damaged(path) from None
    try:
        file.seed.check(SEED_BYTES)
    except ValueError as e:
        raise InvalidKeyFile(
            f"the key file {path} cannot be opened: {e}; restore it from a backup"
        ) from None
    return file


def _damaged(path: str) -> InvalidKeyFile:
    return InvalidKeyFile(
        f"{path} is not a meshkit key file: restore it from a backup, or move it away "
        f"to start with a new identity"
    )


def is_sealed(data: bytes, path: str) -> bool:
    """
    Is this key file under a passphrase?

    @param path: for the error.
    @raise InvalidKeyFile: if it is no key file.
    """
    return isinstance(_parse(data, path), _SealedFile)


def decode_public(data: bytes, path: str) -> PublicKey:
    """
    Whose key file is this?  For one under a passphrase that is what it claims.

    @param path: for the error.
    @raise InvalidKeyFile: saying what is wrong; never showing the secret.
    """
    file = _parse(data, path)
    if isinstance(file, _SealedFile):
        return PublicKey.parse(file.id)
    return _open_plain(file, path).public


def decode_identity(data: bytes, path: str, passphrase: str | None = None) -> Identity:
    """
    Read the content of a key file.  With a passphrase that blocks for about a second.

    @param path: for the error.
    @param passphrase: not looked at if the file is under none.
    @raise InvalidKeyFile: saying what is wrong; never showing the secret.
    @raise PassphraseRequired: if it is under one, and none is given.
    @raise WrongPassphrase: if it is under another one.
    """
    file = _parse(data, path)
    if isinstance(file, _SealedFile):
        return _open_sealed(file, path, passphrase)
    return _open_plain(file, path)


def _open_sealed(file: _SealedFile, path: str, passphrase: str | None) -> Identity:
    if passphrase is None:
        raise PassphraseRequired(
            f"the key file {path} is under a passphrase: start on a terminal, which asks for it, "
            f"or give it with --passphrase-fd"
        )
    try:
        seed = unseal(file.seed, passphrase, file.id.encode("utf-8"))
    except WrongPassphrase as e:
        raise WrongPassphrase(f"cannot open the key file {path}: {e}") from None
    except ValueError:
        raise InvalidKeyFile(
            f"the key file {path} was changed since it was written: restore it from a backup"
        ) from None
    return _belongs(Identity(seed), file.id, path)


def _open_plain(file: _PlainFile, path: str) -> Identity:
    try:
        seed = base64.b64decode(file.seed, validate=True)
    except (binascii.Error, ValueError):
        raise _damaged(path) from None
    if len(seed) != SEED_BYTES:
        raise InvalidKeyFile(f"the seed in {path} is cut off: restore it from a backup")
    return _belongs(Identity(seed), file.id, path)


def _belongs(identity: Identity, who: str, path: str) -> Identity:
    if identity.public.text != who:
        raise InvalidKeyFile(
            f"the seed in {path} does not belong to the id beside it: one of them was edited; "
            f"restore the file from a backup"
        )
    return identity
