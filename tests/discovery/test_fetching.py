"""Tests of L{meshkit.discovery.fetching}: real HTTP and TLS, on a network in memory."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from meshkit.discovery.fetching import MAX_ANSWER, DomainReader
from meshkit.discovery.wellknown import MAX_DOCUMENT, Document, parse_domain, write
from meshkit.errors import DiscoveryError, WellKnownInvalid
from meshkit.identity.addresses import MeshAddress
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import MemoryHost, run_clock
from meshkit.testing.transports import MemoryNetwork
from tests.servers import Names, options_for, policy_of

PUBLIC, INNER, OWN = "93.184.216.34", "10.0.0.9", "5.9.0.1"
KEY = make_identity("own").public
GOOD = Document(KEY, "00" * 16, (MeshAddress("mesh.example", 7655, KEY),))


def answer(body: bytes, status: int = 200, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


class Server(Protocol):
    """Collects one request and answers it as it was told."""

    def __init__(self, say: Callable[[Server], None]) -> None:
        self._say = say
        self.received = b""
        self.gone: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if self.received.endswith(b"\r\n\r\n"):
            self._say(self)

    def send(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone = reason


class FetchingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock, latency=0.01)
        self.host = MemoryHost(self.clock, self.network, OWN)
        self.names = Names(mesh_example=[[PUBLIC]])
        self.host.installNameResolver(self.names)
        self.servers: list[Server] = []

    def tearDown(self) -> None:
        run_clock(self.clock, 60)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        for server in self.servers:
            self.assertIsNotNone(server.gone, "a connection is left open")

    def serve(
        self,
        says: bytes | Callable[[Server], None],
        host: str = PUBLIC,
        name: str = "mesh.example",
        port: int = 443,
        issuer: str = "ours",
    ) -> None:
        def say(server: Server) -> None:
            if isinstance(says, bytes):
                server.send(says)
            else:
                says(server)

        def make() -> Server:
            self.servers.append(Server(say))
            return self.servers[-1]

        factory = TLSMemoryBIOFactory(
            options_for(name, issuer), False, Factory.forProtocol(make), clock=self.clock
        )
        self.successResultOf(self.network.server_endpoint(port, host).listen(factory))

    def ask(self, domain: str = "mesh.example", **settings: Any) -> Any:
        settings = {"timeout": 10.0, "policy": policy_of(), **settings}
        asking = DomainReader(self.host, **settings).ask(parse_domain(domain))
        run_clock(self.clock, 30)
        return asking

    def refused(self, kind: type[Exception] = DiscoveryError, **options: Any) -> str:
        return str(self.failureResultOf(self.ask(**options), kind).value)

    def test_a_domain_tells_its_node(self) -> None:
        self.serve(answer(write(GOOD)))
        self.assertEqual(self.successResultOf(self.ask()), GOOD)
        (server,) = self.servers
        first, *headers = server.received.decode("ascii").split("\r\n")
        self.assertEqual(first, "GET /.well-known/meshkit.json HTTP/1.1")
        self.assertIn("Host: mesh.example", headers)

    def test_a_web_server_may_be_at_another_port(self) -> None:
        self.serve(answer(write(GOOD)), port=8443)
        self.assertEqual(self.successResultOf(self.ask("mesh.example:8443")), GOOD)

    def test_a_body_that_ends_with_the_connection_is_read(self) -> None:
        def say(server: Server) -> None:
            server.send(b"HTTP/1.1 200 X\r\n\r\n" + write(GOOD))
            assert server.transport is not None
            server.transport.loseConnection()

        self.serve(say)
        self.assertEqual(self.successResultOf(self.ask()), GOOD)

    def test_a_redirect_is_not_followed(self) -> None:
        for status, where in ((301, "https://mesh.example/other"), (307, f"http://{INNER}/")):
            self.setUp()
            self.serve(answer(b"", status, f"Location: {where}"))
            self.assertIn("redirect", self.refused())
            self.assertEqual((len(self.servers), self.names.asked), (1, ["mesh.example"]))

    def test_only_a_good_answer_counts(self) -> None:
        for status in (204, 404, 500):
            self.setUp()
            self.serve(answer(write(GOOD), status))
            self.assertIn(str(status), self.refused())

    def test_what_is_no_document_is_refused_by_its_url(self) -> None:
        self.serve(answer(b"<html>"))
        message = self.refused(WellKnownInvalid)
        self.assertIn("https://mesh.example/.well-known/meshkit.json", message)

    def test_a_large_document_is_not_read_to_its_end(self) -> None:
        self.serve(answer(write(GOOD) + b" " * MAX_DOCUMENT))
        self.assertIn("larger", self.refused(WellKnownInvalid))

    def test_an_answer_without_end_is_cut_off(self) -> None:
        self.serve(lambda server: server.send(b"HTTP/1.1 200 X\r\nX: " + b"x" * MAX_ANSWER))
        self.refused()
        self.setUp()

        def drip(server: Server) -> None:
            if server.gone is None:
                server.send(b" " * 100)
                self.clock.callLater(0.5, drip, server)

        def begin(server: Server) -> None:
            server.send(b"HTTP/1.1 200 X\r\n\r\n")
            drip(server)

        self.serve(begin)
        began = self.clock.seconds()
        self.assertIn("within 10 s", self.refused())
        self.assertLess(self.clock.seconds() - began, 31)

    def test_a_silent_server_is_given_up(self) -> None:
        self.serve(lambda server: None)
        self.assertIn("within 10 s", self.refused())

    def test_a_truncated_document_is_none(self) -> None:
        def say(server: Server) -> None:
            server.send(answer(write(GOOD))[:-5])
            assert server.transport is not None
            server.transport.loseConnection()

        self.serve(say)
        self.refused()

    def test_nobody_else_can_speak_for_a_domain(self) -> None:
        self.serve(answer(write(GOOD)), name="other.example")
        self.refused()
        self.setUp()
        self.serve(answer(write(GOOD)), issuer="theirs")
        self.assertIn("verify failed", self.refused())
        self.assertEqual([each.received for each in self.servers], [b""])

    def test_inner_addresses_are_not_dialled_unless_they_are_allowed(self) -> None:
        self.names.answers["mesh.example"] = [[INNER]]
        self.serve(answer(write(GOOD)), host=INNER)
        self.assertIn("no public address", self.refused())
        self.assertEqual(self.servers, [])
        asking = self.ask(allowed=[ip_network("10.0.0.0/8")])
        self.assertEqual(self.successResultOf(asking), GOOD)

    def test_an_unknown_domain_is_told(self) -> None:
        self.names.answers.clear()
        self.assertIn("unknown", self.refused())

    def test_where_nobody_listens_there_is_no_answer(self) -> None:
        self.assertIn("no answer", self.refused())

    def test_names_are_looked_up(self) -> None:
        reader = DomainReader(self.host, timeout=10.0, policy=policy_of())
        self.names.answers["two.example"] = [[PUBLIC, "2606:4700::1111"]]
        self.assertEqual(
            self.successResultOf(reader.look_up(["two.example", "unknown.example"])),
            {"two.example": (PUBLIC, "2606:4700::1111"), "unknown.example": ()},
        )
        self.assertEqual(self.successResultOf(reader.look_up([])), {})

    def test_a_name_that_is_not_known_in_time_is_none(self) -> None:
        class Slow:
            def resolveHostName(self, receiver: Any, name: str) -> None:
                receiver.resolutionBegan(self)
                receiver.addressResolved(IPv4Address("TCP", PUBLIC, 0))
                clock.callLater(11, receiver.addressResolved, IPv4Address("TCP", INNER, 0))
                clock.callLater(11, receiver.resolutionComplete)

        clock = self.clock
        self.host.installNameResolver(Slow())
        looking = DomainReader(self.host, timeout=10.0).look_up(["slow.example"])
        self.clock.advance(9)
        self.assertNoResult(looking)
        self.clock.advance(1)
        self.assertEqual(self.successResultOf(looking), {"slow.example": ()})

    def test_who_does_not_wait_leaves_nothing_open(self) -> None:
        self.serve(lambda server: None)
        reader = DomainReader(self.host, timeout=10.0, policy=policy_of())
        asking = reader.ask(parse_domain("mesh.example"))
        run_clock(self.clock, 1)
        asking.cancel()
        # As the HTTP client tells it.
        self.failureResultOf(asking, DiscoveryError)
        run_clock(self.clock, 1)
        self.assertEqual([server.gone is None for server in self.servers], [False])
