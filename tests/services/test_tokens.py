"""
The tokens of a whole node's door: made, used, revoked, replaced, through the door itself.
"""

from __future__ import annotations

import re
from typing import Any

from twisted.logger import globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from meshkit.services.tokens import ADD
from meshkit.testing.doors import DoorCall
from meshkit.testing.nodes import Answer, MemoryMesh, MemoryNode
from meshkit.web.callers import Caller
from meshkit.web.limits import OVER_SECONDS
from meshkit.web.mcp.server import RETIRE_SECONDS, Server
from tests.web.agent import Agent


def shown(token: str | None) -> dict[str, str]:
    """The header that shows a token; the owner's, if it is none."""
    return {} if token is None else {"Authorization": f"Bearer {token}"}


class Case(SynchronousTestCase):
    config = ""

    def setUp(self) -> None:
        self.mesh = MemoryMesh()
        self.node: MemoryNode = self.mesh.node("ada", self.config)
        self.node.start()

    def tearDown(self) -> None:
        self.mesh.stop()
        self.mesh.run(OVER_SECONDS)
        self.assertEqual(self.mesh.clock.getDelayedCalls(), [])

    def ok(self, method: str, target: str, body: Any = None, token: str | None = None) -> Any:
        answer = self.ask(method, target, body, token)
        self.assertLess(answer.status, 300, answer.body)
        return answer.json["data"] if answer.body else None

    def ask(self, method: str, target: str, body: Any = None, token: str | None = None) -> Answer:
        return self.node.ask(method, target, body, **shown(token))

    def refused(self, *asked: Any, **more: Any) -> tuple[int, str | None]:
        answer = self.ask(*asked, **more)
        return answer.status, answer.code

    def add(self, name: str, *scopes: str, **more: Any) -> str:
        added = self.ok("POST", "/v1/tokens", {"name": name, "scopes": scopes or ("read",), **more})
        token = added["token"]
        assert isinstance(token, str)
        return token

    def opens(self, token: str | None) -> bool:
        answer = self.ask("GET", "/v1/identity", token=token)
        self.assertIn(answer.status, (200, 401))
        return answer.status == 200

    @property
    def owners(self) -> str:
        return self.node.files.content["/ada/door.token"].decode().strip()


class TokensTests(Case):
    def test_a_token_is_good_for_its_scopes_and_nothing_else(self) -> None:
        token = self.add("agent", "read:node_*", "write:feed_publish")
        self.ok("GET", "/v1/status", token=token)
        self.ok("POST", "/v1/publish", {"content": {"type": "note"}}, token=token)
        for asked in (
            ("GET", "/v1/peers"),
            ("POST", "/v1/peers", {"address": self.node.address}),
            ("GET", "/v1/tokens"),
            ("POST", "/v1/tokens", {"name": "x", "scopes": ["read"]}),
            ("DELETE", "/v1/tokens/agent"),
            ("POST", "/v1/tokens/rotate", {}),
        ):
            self.assertEqual(self.refused(*asked, token=token), (403, "PERMISSION_DENIED"))
        answer = self.ask("GET", "/v1/peers", token=token)
        self.assertEqual(answer.json["error"]["details"], {"scope": "read:peers_list"})

    def test_what_is_shown_of_it(self) -> None:
        self.mesh.run(0.5)
        added = self.ok(
            "POST",
            "/v1/tokens",
            {"name": "agent", "scopes": ["read", "write:feed_*", "read"], "expires_secs": 86400},
        )
        token = added.pop("token")
        self.assertEqual(added["id"], token.split("_")[1])
        self.assertEqual(added["scopes"], ["read", "write:feed_*"])
        self.assertEqual((added["state"], added["last_used"]), ("good", None))
        self.assertTrue(added["created"].startswith("2026-01-01T00:00:00."))
        self.assertTrue(added["expires"].startswith("2026-01-02T00:00:00."))
        self.assertEqual(self.ok("GET", "/v1/tokens"), [added])
        self.assertTrue(self.opens(token))
        (listed,) = self.ok("GET", "/v1/tokens")
        self.assertTrue(listed["last_used"].startswith("2026-01-01T00:00:00."))
        self.assertNotIn("token", listed)

    def test_they_survive_a_restart(self) -> None:
        token, gone = self.add("a"), self.add("b")
        self.ok("DELETE", "/v1/tokens/b")
        self.node.stop()
        self.node.start()
        self.assertEqual((self.opens(token), self.opens(gone)), (True, False))
        self.assertEqual([each["name"] for each in self.ok("GET", "/v1/tokens")], ["a"])

    def test_while_the_node_starts_a_token_is_not_taken_for_a_wrong_one(self) -> None:
        token = self.add("a")
        self.node.stop()
        service = self.node.make()
        service.privilegedStartService()
        self.assertEqual(self.refused("GET", "/v1/status", token=token), (503, "NOT_READY"))
        service.startService()
        self.mesh.run(1)
        self.assertTrue(self.opens(token))

    def test_all_that_is_no_good_token_is_answered_alike(self) -> None:
        good, revoked = self.add("good"), self.add("revoked")
        expired = self.add("expired", expires_secs=10)
        self.ok("DELETE", "/v1/tokens/revoked")
        self.mesh.run(11)
        bodies = set()
        for token in (revoked, expired, good[:-1], good[:21] + revoked[21:], "x", "mkt_"):
            answer = self.ask("GET", "/v1/status", token=token)
            self.assertEqual(answer.status, 401)
            bodies.add(answer.body)
        self.assertEqual(len(bodies), 1)
        states = {each["name"]: each["state"] for each in self.ok("GET", "/v1/tokens")}
        self.assertEqual(states, {"expired": "expired", "good": "good"})

    def test_what_cannot_be_made(self) -> None:
        for body in (
            {"name": "a", "scopes": []},
            {"name": "a", "scopes": ["everything"]},
            {"name": "a", "scopes": ["read", "write:Feed"]},
            {"name": "a b", "scopes": ["read"]},
            {"name": "owner", "scopes": ["read"]},
            {"name": "a", "scopes": ["read"], "expires_secs": 0},
            {"name": "a", "scopes": ["read"] * 65},
            {"name": "a", "scopes": ["read:" + "x" * 200]},
        ):
            self.assertEqual(self.refused("POST", "/v1/tokens", body), (400, "INVALID_REQUEST"))
        self.add("a")
        body = {"name": "a", "scopes": ["read"]}
        self.assertEqual(self.refused("POST", "/v1/tokens", body), (409, "TOKEN_EXISTS"))
        self.assertEqual(self.refused("DELETE", "/v1/tokens/b"), (404, "NOT_FOUND"))

    def test_no_scope_is_a_way_to_all_others(self) -> None:
        for scope in (f"admin:{ADD.name}", "admin:tokens_*", "admin:t*", "admin:tokens_a*"):
            body = {"name": "a", "scopes": ["read", scope]}
            answer = self.ask("POST", "/v1/tokens", body)
            self.assertEqual((answer.status, answer.code), (400, "INVALID_REQUEST"), scope)
            self.assertIn("admin", answer.json["error"]["message"])
        lister = self.add("lister", "admin:tokens_list", "admin:peers_*", "write:tokens_*")
        self.ok("GET", "/v1/tokens", token=lister)
        body = {"name": "b", "scopes": ["read"]}
        self.assertEqual(self.refused("POST", "/v1/tokens", body, token=lister)[0], 403)
        admin = self.add("admin", "admin")
        self.ok("POST", "/v1/tokens", body, token=admin)

    def test_a_token_may_revoke_itself_and_is_answered(self) -> None:
        token = self.add("admin", "admin")
        self.ok("DELETE", "/v1/tokens/admin", token=token)
        self.assertFalse(self.opens(token))

    def test_open_streams_end_with_their_token(self) -> None:
        token, other = self.add("a"), self.add("b", expires_secs=60)
        streams = {
            name: self.node.call("GET", "/v1/events", **shown(each))
            for name, each in (("a", token), ("b", other), ("owner", None))
        }
        self.mesh.run(1)
        for stream in streams.values():
            self.assertIn(b"text/event-stream", stream.received)
        self.ok("DELETE", "/v1/tokens/a")
        self.mesh.run(0.1)
        self.assertEqual([s.ended for s in streams.values()], [True, False, False])
        self.mesh.run(59)
        self.assertEqual([s.ended for s in streams.values()], [True, True, False])
        old = self.owners
        self.ok("POST", "/v1/tokens/rotate", {})
        self.mesh.run(0.1)
        self.assertTrue(streams["owner"].ended)
        self.assertFalse(self.opens(old))

    def test_the_owners_token_is_replaced(self) -> None:
        old, token = self.owners, self.add("a")
        answer = self.ask("POST", "/v1/tokens/rotate", {})
        self.assertEqual((answer.status, answer.body), (204, b""))
        new = self.owners
        self.assertRegex(new, r"\A[0-9a-f]{64}\Z")
        self.assertNotEqual(new, old)
        self.assertEqual(self.node.files.modes["/ada/door.token"], 0o600)
        self.assertEqual([self.opens(each) for each in (old, new, token)], [False, True, True])
        self.node.stop()
        self.node.start()
        self.assertEqual([self.opens(each) for each in (old, new, token)], [False, True, True])

    def test_two_rotations_at_the_same_moment_leave_file_and_door_alike(self) -> None:
        calls = [self.node.call("POST", "/v1/tokens/rotate", {}) for _ in range(2)]
        self.mesh.run(1)
        # The first one ends the token that the second one came with.
        self.assertIn(b" 204 ", calls[0].received)
        self.assertTrue(self.opens(None))

    def test_a_disk_that_refuses_leaves_the_old_one(self) -> None:
        def refuse(*_: object) -> None:
            raise OSError(28, "No space left on device", "/ada/door.token")

        refusing = self.patch(self.node.files, "write_atomic", refuse)
        answer = self.ask("POST", "/v1/tokens/rotate", {})
        self.assertEqual((answer.status, answer.code), (507, "STORAGE_FAILED"))
        self.assertIn("No space left", answer.json["error"]["message"])
        self.assertTrue(self.opens(None))
        refusing.restore()
        self.ok("POST", "/v1/tokens/rotate", {})
        self.assertTrue(self.opens(None))

    def test_no_secret_is_in_the_log_or_on_the_disk(self) -> None:
        events: list[Any] = []
        observer: Any = events.append
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        token, gone = self.add("a"), self.add("b")
        self.opens(token)
        self.opens(token[:-1])
        self.ok("DELETE", "/v1/tokens/b")
        self.ok("POST", "/v1/tokens/rotate", {})
        self.node.stop()
        self.node.start()
        files = {k: v for k, v in self.node.files.content.items() if k != "/ada/door.token"}
        reader = self.node.database_file.open_reader()
        kept = "".join(reader.iterdump())
        reader.close()
        self.assertIn("node_tokens", kept)
        for text in (repr(events), repr(files), kept):
            for secret in (token, gone, self.owners):
                self.assertNotIn(secret[-40:], text)
                self.assertNotIn(secret[-40:].upper(), text)


class RateTests(Case):
    config = "api_rate = 2\napi_owner_rate = 3\n"

    def test_the_settings_are_those_of_the_door(self) -> None:
        token = self.add("a")
        for each, granted in ((token, 20), (None, 30)):
            self.mesh.run(60)
            codes = [self.ask("GET", "/v1/identity", token=each).status for _ in range(40)]
            first = codes.index(429)
            # A little virtual time passes with each.
            self.assertTrue(granted <= first <= granted + 1, (granted, first))


class AgentTests(Case):
    """Clients that speak MCP go with their token like all others, over any binding."""

    config = "api_rate = 1\n"

    def caller(self, token: str) -> Caller:
        door = self.node.service._door
        assert door is not None
        found = door._guard._tokens(token.encode())
        assert found is not None
        return found

    @property
    def server(self) -> Server:
        door = self.node.service._door
        assert door is not None
        return door.agents.server

    def agent(self, token: str) -> Agent:
        return Agent(
            self.server,
            self.caller(token),
            None,
            lambda ready: self.mesh.until(ready, "an answer"),
        )

    def post(self, token: str, message: dict[str, Any], **headers: str) -> DoorCall:
        accept = "application/json, text/event-stream"
        body = {"jsonrpc": "2.0", **message}
        call = self.node.call("POST", "/mcp", body, Accept=accept, **shown(token), **headers)
        self.mesh.run(0.1)
        return call

    def initialize(self, token: str) -> str:
        """@return: the id of a session over HTTP."""
        params = {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        }
        call = self.post(token, {"id": 1, "method": "initialize", "params": params})
        (found,) = re.findall(rb"(?i)\r\nmcp-session-id: ([^\r]+)\r\n", call.received)
        return str(found.decode("ascii"))

    def test_it_is_shown_what_its_token_may_do_and_no_more(self) -> None:
        agent = self.agent(self.add("a", "read:node_*", "write:feed_publish"))
        everybodys = {"node_health", "node_ready", "operations_list"}
        self.assertEqual(
            set(agent.tools()), {"feed_publish", "node_identity", "node_status", *everybodys}
        )

    def test_a_connection_ends_with_its_token(self) -> None:
        token, other = self.add("a"), self.add("b")
        agent, others = self.agent(token), self.agent(other)
        self.ok("DELETE", "/v1/tokens/a")
        self.assertTrue(agent.session.closed)
        self.assertFalse(others.session.closed)
        self.assertEqual(self.server.sessions, 1)
        others.session.close()
        self.assertEqual(self.caller(other)._standing.watchers, {})

    def test_a_call_that_is_under_way_ends_with_its_token(self) -> None:
        agent = self.agent(self.add("a"))
        agent.begin("tools/call", '{"name": "feed_events", "arguments": {"wait_seconds": 50}}')
        self.mesh.run(1)
        self.assertEqual(self.server.calls, 1)
        self.ok("DELETE", "/v1/tokens/a")
        self.mesh.run(RETIRE_SECONDS)
        self.assertEqual(self.server.calls, 0)

    def test_who_revokes_the_token_that_he_asks_with_is_answered_as_a_tool(self) -> None:
        agent = self.agent(self.add("a", "admin"))
        id = agent.begin("tools/call", '{"name": "tokens_remove", "arguments": {"name": "a"}}')
        self.mesh.run(1)
        self.assertIn("result", agent.answer(id))
        self.mesh.run(RETIRE_SECONDS)
        self.assertTrue(agent.session.closed)

    def test_a_session_over_http_ends_with_its_token(self) -> None:
        token, other = self.add("a", expires_secs=60), self.add("b")
        session = self.initialize(token)
        stream = self.node.call(
            "GET", "/mcp", Accept="text/event-stream", Mcp_Session_Id=session, **shown(token)
        )
        self.mesh.run(0.1)
        self.assertIn(b" 200 ", stream.received)
        # It is nobody else's, the owner's included.
        ping = {"id": 2, "method": "ping"}
        for each in (other, self.owners):
            self.assertIn(b" 404 ", self.post(each, ping, Mcp_Session_Id=session).received)
        self.assertIn(b" 200 ", self.post(token, ping, Mcp_Session_Id=session).received)
        self.assertFalse(stream.ended)
        self.mesh.run(60)
        self.assertTrue(stream.ended)
        self.assertEqual(self.server.sessions, 0)
        self.assertIn(b" 401 ", self.post(token, ping, Mcp_Session_Id=session).received)

    def test_each_request_is_paid_for_over_a_connection_of_its_own_too(self) -> None:
        agent = self.agent(self.add("a"))
        answers = [agent.ask("ping") for _ in range(20)]
        refused = ["error" in answer for answer in answers]
        # One was paid for to begin, and a little time passes with each.
        self.assertIn(refused.index(True), (9, 10))
        message = answers[-1]
        self.assertEqual(message["error"]["code"], -32000)
        self.assertIn("[RATE_LIMITED]", message["error"]["message"])
        self.mesh.run(message["error"]["data"]["retry_after"])
        self.assertIn("result", agent.ask("ping"))
        agent.session.close()


class WarningTests(Case):
    def test_a_scope_for_nothing_is_made_with_a_warning(self) -> None:
        body = {"name": "a", "scopes": ["read", "write:feed_pubish", "read:node_*", "read:x*"]}
        answer = self.ask("POST", "/v1/tokens", body)
        self.assertEqual(answer.status, 201)
        warnings = answer.json["metadata"]["warnings"]
        self.assertEqual([text.split(" is for ")[0] for text in warnings], [
            "the scope write:feed_pubish", "the scope read:x*",
        ])  # fmt: skip
        self.assertTrue(self.opens(answer.json["data"]["token"]))
        body = {"name": "b", "scopes": ["read", "write", "admin", "read:operations_list"]}
        self.assertNotIn("metadata", self.ask("POST", "/v1/tokens", body).json)

    def test_the_log_is_told_of_the_owners_new_token(self) -> None:
        told: list[str] = []
        self.node.stop()
        service = self.node.make()
        service._keep_secret = told.append
        service.startService()
        self.mesh.run(1)
        first = self.owners
        self.ok("POST", "/v1/tokens/rotate", {})
        self.assertIn(first, told)
        self.assertEqual(told[-1], self.owners)
