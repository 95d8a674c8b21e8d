"""
What a peer says to be known at a relay, and what the relay says then.  Pure.

A registration is an envelope (L{meshkit.identity.envelope}) of the kind C{relay-registration/1},
signed by the peer, whose payload is the MessagePack array::

    [network: bin 16, relay: bin 32, number: uint, listed: bool, stays: bool, nickname: str]

in its shortest form, as the envelope is.  Everything that it decides is signed: whether the peer is
listed cannot be turned into its opposite by who has overheard it, it is worth nothing at another
relay or in another network, and C{number}, which is the time in milliseconds and grows, has every
statement hold once.  What the relay lists are these statements themselves, so that it cannot list
who has not asked for it, under no other name, and not after the peer has said that it leaves to who
has heard that.

The relay answers with an envelope of the kind C{relay-entered/1}::

    [network: bin 16, peer: bin 32, number: uint, entered: uint]

A peer that is not connected by a channel of the network shows that it belongs there by a I{proof},
beside the statement: C{HMAC-SHA256(capability, "meshkit/registration-proof/1" | statement)}, where
the capability is that of the label C{registry}, which only members can derive.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from typing import Annotated, Final, TypeVar

import msgspec
from attrs import field, frozen
from msgspec import Meta

from meshkit.errors import (
    EnvelopeError,
    InvalidPublicKey,
    RegistrationInvalid,
    RegistryForged,
)
from meshkit.identity.contexts import RELAY_ENTERED, RELAY_REGISTRATION, Context
from meshkit.identity.envelope import Envelope
from meshkit.identity.keys import KEY_BYTES, Identity, PublicKey
from meshkit.identity.records import MAX_SEQUENCE, NETWORK_BYTES

__all__ = [
    "MAX_ENTERED",
    "MAX_NICKNAME",
    "MAX_REGISTRATION",
    "PROOF_BYTES",
    "Entered",
    "Registration",
    "check_nickname",
    "proof_of",
    "proves",
]

#: Bytes of a nickname in UTF-8.
MAX_NICKNAME: Final = 64
#: Bytes of a signed registration.
MAX_REGISTRATION: Final = 320
#: Bytes of what a relay answers.
MAX_ENTERED: Final = 256
#: Bytes of a proof.
PROOF_BYTES: Final = 32

_PROOF: Final = b"meshkit/registration-proof/1"

_Network = Annotated[bytes, Meta(min_length=NETWORK_BYTES, max_length=NETWORK_BYTES)]
_Key = Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
_Number = Annotated[int, Meta(ge=0, le=MAX_SEQUENCE)]

_P = TypeVar("_P")


class _Payload(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    network: _Network
    relay: _Key
    number: _Number
    listed: bool
    stays: bool
    nickname: str


class _Entered(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    network: _Network
    peer: _Key
    number: _Number
    entered: _Number


_encoder: Final = msgspec.msgpack.Encoder()
_payloads: Final = msgspec.msgpack.Decoder(_Payload)
_answers: Final = msgspec.msgpack.Decoder(_Entered)


def check_nickname(nickname: str) -> None:
    """
    @raise RegistrationInvalid: it is too long, or would look on a terminal like something else
        than it is.
    """
    # Lone surrogates cannot be encoded, and are not printable either.
    size = len(nickname.encode("utf-8", "surrogatepass"))
    if size > MAX_NICKNAME:
        raise RegistrationInvalid(
            f"a nickname has at most {MAX_NICKNAME} bytes in UTF-8, not {size}: take a shorter one"
        )
    if not nickname.isprintable() or nickname != nickname.strip():
        raise RegistrationInvalid(
            "a nickname is of printable characters, with no space at its ends: take another one"
        )


@frozen
class Registration:
    """
    What a peer has said to a relay; made by L{seal}, L{open} or L{reopen}.

    @ivar peer: who says it.
    @ivar network: id of the network, 16 bytes.
    @ivar relay: to whom.
    @ivar number: when, in milliseconds since 1970; the highest one of a peer counts.
    @ivar listed: may others see it in the directory of the relay?
    @ivar stays: L{False}: the peer is not to be known there any more.
    @ivar nickname: what it calls itself; may be empty, and may be anybody's.
    @ivar raw: the envelope as it travels.
    """

    peer: PublicKey
    network: bytes = field(repr=bytes.hex)
    relay: PublicKey
    number: int
    listed: bool
    stays: bool
    nickname: str
    raw: bytes = field(repr=False)

    @classmethod
    def seal(
        cls,
        peer: Identity,
        network: bytes,
        relay: PublicKey,
        number: int,
        *,
        listed: bool,
        nickname: str = "",
        stays: bool = True,
    ) -> Registration:
        """
        Say it.

        @raise RegistrationInvalid: the nickname cannot be used.
        """
        check_nickname(nickname)
        payload = _Payload(network, relay.raw, number, listed, stays, nickname)
        raw = Envelope.seal(peer, RELAY_REGISTRATION, _encoder.encode(payload)).raw
        return cls(peer.public, network, relay, number, listed, stays, nickname, raw)

    @classmethod
    def open(cls, raw: bytes, relay: PublicKey, networks: Collection[bytes]) -> Registration:
        """
        Verify a registration.  Its number is the caller's to judge.

        @param relay: to whom it has to be addressed.
        @param networks: for one of which it has to be: there are two while a network's secret is
            replaced.
        @raise RegistrationInvalid: it is too large, malformed, not signed by the peer it names,
            or for another relay or network.
        """
        registration = cls._read(_open(raw, RELAY_REGISTRATION))
        if registration.network not in networks:
            raise RegistrationInvalid("the registration is for another network")
        if registration.relay != relay:
            raise RegistrationInvalid(f"the registration is for another relay than {relay.text}")
        return registration

    @classmethod
    def reopen(cls, raw: bytes) -> Registration:
        """
        Read one that was verified before, and kept.  Its signature is not looked at.

        @raise RegistrationInvalid: it is malformed.
        """
        try:
            envelope = Envelope.reopen(raw, RELAY_REGISTRATION)
        except (EnvelopeError, InvalidPublicKey) as e:
            raise RegistrationInvalid(f"the registration cannot be used: {e}") from None
        return cls._read(envelope)

    @classmethod
    def _read(cls, envelope: Envelope) -> Registration:
        payload = _decoded(envelope, _payloads)
        check_nickname(payload.nickname)
        return cls(
            envelope.signer,
            payload.network,
            PublicKey(payload.relay),
            payload.number,
            payload.listed,
            payload.stays,
            payload.nickname,
            envelope.raw,
        )

    def says_the_same(self, other: Registration) -> bool:
        """Would it make no difference which of the two counts?"""
        return (self.listed, self.stays, self.nickname) == (
            other.listed,
            other.stays,
            other.nickname,
        )


@frozen
class Entered:
    """
    A relay's word that a registration counts there; made by L{seal} or L{open}.

    @ivar relay: who says it.
    @ivar network: id of the network, 16 bytes.
    @ivar peer: of whom.
    @ivar number: of which registration.
    @ivar entered: when it was on the disk, in milliseconds since 1970, by the clock of the relay.
    @ivar raw: the envelope as it travels.
    """

    relay: PublicKey
    network: bytes = field(repr=bytes.hex)
    peer: PublicKey
    number: int
    entered: int
    raw: bytes = field(repr=False)

    @classmethod
    def seal(cls, relay: Identity, registration: Registration, entered: int) -> Entered:
        """Say it."""
        peer, network, number = registration.peer, registration.network, registration.number
        payload = _Entered(network, peer.raw, number, entered)
        raw = Envelope.seal(relay, RELAY_ENTERED, _encoder.encode(payload)).raw
        return cls(relay.public, network, peer, number, entered, raw)

    @classmethod
    def open(cls, raw: bytes, registration: Registration) -> Entered:
        """
        Verify it.

        @param registration: about which it has to be.
        @raise RegistryForged: it is not the word of that relay about that registration.
        """
        relay = registration.relay
        try:
            envelope = _open(raw, RELAY_ENTERED)
            payload = _decoded(envelope, _answers)
        except RegistrationInvalid as e:
            raise RegistryForged(
                f"the relay {relay.text} does not say that it has the registration: {e}"
            ) from None
        said = (envelope.signer, payload.network, payload.peer, payload.number)
        if said != (relay, registration.network, registration.peer.raw, registration.number):
            raise RegistryForged(f"the relay {relay.text} speaks of another registration")
        return cls(relay, payload.network, registration.peer, payload.number, payload.entered, raw)


def proof_of(capability: bytes, statement: bytes) -> bytes:
    """
    @param capability: of the label C{registry} in the network.
    @param statement: the signed registration.
    @return: what shows that its peer belongs to the network.
    """
    return hmac.digest(capability, _PROOF + statement, "sha256")


def proves(capability: bytes, statement: bytes, proof: bytes) -> bool:
    """Is this the proof?"""
    return hmac.compare_digest(proof_of(capability, statement), proof)


def _open(raw: bytes, context: Context) -> Envelope:
    limit = MAX_REGISTRATION if context == RELAY_REGISTRATION else MAX_ENTERED
    if len(raw) > limit:
        raise RegistrationInvalid(f"a statement of {len(raw)} bytes is over the limit of {limit}")
    try:
        return Envelope.open(raw, context)
    except (EnvelopeError, InvalidPublicKey) as e:
        raise RegistrationInvalid(f"the statement cannot be used: {e}") from None


def _decoded(envelope: Envelope, decoder: msgspec.msgpack.Decoder[_P]) -> _P:
    try:
        payload = decoder.decode(envelope.payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise RegistrationInvalid("the statement is malformed") from None
    if not envelope.shortest or _encoder.encode(payload) != envelope.payload:
        raise RegistrationInvalid("the statement is not in its shortest form")
    return payload
