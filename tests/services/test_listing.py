"""Tests of L{meshkit.services.listing}: what C{operations_list} tells."""

from __future__ import annotations

from typing import Any

import msgspec
from jsonschema import Draft202012Validator
from twisted.trial.unittest import SynchronousTestCase

from meshkit.operations import BoundOperation, Nothing, Operation
from meshkit.services.listing import Listing
from meshkit.services.operations import OperationField, OperationShown
from meshkit.testing.nodes import MemoryMesh
from meshkit.web.callers import ANYONE, OWNER, Caller, Scope


class Wanted(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    inner_name: str = msgspec.field(name="inner", default="")
    after: int = 0
    once: str | None = None


class Sent(msgspec.Struct, forbid_unknown_fields=True):
    data: bytes
    inner: str = ""


READ = Operation("thing_read", "GET", "/v1/thing/{name}", Wanted, int, "Read.", paged=True)
TAIL = Operation(
    "thing_tail", "GET", "/v1/tail/{name}", Wanted, int, "T.", stream=True, resume="after"
)
MAKE = Operation(
    "thing_make", "POST", "/v1/thing/{name}", Wanted, int, "Make.", "write", key="once"
)
DROP = Operation("thing_drop", "DELETE", "/v1/thing/{name}", Wanted, None, "Drop.", "admin", 204)
TAKE = Operation("thing_take", "POST", "/v1/take", Sent, int, "T.", "write", takes="data")
SEND = Operation("thing_send", "GET", "/v1/send", Nothing, bytes, "S.", sends="text/plain")
PUBLIC = Operation("alive", "GET", "/v1/alive", Nothing, None, "Alive.", public=True)
ALL = (READ, TAIL, MAKE, DROP, TAKE, SEND, PUBLIC)


def listed(caller: Caller = OWNER) -> dict[str, OperationShown]:
    bound = [BoundOperation(each, lambda request: None, part="things") for each in ALL]
    return {each.name: each for each in Listing(bound).shown_to(caller)}


class ListingTests(SynchronousTestCase):
    def places(self, operation: Operation) -> dict[str, tuple[str, bool]]:
        fields = listed()[operation.name].fields
        return {field.name: (field.place, field.required) for field in fields}

    def test_it_says_where_each_field_goes(self) -> None:
        others = ("inner", "after", "once")
        for operation, place in ((READ, "query"), (TAIL, "query"), (MAKE, "body"), (DROP, "query")):
            with self.subTest(operation.name):
                self.assertEqual(
                    self.places(operation),
                    {"name": ("path", True), **dict.fromkeys(others, (place, False))},
                )
        self.assertEqual(self.places(TAKE), {"data": ("raw", True), "inner": ("query", False)})
        self.assertEqual(self.places(SEND), {})

    def test_it_says_which_header_may_stand_for_a_field(self) -> None:
        def headers(operation: Operation) -> dict[str, str]:
            fields: list[OperationField] = listed()[operation.name].fields
            return {field.name: field.header for field in fields if field.header}

        self.assertEqual(headers(MAKE), {"once": "Idempotency-Key"})
        self.assertEqual(headers(TAIL), {"after": "Last-Event-ID"})
        self.assertEqual(headers(READ), {})

    def test_it_says_what_comes_back(self) -> None:
        kinds = {name: each.kind for name, each in listed().items()}
        self.assertEqual(
            kinds,
            {
                "thing_read": "unary",
                "thing_tail": "stream",
                "thing_make": "unary",
                "thing_drop": "unary",
                "thing_take": "raw",
                "thing_send": "raw",
                "alive": "unary",
            },
        )
        self.assertEqual(listed()["thing_send"].sends, "text/plain")
        self.assertTrue(listed()["thing_read"].paged)

    def test_what_a_token_may_not_use_is_listed_but_not_usable(self) -> None:
        for caller, usable in (
            (OWNER, {each.name for each in ALL}),
            (ANYONE, {"alive"}),
            (Caller("x", (Scope.parse("write:thing_ta*"),)), {"thing_tail", "thing_take", "alive"}),
        ):
            with self.subTest(caller.name):
                found = {name for name, each in listed(caller).items() if each.usable}
                self.assertEqual(found, usable)
                self.assertEqual(len(listed(caller)), len(ALL))

    def test_the_schema_is_of_the_request_whatever_the_door(self) -> None:
        for name, each in listed().items():
            with self.subTest(name):
                Draft202012Validator.check_schema(each.request)
                self.assertEqual(
                    list(each.request["properties"]), [field.name for field in each.fields]
                )


class NodeTests(SynchronousTestCase):
    def test_a_node_lists_what_its_parts_offer(self) -> None:
        mesh = MemoryMesh()
        self.addCleanup(mesh.stop)
        node = mesh.node("ada")
        node.start()
        found: dict[str, Any] = {
            each["name"]: each for each in node.ask("GET", "/v1/operations").json["data"]
        }
        self.assertEqual(found["operations_list"]["part"], "node")
        self.assertEqual(found["feed_publish"]["part"], "feed")
        self.assertEqual(found["follows_add"]["part"], "gossip")
        self.assertTrue(all(each["usable"] for each in found.values()))
