"""Tests of L{meshkit.shs.suites}: which handshake a hello begins."""

from __future__ import annotations

import hmac
from random import Random
from typing import Any
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import HandshakeTruncated, NetworkKeyRefused, PartConflict
from meshkit.identity.network import NetworkSecret
from meshkit.shs import hellos
from meshkit.shs.endpoints import wrap_client
from meshkit.shs.handshake import ServerHandshake, Step
from meshkit.shs.hellos import HELLO_BYTES, Capability, HelloTable, proves
from meshkit.shs.listener import SecureListener
from meshkit.shs.probe import PROBE, Question
from meshkit.shs.suites import SHS1, Opening, Session
from meshkit.testing.transports import MemoryNetwork
from tests.shs.common import (
    ALICE,
    BOB,
    CHAT,
    ECHO,
    SERVER_EPHEMERAL,
    HalfRecorder,
    OneFactory,
    Recorder,
    new_client,
    pieces,
)

OLD = NetworkSecret(b"o" * 32).key()
NEW = NetworkSecret(b"n" * 32).key()


def opening(*capabilities: Capability) -> Opening:
    table = HelloTable()
    for capability in capabilities or (ECHO,):
        table.register(capability)

    def choose(hello: bytes) -> Session:
        found = table.match(hello)
        if found is None:
            raise NetworkKeyRefused("no")
        return SHS1.respond(BOB, found, SERVER_EPHEMERAL)

    return Opening(BOB, choose)


class OpeningTests(SynchronousTestCase):
    """What comes before the suite is known."""

    @given(st.integers(0, 2**32), st.integers(1, 100))
    def test_in_pieces_of_any_size_it_is_as_the_suite_alone(self, seed: int, largest: int) -> None:
        client = new_client()
        hello = client.start()
        alone = ServerHandshake(BOB, lambda _: ECHO, SERVER_EPHEMERAL)
        expected = alone.receive(hello).send
        server = opening()
        sent = b"".join(
            server.receive(piece).send for piece in pieces(hello, Random(seed), largest)
        )
        self.assertEqual(sent, expected)
        proof = client.receive(sent).send
        steps = [server.receive(piece) for piece in pieces(proof, Random(seed), largest)]
        self.assertEqual(steps[-1].peer, ALICE.public)
        message, outcome = server.accept()
        answered = client.receive(message).outcome
        assert answered is not None
        self.assertEqual(answered.encrypt_key, outcome.decrypt_key)

    def test_what_comes_behind_the_hello_goes_to_the_suite(self) -> None:
        client = new_client()
        hello = client.start()
        proof = client.receive(opening().receive(hello).send).send
        # An honest client cannot know the server's key so early: this one has seen it.
        step = opening().receive(hello + proof + b"rest")
        self.assertEqual((step.peer, step.rest), (ALICE.public, b"rest"))

    def test_nothing_is_said_before_64_bytes_are_here(self) -> None:
        server = opening()
        self.assertEqual(server.start(), b"")
        for byte in new_client().start()[:-1]:
            self.assertEqual(server.receive(bytes([byte])), Step())
            self.assertIsNone(server.capability)

    def test_a_strangers_hello_is_refused(self) -> None:
        with self.assertRaises(NetworkKeyRefused):
            opening(CHAT).receive(new_client().start())

    def test_what_a_loss_means_at_every_byte(self) -> None:
        hello = new_client().start()
        self.assertIn("before it said hello", str(opening().lost()))
        for at in range(1, HELLO_BYTES):
            server = opening()
            server.receive(hello[:at])
            error = server.lost()
            self.assertIsInstance(error, HandshakeTruncated)
            self.assertIn(f"{at} of 64", str(error))
        server = opening()
        server.receive(hello)
        self.assertIn("after our hello", str(server.lost()))

    def test_what_a_deadline_means(self) -> None:
        self.assertIn("its hello", str(opening().timed_out(10)))
        server = opening()
        server.receive(new_client().start())
        self.assertIn("its proof of identity", str(server.timed_out(10)))

    def test_nobody_can_be_accepted_before_the_hello(self) -> None:
        self.assertRaises(RuntimeError, opening().accept)


class OddHello:
    """A suite of somebody else, whose hello is checked in another way."""

    @staticmethod
    def check(key: bytes, hello: bytes) -> bool:
        return hmac.compare_digest(hello[:32], key[::-1])


class CheckTests(SynchronousTestCase):
    """The table tries every pair of capability and check."""

    def test_each_capability_is_checked_in_its_own_way(self) -> None:
        table = HelloTable()
        table.register(ECHO)
        table.register(CHAT, OddHello.check)
        self.assertIs(table.match(CHAT.key[::-1] + bytes(32)), CHAT)
        self.assertIs(table.match(new_client().start()), ECHO)
        self.assertIsNone(table.match(ECHO.key[::-1] + bytes(32)))
        self.assertIsNone(table.match(new_client(capability=CHAT).start()))

    def test_all_pairs_are_tried_wherever_the_match_is(self) -> None:
        for hello in (new_client().start(), CHAT.key[::-1] + bytes(32), bytes(64)):
            table = HelloTable()
            table.register(ECHO)
            table.register(CHAT, OddHello.check)
            with patch.object(hellos.hmac, "compare_digest", wraps=hmac.compare_digest) as compare:
                table.match(hello)
            self.assertEqual(compare.call_count, 2)

    def test_our_own_suites_have_the_same_check(self) -> None:
        self.assertEqual((SHS1.check, PROBE.check), (proves, proves))


class NetworkTests(SynchronousTestCase):
    """While a network's secret is replaced, a port serves both."""

    def test_a_label_is_served_once_per_network(self) -> None:
        table = HelloTable()
        old, new = Capability.of(OLD, "echo"), Capability.of(NEW, "echo")
        table.register(new)
        table.register(old)
        self.assertIs(table.match(new_client(capability=old).start()), old)
        self.assertIs(table.match(new_client(capability=new).start()), new)
        with self.assertRaises(PartConflict):
            table.register(Capability("echo", 1, b"x" * 32, OLD.net_id))
        table.unregister(old)
        self.assertIsNone(table.match(new_client(capability=old).start()))
        self.assertIn(new, table)

    def test_the_same_network_twice_is_a_conflict(self) -> None:
        table = HelloTable()
        table.register(Capability.of(OLD, "echo"))
        with self.assertRaises(PartConflict):
            table.register(Capability.of(OLD, "echo"))

    def test_it_is_that_of_the_network(self) -> None:
        capability = Capability.of(OLD, "echo", 3)
        self.assertEqual(
            (capability.label, capability.version, capability.key, capability.network),
            ("echo", 3, OLD.capability("echo", 3), OLD.net_id),
        )

    def test_one_factory_serves_both_and_is_started_once(self) -> None:
        clock = Clock()
        network = MemoryNetwork(clock)
        listener = SecureListener(clock, BOB, Random(1))
        served: Any = OneFactory(Recorder)
        for key in (NEW, OLD):
            listener.register(Capability.of(key, "echo"), served)
        port = self.successResultOf(network.server_endpoint(7655).listen(listener))
        self.assertEqual(served.running, 1)
        for key in (OLD, NEW):
            dialled: Deferred[Any] = wrap_client(
                clock,
                network.client_endpoint(7655),
                identity=ALICE,
                capability=Capability.of(key, "echo"),
                peer=BOB.public,
                rng=Random(2),
            ).connect(OneFactory(HalfRecorder))
            clock.pump([0.01] * 10)
            self.successResultOf(dialled)
        self.assertEqual(
            [channel.capability.network for channel in listener.channels if channel.capability],
            [OLD.net_id, NEW.net_id],
        )
        port.stopListening()
        self.assertEqual(served.running, 0)
        for channel in listener.channels:
            channel.abortConnection()
        clock.pump([0.01] * 10)


class AnswerTests(SynchronousTestCase):
    """A handshake that leads to no stream."""

    def test_its_session_says_when_it_is_over(self) -> None:
        capability = Capability("key-probe", 1, bytes(32))
        asking = Question(capability, ALICE.public, b"q" * 32)
        step = PROBE.respond(BOB, capability, b"e" * 32).receive(asking.start())
        self.assertTrue(step.finished)
        self.assertEqual((step.peer, step.outcome), (None, None))
        self.assertEqual(asking.receive(step.send), BOB.public)
