"""Which shares a storage peer has, who is charged for them, and when they go.  Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from attrs import define

from meshkit.errors import ShareDamaged, ShareUnknown
from meshkit.storage.keeper.capacity import Room
from meshkit.storage.keeper.leases import Deadlines, ShardNote, changed_accounts

#: Shares that were found damaged, of which one still knows the names.
MAX_DAMAGED: Final = 1_024


@define(eq=False)
class Entry:
    """
    A share that is here.

    @ivar file_bytes: of its file.
    @ivar note: what is known of it.
    """

    file_bytes: int
    note: ShardNote


class Index:
    """
    See the module.

    @ivar room: what is taken, by all and by each owner.
    @ivar damaged: shares that were found damaged since the start, by name: where they are now.
    """

    def __init__(self, room: Room) -> None:
        self.room = room
        self.damaged: OrderedDict[bytes, str] = OrderedDict()
        self._entries: dict[bytes, Entry] = {}
        self._deadlines = Deadlines()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._entries)

    def items(self) -> Iterator[tuple[bytes, Entry]]:
        """All shares.  They must not change meanwhile."""
        return iter(self._entries.items())

    def find(self, share: bytes) -> Entry | None:
        """@return: what is known of a share; L{None} if it is not here."""
        return self._entries.get(share)

    def get(self, share: bytes) -> Entry:
        """
        @return: what is known of a share.
        @raise ShareDamaged: if it was here, and was found damaged.
        @raise ShareUnknown: if it is not here.
        """
        entry = self._entries.get(share)
        if entry is None:
            if share in self.damaged:
                raise ShareDamaged("the share was found damaged here, and put aside")
            raise ShareUnknown("there is no such share here")
        return entry

    def add(self, share: bytes, entry: Entry) -> None:
        """A share is durable."""
        self._entries[share] = entry
        self.damaged.pop(share, None)
        self.room.add(entry.file_bytes)
        for account in entry.note.accounts:
            self.room.charge(account, entry.file_bytes)
        self._deadlines.add(share, entry.note.next_change)

    def noted(self, share: bytes, entry: Entry, note: ShardNote) -> None:
        """A share has another note."""
        new, gone = changed_accounts(entry.note.accounts, note.accounts)
        for account in new:
            self.room.charge(account, entry.file_bytes)
        for account in gone:
            self.room.discharge(account, entry.file_bytes)
        entry.note = note
        self._deadlines.add(share, note.next_change)

    def drop(self, share: bytes) -> None:
        """A share is not there any more."""
        entry = self._entries.pop(share)
        self._deadlines.discard(share)
        self.room.remove(entry.file_bytes)
        for account in entry.note.accounts:
            self.room.discharge(account, entry.file_bytes)

    def found_damaged(self, share: bytes, where: str) -> None:
        """A share was put aside."""
        self.damaged[share] = where
        if len(self.damaged) > MAX_DAMAGED:
            self.damaged.popitem(last=False)

    def charge_for(self, account: bytes, entry: Entry) -> int:
        """@return: what a lease on a share would cost somebody."""
        return 0 if account in entry.note.accounts else entry.file_bytes

    def due(self, now: int, most: int) -> list[bytes]:
        """
        @return: at most so many shares of which leases are over.  Unless something is done
            about them, they come up again.
        """
        due = [share for share in self._deadlines.due(now, most) if share in self._entries]
        for share in due:
            self._deadlines.add(share, self._entries[share].note.next_change)
        return due

    def forget_leases(self, share: bytes, now: int) -> bool:
        """
        Forget leases on a share that are over.

        @return: whether it is to be kept.  If not, nothing was changed.
        """
        entry = self._entries[share]
        if entry.note.keep_until <= now:
            return False
        self.noted(share, entry, entry.note.pruned(now))
        return True
