"""Tests of L{meshkit.identity.egregore}: identities that Egregore made."""

from __future__ import annotations

import json
import traceback
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import InvalidKeyFile, PassphraseRequired, StartError, WrongPassphrase
from meshkit.identity.egregore import MAX_FILE, import_identity, is_encrypted
from meshkit.identity.keys import Identity

SEED = bytes(range(32))
PATH = "/home/me/identity/secret.key.enc"
WORDS = "p\u00e4ssword"

#: Made with pyca/cryptography 50 (OpenSSL) from the description of Egregore's format, in
#: the form in which serde_json writes it.
ENCRYPTED: dict[str, Any] = {
    "salt": list(range(16)),
    "nonce": list(range(12)),
    "ciphertext": [
        *(118, 14, 84, 142, 242, 156, 227, 139, 148, 197, 168, 226, 184, 179, 168, 6),
        *(200, 52, 106, 196, 132, 135, 219, 232, 227, 247, 72, 118, 35, 180, 64, 21),
        *(99, 37, 104, 12, 165, 196, 150, 30, 111, 78, 83, 102, 236, 128, 187, 212),
    ],
}
FILE = json.dumps(ENCRYPTED, indent=2).encode()


class ImportTests(SynchronousTestCase):
    def refuse(self, data: bytes, error: Any, passphrase: str | None = WORDS) -> None:
        found = self.assertRaises(error, import_identity, data, PATH, passphrase)
        self.assertIsInstance(found, StartError)
        self.assertIn(PATH, str(found))
        self.assertNotIn("118", "".join(traceback.format_exception(found)))

    def test_a_raw_seed(self) -> None:
        self.assertFalse(is_encrypted(SEED))
        self.assertEqual(import_identity(SEED, PATH).public, Identity(SEED).public)

    def test_an_encrypted_one(self) -> None:
        self.assertTrue(is_encrypted(FILE))
        self.assertLess(len(FILE), MAX_FILE)
        self.assertEqual(import_identity(FILE, PATH, WORDS).seed(), SEED)

    def test_a_wrong_passphrase(self) -> None:
        # It is taken as it was typed: Egregore does not compose letters.
        for wrong in ("", "password", "pa\u0308ssword", f"{WORDS}\n"):
            self.refuse(FILE, WrongPassphrase, wrong)

    def test_no_passphrase(self) -> None:
        self.refuse(FILE, PassphraseRequired, None)

    def test_a_changed_file_does_not_open(self) -> None:
        for name, at in (("salt", 0), ("nonce", 11), ("ciphertext", 0), ("ciphertext", 47)):
            changed = {**ENCRYPTED, name: list(ENCRYPTED[name])}
            changed[name][at] ^= 1
            self.refuse(json.dumps(changed).encode(), WrongPassphrase)

    def test_every_cut_is_refused(self) -> None:
        compact = json.dumps(ENCRYPTED).encode()
        for at in range(len(compact)):
            if at != 32:
                self.refuse(compact[:at], InvalidKeyFile)

    def test_what_is_something_else(self) -> None:
        for data in (
            b"",
            SEED[:-1],
            SEED + b"\n",
            b"[" * 4000,
            b'{"meshkit": "identity"}',
            json.dumps({**ENCRYPTED, "kdf": "argon2"}).encode(),
            json.dumps({**ENCRYPTED, "salt": [1] * 15}).encode(),
            json.dumps({**ENCRYPTED, "nonce": [256] * 12}).encode(),
            json.dumps({**ENCRYPTED, "nonce": [-1] * 12}).encode(),
            json.dumps({**ENCRYPTED, "ciphertext": [1] * 49}).encode(),
            json.dumps({**ENCRYPTED, "ciphertext": "abc"}).encode(),
        ):
            self.refuse(data, InvalidKeyFile)
