"""
What is read of shares that are kept: blocks with their proofs, and whole shares, to see whether
they are what they were.  Everything here blocks, and is meant for a worker thread.
"""

from __future__ import annotations

import errno
import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, Final

from attrs import field, frozen

from meshkit.crypto.merkle import LEAF_BYTES, Data, Prover, Shape, TreeBuilder
from meshkit.errors import ObjectMalformed, ShareDamaged, ShareUnknown
from meshkit.storage.encoding import Piece
from meshkit.storage.keeper.leases import ShardNote
from meshkit.storage.manifest import Manifest
from meshkit.storage.scheme import Layout
from meshkit.storage.share_files import TRAILER_BYTES, Trailer

#: Bytes of a share that are looked at in one call.
STEP: Final = 1024 * 1024

#: A place on the disk that cannot be read, or that the file system knows to be wrong.
_ROTTEN: Final = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN})


def file_bytes(size: int, manifest_bytes: int) -> int:
    """@return: bytes of the file of a share that has C{size} itself."""
    return size + Shape(size, LEAF_BYTES).kept_bytes + manifest_bytes + TRAILER_BYTES


@contextmanager
def readable(name: bytes) -> Iterator[None]:
    """
    Say that a share is damaged, where the disk says that it cannot read it.

    @raise ShareDamaged: in place of such an C{OSError}.
    """
    try:
        yield
    except OSError as e:
        if e.errno not in _ROTTEN:
            raise
        raise ShareDamaged(f"the share {name.hex()[:16]}... cannot be read: {e.strerror}") from None


@frozen
class Kept:
    """
    A share that is kept, as its manifest describes it.

    @ivar name: of the share.
    @ivar number: which share of the object it is.
    @ivar manifest: of the object.
    @ivar layout: where everything is in it.
    @ivar shape: of the tree of the share.
    """

    name: bytes = field(repr=lambda name: name.hex()[:16])
    number: int
    manifest: Manifest
    layout: Layout
    shape: Shape

    @property
    def root(self) -> bytes:
        """Of the share, as the manifest says."""
        return self.manifest.shares[self.number]

    def piece(self, store: Any, segment: int) -> Piece:
        """
        @param store: L{meshkit.interfaces.IShardStore}.
        @return: the block that a segment has in the share, and its proof.  Neither is checked.
        @raise ShareUnknown: if the share has no such segment.
        @raise ShareDamaged: if it ends before.
        """
        if not 0 <= segment < self.layout.segments:
            raise ShareUnknown(f"the share has no segment {segment}: {self.layout.segments} it has")
        at, length = self.layout.block_at(segment), self.layout.block_bytes(segment)
        block = store.read(self.name, at, length)

        def data(offset: int, count: int) -> Data:
            # Mostly of the block, which is at hand.
            if at <= offset and offset + count <= at + length:
                return block[offset - at : offset - at + count]  # type: ignore[no-any-return]
            return store.read(self.name, offset, count)  # type: ignore[no-any-return]

        def nodes(offset: int, count: int) -> Data:
            return store.read(self.name, self.shape.size + offset, count)  # type: ignore[no-any-return]

        leaves = at // LEAF_BYTES, -(-length // LEAF_BYTES)
        return Piece(block, Prover(self.shape, nodes, data).branch(*leaves))


def find(store: Any, name: bytes, length: int) -> Kept:
    """
    @param store: L{meshkit.interfaces.IShardStore}.
    @param length: of the share and all that stands behind it.
    @return: what the end of the file says that it is.
    @raise ShareDamaged: if it cannot be that.
    """
    if length < TRAILER_BYTES:
        raise ShareDamaged(f"the share {name.hex()[:16]}... has only {length} bytes")
    try:
        end = Trailer.decode(store.read(name, length - TRAILER_BYTES, TRAILER_BYTES), length)
        at = length - TRAILER_BYTES - end.manifest_bytes
        manifest = Manifest.decode(store.read(name, at, end.manifest_bytes))
        if manifest.header.share_id(end.number) != name:
            raise ObjectMalformed("it is another share")
    except (ObjectMalformed, ValueError) as e:
        raise ShareDamaged(f"the end of the share {name.hex()[:16]}... was changed: {e}") from None
    layout = manifest.layout
    shape = layout.share_shape
    if at != shape.size + shape.kept_bytes:
        raise ShareDamaged(f"the share {name.hex()[:16]}... does not have the length it has to")
    return Kept(name, end.number, manifest, layout, shape)


class Check:
    """
    Reads a share from front to end, step by step, and sees whether every byte is what it was.

    @ivar kept: what it is; known after the first step.
    @ivar done: nothing is left to be read.
    """

    kept: Kept

    def __init__(self, store: Any, name: bytes, file_bytes: int, note: ShardNote | None) -> None:
        """
        @param store: L{meshkit.interfaces.IShardStore}.
        @param note: what was noted when it came; without it the share is believed what its own
            manifest says, and that may have been changed in places that do not concern it.
        """
        self.done = False
        self._store = store
        self._name = name
        self._file_bytes = file_bytes
        self._note = note
        self._tree = TreeBuilder(LEAF_BYTES, self._nodes)
        self._at = 0
        self._nodes_at = 0

    def step(self) -> int:
        """
        Look at the next L{STEP} bytes.

        @return: how many were looked at.
        @raise ShareDamaged: if something is not what it was.
        @raise ShareUnknown: if the share is gone.
        @raise OSError: if it cannot be read.
        """
        if not self._at:
            self._begin()
        size = self.kept.shape.size
        chunk = self._store.read(self._name, self._at, min(STEP, size - self._at))
        self._tree.update(chunk)
        self._at += len(chunk)
        if self._at == size:
            self.done = True
            if not hmac.compare_digest(self._tree.finish(), self.kept.root):
                raise self._damaged("its bytes are not what they were")
        return len(chunk)

    def _begin(self) -> None:
        self.kept = find(self._store, self._name, self._file_bytes)
        note = self._note
        if note is not None and (
            sha256(self.kept.manifest.raw).digest() != note.content
            or self.kept.root != note.root
            or self.kept.shape.size != note.size
        ):
            raise self._damaged("its manifest is not what it was")

    def _nodes(self, nodes: bytes) -> None:
        at = self.kept.shape.size + self._nodes_at
        if self._store.read(self._name, at, len(nodes)) != nodes:
            raise self._damaged("the nodes of its tree are not what they were")
        self._nodes_at += len(nodes)

    def _damaged(self, why: str) -> ShareDamaged:
        return ShareDamaged(f"the share {self._name.hex()[:16]}... was changed: {why}")
