"""
Starting the node of a data folder in the background, for those who find none running.

Several programs may want it at the same moment, and exactly one node must come of it::

    a door, and the lock is held   -> that is the node
    the lock is held, no door yet  -> somebody's node is starting: wait
    nobody holds the lock          -> who gets the turn (start.lock) runs twistd; the
                                      others wait, and try when the turn comes back

The turn only saves the others the work.  What decides is the lock of the folder, which the
node itself takes: a twistd that comes second is refused with C{DATA_FOLDER_LOCKED}, and
whoever ran it waits for the first one's door.

The node leads a session of its own from its first moment, so it outlives whoever started
it, their process group and their terminal.  What it says goes to C{node.log} in the data
folder, the end of which is in the error if it does not start.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
from attrs import frozen
from twisted.internet.task import deferLater

from meshkit.cli.locate import TOKEN_VARIABLE, find_door, init_command, start_command, the_door
from meshkit.errors import (
    CannotListen,
    ConfigError,
    DataFolderLocked,
    NodeNotStarted,
    NotFound,
    PassphraseRequired,
)
from meshkit.runtime.config import config_file
from meshkit.runtime.files import LocalFiles
from meshkit.runtime.folder import DataFolder

__all__ = [
    "LOG_NAME",
    "LOOK_EVERY",
    "START_SECONDS",
    "Launched",
    "Starter",
    "launch_twistd",
]

#: The log of a node that was started here, in its data folder.
LOG_NAME: Final = "node.log"
#: Seconds that a node may take to be ready.
START_SECONDS: Final = 45.0
#: Seconds between two looks.
LOOK_EVERY: Final = 0.05
#: How often it is tried, should others take the lock and give it back each time.
ATTEMPTS: Final = 3
#: Lines and bytes of the log that an error shows.
LOG_LINES: Final = 12
LOG_BYTES: Final = 8 * 1024

# "python -m twisted" is twist, and twistd may not be on the PATH.
_TWISTD: Final = "import sys; from twisted.scripts.twistd import run; sys.exit(run())"
_REFUSAL: Final = re.compile(r"mesh-[a-z]+: (.*) \[([A-Z][A-Z0-9_]*)\]")
#: In place of a default that is taken, if its owner has not asked for it: setting -> flags.
_WAY_OUT: Final = {"api": ("--api", "auto"), "listen": ("--listen", "tcp:0")}


class Launched(Protocol):
    """A daemon that was launched, until it has forked away or failed."""

    def poll(self) -> int | None:
        """@return: its exit code, or L{None} as long as there is none."""


Launch = Callable[[DataFolder, Sequence[str]], Launched]


def launch_twistd(folder: DataFolder, arguments: Sequence[str]) -> Launched:
    """
    Run the folder's program as a daemon of C{twistd}.

    @param arguments: flags of it.
    @raise OSError: if it cannot be run.
    """
    command = [
        sys.executable,
        # Whoever starts us may stand in a folder with a file twisted.py.
        "-P",
        "-c",
        _TWISTD,
        "--pidfile=",
        f"--logfile={folder.file(LOG_NAME)}",
        folder.program(),
        "--data-dir",
        folder.path,
        *arguments,
    ]
    # What opens the door for us is not for the node.
    environment = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
    # What it says before it has a log goes to the same file.
    log = os.open(
        folder.file(LOG_NAME), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
    )
    try:
        return subprocess.Popen(
            command,
            cwd=folder.path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    finally:
        os.close(log)


@frozen
class _Attempt:
    """
    @ivar log: size of the log when it began.
    @ivar flags: what the node was given.
    """

    process: Launched
    log: int
    flags: tuple[str, ...]


class Starter:
    """Finds the door of a folder's node, and starts the node if it has to be."""

    def __init__(
        self,
        reactor: Any,
        folder: DataFolder,
        *,
        pid: int,
        environ: Mapping[str, str],
        may_start: bool = True,
        launch: Launch = launch_twistd,
        seconds: float = START_SECONDS,
    ) -> None:
        """
        @param reactor: gives the time.
        @param pid: our process id, for people who look into the folder.
        @param environ: the process environment, which the node inherits.
        @param may_start: else only a node that runs, or is being started, is found.
        @param seconds: how long to wait until it is ready.
        """
        self._reactor = reactor
        self._folder = folder
        self._pid = pid
        self._environ = environ
        self._may_start = may_start
        self._launch = launch
        self._seconds = seconds

    async def door(self) -> str:
        """
        @return: where the door is, as L{find_door} has it.
        @raise DoorUnreachable: if no node runs and none is to be started; or it has no door.
        @raise NotFound: if the folder has no identity: C{meshkit init} makes one.
        @raise PassphraseRequired: if its key file is under a passphrase.
        @raise NodeNotStarted: if it ended again, or was not ready in time.
        """
        folder = self._folder
        deadline = self._reactor.seconds() + self._seconds
        give_back: Callable[[], None] | None = None
        attempt: _Attempt | None = None
        attempts = 0
        try:
            while True:
                url = find_door(folder)
                if url is not None:
                    return url
                if attempt is not None:
                    attempt = self._judge(attempt)
                if attempt is None and not folder.in_use():
                    if not self._may_start:
                        the_door(folder)
                    if give_back is None:
                        self._check()
                        give_back = folder.take_turn(self._pid)
                    if give_back is not None:
                        if attempts == ATTEMPTS:
                            raise self._failed("others take the data folder and leave it again")
                        attempts += 1
                        attempt = self._try(())
                if self._reactor.seconds() >= deadline:
                    raise self._failed(
                        f"it is not ready after {self._seconds:.0f} s"
                        + (f", the folder is held by {folder.holder()}" if folder.in_use() else "")
                    )
                await deferLater(self._reactor, LOOK_EVERY)
        finally:
            if give_back is not None:
                give_back()

    def _check(self) -> None:
        """Is it a folder that a node can be started on, without a person?"""
        # Not needed where the node runs already, and slow to import.
        from meshkit.runtime.keyring import needs_passphrase, stored_public

        try:
            stored_public(self._folder)
        except FileNotFoundError:
            raise NotFound(
                f"there is no identity in {self._folder.path}: make one with "
                f"'{init_command(self._folder)}', or name another folder with --data-dir"
            ) from None
        if needs_passphrase(self._folder):
            raise PassphraseRequired(
                f"the key file of {self._folder.path} is under a passphrase, and there is nobody "
                f"to ask: start the node yourself with '{start_command(self._folder)}'"
            )

    def _try(self, flags: tuple[str, ...]) -> _Attempt:
        size = self._log_size()
        try:
            return _Attempt(self._launch(self._folder, flags), size, flags)
        except OSError as e:
            raise self._failed(f"{e.filename or 'twistd'} cannot be used: {e.strerror}") from None

    def _judge(self, attempt: _Attempt) -> _Attempt | None:
        """
        How is it going?

        @return: the attempt to wait for: this one, another one, or somebody else's.
        """
        code = attempt.process.poll()
        if code is None:
            return attempt
        if code == 0:
            # The daemon has the lock before the process that we see ends.
            if self._folder.in_use():
                return attempt
            raise self._failed(self._why(attempt)[0])
        why, refusal = self._why(attempt)
        if refusal == DataFolderLocked.code:
            return None
        if refusal == CannotListen.code and not attempt.flags:
            flags = self._ways_out()
            if flags:
                return self._try(flags)
        raise self._failed(why)

    def _ways_out(self) -> tuple[str, ...]:
        """
        Flags for a node whose default ports are taken, by another node most likely.  A port
        that somebody has chosen is not replaced.
        """
        try:
            file = config_file(None, self._folder.path, LocalFiles())
            chosen = {} if file is None else tomllib.loads(file[1].decode("utf-8"))
        except (ConfigError, ValueError):
            return ()
        flags: list[str] = []
        for setting, way in _WAY_OUT.items():
            if setting not in chosen and f"MESHKIT_{setting.upper()}" not in self._environ:
                flags += way
        return tuple(flags)

    # --- its log -------------------------------------------------------------------

    def _log_size(self) -> int:
        try:
            return os.stat(self._folder.file(LOG_NAME)).st_size
        except FileNotFoundError:
            return 0

    def _log_end(self, since: int) -> list[str]:
        try:
            with open(self._folder.file(LOG_NAME), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size < since:
                    since = 0  # a new one was begun
                file.seek(max(since, size - LOG_BYTES))
                text = file.read(LOG_BYTES).decode("utf-8", "replace")
        except OSError as e:
            return [f"(it cannot be read: {e.strerror})"]
        return [_message(line) for line in text.splitlines()[-LOG_LINES:]]

    def _why(self, attempt: _Attempt) -> tuple[str, str]:
        """@return: what the node said for its end, and the code of that; empty, if none."""
        lines = self._log_end(attempt.log)
        for each in reversed(lines):
            found = _REFUSAL.search(each)
            if found is not None:
                return f"{found[1]} [{found[2]}]", found[2]
        return (lines[-1] if lines else "it said nothing"), ""

    def _failed(self, why: str) -> NodeNotStarted:
        error = NodeNotStarted(
            f"the node on {self._folder.path} could not be started: {why}. Its log is "
            f"{self._folder.file(LOG_NAME)}"
        )
        error.details = {
            "log": self._folder.file(LOG_NAME),
            "log_end": self._log_end(0),
        }
        return error


def _message(line: str) -> str:
    """What a line of the log says, which may be one of JSON."""
    try:
        return msgspec.json.decode(line, type=_Event).message
    except msgspec.MsgspecError:
        return line


class _Event(msgspec.Struct):
    message: str
