"""Sessions: cancelling, subscriptions, the limits of what one client can have, and the end."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from meshkit.web.mcp import (
    Call,
    MemoryClient,
    Resource,
    Tool,
    ToolResult,
    connect,
    text_result,
    wire,
)
from tests.web.mcp.support import ANYTHING, Bench, Case


class CancelTests(Case):
    def test_a_call_that_is_cancelled_is_not_answered_and_its_deferred_is_cancelled(self) -> None:
        for client in self.both():
            for count, tool in enumerate(("wait", "wait_awaited"), 1):
                self.bench.cancelled = 0
                d = client.call(tool)
                sent = len(client.sent)
                client.cancel(client.last_id)
                self.assertNoResult(d)
                self.assertEqual(len(client.sent), sent, count)
                self.assertEqual(self.bench.cancelled, 1)
                self.assertEqual(self.bench.server.calls, 0)
                # Once more does no harm, nor does the id that is free again.
                client.cancel(client.last_id)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_other_calls_go_on(self) -> None:
        client = self.client()
        client.call("wait")
        first = client.last_id
        other = client.call("wait")
        client.cancel(first)
        self.bench.waiting[1].callback(text_result("here"))
        self.successResultOf(other)

    def test_what_a_cancelled_handler_gives_all_the_same_is_dropped(self) -> None:
        deaf: list[Deferred[Any]] = []

        def hard_of_hearing(arguments: Any, call: Call) -> Deferred[Any]:
            deaf.append(Deferred(lambda d: d.callback(text_result("never mind"))))
            return deaf[-1]

        self.bench.server.add_tool(Tool("deaf", "", ANYTHING, hard_of_hearing))
        for client in self.both():
            d = client.call("deaf")
            client.cancel(client.last_id)
            self.assertNoResult(d)
            self.assertEqual(self.bench.server.calls, 0)

    def test_a_cancelled_handler_that_breaks_is_logged(self) -> None:
        def breaks(_: Any) -> None:
            raise ZeroDivisionError("while it was cancelled")

        async def fragile(arguments: Any, call: Call) -> ToolResult:
            try:
                await Deferred()
            finally:
                breaks(None)
            raise AssertionError("not reached")

        self.bench.server.add_tool(Tool("fragile", "", ANYTHING, fragile))
        client = self.client()
        client.call("fragile")
        client.cancel(client.last_id)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(self.bench.server.calls, 0)

    def test_reading_and_prompts_can_be_cancelled(self) -> None:
        for client in self.both():
            client.request("resources/read", {"uri": "test://wait"})
            client.cancel(client.last_id)
        self.assertEqual(self.bench.cancelled, 2)

    def test_cancelling_what_is_not_there_or_no_id_is_nothing(self) -> None:
        for client in self.both():
            sent = len(client.sent)
            for params in ({"requestId": 99}, {"requestId": "x"}, {"requestId": []}, {}):
                client.notify("notifications/cancelled", params)
            client.notify("notifications/nonsense", {"a": 1})
            client.notify("notifications/progress", {"progressToken": 1, "progress": 1})
            self.assertEqual(len(client.sent), sent)

    def test_a_client_that_goes_cancels_all(self) -> None:
        for client in self.both():
            client.call("wait")
            client.call("wait_awaited")
            client.close()
            client.close()
            self.assertTrue(client.closed)
            self.assertEqual(self.bench.server.calls, 0)
        self.assertEqual(self.bench.cancelled, 4)
        self.assertEqual(self.bench.server.sessions, 0)
        self.assertEqual(len(self.bench.server.announcer), 0)

    def test_after_the_end_nothing_is_taken_or_sent(self) -> None:
        client = self.client()
        d = client.call("wait")
        client.close()
        sent = len(client.sent)
        client.request("ping")
        self.bench.server.tools_changed()
        self.assertEqual(len(client.sent), sent)
        self.assertNoResult(d)

    def test_a_client_that_is_cut_off_by_its_own_call_is_cancelled(self) -> None:
        """The handler is not yet known to be cancelled when the session closes."""

        def cut(arguments: Any, call: Call) -> Any:
            call.session.close()
            return self.bench.wait(arguments, call)

        self.bench.server.add_tool(Tool("cut", "", ANYTHING, cut))
        client = self.client()
        client.call("cut")
        self.assertEqual(self.bench.cancelled, 1)
        self.assertEqual(self.bench.server.calls, 0)


class LimitTests(Case):
    def test_a_message_has_a_limit(self) -> None:
        self.limited(message=100)
        client = connect(self.bench.server)
        body = wire.request(1, "ping", {"x": ""})
        for size, code in ((100, None), (101, wire.INVALID_REQUEST)):
            client.session.receive(body.replace(b'""', b'"%b"' % (b"x" * (size - len(body)))))
            answer = json.loads(client.sent[-1])
            self.assertEqual(answer.get("error", {}).get("code"), code)

    def test_nesting_has_a_limit(self) -> None:
        self.limited(nesting=5)
        client = connect(self.bench.server)
        for value, code in (([[[]]], None), ([[[[]]]], wire.INVALID_REQUEST)):
            client.session.receive(wire.request(1, "ping", {"x": value}))
            self.assertEqual(json.loads(client.sent[-1]).get("error", {}).get("code"), code)

    def test_calls_of_one_client_have_a_limit(self) -> None:
        self.limited(session_calls=2)
        for client in self.both():
            self.bench.waiting.clear()
            first, second = client.call("wait"), client.call("wait")
            error = self.refused(client.call("add", {"a": 1, "b": 1}))
            self.assertEqual(error.rpc_code, wire.BUSY)
            client.tools()
            self.bench.waiting[0].callback(text_result("here"))
            self.successResultOf(first)
            self.successResultOf(client.call("add", {"a": 1, "b": 1}))
            self.assertNoResult(second)
            client.close()

    def test_calls_in_all_have_a_limit(self) -> None:
        self.limited(calls=2)
        one, other = self.client(), self.client(stateless=True)
        one.call("wait")
        other.call("wait")
        for client in (one, other):
            self.assertEqual(self.refused(client.call("add", {"a": 1, "b": 1})).rpc_code, wire.BUSY)
        one.close()
        self.successResultOf(other.call("add", {"a": 1, "b": 1}))

    def test_two_requests_under_way_cannot_have_one_id(self) -> None:
        client = self.client()
        client.session.receive(wire.request(77, "tools/call", {"name": "wait"}))
        for id, taken in ((77, True), ("77", False)):
            client.session.receive(
                wire.request(id, "tools/call", {"name": "add", "arguments": {"a": 1, "b": 1}})
            )
            answer = json.loads(client.sent[-1])
            self.assertEqual(answer["id"], id)
            self.assertEqual("error" in answer, taken)
        self.assertEqual(self.bench.cancelled, 0)
        # It is the first that is under way, and can be cancelled.
        client.cancel(77)
        self.assertEqual(self.bench.cancelled, 1)

    def test_subscriptions_have_a_limit(self) -> None:
        self.limited(subscriptions=2)
        client = self.client()
        for uri, fits in (
            ("test://text", True),
            ("test://bytes", True),
            ("test://text", True),
            ("test://two", False),
        ):
            d = client.request("resources/subscribe", {"uri": uri})
            if fits:
                self.assertEqual(self.successResultOf(d), {})
            else:
                self.assertEqual(self.refused(d).rpc_code, wire.BUSY)
        self.successResultOf(client.request("resources/unsubscribe", {"uri": "test://text"}))
        self.successResultOf(client.request("resources/subscribe", {"uri": "test://two"}))

    def test_the_uri_of_a_subscription_has_a_limit(self) -> None:
        self.limited(uri=40)
        old, new = self.both()
        for size, fits in ((40, True), (41, False)):
            uri = f"test://a/{'x' * (size - 13)}/end"
            self.assertEqual(len(uri), size)
            for d in (
                old.request("resources/subscribe", {"uri": uri}),
                new.request(
                    "subscriptions/listen", {"notifications": {"resourceSubscriptions": [uri]}}
                ),
            ):
                if not fits:
                    self.assertEqual(self.refused(d).rpc_code, wire.INVALID_PARAMS)
                elif d.called:
                    self.assertEqual(self.successResultOf(d), {})
        self.assertEqual(len(new.notifications), 1)

    def test_listeners_have_limits(self) -> None:
        self.limited(session_listens=2, listens=3, subscriptions=2)
        one, other = self.client(stateless=True), self.client(stateless=True)

        def listen(client: MemoryClient, **wanted: Any) -> Any:
            return client.request("subscriptions/listen", {"notifications": wanted})

        uris = ["a:", "b:"]
        self.assertNoResult(listen(one, resourceSubscriptions=uris))
        error = self.refused(listen(one, resourceSubscriptions=[*uris, "c:"]))
        self.assertEqual(error.rpc_code, wire.INVALID_PARAMS)
        self.assertNoResult(listen(one))
        self.assertEqual(self.refused(listen(one)).rpc_code, wire.BUSY)
        self.assertNoResult(listen(other))
        self.assertEqual(self.refused(listen(other)).rpc_code, wire.BUSY)
        one.cancel(one.last_id - 1)
        self.assertNoResult(listen(other))
        one.close()
        self.assertNoResult(listen(self.client(stateless=True)))


class ChangeTests(Case):
    def told(self, client: MemoryClient) -> list[str]:
        methods = [each["method"] for each in client.notifications]
        client.notifications.clear()
        return methods

    def listening(self, **wanted: Any) -> MemoryClient:
        client = self.client(stateless=True)
        self.assertNoResult(client.request("subscriptions/listen", {"notifications": wanted}))
        self.assertEqual(self.told(client), ["notifications/subscriptions/acknowledged"])
        return client

    def test_a_change_is_told_at_once_to_every_client_that_has_introduced_itself(self) -> None:
        early = connect(self.bench.server)
        old = self.client()
        new = self.listening(toolsListChanged=True)
        self.bench.server.tools_changed()
        self.assertEqual(self.told(early), [])
        for client in (old, new):
            self.assertEqual(self.told(client), ["notifications/tools/list_changed"])

    def test_what_follows_is_told_once_at_the_end_of_the_quiet_time(self) -> None:
        clock = self.bench.clock
        clients = [self.client(), self.listening(toolsListChanged=True)]
        change = ["notifications/tools/list_changed"]
        for _ in range(5):
            self.bench.server.tools_changed()
            clock.advance(0.1)
        for client in clients:
            self.assertEqual(self.told(client), change)
        clock.advance(0.4)
        for client in clients:
            self.assertEqual(self.told(client), [])
        clock.advance(0.2)
        for client in clients:
            self.assertEqual(self.told(client), change)
        # Quiet again, from this one on.
        self.bench.server.tools_changed()
        clock.advance(0.9)
        for client in clients:
            self.assertEqual(self.told(client), [])
        clock.advance(0.2)
        for client in clients:
            self.assertEqual(self.told(client), change)
        clock.advance(1.0)
        self.assertEqual(clock.getDelayedCalls(), [])
        self.bench.server.tools_changed()
        for client in clients:
            self.assertEqual(self.told(client), change)

    def test_each_list_has_its_own_quiet_time(self) -> None:
        client = self.client()
        server = self.bench.server
        server.tools_changed()
        server.prompts_changed()
        server.resources_changed()
        self.assertEqual(
            self.told(client),
            [f"notifications/{name}/list_changed" for name in ("tools", "prompts", "resources")],
        )

    def test_nobody_is_told_what_they_did_not_ask_for(self) -> None:
        clients = {
            name: self.listening(**{name: True})
            for name in ("toolsListChanged", "promptsListChanged", "resourcesListChanged")
        }
        nothing = self.listening(toolsListChanged=False, nonsense=True)
        server = self.bench.server
        server.tools_changed()
        server.prompts_changed()
        server.resources_changed()
        for name, client in clients.items():
            kind = name.removesuffix("ListChanged")
            self.assertEqual(self.told(client), [f"notifications/{kind}/list_changed"])
        self.assertEqual(self.told(nothing), [])

    def test_what_is_told_to_a_listener_has_its_id(self) -> None:
        client = self.client(stateless=True)
        wanted = {
            "toolsListChanged": True,
            "promptsListChanged": False,
            "resourceSubscriptions": ["test://text"],
        }
        client.request("subscriptions/listen", {"notifications": wanted})
        id = client.last_id
        self.bench.server.tools_changed()
        self.bench.server.resource_updated("test://text")
        meta = {wire.META_SUBSCRIPTION: id}
        self.assertEqual(
            [each["params"] for each in client.notifications],
            [
                {
                    "notifications": {
                        "toolsListChanged": True,
                        "resourceSubscriptions": ["test://text"],
                    },
                    "_meta": meta,
                },
                {"_meta": meta},
                {"uri": "test://text", "_meta": meta},
            ],
        )

    def test_a_listener_can_stop(self) -> None:
        client = self.listening(toolsListChanged=True)
        client.cancel(client.last_id)
        self.bench.server.tools_changed()
        self.assertEqual(self.told(client), [])
        self.assertEqual(self.bench.clock.getDelayedCalls(), [])

    def test_what_a_listener_asks_for_has_to_make_sense(self) -> None:
        client = self.client(stateless=True)
        for params in (
            {},
            {"notifications": []},
            {"notifications": {"resourceSubscriptions": "x"}},
            {"notifications": {"resourceSubscriptions": [7]}},
        ):
            error = self.refused(client.request("subscriptions/listen", params))
            self.assertEqual(error.rpc_code, wire.INVALID_PARAMS)

    def test_updates_go_to_those_who_subscribed(self) -> None:
        one, other = self.client(), self.client()
        self.successResultOf(one.request("resources/subscribe", {"uri": "test://text"}))
        self.refused(one.request("resources/subscribe", {"uri": "test://nowhere"}))
        self.bench.server.resource_updated("test://text")
        self.bench.server.resource_updated("test://bytes")
        self.assertEqual(
            one.notifications,
            [
                {
                    "jsonrpc": "2.0",
                    "method": "notifications/resources/updated",
                    "params": {"uri": "test://text"},
                }
            ],
        )
        self.assertEqual(self.told(other), [])
        self.successResultOf(one.request("resources/unsubscribe", {"uri": "test://text"}))
        self.successResultOf(one.request("resources/unsubscribe", {"uri": "test://text"}))
        one.notifications.clear()
        self.bench.clock.advance(5)
        self.bench.server.resource_updated("test://text")
        self.assertEqual(self.told(one), [])

    def test_what_nobody_wants_to_hear_of_is_not_remembered(self) -> None:
        self.client()
        for number in range(1000):
            self.bench.server.resource_updated(f"test://{number}")
        self.assertEqual(self.bench.clock.getDelayedCalls(), [])

    def test_a_client_that_is_closed_by_what_another_is_told_is_told_nothing(self) -> None:
        other: list[MemoryClient] = []
        first = self.bench.server.session(lambda text: other[0].close(), None)
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
        second = connect(self.bench.server)
        other.append(connect(self.bench.server))
        first.receive(wire.request(1, "initialize", params))
        other[:] = [second]
        second.initialize()
        sent = len(second.sent)
        self.bench.server.tools_changed()
        self.assertEqual(len(second.sent), sent)


class StopTests(Case):
    def test_listeners_get_a_result_and_calls_are_cancelled(self) -> None:
        new, old = self.client(stateless=True), self.client()
        listening = new.request(
            "subscriptions/listen", {"notifications": {"toolsListChanged": True}}
        )
        id = new.last_id
        waiting = old.call("wait")
        self.bench.server.tools_changed()
        self.bench.server.tools_changed()
        self.bench.server.stop()
        result = self.successResultOf(listening)
        self.assertEqual(result["resultType"], "complete")
        self.assertEqual(result["_meta"][wire.META_SUBSCRIPTION], id)
        self.assertNoResult(waiting)
        self.assertEqual(self.bench.cancelled, 1)
        self.assertTrue(old.closed and new.closed)
        self.assertEqual(self.bench.server.sessions, 0)
        self.assertEqual(self.bench.clock.getDelayedCalls(), [])

    def test_after_that_nothing_begins(self) -> None:
        self.bench.server.stop()
        for client in self.both():
            error = self.refused(client.call("add", {"a": 1, "b": 1}))
            self.assertEqual(error.rpc_code, wire.BUSY)
        client = self.client(stateless=True)
        d = client.request("subscriptions/listen", {"notifications": {}})
        self.assertEqual(self.refused(d).rpc_code, wire.BUSY)


STEPS = st.lists(
    st.sampled_from(
        [
            "call",
            "call awaited",
            "read",
            "ping",
            "list",
            "answer",
            "fail",
            "cancel",
            "listen",
            "change",
            "second",
            "garbage",
            "close",
            "new",
        ]
    ),
    max_size=40,
)


class RandomTests(Case):
    """Whatever happens, every request is answered once or cancelled, and nothing is left."""

    @given(STEPS, st.randoms(use_true_random=False))
    def test_any_order_of_events(self, steps: list[str], rng: Any) -> None:
        bench = Bench(more=True, session_calls=4, calls=6, session_listens=2, listens=3)
        clients: list[MemoryClient] = []

        def new() -> MemoryClient:
            stateless = rng.random() < 0.5
            client = connect(bench.server, stateless=stateless)
            if not stateless:
                client.initialize()
            clients.append(client)
            return client

        new()
        for step in steps:
            client = rng.choice(clients)
            if step == "call":
                client.call("wait", progressToken=1).addErrback(lambda _: None)
            elif step == "call awaited":
                client.call("wait_awaited").addErrback(lambda _: None)
            elif step == "read":
                client.request("resources/read", {"uri": "test://wait"}).addErrback(lambda _: None)
            elif step == "ping":
                client.request("ping").addErrback(lambda _: None)
            elif step == "list":
                client.request("tools/list").addErrback(lambda _: None)
            elif step == "listen":
                client.request(
                    "subscriptions/listen", {"notifications": {"toolsListChanged": True}}
                ).addErrback(lambda _: None)
            elif step in ("answer", "fail") and bench.waiting:
                waiting = bench.waiting.pop(rng.randrange(len(bench.waiting)))
                if waiting.called:
                    continue
                if step == "answer":
                    waiting.callback(text_result("here"))
                else:
                    waiting.errback(ZeroDivisionError())
            elif step == "cancel":
                client.cancel(rng.randint(1, client.last_id + 1))
            elif step == "change":
                rng.choice([bench.server.tools_changed, bench.server.prompts_changed])()
            elif step == "second":
                bench.clock.advance(rng.random())
            elif step == "garbage":
                client.session.receive(rng.randbytes(rng.randrange(30)))
            elif step == "close":
                client.close()
            elif step == "new":
                new()
            under_way = [call for each in clients for call in each.session._calls.values()]
            self.assertEqual(bench.server.calls, len(under_way))
            self.assertLessEqual(bench.server.calls, 6)
            listening = sum(len(each.session._listens) for each in clients)
            self.assertEqual(bench.server._listens, listening)
            self.assertLessEqual(listening, 3)
        bench.server.stop()
        self.assertEqual(
            (bench.server.calls, bench.server.sessions, bench.server._listens), (0, 0, 0)
        )
        self.assertEqual(len(bench.server.announcer), 0)
        self.assertEqual(bench.clock.getDelayedCalls(), [])
        for client in clients:
            answered = [
                message["id"]
                for message in map(json.loads, client.sent)
                if "method" not in message and message["id"] is not None
            ]
            self.assertEqual(len(answered), len(set(answered)))
        self.flushLoggedErrors(ZeroDivisionError)


class HttpSessionTests(Case):
    """Those that a binding keeps between requests."""

    def registered(self, caller: Any = "heron") -> tuple[Any, str]:
        session = self.bench.server.session(None, caller)
        return session, self.bench.server.register(session)

    def test_an_id_is_long_and_another_each_time(self) -> None:
        ids = {self.registered()[1] for _ in range(100)}
        self.assertEqual(len(ids), 100)
        for id in ids:
            self.assertRegex(id, r"\A[0-9a-f]{64}\Z")

    def test_it_is_found_by_its_id_and_its_caller(self) -> None:
        session, id = self.registered()
        self.assertIs(self.bench.server.resume(id, "heron"), session)
        self.assertIsNone(self.bench.server.resume(id, "gull"))
        self.assertIsNone(self.bench.server.resume(id[:-1] + "x", "heron"))
        session.close()
        self.assertIsNone(self.bench.server.resume(id, "heron"))

    def test_one_that_rests_too_long_ends(self) -> None:
        self.limited(idle_seconds=10.0)
        session, id = self.registered()
        for _ in range(3):
            self.bench.clock.advance(9.9)
            self.assertIs(self.bench.server.resume(id, "heron"), session)
        self.bench.clock.advance(10.1)
        self.assertTrue(session.closed)
        self.assertIsNone(self.bench.server.resume(id, "heron"))
        self.assertEqual(self.bench.clock.getDelayedCalls(), [])

    def test_one_that_is_at_work_or_has_a_stream_does_not_end(self) -> None:
        self.limited(idle_seconds=10.0)
        session, id = self.registered()
        session.attach(lambda text: None, lambda: None)
        self.bench.clock.pump([5.0] * 10)
        self.assertFalse(session.closed)
        session.detach()
        self.bench.server.rested(session)
        self.bench.clock.advance(9.9)
        self.assertFalse(session.closed)
        self.bench.clock.advance(0.2)
        self.assertTrue(session.closed)

    def test_their_number_has_a_limit_and_the_one_that_rested_longest_makes_room(self) -> None:
        self.limited(sessions=2)
        (one, one_id), (two, _) = self.registered(), self.registered()
        self.bench.server.resume(one_id, "heron")
        three, _ = self.registered()
        self.assertEqual((one.closed, two.closed, three.closed), (False, True, False))

    def test_if_all_are_at_work_one_more_is_refused(self) -> None:
        self.limited(sessions=2)
        sessions = [self.registered()[0] for _ in range(2)]
        for session in sessions:
            session.attach(lambda text: None, lambda: None)
        extra = self.bench.server.session(None, "heron")
        with self.assertRaises(wire.McpRefused) as caught:
            self.bench.server.register(extra)
        self.assertEqual(caught.exception.rpc_code, wire.BUSY)
        sessions[0].detach()
        self.bench.server.register(extra)
        self.assertTrue(sessions[0].closed)

    def test_what_is_missed_is_told_when_there_is_a_stream_and_only_once(self) -> None:
        session, _ = self.registered()
        params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
        session.receive(wire.request(1, "initialize", params))
        session.subscribe("test://text")
        session.subscribe("test://bytes")
        server = self.bench.server
        server.add_resource(Resource("test://more", "more", lambda uri, call: ""))
        for _ in range(5):
            server.tools_changed()
            server.resource_updated("test://text")
            server.resource_updated("test://bytes")
            self.bench.clock.advance(2)
        session.unsubscribe("test://bytes")
        got: list[bytes] = []
        session.attach(got.append, lambda: None)
        self.assertEqual(
            [json.loads(text)["method"] for text in got],
            ["notifications/tools/list_changed", "notifications/resources/updated"],
        )
        server.tools_changed()
        self.assertEqual(len(got), 3)

    def test_stopping_ends_its_stream(self) -> None:
        session, _ = self.registered()
        ended: list[None] = []
        session.attach(lambda text: None, lambda: ended.append(None))
        self.bench.server.stop()
        self.assertEqual(ended, [None])
        extra = self.bench.server.session(None, "heron")
        self.assertRaises(wire.McpRefused, self.bench.server.register, extra)
