"""
One share on its way to the peer that is to keep it.

::

    reserve --> blocks, each when the one before is there --> close --> receipt

Nothing is durable, and nobody has a lease, before C{close}: whoever sends the blocks need not
be sure that they are right, as long as he is when he asks for that.  A delivery that is given up
leaves nothing at a peer that answers; at one that does not, its reservation ends after an
hour.

A delivery may find the share half or wholly there, if the repairer was killed at an earlier
try: the bytes of a share are always the same, so it goes on from there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.audit.repairing import Account, RepairTools
from meshkit.errors import (
    LeaseUnknown,
    ShareUnknown,
    StatementInvalid,
    StoragePeerError,
    StoragePeerSilent,
    UploadOutOfStep,
)
from meshkit.identity.keys import PublicKey
from meshkit.runtime.waiting import Signal, ask, never_cancelled, over, problem_of
from meshkit.storage.custody import TrackedObject
from meshkit.storage.erasure import Block, measure
from meshkit.storage.receipts import checked_receipt
from meshkit.storage.statements import Receipt
from meshkit.storage.terms import Reservation

__all__ = ["Delivery", "State"]

#: C{new}: nothing was asked.  C{open}: has room.  C{kept}: has signed a receipt.  C{out}: has
#: failed, or was given up.
State = Literal["new", "open", "kept", "out"]


class Delivery:
    """
    See the module.

    @ivar number: of the share.
    @ivar key: of the peer.
    @ivar state: see L{State}.
    @ivar complete: the peer says that it has the share already.
    @ivar problem: why it is C{out}.
    @ivar receipt: what the peer has signed.
    """

    _log = Logger()

    def __init__(
        self,
        tools: RepairTools,
        account: Account,
        tracked: TrackedObject,
        number: int,
        peer: Any,
        changed: Callable[[], object],
    ) -> None:
        """
        @param peer: L{meshkit.interfaces.IStoragePeer}.
        @param changed: is called when a block is behind, and when the state is another.
        """
        self.number = number
        self.key: PublicKey = peer.key
        self.state: State = "new"
        self.complete = False
        self.problem: str | None = None
        self.receipt: Receipt | None = None
        self._tools = tools
        self._account = account
        self._tracked = tracked
        self._manifest = tracked.manifest
        self._upload = tracked.manifest.header.upload
        self._peer = peer
        self._tell = changed
        self._next = 0
        self._sent = 0
        self._took = 0.0
        self._waiting: deque[tuple[int, Block]] = deque()
        self._wake = Signal()
        self._right = False
        self._closed = False
        self._serving: Deferred[None] | None = None
        # What may be done even if nobody waits for it: to reserve, or to close.
        self._change: Deferred[Any] | None = None

    # --- room ------------------------------------------------------------------------------

    def reserve(self) -> Deferred[None]:
        """
        Ask for room.

        @return: Deferred that fires when the peer has said something, or the deadline is over:
            then it is C{open} or C{out}.
        """
        change = self._begin(
            self._tools.config.reserve_seconds,
            self._peer.reserve,
            self.number,
            self._manifest.layout.share_bytes,
            self._tracked.lease(self.key),
            True,
        )

        def refused(failure: Failure) -> None:
            self._fail(failure)

        return never_cancelled(change.addCallbacks(self._agreed, refused))

    def _agreed(self, reservation: Reservation) -> None:
        if self.state != "new":
            return
        segments = self._manifest.layout.segments
        if reservation.next_segment > segments:
            self._give_up_on(
                f"the storage peer says that it has {reservation.next_segment} blocks of a share "
                f"that has {segments}"
            )
            return
        self._next = segments if reservation.complete else reservation.next_segment
        self.complete = reservation.complete
        self.state = "open"
        self._serving = Deferred.fromCoroutine(self._serve())
        self._serving.addErrback(self._fail)

    # --- blocks ----------------------------------------------------------------------------

    @property
    def next_segment(self) -> int:
        """The peer has the blocks of all segments before this one."""
        return self._next

    @property
    def left(self) -> int:
        """How many blocks were not sent yet."""
        return len(self._waiting)

    def send(self, segment: int, block: Block) -> None:
        """
        @param segment: which one; all are given, in order.  What the peer has already is not
            sent.
        """
        if self.state == "open":
            self._waiting.append((segment, block))
            self._wake.set()

    def finish(self) -> None:
        """All blocks were given, and are what the manifest says: have the peer keep them."""
        self._right = True
        self._wake.set()

    async def _serve(self) -> None:
        while True:
            while self._waiting:
                segment, block = self._waiting[0]
                if segment >= self._next:
                    await self._write_in_time(segment, block)
                    self._next = segment + 1
                del block  # of which the next one need not wait
                self._waiting.popleft()
                self._tell()
            if self._right:
                await self._close()
                return
            await self._wake.wait()

    async def _write_in_time(self, segment: int, block: Block) -> None:
        """@raise StoragePeerSilent: if the peer was too slow up to here."""
        begun, size = self._tools.reactor.seconds(), measure(block)
        await self._write(segment, block)
        self._account.written += size
        self._sent += size
        self._took += self._tools.reactor.seconds() - begun
        if self._tools.config.too_slow(self._took, self._sent):
            raise StoragePeerSilent(
                f"the storage peer is too slow: it took {self._sent} bytes in "
                f"{self._took:.0f} seconds"
            )

    async def _write(self, segment: int, block: Block) -> None:
        arguments = (self._upload, self.number, segment, block)
        reactor, seconds = self._tools.reactor, self._tools.config.request_seconds
        try:
            await ask(reactor, seconds, self._peer.write, *arguments)
        except (StoragePeerError, CancelledError):
            raise
        except Exception:
            # The connection broke.  The last block may be sent again, whether it came or not.
            try:
                await ask(reactor, seconds, self._peer.write, *arguments)
            except UploadOutOfStep as e:
                if e.next_segment != segment + 1:
                    raise

    async def _close(self) -> None:
        self._closed = True
        seconds = self._tools.config.request_seconds
        try:
            raw = await self._asked_to_close(seconds)
        except (StoragePeerError, CancelledError):
            raise
        except Exception:
            # As above.  Who has closed it says so when it is asked to reserve.
            size, lease = self._manifest.layout.share_bytes, self._tracked.lease(self.key)
            again = self._begin(seconds, self._peer.reserve, self.number, size, lease, True)
            await never_cancelled(again)
            raw = await self._asked_to_close(seconds)
        secret = self._tracked.lease_secret(self.key)
        self.receipt = checked_receipt(
            raw, self.key, self._manifest, self.number, secret, self._tools.now
        )
        self.state = "kept"
        self._tell()

    def _asked_to_close(self, seconds: float) -> Deferred[Any]:
        change = self._begin(seconds, self._peer.close, self.number, self._manifest.raw)
        return never_cancelled(change)

    def _begin(self, seconds: float, call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        """Ask for what may be done even if nobody waits for it."""
        change = self._change = ask(self._tools.reactor, seconds, call, self._upload, *arguments)

        def done(result: Any) -> Any:
            if self._change is change:
                self._change = None
            return result

        return change.addBoth(done)

    # --- the end ---------------------------------------------------------------------------

    def _fail(self, failure: Failure) -> None:
        if self.state == "out":
            return
        self._give_up_on(problem_of(failure), failure.check(StatementInvalid) is not None)

    def _give_up_on(self, problem: str, lied: bool = False) -> None:
        """The peer is no help."""
        self._account.blame(self.key, self.number, problem, lied=lied)
        self.drop(problem)

    def drop(self, problem: str) -> None:
        """
        It is not to be delivered.  Whatever the peer has of it is given up, and nobody waits
        for that.
        """
        self._end(problem)
        self._tools.background.add(Deferred.fromCoroutine(self._withdraw()))

    async def give_up(self) -> None:
        """As L{drop}; the peer has been told then, or its deadline is over."""
        if self.state != "out":
            self._end("it was given up")
            await self._withdraw()

    def _end(self, problem: str) -> None:
        self.state = "out"
        self.problem = problem
        self._waiting.clear()
        if self._serving is not None:
            self._serving.cancel()
        self._tell()

    async def _withdraw(self) -> None:
        if self._change is not None:
            # It may be obeyed, and then there is more to be given up.
            await over(self._change)
        await self._tell_peer(self._peer.abort, self._upload, self.number)
        if self._closed:
            name = self._manifest.header.share_id(self.number)
            secret = self._tracked.lease_secret(self.key)
            await self._tell_peer(self._peer.release, name, secret)

    async def _tell_peer(self, call: Callable[..., Any], *arguments: Any) -> None:
        """Tell it to give something up.  If it does not, that ends by itself."""
        try:
            await ask(self._tools.reactor, self._tools.config.reserve_seconds, call, *arguments)
        except (ShareUnknown, LeaseUnknown):
            return  # it is not there
        except Exception as e:
            self._log.debug(
                "{peer} was not told that a share is given up: {problem}",
                peer=self.key.text,
                problem=problem_of(Failure(e)),
            )
