"""
Secret Handshake 1: known answers, every changed, missing, reflected and repeated
byte, and what each failure is called.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from contextlib import ExitStack
from random import Random
from typing import Any
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    HandshakeError,
    HandshakeTimeout,
    HandshakeTruncated,
    InvalidPublicKey,
    NetworkKeyRefused,
    PeerKeyRefused,
)
from meshkit.identity.keys import Identity, PublicKey
from meshkit.shs import handshake as module
from meshkit.shs.handshake import (
    CLIENT_PROOF_BYTES,
    SERVER_PROOF_BYTES,
    ClientHandshake,
    ServerHandshake,
)
from meshkit.shs.hellos import Capability, hello_mac
from tests.shs.common import (
    ALICE,
    BOB,
    CAROL,
    CHAT,
    CLIENT_EPHEMERAL,
    ECHO,
    SERVER_EPHEMERAL,
    new_client,
    new_server,
    pieces,
    table,
    transcript,
)
from tests.shs.vectors import PYTHON_SSB, SHS1_C, Vector

#: Points whose product with any secret is zero (RFC 7748, section 6.1; curve25519
#: small-order points as listed by libsodium).
LOW_ORDER = [
    bytes(32),
    (1).to_bytes(32, "little"),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"),
    (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
]


class KnownAnswerTests(SynchronousTestCase):
    def check(self, vector: Vector) -> None:
        client_id, server_id = Identity(vector.client_seed), Identity(vector.server_seed)
        capability = Capability("vector", 1, vector.key)
        client = ClientHandshake(client_id, capability, server_id.public, vector.client_ephemeral)
        server = ServerHandshake(server_id, table(capability).match, vector.server_ephemeral)
        messages, ours, theirs = transcript(client, server)
        self.assertEqual(tuple(messages), vector.messages)
        self.assertEqual(ours.encrypt_key, vector.client_to_server)
        self.assertEqual(ours.decrypt_key, vector.server_to_client)
        self.assertEqual(ours.encrypt_nonce, vector.messages[1][:24])
        self.assertEqual(ours.decrypt_nonce, vector.messages[0][:24])
        self.assertEqual(
            (theirs.decrypt_key, theirs.decrypt_nonce, theirs.encrypt_key, theirs.encrypt_nonce),
            (ours.encrypt_key, ours.encrypt_nonce, ours.decrypt_key, ours.decrypt_nonce),
        )
        self.assertEqual((ours.peer, theirs.peer), (server_id.public, client_id.public))

    def test_the_vectors_of_a_c_implementation(self) -> None:
        self.check(SHS1_C)

    def test_the_vectors_of_the_python_implementation(self) -> None:
        self.check(PYTHON_SSB)


def _edwards_to_montgomery(public: bytes) -> bytes:
    """u = (1 + y) / (1 - y), RFC 7748 section 4.1."""
    p = 2**255 - 19
    y = int.from_bytes(public, "little") & (2**255 - 1)
    return ((1 + y) * pow(1 - y, -1, p) % p).to_bytes(32, "little")


class _Paper:
    """The protocol computed once more, straight from the paper and with OpenSSL."""

    def __init__(self, k: bytes, a: bytes, client: bytes, b: bytes, server: bytes) -> None:
        def agree(secret: bytes, public: bytes) -> bytes:
            private = X25519PrivateKey.from_private_bytes(secret)
            return private.exchange(X25519PublicKey.from_public_bytes(public))

        def raw(key: Any) -> bytes:
            public: bytes = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            return public

        def sha(*parts: bytes) -> bytes:
            return hashlib.sha256(b"".join(parts)).digest()

        def auth(data: bytes) -> bytes:
            return hmac.new(k, data, hashlib.sha512).digest()[:32]

        sign_a = Ed25519PrivateKey.from_private_bytes(client)
        sign_b = Ed25519PrivateKey.from_private_bytes(server)
        long_a, long_b = raw(sign_a), raw(sign_b)
        scalar_a = hashlib.sha512(client).digest()[:32]
        pub_a = raw(X25519PrivateKey.from_private_bytes(a))
        pub_b = raw(X25519PrivateKey.from_private_bytes(b))
        shared = agree(a, pub_b)
        client_to_long = agree(a, _edwards_to_montgomery(long_b))
        long_to_server = agree(scalar_a, pub_b)
        sig_a = sign_a.sign(k + long_b + sha(shared))
        sig_b = sign_b.sign(k + sig_a + long_a + sha(shared))
        zero = bytes(24)
        box3 = SecretBox(sha(k, shared, client_to_long))
        box4 = SecretBox(sha(k, shared, client_to_long, long_to_server))
        self.messages = [
            auth(pub_a) + pub_a,
            auth(pub_b) + pub_b,
            box3.encrypt(sig_a + long_a, zero).ciphertext,
            box4.encrypt(sig_b, zero).ciphertext,
        ]
        secret = sha(sha(k, shared, client_to_long, long_to_server))
        self.to_server = (sha(secret, long_b), auth(pub_b)[:24])
        self.to_client = (sha(secret, long_a), auth(pub_a)[:24])


class PaperTests(SynchronousTestCase):
    @given(st.integers(0, 2**64))
    def test_it_agrees_with_an_independent_computation(self, seed: int) -> None:
        rng = Random(seed)
        k, a, client_seed, b, server_seed = (rng.randbytes(32) for _ in range(5))
        capability = Capability("echo", 1, k)
        client_id, server_id = Identity(client_seed), Identity(server_seed)
        messages, ours, _ = transcript(
            ClientHandshake(client_id, capability, server_id.public, a),
            ServerHandshake(server_id, table(capability).match, b),
        )
        paper = _Paper(k, a, client_seed, b, server_seed)
        self.assertEqual(messages, paper.messages)
        self.assertEqual((ours.encrypt_key, ours.encrypt_nonce), paper.to_server)
        self.assertEqual((ours.decrypt_key, ours.decrypt_nonce), paper.to_client)


class DeliveryTests(SynchronousTestCase):
    """How the bytes arrive makes no difference."""

    def run_in_pieces(self, cut: Callable[[bytes], list[bytes]]) -> None:
        client, server = new_client(), new_server()
        answer = b""
        for piece in cut(client.start()):
            step = server.receive(piece)
            answer += step.send
            self.assertEqual(step.rest, b"")
        proof = b"".join(client.receive(piece).send for piece in cut(answer))
        self.assertEqual(len(proof), CLIENT_PROOF_BYTES)
        proven = [server.receive(piece).peer for piece in cut(proof)]
        self.assertEqual(proven, [None] * (len(proven) - 1) + [ALICE.public])
        accepted, theirs = server.accept()
        self.assertEqual(len(accepted), SERVER_PROOF_BYTES)
        steps = [client.receive(piece) for piece in cut(accepted)]
        ours = steps[-1].outcome
        self.assertIsNotNone(ours)
        self.assertEqual([s.outcome for s in steps[:-1]], [None] * (len(steps) - 1))
        self.assertEqual(ours and ours.encrypt_key, theirs.decrypt_key)
        self.assertTrue(client.finished and server.finished)

    def test_byte_by_byte(self) -> None:
        self.run_in_pieces(lambda data: [data[i : i + 1] for i in range(len(data))])

    def test_with_empty_pieces_between(self) -> None:
        self.run_in_pieces(lambda data: [b"", data[:5], b"", data[5:]])

    @given(st.integers(0, 2**32), st.integers(1, 120))
    def test_in_random_pieces(self, seed: int, largest: int) -> None:
        self.run_in_pieces(lambda data: pieces(data, Random(seed), largest))

    def test_the_client_hands_back_what_follows_the_last_message(self) -> None:
        messages, _, _ = transcript(new_client(), new_server())
        client = new_client()
        client.start()
        client.receive(messages[1])
        step = client.receive(messages[3] + b"the first box")
        self.assertIsNotNone(step.outcome)
        self.assertEqual(step.rest, b"the first box")

    def test_the_server_hands_back_what_follows_the_proof(self) -> None:
        messages, _, _ = transcript(new_client(), new_server())
        server = new_server()
        server.receive(messages[0])
        step = server.receive(messages[2] + b"early")
        self.assertEqual((step.peer, step.rest), (ALICE.public, b"early"))

    def test_messages_one_and_three_may_come_together(self) -> None:
        messages, _, _ = transcript(new_client(), new_server())
        server = new_server()
        step = server.receive(messages[0] + messages[2])
        self.assertEqual((step.send, step.peer), (messages[1], ALICE.public))

    def test_nothing_is_buffered_beyond_the_message(self) -> None:
        client = new_client()
        client.start()
        client.receive(b"x" * 63)
        self.assertEqual(len(client._buffer), 63)
        with self.assertRaises(NetworkKeyRefused):
            client.receive(b"y" * 1_000_000)
        self.assertLessEqual(len(client._buffer), 64)

    def test_there_is_no_outcome_before_the_owner_accepts(self) -> None:
        messages, _, _ = transcript(new_client(), new_server())
        server = new_server()
        server.receive(messages[0])
        step = server.receive(messages[2])
        self.assertIsNone(step.outcome)
        self.assertEqual(step.send, b"")
        self.assertFalse(server.finished)


class ChangedByteTests(SynchronousTestCase):
    """No byte of any message can be changed, and each change has the right name."""

    def test_message_one(self) -> None:
        messages, _, _ = transcript(new_client(), new_server())
        for at in range(64):
            with self.assertRaises(NetworkKeyRefused, msg=str(at)):
                new_server().receive(flipped(messages[0], at))

    def test_message_two(self) -> None:
        messages, _, _ = transcript(new_client(), new_server())
        for at in range(64):
            client = new_client()
            client.start()
            with self.assertRaises(NetworkKeyRefused, msg=str(at)):
                client.receive(flipped(messages[1], at))

    def test_message_three(self) -> None:
        messages, _, _ = transcript(new_client(), new_server())
        for at in range(CLIENT_PROOF_BYTES):
            server = new_server()
            server.receive(messages[0])
            with self.assertRaises(PeerKeyRefused, msg=str(at)):
                server.receive(flipped(messages[2], at))
            self.assertFalse(server.finished)

    def test_message_four(self) -> None:
        messages, _, _ = transcript(new_client(), new_server())
        for at in range(SERVER_PROOF_BYTES):
            client = new_client()
            client.start()
            client.receive(messages[1])
            with self.assertRaises(PeerKeyRefused, msg=str(at)):
                client.receive(flipped(messages[3], at))
            self.assertFalse(client.finished)


def flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 0x01
    return bytes(changed)


class LossTests(SynchronousTestCase):
    """A connection that ends at any byte ends with the error of that state."""

    def test_the_client_at_every_byte(self) -> None:
        messages, _, _ = transcript(new_client(), new_server())
        stream = messages[1] + messages[3]
        for length in range(len(stream)):
            client = new_client()
            client.start()
            client.receive(stream[:length])
            expected = {0: NetworkKeyRefused, 64: PeerKeyRefused}.get(length, HandshakeTruncated)
            self.assertIs(type(client.lost()), expected, length)

    def test_the_server_at_every_byte(self) -> None:
        messages, _, _ = transcript(new_client(), new_server())
        stream = messages[0] + messages[2]
        for length in range(len(stream) + 1):
            server = new_server()
            server.receive(stream[:length])
            self.assertIs(type(server.lost()), HandshakeTruncated, length)

    def test_the_client_before_it_began(self) -> None:
        self.assertIs(type(new_client().lost()), HandshakeTruncated)

    def test_a_deadline_names_what_was_waited_for(self) -> None:
        messages, _, _ = transcript(new_client(), new_server())
        client = new_client()
        client.start()
        self.assertIn("its hello", str(client.timed_out(10.0)))
        client = new_client()
        client.start()
        client.receive(messages[1])
        error = client.timed_out(10.0)
        self.assertIs(type(error), HandshakeTimeout)
        self.assertIn("its proof of identity", str(error))
        self.assertIn("10 s", str(error))
        server = new_server()
        server.receive(messages[0] + messages[2])
        self.assertIn("our own decision", str(server.timed_out(10.0)))

    def test_the_messages_say_what_to_do(self) -> None:
        client = new_client()
        client.start()
        text = str(client.lost())
        self.assertIn("same network secret", text)
        self.assertIn("echo/1", text)
        messages, _, _ = transcript(new_client(), new_server())
        client = new_client()
        client.start()
        client.receive(messages[1])
        text = str(client.lost())
        self.assertIn(BOB.public.text, text)
        self.assertIn(ALICE.public.text, text)

    def test_after_the_end_no_bytes_are_taken(self) -> None:
        client = new_client()
        client.start()
        client.lost()
        with self.assertRaises(RuntimeError):
            client.receive(b"late")
        server = new_server()
        with self.assertRaises(NetworkKeyRefused):
            server.receive(bytes(64))
        with self.assertRaises(RuntimeError):
            server.receive(b"late")


class WrongPartnerTests(SynchronousTestCase):
    def test_another_capability_is_refused_by_the_server(self) -> None:
        with self.assertRaises(NetworkKeyRefused):
            new_server().receive(new_client(capability=CHAT).start())

    def test_another_capability_in_the_answer_is_refused_by_the_client(self) -> None:
        client = new_client()
        client.start()
        chat = new_server(hellos=table(CHAT)).receive(new_client(capability=CHAT).start()).send
        with self.assertRaises(NetworkKeyRefused):
            client.receive(chat)

    def test_a_relabelled_hello_fails_at_the_proof(self) -> None:
        # A member in the middle answers the client for ECHO and asks the server for
        # CHAT with the same ephemeral keys: K is in both proofs, so it gains nothing.
        client, server = new_client(), new_server(hellos=table(ECHO, CHAT))
        ephemeral = client.start()[32:]
        answer = server.receive(hello_mac(CHAT.key, ephemeral) + ephemeral).send
        proof = client.receive(hello_mac(ECHO.key, answer[32:]) + answer[32:]).send
        with self.assertRaises(PeerKeyRefused):
            server.receive(proof)

    def test_a_client_that_dials_another_key_is_refused(self) -> None:
        client, server = new_client(peer=CAROL.public), new_server()
        proof = client.receive(server.receive(client.start()).send).send
        with self.assertRaises(PeerKeyRefused):
            server.receive(proof)

    def test_one_cannot_dial_oneself(self) -> None:
        with self.assertRaises(PeerKeyRefused):
            new_client(identity=BOB)

    def test_a_client_that_claims_the_servers_own_key_is_refused(self) -> None:
        # Only somebody with our own secret could get so far, such as a copied disk.
        with patch.object(module.hmac, "compare_digest", side_effect=self.all_but_identity):
            client = new_client(identity=BOB)
            server = new_server()
            proof = client.receive(server.receive(client.start()).send).send
        with self.assertRaises(PeerKeyRefused) as caught:
            server.receive(proof)
        self.assertIn("own key", str(caught.exception))

    @staticmethod
    def all_but_identity(a: bytes, b: bytes) -> bool:
        return a == b != BOB.public.raw

    def test_a_peer_key_that_is_no_point_is_refused_before_dialling(self) -> None:
        for raw in (bytes(32), b"\x01" + bytes(31), b"\x02" + bytes(31)):
            with self.assertRaises(InvalidPublicKey):
                new_client(peer=PublicKey(raw))

    def test_an_ephemeral_secret_of_another_length_is_refused(self) -> None:
        for size in (0, 31, 33):
            with self.assertRaises(ValueError):
                new_client(ephemeral=bytes(size))
            with self.assertRaises(ValueError):
                new_server(ephemeral=bytes(size))


class ReflectionTests(SynchronousTestCase):
    def test_our_own_hello_coming_back_is_refused(self) -> None:
        client = new_client()
        hello = client.start()
        with self.assertRaises(NetworkKeyRefused) as caught:
            client.receive(hello)
        self.assertIn("sent back", str(caught.exception))

    def test_a_server_refuses_its_own_ephemeral_key(self) -> None:
        server = new_server(ephemeral=CLIENT_EPHEMERAL)
        with self.assertRaises(NetworkKeyRefused) as caught:
            server.receive(new_client().start())
        self.assertIn("own ephemeral", str(caught.exception))

    def test_a_reflected_proof_is_refused(self) -> None:
        messages, _, _ = transcript(new_client(), new_server())
        client = new_client()
        client.start()
        proof = client.receive(messages[1]).send
        with self.assertRaises(PeerKeyRefused):
            client.receive(proof[:SERVER_PROOF_BYTES])


class ReplayTests(SynchronousTestCase):
    """A recording is worth nothing, because the other side's ephemeral key is new."""

    def test_a_recorded_client_does_not_convince_a_server(self) -> None:
        messages, _, _ = transcript(new_client(), new_server())
        server = new_server(ephemeral=b"another ephemeral secret".ljust(32))
        server.receive(messages[0])
        with self.assertRaises(PeerKeyRefused):
            server.receive(messages[2])

    def test_a_recorded_server_does_not_convince_a_client(self) -> None:
        messages, _, _ = transcript(new_client(), new_server())
        client = new_client(ephemeral=b"another ephemeral secret".ljust(32))
        client.start()
        client.receive(messages[1])
        with self.assertRaises(PeerKeyRefused):
            client.receive(messages[3])


class LowOrderTests(SynchronousTestCase):
    def test_the_server_refuses_a_low_order_ephemeral_key(self) -> None:
        for point in LOW_ORDER:
            server = new_server()
            server.receive(hello_mac(ECHO.key, point) + point)
            with self.assertRaises(PeerKeyRefused, msg=point.hex()):
                server.receive(bytes(CLIENT_PROOF_BYTES))

    def test_the_client_refuses_a_low_order_ephemeral_key(self) -> None:
        for point in LOW_ORDER:
            client = new_client()
            client.start()
            with self.assertRaises(PeerKeyRefused, msg=point.hex()):
                client.receive(hello_mac(ECHO.key, point) + point)

    def test_what_nacl_raises_for_low_order_points_is_what_we_catch(self) -> None:
        for point in LOW_ORDER:
            with self.assertRaises((CryptoError, RuntimeError)):
                bindings.crypto_scalarmult(bytes([7] * 32), point)

    def test_a_libsodium_that_lets_zero_through_is_caught_as_well(self) -> None:
        with patch.object(module.bindings, "crypto_scalarmult", return_value=bytes(32)):
            client = new_client()
            client.start()
            hello = new_server().receive(new_client().start()).send
            with self.assertRaises(PeerKeyRefused):
                client.receive(hello)


class CostTests(SynchronousTestCase):
    """What a stranger can make us compute."""

    def counted(self) -> tuple[ExitStack, dict[str, Any]]:
        stack = ExitStack()
        mocks = {
            name: stack.enter_context(
                patch.object(module.bindings, name, wraps=getattr(bindings, name))
            )
            for name in ("crypto_scalarmult", "crypto_scalarmult_base")
        }
        return stack, mocks

    def test_a_hello_that_does_not_match_costs_no_curve_operation(self) -> None:
        server = new_server()
        stack, mocks = self.counted()
        with stack, self.assertRaises(NetworkKeyRefused):
            server.receive(bytes(64))
        self.assertEqual([m.call_count for m in mocks.values()], [0, 0])

    def test_before_the_proof_is_whole_only_our_ephemeral_key_is_made(self) -> None:
        server = new_server()
        stack, mocks = self.counted()
        with stack:
            server.receive(new_client().start())
            mocks["crypto_scalarmult_base"].reset_mock()  # the client's own
            server.receive(bytes(CLIENT_PROOF_BYTES - 1))
        self.assertEqual(mocks["crypto_scalarmult"].call_count, 0)

    def test_an_answer_that_does_not_match_costs_the_client_nothing(self) -> None:
        client = new_client()
        client.start()
        stack, mocks = self.counted()
        with stack, self.assertRaises(NetworkKeyRefused):
            client.receive(bytes(64))
        self.assertEqual([m.call_count for m in mocks.values()], [0, 0])


class SecrecyTests(SynchronousTestCase):
    def test_no_repr_shows_a_secret(self) -> None:
        client, server = new_client(), new_server()
        _, ours, theirs = transcript(client, server)
        shown = repr([client, server, ours, theirs, str(ours)])
        for secret in (ours.encrypt_key, ours.decrypt_key, CLIENT_EPHEMERAL, SERVER_EPHEMERAL):
            self.assertNotIn(secret.hex(), shown)
            self.assertNotIn(repr(secret)[2:-1], shown)
        self.assertIn(BOB.public.text, shown)

    def test_a_finished_handshake_keeps_no_secrets(self) -> None:
        client, server = new_client(), new_server()
        transcript(client, server)
        for side in (client, server):
            kept = [side._secret, side._shared, side._shared_hash, side._proof_key]
            self.assertEqual(kept, [b""] * 4)


class MisuseTests(SynchronousTestCase):
    def test_bytes_before_the_start_are_a_mistake(self) -> None:
        with self.assertRaises(RuntimeError):
            new_client().receive(b"x")

    def test_a_handshake_is_started_once(self) -> None:
        client = new_client()
        client.start()
        with self.assertRaises(RuntimeError):
            client.start()

    def test_nobody_is_accepted_before_the_proof(self) -> None:
        with self.assertRaises(RuntimeError):
            new_server().accept()
        server = new_server()
        server.receive(new_client().start())
        with self.assertRaises(RuntimeError):
            server.accept()

    def test_a_peer_is_accepted_once(self) -> None:
        server = new_server()
        transcript(new_client(), server)
        with self.assertRaises(RuntimeError):
            server.accept()

    def test_a_client_accepts_nobody(self) -> None:
        with self.assertRaises(RuntimeError):
            new_client().accept()


# --- each check is needed ---------------------------------------------------------


def server_without_proof() -> ClientHandshake:
    """A server that knows K and B's public key but signs message 4 with another key."""
    client = new_client()
    first = client.start()
    server = new_server()
    second = server.receive(first).send
    server.receive(client.receive(second).send)
    server._identity = CAROL
    client.receive(server.accept()[0])
    return client


def client_without_proof() -> ServerHandshake:
    """A client that claims to be Alice, with a signature by Carol."""

    class Impostor:
        public = ALICE.public
        _sign_raw = staticmethod(CAROL._sign_raw)
        _x25519_secret = CAROL._x25519_secret

    client, server = new_client(identity=Impostor()), new_server()  # type: ignore[arg-type]
    server.receive(client.receive(server.receive(client.start()).send).send)
    return server


def hello_with_wrong_mac_to_client() -> ClientHandshake:
    client = new_client()
    client.start()
    client.receive(bytes(32) + bindings.crypto_scalarmult_base(SERVER_EPHEMERAL))
    return client


def hello_with_wrong_mac_to_server() -> ServerHandshake:
    server = new_server()
    server.receive(bytes(32) + bindings.crypto_scalarmult_base(CLIENT_EPHEMERAL))
    return server


def reflected_hello() -> ClientHandshake:
    client = new_client()
    client.receive(client.start())
    return client


def reflected_ephemeral() -> ServerHandshake:
    server = new_server(ephemeral=CLIENT_EPHEMERAL)
    server.receive(new_client().start())
    return server


def low_order_hello() -> ClientHandshake:
    client = new_client()
    client.start()
    client.receive(hello_mac(ECHO.key, bytes(32)) + bytes(32))
    return client


def dialled_self() -> ClientHandshake:
    return new_client(identity=BOB)


class MutationTests(SynchronousTestCase):
    """
    For each attack: it is refused, and it succeeds once its check is taken out.  So
    each check is the one that stops its attack, and none is there for show.
    """

    def refused_and_then_let_in(self, attack: Callable[[], Any], *removed: Any) -> None:
        with self.assertRaises(HandshakeError):
            attack()
        with ExitStack() as stack:
            for patcher in removed:
                stack.enter_context(patcher)
            attack()

    def test_the_signature_in_message_three(self) -> None:
        self.refused_and_then_let_in(
            client_without_proof, patch.object(PublicKey, "verifies", return_value=True)
        )

    def test_the_signature_in_message_four(self) -> None:
        self.refused_and_then_let_in(
            server_without_proof, patch.object(PublicKey, "verifies", return_value=True)
        )

    def test_the_mac_of_message_two(self) -> None:
        self.refused_and_then_let_in(
            hello_with_wrong_mac_to_client,
            patch.object(
                module.hmac,
                "compare_digest",
                side_effect=lambda a, b: a == b or b == bytes(32) != a,
            ),
            # The comparison with zero is told apart by its other operand only.
            patch.object(module, "_ZERO_SECRET", b"never"),
        )

    def test_the_mac_of_message_one(self) -> None:
        self.refused_and_then_let_in(
            hello_with_wrong_mac_to_server,
            patch("meshkit.shs.hellos.hello_mac", return_value=bytes(32)),
        )

    def test_the_reflection_of_our_hello(self) -> None:
        self.refused_and_then_let_in(reflected_hello, equality_ignored(CLIENT_EPHEMERAL))

    def test_the_reflection_of_our_ephemeral_key(self) -> None:
        self.refused_and_then_let_in(reflected_ephemeral, equality_ignored(CLIENT_EPHEMERAL))

    def test_low_order_points(self) -> None:
        self.refused_and_then_let_in(
            low_order_hello,
            patch.object(module.bindings, "crypto_scalarmult", return_value=bytes(32)),
            patch.object(module, "_ZERO_SECRET", b"never"),
        )

    def test_dialling_our_own_key(self) -> None:
        with self.assertRaises(PeerKeyRefused):
            dialled_self()
        with patch.object(
            module.hmac, "compare_digest", side_effect=WrongPartnerTests.all_but_identity
        ):
            dialled_self()


def equality_ignored(ephemeral: bytes) -> Any:
    """C{compare_digest} that is blind for one ephemeral public key."""
    public = bindings.crypto_scalarmult_base(ephemeral)
    return patch.object(
        module.hmac, "compare_digest", side_effect=lambda a, b: a == b and a != public
    )
