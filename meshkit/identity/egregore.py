"""
Identities as Egregore keeps them, to be taken over.  Nothing here touches a disk.

C{identity/secret.key} is the 32-byte Ed25519 seed as it is.  C{identity/secret.key.enc},
which its versions before 2.0 wrote, is JSON with bytes as lists of numbers::

    {"salt": [16 numbers], "nonce": [12 numbers], "ciphertext": [48 numbers]}

    key        = Argon2id 1.3 of the passphrase, m = 19456 KiB, t = 2, p = 1
    ciphertext = ChaCha20-Poly1305(key, nonce, seed), without associated data
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta
from nacl import bindings
from nacl.exceptions import CryptoError

from meshkit.errors import InvalidKeyFile, PassphraseRequired, WrongPassphrase
from meshkit.identity.keys import SEED_BYTES, Identity
from meshkit.identity.passphrase import Cost, stretch

#: Either file is never larger.
MAX_FILE: Final = 4 * 1024

_COST: Final = Cost(passes=2, memory_kib=19_456)
_NACL_ERRORS: Final = (CryptoError, RuntimeError, ValueError)

_Byte = Annotated[int, Meta(ge=0, le=255)]


class _Encrypted(msgspec.Struct, forbid_unknown_fields=True):
    salt: Annotated[list[_Byte], Meta(min_length=16, max_length=16)]
    nonce: Annotated[list[_Byte], Meta(min_length=12, max_length=12)]
    ciphertext: Annotated[list[_Byte], Meta(min_length=48, max_length=48)]


def is_encrypted(data: bytes) -> bool:
    """Does this file need a passphrase?  A raw seed is 32 bytes long, the other far longer."""
    return len(data) > SEED_BYTES


def import_identity(data: bytes, path: str, passphrase: str | None = None) -> Identity:
    """
    Read either file.

    @param path: for the errors.
    @param passphrase: exactly as it was typed; Egregore does not normalise it.
    @raise PassphraseRequired: if the file is encrypted and there is no passphrase.
    @raise WrongPassphrase: if the passphrase does not open it; the format cannot tell
        that from a damaged file.
    @raise InvalidKeyFile: if it is neither file.
    """
    if len(data) == SEED_BYTES:
        return Identity(data)
    try:
        file = msgspec.json.decode(data, type=_Encrypted)
    except (msgspec.DecodeError, ValueError, RecursionError):
        # "from None", so that no traceback carries a piece of the file.
        raise InvalidKeyFile(
            f"{path} is no key of Egregore: give the path of its identity/secret.key (32 bytes) "
            f"or identity/secret.key.enc"
        ) from None
    if passphrase is None:
        raise PassphraseRequired(f"{path} is encrypted: its passphrase is needed to import it")
    try:
        key = stretch(passphrase.encode("utf-8"), bytes(file.salt), _COST)
        seed = bindings.crypto_aead_chacha20poly1305_ietf_decrypt(
            bytes(file.ciphertext), None, bytes(file.nonce), key
        )
    except _NACL_ERRORS:
        raise WrongPassphrase(
            f"the passphrase does not open {path}, or the file is damaged"
        ) from None
    return Identity(seed)
