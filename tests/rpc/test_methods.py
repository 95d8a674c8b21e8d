"""What can be declared, and how bytes are read into it."""

from __future__ import annotations

from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import FrameTooLarge, InvalidAnswer, InvalidRequest
from meshkit.rpc.codec import ENVELOPE_BYTES, MAX_METHOD, encode_request, encode_result
from meshkit.rpc.methods import MAX_BODY, Dispatcher, Method
from meshkit.runtime.limits import DEFAULT_MESSAGE, MAX_MESSAGE
from tests.rpc.support import ADD, ECHO, Sum, Text

pack = msgspec.msgpack.encode


class Node(msgspec.Struct, array_like=True):
    value: int
    children: list[Node]


class Holder(msgspec.Struct, array_like=True):
    node: Node | None


class Anything(msgspec.Struct, array_like=True):
    value: Any


class Bare(msgspec.Struct, array_like=True):
    values: dict  # type: ignore[type-arg]


class Opaque(msgspec.Struct, array_like=True):
    value: msgspec.Raw


class Named(msgspec.Struct):
    value: int


class Twice(msgspec.Struct, array_like=True):
    """The same type in two places is not within itself."""

    first: Sum
    second: tuple[Sum, ...] = ()
    third: dict[str, Sum] | None = None


class DeclarationTests(SynchronousTestCase):
    def test_what_can_be_served(self) -> None:
        for request, answer in (
            (Text, str),
            (Sum, type(None)),
            (Twice, list[Twice]),
            (Opaque, Named),
            (Text, dict[str, int]),
        ):
            with self.subTest(request=request, answer=answer):
                Method("a", request, answer)

    def test_what_cannot(self) -> None:
        wrong: list[tuple[Any, Any, dict[str, Any]]] = [
            (Named, str, {}),
            (list[int], str, {}),
            (Anything, str, {}),
            (Bare, str, {}),
            (Node, str, {}),
            (Holder, str, {}),
            (Text, Any, {}),
            (Text, object, {}),
            (Text, list, {}),
            (Text, list[Node], {}),
            (Text, str, {"cost": -1}),
            (Text, str, {"cost": float("nan")}),
            (Text, str, {"max_request": 0}),
            (Text, str, {"max_request": MAX_BODY + 1}),
            (Text, str, {"max_answer": MAX_BODY + 1}),
        ]
        for request, answer, more in wrong:
            with self.subTest(f"{request} {answer} {more}"), self.assertRaises(ValueError):
                Method("a", request, answer, **more)

    def test_names_have_a_length(self) -> None:
        Method("a" * MAX_METHOD, Text, str)
        for name in ("", "a" * (MAX_METHOD + 1)):
            with self.assertRaises(ValueError):
                Method(name, Text, str)

    def test_the_largest_body_is_within_the_largest_message(self) -> None:
        Method("a", Text, str, max_request=MAX_BODY, max_answer=MAX_BODY)
        self.assertEqual(MAX_BODY + ENVELOPE_BYTES, MAX_MESSAGE)
        name = "\N{GRINNING FACE}" * MAX_METHOD
        self.assertLessEqual(len(encode_request(2**32 - 1, name, [])) - 1, ENVELOPE_BYTES)
        self.assertLessEqual(len(encode_result(2**32 - 1, None)), ENVELOPE_BYTES)


class ReadingTests(SynchronousTestCase):
    def test_a_request_comes_back(self) -> None:
        self.assertEqual(ADD.read_request(pack(Sum(1, 2))), Sum(1, 2))

    def test_fields_with_defaults_may_be_missing_and_later_ones_are_ignored(self) -> None:
        self.assertEqual(ADD.read_request(pack([1])), Sum(1, 0))
        self.assertEqual(ADD.read_request(pack([1, 2, "more"])), Sum(1, 2))

    def test_what_does_not_fit_is_refused_by_name(self) -> None:
        for wrong in ([], ["1"], [1.5], {"a": 1}, 1, None, [None]):
            with self.subTest(wrong), self.assertRaises(InvalidRequest):
                ADD.read_request(pack(wrong))
        with self.assertRaises(InvalidRequest):
            ECHO.read_request(b"\x91\xa1\xff")
        deep = b"\x93\x01\x02" + b"\x91" * 5000 + b"\xc0"
        with self.assertRaises(InvalidRequest):
            ADD.read_request(deep)

    def test_sizes_at_the_limit_and_over_it(self) -> None:
        body = len(pack(Text("x" * 1000)))
        small = Method("small", Text, str, max_request=body, max_answer=body)
        self.assertEqual(small.read_request(pack(Text("x" * 1000))), Text("x" * 1000))
        with self.assertRaises(FrameTooLarge):
            small.read_request(pack(Text("x" * 1001)))
        self.assertEqual(small.read_answer(pack("x" * (body - 3))), "x" * (body - 3))
        with self.assertRaises(InvalidAnswer):
            small.read_answer(pack("x" * (body - 2)))

    def test_an_answer_of_another_type_is_refused_by_name(self) -> None:
        for wrong in (1, None, [], b"bytes"):
            with self.subTest(wrong), self.assertRaises(InvalidAnswer):
                ECHO.read_answer(pack(wrong))


class DispatcherTests(SynchronousTestCase):
    def test_it_finds_what_it_was_given(self) -> None:
        dispatcher = Dispatcher()
        self.assertEqual((dispatcher.methods, dispatcher.largest_request), ((), 0))

        def handler(peer: Any, request: Text) -> str:
            return ""

        dispatcher.serve(ECHO, handler)
        found = dispatcher.find("echo")
        assert found is not None
        self.assertIs(found.method, ECHO)
        self.assertIs(found.handler, handler)
        self.assertIsNone(dispatcher.find("Echo"))
        self.assertEqual(dispatcher.largest_request, DEFAULT_MESSAGE)

    def test_a_name_is_served_once(self) -> None:
        dispatcher = Dispatcher()
        dispatcher.serve(ECHO, lambda peer, request: "")
        with self.assertRaises(ValueError):
            dispatcher.serve(Method("echo", Sum, int), lambda peer, request: 0)

    def test_the_largest_request_counts(self) -> None:
        dispatcher = Dispatcher()
        dispatcher.serve(Method("a", Text, str, max_request=100), lambda peer, request: "")
        dispatcher.serve(Method("b", Text, str, max_request=900_000), lambda peer, request: "")
        dispatcher.serve(Method("c", Text, str, max_request=200), lambda peer, request: "")
        self.assertEqual(dispatcher.largest_request, 900_000)
        self.assertEqual([method.name for method in dispatcher.methods], ["a", "b", "c"])
