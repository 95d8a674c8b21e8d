"""What the tests of gossip share: places that keep feeds, and a peer that obeys the test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import iscoroutine
from types import MappingProxyType
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from meshkit.feed import part as feed_part
from meshkit.feed import retention
from meshkit.feed.part import FeedPart
from meshkit.gossip import part as gossip_part
from meshkit.gossip.codec import Frame, Messages, Note, Stopped
from meshkit.gossip.link import GossipLink
from meshkit.gossip.part import LABEL, VERSION, GossipPart
from meshkit.gossip.reconcile import Entry
from meshkit.gossip.spread import RECEIVE, REPLICATE
from meshkit.identity.addresses import MeshAddress, PeerAddress
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import Frontier, IFeedStore, MessagesStored
from meshkit.parts import PartContext
from meshkit.runtime.container import MemoryFile
from meshkit.testing.identities import Author
from meshkit.testing.nodes import make_context, run_clock
from meshkit.testing.peers import GossipPeer
from meshkit.testing.transports import Chunker, MemoryWire
from tests import declared

MIGRATIONS = {"feed": feed_part.MIGRATIONS, "gossip": gossip_part.MIGRATIONS}


class Place:
    """A feed part and a gossip part, as in a node, without a channel or a door."""

    def __init__(
        self,
        clock: Clock,
        name: str,
        connections: Any = None,
        backing: MemoryFile | None = None,
        feed: Mapping[str, Any] = MappingProxyType({}),
        **config: Any,
    ) -> None:
        self.name = name
        self.clock = clock
        context = make_context(
            clock,
            name,
            config=feed_part.Config(**feed),
            migrations=MIGRATIONS,
            connections=connections,
            backing=backing,
        )
        #: Every message that was announced: author, sequence, hash.
        self.announced: list[tuple[bytes, int, bytes]] = []
        context.events.subscribe(MessagesStored, self._stored)
        self.feed: FeedPart = feed_part.make_part(context)
        self.context: PartContext = make_gossip_context(context, self.feed, config)
        gossip = gossip_part.make_part(self.context)
        assert isinstance(gossip, GossipPart)
        self.gossip = gossip
        self.key: PublicKey = context.identity.public
        self.feed.startService()
        self.gossip.startService()
        run_clock(clock)

    def _stored(self, event: MessagesStored) -> None:
        self.announced += [(m.author, m.sequence, m.hash) for m in event.messages]

    @property
    def links(self) -> list[GossipLink]:
        return list(self.gossip._links)

    def frontier(self) -> list[Frontier]:
        """All that the place has, with what is forked."""
        frontier: list[Frontier] = self.result(self.feed.frontier(limit=10_000))
        return frontier

    def publish(self, count: int = 1) -> None:
        for n in range(count):
            self.feed.publish({"type": "note", "text": f"{self.name} {n}"})
        run_clock(self.clock)

    def ingest(self, raws: Sequence[bytes]) -> None:
        self.result(self.feed.ingest(list(raws)))

    def empty(self, *positions: int) -> None:
        """Have the texts of messages gone, as retention does."""
        self.result(self.context.database.write(lambda it: retention.empty(it, positions)))

    def heads(self) -> dict[bytes, int]:
        return dict(self.result(self.feed.heads()))

    def call(self, name: str, **fields: Any) -> Any:
        (bound,) = [b for b in self.gossip.operations() if b.operation.name == name]
        return self.result(declared.handler(bound)(bound.operation.request(**fields)))

    def follow(self, key: PublicKey) -> None:
        self.call("follows_add", author=key.text)

    def block(self, key: PublicKey) -> None:
        self._block("blocks_add", key)

    def unblock(self, key: PublicKey) -> None:
        self._block("blocks_remove", key)

    def _block(self, name: str, key: PublicKey) -> None:
        (bound,) = [b for b in self.feed.operations() if b.operation.name == name]
        self.result(declared.handler(bound)(bound.operation.request(author=key.text)))

    def unfollow(self, key: PublicKey) -> None:
        self.call("follows_remove", author=key.text)

    def result(self, waiting: Any) -> Any:
        if iscoroutine(waiting):
            waiting = Deferred.fromCoroutine(waiting)
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


class Liar(GossipPeer):
    """
    A peer that does what the test says, and nothing by itself but what it takes to be let
    in: see L{GossipPeer}.

    @ivar frames: what it was sent.
    """

    def __init__(self, polite: bool = True, entries: Sequence[Entry] = ()) -> None:
        super().__init__(polite, entries)
        self.frames: list[Frame] = []
        self.lost: Failure | None = None
        self.key = b""

    def heard(self, frame: Frame) -> None:
        self.frames.append(frame)
        super().heard(frame)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason

    def tell(self, author: Author | bytes, sequence: int) -> None:
        """Say that it has a feed up to there."""
        self.say(Note([(_key(author), sequence, REPLICATE)]))

    def turn_on(self, author: Author | bytes, after: int = 0) -> None:
        """Want what follows."""
        self.say(Note([(_key(author), after, REPLICATE | RECEIVE)]))

    def turn_off(self, author: Author | bytes) -> None:
        self.say(Note([(_key(author), 0, REPLICATE)]))

    def give(self, author: Author | bytes, first: int, raws: Sequence[bytes]) -> None:
        self.say(Messages(_key(author), first, list(raws)))

    def stop(self, author: Author | bytes) -> None:
        self.say(Stopped([_key(author)]))

    def notes(self) -> list[tuple[bytes, int, int]]:
        """What it was sent of feeds that are not its own: that one is always turned on."""
        said = [e for f in self.frames if isinstance(f, Note) for e in f.entries]
        return [entry for entry in said if entry[0] != self.key]

    def told(self) -> list[tuple[bytes, int]]:
        """What it was told and not asked for."""
        return [(a, n) for a, n, flags in self.notes() if flags == REPLICATE]

    def wanted(self) -> list[tuple[bytes, int]]:
        """What it was asked for: after which sequence."""
        return [(a, n) for a, n, flags in self.notes() if flags & RECEIVE]

    def wanted_no_more(self) -> bool:
        """Was its own feed turned off?"""
        said = [e for f in self.frames if isinstance(f, Note) for e in f.entries]
        own = [flags for author, _, flags in said if author == self.key]
        return bool(own) and not own[-1] & RECEIVE

    def got(self) -> list[bytes]:
        return [t for f in self.frames if isinstance(f, Messages) for t in f.texts]

    def of_kind(self, kind: type[Any]) -> list[Any]:
        return [f for f in self.frames if isinstance(f, kind)]


def _key(author: Author | bytes) -> bytes:
    return author if isinstance(author, bytes) else author.key


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
            self.assertEqual((len(place.gossip.spread), place.links), (0, []))
            self.assertEqual(place.gossip.spread.partners, {})
            for rooms in (place.gossip.rooms.begun, place.gossip.rooms.answered):
                self.assertEqual(rooms.tokens, rooms.limit)
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

    def lie_to(
        self, place: Place, name: str = "liar", chunk: Chunker | None = None, **manners: Any
    ) -> Liar:
        """Have a liar dial a place."""
        liar = Liar(**manners)
        key = Author(name).identity.public
        liar.key = key.raw
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
        return place.gossip.capabilities()[LABEL, VERSION].buildProtocol(address(peer))

    def be_dialled_by(self, place: Place, name: str = "liar", **manners: Any) -> Liar:
        """Have a place dial a liar: the place begins to compare."""
        liar = Liar(**manners)
        key = Author(name).identity.public
        liar.key = key.raw
        wire = self._wire(place.key, key, None)
        wire.connect(GossipLink(place.gossip, MeshAddress("127.0.0.1", 7655, key)), liar)
        self.run_for()
        return liar

    def run_for(self, seconds: float = 0.1) -> None:
        run_clock(self.clock, seconds)
