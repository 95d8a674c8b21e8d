"""
What a relay signs when it has taken a message.  Pure.

Context C{mailbox-receipt/1}, times are seconds of Unix time::

    [recipient: bin 32, digest: bin 32, size: uint, taken: uint, until: uint]

It says: this message is on my disk, and whoever proves to be the recipient gets it from me
before that time.  It does not say that anybody got it.  When sender and recipient compare, a
receipt for what the recipient was never given is a proof that the relay has not kept its word.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from attrs import field, frozen
from msgspec import Meta

from meshkit.errors import EnvelopeError, MailboxReceiptInvalid
from meshkit.identity.contexts import MAILBOX_RECEIPT
from meshkit.identity.envelope import Envelope
from meshkit.identity.keys import KEY_BYTES, Identity, PublicKey
from meshkit.relay.mailbox.prekeys import MAX_SKEW, MAX_TTL
from meshkit.relay.mailbox.sealing import MAX_SEALED, digest_of

__all__ = ["MAX_RECEIPT", "MailboxReceipt"]

DIGEST_BYTES: Final = 32
#: Bytes of a signed receipt.
MAX_RECEIPT: Final = 256

_Key = Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
_Digest = Annotated[bytes, Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
_Time = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Payload(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    recipient: _Key
    digest: _Digest
    size: Annotated[int, Meta(ge=0, le=MAX_SEALED)]
    taken: _Time
    until: _Time


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Payload)


@frozen
class MailboxReceipt:
    """
    A receipt.

    @ivar relay: who has signed it.
    @ivar recipient: for whom the message is.
    @ivar digest: of the sealed message, 32 bytes.
    @ivar size: its bytes.
    @ivar taken: when it was there.
    @ivar until: from when on the relay may have deleted it.
    @ivar raw: as the relay has signed it; empty before it has.
    """

    relay: PublicKey
    recipient: PublicKey
    digest: bytes = field(repr=bytes.hex)
    size: int
    taken: int
    until: int
    raw: bytes = field(default=b"", repr=False, eq=False)

    def sign(self, relay: Identity) -> bytes:
        """
        @param relay: the identity of C{relay}.
        @return: the signed receipt.
        """
        payload = _Payload(self.recipient.raw, self.digest, self.size, self.taken, self.until)
        return Envelope.seal(relay, MAILBOX_RECEIPT, _encoder.encode(payload)).raw

    @classmethod
    def open(cls, raw: bytes, relay: PublicKey) -> MailboxReceipt:
        """
        Verify a receipt.

        @param relay: who must have signed it.
        @raise MailboxReceiptInvalid: if it is none, or somebody else's.
        """
        if len(raw) > MAX_RECEIPT:
            raise MailboxReceiptInvalid(
                f"a receipt of {len(raw)} bytes is over the limit of {MAX_RECEIPT}"
            )
        try:
            envelope = Envelope.open(raw, MAILBOX_RECEIPT)
            payload = _decoder.decode(envelope.payload)
        except (EnvelopeError, msgspec.DecodeError, UnicodeDecodeError) as e:
            raise MailboxReceiptInvalid(
                f"the receipt of {relay.short} cannot be used: {e}"
            ) from None
        if envelope.signer != relay:
            raise MailboxReceiptInvalid(
                f"the receipt was signed by {envelope.signer.text}, and not by {relay.text}"
            )
        if not envelope.shortest or _encoder.encode(payload) != envelope.payload:
            raise MailboxReceiptInvalid(f"the receipt of {relay.short} is not in its shortest form")
        return cls(
            relay,
            PublicKey(payload.recipient),
            payload.digest,
            payload.size,
            payload.taken,
            payload.until,
            raw,
        )

    def check(self, recipient: PublicKey, sealed: bytes, now: int, ttl: int) -> None:
        """
        Is it about this message, and does it promise what was asked for?

        @param now: seconds of Unix time.
        @param ttl: seconds for which the message was to wait.
        @raise MailboxReceiptInvalid: if not.
        """
        if (self.recipient, self.digest, self.size) != (recipient, digest_of(sealed), len(sealed)):
            raise MailboxReceiptInvalid(
                f"the receipt of {self.relay.text} is about another message"
            )
        # It may be that of an earlier try, but it promises nothing if its time is over.
        if self.taken > now + MAX_SKEW or not max(self.taken, now) < self.until:
            raise MailboxReceiptInvalid(
                f"the receipt of {self.relay.text} promises nothing: is the clock there or here "
                "wrong?"
            )
        # Or a relay could sign for a second, drop the message, and have kept its word.
        if self.until < min(self.taken, now) + min(ttl, MAX_TTL) - MAX_SKEW:
            raise MailboxReceiptInvalid(
                f"the receipt of {self.relay.text} promises less than it was asked for"
            )
        if self.until > self.taken + MAX_TTL:
            raise MailboxReceiptInvalid(
                f"the receipt of {self.relay.text} promises more than a relay can keep"
            )
