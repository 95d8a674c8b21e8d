"""
Tests of L{meshkit.shs.egregore}: known answers, and whatever can be changed, missing,
reflected or of an older generation.
"""

from __future__ import annotations

import hashlib
import hmac
from functools import partial
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    HandshakeTruncated,
    NetworkKeyRefused,
    OlderWireRefused,
    PeerKeyRefused,
)
from meshkit.identity.keys import Identity
from meshkit.shs import wrap_client, wrap_session
from meshkit.shs.egregore import (
    EGREGORE,
    PROOF_BYTES,
    EgregoreClient,
    EgregoreServer,
    network_capability,
    proves,
)
from meshkit.shs.egregore_stream import record
from meshkit.shs.handshake import Outcome
from meshkit.shs.listener import SecureListener
from meshkit.testing.transports import MemoryNetwork
from tests.shs import egregore_vectors as known
from tests.shs.common import ALICE, BOB, ECHO, HalfRecorder, OneFactory, Recorder, pieces

CLIENT = Identity(known.CLIENT_SEED)
SERVER = Identity(known.SERVER_SEED)
NETWORK = network_capability(known.NETWORK)


def new_client(identity: Identity = CLIENT, network: Any = NETWORK) -> EgregoreClient:
    return EgregoreClient(identity, network, known.CLIENT_EPHEMERAL)


def new_server(identity: Identity = SERVER) -> EgregoreServer:
    return EgregoreServer(identity, NETWORK, known.SERVER_EPHEMERAL)


def transcript() -> tuple[list[bytes], Outcome, Outcome]:
    client, server = new_client(), new_server()
    first = client.start()
    second = server.receive(first).send
    third = client.receive(second).send
    assert server.receive(third).peer == CLIENT.public
    fourth, served = server.accept()
    dialled = client.receive(fourth).outcome
    assert dialled is not None
    return [first, second, third, fourth], dialled, served


class Impostor:
    """Claims to be somebody, and signs with a key of its own."""

    def __init__(self, claimed: Identity) -> None:
        self.public = claimed.public
        self._sign_raw = ALICE._sign_raw
        self._x25519_secret = ALICE._x25519_secret


def older_proof(signer: bytes = known.CLIENT_SEED) -> bytes:
    """Message 3 as a client of W0 or W1 makes it, from the page alone."""
    signed = known.CAP + known.SERVER_HELLO[:32] + hashlib.sha256(known.SHARED).digest()
    _, secret = bindings.crypto_sign_seed_keypair(signer)
    signature = bindings.crypto_sign(signed, secret)[:64]
    key = hashlib.sha256(known.CAP + known.SHARED).digest()
    sealed = bindings.crypto_aead_chacha20poly1305_ietf_encrypt(
        signature + CLIENT.public.raw, None, bytes(12), key
    )
    return (112).to_bytes(4, "big") + sealed


class KnownAnswerTests(SynchronousTestCase):
    """Byte for byte what Egregore's own nodes send."""

    def test_the_network_string_becomes_the_capability(self) -> None:
        self.assertEqual(NETWORK.key, known.CAP)

    def test_identities(self) -> None:
        self.assertEqual(
            (CLIENT.public.text, SERVER.public.text), (known.CLIENT_ID, known.SERVER_ID)
        )

    def test_the_four_messages(self) -> None:
        messages, _, _ = transcript()
        self.assertEqual(messages[:2], [known.CLIENT_HELLO, known.SERVER_HELLO])
        for message, side in zip(messages[2:], ("client", "server"), strict=True):
            self.assertEqual((len(message), message[:4]), (PROOF_BYTES, b"\0\0\0\x70"))
            self.assertEqual(
                hashlib.sha256(message[4:]).hexdigest(), known.PROOF_HASHES["W2", side]
            )

    def test_the_keys_of_both_directions(self) -> None:
        _, dialled, served = transcript()
        self.assertEqual(
            (
                dialled.encrypt_key,
                dialled.encrypt_nonce,
                dialled.decrypt_key,
                dialled.decrypt_nonce,
            ),
            (
                known.CLIENT_TO_SERVER_KEY,
                known.CLIENT_TO_SERVER_NONCE,
                known.SERVER_TO_CLIENT_KEY,
                known.SERVER_TO_CLIENT_NONCE,
            ),
        )
        self.assertEqual(
            (served.encrypt_key, served.encrypt_nonce, served.decrypt_key, served.decrypt_nonce),
            (
                dialled.decrypt_key,
                dialled.decrypt_nonce,
                dialled.encrypt_key,
                dialled.encrypt_nonce,
            ),
        )
        self.assertEqual((dialled.peer, served.peer), (SERVER.public, CLIENT.public))

    def test_the_older_proof_that_these_tests_make_is_that_of_w1(self) -> None:
        self.assertEqual(
            hashlib.sha256(older_proof()[4:]).hexdigest(), known.PROOF_HASHES["W1", "client"]
        )


class RefusalTests(SynchronousTestCase):
    """Everybody who is not who he says."""

    def test_in_pieces_of_any_size(self) -> None:
        (first, second, third, fourth), _, _ = transcript()
        for size in (1, 3, 63, 1000):
            client, server = new_client(), new_server()
            client.start()
            for piece in pieces(first + third, Random(size), size):
                server.receive(piece)
            server.accept()
            last = [client.receive(piece) for piece in pieces(second + fourth, Random(1), size)][-1]
            self.assertIsNotNone(last.outcome)

    @given(st.integers(0, 3), st.integers(0, 8 * PROOF_BYTES - 1))
    def test_any_changed_bit_is_refused(self, which: int, bit: int) -> None:
        messages, _, _ = transcript()
        at = bit // 8 % len(messages[which])
        changed = bytearray(messages[which])
        changed[at] ^= 1 << bit % 8
        client, server = new_client(), new_server()
        client.start()
        with self.assertRaises((NetworkKeyRefused, PeerKeyRefused)):
            if which == 0:
                server.receive(bytes(changed))
            elif which == 2:
                server.receive(messages[0])
                server.receive(bytes(changed))
            else:
                client.receive(bytes(changed) if which == 1 else messages[1])
                client.receive(bytes(changed))

    def test_another_network(self) -> None:
        stranger = new_client(network=network_capability("another"))
        self.assertFalse(proves(NETWORK.key, stranger.start()))
        self.assertRaises(NetworkKeyRefused, new_server().receive, known.SERVER_HELLO[::-1])
        client = new_client()
        client.start()
        answer = EgregoreServer(SERVER, network_capability("another"), bytes(32)).receive
        hello = EgregoreClient(CLIENT, network_capability("another"), b"e" * 32).start()
        self.assertRaises(NetworkKeyRefused, client.receive, answer(hello).send)

    def test_a_mirror_that_knows_no_network_string_is_refused_at_its_first_message(self) -> None:
        # An older node accepted its own hello and its own proof as the other side's (S2).
        client = new_client()
        error = self.assertRaises(NetworkKeyRefused, client.receive, client.start())
        self.assertIn("sent back", str(error))

    def test_a_client_that_sends_back_our_ephemeral_key(self) -> None:
        server = EgregoreServer(SERVER, NETWORK, known.CLIENT_EPHEMERAL)
        self.assertRaises(NetworkKeyRefused, server.receive, known.CLIENT_HELLO)

    def test_a_client_that_signs_with_another_key_than_it_names(self) -> None:
        client, server = new_client(Impostor(CLIENT)), new_server()  # type: ignore[arg-type]
        proof = client.receive(server.receive(client.start()).send).send
        error = self.assertRaises(PeerKeyRefused, server.receive, proof)
        self.assertIn(CLIENT.public.text, str(error))

    def test_a_server_that_signs_with_another_key_than_it_names(self) -> None:
        client, server = new_client(), new_server(Impostor(SERVER))  # type: ignore[arg-type]
        server.receive(client.receive(server.receive(client.start()).send).send)
        error = self.assertRaises(PeerKeyRefused, client.receive, server.accept()[0])
        self.assertIn(SERVER.public.text, str(error))

    def test_our_own_identity_at_the_other_end(self) -> None:
        client, server = new_client(), new_server(CLIENT)
        proof = client.receive(server.receive(client.start()).send).send
        error = self.assertRaises(PeerKeyRefused, server.receive, proof)
        self.assertIn("own key", str(error))
        _, *rest = transcript()[0]
        client = new_client(SERVER)
        client.start()
        client.receive(rest[0])
        # The server's proof was made for another client key, but names the same ephemerals.
        self.assertRaises(PeerKeyRefused, client.receive, rest[2])

    def test_a_key_of_small_order_is_refused(self) -> None:
        zero = bytes(32)
        hello = zero + hmac.digest(known.CAP, zero, "sha256")
        server = new_server()
        server.receive(hello)
        self.assertRaises(PeerKeyRefused, server.receive, bytes(PROOF_BYTES))
        client = new_client()
        client.start()
        self.assertRaises(PeerKeyRefused, client.receive, hello)

    def test_the_proofs_of_the_two_sides_cannot_be_exchanged(self) -> None:
        (first, second, third, fourth), _, _ = transcript()
        client, server = new_client(), new_server()
        client.start()
        client.receive(second)
        self.assertRaises(PeerKeyRefused, client.receive, third)
        server.receive(first)
        self.assertRaises(PeerKeyRefused, server.receive, fourth)

    def test_older_generations_are_refused_by_name(self) -> None:
        server = new_server()
        server.receive(known.CLIENT_HELLO)
        error = self.assertRaises(OlderWireRefused, server.receive, older_proof())
        self.assertIn(known.CLIENT_ID, str(error))
        self.assertIn("W0 or W1", str(error))

    def test_an_older_proof_that_is_forged_names_nobody(self) -> None:
        server = new_server()
        server.receive(known.CLIENT_HELLO)
        forged = older_proof(signer=bytes(32))
        error = self.assertRaises(PeerKeyRefused, server.receive, forged)
        self.assertNotIsInstance(error, OlderWireRefused)
        self.assertNotIn("W0", str(error))

    def test_a_proof_of_another_length(self) -> None:
        server = new_server()
        server.receive(known.CLIENT_HELLO)
        wrong = (4096).to_bytes(4, "big") + bytes(112)
        error = self.assertRaises(PeerKeyRefused, server.receive, wrong)
        self.assertIn("length", str(error))

    def test_what_a_loss_means(self) -> None:
        (first, second, *_), _, _ = transcript()
        client = new_client()
        client.start()
        self.assertIsInstance(client.lost(), NetworkKeyRefused)
        client = new_client()
        client.start()
        client.receive(second)
        error = client.lost()
        self.assertIsInstance(error, PeerKeyRefused)
        self.assertIn("1.2.3", str(error))
        client = new_client()
        client.start()
        client.receive(second[:10])
        self.assertIsInstance(client.lost(), HandshakeTruncated)
        for told, words in ((b"", "before it said"), (first, "without proving")):
            server = new_server()
            server.receive(told)
            error = server.lost()
            self.assertIsInstance(error, HandshakeTruncated)
            self.assertIn(words, str(error))

    def test_nothing_out_of_turn(self) -> None:
        client = new_client()
        self.assertRaises(RuntimeError, client.receive, b"")
        client.start()
        self.assertRaises(RuntimeError, client.start)
        self.assertRaises(RuntimeError, new_server().accept)


class OnePortTests(SynchronousTestCase):
    """Two wires side by side on one port."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.network = MemoryNetwork(self.clock)
        self.listener = SecureListener(self.clock, BOB, Random(1))
        self.echo, self.theirs = HalfRecorder(), HalfRecorder()
        self.listener.register(ECHO, OneFactory(self.echo))
        self.listener.register(NETWORK, OneFactory(self.theirs), suite=EGREGORE)
        self.network.server_endpoint(7655).listen(self.listener)

    def dial(self, endpoint: Any) -> Any:
        app = Recorder()
        connecting: Deferred[Any] = endpoint.connect(OneFactory(app))
        self.clock.pump([0.0] * 20)
        self.successResultOf(connecting)
        return app

    def test_each_hello_finds_its_own(self) -> None:
        inner = self.network.client_endpoint(7655)
        ours = self.dial(
            wrap_client(
                self.clock,
                inner,
                identity=ALICE,
                capability=ECHO,
                peer=BOB.public,
                rng=Random(2),
            )
        )
        begin = partial(EgregoreClient, ALICE, NETWORK, b"e" * 32)
        other = self.dial(wrap_session(self.clock, inner, begin, name="w2"))
        ours.transport.write(b"bytes")
        other.transport.write(record(b"a message") + record(b""))
        self.clock.pump([0.0] * 20)
        self.assertEqual(bytes(self.echo.received), b"bytes")
        self.assertEqual(bytes(self.theirs.received), record(b"a message") + record(b""))
        peer = self.theirs.transport.getPeer()  # type: ignore[union-attr]
        self.assertEqual(peer.key, ALICE.public)
        self.assertEqual(other.transport.getPeer().key, BOB.public)
        self.assertEqual(other.transport.getHost().label, "egregore")
        for app in (ours, other):
            app.transport.loseConnection()
        self.clock.pump([0.0] * 20)
        self.assertEqual(self.theirs.events[-1], "read lost")
        for recorder in (self.echo, self.theirs):
            recorder.transport.loseConnection()  # type: ignore[union-attr]
        self.clock.pump([0.0] * 20)
        self.assertEqual(self.listener.channels, ())

    def test_an_older_client_is_named_in_the_count_and_the_log(self) -> None:
        refused: list[Any] = []
        self.listener.on_refusal = lambda address, error: refused.append(error)
        app = Recorder()
        self.network.client_endpoint(7655).connect(OneFactory(app))
        self.clock.pump([0.0] * 5)
        # The listener's ephemeral key is its own, so this proof is made for that one.
        app.transport.write(known.CLIENT_HELLO)  # type: ignore[union-attr]
        self.clock.pump([0.0] * 5)
        theirs = bytes(app.received)[:32]
        shared = bindings.crypto_scalarmult(known.CLIENT_EPHEMERAL, theirs)
        signed = known.CAP + theirs + hashlib.sha256(shared).digest()
        _, secret = bindings.crypto_sign_seed_keypair(known.CLIENT_SEED)
        key = hashlib.sha256(known.CAP + shared).digest()
        sealed = bindings.crypto_aead_chacha20poly1305_ietf_encrypt(
            bindings.crypto_sign(signed, secret)[:64] + CLIENT.public.raw, None, bytes(12), key
        )
        app.transport.write(b"\0\0\0\x70" + sealed)  # type: ignore[union-attr]
        self.clock.pump([0.0] * 5)
        self.assertEqual(dict(self.listener.refusals), {"OLDER_WIRE_REFUSED": 1})
        self.assertIn("1.2.3", str(refused[0]))
        # Nothing but the hello was said.
        self.assertEqual(len(app.received), 64)
