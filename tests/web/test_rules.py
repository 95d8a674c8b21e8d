"""What HTTP itself promises at the door: keys against repetition, validators, compression."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.operations import BoundOperation, Operation
from meshkit.web.limits import LimitedSite
from tests.web.stage import Answer, Connection, request, rest_door


class Keyed(msgspec.Struct, forbid_unknown_fields=True):
    text: str = ""
    once: Annotated[str, msgspec.Meta(pattern="^[!-~]{1,10}$")] | None = None


class Case(SynchronousTestCase):
    """A door with the operations of a test."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.asked: list[Any] = []
        door = rest_door([*self.operations()], clock=self.clock)
        self.site = LimitedSite(
            door.resource(), self.clock, max_body=door.max_body, admit=door.admit
        )

    def operations(self) -> list[BoundOperation]:
        raise NotImplementedError

    def bound(self, handler: Any, *args: Any, **more: Any) -> BoundOperation:
        return BoundOperation(Operation(*args, **more), handler)

    def echo(self, request: Any) -> Any:
        self.asked.append(request)
        return request

    def ask(
        self, method: str, target: str, body: bytes | None = None, **headers: str | list[str]
    ) -> Answer:
        spelt: Any = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = Connection(self.site)
        connection.send(request(method, target, body, spelt))
        (answer,) = connection.answers(method)
        connection.lose()
        return answer


class IdempotencyKeyTests(Case):
    def operations(self) -> list[BoundOperation]:
        return [
            self.bound(
                self.echo, "keyed", "POST", "/v1/keyed", Keyed, Keyed, "", "write", key="once"
            ),
            self.bound(self.echo, "plain", "POST", "/v1/plain", Keyed, Keyed, "", "write"),
        ]

    def test_the_header_is_a_field_of_the_request(self) -> None:
        for spelt in ("abc-1", '"abc-1"'):
            self.ask("POST", "/v1/keyed", b'{"text": "x"}', Idempotency_Key=spelt)
            self.assertEqual(self.asked.pop(), Keyed("x", "abc-1"))
        self.ask("POST", "/v1/keyed", Idempotency_Key="k")
        self.assertEqual(self.asked.pop(), Keyed("", "k"))
        self.ask("POST", "/v1/keyed", b'{"once": "inside"}')
        self.assertEqual(self.asked.pop(), Keyed("", "inside"))

    def test_the_header_counts_for_more_than_the_body(self) -> None:
        self.ask("POST", "/v1/keyed", b'{"once": "inside"}', Idempotency_Key="outside")
        self.assertEqual(self.asked.pop(), Keyed("", "outside"))

    def test_one_that_cannot_be_used_is_refused(self) -> None:
        for given in ("", '""', '"', "x" * 11, "a b", "\xe9", ["a", "a"]):
            # A single quote is a character like any other.
            expected = 200 if given == '"' else 400
            answer = self.ask("POST", "/v1/keyed", b"{}", Idempotency_Key=given)
            self.assertEqual((given, answer.status), (given, expected))
            if expected == 400:
                self.assertEqual(answer.code, "INVALID_REQUEST")
                self.assertEqual(answer.json["error"]["details"], {"field": "once"})

    def test_an_operation_without_such_a_field_does_not_look_at_it(self) -> None:
        self.ask("POST", "/v1/plain", b"{}", Idempotency_Key="k")
        self.assertEqual(self.asked.pop(), Keyed())
