"""
Who gives away messages that their authors have not signed.

B{On the wire.}  It heeds what it hears as an honest node does, and has all feeds.  In each
page that somebody turns on, one message is false; and of its own accord it says of some feed
that there is one message more than there is, so that others turn to it.  Ways:

  - C{content}, C{hash}, C{signature}, C{name}: a message in a page, see L{forge};
  - C{next}: one message more than there is, signed by the liar in the author's name, or by
    the author for the one before it;
  - C{gap}: what was asked for is said to be gone, and a false message names the hash of it;
  - C{proof}: a proof of a fork, of a true message and a false one.

B{What honest nodes must do.}  Refuse the message, store and pass on nothing of it, and have
the feed from somebody else.  Each costs 0.9 of the score, and after a hundred on one
connection the liar is banned.  A proof that proves nothing costs 40 and the connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, ClassVar, Final

from meshkit.feed.message import Message
from meshkit.gossip.codec import Gone, Note, Proof
from meshkit.sim.liars.forging import MESSAGE_WAYS, forge, forge_after
from meshkit.sim.liars.liar import EVERY, Liar
from meshkit.sim.liars.library import Leaf
from meshkit.sim.liars.peer import LiarPeer
from meshkit.sim.liars.wires import Wire

if TYPE_CHECKING:
    from meshkit.sim.host import SimHost
    from meshkit.sim.world import World

__all__ = ["Forged"]


#: What it does with a feed of which it has said that there is one message more: waits for that
#: message to alter it, makes one, says that it is gone.
_PLANS: Final = ("wait", "next", "next", "gap")
#: It does not say so but shows a false proof once in so many times.
_PROOF_ONCE_IN: Final = 20


class _Peer(LiarPeer):
    liar: Forged

    def __init__(self, liar: Forged, key: bytes, wire: Wire) -> None:
        super().__init__(liar, key, wire)
        # Feeds of which the other side was told that there is one message more -> what
        # becomes of that.
        self._plans: dict[bytes, str] = {}

    def page(self, author: bytes, first: int) -> list[Leaf]:
        page = super().page(author, first)
        if author == self.liar.key:
            return page
        liar = self.liar
        feed = liar.library.feeds.get(author, [])
        if page:
            at = liar.rng.randrange(len(page))
            page[at] = forge(
                liar.next_way(), feed[page[at].sequence - 1], liar.mark(), liar.identity
            )
        elif self._plans.get(author) == "next" and first == len(feed) + 1:
            way = liar.rng.choice(("hash", "name"))
            page.append(forge_after(way, feed[-1], liar.mark(), liar.identity))
        return page

    def give(self, author: bytes, first: int, page: Sequence[Leaf]) -> None:
        super().give(author, first, page)
        self._plans.pop(author, None)
        for leaf in page:
            if leaf.way:
                self.liar.forged(author, leaf)

    def serve(self, author: bytes) -> None:
        feed = self.liar.library.feeds.get(author, [])
        if self._plans.get(author) == "gap" and self.serving.get(author) == len(feed) + 1:
            self._leave_out(author, feed)
        else:
            super().serve(author)

    def act(self) -> None:
        """Lie about some feed."""
        known = self.known()
        if not known:
            return
        rng = self.liar.rng
        author, feed = rng.choice(known)
        if rng.randrange(_PROOF_ONCE_IN) == 0:
            self._prove(author, feed)
        else:
            self._plans[author] = rng.choice(_PLANS)
            self.say(Note([(author, len(feed) + 1, self.flags(author))]))
            self.serve(author)

    def _prove(self, author: bytes, feed: Sequence[Message]) -> None:
        message = self.liar.rng.choice(feed)
        leaf = forge("name", message, self.liar.mark(), self.liar.identity)
        self.liar.forged(author, leaf, "proof")
        self.say(Proof(author, message.raw, leaf.text))

    def _leave_out(self, author: bytes, feed: Sequence[Message]) -> None:
        leaf = forge_after("name", feed[-1], self.liar.mark(), self.liar.identity, skip=1)
        self.liar.forged(author, leaf, "gap")
        del self._plans[author], self.serving[author]
        self.say(Gone(author, leaf.sequence - 1, self.liar.rng.randbytes(32), leaf.text))


class Forged(Liar):
    """See the module."""

    kind: ClassVar[str] = "forged"
    ways: tuple[str, ...] = (*MESSAGE_WAYS, "next", "gap", "proof")
    peer: ClassVar[type[LiarPeer]] = _Peer

    def __init__(
        self, world: World, host: SimHost, dials: Sequence[str] = (), *, every: float = EVERY
    ) -> None:
        super().__init__(world, host, dials, every=every)
        self._message_ways = cycle(MESSAGE_WAYS)

    def next_way(self) -> str:
        """@return: in which way the next message in a page is false."""
        return next(self._message_ways)
