"""Tests of L{meshkit.mapping.natpmp}."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import MappingFailed
from meshkit.mapping.natpmp import (
    WAITS,
    Port,
    ask_address,
    ask_end,
    ask_port,
    read_address,
    read_port,
)

#: What a miniupnpd 2.3.1 answers.
ADDRESS = bytes.fromhex("00800000 00014394 05020001")
MAPPED = bytes.fromhex("00820000 00014394 1de81de8 00000258")


class NatPmpTests(SynchronousTestCase):
    def test_questions_are_those_of_the_rfc(self) -> None:
        self.assertEqual(ask_address().hex(), "0000")
        self.assertEqual(ask_port(7655, 443, 7200).hex(" ", 2), "0002 0000 1de7 01bb 0000 1c20")
        self.assertEqual(ask_end(7655).hex(" ", 2), "0002 0000 1de7 0000 0000 0000")
        # Nine times; the last time it waits for a minute and four seconds.
        self.assertEqual((len(WAITS), WAITS[0], WAITS[-1]), (9, 0.25, 64))

    def test_answers(self) -> None:
        self.assertEqual(read_address(ADDRESS), IPv4Address("5.2.0.1"))
        self.assertEqual(read_port(MAPPED, 7656), Port(7656, 7656, 600))

    def test_what_answers_something_else_is_no_answer(self) -> None:
        self.assertIsNone(read_address(MAPPED))
        self.assertIsNone(read_port(ADDRESS, 7656))
        self.assertIsNone(read_port(MAPPED, 7655))

    def test_each_refusal_says_why(self) -> None:
        for result, words in (
            (1, "does not speak"),
            (2, "has not allowed"),
            (3, "no address"),
            (4, "no room"),
            (5, "TCP"),
            (99, "result is 99"),
        ):
            refusal = bytes((0, 130, 0, result)) + bytes(12)
            with self.assertRaisesRegex(MappingFailed, words):
                read_port(refusal, 7655)
        # A refusal may well have nothing behind its head.
        with self.assertRaisesRegex(MappingFailed, "has not allowed"):
            read_address(bytes.fromhex("0080000200000000"))

    def test_a_router_of_another_protocol_says_so(self) -> None:
        with self.assertRaisesRegex(MappingFailed, "does not speak NAT-PMP"):
            read_address(bytes.fromhex("02800001 00000000 00000000"))

    @given(st.binary(max_size=40))
    def test_anything_may_come(self, datagram: bytes) -> None:
        for read in (read_address, lambda datagram: read_port(datagram, 7655)):
            try:
                read(datagram)
            except MappingFailed as e:
                self.assertIn("refuses", str(e))

    def test_half_an_answer_is_none(self) -> None:
        for length in range(len(MAPPED)):
            self.assertIsNone(read_port(MAPPED[:length], 7656))
        for length in range(len(ADDRESS)):
            self.assertIsNone(read_address(ADDRESS[:length]))
