"""
Shares as files, each of which stands for itself.  Opens no file: it is given open ones.

::

    file = share | nodes of its tree | manifest | u8 number of the share |
           u32be bytes of the manifest | "mkshare1"

Any I{k} of the files of an object and its key are the object, wherever they were kept and
whatever they are called now.  The nodes prove every block against the root in the manifest
(L{meshkit.crypto.merkle}), so that a range can be read, and a byte that was changed spoils
the one block it is in, unless blocks are shorter than the 32 KiB below one node.  As the
manifest may be what was changed, it is that of the object's id, or without an id that of most
files.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import BinaryIO, Final, TypeVar

from attrs import define, frozen

from meshkit.crypto.merkle import LEAF_BYTES, Prover
from meshkit.errors import NotEnoughShares, ObjectMalformed
from meshkit.storage.encoding import Piece
from meshkit.storage.erasure import Block
from meshkit.storage.manifest import MAX_MANIFEST, Manifest

__all__ = [
    "SUFFIX",
    "TRAILER_BYTES",
    "Fault",
    "ShareFile",
    "ShareWriter",
    "Shares",
    "Trailer",
    "share_file_name",
]

_T = TypeVar("_T")

SUFFIX: Final = ".mkshare"

_MAGIC: Final = b"mkshare1"
#: At the end of every file.
TRAILER_BYTES: Final = 1 + 4 + len(_MAGIC)
#: Of the nodes, at a time.
_COPIED: Final = 1024 * 1024
#: Files that an error names.
_NAMED: Final = 8


def share_file_name(number: int, total: int) -> str:
    """@return: what the file of a share is called, such that they sort."""
    return f"{number:0{len(str(total - 1))}}{SUFFIX}"


@frozen
class Trailer:
    """
    What stands at the end of the file of a share.

    @ivar number: of the share.
    @ivar manifest_bytes: length of the manifest, which stands before it.
    """

    number: int
    manifest_bytes: int

    def encode(self) -> bytes:
        """@return: L{TRAILER_BYTES}."""
        return bytes([self.number]) + self.manifest_bytes.to_bytes(4, "big") + _MAGIC

    @classmethod
    def decode(cls, raw: bytes, size: int) -> Trailer:
        """
        @param raw: the last L{TRAILER_BYTES} of a file.
        @param size: of the file.
        @raise ObjectMalformed: if no file of a share ends like this.
        """
        length = int.from_bytes(raw[1:5], "big")
        if (
            len(raw) != TRAILER_BYTES
            or not raw.endswith(_MAGIC)
            or length > min(MAX_MANIFEST, size - TRAILER_BYTES)
        ):
            raise ObjectMalformed("it is no share of an object, or its end was changed")
        return cls(raw[0], length)


class ShareWriter:
    """
    Writes one share.  Memory: a block.

    The nodes are known before the share ends and stand behind it.  They wait in a file of
    their own, which is of no use afterwards.
    """

    def __init__(self, number: int, share: BinaryIO, waiting: BinaryIO) -> None:
        """
        @param number: of the share.
        @param share: an empty file.
        @param waiting: an empty file, to be read as well.
        """
        self.number = number
        self._share = share
        self._waiting = waiting

    def write(self, block: Block) -> None:
        """@param block: that of the next segment."""
        self._share.write(block)

    def keep(self, nodes: bytes) -> None:
        """@param nodes: what comes next of those that are kept."""
        self._waiting.write(nodes)

    def finish(self, manifest: Manifest) -> None:
        """The share is complete.  The caller syncs the file."""
        self._waiting.seek(0)
        while nodes := self._waiting.read(_COPIED):
            self._share.write(nodes)
        raw = manifest.raw
        self._share.write(raw + Trailer(self.number, len(raw)).encode())


class ShareFile:
    """
    One share, out of a file.  Nothing of it is believed but what is checked.

    @ivar name: of the file, for people.
    @ivar number: which share it says that it is.
    @ivar manifest: which object it says that it is of.
    """

    def __init__(self, name: str, file: BinaryIO) -> None:
        """
        @param file: can be sought.
        @raise ObjectMalformed: if it is no file of a share.
        @raise OSError: if it cannot be read.
        """
        self.name = name
        self._file = file
        size = file.seek(0, os.SEEK_END)
        try:
            end = Trailer.decode(self._read(max(0, size - TRAILER_BYTES), TRAILER_BYTES), size)
        except ObjectMalformed:
            raise ObjectMalformed(
                f"{name} is no share of an object, or its end was changed"
            ) from None
        self.number = end.number
        length = end.manifest_bytes
        try:
            self.manifest = Manifest.decode(self._read(size - TRAILER_BYTES - length, length))
        except (ObjectMalformed, ValueError) as e:
            raise ObjectMalformed(f"{name} is no share of an object, or was changed: {e}") from None
        if self.number >= self.manifest.header.scheme.total:
            raise ObjectMalformed(f"{name} says that it is share {self.number}, and there is none")

    def piece(self, manifest: Manifest, segment: int) -> Piece:
        """
        What the file has for a segment, and its proof; both may be wrong.

        @param manifest: of the object.
        @raise OSError: if it cannot be read.
        """
        layout = manifest.layout
        shape = layout.share_shape
        at, length = layout.block_at(segment), layout.block_bytes(segment)
        block = self._read(at, length)

        def data(offset: int, count: int) -> bytes:
            # Mostly of the block, which is at hand.
            if at <= offset and offset + count <= at + length:
                return block[offset - at : offset - at + count]
            return self._read(offset, count)

        def nodes(offset: int, count: int) -> bytes:
            return self._read(shape.size + offset, count)

        leaves = at // LEAF_BYTES, -(-length // LEAF_BYTES)
        return Piece(block, Prover(shape, nodes, data).branch(*leaves))

    def _read(self, at: int, length: int) -> bytes:
        """@return: less, where the file ends before."""
        if at < 0:
            return b""
        self._file.seek(at)
        return self._file.read(length)


@define
class _Source:
    """
    @ivar file: a share.
    @ivar faults: in how many segments it was wrong.
    """

    file: ShareFile
    faults: int = 0


@frozen
class Fault:
    """
    What is wrong with a file.

    @ivar name: of the file.
    @ivar problem: in a sentence.
    """

    name: str
    problem: str


@define
class Shares:
    """
    The files of one object, from which it is read segment by segment.

    @ivar manifest: of the object.
    @ivar faults: what was found wrong so far, once for each file.
    """

    manifest: Manifest
    _sources: list[_Source]
    faults: list[Fault]

    @classmethod
    def gather(
        cls, files: Sequence[tuple[str, BinaryIO]], content_id: bytes | None = None
    ) -> Shares:
        """
        Find out which files belong together.

        @param files: names and open files; several may be of one share.
        @param content_id: the object that is wanted; without it, what most files are of.
        @raise NotEnoughShares: if none is a share, or of this object.
        """
        faults, found = [], []
        for name, file in files:
            try:
                found.append(ShareFile(name, file))
            except (ObjectMalformed, OSError) as e:
                faults.append(Fault(name, str(e)))
        if content_id is None and found:
            # Of equally many the first one counts.
            votes = Counter(each.manifest.content_id for each in found)
            content_id = max(votes, key=lambda each: votes[each])
        manifests = [each.manifest for each in found if each.manifest.content_id == content_id]
        if content_id is None or not manifests:
            what = "an object" if content_id is None else f"the object {content_id.hex()[:16]}..."
            problems = "".join(f"; {fault.problem}" for fault in faults[:1])
            raise NotEnoughShares(f"none of {len(files)} files is a share of {what}{problems}")
        manifest, sources = manifests[0], []
        for each in found:
            if each.manifest.content_id != content_id:
                if each.manifest.header.upload != manifest.header.upload:
                    faults.append(Fault(each.name, f"{each.name} is of another object"))
                    continue
                faults.append(Fault(each.name, f"the manifest in {each.name} was changed"))
            # What it has for a segment may be good all the same.
            sources.append(_Source(each))
        return cls(manifest, sources, faults)

    def read(self, segment: int, use: Callable[[Mapping[int, Piece]], _T]) -> _T:
        """
        Give pieces of a segment to somebody, and others if those do not suffice.

        @param use: C{decode} of a decoder, or the like.
        @return: what C{use} gives.
        @raise NotEnoughShares: if there are no others.
        @raise ObjectDamaged: if they are good and the object is not.
        """
        required = self.manifest.header.scheme.required
        # Those that were never wrong; and the first ones, of which nothing is computed.
        left = sorted(self._sources, key=lambda one: (one.faults, one.file.number))
        while True:
            chosen: dict[int, tuple[_Source, Piece]] = {}
            for source in tuple(left):
                number = source.file.number
                if len(chosen) < required and number not in chosen:
                    try:
                        chosen[number] = source, source.file.piece(self.manifest, segment)
                    except OSError as e:
                        left.remove(source)
                        self._blame(source, f"{source.file.name} cannot be read: {e.strerror}")
            try:
                return use({number: piece for number, (_, piece) in chosen.items()})
            except NotEnoughShares as e:
                for number in e.wrong:
                    source, _ = chosen[number]
                    left.remove(source)
                    self._blame(source, f"{source.file.name} was changed, in segment {segment}")
                if len(chosen) < required:
                    names = ", ".join(fault.name for fault in self.faults[:_NAMED])
                    raise NotEnoughShares(
                        f"the object cannot be read: {required} shares are needed, and "
                        f"{len(chosen) - len(e.wrong)} are good in segment {segment}"
                        + (f"; changed or unreadable: {names}" if names else "")
                    ) from None

    def _blame(self, source: _Source, problem: str) -> None:
        source.faults += 1
        if source.faults == 1:
            self.faults.append(Fault(source.file.name, problem))
