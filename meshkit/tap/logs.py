"""
Where the log of a daemon goes, and in which form: what C{twistd} and C{twist} decide, and
what the settings C{log_format} and C{log_level} say.

Both runners have made up their minds about the log before a service starts, and each in
its own way: C{twistd} asks the application for a component, C{twist} keeps a factory among
its options.  So these are put there when the service is made.  An observer that was named
with C{twistd --logger} is left alone.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import IO, Any, Final, Literal

from attrs import frozen
from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
)
from twisted.python.logfile import LogFile
from zope.interface import implementer

from meshkit.runtime.logs import Redact, json_line, plain_text, speaker, text_lines

Format = Literal["auto", "json", "text"]
Level = Literal["debug", "info", "warn", "error", "critical"]

#: What C{twistd} calls the file of a daemon that was given no name for it.
DEFAULT_FILE: Final = "twistd.log"

#: How many files that were turned over are kept, a million bytes each.
OLD_FILES: Final = 20

# syslog(3).
_PRIORITIES: Final = {"critical": 2, "error": 3, "warn": 4, "info": 6, "debug": 7}


@frozen
class LogChoice:
    """
    What the settings say.

    @ivar format: C{auto}: text for a terminal, JSON for anything else.
    @ivar level: what is less important is left out; L{None} if nothing was said.
    @ivar redact: takes secrets out of texts.
    """

    format: Format
    level: Level | None
    redact: Redact

    def observer(self, out: IO[Any], auto: Format | None = None) -> ILogObserver:
        """
        @param out: an open file, of text or of bytes.
        @param auto: what C{auto} is; without it, that depends on the file.
        @return: what writes every event that matters to the file.
        """
        form = self.format
        if form == "auto":
            form = auto or ("text" if _is_terminal(out) else "json")
        show = json_line if form == "json" else text_lines
        return self.filtered(FileLogObserver(out, partial(show, redact=self.redact)))

    def filtered(self, observer: ILogObserver) -> ILogObserver:
        """@return: an observer that tells another one what matters."""
        level = LogLevel.levelWithName(self.level or "info")
        return FilteringLogObserver(observer, [LogLevelFilterPredicate(defaultLogLevel=level)])


def _is_terminal(out: Any) -> bool:
    isatty = getattr(out, "isatty", None)
    return isatty is not None and bool(isatty())


def set_up(runner: Any, choice: LogChoice, reactor: Any) -> Callable[[Any], None]:
    """
    Tell the runner of a service how to log.

    @param runner: the runner's options, or L{None} for a service that was made by hand: its
        maker has logging of its own.
    @return: to be called with the application that the service is put into.
    """
    if runner is not None and "fileLogObserverFactory" in runner:
        _under_twist(runner, choice)
    elif runner is not None and "nodaemon" in runner and not runner.get("logger"):
        return partial(_under_twistd, runner, choice, reactor)
    return _leave


def _leave(application: Any) -> None:
    """This application's log is not ours to arrange."""


def _under_twist(runner: MutableMapping[str, Any], choice: LogChoice) -> None:
    if choice.level is None:
        # Its own --log-level stands, which lets less important events through or not.
        choice = LogChoice(choice.format, "debug", choice.redact)
    else:
        runner["logLevel"] = LogLevel.levelWithName(choice.level)
    runner["fileLogObserverFactory"] = partial(choice.observer, auto=runner.get("logFormat"))


def _under_twistd(runner: Any, choice: LogChoice, reactor: Any, application: Any) -> None:
    observer = (
        choice.filtered(_Syslog(runner.get("prefix", ""), choice.redact))
        if runner.get("syslog")
        else choice.observer(_file(runner, reactor))
    )
    application.setComponent(ILogObserver, observer)


def _file(runner: Any, reactor: Any) -> IO[Any]:
    """The file that twistd would have taken, and that it would turn over at SIGUSR1."""
    name = runner.get("logfile")
    if name == "-" and not runner["nodaemon"]:
        raise SystemExit("Daemons cannot log to stdout, exiting!")
    if runner["nodaemon"] and name in ("-", "", None):
        # Bytes, as the terminal's encoding need not have what is to be written.
        sys.stdout.flush()
        return getattr(sys.stdout, "buffer", sys.stdout)
    file: Any = LogFile.fromFullPath(name or DEFAULT_FILE, maxRotatedFiles=OLD_FILES)
    if not signal.getsignal(signal.SIGUSR1):

        def turn_over(_number: int, _frame: object) -> None:
            reactor.callFromThread(file.rotate)

        signal.signal(signal.SIGUSR1, turn_over)
    opened: IO[Any] = file
    return opened


@implementer(ILogObserver)
class _Syslog:
    """Writes to the system's log, each line of an event as a line of its own."""

    def __init__(self, prefix: str, redact: Redact) -> None:
        from twisted.python.syslog import SyslogObserver

        self._inner: Any = SyslogObserver(prefix)
        self._redact = redact

    def __call__(self, event: LogEvent) -> None:
        level = getattr(event.get("log_level"), "name", "info")
        self._inner.emit(
            {
                "message": (plain_text(event, self._redact),),
                "system": speaker(event),
                "isError": False,
                "syslogPriority": _PRIORITIES[level],
            }
        )
