"""Leaving messages at relays, whatever those do, and finding out at which."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import NotReady, RemoteError
from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.identity.keys import Identity, PublicKey
from meshkit.interfaces import Relay
from meshkit.relay.mailbox import courier as module
from meshkit.relay.mailbox import outbox
from meshkit.relay.mailbox.courier import FIRST_PAUSE, MAX_AT_ONCE, SALT, Courier
from meshkit.relay.mailbox.outbox import Draft, Posted, known_prekey, list_posted, post
from meshkit.relay.mailbox.prekeys import MAX_TTL, ROTATED, Prekey, PrekeyRing, RelayPlace
from meshkit.relay.mailbox.receipts import MailboxReceipt
from meshkit.relay.mailbox.sealing import digest_of, open_message
from meshkit.relay.mailbox.wire import DEPOSIT, PREKEY, PublishedPrekey
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import run_clock
from tests.relay.mailbox.letters import ADA, BOB, DAY, NOW, RING
from tests.relay.mailbox.machines import Machine

#: It does not say where he has a mailbox.
BOBS = RING.sign(BOB)
HOME, OTHER, THIRD = (make_identity(f"relay {n}") for n in range(3))


def at(identity: Identity, role: Any = "member") -> Relay:
    return Relay(MeshAddress(f"{identity.public.raw.hex()[:6]}.example", 1, identity.public), role)


def place(identity: Identity, blind: bool = False) -> RelayPlace:
    address = at(identity).address
    return RelayPlace(identity.public, HostPort(address.host, address.port), blind)


class FakeRelay:
    """
    @ivar prekey: what it says of the recipient's.
    @ivar deposits: what was left here.
    @ivar asked: how often it was asked for the prekey.
    @ivar promises: seconds for which it signs; L{None}: what it was asked for.
    @ivar key: as L{meshkit.rpc.protocol.RPCProtocol.key}.
    """

    def __init__(self, identity: Identity, now: Callable[[], int]) -> None:
        self.identity = identity
        self.key = identity.public
        self.now = now
        self.prekey: Prekey | None = BOBS
        self.down: Exception | None = None
        self.deposits: list[bytes] = []
        self.asked = 0
        self.signs_for: bytes | None = None
        self.promises: int | None = None
        self.hangs = False

    def call(self, method: Any, request: Any, timeout: float = 30.0) -> Deferred[Any]:
        if self.hangs:
            return Deferred()
        if method is PREKEY:
            self.asked += 1
            return succeed(PublishedPrekey(None if self.prekey is None else self.prekey.raw))
        assert method is DEPOSIT
        self.deposits.append(request.sealed)
        sealed = request.sealed if self.signs_for is None else self.signs_for
        now = self.now()
        receipt = MailboxReceipt(
            self.key,
            PublicKey(request.recipient),
            digest_of(sealed),
            len(request.sealed),
            now,
            now + (request.ttl if self.promises is None else self.promises),
        )
        return succeed(receipt.sign(self.identity))


class FakeTable:
    """A hash table that has what it is given, by name."""

    def __init__(self) -> None:
        self.items: dict[bytes, bytes] = {}
        self.asked = 0
        self.fails = False

    def get(self, kind: str, name: bytes) -> Deferred[Any]:
        assert kind == "mutable"
        self.asked += 1
        if self.fails:
            return fail(NotReady("the hash table is not there"))
        value = self.items.get(name)
        return succeed([] if value is None else [_Record(value)])


class _Record:
    def __init__(self, value: bytes) -> None:
        self.value = value


class CourierCase(SynchronousTestCase):
    own: tuple[Identity, ...] = (HOME,)

    def setUp(self) -> None:
        self.clock = Clock()
        self.machine = Machine(self.clock)
        self.seconds = NOW
        self.relays = {
            each.public: FakeRelay(each, lambda: self.now()) for each in (HOME, OTHER, THIRD)
        }
        self.taken: list[Relay] = []
        self.table: FakeTable | None = None
        self.numbers = 0
        self.addCleanup(self.end)

    def now(self) -> int:
        return self.seconds + int(self.clock.seconds())

    def start(self) -> None:
        self.courier = Courier(
            self.clock,
            ADA,
            self.machine.database,
            self,  # type: ignore[arg-type]
            own_relays=lambda: [at(each) for each in self.own],
            table=self.table,
            rng=Random(3),
            wall_clock=lambda: self.now() * 10**9,
            changed=lambda: None,
        )
        self.courier.start()
        self.run_for(0)

    def end(self) -> None:
        self.courier.stop()
        self.machine.stop()

    # The links.

    def take(self, relay: Relay) -> Deferred[Any]:
        self.taken.append(relay)
        there = self.relays[relay.address.key]
        return succeed(there) if there.down is None else fail(there.down)

    def give_back(self, relay: Relay) -> None:
        """It was taken."""

    # What is done, and seen.

    def run_for(self, seconds: float) -> None:
        run_clock(self.clock, seconds)

    def send(self, to: Identity = BOB, **changed: Any) -> None:
        self.numbers += 1
        fields: dict[str, Any] = {
            "id": self.numbers.to_bytes(16, "big"),
            "recipient": to.public,
            "created": self.now(),
            "expires": self.now() + DAY,
            "body": b"letter %d" % self.numbers,
        }
        draft = Draft(**{**fields, **changed})
        self.machine.wait(self.machine.database.write(lambda db: post(db, draft)))
        self.courier.ring(to.public)
        self.run_for(0)

    def posted(self) -> list[Posted]:
        found: list[Posted] = self.machine.wait(
            self.machine.database.read(lambda db: list_posted(db, 0, 1_000, False))
        )
        return found

    def states(self) -> list[str]:
        return [each.state for each in self.posted()]

    def fake(self, identity: Identity) -> FakeRelay:
        return self.relays[identity.public]

    def know(self, prekey: Prekey) -> None:
        module_know = module.know_prekey
        self.machine.wait(
            self.machine.database.write(lambda db: module_know(db, prekey, self.now()))
        )


class LeavingTests(CourierCase):
    def test_it_is_sealed_with_the_key_that_the_relay_knows_and_left_there(self) -> None:
        self.start()
        self.send()
        (sealed,) = self.fake(HOME).deposits
        message = open_message(BOB, RING, sealed, self.now())
        self.assertEqual((message.sender, message.body), (ADA.public, b"letter 1"))
        self.assertTrue(message.forward_secret)
        self.assertEqual(self.states(), ["kept"])
        self.assertEqual(self.courier.delivered, 1)

    def test_where_nobody_has_a_prekey_the_identity_is_the_key_and_that_is_said(self) -> None:
        self.fake(HOME).prekey = None
        self.start()
        self.send()
        (sealed,) = self.fake(HOME).deposits
        self.assertFalse(open_message(BOB, RING, sealed, self.now()).forward_secret)
        self.assertEqual([each.forward_secret for each in self.posted()], [False])

    def test_a_relay_cannot_have_it_sealed_with_less_than_is_known(self) -> None:
        self.fake(HOME).prekey = None
        self.start()
        self.know(BOBS)
        self.send()
        self.assertEqual([each.forward_secret for each in self.posted()], [True])

    def test_the_same_bytes_are_offered_until_somebody_signs_for_them(self) -> None:
        self.start()
        liar = self.fake(HOME)
        liar.signs_for = b"another message"
        self.send()
        self.assertEqual(self.states(), ["waiting"])
        self.assertIn("MAILBOX_RECEIPT_INVALID", str(self.posted()[0].error))
        self.run_for(2 * FIRST_PAUSE)
        liar.signs_for = None
        self.run_for(60)
        self.assertEqual(self.states(), ["kept"])
        self.assertEqual(len(set(liar.deposits)), 1)
        self.assertGreater(len(liar.deposits), 2)
        self.assertEqual(liar.asked, 1)

    def test_what_waited_for_long_before_it_was_sealed_is_read_all_the_same(self) -> None:
        self.fake(HOME).down = ConnectionRefusedError()
        self.start()
        self.send(expires=self.now() + MAX_TTL)
        self.seconds += ROTATED + 100
        later = RING.turned(self.now(), Random(8))
        self.fake(HOME).prekey = later.sign(BOB)
        self.fake(HOME).down = None
        self.courier.hurry()
        self.run_for(0)
        (sealed,) = self.fake(HOME).deposits
        self.assertEqual(open_message(BOB, later, sealed, self.now()).body, b"letter 1")

    def test_one_that_does_not_answer_holds_up_few_others(self) -> None:
        self.start()
        self.fake(HOME).hangs = True
        for number in range(MAX_AT_ONCE - 1):
            self.send(make_identity(f"recipient {number}"))
        hint = (at(OTHER).address.text, False)
        self.send(hint=hint)
        self.assertEqual(self.states()[-1], "kept")
        self.assertEqual(self.states().count("waiting"), MAX_AT_ONCE - 1)

    def test_they_are_left_in_order_and_those_that_can_be_are(self) -> None:
        self.start()
        self.fake(OTHER).down = ConnectionRefusedError()
        self.send(hint=(at(OTHER).address.text, False))
        self.send()
        self.send()
        self.assertEqual(self.states(), ["waiting", "kept", "kept"])
        bodies = [open_message(BOB, RING, s, self.now()).body for s in self.fake(HOME).deposits]
        self.assertEqual(bodies, [b"letter 2", b"letter 3"])

    def test_a_relay_that_is_down_is_dialled_once_for_all_that_waits(self) -> None:
        self.fake(HOME).down = ConnectionRefusedError()
        self.start()
        for _ in range(5):
            self.send()
        self.taken.clear()
        self.courier.hurry()
        self.run_for(0)
        self.assertEqual(len(self.taken), 1)
        self.assertEqual({each.attempts > 0 for each in self.posted()}, {True})

    def test_pauses_grow_and_end(self) -> None:
        self.fake(HOME).down = ConnectionRefusedError()
        self.start()
        self.send(expires=self.now() + DAY)
        self.run_for(DAY - 1)
        # Ten pauses up to half an hour, and one each half hour after that, or a little more.
        self.assertTrue(50 < len(self.taken) < 110, len(self.taken))
        self.run_for(2)
        self.assertEqual(self.states(), ["given up"])
        self.taken.clear()
        self.run_for(DAY)
        self.assertEqual(self.taken, [])

    def test_a_fault_of_ours_is_logged_and_does_not_end_it(self) -> None:
        self.start()
        broken: Any = self.fake(HOME)
        call, broken.call = broken.call, lambda *_, **__: 1 // 0
        self.send()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        broken.call = call
        self.run_for(2 * FIRST_PAUSE)
        self.assertEqual(self.states(), ["kept"])

    def test_when_the_disk_is_full_it_is_tried_again(self) -> None:
        self.start()
        self.machine.backing.fail("COMMIT", 13)
        refused = self.machine.database.write(
            lambda db: post(db, Draft(bytes(16), BOB.public, NOW, NOW + DAY, b"x"))
        )
        run_clock(self.clock, 0)
        self.failureResultOf(refused)
        self.machine.backing.mend()
        self.send()
        self.assertEqual(self.states(), ["kept"])

    def test_when_it_is_stopped_nothing_is_left_to_do(self) -> None:
        self.start()
        self.fake(HOME).hangs = True
        self.send()
        self.fake(OTHER).down = ConnectionRefusedError()
        self.send(make_identity("x"), hint=(at(OTHER).address.text, False))
        self.courier.stop()
        self.run_for(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.states(), ["waiting", "waiting"])


class CopyTests(CourierCase):
    """His prekey names three relays, of which one may lose what it has signed for."""

    def setUp(self) -> None:
        super().setUp()
        self.named = RING.sign(BOB, [place(HOME), place(OTHER), place(THIRD)])
        for each in (HOME, OTHER, THIRD):
            self.fake(each).prekey = self.named
        self.start()
        self.know(self.named)

    def has(self) -> list[PublicKey]:
        """Who has signed for the first message."""
        posted = self.posted()[0]
        first = [] if posted.relay is None else [posted.relay]
        return [*first, *(each.relay for each in posted.copies)]

    def test_it_is_left_at_all_of_them_as_the_same_bytes(self) -> None:
        self.send()
        deposits = [self.fake(each).deposits for each in (HOME, OTHER, THIRD)]
        self.assertEqual([len(each) for each in deposits], [1, 1, 1])
        self.assertEqual(len({each[0] for each in deposits}), 1)
        self.assertEqual(self.has(), [HOME.public, OTHER.public, THIRD.public])
        self.assertEqual(self.courier.delivered, 1)
        self.run_for(2 * outbox.COPYING)
        self.assertEqual(len(self.taken), 3)

    def test_one_that_is_away_gets_it_when_it_is_there_and_nobody_gets_it_twice(self) -> None:
        self.fake(OTHER).down = ConnectionRefusedError()
        self.send()
        self.assertEqual(self.states(), ["kept"])
        self.run_for(20 * FIRST_PAUSE)
        tried = self.taken.count(at(OTHER))
        # Later and later.
        self.assertGreater(tried, 3)
        self.assertLess(tried, 10)
        self.fake(OTHER).down = None
        self.run_for(40 * FIRST_PAUSE)
        self.assertEqual(self.has(), [HOME.public, THIRD.public, OTHER.public])
        deposits = [len(self.fake(each).deposits) for each in (HOME, OTHER, THIRD)]
        self.assertEqual(deposits, [1, 1, 1])

    def test_it_is_tried_for_an_hour(self) -> None:
        self.fake(OTHER).down = ConnectionRefusedError()
        self.send()
        self.run_for(outbox.COPYING + 1)
        tried = len(self.taken)
        self.fake(OTHER).down = None
        self.run_for(2 * outbox.COPYING)
        self.assertEqual(len(self.taken), tried)
        self.assertEqual(self.has(), [HOME.public, THIRD.public])

    def test_one_at_which_he_is_not_yet_is_asked_again(self) -> None:
        self.fake(OTHER).down = RemoteError("nobody", "MAILBOX_UNKNOWN")
        self.send()
        self.run_for(4 * FIRST_PAUSE)
        self.fake(OTHER).down = None
        self.run_for(40 * FIRST_PAUSE)
        self.assertEqual(self.has(), [HOME.public, THIRD.public, OTHER.public])

    def test_one_that_he_does_not_name_is_not_asked_again(self) -> None:
        self.own = (HOME, OTHER)
        for each in (HOME, OTHER):
            self.fake(each).prekey = BOBS
        self.fake(OTHER).down = RemoteError("nobody", "MAILBOX_UNKNOWN")
        stranger = make_identity("stranger")
        self.fake(HOME).prekey = None
        self.send(stranger)
        self.assertEqual(self.has(), [HOME.public])
        self.assertIn(at(OTHER), self.taken)
        self.taken.clear()
        self.run_for(outbox.COPYING)
        self.assertEqual(self.taken, [])

    def test_the_first_message_goes_where_the_prekey_says_that_the_relay_has(self) -> None:
        friend = make_identity("friend")
        ring = PrekeyRing().turned(self.now(), Random(9))
        self.fake(HOME).prekey = ring.sign(friend, [place(THIRD), place(HOME)])
        self.send(friend)
        self.assertEqual(self.taken, [at(HOME), at(THIRD)])
        self.assertEqual(self.has(), [HOME.public, THIRD.public])

    def test_a_machine_that_was_cut_off_goes_on(self) -> None:
        self.fake(OTHER).down = ConnectionRefusedError()
        self.send()
        self.courier.stop()
        self.machine.crash()
        self.fake(OTHER).down = None
        self.start()
        self.assertEqual(self.has(), [HOME.public, THIRD.public, OTHER.public])

    def test_a_copy_holds_up_nothing_that_is_new(self) -> None:
        self.fake(OTHER).down = ConnectionRefusedError()
        self.send()
        self.run_for(10 * FIRST_PAUSE)
        self.send()
        self.assertEqual(self.states(), ["kept", "kept"])

    def test_where_the_sender_has_named_a_relay_it_is_left_there_alone(self) -> None:
        self.send(hint=(at(OTHER).address.text, False))
        self.assertEqual(self.taken, [at(OTHER)])


class FindingTests(CourierCase):
    own: tuple[Identity, ...] = (HOME,)

    def setUp(self) -> None:
        super().setUp()
        self.table = FakeTable()
        self.name = BOB.public.raw + SALT

    def test_where_it_goes_stands_in_the_prekey_of_the_hash_table(self) -> None:
        assert self.table is not None
        named = RING.sign(BOB, [place(OTHER, blind=True), place(THIRD)])
        self.table.items[self.name] = named.raw
        self.start()
        self.send()
        # Each of them, best first, in the network in which that serves.
        self.assertEqual(self.taken, [at(OTHER, "blind"), at(THIRD)])
        self.assertEqual(len(self.fake(OTHER).deposits), 1)
        self.assertEqual(self.fake(THIRD).deposits, self.fake(OTHER).deposits)
        self.assertEqual(
            self.machine.wait(self.machine.database.read(lambda db: known_prekey(db, BOB.public))),
            (named, self.now()),
        )
        # It is asked again in a day, or when that does not work any more.
        self.send()
        self.assertEqual(self.table.asked, 1)
        self.seconds += DAY + 1
        self.send()
        self.assertEqual(self.table.asked, 2)

    def test_the_next_one_is_taken_where_the_first_refuses(self) -> None:
        assert self.table is not None
        self.table.items[self.name] = RING.sign(BOB, [place(OTHER), place(THIRD)]).raw
        self.fake(OTHER).down = RemoteError("full", "MAILBOX_FULL")
        self.start()
        self.send()
        self.assertEqual(self.taken[:2], [at(OTHER), at(THIRD)])
        self.assertEqual(self.states(), ["kept"])

    def test_the_next_one_is_taken_where_the_first_promises_next_to_nothing(self) -> None:
        assert self.table is not None
        self.table.items[self.name] = RING.sign(BOB, [place(OTHER), place(THIRD)]).raw
        self.fake(OTHER).promises = 1
        self.start()
        self.send()
        self.assertEqual(self.taken[:2], [at(OTHER), at(THIRD)])
        (posted,) = self.posted()
        self.assertEqual((posted.state, posted.relay), ("kept", THIRD.public))

    def test_one_relay_alone_cannot_have_it_sealed_with_the_identity(self) -> None:
        self.own = (HOME, OTHER, THIRD)
        self.fake(HOME).prekey = None
        self.fake(OTHER).down = ConnectionRefusedError()
        self.start()
        self.send()
        (posted,) = self.posted()
        self.assertEqual((posted.relay, posted.forward_secret), (HOME.public, True))
        self.assertEqual(self.fake(THIRD).asked, 1)

    def test_nor_can_one_that_the_sender_has_named(self) -> None:
        assert self.table is not None
        hint = (at(THIRD).address.text, True)
        self.fake(THIRD).prekey = None
        self.table.items[self.name] = BOBS.raw
        self.start()
        self.send(hint=hint)
        self.fake(HOME).prekey = BOBS
        self.table.items.clear()
        self.send(hint=hint)
        self.assertEqual(
            [(each.relay, each.forward_secret) for each in self.posted()],
            [(THIRD.public, True)] * 2,
        )

    def test_when_nobody_has_one_all_were_asked_once(self) -> None:
        self.own = (HOME, OTHER)
        for each in self.own:
            self.fake(each).prekey = None
        self.start()
        self.send()
        self.assertEqual([each.forward_secret for each in self.posted()], [False])
        self.assertEqual([self.fake(each).asked for each in self.own], [1, 1])

    def test_one_that_we_use_ourselves_is_dialled_as_we_were_told_to(self) -> None:
        assert self.table is not None
        elsewhere = RelayPlace(HOME.public, HostPort("old.example", 9), True)
        self.table.items[self.name] = RING.sign(BOB, [elsewhere]).raw
        self.start()
        self.send()
        self.assertEqual(self.taken, [at(HOME)])

    def test_what_is_no_prekey_of_his_leads_nowhere(self) -> None:
        assert self.table is not None
        expired = self.now() + MAX_TTL
        for raw in (b"", b"x" * 600, RING.sign(ADA, [place(OTHER)]).raw):
            self.table.items[self.name] = raw
            self.start()
            self.send()
            self.assertEqual(self.taken[-1:], [at(HOME)])
            self.courier.stop()
        self.table.items[self.name] = RING.sign(BOB, [place(OTHER)]).raw
        self.seconds = expired
        self.fake(HOME).prekey = None
        self.start()
        self.send()
        self.assertEqual(self.taken[-1:], [at(HOME)])

    def test_a_hash_table_that_is_not_there_is_done_without(self) -> None:
        assert self.table is not None
        self.table.fails = True
        self.start()
        self.send()
        self.assertEqual(self.states(), ["kept"])

    def test_who_names_the_relay_asks_no_hash_table(self) -> None:
        assert self.table is not None
        self.start()
        self.send(hint=(at(THIRD).address.text, True))
        self.assertEqual((self.taken, self.table.asked), ([at(THIRD, "blind")], 0))

    def test_when_he_has_moved_the_new_place_is_found_by_trying_again(self) -> None:
        assert self.table is not None
        self.know(RING.sign(BOB, [place(OTHER)]))
        self.own = ()
        self.fake(OTHER).down = ConnectionRefusedError()
        self.start()
        self.send()
        self.assertEqual((self.states(), self.table.asked), (["waiting"], 0))
        later = RING.turned(self.now() + ROTATED, Random(4)).sign(BOB, [place(THIRD)])
        self.table.items[self.name] = later.raw
        self.seconds += ROTATED
        self.courier.hurry()
        self.run_for(0)
        self.assertEqual(self.states(), ["given up"])
        self.send()
        self.assertEqual(self.taken[-1], at(THIRD))


class NowhereTests(CourierCase):
    own = ()

    def test_where_nobody_knows_a_relay_it_says_so_and_waits(self) -> None:
        self.start()
        self.send()
        (posted,) = self.posted()
        self.assertIn("it is not known where", str(posted.error))
        self.assertEqual(evolve(posted, error=None, attempts=0).state, "waiting")
