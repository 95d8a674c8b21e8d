"""Tests of L{meshkit.relay.stun.server}."""

from __future__ import annotations

import errno
from ipaddress import ip_address
from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import DatagramProtocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from meshkit.relay.stun.message import MAX_MESSAGE, decode_answer, encode_request
from meshkit.relay.stun.server import ASK_BURST, ASK_RATE, MAX_DATAGRAM, StunServer

TRANSACTION: Final = bytes(range(12))
ASKED: Final = encode_request(TRANSACTION)


class _Transport:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Any]] = []
        self.broken = False

    def write(self, data: bytes, addr: Any) -> None:
        if self.broken:
            raise OSError(errno.ENETUNREACH, "no way")
        self.sent.append((data, addr))


class ServerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.server = StunServer(self.clock)
        self.transport = self.server.transport = _Transport()

    def test_who_asks_is_told_from_where(self) -> None:
        # A socket for IPv6 shows those of IPv4 like the last one.
        for host, seen in (
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("::ffff:192.0.2.7", "192.0.2.7"),
        ):
            self.server.datagramReceived(ASKED, (host, 40_000))
            answer, to = self.transport.sent.pop()
            self.assertEqual(to, (host, 40_000))
            self.assertEqual(decode_answer(answer, TRANSACTION), (ip_address(seen), 40_000))
        self.assertEqual(self.server.answered, 3)

    def test_an_answer_is_not_answered_so_two_servers_do_not_talk_to_each_other(self) -> None:
        self.server.datagramReceived(ASKED, ("192.0.2.1", 3478))
        answer, _ = self.transport.sent.pop()
        self.server.datagramReceived(answer, ("192.0.2.1", 3478))
        self.assertEqual((self.transport.sent, self.server.refused), ([], 1))

    def test_one_address_gets_so_many_answers_and_others_theirs(self) -> None:
        def ask(host: str, times: int) -> int:
            before = len(self.transport.sent)
            for number in range(times):
                self.server.datagramReceived(ASKED, (host, 1_024 + number))
            return len(self.transport.sent) - before

        self.assertEqual(ask("192.0.2.1", 100), ASK_BURST)
        self.assertEqual(self.server.limited, 100 - ASK_BURST)
        self.assertEqual(ask("192.0.2.2", 1), 1)
        self.clock.advance(2)
        self.assertEqual(ask("192.0.2.1", 100), 2 * ASK_RATE)
        # A host may have all addresses of a /64.
        for number in range(100):
            ask(f"2001:db8::{number:x}", 1)
        self.assertEqual(ask("2001:db8::ffff", 1), 0)
        self.assertEqual(ask("2001:db8:0:1::1", 1), 1)

    def test_garbage_counts_as_well(self) -> None:
        for _ in range(int(ASK_BURST)):
            self.server.datagramReceived(b"garbage", ("192.0.2.1", 9))
        self.server.datagramReceived(ASKED, ("192.0.2.1", 9))
        self.assertEqual(self.transport.sent, [])
        self.assertEqual((self.server.refused, self.server.limited), (ASK_BURST, 1))

    def test_where_nobody_can_be_answered_nothing_happens(self) -> None:
        self.server.datagramReceived(ASKED, ("192.0.2.1", 0))
        self.transport.broken = True
        self.server.datagramReceived(ASKED, ("192.0.2.1", 1))
        self.assertEqual((self.server.refused, self.server.unsent), (1, 1))
        self.assertEqual(self.server.answered, 0)

    @given(st.lists(st.binary(max_size=MAX_DATAGRAM), max_size=5))
    def test_nothing_that_comes_is_an_error(self, datagrams: list[bytes]) -> None:
        server = StunServer(self.clock)
        server.transport = _Transport()
        for data in datagrams:
            server.datagramReceived(data, ("192.0.2.1", 1))
        self.assertEqual(server.answered + server.refused, len(datagrams))


class PortTests(TestCase):
    """At a port of this machine."""

    def _listen(self, protocol: DatagramProtocol) -> Any:
        port = reactor.listenUDP(0, protocol, "127.0.0.1", MAX_DATAGRAM)  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        return port

    async def test_it_answers_there_and_not_to_what_was_cut_off(self) -> None:
        server = StunServer(reactor)  # type: ignore[arg-type]
        to = ("127.0.0.1", self._listen(server).getHost().port)
        came: Deferred[bytes] = Deferred()

        class Asking(DatagramProtocol):
            def datagramReceived(self, data: bytes, addr: Any) -> None:
                came.callback(data)

        asking = Asking()
        port = self._listen(asking).getHost().port
        assert asking.transport is not None
        attribute = b"\x80\x22" + (MAX_MESSAGE - 20).to_bytes(2, "big") + bytes(MAX_MESSAGE - 20)
        too_large = bytearray(ASKED) + attribute
        too_large[2:4] = len(attribute).to_bytes(2, "big")
        asking.transport.write(bytes(too_large), to)
        asking.transport.write(ASKED, to)
        self.assertEqual(decode_answer(await came, TRANSACTION), (ip_address("127.0.0.1"), port))
        self.assertEqual((server.answered, server.refused), (1, 1))
