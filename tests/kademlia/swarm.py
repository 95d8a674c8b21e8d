"""
Ten thousand nodes on the pure cores, in virtual time::

    python -m tests.kademlia.swarm lookups churn apart liars

A node here is a L{RoutingTable}, a L{SizeEstimate} and what it keeps, as numbered versions;
nothing is signed, and messages are calls.  Each question takes a random time, and one that
nobody answers the L{TIMEOUT}.  What nodes do is what the shell does: they look up, store,
refresh their tables, hand on every hour what they keep, and try those that were lost.

Liars know each other and all their keys.  They answer as honest nodes do until they are
asked about a place that they attack; then they do what the L{Lie} says.
"""

from __future__ import annotations

import heapq
import math
import sys
from bisect import bisect_left, insort
from collections.abc import Callable
from enum import Enum
from functools import partial
from ipaddress import IPv4Address
from random import Random
from statistics import mean
from typing import Final

from attrs import define, field, frozen

from meshkit.identity.addresses import HostPort
from meshkit.identity.keys import PublicKey
from meshkit.identity.records import AddressRecord
from meshkit.kademlia.blocks import Scope, scope_of
from meshkit.kademlia.contacts import Contact, DialRules
from meshkit.kademlia.distance import ID_BITS, number
from meshkit.kademlia.estimate import SizeEstimate, region_bits
from meshkit.kademlia.lookup import ALPHA, PATHS, SAFE_PATHS, Ask, Lookup
from meshkit.kademlia.routing import MAX_CHECKS, K, RoutingTable

#: Seconds after which an answer is not waited for any more.
TIMEOUT: Final = 5.0
#: Seconds after which others are asked meanwhile.
LATE: Final = 1.0
#: Seconds that a question and its answer take.
FASTEST: Final = 0.02
SLOWEST: Final = 0.3
HOUR: Final = 3_600.0
#: Those that are gone and are tried each hour.
LOST_PER_HOUR: Final = 4
#: Part of the nodes that leaves in an hour.
LEAVING: Final = 0.3
#: Outcomes of lookups that a node of a network that was there for long remembers.
_SEEN_BEFORE: Final = 8

_RULES: Final = DialRules()
_NETWORK: Final = bytes(16)
_FOR_EVER: Final = 2**62


class Lie(Enum):
    """What a liar does when it is asked about a place that is attacked."""

    #: It names other liars only, and gives the oldest value there is.
    COLLUDE = "collude"
    #: It names nodes of which it has no record that they signed.
    NONSENSE = "nonsense"
    #: It names nodes that are gone, and gives the oldest value there is.
    STALE = "stale"
    SILENT = "silent"


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
class Kept:
    """
    What a node keeps at a place.

    @ivar version: the higher, the newer.
    @ivar stored: when it was sent to it last.
    """

    version: int
    stored: float


@define(eq=False)
class Node:
    """
    @ivar kept: place -> what is there.
    @ivar position: among those from whom one is drawn by chance.
    @ivar side: nodes of different sides do not reach each other.
    @ivar half: on which side it was.
    """

    contact: Contact
    table: RoutingTable
    liar: bool
    joined: bool
    position: int
    size: SizeEstimate = field(factory=SizeEstimate)
    kept: dict[bytes, Kept] = field(factory=dict)
    alive: bool = True
    side: int = 0
    half: int = 0


@define(eq=False)
class Found:
    """
    The outcome of a lookup.

    @ivar seconds: how long it took.
    @ivar version: the newest that was found, 0 if there was none.
    """

    lookup: Lookup[int]
    seconds: float

    @property
    def version(self) -> int:
        return max((version for _, version in self.lookup.values), default=0)


Then = Callable[[Found], None]


@define(eq=False)
class _Journey:
    """A lookup under way."""

    node: Node
    lookup: Lookup[int]
    started: float
    then: Then


@define(eq=False)
class Attack:
    """
    @ivar place: what is attacked.
    @ivar bits: who is asked about something that shares so many bits with it, lies.
    @ivar near: the liars that are nearest to it.
    """

    place: bytes
    bits: int
    near: list[Contact]


class Swarm:
    """
    A network.

    @ivar now: seconds.
    @ivar nodes: those that are there, by their ids.
    @ivar index: the same.
    @ivar lie: what all liars do.
    @ivar regions: lookups look through crowded places.
    @ivar asked: questions so far.
    @ivar left: nodes that left so far.
    @ivar others: pings and stores so far.
    """

    def __init__(self, seed: int = 1, lie: Lie = Lie.COLLUDE) -> None:
        self.rng = Random(seed)
        self.now = 1_000_000.0
        self.nodes: dict[bytes, Node] = {}
        self.index = Index()
        self.lie = lie
        self.regions = True
        self.asked = 0
        self.others = 0
        self.left = 0
        self._drawn: list[Node] = []
        self._gone: list[Contact] = []
        self._attacks: list[Attack] = []
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._counter = 0

    # --- time -----------------------------------------------------------------------------

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

    def make_contact(self, place: int | None = None) -> Contact:
        """
        Somebody at a random address.

        @param place: the id for which its key was made, if it was.
        """
        address = IPv4Address(self.rng.getrandbits(32))
        while scope_of(address) is not Scope.WORLD:
            address = IPv4Address(self.rng.getrandbits(32))
        key = PublicKey(self.rng.randbytes(32))
        where = (HostPort(str(address), 7655),)
        contact = _RULES.contact(AddressRecord(key, _NETWORK, 1, _FOR_EVER, where), Scope.WORLD)
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
        del self._gone[:-1_000]

    def build(self, size: int, liars: float = 0.0) -> None:
        """
        So many nodes, with the tables that they would have after a long time: of each bucket
        twenty of those there are, by chance.

        @param liars: the part of them that lies.
        """
        made = [self.add(liar=n < size * liars) for n in range(size)]
        for node in made:
            self._fill(node)
        for node in made:
            for _ in range(_SEEN_BEFORE):
                place = self.rng.randbytes(32)
                node.size.saw(place, self.index.nearest(place))

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
        self, node: Node, target: bytes, then: Then, *, paths: int = PATHS, own: bool = False
    ) -> None:
        """@param own: nobody else has chosen the target."""
        starts = node.table.closest(target, max(K, ALPHA * paths))
        elders = node.table.elders(target, K)
        lookup: Lookup[int] = Lookup(
            target,
            starts,
            elders,
            own=node.contact.id,
            paths=paths,
            size=node.size.size if self.regions else None,
        )
        node.table.looked_up(target, self.now)

        def done(found: Found) -> None:
            if own:
                node.size.saw(target, lookup.closest())
            then(found)

        journey = _Journey(node, lookup, self.now, done)
        self._send(journey, lookup.start())

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
            journey.then(Found(journey.lookup, self.now - journey.started))

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
        named: list[Contact]
        value: int | None = None
        refused = 0
        attack = self._attack_on(ask.target) if peer.liar else None
        if attack is None:
            named = peer.table.told(ask.target, self.now, node.contact.id)
            kept = peer.kept.get(ask.target)
            value = None if kept is None else kept.version
            self._ask_once_more(peer, peer.table.offer(node.contact, self.now))
        elif self.lie is Lie.SILENT:
            self.call_later(TIMEOUT - SLOWEST, partial(self._fail, journey, ask))
            self.call_later(LATE - SLOWEST, partial(self._late, journey, ask))
            return
        else:
            here = number(ask.target)
            named = attack.near if self.lie is Lie.COLLUDE else self._gone
            named = sorted(named, key=lambda each: each.number ^ here)[:K]
            if self.lie is Lie.NONSENSE:
                named, refused = [], K
            elif ask.target == attack.place:
                value = 1
        self._ask_once_more(node, node.table.answered(ask.contact, self.now))
        if ask.target != lookup.target:
            value = None
        self._send(journey, lookup.answered(ask.contact, named, value, refused=refused))

    def _ask_once_more(self, node: Node, contact: Contact | None) -> None:
        """Ping whom the table wants to have pinged."""
        while contact is not None:
            self.others += 1
            if self._reaches(node, contact) is None:
                contact = node.table.failed(contact.id, self.now)
            else:
                contact = node.table.answered(contact, self.now)

    def _attack_on(self, target: bytes) -> Attack | None:
        here = number(target)
        for attack in self._attacks:
            if (number(attack.place) ^ here).bit_length() <= ID_BITS - attack.bits:
                return attack
        return None

    def store(
        self, node: Node, place: bytes, version: int, then: Then, *, paths: int = SAFE_PATHS
    ) -> None:
        """Look for those who should keep it, and send it to them."""

        def done(found: Found) -> None:
            for contact in found.lookup.holders():
                self.others += 1
                peer = self._reaches(node, contact)
                if peer is not None:
                    self._keep(peer, place, version)
            then(found)

        self.look_up(node, place, done, paths=paths)

    def _keep(self, node: Node, place: bytes, version: int) -> None:
        kept = node.kept.get(place)
        if kept is None:
            node.kept[place] = Kept(version, self.now)
        elif version >= kept.version:
            kept.version, kept.stored = version, self.now

    # --- living ---------------------------------------------------------------------------

    def live(self, node: Node, refreshes: float) -> None:
        """
        Do each hour what is to be done in an hour, twice in each the pings.

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
            for contact in node.table.lost(LOST_PER_HOUR):
                self._ask_once_more(node, contact)
            for place, kept in list(node.kept.items()):
                if self.now - kept.stored >= HOUR:
                    kept.stored = self.now
                    self.store(node, place, kept.version, _nothing, paths=PATHS)

        self.call_later(self.rng.uniform(0, HOUR), hour)

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
        """From now on nodes leave, and as many come, each hour this part of them."""
        rate = -math.log(1 - leaving) * len(self._drawn) / HOUR

        def change() -> None:
            self.call_later(self.rng.expovariate(rate), change)
            self.remove(self.rng.choice(self._drawn))
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

    def attack(self, place: bytes, made: int) -> list[Node]:
        """
        @param place: what all liars lie about from now on.
        @param made: liars whose keys were made until they were nearer to that place than any
            honest node.  They are in all tables in which there is room for them.
        """
        here = number(place)
        honest = self.index.nearest(place)[0].number ^ here
        size = len(self.index)
        around = [self.nodes[each.id] for each in self.index.nearest(place, 10 * K)]
        around += self.rng.sample(self._drawn, min(len(self._drawn), 30 * K))
        new: list[Node] = []
        for _ in range(made):
            contact = self.make_contact(here ^ self.rng.randrange(1, honest))
            liar = self.add(contact, liar=True)
            self._fill(liar)
            for node in around:
                self._ask_once_more(node, node.table.answered(contact, self.now))
            around.append(liar)
            new.append(liar)
        liars = [node.contact for node in self.nodes.values() if node.liar]
        near = heapq.nsmallest(10 * K, liars, key=lambda each: each.number ^ here)
        self._attacks.append(Attack(place, max(0, region_bits(size) - 2), near))
        return new

    def retreat(self, made: list[Node]) -> None:
        """The attacks end, and those whose keys were made for them are gone."""
        for node in made:
            self.remove(node)
        self._attacks.clear()

    def holders(self, place: bytes) -> int:
        """How many honest nodes keep something there."""
        return sum(place in node.kept and not node.liar for node in self._drawn)

    def vanish(self, count: int) -> None:
        """There were so many more nodes once."""
        self._gone += [self.make_contact() for _ in range(count)]


def _nothing(_: Found) -> None:
    pass


# --- what is measured -----------------------------------------------------------------


@frozen
class Lookups:
    """
    Lookups of what is stored, in a network of honest nodes.

    @ivar found: how many found it.
    @ivar hops: nodes that told of one another until the nearest was found.
    @ivar asked: questions of a lookup.
    """

    size: int
    paths: int
    lookups: int
    found: int
    hops: float
    asked: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.size:6} nodes (log2 {math.log2(self.size):4.1f})  {self.paths} paths  "
            f"found {self.found} of {self.lookups}  {self.hops:.2f} hops  "
            f"{self.asked:.1f} questions  {self.seconds:.2f} s"
        )


def measure_lookups(size: int, lookups: int, seed: int = 1) -> list[Lookups]:
    """Store so many records, and look each of them up with one path, and three, and eight."""
    swarm = Swarm(seed)
    swarm.build(size)
    places = [swarm.rng.randbytes(32) for _ in range(lookups)]
    for place in places:
        swarm.store(swarm.any_node(), place, 1, _nothing)
    swarm.run()
    figures = []
    for paths in (1, PATHS, SAFE_PATHS):
        found: list[Found] = []
        for place in places:
            swarm.look_up(swarm.any_node(), place, found.append, paths=paths)
        swarm.run()
        figures.append(
            Lookups(
                size,
                paths,
                len(found),
                sum(each.version == 1 for each in found),
                mean(each.lookup.hops for each in found),
                mean(each.lookup.asked for each in found),
                mean(each.seconds for each in found),
            )
        )
    return figures


@frozen
class Churn:
    """
    A network of which nodes leave all the time.

    @ivar left: how many nodes left in all.
    @ivar lookups: of all records, each hour.
    @ivar missed: how many of these found nothing.
    @ivar lost: records that nobody found in the last hour.
    @ivar fewest: copies that there are in the end of the record of which there are fewest.
    @ivar dead: part of the contacts in the tables that are gone.
    @ivar asked: questions of a node in an hour.
    """

    size: int
    hours: int
    left: int
    records: int
    lookups: int
    missed: int
    lost: int
    fewest: int
    dead: float
    asked: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.size:6} nodes  {self.hours} hours  {self.left} left  "
            f"found {self.lookups - self.missed} of {self.lookups}, "
            f"in the end {self.records - self.lost} of {self.records} records  "
            f"at least {self.fewest} copies  {100 * self.dead:.0f} % of contacts gone  "
            f"{self.seconds:.1f} s a lookup  {self.asked:.0f} questions an hour and node"
        )


def measure_churn(
    size: int, hours: int, records: int, refreshes: float = 0.1, seed: int = 1
) -> Churn:
    """
    Store records; then each hour three in ten nodes leave and as many come.  Nobody stores a
    record again but those who keep it.

    @param refreshes: lookups of a node in an hour to refresh its table.  The fewer, the
        harder; the shell does one for each bucket.
    """
    swarm = Swarm(seed)
    swarm.build(size)
    places = [swarm.rng.randbytes(32) for _ in range(records)]
    for place in places:
        swarm.store(swarm.any_node(), place, 1, _nothing)
    swarm.run()
    for node in list(swarm.nodes.values()):
        swarm.live(node, refreshes)
    swarm.churn(refreshes)
    found: list[Found] = []
    lookups = missed = 0
    for _ in range(hours):
        swarm.run(HOUR - 2 * 60)
        found = []
        for place in places:
            swarm.look_up(swarm.any_node(), place, found.append)
        # A lookup of a node that leaves has no end.
        swarm.run(2 * 60)
        lookups += len(found)
        missed += sum(each.version != 1 for each in found)
    seen = {each.lookup.target for each in found if each.version == 1}
    some = swarm.rng.sample(list(swarm.nodes.values()), min(size, 200))
    contacts = [contact for node in some for contact in node.table]
    return Churn(
        size,
        hours,
        swarm.left,
        records,
        lookups,
        missed,
        sum(place not in seen and not swarm.holders(place) for place in places),
        min(swarm.holders(place) for place in places),
        mean(contact.id not in swarm.nodes for contact in contacts),
        swarm.asked / size / hours,
        mean(each.seconds for each in found),
    )


@frozen
class Apart:
    """
    A network that was cut in two.

    @ivar knew: part of the twenty nearest nodes, of both halves, that lookups find at the
        end of the time apart, and after the healing.
    @ivar newest: records of which both halves find the newest, after the healing.
    @ivar hours: from the healing on.
    """

    size: int
    apart: float
    hours: float
    knew: tuple[float, float]
    records: int
    newest: int

    def __str__(self) -> str:
        return (
            f"{self.size:6} nodes  {self.apart:g} hours apart  of the nearest nodes are found "
            f"{100 * self.knew[0]:.0f} % then, {100 * self.knew[1]:.1f} % "
            f"{self.hours:g} hours after  newest found by both halves "
            f"{self.newest} of {self.records}"
        )


def measure_apart(size: int, records: int, apart: float = 6, after: float = 2) -> Apart:
    """
    Two halves do not reach each other for some hours, in which each stores new versions of
    all records, the one of some that are the newest, the other of the others.
    """
    swarm = Swarm(1)
    swarm.build(size)
    places = [swarm.rng.randbytes(32) for _ in range(records)]
    for place in places:
        swarm.store(swarm.any_node(), place, 1, _nothing)
    swarm.run()
    for node in list(swarm.nodes.values()):
        swarm.live(node, 1)
    swarm.part()
    swarm.run(apart * HOUR / 2)
    for n, place in enumerate(places):
        for side in (0, 1):
            swarm.store(swarm.any_node(side), place, 2 + (n + side) % 2, _nothing)
    swarm.run(apart * HOUR / 2)
    then = _known(swarm)
    swarm.heal()
    swarm.run(after * HOUR)
    newest = [True] * records
    for n, place in enumerate(places):
        for side in (0, 1):

            def done(found: Found, n: int = n) -> None:
                newest[n] = newest[n] and found.version == 3

            swarm.look_up(swarm.any_node(side), place, done)
    swarm.run(2 * 60)
    return Apart(size, apart, after, (then, _known(swarm)), records, sum(newest))


def _known(swarm: Swarm) -> float:
    """How many of the nearest there are a lookup finds."""
    parts: list[float] = []
    for _ in range(50):
        place = swarm.rng.randbytes(32)
        nearest = {contact.id for contact in swarm.index.nearest(place)}

        def done(found: Found, nearest: set[bytes] = nearest) -> None:
            parts.append(len(nearest & {each.id for each in found.lookup.closest()}) / K)

        swarm.look_up(swarm.any_node(), place, done)
    swarm.run(2 * 60)
    return mean(parts)


@frozen
class Liars:
    """
    Lookups of a record that is attacked: stored on eight paths, and looked up by others.

    @ivar part: of the nodes that lie; those that were made for the attack come on top.
    @ivar made: nodes whose keys were made to be nearer to it than any honest one.
    @ivar regions: crowded places are looked through.
    @ivar before: it was stored before the attack began.
    @ivar holders: honest nodes that kept it, on average.
    @ivar found: paths -> how many lookups found the newest.
    @ivar asked: paths -> questions of a lookup.
    """

    size: int
    lie: Lie
    part: float
    made: int
    regions: bool
    before: bool
    trials: int
    holders: float
    found: dict[int, int]
    asked: dict[int, float]

    def __str__(self) -> str:
        found = "  ".join(
            f"{paths}: {100 * self.found[paths] / self.trials:5.1f} % ({self.asked[paths]:.0f})"
            for paths in self.found
        )
        return (
            f"{self.size:6} nodes  {100 * self.part:2.0f} % {self.lie.value:8} {self.made:3} made  "
            f"{'regions' if self.regions else 'no regions':10}  "
            f"stored {'before' if self.before else 'during':6}  {self.holders:4.1f} keep it  "
            f"found with paths (questions) {found}"
        )


def measure_liars(
    size: int,
    part: float,
    made: int,
    trials: int,
    lie: Lie = Lie.COLLUDE,
    *,
    regions: bool = True,
    before: bool = False,
    paths: tuple[int, ...] = (1, PATHS, SAFE_PATHS),
) -> Liars:
    """Attack so many places, one after the other."""
    swarm = Swarm(1, lie)
    swarm.build(size, part)
    swarm.vanish(300)
    swarm.regions = regions
    holders = 0
    found: dict[int, list[Found]] = {each: [] for each in paths}
    for _ in range(trials):
        place = swarm.rng.randbytes(32)
        liars = [] if before else swarm.attack(place, made)
        swarm.store(swarm.any_node(), place, 2, _nothing)
        swarm.run()
        if before:
            liars = swarm.attack(place, made)
        holders += swarm.holders(place)
        for each in paths:
            swarm.look_up(swarm.any_node(), place, found[each].append, paths=each)
        swarm.run()
        swarm.retreat(liars)
    return Liars(
        size,
        lie,
        part,
        made,
        regions,
        before,
        trials,
        holders / trials,
        {each: sum(one.version == 2 for one in found[each]) for each in paths},
        {each: mean(one.lookup.asked for one in found[each]) for each in paths},
    )


def main(names: list[str]) -> None:
    """Measure at full size, and print."""
    if "lookups" in names:
        for size in (100, 1_000, 10_000):
            for each in measure_lookups(size, 1_000):
                print(each, flush=True)
    if "liars" in names:
        # How many paths would be needed if they were all there is.
        for part in (0.1, 0.2, 0.3):
            print(measure_liars(10_000, part, 20, 100, regions=False, before=True), flush=True)
        for part in (0.1, 0.2, 0.3):
            for made in (0, 12, 20, 60):
                print(measure_liars(10_000, part, made, 100), flush=True)
        for lie in (Lie.SILENT, Lie.NONSENSE, Lie.STALE):
            print(measure_liars(10_000, 0.2, 20, 100, lie), flush=True)
    if "apart" in names:
        print(measure_apart(2_000, 200), flush=True)
    if "churn" in names:
        print(measure_churn(10_000, 24, 200), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
