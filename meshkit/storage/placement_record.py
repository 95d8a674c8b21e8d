"""
The kind of records C{meshkit.placement}: where the shares of an object are, for those who are
not told by its owner.  Pure.

The hash table's own kinds do not fit.  Of a mutable item the peer that publishes is the owner,
and here it is the key of the object, which is no peer; an immutable one cannot change.  So this
kind holds the signed document (L{meshkit.storage.placement_document}), and is found by the
key that has to have signed it, which is in the object's header::

    key of the record = SHA-256("meshkit/dht/meshkit.placement/1" | placement key)

Whoever has a document may publish it, such as somebody who repairs; of two the one of the
higher version counts, whoever brings it.  So an old one that is brought again takes nothing
back, and one that says "deleted" is the last.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final

from attrs import frozen
from zope.interface import implementer

from meshkit.errors import (
    EnvelopeError,
    ObjectError,
    RecordForeignOwner,
    RecordInvalid,
)
from meshkit.identity.contexts import PLACEMENT
from meshkit.identity.envelope import Envelope
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IRecordKind
from meshkit.storage.placement_document import MAX_DOCUMENT, PlacementDocument

#: Name of the kind.
KIND: Final = "meshkit.placement"

_KEY: Final = b"meshkit/dht/" + KIND.encode("ascii") + b"/1"


def placement_record_key(placement: PublicKey) -> bytes:
    """@return: where the documents are that this key signs."""
    return sha256(_KEY + placement.raw).digest()


def _version(record: Any) -> int:
    """The version of a document whose record is valid."""
    envelope = Envelope.reopen(record.value, PLACEMENT)
    return PlacementDocument.decode(envelope.payload).version


@implementer(IRecordKind)
@frozen
class PlacementKind:
    """See the module."""

    name: str = KIND
    written: str = "id"
    max_value: int = MAX_DOCUMENT
    max_entries: int = 1
    counts_on_storer: bool = True

    def validate(self, record: Any, now: int) -> None:
        """
        @raise RecordInvalid: it holds no placement document.
        @raise RecordForeignOwner: it is not where the documents of its signer are.
        """
        if record.salt:
            raise RecordInvalid(f"{record.shown} has a salt, which its kind has not")
        try:
            envelope = Envelope.open(record.value, PLACEMENT)
            if not envelope.shortest:
                raise RecordInvalid(f"{record.shown} holds a document that is not in its one form")
            PlacementDocument.decode(envelope.payload)
        except (EnvelopeError, ObjectError) as e:
            raise RecordInvalid(f"{record.shown} holds no placement document: {e}") from None
        if record.key != placement_record_key(envelope.signer):
            raise RecordForeignOwner(f"{record.shown} is where another object's placement is kept")

    def slot(self, record: Any) -> bytes:
        return b""

    def merge(self, held: Any, new: Any) -> Any:
        # The value before the times: two documents of one version must not take turns with
        # each publication.
        return max(
            held,
            new,
            key=lambda each: (
                _version(each),
                sha256(each.value).digest(),
                each.expires,
                each.sequence,
                each.digest,
            ),
        )


PLACEMENT_KIND: Final = PlacementKind()
