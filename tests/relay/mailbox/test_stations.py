"""Our mailbox at one relay, whatever that relay does."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import CallTimedOut, MailboxFull, RemoteError
from meshkit.identity.addresses import MeshAddress
from meshkit.interfaces import Relay
from meshkit.relay.mailbox.collecting import Collected
from meshkit.relay.mailbox.prekeys import MAX_TTL, ROTATED, Prekey
from meshkit.relay.mailbox.stations import (
    FIRST_PAUSE,
    GRACE,
    HELD,
    LAST_PAUSE,
    LEAST,
    MOST,
    Station,
)
from meshkit.relay.mailbox.wire import PUBLISH, WAIT
from meshkit.testing.nodes import run_clock
from tests.relay.mailbox.letters import BOB, NOW, PREKEY, RELAY, RING

NOTHING = Collected(0, 0, {}, False)
ONE = Collected(1, 0, {}, False)
AT = Relay(MeshAddress("relay.example", 7661, RELAY.public), "member")


class FakeRelay:
    """
    Connections to a relay, and the relay.

    @ivar published: prekeys that it was given.
    @ivar waits: calls that are held.
    @ivar dials: when it was dialled.
    @ivar aborted: connections that were cut off.
    @ivar down: why it cannot be reached.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.published: list[bytes] = []
        self.waits: list[Deferred[bool]] = []
        self.dials: list[float] = []
        self.aborted = 0
        self.given_back = 0
        self.down: Exception | None = None
        self.answer_at_once = False

    def take(self, relay: Relay) -> Deferred[Any]:
        self.dials.append(self.clock.seconds())
        return succeed(self) if self.down is None else fail(self.down)

    def give_back(self, relay: Relay) -> None:
        self.given_back += 1

    def call(self, method: Any, request: Any, timeout: float = 30.0) -> Deferred[Any]:
        if method is PUBLISH:
            self.published.append(request.prekey)
            return succeed(PREKEY.expires + MAX_TTL)
        assert method is WAIT and timeout == request.seconds + GRACE
        if self.answer_at_once:
            return succeed(True)
        waiting: Deferred[bool] = Deferred()
        waiting.addTimeout(
            timeout, self.clock, lambda *_: fail(CallTimedOut("it does not answer any more"))
        )
        self.waits.append(waiting)
        return waiting

    def abort(self) -> None:
        self.aborted += 1
        for waiting in self.waits:
            if not waiting.called:
                waiting.errback(RemoteError("the connection is gone", "CLOSED"))


class StationTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.relay = FakeRelay(self.clock)
        self.prekey: Prekey = PREKEY
        self.collected: Callable[[], Any] = lambda: NOTHING
        self.looks: list[float] = []
        self.reached = 0
        self.station = Station(
            self.clock,
            AT,
            self.relay,  # type: ignore[arg-type]
            prekey=lambda: succeed(self.prekey),
            collect=self.collect,
            reached=self.note_reached,
            rng=Random(1),
        )
        self.addCleanup(self.station.stop)

    async def collect(self, connection: Any, relay: Relay) -> Collected:
        self.looks.append(self.clock.seconds())
        found = self.collected()
        assert isinstance(found, Collected)
        return found

    def note_reached(self) -> None:
        self.reached += 1

    def run_for(self, seconds: float) -> None:
        run_clock(self.clock, seconds)

    def test_it_publishes_collects_and_waits(self) -> None:
        self.station.start()
        self.assertEqual(self.relay.published, [PREKEY.raw])
        self.assertEqual((self.station.state, self.reached), ("connected", 1))
        self.assertEqual(self.station.open_until, NOW + 2 * MAX_TTL)
        self.assertEqual((len(self.looks), len(self.relay.waits)), (1, 1))

    def test_it_looks_as_soon_as_it_is_told(self) -> None:
        self.station.start()
        self.run_for(50)
        self.collected = lambda: ONE
        self.relay.waits[-1].callback(True)
        self.assertEqual(self.looks, [0, 50])
        self.assertEqual(len(self.relay.waits), 2)

    def test_it_publishes_a_prekey_once_and_the_next_one_when_it_was_turned(self) -> None:
        self.station.start()
        self.run_for(HELD)
        self.relay.waits[-1].callback(False)
        self.assertEqual(self.relay.published, [PREKEY.raw])
        self.prekey = RING.turned(NOW + ROTATED, Random(1)).sign(BOB)
        self.run_for(HELD)
        self.relay.waits[-1].callback(False)
        self.assertEqual(self.relay.published, [PREKEY.raw, self.prekey.raw])

    def test_one_that_calls_for_nothing_is_looked_at_now_and_then(self) -> None:
        self.relay.answer_at_once = True
        self.station.start()
        self.run_for(3_600)
        pauses = [after - before for before, after in pairwise(self.looks)]
        self.assertEqual(pauses[:6], [0, LEAST, 2 * LEAST, 4 * LEAST, 8 * LEAST, MOST])
        self.assertEqual(set(pauses[6:]), {MOST})

    def test_nor_is_one_followed_that_gives_the_same_again(self) -> None:
        for again in (
            Collected(0, 1, {}, False),
            Collected(0, 0, {"MAILBOX_MESSAGE_INVALID": 1}, False),
            Collected(0, 0, {}, False, early=1),
        ):
            self.collected = lambda again=again: again  # type: ignore[misc]
            self.looks.clear()
            self.relay.answer_at_once = True
            self.station.start()
            self.run_for(600)
            self.assertLess(len(self.looks), 16)
            self.station.stop()

    def test_it_is_followed_again_when_something_new_has_come(self) -> None:
        self.relay.answer_at_once = True
        self.station.start()
        self.run_for(600)
        found = [ONE]
        self.collected = lambda: found.pop() if found else NOTHING
        self.looks.clear()
        self.station.hurry()
        self.run_for(3 * LEAST)
        pauses = [after - before for before, after in pairwise(self.looks)]
        self.assertEqual(pauses, [0, LEAST, 2 * LEAST])

    def test_who_asks_for_a_look_does_not_wait_for_the_pause(self) -> None:
        self.relay.answer_at_once = True
        self.station.start()
        self.run_for(600)
        self.looks.clear()
        self.station.hurry()
        self.assertEqual(len(self.looks), 1)

    def test_one_of_two_with_one_identity_does_not_fight_over_the_call(self) -> None:
        self.station.start()
        for _ in range(10):
            # The other one comes, and the relay ends our call.
            self.relay.waits[-1].callback(False)
            self.run_for(LEAST)
        self.assertEqual(len(self.looks), 11)

    def test_one_that_has_messages_is_not_kept_waiting(self) -> None:
        found = [ONE] * 10
        self.collected = lambda: found.pop() if found else NOTHING
        self.relay.answer_at_once = True
        self.station.start()
        self.assertEqual(len(self.looks), 11)

    def test_one_that_has_more_than_there_can_be_is_left_alone_for_a_while(self) -> None:
        self.collected = lambda: Collected(0, 0, {"MAILBOX_MESSAGE_INVALID": 2_000}, True)
        self.station.start()
        self.assertEqual((self.station.state, len(self.looks)), ("waiting", 1))
        self.assertIn("INVALID_ANSWER", str(self.station.last_error))
        self.run_for(600)
        # Two seconds, four, eight, and so on, or a little less.
        self.assertLess(len(self.looks), 12)

    def test_one_that_does_not_answer_any_more_is_cut_off_and_dialled_again(self) -> None:
        self.station.start()
        self.run_for(HELD + GRACE)
        self.assertEqual((self.relay.aborted, self.station.state), (1, "waiting"))
        self.run_for(FIRST_PAUSE)
        self.assertEqual((len(self.relay.dials), self.station.state), (2, "connected"))
        self.assertIsNone(self.station.last_error)
        # It is another connection: what was published on the first may be lost.
        self.assertEqual(self.relay.published, [PREKEY.raw] * 2)

    def test_pauses_grow_up_to_a_limit(self) -> None:
        self.relay.down = ConnectionRefusedError()
        self.station.start()
        self.run_for(3_600)
        dials = self.relay.dials
        pauses = [after - before for before, after in zip(dials, dials[1:], strict=False)]
        for number, pause in enumerate(pauses):
            longest = min(FIRST_PAUSE * 2**number, LAST_PAUSE)
            self.assertTrue(longest / 2 <= pause <= longest, pauses)
        self.assertGreater(len(pauses), 12)
        self.assertEqual((self.station.failing, self.relay.given_back), (len(dials), 0))
        self.relay.down = None
        self.run_for(LAST_PAUSE)
        self.assertEqual((self.station.state, self.station.failing), ("connected", 0))

    def test_it_can_be_told_not_to_wait(self) -> None:
        self.relay.down = ConnectionRefusedError()
        self.station.start()
        self.run_for(3_600)
        self.relay.down = None
        self.station.hurry()
        self.assertEqual(self.station.state, "connected")

    def test_after_a_sleep_it_begins_anew_at_once(self) -> None:
        self.station.start()
        self.station.begin_anew()
        self.assertEqual((self.relay.aborted, self.station.state), (1, "connected"))
        self.assertEqual(self.relay.dials, [0, 0])

    def test_when_there_is_no_room_here_it_says_so_and_tries_again(self) -> None:
        def full() -> Any:
            raise MailboxFull("no room")

        self.collected = full
        self.station.start()
        self.assertEqual((self.station.state, self.reached), ("waiting", 0))
        self.assertIn("MAILBOX_FULL: no room", str(self.station.last_error))
        self.assertEqual(self.relay.given_back, 1)

    def test_a_fault_of_ours_is_logged_and_does_not_end_it(self) -> None:
        def broken() -> Any:
            raise ZeroDivisionError

        self.collected = broken
        self.station.start()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.collected = lambda: NOTHING
        self.run_for(FIRST_PAUSE)
        self.assertEqual(self.station.state, "connected")

    def test_when_it_is_stopped_nothing_is_left(self) -> None:
        for seconds, down in ((0, None), (30, ConnectionRefusedError())):
            self.relay.down = down
            self.station.start()
            self.run_for(seconds)
            self.station.stop()
            for waiting in self.relay.waits:
                self.assertTrue(waiting.called)
            self.assertEqual(self.clock.getDelayedCalls(), [])
            self.assertEqual(self.station.state, "stopped")
