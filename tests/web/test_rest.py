"""The REST door, driven through the whole stack: bytes in, bytes out."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import msgspec
import treq
from hypothesis import given
from hypothesis import strategies as st
from treq.testing import RequestTraversalAgent, StubTreq
from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource

from meshkit import errors
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import PublicKey
from meshkit.operations import MAX_BODY, Advised, BoundOperation, Nothing, Operation
from meshkit.web.limits import RequestHead
from meshkit.web.rest import _segments
from tests.web.stage import (
    BATCH,
    CLIENT,
    DOOR,
    KEY,
    NOTE,
    Answer,
    ByAddress,
    ByAuthor,
    ById,
    Connection,
    Listing,
    Note,
    OneMessage,
    Search,
    Stage,
    Toys,
    request,
    rest_door,
)


class Blob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    data: bytes
    times: int = 1


class AnswerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.stage = Stage()
        self.toys = self.stage.toys

    def test_a_good_answer_is_data_alone(self) -> None:
        answer = self.stage.ask("GET", "/v1/status")
        self.assertEqual((answer.status, answer.body), (200, b'{"success":true,"data":null}'))
        self.assertEqual(answer.headers["content-type"], ["application/json"])
        self.assertEqual(answer.headers["cache-control"], ["no-store"])
        self.assertEqual(answer.headers["x-content-type-options"], ["nosniff"])

    def test_a_page_is_its_items_and_where_they_stand(self) -> None:
        answer = self.stage.ask("GET", "/v1/feed?limit=2&offset=4&newest=true")
        self.assertEqual(self.toys.asked, [Listing(2, 4, True)])
        self.assertEqual(
            answer.json,
            {
                "success": True,
                "data": ["a", "b"],
                "metadata": {"total": 9, "limit": 2, "offset": 4},
            },
        )

    def test_what_is_published_keeps_its_spelling_both_ways(self) -> None:
        spelt = b'{"b": 1.00, "a":[1e2 ,-0],"a":"\\u00e9\xc3\xa9"}'
        answer = self.stage.ask("POST", "/v1/publish", b'{"content": ' + spelt + b"}")
        self.assertEqual(answer.status, 201)
        self.assertEqual(
            answer.body, b'{"success":true,"data":{"raw":' + spelt + b',"sequence":1}}'
        )

    def test_nothing_but_headers_is_sent_where_there_is_no_content(self) -> None:
        connection = self.stage.connect()
        connection.send(request("DELETE", "/v1/peers/x") + request("GET", "/v1/status"))
        gone, status = connection.answers("DELETE", "GET")
        self.assertEqual((gone.status, gone.body), (204, b""))
        self.assertNotIn("content-type", gone.headers)
        self.assertNotIn("transfer-encoding", gone.headers)
        self.assertEqual(status.status, 200)
        connection.lose()

    def test_head_answers_what_get_would_without_the_body(self) -> None:
        for target in ("/v1/status", "/v1/feed?limit=2", "/v1/nowhere", "/v1/feed?limit=x"):
            get, head = self.stage.ask("GET", target), self.stage.ask("HEAD", target)
            self.assertEqual(head.status, get.status)
            self.assertEqual(head.headers, get.headers)
            self.assertEqual(get.headers["content-length"], [str(len(get.body))])

    def test_an_error_has_its_code_status_and_sentence(self) -> None:
        for name in vars(errors):
            kind = getattr(errors, name)
            if not (isinstance(kind, type) and issubclass(kind, errors.MeshkitError)):
                continue
            answer = self.stage.ask("GET", f"/v1/fail/{name}")
            self.assertEqual(answer.status, kind.status, name)
            self.assertEqual(
                answer.json,
                {"success": False, "error": {"code": kind.code, "message": str(kind())}},
            )
            retry = ["1"] if kind.status in (429, 503) else None
            self.assertEqual(answer.headers.get("retry-after"), retry, name)

    def test_a_bug_is_logged_and_nothing_of_it_shown(self) -> None:
        for target in ("/v1/fail/nothing", "/v1/odd"):
            answer = self.stage.ask("GET", target)
            self.assertEqual((answer.status, answer.code), (500, "INTERNAL_ERROR"))
            self.assertNotIn(b"secret", answer.body)
            self.assertNotIn(b"list", answer.body)
        kinds = [failure.type for failure in self.flushLoggedErrors()]
        self.assertEqual(kinds, [ZeroDivisionError, TypeError])

    def test_until_the_node_is_ready_every_operation_says_so(self) -> None:
        self.toys.is_ready = False
        for method, target in [("GET", "/v1/status"), ("GET", "/v1/feed?limit=x")]:
            answer = self.stage.ask(method, target)
            self.assertEqual((answer.status, answer.code), (503, "NOT_READY"))
            self.assertEqual(answer.headers["retry-after"], ["1"])
        self.assertEqual(self.toys.asked, [])
        self.toys.is_ready = True
        self.assertEqual(self.stage.ask("GET", "/v1/status").status, 200)

    def test_unknown_paths_and_methods_are_told_so(self) -> None:
        table: list[tuple[str, str, int, str, str | None]] = [
            ("GET", "/", 404, "NOT_FOUND", None),
            ("GET", "/v1", 404, "NOT_FOUND", None),
            ("GET", "/v1/nowhere", 404, "NOT_FOUND", None),
            ("GET", "/v1/status/", 404, "NOT_FOUND", None),
            ("GET", "/v1//status", 404, "NOT_FOUND", None),
            ("GET", "//v1/status", 404, "NOT_FOUND", None),
            ("GET", "/V1/status", 404, "NOT_FOUND", None),
            ("GET", "/v1/feed/", 404, "NOT_FOUND", None),
            ("GET", "/v1/./status", 404, "NOT_FOUND", None),
            ("DELETE", "/v1/status", 405, "METHOD_NOT_ALLOWED", "GET, HEAD"),
            ("OPTIONS", "/v1/status", 405, "METHOD_NOT_ALLOWED", "GET, HEAD"),
            ("GET", "/v1/publish", 405, "METHOD_NOT_ALLOWED", "POST"),
            ("HEAD", "/v1/publish", 405, "METHOD_NOT_ALLOWED", "POST"),
            ("GET", "/v1/peers/x", 405, "METHOD_NOT_ALLOWED", "DELETE"),
        ]
        for method, target, status, code, allowed in table:
            answer = self.stage.ask(method, target)
            self.assertEqual(answer.status, status, (method, target))
            if method != "HEAD":
                self.assertEqual(answer.code, code, (method, target))
            allow = None if allowed is None else [allowed]
            self.assertEqual(answer.headers.get("allow"), allow, (method, target))
            self.assertEqual(answer.headers["content-type"], ["application/json"])
        answer = self.stage.ask("BREW", "/v1/status", b"{}")
        self.assertEqual((answer.status, answer.code), (405, "METHOD_NOT_ALLOWED"))
        self.assertEqual(answer.json["error"]["details"], {"allow": ["GET", "HEAD"]})

    def test_each_bad_request_has_its_code(self) -> None:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        table: list[tuple[str, str, bytes | None, dict[str, Any], int, str]] = [
            ("GET", "/v1/feed?limit=x", None, {}, 400, "INVALID_REQUEST"),
            ("GET", "/v1/feed?limt=5", None, {}, 400, "INVALID_REQUEST"),
            ("GET", "/v1/feed?limit=%ff", None, {}, 400, "INVALID_REQUEST"),
            ("GET", "/v1/feed?limit=\xff", None, {}, 400, "BAD_REQUEST"),
            ("GET", "/v1/feed", b"{}", {}, 400, "INVALID_REQUEST"),
            ("GET", "/v1/insights/search", None, {}, 400, "INVALID_REQUEST"),
            ("GET", "/v1/feed/a/b", None, {}, 400, "INVALID_REQUEST"),
            ("GET", "/v1/feed/%ff", None, {}, 400, "INVALID_REQUEST"),
            ("GET", "/v1/feed/%00", None, {}, 400, "INVALID_REQUEST"),
            ("GET", "/%c3%28", None, {}, 400, "INVALID_REQUEST"),
            ("POST", "/v1/publish", b"", {}, 400, "INVALID_REQUEST"),
            ("POST", "/v1/publish", b"[]", {}, 400, "INVALID_REQUEST"),
            ("POST", "/v1/publish", b"{", {}, 400, "INVALID_REQUEST"),
            ("POST", "/v1/publish", b"{}", {}, 400, "INVALID_REQUEST"),
            ("POST", "/v1/publish?tags=a", b'{"content":1}', {}, 400, "INVALID_REQUEST"),
            ("POST", "/v1/publish", b"content=1", form, 415, "UNSUPPORTED_MEDIA_TYPE"),
            ("POST", "/v1/publish", b"{}", {"Content-Type": None}, 415, "UNSUPPORTED_MEDIA_TYPE"),
            ("POST", "/v1/publish", None, {}, 400, "INVALID_REQUEST"),
            (
                "POST",
                "/v1/publish",
                b"{}",
                {"Content-Encoding": "gzip"},
                415,
                "UNSUPPORTED_MEDIA_TYPE",
            ),
            ("DELETE", "/v1/peers/x", b"a=1", form, 415, "UNSUPPORTED_MEDIA_TYPE"),
            ("DELETE", "/v1/peers/x", None, form, 415, "UNSUPPORTED_MEDIA_TYPE"),
            ("DELETE", "/v1/peers/x", b"{}", {}, 400, "INVALID_REQUEST"),
            ("DELETE", "/v1/peers/x?force=maybe", None, {}, 400, "INVALID_REQUEST"),
        ]
        # Once behind the guard and once without: the door does not rely on it.
        for stage in (self.stage, Stage(guarded=False)):
            for method, target, body, headers, status, code in table:
                answer = stage.ask(method, target, body, headers)
                self.assertEqual((answer.status, answer.code), (status, code), (method, target))
            self.assertEqual(stage.toys.asked, [])

    def test_a_bad_path_leaves_nothing_in_the_log(self) -> None:
        seen: list[Any] = []
        observer: Any = seen.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        for target in ("/v1/feed/%ff", "/%00", "/v1/%e2%28%a1", "/v1/feed?limit=%fe"):
            self.assertEqual(self.stage.ask("GET", target).status, 400)
        self.assertEqual(seen, [])
        Logger().info("the observer works")
        self.assertEqual(len(seen), 1)

    def test_odd_hosts_do_not_reach_klein(self) -> None:
        stage = Stage(guarded=False)
        for host in ("", "a..b", "x" * 62, "x" * 300, "\xff", "[::1", "h:port", "%", "é" * 70):
            answer = stage.ask("GET", "/v1/status", headers={"Host": host})
            self.assertEqual(answer.status, 200, host)

    def test_the_real_client_gets_along_with_it(self) -> None:
        door = rest_door(self.toys.operations(), self.toys.ready).resource()
        client: Any = StubTreq(door)
        response = self.successResultOf(
            client.post("http://localhost/v1/publish", json={"content": {"a": 1}})
        )
        self.assertEqual(response.code, 201)
        content = self.successResultOf(treq.json_content(response))
        self.assertEqual(content["data"], {"raw": {"a": 1}, "sequence": 1})

    def test_warnings_stand_beside_a_good_answer(self) -> None:
        operation = Operation("warn", "POST", "/v1/warn", Nothing, Any, "", success=201)
        bound = BoundOperation(operation, lambda _: Advised({"n": 1}, ["mind the gap"]))
        client: Any = StubTreq(rest_door([bound]).resource())
        response = self.successResultOf(client.post("http://localhost/v1/warn", json={}))
        self.assertEqual(response.code, 201)
        self.assertEqual(
            self.successResultOf(treq.json_content(response)),
            {"success": True, "data": {"n": 1}, "metadata": {"warnings": ["mind the gap"]}},
        )

    def test_routes_are_whole_paths_wherever_the_door_is_put(self) -> None:
        door = rest_door(self.toys.operations(), self.toys.ready).resource()
        root = Resource()
        root.putChild(b"v1", door)
        client = treq.client.HTTPClient(RequestTraversalAgent(root))
        response = self.successResultOf(client.get("http://localhost/v1/feed?limit=3"))
        self.assertEqual(response.code, 200)


class PathTests(SynchronousTestCase):
    """Ids and addresses contain slashes, plus signs, equals signs, at signs and colons."""

    def setUp(self) -> None:
        self.stage = Stage()

    def asked(self, method: str, target: str) -> Any:
        answer = self.stage.ask(method, target)
        self.assertIn(answer.status, (200, 204), (target, answer.body))
        return self.stage.toys.asked.pop()

    def test_an_author_can_be_written_in_every_usual_way(self) -> None:
        url_safe = KEY.replace("/", "_").replace("+", "-")
        bare = url_safe.replace("=", "")
        table = [
            (quote(KEY, safe=""), KEY),
            (quote(KEY, safe="@+="), KEY),
            (KEY.replace("/", "%2f"), KEY),
            (KEY.replace("/", "%2F").replace("+", "%2B"), KEY),
            ("".join(f"%{ord(c):02x}" for c in KEY), KEY),
            (url_safe, url_safe),
            (bare, bare),
        ]
        for written, read in table:
            asked = self.asked("GET", f"/v1/feed/{written}?after=7")
            self.assertEqual(asked, ByAuthor(read, 7), written)
            self.assertEqual(PublicKey.parse(asked.author).text, KEY)

    def test_a_plus_is_a_plus_in_a_path_and_a_space_in_a_query(self) -> None:
        self.assertEqual(self.asked("GET", "/v1/feed/a+b%2Bc"), ByAuthor("a+b+c"))
        self.assertEqual(self.asked("GET", "/v1/insights/search?q=a+b%2Bc"), Search("a b+c"))

    def test_an_address_can_stand_raw_or_encoded(self) -> None:
        key = PublicKey.parse(KEY).base64
        for address in (f"net:example.org:7655~shs:{key}", f"net:[2001:db8::1]:7655~shs:{key}"):
            for written in (address, quote(address, safe=""), quote(address, safe="/:")):
                asked = self.asked("DELETE", f"/v1/peers/{written}?force=1")
                self.assertEqual(asked, ByAddress(address, True))
                self.assertEqual(MeshAddress.parse(asked.address).key.text, KEY)

    def test_slashes_in_a_row_and_at_the_ends_are_kept(self) -> None:
        for written, read in [
            ("a//b", "a//b"),
            ("a%2F%2Fb", "a//b"),
            ("%2Fa", "/a"),
            ("a%2F", "a/"),
            ("%2F", "/"),
            ("a/", "a/"),
            ("..", ".."),
            ("../../etc/passwd", "../../etc/passwd"),
            ("caf%C3%A9", "café"),
            ("%25", "%"),
            ("%3Fa%23%26", "?a#&"),
            ("%zz", "%zz"),
        ]:
            self.assertEqual(self.asked("DELETE", f"/v1/peers/{written}"), ByAddress(read), written)

    def test_a_number_after_an_id_is_told_from_the_id(self) -> None:
        for written in (KEY, quote(KEY, safe=""), KEY.replace("/", "_")):
            asked = self.asked("GET", f"/v1/feed/{written}/12")
            self.assertEqual(asked.sequence, 12, written)
            self.assertIn(asked.author, (KEY, written))
        whole = self.asked("GET", "/v1/feed/a%2F12")
        self.assertEqual(whole, ByAuthor("a/12"))
        self.assertEqual(self.asked("GET", "/v1/feed/a%2F12/13"), OneMessage("a/12", 13))

    def test_literal_paths_come_before_fields(self) -> None:
        self.assertEqual(self.asked("GET", "/v1/insights/search?q=x"), Search("x"))
        self.assertEqual(self.asked("GET", "/v1/insights/searching"), ById("searching"))
        self.assertEqual(self.asked("GET", "/v1/insights"), Listing())
        self.assertEqual(self.asked("GET", "/v1/feed"), Listing())

    def test_a_field_of_the_path_joins_those_of_the_body(self) -> None:
        answer = self.stage.ask("POST", f"/v1/notes/{quote(KEY, safe='')}", b'{"text":"hello"}')
        self.assertEqual(answer.json["data"], {"author": KEY, "text": "hello"})
        self.assertEqual(self.stage.toys.asked, [Note(KEY, "hello")])


class BodySizeTests(SynchronousTestCase):
    """Each operation says how much it takes."""

    TABLE = (
        ("/v1/publish", BATCH),
        ("/v1/%70ublish", BATCH),
        ("/v1/notes/a", NOTE),
        (f"/v1/notes/{quote(KEY, safe='')}", NOTE),
        (f"/v1/notes/{KEY}", NOTE),
    )

    def test_more_than_the_operation_takes_is_refused_before_it_is_kept(self) -> None:
        for target, limit in self.TABLE:
            answer = Stage().ask("POST", target, b"", {"Content-Length": str(limit + 1)})
            self.assertEqual((answer.status, answer.code), (413, "BODY_TOO_LARGE"), target)
            self.assertEqual(answer.json["error"]["details"], {"limit": limit})

    def test_as_much_as_the_operation_takes_is_read(self) -> None:
        for target, limit in self.TABLE:
            stage = Stage()
            answer = stage.ask("POST", target, b"{}".ljust(limit))
            self.assertEqual((answer.status, answer.code), (400, "INVALID_REQUEST"), target)

    def test_without_an_announced_length_it_is_measured_when_it_is_there(self) -> None:
        for target, limit in self.TABLE:
            connection = Stage().connect()
            head = request(
                "POST", target, b"", {"Transfer-Encoding": "chunked", "Content-Length": None}
            )
            connection.send(head + b"%x\r\n" % (limit + 1) + b" " * (limit + 1) + b"\r\n0\r\n\r\n")
            (answer,) = connection.answers("POST")
            self.assertEqual((answer.status, answer.code), (413, "BODY_TOO_LARGE"), target)
            connection.lose()

    def test_a_path_that_takes_no_body_is_held_to_the_usual_limit(self) -> None:
        for method, target, status in [
            ("POST", "/v1/nowhere", 404),
            ("POST", "/v1/feed", 405),
            ("POST", "/v1/notes/%ff", 400),
            ("POST", "//v1/publish", 404),
        ]:
            answer = Stage().ask(method, target, b"", {"Content-Length": str(MAX_BODY + 1)})
            self.assertEqual(answer.status, 413, target)
            self.assertEqual(Stage().ask(method, target, b"{}").status, status, target)

    def test_another_method_of_the_path_has_its_own_limit(self) -> None:
        operations = [
            BoundOperation(Operation("a", "POST", "/v1/x", Nothing, None, "", max_body=9), repr),
            BoundOperation(Operation("b", "DELETE", "/v1/x", Nothing, None, ""), repr),
        ]
        for declared in (operations, operations[::-1]):
            door = rest_door(declared)
            for method, length, good in [("POST", 9, True), ("POST", 10, False)]:
                types = Headers({"Content-Type": ["application/json"]})
                head = RequestHead(method, "/v1/x", types, length, DOOR, CLIENT)
                self.assertEqual(door.admit(head) is None, good)
            head = RequestHead("DELETE", "/v1/x", types, MAX_BODY, DOOR, CLIENT)
            self.assertIsNone(door.admit(head))
        self.assertEqual(rest_door(operations[:1]).max_body, MAX_BODY)


class DeclarationTests(SynchronousTestCase):
    def bound(self, name: str, path: str, method: Any = "GET") -> BoundOperation:
        return BoundOperation(Operation(name, method, path, ById, None, ""), lambda r: r)

    def test_two_operations_cannot_share_a_name_or_a_route(self) -> None:
        for other in (self.bound("one", "/v1/b/{id}"), self.bound("two", "/v1/a/{id}")):
            with self.assertRaises(errors.PartConflict) as caught:
                rest_door([self.bound("one", "/v1/a/{id}"), other])
            self.assertIn("one", str(caught.exception))

    def test_one_path_may_have_several_methods(self) -> None:
        rest_door(
            [self.bound("one", "/v1/a/{id}"), self.bound("two", "/v1/a/{id}", "DELETE")],
        )

    def test_the_order_of_declaration_does_not_matter(self) -> None:
        toys = Toys()
        for operations in (toys.operations(), toys.operations()[::-1]):
            door = rest_door(operations, toys.ready).resource()
            client = treq.client.HTTPClient(RequestTraversalAgent(door))
            for target in ("feed/a%2Fb/5", "feed/a/b/5", "feed/a", "insights/search?q=x"):
                self.successResultOf(client.get(f"http://localhost/v1/{target}"))
        first, second = toys.asked[:4], toys.asked[4:]
        self.assertEqual(first, second)
        self.assertEqual(
            first, [OneMessage("a/b", 5), OneMessage("a/b", 5), ByAuthor("a"), Search("x")]
        )


class WaitingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.stage = Stage()
        self.toys = self.stage.toys

    def waiting(self) -> Connection:
        connection = self.stage.connect()
        connection.send(request("GET", "/v1/wait"))
        self.assertEqual(len(self.toys.waiting), 1)
        self.assertEqual(connection.answers(), [])
        return connection

    def test_an_answer_may_take_its_time(self) -> None:
        connection = self.waiting()
        self.stage.clock.advance(10_000)
        self.toys.waiting[0].callback(5)
        (answer,) = connection.answers("GET")
        self.assertEqual(answer.json["data"], 5)
        connection.lose()
        self.assertEqual(self.toys.cancelled, 0)

    def test_when_the_client_goes_the_handler_is_cancelled(self) -> None:
        connection = self.waiting()
        connection.lose()
        self.assertEqual(self.toys.cancelled, 1)
        self.assertEqual(connection.transport.value(), b"")
        self.assertEqual(self.stage.clock.getDelayedCalls(), [])

    def raw(self, target: str, body: bytes | None = None, **headers: Any) -> Answer:
        def turned(request: Blob) -> bytes:
            return request.data[::-1] + request.name.encode()

        self.stage.site.resource = rest_door(
            [
                BoundOperation(
                    Operation(
                        "blob",
                        "POST",
                        "/v1/blob/{name}",
                        Blob,
                        bytes,
                        "",
                        permission="write",
                        sends="image/png",
                        takes="data",
                    ),
                    turned,
                )
            ]
        ).resource()
        return self.stage.ask("POST", target, body, headers)

    def test_raw_bytes_go_in_and_out_as_they_are(self) -> None:
        octets = {"Content-Type": "application/octet-stream"}
        answer = self.raw("/v1/blob/x", bytes(range(256)), **octets)
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.body, bytes(range(256))[::-1] + b"x")
        self.assertEqual(answer.headers["content-type"], ["image/png"])
        self.assertEqual(self.raw("/v1/blob/x?times=a", b"", **octets).code, "INVALID_REQUEST")
        self.assertEqual(self.raw("/v1/blob/x", b"{}").code, "UNSUPPORTED_MEDIA_TYPE")

    def test_json_cannot_be_sent_as_raw_bytes(self) -> None:
        octets: Any = {"Content-Type": "application/octet-stream"}
        answer = self.stage.ask("POST", "/v1/publish", b'{"content": 1}', octets)
        self.assertEqual(answer.code, "UNSUPPORTED_MEDIA_TYPE")

    def test_a_failure_after_the_client_went_is_logged_if_it_is_a_bug(self) -> None:
        def stubborn(_request: Any) -> Deferred[Any]:
            return Deferred(lambda d: d.errback(ValueError("late")))

        door = rest_door(
            [BoundOperation(Operation("x", "GET", "/x", Nothing, None, ""), stubborn)],
        )
        self.stage.site.resource = door.resource()
        connection = self.stage.connect()
        connection.send(request("GET", "/x"))
        connection.lose()
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_what_no_handler_should_raise_is_answered_and_logged_too(self) -> None:
        class Odd(BaseException):
            """No L{Exception}."""

        def raises(_request: Any) -> Deferred[Any]:
            return fail(Odd())

        door = rest_door(
            [BoundOperation(Operation("x", "GET", "/x", Nothing, None, ""), raises)],
        )
        self.stage.site.resource = door.resource()
        connection = self.stage.connect()
        connection.send(request("GET", "/x"))
        (answer,) = connection.answers("GET")
        self.assertEqual((answer.status, answer.code), (500, "INTERNAL_ERROR"))
        self.assertEqual(len(self.flushLoggedErrors(Odd)), 1)

    def test_a_call_cancelled_from_within_says_so(self) -> None:
        connection = self.waiting()
        self.toys.waiting[0].cancel()
        (answer,) = connection.answers("GET")
        self.assertEqual((answer.status, answer.code), (503, "NOT_READY"))
        connection.lose()

    def test_a_deferred_may_fail_with_one_of_our_errors(self) -> None:
        connection = self.waiting()
        self.toys.waiting[0].errback(errors.StorageFailed("the disk is full: make room"))
        (answer,) = connection.answers("GET")
        self.assertEqual((answer.status, answer.code), (507, "STORAGE_FAILED"))
        self.assertEqual(answer.json["error"]["message"], "the disk is full: make room")
        connection.lose()

    def test_a_message_with_broken_text_can_still_be_sent(self) -> None:
        connection = self.waiting()
        self.toys.waiting[0].errback(errors.StorageFailed("no such file: \udcff"))
        (answer,) = connection.answers("GET")
        self.assertEqual(answer.json["error"]["message"], "no such file: \\udcff")
        connection.lose()

    def test_an_answer_that_is_no_json_is_a_bug(self) -> None:
        connection = self.waiting()
        self.toys.waiting[0].callback(object())
        (answer,) = connection.answers("GET")
        self.assertEqual((answer.status, answer.code), (500, "INTERNAL_ERROR"))
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)
        connection.lose()

    def test_a_handler_may_fail_at_once(self) -> None:
        at_once: Any = lambda request: fail(errors.NotFound("no such thing"))  # noqa: E731
        self.patch(self.toys, "wait", at_once)
        stage = Stage()
        stage.site.resource = rest_door(self.toys.operations(), self.toys.ready).resource()
        answer = stage.ask("GET", "/v1/wait")
        self.assertEqual((answer.status, answer.code), (404, "NOT_FOUND"))


_TARGETS = ("/v1/status", "/v1/feed", "/v1/feed/", "/v1/insights/search", "/v1/peers/", "/v1/")


class AnyRequestTests(SynchronousTestCase):
    """Whatever is asked of the door, it does not break."""

    @given(
        st.sampled_from(["GET", "HEAD", "DELETE", "POST", "PUT"]),
        st.sampled_from(_TARGETS),
        st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=30),
        st.text(st.sampled_from("limtq=&%+;fe01"), max_size=30),
    )
    def test_no_target_makes_it_fail(self, method: str, start: str, path: str, query: str) -> None:
        answer = Stage().ask(method, f"{start}{path}?{query}")
        self.assertLess(answer.status, 500)
        if method != "HEAD" and answer.status != 204:
            self.assertEqual(answer.json["success"], answer.status < 300)
        self.assertEqual(self.flushLoggedErrors(), [])

    @given(
        st.sampled_from(["/v1/publish", "/v1/notes/x"]),
        st.binary(max_size=80)
        | st.dictionaries(
            st.sampled_from(["content", "tags", "schemaId", "text", "x"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                lambda inner: st.lists(inner, max_size=3),
                max_leaves=5,
            ),
        ).map(lambda value: json.dumps(value).encode()),
    )
    def test_no_body_makes_it_fail(self, target: str, body: bytes) -> None:
        answer = Stage().ask("POST", target, body)
        self.assertIn(answer.status, (200, 201, 400))
        self.assertEqual(answer.json["success"], answer.status < 300)
        self.assertEqual(self.flushLoggedErrors(), [])


class ShapeTests(SynchronousTestCase):
    """What is found without werkzeug is what werkzeug finds."""

    def setUp(self) -> None:
        self.door = rest_door(Toys().operations())
        self.others = rest_door(
            [
                BoundOperation(Operation(f"op{n}", method, path, request, Any, ""), lambda _: None)
                for n, (method, path, request) in enumerate(
                    [
                        ("GET", "/v1/a/{id}", ById),
                        ("GET", "/v1/a/b", Nothing),
                        ("GET", "/v1/{id}/b", ById),
                        ("DELETE", "/v1/a/{id}", ById),
                        ("GET", "/v1/a/{author}/{sequence}", OneMessage),
                        ("GET", "/v1/a/{id}/c", ById),
                        ("GET", "/v1/b/{author}/c/{sequence}", OneMessage),
                        ("GET", "/v2", Nothing),
                    ]
                )
            ]
        )

    @given(
        st.booleans(),
        st.sampled_from(["GET", "HEAD", "POST", "DELETE", "PUT"]),
        st.lists(
            st.sampled_from(
                ["v1", "a", "b", "c", "feed", "insights", "search", "notes", "peers", "%2F", ""]
            )
            | st.text("abc%/", max_size=3).map(lambda text: quote(text, safe="")),
            min_size=1,
            max_size=5,
        ),
    )
    def test_it_is_the_same(self, other: bool, method: str, path: list[str]) -> None:
        door = self.others if other else self.door
        segments = _segments([unquote_to_bytes(part) for part in ["v1", *path]])
        found = door._shapes.find(method, segments)
        if found is not None:
            route = door._app.url_map.bind("localhost", path_info="/" + "/".join(segments))
            self.assertEqual(found, route.match(method=method))

    def test_something_is_found(self) -> None:
        for method, path, name in (
            ("GET", "feed/x", "author"),
            ("HEAD", "feed/x", "author"),
            ("GET", "feed/x/7", "one"),
            ("DELETE", "peers/x%2Fy", "forget_peer"),
            ("POST", "notes/x", "note"),
        ):
            segments = _segments([unquote_to_bytes(part) for part in ["v1", *path.split("/")]])
            found = self.door._shapes.find(method, segments)
            assert found is not None, path
            self.assertEqual(found[0], name)
        # Two could be meant.
        self.assertIsNone(self.door._shapes.find("GET", ["v1", "insights", "search"]))
