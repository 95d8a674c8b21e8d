"""Tests of L{meshkit.identity.passphrase} and of key files under a passphrase."""

from __future__ import annotations

import base64
import json
import traceback
from typing import Any
from unittest.mock import patch

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from nacl import pwhash
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import (
    InvalidKeyFile,
    MeshkitError,
    PassphraseRequired,
    StartError,
    WrongPassphrase,
)
from meshkit.identity.keyfile import (
    MAX_KEY_FILE,
    decode_identity,
    decode_public,
    encode_identity,
    is_sealed,
    seal_identity,
)
from meshkit.identity.keys import Identity
from meshkit.identity.passphrase import (
    DEFAULT_COST,
    MAX_MEMORY_KIB,
    MAX_PASSES,
    MAX_PASSPHRASE,
    Cost,
    Sealed,
    normal,
    seal,
    unseal,
)

SEED = bytes(range(32))
ME = Identity(SEED)
PATH = "/home/me/secret.key"
SALT = bytes(range(100, 116))
CHEAP = Cost(passes=1, memory_kib=8)
WORDS = "correct horse"

COMMIT = "e32729fb5ce9dac4003c605e6aefc57289d3059621653c46f9e24b08762e7655"
SEALED = (
    "608ae20fda34e383c0ea3dccc6a75bac5083e91d87ea96c068ba63d910cb7c13"
    "d8e3dd1c9be5083c3c3800907010b980"
)


def sealed_file(passphrase: str = WORDS) -> bytes:
    return seal_identity(ME, passphrase, SALT, CHEAP)


class SealingTests(SynchronousTestCase):
    def test_known_answer(self) -> None:
        """Made with pyca/cryptography 50 (OpenSSL's Argon2id, HKDF and ChaCha20-Poly1305)."""
        found = seal(SEED, WORDS, b"who", SALT, Cost(passes=3, memory_kib=64))
        self.assertEqual(found.commit.hex(), COMMIT)
        self.assertEqual(found.sealed.hex(), SEALED)

    @given(st.binary(max_size=100), st.text(min_size=1, max_size=20), st.binary(max_size=100))
    def test_round_trip(self, secret: bytes, passphrase: str, associated: bytes) -> None:
        try:
            normal(passphrase)
        except ValueError:
            return
        found = seal(secret, passphrase, associated, SALT, CHEAP)
        self.assertEqual(unseal(found, passphrase, associated), secret)

    def test_the_same_letters_composed_in_another_way(self) -> None:
        found = seal(SEED, "caf\u00e9", b"", SALT, CHEAP)
        self.assertEqual(unseal(found, "cafe\u0301", b""), SEED)

    def test_another_passphrase_is_wrong(self) -> None:
        found = seal(SEED, WORDS, b"", SALT, CHEAP)
        for wrong in ("", " ", WORDS + " ", WORDS.upper(), "x" * (MAX_PASSPHRASE + 1), "\ud800"):
            self.assertRaises(WrongPassphrase, unseal, found, wrong, b"")

    def test_a_wrong_passphrase_decrypts_nothing(self) -> None:
        found = seal(SEED, WORDS, b"", SALT, CHEAP)
        with patch(
            "nacl.bindings.crypto_aead_chacha20poly1305_ietf_decrypt", side_effect=AssertionError
        ):
            self.assertRaises(WrongPassphrase, unseal, found, "wrong", b"")

    def test_each_changed_byte_is_noticed(self) -> None:
        found = seal(SEED, WORDS, b"who", SALT, CHEAP)
        for name, error in (
            ("salt", WrongPassphrase),
            ("commit", WrongPassphrase),
            ("sealed", ValueError),
        ):
            value: bytes = getattr(found, name)
            for at in range(len(value)):
                changed = bytearray(value)
                changed[at] ^= 1
                other = msgspec.structs.replace(found, **{name: bytes(changed)})
                self.assertRaises(error, unseal, other, WORDS, b"who")
        self.assertRaises(ValueError, unseal, found, WORDS, b"whom")
        for costs in ({"passes": 2}, {"memory_kib": 16}):
            other = msgspec.structs.replace(found, **costs)
            self.assertRaises(WrongPassphrase, unseal, other, WORDS, b"who")

    def test_passphrases_that_cannot_be_used(self) -> None:
        for bad in ("", "x" * (MAX_PASSPHRASE + 1), "\ud800"):
            self.assertRaises(ValueError, seal, SEED, bad, b"", SALT, CHEAP)
        seal(SEED, "x" * MAX_PASSPHRASE, b"", SALT, CHEAP)

    def test_a_salt_has_16_bytes(self) -> None:
        self.assertRaises(ValueError, seal, SEED, WORDS, b"", SALT[:-1], CHEAP)

    def test_the_default_costs_are_moderate(self) -> None:
        self.assertEqual(DEFAULT_COST.passes, pwhash.argon2id.OPSLIMIT_MODERATE)
        self.assertEqual(DEFAULT_COST.memory_kib * 1024, pwhash.argon2id.MEMLIMIT_MODERATE)

    def test_bounds_of_the_costs(self) -> None:
        self.assertEqual((MAX_PASSES, MAX_MEMORY_KIB), (10, 1024 * 1024))
        Cost(1, 8)
        Cost(MAX_PASSES, MAX_MEMORY_KIB)
        for passes, memory in ((0, 8), (-1, 8), (11, 8), (1, 7), (1, MAX_MEMORY_KIB + 1)):
            self.assertRaises(ValueError, Cost, passes, memory)

    def test_too_little_memory_is_said(self) -> None:
        found = seal(SEED, WORDS, b"", SALT, CHEAP)
        with patch.object(pwhash.argon2id, "kdf", side_effect=RuntimeError("no memory")):
            message = str(self.assertRaises(StartError, unseal, found, WORDS, b""))
        self.assertIn("8 KiB", message)


class SealedFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.data = sealed_file()
        self.content: dict[str, Any] = json.loads(self.data)

    def refuse(
        self, data: bytes, error: type[MeshkitError] = InvalidKeyFile, passphrase: str = WORDS
    ) -> str:
        found = self.assertRaises(error, decode_identity, data, PATH, passphrase)
        self.assertIsInstance(found, StartError)
        self.assertIn(PATH, str(found))
        shown = "".join(traceback.format_exception(found))
        for secret in (SEED.hex()[:16], base64.b64encode(SEED).decode()[:16], passphrase):
            self.assertNotIn(secret, shown)
        return str(found)

    def changed(self, **fields: Any) -> bytes:
        seed = {**self.content["seed"], **fields}
        return json.dumps(
            {**self.content, "seed": {k: v for k, v in seed.items() if v is not ...}}
        ).encode()

    def test_the_form_is_that_of_the_module(self) -> None:
        self.assertEqual(list(self.content), ["meshkit", "version", "id", "seed"])
        self.assertEqual((self.content["version"], self.content["id"]), (2, ME.public.text))
        self.assertEqual(
            list(self.content["seed"]), ["kdf", "passes", "memory_kib", "salt", "commit", "sealed"]
        )
        self.assertLess(len(self.data), MAX_KEY_FILE)
        self.assertNotIn(base64.b64encode(SEED)[:12], self.data)

    def test_round_trip(self) -> None:
        identity = decode_identity(self.data, PATH, WORDS)
        self.assertEqual((identity.public, identity.seed()), (ME.public, SEED))

    def test_whose_it_is_can_be_read_without(self) -> None:
        self.assertEqual(decode_public(self.data, PATH), ME.public)
        self.assertEqual(decode_public(encode_identity(ME), PATH), ME.public)
        self.assertTrue(is_sealed(self.data, PATH))
        self.assertFalse(is_sealed(encode_identity(ME), PATH))

    def test_a_passphrase_is_not_looked_at_where_none_is_needed(self) -> None:
        self.assertEqual(decode_identity(encode_identity(ME), PATH, "x").public, ME.public)

    def test_without_one(self) -> None:
        found = self.assertRaises(PassphraseRequired, decode_identity, self.data, PATH)
        self.assertIn("--passphrase-fd", str(found))

    def test_a_wrong_one_has_an_error_of_its_own(self) -> None:
        self.refuse(self.data, WrongPassphrase, "wrong one")

    def test_every_cut_is_noticed(self) -> None:
        for at in range(len(self.data.rstrip())):
            self.refuse(self.data[:at])

    def test_every_changed_byte_is_noticed_or_says_the_same(self) -> None:
        for at in range(len(self.data)):
            for bit in (0x01, 0x04, 0x20):
                changed = bytearray(self.data)
                changed[at] ^= bit
                try:
                    found = decode_identity(bytes(changed), PATH, WORDS)
                except (InvalidKeyFile, WrongPassphrase):
                    continue
                # White space, or the bits of base64 that are not used.
                self.assertEqual(found.seed(), SEED)
                # In the place of a space or of the last letter of a padded base64.
                self.assertTrue(
                    self.data[at : at + 1].isspace() or self.data[at + 1 : at + 2] == b"=", at
                )

    def test_the_id_of_another(self) -> None:
        other = Identity(bytes(32)).public.text
        self.refuse(json.dumps({**self.content, "id": other}).encode())
        self.refuse(json.dumps({**self.content, "id": "me"}).encode())

    def test_costs_out_of_bounds_are_refused_before_anything_is_computed(self) -> None:
        with patch.object(pwhash.argon2id, "kdf", side_effect=AssertionError("computed")):
            for fields in (
                {"passes": 11},
                {"passes": 0},
                {"passes": -1},
                {"passes": 2**64},
                {"memory_kib": 1024 * 1024 + 1},
                {"memory_kib": 7},
                {"memory_kib": 1.5},
                {"kdf": "scrypt"},
                {"kdf": "argon2i"},
                {"salt": base64.b64encode(bytes(15)).decode()},
                {"commit": ""},
                {"commit": base64.b64encode(bytes(31)).decode()},
                {"sealed": base64.b64encode(bytes(47)).decode()},
                {"sealed": base64.b64encode(bytes(49)).decode()},
                {"sealed": ...},
                {"salt": None},
                {"more": 1},
            ):
                self.refuse(self.changed(**fields))
                self.assertRaises(InvalidKeyFile, is_sealed, self.changed(**fields), PATH)

    def test_a_seed_that_is_not_of_the_id(self) -> None:
        """Whoever knows the passphrase can make such a file."""
        who = Identity(bytes(32)).public.text
        other = msgspec.to_builtins(seal(SEED, WORDS, who.encode(), SALT, CHEAP))
        data = json.dumps({**self.content, "id": who, "seed": other}).encode()
        self.assertIn("does not belong", self.refuse(data))

    def test_a_plain_seed_in_a_sealed_file_and_the_other_way_round(self) -> None:
        plain = json.loads(encode_identity(ME))
        self.refuse(json.dumps({**plain, "version": 2}).encode())
        self.refuse(json.dumps({**self.content, "version": 1}).encode())

    def test_another_passphrase_makes_another_file(self) -> None:
        self.assertNotEqual(sealed_file("other"), self.data)
        self.assertEqual(sealed_file(), self.data)

    def test_the_secret_is_not_in_a_repr(self) -> None:
        sealed = seal(SEED, WORDS, b"", SALT, CHEAP)
        self.assertIsInstance(sealed, Sealed)
        self.assertNotIn(repr(SEED)[2:10], repr(sealed))
