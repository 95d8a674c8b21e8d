"""
The calls of the hash table, both sides: what others are answered, and what they answer.

Whoever asks is served from the routing table and the holdings.  Each identity has a token
bucket that outlives its connections; answers cost nothing.  What others answer is verified
here, so that a lookup is given contacts that may be dialled and records that are what was
asked for, and nothing else.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Container, Iterable, Sequence
from functools import lru_cache, partial
from typing import Any, Final, Protocol

from attrs import define, frozen
from twisted.internet.defer import Deferred, DeferredLock, ensureDeferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from meshkit.errors import (
    AddressRecordInvalid,
    InvalidAnswer,
    NotReady,
    Overloaded,
    OverRate,
    RecordError,
)
from meshkit.identity.addresses import HostPort, PeerAddress
from meshkit.identity.keys import PublicKey
from meshkit.identity.records import AddressRecord
from meshkit.identity.scopes import Scope, parse_ip, scope_of
from meshkit.kademlia.blocks import TABLE_LIMIT, blocks_of
from meshkit.kademlia.connections import Connections, Reached, TrackedProtocol
from meshkit.kademlia.contacts import Contact, DialRules
from meshkit.kademlia.distance import NodeId, node_id
from meshkit.kademlia.holdings import Holdings
from meshkit.kademlia.kinds import Kinds
from meshkit.kademlia.opening import STEP, Opened, Opener
from meshkit.kademlia.records import Record
from meshkit.kademlia.routing import RoutingTable
from meshkit.kademlia.wire import (
    BACK_COST,
    BURST,
    FIND_NODE,
    FIND_VALUE,
    PING,
    RATE,
    STORE,
    FindNode,
    FindValue,
    Nodes,
    Outcome,
    Ping,
    Pong,
    Store,
    Stored,
    Values,
    check_store,
    check_stored,
    check_values,
    store_cost,
)
from meshkit.rpc.methods import Dispatcher
from meshkit.rpc.protocol import RPCProtocol
from meshkit.rpc.table import RPCLimits
from meshkit.runtime.limits import PeerBuckets

#: The label of the capability, and which generation of the protocol is spoken.
LABEL: Final = "dht"
VERSION: Final = 1

#: Seconds for an answer, once there is a connection; storing waits for a disk.
ANSWER_TIMEOUT: Final = 5.0
STORE_TIMEOUT: Final = 15.0
#: Address records that are not verified again.
MAX_READ: Final = 4_096
#: Bytes of records of requests to store that are verified or written at the same time.
MAX_STORING: Final = 16 * 1024 * 1024
#: Connections that others may have here, and one of them.
MAX_ACCEPTED: Final = 1_024
MAX_ACCEPTED_PER_PEER: Final = 2
#: Newcomers of one block that are tried at once, and more of them each second; and seconds after
#: which one that is not in the table is tried again.
TRIES: Final = float(TABLE_LIMIT)
TRY_RATE: Final = TABLE_LIMIT / 60
TRY_PAUSE: Final = 60.0
#: Calls of one connection that are worked on, and bytes of those that are held: each may bring
#: 64 KiB of records.
_LIMITS: Final = RPCLimits(served=64, held_bytes=256 * 1024)
#: Seconds of silence after which theirs are closed: a little later than they should do it.
ACCEPTED_IDLE: Final = 660.0


def reached_from(address: IAddress | None) -> Scope:
    """@return: how near whoever is at this address is; what is not known is far away."""
    return scope_at(host_of(address))


def host_of(address: IAddress | None) -> str:
    """@return: the IP address of somebody; empty if he has none, such as behind a tunnel."""
    inner = address.inner if isinstance(address, PeerAddress) else address
    ip = parse_ip(str(getattr(inner, "host", "")))
    return "" if ip is None else str(ip)


def place_of(address: IAddress | None) -> str:
    """@return: the same, and the port; empty if there is none."""
    inner = address.inner if isinstance(address, PeerAddress) else address
    host, port = host_of(address), getattr(inner, "port", None)
    return HostPort(host, port).text if host and isinstance(port, int) else ""


@lru_cache(maxsize=1_024)
def scope_at(host: str) -> Scope:
    """@return: how near whoever was reached at this address is, likewise."""
    ip = parse_ip(host)
    scope = None if ip is None else scope_of(ip)
    return Scope.WORLD if scope is None else scope


@frozen
class _Read:
    """
    A record that was verified.

    @ivar contacts: whom it is of, by how near whoever gave it was.
    @ivar since: milliseconds since 1970 from which it is good.
    @ivar until: likewise, until when.
    """

    record: AddressRecord
    contacts: dict[Scope, Contact | None]
    since: int
    until: int


class AddressReader:
    """Makes contacts of address records, and verifies each record only once."""

    def __init__(self, network: bytes, rules: DialRules, limit: int = MAX_READ) -> None:
        """@param network: id of our network."""
        self._network = network
        self._rules = rules
        self._limit = limit
        # By their bytes, the one that was asked for longest ago first.
        self._read: OrderedDict[bytes, _Read] = OrderedDict()

    def __len__(self) -> int:
        return len(self._read)

    def record(self, raw: bytes, now: int) -> AddressRecord:
        """
        @param now: milliseconds since 1970.
        @raise AddressRecordInvalid: it is none, or not good now.
        """
        record = self._verified(raw).record
        record.check_time(now)
        return record

    def _verified(self, raw: bytes) -> _Read:
        read = self._read.get(raw)
        if read is None:
            record = AddressRecord.open_kept(raw, self._network)
            # Of bytes that are kept anyway.
            read = self._read[record.raw] = _Read(record, {}, record.good_from, record.expires)
            if len(self._read) > self._limit:
                self._read.popitem(last=False)
        else:
            self._read.move_to_end(raw)
        return read

    def contact(self, raw: bytes, namer: Scope, now: int) -> Contact | None:
        """
        @param namer: how near whoever gave it is.
        @return: whom it is of; L{None} if that one may not be dialled, or the record is not
            good at this time, which may be the fault of a clock.
        @raise AddressRecordInvalid: it is none, whatever the time.
        """
        read = self._verified(raw)
        if not read.since <= now < read.until:
            return None
        try:
            return read.contacts[namer]
        except KeyError:
            contact = read.contacts[namer] = self._rules.contact(read.record, namer)
            return contact

    def contacts(self, raws: Iterable[bytes], namer: Scope, now: int) -> tuple[list[Contact], int]:
        """
        @param raws: what somebody gave who is as near as that.
        @return: whom L{contact} makes of them, and how many are none.
        """
        contacts: list[Contact] = []
        refused = 0
        for raw in raws:
            try:
                contact = self.contact(raw, namer, now)
            except AddressRecordInvalid:
                refused += 1
            else:
                if contact is not None:
                    contacts.append(contact)
        return contacts, refused


# --- the side that answers ---------------------------------------------------------------


class Host(Protocol):
    """What of a node is served."""

    table: RoutingTable
    holdings: Holdings
    rules: DialRules
    network: bytes
    elders: Container[PublicKey]
    kinds: Kinds
    opener: Opener

    @property
    def running(self) -> bool: ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970."""

    def own_record(self) -> bytes:
        """Our address record; empty if we have none."""

    def offered(self, contact: Contact) -> None:
        """Somebody came to us who can be dialled, too."""

    def dial_back(self, contact: Contact) -> Deferred[None]:
        """Dial somebody who wants to know whether that can be done.  It does not fail."""

    def dialled_at(self, peer: PublicKey, peer_host: str, place: str) -> None:
        """Somebody who came to us says where he has dialled us."""

    def written(self) -> Deferred[None]:
        """Fires when all that has changed of the holdings is on the disk."""


@define(eq=False)
class _Caller:
    """
    Who is at the other end of a connection.

    @ivar block: the /24 or /48 from which it comes; in the operator's own, its key.
    @ivar contact: what it says of itself.
    @ivar dialled: where it says that it has reached us.
    @ivar tried: when it was last found out whether it can be reached, if that was of interest.
    """

    block: str
    contact: Contact | None = None
    dialled: str = ""
    tried: float = float("-inf")


class Server(Factory):
    """
    The factory of the connections that others open: answers their calls.

    There are at most L{MAX_ACCEPTED}: one more is not taken, unless one has been silent, or the
    most come from another address block, one of which is cut; keys cost nothing, so that
    whoever has many could keep out all others.  If the same peer has L{MAX_ACCEPTED_PER_PEER},
    its oldest is cut, as it may not know of it any more.

    @ivar served: calls that were answered, by method.
    """

    noisy = False
    _log = Logger()

    def __init__(self, reactor: IReactorTime, host: Host, reader: AddressReader) -> None:
        self._reactor = reactor
        self._host = host
        self._reader = reader
        self.buckets = PeerBuckets(RATE, BURST)
        self.dispatcher = Dispatcher()
        self.dispatcher.serve(PING, self._ping)
        self.dispatcher.serve(FIND_NODE, self._find_node)
        self.dispatcher.serve(FIND_VALUE, self._find_value)
        self.dispatcher.serve(STORE, self._store)
        self.served = {method.name: 0 for method in self.dispatcher.methods}
        self._callers: dict[TrackedProtocol, _Caller] = {}
        self._by_peer: dict[PublicKey, list[TrackedProtocol]] = {}
        self._tries = PeerBuckets(TRY_RATE, TRIES)
        # What one peer brings is kept in the order in which it came.
        self._turns: dict[PublicKey, DeferredLock] = {}
        self._storing = 0
        # These, and those that are being closed.
        self._all: dict[TrackedProtocol, None] = {}
        self._idle_due: IDelayedCall | None = None
        self._all_gone: Deferred[None] | None = None

    def __len__(self) -> int:
        """Connections that there are, those that are being closed too."""
        return len(self._all)

    # --- connections --------------------------------------------------------------------------

    def buildProtocol(self, addr: IAddress | None) -> TrackedProtocol | None:
        if not self._host.running or not isinstance(addr, PeerAddress):
            return None  # without a key there is no id
        block = self._block_of(addr)
        same = self._by_peer.get(addr.key, [])
        if len(same) >= MAX_ACCEPTED_PER_PEER:
            oldest = same[0]
            self._leave(oldest)
            oldest.abort()
        elif len(self._callers) >= MAX_ACCEPTED and not (
            self._close_silent() or self._make_room(addr.key, block)
        ):
            return None
        protocol = TrackedProtocol(
            self._reactor,
            self.dispatcher,
            limits=_LIMITS,
            buckets=self.buckets,
            lost=self._lost,
        )
        protocol.factory = self
        protocol.key = addr.key
        self._all[protocol] = None
        self._callers[protocol] = _Caller(block)
        self._by_peer.setdefault(addr.key, []).append(protocol)
        if self._idle_due is None:
            self._idle_due = self._reactor.callLater(ACCEPTED_IDLE / 4, self._look_around)
        return protocol

    def _block_of(self, address: PeerAddress) -> str:
        blocks = blocks_of(host_of(address), self._host.rules.own_blocks)
        return address.key.text if blocks is None else blocks.narrow

    def _make_room(self, key: PublicKey, block: str) -> bool:
        """
        Cut a connection of the block that has the most, the one that was silent for longest;
        not of those with whom we have a history.

        @return: there was one, of a block that has more than that of the newcomer.
        """
        elders = self._host.elders
        counts = Counter(caller.block for caller in self._callers.values())
        largest, most = counts.most_common(1)[0]
        if key not in elders and most <= counts[block] + 1:
            return False
        theirs = [one for one, caller in self._callers.items() if caller.block == largest]
        for protocol in sorted(theirs, key=lambda one: one.heard):
            if protocol.key not in elders:
                self._leave(protocol)
                protocol.abort()
                return True
        return False

    def _look_around(self) -> None:
        self._idle_due = None
        self._close_silent()
        if self._callers:
            self._idle_due = self._reactor.callLater(ACCEPTED_IDLE / 4, self._look_around)

    def _close_silent(self) -> int:
        """@return: how many were."""
        before = self._reactor.seconds() - ACCEPTED_IDLE
        silent = [one for one in self._callers if one.heard <= before and not one.serving]
        for protocol in silent:
            self._leave(protocol)
            protocol.close()
        return len(silent)

    def _leave(self, protocol: TrackedProtocol) -> None:
        """It is not served any more, and its place is free."""
        if self._callers.pop(protocol, None) is None:
            return
        key = protocol.key
        if key is not None:
            same = self._by_peer[key]
            same.remove(protocol)
            if not same:
                del self._by_peer[key]

    def _lost(self, protocol: TrackedProtocol) -> None:
        self._leave(protocol)
        self._all.pop(protocol, None)
        if not self._all and self._all_gone is not None:
            gone, self._all_gone = self._all_gone, None
            gone.callback(None)

    def close(self, key: PublicKey) -> None:
        """Close the connections of a peer."""
        for protocol in list(self._by_peer.get(key, ())):
            self._leave(protocol)
            protocol.close()

    def close_all(self, seconds: float) -> Deferred[None]:
        """
        Close all connections; the host says that it does not run, so no new one is taken.

        @param seconds: after which they are cut off.
        @return: Deferred that fires with L{None} when they are gone.
        """
        if self._idle_due is not None:
            self._idle_due.cancel()
            self._idle_due = None
        gone: Deferred[None] = Deferred()
        if not self._all:
            gone.callback(None)
            return gone
        self._all_gone = gone
        cut_off = self._reactor.callLater(seconds, self._cut_off)

        def all_gone(result: Any) -> Any:
            if cut_off.active():
                cut_off.cancel()
            return result

        gone.addBoth(all_gone)
        for protocol in list(self._callers):
            protocol.close()
        return gone

    def _cut_off(self) -> None:
        for protocol in list(self._all):
            protocol.abort()

    def dialled(self, since: float) -> list[str]:
        """@return: where those have reached us from whom something came since then."""
        places = {each.dialled: None for p, each in self._callers.items() if p.heard >= since}
        return [place for place in places if place]

    # --- calls ----------------------------------------------------------------------------------

    def _heard(self, peer: RPCProtocol, method: str) -> PublicKey:
        """@return: who asks."""
        caller = self._callers.get(peer)  # type: ignore[call-overload]
        if caller is None or peer.key is None or not self._host.running:
            raise NotReady("this node is stopping")
        self.served[method] += 1
        self._offer(caller)
        return peer.key

    def _offer(self, caller: _Caller) -> None:
        """
        Somebody has called, and may be of use.  To find out whether who is not in the table can be
        reached takes a dial, and only so many are under way: who comes with many keys
        must not have them all.
        """
        contact = caller.contact
        if contact is None:
            return
        if contact.id not in self._host.table:
            now = self._reactor.seconds()
            if caller.tried > now - TRY_PAUSE or self._tries.take(caller.block, 1.0, now):
                return
            caller.tried = now
        self._host.offered(contact)

    def _ping(self, peer: RPCProtocol, request: Ping) -> Pong | Deferred[Pong]:
        key = self._heard(peer, "ping")
        observed = host_of(peer.connected_to)
        if request.dialled:
            self._callers[peer].dialled = request.dialled  # type: ignore[index]
            self._host.dialled_at(key, observed, request.dialled)
        contact = self._introduced(peer, key, request.record) if request.record else None
        # Who shows none any more is a client now.
        caller = self._callers[peer]  # type: ignore[index]
        caller.contact = contact
        self._offer(caller)
        if contact is None or not request.back:
            return Pong(self._host.own_record(), observed)
        if not self.buckets.take(key, BACK_COST, self._reactor.seconds()):
            dialled = self._host.dial_back(contact)
            return dialled.addCallback(lambda _: Pong(self._host.own_record(), observed))
        return Pong(self._host.own_record(), observed)

    def _introduced(self, peer: RPCProtocol, key: PublicKey, raw: bytes) -> Contact | None:
        try:
            contact = self._reader.contact(
                raw, reached_from(peer.connected_to), self._host.wall_ms()
            )
        except AddressRecordInvalid as e:
            self._log.debug("{peer} shows no record of its own: {error}", peer=key, error=str(e))
            return None
        return contact if contact is not None and contact.key == key else None

    def _find_node(self, peer: RPCProtocol, request: FindNode) -> Nodes:
        key = self._heard(peer, "find_node")
        return Nodes(self._told(request.target, key))

    def _told(self, target: NodeId, asker: PublicKey) -> list[bytes]:
        now = self._host.wall_ms() / 1000
        told = self._host.table.told(target, now, node_id(asker))
        return [contact.record.raw for contact in told]

    def _find_value(self, peer: RPCProtocol, request: FindValue) -> Values:
        key = self._heard(peer, "find_value")
        found = self._host.holdings.find(request.kind, request.key, self._host.wall_ms())
        return Values(list(found.records), found.held, self._told(request.key, key))

    def _store(self, peer: RPCProtocol, request: Store) -> Deferred[Stored]:
        key = self._heard(peer, "store")
        check_store(request)
        wait = self.buckets.take(key, store_cost(request), self._reactor.seconds())
        if wait:
            # One that does not heed refusals is dropped at its next call.
            after = None if wait == PeerBuckets.BEYOND else round(wait, 3)
            raise OverRate("too many records were stored at once", retry_after=after)
        size = sum(map(len, request.records))
        if self._storing + size > MAX_STORING:
            raise Overloaded(
                f"records of {self._storing} bytes are being stored already, of {MAX_STORING} at "
                "most: store fewer at once"
            )
        return ensureDeferred(self._keep(key, request, size))

    async def _keep(self, storer: PublicKey, request: Store, size: int) -> Stored:
        self._storing += size
        try:
            outcomes = await self._in_turn(storer, request)
            # Also what was known may still be on its way to the disk.
            if any(outcome.kept for outcome in outcomes):
                await self._host.written()
            return Stored(outcomes)
        finally:
            self._storing -= size

    async def _in_turn(self, storer: PublicKey, request: Store) -> list[Outcome]:
        """Verify and keep what somebody brings, after all that he has brought before."""
        if storer not in self._turns and len(request.records) <= STEP:
            # So few are verified in one go: nobody can come in between.
            return self._store_all(storer, request, await self._open(request.records))
        turn = self._turns.setdefault(storer, DeferredLock())
        await turn.acquire()
        try:
            opened = await self._open(request.records)
            return self._store_all(storer, request, opened)
        finally:
            turn.release()
            if not turn.locked:
                self._turns.pop(storer, None)

    async def _open(self, raws: list[bytes]) -> dict[bytes, Opened]:
        """@return: what came of verifying those that are not kept already."""
        host, now = self._host, self._host.wall_ms()
        fresh = list(dict.fromkeys(raw for raw in raws if not host.holdings.has(raw, now)))
        opened = await host.opener.open(
            fresh, partial(host.kinds.open, network=host.network, now=now)
        )
        return dict(zip(fresh, opened, strict=True))

    def _store_all(
        self, storer: PublicKey, request: Store, opened: dict[bytes, Opened]
    ) -> list[Outcome]:
        host, now = self._host, self._host.wall_ms()
        expected = None if request.expected is None else request.expected.seen
        outcomes: list[Outcome] = []
        for raw in request.records:
            record = opened.get(raw)
            try:
                if isinstance(record, RecordError):
                    raise record
                host.holdings.store(raw, now, storer, host.elders, expected, record)
            except RecordError as e:
                outcomes.append(Outcome.refused(e))
            else:
                outcomes.append(Outcome())
        return outcomes


# --- the side that asks ------------------------------------------------------------------


@frozen
class Answer:
    """
    What a node has said.

    @ivar contact: it, with the place at which it was reached as the first.
    @ivar named: whom it told of.
    @ivar records: what it keeps.
    @ivar refused: how much of what it gave was not what it should be.
    """

    contact: Contact
    named: Sequence[Contact] = ()
    records: tuple[Record, ...] = ()
    refused: int = 0


class Client:
    """
    Asks other nodes.

    Each Deferred fails as L{Connections.call} does, and with L{InvalidAnswer
    <meshkit.errors.InvalidAnswer>} where the answer contradicts itself.  Cancelling it forgets
    the question.

    @ivar asked: questions so far, by method.
    """

    def __init__(
        self,
        connections: Connections,
        reader: AddressReader,
        rules: DialRules,
        kinds: Kinds,
        network: bytes,
        opener: Opener,
        wall_ms: Callable[[], int],
        own_record: Callable[[], bytes],
        seen_from: Callable[[PublicKey, str, str], None],
    ) -> None:
        """
        @param own_record: gives our address record, as it travels.
        @param seen_from: told which peer, at which host, says from which host we come.
        """
        self._connections = connections
        self._reader = reader
        self._rules = rules
        self._kinds = kinds
        self._network = network
        self._opener = opener
        self._wall_ms = wall_ms
        self._own_record = own_record
        self._seen_from = seen_from
        self.asked = {method.name: 0 for method in (PING, FIND_NODE, FIND_VALUE, STORE)}

    def introduce(self, protocol: TrackedProtocol, back: bool = False) -> Deferred[None]:
        """
        Tell a node to which we have connected who we are, so that it may come to know us, and
        where it was reached.

        @param back: ask it to dial us.
        @return: Deferred that fires with L{None} when it has answered, or does not: that is of
            no matter, as it is asked something else anyway.
        """
        self.asked["ping"] += 1
        protocol.shown = self._own_record()
        request = Ping(protocol.shown, place_of(protocol.connected_to), back)
        asked = protocol.call(PING, request, timeout=ANSWER_TIMEOUT)
        return asked.addCallbacks(
            self._introduced, lambda _: None, callbackKeywords={"protocol": protocol}
        )

    def _introduced(self, pong: Pong, protocol: RPCProtocol) -> None:
        if protocol.key is not None:
            self._seen_from(protocol.key, host_of(protocol.connected_to), pong.observed)

    def ping(self, key: PublicKey, places: Iterable[HostPort]) -> Deferred[Contact | None]:
        """
        @return: Deferred of the node as it describes itself now; L{None} if it says that
            it cannot be reached, or describes somebody else.
        """
        return ensureDeferred(self._ping(key, tuple(places)))

    async def _ping(self, key: PublicKey, places: tuple[HostPort, ...]) -> Contact | None:
        self.asked["ping"] += 1
        request = Ping(self._own_record())
        reached = await self._connections.call(key, places, PING, request, ANSWER_TIMEOUT)
        pong: Pong = reached.answer
        if not pong.record:
            return None
        try:
            contact = self._reader.contact(
                pong.record, scope_at(reached.place.host), self._wall_ms()
            )
        except AddressRecordInvalid as e:
            raise InvalidAnswer(f"{key.short} shows no address record: {e}") from None
        if contact is None or contact.key != key:
            return None
        return self._rules.reached(contact, reached.place)

    def find_node(self, contact: Contact, target: NodeId) -> Deferred[Answer]:
        """@return: Deferred of an L{Answer} without records."""
        asked = self._call(contact, FIND_NODE, FindNode(target))
        return asked.addCallback(self._nodes, contact)

    def _nodes(self, reached: Reached, contact: Contact) -> Answer:
        answer: Nodes = reached.answer
        named, refused = self._named(answer.contacts, reached.place)
        return Answer(self._rules.reached(contact, reached.place), named, (), refused)

    def find_value(
        self, contact: Contact, kind: str, key: NodeId, known: dict[bytes, Record]
    ) -> Deferred[Answer]:
        """
        @param known: records that were verified in this lookup, by their bytes; those of the
            answer are added.
        @return: Deferred of an L{Answer}.
        """
        asked = self._call(contact, FIND_VALUE, FindValue(kind, key))
        return asked.addCallback(self._values, contact, kind, key, known)

    def _values(
        self,
        reached: Reached,
        contact: Contact,
        kind: str,
        key: NodeId,
        known: dict[bytes, Record],
    ) -> Answer | Deferred[Answer]:
        answer: Values = reached.answer
        check_values(answer)
        fresh = [raw for raw in answer.records if raw not in known]
        if not fresh:
            return self._valued(0, reached, contact, known)
        verify = partial(
            self._kinds.open_answer, network=self._network, now=self._wall_ms(), kind=kind, key=key
        )
        opened: Deferred[Any] = self._opener.open(fresh, verify)
        opened.addCallback(self._learn, fresh, known)
        return opened.addCallback(self._valued, reached, contact, known)

    def _learn(
        self, opened: Sequence[Opened], fresh: list[bytes], known: dict[bytes, Record]
    ) -> int:
        """@return: how many are none."""
        refused = 0
        for raw, record in zip(fresh, opened, strict=True):
            if isinstance(record, Record):
                known[raw] = record
            else:
                refused += 1
        return refused

    def _valued(
        self, refused: int, reached: Reached, contact: Contact, known: dict[bytes, Record]
    ) -> Answer:
        answer: Values = reached.answer
        named, nobody = self._named(answer.contacts, reached.place)
        records = tuple(known[raw] for raw in answer.records if raw in known)
        reached_contact = self._rules.reached(contact, reached.place)
        return Answer(reached_contact, named, records, refused + nobody)

    def store(self, contact: Contact, request: Store) -> Deferred[Stored]:
        """@return: Deferred of the outcomes, one for each record."""
        asked = self._call(contact, STORE, request, STORE_TIMEOUT)
        return asked.addCallback(self._stored, request)

    def _stored(self, reached: Reached, request: Store) -> Stored:
        answer: Stored = reached.answer
        check_stored(request, answer)
        return answer

    def _call(
        self, contact: Contact, method: Any, request: Any, timeout: float = ANSWER_TIMEOUT
    ) -> Deferred[Reached]:
        self.asked[method.name] += 1
        return self._connections.call(contact.key, contact.places, method, request, timeout)

    def _named(self, raws: list[bytes], place: HostPort) -> tuple[list[Contact], int]:
        """@return: whom an answer tells of, and how many of them are nobody."""
        return self._reader.contacts(raws, scope_at(place.host), self._wall_ms())
