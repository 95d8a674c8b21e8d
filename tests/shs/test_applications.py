"""
Other people's protocols over the channel, unmodified: twisted.web's server and client,
treq, AMP.  In memory on a virtual clock, where flow control can be watched, and over
loopback.  Lines, and more over sockets, are in C{test_channel.py}, C{test_loopback.py}
and C{test_strings.py}.
"""

from __future__ import annotations

from io import BytesIO
from random import Random
from typing import Any, ClassVar

from treq.client import HTTPClient
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, Cooperator
from twisted.protocols import amp
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import Agent, FileBodyProducer, HTTPConnectionPool, readBody
from twisted.web.iweb import IAgentEndpointFactory
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface import implementer

from meshkit.errors import TruncatedStream
from meshkit.shs.endpoints import wrap_client, wrap_server
from meshkit.testing.channels import connect_channels
from meshkit.testing.nodes import run_clock
from meshkit.testing.transports import HIGH_WATER, MemoryNetwork
from tests.shs.common import ALICE, BOB, ECHO, OneFactory, Recorder

PORT = 7655
LARGE = Random(8).randbytes(2_000_000)

#: What boxes add, and the piece that a producer wrote before it was paused.
SLACK = 128 * 1024


@implementer(IPushProducer)
class Pouring:
    """Answers a request with a body, a piece a turn, and none while it is paused."""

    def __init__(self, clock: Any, request: Any, body: bytes) -> None:
        self.clock = clock
        self.request = request
        self.body = BytesIO(body)
        self.paused = True
        self.pauses = 0
        request.registerProducer(self, True)
        self.resumeProducing()

    def pauseProducing(self) -> None:
        self.paused = True
        self.pauses += 1

    def resumeProducing(self) -> None:
        if self.paused:
            self.paused = False
            self.clock.callLater(0, self.pour)

    def stopProducing(self) -> None:
        self.paused = True

    def pour(self) -> None:
        if self.paused:
            return
        piece = self.body.read(16 * 1024)
        if piece:
            self.request.write(piece)
            self.clock.callLater(0, self.pour)
        else:
            self.request.unregisterProducer()
            self.request.finish()


class Echoes(Resource):
    """
    Sends back the body of a POST through a producer, and the path of a GET.

    @ivar channels: the connections that requests came by.
    @ivar sent: the producers of the answers.
    """

    isLeaf = True

    def __init__(self, clock: Any) -> None:
        super().__init__()
        self.clock = clock
        self.channels: list[Any] = []
        self.sent: list[Pouring] = []

    def render_GET(self, request: Any) -> bytes:
        self.channels.append(request.channel)
        path: bytes = request.path
        return path

    def render_POST(self, request: Any) -> Any:
        self.channels.append(request.channel)
        self.sent.append(Pouring(self.clock, request, request.content.read()))
        return NOT_DONE_YET


@implementer(IAgentEndpointFactory)
class ToOne:
    """Leads every request to one peer."""

    def __init__(self, endpoint: Any) -> None:
        self.endpoint = endpoint

    def endpointForURI(self, uri: Any) -> Any:
        return self.endpoint


class Slow(Protocol):
    """Takes a body as a slow reader does: after each piece it pauses for a while."""

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.received = bytearray()
        self.pauses = 0
        self.done: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.received += data
        self.pauses += 1
        self.transport.pauseProducing()
        self.clock.callLater(0.001, self.go_on)

    def go_on(self) -> None:
        if not self.done.called:
            assert self.transport is not None
            self.transport.resumeProducing()

    def connectionLost(self, reason: Any = None) -> None:
        self.done.callback(bytes(self.received))


class Sum(amp.Command):
    arguments: ClassVar[Any] = [(b"a", amp.Integer()), (b"b", amp.Integer())]
    response: ClassVar[Any] = [(b"total", amp.Integer())]


class Adder(amp.AMP):
    """Adds up, unless the sum is to be negative: then it never answers."""

    @Sum.responder
    def sum(self, a: int, b: int) -> Any:
        return Deferred() if a + b < 0 else {"total": a + b}


class MemoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock, latency=0.01)

    def serve(self, factory: Any) -> Any:
        """@return: a client's endpoint."""
        server = self.network.server_endpoint(PORT)
        listening = wrap_server(
            self.clock, server, identity=BOB, capability=ECHO, rng=Random(1)
        ).listen(factory)
        self.addCleanup(self.successResultOf(listening).stopListening)
        client = self.network.client_endpoint(PORT)
        return wrap_client(
            self.clock, client, identity=ALICE, capability=ECHO, peer=BOB.public, rng=Random(2)
        )

    def agent(self, page: Resource) -> tuple[Agent, HTTPConnectionPool]:
        endpoint = self.serve(Site(page, reactor=self.clock))
        pool = HTTPConnectionPool(self.clock)
        return Agent.usingEndpointFactory(self.clock, ToOne(endpoint), pool=pool), pool

    def get(self, agent: Agent, path: bytes) -> bytes:
        bodies: list[bytes] = []
        agent.request(b"GET", b"http://bob" + path).addCallback(readBody).addCallback(bodies.append)
        run_clock(self.clock, 1.0)
        (body,) = bodies
        return body

    def close(self, pool: HTTPConnectionPool) -> None:
        closed = pool.closeCachedConnections()
        run_clock(self.clock, 1.0)
        self.successResultOf(closed)
        self.assertEqual([w.second.connected for w in self.network.wires if w.second.connected], [])

    def test_http_keeps_its_connection(self) -> None:
        page = Echoes(self.clock)
        agent, pool = self.agent(page)
        paths = [b"/%d" % n for n in range(10)]
        self.assertEqual([self.get(agent, path) for path in paths], paths)
        self.assertEqual(len(set(page.channels)), 1)
        self.assertEqual(len(self.network.wires), 1)
        self.close(pool)

    def test_http_requests_that_do_not_wait_for_answers(self) -> None:
        endpoint = self.serve(Site(Echoes(self.clock), reactor=self.clock))
        connecting = endpoint.connect(OneFactory(Recorder))
        run_clock(self.clock, 1.0)
        client = self.successResultOf(connecting)
        paths = [b"/%d" % n for n in range(50)]
        request = b"GET %s HTTP/1.1\r\nHost: bob\r\n\r\n"
        asked = b"".join(request % path for path in paths)
        # Wherever the boxes are cut.
        for at in range(0, len(asked), 97):
            client.transport.write(asked[at : at + 97])
        client.transport.write(b"GET /last HTTP/1.1\r\nHost: bob\r\nConnection: close\r\n\r\n")
        run_clock(self.clock, 1.0)
        answers = bytes(client.received).split(b"HTTP/1.1 200 OK\r\n")[1:]
        bodies = [answer.partition(b"\r\n\r\n")[2] for answer in answers]
        self.assertEqual(bodies[:-1], paths)
        self.assertIn(b"/last", bodies[-1])
        self.assertEqual(client.events[-1][0], "lost")

    def test_http_bodies_both_ways_by_producers_that_are_slowed_down(self) -> None:
        page = Echoes(self.clock)
        agent, pool = self.agent(page)
        cooperator = Cooperator(scheduler=lambda call: self.clock.callLater(0.001, call))
        body = FileBodyProducer(BytesIO(LARGE), cooperator=cooperator)
        slow = Slow(self.clock)
        asked = agent.request(b"POST", b"http://bob/", bodyProducer=body)
        asked.addCallback(lambda response: response.deliverBody(slow))
        most = 0
        while not slow.done.called:
            self.clock.advance(0.001)
            (wire,) = self.network.wires or [None]
            if wire is not None:
                most = max(most, wire.first.waiting, wire.second.waiting)
            self.assertLess(self.clock.seconds(), 60)
        self.assertEqual(self.successResultOf(slow.done), LARGE)
        # Neither end ever held more than its transport beneath asks for.
        self.assertLess(most, HIGH_WATER + SLACK)
        self.assertGreater(slow.pauses, 20)
        self.assertGreater(page.sent[0].pauses, 5)
        self.close(pool)

    def test_amp(self) -> None:
        pair = connect_channels(
            Factory.forProtocol(amp.AMP), Factory.forProtocol(Adder), clock=self.clock
        )
        asked = gatherResults([pair.client.callRemote(Sum, a=n, b=1) for n in range(100)])
        pair.run(1.0)
        self.assertEqual([each["total"] for each in self.successResultOf(asked)], [*range(1, 101)])
        pair.client.transport.loseConnection()
        pair.run(1.0)

    def test_amp_calls_that_wait_fail_with_the_reason_of_the_channel(self) -> None:
        pair = connect_channels(
            Factory.forProtocol(amp.AMP), Factory.forProtocol(Adder), clock=self.clock
        )
        waiting = pair.client.callRemote(Sum, a=-1, b=-1)
        pair.run(1.0)
        self.assertNoResult(waiting)
        pair.wire.cut()
        pair.run(1.0)
        self.failureResultOf(waiting).trap(TruncatedStream)


class LoopbackTests(TestCase):
    reactor: Any = installed

    async def serve(self, factory: Any) -> Any:
        server = TCP4ServerEndpoint(self.reactor, 0, interface="127.0.0.1")
        port = await wrap_server(
            self.reactor, server, identity=BOB, capability=ECHO, rng=Random(1)
        ).listen(factory)
        self.addCleanup(port.stopListening)
        return wrap_client(
            self.reactor,
            TCP4ClientEndpoint(self.reactor, "127.0.0.1", port.getHost().port),
            identity=ALICE,
            capability=ECHO,
            peer=BOB.public,
            rng=Random(2),
        )

    async def client(self, page: Resource) -> tuple[HTTPClient, HTTPConnectionPool]:
        endpoint = await self.serve(Site(page))
        pool = HTTPConnectionPool(self.reactor)
        self.addCleanup(pool.closeCachedConnections)
        return HTTPClient(
            Agent.usingEndpointFactory(self.reactor, ToOne(endpoint), pool=pool)
        ), pool

    async def test_treq_keeps_its_connection(self) -> None:
        page = Echoes(self.reactor)
        client, _ = await self.client(page)
        for n in range(10):
            response = await client.get(f"http://bob/{n}")
            self.assertEqual(await response.content(), b"/%d" % n)
        self.assertEqual(len(set(page.channels)), 1)

    async def test_treq_and_bodies_both_ways_by_producers(self) -> None:
        client, _ = await self.client(Echoes(self.reactor))
        response = await client.post("http://bob/", data=BytesIO(LARGE), unbuffered=True)
        slow = Slow(self.reactor)
        response.original.deliverBody(slow)
        self.assertEqual(await slow.done, LARGE)
        self.assertGreater(slow.pauses, 2)

    async def test_amp(self) -> None:
        endpoint = await self.serve(Factory.forProtocol(Adder))
        gone: Deferred[Any] = Deferred()

        class Asker(amp.AMP):
            def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
                super().connectionLost(reason)
                gone.callback(reason.type)

        client: Any = await endpoint.connect(Factory.forProtocol(Asker))
        asked: Any = await gatherResults([client.callRemote(Sum, a=n, b=1) for n in range(100)])
        self.assertEqual([each["total"] for each in asked], [*range(1, 101)])
        client.transport.loseConnection()
        self.assertIs(await gone, ConnectionDone)
