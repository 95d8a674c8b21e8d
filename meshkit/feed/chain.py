"""
Where a verified message fits into its author's feed: rules without a store.

A feed is a chain: each message names the hash of the one before it.  Of two messages
with one place, or that disagree about a neighbour, at most one can be stored; the one
that came first stays.  A message whose predecessor has not come yet is stored, and
joined when the gap closes.
"""

from __future__ import annotations

from typing import Final, Literal

from attrs import frozen

from meshkit.errors import DuplicateMessage, ForkRefused, InvalidSequence, MeshkitError
from meshkit.feed.message import Message

Status = Literal["accepted", "duplicate", "refused"]


@frozen
class Neighbours:
    """
    What is stored around the place of a message.

    @ivar same: hash of the stored message with the same author and sequence.
    @ivar predecessor: hash of the stored message before it.
    @ivar successor_previous: C{previous} of the stored message after it.
    """

    same: str | None = None
    predecessor: str | None = None
    successor_previous: str | None = None


#: Nothing is stored around it.
NO_NEIGHBOURS: Final = Neighbours()


@frozen
class Link:
    """
    How an accepted message joins its feed.

    @ivar chain_valid: the link to its immediate predecessor was seen and holds; always
        so for the first message.  It says nothing of the messages before that one.
    @ivar promotes_successor: the next message is stored already and names this one, so
        that it becomes chain-valid now.
    """

    chain_valid: bool
    promotes_successor: bool


@frozen
class Verdict:
    """
    What became of a received message.

    @ivar status: C{accepted} is stored, C{duplicate} was stored before, C{refused} is
        not stored.
    @ivar error: why it was not accepted.
    @ivar author: the author's 32-byte key; L{None} where the text was no message.
    @ivar sequence: its place; L{None} likewise.
    @ivar hash: its hash as it claims; L{None} likewise.
    @ivar chain_valid: as L{Link.chain_valid}; L{False} unless it was accepted.
    """

    status: Status
    error: MeshkitError | None
    author: bytes | None
    sequence: int | None
    hash: str | None
    chain_valid: bool

    @classmethod
    def accepted(cls, message: Message, link: Link) -> Verdict:
        """The message was stored."""
        return cls(
            "accepted",
            None,
            message.author.raw,
            message.sequence,
            message.hash,
            link.chain_valid,
        )

    @classmethod
    def refused(cls, error: MeshkitError, message: Message | None = None) -> Verdict:
        """
        The message was not stored.

        @param error: why; L{DuplicateMessage} gives the status C{duplicate}.
        @param message: L{None} where the text was no message.
        """
        status: Status = "duplicate" if isinstance(error, DuplicateMessage) else "refused"
        if message is None:
            return cls(status, error, None, None, None, False)
        return cls(status, error, message.author.raw, message.sequence, message.hash, False)


def judge(message: Message, neighbours: Neighbours) -> Link:
    """
    Decide whether a message can be stored.

    @param message: verified.
    @param neighbours: what is stored around its place now.
    @raise DuplicateMessage: if this very message is stored.
    @raise InvalidSequence: if it is the first and names a predecessor, or a later one
        and names none.
    @raise ForkRefused: if another message has its place, or a stored neighbour says
        that another one should have.
    """
    place = f"message {message.sequence} of {message.author.text}"
    if neighbours.same == message.hash:
        raise DuplicateMessage(f"{place} is already stored")
    if neighbours.same is not None:
        raise ForkRefused(
            f"{place} is stored with the hash {neighbours.same}: {message.hash} is a fork"
        )
    if (message.sequence == 1) is not (message.previous is None):
        rule = "has no predecessor" if message.sequence == 1 else "has to name its predecessor"
        raise InvalidSequence(f"{place} {rule}")
    if neighbours.predecessor is not None and neighbours.predecessor != message.previous:
        raise ForkRefused(
            f"{place} names {message.previous} as its predecessor, but "
            f"{neighbours.predecessor} is stored there"
        )
    if neighbours.successor_previous is not None and neighbours.successor_previous != message.hash:
        raise ForkRefused(
            f"{place} has the hash {message.hash}, but the stored message after it names "
            f"{neighbours.successor_previous}"
        )
    return Link(
        chain_valid=message.sequence == 1 or neighbours.predecessor is not None,
        promotes_successor=neighbours.successor_previous is not None,
    )
