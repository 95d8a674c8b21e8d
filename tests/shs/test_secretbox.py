"""
XSalsa20-Poly1305 within buffers: both ways give the known answers and the same bytes,
and nothing else is taken for the fast one.
"""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from nacl import _sodium  # type: ignore[attr-defined]
from nacl.secret import SecretBox
from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import TamperedStream
from meshkit.shs import secretbox
from meshkit.shs.boxstream import MAX_BODY, OVERHEAD, Boxer, Unboxer
from meshkit.shs.secretbox import MAC_BYTES, NATIVE, PORTABLE, InPlace, find_native
from tests.shs.common import pieces
from tests.shs.vectors import BOXES, GOODBYE, PYTHON_SSB

KEY = b"k" * 32
NONCE = b"n" * 24


def ways() -> list[InPlace]:
    assert NATIVE is not None
    return [NATIVE, PORTABLE]


class WaysTests(SynchronousTestCase):
    def test_the_fast_way_works_with_the_pynacl_that_is_installed(self) -> None:
        # If this fails, meshkit still works, at about half the speed: see C{_Native}.
        self.assertIsNotNone(NATIVE)
        self.assertIs(secretbox.BEST, NATIVE)
        self.assertEqual(
            [repr(way) for way in ways()], ["<secretbox, native>", "<secretbox, portable>"]
        )

    @given(
        st.binary(max_size=300),
        st.integers(0, 40),
        st.integers(0, 40),
        st.binary(min_size=56, max_size=56),
    )
    def test_sealing_is_that_of_pynacl(
        self, plain: bytes, start: int, at: int, secret: bytes
    ) -> None:
        key, nonce = secret[:32], secret[32:]
        expected = SecretBox(key).encrypt(plain, nonce).ciphertext
        for way in ways():
            source = b"x" * start + plain + b"y"
            out = bytearray(b"z") * (at + MAC_BYTES + len(plain) + 5)
            with way.hold(source) as held, way.hold(out) as into:
                way.seal(held, start, len(plain), into, at, nonce, key)
            self.assertEqual(bytes(out), b"z" * at + expected + b"z" * 5, way)

    @given(st.integers(0, 200), st.integers(0, 60), st.integers(0, 60))
    def test_sealing_and_opening_within_one_buffer(self, size: int, start: int, at: int) -> None:
        plain = Random(size).randbytes(size)
        buffers = []
        for way in ways():
            buffer = bytearray(300)
            buffer[start : start + size] = plain
            with way.hold(buffer) as held:
                way.seal(held, start, size, held, at, NONCE, KEY)
                sealed = bytes(buffer[at : at + MAC_BYTES + size])
                # Then open it to where it was, over itself.
                self.assertTrue(way.open(held, at, size, start, NONCE, KEY))
            self.assertEqual(SecretBox(KEY).decrypt(sealed, NONCE), plain)
            self.assertEqual(buffer[start : start + size], plain)
            buffers.append(buffer[start : start + size])
        self.assertEqual(buffers[0], buffers[1])

    def test_what_does_not_open_leaves_the_buffer_as_it_was(self) -> None:
        sealed = SecretBox(KEY).encrypt(b"a text of a few bytes", NONCE).ciphertext
        for way in ways():
            for at in range(len(sealed)):
                buffer = bytearray(sealed)
                buffer[at] ^= 0x40
                before = bytes(buffer)
                with way.hold(buffer) as held:
                    self.assertFalse(way.open(held, 0, 21, 3, NONCE, KEY), (way, at))
                self.assertEqual(bytes(buffer), before)

    def test_a_buffer_cannot_be_resized_while_it_is_held_and_can_after(self) -> None:
        for way in ways():
            buffer = bytearray(100)
            with way.hold(buffer):
                for change in (buffer.clear, lambda b=buffer: b.extend(bytes(5000))):
                    with self.assertRaises(BufferError):
                        change()
            buffer.clear()
            self.assertEqual(len(buffer), 0)


class StreamTests(SynchronousTestCase):
    """The whole box stream, by both ways."""

    def test_boxes_and_goodbye_of_the_python_implementation(self) -> None:
        key, nonce = PYTHON_SSB.client_to_server, PYTHON_SSB.messages[1][:24]
        for way in ways():
            boxer, unboxer = Boxer(key, nonce, way), Unboxer(key, nonce, way)
            self.assertEqual([boxer.box(body) for body, _ in BOXES], [box for _, box in BOXES])
            self.assertEqual(boxer.goodbye(), GOODBYE)
            unboxer.feed(b"".join(box for _, box in BOXES) + GOODBYE)
            self.assertEqual(unboxer.read(), b"".join(body for body, _ in BOXES))
            self.assertEqual((unboxer.read(), unboxer.ended), (b"", True))

    @given(st.lists(st.integers(0, 9000), max_size=5), st.integers(0, 2**32), st.integers(1, 6000))
    def test_each_writes_what_the_other_reads(
        self, sizes: list[int], seed: int, largest: int
    ) -> None:
        rng = Random(seed)
        writes = [rng.randbytes(size) for size in sizes]
        wires = []
        for way in ways():
            boxer = Boxer(KEY, NONCE, way)
            wires.append(b"".join(boxer.box(data) for data in writes) + boxer.goodbye())
        self.assertEqual(wires[0], wires[1])
        readers = [Unboxer(KEY, NONCE, way) for way in ways()]
        got = [bytearray(), bytearray()]
        for piece in pieces(wires[0], rng, largest):
            for reader, text in zip(readers, got, strict=True):
                reader.feed(piece)
                text += reader.read()
                self.assertLess(reader.pending, OVERHEAD + MAX_BODY)
            # Not only in the end: what is opened is given out at once, by both.
            self.assertEqual(got[0], got[1])
            self.assertEqual(readers[0].pending, readers[1].pending)
        self.assertEqual(bytes(got[0]), b"".join(writes))
        self.assertEqual([reader.ended for reader in readers], [True, True])

    def test_an_error_comes_after_what_was_good_before_it(self) -> None:
        boxer = Boxer(KEY, NONCE)
        wire = bytearray(boxer.box(b"good" * 2000) + boxer.box(b"bad"))
        wire[-1] ^= 1
        for way in ways():
            reader = Unboxer(KEY, NONCE, way)
            reader.feed(bytes(wire))
            self.assertEqual(reader.read(), b"good" * 2000)
            self.assertEqual(reader.pending, 0)
            for _ in range(2):
                with self.assertRaises(TamperedStream):
                    reader.read()

    def test_what_was_given_out_is_not_changed_by_what_comes_later(self) -> None:
        boxer, reader = Boxer(KEY, NONCE), Unboxer(KEY, NONCE)
        given_out = []
        for number in range(40):
            reader.feed(boxer.box(bytes([number]) * 3000))
            given_out.append(reader.read())
        self.assertEqual(given_out, [bytes([number]) * 3000 for number in range(40)])

    def test_a_key_or_nonce_of_another_length_never_reaches_libsodium(self) -> None:
        for way in ways():
            for half in (Boxer, Unboxer):
                for key, nonce in ((b"", NONCE), (KEY[1:], NONCE), (KEY, NONCE[1:])):
                    with self.assertRaises(ValueError):
                        half(key, nonce, way)


class FallbackTests(SynchronousTestCase):
    def fresh(self) -> Any:
        """The module, as it would be if it were imported now."""
        spec = spec_from_file_location("a_fresh_secretbox", secretbox.__file__)
        assert spec is not None and spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def instead(self, sodium: Any) -> Any:
        return mock.patch.dict(sys.modules, {"nacl._sodium": sodium})

    def lying(self, name: str, answer: Any) -> ModuleType:
        """PyNaCl's private module, but for one function."""
        lib = SimpleNamespace(
            crypto_secretbox_easy=_sodium.lib.crypto_secretbox_easy,
            crypto_secretbox_open_easy=_sodium.lib.crypto_secretbox_open_easy,
        )
        setattr(lib, name, answer)
        module = ModuleType("nacl._sodium")
        module.lib, module.ffi = lib, _sodium.ffi  # type: ignore[attr-defined]
        return module

    def test_without_the_private_module_the_public_one_is_used(self) -> None:
        with self.instead(None):
            module = self.fresh()
        self.assertIsNone(module.NATIVE)
        self.assertIs(module.BEST, module.PORTABLE)
        boxer, reader = Boxer(KEY, NONCE, module.BEST), Unboxer(KEY, NONCE)
        reader.feed(boxer.box(b"hello" * 3000))
        self.assertEqual(reader.read(), b"hello" * 3000)

    def test_with_it_the_fast_one_is(self) -> None:
        module = self.fresh()
        self.assertIsNotNone(module.NATIVE)
        self.assertIs(module.BEST, module.NATIVE)

    def test_a_private_module_that_is_not_as_expected_is_not_used(self) -> None:
        empty = ModuleType("nacl._sodium")
        no_library = self.lying("crypto_secretbox_easy", None)
        for sodium in (empty, no_library):
            with self.instead(sodium):
                self.assertIsNone(find_native(), sodium)

    def test_one_that_gives_other_bytes_is_not_used(self) -> None:
        easy, open_easy = _sodium.lib.crypto_secretbox_easy, _sodium.lib.crypto_secretbox_open_easy

        def flips(out: Any, *rest: Any) -> int:
            easy(out, *rest)
            out[20] ^= 1
            return 0

        def opens_anything(*rest: Any) -> int:
            open_easy(*rest)
            return 0

        def writes_nothing(out: Any, sealed: Any, size: int, *rest: Any) -> int:
            elsewhere: int = open_easy(
                _sodium.ffi.new("unsigned char[]", size), sealed, size, *rest
            )
            return elsewhere

        def denies(*rest: Any) -> int:
            open_easy(*rest)
            return -1

        for name, answer in (
            ("crypto_secretbox_easy", flips),
            ("crypto_secretbox_easy", lambda *_: -1),
            ("crypto_secretbox_open_easy", opens_anything),
            ("crypto_secretbox_open_easy", writes_nothing),
            ("crypto_secretbox_open_easy", denies),
        ):
            with self.instead(self.lying(name, answer)):
                self.assertIsNone(find_native(), name)
        # One that is at odds with others, but not with itself.
        other = self.lying("crypto_secretbox_easy", lambda *rest: easy(*rest[:-1], rest[-1][::-1]))
        other.lib.crypto_secretbox_open_easy = lambda *rest: open_easy(*rest[:-1], rest[-1][::-1])
        with self.instead(other):
            self.assertIsNone(find_native())
        with self.instead(self.lying("crypto_secretbox_easy", easy)):
            self.assertIsNotNone(find_native())
