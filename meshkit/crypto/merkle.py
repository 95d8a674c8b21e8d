"""
Merkle trees over bytes: one hash for all, and a proof for any piece of them.  Pure.

The tree is that of RFC 9162, 2.1.1, over leaves of one length, of which the last may be
shorter::

    leaf = SHA-256(0x00 | bytes)        node = SHA-256(0x01 | left | right)
    root = SHA-256(0x02 | u64be bytes in all | u32be bytes of a leaf | top of the tree)

Level by level, neighbours are paired, and a last one without a neighbour goes up as it is;
it is never paired with itself.  As the root holds the length, nobody can show a leaf for a
node, or the beginning of the bytes for all of them.

A proof for some leaves in a row is their I{branch}: the nodes that are missing on the way
up, each level's left one before its right one, from the bottom to the top.  For one leaf
that is the inclusion proof of RFC 9162, 2.1.3.

Who has the bytes can make the branch with few of the hashes: of the levels below
L{KEPT_LEVEL} none is kept, as they are made anew from the eight leaves below them.  What is
kept has 0.2 % of the length for leaves of 4 KiB, and is written as it becomes known, one
node behind the other: a node follows the two that it is made of.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from typing import Final

from attrs import field, frozen

from meshkit.errors import ObjectDamaged

HASH_BYTES: Final = 32
#: Of a share, unless something else is said.
LEAF_BYTES: Final = 4096
#: The lowest level whose nodes are kept.
KEPT_LEVEL: Final = 3
#: Leaves below one of these.
GROUP: Final = 1 << KEPT_LEVEL

MAX_LEAF_BYTES: Final = 2**32 - 1
MAX_BYTES: Final = 2**64 - 1

Data = bytes | bytearray | memoryview

#: Reads C{(offset, length)}: exactly so many bytes.
Read = Callable[[int, int], Data]

_LEAF: Final = sha256(b"\x00")
_NODE: Final = b"\x01"
_ROOT: Final = b"\x02"


def leaf_hash(data: Data) -> bytes:
    """@return: the hash of one leaf."""
    # A copy of the beginning, which costs less than the bytes behind it in one piece.
    state = _LEAF.copy()
    state.update(data)
    return state.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """@return: the hash of the node above these two."""
    return sha256(_NODE + left + right).digest()


@frozen
class Shape:
    """
    The shape of a tree, which follows from two lengths.

    @ivar size: bytes in all.
    @ivar leaf_bytes: of every leaf but the last.
    """

    size: int = field()
    leaf_bytes: int = field(default=LEAF_BYTES)

    @size.validator
    def _check_size(self, _attribute: object, value: int) -> None:
        if not 0 <= value <= MAX_BYTES:
            raise ValueError(f"no tree has {value} bytes")

    @leaf_bytes.validator
    def _check_leaf_bytes(self, _attribute: object, value: int) -> None:
        if not 1 <= value <= MAX_LEAF_BYTES:
            raise ValueError(f"no leaf has {value} bytes")

    @property
    def leaves(self) -> int:
        """How many leaves there are: none of no bytes."""
        return -(-self.size // self.leaf_bytes)

    @property
    def kept_bytes(self) -> int:
        """The length of what is kept, see L{TreeBuilder}."""
        groups = -(-self.leaves // GROUP)
        return HASH_BYTES * (2 * groups - groups.bit_count())

    def length(self, first: int, count: int) -> int:
        """
        @return: the bytes of C{count} leaves from C{first} on.
        @raise ValueError: if there are no such leaves.
        """
        self._check(first, count)
        return min((first + count) * self.leaf_bytes, self.size) - first * self.leaf_bytes

    def branch(self, first: int, count: int) -> Iterator[tuple[int, int]]:
        """
        The branch of C{count} leaves from C{first} on.

        @return: level and number of each node, in order.
        @raise ValueError: if there are no such leaves.
        """
        self._check(first, count)
        level, low, high, width = 0, first, first + count, self.leaves
        while width > 1:
            if low % 2:
                yield level, low - 1
            if high % 2 and high < width:
                yield level, high
            level, low, high, width = level + 1, low // 2, -(-high // 2), -(-width // 2)

    def root(self, top: bytes) -> bytes:
        """@return: what stands for bytes whose tree has this top."""
        lengths = self.size.to_bytes(8, "big") + self.leaf_bytes.to_bytes(4, "big")
        return sha256(_ROOT + lengths + top).digest()

    def _check(self, first: int, count: int) -> None:
        if not (first >= 0 and count >= 1 and first + count <= self.leaves):
            raise ValueError(f"there are no {count} leaves from {first} on among {self.leaves}")


def top_from(
    shape: Shape, first: int, hashes: Sequence[bytes], branch: Sequence[bytes]
) -> bytes | None:
    """
    The top of a tree, out of some of its leaves.

    @param first: number of the first leaf.
    @param hashes: of some leaves in a row.
    @param branch: theirs.
    @return: L{None} if a branch of these leaves does not have this length.
    @raise ValueError: if there are no such leaves.
    """
    row, taken, there = list(hashes), 0, len(branch)
    low, high, width = first, first + len(row), shape.leaves
    if not 0 <= low < high <= width:
        raise ValueError(f"there are no {len(row)} leaves from {first} on among {width}")
    for each in branch:
        if len(each) != HASH_BYTES:
            return None
    while width > 1:
        if low & 1:
            if taken == there:
                return None
            row.insert(0, branch[taken])
            taken += 1
        if high & 1 and high < width:
            if taken == there:
                return None
            row.append(branch[taken])
            taken += 1
        # The first of the row has an even number now; one that is left over is the last
        # of its level.
        if len(row) > 1:
            row = _pair_up(row)
        low, high, width = low >> 1, (high + 1) >> 1, (width + 1) >> 1
    return row[0] if taken == there else None


def _pair_up(row: Sequence[bytes]) -> list[bytes]:
    """The level above a row that begins with an even number."""
    above = [sha256(_NODE + row[at] + row[at + 1]).digest() for at in range(0, len(row) - 1, 2)]
    if len(row) & 1:
        above.append(row[-1])
    return above


def check_leaves(
    root: bytes, shape: Shape, first: int, data: Data, branch: Sequence[bytes]
) -> None:
    """
    Are these the bytes that a root stands for?

    @param root: from somebody who is trusted.
    @param shape: of the tree as one is told it.  The root decides about that too.
    @param first: number of the first leaf.
    @param data: one leaf or more in a row, whole.  Only the last of all may be short.
    @param branch: as L{Prover} makes it.
    @raise ObjectDamaged: if not, or if there are no such leaves.
    """
    size, leaf_bytes = len(data), shape.leaf_bytes
    count = -(-size // leaf_bytes)
    if not (0 <= first < first + count <= shape.leaves) or size != shape.length(first, count):
        raise ObjectDamaged(f"{size} bytes are not what the share has from leaf {first} on")
    with memoryview(data) as view:
        hashes = [leaf_hash(view[at : at + leaf_bytes]) for at in range(0, size, leaf_bytes)]
    top = top_from(shape, first, hashes, branch)
    if top is None or not hmac.compare_digest(shape.root(top), root):
        raise ObjectDamaged(
            f"what was given from leaf {first} on is not what the share has there, or its proof "
            f"is wrong"
        )


class TreeBuilder:
    """
    Makes a tree of bytes that come piece by piece, and remembers one hash for each level.

    To be used by one thread at a time.

    @ivar size: bytes so far.
    @ivar leaf_bytes: of every leaf but the last.
    """

    def __init__(
        self, leaf_bytes: int = LEAF_BYTES, keep: Callable[[bytes], object] | None = None
    ) -> None:
        """
        @param keep: is given the nodes that a L{Prover} needs, 32 bytes each and some at a
            time, to be written one behind the other.
        """
        Shape(0, leaf_bytes)
        self.leaf_bytes = leaf_bytes
        self.size = 0
        self._keep = keep
        self._partial = bytearray()
        self._leaves = 0
        # The whole subtrees so far, the largest first: one for each 1 bit of _leaves.
        self._whole: list[bytes] = []
        self._nodes: list[bytes] = []
        self._finished = False

    def update(self, data: Data) -> None:
        """Go on with these bytes.  Leaves that lie in one piece are not copied."""
        if self._finished:
            raise ValueError("the tree is finished")
        leaf_bytes = self.leaf_bytes
        with memoryview(data) as view:
            at, end = 0, len(view)
            self.size += end
            if self._partial:
                at = min(leaf_bytes - len(self._partial), end)
                self._partial += view[:at]
                if len(self._partial) == leaf_bytes:
                    self._add(leaf_hash(self._partial))
                    self._partial.clear()
            whole = end - (end - at) % leaf_bytes
            for start in range(at, whole, leaf_bytes):
                state = _LEAF.copy()
                state.update(view[start : start + leaf_bytes])
                self._add(state.digest())
            self._partial += view[whole:]
        self._hand_out()

    def finish(self) -> bytes:
        """
        There are no more bytes.

        @return: the root.  C{keep} was given all nodes.
        """
        if self._finished:
            raise ValueError("the tree is finished")
        if self._partial:
            self._add(leaf_hash(self._partial))
            self._partial.clear()
        self._finished = True
        rest = self._leaves % GROUP
        if rest:
            # The last group is kept as others are, though there is less below it.
            group = self._fold(rest.bit_count())
            self._nodes.append(group)
            self._join(group, self._leaves // GROUP, KEPT_LEVEL)
        self._hand_out()
        top = self._fold(len(self._whole)) if self._whole else sha256().digest()
        return Shape(self.size, self.leaf_bytes).root(top)

    def _add(self, leaf: bytes) -> None:
        self._join(leaf, self._leaves, 0)
        self._leaves += 1

    def _join(self, node: bytes, before: int, level: int) -> None:
        """Join a node with the equally high ones before it."""
        whole, nodes = self._whole, self._nodes
        while before & 1:
            node = sha256(_NODE + whole.pop() + node).digest()
            before >>= 1
            level += 1
            if level >= KEPT_LEVEL:
                nodes.append(node)
        whole.append(node)

    def _fold(self, count: int) -> bytes:
        """Join the last subtrees, though they are not equally high."""
        node = self._whole.pop()
        for _ in range(count - 1):
            node = node_hash(self._whole.pop(), node)
        return node

    def _hand_out(self) -> None:
        if self._nodes and self._keep is not None:
            self._keep(b"".join(self._nodes))
        self._nodes.clear()


class Prover:
    """
    Makes branches out of the bytes and the nodes that were kept.

    What was damaged since makes a wrong branch, which whoever checks it will see.  What the
    C{Read}s raise comes through.
    """

    def __init__(self, shape: Shape, kept: Read, data: Read) -> None:
        """
        @param kept: reads what L{TreeBuilder} kept, C{shape.kept_bytes} bytes.
        @param data: reads the bytes themselves.
        """
        self.shape = shape
        self._kept = kept
        self._data = data
        self._groups = -(-shape.leaves // GROUP)

    def branch(self, first: int, count: int) -> list[bytes]:
        """
        The proof for C{count} leaves from C{first} on, for L{check_leaves}.  Reads two groups
        of leaves at most, and a few nodes for each level.

        @raise ValueError: if there are no such leaves.
        """
        # Neighbours below KEPT_LEVEL are mostly of the same group.
        groups: dict[int, list[bytes]] = {}
        return [self._node(*node, groups) for node in self.shape.branch(first, count)]

    def root(self) -> bytes:
        """@return: the root as it follows from what is kept."""
        if not self._groups:
            return self.shape.root(sha256().digest())
        level = max(KEPT_LEVEL, (self.shape.leaves - 1).bit_length())
        return self.shape.root(self._node(level, 0, {}))

    def node(self, level: int, number: int) -> bytes:
        """@return: a node of the tree; those from L{KEPT_LEVEL} on are read, and not computed."""
        return self._node(level, number, {})

    def _node(self, level: int, number: int, groups: dict[int, list[bytes]]) -> bytes:
        if level < KEPT_LEVEL:
            return self._below(level, number, groups)
        height = level - KEPT_LEVEL
        before = number << height
        if before + (1 << height) <= self._groups:
            # Behind all nodes of the groups before it, and those below it.
            position = 2 * before - before.bit_count() + (2 << height) - 2
            return bytes(self._kept(HASH_BYTES * position, HASH_BYTES))
        left = self._node(level - 1, 2 * number, groups)
        if before + (1 << height - 1) >= self._groups:
            return left
        return node_hash(left, self._node(level - 1, 2 * number + 1, groups))

    def _below(self, level: int, number: int, groups: dict[int, list[bytes]]) -> bytes:
        group, within = divmod(number << level, GROUP)
        hashes = groups.get(group)
        if hashes is None:
            first, leaf_bytes = group * GROUP, self.shape.leaf_bytes
            size = self.shape.length(first, min(GROUP, self.shape.leaves - first))
            with memoryview(self._data(first * leaf_bytes, size)) as view:
                hashes = groups[group] = [
                    leaf_hash(view[at : at + leaf_bytes]) for at in range(0, size, leaf_bytes)
                ]
        row = hashes[within : within + (1 << level)]
        while len(row) > 1:
            row = _pair_up(row)
        return row[0]
