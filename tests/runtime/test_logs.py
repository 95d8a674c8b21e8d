"""What events look like in the log, and what never stands in it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from meshkit.runtime.logs import (
    MAX_FIELDS,
    MAX_TEXT,
    Redactor,
    json_line,
    noted,
    noting,
    plain_text,
    text_lines,
)

NETWORK = "mknet1-" + "abcdefgh234567" * 4
SECRETS = (
    f"Authorization: Bearer {'Zx9' * 12}",
    "authorization: basic dXNlcjpwYXNzd29yZA==",
    NETWORK,
    f"whsec_{'A1b2' * 8}=",
    "mkt_0123456789abcdef_" + "7d" * 32,
)


def event(log_format: str = "said", **fields: Any) -> dict[str, Any]:
    return {
        "log_time": 1.5,
        "log_level": LogLevel.info,
        "log_namespace": "meshkit.here",
        "log_format": log_format,
        **fields,
    }


def boom() -> Failure:
    try:
        raise ValueError("the lid is shut")
    except ValueError:
        return Failure()


def unchanged(text: str) -> str:
    return text


class JSONTests(SynchronousTestCase):
    def line(self, redact: Any = unchanged, **fields: Any) -> Any:
        text = json_line(event(**fields), redact)
        self.assertEqual(text.count("\n"), 1)
        self.assertTrue(text.endswith("}\n"))
        return json.loads(text)

    def test_a_line_says_when_who_how_loud_and_what(self) -> None:
        self.assertEqual(
            self.line(log_format="{peer} came", peer="@a", count=3, share=0.5, ok=True, why=None),
            {
                "time": "1970-01-01T00:00:01.500000Z",
                "level": "info",
                "namespace": "meshkit.here",
                "message": "@a came",
                "peer": "@a",
                "count": 3,
                "share": 0.5,
                "ok": True,
            },
        )

    def test_a_failure_is_one_line_with_its_traceback(self) -> None:
        line = self.line(log_format="it broke", log_failure=boom(), log_level=LogLevel.critical)
        self.assertEqual((line["level"], line["message"]), ("critical", "it broke"))
        self.assertEqual(line["exception"]["type"], "builtins.ValueError")
        self.assertEqual(line["exception"]["message"], "the lid is shut")
        self.assertIn('raise ValueError("the lid is shut")', line["exception"]["traceback"])

    def test_fields_cannot_replace_what_the_line_says_of_itself(self) -> None:
        line = self.line(level="quiet", namespace="else", exception="none", time="never")
        self.assertEqual((line["level"], line["namespace"]), ("info", "meshkit.here"))
        self.assertEqual(line["time"], "1970-01-01T00:00:01.500000Z")
        self.assertNotIn("exception", line)

    def test_what_is_no_plain_value_stays_in_the_message(self) -> None:
        line = self.line(log_format="{thing}", thing=[1], large=2**53, largest=-(2**70))
        self.assertEqual(line["message"], "[1]")
        self.assertNotIn("thing", line)
        self.assertEqual((line["large"], line["largest"]), (str(2**53), str(-(2**70))))

    def test_text_that_is_no_unicode_can_be_written(self) -> None:
        line = self.line(log_format="{said}", said="a\udcffb", log_failure=boom())
        self.assertEqual((line["message"], line["said"]), ("a\\udcffb",) * 2)

    def test_an_event_whose_format_is_wrong_is_written_all_the_same(self) -> None:
        self.assertIn(
            "nothing_of_the_kind", self.line(log_format="{nothing_of_the_kind}")["message"]
        )
        bare = json.loads(json_line({}, unchanged))
        self.assertEqual(bare, {"time": "-", "level": "info", "namespace": "-", "message": ""})

    def test_long_texts_and_many_fields_are_cut(self) -> None:
        many = {f"field_{number}": number for number in range(1000)}
        line = self.line(log_format="{said}", said="x" * 10**6, **many)
        self.assertLess(len(line["message"]), MAX_TEXT + 100)
        self.assertIn("are left out", line["said"])
        self.assertEqual(len(line), 4 + MAX_FIELDS)

    @given(st.text(), st.text())
    def test_whatever_is_said_is_one_line_that_can_be_read(self, said: str, field: str) -> None:
        line = self.line(redact=Redactor(), log_format="{said}", said=said, other=field)
        self.assertEqual(set(line), {"time", "level", "namespace", "message", "said", "other"})


class TextTests(SynchronousTestCase):
    def test_a_line_is_made_for_eyes(self) -> None:
        self.assertEqual(
            text_lines(event(), unchanged), "1970-01-01T00:00:01.500Z [meshkit.here#info] said\n"
        )

    def test_further_lines_and_tracebacks_are_indented(self) -> None:
        text = text_lines(event("one\ntwo", log_failure=boom()), unchanged)
        first, *others = text.splitlines()
        self.assertTrue(first.endswith(" one"))
        self.assertEqual(others[0], "\ttwo")
        self.assertTrue(all(line.startswith("\t") for line in others), text)
        self.assertIn("ValueError: the lid is shut", text)

    def test_nobody_can_move_the_cursor_or_begin_a_line(self) -> None:
        evil = "\x1b[2J\r2026-01-01T00:00:00Z [meshkit#info] forged\x07\u202e\x9b\u2028"
        text = plain_text(event("{said}", said=evil), unchanged)
        self.assertEqual(
            text,
            "\\x1b[2J\\r2026-01-01T00:00:00Z [meshkit#info] forged\\x07\\u202e\\x9b\\u2028",
        )

    def test_the_request_stands_in_front(self) -> None:
        with noting(request_id="r-1", operation="x"):
            self.assertEqual(plain_text(event(), unchanged), "(r-1) said")


class RedactorTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.redactor = Redactor()

    def test_what_has_the_shape_of_a_secret_is_taken_out(self) -> None:
        for secret in SECRETS:
            with self.subTest(secret):
                shown = self.redactor(f"they sent {secret}, then left")
                self.assertNotIn(secret[-16:], shown)
                self.assertRegex(shown, r"^they sent .*\*\*\*, then left$")

    def test_what_the_mesh_is_about_stays_readable(self) -> None:
        for text in (
            "@t3aNZJX01Ullgeuxk/u25qwMdyywqPyY24tjRDlqWJQ=.ed25519",
            "net:127.0.0.1:7655~shs:t3aNZJX01Ullgeuxk/u25qwMdyywqPyY24tjRDlqWJQ=",
            "a" * 64,
            "a bearer of bad news",
            "copy the whole mknet1-... string",
        ):
            self.assertEqual(self.redactor(text), text)

    def test_secrets_that_it_was_told_are_taken_out_everywhere(self) -> None:
        token = "0123456789abcdef" * 4
        self.redactor.hide(token)
        told = event(f"a {token} b", passed=f"-{token}-", log_failure=Failure(ValueError(token)))
        for show in (json_line, text_lines):
            text = show(told, self.redactor)
            self.assertNotIn(token, text)
            self.assertIn("a *** b", text)

    def test_a_short_word_is_not_looked_for(self) -> None:
        self.redactor.hide("node")
        self.assertEqual(self.redactor("the node"), "the node")

    def test_a_field_that_is_called_a_secret_is_one(self) -> None:
        line = json.loads(
            json_line(event(token="x", Authorization="y", new_passphrase="z"), self.redactor)
        )
        self.assertEqual(
            (line["token"], line["Authorization"], line["new_passphrase"]), ("***",) * 3
        )


class NotingTests(SynchronousTestCase):
    """What is logged for a request bears its name."""

    def setUp(self) -> None:
        self.lines: list[Any] = []
        self.log = Logger(
            observer=lambda logged: self.lines.append(json.loads(json_line(logged, unchanged)))
        )

    def test_fields_hold_within_and_nest(self) -> None:
        with noting(request_id="a"), noting(operation="b"):
            self.log.info("x")
        self.log.info("y")
        self.assertEqual(self.lines[0]["request_id"], "a")
        self.assertEqual(self.lines[0]["operation"], "b")
        self.assertNotIn("request_id", self.lines[1])
        self.assertEqual(dict(noted()), {})

    def test_two_requests_that_wait_for_one_thing_keep_their_names(self) -> None:
        waiting: list[Deferred[None]] = []

        async def answer(name: str) -> None:
            with noting(request_id=name):
                waiting.append(Deferred())
                await waiting[-1]
                self.log.info("go on")

        def begin(name: str) -> Deferred[None]:
            return Deferred.fromCoroutine(answer(name))

        ends = [begin("a"), begin("b")]
        for each in reversed(waiting):
            each.callback(None)
        for end in ends:
            self.successResultOf(end)
        self.assertEqual([line["request_id"] for line in self.lines], ["b", "a"])

    def test_a_coroutine_keeps_what_held_when_it_was_begun(self) -> None:
        waiting: Deferred[None] = Deferred()

        async def answer() -> None:
            await waiting
            self.log.info("later")

        with noting(request_id="a"):
            end = Deferred.fromCoroutine(answer())
        waiting.callback(None)
        self.successResultOf(end)
        self.assertEqual(self.lines[0]["request_id"], "a")

    def test_a_field_of_the_event_itself_counts_for_more(self) -> None:
        with noting(operation="outer"):
            self.log.info("x", operation="inner")
        self.assertEqual(self.lines[0]["operation"], "inner")
