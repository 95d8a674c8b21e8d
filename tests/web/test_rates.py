"""Tests of L{meshkit.web.rates}, and of the door's answers to who asks for too much."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import RateLimited
from meshkit.operations import BoundOperation, Item, Nothing, Operation
from meshkit.web.callers import ANYONE, Caller, Scope
from meshkit.web.doorkeeper import Doorkeeper
from meshkit.web.rates import (
    BODY_UNIT,
    BURST_SECONDS,
    GUESS_LOG_SECONDS,
    GUESS_RATE,
    GUESSES,
    Rates,
    body_cost,
)
from tests.web.stage import TOKEN, Answer, Connection, Stage, node_door, request

READER = (Scope("read"),)
TICKS = Operation("ticks", "GET", "/v1/ticks", Nothing, int, "Three.", stream=True)


class RatesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.caller = Caller("x", READER)
        self.owner = Caller("owner", (Scope("admin"),), limited=False)

    def granted(self, rates: Rates, caller: Caller, cost: float = 1.0) -> int:
        """How many are granted at once."""
        for count in range(100_000):
            try:
                rates.charge(caller, cost)
            except RateLimited:
                return count
        return -1

    def wait(self, rates: Rates, caller: Caller, cost: float = 1.0) -> float:
        error = self.assertRaises(RateLimited, rates.charge, caller, cost)
        seconds = dict(error.details or {})["retry_after"]
        assert isinstance(seconds, float)
        return seconds

    def test_each_caller_is_granted_its_rate_and_a_burst(self) -> None:
        rates = Rates(self.clock, rate=5)
        self.assertEqual(self.granted(rates, self.caller), 5 * BURST_SECONDS)
        self.assertAlmostEqual(self.wait(rates, self.caller), 0.2)
        # Another one has a bucket of its own.
        self.assertEqual(self.granted(rates, Caller("x", READER)), 50)
        self.clock.advance(1)
        self.assertEqual(self.granted(rates, self.caller), 5)

    def test_no_stranger_can_use_up_what_probes_need(self) -> None:
        rates = Rates(self.clock, rate=5, owner_rate=5)
        self.assertEqual(self.granted(rates, ANYONE), -1)
        rates.owe(ANYONE, 1e9)
        rates.charge(ANYONE)
        self.assertEqual(len(rates), 0)

    def test_the_owner_is_limited_only_where_that_is_set(self) -> None:
        self.assertEqual(self.granted(Rates(self.clock, rate=5), self.owner), -1)
        self.assertEqual(self.granted(Rates(self.clock, rate=5, owner_rate=7), self.owner), 70)

    def test_nobody_is_where_it_is_set_to_nothing(self) -> None:
        rates = Rates(self.clock, rate=0)
        self.assertEqual(self.granted(rates, self.caller), -1)
        rates.owe(self.caller, 1e9)
        rates.charge(self.caller)
        self.assertEqual(len(rates), 0)

    @given(
        st.integers(1, 1000),
        st.lists(st.tuples(st.floats(0, 30), st.floats(0.1, 100)), max_size=30),
    )
    def test_what_is_asked_for_after_the_wait_is_granted_and_not_before(
        self, rate: int, asked: list[tuple[float, float]]
    ) -> None:
        clock = Clock()
        rates = Rates(clock, rate=rate)
        for pause, cost in asked:
            clock.advance(pause)
            try:
                rates.charge(self.caller, cost)
            except RateLimited:
                wait = self.wait(rates, self.caller, cost)
                if wait > 1e-3:
                    clock.advance(wait - 1e-4)
                    self.wait(rates, self.caller, cost)
                    clock.advance(2e-4)
                else:
                    clock.advance(wait + 1e-4)
                rates.charge(self.caller, cost)

    def test_a_body_counts_by_its_size_when_it_is_here(self) -> None:
        self.assertEqual(body_cost(0), 0)
        self.assertEqual(body_cost(10 * BODY_UNIT), 10)
        rates = Rates(self.clock, rate=1)
        rates.charge(self.caller)
        rates.owe(self.caller, body_cost(100 * BODY_UNIT))
        # 10 - 1 - 100, and one is wanted.
        self.assertAlmostEqual(self.wait(rates, self.caller), 92.0)

    def test_what_is_remembered_is_limited(self) -> None:
        rates = Rates(self.clock, rate=1, max_callers=3)
        callers = [Caller(str(n), READER) for n in range(5)]
        for caller in (*callers[:3], callers[0], *callers[3:]):
            rates.charge(caller)
            self.assertLessEqual(len(rates), 3)
        # The ones that were quiet for longest were forgotten, and begin anew.
        self.assertEqual(self.granted(rates, callers[0]), 8)
        self.assertEqual(self.granted(rates, callers[1]), 10)

    def test_a_rate_is_a_number_of_requests(self) -> None:
        for wrong in ({"rate": -1}, {"owner_rate": -1}):
            with self.assertRaises(ValueError):
                Rates(self.clock, **wrong)

    def test_wrong_tokens_have_one_bucket_for_all(self) -> None:
        rates = Rates(self.clock)
        for _ in range(GUESSES):
            rates.guessed()
        error = self.assertRaises(RateLimited, rates.guessed)
        self.assertAlmostEqual(dict(error.details or {})["retry_after"], 1 / GUESS_RATE)
        self.clock.advance(1)
        for _ in range(GUESS_RATE):
            rates.guessed()
        self.assertRaises(RateLimited, rates.guessed)
        # It takes nothing from anybody, and no memory.
        self.assertEqual((self.granted(rates, self.caller), len(rates)), (1000, 1))

    def test_the_log_has_a_line_a_minute_about_them(self) -> None:
        events: list[Any] = []
        observer: Any = events.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        rates = Rates(self.clock)
        for _ in range(3 * int(GUESS_LOG_SECONDS)):
            with contextlib.suppress(RateLimited):
                rates.guessed()
            self.clock.advance(1)
        counts = [event["count"] for event in events if "wrong tokens" in event["log_format"]]
        self.assertEqual(counts, [1, 60, 60])


class LimitedDoorTests(SynchronousTestCase):
    """Seen from outside."""

    def setUp(self) -> None:
        self.stage = Stage()
        self.rates = Rates(self.stage.clock, rate=1)
        self.caller = Caller("agent", (Scope("write"),))
        owner = Doorkeeper(TOKEN)
        self.door = node_door(
            self.stage.clock,
            [*self.stage.toys.operations(), BoundOperation(TICKS, self.ticks)],
            lambda shown: self.caller if shown == b"agents" else owner(shown),
            rate=1,
        )
        self.stage.site = self.door.site

    async def ticks(self, request: Nothing) -> AsyncIterator[Item]:
        return self.three()

    async def three(self) -> AsyncIterator[Item]:
        for number in range(3):
            yield Item(number)

    def ask(self, *args: Any, token: str | None = "agents", **headers: str) -> Answer:
        shown = None if token is None else f"Bearer {token}"
        return self.stage.ask(*args, headers={"Authorization": shown, **headers})

    def test_who_asks_for_too_much_is_told_exactly_how_long_to_wait(self) -> None:
        for _ in range(10):
            self.assertEqual(self.ask("GET", "/v1/status").status, 200)
        self.stage.clock.advance(0.25)
        answer = self.ask("GET", "/v1/status")
        self.assertEqual((answer.status, answer.code), (429, "RATE_LIMITED"))
        self.assertEqual(answer.headers["retry-after"], ["1"])
        self.assertAlmostEqual(answer.json["error"]["details"]["retry_after"], 0.75)
        self.assertEqual(len(self.stage.toys.asked), 10)
        # The owner notices nothing.
        self.assertEqual(self.ask("GET", "/v1/status", token=TOKEN.decode()).status, 200)
        self.stage.clock.advance(0.76)
        self.assertEqual(self.ask("GET", "/v1/status").status, 200)

    def test_a_wait_is_in_whole_seconds_and_never_too_short(self) -> None:
        self.door.operations.charge(self.caller, 12.5, 0)
        answer = self.ask("GET", "/v1/status")
        self.assertEqual(answer.headers["retry-after"], ["4"])
        self.stage.clock.advance(3)
        self.assertEqual(self.ask("GET", "/v1/status").headers["retry-after"], ["1"])
        self.stage.clock.advance(1)
        self.assertEqual(self.ask("GET", "/v1/status").status, 200)

    def test_what_is_refused_for_another_reason_costs_too(self) -> None:
        for _ in range(10):
            self.assertEqual(self.ask("GET", "/nowhere").status, 404)
        self.assertEqual(self.ask("GET", "/nowhere").status, 429)

    def test_a_body_is_paid_for_whether_it_was_announced_or_not(self) -> None:
        body = b'{"content": "' + b"x" * (8 * BODY_UNIT - 15) + b'"}'
        self.assertEqual(len(body), 8 * BODY_UNIT)
        self.assertEqual(self.ask("POST", "/v1/publish", body).status, 201)
        self.assertEqual(self.ask("GET", "/v1/status").status, 200)
        self.assertEqual(self.ask("GET", "/v1/status").headers["retry-after"], ["1"])
        self.stage.clock.advance(100)
        head = request(
            "POST",
            "/v1/publish",
            None,
            {
                "Authorization": "Bearer agents",
                "Content-Type": "application/json",
                "Transfer-Encoding": "chunked",
            },
        )
        connection = Connection(self.stage.site)
        connection.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        self.assertEqual(connection.answers("POST")[0].status, 201)
        connection.lose()
        self.assertEqual(self.ask("GET", "/v1/status").status, 200)
        self.assertEqual(self.ask("GET", "/v1/status").headers["retry-after"], ["1"])

    def test_a_flood_of_wrong_tokens_keeps_no_right_one_out(self) -> None:
        codes = []
        for n in range(3 * GUESSES):
            answer = self.ask("GET", "/v1/status", token=f"guess{n}")
            codes.append(answer.code)
            if n % 50 == 0:
                self.assertEqual(self.ask("GET", "/v1/status", token=TOKEN.decode()).status, 200)
        self.assertEqual(codes, ["UNAUTHORIZED"] * GUESSES + ["RATE_LIMITED"] * 2 * GUESSES)
        self.assertEqual(answer.headers["retry-after"], ["1"])
        self.assertEqual(self.ask("GET", "/v1/status").status, 200)
        self.assertEqual(self.ask("GET", "/v1/status", token=TOKEN.decode()).status, 200)

    def test_a_stream_costs_more_than_a_request(self) -> None:
        begun = []
        for _ in range(2):
            connection = self.stage.connect()
            shown: dict[str, Any] = {"Authorization": "Bearer agents"}
            connection.send(request("GET", "/v1/ticks", None, shown))
            begun.append(connection.transport.value())
            connection.lose()
        # 10 in the bucket, of which one takes 6.
        self.assertIn(b"data: 2\n", begun[0])
        self.assertIn(b'"retry_after":3.0', begun[1])
        self.assertIn(b"\r\nRetry-After: 3\r\n", begun[1])
        self.stage.clock.advance(3)
        connection = self.stage.connect()
        connection.send(request("GET", "/v1/ticks", None, shown))
        self.assertIn(b"data: 2\n", connection.transport.value())
        connection.lose()
