"""
The list of mistakes: L{BUGS}.

It was written on 2026-11-26, before any of them was run, with the scenario that should find
each and the number of seeds within which it should.  Seeds are 1, 2, 3 and so on.  Where it
took others, or another scenario, the entry says so.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

__all__ = ["BUGS", "Bug"]


@frozen
class Bug:
    """
    One mistake.

    @ivar number: in this list, from 1 on.
    @ivar name: of the file with the patch, without its ending.
    @ivar title: what is wrong with the program.
    @ivar suffers: what becomes of that for somebody.
    @ivar files: of C{meshkit/}, that the patch changes.
    @ivar scenario: whose runs have to find it.
    @ivar within: how many seeds, from 1 on, one of which has to.
    """

    number: int
    name: str
    title: str
    suffers: str
    files: tuple[str, ...]
    scenario: str
    within: int

    @property
    def patch(self) -> str:
        """Name of the file."""
        return f"{self.number:02}-{self.name}.patch"

    @property
    def seeds(self) -> range:
        """To be tried, in this order."""
        return range(1, self.within + 1)


BUGS: Final = (
    Bug(
        1,
        "key-file-not-synced",
        "A new file gets its name before what is in it is on the disk.",
        "After a power failure the key file is empty, and the node starts no more.",
        ("runtime/files.py",),
        "churn",
        10,
    ),
    Bug(
        2,
        "large-batches-not-synced",
        "A transaction with several jobs is left for the next one to sync.",
        "A message that was acknowledged is gone after a power failure.",
        ("runtime/database.py",),
        "churn",
        20,
    ),
    Bug(
        3,
        "answer-before-commit",
        "Deferreds fire before the commit, which is made while others are answered.",
        "A message that was acknowledged is gone, and its number is given to another one.",
        ("runtime/database.py", "runtime/transactions.py"),
        "churn",
        10,
    ),
    Bug(
        4,
        "request-remembered-later",
        "The key of a request is written down in the transaction after the message.",
        "A client that repeats what was not answered has it published twice.",
        ("feed/part.py",),
        "clients",
        20,
    ),
    Bug(
        5,
        "block-before-disk",
        "A block is answered before it is on the disk.",
        "Who was blocked is let in again after a power failure.",
        ("feed/blocking.py",),
        "clients",
        20,
    ),
    Bug(
        6,
        "unfollow-before-disk",
        "The end of a follow is answered before it is on the disk.",
        "An author who is followed no more is followed again after a power failure.",
        ("gossip/selection.py",),
        "clients",
        20,
    ),
    Bug(
        7,
        "follows-of-configuration-only",
        "Where the configuration follows somebody, the follows of the database are not read.",
        "Follows are lost at a restart.",
        ("gossip/selection.py",),
        "clients",
        5,
    ),
    Bug(
        8,
        "only-last-signature-checked",
        "Of a page from a peer, only the last message has its signature checked.",
        "A forged message is stored, shown and passed on as its author's.",
        ("feed/part.py",),
        "byzantine",
        5,
    ),
    Bug(
        9,
        "proof-signatures-unchecked",
        "The two messages of a fork proof do not have their signatures checked.",
        "Anybody can end anybody's feed.",
        ("feed/part.py",),
        "byzantine",
        5,
    ),
    Bug(
        10,
        "fork-at-the-end-stays",
        "A fork at the very end of a feed does not take that message away.",
        "A message of which there are two is served as valid.",
        ("feed/store.py",),
        "byzantine",
        10,
    ),
    Bug(
        11,
        "honest-blamed-for-forks",
        "Who passes on the other branch of a fork is blamed as for a forged message.",
        "One who signs two branches makes honest nodes ban one another.",
        ("gossip/fetching.py",),
        "byzantine",
        10,
    ),
    Bug(
        12,
        "claims-without-limit",
        "There is no limit to the feeds of which one peer says that it has more.",
        "One peer fills what all peers share of a node's memory.",
        ("gossip/spread.py",),
        "byzantine",
        10,
    ),
    Bug(
        13,
        "credit-lost-when-full",
        "Credit that is due while the connection takes no more is not given, then or later.",
        "Two nodes that have much to tell each other stop half-way, for ever.",
        ("gossip/fetching.py",),
        "reunion",
        10,
    ),
    Bug(
        14,
        "push-lost-without-credit",
        "What is new and cannot be sent to a peer at once is not noted as due to it.",
        "The last message of a feed does not arrive for minutes.",
        ("gossip/serving.py",),
        "reunion",
        20,
    ),
    Bug(
        15,
        "room-kept-by-lost-link",
        "A connection that is lost during a comparison does not give its room back.",
        "After a few lost connections the node compares with nobody any more.",
        ("gossip/comparing.py",),
        "churn",
        20,
    ),
    Bug(
        16,
        "wanted-falls-back",
        "A note that crosses with messages has them sent a second time.",
        "Messages are sent twice, and who sends them is blamed for it.",
        ("gossip/spread.py",),
        "convergence",
        10,
    ),
    Bug(
        17,
        "one-ephemeral-key",
        "The ephemeral key of a listener is made once, and not for each connection.",
        "Who takes it from memory later can read all connections since the start.",
        ("shs/listener.py",),
        "convergence",
        1,
    ),
    Bug(
        18,
        "nonce-without-carry",
        "Of the nonce of a box stream only the last byte counts.",
        "After 128 boxes the key stream repeats, and who listens can read.",
        ("shs/boxstream.py",),
        "convergence",
        5,
    ),
    Bug(
        19,
        "no-redial-after-a-break",
        "A peer that was found to be dead is not dialled again.",
        "Two halves of a mesh stay apart when the network between them is mended.",
        ("gossip/part.py",),
        "partition",
        10,
    ),
    Bug(
        20,
        "renewal-timer-kept",
        "The timer for renewing a connection is not cancelled when that ends.",
        "Every connection that ends is kept in memory for a day.",
        ("gossip/link.py",),
        "convergence",
        1,
    ),
)
