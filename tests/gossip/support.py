"""What the tests of gossip share: places that keep feeds, and a peer that obeys the test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from meshkit.feed import part as feed_part
from meshkit.feed.part import FeedPart
from meshkit.gossip import part as gossip_part
from meshkit.gossip.codec import Done, Frame, FrameDecoder, Have, Messages, Want, encode
from meshkit.gossip.link import GossipLink
from meshkit.gossip.part import GossipPart
from meshkit.identity.addresses import MeshAddress, PeerAddress
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IFeedStore
from meshkit.parts import PartContext
from meshkit.testing.identities import Author
from meshkit.testing.nodes import make_context, run_clock
from meshkit.testing.transports import Chunker, MemoryWire

MIGRATIONS = {"feed": feed_part.MIGRATIONS, "gossip": gossip_part.MIGRATIONS}


class Place:
    """A feed part and a gossip part, as in a node, without a channel or a door."""

    def __init__(self, clock: Clock, name: str, connections: Any = None, **config: Any) -> None:
        self.name = name
        self.clock = clock
        context = make_context(
            clock,
            name,
            config=feed_part.Config(),
            migrations=MIGRATIONS,
            connections=connections,
        )
        self.feed: FeedPart = feed_part.make_part(context)
        self.context: PartContext = make_gossip_context(context, self.feed, config)
        gossip = gossip_part.make_part(self.context)
        assert isinstance(gossip, GossipPart)
        self.gossip = gossip
        self.key: PublicKey = context.identity.public
        self.feed.startService()
        self.gossip.startService()
        run_clock(clock)

    @property
    def links(self) -> list[GossipLink]:
        return list(self.gossip._links)

    def publish(self, count: int = 1) -> None:
        for n in range(count):
            self.feed.publish({"type": "note", "text": f"{self.name} {n}"})
        run_clock(self.clock)

    def ingest(self, raws: Sequence[bytes]) -> None:
        self.result(self.feed.ingest(list(raws)))

    def heads(self) -> dict[bytes, int]:
        return dict(self.result(self.feed.heads()))

    def call(self, name: str, **fields: Any) -> Any:
        (bound,) = [b for b in self.gossip.operations() if b.operation.name == name]
        return self.result(bound.handler(bound.operation.request(**fields)))

    def follow(self, key: PublicKey) -> None:
        self.call("follows_add", author=key.text)

    def unfollow(self, key: PublicKey) -> None:
        self.call("follows_remove", author=key.text)

    def result(self, waiting: Any) -> Any:
        if not isinstance(waiting, Deferred):
            return waiting
        results: list[Any] = []
        waiting.addBoth(results.append)
        run_clock(self.clock)
        (result,) = results
        if isinstance(result, Failure):
            result.raiseException()
        return result

    def stop(self) -> None:
        """Stop everything; it has to come to an end."""
        for service in (self.gossip, self.feed, self.context.database):
            stopped: list[Any] = []
            waiting = service.stopService()
            if isinstance(waiting, Deferred):
                waiting.addBoth(stopped.append)
                run_clock(self.clock, 10)
                assert stopped == [None], (service, stopped)
        self.context.workers.stopService()


def make_gossip_context(context: PartContext, feed: FeedPart, config: dict[str, Any]) -> Any:
    from attrs import evolve

    return evolve(context, config=gossip_part.Config(**config), find={IFeedStore: feed}.get)


class Liar(Protocol):
    """
    A peer that does what the test says and nothing by itself.

    @ivar frames: what it was sent.
    """

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.lost: Failure | None = None
        self._decoder = FrameDecoder()

    def dataReceived(self, data: bytes) -> None:
        self.frames += self._decoder.receive(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason

    def say(self, *frames: Frame) -> None:
        self.say_bytes(b"".join(map(encode, frames)))

    def say_bytes(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def have(self, *entries: tuple[bytes, int]) -> None:
        self.say(Have(list(entries)))

    def want(self, *entries: tuple[bytes, int]) -> None:
        self.say(Want(list(entries)))

    def give(self, author: Author | bytes, raws: Sequence[bytes], done: bool = True) -> None:
        key = author if isinstance(author, bytes) else author.key
        if raws:
            self.say(Messages(key, list(raws)))
        if done:
            self.say(Done(key))

    def told(self) -> list[tuple[bytes, int]]:
        return [e for f in self.frames if isinstance(f, Have) for e in f.entries]

    def wanted(self) -> list[tuple[bytes, int]]:
        return [e for f in self.frames if isinstance(f, Want) for e in f.entries]

    def got(self) -> list[bytes]:
        return [t for f in self.frames if isinstance(f, Messages) for t in f.texts]

    def finished(self) -> list[bytes]:
        return [f.author for f in self.frames if isinstance(f, Done)]


def address(key: PublicKey) -> PeerAddress:
    return PeerAddress(key, IPv4Address("TCP", "127.0.0.1", 1))


class GossipCase(SynchronousTestCase):
    """Places on one clock; at the end nothing may be left over."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.places: list[Place] = []
        self.wires: list[MemoryWire] = []

    def tearDown(self) -> None:
        for place in self.places:
            place.stop()
        run_clock(self.clock, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        for place in self.places:
            self.assertEqual((len(place.gossip.claims), place.links), (0, []))
        # Nobody's error was left to the garbage collector.
        self.assertEqual(self.flushLoggedErrors(), [])

    def place(self, name: str, **config: Any) -> Place:
        place = Place(self.clock, name, **config)
        self.places.append(place)
        return place

    def connect(self, first: Place, second: Place, chunk: Chunker | None = None) -> MemoryWire:
        """Have the first dial the second."""
        dialled = MeshAddress("127.0.0.1", 7655, second.key)
        wire = self._wire(first.key, second.key, chunk)
        wire.connect(GossipLink(first.gossip, dialled), self._accepted(second, first.key))
        return wire

    def lie_to(self, place: Place, name: str = "liar", chunk: Chunker | None = None) -> Liar:
        """Have a liar dial a place."""
        liar = Liar()
        key = Author(name).identity.public
        wire = self._wire(key, place.key, chunk)
        wire.connect(liar, self._accepted(place, key))
        self.run_for()
        return liar

    def _wire(self, first: PublicKey, second: PublicKey, chunk: Chunker | None) -> MemoryWire:
        wire = MemoryWire(address(first), address(second), clock=self.clock, chunk=chunk)
        self.wires.append(wire)
        return wire

    def _accepted(self, place: Place, peer: PublicKey) -> Any:
        self.assertIs(place.gossip.authorize(peer, "gossip"), True)
        return place.gossip.capabilities()["gossip"].buildProtocol(address(peer))

    def run_for(self, seconds: float = 0.1) -> None:
        run_clock(self.clock, seconds)
