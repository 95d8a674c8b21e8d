"""
The part C{egregore}: dials the nodes of an Egregore network, answers those who dial, and
keeps feeds in step with them.

It is left out of a node unless C{compat = ["egregore"]} asks for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import CannotListenError, ConnectingCancelledError
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.errors import CannotListen, ConfigError, MeshkitError, PeerTooSlow, TruncatedStream
from meshkit.gossip.egregore import operations as shown
from meshkit.gossip.egregore.calling import Calling
from meshkit.gossip.egregore.datagrams import LOWEST_PORT, PORT, discriminator
from meshkit.gossip.egregore.link import EgregoreLink
from meshkit.gossip.egregore.memory import Memory, PeerMemory
from meshkit.gossip.egregore.session import Phase
from meshkit.identity.addresses import HostPort
from meshkit.identity.keys import PublicKey
from meshkit.identity.network import NetworkKey, NetworkSecret
from meshkit.identity.scopes import parse_ip
from meshkit.interfaces import (
    IFeedStore,
    IForeignProtocols,
    IMetrics,
    ISelection,
    MessagesStored,
    RoomMade,
)
from meshkit.parts import Part, PartContext
from meshkit.runtime.ledger import FULL_SCORE, Ledger
from meshkit.runtime.limits import PeerBuckets
from meshkit.runtime.metrics import CODES
from meshkit.shs.egregore import EGREGORE, EgregoreClient, network_capability
from meshkit.shs.endpoints import wrap_session
from meshkit.shs.hellos import EPHEMERAL_BYTES
from meshkit.shs.listener import Foreign

#: Seconds before a place is dialled again after a failure, at first and at most.
FIRST_PAUSE: Final = 5.0
LAST_PAUSE: Final = 300.0
#: Seconds before it is dialled again when there is something left to be fetched or told.
SOON: Final = 5.0
#: Seconds for which a connection has to be live for its end to be no failure.
LIVED: Final = 60.0
#: Connections with one peer at the same time: a live one, one to catch up, one by mistake.
MAX_LINKS_PER_PEER: Final = 3
#: Seconds for which a peer without any score left is not let in, on any wire.
BAN: Final = 600.0
#: What it costs, of a hundred, not to follow the protocol, and to be too slow.
OFFENCE_COST: Final = 20.0
SLOW_COST: Final = 4.0
#: Connections that a peer may make per second, and at once.
PACE: Final = 0.2
PACE_BURST: Final = 10.0
#: Heads that are looked through for one C{have}, and per page.
SURVEY: Final = 5_000
SURVEY_PAGE: Final = 1_000
#: Seconds that peers have to take what is left when this node stops.
CLOSE_GRACE: Final = 5.0

NOTICE: Final = (
    "whoever holds the Egregore network string can see this node's identity, and all its feeds"
)

MIGRATIONS: Final[tuple[str, ...]] = ()


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section C{[egregore]}."""

    network: Annotated[
        str,
        Meta(
            description="The network_key of the Egregore nodes; another one than this node's "
            "own network has",
            extra={"secret": True},
        ),
    ] = ""
    peers: Annotated[
        tuple[str, ...],
        Meta(description="HOST:PORT of an Egregore node to dial", extra={"flag": "peer"}),
    ] = ()
    discover: Annotated[
        bool,
        Meta(
            description="Find Egregore nodes on the local network by their datagrams, and have "
            "them find this one"
        ),
    ] = False
    push: Annotated[
        bool, Meta(description="Keep connections open and push what is new as it comes")
    ] = True
    interval: Annotated[
        float, Meta(ge=5, le=86_400, description="Seconds between complete exchanges with a peer")
    ] = 300.0
    max_links: Annotated[
        int, Meta(ge=1, le=1_000, description="Connections to Egregore nodes at the same time")
    ] = 64


class Place:
    """
    An address that is dialled, again and again.

    @ivar heard: it was called out on the local network, and not named in the settings.
    @ivar peer: who was found there last.
    @ivar live: the connection on which both sides push, if there is one.
    """

    _log = Logger()

    def __init__(self, part: EgregorePart, address: HostPort, heard: bool = False) -> None:
        self._part = part
        self.address = address
        self.heard = heard
        self.peer: PublicKey | None = None
        self.live: EgregoreLink | None = None
        self.failures = 0
        self.last_error: str | None = None
        self._stopped = False
        self._due: IDelayedCall | None = None
        self._dialling: Deferred[IProtocol] | None = None
        # The connection of the last attempt that is not live.
        self._link: EgregoreLink | None = None

    def start(self) -> None:
        """Dial now."""
        self._again(0.0)

    def stop(self) -> None:
        """Dial no more, whatever comes of what is under way."""
        self._stopped = True
        if self._due is not None and self._due.active():
            self._due.cancel()
        self._due = None
        if self._dialling is not None:
            self._dialling.cancel()

    def hurry(self) -> None:
        """There is something to be fetched: do not wait for the next regular exchange."""
        if self._due is not None and self._due.active():
            left = self._due.getTime() - self._part.reactor.seconds()
            if left > SOON:
                self._due.reset(SOON)

    def _again(self, seconds: float) -> None:
        idle = self._due is None or not self._due.active()
        if self._part.running and idle and not self._stopped:
            self._due = self._part.reactor.callLater(seconds, self._dial)

    def _dial(self) -> None:
        self._due = None
        self._dialling = self._part.endpoint(self.address).connect(_Links(self._part, self))
        self._dialling.addCallbacks(self._connected, self._not_connected)
        # A mistake of ours in these would otherwise vanish with the Deferred.
        self._dialling.addErrback(self._bug)

    def _bug(self, failure: Failure) -> None:
        self._log.failure("dialling {place} broke", failure, place=self.address.text)

    def _connected(self, link: Any) -> None:
        self._dialling = None
        self._link = link
        self.peer = link.connected_to
        if not link.open:
            self._link_over(link)

    def _not_connected(self, failure: Failure) -> None:
        self._dialling = None
        if not failure.check(CancelledError, ConnectingCancelledError):
            self._failed(_described(failure))

    def _failed(self, error: str) -> None:
        self.failures += 1
        self.last_error = error
        pause = min(FIRST_PAUSE * 2 ** min(self.failures - 1, 10), LAST_PAUSE)
        self._again(pause * (0.5 + self._part.rng.random() / 2))

    def went_live(self, link: EgregoreLink) -> None:
        """Both sides push on this connection from now on."""
        # That it lasts remains to be seen: the failures before it count until then.
        self.live = link
        self._link = None
        self.last_error = None
        self._next(link)

    def lost(self, link: EgregoreLink, error: str | None) -> None:
        """A connection that was dialled here is gone."""
        if link is self.live:
            self.live = None
            # The next complete exchange may be minutes away.
            if self._due is not None and self._due.active():
                self._due.cancel()
            if self._part.reactor.seconds() - (link.live or 0.0) < LIVED:
                self._failed(error or "the live connection ended at once")
            else:
                self.failures = 0
                self._again(SOON * self._part.rng.random())
        elif self._dialling is None:
            self._link_over(link, error)

    def _link_over(self, link: EgregoreLink, error: str | None = None) -> None:
        if link is not self._link:
            return
        self._link = None
        if link.finished:
            self.failures = 0
            self.last_error = None
            self._next(link)
        else:
            self._failed(error or "the connection ended in the middle of the exchange")

    def _next(self, link: EgregoreLink) -> None:
        """An exchange came to its end: another one follows."""
        interval: float = self._part.interval * (0.9 + self._part.rng.random() / 5)
        self._again(SOON if link.session.more else interval)

    def status(self) -> shown.EgregorePlace:
        return shown.EgregorePlace(
            place=self.address.text,
            heard=self.heard,
            peer=None if self.peer is None else self.peer.text,
            live=self.live is not None,
            failures=0 if self.live is not None else self.failures,
            last_error=self.last_error,
        )


def _described(failure: Failure) -> str:
    name = failure.type.__name__ if failure.type else "failure"
    return f"{getattr(failure.value, 'code', name)}: {failure.getErrorMessage()}"


class _Links(Factory):
    """Builds the links of those who dial us, or of one attempt to dial a place."""

    noisy = False

    def __init__(self, part: EgregorePart, place: Place | None = None) -> None:
        self._part = part
        self._place = place

    def buildProtocol(self, addr: IAddress | None) -> EgregoreLink | None:
        if self._part.is_full():
            return None
        # Beside a live connection another one is for catching up.
        catch_up = self._place is not None and self._place.live is not None
        return EgregoreLink(self._part, self._place, self._part.pushes and not catch_up)


@implementer(IForeignProtocols)
class EgregorePart(Part):
    """
    See the module.

    @ivar store: the feeds, L{IFeedStore}.
    @ivar memory: of the peers.
    @ivar ledger: how the peers behave, on all wires.
    @ivar refused: received messages that were refused, by code.
    @ivar broken: connections that ended in an error, by code.
    @ivar withheld: how often a message was left out because its reader would refuse it.
    """

    _log = Logger()

    def __init__(self, context: PartContext, store: Any, selection: Any) -> None:
        config: Config = context.config
        self.reactor = context.reactor
        self.rng = context.rng
        self.store = store
        self.own: bytes = context.identity.public.raw
        self.memory = Memory()
        self.ledger: Ledger = context.peers.ledger
        self.pushes = config.push
        self.interval = config.interval
        self._config = config
        self._identity = context.identity
        self._connections = context.connections
        self._events = context.events
        self._selection = selection
        self._capability = network_capability(config.network)
        self._places = [Place(self, HostPort.parse(text)) for text in config.peers]
        self._listening = context.listening
        self._calling: Calling | None = None
        if config.discover:
            self._calling = Calling(
                context.reactor,
                discriminator(self._capability.key),
                context.identity.public.text,
                listening=self._own_port,
                changed=self._callers_changed,
            )
        # In the order in which they were made; the values say nothing.
        self._links: dict[EgregoreLink, None] = {}
        self._comings = PeerBuckets(PACE, PACE_BURST)
        self._ends: list[Callable[[], None]] = []
        self._all_lost: Deferred[None] | None = None
        self.refused: Counter[str] = Counter()
        self.broken: Counter[str] = Counter()
        self.withheld = 0
        self._warned = 0
        self._measure(context.metrics)

    def _measure(self, metrics: IMetrics) -> None:
        metrics.gauge("links", "Connections to Egregore nodes.", lambda: len(self._links))
        metrics.count(
            "withheld_total",
            "Messages that were left out because their reader would refuse them.",
            lambda: self.withheld,
        )
        metrics.count("refused_total", "Messages that were refused.", self.refused.copy, code=CODES)
        metrics.count(
            "broken_total", "Connections that ended in an error.", self.broken.copy, code=CODES
        )

    # --- the service -------------------------------------------------------------------

    def startService(self) -> None:
        super().startService()
        self._ends = [
            self._events.subscribe(MessagesStored, self._stored),
            self._events.subscribe(RoomMade, self._room_made),
            self.store.advise(self._judge, self._told),
        ]
        if self._selection is not None:
            self._selection.watch(self._hurry)
        for place in self._places:
            place.start()
        if self._calling is not None:
            self._call_out(self._calling)

    def _call_out(self, calling: Calling) -> None:
        try:
            calling.start()
        except CannotListenError as e:
            why = getattr(e.socketError, "strerror", None) or e.socketError
            raise CannotListen(
                f"cannot listen for Egregore's datagrams at the UDP port {PORT} ({why}): stop the "
                "Egregore node of this machine, which does not share it, or leave out "
                "egregore.discover and name that node in egregore.peers"
            ) from None

    def _own_port(self) -> int | None:
        """Where others of a local network reach us, as far as they look there."""
        for place in self._listening():
            address = parse_ip(place.host)
            near_only = address is not None and address.is_loopback
            if not near_only and place.port >= LOWEST_PORT:
                return place.port
        return None

    def _callers_changed(self) -> None:
        """Dial who calls; forget who does so no more, unless it is connected."""
        assert self._calling is not None
        called = self._calling.places()
        kept = []
        for place in self._places:
            if place.heard and place.live is None and place.address not in called:
                place.stop()
            else:
                kept.append(place)
        known = {place.address for place in kept}
        new = [Place(self, each, heard=True) for each in called if each not in known]
        self._places = kept + new
        for place in new:
            place.start()

    def _hurry(self) -> None:
        """The selection of feeds changed: look again at what the peers have."""
        for place in self._places:
            place.hurry()

    def _room_made(self, event: RoomMade) -> None:
        self.memory.take_again(event.authors)
        self._hurry()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        ends, self._ends = self._ends, []
        for end in ends:
            end()
        if self._calling is not None:
            await self._calling.stop()
        for place in self._places:
            place.stop()
        for link in list(self._links):
            link.close()
        if self._links:
            self._all_lost = Deferred()
            cut_off = self.reactor.callLater(CLOSE_GRACE, self._cut_off)
            await self._all_lost
            if cut_off.active():
                cut_off.cancel()

    def _cut_off(self) -> None:
        for link in list(self._links):
            link.abort()

    def foreign(self) -> Sequence[Foreign]:
        return [Foreign(self._capability, EGREGORE, _Links(self))]

    def authorize(self, peer: PublicKey, label: str) -> bool:
        blocked = self.store.is_blocked(peer.raw)
        if blocked or self.ledger.is_banned(peer) or self.is_full():
            return False
        return not self._comings.take(peer, 1.0, self.reactor.seconds())

    def status(self) -> shown.EgregoreStatus:
        return shown.EgregoreStatus(
            notice=NOTICE,
            links=[
                shown.EgregoreLink(
                    peer=link.connected_to.text,
                    place=None if link.place is None else link.place.address.text,
                    phase=link.session.phase.name.lower(),
                    received=link.received,
                    sent=link.session.given,
                )
                for link in self._links
            ],
            places=[place.status() for place in self._places],
            refused=dict(sorted(self.refused.items())),
            broken=dict(sorted(self.broken.items())),
            withheld=self.withheld,
            warned=self._warned,
            unheard=None if self._calling is None else self._calling.fault,
        )

    def is_full(self) -> bool:
        """No further connection is taken."""
        return len(self._links) >= self._config.max_links or not self.running

    # --- links ---------------------------------------------------------------------------

    def endpoint(self, address: HostPort) -> Any:
        """How to dial."""
        beneath = self._connections.beneath(address)
        return wrap_session(self.reactor, beneath, self._begin, name="egregore")

    def _begin(self) -> EgregoreClient:
        return EgregoreClient(self._identity, self._capability, self.rng.randbytes(EPHEMERAL_BYTES))

    def link_made(self, link: EgregoreLink) -> None:
        self._links[link] = None
        peer = link.connected_to
        if not self.running or self.ledger.is_banned(peer):
            # Its handshake was under way when we stopped, or we dialled it.
            link.close()
            return
        same = [other for other in self._links if other.connected_to == peer]
        # Those that are being closed first, then the oldest that is not live.
        same.sort(key=lambda other: (other.open, other.live is not None))
        for surplus in same[: max(0, len(same) - MAX_LINKS_PER_PEER)]:
            surplus.abort()

    def link_lost(self, link: EgregoreLink, reason: Failure) -> None:
        self._links.pop(link, None)
        error = reason.value if isinstance(reason.value, MeshkitError) else None
        # Their nodes may hang up without a goodbye when nothing is left to be said.
        harmless = isinstance(error, TruncatedStream) and link.finished
        if error is not None and not harmless and link.failure is None:
            self.broken[error.code] += 1
        if link.place is not None:
            told = link.failure or (None if harmless else error)
            link.place.lost(link, None if told is None else f"{told.code}: {told}")
        if not self._links and self._all_lost is not None:
            all_lost, self._all_lost = self._all_lost, None
            all_lost.callback(None)

    def link_failed(self, link: EgregoreLink, error: MeshkitError) -> None:
        """A link ends because of its peer."""
        self.broken[error.code] += 1
        slow = isinstance(error, PeerTooSlow)
        self._offend(link, error, SLOW_COST if slow else OFFENCE_COST)

    def _offend(self, link: EgregoreLink, error: MeshkitError, cost: float) -> None:
        peer = link.connected_to
        left = self.ledger.offend(peer, error.code, str(error), cost)
        if left < 1 and not self.ledger.is_banned(peer):
            self.ledger.ban(peer, BAN)

    def link_is_live(self, link: EgregoreLink) -> None:
        self._log.info("egregore: live with {peer}", peer=str(link.connected_to))
        if link.place is not None:
            link.place.went_live(link)

    def has_room_to_live(self, link: EgregoreLink) -> bool:
        """Is there no other live connection with this peer, nor one that we are asking for?"""
        # Who asks us at the same moment is answered: else both could refuse each other.
        taken = (Phase.LIVE,) if link.place is None else (Phase.LIVE, Phase.ANSWER)
        return not any(
            other.open and other.connected_to == link.connected_to and other.session.phase in taken
            for other in self._links
            if other is not link
        )

    def catch_up(self, link: EgregoreLink) -> None:
        """
        Pushing does not do with this peer: something was pushed whose predecessors are
        missing here, or a feed is new of which it has to be asked whether it wants it.
        """
        for place in self._places:
            if place is link.place or place.peer == link.connected_to:
                place.hurry()

    def ban(self, link: EgregoreLink, error: MeshkitError) -> None:
        """
        Have nothing to do with a peer for L{BAN} seconds.

        @param error: what it did last.
        """
        peer = link.connected_to
        self.broken[error.code] += 1
        self._offend(link, error, FULL_SCORE)
        for other in list(self._links):
            if other.connected_to == peer:
                other.cut(error)

    # --- what is exchanged -------------------------------------------------------------------

    def wants(self, author: bytes) -> bool:
        """Is this author's feed replicated here?"""
        if self._selection is None or author == self.own:
            return True
        wanted: bool = self._selection.wants(author)
        return wanted

    def topics(self) -> tuple[str, ...]:
        """The topics that this node is to be sent; none for everything."""
        if self._selection is None:
            return ()
        interest = self._selection.interest()
        # A topic filter at their side would hold back the authors that are followed.
        return () if interest.all or interest.authors else tuple(interest.topics)

    async def heads_for(self, memory: PeerMemory) -> list[tuple[bytes, int]]:
        """What is complete here, from a peer's cursor on and round, L{SURVEY} at most."""
        heads: list[tuple[bytes, int]] = []
        start = after = memory.cursor
        wrapped = False
        while len(heads) < SURVEY:
            page = await self.store.heads(after=after, limit=SURVEY_PAGE)
            if wrapped:
                page = [head for head in page if head[0] <= start]
            heads += page
            if len(page) == SURVEY_PAGE:
                after = page[-1][0]
            elif wrapped or not start:
                break
            else:
                wrapped, after = True, b""
        return heads[:SURVEY]

    def _stored(self, event: MessagesStored) -> None:
        for link in list(self._links):
            link.announce(event.author, event.contiguous)

    def _judge(self, raw: bytes) -> str | None:
        why: str | None = self.store.refused_by_egregore(raw)
        if why is None:
            return None
        return f"Egregore nodes refuse this message, so it is not sent to them: {why}"

    def _told(self, count: int) -> None:
        self._warned += count


def _check_network(config: Config, own: NetworkKey) -> None:
    if not config.network:
        raise ConfigError(
            "egregore.network is not set: give the network_key of the Egregore nodes, or take "
            "egregore out of compat"
        )
    text = config.network.strip()
    try:
        same = text.startswith("mknet") or own.weak
        clash = same and NetworkSecret.from_setting(text).key().net_id == own.net_id
    except MeshkitError:
        # It begins like a network secret and is none.
        clash = False
    if clash:
        raise ConfigError(
            "egregore.network is the secret of this node's own network: every Egregore node "
            "could take part in that, so choose another one"
        )


def make_part(context: PartContext) -> EgregorePart:
    _check_network(context.config, context.network)
    return EgregorePart(context, context.find(IFeedStore), context.find(ISelection))
