"""Every byte of an object, changed once; and a long object in little memory."""

from __future__ import annotations

import gc
import tracemalloc

from twisted.trial.unittest import SynchronousTestCase

from meshkit.errors import NotEnoughShares
from meshkit.storage.encoding import Cutter, Decoder, Encoder, Piece
from meshkit.storage.scheme import Scheme
from tests.storage.objects import make_header
from tests.storage.shelves import Shelf, text_of
from tests.storage.test_erasure import usable

MIB = 1024 * 1024


class DamageTests(SynchronousTestCase):
    def test_one_byte_in_any_place_of_any_share_is_found_and_survived(self) -> None:
        scheme = Scheme(2, 3, 4096)
        shelf = Shelf(text_of(scheme.text_bytes + 300), scheme)
        decoder = Decoder(shelf.manifest, shelf.key, shelf.codec)
        for segment in range(2):
            text = decoder.decode(segment, shelf.pieces(segment)).text
            good = shelf.pieces(segment)
            for share, piece in good.items():
                for at in range(len(piece.block)):
                    block = bytearray(piece.block)
                    block[at] ^= 1 << at % 8
                    pieces = {**good, share: Piece(block, piece.branch)}
                    if share < 2:
                        found = decoder.decode(segment, pieces)
                        self.assertEqual((found.text, list(found.wrong)), (text, [share]))
                        continue
                    # The last one is looked at only where another is missing.
                    del pieces[at % 2]
                    with self.assertRaises(NotEnoughShares) as caught:
                        decoder.decode(segment, pieces)
                    self.assertEqual(caught.exception.wrong, (2,))


class MemoryTests(SynchronousTestCase):
    def test_a_long_object_takes_the_memory_of_some_segments(self) -> None:
        scheme = Scheme(6, 9)
        for codec in usable():
            if codec.name == "python":
                continue
            header, key = make_header(scheme)
            gc.collect()
            tracemalloc.start()
            try:
                encoder, cutter = Encoder(header, key, codec), Cutter(scheme)
                chunk = bytes(MIB)
                for _ in range(96):
                    for text in cutter.feed(chunk):
                        encoder.encode(text, False)
                encoder.encode(cutter.finish(), True)
                encoder.finish()
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            # Two texts, a sealed segment and the further shares have 21 MiB.
            self.assertLess(peak, 32 * MIB, codec.name)
