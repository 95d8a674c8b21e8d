"""
The part C{mailbox}: leaves sealed messages for others at relays, and takes out those that others
have left for this node.

Mailboxes are opened at the relays of the setting C{relays} (L{meshkit.interfaces.IRelays}); without
any, messages can be sent and none can come.  What was handed over is on the disk before anybody is
told so (L{meshkit.relay.mailbox.outbox}), and what was taken is before the relay is
(L{meshkit.relay.mailbox.letters}).

The latest prekey is published at each of these relays and, under the salt C{mailbox}, in the hash
table, if there is one.
"""

from __future__ import annotations

import base64
import binascii
import os
import sqlite3
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta
from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall, IStreamClientEndpoint
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from meshkit.errors import (
    InvalidPublicKey,
    InvalidRequest,
    MailboxError,
    MailboxMessageEarly,
    MailboxMessageInvalid,
    MeshkitError,
    NotFound,
    NotReady,
)
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import (
    IAdvisesAgents,
    IFeedStore,
    IHashTable,
    IMetrics,
    IRelays,
    NodeWoke,
    Relay,
)
from meshkit.operations import BoundOperation, Nothing
from meshkit.parts import Part, PartContext, shield
from meshkit.relay.mailbox import operations as offered
from meshkit.relay.mailbox.collecting import Collected, collect
from meshkit.relay.mailbox.courier import SALT, Courier, said
from meshkit.relay.mailbox.inbox import Inbox, lacking, note_stations
from meshkit.relay.mailbox.keeping import FILE, turn_ring
from meshkit.relay.mailbox.letters import (
    Letter,
    LetterLimits,
    LetterTotals,
    keep_letter,
    letter_totals,
    list_letters,
    read_letter,
    remove_letter,
)
from meshkit.relay.mailbox.outbox import (
    Draft,
    Posted,
    forget_posted,
    list_posted,
    post,
    waiting_count,
)
from meshkit.relay.mailbox.prekeys import (
    MAX_RELAYS,
    Prekey,
    PrekeyRing,
    RelayPlace,
    fallback_id,
)
from meshkit.relay.mailbox.schema import MIGRATIONS as MIGRATIONS
from meshkit.relay.mailbox.sealing import MAX_BODY, MESSAGE_ID_BYTES, MailboxMessage
from meshkit.relay.mailbox.stations import Station
from meshkit.relay.mailbox.wire import LABEL, VERSION
from meshkit.rpc.links import LinkProtocol, Links
from meshkit.runtime.moments import rfc3339

_NS: Final = 10**9
#: Connections to relays at the same time, unless more are in use, and seconds after which one that
#: nobody uses is closed.
_CONNECTIONS: Final = 16
_IDLE: Final = 60.0
#: Seconds between two looks at what is to be turned or forgotten.
_UPKEEP: Final = 3_600.0
#: Seconds before the prekey is published again that nobody took.
_PUBLISH_PAUSE: Final = 10.0
#: Characters of a message that are shown in a list.
_PREVIEW: Final = 100


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section C{[mailbox]}."""

    max_letters: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="messages that are kept here; what comes when there are so many waits at "
            "the relays",
        ),
    ] = LetterLimits().letters
    max_bytes: Annotated[
        int,
        Meta(
            ge=MAX_BODY,
            le=64 * 2**30,
            description="bytes of them, likewise",
            extra={"size": True},
        ),
    ] = LetterLimits().bytes

    def limits(self) -> LetterLimits:
        """@return: the same, as they are enforced."""
        return LetterLimits(self.max_letters, self.max_bytes)


class _Totals(msgspec.Struct, frozen=True):
    """What there is, as far as it was written."""

    letters: LetterTotals
    waiting: int


@implementer(IAdvisesAgents)
class MailboxPart(Part):
    """
    See the module.

    @ivar courier: leaves messages at relays.
    @ivar stations: our mailboxes, one at each relay of ours.
    """

    _log = Logger()

    def __init__(self, context: PartContext) -> None:
        self._context = context
        config: Config = context.config
        self._limits = config.limits()
        self._blocks = context.find(IFeedStore)
        self._table = context.find(IHashTable)
        self._relays = context.find(IRelays)
        # Beside the node's other secrets.
        self._file = os.path.join(os.path.dirname(context.data_folder), FILE)
        self._ring = PrekeyRing()
        self._ring_turn = DeferredLock()
        self._published: bytes | None = None
        self._publishing: Deferred[None] | None = None
        self._again: IDelayedCall | None = None
        self._upkeep: IDelayedCall | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._totals = _Totals(LetterTotals(), 0)
        self._taken = self._repeated = 0
        # Of our relays: when the mailbox was looked into last, and what was not in it.
        self._looked: dict[PublicKey, int] = {}
        self._lacks: dict[PublicKey, int] = {}
        # By the codes of errors, which are few; of what is refused, how much the log has.
        self._refused: dict[str, int] = {}
        self._told_of: dict[str, int] = {}
        self._quiet_until: dict[str, float] = {}
        self._begin()
        self._measure(context.metrics)

    def _begin(self) -> None:
        """Make what does not live longer than from a start to a stop."""
        context = self._context
        self._links: Links[Relay] = Links(
            context.reactor,
            self._endpoint,
            lambda relay: relay.address.key,
            most=_CONNECTIONS,
            idle_seconds=_IDLE,
        )
        self.courier = Courier(
            context.reactor,
            context.identity,
            context.database,
            self._links,
            own_relays=self._own_relays,
            table=self._table,
            rng=context.rng,
            wall_clock=context.wall_clock,
            changed=self._changed,
        )
        self.stations = [
            Station(
                context.reactor,
                relay,
                self._links,
                prekey=self._prekey,
                collect=self._collect,
                reached=self.courier.hurry,
                rng=context.rng,
            )
            for relay in self._own_relays()
        ]

    def _measure(self, metrics: IMetrics) -> None:
        metrics.gauge("letters", "Messages kept here.", lambda: self._totals.letters.letters)
        metrics.gauge("unread", "Those that were not read.", lambda: self._totals.letters.unread)
        metrics.gauge("letter_bytes", "Bytes of them.", lambda: self._totals.letters.bytes)
        metrics.gauge("waiting", "Messages that no relay has yet.", lambda: self._totals.waiting)
        metrics.gauge(
            "relays_connected",
            "Relays that tell of messages at once.",
            lambda: sum(each.state == "connected" for each in self.stations),
        )
        metrics.gauge(
            "lacking",
            "Messages that came by a relay and not by another, which was to have them.",
            lambda: sum(self._lacks.values()),
        )
        metrics.count("taken_total", "Messages that were taken.", lambda: self._taken)
        metrics.count("repeated_total", "Messages that came again.", lambda: self._repeated)
        metrics.count(
            "refused_total", "Messages that were refused.", lambda: sum(self._refused.values())
        )
        metrics.count(
            "delivered_total", "Messages that a relay has taken.", lambda: self.courier.delivered
        )
        metrics.count(
            "failed_total", "Attempts to leave one that failed.", lambda: self.courier.failed
        )

    def _own_relays(self) -> Sequence[Relay]:
        """Those at which mailboxes are opened: as many as a prekey names."""
        return [] if self._relays is None else list(self._relays.relays())[:MAX_RELAYS]

    async def _endpoint(self, relay: Relay) -> IStreamClientEndpoint:
        if self._relays is None:
            raise NotReady("no relay is used, as the part 'relays' is left out of this node")
        endpoint: IStreamClientEndpoint = self._relays.endpoint(relay, LABEL, VERSION)
        return endpoint

    # --- the service ---------------------------------------------------------------------------

    def startService(self) -> Deferred[None]:
        super().startService()
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        await self._count()
        if self.stations:
            # Before anybody is told of it; and a damaged file is no surprise in a week.
            await self._prekey()
        relays = [each.relay.address.key for each in self.stations]
        now = self._now()
        await self._context.database.write(lambda db: note_stations(db, relays, now))
        self._looked, self._lacks = {}, {}
        self._unsubscribe = self._context.events.subscribe(NodeWoke, self._woke)
        self.courier.start()
        for station in self.stations:
            station.start()
        self._look_after()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        self._stop_publishing()
        # The next start publishes it anew.
        self._published = None
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        if self._upkeep is not None:
            self._upkeep.cancel()
            self._upkeep = None
        for station in self.stations:
            station.stop()
        self.courier.stop()
        closed = self._links.close()
        self._begin()
        return closed

    def _woke(self, event: NodeWoke) -> None:
        for station in self.stations:
            station.begin_anew()
        self.courier.hurry()

    def _look_after(self) -> None:
        self._upkeep = self._context.reactor.callLater(_UPKEEP, self._look_after)
        self._warn_of_refused()
        shield(self._sweep()).addErrback(self._not_swept)

    async def _sweep(self) -> None:
        await self._inbox(self._context.identity.public).sweep(self._now())

    def _not_swept(self, failure: Failure) -> None:
        if failure.check(MeshkitError):
            self._log.warn("old messages are not forgotten: {error}", error=said(failure.value))
        else:
            self._log.failure("forgetting old messages", failure)

    def _now(self) -> int:
        return self._context.wall_clock() // _NS

    # --- the prekey ----------------------------------------------------------------------------

    async def _prekey(self) -> Prekey:
        """
        @return: the one to publish.  It is on the disk.
        @raise MeshkitError: if the file is damaged, or others can read it.
        @raise OSError: if it cannot be written.
        """
        context = self._context
        await self._ring_turn.acquire()
        try:
            # What it would do is found out without the disk, which has to do it once a week.
            if self._ring.turned(self._now(), context.rng) is not self._ring:
                self._ring = await context.workers.run(
                    turn_ring, context.files, self._file, self._now(), context.rng
                )
        finally:
            self._ring_turn.release()
        prekey = self._sign()
        if prekey.raw != self._published:
            self._published = prekey.raw
            self._publish(prekey)
        return prekey

    def _sign(self) -> Prekey:
        places = [
            RelayPlace(relay.address.key, relay.address.place, relay.role == "blind")
            for relay in self._own_relays()
        ]
        return self._ring.sign(self._context.identity, places)

    def _publish(self, prekey: Prekey, pause: float = _PUBLISH_PAUSE) -> None:
        """
        Have it found in the hash table, which goes on publishing it once somebody has it.  Until
        then it is tried again: a node that has just started may know nobody.
        """
        self._stop_publishing()
        if self._table is None or not self.running:
            return
        name = self._context.identity.public.raw + SALT

        def again() -> None:
            self._again = self._context.reactor.callLater(
                pause, self._publish, prekey, min(2 * pause, _UPKEEP)
            )

        def placed(found: Any) -> None:
            if not (found.accepted and found.questions):
                again()

        def failed(failure: Failure) -> None:
            if failure.check(CancelledError):
                return
            if failure.check(MeshkitError):
                self._log.info(
                    "the prekey is only at the relays: {error}", error=said(failure.value)
                )
            else:
                self._log.failure("publishing the prekey", failure)
            again()

        self._publishing = self._table.put("mutable", name, prekey.raw, salt=SALT)
        self._publishing.addCallbacks(placed, failed)

    def _stop_publishing(self) -> None:
        again, self._again = self._again, None
        if again is not None and again.active():
            again.cancel()
        publishing, self._publishing = self._publishing, None
        if publishing is not None:
            publishing.cancel()

    # --- what comes ----------------------------------------------------------------------------

    def _inbox(self, relay: PublicKey) -> Inbox:
        def keep(connection: sqlite3.Connection, message: MailboxMessage) -> None:
            keep_letter(connection, message, relay, self._now(), self._limits)

        return Inbox(self._context.database, keep, given=lambda: (relay, self._now()))

    async def _collect(self, connection: LinkProtocol, relay: Relay) -> Collected:
        context = self._context
        try:
            collected = await collect(
                connection,
                context.identity,
                self._ring,
                self._inbox(relay.address.key),
                wall_clock=context.wall_clock,
                on_refused=self._note_refused,
                wanted=self._wanted,
            )
        except Exception:
            # What was taken before is there.
            await self._count()
            raise
        await self._count()
        await self._compare(relay.address.key)
        self._taken += collected.taken
        self._repeated += collected.repeated
        if collected.early and self._may_warn(MailboxMessageEarly.code):
            self._log.warn(
                "{count} messages in the mailbox at {relay} were made in the future, and are left "
                "there: is the clock here wrong?",
                count=collected.early,
                relay=relay.address.text,
            )
        for code, count in collected.refused.items():
            self._refused[code] = self._refused.get(code, 0) + count
        self._warn_of_refused()
        return collected

    async def _compare(self, looked: PublicKey) -> None:
        """A mailbox was looked into: which messages are in none but the others?"""
        if len(self.stations) < 2:
            return
        self._looked[looked] = self._now()
        known = dict(self._looked)
        self._lacks = await self._context.database.read(lambda db: lacking(db, known))
        for station in self.stations:
            lacks = self._lacks.get(station.relay.address.key, 0)
            if lacks and self._may_warn(f"lacking {station.relay.address.text}"):
                self._log.warn(
                    "{count} messages came by another relay, and not by {relay}",
                    count=lacks,
                    relay=station.relay.address.text,
                )

    def _warn_of_refused(self) -> None:
        # Who fills a mailbox, and a relay that gives the same again, are not to fill the log.
        for code, count in self._refused.items():
            new = count - self._told_of.get(code, 0)
            if new and self._may_warn(f"dropped {code}"):
                self._told_of[code] = count
                self._log.warn(
                    "{count} messages in mailboxes are dropped: {code}", count=new, code=code
                )

    def _may_warn(self, what: str) -> bool:
        """Once an hour."""
        now = self._context.reactor.seconds()
        if now < self._quiet_until.get(what, now):
            return False
        self._quiet_until[what] = now + _UPKEEP
        return True

    def _note_refused(self, digest: bytes, error: MailboxError) -> None:
        # Who fills a mailbox is not to fill the log.
        self._log.debug(
            "a message out of a mailbox is dropped ({digest}): {error}",
            digest=digest.hex()[:16],
            error=said(error),
        )

    def _wanted(self, sender: PublicKey) -> bool:
        return self._blocks is None or not self._blocks.is_blocked(sender.raw)

    # --- what is there -------------------------------------------------------------------------

    async def _count(self) -> None:
        self._totals = await self._context.database.read(_count)

    def _changed(self) -> None:
        shield(self._count()).addErrback(self._not_counted)

    def _not_counted(self, failure: Failure) -> None:
        if failure.check(MeshkitError):
            self._log.warn("the mailbox is not counted: {error}", error=said(failure.value))
        else:
            self._log.failure("counting the mailbox", failure)

    def status(self) -> offered.MailboxStatus:
        made = self._ring.secrets[-1].made if self._ring.secrets else None
        return offered.MailboxStatus(
            letters=self._totals.letters.letters,
            unread=self._totals.letters.unread,
            letter_bytes=self._totals.letters.bytes,
            waiting=self._totals.waiting,
            relays=[
                offered.MailboxRelay(
                    address=each.relay.address.text,
                    role=each.relay.role,
                    state=each.state,
                    open_until=None if each.open_until is None else _moment(each.open_until),
                    last_error=each.last_error,
                    lacks=self._lacks.get(each.relay.address.key, 0),
                )
                for each in self.stations
            ],
            prekey_made=None if made is None else _moment(made),
        )

    def advice(self) -> Sequence[str]:
        found = []
        if self._totals.letters.unread:
            found.append(
                "Messages were left for this node and nobody has read them: mailbox_list shows "
                "them."
            )
        if self._full:
            found.append(
                "The mailbox of this node is full, and what is sent to it waits at relays: what is "
                "not needed should be removed with mailbox_remove."
            )
        return found

    @property
    def _full(self) -> bool:
        letters = self._totals.letters
        return (
            letters.letters >= self._limits.letters or letters.bytes + MAX_BODY > self._limits.bytes
        )

    # --- the doors -----------------------------------------------------------------------------

    def operations(self) -> Sequence[BoundOperation]:
        return (
            BoundOperation(offered.SEND, self._answer_send),
            BoundOperation(offered.LIST, self._answer_list),
            BoundOperation(offered.READ, self._answer_read),
            BoundOperation(offered.REMOVE, self._answer_remove),
            BoundOperation(offered.SENT, self._answer_sent),
            BoundOperation(offered.FORGET, self._answer_forget),
            BoundOperation(offered.CHECK, self._answer_check),
        )

    def _answer_send(self, request: offered.SendLetter) -> Deferred[offered.SentLetter]:
        now = self._now()
        draft = Draft(
            self._context.rng.randbytes(MESSAGE_ID_BYTES),
            _recipient(request.to),
            now,
            now + request.ttl_secs,
            _body(request),
            _hint(request),
            request.idempotency_key,
        )

        async def send() -> offered.SentLetter:
            posted = await self._write(lambda db: post(db, draft))
            self.courier.ring(draft.recipient)
            return _show_posted(posted)

        return shield(send())

    async def _answer_list(self, request: offered.ListLetters) -> list[offered.LetterSummary]:
        found = await self._context.database.read(
            lambda db: list_letters(db, request.after, request.limit, request.unread)
        )
        return [_summary(each) for each in found]

    def _answer_read(self, request: offered.OneLetter) -> Deferred[offered.LetterShown]:
        async def read() -> offered.LetterShown:
            return _shown(await self._write(lambda db: read_letter(db, request.number)))

        return shield(read())

    def _answer_remove(self, request: offered.OneLetter) -> Deferred[None]:
        async def remove() -> None:
            await self._write(lambda db: remove_letter(db, request.number))
            # There may be room again.
            self._hurry_stations()

        return shield(remove())

    async def _answer_sent(self, request: offered.ListSent) -> list[offered.SentLetter]:
        found = await self._context.database.read(
            lambda db: list_posted(db, request.after, request.limit, request.waiting)
        )
        return [_show_posted(each) for each in found]

    def _answer_forget(self, request: offered.OneSent) -> Deferred[None]:
        try:
            id = bytes.fromhex(request.id)
        except ValueError:
            raise NotFound("no message of this id was sent: see 'meshkit mailbox sent'") from None

        async def forget() -> None:
            await self._write(lambda db: forget_posted(db, id))

        return shield(forget())

    def _answer_check(self, request: Nothing) -> offered.MailboxStatus:
        self._hurry_stations()
        self.courier.hurry()
        return self.status()

    def _hurry_stations(self) -> None:
        for station in self.stations:
            station.hurry()

    async def _write(self, job: Callable[[sqlite3.Connection], Any]) -> Any:
        def work(connection: sqlite3.Connection) -> Any:
            return job(connection), _count(connection)

        found, self._totals = await self._context.database.write(work)
        return found


def _count(connection: sqlite3.Connection) -> _Totals:
    return _Totals(letter_totals(connection), waiting_count(connection))


def _recipient(text: str) -> PublicKey:
    """
    @raise InvalidPublicKey: if it is none.
    @raise MailboxMessageInvalid: if nothing can be sealed for it.
    """
    recipient = PublicKey.parse(text)
    try:
        fallback_id(recipient)
    except InvalidPublicKey:
        raise MailboxMessageInvalid(f"nothing can be sealed for {text}") from None
    return recipient


def _body(request: offered.SendLetter) -> bytes:
    if (request.text is None) == (request.body is None):
        raise InvalidRequest("say something as text or as body in base64", field="text")
    if request.body is None:
        body = str(request.text).encode("utf-8")
    else:
        try:
            body = base64.b64decode(request.body, validate=True)
        except (binascii.Error, ValueError):
            raise InvalidRequest("the body is no base64", field="body") from None
    if len(body) > MAX_BODY:
        raise MailboxMessageInvalid(
            f"a message of {len(body)} bytes is over the limit of {MAX_BODY}: publish it as an "
            "object, and send where that is"
        )
    return body


def _hint(request: offered.SendLetter) -> tuple[str, bool] | None:
    if request.relay is None:
        return None
    return MeshAddress.parse(request.relay).text, request.blind


def _moment(seconds: int) -> str:
    return rfc3339(seconds * _NS)


def _show_posted(posted: Posted) -> offered.SentLetter:
    return offered.SentLetter(
        number=posted.number,
        id=posted.id.hex(),
        to=posted.recipient.text,
        created=_moment(posted.created),
        expires=_moment(posted.expires),
        size=posted.size,
        state=posted.state,
        forward_secret=posted.forward_secret,
        attempts=posted.attempts,
        last_error=posted.error,
        relay=None if posted.relay is None else posted.relay.text,
        until=None if posted.until is None else _moment(posted.until),
        receipt=None if posted.receipt is None else _base64(posted.receipt),
        copies=[
            offered.SentCopy(each.relay.text, _moment(each.until), _base64(each.receipt))
            for each in posted.copies
        ],
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _common(letter: Letter) -> dict[str, Any]:
    return {
        "number": letter.number,
        "sender": letter.sender.text,
        "id": letter.id.hex(),
        "created": _moment(letter.created),
        "taken": _moment(letter.taken),
        "relay": letter.relay.text,
        "forward_secret": letter.forward_secret,
        "read": letter.read,
        "size": letter.size,
    }


def _summary(letter: Letter) -> offered.LetterSummary:
    return offered.LetterSummary(**_common(letter), preview=_preview(letter))


def _preview(letter: Letter) -> str | None:
    """How it begins; the end of what was cut off may be in the middle of a character."""
    cut = len(letter.body) < letter.size
    for end in range(len(letter.body), max(0, len(letter.body) - 4 * cut) - 1, -1):
        try:
            return letter.body[:end].decode("utf-8")[:_PREVIEW]
        except UnicodeDecodeError:
            continue
    return None


def _shown(letter: Letter) -> offered.LetterShown:
    try:
        text = letter.body.decode("utf-8")
    except UnicodeDecodeError:
        text = None
    return offered.LetterShown(**_common(letter), text=text, body=_base64(letter.body))


def make_part(context: PartContext) -> MailboxPart:
    return MailboxPart(context)
