"""
HPKE, base mode: seal a text for the owner of an X25519 key.  Pure.

RFC 9180 with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and ChaCha20-Poly1305, one text for
each encapsulated key.  The ephemeral key is an argument, as all randomness is.

The receiver learns nothing of who sealed the text: that is for C{info} or a signature to
say.  There is no forward secrecy either: who steals the receiver's key later opens what
was sealed before.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Final

from nacl import bindings
from nacl.exceptions import CryptoError

#: Bytes of a key, a secret or public one, and of what travels beside the sealed text.
KEY_BYTES: Final = 32
#: Bytes that sealing adds to a text.
TAG_BYTES: Final = 16

_VERSION: Final = b"HPKE-v1"
_KEM: Final = b"KEM\x00\x20"
_SUITE: Final = b"HPKE\x00\x20\x00\x01\x00\x03"
_NONCE_BYTES: Final = 12

# What nacl raises for keys of small order: see meshkit.identity.keys.
_NACL_ERRORS: Final = (CryptoError, RuntimeError, ValueError)


def hkdf_extract(salt: bytes, ikm: bytes) -> bytes:
    """RFC 5869 with SHA-256.  @return: 32 bytes."""
    return hmac.digest(salt or bytes(32), ikm, "sha256")


def hkdf_expand(prk: bytes, info: bytes, length: int) -> bytes:
    """
    RFC 5869 with SHA-256.

    @param length: how many bytes, at most 8,160.
    """
    block = out = b""
    for number in range(1, -(-length // sha256().digest_size) + 1):
        block = hmac.digest(prk, block + info + bytes([number]), "sha256")
        out += block
    return out[:length]


def encapsulated(ephemeral: bytes) -> bytes:
    """
    What L{seal} puts before the text, for who signs it before there is a text to seal.

    @param ephemeral: as L{seal} is given it.
    @return: 32 bytes.
    """
    return bindings.crypto_scalarmult_base(ephemeral)


def seal(public: bytes, info: bytes, aad: bytes, text: bytes, ephemeral: bytes) -> bytes:
    """
    @param public: the receiver's X25519 key.
    @param info: what the text is for; who opens it has to name the same.
    @param aad: likewise, for data that travels with it.
    @param ephemeral: 32 random bytes, used once.
    @return: the encapsulated key, then the text, L{TAG_BYTES} longer.
    @raise ValueError: if no text can be sealed for this key, which has a small order.
    """
    front = encapsulated(ephemeral)
    key, nonce = _schedule(_shared(ephemeral, public), front, public, info)
    return front + bindings.crypto_aead_chacha20poly1305_ietf_encrypt(text, aad, nonce, key)


def open_sealed(secret: bytes, public: bytes, info: bytes, aad: bytes, sealed: bytes) -> bytes:
    """
    @param secret: the receiver's X25519 key.
    @param public: its public half.
    @param info: as L{seal} was given it.
    @param aad: likewise.
    @param sealed: what L{seal} gave.
    @return: the text.
    @raise ValueError: if it was sealed for another key or purpose, or was changed.
    """
    front, body = sealed[:KEY_BYTES], sealed[KEY_BYTES:]
    if len(body) < TAG_BYTES:
        raise ValueError("too short to be a sealed text")
    key, nonce = _schedule(_shared(secret, front), front, public, info)
    try:
        return bindings.crypto_aead_chacha20poly1305_ietf_decrypt(body, aad, nonce, key)
    except _NACL_ERRORS:
        raise ValueError("the sealed text does not open") from None


def _shared(secret: bytes, public: bytes) -> bytes:
    """RFC 9180 7.1.4: an all-zero result is refused, which libsodium sees to."""
    try:
        return bindings.crypto_scalarmult(secret, public)
    except _NACL_ERRORS:
        raise ValueError("the key has a small order") from None


def _schedule(dh: bytes, front: bytes, public: bytes, info: bytes) -> tuple[bytes, bytes]:
    """ExtractAndExpand (4.1), then KeySchedule (5.1) in base mode.  @return: key, nonce."""
    prk = _extract(_KEM, b"", b"eae_prk", dh)
    shared = _expand(_KEM, prk, b"shared_secret", front + public, KEY_BYTES)
    context = (
        b"\x00"
        + _extract(_SUITE, b"", b"psk_id_hash", b"")
        + _extract(_SUITE, b"", b"info_hash", info)
    )
    secret = _extract(_SUITE, shared, b"secret", b"")
    return (
        _expand(_SUITE, secret, b"key", context, KEY_BYTES),
        _expand(_SUITE, secret, b"base_nonce", context, _NONCE_BYTES),
    )


def _extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return hkdf_extract(salt, b"".join([_VERSION, suite, label, ikm]))


def _expand(suite: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labelled = b"".join([length.to_bytes(2, "big"), _VERSION, suite, label, info])
    return hkdf_expand(prk, labelled, length)
