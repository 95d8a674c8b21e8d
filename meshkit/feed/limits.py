"""
How much of others' feeds, and of all feeds together, this node stores.  Pure.

A limit of bytes counts the texts, and L{ROW_BYTES} for each message beside them: so much
stays of a message whose text retention has taken, and so no limit is escaped by what is
kept for ever.  A limit of messages counts those with a text.

Of a limit on everything, an eighth is for this node's own feed: others cannot keep it from
publishing.  What an author may have does not apply to it.
"""

from __future__ import annotations

from typing import Final

import msgspec
from attrs import frozen

from meshkit.errors import LimitReached
from meshkit.identity.keys import PublicKey

#: What a message takes beside its text: its row, its place in the indexes.
ROW_BYTES: Final = 200
#: The part of a limit on everything that others leave to this node's own feed: 1/8.
OWN_SHARE: Final = 8
#: The part of a limit that has to be free before it is worth asking others again for what was
#: refused: 1/8.  With less, a page would be sent for each message that there is room for.
ROOM_SHARE: Final = 8


class Amount(msgspec.Struct, frozen=True):
    """
    How much is stored, or is to be.  Several are made for each message, hence no attrs class:
    that takes four times as long to make.

    @ivar stored: messages, with or without their text.
    @ivar texts: messages with their text.
    @ivar size: bytes of these texts.
    """

    stored: int = 0
    texts: int = 0
    size: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.stored + other.stored, self.texts + other.texts, self.size + other.size)

    def __neg__(self) -> Amount:
        return Amount(-self.stored, -self.texts, -self.size)

    @property
    def values(self) -> tuple[int, int, int]:
        return self.stored, self.texts, self.size

    @property
    def bytes(self) -> int:
        """What limits of bytes count."""
        return self.size + self.stored * ROW_BYTES


NOTHING: Final = Amount()


@frozen
class Limits:
    """
    The settings; 0 is no limit.

    @ivar max_author_messages: messages of one author.
    @ivar max_author_bytes: bytes of one author.
    @ivar max_messages: messages of all.
    @ivar max_bytes: bytes of all.
    """

    max_author_messages: int = 0
    max_author_bytes: int = 0
    max_messages: int = 0
    max_bytes: int = 0

    def check(
        self,
        author: PublicKey,
        of_author: Amount,
        of_all: Amount,
        own: Amount,
        more: Amount,
        *,
        is_own: bool,
    ) -> None:
        """
        Is there room for a message?

        @param of_author: what is stored of its author.
        @param of_all: what is stored of all.
        @param own: what is stored of this node's own feed.
        @param more: what the message adds.
        @param is_own: it is this node's.
        @raise LimitReached: if not; it names the limit.
        """
        if not is_own:
            after = of_author + more
            for name, limit, amount in (
                ("max_author_messages", self.max_author_messages, after.texts),
                ("max_author_bytes", self.max_author_bytes, after.bytes),
            ):
                if limit and amount > limit:
                    raise LimitReached(
                        f"no more is taken of {author.text}: with its next message it would have "
                        f"{amount} of the {limit} that feed.{name} allows"
                    )
        after = of_all + more
        for name, limit, amount, ours in (
            ("max_messages", self.max_messages, after.texts, own.texts),
            ("max_bytes", self.max_bytes, after.bytes, own.bytes),
        ):
            kept_free = 0 if is_own else _kept_free(limit, ours)
            if limit and amount > limit - kept_free:
                aside = f", of which {kept_free} are for this node's own feed" if kept_free else ""
                raise LimitReached(
                    f"the feeds are full: with one more message they would have {amount} of the "
                    f"{limit} that feed.{name} allows{aside}"
                )

    def has_room(self, of_author: Amount, of_all: Amount, own: Amount) -> bool:
        """
        Is it worth asking others again for messages of an author that were refused?

        @param of_author: what is stored of the author, who is not this node.
        @param of_all: what is stored of all.
        @param own: what is stored of this node's own feed.
        """
        return all(
            not limit or (limit - kept_free - amount) * ROOM_SHARE >= limit
            for limit, amount, kept_free in (
                (self.max_author_messages, of_author.texts, 0),
                (self.max_author_bytes, of_author.bytes, 0),
                (self.max_messages, of_all.texts, _kept_free(self.max_messages, own.texts)),
                (self.max_bytes, of_all.bytes, _kept_free(self.max_bytes, own.bytes)),
            )
        )

    @property
    def total(self) -> bool:
        """Is there a limit on everything?"""
        return bool(self.max_messages or self.max_bytes)


def _kept_free(limit: int, ours: int) -> int:
    """@return: how much of a limit on everything others leave to this node's own feed."""
    return max(0, limit // OWN_SHARE - ours)


NO_LIMITS: Final = Limits()
