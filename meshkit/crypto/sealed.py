"""
The sealed envelope: a text that only chosen readers can open (protocol/sealed.md).  Pure.

::

    box  = version (1) | salt (32) | commitment (32) | slots (1) | slots x slot | body
    slot = HPKE[reader](content key)                                    80 bytes
    body = ChaCha20-Poly1305[key](nonce 0, padded text)
    key (32) | commitment (32) = HKDF-SHA256(salt, content key, "meshkit/sealed/1")

    HPKE   info = "meshkit/sealed/1" | author | reader's Ed25519 key
           aad  = version | salt | commitment
    body   aad  = SHA-256(author | all that stands before the body)
    padded text = u32be length | text | zeros, up to 256 * 2^i bytes or the limit

The author is no field: it is in the C{info} of every slot and in the associated data of
the body, so that a box copied into another author's message opens for nobody.  The slots
stand in random order, and random ones fill them up to a power of two.

The body's cipher does not commit to its key: somebody could give two readers different
keys under which one body is two texts.  The commitment, checked before anything is
decrypted, excludes that ("invisible salamanders", CRYPTO 2018).
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from hashlib import sha256
from random import Random
from typing import Final

from nacl import bindings
from nacl.exceptions import CryptoError

from meshkit.crypto import hpke
from meshkit.errors import InvalidPublicKey, SealedInvalid
from meshkit.identity.keys import Identity, PublicKey

VERSION: Final = 1
#: Most readers, the author among them.
MAX_READERS: Final = 64

KEY_BYTES: Final = 32
SALT_BYTES: Final = 32
COMMITMENT_BYTES: Final = 32
SLOT_BYTES: Final = hpke.KEY_BYTES + KEY_BYTES + hpke.TAG_BYTES
HEADER_BYTES: Final = 1 + SALT_BYTES + COMMITMENT_BYTES + 1

_INFO: Final = b"meshkit/sealed/1"
_NONCE: Final = bytes(12)
_LENGTH_BYTES: Final = 4
_SMALLEST: Final = 256

_NACL_ERRORS: Final = (CryptoError, RuntimeError, ValueError)


def slots_for(readers: int) -> int:
    """How many slots a box for so many readers has: the next power of two, two at least."""
    slots = 2
    while slots < readers:
        slots *= 2
    return slots


def capacity(readers: int, max_bytes: int) -> int:
    """@return: bytes of the largest text for so many readers in a box of C{max_bytes}."""
    return (
        max_bytes
        - HEADER_BYTES
        - slots_for(readers) * SLOT_BYTES
        - hpke.TAG_BYTES
        - (_LENGTH_BYTES)
    )


def seal(
    author: PublicKey, readers: Sequence[PublicKey], text: bytes, rng: Random, max_bytes: int
) -> bytes:
    """
    Make a box.  Takes about 0.1 ms for each slot.

    @param author: who will sign the message that carries it.
    @param readers: 1 to L{MAX_READERS} different keys; the author's is among them if the
        author is to read it again.
    @param rng: all randomness.
    @param max_bytes: the box has to fit this.
    @raise SealedInvalid: if there are none or too many readers, one is named twice, nothing
        can be sealed for one of them, or the text is too long.
    """
    if not 1 <= len(readers) <= MAX_READERS:
        raise SealedInvalid(f"a sealed message has 1 to {MAX_READERS} readers, not {len(readers)}")
    if len(set(readers)) < len(readers):
        raise SealedInvalid("a reader of the sealed message is named twice")
    room = capacity(len(readers), max_bytes)
    if len(text) > room:
        raise SealedInvalid(
            f"what is to be sealed has {len(text)} bytes; for {len(readers)} readers, {room} are "
            f"the limit"
        )
    content_key, salt = rng.randbytes(KEY_BYTES), rng.randbytes(SALT_BYTES)
    key, commitment = _derive(content_key, salt)
    aad = bytes([VERSION]) + salt + commitment
    slots = [_slot(author, reader, aad, content_key, rng) for reader in readers]
    while len(slots) < slots_for(len(readers)):
        slots.append(_decoy(rng))
    rng.shuffle(slots)
    head = b"".join([aad, bytes([len(slots)]), *slots])
    padded = len(text).to_bytes(_LENGTH_BYTES, "big") + text
    size = _SMALLEST
    while size < len(padded):
        size *= 2
    padded = padded.ljust(min(size, room + _LENGTH_BYTES), b"\x00")
    return head + bindings.crypto_aead_chacha20poly1305_ietf_encrypt(
        padded, _body_aad(author, head), _NONCE, key
    )


def open_box(reader: Identity, author: PublicKey, box: bytes) -> bytes | None:
    """
    Open a box.  Takes about 0.1 ms for each slot.

    @param reader: who tries.
    @param author: who signed the message that carries it.
    @return: the text; L{None} if it is not for this reader, or was not sealed by this
        author.
    @raise SealedInvalid: if it is no box, or was changed after it was sealed.
    """
    if len(box) < HEADER_BYTES:
        raise SealedInvalid(f"a sealed box has at least {HEADER_BYTES} bytes, not {len(box)}")
    if box[0] != VERSION:
        raise SealedInvalid(f"the sealed box is of version {box[0]}: upgrade meshkit to read it")
    count = box[HEADER_BYTES - 1]
    start = HEADER_BYTES + count * SLOT_BYTES
    if not 2 <= count <= MAX_READERS or count != slots_for(count):
        raise SealedInvalid(f"a sealed box has no {count} slots")
    if len(box) < start + _SMALLEST + hpke.TAG_BYTES:
        raise SealedInvalid(f"a sealed box with {count} slots cannot have {len(box)} bytes")
    aad, salt = box[: HEADER_BYTES - 1], box[1 : 1 + SALT_BYTES]
    commitment = aad[1 + SALT_BYTES :]
    info = _info(author, reader.public)
    public = reader.public.x25519
    for at in range(HEADER_BYTES, start, SLOT_BYTES):
        slot = box[at : at + SLOT_BYTES]
        try:
            content_key = hpke.open_sealed(reader._x25519_secret, public, info, aad, slot)
        except ValueError:
            # For somebody else, or for nobody.
            continue
        key, expected = _derive(content_key, salt)
        if not hmac.compare_digest(expected, commitment):
            raise SealedInvalid("the sealed box names another key than the one that it hands out")
        return _unpadded(_open_body(author, box[:start], key, box[start:]))
    return None


def _slot(
    author: PublicKey, reader: PublicKey, aad: bytes, content_key: bytes, rng: Random
) -> bytes:
    try:
        return hpke.seal(
            reader.x25519, _info(author, reader), aad, content_key, rng.randbytes(hpke.KEY_BYTES)
        )
    except (ValueError, InvalidPublicKey):
        raise SealedInvalid(f"nothing can be sealed for {reader.text}") from None


def _decoy(rng: Random) -> bytes:
    """What nobody can open, and only its reader could tell from a slot."""
    # A real public key: of 32 random bytes, half are none of the curve's.
    point = bindings.crypto_scalarmult_base(rng.randbytes(hpke.KEY_BYTES))
    return point + rng.randbytes(SLOT_BYTES - hpke.KEY_BYTES)


def _info(author: PublicKey, reader: PublicKey) -> bytes:
    return _INFO + author.raw + reader.raw


def _body_aad(author: PublicKey, head: bytes) -> bytes:
    return sha256(author.raw + head).digest()


def _derive(content_key: bytes, salt: bytes) -> tuple[bytes, bytes]:
    out = hpke.hkdf_expand(
        hpke.hkdf_extract(salt, content_key), _INFO, KEY_BYTES + COMMITMENT_BYTES
    )
    return out[:KEY_BYTES], out[KEY_BYTES:]


def _open_body(author: PublicKey, head: bytes, key: bytes, body: bytes) -> bytes:
    try:
        return bindings.crypto_aead_chacha20poly1305_ietf_decrypt(
            body, _body_aad(author, head), _NONCE, key
        )
    except _NACL_ERRORS:
        raise SealedInvalid("the sealed box was changed after it was sealed") from None


def _unpadded(padded: bytes) -> bytes:
    length = int.from_bytes(padded[:_LENGTH_BYTES], "big")
    text = padded[_LENGTH_BYTES : _LENGTH_BYTES + length]
    if len(text) < length or padded[_LENGTH_BYTES + length :].strip(b"\x00"):
        raise SealedInvalid("the sealed box was padded in another way than it says")
    return text
