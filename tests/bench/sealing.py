"""
What the parts of storing cost beside the bare calls that they cannot do without: AES-256-GCM
and SHA-256.  In this process, in one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from hashlib import sha256
from random import Random
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from meshkit.crypto.merkle import LEAF_BYTES, Prover, Shape, TreeBuilder, check_leaves
from meshkit.crypto.stream import CIPHERS, PREFIX_BYTES, TAG_BYTES, Opener, Sealer
from tests.bench.figures import ratio, spread, table
from tests.bench.objects import MIB, rate

#: Required shares with blocks of 1 MiB: so long is a sealed segment.
_SEGMENTS: Final = (1, 6, 16)
_KEY: Final = bytes(range(32))
_PREFIX: Final = bytes(PREFIX_BYTES)
_AAD: Final = bytes(32)


def measure(quick: bool) -> str:
    """@return: the section."""
    rounds = 3 if quick else 7
    segments = [_sealing(each, rounds) for each in _SEGMENTS[: 2 if quick else None]]
    return "\n\n".join([*segments, _trees(rounds), _proofs(rounds)])


def _sealing(mib: int, rounds: int) -> str:
    size = mib * MIB
    text = Random(1).randbytes(size - TAG_BYTES)
    bare = AESGCM(_KEY)
    sealed = bytes(Sealer(_KEY, _PREFIX, _AAD, size).seal(text, False))
    nonce = bytes(12)
    works: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "AESGCM alone": (
            lambda: bare.encrypt(nonce, text, _AAD),
            lambda: bare.decrypt(nonce, sealed, _AAD),
        )
    }
    for name, make in CIPHERS.items():
        sealer = Sealer(_KEY, _PREFIX, _AAD, size, make)
        opener = Opener(_KEY, _PREFIX, _AAD, size, make)
        works[f"STREAM by {name}"] = (
            partial(sealer.seal, text, False),
            partial(opener.open, 0, sealed, False),
        )
    seen: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in works}
    for _ in range(rounds):
        for name, both in works.items():
            for work, into in zip(both, seen[name], strict=True):
                into.append(rate(work, size))
    alone = seen["AESGCM alone"]
    rows = [
        [name, spread(one), ratio(one, alone[0]), spread(two), ratio(two, alone[1])]
        for name, (one, two) in seen.items()
    ]
    heads = [f"segments of {mib} MiB", "seal, MiB per CPU second", "is x", "open", "is x"]
    return table(heads, rows)


def _trees(rounds: int) -> str:
    data = Random(1).randbytes(8 * MIB)
    view = memoryview(data)
    blocks = [view[at : at + MIB] for at in range(0, len(view), MIB)]
    pieces = [view[at : at + LEAF_BYTES] for at in range(0, len(view), LEAF_BYTES)]
    odd = [view[at : at + 16_408] for at in range(0, len(view), 16_408)]
    root, prover = _planted(data)
    shape = Shape(len(data))
    first, count = 256, MIB // LEAF_BYTES
    branch = prover.branch(first, count)
    alone = "SHA-256 alone, 4 KiB each"
    works: dict[str, tuple[Callable[[], object], int]] = {
        alone: (lambda: [sha256(each).digest() for each in pieces], len(data)),
        "SHA-256 alone, 8 MiB": (lambda: sha256(data).digest(), len(data)),
        "tree of a share, by blocks of 1 MiB": (lambda: _build(blocks, LEAF_BYTES), len(data)),
        "tree of a share, by 16,408 bytes": (lambda: _build(odd, LEAF_BYTES), len(data)),
        "tree of an object, segments of 8 MiB": (lambda: _build([view], 8 * MIB), len(data)),
        "checking a block of 1 MiB": (
            lambda: check_leaves(root, shape, first, blocks[1], branch),
            MIB,
        ),
    }
    seen: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, (work, size) in works.items():
            seen[name].append(rate(work, size))
    rows = [[name, spread(rates), ratio(rates, seen[alone])] for name, rates in seen.items()]
    return table(["leaves of 4 KiB", "MiB per CPU second", "is x"], rows)


def _build(pieces: list[memoryview], leaf_bytes: int) -> bytes:
    tree = TreeBuilder(leaf_bytes)
    for each in pieces:
        tree.update(each)
    return tree.finish()


def _planted(data: bytes) -> tuple[bytes, Prover]:
    kept = bytearray()
    tree = TreeBuilder(LEAF_BYTES, kept.extend)
    tree.update(data)
    root = tree.finish()
    return root, Prover(
        Shape(len(data)),
        lambda offset, length: memoryview(kept)[offset : offset + length],
        lambda offset, length: memoryview(data)[offset : offset + length],
    )


def _proofs(rounds: int) -> str:
    """Of one leaf, as an audit has them, with all in memory."""
    data = Random(1).randbytes(16 * MIB)
    root, prover = _planted(data)
    shape, leaf = Shape(len(data)), 1_234
    piece = data[leaf * LEAF_BYTES : (leaf + 1) * LEAF_BYTES]
    branch = prover.branch(leaf, 1)
    works: dict[str, Callable[[], object]] = {
        "made from what is kept": lambda: prover.branch(leaf, 1),
        "checked": lambda: check_leaves(root, shape, leaf, piece, branch),
    }
    seen: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            seen[name].append(rate(work, MIB))  # that is, one for each time
    rows = [[name, spread(rates)] for name, rates in seen.items()]
    return table(["proofs for one leaf of 16 MiB", "per CPU second"], rows)
