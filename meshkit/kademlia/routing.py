"""
The routing table: whom a node knows.

The space is cut into buckets by how many bits somebody's id shares with ours, and of each
at most L{K} nodes are known.  So a node knows all its neighbours, and the fewer of the
others the farther they are; that is enough to come nearer to any place by a step that
halves the distance.  After Maymounkov and Mazieres, 2002; what was learned since about
those who want to be everybody's neighbours is in C{docs/protocol/kademlia.md}:

  - Only who answered a question of ours, at an address that we dialled, gets in.
  - Who is in stays, as long as it answers.  A newcomer waits until somebody is gone: the
    one that was not heard of for longest is pinged to find out.
  - While nobody at all answers nobody is thrown out: it may be that we are cut off.
  - Of one address block there are few, in a bucket and in all.
  - Who was lost is tried again now and then, so that two halves of a network that were
    apart find together.

Pure.  Times are seconds of the wall clock, as some are remembered over restarts.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Container, Iterable, Iterator
from itertools import islice
from random import Random
from typing import Final

from attrs import define, frozen

from meshkit.identity.keys import PublicKey
from meshkit.kademlia.blocks import BUCKET_LIMIT, TABLE_LIMIT, BlockCount
from meshkit.kademlia.contacts import Contact
from meshkit.kademlia.distance import ID_BITS, NodeId, bucket_index, number, random_id

#: Nodes of a bucket, of an answer, and that keep a record.
K: Final = 20
#: Nodes that wait for a place in a bucket.
MAX_WAITING: Final = K
#: Questions that a node may leave without an answer, one after the other, before it goes.
MAX_FAILURES: Final = 2
#: Seconds after an answer for which a node is taken to be there without asking.
FRESH: Final = 900.0
#: Seconds without a sign of life after which a node is pinged even if nobody wants its place,
#: so that few of those that we tell of are gone.
QUIET: Final = 1_800.0
#: Seconds without any answer from anybody after which it may be us who are cut off.
CUT_OFF: Final = 60.0
#: Nodes that are pinged at the same time to find out who gets or keeps a place.
MAX_CHECKS: Final = 32
#: Seconds after which a bucket in which nothing was looked up is looked after.
REFRESH: Final = 3_600.0
#: Buckets that are looked after, however near somebody has put his ids to ours: enough for
#: more nodes than there are people.
MAX_DEPTH: Final = 32
#: Nodes that are remembered to be dialled first after a restart.
ANCHORS: Final = 8
#: Nodes that are gone and are tried again.
MAX_LOST: Final = 64
#: Seconds over which a node has to have answered to have a history with us.
HISTORY: Final = 7 * 86_400.0


@define(eq=False)
class _Entry:
    """
    @ivar since: when it answered first.
    @ivar heard: when it answered last.
    @ivar alive: when it gave a sign of life last, such as a question of its own.
    @ivar failures: questions that it did not answer since.
    """

    contact: Contact
    since: float
    heard: float
    alive: float
    failures: int = 0

    @property
    def answered_for(self) -> float:
        """Over how many seconds it has answered us."""
        return self.heard - self.since


class _Bucket:
    """
    The nodes that share just so many bits with us.

    @ivar entries: those that are in.
    @ivar waiting: those that would like to be, the one that was not heard of for longest
        first.
    @ivar blocks: of those that are in.
    @ivar blocks_waiting: of those that are not.
    """

    __slots__ = ("blocks", "blocks_waiting", "entries", "waiting")

    def __init__(self) -> None:
        self.entries: dict[NodeId, _Entry] = {}
        self.waiting: dict[NodeId, _Entry] = {}
        self.blocks = BlockCount(BUCKET_LIMIT)
        self.blocks_waiting = BlockCount(BUCKET_LIMIT)


@frozen
class Remembered:
    """
    What is kept of a contact over a restart.

    @ivar since: when it answered first.
    @ivar heard: when it answered last.
    @ivar anchor: it is one of those to be dialled first.
    """

    contact: Contact
    since: float
    heard: float
    anchor: bool = False


def _answering(entries: Iterable[_Entry]) -> list[Contact]:
    return [entry.contact for entry in entries if not entry.failures]


def _failing(entries: Iterable[_Entry]) -> list[Contact]:
    return [entry.contact for entry in entries if entry.failures]


class RoutingTable:
    """
    What a node knows of others.

    Whoever answers a question of ours is given to L{answered}, whoever does not to
    L{failed}, and who comes to us, and may be of use, to L{offer}.  Each of them may give
    a contact to be pinged: its outcome goes to L{answered} or L{failed} again.

    @ivar own: our own id, which is never in it.
    """

    def __init__(self, own: NodeId) -> None:
        self.own = own
        self._own_number = number(own)
        # By how many bits they share with us; ascending, those in which somebody is.
        self._buckets: dict[int, _Bucket] = {}
        self._used: list[int] = []
        self._size = 0
        self._blocks = BlockCount(TABLE_LIMIT)
        # Who is being pinged.
        self._checks: dict[NodeId, None] = {}
        self._heard = float("-inf")
        # Bucket, or 256 for ourselves -> when something was looked up there last.
        self._looked_up: dict[int, float] = {}
        # Those that are gone, the one that was tried longest ago first.
        self._lost: dict[NodeId, _Entry] = {}

    def __len__(self) -> int:
        return self._size

    def __contains__(self, place: NodeId) -> bool:
        return self._find(place) is not None

    def __iter__(self) -> Iterator[Contact]:
        """All contacts, those of the farthest bucket first."""
        for entry in self._entries():
            yield entry.contact

    def _entries(self) -> Iterator[_Entry]:
        for index in self._used:
            yield from self._buckets[index].entries.values()

    def _find(self, place: NodeId) -> _Entry | None:
        if place == self.own:
            return None
        bucket = self._buckets.get(bucket_index(self.own, place))
        return None if bucket is None else bucket.entries.get(place)

    def _index(self, contact: Contact) -> int:
        return ID_BITS - (contact.number ^ self._own_number).bit_length()

    def _bucket(self, index: int) -> _Bucket:
        bucket = self._buckets.get(index)
        if bucket is None:
            bucket = self._buckets[index] = _Bucket()
        return bucket

    def sizes(self) -> dict[int, int]:
        """@return: bits shared with us -> how many contacts there are, where there are any."""
        return {index: len(self._buckets[index].entries) for index in self._used}

    # --- what becomes known of others ---------------------------------------------------

    def answered(self, contact: Contact, now: float) -> Contact | None:
        """
        A node that we dialled has answered.

        @param contact: with the address at which it did as the first.
        @return: whom to ping, if anybody: it may have gone, and others wait for its place.
        """
        self._checks.pop(contact.id, None)
        # Not the latest of all: the clock may have been set back.
        self._heard = now
        if contact.id == self.own:
            return None
        lost = self._lost.pop(contact.id, None)
        index = self._index(contact)
        bucket = self._bucket(index)
        entry = bucket.entries.get(contact.id)
        if entry is not None:
            self._heard_of(index, bucket, entry, contact, now)
            return None
        waiting = bucket.waiting.get(contact.id)
        if waiting is not None:
            self._stop_waiting(bucket, waiting)
        known = waiting or lost
        entry = _Entry(contact, now if known is None else known.since, now, now)
        if self._has_room(bucket, contact):
            self._put_in(index, bucket, entry)
            return None
        self._let_wait(bucket, entry)
        return self._whom_to_check(bucket, now)

    def _heard_of(
        self, index: int, bucket: _Bucket, entry: _Entry, contact: Contact, now: float
    ) -> None:
        entry.heard = entry.alive = now
        entry.failures = 0
        if contact.record.sequence < entry.contact.record.sequence:
            return
        if contact.blocks == entry.contact.blocks:
            entry.contact = contact
            return
        # It may have moved to where there are too many already.
        self._take_out(index, bucket, entry)
        entry.contact = contact
        if self._has_room(bucket, contact):
            self._put_in(index, bucket, entry)
        else:
            self._fill(index, bucket)

    def _has_room(self, bucket: _Bucket, contact: Contact) -> bool:
        return (
            len(bucket.entries) < K
            and bucket.blocks.room(contact.blocks)
            and self._blocks.room(contact.blocks)
        )

    def _put_in(self, index: int, bucket: _Bucket, entry: _Entry) -> None:
        if not bucket.entries:
            insort(self._used, index)
        bucket.entries[entry.contact.id] = entry
        bucket.blocks.add(entry.contact.blocks)
        self._blocks.add(entry.contact.blocks)
        self._size += 1

    def _take_out(self, index: int, bucket: _Bucket, entry: _Entry) -> None:
        del bucket.entries[entry.contact.id]
        bucket.blocks.remove(entry.contact.blocks)
        self._blocks.remove(entry.contact.blocks)
        self._size -= 1
        if not bucket.entries:
            self._used.remove(index)

    def _let_wait(self, bucket: _Bucket, entry: _Entry) -> None:
        if not bucket.blocks_waiting.room(entry.contact.blocks):
            return
        if len(bucket.waiting) >= MAX_WAITING:
            self._stop_waiting(bucket, next(iter(bucket.waiting.values())))
        bucket.waiting[entry.contact.id] = entry
        bucket.blocks_waiting.add(entry.contact.blocks)

    def _stop_waiting(self, bucket: _Bucket, entry: _Entry) -> None:
        del bucket.waiting[entry.contact.id]
        bucket.blocks_waiting.remove(entry.contact.blocks)

    def _fill(self, index: int, bucket: _Bucket) -> None:
        """Let those in who wait and for whom there is room now, the freshest first."""
        for entry in reversed(list(bucket.waiting.values())):
            if len(bucket.entries) >= K:
                return
            if self._has_room(bucket, entry.contact):
                self._stop_waiting(bucket, entry)
                self._put_in(index, bucket, entry)

    def _whom_to_check(self, bucket: _Bucket, now: float) -> Contact | None:
        if len(bucket.entries) < K:
            return None
        oldest = min(bucket.entries.values(), key=lambda entry: entry.alive)
        return self._check(oldest.contact) if oldest.alive <= now - FRESH else None

    def _check(self, contact: Contact) -> Contact | None:
        """@return: the contact, if it may be pinged now."""
        if contact.id in self._checks or len(self._checks) >= MAX_CHECKS:
            return None
        self._checks[contact.id] = None
        return contact

    def offer(self, contact: Contact, now: float) -> Contact | None:
        """
        Somebody came to us, and proved its key.  If it is not in, it is not known whether it
        can be reached, too.

        @return: whom to ping, if anybody: the same, if there is room for it; or another that
            may have gone.
        """
        if contact.id == self.own:
            return None
        bucket = self._buckets.get(self._index(contact))
        if bucket is None:
            return self._check(contact) if self._blocks.room(contact.blocks) else None
        entry = bucket.entries.get(contact.id)
        if entry is not None:
            # Who asks but does not answer is no use to us.
            if not entry.failures:
                entry.alive = now
            return None
        if self._has_room(bucket, contact):
            return self._check(contact)
        return self._whom_to_check(bucket, now)

    def failed(self, place: NodeId, now: float) -> Contact | None:
        """
        A node has not answered.

        @return: the same contact, to be pinged once more, if it was pinged.
        """
        checked = place in self._checks
        self._checks.pop(place, None)
        entry = self._find(place)
        if entry is None or not 0 <= now - self._heard <= CUT_OFF:
            return None
        entry.failures += 1
        if entry.failures < MAX_FAILURES:
            return self._check(entry.contact) if checked else None
        index = bucket_index(self.own, place)
        bucket = self._buckets[index]
        self._lose(entry)
        self._take_out(index, bucket, entry)
        self._fill(index, bucket)
        return None

    def unchecked(self, place: NodeId) -> None:
        """It was not found out whether a node is there, and that says nothing about it."""
        self._checks.pop(place, None)

    def remove(self, place: NodeId) -> None:
        """Forget somebody, such as who is banned, whether it is there or not."""
        self._checks.pop(place, None)
        self._lost.pop(place, None)
        if place == self.own:
            return
        index = bucket_index(self.own, place)
        bucket = self._buckets.get(index)
        if bucket is None:
            return
        waiting = bucket.waiting.get(place)
        if waiting is not None:
            self._stop_waiting(bucket, waiting)
        entry = bucket.entries.get(place)
        if entry is not None:
            self._take_out(index, bucket, entry)
            self._fill(index, bucket)

    # --- who is gone --------------------------------------------------------------------

    def _lose(self, entry: _Entry) -> None:
        self._lost[entry.contact.id] = entry
        if len(self._lost) > MAX_LOST:
            # Who was there for long is likelier to come back than who was for a moment.
            least = min(self._lost.values(), key=lambda lost: lost.answered_for)
            del self._lost[least.contact.id]

    def lost(self, count: int) -> list[Contact]:
        """
        @return: at most so many of those that are gone, to be pinged: others each time.
        """
        tried = list(islice(self._lost.values(), count))
        for entry in tried:
            self._lost[entry.contact.id] = self._lost.pop(entry.contact.id)
        return [entry.contact for entry in tried]

    # --- whom to ask and to tell of -------------------------------------------------------

    def closest(self, target: NodeId, count: int = K) -> list[Contact]:
        """
        @return: at most so many contacts, the nearest first; those that left a question
            without an answer only if there are not enough others.
        """
        found = self._nearest(target, count, _answering)
        if len(found) < count:
            found += self._nearest(target, count - len(found), _failing)
            here = number(target)
            found.sort(key=lambda contact: contact.number ^ here)
        return found

    def told(
        self, target: NodeId, now: float, asker: NodeId | None = None, count: int = K
    ) -> list[Contact]:
        """
        What to tell somebody who asks.

        @param asker: who is not told of himself.
        @return: at most so many contacts, the nearest first: those that answered what they
            were asked last, and whose record is good.
        """
        now_ms = now * 1000

        def good(entries: Iterable[_Entry]) -> list[Contact]:
            return [
                entry.contact
                for entry in entries
                if not entry.failures
                and entry.contact.record.expires > now_ms
                and entry.contact.id != asker
            ]

        return self._nearest(target, count, good)

    def elders(
        self, target: NodeId, count: int, trusted: Container[PublicKey] = ()
    ) -> list[Contact]:
        """
        @param trusted: whom we follow, or somebody whom we trust vouches for.
        @return: at most so many contacts, the nearest first, with which we have a history:
            they are trusted, or have answered us for seven days.
        """

        def known(entries: Iterable[_Entry]) -> list[Contact]:
            return [
                entry.contact
                for entry in entries
                if entry.answered_for >= HISTORY or entry.contact.key in trusted
            ]

        return self._nearest(target, count, known)

    def has_history(self, place: NodeId) -> bool:
        """Is that a node which has answered us for seven days?"""
        entry = self._find(place)
        return entry is not None and entry.answered_for >= HISTORY

    def _nearest(
        self,
        target: NodeId,
        count: int,
        fitting: Callable[[Iterable[_Entry]], list[Contact]],
    ) -> list[Contact]:
        """@param fitting: picks out of one bucket; this is most of what answering takes."""
        here = number(target)
        found: list[Contact] = []
        for group in self._groups(ID_BITS - (here ^ self._own_number).bit_length()):
            some: list[Contact] = []
            for index in group:
                some += fitting(self._buckets[index].entries.values())
            some.sort(key=lambda contact: contact.number ^ here)
            found += some
            if len(found) >= count:
                break
        return found[:count]

    def _groups(self, shared: int) -> Iterator[list[int]]:
        """
        Buckets together, of which all nodes are nearer to a target than those that follow.

        @param shared: bits that the target shares with us.  Who is in that bucket is not on
            our side of the next bit but on its, and so are no others; those that share
            more with us all share just so many with it; those that share less are as far
            from it as from us.
        """
        if shared in self._used:
            yield [shared]
        yield [index for index in self._used if index > shared]
        for index in reversed(self._used):
            if index < shared:
                yield [index]

    # --- looking after it -----------------------------------------------------------------

    def looked_up(self, target: NodeId, now: float) -> None:
        """Something was looked up, and so the contacts there were tried."""
        index = ID_BITS if target == self.own else bucket_index(self.own, target)
        self._looked_up[index] = now

    def refreshes(self, now: float, rng: Random) -> list[NodeId]:
        """
        @return: what to look up now: ourselves, and a random id of each bucket in which
            nothing was looked up for an hour, but for those of our neighbours, whom we find
            by looking for ourselves.
        """
        due = [self.own] if self._stale(ID_BITS, now) else []
        for index in range(self.depth()):
            if self._stale(index, now):
                due.append(random_id(self.own, index, rng))
        return due

    def _stale(self, index: int, now: float) -> bool:
        looked_up = self._looked_up.get(index)
        return looked_up is None or not now - REFRESH < looked_up <= now

    def quiet(self, count: int, now: float) -> list[Contact]:
        """
        @return: at most so many of those that gave no sign of life for half an hour, to be
            pinged, the quietest first.
        """
        quiet = [e for e in self._entries() if not now - QUIET < e.alive <= now]
        found: list[Contact] = []
        for entry in sorted(quiet, key=lambda entry: entry.alive):
            if len(found) >= count:
                break
            if self._check(entry.contact) is not None:
                found.append(entry.contact)
        return found

    def depth(self) -> int:
        """@return: how many buckets there are before those of our L{K} nearest neighbours."""
        nearer = 0
        for index in reversed(self._used):
            nearer += len(self._buckets[index].entries)
            if nearer >= K:
                return min(index + 1, MAX_DEPTH)
        return min(self._used[0] + 1, MAX_DEPTH) if self._used else 0

    # --- over a restart ---------------------------------------------------------------------

    def snapshot(self) -> list[Remembered]:
        """@return: what to keep: all contacts that are in, the anchors first."""
        anchors = self._anchors()
        chosen = {entry.contact.id for entry in anchors}
        others = [entry for entry in self._entries() if entry.contact.id not in chosen]
        return [
            Remembered(entry.contact, entry.since, entry.heard, entry.contact.id in chosen)
            for entry in (*anchors, *others)
        ]

    def _anchors(self) -> list[_Entry]:
        """
        Those that have answered for longest, no two of one provider: whoever fills our table
        while we are down, or makes us restart, does not fill it from the start.
        """
        anchors: list[_Entry] = []
        blocks = BlockCount(1, 1)
        steady = [entry for entry in self._entries() if not entry.failures]
        for entry in sorted(steady, key=lambda entry: (entry.since, entry.contact.id)):
            if len(anchors) < ANCHORS and blocks.take(entry.contact.blocks):
                anchors.append(entry)
        return anchors

    def restore(self, kept: Iterable[Remembered], now: float) -> list[Contact]:
        """
        Take over what was kept, into an empty table.  Nobody is told of them before they
        have answered.

        @return: the anchors, to be pinged first.
        """
        anchors: list[Contact] = []
        for each in kept:
            contact = each.contact
            if contact.id == self.own or contact.id in self:
                continue
            index = bucket_index(self.own, contact.id)
            bucket = self._bucket(index)
            if not self._has_room(bucket, contact):
                continue
            # A clock that was set back makes nobody older than he is.
            heard = min(each.heard, now)
            entry = _Entry(contact, min(each.since, heard), heard, heard, failures=1)
            self._put_in(index, bucket, entry)
            if each.anchor and len(anchors) < ANCHORS:
                anchors.append(contact)
        return anchors
