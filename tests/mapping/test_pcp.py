"""Tests of L{meshkit.mapping.pcp}."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import MappingFailed
from meshkit.mapping.pcp import NONCE_BYTES, Port, ask_end, ask_port, read_port

NONCE = bytes(range(NONCE_BYTES))
OWN = IPv4Address("192.168.1.2")


def answer(
    *,
    result: int = 0,
    nonce: bytes = NONCE,
    protocol: int = 6,
    port: int = 7655,
    outside: int = 40_000,
    address: str = "00000000000000000000ffff05020001",
    opcode: int = 129,
) -> bytes:
    """What a router says, put together by the pictures of the RFC (7.2, 11.1)."""
    head = bytes((2, opcode, 0, result)) + (600).to_bytes(4, "big") + (82_836).to_bytes(4, "big")
    ports = port.to_bytes(2, "big") + outside.to_bytes(2, "big")
    return head + bytes(12) + nonce + bytes((protocol, 0, 0, 0)) + ports + bytes.fromhex(address)


class PcpTests(SynchronousTestCase):
    def test_questions_are_those_of_the_rfc(self) -> None:
        self.assertEqual(
            ask_port(NONCE, OWN, 7655, 443, 7200).hex(" ", 4),
            "02010000 00001c20 00000000 00000000 0000ffff c0a80102 "
            "00010203 04050607 08090a0b 06000000 1de701bb 00000000 00000000 0000ffff 00000000",
        )
        self.assertEqual(ask_end(NONCE, OWN, 7655), ask_port(NONCE, OWN, 7655, 0, 0))

    def test_an_answer(self) -> None:
        self.assertEqual(len(answer()), 60)
        mapped = Port(7655, 40_000, IPv4Address("5.2.0.1"), 600)
        self.assertEqual(read_port(answer(), NONCE, 7655), mapped)
        # Options may follow, which we have not asked for.
        self.assertEqual(read_port(answer() + bytes(8), NONCE, 7655), mapped)

    def test_what_answers_somebody_else_is_no_answer(self) -> None:
        for other in (
            answer(nonce=bytes(NONCE_BYTES)),
            answer(port=7656),
            answer(protocol=17),
            answer(opcode=128),
            answer(opcode=1),
            # Nor may a stranger refuse in the router's name.
            answer(nonce=bytes(NONCE_BYTES), result=2),
        ):
            self.assertIsNone(read_port(other, NONCE, 7655))

    def test_each_refusal_says_why(self) -> None:
        for result, words in (
            (2, "has not allowed"),
            (7, "no connection"),
            (8, "no room"),
            (10, "as many ports"),
            (12, "another translator"),
            (77, "result is 77"),
        ):
            with self.assertRaisesRegex(MappingFailed, words):
                read_port(answer(result=result), NONCE, 7655)

    def test_a_router_of_nat_pmp_says_so(self) -> None:
        with self.assertRaisesRegex(MappingFailed, "does not speak this version of PCP"):
            read_port(bytes.fromhex("0081000100000000"), NONCE, 7655)

    def test_an_address_of_ipv6_is_of_no_use(self) -> None:
        with self.assertRaisesRegex(MappingFailed, "none of IPv4"):
            read_port(answer(address="20010db8000000000000000000000001"), NONCE, 7655)

    @given(st.binary(max_size=70))
    def test_anything_may_come(self, datagram: bytes) -> None:
        try:
            found = read_port(datagram, NONCE, 7655)
        except MappingFailed as e:
            self.assertIn("router", str(e))
        else:
            self.assertIsNone(found)

    def test_half_an_answer_is_none(self) -> None:
        for length in range(len(answer())):
            self.assertIsNone(read_port(answer()[:length], NONCE, 7655))
