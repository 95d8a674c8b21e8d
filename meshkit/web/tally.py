"""What a site did since it was made, for those who watch it."""

from __future__ import annotations

from collections import Counter

from attrs import Factory, define


@define
class Tally:
    """
    @ivar connections: connections that were taken.
    @ivar turned_away: connections that were one too many.
    @ivar received: bytes of the bodies of requests.
    @ivar sent: bytes of the bodies of answers that came to their end.
    @ivar answers: how many answers had which status.
    """

    connections: int = 0
    turned_away: int = 0
    received: int = 0
    sent: int = 0
    answers: Counter[int] = Factory(Counter)

    def answered(self, status: int, size: int) -> None:
        """An answer came to its end; C{size} are the bytes of its body."""
        self.answers[status] += 1
        self.sent += size
