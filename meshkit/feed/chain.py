"""
Where a verified message fits into its author's feed: rules without a store.

A feed is a chain: each message names the hash of the one before it.  An author who signs
two messages for one place has forked the feed.  The two together prove it, whoever holds
them and whatever they say of their neighbours; from the lowest proven place on, nothing
of the feed is valid.

A message may name another predecessor than the one that is stored here, or the stored
message after it may.  That proves nothing yet: the other predecessor has to be seen.  The
message is kept, as one beyond a gap is, and never joined: so what is stored does not
depend on the order in which the messages came.  The rules are a table in
C{docs/protocol/feed.md}.
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
    @ivar forked: the lowest sequence for which two messages are known, if there is one.
    """

    same: str | None = None
    predecessor: str | None = None
    successor_previous: str | None = None
    forked: int | None = None


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
    @ivar disputed: a place for which the author's own messages name two different
        hashes.  Whoever has the other one can prove a fork with it.
    """

    chain_valid: bool
    promotes_successor: bool
    disputed: int | None = None


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
    @ivar disputed: as L{Link.disputed}.
    """

    status: Status
    error: MeshkitError | None
    author: bytes | None
    sequence: int | None
    hash: str | None
    chain_valid: bool
    disputed: int | None = None

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
            link.disputed,
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
    @raise ForkRefused: if another message has its place, or the feed is known to be
        forked there or before.
    """
    if neighbours.same == message.hash:
        raise DuplicateMessage(f"{_place(message)} is already stored")
    if (message.sequence == 1) is not (message.previous is None):
        rule = "has no predecessor" if message.sequence == 1 else "has to name its predecessor"
        raise InvalidSequence(f"{_place(message)} {rule}")
    if neighbours.forked is not None and neighbours.forked <= message.sequence:
        raise ForkRefused(
            f"{_place(message)} is not taken: its author has signed two messages "
            f"{neighbours.forked}, and the feed ends before them"
        )
    if neighbours.same is not None:
        raise ForkRefused(
            f"{_place(message)} is stored with the hash {neighbours.same}: {message.hash} is a fork"
        )
    joins = neighbours.predecessor == message.previous
    promotes = neighbours.successor_previous == message.hash
    disputed = None
    if neighbours.predecessor is not None and not joins:
        disputed = message.sequence - 1
    elif neighbours.successor_previous is not None and not promotes:
        disputed = message.sequence
    return Link(
        chain_valid=message.sequence == 1 or joins,
        promotes_successor=promotes,
        disputed=disputed,
    )


def _place(message: Message) -> str:
    return f"message {message.sequence} of {message.author.text}"
