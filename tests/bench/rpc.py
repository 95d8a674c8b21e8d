"""
C{python -m tests.bench.rpc [--quick]}: calls per second with 1 and 32 in flight, echoing 64
bytes, against Twisted's AMP, and against 64 bytes sent back without any protocol: what is
left for one.  Client and server are two processes on loopback; each thing is measured
once per round, in turn, so that a busy moment falls on all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import react
from twisted.protocols import amp

from meshkit.identity.keys import Identity
from meshkit.rpc import Dispatcher, Method, RPCFactory
from meshkit.shs import Capability, SecureListener, wrap_client
from tests.bench.figures import ratio, spread, table

ROOT: Final = Path(__file__).resolve().parents[2]
PAYLOAD: Final = bytes(range(64))
IN_FLIGHT: Final = (1, 32)
KINDS: Final = ("AMP", "RPC", "RPC over a secure channel", "bytes alone")
START_SECONDS: Final = 20.0

_CAPABILITY: Final = Capability("bench", 1, bytes(range(32)))
_SERVER: Final = Identity(b"the server of the bench, fixed.."[:32])
_CLIENT: Final = Identity(b"the client of the bench, fixed.."[:32])

Call = Callable[[], Awaitable[Any]]
#: Calls per second, by kind and by how many were in flight; one figure per round.
Rates = dict[tuple[str, int], list[float]]


class EchoCommand(amp.Command):
    arguments = [(b"data", amp.String())]
    response = [(b"data", amp.String())]


class EchoAMP(amp.AMP):
    @EchoCommand.responder
    def echo(self, data: bytes) -> dict[str, bytes]:
        return {"data": data}


class EchoBytes(Protocol):
    def dataReceived(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[union-attr]


class AskBytes(Protocol):
    """The ceiling: every 64 bytes that come back answer the oldest call."""

    def __init__(self) -> None:
        self._waiting: deque[Deferred[None]] = deque()
        self._have = 0

    def call(self) -> Deferred[None]:
        self.transport.write(PAYLOAD)  # type: ignore[union-attr]
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


# --- the two processes -----------------------------------------------------------------


async def _serve(reactor: Any) -> None:
    """Listen until standard input ends."""
    dispatcher = Dispatcher()
    dispatcher.serve(ECHO, lambda peer, request: request.data)
    calls = RPCFactory(reactor, dispatcher)
    listener = SecureListener(reactor, _SERVER, Random(1))
    listener.register(_CAPABILITY, calls)
    ports = []
    for factory in (
        Factory.forProtocol(EchoAMP),
        calls,
        listener,
        Factory.forProtocol(EchoBytes),
    ):
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        ports.append(port.getHost().port)
    print(json.dumps(ports), flush=True)
    ended: Deferred[None] = Deferred()
    reactor.addReader(_EndOfInput(ended))
    await ended


class _EndOfInput:
    """Tells when the parent is gone, so that no server outlives it."""

    def __init__(self, ended: Deferred[None]) -> None:
        self._ended = ended

    def fileno(self) -> int:
        return sys.stdin.fileno()

    def doRead(self) -> None:
        if not os.read(self.fileno(), 1):
            self.connectionLost(None)

    def connectionLost(self, reason: Any) -> None:
        if not self._ended.called:
            self._ended.callback(None)

    def logPrefix(self) -> str:
        return "stdin"


async def _connect(reactor: Any, ports: list[int]) -> dict[str, tuple[Any, Call]]:
    """@return: by kind, a connection and how to make one call on it."""
    plain, ours, secure, bare = (TCP4ClientEndpoint(reactor, "127.0.0.1", port) for port in ports)
    theirs: Any = await plain.connect(Factory.forProtocol(EchoAMP))
    ceiling: Any = await bare.connect(Factory.forProtocol(AskBytes))
    wrapped = wrap_client(
        reactor,
        secure,
        identity=_CLIENT,
        capability=_CAPABILITY,
        peer=_SERVER.public,
        rng=Random(2),
    )
    links: list[Any] = [await endpoint.connect(RPCFactory(reactor)) for endpoint in (ours, wrapped)]
    for each in (theirs, ceiling):
        each.transport.setTcpNoDelay(True)
    request = Echo(PAYLOAD)
    return {
        KINDS[0]: (theirs, lambda: theirs.callRemote(EchoCommand, data=PAYLOAD)),
        KINDS[1]: (links[0], lambda: links[0].call(ECHO, request)),
        KINDS[2]: (links[1], lambda: links[1].call(ECHO, request)),
        KINDS[3]: (ceiling, ceiling.call),
    }


async def _rate(reactor: Any, call: Call, in_flight: int, seconds: float) -> float:
    """So many callers, each with one call after the other."""
    made = 0
    start = reactor.seconds()
    end = start + seconds

    async def caller() -> None:
        nonlocal made
        while reactor.seconds() < end:
            await call()
            made += 1

    await gatherResults([Deferred.fromCoroutine(caller()) for _ in range(in_flight)])
    rate: float = made / (reactor.seconds() - start)
    return rate


async def _ask(reactor: Any, ports: list[int], rounds: int, seconds: float) -> None:
    connections = await _connect(reactor, ports)
    rates: defaultdict[str, list[float]] = defaultdict(list)
    for number in range(-1, rounds):
        for in_flight in IN_FLIGHT:
            for kind, (_, call) in connections.items():
                rate = await _rate(reactor, call, in_flight, seconds)
                if number >= 0:  # the first round warms up
                    rates[f"{kind}/{in_flight}"].append(rate)
    print(json.dumps(rates), flush=True)
    for connection, _ in connections.values():
        connection.transport.loseConnection()


# --- the parent ------------------------------------------------------------------------


@contextmanager
def _server() -> Iterator[list[int]]:
    command = [sys.executable, "-m", "tests.bench.rpc", "--serve"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.stdin.close()
            try:
                process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def measure(rounds: int = 5, seconds: float = 0.5) -> Rates:
    """
    Takes about C{8 * (rounds + 1) * seconds}.

    @param seconds: for one figure.
    """
    with _server() as ports:
        arguments = ["--ask", json.dumps(ports), str(rounds), str(seconds)]
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.rpc", *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
            timeout=START_SECONDS + 16 * (rounds + 1) * seconds,
        )
    rates = json.loads(done.stdout)
    return {
        (kind, in_flight): rates[f"{kind}/{in_flight}"] for kind in KINDS for in_flight in IN_FLIGHT
    }


def report(rates: Rates) -> str:
    """The figures as a table."""
    rows = []
    for kind in KINDS:
        row = [kind]
        for in_flight in IN_FLIGHT:
            ours, theirs = rates[kind, in_flight], rates[KINDS[0], in_flight]
            row += [spread(ours), ratio(ours, theirs)]
        rows.append(row)
    heads = ["calls/s, 64 bytes echoed"]
    for in_flight in IN_FLIGHT:
        heads += [f"{in_flight} in flight", "x AMP"]
    return table(heads, rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.rpc", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--ask", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        react(lambda reactor: Deferred.fromCoroutine(_serve(reactor)))
    elif arguments.ask:
        ports, rounds, seconds = arguments.ask
        job = (json.loads(ports), int(rounds), float(seconds))
        react(lambda reactor: Deferred.fromCoroutine(_ask(reactor, *job)))
    elif arguments.quick:
        print(report(measure(2, 0.2)))
    else:
        print(report(measure()))


if __name__ == "__main__":
    main()
