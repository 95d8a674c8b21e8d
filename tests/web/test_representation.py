"""In which form an answer is sent."""

from __future__ import annotations

import gzip
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from meshkit.operations import BoundOperation
from meshkit.runtime.limits import Shares
from meshkit.web.limits import LimitedSite
from meshkit.web.representation import (
    MAX_INLINE,
    MIN_COMPRESSED,
    compress,
    compressible,
    entity_tag,
    has_it,
    takes_gzip,
)
from tests.web.stage import Answer, Connection, request, rest_door
from tests.web.test_rules import Case


class Sized(msgspec.Struct, forbid_unknown_fields=True):
    size: int = 0


def headers(name: str, *values: str) -> Headers:
    return Headers({name: list(values)})


class GzipTests(SynchronousTestCase):
    def test_what_admits_it(self) -> None:
        for values in (
            ["gzip"],
            ["GZIP"],
            ["x-gzip"],
            ["*"],
            ["deflate, gzip;q=1.0, *;q=0.5"],
            ["br;q=1", "gzip;q=0.001"],
            ["identity;q=0.5, *;q=0.1"],
            ["gzip ; q=0.8"],
            ["gzip;level=9"],
        ):
            self.assertTrue(takes_gzip(headers("Accept-Encoding", *values)), values)

    def test_what_does_not(self) -> None:
        for values in (
            [],
            [""],
            ["identity"],
            ["gzip;q=0"],
            ["gzip;q=0.000"],
            ["*;q=0"],
            ["gzip;q=0, *"],
            ["gzipped"],
            ["deflate, br"],
            ["gzip;q=x"],
            ["gzip;q="],
        ):
            self.assertFalse(takes_gzip(headers("Accept-Encoding", *values)), values)

    @given(st.lists(st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"))))
    def test_nothing_that_is_sent_breaks_it(self, values: list[str]) -> None:
        raw = Headers({b"Accept-Encoding": [value.encode("latin-1") for value in values]})
        self.assertIn(takes_gzip(raw), (True, False))
        raw = Headers({b"If-None-Match": [value.encode("latin-1") for value in values]})
        self.assertIn(has_it(raw, b'"x"'), (True, False))

    @given(st.binary(max_size=2000))
    def test_what_is_compressed_is_the_same_each_time_and_can_be_read(self, body: bytes) -> None:
        self.assertEqual(compress(body), compress(body))
        self.assertEqual(gzip.decompress(compress(body)), body)


class TagTests(SynchronousTestCase):
    def test_a_tag_is_that_of_the_bytes_that_are_sent(self) -> None:
        tags = {
            entity_tag(body, compressed) for body in (b"a", b"b") for compressed in (True, False)
        }
        self.assertEqual(len(tags), 4)
        for tag in tags:
            self.assertRegex(tag, b'^"[0-9a-f]{32}(-gzip)?"$')

    def test_who_names_it_has_it(self) -> None:
        for values in (['"x"'], ['W/"x"'], ['"a", "x"'], ['"a"', 'W/"b","x"'], ["*"], [' "x" ']):
            self.assertTrue(has_it(headers("If-None-Match", *values), b'"x"'), values)
        for values in ([], [""], ["x"], ['"y"'], ['"x'], ['w/"x"'], ['"x-gzip"']):
            self.assertFalse(has_it(headers("If-None-Match", *values), b'"x"'), values)


class DoorCase(Case):
    def setUp(self) -> None:
        super().setUp()
        self.threaded: list[Deferred[Any]] = []

        def run(call: Any, *arguments: Any) -> Deferred[Any]:
            self.threaded.append(Deferred())
            return self.threaded[-1].addCallback(lambda _: call(*arguments))

        door = rest_door([*self.operations()], clock=self.clock, run_in_thread=run)
        self.site = LimitedSite(
            door.resource(), self.clock, max_body=door.max_body, admit=door.admit
        )

    def operations(self) -> list[BoundOperation]:
        def sized(request: Sized) -> str:
            self.asked.append(request)
            return "x" * request.size

        def raw(request: Sized) -> bytes:
            return b"x" * request.size

        kept: Any = {"etag": True}
        return [
            self.bound(sized, "plain", "GET", "/v1/plain", Sized, str, ""),
            self.bound(sized, "kept", "GET", "/v1/kept/{size}", Sized, str, "", **kept),
            self.bound(sized, "post", "POST", "/v1/post", Sized, str, "", "write"),
            self.bound(raw, "text", "GET", "/v1/text", Sized, bytes, "", sends="text/plain"),
            self.bound(raw, "raw", "GET", "/v1/raw", Sized, bytes, "", sends="image/png", **kept),
        ]

    def check_gzip(self, answer: Answer, plain: Answer) -> None:
        self.assertEqual(answer.headers["content-encoding"], ["gzip"])
        self.assertEqual(answer.headers["vary"], ["Accept-Encoding"])
        self.assertEqual(gzip.decompress(answer.body), plain.body)
        self.assertLess(len(answer.body), len(plain.body) / 10)
        self.assertEqual(answer.headers["content-type"], plain.headers["content-type"])


class CompressionTests(DoorCase):
    def test_who_asks_for_it_gets_large_answers_compressed(self) -> None:
        # {"success":true,"data":"..."}
        around = len(self.ask("GET", "/v1/plain").body)
        for size, large in ((MIN_COMPRESSED - around - 1, False), (MIN_COMPRESSED - around, True)):
            target = f"/v1/plain?size={size}"
            plain = self.ask("GET", target)
            self.assertNotIn("content-encoding", plain.headers)
            self.assertEqual("vary" in plain.headers, large)
            answer = self.ask("GET", target, Accept_Encoding="gzip")
            if large:
                self.check_gzip(answer, plain)
            else:
                self.assertEqual(answer, plain)

    def test_what_is_sent_as_it_is_says_what_it_is(self) -> None:
        size = MIN_COMPRESSED
        answer = self.ask("GET", f"/v1/text?size={size}", Accept_Encoding="gzip")
        self.check_gzip(answer, self.ask("GET", f"/v1/text?size={size}"))
        for target in (f"/v1/raw?size={size}",):
            answer = self.ask("GET", target, Accept_Encoding="gzip")
            self.assertNotIn("content-encoding", answer.headers)
            self.assertNotIn("vary", answer.headers)
            self.assertEqual(len(answer.body), size)

    def test_only_what_was_read_is_compressed(self) -> None:
        body = msgspec.json.encode(Sized(MIN_COMPRESSED))
        answer = self.ask("POST", "/v1/post", body, Accept_Encoding="gzip")
        self.assertNotIn("content-encoding", answer.headers)

    def test_head_says_what_get_would(self) -> None:
        for target in (f"/v1/plain?size={MIN_COMPRESSED}", f"/v1/kept/{MIN_COMPRESSED}"):
            get = self.ask("GET", target, Accept_Encoding="gzip")
            head = self.ask("HEAD", target, Accept_Encoding="gzip")
            self.assertEqual(head.headers, get.headers)

    def test_what_is_very_large_is_compressed_in_a_thread(self) -> None:
        size = MAX_INLINE
        target = f"/v1/plain?size={size}"
        connection = Connection(self.site)
        connection.send(request("GET", target, None, {"Accept-Encoding": "gzip"}))
        self.assertEqual(connection.answers(), [])
        (thread,) = self.threaded
        thread.callback(None)
        (answer,) = connection.answers("GET")
        connection.lose()
        self.check_gzip(answer, self.ask("GET", target))

    def test_what_waits_for_a_thread_counts_as_an_answer_that_is_not_read(self) -> None:
        ask = request("GET", f"/v1/plain?size={MAX_INLINE}", None, {"Accept-Encoding": "gzip"})
        size = len(self.ask("GET", f"/v1/plain?size={MAX_INLINE}").body)
        answers = self.site.answers = Shares(8 * size, 4 * size - 1)
        connections = [Connection(self.site) for _ in range(4)]
        for connection in connections:
            connection.send(ask)
        first, second, third, fourth = connections
        self.assertEqual((answers.taken, len(self.threaded)), (3 * size, 3))
        (refused,) = fourth.answers("GET")
        self.assertEqual((refused.status, refused.code), (503, "OVERLOADED"))
        self.assertEqual(refused.headers["retry-after"], ["1"])
        # When it is compressed, what is left of it has to have room.
        self.threaded[0].callback(None)
        self.assertEqual(first.answers("GET")[0].headers["content-encoding"], ["gzip"])
        self.assertEqual(answers.taken, 2 * size)
        # Nobody waits for what was to be compressed for who is gone.
        second.lose()
        self.assertTrue(self.threaded[1].called)
        self.assertEqual(answers.taken, size)
        self.threaded[2].errback(ZeroDivisionError())
        self.assertEqual(third.answers("GET")[0].status, 500)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(answers.taken, 0)
        fourth.send(ask)
        self.threaded[3].callback(None)
        self.assertEqual(fourth.answers("GET")[0].status, 200)
        for connection in (first, third, fourth):
            connection.lose()
        self.assertEqual(answers.taken, 0)

    def test_without_threads_it_is_sent_as_it_is(self) -> None:
        self.site.resource = rest_door([*self.operations()]).resource()
        target = f"/v1/plain?size={MAX_INLINE}"
        answer = self.ask("GET", target, Accept_Encoding="gzip")
        self.assertNotIn("content-encoding", answer.headers)
        self.assertEqual(answer.headers["vary"], ["Accept-Encoding"])

    def test_nothing_is_compressed_twice(self) -> None:
        for kind in (b"application/gzip", b"application/octet-stream", b"image/png"):
            self.assertFalse(compressible(kind))


class ValidatorTests(DoorCase):
    def tag(self, answer: Answer) -> str:
        (tag,) = answer.headers["etag"]
        return tag

    def test_what_hardly_changes_has_a_tag_and_may_be_kept_by_its_reader(self) -> None:
        answer = self.ask("GET", "/v1/kept/5")
        self.assertEqual(self.tag(answer), entity_tag(answer.body, False).decode())
        self.assertEqual(answer.headers["cache-control"], ["private, no-cache"])
        other = self.ask("GET", "/v1/plain?size=5")
        self.assertNotIn("etag", other.headers)
        self.assertEqual(other.headers["cache-control"], ["no-store"])

    def test_who_has_it_gets_nothing_but_that_word(self) -> None:
        tag = self.tag(self.ask("GET", "/v1/kept/5"))
        for method in ("GET", "HEAD"):
            for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
                connection = Connection(self.site)
                connection.send(request(method, "/v1/kept/5", None, {"If-None-Match": known}))
                connection.send(request("GET", "/v1/plain?size=1"))
                head, _, rest = connection.transport.value().partition(b"\r\n\r\n")
                lines = head.split(b"\r\n")
                self.assertEqual(lines[0], b"HTTP/1.1 304 Not Modified")
                self.assertEqual(
                    sorted(lines[1:]),
                    [
                        b"Cache-Control: private, no-cache",
                        b"ETag: " + tag.encode(),
                        b"X-Content-Type-Options: nosniff",
                    ],
                )
                # The connection goes on.
                self.assertTrue(rest.startswith(b"HTTP/1.1 200 OK\r\n"))
                connection.lose()

    def test_who_has_another_gets_the_answer(self) -> None:
        answer = self.ask("GET", "/v1/kept/5", If_None_Match='"other"')
        self.assertEqual((answer.status, answer.json["data"]), (200, "xxxxx"))

    def test_the_tag_of_what_is_compressed_is_another(self) -> None:
        target = f"/v1/kept/{MIN_COMPRESSED}"
        plain = self.tag(self.ask("GET", target))
        packed = self.tag(self.ask("GET", target, Accept_Encoding="gzip"))
        self.assertEqual(packed, plain[:-1] + '-gzip"')
        for known, asked, status in (
            (packed, {"Accept_Encoding": "gzip"}, 304),
            (plain, {}, 304),
            (plain, {"Accept_Encoding": "gzip"}, 200),
            (packed, {}, 200),
        ):
            if status == 200:
                answer = self.ask("GET", target, If_None_Match=known, **asked)
                self.assertEqual(answer.status, 200)
                continue
            answer = self.ask("HEAD", target, If_None_Match=known, **asked)
            self.assertEqual(answer.status, 304)
            self.assertEqual(answer.headers["vary"], ["Accept-Encoding"])
            self.assertNotIn("content-encoding", answer.headers)

    def test_an_error_has_none(self) -> None:
        answer = self.ask("GET", "/v1/kept/x", If_None_Match="*")
        self.assertEqual((answer.status, answer.headers.get("etag")), (400, None))
