"""Whole objects in memory: their shares, and the proofs of any block of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from random import Random
from typing import Any

from meshkit.crypto.merkle import Prover
from meshkit.storage.encoding import Cutter, Encoder, Piece, SegmentReader
from meshkit.storage.erasure import ZfecCodec
from meshkit.storage.header import Header
from meshkit.storage.manifest import Manifest
from meshkit.storage.scheme import Scheme
from tests.storage.objects import SMALL, make_header


class Shelf:
    """
    An object whose shares anybody may spoil.

    @ivar text: of the object.
    @ivar header: its header.
    @ivar key: its content key.
    @ivar manifest: what it is.
    @ivar shares: by number.
    @ivar nodes: what is kept of the tree of each share, by number.
    """

    def __init__(
        self,
        text: bytes,
        scheme: Scheme = SMALL,
        *,
        chunks: Iterable[bytes] | None = None,
        codec: Any = None,
        header: tuple[Header, bytes] | None = None,
    ) -> None:
        """@param chunks: the text, cut."""
        self.text = text
        self.codec = ZfecCodec() if codec is None else codec
        self.header, self.key = make_header(scheme) if header is None else header
        self.shares = [bytearray() for _ in range(scheme.total)]
        self.nodes = [bytearray() for _ in range(scheme.total)]
        encoder = Encoder(self.header, self.key, self.codec, self._keep)
        cutter = Cutter(scheme)
        for chunk in [text] if chunks is None else chunks:
            for piece in cutter.feed(chunk):
                self._put(encoder, piece, False)
        self._put(encoder, cutter.finish(), True)
        self.manifest: Manifest = encoder.finish()
        self.layout = self.manifest.layout

    def _keep(self, number: int, nodes: bytes) -> None:
        self.nodes[number] += nodes

    def _put(self, encoder: Encoder, text: Any, last: bool) -> None:
        for share, block in zip(self.shares, encoder.encode(text, last).blocks, strict=True):
            share += block

    def piece(self, segment: int, share: int) -> Piece:
        """What an honest peer gives, out of what it has."""
        layout = self.layout

        def nodes(offset: int, length: int) -> bytes:
            return bytes(self.nodes[share][offset : offset + length])

        def data(offset: int, length: int) -> bytes:
            return bytes(self.shares[share][offset : offset + length])

        at, length = layout.block_at(segment), layout.block_bytes(segment)
        leaves = SegmentReader(self.manifest, self.codec).leaves(segment)
        branch = Prover(layout.share_shape, nodes, data).branch(*leaves)
        return Piece(data(at, length), branch)

    def pieces(self, segment: int, shares: Iterable[int] | None = None) -> dict[int, Piece]:
        """@param shares: all of them without it."""
        some: Iterable[int] = range(len(self.shares)) if shares is None else shares
        return {share: self.piece(segment, share) for share in some}


def text_of(length: int, seed: int = 7) -> bytes:
    """Bytes that do not repeat."""
    return Random(seed).randbytes(length)


def cut_at(text: bytes, places: Sequence[int]) -> list[bytes]:
    """The text in chunks, some of them empty."""
    edges = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    return [text[a:b] for a, b in zip(edges, edges[1:], strict=False)]
