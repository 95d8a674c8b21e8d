"""
The part C{gossip}: dials the peers of the book, answers those who dial, and tells
all of them what is new.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, Final

import msgspec
from twisted.application.internet import ClientService, backoffPolicy
from twisted.internet.defer import CancelledError, Deferred, DeferredList, fail
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.errors import MeshkitError, PeerKeyRefused
from meshkit.gossip import operations as offered
from meshkit.gossip.digestion import Digestion
from meshkit.gossip.link import GossipLink
from meshkit.gossip.session import Claims
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IFeedStore, Interest, ISelection, MessagesStored
from meshkit.operations import BoundOperation, Nothing
from meshkit.parts import Part, PartContext, shield

#: The label of gossip's capability.
LABEL: Final = "gossip"
#: Seconds for which a peer that misbehaved is neither dialled nor let in.
BAN: Final = 600.0
#: Peers that are remembered as banned; the oldest are forgotten beyond it.
MAX_BANNED: Final = 1_000
#: Seconds for which a claim of a peer that brought nothing of it is not believed again:
#: long enough for others to be asked, short enough for a peer whose network had failed.
UNKEPT: Final = 120.0
#: Claims that are remembered as not kept; the oldest are forgotten beyond it.
MAX_UNKEPT: Final = 1_000
#: Connections with one peer, whoever opened them, also those that are being closed: a
#: further one cuts the oldest, which may be one that the peer does not know any more.
MAX_LINKS_PER_PEER: Final = 4
#: Seconds that peers have to take what is left when this node stops.
CLOSE_GRACE: Final = 5.0
#: Seconds within which the arrivals of other feeds are told together.
GATHER: Final = 0.01

MIGRATIONS: Final = (
    """
    CREATE TABLE gossip_follows (
        author BLOB PRIMARY KEY,
        added_ns INTEGER NOT NULL
    ) STRICT;
    """,
)


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section C{[gossip]}."""

    interval: Annotated[
        float,
        msgspec.Meta(ge=1, le=86_400, description="seconds between full announcements to peers"),
    ] = 300.0
    max_links: Annotated[
        int, msgspec.Meta(ge=1, le=10_000, description="connections to peers at the same time")
    ] = 256
    retry_max: Annotated[
        float,
        msgspec.Meta(ge=1, le=3_600, description="longest pause before a peer is dialled again, s"),
    ] = 60.0


class _LinkFactory(Factory):
    """
    Builds the links that are accepted, or those that are dialled at an address.
    """

    noisy = False

    def __init__(
        self, part: GossipPart, address: MeshAddress | None = None, replaces: bool = False
    ) -> None:
        self._part = part
        self._address = address
        self._replaces = replaces

    def buildProtocol(self, addr: IAddress | None) -> GossipLink | None:
        # One that replaces another is one more for a moment only.
        if self._part.is_full() and not self._replaces:
            return None
        return GossipLink(self._part, self._address)


@implementer(IStreamClientEndpoint)
class _WatchedEndpoint:
    """A peer's endpoint that tells the peer book what happened."""

    def __init__(self, part: GossipPart, address: MeshAddress, inner: Any) -> None:
        self._part = part
        self._address = address
        self._inner = inner

    def __repr__(self) -> str:
        return f"<{LABEL} at {self._address.text}>"

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        if self._part.is_banned(self._address.key):
            return fail(
                PeerKeyRefused(f"{self._address.key} is banned for {BAN:.0f} s for misbehaving")
            )
        connecting: Deferred[IProtocol] = self._inner.connect(protocolFactory)

        def connected(protocol: IProtocol) -> IProtocol:
            self._part.peers.note_connected(self._address)
            return protocol

        def failed(failure: Failure) -> Failure:
            self._part.peers.note_failed(self._address, failure.value)
            return failure

        return connecting.addCallbacks(connected, failed)


@implementer(ISelection)
class GossipPart(Part):
    """
    See the module.

    @ivar store: the feeds, L{IFeedStore}.
    @ivar claims: who fetches which feed.
    @ivar digestion: what the links received and is not stored yet.
    @ivar refused: messages that were refused, by code.
    @ivar broken: connections that ended in an error of the peer, or of the way, by code.
    @ivar hindered: connections that ended because of this node itself, by code.
    """

    _log = Logger()

    def __init__(self, context: PartContext, store: Any) -> None:
        self.reactor = context.reactor
        self.peers = context.peers
        self.store = store
        self.claims = Claims()
        self.digestion = Digestion()
        self._config: Config = context.config
        self._identity = context.identity
        self._connections = context.connections
        self._database = context.database
        self._events = context.events
        self._wall_clock: Callable[[], int] = context.wall_clock
        self._rng = context.rng
        # Links in the order in which they were made; the values say nothing.
        self._links: dict[GossipLink, None] = {}
        self._dialling: dict[str, ClientService] = {}
        # Those that will take the place of one of the above when they are connected.
        self._renewing: dict[str, ClientService] = {}
        self._follows: dict[bytes, None] = {}
        self._watchers: list[Callable[[], None]] = []
        self._banned: dict[PublicKey, float] = {}
        # Peer and feed -> until when a claim is not believed.
        self._unkept: dict[tuple[PublicKey, bytes], float] = {}
        self._news: dict[bytes, int] = {}
        self._telling: IDelayedCall | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._announcing = LoopingCall(self._announce_all)
        self._announcing.clock = self.reactor
        self._all_lost: Deferred[None] | None = None
        self.refused: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()
        self.hindered: Counter[str] = Counter()

    # --- the service -----------------------------------------------------------------

    def startService(self) -> Deferred[None]:
        super().startService()
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        rows = await self._database.read(_all_follows)
        self._follows = {author: None for (author,) in rows}
        self._unsubscribe = self._events.subscribe(MessagesStored, self._stored)
        self.peers.watch(self._dial_all)
        self._dial_all()
        self._announcing.start(self._config.interval, now=False)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
        if self._announcing.running:
            self._announcing.stop()
        if self._telling is not None and self._telling.active():
            self._telling.cancel()
        services = (*self._dialling.values(), *self._renewing.values())
        stopping = [service.stopService() for service in services]
        self._dialling.clear()
        self._renewing.clear()
        for link in list(self._links):
            link.close()
        if self._links:
            self._all_lost = Deferred()
            cut_off = self.reactor.callLater(CLOSE_GRACE, self._cut_off)
            await self._all_lost
            if cut_off.active():
                cut_off.cancel()
        await DeferredList([d for d in stopping if d is not None])

    def _cut_off(self) -> None:
        for link in list(self._links):
            link.abort()

    def capabilities(self) -> dict[str, IProtocolFactory]:
        return {LABEL: _LinkFactory(self)}

    def authorize(self, peer: PublicKey, label: str) -> bool:
        return bool(self.running) and not self.is_banned(peer) and not self.is_full()

    def status(self) -> offered.GossipStatus:
        return offered.GossipStatus(
            links=[
                offered.LinkStatus(
                    peer=link.connected_to.text,
                    dialled=link.dialled,
                    received=link.received,
                    sent=link.sent,
                    fetching=len(link.session.asked),
                )
                for link in self._links
            ],
            follows=len(self._follows),
            refused=dict(sorted(self.refused.items())),
            broken=dict(sorted(self.broken.items())),
            hindered=dict(sorted(self.hindered.items())),
        )

    def is_full(self) -> bool:
        """No further connection is taken."""
        return len(self._links) >= self._config.max_links

    # --- dialling -------------------------------------------------------------------------

    def _dial_all(self) -> None:
        """Dial what is in the book, stop dialling what is no longer in it."""
        if not self.running:
            return
        wanted = {
            address.text: address
            for address in self.peers.dialable()
            if address.key != self._identity.public
        }
        for text in [text for text in self._dialling if text not in wanted]:
            self._dialling.pop(text).stopService()
            if text in self._renewing:
                self._renewing.pop(text).stopService()
            for link in list(self._links):
                if link.address is not None and link.address.text == text:
                    link.close()
        for text, address in wanted.items():
            if text not in self._dialling:
                service = self._dialling[text] = self._service(address)
                service.startService()

    def _service(self, address: MeshAddress, replaces: bool = False) -> ClientService:
        """@return: what keeps a link to an address, not started."""
        endpoint = self._connections.endpoint(address, LABEL)
        return ClientService(
            _WatchedEndpoint(self, address, endpoint),
            _LinkFactory(self, address, replaces),
            retryPolicy=backoffPolicy(
                initialDelay=0.5,
                maxDelay=self._config.retry_max,
                factor=1.5,
                jitter=self._rng.random,
            ),
            clock=self.reactor,
        )

    def renew(self, address: MeshAddress) -> None:
        """
        The connection to an address has lasted long enough: make another one, then close
        the old one, so that nothing is missed between the two.
        """
        text = address.text
        if text in self._renewing or text not in self._dialling:
            return
        service = self._renewing[text] = self._service(address, replaces=True)
        connected = service.whenConnected()
        connected.addCallbacks(lambda _: self._renewed(address), _stopped)
        service.startService()

    def _renewed(self, address: MeshAddress) -> None:
        text = address.text
        old, self._dialling[text] = self._dialling[text], self._renewing.pop(text)
        old.stopService()
        for link in [link for link in self._links if link.address == address][:-1]:
            link.close()

    # --- links ------------------------------------------------------------------------------

    def link_made(self, link: GossipLink) -> None:
        self._links[link] = None
        if not self.running:
            # Its handshake was under way when we stopped.
            link.close()
            return
        self._log.info("gossip with {peer}", peer=str(link.connected_to), dialled=link.dialled)
        same = [other for other in self._links if other.connected_to == link.connected_to]
        # Those that are being closed first, then the oldest.  Cut and not closed: a peer
        # that never says goodbye would keep them all.
        same.sort(key=lambda other: other.open)
        for surplus in same[: max(0, len(same) - MAX_LINKS_PER_PEER)]:
            surplus.abort()
        link.announce_all()

    def link_lost(self, link: GossipLink, reason: Failure) -> None:
        self._links.pop(link, None)
        if isinstance(reason.value, MeshkitError):
            # The channel broke: a byte was changed, the end is missing, a peer is stuck.
            self.link_failed(link, reason.value)
        elif link.address is not None and not self._has_another(link):
            self.peers.note_disconnected(link.address)
        if self._links:
            self.feed_released()
        elif self._all_lost is not None:
            all_lost, self._all_lost = self._all_lost, None
            all_lost.callback(None)

    def link_failed(self, link: GossipLink, error: MeshkitError) -> None:
        """A link ends in an error: its peer misbehaved, or somebody between us did."""
        self.broken[error.code] += 1
        if link.address is not None and not self._has_another(link):
            self.peers.note_failed(link.address, error)

    def _has_another(self, link: GossipLink) -> bool:
        """Has the address of this link been connected anew already?"""
        return any(
            other is not link and other.open and other.address == link.address
            for other in self._links
        )

    def count_hindered(self, error: MeshkitError) -> None:
        """A link ends because of this node, not because of its peer."""
        self.hindered[error.code] += 1

    def fair_part(self) -> int:
        """@return: bytes that one link may have received and not digested."""
        return self.digestion.fair_part(len(self._links))

    def note_unkept(self, peer: PublicKey, author: bytes) -> None:
        """
        A peer said that it has more of a feed, and brought nothing of it: it is not asked
        for that feed for L{UNKEPT} seconds, so that it cannot keep others from it again by
        connecting again.
        """
        self._unkept.pop((peer, author), None)
        self._unkept[peer, author] = self.reactor.seconds() + UNKEPT
        while len(self._unkept) > MAX_UNKEPT:
            del self._unkept[next(iter(self._unkept))]

    def is_unkept(self, peer: PublicKey, author: bytes) -> bool:
        until = self._unkept.get((peer, author))
        return until is not None and until > self.reactor.seconds()

    def feed_released(self) -> None:
        """Some feed is no longer being fetched: whoever waits for it may ask."""
        for link in list(self._links):
            link.ask_more()

    def count_refused(self, link: GossipLink, error: MeshkitError) -> None:
        """A message that a peer sent was refused."""
        self.refused[error.code] += 1
        self._log.info(
            "message from {peer} refused: {code}: {error}",
            peer=str(link.connected_to),
            code=error.code,
            error=str(error),
        )

    def ban(self, peer: PublicKey, error: MeshkitError) -> None:
        """
        Have nothing to do with a peer for L{BAN} seconds.

        @param error: what it did last.
        """
        self._banned.pop(peer, None)
        self._banned[peer] = self.reactor.seconds() + BAN
        while len(self._banned) > MAX_BANNED:
            del self._banned[next(iter(self._banned))]
        for link in list(self._links):
            if link.connected_to == peer:
                link.drop(error)

    def is_banned(self, peer: PublicKey) -> bool:
        until = self._banned.get(peer)
        return until is not None and until > self.reactor.seconds()

    # --- telling ----------------------------------------------------------------------------

    def _stored(self, event: MessagesStored) -> None:
        self._news[event.author] = event.contiguous
        # A message of our own goes out at once, those of others gather for a moment.
        wait = 0 if event.local else GATHER
        if self._telling is None or not self._telling.active():
            self._telling = self.reactor.callLater(wait, self._tell)
        elif event.local:
            self._telling.reset(0)

    def _tell(self) -> None:
        news, self._news = list(self._news.items()), {}
        for link in list(self._links):
            link.announce(news)

    def _announce_all(self) -> None:
        for link in list(self._links):
            link.announce_all()

    # --- whom to follow -----------------------------------------------------------------------

    def wants(self, author: bytes) -> bool:
        return bool(self.selected([author]))

    def interest(self) -> Interest:
        if not self._follows:
            return Interest(all=True)
        own = self._identity.public.raw
        return Interest(all=False, authors=tuple(sorted({*self._follows, own})))

    def watch(self, callback: Callable[[], None]) -> None:
        self._watchers.append(callback)

    def selected(self, authors: Iterable[bytes]) -> list[bytes]:
        """Of some feeds, those that this node replicates."""
        if not self._follows:
            return list(authors)
        own = self._identity.public.raw
        return [author for author in authors if author in self._follows or author == own]

    def operations(self) -> Sequence[BoundOperation]:
        return (
            BoundOperation(offered.FOLLOWS, self._answer_follows),
            BoundOperation(offered.FOLLOW, self._answer_follow),
            BoundOperation(offered.UNFOLLOW, self._answer_unfollow),
        )

    def _answer_follows(self, request: Nothing) -> list[offered.Followed]:
        return [offered.Followed(PublicKey(author).text) for author in sorted(self._follows)]

    def _answer_follow(self, request: offered.Follow) -> Deferred[offered.Followed]:
        return shield(self._add_follow(request))

    async def _add_follow(self, request: offered.Follow) -> offered.Followed:
        author = PublicKey.parse(request.author)
        now_ns = self._wall_clock()
        await self._database.write(lambda connection: _follow(connection, author.raw, now_ns))
        self._follows[author.raw] = None
        self._reconsider()
        return offered.Followed(author.text)

    def _answer_unfollow(self, request: offered.Follow) -> Deferred[None]:
        return shield(self._remove_follow(request))

    async def _remove_follow(self, request: offered.Follow) -> None:
        author = PublicKey.parse(request.author)
        await self._database.write(lambda connection: _unfollow(connection, author.raw))
        self._follows.pop(author.raw, None)
        self._reconsider()

    def _reconsider(self) -> None:
        """The selection changed: look again at what the peers have."""
        for link in list(self._links):
            link.reconsider()
        for watcher in self._watchers:
            watcher()


def _stopped(failure: Failure) -> None:
    """A service was stopped before it had connected."""
    failure.trap(CancelledError)


def _all_follows(connection: sqlite3.Connection) -> list[tuple[bytes]]:
    return connection.execute("SELECT author FROM gossip_follows ORDER BY author").fetchall()


def _follow(connection: sqlite3.Connection, author: bytes, now_ns: int) -> None:
    connection.execute("INSERT OR IGNORE INTO gossip_follows VALUES (?, ?)", (author, now_ns))


def _unfollow(connection: sqlite3.Connection, author: bytes) -> None:
    connection.execute("DELETE FROM gossip_follows WHERE author = ?", (author,))


@implementer(ISelection)
class IdlePart(Part):
    """What is left of gossip in a node that keeps no feeds."""

    def wants(self, author: bytes) -> bool:
        return True

    def interest(self) -> Interest:
        return Interest(all=True)

    def watch(self, callback: Callable[[], None]) -> None:
        """It never changes."""

    def status(self) -> offered.GossipStatus:
        return offered.GossipStatus(
            links=[],
            follows=0,
            refused={},
            broken={},
            hindered={},
            idle="no enabled part provides IFeedStore",
        )


def make_part(context: PartContext) -> Part:
    store = context.find(IFeedStore)
    return IdlePart() if store is None else GossipPart(context, store)
