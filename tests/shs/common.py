"""What the tests of this room share: fixed keys, and protocols that record."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.identity.keys import Identity, PublicKey
from meshkit.shs.channel import SecureChannel
from meshkit.shs.handshake import ClientHandshake, Outcome, ServerHandshake
from meshkit.shs.hellos import Capability, HelloTable
from meshkit.testing.transports import connect_protocols

ALICE = Identity(b"alice is the client in most tests"[:32])
BOB = Identity(b"bob is the server in most of them"[:32])
CAROL = Identity(b"carol is somebody else altogether"[:32])

ECHO = Capability("echo", 1, bytes(range(32)))
CHAT = Capability("chat", 1, bytes(range(100, 132)))

CLIENT_EPHEMERAL = b"the client's ephemeral secret..."
SERVER_EPHEMERAL = b"the server's ephemeral secret..."


def table(*capabilities: Capability) -> HelloTable:
    """A hello table of these, or of ECHO."""
    hellos = HelloTable()
    for capability in capabilities or (ECHO,):
        hellos.register(capability)
    return hellos


def new_client(
    identity: Identity = ALICE,
    capability: Capability = ECHO,
    peer: PublicKey = BOB.public,
    ephemeral: bytes = CLIENT_EPHEMERAL,
) -> ClientHandshake:
    return ClientHandshake(identity, capability, peer, ephemeral)


def new_server(
    identity: Identity = BOB,
    hellos: HelloTable | None = None,
    ephemeral: bytes = SERVER_EPHEMERAL,
) -> ServerHandshake:
    return ServerHandshake(identity, (hellos or table()).match, ephemeral)


def transcript(
    client: ClientHandshake, server: ServerHandshake
) -> tuple[list[bytes], Outcome, Outcome]:
    """Run a whole handshake.  @return: its four messages and both outcomes."""
    first = client.start()
    second = server.receive(first).send
    third = client.receive(second).send
    server.receive(third)
    fourth, server_outcome = server.accept()
    client_outcome = client.receive(fourth).outcome
    assert client_outcome is not None
    return [first, second, third, fourth], client_outcome, server_outcome


class Recorder(Protocol):
    """Records what happens to it, in order; C{script} may act in the middle of it."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.received = bytearray()
        self.reason: Failure | None = None
        self.script: Any = None

    def note(self, event: Any) -> None:
        self.events.append(event)
        if self.script is not None:
            self.script(self, event)

    def connectionMade(self) -> None:
        self.note("made")

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.note(data)

    def connectionLost(self, reason: Failure) -> None:  # type: ignore[override]
        self.reason = reason
        self.note(("lost", reason.type))


@implementer(IHalfCloseableProtocol)
class HalfRecorder(Recorder):
    """The same, and able to be closed in one direction."""

    def readConnectionLost(self) -> None:
        self.note("read lost")

    def writeConnectionLost(self) -> None:
        self.note("write lost")


class OneFactory(Factory):
    """Builds one given protocol, or what it is told; remembers the addresses."""

    noisy = False

    def __init__(self, protocol: Any) -> None:
        self.it = protocol
        self.addresses: list[Any] = []
        self.running = 0

    def startFactory(self) -> None:
        self.running += 1

    def stopFactory(self) -> None:
        self.running -= 1

    def buildProtocol(self, addr: Any) -> Any:
        self.addresses.append(addr)
        if isinstance(self.it, Exception):
            raise self.it
        return self.it() if isinstance(self.it, type) else self.it


def pieces(data: bytes, rng: Random, largest: int) -> list[bytes]:
    """Cut data at random."""
    cut = []
    at = 0
    while at < len(data):
        size = rng.randint(1, largest)
        cut.append(data[at : at + size])
        at += size
    return cut


class Owner:
    """A L{meshkit.shs.channel.ChannelOwner} that records, and admits as it is told."""

    def __init__(self, app: Any, verdict: Any = True) -> None:
        self.app = app
        self.verdict = verdict
        self.asked: list[PublicKey] = []
        self.events: list[str] = []
        self.failure: Failure | None = None
        self.address: Any = None

    def authorize(self, channel: Any, peer: PublicKey) -> Any:
        self.asked.append(peer)
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return self.verdict

    def build_protocol(self, channel: Any, address: Any) -> Any:
        self.address = address
        if isinstance(self.app, Exception):
            raise self.app
        return self.app

    def channel_opened(self, channel: Any, protocol: Any) -> None:
        self.events.append("opened")

    def channel_failed(self, channel: Any, reason: Failure) -> None:
        self.events.append("failed")
        self.failure = reason

    def channel_lost(self, channel: Any) -> None:
        self.events.append("lost")


class Pair:
    """A client's and a server's channel over one memory wire, with a clock."""

    def __init__(
        self,
        client: Any = None,
        server: Any = None,
        *,
        verdict: Any = True,
        chunk: Any = None,
        client_handshake: ClientHandshake | None = None,
        server_handshake: ServerHandshake | None = None,
    ) -> None:
        self.clock = Clock()
        self.client = Recorder() if client is None else client
        self.server = Recorder() if server is None else server
        self.client_owner = Owner(self.client)
        self.server_owner = Owner(self.server, verdict)
        self.client_channel = SecureChannel(
            self.clock, client_handshake or new_client(), self.client_owner
        )
        self.server_channel = SecureChannel(
            self.clock, server_handshake or new_server(), self.server_owner
        )
        self.wire = connect_protocols(self.client_channel, self.server_channel, chunk=chunk)

    def pump(self) -> None:
        """Until nothing moves and no turn is due."""
        self.wire.pump()
        while any(call.getTime() <= self.clock.seconds() for call in self.clock.getDelayedCalls()):
            self.clock.advance(0)
            self.wire.pump()

    def open(self) -> Pair:
        self.pump()
        assert self.client_owner.events == self.server_owner.events == ["opened"]
        return self

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.pump()


class PushProducer:
    """A push producer that records what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def pauseProducing(self) -> None:
        self.events.append("pause")

    def resumeProducing(self) -> None:
        self.events.append("resume")

    def stopProducing(self) -> None:
        self.events.append("stop")


class PullProducer:
    """Writes one piece whenever it is asked, then unregisters."""

    def __init__(self, consumer: Any, parts: list[bytes]) -> None:
        self.consumer = consumer
        self.parts = parts
        self.asked = 0
        self.stopped = False

    def resumeProducing(self) -> None:
        self.asked += 1
        if self.parts:
            self.consumer.write(self.parts.pop(0))
        else:
            self.consumer.unregisterProducer()

    def stopProducing(self) -> None:
        self.stopped = True
