"""
A node of the hash table, whole, for any Twisted application::

    node = KademliaNode(reactor, identity, network.net_id, endpoint, rng=rng,
                        wall_clock=time.time_ns, addresses=lambda: [HostPort("192.0.2.1", 7655)])
    listener.register(Capability.of(network, LABEL, VERSION), node.server)
    await node.start()
    await node.bootstrap([MeshAddress.parse("net:...~shs:...")])
    await node.put("topic", b"birds", b"a sentence")
    records = await node.get("topic", b"birds")

C{endpoint} says how a peer is dialled, such as with L{meshkit.shs.wrap_client}.  With
C{listening} in the place of C{addresses} the node finds out from others where it can be reached
(L{meshkit.kademlia.reachability}).  As long as it cannot be, or with neither, it is a client: it
asks, and is in nobody's table.

B{What ends what.}  Every Deferred that is given out can be cancelled, which ends the lookup
beneath and all that it has in flight.  L{KademliaNode.stop} ends them all; they fail with
L{NotReady <meshkit.errors.NotReady>}.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Container, Coroutine, Iterable, Mapping, Sequence
from random import Random
from types import MappingProxyType
from typing import Any, Final, TypeVar

from attrs import evolve, field, frozen
from twisted.internet.defer import CancelledError, Deferred, DeferredList, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.errors import (
    MeshkitError,
    NotFound,
    NotReady,
    Overloaded,
    OverRate,
    RecordError,
    RecordStale,
    RemoteError,
)
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.identity.keys import Identity, PublicKey
from meshkit.identity.records import MAX_ADDRESSES, MAX_SKEW, AddressRecord, next_sequence
from meshkit.identity.records import MAX_LIFETIME as ADDRESS_LIFETIME
from meshkit.identity.scopes import Scope
from meshkit.kademlia import store as tables
from meshkit.kademlia.connections import Connections, Endpoints, Limits, TrackedProtocol
from meshkit.kademlia.contacts import Contact, DialRules
from meshkit.kademlia.distance import NodeId, node_id, number, record_key, shared_bits
from meshkit.kademlia.estimate import MAX_REGION, SizeEstimate
from meshkit.kademlia.holdings import Holdings, Quota, Seen
from meshkit.kademlia.kinds import Kinds, address_key
from meshkit.kademlia.lookup import ALPHA, PATHS, SAFE_PATHS, Ask, Lookup
from meshkit.kademlia.opening import Opener
from meshkit.kademlia.protocol import AddressReader, Answer, Client, Server, scope_at
from meshkit.kademlia.publications import FAREWELL, Publications
from meshkit.kademlia.reachability import Reachability
from meshkit.kademlia.records import LIFETIME, Record
from meshkit.kademlia.routing import K, RoutingTable
from meshkit.kademlia.search import Records, Search, together
from meshkit.kademlia.upkeep import Upkeep
from meshkit.kademlia.wire import Expected, Store, requests
from meshkit.parts import shield
from meshkit.runtime.database import Database

T = TypeVar("T")

#: Lookups at the same time.
MAX_LOOKUPS: Final = 256
#: Lookups of places that share fewer bits with ours tell of the size of the network.
FAR: Final = 3
#: Addresses that are tried at the same time when a node finds its place.
MAX_BOOTSTRAP: Final = 32
#: Others that a node asks to dial it, and for how many it does that at the same time.
BACKS: Final = 3
MAX_BACKS: Final = 32
#: Seconds for which a node that has had enough is left alone, at most, and how many of them.
MAX_WAIT: Final = 60.0
MAX_SATED: Final = 1_024
#: Codes with which a node refuses that is there and works.
_BUSY: Final = frozenset({"OVER_RATE", "OVERLOADED"})


class Found(list[T]):
    """
    What a lookup has found, as a list, and what it took.

    @ivar questions: that were put to other nodes.
    @ivar hops: how many nodes told of one another until the nearest was found.
    @ivar crowded: more nodes are near to the place than chance would have it, and all of the
        region were asked.
    """

    def __init__(self, found: Iterable[T], lookup: Lookup[Records]) -> None:
        super().__init__(found)
        self.questions = lookup.asked
        self.hops = lookup.hops
        self.crowded = lookup.crowded


@frozen
class Placed:
    """
    What came of storing something.

    @ivar accepted: how many nodes keep all of it, on their disks.
    @ivar elsewhere: how many of these are others.
    @ivar asked: how many were asked, this one too, if it is among the nearest.
    @ivar refused: with which codes records were refused, and how often; C{""} stands for
        nodes that did not answer.
    @ivar crowded: the place is more crowded than chance would have it, and all nodes of the
        region were asked.
    @ivar questions: that were put to other nodes to find those.
    @ivar hops: see L{Found}.
    @ivar sequence: of the record, if it was one of ours; of several, of the last.
    @ivar expires: until when it is good, milliseconds since 1970.
    """

    accepted: int
    asked: int
    refused: Mapping[str, int] = field(factory=dict)
    crowded: bool = False
    questions: int = 0
    hops: int = 0
    sequence: int = 0
    expires: int = 0
    elsewhere: int = 0

    @property
    def settled(self) -> bool:
        """Does another node keep it, or has everybody who was asked a newer one?"""
        return self.elsewhere > 0 or set(self.refused) == {RecordStale.code}

    @property
    def findable(self) -> bool:
        """Can others find it, or a newer one, if need be here?  Not where nobody is known."""
        return self.settled or (self.accepted > 0 and self.questions > 0)


@frozen
class Published:
    """
    What a peer says of itself.

    @ivar record: its newest address record.
    @ivar contact: where it can be dialled, if it can be.
    @ivar namer: how near the nearest of the nodes is that gave the record.
    """

    record: AddressRecord
    contact: Contact | None
    namer: Scope = Scope.WORLD

    def unreachable(self) -> NotFound:
        """@return: why it cannot be dialled, if it cannot."""
        short = self.record.key.short
        if not self.record.addresses:
            return NotFound(f"{short} says that it cannot be reached from outside")
        places = ", ".join(place.text for place in self.record.addresses)
        return NotFound(
            f"{short} says that it is at {places}: none of these is dialled on the word of "
            "nodes that are farther away"
        )


@frozen
class Provider:
    """
    Somebody who says that he has some content.

    @ivar key: of the peer.
    @ivar places: where it says that it can be reached, as far as one may dial there; empty if
        it does not say so: then ask L{KademliaNode.find_peer}.
    @ivar expires: until when that is good, milliseconds since 1970.
    """

    key: PublicKey
    places: tuple[HostPort, ...]
    expires: int


@frozen
class Stats:
    """
    How a node is doing.

    @ivar contacts: nodes in the table.
    @ivar buckets: bits shared with us -> how many of them.
    @ivar size: how many nodes there are in all, if that is known.
    @ivar records: records that are kept, and their bytes.
    @ivar publications: records of our own.
    @ivar connections: that we opened.
    @ivar accepted: that others did.
    @ivar lookups: under way.
    @ivar asked: questions to others, by method.
    @ivar served: those of others.
    """

    contacts: int
    buckets: Mapping[int, int]
    size: float | None
    records: int
    record_bytes: int
    publications: int
    connections: int
    accepted: int
    dialled: int
    lookups: int
    asked: Mapping[str, int]
    served: Mapping[str, int]


class _Elders:
    """Those with whom a node has a history."""

    def __init__(self, table: RoutingTable, trusted: Container[PublicKey]) -> None:
        self._table = table
        self._trusted = trusted

    def __contains__(self, key: object) -> bool:
        return isinstance(key, PublicKey) and (
            key in self._trusted or self._table.has_history(node_id(key))
        )


class KademliaNode:
    """
    See the module.

    @ivar server: the factory of the connections that others open; its C{buildProtocol} wants
        a L{PeerAddress <meshkit.identity.addresses.PeerAddress>}.
    @ivar id: our place.
    @ivar table: whom we know.
    @ivar holdings: what we keep for others.
    @ivar publications: what we have published.
    @ivar size: how many nodes there are.
    @ivar reachability: what others say of where we can be reached.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        identity: Identity,
        network: bytes,
        endpoint: Endpoints,
        *,
        rng: Random,
        wall_clock: Callable[[], int],
        addresses: Callable[[], Sequence[HostPort]] = tuple,
        listening: Callable[[], Sequence[HostPort]] = tuple,
        kinds: Kinds | None = None,
        rules: DialRules | None = None,
        quota: Quota | None = None,
        trusted: Container[PublicKey] = (),
        database: Database | None = None,
        limits: Limits | None = None,
        shunned: Callable[[PublicKey], bool] = lambda _: False,
        previous: bytes | None = None,
        more: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        """
        @param network: id of the network, 16 bytes.
        @param endpoint: C{endpoint(address)}: where a peer is dialled.
        @param wall_clock: nanoseconds since 1970.
        @param addresses: asked where we can be reached from outside, the best first; none if
            that is not known.
        @param listening: asked where we listen for others, if C{addresses} gives nothing; a
            host may be the wildcard C{0.0.0.0} or C{::}.  None, if others are not to come.
        @param kinds: of records that are kept here; by default those of
            L{meshkit.kademlia.kinds}.
        @param rules: where we dial on somebody's word.
        @param trusted: those whom we follow, or who are vouched for.
        @param shunned: with whom we have nothing to do; such a peer is not to be let in,
            either.  When somebody becomes one, call L{shun}.
        @param database: with the tables of L{meshkit.kademlia.store}; left out, nothing
            outlives a restart.
        @param previous: id that the network had before its key was changed: what we have
            published there is published anew.
        @param more: what our address record says besides; it may change.  If there is anything,
            there is such a record though nobody can dial us.
        """
        self.reactor = reactor
        self.identity = identity
        self.network = network
        self.rng = rng
        self.id = node_id(identity.public)
        self.rules = DialRules() if rules is None else rules
        self.kinds = Kinds() if kinds is None else kinds
        self.table = RoutingTable(self.id)
        self.size = SizeEstimate()
        self.holdings = Holdings(self.id, network, self.kinds, rng, quota)
        self.publications = Publications(
            identity,
            network,
            self.kinds,
            rng,
            {"provider": self._provided},
            self._not_renewed,
            previous,
        )
        self.elders: Container[PublicKey] = _Elders(self.table, trusted)
        self._trusted = trusted
        self._wall_clock = wall_clock
        self._addresses = addresses
        self._listening = listening
        self._more = more
        self.reachability = Reachability(self.rules.own_blocks)
        self._database = database
        self._backs = 0
        self._record: AddressRecord | None = None
        self._sequence = 0
        # Writes that failed on their way, so far.
        self._unwritten = 0
        self._number = number(self.id)
        self.opener = Opener(reactor)
        reader = AddressReader(network, self.rules)
        self.connections = Connections(
            reactor,
            endpoint,
            self._connected,
            limits=Limits() if limits is None else limits,
            own_blocks=self.rules.own_blocks,
            shunned=shunned,
        )
        self.client = Client(
            self.connections,
            reader,
            self.rules,
            self.kinds,
            network,
            self.opener,
            self.wall_ms,
            self.own_record,
            self.seen_from,
        )
        self.server = Server(reactor, self, reader)
        # Nodes that take no more records at the moment, and until when.
        self._sated: dict[NodeId, float] = {}
        self._searches: dict[Search, None] = {}
        # What is being done for somebody, or by ourselves.
        self._tasks: dict[Deferred[Any], None] = {}
        self._running = False
        # What was kept was read; before, nothing of it may be written over.
        self._taken_up = False
        # The end that is under way.
        self._ending: Deferred[None] | None = None
        # Our own place was looked up, and there was somebody.
        self._placed = False
        self.upkeep = Upkeep(self)

    # --- what the parts of it ask for -------------------------------------------------------

    @property
    def running(self) -> bool:
        return self._running

    def wall_ms(self) -> int:
        """Milliseconds since 1970."""
        return self._wall_clock() // 1_000_000

    def own_address(self) -> AddressRecord | None:
        """@return: our address record, good for half its life at least, if we have one."""
        places = tuple(self._addresses()) or self.reachability.places(
            self._listening(), self.reactor.seconds()
        )
        places, more = places[:MAX_ADDRESSES], dict(self._more)
        if not places and not more:
            self._record = None
            return None
        record = self._record
        left = 0 if record is None else record.expires - self.wall_ms()
        if (
            record is None
            or record.addresses != places
            or record.more != more
            or left < ADDRESS_LIFETIME // 2
            # The clock was set back: others would say that it comes out of the future.
            or left > ADDRESS_LIFETIME + MAX_SKEW // 2
        ):
            record = self._record = self._seal_address(places, ADDRESS_LIFETIME, more)
        return record

    def farewell(self) -> AddressRecord:
        """@return: an address record that says for a moment that nobody reaches us."""
        return self._seal_address((), FAREWELL)

    def _seal_address(
        self,
        places: Sequence[HostPort],
        lifetime: int,
        more: Mapping[str, bytes] = MappingProxyType({}),
    ) -> AddressRecord:
        now = self.wall_ms()
        published = self.publications.find("address", address_key(self.identity.public))
        # Also if the clock was set back, perhaps while we were not there.
        before = published.record.sequence if published else 0
        self._sequence = next_sequence(now, self._sequence, before)
        return AddressRecord.seal(
            self.identity,
            self.network,
            places,
            sequence=self._sequence,
            expires=now + lifetime,
            more=more,
        )

    def _provided(self) -> tuple[bytes, int | None]:
        """What provider records of ours say, and until when that is good."""
        record = self.own_address()
        return (b"", None) if record is None else (record.raw, record.expires)

    def _not_renewed(self, record: Record, error: RecordError) -> None:
        self._log.warn(
            "{record} cannot be published anew: {code}: {error}",
            record=record.shown,
            code=error.code,
            error=str(error),
        )

    def own_record(self) -> bytes:
        """@return: the same as it travels; empty if there is none."""
        record = self.own_address()
        return b"" if record is None else record.raw

    def _connected(self, protocol: TrackedProtocol) -> None:
        self.client.introduce(protocol)

    def seen_from(self, peer: PublicKey, peer_host: str, host: str) -> None:
        """A peer that we have dialled says from where we come."""
        self.reachability.seen_from(peer, peer_host, host, self._listening())

    def proved(self) -> bool:
        """Has anybody reached us where we say that we are, or was that said to us?"""
        return bool(tuple(self._addresses())) or self.reachability.proved(
            self._listening(), self.reactor.seconds()
        )

    def on_trial(self) -> bool:
        """Do we say of some place that we are there, and nobody has come there yet?"""
        if self._addresses() or not self._listening():
            return False
        return self.reachability.on_trial(self.reactor.seconds())

    async def ask_back(self) -> None:
        """Ask some of those with whom we are connected to dial us."""
        connected = self.connections.connected()
        asked: list[Deferred[None]] = []
        while connected and len(asked) < BACKS:
            protocol = connected.pop(int(self.rng.random() * len(connected)))
            asked.append(self.client.introduce(protocol, back=True))
        await together(asked)

    def dial_back(self, contact: Contact) -> Deferred[None]:
        """
        Dial somebody who wants to know whether that can be done.

        @return: Deferred that fires with L{None} when he was reached, or not; at once, if that is
            done for L{MAX_BACKS} others already.
        """
        if self._backs >= MAX_BACKS:
            return succeed(None)
        return self.run(self._dial_back(contact))

    async def _dial_back(self, contact: Contact) -> None:
        self._backs += 1
        try:
            await self._check(contact)
        finally:
            self._backs -= 1

    def dialled_at(self, peer: PublicKey, peer_host: str, place: str) -> None:
        """A peer that has dialled us says where."""
        self.reachability.dialled_at(peer, peer_host, place, self.reactor.seconds())

    # --- the life of it -----------------------------------------------------------------------

    def start(self) -> Deferred[None]:
        """
        Serve, and take up what was kept.

        @return: Deferred that fires with L{None} when it is read.  It fails with what the
            database does; then the node is not started.
        """
        if self._running or self._ending is not None:
            return fail(ValueError("the node is running already, or has not stopped yet"))
        self._running = True
        self.connections.start()
        return self.run(self._start())

    async def _start(self) -> None:
        try:
            await self._take_up()
        except BaseException:
            self._running = False
            raise
        self.upkeep.start()

    async def _take_up(self) -> None:
        anchors: list[Contact] = []
        if self._database is not None and not self._taken_up:
            rows = await self._database.read(tables.read)
            published, damaged = await self._database.read(tables.read_publications)
            for text in damaged:
                self._log.error("{what}: it is not published any more, publish it anew", what=text)
            known = await self._database.read(
                lambda connection: tables.read_contacts(connection, self.network, self.rules)
            )
            now = self.wall_ms()
            self.holdings.restore(rows, now)
            self.publications.restore(published, now)
            anchors = self.table.restore(known, now / 1000)
        self._taken_up = True
        for contact in anchors:
            self.check(contact)

    def stop(self) -> Deferred[None]:
        """
        End all lookups, close all connections, and write down what is to be kept.

        @return: Deferred that fires with L{None} when that is done, within bounded time, and
            no timer is left.  Errors of the disk are logged.
        """
        if self._running:
            self._running = self._placed = False
            ending = self._ending = Deferred.fromCoroutine(self._stop())
            return shield(ending.addBoth(self._ended))
        return succeed(None) if self._ending is None else shield(self._ending)

    def _ended(self, result: T) -> T:
        self._ending = None
        return result

    async def _stop(self) -> None:
        self.upkeep.stop()
        for task in list(self._tasks):
            task.cancel()
        for search in list(self._searches):
            search.abandon()
        await DeferredList(
            [self.connections.stop(), self.server.close_all(self.connections.limits.close)]
        )
        if self._database is not None:
            try:
                if self._taken_up:
                    await self.save_contacts()
                await self.written()
            except MeshkitError as e:
                self._log.warn("what the hash table knows is not kept: {error}", error=str(e))

    def run(self, work: Coroutine[Any, Any, T]) -> Deferred[T]:
        """
        Do something that L{stop} ends.

        @return: Deferred of what it gives.  It fails with L{NotReady
            <meshkit.errors.NotReady>} if the node is stopped.
        """
        if not self._running:
            work.close()
            return fail(NotReady("the hash table is stopping, or not started"))
        task: Deferred[T] = Deferred.fromCoroutine(work)
        if task.called:
            return task
        self._tasks[task] = None

        def ended(result: Any) -> Any:
            del self._tasks[task]
            if isinstance(result, Failure) and result.check(CancelledError) and not self._running:
                return Failure(NotReady("the hash table is stopping"))
            return result

        return task.addBoth(ended)

    def run_alone(self, work: Coroutine[Any, Any, Any], what: str) -> None:
        """Do something for which nobody waits; what it fails with is logged."""

        def failed(failure: Failure) -> None:
            if failure.check(CancelledError, NotReady):
                return
            if failure.check(MeshkitError):
                self._log.info("{what}: {error}", what=what, error=str(failure.value))
            else:
                self._log.failure("{what} failed", failure, what=what)

        self.run(work).addErrback(failed)

    # --- on the disk --------------------------------------------------------------------------

    def written(self) -> Deferred[None]:
        """
        @return: Deferred that fires with L{None} when what has changed so far of what is kept
            and published is on the disk.  It fails as the database does; then it is written
            with the next changes.  Cancelling it calls nothing back.
        """
        if self._database is None:
            self.holdings.changes()
            self.publications.changes()
            return succeed(None)
        return shield(self._write_all(self._database))

    async def _write_all(self, database: Database) -> None:
        unwritten = -1
        while unwritten != self._unwritten:
            # If what was on its way before failed meanwhile, it has to be written with this.
            unwritten = self._unwritten
            await self._write(database)

    async def _write(self, database: Database) -> None:
        kept, published = self.holdings.changes(), self.publications.changes()

        def job(connection: Any) -> None:
            if kept:
                tables.write(connection, kept)
            if published:
                tables.write_publications(connection, published)

        # Also if nothing has changed: jobs are done in order, so this one waits for those
        # before it.
        writing = database.write(job)
        at_once = writing.called
        try:
            await writing
        except BaseException:
            if not at_once:
                self._unwritten += 1
            self.holdings.not_written(kept)
            self.publications.not_written(published)
            raise

    async def save_contacts(self) -> None:
        """Write the table down."""
        if self._database is not None:
            known = self.table.snapshot()
            await self._database.write(lambda connection: tables.write_contacts(connection, known))

    # --- others come and go -------------------------------------------------------------------

    def answered(self, contact: Contact) -> None:
        """A node has answered a question of ours."""
        known = len(self.table)
        check = self.table.answered(contact, self.wall_ms() / 1000)
        if len(self.table) > known:
            self.upkeep.joined(contact)
        if check is not None:
            self.check(check)

    def failed(self, contact: Contact, failure: Failure) -> None:
        """A node has not answered, or nothing of use."""
        error = failure.value
        busy = isinstance(error, RemoteError) and error.code in _BUSY
        # It is there; or it is us who could not ask.
        if busy or failure.check(NotReady, Overloaded):
            self.table.unchecked(contact.id)
            return
        check = self.table.failed(contact.id, self.wall_ms() / 1000)
        if check is not None:
            self.check(check)

    def offered(self, contact: Contact) -> None:
        """Somebody came to us who can be dialled, too."""
        check = self.table.offer(contact, self.wall_ms() / 1000)
        if check is not None:
            self.check(check)

    def shun(self, key: PublicKey) -> None:
        """Forget a peer, and close the connections to it and of it."""
        self.table.remove(node_id(key))
        self.connections.close(key)
        self.server.close(key)

    def check(self, contact: Contact) -> None:
        """Find out whether a node is there, and tell the table."""
        if not self._running:
            self.table.unchecked(contact.id)
            return
        self.run_alone(self._check(contact), "a node could not be pinged")

    async def _check(self, contact: Contact) -> None:
        try:
            found = await self.client.ping(contact.key, contact.places)
        except CancelledError:
            self.table.unchecked(contact.id)
            raise
        except Exception:
            self.failed(contact, Failure())
            return
        if found is None:
            # It is there, but not to be reached.
            self.table.remove(contact.id)
        else:
            self.answered(found)

    # --- lookups ------------------------------------------------------------------------------

    async def look_up(
        self,
        target: NodeId,
        *,
        kind: str | None = None,
        paths: int = PATHS,
        own: bool = False,
    ) -> Lookup[Records]:
        """
        Look for the nodes that are nearest to a place.

        @param kind: of the records to find there; L{None} for none.
        @param own: nobody else has chosen the target, or it is near to us.
        @return: a lookup that has come to its end.
        @raise Overloaded: there are L{MAX_LOOKUPS} already.
        """
        if len(self._searches) >= MAX_LOOKUPS:
            raise Overloaded(f"{MAX_LOOKUPS} lookups are under way: wait for some of them")
        lookup: Lookup[Records] = Lookup(
            target,
            self.table.closest(target, max(K, ALPHA * paths)),
            self.table.elders(target, K, self._trusted),
            own=self.id,
            paths=paths,
            size=self.size.size,
            more=lambda: self.table.closest(target, MAX_REGION),
        )
        self.table.looked_up(target, self.wall_ms() / 1000)
        known: dict[bytes, Record] = {}

        def ask(ask: Ask) -> Deferred[Answer]:
            if kind is not None and ask.target == target:
                return self.client.find_value(ask.contact, kind, target, known)
            return self.client.find_node(ask.contact, ask.target)

        search = Search(self.reactor, lookup, ask, self.answered, self.failed, self._search_over)
        self._searches[search] = None
        await search.start()
        if own and shared_bits(target, self.id) < FAR:
            # Nearer to us whoever has made keys around ours would say how many there are.
            self.size.saw(target, lookup.closest())
        return lookup

    def _search_over(self, search: Search) -> None:
        self._searches.pop(search, None)

    def bootstrap(self, addresses: Iterable[MeshAddress]) -> Deferred[int]:
        """
        Find our place in the network.

        @param addresses: nodes to begin with, L{MAX_BOOTSTRAP} of which are tried.  Their
            hosts may be names.  If none of them answers, and our place is known already,
            nothing else is done.
        @return: Deferred of how many nodes are known then; 0 if nobody was reached.
        """
        return self.run(self._bootstrap(list(addresses)[:MAX_BOOTSTRAP]))

    async def _bootstrap(self, addresses: list[MeshAddress]) -> int:
        others = [each for each in addresses if each.key != self.identity.public]
        pings = [
            self.client.ping(each.key, [each.place]).addCallbacks(self._found_at, _why)
            for each in others
        ]
        whys = await together(pings)
        if others and self._placed and None not in whys:
            # Nobody new, and our place is known.
            return len(self.table)
        for address, why in zip(others, whys, strict=True):
            if why is not None:
                self._log.info(
                    "the hash table does not begin at {address}: {why}",
                    address=address.text,
                    why=str(why),
                )
        await self.look_up(self.id, own=True)
        for target in self.table.refreshes(self.wall_ms() / 1000, self.rng):
            await self.look_up(target, own=True, paths=1)
        self._placed = len(self.table) > 0
        # Whoever is killed soon after the first start would have to be given a peer again.
        await self.save_contacts()
        await self.upkeep.publish_address()
        return len(self.table)

    def _found_at(self, contact: Contact | None) -> str | None:
        if contact is None:
            return "it cannot be reached from outside"
        self.answered(contact)
        return None

    def find_node(self, target: NodeId | PublicKey) -> Deferred[Found[Contact]]:
        """
        @param target: a place, or the key of a node.
        @return: Deferred of the nodes that are nearest to it, at most L{K}, the nearest first.
        """
        place = node_id(target) if isinstance(target, PublicKey) else target
        number(place)

        async def find() -> Found[Contact]:
            lookup = await self.look_up(place)
            return Found(lookup.closest(), lookup)

        return self.run(find())

    def find_peer(self, key: PublicKey) -> Deferred[Contact]:
        """
        Where can a peer be dialled?

        The newest address record counts.  Of its places only those are given that may be
        dialled on the word of the nearest of the nodes that gave it (L{DialRules.contact}).
        What is kept here counts as given from far away, as it is not known who has stored it.

        @return: Deferred of the peer.  It fails with L{NotFound <meshkit.errors.NotFound>} if
            nobody knows where it is, or if there is no place that may be dialled.
        """
        return self.run(self._find_peer(key))

    def find_published(self, key: PublicKey) -> Deferred[Published]:
        """
        What does a peer say of itself, and where can it be dialled?

        @return: Deferred of it.  It fails with L{NotFound <meshkit.errors.NotFound>} if nobody
            knows the peer.
        """
        return self.run(self._find(key))

    async def _find_peer(self, key: PublicKey) -> Contact:
        published = await self._find(key)
        if published.contact is None:
            raise published.unreachable()
        return published.contact

    async def _find(self, key: PublicKey) -> Published:
        record, contact, namer = await self._find_published(key)
        if contact is None:
            # It may be there without having published anything, or be nearer to us than those
            # who keep what it has.
            lookup = await self.look_up(node_id(key), paths=SAFE_PATHS)
            contact = next((each for each in lookup.closest() if each.key == key), None)
        if contact is not None:
            # Of a table comes what the peer said itself, and may be newer.
            newest = contact.record
            if record is None or newest.sequence > record.sequence:
                return Published(newest, contact)
            return Published(record, contact, namer)
        if record is None:
            raise NotFound(f"nobody in the hash table knows where {key.short} can be reached")
        return Published(record, None, namer)

    async def _find_published(
        self, key: PublicKey
    ) -> tuple[AddressRecord | None, Contact | None, Scope]:
        """
        @return: what a peer has published last, where it may be dialled by that, and how near
            the nearest of those is who gave it.
        """
        lookup = await self.look_up(address_key(key), kind="address", paths=SAFE_PATHS)
        for newest, nearest in self._given(lookup, "address"):
            address = AddressRecord.reopen(newest.value)
            return address, self.rules.contact(address, nearest), nearest
        return None, None, Scope.WORLD

    def _given(self, lookup: Lookup[Records], kind: str) -> list[tuple[Record, Scope]]:
        """
        @return: the records that count, and how near the nearest of those is who gave it.
            What is kept here was given from far away, as it is not known who has stored it.
        """
        nearest: dict[bytes, Scope] = {}
        found = self._kept(kind, lookup.target)
        for contact, records in lookup.values:
            scope = scope_at(contact.places[0].host)
            found += records
            for record in records:
                nearest[record.raw] = min(scope, nearest.get(record.raw, scope))
        counting = self._counting(found)
        return [(record, nearest.get(record.raw, Scope.WORLD)) for record in counting]

    def get(self, kind: str, name: bytes, *, paths: int = PATHS) -> Deferred[Found[Record]]:
        """
        @param kind: of records.
        @param name: what they are found by.
        @return: Deferred of the records that count, of all that were found; none if there
            are none.  It fails with L{RecordWrongKind <meshkit.errors.RecordWrongKind>} if
            this node does not know the kind.
        """
        return self.run(self._get(kind, record_key(kind, name), paths))

    async def _get(self, kind: str, key: NodeId, paths: int) -> Found[Record]:
        self.kinds.find(kind)
        lookup = await self.look_up(key, kind=kind, paths=paths)
        found = [record for _, records in lookup.values for record in records]
        return Found(self._counting([*found, *self._kept(kind, key)]), lookup)

    def _kept(self, kind: str, key: NodeId) -> list[Record]:
        """@return: what this node keeps itself."""
        found = self.holdings.find(kind, key, self.wall_ms())
        return [Record.reopen(raw) for raw in found.records]

    def _counting(self, records: Iterable[Record]) -> list[Record]:
        """@return: those of one key that count, and are good still."""
        now = self.wall_ms()
        return [record for record in self.kinds.merged(records) if record.expires > now]

    def providers(self, content: bytes) -> Deferred[Found[Provider]]:
        """
        @param content: a content id.
        @return: Deferred of those that have it.
        """
        return self.run(self._find_providers(record_key("provider", content)))

    async def _find_providers(self, key: NodeId) -> Found[Provider]:
        lookup = await self.look_up(key, kind="provider")
        given = self._given(lookup, "provider")
        return Found((self._provider(record, nearest) for record, nearest in given), lookup)

    def _provider(self, record: Record, nearest: Scope) -> Provider:
        places: tuple[HostPort, ...] = ()
        if record.value:
            address = AddressRecord.reopen(record.value)
            places = tuple(each for each in address.addresses if self.rules.may_dial(each, nearest))
        return Provider(record.owner, places, record.expires)

    # --- storing ------------------------------------------------------------------------------

    def put(
        self,
        kind: str,
        name: bytes,
        value: bytes,
        *,
        salt: bytes = b"",
        until: int | None = None,
    ) -> Deferred[Placed]:
        """
        Publish something, and go on publishing it until it is withdrawn.  If no other node keeps
        it, it is tried again soon, and whenever somebody new is known.

        @param name: what it is found by; of a mutable item our key and the salt.
        @param value: of a provider record, whatever it is, our address record takes its place.
        @param until: milliseconds since 1970 at which it ends.
        @return: Deferred of how many keep it.  It fails with L{RecordError
            <meshkit.errors.RecordError>} if it is nothing that the kind takes.  Cancelling
            it only ends this round: what was published is so until it is withdrawn.
        """

        async def put() -> Placed:
            key = record_key(kind, name)
            record = self.publications.publish(
                kind, key, value, self.wall_ms(), salt=salt, until=until
            )
            await self.written()
            return await self.place_ours(record)

        return self.run(put())

    def put_immutable(self, value: bytes) -> Deferred[Placed]:
        """Publish something that is found by its SHA-256.  See L{put}."""
        return self.put("immutable", hashlib.sha256(value).digest(), value)

    def put_mutable(self, value: bytes, salt: bytes = b"") -> Deferred[Placed]:
        """Publish an item of ours, in the place of what it was.  See L{put}."""
        return self.put("mutable", self.identity.public.raw + salt, value, salt=salt)

    def swap_mutable(
        self, value: bytes, expected: Record | Seen | None, salt: bytes = b""
    ) -> Deferred[Placed]:
        """
        Publish an item of ours, where it still is what was read.

        Each node compares for itself, so two that swap at the same time may each win at some
        of them; then the newest stays.

        @param expected: what was read; L{None}, if there was nothing.
        @return: Deferred of how many have accepted.  If nobody has, it is not published.
        """
        return self.run(self._swap(value, expected, salt))

    async def _swap(self, value: bytes, expected: Record | Seen | None, salt: bytes) -> Placed:
        name = self.identity.public.raw + salt
        key = record_key("mutable", name)
        now = self.wall_ms()
        mine = self.publications.find("mutable", key, salt)
        sequence = max(
            next_sequence(now, *([] if mine is None else [mine.record.sequence])),
            0 if expected is None else expected.sequence + 1,
        )
        record = Record.seal(
            self.identity,
            self.network,
            "mutable",
            key,
            value,
            sequence=sequence,
            expires=now + LIFETIME,
            salt=salt,
        )
        self.kinds.check(record, now)
        seen = Seen(0) if expected is None else Seen(expected.sequence, expected.digest)
        placed = await self.place_ours(record, seen)
        # What was published or withdrawn meanwhile is newer.
        if placed.accepted and self.publications.find("mutable", key, salt) is mine:
            # The same times make the same record.
            self.publications.publish("mutable", key, value, now, salt=salt, sequence=sequence)
            self.upkeep.settle(record, placed)
            await self.written()
        return placed

    def provide(self, content: bytes) -> Deferred[Placed]:
        """
        Say that we have some content, and where we can be reached, as it is at each time.

        @param content: its id, which nobody is told.
        """
        return self.put("provider", content, b"")

    def withdraw(self, kind: str, name: bytes, salt: bytes = b"") -> Deferred[Placed]:
        """
        Take back what was published.

        @return: Deferred of how many nodes have heard of it.  It fails with L{NotFound
            <meshkit.errors.NotFound>} if nothing was.
        """

        async def withdraw() -> Placed:
            key = record_key(kind, name)
            record = self.publications.withdraw(kind, key, self.wall_ms(), salt)
            await self.written()
            return await self.place_ours(record)

        return self.run(withdraw())

    async def place_ours(self, record: Record, expected: Seen | None = None) -> Placed:
        """
        Store a record of ours at those that should keep it; if it is published, and no other node
        keeps it then, it is soon stored again.

        @param expected: see L{place}.
        """
        placed = None
        try:
            placed = await self.place(record.kind, record.key, [record.raw], expected)
        finally:
            self.upkeep.settle(record, placed)
        return evolve(placed, sequence=record.sequence, expires=record.expires)

    async def place(
        self,
        kind: str,
        key: NodeId,
        raws: Sequence[bytes],
        expected: Seen | None = None,
        paths: int = SAFE_PATHS,
    ) -> Placed:
        """
        Store records of one key at those that should keep them.

        @param expected: compare and swap; then there is one record.
        """
        lookup = await self.look_up(key, paths=paths)
        holders = lookup.holders()
        refused: Counter[str] = Counter()
        stores = [self.store_at(holder, raws, expected, refused) for holder in holders]
        accepted = elsewhere = sum(await together(stores))
        asked = len(holders)
        if self.is_holder(key, holders):
            asked += 1
            accepted += await self._keep(raws, expected, refused)
        return Placed(
            accepted,
            asked,
            dict(refused),
            lookup.crowded,
            lookup.asked,
            lookup.hops,
            elsewhere=elsewhere,
        )

    def is_holder(self, key: NodeId, holders: Sequence[Contact]) -> bool:
        """Are we one of those that should keep what is there, and asked for it?"""
        if not self.own_record():
            return False
        here = number(key)
        return len(holders) < K or self._number ^ here < max(
            holder.number ^ here for holder in holders
        )

    async def _keep(
        self, raws: Sequence[bytes], expected: Seen | None, refused: Counter[str]
    ) -> bool:
        now, kept = self.wall_ms(), True
        for raw in raws:
            try:
                self.holdings.store(raw, now, self.identity.public, self.elders, expected)
            except RecordError as e:
                refused[e.code] += 1
                kept = False
        await self.written()
        return kept

    def store_at(
        self,
        holder: Contact,
        raws: Sequence[bytes],
        expected: Seen | None = None,
        refused: Counter[str] | None = None,
    ) -> Deferred[bool]:
        """
        @param refused: counts the codes of refusals.
        @return: Deferred of whether a node keeps all of these records.  It does not fail,
            unless it is cancelled.
        """
        codes: Counter[str] = Counter() if refused is None else refused
        return Deferred.fromCoroutine(self._store_at(holder, raws, expected, codes))

    async def _store_at(
        self,
        holder: Contact,
        raws: Sequence[bytes],
        expected: Seen | None,
        refused: Counter[str],
    ) -> bool:
        kept = True
        for request in requests(raws):
            if expected is not None:
                request = Store(request.records, Expected(expected.sequence, expected.digest))
            if len(request.records) > 1 and self._has_enough(holder.id):
                refused[OverRate.code] += 1
                return False
            try:
                stored = await self.client.store(holder, request)
            except CancelledError:
                raise
            except RemoteError as e:
                # It is there, and may well be asked, even if its disk is full.
                refused[e.code] += 1
                if e.code == OverRate.code:
                    self._heed(holder.id, e)
                return False
            except Exception:
                refused[""] += 1
                self.failed(holder, Failure())
                return False
            for outcome in stored.outcomes:
                if not outcome.kept:
                    refused[outcome.code] += 1
                    kept = False
        return kept

    def _has_enough(self, place: NodeId) -> bool:
        """Has a node asked us to leave it alone for a while?"""
        return self._sated.get(place, 0.0) > self.reactor.seconds()

    def _heed(self, place: NodeId, error: RemoteError) -> None:
        """A node has had enough; who goes on is cut off."""
        wait = (error.details or {}).get("retry_after")
        if not isinstance(wait, (int, float)) or not 0 < wait < MAX_WAIT:
            wait = MAX_WAIT
        self._sated.pop(place, None)
        self._sated[place] = self.reactor.seconds() + wait
        if len(self._sated) > MAX_SATED:
            del self._sated[next(iter(self._sated))]

    # --- how it is doing ----------------------------------------------------------------------

    def stats(self) -> Stats:
        return Stats(
            contacts=len(self.table),
            buckets=self.table.sizes(),
            size=self.size.size,
            records=len(self.holdings),
            record_bytes=self.holdings.size,
            publications=len(self.publications),
            connections=len(self.connections),
            accepted=len(self.server),
            dialled=self.connections.dialled,
            lookups=len(self._searches),
            asked=dict(self.client.asked),
            served=dict(self.server.served),
        )


def _why(failure: Failure) -> object:
    return failure if failure.check(CancelledError) else failure.value
