"""
What publishers are told about messages that are good here and that somebody else, to whom
they go as well, will refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger

#: Warnings that are given in words; of the others it is said how many there are.
MAX_WARNINGS: Final = 10
#: Messages that are judged at once where the reactor waits for it; more go to the threads.
INLINE: Final = 4
#: Messages of one call in a thread.
_STEP: Final = 256

#: C{judge(raw)}: a sentence about a message, or L{None}.  Called from any thread.
Judge = Callable[[bytes], "str | None"]


@frozen(eq=False)
class _Adviser:
    judge: Judge
    told: Callable[[int], None]


def _judged(judge: Judge, raws: Sequence[bytes]) -> list[str | None]:
    return [judge(raw) for raw in raws]


def shortened(sentences: Iterable[str]) -> list[str]:
    """The first L{MAX_WARNINGS} sentences, and how many there are beside them."""
    warnings = list(sentences)
    more = len(warnings) - MAX_WARNINGS
    return warnings if more <= 0 else [*warnings[:MAX_WARNINGS], f"and {more} more of this kind"]


@define(eq=False)
class Advice:
    """
    The advisers of a node.

    @ivar run: makes a call in the worker pool, whatever else waits there.
    """

    _log = Logger()

    run: Callable[..., Deferred[list[str | None]]]
    # In the order in which they came; the values say nothing.
    _advisers: dict[_Adviser, None] = field(factory=dict, init=False)

    def add(self, judge: Judge, told: Callable[[int], None]) -> Callable[[], None]:
        """See L{meshkit.interfaces.IFeedStore.advise}."""
        adviser = _Adviser(judge, told)
        self._advisers[adviser] = None

        def remove() -> None:
            del self._advisers[adviser]

        return remove

    async def about(self, raws: Sequence[bytes]) -> list[str]:
        """
        The warnings about messages that were published together.

        They are stored by now: an adviser that fails is logged, and fails nothing.
        """
        warnings: list[str] = []
        more = 0
        for adviser in list(self._advisers):
            try:
                sentences = await self._ask(adviser.judge, raws)
            except Exception:
                self._log.failure("an adviser about what is published failed")
                continue
            given = [(n, text) for n, text in enumerate(sentences, 1) if text is not None]
            if given:
                adviser.told(len(given))
            for number, text in given:
                if len(warnings) < MAX_WARNINGS:
                    warnings.append(text if len(raws) == 1 else f"message {number}: {text}")
                else:
                    more += 1
        if more:
            warnings.append(f"and {more} more of this kind")
        return warnings

    async def _ask(self, judge: Judge, raws: Sequence[bytes]) -> list[str | None]:
        if len(raws) <= INLINE:
            return _judged(judge, raws)
        sentences: list[str | None] = []
        for at in range(0, len(raws), _STEP):
            sentences += await self.run(_judged, judge, raws[at : at + _STEP])
        return sentences
