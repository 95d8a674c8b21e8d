"""The part C{feed}: ties the message format to the database and to the doors."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from functools import partial
from typing import Annotated, Any, Final

import msgspec
from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.errors import (
    ConfigError,
    FeedError,
    IdentityError,
    InvalidRequest,
    KeyReused,
    LimitReached,
    MeshkitError,
    NotFound,
    UnexpectedMessage,
)
from meshkit.feed import acceptance, repeats, schema_registry, search, store
from meshkit.feed import operations as offered
from meshkit.feed.advice import Advice, Judge, shortened
from meshkit.feed.blocking import Blocks
from meshkit.feed.canonical import Prepared, prepare_content, prepare_content_text
from meshkit.feed.chain import Verdict
from meshkit.feed.closings import list_closings
from meshkit.feed.follow import follow, newest_position, read_arrivals
from meshkit.feed.forgetting import Forgetting
from meshkit.feed.intake import Checked, Intake, Queue
from meshkit.feed.limits import Amount, Limits
from meshkit.feed.lookups import Lookups
from meshkit.feed.message import Message, check_hash, parse_message, sign_message, verify_message
from meshkit.feed.outbox import Entry, Outbox, Outcome
from meshkit.feed.own import OwnFeed
from meshkit.feed.presenter import Presenter
from meshkit.feed.repeats import Before, Named
from meshkit.feed.retention import Policy
from meshkit.feed.rotation import Rotation
from meshkit.feed.sealing import Form, seal_content
from meshkit.feed.store import MIGRATIONS as MIGRATIONS
from meshkit.feed.transfer import Transfer
from meshkit.identity.keys import Identity, PublicKey, Verify
from meshkit.interfaces import (
    Arrivals,
    FeedRotated,
    ForkProof,
    ForkProven,
    Frontier,
    Gap,
    IAdvisesAgents,
    IFeedStore,
    IMetrics,
    MessagesStored,
    Retention,
)
from meshkit.operations import Advised, BoundOperation, Item, Operation
from meshkit.parts import Part, PartContext, shield
from meshkit.runtime.metrics import CODES

#: Calls in the worker pool at a time that check what others sent, for each thread: one
#: that is made and one that follows at once.
CALLS_PER_THREAD: Final = 2

_ANY_SIZE: Final = 2**40


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section C{[feed]}."""

    verify_batch: Annotated[
        int,
        msgspec.Meta(ge=16, le=1000, description="messages verified per call into a worker thread"),
    ] = 64
    witnesses: Annotated[
        int,
        msgspec.Meta(
            ge=1,
            le=64,
            description="peers that show how far they have this node's feed before it is written "
            "again after a restore",
        ),
    ] = 2
    schemas: Annotated[
        schema_registry.Mode,
        msgspec.Meta(
            description="refuse to publish what does not fit its JSON Schema (strict), or warn "
            "(lenient)"
        ),
    ] = "lenient"
    search_seconds: Annotated[
        float,
        msgspec.Meta(ge=0.05, le=60, description="how long a list or a search may take"),
    ] = 3.0
    block: Annotated[
        tuple[str, ...],
        msgspec.Meta(description="id with which this node has nothing to do"),
    ] = ()
    max_author_messages: Annotated[
        int, msgspec.Meta(ge=0, description="messages that are stored of one author; 0: any number")
    ] = 0
    max_author_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=0, description="bytes that are stored of one author; 0: any", extra={"size": True}
        ),
    ] = 2 * 2**30
    max_messages: Annotated[
        int, msgspec.Meta(ge=0, description="messages that are stored in all; 0: any number")
    ] = 0
    max_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=0, description="bytes that are stored in all; 0: any", extra={"size": True}
        ),
    ] = 16 * 2**30
    retention_interval: Annotated[
        float, msgspec.Meta(ge=1, le=86_400 * 7, description="seconds between runs of retention")
    ] = 3_600.0
    retention_expiry: Annotated[
        bool, msgspec.Meta(description="empty messages that have expired")
    ] = True
    retention_age: Annotated[
        float,
        msgspec.Meta(
            ge=0, le=9e9, description="empty messages older than so many seconds; 0: none"
        ),
    ] = 0.0
    retention_author_messages: Annotated[
        int, msgspec.Meta(ge=0, description="keep so many messages of each author; 0: all")
    ] = 0
    retention_author_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=0,
            description="keep so many bytes of text of each author; 0: all",
            extra={"size": True},
        ),
    ] = 0
    retention_messages: Annotated[
        int, msgspec.Meta(ge=0, description="keep so many messages in all; 0: all")
    ] = 0
    retention_bytes: Annotated[
        int,
        msgspec.Meta(
            ge=0, description="keep so many bytes of text in all; 0: all", extra={"size": True}
        ),
    ] = 0
    retention_own: Annotated[
        bool, msgspec.Meta(description="retention is for this node's own feed as well")
    ] = False

    @property
    def limits(self) -> Limits:
        return Limits(
            self.max_author_messages, self.max_author_bytes, self.max_messages, self.max_bytes
        )

    @property
    def policy(self) -> Policy:
        return Policy(
            self.retention_expiry,
            int(self.retention_age * 1e9),
            self.retention_author_messages,
            self.retention_author_bytes,
            self.retention_messages,
            self.retention_bytes,
            self.retention_own,
        )


def check_texts(
    raws: Sequence[bytes],
    author: bytes | None = None,
    first: int | None = None,
    verify: Verify = PublicKey.verifies,
) -> list[Message | MeshkitError]:
    """
    Parse and verify texts; runs in a worker thread.

    @param author: see L{IFeedStore.ingest}.
    @param first: likewise.
    @param verify: of their signatures.
    @return: per text, the message or why it is none.
    """
    checked: list[Message | MeshkitError] = []
    for number, raw in enumerate(raws):
        try:
            message = parse_message(raw)
            if author is not None and message.author.raw != author:
                raise UnexpectedMessage(
                    f"a message of {message.author.text} came in place of one of "
                    f"{PublicKey(author).text}"
                )
            if first is not None and message.sequence != first + number:
                raise UnexpectedMessage(
                    f"message {message.sequence} of {message.author.text} came in place of "
                    f"message {first + number}"
                )
            verify_message(message, verify)
            checked.append(message)
        except FeedError as e:
            checked.append(e)
    return checked


def prepare_texts(
    texts: Sequence[bytes],
    before: int,
    problem: Callable[[Any, str | None], str | None] = lambda content, schema_id: None,
) -> list[tuple[Prepared, str | None]]:
    """
    Make contents ready to be signed; runs in a worker thread.

    @param before: how many of the batch come before these.
    @param problem: see L{Schemas.problem}.
    @return: each with what its publisher should know of it.
    @raise FeedError: saying which of the many cannot be published.
    """
    contents = []
    for number, text in enumerate(texts, before + 1):
        try:
            content = prepare_content_text(text)
            warning = problem(content.value, None)
        except FeedError as e:
            raise type(e)(f"message {number} of the batch: {e}", **(e.details or {})) from e
        contents.append((content, warning and f"message {number}: {warning}"))
    return contents


@implementer(IFeedStore, IAdvisesAgents)
class FeedPart(Part):
    """
    This node's feeds.

    @ivar refused: how many received messages were refused, by error code.
    """

    _log = Logger()

    def __init__(self, context: PartContext) -> None:
        self._identity: Identity = context.identity
        self._database = context.database
        self._workers = context.workers
        self._events = context.events
        self._rng = context.rng
        self._wall_clock: Callable[[], int] = context.wall_clock
        self._verify_batch: int = context.config.verify_batch
        self._check_texts = partial(check_texts, verify=context.verify)
        self._limits: Limits = context.config.limits
        self._amount = Amount()
        self._feeds = 0
        self._added: Counter[str] = Counter(own=0, others=0)
        # Position of the last message of which everybody here has been told.
        self._announced = 0
        self._forked: set[bytes] = set()
        self._schemas = schema_registry.Schemas(
            self._database, self._wall_clock, context.config.schemas
        )
        self._presenter = Presenter(self._identity, self._schemas)
        self._blocks = Blocks(
            self._database,
            self._wall_clock,
            self._identity.public,
            _blocked_keys(context.config.block),
            self._events.publish,
        )
        self._forgetting = Forgetting(
            context.reactor,
            self._database,
            self._wall_clock,
            self._identity.public,
            context.config.policy,
            context.config.retention_interval,
            self._limits,
            self._count,
            self._events.publish,
        )
        self._lookups = Lookups(
            self._database,
            self._identity.public,
            context.reactor.seconds,
            context.rng,
            context.config.search_seconds,
            self._presenter.show,
            lambda: bool(self._blocks),
        )
        self._checking = Queue(self._workers.run, CALLS_PER_THREAD * self._workers.size)
        self._intake = Intake(self._store)
        seconds: Callable[[], float] = context.reactor.seconds
        self._outbox = Outbox(self._write_own, seconds, self._measure(context.metrics))
        self._advice = Advice(self._checking.run)
        self._own = OwnFeed(
            context.reactor, self._database, self._identity.public, context.config.witnesses
        )
        self._transfer = Transfer(self._database, self.ingest)
        self.refused: Counter[str] = Counter()

    def _measure(self, metrics: IMetrics) -> Callable[[float, float], None]:
        """@return: see L{Outbox}."""
        metrics.gauge("messages", "Messages that are stored.", lambda: self._amount.stored)
        metrics.gauge("feeds", "Feeds of which something is stored.", lambda: self._feeds)
        metrics.gauge("forked", "Feeds that are forked.", lambda: len(self._forked))
        metrics.gauge("stored_bytes", "Bytes of stored messages.", lambda: self._amount.size)
        metrics.gauge("waiting", "Entries that wait to be published.", lambda: self._outbox.waiting)
        metrics.count(
            "refused_total",
            "Messages of others that were refused.",
            lambda: self.refused,
            code=CODES,
        )
        metrics.count(
            "stored_total",
            "Messages that were stored, by whose they are.",
            lambda: self._added,
            origin=("own", "others"),
        )
        queue = metrics.histogram(
            "publish_queue_seconds", "How long what is published waits for the job before it."
        )
        commit = metrics.histogram(
            "publish_commit_seconds", "How long signing and storing what is published takes."
        )

        def took(waiting: float, writing: float) -> None:
            queue.observe(waiting)
            commit.observe(writing)

        return took

    # --- the service -------------------------------------------------------------

    def startService(self) -> Deferred[None]:
        super().startService()
        return Deferred.fromCoroutine(self._load())

    async def _load(self) -> None:
        self._amount, self._feeds, forked = await self._database.read(store.count_all)
        self._announced = await self._database.read(newest_position)
        self._forked = set(forked)
        await self._blocks.load()
        await self._own.load()
        await self._schemas.load()
        self._lookups.start()
        self._forgetting.start()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._own.stop()
        return Deferred.fromCoroutine(self._finish())

    async def _finish(self) -> None:
        forgetting = self._forgetting.stop()
        await self._lookups.stop()
        await forgetting

    def status(self) -> offered.FeedStatus:
        return offered.FeedStatus(
            messages=self._amount.stored,
            feeds=self._feeds,
            forked=len(self._forked),
            refused=dict(sorted(self.refused.items())),
            read_only=self._own.status(),
            gone=self._amount.stored - self._amount.texts,
            bytes=self._amount.size,
            forgotten=self._forgetting.forgotten,
            blocked=len(self._blocks),
        )

    def advice(self) -> list[str]:
        """See L{IAdvisesAgents}."""
        if self._own.status() is None:
            return []
        return [
            "This node's own feed is read-only now, so that nothing can be published: feed_own "
            "says why, and until when. Whether it is unlocked is for your owner to say."
        ]

    # --- IFeedStore ----------------------------------------------------------------

    def publish(
        self,
        content: Any,
        *,
        schema_id: str | None = None,
        relates: str | None = None,
        tags: Sequence[str] = (),
        trace_id: str | None = None,
        span_id: str | None = None,
        expires_at: str | None = None,
        recipients: Sequence[str] = (),
        form: Form = "own",
    ) -> Deferred[Message]:
        async def published() -> Message:
            messages = await self._publish_one(
                partial(prepare_content, content),
                [],
                recipients,
                form,
                schema_id=schema_id,
                relates=relates,
                tags=tuple(tags),
                trace_id=trace_id,
                span_id=span_id,
                expires_at=expires_at,
            )
            assert isinstance(messages, list)
            return messages[0]

        return Deferred.fromCoroutine(published())

    async def _publish_one(
        self,
        prepare: Callable[[], Prepared],
        warnings: list[str],
        recipients: Sequence[str],
        form: Form,
        *,
        named: Named | None = None,
        schema_id: str | None,
        relates: str | None,
        **fields: Any,
    ) -> list[Message] | Before:
        """
        @param warnings: to which is added what the publisher should know.
        @param named: the request, if it may come again.
        @param fields: others of L{sign_message}.
        @return: the one message; or what came of the request before.
        """
        if relates is not None:
            check_hash(relates, "relates")
        content = prepare()
        if self._schemas.concerns(content.value, schema_id):
            problem = await self._checking.run(self._schemas.problem, content.value, schema_id)
            if problem is not None:
                warnings.append(problem)
        if recipients:
            content, schema_id = seal_content(
                self._identity, recipients, content, schema_id, form, self._rng
            )
        sign = partial(sign_message, self._identity, schema_id=schema_id, relates=relates, **fields)
        return await self._append([content], sign, named, warnings)

    def _append(
        self,
        contents: Sequence[Prepared],
        sign: Callable[..., Message],
        named: Named | None,
        warnings: Sequence[str],
    ) -> Deferred[list[Message] | Before]:
        """
        @return: see L{Outbox.add}.  Cancelling only forgets the wish to be told.
        @raise FeedReadOnly: if the own feed must not be written now.
        """
        self._own.check()
        return shield(self._outbox.add(contents, sign, named, tuple(warnings)))

    def _write_own(self, entries: Sequence[Entry]) -> Deferred[list[Outcome]]:
        return Deferred.fromCoroutine(self._write_entries(entries))

    async def _write_entries(self, entries: Sequence[Entry]) -> list[Outcome]:
        """
        Number, sign and store: all on the writer thread in one savepoint, so that two
        publishers can never be given the same sequence number.
        """

        def job(connection: Any) -> tuple[list[Outcome], store.Stored]:
            now_ns = self._wall_clock()
            tail = self._own.tail(connection)
            room = store.OwnRoom(self._limits, store.total(connection))
            outcomes: list[Outcome] = []
            together: list[Message] = []
            for entry in entries:
                outcome = _outcome(connection, entry, tail, now_ns)
                if isinstance(outcome, list):
                    try:
                        room = room.take(outcome)
                    except LimitReached as e:
                        outcome = e
                if isinstance(outcome, list):
                    together.extend(outcome)
                    tail = outcome[-1].sequence, outcome[-1].hash
                    if entry.named is not None:
                        repeats.remember(connection, entry.named, outcome, entry.warnings, now_ns)
                outcomes.append(outcome)
            return outcomes, store.append_own(connection, together, now_ns)

        outcomes: list[Outcome]
        outcomes, stored = await self._database.write(job)
        self._announce(stored, local=True)
        full = any(isinstance(outcome, LimitReached) for outcome in outcomes)
        self._forgetting.stored(self._amount, [self._identity.public.raw] if full else [])
        return outcomes

    def ingest(
        self,
        raw_messages: Sequence[bytes],
        *,
        author: bytes | None = None,
        first: int | None = None,
    ) -> Deferred[list[Verdict]]:
        return shield(self._ingest(list(raw_messages), author, first))

    async def _ingest(
        self, raws: list[bytes], author: bytes | None, first: int | None
    ) -> list[Verdict]:
        step = self._verify_batch
        checking = Deferred.fromCoroutine(
            _joined(
                self._checking.run(
                    self._check_texts,
                    raws[at : at + step],
                    author,
                    None if first is None else first + at,
                )
                for at in range(0, len(raws), step)
            )
        )
        return await self._intake.add(checking)

    def _store(self, checked: Checked) -> Deferred[list[Verdict]]:
        return Deferred.fromCoroutine(self._store_checked(checked))

    async def _store_checked(self, checked: Checked) -> list[Verdict]:
        now_ns = self._wall_clock()
        stored: store.Stored = await self._database.write(
            lambda connection: store.store_batch(
                connection, checked, now_ns, self._identity.public.raw, self._limits
            )
        )
        full: dict[bytes, None] = {}
        for verdict in stored.verdicts:
            if verdict.error is not None:
                self.refused[verdict.error.code] += 1
                if isinstance(verdict.error, LimitReached) and verdict.author is not None:
                    full[verdict.author] = None
        self._announce(stored, local=False)
        self._forgetting.stored(self._amount, full)
        return stored.verdicts

    def _count(self, more: Amount) -> None:
        self._amount += more

    def _announce(self, stored: store.Stored, *, local: bool) -> None:
        self._count(stored.amount)
        self._feeds += stored.feeds
        self._own.stored(stored, local=local)
        origin = "own" if local else "others"
        for author, contiguous, messages in stored.added:
            self._added[origin] += len(messages)
            if not local:
                size = sum(len(message.raw) for message in messages)
                self._forgetting.came(author, len(messages), size)
            for message in messages[-1:]:
                self._announced = max(self._announced, message.position)
            self._events.publish(MessagesStored(author, contiguous, local, messages))
        for author, sequence in stored.forks:
            self._forked.add(author)
            self._log.warn(
                "the feed of {author} is forked: two messages {sequence} were signed",
                author=PublicKey(author).text,
                sequence=sequence,
            )
            self._events.publish(ForkProven(author, sequence))
        for rotation in stored.rotations:
            self._log.info(
                "the feed of {old} has ended: its author goes on as {new}",
                old=rotation.old.text,
                new=rotation.new.text,
            )
            self._events.publish(_rotated(rotation))

    def heads(
        self, authors: Sequence[bytes] | None = None, after: bytes = b"", limit: int = 1000
    ) -> Deferred[list[tuple[bytes, int]]]:
        result: Deferred[list[tuple[bytes, int]]] = self._database.read(
            lambda connection: store.list_heads(connection, authors, after, limit)
        )
        return result

    def frontier(
        self, authors: Sequence[bytes] | None = None, after: bytes = b"", limit: int = 1000
    ) -> Deferred[list[Frontier]]:
        result: Deferred[list[Frontier]] = self._database.read(
            lambda connection: store.list_frontier(connection, authors, after, limit)
        )
        return result

    def fork_proof(self, author: bytes) -> Deferred[ForkProof | None]:
        result: Deferred[ForkProof | None] = self._database.read(
            lambda connection: store.fork_proof(connection, author)
        )
        return result

    def ingest_proof(self, one: bytes, other: bytes) -> Deferred[bool]:
        return shield(self._ingest_proof(one, other))

    async def _ingest_proof(self, one: bytes, other: bytes) -> bool:
        now_ns = self._wall_clock()
        messages = []
        for checked in await self._checking.run(self._check_texts, (one, other)):
            if isinstance(checked, MeshkitError):
                raise checked
            messages.append(checked)
        first, second = messages
        stored: store.Stored = await self._database.write(
            lambda connection: store.prove_fork(connection, first, second, now_ns)
        )
        self._announce(stored, local=False)
        return bool(stored.forks)

    def rotations(
        self, successor: bytes | None = None, after: bytes = b"", limit: int = 1000
    ) -> Deferred[list[FeedRotated]]:
        result: Deferred[list[FeedRotated]] = self._database.read(
            lambda connection: [*map(_rotated, list_closings(connection, successor, after, limit))]
        )
        return result

    def note_own_seen(self, peer: bytes, sequence: int) -> Deferred[None]:
        return self._own.seen(peer, sequence)

    def read(
        self, author: bytes, after: int, max_bytes: int, max_messages: int
    ) -> Deferred[list[bytes]]:
        result: Deferred[list[bytes]] = self._database.read(
            lambda connection: store.read_chain(connection, author, after, max_bytes, max_messages)
        )
        return result

    def arrivals(self, after: int, max_messages: int, max_bytes: int) -> Deferred[Arrivals]:
        result: Deferred[Arrivals] = self._database.read(
            lambda connection: read_arrivals(connection, after, max_messages, max_bytes)
        )
        return result

    def parting(
        self, heads: Sequence[tuple[bytes, int, bytes]]
    ) -> Deferred[list[tuple[bytes, int]]]:
        result: Deferred[list[tuple[bytes, int]]] = self._database.read(
            lambda connection: store.parting(connection, heads)
        )
        return result

    def gone_until(self, author: bytes, after: int) -> Deferred[Gap | None]:
        result: Deferred[Gap | None] = self._database.read(
            lambda connection: store.gone_until(connection, author, after)
        )
        return result

    def skip(self, author: bytes, until: int, head: bytes) -> Deferred[bool]:
        return shield(self._skip(author, until, head))

    async def _skip(self, author: bytes, until: int, head: bytes) -> bool:
        now_ns = self._wall_clock()
        contiguous: int | None = await self._database.write(
            lambda connection: store.skip(connection, author, until, head, now_ns)
        )
        if contiguous is None:
            return False
        self._log.info(
            "messages of {author} up to {until} are kept by nobody: the feed goes on without them",
            author=PublicKey(author).text,
            until=until,
        )
        self._events.publish(MessagesStored(author, contiguous, False, ()))
        return True

    def authors_with_tags(
        self, tags: Sequence[str], after: bytes = b"", limit: int = 1000
    ) -> Deferred[list[bytes]]:
        result: Deferred[list[bytes]] = self._database.read(
            lambda connection: search.authors_with_tags(connection, tags, after, limit)
        )
        return result

    def tagged_message(self, author: bytes, tags: Sequence[str]) -> Deferred[bytes | None]:
        result: Deferred[bytes | None] = self._database.read(
            lambda connection: search.tagged_message(connection, author, tags)
        )
        return result

    def is_blocked(self, author: bytes) -> bool:
        return author in self._blocks

    def retain(self, retention: Retention) -> None:
        self._forgetting.within(retention)

    def forget(self, author: bytes) -> Deferred[int]:
        async def forget() -> int:
            emptied = await self._forgetting.forget_unwanted(PublicKey(author))
            return emptied.messages

        return shield(forget())

    def refused_by_egregore(self, raw: bytes) -> str | None:
        return acceptance.refusal(raw)

    def advise(self, judge: Judge, told: Callable[[int], None]) -> Callable[[], None]:
        return self._advice.add(judge, told)

    # --- the doors -------------------------------------------------------------------

    def operations(self) -> Sequence[BoundOperation]:
        return (
            BoundOperation(offered.PUBLISH, self._answer_publish),
            BoundOperation(offered.PUBLISH_BATCH, self._answer_publish_batch),
            BoundOperation(offered.LIST, self._lookups.answer_list),
            BoundOperation(offered.AUTHOR, self._lookups.answer_author),
            BoundOperation(offered.INSIGHTS, self._lookups.answer_insights),
            BoundOperation(offered.SEARCH, self._lookups.answer_search),
            BoundOperation(offered.THREAD, self._lookups.answer_thread),
            BoundOperation(offered.MESSAGE, self._answer_message),
            BoundOperation(offered.SCHEMAS, self._schemas.answer_list),
            BoundOperation(offered.SCHEMA, self._schemas.answer_show),
            BoundOperation(offered.SCHEMA_ADD, self._schemas.answer_add),
            BoundOperation(offered.SCHEMA_REMOVE, self._schemas.answer_remove),
            BoundOperation(offered.OWN, self._own.answer_own),
            BoundOperation(offered.UNLOCK, self._own.answer_unlock),
            BoundOperation(offered.EVENTS, self._answer_events),
            BoundOperation(offered.BLOCKS, self._blocks.answer_list),
            BoundOperation(offered.BLOCK, self._blocks.answer_block),
            BoundOperation(offered.UNBLOCK, self._blocks.answer_unblock),
            BoundOperation(offered.RETENTION_PLAN, self._forgetting.answer_plan),
            BoundOperation(offered.RETENTION_RUN, self._forgetting.answer_run),
            BoundOperation(offered.FORGET, self._forgetting.answer_forget),
            BoundOperation(offered.EXPORT, self._transfer.answer_export),
            BoundOperation(offered.IMPORT, self._transfer.answer_import),
        )

    async def _answer_publish(self, request: offered.Publish) -> msgspec.Raw | Advised:
        if request.form != "own" and not request.recipients:
            raise InvalidRequest("a sealed form needs recipients", field="form")
        named = _named(offered.PUBLISH, request)
        before = await self._before(named)
        if before is not None:
            return await self._publish_again(before)
        warnings: list[str] = []
        published = await self._publish_one(
            partial(prepare_content_text, bytes(request.content)),
            warnings,
            request.recipients,
            request.form,
            named=named,
            schema_id=request.schema_id,
            relates=request.relates,
            tags=tuple(request.tags),
            trace_id=request.trace_id,
            span_id=request.span_id,
            expires_at=request.expires_at,
        )
        if isinstance(published, Before):
            # It was asked for twice at the same time.
            return await self._publish_again(published)
        (message,) = published
        # The row as it was committed just now, without reading it back.
        row = store.Row(message.raw, chain_valid=True)
        warnings += await self._advice.about([message.raw])
        shown = self._presenter.show(row)
        return Advised(shown, warnings) if warnings else shown

    async def _before(self, named: Named | None) -> Before | None:
        """
        What came of a request before, whatever keeps others from being published now.

        @raise KeyReused: if its key belongs to another one.
        """
        if named is None:
            return None
        now_ns = self._wall_clock()
        before: Before | None = await self._database.read(
            lambda connection: repeats.find(connection, named, now_ns)
        )
        return before

    async def _publish_again(self, before: Before) -> msgspec.Raw | Advised:
        row = await self._find_message(before.last_hash)
        warnings = before.warnings + await self._advice.about([row.raw])
        shown = self._presenter.show(row)
        return Advised(shown, warnings) if warnings else shown

    async def _publish_batch_again(self, before: Before) -> offered.Published | Advised:
        first = before.last - before.count + 1
        published = offered.Published(before.count, first, before.last, before.last_hash.hex())

        def read(connection: Any) -> list[bytes]:
            place = store.place_by_hash(connection, before.last_hash)
            if place is None:
                return []
            # As many as came in one request.
            return store.read_chain(connection, place[0], first - 1, _ANY_SIZE, before.count)

        raws = await self._database.read(read)
        warnings = before.warnings + await self._advice.about(raws)
        return Advised(published, warnings) if warnings else published

    async def _answer_publish_batch(
        self, request: offered.PublishBatch
    ) -> offered.Published | Advised:
        named = _named(offered.PUBLISH_BATCH, request)
        before = await self._before(named)
        if before is not None:
            return await self._publish_batch_again(before)
        texts = [bytes(text) for text in request.contents]
        step = self._verify_batch
        pieces: list[tuple[Prepared, str | None]] = await _joined(
            self._workers.run(prepare_texts, texts[at : at + step], at, self._schemas.problem)
            for at in range(0, len(texts), step)
        )
        contents = [content for content, _ in pieces]
        warnings = shortened(problem for _, problem in pieces if problem is not None)
        sign = partial(sign_message, self._identity)
        messages = await self._append(contents, sign, named, warnings)
        if isinstance(messages, Before):
            return await self._publish_batch_again(messages)
        published = offered.Published(
            count=len(messages),
            first=messages[0].sequence,
            last=messages[-1].sequence,
            last_hash=messages[-1].hash,
        )
        warnings += await self._advice.about([message.raw for message in messages])
        return Advised(published, warnings) if warnings else published

    def _answer_events(self, request: offered.Events) -> AsyncGenerator[Item, None]:
        author = None if request.author is None else PublicKey.parse(request.author).raw
        wanted = search.Filter(
            author=author,
            content_type=request.content_type,
            tag=request.tag,
            hide_blocked=author is None,
        )
        return follow(
            self._database.read,
            self._events.subscribe,
            wanted,
            # Not what is newest in the store: that is seen before it is announced here.
            self._announced if request.after is None else request.after,
            self._presenter.show,
        )

    async def _answer_message(self, request: offered.MessageByHash) -> msgspec.Raw:
        return self._presenter.show(await self._find_message(bytes.fromhex(request.hash)))

    async def _find_message(self, digest: bytes) -> store.Row:
        """@raise NotFound: if it is not stored, or not any more."""

        def look(connection: Any) -> tuple[store.Row | None, tuple[bytes, int] | None]:
            row = store.message_by_hash(connection, digest)
            return row, None if row is not None else store.place_by_hash(connection, digest)

        row: store.Row | None
        row, place = await self._database.read(look)
        if row is not None:
            return row
        if place is not None:
            author, sequence = place
            raise NotFound(
                f"message {sequence} of {PublicKey(author).text} is not kept any more: it has "
                f"expired, or retention has emptied it"
            )
        raise NotFound(f"no message with hash {digest.hex()} is stored here")


def _blocked_keys(texts: Sequence[str]) -> list[PublicKey]:
    """@raise ConfigError: if one of the setting's values is no id."""
    keys = []
    for text in texts:
        try:
            keys.append(PublicKey.parse(text))
        except IdentityError as e:
            raise ConfigError(f"feed.block: {e}") from None
    return keys


def _named(operation: Operation, request: offered.Publish | offered.PublishBatch) -> Named | None:
    """What a request is remembered by, if it has a key: its texts count as they are spelt."""
    if request.idempotency_key is None:
        return None
    told = msgspec.structs.replace(request, idempotency_key=None)
    return Named.of(request.idempotency_key, msgspec.json.encode([operation.name, told]))


def _rotated(rotation: Rotation) -> FeedRotated:
    return FeedRotated(rotation.old.raw, rotation.new.raw, rotation.sequence)


def _outcome(connection: Any, entry: Entry, tail: tuple[int, str | None], now_ns: int) -> Outcome:
    """What becomes of an entry, if it has not been written before."""
    if entry.named is not None:
        try:
            before = repeats.find(connection, entry.named, now_ns)
        except KeyReused as e:
            return e
        if before is not None:
            return before
    return _signed(entry, tail, now_ns)


def _signed(entry: Entry, tail: tuple[int, str | None], now_ns: int) -> list[Message] | Exception:
    """The messages of an entry, which follow a sequence number and its hash."""
    sequence, previous = tail
    messages: list[Message] = []
    try:
        for content in entry.contents:
            sequence += 1
            message = entry.sign(
                sequence=sequence, previous=previous, timestamp_ns=now_ns, content=content
            )
            messages.append(message)
            previous = message.hash
    except Exception as e:
        # Its publisher's alone: the others of the job get theirs.
        return e
    return messages


async def _joined(pending: Iterable[Deferred[list[Any]]]) -> list[Any]:
    """The lists that several Deferreds give, one after the other; the first error of any."""
    # Every one of them is waited for by this, so that no second error is left unhandled.
    gathered = gatherResults(pending, consumeErrors=True).addErrback(_unwrapped)
    return [item for part in await gathered for item in part]


def _unwrapped(failure: Failure) -> Failure:
    error = failure.value
    return error.subFailure if isinstance(error, FirstError) else failure


def make_part(context: PartContext) -> FeedPart:
    return FeedPart(context)
