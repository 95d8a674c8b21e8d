"""
Looking for the nodes that are nearest to a place, and for what they keep.

A lookup asks the nearest nodes it knows for nearer ones, and so on, until the k nearest it
has heard of have answered.  Whoever is asked may lie: name its friends, who are near because
they made keys until they were; name nobody, or nodes that do not exist; say nothing.  So:

  - It goes on several paths, which begin at different nodes; nobody is asked on two of
    them, so a liar misleads one.  One path begins only at nodes with which we have a
    history, which nobody can make in a hurry (after Baumgart and Mies, "S/Kademlia", 2007).
  - What one path has heard of does not make another go there.
  - Whoever names nodes that do not answer loses credit, and what only he named is dropped.
  - Only so many of one address block count among the k nearest, and of the nodes that
    share just so many bits with the target no more are remembered than L{MAX_LEVEL}.
  - Where it is more crowded than chance would have it (L{meshkit.kademlia.estimate}), it
    looks through the whole region, behind those who crowd there.
  - It does not end with the first value, as that may be an old one.

Pure.  There is no time in it: who asks decides how long to wait, and says that it failed.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum
from typing import Final, Generic, TypeVar

from attrs import define, field, frozen

from meshkit.kademlia.blocks import NARROW_LIMIT, WIDE_LIMIT, BlockCount
from meshkit.kademlia.contacts import Contact
from meshkit.kademlia.distance import ID_BITS, NodeId, flipped, number
from meshkit.kademlia.estimate import MAX_REGION, is_crowded, region_bits
from meshkit.kademlia.routing import K

#: Questions of one path that wait for an answer at the same time, and how many more may when
#: they are late.  (With as few late ones as others a lookup took twice as long where a third
#: of the nodes leave each hour.)
ALPHA: Final = 3
MAX_LATE: Final = 12
#: Paths of a lookup, and of one that matters: storing, and finding a peer by its key.
PATHS: Final = 3
SAFE_PATHS: Final = 8
#: Nodes that a path asks, but for those of a crowded region.
MAX_ASKED: Final = 4 * K
#: Nodes that share just so many bits with the target and are remembered, per path.
MAX_LEVEL: Final = 2 * K
#: Namers of a node that are remembered.
MAX_NAMERS: Final = 4
#: Nodes of one namer that may fail, while less have answered, until it has no credit.
MAX_BAD_NAMES: Final = 4
#: Levels of a crowded region in which to ask nodes for their own neighbours; there is less
#: than one honest node in those beyond.
SWEPT_LEVELS: Final = 6

V = TypeVar("V")


class _State(Enum):
    NEW = "new"
    ASKED = "asked"
    ANSWERED = "answered"
    FAILED = "failed"


@define(eq=False)
class _Node:
    """
    A node that was heard of.

    @ivar distance: to the target.
    @ivar level: bits shared with the target.
    @ivar hops: how many told of one another until it was heard of.
    @ivar ours: it is of our own table, whoever tells of it as well.
    @ivar namers: who told of it, some of them.
    @ivar known_to: how many paths have heard of it.
    @ivar question: for what it was asked and has not answered yet.
    @ivar late: others are asked in its place.
    @ivar again: it failed, and was asked once more, at the addresses of a newer record.
    """

    contact: Contact
    distance: int
    level: int
    hops: int
    ours: bool = False
    namers: list[NodeId] = field(factory=list)
    known_to: int = 0
    state: _State = _State.NEW
    path: int = -1
    question: NodeId | None = None
    late: bool = False
    swept: bool = False
    again: bool = False


@define(eq=False)
class _Credit:
    """How many of those that somebody named failed, and answered."""

    failed: int = 0
    answered: int = 0


class _Path:
    """
    @ivar levels: bits shared with the target -> those nodes, the nearest first.
    @ivar asked: how many were asked, but for those of a crowded region.
    @ivar in_flight: how many have not answered yet, but for those that are late.
    @ivar late: how many of those there are.
    @ivar front: those that have to answer before it ends; L{None} if that has changed.
    """

    __slots__ = ("asked", "front", "in_flight", "known", "late", "levels")

    def __init__(self) -> None:
        self.levels: dict[int, list[_Node]] = {}
        self.known: set[NodeId] = set()
        self.front: list[_Node] | None = None
        self.asked = 0
        self.in_flight = 0
        self.late = 0


@frozen
class Ask:
    """
    A question to put to a node.

    @ivar target: the place for which it is asked.  Only if it is that of the lookup, it may
        be asked for a value as well.
    @ivar path: on which path.
    """

    contact: Contact
    target: NodeId
    path: int


def _distance(node: _Node) -> int:
    return node.distance


class Lookup(Generic[V]):
    """
    One lookup.

    It begins with L{start}.  Each of the questions that this and the others give is put to
    its node, and what comes of it is told to L{answered} or L{failed}, in any order; and to
    L{late} before, if it takes long.  When it is C{finished}, what is still in flight is of
    no interest any more.

    @ivar target: the place.
    @ivar finished: it has come to its end, or was cancelled.
    @ivar crowded: more nodes are near to it than chance would have it.
    @ivar asked: questions so far.
    @ivar values: what was found, and at whom, in the order of the answers.
    """

    def __init__(
        self,
        target: NodeId,
        starts: Iterable[Contact],
        elders: Iterable[Contact] = (),
        *,
        own: NodeId,
        paths: int = PATHS,
        size: float | None = None,
        more: Callable[[], Iterable[Contact]] = tuple,
    ) -> None:
        """
        @param starts: contacts to begin at, the nearest of our table.
        @param elders: some with which we have a history: one path begins at these alone, if
            there are several.
        @param own: our id, as we are not asked.
        @param size: how many nodes there are, if that is known.
        @param more: gives more contacts of our table, L{MAX_REGION} of the nearest, for the case
            that the place is crowded: the nearest are those who crowd there.
        """
        if paths < 1:
            raise ValueError("a lookup has one path at least")
        self.target = target
        self.finished = False
        self.crowded = False
        self.asked = 0
        self.values: list[tuple[Contact, V]] = []
        self._number = number(target)
        self._own = own
        self._size = size
        self._more = more
        self._region = ID_BITS + 1
        self._region_asked = 0
        # Nodes outside of a crowded region that were asked for those in it.
        self._sweeps = 0
        self._nodes: dict[NodeId, _Node] = {}
        self._credits: dict[NodeId, _Credit] = {}
        # Those who have none left.
        self._liars: set[NodeId] = set()
        self._paths = [_Path() for _ in range(paths)]
        self._started = False
        self._deal(starts, elders)

    def _deal(self, starts: Iterable[Contact], elders: Iterable[Contact]) -> None:
        rest = self._paths
        if len(rest) > 1:
            for contact in elders:
                self._admit(0, contact, None)
            if self._paths[0].known:
                rest = rest[1:]
        # The first that does not begin at elders alone.
        first = self._first = len(self._paths) - len(rest)
        turn = 0
        for contact in sorted(starts, key=lambda contact: contact.number ^ self._number):
            if contact.id not in self._nodes and self._admit(first + turn, contact, None):
                turn = (turn + 1) % len(rest)

    def _deal_more(self) -> None:
        """Take up those of our table that we would not have begun at."""
        turn = 0
        for contact in self._more():
            number_of_path = self._first + turn
            if contact.id not in self._nodes and self._admit(number_of_path, contact, None):
                turn = (turn + 1) % (len(self._paths) - self._first)

    # --- inputs ---------------------------------------------------------------------------

    def start(self) -> list[Ask]:
        """@return: the first questions."""
        if self._started:
            raise ValueError("a lookup starts once")
        self._started = True
        return self._go_on()

    def answered(
        self,
        contact: Contact,
        named: Sequence[Contact],
        value: V | None = None,
        *,
        refused: int = 0,
    ) -> list[Ask]:
        """
        A node has answered.

        @param contact: with the address at which it did as the first.
        @param named: whom it told of; of more than L{K} the others are not looked at.
        @param value: what it keeps there, if it was asked for that and has it.
        @param refused: how many it told of besides that are none, such as with records that
            nobody signed.
        @return: what to ask now.  Nothing if that node was not asked.
        """
        node = self._asked_now(contact.id)
        if node is None:
            return []
        first = node.question == self.target
        if contact.blocks != node.contact.blocks:
            self._choose_anew()
        node.contact = contact
        path = node.path
        self._landed(node)
        if first:
            node.state = _State.ANSWERED
            for namer in node.namers:
                self._credit(namer).answered += 1
            if value is not None:
                self.values.append((contact, value))
        if refused:
            self._lose_credit(contact.id, refused)
        known, nodes = self._paths[path].known, self._nodes
        for other in named[:K]:
            if other.id in known:
                before = nodes[other.id]
                # Most have been told of by enough already: there is nothing new in it.
                if (
                    len(before.namers) >= MAX_NAMERS
                    and other.record.sequence <= before.contact.record.sequence
                ):
                    continue
            self._admit(path, other, node)
        return self._go_on()

    def failed(self, contact: Contact) -> list[Ask]:
        """
        A node could not be reached, did not answer, or not in a way that can be read.

        @return: what to ask now.  Nothing if that node was not asked.
        """
        node = self._asked_now(contact.id)
        if node is None:
            return []
        first = node.question == self.target
        self._landed(node)
        if first:
            self._fail(node)
        return self._go_on()

    def late(self, contact: Contact) -> list[Ask]:
        """
        A node takes long to answer, and may still.  Others are asked meanwhile, and when so
        many have answered as are looked for, it is not waited for.

        @return: what to ask now.  Nothing if that node was not asked, or is late already.
        """
        node = self._asked_now(contact.id)
        if node is None or node.late or self._paths[node.path].late >= MAX_LATE:
            return []
        node.late = True
        path = self._paths[node.path]
        path.in_flight -= 1
        path.late += 1
        self._choose_anew()
        return self._go_on()

    def _landed(self, node: _Node) -> None:
        node.question = None
        path = self._paths[node.path]
        if node.late:
            node.late = False
            path.late -= 1
            self._choose_anew()
        else:
            path.in_flight -= 1

    def _fail(self, node: _Node) -> None:
        node.state = _State.FAILED
        for namer in node.namers:
            self._lose_credit(namer, 1)
        # Those that say nothing take nobody's place; that they failed is remembered.
        place = node.contact.id
        for path in self._paths:
            if place in path.known:
                path.known.discard(place)
                path.levels[node.level].remove(node)
                path.front = None
        node.known_to = 0

    def cancel(self) -> None:
        """
        Give up.  What was found so far can still be had; nothing is asked any more.
        """
        self._finish()

    def _asked_now(self, place: NodeId) -> _Node | None:
        node = None if self.finished else self._nodes.get(place)
        return None if node is None or node.question is None else node

    # --- whom it knows --------------------------------------------------------------------

    def _admit(self, number_of_path: int, contact: Contact, namer: _Node | None) -> bool:
        """@return: that node is known to that path now."""
        place = contact.id
        if place == self._own:
            return False
        path = self._paths[number_of_path]
        node = self._nodes.get(place)
        if node is None:
            distance = contact.number ^ self._number
            node = _Node(
                contact,
                distance,
                ID_BITS - distance.bit_length(),
                1 if namer is None else namer.hops + 1,
                namer is None,
            )
        elif contact.record.sequence > node.contact.record.sequence:
            self._renew(node, contact)
        if node.state is _State.FAILED:
            return False
        if namer is not None and len(node.namers) < MAX_NAMERS and namer.contact.id != place:
            name = namer.contact.id
            if name not in node.namers:
                node.namers.append(name)
                if self._liars:
                    self._choose_anew()
        if place in path.known:
            return True
        level = path.levels.setdefault(node.level, [])
        if len(level) >= MAX_LEVEL and not self._make_room(path, level, node):
            return False
        insort(level, node, key=_distance)
        front = path.front
        if front is not None and (
            self.crowded or len(front) < K or node.distance < front[-1].distance
        ):
            path.front = None
        path.known.add(place)
        node.known_to += 1
        self._nodes[place] = node
        return True

    def _renew(self, node: _Node, contact: Contact) -> None:
        """Whoever told of it first may have told an old record, so that it is not found."""
        if node.state is _State.FAILED and not node.again:
            node.again = True
            node.state = _State.NEW
        if node.state is _State.NEW:
            node.contact = contact

    def _make_room(self, path: _Path, level: list[_Node], node: _Node) -> bool:
        """Forget somebody of a level who was not asked: named by a liar, or farther away."""
        for other in level:
            if other.state is _State.NEW and not self._vouched(other):
                level.remove(other)
                self._forget(path, other)
                return True
        for at in range(len(level) - 1, -1, -1):
            other = level[at]
            if other.distance < node.distance:
                return False
            if other.state is _State.NEW:
                del level[at]
                self._forget(path, other)
                return True
        return False

    def _forget(self, path: _Path, node: _Node) -> None:
        place = node.contact.id
        path.known.discard(place)
        path.front = None
        node.known_to -= 1
        if not node.known_to:
            del self._nodes[place]

    def _credit(self, place: NodeId) -> _Credit:
        credit = self._credits.get(place)
        if credit is None:
            credit = self._credits[place] = _Credit()
        return credit

    def _lose_credit(self, place: NodeId, count: int) -> None:
        credit = self._credit(place)
        credit.failed += count
        if credit.failed >= MAX_BAD_NAMES and credit.failed > credit.answered:
            self._liars.add(place)
            self._choose_anew()

    def _choose_anew(self) -> None:
        for path in self._paths:
            path.front = None

    def _vouched(self, node: _Node) -> bool:
        """Is there somebody with credit who told of it?"""
        if node.ours or not self._liars:
            return True
        return not all(namer in self._liars for namer in node.namers)

    # --- going on ---------------------------------------------------------------------------

    def _go_on(self) -> list[Ask]:
        asks, waits = self._advance()
        if not asks and not waits and not self.crowded and not self._waits_for_late():
            found = self.closest()
            if self._size is not None and is_crowded(self.target, found, self._size):
                self.crowded = True
                self._region = region_bits(self._size)
                self._choose_anew()
                self._deal_more()
                asks, waits = self._advance()
        if not asks and not waits and not self._waits_for_late():
            self._finish()
        return asks

    def _waits_for_late(self) -> bool:
        """Are there too few others?"""
        return any(path.late for path in self._paths) and len(self._answered(K)) < K

    def _advance(self) -> tuple[list[Ask], bool]:
        """@return: what to ask, and is there an answer worth waiting for?"""
        asks: list[Ask] = []
        waits = False
        for index, path in enumerate(self._paths):
            if path.front is None:
                path.front = list(self._front(path))
            for node in path.front:
                if node.state is _State.NEW:
                    if self._may_ask(path, node):
                        waits = True
                        if path.in_flight < ALPHA:
                            asks.append(self._ask(index, path, node, self.target))
                elif node.question is not None:
                    waits = True
                elif self.crowded and node.path == index and self._to_be_swept(node):
                    if path.in_flight < ALPHA:
                        node.swept = True
                        asks.append(self._ask(index, path, node, self._place_to_sweep(node)))
                    waits = True
                if waits and path.in_flight >= ALPHA:
                    break
        return asks, waits

    def _front(self, path: _Path) -> Iterator[_Node]:
        """
        Those that have to answer before a path has come to its end: the k nearest; in a
        crowded place all that are known of the region, and the k nearest outside of it, the
        way to those whom the crowd does not tell of.
        """
        blocks = BlockCount(NARROW_LIMIT, WIDE_LIMIT)
        left = K
        levels = sorted(path.levels, reverse=True)
        if self.crowded:
            # The farther half of the region has the most honest nodes in it.
            inside = sorted(level for level in levels if level >= self._region)
            levels = inside + [level for level in levels if level < self._region]
        for level in levels:
            for node in path.levels[level]:
                if node.late or (node.state is _State.NEW and not self._vouched(node)):
                    continue
                if not blocks.take(node.contact.blocks):
                    continue
                yield node
                if level < self._region:
                    left -= 1
                    if not left:
                        return

    def _may_ask(self, path: _Path, node: _Node) -> bool:
        if node.level >= self._region:
            return self._region_asked < MAX_REGION
        return path.asked < MAX_ASKED

    def _to_be_swept(self, node: _Node) -> bool:
        if node.level >= self._region + SWEPT_LEVELS:
            return False
        return node.state is _State.ANSWERED and not node.swept

    def _place_to_sweep(self, node: _Node) -> NodeId:
        """
        What to ask a node for besides the target, as the crowd is all that it names there:
        its own neighbours; outside of the region, those of each level of it in turn.
        """
        level = node.level
        if level < self._region:
            level = self._region + self._sweeps % SWEPT_LEVELS
            self._sweeps += 1
        return flipped(self.target, min(level, ID_BITS - 1))

    def _ask(self, index: int, path: _Path, node: _Node, place: NodeId) -> Ask:
        if node.state is _State.NEW:
            node.state = _State.ASKED
            if node.level >= self._region:
                self._region_asked += 1
            else:
                path.asked += 1
        node.path = index
        node.question = place
        path.in_flight += 1
        self.asked += 1
        return Ask(node.contact, place, index)

    def _finish(self) -> None:
        self.finished = True
        self._credits.clear()
        self._liars.clear()
        for path in self._paths:
            path.levels.clear()
            path.known.clear()
            path.front = None
            path.in_flight = path.late = 0
        for place, node in list(self._nodes.items()):
            node.question = None
            node.late = False
            if node.state is not _State.ANSWERED:
                del self._nodes[place]

    # --- what was found ---------------------------------------------------------------------

    def closest(self, count: int = K) -> list[Contact]:
        """
        @return: the nearest that have answered, at most so many, and few of one address
            block.
        """
        return [node.contact for node in self._answered(count)]

    def holders(self) -> list[Contact]:
        """
        @return: those that should keep what is there: the L{K} nearest; in a crowded place
            all of the region, at most L{MAX_REGION}.
        """
        if not self.crowded:
            return self.closest()
        region = [node for node in self._answered(None) if node.level >= self._region]
        # Should there be too many, the crowd is nearest.
        region.sort(key=lambda node: node.level)
        return [node.contact for node in region[:MAX_REGION]]

    @property
    def hops(self) -> int:
        """How many told of one another until the nearest was found; 0 if nobody was."""
        nearest = self._answered(1)
        return nearest[0].hops if nearest else 0

    def _answered(self, count: int | None) -> list[_Node]:
        blocks = BlockCount(NARROW_LIMIT, WIDE_LIMIT)
        found: list[_Node] = []
        answered = [node for node in self._nodes.values() if node.state is _State.ANSWERED]
        for node in sorted(answered, key=_distance):
            if len(found) == count:
                break
            if blocks.take(node.contact.blocks):
                found.append(node)
        return found
