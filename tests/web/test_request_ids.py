"""Each request has a name: in its answer, and in what is logged for it."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from meshkit.runtime.logs import noted
from meshkit.web.callers import OWNER
from meshkit.web.dispatch import Dispatcher
from meshkit.web.request_ids import RequestIds
from tests.web.stage import Stage, Toys, request


class NameTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.ids = RequestIds(Random(1))

    def test_names_are_given_once(self) -> None:
        names = {self.ids.new() for _ in range(100)} | {RequestIds(Random(2)).new()}
        self.assertEqual(len(names), 101)

    def test_a_sane_name_of_the_clients_is_taken_over(self) -> None:
        for name in (b"a", b"550e8400-e29b-41d4-a716-446655440000", b"x" * 64, b"A.b_c-9"):
            self.assertEqual(self.ids.of([name]), name.decode())

    def test_any_other_is_not(self) -> None:
        for given_names in ([], [b""], [b"x" * 65], [b"a b"], [b"a\n"], [b"\xc3\xa9"], [b"a"] * 2):
            self.assertRegex(self.ids.of(given_names), r"^[0-9a-f]{10}-\d+$")

    @given(st.lists(st.binary(max_size=80), max_size=2))
    def test_whatever_is_sent_the_name_can_stand_in_a_header(self, sent: list[bytes]) -> None:
        self.assertRegex(RequestIds(Random(1)).of(sent), r"\A[A-Za-z0-9._-]{1,64}\Z")


class AnswerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.stage = Stage(request_ids=RequestIds(Random(1)))
        self.logged: list[Any] = []
        self.names: list[str | None] = []

        def watch(event: Any) -> None:
            self.logged.append(event)
            self.names.append(noted().get("request_id"))

        globalLogPublisher.addObserver(watch)
        self.addCleanup(globalLogPublisher.removeObserver, watch)

    def name_of(self, *args: Any, **kwargs: Any) -> str:
        (name,) = self.stage.ask(*args, **kwargs).headers["x-request-id"]
        return name

    def test_every_answer_names_its_request(self) -> None:
        mine: Any = {"X-Request-Id": "mine.1"}
        self.assertEqual(self.name_of("GET", "/v1/status", headers=mine), "mine.1")
        self.assertEqual(self.name_of("HEAD", "/v1/status", headers=mine), "mine.1")
        self.assertEqual(self.name_of("GET", "/nowhere", headers=mine), "mine.1")
        self.assertEqual(self.name_of("PUT", "/v1/status", headers=mine), "mine.1")
        refused: Any = {**mine, "Authorization": "Bearer wrong"}
        self.assertEqual(self.name_of("GET", "/v1/status", headers=refused), "mine.1")
        self.assertEqual(
            self.name_of("POST", "/v1/publish", b"x" * 10, {**mine, "Content-Length": "9" * 10}),
            "mine.1",
        )
        self.assertNotEqual(self.name_of("GET", "/v1/status"), self.name_of("GET", "/v1/status"))

    def test_who_is_refused_before_the_name_was_read_is_given_one(self) -> None:
        huge: Any = {"X-Filler": "x" * 20_000, "X-Request-Id": "mine"}
        self.assertRegex(self.name_of("GET", "/v1/status", headers=huge), r"^[0-9a-f]{10}-1$")

    def test_two_requests_on_one_connection_have_their_own(self) -> None:
        connection = self.stage.connect()
        for name in ("one", None):
            connection.send(request("GET", "/v1/status", headers={"X-Request-Id": name}))
        one, two = connection.answers("GET", "GET")
        self.assertEqual(one.headers["x-request-id"], ["one"])
        self.assertNotEqual(two.headers["x-request-id"], ["one"])
        connection.lose()

    def test_what_is_logged_for_a_request_bears_its_name(self) -> None:
        mine: Any = {"X-Request-Id": "mine"}
        self.stage.ask("GET", "/v1/fail/no_such", headers=mine)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.stage.ask("GET", "/v1/odd", headers=mine)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)
        failures = [n for n, e in zip(self.names, self.logged, strict=True) if "log_failure" in e]
        self.assertEqual(failures, ["mine", "mine"])

    def test_a_handler_that_waits_keeps_the_name(self) -> None:
        connection = self.stage.connect()
        connection.send(request("GET", "/v1/wait", headers={"X-Request-Id": "mine"}))
        self.assertEqual(noted().get("request_id"), None)
        self.stage.toys.waiting[0].errback(ZeroDivisionError())
        connection.answers("GET")
        connection.lose()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        (name,) = (n for n, e in zip(self.names, self.logged, strict=True) if "log_failure" in e)
        self.assertEqual(name, "mine")


class DispatcherTests(SynchronousTestCase):
    """Doors whose requests have no names."""

    def setUp(self) -> None:
        self.toys = Toys()
        self.seen: list[dict[str, str]] = []

        def echo(request: Any) -> None:
            self.seen.append(dict(noted()))

        self.patch(Toys, "nothing", lambda _self, request: echo(request))

    def call(self, ids: RequestIds | None) -> None:
        operations = Dispatcher(self.toys.operations(), ready=lambda: True, request_ids=ids)
        bound = operations.find("status")
        running = operations.run(
            bound, operations.reader("status").from_arguments(b"{}"), OWNER, "mcp"
        )
        self.successResultOf(Deferred.fromCoroutine(running))

    def test_each_call_is_given_a_name(self) -> None:
        ids = RequestIds(Random(1))
        self.call(ids)
        self.call(ids)
        one, two = self.seen
        self.assertEqual((one["operation"], one["caller"]), ("status", "owner"))
        self.assertRegex(one["request_id"], "-1$")
        self.assertRegex(two["request_id"], "-2$")
        self.assertEqual(dict(noted()), {})

    def test_without_names_there_are_none(self) -> None:
        self.call(None)
        self.assertNotIn("request_id", self.seen[0])
