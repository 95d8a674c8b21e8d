"""Tests of L{meshkit.crypto.stream}, with pycryptodome as a second opinion."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from hashlib import sha256
from random import Random
from threading import Thread
from unittest.mock import patch

from Crypto.Cipher import AES
from Crypto.Hash import SHA256
from Crypto.Protocol.KDF import HKDF
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from meshkit.crypto import stream
from meshkit.crypto.stream import (
    CIPHERS,
    MAX_SEGMENT,
    MAX_SEGMENTS,
    MAX_TEXT,
    PREFIX_BYTES,
    TAG_BYTES,
    MakeCipher,
    Opener,
    Sealer,
    StreamKeys,
    segment_nonce,
)
from meshkit.errors import ObjectDamaged, ObjectTooLarge

KEY = bytes(range(32))
PREFIX = b"prefix7"
AAD = sha256(b"header").digest()

ciphers = st.sampled_from(sorted(CIPHERS))

# McGrew and Viega, "The Galois/Counter Mode of Operation", test cases 13 to 16:
# key, nonce, text, associated data, sealed text with tag.
_LONG = "feffe9928665731c6d6a8f9467308308" * 2
_TEXT = (
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255"
)
_SEALED = (
    "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
    "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad"
)
GCM = (
    ("00" * 32, "00" * 12, "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
    (
        "00" * 32,
        "00" * 12,
        "00" * 16,
        "",
        "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919",
    ),
    (_LONG, "cafebabefacedbaddecaf888", _TEXT, "", _SEALED + "b094dac5d93471bdec1a502270e3cc6c"),
    (
        _LONG,
        "cafebabefacedbaddecaf888",
        _TEXT[:120],
        "feedfacedeadbeeffeedfacedeadbeefabaddad2",
        _SEALED[:120] + "76fc6ece0f4e1768cddf8853bb2d551b",
    ),
)


def sealer(segment_bytes: int, make_cipher: MakeCipher = stream.fastest_cipher) -> Sealer:
    return Sealer(KEY, PREFIX, AAD, segment_bytes, make_cipher)


def opener(segment_bytes: int, make_cipher: MakeCipher = stream.fastest_cipher) -> Opener:
    return Opener(KEY, PREFIX, AAD, segment_bytes, make_cipher)


def seal_all(text: bytes, sealing: Sealer) -> list[bytes | bytearray]:
    """Cut a text into segments, of which the last is never empty unless it is the only one."""
    pieces = [
        text[at : at + sealing.text_bytes] for at in range(0, len(text), sealing.text_bytes)
    ] or [b""]
    sealed = [sealing.seal(piece, False) for piece in pieces[:-1]]
    return [*sealed, sealing.seal(pieces[-1], True)]


def open_all(sealed: Sequence[stream.Data], opening: Opener) -> bytes:
    return b"".join(
        opening.open(number, piece, number == len(sealed) - 1)
        for number, piece in enumerate(sealed)
    )


class KnownAnswers(SynchronousTestCase):
    def test_aes_256_gcm(self) -> None:
        for make in CIPHERS.values():
            for key, nonce, text, aad, sealed in GCM:
                args = [bytes.fromhex(each) for each in (key, nonce, text, aad, sealed)]
                cipher = make(args[0])
                self.assertEqual(cipher.seal(args[1], args[2], args[3]), args[4])
                self.assertEqual(cipher.open(args[1], args[4], args[3]), args[2])

    def test_a_stream(self) -> None:
        """This form, once published, is read for ever."""
        sealed = seal_all(bytes(range(100)), sealer(64))
        self.assertEqual([len(piece) for piece in sealed], [64, 64, 20])
        self.assertEqual(sealed[2].hex(), "37a88287d61f10864ba825683d391d35892e20b8")

    def test_nonces(self) -> None:
        self.assertEqual(segment_nonce(b"1234567", 0, False).hex(), "313233343536370000000000")
        self.assertEqual(
            segment_nonce(b"1234567", 0x01020304, True).hex(), "313233343536370102030401"
        )
        self.assertEqual(len(segment_nonce(PREFIX, MAX_SEGMENTS - 1, True)), 12)

    def test_keys(self) -> None:
        """Written with another program."""
        out = HKDF(KEY, 64, b"s" * 32, SHA256, context=b"meshkit/object/1")
        assert isinstance(out, bytes)
        keys = StreamKeys.derive(KEY, b"s" * 32, b"meshkit/object/1")
        self.assertEqual((keys.key, keys.commitment), (out[:32], out[32:]))
        self.assertNotIn(repr(keys.key), repr(keys))

    def test_keys_of_other_lengths_are_refused(self) -> None:
        for secret, salt in ((KEY[1:], bytes(32)), (KEY, bytes(31)), (b"", bytes(32))):
            with self.assertRaisesRegex(ValueError, "32"):
                StreamKeys.derive(secret, salt, b"")


class Oracle(SynchronousTestCase):
    def test_the_fastest_is_openssl(self) -> None:
        """It comes with treq, so that it is here."""
        self.assertEqual(list(CIPHERS), ["openssl", "pycryptodome"])
        self.assertIs(stream.fastest_cipher, CIPHERS["openssl"])

    def test_without_cryptography_the_other_one_is_taken(self) -> None:
        spec = importlib.util.find_spec("meshkit.crypto.stream")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        hidden = [name for name in sys.modules if name.partition(".")[0] == "cryptography"]
        with patch.dict(sys.modules, dict.fromkeys(hidden)):
            spec.loader.exec_module(module)
        self.assertEqual(list(module.CIPHERS), ["pycryptodome"])
        self.assertEqual(
            module.Sealer(KEY, PREFIX, AAD, 64).seal(b"x", True), sealer(64).seal(b"x", True)
        )

    def test_an_older_cryptography_seals_the_same(self) -> None:
        class Older:
            """Has no way to write into memory that is there."""

            def __init__(self, key: bytes) -> None:
                self._gcm = stream.AESGCM(key)

            def encrypt(self, nonce: bytes, text: bytes, associated: bytes) -> bytes:
                return self._gcm.encrypt(nonce, text, associated)

        expected = sealer(64).seal(b"x", True)
        older = stream.OpenSslCipher(KEY)
        older._gcm = Older(KEY)  # type: ignore[assignment]
        self.assertEqual(sealer(64, lambda _: older).seal(b"x", True), expected)

    @given(text=st.binary(max_size=300), segment_bytes=st.integers(17, 90))
    def test_all_write_the_same_bytes(self, text: bytes, segment_bytes: int) -> None:
        there = [seal_all(text, sealer(segment_bytes, make)) for make in CIPHERS.values()]
        self.assertEqual(there[0], there[1])

    @given(
        text=st.binary(max_size=300),
        segment_bytes=st.integers(17, 90),
        writer=ciphers,
        reader=ciphers,
    )
    def test_one_reads_what_another_wrote(
        self, text: bytes, segment_bytes: int, writer: str, reader: str
    ) -> None:
        sealed = seal_all(text, sealer(segment_bytes, CIPHERS[writer]))
        self.assertEqual(open_all(sealed, opener(segment_bytes, CIPHERS[reader])), text)
        self.assertEqual(sum(map(len, sealed)), len(text) + TAG_BYTES * len(sealed))

    @given(text=st.binary(min_size=1, max_size=200), segment_bytes=st.integers(17, 90))
    def test_from_the_page_alone(self, text: bytes, segment_bytes: int) -> None:
        """Written from the description, with nothing of ours."""
        sealed = seal_all(text, sealer(segment_bytes))
        found = b""
        for number, piece in enumerate(sealed):
            last = number == len(sealed) - 1
            gcm = AES.new(
                KEY, AES.MODE_GCM, nonce=PREFIX + number.to_bytes(4, "big") + bytes([last])
            )
            gcm.update(AAD)
            found += gcm.decrypt_and_verify(piece[:-16], piece[-16:])
        self.assertEqual(found, text)

    def test_all_kinds_of_buffers(self) -> None:
        for make in CIPHERS.values():
            for kind in (bytes, bytearray, memoryview):
                sealed = sealer(64, make).seal(kind(b"x" * 48), False)
                self.assertEqual(sealed, sealer(64).seal(b"x" * 48, False))
                self.assertEqual(opener(64, make).open(0, kind(sealed), False), b"x" * 48)

    def test_threads_may_share_an_opener(self) -> None:
        size = 256 * 1024
        sealed = seal_all(bytes(4 * (size - TAG_BYTES)), sealer(size))
        for make in CIPHERS.values():
            shared = opener(size, make)
            wrong: list[object] = []

            def read(number: int, opening: Opener = shared, to: list[object] = wrong) -> None:
                for _ in range(8):
                    try:
                        if opening.open(number, sealed[number], number == 3).strip(b"\x00"):
                            to.append(number)
                    except Exception as e:
                        to.append(e)

            threads = [Thread(target=read, args=(number,)) for number in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual(wrong, [])


class Damage(SynchronousTestCase):
    """Whatever is done to the segments, nothing wrong is released."""

    def setUp(self) -> None:
        self.text = bytes(range(200))
        self.sealed = seal_all(self.text, sealer(64))
        self.assertEqual(len(self.sealed), 5)

    def refused(self, number: int, piece: stream.Data, last: bool) -> None:
        for make in CIPHERS.values():
            with self.assertRaisesRegex(ObjectDamaged, f"segment {number} "):
                opener(64, make).open(number, piece, last)

    def test_every_bit_counts(self) -> None:
        for number in (0, 4):
            piece = self.sealed[number]
            for bit in range(8 * len(piece)):
                changed = bytearray(piece)
                changed[bit // 8] ^= 1 << bit % 8
                with self.assertRaises(ObjectDamaged):
                    opener(64).open(number, changed, number == 4)

    def test_every_truncation_of_a_segment(self) -> None:
        for number in (0, 4):
            for length in range(len(self.sealed[number])):
                self.refused(number, self.sealed[number][:length], number == 4)
            self.refused(number, self.sealed[number] + b"\x00", number == 4)

    def test_a_text_that_is_cut_off_has_no_end(self) -> None:
        for there in range(1, 5):
            self.refused(there - 1, self.sealed[there - 1], True)

    def test_a_text_does_not_go_on_after_its_end(self) -> None:
        self.refused(4, self.sealed[4], False)
        # Of full length, too.
        full = seal_all(self.text[:96], sealer(64))
        self.assertEqual([len(piece) for piece in full], [64, 64])
        self.refused(1, full[1], False)

    def test_segments_stay_where_they_are(self) -> None:
        for number in range(4):
            for other in range(4):
                if number != other:
                    self.refused(number, self.sealed[other], False)

    def test_another_key_prefix_or_header(self) -> None:
        for key, prefix, aad in (
            (bytes(32), PREFIX, AAD),
            (KEY, b"another", AAD),
            (KEY, PREFIX, sha256(b"another").digest()),
            (KEY, PREFIX, b""),
        ):
            with self.assertRaises(ObjectDamaged):
                Opener(key, prefix, aad, 64).open(0, self.sealed[0], False)

    def test_one_text_has_one_form(self) -> None:
        """An empty segment ends only an empty text; who seals by hand is refused as well."""
        cipher = stream.fastest_cipher(KEY)
        empty = cipher.seal(segment_nonce(PREFIX, 1, True), b"", AAD)
        self.refused(1, empty, True)
        short = cipher.seal(segment_nonce(PREFIX, 0, False), b"x", AAD)
        self.refused(0, short, False)

    def test_an_empty_text(self) -> None:
        (sealed,) = seal_all(b"", sealer(64))
        self.assertEqual(len(sealed), TAG_BYTES)
        self.assertEqual(opener(64).open(0, sealed, True), b"")
        self.refused(0, sealed, False)
        self.refused(0, b"", True)

    def test_numbers_that_no_segment_has(self) -> None:
        self.refused(-1, self.sealed[0], False)
        self.refused(MAX_SEGMENTS, self.sealed[0], False)

    @given(st.data())
    def test_any_piece_in_any_place(self, data: st.DataObject) -> None:
        """What opens is what was sealed there."""
        pieces = st.sampled_from(self.sealed) | st.binary(max_size=70)
        number, last = data.draw(st.integers(0, 5)), data.draw(st.booleans())
        piece = data.draw(pieces)
        right = number < 5 and piece == self.sealed[number] and last == (number == 4)
        try:
            text = opener(64).open(number, piece, last)
        except ObjectDamaged:
            self.assertFalse(right)
        else:
            self.assertTrue(right)
            self.assertEqual(text, self.text[number * 48 : number * 48 + 48])


class Limits(SynchronousTestCase):
    def test_a_nonce_is_used_once(self) -> None:
        class Failing:
            def __init__(self, key: bytes) -> None:
                self.nonces: list[bytes] = []

            def seal(self, nonce: bytes, text: stream.Data, associated: bytes) -> bytes:
                self.nonces.append(nonce)
                raise MemoryError

            def open(self, nonce: bytes, sealed: stream.Data, associated: bytes) -> bytes:
                raise AssertionError

        cipher = Failing(KEY)
        sealing = sealer(64, lambda key: cipher)
        for _ in range(3):
            with self.assertRaises(MemoryError):
                sealing.seal(bytes(48), False)
        with self.assertRaises(MemoryError):
            sealing.seal(b"x", True)
        self.assertEqual(len(set(cipher.nonces)), 4)

    def test_there_is_one_last_segment(self) -> None:
        sealing = sealer(64)
        sealing.seal(b"", True)
        for last in (True, False):
            with self.assertRaisesRegex(ValueError, "before"):
                sealing.seal(bytes(48), last)

    def test_the_lengths_of_segments(self) -> None:
        sealing = sealer(64)
        self.assertEqual(sealing.text_bytes, 48)
        for size, last in ((49, True), (47, False), (49, False), (0, False)):
            with self.assertRaisesRegex(ValueError, f"cannot have {size} bytes"):
                sealing.seal(bytes(size), last)
        sealing.seal(bytes(48), False)
        with self.assertRaisesRegex(ValueError, "segment 1 cannot have 0 bytes"):
            sealing.seal(b"", True)
        self.assertEqual(sealing.segments, 1)

    def test_keys_prefixes_and_segments_of_other_lengths(self) -> None:
        for key, prefix, size in (
            (KEY[:16], PREFIX, 64),
            (KEY, b"", 64),
            (KEY, bytes(PREFIX_BYTES + 1), 64),
            (KEY, PREFIX, TAG_BYTES),
            (KEY, PREFIX, MAX_SEGMENT + 1),
        ):
            for kind in (Sealer, Opener):
                with self.assertRaises(ValueError):
                    kind(key, prefix, AAD, size)

    def test_as_many_segments_as_32_bits_count(self) -> None:
        sealing = sealer(17)
        sealing.segments = MAX_SEGMENTS - 1
        self.assertEqual(opener(17).open(MAX_SEGMENTS - 1, sealing.seal(b"x", False), False), b"x")
        with self.assertRaises(ObjectTooLarge):
            sealing.seal(b"x", True)

    def test_as_long_as_a_text_may_be(self) -> None:
        room = 16 * 1024 * 1024 - TAG_BYTES
        for over in (0, 1):
            sealing = sealer(room + TAG_BYTES)
            sealing.segments, rest = divmod(MAX_TEXT, room)
            if over:
                with self.assertRaisesRegex(ObjectTooLarge, "16 TiB"):
                    sealing.seal(bytes(rest + 1), True)
                self.assertEqual(sealing.segments, MAX_TEXT // room)
            else:
                sealing.seal(bytes(rest), True)


class Property(SynchronousTestCase):
    @given(seed=st.integers(0, 2**32), change=st.integers(0, 10**6))
    def test_a_changed_byte_anywhere_is_found(self, seed: int, change: int) -> None:
        rng = Random(seed)
        text = rng.randbytes(rng.randrange(400))
        whole = bytearray(b"".join(seal_all(text, sealer(64))))
        whole[change % len(whole)] ^= rng.randrange(1, 256)
        pieces = [bytes(whole[at : at + 64]) for at in range(0, len(whole), 64)]
        with self.assertRaises(ObjectDamaged):
            open_all(pieces, opener(64))
