"""
The data folder: one daemon at a time, for its owner's eyes only.

::

    lock             held by the running daemon; says which process that is
    format           version of what lies here, a decimal number
    endpoints.json   the addresses listened on, while a daemon runs
    start.lock       held by whoever is starting a daemon in the background
    door.port        the port that api = "auto" found last time
    program          the daemon that runs here, if that is not mesh-node
    ...              the secrets, the settings, the database, a folder for each part
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec

from meshkit.errors import (
    DataFolderLocked,
    DoorUnreachable,
    NewerSchema,
    StartError,
    UnsafePermissions,
)
from meshkit.interfaces import IFiles

__all__ = ["FORMAT", "MAX_ENDPOINTS_BYTES", "MAX_SECRET_BYTES", "DataFolder"]

#: Version of the layout above.
FORMAT: Final = 1
#: The largest secret file: keys and tokens are far smaller.
MAX_SECRET_BYTES: Final = 64 * 1024
#: The largest endpoint file.
MAX_ENDPOINTS_BYTES: Final = 64 * 1024

_MAX_NOTE_BYTES: Final = 256
_FOR_OTHERS: Final = 0o077
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LAST_PORT: Final = 65_535
_PORT: Final = re.compile(rb"[1-9][0-9]{0,4}\n?")
_NUMBER: Final = re.compile(rb"(0|[1-9][0-9]{0,8})\n?")
_PROGRAM: Final = re.compile(rb"([a-z][a-z0-9-]{0,31})\n?")
#: The daemon of a folder in which nothing is said of it.
_FIRST_PROGRAM: Final = "mesh-node"


class DataFolder:
    """
    See the module.  Its methods block; they are for before the reactor runs, for
    starts and stops, and for the command line.

    @ivar path: of the folder, absolute.
    """

    def __init__(self, path: str, files: IFiles) -> None:
        self.path = os.path.abspath(path)
        self._files = files
        self._release: Callable[[], None] | None = None

    def file(self, name: str) -> str:
        """
        @param name: C{[a-z0-9][a-z0-9._-]{0,63}}.
        @return: path of a file in the folder.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a file in the data folder")
        return os.path.join(self.path, name)

    @contextmanager
    def _starting(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StartError(f"cannot {doing} {error.filename}: {error.strerror}") from error

    def prepare(self) -> None:
        """
        Make the folder if there is none, and check it.  Takes no lock.

        @raise UnsafePermissions: if other users have any right to it.
        @raise NewerSchema: if a newer meshkit has been here.
        @raise StartError: if it cannot be made.
        """
        with self._starting("make the data folder"):
            self._files.make_folder(self.path)
            mode = self._files.mode(self.path)
        if mode is not None and mode & _FOR_OTHERS:
            raise UnsafePermissions(
                f"other users have rights to the data folder {self.path} (mode {mode:04o}): "
                f"run chmod 700 {shlex.quote(self.path)}"
            )
        self._check_format()

    def lock(self, pid: int) -> None:
        """
        Make the folder ours until L{unlock}, or until the process ends in whatever way.
        Nothing happens if this object holds it already.

        To be called after the daemon has forked: the lock belongs to the process that
        takes it.

        @param pid: our process id, shown to whoever comes second.
        @raise DataFolderLocked: if another daemon has it.
        @raise StartError: as L{prepare}, which is called first.
        """
        if self._release is not None:
            return
        self.prepare()
        path = self.file("lock")
        try:
            with self._starting("lock"):
                release = self._files.lock(path, f"{pid}\n")
        except StartError as error:
            if isinstance(error.__cause__, BlockingIOError):
                raise DataFolderLocked(
                    f"the data folder {self.path} is in use by {self._holder(path)}: end that "
                    f"daemon first, or use another folder"
                ) from error
            raise
        try:
            self._check_format()  # again, now that nobody can change it
            with self._starting("write"):
                if self._files.mode(self.file("format")) is None:
                    self._files.create(self.file("format"), b"%d\n" % FORMAT)
                # Left by a daemon that was killed.
                self._files.remove(self.file("endpoints.json"))
        except BaseException:
            release()
            raise
        self._release = release

    def unlock(self) -> None:
        """Remove the endpoint file and give the folder back.  Nothing happens if it is not held."""
        release, self._release = self._release, None
        if release is not None:
            try:
                self.remove_endpoints()
            finally:
                release()

    @property
    def locked(self) -> bool:
        """Does this object hold the folder?"""
        return self._release is not None

    def in_use(self) -> bool:
        """
        Does a daemon, or a command that wants the folder to itself, hold it now?

        The lock decides, and not what lies here: a daemon that was killed leaves its
        endpoint file behind, and who listens there by now may be anybody.  What such a
        one left is taken away.

        @raise OSError: if the lock cannot be read.
        """
        if self._release is not None:
            return True
        path = self.file("lock")
        try:
            note = self._files.read(path, _MAX_NOTE_BYTES)
        except FileNotFoundError:
            return False
        if not note.strip():
            # Given back in good order.  Not to try it then keeps us out of the way of a
            # daemon that is about to take it.
            return False
        try:
            release = self._files.lock(path, note.decode("utf-8", "replace"))
        except BlockingIOError:
            return True
        try:
            self.remove_endpoints()
        finally:
            release()
        return False

    def take_turn(self, pid: int) -> Callable[[], None] | None:
        """
        Be the one who starts a daemon in the background, until the turn is given back or
        the process ends.  Who starts one in another way does not ask: the lock decides.

        @param pid: our process id, for people.
        @return: what gives the turn back; L{None} if somebody else has it.
        """
        try:
            return self._files.lock(self.file("start.lock"), f"{pid}\n")
        except BlockingIOError:
            return None

    def holder(self) -> str:
        """Who holds the folder, for people."""
        return self._holder(self.file("lock"))

    def _holder(self, path: str) -> str:
        try:
            note = self._files.read(path, _MAX_NOTE_BYTES).strip()
        except OSError:
            note = b""
        # It may be read before the holder has written it.
        return f"process {note.decode('ascii')}" if note.isdigit() else "another process"

    def _check_format(self) -> None:
        path = self.file("format")
        with self._starting("read"):
            if self._files.mode(path) is None:
                return
            content = self._files.read(path, _MAX_NOTE_BYTES)
        if not _NUMBER.fullmatch(content):
            raise StartError(
                f"{path} is damaged: it should hold the number {FORMAT}, or a larger one if a "
                f"newer meshkit was used here"
            )
        if int(content) > FORMAT:
            raise NewerSchema(
                f"the data folder {self.path} has format {int(content)}, and this version of "
                f"meshkit knows formats up to {FORMAT}: upgrade meshkit"
            )

    # --- secrets

    def read_secret(self, name: str, limit: int = MAX_SECRET_BYTES) -> bytes:
        """
        @param name: see L{file}.
        @return: the content.
        @raise UnsafePermissions: if other users have any right to the file, or if it
            is a symbolic link.
        @raise FileNotFoundError: if there is none.
        """
        return self._files.read_secret(self.file(name), limit)

    def write_secret(self, name: str, data: bytes) -> None:
        """Put a secret in the place of what was there, atomically, durably, with mode 0600."""
        self._files.write_atomic(self.file(name), data, 0o600)

    def create_secret(self, name: str, data: bytes) -> None:
        """
        Like L{write_secret}, but never in the place of another.

        @raise FileExistsError: if there is one.
        """
        self._files.create(self.file(name), data, 0o600)

    def remove_secret(self, name: str) -> None:
        """Remove a secret, durably; nothing happens if there is none."""
        self._files.remove(self.file(name))

    # --- endpoints

    def write_endpoints(self, endpoints: Mapping[str, Sequence[str]]) -> None:
        """
        Tell programs of this machine where the daemon listens.

        @param endpoints: for each door or port by its name, the addresses that are
            really listened on.
        @raise StartError: if it cannot be written.
        """
        content = msgspec.json.encode(
            {name: list(endpoints[name]) for name in sorted(endpoints)}, order="deterministic"
        )
        with self._starting("write"):
            self._files.write_atomic(self.file("endpoints.json"), content + b"\n", 0o600)

    def read_endpoints(self) -> dict[str, list[str]] | None:
        """
        @return: what the running daemon wrote, or L{None} if there is nothing.  After a
            crash it may be there though no daemon runs.
        @raise DoorUnreachable: if it cannot be read.
        """
        path = self.file("endpoints.json")
        try:
            content = self._files.read(path, MAX_ENDPOINTS_BYTES)
            return msgspec.json.decode(content, type=dict[str, list[str]])
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            raise DoorUnreachable(
                f"{path} does not say where the daemon listens ({error}): restart the daemon, "
                f"which writes it anew"
            ) from error

    def live_endpoints(self) -> dict[str, list[str]] | None:
        """
        Like L{read_endpoints}, but never what a daemon that was killed has left.

        @raise DoorUnreachable: if it cannot be read.
        """
        try:
            # In this order: whoever holds the folder has removed what others left.
            return self.read_endpoints() if self.in_use() else None
        except OSError as error:
            raise DoorUnreachable(
                f"whether a daemon runs on {self.path} cannot be seen "
                f"({error.strerror or error}): are you its owner?"
            ) from error

    def last_port(self) -> int:
        """The port that was remembered; 0 if none was."""
        try:
            content = self._files.read(self.file("door.port"), _MAX_NOTE_BYTES)
        except FileNotFoundError:
            return 0
        port = int(content) if _PORT.fullmatch(content) else 0
        return port if port <= _LAST_PORT else 0

    def remember_port(self, port: int) -> None:
        """Remember a port for the next start, durably."""
        self._files.write_atomic(self.file("door.port"), b"%d\n" % port, 0o600)

    def program(self) -> str:
        """
        Which daemon the folder is for, as an argument of C{twistd}: the one that ran here last,
        or that it was made for.
        """
        try:
            found = _PROGRAM.fullmatch(self._files.read(self.file("program"), _MAX_NOTE_BYTES))
        except OSError:
            # It is only for what is said to people; what matters of the folder is said by others.
            found = None
        return _FIRST_PROGRAM if found is None else found[1].decode("ascii")

    def remember_program(self, name: str) -> None:
        """
        Say which daemon the folder is for, durably.

        @raise StartError: if it cannot be written.
        """
        if name != self.program():
            with self._starting("write"):
                self._files.write_atomic(self.file("program"), b"%s\n" % name.encode(), 0o600)

    def remove_endpoints(self) -> None:
        """Say that nobody listens any more."""
        self._files.remove(self.file("endpoints.json"))
