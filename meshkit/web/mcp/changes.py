"""
Telling clients that something changed: not too often, and never not at all.

The first change is told at once.  What changes within L{quiet_seconds
<meshkit.web.mcp.limits.Limits.quiet_seconds>} after that is told once, at their end.  A
client that is told so asks for the whole anew, so that no change can be missed by telling
of the last one only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from attrs import field, frozen
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from meshkit.web.mcp import wire

TOOLS: Final = "tools"
PROMPTS: Final = "prompts"
RESOURCES: Final = "resources"

#: Of the stateless generation: what a listener asks for, and the list it stands for.
LISTENED: Final[Mapping[str, str]] = {
    "toolsListChanged": TOOLS,
    "promptsListChanged": PROMPTS,
    "resourcesListChanged": RESOURCES,
}


@frozen
class Change:
    """
    @ivar subject: L{TOOLS}, L{PROMPTS} or L{RESOURCES}: the list of them; or the URI of a
        resource.
    @ivar is_list: which of the two.
    """

    subject: str
    is_list: bool = True

    def text(self, meta: Mapping[str, Any] | None = None) -> bytes:
        """@return: the notification."""
        params: dict[str, Any] = {}
        if not self.is_list:
            params["uri"] = self.subject
        if meta is not None:
            params["_meta"] = meta
        if self.is_list:
            return wire.notification(f"notifications/{self.subject}/list_changed", params or None)
        return wire.notification("notifications/resources/updated", params)


@frozen(eq=False)
class Listener:
    """
    Somebody who is told.

    @ivar tell: called with each L{Change} they want.
    @ivar end: called when the server stops.
    @ivar lists: the lists they want to hear of.
    @ivar uris: the resources they want to hear of.
    """

    tell: Callable[[Change], None]
    end: Callable[[], None]
    lists: Collection[str]
    uris: Collection[str] = field(factory=tuple)

    def wants(self, change: Change) -> bool:
        """Is this one of them?"""
        return change.subject in (self.lists if change.is_list else self.uris)


class Announcer:
    """Knows who listens, and when it told them last."""

    def __init__(self, clock: IReactorTime, quiet_seconds: float) -> None:
        self._clock = clock
        self._quiet_seconds = quiet_seconds
        # A dict, for its order: all are told in the order in which they came.
        self._listeners: dict[Listener, None] = {}
        # What was told within the last moment, and was there more since then?
        self._quiet: dict[Change, bool] = {}
        self._timers: dict[Change, IDelayedCall] = {}

    def __len__(self) -> int:
        return len(self._listeners)

    def add(self, listener: Listener) -> None:
        """Begin to tell somebody."""
        self._listeners[listener] = None

    def remove(self, listener: Listener) -> None:
        """No more.  It does no harm to say so twice."""
        self._listeners.pop(listener, None)

    def changed(self, change: Change) -> None:
        """Tell everybody who wants to know, now or soon."""
        if change in self._quiet:
            self._quiet[change] = True
        elif any(listener.wants(change) for listener in self._listeners):
            # What nobody wants to hear of is not remembered: URIs are without number.
            self._tell(change)

    def stop(self) -> None:
        """End all listeners, and all waiting."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._quiet.clear()
        listeners, self._listeners = self._listeners, {}
        for listener in listeners:
            listener.end()

    def _tell(self, change: Change) -> None:
        self._quiet[change] = False
        self._timers[change] = self._clock.callLater(self._quiet_seconds, self._again, change)
        for listener in list(self._listeners):
            if listener.wants(change):
                listener.tell(change)

    def _again(self, change: Change) -> None:
        del self._timers[change]
        if self._quiet.pop(change):
            self._tell(change)
