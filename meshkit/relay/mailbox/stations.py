"""
Our mailbox at one relay: opened, emptied, and waited at.

::

    dial --> publish the prekey --> collect --> wait until there is a message, or HELD is over
                    ^                  ^----------------------------------+
                    +------- the prekey has been turned ------------------+

A call that is held (C{wait}) tells of a message at once, and by its end that the relay is still
there: there is no other polling.  When anything goes wrong the connection is made anew, after a
pause that doubles with each failure.

A relay that calls for nothing new, or has more than any mailbox has room for, is not followed as
fast as it can talk; nor are two nodes that have one identity, each of which ends the call of the
other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import Final, Literal

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.errors import CallTimedOut, InvalidAnswer, MeshkitError
from meshkit.interfaces import Relay
from meshkit.relay.mailbox.collecting import Collected, open_at
from meshkit.relay.mailbox.courier import said
from meshkit.relay.mailbox.prekeys import Prekey
from meshkit.relay.mailbox.wire import WAIT, WaitRequest
from meshkit.rpc.links import LinkProtocol, Links
from meshkit.runtime.events import Bell

__all__ = ["Station"]

#: Seconds for which a call is held: less than what routers keep an idle connection for.
HELD: Final = 110
#: Seconds more after which the relay is not there any more.
GRACE: Final = 20.0
#: Seconds before a relay is dialled again, at first and at most.
FIRST_PAUSE: Final = 2.0
LAST_PAUSE: Final = 300.0
#: Seconds to the next look at a mailbox if nothing new came of one that was called for, at first
#: and at most.
LEAST: Final = 5.0
MOST: Final = 60.0

State = Literal["connecting", "connected", "waiting", "stopped"]


class Station:
    """
    See the module.

    @ivar relay: where the mailbox is.
    @ivar state: C{waiting} is for the next attempt.
    @ivar open_until: until when it stays open if nobody comes again, in seconds of Unix time.
    @ivar last_error: why the last attempt failed, if nothing has worked since.
    @ivar failing: how many attempts failed in a row.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        relay: Relay,
        links: Links[Relay],
        *,
        prekey: Callable[[], Awaitable[Prekey]],
        collect: Callable[[LinkProtocol, Relay], Awaitable[Collected]],
        reached: Callable[[], None],
        rng: Random,
    ) -> None:
        """
        @param links: lead to relays.
        @param prekey: gives the one to publish, which is on the disk.
        @param collect: takes everything out of the mailbox, over a connection to it.
        @param reached: called when the relay can be reached again.
        """
        self._reactor = reactor
        self._links = links
        self._prekey = prekey
        self._collect = collect
        self._reached = reached
        self._rng = rng
        self._bell = Bell()
        self._running: Deferred[None] | None = None
        self._connection: LinkProtocol | None = None
        self.relay = relay
        self.state: State = "stopped"
        self.open_until: int | None = None
        self.last_error: str | None = None
        self.failing = 0

    def start(self) -> None:
        """Come to the mailbox, and stay there."""
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._ended)

    def stop(self) -> None:
        """Leave."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()
        self.state = "stopped"

    def hurry(self) -> None:
        """Make the next attempt now, if it is waited for."""
        self._bell.ring()

    def begin_anew(self) -> None:
        """What is connected may be so no more: dial again."""
        if self._connection is not None:
            self._connection.abort()
        self.failing = 0
        self._bell.ring()

    def _ended(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("nothing comes from {relay} any more", failure, relay=self._name)

    @property
    def _name(self) -> str:
        text: str = self.relay.address.text
        return text

    async def _run(self) -> None:
        while True:
            self.state = "connecting"
            try:
                connection = await self._links.take(self.relay)
                self._connection = connection
                try:
                    await self._stay(connection)
                finally:
                    self._connection = None
                    self._links.give_back(self.relay)
            except CancelledError:
                raise
            except (MeshkitError, ConnectError, ConnectionClosed, OSError) as e:
                self._failed(e)
            except Exception as e:
                self._log.failure("the mailbox at {relay}", Failure(), relay=self._name)
                self._failed(e)
            await self._rest()

    def _failed(self, error: BaseException) -> None:
        told = said(error)
        self.failing += 1
        if told != self.last_error:
            # Once, and not at every attempt.
            self._log.warn("the mailbox at {relay}: {error}", relay=self._name, error=told)
        self.last_error = told

    async def _rest(self) -> None:
        self.state = "waiting"
        longest = min(FIRST_PAUSE * 2.0 ** min(max(self.failing, 1) - 1, 32), LAST_PAUSE)
        await self._pause(longest * self._rng.uniform(0.5, 1.0))

    async def _pause(self, seconds: float) -> None:
        """Unless somebody is in a hurry."""
        self._bell.hush()
        timer = self._reactor.callLater(seconds, self._bell.ring)
        try:
            await self._bell.wait()
        finally:
            if timer.active():
                timer.cancel()

    async def _stay(self, connection: LinkProtocol) -> None:
        """@raise Exception: why it cannot be stayed any longer."""
        published, told, in_vain = b"", False, 0
        while True:
            prekey = await self._prekey()
            if prekey.raw != published:
                self.open_until = await open_at(connection, prekey)
                published = prekey.raw
            collected = await self._collect(connection, self.relay)
            if collected.more:
                raise InvalidAnswer(
                    "the relay gives more messages than there is room for in a mailbox"
                )
            if self.state != "connected":
                self.state, self.failing, self.last_error = "connected", 0, None
                self._reached()
            # What was there before, or is refused, comes as often as the relay wants.
            in_vain = in_vain + 1 if told and not collected.taken else 0
            if in_vain:
                await self._pause(min(LEAST * 2.0 ** min(in_vain - 1, 32), MOST))
            began = self._reactor.seconds()
            told = await self._wait(connection)
            if not told and self._reactor.seconds() < began + LEAST:
                await self._pause(LEAST)

    async def _wait(self, connection: LinkProtocol) -> bool:
        """@return: is there a message?"""
        try:
            return await connection.call(WAIT, WaitRequest(HELD), timeout=HELD + GRACE)
        except CallTimedOut:
            # It may look alive for hours: nobody else is to be given it.
            connection.abort()
            raise
