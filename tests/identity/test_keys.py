"""Tests of L{meshkit.identity.keys}."""

from __future__ import annotations

import base64
import pickle

from hypothesis import given
from nacl.signing import SigningKey, VerifyKey
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import InvalidPublicKey
from meshkit.identity.contexts import ADDRESS_RECORD, CONTEXTS, Context, signing_input
from meshkit.identity.keys import Identity, PublicKey
from meshkit.testing.strategies import public_keys

SEED = bytes(range(32))

#: Seed -> id, computed by Egregore 1.2.4.
IDS = {
    SEED: "@A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=.ed25519",
    b"\x03" * 32: "@7UkoxijRwsbq6QM4kFmVYSlZJzpcY/k2NsFGFKyHN9E=.ed25519",
    b"\x04" * 32: "@ypOsFwUYcHHWe4PH/w7+gQjo7EUwV113JoeTM9vavnw=.ed25519",
}

#: RFC 8032, 7.1, test 3: secret, public, message, signature.
RFC8032 = (
    "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
    "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
    "af82",
    "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
    "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
)


class Known(SynchronousTestCase):
    def test_ids_are_those_of_egregore(self) -> None:
        for seed, text in IDS.items():
            self.assertEqual(Identity(seed).public.text, text)

    def test_the_x25519_key_is_that_of_egregore(self) -> None:
        self.assertEqual(
            Identity(SEED).public.x25519.hex(),
            "4701d08488451f545a409fb58ae3e58581ca40ac3f7f114698cd71deac73ca01",
        )

    def test_signatures_are_those_of_rfc_8032(self) -> None:
        secret, public, message, signature = map(bytes.fromhex, RFC8032)
        identity = Identity(secret)
        self.assertEqual(identity.public.raw, public)
        self.assertEqual(identity._sign_raw(message), signature)
        self.assertTrue(identity.public.verifies(message, signature))


class Texts(SynchronousTestCase):
    def setUp(self) -> None:
        self.key = Identity(b"\x03" * 32).public

    @given(public_keys())
    def test_a_key_survives_its_texts(self, key: PublicKey) -> None:
        self.assertEqual(len(key.text), 53)
        safe = base64.urlsafe_b64encode(key.raw).decode().rstrip("=")
        for text in (key.text, f"@{safe}.ed25519", f"@{safe}=.ed25519"):
            self.assertEqual(PublicKey.parse(text), key)
        self.assertEqual(PublicKey.from_base64(key.base64), key)

    def test_what_is_no_id_is_refused_and_shown(self) -> None:
        good = self.key.base64
        for text in (
            "",
            "@",
            "@.ed25519",
            good,
            f"@{good}",
            f"{good}.ed25519",
            f"@@{good}.ed25519",
            f"@{good}.ed25519.ed25519",
            f"@{good}.Ed25519",
            f"@{good}.ed25519 ",
            f"@ {good}.ed25519",
            f"@{good[:-2]}.ed25519",
            f"@AA{good}.ed25519",
            f"@{good[:5]}\n{good[5:]}.ed25519",
            f"@{good[:5]}*{good[6:]}.ed25519",
            f"@{good[:5]}é{good[6:]}.ed25519",
        ):
            with self.subTest(text=text):
                error = self.assertRaises(InvalidPublicKey, PublicKey.parse, text)
                self.assertIn(repr(text[:80]), str(error))

    def test_a_second_spelling_of_a_key_is_refused(self) -> None:
        """The last character of the base64 holds two bits that say nothing."""
        body = self.key.base64.rstrip("=")
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
        other = body[:-1] + alphabet[alphabet.index(body[-1]) + 1]
        self.assertEqual(base64.b64decode(other + "="), self.key.raw)
        self.assertRaises(InvalidPublicKey, PublicKey.from_base64, other)

    def test_a_long_text_is_not_shown_whole(self) -> None:
        error = self.assertRaises(InvalidPublicKey, PublicKey.parse, "x" * 10_000)
        self.assertLess(len(str(error)), 200)

    def test_a_key_has_32_bytes(self) -> None:
        for length in (0, 31, 33, 64):
            self.assertRaises(InvalidPublicKey, PublicKey, bytes(length))

    def test_keys_are_values(self) -> None:
        same = PublicKey(self.key.raw)
        self.assertEqual((same, hash(same)), (self.key, hash(self.key)))
        self.assertLess(PublicKey(bytes(32)), self.key)
        self.assertEqual(pickle.loads(pickle.dumps(self.key)), self.key)
        self.assertEqual(str(self.key), self.key.text)
        self.assertTrue(self.key.text.startswith(self.key.short))


class Points(SynchronousTestCase):
    def test_bytes_that_are_no_usable_point_have_no_x25519_key(self) -> None:
        low_order = bytes.fromhex(
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
        )
        for raw in (bytes(32), b"\x01" + bytes(31), b"\xff" * 32, low_order):
            with self.subTest(raw=raw):
                key = PublicKey(raw)
                error = self.assertRaises(InvalidPublicKey, lambda key=key: key.x25519)
                self.assertIn(key.text, str(error))

    def test_nothing_verifies_under_a_point_of_small_order(self) -> None:
        """With A = R = the neutral element and S = 0, lax verifiers accept anything."""
        neutral = b"\x01" + bytes(31)
        self.assertFalse(PublicKey(neutral).verifies(b"anything", neutral + bytes(32)))


class Signing(SynchronousTestCase):
    def setUp(self) -> None:
        self.identity = Identity(SEED)

    def test_a_statement_is_signed_with_its_kind(self) -> None:
        signature = self.identity.sign(ADDRESS_RECORD, b"payload")
        expected = b"meshkit-sig/1\0" + bytes([16]) + b"address-record/1"
        expected += bytes([0, 0, 0, 7]) + b"payload"
        self.assertEqual(len("address-record/1"), 16)
        self.assertEqual(SigningKey(SEED).sign(expected).signature, signature)
        VerifyKey(self.identity.public.raw).verify(expected, signature)

    def test_a_kind_that_is_not_in_the_table_is_not_signed(self) -> None:
        for name in ("", "address-record/2", "feed-message", "address-record/1 "):
            self.assertRaises(ValueError, self.identity.sign, Context(name), b"x")

    def test_every_flipped_bit_is_noticed(self) -> None:
        data = b"some statement"
        signature = self.identity._sign_raw(data)
        self.assertTrue(self.identity.public.verifies(data, signature))
        for position in range(8 * len(signature)):
            flipped = bytearray(signature)
            flipped[position // 8] ^= 1 << position % 8
            self.assertFalse(self.identity.public.verifies(data, bytes(flipped)), position)
        self.assertFalse(self.identity.public.verifies(data + b".", signature))
        self.assertFalse(Identity(b"\x03" * 32).public.verifies(data, signature))

    def test_a_signature_has_64_bytes(self) -> None:
        signature = self.identity._sign_raw(b"data")
        for wrong in (b"", signature[:-1], signature + b"d"):
            self.assertFalse(self.identity.public.verifies(b"data", wrong))
            self.assertFalse(self.identity.public.verifies(b"ata", wrong))

    def test_a_seed_has_32_bytes(self) -> None:
        for length in (0, 31, 33, 64):
            self.assertRaises(ValueError, Identity, bytes(length))
        self.assertEqual(self.identity.seed(), SEED)

    def test_no_text_of_an_identity_shows_its_secret(self) -> None:
        for shown in (repr(self.identity), str(self.identity), f"{self.identity}"):
            self.assertIn(self.identity.public.text, shown)
            for secret in (SEED, self.identity._secret, self.identity._x25519_secret):
                self.assertNotIn(secret.hex()[:16], shown)
                self.assertNotIn(base64.b64encode(secret).decode()[:16], shown)


class Contexts(SynchronousTestCase):
    def test_no_two_statements_have_the_same_bytes(self) -> None:
        """The kind's length and the payload's length are part of what is signed."""
        seen = {signing_input(c, p) for c in CONTEXTS for p in (b"", b"\0", b"x" * 300)}
        self.assertEqual(len(seen), 3 * len(CONTEXTS))

    def test_the_names_of_kinds_have_a_form(self) -> None:
        for context in CONTEXTS:
            self.assertRegex(context, r"^[a-z][a-z0-9-]*/[1-9][0-9]*$")
            self.assertLess(len(context), 64)

    def test_nothing_that_other_protocols_sign_begins_like_a_statement(self) -> None:
        for context in CONTEXTS:
            data = signing_input(context, b"")
            self.assertTrue(data.startswith(b"meshkit-sig/1\0"))
            self.assertNotRegex(data[:64].decode("latin-1"), "^[0-9a-f]{64}$")
