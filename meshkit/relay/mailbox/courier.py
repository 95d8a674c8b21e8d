"""
Leaves what is in the outbox (L{meshkit.relay.mailbox.outbox}) at relays, until L{COPIES} have
signed for it: what one of them loses, or keeps to itself, comes by another, and is missed there.

Which relays: that which the sender has named; else those that the recipient's latest prekey names,
best first, and then our own, where he may have a mailbox as well.  That prekey is the latest that
was heard of, from the hash table or a relay.  If it names one relay, one is enough.

B{What is bounded.}  L{MAX_AT_ONCE} recipients are worked for at the same time, so that a relay
that does not answer holds up those who use it and few others.  Where something could not be left,
it is tried again after a pause that doubles with each failure, up to L{LAST_PAUSE}; it is tried at
once when a relay of our own can be reached again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final, Literal, TypeVar

from attrs import define
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.errors import (
    MailboxFull,
    MailboxUnknown,
    MeshkitError,
    PeerUnreachable,
    RemoteError,
)
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import Identity, PublicKey
from meshkit.interfaces import Relay
from meshkit.relay.mailbox.delivering import deposit_at, prekey_from
from meshkit.relay.mailbox.outbox import (
    Outgoing,
    enough,
    expire_posted,
    know_prekey,
    known_prekey,
    left,
    next_expiry,
    not_left,
    outgoing,
    recipients_waited_for,
    seal_posted,
)
from meshkit.relay.mailbox.prekeys import MAX_RELAYS, MAX_TTL, Prekey, newer
from meshkit.relay.mailbox.sealing import seal_message
from meshkit.rpc.links import LinkProtocol, Links
from meshkit.runtime.database import Database
from meshkit.runtime.events import Bell

__all__ = ["COPIES", "SALT", "Courier", "said"]

T = TypeVar("T")

#: The salt of the item in the hash table in which everybody publishes the own prekey.
SALT: Final = b"mailbox"

#: Relays at which each message is left, if its recipient has so many: all that a prekey names, so
#: that it comes as long as one of them keeps its word.
COPIES: Final = MAX_RELAYS
#: Recipients that are worked for at the same time.
MAX_AT_ONCE: Final = 8
#: Seconds before what was not left is tried again, at first and at most.
FIRST_PAUSE: Final = 5.0
LAST_PAUSE: Final = 1_800.0
#: Seconds after which the hash table is asked again for a prekey that still holds.
REFRESH: Final = 86_400

# What goes wrong out there, as against in here.
_OUT_THERE: Final = (MeshkitError, ConnectError, ConnectionClosed, OSError)
_KEY_BYTES: Final = 32


def said(error: BaseException | None) -> str:
    """@return: an error in one line, for people."""
    code = getattr(error, "code", None)
    text = str(error).rstrip(".") or type(error).__name__
    return text if code is None else f"{code}: {text}"


@define
class _Pause:
    """
    @ivar failing: how often nothing was left, in a row.
    @ivar until: when it is tried again.
    """

    failing: int
    until: float


class Courier:
    """
    See the module.

    @ivar delivered: messages for which a relay has signed, since the start.
    @ivar failed: attempts to leave one that came to nothing, since the start.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        identity: Identity,
        database: Database,
        links: Links[Relay],
        *,
        own_relays: Callable[[], Sequence[Relay]],
        table: Any,
        rng: Random,
        wall_clock: Callable[[], int],
        changed: Callable[[], None],
    ) -> None:
        """
        @param identity: the sender.
        @param database: has the outbox.
        @param links: lead to relays.
        @param own_relays: those that this node uses.
        @param table: L{meshkit.interfaces.IHashTable}; L{None} where there is none.
        @param wall_clock: nanoseconds since 1970.
        @param changed: called when the outbox has changed.
        """
        self._reactor = reactor
        self._identity = identity
        self._database = database
        self._links = links
        self._own_relays = own_relays
        self._table = table
        self._rng = rng
        self._wall_clock = wall_clock
        self._changed = changed
        self._bell = Bell()
        self._running: Deferred[None] | None = None
        self._working: dict[PublicKey, Deferred[bool]] = {}
        self._pauses: dict[PublicKey, _Pause] = {}
        self.delivered = 0
        self.failed = 0

    def _read(self, job: Callable[..., T], *args: Any) -> Deferred[T]:
        return self._database.read(lambda db: job(db, *args))

    def _write(self, job: Callable[..., T], *args: Any) -> Deferred[T]:
        return self._database.write(lambda db: job(db, *args))

    # --- when ------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin with what is in the outbox."""
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._stopped)

    def stop(self) -> None:
        """Let go of everything that is under way; it is in the outbox."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
        for working in list(self._working.values()):
            working.cancel()

    def ring(self, recipient: PublicKey) -> None:
        """There is something new for somebody in the outbox: that is tried at once."""
        if recipient in self._pauses:
            self._pauses[recipient].until = 0.0
        self._bell.ring()

    def hurry(self) -> None:
        """Try again at once what waits for its next attempt."""
        for pause in self._pauses.values():
            pause.until = 0.0
        self._bell.ring()

    def _stopped(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("nothing is sent from the outbox any more", failure)

    def _now(self) -> int:
        return self._wall_clock() // 10**9

    async def _run(self) -> None:
        while True:
            self._bell.hush()
            try:
                wait = await self._look()
            except MeshkitError as e:
                self._log.error("the outbox cannot be used: {error}", error=said(e))
                wait = LAST_PAUSE
            timer = None if wait is None else self._reactor.callLater(wait, self._bell.ring)
            try:
                await self._bell.wait()
            finally:
                if timer is not None and timer.active():
                    timer.cancel()

    async def _look(self) -> float | None:
        """
        Begin with all whose turn it is.

        @return: seconds after which to look again, if nothing happens before.
        """
        waits: list[float] = []
        now = self._now()
        expiry = await self._read(next_expiry)
        if expiry is not None and expiry <= now:
            count = await self._write(expire_posted, now)
            if count:
                self._log.warn(
                    "{count} messages could be left at no relay in time, and are given up",
                    count=count,
                )
            self._changed()
        elif expiry is not None:
            waits.append(min(expiry - now, LAST_PAUSE))
        waiting = await self._read(recipients_waited_for)
        self._pauses = {who: self._pauses[who] for who in waiting if who in self._pauses}
        seconds = self._reactor.seconds()
        for recipient in waiting:
            pause = self._pauses.get(recipient)
            if recipient in self._working:
                continue
            if pause is not None and pause.until > seconds:
                waits.append(pause.until - seconds)
            elif len(self._working) < MAX_AT_ONCE:
                self._begin(recipient)
        return min(waits, default=None)

    def _begin(self, recipient: PublicKey) -> None:
        working = Deferred.fromCoroutine(self._deliver(recipient))
        self._working[recipient] = working
        working.addBoth(self._ended, recipient)

    def _ended(self, result: object, recipient: PublicKey) -> None:
        del self._working[recipient]
        if self._running is None:
            return
        if isinstance(result, Failure):
            if not isinstance(result.value, MeshkitError):
                self._log.failure("sending to {who} failed", result, who=recipient.text)
            self._put_off(recipient)
        elif result:
            self._put_off(recipient)
        self._bell.ring()

    def _put_off(self, recipient: PublicKey) -> None:
        failing = 1 if recipient not in self._pauses else self._pauses[recipient].failing + 1
        longest = min(FIRST_PAUSE * 2.0 ** min(failing - 1, 32), LAST_PAUSE)
        # Those who lost the same relay do not come back to it together.
        pause = longest * self._rng.uniform(0.5, 1.0)
        self._pauses[recipient] = _Pause(failing, self._reactor.seconds() + pause)

    # --- what ------------------------------------------------------------------------------

    async def _deliver(self, recipient: PublicKey) -> bool:
        """
        Leave all that waits for somebody, in order.

        @return: is something to be left at a further relay, later?
        @raise MeshkitError: something could not be left.
        """
        # What does not work now is not tried for the next message either.
        down: dict[Relay, MeshkitError] = {}
        error: MeshkitError | None = None
        number, some, more = 0, False, False
        while True:
            item = await self._read(outgoing, recipient, self._now(), number)
            if item is None:
                break
            number = item.number
            try:
                more |= await self._leave(item, down)
                some |= not item.has
            except MeshkitError as e:
                error = e
                self.failed += 1
                self._log.info(
                    "a message for {who} is not left yet: {error}",
                    who=recipient.text,
                    error=said(e),
                )
                await self._write(not_left, number, said(e))
                self._changed()
        if some or (error is None and not more):
            # One that cannot be left anywhere does not hold up the others for ever longer.
            self._pauses.pop(recipient, None)
        if error is not None:
            raise error
        return more

    async def _leave(self, item: Outgoing, down: dict[Relay, MeshkitError]) -> bool:
        """
        @return: is it to be left at a further relay, later?
        @raise MeshkitError: why no relay has it.
        """
        known = await self._known(item)
        relays, wanted = self._places(item, known)
        has = list(item.has)
        if not relays and not has:
            raise MailboxUnknown(
                f"it is not known where {item.recipient.text} has a mailbox: name the relay, or "
                "have this node use the same ones"
            )
        sealed = item.sealed
        while len(has) < wanted:
            left_over = [
                each for each in relays if each not in down and each.address.key not in has
            ]
            if not left_over:
                break
            relay = left_over[0]
            try:
                connection = await self._links.take(relay)
                try:
                    if sealed is None:
                        others = self._others(item, relay, relays)
                        sealed, prekey = await self._seal(
                            item, connection, known, [each for each in others if each not in down]
                        )
                        if prekey is not None:
                            # It says where else.
                            known = prekey
                            relays, wanted = self._places(item, known)
                    now = self._now()
                    ttl = min(max(1, item.expires - now), MAX_TTL)
                    receipt = await deposit_at(connection, item.recipient, sealed, ttl, now)
                finally:
                    self._links.give_back(relay)
            except CancelledError:
                raise
            except _OUT_THERE as e:
                down[relay] = _named(relay, e)
                continue
            has.append(relay.address.key)
            await self._write(left, item.number, receipt, now, len(has) < wanted)
            self.delivered += len(has) == 1
            self._changed()
        if not has:
            raise down[relays[0]]
        if len(has) >= wanted:
            return False
        named = () if known is None or item.hint is not None else known.relays
        if any(each.key not in has for each in named) or any(
            relay in down and not _is_refusal(down[relay]) for relay in relays
        ):
            # One that is named will have a mailbox, though it has none yet.
            return True
        await self._write(enough, item.number)
        return False

    async def _seal(
        self,
        item: Outgoing,
        connection: LinkProtocol,
        known: Prekey | None,
        others: Sequence[Relay],
    ) -> tuple[bytes, Prekey | None]:
        """
        Seal a message with the latest key that is known, or that the relay knows.

        @param others: relays that are asked if it says that there is none.
        @return: what is on the disk by then; and that key, if there is one.
        """
        now = self._now()
        prekey = await prekey_from(connection, item.recipient, known, now)
        if prekey is None:
            prekey = await self._prekey_elsewhere(item, others, now)
        sealed = seal_message(
            self._identity,
            item.recipient,
            prekey,
            item.body or b"",
            id=item.id,
            # Not when it was handed over: the key may be newer than that.
            created=now,
            expires=min(item.expires, now + MAX_TTL),
            ephemeral=self._rng.randbytes(_KEY_BYTES),
        )

        def write(db: sqlite3.Connection) -> None:
            seal_posted(db, item.number, sealed, prekey is not None)
            if prekey is not None and prekey is not known:
                know_prekey(db, prekey, now)

        await self._database.write(write)
        return sealed, prekey

    async def _prekey_elsewhere(
        self, item: Outgoing, others: Sequence[Relay], now: int
    ) -> Prekey | None:
        """
        Who says that there is none takes forward secrecy away: it is not taken from one alone.

        @return: the latest prekey that holds.
        """
        found = None
        if self._table is not None and item.hint is not None:
            # Else it was asked before.
            found = await self._ask_table(item.recipient, now)
        for relay in () if found is not None else others:
            try:
                connection = await self._links.take(relay)
                try:
                    found = await prekey_from(connection, item.recipient, found, now)
                finally:
                    self._links.give_back(relay)
            except CancelledError:
                raise
            except _OUT_THERE as e:
                self._log.debug(
                    "{relay} tells no prekey of {who}: {error}",
                    relay=relay.address.text,
                    who=item.recipient.text,
                    error=said(e),
                )
        return found

    # --- where ------------------------------------------------------------------------------

    def _places(self, item: Outgoing, known: Prekey | None) -> tuple[list[Relay], int]:
        """@return: relays to try, in this order, and how many are to have it."""
        if item.hint is not None:
            address, blind = item.hint
            return [Relay(MeshAddress.parse(address), _role(blind))], 1
        named = [
            Relay(MeshAddress(each.place.host, each.place.port, each.key), _role(each.blind))
            for each in (() if known is None else known.relays)
        ]
        ours = {relay.address.key: relay for relay in self._own_relays()}
        # Where we use it ourselves, as we were told to.
        found = {relay.address.key: ours.get(relay.address.key, relay) for relay in named}
        places = [*found.values(), *(ours[key] for key in ours if key not in found)]
        return places, min(COPIES, len(found) or len(places))

    def _others(self, item: Outgoing, relay: Relay, relays: Sequence[Relay]) -> list[Relay]:
        """@return: relays that may know of the recipient, beside that one."""
        # Of those of one message, ours are some, unless its sender has named one.
        more = () if item.hint is None else self._own_relays()
        return [each for each in (*relays, *more) if each.address.key != relay.address.key]

    async def _known(self, item: Outgoing) -> Prekey | None:
        """@return: the latest prekey that is known of the recipient, whether it holds or not."""
        recipient, now = item.recipient, self._now()
        found = await self._read(known_prekey, recipient)
        known, heard = (None, 0) if found is None else found
        fresh = known is not None and now < known.expires and abs(now - heard) < REFRESH
        if self._table is None or item.hint is not None or (fresh and not self._failing(recipient)):
            return known
        told = await self._ask_table(recipient, now)
        if told is None:
            return known
        await self._write(know_prekey, told, now)
        return told if known is None else newer(known, told)

    def _failing(self, recipient: PublicKey) -> bool:
        return recipient in self._pauses

    async def _ask_table(self, recipient: PublicKey, now: int) -> Prekey | None:
        """@return: what the hash table has, if that is a prekey that holds."""
        try:
            records = await self._table.get("mutable", recipient.raw + SALT)
            for record in records:
                prekey = Prekey.open(record.value, recipient)
                prekey.check_time(now)
                return prekey
        except MeshkitError as e:
            self._log.info(
                "the hash table tells no prekey of {who}: {error}",
                who=recipient.text,
                error=said(e),
            )
        return None


def _role(blind: bool) -> Literal["member", "blind"]:
    return "blind" if blind else "member"


def _is_refusal(error: MeshkitError) -> bool:
    """Has a relay said that it does not want a message, and will it say so again?"""
    codes = (MailboxUnknown.code, MailboxFull.code)
    return isinstance(error, RemoteError) and error.code in codes


def _named(relay: Relay, error: BaseException) -> MeshkitError:
    """@return: an error that names the relay."""
    if isinstance(error, MeshkitError):
        return error
    return PeerUnreachable(
        f"the relay {relay.address.text} cannot be reached ({str(error).rstrip('.')})"
    )
