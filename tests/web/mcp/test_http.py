"""The HTTP binding, from the bytes of a connection."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from klein import Klein
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from meshkit.web.limits import LimitedSite
from meshkit.web.mcp import McpResource, Tool, text_result, wire
from meshkit.web.sse import EventReader
from tests.web.mcp.support import ANYTHING, Bench
from tests.web.stage import Answer, Connection, read_answers, request

HOST = "127.0.0.1:8000"
VERSION = "2026-07-28"
BOTH = "application/json, text/event-stream"


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.start()

    def start(self, resource: Any = None, **limits: Any) -> None:
        self.bench = Bench(more=True, **limits)
        root = Resource()
        made = (resource or McpResource)(self.bench.server, self.bench.clock)
        root.putChild(b"mcp", made)
        self.site = LimitedSite(root, self.bench.clock)
        self.connections: list[Connection] = []

    def connect(self) -> Connection:
        connection = Connection(self.site)
        self.connections.append(connection)
        return connection

    def headers(self, **more: Any) -> dict[str, Any]:
        given = {"Host": HOST, "Authorization": None, "Accept": BOTH}
        return given | {name.replace("_", "-"): value for name, value in more.items()}

    def post(self, body: bytes, target: str = "/mcp", **headers: Any) -> Connection:
        """@return: a connection with a request on it."""
        connection = self.connect()
        connection.send(request("POST", target, body, self.headers(**headers)))
        return connection

    def ask(
        self, method: str, body: bytes | None = None, target: str = "/mcp", **headers: Any
    ) -> Answer:
        """@return: the answer, which has to come at once."""
        connection = self.connect()
        connection.send(request(method, target, body, self.headers(**headers)))
        (answer,) = connection.answers(method)
        connection.lose()
        return answer

    def stateless(self, id: Any, method: str, capabilities: Any = None, **params: Any) -> bytes:
        meta = {wire.META_VERSION: VERSION, wire.META_CAPABILITIES: capabilities or {}}
        meta |= params.pop("_meta", {})
        return wire.request(id, method, params | {"_meta": meta})

    def ask_stateless(self, method: str, header: str | None = None, **params: Any) -> Answer:
        more = {} if header is None else {"Mcp_Name": header}
        return self.ask(
            "POST",
            self.stateless(1, method, **params),
            MCP_Protocol_Version=VERSION,
            Mcp_Method=method,
            **more,
        )

    def initialize(self, **headers: Any) -> str:
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
        answer = self.ask("POST", wire.request(0, "initialize", params), **headers)
        self.assertEqual(answer.status, 200, answer.body)
        self.assertEqual(answer.headers["content-type"], ["application/json"])
        (id,) = answer.headers["mcp-session-id"]
        return id

    def code(self, answer: Answer) -> Any:
        self.assertEqual(answer.headers["content-type"], ["application/json"])
        return json.loads(answer.body)["error"]["code"]

    def head(self, connection: Connection) -> tuple[int, dict[str, str], bytes]:
        """@return: status, headers and raw body of an answer that goes on."""
        text = connection.transport.value()
        head, _, body = text.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return int(status.split()[1]), headers, body

    def events(self, connection: Connection) -> list[Any]:
        """@return: the messages of a stream, so far."""
        status, headers, body = self.head(connection)
        self.assertEqual((status, headers["content-type"]), (200, "text/event-stream"))
        reader, data = EventReader(), b""
        while body:
            size, _, rest = body.partition(b"\r\n")
            length = int(size, 16)
            data += rest[:length]
            body = rest[length + 2 :]
        return [json.loads(event.data) for event in reader.feed(data)]

    def ended(self, connection: Connection) -> bool:
        """Is the last chunk there?"""
        return connection.transport.value().endswith(b"0\r\n\r\n")


class StatelessTests(Case):
    def test_a_call_is_answered_with_json(self) -> None:
        for target in ("/mcp", "/mcp/"):
            body = self.stateless("x", "tools/call", name="add", arguments={"a": 1, "b": 2})
            answer = self.ask(
                "POST",
                body,
                target,
                MCP_Protocol_Version=VERSION,
                Mcp_Method="tools/call",
                Mcp_Name="add",
            )
            self.assertEqual(answer.status, 200)
            self.assertEqual(answer.headers["content-type"], ["application/json"])
            self.assertNotIn("mcp-session-id", answer.headers)
            result = json.loads(answer.body)
            self.assertEqual((result["jsonrpc"], result["id"]), ("2.0", "x"))
            self.assertEqual(result["result"]["structuredContent"], {"sum": 3})
        self.assertEqual(self.bench.server.sessions, 0)

    def test_statuses_of_errors(self) -> None:
        for method, name, params, status, code in (
            ("nonsense", None, {}, 404, wire.METHOD_NOT_FOUND),
            ("initialize", None, {}, 404, wire.METHOD_NOT_FOUND),
            ("tools/call", "fly", {"name": "fly"}, 400, wire.INVALID_PARAMS),
            ("tools/call", "add", {"name": "fly"}, 400, wire.HEADER_MISMATCH),
            ("tools/call", None, {"name": "add"}, 400, wire.HEADER_MISMATCH),
            ("tools/call", None, {}, 400, wire.INVALID_PARAMS),
            ("resources/read", "test://x", {"uri": "test://x"}, 400, wire.INVALID_PARAMS),
        ):
            answer = self.ask_stateless(method, name, **params)
            self.assertEqual((answer.status, self.code(answer)), (status, code), method)
            self.assertEqual(json.loads(answer.body)["id"], 1)

    def test_an_internal_error_is_a_good_answer_of_http(self) -> None:
        answer = self.ask_stateless("tools/call", "break", name="break")
        self.assertEqual((answer.status, self.code(answer)), (200, wire.INTERNAL_ERROR))
        self.assertNotIn(b"secret", answer.body)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_a_missing_capability(self) -> None:
        def need(arguments: Any, call: Any) -> Any:
            call.require("sampling")
            return text_result("good")

        self.bench.server.add_tool(Tool("need", "", ANYTHING, need))
        answer = self.ask_stateless("tools/call", "need", name="need")
        self.assertEqual((answer.status, self.code(answer)), (400, wire.MISSING_CAPABILITY))
        answer = self.ask_stateless(
            "tools/call", "need", name="need", capabilities={"sampling": {}}
        )
        self.assertEqual(answer.status, 200)

    def test_the_body_decides_as_well_which_generation_it_is(self) -> None:
        """A request of the new kind without, or with another, version in its headers."""
        for versions in (None, "2025-11-25", [VERSION, VERSION], ["2025-11-25", VERSION]):
            answer = self.ask(
                "POST",
                self.stateless(1, "tools/list"),
                MCP_Protocol_Version=versions,
                Mcp_Method="tools/list",
            )
            self.assertEqual((answer.status, self.code(answer)), (400, wire.HEADER_MISMATCH))
        answer = self.ask(
            "POST", wire.request(1, "tools/list", {"_meta": 7}), Mcp_Method="tools/list"
        )
        self.assertEqual((answer.status, self.code(answer)), (400, wire.INVALID_PARAMS))

    def test_a_version_that_is_not_spoken(self) -> None:
        meta = {wire.META_VERSION: "2099-01-01", wire.META_CAPABILITIES: {}}
        answer = self.ask(
            "POST",
            wire.request(9, "tools/list", {"_meta": meta}),
            MCP_Protocol_Version="2099-01-01",
            Mcp_Method="tools/list",
        )
        self.assertEqual((answer.status, self.code(answer)), (400, wire.UNSUPPORTED_VERSION))
        self.assertEqual(
            json.loads(answer.body)["error"]["data"],
            {"supported": [VERSION], "requested": "2099-01-01"},
        )

    def test_a_notification_is_accepted_and_dropped(self) -> None:
        told = wire.notification("notifications/cancelled", {"requestId": 1})
        self.assertEqual(self.ask("POST", told, MCP_Protocol_Version=VERSION).status, 202)
        answer = self.ask("POST", told, MCP_Protocol_Version="2099-01-01")
        self.assertEqual((answer.status, self.code(answer)), (400, wire.UNSUPPORTED_VERSION))

    def test_an_answer_to_nothing_is_refused(self) -> None:
        answer = self.ask("POST", wire.answer(1, {}), MCP_Protocol_Version=VERSION)
        self.assertEqual((answer.status, self.code(answer)), (400, wire.INVALID_REQUEST))

    def test_it_knows_post_only(self) -> None:
        for method in ("GET", "DELETE", "PUT", "OPTIONS"):
            answer = self.ask(method, MCP_Protocol_Version=VERSION)
            self.assertEqual((answer.status, answer.headers["allow"]), (405, ["POST"]))

    def test_progress_makes_events_of_the_answer(self) -> None:
        body = self.stateless(5, "tools/call", name="steps", _meta={"progressToken": "t"})
        connection = self.post(
            body, MCP_Protocol_Version=VERSION, Mcp_Method="tools/call", Mcp_Name="steps"
        )
        *told, answer = self.events(connection)
        self.assertEqual([each["params"]["progress"] for each in told], [0, 1, 2])
        self.assertEqual(answer["id"], 5)
        self.assertTrue(self.ended(connection))
        self.assertEqual(self.bench.server.sessions, 0)

    def waiting(self) -> Connection:
        return self.post(
            self.stateless(5, "tools/call", name="wait"),
            MCP_Protocol_Version=VERSION,
            Mcp_Method="tools/call",
            Mcp_Name="wait",
        )

    def test_an_answer_that_comes_soon_is_json_and_a_later_one_an_event(self) -> None:
        connection = self.waiting()
        self.bench.clock.advance(14)
        self.assertEqual(connection.transport.value(), b"")
        self.bench.waiting.pop().callback(text_result("soon"))
        (answer,) = connection.answers("POST")
        self.assertEqual(answer.headers["content-type"], ["application/json"])
        connection.lose()
        connection = self.waiting()
        self.bench.clock.pump([5] * 7)
        self.assertEqual(self.events(connection), [])
        self.assertEqual(connection.transport.value().count(b":\n\n"), 2)
        self.bench.waiting.pop().callback(text_result("late"))
        (late,) = self.events(connection)
        self.assertEqual(late["result"]["content"][0]["text"], "late")
        self.assertTrue(self.ended(connection))

    def test_a_client_that_goes_cancels_its_call(self) -> None:
        for seconds in (0, 20):
            self.bench.cancelled = 0
            connection = self.waiting()
            self.bench.clock.advance(seconds)
            connection.lose()
            self.assertEqual(self.bench.cancelled, 1)
            self.assertEqual((self.bench.server.calls, self.bench.server.sessions), (0, 0))
        self.assertEqual(self.bench.clock.getDelayedCalls(), [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def listening(self) -> Connection:
        method = "subscriptions/listen"
        return self.post(
            self.stateless(8, method, notifications={"toolsListChanged": True}),
            MCP_Protocol_Version=VERSION,
            Mcp_Method=method,
        )

    def test_listening(self) -> None:
        connection = self.listening()
        (acknowledged,) = self.events(connection)
        self.assertEqual(acknowledged["params"]["notifications"], {"toolsListChanged": True})
        self.bench.server.tools_changed()
        self.bench.server.prompts_changed()
        told = self.events(connection)[1:]
        self.assertEqual([each["method"] for each in told], ["notifications/tools/list_changed"])
        self.bench.clock.advance(15)
        self.assertEqual(connection.transport.value().count(b":\n\n"), 2)
        self.bench.server.stop()
        self.assertEqual(self.events(connection)[-1]["id"], 8)
        self.assertTrue(self.ended(connection))

    def test_a_listener_that_goes_leaves_nothing(self) -> None:
        self.listening().lose()
        self.assertEqual(len(self.bench.server.announcer), 0)
        self.assertEqual(self.bench.server.sessions, 0)
        self.bench.server.tools_changed()
        self.assertEqual(self.bench.clock.getDelayedCalls(), [])

    def test_when_too_much_is_under_way_it_says_when_to_come_again(self) -> None:
        self.start(calls=1, listens=1)
        self.waiting()
        answer = self.ask_stateless("tools/call", "steps", name="steps")
        self.assertEqual((answer.status, self.code(answer)), (503, wire.BUSY))
        self.assertEqual(answer.headers["retry-after"], ["1"])
        self.listening()
        answer = self.ask_stateless("subscriptions/listen", notifications={})
        self.assertEqual((answer.status, self.code(answer)), (503, wire.BUSY))

    def test_a_server_that_stops_answers_what_is_under_way(self) -> None:
        connection = self.waiting()
        self.bench.server.stop()
        (answer,) = connection.answers("POST")
        self.assertEqual((answer.status, self.code(answer)), (503, wire.CANCELLED))
        self.assertEqual(self.bench.cancelled, 1)


class HandshakeTests(Case):
    def call(self, session: str, body: bytes, **headers: Any) -> Answer:
        return self.ask("POST", body, Mcp_Session_Id=session, **headers)

    def test_a_session(self) -> None:
        session = self.initialize()
        told = wire.notification("notifications/initialized")
        answer = self.call(session, told, MCP_Protocol_Version="2025-11-25")
        self.assertEqual((answer.status, answer.body), (202, b""))
        add = wire.request(1, "tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}})
        for version in (None, *wire.HANDSHAKE_VERSIONS):
            answer = self.call(session, add, MCP_Protocol_Version=version)
            self.assertEqual(answer.status, 200)
            result = json.loads(answer.body)["result"]
            self.assertEqual(result["structuredContent"], {"sum": 3})
            self.assertNotIn("resultType", result)

    def test_errors_of_the_protocol_are_good_answers_of_http(self) -> None:
        session = self.initialize()
        for body, code in (
            (wire.request(1, "nonsense", {}), wire.METHOD_NOT_FOUND),
            (wire.request(1, "tools/call", {"name": "fly"}), wire.INVALID_PARAMS),
        ):
            answer = self.call(session, body)
            self.assertEqual((answer.status, self.code(answer)), (200, code))

    def test_without_a_session_nothing_is_served(self) -> None:
        session = self.initialize()
        ping = wire.request(1, "ping", {})
        for id, status in (
            (None, 400),
            ([session, session], 400),
            ("", 404),
            ("nonsense", 404),
            (session.upper() if session.upper() != session else session + "0", 404),
        ):
            for method, body in (("POST", ping), ("GET", None), ("DELETE", None)):
                answer = self.ask(method, body, Mcp_Session_Id=id)
                self.assertEqual((answer.status, self.code(answer)), (status, wire.INVALID_REQUEST))
        self.assertEqual(self.call(session, ping).status, 200)

    def test_a_session_ends(self) -> None:
        session = self.initialize()
        connection = self.post(
            wire.request(1, "tools/call", {"name": "wait"}), Mcp_Session_Id=session
        )
        stream = self.stream(session)
        self.assertEqual(self.ask("DELETE", Mcp_Session_Id=session).status, 204)
        (answer,) = connection.answers("POST")
        self.assertEqual(self.code(answer), wire.CANCELLED)
        self.assertTrue(self.ended(stream))
        self.assertEqual(self.bench.cancelled, 1)
        self.assertEqual(self.call(session, wire.request(1, "ping", {})).status, 404)
        self.assertEqual(self.ask("DELETE", Mcp_Session_Id=session).status, 404)

    def test_a_session_is_its_callers_alone(self) -> None:
        who = ["heron"]

        def resource(*arguments: Any) -> McpResource:
            return McpResource(*arguments, caller=lambda request: who[0])

        self.start(resource)
        session = self.initialize()
        ping = wire.request(1, "ping", {})
        self.assertEqual(self.call(session, ping).status, 200)
        who[0] = "gull"
        self.assertEqual(self.call(session, ping).status, 404)
        who[0] = "heron"
        self.assertEqual(self.call(session, ping).status, 200)

    def test_initialize_that_is_refused_leaves_no_session(self) -> None:
        answer = self.ask("POST", wire.request(0, "initialize", {}))
        self.assertEqual((answer.status, self.code(answer)), (200, wire.INVALID_PARAMS))
        self.assertEqual(self.bench.server.sessions, 0)

    def test_initialize_in_a_session_is_refused(self) -> None:
        session = self.initialize()
        answer = self.call(session, wire.request(0, "initialize", {}))
        self.assertEqual(self.code(answer), wire.INVALID_REQUEST)
        answer = self.call("nonsense", wire.request(0, "initialize", {}))
        self.assertEqual(answer.status, 404)

    def test_too_many_sessions(self) -> None:
        self.start(sessions=1)
        first = self.initialize()
        second = self.initialize()
        self.assertEqual(self.call(first, wire.request(1, "ping", {})).status, 404)
        stream = self.stream(second)
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
        answer = self.ask("POST", wire.request(0, "initialize", params))
        self.assertEqual((answer.status, self.code(answer)), (503, wire.BUSY))
        self.assertEqual(answer.headers["retry-after"], ["1"])
        stream.lose()
        self.initialize()
        self.assertEqual(self.bench.server.sessions, 1)

    def test_a_session_that_rests_is_forgotten(self) -> None:
        self.start(idle_seconds=10)
        session = self.initialize()
        self.bench.clock.advance(9)
        self.assertEqual(self.call(session, wire.request(1, "ping", {})).status, 200)
        self.bench.clock.advance(11)
        self.assertEqual(self.call(session, wire.request(1, "ping", {})).status, 404)
        self.assertEqual(self.bench.server.sessions, 0)

    def stream(self, session: str) -> Connection:
        connection = self.connect()
        headers = self.headers(Mcp_Session_Id=session, Accept="text/event-stream")
        connection.send(request("GET", "/mcp", None, headers))
        self.assertEqual(self.head(connection)[0], 200)
        return connection

    def test_changes_come_on_the_stream_also_those_from_before_it(self) -> None:
        session = self.initialize()
        self.bench.server.tools_changed()
        stream = self.stream(session)
        self.assertEqual(
            [each["method"] for each in self.events(stream)],
            ["notifications/tools/list_changed"],
        )
        self.bench.clock.advance(15)
        self.assertEqual(stream.transport.value().count(b":\n\n"), 2)
        self.bench.server.tools_changed()
        self.assertEqual(len(self.events(stream)), 2)

    def test_a_session_has_one_stream_at_a_time(self) -> None:
        session = self.initialize()
        stream = self.stream(session)
        answer = self.ask("GET", Mcp_Session_Id=session)
        self.assertEqual(answer.status, 409)
        stream.lose()
        self.stream(session)

    def test_a_session_rests_from_the_end_of_its_stream_on(self) -> None:
        self.start(idle_seconds=10)
        session = self.initialize()
        stream = self.stream(session)
        self.bench.clock.pump([9, 9, 9])
        stream.lose()
        self.bench.clock.advance(9.9)
        self.assertEqual(self.bench.server.sessions, 1)
        self.bench.clock.advance(0.2)
        self.assertEqual(self.bench.server.sessions, 0)

    def test_a_stream_is_events(self) -> None:
        session = self.initialize()
        answer = self.ask("GET", Mcp_Session_Id=session, Accept="application/json")
        self.assertEqual(answer.status, 406)

    def test_other_methods_are_refused(self) -> None:
        for method in ("PUT", "PATCH", "OPTIONS", "HEAD"):
            answer = self.ask(method)
            self.assertEqual((answer.status, answer.headers["allow"]), (405, ["DELETE, GET, POST"]))

    def test_a_client_that_goes_cancels_its_call_and_no_other(self) -> None:
        session = self.initialize()
        one, other = (
            self.post(wire.request(id, "tools/call", {"name": "wait"}), Mcp_Session_Id=session)
            for id in (1, 2)
        )
        # Of the same id, but answered at once: its end is not the end of the other.
        self.assertEqual(self.call(session, wire.request(2, "tools/list", {})).status, 200)
        one.lose()
        self.assertEqual(self.bench.cancelled, 1)
        self.bench.waiting[1].callback(text_result("here"))
        (answer,) = other.answers("POST")
        self.assertEqual(json.loads(answer.body)["result"]["content"][0]["text"], "here")

    def test_a_call_can_be_cancelled(self) -> None:
        session = self.initialize()
        connection = self.post(
            wire.request(1, "tools/call", {"name": "wait"}), Mcp_Session_Id=session
        )
        told = wire.notification("notifications/cancelled", {"requestId": 1})
        self.assertEqual(self.call(session, told).status, 202)
        (answer,) = connection.answers("POST")
        self.assertEqual((answer.status, self.code(answer)), (200, wire.CANCELLED))
        self.assertEqual(self.bench.cancelled, 1)

    def test_a_question_to_the_client_and_its_answer(self) -> None:
        async def ask(arguments: Any, call: Any) -> Any:
            answer = await call.ask("roots/list", {})
            return text_result(answer["roots"][0]["uri"])

        self.bench.server.add_tool(Tool("ask", "", ANYTHING, ask))
        params = {"protocolVersion": "2025-11-25", "capabilities": {"roots": {}}, "clientInfo": {}}
        answer = self.ask("POST", wire.request(0, "initialize", params))
        (session,) = answer.headers["mcp-session-id"]
        connection = self.post(
            wire.request(1, "tools/call", {"name": "ask"}), Mcp_Session_Id=session
        )
        (question,) = self.events(connection)
        reply = wire.answer(question["id"], {"roots": [{"uri": "file:///x"}]})
        self.assertEqual(self.call(session, reply).status, 202)
        self.assertEqual(self.events(connection)[-1]["result"]["content"][0]["text"], "file:///x")
        self.assertTrue(self.ended(connection))


class RuleTests(Case):
    """What holds for both generations, before a message is looked at."""

    def refused(self, status: int, body: bytes | None = None, **headers: Any) -> Answer:
        body = wire.request(1, "ping", {}) if body is None else body
        answer = self.ask("POST", body, **headers)
        self.assertEqual(answer.status, status, (headers, answer.body))
        self.assertIsNone(json.loads(answer.body)["id"])
        return answer

    def test_types(self) -> None:
        for types in (None, "text/plain", "application/x-www-form-urlencoded", "", "json"):
            self.refused(415, Content_Type=types)
        self.refused(415, Content_Encoding="gzip")
        for accept in (
            "application/json",
            "text/event-stream",
            "text/html",
            "application/json, text/event-stream;q=0",
            "",
        ):
            self.refused(406, Accept=accept)

    def test_types_that_are_right_in_another_spelling(self) -> None:
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
        body = wire.request(0, "initialize", params)
        for headers in (
            {"Content_Type": "application/JSON; charset=utf-8"},
            {"Accept": "*/*"},
            {"Accept": None},
            {"Accept": ["text/*", "application/*;q=0.5"]},
            {"Accept": "Text/Event-Stream,APPLICATION/json"},
        ):
            self.assertEqual(self.ask("POST", body, **headers).status, 200, headers)

    def test_what_is_no_message(self) -> None:
        for body, code in (
            (b"", wire.PARSE_ERROR),
            (b"{", wire.PARSE_ERROR),
            (b"[]", wire.INVALID_REQUEST),
            (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', wire.INVALID_REQUEST),
            (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', wire.INVALID_REQUEST),
        ):
            for version in (None, VERSION):
                answer = self.refused(400, body, MCP_Protocol_Version=version)
                self.assertEqual(self.code(answer), code)

    def test_a_message_has_a_limit(self) -> None:
        self.start(message=200)
        session = self.initialize()
        body = wire.request(1, "ping", {"x": ""})
        for size, status in ((200, 200), (201, 413)):
            padded = body.replace(b'""', b'"%b"' % (b"x" * (size - len(body))))
            answer = self.ask("POST", padded, Mcp_Session_Id=session)
            self.assertEqual(answer.status, status)

    def test_other_paths(self) -> None:
        for target in ("/mcp/x", "/mcp//", "/mcp/x/"):
            answer = self.ask("POST", wire.request(1, "ping", {}), target)
            self.assertEqual((answer.status, self.code(answer)), (404, wire.INVALID_REQUEST))

    def test_rebinding(self) -> None:
        for host in (
            "evil.example",
            "evil.example:8000",
            "127.0.0.1.evil.example",
            "localhost.",
            "[::2]",
        ):
            self.refused(421, Host=host)
        for origin in (
            "http://evil.example",
            "null",
            "file://",
            "http://localhost.evil.example:8000",
            ["http://localhost", "http://evil.example"],
        ):
            self.refused(403, Origin=origin)
        for headers in (
            {"Host": "localhost"},
            {"Host": "LOCALHOST:1"},
            {"Host": "[::1]:8000"},
            {"Host": HOST, "Origin": "http://localhost:6274"},
            {"Host": HOST, "Origin": "https://127.0.0.1"},
        ):
            self.initialize(**headers)

    def test_other_names_or_none_can_be_allowed(self) -> None:
        def named(*arguments: Any) -> McpResource:
            return McpResource(*arguments, hosts=["Door.example"])

        self.start(named)
        self.initialize(Host="door.example:443", Origin="https://door.example")
        self.refused(421, Host="localhost")

        def unguarded(*arguments: Any) -> McpResource:
            return McpResource(*arguments, hosts=None)

        self.start(unguarded)
        self.initialize(Host="anything", Origin="http://anywhere.example")
        for wrong in ("x:80", "http://x", "", "a b"):
            self.assertRaises(
                ValueError, McpResource, self.bench.server, self.bench.clock, hosts=[wrong]
            )

    def test_the_view_and_the_caller(self) -> None:
        def resource(*arguments: Any) -> McpResource:
            return McpResource(*arguments, views=("core", "all"))

        self.start(resource)
        body = self.stateless(1, "tools/call", name="add", arguments={"a": 1, "b": 2})
        more = {
            "MCP_Protocol_Version": VERSION,
            "Mcp_Method": "tools/call",
            "Mcp_Name": "add",
        }
        for target, view in (
            ("/mcp", None),
            ("/mcp?profile=core", "core"),
            ("/mcp/?profile=all", "all"),
        ):
            self.assertEqual(self.ask("POST", body, target, **more).status, 200)
            call = self.bench.calls.pop()
            self.assertEqual((call.caller, call.view), (None, view))
        for query in ("profile=nonsense", "profile=core&profile=all", "profile=%FF"):
            answer = self.ask("POST", body, f"/mcp?{query}", **more)
            self.assertEqual((answer.status, self.code(answer)), (400, wire.INVALID_REQUEST))

    def test_a_view_has_a_limit(self) -> None:
        for size, status in ((64, 200), (65, 400)):
            params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
            answer = self.ask(
                "POST", wire.request(0, "initialize", params), f"/mcp?profile={'x' * size}"
            )
            self.assertEqual(answer.status, status)

    def test_nothing_is_kept_by_caches(self) -> None:
        session = self.initialize()
        for answer in (
            self.ask("POST", wire.request(1, "ping", {}), Mcp_Session_Id=session),
            self.ask("POST", wire.notification("x"), Mcp_Session_Id=session),
            self.ask("POST", b""),
            self.ask("DELETE", Mcp_Session_Id=session),
        ):
            self.assertEqual(answer.headers["cache-control"], ["no-store"])
            self.assertEqual(answer.headers["x-content-type-options"], ["nosniff"])


class SlowReaderTests(Case):
    """A client that does not read what is sent to it."""

    def stream(self) -> Connection:
        session = self.initialize()
        connection = self.connect()
        connection.send(request("GET", "/mcp", None, self.headers(Mcp_Session_Id=session)))
        transport: Any = connection.transport
        transport.producer.pauseProducing()
        return connection

    def test_one_that_has_too_much_waiting_is_cut_off(self) -> None:
        self.start(backlog=3)
        connection = self.stream()
        transport: Any = connection.transport
        # The first is on its way already, and three wait.
        for number in range(4):
            self.assertFalse(transport.disconnected, number)
            self.bench.server.tools_changed()
            self.bench.clock.advance(1)
        self.assertFalse(transport.disconnected)
        self.bench.server.tools_changed()
        self.assertTrue(transport.disconnected)

    def test_one_that_does_not_go_on_is_cut_off(self) -> None:
        connection = self.stream()
        transport: Any = connection.transport
        self.bench.server.tools_changed()
        self.bench.clock.advance(59)
        self.assertFalse(transport.disconnected)
        self.bench.clock.advance(2)
        self.assertTrue(transport.disconnected)
        connection.lose()
        self.assertEqual(self.bench.server.sessions, 1)

    def test_one_that_reads_again_gets_all(self) -> None:
        connection = self.stream()
        for _ in range(3):
            self.bench.server.tools_changed()
            self.bench.clock.advance(1)
        transport: Any = connection.transport
        transport.producer.resumeProducing()
        self.assertEqual(len(self.events(connection)), 3)


class MountTests(Case):
    """Not only behind our own site."""

    def speak(self, site: Site) -> None:
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
        transport = StringTransport()
        channel = site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1))
        channel.makeConnection(transport)
        body = wire.request(0, "initialize", params)
        channel.dataReceived(request("POST", "/mcp", body, self.headers()))
        (answer,) = read_answers(transport.value(), ["POST"])
        self.assertEqual(answer.status, 200)
        (session,) = answer.headers["mcp-session-id"]
        transport.clear()
        body = wire.request(1, "tools/call", {"name": "steps", "_meta": {"progressToken": 1}})
        channel.dataReceived(request("POST", "/mcp", body, self.headers(Mcp_Session_Id=session)))
        self.assertEqual(transport.value().count(b"data: "), 4)
        self.assertTrue(transport.value().endswith(b"0\r\n\r\n"))
        channel.connectionLost(Failure(ConnectionDone()))

    def test_a_plain_site(self) -> None:
        root = Resource()
        root.putChild(b"mcp", McpResource(self.bench.server, self.bench.clock))
        self.speak(Site(root, reactor=self.bench.clock))

    def test_klein(self) -> None:
        app = Klein()
        resource = McpResource(self.bench.server, self.bench.clock)

        @app.route("/mcp", branch=True)
        def mcp(request: Any) -> Any:
            return resource

        self.speak(Site(app.resource(), reactor=self.bench.clock))


SOMETHING = st.sampled_from(
    [
        "2025-11-25",
        "2025-03-26",
        VERSION,
        "2099-01-01",
        "",
        "x" * 300,
        "tools/list",
        "tools/call",
        "add",
        "=?base64?YWRk?=",
        "=?base64?%?=",
        "application/json",
        "text/event-stream",
        "*/*;q=0",
        HOST,
        "evil.example",
        "\xff",
    ]
)
NAMES = st.sampled_from(
    [
        "MCP-Protocol-Version",
        "Mcp-Method",
        "Mcp-Name",
        "Mcp-Session-Id",
        "Accept",
        "Origin",
        "Content-Type",
    ]
)
HEADERS = st.dictionaries(NAMES, SOMETHING | st.lists(SOMETHING, max_size=2), max_size=4)
METHODS = st.sampled_from(
    [
        "initialize",
        "ping",
        "tools/list",
        "tools/call",
        "resources/read",
        "resources/subscribe",
        "prompts/get",
        "completion/complete",
        "server/discover",
        "subscriptions/listen",
        "logging/setLevel",
        "notifications/cancelled",
        "nonsense",
    ]
)
JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | SOMETHING.map(repr),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
FIELDS = st.sampled_from(
    ["name", "arguments", "uri", "cursor", "level", "notifications", "ref", "argument", "_meta"]
)
PARAMS = st.dictionaries(FIELDS, JUNK | SOMETHING, max_size=4)


class HostileTests(Case):
    """Whatever is sent, the answer is one of HTTP's and of JSON-RPC's, and never 500."""

    def send(self, method: str, body: bytes | None, headers: dict[str, Any]) -> None:
        connection = self.connect()
        connection.send(request(method, "/mcp", body, self.headers() | headers))
        text = connection.transport.value()
        if text:
            status, answered, content = self.head(connection)
            self.assertIn(status, (200, 202, 204, 400, 403, 404, 405, 406, 409, 413, 415, 421))
            if answered.get("content-type") == "application/json":
                self.assertEqual(json.loads(content)["jsonrpc"], "2.0")
        connection.lose()
        self.assertEqual(self.flushLoggedErrors(ZeroDivisionError), [])

    @given(
        st.sampled_from(["POST", "GET", "DELETE"]),
        st.binary(max_size=40) | JUNK.map(json.dumps).map(str.encode),
        HEADERS,
    )
    def test_garbage(self, method: str, body: bytes, headers: dict[str, Any]) -> None:
        self.send(method, body if method == "POST" else None, headers)

    @given(METHODS, PARAMS, HEADERS, st.booleans(), st.booleans())
    def test_requests_that_make_no_sense(
        self,
        method: str,
        params: dict[str, Any],
        headers: dict[str, Any],
        stateless: bool,
        in_session: bool,
    ) -> None:
        if in_session:
            headers["Mcp-Session-Id"] = self.initialize()
        if stateless:
            body = self.stateless(7, method, **params) if "_meta" not in params else b"{}"
            headers |= {"MCP-Protocol-Version": VERSION, "Mcp-Method": method}
            if method in wire.NAMED_BY:
                headers["Mcp-Name"] = str(params.get(wire.NAMED_BY[method]))
        else:
            body = wire.request(7, method, params)
        self.send("POST", body, headers)
