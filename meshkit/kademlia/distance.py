"""
The space of ids: 256 bits, in which the distance of two is their exclusive or.

A node's id is the hash of its key, so nobody can choose one freely; but anybody can make
keys until one suits him, so nothing may hang on an id being where chance would put it
(C{docs/protocol/kademlia.md}).  Pure.
"""

from __future__ import annotations

import hashlib
import heapq
import re
from collections.abc import Iterable
from random import Random
from typing import Final, TypeAlias

from meshkit.identity.keys import PublicKey

ID_BYTES: Final = 32
ID_BITS: Final = 8 * ID_BYTES

#: 32 bytes: where a node or a record is.
NodeId: TypeAlias = bytes

#: How a kind of records may be named.
KIND: Final = re.compile(r"[a-z][a-z0-9.-]{0,31}")


def node_id(key: PublicKey) -> NodeId:
    """@return: where a node is."""
    return hashlib.sha256(key.raw).digest()


def record_key(kind: str, name: bytes) -> NodeId:
    """
    Where a record is.  The kind is in it, so that no two kinds share a place; and as it is
    a hash, who keeps the record is not told its name.

    @param kind: its name, such as C{provider}.
    @param name: what it is found by, such as a content id or a public key.
    @raise ValueError: if the kind is not of the form L{KIND}.
    """
    if not KIND.fullmatch(kind):
        raise ValueError(f"{kind!r} cannot be the name of a kind of records")
    return hashlib.sha256(b"meshkit/dht/" + kind.encode("ascii") + b"/1" + name).digest()


def number(place: NodeId) -> int:
    """
    @return: the id as an integer, of which distances are made.
    @raise ValueError: if it is not of 32 bytes.
    """
    if len(place) != ID_BYTES:
        raise ValueError(f"an id has {ID_BYTES} bytes, not {len(place)}")
    return int.from_bytes(place, "big")


def distance(a: NodeId, b: NodeId) -> int:
    """@return: 0 to C{2**256 - 1}; smaller is nearer."""
    return number(a) ^ number(b)


def shared_bits(a: NodeId, b: NodeId) -> int:
    """@return: how many bits two ids have in common before the first that differs: 0 to 256."""
    return ID_BITS - distance(a, b).bit_length()


def bucket_index(own: NodeId, other: NodeId) -> int:
    """
    In which bucket of ours somebody belongs: that of the nodes that have just so many bits
    in common with us.  Bucket 0 is the farther half of the space.

    @return: 0 to 255.
    @raise ValueError: if it is our own id.
    """
    bits = shared_bits(own, other)
    if bits == ID_BITS:
        raise ValueError("a node has no bucket for itself")
    return bits


def random_id(own: NodeId, bits: int, rng: Random) -> NodeId:
    """
    @param bits: 0 to 255.
    @return: a random id in that bucket of ours.
    """
    if not 0 <= bits < ID_BITS:
        raise ValueError(f"there is no bucket {bits}")
    below = ID_BITS - bits - 1
    place = number(own) >> below ^ 1
    return (place << below | rng.getrandbits(below) if below else place).to_bytes(ID_BYTES, "big")


def flipped(place: NodeId, bit: int) -> NodeId:
    """@return: the id that differs in one bit; 0 is the first."""
    if not 0 <= bit < ID_BITS:
        raise ValueError(f"an id has no bit {bit}")
    return (number(place) ^ 1 << (ID_BITS - 1 - bit)).to_bytes(ID_BYTES, "big")


def closest(ids: Iterable[NodeId], target: NodeId, count: int) -> list[NodeId]:
    """@return: at most C{count} of the ids, the nearest first."""
    here = number(target)
    return heapq.nsmallest(count, ids, key=lambda place: number(place) ^ here)
