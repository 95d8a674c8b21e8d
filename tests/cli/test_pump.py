"""Tests of L{meshkit.cli.pump}: what a client sees of nodes that come and go."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.cli.pump import (
    MAX_PENDING,
    MAX_REMEMBERED,
    MAX_REMEMBERED_BYTES,
    MAX_WAITING,
    Pump,
    State,
)
from meshkit.web.lines import MAX_ID_BYTES

WELCOME = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"tools": {"listChanged": True}, "resources": {"listChanged": True}},
    "serverInfo": {"name": "meshkit", "version": "1"},
}
HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "x", "version": "1"},
}
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
CHANGED = "notifications/tools/list_changed"


def request(id: Any, method: str, **params: Any) -> bytes:
    message = {"jsonrpc": "2.0", "id": id, "method": method, "params": params}
    return json.dumps(message).encode()


def notification(method: str, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": params}).encode()


def result(id: Any, value: Any = None) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": id, "result": value or {}}).encode()


class PumpCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.client: list[bytes] = []
        self.node: list[bytes] = []
        self.complaints: list[str] = []
        self.pump = Pump(self.client.append, self.node.append, self.complaints.append)

    def heard(self) -> list[Any]:
        """What the client was told since this was asked last."""
        heard = [json.loads(line) for line in self.client]
        self.client.clear()
        return heard

    def told(self) -> list[Any]:
        """The same of the node."""
        told = [json.loads(line) for line in self.node]
        self.node.clear()
        return told

    def say(self, *lines: bytes) -> None:
        for line in lines:
            self.pump.from_client(line)

    def answer(self, *lines: bytes) -> None:
        for line in lines:
            self.pump.from_node(line)

    def shake_hands(self) -> None:
        self.pump.node_up()
        self.say(request(0, "initialize", **HELLO))
        self.answer(result(0, WELCOME))
        self.say(notification("notifications/initialized"))
        self.told(), self.heard()

    def another_node(self, welcome: Any = WELCOME) -> None:
        """The node goes, another one comes and takes the handshake."""
        self.pump.node_down("gone")
        self.heard()
        self.told()
        self.pump.node_up()
        (again,) = self.told()
        self.answer(result(again["id"], welcome))

    def assert_refused(self, message: Any, id: Any, *parts: str, code: int = -32000) -> None:
        self.assertEqual(message["id"], id)
        self.assertEqual(message["error"]["code"], code)
        for part in parts:
            self.assertIn(part, message["error"]["message"])


class ThroughTests(PumpCase):
    """A node is there: what is said goes through, byte by byte."""

    def test_nothing_is_changed(self) -> None:
        self.pump.node_up()
        odd = (
            b'{"method" : "tools/call","params":{"n":1.0e2,"big":12345678901234567890123},"id":7 }'
        )
        back = b'{ "id":7,"result":{"content":[],"x":1E400}}'
        self.say(odd)
        self.answer(back)
        self.assertEqual((self.node, self.client), ([odd], [back]))
        self.assertTrue(self.pump.idle)

    def test_what_is_no_message_is_the_nodes_to_judge(self) -> None:
        self.pump.node_up()
        for line in (b"hello", b'{"id":1', b"[]", b"7", b"\xff", b'{"method":7}', b'"x"'):
            self.say(line)
            self.assertEqual(self.node.pop(), line)
        self.assertTrue(self.pump.idle)

    def test_it_is_known_what_is_owed(self) -> None:
        self.pump.node_up()
        self.say(request(1, "ping"), request("1", "ping"))
        self.answer(result(1))
        self.assertFalse(self.pump.idle)
        self.answer(result("1"))
        self.assertTrue(self.pump.idle)

    def test_an_id_may_be_spelt_otherwise(self) -> None:
        self.pump.node_up()
        self.say(b'{"id":"\\u00e9","method":"ping"}')
        self.answer('{"id":"é","result":{}}'.encode())
        self.assertTrue(self.pump.idle)

    def test_a_batch_is_owed_an_answer_to_each(self) -> None:
        self.pump.node_up()
        self.say(b'[{"id":1,"method":"ping"},{"method":"x"},{"id":2,"method":"ping"}]')
        self.answer(b'[{"id":2,"result":{}}]')
        self.assertFalse(self.pump.idle)
        self.answer(b'{"id":1,"result":{}}')
        self.assertTrue(self.pump.idle)
        self.assertEqual(len(self.client), 2)

    def test_nothing_is_owed_for_what_was_cancelled(self) -> None:
        self.pump.node_up()
        self.say(request(1, "tools/call"), notification("notifications/cancelled", requestId=1))
        self.assertTrue(self.pump.idle)
        self.told()
        self.pump.node_down("gone")
        self.assertEqual(self.heard(), [])

    def test_a_stream_is_not_waited_for(self) -> None:
        self.pump.node_up()
        self.say(request(1, "subscriptions/listen"))
        self.assertTrue(self.pump.idle)

    def test_so_many_at_a_time_and_no_more(self) -> None:
        self.pump.node_up()
        self.say(*(request(number, "ping") for number in range(MAX_PENDING)))
        self.assertEqual(self.heard(), [])
        self.say(request("more", "ping"), notification("notifications/progress"))
        (refused,) = self.heard()
        self.assert_refused(refused, "more", str(MAX_PENDING))
        # What is no request goes through all the same.
        self.assertEqual(len(self.told()), MAX_PENDING + 1)
        self.answer(result(5))
        self.say(request("again", "ping"))
        self.assertEqual(self.told()[0]["id"], "again")

    def test_what_is_too_long_is_refused_by_its_id(self) -> None:
        self.pump.too_long(b'"a"', 100)
        self.pump.too_long(None, 100)
        first, second = self.heard()
        self.assert_refused(first, "a", "100 bytes", code=-32600)
        self.assert_refused(second, None, "100 bytes", code=-32600)

    def test_an_answer_that_is_too_long(self) -> None:
        self.pump.node_up()
        self.say(request(1, "tools/call"))
        self.pump.node_too_long(b"1", 100)
        self.pump.node_too_long(b"2", 100)
        self.pump.node_too_long(None, 100)
        (refused,) = self.heard()
        self.assert_refused(refused, 1, "longer than 100 bytes")
        self.assertTrue(self.pump.idle)


class WaitingTests(PumpCase):
    """No node is there yet."""

    def test_what_is_said_waits_for_it_in_order(self) -> None:
        self.say(request(0, "initialize"), request(1, "tools/list"))
        self.assertTrue(self.pump.wanted)
        self.assertFalse(self.pump.idle)
        self.pump.node_up()
        self.assertEqual([each["id"] for each in self.told()], [0, 1])
        self.assertFalse(self.pump.wanted)
        self.assertEqual(self.heard(), [])

    def test_a_notification_alone_wants_no_node(self) -> None:
        self.say(notification("notifications/initialized"))
        self.assertFalse(self.pump.wanted)
        self.assertTrue(self.pump.idle)

    def test_what_is_cancelled_meanwhile_is_never_said(self) -> None:
        self.say(
            request(1, "tools/call"),
            request(2, "tools/call"),
            notification("notifications/cancelled", requestId=1),
        )
        self.pump.node_up()
        self.assertEqual([each["id"] for each in self.told()], [2])

    def test_the_cancellation_of_something_else_waits_as_well(self) -> None:
        self.say(notification("notifications/cancelled", requestId=9))
        self.pump.node_up()
        self.assertEqual(len(self.told()), 1)

    def test_so_much_waits_and_then_the_client_should_not_be_read(self) -> None:
        line = request(1, "tools/call", text="x" * (MAX_WAITING // 4))
        for _ in range(4):
            self.assertFalse(self.pump.full)
            self.say(line)
        self.assertTrue(self.pump.full)
        self.pump.node_up()
        self.assertFalse(self.pump.full)

    def test_none_comes(self) -> None:
        self.say(request(1, "tools/list"), notification("x"), request("b", "ping"))
        self.pump.give_up("it does not run")
        first, second = self.heard()
        self.assert_refused(first, 1, "it does not run")
        self.assert_refused(second, "b", "it does not run")
        self.assertEqual(first["error"]["data"], {"code": "DOOR_UNREACHABLE"})
        self.assertFalse(self.pump.full or self.pump.wanted)
        self.pump.node_up()
        self.assertEqual(self.told(), [])


class RestartTests(PumpCase):
    """A node goes, and another one comes."""

    def test_what_was_under_way_is_refused_and_not_said_again(self) -> None:
        self.shake_hands()
        self.say(request(1, "tools/call"), request(2, "tools/call"), request(3, "ping"))
        self.answer(result(2))
        self.heard()
        self.pump.node_down("it was restarted")
        first, second = self.heard()
        self.assert_refused(first, 1, "it was restarted")
        self.assert_refused(second, 3, "it was restarted")
        self.told()
        self.another_node()
        self.assertEqual([each["method"] for each in self.told()], ["notifications/initialized"])

    def test_the_handshake_is_told_again_and_its_answer_kept(self) -> None:
        self.shake_hands()
        self.pump.node_down("gone")
        self.say(request(5, "tools/list"))
        self.pump.node_up()
        (again,) = self.told()
        self.assertEqual((again["method"], again["params"]), ("initialize", HELLO))
        self.assertNotEqual(again["id"], 0)
        self.assertIs(self.pump.state, State.RESTORING)
        self.answer(result(again["id"], WELCOME))
        self.assertIs(self.pump.state, State.UP)
        self.assertEqual(
            [each.get("method") for each in self.told()],
            ["notifications/initialized", "tools/list"],
        )
        self.assertEqual(
            [each.get("method") for each in self.heard()],
            [CHANGED, "notifications/resources/list_changed"],
        )

    def test_only_what_the_node_said_it_would_tell_is_told(self) -> None:
        self.shake_hands()
        self.another_node({**WELCOME, "capabilities": {"tools": {"listChanged": False}}})
        self.assertEqual(self.heard(), [])

    def test_again_and_again(self) -> None:
        self.shake_hands()
        for _ in range(3):
            self.another_node()
            self.assertEqual(len(self.told()), 1)
            self.assertEqual(len(self.heard()), 2)

    def test_it_goes_again_before_it_has_taken_the_handshake(self) -> None:
        self.shake_hands()
        self.pump.node_down("gone")
        self.say(request(5, "tools/list"))
        self.pump.node_up()
        (late,) = self.told()
        self.pump.node_down("gone again")
        self.assertEqual(self.heard(), [])
        self.pump.node_up()
        (again,) = self.told()
        self.assertNotEqual(late["id"], again["id"])
        self.answer(result(again["id"], WELCOME))
        self.assertEqual([each["method"] for each in self.told()][-1], "tools/list")

    def test_a_handshake_that_was_not_answered_is_said_again_as_it_is(self) -> None:
        self.pump.node_up()
        self.say(request(0, "initialize", **HELLO), request(1, "tools/list"))
        self.told()
        self.pump.node_down("gone")
        (refused,) = self.heard()
        self.assert_refused(refused, 1)
        self.pump.node_up()
        self.assertEqual([each["id"] for each in self.told()], [0])
        self.answer(result(0, WELCOME))
        self.assertEqual([each["id"] for each in self.heard()], [0])

    def test_a_handshake_that_was_refused_is_not_remembered(self) -> None:
        self.pump.node_up()
        self.say(request(0, "initialize"))
        self.answer(b'{"id":0,"error":{"code":-32602,"message":"no"}}')
        self.pump.node_down("gone")
        self.told()
        self.pump.node_up()
        self.assertEqual(self.told(), [])

    def test_it_speaks_another_version(self) -> None:
        self.shake_hands()
        self.another_node({**WELCOME, "protocolVersion": "2024-11-05"})
        self.assertEqual(len(self.complaints), 1)
        self.assertIn("2024-11-05", self.complaints[0])
        self.assertEqual(self.told(), [])

    def test_it_refuses_the_handshake(self) -> None:
        self.shake_hands()
        self.pump.node_down("gone")
        self.pump.node_up()
        (again,) = self.told()
        self.answer(b'{"id":"%b","error":{"code":1,"message":"no"}}' % again["id"].encode())
        self.assertEqual(len(self.complaints), 1)
        self.assertEqual(self.heard(), [])

    def test_what_was_subscribed_to_and_the_log_level_are_told_again(self) -> None:
        self.shake_hands()
        self.say(
            request(1, "resources/subscribe", uri="a:1"),
            request(2, "resources/subscribe", uri="a:2"),
            request(3, "resources/unsubscribe", uri="a:1"),
            request(4, "logging/setLevel", level="info"),
            request(5, "logging/setLevel", level="error"),
        )
        self.answer(*(result(number) for number in range(1, 6)))
        self.another_node()
        _, *again = self.told()
        self.assertEqual(
            [(each["method"], each["params"]) for each in again],
            [
                ("logging/setLevel", {"level": "error"}),
                ("resources/subscribe", {"uri": "a:2"}),
            ],
        )
        self.heard()
        self.answer(*(result(each["id"]) for each in again))
        self.assertEqual(self.heard(), [])
        self.assertTrue(self.pump.idle)

    def test_so_many_subscriptions_are_remembered(self) -> None:
        self.shake_hands()
        for number in range(MAX_REMEMBERED + 1):
            self.say(request(number, "resources/subscribe", uri=f"a:{number}"))
            self.answer(result(number))
        self.another_node()
        self.assertEqual(len(self.told()), 1 + MAX_REMEMBERED)

    def test_what_is_remembered_is_small(self) -> None:
        self.shake_hands()
        for uri in ("a:" + "x" * MAX_REMEMBERED_BYTES, "a:1"):
            self.say(request(1, "resources/subscribe", uri=uri))
            self.answer(result(1))
        self.say(request(2, "subscriptions/listen", x="y" * MAX_REMEMBERED_BYTES))
        self.pump.node_down("gone")
        (refused,) = [each for each in self.heard() if "error" in each]
        self.assert_refused(refused, 2)
        self.pump.node_up()
        again = self.told()[-1]
        self.answer(result(again["id"], WELCOME))
        _, *told = self.told()
        self.assertEqual([each["params"] for each in told], [{"uri": "a:1"}])

    def test_requests_under_way_are_not_kept(self) -> None:
        self.pump.node_up()
        self.say(request(1, "tools/call", text="x" * 100_000))
        self.assertEqual([owed.said for owed in self.pump._pending.values()], [None])

    def test_an_id_that_is_too_long_is_not_remembered(self) -> None:
        self.pump.node_up()
        for size, pending in ((MAX_ID_BYTES - 2, 1), (MAX_ID_BYTES - 1, 1)):
            self.say(request("x" * size, "ping"))
            self.assertEqual(len(self.pump._pending), pending)
        self.assertEqual(len(self.told()), 2)

    def test_a_question_of_a_node_that_has_gone_is_withdrawn(self) -> None:
        self.shake_hands()
        self.answer(request("q", "elicitation/create"), request("r", "ping"))
        self.say(result("r"))
        self.assertEqual([each["id"] for each in self.told()], ["r"])
        self.heard()
        self.pump.node_down("gone")
        (withdrawn,) = self.heard()
        self.assertEqual(withdrawn["method"], "notifications/cancelled")
        self.assertEqual(withdrawn["params"]["requestId"], "q")
        self.another_node()
        self.told()
        # The other one has not asked.
        self.say(result("q"))
        self.assertEqual(self.told(), [])


class StatelessTests(PumpCase):
    """The generation that shakes no hands (2026-07-28)."""

    def acknowledge(self, id: Any, **honoured: bool) -> bytes:
        return notification(
            "notifications/subscriptions/acknowledged",
            notifications=honoured,
            _meta={SUBSCRIPTION: id},
        )

    def test_nothing_but_the_streams_is_told_again(self) -> None:
        self.pump.node_up()
        listen = request("s", "subscriptions/listen", notifications={"toolsListChanged": True})
        self.say(listen, request(1, "server/discover"))
        self.answer(self.acknowledge("s", toolsListChanged=True), result(1))
        self.say(request(2, "tools/call"))
        self.told(), self.heard()
        self.pump.node_down("gone")
        (refused,) = self.heard()
        self.assert_refused(refused, 2)
        self.pump.node_up()
        self.assertEqual(self.node, [listen])
        (changed,) = self.heard()
        self.assertEqual(changed["method"], CHANGED)
        self.assertEqual(changed["params"], {"_meta": {SUBSCRIPTION: "s"}})
        # The client has had that already.
        self.answer(self.acknowledge("s", toolsListChanged=True))
        self.assertEqual(self.heard(), [])
        self.answer(notification(CHANGED, _meta={SUBSCRIPTION: "s"}))
        self.assertEqual(len(self.heard()), 1)

    def test_a_stream_that_was_not_acknowledged_yet_will_be(self) -> None:
        self.pump.node_up()
        self.say(request(1, "subscriptions/listen"))
        self.pump.node_down("gone")
        self.pump.node_up()
        self.assertEqual(self.heard(), [])
        self.answer(self.acknowledge(1))
        self.assertEqual(len(self.heard()), 1)

    def test_a_stream_that_has_ended_is_forgotten(self) -> None:
        for end in (
            lambda: self.answer(result(1)),
            lambda: self.say(notification("notifications/cancelled", requestId=1)),
        ):
            self.pump.node_up()
            self.say(request(1, "subscriptions/listen"))
            end()
            self.pump.node_down("gone")
            self.told()
            self.pump.node_up()
            self.assertEqual(self.told(), [])
            self.pump.node_down("gone")
