"""Tests of L{meshkit.identity.network}."""

from __future__ import annotations

import base64
import hashlib
import hmac
from pathlib import Path
from random import Random

from hypothesis import given
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import InvalidNetworkSecret
from meshkit.identity.network import (
    PUBLIC_RELAYS,
    NetworkKey,
    NetworkSecret,
    decode_networks,
    encode_networks,
)
from meshkit.testing.strategies import network_secrets

RAW = bytes(range(32))
#: By the document, with tools of the standard library only.
TEXT = "mknet1-" + (
    base64.b32encode(RAW + hashlib.sha256(b"meshkit/network-secret-checksum/1" + RAW).digest()[:3])
    .decode()
    .lower()
)


class Texts(SynchronousTestCase):
    def test_the_form_is_that_of_the_document(self) -> None:
        self.assertEqual(NetworkSecret(RAW).text, TEXT)
        self.assertEqual(len(TEXT), 63)

    @given(network_secrets())
    def test_a_secret_survives_its_text(self, secret: NetworkSecret) -> None:
        for text in (secret.text, secret.text.upper(), f"  {secret.text}\n"):
            self.assertEqual(NetworkSecret.parse(text), secret)

    def test_every_wrong_character_is_noticed(self) -> None:
        for position in range(7, len(TEXT)):
            for other in "a7z":
                if TEXT[position] != other:
                    wrong = TEXT[:position] + other + TEXT[position + 1 :]
                    self.assertRaises(InvalidNetworkSecret, NetworkSecret.parse, wrong)

    def test_every_cut_and_every_swap_is_noticed(self) -> None:
        for length in range(len(TEXT)):
            self.assertRaises(InvalidNetworkSecret, NetworkSecret.parse, TEXT[:length])
        for position in range(7, len(TEXT) - 1):
            a, b = TEXT[position : position + 2]
            if a != b:
                wrong = TEXT[:position] + b + a + TEXT[position + 2 :]
                self.assertRaises(InvalidNetworkSecret, NetworkSecret.parse, wrong)

    def test_what_is_none_is_refused_without_being_shown(self) -> None:
        for text in ("", "mknet1-", TEXT + "a", TEXT + "=", "mknet2-" + TEXT[7:], "é" + TEXT):
            error = self.assertRaises(InvalidNetworkSecret, NetworkSecret.parse, text)
            self.assertNotIn(TEXT[7:20], str(error))
        error = self.assertRaises(InvalidNetworkSecret, NetworkSecret.parse, TEXT[:-1] + "é")
        self.assertNotIn(TEXT[7:20], str(error))

    def test_a_new_secret_is_what_the_random_source_gives(self) -> None:
        self.assertEqual(NetworkSecret.generate(Random(5)).raw, Random(5).randbytes(32))

    def test_no_repr_shows_a_secret(self) -> None:
        secret = NetworkSecret(RAW)
        for shown in (repr(secret), repr(secret.key()), str(secret.key())):
            self.assertNotIn(RAW.hex()[:12], shown)
            self.assertNotIn(TEXT[7:20], shown)
            self.assertNotIn(secret.key()._raw.hex()[:12], shown)
        self.assertIn(secret.key().net_id.hex(), repr(secret.key()))


class Passphrases(SynchronousTestCase):
    #: Computed with the Argon2id of OpenSSL, through the package cryptography.
    KNOWN = {
        "correct horse": "612b7c772a88a3036948fb0a949c82337cea248c860088fb41c6c0c24eb80605",
        "cafe\u0301": "9c123b282b9315954ba48541b7d6b8a55f71d81ee7c6f54357cb542138b150c0",
    }

    def test_known_answers(self) -> None:
        for words, raw in self.KNOWN.items():
            secret = NetworkSecret.from_passphrase(words)
            self.assertEqual((secret.raw.hex(), secret.weak), (raw, True))
            self.assertTrue(secret.key().weak)

    def test_one_word_typed_in_two_ways_is_one_network(self) -> None:
        self.assertEqual(
            NetworkSecret.from_passphrase("caf\u00e9"),
            NetworkSecret.from_passphrase("cafe\u0301"),
        )

    def test_an_empty_one_is_refused(self) -> None:
        self.assertRaises(InvalidNetworkSecret, NetworkSecret.from_passphrase, "")

    def test_a_setting_is_a_secret_or_a_passphrase(self) -> None:
        self.assertEqual(NetworkSecret.from_setting(TEXT), NetworkSecret(RAW))
        self.assertEqual(
            NetworkSecret.from_setting("correct horse").raw.hex(), self.KNOWN["correct horse"]
        )

    def test_a_misspelt_secret_does_not_become_a_passphrase(self) -> None:
        for text in (TEXT[:-1], TEXT[:20], "MKNET1-abc", " mknet2-" + TEXT[7:], "mknet"):
            self.assertRaises(InvalidNetworkSecret, NetworkSecret.from_setting, text)


class Files(SynchronousTestCase):
    def test_round_trip(self) -> None:
        for weak in (False, True):
            secret = NetworkSecret(RAW, weak=weak)
            again = NetworkSecret.decode(secret.encode(), "path")
            self.assertEqual((again.raw, again.weak), (RAW, weak))
            # Who joins with the string is told as well.
            self.assertEqual(NetworkSecret.parse(secret.text).weak, weak)

    def test_every_damage_names_the_file(self) -> None:
        good = NetworkSecret(RAW, weak=True).encode()
        damaged = [good[:length] for length in range(63)]
        damaged += [b"", b"\xff" * 70, good + good, b"\0" + good]
        for data in damaged:
            with self.subTest(data=data):
                error = self.assertRaises(
                    InvalidNetworkSecret, NetworkSecret.decode, data, "/home/network.secret"
                )
                self.assertIn("/home/network.secret", str(error))


class Derived(SynchronousTestCase):
    def setUp(self) -> None:
        self.key = NetworkSecret(RAW).key()
        self.root = hmac.new(b"meshkit/network-key/1", RAW, hashlib.sha256).digest()

    def derive(self, name: str) -> bytes:
        return hmac.new(self.root, name.encode(), hashlib.sha256).digest()

    def test_a_capability_is_what_the_document_says(self) -> None:
        self.assertEqual(self.key.capability("gossip"), self.derive("meshkit/capability/gossip/1"))
        self.assertEqual(
            self.key.capability("org.example.chat", 0xFFFF),
            self.derive("meshkit/capability/org.example.chat/65535"),
        )
        self.assertEqual(self.key.net_id, self.derive("meshkit/net-id/net-id/1")[:16])

    def test_known_bytes(self) -> None:
        """So that a change of any constant is noticed: it would split every network."""
        self.assertEqual(
            self.root.hex(), "1d968b4aa7119aaa43c783268a2adf323356294e8bf469ed40666622b86693d6"
        )

    def test_networks_and_labels_and_versions_differ(self) -> None:
        other = NetworkSecret(bytes(32)).key()
        capabilities = {
            key.capability(label, version)
            for key in (self.key, other)
            for label in ("gossip", "gossip.1", "dht")
            for version in (0, 1)
        }
        self.assertEqual(len(capabilities), 12)

    def test_labels_and_versions_have_a_form(self) -> None:
        for label in ("", "Gossip", "1a", "a/b", "a b", "é", "a" * 33, "a\n"):
            self.assertRaises(ValueError, self.key.capability, label)
        for version in (-1, 0x10000):
            self.assertRaises(ValueError, self.key.capability, "gossip", version)
        self.key.capability("a" * 32, 0)

    def test_a_passphrase_network_is_marked_to_the_end(self) -> None:
        self.assertFalse(self.key.weak)
        self.assertTrue(NetworkSecret(RAW, weak=True).key().weak)
        self.assertIsInstance(self.key, NetworkKey)


class NetworkFiles(SynchronousTestCase):
    """A file with the network's secret, and the previous one below it."""

    CURRENT = NetworkSecret(bytes(range(32)))
    PREVIOUS = NetworkSecret(bytes(range(1, 33)), weak=True)

    def refuse(self, data: bytes) -> str:
        error = self.assertRaises(InvalidNetworkSecret, decode_networks, data, "/n/network.secret")
        self.assertIn("/n/network.secret", str(error))
        self.assertNotIn(self.CURRENT.text[8:30], str(error))
        return str(error)

    def test_one_is_as_it_always_was(self) -> None:
        data = encode_networks([self.CURRENT])
        self.assertEqual(data, self.CURRENT.encode())
        self.assertEqual(decode_networks(data, "p"), (self.CURRENT,))

    def test_two(self) -> None:
        data = encode_networks([self.CURRENT, self.PREVIOUS])
        self.assertEqual(data, self.CURRENT.encode() + self.PREVIOUS.encode())
        self.assertEqual(decode_networks(data, "p"), (self.CURRENT, self.PREVIOUS))

    def test_none_and_three_are_refused(self) -> None:
        three = [NetworkSecret(bytes([n] * 32)) for n in range(3)]
        for secrets in ([], three):
            self.assertRaises(InvalidNetworkSecret, encode_networks, secrets)
        self.refuse(b"")
        self.assertIn("3 lines", self.refuse(b"".join(each.encode() for each in three)))
        self.refuse(b"\n" * 10_000)

    def test_the_same_twice_is_refused(self) -> None:
        self.assertRaises(InvalidNetworkSecret, encode_networks, [self.CURRENT] * 2)
        self.refuse(self.CURRENT.encode() * 2)

    def test_every_cut_but_at_the_end_of_a_line_is_refused(self) -> None:
        data = encode_networks([self.CURRENT, NetworkSecret(bytes(32))])
        first = len(self.CURRENT.encode())
        whole = {first - 1, first, len(data) - 1}
        for at in range(len(data)):
            if at not in whole:
                self.refuse(data[:at])


class PublicRelaysTests(SynchronousTestCase):
    def test_everybody_can_make_it_from_its_description(self) -> None:
        secret = hashlib.sha256(b"meshkit/public-relay/1").digest()
        self.assertEqual(PUBLIC_RELAYS, NetworkSecret(secret))
        self.assertEqual(PUBLIC_RELAYS.key().net_id.hex(), "dec05b6665b4d4c0ad42cb60e9f1ef98")
        page = (Path(__file__).parents[2] / "docs/protocol/network.md").read_text("utf-8")
        self.assertIn('secret = SHA-256("meshkit/public-relay/1")', page)
