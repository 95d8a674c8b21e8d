"""
What is asked of a peer that is audited, as methods of L{meshkit.rpc}.  Pure.

::

    who asks                                   the peer
    open(opening, grants)            ------->  looks whether it has the shares, and who asks may
                                     <-------  answer
    reveal(audit, seed)              ------->  reads the leaves of the first page
                                     <-------  page 0
    leaves(audit, 1), (audit, 2) ..  ------->  reads them, in any order, each page once
                                     <-------  the last one has the transcript

    again(opening, answer, seed)     ------->  in place of open and reveal, for an audit that the
                                     <-------  peer has answered before: page 0

What is signed is described in L{meshkit.audit.transcript}.  Into which pages the shares are cut
follows from the sizes in the answer, on both sides (L{pages_of}).  A share that the peer does
not have, or cannot read, has no samples in its page.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from meshkit.audit.challenge import AUDIT_ID_BYTES, MAX_SHARES, SAMPLED, SEED_BYTES
from meshkit.audit.transcript import MAX_GRANT, Said
from meshkit.crypto.samples import MAX_SAMPLE, largest_sample, leaf_count
from meshkit.identity.envelope import MAX_ENVELOPE
from meshkit.rpc.methods import MAX_BODY, Method

__all__ = [
    "AGAIN",
    "LABEL",
    "LEAVES",
    "MAX_PAGE_SHARES",
    "OPEN",
    "PAGE_BYTES",
    "REVEAL",
    "VERSION",
    "AgainRequest",
    "LeavesRequest",
    "OpenRequest",
    "Page",
    "RevealRequest",
    "pages_of",
]

#: The capability with which a peer is audited.
LABEL: Final = "audit"
VERSION: Final = 1

#: Bytes of the samples in a page, at most, and shares in it.
PAGE_BYTES: Final = 768 * 1024
MAX_PAGE_SHARES: Final = 256

_Envelope = Annotated[bytes, Meta(max_length=MAX_ENVELOPE)]
_Grant = Annotated[bytes, Meta(max_length=MAX_GRANT)]
_Id = Annotated[bytes, Meta(min_length=AUDIT_ID_BYTES, max_length=AUDIT_ID_BYTES)]
_Seed = Annotated[bytes, Meta(min_length=SEED_BYTES, max_length=SEED_BYTES)]
_Sample = Annotated[bytes, Meta(max_length=MAX_SAMPLE)]
_Samples = Annotated[list[_Sample], Meta(max_length=SAMPLED)]


class OpenRequest(msgspec.Struct, array_like=True, frozen=True):
    """
    Begin an audit.

    @ivar opening: see L{meshkit.audit.transcript.Opening}.
    @ivar grants: for objects of whose shares who asks has no lease, see
        L{meshkit.audit.transcript.Grant}.
    """

    opening: _Envelope
    grants: Annotated[list[_Grant], Meta(max_length=MAX_SHARES)] = []


class RevealRequest(msgspec.Struct, array_like=True, frozen=True):
    """
    Say what was committed to.

    @ivar audit: its id.
    @ivar seed: that of its opening.
    """

    audit: _Id
    seed: _Seed


class AgainRequest(msgspec.Struct, array_like=True, frozen=True):
    """
    Ask once more what was not answered to its end.

    @ivar opening: as it was sent.
    @ivar answer: as it came.
    @ivar seed: that of the opening.
    """

    opening: _Envelope
    answer: _Envelope
    seed: _Seed


class LeavesRequest(msgspec.Struct, array_like=True, frozen=True):
    """
    Ask for another page.

    @ivar audit: its id.
    @ivar page: number of the page, from 1 on.
    """

    audit: _Id
    page: Annotated[int, Meta(ge=0, lt=MAX_SHARES)]


class Page(msgspec.Struct, array_like=True, frozen=True):
    """
    Samples.

    @ivar shares: for each share of the page its samples, see L{meshkit.crypto.samples}.
    @ivar transcript: if this was the last page that was not given yet.
    """

    shares: Annotated[list[_Samples], Meta(max_length=MAX_PAGE_SHARES)]
    transcript: _Envelope | None = None


#: Sizes of shares of which is remembered how much of a page they take; many have the same one.
_SIZES: Final = 256

_LARGEST_OPEN: Final = MAX_ENVELOPE + MAX_SHARES * (MAX_GRANT + 3) + 16
_LARGEST_AGAIN: Final = 2 * MAX_ENVELOPE + SEED_BYTES + 32

OPEN: Final = Method(
    "open",
    OpenRequest,
    _Envelope,
    max_request=_LARGEST_OPEN,
    max_answer=MAX_ENVELOPE + 8,
    doc="Say what it has of some shares, and random bytes.",
)
REVEAL: Final = Method(
    "reveal",
    RevealRequest,
    Page,
    cost=0.0,
    max_answer=MAX_BODY,
    doc="Show the leaves that follow from the seed: the first page of them.",
)
AGAIN: Final = Method(
    "again",
    AgainRequest,
    Page,
    max_request=_LARGEST_AGAIN,
    max_answer=MAX_BODY,
    doc="Show the leaves of an audit that was answered before: the first page of them.",
)
LEAVES: Final = Method(
    "leaves",
    LeavesRequest,
    Page,
    cost=0.0,
    max_answer=MAX_BODY,
    doc="Show more leaves of an audit.",
)


def pages_of(said: Sequence[Said | None]) -> list[range]:
    """
    @param said: what the peer says of each share.
    @return: which shares are in which page.
    """
    pages: list[range] = []
    first = filled = 0
    for at, each in enumerate(said):
        size = 0 if each is None else _page_bytes(each.size)
        if at > first and (filled + size > PAGE_BYTES or at - first == MAX_PAGE_SHARES):
            pages.append(range(first, at))
            first, filled = at, 0
        filled += size
    pages.append(range(first, len(said)))
    return pages


@lru_cache(maxsize=_SIZES)
def _page_bytes(size: int) -> int:
    """Bytes that the samples of a share have at most."""
    return min(SAMPLED, leaf_count(size)) * (largest_sample(size) + 3)
