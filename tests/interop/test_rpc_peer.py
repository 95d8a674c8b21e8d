"""
Another MessagePack-RPC over plain TCP: that of Neovim's client for Node (npm C{neovim},
with C{@msgpack/msgpack}).  Either side dials, and either side calls.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import msgspec
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectionClosed
from twisted.trial.unittest import TestCase

from meshkit.errors import CallTimedOut, NotFound, RemoteError
from meshkit.rpc import Dispatcher, Method, RPCFactory, RPCProtocol
from tests.interop.node import environment, node
from tests.interop.test_secret_handshake import JavaScript

PEER: Final = Path(__file__).with_name("rpc_peer.js")

reactor: Any = installed

Value = str | int | float | bool | None | list[str | int] | dict[str, int]


class One(msgspec.Struct, array_like=True, frozen=True):
    value: Value


class Two(msgspec.Struct, array_like=True, frozen=True):
    a: int
    b: int


class Blob(msgspec.Struct, array_like=True, frozen=True):
    data: bytes


class Relay(msgspec.Struct, array_like=True, frozen=True):
    method: str
    params: list[Value]


ECHO: Final[Method[One, Any]] = Method("echo", One, Value)  # type: ignore[arg-type]
ADD: Final = Method("add", Two, int)
BLOB: Final = Method("echo", Blob, bytes)
SIZE: Final = Method("size", Blob, int, max_request=900_000)
FAIL: Final = Method("fail", One, str)
REFUSE: Final = Method("refuse", One, str)
MISSING: Final = Method("missing", One, str)
#: Has the other side call one of our methods: gives whether it succeeded, and the JSON.
RELAY: Final = Method("relay", Relay, tuple[bool, str])
#: Has it call C{add} so many times at once, and gives the sum.
FLOOD: Final = Method("flood", One, int)
#: What it tells us when it has heard a notification.
HEARD: Final = Method("heard", One, type(None))

VALUES: Final[tuple[Value, ...]] = (
    None,
    True,
    0,
    127,
    128,
    -1,
    -129,
    65_536,
    2**32 - 1,
    2**53 - 1,
    -(2**53) + 1,
    1.5,
    "",
    "x" * 31,
    "x" * 32,
    "x" * 300,
    "h\N{LATIN SMALL LETTER E WITH ACUTE}llo \N{GRINNING FACE}",
    ["a", 1] * 20,
    {"one": 1},
)


class _Both:
    """What holds whoever has dialled.  Mixed into the two test cases below."""

    # Of TestCase.
    assertEqual: Any
    assertRaises: Any
    addCleanup: Any

    timeout = 60

    async def connect(self) -> tuple[JavaScript, RPCProtocol]:
        raise NotImplementedError

    def javascript(self, *arguments: str | int) -> JavaScript:
        process = JavaScript()
        program = node()
        transport = reactor.spawnProcess(
            process, program, [program, str(PEER), *map(str, arguments)], env=environment()
        )

        async def end() -> None:
            if process.running:
                transport.signalProcess("KILL")
            await process.ended
            self.assertEqual(process.errors, b"")

        self.addCleanup(lambda: Deferred.fromCoroutine(end()))
        return process

    def factory(self) -> _Factory:
        self.heard: Deferred[Any] = Deferred()
        dispatcher = Dispatcher()
        dispatcher.serve(ECHO, lambda peer, request: request.value)
        dispatcher.serve(ADD, _add_later)
        dispatcher.serve(FAIL, _fail)
        dispatcher.serve(HEARD, lambda peer, request: self.heard.callback(request.value))
        return _Factory(reactor, dispatcher)

    async def test_we_call_it(self) -> None:
        _, link = await self.connect()
        for value in VALUES:
            self.assertEqual(await link.call(ECHO, One(value)), value)
        for size in (0, 1, 255, 256, 65_000):
            self.assertEqual(await link.call(BLOB, Blob(b"\xff" * size)), b"\xff" * size)
        self.assertEqual(await link.call(ADD, Two(2, 3)), 5)
        self.assertEqual(await link.call(SIZE, Blob(bytes(800_000))), 800_000)

    async def test_it_calls_us(self) -> None:
        _, link = await self.connect()
        values: list[Value] = ["text", 5, None, ["a", 1]]
        for value in values:
            relayed = await link.call(RELAY, Relay("echo", [value]))
            self.assertEqual((relayed[0], json.loads(relayed[1])), (True, value))
        self.assertEqual(await link.call(RELAY, Relay("add", [2, 3])), (True, "5"))

    async def test_its_errors_reach_us(self) -> None:
        _, link = await self.connect()
        for method, said in (
            (REFUSE, "not today"),
            (MISSING, "no method missing"),
            (FAIL, "the peer refused the call and gave a reason of its own kind"),
        ):
            with self.assertRaises(RemoteError) as caught:
                await link.call(method, One("not today"))
            self.assertEqual(str(caught.exception), said)
            self.assertEqual(caught.exception.code, "REMOTE_ERROR")
        self.assertEqual(await link.call(ADD, Two(1, 1)), 2)

    async def test_our_errors_reach_it(self) -> None:
        _, link = await self.connect()
        for method, params, code in (
            ("fail", ["x"], "NOT_FOUND"),
            ("missing", [], "UNKNOWN_METHOD"),
            ("add", ["x"], "INVALID_REQUEST"),
        ):
            succeeded, error = await link.call(RELAY, Relay(method, list(params)))
            self.assertEqual((succeeded, json.loads(error)[0]), (False, code))

    async def test_many_calls_at_once_both_ways(self) -> None:
        _, link = await self.connect()
        ours = gatherResults([link.call(ADD, Two(n, 1)) for n in range(200)])
        theirs = link.call(FLOOD, One(200))
        self.assertEqual(await ours, list(range(1, 201)))
        self.assertEqual(await theirs, sum(range(1, 201)))

    async def test_notifications_both_ways(self) -> None:
        process, link = await self.connect()
        link.notify(ECHO, One("for you"))
        event = await process.named("notified")
        self.assertEqual((event["method"], event["args"]), ("echo", ["for you"]))
        self.assertEqual(await self.heard, "for you")

    async def test_a_late_answer_of_it_is_ignored(self) -> None:
        _, link = await self.connect()
        call = link.call(ECHO, One("late"), timeout=0)
        with self.assertRaises(CallTimedOut):
            await call
        self.assertEqual(await link.call(ECHO, One("next")), "next")

    async def test_it_sees_that_we_close(self) -> None:
        process, link = await self.connect()
        link.close()
        await process.named("ended")

    async def test_we_see_that_it_is_gone(self) -> None:
        process, link = await self.connect()
        process.transport.signalProcess("KILL")  # type: ignore[union-attr]
        with self.assertRaises(ConnectionClosed):
            while True:
                await link.call(ECHO, One("are you there?"))
        with self.assertRaises(ConnectionClosed):
            await link.call(ECHO, One("are you there?"))


class _Link(RPCProtocol):
    def connectionMade(self) -> None:
        super().connectionMade()
        factory = self.factory
        assert isinstance(factory, _Factory)
        if not factory.made.called:
            factory.made.callback(self)


class _Factory(RPCFactory):
    """Tells of its first connection."""

    protocol = _Link

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.made: Deferred[RPCProtocol] = Deferred()


async def _add_later(peer: RPCProtocol, request: Two) -> int:
    later: Deferred[None] = Deferred()
    reactor.callLater(0, later.callback, None)
    await later
    return request.a + request.b


def _fail(peer: RPCProtocol, request: One) -> str:
    raise NotFound("there is no such thing")


class WeDialTests(_Both, TestCase):
    """Their server, our client."""

    async def connect(self) -> tuple[JavaScript, RPCProtocol]:
        process = self.javascript("listen")
        port = (await process.named("listening"))["port"]
        link: Any = await TCP4ClientEndpoint(reactor, "127.0.0.1", port).connect(self.factory())
        self.addCleanup(link.abort)
        return process, link


class ItDialsTests(_Both, TestCase):
    """Our server, their client."""

    async def connect(self) -> tuple[JavaScript, RPCProtocol]:
        factory = self.factory()
        port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        self.addCleanup(port.stopListening)
        process = self.javascript("dial", port.getHost().port)
        link = await factory.made
        self.addCleanup(link.abort)
        return process, link
