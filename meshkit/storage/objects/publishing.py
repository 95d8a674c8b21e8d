"""
Having an object found: what it is, and where its shares are, in the hash table.

The hash table goes on publishing by itself what it was given, also what no other node keeps yet.
Whether others can find it then is found out here when it is given it once more.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from meshkit.errors import MeshkitError
from meshkit.interfaces import IHashTable
from meshkit.storage.manifest import Manifest
from meshkit.storage.objects.locating import IMMUTABLE
from meshkit.storage.placement_record import KIND

#: Seconds after which is tried again what the hash table did not take, at most; and the least,
#: for what was put just now, as a node that was started just now knows nobody.
PUBLISH_RETRY_SECONDS: Final = 300
PUBLISH_SOON_SECONDS: Final = 10
#: The most for what it has taken, and nobody else can find: it goes on by itself.
PUBLISH_LOOK_SECONDS: Final = 3_600

_SECONDS: Final = 10**9


@frozen
class Unpublished:
    """
    Nobody else can find an object yet.

    @ivar why: for the log.
    @ivar longest: seconds until it is tried again, at most.
    """

    why: str
    longest: int

    def wait(self, added_ns: int, now: int) -> int:
        """
        @param added_ns: since when this node has the object, nanoseconds since 1970.
        @param now: seconds of Unix time.
        @return: seconds until it is tried again: as long after the last time as that was after
            it was put.
        """
        age = now - added_ns // _SECONDS
        return min(self.longest, max(PUBLISH_SOON_SECONDS, age))


async def publish(
    table: IHashTable, manifest: Manifest, signed: bytes, until: int | None
) -> Unpublished | None:
    """
    Have others find an object, or hear that it was removed.

    @param signed: where its shares are, signed.
    @param until: milliseconds since 1970 at which that ends, if it does.
    @return: L{None} if others can find both records, or newer ones.  Maybe they are here alone:
        many nodes, such as storage peers, keep none of the kind.
    """
    placement = manifest.header.placement.raw
    try:
        placed = [
            await table.put(IMMUTABLE, manifest.content_id, manifest.raw, until=until),
            await table.put(KIND, placement, signed, until=until),
        ]
    except MeshkitError as e:
        return Unpublished(str(e), PUBLISH_RETRY_SECONDS)
    if all(each.findable for each in placed):
        return None
    return Unpublished("nobody is known who could find or keep it", PUBLISH_LOOK_SECONDS)
