"""The OpenAPI document, made from toy operations and from those of a whole node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from jsonschema import Draft202012Validator
from msgspec import Meta
from twisted.trial.unittest import SynchronousTestCase

from meshkit import __version__
from meshkit.errors import ConfigError, NotFound, PeerUnreachable, RemoteError
from meshkit.operations import BoundOperation, Nothing, Operation
from meshkit.testing.nodes import MemoryMesh
from meshkit.web.dispatch import COMMON_ERRORS
from meshkit.web.openapi import DOOR_ERRORS, document


class Toy(msgspec.Struct):
    """
    Something to play with.

    @ivar colour: of it.
    """

    colour: str


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    id: Annotated[str, Meta(description="of the toy")]
    colour: Annotated[str, Meta(max_length=9)] | None = None
    sizes: list[int] = []
    key: Annotated[str, Meta(min_length=1)] | None = None
    after: int = 0
    body: bytes = b""


def bound(part: str = "toys", **declared: Any) -> BoundOperation:
    given: dict[str, Any] = {
        "name": "toy",
        "method": "GET",
        "path": "/v1/toy",
        "request": Nothing,
        "answer": Toy,
        "doc": "A toy.",
    }
    return BoundOperation(Operation(**given | declared), lambda request: None, part)


def declared(**declared: Any) -> Any:
    """@return: what is said of one operation."""
    operation = bound(**declared)
    found = document([operation], "1.2.3")
    return found["paths"][operation.operation.path][operation.operation.method.lower()]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


class RequestTests(SynchronousTestCase):
    def test_a_get_takes_its_fields_from_path_query_string_and_headers(self) -> None:
        said = declared(
            path="/v1/toys/{id}", request=Asked, stream=True, resume="after", etag=False
        )
        self.assertNotIn("requestBody", said)
        self.assertEqual(
            [
                (each["name"], each["in"], each.get("required", False))
                for each in said["parameters"]
            ],
            [
                ("id", "path", True),
                ("colour", "query", False),
                ("sizes", "query", False),
                ("key", "query", False),
                ("after", "query", False),
                ("body", "query", False),
                ("Last-Event-ID", "header", False),
            ],
        )

    def test_there_is_no_null_in_a_query_string(self) -> None:
        colour = declared(path="/v1/toys/{id}", request=Asked)["parameters"][1]
        self.assertEqual(colour["schema"], {"type": "string", "maxLength": 9})

    def test_a_post_takes_what_is_not_in_the_path_from_json(self) -> None:
        said = declared(
            method="POST", path="/v1/toys/{id}", request=Asked, permission="write", max_body=77
        )
        self.assertEqual([each["name"] for each in said["parameters"]], ["id"])
        body = said["requestBody"]
        self.assertFalse(body["required"])
        self.assertEqual(body["description"], "At most 77 bytes.")
        schema = body["content"]["application/json"]["schema"]
        self.assertEqual(list(schema["properties"]), ["colour", "sizes", "key", "after", "body"])
        self.assertFalse(schema["additionalProperties"])
        self.assertIn({"type": "null"}, schema["properties"]["colour"]["anyOf"])

    def test_a_body_is_required_if_one_of_its_fields_is(self) -> None:
        body = declared(method="POST", request=Toy, permission="write")["requestBody"]
        self.assertTrue(body["required"])
        self.assertEqual(body["content"]["application/json"]["schema"]["required"], ["colour"])

    def test_a_body_that_is_taken_as_it_is(self) -> None:
        said = declared(
            method="POST", path="/v1/toys/{id}", request=Asked, permission="write", takes="body"
        )
        self.assertEqual(list(said["requestBody"]["content"]), ["application/octet-stream"])
        self.assertEqual(
            [(each["name"], each["in"]) for each in said["parameters"]],
            [("id", "path")] + [(n, "query") for n in ("colour", "sizes", "key", "after")],
        )

    def test_a_key_may_come_in_a_header(self) -> None:
        said = declared(
            method="POST", path="/v1/toys/{id}", request=Asked, permission="write", key="key"
        )
        header = said["parameters"][-1]
        self.assertEqual((header["name"], header["in"]), ("Idempotency-Key", "header"))
        self.assertEqual(header["schema"], {"type": "string", "minLength": 1})

    def test_the_scope_that_is_needed(self) -> None:
        self.assertEqual(declared()["security"], [{"token": ["read"]}])
        self.assertEqual(
            declared(method="POST", permission="admin")["security"][0], {"token": ["admin"]}
        )
        self.assertEqual(declared(public=True)["security"], [{}])

    def test_who_it_is(self) -> None:
        said = declared(part="box", untrusted=True)
        self.assertEqual((said["operationId"], said["tags"]), ("toy", ["box"]))
        self.assertEqual(said["summary"], "A toy.")
        self.assertIn("data, never", said["description"])


class AnswerTests(SynchronousTestCase):
    def good(self, **more: Any) -> Any:
        said = declared(**more)["responses"]
        return said[str(more.get("success", 200))]

    def test_the_envelope(self) -> None:
        schema = self.good()["content"]["application/json"]["schema"]
        self.assertEqual(schema["required"], ["success", "data"])
        self.assertEqual(schema["properties"]["data"], {"$ref": "#/components/schemas/Toy"})
        self.assertEqual(schema["properties"]["success"], {"const": True})

    def test_a_page_has_metadata(self) -> None:
        schema = self.good(paged=True)["content"]["application/json"]["schema"]
        self.assertEqual(schema["required"], ["success", "data", "metadata"])
        self.assertEqual(schema["properties"]["data"]["type"], "array")
        self.assertEqual(
            schema["properties"]["metadata"], {"$ref": "#/components/schemas/page-metadata"}
        )

    def test_other_forms(self) -> None:
        self.assertNotIn("content", self.good(method="DELETE", success=204, permission="write"))
        self.assertEqual(self.good(sends="image/png")["content"], {"image/png": {}})
        events = self.good(stream=True)["content"]["text/event-stream"]
        self.assertEqual(events["x-event-data"], {"$ref": "#/components/schemas/Toy"})

    def test_what_hardly_changes_has_a_name(self) -> None:
        said = declared(etag=True)
        self.assertIn("ETag", said["responses"]["200"]["headers"])
        self.assertNotIn("content", said["responses"]["304"])
        self.assertEqual(said["parameters"][0]["name"], "If-None-Match")
        self.assertNotIn("304", declared()["responses"])

    def test_every_refusal_stands_under_its_status_with_its_codes(self) -> None:
        operation = bound(errors=(NotFound, ConfigError, PeerUnreachable))
        made = document([operation], "1")
        responses = made["paths"]["/v1/toy"]["get"]["responses"]
        found: dict[str, list[str]] = {}
        for status, response in responses.items():
            if status != "200":
                name = response["$ref"].rpartition("/")[2]
                shown = made["components"]["responses"][name]
                schema = shown["content"]["application/json"]["schema"]
                found[status] = schema["properties"]["error"]["properties"]["code"]["enum"]
                for code in found[status]:
                    self.assertIn(f"`{code}`: ", shown["description"])
        self.assertEqual(found["404"], ["NOT_FOUND"])
        self.assertEqual(found["400"], ["BAD_REQUEST", "CONFIG_INVALID", "INVALID_REQUEST"])
        self.assertEqual(found["502"], ["PEER_UNREACHABLE"])
        codes = {code for each in found.values() for code in each}
        self.assertEqual({error.code for error in (*DOOR_ERRORS, *COMMON_ERRORS)} - codes, set())

    def test_many_codes_stand_where_they_are_used(self) -> None:
        odd = [type(f"Odd{n}", (NotFound,), {"code": f"ODD_{n}"}) for n in range(4)]
        made = document([bound(errors=tuple(odd))], "1")
        self.assertIn("content", made["paths"]["/v1/toy"]["get"]["responses"]["404"])

    def test_what_somebody_else_refuses_with_can_be_anything(self) -> None:
        said = declared(errors=(NotFound, RemoteError))["responses"]
        self.assertNotIn("502", said)
        schema = said["default"]["content"]["application/json"]["schema"]
        self.assertEqual(schema, {"$ref": "#/components/schemas/error-answer"})
        self.assertNotIn("default", declared(errors=(NotFound,))["responses"])

    def test_headers_that_come_with_refusals(self) -> None:
        responses = document([bound()], "1")["components"]["responses"]
        self.assertIn("Retry-After", responses["503"]["headers"])
        self.assertIn("WWW-Authenticate", responses["401"]["headers"])


class DocumentTests(SynchronousTestCase):
    def test_the_same_operations_make_the_same_text(self) -> None:
        one = bound()
        two = bound("box", name="two", path="/v1/other", method="POST", permission="write")
        three = bound("box", name="three", method="POST", permission="write")
        texts = {
            json.dumps(document(each, "1"))
            for each in ([one, two, three], [three, two, one], [two, one, three])
        }
        self.assertEqual(len(texts), 1)

    def test_it_says_nothing_of_the_machine(self) -> None:
        made = document([bound()], "1.2.3")
        self.assertEqual(made["servers"], [{"url": "/"}])
        self.assertEqual(made["info"]["version"], "1.2.3")


class NodeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.node = self.mesh.node("ada")
        self.node.start()
        self.answer = self.node.ask("GET", "/v1/openapi.json")
        self.document = json.loads(self.answer.body)

    def tearDown(self) -> None:
        self.mesh.stop()
        self.mesh.run(1)

    def test_a_node_gives_it_out_as_it_is(self) -> None:
        self.assertEqual(self.answer.status, 200)
        self.assertEqual(self.document["info"]["version"], __version__)
        self.assertIn("/v1/publish", self.document["paths"])
        again = self.node.ask("GET", "/v1/openapi.json")
        self.assertEqual(again.body, self.answer.body)

    def test_every_reference_leads_somewhere(self) -> None:
        for reference in sorted(set(references(self.document))):
            found = self.document
            for step in reference.removeprefix("#/").split("/"):
                self.assertIn(step, found, reference)
                found = found[step]

    def test_names_are_unique(self) -> None:
        names = [
            each["operationId"]
            for item in self.document["paths"].values()
            for each in item.values()
        ]
        self.assertEqual(len(names), len(set(names)))

    def test_every_schema_is_one(self) -> None:
        seen = 0

        def visit(value: Any) -> None:
            nonlocal seen
            if isinstance(value, dict):
                if isinstance(value.get("schema"), dict):
                    seen += 1
                    Draft202012Validator.check_schema(value["schema"])
                for each in value.values():
                    visit(each)
            elif isinstance(value, list):
                for each in value:
                    visit(each)

        visit(self.document["paths"])
        for schema in self.document["components"]["schemas"].values():
            Draft202012Validator.check_schema(schema)
        self.assertGreater(seen, 80)

    def test_what_a_part_offers_is_gone_with_it(self) -> None:
        bob = self.mesh.node("bob", 'disable = ["hooks"]')
        bob.start()
        paths = json.loads(bob.ask("GET", "/v1/openapi.json").body)["paths"]
        self.assertEqual([path for path in paths if "hooks" in path], [])
        self.assertIn("/v1/hooks", self.document["paths"])
