"""
What hypothesis may draw to test a protocol of a mesh.

Needs hypothesis, which meshkit itself does not: C{pip install "meshkit[test]"}::

    @given(chains(max_size=5), st.data())
    def test_any_pieces(self, chain, data):
        stream = b"".join(message.raw + b"\\n" for message in chain)
        for piece in data.draw(chunkings(stream)):
            protocol.dataReceived(piece)

Each strategy says what the simplest thing is that it shrinks to.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from itertools import cycle, pairwise
from typing import Any, Final, Protocol, TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from meshkit.feed.message import Message
from meshkit.identity.addresses import MeshAddress
from meshkit.identity.keys import KEY_BYTES, SEED_BYTES, Identity, PublicKey
from meshkit.identity.network import SECRET_BYTES, NetworkSecret
from meshkit.testing.identities import Author
from meshkit.testing.transports import Chunker

__all__ = [
    "addresses",
    "chains",
    "chunkers",
    "chunkings",
    "contents",
    "identities",
    "key_bytes",
    "network_secrets",
    "portable_floats",
    "public_keys",
]

_S_co = TypeVar("_S_co", covariant=True)


class _Sliceable(Protocol[_S_co]):
    """C{bytes}, C{str}, a list."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice, /) -> _S_co: ...


# --- who ---------------------------------------------------------------------------


def identities() -> SearchStrategy[Identity]:
    """Key pairs.  The simplest has a seed of zeros."""
    return st.binary(min_size=SEED_BYTES, max_size=SEED_BYTES).map(Identity)


def key_bytes() -> SearchStrategy[bytes]:
    """
    32 bytes that stand where a public key is expected.  Nobody need have the secret, and
    they need not be a point of the curve: a peer can write any.
    """
    return st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES)


def public_keys() -> SearchStrategy[PublicKey]:
    """L{key_bytes}, as L{PublicKey}.  For keys that somebody owns use L{identities}."""
    return key_bytes().map(PublicKey)


def network_secrets() -> SearchStrategy[NetworkSecret]:
    """Secrets of networks; none is from a passphrase."""
    return st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES).map(NetworkSecret)


# --- where -------------------------------------------------------------------------

_NAME_CHARACTERS: Final = string.ascii_lowercase + string.digits + "_"


def _names() -> SearchStrategy[str]:
    inner = st.text(_NAME_CHARACTERS + "-", max_size=20)
    label = st.builds("{}{}{}".format, st.sampled_from("az"), inner, st.sampled_from("a9"))
    return st.lists(label, min_size=1, max_size=4).map(".".join)


def addresses() -> SearchStrategy[MeshAddress]:
    """
    Addresses that can be written and read: names, IPv4 and IPv6.  What is drawn is in its
    one spelling, so C{MeshAddress.parse(address.text) == address}.
    """
    hosts = _names() | st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str)
    return st.builds(MeshAddress, hosts, st.integers(1, 65535), public_keys())


# --- what --------------------------------------------------------------------------


def portable_floats() -> SearchStrategy[float]:
    """Floats that a feed can carry: of less than 1e16, and no infinity or NaN."""
    return st.floats(min_value=-9e15, max_value=9e15)


#: What has broken writers and readers of JSON, and is drawn too seldom otherwise.
_AWKWARD: Final = (
    *("", '"\\/', "\x00\x1f\x7f", "\u2028", "\U0001f600"),
    *(-(2**63), 2**53 + 1, 2**64 - 1, 0.0, -0.0, 1e-7),
)


def contents(max_leaves: int = 20) -> SearchStrategy[Any]:
    """
    JSON values that can be published as the content of a message.  The simplest is
    L{None}.

    @param max_leaves: strings, numbers and the like, in all.
    """
    leaves = (
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | portable_floats()
        | st.text(max_size=20)
        | st.sampled_from(_AWKWARD)
    )
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4)
        ),
        max_leaves=max_leaves,
    )


@st.composite
def chains(
    draw: DrawFn,
    *,
    min_size: int = 0,
    max_size: int = 10,
    author: Identity | None = None,
    content: SearchStrategy[Any] | None = None,
) -> list[Message]:
    """
    The whole feed of one author, from sequence 1 on, signed and linked.  The simplest is
    the shortest.

    @param author: who writes; the same author each time, if not given, because making
        keys is slow and says little.
    @param content: of each message; short notes, if not given.
    """
    writer = Author("chains")
    if author is not None:
        writer.identity = author
    for _ in range(draw(st.integers(min_size, max_size))):
        if content is None:
            writer.write()
        else:
            writer.write(draw(content))
    return writer.messages


# --- how it arrives ----------------------------------------------------------------


def chunkings(
    whole: _Sliceable[_S_co], *, max_cuts: int = 9, empty: bool = False
) -> SearchStrategy[list[_S_co]]:
    """
    Ways to cut a stream of bytes, or a list, into pieces that follow one another.  The
    simplest is one piece.

    @param max_cuts: pieces, less one.
    @param empty: some pieces may be empty.  A transport never delivers such a piece, but
        a batch of messages may well be one.
    """
    length = len(whole)
    if empty:
        cuts = st.lists(st.integers(0, length), max_size=max_cuts)
    elif length < 2:
        cuts = st.just([])
    else:
        cuts = st.lists(st.integers(1, length - 1), max_size=max_cuts, unique=True)

    def cut(at: Iterable[int]) -> list[_S_co]:
        if not length and not empty:
            return []
        return [whole[start:end] for start, end in pairwise([0, *sorted(at), length])]

    return cuts.map(cut)


def chunkers(max_size: int = 5000) -> SearchStrategy[Chunker]:
    """
    How a L{MemoryWire} cuts its streams: a few sizes, over and over.  The simplest is
    byte by byte.

    @param max_size: of a piece, in bytes.
    """
    sizes = st.lists(st.integers(1, max_size), min_size=1, max_size=8)
    return sizes.map(_Chunks)


class _Chunks:
    """A L{Chunker} that can be seen in hypothesis' report."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = sizes
        self._next = cycle(sizes)

    def __call__(self, waiting: int) -> int:
        return next(self._next)

    def __repr__(self) -> str:
        return f"<pieces of {', '.join(map(str, self._sizes))} bytes, and again>"
