"""Tests of L{meshkit.storage.encoding}."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from itertools import combinations
from random import Random
from typing import Any

from attrs import evolve
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from zfec import Encoder as Zfec

from meshkit.errors import (
    NotEnoughShares,
    ObjectDamaged,
    ObjectKeyWrong,
    ObjectMismatch,
    SharesInvalid,
)
from meshkit.storage.encoding import (
    Cutter,
    Decoder,
    Encoder,
    Piece,
    Rebuilder,
    SegmentReader,
    WholeDecoder,
)
from meshkit.storage.erasure import PythonCodec, ZfecCodec
from meshkit.storage.scheme import Scheme
from tests.storage.objects import make_header, seal_text
from tests.storage.shelves import Shelf, cut_at, text_of
from tests.storage.test_erasure import usable

CODEC = ZfecCodec()
#: 2 of 3; a segment has 8,176 bytes of text.
TINY = Scheme(2, 3, 4096)
WIDTH = TINY.text_bytes

#: Content id, root of the last share, of 20,000 bytes in three segments of L{TINY}.
KNOWN_ID = "a0e0a9196135adc84c5c37dcf85aac87367c499eee2845251c777b29a747c91b"
KNOWN_SHARE = "c4c0110bc8150b15bc476d5fb76828341c51856a3d1b8c11235a730ed0f57cb6"

schemes = st.builds(
    lambda required, further: Scheme(required, required + further, 4096),
    st.integers(1, 5),
    st.integers(0, 4),
)


def read(shelf: Shelf, shares: Iterable[int] | None = None, key: bytes | None = None) -> bytes:
    """The whole text out of some of the shares."""
    decoder = Decoder(shelf.manifest, shelf.key if key is None else key, shelf.codec)
    whole = WholeDecoder(shelf.manifest, decoder)
    some = None if shares is None else list(shares)
    texts = [
        whole.decode(shelf.pieces(segment, some)).text for segment in range(shelf.layout.segments)
    ]
    whole.finish()
    return b"".join(texts)


class Cutting(SynchronousTestCase):
    @given(st.integers(0, 40_000), st.lists(st.integers(0, 40_000), max_size=8))
    def test_any_chunks_give_the_same_texts(self, length: int, places: list[int]) -> None:
        text = text_of(length)
        cutter = Cutter(TINY)
        texts = [bytes(t) for chunk in cut_at(text, places) for t in cutter.feed(chunk)]
        last = bytes(cutter.finish())
        self.assertEqual(b"".join([*texts, last]), text)
        self.assertTrue(all(len(each) == WIDTH for each in texts))
        # Only an empty text has an empty last segment.
        self.assertIn(len(last), range(min(1, length), WIDTH + 1))

    def test_a_text_stays_as_it_is_while_others_come(self) -> None:
        """A thread may still be sealing it."""
        cutter = Cutter(TINY)
        text = text_of(4 * WIDTH)
        texts = list(cutter.feed(text))
        self.assertEqual(b"".join(texts) + cutter.finish(), text)

    def test_a_chunk_that_ends_beside_a_segment(self) -> None:
        for first in (WIDTH - 1, WIDTH, WIDTH + 1):
            for second in (1, 2, WIDTH):
                text = text_of(first + second)
                cutter = Cutter(TINY)
                texts = [bytes(t) for t in (*cutter.feed(text[:first]), *cutter.feed(text[first:]))]
                self.assertEqual(
                    [len(each) for each in texts], [WIDTH] * ((len(text) - 1) // WIDTH)
                )
                self.assertEqual(b"".join(texts) + cutter.finish(), text)

    def test_units_of_other_sizes_are_bytes(self) -> None:
        cutter = Cutter(TINY)
        self.assertEqual(list(cutter.feed(memoryview(bytes(range(8))).cast("I"))), [])
        self.assertEqual(bytes(cutter.finish()), bytes(range(8)))


class KnownAnswers(SynchronousTestCase):
    def test_the_object_that_was_always_made(self) -> None:
        for codec in usable():
            shelf = Shelf(text_of(20_000), TINY, codec=codec)
            self.assertEqual(shelf.manifest.content_id.hex(), KNOWN_ID, codec.name)
            self.assertEqual(shelf.manifest.shares[-1].hex(), KNOWN_SHARE, codec.name)

    def test_it_is_what_the_parts_make(self) -> None:
        """AES-256-GCM and zfec, called as the protocol says."""
        text = text_of(2 * WIDTH + 5)
        shelf = Shelf(text, TINY)
        header = shelf.header
        sealed, root = seal_text(header, shelf.key, text)
        self.assertEqual(shelf.manifest.root, root)
        nonce = header.prefix + (2).to_bytes(4, "big") + b"\x01"
        key = header._stream(shelf.key)[0]
        self.assertEqual(sealed[2], AESGCM(key).encrypt(nonce, text[-5:], header.digest))
        shares = [b"", b"", b""]
        for each in sealed:
            half = -(-len(each) // 2)
            blocks = [each[:half], each[half:].ljust(half, b"\0")]
            made = Zfec(2, 3).encode(blocks)
            shares = [share + block for share, block in zip(shares, made, strict=True)]
        self.assertEqual(shelf.shares, shares)

    def test_the_same_with_any_cipher(self) -> None:
        from meshkit.crypto.stream import CIPHERS

        header, key = make_header(TINY)
        made = set()
        for make_cipher in CIPHERS.values():
            encoder = Encoder(header, key, CODEC, make_cipher=make_cipher)
            encoder.encode(text_of(WIDTH), False)
            encoder.encode(b"end", True)
            made.add(encoder.finish().raw)
        self.assertEqual(len(made), 1)


class RoundTrip(SynchronousTestCase):
    def test_every_subset_of_small_shapes(self) -> None:
        for total in range(1, 6):
            for required in range(1, total + 1):
                scheme = Scheme(required, total, 4096)
                shelf = Shelf(text_of(scheme.text_bytes + 99), scheme)
                for some in combinations(range(total), required):
                    self.assertEqual(read(shelf, some), shelf.text, some)

    def test_every_length_at_the_borders(self) -> None:
        lengths = {0, 1, 2, 3, *(n * WIDTH + d for n in (1, 2) for d in (-2, -1, 0, 1, 2))}
        for length in sorted(lengths):
            shelf = Shelf(text_of(length), TINY)
            self.assertEqual(shelf.layout.length, length)
            self.assertEqual([len(share) for share in shelf.shares], [shelf.layout.share_bytes] * 3)
            for some in ((0, 1), (0, 2), (1, 2), (0, 1, 2)):
                self.assertEqual(read(shelf, some), shelf.text, length)

    @given(
        scheme=schemes,
        length=st.integers(0, 50_000),
        places=st.lists(st.integers(0, 50_000), max_size=4),
        seed=st.integers(0, 2**32),
    )
    def test_any_shares_give_the_text(
        self, scheme: Scheme, length: int, places: list[int], seed: int
    ) -> None:
        text = text_of(length)
        shelf = Shelf(text, scheme, chunks=cut_at(text, places), header=make_header(scheme, seed))
        rng = Random(seed)
        some = rng.sample(range(scheme.total), rng.randint(scheme.required, scheme.total))
        self.assertEqual(read(shelf, some), text)
        self.assertEqual(
            shelf.manifest.raw, Shelf(text, scheme, header=(shelf.header, shelf.key)).manifest.raw
        )

    def test_the_first_shares_are_used_where_they_are_there(self) -> None:
        """Nothing has to be computed then."""
        shelf = Shelf(text_of(100))
        decoder = Decoder(shelf.manifest, shelf.key, CODEC)
        found = decoder.decode(0, shelf.pieces(0, reversed(range(9))))
        self.assertEqual((found.used, found.wrong), ([0, 1, 2, 3, 4, 5], {}))


class Ranges(SynchronousTestCase):
    @given(st.integers(0, 30_000), st.integers(0, 32_000), st.integers(0, 32_000))
    def test_any_range(self, length: int, start: int, count: int) -> None:
        shelf = Shelf(text_of(length), TINY)
        decoder = Decoder(shelf.manifest, shelf.key, CODEC)
        found = b"".join(
            decoder.within(
                segment,
                decoder.decode(segment, shelf.pieces(segment, (2, 1))).text,
                start,
                start + count,
            )
            for segment in decoder.layout.segments_with(start, count)
        )
        self.assertEqual(found, shelf.text[start : start + count])


class Damage(SynchronousTestCase):
    """Whatever a peer gives that is not its block is found, named and survived."""

    def survives(self, shelf: Shelf, segment: int, bad: Mapping[int, Piece]) -> None:
        """With bad pieces in the place of good ones the text is the same, and they are named."""
        decoder = Decoder(shelf.manifest, shelf.key, shelf.codec)
        pieces = {**shelf.pieces(segment), **bad}
        found = decoder.decode(segment, pieces)
        at = segment * shelf.layout.scheme.text_bytes
        self.assertEqual(found.text, shelf.text[at : at + shelf.layout.text_bytes(segment)])
        self.assertEqual(
            sorted(found.wrong), sorted(each for each in bad if each < max(found.used))
        )
        self.assertFalse(bad.keys() & set(found.used))
        for share, sentence in found.wrong.items():
            self.assertIn(f"share {share} ", sentence)
        for share, piece in bad.items():
            with self.assertRaises(ObjectDamaged):
                SegmentReader(shelf.manifest, shelf.codec).check(segment, share, piece)

    def test_one_byte_in_any_place_of_any_share(self) -> None:
        shelf = Shelf(text_of(300), TINY)
        for share in range(3):
            good = shelf.piece(0, share)
            for at in range(len(good.block)):
                block = bytearray(good.block)
                block[at] ^= 1 + at % 255
                self.survives(shelf, 0, {share: Piece(block, good.branch)})

    def test_one_byte_in_any_segment_of_any_share(self) -> None:
        """All places of a share of 20 KiB are tried in tests/slow."""
        shelf = Shelf(text_of(5 * WIDTH + 77), TINY)
        for share in range(3):
            for at in range(0, len(shelf.shares[share]), 997):
                shelf.shares[share][at] ^= 0x80
                segment = min(at // 4096, 5)
                self.survives(shelf, segment, {share: shelf.piece(segment, share)})
                shelf.shares[share][at] ^= 0x80
        self.assertEqual(read(shelf), shelf.text)

    def test_one_byte_in_any_place_of_a_proof(self) -> None:
        shelf = Shelf(text_of(20 * WIDTH), TINY)
        good = shelf.piece(3, 1)
        self.assertGreater(len(good.branch), 3)
        for number, node in enumerate(good.branch):
            for at in range(len(node)):
                branch = list(good.branch)
                branch[number] = node[:at] + bytes([node[at] ^ 4]) + node[at + 1 :]
                self.survives(shelf, 3, {1: Piece(good.block, branch)})
        for branch in (
            [],
            good.branch[:-1],
            [*good.branch, bytes(32)],
            list(reversed(good.branch)),
            [node[:31] for node in good.branch],
        ):
            self.survives(shelf, 3, {1: Piece(good.block, branch)})

    def test_another_block_in_its_place(self) -> None:
        shelf = Shelf(text_of(20 * WIDTH), TINY)
        other = Shelf(text_of(20 * WIDTH), TINY, header=make_header(TINY, 9))
        for wrong in (shelf.piece(4, 1), shelf.piece(3, 0), other.piece(3, 1)):
            self.survives(shelf, 3, {1: wrong})

    def test_more_or_less_than_the_block(self) -> None:
        shelf = Shelf(text_of(2 * WIDTH + 500), TINY)
        for segment in (0, 2):
            good = shelf.piece(segment, 0)
            for block in (b"", good.block[:-1], bytes(good.block) + b"\0", bytes(good.block) * 2):
                self.survives(shelf, segment, {0: Piece(block, good.branch)})

    @given(st.data())
    def test_as_many_liars_as_can_be(self, data: st.DataObject) -> None:
        shelf = Shelf(text_of(50_000))
        segment = data.draw(st.integers(0, shelf.layout.segments - 1))
        liars = data.draw(st.sets(st.integers(0, 8), max_size=3))
        bad = {}
        for share in sorted(liars):
            good = shelf.piece(segment, share)
            bad[share] = Piece(data.draw(st.binary(max_size=5_000)), good.branch)
        self.survives(shelf, segment, bad)

    def test_one_liar_too_many(self) -> None:
        shelf = Shelf(text_of(100))
        pieces = shelf.pieces(0)
        for share in (1, 4, 5, 8):
            pieces[share] = Piece(bytes(len(pieces[share].block)), pieces[share].branch)
        decoder = Decoder(shelf.manifest, shelf.key, CODEC)
        with self.assertRaisesRegex(
            NotEnoughShares,
            "6 shares are needed, and 5 of 9 are good; not what they were: 1, 4, 5, 8",
        ) as caught:
            decoder.decode(0, pieces)
        self.assertEqual(caught.exception.details, {"wrong": [1, 4, 5, 8]})

    def test_too_few(self) -> None:
        shelf = Shelf(text_of(100))
        decoder = Decoder(shelf.manifest, shelf.key, CODEC)
        for some in ((), (0,), (0, 1, 2, 3, 8)):
            with self.assertRaisesRegex(NotEnoughShares, f"{len(some)} of {len(some)} are good$"):
                decoder.decode(0, shelf.pieces(0, some))

    def test_many_liars_are_named_in_a_sentence_of_one_length(self) -> None:
        scheme = Scheme(2, 200, 4096)
        shelf = Shelf(b"text", scheme)
        wrong = Piece(b"wrong", [])
        with self.assertRaisesRegex(NotEnoughShares, "0, 1, 2, 3, 4, 5, 6, 7 and 192 more$"):
            Decoder(shelf.manifest, shelf.key, CODEC).decode(0, dict.fromkeys(range(200), wrong))

    def test_what_does_not_exist(self) -> None:
        shelf = Shelf(text_of(100), TINY)
        decoder = Decoder(shelf.manifest, shelf.key, CODEC)
        piece = shelf.piece(0, 0)
        for share in (3, 255, -1):
            with self.assertRaisesRegex(ValueError, f"no share {share}"):
                decoder.decode(0, {0: piece, share: piece})
        for segment in (1, -1):
            with self.assertRaisesRegex(ValueError, "no segment"):
                decoder.decode(segment, {0: piece})
        with self.assertRaises(SharesInvalid):
            SegmentReader(shelf.manifest, CODEC).recover(0, shelf.pieces(0), [3])


class Makers(SynchronousTestCase):
    """Who makes objects may lie too."""

    def test_another_key(self) -> None:
        shelf = Shelf(text_of(100), TINY)
        self.assertRaises(ObjectKeyWrong, Decoder, shelf.manifest, bytes(32), CODEC)
        self.assertRaises(ObjectKeyWrong, Encoder, shelf.header, bytes(32), CODEC)

    def test_shares_that_are_what_the_manifest_says_and_do_not_open(self) -> None:
        """Somebody gives a manifest of the object with shares of his own."""
        shelf = Shelf(text_of(100), TINY)
        other = Shelf(text_of(100, seed=8), TINY, header=(make_header(TINY, 9)))
        forged = evolve(shelf.manifest, shares=other.manifest.shares)
        self.assertRaises(ObjectMismatch, forged.check, shelf.manifest.content_id)
        decoder = Decoder(forged, shelf.key, CODEC)
        with self.assertRaisesRegex(ObjectDamaged, "whoever made the object or its manifest"):
            decoder.decode(0, other.pieces(0))

    def test_zeros_that_are_none(self) -> None:
        """What lies behind the last sealed segment could carry anything."""
        shelf = Shelf(b"odd", TINY)
        text = bytes(shelf.shares[0] + shelf.shares[1])
        self.assertEqual(text[-1], 0)

        class Filling(PythonCodec):
            """Makes shares of another text."""

            def code(self, required: int, total: int) -> Any:
                code = super().code(required, total)
                encode = code.encode
                code.encode = lambda blocks: encode([blocks[0], bytes(blocks[1][:-1]) + b"x"])  # type: ignore[method-assign]
                return code

        spoilt = Shelf(b"odd", TINY, codec=Filling(), header=(shelf.header, shelf.key))
        honest = Decoder(spoilt.manifest, spoilt.key, CODEC)
        self.assertEqual(honest.decode(0, spoilt.pieces(0, (0, 1))).text, b"odd")
        with self.assertRaisesRegex(ObjectDamaged, "does not end with zeros"):
            honest.decode(0, spoilt.pieces(0, (0, 2)))

    def test_another_object_under_the_same_header(self) -> None:
        """Its maker made the tree of one text, and the shares of another."""
        shelf = Shelf(text_of(9_000), TINY)
        other = Shelf(text_of(9_000, seed=8), TINY, header=(shelf.header, shelf.key))
        forged = evolve(other.manifest, root=shelf.manifest.root)
        other.manifest = forged
        with self.assertRaisesRegex(ObjectMismatch, "made its shares of several"):
            read(other)

    def test_the_end_is_known_only_at_the_end(self) -> None:
        shelf = Shelf(text_of(9_000), TINY)
        whole = WholeDecoder(shelf.manifest, Decoder(shelf.manifest, shelf.key, CODEC))
        with self.assertRaisesRegex(ValueError, "segment 0 was not decoded"):
            whole.finish()
        # What fails can be tried again with other shares.
        self.assertRaises(NotEnoughShares, whole.decode, {})
        self.assertEqual(whole.decode(shelf.pieces(0)).text, shelf.text[:WIDTH])
        with self.assertRaisesRegex(ValueError, "segment 1 was not decoded"):
            whole.finish()
        whole.decode(shelf.pieces(1))
        whole.finish()
        with self.assertRaisesRegex(ValueError, "no segment 2"):
            whole.decode({})

    def test_an_object_is_made_once_from_front_to_end(self) -> None:
        header, key = make_header(TINY)
        encoder = Encoder(header, key, CODEC)
        with self.assertRaisesRegex(ValueError, "last segment was not encoded"):
            encoder.finish()
        with self.assertRaises(ValueError):
            encoder.encode(b"short", False)
        encoder.encode(bytes(WIDTH), False)
        with self.assertRaisesRegex(ValueError, "last segment was not encoded"):
            encoder.finish()
        encoder.encode(b"short", True)
        self.assertEqual((encoder.length, encoder.finish().length), (WIDTH + 5, WIDTH + 5))
        with self.assertRaises(ValueError):
            encoder.encode(b"more", True)


class Rebuilding(SynchronousTestCase):
    def test_any_shares_make_any_others(self) -> None:
        shelf = Shelf(text_of(2 * WIDTH + 9), Scheme(2, 4, 4096))
        for some in combinations(range(4), 2):
            wanted = [share for share in range(4) if share not in some]
            nodes = {share: bytearray() for share in wanted}
            rebuilder = Rebuilder(
                shelf.manifest,
                CODEC,
                wanted,
                lambda share, more, nodes=nodes: nodes[share].extend(more),
            )
            made = {share: bytearray() for share in wanted}
            for segment in range(shelf.layout.segments):
                found = rebuilder.rebuild(shelf.pieces(segment, some))
                for share, block in zip(wanted, found.blocks, strict=True):
                    made[share] += block
            rebuilder.finish()
            for share in wanted:
                self.assertEqual(made[share], shelf.shares[share])
                self.assertEqual(nodes[share], shelf.nodes[share])

    def test_liars_are_named_here_too(self) -> None:
        shelf = Shelf(text_of(100), TINY)
        pieces = shelf.pieces(0)
        pieces[0] = Piece(b"wrong", [])
        rebuilder = Rebuilder(shelf.manifest, CODEC, [0])
        found = rebuilder.rebuild(pieces)
        self.assertEqual((list(found.wrong), found.used), ([0], [1, 2]))
        self.assertEqual(found.blocks, [shelf.shares[0]])
        rebuilder.finish()

    def test_what_fails_can_be_tried_again_with_others(self) -> None:
        shelf = Shelf(text_of(100), TINY)
        rebuilder = Rebuilder(shelf.manifest, CODEC, [0])
        self.assertRaises(NotEnoughShares, rebuilder.rebuild, shelf.pieces(0, (1,)))
        rebuilder.rebuild(shelf.pieces(0, (1, 2)))
        rebuilder.finish()

    def test_a_share_that_was_never_one_is_not_handed_on(self) -> None:
        """Its maker put another root into the manifest, and no repair can ever meet it."""
        shelf = Shelf(text_of(100), TINY)
        roots = (*shelf.manifest.shares[:2], sha256(b"another").digest())
        rebuilder = Rebuilder(evolve(shelf.manifest, shares=roots), CODEC, [2])
        rebuilder.rebuild(shelf.pieces(0, (0, 1)))
        with self.assertRaisesRegex(ObjectDamaged, "share 2 was made anew and is not"):
            rebuilder.finish()

    def test_half_a_share_is_none(self) -> None:
        shelf = Shelf(text_of(9_000), TINY)
        rebuilder = Rebuilder(shelf.manifest, CODEC, [2])
        rebuilder.rebuild(shelf.pieces(0))
        with self.assertRaisesRegex(ValueError, "segment 1 was not rebuilt"):
            rebuilder.finish()


class GoingOn(SynchronousTestCase):
    """An encoder that goes on with what was sealed before."""

    def encoded(self, text: bytes) -> tuple[list[list[bytes]], list[bytes], Any]:
        """@return: the blocks of each segment, the sealed segments, and the manifest."""
        header, key = make_header(TINY)
        encoder, cutter = Encoder(header, key, CODEC), Cutter(TINY)
        texts = [(each, False) for each in cutter.feed(text)]
        texts.append((cutter.finish(), True))
        made = [encoder.encode(*each) for each in texts]
        sealed, _ = seal_text(header, key, text)
        blocks = [[bytes(block) for block in each.blocks] for each in made]
        return blocks, sealed, encoder.finish()

    def test_gives_the_same_shares_whatever_was_there(self) -> None:
        for length in (0, 1, WIDTH, WIDTH + 1, 2 * WIDTH + 5):
            text = text_of(length)
            blocks, sealed, manifest = self.encoded(text)
            for there in range(len(sealed) + 1):
                encoder = Encoder(*make_header(TINY), CODEC)
                made = []
                for number in range(len(sealed)):
                    last = number == len(sealed) - 1
                    if number < there:
                        segment = encoder.adopt(sealed[number], last)
                    else:
                        piece = text[number * WIDTH : (number + 1) * WIDTH]
                        segment = encoder.encode(piece, last)
                    self.assertEqual(segment.number, number)
                    made.append([bytes(block) for block in segment.blocks])
                self.assertEqual(made, blocks)
                self.assertEqual(encoder.finish(), manifest)

    def test_what_is_not_that_segment_counts_as_not_there(self) -> None:
        _, sealed, manifest = self.encoded(text_of(2 * WIDTH))
        encoder = Encoder(*make_header(TINY), CODEC)
        changed = bytearray(sealed[0])
        changed[5] ^= 1
        for wrong, last in ((changed, False), (sealed[1], False), (sealed[0], True)):
            self.assertRaises(ObjectDamaged, encoder.adopt, wrong, last)
        encoder.adopt(sealed[0], False)
        encoder.adopt(sealed[1], True)
        self.assertEqual(encoder.finish(), manifest)
