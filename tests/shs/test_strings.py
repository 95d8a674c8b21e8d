"""
Tests of L{meshkit.shs.strings}: C{shs:} endpoint strings, and programs that know nothing
of meshkit over them.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from twisted.application.internet import ClientService
from twisted.internet import endpoints
from twisted.internet import reactor as installed
from twisted.internet.address import IPv6Address
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import clientFromString, quoteStringArgument, serverFromString
from twisted.internet.interfaces import (
    IHostnameResolver,
    IStreamClientEndpointStringParserWithReactor,
    IStreamServerEndpointStringParser,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.plugin import IPlugin
from twisted.protocols import amp
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.client import Agent, HTTPConnectionPool, readBody
from twisted.web.iweb import IAgentEndpointFactory
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import implementer
from zope.interface.verify import verifyObject

from meshkit.dropins import EndpointStrings
from meshkit.errors import HandshakeError, NetworkKeyRefused, PeerKeyRefused
from meshkit.identity.addresses import PeerAddress
from meshkit.identity.keyfile import encode_identity, seal_identity
from meshkit.identity.keys import Identity
from meshkit.identity.network import NetworkSecret, encode_networks
from meshkit.identity.passphrase import Cost
from meshkit.shs import strings
from meshkit.testing.nodes import MemoryHost, run_clock
from meshkit.testing.transports import MemoryNetwork
from tests.runtime.support import scratch
from tests.shs.common import ALICE, BOB, CAROL, OneFactory, Recorder

ROOT = Path(__file__).resolve().parents[2]
NETWORK = NetworkSecret(bytes(range(32)))
OLD = NetworkSecret(bytes(range(1, 33)))
CHEAP = Cost(passes=1, memory_kib=8)

reactor: Any = installed


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    path.chmod(0o600)
    return str(path)


class StringsTestCase(SynchronousTestCase):
    """Data folders of Alice and Bob, and hosts in memory."""

    def setUp(self) -> None:
        self.folder = Path(scratch(self))
        self.alice = self.data_folder("alice", ALICE)
        self.bob = self.data_folder("bob", BOB)
        self.clock = Clock()
        network = MemoryNetwork(self.clock, latency=0.01)
        self.here = MemoryHost(self.clock, network, "10.0.0.1")
        self.there = MemoryHost(self.clock, network, "10.0.0.2")

    def data_folder(self, name: str, identity: Identity, *secrets: NetworkSecret) -> Path:
        folder = self.folder / name
        folder.mkdir(mode=0o700)
        write(folder / "secret.key", encode_identity(identity))
        write(folder / "network.secret", encode_networks(secrets or (NETWORK,)))
        return folder

    def listen(self, reactor: Any, factory: Any, **changes: Any) -> Any:
        return serverFromString(reactor, self.server(**changes)).listen(factory)

    def server(self, **changes: Any) -> str:
        return text({"endpoint": "tcp:7655", "identity": self.bob, "network": self.bob} | changes)

    def client(self, **changes: Any) -> str:
        given = {
            "endpoint": "tcp:10.0.0.2:7655",
            "identity": self.alice,
            "network": self.alice,
            "peer": BOB.public.text,
        }
        return text(given | changes)

    def refuse(self, call: Any, string: str, *words: str) -> None:
        message = str(self.assertRaises(ValueError, call, self.here, string))
        self.assertTrue(message.startswith("shs endpoint: "), message)
        for word in words:
            self.assertIn(word, message)


def text(keywords: dict[str, Any]) -> str:
    """The string; a keyword whose value is L{None} is left out."""
    given = [
        f"{name}={quoteStringArgument(str(value))}"
        for name, value in keywords.items()
        if value is not None
    ]
    return ":".join(["shs", *given])


@implementer(IHostnameResolver)
class SixResolver:
    """Takes every name for an IPv6 address."""

    def resolveHostName(self, receiver: Any, hostName: str, portNumber: int, **_: Any) -> Any:
        receiver.resolutionBegan(self)
        receiver.addressResolved(IPv6Address("TCP", hostName, portNumber))
        receiver.resolutionComplete()
        return self


class ParsingTests(StringsTestCase):
    """What the strings may hold."""

    def dial(self, server: str, client: str) -> Any:
        """@return: the client's protocol, or the failure."""
        listening = serverFromString(self.there, server).listen(OneFactory(Recorder))
        run_clock(self.clock)
        port = self.successResultOf(listening)
        results: list[Any] = []
        clientFromString(self.here, client).connect(OneFactory(Recorder)).addBoth(results.append)
        run_clock(self.clock, 20)
        (result,) = results
        if not isinstance(result, Failure):
            self.addCleanup(run_clock, self.clock)
            self.addCleanup(result.transport.abortConnection)
        port.stopListening()
        return result

    def connected(self, server: str, client: str) -> Recorder:
        result = self.dial(server, client)
        self.assertIsInstance(result, Recorder)
        found: Recorder = result
        return found

    def failed(self, server: str, client: str, error: type[HandshakeError]) -> None:
        result = self.dial(server, client)
        self.assertIsInstance(result, Failure)
        self.assertIsNotNone(result.check(error), result)

    def test_a_connection_between_two_strings(self) -> None:
        client = self.connected(self.server(), self.client())
        assert client.transport is not None
        peer: Any = client.transport.getPeer()
        host: Any = client.transport.getHost()
        self.assertEqual((peer.key, host.label), (BOB.public, "stream"))

    def test_files_as_well_as_folders(self) -> None:
        identity, network = self.bob / "secret.key", self.bob / "network.secret"
        self.connected(self.server(identity=identity, network=network), self.client())

    def test_the_label_has_to_be_the_same(self) -> None:
        self.connected(self.server(label="chat.example"), self.client(label="chat.example"))
        self.failed(self.server(label="chat.example"), self.client(), NetworkKeyRefused)
        self.connected(self.server(label="stream"), self.client())

    def test_an_application_key(self) -> None:
        key = base64.b64encode(Random(1).randbytes(32)).decode()
        client = self.connected(
            self.server(network=None, appkey=key), self.client(network=None, appkey=key)
        )
        assert client.transport is not None
        host: Any = client.transport.getHost()
        self.assertEqual(host.label, "appkey")
        self.failed(self.server(network=None, appkey=key), self.client(), NetworkKeyRefused)

    def test_the_peer_in_both_forms(self) -> None:
        self.connected(self.server(), self.client(peer=BOB.public.base64))
        self.failed(self.server(), self.client(peer=CAROL.public.text), PeerKeyRefused)

    def test_host_and_port_instead_of_an_endpoint(self) -> None:
        self.connected(self.server(), self.client(endpoint=None, host="10.0.0.2", port="7655"))

    def test_a_server_answers_to_the_previous_secret_and_a_client_does_not_use_it(self) -> None:
        both = self.data_folder("both", BOB, NETWORK, OLD)
        old = self.data_folder("old", ALICE, OLD)
        self.connected(self.server(network=both), self.client(network=old))
        self.connected(self.server(network=both), self.client())
        self.failed(self.server(network=old), self.client(network=both), NetworkKeyRefused)

    def test_an_ipv6_address_beneath(self) -> None:
        reactor = MemoryReactorClock()
        host = quoteStringArgument("fe80::1%eth0")
        self.listen(reactor, OneFactory(Recorder), endpoint=f"tcp6:7655:interface={host}")
        ((port, _, _, interface),) = reactor.tcpServers
        self.assertEqual((port, interface), (7655, "fe80::1%eth0"))
        for beneath in (
            {"endpoint": f"tcp:host={quoteStringArgument('::1')}:port=7655"},
            {"endpoint": None, "host": "::1", "port": "7655"},
        ):
            reactor = MemoryReactorClock()
            reactor.installNameResolver(SixResolver())
            clientFromString(reactor, self.client(**beneath)).connect(OneFactory(Recorder))
            reactor.advance(0)
            self.assertEqual([call[:2] for call in reactor.tcpClients], [("::1", 7655)])

    def test_nested_twice(self) -> None:
        """The endpoint beneath may be one of ours."""
        inner = self.server(label="outer")
        nested = self.client(endpoint=self.client(label="outer"))
        self.connected(self.server(endpoint=inner), nested)

    def test_the_timeout(self) -> None:
        silent = Factory.forProtocol(Recorder)
        serverFromString(self.there, "tcp:9").listen(silent)
        dialled = clientFromString(
            self.here, self.client(endpoint="tcp:10.0.0.2:9", timeout="2.5")
        ).connect(OneFactory(Recorder))
        run_clock(self.clock, 2.4)
        self.assertNoResult(dialled)
        run_clock(self.clock, 0.2)
        self.failureResultOf(dialled, HandshakeError)

    def test_servers_refuse_by_keyword(self) -> None:
        for changes, words in self.mistakes():
            self.refuse(serverFromString, self.server(**changes), *words)
        self.refuse(serverFromString, self.server(endpoint=None), "endpoint is missing")
        for client_only in ("peer", "host", "port"):
            self.refuse(serverFromString, self.server(**{client_only: "x"}), repr(client_only))

    def test_clients_refuse_by_keyword(self) -> None:
        for changes, words in self.mistakes():
            self.refuse(clientFromString, self.client(**changes), *words)
        for changes, words in (
            ({"endpoint": None}, ("endpoint is missing", "host and port")),
            ({"endpoint": None, "host": "a.example"}, ("host and port",)),
            ({"endpoint": None, "port": "1"}, ("host and port",)),
            ({"host": "a.example"}, ("endpoint", "give one")),
            ({"port": "1"}, ("endpoint", "give one")),
            ({"endpoint": None, "host": "", "port": "1"}, ("host is empty",)),
            ({"endpoint": None, "host": "a", "port": "0"}, ("port '0'",)),
            ({"endpoint": None, "host": "a", "port": "65536"}, ("port '65536'",)),
            ({"endpoint": None, "host": "a", "port": "http"}, ("port 'http'",)),
            ({"endpoint": None, "host": "a", "port": "\u0661"}, ("port",)),
            ({"peer": None}, ("peer is missing",)),
            ({"peer": "@nobody.ed25519"}, ("peer cannot",)),
            ({"peer": ""}, ("peer cannot",)),
        ):
            self.refuse(clientFromString, self.client(**changes), *words)

    def mistakes(self) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
        """Those that both kinds of string share."""
        ssb = base64.b64encode(bytes(range(32))).decode()
        reserved = base64.b64encode(b"meshkit".ljust(32, b"!")).decode()
        sealed = write(self.folder / "sealed", seal_identity(BOB, "x", bytes(16), CHEAP))
        open_file = write(self.folder / "open", encode_identity(BOB))
        os.chmod(open_file, 0o644)
        yield {"identity": None}, ("identity is missing",)
        yield {"identity": self.folder / "nowhere"}, ("identity", "nowhere")
        yield {"identity": self.folder}, ("identity", "secret.key")
        yield {"identity": self.bob / "network.secret"}, ("identity", "not a meshkit key file")
        yield {"identity": open_file}, ("identity", "chmod 600")
        yield {"identity": sealed}, ("identity", "passphrase")
        yield {"network": None}, ("network is missing",)
        yield {"network": self.folder / "nowhere"}, ("network", "nowhere")
        yield {"network": self.bob / "secret.key"}, ("network",)
        yield {"network": "everybody"}, ("network", "everybody")
        yield {"label": ""}, ("label",)
        yield {"label": "Stream"}, ("label",)
        yield {"label": "x" * 33}, ("label",)
        yield {"appkey": ssb}, ("appkey", "leave out")
        yield {"appkey": ssb, "network": None, "label": "stream"}, ("appkey", "leave out")
        yield {"appkey": ssb[:-4], "network": None}, ("appkey", "32 bytes")
        yield {"appkey": f"{ssb[:-1]}!", "network": None}, ("appkey", "32 bytes")
        yield {"appkey": reserved, "network": None}, ("appkey", "'meshkit'")
        for seconds in ("0", "-1", "nan", "inf", "3601", "soon", ""):
            yield {"timeout": seconds}, ("timeout", repr(seconds))
        yield {"timeOut": "3"}, ("'timeOut'",)
        yield {"endpoint": "tcq:1"}, ("endpoint", "tcq:1")
        yield {"endpoint": "onion:80"}, ("endpoint", "'onion'", "txtorcon")
        yield {"endpoint": "ssl:1:privateKey=nowhere.pem:certKey=nowhere.pem"}, ("nowhere.pem",)
        yield {"endpoint": "tcp:x"}, ("endpoint", "tcp:x")
        yield {"endpoint": ""}, ("endpoint",)

    def test_what_stands_without_a_keyword_is_explained(self) -> None:
        for call in (serverFromString, clientFromString):
            self.refuse(call, "shs:tcp\\:7655", "'tcp:7655'", "endpoint=")
            # As Twisted's quoting does not reach the "=".
            self.refuse(call, "shs:tcp\\:0\\:interface=127.0.0.1", "'tcp:0:interface'")

    def test_no_secret_is_in_a_message_or_a_repr(self) -> None:
        seed = base64.b64encode(BOB.seed()).decode()
        for endpoint in (
            serverFromString(self.here, self.server()),
            clientFromString(self.here, self.client()),
        ):
            self.assertNotIn(seed, repr(endpoint))
            self.assertNotIn(NETWORK.text, repr(endpoint))
        broken = write(self.folder / "broken", encode_identity(BOB)[:-20])
        message = str(
            self.assertRaises(ValueError, serverFromString, self.here, self.server(identity=broken))
        )
        self.assertNotIn(seed[:8], message)


class BackOff:
    """Waits 2, 4, 8 ... seconds."""

    def __init__(self) -> None:
        self.attempts: list[int] = []

    def __call__(self, failed: int) -> float:
        self.attempts.append(failed)
        return 2.0**failed


class BackingOffTests(StringsTestCase):
    """Under C{ClientService} a peer that always fails the handshake is a failure."""

    def test_it_backs_off_and_gives_up(self) -> None:
        for changes in ({"peer": CAROL.public.text}, {"network": self.data_folder("x", BOB, OLD)}):
            port = self.successResultOf(self.listen(self.there, OneFactory(Recorder)))
            policy = BackOff()
            service = ClientService(
                clientFromString(self.here, self.client(**changes)),
                OneFactory(Recorder),
                retryPolicy=policy,
                clock=self.clock,
            )
            service.startService()
            gave_up = service.whenConnected(failAfterFailures=3)
            run_clock(self.clock, 600)
            self.failureResultOf(gave_up, HandshakeError)
            # 2 + 4 + 8 + ... seconds; one that fires on TCP would have made hundreds.
            self.assertEqual(len(policy.attempts), 9)
            stopped = service.stopService()
            run_clock(self.clock, 1)
            self.successResultOf(stopped)
            port.stopListening()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_as_twisted_backs_off_by_itself(self) -> None:
        """With the policy that a program has if it asks for none."""
        connected: list[Any] = []
        # TCP succeeds each time: what listens reads the hello and hangs up.
        self.there.listenTCP(9, Factory.forProtocol(lambda: Hangup(connected)))
        service = ClientService(
            clientFromString(self.here, self.client(endpoint="tcp:10.0.0.2:9")),
            OneFactory(Recorder),
            clock=self.clock,
        )
        service.startService()
        gave_up = service.whenConnected(failAfterFailures=3)
        run_clock(self.clock, 600)
        self.failureResultOf(gave_up, HandshakeError)
        # 1, 1.5, 2.25 ... up to 60 seconds: hundreds, if each TCP connection were a success.
        self.assertGreater(len(connected), 10)
        self.assertLessEqual(len(connected), 25)
        stopped = service.stopService()
        run_clock(self.clock, 1)
        self.successResultOf(stopped)


class Hangup(Protocol):
    """Takes a connection, and ends it as soon as something comes."""

    def __init__(self, connected: list[Any]) -> None:
        self._connected = connected

    def connectionMade(self) -> None:
        self._connected.append(self)

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.loseConnection()


@implementer(IPlugin, IStreamServerEndpointStringParser)
class OnionStrings:
    """
    Stands for txtorcon's: a hidden service, which takes its time to be published.  What
    Tor brings comes over TCP.
    """

    prefix = "onion"

    def __init__(self, there: MemoryHost) -> None:
        self.there = there
        self.asked: list[Any] = []

    def parseStreamServer(self, reactor: Any, *args: Any, **kwargs: Any) -> Any:
        self.asked.append((args, kwargs))
        return OnionEndpoint(self.there, int(args[0]))


class OnionEndpoint:
    def __init__(self, there: MemoryHost, port: int) -> None:
        self._there = there
        self._port = port

    def listen(self, factory: Any) -> Any:
        return deferLater(self._there, 30, self._there.listenTCP, self._port, factory)


class OnionTests(StringsTestCase):
    """C{endpoint=onion:...} when something provides it."""

    def test_a_hidden_service(self) -> None:
        onions = OnionStrings(self.there)
        found = endpoints.getPlugins
        self.patch(
            endpoints,
            "getPlugins",
            lambda interface: (
                [onions] if interface is IStreamServerEndpointStringParser else found(interface)
            ),
        )
        # The string with shs: in front is read by the plugin of ours, as ever.
        beneath = "onion:80:hiddenServiceDir=/var/lib/a\\:b"
        factory = OneFactory(Recorder)
        listening = strings.server(
            self.there, endpoint=beneath, identity=str(self.bob), network=str(self.bob)
        ).listen(factory)
        self.assertEqual(onions.asked, [(("80",), {"hiddenServiceDir": "/var/lib/a:b"})])
        # Not before it is published.
        run_clock(self.clock, 29)
        self.assertNoResult(listening)
        run_clock(self.clock, 2)
        port = self.successResultOf(listening)
        self.patch(endpoints, "getPlugins", found)
        dialled = clientFromString(self.here, self.client(endpoint="tcp:10.0.0.2:80")).connect(
            OneFactory(Recorder)
        )
        run_clock(self.clock, 1)
        client = self.successResultOf(dialled)
        self.assertEqual(client.transport.getPeer().key, BOB.public)
        (address,) = factory.addresses
        self.assertEqual(address, PeerAddress(ALICE.public, address.inner))
        client.transport.abortConnection()
        port.stopListening()
        run_clock(self.clock, 1)


class DropInTests(SynchronousTestCase):
    """The plugin, as other programs of the machine find it."""

    def test_it_is_found_without_importing_what_it_stands_for(self) -> None:
        program = (
            "import json, sys; sys.path.insert(0, sys.argv[1])\n"
            "from twisted.plugin import getPlugins\n"
            "from twisted.internet import interfaces as i\n"
            "found = [[p.prefix for p in getPlugins(kind)] for kind in ("
            "i.IStreamServerEndpointStringParser,"
            "i.IStreamClientEndpointStringParserWithReactor)]\n"
            "heavy = [m for m in sys.modules if m in ('nacl', 'Crypto', 'meshkit.shs',"
            " 'twisted.internet.reactor')]\n"
            "from twisted.internet.endpoints import clientFromString\n"
            "try: clientFromString(None, 'shs:peer=x')\n"
            "except ValueError as e: print(json.dumps([found, heavy, str(e),"
            " 'twisted.internet.reactor' in sys.modules]))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(ROOT)],
            capture_output=True,
            text=True,
            cwd=scratch(self),
        )
        found, heavy, message, installs_a_reactor = json.loads(done.stdout)
        self.assertIn("shs", found[0])
        self.assertIn("shs", found[1])
        self.assertEqual(heavy, [])
        self.assertIn("endpoint", message)
        self.assertFalse(installs_a_reactor)

    def test_it_is_what_twisted_asks_for(self) -> None:
        strings = EndpointStrings("shs", "meshkit.shs.strings")
        for interface in (
            IPlugin,
            IStreamServerEndpointStringParser,
            IStreamClientEndpointStringParserWithReactor,
        ):
            verifyObject(interface, strings)


class Echo(LineReceiver):
    """As somebody wrote it who never heard of meshkit."""

    def lineReceived(self, line: bytes) -> None:
        if line == b"bye":
            self.transport.loseConnection()
        else:
            self.sendLine(line[::-1])


class Lines(LineReceiver):
    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.ended: Deferred[Failure] = Deferred()

    def lineReceived(self, line: bytes) -> None:
        self.got.append(line)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.ended.callback(reason.type)


class Sum(amp.Command):
    arguments: ClassVar[Any] = [(b"a", amp.Integer()), (b"b", amp.Integer())]
    response: ClassVar[Any] = [(b"total", amp.Integer())]


class Adder(amp.AMP):
    @Sum.responder
    def sum(self, a: int, b: int) -> dict[str, int]:
        return {"total": a + b}


class Page(Resource):
    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.served: list[tuple[bytes, int]] = []

    def render(self, request: Any) -> bytes:
        body = request.content.read()
        self.served.append((request.path, id(request.channel)))
        if request.path == b"/large":
            return b"x" * 300_000
        return request.method + b" " + request.path + b" " + body


@implementer(IAgentEndpointFactory)
class OneEndpoint:
    def __init__(self, endpoint: Any) -> None:
        self.endpoint = endpoint

    def endpointForURI(self, uri: Any) -> Any:
        return self.endpoint


class UnmodifiedTests(TestCase):
    """Real sockets, and other people's protocols above."""

    def setUp(self) -> None:
        self.folder = Path(scratch(self))
        for name, identity in (("alice", ALICE), ("bob", BOB)):
            folder = self.folder / name
            folder.mkdir(mode=0o700)
            write(folder / "secret.key", encode_identity(identity))
            write(folder / "network.secret", encode_networks([NETWORK]))

    async def open(self, factory: Any, inner: str = "tcp:0:interface=127.0.0.1") -> Any:
        """@return: a client's endpoint to a port that serves C{factory}."""
        port, endpoint_to = await self.listen(factory, inner)
        host = port.getHost()
        where = (
            f"tcp:127.0.0.1:{host.port}"
            if inner.startswith("tcp")
            else f"unix:{quoteStringArgument(host.name.decode())}"
        )
        return endpoint_to(where)

    async def listen(self, factory: Any, inner: str) -> tuple[Any, Callable[[str], Any]]:
        """
        @return: a port that serves C{factory}, and what makes an endpoint to it of the
            string of the endpoint beneath.
        """
        bob, alice = self.folder / "bob", self.folder / "alice"
        server = text({"endpoint": inner, "identity": bob, "network": bob})
        port = await serverFromString(reactor, server).listen(factory)
        self.addCleanup(port.stopListening)
        client = {"identity": alice, "network": alice, "peer": BOB.public.base64}
        return port, lambda where: clientFromString(reactor, text({"endpoint": where} | client))

    async def talk(self, endpoint: Any) -> None:
        client: Any = await endpoint.connect(Factory.forProtocol(Lines))
        for line in (b"abc", b"", b"x" * 16_000):
            client.sendLine(line)
        client.sendLine(b"bye")
        reason: Any = await client.ended
        self.assertEqual(reason.__name__, "ConnectionDone")
        self.assertEqual(client.got, [b"cba", b"", b"x" * 16_000])

    async def test_a_line_protocol_over_tcp(self) -> None:
        await self.talk(await self.open(Factory.forProtocol(Echo)))

    async def test_a_line_protocol_over_a_unix_socket(self) -> None:
        path = quoteStringArgument(str(self.folder / "s"))
        await self.talk(await self.open(Factory.forProtocol(Echo), f"unix:{path}"))

    def certificate(self) -> tuple[str, str]:
        """
        A certificate that nobody has signed but its owner, for C{localhost}.

        @return: the path of a file that holds it and its key; that of a folder of
            certificates to trust, in which it is the only one.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        certificate = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(datetime(2020, 1, 1))
            .not_valid_after(datetime(2100, 1, 1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
        )
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        trusted = self.folder / "trusted"
        trusted.mkdir()
        (trusted / "localhost.pem").write_bytes(certificate)
        return write(self.folder / "localhost.pem", secret + certificate), str(trusted)

    async def test_a_line_protocol_over_tls(self) -> None:
        """Two strings within a string: the channel over TLS over TCP."""
        pem, trusted = map(quoteStringArgument, self.certificate())
        port, endpoint_to = await self.listen(
            Factory.forProtocol(Echo), f"ssl:0:interface=127.0.0.1:privateKey={pem}"
        )
        number = port.getHost().port
        beneath = quoteStringArgument(f"tcp:127.0.0.1:{number}")
        await self.talk(endpoint_to(f"tls:localhost:1:trustRoots={trusted}:endpoint={beneath}"))
        # It is TLS: whoever does not speak it is not understood, nor who trusts nobody.
        with self.assertRaises(HandshakeError):
            await endpoint_to(f"tcp:127.0.0.1:{number}").connect(OneFactory(Recorder))
        stranger = endpoint_to(f"tls:localhost:1:endpoint={beneath}")
        with self.assertRaises(HandshakeError):
            await stranger.connect(OneFactory(Recorder))

    async def test_amp(self) -> None:
        endpoint = await self.open(Factory.forProtocol(Adder))
        client: Any = await endpoint.connect(Factory.forProtocol(amp.AMP))
        asked = [client.callRemote(Sum, a=n, b=1) for n in range(50)]
        answers: Any = await gatherResults(asked)
        self.assertEqual([each["total"] for each in answers], list(range(1, 51)))
        await self.close(client)

    async def close(self, client: Any) -> None:
        gone: Deferred[None] = Deferred()
        lost = client.connectionLost

        def connection_lost(reason: Failure) -> None:
            lost(reason)
            gone.callback(None)

        client.connectionLost = connection_lost
        client.transport.loseConnection()
        await gone

    async def test_http_with_one_connection_kept_alive(self) -> None:
        page = Page()
        endpoint = await self.open(Site(page))
        pool = HTTPConnectionPool(reactor)
        agent = Agent.usingEndpointFactory(reactor, OneEndpoint(endpoint), pool=pool)
        for path in (b"/one", b"/two", b"/large"):
            response: Any = await agent.request(b"GET", b"http://bob" + path)
            body = await readBody(response)
            self.assertEqual(body, b"x" * 300_000 if path == b"/large" else b"GET " + path + b" ")
        await pool.closeCachedConnections()
        self.assertEqual([path for path, _ in page.served], [b"/one", b"/two", b"/large"])
        self.assertEqual(len({channel for _, channel in page.served}), 1)

    async def test_http_by_treq(self) -> None:
        from treq.client import HTTPClient

        endpoint = await self.open(Site(Page()))
        pool = HTTPConnectionPool(reactor)
        agent = Agent.usingEndpointFactory(reactor, OneEndpoint(endpoint), pool=pool)
        response = await HTTPClient(agent).post("http://bob/post", data=b"y" * 100_000)
        self.assertEqual(await response.content(), b"POST /post " + b"y" * 100_000)
        await pool.closeCachedConnections()

    async def test_http_requests_that_do_not_wait_for_answers(self) -> None:
        page = Page()
        endpoint = await self.open(Site(page))
        client: Any = await endpoint.connect(Factory.forProtocol(RawCollector))
        paths = [f"/{n}".encode() for n in range(20)]
        asked = b"".join(b"GET " + path + b" HTTP/1.1\r\nHost: bob\r\n\r\n" for path in paths)
        client.transport.write(
            asked + b"GET /last HTTP/1.1\r\nHost: bob\r\nConnection: close\r\n\r\n"
        )
        received: Any = await client.ended
        answers = [part.partition(b"\r\n\r\n")[2] for part in received.split(b"HTTP/1.1 200 OK")]
        self.assertEqual(answers[1:-1], [b"GET " + path + b" " for path in paths])
        self.assertIn(b"GET /last", answers[-1])
        self.assertEqual([path for path, _ in page.served], [*paths, b"/last"])


class RawCollector(Recorder):
    def __init__(self) -> None:
        super().__init__()
        self.ended: Deferred[bytes] = Deferred()

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.ended.callback(bytes(self.received))
