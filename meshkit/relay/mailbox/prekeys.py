"""
With which key to seal for somebody who is away, and how long its secret is kept.  Pure.

A B{prekey} is an X25519 key that its owner signs and replaces each week.  The secrets are
thrown away in time, so that who steals an identity later cannot open what was sealed before.
The statement, context C{mailbox-prekey/1}, is::

    [public: bin 32, made: uint, expires: uint, relays: [[key: bin 32, place: str, blind: bool]]]

in its shortest form; times are seconds of Unix time, C{relays} says where its owner has a
mailbox, best first.  It stands by itself, since it has to hold for longer than an address
record does: who sleeps for a week is the very one who needs a mailbox.  Peers find it in the
owner's address record, under the name L{ENTRY}, and at the relays.

::

    made                      + ROTATED              + MAX_TTL                    + KEPT
     |  its owner publishes it |  a newer one is there  |  nobody seals with it      |  secret
     |                         |  others may use it     |  what was sealed may come  |  deleted

A prekey has no number that could be given twice: its id is a hash of it.  So has an identity's
own key, which is what a message is sealed with when no prekey is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from random import Random
from typing import Annotated, Final

import msgspec
from attrs import field, frozen
from msgspec import Meta
from nacl import bindings

from meshkit.errors import EnvelopeError, InvalidAddress, PrekeyInvalid
from meshkit.identity.addresses import HostPort
from meshkit.identity.contexts import MAILBOX_PREKEY
from meshkit.identity.envelope import Envelope
from meshkit.identity.keys import KEY_BYTES, Identity, PublicKey
from meshkit.identity.records import AddressRecord

__all__ = [
    "ENTRY",
    "Prekey",
    "PrekeyRing",
    "PrekeySecret",
    "RelayPlace",
    "fallback_id",
    "newer",
    "prekey_id",
    "prekey_in",
]

#: What an address record says it under, in C{more}.
ENTRY: Final = "mailbox"
ID_BYTES: Final = 16

_DAY: Final = 86_400
#: Seconds that a message may wait at a relay, and that a prekey may be sealed with.
MAX_TTL: Final = 30 * _DAY
#: Seconds after which its owner makes a new prekey.
ROTATED: Final = 7 * _DAY
#: Seconds after which the secret of a prekey is deleted: who sealed with it on its last day
#: may have wanted the message to wait for as long as messages may.
KEPT: Final = 2 * MAX_TTL
#: Seconds that the clocks of two peers may differ.
MAX_SKEW: Final = 600

#: Bytes of a signed prekey: half of what an address record may have.
MAX_STATEMENT: Final = 512
MAX_RELAYS: Final = 3
#: Secrets that are kept.  A clock that does what it should makes no more than nine.
MAX_SECRETS: Final = 16
#: Bytes of a ring as it is kept in a file.
MAX_RING: Final = 4_096

_ID: Final = b"meshkit/mailbox-prekey/1"

_Key = Annotated[bytes, Meta(min_length=KEY_BYTES, max_length=KEY_BYTES)]
_Time = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class _Relay(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    key: _Key
    place: Annotated[str, Meta(max_length=300)]
    blind: bool


class _Payload(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    public: _Key
    made: _Time
    expires: _Time
    relays: Annotated[list[_Relay], Meta(max_length=MAX_RELAYS)]


_encoder: Final = msgspec.msgpack.Encoder()
_payloads: Final = msgspec.msgpack.Decoder(_Payload)


def prekey_id(public: bytes) -> bytes:
    """
    @param public: an X25519 key.
    @return: what a message that is sealed with it says, 16 bytes.
    """
    return sha256(_ID + public).digest()[:ID_BYTES]


def fallback_id(recipient: PublicKey) -> bytes:
    """
    @return: what a message says that is sealed with the identity itself, as no prekey is known.
        It has no forward secrecy.
    @raise InvalidPublicKey: if nothing can be sealed for that key.
    """
    return prekey_id(recipient.x25519)


@frozen
class RelayPlace:
    """
    A relay, and where it is.

    @ivar key: who has to answer there.
    @ivar place: where to dial.
    @ivar blind: it serves whoever comes, of any network, in L{the network of such relays
        <meshkit.identity.network.PUBLIC_RELAYS>}, and not in that of the owner.
    """

    key: PublicKey
    place: HostPort
    blind: bool = False


@frozen
class Prekey:
    """
    A prekey, as its owner has signed it.

    @ivar owner: for whom messages are sealed with it.
    @ivar public: the X25519 key, 32 bytes.
    @ivar made: when; of two prekeys of one owner the later one counts.
    @ivar expires: from when on nothing is sealed with it any more.
    @ivar relays: where the messages go, best first.
    @ivar raw: the statement as it travels.  Forward these bytes, never a re-encoding.
    """

    owner: PublicKey
    public: bytes = field(repr=bytes.hex)
    made: int
    expires: int
    relays: tuple[RelayPlace, ...]
    raw: bytes = field(repr=False)

    @property
    def id(self) -> bytes:
        """16 bytes."""
        return prekey_id(self.public)

    @classmethod
    def open(cls, raw: bytes, owner: PublicKey) -> Prekey:
        """
        Verify a prekey, whether it still holds or not.

        @param owner: who must have signed it.
        @raise PrekeyInvalid: if it is none, or somebody else's.
        """
        if len(raw) > MAX_STATEMENT:
            raise PrekeyInvalid(
                f"a signed prekey of {len(raw)} bytes is over the limit of {MAX_STATEMENT}"
            )
        try:
            envelope = Envelope.open(raw, MAILBOX_PREKEY)
        except EnvelopeError as e:
            raise PrekeyInvalid(f"the prekey of {owner.short} cannot be used: {e}") from None
        if envelope.signer != owner:
            raise PrekeyInvalid(
                f"a prekey of {envelope.signer.text} was given where one of {owner.text} is wanted"
            )
        try:
            payload = _payloads.decode(envelope.payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise PrekeyInvalid(f"the prekey of {owner.short} is malformed") from None
        if not envelope.shortest or _encoder.encode(payload) != envelope.payload:
            raise PrekeyInvalid(f"the prekey of {owner.short} is not in its shortest form")
        if not payload.made < payload.expires <= payload.made + MAX_TTL:
            raise PrekeyInvalid(
                f"the prekey of {owner.short} would hold for {payload.expires - payload.made} "
                f"seconds; that is at least 1 and at most {MAX_TTL}"
            )
        relays = tuple(_read_relay(each) for each in payload.relays)
        return cls(owner, payload.public, payload.made, payload.expires, relays, raw)

    def check_time(self, now: int) -> None:
        """
        May a message be sealed with it now?

        @param now: seconds of Unix time.
        @raise PrekeyInvalid: if it has expired, or comes out of the future.
        """
        if now >= self.expires:
            raise PrekeyInvalid(f"the prekey of {self.owner.short} has expired")
        if self.made > now + MAX_SKEW:
            raise PrekeyInvalid(
                f"the prekey of {self.owner.short} was made in the future: "
                "is the clock there or here wrong?"
            )


def newer(one: Prekey | None, other: Prekey) -> Prekey:
    """
    @param one: what is known of an owner's prekeys, if anything is.
    @param other: another one of the same owner.
    @return: the one to seal with.
    """
    # The bytes decide between two of one second, so that all decide alike.
    return max(
        (each for each in (one, other) if each is not None), key=lambda each: (each.made, each.raw)
    )


def prekey_in(record: AddressRecord) -> Prekey | None:
    """
    @param record: an address record, whether it has expired or not.
    @return: the prekey in it; L{None} if there is none.
    @raise PrekeyInvalid: if what stands in its place is none, or somebody else's.
    """
    raw = record.more.get(ENTRY)
    return None if raw is None else Prekey.open(raw, record.key)


def _read_relay(relay: _Relay) -> RelayPlace:
    try:
        place = HostPort.parse(relay.place)
    except InvalidAddress as e:
        raise PrekeyInvalid(f"a prekey names a relay that cannot be dialled: {e}") from None
    if place.text != relay.place or "%" in place.host:
        raise PrekeyInvalid(f"the relay at {relay.place[:100]!r} is written {place.text!r}")
    return RelayPlace(PublicKey(relay.key), place, relay.blind)


# --- the owner's side ----------------------------------------------------------------


class _Secret(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    secret: _Key
    made: _Time


class _Ring(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    kind: str
    secrets: Annotated[list[_Secret], Meta(max_length=MAX_SECRETS)]


_RING: Final = "mailbox-prekeys/1"
_rings: Final = msgspec.msgpack.Decoder(_Ring)


@frozen
class PrekeySecret:
    """
    A prekey of our own.

    @ivar secret: 32 bytes.
    @ivar made: seconds of Unix time.
    @ivar public: 32 bytes.
    @ivar id: 16 bytes.
    """

    secret: bytes = field(repr=False)
    made: int
    public: bytes = field(init=False, repr=False)
    id: bytes = field(init=False, repr=bytes.hex)

    @public.default
    def _public_half(self) -> bytes:
        return bindings.crypto_scalarmult_base(self.secret)

    @id.default
    def _named(self) -> bytes:
        return prekey_id(self.public)


@frozen
class PrekeyRing:
    """
    The prekeys of one owner, of which the last one is published.  It is a value: what is to be
    used is what was written to disk (L{meshkit.relay.mailbox.keeping}).

    @ivar secrets: in the order in which they were made.
    """

    secrets: tuple[PrekeySecret, ...] = ()

    def turned(self, now: int, rng: Random) -> PrekeyRing:
        """
        Make a new prekey if it is time, and forget those whose time is over.

        A clock that was set back makes a new one, and forgets none: a machine that wakes up in
        1970 is right again in a minute.  That is why there is a limit to their number.

        @param now: seconds of Unix time.
        @param rng: all randomness.
        @return: the same one, if there is nothing to do.
        """
        kept = [each for each in self.secrets if now < each.made + KEPT]
        if not (kept and kept[-1].made - MAX_SKEW <= now < kept[-1].made + ROTATED):
            kept.append(PrekeySecret(rng.randbytes(KEY_BYTES), now))
        secrets = tuple(kept[-MAX_SECRETS:])
        return self if secrets == self.secrets else PrekeyRing(secrets)

    def find(self, id: bytes) -> PrekeySecret | None:
        """@return: the one of this id; L{None} if it is not, or no longer, here."""
        return next((each for each in self.secrets if each.id == id), None)

    def sign(self, owner: Identity, relays: Sequence[RelayPlace] = ()) -> Prekey:
        """
        @param owner: whose ring it is.
        @param relays: where the owner has a mailbox, best first.
        @return: the last prekey, to be published.
        @raise PrekeyInvalid: if there is none, or there are too many relays, or it gets too
            large with them.
        """
        if not self.secrets:
            raise PrekeyInvalid("there is no prekey in the ring: turn it first")
        last = self.secrets[-1]
        places = [_Relay(each.key.raw, each.place.text, each.blind) for each in relays]
        payload = _Payload(last.public, last.made, last.made + MAX_TTL, places)
        raw = Envelope.seal(owner, MAILBOX_PREKEY, _encoder.encode(payload)).raw
        if len(places) > MAX_RELAYS:
            raise PrekeyInvalid(f"a prekey names at most {MAX_RELAYS} relays, not {len(places)}")
        return Prekey.open(raw, owner.public)

    def encode(self) -> bytes:
        """@return: what L{decode} takes.  It is secret."""
        return _encoder.encode(_Ring(_RING, [_Secret(s.secret, s.made) for s in self.secrets]))

    @classmethod
    def decode(cls, raw: bytes) -> PrekeyRing:
        """
        @raise PrekeyInvalid: if these are not the bytes of a ring.
        """
        try:
            ring = _rings.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise PrekeyInvalid("the file of prekeys is damaged: remove it") from None
        if ring.kind != _RING:
            raise PrekeyInvalid(
                f"the file of prekeys is of the kind {ring.kind[:32]!r}: upgrade meshkit"
            )
        return cls(tuple(PrekeySecret(each.secret, each.made) for each in ring.secrets))
