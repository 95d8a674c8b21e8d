"""
What a relay promises, signed: that a peer can be reached through it.

A voucher is an envelope (L{meshkit.identity.envelope}) of the kind C{relay-voucher/1}, signed by
the relay, whose payload is the MessagePack array::

    [network: bin 16, peer: bin 32, expires: uint]

in its shortest form, as the envelope is.  The peer shows what is in it, with the relay's address,
in its own address record, under L{PATHS_NAME}::

    [[HOST:PORT: str, relay: bin 32, network: bin 16, expires: uint, signature: bin 64], ...]

so that nobody can be said to be at a relay whose key has not promised it.  The host beside that is
the peer's own word, and a key can be made up: it costs a host that is named falsely one failed dial
of each reader a minute.  Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from attrs import field, frozen

from meshkit.errors import EnvelopeError, InvalidAddress, InvalidPublicKey, VoucherInvalid
from meshkit.identity.addresses import HostPort
from meshkit.identity.contexts import RELAY_VOUCHER
from meshkit.identity.envelope import Envelope
from meshkit.identity.keys import KEY_BYTES, SIGNATURE_BYTES, Identity, PublicKey
from meshkit.identity.records import MAX_SEQUENCE, MAX_SKEW, NETWORK_BYTES

__all__ = [
    "MAX_LIFETIME",
    "MAX_PATHS",
    "MAX_VOUCHER",
    "PATHS_NAME",
    "RelayPath",
    "Voucher",
    "decode_paths",
    "encode_paths",
]

#: A voucher larger than this is refused.
MAX_VOUCHER: Final = 256
#: Milliseconds for which a voucher may be good, as seen by whoever reads it.
MAX_LIFETIME: Final = 24 * 3_600_000
#: What the relays of a peer are called in its address record.
PATHS_NAME: Final = "relay"
#: Relays that a peer names there: its addresses have to fit as well.
MAX_PATHS: Final = 2
#: Bytes of all of them.
MAX_PATHS_BYTES: Final = 512


class _Payload(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    network: bytes
    peer: bytes
    expires: int


class _Path(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    # Whom it is for stands in the record: to say it again, and the form of an envelope, would
    # take half as much again, of a record that has 1,024 bytes.
    place: str
    relay: bytes
    network: bytes
    expires: int
    signature: bytes


_decoder: Final = msgspec.msgpack.Decoder(_Payload)
_path_decoder: Final = msgspec.msgpack.Decoder(list[_Path])
_encoder: Final = msgspec.msgpack.Encoder()


@frozen
class Voucher:
    """
    A relay's word that a peer can be reached through it; made by L{seal} or L{open}.

    @ivar relay: who promises.
    @ivar network: id of the network in which the relay is dialled, 16 bytes.
    @ivar peer: who can be reached.
    @ivar expires: until when, in milliseconds since 1970.
    @ivar raw: the envelope as it travels.
    """

    relay: PublicKey
    network: bytes = field(repr=bytes.hex)
    peer: PublicKey
    expires: int
    raw: bytes = field(repr=False)

    @classmethod
    def seal(cls, relay: Identity, network: bytes, peer: PublicKey, expires: int) -> Voucher:
        """
        Promise.

        @raise VoucherInvalid: network or time are out of range.
        """
        payload = _Payload(network, peer.raw, expires)
        _check_form(payload)
        raw = Envelope.seal(relay, RELAY_VOUCHER, _encoder.encode(payload)).raw
        return cls(relay.public, network, peer, expires, raw)

    @classmethod
    def open(cls, raw: bytes, now: int) -> Voucher:
        """
        Verify a voucher.  Whether relay, network and peer are the expected ones is the
        caller's to see.

        @param now: milliseconds since 1970.
        @raise VoucherInvalid: it is too large, malformed, not signed by the relay it names,
            expired, or reaches too far into the future.
        """
        if len(raw) > MAX_VOUCHER:
            raise VoucherInvalid(
                f"a voucher of {len(raw)} bytes is over the limit of {MAX_VOUCHER}"
            )
        try:
            envelope = Envelope.open(raw, RELAY_VOUCHER)
        except (EnvelopeError, InvalidPublicKey) as e:
            raise VoucherInvalid(f"the voucher cannot be used: {e}") from None
        try:
            payload = _decoder.decode(envelope.payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise VoucherInvalid("the voucher is malformed") from None
        _check_form(payload)
        if not envelope.shortest or _encoder.encode(payload) != envelope.payload:
            raise VoucherInvalid("the voucher is not in its shortest form")
        peer = PublicKey(payload.peer)
        if payload.expires <= now:
            raise VoucherInvalid(
                f"the relay {envelope.signer.short} has promised to lead to {peer.short} until "
                f"a time that is over: ask the peer for a newer record"
            )
        if payload.expires > now + MAX_LIFETIME + MAX_SKEW:
            raise VoucherInvalid(
                f"the voucher of the relay {envelope.signer.short} is good for more than "
                f"{MAX_LIFETIME // 3_600_000} hours: is the clock there or here wrong?"
            )
        return cls(envelope.signer, payload.network, peer, payload.expires, raw)


@frozen
class RelayPath:
    """
    A way to a peer.

    @ivar place: where its relay listens.
    @ivar voucher: the promise of that relay.
    """

    place: HostPort
    voucher: Voucher


def encode_paths(paths: Iterable[RelayPath]) -> bytes:
    """
    @return: what a peer says of its relays in its address record, under L{PATHS_NAME}.
    @raise VoucherInvalid: there are too many, or they are too large.
    """
    raw = _encoder.encode(
        [
            _Path(
                path.place.text,
                path.voucher.relay.raw,
                path.voucher.network,
                path.voucher.expires,
                path.voucher.raw[-SIGNATURE_BYTES:],
            )
            for path in paths
        ]
    )
    _read_paths(raw)
    return raw


def decode_paths(raw: bytes, peer: PublicKey, now: int) -> tuple[RelayPath, ...]:
    """
    Read what a peer says of its relays.

    @param peer: whose record it is: each voucher has to name it.
    @param now: milliseconds since 1970.
    @return: those whose vouchers are good: their keys have promised it, if not necessarily at
        the hosts that stand beside them.
    @raise VoucherInvalid: nothing of it can be read.
    """
    found = []
    for path in _read_paths(raw):
        payload = _encoder.encode(_Payload(path.network, peer.raw, path.expires))
        try:
            raw = Envelope.join(PublicKey(path.relay), RELAY_VOUCHER, payload, path.signature)
            found.append(RelayPath(HostPort.parse(path.place), Voucher.open(raw, now)))
        except (InvalidAddress, InvalidPublicKey, VoucherInvalid):
            continue  # the peer's mistake, or its clock's: the other ways may be good
    return tuple(found)


def _read_paths(raw: bytes) -> list[_Path]:
    if len(raw) > MAX_PATHS_BYTES:
        raise VoucherInvalid(
            f"the relays of a peer take {len(raw)} bytes, over the limit of {MAX_PATHS_BYTES}"
        )
    try:
        paths = _path_decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise VoucherInvalid("what a peer says of its relays is malformed") from None
    if len(paths) > MAX_PATHS:
        raise VoucherInvalid(f"a peer names at most {MAX_PATHS} relays, not {len(paths)}")
    return paths


def _check_form(payload: _Payload) -> None:
    if len(payload.network) != NETWORK_BYTES:
        raise VoucherInvalid(f"the id of a network has {NETWORK_BYTES} bytes")
    if len(payload.peer) != KEY_BYTES:
        raise VoucherInvalid(f"the key of a peer has {KEY_BYTES} bytes")
    if not 0 <= payload.expires <= MAX_SEQUENCE:
        raise VoucherInvalid(f"{payload.expires} in a voucher is out of range")
