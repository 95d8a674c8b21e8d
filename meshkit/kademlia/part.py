"""
The part C{dht}: a L{KademliaNode <meshkit.kademlia.node.KademliaNode>} in a node, which
begins at the node's peers, and is offered at its doors.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
from ipaddress import ip_network
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocolFactory, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.errors import (
    ConfigError,
    InvalidAddress,
    InvalidRequest,
    MeshkitError,
    NotReady,
    RecordChanged,
    VoucherInvalid,
)
from meshkit.identity.addresses import HostPort, MeshAddress, RelayRole, Via
from meshkit.identity.keys import PublicKey
from meshkit.identity.network import PUBLIC_RELAYS
from meshkit.identity.records import MAX_ADDRESSES, AddressRecord
from meshkit.identity.scopes import parse_ip, scope_of
from meshkit.identity.vouchers import PATHS_NAME, RelayPath, decode_paths
from meshkit.interfaces import (
    BlocksChanged,
    IFeedStore,
    IHashTable,
    IMetrics,
    IPeerFinder,
    IRecordKind,
    ISelection,
    NodeWoke,
)
from meshkit.kademlia import operations as offered
from meshkit.kademlia.blocks import Network
from meshkit.kademlia.connections import Limits
from meshkit.kademlia.contacts import Contact, DialRules
from meshkit.kademlia.distance import NodeId, bucket_index, node_id, record_key
from meshkit.kademlia.holdings import Quota, Seen
from meshkit.kademlia.node import (
    MAX_BOOTSTRAP,
    Found,
    KademliaNode,
    Placed,
    Provider,
    Published,
)
from meshkit.kademlia.protocol import LABEL, VERSION
from meshkit.kademlia.records import Record
from meshkit.kademlia.store import MIGRATIONS as MIGRATIONS
from meshkit.operations import BoundOperation, Nothing
from meshkit.parts import Part, PartContext, shield
from meshkit.runtime.moments import rfc3339

#: Seconds before the node looks for others again where it knows nobody, at first and at most.
FIRST_PAUSE: Final = 5.0
LAST_PAUSE: Final = 300.0
#: Seconds that are waited for more peers to be added before they are all asked.
GATHER: Final = 0.5

#: Seconds that others have to let go when the node stops: nothing that matters is on its way.
CLOSE_GRACE: Final = 2.0

#: Bytes of a name that is a text: what is published must be found again, by an address that has
#: three characters for each of them.
MAX_NAME: Final = 4_096

_METHODS: Final = ("find_node", "find_value", "ping", "store")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section C{[dht]}."""

    addresses: Annotated[
        tuple[str, ...],
        Meta(
            description="IP:PORT where this node is reached from outside, if it cannot find that "
            "out by itself",
            extra={"flag": "address"},
        ),
    ] = ()
    client: Annotated[
        bool, Meta(description="ask only: be in nobody's table, and keep no records for others")
    ] = False
    own_blocks: Annotated[
        tuple[str, ...],
        Meta(
            description="address block such as 10.0.0.0/8 in which all nodes are the operator's "
            "own: any number of them may be in the table",
            extra={"flag": "own-block"},
        ),
    ] = ()
    low_ports: Annotated[
        bool, Meta(description="dial ports below 1024 other than 80 and 443 on a peer's word")
    ] = False
    connections: Annotated[
        int, Meta(ge=16, le=10_000, description="connections to other nodes at the same time")
    ] = 256
    max_records: Annotated[
        int, Meta(ge=1_000, le=10_000_000, description="records kept for others")
    ] = 20_000
    max_bytes: Annotated[
        int,
        Meta(
            ge=4 * 1024 * 1024,
            le=64 * 1024**3,
            description="bytes of records kept for others",
            extra={"size": True},
        ),
    ] = 64 * 1024 * 1024

    def places(self) -> tuple[HostPort, ...]:
        """
        @return: C{addresses}.
        @raise ConfigError: if one is none, or there are too many.
        """
        if len(self.addresses) > MAX_ADDRESSES:
            raise ConfigError(f"dht.addresses: {MAX_ADDRESSES} addresses are the limit")
        try:
            found = tuple(HostPort.parse(text) for text in self.addresses)
        except InvalidAddress as e:
            raise ConfigError(f"dht.addresses: {e}") from None
        for place in found:
            address = parse_ip(place.host)
            if address is None:
                raise ConfigError(
                    f"dht.addresses: {place.text} names a host, and nodes dial each other by IP "
                    "addresses only: write the address it has"
                )
            if scope_of(address) is None:
                raise ConfigError(
                    f"dht.addresses: no host can be reached at {place.text}: write the address "
                    "that others dial, or leave it out and the node finds out"
                )
        if len(set(found)) < len(found):
            raise ConfigError("dht.addresses: one of them stands there twice")
        return found

    def blocks(self) -> tuple[Network, ...]:
        """
        @return: C{own_blocks}.
        @raise ConfigError: if one is none.
        """
        try:
            return tuple(ip_network(text) for text in self.own_blocks)
        except ValueError as e:
            raise ConfigError(
                f"dht.own_blocks: {e}: write an address block such as 10.0.0.0/8"
            ) from None


class _Trusted:
    """Those whom the operator has named: peers to dial, and authors to follow."""

    def __init__(self, peers: Any, selection: Any) -> None:
        self._peers = peers
        self._selection = selection
        self._keys: frozenset[PublicKey] = frozenset()
        peers.watch(self._changed)
        if selection is not None:
            selection.watch(self._changed)
        self._fresh = False

    def _changed(self) -> None:
        self._fresh = False

    def __contains__(self, key: object) -> bool:
        if not self._fresh:
            followed = () if self._selection is None else self._selection.interest().authors
            self._keys = frozenset(address.key for address in self._peers.named()) | {
                PublicKey(author) for author in followed
            }
            self._fresh = True
        return key in self._keys


@implementer(IHashTable, IPeerFinder)
class DHTPart(Part):
    """
    See the module.

    @ivar node: the hash table.
    """

    _log = Logger()

    def __init__(self, context: PartContext) -> None:
        config: Config = context.config
        self._context = context
        self._config = config
        whereabouts = context.whereabouts
        # The table's nodes dial no names.
        places = config.places() or tuple(
            place for place in whereabouts.advertised if parse_ip(place.host) is not None
        )
        self._store = context.find(IFeedStore)
        self._peers = context.peers
        self._ledger = context.peers.ledger
        self._reactor = context.reactor
        self._looking: IDelayedCall | None = None
        self._telling: IDelayedCall | None = None
        self._pause = FIRST_PAUSE
        self._begun: set[str] = set()
        # Since the start somebody was reached, and told where this node is.
        self._arrived = False
        self._unsubscribe: list[Callable[[], None]] = []
        self._more: dict[str, bytes] = {}
        self.node = KademliaNode(
            context.reactor,
            context.identity,
            context.network.net_id,
            self._endpoint,
            rng=context.rng,
            wall_clock=context.wall_clock,
            addresses=lambda: () if config.client else places,
            listening=(lambda: ()) if config.client else whereabouts.listening,
            rules=DialRules(config.blocks(), config.low_ports),
            quota=Quota(records=config.max_records, size=config.max_bytes),
            trusted=_Trusted(context.peers, context.find(ISelection)),
            database=context.database,
            limits=Limits(connections=config.connections, close=CLOSE_GRACE),
            shunned=self._shunned,
            previous=None if context.previous is None else context.previous.net_id,
            more=self._more,
        )
        self._measure(context.metrics)

    def _measure(self, metrics: IMetrics) -> None:
        node = self.node
        metrics.gauge("contacts", "Nodes in the table.", lambda: len(node.table))
        metrics.gauge("records", "Records that are kept.", lambda: len(node.holdings))
        metrics.gauge("records_bytes", "Bytes of these.", lambda: node.holdings.size)
        metrics.gauge("publications", "Records of our own.", lambda: len(node.publications))
        metrics.gauge("connections", "Connections to others.", lambda: len(node.connections))
        metrics.gauge("accepted", "Connections of others.", lambda: len(node.server))
        metrics.gauge("lookups", "Lookups under way.", lambda: node.stats().lookups)
        metrics.gauge("network_size", "Nodes in all, an estimate.", lambda: node.size.size or 0)
        metrics.count("dialled_total", "Dials.", lambda: node.connections.dialled)
        metrics.count(
            "asked_total", "Questions to others.", lambda: dict(node.client.asked), method=_METHODS
        )
        metrics.count(
            "served_total",
            "Questions of others.",
            lambda: dict(node.server.served),
            method=_METHODS,
        )

    # --- the service ----------------------------------------------------------------------

    def startService(self) -> Deferred[None]:
        super().startService()
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        self._arrived = False
        await self.node.start()
        self._unsubscribe = [
            self._context.events.subscribe(BlocksChanged, self._blocks_changed),
            self._context.events.subscribe(NodeWoke, self._woke),
            self._context.whereabouts.ask(LABEL, self.own_places),
        ]
        self._peers.watch(self._peers_changed)
        self._look_soon(0)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        while self._unsubscribe:
            self._unsubscribe.pop()()
        for due in (self._looking, self._telling):
            if due is not None:
                due.cancel()
        self._looking = self._telling = None
        return self.node.stop()

    def capabilities(self) -> dict[Any, IProtocolFactory]:
        return {} if self._config.client else {(LABEL, VERSION): self.node.server}

    def authorize(self, peer: PublicKey, label: str) -> bool:
        return bool(self.running) and not self._shunned(peer)

    def _shunned(self, peer: PublicKey) -> bool:
        blocked = self._store is not None and self._store.is_blocked(peer.raw)
        return bool(blocked or self._ledger.is_banned(peer))

    def _endpoint(self, address: MeshAddress) -> IStreamClientEndpoint:
        # Whether a node is where it says to be is what is asked: a relay would answer for it.
        endpoint: IStreamClientEndpoint = self._context.connections.endpoint(
            address, LABEL, VERSION, direct=True
        )
        return endpoint

    def status(self) -> offered.DHTStats:
        return self._answer_stats(Nothing())

    def _blocks_changed(self, event: BlocksChanged) -> None:
        if event.blocked:
            self.node.shun(PublicKey(event.author))

    def _woke(self, event: NodeWoke) -> None:
        """Begin anew: others have to be told where this node is, and may have moved themselves."""
        self._arrived = False
        self._pause = FIRST_PAUSE
        self._look_soon(0)

    # --- finding others ---------------------------------------------------------------------

    def _peers_changed(self) -> None:
        if self.running and {each.text for each in self._begin_at()} - self._begun:
            self._look_soon(GATHER)

    def _begin_at(self) -> list[MeshAddress]:
        """The peers of the node, but for those behind relays, who are in nobody's table."""
        return [each for each in self._peers.dialable() if each.via is None]

    def _look_soon(self, seconds: float) -> None:
        if self._looking is not None:
            if self._looking.getTime() <= self._reactor.seconds() + seconds:
                return
            self._looking.cancel()
        self._looking = self._reactor.callLater(seconds, self._look)

    def _look(self) -> None:
        """
        Begin at the peers of the node and those known from before a restart, who are to be told
        where it is now, and go on to do so as long as nobody is known.  Then those of the peers
        who are not known are tried now and then: they may lead to nodes that have found together
        elsewhere.
        """
        self._looking = None
        peers = self._begin_at()
        self._begun = {each.text for each in peers}
        table = self.node.table
        strange = [e for e in peers if node_id(e.key) not in table and not self._shunned(e.key)]
        if self._arrived and len(table) and not strange:
            self._look_again()
            return
        if len(strange) > MAX_BOOTSTRAP:
            # Others each time: the first ones may all be gone.
            self._context.rng.shuffle(strange)
        self.node.bootstrap(strange).addCallbacks(self._looked, self._not_looked)

    def _looked(self, known: int) -> None:
        if known:
            self._arrived = True
            self._pause = FIRST_PAUSE
        self._look_again()

    def _look_again(self) -> None:
        if self.running:
            self._look_soon(LAST_PAUSE if len(self.node.table) else self._pause)
            self._pause = min(2 * self._pause, LAST_PAUSE)

    def _not_looked(self, failure: Failure) -> None:
        if failure.check(CancelledError, NotReady):
            return
        if failure.check(MeshkitError):
            self._log.info("the hash table found nobody: {error}", error=str(failure.value))
        else:
            self._log.failure("looking for other nodes failed", failure)
        self._look_again()

    # --- what other parts use -----------------------------------------------------------------

    def register_kind(self, kind: IRecordKind) -> None:
        self.node.kinds.register(kind)

    def get(self, kind: str, name: bytes) -> Deferred[Found[Record]]:
        return self.node.get(kind, name)

    def put(
        self, kind: str, name: bytes, value: bytes, *, salt: bytes = b"", until: int | None = None
    ) -> Deferred[Placed]:
        return self.node.put(kind, name, value, salt=salt, until=until)

    def withdraw(self, kind: str, name: bytes, salt: bytes = b"") -> Deferred[Placed]:
        return self.node.withdraw(kind, name, salt)

    def provide(self, content: bytes) -> Deferred[Placed]:
        return self.node.provide(content)

    def providers(self, content: bytes) -> Deferred[Found[Provider]]:
        return self.node.providers(content)

    def find_node(self, target: NodeId | PublicKey) -> Deferred[Found[Contact]]:
        return self.node.find_node(target)

    def find_peer(self, key: PublicKey) -> Deferred[list[MeshAddress]]:
        return self.node.find_published(key).addCallback(self._ways_to)

    def _ways_to(self, published: Published) -> list[MeshAddress]:
        """@raise NotFound: there is none."""
        contact, record = published.contact, published.record
        found = [] if contact is None else _addresses(contact)
        for path in self._relays_of(record):
            role = self._role_of(path.voucher.network)
            # Its voucher is signed by whoever has the key of that relay, which may be anybody's.
            if role is not None and self.node.rules.may_dial(path.place, published.namer):
                place, via = path.place, Via(path.voucher.relay, role)
                found.append(MeshAddress(place.host, place.port, record.key, via))
        if not found:
            raise published.unreachable()
        return found

    def _relays_of(self, record: AddressRecord) -> Sequence[RelayPath]:
        raw = record.more.get(PATHS_NAME)
        if raw is None:
            return ()
        try:
            return decode_paths(raw, record.key, self.node.wall_ms())
        except VoucherInvalid as e:
            self._log.info(
                "what {peer} says of its relays is not used: {error}",
                peer=record.key.text,
                error=str(e),
            )
            return ()

    def _role_of(self, network: bytes) -> RelayRole | None:
        """@return: what a relay is that is dialled in a network; L{None} if it is not by us."""
        if network == self.node.network:
            return "member"
        return "blind" if network == PUBLIC_RELAYS.key().net_id else None

    def tell(self, name: str, value: bytes | None) -> None:
        before = self._more.get(name)
        if value is None:
            self._more.pop(name, None)
        else:
            self._more[name] = value
        if value != before and self.running:
            self._tell_soon()

    def _tell_soon(self) -> None:
        if self._telling is None:
            self._telling = self._reactor.callLater(GATHER, self._tell_now)

    def _tell_now(self) -> None:
        self._telling = None
        self.node.run_alone(self.node.upkeep.publish_address(), "saying where this node is")

    def own_places(self) -> tuple[HostPort, ...]:
        record = self.node.own_address()
        return () if record is None else record.addresses

    def own_record(self) -> bytes:
        return b"" if self._config.client else self.node.own_record()

    # --- what is offered at the doors -----------------------------------------------------------

    def operations(self) -> Sequence[BoundOperation]:
        return (
            BoundOperation(offered.GET, self._answer_get),
            BoundOperation(offered.PUT, self._answer_put),
            BoundOperation(offered.WITHDRAW, self._answer_withdraw),
            BoundOperation(offered.FIND_NODE, self._answer_find_node),
            BoundOperation(offered.FIND_PEER, self._answer_find_peer),
            BoundOperation(offered.PROVIDERS, self._answer_providers),
            BoundOperation(offered.PROVIDE, self._answer_provide),
            BoundOperation(offered.TABLE, self._answer_table),
            BoundOperation(offered.STATS, self._answer_stats),
        )

    def _named(self, kind: str, name: str, salt: str) -> bytes:
        """
        What records are found by, as it is written at the doors.

        @raise RecordWrongKind: nobody here knows the kind.
        @raise InvalidRequest: it is written in another way.
        @raise InvalidPublicKey: likewise.
        """
        written = self.node.kinds.find(kind).written
        if written == "id":
            named = PublicKey.parse(name).raw
        elif written == "hex":
            named = _from_hex(name, "name")
        else:
            named = _from_text(name)
        if salt and kind != "mutable":
            raise InvalidRequest("only mutable items have a salt", field="salt")
        return named + _salt(salt)

    async def _answer_get(self, request: offered.FindRecords) -> offered.FoundRecords:
        name = self._named(request.kind, request.name, request.salt)
        found = await self.node.get(request.kind, name)
        return offered.FoundRecords([_shown(record) for record in found], _took(found))

    async def _answer_put(self, request: offered.PutRecord) -> offered.Placed:
        kind, value, salt = request.kind, _value(request), _salt(request.salt)
        self.node.kinds.find(kind)
        if kind == "address":
            raise InvalidRequest("a node publishes its address by itself", field="kind")
        swaps = request.swap_sequence is not None
        if swaps and kind != "mutable":
            raise InvalidRequest("only mutable items can be swapped", field="swap_sequence")
        name = self._own_name(request, value)
        until = None
        if request.expires_secs is not None:
            until = self.node.wall_ms() + 1000 * request.expires_secs
        raw = self._named(kind, name, request.salt)
        # Who goes away does not take back what was begun.
        if not swaps:
            placed = await shield(self.node.put(kind, raw, value, salt=salt, until=until))
        elif until is not None:
            raise InvalidRequest(
                "what is swapped stays until it is withdrawn", field="expires_secs"
            )
        else:
            placed = await shield(self.node.swap_mutable(value, _seen(request), salt))
        if swaps and not placed.accepted:
            if RecordChanged.code not in placed.refused:
                why = ", ".join(sorted(code or "no answer" for code in placed.refused))
                raise NotReady(
                    f"none of {placed.asked} nodes has taken it ({why or 'nobody is known'}): "
                    "nothing is published"
                )
            raise RecordChanged(
                f"none of the {placed.asked} nodes that keep it has what was given as what is "
                "there: get it again, and see whether your change is still wanted"
            )
        return self._placed(kind, name, record_key(kind, raw), salt, placed)

    def _own_name(self, request: offered.PutRecord, value: bytes) -> str:
        """The name under which something is to be published."""
        name = request.name
        if request.kind == "mutable":
            own = self._context.identity.public.text
            if name is not None and PublicKey.parse(name).text != own:
                raise InvalidRequest(
                    "a mutable item is found by the id of its owner, and this node can only "
                    "write its own: leave the name out",
                    field="name",
                )
            return own
        if request.kind == "immutable":
            digest = hashlib.sha256(value).hexdigest()
            if name is not None and name.lower() != digest:
                raise InvalidRequest(
                    "an immutable item is found by the SHA-256 of its value: leave the name out",
                    field="name",
                )
            return digest
        if name is None:
            raise InvalidRequest(
                f"what is a record of the kind {request.kind} found by?", field="name"
            )
        return name

    async def _answer_withdraw(self, request: offered.FindRecords) -> offered.Placed:
        kind, salt = request.kind, _salt(request.salt)
        name = self._named(kind, request.name, request.salt)
        if kind == "address":
            raise InvalidRequest(
                "a node publishes its address by itself: set dht.client to be found by nobody",
                field="kind",
            )
        placed = await shield(self.node.withdraw(kind, name, salt))
        return self._placed(kind, request.name, record_key(kind, name), salt, placed)

    async def _answer_provide(self, request: offered.FindProviders) -> offered.Placed:
        content = _from_hex(request.content, "content")
        placed = await shield(self.node.provide(content))
        key = record_key("provider", content)
        return self._placed("provider", request.content, key, b"", placed)

    def _placed(
        self, kind: str, name: str, key: NodeId, salt: bytes, placed: Placed
    ) -> offered.Placed:
        return offered.Placed(
            kind=kind,
            name=name,
            key=key.hex(),
            sequence=placed.sequence,
            expires=_moment(placed.expires),
            accepted=placed.accepted,
            asked=placed.asked,
            refused=dict(placed.refused),
            lookup=_took(placed),
        )

    async def _answer_find_node(self, request: offered.FindNode) -> offered.FoundContacts:
        target: NodeId | PublicKey
        if request.target.startswith("@"):
            target = PublicKey.parse(request.target)
        else:
            target = _from_hex(request.target, "target")
            if len(target) != 32:
                raise InvalidRequest(
                    f"a place has 64 hex digits, not {len(request.target)}", field="target"
                )
        found = await self.node.find_node(target)
        return offered.FoundContacts([_contact(each) for each in found], _took(found))

    async def _answer_find_peer(self, request: offered.FindPeer) -> offered.ContactShown:
        key = PublicKey.parse(request.public_id)
        ways = self._ways_to(await self.node.find_published(key))
        return offered.ContactShown(key.text, node_id(key).hex(), [each.text for each in ways])

    async def _answer_providers(self, request: offered.FindProviders) -> offered.FoundProviders:
        found = await self.node.providers(_from_hex(request.content, "content"))
        shown = [
            offered.ProviderShown(
                public_id=provider.key.text,
                addresses=[MeshAddress(p.host, p.port, provider.key).text for p in provider.places],
                expires=_moment(provider.expires),
            )
            for provider in found
        ]
        return offered.FoundProviders(shown, _took(found))

    def _answer_table(self, request: Nothing) -> list[offered.TableEntry]:
        own = self.node.id
        entries = sorted(
            self.node.table.snapshot(), key=lambda each: each.contact.number ^ self._number
        )
        return [
            offered.TableEntry(
                public_id=each.contact.key.text,
                id=each.contact.id.hex(),
                shared_bits=bucket_index(own, each.contact.id),
                addresses=[address.text for address in _addresses(each.contact)],
                since=_moment(int(1000 * each.since)),
                heard=_moment(int(1000 * each.heard)),
            )
            for each in entries
        ]

    @property
    def _number(self) -> int:
        return int.from_bytes(self.node.id, "big")

    def _answer_stats(self, request: Nothing) -> offered.DHTStats:
        stats, record = self.node.stats(), self.node.own_address()
        places = () if record is None else record.addresses
        key = self._context.identity.public
        return offered.DHTStats(
            id=self.node.id.hex(),
            reachable=bool(places),
            addresses=[MeshAddress(place.host, place.port, key).text for place in places],
            contacts=stats.contacts,
            size=None if stats.size is None else round(stats.size, 1),
            records=stats.records,
            record_bytes=stats.record_bytes,
            publications=stats.publications,
            connections=stats.connections,
            accepted=stats.accepted,
            dialled=stats.dialled,
            lookups=stats.lookups,
            asked=dict(stats.asked),
            served=dict(stats.served),
        )


def _moment(milliseconds: int) -> str:
    return rfc3339(1_000_000 * milliseconds)


def _from_hex(text: str, field: str) -> bytes:
    try:
        found = binascii.unhexlify(text)
    except ValueError:
        raise InvalidRequest(f"{text[:80]!r} is not written in hex", field=field) from None
    if not found:
        raise InvalidRequest(f"the {field} is empty", field=field)
    return found


def _from_text(text: str) -> bytes:
    found = text.encode("utf-8")
    if not found:
        raise InvalidRequest("the name is empty", field="name")
    if "\0" in text:
        raise InvalidRequest("a name holds no NUL character", field="name")
    if len(found) > MAX_NAME:
        raise InvalidRequest(
            f"a name of {len(found)} bytes in UTF-8 is over the limit of {MAX_NAME}", field="name"
        )
    return found


def _salt(text: str) -> bytes:
    return text.encode("utf-8")


def _value(request: offered.PutRecord) -> bytes:
    if request.text is not None and request.value is not None:
        raise InvalidRequest("give the value as text or in base64, not both", field="value")
    if request.text is not None:
        return request.text.encode("utf-8")
    if request.value is None:
        return b""
    try:
        return base64.b64decode(request.value, validate=True)
    except ValueError:
        raise InvalidRequest("the value is not base64", field="value") from None


def _seen(request: offered.PutRecord) -> Seen:
    if not request.swap_sequence:
        return Seen(0)
    digest = _from_hex(request.swap_digest, "swap_digest")
    if len(digest) != 32:
        raise InvalidRequest("the digest of a record has 64 hex digits", field="swap_digest")
    return Seen(request.swap_sequence, digest)


def _took(found: Found[Any] | Placed) -> offered.Lookup:
    return offered.Lookup(found.questions, found.hops, found.crowded)


def _shown(record: Record) -> offered.RecordShown:
    return offered.RecordShown(
        kind=record.kind,
        key=record.key.hex(),
        owner=record.owner.text,
        sequence=record.sequence,
        digest=record.digest.hex(),
        expires=_moment(record.expires),
        salt=_text(record.salt) or record.salt.hex(),
        value=base64.b64encode(record.value).decode("ascii"),
        text=_text(record.value),
    )


def _text(value: bytes) -> str | None:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _addresses(contact: Contact) -> list[MeshAddress]:
    return [MeshAddress(place.host, place.port, contact.key) for place in contact.places]


def _contact(contact: Contact) -> offered.ContactShown:
    return offered.ContactShown(
        public_id=contact.key.text,
        id=contact.id.hex(),
        addresses=[address.text for address in _addresses(contact)],
    )


def make_part(context: PartContext) -> DHTPart:
    return DHTPart(context)
