"""When this node forgets: by the clock, when it is full, and when it is told to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.errors import InvalidRequest, MeshkitError, NotReady
from meshkit.feed import operations as offered
from meshkit.feed import retention, store
from meshkit.feed.limits import NOTHING, Amount, Limits
from meshkit.feed.retention import Doomed, Emptied, Policy
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import Retention, RoomMade
from meshkit.operations import Nothing
from meshkit.parts import shield

#: Seconds after the start until the first run, at most.
FIRST: Final = 60.0
#: Seconds until a run that something that came has made necessary.
SOON: Final = 1.0
#: The part of what an author may have that may come before it is looked at: 1/8.
OVERSHOOT: Final = 8
#: How far a dry run counts.
COUNTED: Final = 100_000
#: Authors of whom messages were refused, as a limit was reached, and who are told of when
#: there is room; of others it is found out when they are asked for again.
MAX_WAITING: Final = 4_096


class Forgetting:
    """
    See the module.  For the reactor's thread alone.

    @ivar forgotten: how many messages were emptied since the start.
    """

    _log = Logger()

    def __init__(
        self,
        clock: Any,
        database: Any,
        wall_clock: Callable[[], int],
        own: PublicKey,
        policy: Policy,
        interval: float,
        limits: Limits,
        changed: Callable[[Amount], None],
        publish: Callable[[RoomMade], None],
    ) -> None:
        """
        @param clock: C{IReactorTime}.
        @param database: L{meshkit.runtime.database.Database}.
        @param wall_clock: nanoseconds since 1970.
        @param own: this node's key.
        @param interval: seconds between two runs.
        @param changed: told how much less is stored, a negative amount.
        @param publish: told for whom there is room again, once after a run.
        """
        self._clock = clock
        self._database = database
        self._wall_clock = wall_clock
        self._own = own
        self._policy = policy
        self._interval = interval
        self._limits = limits
        self._changed = changed
        self._publish = publish
        # What came of each author since the last run: messages and bytes of their texts.
        self._came: dict[bytes, Amount] = {}
        # Authors of whom messages were not taken, as a limit was reached.
        self._refused: dict[bytes, None] = {}
        self._due: IDelayedCall | None = None
        self._running = False
        self._waiting: list[Deferred[Emptied]] = []
        self._stopping = True
        self.forgotten = 0

    def within(self, retention: Retention) -> None:
        """Keep no more than this from now on, beside what the policy says."""
        self._policy = self._policy.within(retention)
        self._wake_in(min(FIRST, self._interval))

    # --- when ----------------------------------------------------------------------

    def start(self) -> None:
        """Begin to run by the clock."""
        self._stopping = False
        self._wake_in(min(FIRST, self._interval))

    def stop(self) -> Deferred[None]:
        """@return: Deferred that fires when nothing is being written any more."""
        self._stopping = True
        if self._due is not None and self._due.active():
            self._due.cancel()
        running: Deferred[Any] = self.run() if self._running else succeed(None)
        return running.addBoth(lambda _: None)

    def came(self, author: bytes, messages: int, size: int) -> None:
        """
        Messages of an author were stored.

        What an author may have is looked at when so much of one has come since the last time
        that it could be an eighth too much: not for each message, and soon enough.
        """
        policy = self._policy
        if not policy.prompt or not (policy.author_messages or policy.author_bytes):
            return
        came = self._came[author] = self._came.get(author, NOTHING) + Amount(0, messages, size)
        for limit, amount in (
            (policy.author_messages, came.texts),
            (policy.author_bytes, came.size),
        ):
            if limit and amount * OVERSHOOT > limit:
                self._wake_in(SOON)

    def stored(self, total: Amount, refused: Iterable[bytes]) -> None:
        """
        Something came.

        @param total: what is stored now.
        @param refused: keys of the authors of whom something was not taken, as a limit was
            reached.
        """
        policy = self._policy
        new = dict.fromkeys(refused)
        over = (policy.messages and total.texts > policy.messages) or (
            policy.bytes and total.size > policy.bytes
        )
        if (over or new) and not policy.idle:
            self._wake_in(SOON)
        for author in new:
            # What is published here waits for nobody.
            if author != self._own.raw:
                self._refused.pop(author, None)
                self._refused[author] = None
                if len(self._refused) > MAX_WAITING:
                    del self._refused[next(iter(self._refused))]

    def _wake_in(self, seconds: float) -> None:
        if self._stopping or self._policy.idle:
            return
        if self._due is not None and self._due.active():
            if self._due.getTime() <= self._clock.seconds() + seconds:
                return
            self._due.cancel()
        self._due = self._clock.callLater(seconds, self._wake)

    def _wake(self) -> None:
        self.run().addErrback(self._not_run)

    def _not_run(self, failure: Failure) -> None:
        # The disk is full, or the node stops.  The next run goes on.
        if failure.check(MeshkitError):
            self._log.warn("messages were not emptied: {error}", error=str(failure.value))
        else:
            self._log.failure("retention", failure)

    # --- doing it --------------------------------------------------------------------

    def run(self) -> Deferred[Emptied]:
        """
        Empty what is to go.  A run that is under way is joined.

        @return: Deferred of what was emptied.  Cancelling it does not end the run.
        """
        waiting: Deferred[Emptied] = Deferred()
        self._waiting.append(waiting)
        if not self._running:
            self._running = True
            self._came.clear()
            Deferred.fromCoroutine(self._run()).addBoth(self._ran)
        return waiting

    def _ran(self, result: Emptied | Failure) -> None:
        self._running = False
        self._wake_in(self._interval)
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(result)

    async def _run(self) -> Emptied:
        done = Emptied(0, Amount())
        while not self._stopping:
            now_ns = self._wall_clock()
            doomed: list[Doomed] = await self._database.read(
                lambda connection, now_ns=now_ns: retention.plan(
                    connection, self._policy, self._own.raw, now_ns
                )
            )
            emptied = await self._empty(doomed, retention.empty)
            if not emptied.messages:
                break
            done = Emptied(done.messages + emptied.messages, done.amount + emptied.amount)
        if done.messages:
            self._log.info(
                "{messages} messages were emptied, {size} bytes of text",
                messages=done.messages,
                size=done.amount.size,
            )
            await self._tell_room()
        return done

    async def _tell_room(self) -> None:
        """
        Name those for whom there is room again.  Only after something was emptied: else it
        would be asked for again and again what is refused whatever goes.
        """
        waiting = tuple(self._refused)
        if not waiting or self._stopping:
            return
        own = self._own.raw
        amounts, total = await self._database.read(
            lambda connection: (
                store.of_authors(connection, (own, *waiting)),
                store.total(connection),
            )
        )
        authors = tuple(
            author
            for author in waiting
            if self._limits.has_room(amounts.get(author, NOTHING), total, amounts.get(own, NOTHING))
        )
        for author in authors:
            self._refused.pop(author, None)
        if authors:
            self._publish(RoomMade(authors))

    async def _empty(
        self, doomed: list[Doomed], empty: Callable[[Any, list[int]], Emptied]
    ) -> Emptied:
        if not doomed:
            return Emptied(0, Amount())
        positions = [each.position for each in doomed]
        emptied: Emptied = await self._database.write(
            lambda connection: empty(connection, positions)
        )
        self.forgotten += emptied.messages
        self._changed(-emptied.amount)
        return emptied

    async def forget(self, author: PublicKey) -> Emptied:
        """
        Empty all that is stored of an author who is blocked.

        @raise InvalidRequest: if it is not.
        """

        def begin(connection: Any) -> bool:
            if not store.is_blocked(connection, author.raw):
                return False
            retention.forget_end(connection, author.raw)
            return True

        if not await self._database.write(begin):
            raise InvalidRequest(
                f"{author.text} is not blocked, so that what is forgotten would come again: "
                f"block it first",
                field="author",
            )
        return await self._empty_all(author)

    async def forget_unwanted(self, author: PublicKey) -> Emptied:
        """Empty all that is stored of an author who is not replicated here any more."""
        if author == self._own:
            raise ValueError("a node's own feed is not forgotten")
        await self._database.write(lambda connection: retention.forget_end(connection, author.raw))
        return await self._empty_all(author)

    async def _empty_all(self, author: PublicKey) -> Emptied:
        done = Emptied(0, Amount())
        while True:
            if self._stopping:
                raise NotReady("the node is stopping: ask for it again when it runs")
            doomed = await self._database.read(partial(retention.of_author, author=author.raw))
            emptied = await self._empty(doomed, retention.empty_forgotten)
            if not emptied.messages:
                if done.messages:
                    await self._tell_room()
                return done
            done = Emptied(done.messages + emptied.messages, done.amount + emptied.amount)

    # --- the doors -------------------------------------------------------------------

    async def answer_plan(self, request: Nothing) -> offered.RetentionPlan:
        now_ns = self._wall_clock()
        doomed: list[Doomed] = await self._database.read(
            lambda connection: retention.plan(
                connection, self._policy, self._own.raw, now_ns, COUNTED, None
            )
        )
        reasons = Counter(each.reason for each in doomed)
        return offered.RetentionPlan(
            messages=len(doomed),
            bytes=sum(each.size for each in doomed),
            by_reason=dict(sorted(reasons.items())),
            more=len(doomed) >= COUNTED,
        )

    async def answer_run(self, request: Nothing) -> offered.Forgotten:
        return _forgotten(await self.run())

    async def answer_forget(self, request: offered.Forget) -> offered.Forgotten:
        return _forgotten(await shield(self.forget(PublicKey.parse(request.author))))


def _forgotten(emptied: Emptied) -> offered.Forgotten:
    return offered.Forgotten(messages=emptied.messages, bytes=emptied.amount.size)
