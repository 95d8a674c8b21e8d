"""
A sender, a recipient and a relay that keep to the protocol, and relays that do not, over real
secure channels.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Coroutine, Sequence
from random import Random
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    InvalidAnswer,
    MailboxReceiptInvalid,
    PermissionDenied,
    PrekeyInvalid,
    RemoteError,
    StorageFailed,
)
from meshkit.identity.addresses import PeerAddress
from meshkit.identity.keys import Identity, PublicKey
from meshkit.relay.mailbox import collecting, wire
from meshkit.relay.mailbox.collecting import Collected, collect, open_at
from meshkit.relay.mailbox.delivering import deposit_at, prekey_from
from meshkit.relay.mailbox.inbox import Inbox
from meshkit.relay.mailbox.prekeys import MAX_SKEW, MAX_TTL, ROTATED, Prekey, PrekeyRing
from meshkit.relay.mailbox.receipts import MailboxReceipt
from meshkit.relay.mailbox.sealing import MAX_SEALED, MailboxMessage, digest_of
from meshkit.relay.mailbox.serving import MailboxServer, _origin_of, deposit_cost
from meshkit.relay.mailbox.store import MailboxLimits, MailboxStore
from meshkit.relay.mailbox.wire import (
    ACKNOWLEDGE,
    DEPOSIT,
    FETCH,
    LABEL,
    PUBLISH,
    WAIT,
    DepositRequest,
    FetchRequest,
    Page,
    PublishRequest,
    Waiting,
    WaitRequest,
)
from meshkit.rpc.methods import Dispatcher
from meshkit.rpc.protocol import RPCFactory
from meshkit.runtime.database import Database
from meshkit.runtime.limits import PeerBuckets
from meshkit.testing.channels import ChannelPair, connect_channels
from meshkit.testing.nodes import run_clock
from tests.relay.mailbox.letters import ADA, BOB, DAY, MALLORY, NOW, PREKEY, RELAY, RING, letter
from tests.relay.mailbox.machines import Machine


class Bob:
    """
    Who has a mailbox.

    @ivar letters: what he was given to read, in order.
    """

    def __init__(self, clock: Clock) -> None:
        self.machine = Machine(clock)
        self.letters: list[bytes] = []

    def keep(self, _connection: sqlite3.Connection, message: MailboxMessage) -> None:
        self.letters.append(message.body)

    @property
    def inbox(self) -> Inbox:
        return Inbox(self.machine.database, self.keep)


class World(SynchronousTestCase):
    def setUp(self) -> None:
        self.begin()
        self.addCleanup(lambda: self.end())

    def begin(self) -> None:
        self.clock = Clock()
        self.machine = Machine(self.clock)
        self.bob = Bob(self.clock)
        self.seconds = NOW

    def end(self) -> None:
        self.bob.machine.stop()
        self.machine.stop()

    def wall(self) -> int:
        return self.seconds * 10**9

    def server(
        self,
        database: Database | None = None,
        buckets: PeerBuckets | None = None,
        **limits: int,
    ) -> Dispatcher:
        dispatcher = Dispatcher()
        store = MailboxStore(
            self.machine.database if database is None else database,
            RELAY.public,
            MailboxLimits(**limits),
        )
        self.server_of_relay = MailboxServer(
            self.clock, RELAY, store, wall_clock=self.wall, buckets=buckets
        )
        self.server_of_relay.serve(dispatcher)
        return dispatcher

    def connect(self, who: Identity, dispatcher: Dispatcher | None = None) -> ChannelPair:
        return connect_channels(
            RPCFactory(self.clock),
            RPCFactory(self.clock, self.server() if dispatcher is None else dispatcher),
            clock=self.clock,
            label=LABEL,
            client_identity=who,
            server_identity=RELAY,
        )

    def ask(
        self,
        work: Callable[[Any], Deferred[Any] | Coroutine[Any, Any, Any]],
        who: Identity = ADA,
        dispatcher: Dispatcher | None = None,
    ) -> Any:
        """@return: what came of something that is done over a connection of its own."""
        pair = self.connect(who, dispatcher)
        try:
            return self.machine.wait(ensureDeferred(work(pair.client)))
        finally:
            pair.client.abort()
            pair.run()

    def open(self, prekey: Prekey = PREKEY) -> int:
        found: int = self.ask(lambda relay: open_at(relay, prekey), BOB)
        return found

    def deposit(self, sealed: bytes, dispatcher: Dispatcher | None = None) -> MailboxReceipt:
        found: MailboxReceipt = self.ask(
            lambda relay: deposit_at(relay, BOB.public, sealed, DAY, self.seconds),
            dispatcher=dispatcher,
        )
        return found

    def collect(self, dispatcher: Dispatcher | None = None, **named: Any) -> Collected:
        found: Collected = self.ask(
            lambda relay: collect(relay, BOB, RING, self.bob.inbox, wall_clock=self.wall, **named),
            BOB,
            dispatcher,
        )
        return found


class WholeTests(World):
    def test_a_message_waits_for_who_was_not_there(self) -> None:
        self.assertEqual(self.open(), NOW + 2 * MAX_TTL)
        prekey = self.ask(lambda relay: prekey_from(relay, BOB.public, None, NOW))
        self.assertEqual(prekey, PREKEY)
        sealed = letter(1, b"come home", prekey=prekey)
        receipt = self.deposit(sealed)
        self.assertEqual((receipt.digest, receipt.until), (digest_of(sealed), NOW + DAY))
        self.machine.crash()
        self.seconds += DAY // 2
        self.assertEqual(self.collect(), Collected(1, 0, {}, False))
        self.assertEqual(self.bob.letters, [b"come home"])
        self.assertEqual(self.collect(), Collected(0, 0, {}, False))

    def test_an_answer_that_was_lost_costs_nothing(self) -> None:
        self.open()
        first = self.deposit(letter())
        self.collect()
        self.seconds += 60
        self.assertEqual(self.deposit(letter()), first)
        self.assertEqual(self.collect(), Collected(0, 0, {}, False))

    def test_more_than_a_page_comes_in_the_order_in_which_it_was_left(self) -> None:
        self.open()
        dispatcher = self.server(from_one=100)
        bodies = [b"%d" % number for number in range(70)]
        for number, body in enumerate(bodies):
            self.deposit(letter(number, body), dispatcher)
        self.assertEqual(self.collect().taken, 70)
        self.assertEqual(self.bob.letters, bodies)

    def test_what_is_refused_is_told_and_does_not_fill_the_mailbox(self) -> None:
        self.open()
        gone = RING.turned(NOW + ROTATED, Random(9)).sign(BOB)
        garbage = bytes(256)
        forged = letter(1, recipient=BOB.public)[:-1] + b"\0"
        self.deposit(garbage)
        self.deposit(forged)
        self.deposit(letter(2, b"to read"))
        self.seconds = NOW + ROTATED
        self.deposit(letter(3, prekey=gone, created=self.seconds, expires=self.seconds + 1))
        self.seconds = NOW
        told: list[tuple[bytes, str]] = []
        collected = self.collect(on_refused=lambda digest, error: told.append((digest, error.code)))
        self.assertEqual(
            collected,
            Collected(1, 0, {"MAILBOX_MESSAGE_INVALID": 2, "MAILBOX_MESSAGE_UNREADABLE": 1}, False),
        )
        self.assertEqual(
            [digest for digest, _ in told[:2]], [digest_of(garbage), digest_of(forged)]
        )
        self.assertEqual(self.collect(), Collected(0, 0, {}, False))

    def test_what_a_clock_makes_too_early_is_left_and_the_others_are_taken(self) -> None:
        self.open()
        self.deposit(letter(1, b"now"))
        early = NOW - 3_600
        self.deposit(letter(2, b"then", prekey=None, created=early, expires=early + 2 * DAY))
        # Ours is behind, and was set right later.
        self.seconds = early
        self.assertEqual(self.collect(), Collected(1, 0, {}, False, early=1))
        self.assertEqual(self.collect(), Collected(0, 0, {}, False, early=1))
        self.seconds = NOW
        self.assertEqual(self.collect(), Collected(1, 0, {}, False))
        self.assertEqual(self.bob.letters, [b"then", b"now"])

    def test_one_whose_clock_is_ahead_is_read_when_its_time_has_come(self) -> None:
        self.open()
        later = NOW + 900
        self.deposit(letter(created=later, expires=later + DAY))
        self.assertEqual(self.collect(), Collected(0, 0, {}, False, early=1))
        self.seconds = later - MAX_SKEW
        self.assertEqual(self.collect(), Collected(1, 0, {}, False))

    def test_the_future_cannot_be_used_to_fill_a_mailbox(self) -> None:
        self.open()
        later = NOW + DAY
        self.patch(collecting, "MAX_EARLY", 2)
        for number in range(5):
            self.deposit(letter(number, created=later, expires=later + DAY))
        code = "MAILBOX_MESSAGE_EARLY"
        self.assertEqual(self.collect(), Collected(0, 0, {code: 3}, False, early=2))
        self.assertEqual(self.collect(), Collected(0, 0, {}, False, early=2))
        # What the relay took at that very time is not theirs to push out.
        self.deposit(letter(7))
        self.seconds = NOW - 3_600
        self.assertEqual(self.collect(), Collected(0, 0, {}, False, early=3))

    def test_a_crash_before_the_acknowledgement_gives_nothing_twice(self) -> None:
        self.open()
        self.deposit(letter())

        def crash(*_: object) -> int:
            raise RemoteError("the relay stops here", "NOT_READY")

        dispatcher = Dispatcher()
        store = MailboxStore(self.machine.database, RELAY.public)
        server = MailboxServer(self.clock, RELAY, store, wall_clock=self.wall)
        dispatcher.serve(FETCH, server._fetch)
        dispatcher.serve(ACKNOWLEDGE, crash)
        with self.assertRaises(RemoteError):
            self.collect(dispatcher)
        self.assertEqual(self.collect(), Collected(0, 1, {}, False))
        self.assertEqual(len(self.bob.letters), 1)

    def test_what_was_not_taken_is_not_acknowledged(self) -> None:
        self.open()
        self.deposit(letter())
        self.bob.machine.backing.fail("COMMIT", sqlite3.SQLITE_FULL)
        with self.assertRaises(StorageFailed):
            self.collect()
        self.bob.machine.backing.mend()
        self.bob.letters.clear()
        self.assertEqual(self.collect().taken, 1)


class OriginTests(World):
    def test_all_keys_of_one_host_have_one_share(self) -> None:
        dispatcher = self.server(mailboxes_of_origin=1)
        self.ask(lambda relay: open_at(relay, PREKEY), BOB, dispatcher)
        other = PrekeyRing().turned(NOW, Random(5)).sign(MALLORY)
        with self.assertRaisesRegex(RemoteError, "were opened from"):
            self.ask(lambda relay: open_at(relay, other), MALLORY, dispatcher)

    def test_a_host_is_an_address_or_a_64_and_a_tunnel_is_none(self) -> None:
        def origin(address: Any) -> str:
            caller: Any = SimpleNamespace(connected_to=PeerAddress(ADA.public, address))
            return _origin_of(caller)

        self.assertEqual(origin(IPv4Address("TCP", "192.0.2.7", 1)), "192.0.2.7")
        self.assertEqual(
            origin(IPv6Address("TCP", "2001:db8::1", 1)),
            origin(IPv6Address("TCP", "2001:db8::ffff:2", 2)),
        )
        self.assertEqual(origin(UNIXAddress("/a")), origin(UNIXAddress("/b")))


class FetchingTests(World):
    """Who asks for much at once is worked for once at a time."""

    def test_of_one_recipient_one_is_worked_on_and_the_others_have_their_turn(self) -> None:
        self.open()
        relay = self.server()
        # Who asks, and what they wait for.
        reads: list[tuple[PublicKey, Deferred[Page]]] = []

        def fetch(who: PublicKey, _after: int, _now: int) -> Deferred[Page]:
            reading: Deferred[Page] = Deferred()
            reads.append((who, reading))
            reading.addBoth(self.over, reads, (who, reading))
            return reading

        self.patch(self.server_of_relay._store, "fetch", fetch)
        pairs = [self.connect(BOB, relay), self.connect(BOB, relay), self.connect(ADA, relay)]
        calls = [pair.client.call(FETCH, FetchRequest(0)) for pair in pairs for _ in range(2)]
        self.run_all(pairs)
        # ADA is not behind all those of BOB.
        self.assertEqual([who for who, _ in reads], [BOB.public, ADA.public])
        # Who goes away takes with him what he waits for.
        pairs[0].client.abort()
        self.run_all(pairs)
        for call in calls[:2]:
            self.failureResultOf(call)
        for _ in range(2):
            self.assertEqual([who for who, _ in reads].count(BOB.public), 1)
            for _, reading in tuple(reads):
                reading.callback(Page([], False))
            self.run_all(pairs)
        self.assertEqual([self.successResultOf(each) for each in calls[2:]], [Page([], False)] * 4)
        self.assertEqual((reads, self.server_of_relay._fetching), ([], {}))
        for pair in pairs:
            pair.client.abort()
        self.run_all(pairs)

    def over(self, result: Any, reads: list[Any], read: object) -> Any:
        reads.remove(read)
        return result

    def run_all(self, pairs: Sequence[ChannelPair]) -> None:
        for pair in pairs:
            pair.run()


class WaitingTests(World):
    """Who is there is told of a message at once."""

    def begin(self) -> None:
        super().begin()
        self.open()
        self.relay = self.server()

    def wait(self, seconds: int = 100) -> tuple[ChannelPair, list[Any]]:
        """@return: the connection of somebody who waits, and what he is told."""
        pair = self.connect(BOB, self.relay)
        told: list[Any] = []
        pair.client.call(WAIT, WaitRequest(seconds), timeout=1_000).addBoth(told.append)
        self.settle(pair)
        self.addCleanup(pair.client.abort)
        return pair, told

    def settle(self, pair: ChannelPair) -> None:
        for _ in range(3):
            pair.run()
            run_clock(self.clock, 0)
        pair.run()

    def test_a_call_is_held_until_there_is_a_message(self) -> None:
        pair, told = self.wait()
        run_clock(self.clock, 99)
        self.settle(pair)
        self.assertEqual(told, [])
        self.deposit(letter(), self.relay)
        self.settle(pair)
        self.assertEqual(told, [True])
        self.assertEqual(self.server_of_relay.held, 0)

    def test_who_comes_when_one_is_there_is_told_so(self) -> None:
        self.deposit(letter(), self.relay)
        self.assertEqual(self.wait()[1], [True])

    def test_a_call_ends_in_time_and_says_that_there_is_none(self) -> None:
        pair, told = self.wait(100)
        run_clock(self.clock, 100)
        self.settle(pair)
        self.assertEqual(told, [False])
        self.assertEqual(self.server_of_relay.held, 0)

    def test_of_one_recipient_one_call_is_held(self) -> None:
        first, told = self.wait()
        second, told_later = self.wait()
        self.settle(first)
        self.assertEqual((told, told_later), ([False], []))
        self.assertEqual(self.server_of_relay.held, 1)
        self.deposit(letter(), self.relay)
        self.settle(second)
        self.assertEqual(told_later, [True])

    def test_a_message_for_another_wakes_nobody(self) -> None:
        ring = PrekeyRing().turned(NOW, Random(5))
        self.ask(lambda relay: open_at(relay, ring.sign(MALLORY)), MALLORY, self.relay)
        pair, told = self.wait()
        sealed = letter(recipient=MALLORY.public, prekey=None)
        self.ask(
            lambda relay: deposit_at(relay, MALLORY.public, sealed, DAY, NOW), dispatcher=self.relay
        )
        self.settle(pair)
        self.assertEqual(told, [])

    def test_who_goes_away_is_waited_for_no_more(self) -> None:
        pair, _ = self.wait()
        self.assertEqual(self.server_of_relay.held, 1)
        pair.client.abort()
        self.settle(pair)
        self.assertEqual(self.server_of_relay.held, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_at_the_end_all_are_answered(self) -> None:
        pair, told = self.wait()
        self.server_of_relay.stop()
        self.settle(pair)
        self.assertEqual(told, [False])

    def test_who_has_no_mailbox_waits_in_vain_and_is_told_so(self) -> None:
        with self.assertRaises(RemoteError) as caught:
            self.ask(lambda relay: relay.call(WAIT, WaitRequest(1)), MALLORY, dispatcher=self.relay)
        self.assertEqual(caught.exception.code, "MAILBOX_UNKNOWN")
        self.assertEqual(self.server_of_relay.held, 0)


class CostTests(World):
    def test_the_bytes_of_messages_cost_as_much_as_calls(self) -> None:
        self.assertEqual([deposit_cost(size) for size in (256, 4_096, MAX_SEALED)], [0.0625, 1, 16])
        self.open()
        dispatcher = self.server(buckets=PeerBuckets(1.0, 40.0))
        big = b"x" * 60_000
        for number in range(2):
            self.deposit(letter(number, big), dispatcher)
        with self.assertRaises(RemoteError) as caught:
            self.deposit(letter(2, big), dispatcher)
        self.assertEqual(caught.exception.code, "OVER_RATE")
        self.assertGreater(caught.exception.details["retry_after"], 1)
        # Small ones go on, and another sender is not held up.
        self.deposit(letter(3, b"small"), dispatcher)
        self.ask(
            lambda relay: deposit_at(relay, BOB.public, letter(4, big), DAY, self.seconds),
            MALLORY,
            dispatcher,
        )
        run_clock(self.clock, 20)
        self.deposit(letter(2, big), dispatcher)


class RelayTests(World):
    def refused(self, code: str, work: Callable[[Any], Any], who: Identity = ADA) -> None:
        with self.assertRaises(RemoteError) as caught:
            self.ask(work, who)
        self.assertEqual(caught.exception.code, code)

    def test_nobody_opens_a_mailbox_for_another(self) -> None:
        self.refused("MAILBOX_PREKEY_INVALID", lambda relay: open_at(relay, PREKEY), MALLORY)

    def test_a_prekey_that_does_not_hold_opens_none(self) -> None:
        for seconds in (NOW + MAX_TTL, NOW - DAY):
            self.seconds = seconds
            self.refused("MAILBOX_PREKEY_INVALID", lambda relay: open_at(relay, PREKEY), BOB)

    def test_nobody_reads_or_empties_the_mailbox_of_another(self) -> None:
        self.open()
        self.deposit(letter())
        inbox = self.bob.inbox
        collected = self.ask(
            lambda relay: collect(relay, MALLORY, RING, inbox, wall_clock=self.wall), MALLORY
        )
        self.assertEqual(collected, Collected(0, 0, {}, False))
        self.assertEqual(self.collect().taken, 1)

    def test_what_no_message_can_be_is_not_kept(self) -> None:
        self.open()
        for sealed in (b"", bytes(255), bytes(257), bytes(65_535)):
            request = DepositRequest(BOB.public.raw, sealed, DAY)
            self.refused("MAILBOX_MESSAGE_INVALID", lambda relay, r=request: relay.call(DEPOSIT, r))

    def test_what_is_out_of_bounds_is_refused(self) -> None:
        self.open()
        sealed = letter()
        for request in (
            DepositRequest(BOB.public.raw, sealed, 0),
            DepositRequest(BOB.public.raw, sealed, MAX_TTL + 1),
            DepositRequest(BOB.public.raw[1:], sealed, 1),
        ):
            self.refused("INVALID_REQUEST", lambda relay, r=request: relay.call(DEPOSIT, r))
        self.refused(
            "INVALID_REQUEST", lambda relay: relay.call(PUBLISH, PublishRequest(bytes(513)))
        )

    def test_no_room_and_no_mailbox_are_told_apart(self) -> None:
        self.refused(
            "MAILBOX_UNKNOWN", lambda relay: deposit_at(relay, BOB.public, letter(), DAY, NOW)
        )
        self.refused("MAILBOX_UNKNOWN", lambda relay: prekey_from(relay, BOB.public, None, NOW))
        self.open()
        for number in range(64):
            self.deposit(letter(number))
        self.refused(
            "MAILBOX_FULL", lambda relay: deposit_at(relay, BOB.public, letter(64), DAY, NOW)
        )

    def test_a_caller_who_proves_no_key_has_none(self) -> None:
        class Nobody:
            key = None

        store = MailboxStore(self.machine.database, RELAY.public)
        server = MailboxServer(self.clock, RELAY, store, wall_clock=self.wall)
        with self.assertRaises(PermissionDenied):
            self.machine.wait(
                Deferred.fromCoroutine(server._publish(Nobody(), PublishRequest(PREKEY.raw)))  # type: ignore[arg-type]
            )


class Liar:
    """A relay that answers what it is told to."""

    def __init__(self, **answers: Any) -> None:
        self.acknowledged: list[bytes] = []
        self.asked = 0
        self.dispatcher = Dispatcher()
        methods = {"deposit": DEPOSIT, "prekey": wire.PREKEY, "fetch": FETCH}
        for name, answer in answers.items():
            self.dispatcher.serve(methods[name], self.answering(answer))
        self.dispatcher.serve(ACKNOWLEDGE, self.acknowledge)

    def answering(self, answer: Any) -> Callable[[Any, Any], Any]:
        def handler(_caller: Any, request: Any) -> Any:
            self.asked += 1
            return answer(request) if callable(answer) else answer

        return handler

    def acknowledge(self, _caller: Any, request: Any) -> int:
        self.acknowledged += request.digests
        return len(request.digests)


def receipt_of(sealed: bytes, relay: Identity = RELAY, to: Identity = BOB) -> bytes:
    receipt = MailboxReceipt(
        relay.public, to.public, digest_of(sealed), len(sealed), NOW, NOW + DAY
    )
    return receipt.sign(relay)


class LyingRelayTests(World):
    def test_a_forged_receipt_is_none(self) -> None:
        for raw in (
            b"",
            bytes(200),
            receipt_of(letter(1), MALLORY),
            receipt_of(letter(2)),
            receipt_of(letter(1), to=MALLORY),
        ):
            with self.assertRaises(MailboxReceiptInvalid):
                self.deposit(letter(1), Liar(deposit=raw).dispatcher)
        self.deposit(letter(1), Liar(deposit=receipt_of(letter(1))).dispatcher)

    def ask_prekey(self, answer: bytes | None, known: Prekey | None = None) -> Prekey | None:
        found: Prekey | None = self.ask(
            lambda relay: prekey_from(relay, BOB.public, known, self.seconds),
            dispatcher=Liar(prekey=wire.PublishedPrekey(answer)).dispatcher,
        )
        return found

    def test_it_cannot_make_anybody_seal_with_a_key_of_its_own(self) -> None:
        ours = PrekeyRing().turned(NOW, Random("mallory")).sign(MALLORY)
        for raw in (ours.raw, b"", PREKEY.raw[:-1] + b"\0"):
            with self.assertRaises(PrekeyInvalid):
                self.ask_prekey(raw)

    def test_nor_with_an_older_one_or_with_none_than_is_known(self) -> None:
        later = RING.turned(NOW + ROTATED, Random(3)).sign(BOB)
        self.seconds = NOW + ROTATED
        self.assertEqual(self.ask_prekey(PREKEY.raw, later), later)
        self.assertEqual(self.ask_prekey(None, later), later)
        self.assertEqual(self.ask_prekey(later.raw, PREKEY), later)
        self.assertEqual(self.ask_prekey(None), None)
        self.seconds = NOW + MAX_TTL
        self.assertEqual(self.ask_prekey(None, PREKEY), None)

    def test_it_cannot_go_on_for_ever(self) -> None:
        self.patch(collecting, "MAX_COLLECTED", 100)
        numbers = iter(range(1, 10**6))

        def page(_: object) -> Page:
            return Page([Waiting(next(numbers), NOW, bytes(256)) for _ in range(30)], True)

        liar = Liar(fetch=page)
        collected = self.collect(liar.dispatcher)
        self.assertEqual(
            (collected.more, collected.refused), (True, {"MAILBOX_MESSAGE_INVALID": 120})
        )
        self.assertEqual(liar.asked, 4)

    def test_nor_with_pages_of_nothing(self) -> None:
        liar = Liar(fetch=Page([], True))
        self.assertEqual(self.collect(liar.dispatcher), Collected(0, 0, {}, False))
        self.assertEqual(liar.asked, 1)

    def test_nor_in_circles(self) -> None:
        for numbers in ([1, 1], [2, 1], [0]):
            page = Page([Waiting(number, NOW, letter(number)) for number in numbers], True)
            with self.assertRaisesRegex(InvalidAnswer, "asked for those after"):
                self.collect(Liar(fetch=page).dispatcher)

    def test_what_is_more_than_was_agreed_is_no_answer(self) -> None:
        for page in (
            Page([Waiting(number, NOW, b"") for number in range(1, 66)], False),
            Page([Waiting(1, NOW, bytes(65_537))], False),
        ):
            with self.assertRaises(InvalidAnswer):
                self.collect(Liar(fetch=page).dispatcher)

    @settings(max_examples=20)
    @given(
        st.lists(
            st.tuples(st.integers(0, 4), st.sampled_from(["whole", "damaged", "for another"])),
            max_size=12,
        )
    )
    def test_whatever_it_drops_repeats_reorders_or_changes(
        self, served: list[tuple[int, str]]
    ) -> None:
        """Every message that comes whole is taken once, and nothing else ever is."""
        forms = {
            "whole": lambda number: letter(number, b"%d" % number),
            "damaged": lambda number: letter(number)[:-1] + b"\0",
            "for another": lambda number: letter(number, recipient=MALLORY.public, prekey=None),
        }
        sealed = [forms[how](number) for number, how in served]
        page = Page([Waiting(n, NOW, each) for n, each in enumerate(sealed, 1)], False)
        whole = list(dict.fromkeys(number for number, how in served if how == "whole"))
        world = type(self)()
        world.begin()
        try:
            collected = world.collect(Liar(fetch=page).dispatcher)
            self.assertEqual(world.bob.letters, [b"%d" % number for number in whole])
            self.assertEqual(collected.taken, len(whole))
            self.assertEqual(
                collected.taken + collected.repeated + sum(collected.refused.values()), len(served)
            )
        finally:
            world.end()
