"""What the part C{feed} answers when it is asked for lists and searches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random
from typing import Any, Final, TypeVar

import msgspec
from attrs import evolve
from twisted.internet.defer import Deferred, DeferredSemaphore, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.errors import (
    CursorExpired,
    InvalidRequest,
    MalformedMessage,
    MeshkitError,
    NotFound,
    Overloaded,
    SearchTooSlow,
)
from meshkit.feed import operations as offered
from meshkit.feed import search, threads
from meshkit.feed.cursors import read_cursor, write_cursor
from meshkit.feed.search import Filter, Ranked
from meshkit.feed.store import Row
from meshkit.feed.timestamps import parse_timestamp
from meshkit.feed.words import parse_query
from meshkit.identity.keys import PublicKey
from meshkit.operations import Page

T = TypeVar("T")

#: How many lists may wait, and how many searches.
MAX_WAITING: Final = 256
#: Orders by relevance that are remembered for cursors to go on with; at most 80 kB each.
MAX_RANKINGS: Final = 64

#: Makes of a message what is shown of it: see L{search.shown}.
Show = Callable[[Row, "Sequence[str] | None", "Mapping[str, Any] | None"], msgspec.Raw]

#: What a reading job is given: the connection, and whether its time is up.
Look = Callable[[Any, Callable[[], bool]], T]


class Lane:
    """
    Reading jobs one after the other, each with a deadline.

    The database has few threads that read, and other nodes are served by them: people's
    questions have one of them at most, for a bounded time.  For the reactor's thread alone.
    """

    _log = Logger()

    def __init__(self, database: Any, seconds: Callable[[], float], limit: float) -> None:
        """
        @param database: L{meshkit.runtime.database.Database}.
        @param seconds: a clock, asked in the threads of the database.
        @param limit: how long a job may take from its beginning.
        """
        self._database = database
        self._seconds = seconds
        self._limit = limit
        self._turns = DeferredSemaphore(1)
        self._waiting = 0

    def run(self, job: Look[T]) -> Deferred[T]:
        """
        @return: Deferred of what the job returns.  Cancelling it ends the job.  Fails with
            L{SearchTooSlow} if its time was up, with L{Overloaded} if L{MAX_WAITING} jobs
            wait already, and as the database's reads do.
        """
        gone = False

        def cancelled(_: Deferred[T]) -> None:
            nonlocal gone
            gone = True

        def bounded(connection: Any) -> T:
            end = self._seconds() + self._limit

            def expired() -> bool:
                return gone or self._seconds() >= end

            if gone:
                raise SearchTooSlow  # which nobody will see
            return search.within(connection, expired, partial(_swapped, job, expired))

        def done(result: Any) -> None:
            self._waiting -= 1
            if not answer.called:
                answer.callback(result)
            elif isinstance(result, Failure) and not isinstance(result.value, MeshkitError):
                self._log.failure("what nobody waits for any more failed", result)

        answer: Deferred[T] = Deferred(cancelled)
        if self._waiting >= MAX_WAITING:
            answer.errback(
                Failure(Overloaded(f"{MAX_WAITING} such calls wait already: try again in a moment"))
            )
            return answer
        self._waiting += 1
        # The turn lasts until the thread is free, also if nobody waits any more.
        self._turns.run(self._database.read, bounded).addBoth(done).addErrback(self._bug)
        return answer

    def _bug(self, failure: Failure) -> None:
        self._log.failure("a caller's callback failed", failure)


def _swapped(job: Look[T], expired: Callable[[], bool], connection: Any) -> T:
    return job(connection, expired)


class Rankings:
    """
    The orders by relevance that somebody may go on with.

    How relevant a message is depends on all others, so an order cannot be made again
    once others have come.
    """

    def __init__(self, rng: Random, most: int = MAX_RANKINGS) -> None:
        self._rng = rng
        self._most = most
        self._kept: OrderedDict[int, Ranked] = OrderedDict()

    def keep(self, ranked: Ranked) -> int:
        """@return: a name for it."""
        # At random, so that a cursor from before a restart names nothing.
        name = self._rng.getrandbits(63)
        self._kept[name] = ranked
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return name

    def find(self, name: int) -> Ranked:
        """@raise CursorExpired: if it is not kept any more."""
        if name not in self._kept:
            raise CursorExpired(
                f"the order that this cursor goes on with is no longer kept (the last "
                f"{self._most} searches' are, until the node is restarted): search again, or "
                f"with order=newest, whose cursors last"
            )
        self._kept.move_to_end(name)
        return self._kept[name]


class Lookups:
    """The operations that read many messages."""

    _log = Logger()

    def __init__(
        self,
        database: Any,
        own: PublicKey,
        seconds: Callable[[], float],
        rng: Random,
        limit: float,
        show: Show = search.shown,
        any_blocked: Callable[[], bool] = lambda: False,
    ) -> None:
        """
        @param database: L{meshkit.runtime.database.Database}.
        @param own: whose messages are "one's own".
        @param seconds: a clock, asked in the threads of the database.
        @param rng: for names of what is remembered.
        @param limit: how many seconds a list or a search may take.
        @param show: how messages are shown, called in the threads of the database.
        @param any_blocked: is any author blocked?
        """
        self._show = show
        self._database = database
        self._own = own
        self._any_blocked = any_blocked
        self._lists = Lane(database, seconds, limit)
        self._searches = Lane(database, seconds, limit)
        self._rankings = Rankings(rng)
        self._reindexing: Deferred[None] = succeed(None)
        self._stopping = False

    # --- the index ---------------------------------------------------------------

    def start(self) -> None:
        """
        Index anew, in the background, what an older version has stored.  Searches say so
        until it is done; where it was ended, it goes on at the next start.
        """
        self._stopping = False
        self._reindexing = Deferred.fromCoroutine(self._reindex()).addErrback(self._not_indexed)

    async def _reindex(self) -> None:
        if await self._database.read(search.reindex_complete):
            return
        self._log.info("messages of an older version are being indexed anew for searches")
        while not self._stopping:
            if await self._database.write(search.reindex):
                self._log.info("the messages of an older version are indexed anew")
                return

    def _not_indexed(self, failure: Failure) -> None:
        self._log.failure(
            "messages of an older version could not be indexed anew: this goes on at the next "
            "start",
            failure,
        )

    def stop(self) -> Deferred[None]:
        """@return: Deferred that fires when nothing is being written any more."""
        self._stopping = True
        return self._reindexing

    def _filter(self, request: Any, **fields: Any) -> Filter:
        wanted = _filter(request, **fields)
        # Who asks for an author by name is shown what there is.
        hide = wanted.author is None and self._any_blocked()
        return evolve(wanted, hide_blocked=True) if hide else wanted

    # --- lists -------------------------------------------------------------------

    async def answer_list(self, request: offered.ListFeed) -> Page:
        return await self._list(
            "list", request, not_author=None if request.include_self else self._own.raw
        )

    async def answer_author(self, request: offered.ListAuthor) -> Page:
        return await self._list("author", request)

    async def answer_insights(self, request: offered.ListInsights) -> Page:
        return await self._list("insights", request, content_type="insight")

    async def _list(self, name: str, request: Any, **fields: Any) -> Page:
        wanted = self._filter(request, **fields)
        subject = [name, *_subject(wanted)]
        after = _place(request, subject)

        def look(
            connection: Any, expired: Callable[[], bool]
        ) -> tuple[search.Listed, list[msgspec.Raw]]:
            listed = search.list_messages(connection, wanted, request.limit, request.offset, after)
            items = [self._in_time(expired, row) for row in listed.rows]
            # The rows are as large as the items, and not needed any more.
            return evolve(listed, rows=[]), items

        listed, items = await self._lists.run(look)
        return Page(
            items,
            total=listed.total,
            limit=request.limit,
            offset=None if after is not None else request.offset,
            next_cursor=None if listed.last is None else write_cursor(subject, listed.last),
            counted=listed.counted,
        )

    def _in_time(
        self,
        expired: Callable[[], bool],
        row: Row,
        snippet: Sequence[str] | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> msgspec.Raw:
        """A message as it is shown, unless the time is up: a sealed one takes a while."""
        if expired():
            raise SearchTooSlow
        return self._show(row, snippet, more)

    # --- threads -----------------------------------------------------------------

    async def answer_thread(self, request: offered.ReadThread) -> Page:
        subject = ["thread", request.hash, request.from_root, request.depth]
        place = None if request.cursor is None else read_cursor(subject, request.cursor)
        after = None if place is None else place[0]

        def look(
            connection: Any, expired: Callable[[], bool]
        ) -> tuple[threads.Thread, list[msgspec.Raw]]:
            start = threads.find_start(connection, request.hash, request.from_root)
            if start is None:
                raise NotFound(
                    f"no message with hash {request.hash}, nor one about it, is stored here"
                )
            thread = threads.read_thread(connection, start, request.depth, request.limit, after)
            items = [
                threads.shown_missing(entry)
                if entry.row is None
                else self._in_time(expired, entry.row, more=threads.extras(entry))
                for entry in thread.entries
            ]
            # As above.  The last one says where the next page begins.
            return evolve(thread, entries=thread.entries[-1:]), items

        thread, items = await self._lists.run(look)
        last = thread.entries[-1].position if thread.more else None
        notes: dict[str, Any] = {"root": thread.start.hash}
        if thread.start.earlier is not None:
            notes["earlier"] = thread.start.earlier
        return Page(
            items,
            total=thread.total,
            limit=request.limit,
            offset=None,
            next_cursor=None if last is None else write_cursor(subject, (last, 0)),
            counted=thread.counted,
            notes=notes,
        )

    # --- searches ----------------------------------------------------------------

    async def answer_search(self, request: offered.Search) -> Page:
        expression = parse_query(request.q)
        wanted = self._filter(request)
        subject = ["search", request.order, expression, *_subject(wanted)]
        after = _place(request, subject)
        if request.order == "newest":
            return await self._newest(request, expression, wanted, subject, after)
        return await self._best(request, expression, wanted, subject, after)

    async def _newest(
        self,
        request: offered.Search,
        expression: str,
        wanted: Filter,
        subject: Any,
        after: tuple[int, int] | None,
    ) -> Page:
        before = None if after is None else after[0]

        def look(connection: Any, expired: Callable[[], bool]) -> Any:
            found = search.newest_hits(
                connection, expression, wanted, request.limit, request.offset, before
            )
            return found, *self._with_snippets(connection, found.positions, expression, expired)

        found, items, complete = await self._searches.run(look)
        cursor = write_cursor(subject, (found.positions[-1], 0)) if found.more else None
        return Page(
            items,
            total=found.total,
            limit=request.limit,
            offset=None if after is not None else request.offset,
            next_cursor=cursor,
            counted=found.counted,
            notes=_notes(complete),
        )

    async def _best(
        self,
        request: offered.Search,
        expression: str,
        wanted: Filter,
        subject: Any,
        after: tuple[int, int] | None,
    ) -> Page:
        name, start = after if after is not None else (None, request.offset)
        known = None if name is None else self._rankings.find(name)
        end = start + request.limit

        def look(connection: Any, expired: Callable[[], bool]) -> Any:
            ranked = known or search.rank(connection, expression, wanted)
            page = ranked.positions[start:end]
            return ranked, *self._with_snippets(connection, page, expression, expired)

        ranked, items, complete = await self._searches.run(look)
        cursor = None
        if end < len(ranked.positions):
            if name is None:
                name = self._rankings.keep(ranked)
            cursor = write_cursor(subject, (name, end))
        notes = _notes(complete)
        if not ranked.complete:
            notes["ranked_newest"] = len(ranked.positions)
        return Page(
            items,
            total=len(ranked.positions),
            limit=request.limit,
            offset=start,
            next_cursor=cursor,
            counted=ranked.complete,
            notes=notes,
        )

    def _with_snippets(
        self,
        connection: Any,
        positions: Sequence[int],
        expression: str,
        expired: Callable[[], bool],
    ) -> tuple[list[msgspec.Raw], bool]:
        """@return: what is shown of the hits, and whether the index of words is complete."""
        rows: list[Row] = search.messages_at(connection, positions)
        why = search.snippets(rows, expression, expired)
        items = [self._in_time(expired, *pair) for pair in zip(rows, why, strict=True)]
        return items, search.reindex_complete(connection)


def _notes(complete: bool) -> dict[str, Any]:
    return {} if complete else {"index_complete": False}


def _filter(request: Any, **fields: Any) -> Filter:
    """What a request asks for.  Which fields it has depends on the operation."""
    for name in ("content_type", "tag", "relates"):
        value = getattr(request, name, None)
        if value is not None:
            fields[name] = value
    for name in ("author", "not_author"):
        text = getattr(request, name, None)
        if text is not None:
            fields[name] = PublicKey.parse(text).raw
    for name in ("since", "until"):
        text = getattr(request, name, None)
        if text is not None:
            try:
                fields[f"{name}_ns"] = parse_timestamp(text)[1]
            except MalformedMessage as e:
                raise InvalidRequest(f"{name}: {e}", field=name) from None
    return Filter(**fields)


def _subject(wanted: Filter) -> list[Any]:
    return [
        wanted.author and wanted.author.hex(),
        wanted.not_author and wanted.not_author.hex(),
        wanted.content_type,
        wanted.tag,
        wanted.relates,
        wanted.since_ns,
        wanted.until_ns,
    ]


def _place(request: Any, subject: Any) -> tuple[int, int] | None:
    """Where a request goes on."""
    if request.cursor is None:
        return None
    if request.offset:
        raise InvalidRequest("give a cursor or an offset, not both", field="offset")
    return read_cursor(subject, request.cursor)
