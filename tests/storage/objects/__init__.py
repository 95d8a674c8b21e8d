"""Objects to try the pure parts of storage with, whose every byte follows from a seed."""

from __future__ import annotations

from random import Random
from typing import Final

from meshkit.crypto.merkle import TreeBuilder
from meshkit.storage.header import Header, new_content_key, new_upload
from meshkit.storage.manifest import Manifest
from meshkit.storage.scheme import Layout, Scheme
from meshkit.testing.identities import make_identity

#: 6 of 9 in the smallest blocks.
SMALL: Final = Scheme(6, 9, 4096)

PLACEMENT: Final = make_identity("placement")


def make_header(scheme: Scheme = SMALL, seed: int = 1) -> tuple[Header, bytes]:
    """@return: a header and its content key."""
    rng = Random(seed)
    key = new_content_key(rng)
    return Header.new(scheme, new_upload(rng), PLACEMENT.public, key, rng), key


def make_manifest(length: int = 100_000, scheme: Scheme = SMALL, seed: int = 1) -> Manifest:
    """@return: a manifest of which the roots are those of no shares."""
    header, _ = make_header(scheme, seed)
    rng = Random(seed)
    root, *shares = (rng.randbytes(32) for _ in range(1 + scheme.total))
    return Manifest(header, length, root, tuple(shares))


def seal_text(header: Header, key: bytes, text: bytes) -> tuple[list[bytes], bytes]:
    """@return: the sealed segments, and the root of their tree."""
    layout, sealer = Layout(header.scheme, len(text)), header.sealer(key)
    tree = TreeBuilder(header.scheme.segment_bytes)
    sealed = []
    for number in range(layout.segments):
        start = number * header.scheme.text_bytes
        piece = text[start : start + layout.text_bytes(number)]
        sealed.append(bytes(sealer.seal(piece, layout.is_last(number))))
        tree.update(sealed[-1])
    return sealed, tree.finish()
