"""
HTTP to other people's servers: to nobody who must not be dialled, and with answers that have an
end.

An address is judged when it is dialled: L{GuardedReactor} is all that the endpoints have to
dial with, and it takes nothing but addresses that L{meshkit.runtime.egress} allows.  A name that
has one address when it is checked and another when it is used gains nothing by that, since
nothing is checked but what is used.

A request has a connection of its own, a L{Line}: its bytes are counted below TLS, and it can be cut
off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.interfaces import (
    IDelayedCall,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IReactorPluggableNameResolver,
    IReactorTCP,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import connectionDone
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    BrowserLikePolicyForHTTPS,
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.iweb import IAgentEndpointFactory, IPolicyForHTTPS
from zope.interface import implementer

from meshkit.errors import AddressRefused, ConfigError
from meshkit.interfaces import IFiles
from meshkit.runtime.egress import may_dial

#: Seconds that a connection may take to be closed in good order.
CLOSE_SECONDS: Final = 2.0
#: Bytes of a file with certificates.
MAX_CA_FILE: Final = 1024 * 1024

_END_OF_CERTIFICATE: Final = b"-----END CERTIFICATE-----"

#: What a network, or the program at its other end, can do to a request.
EXPECTED: Final = (
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


@implementer(IReactorTime, IReactorTCP, IReactorPluggableNameResolver)
class GuardedReactor:
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


class Line(ProtocolWrapper):
    """
    The connection of one request, below TLS: it brings no more bytes than it may, and does not
    outlast its request by more than L{CLOSE_SECONDS}.
    """

    factory: Any
    _received = 0
    _due: IDelayedCall | None = None
    _lost = False

    def connectionMade(self) -> None:
        self.factory.opened(self)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        limit = self.factory.max_answer
        room = limit - self._received
        self._received += len(data)
        super().dataReceived(data[:room])
        if self._received > limit:
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
    protocol = Line
    noisy = False

    def __init__(
        self, wrapped: IProtocolFactory, opened: Callable[[Line], None], max_answer: int
    ) -> None:
        super().__init__(wrapped)
        self.opened = opened
        self.max_answer = max_answer


@implementer(IStreamClientEndpoint)
class _Endpoint:
    """The way to one address, with TLS or without."""

    def __init__(
        self,
        reactor: Any,
        endpoint: IStreamClientEndpoint,
        creator: IOpenSSLClientConnectionCreator | None,
        opened: Callable[[Line], None],
        max_answer: int,
    ) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._creator = creator
        self._opened = opened
        self._max_answer = max_answer

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        factory: Any = protocolFactory
        # Or each request would put two lines about the factory into the log.
        factory.noisy = False
        if self._creator is not None:
            # As wrapClientTLS does it, which in older Twisted takes no clock.
            factory = TLSMemoryBIOFactory(self._creator, True, factory, clock=self._reactor)
        line = _LineFactory(factory, self._opened, self._max_answer)
        connecting: Deferred[Any] = self._endpoint.connect(line)
        return connecting.addCallback(self._innermost)

    def _innermost(self, line: Any) -> Any:
        inner = line.wrappedProtocol
        return inner if self._creator is None else inner.wrappedProtocol


@implementer(IAgentEndpointFactory)
class OutboundEndpoints:
    """
    How requests reach other people's servers, one at a time.

    @ivar line: the connection that was opened last.
    """

    def __init__(
        self,
        reactor: Any,
        allowed: Sequence[IPv4Network | IPv6Network],
        *,
        timeout: float,
        max_answer: int,
        policy: IPolicyForHTTPS | None = None,
    ) -> None:
        """
        @param reactor: clock, names and TCP.
        @param allowed: networks that may be dialled although they are not public.
        @param timeout: seconds that a connection may take to be made.
        @param max_answer: bytes that are read of an answer, with its headers and what TLS adds.
        @param policy: whose certificates are believed; if not given, those that the
            system's authorities have signed.
        """
        self._reactor = GuardedReactor(reactor, allowed)
        self._timeout = timeout
        self._max_answer = max_answer
        self._policy = BrowserLikePolicyForHTTPS() if policy is None else policy
        self.line: Line | None = None

    def _opened(self, line: Line) -> None:
        self.line = line

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        host = uri.host
        creator = None
        if uri.scheme == b"https":
            creator = self._policy.creatorForNetloc(host, uri.port)
        bare = HostnameEndpoint(self._reactor, host, uri.port, timeout=self._timeout)
        return _Endpoint(self._reactor, bare, creator, self._opened, self._max_answer)

    def take_line(self) -> Line | None:
        """@return: C{line}, which is the caller's to close from now on."""
        line, self.line = self.line, None
        return line

    def finish(self) -> None:
        """The last request is over: have its connection closed within L{CLOSE_SECONDS}."""
        line = self.take_line()
        if line is not None:
            line.finish(self._reactor)


def why_no_answer(error: BaseException) -> str:
    """
    @param error: one of L{EXPECTED}, or whatever else came of a request.
    @return: why there was no answer, for people, without the URL.
    """
    if isinstance(error, (ResponseFailed, ResponseNeverReceived, RequestTransmissionFailed)):
        # Twisted lists what went wrong; the first is what did.
        first = next(iter(error.reasons), None)
        if first is not None:
            return why_no_answer(first.value)
    if isinstance(error, AddressRefused):
        return str(error)
    if isinstance(error, DNSLookupError):
        return "its host is unknown: check the name, and the DNS here"
    text = " ".join(str(error).split())
    return f"there was no answer ({text or type(error).__name__})"[:300]


def load_authorities(files: IFiles, path: str, whose: str) -> IPolicyForHTTPS:
    """
    @param path: of a file with certificates in PEM.
    @param whose: what of the settings it belongs to.
    @return: the policy that believes these authorities and no others.
    @raise ConfigError: if the file cannot be used.
    """
    try:
        data = files.read(path, MAX_CA_FILE)
    except OSError as e:
        raise ConfigError(f"{whose}: {path} cannot be read: {e.strerror}") from None
    pieces = data.split(_END_OF_CERTIFICATE)[:-1]
    try:
        authorities = [Certificate.loadPEM(each + _END_OF_CERTIFICATE) for each in pieces]
    except Exception as e:
        # What OpenSSL raises has neither a base nor a sentence.
        raise ConfigError(f"{whose}: {path} holds a certificate that cannot be read: {e}") from None
    if not authorities:
        raise ConfigError(f"{whose}: {path} holds no certificate")
    return BrowserLikePolicyForHTTPS(trustRootFromCertificates(authorities))
