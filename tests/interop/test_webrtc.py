"""
L{meshkit.relay.webrtc} with aiortc: two sides in one process, over the machine's own network.

aiortc leaves loopback out, so it takes an address of the machine's; nothing leaves the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import ip_address
from random import SystemRandom
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import DatagramProtocol, Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import SkipTest, TestCase

from meshkit.discovery.interfaces import find_interfaces
from meshkit.errors import WebRTCFailed, WebRTCMissing
from meshkit.identity.addresses import HostPort, transport_of
from meshkit.identity.network import NetworkSecret
from meshkit.relay.stun.message import decode_request, encode_answer
from meshkit.relay.stun.server import StunServer
from meshkit.relay.webrtc.aio import AioConnection, LoopThread, load_aiortc
from meshkit.relay.webrtc.asking import ask_servers
from meshkit.relay.webrtc.description import MAX_CANDIDATES
from meshkit.relay.webrtc.servers import StunServers
from meshkit.relay.webrtc.sessions import WebRTCAnswers, WebRTCEndpoint
from meshkit.relay.webrtc.stream import WINDOW
from meshkit.shs import Capability, SecureListener, wrap_client
from meshkit.testing.identities import make_identity

ADA, BOB = make_identity("ada"), make_identity("bob")
ECHO = Capability.of(NetworkSecret.generate(SystemRandom()).key(), "echo")
SIZE = 512 * 1024


class Echo(Protocol):
    """Sends back what comes, with the back-pressure of both directions."""

    def __init__(self) -> None:
        self.transport: Any
        self.lost: Failure | None = None

    def connectionMade(self) -> None:
        self.transport.registerProducer(self.transport, True)

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason


class Forgetful(StunServer):
    """Loses the first request."""

    lost = 0

    def datagramReceived(self, data: bytes, addr: tuple[str, int]) -> None:
        if self.lost:
            super().datagramReceived(data, addr)
        else:
            self.lost += 1


class Liar(DatagramProtocol):
    """Answers without an address, after what is no answer."""

    def datagramReceived(self, data: bytes, addr: tuple[str, int]) -> None:
        assert self.transport is not None
        self.transport.write(b"garbage", addr)
        answer = encode_answer(decode_request(data), ip_address(addr[0]), addr[1])
        self.transport.write(b"\x01\x01\0\0" + answer[4:20], addr)


class Asker(Protocol):
    def __init__(self) -> None:
        self.transport: Any
        self.received = bytearray()
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason


class WebRTC(TestCase):
    timeout = 60

    async def begin(self) -> None:
        try:
            load_aiortc()
        except WebRTCMissing:
            raise SkipTest("aiortc is not installed (the extra webrtc)") from None
        if not find_interfaces():
            raise SkipTest("there is no network interface but loopback, which WebRTC leaves out")
        self.thread = LoopThread(reactor)
        self.thread.startService()
        self.addCleanup(self.thread.stopService)
        self.echoes: list[Echo] = []
        self.listener = SecureListener(reactor, BOB, SystemRandom())
        self.listener.register(ECHO, Factory.forProtocol(self.echo), lambda peer, label: True)
        self.answers = WebRTCAnswers(reactor, self.make, self.listener.buildProtocol)
        self.addCleanup(self.answers.close)
        self.endpoint = WebRTCEndpoint(
            reactor, self.make, lambda offer: self.answers.answer(offer, ADA.public), BOB.public
        )
        self.addCleanup(self.endpoint.close)

    def echo(self) -> Echo:
        self.echoes.append(Echo())
        return self.echoes[-1]

    def make(self, stun: StunServers | None = None) -> AioConnection:
        return AioConnection(reactor, self.thread, stun)

    def stun(self) -> HostPort:
        """@return: where there is a STUN server now."""
        server = StunServer(reactor)  # type: ignore[arg-type]
        return self.listen(server)

    def listen(self, protocol: DatagramProtocol) -> HostPort:
        (address, *_) = find_interfaces()
        port = reactor.listenUDP(0, protocol, address)  # type: ignore[attr-defined]
        self.addCleanup(port.stopListening)
        return HostPort(address, port.getHost().port)

    async def ask(self, *places: HostPort, seconds: float = 20.0) -> Any:
        questions = StunServers(SystemRandom(), places).questions()
        return await self.thread.ask(lambda: ask_servers(questions, seconds))

    def dial(self) -> Deferred[Any]:
        wrapped = wrap_client(
            reactor,  # type: ignore[arg-type]
            self.endpoint,
            identity=ADA,
            capability=ECHO,
            peer=BOB.public,
            rng=SystemRandom(),
        )
        return wrapped.connect(Factory.forProtocol(Asker))

    async def until(self, what: str, condition: Callable[[], object]) -> None:
        end = time.monotonic() + self.timeout - 5
        while not condition():
            self.assertLess(time.monotonic(), end, what)
            await deferLater(reactor, 0.005)

    async def test_streams_between_two_peers(self) -> None:
        await self.begin()
        first: Asker = await self.dial()
        second: Asker = await self.dial()
        self.assertEqual(transport_of(first.transport.getPeer())[0], "webrtc")
        data = SystemRandom().randbytes(SIZE)
        first.transport.write(data)
        second.transport.write(b"beside it")
        await self.until("what was sent", lambda: len(first.received) == SIZE)
        self.assertEqual(first.received, data)
        self.assertEqual(second.received, b"beside it")
        # One that does not read holds up nobody else, and no more than a window waits for it.
        first.transport.pauseProducing()
        first.transport.write(data)
        second.transport.write(b" and still")
        await self.until("the other one", lambda: second.received == b"beside it and still")
        self.assertLess(len(first.received), SIZE + 2 * WINDOW)
        first.transport.resumeProducing()
        await self.until("the rest", lambda: len(first.received) == 2 * SIZE)
        # Closed in good order, at both ends.
        first.transport.loseConnection()
        await self.until("the ends", lambda: first.lost and self.echoes[0].lost)
        assert first.lost is not None and self.echoes[0].lost is not None
        self.assertIs(first.lost.type, connectionDone.type)
        self.assertIs(self.echoes[0].lost.type, connectionDone.type)
        # And the connection ends with all that is on it.
        self.endpoint.close()
        await self.until("the end", lambda: second.lost and not len(self.answers))
        self.assertFalse(self.endpoint.connected)

    async def test_the_first_server_that_answers_is_the_one(self) -> None:
        await self.begin()
        silent, there = self.listen(DatagramProtocol()), self.stun()
        at, seen = await self.ask(silent, there, HostPort("nowhere.invalid", 3478))
        self.assertEqual((at, seen.server), (there, there))
        self.assertEqual(str(seen.ip), there.host)

    async def test_a_request_that_was_lost_is_sent_again(self) -> None:
        await self.begin()
        server = Forgetful(reactor)  # type: ignore[arg-type]
        there = self.listen(server)
        _, seen = await self.ask(there)
        self.assertEqual((seen.server, server.lost), (there, 1))

    async def test_no_server_answers(self) -> None:
        await self.begin()
        self.assertIsNone(await self.ask())
        self.assertIsNone(await self.ask(self.listen(DatagramProtocol()), seconds=0.3))
        self.assertIsNone(await self.ask(HostPort("nowhere.invalid", 3478)))
        # Who says something else does not hold up who says what is asked.
        liar, there = self.listen(Liar()), self.stun()
        self.assertIsNone(await self.ask(liar))
        self.assertEqual((await self.ask(liar, there))[0], there)

    async def test_an_offer_names_where_a_server_has_seen_us_and_no_other_is_asked(self) -> None:
        await self.begin()

        def chosen_by_others() -> None:
            raise AssertionError("a server was asked that nobody has named")

        gatherer = load_aiortc().RTCIceGatherer
        self.patch(gatherer, "getDefaultIceServers", staticmethod(chosen_by_others))
        servers = StunServers(SystemRandom(), [self.listen(DatagramProtocol()), self.stun()])
        for stun, found in ((servers, True), (None, False), (StunServers(SystemRandom()), False)):
            offerer = self.make(stun)
            self.addCleanup(offerer.close)
            self.assertEqual(b"typ srflx" in await offerer.offer(), found)
        await self.until("what was seen", lambda: servers.seen)

    async def test_a_machine_with_many_addresses_offers_no_more_than_a_peer_takes(self) -> None:
        await self.begin()
        from aioice import ice

        own = [find_interfaces()[0]] * (MAX_CANDIDATES + 4)
        self.patch(ice, "get_host_addresses", lambda **_: own)
        first: Asker = await self.dial()
        first.transport.write(b"found")
        await self.until("what was sent", lambda: first.received == b"found")

    async def test_what_is_no_offer(self) -> None:
        await self.begin()
        for wrong in (b"", b"v=0\r\nnonsense", b"\xff", b"v=0\r\no=- 1 2 IN IP4 0.0.0.0\r\n"):
            with self.assertRaises(WebRTCFailed):
                await self.answers.answer(wrong, ADA.public)
        self.assertEqual(len(self.answers), 0)

    async def test_an_offer_with_other_people_s_addresses_or_a_call(self) -> None:
        await self.begin()
        offerer = self.make()
        self.addCleanup(offerer.close)
        offer = await offerer.offer()
        line = next(each for each in offer.splitlines() if each.startswith(b"a=candidate:"))
        many = offer.replace(line, b"\r\n".join([line] * (MAX_CANDIDATES + 1)))
        call = offer + b"m=audio 9 UDP/TLS/RTP/SAVPF 0\r\n"
        for wrong, why in ((many, "more than 16 addresses"), (call, "is for a call")):
            with self.assertRaisesRegex(WebRTCFailed, why):
                await self.answers.answer(wrong, ADA.public)
