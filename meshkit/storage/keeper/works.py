"""Steps that are taken to their end, whoever goes away, and what waits for all of them."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from meshkit.parts import shield

T = TypeVar("T")


class Works:
    """What is being done."""

    def __init__(self) -> None:
        self._begun: dict[Deferred[Any], None] = {}

    def __len__(self) -> int:
        return len(self._begun)

    def finish(self, work: Coroutine[Deferred[Any], Any, T]) -> Deferred[T]:
        """
        Begin something that is taken to its end.

        @return: see L{meshkit.parts.shield}.
        """
        begun = Deferred.fromCoroutine(work)
        if not begun.called:
            self._begun[begun] = None

            def done(result: Any) -> Any:
                del self._begun[begun]
                return result

            begun.addBoth(done)
        return shield(begun)

    async def settle(self) -> None:
        """Wait until nothing is being done, also of what begins meanwhile."""
        while self._begun:
            waiting: Deferred[None] = Deferred()

            def told(result: Any, waiting: Deferred[None] = waiting) -> Any:
                waiting.callback(None)
                return result

            next(iter(self._begun)).addBoth(told)
            await waiting
