"""
Audits that a peer knew and has not answered.

When a peer has said its random bytes, it will learn what is asked, and may find that it does
not have it.  So what is about to be asked is written down first (L{Containments.put}), then
the seed is revealed, and what came of it takes the note away.  A note that stays is asked about
again before anything else is, and counts as a failure in the end.

::

    note = ["audit-contained/1", peer: bin 32, audit: bin 16, opening: bin, answer: bin,
            seed: bin 32, since: uint, tries: uint, tried: uint,
            [[content: bin 32, number: uint, root: bin 32, size: uint, lease_end: uint], ...]]

C{since} and C{tried} are in milliseconds of Unix time, C{lease_end} in seconds.  The shares are
those of the opening, in its order, as their manifests describe them: who comes back to it may not
have the manifests any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Protocol

from attrs import field, frozen
from msgspec import Meta, Struct
from twisted.internet.defer import Deferred, succeed

from meshkit.audit.challenge import AUDIT_ID_BYTES, MAX_SHARES
from meshkit.identity.envelope import MAX_ENVELOPE
from meshkit.identity.keys import PublicKey
from meshkit.storage.canonical import Description, Form
from meshkit.storage.header import Bytes32
from meshkit.storage.statements import MAX_NUMBER

__all__ = [
    "MAX_CONTAINED",
    "MAX_CONTAINED_EACH",
    "MAX_SHARES",
    "Contained",
    "ContainedShare",
    "Containments",
    "MemoryContainments",
]

#: Bytes of a note.
MAX_CONTAINED: Final = 256 * 1024
#: Notes on one peer: as many as there are audits of it at once.
MAX_CONTAINED_EACH: Final = 4

_Number = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]
_Statement = Annotated[bytes, Meta(max_length=MAX_ENVELOPE)]


class _Share(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    content: Bytes32
    number: Annotated[int, Meta(ge=0, le=254)]
    root: Bytes32
    size: _Number
    lease_end: _Number


class _Contained(Description, frozen=True):
    peer: Bytes32
    audit: Annotated[bytes, Meta(min_length=AUDIT_ID_BYTES, max_length=AUDIT_ID_BYTES)]
    opening: _Statement
    answer: _Statement
    seed: Bytes32
    since: _Number
    tries: _Number
    tried: _Number
    shares: Annotated[list[_Share], Meta(min_length=1, max_length=MAX_SHARES)]


_form: Final = Form("audit-contained/1", _Contained, MAX_CONTAINED)


@frozen
class ContainedShare:
    """
    A share that is asked about, as the manifest of its object describes it.

    @ivar content_id: of the object.
    @ivar number: of the share.
    @ivar root: of the share.
    @ivar size: bytes of the share.
    @ivar lease_end: until when the peer has promised to keep it, in seconds of Unix time; 0 if
        that is not known.
    """

    content_id: bytes = field(repr=lambda content_id: content_id.hex()[:16])
    number: int
    root: bytes = field(repr=lambda root: root.hex()[:16])
    size: int
    lease_end: int = 0


@frozen
class Contained:
    """
    What a peer was asked, or was about to be.

    @ivar peer: who.
    @ivar audit_id: of the audit.
    @ivar opening: what it was asked, signed by who asks.
    @ivar answer: what it said to that, signed by it.
    @ivar seed: what was kept from it until now.
    @ivar since: when this was, in milliseconds of Unix time.
    @ivar shares: in the order of the opening.
    @ivar tries: how often it has not answered.
    @ivar tried: when it was asked last, in milliseconds of Unix time; 0 if that is not known.
    """

    peer: PublicKey
    audit_id: bytes = field(repr=lambda audit_id: audit_id.hex())
    opening: bytes = field(repr=False)
    answer: bytes = field(repr=False)
    seed: bytes = field(repr=False)
    since: int
    shares: tuple[ContainedShare, ...] = field(repr=False)
    tries: int = 0
    tried: int = 0

    @classmethod
    def decode(cls, raw: bytes) -> Contained:
        """@raise ObjectMalformed: if these bytes are no note."""
        wire = _form.decode(raw)
        shares = tuple(
            ContainedShare(each.content, each.number, each.root, each.size, each.lease_end)
            for each in wire.shares
        )
        return cls(
            PublicKey(wire.peer),
            wire.audit,
            wire.opening,
            wire.answer,
            wire.seed,
            wire.since,
            shares,
            wire.tries,
            wire.tried,
        )

    def encode(self) -> bytes:
        """@return: the note, at most L{MAX_CONTAINED} bytes."""
        shares = [
            _Share(each.content_id, each.number, each.root, each.size, each.lease_end)
            for each in self.shares
        ]
        wire = _Contained(
            _form.kind,
            self.peer.raw,
            self.audit_id,
            self.opening,
            self.answer,
            self.seed,
            self.since,
            self.tries,
            self.tried,
            shares,
        )
        return _form.encode(wire)


class Containments(Protocol):
    """
    Who keeps the notes.  One for a peer and an audit; at most L{MAX_CONTAINED_EACH} for a peer,
    to which who audits sees.
    """

    def put(self, contained: Contained) -> Deferred[None]:
        """
        Keep a note, in place of the one on the same audit of the same peer, if there is one.

        @return: Deferred that fires when it is durable.  Fails with what the database says.
        """

    def of(self, peer: PublicKey) -> Deferred[Sequence[Contained]]:
        """@return: Deferred of the notes on a peer, the oldest first (by C{since})."""

    def remove(self, peer: PublicKey, audit_id: bytes) -> Deferred[None]:
        """@return: Deferred that fires when it is gone, also if there was none."""


class MemoryContainments:
    """L{Containments} that are as lasting as the process."""

    def __init__(self) -> None:
        self._notes: dict[tuple[PublicKey, bytes], Contained] = {}

    def __len__(self) -> int:
        return len(self._notes)

    def put(self, contained: Contained) -> Deferred[None]:
        """See L{Containments.put}."""
        self._notes[contained.peer, contained.audit_id] = contained
        return succeed(None)

    def of(self, peer: PublicKey) -> Deferred[Sequence[Contained]]:
        """See L{Containments.of}."""
        found = [each for each in self._notes.values() if each.peer == peer]
        return succeed(sorted(found, key=lambda each: each.since))

    def remove(self, peer: PublicKey, audit_id: bytes) -> Deferred[None]:
        """See L{Containments.remove}."""
        self._notes.pop((peer, audit_id), None)
        return succeed(None)
