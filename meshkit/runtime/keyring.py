"""
The secrets of a data folder: who the node is, its network, and what opens its door.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from random import Random
from typing import Final

from meshkit.errors import ConfigError
from meshkit.identity.keyfile import (
    MAX_KEY_FILE,
    decode_identity,
    decode_public,
    encode_identity,
    is_sealed,
    seal_identity,
)
from meshkit.identity.keys import SEED_BYTES, Identity, PublicKey
from meshkit.identity.network import (
    PUBLIC_RELAYS,
    NetworkSecret,
    check_networks,
    decode_networks,
    encode_networks,
)
from meshkit.identity.passphrase import DEFAULT_COST, SALT_BYTES, Cost
from meshkit.runtime.folder import DataFolder

SECRET_KEY: Final = "secret.key"
NETWORK_SECRET: Final = "network.secret"
#: The identity that a rotation leads to, until it is in the place of the other.
NEXT_KEY: Final = "next.key"
DOOR_TOKEN: Final = "door.token"
#: From it follow the keys that say where the shares of the owner's objects are.
STORAGE_SECRET: Final = "storage.secret"

_TOKEN_BYTES: Final = 32
_RETIRED_BYTES: Final = 8
_STORAGE_BYTES: Final = 32

# --- the identity ------------------------------------------------------------------


def load_identity(folder: DataFolder, rng: Random, passphrase: str | None = None) -> Identity:
    """The identity of a data folder, made on the first call; see L{stored_identity}."""
    try:
        return stored_identity(folder, passphrase)
    except FileNotFoundError:
        identity = Identity(rng.randbytes(SEED_BYTES))
        create_identity(folder, identity, rng)
        return identity


def stored_identity(folder: DataFolder, passphrase: str | None = None) -> Identity:
    """
    The identity of a data folder.

    @param passphrase: not looked at if the key file is under none.
    @raise FileNotFoundError: if it has none.
    @raise PassphraseRequired: if it is under a passphrase and none is given.
    @raise WrongPassphrase: if it is under another one.
    @raise InvalidKeyFile: if it is damaged.
    """
    return decode_identity(_key_file(folder), folder.file(SECRET_KEY), passphrase)


def stored_public(folder: DataFolder) -> PublicKey:
    """
    Whose data folder this is, passphrase or not.

    @raise FileNotFoundError: if it has no identity.
    """
    return decode_public(_key_file(folder), folder.file(SECRET_KEY))


def needs_passphrase(folder: DataFolder) -> bool:
    """
    Is the identity of a data folder, if it has one, under a passphrase?  One that the
    disk does not give is not: what is wrong with it is told when it is loaded.
    """
    try:
        return is_sealed(_key_file(folder), folder.file(SECRET_KEY))
    except OSError:
        return False


def create_identity(
    folder: DataFolder,
    identity: Identity,
    rng: Random,
    passphrase: str | None = None,
    cost: Cost = DEFAULT_COST,
) -> None:
    """
    Give a data folder its identity.

    @param passphrase: what the key file is to be under; L{None} for nothing.
    @raise FileExistsError: if the folder has one already.
    @raise ValueError: if the passphrase is empty or too long.
    """
    folder.create_secret(SECRET_KEY, _encode(identity, rng, passphrase, cost))


def rewrite_identity(
    folder: DataFolder,
    identity: Identity,
    rng: Random,
    passphrase: str | None,
    cost: Cost = DEFAULT_COST,
) -> None:
    """Like L{create_identity}, in the place of the key file that is there."""
    folder.write_secret(SECRET_KEY, _encode(identity, rng, passphrase, cost))


def next_identity(folder: DataFolder, rng: Random, passphrase: str | None) -> Identity:
    """
    The identity that follows the present one, made and stored on the first call.

    @param passphrase: what the present key file is under; the next one is too.
    @raise InvalidKeyFile: if it is damaged.
    """
    try:
        data = folder.read_secret(NEXT_KEY, MAX_KEY_FILE)
    except FileNotFoundError:
        identity = Identity(rng.randbytes(SEED_BYTES))
        folder.create_secret(NEXT_KEY, _encode(identity, rng, passphrase, DEFAULT_COST))
        return identity
    return decode_identity(data, folder.file(NEXT_KEY), passphrase)


def has_next(folder: DataFolder) -> bool:
    """Is a rotation under way, or was one begun and not finished?"""
    try:
        folder.read_secret(NEXT_KEY, MAX_KEY_FILE)
    except FileNotFoundError:
        return False
    return True


def succeed_identity(folder: DataFolder) -> str:
    """
    Put the next identity in the place of the present one, which is kept aside.  It can be
    ended anywhere and be begun again.

    @return: path of the file with the old one.
    """
    present, following = _key_file(folder), folder.read_secret(NEXT_KEY, MAX_KEY_FILE)
    public = decode_public(present, folder.file(SECRET_KEY))
    retired = f"retired-{public.raw[:_RETIRED_BYTES].hex()}.key"
    with suppress(FileExistsError):
        folder.create_secret(retired, present)
    folder.write_secret(SECRET_KEY, following)
    folder.remove_secret(NEXT_KEY)
    return folder.file(retired)


def discard_next(folder: DataFolder) -> None:
    """Remove the next identity, once it is the present one."""
    folder.remove_secret(NEXT_KEY)


def _encode(identity: Identity, rng: Random, passphrase: str | None, cost: Cost) -> bytes:
    if passphrase is None:
        return encode_identity(identity)
    return seal_identity(identity, passphrase, rng.randbytes(SALT_BYTES), cost)


def _key_file(folder: DataFolder) -> bytes:
    return folder.read_secret(SECRET_KEY, MAX_KEY_FILE)


# --- the network -------------------------------------------------------------------


def stored_networks(folder: DataFolder) -> tuple[NetworkSecret, ...]:
    """The network of a data folder: its secret and the previous one, as far as there are any."""
    try:
        data = folder.read_secret(NETWORK_SECRET)
    except FileNotFoundError:
        return ()
    return decode_networks(data, folder.file(NETWORK_SECRET))


def write_networks(folder: DataFolder, secrets: Sequence[NetworkSecret]) -> None:
    """Write the file with the network's secret anew: the current one, and the previous one."""
    folder.write_secret(NETWORK_SECRET, encode_networks(secrets))


def load_networks(
    folder: DataFolder, key: str, keys: Sequence[str], rng: Random
) -> tuple[NetworkSecret, ...]:
    """
    The network of a data folder: the one that the settings give, else the stored one,
    else a new random one.  The first one a folder gets is stored.  There is no network
    that is everybody's.

    @param key: C{mknet1-...}, a passphrase, or nothing.
    @param keys: the secret and the previous one, C{mknet1-...}; or nothing.
    @return: the current secret, and the previous one if there is one.
    @raise ConfigError: if both are given, or the secret that everybody has (L{PUBLIC_RELAYS}).
    """
    stored = stored_networks(folder)
    if key and keys:
        raise ConfigError("give either network_key or network_keys, not both")
    if keys:
        secrets = check_networks([NetworkSecret.parse(text) for text in keys])
    elif key:
        secrets = (NetworkSecret.from_setting(key),)
    elif stored:
        return stored
    else:
        secrets = (NetworkSecret.generate(rng),)
    if any(secret.raw == PUBLIC_RELAYS.raw for secret in secrets):
        raise ConfigError(
            "this network secret is the one of all blind relays, which everybody has: a network "
            "needs one of its own, as 'meshkit init' makes it without --network-key"
        )
    if not stored:
        folder.create_secret(NETWORK_SECRET, encode_networks(secrets))
    return secrets


# --- objects -----------------------------------------------------------------------


def load_storage_secret(folder: DataFolder, rng: Random) -> bytes:
    """
    The secret of the owner of objects, 32 bytes, made on the first call.

    @raise ConfigError: if the file is damaged.
    """
    try:
        text = folder.read_secret(STORAGE_SECRET)
    except FileNotFoundError:
        folder.prepare()
        secret = rng.randbytes(_STORAGE_BYTES)
        with suppress(FileExistsError):
            folder.create_secret(STORAGE_SECRET, secret.hex().encode("ascii") + b"\n")
        # Somebody else may have been faster.
        text = folder.read_secret(STORAGE_SECRET)
    try:
        secret = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        secret = b""
    if len(secret) != _STORAGE_BYTES:
        raise ConfigError(
            f"{folder.file(STORAGE_SECRET)} is damaged: restore it from a backup; without it, "
            f"where the shares of objects are cannot be changed"
        )
    return secret


# --- the door ----------------------------------------------------------------------


def load_token(folder: DataFolder, rng: Random) -> bytes:
    """The bearer token of a data folder's door, made on the first call."""
    try:
        return stored_token(folder)
    except FileNotFoundError:
        pass
    token = make_token(rng)
    folder.create_secret(DOOR_TOKEN, token + b"\n")
    return token


def make_token(rng: Random) -> bytes:
    """A new bearer token for a door."""
    return rng.randbytes(_TOKEN_BYTES).hex().encode("ascii")


def write_token(folder: DataFolder, token: bytes) -> None:
    """Put a token in the place of the one that opens a data folder's door."""
    folder.write_secret(DOOR_TOKEN, token + b"\n")


def stored_token(folder: DataFolder) -> bytes:
    """
    The bearer token of a data folder's door.

    @raise FileNotFoundError: if it has none.
    """
    return folder.read_secret(DOOR_TOKEN).strip()
