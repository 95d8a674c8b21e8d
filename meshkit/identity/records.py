"""
Address records: where the owner of a key can be reached, said and signed by itself.

Whoever hears of a peer from others gets this, so that nobody can send us to an address in
another's name.  It is an envelope (L{meshkit.identity.envelope}) of the kind
C{address-record/1}, whose payload is the MessagePack array::

    [network: bin 16, sequence: uint, expires: uint, addresses: [str], more: {str: bin}]

in its shortest form, as the envelope is, with the keys of the map ascending; the bytes are
described in C{docs/protocol/statements.md}.  Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec
from attrs import field, frozen

from meshkit.errors import AddressRecordInvalid, EnvelopeError, InvalidAddress
from meshkit.identity.addresses import HostPort
from meshkit.identity.contexts import ADDRESS_RECORD
from meshkit.identity.envelope import Envelope
from meshkit.identity.keys import Identity, PublicKey

NETWORK_BYTES: Final = 16

#: A record larger than this is refused, so that an answer can name many peers.
MAX_RECORD: Final = 1_024
MAX_ADDRESSES: Final = 8
#: Entries of what a record says besides.
MAX_MORE: Final = 8
#: Milliseconds that a record may be good for, as seen by whoever reads it.
MAX_LIFETIME: Final = 24 * 3_600_000
#: Milliseconds that the clocks of two nodes may differ.
MAX_SKEW: Final = 600_000
MAX_SEQUENCE: Final = 2**63 - 1


_NAME: Final = re.compile(r"[a-z][a-z0-9.-]{0,31}")
_NOTHING: Final[Mapping[str, bytes]] = MappingProxyType({})


class _Payload(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    network: bytes
    sequence: int
    expires: int
    addresses: list[str]
    more: dict[str, bytes]


_decoder: Final = msgspec.msgpack.Decoder(_Payload)
_encoder: Final = msgspec.msgpack.Encoder()


@frozen
class AddressRecord:
    """
    What a peer says of itself; made by L{seal} or L{open}.

    @ivar key: whose it is.
    @ivar network: id of the network it is meant for, 16 bytes.
    @ivar sequence: of two records of one key the one with the higher sequence counts; the
        time at which it was made, in milliseconds since 1970.
    @ivar expires: when it is good no longer, in milliseconds since 1970.
    @ivar addresses: where to dial, best first; none if it cannot be reached.
    @ivar more: what parts say besides, by names of theirs; unknown ones say nothing.
    @ivar raw: the envelope as it travels.  Forward these bytes, never a re-encoding.
    """

    key: PublicKey
    network: bytes = field(repr=bytes.hex)
    sequence: int
    expires: int
    addresses: tuple[HostPort, ...]
    more: Mapping[str, bytes] = field(default=_NOTHING, hash=False)
    raw: bytes = field(default=b"", repr=False)

    @classmethod
    def seal(
        cls,
        identity: Identity,
        network: bytes,
        addresses: Iterable[HostPort],
        *,
        sequence: int,
        expires: int,
        more: Mapping[str, bytes] = _NOTHING,
    ) -> AddressRecord:
        """
        Make a record of our own.

        @param sequence: the time now, or one more than that of the last record if the
            clock was set back.
        @param expires: at most L{MAX_LIFETIME} after now.
        @raise AddressRecordInvalid: it has too many addresses or entries, or is too large.
        """
        payload = _Payload(
            network,
            sequence,
            expires,
            [place.text for place in addresses],
            {name: more[name] for name in sorted(more)},
        )
        _check_form(payload)
        raw = Envelope.seal(identity, ADDRESS_RECORD, _encoder.encode(payload)).raw
        if len(raw) > MAX_RECORD:
            raise AddressRecordInvalid(
                f"an address record of {len(raw)} bytes is over the limit of {MAX_RECORD}: "
                "give fewer or shorter addresses"
            )
        return cls._made(identity.public, payload, raw)

    @classmethod
    def open(cls, raw: bytes, network: bytes, now: int) -> AddressRecord:
        """
        Verify a record.

        @param network: id of our network.
        @param now: milliseconds since 1970.
        @raise AddressRecordInvalid: it is too large, malformed, of another network, not
            signed by the key it names, expired, or reaches too far into the future.
        """
        record = cls.open_kept(raw, network)
        record.check_time(now)
        return record

    @classmethod
    def open_kept(cls, raw: bytes, network: bytes) -> AddressRecord:
        """
        Verify a record that was kept since it was good, and may have expired.

        @param network: id of our network.
        @raise AddressRecordInvalid: as L{open}, but for its times.
        """
        if len(raw) > MAX_RECORD:
            raise AddressRecordInvalid(
                f"an address record of {len(raw)} bytes is over the limit of {MAX_RECORD}"
            )
        try:
            record = cls._read(Envelope.open(raw, ADDRESS_RECORD))
        except EnvelopeError as e:
            raise AddressRecordInvalid(str(e)) from None
        if record.network != network:
            raise AddressRecordInvalid(
                f"the address record of {record.key.short} is meant for another network"
            )
        return record

    @classmethod
    def reopen(cls, raw: bytes) -> AddressRecord:
        """
        Read a record that was verified before.  Neither its signature is looked at, nor its
        network and times.

        @raise AddressRecordInvalid: it cannot be read.
        """
        try:
            return cls._read(Envelope.reopen(raw, ADDRESS_RECORD))
        except EnvelopeError as e:
            raise AddressRecordInvalid(str(e)) from None

    @classmethod
    def _read(cls, envelope: Envelope) -> AddressRecord:
        try:
            payload = _decoder.decode(envelope.payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise AddressRecordInvalid("the address record is malformed") from None
        _check_form(payload)
        if not envelope.shortest or _encoder.encode(payload) != envelope.payload:
            raise AddressRecordInvalid("the address record is not in its shortest form")
        return cls._made(envelope.signer, payload, envelope.raw)

    @classmethod
    def _made(cls, key: PublicKey, payload: _Payload, raw: bytes) -> AddressRecord:
        return cls(
            key,
            payload.network,
            payload.sequence,
            payload.expires,
            tuple(_read_place(text) for text in payload.addresses),
            MappingProxyType(payload.more),
            raw,
        )

    @property
    def good_from(self) -> int:
        """Milliseconds since 1970 before which it comes out of the future: L{check_time}."""
        return max(self.expires - MAX_LIFETIME, self.sequence) - MAX_SKEW

    def check_time(self, now: int) -> None:
        """
        @param now: milliseconds since 1970.
        @raise AddressRecordInvalid: it has expired, or comes out of the future.
        """
        if self.expires <= now:
            raise AddressRecordInvalid(f"the address record of {self.key.short} has expired")
        if self.expires > now + MAX_LIFETIME + MAX_SKEW:
            raise AddressRecordInvalid(
                f"the address record of {self.key.short} is good for more than "
                f"{MAX_LIFETIME // 3_600_000} hours: is the clock there or here wrong?"
            )
        if self.sequence > now + MAX_SKEW:
            # Else one with the highest number there is could never be replaced.
            raise AddressRecordInvalid(
                f"the address record of {self.key.short} was made in the future: "
                "is the clock there or here wrong?"
            )


def next_sequence(now: int, *before: int) -> int:
    """
    @param before: sequences of what a record of ours is to replace.
    @return: the time, or one more than these, if the clock was set back.  One that is so far
        ahead that nobody with a right clock has taken it does not count: it was made while ours
        was wrong.
    """
    return max([now, *(each + 1 for each in before if each < now + MAX_SKEW)])


def _check_form(payload: _Payload) -> None:
    """What holds for records of ours and of others."""
    if len(payload.network) != NETWORK_BYTES:
        raise AddressRecordInvalid(f"the id of a network has {NETWORK_BYTES} bytes")
    for value in (payload.sequence, payload.expires):
        if not 0 <= value <= MAX_SEQUENCE:
            raise AddressRecordInvalid(f"{value} in an address record is out of range")
    if len(payload.addresses) > MAX_ADDRESSES:
        raise AddressRecordInvalid(
            f"an address record has at most {MAX_ADDRESSES} addresses, not {len(payload.addresses)}"
        )
    if len(set(payload.addresses)) != len(payload.addresses):
        raise AddressRecordInvalid("an address stands twice in an address record")
    for text in payload.addresses:
        _read_place(text)
    names = list(payload.more)
    if len(names) > MAX_MORE or names != sorted(names) or not all(map(_NAME.fullmatch, names)):
        raise AddressRecordInvalid(
            f"what an address record says besides has at most {MAX_MORE} names, ascending"
        )


def _read_place(text: str) -> HostPort:
    try:
        place = HostPort.parse(text)
    except InvalidAddress as e:
        raise AddressRecordInvalid(f"the address record cannot be used: {e}") from None
    if place.text != text:
        raise AddressRecordInvalid(f"the address {text[:100]!r} is written {place.text!r}")
    if "%" in place.host:
        raise AddressRecordInvalid(
            f"the address {text[:100]!r} names an interface, which no other host has"
        )
    return place
