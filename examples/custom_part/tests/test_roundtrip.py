"""
The protocol and the part, under a virtual clock: no socket, no thread, no sleep.

Run it with C{python -m twisted.trial tests/test_roundtrip.py}, or with pytest.
"""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from meshkit_roundtrip.protocol import MAX_PROBES, MAX_SILENCE, PROBE_BYTES, Answerer, Prober
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

import meshkit_plugins
from meshkit.errors import MalformedFrame, TruncatedStream
from meshkit.parts import PartMaker
from meshkit.runtime.registry import discover_parts
from meshkit.testing.channels import ChannelPair, connect_channels
from meshkit.testing.identities import make_identity
from meshkit.testing.nodes import MemoryMesh
from meshkit.testing.strategies import chunkings


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
