"""
Storing without a network or a disk: shares by each codec against bare calls of zfec, and all
that is computed for an object.  In this process, in one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from time import process_time
from typing import Any, Final

import zfec

from meshkit.crypto.merkle import Prover
from meshkit.errors import CodecUnavailable
from meshkit.identity.keys import Identity
from meshkit.storage.codecs import CODECS, choose_codec
from meshkit.storage.encoding import Decoder, Encoder, Piece
from meshkit.storage.header import Header, new_content_key, new_upload
from meshkit.storage.scheme import Scheme
from tests.bench.figures import ratio, spread, table

MIB: Final = 1024 * 1024

#: Required shares, shares in all, bytes of a block.
_SHAPES: Final = ((3, 5, MIB), (6, 9, MIB), (6, 9, 64 * 1024), (20, 40, MIB // 4))
_BARE: Final = "zfec alone"


def measure(quick: bool) -> str:
    """@return: the section."""
    rounds = 3 if quick else 7
    codecs = [_codecs(shape, rounds) for shape in _SHAPES[: 2 if quick else None]]
    return "\n\n".join([*codecs, _objects(rounds)])


def rate(work: Callable[[], object], size: int, least: float = 0.1) -> float:
    """@return: MiB of C{size} bytes for each second of processor time, over C{least} seconds."""
    times, start = 0, process_time()
    while True:
        work()
        times += 1
        taken = process_time() - start
        if taken >= least:
            return times * size / MIB / taken


def _codecs(shape: tuple[int, int, int], rounds: int) -> str:
    required, total, length = shape
    rng = Random(1)
    blocks = [rng.randbytes(length) for _ in range(required)]
    further = tuple(range(required, total))
    # As many of the first shares as can be are lost.
    have = range(total - required, total)
    shares = [*blocks, *choose_codec("zfec").code(required, total).encode(blocks)]
    kept = [shares[number] for number in have]
    lost = range(min(required, total - required))
    encoder, decoder = zfec.Encoder(required, total), zfec.Decoder(required, total)
    works: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        _BARE: (
            lambda: encoder.encode(tuple(blocks), further),
            lambda: decoder.decode(list(kept), list(have)),
        )
    }
    for name in CODECS:
        try:
            code = choose_codec(name).code(required, total)
        except CodecUnavailable:
            continue
        works[name] = (
            lambda code=code: code.encode(blocks),
            lambda code=code: code.recover(kept, have, lost),
        )
    seen: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in works}
    for _ in range(rounds):
        for name, both in works.items():
            for work, into in zip(both, seen[name], strict=True):
                into.append(rate(work, required * length))
    rows = [
        [
            name,
            spread(encoded),
            ratio(encoded, seen[_BARE][0]),
            spread(decoded),
            ratio(decoded, seen[_BARE][1]),
        ]
        for name, (encoded, decoded) in seen.items()
    ]
    heads = [
        f"{required} of {total}, blocks of {length // 1024} KiB",
        "encode, MiB per CPU second",
        "is x",
        f"decode, {len(lost)} lost",
        "is x",
    ]
    return table(heads, rows)


def _objects(rounds: int) -> str:
    """From text to shares, and from as few shares as can be to text, with all checks."""
    scheme = Scheme(6, 9)
    rng = Random(1)
    key, upload = new_content_key(rng), new_upload(rng)
    header = Header.new(scheme, upload, Identity(rng.randbytes(32)).public, key, rng)
    text = rng.randbytes(scheme.text_bytes)
    works: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {}
    for name in CODECS:
        try:
            codec = choose_codec(name)
        except CodecUnavailable:
            continue
        nodes: list[bytearray] = [bytearray() for _ in range(scheme.total)]
        whole = Encoder(header, key, codec, partial(_keep, nodes))
        blocks = whole.encode(text, True).blocks
        manifest = whole.finish()
        decoder = Decoder(manifest, key, codec)
        shape, leaves = manifest.layout.share_shape, decoder.leaves(0)
        pieces = {
            share: Piece(
                blocks[share],
                Prover(shape, partial(_read, nodes[share]), partial(_read, blocks[share])).branch(
                    *leaves
                ),
            )
            for share in range(3, 9)
        }
        # The same segment again and again: what is made with this key is thrown away.
        endless = Encoder(header, key, codec)
        works[name] = (
            partial(endless.encode, text, False),
            partial(decoder.decode, 0, pieces),
        )
    seen: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in works}
    for _ in range(rounds):
        for name, both in works.items():
            for work, into in zip(both, seen[name], strict=True):
                into.append(rate(work, len(text)))
    rows = [[name, spread(encoded), spread(decoded)] for name, (encoded, decoded) in seen.items()]
    heads = ["objects in 6+3", "encode, MiB per CPU second", "decode, 3 shares lost"]
    return table(heads, rows)


def _keep(nodes: list[bytearray], share: int, more: bytes) -> None:
    nodes[share] += more


def _read(data: Any, at: int, length: int) -> Any:
    return data[at : at + length]
