"""Tests of L{meshkit.feed.schemas}."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import SchemaInvalid
from meshkit.feed import schemas
from meshkit.feed.schemas import (
    MAX_MATCHED,
    MAX_PATTERN,
    MAX_SCHEMA_BYTES,
    PUBLISH_STEPS,
    Misfit,
    Schema,
    TooCostly,
    check_pattern,
    parse_schema,
)
from meshkit.testing.strategies import contents

NOTE = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {
        "type": {"const": "note"},
        "text": {"type": "string", "minLength": 1},
        "a/b~c": {"type": "array", "uniqueItems": True, "items": {"$ref": "#/$defs/count"}},
    },
    "additionalProperties": False,
    "$defs": {"count": {"type": "integer", "minimum": 0}},
}


def schema(tree: Any, name: str = "note/v1") -> Schema:
    return parse_schema(name, json.dumps(tree).encode())


def misfit(tree: Any, content: Any, steps: int = PUBLISH_STEPS) -> Misfit | None:
    return schema(tree).misfit(content, steps)


class Checking(SynchronousTestCase):
    def test_what_fits(self) -> None:
        for content in (
            {"type": "note", "text": "x"},
            {"type": "note", "text": "x", "a/b~c": [1, 2]},
        ):
            self.assertIsNone(misfit(NOTE, content))

    def test_what_does_not_names_the_place_and_the_rule(self) -> None:
        for content, pointer, rule in (
            ({"type": "note"}, "", "#/required"),
            ("note", "", "#/type"),
            ({"type": "note", "text": ""}, "/text", "#/properties/text/minLength"),
            ({"type": "nota", "text": "x"}, "/type", "#/properties/type/const"),
            ({"type": "note", "text": "x", "more": 1}, "", "#/additionalProperties"),
            (
                {"type": "note", "text": "x", "a/b~c": [1, -1]},
                "/a~1b~0c/1",
                "#/properties/a~1b~0c/items/minimum",
            ),
            (
                {"type": "note", "text": "x", "a/b~c": [1, 1.0]},
                "/a~1b~0c",
                "#/properties/a~1b~0c/uniqueItems",
            ),
        ):
            found = misfit(NOTE, content)
            assert found is not None, content
            self.assertEqual((found.schema, found.pointer, found.rule), ("note/v1", pointer, rule))
            for part in ("note/v1", pointer, rule):
                self.assertIn(part, str(found))

    def test_a_reason_is_not_longer_than_can_be_read(self) -> None:
        found = misfit({"type": "integer"}, "x" * 60_000)
        assert found is not None
        self.assertLess(len(found.reason), 250)

    def test_items_are_the_same_as_json_schema_has_it(self) -> None:
        for items, unique in (
            ([1, True], True),
            ([0, False], True),
            ([1, 1.0], False),
            (["1", 1], True),
            ([[1], [1.0]], False),
            ([{"a": 1, "b": 2}, {"b": 2, "a": 1}], False),
            ([{"a": 1}, ["a", 1]], True),
            ([None, False], True),
            ([[], {}], True),
            ([[1, 2], [2, 1]], True),
        ):
            self.assertEqual(misfit({"uniqueItems": True}, items) is None, unique, items)
        self.assertIsNone(misfit({"uniqueItems": False}, [1, 1]))
        self.assertIsNone(misfit({"uniqueItems": True}, "xx"))

    @given(
        content=contents(),
        tree=st.recursive(
            st.sampled_from(
                [
                    True,
                    False,
                    {"type": "object"},
                    {"type": "string"},
                    {"const": 1},
                    {"enum": [None]},
                    {"minLength": 1},
                    {"required": ["a"]},
                    {"maximum": 3},
                    {"$ref": "#/$defs/d"},
                ]
            ),
            lambda inner: st.one_of(
                st.fixed_dictionaries({"items": inner, "uniqueItems": st.booleans()}),
                st.fixed_dictionaries({"additionalProperties": inner}),
                st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=3)}),
                st.fixed_dictionaries({"not": inner}),
                st.fixed_dictionaries({"if": inner, "then": inner, "else": inner}),
                st.fixed_dictionaries({"contains": inner}),
            ),
            max_leaves=6,
        ),
    )
    def test_counting_the_steps_changes_no_verdict(self, content: Any, tree: Any) -> None:
        whole = {"allOf": [tree], "$defs": {"d": {"type": ["number", "null"]}}}
        expected = Draft202012Validator(whole).is_valid(content)
        self.assertEqual(misfit(whole, content, 10**9) is None, expected)


class Bounds(SynchronousTestCase):
    """Whatever schema and content are, a check ends soon."""

    def too_costly(self, tree: Any, content: Any) -> None:
        begun = time.process_time()
        with self.assertRaises(TooCostly):
            misfit(tree, content)
        self.assertLess(time.process_time() - begun, 1.5)

    def test_a_schema_that_refers_to_itself(self) -> None:
        self.too_costly({"$ref": "#"}, 1)
        self.too_costly(
            {"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}]}}}, 1
        )

    def test_a_schema_that_doubles(self) -> None:
        defs: dict[str, Any] = {
            f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)
        }
        self.too_costly({"$ref": "#/$defs/d0", "$defs": {**defs, "d40": {"type": "integer"}}}, 1)

    def test_a_long_list_of_things_to_compare_with(self) -> None:
        self.too_costly({"items": {"enum": [*range(3_000)]}}, [2_999] * 20_000)

    def test_a_large_content(self) -> None:
        self.too_costly({"items": {"type": "integer"}}, [1] * 30_000)

    def test_texts_to_be_matched(self) -> None:
        pattern = {"items": {"pattern": "^a*a*$"}}
        self.too_costly(pattern, ["a" * MAX_MATCHED] * 64)
        self.assertIsNone(misfit(pattern, ["a" * MAX_MATCHED]))
        found = misfit(pattern, ["a" * (MAX_MATCHED + 1)])
        assert found is not None
        self.assertIn(str(MAX_MATCHED), found.reason)

    def test_one_check_does_not_use_up_the_next(self) -> None:
        one = schema(NOTE)
        for _ in range(3):
            self.assertIsNone(one.misfit({"type": "note", "text": "x"}, 12))
        with self.assertRaises(TooCostly):
            one.misfit({"type": "note", "text": "x"}, 3)


class Adding(SynchronousTestCase):
    def refused(self, text: bytes, *parts: str) -> None:
        with self.assertRaises(SchemaInvalid) as caught:
            parse_schema("note/v1", text)
        for part in ("note/v1", *parts):
            self.assertIn(part, str(caught.exception))

    def test_what_is_no_schema(self) -> None:
        self.refused(b"{", "JSON")
        self.refused(b"\xff", "JSON")
        self.refused(b"true", "object")
        self.refused(b"[]", "object")
        self.refused(b'{"type":"text"}', "#/type")
        self.refused(b'{"properties":{"a":{"minLength":-1}}}', "#/properties/a/minLength")
        self.refused(b'{"$schema":"http://json-schema.org/draft-07/schema#"}', "2020-12")
        self.refused(b'{"not":' * 500 + b"{}" + b"}" * 500, "nested")

    def test_what_is_not_supported_wherever_it_stands(self) -> None:
        for inner, part in (
            ({"$id": "x"}, "$id"),
            ({"$anchor": "x"}, "$anchor"),
            ({"$dynamicRef": "#x"}, "$dynamicRef"),
            ({"patternProperties": {}}, "patternProperties"),
            ({"unevaluatedProperties": False}, "unevaluatedProperties"),
            ({"$ref": "https://example.com/schema"}, "$ref"),
            ({"$ref": "other.json"}, "$ref"),
            ({"$ref": "#/$defs/none"}, "$ref"),
            ({"$ref": "#/$defs/a/not"}, "$ref"),
            ({"pattern": "(a+)+"}, "pattern"),
        ):
            for tree, place in (
                (inner, "#/"),
                ({"$defs": {"a": inner}}, "#/$defs/a/"),
                ({"properties": {"p": {"items": inner}}}, "#/properties/p/items/"),
                ({"allOf": [True, {"not": inner}]}, "#/allOf/1/not/"),
                ({"additionalProperties": inner}, "#/additionalProperties/"),
                ({"if": inner}, "#/if/"),
                ({"dependentSchemas": {"x": inner}}, "#/dependentSchemas/x/"),
                ({"prefixItems": [inner]}, "#/prefixItems/0/"),
                ({"propertyNames": inner}, "#/propertyNames/"),
                ({"contains": inner}, "#/contains/"),
            ):
                self.refused(json.dumps(tree).encode(), place + part)

    def test_what_only_looks_like_it(self) -> None:
        """Names of members, and values to compare with, are no keywords."""
        schema({"properties": {"$id": True, "$ref": {"type": "string"}, "pattern": True}})
        schema(
            {"const": {"$ref": "x", "pattern": "("}, "enum": [{"$id": 1}], "default": {"$id": 1}}
        )

    def test_the_limit(self) -> None:
        text = b'{"$comment":"' + b"x" * (MAX_SCHEMA_BYTES - 15) + b'"}'
        parse_schema("note/v1", text)
        self.refused(text + b" ", str(MAX_SCHEMA_BYTES))


class Patterns(SynchronousTestCase):
    GOOD = (
        "",
        "a",
        "^@.+\\.ed25519$",
        "^[0-9a-f]{64}$",
        "^[a-z][a-z0-9_.-]*$",
        "^(?:yes|no)$",
        r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d+)?Z$",
        "[]x]",
        "[^]]",
        r"\[",
        r"\.\*\+",
        "a|b|c",
        "colou?r",
        "(ab){3}",
        "x{2,30}",
        "^a*b*$",
        ".",
        r"\d+",
        "a+?",
        "(a)(b)",
    )
    BAD = (
        "(a+)+",
        "(a*)*b",
        "(?:a|b)+",
        "(a|aa)*",
        "(a?){9}",
        "((a+))*",
        "((?:a|b)){2}",
        "a*b*",
        "^a*b*c*$",
        "^a*|b*",
        ".*x.*",
        r"(a)\1",
        "(?=a)",
        "(?<!a)b",
        "(?P<n>a)",
        "(?i)a",
        "(",
        ")",
        "[",
        "*",
        "a**",
        "{",
        "a?" * 7,
        "(?:a|b)" * 7,
        "a{1,9}b{1,9}",
        "a{99999999999}",
        "x{0,33}y{2,}",
        "[a-",
        "\\",
        r"\8",
    )

    def test_those_that_are_taken(self) -> None:
        for pattern in self.GOOD:
            self.assertIsNone(check_pattern(pattern), pattern)

    def test_those_that_are_not(self) -> None:
        for pattern in self.BAD:
            self.assertIsNotNone(check_pattern(pattern), pattern)
        self.assertIsNone(check_pattern("x" * MAX_PATTERN))
        self.assertIsNotNone(check_pattern("x" * (MAX_PATTERN + 1)))

    @given(
        st.lists(
            st.sampled_from(
                [
                    "a",
                    "b",
                    ".",
                    "[ab]",
                    "a*",
                    "a+",
                    "a?",
                    "(",
                    ")",
                    "(?:",
                    "|",
                    "^",
                    "$",
                    "{2}",
                    "{1,3}",
                    "+",
                    "*",
                    "?",
                    "a{0,40}",
                    "\\w",
                ]
            ),
            max_size=14,
        ).map("".join),
        st.sampled_from(["a" * 400, "a" * 399 + "c", "ab" * 200, "a" * 200 + "b" * 200]),
    )
    def test_one_that_is_taken_is_tried_in_a_bounded_time(self, pattern: str, text: str) -> None:
        if check_pattern(pattern) is None:
            begun = time.process_time()
            re.search(pattern, text)
            self.assertLess(time.process_time() - begun, 1.0, pattern)

    def test_the_limits_are_those_that_the_text_names(self) -> None:
        self.assertEqual((MAX_MATCHED, MAX_PATTERN, schemas.MAX_WAYS), (1_024, 256, 64))
