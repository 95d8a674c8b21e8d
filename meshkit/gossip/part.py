"""
The part C{gossip}: dials the peers of the book, answers those who dial, and hands on
what is new.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Annotated, Any, Final

import msgspec
from twisted.application.internet import ClientService
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

from meshkit.errors import ConfigError, IdentityError, MeshkitError, PeerKeyRefused
from meshkit.gossip import operations as offered
from meshkit.gossip.codec import MAX_TOPIC
from meshkit.gossip.comparing import Rooms
from meshkit.gossip.digestion import Digestion
from meshkit.gossip.fetching import PROMISE_COST
from meshkit.gossip.link import GossipLink
from meshkit.gossip.selection import MAX_AUTHORS, MAX_TOPICS, Selection
from meshkit.gossip.selection import MIGRATIONS as MIGRATIONS
from meshkit.gossip.spread import Partner, Spread
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import (
    BlocksChanged,
    FeedRotated,
    ForkProven,
    Frontier,
    IAdvisesAgents,
    IFeedStore,
    IMetrics,
    Interest,
    ISelection,
    IWantsFiles,
    MessagesStored,
    NodeWoke,
    PathFound,
    RoomMade,
)
from meshkit.operations import BoundOperation, Nothing
from meshkit.parts import Part, PartContext, shield
from meshkit.runtime.ledger import Ledger
from meshkit.runtime.metrics import CODES

#: The label of gossip's capability, and which generation of it is spoken.
LABEL: Final = "gossip"
VERSION: Final = 2
#: Seconds for which a peer that misbehaved is neither dialled nor let in.
BAN: Final = 600.0
#: Connections with one peer, whoever opened them, also those that are being closed: a
#: further one cuts the oldest, which may be one that the peer does not know any more.
MAX_LINKS_PER_PEER: Final = 4
#: Connections that fit into the open files that a node has for all of its parts.
COMMON_LINKS: Final = 256
#: Seconds without a message, of either side, after which a connection that the peer has opened
#: gives way to a newcomer if there is room for no more.
IDLE_LINK: Final = 60.0
#: Seconds that peers have to take what is left when this node stops.
CLOSE_GRACE: Final = 5.0
#: Seconds within which what is new is told together.
GATHER: Final = 0.01
#: Seconds between looks at what nobody reports.
LOOK_AROUND: Final = 30.0
#: Ends of feeds that are read at a time.
ROTATIONS: Final = 1_000
#: Authors of the interests of all peers together, beyond the first thousand of each.
MAX_INTEREST: Final = 500_000
#: Seconds before a peer is dialled again, at first; then half as much more each time, and of
#: that a random part, so that those who lost one peer do not come back together.
FIRST_RETRY: Final = 1.0
#: Seconds for which a connection has to last to be one: who hangs up sooner is dialled again
#: later and later, like one who is not there.
LASTING: Final = 30.0
LEAST_RETRY: Final = 0.1
_RETRY_FACTOR: Final = 1.5


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section C{[gossip]}."""

    interval: Annotated[
        float,
        msgspec.Meta(ge=1, le=86_400, description="seconds between full comparisons with peers"),
    ] = 300.0
    max_links: Annotated[
        int, msgspec.Meta(ge=1, le=10_000, description="connections to peers at the same time")
    ] = COMMON_LINKS
    retry_max: Annotated[
        float,
        msgspec.Meta(ge=1, le=3_600, description="longest pause before a peer is dialled again, s"),
    ] = 60.0
    follow: Annotated[
        tuple[str, ...], msgspec.Meta(description="id of an author whose feed is replicated")
    ] = ()
    topics: Annotated[
        tuple[str, ...],
        msgspec.Meta(description="tag; feeds that use it are replicated", extra={"flag": "topic"}),
    ] = ()

    def followed(self) -> tuple[bytes, ...]:
        """
        @return: the keys in C{follow}.
        @raise ConfigError: if one is no id, or there are too many.
        """
        if len(self.follow) > MAX_AUTHORS - 1:
            raise ConfigError(f"gossip.follow: {MAX_AUTHORS - 1} authors are the limit")
        try:
            return tuple(PublicKey.parse(text).raw for text in self.follow)
        except IdentityError as e:
            raise ConfigError(f"gossip.follow: {e}") from None

    def subscribed(self) -> tuple[str, ...]:
        """
        @return: C{topics}.
        @raise ConfigError: if one cannot be a tag, or there are too many.
        """
        if len(self.topics) > MAX_TOPICS:
            raise ConfigError(f"gossip.topics: {MAX_TOPICS} topics are the limit")
        for topic in self.topics:
            if not 0 < len(topic) <= MAX_TOPIC:
                raise ConfigError(f"gossip.topics: a topic has 1 to {MAX_TOPIC} characters")
        return self.topics


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
        full = self._part.is_full() and not self._replaces
        if full and (self._address is not None or not self._part.make_room()):
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


@implementer(ISelection, IAdvisesAgents, IWantsFiles)
class GossipPart(Part):
    """
    See the module.

    @ivar store: the feeds, L{IFeedStore}.
    @ivar ledger: how the peers behave.
    @ivar spread: from whom each feed comes, who is told, who is pushed to.
    @ivar selection: what this node replicates.
    @ivar rooms: how many feeds are compared at the same time.
    @ivar digestion: what the links received and is not stored yet.
    @ivar refused: messages that were refused, by code.
    @ivar broken: connections that ended in an error of the peer, or of the way, by code.
    @ivar hindered: connections that ended because of this node itself, by code.
    @ivar files: see L{IWantsFiles}.
    """

    _log = Logger()

    def __init__(self, context: PartContext, store: Any) -> None:
        self.reactor = context.reactor
        self.peers = context.peers
        self.ledger: Ledger = context.peers.ledger
        self.store = store
        self.spread = Spread()
        self.rooms = Rooms()
        self.digestion = Digestion()
        self._config: Config = context.config
        self.files = max(0, self._config.max_links - COMMON_LINKS)
        self.selection = Selection(
            context.identity.public.raw,
            context.reactor,
            context.database,
            store,
            context.wall_clock,
            self._config.followed(),
            self._config.subscribed(),
        )
        self._identity = context.identity
        self._connections = context.connections
        self._events = context.events
        self._rng = context.rng
        # Links in the order in which they were made, by what is known of their peers' feeds.
        self._links: dict[GossipLink, None] = {}
        self._by_partner: dict[Partner, GossipLink] = {}
        self._dialling: dict[str, ClientService] = {}
        # Addresses at which connections end as soon as they are made -> how many in a row.
        self._short_lived: dict[str, int] = {}
        # Those that will take the place of one of the above when they are connected.
        self._renewing: dict[str, ClientService] = {}
        self._telling: IDelayedCall | None = None
        self._grafting: IDelayedCall | None = None
        self._unsubscribe: list[Callable[[], None]] = []
        self._comparing = LoopingCall(self._compare_all)
        self._comparing.clock = self.reactor
        self._looking = LoopingCall(self._look_around)
        self._looking.clock = self.reactor
        self._all_lost: Deferred[None] | None = None
        self.refused: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()
        self.hindered: Counter[str] = Counter()
        self._links_made = 0
        self._measure(context.metrics)

    def _measure(self, metrics: IMetrics) -> None:
        metrics.gauge("links", "Connections to peers.", lambda: len(self._links))
        metrics.count("links_made_total", "Connections that were made.", lambda: self._links_made)
        metrics.gauge(
            "fetching",
            "Feeds that are being fetched.",
            lambda: sum(len(link.partner.due) for link in self._links),
        )
        metrics.gauge(
            "lacking",
            "Feeds of which a peer had less than this node for a minute.",
            lambda: sum(link.telling.lacking() for link in self._links),
        )
        for name, doc, counts in (
            ("refused_total", "Messages that were refused.", self.refused),
            ("broken_total", "Connections that ended in an error of the peer.", self.broken),
            ("hindered_total", "Connections that ended by a problem of ours.", self.hindered),
        ):
            metrics.count(name, doc, counts.copy, code=CODES)

    # --- the service -----------------------------------------------------------------

    def startService(self) -> Deferred[None]:
        super().startService()
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        await self.selection.load()
        await self._follow_on()
        self.selection.watch(self._reselected)
        self._unsubscribe = [
            self._events.subscribe(MessagesStored, self._stored),
            self._events.subscribe(ForkProven, self._fork_proven),
            self._events.subscribe(FeedRotated, self._feed_rotated),
            self._events.subscribe(BlocksChanged, self._blocks_changed),
            self._events.subscribe(RoomMade, self._room_made),
            self._events.subscribe(PathFound, self._path_found),
            self._events.subscribe(NodeWoke, self._woke),
        ]
        self.peers.watch(self._dial_all)
        self._dial_all()
        self._comparing.start(self._config.interval, now=False)
        self._looking.start(LOOK_AROUND, now=False)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        self.selection.stop()
        for looping in (self._comparing, self._looking):
            if looping.running:
                looping.stop()
        for due in (self._telling, self._grafting):
            if due is not None and due.active():
                due.cancel()
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

    def capabilities(self) -> dict[Any, IProtocolFactory]:
        return {(LABEL, VERSION): _LinkFactory(self)}

    def authorize(self, peer: PublicKey, label: str) -> bool:
        blocked = self.store.is_blocked(peer.raw)
        if not self.running or blocked or self.is_banned(peer):
            return False
        return not self.is_full() or self._idlest() is not None

    def status(self) -> offered.GossipStatus:
        return offered.GossipStatus(
            links=[
                offered.LinkStatus(
                    peer=link.connected_to.text,
                    dialled=link.dialled,
                    received=link.received,
                    sent=link.sent,
                    fetching=len(link.partner.due),
                    on=len(link.partner.on),
                    lacks=link.telling.lacking(),
                )
                for link in self._links
            ],
            follows=len(self.selection.follows()),
            topics=len(self.selection.topics()),
            tagged=self.selection.tagged,
            refused=dict(sorted(self.refused.items())),
            broken=dict(sorted(self.broken.items())),
            hindered=dict(sorted(self.hindered.items())),
        )

    def advice(self) -> list[str]:
        """See L{IAdvisesAgents}."""
        if self._links:
            return []
        return [
            "No peer is connected: what is published stays here, and nothing new arrives. Add the "
            "address of a peer, if your owner names one."
        ]

    def is_full(self) -> bool:
        """No further connection is taken."""
        return len(self._links) >= self._config.max_links

    def make_room(self) -> bool:
        """@return: has a link that was idle given way to another?"""
        idlest = self._idlest()
        if idlest is None:
            return False
        # Cut and not closed, and counted no more: a peer that never says goodbye would keep it.
        idlest.abort()
        self._let_go(idlest)
        return True

    def _idlest(self) -> GossipLink | None:
        """@return: of the links that peers have opened, the one to go if one has to."""
        before = self.reactor.seconds() - IDLE_LINK
        idle = [link for link in self._links if not link.dialled and link.moved <= before]
        return min(idle, key=lambda link: link.moved, default=None)

    # --- dialling -------------------------------------------------------------------------

    def _dial_all(self) -> None:
        """Dial what is in the book, stop dialling what is no longer in it."""
        if not self.running:
            return
        wanted = {
            address.text: address
            for address in self.peers.dialable()
            if address.key != self._identity.public and not self.store.is_blocked(address.key.raw)
        }
        for text in [text for text in self._dialling if text not in wanted]:
            self._dialling.pop(text).stopService()
            self._short_lived.pop(text, None)
            if text in self._renewing:
                self._renewing.pop(text).stopService()
            for link in list(self._links):
                if link.address is not None and link.address.text == text:
                    link.close()
        for text, address in wanted.items():
            if text not in self._dialling:
                service = self._dialling[text] = self._service(address)
                service.startService()

    def _woke(self, event: NodeWoke) -> None:
        """
        Dial at once who waits to be dialled again, as if nothing had failed before; and have
        those who are connected say that they are, as they may not know of it.
        """
        self._short_lived.clear()
        connected = {link.address for link in self._links if link.open}
        for address in self.peers.dialable():
            if address.text in self._dialling and address not in connected:
                self._dialling.pop(address.text).stopService()
        for link in list(self._links):
            link.prove()
        self._dial_all()

    def _service(self, address: MeshAddress, replaces: bool = False) -> ClientService:
        """@return: what keeps a link to an address, not started."""
        endpoint = self._connections.endpoint(address, LABEL, VERSION)
        return ClientService(
            _WatchedEndpoint(self, address, endpoint),
            _LinkFactory(self, address, replaces),
            retryPolicy=partial(self._pause, address.text),
            clock=self.reactor,
        )

    def _pause(self, address: str, attempts: int) -> float:
        """@return: seconds before a peer is dialled again."""
        attempts += self._short_lived.get(address, 0)
        # The exponent has an end, as a float has one.
        longest = FIRST_RETRY * _RETRY_FACTOR ** min(attempts, 100)
        return float(self._rng.uniform(LEAST_RETRY, min(longest, self._config.retry_max)))

    def _path_found(self, event: PathFound) -> None:
        """A peer is to be had without its relay."""
        for link in list(self._links):
            if link.connected_to.raw == event.peer and link.relayed and link.address is not None:
                self.renew(link.address)

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
        self._links_made += 1
        self._by_partner[link.partner] = link
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

    def link_lost(self, link: GossipLink, reason: Failure) -> None:
        self._let_go(link)
        if link.address is not None and link.address.text in self._dialling:
            if link.lasted < LASTING:
                # Being let in for a moment is no success.
                lost = self._short_lived.get(link.address.text, 0)
                self._short_lived[link.address.text] = lost + 1
            else:
                self._short_lived.pop(link.address.text, None)
        if isinstance(reason.value, MeshkitError):
            # The channel broke: a byte was changed, the end is missing, a peer is stuck.
            self.link_failed(link, reason.value)
        elif link.address is not None and not self._has_another(link):
            self.peers.note_disconnected(link.address)
        if self._links:
            self.ask_all()
        elif self._all_lost is not None:
            all_lost, self._all_lost = self._all_lost, None
            all_lost.callback(None)

    def _let_go(self, link: GossipLink) -> None:
        self._links.pop(link, None)
        self._by_partner.pop(link.partner, None)

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

    def make_nonce(self, size: int) -> bytes:
        return self._rng.randbytes(size)

    def has_room_for(self, authors: int) -> bool:
        """May a peer name so many more authors?"""
        held = sum(len(link.interest) for link in self._links)
        return held + authors <= MAX_INTEREST

    def ask_all(self) -> None:
        """Some feed has no source any more: whoever has more of it may be asked."""
        for link in list(self._links):
            link.fetching.ask_more()
        self._watch_grafts()

    def ask(self, link: GossipLink) -> None:
        """One peer has more of a feed, as far as is known here already."""
        link.fetching.ask_more()
        self._watch_grafts()

    def prefer_author(self, author: bytes, failed: GossipLink) -> None:
        """
        A feed did not come from a peer: its author, if we have a link, is the best source;
        unless it was the author.  Another link of one key may lead to another node with that
        key, which has another branch: asked instead, it would hide what the first one has.
        """
        if failed.connected_to.raw == author:
            return
        for link in list(self._links):
            if link.connected_to.raw == author:
                link.fetching.prefer_own_feed()

    def turn_off(self, partner: Partner, authors: Sequence[bytes]) -> None:
        """Tell a peer that feeds were turned off."""
        link = self._by_partner.get(partner)
        if link is not None:
            link.fetching.tell_off(authors)

    async def frontier(self, authors: Sequence[bytes]) -> dict[bytes, Frontier]:
        """How far we have some feeds."""
        here = await self.store.frontier(sorted(authors))
        return {each.author: each for each in here}

    # --- who behaves how --------------------------------------------------------------------

    def offend(self, link: GossipLink, error: MeshkitError, cost: float) -> None:
        """
        A peer did what costs it score; with none left it is banned.

        @param cost: of a hundred.
        """
        peer = link.connected_to
        left = self.ledger.offend(peer, error.code, str(error), cost)
        if left < 1 and not self.is_banned(peer):
            self.ban(peer, error)

    def promise_broken(self, link: GossipLink, error: MeshkitError) -> None:
        """A peer did not bring what it said it has."""
        self.offend(link, error, PROMISE_COST)
        if link.open and self.spread.strike(link.partner, self.reactor.seconds()):
            self._log.info("{peer} is lazy for an hour", peer=str(link.connected_to))
            for other in list(self._links):
                if other.connected_to == link.connected_to:
                    other.fetching.turn_off(list(other.partner.on))

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
        self.ledger.ban(peer, BAN)
        for link in list(self._links):
            if link.connected_to == peer:
                link.drop(error)

    def is_banned(self, peer: PublicKey) -> bool:
        return self.ledger.is_banned(peer)

    # --- what is new ------------------------------------------------------------------------

    async def _follow_on(self) -> None:
        """
        Follow those who go on for authors that are followed; and, so that it spreads, the
        feed that this node's own follows.
        """
        after = b""
        while page := await self.store.rotations(after=after, limit=ROTATIONS):
            for end in page:
                if end.successor == self._identity.public.raw and self.selection.authors():
                    await self.selection.follow(end.author)
                await self._followed_on(end)
            after = page[-1].author

    async def _followed_on(self, end: FeedRotated) -> None:
        own = self._identity.public.raw
        followed = self.selection.authors()
        if end.author in followed and end.successor not in (*followed, own):
            await self.selection.follow(end.successor)
            self._log.info(
                "{new} is followed, as which {old} goes on",
                new=PublicKey(end.successor).text,
                old=PublicKey(end.author).text,
            )

    def _feed_rotated(self, event: FeedRotated) -> None:
        shield(self._followed_on(event)).addErrback(self._not_followed_on)

    def _not_followed_on(self, reason: Failure) -> None:
        # The database is stopping, or the disk is full: it is done at the next start.
        self._log.failure("who goes on for an author could not be followed", reason)

    def _stored(self, event: MessagesStored) -> None:
        author, last = event.author, event.contiguous
        self.selection.stored(event)
        tags = {tag: None for message in event.messages for tag in message.tags}
        if tags:
            for link in list(self._links):
                link.telling.used_topic(author, tags)
        self.spread.stored(author, last, self.reactor.seconds())
        # What waits for one before it is nobody's business yet.
        new = sorted((m.sequence, m.raw) for m in event.messages if m.sequence <= last)
        if not new:
            return
        first = new[0][0]
        texts = [raw for _, raw in new] if len(new) == last - first + 1 else None
        told = False
        for link in list(self._links):
            told |= link.telling.forward(author, first, last, texts)
        if told and (self._telling is None or not self._telling.active()):
            self._telling = self.reactor.callLater(GATHER, self._tell)
        self._watch_grafts()

    def _tell(self) -> None:
        for link in list(self._links):
            link.telling.tell_news()

    def _fork_proven(self, event: ForkProven) -> None:
        self.spread.forked(event.author, event.sequence)
        for link in list(self._links):
            link.telling.fork_proven(event.author, event.sequence)
        self.ask_all()

    def _watch_grafts(self) -> None:
        """Look at what others are ahead of when it is time to."""
        due = self.spread.next_graft()
        if due is None or not self.running:
            return
        if self._grafting is not None and self._grafting.active():
            return
        self._grafting = self.reactor.callLater(max(0.0, due - self.reactor.seconds()), self._graft)

    def _graft(self) -> None:
        for partner, author in self.spread.grafts(self.reactor.seconds()):
            self.turn_off(partner, [author])
        self.ask_all()

    def _compare_all(self) -> None:
        for link in list(self._links):
            if link.dialled:
                link.telling.compare_again()

    def _look_around(self) -> None:
        """What nobody reports: peers are not lazy any more, messages are gone everywhere."""
        self.ask_all()
        for author, until, head in self.spread.gaps(self.reactor.seconds()):
            self.store.skip(author, until, head).addErrback(self._not_skipped)

    def _not_skipped(self, failure: Failure) -> None:
        self._log.warn("a gap was not taken over: {error}", error=str(failure.value))

    def own_feed_seen(self, peer: PublicKey, sequence: int) -> None:
        """A peer has shown how far it has our own feed."""
        note = getattr(self.store, "note_own_seen", None)
        if note is not None:
            note(peer.raw, sequence).addErrback(self._not_noted)

    def _not_noted(self, failure: Failure) -> None:
        self._log.warn("how far peers have our feed: {error}", error=str(failure.value))

    # --- whom to follow -----------------------------------------------------------------------

    def wants(self, author: bytes) -> bool:
        return self.selection.wants(author)

    def interest(self) -> Interest:
        return self.selection.interest()

    def watch(self, callback: Callable[[], None]) -> None:
        self.selection.watch(callback)

    def add_kept(self, authors: Collection[bytes]) -> Callable[[], None]:
        self.selection.keep(authors)
        return self._kept_changed

    def _kept_changed(self) -> None:
        if self.running:
            self.selection.changed()

    def _blocks_changed(self, event: BlocksChanged) -> None:
        if event.blocked:
            peer = PublicKey(event.author)
            for link in [link for link in self._links if link.connected_to == peer]:
                link.close()
        self._dial_all()
        self.selection.changed()

    def _room_made(self, event: RoomMade) -> None:
        for author in event.authors:
            if self.selection.wants(author):
                self.spread.take_again(author)
        self.ask_all()

    def _reselected(self) -> None:
        """The selection changed: tell it, let go of the rest, compare again."""
        interest = self.selection.interest()
        for link in list(self._links):
            link.send_interest(interest)
            known = (*link.partner.on, *link.partner.claims)
            for author in [a for a in known if not self.selection.wants(a)]:
                for partner in self.spread.drop_feed(author):
                    self.turn_off(partner, [author])
            if link.dialled:
                # The others compare when they hear the interest.
                link.telling.compare_again()

    def operations(self) -> Sequence[BoundOperation]:
        return (
            BoundOperation(offered.FOLLOWS, self._answer_follows),
            BoundOperation(offered.FOLLOW, self._answer_follow),
            BoundOperation(offered.UNFOLLOW, self._answer_unfollow),
            BoundOperation(offered.TOPICS, self._answer_topics),
            BoundOperation(offered.SUBSCRIBE, self._answer_subscribe),
            BoundOperation(offered.UNSUBSCRIBE, self._answer_unsubscribe),
        )

    def _answer_follows(self, request: Nothing) -> list[offered.Followed]:
        return [
            offered.Followed(PublicKey(author).text, "config" if configured else "added")
            for author, configured in self.selection.follows()
        ]

    def _answer_follow(self, request: offered.Follow) -> Deferred[offered.Followed]:
        author = PublicKey.parse(request.author)
        followed = self.selection.follow(author.raw)
        return followed.addCallback(
            lambda _: offered.Followed(author.text, _origin(self.selection.follows(), author.raw))
        )

    def _answer_topics(self, request: Nothing) -> list[offered.Subscribed]:
        return [
            offered.Subscribed(topic, "config" if configured else "added")
            for topic, configured in self.selection.topics()
        ]

    def _answer_subscribe(self, request: offered.Topic) -> Deferred[offered.Subscribed]:
        topic = request.topic
        return self.selection.subscribe(topic).addCallback(
            lambda _: offered.Subscribed(topic, _origin(self.selection.topics(), topic))
        )

    def _answer_unsubscribe(self, request: offered.Topic) -> Deferred[None]:
        return self.selection.unsubscribe(request.topic)

    def _answer_unfollow(self, request: offered.Follow) -> Deferred[None]:
        return self.selection.unfollow(PublicKey.parse(request.author).raw)


def _origin(entries: Sequence[tuple[Any, bool]], subject: Any) -> offered.Origin:
    return "config" if (subject, True) in entries else "added"


def _stopped(failure: Failure) -> None:
    """A service was stopped before it had connected."""
    failure.trap(CancelledError)


@implementer(ISelection)
class IdlePart(Part):
    """What is left of gossip in a node that keeps no feeds."""

    def wants(self, author: bytes) -> bool:
        return True

    def interest(self) -> Interest:
        return Interest(all=True)

    def watch(self, callback: Callable[[], None]) -> None:
        """It never changes."""

    def add_kept(self, authors: Collection[bytes]) -> Callable[[], None]:
        return lambda: None

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
