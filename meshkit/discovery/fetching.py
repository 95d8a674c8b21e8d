"""
Asking a domain for its node, by HTTPS.

A redirect is not followed: the document says which key is trusted to be the node of a domain, and
nobody but the domain may say that.  How much is read, and who is dialled at all:
L{meshkit.runtime.outbound}.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.interfaces import IHostResolution, IResolutionReceiver
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from meshkit import __version__
from meshkit.discovery.wellknown import MAX_DOCUMENT, Document, read, url_of
from meshkit.errors import DiscoveryError, WellKnownInvalid
from meshkit.identity.addresses import HostPort
from meshkit.runtime.outbound import EXPECTED, OutboundEndpoints, why_no_answer

#: Bytes that are read of an answer, with its headers and with what TLS adds.
MAX_ANSWER: Final = 64 * 1024
_OK: Final = 200
_REDIRECTS: Final = range(300, 400)


class DomainReader:
    """Asks domains, one at a time."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        *,
        timeout: float,
        allowed: Sequence[IPv4Network | IPv6Network] = (),
        policy: IPolicyForHTTPS | None = None,
    ) -> None:
        """
        @param reactor: clock, names and TCP.
        @param timeout: seconds until it is given up.
        @param allowed: networks in which web servers may be asked although they are not public.
        @param policy: whose certificates are believed; if not given, those that the
            system's authorities have signed.
        """
        self._reactor = reactor
        self._timeout = timeout
        self._allowed = allowed
        self._policy = policy

    def ask(self, domain: HostPort) -> Deferred[Document]:
        """
        @param domain: its web server: L{meshkit.discovery.wellknown.parse_domain}.
        @return: Deferred of what it says.  Fails with L{DiscoveryError}; cancelling it ends the
            connection.
        """
        return Deferred.fromCoroutine(self._ask(domain))

    async def _ask(self, domain: HostPort) -> Document:
        endpoints = OutboundEndpoints(
            self._reactor,
            self._allowed,
            timeout=self._timeout,
            max_answer=MAX_ANSWER,
            policy=self._policy,
        )
        url = url_of(domain)
        late = False

        def too_late() -> None:
            nonlocal late
            late = True
            asking.cancel()

        asking = Deferred.fromCoroutine(self._fetch(endpoints, url))
        due = self._reactor.callLater(self._timeout, too_late)
        try:
            return read(await asking)
        except WellKnownInvalid as e:
            raise WellKnownInvalid(f"{url}: {e}") from None
        except DiscoveryError:
            raise
        except Exception as e:
            if late:
                raise DiscoveryError(f"{url}: no answer within {self._timeout:g} s") from None
            if isinstance(e, CancelledError):
                raise
            if not isinstance(e, EXPECTED):
                # Neither the network nor the other side: it should be seen.
                self._log.failure("asking {url} failed oddly", url=url)
            raise DiscoveryError(f"{url}: {why_no_answer(e)}") from None
        finally:
            if due.active():
                due.cancel()
            asking.cancel()
            line = endpoints.take_line()
            if line is not None:
                line.cut()

    def look_up(self, names: Sequence[str]) -> Deferred[dict[str, tuple[str, ...]]]:
        """
        @param names: of hosts.
        @return: Deferred of the IP addresses that each of them has now; none for one that is not
            known, or not within C{timeout} seconds.  It does not fail.
        """
        return Deferred.fromCoroutine(self._look_up(names))

    async def _look_up(self, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
        lookups = {name: _Lookup() for name in names}
        for name, lookup in lookups.items():
            self._reactor.nameResolver.resolveHostName(lookup, name)
        waiting = gatherResults([each.ended for each in lookups.values()])
        due = self._reactor.callLater(self._timeout, _end_all, list(lookups.values()))
        try:
            await waiting
        finally:
            if due.active():
                due.cancel()
        return {name: tuple(each.hosts) for name, each in lookups.items()}

    async def _fetch(self, endpoints: OutboundEndpoints, url: str) -> bytes:
        agent = Agent.usingEndpointFactory(
            self._reactor, endpoints, HTTPConnectionPool(self._reactor, persistent=False)
        )
        headers = {"accept": "application/json", "user-agent": f"meshkit/{__version__}"}
        response: Any = await agent.request(
            b"GET", url.encode("ascii"), Headers({name: [value] for name, value in headers.items()})
        )
        if response.code in _REDIRECTS:
            raise DiscoveryError(
                f"{url}: it answered {response.code}, a redirect, which is not followed: name the "
                f"domain that it leads to, if that is the one you mean"
            )
        if response.code != _OK:
            raise DiscoveryError(f"{url}: it answered {response.code}")
        body = _Body()
        response.deliverBody(body)
        return await body.ended


@implementer(IResolutionReceiver)
class _Lookup:
    """
    What a name is.

    @ivar hosts: its IP addresses.
    @ivar ended: Deferred that fires when there are no more.
    """

    def __init__(self) -> None:
        self.hosts: list[str] = []
        self.ended: Deferred[None] = Deferred()

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """There is nothing to do."""

    def addressResolved(self, address: Any) -> None:
        self.hosts.append(address.host)

    def resolutionComplete(self) -> None:
        if not self.ended.called:
            self.ended.callback(None)

    def give_up(self) -> None:
        """Some of its addresses are none that could be judged."""
        if not self.ended.called:
            self.hosts = []
            self.resolutionComplete()


def _end_all(lookups: Sequence[_Lookup]) -> None:
    for each in lookups:
        each.give_up()


class _Body(Protocol):
    """
    Collects the body of an answer.

    @ivar ended: Deferred of it.
    """

    def __init__(self) -> None:
        self._received = bytearray()
        self.ended: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        # How much comes at all is watched further down.
        self._received += data
        if len(self._received) > MAX_DOCUMENT and not self.ended.called:
            self.ended.errback(
                WellKnownInvalid(f"the document is larger than {MAX_DOCUMENT} bytes")
            )

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.ended.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.ended.callback(bytes(self._received))
        else:
            self.ended.errback(reason)
