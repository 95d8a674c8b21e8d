"""
Objects whose shares are all zeros, so that a thousand shares of 100 MiB take no room and no time to
make.  Both sides of a bench know them by a size and a number.  An audit sees no difference; nobody
could read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from random import Random
from typing import Final

from meshkit.crypto.merkle import LEAF_BYTES, TreeBuilder
from meshkit.identity.keys import Identity, PublicKey
from meshkit.storage.custody import TrackedObject
from meshkit.storage.header import Header
from meshkit.storage.keeper.leases import ShardNote
from meshkit.storage.manifest import Manifest
from meshkit.storage.placement_document import Placed, PlacementDocument
from meshkit.storage.scheme import Scheme
from meshkit.storage.share_files import Trailer
from meshkit.storage.terms import LEASE_SECONDS, lease_hash

SCHEME: Final = Scheme(6, 9)
_LEASE: Final = lease_hash(bytes(32))
_PIECE: Final = bytes(1024 * 1024)


@cache
def tree_of(size: int) -> tuple[bytes, bytes]:
    """@return: root and kept nodes of a share of so many bytes."""
    nodes: list[bytes] = []
    tree = TreeBuilder(LEAF_BYTES, nodes.append)
    with memoryview(_PIECE) as view:
        for at in range(0, size, len(view)):
            tree.update(view[: min(len(view), size - at)])
    return tree.finish(), b"".join(nodes)


def _signer(size: int, number: int) -> Identity:
    return Identity(sha256(f"{size}, {number}".encode("ascii")).digest())


def manifest_of(size: int, number: int) -> Manifest:
    """
    @param size: of each share: a multiple of 1 MiB, or less than one.
    @param number: of the object.
    """
    rng = Random(f"{size}, {number}")
    signer = _signer(size, number).public
    header = Header.new(SCHEME, rng.randbytes(32), signer, rng.randbytes(32), rng)
    root, _ = tree_of(size)
    length = size * SCHEME.required
    length -= 16 * max(1, -(-length // SCHEME.segment_bytes))
    manifest = Manifest(header, length, root, (root,) * SCHEME.total)
    if manifest.layout.share_bytes != size:
        raise ValueError(f"no share has {size} bytes")
    return manifest


def tail_of(manifest: Manifest, share: int) -> bytes:
    """@return: what stands behind a share, and the nodes of its tree, in its file."""
    return manifest.raw + Trailer(share, len(manifest.raw)).encode()


def note_of(manifest: Manifest, size: int, now: int, account: PublicKey) -> bytes:
    """
    @param now: when it came, in seconds of Unix time.
    @param account: who has a lease on it.
    """
    note = ShardNote(manifest.content_id, tree_of(size)[0], size, now)
    return note.with_lease(account.raw, _LEASE, now).encode()


def tracked_of(
    manifest: Manifest, size: int, number: int, holders: Sequence[PublicKey | None], now: int
) -> TrackedObject:
    """
    @param holders: who has each share.
    @return: the object, as its owner looks after it.
    """
    end = now + LEASE_SECONDS
    placed = tuple(None if each is None else Placed(each, end) for each in holders)
    document = PlacementDocument(manifest.content_id, 1, placed)
    signer = _signer(size, number)
    return TrackedObject(manifest, document, document.sign(signer), signer, bytes(32))
