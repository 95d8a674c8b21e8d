"""
What becomes of two documents that say where the shares of one object are, each changed by
somebody who did not know of the other.  Pure.

An owner and those who repair for him change the document without asking each other, and the
hash table shows each the newest.  The changes of both are kept as far as that can be.
What was moved here, and others may not know, stays where it was moved to, unless it was moved
there as well, and there is newer; all else is where the other says.

So nothing is lost, whoever wins: whoever has moved a share has a lease on it where it is now,
and gives up the one where it was only when he has read that it is elsewhere.

When two change it at once, both write the same version, and the hash table has one of them.
Only he whose document it has not can see that; he makes one of both that is newer than either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from attrs import evolve, frozen

from meshkit.identity.keys import PublicKey
from meshkit.storage.placement_document import Placed, PlacementDocument

__all__ = ["Reconciled", "newest_of", "reconcile"]

#: C{keep} what is here, C{adopt} what was found as it is, C{merge} both into a new version.
What = Literal["keep", "adopt", "merge"]

_STATUS_RANK: Final = {"live": 0, "deleted": 1}


@frozen
class Reconciled:
    """
    What to do with a document that was found.

    @ivar what: see L{What}.
    @ivar document: the one that counts from now on; of C{merge} it has to be signed.
    """

    what: What
    document: PlacementDocument


def newest_of(documents: Sequence[PlacementDocument]) -> PlacementDocument | None:
    """
    @param documents: of one object.
    @return: the one that counts: one that says "deleted", as that is final, else that of the
        highest version, and of several the same one everywhere.
    """
    return max(
        documents,
        key=lambda each: (_STATUS_RANK[each.status], each.version, each.payload),
        default=None,
    )


def _peer(placed: Placed | None) -> PublicKey | None:
    return None if placed is None else placed.peer


def _choose(
    base: Placed | None, own: Placed | None, found: Placed | None, newer: bool
) -> Placed | None:
    """@param newer: what was found is newer than what is here."""
    if own is None or found is None or own.peer != found.peer:
        moved_here = _peer(own) != _peer(base)
        moved_there = _peer(found) != _peer(base)
        return own if moved_here and not (moved_there and newer) else found
    return own if own.lease_end > found.lease_end else found


def reconcile(
    base: PlacementDocument | None, own: PlacementDocument, found: PlacementDocument
) -> Reconciled:
    """
    @param base: where the shares were before some were moved here of which others may not
        know; L{None} if there are none.
    @param own: what is written down here, live.
    @param found: what the hash table has, of the same object and live.
    """
    if found.version < own.version or found == own:
        return Reconciled("keep", own)
    newer = found.version > own.version
    before = own if base is None else base
    shares = tuple(
        _choose(*each, newer) for each in zip(before.shares, own.shares, found.shares, strict=True)
    )
    if newer and [_peer(each) for each in shares] == [_peer(each) for each in found.shares]:
        return Reconciled("adopt", found)
    return Reconciled("merge", evolve(found, version=found.version + 1, shares=shares))
