"""
The recipient's side of a mailbox, over a connection to a relay.

What is fetched is opened, taken (L{meshkit.relay.mailbox.inbox}), and only then acknowledged:
what a crash comes between is fetched again, and taken once.  What cannot be taken, now or ever,
is acknowledged as well, since it would only fill the mailbox: what is damaged, forged or too
late, and what was sealed with a key whose secret is gone.

What was made in the future may be read later, when a clock was set right, and is left where it is.
Where the clock of its sender is ahead of the relay's as well, it is left for L{MAX_EARLY} messages
only: who makes keys would else fill a mailbox for good whose owner is there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from attrs import frozen

from meshkit.errors import (
    InvalidAnswer,
    MailboxError,
    MailboxMessageEarly,
    MailboxMessageInvalid,
)
from meshkit.identity.keys import Identity, PublicKey
from meshkit.relay.mailbox.inbox import Inbox
from meshkit.relay.mailbox.prekeys import MAX_SKEW, MAX_TTL, Prekey, PrekeyRing
from meshkit.relay.mailbox.sealing import digest_of, open_message
from meshkit.relay.mailbox.wire import (
    ACKNOWLEDGE,
    FETCH,
    PUBLISH,
    AcknowledgeRequest,
    FetchRequest,
    Page,
    PublishRequest,
)
from meshkit.rpc.protocol import RPCProtocol

__all__ = ["Collected", "collect", "open_at"]

#: Messages that are taken out of a mailbox in one go: what it may have, and as many that came
#: meanwhile.  A relay that has more than that makes them up.
MAX_COLLECTED: Final = 2_000
#: Messages from the future that are left in a mailbox though the relay's clock does not bear them
#: out: as many as one sender may have there.
MAX_EARLY: Final = 64
#: In place of the code of an error: the sender is blocked.
UNWANTED: Final = "SENDER_BLOCKED"


@frozen
class Collected:
    """
    What came of it.

    @ivar taken: messages that were new.
    @ivar repeated: those that were taken before.
    @ivar refused: how many were refused, by the codes of the errors; those whose sender is not
        wanted by L{UNWANTED}.
    @ivar more: was it given up at L{MAX_COLLECTED}?
    @ivar early: how many were left there, as they were made in the future.
    """

    taken: int
    repeated: int
    refused: Mapping[str, int]
    more: bool
    early: int = 0

    @property
    def found(self) -> int:
        """How many there were."""
        return self.taken + self.repeated + sum(self.refused.values()) + self.early


async def open_at(connection: RPCProtocol, prekey: Prekey) -> int:
    """
    Open a mailbox at a relay, or keep it open: to be done with each new prekey.

    @param prekey: our own.
    @return: until when the relay says that it is open, in seconds of Unix time.
    @raise RemoteError: if the relay refuses: with C{MAILBOX_FULL}, it has too many.
    @raise InvalidAnswer: if it promises more than anybody asked for.
    @raise Exception: as L{RPCProtocol.call} fails.
    """
    until = await connection.call(PUBLISH, PublishRequest(prekey.raw))
    if not 0 <= until <= prekey.expires + MAX_TTL:
        raise InvalidAnswer(
            f"the relay says that the mailbox is open until {until}, in seconds of Unix time"
        )
    return until


async def collect(
    connection: RPCProtocol,
    identity: Identity,
    ring: PrekeyRing,
    inbox: Inbox,
    *,
    wall_clock: Callable[[], int],
    on_refused: Callable[[bytes, MailboxError], None] | None = None,
    wanted: Callable[[PublicKey], bool] | None = None,
) -> Collected:
    """
    Take everything out of a mailbox.

    @param identity: whose mailbox it is.
    @param ring: its prekeys.
    @param inbox: takes the messages.
    @param wall_clock: nanoseconds since 1970.
    @param on_refused: told of each message that is refused: its digest, and why.
    @param wanted: are messages of this sender taken?  Others are acknowledged unread; L{None}
        takes all.
    @return: what came of it.
    @raise InvalidAnswer: if the relay does not keep to the order of its messages.
    @raise Exception: as L{RPCProtocol.call} and L{Inbox.take} fail.  What was taken until then
        is taken.
    """
    taken = repeated = early = unsupported = seen = after = 0
    refused: Counter[str] = Counter()
    more = True
    while more and seen < MAX_COLLECTED:
        page = await connection.call(FETCH, FetchRequest(after))
        after, more = _next(page, after)
        done = []
        for waiting in page.messages:
            digest = digest_of(waiting.sealed)
            try:
                message = open_message(identity, ring, waiting.sealed, wall_clock() // 10**9)
            except (MailboxMessageInvalid, MailboxMessageEarly) as e:
                if isinstance(e, MailboxMessageEarly):
                    ahead = e.created > waiting.taken + MAX_SKEW
                    unsupported += ahead
                    if not ahead or unsupported <= MAX_EARLY:
                        early += 1
                        continue
                refused[e.code] += 1
                if on_refused is not None:
                    on_refused(digest, e)
            else:
                if wanted is None or wanted(message.sender):
                    new = await inbox.take(message)
                    taken, repeated = taken + new, repeated + (not new)
                else:
                    refused[UNWANTED] += 1
            done.append(digest)
        seen += len(page.messages)
        if done:
            await connection.call(ACKNOWLEDGE, AcknowledgeRequest(done))
    return Collected(taken, repeated, dict(refused), more, early)


def _next(page: Page, after: int) -> tuple[int, bool]:
    """@return: the number to go on from, and whether there is anything to go on to."""
    for waiting in page.messages:
        if waiting.number <= after:
            raise InvalidAnswer(
                f"the relay gave message {waiting.number} when it was asked for those after {after}"
            )
        after = waiting.number
    return after, page.more and bool(page.messages)
