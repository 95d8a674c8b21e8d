"""Tests of L{meshkit.identity.vouchers}."""

from __future__ import annotations

import contextlib
from typing import Final

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import VoucherInvalid
from meshkit.identity.addresses import HostPort
from meshkit.identity.contexts import PLACEMENT, RELAY_VOUCHER
from meshkit.identity.envelope import Envelope
from meshkit.identity.keys import Identity
from meshkit.identity.records import MAX_RECORD, MAX_SKEW, AddressRecord
from meshkit.identity.vouchers import (
    MAX_LIFETIME,
    MAX_PATHS,
    MAX_VOUCHER,
    PATHS_NAME,
    RelayPath,
    Voucher,
    decode_paths,
    encode_paths,
)
from meshkit.testing.identities import make_identity

RELAY: Final = make_identity("relay")
PEER: Final = make_identity("peer")
OTHER: Final = make_identity("other")
NETWORK: Final = bytes(range(16))
NOW: Final = 1_767_225_600_000
HOUR: Final = 3_600_000


def promise(relay: Identity = RELAY, peer: Identity = PEER, expires: int = NOW + HOUR) -> Voucher:
    return Voucher.seal(relay, NETWORK, peer.public, expires)


class VoucherTests(SynchronousTestCase):
    """A relay's word."""

    def refused(self, raw: bytes, why: str, now: int = NOW) -> None:
        error = self.assertRaises(VoucherInvalid, Voucher.open, raw, now)
        self.assertIn(why, str(error))

    def test_who_reads_it_learns_who_promised_what_until_when(self) -> None:
        made = promise()
        self.assertEqual(Voucher.open(made.raw, NOW), made)
        self.assertEqual((made.relay, made.peer), (RELAY.public, PEER.public))
        self.assertEqual((made.network, made.expires), (NETWORK, NOW + HOUR))
        self.assertLess(len(made.raw), MAX_VOUCHER)

    def test_it_is_good_to_the_last_millisecond_and_no_longer(self) -> None:
        raw = promise(expires=NOW + 1).raw
        Voucher.open(raw, NOW)
        self.refused(raw, "over", NOW + 1)

    def test_one_that_is_good_for_longer_than_any_is_refused(self) -> None:
        most = NOW + MAX_LIFETIME + MAX_SKEW
        Voucher.open(promise(expires=most).raw, NOW)
        self.refused(promise(expires=most + 1).raw, "24 hours")

    def test_no_changed_byte_goes_unseen(self) -> None:
        raw = promise().raw
        for at in range(len(raw)):
            forged = bytearray(raw)
            forged[at] ^= 1
            self.assertRaises(VoucherInvalid, Voucher.open, bytes(forged), NOW)

    def test_no_part_of_one_is_one(self) -> None:
        raw = promise().raw
        for size in range(len(raw)):
            self.assertRaises(VoucherInvalid, Voucher.open, raw[:size], NOW)

    def test_another_kind_of_statement_is_none(self) -> None:
        payload = msgspec.msgpack.encode([NETWORK, PEER.public.raw, NOW + HOUR])
        self.refused(Envelope.seal(RELAY, PLACEMENT, payload).raw, "relay-voucher")

    def test_there_is_one_form_of_it(self) -> None:
        # The same in MessagePack's longer form of an array.
        payload = b"\xdc\x00\x03" + msgspec.msgpack.encode([NETWORK, PEER.public.raw, NOW + 1])[1:]
        self.refused(Envelope.seal(RELAY, RELAY_VOUCHER, payload).raw, "shortest form")

    def test_fields_of_the_wrong_size_are_refused(self) -> None:
        for fields in (
            [NETWORK[1:], PEER.public.raw, NOW + HOUR],
            [NETWORK, PEER.public.raw + b"x", NOW + HOUR],
            [NETWORK, PEER.public.raw, 2**63],
            [NETWORK, PEER.public.raw, -1],
            [NETWORK, PEER.public.raw, NOW + HOUR, 1],
            [NETWORK, PEER.public.raw],
        ):
            raw = Envelope.seal(RELAY, RELAY_VOUCHER, msgspec.msgpack.encode(fields)).raw
            self.assertRaises(VoucherInvalid, Voucher.open, raw, NOW)
        self.refused(bytes(MAX_VOUCHER + 1), "over the limit")

    @given(st.binary(max_size=MAX_VOUCHER))
    def test_garbage_is_refused_and_nothing_else_happens(self, raw: bytes) -> None:
        self.assertRaises(VoucherInvalid, Voucher.open, raw, NOW)


class PathsTests(SynchronousTestCase):
    """What a peer says of its relays."""

    place = HostPort("relay.example.org", 7661)

    def test_a_peer_names_its_relays_in_its_address_record(self) -> None:
        paths = [RelayPath(self.place, promise()), RelayPath(self.place, promise(OTHER))]
        self.assertEqual(len(paths), MAX_PATHS)
        record = AddressRecord.seal(
            PEER,
            NETWORK,
            [HostPort("2001:db8::1", 7655), HostPort("192.0.2.1", 7655)],
            sequence=NOW,
            expires=NOW + HOUR,
            more={PATHS_NAME: encode_paths(paths)},
        )
        # A prekey of a mailbox takes as much as half of the record.
        self.assertLessEqual(len(record.raw) + 512, MAX_RECORD)
        read = AddressRecord.open(record.raw, NETWORK, NOW)
        self.assertEqual(decode_paths(read.more[PATHS_NAME], PEER.public, NOW), tuple(paths))

    def test_nobody_is_sent_to_a_relay_that_promised_somebody_else(self) -> None:
        raw = encode_paths([RelayPath(self.place, promise(peer=OTHER))])
        self.assertEqual(decode_paths(raw, PEER.public, NOW), ())

    def test_a_promise_that_is_over_spoils_no_other(self) -> None:
        good = RelayPath(self.place, promise(OTHER))
        raw = encode_paths([RelayPath(self.place, promise(expires=NOW)), good])
        self.assertEqual(decode_paths(raw, PEER.public, NOW), (good,))

    def test_a_place_that_cannot_be_dialled_spoils_no_other(self) -> None:
        good = RelayPath(self.place, promise())
        shown = msgspec.msgpack.decode(encode_paths([good]))[0]
        raw = msgspec.msgpack.encode([["nowhere", *shown[1:]], shown])
        self.assertEqual(decode_paths(raw, PEER.public, NOW), (good,))

    def test_more_than_there_may_be_are_refused_when_made_and_when_read(self) -> None:
        paths = [RelayPath(self.place, promise())] * (MAX_PATHS + 1)
        self.assertRaises(VoucherInvalid, encode_paths, paths)
        raw = msgspec.msgpack.encode([["a:1", b"", b"", 0, b""]] * (MAX_PATHS + 1))
        self.assertRaises(VoucherInvalid, decode_paths, raw, PEER.public, NOW)
        self.assertRaises(VoucherInvalid, decode_paths, bytes(513), PEER.public, NOW)

    @given(st.binary(max_size=64))
    def test_garbage_is_refused(self, raw: bytes) -> None:
        with contextlib.suppress(VoucherInvalid):
            self.assertEqual(decode_paths(raw, PEER.public, NOW), ())
