"""
C{python -m tests.bench.peers.calls}: both ends of calls that echo 64 bytes, as a child of
the bench: by AMP, by RPC over TCP and over the secure channel, and without any protocol.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import perf_counter
from typing import Any, Final

import msgspec
from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols import amp

from meshkit.rpc import Dispatcher, Method, RPCFactory
from tests.bench.peers.jobs import Job, run
from tests.bench.peers.links import listen, plain_endpoint, secure_endpoint, secured

PAYLOAD: Final = bytes(range(64))
KINDS: Final = ("RPC", "RPC over a secure channel", "AMP", "bytes alone")

Call = Callable[[], Awaitable[Any]]


class EchoCommand(amp.Command):
    arguments = [(b"data", amp.String())]
    response = [(b"data", amp.String())]


class EchoAMP(amp.AMP):
    transport: Any

    def connectionMade(self) -> None:
        super().connectionMade()
        # Neither end of any kind waits for the other's acknowledgements.
        self.transport.setTcpNoDelay(True)

    @EchoCommand.responder
    def echo(self, data: bytes) -> dict[str, bytes]:
        return {"data": data}


class EchoBytes(Protocol):
    transport: Any

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)

    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)


class AskBytes(Protocol):
    """The ceiling: every 64 bytes that come back answer the oldest call."""

    transport: Any

    def __init__(self) -> None:
        self._waiting: deque[Deferred[None]] = deque()
        self._have = 0

    def call(self) -> Deferred[None]:
        self.transport.write(PAYLOAD)
        deferred: Deferred[None] = Deferred()
        self._waiting.append(deferred)
        return deferred

    def dataReceived(self, data: bytes) -> None:
        self._have += len(data)
        while self._have >= len(PAYLOAD):
            self._have -= len(PAYLOAD)
            self._waiting.popleft().callback(None)


class Echo(msgspec.Struct, array_like=True, frozen=True):
    data: bytes


ECHO: Final = Method("echo", Echo, bytes, doc="Gives back what it gets.")


@define
class _Calls:
    reactor: Any
    _calls: dict[str, Call] = field(factory=dict)

    async def listen(self) -> dict[str, int]:
        """Job: a port for each kind."""
        dispatcher = Dispatcher()
        dispatcher.serve(ECHO, lambda peer, request: request.data)
        factory = RPCFactory(self.reactor, dispatcher)
        factories: tuple[Any, ...] = (
            factory,
            secured(self.reactor, factory),
            Factory.forProtocol(EchoAMP),
            Factory.forProtocol(EchoBytes),
        )
        return {
            kind: await listen(self.reactor, each)
            for kind, each in zip(KINDS, factories, strict=True)
        }

    async def prepare(self, address: dict[str, int]) -> None:
        """Job: a connection of each kind."""
        rpc, secure, theirs, bare = (address[kind] for kind in KINDS)
        request = Echo(PAYLOAD)
        for kind, endpoint in (
            (KINDS[0], plain_endpoint(self.reactor, rpc)),
            (KINDS[1], secure_endpoint(self.reactor, secure)),
        ):
            link = await endpoint.connect(RPCFactory(self.reactor))
            self._calls[kind] = partial(link.call, ECHO, request)
        asker = await plain_endpoint(self.reactor, theirs).connect(Factory.forProtocol(EchoAMP))
        ceiling = await plain_endpoint(self.reactor, bare).connect(Factory.forProtocol(AskBytes))
        for each in (asker, ceiling):
            each.transport.setTcpNoDelay(True)
        self._calls[KINDS[2]] = partial(asker.callRemote, EchoCommand, data=PAYLOAD)
        self._calls[KINDS[3]] = ceiling.call

    async def rate(self, kind: str, in_flight: int, seconds: float) -> float:
        """Job: so many callers, each with one call after the other."""
        call = self._calls[kind]
        made = 0
        start = perf_counter()

        async def caller() -> None:
            nonlocal made
            while perf_counter() - start < seconds:
                await call()
                made += 1

        await gatherResults([Deferred.fromCoroutine(caller()) for _ in range(in_flight)])
        return made / (perf_counter() - start)


def main() -> None:
    def jobs(reactor: Any) -> Mapping[str, Job]:
        calls = _Calls(reactor)
        return {"listen": calls.listen, "prepare": calls.prepare, "rate": calls.rate}

    run(jobs)


if __name__ == "__main__":
    main()
