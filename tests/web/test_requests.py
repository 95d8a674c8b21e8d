"""Requests read from text and from JSON, without any HTTP."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import InvalidRequest, NestedTooDeep, UnsupportedMediaType
from meshkit.operations import Operation
from meshkit.web.requests import MAX_QUERY_FIELDS, RequestReader, check_content_type, repeated
from tests.web.stage import ByAuthor, Listing, Note, Publish

_Digits = Annotated[str, Meta(pattern="^[0-9a-f]{4}$", description="4 hex digits")]


def split(text: str) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(text, type=dict[str, msgspec.Raw])


def reader(request: type[msgspec.Struct], method: Any = "GET", path: str = "/x") -> RequestReader:
    return RequestReader(Operation("x", method, path, request, None, ""))


LISTING = reader(Listing)
PUBLISH = reader(Publish, "POST")


class QueryTests(SynchronousTestCase):
    def test_text_becomes_the_declared_types(self) -> None:
        got = LISTING.from_query({}, "limit=5&newest=TRUE&tags=a+b&tags=c%26%2B&ratio=1.5")
        self.assertEqual(got, Listing(5, 0, True, ["a b", "c&+"], 1.5))
        self.assertEqual(LISTING.from_query({}, ""), Listing())
        self.assertEqual(LISTING.from_query({}, "tags="), Listing(tags=[""]))
        self.assertEqual(LISTING.from_query({}, "around=null"), Listing(around=None))

    def test_booleans_are_true_false_one_and_zero(self) -> None:
        for text, value in [("true", True), ("1", True), ("false", False), ("0", False)]:
            self.assertEqual(LISTING.from_query({}, f"newest={text}"), Listing(newest=value))
        for text in ("yes", "", "2", "on"):
            with self.assertRaises(InvalidRequest):
                LISTING.from_query({}, f"newest={text}")

    def test_each_bad_query_is_refused_by_the_name_of_its_field(self) -> None:
        table = [
            ("limit=abc", "limit", "limit: expected `int`, got 'abc'"),
            ("limit=201", "limit", "limit: expected `int` <= 200"),
            ("limit=0", "limit", "limit: expected `int` >= 1"),
            ("limit=-1", "limit", "limit: expected `int` >= 1"),
            ("limit=", "limit", "limit: expected `int`, got ''"),
            ("limit=1.5", "limit", "limit: expected `int`, got '1.5'"),
            ("limit=" + "9" * 5000, "limit", "limit: integer value out of range"),
            ("limit=1&limit=1", "limit", "limit is given 2 times: give it once"),
            ("ratio=nan", "ratio", "ratio: it has to be a finite number"),
            ("ratio=-inf", "ratio", "ratio: it has to be a finite number"),
            ("limt=5", None, "there is no field 'limt': did you mean 'limit'?"),
            (
                "zzz=5",
                None,
                "there is no field 'zzz': there are limit, offset, newest, tags, ratio, around",
            ),
            ("limit=%ff", None, "the query string is not percent-encoded UTF-8"),
            ("&".join(["tags=a"] * (MAX_QUERY_FIELDS + 1)), None, "more than 64 fields"),
        ]
        for query, field, message in table:
            with self.assertRaises(InvalidRequest, msg=query) as caught:
                LISTING.from_query({}, query)
            self.assertIn(message, str(caught.exception))
            details = caught.exception.details
            self.assertEqual(details, None if field is None else {"field": field}, query)

    def test_a_form_is_told_in_the_words_of_the_field(self) -> None:
        """And not as a regular expression, which is not what people read."""

        class Forms(msgspec.Struct):
            hash: _Digits | None = None
            hashes: list[_Digits] = []
            words: Annotated[list[_Digits], Meta(description="some")] = []
            bare: Annotated[str, Meta(pattern="^a$")] = "a"

        for query, message in (
            ("hash=xyz", "hash: expected 4 hex digits"),
            ("hashes=abcd&hashes=x", "hashes[1]: expected 4 hex digits"),
            ("words=x", "words[0]: expected 4 hex digits"),
            ("bare=b", "bare: expected `str` matching regex '^a$'"),
        ):
            error = self.assertRaises(InvalidRequest, reader(Forms).from_query, {}, query)
            self.assertEqual(str(error), message)
        error = self.assertRaises(
            InvalidRequest, reader(Forms, "POST").from_json, {}, b'{"hash": "x"}'
        )
        self.assertEqual(str(error), "hash: expected 4 hex digits")

    def test_as_many_fields_as_the_limit_are_read(self) -> None:
        got = LISTING.from_query({}, "&".join(["tags=a"] * MAX_QUERY_FIELDS))
        self.assertEqual(got, Listing(tags=["a"] * MAX_QUERY_FIELDS))

    def test_a_list_names_the_place_in_it(self) -> None:
        class Numbers(msgspec.Struct):
            numbers: list[int]

        with self.assertRaises(InvalidRequest) as caught:
            reader(Numbers).from_query({}, "numbers=1&numbers=x")
        self.assertEqual(str(caught.exception), "numbers[1]: expected `int`")

    def test_no_number_of_a_list_may_be_infinite(self) -> None:
        class Ratios(msgspec.Struct):
            ratios: list[float]

        self.assertEqual(reader(Ratios).from_query({}, "ratios=1&ratios=2.5"), Ratios([1.0, 2.5]))
        with self.assertRaises(InvalidRequest):
            reader(Ratios).from_query({}, "ratios=1&ratios=inf")

    def test_a_field_of_the_path_cannot_be_given_again(self) -> None:
        by_author = reader(ByAuthor, path="/x/{author}")
        self.assertEqual(by_author.from_query({"author": "a"}, "after=3"), ByAuthor("a", 3))
        with self.assertRaises(InvalidRequest) as caught:
            by_author.from_query({"author": "a"}, "author=b")
        self.assertIn("belongs in the path", str(caught.exception))

    def test_a_missing_field_is_named(self) -> None:
        class Needs(msgspec.Struct):
            q: str

        with self.assertRaises(InvalidRequest) as caught:
            reader(Needs).from_query({}, "")
        self.assertEqual(str(caught.exception), "q is missing: give it in the query string")

    def test_what_text_cannot_say_is_refused_when_declared(self) -> None:
        class Deep(msgspec.Struct):
            value: dict[str, int] = {}

        class Rows(msgspec.Struct):
            value: list[list[int]] = []

        class Spelt(msgspec.Struct):
            value: msgspec.Raw = msgspec.Raw()

        class Lists(msgspec.Struct):
            value: list[str]

        for method in ("GET", "DELETE"):
            for declared in (Deep, Rows, Spelt):
                with self.assertRaises(ValueError, msg=str(declared)):
                    reader(declared, method)
        for declared in (Deep, Rows, Spelt):
            reader(declared, "POST")
        with self.assertRaises(ValueError):
            reader(Lists, path="/x/{value}")
        reader(Lists)

    @given(
        st.builds(
            Listing,
            st.integers(1, 200),
            st.integers(0, 2**63),
            st.booleans(),
            st.lists(st.text(), max_size=5),
            st.floats(allow_nan=False, allow_infinity=False),
        )
    )
    def test_what_was_written_into_a_query_is_read_out_of_it(self, wanted: Listing) -> None:
        fields = {k: v for k, v in msgspec.structs.asdict(wanted).items() if v is not None}
        fields["newest"] = "true" if wanted.newest else "false"
        self.assertEqual(LISTING.from_query({}, urlencode(fields, doseq=True)), wanted)

    @given(st.text(alphabet="limtsagr&=%+;012fFé \0", max_size=40))
    def test_any_query_is_read_or_refused(self, query: str) -> None:
        try:
            self.assertIsInstance(LISTING.from_query({}, query), Listing)
        except (InvalidRequest, NestedTooDeep) as e:
            self.assertTrue(str(e))


class RepeatedTests(SynchronousTestCase):
    """A member of the object that stands there twice: which one is meant, nobody knows."""

    def test_a_member_is_given_once_however_it_is_spelt(self) -> None:
        for body, name in (
            (b'{"content":1,"content":2}', "content"),
            (b'{"content":1,"content":1}', "content"),
            (b'{"content":12,"tags":[],"content":1}', "content"),
            (b'{"content":1,"tags":[],"content":12}', "content"),
            (b'{"content":"a","content":"ab"}', "content"),
            (b'{ "content" : {"a":1} ,\n "content" : {"a":1}}', "content"),
            (b'{"tags":["a"],"content":[],"tags":["a"]}', "tags"),
            (b'{"content":1,"\\u0063ontent":2}', "content"),
            (b'{"\\u0063ontent":1,"content":2}', "content"),
        ):
            for read in (lambda body: PUBLISH.from_json({}, body), PUBLISH.from_arguments):
                with self.subTest(body):
                    error = self.assertRaises(InvalidRequest, read, body)
                    self.assertEqual(str(error), f"{name} is given more than once: give it once")
                    self.assertEqual(error.details, {"field": name})

    def test_what_lies_deeper_is_not_looked_at(self) -> None:
        for content in (
            b'{"content":1,"content":2}',
            b'"\\"content\\":1,\\"content\\":2"',
            b'[{"a":1},{"a":1}]',
        ):
            got: Any = PUBLISH.from_json({}, b'{ "content" : %b , "tags":[] }' % content)
            self.assertEqual(bytes(got.content), content)

    members = st.dictionaries(
        st.text(max_size=5) | st.sampled_from(["a", "b", "\u00e9", '"', "\\"]),
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats(allow_nan=False, allow_infinity=False)
            | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=2), inner),
            max_leaves=5,
        ),
        max_size=5,
    )

    @given(members, st.booleans(), st.sampled_from([None, 0, 2, "\t"]), st.data())
    def test_whatever_the_object(self, members: Any, plain: bool, indent: Any, data: Any) -> None:
        text = json.dumps(members, ensure_ascii=plain, indent=indent)
        self.assertIsNone(repeated(text.encode(), split(text)))
        if members:
            again = data.draw(st.sampled_from(sorted(members)))
            value = json.dumps(data.draw(st.sampled_from([members[again], 1, "x", [1.0]])))
            key = json.dumps(again, ensure_ascii=data.draw(st.booleans()))
            text = f"{text.rstrip()[:-1]}, {key}: {value} }}"
            self.assertEqual(repeated(text.encode(), split(text)), again)


class BodyTests(SynchronousTestCase):
    def test_a_raw_field_keeps_its_spelling(self) -> None:
        for text in (b"1.00", b'{"a" :  1e2, "a":-0 , "\\u00e9":[]}', b"null", b'"\xc3\xa9"'):
            got: Any = PUBLISH.from_json({}, b'{"tags":["t"], "content":\n' + text + b"\t}")
            self.assertEqual(bytes(got.content), text)
            self.assertEqual(got.tags, ["t"])

    def test_a_field_has_the_name_that_callers_know(self) -> None:
        got: Any = PUBLISH.from_json({}, b'{"content":1,"schemaId":"note/v1"}')
        self.assertEqual(got.schema_id, "note/v1")

    def test_a_body_that_is_nested_too_deep_is_refused_by_that_name(self) -> None:
        deep = b"[" * 100_000 + b"]" * 100_000
        for field in (b"content", b"tags"):
            with self.assertRaises(NestedTooDeep):
                PUBLISH.from_json({}, b'{"' + field + b'":' + deep + b"}")

    def test_each_bad_body_is_refused_by_name(self) -> None:
        table = [
            (b"", None, "the body is empty"),
            (b" \r\n", None, "the body is empty"),
            (b"[]", None, "has to be a JSON object"),
            (b"null", None, "has to be a JSON object"),
            (b'"x"', None, "has to be a JSON object"),
            (b"content=1", None, "the body is not JSON: JSON is malformed"),
            (b'{"content":1', None, "the body is not JSON: input data was truncated"),
            (b'{"content":1} x', None, "trailing characters"),
            (b'{"content":01}', None, "invalid number"),
            (b'{"content":NaN}', None, "not JSON"),
            (b"{'content':1}", None, "not JSON"),
            (b"\xef\xbb\xbf{}", None, "not JSON"),
            (b'{"content":"\xff"}', None, "the body is not UTF-8 (byte 12)"),
            (b'{"\xff":1}', None, "the body is not UTF-8"),
            (b'{"content":"\\ud800 "}', None, "not JSON"),
            (b"{}", "content", "content is missing: give it in the body"),
            (b'{"content":1,"tags":"a"}', "tags", "tags: expected `array`, got `str`"),
            (b'{"content":1,"tags":["a",2]}', "tags", "tags[1]: expected `str`, got `int`"),
            (b'{"content":1,"schemaId":5}', "schemaId", "schemaId: expected `str | null`"),
            (b'{"content":1,"schema_id":"x"}', None, "did you mean 'schemaId'?"),
            (b'{"contents":1}', None, "there is no field 'contents': did you mean 'content'?"),
            (b'{"content":1,"tags":["","","",""]}', None, "tags: at most 3 can be given"),
        ]
        for body, field, message in table:
            with self.assertRaises(InvalidRequest, msg=str(body[:80])) as caught:
                PUBLISH.from_json({}, body)
            self.assertIn(message, str(caught.exception))
            details = caught.exception.details
            self.assertEqual(details, None if field is None else {"field": field}, body[:80])

    def test_json_is_taken_strictly(self) -> None:
        note = reader(Note, "POST", "/x/{author}")
        self.assertEqual(note.from_json({"author": "a"}, b'{"text":"1"}'), Note("a", "1"))
        with self.assertRaises(InvalidRequest):
            note.from_json({"author": "a"}, b'{"text":1}')

    def test_a_field_of_the_path_cannot_be_given_again(self) -> None:
        note = reader(Note, "POST", "/x/{author}")
        with self.assertRaises(InvalidRequest) as caught:
            note.from_json({"author": "a"}, b'{"text":"1","author":"b"}')
        self.assertIn("'author' belongs in the path, not in the body", str(caught.exception))

    @given(st.binary(max_size=60) | st.text(alphabet='{}[]":,contesgs1.e-\\u ', max_size=60))
    def test_any_body_is_read_or_refused(self, body: bytes | str) -> None:
        try:
            PUBLISH.from_json({}, body if isinstance(body, bytes) else body.encode())
        except (InvalidRequest, NestedTooDeep) as e:
            self.assertTrue(str(e))


class ContentTypeTests(SynchronousTestCase):
    def check(self, method: str, types: list[str], has_body: bool) -> bool:
        try:
            check_content_type(method, types, has_body)
        except UnsupportedMediaType:
            return False
        return True

    def test_json_and_nothing_else_changes_state(self) -> None:
        good = [
            "application/json",
            "Application/JSON",
            "application/json; charset=utf-8",
            'application/json ;charset="UTF-8"',
            "application/json;",
        ]
        bad = [
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "text/plain",
            "",
            "application/jsonx",
            "text/json",
            "application/json, text/plain",
            "application/json; charset=latin-1",
            "text/plain; application/json",
        ]
        for method in ("POST", "DELETE", "PUT", "PATCH", "BREW"):
            for one in good:
                self.assertTrue(self.check(method, [one], True), (method, one))
            for one in bad:
                self.assertFalse(self.check(method, [one], True), (method, one))
                self.assertFalse(self.check(method, [one], False), (method, one))
            self.assertFalse(self.check(method, ["application/json", "text/plain"], True))
            self.assertFalse(self.check(method, [], True), method)

    def test_what_has_no_body_needs_no_type(self) -> None:
        for method in ("DELETE", "POST"):
            self.assertTrue(self.check(method, [], False))
            self.assertFalse(self.check(method, [], True))
            self.assertFalse(self.check(method, ["text/plain"], False))

    def test_an_empty_body_will_do_where_nothing_is_needed_in_it(self) -> None:
        follow = reader(Note, "POST", "/x/{author}/{text}")
        self.assertEqual(follow.from_json({"author": "a", "text": "t"}, b""), Note("a", "t"))
        with self.assertRaises(InvalidRequest):
            reader(Note, "POST", "/x/{author}").from_json({"author": "a"}, b"")

    def test_reading_needs_no_type(self) -> None:
        for method in ("GET", "HEAD", "OPTIONS"):
            self.assertTrue(self.check(method, ["text/plain"], False))
