from __future__ import annotations

from typing import Any

import treq
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from meshkit import errors
from meshkit.operations import BoundOperation, Nothing, Operation
from meshkit.web.callers import ANYONE, OWNER, Caller, Scope
from meshkit.web.dispatch import Called, Dispatcher
from meshkit.web.limits import RequestHead
from meshkit.web.rest import RestDoor
from tests.web.stage import CLIENT, DOOR, Toys


class DispatcherTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.toys = Toys()
        self.seen: list[Called] = []
        early = BoundOperation(
            Operation("alive", "GET", "/v1/alive", Nothing, None, "", public=True, early=True),
            self.toys.nothing,
        )
        self.dispatcher = Dispatcher(
            [*self.toys.operations(), early],
            ready=self.toys.ready,
            clock=self.clock,
            observe=self.seen.append,
        )

    def run_one(self, name: str, arguments: bytes = b"{}", caller: Caller = OWNER) -> Deferred[Any]:
        bound = self.dispatcher.find(name)
        request = self.dispatcher.reader(name).from_arguments(arguments)
        return Deferred.fromCoroutine(self.dispatcher.run(bound, request, caller, "test"))

    def codes(self) -> list[str]:
        return [called.code for called in self.seen]

    def test_the_answer_is_what_the_handler_gave(self) -> None:
        asked = b'{"author": "x", "after": 3}'
        answer = self.successResultOf(self.run_one("author", asked))
        self.assertEqual((answer.author, answer.after), ("x", 3))
        self.assertEqual(self.seen, [Called("author", "test", "owner", "OK", 0.0)])

    def test_fields_of_the_path_are_arguments_like_the_others(self) -> None:
        reader = self.dispatcher.reader("forget_peer")
        asked: Any = reader.from_arguments(b'{"address": "a/b", "force": true}')
        self.assertEqual((asked.address, asked.force), ("a/b", True))
        for wrong in (b"", b"[]", b"{}", b'{"adress": ""}', b'{"address": 1}', b"{", b"\xff"):
            with self.assertRaises(errors.InvalidRequest, msg=repr(wrong)) as caught:
                reader.from_arguments(wrong)
            self.assertRegex(str(caught.exception), "arguments|address")

    def test_raw_json_stays_as_it_was_spelt(self) -> None:
        asked: Any = self.dispatcher.reader("publish").from_arguments(b'{"content": 1.0}')
        self.assertEqual(bytes(asked.content), b"1.0")

    def test_a_handler_is_told_who_calls_if_it_asks_for_it(self) -> None:
        operation = Operation("who", "GET", "/v1/who", Nothing, str, "Who?")
        bound = BoundOperation(operation, lambda request, who: who.name, with_caller=True)
        dispatcher = Dispatcher([bound], ready=lambda: True)
        reader = Caller("r", (Scope.parse("read"),))
        running = Deferred.fromCoroutine(dispatcher.run(bound, Nothing(), reader, "test"))
        self.assertEqual(self.successResultOf(running), "r")

    def test_who_has_no_scope_is_refused_before_the_handler_runs(self) -> None:
        reader = Caller("r", (Scope.parse("read"),))
        for caller in (ANYONE, reader):
            failing = self.run_one("note", b'{"author": "a", "text": "t"}', caller)
            error = self.failureResultOf(failing, errors.PermissionDenied).value
            self.assertIn("write:note", str(error))
        self.assertEqual(self.toys.asked, [])
        self.assertEqual(self.codes(), ["PERMISSION_DENIED"] * 2)

    def test_before_the_node_is_ready_only_early_operations_are_answered(self) -> None:
        self.toys.is_ready = False
        self.failureResultOf(self.run_one("status"), errors.NotReady)
        self.successResultOf(self.run_one("alive", caller=ANYONE))

    def test_time_is_measured_until_the_answer(self) -> None:
        running = self.run_one("wait")
        self.clock.advance(2.5)
        self.assertEqual(self.seen, [])
        self.toys.waiting[0].callback(None)
        self.successResultOf(running)
        self.assertEqual(self.seen[0].seconds, 2.5)

    def test_cancelling_cancels_what_the_handler_waits_for(self) -> None:
        running = self.run_one("wait")
        running.cancel()
        self.failureResultOf(running, errors.NotReady)
        self.assertEqual(self.toys.cancelled, 1)
        self.assertEqual(self.codes(), ["NOT_READY"])

    def test_what_nobody_foresaw_is_logged_and_tells_nothing(self) -> None:
        error = self.failureResultOf(self.run_one("fail", b'{"name": "no_such"}')).value
        self.assertIs(type(error), errors.MeshkitError)
        self.assertNotIn("secret", str(error))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.codes(), ["INTERNAL_ERROR"])

    def test_an_operation_that_does_not_exist_is_not_found(self) -> None:
        with self.assertRaises(errors.NotFound):
            self.dispatcher.find("x" * 1000)

    def test_one_name_cannot_be_two_operations(self) -> None:
        twice = self.toys.operations()[:1] * 2
        with self.assertRaises(errors.PartConflict):
            Dispatcher(twice, ready=self.toys.ready)

    def test_what_a_door_refuses_before_it_asks_is_counted_once_as_well(self) -> None:
        reader = Caller("r", (Scope.parse("read"),))
        door = RestDoor(self.dispatcher, clock=self.clock, unguarded=reader)
        client = treq.client.HTTPClient(RequestTraversalAgent(door.resource()))
        for method, path in (
            ("POST", "/v1/notes/ada"),
            ("GET", "/v1/feed?limit=many"),
            ("GET", "/v1/fail/NotFound"),
            ("GET", "/v1/status"),
        ):
            self.successResultOf(client.request(method, f"http://localhost{path}"))
        refused = ["PERMISSION_DENIED", "INVALID_REQUEST", "NOT_FOUND", "OK"]
        self.assertEqual(self.codes(), refused)
        self.assertEqual({(called.door, called.caller) for called in self.seen}, {("rest", "r")})
        head = RequestHead("POST", "/v1/notes/ada", Headers(), 9, DOOR, CLIENT)
        self.assertIsInstance(door.admit(head), errors.PermissionDenied)
        self.assertEqual(self.codes(), [*refused, "PERMISSION_DENIED"])
