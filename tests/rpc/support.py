"""What the tests of this room share: methods, handlers, and two connected ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from meshkit.errors import NotFound
from meshkit.rpc.methods import Dispatcher, Method
from meshkit.rpc.protocol import RPCProtocol
from meshkit.rpc.table import RPCLimits
from meshkit.runtime.limits import PeerBuckets
from meshkit.testing.transports import MemoryWire, connect_protocols


class Text(msgspec.Struct, array_like=True, frozen=True):
    text: str


class Sum(msgspec.Struct, array_like=True, frozen=True):
    a: int
    b: int = 0


ECHO: Final = Method("echo", Text, str)
ADD: Final = Method("add", Sum, int)
SLOW: Final = Method("slow", Text, str)
FAIL: Final = Method("fail", Text, str)
LARGE: Final = Method("large", Sum, bytes)
NEVER: Final = Method("never offered", Text, str)


class Service:
    """
    Answers, and keeps what it does not answer yet.

    @ivar heard: the texts that came.
    @ivar slow: the Deferreds of C{slow}, in order.
    @ivar cancelled: how many of them were cancelled.
    """

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.slow: list[Deferred[str]] = []
        self.cancelled = 0
        self.on_fail: Callable[[Any], Any] = _not_found
        self.dispatcher = Dispatcher()
        self.dispatcher.serve(ECHO, self.echo)
        self.dispatcher.serve(ADD, self.add)
        self.dispatcher.serve(SLOW, self.wait)
        self.dispatcher.serve(FAIL, lambda peer, request: self.on_fail(peer))
        self.dispatcher.serve(LARGE, lambda peer, request: b"x" * request.a)

    def echo(self, peer: Any, request: Text) -> str:
        self.heard.append(request.text)
        return request.text

    async def add(self, peer: Any, request: Sum) -> int:
        return request.a + request.b

    def wait(self, peer: Any, request: Text) -> Deferred[str]:
        self.heard.append(request.text)
        deferred: Deferred[str] = Deferred(self._cancelled)
        self.slow.append(deferred)
        return deferred

    def _cancelled(self, _: Deferred[str]) -> None:
        self.cancelled += 1


def _not_found(peer: Any) -> str:
    raise NotFound("there is no such thing: look elsewhere")


class Pair:
    """Two ends over one memory wire, with a clock; the second serves."""

    def __init__(
        self,
        *,
        chunk: Any = None,
        limits: RPCLimits | None = None,
        caller_limits: RPCLimits | None = None,
        buckets: PeerBuckets | None = None,
        both: bool = False,
    ) -> None:
        """@param both: the first serves as well, another L{Service}."""
        self.clock = Clock()
        self.service = Service()
        self.own = Service()
        self.caller = RPCProtocol(
            self.clock,
            self.own.dispatcher if both else Dispatcher(),
            limits=caller_limits or RPCLimits(),
        )
        self.server = RPCProtocol(
            self.clock, self.service.dispatcher, limits=limits or RPCLimits(), buckets=buckets
        )
        self.wire: MemoryWire = connect_protocols(self.caller, self.server, chunk=chunk)

    def pump(self) -> None:
        self.wire.pump()

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.wire.pump()


class Raw:
    """A peer of one's own making: a protocol that records bytes, and writes what it is told."""

    def __init__(
        self,
        *,
        limits: RPCLimits | None = None,
        buckets: PeerBuckets | None = None,
        protocol: type[RPCProtocol] = RPCProtocol,
    ) -> None:
        from tests.shs.common import Recorder

        self.clock = Clock()
        self.service = Service()
        self.peer = Recorder()
        self.end = protocol(
            self.clock, self.service.dispatcher, limits=limits or RPCLimits(), buckets=buckets
        )
        self.wire = connect_protocols(self.peer, self.end)

    def say(self, *messages: Any) -> list[Any]:
        """@return: what is answered, decoded."""
        return self.send(b"".join(map(msgspec.msgpack.encode, messages)))

    def send(self, data: bytes) -> list[Any]:
        self.peer.received.clear()
        self.peer.transport.write(data)  # type: ignore[union-attr]
        self.wire.pump()
        return self.heard()

    def heard(self) -> list[Any]:
        """What came since it last said something."""
        import msgpack

        unpacker = msgpack.Unpacker()
        unpacker.feed(bytes(self.peer.received))
        return list(unpacker)

    @property
    def lost(self) -> Any:
        """What the end was lost with, or L{None}."""
        return None if self.end._open else self.end._reason.type
