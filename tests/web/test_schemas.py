"""JSON Schemas of operations, for the tools of MCP and for the OpenAPI document."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from msgspec import UNSET, Meta, UnsetType
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import MeshkitError, NotFound
from meshkit.operations import Advised, Nothing, Operation, Page
from meshkit.web.answers import encode_advised, encode_error, encode_page
from meshkit.web.schemas import Catalogue, answer_schema, input_schema, plain_text


class Leaf(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A leaf of C{Tree}."""

    size: int = 1


class Tree(msgspec.Struct, forbid_unknown_fields=True):
    """
    What grows, see L{Leaf}.

    @ivar leaves: in the order of C{GET /v1/leaves/{size}},
        oldest first.
    @ivar mood: how it feels.
    """

    name: Annotated[str, Meta(min_length=1, description="what it is called")]
    leaves: list[Leaf] = []
    branches: list[Tree] = []
    mood: Literal["well", "ill"] = "well"
    grown: int | UnsetType = UNSET
    note: Annotated[str, Meta(max_length=5, description="of the gardener")] | None = None
    title: str = "a field named as a keyword is"
    required: str = ""


class Renamed(msgspec.Struct, rename="camel"):
    """@ivar first_seen: RFC 3339 time."""

    first_seen: str


class Sparse(msgspec.Struct, omit_defaults=True):
    a: int
    b: int = 0


class Plant(msgspec.Struct, forbid_unknown_fields=True):
    where: str
    tree: Tree
    text: Annotated[msgspec.Raw | None, Meta(description="any JSON")] = None


class Base(msgspec.Struct):
    """@ivar limit: how many."""

    limit: int = 5


class Derived(Base):
    """@ivar offset: how many not."""

    offset: int = 0


def operation(
    request: type[msgspec.Struct], answer: Any, method: Any = "GET", **more: Any
) -> Operation:
    path = more.pop("path", "/v1/toy")
    permission = "read" if method == "GET" else "write"
    return Operation("toy", method, path, request, answer, "A toy.", permission, **more)


PLANT = operation(Plant, Tree, "POST")
PAGED = operation(Nothing, Leaf, paged=True)
STREAM = operation(Base, Leaf, stream=True, resume="limit")


def accepts(schema: Any, value: Any) -> bool:
    Draft202012Validator.check_schema(schema)
    return bool(Draft202012Validator(schema).is_valid(value))


class InputTests(SynchronousTestCase):
    def test_all_fields_stand_side_by_side_and_others_are_refused(self) -> None:
        schema = input_schema(PLANT)
        self.assertEqual(list(schema["properties"]), ["where", "tree", "text"])
        self.assertEqual(schema["required"], ["where", "tree"])
        good = {"where": "here", "tree": {"name": "oak"}, "text": [1, {"a": None}]}
        self.assertTrue(accepts(schema, good))
        self.assertFalse(accepts(schema, good | {"when": "now"}))
        self.assertFalse(accepts(schema, good | {"tree": {"name": ""}}))
        self.assertFalse(accepts(schema, good | {"tree": {"name": "oak", "age": 1}}))
        self.assertFalse(accepts(schema, {"where": "here"}))

    def test_it_names_nothing_that_it_does_not_hold(self) -> None:
        schema = input_schema(PLANT)
        self.assertEqual(list(schema["$defs"]), ["Leaf", "Tree"])
        self.assertEqual(schema["properties"]["tree"], {"$ref": "#/$defs/Tree"})
        self.assertNotIn("$defs", input_schema(operation(Base, None)))

    def test_defaults_are_said(self) -> None:
        tree = input_schema(PLANT)["$defs"]["Tree"]["properties"]
        self.assertEqual(tree["mood"]["default"], "well")
        self.assertEqual(tree["note"]["default"], None)
        self.assertNotIn("default", tree["name"])

    def test_nothing_is_taken_by_who_takes_nothing(self) -> None:
        schema = input_schema(operation(Nothing, None))
        self.assertEqual(
            schema, {"type": "object", "properties": {}, "additionalProperties": False}
        )
        self.assertTrue(accepts(schema, {}))

    def test_a_stream_can_be_told_when_to_answer(self) -> None:
        schema = input_schema(STREAM)
        self.assertEqual(list(schema["properties"]), ["limit", "max_items", "wait_seconds"])
        self.assertTrue(accepts(schema, {"max_items": 200, "wait_seconds": 55}))
        self.assertFalse(accepts(schema, {"max_items": 201}))
        self.assertFalse(accepts(schema, {"wait_seconds": 55.5}))

    def test_a_type_of_which_there_is_no_schema_is_named(self) -> None:
        odd = msgspec.defstruct("Odd", [("what", complex)])
        problem = self.assertRaises(ValueError, input_schema, operation(odd, None, "POST"))
        self.assertIn("complex", str(problem))

    def test_names_are_those_that_callers_write(self) -> None:
        schema = input_schema(operation(Renamed, None, "POST"))
        self.assertEqual(schema["required"], ["firstSeen"])
        self.assertEqual(schema["properties"]["firstSeen"]["description"], "RFC 3339 time.")


class DescriptionTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.tree = input_schema(PLANT)["$defs"]["Tree"]

    def test_a_struct_is_described_by_its_docstring_without_its_fields(self) -> None:
        self.assertEqual(self.tree["description"], "What grows, see Leaf.")

    def test_a_field_is_described_by_meta_or_by_the_docstring(self) -> None:
        said = {name: schema.get("description") for name, schema in self.tree["properties"].items()}
        self.assertEqual(said["name"], "what it is called")
        self.assertEqual(said["mood"], "how it feels.")
        self.assertEqual(said["leaves"], "in the order of GET /v1/leaves/{size}, oldest first.")
        self.assertEqual(said["grown"], None)

    def test_what_is_said_of_a_value_is_said_of_the_field_that_may_have_none(self) -> None:
        note = self.tree["properties"]["note"]
        self.assertEqual(note["description"], "of the gardener")
        self.assertEqual(note["anyOf"], [{"type": "string", "maxLength": 5}, {"type": "null"}])

    def test_the_docstring_of_a_base_counts_too(self) -> None:
        properties = input_schema(operation(Derived, None))["properties"]
        self.assertEqual(properties["limit"]["description"], "how many.")
        self.assertEqual(properties["offset"]["description"], "how many not.")

    def test_a_field_named_as_a_keyword_stays(self) -> None:
        self.assertEqual(self.tree["properties"]["title"]["type"], "string")
        self.assertEqual(self.tree["properties"]["required"]["default"], "")

    def test_markup_is_taken_away(self) -> None:
        for text, plain in (
            ("C{/v1/feed/{author}} and L{Page}", "/v1/feed/{author} and Page"),
            ("a\n   b\n\n\n  c", "a b\n\nc"),
            ("{C} stays, ABC{x} too, (C{x}) not", "{C} stays, ABC{x} too, (x) not"),
            ("C{open", "open"),
            ("I{a B{b} {c}}", "a b {c}"),
            ("a } b", "a } b"),
        ):
            with self.subTest(text):
                self.assertEqual(plain_text(text), plain)

    @given(st.text(st.characters(exclude_characters="{", exclude_categories=("C", "Z"))))
    def test_what_has_no_markup_is_left_as_it_is(self, text: str) -> None:
        self.assertEqual(plain_text(text), text)


class AnswerTests(SynchronousTestCase):
    def test_data_or_error(self) -> None:
        schema = answer_schema(PLANT)
        self.assertEqual(schema["type"], "object")
        tree = msgspec.to_builtins(Tree("oak"))
        self.assertTrue(accepts(schema, {"data": tree}))
        self.assertTrue(accepts(schema, {"error": {"code": "NOT_FOUND", "message": "none"}}))
        self.assertFalse(accepts(schema, {"data": {"name": "oak"}}))
        self.assertFalse(accepts(schema, {"error": {"code": "NOT_FOUND"}}))
        self.assertFalse(accepts(schema, {}))

    def test_what_peers_wrote_is_never_without_the_notice_and_the_mark(self) -> None:
        schema = answer_schema(msgspec.structs.replace(PLANT, untrusted=True))
        tree = msgspec.to_builtins(Tree("oak"))
        marked = {"notice": "by peers", "data": tree, "end_of_data": "1f"}
        self.assertTrue(accepts(schema, marked))
        for name in marked:
            self.assertFalse(accepts(schema, {k: v for k, v in marked.items() if k != name}))
        self.assertTrue(accepts(schema, {"error": {"code": "NOT_FOUND", "message": "none"}}))

    def test_it_holds_for_what_rest_says(self) -> None:
        def shown(body: bytes) -> Any:
            answer = json.loads(body)
            del answer["success"]
            return answer

        page = Page([Leaf(2)], 9, 1, 0, "more", counted=False, notes={"missing": []})
        self.assertTrue(accepts(answer_schema(PAGED), shown(encode_page(page))))
        advised = Advised(Tree("oak", branches=[Tree("twig")]), ["it is small"])
        self.assertTrue(accepts(answer_schema(PLANT), shown(encode_advised(advised))))
        error: MeshkitError = NotFound("no tree")
        error.details = {"near": "the lake"}
        self.assertTrue(accepts(answer_schema(PLANT), shown(encode_error(error))))

    def test_a_page_says_how_many_there_are(self) -> None:
        schema = answer_schema(PAGED)
        self.assertTrue(
            accepts(schema, {"data": [{"size": 1}], "metadata": {"total": 1, "limit": 9}})
        )
        self.assertFalse(accepts(schema, {"data": [{"size": 1}]}))
        self.assertFalse(accepts(schema, {"data": {"size": 1}, "metadata": {"total": 1}}))

    def test_the_tool_of_a_stream_answers_with_a_list(self) -> None:
        schema = answer_schema(STREAM)
        self.assertTrue(accepts(schema, {"data": [{"size": 1}], "metadata": {"last_id": "7"}}))
        self.assertTrue(accepts(schema, {"data": [], "metadata": {"last_id": None}}))
        self.assertFalse(accepts(schema, {"data": []}))

    def test_where_there_is_no_body_data_is_null(self) -> None:
        schema = answer_schema(operation(Nothing, None, "DELETE", success=204))
        self.assertTrue(accepts(schema, {"data": None}))
        self.assertFalse(accepts(schema, {"data": {}}))

    def test_every_field_is_there_unless_it_may_be_left_out(self) -> None:
        tree = answer_schema(PLANT)["$defs"]["Tree"]
        self.assertEqual(
            tree["required"], ["name", "leaves", "branches", "mood", "note", "title", "required"]
        )
        sparse = answer_schema(operation(Nothing, Sparse))["$defs"]["Sparse"]
        self.assertEqual(sparse["required"], ["a"])

    def test_an_answer_has_no_defaults_and_may_have_more_fields_in_a_later_version(self) -> None:
        text = json.dumps(answer_schema(PLANT))
        self.assertNotIn('"default"', text)
        self.assertNotIn('"additionalProperties"', text)
        counts = answer_schema(operation(Nothing, dict[str, int]))["properties"]["data"]
        self.assertEqual(counts, {"type": "object", "additionalProperties": {"type": "integer"}})


class CatalogueTests(SynchronousTestCase):
    def test_what_is_taken_otherwise_than_given_has_two_names(self) -> None:
        catalogue = Catalogue([PLANT, PAGED])
        self.assertEqual(list(catalogue.components), ["Leaf", "Leaf-input", "Tree", "Tree-input"])
        tree = catalogue.components["Tree-input"]["properties"]
        self.assertEqual(tree["leaves"]["items"], {"$ref": "#/components/schemas/Leaf-input"})
        fields = {field.name: field for field in catalogue.fields(PLANT)}
        self.assertEqual(fields["tree"].schema, {"$ref": "#/components/schemas/Tree-input"})
        self.assertEqual(catalogue.data(PLANT), {"$ref": "#/components/schemas/Tree"})

    def test_what_is_only_taken_has_one(self) -> None:
        catalogue = Catalogue([operation(Plant, None, "POST")])
        self.assertEqual(list(catalogue.components), ["Leaf", "Tree"])

    def test_fields_say_what_a_parameter_needs(self) -> None:
        where, _, text = Catalogue([PLANT]).fields(PLANT)
        self.assertEqual(
            (where.name, where.schema, where.required), ("where", {"type": "string"}, True)
        )
        self.assertEqual((text.required, text.description), (False, "any JSON"))

    def test_a_page_is_a_list(self) -> None:
        leaf = {"$ref": "#/components/schemas/Leaf"}
        self.assertEqual(Catalogue([PAGED]).data(PAGED), {"type": "array", "items": leaf})
        self.assertEqual(Catalogue([STREAM]).data(STREAM), leaf)

    def test_two_structs_of_one_name_are_told_apart(self) -> None:
        other = msgspec.defstruct("Leaf", [("colour", str)], module="elsewhere")
        catalogue = Catalogue([PAGED, operation(Nothing, other)])
        self.assertEqual(len(catalogue.components), 2)
        self.assertNotIn("Leaf", catalogue.components)

    def test_the_order_does_not_depend_on_that_of_the_parts(self) -> None:
        forth, back = Catalogue([PLANT, PAGED]), Catalogue([PAGED, PLANT])
        self.assertEqual(json.dumps(forth.components), json.dumps(back.components))
