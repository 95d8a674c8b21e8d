"""
What is done with shares that are kept: they are read, their leases change, they are found
damaged, they go.

A share is changed by one at a time, and read by several (L{Turns}); C{It is our turn} in the
documentation of a method says that the caller sees to that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, TypeVar

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from meshkit.errors import MeshkitError, ObjectMalformed, ShareDamaged, ShareUnknown, StorageBusy
from meshkit.identity.keys import Identity, PublicKey
from meshkit.storage.encoding import Piece
from meshkit.storage.erasure import measure
from meshkit.storage.header import without_names
from meshkit.storage.keeper.admission import Reception
from meshkit.storage.keeper.disk import Disk
from meshkit.storage.keeper.index import Entry, Index
from meshkit.storage.keeper.leases import ShardNote
from meshkit.storage.keeper.locks import Turns
from meshkit.storage.keeper.reading import Check, Kept, find, readable
from meshkit.storage.keeper.works import Works
from meshkit.storage.statements import Receipt
from meshkit.storage.terms import ShareStat, lease_hash

__all__ = ["MAX_MANIFESTS", "MAX_WAITING_FOR_SHARE", "KeptShares"]

T = TypeVar("T")

#: Calls for one share that wait while it is changed.
MAX_WAITING_FOR_SHARE: Final = 64
#: Manifests that are remembered after they were read.
MAX_MANIFESTS: Final = 256


class KeptShares:
    """
    See the module.

    @ivar damaged: how many were found damaged.
    @ivar collected: how many were taken away as nobody had a lease on them.
    @ivar read_bytes: of blocks that were given.
    @ivar receipts: that were signed.
    """

    _log = Logger()

    def __init__(
        self,
        disk: Disk,
        index: Index,
        turns: Turns,
        works: Works,
        reception: Reception,
        identity: Identity,
        now: Callable[[], int],
        emptied: Callable[[], object],
    ) -> None:
        """
        @param turns: at shares, by their names.
        @param now: seconds of Unix time.
        @param emptied: is called when no share is there any more.
        """
        self.damaged = 0
        self.collected = 0
        self.read_bytes = 0
        self.receipts = 0
        self._disk = disk
        self._store = disk.store
        self._index = index
        self._turns = turns
        self._works = works
        self._reception = reception
        self._identity = identity
        self._now = now
        self._emptied = emptied
        self._manifests: OrderedDict[bytes, Kept] = OrderedDict()
        # What the scrubber is reading.
        self._checked: Entry | None = None

    # --- at the start

    async def open(self) -> None:
        """
        Read what is there.

        @raise OSError: if the store cannot be opened.
        """
        entries, lost, aside = await self._disk.call(self._open_store)
        for share, where in aside:
            self._found_damaged(share, where)
        for share, entry in entries:
            self._index.add(share, entry)
        for share, file_bytes in lost:
            await self._adopt(share, file_bytes)

    def _open_store(
        self,
    ) -> tuple[list[tuple[bytes, Entry]], list[tuple[bytes, int]], list[tuple[bytes, str]]]:
        """
        In a thread: what is there, what of it has no note that can be used, and where the store
        has put what it found damaged.
        """
        entries, lost, aside = [], [], []
        for shard in self._store.open():
            if shard.set_aside:
                aside.append((shard.name, shard.set_aside))
                continue
            try:
                entries.append((shard.name, Entry(shard.size, ShardNote.decode(shard.note))))
            except ObjectMalformed:
                lost.append((shard.name, shard.size))
        return entries, lost, aside

    async def _adopt(self, share: bytes, file_bytes: int) -> None:
        """A share has lost its note.  It is read whole, and its owners may renew their leases."""
        try:
            check = Check(self._store, share, file_bytes, None)
            while not check.done:
                await self._disk.call(_step, check, share)
            kept = check.kept
        except ShareDamaged as e:
            await self._put_aside(share, str(e))
            return
        except OSError as e:
            # Nothing is wrong with the share, as far as is known.
            self._log.error(
                "a share without its note cannot be read now, and is left for the next start: "
                "{error}",
                error=without_names(e),
            )
            return
        note = ShardNote(kept.manifest.content_id, kept.root, kept.shape.size, self._now())
        try:
            await self._disk.call(self._store.set_note, share, note.encode())
        except OSError as e:
            # A full disk, perhaps.  The share can be read, and is given a note with a lease.
            self._log.warn(
                "the note of a share cannot be made anew: {error}", error=without_names(e)
            )
        self._log.warn(
            "the note of the share {share}... was lost: it is kept until its owners had the time "
            "to renew their leases",
            share=share.hex()[:16],
        )
        self._index.add(share, Entry(file_bytes, note))

    # --- for callers

    def stat(self, share: bytes) -> ShareStat:
        """See L{meshkit.interfaces.IStoragePeer.stat}."""
        self._reception.check_open()
        note = self._index.get(share).note
        return ShareStat(note.size, note.root, note.lease_end(self._now()))

    async def manifest(self, share: bytes) -> bytes:
        """See L{meshkit.interfaces.IStoragePeer.manifest}."""
        return (await self._reading(share, lambda kept: kept)).manifest.raw

    async def read(self, share: bytes, segment: int) -> Piece:
        """See L{meshkit.interfaces.IStoragePeer.read}."""
        piece = await self._reading(share, lambda kept: kept.piece(self._store, segment))
        self.read_bytes += measure(piece.block)
        return piece

    async def _reading(self, share: bytes, read: Callable[[Kept], T]) -> T:
        """@param read: is called in a thread."""
        self._reception.check_open()
        self._index.get(share)
        self._check_waiting(share)
        await self._turns.take(share, shared=True)
        wanted = [True]
        try:
            return await self._works.finish(self._in_turn(share, read, wanted))
        except CancelledError:
            # If no thread has come to it yet, none needs to.
            wanted.clear()
            raise

    async def _in_turn(self, share: bytes, read: Callable[[Kept], T], wanted: list[bool]) -> T:
        """It is our turn at the share, together with others."""
        damage, suspicious = None, False
        try:
            entry, kept = self._index.get(share), self._manifests.get(share)

            def work() -> tuple[Kept, T]:
                if not wanted:
                    raise ShareUnknown("nobody waits for it any more")
                with readable(share):
                    found = find(self._store, share, entry.file_bytes) if kept is None else kept
                    return found, read(found)

            try:
                known, result = await self._disk.run(work)
            except ShareDamaged as e:
                damage = str(e)
                raise
            except ShareUnknown:
                # Either it has no such segment, or somebody took its file away.
                suspicious = bool(wanted)
                raise
            self._remember(share, known)
            return result
        finally:
            self._turns.give_back(share)
            if damage is not None:
                # Others may be reading it, and it is moved when they are done.
                self._works.finish(self._found_damage(share, damage))
            if suspicious:
                self._works.finish(self._look_for(share))

    def _remember(self, share: bytes, kept: Kept) -> None:
        self._manifests[share] = kept
        self._manifests.move_to_end(share)
        if len(self._manifests) > MAX_MANIFESTS:
            self._manifests.popitem(last=False)

    async def renew(self, caller: PublicKey, share: bytes, secret: bytes) -> bytes:
        """See L{meshkit.interfaces.IStoragePeer.renew}."""
        self._reception.check_open()
        lease = _lease_of(secret)
        if self._index.get(share).note.find(lease) is None:
            await self._reception.check_admitted(caller)
        self._check_waiting(share)
        await self._turns.take(share)
        return await self._works.finish(self._renew(caller.raw, share, lease))

    async def _renew(self, account: bytes, share: bytes, lease: bytes) -> bytes:
        """It is our turn at the share."""
        try:
            self._reception.check_open()
            entry = self._index.get(share)
            if entry.note.find(lease) is None:
                self._reception.check_takes()
                self._index.room.check_quota(account, self._index.charge_for(account, entry))
            note = entry.note.with_lease(account, lease, self._now())
            await self.set_note(share, note)
            self._index.noted(share, entry, note)
            return self.receipt(share, entry, lease)
        finally:
            self._turns.give_back(share)

    async def release(self, share: bytes, secret: bytes) -> None:
        """See L{meshkit.interfaces.IStoragePeer.release}."""
        self._reception.check_open()
        lease = _lease_of(secret)
        self._index.get(share)
        self._check_waiting(share)
        await self._turns.take(share)
        await self._works.finish(self._release(share, lease))

    async def _release(self, share: bytes, lease: bytes) -> None:
        """It is our turn at the share."""
        try:
            self._reception.check_open()
            entry = self._index.get(share)
            note = entry.note.without_lease(lease, self._now())
            if note.leases:
                await self.set_note(share, note)
                self._index.noted(share, entry, note)
            else:
                await self._disk.run(self._store.remove, share)
                self._drop(share)
        finally:
            self._turns.give_back(share)

    def receipt(self, share: bytes, entry: Entry, lease: bytes) -> bytes:
        """
        What was asked for is durable.

        @return: a L{Receipt}, signed.
        """
        given = entry.note.find(lease)
        if given is None:
            raise ValueError("a receipt is given for a lease that there is")
        self.receipts += 1
        note, key = entry.note, self._identity.public
        receipt = Receipt(key, share, note.root, note.size, lease, given.end, self._now())
        return receipt.sign(self._identity)

    async def set_note(self, share: bytes, note: ShardNote) -> None:
        """It is our turn at the share."""
        try:
            await self._disk.run(self._store.set_note, share, note.encode())
        except ShareUnknown:
            self._works.finish(self._look_for(share))
            raise

    def _check_waiting(self, share: bytes) -> None:
        if self._turns.waiting(share) >= MAX_WAITING_FOR_SHARE:
            raise StorageBusy(
                f"{MAX_WAITING_FOR_SHARE} calls for this share wait: ask again in a moment"
            )

    # --- shares that go

    def suspect(self, share: bytes, error: Exception) -> None:
        """
        Reading a share has failed.

        @param error: what was raised: L{ShareDamaged}, or that its file is not there.
        """
        if isinstance(error, ShareDamaged):
            self._works.finish(self._found_damage(share, str(error)))
        else:
            self._works.finish(self._look_for(share))

    def _drop(self, share: bytes) -> None:
        self._manifests.pop(share, None)
        self._index.drop(share)
        if not self._index:
            self._emptied()

    async def _found_damage(self, share: bytes, why: str) -> None:
        await self._turns.take(share)
        try:
            if self._index.find(share) is not None and await self._put_aside(share, why):
                self._drop(share)
        finally:
            self._turns.give_back(share)

    async def _look_for(self, share: bytes) -> None:
        """Is the file of a share there that should be?"""
        await self._turns.take(share)
        try:
            if self._index.find(share) is not None:
                await self._disk.call(self._store.read, share, 0, 1)
        except ShareUnknown:
            # Its owners must not hear that it is here.
            self._log.error(
                "the file of the share {share}... is not there any more", share=share.hex()[:16]
            )
            self._drop(share)
            self.damaged += 1
        except (MeshkitError, OSError) as e:
            self._log.warn("a share cannot be looked for: {error}", error=without_names(e))
        finally:
            self._turns.give_back(share)

    async def _put_aside(self, share: bytes, why: str) -> bool:
        """@return: whether it could be done.  If not, it is tried at the next occasion."""
        try:
            where = await self._disk.call(self._store.set_aside, share, why)
        except (MeshkitError, OSError) as e:
            self._log.error(
                "a share was found damaged, and cannot be put aside: {problem} ({error})",
                problem=without_names(why),
                error=without_names(e),
            )
            return False
        self._found_damaged(share, where)
        self._log.error(
            "a share was found damaged, and put aside as {where}: {problem}",
            where=without_names(where),
            problem=without_names(why),
        )
        return True

    def _found_damaged(self, share: bytes, where: str) -> None:
        self.damaged += 1
        self._index.found_damaged(share, where)

    async def collect(self, most: int) -> None:
        """
        Forget leases that are over, and take away what nobody wants.

        @param most: shares that are looked at.
        """
        for share in self._index.due(self._now(), most):
            await self._turns.take(share)
            try:
                if (
                    self._reception.open
                    and self._index.find(share) is not None
                    and not self._index.forget_leases(share, self._now())
                ):
                    await self._disk.call(self._store.remove, share)
                    self._drop(share)
                    self.collected += 1
            except (MeshkitError, OSError) as e:
                # The others go all the same, and this one is tried again.
                self._log.warn("a share cannot be taken away: {error}", error=without_names(e))
            finally:
                self._turns.give_back(share)

    # --- what scrubbing asks for

    def names(self) -> list[bytes]:
        """@return: of all shares, sorted."""
        return sorted(self._index)

    def check(self, share: bytes) -> Check | None:
        """@return: what reads a share from front to end; L{None} if there is none."""
        entry = self._index.find(share)
        if entry is None:
            return None
        self._checked = entry
        return Check(self._store, share, entry.file_bytes, entry.note)

    def step(self, share: bytes, check: Check) -> Deferred[int]:
        """See L{meshkit.storage.keeper.scrubbing.Scrubbed.step}."""
        return self._works.finish(self._check_step(share, check))

    async def _check_step(self, share: bytes, check: Check) -> int:
        damage, suspicious = None, False
        await self._turns.take(share, shared=True)
        try:
            if self._index.get(share) is not self._checked:
                raise ShareUnknown("another one came in its place")
            try:
                return await self._disk.call(_step, check, share)
            except ShareUnknown:
                suspicious = True
                raise
        except ShareDamaged as e:
            damage = str(e)
            raise
        finally:
            self._turns.give_back(share)
            if suspicious:
                await self._look_for(share)
            if damage is not None:
                await self._found_damage(share, damage)

    def mark(self, share: bytes) -> Deferred[None]:
        """@return: Deferred that fires when it is noted that scrubbing has come so far."""
        return self._works.finish(self._mark(share))

    async def _mark(self, share: bytes) -> None:
        await self._turns.take(share)
        try:
            entry = self._index.get(share)
            note = evolve(entry.note, checked=self._now())
            await self.set_note(share, note)
            self._index.noted(share, entry, note)
        finally:
            self._turns.give_back(share)


def _lease_of(secret: bytes) -> bytes:
    try:
        return lease_hash(secret)
    except ValueError as e:
        raise ShareUnknown(str(e)) from None


def _step(check: Check, share: bytes) -> int:
    with readable(share):
        return check.step()
