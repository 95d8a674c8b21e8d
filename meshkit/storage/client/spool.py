"""
What a put leaves on the disk, so that it goes on after a kill.

::

    NAME.journal    what the upload is: header, key, places, and which file it is of; synced
    UPLOAD.sealed   its sealed segments, one behind the other; not synced

B{Nothing is ever sealed twice.}  Two texts sealed under one number would give both away.  A
segment is written here whole before anybody is sent a byte of it, so after a kill everything
that may have left is here, and is sent as it was.  What the machine itself forgets when it
stops could have left: after that (another C{boot_id}) what is here goes on only if it is the
whole object, which its tags show, as then nothing has to be sealed any more.  Else the upload
is given up, and begun anew under another header and key.

That counts for a file that was changed in the meantime as well.

All methods block, and may be called in any thread.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any, Final

import msgspec
from attrs import evolve, field, frozen
from msgspec import Struct
from twisted.logger import Logger

from meshkit.errors import ObjectDamaged, ObjectMalformed, SourceChanged
from meshkit.runtime.files import LOCAL, SystemCalls
from meshkit.storage.client.streams import FileIdentity
from meshkit.storage.erasure import Block
from meshkit.storage.header import Header
from meshkit.storage.scheme import Layout

__all__ = ["JOURNAL", "MAX_JOURNAL", "SEALED", "Journal", "Spool"]

#: Ends of the names of what a spool consists of.
JOURNAL: Final = ".journal"
SEALED: Final = ".sealed"

#: How many former uploads a journal remembers; what peers keep of others ends with its leases.
MOST_OWED: Final = 4
#: With 255 shares it has 10 KiB, and as much for each former upload.
MAX_JOURNAL: Final = 64 * 1024

_KIND: Final = "meshkit/spool/1"
_NAME: Final = re.compile(r"[0-9A-Za-z_-]{1,64}")
_READ: Final = 1024 * 1024


class _Wire(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    kind: str
    boot: str
    identity: tuple[int, int, int, int, int]
    header: bytes
    key: bytes
    places: dict[int, bytes]
    before: str | None
    owed: dict[bytes, dict[int, bytes]] = {}


@frozen
class Journal:
    """
    What an upload is.

    @ivar boot: names the time since the machine was started; empty if that is not known.
    @ivar identity: which file is stored.
    @ivar header: its header.
    @ivar key: its content key.
    @ivar places: whose shares are where, as far as room was found; keys of peers by number.
    @ivar before: the upload that had this journal before, whose sealed segments may be there.
    @ivar owed: former uploads of this put, at most L{MOST_OWED}: peers may not have been told yet
        that they were given up.  For each id its C{places}.
    """

    boot: str
    identity: FileIdentity
    header: Header = field(repr=False)
    key: bytes = field(repr=False)
    places: Mapping[int, bytes] = field(factory=dict)
    before: str | None = None
    owed: Mapping[bytes, Mapping[int, bytes]] = field(factory=dict)

    @classmethod
    def decode(cls, raw: bytes) -> Journal:
        """@raise ObjectMalformed: if these bytes are no journal."""
        try:
            wire = msgspec.msgpack.decode(raw, type=_Wire)
        except msgspec.MsgspecError as e:
            raise ObjectMalformed(f"the journal of an upload cannot be read: {e}") from None
        if wire.kind != _KIND:
            raise ObjectMalformed(f"the journal of an upload is of another kind: {wire.kind[:40]}")
        return cls(
            wire.boot,
            FileIdentity(*wire.identity),
            Header.decode(wire.header),
            wire.key,
            wire.places,
            wire.before,
            wire.owed,
        )

    @property
    def raw(self) -> bytes:
        """The bytes of the journal.  They hold a secret."""
        each = self.identity
        identity = (each.size, each.modified, each.changed, each.number, each.device)
        wire = _Wire(
            _KIND,
            self.boot,
            identity,
            self.header.raw,
            self.key,
            dict(self.places),
            self.before,
            {upload: dict(places) for upload, places in self.owed.items()},
        )
        return msgspec.msgpack.encode(wire)

    @property
    def layout(self) -> Layout:
        """Where everything is in the object."""
        return Layout(self.header.scheme, self.identity.size)

    @property
    def given_up(self) -> dict[bytes, Mapping[int, bytes]]:
        """What the next upload of this put owes: L{owed}, and this one."""
        found = {**self.owed, self.header.upload: self.places}
        return dict([*found.items()][-MOST_OWED:])

    @property
    def upload(self) -> str:
        """What names the upload here.  It is no secret that opens anything."""
        return self.header.upload.hex()


class Spool:
    """
    The journal and the sealed segments of one put.  See the module.

    Open it (L{open}), then L{begin} if there was nothing to go on with.

    @ivar journal: what the upload is; L{None} before there is one.
    @ivar count: how many segments are here.
    @ivar left: how many of them were not read yet (L{next}).
    """

    _log = Logger()

    def __init__(
        self, folder: str, name: str, boot_id: str, files: Any, system: SystemCalls = LOCAL
    ) -> None:
        """
        @param folder: that exists.  Several spools may share it.
        @param name: names the put: up to 64 letters, digits, C{_} and C{-}.
        @param boot_id: names the time since the machine was started, so that it is another one
            after it was started again; empty if nobody knows.
        @param files: L{meshkit.interfaces.IFiles}.
        @param system: the disk beneath it.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name[:64]!r} cannot name a put: take letters, digits, _ and -")
        self.journal: Journal | None = None
        self.count = 0
        self.left = 0
        self._folder = folder
        self._path = os.path.join(folder, name + JOURNAL)
        self._boot = boot_id
        self._files = files
        self._system = system
        self._descriptor: int | None = None
        # The journal is on the disk, for all we know.
        self._synced = False
        # Work that nobody waits for any more may still run when the spool is closed.
        self._lock = Lock()

    # --- beginning -------------------------------------------------------------------------

    def open(self, identity: FileIdentity) -> Journal | None:
        """
        Is there something to go on with?

        @param identity: of the file that is to be stored.
        @return: an upload that was begun and cannot go on, of which something may be kept by
            peers.  If L{journal} is set afterwards, the put goes on with that.
        @raise OSError: if the disk fails, or another put has this spool.
        """
        with self._lock:
            journal = self._read_journal()
            if journal is None:
                return None
            if not self._open_sealed(journal):
                return journal
            whole = self.count == journal.layout.segments
            same = bool(self._boot) and journal.boot == self._boot
            if not whole and not (same and journal.identity == identity):
                self._close()
                return journal
            if not same and not self._opens(journal):
                self._close()
                return journal
            self.journal, self.left, self._synced = journal, self.count, False
            return None

    def uploads(self) -> set[str]:
        """@return: the names of the uploads whose sealed segments its journal speaks of."""
        journal = self._read_journal()
        if journal is None:
            return set()
        return {journal.upload} if journal.before is None else {journal.upload, journal.before}

    def _read_journal(self) -> Journal | None:
        try:
            raw = self._files.read_secret(self._path, MAX_JOURNAL)
        except FileNotFoundError:
            return None
        try:
            return Journal.decode(raw)
        except ObjectMalformed as e:
            # It was whole when it was written, so the disk has lost it.
            self._log.warn("{path}: {problem}: the put begins anew", path=self._path, problem=e)
            return None

    def _sealed(self, upload: str) -> str:
        return os.path.join(self._folder, upload + SEALED)

    def _open_sealed(self, journal: Journal) -> bool:
        """@return: are there sealed segments of the upload?"""
        path = self._sealed(journal.upload)
        try:
            self._descriptor = self._system.open(path, os.O_RDWR | os.O_CLOEXEC, 0)
        except FileNotFoundError:
            return False
        try:
            self._system.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = self._system.fstat(self._descriptor).st_size
        except BaseException:
            self._close()
            raise
        layout = journal.layout
        whole = size >= layout.sealed_shape.size
        full = size // journal.header.scheme.segment_bytes
        self.count = layout.segments if whole else min(full, layout.segments - 1)
        return True

    def _opens(self, journal: Journal) -> bool:
        """
        Is what is here the whole object?  Reads all of it.

        @return: if so; then the file is at its beginning again.
        """
        opener, layout = journal.header.opener(journal.key), journal.layout
        try:
            for number in range(layout.segments):
                sealed = self._read_all(layout.sealed_bytes(number))
                opener.open(number, sealed, layout.is_last(number))
        except ObjectDamaged:
            return False
        self._close()
        return self._open_sealed(journal)

    def begin(self, identity: FileIdentity, header: Header, key: bytes) -> None:
        """
        A new upload, in the place of one that was here.

        @param header: of nothing that was ever sealed.
        """
        with self._lock:
            self._close()
            old = self._read_journal()
            before = None if old is None else old.upload
            if old is not None and old.before is not None:
                self._files.remove(self._sealed(old.before))
            owed = {} if old is None else old.given_up
            journal = Journal(self._boot, identity, header, key, before=before, owed=owed)
            self._files.write_atomic(self._path, journal.raw)
            self._synced = True
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            path = self._sealed(journal.upload)
            self._descriptor = self._system.open(path, flags, 0o600)
            self._system.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if before is not None:
                self._files.remove(self._sealed(before))
            self.journal, self.count, self.left = journal, 0, 0

    def set_places(self, places: Mapping[int, bytes]) -> None:
        """
        Where the shares go.

        @param places: keys of peers, by number of the share.
        """
        with self._lock:
            if self.journal is None or (self._synced and places == self.journal.places):
                return
            # What a process has written that was killed need not be on the disk.
            self.journal = evolve(self.journal, places=dict(places))
            self._files.write_atomic(self._path, self.journal.raw)
            self._synced = True

    # --- segments --------------------------------------------------------------------------

    def next(self) -> tuple[bytes, bool]:
        """
        @return: the next segment that is here, sealed, and whether it is the last.
        @raise ValueError: if there is none left.
        """
        with self._lock:
            if self.journal is None or not self.left:
                raise ValueError("there is no sealed segment left")
            layout, number = self.journal.layout, self.count - self.left
            sealed = self._read_all(layout.sealed_bytes(number))
            self.left -= 1
            # What stands behind the last one was not written to its end, so it has not left,
            # and is written over.
            return sealed, layout.is_last(number)

    def append(self, blocks: Sequence[Block], size: int) -> None:
        """
        Keep a segment, before anything of it leaves.

        @param blocks: those it is made of, with the zeros behind it.
        @param size: bytes of its text.
        @raise SourceChanged: if the file is longer than it was.
        @raise OSError: if what is here cannot be taken away.  If the disk is full, it is,
            and the put goes on without a spool.
        """
        with self._lock:
            if self.journal is None:
                return
            layout = self.journal.layout
            if self.left:
                raise ValueError("there are sealed segments that were not read yet")
            if self.count >= layout.segments or size != layout.text_bytes(self.count):
                raise SourceChanged("the file was changed while it was stored")
            rest = layout.sealed_bytes(self.count)
            try:
                for block in blocks:
                    view = memoryview(block)[:rest]
                    rest -= len(view)
                    while view:
                        view = view[self._system.write(self._opened(), view) :]
            except OSError as e:
                self._log.warn(
                    "a put cannot be gone on with if it is interrupted: {problem}", problem=e
                )
                self._remove()
                return
            self.count += 1

    # --- the end ---------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of it.  What is here stays."""
        with self._lock:
            self._close()
            self.journal = None

    def remove(self) -> None:
        """
        Take it all away: the object is stored, and the caller has written that down, or it is
        given up.
        """
        with self._lock:
            self._remove()

    def _remove(self) -> None:
        self._close()
        self.journal, journal = None, self._read_journal()
        # First of all, so that nobody goes on with less than all of it.
        self._files.remove(self._path)
        if journal is not None:
            for upload in (journal.upload, journal.before):
                if upload is not None:
                    self._files.remove(self._sealed(upload))

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            self._system.close(descriptor)

    def _opened(self) -> int:
        if self._descriptor is None:
            raise ValueError("the spool is not open")
        return self._descriptor

    def _read_all(self, length: int) -> bytes:
        pieces = []
        while length:
            piece = self._system.read(self._opened(), min(length, _READ))
            if not piece:
                raise ObjectDamaged("a sealed segment of the upload is not there any more")
            pieces.append(piece)
            length -= len(piece)
        return b"".join(pieces)
