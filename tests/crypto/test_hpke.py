"""Tests of L{meshkit.crypto.hpke}, with pycryptodome's HPKE as a second opinion."""

from __future__ import annotations

from random import Random

from Crypto.Protocol import HPKE
from Crypto.Protocol.DH import import_x25519_private_key, import_x25519_public_key
from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings
from twisted.trial.unittest import SynchronousTestCase

from meshkit.crypto import hpke
from meshkit.crypto.hpke import KEY_BYTES, TAG_BYTES, open_sealed, seal

# RFC 9180, appendix A.2.1: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305,
# base mode, sequence number 0.
INFO = bytes.fromhex("4f6465206f6e2061204772656369616e2055726e")
EPHEMERAL = bytes.fromhex("f4ec9b33b792c372c1d2c2063507b684ef925b8c75a42dbcbf57d63ccd381600")
PUBLIC = bytes.fromhex("4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a")
SECRET = bytes.fromhex("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb")
ENCAPSULATED = bytes.fromhex("1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a")
TEXT = bytes.fromhex("4265617574792069732074727574682c20747275746820626561757479")
AAD = bytes.fromhex("436f756e742d30")
SEALED = bytes.fromhex(
    "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28"
)

# RFC 5869, appendix A.1 and A.3: with and without salt and info.
HKDF = (
    (
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        "",
        "",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
)


class KnownAnswers(SynchronousTestCase):
    def test_the_text_of_the_rfc(self) -> None:
        self.assertEqual(seal(PUBLIC, INFO, AAD, TEXT, EPHEMERAL), ENCAPSULATED + SEALED)
        self.assertEqual(open_sealed(SECRET, PUBLIC, INFO, AAD, ENCAPSULATED + SEALED), TEXT)

    def test_hkdf(self) -> None:
        for salt, info, expected in HKDF:
            prk = hpke.hkdf_extract(bytes.fromhex(salt), b"\x0b" * 22)
            self.assertEqual(hpke.hkdf_expand(prk, bytes.fromhex(info), 42).hex(), expected)

    def test_the_names_of_the_suite(self) -> None:
        """What pycryptodome calls these, so that the oracle is of the same suite."""
        self.assertEqual(HPKE.AEAD.CHACHA20_POLY1305, 3)
        self.assertEqual(bindings.crypto_scalarmult_base(SECRET), PUBLIC)


class Oracle(SynchronousTestCase):
    """Another program opens what is sealed here, and the other way round."""

    @given(
        seed=st.integers(0, 2**32), info=st.binary(), aad=st.binary(), text=st.binary(max_size=99)
    )
    def test_it_opens_what_is_sealed_here(
        self, seed: int, info: bytes, aad: bytes, text: bytes
    ) -> None:
        rng = Random(seed)
        secret = rng.randbytes(KEY_BYTES)
        public = bindings.crypto_scalarmult_base(secret)
        sealed = seal(public, info, aad, text, rng.randbytes(KEY_BYTES))
        self.assertEqual(len(sealed), KEY_BYTES + len(text) + TAG_BYTES)
        theirs = HPKE.new(
            receiver_key=import_x25519_private_key(secret),
            aead_id=HPKE.AEAD.CHACHA20_POLY1305,
            enc=sealed[:KEY_BYTES],
            info=info,
        )
        self.assertEqual(theirs.unseal(sealed[KEY_BYTES:], aad), text)

    def test_what_it_seals_opens_here(self) -> None:
        theirs = HPKE.new(
            receiver_key=import_x25519_public_key(PUBLIC),
            aead_id=HPKE.AEAD.CHACHA20_POLY1305,
            info=INFO,
        )
        sealed = theirs.enc + theirs.seal(TEXT, AAD)
        self.assertEqual(open_sealed(SECRET, PUBLIC, INFO, AAD, sealed), TEXT)


class Refusals(SynchronousTestCase):
    def test_every_byte_counts(self) -> None:
        sealed = ENCAPSULATED + SEALED
        for at in range(len(sealed)):
            # The highest bit of an X25519 key is ignored by X25519, not by the key schedule.
            for bit in (1, 128):
                changed = sealed[:at] + bytes([sealed[at] ^ bit]) + sealed[at + 1 :]
                with self.assertRaises(ValueError):
                    open_sealed(SECRET, PUBLIC, INFO, AAD, changed)

    def test_every_end_is_missed(self) -> None:
        sealed = ENCAPSULATED + SEALED
        for length in range(len(sealed)):
            with self.assertRaises(ValueError):
                open_sealed(SECRET, PUBLIC, INFO, AAD, sealed[:length])

    def test_purpose_and_data_count(self) -> None:
        sealed = ENCAPSULATED + SEALED
        for info, aad in ((INFO + b"x", AAD), (b"", AAD), (INFO, b""), (INFO, AAD + b"\0")):
            with self.assertRaises(ValueError):
                open_sealed(SECRET, PUBLIC, info, aad, sealed)
        other = bytes(31) + b"\x01"
        with self.assertRaises(ValueError):
            open_sealed(other, bindings.crypto_scalarmult_base(other), INFO, AAD, sealed)

    def test_keys_of_small_order(self) -> None:
        for point in (bytes(32), b"\x01" + bytes(31)):
            with self.assertRaisesRegex(ValueError, "small order"):
                seal(point, INFO, AAD, TEXT, EPHEMERAL)
            with self.assertRaisesRegex(ValueError, "small order"):
                open_sealed(SECRET, PUBLIC, INFO, AAD, point + SEALED)
