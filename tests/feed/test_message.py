"""L{meshkit.feed.message}: the message format, byte for byte."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any
from unittest.mock import patch

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    ContentTooLarge,
    FeedError,
    HashMismatch,
    InvalidSequence,
    MalformedMessage,
    NestedTooDeep,
    SignatureInvalid,
)
from meshkit.feed.canonical import (
    MAX_CONTENT_BYTES,
    MAX_CONTENT_NESTING,
    MAX_NESTING,
    prepare_content_text,
    write_string,
)
from meshkit.feed.message import (
    MAX_FIELD_CHARS,
    MAX_MESSAGE_BYTES,
    MAX_SEQUENCE,
    MAX_TAG_CHARS,
    MAX_TAGS,
    Message,
    content_text,
    parse_message,
    sign_message,
    verify_message,
)
from meshkit.identity.keys import Identity
from meshkit.testing.strategies import contents
from tests.feed.known import error_of, vectors

KNOWN = vectors("messages.json")
AUTHOR = Identity(bytes.fromhex(KNOWN["seed"]))
MALLORY = Identity(b"\x66" * 32)

REQUIRED = ["author", "sequence", "previous", "timestamp", "content", "hash", "signature"]

FULL: dict[str, Any] = {
    "sequence": 2,
    "previous": "ab" * 32,
    "timestamp_ns": 1770921000_123456789,
    "content": {"type": "note", "title": "Tést", "n": [1, 2.5, None]},
    "schema_id": "note/v1",
    "relates": "cd" * 32,
    "tags": ("b", "a"),
    "trace_id": "t",
    "span_id": "s",
    "expires_at": "2030-01-01T00:00:00Z",
}


def signed(content: Any = "x", **fields: Any) -> Message:
    fields = {"sequence": 1, "previous": None, "timestamp_ns": 0, **fields}
    return sign_message(AUTHOR, content=content, **fields)


def full(**changes: Any) -> Message:
    return sign_message(AUTHOR, **{**FULL, **changes})


def check(raw: bytes) -> Message:
    """All that is asked of a received text before the store sees it."""
    message = parse_message(raw)
    verify_message(message)
    return message


def text_of(message: Message, **changes: str) -> bytes:
    """A message's text with the JSON of some fields replaced, added or (C{""}) removed."""
    fields = {name: json.dumps(value) for name, value in json.loads(message.raw).items()}
    fields.update(changes)
    return ("{" + ",".join(f'"{k}":{v}' for k, v in fields.items() if v) + "}").encode()


def forge(author: Identity, signed_text: str) -> bytes:
    """A message of any text at all, with a good hash and signature."""
    digest = hashlib.sha256(signed_text.encode()).hexdigest()
    signature = base64.b64encode(author._sign_raw(digest.encode())).decode()
    return f'{signed_text[:-1]},"hash":"{digest}","signature":"{signature}"}}'.encode()


class KnownMessagesTests(SynchronousTestCase):
    def test_messages_that_egregore_accepted_are_made_byte_for_byte(self) -> None:
        previous = None
        for sequence, known in enumerate(KNOWN["messages"], 1):
            message = sign_message(
                AUTHOR,
                sequence=sequence,
                previous=previous,
                timestamp_ns=known["timestamp_ns"],
                content=known["content"],
                **known["fields"],
            )
            self.assertEqual(message.hash, known["hash"])
            self.assertEqual(base64.b64encode(message.signature).decode(), known["signature"])
            end = f',"hash":"{known["hash"]}","signature":"{known["signature"]}"}}'
            self.assertEqual(message.raw.decode(), known["signed_text"][:-1] + end)
            previous = message.hash

    def test_messages_that_egregore_accepted_are_accepted(self) -> None:
        for known in KNOWN["messages"]:
            end = f',"hash":"{known["hash"]}","signature":"{known["signature"]}"}}'
            raw = (known["signed_text"][:-1] + end).encode()
            message = check(raw)
            self.assertEqual(message.raw, raw)
            self.assertEqual(message.content, known["content"])
            self.assertEqual(message.timestamp_ns, known["timestamp_ns"])

    def test_every_attribute_is_read(self) -> None:
        raw = full().raw
        message = check(raw)
        self.assertEqual(message.author, AUTHOR.public)
        self.assertEqual(message.sequence, 2)
        self.assertEqual(message.previous, "ab" * 32)
        self.assertEqual(message.timestamp, "2026-02-12T18:30:00.123456789Z")
        self.assertEqual(message.timestamp_ns, 1770921000_123456789)
        self.assertEqual(message.content, FULL["content"])
        self.assertEqual(message.content_type, "note")
        self.assertEqual(message.schema_id, "note/v1")
        self.assertEqual(message.relates, "cd" * 32)
        self.assertEqual(message.tags, ("b", "a"))
        self.assertEqual(message.trace_id, "t")
        self.assertEqual(message.span_id, "s")
        self.assertEqual(message.expires_at, "2030-01-01T00:00:00Z")
        self.assertEqual(len(message.signature), 64)
        self.assertEqual(message, full())
        self.assertEqual(hash(message), hash(full()))

    def test_the_signature_is_over_the_hex_digits(self) -> None:
        message = signed()
        self.assertTrue(AUTHOR.public.verifies(message.hash.encode(), message.signature))

    def test_empty_fields_are_left_out(self) -> None:
        self.assertEqual(list(json.loads(signed().raw)), REQUIRED)
        self.assertIn(b'"schema_id":""', signed(schema_id="").raw)

    def test_the_content_type_is_a_string_in_an_object(self) -> None:
        for content, expected in (
            ({"type": "note"}, "note"),
            ({"type": ""}, ""),
            ({"type": 1}, None),
            ({"a": 1}, None),
            (["type"], None),
            ("type", None),
            (None, None),
        ):
            self.assertEqual(signed(content).content_type, expected)


class RoundTripTests(SynchronousTestCase):
    @given(contents())
    def test_what_is_signed_can_be_read_and_verified(self, content: Any) -> None:
        message = signed(content)
        again = check(message.raw)
        self.assertEqual(again, message)
        self.assertEqual(repr(again.content), repr(message.content))

    @given(
        st.text(max_size=MAX_FIELD_CHARS),
        st.lists(st.text(max_size=9), max_size=5),
        st.integers(1, MAX_SEQUENCE),
        st.integers(-(2**63), 2**63 - 1),
    )
    def test_every_field_survives(
        self, word: str, tags: list[str], sequence: int, timestamp_ns: int
    ) -> None:
        message = full(
            sequence=sequence,
            timestamp_ns=timestamp_ns,
            schema_id=word,
            relates=word,
            trace_id=word,
            span_id=word,
            tags=tags,
        )
        again = check(message.raw)
        self.assertEqual(again, message)
        self.assertEqual(
            (again.schema_id, again.relates, again.trace_id, again.span_id), (word,) * 4
        )
        self.assertEqual(again.tags, tuple(tags))
        self.assertEqual((again.sequence, again.timestamp_ns), (sequence, timestamp_ns))

    @given(contents(), st.randoms(use_true_random=False), st.sampled_from([None, 2]))
    def test_key_order_white_space_and_escapes_do_not_matter(
        self, content: Any, rng: Any, indent: int | None
    ) -> None:
        def shuffled(value: Any) -> Any:
            if isinstance(value, dict):
                items = [(key, shuffled(item)) for key, item in value.items()]
                rng.shuffle(items)
                return dict(items)
            return [shuffled(item) for item in value] if isinstance(value, list) else value

        message = full(content=content)
        other = json.dumps(shuffled(json.loads(message.raw)), indent=indent).encode()
        again = check(other)
        self.assertEqual(again.raw, message.raw)
        self.assertEqual(again, message)

    def test_other_spellings_of_numbers_and_times_do_not_matter(self) -> None:
        message = full(content={"a": 100.0, "b": -0.0, "c": 0.00001, "d": [2**64 - 1]})
        other = text_of(
            message,
            content='{"d":[18446744073709551615],"c":1e-05,"b":-0,"a":1E2}',
            timestamp='"2026-02-12 19:30:00.1234567890+01:00"',
            expires_at='"2030-01-01t00:00:00.000z"',
        )
        self.assertEqual(check(other), message)

    def test_of_a_key_that_is_repeated_in_the_content_the_last_value_counts(self) -> None:
        message = signed({"a": {"b": 2}})
        other = text_of(message, content='{"a":1,"a":{"b":1,"b":2}}')
        self.assertEqual(check(other), message)
        self.assertEqual(check(other).raw, message.raw)

    def test_both_spellings_of_large_floats_are_verified(self) -> None:
        """Builds of Egregore differ: what an author hashed is what he wrote."""
        for spelling in ("1e16", "1e+16"):
            raw = forge(
                AUTHOR,
                f'{{"author":"{AUTHOR.public.text}","sequence":1,"previous":null,'
                f'"timestamp":"2026-02-12T18:30:00Z","content":{{"x":{spelling}}}}}',
            )
            message = check(raw)
            self.assertEqual(message.raw, raw)
            self.assertEqual(message.content, {"x": 1e16})

    def test_a_prepared_content_is_signed_as_it_is(self) -> None:
        message = signed(prepare_content_text('{"b": 1.0, "a": 1e-7}'))
        self.assertIn(b'"content":{"a":1e-7,"b":1.0}', message.raw)
        self.assertEqual(message, signed({"b": 1.0, "a": 1e-7}))


#: Members of a content as somebody else may have written them.
TOKENS = st.sampled_from(
    [
        *("0", "-0", "1", "1.0", "1.50", "1e5", "1E5", "1e16", "1e+16", "1e-7", "1e-07", "0.1"),
        *("18446744073709551615", "18446744073709551616", "-9223372036854775809", "1e400"),
        *(
            "null",
            "true",
            '"x"',
            '"\\u00e9"',
            '"\u00e9"',
            '"\\/"',
            '"\\u001f"',
            '"\\u001F"',
            '"\x7f"',
        ),
        *(
            "[]",
            "{}",
            "[ ]",
            "[1,2]",
            "[1, 2]",
            '{"b":1,"a":2}',
            '{"a":1,"a":2}',
            '"\\ud800"',
            "NaN",
        ),
    ]
)
#: Parts of a message that are replaced by these.
FIELDS = {
    "timestamp": ['"2026-02-12T18:30:00.100Z"', '"2026-02-12T18:30:00.100000Z"', '"today"', "1"],
    "expires_at": ['"2030-01-01T00:00:00z"', '"2030-01-01T00:00:00Z"', "null"],
    "sequence": ["1", "1.0", "0", "9223372036854775808", "true"],
    "previous": ["null", '""', f'"{"AB" * 32}"'],
    "tags": ["[]", "null", '["x"]', "[1]", '"x"'],
    "relates": ["null", '""', '"\u00e9"'],
    "hash": ["null", f'"{"0" * 64}"'],
    "extra": ["1"],
}


class NormalFormTests(SynchronousTestCase):
    """Texts in normal form are read in a quick way, with the results of the slow one."""

    def read_slowly(self, raw: bytes) -> Message | type[FeedError]:
        with patch("meshkit.feed.message._read_normal", lambda raw: None):
            return self.read(raw)

    def read(self, raw: bytes) -> Message | type[FeedError]:
        try:
            return parse_message(raw)
        except FeedError as e:
            return type(e)

    def check_both(self, raw: bytes) -> None:
        quickly, slowly = self.read(raw), self.read_slowly(raw)
        self.assertEqual(quickly, slowly)
        if isinstance(quickly, Message) and isinstance(slowly, Message):
            # 1 == 1.0 == True, and 0.0 == -0.0.
            self.assertEqual(repr(quickly.content), repr(slowly.content))

    @given(st.dictionaries(st.text(max_size=3), TOKENS, max_size=4))
    def test_a_content_is_read_as_in_the_slow_way(self, members: dict[str, str]) -> None:
        inner = ",".join(f"{json.dumps(k, ensure_ascii=False)}:{v}" for k, v in members.items())
        self.check_both(text_of(signed(), content=f"{{{inner}}}"))

    @given(contents())
    def test_so_is_what_was_signed(self, content: Any) -> None:
        self.check_both(full(content=content).raw)

    @given(st.fixed_dictionaries({}, optional={k: st.sampled_from(v) for k, v in FIELDS.items()}))
    def test_so_are_the_fields(self, changes: dict[str, str]) -> None:
        self.check_both(text_of(full(content="x", tags=("a",)), **changes))

    @given(st.binary(min_size=1, max_size=2), st.data())
    def test_so_is_every_damage(self, junk: bytes, data: st.DataObject) -> None:
        raw = full().raw
        at = data.draw(st.integers(0, len(raw)))
        self.check_both(raw[:at] + junk + raw[at + data.draw(st.integers(0, 2)) :])

    def test_another_spelling_of_a_time_alone_becomes_the_normal_one(self) -> None:
        message = full(content="x", tags=("a",))
        for field, spelling in (
            ("timestamp", '"2026-02-12T18:30:00.123456789z"'),
            ("expires_at", '"2030-01-01T00:00:00z"'),
        ):
            self.assertEqual(check(text_of(message, **{field: spelling})).raw, message.raw)

    def test_both_ways_write_every_character_the_same(self) -> None:
        encode = msgspec.json.Encoder(order="deterministic").encode
        every = [chr(n) for n in range(0x11_0000) if not 0xD800 <= n < 0xE000]
        for at in range(0, len(every), 4096):
            text = "".join(every[at : at + 4096])
            self.assertEqual(encode(text).decode(), write_string(text))

    def test_numbers_of_more_than_64_bits_are_not_taken_for_integers(self) -> None:
        for token in (str(2**64), str(-(2**63) - 1)):
            raw = text_of(signed(), content=token)
            self.assertNotIn(token.encode(), parse_message(raw).raw)
            self.assertIsInstance(parse_message(raw).content, float)

    def test_the_quick_way_is_taken(self) -> None:
        for message in (signed(), full(), signed({"\U0001f600": ["\n", 2**64 - 1, -1.5]})):
            with patch("meshkit.feed.message._read_fields", self.fail):
                self.assertEqual(parse_message(message.raw), message)


class AlteredMessagesTests(SynchronousTestCase):
    def test_altered_parts_that_are_hashed_are_a_hash_mismatch(self) -> None:
        for changes in (
            {"content": '{"type":"note"}'},
            {"sequence": "3"},
            {"previous": f'"{"ac" * 32}"'},
            {"previous": "null"},
            {"timestamp": '"2026-02-12T18:30:00Z"'},
            {"schema_id": '"note/v2"'},
            {"schema_id": ""},
            {"relates": ""},
            {"tags": '["a","b"]'},
            {"tags": "[]"},
            {"trace_id": '""'},
            {"span_id": "null"},
            {"expires_at": '"2031-01-01T00:00:00Z"'},
        ):
            self.assertIs(error_of(check, text_of(full(), **changes)), HashMismatch, changes)

    def test_a_field_added_by_another_is_a_hash_mismatch(self) -> None:
        for name in ("schema_id", "relates", "trace_id", "span_id"):
            self.assertIs(error_of(check, text_of(signed(), **{name: '"x"'})), HashMismatch)
        self.assertIs(error_of(check, text_of(signed(), tags='["x"]')), HashMismatch)

    def test_a_hash_that_the_author_did_not_sign_is_an_invalid_signature(self) -> None:
        other = full(content="other")
        for changes in (
            {"hash": f'"{other.hash}"'},
            {"signature": json.dumps(base64.b64encode(other.signature).decode())},
            {"author": f'"{MALLORY.public.text}"'},
            # Who alters the content and mends the hash is no better off.
            {"content": '"other"', "hash": f'"{other.hash}"'},
        ):
            self.assertIs(error_of(check, text_of(full(), **changes)), SignatureInvalid, changes)

    def test_the_signature_is_checked_before_the_hash(self) -> None:
        raw = text_of(full(), content="1", author=f'"{MALLORY.public.text}"')
        self.assertIs(error_of(check, raw), SignatureInvalid)

    def test_a_key_of_small_order_signs_nothing(self) -> None:
        zero = base64.b64encode(bytes(32)).decode()
        raw = text_of(signed(), author=f'"@{zero}.ed25519"')
        self.assertIs(error_of(check, raw), SignatureInvalid)

    def test_the_errors_name_the_message(self) -> None:
        for changes, error in (
            ({"content": "1"}, HashMismatch),
            ({"hash": f'"{"0" * 64}"'}, SignatureInvalid),
        ):
            with self.assertRaisesRegex(error, "^message 2 .*A6EHv/POEL4"):
                check(text_of(full(), **changes))

    def test_every_truncation_is_refused(self) -> None:
        raw = full().raw
        for end in range(len(raw)):
            self.assertIs(error_of(check, raw[:end]), MalformedMessage, end)

    def test_what_follows_the_message_is_refused_unless_it_is_white_space(self) -> None:
        raw = full().raw
        self.assertEqual(check(raw + b" \n").raw, raw)
        for more in (b"}", b",", b"x", b"{}", b"\x00", raw):
            self.assertIs(error_of(check, raw + more), MalformedMessage)

    def test_no_changed_byte_changes_what_a_verified_message_says(self) -> None:
        for message in (full(), signed()):
            accepted = set()
            for at in range(len(message.raw)):
                for flip in (0x01, 0x02, 0x20, 0x80):
                    raw = bytearray(message.raw)
                    raw[at] ^= flip
                    try:
                        self.assertEqual(check(bytes(raw)), message)
                        accepted.add(bytes(raw[at : at + 1]))
                    except FeedError:
                        pass
            # A time may be written with a small t or z, and means the same.
            self.assertEqual(accepted, {b"t", b"z"})


class FormTests(SynchronousTestCase):
    def assert_malformed(self, raw: bytes, about: str) -> None:
        try:
            parse_message(raw)
        except MalformedMessage as e:
            self.assertIn(about, str(e))
        else:
            self.fail(f"{raw!r} was accepted")

    def test_what_is_no_object_is_refused(self) -> None:
        for raw in (b"[]", b'""', b"1", b"null"):
            self.assert_malformed(raw, "a message is a JSON object")
        self.assert_malformed(b"", "not JSON")
        self.assert_malformed(b"\xff", "not UTF-8")
        self.assert_malformed(b"\xef\xbb\xbf" + full().raw, "not JSON")

    def test_every_field_that_has_to_be_there_is_asked_for(self) -> None:
        for name in REQUIRED:
            self.assert_malformed(text_of(full(), **{name: ""}), f"no field '{name}'")

    def test_every_field_has_to_be_of_its_type(self) -> None:
        wrong = {
            "author": ["1", "null", "[]", '""', '"x"', f'"{AUTHOR.public.base64}"'],
            "sequence": ["null", '"1"', "1.0", "1e0", "true", "[]", "18446744073709551616"],
            "previous": ["1", '""', f'"{"AB" * 32}"', f'"{"ab" * 31}"', f'"{"ab" * 33}"', "[]"],
            "timestamp": ["1", "null", '""', '"2026-02-12"', "1770921000"],
            "hash": ["1", "null", '""', f'"{"AB" * 32}"', f'"{"ab" * 31}a"', f'"{"ab" * 32}\\n"'],
            "signature": ["1", "null", '""', '"AAAA"', f'"{"A" * 87}"', f'"{"A" * 88}"'],
            "schema_id": ["1", "[]", "true"],
            "relates": ["1", "{}"],
            "tags": ["null", '"a"', "{}", "[1]", '["a",null]', '[["a"]]'],
            "trace_id": ["1"],
            "span_id": ["1"],
            "expires_at": ["1", '""', '"never"'],
        }
        for name, values in wrong.items():
            for value in values:
                self.assert_malformed(text_of(full(), **{name: value}), name)

    def test_a_second_spelling_of_the_key_or_the_signature_is_refused(self) -> None:
        message = full()
        author = AUTHOR.public.text
        signature = base64.b64encode(message.signature).decode()
        for name, spelling in (
            ("author", author.replace("/", "_")),
            ("author", author.replace("=", "")),
            ("author", author.replace("g=", "h=")),
            ("signature", signature.rstrip("=")),
            ("signature", signature.replace("==", "=A")),
            ("signature", signature.replace("+", "-").replace("/", "_")),
            ("signature", signature[:-3] + chr(ord(signature[-3]) + 1) + "=="),
            ("signature", signature[:40] + "\\n" + signature[40:]),
        ):
            self.assertNotIn(spelling, (author, signature))
            self.assert_malformed(text_of(message, **{name: f'"{spelling}"'}), f"'{name}'")

    def test_null_is_as_good_as_leaving_an_optional_field_out(self) -> None:
        message = signed()
        raw = text_of(
            message,
            schema_id="null",
            relates="null",
            tags="[]",
            trace_id="null",
            span_id="null",
            expires_at="null",
        )
        self.assertEqual(check(raw), message)

    def test_a_field_that_occurs_twice_is_refused(self) -> None:
        raw = full().raw
        for name, value in json.loads(raw).items():
            twice = raw[:-1] + f',"{name}":{json.dumps(value)}}}'.encode()
            self.assert_malformed(twice, f"the field '{name}' twice")
        self.assert_malformed(raw[:-1] + b',"\\u0074ags":[]}', "the field 'tags' twice")

    def test_unknown_fields_are_ignored_and_not_passed_on(self) -> None:
        message = full()
        raw = text_of(message, type='"message"', chain_valid="true", extra='[{"a":1e-7}]')
        self.assertEqual(check(raw), message)
        self.assertEqual(check(raw).raw, message.raw)
        self.assertEqual(check(raw[:-1] + b',"extra":1}').raw, message.raw)

    def test_unknown_fields_have_to_be_json_all_the_same(self) -> None:
        for value in ("1e400", "NaN", '"\\ud83d"', "01"):
            self.assertIs(error_of(check, text_of(full(), extra=value)), MalformedMessage, value)

    def test_half_a_surrogate_pair_is_refused_when_signing(self) -> None:
        for name in ("schema_id", "relates", "trace_id", "span_id"):
            with self.assertRaises(MalformedMessage):
                full(**{name: "\ud83d"})
        with self.assertRaises(MalformedMessage):
            full(tags=["\ud83d"])


class LimitTests(SynchronousTestCase):
    def test_sequence_numbers_end_at_both_ends(self) -> None:
        self.assertEqual(MAX_SEQUENCE, 2**63 - 1, "the largest integer of SQLite")
        for sequence in (1, MAX_SEQUENCE):
            self.assertEqual(check(signed(sequence=sequence).raw).sequence, sequence)
        for bad in (0, -1, MAX_SEQUENCE + 1):
            self.assertIs(
                error_of(parse_message, text_of(full(), sequence=str(bad))), InvalidSequence
            )
            with self.assertRaises(InvalidSequence):
                signed(sequence=bad)

    def test_names_at_the_limit_are_taken_and_one_more_character_refused(self) -> None:
        for name in ("schema_id", "relates", "trace_id", "span_id"):
            longest = "\U0001f600" * MAX_FIELD_CHARS
            self.assertEqual(getattr(check(full(**{name: longest}).raw), name), longest)
            with self.assertRaisesRegex(MalformedMessage, f"'{name}' has 257 characters"):
                full(**{name: longest + "x"})

    def test_tags_at_the_limit_are_taken_and_one_more_refused(self) -> None:
        tags = tuple("t" * MAX_TAG_CHARS for _ in range(MAX_TAGS))
        self.assertEqual(check(full(tags=tags).raw).tags, tags)
        with self.assertRaisesRegex(MalformedMessage, "129 tags, 128 are the limit"):
            full(tags=[*tags, "x"])
        with self.assertRaisesRegex(MalformedMessage, "more than 256 characters"):
            full(tags=["t" * (MAX_TAG_CHARS + 1)])

    def test_content_at_the_limit_is_taken_and_one_byte_more_refused(self) -> None:
        largest = "x" * (MAX_CONTENT_BYTES - 2)
        self.assertEqual(check(signed(largest).raw).content, largest)
        with self.assertRaises(ContentTooLarge):
            signed(largest + "x")
        raw = text_of(signed(), content=json.dumps(largest + "x"))
        self.assertIs(error_of(parse_message, raw), ContentTooLarge)

    def test_the_size_of_a_content_is_that_of_its_canonical_text(self) -> None:
        escaped = '"' + "\\u0041" * (MAX_CONTENT_BYTES // 4) + '"'
        self.assertGreater(len(escaped), MAX_CONTENT_BYTES)
        self.assertIs(error_of(check, text_of(signed(), content=escaped)), HashMismatch)
        growing = "[" + ",".join(["1e15"] * 10_000) + "]"
        self.assertLess(len(growing), MAX_CONTENT_BYTES)
        self.assertIs(error_of(check, text_of(signed(), content=growing)), ContentTooLarge)

    def test_content_nested_to_the_limit_is_taken_and_deeper_refused(self) -> None:
        def nested(depth: int) -> str:
            return "[" * depth + "]" * depth

        message = signed(json.loads(nested(MAX_CONTENT_NESTING)))
        self.assertEqual(check(message.raw), message)
        raw = text_of(message, content=nested(MAX_CONTENT_NESTING + 1))
        self.assertIs(error_of(parse_message, raw), NestedTooDeep)
        # An ignored field would not get through Egregore's reader either.
        raw = text_of(message, extra=nested(MAX_CONTENT_NESTING + 1))
        self.assertIs(error_of(parse_message, raw), NestedTooDeep)
        self.assertIs(error_of(parse_message, b'{"content":' * 10_000), NestedTooDeep)

    def test_the_largest_message_fits_the_frame_of_egregore(self) -> None:
        frame = b'{"type":"messages","messages":[%s]}'
        self.assertEqual(len(frame % (b"x" * MAX_MESSAGE_BYTES)), 128 * 1024)
        deepest = signed(json.loads("[" * MAX_CONTENT_NESTING + "]" * MAX_CONTENT_NESTING))
        self.assertEqual((frame % deepest.raw).count(b"["), MAX_NESTING - 2)

    def test_a_message_at_the_limit_is_taken_and_one_byte_more_refused(self) -> None:
        message = full()
        padding = b" " * (MAX_MESSAGE_BYTES - len(message.raw))
        self.assertEqual(check(message.raw + padding), message)
        self.assertIs(error_of(parse_message, message.raw + padding + b" "), ContentTooLarge)
        limit = len(message.raw)
        self.assertEqual(parse_message(message.raw, max_bytes=limit), message)
        with self.assertRaises(ContentTooLarge):
            parse_message(message.raw, max_bytes=limit - 1)

    def test_a_message_that_its_normal_form_makes_too_large_is_refused(self) -> None:
        message = signed([1e15])
        short = text_of(message, content="[1e15]")
        self.assertEqual(parse_message(short, max_bytes=len(message.raw)), message)
        with self.assertRaises(ContentTooLarge):
            parse_message(short, max_bytes=len(message.raw) - 1)

    def test_tags_that_make_a_message_too_large_cannot_be_signed(self) -> None:
        with self.assertRaisesRegex(ContentTooLarge, "over the limit of 131039"):
            signed("x" * (MAX_CONTENT_BYTES - 2), tags=["\x01" * MAX_TAG_CHARS] * MAX_TAGS)

    def test_a_time_that_is_none_cannot_be_signed(self) -> None:
        with self.assertRaises(MalformedMessage):
            signed(expires_at="soon")
        self.assertEqual(
            signed(expires_at="2030-01-01 00:00:00+01:00").expires_at, "2029-12-31T23:00:00Z"
        )


class ContentTextTests(SynchronousTestCase):
    def test_the_strings_are_given_in_order_without_the_keys(self) -> None:
        value = {
            "type": "note",
            "title": "one",
            "list": ["two", {"k": "three", "n": 4}, ["four", None, True, 5.5]],
            "last": "five\nsix",
        }
        self.assertEqual(content_text(value), "note\none\ntwo\nthree\nfour\nfive\nsix")

    def test_a_bare_string_is_its_own_text_and_other_values_have_none(self) -> None:
        self.assertEqual(content_text("words"), "words")
        for value in (None, 1, 1.5, True, [], {}, {"key": {}}, [[1]]):
            self.assertEqual(content_text(value), "")

    def test_deep_values_are_walked_to_the_bottom(self) -> None:
        value: Any = "deep"
        for _ in range(100_000):
            value = [value]
        self.assertEqual(content_text(value), "deep")
        while isinstance(value, list):
            # Taken apart by hand: older interpreters free nested lists recursively.
            value = value.pop()
