"""
The form of an identity in its file.  Reading and guarding the file is
C{runtime.folder}'s work; nothing here touches a disk.

::

    {"meshkit": "identity", "version": 1, "id": "@....ed25519", "seed": "<base64>"}

The C{id} is there for people; a file whose seed does not belong to its id is refused,
because one of the two was edited.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final, Literal

import msgspec

from meshkit.errors import InvalidKeyFile
from meshkit.identity.keys import SEED_BYTES, Identity

#: A key file is never larger.
MAX_KEY_FILE: Final = 4 * 1024

#: The newest version that this meshkit reads.
VERSION: Final = 1


class _File(msgspec.Struct, forbid_unknown_fields=True):
    meshkit: Literal["identity"]
    version: int
    id: str
    seed: str


class _Versioned(msgspec.Struct):
    meshkit: Literal["identity"]
    version: int


def encode_identity(identity: Identity) -> bytes:
    """The content of a key file.  It is the secret: write it 0600."""
    seed = base64.b64encode(identity.seed()).decode("ascii")
    file = _File("identity", VERSION, identity.public.text, seed)
    return msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"


def decode_identity(data: bytes, path: str) -> Identity:
    """
    Read the content of a key file.

    @param path: for the error.
    @raise InvalidKeyFile: saying what is wrong; never showing the secret.
    """
    try:
        version = msgspec.json.decode(data, type=_Versioned).version
        if version < 1:
            raise ValueError("no such version")
        if version > VERSION:
            raise InvalidKeyFile(
                f"the key file {path} is of version {version}: upgrade meshkit to read it"
            )
        file = msgspec.json.decode(data, type=_File)
        seed = base64.b64decode(file.seed, validate=True)
    except (msgspec.DecodeError, binascii.Error, ValueError, RecursionError):
        # "from None", so that no traceback carries a piece of the file.
        raise InvalidKeyFile(
            f"{path} is not a meshkit key file: restore it from a backup, or move it away "
            f"to start with a new identity"
        ) from None
    if len(seed) != SEED_BYTES:
        raise InvalidKeyFile(f"the seed in {path} is cut off: restore it from a backup")
    identity = Identity(seed)
    if identity.public.text != file.id:
        raise InvalidKeyFile(
            f"the seed in {path} does not belong to the id beside it: one of them was edited; "
            f"restore the file from a backup"
        )
    return identity
