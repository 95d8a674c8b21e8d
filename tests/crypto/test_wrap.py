"""Tests of L{meshkit.crypto.wrap}."""

from __future__ import annotations

import base64
import json
import re
from random import Random
from typing import Any

from Crypto.Cipher import ChaCha20_Poly1305
from Crypto.Hash import SHA256
from Crypto.Protocol import HPKE
from Crypto.Protocol.DH import import_x25519_private_key
from Crypto.Protocol.KDF import HKDF
from hypothesis import given
from hypothesis import strategies as st
from nacl import pwhash
from twisted.trial.unittest import SynchronousTestCase

from meshkit.crypto import wrap
from meshkit.crypto.wrap import MAX_FILE, MAX_RECIPIENTS, KeyFile
from meshkit.errors import KeyFileInvalid, NoKeyFor, WrongPassphrase
from meshkit.identity.keys import PublicKey
from meshkit.identity.passphrase import Cost
from meshkit.testing.identities import make_identity

ADA, BOB, EVE = map(make_identity, ("ada", "bob", "eve"))
ID, KEY = b"i" * 32, bytes(range(32))
CHEAP = Cost(1, 8)


def make_file(
    passphrase: str | None = "heron", recipients: tuple[Any, ...] = (ADA, BOB)
) -> KeyFile:
    keys = [each.public for each in recipients]
    return KeyFile.wrap(ID, KEY, Random(1), passphrase, keys, CHEAP)


class Wrapping(SynchronousTestCase):
    @given(
        content_id=st.binary(min_size=32, max_size=32),
        key=st.binary(min_size=32, max_size=32),
        passphrase=st.none() | st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
        recipients=st.lists(st.integers(0, 9), max_size=4, unique=True),
        seed=st.integers(0, 2**32),
    )
    def test_those_for_whom_it_is_open_it(
        self,
        content_id: bytes,
        key: bytes,
        passphrase: str | None,
        recipients: list[int],
        seed: int,
    ) -> None:
        there = [make_identity(n) for n in recipients]
        if passphrase is None and not there:
            return
        keys = [each.public for each in there]
        file = KeyFile.wrap(content_id, key, Random(seed), passphrase, keys, CHEAP)
        again = KeyFile.decode(file.encode(), "x")
        self.assertEqual(again, file)
        self.assertEqual(again.content_id, content_id)
        for each in there:
            self.assertEqual(again.open_as(each), key)
        if passphrase is not None:
            self.assertEqual(again.open_with(passphrase), key)

    def test_nobody_else_does(self) -> None:
        file = make_file()
        with self.assertRaisesRegex(NoKeyFor, "it is for "):
            file.open_as(EVE)
        with self.assertRaises(WrongPassphrase):
            file.open_with("Heron")
        with self.assertRaisesRegex(
            NoKeyFor, f"no passphrase: it is for {re.escape(ADA.public.text)}"
        ):
            make_file(None, (ADA,)).open_with("heron")
        with self.assertRaisesRegex(NoKeyFor, "who knows a passphrase"):
            make_file("heron", ()).open_as(ADA)

    def test_other_programs_open_it(self) -> None:
        """Written from the description, with nothing of ours but the identities."""
        file = json.loads(make_file().encode())
        self.assertEqual(
            [file["meshkit"], file["version"], file["object"]], ["object-key", 1, ID.hex()]
        )
        one = file["recipients"][1]
        self.assertEqual(one["key"], BOB.public.text)
        sealed = base64.b64decode(one["sealed"])
        theirs = HPKE.new(
            receiver_key=import_x25519_private_key(BOB._x25519_secret),
            aead_id=HPKE.AEAD.CHACHA20_POLY1305,
            enc=sealed[:32],
            info=b"meshkit/wrap/1" + ID + BOB.public.raw,
        )
        self.assertEqual(theirs.unseal(sealed[32:], b""), KEY)
        under = file["passphrase"]
        salt, commit, body = (
            base64.b64decode(under[name]) for name in ("salt", "commit", "sealed")
        )
        root = pwhash.argon2id.kdf(32, b"heron", salt, opslimit=1, memlimit=8192)
        keys = HKDF(root, 64, b"", SHA256, context=b"meshkit/passphrase/1")
        assert isinstance(keys, bytes)
        self.assertEqual(keys[32:], commit)
        associated = b"meshkit/wrap/1" + ID
        cipher = ChaCha20_Poly1305.new(key=keys[:32], nonce=bytes(12))
        cipher.update(b"meshkit/passphrase/1\x00argon2id/1/8/46/" + associated + salt + commit)
        self.assertEqual(cipher.decrypt_and_verify(body[:-16], body[-16:]), KEY)

    def test_known_answer(self) -> None:
        """This form, once published, is read for ever."""
        self.assertEqual(KeyFile.decode(_FILE, "x").open_with("heron"), KEY)
        self.assertEqual(KeyFile.decode(_FILE, "x").open_as(ADA), KEY)
        self.assertEqual(make_file(recipients=(ADA,)).encode(), _FILE)

    def test_it_is_of_no_use_for_another_object(self) -> None:
        file = make_file()
        other = KeyFile(b"j" * 32, file.passphrase, file.recipients)
        with self.assertRaisesRegex(KeyFileInvalid, "changed"):
            other.open_as(ADA)
        with self.assertRaisesRegex(KeyFileInvalid, "changed"):
            other.open_with("heron")

    def test_one_recipients_is_of_no_use_to_another(self) -> None:
        file = make_file()
        ada, bob = file.recipients
        swapped = (wrap.WrappedKey(ada.recipient, bob.sealed), bob)
        with self.assertRaisesRegex(KeyFileInvalid, re.escape(ADA.public.text)):
            KeyFile(ID, None, swapped).open_as(ADA)

    def test_for_whom_it_cannot_be(self) -> None:
        many = [make_identity(n).public for n in range(MAX_RECIPIENTS + 1)]
        for recipients in ([], [ADA.public, ADA.public], many):
            with self.assertRaises(KeyFileInvalid):
                KeyFile.wrap(ID, KEY, Random(1), None, recipients)
        for raw in (b"\x02" + bytes(31), b"\x01" + bytes(31)):
            with self.assertRaisesRegex(KeyFileInvalid, "no key can be wrapped"):
                KeyFile.wrap(ID, KEY, Random(1), None, [PublicKey(raw)])
        for content_id, key in ((ID[1:], KEY), (ID, KEY[1:])):
            with self.assertRaises(ValueError):
                KeyFile.wrap(content_id, key, Random(1), None, [ADA.public])
        with self.assertRaises(ValueError):
            KeyFile.wrap(ID, KEY, Random(1), "", cost=CHEAP)

    def test_secrets_are_not_shown(self) -> None:
        file = make_file()
        self.assertNotIn(KEY, file.encode())
        self.assertNotIn(base64.b64encode(KEY), file.encode())
        self.assertIn(ADA.public.text, repr(file))
        self.assertNotIn(repr(file.recipients[0].sealed), repr(file))


class Files(SynchronousTestCase):
    def setUp(self) -> None:
        self.good = json.loads(make_file().encode())

    def refused(self, data: bytes, why: str = "/home/me/key") -> None:
        with self.assertRaisesRegex(KeyFileInvalid, why):
            KeyFile.decode(data, "/home/me/key")

    def changed(self, **changes: Any) -> bytes:
        return json.dumps({**self.good, **changes}).encode()

    def test_every_truncation(self) -> None:
        raw = make_file(recipients=(ADA,)).encode()
        for length in range(len(raw) - 2):
            self.refused(raw[:length])

    def test_other_files(self) -> None:
        for data in (b"", b"{}", b"[]", b"\xff", b"null", b"[" * 5_000, b'{"meshkit":"identity"}'):
            self.refused(data, "does not hold the key")
        self.refused(self.changed(meshkit="identity"))
        self.refused(self.changed(more=1))
        self.refused(self.changed(version=0))
        self.refused(self.changed(version="1"))
        self.refused(self.changed(version=2, more=1), "upgrade meshkit")
        self.refused(b" " * (MAX_FILE + 1), "are the limit")

    def test_objects_that_are_none(self) -> None:
        for content_id in ("", "ab", ID.hex() + "00", ID.hex()[:-1] + "g", " " + ID.hex(), None, 1):
            self.refused(self.changed(object=content_id))

    def test_for_nobody(self) -> None:
        self.refused(self.changed(passphrase=None, recipients=[]), "nobody")

    def test_costs_are_bounded_before_anything_is_computed(self) -> None:
        """A file from somebody else must not take all memory, or all day."""
        self.patch(wrap, "unseal", lambda *_: self.fail("it is computed"))
        for changes in (
            {"memory_kib": 1024 * 1024 + 1},
            {"memory_kib": 7},
            {"memory_kib": -1},
            {"passes": 11},
            {"passes": 0},
            {"passes": 2**64},
            {"kdf": "scrypt"},
            {"salt": "YQ=="},
            {"commit": ""},
            {"sealed": "YQ=="},
            {"sealed": "not base64"},
        ):
            self.refused(self.changed(passphrase={**self.good["passphrase"], **changes}))

    def test_recipients_out_of_form(self) -> None:
        one, two = self.good["recipients"]
        for recipients in (
            [one, one],
            [{**one, "key": "@x.ed25519"}],
            [{**one, "sealed": two["sealed"][:-4]}],
            [{**one, "sealed": ""}],
            [{"key": one["key"]}],
            [{**one, "more": 1}],
            [
                {"key": make_identity(n).public.text, "sealed": one["sealed"]}
                for n in range(MAX_RECIPIENTS + 1)
            ],
            None,
        ):
            self.refused(self.changed(recipients=recipients))

    def test_every_bit_of_what_is_wrapped(self) -> None:
        file = make_file()
        for bit in range(0, 8 * 80, 3):
            changed = bytearray(file.recipients[0].sealed)
            changed[bit // 8] ^= 1 << bit % 8
            # X25519 does not look at the highest bit of a key, and HPKE does.
            bad = KeyFile(ID, None, (wrap.WrappedKey(ADA.public, bytes(changed)),))
            with self.assertRaises(KeyFileInvalid):
                bad.open_as(ADA)

    def test_costs_cannot_be_changed(self) -> None:
        under = {**self.good["passphrase"], "passes": 2}
        with self.assertRaises((KeyFileInvalid, WrongPassphrase)):
            KeyFile.decode(self.changed(passphrase=under), "x").open_with("heron")

    def test_the_largest_file(self) -> None:
        many = [make_identity(n) for n in range(MAX_RECIPIENTS)]
        file = make_file(recipients=tuple(many))
        raw = file.encode()
        self.assertLess(len(raw), MAX_FILE)
        self.assertEqual(KeyFile.decode(raw, "x").open_as(many[-1]), KEY)


_FILE = b"""\
{
  "meshkit": "object-key",
  "version": 1,
  "object": "6969696969696969696969696969696969696969696969696969696969696969",
  "passphrase": {
    "kdf": "argon2id",
    "passes": 1,
    "memory_kib": 8,
    "salt": "9bFlIkpYt5HfavHYMD5hzQ==",
    "commit": "Z8xFxMt9Hop9WKziYTVSvSZ8MZ8+nBlOpdZ8UQKmAaQ=",
    "sealed": "oUcpgtHeP6KmQcIk3NHK+QFw/gLEPt4i1wPPw9EZme5BvIW7e4HPuGmgw6OfJBl3"
  },
  "recipients": [
    {
      "key": "@G93hARN3X+LTFF0/f8HDwNOFffyF7S2VF2ZlQElqxPo=.ed25519",
      "sealed": "mYnc6Ut/iuxT1HooRe9PBPPsPJA7uxpuHf9/GZDrLnXfltdp\
rHl+XWk6obGyC09zMobTsQFmcpU0Ct4vedV9oUWFPK3YbXibahrYX9FBeUo="
    }
  ]
}
"""
