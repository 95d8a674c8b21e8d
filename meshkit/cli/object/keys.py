"""
Where the keys of objects are: in the data folder, or in files that the caller names.

A key is never beside the shares by itself: who finds the one shall not find the other.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from random import Random
from typing import Final

from meshkit.cli.locate import open_folder
from meshkit.crypto.wrap import MAX_FILE, KeyFile
from meshkit.errors import KeyFileInvalid, NotFound
from meshkit.identity.keys import Identity, PublicKey
from meshkit.identity.passphrase import DEFAULT_COST
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.keyring import needs_passphrase, stored_identity
from meshkit.storage.capability import ReadCapability, expect_capability
from meshkit.tap.passphrase import ask, read_from, unlock

#: Folder within the data folder.
KEYS: Final = "object-keys"
SUFFIX: Final = ".key"
#: Of the passphrase of a key.
COST: Final = DEFAULT_COST


def key_path(flag: str | None, content_id: bytes) -> str:
    """@return: where the key of an object is, if nobody says otherwise."""
    return os.path.join(open_folder(flag).path, KEYS, content_id.hex() + SUFFIX)


def write_key(
    path: str,
    capability: ReadCapability,
    rng: Random,
    passphrase: str | None,
    recipients: Sequence[PublicKey],
) -> None:
    """
    Write a key, wrapped if it is to be, durably and for its owner alone.

    @param passphrase: what it is to be under; L{None} for nothing.
    @param recipients: who else may open it.
    @raise FileExistsError: if there is such a file.
    """
    if passphrase is None and not recipients:
        data = f"{capability.text}\n".encode("ascii")
    else:
        data = KeyFile.wrap(
            capability.content_id, capability.key, rng, passphrase, recipients, COST
        ).encode()
    files = LocalFiles()
    files.make_folder(os.path.dirname(path) or os.curdir)
    files.create(path, data, 0o600)


def read_key(flag: str | None, path: str, passphrase_fd: int | None) -> ReadCapability:
    """
    Read a key.  What it is under is asked for.

    @param passphrase_fd: where the passphrase is read, of the key or of the identity that it
        is wrapped for.
    @raise NotFound: if there is no such file.
    @raise UnsafePermissions: if others may read it.
    @raise KeyFileInvalid: if it holds no key.
    """
    try:
        data = LocalFiles().read_secret(path, MAX_FILE)
    except FileNotFoundError:
        raise NotFound(f"there is no key at {path}: name the file with --key-file") from None
    if not data.lstrip().startswith(b"{"):
        try:
            return expect_capability(data.decode("ascii"), ReadCapability)
        except UnicodeDecodeError:
            raise KeyFileInvalid(f"{path} does not hold the key of an object") from None
    wrapped = KeyFile.decode(data, path)
    if wrapped.passphrase is not None:
        passphrase = (
            ask("Passphrase of the key") if passphrase_fd is None else read_from(passphrase_fd)
        )
        return ReadCapability(wrapped.content_id, wrapped.open_with(passphrase))
    return ReadCapability(wrapped.content_id, wrapped.open_as(_identity(flag, passphrase_fd)))


def _identity(flag: str | None, passphrase_fd: int | None) -> Identity:
    folder = open_folder(flag)
    try:
        if needs_passphrase(folder):
            return unlock(folder, passphrase_fd)
        return stored_identity(folder)
    except FileNotFoundError:
        raise NotFound(
            f"the key is wrapped for an identity, and there is none in {folder.path}: name the "
            f"data folder with --data-dir"
        ) from None
