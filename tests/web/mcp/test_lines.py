"""Lines over a connection, with a client that does as it likes."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from meshkit.testing.transports import MemoryTransport, connect_protocols
from meshkit.web.mcp import LineProtocol, Tool, text_result, wire
from tests.web.mcp.support import ANYTHING, Bench

INITIALIZE = wire.request(
    0, "initialize", {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {}}
)


@implementer(IHalfCloseableProtocol)
class Client(Protocol):
    def __init__(self) -> None:
        self.got = b""
        self.lost: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.got += data

    def connectionLost(self, reason: Any = None) -> None:
        self.lost = reason

    def readConnectionLost(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """It goes on reading."""

    def messages(self) -> list[Any]:
        *lines, rest = self.got.split(b"\n")
        assert not rest, rest
        self.got = b""
        return [json.loads(line) for line in lines]


class Case(SynchronousTestCase):
    def setUp(self) -> None:
        self.start()

    def start(self, **limits: Any) -> None:
        self.bench = Bench(more=True, **limits)
        self.client = Client()
        self.server = LineProtocol(self.bench.server, "heron", "small")
        self.wire = connect_protocols(self.client, self.server)
        self.wire.pump()

    @property
    def transport(self) -> MemoryTransport:
        found: Any = self.client.transport
        return found

    def send(self, *messages: bytes) -> None:
        self.transport.write(b"".join(message + b"\n" for message in messages))
        self.wire.pump()

    def ask(self, id: Any, method: str, **params: Any) -> Any:
        self.send(wire.request(id, method, params))
        (answer,) = self.client.messages()
        self.assertEqual(answer["id"], id)
        return answer.get("result", answer.get("error"))


class LineTests(Case):
    def test_both_generations_on_one_line(self) -> None:
        self.send(INITIALIZE)
        (answer,) = self.client.messages()
        self.assertEqual(answer["result"]["protocolVersion"], "2025-11-25")
        self.send(wire.notification("notifications/initialized"))
        self.assertEqual(self.client.messages(), [])
        result = self.ask(1, "tools/call", name="add", arguments={"a": 1, "b": 2})
        self.assertEqual(result["structuredContent"], {"sum": 3})
        meta = {wire.META_VERSION: "2026-07-28", wire.META_CAPABILITIES: {}}
        result = self.ask("x", "tools/call", name="add", arguments={"a": 1, "b": 2}, _meta=meta)
        self.assertEqual(result["resultType"], "complete")
        call = self.bench.calls[-1]
        self.assertEqual((call.caller, call.view), ("heron", "small"))

    def test_lines_may_end_as_on_another_system_and_be_empty(self) -> None:
        self.transport.write(b"\r\n\n  \n" + wire.request(1, "ping", {}) + b"\r\n\n")
        self.wire.pump()
        self.assertEqual(self.client.messages(), [{"jsonrpc": "2.0", "id": 1, "result": {}}])

    def test_no_answer_has_a_line_break_in_it(self) -> None:
        self.bench.server.add_tool(
            Tool("lines", "", ANYTHING, lambda a, c: text_result("a\nb\r\nc\u2028d", {"x": "\n"}))
        )
        self.send(INITIALIZE)
        self.client.messages()
        result = self.ask(1, "tools/call", name="lines")
        self.assertEqual(result["content"][0]["text"], "a\nb\r\nc\u2028d")

    def test_garbage_is_answered_and_the_line_goes_on(self) -> None:
        self.send(b"nonsense", b"\xff\xfe\x00", b"[]", wire.request(7, "ping", {}))
        self.assertEqual(
            [(m["id"], m.get("error", {}).get("code")) for m in self.client.messages()],
            [
                (None, wire.PARSE_ERROR),
                (None, wire.PARSE_ERROR),
                (None, wire.INVALID_REQUEST),
                (7, None),
            ],
        )

    def test_a_client_that_hangs_up_cancels_its_calls(self) -> None:
        self.send(INITIALIZE, wire.request(1, "tools/call", {"name": "wait"}))
        self.transport.loseConnection()
        self.wire.pump()
        self.assertEqual(self.bench.cancelled, 1)
        self.assertEqual(self.bench.server.sessions, 0)

    def test_a_client_that_closes_its_side_gets_what_was_answered(self) -> None:
        self.send(INITIALIZE)
        self.client.messages()
        self.transport.write(wire.request(1, "ping", {}) + b"\n")
        self.transport.write(wire.request(2, "tools/call", {"name": "wait"}) + b"\n")
        self.transport.loseWriteConnection()
        self.wire.pump()
        self.assertEqual([m["id"] for m in self.client.messages()], [1])
        self.assertEqual(self.bench.cancelled, 1)
        assert self.client.lost is not None
        self.client.lost.trap(ConnectionDone)

    def test_one_that_does_not_even_read_is_cut_off(self) -> None:
        self.bench.server.add_tool(
            Tool("big", "", ANYTHING, lambda a, c: text_result("x" * 70_000))
        )
        self.send(INITIALIZE)
        self.transport.pauseProducing()
        self.send(wire.request(1, "tools/call", {"name": "big"}))
        server: Any = self.server.transport
        # What waits to be read hides the end of the line; here it is seen all the same.
        self.server.readConnectionLost()
        self.wire.pump()
        self.assertTrue(server.aborted)
        self.assertEqual(self.bench.server.sessions, 0)

    def test_a_cancelled_call_is_not_answered(self) -> None:
        self.send(INITIALIZE, wire.request(1, "tools/call", {"name": "wait"}))
        self.client.messages()
        self.send(wire.notification("notifications/cancelled", {"requestId": 1}))
        self.assertEqual(self.client.messages(), [])
        self.assertEqual(self.bench.cancelled, 1)

    def test_stopping_the_server_closes_the_connection_after_what_it_said(self) -> None:
        meta = {wire.META_VERSION: "2026-07-28", wire.META_CAPABILITIES: {}}
        wanted = {"toolsListChanged": True}
        self.send(wire.request(3, "subscriptions/listen", {"notifications": wanted, "_meta": meta}))
        self.bench.server.stop()
        self.wire.pump()
        acknowledged, ended = self.client.messages()
        self.assertEqual(acknowledged["method"], "notifications/subscriptions/acknowledged")
        self.assertEqual(ended["result"]["resultType"], "complete")
        assert self.client.lost is not None
        self.client.lost.trap(ConnectionDone)

    @given(st.lists(st.integers(1, 60), max_size=30), st.data())
    def test_the_pieces_in_which_bytes_come_make_no_difference(
        self, sizes: list[int], data: Any
    ) -> None:
        self.start()
        messages = [INITIALIZE]
        for number in range(1, data.draw(st.integers(1, 5)) + 1):
            arguments = {"a": number, "b": data.draw(st.integers(-9, 9))}
            messages.append(
                wire.request(number, "tools/call", {"name": "add", "arguments": arguments})
            )
        messages.insert(1, b"garbage")
        text = b"".join(message + b"\n" for message in messages)
        self.transport.write(text)
        self.wire.pump()
        whole = self.client.messages()
        self.start()
        while text:
            size = sizes.pop() if sizes else 1
            self.transport.write(text[:size])
            self.wire.pump()
            text = text[size:]
        self.assertEqual(self.client.messages(), whole)

    def test_every_truncation_leaves_nothing(self) -> None:
        text = INITIALIZE + b"\n" + wire.request(1, "tools/call", {"name": "wait"}) + b"\n"
        for size in range(len(text) + 1):
            self.start()
            self.transport.write(text[:size])
            self.wire.pump()
            self.transport.loseConnection()
            self.wire.pump()
            self.assertEqual((self.bench.server.sessions, self.bench.server.calls), (0, 0))
        self.assertEqual(self.bench.cancelled, 1)


class LimitTests(Case):
    def test_a_line_has_a_limit(self) -> None:
        self.start(message=100)
        body = wire.request(1, "ping", {"x": ""})

        def padded(size: int) -> bytes:
            return body.replace(b'""', b'"%b"' % (b"x" * (size - len(body))))

        self.send(padded(100), padded(101), padded(100))
        codes = [m.get("error", {}).get("code") for m in self.client.messages()]
        self.assertEqual(codes, [None, wire.INVALID_REQUEST, None])
        self.assertIsNone(self.client.lost)

    def test_a_line_without_end_closes_the_connection(self) -> None:
        self.start(message=100)
        self.transport.write(b"x" * 100)
        self.wire.pump()
        self.assertIsNone(self.client.lost)
        self.transport.write(b"x")
        self.wire.pump()
        (answer,) = self.client.messages()
        self.assertEqual(answer["error"]["code"], wire.INVALID_REQUEST)
        self.assertIsNotNone(self.client.lost)
        self.assertEqual(self.bench.server.sessions, 0)

    def test_a_client_that_does_not_read_is_not_read_from(self) -> None:
        self.send(INITIALIZE)
        self.client.messages()
        called: list[Any] = []

        def big(arguments: Any, call: Any) -> Any:
            called.append(call)
            return text_result("x" * 10_000)

        self.bench.server.add_tool(Tool("big", "", ANYTHING, big))
        self.transport.pauseProducing()
        calls = [wire.request(id, "tools/call", {"name": "big"}) for id in range(50)]
        # Also those that came in one piece.
        self.send(*calls[:25])
        self.send(*calls[25:])
        server: Any = self.server.transport
        # What TCP takes, and one answer; the other questions wait where they are.
        self.assertLess(server.waiting, 100_000)
        self.assertLess(len(called), 10)
        self.assertFalse(server.reading)
        self.transport.resumeProducing()
        self.wire.pump()
        self.assertEqual([m["id"] for m in self.client.messages()], list(range(50)))
        self.assertTrue(server.reading)

    def paused(self, **limits: Any) -> None:
        """A client that has stopped reading, with all that TCP takes on its way."""
        self.start(**limits)
        self.bench.server.add_tool(
            Tool("big", "", ANYTHING, lambda a, c: text_result("x" * 70_000))
        )
        self.send(INITIALIZE)
        self.client.messages()
        self.transport.pauseProducing()
        self.send(wire.request("big", "tools/call", {"name": "big"}))

    def test_what_waits_is_not_given_to_the_connection_all_at_once(self) -> None:
        self.start()
        self.send(INITIALIZE, *(wire.request(id, "tools/call", {"name": "wait"}) for id in "abcd"))
        self.client.messages()
        self.transport.pauseProducing()
        for waiting in self.bench.waiting:
            waiting.callback(text_result("x" * 70_000))
        server: Any = self.server.transport
        self.assertLess(server.waiting, 80_000)
        self.server.resumeProducing()
        self.assertLess(server.waiting, 150_000)
        self.transport.resumeProducing()
        self.wire.pump()
        self.assertEqual([m["id"] for m in self.client.messages()], list("abcd"))

    def test_what_waits_has_a_limit_in_number(self) -> None:
        self.paused(backlog=3, quiet_seconds=0.1)
        for _ in range(3):
            self.bench.server.tools_changed()
            self.bench.clock.advance(1)
        self.assertEqual(self.bench.server.sessions, 1)
        self.bench.server.tools_changed()
        self.wire.pump()
        self.assertEqual(self.bench.server.sessions, 0)

    def test_what_waits_has_a_limit_in_bytes(self) -> None:
        size = len(wire.notification("notifications/tools/list_changed"))
        self.paused(backlog_bytes=2 * size + 1, quiet_seconds=0.1)
        for _ in range(2):
            self.bench.server.tools_changed()
            self.bench.clock.advance(1)
        self.assertEqual(self.bench.server.sessions, 1)
        self.bench.server.tools_changed()
        self.wire.pump()
        self.assertEqual(self.bench.server.sessions, 0)

    def test_what_waits_comes_in_order_when_the_client_reads_again(self) -> None:
        self.paused()
        self.bench.server.tools_changed()
        self.bench.server.prompts_changed()
        self.transport.resumeProducing()
        self.wire.pump()
        big, *told = self.client.messages()
        self.assertEqual(big["id"], "big")
        self.assertEqual(
            [m["method"] for m in told],
            ["notifications/tools/list_changed", "notifications/prompts/list_changed"],
        )

    def test_progress_is_left_out_before_the_limit_is_reached(self) -> None:
        self.start(backlog=8)
        self.bench.server.add_tool(
            Tool("big", "", ANYTHING, lambda a, c: text_result("x" * 70_000))
        )
        self.send(INITIALIZE)
        wanted = {"name": "wait", "_meta": {"progressToken": 1}}
        self.send(wire.request("slow", "tools/call", wanted))
        self.client.messages()
        self.transport.pauseProducing()
        self.send(wire.request("big", "tools/call", {"name": "big"}))
        call = self.bench.calls[-1]
        for done in range(1000):
            call.progress(done)
        self.bench.waiting[-1].callback(text_result("done"))
        self.transport.resumeProducing()
        self.wire.pump()
        big, *told, last = self.client.messages()
        self.assertEqual([m["params"]["progress"] for m in told], [0, 1, 2, 3])
        self.assertEqual((big["id"], last["id"]), ("big", "slow"))

    def test_a_client_cut_off_in_the_middle_of_its_lines_is_not_heard_any_further(self) -> None:
        def cut(arguments: Any, call: Any) -> Any:
            call.session.close()
            return text_result("")

        self.bench.server.add_tool(Tool("cut", "", ANYTHING, cut))
        adds = wire.request(2, "tools/call", {"name": "add", "arguments": {"a": 1, "b": 1}})
        self.send(INITIALIZE, wire.request(1, "tools/call", {"name": "cut"}), adds)
        self.assertEqual(self.bench.calls, [])
        self.assertIsNotNone(self.client.lost)
