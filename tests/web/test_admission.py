"""What is refused before a byte of the body is kept: the door's own list, tried at the wire."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from meshkit.operations import BoundOperation, Nothing, Operation
from meshkit.web.callers import Caller, Scope
from meshkit.web.doorkeeper import Doorkeeper
from tests.web.stage import HOST, TOKEN, Answer, Connection, Stage, node_door, request

PUBLIC = Operation("alive", "GET", "/v1/alive", Nothing, bool, "Is it?", public=True)


class Bytes(msgspec.Struct):
    data: bytes


BYTES = Operation(
    "bytes", "POST", "/v1/bytes", Bytes, int, "How many.", permission="write", takes="data"
)

HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "Host",
            "Authorization",
            "Origin",
            "Sec-Fetch-Site",
            "Content-Type",
            "Cookie",
            "X-Forwarded-Host",
            "X-Forwarded-For",
            "X-HTTP-Method-Override",
            "Forwarded",
        ]
    ),
    st.sampled_from(
        [
            HOST,
            "localhost:7654",
            "evil.example",
            "null",
            "cross-site",
            "same-origin",
            "application/json",
            "text/plain",
            "Bearer",
            "Bearer ",
            "Bearer null",
            "Bearer undefined",
            "Basic " + TOKEN.decode(),
            TOKEN.decode(),
            f"Bearer {TOKEN.decode()[:-1]}",
            f"Bearer {TOKEN.decode()}, Bearer x",
            f"token={TOKEN.decode()}",
        ]
    ),
)


class Door(SynchronousTestCase):
    def setUp(self) -> None:
        self.stage = Stage()
        self.reader = Caller("reader", (Scope("read"),))
        owner = Doorkeeper(TOKEN)
        operations = [
            *self.stage.toys.operations(),
            BoundOperation(PUBLIC, lambda request: True),
            BoundOperation(BYTES, lambda request: len(request.data)),
        ]
        self.stage.site = node_door(
            self.stage.clock,
            operations,
            lambda shown: self.reader if shown == b"readers" else owner(shown),
        ).site

    def head_only(self, method: str, target: str, **headers: Any) -> Answer:
        """The answer to a request whose body has not come yet."""
        connection = Connection(self.stage.site)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.send(request(method, target, None, given))
        (answer,) = connection.answers(method)
        connection.lose()
        return answer


class BodyTests(Door):
    def test_a_body_that_the_token_is_not_good_for_is_refused_unread(self) -> None:
        answer = self.head_only(
            "POST",
            "/v1/publish",
            Authorization="Bearer readers",
            Content_Type="application/json",
            Content_Length="100000",
        )
        self.assertEqual((answer.status, answer.code), (403, "PERMISSION_DENIED"))
        self.assertIn('scope="write:publish"', answer.headers["www-authenticate"][0])

    def test_a_body_of_the_wrong_type_is_refused_unread(self) -> None:
        for target, kind in (
            ("/v1/publish", "application/octet-stream"),
            ("/v1/publish", "text/plain"),
            ("/v1/publish", None),
            ("/v1/bytes", "application/json"),
            ("/v1/bytes", "text/plain"),
        ):
            answer = self.head_only("POST", target, Content_Type=kind, Content_Length="100000")
            self.assertEqual((answer.status, answer.code), (415, "UNSUPPORTED_MEDIA_TYPE"))
            wanted = "octet-stream" if target == "/v1/bytes" else "application/json"
            if kind in ("application/json", "application/octet-stream"):
                self.assertIn(wanted, answer.json["error"]["message"])

    def test_a_chunked_body_is_judged_by_the_same_rules(self) -> None:
        answer = self.head_only(
            "POST",
            "/v1/publish",
            Authorization="Bearer readers",
            Content_Type="application/json",
            Transfer_Encoding="chunked",
        )
        self.assertEqual(answer.status, 403)

    def test_a_good_one_is_waited_for(self) -> None:
        connection = Connection(self.stage.site)
        connection.send(
            request(
                "POST",
                "/v1/publish",
                None,
                {"Content-Type": "application/json", "Content-Length": "14"},
            )
        )
        self.assertEqual(connection.transport.value(), b"")
        connection.send(b'{"content": 1}')
        self.assertEqual(connection.answers("POST")[0].status, 201)
        connection.lose()
        headers: dict[str, Any] = {"Content-Type": "application/octet-stream"}
        answer = self.stage.ask("POST", "/v1/bytes", b"\xff\x00", headers)
        self.assertEqual((answer.status, answer.json["data"]), (200, 2))


class NobodyTests(Door):
    @given(
        st.sampled_from(["GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE"]),
        st.sampled_from(
            ["/v1/status", "/v1/publish", "/mcp", "/mcp/", "/v1/wait", "/", "//mcp", "/v1/alive/"]
        ),
        HEADERS,
    )
    def test_without_a_good_token_nothing_happens_and_nothing_is_said(
        self, method: str, target: str, headers: dict[str, Any]
    ) -> None:
        asked, waiting = len(self.stage.toys.asked), len(self.stage.toys.waiting)
        answer = self.stage.ask(method, target, None, {"Authorization": None, **headers})
        self.assertIn(answer.status, (401, 403))
        self.assertFalse([name for name in answer.headers if name.startswith("access-control")])
        self.assertEqual(answer.headers["content-type"], ["application/json"])
        if method != "HEAD":
            self.assertIn(answer.code, ("UNAUTHORIZED", "FORBIDDEN_ORIGIN"))
        self.assertEqual(
            (len(self.stage.toys.asked), len(self.stage.toys.waiting)), (asked, waiting)
        )
        self.stage.clock.advance(10)

    def test_what_is_public_is_so_for_programs_and_not_for_pages(self) -> None:
        table: list[tuple[dict[str, Any], int]] = [
            ({}, 200),
            ({"Host": "localhost:7654"}, 200),
            ({"Origin": f"http://{HOST}"}, 200),
            ({"Sec-Fetch-Site": "none"}, 200),
            ({"Sec-Fetch-Site": "same-origin"}, 200),
            ({"Host": "evil.example"}, 403),
            ({"Origin": "http://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Sec-Fetch-Site": "cross-site"}, 403),
            ({"Sec-Fetch-Site": "same-site"}, 403),
            ({"Sec-Fetch-Site": ["none", "cross-site"]}, 403),
            ({"Authorization": "Bearer wrong"}, 401),
        ]
        for headers, status in table:
            answer = self.stage.ask("GET", "/v1/alive", None, {"Authorization": None, **headers})
            self.assertEqual(answer.status, status, headers)

    def test_a_preflight_is_refused_as_what_it_asks_for_would_be(self) -> None:
        asked = {
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
            "Access-Control-Request-Private-Network": "true",
        }
        for origin, status in (
            ("http://evil.example", 403),
            ("null", 403),
            (f"http://{HOST}", 401),
        ):
            for target in ("/v1/publish", "/mcp", "/v1/alive"):
                headers: dict[str, Any] = {"Authorization": None, "Origin": origin, **asked}
                answer = self.stage.ask("OPTIONS", target, None, headers)
                self.assertEqual(answer.status, status)
                self.assertFalse(
                    [name for name in answer.headers if name.startswith("access-control")]
                )
        # And with the token there is nothing to be allowed either.
        answer = self.stage.ask("OPTIONS", "/v1/publish", None, {})
        self.assertEqual((answer.status, answer.headers["allow"]), (405, ["POST"]))


class StaleTests(Door):
    def test_a_call_of_a_caller_that_is_over_is_refused_wherever_it_comes_from(self) -> None:
        """As over a connection that was opened before."""
        door = node_door(self.stage.clock, self.stage.toys.operations(), lambda shown: None)
        caller = Caller("x", (Scope("admin"),))
        bound = door.operations.find("status")
        running = Deferred.fromCoroutine(door.operations.run(bound, Nothing(), caller, "mcp"))
        self.assertIsNone(self.successResultOf(running))
        caller.end()
        running = Deferred.fromCoroutine(door.operations.run(bound, Nothing(), caller, "mcp"))
        self.assertEqual(self.failureResultOf(running).value.code, "UNAUTHORIZED")
