"""
From the text of an object to its shares, and from any shares that suffice to the text.  Pure.

No files and no peers: whoever calls brings texts and blocks, one segment at a time, and
writes or sends what comes back.  So memory is a few segments, however long the object is::

    Cutter          chunks of any length       -> texts of segments
    Encoder         text                       -> a block for each share; at the end the manifest
    Decoder         some blocks, with proofs   -> text
    WholeDecoder    the same, from front to end
    SegmentReader   the same without the key   -> sealed segment, or blocks that are missing
    Rebuilder       the same                   -> whole shares that are missing

L{Encoder.encode}, L{Decoder.decode} and the likes do everything that costs time, some
milliseconds for each MiB, in calls that release the GIL: they are meant for a worker thread.
What they are given is not kept.

B{Nothing that comes from a peer is believed.}  A block travels with its branch in the Merkle
tree of its share, whose root is in the manifest, so a wrong block is found before it is used,
and it is known whose it was.  When all is well and the text still does not open, the one who
made the object or the manifest has lied, and none of the peers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from attrs import frozen

from meshkit.crypto.merkle import LEAF_BYTES, TreeBuilder, check_leaves
from meshkit.crypto.stream import MakeCipher, fastest_cipher
from meshkit.errors import NotEnoughShares, ObjectDamaged, ObjectMismatch
from meshkit.storage.erasure import Block, measure
from meshkit.storage.header import Header
from meshkit.storage.manifest import Manifest
from meshkit.storage.scheme import Layout, Scheme

__all__ = [
    "Cutter",
    "Decoded",
    "Decoder",
    "EncodedSegment",
    "Encoder",
    "KeepNodes",
    "Piece",
    "Rebuilder",
    "Recovered",
    "SegmentReader",
    "WholeDecoder",
]

#: Is given the number of a share and some nodes of its tree, to be kept one behind the other
#: (L{meshkit.crypto.merkle.TreeBuilder}).
KeepNodes = Callable[[int, bytes], object]

#: Liars that an error names one by one.
_NAMED: Final = 8


# --- to shares ---------------------------------------------------------------------


class Cutter:
    """
    Cuts what comes in chunks of any length into the texts of segments.

    A segment that is full is held until something follows: the last one is sealed in another
    way, and a text may end where a segment does.
    """

    def __init__(self, scheme: Scheme) -> None:
        self._size = scheme.text_bytes
        self._held = bytearray()
        self._fill = 0

    def feed(self, chunk: Block) -> Iterator[memoryview]:
        """
        @param chunk: what comes next.
        @return: the texts that are complete, and not the last.  Run through it before
            anything else is fed.
        """
        with memoryview(chunk) as view, view.cast("B") as data:
            at = 0
            while at < len(data):
                if self._fill == self._size:
                    yield self._take()
                if not self._held:
                    # For each text memory of its own, as a thread may still read the last one.
                    self._held = bytearray(self._size)
                count = min(self._size - self._fill, len(data) - at)
                self._held[self._fill : self._fill + count] = data[at : at + count]
                self._fill += count
                at += count

    def finish(self) -> memoryview:
        """
        There is no more.

        @return: the last text; empty if all of them are.
        """
        return self._take()

    def _take(self) -> memoryview:
        text = memoryview(self._held)[: self._fill].toreadonly()
        self._held, self._fill = bytearray(), 0
        return text


@frozen
class EncodedSegment:
    """
    What becomes of one segment.

    @ivar number: which one, from 0.
    @ivar blocks: one for each share, all of one length.
    """

    number: int
    blocks: Sequence[Block]


class Encoder:
    """
    Seals an object and makes its shares, from its beginning to its end, once.

    To be used by one thread at a time.

    @ivar header: the header of the object.
    @ivar length: bytes of text so far.
    """

    def __init__(
        self,
        header: Header,
        content_key: bytes,
        codec: Any,
        keep: KeepNodes | None = None,
        make_cipher: MakeCipher = fastest_cipher,
    ) -> None:
        """
        @param header: of this object alone: what is sealed under one header twice is lost.
        @param content_key: that of the header.
        @param codec: L{meshkit.interfaces.IErasureCodec}.
        @param keep: where nodes of the shares' trees go, if somebody is to prove with them.
        @raise ObjectKeyWrong: if the key is not that of the header.
        """
        scheme = header.scheme
        self.header = header
        self.length = 0
        self._sealer = header.sealer(content_key, make_cipher)
        self._opener = header.opener(content_key, make_cipher)
        self._code = codec.code(scheme.required, scheme.total)
        self._tree = TreeBuilder(scheme.segment_bytes)
        self._trees = [
            TreeBuilder(LEAF_BYTES, None if keep is None else _of_share(keep, number))
            for number in range(scheme.total)
        ]
        self._ended = False

    def encode(self, text: Block, last: bool) -> EncodedSegment:
        """
        Seal the next segment and cut it.  For a worker thread.

        @param text: as L{Cutter} gives it.
        @param last: whether the object ends with it.
        @raise ValueError: if it has not the length that it has to have, or the last one was
            encoded before.
        @raise ObjectTooLarge: if the object is longer than one can be.
        """
        number = self._sealer.segments
        return self._share_out(number, self._sealer.seal(text, last), measure(text), last)

    def adopt(self, sealed: Block, last: bool) -> EncodedSegment:
        """
        Go on with a segment that was sealed before, under this header and key: so that a put
        that was interrupted can go on, and nothing is ever sealed twice.  For a worker
        thread.

        @param sealed: the next segment.
        @param last: whether the object ends with it.
        @raise ObjectDamaged: if it is not that segment.  Then it counts as not there.
        """
        number = self._sealer.segments
        text = self._opener.open(number, sealed, last)
        self._sealer.skip(len(text), last)
        return self._share_out(number, sealed, len(text), last)

    def _share_out(self, number: int, sealed: Block, size: int, last: bool) -> EncodedSegment:
        self.length += size
        self._ended = last
        self._tree.update(sealed)
        primary = _cut(sealed, self.header.scheme.required)
        blocks = [*primary, *self._code.encode(primary)]
        for tree, block in zip(self._trees, blocks, strict=True):
            tree.update(block)
        return EncodedSegment(number, blocks)

    def finish(self) -> Manifest:
        """
        The last segment was encoded.  Nodes that are left are kept now.

        @return: what the object is.
        """
        if not self._ended:
            raise ValueError("the last segment was not encoded yet")
        shares = [tree.finish() for tree in self._trees]
        return Manifest(self.header, self.length, self._tree.finish(), tuple(shares))


def _of_share(keep: KeepNodes, number: int) -> Callable[[bytes], object]:
    return lambda nodes: keep(number, nodes)


def _cut(sealed: Block, required: int) -> list[memoryview]:
    """@return: a sealed segment in blocks of one length, with zeros behind it."""
    block = -(-len(sealed) // required)
    zeros = bytes(required * block - len(sealed))
    # All segments but the last have none, and are not copied.
    view = memoryview(b"".join((sealed, zeros)) if zeros else sealed)
    return [view[at : at + block] for at in range(0, len(view), block)]


# --- from shares -------------------------------------------------------------------


@frozen
class Piece:
    """
    What somebody gives as the block that a segment has in a share.

    @ivar block: its bytes.
    @ivar branch: what proves it, for the leaves that L{SegmentReader.leaves} names
        (L{meshkit.crypto.merkle.Prover}).
    """

    block: Block
    branch: Sequence[bytes]


@frozen
class Recovered:
    """
    What came of some pieces.

    @ivar blocks: those that were asked for, in order.
    @ivar used: the shares whose pieces were found good and used, sorted.
    @ivar wrong: the shares whose pieces are not what the manifest says, and in what way.
        Pieces beyond those that are needed are not looked at.
    """

    blocks: Sequence[Block]
    used: Sequence[int]
    wrong: Mapping[int, str]


class SegmentReader:
    """
    Makes blocks out of other ones, checked, without the key of the object.

    May be used by several threads at once.

    @ivar manifest: of the object.
    @ivar layout: where everything is in it.
    """

    def __init__(self, manifest: Manifest, codec: Any) -> None:
        """
        @param manifest: from somebody who is trusted, or checked against the object's id; a
            wrong one only has the effect that nothing fits it.
        @param codec: L{meshkit.interfaces.IErasureCodec}.
        """
        scheme = manifest.header.scheme
        self.manifest = manifest
        self.layout: Layout = manifest.layout
        self._shape = self.layout.share_shape
        self._code = codec.code(scheme.required, scheme.total)

    def leaves(self, segment: int) -> tuple[int, int]:
        """
        @return: the first of the leaves that the block of a segment is in each share, and how
            many they are.
        @raise ValueError: if there is no such segment.
        """
        first = self.layout.block_at(segment) // LEAF_BYTES
        return first, -(-self.layout.block_bytes(segment) // LEAF_BYTES)

    def check(self, segment: int, share: int, piece: Piece) -> None:
        """
        Is it the block that this segment has in this share?

        @raise ObjectDamaged: if not.
        @raise ValueError: if there is no such segment or share.
        """
        if not 0 <= share < self.manifest.header.scheme.total:
            raise ValueError(f"the object has no share {share}")
        first, _ = self.leaves(segment)
        expected = self.layout.block_bytes(segment)
        if measure(piece.block) != expected:
            raise ObjectDamaged(
                f"share {share} has {measure(piece.block)} bytes for segment {segment}, and not "
                f"{expected}"
            )
        try:
            root = self.manifest.shares[share]
            check_leaves(root, self._shape, first, piece.block, piece.branch)
        except ObjectDamaged as e:
            raise ObjectDamaged(f"share {share} is not what it was, in segment {segment}") from e

    def recover(
        self, segment: int, pieces: Mapping[int, Piece], wanted: Sequence[int]
    ) -> Recovered:
        """
        Check pieces until enough are good, and make blocks of them.  For a worker thread.

        @param segment: which one.
        @param pieces: by share, from whoever had one; the cheapest are looked at first.
        @param wanted: the shares of which blocks are to be made.
        @raise NotEnoughShares: if too few are good; it names those that are not.
        @raise ValueError: if there is no such segment, or share in C{pieces}.
        @raise SharesInvalid: if there is no such share in C{wanted}.
        """
        required = self.manifest.header.scheme.required
        self.leaves(segment)  # is there such a segment?
        good: dict[int, Block] = {}
        wrong: dict[int, str] = {}
        # In order, as the first shares are the segment itself and nothing is computed then.
        for share, piece in sorted(pieces.items()):
            try:
                self.check(segment, share, piece)
            except ObjectDamaged as e:
                # Not the error, which would keep the block in memory.
                wrong[share] = str(e)
                continue
            good[share] = piece.block
            if len(good) == required:
                break
        else:
            raise NotEnoughShares(
                f"segment {segment} of the object cannot be read: {required} shares are needed, "
                f"and {len(good)} of {len(pieces)} are good" + _named(wrong),
                wrong=sorted(wrong),
            )
        missing = [share for share in wanted if share not in good]
        made = self._code.recover(list(good.values()), list(good), missing) if missing else []
        blocks = {**good, **dict(zip(missing, made, strict=True))}
        return Recovered([blocks[share] for share in wanted], list(good), wrong)

    def sealed(self, segment: int, pieces: Mapping[int, Piece]) -> tuple[bytes, Recovered]:
        """
        A sealed segment, as it was made.  For a worker thread.

        @return: it, and what it was made of.
        @raise NotEnoughShares: as L{recover} does.
        """
        required = self.manifest.header.scheme.required
        found = self.recover(segment, pieces, range(required))
        whole = b"".join(found.blocks)
        length = self.layout.sealed_bytes(segment)
        if any(whole[length:]):
            # As the shares are what the manifest says.
            raise ObjectDamaged(
                f"segment {segment} of the object does not end with zeros: whoever made the "
                f"object or its manifest made it wrong"
            )
        return whole[:length], found


def _named(wrong: Mapping[int, str]) -> str:
    if not wrong:
        return ""
    names = ", ".join(str(share) for share in sorted(wrong)[:_NAMED])
    more = "" if len(wrong) <= _NAMED else f" and {len(wrong) - _NAMED} more"
    return f"; not what they were: {names}{more}"


@frozen
class Decoded:
    """
    The text of a segment.

    @ivar text: its bytes.
    @ivar used: as in L{Recovered}.
    @ivar wrong: as in L{Recovered}: whom to blame.
    """

    text: bytes
    used: Sequence[int]
    wrong: Mapping[int, str]


class Decoder:
    """
    Reads an object, all of it or some.

    Segments may be decoded in any order and by several threads at once.  Each is released
    only when its tag was found right, so what was released is the text, or its beginning: who
    reads from front to end has all of it when segment C{layout.segments - 1} was released.

    @ivar layout: where everything is in the object.
    """

    def __init__(
        self,
        manifest: Manifest,
        content_key: bytes,
        codec: Any,
        make_cipher: MakeCipher = fastest_cipher,
    ) -> None:
        """
        @param manifest: checked against the object's id (L{Manifest.check}).
        @param content_key: that of the object.
        @param codec: L{meshkit.interfaces.IErasureCodec}.
        @raise ObjectKeyWrong: if the key is not that of the object.
        """
        self._reader = SegmentReader(manifest, codec)
        self._opener = manifest.header.opener(content_key, make_cipher)
        self.layout = self._reader.layout

    def leaves(self, segment: int) -> tuple[int, int]:
        """@return: see L{SegmentReader.leaves}."""
        return self._reader.leaves(segment)

    def decode(self, segment: int, pieces: Mapping[int, Piece]) -> Decoded:
        """
        Check pieces, and open the segment that they make.  For a worker thread.

        @param segment: which one.
        @param pieces: by share; any that suffice.
        @raise NotEnoughShares: if too few are good; it names those that are not.
        @raise ObjectDamaged: if the shares are what the manifest says, and do not open.
        """
        return self.open_sealed(segment, pieces)[1]

    def open_sealed(self, segment: int, pieces: Mapping[int, Piece]) -> tuple[bytes, Decoded]:
        """As L{decode}.  @return: the sealed segment too, as L{WholeDecoder} needs it."""
        sealed, found = self._reader.sealed(segment, pieces)
        try:
            text = self._opener.open(segment, sealed, self.layout.is_last(segment))
        except ObjectDamaged as e:
            raise ObjectDamaged(
                f"segment {segment} of the object does not open, though its shares are what the "
                f"manifest says: whoever made the object or its manifest made it wrong"
            ) from e
        return sealed, Decoded(text, found.used, found.wrong)

    def within(self, segment: int, text: bytes, start: int, end: int) -> bytes:
        """
        @param text: of the segment.
        @return: what of it is between two places of the object.
        """
        at = segment * self.layout.scheme.text_bytes
        return text[max(0, start - at) : max(0, end - at)]


class WholeDecoder:
    """
    Reads an object from its beginning to its end, and sees that it is the one that all read.

    The tags of segments show only that somebody with the key made them.  Who made the object
    could have made its shares of several texts under one header, so that what is read depends
    on which shares are.  L{finish} finds that out.

    To be used by one thread at a time.

    @ivar decoder: what it reads with.
    @ivar segment: the next one.
    """

    def __init__(self, manifest: Manifest, decoder: Decoder) -> None:
        """@param manifest: the one that the decoder has."""
        self.decoder = decoder
        self.segment = 0
        self._root = manifest.root
        self._tree = TreeBuilder(decoder.layout.scheme.segment_bytes)

    def decode(self, pieces: Mapping[int, Piece]) -> Decoded:
        """
        The text of the next segment.  For a worker thread.

        @raise NotEnoughShares: as L{Decoder.decode} does; then try again with others.
        """
        sealed, found = self.decoder.open_sealed(self.segment, pieces)
        self._tree.update(sealed)
        self.segment += 1
        return found

    def finish(self) -> None:
        """
        All segments were decoded: are they the object?

        @raise ObjectMismatch: if not.
        @raise ValueError: if one was not decoded.
        """
        if self.segment != self.decoder.layout.segments:
            raise ValueError(f"segment {self.segment} was not decoded yet")
        if self._tree.finish() != self._root:
            raise ObjectMismatch(
                "what was read was made with the key of the object, and is not the object: "
                "whoever made it made its shares of several"
            )


class Rebuilder:
    """
    Makes shares that were lost anew, without the key, from the first segment to the last.

    To be used by one thread at a time.
    """

    def __init__(
        self, manifest: Manifest, codec: Any, wanted: Sequence[int], keep: KeepNodes | None = None
    ) -> None:
        """
        @param manifest: see L{SegmentReader}.
        @param codec: L{meshkit.interfaces.IErasureCodec}.
        @param wanted: the shares to be made.
        @param keep: where nodes of their trees go.
        """
        self._reader = SegmentReader(manifest, codec)
        self._wanted = tuple(wanted)
        self._trees = [
            TreeBuilder(LEAF_BYTES, None if keep is None else _of_share(keep, number))
            for number in self._wanted
        ]
        self._next = 0

    def leaves(self, segment: int) -> tuple[int, int]:
        """@return: see L{SegmentReader.leaves}."""
        return self._reader.leaves(segment)

    def rebuild(self, pieces: Mapping[int, Piece]) -> Recovered:
        """
        The blocks that the next segment has in these shares.  For a worker thread.

        @param pieces: of the next segment; any that suffice.
        @raise NotEnoughShares: as L{SegmentReader.recover} does; then try again with others.
        """
        found = self._reader.recover(self._next, pieces, self._wanted)
        self._next += 1
        for tree, block in zip(self._trees, found.blocks, strict=True):
            tree.update(block)
        return found

    def finish(self) -> None:
        """
        All segments were rebuilt: are these the shares of the manifest?

        @raise ObjectDamaged: if not; it names those that are not.  Nobody is to be given them.
        @raise ValueError: if a segment was not rebuilt.
        """
        manifest = self._reader.manifest
        if self._next != self._reader.layout.segments:
            raise ValueError(f"segment {self._next} was not rebuilt yet")
        roots = [tree.finish() for tree in self._trees]
        bad = [
            number
            for number, root in zip(self._wanted, roots, strict=True)
            if root != manifest.shares[number]
        ]
        if bad:
            raise ObjectDamaged(
                f"share {bad[0]} was made anew and is not what the manifest says: whoever made "
                f"the object or its manifest made it wrong",
                wrong=bad,
            )
