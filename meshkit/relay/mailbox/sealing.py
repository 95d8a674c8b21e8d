"""
A message that a relay keeps for its recipient and cannot read.  Pure.

::

    sealed  = version (1) | prekey id (16) | encapsulated key (32) | HPKE[prekey](padded)
    padded  = u32be length | inner | zeros, so that sealed has 256 * 2^i bytes
    inner   = sender (32) | signature (64) | content
    content = [id: bin 16, created: uint, expires: uint, body: bin]      MessagePack, shortest

    HPKE      info = "meshkit/mailbox/1" | recipient (32) | prekey id
              aad  = version | prekey id
    signature over recipient (32) | prekey id (16) | encapsulated key (32) | content,
              context mailbox/1

Keys are Ed25519, but for the encapsulated one.  The signature names the recipient and the key
with which this very text was sealed: who gets a message can neither send it on to somebody
else, as if its sender had, nor seal it again for the same recipient.  It is a proof to anybody
all the same: the recipient can show the content and the signature.

The relay sees the length to a factor of two, and which prekey; it does not see the sender,
unless he deposits it with the key that he signs with.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, Final

import msgspec
from attrs import field, frozen
from msgspec import Meta

from meshkit.crypto import hpke
from meshkit.errors import (
    InvalidPublicKey,
    MailboxMessageEarly,
    MailboxMessageExpired,
    MailboxMessageInvalid,
    MailboxMessageUnreadable,
    PrekeyInvalid,
)
from meshkit.identity.contexts import MAILBOX_MESSAGE, signing_input
from meshkit.identity.keys import KEY_BYTES, SIGNATURE_BYTES, Identity, PublicKey
from meshkit.relay.mailbox.prekeys import (
    ID_BYTES,
    MAX_SKEW,
    MAX_TTL,
    Prekey,
    PrekeyRing,
    fallback_id,
)

__all__ = [
    "MAX_BODY",
    "MAX_SEALED",
    "SIZES",
    "VERSION",
    "MailboxMessage",
    "check_size",
    "digest_of",
    "open_message",
    "seal_message",
]

VERSION: Final = 1
MESSAGE_ID_BYTES: Final = 16

#: What a sealed message may have of bytes.
SIZES: Final = tuple(256 << power for power in range(9))
MAX_SEALED: Final = SIZES[-1]

_INFO: Final = b"meshkit/mailbox/1"
_HEADER_BYTES: Final = 1 + ID_BYTES
_LENGTH_BYTES: Final = 4
_BEFORE_CONTENT: Final = KEY_BYTES + SIGNATURE_BYTES
_AROUND: Final = _HEADER_BYTES + hpke.KEY_BYTES + hpke.TAG_BYTES + _LENGTH_BYTES
#: An array of four, an id, two numbers, and the head of the body.
_CONTENT_HEAD: Final = 1 + (2 + MESSAGE_ID_BYTES) + 2 * 9 + 3
#: Bytes of the largest body, whatever the times are.
MAX_BODY: Final = MAX_SEALED - _AROUND - _BEFORE_CONTENT - _CONTENT_HEAD

_Time = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Content(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    id: Annotated[bytes, Meta(min_length=MESSAGE_ID_BYTES, max_length=MESSAGE_ID_BYTES)]
    created: _Time
    expires: _Time
    body: bytes


_encoder: Final = msgspec.msgpack.Encoder()
_contents: Final = msgspec.msgpack.Decoder(_Content)


@frozen
class MailboxMessage:
    """
    A message, opened.

    @ivar sender: who has signed it.
    @ivar recipient: for whom.
    @ivar id: that the sender has given it, 16 bytes; with the sender, it names the message.
    @ivar created: when, as the sender says, in seconds of Unix time.
    @ivar expires: from when on the sender does not want it delivered.
    @ivar body: what it says.
    @ivar forward_secret: it was sealed with a prekey, and not with the identity itself.
    """

    sender: PublicKey
    recipient: PublicKey
    id: bytes = field(repr=bytes.hex)
    created: int
    expires: int
    body: bytes = field(repr=False)
    forward_secret: bool


def digest_of(sealed: bytes) -> bytes:
    """@return: what names a sealed message at relays and in receipts, 32 bytes."""
    return sha256(sealed).digest()


def check_size(sealed: bytes) -> None:
    """
    @raise MailboxMessageInvalid: if no sealed message has this length.
    """
    if len(sealed) not in SIZES:
        raise MailboxMessageInvalid(
            f"a sealed message has 256, 512 .. {MAX_SEALED} bytes, not {len(sealed)}"
        )


def seal_message(
    sender: Identity,
    recipient: PublicKey,
    prekey: Prekey | None,
    body: bytes,
    *,
    id: bytes,
    created: int,
    expires: int,
    ephemeral: bytes,
) -> bytes:
    """
    Seal a message.

    @param prekey: of the recipient, valid at C{created}; L{None} to seal it with the identity:
        who steals that later can open it.
    @param body: at most L{MAX_BODY} bytes.
    @param id: 16 random bytes, the same when the same is sent again.
    @param created: now, in seconds of Unix time.
    @param expires: at most L{MAX_TTL} later.
    @param ephemeral: 32 random bytes, used once.
    @return: the sealed message; its length is one of L{SIZES}.
    @raise PrekeyInvalid: if the prekey is somebody else's, does not hold now, or nothing can be
        sealed with it.
    @raise MailboxMessageInvalid: if nothing can be sealed for the recipient, the body is too
        long, or the times or the id are none.
    """
    if len(id) != MESSAGE_ID_BYTES:
        raise MailboxMessageInvalid(f"the id of a message has {MESSAGE_ID_BYTES} bytes")
    _check_span(created, expires)
    if len(body) > MAX_BODY:
        raise MailboxMessageInvalid(
            f"a message of {len(body)} bytes is over the limit of {MAX_BODY}: publish it as an "
            "object, and send where that is"
        )
    key_id, public = _key_for(recipient, prekey, created)
    content = _encoder.encode(_Content(id, created, expires, body))
    signed = _signed(recipient, key_id, hpke.encapsulated(ephemeral), content)
    inner = sender.public.raw + sender.sign(MAILBOX_MESSAGE, signed) + content
    header = bytes([VERSION]) + key_id
    size = next(size for size in SIZES if size >= _AROUND + len(inner))
    text = len(inner).to_bytes(_LENGTH_BYTES, "big") + inner
    padded = text.ljust(size - _AROUND + _LENGTH_BYTES, b"\x00")
    try:
        return header + hpke.seal(public, _info(recipient, key_id), header, padded, ephemeral)
    except ValueError:
        raise PrekeyInvalid(f"nothing can be sealed with the prekey of {recipient.text}") from None


def _key_for(recipient: PublicKey, prekey: Prekey | None, now: int) -> tuple[bytes, bytes]:
    """@return: the id of the key to seal with, and the key."""
    if prekey is None:
        try:
            return fallback_id(recipient), recipient.x25519
        except InvalidPublicKey:
            raise MailboxMessageInvalid(f"nothing can be sealed for {recipient.text}") from None
    if prekey.owner != recipient:
        raise PrekeyInvalid(
            f"the prekey is one of {prekey.owner.text}, and the message is for {recipient.text}"
        )
    prekey.check_time(now)
    return prekey.id, prekey.public


def open_message(recipient: Identity, ring: PrekeyRing, sealed: bytes, now: int) -> MailboxMessage:
    """
    Open a message, wherever it comes from.  Takes about 0.3 ms.

    @param recipient: who opens it.
    @param ring: the prekeys of the recipient.
    @param now: seconds of Unix time.
    @return: the message.  Whether it came before is for L{meshkit.relay.mailbox.inbox} to say.
    @raise MailboxMessageUnreadable: if the secret that it takes is not here.
    @raise MailboxMessageEarly: if it is whole, and its time has not come.
    @raise MailboxMessageExpired: if its time is over.
    @raise MailboxMessageInvalid: if it is damaged, forged, or not for this recipient.
    """
    check_size(sealed)
    if sealed[0] != VERSION:
        raise MailboxMessageInvalid(
            f"the sealed message is of version {sealed[0]}: upgrade meshkit to read it"
        )
    header = sealed[:_HEADER_BYTES]
    key_id = header[1:]
    front = sealed[_HEADER_BYTES : _HEADER_BYTES + hpke.KEY_BYTES]
    public, secret, forward_secret = _secret_for(recipient, ring, key_id)
    info = _info(recipient.public, key_id)
    try:
        padded = hpke.open_sealed(secret, public, info, header, sealed[_HEADER_BYTES:])
    except ValueError:
        raise MailboxMessageInvalid(
            "the sealed message was changed, or sealed for somebody else"
        ) from None
    inner = _unpadded(padded)
    sender = PublicKey(inner[:KEY_BYTES])
    signature, raw = inner[KEY_BYTES:_BEFORE_CONTENT], inner[_BEFORE_CONTENT:]
    signed = _signed(recipient.public, key_id, front, raw)
    if not sender.verifies(signing_input(MAILBOX_MESSAGE, signed), signature):
        raise MailboxMessageInvalid(
            f"the message was not signed by {sender.text}, whom it names, for this recipient"
        )
    content = _read(raw)
    _check_span(content.created, content.expires)
    if content.created > now + MAX_SKEW:
        raise MailboxMessageEarly(
            f"a message of {sender.short} was made in the future: is the clock there or here "
            "wrong?",
            created=content.created,
        )
    if now >= content.expires + MAX_SKEW:
        raise MailboxMessageExpired(f"a message of {sender.short} came too late")
    return MailboxMessage(
        sender,
        recipient.public,
        content.id,
        content.created,
        content.expires,
        content.body,
        forward_secret,
    )


def _secret_for(recipient: Identity, ring: PrekeyRing, key_id: bytes) -> tuple[bytes, bytes, bool]:
    """@return: public key, secret, and whether it is a prekey."""
    found = ring.find(key_id)
    if found is not None:
        return found.public, found.secret, True
    if key_id == fallback_id(recipient.public):
        return recipient.public.x25519, recipient._x25519_secret, False
    raise MailboxMessageUnreadable(
        f"the message was sealed with the prekey {key_id.hex()}, whose secret is not, or no "
        "longer, here"
    )


def _check_span(created: int, expires: int) -> None:
    if not 0 <= created < expires <= created + MAX_TTL:
        raise MailboxMessageInvalid(
            f"a message would wait for {expires - created} seconds; that is at least 1 and at "
            f"most {MAX_TTL}"
        )


def _info(recipient: PublicKey, key_id: bytes) -> bytes:
    return _INFO + recipient.raw + key_id


def _signed(recipient: PublicKey, key_id: bytes, front: bytes, content: bytes) -> bytes:
    # All but the last have one length each, so that no two of these are the same bytes.
    return b"".join([recipient.raw, key_id, front, content])


def _unpadded(padded: bytes) -> bytes:
    length = int.from_bytes(padded[:_LENGTH_BYTES], "big")
    inner = padded[_LENGTH_BYTES : _LENGTH_BYTES + length]
    if not _BEFORE_CONTENT < length == len(inner) or padded[_LENGTH_BYTES + length :].strip(
        b"\x00"
    ):
        raise MailboxMessageInvalid("the sealed message was padded in another way than it says")
    return inner


def _read(raw: bytes) -> _Content:
    try:
        content = _contents.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise MailboxMessageInvalid("the content of a message is malformed") from None
    if _encoder.encode(content) != raw:
        raise MailboxMessageInvalid("the content of a message is not in its shortest form")
    return content
