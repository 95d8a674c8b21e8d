"""Tests of L{meshkit.mapping.asking} and L{meshkit.mapping.asked}, with a router in memory."""

from __future__ import annotations

from collections.abc import Coroutine
from ipaddress import IPv4Address
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import MappingFailed
from meshkit.identity.addresses import HostPort
from meshkit.mapping.asked import Mapper, NatPmp, Pcp
from meshkit.mapping.asking import ask
from meshkit.mapping.values import Granted
from tests.mapping.support import OWN, ROUTER, Reactor
from tests.mapping.test_natpmp import ADDRESS
from tests.mapping.test_pcp import NONCE, answer

GRANTED = Granted(7655, HostPort("5.2.0.1", 40_000), 600)


def granting(datagram: bytes) -> list[bytes]:
    """A router that speaks both, and gives everybody port 40000."""
    if datagram[0] == 2:
        return [answer()]
    if datagram[1] == 0:
        return [ADDRESS]
    lifetime = datagram[8:12]
    outside = b"\x9c\x40" if any(lifetime) else b"\0\0"
    return [bytes.fromhex("0082000000014394") + datagram[4:6] + outside + lifetime]


class AskingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Reactor()

    def ask(self, *waits: float) -> Deferred[bytes]:
        def read(datagram: bytes) -> bytes | None:
            if datagram == b"no":
                raise MappingFailed("the router refuses")
            return None if datagram == b"for somebody else" else datagram

        return ask(
            self.reactor, IPv4Address(ROUTER), lambda own: own.packed, read, waits or (1.0, 2.0)
        )

    def refused(self, asked: Deferred[bytes], words: str) -> None:
        self.assertRegex(str(self.failureResultOf(asked, MappingFailed).value), words)
        self.gone()

    def gone(self) -> None:
        self.assertEqual((self.reactor.sockets, self.reactor.getDelayedCalls()), ([], []))

    def test_the_router_is_told_from_where_it_is_asked(self) -> None:
        asked = self.ask()
        self.assertEqual(self.reactor.sockets[0].to, (ROUTER, 5351))
        self.assertEqual(self.reactor.asked, [(0.0, IPv4Address(OWN).packed)])
        self.assertNoResult(asked)
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.reactor.pump([0.01])
        self.gone()

    def test_the_first_answer_that_is_one_counts(self) -> None:
        self.reactor.router = lambda _: [b"for somebody else", b"yes", b"no", b"yes again"]
        asked = self.ask()
        self.reactor.run(0.02)
        self.assertEqual(self.successResultOf(asked), b"yes")
        self.gone()

    def test_it_asks_again_and_gives_up(self) -> None:
        asked = self.ask(1.0, 2.0, 4.0)
        self.reactor.run(6.9)
        self.assertNoResult(asked)
        self.assertEqual([round(at) for at, _ in self.reactor.asked], [0, 1, 3])
        self.reactor.run(0.2)
        self.refused(asked, f"the router at {ROUTER}: it does not answer")

    def test_a_refusal_ends_it(self) -> None:
        self.reactor.router = lambda _: [b"no", b"no", b"yes"]
        asked = self.ask()
        self.reactor.run(0.02)
        self.refused(asked, "refuses")

    def test_where_nobody_listens_it_need_not_wait(self) -> None:
        self.reactor.router = lambda _: None
        asked = self.ask()
        self.reactor.run(0.02)
        self.refused(asked, "nothing there listens")

    def test_without_a_way_or_a_socket_it_fails_at_once(self) -> None:
        self.reactor.no_way = True
        self.refused(self.ask(), "Network is unreachable")
        self.reactor.full = True
        self.refused(self.ask(), "Too many open files")


class AskedTests(SynchronousTestCase):
    """Both protocols, whole."""

    def setUp(self) -> None:
        self.reactor = Reactor(granting)
        self.mappers: tuple[Mapper, ...] = (
            Pcp(self.reactor, lambda: NONCE),
            NatPmp(self.reactor),
        )

    def result(self, work: Coroutine[Any, Any, Any]) -> Any:
        done = Deferred.fromCoroutine(work)
        self.reactor.run(0.1)
        return self.successResultOf(done)

    def refused(self, mapper: Mapper) -> str:
        done = Deferred.fromCoroutine(mapper.map(IPv4Address(ROUTER), 7655, 7655, 600))
        self.reactor.run(30)
        return str(self.failureResultOf(done, MappingFailed).value)

    def test_a_port_is_granted_and_given_back(self) -> None:
        for mapper in self.mappers:
            granted = self.result(mapper.map(IPv4Address(ROUTER), 7655, 7655, 600))
            self.assertEqual(granted, GRANTED, mapper.name)
            self.assertIsNone(self.result(mapper.unmap(IPv4Address(ROUTER), granted)))
            # The seconds stand at the end of the one, and in the head of the other.
            end = self.reactor.asked[-1][1]
            self.assertEqual(end[4:8] if end[0] == 2 else end[8:12], bytes(4), mapper.name)

    def test_a_router_without_an_address_of_its_own_is_of_no_use(self) -> None:
        nowhere = answer(address="00000000000000000000ffff00000000")
        self.reactor.router = lambda datagram: (
            [nowhere] if datagram[0] == 2 else [ADDRESS[:8] + bytes(4)]
        )
        pcp, _ = self.mappers
        self.assertIn("no connection to the outside", self.refused(pcp))
        self.reactor.router = lambda datagram: (
            granting(datagram) if datagram[1] else [ADDRESS[:8] + bytes(4)]
        )
        self.assertIn("no connection to the outside", self.refused(self.mappers[1]))

    def test_port_zero_is_none(self) -> None:
        self.reactor.router = lambda _: [answer(outside=0)]
        self.assertIn("port 0", self.refused(self.mappers[0]))

    def test_a_router_that_says_nothing_is_left_in_time(self) -> None:
        self.reactor.router = lambda _: []
        for mapper, seconds in zip(self.mappers, (21.0, 15.75), strict=True):
            before = self.reactor.seconds()
            self.assertIn("does not answer", self.refused(mapper))
            last, _ = self.reactor.asked[-1]
            self.assertLess(last - before, seconds)
