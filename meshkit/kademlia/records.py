"""
Records: what nodes keep for others, each signed by its owner.

A record is an envelope (L{meshkit.identity.envelope}) of the kind C{dht-record/1}, whose
payload is the MessagePack array::

    [network: bin 16, kind: str, key: bin 32, salt: bin, sequence: uint, expires: uint,
     value: bin]

in its shortest form; so is the envelope, so that nobody but its owner can give a record
another form.  Who keeps one can drop it, and never change it.  What a kind asks for besides
is in L{meshkit.kademlia.kinds}; all of it is described in C{docs/protocol/kademlia.md}.
Pure; times are milliseconds since 1970.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec
from attrs import field, frozen

from meshkit.errors import (
    EnvelopeError,
    RecordExpired,
    RecordForeignNetwork,
    RecordForged,
    RecordFromFuture,
    RecordMalformed,
    RecordTooLarge,
    StatementForged,
)
from meshkit.identity.contexts import DHT_RECORD
from meshkit.identity.envelope import Envelope
from meshkit.identity.keys import Identity, PublicKey
from meshkit.identity.records import MAX_SEQUENCE, MAX_SKEW, NETWORK_BYTES
from meshkit.kademlia.distance import ID_BYTES, KIND, NodeId

#: Bytes of a value; a kind may have less.
MAX_VALUE: Final = 32 * 1024
#: Bytes of a salt.
MAX_SALT: Final = 64
#: Bytes of a whole record.
MAX_RECORD: Final = 33 * 1024
#: Milliseconds that a record may be good for, by the clock of the node that keeps it.
MAX_LIFETIME: Final = 48 * 3_600_000
#: Milliseconds for which records are made, if nothing else is wanted.
LIFETIME: Final = 24 * 3_600_000

_NO_SALT: Final = b""


class _Payload(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    network: bytes
    kind: str
    key: bytes
    salt: bytes
    sequence: int
    expires: int
    value: bytes


_decoder: Final = msgspec.msgpack.Decoder(_Payload)
_encoder: Final = msgspec.msgpack.Encoder()


@frozen
class Record:
    """
    A record; made by L{seal} or L{open}.

    @ivar owner: who signed it.
    @ivar network: id of the network it is meant for, 16 bytes.
    @ivar kind: what it is.
    @ivar key: where it is.
    @ivar salt: which of its owner's records it is, for kinds of which one owner has several.
    @ivar sequence: of two records in one place the one with the higher sequence counts; at
        least 1, and no later than the time at which it is published.
    @ivar expires: when it is good no longer.
    @ivar value: what its owner wants to be kept.
    @ivar raw: the envelope as it travels.  Forward these bytes, never a re-encoding.
    """

    owner: PublicKey
    network: bytes = field(repr=bytes.hex)
    kind: str
    key: NodeId = field(repr=bytes.hex)
    salt: bytes
    sequence: int
    expires: int
    value: bytes = field(repr=False)
    raw: bytes = field(repr=False)

    @classmethod
    def seal(
        cls,
        identity: Identity,
        network: bytes,
        kind: str,
        key: NodeId,
        value: bytes,
        *,
        sequence: int,
        expires: int,
        salt: bytes = _NO_SALT,
    ) -> Record:
        """
        Make a record of our own.

        @param sequence: the time now, or one more than that of the record that it replaces
            if the clock was set back.
        @param expires: at most L{MAX_LIFETIME} after now.
        @raise RecordMalformed: a part has the wrong form.
        @raise RecordTooLarge: the value or the salt is too large.
        """
        payload = _Payload(network, kind, key, salt, sequence, expires, value)
        _check_form(payload)
        raw = Envelope.seal(identity, DHT_RECORD, _encoder.encode(payload)).raw
        return cls._made(identity.public, payload, raw)

    @classmethod
    def open(cls, raw: bytes, network: bytes, now: int) -> Record:
        """
        Verify a record, but for what its kind asks for.

        @param network: id of our network.
        @raise RecordTooLarge: it is over L{MAX_RECORD}, or has too large a value or salt.
        @raise RecordMalformed: it cannot be read, or is not in its one form.
        @raise RecordForged: who it names did not sign it.
        @raise RecordForeignNetwork: it is meant for another network.
        @raise RecordExpired: it has expired.
        @raise RecordFromFuture: its sequence is ahead of our clock by more than
            L{MAX_SKEW}, or it is good for longer than L{MAX_LIFETIME}.
        """
        if len(raw) > MAX_RECORD:
            raise RecordTooLarge(f"a record of {len(raw)} bytes is over the limit of {MAX_RECORD}")
        try:
            envelope = Envelope.open(raw, DHT_RECORD)
        except StatementForged as e:
            raise RecordForged(f"the record is forged: {e}") from None
        except EnvelopeError as e:
            raise RecordMalformed(f"the record cannot be read: {e}") from None
        record = cls._read(envelope)
        if record.network != network:
            raise RecordForeignNetwork(f"{record.shown} is meant for another network")
        record.check_time(now)
        return record

    @classmethod
    def reopen(cls, raw: bytes) -> Record:
        """
        Read a record that was verified before, such as one that we keep.  Neither its
        signature is looked at, nor its network and times.

        @raise RecordMalformed: it cannot be read.
        @raise RecordTooLarge: it has too large a value or salt.
        """
        try:
            envelope = Envelope.reopen(raw, DHT_RECORD)
        except EnvelopeError as e:
            raise RecordMalformed(f"the record cannot be read: {e}") from None
        return cls._read(envelope)

    @classmethod
    def _read(cls, envelope: Envelope) -> Record:
        try:
            payload = _decoder.decode(envelope.payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise RecordMalformed("the payload of the record is malformed") from None
        _check_form(payload)
        if not envelope.shortest or _encoder.encode(payload) != envelope.payload:
            raise RecordMalformed("the record is not in its shortest form")
        return cls._made(envelope.signer, payload, envelope.raw)

    @classmethod
    def _made(cls, owner: PublicKey, payload: _Payload, raw: bytes) -> Record:
        return cls(
            owner,
            payload.network,
            payload.kind,
            payload.key,
            payload.salt,
            payload.sequence,
            payload.expires,
            payload.value,
            raw,
        )

    def check_time(self, now: int) -> None:
        """
        @raise RecordExpired: it has expired.
        @raise RecordFromFuture: it comes out of the future, or reaches too far into it.
        """
        if self.expires <= now:
            raise RecordExpired(f"{self.shown} has expired")
        if self.expires > now + MAX_LIFETIME:
            raise RecordFromFuture(
                f"{self.shown} is good for more than {MAX_LIFETIME // 3_600_000} hours: is the "
                "clock there or here wrong?"
            )
        if self.sequence > now + MAX_SKEW:
            # Else one with the highest number there is could never be replaced.
            raise RecordFromFuture(
                f"{self.shown} was made in the future: is the clock there or here wrong?"
            )

    @property
    def digest(self) -> bytes:
        """The hash of the whole, 32 bytes: no two records have the same."""
        return digest_of(self.raw)

    @property
    def shown(self) -> str:
        """How errors name it."""
        return f"the {self.kind} record of {self.owner.short}"


def digest_of(raw: bytes) -> bytes:
    """@return: the L{Record.digest} of a record."""
    return hashlib.sha256(raw).digest()


def _check_form(payload: _Payload) -> None:
    """What holds for records of ours and of others."""
    if len(payload.network) != NETWORK_BYTES:
        raise RecordMalformed(f"the id of a network has {NETWORK_BYTES} bytes")
    if not KIND.fullmatch(payload.kind):
        raise RecordMalformed(f"{payload.kind[:40]!r} cannot be the name of a kind of records")
    if len(payload.key) != ID_BYTES:
        raise RecordMalformed(f"the key of a record has {ID_BYTES} bytes")
    if len(payload.salt) > MAX_SALT:
        raise RecordTooLarge(f"a salt of {len(payload.salt)} bytes is over the limit of {MAX_SALT}")
    if not 1 <= payload.sequence <= MAX_SEQUENCE:
        raise RecordMalformed(f"{payload.sequence} is not a sequence of 1 to {MAX_SEQUENCE}")
    if not 0 <= payload.expires <= MAX_SEQUENCE:
        raise RecordMalformed(f"a record cannot expire at {payload.expires}")
    if len(payload.value) > MAX_VALUE:
        raise RecordTooLarge(
            f"a value of {len(payload.value)} bytes is over the limit of {MAX_VALUE}"
        )
