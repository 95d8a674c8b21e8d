"""
The part C{exchange}: a L{Keeper <meshkit.discovery.exchange.keeper.Keeper>} in a node.

It serves and asks for address records, keeps what it knows over a restart, and notices when the
machine was asleep.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.discovery.exchange import operations as offered
from meshkit.discovery.exchange import store
from meshkit.discovery.exchange.asking import Asking
from meshkit.discovery.exchange.health import Health, Rhythm
from meshkit.discovery.exchange.keeper import SOURCE, Keeper, shown_link
from meshkit.discovery.exchange.known import Known
from meshkit.discovery.exchange.store import MIGRATIONS as MIGRATIONS
from meshkit.discovery.exchange.wire import BURST, FIND, GREET, LABEL, RATE, VERSION
from meshkit.errors import AddressRecordInvalid, InvalidAddress, NotFound, NotReady
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.identity.records import MAX_ADDRESSES, MAX_LIFETIME, AddressRecord, next_sequence
from meshkit.identity.scopes import Scope
from meshkit.interfaces import (
    IAdvisesAgents,
    IFeedStore,
    IMetrics,
    IPeerFinder,
    NodeWoke,
)
from meshkit.operations import BoundOperation, Nothing
from meshkit.parts import Part, PartContext
from meshkit.rpc.methods import Dispatcher
from meshkit.rpc.protocol import RPCFactory
from meshkit.runtime.ledger import Account
from meshkit.runtime.limits import PeerBuckets
from meshkit.runtime.moments import rfc3339
from meshkit.runtime.peers import PeerEntry

__all__ = ["MIGRATIONS", "TICK", "Config", "ExchangePart", "make_part"]

#: Seconds between looks at the clock, and at whom it is time to look at.
TICK: Final = 5.0
#: Milliseconds for which a record that this part has sealed is good; it is renewed at half.
LIFETIME: Final = MAX_LIFETIME


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section C{[exchange]}."""

    health: Annotated[
        float,
        Meta(ge=5, le=86_400, description="seconds between looks at a peer that was not heard of"),
    ] = 60.0
    idle: Annotated[
        float,
        Meta(
            ge=5, le=86_400, description="seconds without a sign of a peer before it is looked at"
        ),
    ] = 300.0
    suspect: Annotated[
        int, Meta(ge=1, le=100, description="looks in a row that fail before a peer is suspect")
    ] = 3
    longest: Annotated[
        float, Meta(ge=60, le=86_400, description="longest pause between looks at a suspect, s")
    ] = 3_600.0
    more: Annotated[
        int,
        Meta(
            ge=0,
            le=64,
            description="peers to dial beyond those in the peer book, of those that others know",
        ),
    ] = 0
    sleep: Annotated[
        float,
        Meta(
            ge=10,
            le=86_400,
            description="seconds in which nothing ran after which the machine was asleep",
        ),
    ] = 30.0


@implementer(IAdvisesAgents)
class ExchangePart(Part):
    """
    See the module.

    @ivar keeper: who keeps in touch.
    """

    _log = Logger()

    def __init__(self, context: PartContext) -> None:
        config: Config = context.config
        self._context = context
        self._config = config
        self._reactor = context.reactor
        self._peers = context.peers
        self._store = context.find(IFeedStore)
        self._finder = context.find(IPeerFinder)
        self._own_record: AddressRecord | None = None
        self._sequence = 0
        self._woke = 0
        self._woke_ns = 0
        self._ticked = 0.0
        self._ticked_ns = 0
        self._dirty: dict[PublicKey, None] = {}
        self._writing: Deferred[None] | None = None
        self._loaded = False
        dispatcher = Dispatcher()
        known = Known(self)
        self.keeper = Keeper(
            context.reactor,
            Asking(context.reactor, context.connections, dispatcher),
            own=context.identity.public,
            network=context.network.net_id,
            rng=context.rng,
            wall_clock=context.wall_clock,
            peers=context.peers,
            health=Health(Rhythm(config.health, config.idle, config.suspect, config.longest)),
            known=known,
            own_record=self._own,
            shunned=self._shunned,
            find_peer=None if self._finder is None else self._finder.find_peer,
            publish=context.events.publish,
            changed=self._changed,
            more=config.more,
        )
        dispatcher.serve(GREET, self.keeper.greet)
        dispatcher.serve(FIND, self.keeper.find)
        self._factory = RPCFactory(context.reactor, dispatcher, buckets=PeerBuckets(RATE, BURST))
        self._ticking = LoopingCall(self._tick)
        self._ticking.clock = context.reactor
        self._measure(context.metrics)

    def _measure(self, metrics: IMetrics) -> None:
        keeper = self.keeper
        metrics.gauge("watched", "Peers that are looked after.", lambda: len(keeper.health))
        metrics.gauge(
            "suspect",
            "Peers that have not answered several times in a row.",
            lambda: len(keeper.health.suspects()),
        )
        metrics.gauge("records", "Address records that are known.", lambda: len(keeper.known))
        metrics.count("looks_total", "Looks at peers.", lambda: keeper.looks)
        metrics.count("missed_total", "Looks at peers that failed.", lambda: keeper.missed)
        metrics.count("moved_total", "Peers that were found somewhere else.", lambda: keeper.found)
        metrics.count(
            "outdated_total",
            "Records that peers gave although newer ones are known.",
            lambda: keeper.outdated_records,
        )
        metrics.count("woke_total", "How often this node was asleep.", lambda: self._woke)

    def __contains__(self, key: object) -> bool:
        """Has this node to do with a peer, so that its record is not forgotten?"""
        return key in self.keeper.health

    # --- the service ----------------------------------------------------------------------

    def startService(self) -> Deferred[None]:
        super().startService()
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        self._take_up(await self._context.database.read(store.load))
        self._loaded = True
        self._peers.watch(self._peers_changed)
        self._peers.watch_links(self._link_changed)
        self.keeper.start()
        self._ticked, self._ticked_ns = self._reactor.seconds(), self._context.wall_clock()
        self._ticking.start(TICK)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._ticking.running:
            self._ticking.stop()
        await self.keeper.stop()
        if self._writing is not None:
            await self._writing

    def capabilities(self) -> dict[Any, IProtocolFactory]:
        return {(LABEL, VERSION): self._factory}

    def authorize(self, peer: PublicKey, label: str) -> bool:
        return bool(self.running) and not self._shunned(peer)

    def _shunned(self, peer: PublicKey) -> bool:
        blocked = self._store is not None and self._store.is_blocked(peer.raw)
        return bool(blocked or self._peers.ledger.is_banned(peer))

    # --- time ------------------------------------------------------------------------------

    def _tick(self) -> None:
        now, wall = self._reactor.seconds(), self._context.wall_clock()
        # Either clock may stand still while the machine sleeps.
        slept = max(now - self._ticked, (wall - self._ticked_ns) / 1e9) - TICK
        self._ticked, self._ticked_ns = now, wall
        if slept < self._config.sleep:
            self.keeper.tick()
            return
        self._woke += 1
        self._woke_ns = wall
        self._log.info("nothing ran for {seconds:.0f} s: everybody is looked at now", seconds=slept)
        self._context.events.publish(NodeWoke(slept))
        self.keeper.woke()

    def _peers_changed(self) -> None:
        if self.running:
            self.keeper.peers_changed()

    def _link_changed(self, entry: PeerEntry) -> None:
        if not self.running or entry.connected:
            return
        key = entry.address.key
        if not any(e.connected for e in self._peers.entries() if e.address.key == key):
            self.keeper.dropped(key)

    # --- our own record ----------------------------------------------------------------------

    def _own(self) -> bytes:
        """@return: this node's address record as it travels; empty if nobody reaches it."""
        if self._finder is not None:
            record: bytes = self._finder.own_record()
            return record
        places = self._context.whereabouts.places()[:MAX_ADDRESSES]
        now = self._context.wall_clock() // 1_000_000
        sealed = self._own_record
        if not places:
            return b""
        if (
            sealed is None
            or sealed.addresses != places
            or not LIFETIME // 2 < sealed.expires - now <= LIFETIME
        ):
            self._sequence = next_sequence(now, self._sequence)
            sealed = self._own_record = AddressRecord.seal(
                self._context.identity,
                self._context.network.net_id,
                places,
                sequence=self._sequence,
                expires=now + LIFETIME,
            )
            self._changed(self._context.identity.public)
        return sealed.raw

    # --- over a restart ------------------------------------------------------------------------

    def _take_up(self, rows: Sequence[store.Row]) -> None:
        for row in rows:
            key = PublicKey(row.key)
            try:
                record = None
                if row.raw:
                    record = AddressRecord.open_kept(row.raw, self._context.network.net_id)
                address = MeshAddress.parse(row.address) if row.address else None
            except (AddressRecordInvalid, InvalidAddress) as e:
                # The network's secret was replaced since.
                self._log.info("what was kept of {peer} is no use: {error}", peer=key, error=e)
                continue
            if key == self._context.identity.public:
                self._sequence = 0 if record is None else record.sequence
                continue
            if record is not None:
                self.keeper.known.take(record, Scope(row.nearest))
                if row.spoke:
                    self.keeper.known.spoke(key)
            if address is not None:
                self.keeper.places[key] = address
        self._peers.hear(SOURCE, self.keeper.places.values())

    def _changed(self, key: PublicKey) -> None:
        self._dirty[key] = None
        if self._writing is None and self._loaded:
            self._writing = Deferred.fromCoroutine(self._write())
            self._writing.addErrback(self._not_kept)
            self._writing.addBoth(self._written)

    async def _write(self) -> None:
        """Write what changed, and what changes meanwhile after that, in one go each."""
        while self._dirty:
            dirty, self._dirty = self._dirty, {}
            rows = [self._row(key) for key in dirty]
            kept = frozenset(link.key.raw for link in self.keeper.health.links())
            await self._context.database.write(
                lambda connection, rows=rows, kept=kept: store.write(
                    connection, rows, self._context.identity.public.raw, kept
                )
            )

    def _row(self, key: PublicKey) -> store.Row:
        known, now = self.keeper.known, self._context.wall_clock()
        if key == self._context.identity.public:
            own = b"" if self._own_record is None else self._own_record.raw
            return store.Row(key.raw, own, int(Scope.WORLD), "", now, True)
        record, address = known.find(key), self.keeper.places.get(key)
        return store.Row(
            key.raw,
            b"" if record is None else record.raw,
            int(Scope.WORLD if record is None else known.nearest(key)),
            "" if address is None else address.text,
            now,
            known.has_spoken(key),
        )

    def _written(self, _: object) -> None:
        self._writing = None

    def _not_kept(self, failure: Failure) -> None:
        # It is as good as ever until the next restart; and others will tell it again.
        self._log.warn("where peers are was not written: {error}", error=str(failure.value))

    # --- what is shown ---------------------------------------------------------------------------

    def status(self) -> offered.ExchangeStatus:
        keeper = self.keeper
        return offered.ExchangeStatus(
            watched=len(keeper.health),
            lost=sum(link.lost is not None for link in keeper.health.links()),
            suspect=len(keeper.health.suspects()),
            moved=len(keeper.places),
            more=len(keeper.others),
            records=len(keeper.known),
            looks=keeper.looks,
            missed=keeper.missed,
            woke=self._woke,
            last_woke=rfc3339(self._woke_ns) if self._woke else None,
            outdated={key.text: count for key, count in keeper.outdated.items()},
            refused=dict(sorted(keeper.refused.items())),
        )

    def advice(self) -> Sequence[str]:
        """See L{IAdvisesAgents}."""
        health = self.keeper.health
        if not len(health) or len(health.suspects()) < len(health):
            return ()
        return (
            "None of the peers that this node looks after has answered lately: it may be cut off "
            "from the network.",
        )

    def operations(self) -> Sequence[BoundOperation]:
        return (
            BoundOperation(offered.LINKS, self._answer_links),
            BoundOperation(offered.RECORDS, self._answer_records),
            BoundOperation(offered.FIND, self._answer_find),
        )

    def _answer_links(self, request: Nothing) -> list[offered.LinkShown]:
        health, now = self.keeper.health, self._reactor.seconds()
        shown = []
        for link in sorted(health.links(), key=lambda link: link.key.raw):
            account: Account | None = self._peers.ledger.find(link.key)
            heard = 0 if account is None else account.heard_ns
            trip = None if account is None else account.round_trip
            moved = self.keeper.places.get(link.key)
            shown.append(
                offered.LinkShown(
                    public_id=link.key.text,
                    state=shown_link(link, health, now),
                    last_heard=rfc3339(heard) if heard else None,
                    missed=link.missed,
                    next_look_secs=round(health.wait(link, now), 3),
                    round_trip_ms=None if trip is None else round(trip * 1000, 3),
                    moved_to=None if moved is None else moved.text,
                )
            )
        return shown

    def _answer_records(self, request: Nothing) -> list[offered.RecordShown]:
        return [_shown(record) for record in self.keeper.known.records()]

    async def _answer_find(self, request: offered.WhoseRecord) -> offered.RecordShown:
        key = PublicKey.parse(request.public_id)
        if not self.running:
            raise NotReady("the part exchange is stopping, or not started")
        await self.keeper.ask_about(key)
        record = self.keeper.known.find(key)
        if record is None:
            raise NotFound(
                f"none of the peers that were asked has an address record of {key.text}: "
                "it may be found in the hash table, with 'meshkit dht find-peer'"
            )
        return _shown(record)


def _shown(record: AddressRecord) -> offered.RecordShown:
    return offered.RecordShown(
        public_id=record.key.text,
        addresses=[
            MeshAddress(place.host, place.port, record.key).text for place in record.addresses
        ],
        sequence=record.sequence,
        expires=rfc3339(record.expires * 1_000_000),
    )


def make_part(context: PartContext) -> ExchangePart:
    return ExchangePart(context)
