"""Tests of L{meshkit.crypto.sealed}."""

from __future__ import annotations

import contextlib
import hashlib
from random import Random

from Crypto.Cipher import ChaCha20_Poly1305
from Crypto.Hash import SHA256
from Crypto.Protocol import HPKE
from Crypto.Protocol.DH import import_x25519_private_key
from Crypto.Protocol.KDF import HKDF
from hypothesis import given
from hypothesis import strategies as st
from nacl import bindings
from twisted.trial.unittest import SynchronousTestCase

from meshkit.crypto import hpke, sealed
from meshkit.crypto.sealed import (
    HEADER_BYTES,
    MAX_READERS,
    SLOT_BYTES,
    capacity,
    open_box,
    seal,
    slots_for,
)
from meshkit.errors import SealedInvalid
from meshkit.identity.keys import Identity, PublicKey
from meshkit.testing.identities import make_identity

ADA, BOB, CAT, EVE = map(make_identity, ("ada", "bob", "cat", "eve"))
ROOM = 49_131


def box_for(
    *readers: Identity, text: bytes = b"hello", author: Identity = ADA, seed: int = 1
) -> bytes:
    keys = [reader.public for reader in readers]
    return seal(author.public, keys, text, Random(seed), ROOM)


class Sealing(SynchronousTestCase):
    @given(
        text=st.binary(max_size=2_000),
        readers=st.lists(st.integers(0, 99), min_size=1, max_size=9, unique=True),
        seed=st.integers(0, 2**32),
    )
    def test_its_readers_open_it_and_nobody_else(
        self, text: bytes, readers: list[int], seed: int
    ) -> None:
        there = [make_identity(n) for n in readers]
        box = box_for(*there, text=text, seed=seed)
        for reader in there:
            self.assertEqual(open_box(reader, ADA.public, box), text)
        self.assertIsNone(open_box(EVE, ADA.public, box))

    def test_known_answer(self) -> None:
        """This form, once published, is read for ever."""
        box = seal(ADA.public, [ADA.public, BOB.public, CAT.public], b"hello", Random(7), ROOM)
        self.assertEqual(
            hashlib.sha256(box).hexdigest(),
            "695d9b761e8acd3899bfa5f905ef1e5265b061dc27c94056a1d2dde0b9665610",
        )

    def test_another_program_reads_it(self) -> None:
        """Written from the page, with nothing of ours but the identities."""
        box = box_for(BOB, CAT, EVE, text=b"hello")
        aad, salt, commitment, count = box[:65], box[1:33], box[33:65], box[65]
        end = 66 + 80 * count
        info = b"meshkit/sealed/1" + ADA.public.raw + CAT.public.raw
        found = []
        for at in range(66, end, 80):
            theirs = HPKE.new(
                receiver_key=import_x25519_private_key(CAT._x25519_secret),
                aead_id=HPKE.AEAD.CHACHA20_POLY1305,
                enc=box[at : at + 32],
                info=info,
            )
            with contextlib.suppress(ValueError):
                found.append(theirs.unseal(box[at + 32 : at + 80], aad))
        (content_key,) = found
        derived = HKDF(content_key, 64, salt, SHA256, context=b"meshkit/sealed/1")
        assert isinstance(derived, bytes)
        self.assertEqual(derived[32:], commitment)
        cipher = ChaCha20_Poly1305.new(key=derived[:32], nonce=bytes(12))
        cipher.update(hashlib.sha256(ADA.public.raw + box[:end]).digest())
        padded = cipher.decrypt_and_verify(box[end:-16], box[-16:])
        self.assertEqual(padded, b"\0\0\0\x05hello" + bytes(247))

    def test_two_boxes_have_nothing_in_common(self) -> None:
        one, two = box_for(BOB, CAT, seed=1), box_for(BOB, CAT, seed=2)
        self.assertEqual(len(one), len(two))
        pieces = {one[at : at + 8] for at in range(1, len(one) - 8)}
        self.assertFalse([at for at in range(1, len(two) - 8) if two[at : at + 8] in pieces])

    def test_how_many_read_it_shows_as_a_power_of_two(self) -> None:
        for count, slots in ((1, 2), (2, 2), (3, 4), (5, 8), (33, 64), (64, 64)):
            there = [make_identity(n) for n in range(count)]
            box = box_for(*there)
            self.assertEqual((box[HEADER_BYTES - 1], slots_for(count)), (slots, slots))
            self.assertEqual(len(box), HEADER_BYTES + slots * SLOT_BYTES + 256 + 16)
            self.assertEqual(open_box(there[-1], ADA.public, box), b"hello")

    def test_slots_and_those_that_fill_up_look_alike(self) -> None:
        """All of them begin with a point of the curve, and stand in any order."""
        first = set()
        for seed in range(40):
            box = box_for(ADA, BOB, CAT, seed=seed)
            slots = [
                box[at : at + SLOT_BYTES]
                for at in range(HEADER_BYTES, HEADER_BYTES + 4 * SLOT_BYTES, SLOT_BYTES)
            ]
            self.assertEqual(len(set(slots)), 4)
            for slot in slots:
                self.assertTrue(_on_the_curve(slot[:32]))
            first.add(_whose(slots[0], box))
        self.assertEqual(first, {ADA.public, BOB.public, CAT.public, None})

    def test_lengths_are_told_roughly(self) -> None:
        lengths = {len(box_for(BOB, text=b"x" * n)) for n in range(0, 252, 50)}
        self.assertEqual(len(lengths), 1)
        self.assertEqual(len(box_for(BOB, text=b"x" * 252)), min(lengths))
        self.assertEqual(len(box_for(BOB, text=b"x" * 253)), min(lengths) + 256)

    def test_the_limit(self) -> None:
        for readers in ([BOB], [make_identity(n) for n in range(MAX_READERS)]):
            room = capacity(len(readers), ROOM)
            full = box_for(*readers, text=b"x" * room)
            self.assertEqual(len(full), ROOM)
            self.assertEqual(open_box(readers[0], ADA.public, full), b"x" * room)
            with self.assertRaisesRegex(SealedInvalid, str(room)):
                box_for(*readers, text=b"x" * (room + 1))

    def test_whom_nothing_can_be_sealed_for(self) -> None:
        for readers in ([], [make_identity(n) for n in range(MAX_READERS + 1)], [BOB, BOB]):
            with self.assertRaises(SealedInvalid):
                box_for(*readers)
        # No point of the curve, and one of small order.
        for raw in (b"\x02" + bytes(31), b"\x01" + bytes(31)):
            with self.assertRaisesRegex(SealedInvalid, "nothing can be sealed"):
                seal(ADA.public, [PublicKey(raw)], b"x", Random(1), ROOM)


def _on_the_curve(u: bytes) -> bool:
    """Is this the X25519 key of a secret?  Then v^2 = u^3 + 486662 u^2 + u has a root."""
    p = 2**255 - 19
    x = int.from_bytes(u, "little") & (2**255 - 1)
    return pow((x**3 + 486662 * x * x + x) % p, (p - 1) // 2, p) == 1


def _whose(slot: bytes, box: bytes) -> PublicKey | None:
    for reader in (ADA, BOB, CAT):
        info = b"meshkit/sealed/1" + ADA.public.raw + reader.public.raw
        try:
            hpke.open_sealed(
                reader._x25519_secret, reader.public.x25519, info, box[: HEADER_BYTES - 1], slot
            )
        except ValueError:
            continue
        return reader.public
    return None


class Changing(SynchronousTestCase):
    """Somebody between author and reader, or another author, changes the box."""

    def refused(self, box: bytes, reader: Identity = BOB, author: Identity = ADA) -> None:
        try:
            opened = open_box(reader, author.public, box)
        except SealedInvalid:
            return
        self.assertIsNone(opened)

    def test_every_byte_counts(self) -> None:
        box = box_for(BOB, CAT)
        for at in range(len(box)):
            self.refused(box[:at] + bytes([box[at] ^ 1]) + box[at + 1 :])

    def test_every_end_is_missed(self) -> None:
        box = box_for(BOB)
        for length in range(len(box)):
            self.refused(box[:length])
        self.refused(box + b"\0")

    def test_a_box_in_another_authors_message_opens_for_nobody(self) -> None:
        box = box_for(BOB, EVE)
        for reader in (BOB, EVE, ADA):
            self.assertIsNone(open_box(reader, EVE.public, box))

    def test_a_slot_of_another_box_opens_nothing(self) -> None:
        one, two = box_for(BOB, CAT, seed=1), box_for(BOB, CAT, seed=2)
        end = HEADER_BYTES + 2 * SLOT_BYTES
        self.refused(one[:HEADER_BYTES] + two[HEADER_BYTES:end] + one[end:])
        self.refused(two[:HEADER_BYTES] + one[HEADER_BYTES:end] + two[end:])

    def test_slots_cannot_be_swapped_or_taken_out(self) -> None:
        box = box_for(BOB, CAT)
        middle, end = HEADER_BYTES + SLOT_BYTES, HEADER_BYTES + 2 * SLOT_BYTES
        swapped = box[:HEADER_BYTES] + box[middle:end] + box[HEADER_BYTES:middle] + box[end:]
        with self.assertRaisesRegex(SealedInvalid, "changed"):
            open_box(BOB, ADA.public, swapped)
        blind = box[:middle] + bytes(SLOT_BYTES) + box[end:]
        opened = [self.opens(reader, blind) for reader in (BOB, CAT)]
        self.assertEqual(opened, ["no", "no"])

    def opens(self, reader: Identity, box: bytes) -> str:
        try:
            return "no" if open_box(reader, ADA.public, box) is None else "yes"
        except SealedInvalid:
            return "no"

    def test_a_reader_cannot_write_another_text_under_the_authors_header(self) -> None:
        """As a recipient of Egregore's box can; the signature around it excludes it there."""
        box = box_for(BOB, CAT)
        end = HEADER_BYTES + 2 * SLOT_BYTES
        aad = box[: HEADER_BYTES - 1]
        content_key = None
        for at in range(HEADER_BYTES, end, SLOT_BYTES):
            info = b"meshkit/sealed/1" + ADA.public.raw + BOB.public.raw
            try:
                content_key = hpke.open_sealed(
                    BOB._x25519_secret, BOB.public.x25519, info, aad, box[at : at + SLOT_BYTES]
                )
            except ValueError:
                continue
        assert content_key is not None
        # He can for his own eyes and Cat's, as he holds the key: no box proves to a third
        # person what its author said.  But not in a message of his own.
        forged = box[:end] + _body(EVE.public, box[:end], content_key, box[1:33])
        self.refused(forged, CAT, ADA)

    def test_one_body_cannot_be_two_texts(self) -> None:
        """A malicious author hands out two keys: the commitment holds for one of them."""
        rng = Random(3)
        keys = [rng.randbytes(32), rng.randbytes(32)]
        salt = rng.randbytes(32)
        _, commitment = sealed._derive(keys[0], salt)
        aad = b"\x01" + salt + commitment
        slots = [
            hpke.seal(
                reader.public.x25519,
                b"meshkit/sealed/1" + ADA.public.raw + reader.public.raw,
                aad,
                key,
                rng.randbytes(32),
            )
            for reader, key in ((BOB, keys[0]), (CAT, keys[1]))
        ]
        head = b"".join([aad, b"\x02", *slots])
        box = head + _body(ADA.public, head, keys[0], salt)
        self.assertEqual(open_box(BOB, ADA.public, box), b"lies")
        with self.assertRaisesRegex(SealedInvalid, "another key"):
            open_box(CAT, ADA.public, box)

    def test_padding_has_one_form(self) -> None:
        for padded in (
            (5).to_bytes(4, "big") + b"lies\x00".ljust(252, b"\x01"),
            (253).to_bytes(4, "big") + bytes(252),
            b"\xff\xff\xff\xff" + bytes(252),
        ):
            rng = Random(4)
            key, salt = rng.randbytes(32), rng.randbytes(32)
            _, commitment = sealed._derive(key, salt)
            aad = b"\x01" + salt + commitment
            info = b"meshkit/sealed/1" + ADA.public.raw + BOB.public.raw
            slot = hpke.seal(BOB.public.x25519, info, aad, key, rng.randbytes(32))
            head = aad + b"\x02" + slot + slot
            with self.assertRaisesRegex(SealedInvalid, "padded"):
                open_box(BOB, ADA.public, head + _body(ADA.public, head, key, salt, padded))

    def test_odd_headers(self) -> None:
        box = box_for(BOB)
        for count in (0, 1, 3, 65, 128, 255):
            with self.assertRaises(SealedInvalid):
                open_box(
                    BOB, ADA.public, box[: HEADER_BYTES - 1] + bytes([count]) + box[HEADER_BYTES:]
                )
        with self.assertRaisesRegex(SealedInvalid, "upgrade"):
            open_box(BOB, ADA.public, b"\x02" + box[1:])


def _body(
    author: PublicKey, head: bytes, content_key: bytes, salt: bytes, padded: bytes | None = None
) -> bytes:
    key, _ = sealed._derive(content_key, salt)
    if padded is None:
        padded = (4).to_bytes(4, "big") + b"lies".ljust(252, b"\0")
    aad = hashlib.sha256(author.raw + head).digest()
    return bindings.crypto_aead_chacha20poly1305_ietf_encrypt(padded, aad, bytes(12), key)
