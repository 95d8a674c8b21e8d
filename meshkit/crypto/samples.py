"""
Single leaves of a Merkle tree with their proofs, taken out of many trees at once.  Pure.

The trees are those of L{meshkit.crypto.merkle}, and so are the proofs; but what that does for
any number of leaves in a row is done here for one, in a tenth of the time.  A B{sample} is one
leaf and the nodes on the way from it to the top, one behind the other and nothing between::

    sample = leaf | node 32 | node 32 | ...

Where the leaf ends and how many nodes there are follows from the size of the tree and the
number of the leaf, so a sample can be cut in one way only.

What stands for some samples of a share is their B{digest}::

    digest = SHA-256("meshkit/samples/1" | leaf hash | nodes | leaf hash | nodes | ...)

It holds the nodes as well as the leaves.  So who signs it has said by that whether they lead
to a root, and nobody can show other nodes with the same leaf afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final

from attrs import field, frozen

from meshkit.crypto.merkle import (
    GROUP,
    HASH_BYTES,
    KEPT_LEVEL,
    LEAF_BYTES,
    Data,
    Prover,
    Shape,
    leaf_hash,
)

__all__ = [
    "MAX_SAMPLE",
    "Samples",
    "Taking",
    "checked",
    "digest_of",
    "largest_sample",
    "leads_to",
    "leaf_count",
    "sample_bytes",
    "samples_of",
]

#: Bytes of the largest sample: of a tree that has as many leaves as there can be.
MAX_SAMPLE: Final = LEAF_BYTES + 52 * HASH_BYTES
#: Of a tree whose nodes have no more bytes than this, all are read at once.
WHOLE_NODES: Final = 256 * 1024

_DIGEST: Final = sha256(b"meshkit/samples/1")
_NODE: Final = b"\x01"


@frozen
class Samples:
    """
    What was taken of a share.

    @ivar digest: of the samples.
    @ivar samples: one for each leaf that was asked for, in order.
    """

    digest: bytes = field(repr=lambda digest: digest.hex()[:16])
    samples: list[bytes] = field(repr=False)


def leaf_count(size: int) -> int:
    """@return: leaves of a share of so many bytes."""
    return -(-size // LEAF_BYTES)


def sample_bytes(size: int, number: int) -> int:
    """
    @param size: bytes of the share.
    @param number: of one of its leaves.
    @return: bytes of the sample.
    """
    width = leaf_count(size)
    total = LEAF_BYTES if number < width - 1 else size - (width - 1) * LEAF_BYTES
    while width > 1:
        if number & 1 or number + 1 < width:
            total += HASH_BYTES
        number >>= 1
        width = (width + 1) >> 1
    return total


def largest_sample(size: int) -> int:
    """@return: bytes that no sample of a share of this size has more of."""
    return min(size, LEAF_BYTES) + HASH_BYTES * max(0, leaf_count(size) - 1).bit_length()


def leads_to(root: bytes, size: int, number: int, sample: bytes) -> bytes | None:
    """
    Is this the leaf that a root stands for?

    @param size: bytes of the share.
    @param number: of one of its leaves.
    @param sample: L{sample_bytes} of them.
    @return: what the digest holds of the sample, if it is.
    """
    held, top = _climb(size, number, sample)
    lengths = size.to_bytes(8, "big") + LEAF_BYTES.to_bytes(4, "big")
    return held if sha256(b"\x02" + lengths + top).digest() == root else None


def _climb(size: int, number: int, sample: bytes) -> tuple[bytes, bytes]:
    """@return: what the digest holds of a sample, and the top of the tree to which it leads."""
    width = -(-size // LEAF_BYTES)
    end = at = LEAF_BYTES if number < width - 1 else size - (width - 1) * LEAF_BYTES
    hashed = sha256
    node = leaf = leaf_hash(sample[:end])
    # Every step of this loop is made sixty times for one share, so it is as bare as it can be.
    while width > 1:
        if number & 1:
            node = hashed(b"\x01" + sample[at : at + 32] + node).digest()
            at += 32
        elif number + 1 < width:
            node = hashed(b"\x01" + node + sample[at : at + 32]).digest()
            at += 32
        number >>= 1
        width = (width + 1) >> 1
    return leaf + sample[end:], node


def digest_of(size: int, numbers: Sequence[int], samples: Sequence[bytes]) -> bytes:
    """
    @param size: bytes of the share.
    @param numbers: of its leaves.
    @param samples: of these, each of L{sample_bytes}.
    @return: their digest.
    """
    state, last = _DIGEST.copy(), leaf_count(size) - 1
    for number, sample in zip(numbers, samples, strict=True):
        at = LEAF_BYTES if number < last else size - last * LEAF_BYTES
        state.update(leaf_hash(sample[:at]))
        state.update(sample[at:])
    return state.digest()


def checked(
    root: bytes, size: int, numbers: Sequence[int], samples: Sequence[bytes]
) -> tuple[bytes, bool]:
    """
    Both at once, as each leaf is hashed only once for both.

    @return: the digest of the samples, and whether all of them lead to the root.
    """
    state, good = _DIGEST.copy(), True
    lengths = size.to_bytes(8, "big") + LEAF_BYTES.to_bytes(4, "big")
    for number, sample in zip(numbers, samples, strict=True):
        held, top = _climb(size, number, sample)
        state.update(held)
        good &= sha256(b"\x02" + lengths + top).digest() == root
    return state.digest(), good


class Taking:
    """
    Takes samples out of one share: first it says which bytes it needs (L{ranges}), then it is
    given them.  No byte is read twice, and no hash is made twice.
    """

    def __init__(self, size: int, numbers: Sequence[int]) -> None:
        """
        @param size: bytes of the share; its nodes stand behind it.
        @param numbers: of leaves, ascending.
        @raise ValueError: if there are no such leaves.
        """
        self._size = size
        self._numbers = numbers
        self._shape = Shape(size, LEAF_BYTES)
        leaves = leaf_count(size)
        if numbers and not 0 <= numbers[0] <= numbers[-1] < leaves:
            raise ValueError(f"there are no leaves {numbers[0]} to {numbers[-1]} among {leaves}")
        self._all_groups = -(-leaves // GROUP)
        # Those of which leaves are read.
        self._groups = list(dict.fromkeys(number // GROUP for number in numbers))
        self._whole = self._shape.kept_bytes <= WHOLE_NODES
        self._nodes: list[int] = []
        if leaves <= GROUP:
            self._whole = True
        elif not self._whole:
            self._nodes = sorted(self._needed())

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Offset and length of what is to be read, of the share with its nodes behind it."""
        group = GROUP * LEAF_BYTES
        found = [
            (number * group, min(group, self._size - number * group)) for number in self._groups
        ]
        if self._shape.leaves <= GROUP:
            return found
        if self._whole:
            found.append((self._size, self._shape.kept_bytes))
        else:
            found += [(self._size + at, HASH_BYTES) for at in self._nodes]
        return found

    def take(self, chunks: Sequence[bytes]) -> Samples:
        """
        @param chunks: what L{ranges} asked for, in its order.
        """
        hashes: dict[int, list[bytes]] = {}
        data: dict[int, bytes] = {}
        for group, chunk in zip(self._groups, chunks, strict=False):
            data[group] = chunk
            with memoryview(chunk) as view:
                hashes[group] = [
                    leaf_hash(view[at : at + LEAF_BYTES]) for at in range(0, len(view), LEAF_BYTES)
                ]
        kept = self._reader(chunks[len(self._groups) :])
        state, samples = _DIGEST.copy(), []
        for number in self._numbers:
            group, within = divmod(number, GROUP)
            row = hashes[group]
            nodes = _low_branch(row, within) + self._high_branch(group, kept)
            at = within * LEAF_BYTES
            state.update(row[within] + nodes)
            samples.append(data[group][at : at + LEAF_BYTES] + nodes)
        return Samples(state.digest(), samples)

    def _reader(self, chunks: Sequence[bytes]) -> Callable[[int], bytes]:
        """@return: gives the node at an offset behind the share."""
        if self._whole:
            whole = chunks[0] if chunks else b""
            return lambda at: whole[at : at + HASH_BYTES]
        return dict(zip(self._nodes, chunks, strict=True)).__getitem__

    def _high_branch(self, group: int, kept: Callable[[int], bytes]) -> bytes:
        """The nodes of a branch that are kept, and those that follow from them."""
        groups, number, width, height = self._all_groups, group, self._all_groups, 0
        found = []
        while width > 1:
            beside = number ^ 1
            if beside < width:
                before = beside << height
                if before + (1 << height) <= groups:
                    # As Prover finds them.
                    place = 2 * before - before.bit_count() + (2 << height) - 2
                    found.append(kept(HASH_BYTES * place))
                else:
                    prover = Prover(self._shape, lambda at, _length: kept(at), _nothing)
                    found.append(prover.node(KEPT_LEVEL + height, beside))
            number, width, height = number >> 1, (width + 1) >> 1, height + 1
        return b"".join(found)

    def _needed(self) -> set[int]:
        """Where the nodes are that L{take} will want."""
        wanted: set[int] = set()

        def note(at: int) -> bytes:
            wanted.add(at)
            return bytes(HASH_BYTES)

        for group in self._groups:
            self._high_branch(group, note)
        return wanted


def samples_of(size: int, numbers: Sequence[int], share: Data, nodes: Data) -> Samples:
    """
    Out of memory.

    @param share: all of it.
    @param nodes: what L{meshkit.crypto.merkle.TreeBuilder} kept of its tree.
    """
    whole = bytes(share) + bytes(nodes)
    taking = Taking(size, numbers)
    return taking.take([whole[at : at + length] for at, length in taking.ranges])


def _low_branch(row: Sequence[bytes], within: int) -> bytes:
    """The nodes of a branch that are below those that are kept."""
    if len(row) == GROUP:
        pair, four = 2 * (within >> 1 ^ 1), 4 * (within >> 2 ^ 1)
        low = sha256(_NODE + row[four] + row[four + 1]).digest()
        high = sha256(_NODE + row[four + 2] + row[four + 3]).digest()
        return b"".join(
            (
                row[within ^ 1],
                sha256(_NODE + row[pair] + row[pair + 1]).digest(),
                sha256(_NODE + low + high).digest(),
            )
        )
    found = []
    while len(row) > 1:
        if within & 1:
            found.append(row[within - 1])
        elif within + 1 < len(row):
            found.append(row[within + 1])
        above = [sha256(_NODE + row[at] + row[at + 1]).digest() for at in range(0, len(row) - 1, 2)]
        if len(row) & 1:
            above.append(row[-1])
        row, within = above, within >> 1
    return b"".join(found)


def _nothing(_offset: int, _length: int) -> bytes:
    raise ValueError("leaves are not read again")
