"""
The relay's side of mailboxes, on any connections that prove who calls::

    store = MailboxStore(database, identity.public)
    dispatcher = Dispatcher()
    MailboxServer(identity, store, wall_clock=time.time_ns).serve(dispatcher)
    listener.register(capability, RPCFactory(reactor, dispatcher, buckets=buckets))

How often a caller may ask is for the buckets of the factory to say; what the messages that he
leaves cost beside that, for those of the server (L{deposit_cost}).

Who has a mailbox need not ask again and again: C{wait} is answered when a message has come, or
after L{MAX_HELD} seconds, which also shows that the connection still works.  One such call of a
recipient is held; a second one, as from a connection that the first one's end does not know to be
dead, ends the first.

Of one recipient one C{fetch} is worked on at a time, whatever connections he has: pages are large,
and who asks for many at once has others wait behind them, and the relay hold them if he does not
read them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from meshkit.errors import OverRate, PermissionDenied
from meshkit.identity.addresses import PeerAddress
from meshkit.identity.keys import Identity, PublicKey
from meshkit.relay.mailbox.prekeys import Prekey
from meshkit.relay.mailbox.sealing import check_size
from meshkit.relay.mailbox.store import MailboxStore
from meshkit.relay.mailbox.wire import (
    ACKNOWLEDGE,
    DEPOSIT,
    FETCH,
    PREKEY,
    PUBLISH,
    WAIT,
    AcknowledgeRequest,
    DepositRequest,
    FetchRequest,
    Page,
    PrekeyRequest,
    PublishedPrekey,
    PublishRequest,
    WaitRequest,
)
from meshkit.rpc.methods import Dispatcher
from meshkit.rpc.protocol import RPCProtocol
from meshkit.runtime.limits import PeerBuckets
from meshkit.shs.listener import ip_of, origin_of

__all__ = ["MailboxServer", "deposit_cost"]

#: Bytes of a message for which it costs as much as one more call.
_COST_BYTES: Final = 4_096


def deposit_cost(size: int) -> float:
    """
    @param size: bytes of a message.
    @return: what it costs who leaves it, in the tokens of calls, beside the call itself.
    """
    return size / _COST_BYTES


class _Held:
    """A call that waits for a message."""

    __slots__ = ("answer", "timer")

    def __init__(self, reactor: IReactorTime, seconds: float) -> None:
        self.answer: Deferred[bool] = Deferred(lambda _: self.release())
        self.timer: IDelayedCall = reactor.callLater(seconds, self.end, False)

    def release(self) -> None:
        """Nobody waits for the answer any more."""
        if self.timer.active():
            self.timer.cancel()

    def end(self, came: bool) -> None:
        """Answer, unless that is done."""
        self.release()
        if not self.answer.called:
            self.answer.callback(came)


class MailboxServer:
    """
    See the module.

    @ivar deposited: messages that were kept since it was made; one that came again counts again.
    @ivar collected: messages that were taken out and acknowledged.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        identity: Identity,
        store: MailboxStore,
        *,
        wall_clock: Callable[[], int],
        buckets: PeerBuckets | None = None,
    ) -> None:
        """
        @param identity: signs the receipts.
        @param store: the mailboxes.
        @param wall_clock: nanoseconds since 1970.
        @param buckets: of senders, who pay for the bytes of their messages; L{None} takes
            any number.
        """
        self._reactor = reactor
        self._identity = identity
        self._store = store
        self._wall_clock = wall_clock
        self._buckets = buckets
        # By recipient: not more than there are mailboxes.
        self._held: dict[PublicKey, _Held] = {}
        # Of recipients who fetch just now.
        self._fetching: dict[PublicKey, DeferredLock] = {}
        self.deposited = 0
        self.collected = 0

    @property
    def held(self) -> int:
        """How many recipients wait for messages."""
        return len(self._held)

    def stop(self) -> None:
        """Answer all calls that are held."""
        for held in list(self._held.values()):
            held.end(False)

    def serve(self, dispatcher: Dispatcher) -> None:
        """
        Offer the methods.

        @raise ValueError: if one of their names is served already.
        """
        handlers: tuple[tuple[Any, Any], ...] = (
            (PUBLISH, self._publish),
            (PREKEY, self._prekey),
            (DEPOSIT, self._deposit),
            (FETCH, self._fetch),
            (ACKNOWLEDGE, self._acknowledge),
            (WAIT, self._wait),
        )
        for method, handler in handlers:
            dispatcher.serve(method, handler)

    def _now(self) -> int:
        return self._wall_clock() // 10**9

    async def _publish(self, caller: RPCProtocol, request: PublishRequest) -> int:
        prekey = Prekey.open(request.prekey, _key_of(caller))
        prekey.check_time(self._now())
        return await self._store.open(prekey, _origin_of(caller))

    async def _prekey(self, caller: RPCProtocol, request: PrekeyRequest) -> PublishedPrekey:
        recipient = PublicKey(request.recipient)
        return PublishedPrekey(await self._store.prekey(recipient, self._now()))

    async def _deposit(self, caller: RPCProtocol, request: DepositRequest) -> bytes:
        check_size(request.sealed)
        sender, recipient = _key_of(caller), PublicKey(request.recipient)
        self._charge(sender, len(request.sealed))
        receipt = await self._store.deposit(
            sender, _origin_of(caller), recipient, request.sealed, self._now(), request.ttl
        )
        self.deposited += 1
        held = self._held.get(recipient)
        if held is not None:
            held.end(True)
        return receipt.sign(self._identity)

    def _charge(self, sender: PublicKey, size: int) -> None:
        """@raise OverRate: he has left too much of late."""
        if self._buckets is None:
            return
        wait = self._buckets.take(sender, deposit_cost(size), self._reactor.seconds())
        if wait == PeerBuckets.BEYOND:
            raise OverRate("you go on leaving messages although you were told to wait")
        if wait > 0:
            raise OverRate(
                f"you have left too many messages here: leave the next one in {wait:.3f} s",
                retry_after=round(wait, 3),
            )

    async def _fetch(self, caller: RPCProtocol, request: FetchRequest) -> Page:
        recipient = _key_of(caller)
        turn = self._fetching.setdefault(recipient, DeferredLock())
        try:
            page: Page = await turn.run(
                lambda: self._store.fetch(recipient, request.after, self._now())
            )
            return page
        finally:
            if not turn.locked and not turn.waiting:
                self._fetching.pop(recipient, None)

    async def _acknowledge(self, caller: RPCProtocol, request: AcknowledgeRequest) -> int:
        count = await self._store.acknowledge(_key_of(caller), request.digests)
        self.collected += count
        return count

    async def _wait(self, caller: RPCProtocol, request: WaitRequest) -> bool:
        recipient = _key_of(caller)
        before = self._held.get(recipient)
        # Before it is looked, so that no message comes between.
        held = self._held[recipient] = _Held(self._reactor, request.seconds)
        if before is not None:
            before.end(False)
        try:
            if await self._store.anything(recipient, self._now()):
                return True
            return await held.answer
        finally:
            # Not answered: where this is thrown away while it waits, it would wake up itself.
            held.release()
            if self._held.get(recipient) is held:
                del self._held[recipient]


def _origin_of(caller: RPCProtocol) -> str:
    """@return: what all addresses of one host have in common."""
    address = caller.connected_to
    inner = address.inner if isinstance(address, PeerAddress) else address
    # Through a tunnel each key would else be a host of its own.
    return "no address of the Internet" if ip_of(inner) is None else origin_of(inner)


def _key_of(caller: RPCProtocol) -> PublicKey:
    if caller.key is None:
        raise PermissionDenied("a mailbox is for who proves a key: connect by a secure channel")
    return caller.key
