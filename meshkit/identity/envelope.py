"""
The signed envelope that all shared statements travel in.

Bytes are signed, never objects: the payload is carried, stored and forwarded as it
was received (after libp2p's RFC 0002).  On the wire an envelope is the MessagePack
array C{[context: str, signer: bin 32, payload: bin, signature: bin 64]}.
"""

from __future__ import annotations

from typing import Final

import msgspec
from attrs import frozen

from meshkit.errors import EnvelopeError, StatementForged
from meshkit.identity.contexts import Context, signing_input
from meshkit.identity.keys import KEY_BYTES, SIGNATURE_BYTES, Identity, PublicKey

#: An envelope larger than this is refused before it is decoded.
MAX_ENVELOPE: Final = 64 * 1024


class _Wire(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    context: str
    signer: bytes
    payload: bytes
    signature: bytes


_decoder: Final = msgspec.msgpack.Decoder(_Wire)
_encoder: Final = msgspec.msgpack.Encoder()


@frozen
class Envelope:
    """
    A statement somebody signed, already verified or made by us.

    @ivar context: which kind of statement it is.
    @ivar signer: who signed it.
    @ivar payload: the signed bytes, for the kind's own decoder.
    @ivar raw: the envelope as it travels.  Forward these bytes, never a re-encoding.
    """

    context: Context
    signer: PublicKey
    payload: bytes
    raw: bytes

    @property
    def shortest(self) -> bool:
        """
        Is it in MessagePack's shortest form?  The envelope itself is not signed, so anybody can
        give it a longer one: kinds of which there may be only one form refuse that.
        """
        size = len(self.payload)
        # An array of four (1 byte), a short text (1 and its characters), and three byte
        # strings, whose lengths take 2 bytes each, that of a larger payload 3 or 5.
        around = 1 + 1 + len(self.context) + 2 + KEY_BYTES + 2 + 2 + SIGNATURE_BYTES
        longer = (size > 0xFF) + 2 * (size > 0xFFFF)
        # Any other encoding of the same is longer.
        return len(self.raw) == around + size + longer

    @classmethod
    def seal(cls, identity: Identity, context: Context, payload: bytes) -> Envelope:
        """
        Sign a statement.

        @raise EnvelopeError: if it would be larger than L{MAX_ENVELOPE}.
        """
        signature = identity.sign(context, payload)
        raw = _encoder.encode(_Wire(context, identity.public.raw, payload, signature))
        if len(raw) > MAX_ENVELOPE:
            raise EnvelopeError(
                f"a statement of {len(payload)} bytes does not fit an envelope of {MAX_ENVELOPE}"
            )
        return cls(context, identity.public, payload, raw)

    @staticmethod
    def join(signer: PublicKey, context: Context, payload: bytes, signature: bytes) -> bytes:
        """
        @return: what travels of a statement, from its parts, such as another form of it has
            them.  It is to be verified: L{open}.
        """
        return _encoder.encode(_Wire(context, signer.raw, payload, signature))

    @classmethod
    def open(cls, raw: bytes, context: Context) -> Envelope:
        """
        Verify a statement of the kind that the caller expects.

        @param context: chosen by the verifier, never read from the wire alone.
        @raise EnvelopeError: if it is too large, malformed or of another kind.
        @raise StatementForged: if it was not signed by the key it names.
        """
        envelope, signature = cls._read(raw, context)
        signed = signing_input(context, envelope.payload)
        if not envelope.signer.verifies(signed, signature):
            raise StatementForged(
                f"the statement was not signed by {envelope.signer.text}, whom it names"
            )
        return envelope

    @classmethod
    def reopen(cls, raw: bytes, context: Context) -> Envelope:
        """
        Read a statement that was verified before, such as one that we have kept.  Its
        signature is not looked at.

        @raise EnvelopeError: if it is too large, malformed or of another kind.
        """
        return cls._read(raw, context)[0]

    @classmethod
    def _read(cls, raw: bytes, context: Context) -> tuple[Envelope, bytes]:
        """@return: what it says, and the signature, which nobody has looked at."""
        if len(raw) > MAX_ENVELOPE:
            raise EnvelopeError(
                f"a signed statement of {len(raw)} bytes is over the limit of {MAX_ENVELOPE}"
            )
        try:
            wire = _decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise EnvelopeError("the signed statement is not a valid envelope") from None
        if wire.context != context:
            raise EnvelopeError(
                f"a statement of kind {wire.context[:32]!r} was given where {context!r} is expected"
            )
        if len(wire.signer) != KEY_BYTES or len(wire.signature) != SIGNATURE_BYTES:
            raise EnvelopeError("the signed statement has a key or signature of the wrong length")
        return cls(context, PublicKey(wire.signer), wire.payload, raw), wire.signature
