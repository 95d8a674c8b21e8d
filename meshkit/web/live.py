"""
What an agent should do now, said before it asks.

The description of the status tool ends with a few lines that are always true: is the node
ready, is something to be done?  When they change, every client is told that the list of
tools has changed, and so reads them anew.  Numbers that change all the time are not among
them, or agents would be told all the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

#: Seconds between looks at what is to be said.
LOOK: Final = 2.0

#: Sentences that are shown, and characters of each.
MAX_ADVICE: Final = 12
MAX_SENTENCE: Final = 300

_STARTING: Final = "Now: the node is starting. Wait a moment; until then tools answer NOT_READY."
_CLEAR: Final = "Now: the node is ready, and nothing has to be done."
_READY: Final = "Now: the node is ready."


class LiveStatus:
    """
    Knows what is to be said, and notices when that changes.

    It begins to look when it is read for the first time, as long as nobody has read it
    there is nobody to tell.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        ready: Callable[[], bool],
        advice: Callable[[], Sequence[str]],
        changed: Callable[[], None],
    ) -> None:
        """
        @param ready: is the node?
        @param advice: what its parts have to say.  Asked while it is ready only.
        @param changed: called when the text is another than it was.
        """
        self._clock = clock
        self._ready = ready
        self._advice = advice
        self._changed = changed
        self._told = ""
        self._due: IDelayedCall | None = None
        self._stopped = False

    def text(self) -> str:
        """@return: what is to be said now; some lines."""
        now = self._text()
        if self._due is None and not self._stopped:
            self._told = now
            self._due = self._clock.callLater(LOOK, self._look)
        return now

    def stop(self) -> None:
        """Look no more."""
        self._stopped = True
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _text(self) -> str:
        if not self._ready():
            return _STARTING
        advice = [_one_line(sentence) for sentence in self._advice()]
        if not advice:
            return _CLEAR
        return "\n".join([_READY, *(f"ACTION: {each}" for each in advice[:MAX_ADVICE])])

    def _look(self) -> None:
        self._due = self._clock.callLater(LOOK, self._look)
        try:
            now = self._text()
        except Exception:
            # It is looked at again; what was said stays.
            self._log.failure("it cannot be said how this node is doing")
            return
        if now != self._told:
            self._told = now
            self._changed()


def _one_line(sentence: str) -> str:
    return " ".join(sentence.split())[:MAX_SENTENCE]
