"""The declarations: how arguments are judged, and which URIs are of a template's form."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from twisted.trial.unittest import SynchronousTestCase

from meshkit.web.mcp.catalogue import ResourceTemplate, schema_validator, simple_check

NAMES = st.sampled_from(["a", "b", "c"])
INNER = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["string", "integer", "number", "boolean", "array", "null"])
        | st.just(["string", "null"]),
        "title": st.just("x"),
        "minimum": st.integers(0, 3),
        "enum": st.just([1, "x"]),
        "minLength": st.just(1),
    },
) | st.sampled_from([True, False])
SCHEMAS = st.fixed_dictionaries(
    {"type": st.just("object")},
    optional={
        "$schema": st.sampled_from(
            [
                "https://json-schema.org/draft/2020-12/schema",
                "http://json-schema.org/draft-07/schema#",
            ]
        ),
        "properties": st.dictionaries(NAMES, INNER),
        "required": st.lists(NAMES, unique=True, max_size=2),
        "additionalProperties": st.sampled_from([True, False]),
        "minProperties": st.just(1),
        "description": st.just("words"),
    },
)
VALUES = st.sampled_from([0, 1, 2, 1.0, 1.5, "", "x", True, False, None, [], {}])
ARGUMENTS = st.dictionaries(NAMES, VALUES, max_size=3) | VALUES


class SchemaTests(SynchronousTestCase):
    @given(SCHEMAS, ARGUMENTS)
    def test_the_short_way_says_nothing_that_jsonschema_would_not(
        self, schema: dict[str, Any], arguments: Any
    ) -> None:
        right = Draft202012Validator(schema).is_valid(arguments)
        simple = simple_check(schema)
        if simple is not None and simple(arguments):
            self.assertTrue(right)
        self.assertEqual(schema_validator(schema)(arguments) is None, right)

    def test_the_short_way_is_taken(self) -> None:
        kinds = {"a": "integer", "b": "number", "c": "string", "d": "boolean"}
        properties = {name: {"type": kind, "title": name} for name, kind in kinds.items()}
        schema = {"type": "object", "properties": properties, "required": ["a"]}
        simple = simple_check(schema)
        assert simple is not None
        self.assertTrue(simple({"a": 1, "b": 1.5, "c": "x", "d": True}))
        for unsure in ({}, {"a": True}, {"a": "1"}, {"a": 1, "e": 1}, {"a": 1, "c": None}, [], 7):
            self.assertFalse(simple(unsure))

    def test_what_asks_for_more_than_a_type_is_for_jsonschema(self) -> None:
        for inner, wrong in (
            ({"type": "integer", "minimum": 3}, 2),
            ({"type": "integer", "exclusiveMaximum": 2}, 2),
            ({"type": "number", "multipleOf": 2}, 1),
            ({"type": "string", "enum": ["a"]}, "b"),
            ({"type": "string", "const": "a"}, "b"),
            ({"type": "string", "minLength": 2}, "b"),
            ({"type": "string", "pattern": "^a"}, "b"),
            ({"type": "boolean", "not": {"const": True}}, True),
        ):
            schema = {"type": "object", "properties": {"a": inner}}
            simple = simple_check(schema)
            assert simple is not None
            self.assertFalse(simple({"a": wrong}), inner)
            self.assertIsNotNone(schema_validator(schema)({"a": wrong}), inner)
        for more in ({"minProperties": 1}, {"not": {}}, {"dependentRequired": {}}):
            self.assertIsNone(simple_check({"type": "object"} | more))

    def test_what_is_wrong_is_said_with_its_place_and_without_end(self) -> None:
        inner = {"type": "object", "properties": {"b": {"type": "integer"}}}
        validate = schema_validator({"type": "object", "properties": {"a": inner}})
        self.assertEqual(validate({"a": {"b": "x"}}), "a/b: 'x' is not of type 'integer'")
        said = validate({"a": {"b": "x" * 10_000}})
        assert said is not None
        self.assertLess(len(said), 400)
        self.assertIsNone(validate({"a": {"b": 1}}))

    def test_what_is_no_schema_is_refused(self) -> None:
        for wrong in ({"type": "nonsense"}, {"required": "a"}, {"properties": []}):
            self.assertRaises(ValueError, schema_validator, wrong)


class TemplateTests(SynchronousTestCase):
    def template(self, text: str) -> ResourceTemplate:
        return ResourceTemplate(text, "x", lambda uri, call: "")

    def test_which_uris_are_of_its_form(self) -> None:
        for template, uri, variables in (
            ("a://{x}", "a://1", {"x": "1"}),
            ("a://{x}", "a://1/2", None),
            ("a://{x}", "a://", None),
            ("a://{+x}", "a://1/2?q#f", {"x": "1/2?q#f"}),
            ("a://{x}/{y}", "a://1/2", {"x": "1", "y": "2"}),
            ("a://{x}.json", "a://1.json", {"x": "1"}),
            ("a://{x}.json", "a://1xjson", None),
            ("a://{x}", "a://%20%2f", {"x": " /"}),
            ("a://{x}", "a://1\n", {"x": "1\n"}),
            ("a://{x}", "b://1", None),
        ):
            self.assertEqual(self.template(template).match(uri), variables, (template, uri))
