"""How the parts of a node hear of each other without importing each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from attrs import define
from twisted.internet.defer import Deferred
from twisted.logger import Logger

__all__ = ["Bell", "EventBus"]

E = TypeVar("E")


@define(eq=False)
class _Subscription:
    callback: Callable[[Any], None]
    active: bool = True


class EventBus:
    """
    Hands events, which are values such as L{meshkit.interfaces.MessagesStored}, to
    whoever subscribed to their type.  For the reactor's thread alone.
    """

    _log = Logger()

    def __init__(self) -> None:
        self._subscriptions: dict[type, list[_Subscription]] = {}
        self._waiting: deque[object] = deque()
        self._publishing = False

    def subscribe(self, event_type: type[E], callback: Callable[[E], None]) -> Callable[[], None]:
        """
        Have C{callback(event)} called for every event of exactly this type that is
        published from now on.

        @return: what ends the subscription, at once; calling it again does nothing.
        """
        subscription = _Subscription(callback)
        self._subscriptions.setdefault(event_type, []).append(subscription)

        def unsubscribe() -> None:
            if subscription.active:
                subscription.active = False
                self._subscriptions[event_type].remove(subscription)

        return unsubscribe

    def publish(self, event: object) -> None:
        """
        Call everybody who subscribed to the event's type, in the order in which they
        did.  One who raises is logged, and keeps nobody else from being called.

        An event that is published by one of these calls is handed out when the present
        one has reached everybody, so that all see the same order.
        """
        self._waiting.append(event)
        if self._publishing:
            return
        self._publishing = True
        try:
            while self._waiting:
                self._deliver(self._waiting.popleft())
        finally:
            self._publishing = False

    def _deliver(self, event: object) -> None:
        # A copy, as a callback may subscribe or unsubscribe; who is new waits for the next.
        for subscription in tuple(self._subscriptions.get(type(event), ())):
            if not subscription.active:
                continue
            try:
                subscription.callback(event)
            except Exception:
                self._log.failure(
                    "a subscriber to {event_type} failed", event_type=type(event).__name__
                )


@define(eq=False)
class Bell:
    """
    Wakes one who waits.  Rung before that, it wakes at once, so that nothing is missed
    between a look and the wait that follows it::

        while True:
            bell.hush()
            await look()
            await bell.wait()
    """

    _rung: bool = False
    _waiting: Deferred[None] | None = None

    def ring(self) -> None:
        """Something may have come."""
        self._rung = True
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.called:
            waiting.callback(None)

    def hush(self) -> None:
        """What rang so far is being looked at."""
        self._rung = False

    def wait(self) -> Deferred[None]:
        """@return: Deferred that fires when it rings, or has since it was hushed."""
        waiting: Deferred[None] = Deferred()
        if self._rung:
            waiting.callback(None)
        else:
            self._waiting = waiting
        return waiting
