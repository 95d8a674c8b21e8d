"""Messages: what is read, what is refused, and what is written."""

from __future__ import annotations

import contextlib
import json
from base64 import b64encode
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import McpRefused
from meshkit.web.mcp import wire
from meshkit.web.mcp.wire import Headers, Notice, Reply, Request

DEEP = 16

NAMES = st.text(max_size=8)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)
IDS = st.text(max_size=20) | st.integers(-(2**53), 2**53)


def read(text: bytes | str, depth: int = DEEP) -> wire.Message:
    return wire.read_message(text.encode() if isinstance(text, str) else text, depth)


class ReadingTests(SynchronousTestCase):
    def refused(self, text: bytes | str, code: int, id: Any = None, depth: int = DEEP) -> None:
        error = self.assertRaises(wire.Malformed, read, text, depth)
        self.assertEqual((error.rpc_code, error.id), (code, id), text)

    def test_a_request(self) -> None:
        message = read('{"jsonrpc":"2.0","id":"a","method":"tools/list","params":{"cursor":"x"}}')
        assert isinstance(message, Request)
        self.assertEqual((message.id, message.method), ("a", "tools/list"))
        self.assertEqual(message.params.text("cursor"), "x")

    def test_a_request_without_parameters_has_empty_ones(self) -> None:
        message = read('{"method":"ping","id":0,"jsonrpc":"2.0"}')
        assert isinstance(message, Request)
        self.assertNotIn("cursor", message.params)
        self.assertEqual(message.params.meta, {})

    def test_a_notification(self) -> None:
        message = read('{"jsonrpc":"2.0","method":"notifications/initialized"}')
        self.assertIsInstance(message, Notice)

    def test_a_response(self) -> None:
        self.assertEqual(
            read('{"jsonrpc":"2.0","id":3,"result":{"a": 1}}'), Reply(3, b'{"a": 1}', None)
        )
        self.assertEqual(
            read('{"jsonrpc":"2.0","id":3,"error":{"code":-1,"message":"no"}}'),
            Reply(3, None, (-1, "no")),
        )

    def test_what_is_not_looked_at_stays_as_it_was_spelt(self) -> None:
        spelt = b'{ "n": 1.00,\t"k":"\\u00e9", "e": 1E2 }'
        message = read(
            b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":' + spelt + b"}}"
        )
        assert isinstance(message, Request)
        self.assertEqual(message.params.raw("arguments"), spelt)

    def test_what_is_no_json_is_a_parse_error(self) -> None:
        for text in (b"", b" ", b"{", b'{"jsonrpc":"2.0",', b"nonsense", b"\xff\xfe", b"{'a':1}"):
            self.refused(text, wire.PARSE_ERROR)

    def test_what_is_json_and_no_message_is_an_invalid_request(self) -> None:
        for text in ("[]", "1", '"x"', "null", "true"):
            self.refused(text, wire.INVALID_REQUEST)

    def test_a_batch_is_refused(self) -> None:
        self.refused('[{"jsonrpc":"2.0","id":1,"method":"ping"}]', wire.INVALID_REQUEST)

    def test_the_answer_to_a_malformed_request_has_its_id_if_that_can_be_read(self) -> None:
        for text, id in (
            ('{"jsonrpc":"1.0","id":7,"method":"ping"}', 7),
            ('{"id":"x","method":"ping"}', "x"),
            ('{"jsonrpc":"2.0","id":7,"method":5}', 7),
            ('{"jsonrpc":"2.0","id":7}', 7),
            ('{"jsonrpc":"2.0","id":7,"result":{},"error":{"code":1}}', 7),
            ('{"jsonrpc":"2.0","id":null,"method":"ping"}', None),
            ('{"jsonrpc":"2.0","id":1.5,"method":"ping"}', None),
            ('{"jsonrpc":"2.0","id":true,"method":"ping"}', None),
            ('{"jsonrpc":"2.0","id":[1],"method":"ping"}', None),
            ('{"jsonrpc":"2.0","result":{}}', None),
            ('{"jsonrpc":"2.0","id":7,"error":"no"}', None),
        ):
            self.refused(text, wire.INVALID_REQUEST, id)
        for text in (
            '{"jsonrpc":"2.0","id":7,"method":"ping","params":[]}',
            '{"jsonrpc":"2.0","id":7,"method":"ping","params":null}',
            '{"jsonrpc":"2.0","id":7,"method":"ping","params":"x"}',
        ):
            self.refused(text, wire.INVALID_PARAMS, 7)

    def test_an_id_has_a_limit(self) -> None:
        for id in ("x" * wire.MAX_ID, 2**63, -(2**63)):
            text = json.dumps({"jsonrpc": "2.0", "id": id, "method": "ping"})
            message = read(text)
            assert isinstance(message, Request)
            self.assertEqual(message.id, id)
        for id in ("x" * (wire.MAX_ID + 1), 2**63 + 1, -(2**63) - 1, 10**40):
            text = json.dumps({"jsonrpc": "2.0", "id": id, "method": "ping"})
            self.refused(text, wire.INVALID_REQUEST)

    def test_nesting_has_a_limit(self) -> None:
        # The message and its parameters are two levels themselves.
        for opening, closing in (("[", "]"), ('{"[":', "}")):
            for levels, fits in ((DEEP - 2, True), (DEEP - 1, False)):
                inner = opening * levels + "0" + closing * levels
                text = '{"jsonrpc":"2.0","method":"m","params":{"x":' + inner + "}}"
                if fits:
                    self.assertIsInstance(read(text), Notice)
                else:
                    self.refused(text, wire.INVALID_REQUEST)

    def test_brackets_in_texts_do_not_count(self) -> None:
        words = json.dumps("[{" * 100 + '"\\' + "[" * 100)
        read('{"jsonrpc":"2.0","method":"m","params":{"x":' + words + "}}")

    def test_garbage_is_judged_in_little_time(self) -> None:
        """Each of these made a regular expression or a recursion explode."""
        size = 1 << 20
        for text in (
            b"[" * size,
            b"[" * (size // 2) + b"]" * (size // 2),
            b'{"a":' * (size // 5),
            b'"' * size,
            b'"' + b'\\"' * (size // 2),
            b"\\" * size,
            b"[]" * (size // 2),
            b'["' * (size // 2),
        ):
            self.assertRaises(wire.Malformed, read, text)

    @given(VALUES, st.integers(0, 5))
    def test_nesting_is_what_a_walk_through_the_value_finds(self, value: Any, limit: int) -> None:
        def walk(inner: Any) -> int:
            if isinstance(inner, dict):
                return 1 + max(map(walk, inner.values()), default=0)
            if isinstance(inner, list):
                return 1 + max(map(walk, inner), default=0)
            return 0

        text = json.dumps(value).encode()
        self.assertEqual(wire.nests_deeper(text, limit), walk(value) > limit)

    @given(IDS, st.text(max_size=20), st.dictionaries(NAMES, VALUES, max_size=4))
    def test_what_was_written_is_read(self, id: Any, method: str, params: dict[str, Any]) -> None:
        message = read(wire.request(id, method, params), 64)
        assert isinstance(message, Request)
        self.assertEqual((message.id, message.method), (id, method))
        for name, value in params.items():
            raw = message.params.raw(name)
            assert raw is not None
            self.assertEqual(json.loads(raw), value)
        told = read(wire.notification(method, params), 64)
        self.assertIsInstance(told, Notice)
        answer = read(wire.answer(id, params), 64)
        assert isinstance(answer, Reply)
        assert answer.result is not None
        self.assertEqual(json.loads(answer.result), params)

    @given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
    def test_garbage_is_refused_and_nothing_else_is_raised(self, text: bytes) -> None:
        with self.assertRaises(wire.Malformed):
            read(text)

    def test_every_truncation_is_a_parse_error(self) -> None:
        whole = wire.request(7, "tools/call", {"name": "x", "arguments": {"a": [1, {"b": "c"}]}})
        read(whole)
        for size in range(len(whole)):
            self.refused(whole[:size], wire.PARSE_ERROR)

    @given(st.data())
    def test_a_byte_that_changed_is_refused_or_gives_a_message(self, data: Any) -> None:
        whole = bytearray(wire.request(7, "tools/call", {"name": "x", "_meta": {"a": 1}}))
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
        with contextlib.suppress(wire.Malformed):
            self.assertIsInstance(read(bytes(whole)), wire.Message)


class ParameterTests(SynchronousTestCase):
    def params(self, **fields: Any) -> wire.Params:
        message = read(wire.request(1, "m", fields))
        assert isinstance(message, Request)
        return message.params

    def test_what_is_missing_or_of_another_type_is_named(self) -> None:
        params = self.params(a=1, b="x", c={"d": 1}, e=True, f=None)
        self.assertEqual(params.text("b"), "x")
        self.assertEqual(params.optional_text("b"), "x")
        self.assertIsNone(params.optional_text("z"))
        self.assertEqual(params.mapping("c"), {"d": 1})
        self.assertEqual((params.id("a"), params.id("b")), (1, "x"))
        for read_it, name in (
            (params.text, "a"),
            (params.text, "z"),
            (params.text, "f"),
            (params.optional_text, "a"),
            (params.mapping, "b"),
            (params.mapping, "z"),
            (params.id, "c"),
            (params.id, "e"),
            (params.id, "z"),
        ):
            error = self.assertRaises(McpRefused, read_it, name)
            self.assertEqual(error.rpc_code, wire.INVALID_PARAMS)
            self.assertIn(f"params.{name}", str(error))

    def test_meta_has_to_be_an_object(self) -> None:
        with self.assertRaises(McpRefused):
            _ = self.params(_meta=[]).meta


class WritingTests(SynchronousTestCase):
    """Known answers."""

    def test_messages_look_as_the_specification_shows_them(self) -> None:
        self.assertEqual(wire.answer("a", {"x": 1}), b'{"jsonrpc":"2.0","id":"a","result":{"x":1}}')
        self.assertEqual(
            wire.refusal(None, McpRefused(-32700, "no", {"d": 1})),
            b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no","data":{"d":1}}}',
        )
        self.assertEqual(
            wire.refusal(3, McpRefused(-32601, "no")),
            b'{"jsonrpc":"2.0","id":3,"error":{"code":-32601,"message":"no"}}',
        )
        self.assertEqual(wire.notification("n"), b'{"jsonrpc":"2.0","method":"n"}')
        self.assertEqual(
            wire.notification("n", {"a": 1}), b'{"jsonrpc":"2.0","method":"n","params":{"a":1}}'
        )
        self.assertEqual(
            wire.request(1, "m", {}), b'{"jsonrpc":"2.0","id":1,"method":"m","params":{}}'
        )

    def test_a_message_that_is_no_unicode_is_sent_all_the_same(self) -> None:
        self.assertIn(b"file\\\\udcff", wire.refusal(1, McpRefused(-1, "file\udcff")))


class EnvelopeTests(SynchronousTestCase):
    VERSION = wire.STATELESS_VERSIONS[0]

    def request(self, method: str = "tools/list", meta: Any = None, **params: Any) -> Request:
        if meta is None:
            meta = {wire.META_VERSION: self.VERSION, wire.META_CAPABILITIES: {"roots": {}}}
        message = read(wire.request(1, method, params | {"_meta": meta}))
        assert isinstance(message, Request)
        return message

    def headers(self, **more: list[str]) -> Headers:
        given: dict[str, Any] = {
            "version": [self.VERSION],
            "method": ["tools/list"],
            "name": [],
            "values": lambda name: [],
        }
        return Headers(**given | more)

    def refused(self, code: int, request: Request, headers: Headers | None = None) -> McpRefused:
        error = self.assertRaises(McpRefused, wire.read_envelope, request, headers)
        self.assertEqual(error.rpc_code, code, str(error))
        return error

    def test_a_good_one(self) -> None:
        for headers in (None, self.headers()):
            envelope = wire.read_envelope(self.request(), headers)
            self.assertEqual(envelope.version, self.VERSION)
            self.assertEqual(envelope.capabilities, {"roots": {}})
            self.assertIsNone(envelope.log_level)

    def test_a_version_that_is_not_spoken_is_the_first_thing_to_say(self) -> None:
        """What else a request of another version has to hold is not known here."""
        error = self.refused(
            wire.UNSUPPORTED_VERSION, self.request(meta={wire.META_VERSION: "2099-01-01"}), None
        )
        self.assertEqual(error.data["requested"], "2099-01-01")
        self.assertEqual(error.data["supported"], list(wire.STATELESS_VERSIONS))

    def test_what_has_to_be_there(self) -> None:
        good = {wire.META_VERSION: self.VERSION, wire.META_CAPABILITIES: {}}
        for key in good:
            less = {name: value for name, value in good.items() if name != key}
            self.assertIn(key, str(self.refused(wire.INVALID_PARAMS, self.request(meta=less))))
        for wrong in ({wire.META_VERSION: 7}, {wire.META_CAPABILITIES: []}):
            self.refused(wire.INVALID_PARAMS, self.request(meta=good | wrong))

    def test_a_version_that_is_not_spoken(self) -> None:
        for version in ("2025-11-25", "2099-01-01"):
            meta = {wire.META_VERSION: version, wire.META_CAPABILITIES: {}}
            headers = self.headers(version=[version])
            error = self.refused(wire.UNSUPPORTED_VERSION, self.request(meta=meta), headers)
            self.assertEqual(
                error.data, {"supported": list(wire.STATELESS_VERSIONS), "requested": version}
            )

    def test_headers_have_to_say_what_the_body_says(self) -> None:
        request = self.request()
        for wrong in (
            {"version": []},
            {"version": ["2025-11-25"]},
            {"version": [self.VERSION, self.VERSION]},
            {"method": []},
            {"method": ["tools/call"]},
            {"method": ["TOOLS/LIST"]},
            {"method": ["tools/list", "tools/list"]},
            {"name": ["a", "a"]},
        ):
            self.refused(wire.HEADER_MISMATCH, request, self.headers(**wrong))

    def test_the_name_is_repeated_where_there_is_one(self) -> None:
        for method, parameter in wire.NAMED_BY.items():
            request = self.request(method, **{parameter: "Ärger"})
            encoded = f"=?base64?{b64encode('Ärger'.encode()).decode()}?="
            good = self.headers(method=[method], name=[encoded])
            wire.read_envelope(request, good)
            for wrong in ([], ["ärger"], ["=?base64?%%?="], ["=?base64?w4Q?="], [encoded] * 2):
                headers = self.headers(method=[method], name=wrong)
                self.refused(wire.HEADER_MISMATCH, request, headers)

    def test_what_is_written_in_base64(self) -> None:
        for value, meant in (
            ("plain", "plain"),
            ("=?base64?aGk=?=", "hi"),
            ("=?base64??=", ""),
            ("=?BASE64?aGk=?=", "=?BASE64?aGk=?="),
            ("=?base64?aGk?=", None),
            ("=?base64?/w==?=", None),
            ("=?base64?aGl=?=", None),
            ("=?base64?a Gk=?=", None),
        ):
            self.assertEqual(wire.decode_header(value), meant, value)
