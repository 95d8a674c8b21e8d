"""
What an object is and where its shares are: of one's own out of the ledger, of somebody else's
out of the hash table.

From the id alone everything follows, each step checked by the one before: the manifest, whose
hash the id is; the key that signs the placement, which is in it; the placement, signed by that
key and about that object.  Whoever answers can hide something, and change nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

from attrs import field, frozen
from twisted.internet.defer import Deferred

from meshkit.errors import InvalidRequest, NotFound, ObjectError, ObjectKeyWrong, ObjectRemoved
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IHashTable
from meshkit.runtime.database import Database
from meshkit.storage.capability import (
    RepairCapability,
    VerifyCapability,
    parse_capability,
)
from meshkit.storage.manifest import ID_BYTES, Manifest
from meshkit.storage.objects import ledger, watching
from meshkit.storage.objects.ledger import MIN_PREFIX, Entry
from meshkit.storage.objects.reconciling import newest_of
from meshkit.storage.objects.watching import Watched
from meshkit.storage.placement_document import PlacementDocument
from meshkit.storage.placement_record import KIND

#: Kind of records in which manifests are.
IMMUTABLE: Final = "immutable"
#: Characters of what somebody calls an object that an error shows.
_SHOWN: Final = 80

T = TypeVar("T")

_DIGITS: Final = frozenset("0123456789abcdef")


@frozen
class Called:
    """
    What somebody calls an object.

    @ivar content_id: its id.
    @ivar key: what opens it, if that was given.
    @ivar placement: whose signature says where it is, if that was given.
    """

    content_id: bytes
    key: bytes | None = field(default=None, repr=False)
    placement: PublicKey | None = None


@frozen
class Located:
    """
    An object.

    @ivar manifest: what it is.
    @ivar document: where its shares are.
    @ivar key: what opens it, if that is known.
    @ivar entry: what the ledger says, if it is this node's.
    """

    manifest: Manifest
    document: PlacementDocument
    key: bytes | None = field(repr=False)
    entry: Entry | None

    def readable(self) -> bytes:
        """
        @return: what opens it.
        @raise ObjectRemoved: if it was given up.
        @raise InvalidRequest: if nobody has said what opens it.
        @raise ObjectKeyWrong: if the key that was given does not.
        """
        if self.document.status == "deleted":
            raise ObjectRemoved(
                f"the object {self.manifest.content_id.hex()[:16]}... was given up by its owner"
            )
        if self.key is None:
            raise InvalidRequest(
                "what was given does not read the object: give its read capability, mkread1-...",
                field="object",
            )
        if not self.manifest.header.fits(self.key):
            raise ObjectKeyWrong("the key in the read capability is not that of the object")
        return self.key


class Locator:
    """See the module."""

    def __init__(self, database: Database, table: IHashTable | None) -> None:
        """@param table: where objects of others are looked up, if anywhere."""
        self._database = database
        self._table = table

    async def call(self, text: str) -> Called:
        """
        @param text: an id, the beginning of one of this node's, or a capability.
        @raise InvalidRequest: if it is none of them.
        @raise CapabilityInvalid: if it is a capability that is misspelt.
        @raise NotFound: if this node has no object whose id begins like that.
        @raise ObjectAmbiguous: if it has several.
        """
        text = text.strip()
        if text.lower().startswith("mk"):
            capability = parse_capability(text)
            if isinstance(capability, RepairCapability):
                capability = capability.verify
            if isinstance(capability, VerifyCapability):
                return Called(capability.content_id, placement=capability.placement)
            return Called(capability.content_id, capability.key)
        digits = text.lower()
        if not MIN_PREFIX <= len(digits) <= 2 * ID_BYTES or not _DIGITS.issuperset(digits):
            raise InvalidRequest(
                f"{text[:_SHOWN]!r} calls no object: give its id, at least {MIN_PREFIX} hex digits "
                f"of it, or a capability",
                field="object",
            )
        if len(digits) == 2 * ID_BYTES:
            return Called(bytes.fromhex(digits))
        return Called(await self._database.read(partial(ledger.resolve, prefix=digits)))

    async def own(self, content_id: bytes) -> Entry:
        """
        @raise NotFound: if this node has no such object.
        """
        entry = await self._database.read(partial(ledger.find, content_id=content_id))
        if entry is None:
            raise NotFound(
                f"this node has no object {content_id.hex()[:16]}...: see 'meshkit object ls'"
            )
        return entry

    async def locate(self, called: Called) -> Located:
        """
        @raise NotFound: if nobody knows it.
        @raise ObjectMismatch: if what is known of it does not fit together.
        """
        entry = await self._database.read(partial(ledger.find, content_id=called.content_id))
        if entry is not None:
            return Located(entry.manifest, entry.document, called.key or entry.key, entry)
        watched = await self._database.read(partial(watching.find, content_id=called.content_id))
        table = self._table
        if table is None:
            raise NotFound(
                f"the object {called.content_id.hex()[:16]}... is none of this node's, and no part "
                f"of it looks up those of others: enable the part 'dht'"
            )
        if watched is None:
            manifest = await self._manifest(table, called.content_id)
        else:
            manifest = watched.manifest
        if called.placement is not None and called.placement != manifest.header.placement:
            raise InvalidRequest(
                "the capability names another key than the object has: it was not made by the "
                "owner of the object",
                field="object",
            )
        if watched is None:
            document = await self._document(table, manifest)
        else:
            document = await self._newer(table, watched)
        return Located(manifest, document, called.key, None)

    async def _newer(self, table: IHashTable, watched: Watched) -> PlacementDocument:
        """@return: where the shares of an object are that this node looks after."""
        try:
            found = await self._document(table, watched.manifest)
        except (NotFound, ObjectError):
            return watched.document
        return newest_of([watched.document, found]) or found

    async def _manifest(self, table: IHashTable, content_id: bytes) -> Manifest:
        found = await _first(
            table.get(IMMUTABLE, content_id), lambda value: _manifest(value, content_id)
        )
        if found is None:
            raise NotFound(
                f"nobody in the hash table knows the object {content_id.hex()[:16]}...: is the id "
                f"right, and has its owner's node been in the network in the last two days?"
            )
        return found

    async def _document(self, table: IHashTable, manifest: Manifest) -> PlacementDocument:
        placement = manifest.header.placement
        found = await _first(
            table.get(KIND, placement.raw), lambda value: _document(value, manifest)
        )
        if found is None:
            raise NotFound(
                f"nobody in the hash table knows where the shares of the object "
                f"{manifest.content_id.hex()[:16]}... are: try again when its owner's node is in "
                f"the network"
            )
        return found


def _manifest(value: bytes, content_id: bytes) -> Manifest:
    manifest = Manifest.decode(value)
    manifest.check(content_id)
    return manifest


def _document(value: bytes, manifest: Manifest) -> PlacementDocument:
    document = PlacementDocument.open(value, manifest.header.placement)
    document.check(manifest)
    return document


async def _first(getting: Deferred[Any], read: Callable[[bytes], T]) -> T | None:
    """
    @return: what is read of the first record that can be; L{None} if there is none.
    @raise ObjectError: why none can.
    """
    problem: ObjectError | None = None
    for record in await getting:
        try:
            return read(record.value)
        except ObjectError as e:
            problem = e
    if problem is not None:
        raise problem
    return None
