"""
The box stream: known answers, any chunking, any change, both ends of the nonce.
"""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from nacl.secret import SecretBox
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import FrameTooLarge, StreamError, TamperedStream
from meshkit.shs.boxstream import MAX_BODY, OVERHEAD, READ_SIZE, Boxer, Unboxer
from tests.shs.common import pieces
from tests.shs.vectors import BOXES, GOODBYE, PYTHON_SSB

KEY = b"k" * 32
NONCE = b"n" * 24


def both(nonce: bytes = NONCE) -> tuple[Boxer, Unboxer]:
    return Boxer(KEY, nonce), Unboxer(KEY, nonce)


def read_all(unboxer: Unboxer) -> bytes:
    got = []
    while data := unboxer.read():
        got.append(data)
    return b"".join(got)


def nonce_of(number: int) -> bytes:
    return (number % 2**192).to_bytes(24, "big")


class KnownAnswerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.key, self.nonce = PYTHON_SSB.client_to_server, PYTHON_SSB.messages[1][:24]

    def test_boxes_and_goodbye_of_the_python_implementation(self) -> None:
        boxer = Boxer(self.key, self.nonce)
        self.assertEqual([boxer.box(body) for body, _ in BOXES], [box for _, box in BOXES])
        self.assertEqual(boxer.goodbye(), GOODBYE)

    def test_they_are_read_back(self) -> None:
        unboxer = Unboxer(self.key, self.nonce)
        for body, box in BOXES:
            unboxer.feed(box)
            self.assertEqual(unboxer.read(), body)
            self.assertFalse(unboxer.ended)
        unboxer.feed(GOODBYE)
        self.assertEqual(unboxer.read(), b"")
        self.assertTrue(unboxer.ended)


class LayoutTests(SynchronousTestCase):
    def test_a_box_is_laid_out_as_the_guide_says(self) -> None:
        box = Boxer(KEY, NONCE).box(b"body")
        number = int.from_bytes(NONCE, "big")
        header = SecretBox(KEY).decrypt(box[:34], nonce_of(number))
        self.assertEqual(header[:2], b"\x00\x04")
        self.assertEqual(
            SecretBox(KEY).decrypt(header[2:] + box[34:], nonce_of(number + 1)), b"body"
        )

    def test_the_goodbye_is_a_header_of_zeros(self) -> None:
        self.assertEqual(SecretBox(KEY).decrypt(Boxer(KEY, NONCE).goodbye(), NONCE), bytes(18))

    def test_boxes_are_filled(self) -> None:
        for size, boxes in ((0, 0), (1, 1), (4095, 1), (4096, 1), (4097, 2), (8192, 2), (8193, 3)):
            sent = Boxer(KEY, NONCE).box(bytes(size))
            self.assertEqual(len(sent), size + boxes * OVERHEAD, size)

    def test_no_bytes_make_no_box_and_use_no_nonce(self) -> None:
        boxer, unboxer = both()
        self.assertEqual(boxer.box(b""), b"")
        unboxer.feed(boxer.box(b"x"))
        self.assertEqual(unboxer.read(), b"x")

    def test_keys_and_nonces_of_other_lengths_are_refused(self) -> None:
        for key, nonce in ((KEY[1:], NONCE), (KEY, NONCE[1:]), (KEY + b"k", NONCE)):
            with self.assertRaises(ValueError):
                Boxer(key, nonce)
            with self.assertRaises(ValueError):
                Unboxer(key, nonce)

    def test_the_repr_shows_no_key(self) -> None:
        self.assertEqual([repr(half) for half in both()], ["<Boxer>", "<Unboxer>"])


class RoundTripTests(SynchronousTestCase):
    @given(st.lists(st.integers(0, 9000), max_size=6), st.integers(0, 2**32), st.integers(1, 5000))
    def test_any_writes_in_any_pieces(self, sizes: list[int], seed: int, largest: int) -> None:
        rng = Random(seed)
        boxer, unboxer = both()
        writes = [rng.randbytes(size) for size in sizes]
        wire = b"".join(boxer.box(data) for data in writes) + boxer.goodbye()
        got = bytearray()
        for piece in pieces(wire, rng, largest):
            self.assertFalse(unboxer.ended)
            unboxer.feed(piece)
            got += read_all(unboxer)
            self.assertLess(unboxer.pending, OVERHEAD + MAX_BODY)
        self.assertEqual(bytes(got), b"".join(writes))
        self.assertTrue(unboxer.ended)
        self.assertEqual(unboxer.pending, 0)

    def test_byte_by_byte(self) -> None:
        boxer, unboxer = both()
        wire = boxer.box(b"hello") + boxer.box(b"world") + boxer.goodbye()
        got = b""
        for at in range(len(wire)):
            unboxer.feed(wire[at : at + 1])
            got += unboxer.read()
        self.assertEqual((got, unboxer.ended), (b"helloworld", True))

    def test_an_empty_box_of_another_program_is_read_as_nothing(self) -> None:
        number = int.from_bytes(NONCE, "big")
        mac = SecretBox(KEY).encrypt(b"", nonce_of(number + 1)).ciphertext
        empty = SecretBox(KEY).encrypt(b"\x00\x00" + mac, NONCE).ciphertext
        after = Boxer(KEY, nonce_of(number + 2)).box(b"after")
        unboxer = Unboxer(KEY, NONCE)
        unboxer.feed(empty + after)
        self.assertEqual(unboxer.read(), b"after")

    def test_one_read_gives_many_boxes_but_not_without_limit(self) -> None:
        boxer, unboxer = both()
        data = Random(1).randbytes(3 * READ_SIZE)
        unboxer.feed(b"".join(boxer.box(data[at : at + 100]) for at in range(0, len(data), 100)))
        first = unboxer.read()
        self.assertTrue(READ_SIZE <= len(first) < READ_SIZE + MAX_BODY)
        self.assertGreater(unboxer.pending, 0)
        self.assertEqual(first + read_all(unboxer), data)

    def test_nothing_is_opened_before_it_is_asked_for(self) -> None:
        boxer, unboxer = both()
        good = boxer.box(b"good")
        unboxer.feed(good + b"\x00" * 34)
        self.assertEqual(unboxer.pending, len(good) + 34)

    def test_what_follows_the_goodbye_is_ignored(self) -> None:
        boxer, unboxer = both()
        unboxer.feed(boxer.box(b"last") + boxer.goodbye() + b"junk")
        self.assertEqual(unboxer.read(), b"last")
        self.assertEqual(unboxer.read(), b"")
        unboxer.feed(b"more junk" * 1000)
        self.assertEqual((unboxer.read(), unboxer.ended, unboxer.pending), (b"", True, 0))

    def test_nothing_is_sent_after_the_goodbye(self) -> None:
        boxer, _ = both()
        boxer.goodbye()
        with self.assertRaises(RuntimeError):
            boxer.box(b"late")
        with self.assertRaises(RuntimeError):
            boxer.goodbye()


class NonceTests(SynchronousTestCase):
    def check_around(self, start: int, boxes: int) -> None:
        """Each box decrypts under the nonce that plain counting gives it."""
        boxer, unboxer = both(nonce_of(start))
        for number in range(boxes):
            body = b"box %d" % number
            box = boxer.box(body)
            header = SecretBox(KEY).decrypt(box[:34], nonce_of(start + 2 * number))
            opened = SecretBox(KEY).decrypt(header[2:] + box[34:], nonce_of(start + 2 * number + 1))
            self.assertEqual(opened, body)
            unboxer.feed(box)
            self.assertEqual(unboxer.read(), body)

    def test_it_carries_over_one_byte(self) -> None:
        self.check_around(2**8 - 3, 4)

    def test_it_carries_over_two_bytes(self) -> None:
        self.check_around(2**16 - 3, 4)

    def test_it_carries_between_header_and_body(self) -> None:
        for power in (8, 16, 24, 64):
            self.check_around(2**power - 1, 2)

    def test_it_carries_between_two_boxes(self) -> None:
        for power in (8, 16, 24, 64):
            self.check_around(2**power - 2, 2)

    def test_it_carries_before_the_goodbye(self) -> None:
        for power in (8, 16, 24, 64, 192):
            boxer, unboxer = both(nonce_of(2**power - 2))
            box, goodbye = boxer.box(b"last"), boxer.goodbye()
            self.assertEqual(SecretBox(KEY).decrypt(goodbye, nonce_of(2**power)), bytes(18))
            unboxer.feed(box + goodbye)
            self.assertEqual((unboxer.read(), unboxer.read()), (b"last", b""))
            self.assertTrue(unboxer.ended)

    def test_it_carries_over_all_bytes_and_wraps(self) -> None:
        self.check_around(2**192 - 3, 4)

    def test_counting_through_256_boxes_of_one_stream(self) -> None:
        self.check_around(0, 300)

    def test_one_write_of_many_boxes_counts_as_many_writes_do(self) -> None:
        data = Random(4).randbytes(5 * MAX_BODY)
        for power in (8, 16):
            one, many = Boxer(KEY, nonce_of(2**power - 5)), Boxer(KEY, nonce_of(2**power - 5))
            boxes = [many.box(data[at : at + MAX_BODY]) for at in range(0, len(data), MAX_BODY)]
            self.assertEqual(one.box(data), b"".join(boxes))
            self.assertEqual(one.goodbye(), many.goodbye())


class TamperingTests(SynchronousTestCase):
    def wire(self) -> bytes:
        boxer = Boxer(KEY, NONCE)
        return boxer.box(b"first") + boxer.box(b"second") + boxer.goodbye()

    def test_no_byte_can_be_changed(self) -> None:
        wire = self.wire()
        first = 34 + len(b"first")
        for at in range(len(wire)):
            unboxer = Unboxer(KEY, NONCE)
            unboxer.feed(wire[:at] + bytes([wire[at] ^ 0x80]) + wire[at + 1 :])
            got = b""
            with self.assertRaises(TamperedStream, msg=str(at)):
                while data := unboxer.read():
                    got += data
            expected = b"" if at < first else b"first" if at < 2 * first + 1 else b"firstsecond"
            self.assertEqual(got, expected, at)
            self.assertFalse(unboxer.ended)

    def test_no_bytes_can_be_removed_reordered_or_repeated(self) -> None:
        boxer = Boxer(KEY, NONCE)
        one, two, three = (boxer.box(body) for body in (b"one", b"two", b"three"))
        for wire in (two + three, one + three, two + one, one + one, one[:-1] + two, one + one[1:]):
            unboxer = Unboxer(KEY, NONCE)
            unboxer.feed(wire + bytes(100))
            with self.assertRaises(TamperedStream):
                while unboxer.read():
                    pass

    def test_a_header_over_another_body_of_the_same_length(self) -> None:
        one, other = Boxer(KEY, NONCE).box(b"one"), Boxer(KEY, NONCE).box(b"two")
        unboxer = Unboxer(KEY, NONCE)
        unboxer.feed(one[:34] + other[34:])
        with self.assertRaises(TamperedStream) as caught:
            unboxer.read()
        self.assertIn("body", str(caught.exception))

    def test_our_own_boxes_coming_back_do_not_open(self) -> None:
        unboxer = Unboxer(b"the key of the other direction".ljust(32), NONCE)
        unboxer.feed(Boxer(KEY, NONCE).box(b"mine"))
        with self.assertRaises(TamperedStream):
            unboxer.read()

    def test_a_broken_stream_stays_broken(self) -> None:
        boxer, unboxer = both()
        unboxer.feed(bytes(34))
        for _ in range(2):
            with self.assertRaises(TamperedStream):
                unboxer.read()
            unboxer.feed(boxer.box(b"good"))
        self.assertEqual(unboxer.pending, 0)

    @given(st.binary(min_size=34, max_size=300))
    def test_garbage_is_refused(self, garbage: bytes) -> None:
        unboxer = Unboxer(KEY, NONCE)
        unboxer.feed(garbage)
        with self.assertRaises(TamperedStream):
            unboxer.read()

    def test_every_truncation_gives_what_is_whole_and_no_end(self) -> None:
        wire = self.wire()
        for length in range(len(wire)):
            unboxer = Unboxer(KEY, NONCE)
            unboxer.feed(wire[:length])
            got = read_all(unboxer)
            self.assertEqual(got, b"first" * (length >= 39) + b"second" * (length >= 79))
            self.assertFalse(unboxer.ended)


class LimitTests(SynchronousTestCase):
    def header(self, length: int) -> bytes:
        return SecretBox(KEY).encrypt(length.to_bytes(2, "big") + bytes(16), NONCE).ciphertext

    def test_a_body_of_4096_bytes_is_taken(self) -> None:
        self.assertEqual(MAX_BODY, 4096)
        unboxer = Unboxer(KEY, NONCE)
        unboxer.feed(self.header(4096) + bytes(4095))
        self.assertEqual(unboxer.read(), b"")

    def test_one_byte_more_is_refused_before_its_body_comes(self) -> None:
        for length in (4097, 65535):
            unboxer = Unboxer(KEY, NONCE)
            unboxer.feed(self.header(length))
            with self.assertRaises(FrameTooLarge) as caught:
                unboxer.read()
            self.assertIn(str(length), str(caught.exception))
            self.assertIsInstance(caught.exception, StreamError)
