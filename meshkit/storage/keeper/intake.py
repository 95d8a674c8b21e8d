"""
How shares come in: room is reserved, blocks are written, and at the end there is a receipt.

An upload is of one caller, and is written by one thread at a time.  A share is brought by one
caller at a time: who hears from the owner of an object what its shares will be called must not
have another one here under the name of his, when he has sent all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Final

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from meshkit.errors import (
    CapacityReached,
    MeshkitError,
    ShareMismatch,
    ShareUnknown,
    StorageBusy,
    UploadOutOfStep,
    UploadUnknown,
)
from meshkit.identity.keys import PublicKey
from meshkit.runtime.limits import Shares
from meshkit.storage.erasure import Block, measure
from meshkit.storage.header import share_id, without_names
from meshkit.storage.keeper.admission import Reception
from meshkit.storage.keeper.capacity import check_count, room_for
from meshkit.storage.keeper.disk import Disk
from meshkit.storage.keeper.index import Entry, Index
from meshkit.storage.keeper.kept import KeptShares
from meshkit.storage.keeper.leases import ShardNote
from meshkit.storage.keeper.locks import Turns
from meshkit.storage.keeper.reading import file_bytes
from meshkit.storage.keeper.uploads import (
    Assembly,
    Upload,
    UploadKey,
    Uploads,
    check_manifest_length,
)
from meshkit.storage.keeper.works import Works
from meshkit.storage.terms import LEASE_BYTES, RESERVATION_SECONDS, Reservation

__all__ = ["MAX_BLOCKS", "MAX_BLOCKS_EACH", "MAX_WAITING", "Intake"]

#: Bytes of blocks that are in memory at the same time, and those of one caller among them.
MAX_BLOCKS: Final = 128 * 1024 * 1024
MAX_BLOCKS_EACH: Final = 32 * 1024 * 1024
#: Calls for one upload that wait while a block of it is written.
MAX_WAITING: Final = 4


class Intake:
    """
    See the module.

    @ivar uploads: those that are open.
    @ivar expired: how many uploads were given up as their time was over.
    @ivar written_bytes: of blocks that were taken.
    """

    _log = Logger()

    def __init__(
        self,
        disk: Disk,
        index: Index,
        turns: Turns,
        works: Works,
        reception: Reception,
        kept: KeptShares,
        reactor: IReactorTime,
        now: Callable[[], int],
        emptied: Callable[[], object],
    ) -> None:
        """
        @param turns: at uploads, by their keys, and at shares, by their names.
        @param now: seconds of Unix time.
        @param emptied: is called when no upload is open any more.
        """
        self.uploads = Uploads()
        self.expired = 0
        self.written_bytes = 0
        self._blocks = Shares(MAX_BLOCKS, MAX_BLOCKS_EACH)
        self._disk = disk
        self._index = index
        self._room = index.room
        self._turns = turns
        self._works = works
        self._reception = reception
        self._kept = kept
        self._reactor = reactor
        self._now = now
        self._emptied = emptied

    @property
    def block_bytes(self) -> int:
        """Bytes of blocks in memory."""
        return self._blocks.taken

    # --- room

    async def reserve(
        self, caller: PublicKey, upload: bytes, number: int, size: int, lease: bytes, repair: bool
    ) -> Reservation:
        """See L{meshkit.interfaces.IStoragePeer.reserve}."""
        self._reception.check_open()
        key = _key(caller, upload, number)
        if size < 1 or len(lease) != LEASE_BYTES:
            raise ShareMismatch(
                f"a share has one byte at least, and its lease a hash of {LEASE_BYTES}"
            )
        await self._reception.check_admitted(caller)
        self._reception.check_open()
        self.give_up_expired()
        entry, held = self._index.find(key[1]), self.uploads.find(key)
        if self._turns.taken(key):
            # It is being written, or ended, at this moment, and that cannot be changed now.
            if held is None or entry is not None or size > held.size or lease != held.lease:
                raise StorageBusy("this share is being written: ask again in a moment")
        elif entry is not None:
            held = self._reserve_lease(key, entry, held, upload, number, lease)
        elif held is not None and held.assembly is None:
            # It was here when this was reserved, and was taken away since.
            self._forget(held)
            held = None
        if held is None:
            held = self._reserve_new(key, upload, number, size, lease, repair)
        elif held.assembly is not None and size > held.size:
            self._reserve_more(held, size, repair)
        held.lease = lease
        held.expires = self._reactor.seconds() + RESERVATION_SECONDS
        return Reservation(
            held.next_segment,
            held.size,
            self._now() + RESERVATION_SECONDS,
            held.assembly is None,
        )

    def _reserve_new(
        self, key: UploadKey, upload: bytes, number: int, size: int, lease: bytes, repair: bool
    ) -> Upload:
        self._reception.check_takes()
        account, name = key
        room = room_for(size)
        self.uploads.check_places(account)
        if self.uploads.brings(name):
            raise ShareMismatch(
                "somebody else is sending a share of this name here: take another peer, or begin "
                "anew"
            )
        check_count(self._room.config, len(self._index) + len(self.uploads))
        self._check_room(room, repair)
        self._room.check_quota(account, room)
        assembly = Assembly(self._disk.store, name, upload, number)
        held = Upload(
            key=key,
            upload=upload,
            number=number,
            lease=lease,
            size=size,
            room=room,
            charge=room,
            assembly=assembly,
        )
        self._open(held)
        return held

    def _reserve_more(self, held: Upload, size: int, repair: bool) -> None:
        self._reception.check_takes()
        more = room_for(size) - held.room
        self._check_room(more, repair)
        self._room.check_quota(held.account, more)
        self._room.promise(more)
        self._room.charge(held.account, more)
        held.size, held.room, held.charge = size, held.room + more, held.charge + more

    def _reserve_lease(
        self,
        key: UploadKey,
        entry: Entry,
        held: Upload | None,
        upload: bytes,
        number: int,
        lease: bytes,
    ) -> Upload:
        """The share is here, and somebody wants to have it kept too."""
        if held is not None:
            return held
        if entry.note.find(lease) is None:
            self._reception.check_takes()
        account, _ = key
        self.uploads.check_places(account)
        charge = self._index.charge_for(account, entry)
        self._room.check_quota(account, charge)
        held = Upload(
            key=key,
            upload=upload,
            number=number,
            lease=lease,
            size=entry.note.size,
            room=0,
            charge=charge,
        )
        self._open(held)
        return held

    def _check_room(self, room: int, repair: bool) -> None:
        self._room.check(room, repair)
        free = self._disk.free
        if free is not None and room > free - self.uploads.to_come:
            raise CapacityReached("the disk of the storage peer has no room for the share")

    def give_up_expired(self) -> None:
        """Room that was reserved an hour ago and is not used is free again."""
        for held in self.uploads.expired(self._reactor.seconds()):
            if not self._turns.taken(held.key):
                self.expired += 1
                self._give_up(held)

    # --- blocks

    def expect(
        self, caller: PublicKey, upload: bytes, number: int, segment: int, size: int
    ) -> Upload:
        """
        See L{meshkit.interfaces.ILocalStoragePeer.expect}.

        @return: what the block is for.
        """
        self._reception.check_open()
        held = self.uploads.get(_key(caller, upload, number))
        if self._turns.taken(held.key):
            # Which block is the next is not known before those are written.
            self._check_waiting(held.key)
        else:
            held.check(segment, size)
        if not self._blocks.room(caller.raw, size):
            raise StorageBusy(
                f"{self._blocks.held(caller.raw)} bytes of blocks of this caller are in memory, "
                f"and {self._blocks.taken} in all: send fewer at the same time"
            )
        return held

    async def write(
        self, caller: PublicKey, upload: bytes, number: int, segment: int, block: Block
    ) -> None:
        """See L{meshkit.interfaces.IStoragePeer.write}."""
        if isinstance(block, memoryview):
            block = block.cast("B")
        size = measure(block)
        held = self.expect(caller, upload, number, segment, size)
        self._blocks.take(caller.raw, size)
        try:
            await self._turns.take(held.key)
        except CancelledError:
            self._blocks.give_back(caller.raw, size)
            raise
        await self._works.finish(self._write(held, segment, block, size))

    async def _write(self, held: Upload, segment: int, block: Block, size: int) -> None:
        """It is our turn at the upload, and we have counted the block."""
        try:
            self._check_held(held)
            repeated, assembly = held.check(segment, size), held.assembly
            held.expires = self._reactor.seconds() + RESERVATION_SECONDS
            if assembly is None:
                raise UploadUnknown("the share is here already")
            if repeated:
                if not await self._disk.run(assembly.repeats, block):
                    raise UploadOutOfStep(
                        f"another block {segment} came before", next_segment=held.next_segment
                    )
                return
            try:
                await self._disk.run(assembly.append, block)
            except StorageBusy:
                # It was not begun.
                raise
            except BaseException:
                # What is on the disk now is not known, and the tree may be ahead of it.
                self._give_up(held)
                raise
            held.advance(size)
            self.written_bytes += size
            self._disk.written(size)
        finally:
            self._blocks.give_back(held.account, size)
            self._turns.give_back(held.key)

    # --- the end

    async def close(self, caller: PublicKey, upload: bytes, number: int, manifest: bytes) -> bytes:
        """See L{meshkit.interfaces.IStoragePeer.close}."""
        self._reception.check_open()
        check_manifest_length(manifest)
        held = self.uploads.get(_key(caller, upload, number))
        self._check_waiting(held.key)
        await self._turns.take(held.key)
        return await self._works.finish(self._close(held, bytes(manifest)))

    async def _close(self, held: Upload, raw: bytes) -> bytes:
        """It is our turn at the upload."""
        try:
            self._check_held(held)
            await self._turns.take(held.name)
            try:
                return await self._complete(held, raw)
            finally:
                self._turns.give_back(held.name)
        finally:
            self._turns.give_back(held.key)

    async def _complete(self, held: Upload, raw: bytes) -> bytes:
        """It is our turn at the share as well."""
        entry, assembly, lease = self._index.find(held.name), held.assembly, held.lease
        try:
            if entry is not None:
                await self._join(held, entry, raw)
            elif assembly is not None:
                now = self._now()
                asked = ShardNote(b"", b"", 0, now).with_lease(held.account, lease, now)
                note = await self._disk.run(assembly.commit, raw, asked)
                self._forget(held)
                entry = Entry(file_bytes(note.size, len(raw)), note)
                self._index.add(held.name, entry)
            else:
                raise UploadUnknown("the share was taken away meanwhile: reserve again")
        except StorageBusy:
            # Nothing was begun, and it may be asked again.
            raise
        except BaseException:
            self._give_up(held)
            raise
        return self._kept.receipt(held.name, entry, lease)

    async def _join(self, held: Upload, entry: Entry, raw: bytes) -> None:
        """The share is here already, and is given a further lease."""
        if sha256(raw).digest() != entry.note.content:
            raise ShareMismatch(
                "another object has a share of this name here: begin anew, with another upload"
            )
        note = entry.note.with_lease(held.account, held.lease, self._now())
        await self._kept.set_note(held.name, note)
        self._give_up(held)
        self._index.noted(held.name, entry, note)

    async def abort(self, caller: PublicKey, upload: bytes, number: int) -> None:
        """See L{meshkit.interfaces.IStoragePeer.abort}."""
        self._reception.check_open()
        key = _key(caller, upload, number)
        if self.uploads.find(key) is None:
            return
        self._check_waiting(key)
        await self._turns.take(key)
        await self._works.finish(self._abort(key))

    async def _abort(self, key: UploadKey) -> None:
        """It is our turn at the upload."""
        try:
            held = self.uploads.find(key)
            if held is not None:
                await self._give_up(held)
        finally:
            self._turns.give_back(key)

    def give_up_all(self) -> list[Assembly]:
        """
        Nothing is open any more.

        @return: what is to be discarded, in a thread.
        """
        held = list(self.uploads)
        for each in held:
            self._forget(each)
        return [each.assembly for each in held if each.assembly is not None]

    # --- small things

    def _open(self, held: Upload) -> None:
        self.uploads.add(held)
        self._room.promise(held.room)
        self._room.charge(held.account, held.charge)

    def _forget(self, held: Upload) -> None:
        """An upload is over.  The room that was reserved for it is free."""
        if self.uploads.remove(held):
            self._room.take_back(held.room)
            self._room.discharge(held.account, held.charge)
            if not self.uploads:
                self._emptied()

    def _give_up(self, held: Upload) -> Deferred[None]:
        """
        An upload is over, and what came of it goes.  Nobody else is writing it.

        @return: Deferred that fires when it has gone; nobody needs to wait for it.
        """
        self._forget(held)
        if held.assembly is None:
            return succeed(None)
        return self._works.finish(self._discard(held.assembly))

    async def _discard(self, assembly: Assembly) -> None:
        try:
            await self._disk.call(assembly.discard)
        except (MeshkitError, OSError) as e:
            # What is left goes when the store is opened the next time.
            self._log.warn("an upload could not be taken away: {error}", error=without_names(e))

    def _check_held(self, held: Upload) -> None:
        """
        Is it still open?

        @raise UploadUnknown: if it was given up while somebody waited for it.
        """
        self._reception.check_open()
        if self.uploads.find(held.key) is not held:
            raise UploadUnknown("the upload is over: reserve room again, and begin anew")

    def _check_waiting(self, key: UploadKey) -> None:
        if self._turns.waiting(key) >= MAX_WAITING:
            raise StorageBusy(f"{MAX_WAITING} calls for this upload wait: ask again in a moment")


def _key(caller: PublicKey, upload: bytes, number: int) -> UploadKey:
    """@raise ShareUnknown: if there is no such share of any object."""
    try:
        return caller.raw, share_id(upload, number)
    except ValueError as e:
        raise ShareUnknown(str(e)) from None
