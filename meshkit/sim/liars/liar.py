"""
A machine on which somebody lies.

What runs on it is an honest protocol stack in small: the real handshake, gossip as
L{meshkit.sim.liars.peer} speaks it, a port for those who dial and, for those that it dials,
another attempt when a connection is lost.  Each kind of liar replaces one behaviour of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, Final

from twisted.application.internet import ClientService
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory

from meshkit.feed.message import Message, sign_message
from meshkit.gossip.codec import Proof
from meshkit.gossip.part import LABEL, VERSION
from meshkit.identity.addresses import MeshAddress, PeerAddress
from meshkit.identity.keys import Identity
from meshkit.shs import Capability, SecureListener, wrap_client
from meshkit.sim.liars.library import Leaf, Library
from meshkit.sim.liars.peer import LiarPeer
from meshkit.sim.liars.told import Lie, Told
from meshkit.sim.liars.wires import Wire, WiredEndpoint, WiredFactory
from meshkit.testing.nodes import MESH_PORT

if TYPE_CHECKING:
    from meshkit.sim.host import SimHost
    from meshkit.sim.process import Process
    from meshkit.sim.world import World

__all__ = ["EVERY", "Liar"]

#: Seconds between two things that a liar does of its own accord.
EVERY: Final = 5.0
#: Seconds between two comparisons that it begins.
_COMPARE: Final = 60.0
#: Seconds before it dials again: at least, and at most.
_LEAST_RETRY: Final = 0.5
_MOST_RETRY: Final = 30.0
#: Seconds that it gives others for a handshake: nobody hangs up sooner than an honest node.
_PATIENCE: Final = 600.0
#: Seconds of silence after which it takes a node for gone.
_DEAD: Final = 120.0
#: Connections that it accepts at a time.
_MAX_PEERS: Final = 256


class _Factory(Factory):
    noisy = False

    def __init__(self, liar: Liar, dialled: bool) -> None:
        self._liar = liar
        self._dialled = dialled

    def buildProtocol(self, addr: IAddress | None) -> LiarPeer | None:
        return self._liar.build_peer(addr, self._dialled)


class Liar:
    """
    See the module.  This one tells no lies: it is what all kinds have in common.

    It remembers what it has heard and told when its process is gone, as though all of it
    were on a disk.

    @cvar kind: its name, by which L{meshkit.sim.liars.LIARS} has it.
    @cvar peer: what speaks on its connections.
    @cvar wire: what is beneath them.
    @ivar ways: the ways in which it lies.  Where a way belongs to a connection, it may be
        set to some of them before it is started.
    @ivar name: of its machine.
    @ivar host: its machine.
    @ivar identity: who it is.
    @ivar key: its 32-byte public key.
    @ivar address: where others dial it.
    @ivar dials: addresses of nodes that it dials, as they are when it starts.
    @ivar every: seconds between two things that it does of its own accord.
    @ivar told: its lies.
    @ivar library: the feeds that it has.
    @ivar peers: its connections, in the order in which they were made.
    @ivar process: in which it runs; a new one at each start.
    """

    kind: ClassVar[str] = "honest"
    ways: tuple[str, ...] = ("",)
    peer: ClassVar[type[LiarPeer]] = LiarPeer
    wire: ClassVar[type[Wire]] = Wire

    process: Process

    def __init__(
        self,
        world: World,
        host: SimHost,
        dials: Sequence[str] = (),
        *,
        every: float = EVERY,
    ) -> None:
        seeds = world.seeds
        self._world = world
        self._starts = 0
        self._marks = 0
        self.name = host.name
        self.host = host
        self.identity = Identity(seeds.stream(host.name, "identity").randbytes(32))
        self.key = self.identity.public.raw
        self.address = MeshAddress(host.address, MESH_PORT, self.identity.public).text
        self.dials: Sequence[str] = tuple(dials)
        self.every = every
        self.told = Told()
        self.library = Library()
        self.peers: dict[LiarPeer, None] = {}
        self.rng: Random = seeds.stream(host.name, "liar")
        self._sources: dict[bytes, LiarPeer] = {}
        self._wires: dict[tuple[bool, IAddress], Wire] = {}
        self._ways_given = self.rng.randrange(len(self.ways))

    def __repr__(self) -> str:
        return f"<{self.kind} liar {self.name}>"

    # --- its life ---------------------------------------------------------------------

    def start(self) -> None:
        """Begin a process, listen and dial.  Nothing happens if it runs."""
        if self.running:
            return
        self.process = process = self.host.begin()
        self._starts += 1
        self.host.event("liar.start", liar=self.kind, number=self._starts)
        listener = SecureListener(process, self.identity, self.rng, timeout=_PATIENCE)
        listener.register(self._capability(), _Factory(self, False))
        self.serve(listener)
        process.listenTCP(
            MESH_PORT,
            WiredFactory(listener, self, False),
            interface=self.host.address,
        )
        for address in self.dials:
            self._dial(MeshAddress.parse(address))
        process.callLater(self.every, self._act)
        process.callLater(_COMPARE, self._compare)

    def serve(self, listener: SecureListener) -> None:
        """Offer more than gossip to those who dial."""

    def _capability(self) -> Capability:
        return Capability.of(self._world.network_secret.key(), LABEL, VERSION)

    def _dial(self, address: MeshAddress) -> None:
        process = self.process
        endpoint = wrap_client(
            process,
            WiredEndpoint(TCP4ClientEndpoint(process, address.host, address.port), self),
            identity=self.identity,
            capability=self._capability(),
            peer=address.key,
            rng=self.rng,
            timeout=_PATIENCE,
        )
        ClientService(
            endpoint, _Factory(self, True), retryPolicy=self._pause, clock=process
        ).startService()

    def _pause(self, attempts: int) -> float:
        return self.rng.uniform(_LEAST_RETRY, min(_MOST_RETRY, 2.0 ** min(attempts, 10)))

    def stop(self) -> None:
        """End its process, without a word to anybody; the kernel closes its connections."""
        if self.running:
            self.host.event("liar.stop")
            self.host.end(self.process)
            self._forget()

    def crash(self) -> None:
        """Its machine loses power."""
        self.host.crash()
        self._forget()

    def restart(self) -> None:
        """L{crash} if it runs, then L{start}."""
        if self.running:
            self.crash()
        self.start()

    def _forget(self) -> None:
        for peer in self.peers:
            peer.open = False
        self.peers = {}
        self._sources = {}
        self._wires = {}

    @property
    def running(self) -> bool:
        """Is there a process?"""
        return self._starts > 0 and self.process.running

    # --- its connections --------------------------------------------------------------

    def build_peer(self, addr: IAddress | None, dialled: bool) -> LiarPeer | None:
        """
        Somebody has proved who he is.

        @return: what speaks with him; L{None} to hang up.
        """
        if len(self.peers) >= _MAX_PEERS:
            return None
        assert isinstance(addr, PeerAddress)
        return self.peer(self, addr.key.raw, self._wires[dialled, addr.inner])

    def make_wire(self, factory: Any, inner: Any, dialled: bool) -> Wire:
        """@return: what stands between a channel and its connection."""
        return self.wire(factory, inner, dialled, self._next_way(), self)

    def _next_way(self) -> str:
        """
        In turn; but one in which it has not lied comes before those in which it has, as a
        connection may end before there was something to lie about.
        """
        self._ways_given += 1
        start = self._ways_given % len(self.ways)
        in_turn = (*self.ways[start:], *self.ways[:start])
        used = [wire.way for wire in self._wires.values()]
        return min(in_turn, key=lambda way: (self.told.ways[way] > 0, used.count(way)))

    def wired(self, wire: Wire) -> None:
        """There is a connection, and nobody has proved who he is."""
        self._wires[wire.dialled, wire.getPeer()] = wire

    def unwired(self, wire: Wire) -> None:
        """The connection is over."""
        at = wire.dialled, wire.getPeer()
        if self._wires.get(at) is wire:
            del self._wires[at]

    def joined(self, peer: LiarPeer) -> None:
        """A connection is open."""
        self.peers[peer] = None
        self.host.event("liar.peer", key=peer.key.hex(), dialled=peer.dialled, way=peer.way)

    def left(self, peer: LiarPeer) -> None:
        """A connection is over."""
        self.peers.pop(peer, None)
        for author in [a for a, source in self._sources.items() if source is peer]:
            del self._sources[author]

    # --- what it does of its own accord -----------------------------------------------

    def _act(self) -> None:
        self.process.callLater(self.every, self._act)
        self.act()

    def act(self) -> None:
        """Called every L{every} seconds."""
        for peer in list(self.peers):
            if peer.open:
                peer.act()

    def _compare(self) -> None:
        self.process.callLater(_COMPARE, self._compare)
        for peer in list(self.peers):
            if self.process.seconds() - peer.heard_at > _DEAD:
                peer.hang_up()
            peer.begin()

    # --- what it has ------------------------------------------------------------------

    def write(self, text: str) -> Message:
        """Write the next message of its own feed, and tell it to all."""
        message = self.sign(text, self.library.feeds.get(self.key, []))
        self.library.take(self.key, [message.raw])
        self.spread(self.key)
        return message

    def sign(self, text: str, feed: Sequence[Message]) -> Message:
        """@return: a message that follows others in its own feed."""
        return sign_message(
            self.identity,
            sequence=len(feed) + 1,
            previous=feed[-1].hash if feed else None,
            timestamp_ns=self.host.wall_clock(),
            content={"text": text, "type": "note"},
        )

    def take(self, author: bytes, texts: Sequence[bytes]) -> int:
        """Messages came.  @return: how many were new and follow what is here."""
        return self.library.take(author, texts)

    def prove(self, author: bytes, one: bytes, two: bytes) -> bool:
        """The proof of a fork came.  @return: was it new?"""
        return self.library.prove(author, one, two)

    def spread(self, author: bytes) -> None:
        """There is more of a feed: serve it to those who want it, tell all others."""
        for peer in list(self.peers):
            peer.news(author)

    def tell_proof(self, proof: Proof, but: LiarPeer) -> None:
        """A feed has forked: tell all others."""
        for peer in list(self.peers):
            if peer is not but and peer.wants(proof.author):
                peer.say(proof)

    def fetch_from(self, author: bytes, peer: LiarPeer) -> bool:
        """May a feed come from this connection: does it come from no other?"""
        return self._sources.setdefault(author, peer) is peer and author not in peer.fetching

    # --- its lies ---------------------------------------------------------------------

    def lied(self, way: str) -> None:
        """It has lied."""
        self.told.ways[way] += 1
        self.host.event("lie", way=way)

    def forged(self, author: bytes, leaf: Leaf, way: str = "") -> None:
        """It has sent a message that its author has not signed."""
        way = way or leaf.way
        now = self.host.clock.ns
        self.told.forge(Lie(now, way, author, leaf.sequence, leaf.hash, leaf.text))
        self.lied(way)

    def mark(self) -> str:
        """@return: the text of a lie, another one each time."""
        self._marks += 1
        return f"a lie of {self.name}, number {self._marks}"
