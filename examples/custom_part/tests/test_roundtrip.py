"""
The protocol and the part, under a virtual clock: no socket, no thread, no sleep.

Run it with C{python -m twisted.trial tests/test_roundtrip.py}, or with pytest.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from meshkit_roundtrip import part as part_module
from meshkit_roundtrip.operations import Measured
from meshkit_roundtrip.protocol import MAX_PROBES, MAX_SILENCE, PROBE_BYTES, Answerer, Prober
from meshkit_roundtrip.table import COLUMNS, MAX_ROWS, read_table, write_table
from twisted.internet.defer import DeferredQueue
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

import meshkit_plugins
from meshkit.errors import InvalidRequest, MalformedFrame, TruncatedStream
from meshkit.parts import PartMaker
from meshkit.runtime.registry import discover_parts
from meshkit.testing.channels import ChannelPair, connect_channels
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import MemoryMesh
from meshkit.testing.strategies import chunkings, public_keys


# [channel]
class ProtocolTests(SynchronousTestCase):
    """Two protocols on the two ends of a secure channel."""

    def connect(self, probes: int = 3, latency: float = 0.25) -> ChannelPair:
        clock, self.answers = Clock(), 0
        return connect_channels(
            Factory.forProtocol(lambda: Prober(clock, Random(1), probes)),
            Factory.forProtocol(lambda: Answerer(clock, self.count)),
            clock=clock,
            latency=latency,
        )

    def count(self) -> None:
        self.answers += 1

    def test_it_measures_the_time_there_and_back(self) -> None:
        pair = self.connect(probes=3, latency=0.25)
        self.assertNoResult(pair.client.done)
        pair.run(10)
        self.assertEqual(self.successResultOf(pair.client.done), [0.5, 0.5, 0.5])
        self.assertEqual(self.answers, 3)
        self.assertEqual(pair.clock.getDelayedCalls(), [])

    def test_a_connection_that_is_cut_is_no_measurement(self) -> None:
        pair = self.connect()
        pair.wire.cut()
        pair.run(1)
        self.failureResultOf(pair.client.done, TruncatedStream)
        # [channel-end]

    def test_cancelling_drops_the_connection(self) -> None:
        pair = self.connect()
        pair.client.done.cancel()
        self.failureResultOf(pair.client.done)
        pair.run(1)
        self.assertIsNotNone(pair.wire.second.lost)
        self.assertEqual(pair.clock.getDelayedCalls(), [])

    def test_a_wrong_answer_is_no_measurement(self) -> None:
        class Liar(Protocol):
            def dataReceived(self, data: bytes) -> None:
                self.transport.write(data[::-1])

        clock = Clock()
        pair = connect_channels(
            Factory.forProtocol(lambda: Prober(clock, Random(1), 1)),
            Factory.forProtocol(Liar),
            clock=clock,
        )
        pair.run()
        self.failureResultOf(pair.client.done, MalformedFrame)


class AnswererTests(SynchronousTestCase):
    """The listener's side, alone with whatever a peer may send."""

    def connect(self) -> ChannelPair:
        clock, self.answers = Clock(), 0
        return connect_channels(
            Factory.forProtocol(Keeper),
            Factory.forProtocol(lambda: Answerer(clock, self.count)),
            clock=clock,
        )

    def count(self) -> None:
        self.answers += 1

    # [property]
    @given(st.binary(max_size=100), st.data())
    def test_whole_probes_come_back_however_they_arrive(
        self, stream: bytes, data: st.DataObject
    ) -> None:
        pair = self.connect()
        for piece in data.draw(chunkings(stream)):
            pair.client.transport.write(piece)
            pair.run()
        whole = len(stream) // PROBE_BYTES
        self.assertEqual(pair.client.received, stream[: whole * PROBE_BYTES])
        self.assertEqual(self.answers, whole)
        # [property-end]

    def test_no_more_than_so_many_are_answered(self) -> None:
        pair = self.connect()
        pair.client.transport.write(b"x" * PROBE_BYTES * (MAX_PROBES + 1))
        pair.run()
        self.assertEqual(self.answers, MAX_PROBES)
        self.assertEqual(len(pair.client.received), PROBE_BYTES * MAX_PROBES)
        self.assertTrue(pair.client.lost)

    def test_the_last_one_allowed_is_answered(self) -> None:
        pair = self.connect()
        pair.client.transport.write(b"x" * PROBE_BYTES * (MAX_PROBES - 1))
        pair.run()
        self.assertFalse(pair.client.lost)
        pair.client.transport.write(b"y" * PROBE_BYTES)
        pair.run()
        self.assertTrue(pair.client.received.endswith(b"y" * PROBE_BYTES))

    def test_who_says_nothing_is_hung_up_on(self) -> None:
        pair = self.connect()
        pair.run(MAX_SILENCE - 1)
        pair.client.transport.write(b"x")
        pair.run(MAX_SILENCE - 1)
        self.assertFalse(pair.client.lost)
        pair.run(1)
        self.assertTrue(pair.client.lost)
        self.assertEqual(pair.clock.getDelayedCalls(), [])


class Keeper(Protocol):
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.received = b""
        self.lost = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: object) -> None:  # type: ignore[override]
        self.lost = True


class TableTests(SynchronousTestCase):
    """Results as comma-separated text."""

    @given(st.lists(st.tuples(public_keys(), st.integers(0, 2**40), st.floats(0, 1e6)), max_size=9))
    def test_what_was_written_is_read(self, rows: list[Any]) -> None:
        results = [Measured(key.text, at, 3, ms, ms) for key, at, ms in rows]
        self.assertEqual(read_table(write_table(results)), results)

    @given(st.binary())
    def test_anything_else_is_refused(self, table: bytes) -> None:
        with self.assertRaises(InvalidRequest):
            read_table(table)

    def test_what_is_wrong_is_named(self) -> None:
        head, peer = ",".join(COLUMNS), make_identity("ada").public.text
        for rows, told in (
            (["x,1,1,1,1"], "line 2"),
            ([f"{peer},1,1,1,1", f"{peer},1,1,1"], "line 3"),
            ([f"{peer},now,1,1,1"], "measured_at"),
            ([f"{peer},1,1,1,1"] * (MAX_ROWS + 1), "divide it"),
        ):
            error = self.assertRaises(
                InvalidRequest, read_table, "\r\n".join([head, *rows]).encode()
            )
            self.assertIn(told, str(error))


# [nodes]
class NodeTests(SynchronousTestCase):
    """Two whole nodes with the part, asked at their doors."""

    def setUp(self) -> None:
        self.mesh = MemoryMesh(latency=0.25)
        self.addCleanup(self.mesh.stop)
        installed = {maker.name: maker for maker in discover_parts(meshkit_plugins)}
        # It is among them where this distribution is installed.
        installed.setdefault("roundtrip", PartMaker("roundtrip", "meshkit_roundtrip.part"))
        makers = [installed[name] for name in sorted(installed)]
        self.ada = self.mesh.node("ada", makers=makers)
        config = f'peers = ["{self.ada.address}"]\n[roundtrip]\nprobes = 3\ntimeout = 5\n'
        self.bob = self.mesh.node("bob", config, makers=makers)
        self.ada.start()
        self.bob.start()

    def test_a_peer_is_measured_and_remembered(self) -> None:
        measured = self.bob.ask("POST", "/v1/roundtrip", {"peer": self.ada.identity.public.text})
        result = measured.json["data"]
        self.assertEqual((result["probes"], result["median_ms"]), (3, 500.0))
        self.bob.stop()
        self.bob.start()
        self.assertEqual(self.bob.ask("GET", "/v1/roundtrip").json["data"], [result])
        status = self.ada.ask("GET", "/v1/status").json["data"]["parts"]["roundtrip"]
        self.assertEqual(status, {"measured": 0, "failed": 0, "answered": 3})
        # [nodes-end]

    def test_agents_are_told_and_find_the_tool_that_they_know(self) -> None:
        peer = self.ada.identity.public.text
        tools = self.bob.agent("tools/list", "pinger")["tools"]
        self.assertEqual([tool["name"] for tool in tools], ["ping"])
        self.assertIn("No round trip was measured", self.described())
        result = self.bob.agent("tools/call", "pinger", name="ping", arguments={"target": peer})
        self.assertEqual(json.loads(result["content"][0]["text"]), f"{peer}: 500.0 ms")
        self.assertNotIn("No round trip was measured", self.described())
        results = self.bob.agent("tools/call", name="roundtrip_results", arguments={})
        self.assertEqual(results["structuredContent"]["data"][0]["peer"], peer)

    def described(self) -> str:
        tools = self.bob.agent("tools/list")["tools"]
        (text,) = [each["description"] for each in tools if each["name"] == "node_status"]
        return str(text)

    def test_results_are_taken_over_from_another_node(self) -> None:
        measured = self.bob.ask("POST", "/v1/roundtrip", {"peer": self.ada.identity.public.text})
        table = self.bob.ask("GET", "/v1/roundtrip.csv")
        self.assertIn(self.ada.identity.public.text.encode(), table.body)
        kind = "application/octet-stream"
        taken = self.ada.ask("POST", "/v1/roundtrip.csv", table.body, Content_Type=kind)
        self.assertEqual(taken.json["data"], {"count": 1})
        results = self.ada.ask("GET", "/v1/roundtrip").json["data"]
        self.assertEqual(results, [measured.json["data"]])
        # What is older changes nothing.
        older = table.body.replace(b",3,", b",9,").replace(b",17", b",16")
        self.assertNotEqual(older, table.body)
        taken = self.ada.ask("POST", "/v1/roundtrip.csv", older, Content_Type=kind)
        self.assertEqual(taken.status, 200)
        self.assertEqual(self.ada.ask("GET", "/v1/roundtrip").json["data"], results)

    def test_who_watches_is_told_of_each_measurement(self) -> None:
        watching = self.bob.call("GET", "/v1/roundtrip/watch")
        self.mesh.run(1)
        measured = self.bob.ask("POST", "/v1/roundtrip", {"peer": self.ada.identity.public.text})
        self.mesh.run(1)
        (line,) = [each for each in watching.received.splitlines() if each.startswith(b"data:")]
        self.assertEqual(json.loads(line[5:]), measured.json["data"])
        watching.transport.abortConnection()
        self.mesh.run(1)
        self.assertEqual(self.bob.service._parts["roundtrip"]._watchers, {})

    def test_who_does_not_read_makes_nothing_grow(self) -> None:
        part = self.bob.service._parts["roundtrip"]
        unread: DeferredQueue[Any] = DeferredQueue()
        part._watchers[unread] = None
        self.patch(part_module, "MAX_UNREAD", 2)
        for _ in range(3):
            self.bob.ask("POST", "/v1/roundtrip", {"peer": self.ada.identity.public.text})
        self.assertEqual(len(unread.pending), 2)

    def test_whom_nobody_knows_is_not_found(self) -> None:
        stranger = make_identity("stranger").public.text
        answer = self.bob.ask("POST", "/v1/roundtrip", {"peer": stranger})
        self.assertEqual((answer.status, answer.code), (404, "NOT_FOUND"))

    def test_a_peer_that_is_down_is_an_error_with_its_address(self) -> None:
        self.ada.stop()
        answer = self.bob.ask("POST", "/v1/roundtrip", {"peer": self.ada.identity.public.text})
        self.assertEqual((answer.status, answer.code), (504, "ROUNDTRIP_NO_ANSWER"))
        self.assertIn(self.ada.address, answer.json["error"]["message"])

    def test_a_peer_that_is_silent_is_given_up(self) -> None:
        self.patch(Answerer, "dataReceived", lambda answerer, data: None)
        before = self.mesh.clock.seconds()
        answer = self.bob.ask("POST", "/v1/roundtrip", {"peer": self.ada.identity.public.text})
        self.assertEqual((answer.status, answer.code), (504, "ROUNDTRIP_NO_ANSWER"))
        self.assertIn("3 probes within 5 s", answer.json["error"]["message"])
        self.assertGreaterEqual(self.mesh.clock.seconds() - before, 5)
        status = self.bob.ask("GET", "/v1/status").json["data"]["parts"]["roundtrip"]
        self.assertEqual(status["failed"], 1)

    def test_a_caller_who_goes_away_drops_the_measurement(self) -> None:
        self.patch(Answerer, "dataReceived", lambda answerer, data: None)
        self.mesh.run(3)
        open_before = self.open_wires()
        call = self.bob.call("POST", "/v1/roundtrip", {"peer": self.ada.identity.public.text})
        self.mesh.run(3)
        self.assertEqual(self.open_wires(), open_before + 1)
        call.transport.abortConnection()
        self.mesh.run(1)
        self.assertEqual(self.open_wires(), open_before)

    def open_wires(self) -> int:
        return sum(wire.first.lost is None for wire in self.mesh.network.wires)
