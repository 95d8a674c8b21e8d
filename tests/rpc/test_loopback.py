"""The same over real sockets: plain TCP and a secure channel, with flow control."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectionClosed
from twisted.trial.unittest import TestCase

from meshkit.errors import CallTimedOut, NotFound, RemoteError
from meshkit.rpc import RPCFactory, RPCProtocol
from meshkit.shs import SecureListener, wrap_client
from tests.rpc.support import ADD, ECHO, FAIL, LARGE, SLOW, Service, Sum, Text
from tests.shs.common import ALICE, BOB
from tests.shs.common import ECHO as CAPABILITY

reactor: Any = installed


class _Calls:
    """What holds over either transport.  Mixed into the two test cases below."""

    # Of TestCase.
    assertEqual: Any
    assertRaises: Any
    addCleanup: Any

    def setUp(self) -> None:
        self.service = Service()
        self.own = Service()

    async def connect(self) -> RPCProtocol:
        raise NotImplementedError

    async def test_calls_and_refusals(self) -> None:
        link = await self.connect()
        self.assertEqual(await link.call(ECHO, Text("hello")), "hello")
        self.assertEqual(await link.call(ADD, Sum(1, 2)), 3)
        with self.assertRaises(RemoteError) as caught:
            await link.call(FAIL, Text(""))
        self.assertEqual(caught.exception.code, NotFound.code)

    async def test_many_at_once_there_and_back(self) -> None:
        link = await self.connect()

        async def ask_back(peer: RPCProtocol) -> str:
            sums = await gatherResults([peer.call(ADD, Sum(n, n)) for n in range(100)])
            return str(sum(sums))

        self.service.on_fail = ask_back
        there = gatherResults([link.call(ADD, Sum(n, 1)) for n in range(100)])
        back = link.call(FAIL, Text(""))
        self.assertEqual(await there, list(range(1, 101)))
        self.assertEqual(await back, str(2 * sum(range(100))))

    async def test_more_answers_than_the_sockets_hold(self) -> None:
        link = await self.connect()
        answers = await gatherResults([link.call(LARGE, Sum(60_000)) for _ in range(120)])
        self.assertEqual({len(answer) for answer in answers}, {60_000})

    async def test_a_deadline(self) -> None:
        link = await self.connect()
        with self.assertRaises(CallTimedOut):
            await link.call(SLOW, Text(""), timeout=0.02)

    async def test_the_end(self) -> None:
        link = await self.connect()
        call = link.call(SLOW, Text(""))
        await link.call(ECHO, Text(""))
        link.close()
        with self.assertRaises(ConnectionClosed):
            await call
        with self.assertRaises(ConnectionClosed):
            await link.call(ECHO, Text(""))


class PlainTests(_Calls, TestCase):
    async def connect(self) -> RPCProtocol:
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(
            _Server(self.service, self)
        )
        self.addCleanup(port.stopListening)
        link: Any = await TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port).connect(
            RPCFactory(reactor, self.own.dispatcher)
        )
        self.addCleanup(link.abort)
        return link  # type: ignore[no-any-return]


class SecureTests(_Calls, TestCase):
    async def connect(self) -> RPCProtocol:
        listener = SecureListener(reactor, BOB, Random(1))
        listener.register(CAPABILITY, RPCFactory(reactor, self.service.dispatcher))
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(listener)
        self.addCleanup(listener.close_all)
        self.addCleanup(port.stopListening)
        endpoint = wrap_client(
            reactor,
            TCP4ClientEndpoint(reactor, "127.0.0.1", port.getHost().port),
            identity=ALICE,
            capability=CAPABILITY,
            peer=BOB.public,
            rng=Random(2),
        )
        link: Any = await endpoint.connect(RPCFactory(reactor, self.own.dispatcher))
        self.addCleanup(link.close)
        return link  # type: ignore[no-any-return]


class _Server(RPCFactory):
    """Its connections are gone when the test is over."""

    def __init__(self, service: Service, test: Any) -> None:
        super().__init__(reactor, service.dispatcher)
        self._test = test

    def buildProtocol(self, addr: Any) -> RPCProtocol:
        protocol = super().buildProtocol(addr)
        ended: Deferred[None] = Deferred()
        lost = protocol.connectionLost

        def tell(reason: Any) -> None:
            lost(reason)
            ended.callback(None)

        protocol.connectionLost = tell  # type: ignore[method-assign,assignment]
        self._test.addCleanup(lambda: ended)
        return protocol
