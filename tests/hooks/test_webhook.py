"""Tests of L{meshkit.hooks.webhook}: real HTTP and TLS, on a network in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import BrowserLikePolicyForHTTPS

from meshkit.hooks.config import WebHook
from meshkit.hooks.retries import Failed
from meshkit.hooks.signing import WebhookSecret, verify
from meshkit.hooks.webhook import MAX_ANSWER, Webhook
from meshkit.interfaces import Arrival
from meshkit.runtime.outbound import CLOSE_SECONDS
from meshkit.testing.nodes import MemoryHost, run_clock
from meshkit.testing.transports import MemoryNetwork
from tests.hooks.support import make_arrival
from tests.servers import Names, options_for, policy_of

PUBLIC = "93.184.216.34"
OTHER = "8.8.8.8"
OWN = "5.9.0.1"
NOW = 1_800_000_000
SECRET = WebhookSecret(bytes(range(32)))
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Server(Protocol):
    """Collects one request and answers it as it was told."""

    def __init__(self, factory: ServerFactory) -> None:
        self.factory = factory
        self.received = b""
        self.gone: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        before = self.request
        self.received += data
        if before is None and self.request is not None:
            self.factory.answer(self)

    @property
    def request(self) -> tuple[str, dict[str, str], bytes] | None:
        head, blank, body = self.received.partition(b"\r\n\r\n")
        if not blank:
            return None
        first, *lines = head.decode("ascii").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        # Base64 has upper case.
        headers |= {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        if len(body) < int(headers["content-length"]):
            return None
        return first, headers, body

    def send(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.gone = reason


class ServerFactory(Factory):
    def __init__(self, answer: bytes | Callable[[Server], None]) -> None:
        self.connections: list[Server] = []
        self.answer: Callable[[Server], None]
        if isinstance(answer, bytes):
            self.answer = lambda server: server.send(answer)
        else:
            self.answer = answer

    def buildProtocol(self, addr: Any) -> Server:
        server = Server(self)
        self.connections.append(server)
        return server


class WebhookCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock, latency=0.01)
        self.host = MemoryHost(self.clock, self.network, OWN)
        self.names = Names(hooks_example=[[PUBLIC]])
        self.host.installNameResolver(self.names)

    def tearDown(self) -> None:
        run_clock(self.clock, 60)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def serve(
        self, answer: bytes | Callable[[Server], None], host: str = PUBLIC, port: int = 80
    ) -> ServerFactory:
        factory = ServerFactory(answer)
        self.listen(factory, host, port)
        return factory

    def listen(self, factory: Factory, host: str = PUBLIC, port: int = 80) -> None:
        self.successResultOf(self.network.server_endpoint(port, host).listen(factory))

    def webhook(self, *, policy: Any = None, secrets: Any = (SECRET,), **fields: Any) -> Webhook:
        hook = WebHook(
            **{
                "name": "a",
                "url": "http://hooks.example/in?key=T0KEN",
                "plain_http": True,
                "timeout": 10.0,
                **fields,
            }
        )
        return Webhook(self.host, hook, secrets, lambda: NOW * 10**9 + 999, policy=policy)

    def deliver(self, arrival: Arrival | None = None, **fields: Any) -> Failed | None:
        waiting = self.webhook(**fields).deliver(arrival or make_arrival(), 1)
        run_clock(self.clock, 30)
        return self.successResultOf(waiting)

    def failure(self, **fields: Any) -> str:
        failed = self.deliver(**fields)
        assert failed is not None
        self.assertNotIn("T0KEN", failed.error)
        return failed.error


class Requests(WebhookCase):
    def test_a_delivery_puts_nothing_into_the_log(self) -> None:
        self.serve(OK)
        with capturedLogs() as events:
            self.assertIsNone(self.deliver())
        told = [str(formatEvent(event)) for event in events]
        self.assertEqual([text for text in told if "HTTP11" in text], [])

    def test_the_message_is_posted_as_it_is_and_signed(self) -> None:
        server = self.serve(OK)
        arrival = make_arrival(raw=b'{ "author": "x",\n"content": 1.50 }')
        self.assertIsNone(self.deliver(arrival, secrets=(SECRET, WebhookSecret(b"o" * 24))))
        (connection,) = server.connections
        assert connection.request is not None
        first, headers, body = connection.request
        self.assertEqual(first, "POST /in?key=T0KEN HTTP/1.1")
        self.assertEqual(body, arrival.text)
        self.assertEqual(headers["content-type"], "application/json")
        self.assertEqual(headers["host"], "hooks.example")
        self.assertTrue(headers["user-agent"].startswith("meshkit/"))
        for secret in (SECRET, WebhookSecret(b"o" * 24)):
            self.assertEqual(verify((secret,), headers, body, NOW, 0), f"msg_{(b'h' * 32).hex()}")
        self.assertIsNotNone(connection.gone)

    def test_each_attempt_has_the_same_id_and_a_connection_of_its_own(self) -> None:
        server = self.serve(OK)
        webhook = self.webhook()
        for attempt in (1, 2):
            waiting = webhook.deliver(make_arrival(), attempt)
            run_clock(self.clock, 1)
            self.assertIsNone(self.successResultOf(waiting))
        requests = [each.request for each in server.connections]
        self.assertEqual(len(requests), 2)
        self.assertEqual(
            len({request[1]["webhook-id"] for request in requests if request is not None}), 1
        )

    def test_a_webhook_without_a_secret_is_none(self) -> None:
        with self.assertRaises(ValueError):
            self.webhook(secrets=())


class Answers(WebhookCase):
    def test_the_status_decides(self) -> None:
        for status, error in ((204, None), (500, "it answered 500"), (404, "it answered 404")):
            server = self.serve(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status, port=status)
            failed = self.deliver(url=f"http://hooks.example:{status}/")
            self.assertEqual(failed and failed.error, error)
            self.assertEqual(len(server.connections), 1)

    def test_a_server_may_ask_to_be_left_alone(self) -> None:
        self.serve(b"HTTP/1.1 503 X\r\nRetry-After: 77\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual(self.deliver(), Failed("it answered 503", retry_after=77.0))

    def test_a_redirect_is_not_followed(self) -> None:
        elsewhere = self.serve(OK, OTHER)
        for status in (301, 302, 303, 307, 308):
            self.serve(
                b"HTTP/1.1 %d X\r\nLocation: http://%b/\r\nContent-Length: 0\r\n\r\n"
                % (status, OTHER.encode()),
                port=status,
            )
            self.assertIn("redirect", self.failure(url=f"http://hooks.example:{status}/"))
        self.assertEqual(elsewhere.connections, [])

    def test_a_body_of_ten_megabytes_is_not_read(self) -> None:
        head = b"HTTP/1.1 %d X\r\nContent-Length: 10485760\r\n\r\n"
        for status in (200, 500):
            server = self.serve(
                lambda server, status=status: server.send(head % status + bytes(10 * 2**20)),
                port=status,
            )
            waiting = self.webhook(url=f"http://hooks.example:{status}/").deliver(make_arrival(), 1)
            run_clock(self.clock, 1)
            failed = self.successResultOf(waiting)
            self.assertEqual(failed and failed.error, None if status == 200 else "it answered 500")
            self.assertIsNotNone(server.connections[0].gone)

    def test_headers_without_end_are_not_read(self) -> None:
        server = self.serve(
            lambda server: server.send(b"HTTP/1.1 200 OK\r\n" + b"X-Y: z\r\n" * MAX_ANSWER)
        )
        self.assertIn("no answer", self.failure())
        self.assertIsNotNone(server.connections[0].gone)

    def test_the_largest_answer_is_read(self) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
        room = MAX_ANSWER - len(head % MAX_ANSWER)
        self.serve(head % room + bytes(room))
        self.assertIsNone(self.deliver())

    def test_a_slow_server_is_given_up(self) -> None:
        server = self.serve(lambda server: None)
        waiting = self.webhook(timeout=10.0).deliver(make_arrival(), 1)
        run_clock(self.clock, 9.9)
        self.assertNoResult(waiting)
        run_clock(self.clock, 0.2)
        failed = self.successResultOf(waiting)
        assert failed is not None
        self.assertEqual(failed.error, "it did not answer within 10 s")
        run_clock(self.clock, 1)
        self.assertIsNotNone(server.connections[0].gone)

    def test_one_that_answers_byte_by_byte_is_given_up(self) -> None:
        def drip(server: Server) -> None:
            if server.gone is None:
                server.send(b"H")
                self.clock.callLater(1, drip, server)

        server = self.serve(drip)
        self.assertEqual(self.failure(), "it did not answer within 10 s")
        self.assertIsNotNone(server.connections[0].gone)

    def test_one_that_does_not_close_is_cut_off(self) -> None:
        server = self.serve(lambda server: server.send(OK[:-2] + b"ok and more"))
        self.host.connectTCP = _never_closing(self.host.connectTCP)  # type: ignore[method-assign]
        waiting = self.webhook().deliver(make_arrival(), 1)
        run_clock(self.clock, 1)
        self.assertIsNone(self.successResultOf(waiting))
        self.assertIsNone(server.connections[0].gone)
        run_clock(self.clock, CLOSE_SECONDS)
        self.assertIsNotNone(server.connections[0].gone)

    def test_who_has_said_yes_cannot_take_it_back_by_a_slow_body(self) -> None:
        server = self.serve(
            lambda server: server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nslow")
        )
        waiting = self.webhook(timeout=10.0).deliver(make_arrival(), 1)
        run_clock(self.clock, 11)
        self.assertIsNone(self.successResultOf(waiting))
        self.assertIsNotNone(server.connections[0].gone)

    def test_what_is_no_http_is_no_answer(self) -> None:
        for answer in (b"SSH-2.0-x\r\n\r\n", b"\0" * 100, b"HTTP/1.1 abc\r\n\r\n"):
            port = 100 + len(answer)
            self.serve(lambda server, answer=answer: _say(server, answer), port=port)
            self.assertIn("no answer", self.failure(url=f"http://hooks.example:{port}/"))

    def test_a_server_that_hangs_up_is_no_answer(self) -> None:
        self.serve(lambda server: server.transport.abortConnection())  # type: ignore[union-attr]
        self.assertIn("no answer", self.failure())

    def test_nobody_there_is_no_answer(self) -> None:
        self.assertIn("no answer", self.failure())
        self.assertIn("host is unknown", self.failure(url="http://nowhere.example/T0KEN"))

    def test_when_the_node_stops_the_request_is_given_up(self) -> None:
        server = self.serve(lambda server: None)
        webhook = self.webhook()
        waiting = webhook.deliver(make_arrival(), 1)
        run_clock(self.clock, 1)
        webhook.stop()
        failed = self.successResultOf(waiting)
        assert failed is not None
        self.assertIn("stopped", failed.error)
        run_clock(self.clock, 1)
        self.assertIsNotNone(server.connections[0].gone)
        failed = self.successResultOf(webhook.deliver(make_arrival(), 1))
        self.assertIsNotNone(failed)
        self.assertEqual(len(server.connections), 1)


def _never_closing(connect: Callable[..., Any]) -> Callable[..., Any]:
    """Connections that wait for the other side, as TLS does, when they are to be closed."""

    class Patient(ProtocolWrapper):
        def loseConnection(self) -> None:
            """Not yet."""

    def connect_patiently(host: str, port: int, factory: Any, *args: Any, **kw: Any) -> Any:
        wrapping = WrappingFactory(factory)
        wrapping.protocol = Patient
        for name in ("doStart", "startedConnecting", "clientConnectionFailed"):
            setattr(wrapping, name, getattr(factory, name))
        return connect(host, port, wrapping, *args, **kw)

    return connect_patiently


def _say(server: Server, data: bytes) -> None:
    server.send(data)
    assert server.transport is not None
    server.transport.loseConnection()


class Addresses(WebhookCase):
    """What is judged is what is dialled."""

    def inner(self, host: str) -> ServerFactory:
        factory = ServerFactory(OK)
        if host.startswith("127."):
            self.host.listenTCP(80, factory, interface=host)
        else:
            self.listen(factory, host)
        return factory

    def test_no_name_leads_to_an_address_that_is_not_public(self) -> None:
        for number, host in enumerate(
            ("127.0.0.1", "10.0.0.9", "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1")
        ):
            name = f"n{number}.example"
            self.names.answers[name] = [[host]]
            server = self.inner(host)
            error = self.failure(url=f"http://{name}/T0KEN")
            self.assertEqual(
                error, f"{host} is no public address and is not named in allow_addresses"
            )
            self.assertEqual(server.connections, [])

    def test_an_address_in_the_url_is_judged_likewise(self) -> None:
        for host in ("127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "[fe80::1]"):
            self.names.answers[host.strip("[]")] = [[host.strip("[]")]]
            self.assertIn("no public address", self.failure(url=f"http://{host}/T0KEN"))

    def test_another_spelling_of_an_address_changes_nothing(self) -> None:
        # As getaddrinfo reads them.
        for host in ("2130706433", "0x7f.1", "0177.0.0.1", "localhost"):
            self.names.answers[host] = [["127.0.0.1"]]
            self.assertIn("no public address", self.failure(url=f"http://{host}/T0KEN"))

    def test_a_name_that_changes_between_two_looks_gains_nothing(self) -> None:
        """Rebinding: public when it is looked at, inner when it is dialled."""
        inner = self.inner("10.0.0.9")
        outer = self.serve(OK)
        self.names.answers["hooks.example"] = [[PUBLIC], ["10.0.0.9"], [PUBLIC], ["10.0.0.9"]]
        outcomes = [self.deliver() for _ in range(4)]
        self.assertEqual([each is None for each in outcomes], [True, False, True, False])
        self.assertEqual((len(inner.connections), len(outer.connections)), (0, 2))
        # One look for each delivery: there is no second one that could be answered otherwise.
        self.assertEqual(len(self.names.asked), 4)

    def test_of_several_addresses_only_the_public_ones_are_dialled(self) -> None:
        inner = self.inner("10.0.0.9")
        outer = self.serve(OK)
        self.names.answers["hooks.example"] = [["10.0.0.9", PUBLIC]]
        self.assertIsNone(self.deliver())
        self.assertEqual((len(inner.connections), len(outer.connections)), (0, 1))

    def test_the_operator_may_name_an_address(self) -> None:
        for host, allowed in (("127.0.0.1", "127.0.0.1"), ("10.0.0.9", "10.0.0.0/24")):
            server = self.inner(host)
            self.names.answers["in.example"] = [[host]]
            self.assertIsNone(self.deliver(url="http://in.example/", allow_addresses=(allowed,)))
            self.assertEqual(len(server.connections), 1)
        self.names.answers["in.example"] = [["10.0.1.9"]]
        error = self.failure(url="http://in.example/", allow_addresses=("10.0.0.0/24",))
        self.assertIn("no public address", error)


class Https(WebhookCase):
    def secure(self, name: str, issuer: str = "ours") -> ServerFactory:
        factory = ServerFactory(OK)
        self.listen(
            TLSMemoryBIOFactory(options_for(name, issuer), False, factory, clock=self.clock),
            port=443,
        )
        return factory

    def policy(self, issuer: str = "ours") -> BrowserLikePolicyForHTTPS:
        return policy_of(issuer)

    def test_a_server_with_a_good_certificate_is_told(self) -> None:
        server = self.secure("hooks.example")
        self.assertIsNone(self.deliver(url="https://hooks.example/", policy=self.policy()))
        (connection,) = server.connections
        assert connection.request is not None
        self.assertEqual(connection.request[2], make_arrival().text)

    def test_a_certificate_for_an_address_is_good_for_that(self) -> None:
        self.names.answers[PUBLIC] = [[PUBLIC]]
        self.secure(PUBLIC)
        self.assertIsNone(self.deliver(url=f"https://{PUBLIC}/", policy=self.policy()))

    def test_one_for_another_name_is_refused_before_anything_is_said(self) -> None:
        server = self.secure("other.example")
        error = self.failure(url="https://hooks.example/T0KEN", policy=self.policy())
        self.assertIn("no answer", error)
        self.assertEqual([each.received for each in server.connections], [b""])

    def test_one_of_an_unknown_authority_is_refused(self) -> None:
        server = self.secure("hooks.example", "theirs")
        self.assertIn(
            "verify failed", self.failure(url="https://hooks.example/T0KEN", policy=self.policy())
        )
        # The system's authorities do not know it either.
        self.assertIn("verify failed", self.failure(url="https://hooks.example/T0KEN"))
        self.assertEqual([each.received for each in server.connections], [b"", b""])

    def test_an_inner_address_is_refused_under_tls_as_well(self) -> None:
        self.names.answers["hooks.example"] = [["10.0.0.9"]]
        error = self.failure(url="https://hooks.example/", policy=self.policy())
        self.assertIn("no public address", error)
