"""
What one peer is sent of the feeds that it turned on.

Feeds of which much is missing take turns, a page each, and the next page is read only
when the channel has taken the last one, so that a slow reader costs one page of memory.
What is new goes out at once to who is in step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from meshkit.gossip.codec import PAGE_BYTES, PAGE_MESSAGES, Gone, Messages
from meshkit.gossip.credit import Spending

if TYPE_CHECKING:
    from meshkit.gossip.link import GossipLink


class Serving:
    """
    One direction of a link.

    @ivar credit: how much the peer still takes.
    """

    def __init__(self, link: GossipLink, store: Any) -> None:
        self._link = link
        self._store = store
        self._busy = False
        self.credit = Spending()

    @property
    def _may_send(self) -> bool:
        return self._link.clear and self.credit.messages > 0 and self.credit.size > 0

    def wake(self) -> None:
        """Serve what is behind, if there is something and it may be sent."""
        if not self._busy and self._link.partner.behind and self._may_send:
            self._busy = True
            self._link.run(self._serve())

    async def _serve(self) -> None:
        behind = self._link.partner.behind
        try:
            while behind and self._may_send:
                if not await self._serve_page(next(iter(behind))):
                    break
        finally:
            self._busy = False

    async def _serve_page(self, author: bytes) -> bool:
        """@return: may the next feed be served?"""
        partner = self._link.partner
        due = partner.wanted[author]
        texts = await self._store.read(
            author,
            due - 1,
            min(PAGE_BYTES, self.credit.size),
            min(PAGE_MESSAGES, self.credit.messages),
        )
        if not self._link.open or partner.wanted.get(author) != due or author not in partner.behind:
            # It was turned off meanwhile, or the peer got it from elsewhere.
            return True
        # To the end of the line: the feeds take turns.
        last = partner.behind.pop(author)
        if not texts:
            await self._say_gone(author, due)
            return True
        partner.behind[author] = last
        count = self.credit.fitting(texts)
        self._send(author, due, texts[:count])
        return count == len(texts)

    async def _say_gone(self, author: bytes, due: int) -> None:
        """What is due is not kept here any more, or a fork was proven before it."""
        gap = await self._store.gone_until(author, due - 1)
        if gap is not None and self._link.partner.wanted.get(author) == due:
            self._link.send(Gone(author, gap.until, gap.head or bytes(32), gap.next or b""))

    def push(self, author: bytes, first: int, texts: Sequence[bytes]) -> None:
        """Send what was stored just now to a peer that is in step."""
        last = first + len(texts) - 1
        if self._link.clear and self.credit.fitting(texts) == len(texts):
            size = start = 0
            for number, text in enumerate(texts):
                size += len(text)
                if number > start and (size > PAGE_BYTES or number - start >= PAGE_MESSAGES):
                    self._send(author, first + start, texts[start:number])
                    start, size = number, len(text)
            self._send(author, first + start, texts[start:])
        else:
            self._link.spread.here(self._link.partner, author, last)
            self.wake()

    def _send(self, author: bytes, first: int, texts: Sequence[bytes]) -> None:
        if texts:
            self.credit.spend(texts)
            self._link.send(Messages(author, first, list(texts)))
            self._link.count_sent(len(texts))
            self._link.spread.sent(self._link.partner, author, first + len(texts) - 1)
