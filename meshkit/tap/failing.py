"""
How a daemon says that it cannot start: one line on the shell, exit code 1.

C{twistd} daemonises before a service starts, and captures standard error for its log.
So the shell's own stderr is kept aside when the service is made, before the fork, and
the line is written there.  What is raised after it has to pass three different
runners: C{twistd -n} and C{twist} let a L{SystemExit} end the process without a
traceback; C{twistd} as a daemon reports an L{Exception} through a pipe to the process
that the shell waits for, which exits with 1.  L{StartFailed} is both.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.components import Componentized

from meshkit.errors import MeshkitError, StartError


class StartFailed(SystemExit, Exception):
    """The daemon did not start; why was said on the shell."""

    def __init__(self, error: MeshkitError) -> None:
        super().__init__(1)
        self._error = error

    def __str__(self) -> str:
        return self._error.code


def _join(application: Componentized) -> None:
    """Nothing is to be arranged with the application."""


class Daemon(Service):
    """
    A service whose failures to start are told to the shell.

    @ivar name: of the command, for the line.
    """

    _log = Logger()

    def __init__(
        self,
        name: str,
        reactor: Any,
        make: Callable[[Callable[[MeshkitError], None]], Service],
        joining: Callable[[Any], None] = _join,
    ) -> None:
        """
        @param make: called once with what to call when starting fails later on.
        @param joining: called with the application that this is put into.
        """
        self._joining = joining
        self._command = name
        self._reactor = reactor
        self._shell: int | None = _duplicate_stderr()
        self._inner: Any = make(self.failed_later)

    def setServiceParent(self, parent: Any) -> None:
        super().setServiceParent(parent)
        if isinstance(parent, Componentized):
            self._joining(parent)

    def privilegedStartService(self) -> None:
        self._guard(self._inner.privilegedStartService)

    def startService(self) -> None:
        self._guard(self._inner.startService)
        super().startService()
        self._release_shell()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        stopped: Deferred[None] = self._inner.stopService()
        return stopped

    def _guard(self, step: Callable[[], Any]) -> None:
        try:
            step()
        except StartError as e:
            self._tell(e)
            self._release_shell()
            raise StartFailed(e) from None

    def _tell(self, error: MeshkitError) -> None:
        text = f"{self._command}: {error} [{error.code}]"
        self._log.error("{text}", text=text)
        shell = 2 if self._shell is None else self._shell
        try:
            os.write(shell, text.encode("utf-8", "backslashreplace") + b"\n")
        except OSError as e:
            # The shell is gone; the log has the line.
            self._log.info("no shell to tell: {reason}", reason=str(e))

    def _release_shell(self) -> None:
        # Else a pipe that somebody reads would not end as long as the daemon lives.
        if self._shell is not None:
            os.close(self._shell)
            self._shell = None

    def failed_later(self, error: MeshkitError) -> None:
        """Starting failed while the reactor was already running: stop it, exit with 1."""
        self._tell(error)
        # Neither twistd nor twist has a way to set the exit code of a stopped reactor.
        atexit.register(_exit_with_failure)
        self._reactor.stop()


def _exit_with_failure() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _duplicate_stderr() -> int | None:
    try:
        return os.dup(2)
    except OSError:
        # Started without a standard error: there is no shell to tell.
        return None
