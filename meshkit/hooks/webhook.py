"""
Sending messages to an address, by HTTP.

The body of the request is the message as the doors show it, signed as
L{meshkit.hooks.signing} has it.  What the receiver says is its status; of the rest nothing is
kept, and no more than L{MAX_ANSWER} bytes are read.

An address is judged when it is dialled: L{_GuardedReactor} is all that the endpoints have to
dial with, and it takes nothing but addresses that L{meshkit.hooks.egress} allows.  A name that
has one address when it is checked and another when it is used gains nothing by that, since
nothing is checked but what is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.interfaces import (
    IConsumer,
    IDelayedCall,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    Agent,
    BrowserLikePolicyForHTTPS,
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer, IPolicyForHTTPS
from zope.interface import implementer

from meshkit import __version__
from meshkit.errors import AddressRefused
from meshkit.hooks.config import WebHook
from meshkit.hooks.egress import may_dial
from meshkit.hooks.retries import Failed, judge_status
from meshkit.hooks.signing import WebhookSecret, signed_headers
from meshkit.interfaces import Arrival

#: Bytes that are read of an answer, with its headers and with what TLS adds.
MAX_ANSWER: Final = 64 * 1024
#: Seconds that a connection may take to be closed in good order.
CLOSE_SECONDS: Final = 2.0

_SECONDS: Final = 10**9


def message_id(arrival: Arrival) -> str:
    """By what a receiver knows a message that comes again: from its hash."""
    return f"msg_{arrival.message.hash.hex()}"


# --- dialling ----------------------------------------------------------------------


@implementer(IReactorTime, IReactorTCP, IReactorPluggableNameResolver)
class _GuardedReactor:
    """A reactor that opens no connection but to addresses which may be dialled."""

    def __init__(self, reactor: Any, allowed: Sequence[IPv4Network | IPv6Network]) -> None:
        self._reactor = reactor
        self._allowed = allowed

    @property
    def nameResolver(self) -> Any:
        return self._reactor.nameResolver

    def installNameResolver(self, resolver: Any) -> Any:
        raise NotImplementedError("install it in the reactor itself")

    def seconds(self) -> float:
        now: float = self._reactor.seconds()
        return now

    def callLater(self, delay: float, callable: Any, *args: Any, **kw: Any) -> Any:
        return self._reactor.callLater(delay, callable, *args, **kw)

    def getDelayedCalls(self) -> Any:
        return self._reactor.getDelayedCalls()

    def listenTCP(self, *args: Any, **kw: Any) -> Any:
        raise NotImplementedError("this reactor only dials")

    def connectTCP(self, host: str, port: int, factory: Any, *args: Any, **kw: Any) -> Any:
        if not may_dial(host, self._allowed):
            raise AddressRefused(f"{host} is no public address and is not named in allow_addresses")
        return self._reactor.connectTCP(host, port, factory, *args, **kw)


class _Line(ProtocolWrapper):
    """
    The connection of one request, below TLS: it brings no more than L{MAX_ANSWER} bytes, and
    does not outlast its request by more than L{CLOSE_SECONDS}.
    """

    _received = 0
    _due: IDelayedCall | None = None
    _lost = False

    def connectionMade(self) -> None:
        factory: Any = self.factory
        factory.opened(self)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        room = MAX_ANSWER - self._received
        self._received += len(data)
        super().dataReceived(data[:room])
        if self._received > MAX_ANSWER:
            self.abortConnection()

    def finish(self, clock: IReactorTime) -> None:
        """The request is over, and it is being closed."""
        if not self._lost:
            self._due = clock.callLater(CLOSE_SECONDS, self.abortConnection)

    def cut(self) -> None:
        """Nobody waits for it any more."""
        if not self._lost:
            self.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        if self._due is not None and self._due.active():
            self._due.cancel()
        super().connectionLost(reason)


class _LineFactory(WrappingFactory):
    protocol = _Line
    noisy = False

    def __init__(self, wrapped: IProtocolFactory, opened: Callable[[_Line], None]) -> None:
        super().__init__(wrapped)
        self.opened = opened


@implementer(IStreamClientEndpoint)
class _Endpoint:
    """The way to one address, with TLS or without."""

    def __init__(
        self,
        reactor: Any,
        endpoint: IStreamClientEndpoint,
        creator: IOpenSSLClientConnectionCreator | None,
        opened: Callable[[_Line], None],
    ) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._creator = creator
        self._opened = opened

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        factory: Any = protocolFactory
        # Or each delivery would put two lines about the factory into the log.
        factory.noisy = False
        if self._creator is not None:
            # As wrapClientTLS does it, which in older Twisted takes no clock.
            factory = TLSMemoryBIOFactory(self._creator, True, factory, clock=self._reactor)
        connecting: Deferred[Any] = self._endpoint.connect(_LineFactory(factory, self._opened))
        return connecting.addCallback(self._innermost)

    def _innermost(self, line: Any) -> Any:
        inner = line.wrappedProtocol
        return inner if self._creator is None else inner.wrappedProtocol


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """
    How one webhook reaches its address.

    @ivar line: the connection that was opened last.
    """

    def __init__(self, reactor: Any, hook: WebHook, policy: IPolicyForHTTPS) -> None:
        self._reactor = _GuardedReactor(reactor, hook.allowed_networks())
        self._timeout = hook.timeout
        self._policy = policy
        self.line: _Line | None = None

    def _opened(self, line: _Line) -> None:
        self.line = line

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        host = uri.host
        creator = None
        if uri.scheme == b"https":
            creator = self._policy.creatorForNetloc(host, uri.port)
        bare = HostnameEndpoint(self._reactor, host, uri.port, timeout=self._timeout)
        return _Endpoint(self._reactor, bare, creator, self._opened)


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
        """The length is watched further down: L{_Line}."""

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
        self._endpoints = _Endpoints(
            reactor, hook, BrowserLikePolicyForHTTPS() if policy is None else policy
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
            line, self._endpoints.line = self._endpoints.line, None
            if line is not None:
                line.finish(self._reactor)

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
            if not isinstance(e, _EXPECTED):
                # Neither the network nor the other side: it should be seen.
                self._log.failure("the webhook {name} failed oddly", name=self._hook.name)
            return Failed(_reason(e))
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
        line, self._endpoints.line = self._endpoints.line, None
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


#: What a network, or the program at its other end, can do to a request.
_EXPECTED: Final = (
    AddressRefused,
    ConnectError,
    ConnectionClosed,
    DNSLookupError,
    OSError,
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
    SSL.Error,
)


def _first(headers: Headers, name: bytes) -> str | None:
    values = headers.getRawHeaders(name)
    return values[0].decode("latin-1") if values else None


def _reason(error: BaseException) -> str:
    """Why there was no answer, for people, without the URL."""
    if isinstance(error, (ResponseFailed, ResponseNeverReceived, RequestTransmissionFailed)):
        # Twisted lists what went wrong; the first is what did.
        first = next(iter(error.reasons), None)
        if first is not None:
            return _reason(first.value)
    if isinstance(error, AddressRefused):
        return str(error)
    if isinstance(error, DNSLookupError):
        return "its host is unknown: check the name, and the DNS here"
    text = " ".join(str(error).split())
    return f"there was no answer ({text or type(error).__name__})"[:300]


_STOPPED: Final = Failed("the node stopped before it was done")
