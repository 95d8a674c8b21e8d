"""
Takes stored messages to one hook: each in its turn, none left out, none forgotten.

A courier reads the store from its place on, as L{meshkit.feed.follow} does for streams;
arrivals only wake it.  A message that could not be delivered is tried again until it is, or
until it has failed too often or for too long; then it is parked, and the next one follows.
Its place is written down after each attempt, so that after a crash the one message that was
on its way may come again, and no other.

When a hook has parked as many messages as it may, it waits for its operator instead of
losing any.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any, Final, Protocol

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from meshkit.errors import MeshkitError
from meshkit.hooks import places
from meshkit.hooks.config import Hook
from meshkit.hooks.places import Parked, Place
from meshkit.hooks.retries import Failed, fate, next_pause
from meshkit.interfaces import Arrival, Arrivals, IFeedStore
from meshkit.parts import shield
from meshkit.runtime.database import Database
from meshkit.runtime.events import Bell
from meshkit.runtime.limits import TokenBucket

#: Messages, and bytes of them, that are read at a time.
PAGE_MESSAGES: Final = 100
PAGE_BYTES: Final = 256 * 1024
#: Positions passed over after which the place is written down although nothing was
#: delivered, so that a hook for rare messages does not look at all others again.
PASSED: Final = 1_000
#: Seconds after which what the database refused is tried again.
DATABASE_PAUSE: Final = 5.0

_SECONDS: Final = 10**9


class Delivery(Protocol):
    """How messages are delivered: L{Commands} and L{Webhook}."""

    def deliver(self, arrival: Arrival, attempt: int) -> Deferred[Failed | None]:
        """
        @param attempt: how often this message was tried before, plus 1.
        @return: Deferred of L{None}, or of how it failed.  It fails only by a fault of
            ours.
        """

    def stop(self) -> None:
        """Give up what is being delivered, soon: its Deferred fires then."""


class Courier:
    """
    See the module.  For the reactor's thread.

    @ivar hook: what is delivered where.
    @ivar kind: C{command} or C{webhook}.
    @ivar place: how far it has come.
    @ivar parked: how many messages are parked.
    @ivar newest: position of the last message of all, as it was seen last.
    @ivar delivered: messages that were taken, since the start.
    @ivar failures: attempts that failed, since the start.
    @ivar state: what it is doing, for people.
    @ivar next_attempt: when the next attempt is made, in the seconds of the clock; L{None}
        if it waits for nothing of that kind.
    @ivar last_error: how the last attempt failed that did.
    @ivar last_delivered_ns: when a message was taken last, nanoseconds since 1970.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        rng: Random,
        wall_clock: Callable[[], int],
        database: Database,
        store: IFeedStore,
        hook: Hook,
        kind: str,
        delivery: Delivery,
        max_parked: int,
    ) -> None:
        self._clock = clock
        self._rng = rng
        self._wall_clock = wall_clock
        self._database = database
        self._store = store
        self._delivery = delivery
        self._max_parked = max_parked
        self._authors = hook.author_keys()
        self._types = frozenset(hook.types)
        self._tags = frozenset(hook.tags)
        rate = hook.per_minute / 60.0
        self._bucket = TokenBucket(rate, max(1.0, rate))
        # What may have come, and that somebody wants something of this hook.
        self._arrivals = Bell()
        self._orders = Bell()
        self._again = True
        self._hurried = False
        self._stopping = False
        self._saved = 0
        self._done: Deferred[None] | None = None
        self.hook = hook
        self.kind = kind
        self.place = Place(0)
        self.parked = 0
        self.newest = 0
        self.delivered = 0
        self.failures = 0
        self.state = "idle"
        self.next_attempt: float | None = None
        self.last_error: str | None = None
        self.last_delivered_ns: int | None = None

    # --- the service ------------------------------------------------------------------

    async def load(self) -> None:
        """Find out where to go on; to be called before L{start}."""
        name = self.hook.name
        place = await self._database.read(partial(places.load_place, hook=name))
        self.parked = await self._database.read(partial(places.count_parked, hook=name))
        self.newest = (await self._store.arrivals(0, 0, 0)).newest
        if place is None:
            place = Place(self.newest if self.hook.begin == "now" else 0)
            await self._database.write(partial(places.save_place, hook=name, place=place))
        self.place = place
        self._saved = place.position

    def start(self) -> None:
        self._done = Deferred.fromCoroutine(self._run())

    def stop(self) -> Deferred[None]:
        """@return: Deferred that fires when nothing is being delivered any more."""
        self._stopping = True
        self._delivery.stop()
        self._arrivals.ring()
        self._orders.ring()
        stopped: Deferred[None] = Deferred()
        if self._done is None:
            stopped.callback(None)
        else:
            self._done.addBoth(stopped.callback)
        return stopped

    def ring(self, newest: int) -> None:
        """
        Messages were stored.

        @param newest: position of the last of them.
        """
        self.newest = max(self.newest, newest)
        self._arrivals.ring()

    def retry(self) -> None:
        """Do not wait for the next attempt, and look for what is to be tried once more."""
        self._again = True
        self._hurried = True
        self._arrivals.ring()
        self._orders.ring()

    async def discard(self, position: int | None) -> int:
        """
        Forget parked messages.

        @param position: which one; L{None} for all.
        @return: how many.
        """
        count: int = await shield(
            self._database.write(
                partial(places.forget, hook=self.hook.name, position=position)
            ).addCallback(self._forgot)
        )
        return count

    def _forgot(self, count: int) -> int:
        self.parked -= count
        self._arrivals.ring()
        return count

    def wants(self, arrival: Arrival) -> bool:
        """Is this hook for such a message?"""
        message = arrival.message
        return (
            (not self._authors or message.author in self._authors)
            and (not self._types or message.content_type in self._types)
            and (not self._tags or not self._tags.isdisjoint(message.tags))
        )

    # --- the loop ----------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            while not self._stopping:
                await self._round()
        except Exception:
            self._log.failure("the hook {name} broke and rests", name=self.hook.name)
            self.state = "broken"
            self.last_error = "a fault of the node ended this hook until the next start: its log"
        if self.place.position != self._saved:
            await self._save()

    async def _round(self) -> None:
        """Look once at all that there is to do."""
        self._arrivals.hush()
        self._hurried = False
        while self._again and not self._stopping:
            await self._try_parked()
        if self._held():
            self.state = "held"
            await self._arrivals.wait()
            return
        page = await self._read()
        if page is None:
            return
        self.newest = max(self.newest, page.newest)
        for arrival in page.messages:
            if self.wants(arrival) and not await self._bring(arrival):
                return
            self.place.position = arrival.message.position
        self.place.position = max(self.place.position, page.reached)
        if self.place.position - self._saved >= PASSED:
            await self._save()
        if self.place.position >= page.newest and not self._stopping:
            self.state = "idle"
            await self._arrivals.wait()

    def _held(self) -> bool:
        return self.parked >= self._max_parked

    async def _read(self) -> Arrivals | None:
        try:
            page: Arrivals = await self._store.arrivals(
                self.place.position, PAGE_MESSAGES, PAGE_BYTES
            )
            return page
        except MeshkitError as e:
            await self._database_refused(e)
            return None

    async def _bring(self, arrival: Arrival) -> bool:
        """
        Deliver one message, or park it.

        @return: whether it is done with; if not, this has to be left for now.
        """
        place = self.place
        if place.tried != arrival.message.position:
            place.tried, place.attempts, place.first_ns = arrival.message.position, 0, 0
        while True:
            if not await self._granted():
                return False
            now = self._wall_clock()
            failed = await self._attempt(arrival, place.attempts + 1)
            if failed is None:
                place.position, place.attempts, place.failing = place.tried, 0, 0
                return await self._save()
            if self._stopping:
                # It was cut short: nothing can be held against the receiver.
                return False
            place.attempts += 1
            place.failing += 1
            place.first_ns = place.first_ns or now
            age = (now - place.first_ns) / _SECONDS
            if fate(self.hook, failed, place.attempts, age) == "park":
                return await self._park(arrival, failed)
            if not await self._save():
                return False
            await self._rest(next_pause(self.hook, place.failing, failed, self._rng))
            if self._stopping or self._again:
                return False

    async def _attempt(self, arrival: Arrival, attempt: int) -> Failed | None:
        self.state = "delivering"
        failed = await self._delivery.deliver(arrival, attempt)
        if failed is None:
            self.delivered += 1
            self.last_delivered_ns = self._wall_clock()
        elif not self._stopping:
            self.failures += 1
            self.last_error = failed.error
            self._log.info(
                "the hook {name} failed for message {hash}, attempt {attempt}: {error}",
                name=self.hook.name,
                hash=arrival.message.hash.hex(),
                attempt=attempt,
                error=failed.error,
            )
        return failed

    async def _park(self, arrival: Arrival, failed: Failed) -> bool:
        message, place = arrival.message, self.place
        place.position = message.position
        parked = Parked(
            message.position,
            message.hash,
            message.author,
            message.sequence,
            place.attempts,
            self._wall_clock(),
            failed.error,
        )
        place.attempts = 0
        if not await self._save(partial(places.park, hook=self.hook.name, parked=parked)):
            return False
        self.parked += 1
        self._log.warn(
            "the hook {name} has given up message {hash}: {error}; see 'meshkit hook parked "
            "{name}'",
            name=self.hook.name,
            hash=message.hash.hex(),
            error=failed.error,
        )
        if self._held():
            self._log.warn(
                "the hook {name} has parked {count} messages and waits: 'meshkit hook retry "
                "{name}' or 'meshkit hook discard {name}'",
                name=self.hook.name,
                count=self.parked,
            )
        return not self._held()

    async def _try_parked(self) -> None:
        """Try the first parked message once more that somebody has asked for."""
        name = self.hook.name
        try:
            parked = await self._database.read(partial(places.next_again, hook=name))
            if parked is None:
                self._again = False
                return
            page = await self._store.arrivals(parked.position - 1, 1, 0)
        except MeshkitError as e:
            await self._database_refused(e)
            return
        found = [each for each in page.messages if each.message.position == parked.position]
        if not found:
            self._log.info(
                "message {hash} is stored no more: the hook {name} forgets it",
                name=name,
                hash=parked.hash.hex(),
            )
        elif not await self._granted():
            return
        else:
            failed = await self._attempt(found[0], parked.attempts + 1)
            if self._stopping and failed is not None:
                return
            if failed is not None:
                self.place.failing += 1
                again = evolve(
                    parked,
                    attempts=parked.attempts + 1,
                    parked_ns=self._wall_clock(),
                    error=failed.error,
                    again=False,
                )
                await self._save(partial(places.note_failed, hook=name, parked=again))
                return
            self.place.failing = 0
        dropped = 0

        def forget(connection: Any) -> None:
            nonlocal dropped
            dropped = places.forget(connection, name, parked.position)

        if await self._save(forget):
            self.parked -= dropped

    # --- writing -----------------------------------------------------------------------

    async def _save(self, also: Callable[[Any], Any] | None = None) -> bool:
        """
        Write the place down, together with something else.  If the database refuses, this
        waits: what cannot be noted is not gone on from.

        @return: whether it was done; it was not if this is being stopped.
        """
        place = evolve(self.place)

        def job(connection: Any) -> None:
            places.save_place(connection, self.hook.name, place)
            if also is not None:
                also(connection)

        while True:
            try:
                await self._database.write(job)
            except MeshkitError as e:
                if self._stopping:
                    self._log.warn(
                        "the place of the hook {name} was not saved ({error}): what follows the "
                        "one that was is looked at again",
                        name=self.hook.name,
                        error=str(e),
                    )
                    return False
                await self._database_refused(e)
            else:
                self._saved = place.position
                return True

    async def _database_refused(self, error: MeshkitError) -> None:
        self.last_error = str(error)
        self._log.warn(
            "the hook {name} waits for the database: {error}",
            name=self.hook.name,
            error=str(error),
        )
        await self._rest(DATABASE_PAUSE)

    # --- waiting -----------------------------------------------------------------------

    async def _granted(self) -> bool:
        """Wait until the rate allows a delivery.  @return: whether to deliver."""
        while not self._stopping:
            wait = self._bucket.take(1.0, self._clock.seconds())
            if not wait:
                return True
            await self._rest(wait)
        return False

    async def _rest(self, seconds: float) -> None:
        """Wait, until the time has come, this is stopped, or somebody is in a hurry."""
        end = self._clock.seconds() + seconds
        self.state, self.next_attempt = "waiting", end
        while not (self._stopping or self._hurried):
            left = end - self._clock.seconds()
            if left <= 0:
                break
            self._orders.hush()
            due = self._clock.callLater(left, self._orders.ring)
            await self._orders.wait()
            if due.active():
                due.cancel()
        self.next_attempt = None
        self._hurried = False
