"""
Key rotation: the end of a feed that names the feed in which its author goes on.  Pure.

It is a message of the old feed, the last one, with the content::

    {"consent":"<base64>","successor":"@...","type":"rotation"}

C{consent} is a signed statement (L{meshkit.identity.contexts.ROTATION}) of the B{new} key.
Its payload is the MessagePack array C{[old: bin 32, new: bin 32, last_seq: uint,
last_hash: bin 32 | nil]}: which feed, and after which message it ends.  The old key signs
the message, and with it the statement.

So only who has both keys can make one.  That is the owner, or a thief of the old key with a
new one of his own: see the threat model.  Two rotations of one feed stand in different
places, and the first one ends it, or in one place, and prove a fork as any two messages do.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final

import msgspec
from attrs import frozen

from meshkit.errors import EnvelopeError, InvalidPublicKey
from meshkit.feed.message import Message
from meshkit.identity.contexts import ROTATION
from meshkit.identity.envelope import Envelope
from meshkit.identity.keys import Identity, PublicKey

#: C{type} of the content, and of the message with which the new feed begins.
CONTENT_TYPE: Final = "rotation"
FIRST_TYPE: Final = "rotated"


class _Payload(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    old: bytes
    new: bytes
    last_seq: int
    last_hash: bytes | None


@frozen
class Rotation:
    """
    A feed that has ended, and the one that follows it.

    @ivar old: the author of the feed.
    @ivar new: who goes on.
    @ivar sequence: the last message of the feed, the rotation itself.
    """

    old: PublicKey
    new: PublicKey
    sequence: int


def rotation_content(
    old: PublicKey, new: Identity, last_seq: int, last_hash: str | None
) -> dict[str, Any]:
    """
    What to publish as the last message of a feed.

    @param last_seq: the sequence of the message before it; 0 for none.
    @param last_hash: its hash.
    """
    digest = None if last_hash is None else bytes.fromhex(last_hash)
    payload = msgspec.msgpack.encode(_Payload(old.raw, new.public.raw, last_seq, digest))
    consent = Envelope.seal(new, ROTATION, payload)
    return {
        "type": CONTENT_TYPE,
        "successor": new.public.text,
        "consent": base64.b64encode(consent.raw).decode("ascii"),
    }


def first_content(old: PublicKey, rotation: Message) -> dict[str, Any]:
    """What the new feed begins with, for people: it says where the author was before."""
    return {"type": FIRST_TYPE, "predecessor": old.text, "rotation": rotation.hash}


def read_rotation(message: Message) -> Rotation | None:
    """
    Does a message end its feed?

    @param message: verified.
    @return: L{None} if it does not; one that says so and is not made as it has to be is a
        message like others.
    """
    content = message.content
    if message.content_type != CONTENT_TYPE or not isinstance(content, dict):
        return None
    text, successor = content.get("consent"), content.get("successor")
    if not isinstance(text, str) or not isinstance(successor, str):
        return None
    try:
        consent = Envelope.open(base64.b64decode(text, validate=True), ROTATION)
        payload = msgspec.msgpack.decode(consent.payload, type=_Payload)
        new = PublicKey.parse(successor)
    except (binascii.Error, ValueError, EnvelopeError, InvalidPublicKey, msgspec.DecodeError):
        return None
    previous = None if message.previous is None else bytes.fromhex(message.previous)
    expected = _Payload(message.author.raw, new.raw, message.sequence - 1, previous)
    if payload != expected or consent.signer != new or new == message.author:
        return None
    return Rotation(message.author, new, message.sequence)
