"""
Egregore's private box: a text that only some readers of a feed can open.  Pure.

::

    box  = nonce (12) | count (1) | count slots (48 each) | body
    slot = ChaCha20-Poly1305[SHA256(X25519(sender, recipient))](nonce, key)
    body = ChaCha20-Poly1305[key](nonce, plaintext)

Slots and body are sealed under one nonce but different keys, without associated data.
In a feed it is the content C{{"type":"private_box","sender":id,"box":base64}}.

Know its limits before you use it: the keys are the static ones of sender and recipients,
so whoever steals one of these later opens all old boxes between the two; the number of
recipients and the length can be seen; and one recipient can write another body under a
copied header, which only the signature of the message around it excludes.  For that
reason L{open_content} insists that the sender is the author of the message.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Sequence
from typing import Any, Final

from nacl import bindings
from nacl.exceptions import CryptoError

from meshkit.errors import InvalidPublicKey, PrivateBoxInvalid
from meshkit.identity.keys import Identity, PublicKey

#: C{type} of the content, and the schema that Egregore names beside it.
CONTENT_TYPE: Final = "private_box"
SCHEMA_ID: Final = "private_box/v1"

NONCE_BYTES: Final = 12
KEY_BYTES: Final = 32
MAX_RECIPIENTS: Final = 255

_TAG: Final = 16
_SLOT: Final = KEY_BYTES + _TAG
_HEADER: Final = NONCE_BYTES + 1

_NACL_ERRORS: Final = (CryptoError, RuntimeError, ValueError)


def seal(
    sender: Identity, recipients: Sequence[PublicKey], plaintext: bytes, nonce: bytes, key: bytes
) -> bytes:
    """
    Make a box.

    @param recipients: 1 to L{MAX_RECIPIENTS} different keys; the sender's among them if
        the sender is to read it again, as Egregore's nodes do it.
    @param nonce: 12 random bytes, used once.
    @param key: 32 random bytes, used once.
    @raise PrivateBoxInvalid: if there are none or too many recipients, one of them twice,
        or one whose key no box can be sealed for.
    """
    if len(nonce) != NONCE_BYTES or len(key) != KEY_BYTES:
        raise ValueError("a private box needs a nonce of 12 bytes and a key of 32")
    if not 1 <= len(recipients) <= MAX_RECIPIENTS:
        raise PrivateBoxInvalid(
            f"a private box has 1 to {MAX_RECIPIENTS} recipients, not {len(recipients)}"
        )
    if len(set(recipients)) < len(recipients):
        raise PrivateBoxInvalid("a recipient of the private box is named twice")
    slots = [_seal(_slot_key(sender, recipient), nonce, key) for recipient in recipients]
    return b"".join([nonce, bytes([len(recipients)]), *slots, _seal(key, nonce, plaintext)])


def open_box(reader: Identity, sender: PublicKey, box: bytes) -> bytes | None:
    """
    Open a box.

    @param reader: who tries.
    @param sender: who is said to have sealed it.
    @return: the plaintext; L{None} if it is not for this reader, or not from this sender.
    @raise PrivateBoxInvalid: if it is no box, or was changed after it was sealed.
    """
    if len(box) < _HEADER:
        raise PrivateBoxInvalid(f"a private box has at least {_HEADER} bytes, not {len(box)}")
    nonce, count = box[:NONCE_BYTES], box[NONCE_BYTES]
    start = _HEADER + count * _SLOT
    if count == 0 or len(box) < start + _TAG:
        raise PrivateBoxInvalid(
            f"a private box for {count} recipients cannot have {len(box)} bytes"
        )
    slot_key = _slot_key(reader, sender)
    for at in range(_HEADER, start, _SLOT):
        key = _open(slot_key, nonce, box[at : at + _SLOT])
        if key is not None:
            plaintext = _open(key, nonce, box[start:])
            if plaintext is None:
                raise PrivateBoxInvalid("the body of the private box was changed")
            return plaintext
    return None


def content_of(sender: PublicKey, box: bytes, inner_schema_id: str | None = None) -> dict[str, Any]:
    """
    The content of a message that carries a box.

    @param sender: the author of the message.
    @param inner_schema_id: the schema of what is in the box.
    """
    content = {
        "type": CONTENT_TYPE,
        "sender": sender.text,
        "box": base64.b64encode(box).decode("ascii"),
    }
    return content if inner_schema_id is None else content | {"inner_schema_id": inner_schema_id}


def open_content(reader: Identity, author: PublicKey, content: Any) -> bytes | None:
    """
    Open the box in a content.

    @param author: who signed the message.
    @return: as L{open_box}.
    @raise PrivateBoxInvalid: as L{open_box}; or if the content holds no box, or names a
        sender who is not the author.
    """
    if not isinstance(content, dict) or content.get("type") != CONTENT_TYPE:
        raise PrivateBoxInvalid("the content is no private box")
    if content.get("sender") != author.text:
        raise PrivateBoxInvalid("the private box names another sender than the message's author")
    text = content.get("box")
    try:
        box = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        box = b""
    if not box:
        raise PrivateBoxInvalid("the private box is not base64")
    return open_box(reader, author, box)


def _slot_key(own: Identity, other: PublicKey) -> bytes:
    try:
        shared = bindings.crypto_scalarmult(own._x25519_secret, other.x25519)
    except (*_NACL_ERRORS, InvalidPublicKey):
        raise PrivateBoxInvalid(f"no private box can be shared with {other.text}") from None
    return hashlib.sha256(shared).digest()


def _seal(key: bytes, nonce: bytes, message: bytes) -> bytes:
    return bindings.crypto_aead_chacha20poly1305_ietf_encrypt(message, None, nonce, key)


def _open(key: bytes, nonce: bytes, sealed: bytes) -> bytes | None:
    try:
        return bindings.crypto_aead_chacha20poly1305_ietf_decrypt(sealed, None, nonce, key)
    except _NACL_ERRORS:
        return None
