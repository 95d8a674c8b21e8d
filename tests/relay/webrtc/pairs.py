"""Connections of WebRTC without WebRTC: two sides in one process, on one clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from meshkit.errors import WebRTCFailed
from meshkit.relay.webrtc.channel import ChannelTransport

LATENCY = 0.01


class Pipe:
    """One side of a channel; what is sent arrives later, and in order."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.other: Pipe
        self.transport: ChannelTransport | None = None
        self.is_closed = False
        self.sent: list[bytes] = []
        # What this side sends is held back.
        self.stuck = False

    def send(self, messages: list[bytes]) -> None:
        self.sent += messages
        if not self.stuck and not self.is_closed:
            for message in messages:
                self.clock.callLater(LATENCY, self.other.arrived, message)

    def arrived(self, message: bytes) -> None:
        if self.transport is not None and not self.is_closed:
            self.transport.message(message)

    def close(self) -> None:
        for side in (self, self.other):
            if not side.is_closed:
                self.clock.callLater(0 if side is self else LATENCY, side.ended)

    def ended(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            if self.transport is not None:
                self.transport.closed()


def make_pipes(clock: Clock) -> tuple[Pipe, Pipe]:
    one, other = Pipe(clock), Pipe(clock)
    one.other, other.other = other, one
    return one, other


class FakeConnection:
    """
    A connection; its offer is a number by which the other side finds it.

    @ivar fails: there is no path.
    """

    def __init__(self, world: FakeWorld) -> None:
        self.world = world
        self.other: FakeConnection | None = None
        self.closed = False
        self.pipes: list[Pipe] = []
        self.on_channel: Any = lambda channel: None
        self.on_closed: Callable[[], None] = lambda: None

    def offer(self) -> Deferred[bytes]:
        self.world.offered.append(self)
        return succeed(b"%d" % (len(self.world.offered) - 1))

    def answer(self, offer: bytes) -> Deferred[bytes]:
        if not offer.isdigit():
            return fail(WebRTCFailed("that is no offer"))
        self.other = self.world.offered[int(offer)]
        self.other.other = self
        return succeed(b"yes")

    def accept(self, answer: bytes) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        if not self.world.blocked:
            self.world.clock.callLater(LATENCY, done.callback, None)
        return done

    def open(self, make: Any) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        if not self.world.deaf:
            self.world.clock.callLater(LATENCY, self._open, make, done)
        return done

    def _open(self, make: Any, done: Deferred[None]) -> None:
        if self.closed or self.other is None:
            done.errback(WebRTCFailed("the connection was lost"))
            return
        mine, theirs = make_pipes(self.world.clock)
        self.pipes.append(mine)
        for pipe, take in ((mine, make), (theirs, self.other.on_channel)):
            pipe.transport = take(pipe)
            if pipe.transport is None:
                pipe.close()
        done.callback(None)

    def close(self) -> None:
        self._end()
        if self.other is not None:
            self.world.clock.callLater(LATENCY, self.other._end)

    def _end(self) -> None:
        if not self.closed:
            self.closed = True
            for pipe in self.pipes:
                pipe.close()
            self.on_closed()


class FakeWorld:
    """
    @ivar blocked: no two peers find a path.
    @ivar deaf: no channel opens.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.offered: list[FakeConnection] = []
        self.blocked = False
        self.deaf = False

    def make(self) -> FakeConnection:
        return FakeConnection(self)
