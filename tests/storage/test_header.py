"""Tests of L{meshkit.storage.header}."""

from __future__ import annotations

from hashlib import sha256
from random import Random

import msgpack
from Crypto.Cipher import AES
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.crypto.stream import CIPHERS
from meshkit.errors import ObjectDamaged, ObjectKeyWrong, ObjectMalformed
from meshkit.identity.keys import PublicKey
from meshkit.storage.header import MAX_HEADER, Header
from meshkit.storage.scheme import Layout, Scheme
from tests.storage.objects import PLACEMENT, SMALL, make_header, seal_text

lengths = st.integers(0, 60_000) | st.sampled_from([0, 1, 24_560, 24_561, 2 * 24_560])


class Headers(SynchronousTestCase):
    @given(st.integers(0, 2**32), st.integers(1, 255), st.integers(0, 254))
    def test_what_is_read_is_what_was_written(self, seed: int, required: int, more: int) -> None:
        scheme = Scheme(required, min(required + more, 255), 4096)
        header, key = make_header(scheme, seed)
        again = Header.decode(header.raw)
        self.assertEqual(again, header)
        self.assertEqual((again.raw, again.digest), (header.raw, header.digest))
        self.assertTrue(again.fits(key))

    def test_its_length(self) -> None:
        lengths = {
            len(make_header(Scheme(required, total, block))[0].raw)
            for required, total, block in ((1, 1, 4096), (16, 255, 2**20), (255, 255, 4096))
        }
        self.assertEqual((min(lengths), max(lengths)), (160, 163))
        self.assertLess(max(lengths), MAX_HEADER)

    def test_every_truncation(self) -> None:
        raw = make_header()[0].raw
        for length in range(len(raw)):
            with self.assertRaises(ObjectMalformed):
                Header.decode(raw[:length])
        with self.assertRaises(ObjectMalformed):
            Header.decode(raw + b"\x00")

    def test_every_bit_counts(self) -> None:
        """What is read after a change is refused, or another header."""
        header, _ = make_header()
        for bit in range(8 * len(header.raw)):
            changed = bytearray(header.raw)
            changed[bit // 8] ^= 1 << bit % 8
            try:
                other = Header.decode(bytes(changed))
            except ObjectMalformed:
                continue
            self.assertNotEqual(other, header)
            self.assertNotEqual(other.digest, header.digest)

    def test_schemes_that_are_none(self) -> None:
        fields = msgpack.unpackb(make_header()[0].raw)
        for at, value in ((6, 0), (6, 10), (7, 256), (8, 4097), (8, 0), (8, 2**21), (7, -1)):
            other = [*fields[:at], value, *fields[at + 1 :]]
            with self.assertRaisesRegex(ObjectMalformed, "header"):
                Header.decode(msgpack.packb(other))

    def test_fields_of_other_lengths(self) -> None:
        fields = msgpack.unpackb(make_header()[0].raw)
        for at in range(1, 6):
            for value in (fields[at][:-1], fields[at] + b"x"):
                with self.assertRaises(ObjectMalformed):
                    Header.decode(msgpack.packb([*fields[:at], value, *fields[at + 1 :]]))
        header, _ = make_header()
        with self.assertRaises(ValueError):
            Header(SMALL, b"short", PLACEMENT.public, header.salt, header.commitment, header.prefix)

    def test_secrets_are_not_shown(self) -> None:
        header, key = make_header()
        for secret in (header.upload, key):
            self.assertNotIn(repr(secret), repr(header))
            self.assertNotIn(secret.hex(), repr(header))


class Ids(SynchronousTestCase):
    def test_from_the_page_alone(self) -> None:
        """Written from the description, with nothing of ours."""
        header, _ = make_header()
        self.assertEqual(
            header.share_id(8), sha256(b"meshkit/share/1" + header.upload + b"\x08").digest()
        )
        self.assertEqual(header.digest, sha256(header.raw).digest())

    def test_shares_have_names_of_their_own(self) -> None:
        one, two = make_header(seed=1)[0], make_header(seed=2)[0]
        names = {each.share_id(number) for each in (one, two) for number in range(9)}
        self.assertEqual(len(names), 18)
        for number in (-1, 9, 256):
            with self.assertRaisesRegex(ValueError, f"no share {number}"):
                one.share_id(number)


class Keys(SynchronousTestCase):
    @given(seed=st.integers(0, 2**32), length=lengths)
    def test_a_whole_object(self, seed: int, length: int) -> None:
        header, key = make_header(seed=seed)
        text = Random(seed).randbytes(length)
        sealed, _ = seal_text(header, key, text)
        layout = Layout(SMALL, length)
        self.assertEqual(
            [len(each) for each in sealed],
            [layout.sealed_bytes(number) for number in range(layout.segments)],
        )
        for make in CIPHERS.values():
            opener = Header.decode(header.raw).opener(key, make)
            found = b"".join(
                opener.open(number, each, layout.is_last(number))
                for number, each in enumerate(sealed)
            )
            self.assertEqual(found, text)

    def test_from_the_page_alone(self) -> None:
        """Written from the description, with nothing of ours."""
        header, content_key = make_header()
        sealed, _ = seal_text(header, content_key, b"hello")
        _, _, salt, commitment, prefix, *_ = msgpack.unpackb(header.raw)
        out = HKDF(content_key, 64, salt, SHA256, context=b"meshkit/object/1")
        assert isinstance(out, bytes)
        self.assertEqual(out[32:], commitment)
        gcm = AES.new(out[:32], AES.MODE_GCM, nonce=prefix + bytes(4) + b"\x01")
        gcm.update(sha256(header.raw).digest())
        self.assertEqual(gcm.decrypt_and_verify(sealed[0][:-16], sealed[0][-16:]), b"hello")

    def test_one_key_fits(self) -> None:
        header, key = make_header()
        self.assertTrue(header.fits(key))
        wrong = [bytes(32), b"", key[:-1], key + b"\x00", make_header(seed=2)[1]]
        for bit in range(256):
            changed = bytearray(key)
            changed[bit // 8] ^= 1 << bit % 8
            wrong.append(bytes(changed))
        for other in wrong:
            self.assertFalse(header.fits(other))
            with self.assertRaises(ObjectKeyWrong):
                header.opener(other)
            with self.assertRaises(ObjectKeyWrong):
                header.sealer(other)

    def test_a_header_of_another_object_opens_nothing(self) -> None:
        """The same key, salt and prefix: all of the header is bound to the segments."""
        header, key = make_header()
        sealed, _ = seal_text(header, key, b"hello")
        for scheme, upload, placement in (
            (Scheme(6, 10, 4096), header.upload, header.placement),
            (SMALL, bytes(32), header.placement),
            (SMALL, header.upload, PublicKey(bytes(32))),
        ):
            other = Header(scheme, upload, placement, header.salt, header.commitment, header.prefix)
            with self.assertRaises(ObjectDamaged):
                other.opener(key).open(0, sealed[0], True)
        self.assertEqual(header.opener(key).open(0, sealed[0], True), b"hello")

    def test_objects_under_one_key_have_nothing_in_common(self) -> None:
        """Each header has a salt and a prefix of its own, and so a key."""
        rng = Random(1)
        key = rng.randbytes(32)
        headers = [
            Header.new(SMALL, rng.randbytes(32), PLACEMENT.public, key, rng) for _ in range(2)
        ]
        one, two = (seal_text(header, key, bytes(100))[0][0] for header in headers)
        self.assertNotEqual(one[:100], two[:100])
        self.assertNotEqual(headers[0].commitment, headers[1].commitment)
