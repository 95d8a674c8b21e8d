"""
Every kind of statement an identity signs, in one table.

A signature made for one kind can never be shown as another, because the kind is
part of what is signed and the verifier chooses it (protocol/statements.md).  To
add a kind, add a line here and say what its payload holds.

Signatures without a context, which older protocols prescribe, cannot collide with
these: the signed bytes here start with C{meshkit-sig/1} and a NUL, those of the
handshakes start with a network key, those of feed messages are 64 hex digits, and
those of RFC 9421 start with a quotation mark.
"""

from __future__ import annotations

from typing import Final, NewType

Context = NewType("Context", str)

_DOMAIN: Final = b"meshkit-sig/1\x00"

#: "I am reachable at these addresses": network id, sequence, expires, addresses, more.
ADDRESS_RECORD: Final = Context("address-record/1")

#: "This key may audit the shares of the object until then."  Signed by the key of the object.
AUDIT_GRANT: Final = Context("audit-grant/1")

#: "I ask you about these shares, and have chosen a seed": network id, who is asked, id of the
#: audit, commitment to the seed, when, names of the shares.
AUDIT_OPENING: Final = Context("audit-opening/1")

#: "These of them I have, and these are my random bytes": hash of the opening, root and size of
#: each share as it is kept.
AUDIT_ANSWER: Final = Context("audit-answer/1")

#: "These are the leaves": hashes of opening and answer, the seed, hashes of the leaves.
AUDIT_TRANSCRIPT: Final = Context("audit-transcript/1")

#: "I have looked, and this is what I found": hash of the transcript, a verdict for each share.
AUDIT_RECEIPT: Final = Context("audit-receipt/1")

#: "Keep this for others": network id, kind, key, salt, sequence, expires, value.
DHT_RECORD: Final = Context("dht-record/1")

#: "I have taken this sealed message, and keep it until then": recipient, digest, size, times.
MAILBOX_RECEIPT: Final = Context("mailbox-receipt/1")

#: "This is from me to you": recipient, id of the prekey, encapsulated key, id, times, body.
MAILBOX_MESSAGE: Final = Context("mailbox/1")

#: "Seal for me with this key until then, and leave it there": X25519 key, times, relays.
MAILBOX_PREKEY: Final = Context("mailbox-prekey/1")

#: "The shares of the object are there": which manifest, version, who has each share until
#: when.  Signed by the key of the object, see meshkit.storage.placement_document.
PLACEMENT: Final = Context("placement/1")

#: "I have entered your registration, and read it so": network id, whom, its number, when.
RELAY_ENTERED: Final = Context("relay-entered/1")

#: "I want to be known at this relay, so": network id, relay, number, listed or not, nickname.
RELAY_REGISTRATION: Final = Context("relay-registration/1")

#: "This peer can be reached through me": network id of the relay's port, whom, until when.
RELAY_VOUCHER: Final = Context("relay-voucher/1")

#: "I keep this share for you until then": which share, its root and size, which lease.
STORAGE_RECEIPT: Final = Context("storage-receipt/1")

#: "I keep shares for others": where, how much room there is, until when this holds.
STORAGE_RECORD: Final = Context("storage-record/1")

#: "The owner of that key goes on with mine": old key, new key, where the old feed ends.
ROTATION: Final = Context("rotation/1")

CONTEXTS: Final = frozenset(
    {
        ADDRESS_RECORD,
        AUDIT_ANSWER,
        AUDIT_GRANT,
        AUDIT_OPENING,
        AUDIT_RECEIPT,
        AUDIT_TRANSCRIPT,
        DHT_RECORD,
        MAILBOX_MESSAGE,
        MAILBOX_PREKEY,
        MAILBOX_RECEIPT,
        PLACEMENT,
        RELAY_ENTERED,
        RELAY_REGISTRATION,
        RELAY_VOUCHER,
        ROTATION,
        STORAGE_RECEIPT,
        STORAGE_RECORD,
    }
)


def signing_input(context: Context, payload: bytes) -> bytes:
    """
    The bytes that are signed for a statement::

        "meshkit-sig/1\\0" | u8 length of context | context | u32be length | payload

    @raise ValueError: if the context is not in the table.
    """
    if context not in CONTEXTS:
        raise ValueError(f"{context!r} is not a signing context: add it to identity/contexts.py")
    name = context.encode("ascii")
    return b"".join([_DOMAIN, bytes([len(name)]), name, len(payload).to_bytes(4, "big"), payload])
