"""
Shares on their way: what was reserved, what came of it so far, and how it becomes a file.

L{Uploads} is the table of them, and pure.  L{Assembly} does what costs time, in worker threads.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, Final

from attrs import define, field

from meshkit.crypto.merkle import LEAF_BYTES, TreeBuilder
from meshkit.errors import (
    ObjectMalformed,
    ReservationExceeded,
    ShareMismatch,
    StorageBusy,
    UploadOutOfStep,
    UploadUnknown,
)
from meshkit.runtime.limits import Shares
from meshkit.storage.erasure import Block
from meshkit.storage.keeper.leases import ShardNote
from meshkit.storage.manifest import MAX_MANIFEST, Manifest
from meshkit.storage.share_files import Trailer
from meshkit.storage.terms import MAX_BLOCK

#: Uploads that are open at the same time, and those of one caller among them.
MAX_UPLOADS: Final = 256
MAX_UPLOADS_EACH: Final = 64

#: Bytes at each end of a block that is sent again.
_COMPARED: Final = 64

#: Whose upload, and of which share.
UploadKey = tuple[bytes, bytes]


class Assembly:
    """
    The file of one share as it is written, and its tree.

    To be used by one thread at a time.  When a method has failed it is of no use any more.
    """

    def __init__(self, store: Any, name: bytes, upload: bytes, number: int) -> None:
        """
        @param store: L{meshkit.interfaces.IShardStore}.
        @param name: of the share.
        """
        self._store = store
        self._name = name
        self._upload = upload
        self._number = number
        self._writer: Any = None
        self._tree = TreeBuilder(LEAF_BYTES, self._keep)
        self._last: tuple[int, bytes, bytes] | None = None

    def append(self, block: Block) -> None:
        """
        Write a block, and go on with the tree.

        @raise OSError: if the disk does not take it.
        """
        if self._writer is None:
            self._writer = self._store.begin(self._name)
        self._writer.append(block)
        self._tree.update(block)
        self._last = _ends(block)

    def repeats(self, block: Block) -> bool:
        """
        Is it the block that came last?  Its length and its ends decide, as sealed blocks that
        differ do so everywhere.  Who sends something else deceives himself: C{commit} finds out.
        """
        return self._last == _ends(block)

    def _check(self, raw: bytes) -> bytes:
        """
        Was this share sent, and nothing else?

        @param raw: the manifest of the object.
        @return: the root of what was sent.
        @raise ShareMismatch: if not.
        """
        root = self._tree.finish()
        try:
            manifest = Manifest.decode(raw)
        except ObjectMalformed as e:
            raise ShareMismatch(f"the manifest of the share cannot be used: {e}") from None
        header = manifest.header
        if header.upload != self._upload or self._number >= header.scheme.total:
            raise ShareMismatch(
                f"the manifest is of another upload, or has no share {self._number}"
            )
        expected = manifest.layout.share_bytes
        if self._tree.size != expected:
            raise ShareMismatch(
                f"share {self._number} has {expected} bytes, and {self._tree.size} were sent"
            )
        if not hmac.compare_digest(root, manifest.shares[self._number]):
            raise ShareMismatch(
                f"what was sent is not share {self._number} as the manifest describes it"
            )
        return root

    def commit(self, raw: bytes, note: ShardNote) -> ShardNote:
        """
        Make it durable.

        @param raw: the manifest of the object.
        @param note: what is to be noted; what is found out here is filled in.
        @return: the note.
        @raise ShareMismatch: if something else was sent.  Then nothing of it is kept.
        @raise OSError: if the disk does not do it.  The same.
        """
        try:
            root = self._check(raw)
            noted = ShardNote(
                sha256(raw).digest(), root, self._tree.size, note.stored, 0, note.leases
            )
            tail = raw + Trailer(self._number, len(raw)).encode()
            self._writer.commit(tail, noted.encode())
            return noted
        finally:
            self.discard()

    def discard(self) -> None:
        """Give it up, unless it is durable."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.discard()

    def _keep(self, nodes: bytes) -> None:
        # The empty tree has none, so a writer is there.
        self._writer.keep(nodes)


@define(eq=False)
class Upload:
    """
    A share that somebody has reserved room for.

    @ivar key: whose, and of which share.
    @ivar upload: of the object.
    @ivar number: of the share.
    @ivar lease: the hash of the secret of its lease.
    @ivar size: bytes that it may have.
    @ivar room: bytes that are reserved for it.
    @ivar charge: bytes that its owner is charged for it.
    @ivar expires: when the room is given to others, in seconds of the reactor.
    @ivar assembly: L{None} if the share is here already, and a lease is all that is wanted.
    @ivar written: bytes so far.
    @ivar next_segment: the number of the block that comes next.
    @ivar ended: why no further block can come, if so.
    """

    key: UploadKey = field(repr=False)
    upload: bytes = field(repr=False)
    number: int
    lease: bytes = field(repr=False)
    size: int
    room: int
    charge: int
    expires: float = 0.0
    assembly: Assembly | None = None
    written: int = 0
    next_segment: int = 0
    ended: bool = False
    _block_bytes: int = 0
    _last_bytes: int = 0

    @property
    def account(self) -> bytes:
        """Who is charged."""
        return self.key[0]

    @property
    def name(self) -> bytes:
        """Of the share."""
        return self.key[1]

    def check(self, segment: int, length: int) -> bool:
        """
        May this block come?

        @param segment: which one.
        @param length: its bytes.
        @return: whether it is the one that came last, once more.
        @raise UploadOutOfStep: if another one is the next.
        @raise ReservationExceeded: if the share would be larger than was said.
        @raise ShareMismatch: if no share has such a block there.
        """
        if self.assembly is None:
            raise UploadOutOfStep(
                "the share is here already: ask for close", next_segment=self.next_segment
            )
        if 0 <= segment == self.next_segment - 1 and length == self._last_bytes:
            return True
        if segment != self.next_segment:
            raise UploadOutOfStep(
                f"block {self.next_segment} of the share is the next, not {segment}",
                next_segment=self.next_segment,
            )
        if not 1 <= length <= MAX_BLOCK:
            raise ShareMismatch(f"a block has 1 to {MAX_BLOCK} bytes, and not {length}")
        if self.ended or length > (self._block_bytes or length):
            raise ShareMismatch(
                "all blocks of a share but the last have one length, which is a multiple of "
                f"{LEAF_BYTES} bytes: this one cannot follow those that came"
            )
        if self.written + length > self.size:
            raise ReservationExceeded(
                f"room was reserved for {self.size} bytes of this share, and it would have "
                f"{self.written + length}: reserve more"
            )
        return False

    def advance(self, length: int) -> None:
        """A block of so many bytes was written."""
        if not self._block_bytes:
            self._block_bytes = length
        self._last_bytes = length
        self.ended = length < self._block_bytes or length % LEAF_BYTES != 0
        self.written += length
        self.next_segment += 1


class Uploads:
    """
    All uploads that are open, of which there are at most L{MAX_UPLOADS}.
    """

    def __init__(self) -> None:
        self._open: dict[UploadKey, Upload] = {}
        self._places = Shares(MAX_UPLOADS, MAX_UPLOADS_EACH)

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Upload]:
        return iter(tuple(self._open.values()))

    @property
    def to_come(self) -> int:
        """Bytes of room that is reserved and not written yet."""
        return sum(each.room - each.written for each in self._open.values())

    def find(self, key: UploadKey) -> Upload | None:
        """@return: an upload that is open."""
        return self._open.get(key)

    def get(self, key: UploadKey) -> Upload:
        """
        @return: an upload that is open.
        @raise UploadUnknown: if there is none.
        """
        upload = self._open.get(key)
        if upload is None:
            raise UploadUnknown("nothing is reserved for this share here, or not any more")
        return upload

    def brings(self, name: bytes) -> bool:
        """@return: whether somebody is sending this share."""
        return any(each.name == name and each.assembly is not None for each in self._open.values())

    def check_places(self, account: bytes) -> None:
        """
        May one more be open?

        @raise StorageBusy: if not.
        """
        if not self._places.room(account):
            raise StorageBusy(
                f"{self._places.held(account)} uploads of this caller are open and "
                f"{len(self._open)} in all: the limits are {MAX_UPLOADS_EACH} and {MAX_UPLOADS}"
            )

    def add(self, upload: Upload) -> None:
        """
        An upload is open.

        @raise StorageBusy: if there are too many.
        """
        self.check_places(upload.account)
        self._open[upload.key] = upload
        self._places.take(upload.account)

    def remove(self, upload: Upload) -> bool:
        """@return: whether it was open."""
        if self._open.get(upload.key) is not upload:
            return False
        del self._open[upload.key]
        self._places.give_back(upload.account)
        return True

    def expired(self, now: float) -> list[Upload]:
        """@return: those whose time is over."""
        return [each for each in self._open.values() if each.expires <= now]


def _ends(block: Block) -> tuple[int, bytes, bytes]:
    return len(block), bytes(block[:_COMPARED]), bytes(block[-_COMPARED:])


def check_manifest_length(raw: bytes) -> None:
    """@raise ShareMismatch: if no manifest is as long as this."""
    if len(raw) > MAX_MANIFEST:
        raise ShareMismatch(f"a manifest of {len(raw)} bytes is over the limit of {MAX_MANIFEST}")
