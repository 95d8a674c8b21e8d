"""Tests of L{meshkit.relay.stun.message}, by the samples of RFC 5769 among others."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import InvalidAnswer, MalformedFrame
from meshkit.relay.stun.message import (
    MAX_MESSAGE,
    MAX_MORE,
    TRANSACTION_BYTES,
    Request,
    decode_answer,
    decode_request,
    encode_answer,
    encode_request,
)

TRANSACTION: Final = bytes.fromhex("b7e7a701bc34d686fa87dfae")
COOKIE: Final = bytes.fromhex("2112a442")

#: RFC 5769, 2.1: of ICE, with a fingerprint, and with PRIORITY, which a server need not know.
ICE_REQUEST: Final = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74"
    "002400046e0001ff80290008932ff9b151263b36000600096576746a3a6836765920202000080014"
    "9aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf"
)
#: 2.2 and 2.3.
IPV4_ANSWER: Final = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f722000200008"
    "0001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
)
IPV6_ANSWER: Final = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f722000200014"
    "0002a1470113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275"
    "bfe3ed4180280004c8fb0b4c"
)
#: 2.4: who asks proves who it is, in a way that we do not ask for.
PROVED_REQUEST: Final = bytes.fromhex(
    "000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383e382afe3"
    "82b900000015001c662f2f3439396b39353464364f4c33346f4c394653547679363473410014000b"
    "6578616d706c652e6f72670000080014f67024656dd64a3e02b8e0712e85c9a28ca89666"
)
IPV4: Final = (IPv4Address("192.0.2.1"), 32853)
IPV6: Final = (IPv6Address("2001:db8:1234:5678:11:2233:4455:6677"), 32853)

transactions = st.binary(min_size=TRANSACTION_BYTES, max_size=TRANSACTION_BYTES)
places = st.tuples(st.ip_addresses(), st.integers(1, 65_535))
requests = st.builds(
    Request,
    transactions,
    st.booleans(),
    st.lists(st.sampled_from((0x0002, 0x0024, 0x7FFF)), unique=True).map(tuple),
)


def message(kind: int, body: bytes, transaction: bytes = TRANSACTION) -> bytes:
    head = kind.to_bytes(2, "big") + len(body).to_bytes(2, "big")
    return head + COOKIE + transaction + body


class SamplesTests(SynchronousTestCase):
    def test_a_request_of_ice_is_one_with_something_unknown_in_it(self) -> None:
        self.assertEqual(decode_request(ICE_REQUEST), Request(TRANSACTION, True, (0x0024,)))

    def test_a_proof_of_who_asks_is_not_looked_at(self) -> None:
        request = decode_request(PROVED_REQUEST)
        self.assertEqual(request, Request(bytes.fromhex("78ad3433c6ad72c029da412e")))

    def test_the_answers(self) -> None:
        self.assertEqual(decode_answer(IPV4_ANSWER, TRANSACTION), IPV4)
        self.assertEqual(decode_answer(IPV6_ANSWER, TRANSACTION), IPV6)

    def test_ours_have_the_same_address_in_the_same_bytes(self) -> None:
        for place, sample, size in ((IPV4, IPV4_ANSWER, 12), (IPV6, IPV6_ANSWER, 24)):
            answer = encode_answer(Request(TRANSACTION), *place)
            self.assertEqual(answer, message(0x0101, sample[36 : 36 + size]))

    def test_a_byte_that_was_changed_is_found_by_the_checksum(self) -> None:
        def read_answer(data: bytes) -> object:
            return decode_answer(data, TRANSACTION)

        for sample, read in (
            (ICE_REQUEST, decode_request),
            (IPV4_ANSWER, read_answer),
            (IPV6_ANSWER, read_answer),
        ):
            for at in range(20, len(sample)):
                changed = bytearray(sample)
                changed[at] ^= 0x01
                # One of another type is no checksum any more.
                if at not in (len(sample) - 8, len(sample) - 7):
                    self.assertRaises(MalformedFrame, read, bytes(changed))

    def test_one_that_is_cut_off_anywhere_is_none(self) -> None:
        for sample in (ICE_REQUEST, PROVED_REQUEST, encode_request(TRANSACTION)):
            for size in range(len(sample)):
                self.assertRaises(MalformedFrame, decode_request, sample[:size])
        for size in range(len(IPV4_ANSWER)):
            self.assertRaises(MalformedFrame, decode_answer, IPV4_ANSWER[:size], TRANSACTION)


class MessageTests(SynchronousTestCase):
    def test_a_request_is_a_head_alone(self) -> None:
        self.assertEqual(encode_request(TRANSACTION), message(0x0001, b""))
        self.assertEqual(decode_request(encode_request(TRANSACTION)), Request(TRANSACTION))

    def test_what_asks_for_something_else_is_no_request(self) -> None:
        for kind in (0x0003, 0x0011, 0x0101, 0x0111, 0x4001, 0x8001):
            self.assertRaises(MalformedFrame, decode_request, message(kind, b""))
        old = b"\0\1\0\0" + bytes(16)  # RFC 3489, which has no cookie
        self.assertRaises(MalformedFrame, decode_request, old)

    def test_the_largest_and_one_that_is_too_large(self) -> None:
        def filled(size: int) -> bytes:
            value = bytes(size - 24)
            return message(0x0001, b"\x80\x22" + len(value).to_bytes(2, "big") + value)

        self.assertEqual(len(filled(MAX_MESSAGE)), MAX_MESSAGE)
        self.assertEqual(decode_request(filled(MAX_MESSAGE)), Request(TRANSACTION))
        self.assertRaises(MalformedFrame, decode_request, filled(MAX_MESSAGE + 4))

    def test_what_is_unknown_is_named_once_and_nothing_behind_a_proof_counts(self) -> None:
        unknown, proof = bytes.fromhex("00030004 00000000"), b"\0\x08\0\x14" + bytes(20)
        request = decode_request(message(0x0001, unknown * 2 + proof + bytes.fromhex("7fff0000")))
        self.assertEqual(request.unknown, (0x0003,))
        answer = encode_answer(request, *IPV4)
        self.assertEqual(
            answer, message(0x0111, bytes.fromhex("0009000400000414 000a000200030000"))
        )
        with self.assertRaisesRegex(InvalidAnswer, "does not say"):
            decode_answer(answer, TRANSACTION)

    def test_a_fingerprint_has_to_be_the_last(self) -> None:
        head = message(0x0001, b"")
        asked = encode_answer(Request(TRANSACTION, fingerprint=True), *IPV4)
        self.assertEqual(decode_answer(asked, TRANSACTION), IPV4)
        after = bytes.fromhex("80220000")
        self.assertRaises(
            MalformedFrame,
            decode_answer,
            message(0x0101, asked[len(head) :] + after),
            TRANSACTION,
        )

    def test_an_answer_to_something_else_is_none(self) -> None:
        answer = encode_answer(Request(TRANSACTION), *IPV4)
        self.assertRaises(MalformedFrame, decode_answer, answer, bytes(12))
        self.assertRaises(MalformedFrame, decode_answer, encode_request(TRANSACTION), TRANSACTION)

    def test_an_address_that_is_none(self) -> None:
        for value in ("", "00", "0001", "0003a147e112a643", "0002a147e112a643", "0001a147e112"):
            raw = bytes.fromhex(value)
            body = b"\0\x20" + len(raw).to_bytes(2, "big") + raw + bytes(-len(raw) % 4)
            with self.assertRaises(InvalidAnswer):
                decode_answer(message(0x0101, body), TRANSACTION)

    @given(requests, places)
    def test_the_answer_says_from_where_the_request_came(self, request: Any, place: Any) -> None:
        answer = encode_answer(request, *place)
        if request.unknown:
            self.assertRaises(InvalidAnswer, decode_answer, answer, request.transaction)
        else:
            self.assertEqual(decode_answer(answer, request.transaction), place)

    @given(st.binary(max_size=MAX_MESSAGE - 20).map(lambda body: body[: len(body) // 4 * 4]))
    def test_whatever_is_asked_the_answer_is_hardly_larger(self, body: bytes) -> None:
        asked = message(0x0001, body)
        with contextlib.suppress(MalformedFrame):
            answer = encode_answer(decode_request(asked), ip_address("2001:db8::1"), 65_535)
            self.assertLessEqual(len(answer), len(asked) + MAX_MORE)

    def test_the_most_unknown_attributes_that_there_can_be(self) -> None:
        count = (MAX_MESSAGE - 20) // 4
        asked = message(0x0001, b"".join(bytes((0x30, n, 0, 0)) for n in range(count)))
        answer = encode_answer(decode_request(asked), *IPV4)
        self.assertLess(len(answer), len(asked))

    @given(st.binary(max_size=MAX_MESSAGE + 8))
    def test_garbage_is_refused(self, data: bytes) -> None:
        for given_ in (data, message(0x0001, data), message(0x0101, data)):
            with contextlib.suppress(MalformedFrame):
                decode_request(given_)
            with contextlib.suppress(MalformedFrame, InvalidAnswer):
                decode_answer(given_, TRANSACTION)
