"""L{meshkit.feed.canonical}: the one text of a JSON value."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    ContentTooLarge,
    MalformedMessage,
    NestedTooDeep,
    NumberNotPortable,
)
from meshkit.feed.canonical import (
    MAX_CONTENT_BYTES,
    MAX_CONTENT_NESTING,
    MAX_NESTING,
    canonicalise,
    prepare_content,
    prepare_content_text,
    read_json,
    write_string,
)
from meshkit.testing.strategies import contents
from tests.feed.known import error_of, vectors

FRAME = b'{"type":"messages","messages":[{"content":%s}]}'


def canonical(text: bytes | str) -> str:
    raw = text if isinstance(text, bytes) else text.encode()
    return canonicalise(read_json(raw)[0]).text


def same(left: Any, right: Any) -> bool:
    """Equal as JSON: unlike C{==}, 1 is not 1.0, nor True, and 0.0 is not -0.0."""
    return repr(left) == repr(right)


class KnownTextsTests(SynchronousTestCase):
    def test_every_text_gets_the_canonical_text_that_rust_gives_it(self) -> None:
        rows = vectors("texts.json")["rows"]
        for encoding, shown, text in rows:
            raw = bytes.fromhex(shown) if encoding == "hex" else shown.encode()
            if text is None:
                self.assertIs(error_of(read_json, raw), MalformedMessage, repr(raw))
            else:
                self.assertEqual(canonical(raw), text, repr(raw))
        self.assertGreater(len(rows), 110)

    def test_integers_of_64_bits_stay_integers_and_others_become_floats(self) -> None:
        for text, expected in (
            ("18446744073709551615", 2**64 - 1),
            ("18446744073709551616", 18446744073709551616.0),
            ("-9223372036854775808", -(2**63)),
            ("-9223372036854775809", -9223372036854775808.0),
            ("-0", -0.0),
            ("0", 0),
            ("-1", -1),
        ):
            value = canonicalise(read_json(text.encode())[0]).value
            self.assertTrue(same(value, expected), f"{text} was read as {value!r}")

    def test_the_value_is_what_the_canonical_text_says(self) -> None:
        for text in ("1E2", "1.50", "0.36995516654807925", "[1e16,1e+16]", '{"a":1,"a":-0}'):
            prepared = canonicalise(read_json(text.encode())[0])
            self.assertTrue(same(prepared.value, json.loads(prepared.text)), text)

    @given(contents())
    @example({})
    @example([])
    @example({"b": [{}, [], {"": None}], "a": {"\U0001f600": True, "\uffff": "\x00"}})
    def test_one_unusual_number_does_not_change_what_stands_around_it(self, value: Any) -> None:
        """The fast and the slow writer agree."""
        text = prepare_content(value).text
        self.assertEqual(canonical(f"[{text},1E5]"), f"[{text},100000.0]")
        self.assertEqual(canonical(f'{{"b":{text},"a":1E5}}'), f'{{"a":100000.0,"b":{text}}}')

    @given(contents())
    def test_canonical_text_is_its_own_canonical_text(self, value: Any) -> None:
        text = prepare_content(value).text
        self.assertEqual(canonical(text), text)

    @given(contents(), st.booleans(), st.sampled_from([None, 0, 3, "\t\r\n "]))
    def test_white_space_and_escapes_do_not_matter(
        self, value: Any, ascii_only: bool, indent: int | str | None
    ) -> None:
        prepared = prepare_content(value)
        other = json.dumps(prepared.value, ensure_ascii=ascii_only, indent=indent)
        self.assertEqual(canonical(other), prepared.text)

    @given(
        st.dictionaries(st.text(max_size=8), st.integers(0, 9), min_size=2).flatmap(
            lambda d: st.permutations(list(d.items()))
        )
    )
    def test_keys_are_sorted_by_their_utf_8_bytes(self, pairs: list[tuple[str, int]]) -> None:
        keys = list(json.loads(canonical(json.dumps(dict(pairs)))))
        self.assertEqual(keys, sorted(keys, key=lambda key: key.encode()))

    def test_a_string_is_written_as_inside_a_text(self) -> None:
        for text in ("", "Tést", 'a/b "q"\n', "\x00\x1f\x7f\u2028\\"):
            self.assertEqual(f"[{write_string(text)}]", canonicalise([text]).text)


class RepeatedKeysTests(SynchronousTestCase):
    def test_the_outermost_object_is_said_to_repeat_its_keys(self) -> None:
        tree, repeated = read_json(b'{"a":1,"b":{"c":1,"c":2},"a":{"b":3},"d":0,"d":1,"d":2}')
        self.assertEqual(repeated, ["a", "d", "d"])
        self.assertEqual(tree, {"a": {"b": 3}, "b": {"c": 2}, "d": 2})

    def test_objects_inside_repeat_theirs_without_mention(self) -> None:
        for text in (b'{"b":{"c":1,"c":2}}', b'[{"c":1,"c":2}]', b'{"a":[{"c":1,"c":2}],"c":{}}'):
            self.assertEqual(read_json(text)[1], [], text)

    def test_keys_that_are_equal_after_unescaping_are_repeated(self) -> None:
        self.assertEqual(read_json(b'{"a":1,"\\u0061":2}'), ({"a": 2}, ["a"]))


class NestingTests(SynchronousTestCase):
    def nested(self, depth: int) -> list[bytes]:
        half = depth // 2
        both = b'[{"a":' * half + b"[" * (depth % 2)
        return [
            b"[" * depth + b"]" * depth,
            b'{"a":' * depth + b"1" + b"}" * depth,
            both + b"1" + b"]" * (depth % 2) + b"}]" * half,
            b"[[],[[]]," + b"[" * (depth - 1) + b"]" * depth,
        ]

    def test_127_levels_are_read_and_128_refused(self) -> None:
        self.assertEqual(MAX_NESTING, 127)
        for good, bad in zip(self.nested(127), self.nested(128), strict=True):
            self.assertEqual(canonical(good).encode(), good)
            self.assertIs(error_of(read_json, bad), NestedTooDeep)

    def test_an_unusual_number_at_the_bottom_is_reached(self) -> None:
        for text in self.nested(127)[1:3]:
            other = text.replace(b"1", b"1E5")
            self.assertEqual(canonical(other).encode(), text.replace(b"1", b"100000.0"))

    def test_a_hundred_thousand_levels_are_refused_by_name(self) -> None:
        for bracket in (b"[", b'{"a":', b'[{"":'):
            self.assertIs(error_of(read_json, bracket * 100_000), NestedTooDeep)

    def test_brackets_in_strings_and_beside_each_other_are_not_nested(self) -> None:
        for text in (
            '["' + "[" * 1000 + '"]',
            '["\\"' + "[{" * 1000 + '\\\\"]',
            "[" + ",".join(["[]"] * 1000) + "]",
            "[" + ",".join(['{"a":[]}'] * 1000) + "]",
        ):
            self.assertEqual(canonical(text), text)

    def test_deep_nesting_after_a_string_with_escapes_is_seen(self) -> None:
        for string in ('"\\\\"', '"\\""', '"a\\\\\\"b"', '""'):
            text = f"[{string}," + "[" * 127
            self.assertIs(error_of(read_json, text.encode()), NestedTooDeep, string)

    def test_a_string_that_never_ends_is_no_json_however_long(self) -> None:
        for text in (b'"' + b"[" * 1000, b'"' + b'\\"' * 50_000 + b"[" * 200, b'["a","\\'):
            self.assertIs(error_of(read_json, text), MalformedMessage)

    def test_content_at_the_limit_fits_the_frame_it_travels_in(self) -> None:
        at_limit = prepare_content_text(b"[" * MAX_CONTENT_NESTING + b"]" * MAX_CONTENT_NESTING)
        read_json(FRAME % at_limit.text.encode())
        deeper = b"[" * (MAX_CONTENT_NESTING + 1) + b"]" * (MAX_CONTENT_NESTING + 1)
        self.assertIs(error_of(read_json, FRAME % deeper), NestedTooDeep)


class PrepareTests(SynchronousTestCase):
    """What is true of both ways to publish, from a value and from a text."""

    def both(self, text: str) -> list[type | None]:
        def from_value() -> None:
            prepare_content(json.loads(text))

        return [error_of(from_value), error_of(prepare_content_text, text)]

    @given(contents())
    def test_the_text_of_a_value_prepares_like_the_value(self, value: Any) -> None:
        prepared = prepare_content(value)
        again = prepare_content_text(json.dumps(value, indent=1))
        self.assertTrue(same(again, prepared))
        self.assertEqual(prepare_content_text(prepared.text.encode()).text, prepared.text)

    @given(contents())
    def test_what_was_prepared_stays_the_same(self, value: Any) -> None:
        prepared = prepare_content(value)
        self.assertTrue(same(prepare_content(prepared.value), prepared))
        self.assertTrue(same(json.loads(prepared.text), json.loads(canonical(prepared.text))))

    def test_a_float_that_others_misread_is_moved_to_its_neighbour(self) -> None:
        for prepared in (
            prepare_content({"x": [0.36995516654807925]}),
            prepare_content_text('{"x": [0.36995516654807925]}'),
        ):
            (x,) = prepared.value["x"]
            self.assertNotEqual(x, 0.36995516654807925)
            self.assertAlmostEqual(x, 0.36995516654807925, places=15)
            self.assertEqual(prepared.text, f'{{"x":[{x!r}]}}')

    def test_small_floats_are_spelled_as_rust_does(self) -> None:
        self.assertEqual(prepare_content([1e-5, 1e-7, -1.5e-9]).text, "[0.00001,1e-7,-1.5e-9]")

    def test_numbers_at_the_limits_are_taken(self) -> None:
        text = "[-9223372036854775808,18446744073709551615,9999999999999998.0]"
        self.assertEqual(prepare_content(json.loads(text)).text, text)
        self.assertEqual(prepare_content_text(text).text, text)

    def test_numbers_beyond_them_are_refused(self) -> None:
        for text in (
            "-9223372036854775809",
            "18446744073709551616",
            "1e16",
            "-1e16",
            "1e300",
            '{"a":[10000000000000000.0]}',
            "1" + "0" * 400,
        ):
            self.assertEqual(self.both(text), [NumberNotPortable] * 2, text)
        self.assertIs(error_of(prepare_content, 10**5000), NumberNotPortable)
        self.assertIs(error_of(prepare_content_text, "1" * 5000), NumberNotPortable)

    def test_the_error_shows_the_number_as_it_was_written(self) -> None:
        with self.assertRaisesRegex(NumberNotPortable, "123456789012345678901 .* as a string"):
            prepare_content_text('{"id": 123456789012345678901}')
        with self.assertRaisesRegex(NumberNotPortable, "123456789012345678901 "):
            prepare_content({"id": 123456789012345678901})

    def test_what_is_not_finite_is_refused(self) -> None:
        for x in (math.inf, -math.inf, math.nan):
            self.assertIs(error_of(prepare_content, [x]), NumberNotPortable)
        for text in ("1e400", "-1e400"):
            self.assertIs(error_of(prepare_content_text, text), NumberNotPortable)
        for text in ("NaN", "[Infinity]", "-Infinity"):
            self.assertIs(error_of(prepare_content_text, text), MalformedMessage)

    def test_minus_zero_is_a_float(self) -> None:
        self.assertEqual(prepare_content_text("[-0,0]").text, "[-0.0,0]")
        self.assertEqual(prepare_content([-0.0, 0]).text, "[-0.0,0]")

    def test_nesting_at_the_limit_is_taken_and_one_more_refused(self) -> None:
        for opening, closing in ("[]", ('{"a":[', "]}")):
            levels = opening.count("[") + opening.count("{")
            depth = MAX_CONTENT_NESTING // levels
            text = opening * depth + closing * depth
            self.assertEqual(self.both(text), [None, None])
            self.assertEqual(self.both(f"[{text}]"), [NestedTooDeep] * 2)

    def test_a_list_that_holds_itself_is_nested_too_deep(self) -> None:
        endless: list[Any] = []
        endless.append(endless)
        self.assertIs(error_of(prepare_content, endless), NestedTooDeep)

    def test_content_at_the_limit_is_taken_and_one_byte_more_refused(self) -> None:
        self.assertEqual(MAX_CONTENT_BYTES, 65536, "Egregore's limit")
        for letter, size in (("a", 1), ("é", 2), ("\x01", 6)):
            count, rest = divmod(MAX_CONTENT_BYTES - 2, size)
            fits = letter * count + "b" * rest
            self.assertEqual(len(prepare_content(fits).text.encode()), MAX_CONTENT_BYTES)
            self.assertEqual(self.both(json.dumps(fits)), [None, None])
            self.assertEqual(self.both(json.dumps(fits + "b")), [ContentTooLarge] * 2)

    def test_white_space_does_not_count(self) -> None:
        self.assertEqual(prepare_content_text(b"[1" + b" " * 100_000 + b"]").text, "[1]")

    def test_a_value_that_unfolds_without_end_is_refused_early(self) -> None:
        bomb: list[Any] = []
        for _ in range(40):
            bomb = [bomb, bomb]
        self.assertIs(error_of(prepare_content, bomb), ContentTooLarge)

    def test_what_json_does_not_have_is_refused_by_name(self) -> None:
        class Word(str):
            pass

        values: list[tuple[Any, str]] = [
            ((1, 2), "tuple"),
            ({1}, "set"),
            (b"x", "bytes"),
            (object(), "object"),
            (1j, "complex"),
            (Word("x"), "Word"),
        ]
        for value, name in values:
            with self.assertRaisesRegex(MalformedMessage, f"holds a {name}:"):
                prepare_content({"x": [value]})
        for key in (1, None, Word("x"), b"x"):
            with self.assertRaisesRegex(MalformedMessage, "keys are strings"):
                prepare_content({key: 1})

    def test_half_a_surrogate_pair_is_refused_everywhere(self) -> None:
        for value in ("\ud83d", ["a\ude00"], {"\ud83d": 1}, {"a": {"b": "\udc80"}}):
            self.assertIs(error_of(prepare_content, value), MalformedMessage, ascii(value))
            self.assertIs(error_of(prepare_content_text, json.dumps(value)), MalformedMessage)
        self.assertIs(error_of(prepare_content_text, '"\ud83d"'), MalformedMessage)
        self.assertEqual(prepare_content_text('"\\ud83d\\ude00"').value, "\U0001f600")

    def test_a_repeated_key_is_refused_by_name(self) -> None:
        for text in ('{"a":1,"b":2,"b":3}', '{"a":[{"b":1,"b":1}]}', '{"b":1,"\\u0062":1}'):
            with self.assertRaisesRegex(MalformedMessage, "the key 'b' twice"):
                prepare_content_text(text)

    def test_what_is_no_json_is_refused(self) -> None:
        for text in (b"", b"{", b"\xff", b"[1,]", b"{'a':1}", b"\xef\xbb\xbf1", b"01", b"1 1"):
            self.assertIs(error_of(prepare_content_text, text), MalformedMessage, repr(text))

    def test_the_value_that_was_given_is_not_changed(self) -> None:
        value = {"x": [0.36995516654807925, {"y": 1}]}
        prepared = prepare_content(value)
        self.assertEqual(value, {"x": [0.36995516654807925, {"y": 1}]})
        value["x"].append("later")
        self.assertEqual(len(prepared.value["x"]), 2)
