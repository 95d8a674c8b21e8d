"""
Keeping in touch with peers, whoever of the two has moved.

B{Whom.}  Everybody in the peer book is looked after (L{meshkit.discovery.exchange.health}): who
was heard of is left alone, who was not is dialled and greeted.

B{Who does not answer} where he was is looked for: first some of those who do answer are asked
for his address record, then the part that finds peers by their keys.  Whoever gave it, a record
is the peer's own word, and all that comes of it is a dial: only an address at which the peer has
proved its key comes into the peer book, from where all parts dial it.

B{When this node has moved} it tells those it knows: it greets them with its new record.

B{Others} than those in the peer book are dialled if the operator wants so many more: peers are
asked whom they know, one of each landlord is taken, and let go when it is suspect.

B{What a false record can do.}  It is signed by a member of the network, and names a victim as
the place where that member is.  Each of us that has to do with that member dials the victim once,
at whatever port, and not again within an hour; and no host is dialled more than three times a
minute in vain, whoever names it (L{meshkit.kademlia.contacts.FailedDials}).  Who is known from
what others say alone, and is not in the peer book, is not dialled unless more peers are wanted.

B{What somebody can do who hands on records} is to give none, or old ones.  All that are asked
count together, and the newest wins; whoever gave an older one is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from random import Random
from typing import Any, Final, TypeVar

from attrs import frozen
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredList,
    FirstError,
    gatherResults,
)
from twisted.internet.error import ConnectingCancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.discovery.exchange.asking import UNREACHED, Asking, Told, place_of
from meshkit.discovery.exchange.health import Health, Link
from meshkit.discovery.exchange.known import Known, Taken
from meshkit.discovery.exchange.wire import MAX_KEYS, MAX_MORE, Find, Given, Greeted, Greeting
from meshkit.errors import AddressRecordInvalid, MeshkitError, NetworkKeyRefused
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.identity.records import AddressRecord
from meshkit.identity.scopes import Scope, parse_ip, scope_of
from meshkit.interfaces import PeerMoved, PeerReturned, PeerSuspected
from meshkit.kademlia.blocks import blocks_of
from meshkit.kademlia.contacts import DialRules, FailedDials
from meshkit.rpc.protocol import RPCProtocol

T = TypeVar("T")

__all__ = ["ASKED", "Keeper", "TOLD"]

#: Peers that are asked where somebody is.
ASKED: Final = 16
#: Peers that are told when this node has moved, beside those in the peer book.
TOLD: Final = 64
#: Seconds between two searches for a peer because of what it says itself.
RESTRAINT: Final = 10.0
#: Peers of whom it is remembered that they gave old records.
MAX_OUTDATED: Final = 64
#: Seconds before somebody who was not found is looked for again, at first; then twice as much
#: each time, up to the pause between two looks at it.
SEARCH: Final = 5.0
#: Looks that are begun at a time.
LOOKS: Final = 8
#: Dials, in one round, to those who may be taken beside those in the peer book.
MORE_DIALS: Final = 16

_CANCELLED: Final = (CancelledError, ConnectingCancelledError)


@frozen
class Way:
    """
    Where to dial a peer.

    @ivar hearsay: not in the peer book: a record says so.
    """

    address: MeshAddress
    hearsay: bool


class Keeper:
    """
    See the module.

    @ivar health: of whom nothing was heard.
    @ivar known: the address records.
    @ivar places: where peers answered that did not where the peer book has them.
    @ivar others: peers beyond those in the peer book, and where they answered.
    @ivar looks: how many looks there were, and C{missed} of them failed.
    @ivar found: peers that were lost and were found somewhere else.
    @ivar outdated: records that were given although newer ones are known, by who gave them; of
        so many peers that are L{MAX_OUTDATED}.
    @ivar outdated_records: how many of all.
    @ivar refused: records that were given and are none, by code.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        asking: Asking,
        *,
        own: PublicKey,
        network: bytes,
        rng: Random,
        wall_clock: Callable[[], int],
        peers: Any,
        health: Health,
        known: Known,
        own_record: Callable[[], bytes],
        shunned: Callable[[PublicKey], bool],
        find_peer: Callable[[PublicKey], Deferred[list[MeshAddress]]] | None,
        publish: Callable[[object], None],
        changed: Callable[[PublicKey], None],
        more: int = 0,
    ) -> None:
        """
        @param own: this node's key.
        @param network: its network's id.
        @param wall_clock: nanoseconds since 1970.
        @param peers: L{meshkit.interfaces.IPeerBook}.
        @param own_record: this node's address record as it travels; empty if there is none.
        @param shunned: is there nothing to be done with a peer?
        @param find_peer: as that of L{meshkit.interfaces.IPeerFinder}, if some part can.
        @param publish: tells other parts of events.
        @param changed: told whose record, or place, is another one now.
        @param more: how many peers to dial beyond those in the peer book.
        """
        self._reactor = reactor
        self._asking = asking
        self._own = own
        self._network = network
        self._rng = rng
        self._wall_clock = wall_clock
        self._peers = peers
        self.health = health
        self.known = known
        self._own_record = own_record
        self._shunned = shunned
        self._find_peer = find_peer
        self._publish = publish
        self._changed = changed
        self._more = more
        self._more_due = 0.0
        self._finding = False
        self._rules = DialRules()
        self._failed_dials = FailedDials()
        self.places: dict[PublicKey, MeshAddress] = {}
        self.others: dict[PublicKey, MeshAddress] = {}
        self.looks = 0
        self.missed = 0
        self.found = 0
        self.outdated: dict[PublicKey, int] = {}
        self.outdated_records = 0
        self.refused: dict[str, int] = {}
        # Of ours, the record that was told to those this node knows, and its addresses.
        self._told: tuple[HostPort, ...] = ()
        self._told_raw = b""
        self._missing: dict[PublicKey, None] = {}
        self._searching = False
        # Those who did not know what they were asked, when they were looked at last.
        self._speechless: dict[PublicKey, None] = {}
        # When those who were not found are looked for again, and the pause before that.
        self._again: dict[PublicKey, tuple[float, float]] = {}
        # When somebody was looked for last because of what it said itself.
        self._sought: dict[PublicKey, float] = {}
        self._tasks: dict[Deferred[Any], None] = {}
        self._stopped = False

    # --- the life of it ---------------------------------------------------------------------

    def start(self) -> None:
        """Look after who is in the peer book."""
        self._stopped = False
        self.peers_changed()

    def stop(self) -> Deferred[Any]:
        """@return: Deferred that fires when nothing is under way any more."""
        self._stopped = True
        self._missing.clear()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        return DeferredList(tasks, consumeErrors=True)

    def _run(self, work: Coroutine[Any, Any, Any], what: str) -> None:
        """Have something done by itself."""
        if self._stopped:
            work.close()
            return
        task: Deferred[Any] = Deferred.fromCoroutine(work)
        if task.called:
            task.addErrback(self._not_done, what)
            return
        self._tasks[task] = None

        def ended(result: Any) -> None:
            del self._tasks[task]
            if isinstance(result, Failure):
                self._not_done(result, what)

        task.addBoth(ended)

    def _not_done(self, failure: Failure, what: str) -> None:
        if not failure.check(*_CANCELLED):
            self._log.failure("{what} failed", failure, what=what)

    # --- every few seconds -------------------------------------------------------------------

    def peers_changed(self) -> None:
        """There may be others in the peer book."""
        keys = [each.key for each in self._peers.dialable() if each.key != self._own]
        self.health.watch(keys, self._reactor.seconds(), self._rng.random())

    def tick(self) -> None:
        """Look at whom it is time to look at; tell others where we are, if that has changed."""
        now = self._reactor.seconds()
        self._hear_of(now)
        # Those who are shunned stay due, and must not take the places of others.
        due = [link for link in self.health.due(now) if not self._shunned(link.key)]
        for link in due[:LOOKS]:
            self._run(self._look(link.key), "a look at a peer")
        self._search_again(now)
        self._tell_if_moved()
        self._tidy()
        wanted = len(self.others) < self._more and not self._finding
        if wanted and now >= self._more_due:
            self._more_due = now + self.health.rhythm.pause
            self._run(self._find_more(), "looking for more peers")

    def _hear_of(self, now: float) -> None:
        """What other parts have heard of peers."""
        wall = self._wall_clock()
        for link in self.health.links():
            account = self._peers.ledger.find(link.key)
            if account is None or not account.heard_ns:
                continue
            at = now - max(0, wall - account.heard_ns) / 1e9
            self._back(link.key, self.health.heard(link.key, at, now))

    def _back(self, key: PublicKey, seconds: float | None) -> None:
        """A peer is there; if it was lost, for so many seconds."""
        if seconds is not None:
            self._log.info(
                "{peer} is there again, after {seconds:.0f} s", peer=key.text, seconds=seconds
            )
            self._publish(PeerReturned(key.raw, seconds))

    def woke(self) -> None:
        """This node was asleep, or it is somewhere else now."""
        now = self._reactor.seconds()
        self.known.try_again()
        self.health.look_at_all(now)
        self._again.clear()
        self._told_raw = b""
        self.tick()

    def dropped(self, key: PublicKey) -> None:
        """No connection to a peer is left, or none could be made."""
        link = self.health.find(key)
        if link is not None and link.lost is None:
            now = self._reactor.seconds()
            self.health.dropped(key, now)
            if not link.looking:
                self._run(self._look(key), "a look at a peer")

    def _tidy(self) -> None:
        """
        Forget where a peer was found, if it is back where the operator has it; and those beyond
        the peer book who are suspect, or in it by now.
        """
        entries = self._peers.entries()
        for key, address in list(self.places.items()):
            same = [each for each in entries if each.address.key == key]
            elsewhere = any(each.connected and each.address != address for each in same)
            if elsewhere or not any(each.source != SOURCE for each in same):
                del self.places[key]
                self._changed(key)
                self._hear()
        named = {each.address.key for each in entries if each.source != SOURCE}
        for key in list(self.others):
            link = self.health.find(key)
            if key in named or (link is not None and self.health.suspect(link)):
                del self.others[key]
                self._hear()

    def _hear(self) -> None:
        told = {**self.others, **self.places}
        self._peers.hear(SOURCE, [told[key] for key in sorted(told, key=_raw)])

    # --- looking ------------------------------------------------------------------------------

    async def _look(self, key: PublicKey) -> None:
        if self._shunned(key):
            return
        self.health.began(key)
        self.looks += 1
        self._speechless.pop(key, None)
        if await self._reach(key, self._ways(key)):
            return
        if key in self._speechless:
            self.health.speechless(key, self._reactor.seconds())
            return
        self._miss(key)
        if self._is_lost(key):
            self._search_for(key)

    def _miss(self, key: PublicKey) -> None:
        now = self._reactor.seconds()
        suspected = self.health.missed(key, now, self._rng.random())
        link = self.health.find(key)
        if link is None or link.lost is None:
            return
        self.missed += 1
        self._peers.ledger.missed(key, link.missed, self.health.suspect(link))
        if suspected:
            self._log.warn(
                "{peer} has not answered {times} times in a row", peer=key.text, times=link.missed
            )
            self._publish(PeerSuspected(key.raw, link.missed))

    def _ways(self, key: PublicKey) -> list[Way]:
        """@return: where to dial a peer, the peer book's addresses first."""
        book = [each for each in self._peers.dialable() if each.key == key]
        named = {each.place for each in book}
        return [Way(each, hearsay=False) for each in book] + [
            Way(MeshAddress(place.host, place.port, key), hearsay=True)
            for place in self._untried(key)
            if place not in named
        ]

    def _untried(self, key: PublicKey) -> list[HostPort]:
        places = self.known.untried(key, self._reactor.seconds())
        if not places:
            return []
        nearest = self.known.nearest(key)
        return [place for place in places if self._rules.may_dial(place, nearest)]

    async def _reach(self, key: PublicKey, ways: Iterable[Way]) -> bool:
        """Dial a peer at one place after the other, until it answers."""
        for way in ways:
            if await self._converse(key, way) is not None:
                return True
        return False

    async def _converse(self, key: PublicKey, way: Way, find: Find | None = None) -> Told | None:
        """@return: what a peer has said; L{None} if it was not reached."""
        place = way.address.place
        if way.hearsay:
            now = self._reactor.seconds()
            if self.known.was_tried(key, place, now) or not self._failed_dials.may_dial(place, now):
                return None
            # Now, and not when it has failed: others may be about to dial the same.
            self.known.trying(key, place, now)
            self._failed_dials.began(place)
        try:
            told = await self._asking.ask(
                way.address,
                self._own_record(),
                find,
                # What comes into the peer book is where it was.
                direct=way.hearsay and way.address.via is None,
            )
        except UNREACHED as e:
            if isinstance(e, NetworkKeyRefused) and not way.hearsay:
                self._speechless[key] = None
            self._log.debug("{address} does not answer: {error}", address=way.address.text, error=e)
            if way.hearsay:
                self._failed_dials.failed(place, self._reactor.seconds())
            return None
        finally:
            if way.hearsay:
                self._failed_dials.ended(place)
        self._failed_dials.reached(place)
        self._answered(key, told)
        return told

    def _answered(self, key: PublicKey, told: Told) -> None:
        """A peer has proved its key at an address, and greeted us."""
        ledger = self._peers.ledger
        ledger.measured(key, told.round_trip)
        self._take_own(key, told.record, told.host)
        self.known.reached(key)
        self._missing.pop(key, None)
        seconds = self.health.answered(key, self._reactor.seconds())
        entries = [each for each in self._peers.entries() if each.address.key == key]
        self._back(key, seconds)
        if not entries or any(e.connected or e.address == told.address for e in entries):
            return
        self.found += 1
        if key in self.others:
            self.others[key] = told.address
        else:
            self.places[key] = told.address
            self._changed(key)
        self._log.info("{peer} has moved to {place}", peer=key.text, place=told.address.place.text)
        self._hear()
        self._publish(PeerMoved(key.raw, told.address.text))

    # --- records --------------------------------------------------------------------------------

    def _now_ms(self) -> int:
        return self._wall_clock() // 1_000_000

    def _take_own(self, key: PublicKey, raw: bytes, host: str) -> Taken | None:
        """A peer has given its own record."""
        if not raw:
            return None
        try:
            record = AddressRecord.open(raw, self._network, self._now_ms())
        except AddressRecordInvalid as e:
            self._refuse(key, e)
            return None
        if record.key != key:
            self._refuse(key, AddressRecordInvalid("it is the record of somebody else"))
            return None
        taken = self._take(record, _scope_at(host))
        if self.known.spoke(key):
            self._changed(key)
        return taken

    def _take(self, record: AddressRecord, nearest: Scope) -> Taken:
        taken = self.known.take(record, nearest)
        if taken is Taken.NEWER:
            self._changed(record.key)
        return taken

    def _refuse(self, giver: PublicKey, error: AddressRecordInvalid) -> None:
        self.refused[error.code] = self.refused.get(error.code, 0) + 1
        self._log.info(
            "{peer} gave a record that is refused: {error}", peer=giver.text, error=str(error)
        )

    # --- looking for who is not where he was ------------------------------------------------------

    def _search_for(self, key: PublicKey) -> None:
        self._missing[key] = None
        if not self._searching:
            self._run(self._search(), "the search for a peer")

    def _search_again(self, now: float) -> None:
        """Look for those who are lost still, later and later: others may have heard by now."""
        for key, (when, _) in list(self._again.items()):
            link = self.health.find(key)
            if link is None or link.lost is None:
                del self._again[key]
            elif when <= now:
                self._search_for(key)

    async def _search(self) -> None:
        """Look for all who are missing, those who come to be meanwhile too."""
        self._searching = True
        try:
            while self._missing and not self._stopped:
                keys = list(self._missing)[:MAX_KEYS]
                for key in keys:
                    del self._missing[key]
                await self.ask_others(keys)
                for key in keys:
                    link = self.health.find(key)
                    if link is None or link.lost is not None:
                        await self.seek(key)
                        rhythm = self.health.rhythm
                        _, pause = self._again.get(key, (0.0, SEARCH / 2))
                        most = rhythm.pause if link is None else self.health.pause(link)
                        pause = min(2 * pause, most)
                        self._again[key] = (self._reactor.seconds() + pause, pause)
        finally:
            self._searching = False

    async def ask_others(self, keys: list[PublicKey], more: int = 0) -> int:
        """
        Ask some of those who answer where others are.

        @return: how many have answered.
        """
        find = Find([key.raw for key in keys], more)
        answers = await together(
            self._ask_one(key, way, find, frozenset(keys))
            for key, way in self._to_ask(frozenset(keys))
        )
        return sum(answers)

    async def ask_about(self, key: PublicKey) -> None:
        """Ask a peer where it is, if it answers, and others where it is."""

        async def itself() -> int:
            return await self._reach(key, self._ways(key))

        await together([itself(), self.ask_others([key])])

    def _to_ask(self, missing: frozenset[PublicKey]) -> list[tuple[PublicKey, Way]]:
        """
        @return: whom, and as L{_ways}; those of whom it is known that they answer come first, and
            those who are lost are left in peace: each is looked at in its own time.
        """
        now = self._reactor.seconds()
        well = [link.key for link in self.health.links() if self.health.well(link, now)]
        self._rng.shuffle(well)
        others = [record.key for record in self.known.records()]
        others += [link.key for link in self.health.links()]
        connected = {each.address for each in self._peers.entries() if each.connected}
        found: list[tuple[PublicKey, Way]] = []
        for key in dict.fromkeys([*well, *others]):
            if key in missing or key == self._own or self._shunned(key) or self._is_lost(key):
                continue
            if not self._is_known(key):
                continue
            ways = self._ways(key)
            if ways:
                found.append((key, min(ways, key=lambda way: way.address not in connected)))
            if len(found) == ASKED:
                break
        return found

    def _is_known(self, key: PublicKey) -> bool:
        """Is a peer one to dial, and not known from what others say alone?"""
        return key in self.health or self.known.has_spoken(key) or self._more > 0

    async def _ask_one(
        self, key: PublicKey, way: Way, find: Find, wanted: frozenset[PublicKey]
    ) -> bool:
        told = await self._converse(key, way, find)
        if told is None:
            return False
        scope = _scope_at(told.host)
        room = find.more
        for raw in told.records:
            try:
                record = AddressRecord.open(raw, self._network, self._now_ms())
            except AddressRecordInvalid as e:
                self._refuse(key, e)
                continue
            if record.key == self._own:
                continue
            if record.key not in wanted:
                if not room:
                    continue
                room -= 1
            taken = self._take(record, scope)
            if taken is Taken.OLDER:
                self._note_outdated(key)
            elif taken is Taken.NEWER and self._is_lost(record.key):
                # Others may take their time to answer.
                self._run(self.seek(record.key), "the search for a peer")
        return True

    def _is_lost(self, key: PublicKey) -> bool:
        link = self.health.find(key)
        return link is not None and link.lost is not None

    def _note_outdated(self, giver: PublicKey) -> None:
        self.outdated_records += 1
        self.outdated[giver] = self.outdated.pop(giver, 0) + 1
        if len(self.outdated) > MAX_OUTDATED:
            del self.outdated[next(iter(self.outdated))]

    async def seek(self, key: PublicKey) -> bool:
        """
        Dial a peer where its newest record says that it is, and then where the hash table does.

        @return: it was reached.
        """
        ways = self._ways(key)
        if await self._reach(key, [way for way in ways if way.hearsay]):
            return True
        if self._find_peer is None:
            return False
        try:
            addresses = await self._find_peer(key)
        except MeshkitError as e:
            self._log.debug("{peer} was not found: {error}", peer=key.text, error=str(e))
            return False
        tried = {way.address for way in ways}
        return await self._reach(
            key, [Way(each, hearsay=True) for each in addresses if each not in tried]
        )

    # --- others -----------------------------------------------------------------------------------

    async def _find_more(self) -> None:
        """Ask whom others know, and dial some of those, by lot; one round at a time."""
        self._finding = True
        try:
            await self.ask_others([], MAX_MORE)
            await self._dial_more()
        finally:
            self._finding = False

    async def _dial_more(self) -> None:
        dials = 0
        keys = [record.key for record in self.known.records()]
        self._rng.shuffle(keys)
        for key in keys:
            if len(self.others) >= self._more:
                return
            if key in self.health or key == self._own or self._shunned(key):
                continue
            for way in self._ways(key):
                if self._is_taken(way.address):
                    continue
                if dials == MORE_DIALS:
                    return
                dials += 1
                if await self._converse(key, way) is None:
                    continue
                self.others[key] = way.address
                self._log.info("{address} is dialled beside others", address=way.address.text)
                self._hear()
                break

    def _is_taken(self, address: MeshAddress) -> bool:
        """Is there one of the same landlord already?  Near by there is but one."""
        if _scope_at(address.host) is not Scope.WORLD:
            return False
        block = blocks_of(address.host)
        return any(blocks_of(other.host) == block for other in self.others.values())

    # --- telling ----------------------------------------------------------------------------------

    def _tell_if_moved(self) -> None:
        raw = self._own_record()
        if not raw or raw == self._told_raw:
            return
        self._told_raw = raw
        before, self._told = self._told, AddressRecord.reopen(raw).addresses
        if before != self._told:
            # What could not be reached from where we were may be near now.
            self.known.try_again()
        self._run(self._tell(), "telling peers where this node is")

    async def _tell(self) -> None:
        """Greet everybody we know with our new record."""
        watched = [link.key for link in self.health.links()]
        others = [
            record.key
            for record in self.known.records()
            if record.key not in self.health and self._is_known(record.key)
        ]
        await together(
            self._tell_one(key) for key in [*watched, *others[:TOLD]] if not self._shunned(key)
        )

    async def _tell_one(self, key: PublicKey) -> bool:
        link = self.health.find(key)
        # Else it is being greeted already.
        idle = link is None or not link.looking
        return idle and await self._reach(key, self._ways(key))

    # --- what others say ----------------------------------------------------------------------

    def greet(self, connection: RPCProtocol, request: Greeting) -> Greeted:
        """A peer greets us."""
        key = connection.key
        place = place_of(connection.connected_to)
        host = "" if place is None else place.host
        if key is not None and key != self._own:
            self._peers.ledger.heard(key)
            if place is not None:
                self.known.seen_at(key, place)
            taken = self._take_own(key, request.record, host)
            if taken is Taken.NEWER:
                self._follow(key)
        return Greeted(self._own_record())

    def _follow(self, key: PublicKey) -> None:
        """A peer says that it is somewhere else: if it is not where we have it, go there."""
        now = self._reactor.seconds()
        entries = [each for each in self._peers.entries() if each.address.key == key]
        if not entries or any(each.connected for each in entries) or self._shunned(key):
            return
        if now - self._sought.get(key, -RESTRAINT) < RESTRAINT:
            return
        self._sought[key] = now
        if len(self._sought) > len(self.health):
            self._sought = {k: at for k, at in self._sought.items() if now - at < RESTRAINT}
        self._run(self.seek(key), "the search for a peer")

    def find(self, connection: RPCProtocol, request: Find) -> Given:
        """A peer asks where others are."""
        keys = [PublicKey(raw) for raw in request.keys]
        given = self.known.given(keys, request.more, self._now_ms(), self._rng, connection.key)
        return Given([record.raw for record in given])


#: Source of what it puts into the peer book.
SOURCE: Final = "exchange"


async def together(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """
    Have several things done at the same time; if one fails, or this is cancelled, the others are
    given up.
    """
    begun = [Deferred.fromCoroutine(work) for work in works]
    try:
        return list(await gatherResults(begun, consumeErrors=True))
    except FirstError as e:
        e.subFailure.raiseException()
    finally:
        for each in begun:
            each.cancel()


def _raw(key: PublicKey) -> bytes:
    return key.raw


def _scope_at(host: str) -> Scope:
    """@return: how near whoever is at this address is; a name is far away."""
    address = parse_ip(host)
    scope = None if address is None else scope_of(address)
    return Scope.WORLD if scope is None else scope


def shown_link(link: Link, health: Health, now: float) -> str:
    """@return: how a peer is, in a word."""
    if health.suspect(link):
        return "suspect"
    if link.lost is not None:
        return "lost"
    return "well" if health.well(link, now) else "silent"
