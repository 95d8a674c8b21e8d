"""Tests of L{meshkit.shs.probe}: the key probe, byte by byte."""

from __future__ import annotations

import hashlib
import hmac
from random import Random
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import HandshakeError, KeyProbeFailed, KeyProbeRefused, NetworkKeyRefused
from meshkit.identity.keys import Identity
from meshkit.identity.network import NetworkSecret
from meshkit.shs.handshake import ClientHandshake
from meshkit.shs.hellos import Capability, hello_mac, proves
from meshkit.shs.probe import ANSWER_BYTES, LABEL, PROBE, QUESTION_BYTES, Question
from tests.shs.common import ALICE, BOB, CAROL, pieces

NETWORK = NetworkSecret(bytes(range(32))).key()
OTHER = NetworkSecret(bytes(range(1, 33))).key()
KP = Capability.of(NETWORK, LABEL)
Q = b"the secret of the asker's key q."
E = b"the secret of the answerer's e.."

#: SHA-256 of question and answer, from the words of docs/protocol/probe.md with OpenSSL's
#: primitives (pyca/cryptography 50: X25519, HKDF, ChaCha20Poly1305) in place of libsodium's.
VECTOR = "875d0ad24cee221dd6fd256a429b9938d922bfe1ad832e43a0309996011c5f49"

#: Points of small order of Curve25519, as far as 32 bytes can spell them.
SMALL_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


def question(capability: Capability = KP, own: Identity = ALICE, secret: bytes = Q) -> Question:
    return Question(capability, own.public, secret)


def answer(asked: bytes, who: Identity = BOB, capability: Capability = KP) -> bytes:
    step = PROBE.respond(who, capability, E).receive(asked)
    assert step.finished
    return step.send


def sealed_for(asked: bytes, raw: bytes, e: bytes = E, kp: bytes = KP.key) -> bytes:
    """An answer as the specification says, made with nothing of the module."""
    public = bindings.crypto_scalarmult_base(e)
    shared = bindings.crypto_scalarmult(e, asked[32:])
    prk = hmac.new(kp, shared, hashlib.sha256).digest()
    key = hmac.new(prk, b"meshkit/key-probe/1\x01", hashlib.sha256).digest()
    return public + bindings.crypto_aead_chacha20poly1305_ietf_encrypt(
        raw, asked + public, bytes(12), key
    )


class WireTests(SynchronousTestCase):
    def test_known_answer(self) -> None:
        asked = question().start()
        told = sealed_for(asked, BOB.public.raw)
        self.assertEqual((QUESTION_BYTES, ANSWER_BYTES), (64, 80))
        self.assertEqual((len(asked), len(told)), (64, 80))
        self.assertEqual(answer(asked), told)
        public = bindings.crypto_scalarmult_base(Q)
        mac = hmac.new(KP.key, public, hashlib.sha512).digest()[:32]
        self.assertEqual(asked, mac + public)
        self.assertEqual(hashlib.sha256(asked + told).hexdigest(), VECTOR)

    def test_the_key_is_told(self) -> None:
        asking = question()
        self.assertEqual(asking.receive(answer(asking.start())), BOB.public)

    @given(st.integers(0, 2**32), st.integers(1, 90))
    def test_in_pieces_of_any_size(self, seed: int, largest: int) -> None:
        rng = Random(seed)
        asking, session = question(), PROBE.respond(BOB, KP, E)
        sent = b""
        for piece in pieces(asking.start(), rng, largest):
            sent += session.receive(piece).send
        told = [asking.receive(piece) for piece in pieces(sent, rng, largest)]
        self.assertEqual(told[-1], BOB.public)
        self.assertEqual(told[:-1], [None] * (len(told) - 1))

    def test_what_comes_behind_the_answer_is_not_looked_at(self) -> None:
        asking = question()
        self.assertEqual(asking.receive(answer(asking.start()) + b"more"), BOB.public)

    def test_the_label_is_a_capability_of_its_own(self) -> None:
        self.assertEqual(KP.key, NETWORK.capability("key-probe", 1))
        asked = question().start()
        self.assertFalse(proves(NETWORK.capability("gossip"), asked))
        self.assertTrue(proves(KP.key, asked))


class AskerTests(SynchronousTestCase):
    """Whoever answers may be anybody."""

    def refuse(self, asking: Question, told: bytes) -> str:
        return str(self.assertRaises(KeyProbeFailed, asking.receive, told))

    def test_every_changed_bit_of_the_answer_is_refused(self) -> None:
        told = answer(question().start())
        for at in range(8 * len(told)):
            asking = question()
            asking.start()
            changed = bytearray(told)
            changed[at // 8] ^= 1 << at % 8
            if at == 8 * 31 + 7:
                # The top bit of a Curve25519 key is not part of the point, but is bound.
                self.assertNotEqual(bytes(changed[:32]), told[:32])
            self.refuse(asking, bytes(changed))

    def test_every_cut_is_noticed(self) -> None:
        told = answer(question().start())
        for at in range(len(told)):
            asking = question()
            asking.start()
            self.assertIsNone(asking.receive(told[:at]))
            self.assertIn(f"{at} of 80" if at else "nobody there tells", str(asking.lost()))

    def test_an_answer_to_another_question_is_refused(self) -> None:
        told = answer(question(secret=b"x" * 32).start())
        asking = question()
        asking.start()
        self.refuse(asking, told)

    def test_the_question_sent_back_is_no_answer(self) -> None:
        asking = question()
        asked = asking.start()
        self.refuse(asking, asked + bytes(16))
        asking = question()
        asking.start()
        self.refuse(asking, asked[32:] + asked[:32] + bytes(16))

    def test_an_answer_of_another_network_is_refused(self) -> None:
        asking = question()
        asked = asking.start()
        self.refuse(asking, sealed_for(asked, BOB.public.raw, kp=OTHER.capability(LABEL)))

    def test_an_ephemeral_key_of_small_order_is_refused(self) -> None:
        for point in SMALL_ORDER:
            asking = question()
            asked = asking.start()
            # What k would be if the zero were not noticed.
            prk = hmac.new(KP.key, bytes(32), hashlib.sha256).digest()
            key = hmac.new(prk, b"meshkit/key-probe/1\x01", hashlib.sha256).digest()
            box = bindings.crypto_aead_chacha20poly1305_ietf_encrypt(
                BOB.public.raw, asked + point, bytes(12), key
            )
            self.refuse(asking, point + box)

    def test_the_zero_is_noticed_whatever_the_library_does(self) -> None:
        asking = question()
        asked = asking.start()
        prk = hmac.new(KP.key, bytes(32), hashlib.sha256).digest()
        key = hmac.new(prk, b"meshkit/key-probe/1\x01", hashlib.sha256).digest()
        box = bindings.crypto_aead_chacha20poly1305_ietf_encrypt(
            BOB.public.raw, asked + bytes(32), bytes(12), key
        )
        with patch.object(bindings, "crypto_scalarmult", return_value=bytes(32)):
            self.refuse(asking, bytes(32) + box)

    def test_our_own_key_is_refused(self) -> None:
        asking = question()
        asked = asking.start()
        self.assertIn("this very node", self.refuse(asking, answer(asked, who=ALICE)))

    def test_what_is_no_point_is_refused(self) -> None:
        for raw in (b"\x02" + bytes(31), bytes(32), b"\x01" + bytes(31)):
            asking = question()
            told = sealed_for(asking.start(), raw)
            self.assertIn("cannot be dialled", self.refuse(asking, told))

    def test_it_asks_once(self) -> None:
        asking = question()
        asking.start()
        self.assertRaises(RuntimeError, asking.start)

    def test_the_ephemeral_secret_has_32_bytes(self) -> None:
        for length in (0, 31, 33):
            self.assertRaises(ValueError, question, secret=bytes(length))
            self.assertRaises(ValueError, PROBE.respond, BOB, KP, bytes(length))


class AnswererTests(SynchronousTestCase):
    """Whoever asks may be anybody who was let through, and more."""

    def test_every_changed_byte_of_the_question_is_refused(self) -> None:
        asked = question().start()
        for at in range(len(asked)):
            changed = bytearray(asked)
            changed[at] ^= 1
            session = PROBE.respond(BOB, KP, E)
            self.assertRaises(NetworkKeyRefused, session.receive, bytes(changed))

    def test_nothing_is_said_before_the_question_is_whole(self) -> None:
        asked = question().start()
        for at in range(len(asked)):
            session = PROBE.respond(BOB, KP, E)
            step = session.receive(asked[:at])
            self.assertEqual((step.send, step.finished), (b"", False))
            self.assertIsInstance(session.lost(), HandshakeError)

    def test_it_answers_once(self) -> None:
        session = PROBE.respond(BOB, KP, E)
        session.receive(question().start())
        self.assertRaises(RuntimeError, session.receive, b"x")
        self.assertRaises(RuntimeError, session.accept)

    def test_a_key_of_small_order_is_not_answered(self) -> None:
        for point in SMALL_ORDER:
            session = PROBE.respond(BOB, KP, E)
            self.assertRaises(KeyProbeRefused, session.receive, hello_mac(KP.key, point) + point)

    def test_our_own_ephemeral_key_is_not_answered(self) -> None:
        public = bindings.crypto_scalarmult_base(E)
        session = PROBE.respond(BOB, KP, E)
        self.assertRaises(KeyProbeRefused, session.receive, hello_mac(KP.key, public) + public)

    def test_who_replays_a_question_cannot_read_the_answer(self) -> None:
        asked = question().start()
        told = answer(asked)
        eve = question(own=CAROL, secret=b"what eve has is another secret.."[:32])
        eve.start()
        self.assertRaises(KeyProbeFailed, eve.receive, told)
        self.assertNotIn(BOB.public.raw, told)

    def test_a_question_begins_no_other_handshake(self) -> None:
        """... and the hello of another one is no question."""
        gossip = Capability.of(NETWORK, "gossip")
        hello = ClientHandshake(ALICE, gossip, BOB.public, Q).start()
        self.assertRaises(NetworkKeyRefused, PROBE.respond(BOB, KP, E).receive, hello)

    def test_secrets_are_not_shown(self) -> None:
        session = PROBE.respond(BOB, KP, E)
        self.assertNotIn("secret", repr(session))
        self.assertIs(session.identity, BOB)
        self.assertIs(session.capability, KP)
        self.assertIn("take the answer", str(session.timed_out(3)))
