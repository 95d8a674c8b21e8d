"""
Peers that mean no good, against the channel and the listener in memory: every message
changed, cut, repeated, sent back or sent slowly; floods; boxes that no honest program
makes.  What the state machines alone say to it stands in C{test_handshake.py} and
C{test_boxstream.py}.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Final

from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings
from nacl.secret import SecretBox
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    FrameTooLarge,
    HandshakeError,
    HandshakeTimeout,
    HandshakeTruncated,
    HelloReplayed,
    NetworkKeyRefused,
    PeerKeyRefused,
    TamperedStream,
    TruncatedStream,
)
from meshkit.identity.keys import PublicKey
from meshkit.shs.boxstream import MAX_BODY, Boxer
from meshkit.shs.channel import AUTHORIZE_TIMEOUT, HANDSHAKE_TIMEOUT, SecureChannel
from meshkit.shs.endpoints import wrap_client
from meshkit.shs.hellos import hello_mac
from meshkit.shs.listener import (
    MAX_UNAUTHENTICATED,
    MAX_UNAUTHENTICATED_LOCAL,
    MAX_UNAUTHENTICATED_PER_ORIGIN,
    SecureListener,
)
from meshkit.shs.probe import PROBE
from meshkit.shs.suites import Opening
from meshkit.testing.transports import MemoryNetwork, connect_protocols
from tests.shs.common import (
    ALICE,
    BOB,
    CAROL,
    CLIENT_EPHEMERAL,
    ECHO,
    SERVER_EPHEMERAL,
    OneFactory,
    Owner,
    Pair,
    Recorder,
    new_client,
    new_server,
    transcript,
)

#: An honest handshake, with the ephemeral keys that L{new_client} and L{new_server} have.
MESSAGES, CLIENT_OUTCOME, SERVER_OUTCOME = transcript(new_client(), new_server())
LENGTHS: Final = [len(message) for message in MESSAGES]

#: The same two, at another time.
EARLIER, _, _ = transcript(
    new_client(ephemeral=CLIENT_EPHEMERAL[::-1]), new_server(ephemeral=SERVER_EPHEMERAL[::-1])
)

#: u-coordinates of small order on Curve25519 and its twist, and what equals them modulo
#: p (RFC 7748, 6.1; the list in libsodium's C{x25519_ref10.c}).
SMALL_ORDER: Final = (
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
)

PORT: Final = 7655

LOST: Final = [("lost", TruncatedStream)]


class Alone:
    """One channel, and a test that plays the peer byte by byte."""

    def __init__(self, session: Any, verdict: Any = True) -> None:
        self.clock = Clock()
        self.app = Recorder()
        self.owner = Owner(self.app, verdict)
        self.channel = SecureChannel(self.clock, session, self.owner)
        self.peer = Recorder()
        self.wire = connect_protocols(self.peer, self.channel)
        self.settle()

    def say(self, data: bytes) -> None:
        if self.peer.reason is None:
            self.peer.transport.write(data)
        self.settle()

    def settle(self) -> None:
        self.wire.pump()
        while any(c.getTime() <= self.clock.seconds() for c in self.clock.getDelayedCalls()):
            self.clock.advance(0)
            self.wire.pump()

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.settle()

    @property
    def heard(self) -> bytes:
        """What the peer got to see."""
        return bytes(self.peer.received)

    @property
    def error(self) -> Any:
        return None if self.owner.failure is None else type(self.owner.failure.value)


def client_alone() -> Alone:
    return Alone(new_client())


def server_alone(verdict: Any = True) -> Alone:
    return Alone(new_server(), verdict)


class HostileTestCase(SynchronousTestCase):
    def assert_refused(self, alone: Alone, error: type, heard: bytes) -> None:
        """It ended under this name, the peer saw no more than this, and nothing is left."""
        self.assertIs(alone.error, error)
        self.assertEqual(alone.heard, heard)
        self.assertEqual(alone.owner.events, ["failed", "lost"])
        self.assertEqual(alone.app.events, [])
        self.assertIsNotNone(alone.peer.reason)
        self.assertEqual(alone.clock.getDelayedCalls(), [])


class SlowLorisTests(HostileTestCase):
    """A byte now and then keeps no connection open longer than the one deadline."""

    def steps(self) -> Iterator[tuple[str, Alone, bytes, bytes]]:
        """Which message, to whom, the message, and what its receiver said before it."""
        first, second, third, fourth = MESSAGES
        yield "1", server_alone(), first, b""
        yield "2", client_alone(), second, first
        (server := server_alone()).say(first)
        yield "3", server, third, second
        (client := client_alone()).say(second)
        yield "4", client, fourth, first + third

    def test_a_byte_a_second_at_each_step_is_cut_off_at_the_deadline(self) -> None:
        for name, alone, message, said in self.steps():
            for second in range(int(HANDSHAKE_TIMEOUT)):
                self.assertIsNone(alone.peer.reason, (name, second))
                alone.say(message[second : second + 1])
                alone.pass_time(1.0)
            self.assert_refused(alone, HandshakeTimeout, said)

    def test_all_bytes_but_one_in_time_are_no_message(self) -> None:
        for _, alone, message, said in self.steps():
            for byte in message[:-1]:
                alone.say(bytes([byte]))
                alone.pass_time(HANDSHAKE_TIMEOUT / len(message))
            alone.pass_time(HANDSHAKE_TIMEOUT / len(message) + 0.001)
            self.assert_refused(alone, HandshakeTimeout, said)

    def test_a_step_that_is_finished_gives_no_more_time_for_the_next(self) -> None:
        for name, alone, message, said in self.steps():
            alone.pass_time(HANDSHAKE_TIMEOUT - 0.1)
            alone.say(message)
            self.assertEqual(alone.heard == said, name == "4", name)
            alone.pass_time(0.2)
            if name in "34":
                self.assertEqual((alone.app.events, alone.error), (["made"], None), name)
                self.assertEqual(alone.clock.getDelayedCalls(), [])
            else:
                self.assertIs(alone.error, HandshakeTimeout, name)

    def test_our_own_decision_is_within_the_deadline(self) -> None:
        alone = server_alone(Deferred())
        alone.say(MESSAGES[0])
        alone.pass_time(HANDSHAKE_TIMEOUT - AUTHORIZE_TIMEOUT / 2)
        alone.say(MESSAGES[2])
        self.assertEqual(alone.owner.asked, [ALICE.public])
        alone.pass_time(AUTHORIZE_TIMEOUT / 2)
        self.assert_refused(alone, HandshakeTimeout, MESSAGES[1])

    def test_a_key_probe_a_byte_a_second(self) -> None:
        alone = Alone(Opening(BOB, lambda _: PROBE.respond(BOB, ECHO, SERVER_EPHEMERAL)))
        for byte in MESSAGES[0][: int(HANDSHAKE_TIMEOUT)]:
            alone.say(bytes([byte]))
            alone.pass_time(1.0)
        self.assert_refused(alone, HandshakeTimeout, b"")

    def test_a_client_that_does_not_read_what_we_say_either(self) -> None:
        alone = server_alone()
        alone.wire.first.pauseProducing()
        alone.say(MESSAGES[0])
        alone.pass_time(HANDSHAKE_TIMEOUT)
        self.assertIs(alone.error, HandshakeTimeout)
        self.assertFalse(alone.wire.second.connected)


class ChangedTests(HostileTestCase):
    """A man in the middle who changes one message: nobody is connected by it."""

    def run_changed(self, number: int, change: Callable[[bytes], bytes]) -> Pair:
        """Change message C{number}, 0 to 3, on its way."""
        pair = Pair()
        seen = {pair.wire.first: -2, pair.wire.second: -1}

        def intercept(source: Any, data: bytes) -> bytes:
            seen[source] += 2
            return change(data) if seen[source] == number else data

        pair.wire.intercept = intercept
        pair.pump()
        # Whoever waits for bytes that do not come waits until the deadline.
        pair.advance(HANDSHAKE_TIMEOUT)
        return pair

    def assert_nobody_is_connected(self, pair: Pair, number: int, where: object) -> None:
        """But for the server, when it was the last message that was changed."""
        self.assertEqual(pair.client.events, [], where)
        self.assertEqual(pair.client_owner.events, ["failed", "lost"], where)
        if number < 3:
            self.assertEqual(pair.server.events, [], where)
            self.assertEqual(pair.server_owner.events, ["failed", "lost"], where)
            self.assertLessEqual(pair.wire.second.sent, LENGTHS[1], where)
        else:
            self.assertEqual(pair.server.events, ["made", ("lost", TruncatedStream)], where)
        self.assertEqual(pair.clock.getDelayedCalls(), [], where)

    def reason(self, owner: Owner) -> Any:
        return None if owner.failure is None else type(owner.failure.value)

    def test_each_byte_flipped(self) -> None:
        found = {0: NetworkKeyRefused, 1: NetworkKeyRefused, 2: PeerKeyRefused, 3: PeerKeyRefused}
        for number, length in enumerate(LENGTHS):
            for at in range(length):

                def flip(data: bytes, at: int = at) -> bytes:
                    return data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :]

                pair = self.run_changed(number, flip)
                self.assert_nobody_is_connected(pair, number, (number, at))
                receiver = pair.client_owner if number % 2 else pair.server_owner
                self.assertIs(self.reason(receiver), found[number], (number, at))

    def test_each_byte_lost_and_each_doubled(self) -> None:
        for number, length in enumerate(LENGTHS):
            for at in range(0, length, 3):
                for kept in (0, 2):

                    def change(data: bytes, at: int = at, kept: int = kept) -> bytes:
                        return data[:at] + data[at : at + 1] * kept + data[at + 1 :]

                    # Where a byte equals the one behind it, doubling it at the end only
                    # adds a byte behind the message.
                    if change(MESSAGES[number])[:length] == MESSAGES[number]:
                        continue
                    pair = self.run_changed(number, change)
                    self.assert_nobody_is_connected(pair, number, (number, at, kept))

    def test_each_message_cut_short(self) -> None:
        for number, length in enumerate(LENGTHS):
            for kept in range(length):
                pair = self.run_changed(number, lambda data, kept=kept: data[:kept])
                self.assert_nobody_is_connected(pair, number, (number, kept))
                receiver = pair.client_owner if number % 2 else pair.server_owner
                # Both wait; which of them gives up first is chance, and the other sees it.
                self.assertIn(
                    self.reason(receiver),
                    (HandshakeTimeout, HandshakeTruncated, NetworkKeyRefused, PeerKeyRefused),
                    (number, kept),
                )

    def test_each_message_of_an_earlier_handshake(self) -> None:
        for number in range(4):
            pair = self.run_changed(number, lambda _, number=number: EARLIER[number])
            self.assert_nobody_is_connected(pair, number, number)
            # The hellos prove the network and no more than that.
            refusing = pair.client_owner if number == 3 else pair.server_owner
            self.assertIs(self.reason(refusing), PeerKeyRefused, number)

    def test_each_message_twice(self) -> None:
        for number in range(4):
            pair = self.run_changed(number, lambda data: data * 2)
            if number < 2:
                # The second is taken for the beginning of the proof.
                receiver = pair.client_owner if number % 2 else pair.server_owner
                self.assertIs(self.reason(receiver), PeerKeyRefused, number)
                self.assertEqual(pair.client.events, [], number)
            else:
                # The handshake is over: what follows it is no box.
                receiver = pair.client if number % 2 else pair.server
                self.assertEqual(receiver.events, ["made", ("lost", TamperedStream)])

    def test_all_of_it_byte_by_byte(self) -> None:
        pair = Pair(chunk=lambda waiting: 1).open()
        pair.client.transport.write(b"question")
        pair.pump()
        self.assertEqual(bytes(pair.server.received), b"question")


class ReplayTests(HostileTestCase):
    """A whole recording, played to either side, opens nothing."""

    def test_a_recorded_client(self) -> None:
        alone = Alone(new_server(ephemeral=SERVER_EPHEMERAL[::-1]))
        alone.say(MESSAGES[0])
        answer = alone.heard
        self.assertEqual(len(answer), LENGTHS[1])
        alone.say(MESSAGES[2])
        self.assert_refused(alone, PeerKeyRefused, answer)

    def test_a_recorded_server(self) -> None:
        alone = Alone(new_client(ephemeral=CLIENT_EPHEMERAL[::-1]))
        alone.say(MESSAGES[1])
        sent = alone.heard
        alone.say(MESSAGES[3])
        self.assert_refused(alone, PeerKeyRefused, sent)

    def test_a_recorded_box(self) -> None:
        box = Boxer(CLIENT_OUTCOME.encrypt_key, CLIENT_OUTCOME.encrypt_nonce).box(b"pay 10")
        alone = server_alone()
        alone.say(MESSAGES[0])
        alone.say(MESSAGES[2] + box)
        self.assertEqual(alone.app.events, ["made", b"pay 10"])
        alone.say(box)
        self.assertEqual(alone.app.events[2:], [("lost", TamperedStream)])


class ReflectionTests(HostileTestCase):
    """Each message comes back to whom it came from."""

    def test_our_hello_to_the_client(self) -> None:
        alone = client_alone()
        alone.say(MESSAGES[0])
        self.assert_refused(alone, NetworkKeyRefused, MESSAGES[0])

    def test_our_hello_to_the_server(self) -> None:
        alone = server_alone()
        alone.say(MESSAGES[0])
        # As long as the proof that it waits for.
        alone.say((alone.heard * 2)[: LENGTHS[2]])
        self.assert_refused(alone, PeerKeyRefused, MESSAGES[1])

    def test_our_proof_to_the_client(self) -> None:
        alone = client_alone()
        alone.say(MESSAGES[1])
        alone.say(MESSAGES[2][: LENGTHS[3]])
        self.assert_refused(alone, PeerKeyRefused, MESSAGES[0] + MESSAGES[2])

    def test_our_proof_to_the_server(self) -> None:
        alone = server_alone()
        alone.say(MESSAGES[0])
        alone.say(MESSAGES[2])
        alone.say(MESSAGES[3])
        self.assertEqual(alone.app.events, ["made", ("lost", TamperedStream)])

    def test_our_boxes_to_either_side(self) -> None:
        for side in ("client", "server"):
            alone = client_alone() if side == "client" else server_alone()
            for message in MESSAGES[1::2] if side == "client" else MESSAGES[0::2]:
                alone.say(message)
            said = len(alone.heard)
            alone.app.transport.write(b"pay 10")
            alone.settle()
            alone.say(alone.heard[said:])
            self.assertEqual(alone.app.events, ["made", ("lost", TamperedStream)], side)

    def test_our_goodbye_does_not_end_our_reading(self) -> None:
        alone = server_alone()
        alone.say(MESSAGES[0])
        alone.say(MESSAGES[2])
        said = len(alone.heard)
        alone.app.transport.loseConnection()
        alone.settle()
        alone.say(alone.heard[said:])
        self.assertEqual(alone.app.events, ["made", ("lost", TamperedStream)])


class ForeignBoxTests(HostileTestCase):
    """Boxes that no honest program makes, from a peer that has the key of the stream."""

    def setUp(self) -> None:
        self.alone = server_alone()
        self.alone.say(MESSAGES[0])
        self.alone.say(MESSAGES[2])
        self.nonce = int.from_bytes(CLIENT_OUTCOME.encrypt_nonce, "big")

    def seal(self, plain: bytes) -> bytes:
        nonce = (self.nonce % 2**192).to_bytes(24, "big")
        self.nonce += 1
        return SecretBox(CLIENT_OUTCOME.encrypt_key).encrypt(plain, nonce).ciphertext

    def box(self, body: bytes, length: int | None = None) -> bytes:
        """A box whose header says C{length}, whatever its body has."""
        header_nonce, self.nonce = self.nonce, self.nonce + 1
        sealed = self.seal(body)
        after, self.nonce = self.nonce, header_nonce
        said = len(body) if length is None else length
        header = self.seal(said.to_bytes(2, "big") + sealed[:16])
        self.nonce = after
        return header + sealed[16:]

    def test_empty_boxes_are_no_data_and_hide_none(self) -> None:
        self.alone.say(self.box(b""))
        self.assertEqual(self.alone.app.events, ["made"])
        self.alone.say(self.box(b"") + self.box(b"here") + self.box(b""))
        self.assertEqual(self.alone.app.events, ["made", b"here"])
        for _ in range(1000):
            self.alone.say(self.box(b""))
        self.alone.say(self.box(b"still"))
        self.assertEqual(self.alone.app.events, ["made", b"here", b"still"])

    def test_the_largest_box_is_taken_whole(self) -> None:
        box = self.box(bytes(MAX_BODY))
        self.alone.say(box[:-1])
        self.assertEqual(self.alone.app.events, ["made"])
        self.alone.say(box[-1:])
        self.assertEqual(self.alone.app.events, ["made", bytes(MAX_BODY)])

    def test_longer_boxes_end_the_connection_before_their_body_comes(self) -> None:
        for length in (MAX_BODY + 1, 32768, 65535):
            self.setUp()
            self.alone.say(self.box(b"good") + self.box(b"", length)[:34])
            self.assertEqual(
                self.alone.app.events, ["made", b"good", ("lost", FrameTooLarge)], length
            )
            self.assertFalse(self.alone.wire.second.connected)

    def test_a_longer_box_that_is_all_here_is_not_taken_either(self) -> None:
        self.alone.say(self.box(bytes(MAX_BODY + 1)))
        self.assertEqual(self.alone.app.events, ["made", ("lost", FrameTooLarge)])

    def test_a_header_over_another_body(self) -> None:
        first = self.box(b"first")
        other = self.box(b"other")
        self.alone.say(first[:34] + other[34:])
        self.assertEqual(self.alone.app.events, ["made", ("lost", TamperedStream)])

    def test_a_header_that_says_less_or_more_than_its_body_has(self) -> None:
        for length in (3, 5):
            self.setUp()
            self.alone.say(self.box(b"body", length) + self.box(b"next"))
            self.assertEqual(self.alone.app.events, ["made", ("lost", TamperedStream)], length)

    def test_half_a_goodbye_is_none(self) -> None:
        # No length and a MAC that is not of zeros: an empty box that is none.
        self.alone.say(self.seal(bytes(17) + b"x"))
        self.assertEqual(self.alone.app.events, ["made", ("lost", TamperedStream)])

    def test_a_goodbye_with_a_length_is_none(self) -> None:
        self.alone.say(self.seal(b"\x00\x04" + bytes(16)) + b"body")
        self.assertEqual(self.alone.app.events, ["made", ("lost", TamperedStream)])


class GarbageTests(HostileTestCase):
    """Whatever comes, at whatever point: a reason with a name, and nothing in the reactor."""

    @given(
        st.booleans(),
        st.integers(0, 3),
        st.lists(st.one_of(st.binary(max_size=200), st.integers(0, 3)), max_size=8),
    )
    def test_any_bytes_at_any_point(
        self, client: bool, honest: int, then: list[bytes | int]
    ) -> None:
        alone = client_alone() if client else server_alone()
        for message in (MESSAGES[1::2] if client else MESSAGES[0::2])[:honest]:
            alone.say(message)
        for each in then:
            # Bytes, or a message that is good in another place.
            alone.say(MESSAGES[each] if isinstance(each, int) else each)
        opened = alone.app.events[:1] == ["made"]
        alone.pass_time(HANDSHAKE_TIMEOUT)
        alone.wire.cut()
        alone.settle()
        if opened:
            self.assertIn(alone.app.events[1:], ([("lost", TamperedStream)], LOST))
        else:
            self.assertEqual(alone.app.events, [])
            self.assertTrue(issubclass(alone.error, HandshakeError), alone.error)
        self.assertEqual(alone.owner.events[-1], "lost")
        self.assertEqual(alone.clock.getDelayedCalls(), [])


class FloodTests(SynchronousTestCase):
    """Connections that say nothing: what they cost is bounded, and others come in."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork()
        self.listener = SecureListener(self.clock, BOB, Random(1))
        self.served = OneFactory(Recorder)
        self.listener.register(ECHO, self.served)
        self.successResultOf(self.network.server_endpoint(PORT).listen(self.listener))
        self.rng = Random(2)

    def turn(self) -> None:
        """Whoever's turn it is at the listener."""
        self.clock.advance(0)

    def pump(self) -> None:
        """Until nothing moves and no turn is due."""
        self.network.pump()
        while any(c.getTime() <= self.clock.seconds() for c in self.clock.getDelayedCalls()):
            self.turn()
            self.network.pump()

    def knock(self, source: str) -> None:
        """Connect, and say nothing."""
        self.network.client_endpoint(PORT, source=source).connect(OneFactory(Recorder))

    def forget_the_gone(self) -> None:
        """As a kernel does."""
        self.network.wires[:] = [w for w in self.network.wires if w.second.connected]

    def dial(self, source: str) -> Deferred[Any]:
        return wrap_client(
            self.clock,
            self.network.client_endpoint(PORT, source=source),
            identity=ALICE,
            capability=ECHO,
            peer=BOB.public,
            rng=self.rng,
        ).connect(OneFactory(Recorder))

    def flood(self, sources: list[str]) -> None:
        for source in sources:
            self.knock(source)
        self.pump()
        self.forget_the_gone()

    def channels(self) -> int:
        """How many there are in memory, on the listener's side."""
        gc.collect()
        return sum(
            isinstance(each, SecureChannel) and each._owner is self.listener
            for each in gc.get_objects()
        )

    def addresses(self, count: int) -> list[str]:
        return [f"198.51.{n // 250}.{n % 250}" for n in range(count)]

    def test_a_thousand_from_one_address_hold_sixteen_places(self) -> None:
        self.flood(["192.0.2.1"] * 1000)
        self.assertEqual(self.listener.unauthenticated, MAX_UNAUTHENTICATED_PER_ORIGIN)
        self.assertEqual(self.channels(), MAX_UNAUTHENTICATED_PER_ORIGIN)
        self.assertEqual(
            self.listener.refusals,
            {"TOO_MANY_HANDSHAKES": 1000 - MAX_UNAUTHENTICATED_PER_ORIGIN},
        )

    def test_a_thousand_from_this_machine_hold_thirty_two(self) -> None:
        self.flood(["127.0.0.1"] * 1000)
        self.assertEqual(self.channels(), MAX_UNAUTHENTICATED_LOCAL)

    def test_a_thousand_from_a_thousand_addresses_hold_512(self) -> None:
        self.flood(self.addresses(1000))
        self.assertEqual(self.listener.unauthenticated, MAX_UNAUTHENTICATED)
        self.assertEqual(self.channels(), MAX_UNAUTHENTICATED)
        # One timer each, and all of it is gone with the deadline.
        self.assertEqual(len(self.clock.getDelayedCalls()), MAX_UNAUTHENTICATED)
        self.clock.advance(HANDSHAKE_TIMEOUT)
        self.network.pump()
        self.forget_the_gone()
        self.assertEqual((self.listener.unauthenticated, self.channels()), (0, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_honest_peers_come_in_while_it_is_full(self) -> None:
        self.flood(self.addresses(1000))
        for n in range(20):
            d = self.dial(f"192.0.2.{n}")
            self.pump()
            self.assertEqual(self.successResultOf(d).events, ["made"])
        self.assertEqual(len(self.listener.channels), 20)

    def test_honest_peers_come_in_while_the_flood_goes_on(self) -> None:
        # A handshake takes a few round trips, and in each the flood takes 20 more places
        # of 512: nearly all come through at once, and all by dialling again.
        self.flood(self.addresses(600))
        attempts = 0
        for n in range(10):
            came_in = False
            while not came_in:
                attempts += 1
                self.assertLess(attempts, 20)
                outcome: list[Any] = []
                self.dial(f"192.0.2.{n}").addBoth(outcome.append)
                while not outcome:
                    for _ in range(20):
                        self.knock(f"203.0.{self.rng.randrange(256)}.{self.rng.randrange(256)}")
                    self.network._connect_waiting()
                    for wire in tuple(self.network.wires):
                        wire.step()
                    self.turn()
                    self.forget_the_gone()
                came_in = isinstance(outcome[0], Recorder)
        self.assertEqual(len(self.listener.channels), 10)

    def test_an_honest_peer_of_another_address_is_not_dropped_for_one_that_floods(self) -> None:
        d = self.dial("192.0.2.9")
        self.network._connect_waiting()
        self.flood(["192.0.2.1"] * 1000)
        self.assertEqual(self.successResultOf(d).events, ["made"])

    def test_what_was_dropped_is_told_nothing(self) -> None:
        self.flood(["192.0.2.1"] * 17)
        self.assertEqual([w.second.sent for w in self.network.wires], [0] * 16)

    def test_a_hello_played_back_hundreds_of_times_is_answered_once(self) -> None:
        hello = new_client().start()
        for n in range(300):
            self.knock(f"198.51.100.{n % 50}")
            self.network._connect_waiting()
            self.network.wires[-1].first.write(hello)
            self.network.wires[-1].pump()
            self.pump()
        self.assertEqual(sum(w.second.sent for w in self.network.wires), LENGTHS[1])
        self.assertEqual(self.listener.refusals, {HelloReplayed.code: 299})


class MixedOrder:
    """
    A key pair whose public key is that of an honest one plus a point of order 8.  It can
    still sign whenever the hash is a multiple of 8 (RFC 8032, 5.1.7, without the cofactor),
    and it tries until that is so.
    """

    _ORDER = 2**252 + 27742317777372353535851937790883648493
    _POINT_OF_ORDER_8 = bytes.fromhex(
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"
    )

    class _Public:
        def __init__(self, raw: bytes) -> None:
            self.raw = raw

    def __init__(self) -> None:
        self._rng = Random(5)
        self._secret = self._rng.randrange(1, self._ORDER)
        self.public = self._Public(
            bindings.crypto_core_ed25519_add(self._base_times(self._secret), self._POINT_OF_ORDER_8)
        )
        self._x25519_secret = self._secret.to_bytes(32, "little")

    def _base_times(self, number: int) -> bytes:
        return bindings.crypto_scalarmult_ed25519_base_noclamp(number.to_bytes(32, "little"))

    def _sign_raw(self, data: bytes) -> bytes:
        while True:
            once = self._rng.randrange(1, self._ORDER)
            r = self._base_times(once)
            digest = hashlib.sha512(r + self.public.raw + data).digest()
            h = int.from_bytes(digest, "little") % self._ORDER
            if h % 8 == 0:
                s = (once + h * self._secret) % self._ORDER
                return r + s.to_bytes(32, "little")


class CraftedKeyTests(HostileTestCase):
    """Keys that are ours, or that no honest program makes."""

    def test_a_peer_that_proves_our_own_key_is_refused(self) -> None:
        # Somebody with a copy of our disk: it dials as Carol, and then claims to be Bob.
        client, alone = new_client(identity=CAROL), server_alone()
        alone.say(client.start())
        client._identity = BOB
        alone.say(client.receive(alone.heard).send)
        self.assert_refused(alone, PeerKeyRefused, MESSAGES[1])
        self.assertIn("own key", str(alone.owner.failure and alone.owner.failure.value))

    def test_an_identity_of_small_order_proves_nothing(self) -> None:
        # For the neutral point anybody can make what an equation alone would accept:
        # S = 0 and R = A, as S B = R + h A.
        for number in (1, 1 | 1 << 255, 2**255 - 18):
            point = number.to_bytes(32, "little")

            class Nobody:
                class public:
                    raw = point

                _x25519_secret = CAROL._x25519_secret

                @staticmethod
                def _sign_raw(data: bytes, point: bytes = point) -> bytes:
                    return point + bytes(32)

            client, alone = new_client(identity=Nobody()), server_alone()  # type: ignore[arg-type]
            alone.say(client.start())
            alone.say(client.receive(alone.heard).send)
            self.assert_refused(alone, PeerKeyRefused, MESSAGES[1])

    def test_an_identity_of_mixed_order_is_refused_although_it_can_sign(self) -> None:
        # Its signatures verify, as libsodium multiplies by the cofactor nowhere; but it is
        # no key for X25519.  What refuses it must not escape into the reactor.
        identity = MixedOrder()
        self.assertTrue(PublicKey(identity.public.raw).verifies(b"x", identity._sign_raw(b"x")))
        client, alone = new_client(identity=identity), server_alone()  # type: ignore[arg-type]
        alone.say(client.start())
        alone.say(client.receive(alone.heard).send)
        self.assert_refused(alone, PeerKeyRefused, MESSAGES[1])
        self.assertIn("not a usable key", str(alone.owner.failure and alone.owner.failure.value))

    def test_small_order_and_zero_ephemeral_keys_are_told_nothing(self) -> None:
        for point in SMALL_ORDER:
            hello = hello_mac(ECHO.key, point) + point
            client = client_alone()
            client.say(hello)
            self.assert_refused(client, PeerKeyRefused, MESSAGES[0])
            server = server_alone()
            server.say(hello)
            server.say(bytes(LENGTHS[2]))
            self.assert_refused(server, PeerKeyRefused, MESSAGES[1])
