"""
What a node does by itself in the course of time: one thing after the other, so that it
never takes more than a part of what the node has.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from meshkit.errors import MeshkitError, NotReady
from meshkit.kademlia.contacts import Contact
from meshkit.kademlia.distance import ID_BITS, ID_BYTES, number
from meshkit.kademlia.holdings import NEAREST, STEP, Due
from meshkit.kademlia.kinds import address_key
from meshkit.kademlia.lookup import PATHS
from meshkit.kademlia.routing import REFRESH, K
from meshkit.kademlia.search import together

if TYPE_CHECKING:
    from meshkit.kademlia.node import KademliaNode, Placed
    from meshkit.kademlia.records import Record

#: Seconds between two looks at what is to be done, about.
PAUSE: Final = 60.0
#: Seconds for which a connection counts as used after something came over it.
IN_USE: Final = 600.0
#: Seconds after the start at which our neighbours are looked for again: those that started
#: together with us may have been found by nobody yet.  Then twice as long, up to L{REFRESH}.
FIRST_NEIGHBOURS: Final = 60.0
#: Seconds between tries of those that are gone, and how many each time.
LOST_PAUSE: Final = 3_600.0
LOST: Final = 4
#: Seconds between two times that the table is written down, if nobody is new in it.
SAVE_PAUSE: Final = 600.0
#: Quiet nodes that are pinged at a look.
MAX_QUIET: Final = 8
#: Keys that are republished at a look.
MAX_DUE: Final = 32
#: Records of ours that no other node keeps, and that are stored again at a time; and seconds
#: between two such times, at least.
MAX_AGAIN: Final = 4
AGAIN_PAUSE: Final = 10.0
#: Seconds that are waited for more nodes to be known when somebody new is.
GATHER: Final = 2.0
#: Newcomers that wait to be given what is theirs.
MAX_NEWCOMERS: Final = 64
#: Keys of which one newcomer is given the records, at the same time.
MAX_HANDED: Final = 4
#: Seconds in which newcomers are given what is theirs, at a look; the others wait for the next.
HANDING_TIME: Final = 60.0
#: Seconds that anything which is due may take, at a look: who answers slowly must not keep all
#: the rest from being done.
MAX_STEP: Final = 300.0


class Upkeep:
    """See the module."""

    _log = Logger()

    def __init__(self, node: KademliaNode) -> None:
        self._node = node
        self._due: IDelayedCall | None = None
        self._newcomers: dict[bytes, Contact] = {}
        self._neighbours_at = self._lost_at = float("-inf")
        self._neighbours_pause = FIRST_NEIGHBOURS
        self._saved_at = float("-inf")
        # Somebody is in the table who is not in what was written.
        self._grown = False
        self._started = False
        # When something is stored again that no other node keeps; whether that is being done,
        # when it was done last, and whether somebody new is known since then.
        self._again: IDelayedCall | None = None
        self._storing = False
        self._stored_at = float("-inf")
        self._met = False

    def start(self) -> None:
        """Begin to look, after a pause."""
        self._started = True
        self._storing = self._met = False
        now = self._node.reactor.seconds()
        self._neighbours_at = self._lost_at = self._saved_at = now
        self._neighbours_pause = FIRST_NEIGHBOURS
        self._schedule()
        self._plan()

    def stop(self) -> None:
        """Look no more; who calls this ends what is under way."""
        self._started = False
        self._newcomers.clear()
        for due in (self._due, self._again):
            if due is not None:
                due.cancel()
        self._due = self._again = None

    def joined(self, contact: Contact) -> None:
        """Somebody is in the table who was not."""
        self._grown = True
        if self._started and len(self._newcomers) < MAX_NEWCOMERS and len(self._node.holdings):
            self._newcomers[contact.id] = contact
        if self._started and self._node.publications.missing:
            self._met = True
            self._store_again_in(GATHER)

    def _schedule(self) -> None:
        if self._started and self._due is None:
            pause = PAUSE * (0.75 + 0.5 * self._node.rng.random())
            self._due = self._node.reactor.callLater(pause, self._begin)

    def _begin(self) -> None:
        self._due = None
        self._node.run_alone(self.look_after(), "looking after the hash table")

    async def look_after(self) -> None:
        """Do all that is due now."""
        try:
            steps: tuple[Callable[[], Coroutine[Deferred[Any], Any, Any]], ...] = (
                self._find_neighbours,
                self._refresh,
                self._ping_quiet,
                self._try_lost,
                self.publish_address,
                self._publish,
                self._republish,
                self._hand_over,
                self._write,
            )
            for step in steps:
                await self._do(step())
        finally:
            self._schedule()

    async def _do(self, step: Coroutine[Deferred[Any], Any, Any]) -> None:
        try:
            await self._in_time(step)
        except NotReady:
            raise
        except TimeoutError:
            self._log.info(
                "the hash table takes more than {seconds:.0f} s for one thing that is "
                "due, and leaves the rest of it",
                seconds=MAX_STEP,
            )
        except MeshkitError as e:
            self._log.info(
                "the hash table could not do all that is due: {code}: {error}",
                code=e.code,
                error=str(e),
            )

    def _in_time(self, work: Coroutine[Deferred[Any], Any, Any]) -> Deferred[Any]:
        step: Deferred[Any] = Deferred.fromCoroutine(work)
        return step.addTimeout(MAX_STEP, self._node.reactor)

    # --- the table ----------------------------------------------------------------------------

    async def _find_neighbours(self) -> None:
        node, now = self._node, self._node.reactor.seconds()
        # From then on that is done by the refresh.
        if self._neighbours_pause < REFRESH and now - self._neighbours_at >= self._neighbours_pause:
            self._neighbours_at = now
            self._neighbours_pause *= 2
            if len(node.table):
                await node.look_up(node.id, own=True)
                # What is found around us says nothing of how many there are.
                place = node.rng.getrandbits(ID_BITS).to_bytes(ID_BYTES, "big")
                await node.look_up(place, own=True, paths=1)

    async def _refresh(self) -> None:
        node = self._node
        for target in node.table.refreshes(node.wall_ms() / 1000, node.rng):
            await node.look_up(target, own=True, paths=1)

    async def _ping_quiet(self) -> None:
        node = self._node
        for contact in node.table.quiet(MAX_QUIET, node.wall_ms() / 1000):
            node.check(contact)

    async def _try_lost(self) -> None:
        node, now = self._node, self._node.reactor.seconds()
        if now - self._lost_at >= LOST_PAUSE:
            self._lost_at = now
            for contact in node.table.lost(LOST):
                node.check(contact)

    # --- records --------------------------------------------------------------------------------

    async def publish_address(self) -> None:
        """
        Say where we can be reached, or that nobody does any more, if that has changed: to those
        with whom we are connected, and to those that keep our address.
        """
        node, seconds = self._node, self._node.reactor.seconds()
        for place in node.server.dialled(seconds - IN_USE):
            node.reachability.in_use(place, seconds)
        if node.on_trial():
            await node.ask_back()
        record = node.own_address()
        sequence, raw = (0, b"") if record is None else (record.sequence, record.raw)
        for protocol in node.connections.connected():
            if protocol.shown != raw:
                node.client.introduce(protocol)
        key = address_key(node.identity.public)
        published = node.publications.find("address", key)
        now = node.wall_ms()
        if not len(node.table) or sequence == (published.record.sequence if published else 0):
            return
        if record is not None:
            if not node.proved() and not record.more:
                return  # who looked for us there would look in vain
            stored = node.publications.publish(
                "address", key, raw, now, until=record.expires, sequence=sequence
            )
        elif published is not None and not published.over(now):
            last = node.farewell()
            stored = node.publications.withdraw(
                "address", key, now, value=last.raw, sequence=last.sequence
            )
        else:
            return
        await node.written()
        await node.place_ours(stored)

    async def _publish(self, limit: int = MAX_DUE) -> None:
        node = self._node
        due = node.publications.due(node.wall_ms(), limit)
        try:
            while due:
                await node.written()
                await node.place_ours(due.pop(0))
        finally:
            # What it did not come to is not left for an hour.
            for record in due:
                self.settle(record, None)

    def settle(self, record: Record, placed: Placed | None) -> None:
        """
        A record of ours was stored, or should have been.  If it is published, and no other node
        keeps it or a newer one, it is stored again after a pause: some seconds at first, an hour
        at most.

        @param placed: what came of it; L{None} if that was not done to the end.
        """
        publications = self._node.publications
        if placed is not None and placed.settled:
            publications.kept(record)
            return
        now = self._node.wall_ms()
        when = publications.missed(record, now)
        if when is None:
            return
        if placed is not None and placed.refused:
            # Else there was nobody to ask, of which there is nothing to say.
            self._log.info(
                "no other node keeps {record}, which is stored again later: {why}",
                record=record.shown,
                why=_whys(placed.refused),
            )
        self._store_again_in((when - now) / 1000)

    def _plan(self) -> None:
        """Have what no other node keeps be stored again when it is due."""
        when = self._node.publications.soonest()
        if when is not None:
            pause = GATHER if self._met else (when - self._node.wall_ms()) / 1000
            self._store_again_in(pause)

    def _store_again_in(self, seconds: float) -> None:
        # Once it is done, it is planned anew.
        if not self._started or self._storing:
            return
        now = self._node.reactor.seconds()
        when = max(now + seconds, self._stored_at + AGAIN_PAUSE)
        if self._again is not None:
            if self._again.getTime() <= when:
                return
            self._again.cancel()
        self._again = self._node.reactor.callLater(when - now, self._store_again)

    def _store_again(self) -> None:
        self._again = None
        self._storing = True
        if self._met:
            self._met = False
            self._node.publications.hurry(self._node.wall_ms())
        self._node.run_alone(self._stored_again(), "storing what no other node keeps")

    async def _stored_again(self) -> None:
        try:
            await self._do(self._publish(MAX_AGAIN))
        finally:
            self._storing = False
            self._stored_at = self._node.reactor.seconds()
            self._plan()

    async def _republish(self) -> None:
        node = self._node
        now = node.wall_ms()
        node.holdings.expire(now, STEP)
        for due in node.holdings.due(now, MAX_DUE):
            await self._republish_one(due)

    async def _republish_one(self, due: Due) -> None:
        node = self._node
        lookup = await node.look_up(due.key, paths=PATHS)
        holders = lookup.holders()
        await together([node.store_at(holder, due.records) for holder in holders])
        if lookup.crowded:
            # Those who crowd there are nearer than all others, and may well drop it.
            return
        here, own = number(due.key), number(node.id)
        if len(holders) >= K and all(holder.number ^ here < own ^ here for holder in holders):
            node.holdings.relieve(due.kind, due.key, node.wall_ms())

    async def _hand_over(self) -> None:
        """Give newcomers what they are nearer to than we are."""
        until = self._node.reactor.seconds() + HANDING_TIME
        while self._newcomers and self._node.reactor.seconds() < until:
            place, contact = next(iter(self._newcomers.items()))
            del self._newcomers[place]
            await self._hand(place, contact, until)

    async def _hand(self, place: bytes, contact: Contact, until: float) -> None:
        """
        @param until: when to leave the rest, which others bring, or we when it is due.
        """
        node = self._node

        def nearest(key: bytes) -> list[bytes]:
            known = node.table.closest(key, NEAREST + 1)
            return [each.id for each in known if each.id != place][:NEAREST]

        for found in node.holdings.handover(place, nearest, node.wall_ms()):
            for at in range(0, len(found), MAX_HANDED):
                some = found[at : at + MAX_HANDED]
                kept = await together([node.store_at(contact, due.records) for due in some])
                if not any(kept) or node.reactor.seconds() >= until:
                    return
            await self._pause()

    async def _pause(self) -> None:
        """Let others have a turn."""
        turn: Deferred[None] = Deferred(lambda _: call.cancel())
        call = self._node.reactor.callLater(0, turn.callback, None)
        await turn

    async def _write(self) -> None:
        node, now = self._node, self._node.reactor.seconds()
        await node.written()
        if self._grown or now - self._saved_at >= SAVE_PAUSE:
            self._saved_at, self._grown = now, False
            await node.save_contacts()


def _whys(refused: Mapping[str, int]) -> str:
    """@return: why a record is not kept, for the log."""
    return ", ".join(
        f"{count} {code or 'without an answer'}" for code, count in sorted(refused.items())
    )
