"""
The key probe over connections: asking, and deciding who is answered.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from random import Random
from typing import Any, Final, Literal

from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from meshkit.errors import HandshakeTimeout, KeyProbeFailed, KeyProbeRefused
from meshkit.identity.keys import PublicKey
from meshkit.runtime.limits import PeerBuckets, TokenBucket
from meshkit.shs.channel import HANDSHAKE_TIMEOUT
from meshkit.shs.hellos import EPHEMERAL_BYTES, Capability
from meshkit.shs.listener import Admit, ip_of, origin_of
from meshkit.shs.probe import Question

#: Who is told our key: askers near by, every member of the network, or nobody.
Audience = Literal["lan", "always", "never"]

#: Answers per second to one IPv4 address or IPv6 /64, and to all of them.
PER_ORIGIN: Final = 1
IN_ALL: Final = 20

_NEAR: Final = tuple(
    ipaddress.ip_network(block)
    for block in (
        "127.0.0.0/8",
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",
        "::1/128",
        "fc00::/7",
        "fe80::/10",
    )
)


def is_near(address: IAddress | None) -> bool:
    """
    Is this the address of a host near by: loopback, RFC 1918, link-local or ULA, or a
    unix socket?  What comes through a proxy or a tunnel that ends on this machine has
    the address of this machine.
    """
    ip = ip_of(address)
    if ip is None:
        return isinstance(address, UNIXAddress)
    return any(ip in block for block in _NEAR)


def admit_probes(clock: IReactorTime, audience: Audience) -> Admit:
    """
    Who is told our key, for L{meshkit.shs.listener.SecureListener.register_answer}.

    @return: a function of the asker's address that raises L{KeyProbeRefused}.
    """
    origins = PeerBuckets(PER_ORIGIN, PER_ORIGIN)
    everybody = TokenBucket(IN_ALL, IN_ALL)

    def admit(address: IAddress | None) -> None:
        origin, now = origin_of(address), clock.seconds()
        if audience == "never" or (audience == "lan" and not is_near(address)):
            raise KeyProbeRefused(
                f"a member of the network asked for our key from {origin}, where the setting "
                f"key_probe = {audience} does not let it"
            )
        # Who is refused for itself takes nothing from the others.
        if origins.take(origin, 1, now) or everybody.take(1, now):
            raise KeyProbeRefused(
                f"our key is asked for more than {PER_ORIGIN} time a second from {origin}, or "
                f"{IN_ALL} times a second in all"
            )

    return admit


def probe_key(
    reactor: IReactorTime,
    endpoint: IStreamClientEndpoint,
    *,
    capability: Capability,
    own: PublicKey,
    rng: Random,
    timeout: float = HANDSHAKE_TIMEOUT,
) -> Deferred[PublicKey]:
    """
    Ask whoever listens at an endpoint for its public key.

    The answer proves nothing (C{probe}): dial the key before you rely on it.

    @param capability: of the label L{meshkit.shs.probe.LABEL} in the network.
    @param own: our own key.
    @param rng: gives 32 bytes.
    @param timeout: seconds for the answer, after the connection is up.
    @return: Deferred of the key; fails with what C{endpoint} fails with,
        L{KeyProbeFailed} or L{HandshakeTimeout}.  Cancelling it ends the connection.
    """
    question = Question(capability, own, rng.randbytes(EPHEMERAL_BYTES))
    asking = _Asking(reactor, question, timeout)
    return asking.run(endpoint)


class _Asking(Protocol):
    """One question, and what became of it."""

    def __init__(self, reactor: IReactorTime, question: Question, timeout: float) -> None:
        self._reactor = reactor
        self._question = question
        self._timeout = timeout
        self._deadline: IDelayedCall | None = None
        self._connecting: Deferred[IProtocol] | None = None
        self._told: Deferred[PublicKey] = Deferred(self._cancel)

    def run(self, endpoint: IStreamClientEndpoint) -> Deferred[PublicKey]:
        self._connecting = endpoint.connect(Factory.forProtocol(self._build))
        self._connecting.addCallbacks(self._connected, self._not_connected)
        return self._told

    def _build(self) -> Any:
        # An inner endpoint that could not be stopped comes here after the cancel.
        return None if self._told.called else self

    def _connected(self, _protocol: IProtocol) -> None:
        self._connecting = None

    def _not_connected(self, failure: Failure) -> None:
        self._connecting = None
        self._end(lambda told: told.errback(failure))

    def _cancel(self, told: Deferred[PublicKey]) -> None:
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
        if not told.called:
            peer = None if self.transport is None else self.transport.getPeer()
            self._end(lambda told: told.errback(ConnectingCancelledError(peer)))

    def _end(self, tell: Callable[[Deferred[PublicKey]], None]) -> None:
        """Let go of the connection, then tell, once."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if self.transport is not None:
            # Its other direction holds nothing that anybody waits for.
            abort = getattr(self.transport, "abortConnection", self.transport.loseConnection)
            abort()
        if not self._told.called:
            tell(self._told)

    def connectionMade(self) -> None:
        assert self.transport is not None
        self._deadline = self._reactor.callLater(self._timeout, self._timed_out)
        self.transport.write(self._question.start())

    def dataReceived(self, data: bytes) -> None:
        if self._told.called:
            return
        try:
            key = self._question.receive(data)
        except KeyProbeFailed:
            failure = Failure()
            self._end(lambda told: told.errback(failure))
            return
        if key is not None:
            found = key
            self._end(lambda told: told.callback(found))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.transport = None
        if not self._told.called:
            lost = Failure(self._question.lost())
            self._end(lambda told: told.errback(lost))

    def _timed_out(self) -> None:
        self._deadline = None
        error = HandshakeTimeout(
            f"nobody answered our key probe within {self._timeout:g} s: check that a meshkit "
            f"node listens there"
        )
        self._end(lambda told: told.errback(error))
