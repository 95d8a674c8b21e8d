"""Tests of L{meshkit.identity.keyfile}."""

from __future__ import annotations

import base64
import json
import traceback
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import InvalidKeyFile, StartError
from meshkit.identity.keyfile import MAX_KEY_FILE, decode_identity, encode_identity
from meshkit.identity.keys import Identity

SEED = bytes(range(32))
ME = Identity(SEED)
PATH = "/home/me/secret.key"


class KeyFiles(SynchronousTestCase):
    def setUp(self) -> None:
        self.data = encode_identity(ME)
        self.content: dict[str, Any] = json.loads(self.data)

    def refuse(self, data: bytes) -> str:
        error = self.assertRaises(InvalidKeyFile, decode_identity, data, PATH)
        self.assertIn(PATH, str(error))
        # Whatever is shown or logged of it, the secret is not in it.
        shown = "".join(traceback.format_exception(error))
        for secret in (base64.b64encode(SEED).decode()[:16], SEED.hex()[:16]):
            self.assertNotIn(secret, shown)
        self.assertIsNone(error.__cause__)
        return str(error)

    def changed(self, **fields: Any) -> bytes:
        content = {**self.content, **fields}
        return json.dumps({k: v for k, v in content.items() if v is not ...}).encode()

    def test_the_form_is_that_of_the_module(self) -> None:
        self.assertEqual(
            self.content,
            {
                "meshkit": "identity",
                "version": 1,
                "id": "@A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=.ed25519",
                "seed": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            },
        )
        self.assertTrue(self.data.endswith(b"}\n"))
        self.assertLess(len(self.data), MAX_KEY_FILE)

    def test_round_trip(self) -> None:
        identity = decode_identity(self.data, PATH)
        self.assertEqual((identity.public, identity.seed()), (ME.public, SEED))

    def test_spacing_and_order_do_not_matter(self) -> None:
        content = dict(reversed(self.content.items()))
        data = json.dumps(content, indent=7).encode()
        self.assertEqual(decode_identity(data, PATH).public, ME.public)

    def test_every_cut_is_noticed(self) -> None:
        for length in range(len(self.data.rstrip())):
            self.refuse(self.data[:length])

    def test_every_changed_byte_of_id_and_seed_is_noticed(self) -> None:
        for field in ("id", "seed"):
            text = self.content[field]
            for position in range(len(text)):
                other = "B" if text[position] == "A" else "A"
                self.refuse(self.changed(**{field: text[:position] + other + text[position + 1 :]}))

    def test_the_seed_of_another_identity(self) -> None:
        other = base64.b64encode(bytes(32)).decode()
        self.assertIn("does not belong to the id", self.refuse(self.changed(seed=other)))

    def test_a_seed_that_is_cut_off(self) -> None:
        for length in (0, 31, 33):
            seed = base64.b64encode(bytes(length)).decode()
            self.assertIn("cut off", self.refuse(self.changed(seed=seed)))

    def test_a_newer_version_says_upgrade(self) -> None:
        self.assertIn("upgrade", self.refuse(self.changed(version=3)))
        # ... whatever else it holds by then.
        self.assertIn("upgrade", self.refuse(self.changed(version=3, seed=..., kdf="argon2")))

    def test_versions_there_never_were(self) -> None:
        for version in (0, -1, 1.5, "1", True, None, ...):
            self.refuse(self.changed(version=version))

    def test_fields_of_another_form(self) -> None:
        for fields in (
            {"meshkit": "network"},
            {"meshkit": ...},
            {"id": ...},
            {"id": None},
            {"seed": ...},
            {"seed": 7},
            {"seed": "*" * 44},
            {"seed": self.content["seed"] + "\n"},
            {"seed": "é"},
            {"more": 1},
        ):
            with self.subTest(fields=fields):
                self.refuse(self.changed(**fields))

    def test_what_is_no_json_object(self) -> None:
        for data in (
            b"",
            b"\x00" * 100,
            b"\xff\xfe",
            SEED,
            b"[]",
            b"null",
            b'"' + SEED + b'"',
            b"[" * MAX_KEY_FILE,
            b'{"meshkit":"identity","version":1,"x":' + b"[" * 4000,
            self.data + b"x",
        ):
            with self.subTest(data=data[:40]):
                self.refuse(data)

    def test_a_daemon_does_not_start_with_it(self) -> None:
        self.assertTrue(issubclass(InvalidKeyFile, StartError))
