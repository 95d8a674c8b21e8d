"""
A short secret under a passphrase, without I/O.

::

    root          = Argon2id(UTF-8 of the NFC form, salt, passes, memory; p = 1), 32 bytes
    wrap | commit = HKDF-SHA256(root, no salt, info "meshkit/passphrase/1"), 32 + 32 bytes
    sealed        = ChaCha20-Poly1305(wrap, nonce 0, associated data, secret)

The nonce can be zero because every sealing has a fresh salt, and so a key of its own.
C{commit} stands in the file.  It tells a wrong passphrase from a damaged file before
anything is decrypted, and makes sure that one file opens under one passphrase only,
which ChaCha20-Poly1305 by itself does not.  Guessing is as dear with it as without.

The costs stand in the file, so that they can be raised for new files.  They are bounded,
as whoever can write the file could otherwise make opening it take all memory.
"""

from __future__ import annotations

import hmac
import unicodedata
from typing import Final

import msgspec
from attrs import field, frozen
from nacl import bindings, pwhash
from nacl.exceptions import CryptoError

from meshkit.errors import StartError, WrongPassphrase

SALT_BYTES: Final = 16
_KEY_BYTES: Final = 32
_TAG_BYTES: Final = 16
_INFO: Final = b"meshkit/passphrase/1"
_ZERO_NONCE: Final = bytes(12)

#: Bounds of what a file may ask for.
MAX_PASSES: Final = 10
MIN_MEMORY_KIB: Final = 8
MAX_MEMORY_KIB: Final = 1024 * 1024

#: A passphrase is never longer, in bytes of UTF-8.
MAX_PASSPHRASE: Final = 1024

_NACL_ERRORS: Final = (CryptoError, RuntimeError, ValueError)


@frozen
class Cost:
    """
    What one guess costs.

    @ivar passes: over the memory, 1 to L{MAX_PASSES}.
    @ivar memory_kib: L{MIN_MEMORY_KIB} to L{MAX_MEMORY_KIB}.
    """

    passes: int = field()
    memory_kib: int = field()

    @passes.validator
    def _check_passes(self, _attribute: object, value: int) -> None:
        if not 1 <= value <= MAX_PASSES:
            raise ValueError(f"{value} passes of Argon2id are not between 1 and {MAX_PASSES}")

    @memory_kib.validator
    def _check_memory(self, _attribute: object, value: int) -> None:
        if not MIN_MEMORY_KIB <= value <= MAX_MEMORY_KIB:
            raise ValueError(
                f"{value} KiB for Argon2id are not between {MIN_MEMORY_KIB} and {MAX_MEMORY_KIB}"
            )


#: libsodium's "moderate": about a second on one core of a small machine.
DEFAULT_COST: Final = Cost(passes=3, memory_kib=256 * 1024)


class Sealed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    A secret under a passphrase, as it stands in a file.  Bytes are base64 in JSON.

    @ivar kdf: C{argon2id}.
    @ivar passes: see L{Cost}.
    @ivar memory_kib: see L{Cost}.
    @ivar salt: 16 bytes.
    @ivar commit: 32 bytes.
    @ivar sealed: the secret and 16 bytes more.
    """

    kdf: str
    passes: int
    memory_kib: int
    salt: bytes
    commit: bytes
    sealed: bytes

    def check(self, secret_bytes: int) -> None:
        """
        @param secret_bytes: how long the secret has to be.
        @raise ValueError: if something is out of form or bounds; nothing was computed.
        """
        if self.kdf != "argon2id":
            raise ValueError(f"keys are derived with argon2id, not with {self.kdf[:32]!r}")
        Cost(self.passes, self.memory_kib)
        for name, value, length in (
            ("salt", self.salt, SALT_BYTES),
            ("commit", self.commit, _KEY_BYTES),
            ("sealed", self.sealed, secret_bytes + _TAG_BYTES),
        ):
            if len(value) != length:
                raise ValueError(f"{name} has {len(value)} bytes instead of {length}")


def normal(passphrase: str) -> bytes:
    """
    The bytes of a passphrase: the same however the keyboard composes its letters.

    @raise ValueError: if it is empty or too long.
    """
    try:
        words = unicodedata.normalize("NFC", passphrase).encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("the passphrase is not UTF-8 text") from None
    if not words:
        raise ValueError("the passphrase is empty")
    if len(words) > MAX_PASSPHRASE:
        raise ValueError(f"the passphrase is longer than {MAX_PASSPHRASE} bytes")
    return words


def stretch(passphrase: bytes, salt: bytes, cost: Cost) -> bytes:
    """
    Argon2id of version 1.3 with one lane.  Blocks for as long as it is meant to.

    @return: 32 bytes.
    @raise StartError: if there is not that much memory.
    """
    try:
        return pwhash.argon2id.kdf(
            _KEY_BYTES, passphrase, salt, opslimit=cost.passes, memlimit=cost.memory_kib * 1024
        )
    except RuntimeError:
        raise StartError(
            f"the passphrase cannot be checked: that needs {cost.memory_kib} KiB of free memory"
        ) from None


def _keys(passphrase: str, salt: bytes, cost: Cost) -> tuple[bytes, bytes]:
    root = stretch(normal(passphrase), salt, cost)
    # A quarter of what a command imports, and few need it.
    from Crypto.Hash import SHA256
    from Crypto.Protocol.KDF import HKDF

    keys = HKDF(root, 2 * _KEY_BYTES, b"", SHA256, context=_INFO)
    assert isinstance(keys, bytes)  # one stretch was asked for, not several
    return keys[:_KEY_BYTES], keys[_KEY_BYTES:]


def _bound(associated: bytes, cost: Cost, salt: bytes, commit: bytes) -> bytes:
    """Everything in the file that is not secret, as associated data."""
    head = f"argon2id/{cost.passes}/{cost.memory_kib}/{len(associated)}/".encode("ascii")
    return _INFO + b"\x00" + head + associated + salt + commit


def seal(
    secret: bytes, passphrase: str, associated: bytes, salt: bytes, cost: Cost = DEFAULT_COST
) -> Sealed:
    """
    Put a secret under a passphrase.  Blocks for about a second.

    @param associated: what belongs to the secret and must not be changed.
    @param salt: 16 random bytes, used once.
    @raise ValueError: if the passphrase is empty or too long.
    """
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes, not {len(salt)}")
    wrap, commit = _keys(passphrase, salt, cost)
    sealed = bindings.crypto_aead_chacha20poly1305_ietf_encrypt(
        secret, _bound(associated, cost, salt, commit), _ZERO_NONCE, wrap
    )
    return Sealed("argon2id", cost.passes, cost.memory_kib, salt, commit, sealed)


def unseal(sealed: Sealed, passphrase: str, associated: bytes) -> bytes:
    """
    @param sealed: for which C{check} has passed.
    @return: the secret.  Blocks for as long as the file asks, within the bounds.
    @raise WrongPassphrase: if the passphrase is not that of the file.
    @raise ValueError: if the file was changed.
    """
    cost = Cost(sealed.passes, sealed.memory_kib)
    try:
        wrap, commit = _keys(passphrase, sealed.salt, cost)
    except ValueError as e:
        raise WrongPassphrase(str(e)) from None
    if not hmac.compare_digest(commit, sealed.commit):
        raise WrongPassphrase("the passphrase is wrong")
    bound = _bound(associated, cost, sealed.salt, sealed.commit)
    try:
        return bindings.crypto_aead_chacha20poly1305_ietf_decrypt(
            sealed.sealed, bound, _ZERO_NONCE, wrap
        )
    except _NACL_ERRORS:
        raise ValueError("the sealed secret was changed") from None
