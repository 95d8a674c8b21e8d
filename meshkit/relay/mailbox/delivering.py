"""
The sender's side of a mailbox, over a connection to a relay.

What is to be sent is sealed once (L{meshkit.relay.mailbox.sealing.seal_message}) and kept until
there is a receipt for it.  To send the same bytes again does no harm, here or elsewhere: what
comes to the recipient twice, he takes once.
"""

from __future__ import annotations

from meshkit.errors import MailboxReceiptInvalid
from meshkit.identity.keys import PublicKey
from meshkit.relay.mailbox.prekeys import Prekey, newer
from meshkit.relay.mailbox.receipts import MailboxReceipt
from meshkit.relay.mailbox.wire import DEPOSIT, PREKEY, DepositRequest, PrekeyRequest
from meshkit.rpc.protocol import RPCProtocol

__all__ = ["deposit_at", "prekey_from"]


async def prekey_from(
    connection: RPCProtocol, recipient: PublicKey, known: Prekey | None, now: int
) -> Prekey | None:
    """
    Ask a relay with which key to seal.

    @param known: what is known of the recipient's prekeys already.  A relay can show an older
        one or none; it cannot make anybody seal with less than that.
    @param now: seconds of Unix time.
    @return: the latest that holds; L{None} if there is none, so that the identity is the key.
    @raise PrekeyInvalid: if the relay's answer is no prekey of the recipient.
    @raise RemoteError: if the relay refuses: with C{MAILBOX_UNKNOWN}, there is no mailbox.
    @raise Exception: as L{RPCProtocol.call} fails.
    """
    raw = (await connection.call(PREKEY, PrekeyRequest(recipient.raw))).prekey
    if raw is not None:
        known = newer(known, _checked(raw, recipient, now))
    return known if known is not None and now < known.expires else None


def _checked(raw: bytes, recipient: PublicKey, now: int) -> Prekey:
    prekey = Prekey.open(raw, recipient)
    prekey.check_time(now)
    return prekey


async def deposit_at(
    connection: RPCProtocol, recipient: PublicKey, sealed: bytes, ttl: int, now: int
) -> MailboxReceipt:
    """
    Give a message to a relay.

    @param sealed: the message.
    @param ttl: seconds for which it may wait.
    @param now: seconds of Unix time.
    @return: the relay's receipt, verified.  It promises that much, but for what clocks may
        differ, and 30 days at most.
    @raise MailboxReceiptInvalid: if the relay has given none for this message: it may have the
        message or not.
    @raise RemoteError: if the relay refuses: C{MAILBOX_UNKNOWN}, C{MAILBOX_FULL}.
    @raise Exception: as L{RPCProtocol.call} fails.
    """
    raw = await connection.call(DEPOSIT, DepositRequest(recipient.raw, sealed, ttl))
    if connection.key is None:
        raise MailboxReceiptInvalid("the relay has proved no key by which to know its receipt")
    receipt = MailboxReceipt.open(raw, connection.key)
    receipt.check(recipient, sealed, now, ttl)
    return receipt
