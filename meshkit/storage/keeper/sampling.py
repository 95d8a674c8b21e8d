"""
What is kept, as audits look at it: see L{meshkit.interfaces.IShareSampler}.

Leaves of many shares are read by one call of a thread.  Where the store can read scattered
pieces of a shard (L{meshkit.interfaces.IScatteredReads}), its file is opened once for all of
them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from meshkit.crypto.samples import Samples, Taking
from meshkit.errors import MeshkitError, ShareDamaged, ShareUnknown
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import IScatteredReads, IShareSampler
from meshkit.storage.keeper.admission import Reception
from meshkit.storage.keeper.disk import Disk
from meshkit.storage.keeper.index import Entry, Index
from meshkit.storage.keeper.kept import KeptShares
from meshkit.storage.keeper.locks import Turns
from meshkit.storage.keeper.reading import find, readable
from meshkit.storage.keeper.works import Works
from meshkit.storage.terms import ShareStat

__all__ = ["MAX_PLACEMENTS", "KeptSampler"]

#: Shares of which it is remembered who says where they are.
MAX_PLACEMENTS: Final = 4_096

_Wanted = tuple[bytes, int, Sequence[int]]


@frozen
class _Placement:
    """
    @ivar entry: of the share, when this was read.
    @ivar key: who says where its shares are, and the id of the object.
    """

    entry: Entry
    key: tuple[PublicKey, bytes]


@implementer(IShareSampler)
class KeptSampler:
    """See the module."""

    def __init__(
        self,
        disk: Disk,
        index: Index,
        turns: Turns,
        works: Works,
        reception: Reception,
        kept: KeptShares,
        now: Callable[[], int],
    ) -> None:
        """
        @param turns: at shares, by their names.
        @param kept: is told of shares that cannot be read.
        @param now: seconds of Unix time.
        """
        self._disk = disk
        self._store = disk.store
        self._index = index
        self._turns = turns
        self._works = works
        self._reception = reception
        self._kept = kept
        self._now = now
        self._placements: OrderedDict[bytes, _Placement] = OrderedDict()

    def kept(self, names: Sequence[bytes]) -> Deferred[list[ShareStat | None]]:
        try:
            self._reception.check_open()
        except MeshkitError as e:
            return fail(e)
        now = self._now()
        found: list[ShareStat | None] = []
        for name in names:
            entry = self._index.find(name)
            if entry is None:
                found.append(None)
            else:
                note = entry.note
                found.append(ShareStat(note.size, note.root, note.lease_end(now)))
        return succeed(found)

    def may_audit(self, account: bytes, name: bytes) -> bool:
        entry = self._index.find(name)
        return entry is not None and any(each.account == account for each in entry.note.leases)

    def placements_of(
        self, names: Sequence[bytes]
    ) -> Deferred[list[tuple[PublicKey, bytes] | None]]:
        return self._works.finish(self._placements_of(names))

    async def _placements_of(self, names: Sequence[bytes]) -> list[tuple[PublicKey, bytes] | None]:
        self._reception.check_open()
        entries = {name: entry for name in names if (entry := self._index.find(name))}
        new = [
            (name, entry)
            for name, entry in entries.items()
            if (known := self._placements.get(name)) is None or known.entry is not entry
        ]
        if new:
            taken = await self._take_turns([name for name, _ in new])
            try:
                read = await self._disk.run(_read_placements, self._store, new)
            finally:
                self._give_back(taken)
            for (name, entry), key in zip(new, read, strict=True):
                if key is not None:
                    self._placements[name] = _Placement(entry, key)
        found: list[tuple[PublicKey, bytes] | None] = []
        for name in names:
            known = self._placements.get(name)
            if known is None or known.entry is not entries.get(name):
                found.append(None)
            else:
                self._placements.move_to_end(name)
                found.append(known.key)
        while len(self._placements) > MAX_PLACEMENTS:
            self._placements.popitem(last=False)
        return found

    def leaves(
        self, wanted: Sequence[tuple[bytes, Sequence[int]]]
    ) -> Deferred[list[Samples | MeshkitError]]:
        return self._works.finish(self._leaves(wanted))

    async def _leaves(
        self, wanted: Sequence[tuple[bytes, Sequence[int]]]
    ) -> list[Samples | MeshkitError]:
        self._reception.check_open()
        taken = await self._take_turns([name for name, _ in wanted])
        try:
            there: list[_Wanted | ShareUnknown | ShareDamaged] = []
            for name, numbers in wanted:
                try:
                    there.append((name, self._index.get(name).note.size, numbers))
                except (ShareUnknown, ShareDamaged) as e:
                    there.append(e)
            found = await self._disk.run(_read_samples, self._store, there)
        finally:
            self._give_back(taken)
        for (name, _), before, after in zip(wanted, there, found, strict=True):
            if not isinstance(before, MeshkitError) and isinstance(after, MeshkitError):
                self._kept.suspect(name, after)
        return found

    async def _take_turns(self, names: Sequence[bytes]) -> list[bytes]:
        """
        Take turns at all shares, together with others who read them.  In one order for all who
        want several, so that no two wait for each other.  This is taken to its end, whoever goes
        away.
        """
        taken = sorted(set(names))
        for name in taken:
            await self._turns.take(name, shared=True)
        return taken

    def _give_back(self, taken: Sequence[bytes]) -> None:
        for name in taken:
            self._turns.give_back(name)


def _read_samples(
    store: Any, wanted: Sequence[_Wanted | ShareUnknown | ShareDamaged]
) -> list[Samples | MeshkitError]:
    """In a thread."""
    scattered = IScatteredReads.providedBy(store)
    found: list[Samples | MeshkitError] = []
    for each in wanted:
        if isinstance(each, MeshkitError):
            found.append(each)
            continue
        name, size, numbers = each
        try:
            taking = Taking(size, numbers)
            with readable(name):
                if scattered:
                    chunks = store.read_scattered(name, taking.ranges)
                else:
                    chunks = [store.read(name, *place) for place in taking.ranges]
            found.append(taking.take(chunks))
        except (ShareUnknown, ShareDamaged) as e:
            found.append(e)
        except ValueError as e:
            found.append(ShareUnknown(f"the share is another one now: {e}"))
    return found


def _read_placements(
    store: Any, wanted: Sequence[tuple[bytes, Entry]]
) -> list[tuple[PublicKey, bytes] | None]:
    """In a thread."""
    found: list[tuple[PublicKey, bytes] | None] = []
    for name, entry in wanted:
        try:
            with readable(name):
                manifest = find(store, name, entry.file_bytes).manifest
        except (ShareUnknown, ShareDamaged):
            found.append(None)
            continue
        # The end of the file may have been changed; what was noted was not, at the same time.
        same = manifest.content_id == entry.note.content
        found.append((manifest.header.placement, manifest.content_id) if same else None)
    return found
