"""
Sending messages to an address, by HTTP.

The body of the request is the message as the doors show it, signed as
L{meshkit.hooks.signing} has it.  What the receiver says is its status; of the rest nothing is
kept, and no more than L{MAX_ANSWER} bytes are read.

Which addresses are dialled, and how much is read: L{meshkit.runtime.outbound}.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import (
    IConsumer,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    HTTPConnectionPool,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer, IPolicyForHTTPS
from zope.interface import implementer

from meshkit import __version__
from meshkit.hooks.config import WebHook
from meshkit.hooks.retries import Failed, judge_status
from meshkit.hooks.signing import WebhookSecret, signed_headers
from meshkit.interfaces import Arrival
from meshkit.runtime.outbound import EXPECTED, OutboundEndpoints, why_no_answer

#: Bytes that are read of an answer, with its headers and with what TLS adds.
MAX_ANSWER: Final = 64 * 1024

_SECONDS: Final = 10**9


def message_id(arrival: Arrival) -> str:
    """By what a receiver knows a message that comes again: from its hash."""
    return f"msg_{arrival.message.hash.hex()}"


# --- one request ---------------------------------------------------------------------


@implementer(IBodyProducer)
class _Body:
    """A body that is there already."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.length = len(data)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._data)
        return succeed(None)

    def pauseProducing(self) -> None:
        """All of it was produced."""

    def resumeProducing(self) -> None:
        """Likewise."""

    def stopProducing(self) -> None:
        """Likewise."""


class _Drain(Protocol):
    """
    Reads the body of an answer and keeps nothing of it.

    @ivar ended: Deferred that fires when it has ended, in whatever way.
    """

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        """The length is watched further down: L{meshkit.runtime.outbound.Line}."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.ended.called:
            self.ended.callback(None)


class Webhook:
    """Sends messages to one address.  A L{meshkit.hooks.courier.Delivery}."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        hook: WebHook,
        secrets: Sequence[WebhookSecret],
        wall_clock: Callable[[], int],
        *,
        policy: IPolicyForHTTPS | None = None,
    ) -> None:
        """
        @param reactor: clock, names and TCP.
        @param secrets: what requests are signed with, at least one.
        @param wall_clock: nanoseconds since 1970.
        @param policy: whose certificates are believed; if not given, those that the
            system's authorities have signed.
        """
        if not secrets:
            raise ValueError("a webhook needs a secret")
        self._reactor = reactor
        self._hook = hook
        self._secrets = tuple(secrets)
        self._wall_clock = wall_clock
        self._endpoints = OutboundEndpoints(
            reactor,
            hook.allowed_networks(),
            timeout=hook.timeout,
            max_answer=MAX_ANSWER,
            policy=policy,
        )
        # One request to a connection: its bytes can be counted, and what was closed
        # meanwhile fails nothing.
        self._agent = Agent.usingEndpointFactory(
            reactor, self._endpoints, HTTPConnectionPool(reactor, persistent=False)
        )
        # What is being waited for, and whether that has taken too long.
        self._waiting: Deferred[Any] | None = None
        self._late = False
        self._stopping = False

    def deliver(self, arrival: Arrival, attempt: int) -> Deferred[Failed | None]:
        return Deferred.fromCoroutine(self._deliver(arrival))

    async def _deliver(self, arrival: Arrival) -> Failed | None:
        if self._stopping:
            return _STOPPED
        self._late = False
        due = self._reactor.callLater(self._hook.timeout, self._too_late)
        try:
            return await self._ask(arrival)
        finally:
            if due.active():
                due.cancel()
            self._endpoints.finish()

    async def _ask(self, arrival: Arrival) -> Failed | None:
        try:
            self._waiting = self._request(arrival)
            response = await self._waiting
        except Exception as e:
            # Whoever is cancelled may say so in any way.
            if self._stopping:
                return _STOPPED
            if self._late:
                return Failed(f"it did not answer within {self._hook.timeout:g} s")
            if not isinstance(e, EXPECTED):
                # Neither the network nor the other side: it should be seen.
                self._log.failure("the webhook {name} failed oddly", name=self._hook.name)
            return Failed(why_no_answer(e))
        # It has decided by now, whatever else it says, and however slowly.
        failed = judge_status(response.code, _first(response.headers, b"retry-after"))
        drain = _Drain()
        response.deliverBody(drain)
        self._waiting = drain.ended
        with suppress(CancelledError):
            await drain.ended
        return failed

    def _too_late(self) -> None:
        self._late = True
        self._give_up()

    def _give_up(self) -> None:
        # Before it is cancelled, which is an end, too.
        line = self._endpoints.take_line()
        if self._waiting is not None:
            self._waiting.cancel()
        if line is not None:
            line.cut()

    def _request(self, arrival: Arrival) -> Deferred[Any]:
        headers = {
            "content-type": "application/json",
            "user-agent": f"meshkit/{__version__}",
            **signed_headers(
                self._secrets,
                message_id(arrival),
                self._wall_clock() // _SECONDS,
                arrival.text,
            ),
        }
        asking: Deferred[Any] = self._agent.request(
            b"POST",
            self._hook.url.encode("ascii"),
            Headers({name: [value] for name, value in headers.items()}),
            _Body(arrival.text),
        )
        return asking

    def stop(self) -> None:
        self._stopping = True
        self._give_up()


def _first(headers: Headers, name: bytes) -> str | None:
    values = headers.getRawHeaders(name)
    return values[0].decode("latin-1") if values else None


_STOPPED: Final = Failed("the node stopped before it was done")
