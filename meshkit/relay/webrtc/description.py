"""How many addresses are in an offer or an answer: a description of a session (RFC 8866).  Pure."""

from __future__ import annotations

from typing import Final

#: Addresses that a description may have the other side send to.
MAX_CANDIDATES: Final = 16

_CANDIDATE: Final = "a=candidate:"
#: Of one at which a server has seen its maker.
_SEEN: Final = " typ srflx"


def count_candidates(description: str) -> int:
    """@return: how many addresses it names."""
    return description.count(_CANDIDATE)


def leave_out(description: str, most: int = MAX_CANDIDATES) -> str:
    """
    A machine with many interfaces has more addresses than a peer would take.  What a server has
    seen comes first, up to a half, as that is what leads through routers; then its own, in their
    order; and then the rest of the former.

    @param most: candidates to keep.
    @return: the description without the others.
    """
    lines = description.splitlines(keepends=True)
    candidates = [n for n, line in enumerate(lines) if line.startswith(_CANDIDATE)]
    seen = [n for n in candidates if _SEEN in lines[n]]
    own = [n for n in candidates if _SEEN not in lines[n]]
    half = most // 2
    kept = {*(seen[:half] + own + seen[half:])[:most]}
    dropped = set(candidates) - kept
    return "".join(line for n, line in enumerate(lines) if n not in dropped)
