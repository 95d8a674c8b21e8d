"""
Ten thousand nodes on the pure cores, in virtual time.

A node here is a L{RoutingTable}, a L{SizeEstimate}, the L{Holdings} that it keeps for others
and the L{Publications} of its own; messages are calls.  Each question takes a random time,
and one that nobody answers the L{TIMEOUT}.  What nodes do is what the shell does
(L{meshkit.kademlia.upkeep}): they look up, store, refresh their tables, republish what they
keep, hand it over to newcomers, and try those that were lost.

Records are signed and verified; but what one node has verified the others do not verify
again (L{Notary}).  Nodes themselves have keys of which nobody has the secret half, as nothing
is encrypted; their address records are not signed.

Liars know each other and all their keys.  They answer as honest nodes do until they are
asked about a place that they attack; then they do what the L{Lie} says.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from ipaddress import IPv4Address
from random import Random
from typing import Final

from attrs import define, field, frozen

from meshkit.errors import RecordError
from meshkit.identity.addresses import HostPort
from meshkit.identity.keys import Identity, PublicKey
from meshkit.identity.records import AddressRecord
from meshkit.identity.scopes import Scope, scope_of
from meshkit.kademlia.contacts import Contact, DialRules
from meshkit.kademlia.distance import ID_BITS, NodeId, node_id, number, record_key
from meshkit.kademlia.estimate import MAX_REGION, SizeEstimate, region_bits
from meshkit.kademlia.holdings import NEAREST, Due, Holdings
from meshkit.kademlia.kinds import Kinds, immutable_key, mutable_key
from meshkit.kademlia.lookup import ALPHA, PATHS, SAFE_PATHS, Ask, Lookup
from meshkit.kademlia.publications import Publications
from meshkit.kademlia.records import LIFETIME, Record
from meshkit.kademlia.routing import MAX_CHECKS, K, RoutingTable
from meshkit.kademlia.upkeep import LOST, MAX_DUE, MAX_NEWCOMERS

#: Seconds after which an answer is not waited for any more.
TIMEOUT: Final = 5.0
#: Seconds after which others are asked meanwhile.
LATE: Final = 1.0
#: Seconds that a question and its answer take.
FASTEST: Final = 0.02
SLOWEST: Final = 0.3
HOUR: Final = 3_600.0
#: Seconds between two looks at what is to be done with records; the shell looks every minute.
LOOK: Final = 300.0
#: Part of the nodes that leaves in an hour.
LEAVING: Final = 0.3
#: Outcomes of lookups that a node of a network that was there for long remembers.
_SEEN_BEFORE: Final = 8
#: Nodes that left and can still be named.
_MAX_GONE: Final = 1_000

NETWORK: Final = bytes(16)
_RULES: Final = DialRules()
_FOR_EVER: Final = 2**62


class Lie(Enum):
    """What a liar does when it is asked about a place that is attacked."""

    #: It names other liars only, and gives the oldest record there was.
    COLLUDE = "collude"
    #: It names nodes of which it has no record that they signed, and gives a forged record.
    NONSENSE = "nonsense"
    #: It names nodes that are gone, and gives the oldest record there was.
    STALE = "stale"
    SILENT = "silent"


class Notary(Kinds):
    """
    The kinds of all nodes, and the records that one of them has verified.

    @ivar looked_at: signatures that were.
    """

    def __init__(self) -> None:
        super().__init__()
        self._verified: dict[bytes, Record] = {}
        self.looked_at = 0

    def open(self, raw: bytes, network: bytes, now: int) -> Record:
        record = self._verified.get(raw)
        if record is None:
            self.looked_at += 1
            record = self._verified[raw] = super().open(raw, network, now)
        record.check_time(now)
        return record

    def open_answer(self, raw: bytes, network: bytes, now: int, kind: str, key: NodeId) -> Record:
        record = self._verified.get(raw)
        if record is None or (record.kind, record.key) != (kind, key):
            self.looked_at += 1
            record = self._verified[raw] = super().open_answer(raw, network, now, kind, key)
        record.check_time(now)
        return record


class Index:
    """All contacts of a network, by their ids."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._contacts: dict[int, Contact] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, contact: Contact) -> None:
        insort(self._numbers, contact.number)
        self._contacts[contact.number] = contact

    def remove(self, contact: Contact) -> None:
        del self._numbers[bisect_left(self._numbers, contact.number)]
        del self._contacts[contact.number]

    def sharing(self, place: int, bits: int) -> range:
        """Where those stand that share at least so many bits with a place."""
        below = ID_BITS - bits
        first = place >> below << below
        return range(
            bisect_left(self._numbers, first), bisect_left(self._numbers, first + (1 << below))
        )

    def at(self, position: int) -> Contact:
        return self._contacts[self._numbers[position]]

    def nearest(self, place: bytes, count: int = K) -> list[Contact]:
        here = number(place)
        bits = max(0, int(math.log2(max(len(self), 1) / count)) + 2)
        while bits and len(self.sharing(here, bits)) < count:
            bits -= 1
        found = (self._numbers[at] for at in self.sharing(here, bits))
        return [self._contacts[each] for each in sorted(found, key=lambda n: n ^ here)[:count]]


@define(eq=False)
class Node:
    """
    @ivar position: among those from whom one is drawn by chance.
    @ivar holdings: what it keeps; L{None} as long as that is nothing.
    @ivar publications: what it publishes.
    @ivar newcomers: who is to be given what it is nearer to.
    @ivar side: nodes of different sides do not reach each other.
    @ivar half: on which side it was.
    @ivar stays: it does not leave.
    @ivar lives: it does all by itself what there is to be done.
    @ivar looks: it will look at its records again.
    """

    contact: Contact
    table: RoutingTable
    liar: bool
    joined: bool
    position: int
    size: SizeEstimate = field(factory=SizeEstimate)
    holdings: Holdings | None = None
    publications: Publications | None = None
    newcomers: dict[bytes, Contact] = field(factory=dict)
    alive: bool = True
    side: int = 0
    half: int = 0
    stays: bool = False
    lives: bool = False
    looks: bool = False


@frozen
class Item:
    """
    What is looked for.

    @ivar records: those that all are to be found; or newer ones of the same owners with the
        same values.
    """

    kind: str
    key: NodeId
    records: tuple[Record, ...]

    @property
    def raws(self) -> list[bytes]:
        return [record.raw for record in self.records]


#: What one node gives.
Records = tuple[Record, ...]


@define(eq=False)
class Found:
    """
    The outcome of a lookup.

    @ivar seconds: how long it took.
    @ivar records: those that count, of all that were given.
    """

    lookup: Lookup[Records]
    seconds: float
    records: list[Record]

    def has(self, item: Item) -> bool:
        """Was all of it found?"""
        found = {(record.owner, record.value) for record in self.records}
        return all((record.owner, record.value) in found for record in item.records)


Then = Callable[[Found], None]


@define(eq=False)
class _Journey:
    """
    A lookup under way.

    @ivar kind: of records that are asked for, if any are.
    """

    node: Node
    lookup: Lookup[Records]
    kind: str | None
    started: float
    then: Then


@define(eq=False)
class Attack:
    """
    @ivar place: what is attacked.
    @ivar bits: who is asked about something that shares so many bits with it, lies.
    @ivar near: the liars that are nearest to it.
    @ivar made: nodes with keys made for it.
    @ivar oldest: the record that liars give, as it travels.
    @ivar forged: what they give that nobody signed.
    """

    place: NodeId
    bits: int
    near: list[Contact]
    made: list[Node]
    oldest: bytes
    forged: bytes


class Swarm:
    """
    A network.

    @ivar now: seconds.
    @ivar nodes: those that are there, by their ids.
    @ivar index: the same.
    @ivar kinds: of records.
    @ivar lie: what all liars do.
    @ivar regions: lookups look through crowded places.
    @ivar asked: questions so far.
    @ivar left: nodes that left so far.
    @ivar others: pings and stores so far.
    @ivar refused: records that nodes did not want to keep, by the codes of the refusals.
    """

    def __init__(self, seed: int = 1, lie: Lie = Lie.COLLUDE) -> None:
        self.rng = Random(seed)
        self.now = 1_000_000.0
        self.nodes: dict[bytes, Node] = {}
        self.index = Index()
        self.kinds = Notary()
        self.lie = lie
        self.regions = True
        self.asked = 0
        self.others = 0
        self.left = 0
        self.refused: Counter[str] = Counter()
        self._built: list[Node] = []
        self._drawn: list[Node] = []
        self._gone: list[Contact] = []
        self._attacks: list[Attack] = []
        # Those whose keys were made for an attack -> who has them in its table.
        self._known_by: dict[bytes, list[Node]] = {}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._counter = 0

    # --- time -----------------------------------------------------------------------------

    @property
    def now_ms(self) -> int:
        return int(self.now * 1000)

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        self._counter += 1
        heapq.heappush(self._heap, (self.now + seconds, self._counter, function))

    def run(self, seconds: float | None = None) -> None:
        """Let so much time pass, or as much as there is something to be done."""
        end = None if seconds is None else self.now + seconds
        while self._heap and (end is None or self._heap[0][0] <= end):
            self.now, _, function = heapq.heappop(self._heap)
            function()
        if end is not None:
            self.now = end

    # --- who is there ---------------------------------------------------------------------

    def make_contact(
        self, key: PublicKey | None = None, place: int | None = None, provider: int | None = None
    ) -> Contact:
        """
        Somebody at a random address.

        @param place: the id for which its key was made, if it was.
        @param provider: the /16 that it is at; by default any.
        """
        while True:
            address = IPv4Address(self.rng.getrandbits(32))
            if provider is not None:
                address = IPv4Address(int(address) & 0xFFFF | provider << 16)
            if scope_of(address) is Scope.WORLD:
                break
        key = key or PublicKey(self.rng.randbytes(32))
        where = (HostPort(str(address), 7655),)
        contact = _RULES.contact(AddressRecord(key, NETWORK, 1, _FOR_EVER, where), Scope.WORLD)
        assert contact is not None
        if place is not None:
            object.__setattr__(contact, "number", place)
            object.__setattr__(contact, "id", place.to_bytes(32, "big"))
        return contact

    def add(
        self, contact: Contact | None = None, *, liar: bool = False, joined: bool = True
    ) -> Node:
        """A node that knows nobody."""
        contact = contact or self.make_contact()
        node = Node(contact, RoutingTable(contact.id), liar, joined, len(self._drawn))
        self.nodes[contact.id] = node
        self.index.add(contact)
        self._drawn.append(node)
        return node

    def remove(self, node: Node) -> None:
        """It leaves without a word."""
        node.alive = False
        self.left += 1
        del self.nodes[node.contact.id]
        self.index.remove(node.contact)
        last = self._drawn.pop()
        if last is not node:
            self._drawn[node.position] = last
            last.position = node.position
        self._gone.append(node.contact)
        del self._gone[:-_MAX_GONE]

    def build(self, size: int) -> None:
        """
        So many nodes, with the tables that they would have after a long time: of each bucket
        twenty of those there are, by chance.
        """
        self._built = [self.add() for _ in range(size)]
        for node in self._built:
            self._fill(node)
        for node in self._built:
            for _ in range(_SEEN_BEFORE):
                place = self.rng.randbytes(32)
                node.size.saw(place, self.index.nearest(place))

    def have_lie(self, part: float) -> None:
        """From now on this part of those that were built lies, and no others."""
        for n, node in enumerate(self._built):
            node.liar = n < len(self._built) * part

    def _fill(self, node: Node) -> None:
        own = node.contact.number
        for bits in range(ID_BITS):
            if len(self.index.sharing(own, bits)) <= 1:
                return
            there = self.index.sharing(own ^ 1 << (ID_BITS - 1 - bits), bits + 1)
            for at in self.rng.sample(there, K) if len(there) > K else there:
                node.table.answered(self.index.at(at), self.now)

    def any_node(self, half: int | None = None) -> Node:
        """
        An honest one that has found its place.

        @param half: one that was in that half when the network was cut in two.
        """
        while True:
            node = self.rng.choice(self._drawn)
            if node.joined and not node.liar and half in (None, node.half):
                return node

    # --- looking up -----------------------------------------------------------------------

    def look_up(
        self,
        node: Node,
        target: NodeId,
        then: Then,
        *,
        kind: str | None = None,
        paths: int = PATHS,
        own: bool = False,
    ) -> None:
        """
        @param kind: of records that are asked for.
        @param own: nobody else has chosen the target.
        """
        starts = node.table.closest(target, max(K, ALPHA * paths))
        elders = node.table.elders(target, K)
        lookup: Lookup[Records] = Lookup(
            target,
            starts,
            elders,
            own=node.contact.id,
            paths=paths,
            size=node.size.size if self.regions else None,
            more=lambda: node.table.closest(target, MAX_REGION),
        )
        node.table.looked_up(target, self.now)

        def done(found: Found) -> None:
            if own:
                node.size.saw(target, lookup.closest())
            then(found)

        journey = _Journey(node, lookup, kind, self.now, done)
        self._send(journey, lookup.start())

    def get(self, node: Node, item: Item, then: Then, *, paths: int = PATHS) -> None:
        """Look for the records of an item."""
        self.look_up(node, item.key, then, kind=item.kind, paths=paths)

    def _send(self, journey: _Journey, asks: list[Ask]) -> None:
        self.asked += len(asks)
        for ask in asks:
            seconds = self.rng.uniform(FASTEST, SLOWEST)
            if self._reaches(journey.node, ask.contact) is None:
                self.call_later(TIMEOUT, partial(self._fail, journey, ask))
                self.call_later(LATE, partial(self._late, journey, ask))
            else:
                self.call_later(seconds, partial(self._deliver, journey, ask))
        if journey.lookup.finished:
            journey.then(self._found(journey))

    def _found(self, journey: _Journey) -> Found:
        given = [record for _, records in journey.lookup.values for record in records]
        holdings = journey.node.holdings
        if holdings is not None and journey.kind is not None:
            own = holdings.find(journey.kind, journey.lookup.target, self.now_ms)
            given += [Record.reopen(raw) for raw in own.records]
        return Found(journey.lookup, self.now - journey.started, self.kinds.merged(given))

    def _reaches(self, node: Node, contact: Contact) -> Node | None:
        peer = self.nodes.get(contact.id)
        return None if peer is None or peer.side != node.side else peer

    def _fail(self, journey: _Journey, ask: Ask) -> None:
        node = journey.node
        if not node.alive or journey.lookup.finished:
            return
        self._ask_once_more(node, node.table.failed(ask.contact.id, self.now))
        self._send(journey, journey.lookup.failed(ask.contact))

    def _late(self, journey: _Journey, ask: Ask) -> None:
        if journey.node.alive and not journey.lookup.finished:
            self._send(journey, journey.lookup.late(ask.contact))

    def _deliver(self, journey: _Journey, ask: Ask) -> None:
        node, lookup = journey.node, journey.lookup
        if not node.alive or lookup.finished:
            return
        peer = self._reaches(node, ask.contact)
        if peer is None:
            self._fail(journey, ask)
            return
        kind = journey.kind if ask.target == lookup.target else None
        attack = self._attack_on(ask.target) if peer.liar else None
        if attack is None:
            named = peer.table.told(ask.target, self.now, node.contact.id)
            raws: Sequence[bytes] = ()
            if kind is not None and peer.holdings is not None:
                raws = peer.holdings.find(kind, ask.target, self.now_ms).records
            invented = 0
            self._ask_once_more(peer, peer.table.offer(node.contact, self.now))
        elif self.lie is Lie.SILENT:
            self.call_later(TIMEOUT - SLOWEST, partial(self._fail, journey, ask))
            self.call_later(LATE - SLOWEST, partial(self._late, journey, ask))
            return
        else:
            named, raws, invented = self._lie_about(attack, ask.target)
        self._ask_once_more(node, self._answered(node, ask.contact))
        records, refused = self._read(raws, kind, ask.target)
        asks = lookup.answered(ask.contact, named, records or None, refused=invented + refused)
        self._send(journey, asks)

    def _lie_about(
        self, attack: Attack, target: NodeId
    ) -> tuple[list[Contact], Sequence[bytes], int]:
        """@return: whom a liar names, what it gives, and how many it has invented."""
        if self.lie is Lie.NONSENSE:
            return [], (attack.forged,), K
        here = number(target)
        named = attack.near if self.lie is Lie.COLLUDE else self._gone
        return heapq.nsmallest(K, named, key=lambda each: each.number ^ here), (attack.oldest,), 0

    def _read(self, raws: Sequence[bytes], kind: str | None, key: NodeId) -> tuple[Records, int]:
        """@return: the records that are what was asked for, and how many are not."""
        records: list[Record] = []
        if kind is not None:
            for raw in raws:
                try:
                    records.append(self.kinds.open_answer(raw, NETWORK, self.now_ms, kind, key))
                except RecordError:
                    continue
        return tuple(records), 0 if kind is None else len(raws) - len(records)

    def _answered(self, node: Node, contact: Contact) -> Contact | None:
        """See L{RoutingTable.answered}."""
        known = node.holdings is None or not len(node.holdings) or contact.id in node.table
        check = node.table.answered(contact, self.now)
        if not known and len(node.newcomers) < MAX_NEWCOMERS and contact.id in node.table:
            node.newcomers[contact.id] = contact
        made_for = self._known_by.get(contact.id)
        if made_for is not None:
            made_for.append(node)
        return check

    def _ask_once_more(self, node: Node, contact: Contact | None) -> None:
        """Ping whom the table wants to have pinged."""
        while contact is not None:
            self.others += 1
            if self._reaches(node, contact) is None:
                contact = node.table.failed(contact.id, self.now)
            else:
                contact = self._answered(node, contact)

    def _attack_on(self, target: NodeId) -> Attack | None:
        here = number(target)
        for attack in self._attacks:
            if (number(attack.place) ^ here).bit_length() <= ID_BITS - attack.bits:
                return attack
        return None

    # --- records --------------------------------------------------------------------------

    def author(self) -> Identity:
        return Identity(self.rng.randbytes(32))

    def item(
        self, kind: str = "mutable", authors: Sequence[Identity] = (), life: float | None = None
    ) -> Item:
        """
        Something to be stored, that nobody has stored yet.

        @param authors: who has signed it; by default somebody new.
        @param life: seconds for which its records are good.
        """
        some = authors or [self.author()]
        key, value = self._new_place(kind, some[0])
        return self.version(kind, key, some, value, life)

    def _new_place(self, kind: str, author: Identity) -> tuple[NodeId, bytes]:
        """@return: a key at which there is nothing, and a value that fits."""
        value = self.rng.randbytes(16)
        if kind == "mutable":
            return mutable_key(author.public), value
        if kind == "immutable":
            return immutable_key(value), value
        return record_key(kind, value), b"" if kind == "provider" else value

    def version(
        self,
        kind: str,
        key: NodeId,
        authors: Sequence[Identity],
        value: bytes,
        life: float | None = None,
        sequence: int = 0,
    ) -> Item:
        """
        @param sequence: how much newer it is than what was made at this moment.
        """
        now = self.now_ms
        expires = now + (LIFETIME if life is None else int(life * 1000))
        return Item(
            kind,
            key,
            tuple(
                Record.seal(
                    each, NETWORK, kind, key, value, sequence=now + sequence, expires=expires
                )
                for each in authors
            ),
        )

    def publish(self, kind: str) -> Item:
        """
        Somebody new joins, stays, and publishes something as long as he is there.
        """
        author = self.author()
        node = self.add(self.make_contact(author.public))
        node.stays = True
        self._fill(node)
        node.publications = Publications(author, NETWORK, self.kinds, self.rng)
        key, value = self._new_place(kind, author)
        record = node.publications.publish(kind, key, value, self.now_ms)
        item = Item(kind, key, (record,))
        self.store(node, item)
        return item

    def store(
        self, node: Node, item: Item, then: Then | None = None, *, paths: int = SAFE_PATHS
    ) -> None:
        """Look for those who should keep it, and send it to them."""
        self._place(node, item.key, item.raws, then or _nothing, paths)

    def _place(
        self, node: Node, key: NodeId, raws: Sequence[bytes], then: Then, paths: int
    ) -> None:
        def done(found: Found) -> None:
            for contact in found.lookup.holders():
                self._store_at(node, contact, key, raws)
            then(found)

        self.look_up(node, key, done, paths=paths)

    def _store_at(self, node: Node, contact: Contact, key: NodeId, raws: Sequence[bytes]) -> None:
        self.others += 1
        peer = self._reaches(node, contact)
        if peer is None:
            self._ask_once_more(node, node.table.failed(contact.id, self.now))
        elif not (peer.liar and self._attack_on(key)):
            self.keep(peer, raws, node.contact.key)

    def keep(self, node: Node, raws: Sequence[bytes], storer: PublicKey) -> None:
        """A node is asked by somebody to keep records."""
        holdings = node.holdings
        if holdings is None:
            holdings = node.holdings = Holdings(node.contact.id, NETWORK, self.kinds, self.rng)
        for raw in raws:
            try:
                holdings.store(raw, self.now_ms, storer)
            except RecordError as e:
                self.refused[e.code] += 1
        holdings.changes()
        self._watch(node)

    def holders(self, item: Item) -> int:
        """How many honest nodes keep all of an item, or newer records of it."""
        wanted = {(record.owner, record.value) for record in item.records}
        count = 0
        for node in self._drawn:
            if node.holdings is None or node.liar:
                continue
            kept = node.holdings.find(item.kind, item.key, self.now_ms).records
            if kept:
                records = [Record.reopen(raw) for raw in kept]
                count += wanted <= {(record.owner, record.value) for record in records}
        return count

    # --- living ---------------------------------------------------------------------------

    def live(self, node: Node, refreshes: float) -> None:
        """
        Do each hour what is to be done in an hour, twice in each the pings; and with records
        what is due.

        @param refreshes: how many lookups to refresh the table with, on average.
        """
        half = True

        def hour() -> None:
            if not node.alive:
                return
            self.call_later(HOUR / 2, hour)
            for contact in node.table.quiet(MAX_CHECKS, self.now):
                self._ask_once_more(node, contact)
            nonlocal half
            half = not half
            if half:
                return
            self.refresh(node, refreshes)
            for contact in node.table.lost(LOST):
                self._ask_once_more(node, contact)

        node.lives = True
        self.call_later(self.rng.uniform(0, HOUR), hour)
        self._watch(node)

    def _watch(self, node: Node) -> None:
        """See that a node looks at its records as long as there are some."""
        if node.lives and not node.looks and (node.holdings or node.publications):
            node.looks = True
            self.call_later(self.rng.uniform(0, LOOK), partial(self._look_after, node))

    def _look_after(self, node: Node) -> None:
        node.looks = False
        if not node.alive:
            return
        now = self.now_ms
        if node.publications is not None:
            for record in node.publications.due(now, MAX_DUE):
                self._place(node, record.key, [record.raw], _nothing, SAFE_PATHS)
        if node.holdings is not None:
            node.holdings.expire(now)
            for due in node.holdings.due(now, MAX_DUE):
                self._republish(node, node.holdings, due)
            self._hand_over(node, node.holdings)
        if node.publications is not None or (node.holdings is not None and len(node.holdings)):
            node.looks = True
            self.call_later(LOOK, partial(self._look_after, node))

    def _republish(self, node: Node, holdings: Holdings, due: Due) -> None:
        here, own = number(due.key), node.contact.number

        def done(found: Found) -> None:
            holders = found.lookup.holders()
            if found.lookup.crowded:
                return
            if len(holders) >= K and all(each.number ^ here < own ^ here for each in holders):
                holdings.relieve(due.kind, due.key, self.now_ms)

        self._place(node, due.key, due.records, done, PATHS)

    def _hand_over(self, node: Node, holdings: Holdings) -> None:
        while node.newcomers:
            place, contact = node.newcomers.popitem()

            def nearest(key: NodeId, newcomer: bytes = place) -> list[NodeId]:
                known = node.table.closest(key, NEAREST + 1)
                return [each.id for each in known if each.id != newcomer][:NEAREST]

            for some in holdings.handover(place, nearest, self.now_ms):
                for due in some:
                    self._store_at(node, contact, due.key, due.records)

    def refresh(self, node: Node, refreshes: float) -> None:
        targets = node.table.refreshes(self.now, self.rng)
        most = int(refreshes + self.rng.random())
        for target in self.rng.sample(targets, most) if len(targets) > most else targets:
            self.look_up(node, target, _nothing, paths=1, own=True)

    def join(self, node: Node, refreshes: float) -> None:
        """A node that knows one other finds its place, or tries again with another."""
        node.table.answered(self.any_node().contact, self.now)

        def done(found: Found) -> None:
            if not found.lookup.closest():
                self.join(node, refreshes)
                return
            node.joined = True
            self.refresh(node, refreshes)
            self.live(node, refreshes)

        self.look_up(node, node.contact.id, done, paths=1, own=True)

    def churn(self, refreshes: float, leaving: float = LEAVING) -> None:
        """
        From now on nodes leave, and as many come, each hour this part of them.  Liars do not,
        nor do those that stay.
        """
        rate = -math.log(1 - leaving) * len(self._drawn) / HOUR

        def change() -> None:
            self.call_later(self.rng.expovariate(rate), change)
            node = self.rng.choice(self._drawn)
            if not node.liar and not node.stays:
                self.remove(node)
                self.join(self.add(joined=False), refreshes)

        self.call_later(self.rng.expovariate(rate), change)

    def part(self) -> None:
        """From now on one half of the nodes does not reach the other."""
        for n, node in enumerate(self._drawn):
            node.side = node.half = n % 2

    def heal(self) -> None:
        for node in self._drawn:
            node.side = 0

    # --- attacks --------------------------------------------------------------------------

    def attack(
        self, oldest: Item, made: int, *, spread: bool = False, providers: int | None = None
    ) -> Attack:
        """
        @param oldest: all liars lie from now on about its place, with this if they may.
        @param made: liars whose keys were made until they were nearer to that place than any
            honest node; no nearer than that, so as to seem few.  They are in all tables in
            which there is room for them.
        @param spread: all but twenty of these are anywhere in the region instead, in which a
            lookup would look for honest nodes.
        @param providers: how many /16 these liars have; by default any number.
        """
        place, here = oldest.key, number(oldest.key)
        honest = self._nearest_honest(here)
        bits = region_bits(len(self.index))
        around = [self.nodes[each.id] for each in self.index.nearest(place, 10 * K)]
        around += self.rng.sample(self._drawn, min(len(self._drawn), 30 * K))
        blocks = [self.rng.randrange(0x1500, 0x7E00) for _ in range(providers or 0)]
        new: list[Node] = []
        for n in range(made):
            most = 1 << (ID_BITS - bits) if spread and n >= K else honest
            contact = self.make_contact(
                place=here ^ self.rng.randrange(1, most),
                provider=self.rng.choice(blocks) if blocks else None,
            )
            self._known_by[contact.id] = []
            liar = self.add(contact, liar=True)
            self._fill(liar)
            for node in around:
                self._ask_once_more(node, self._answered(node, contact))
            around.append(liar)
            new.append(liar)
        liars = [node.contact for node in self.nodes.values() if node.liar]
        near = heapq.nsmallest(max(10 * K, made), liars, key=lambda each: each.number ^ here)
        raw = oldest.records[0].raw
        attack = Attack(place, max(0, bits - 1), near, new, raw, raw[:-1] + bytes([raw[-1] ^ 1]))
        self._attacks.append(attack)
        return attack

    def _nearest_honest(self, here: int) -> int:
        """@return: how far it is from a place."""
        return min(node.contact.number ^ here for node in self._drawn if not node.liar)

    def retreat(self) -> None:
        """All attacks end, and those whose keys were made for them are gone and forgotten."""
        for attack in self._attacks:
            for node in attack.made:
                self.remove(node)
        self._attacks.clear()
        for place, nodes in self._known_by.items():
            for node in nodes:
                node.table.remove(place)
        self._known_by.clear()

    def hush(self, item: Item) -> None:
        """
        From now on somebody who has made a key that is nearer than all of those who keep an
        item stores it there, twice an hour and nowhere else, so that they think that it is
        taken care of.
        """
        here = number(item.key)
        honest = self._nearest_honest(here)
        while True:
            key = PublicKey(self.rng.randbytes(32))
            if number(node_id(key)) ^ here < honest:
                break

        def again() -> None:
            for node in list(self._drawn):
                if node.holdings is None or node.liar:
                    continue
                if node.holdings.find(item.kind, item.key, self.now_ms).held:
                    self.keep(node, item.raws, key)
            self.call_later(HOUR / 2, again)

        again()

    def vanish(self, count: int) -> None:
        """There were so many more nodes once."""
        self._gone += [self.make_contact() for _ in range(count)]


def _nothing(_: Found) -> None:
    pass
