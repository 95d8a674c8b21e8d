"""Tests of L{meshkit.cli.arguments}: fields of an operation on a command line."""

from __future__ import annotations

import base64
import json
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlencode

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta
from twisted.trial.unittest import SynchronousTestCase

from meshkit.cli.arguments import Sending, Word, compose, explain, find
from meshkit.errors import InvalidRequest
from meshkit.operations import BoundOperation, Nothing, Operation
from meshkit.services.listing import Listing
from meshkit.services.operations import OperationShown
from meshkit.web.callers import OWNER
from meshkit.web.requests import RequestReader


class Everything(msgspec.Struct, forbid_unknown_fields=True):
    """One field of each type that a request has."""

    name: str
    anything: msgspec.Raw | None = None
    number: Annotated[int, Meta(ge=0, le=9, description="how many")] = 5
    ratio: float | None = None
    flag: bool = False
    tags: list[str] = []
    numbers: list[int] = []
    contents: list[msgspec.Raw] = []
    kind: Literal["own", "other"] = "own"
    note: str | None = None
    inner: dict[str, int] = {}
    data: bytes = b""


class Found(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    number: int = 5
    tags: list[str] = []
    note: str | None = None


class Sent(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    data: bytes
    note: str | None = None


POST = Operation("thing_make", "POST", "/v1/thing/{name}", Everything, None, "Make a thing.")
GET = Operation("thing_find", "GET", "/v1/thing/{name}", Found, None, "Find a thing.")
RAW = Operation("thing_put", "POST", "/v1/put/{name}", Sent, None, "Put a thing.", takes="data")
NONE = Operation("nothing_at_all", "POST", "/v1/nothing", Nothing, None, "Nothing.")

FILES = {"note.json": b' {"n": 1.0} ', "photo.jpg": b"\xff\xd8", "-": b"from outside"}
FILES |= {"name.json": b'"heron"', "tags.json": b'["a", "b"]', "five.json": b"5\n"}


def shown(operation: Operation) -> OperationShown:
    (only,) = Listing([BoundOperation(operation, lambda request: None)]).shown_to(OWNER)
    return only


def composed(operation: Operation, *words: str, whole: bytes | None = None) -> Sending:
    parsed = [Word.parse(word) for word in words]
    return compose(shown(operation), parsed, whole, FILES.__getitem__)


def body(*words: str, whole: bytes | None = None) -> Any:
    sending = composed(POST, "name=x", *words, whole=whole)
    assert sending.body is not None
    return json.loads(sending.body)


class WordTests(SynchronousTestCase):
    def test_the_first_sign_ends_the_name(self) -> None:
        self.assertEqual(Word.parse("a=b=c:=d"), Word("a", "b=c:=d", False))
        self.assertEqual(Word.parse("a:=[1]"), Word("a", "[1]", True))
        self.assertEqual(Word.parse("a="), Word("a", "", False))
        self.assertEqual(Word.parse("a=two\nlines"), Word("a", "two\nlines", False))

    def test_what_gives_no_field_is_refused(self) -> None:
        for text in ("", "limit", "=5", ":=5", "a:b"):
            with self.subTest(text):
                self.assertRaises(InvalidRequest, Word.parse, text)


class BodyTests(SynchronousTestCase):
    """Fields that go into a JSON object."""

    def test_the_schema_says_what_a_text_becomes(self) -> None:
        self.assertEqual(
            body("number=7", "ratio=1e3", "flag=true", "kind=other", "note=7", 'inner={"a":1}'),
            {
                "number": 7,
                "ratio": 1000.0,
                "flag": True,
                "kind": "other",
                "note": "7",
                "inner": {"a": 1},
            },
        )

    def test_a_list_takes_its_items_one_by_one(self) -> None:
        given = body("tags=a", "numbers=1", "tags=[b]", "numbers=2", "contents=x", "contents={}")
        self.assertEqual(given, {"tags": ["a", "[b]"], "numbers": [1, 2], "contents": ["x", {}]})

    def test_where_anything_may_stand_json_is_kept_as_it_is_spelt(self) -> None:
        for text in ('{ "n":1.00}', "1.0", "-0", '"5"', "[1e2 ]"):
            sending = composed(POST, "name=x", f"anything={text}")
            self.assertEqual(sending.body, b'{"anything":%b}' % text.encode())
        self.assertEqual(body("anything=hello"), {"anything": "hello"})
        self.assertEqual(body('anything={"a'), {"anything": '{"a'})

    def test_what_looks_like_a_file_is_never_taken_for_a_text_of_any_json(self) -> None:
        """What is published is signed and stays, so a slip has to be noticed before."""
        for word in ("anything=@missing", "anything=@note.json", "contents=@-", "anything=@"):
            name, _, text = word.partition("=")
            with self.subTest(word), self.assertRaises(InvalidRequest) as caught:
                body(word)
            self.assertIn(f"{name}:={text}", str(caught.exception))
            self.assertIn(f"{name}:='\"{text}\"'", str(caught.exception))
        self.assertEqual(body("anything:=@note.json"), {"anything": {"n": 1.0}})
        given = body('anything:="@you"', "note=@you")
        self.assertEqual(given, {"anything": "@you", "note": "@you"})

    def test_what_is_nested_too_deep_is_left_for_the_node_to_refuse(self) -> None:
        deep = "[" * 5000 + "]" * 5000
        sending = composed(POST, "name=x", f"anything={deep}")
        self.assertEqual(sending.body, b'{"anything":%b}' % deep.encode())

    def test_what_does_not_fit_is_sent_as_the_text_it_is(self) -> None:
        for word in ("number=many", "flag=perhaps", "ratio=", "inner=7", "number=true"):
            name, _, text = word.partition("=")
            self.assertEqual(body(word), {name: text})

    def test_json_is_json_whatever_the_field_is(self) -> None:
        self.assertEqual(
            body("note:=null", 'tags:=["a","b"]', "anything:=@note.json"),
            {"note": None, "tags": ["a", "b"], "anything": {"n": 1.0}},
        )
        sending = composed(GET, "name:=@name.json", "tags:=@tags.json", "number:=@five.json")
        self.assertEqual(sending.path, "/v1/thing/heron")
        self.assertEqual(sending.query, [("number", "5"), ("tags", "a"), ("tags", "b")])
        self.assertRaises(InvalidRequest, body, "note:=nothing")
        self.assertRaises(InvalidRequest, body, "note:=")

    def test_bytes_in_json_come_out_of_a_file(self) -> None:
        self.assertEqual(body("data=@photo.jpg"), {"data": "/9g="})
        self.assertEqual(body("data=/9g="), {"data": "/9g="})

    def test_one_value_is_given_once(self) -> None:
        error = self.assertRaises(InvalidRequest, body, "note=a", "note=b")
        self.assertEqual(error.details, {"field": "note"})

    def test_fields_win_over_the_object(self) -> None:
        given = body("number=7", whole=b'{"number": 1, "anything": 1.0, "tags": ["a"]}')
        self.assertEqual(given, {"number": 7, "anything": 1.0, "tags": ["a"]})

    def test_what_is_no_object_is_refused(self) -> None:
        for whole in (b"", b"[]", b"{", b"\xff"):
            with self.subTest(whole):
                self.assertRaises(InvalidRequest, body, whole=whole)

    def test_without_fields_an_empty_object_is_sent(self) -> None:
        self.assertEqual(composed(NONE), Sending("/v1/nothing", [], b"{}", False))


class ElsewhereTests(SynchronousTestCase):
    """Fields of a path, of a query string, and a body that is bytes."""

    def test_a_field_of_the_path_is_one_segment(self) -> None:
        self.assertEqual(composed(GET, "name=a/b c%ä").path, "/v1/thing/a%2Fb%20c%25%C3%A4")
        self.assertEqual(composed(GET, "name:=17").path, "/v1/thing/17")

    def test_a_field_of_the_path_cannot_be_left_out(self) -> None:
        for words in ((), ("name=",), ("name=a", "name=b"), ("name:=[]",), ("name:=null",)):
            with self.subTest(words):
                error = self.assertRaises(InvalidRequest, composed, GET, *words)
                self.assertEqual(error.details, {"field": "name"})

    def test_the_query_string_takes_texts(self) -> None:
        sending = composed(GET, "name=x", "tags=a", "number=many", "tags=b")
        self.assertEqual(sending.query, [("number", "many"), ("tags", "a"), ("tags", "b")])
        self.assertIsNone(sending.body)

    def test_json_becomes_texts_there(self) -> None:
        whole = b'{"number": 1.50, "tags": ["a", "b"], "note": null}'
        sending = composed(GET, "name=x", whole=whole)
        self.assertEqual(sending.query, [("number", "1.50"), ("tags", "a"), ("tags", "b")])
        sending = composed(GET, "name=x", "number:=true", 'note:="b"')
        self.assertEqual(sending.query, [("number", "true"), ("note", "b")])
        self.assertRaises(InvalidRequest, composed, GET, "name=x", "note:={}")

    def test_bytes_are_the_body_as_they_are(self) -> None:
        sending = composed(RAW, "name=x", "data=@photo.jpg", "note=n")
        self.assertEqual(sending, Sending("/v1/put/x", [("note", "n")], FILES["photo.jpg"], True))
        self.assertEqual(composed(RAW, "name=x", "data=@-").body, b"from outside")
        self.assertEqual(composed(RAW, "name=x", "data=ä").body, "ä".encode())
        for words in (("data:=1",), ("data=a", "data=b")):
            self.assertRaises(InvalidRequest, composed, RAW, "name=x", *words)

    def test_an_unknown_field_is_refused_with_what_it_may_mean(self) -> None:
        for words, meant in (
            (("nane=x",), "did you mean 'name'?"),
            (("name=x", "zzzz=1"), "name, number, tags, note"),
        ):
            error = self.assertRaises(InvalidRequest, composed, GET, *words)
            self.assertIn(meant, str(error))
        self.assertIn("takes none", str(self.assertRaises(InvalidRequest, composed, NONE, "a=1")))

    def test_an_unknown_operation_is_refused_with_what_it_may_mean(self) -> None:
        operations = [shown(GET), shown(POST)]
        self.assertEqual(find(operations, "thing_make").name, "thing_make")
        error = self.assertRaises(InvalidRequest, find, operations, "thing_mak")
        self.assertIn("did you mean 'thing_make'?", str(error))
        self.assertRaises(InvalidRequest, find, operations, "zzz")


class RoundTripTests(SynchronousTestCase):
    """What is composed is read by the node as what was meant."""

    @given(
        st.text(min_size=1).filter(str.strip),
        st.integers(0, 9),
        st.lists(st.text()),
        st.none() | st.text(),
    )
    def test_through_a_body(
        self, name: str, number: int, tags: list[str], note: str | None
    ) -> None:
        words = [f"name={name}", f"number={number}", *(f"tags={tag}" for tag in tags)]
        if note is not None:
            words.append(f"note={note}")
        sending = composed(POST, *words)
        assert sending.body is not None
        request: Any = RequestReader(POST).from_json({"name": name}, sending.body)
        self.assertEqual((request.number, request.tags, request.note), (number, tags, note))

    @given(st.integers(), st.lists(st.text()), st.none() | st.text())
    def test_through_a_query_string(self, number: int, tags: list[str], note: str | None) -> None:
        words = ["name=x", f"number={number}", *(f"tags={tag}" for tag in tags)]
        if note is not None:
            words.append(f"note={note}")
        sending = composed(GET, *words)
        query = urlencode(sending.query)
        self.assertEqual(parse_qsl(query, keep_blank_values=True), sending.query)
        request: Any = RequestReader(GET).from_query({"name": "x"}, query)
        self.assertEqual((request.number, request.tags, request.note), (number, tags, note))

    @given(st.binary())
    def test_bytes_through_a_body(self, data: bytes) -> None:
        FILES["any"] = data
        sending = composed(POST, "name=x", "data=@any")
        assert sending.body is not None
        request: Any = RequestReader(POST).from_json({"name": "x"}, sending.body)
        self.assertEqual(request.data, data)
        self.assertEqual(json.loads(sending.body)["data"], base64.b64encode(data).decode())


class ExplainTests(SynchronousTestCase):
    def test_fields_are_told_in_words(self) -> None:
        told = {each.usage: each.text for each in explain(shown(POST))}
        self.assertEqual(
            list(told),
            [
                "name=TEXT",
                "anything=JSON",
                "number=NUMBER",
                "ratio=NUMBER",
                "flag=true|false",
                "tags=TEXT",
                "numbers=NUMBER",
                "contents=JSON",
                "kind=other|own",
                "note=TEXT",
                "inner=JSON",
                "data=@FILE",
            ],
        )
        self.assertEqual(told["number=NUMBER"], "how many; 0 to 9; default: 5")
        self.assertEqual(told["name=TEXT"], "has to be given")
        self.assertEqual(told["kind=other|own"], "default: own")
        self.assertEqual(told["tags=TEXT"], "may be given again and again")
