"""
C{python -m tests.bench.peers.links KIND}: connections of one kind, as a child of the bench.

C{channel} is the secure channel as every meshkit program uses it; C{tcp} is TCP alone; and
C{bare} is TCP with the calls of libsodium that a box stream consists of.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from random import SystemRandom
from time import perf_counter, process_time
from typing import Any, Final

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol

from meshkit.identity.keys import Identity
from meshkit.shs import Capability, SecureListener, wrap_client
from meshkit.shs.handshake import ClientHandshake, ServerHandshake
from meshkit.shs.hellos import EPHEMERAL_BYTES, HelloTable
from meshkit.shs.suites import SHS1
from tests.bench.peers.jobs import Job, run
from tests.bench.peers.transfers import BareSender, BareSink, Sender, Sink

#: Handshakes that are under way at once while many connections are opened.
_AT_ONCE: Final = 16

_RNG: Final = SystemRandom()
_SERVER: Final = Identity(b"the server of the bench, fixed.."[:32])
_CLIENT: Final = Identity(b"the client of the bench, fixed.."[:32])
CAPABILITY: Final = Capability("bench", 1, bytes(range(32)))
_HELLOS: Final = HelloTable()
_HELLOS.register(CAPABILITY, SHS1.check)


def secured(reactor: Any, factory: Factory) -> Factory:
    """A factory for the port: what is behind the secure channel."""
    listener = SecureListener(reactor, _SERVER, _RNG)
    listener.register(CAPABILITY, factory)
    return listener


def secure_endpoint(reactor: Any, port: int) -> Any:
    """Leads to a port of L{secured}."""
    return wrap_client(
        reactor,
        plain_endpoint(reactor, port),
        identity=_CLIENT,
        capability=CAPABILITY,
        peer=_SERVER.public,
        rng=_RNG,
    )


def plain_endpoint(reactor: Any, port: int) -> Any:
    return TCP4ClientEndpoint(reactor, "127.0.0.1", port)


async def listen(reactor: Any, factory: Any) -> int:
    """@return: the port."""
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    number: int = port.getHost().port
    return number


def _factory(protocol: type[Protocol]) -> Factory:
    """One that does not log that it starts and stops."""
    factory: Factory = Factory.forProtocol(protocol)
    factory.noisy = False
    return factory


@frozen
class _Kind:
    sink: type[Protocol]
    sender: type[Sender]
    serve: Callable[[Any, Factory], Factory]
    endpoint: Callable[[Any, int], Any]


_KINDS: Final = {
    "channel": _Kind(Sink, Sender, secured, secure_endpoint),
    "tcp": _Kind(Sink, Sender, lambda _, factory: factory, plain_endpoint),
    "bare": _Kind(BareSink, BareSender, lambda _, factory: factory, plain_endpoint),
}


@define
class _Links:
    reactor: Any
    kind: _Kind
    _sender: Any = None
    _held: list[Any] = field(factory=list)

    async def listen(self) -> dict[str, Any]:
        """Job: take connections."""
        factory = self.kind.serve(self.reactor, _factory(self.kind.sink))
        return {"port": await listen(self.reactor, factory)}

    def _dialler(self, address: dict[str, Any]) -> Callable[[], Awaitable[Any]]:
        """@return: makes a connection, whenever it is called."""
        endpoint = self.kind.endpoint(self.reactor, address["port"])
        return partial(endpoint.connect, _factory(self.kind.sender))

    async def connect(self, address: dict[str, Any]) -> None:
        """Job: make the connection for C{send}."""
        self._sender = await self._dialler(address)()

    async def send(self, count: int, write: int) -> dict[str, float]:
        """Job: one transfer."""
        start, used = perf_counter(), process_time()
        await self._sender.send(count, write)
        return {"seconds": perf_counter() - start, "cpu": process_time() - used}

    async def hold(self, address: dict[str, Any], count: int) -> int:
        """Job: make connections and keep them.  @return: how many there are now."""
        left = iter(range(count))
        dial = self._dialler(address)

        async def opener() -> None:
            for _ in left:
                self._held.append(await dial())

        await gatherResults([Deferred.fromCoroutine(opener()) for _ in range(_AT_ONCE)])
        return len(self._held)

    async def handshakes(
        self, address: dict[str, Any], at_once: int, seconds: float
    ) -> dict[str, float]:
        """Job: connect, and reset the connection as soon as the peer is authenticated."""
        made = 0
        dial = self._dialler(address)
        start, used = perf_counter(), process_time()

        async def dialler() -> None:
            nonlocal made
            while perf_counter() - start < seconds:
                connection = await dial()
                made += 1
                connection.transport.abortConnection()

        await gatherResults([Deferred.fromCoroutine(dialler()) for _ in range(at_once)])
        return {"made": made, "seconds": perf_counter() - start, "cpu": process_time() - used}

    async def pairs(self, seconds: float) -> dict[str, float]:
        """Job: both sides of the handshake in this process, without a network."""
        made = 0
        start, used = perf_counter(), process_time()
        while perf_counter() - start < seconds:
            _pair()
            made += 1
        return {"made": made, "seconds": perf_counter() - start, "cpu": process_time() - used}


def _pair() -> None:
    client = ClientHandshake(_CLIENT, CAPABILITY, _SERVER.public, _RNG.randbytes(EPHEMERAL_BYTES))
    server = ServerHandshake(_SERVER, _HELLOS.match, _RNG.randbytes(EPHEMERAL_BYTES))
    to_server = client.start()
    while True:
        step = server.receive(to_server)
        if step.peer is not None:
            break
        to_server = client.receive(step.send).send
    answer, _ = server.accept()
    if client.receive(answer).outcome is None:
        raise RuntimeError("a handshake did not end")


def main() -> None:
    kind = _KINDS[sys.argv[1]]

    def jobs(reactor: Any) -> Mapping[str, Job]:
        links = _Links(reactor, kind)
        return {
            "listen": links.listen,
            "connect": links.connect,
            "send": links.send,
            "hold": links.hold,
            "handshakes": links.handshakes,
            "pairs": links.pairs,
        }

    run(jobs)


if __name__ == "__main__":
    main()
