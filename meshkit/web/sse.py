"""
Streams of items as server-sent events.

Source: HTML Living Standard, section 9.2 "Server-sent events".  An event is a few lines
and an empty one::

    id: 17                  where in the stream it stands; sent back as Last-Event-ID
    event: lagged           its type; left out for an ordinary item
    data: {"..."}           the item, as JSON

A line that begins with a colon is a comment, sent when there is nothing else, so that
whoever is between us and the reader does not take the connection for dead.

L{EventWriter} asks its source for an item only when the connection has taken the last
one: a reader that does not read costs one item and what the socket holds, and after
L{STALL_SECONDS} its connection.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Final

import msgspec
from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from meshkit.errors import FrameTooLarge, MeshkitError
from meshkit.operations import Item
from meshkit.web.answers import SAFE_HEADERS, fault

CONTENT_TYPE: Final = b"text/event-stream"

#: Seconds without an event after which a comment is sent.
KEEP_ALIVE: Final = 15.0
#: Seconds in which a reader that has stopped reading has to go on.
STALL_SECONDS: Final = 60.0
#: Bytes of one event that a reader takes.
MAX_EVENT: Final = 1024 * 1024

_COMMENT: Final = b":\n\n"


def encode_item(item: Item) -> bytes:
    """An item as an event.  JSON holds no line breaks, so its text is one line."""
    lines = []
    if item.id is not None:
        lines.append(b"id: %b\n" % item.id.encode("ascii"))
    if item.event is not None:
        lines.append(b"event: %b\n" % item.event.encode("ascii"))
    # A raw text may hold white space of its author's.
    data = msgspec.json.encode(item.data).replace(b"\r", b" ").replace(b"\n", b" ")
    return b"%bdata: %b\n\n" % (b"".join(lines), data)


@implementer(IPushProducer)
class EventWriter:
    """Writes one stream to one request.  For the reactor's thread."""

    _log = Logger()

    def __init__(self, request: Any, clock: IReactorTime) -> None:
        self._request = request
        self._clock = clock
        self._over = False
        # What is waited for: an item of the source, or that the connection takes more.
        self._coming: Deferred[Item | None] | None = None
        self._taken: Deferred[None] | None = None
        self._due: IDelayedCall | None = None

    async def write(self, items: AsyncIterator[Item]) -> None:
        """
        Send every item as it comes, until there are no more, the client goes, or
        L{stop} is called; then the source is closed.

        Whoever runs this cancels it when the client goes, as klein does.  An error of the
        source is the last event, of the type C{error}: once an answer has begun, nothing
        else can be said.
        """
        request = self._request
        request.setResponseCode(200)
        for name, value in ((b"Content-Type", CONTENT_TYPE), *SAFE_HEADERS):
            request.setHeader(name, value)
        if request.method == b"HEAD":
            await _close(items)
            return
        request.notifyFinish().addBoth(self._client_gone)
        request.registerProducer(self, True)
        # The source listens from now on; then the reader is told that its request was heard,
        # and misses nothing that it does after that.
        self._ask(items)
        self._send(_COMMENT)
        try:
            while not self._over:
                item = await self._next(items)
                if item is None:
                    break
                self._send(encode_item(item))
                if self._taken is not None:
                    await self._taken
        except CancelledError:
            pass
        except MeshkitError as e:
            self._send(encode_item(Item(fault(e), event="error")))
        except Exception:
            self._log.failure("a stream of events broke")
            broken = MeshkitError("the stream broke inside the node: its log says why")
            self._send(encode_item(Item(fault(broken), event="error")))
        finally:
            self._stop_clock()
            await _close(items)
            if not self._over:
                request.unregisterProducer()
            self._over = True

    def stop(self) -> None:
        """End the stream in good order: this node is stopping."""
        if self._coming is not None:
            self._coming.cancel()
        self._go_on()

    def _ask(self, items: AsyncIterator[Item]) -> Deferred[Item | None]:
        coming = self._coming = Deferred.fromCoroutine(_next_of(items))
        return coming

    async def _next(self, items: AsyncIterator[Item]) -> Item | None:
        try:
            return await (self._coming or self._ask(items))
        finally:
            self._coming = None

    def _client_gone(self, _: object) -> None:
        self._over = True
        self._stop_clock()

    def _send(self, data: bytes) -> None:
        if not self._over:
            self._request.write(data)
            if self._taken is None:
                self._start_clock(KEEP_ALIVE, self._keep_alive)

    # --- what the connection says ----------------------------------------------------

    def pauseProducing(self) -> None:
        if self._taken is None:
            self._taken = Deferred()
            self._start_clock(STALL_SECONDS, self._stalled)

    def resumeProducing(self) -> None:
        self._start_clock(KEEP_ALIVE, self._keep_alive)
        self._go_on()

    def _go_on(self) -> None:
        taken, self._taken = self._taken, None
        if taken is not None and not taken.called:
            taken.callback(None)

    def stopProducing(self) -> None:
        """The connection is gone: the request says so as well."""

    # --- time ------------------------------------------------------------------------

    def _keep_alive(self) -> None:
        self._due = None
        self._send(_COMMENT)

    def _stalled(self) -> None:
        self._due = None
        self._log.info(
            "a reader of events did not read for {seconds} s: its connection is cut",
            seconds=STALL_SECONDS,
        )
        cut(self._request)

    def _start_clock(self, seconds: float, call: Callable[[], None]) -> None:
        self._stop_clock()
        if not self._over:
            self._due = self._clock.callLater(seconds, call)

    def _stop_clock(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None


def cut(request: Any) -> None:
    """Close a request's connection now, whatever is still on its way."""
    if request.channel is not None:
        request.channel.transport.abortConnection()


async def _next_of(items: AsyncIterator[Item]) -> Item | None:
    return await anext(items, None)


async def _close(items: AsyncIterator[Item]) -> None:
    """Have a generator run what it has to at its end."""
    if isinstance(items, AsyncGenerator):
        await items.aclose()


@frozen
class Event:
    """
    What a reader got.

    @ivar data: the lines of data, joined.
    @ivar event: its type; C{message} unless something else was said.
    @ivar id: the last id that was said so far; empty if none was.
    """

    data: str
    event: str
    id: str


class EventReader:
    """
    The other end: cuts what arrives into events.  Pure.

    As the standard has it: lines end in CR, LF or both, an event without data is none, one
    space after the colon is dropped, what is not known is ignored.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._after_cr = False
        self._first = True
        self._data: list[str] = []
        self._event = ""
        self._size = 0
        #: The last id that was said: what to go on from after a broken connection.
        self.last_id = ""

    def feed(self, data: bytes) -> list[Event]:
        """
        Take bytes, in pieces of any size.

        @return: the events that they complete.
        @raise FrameTooLarge: if an event is larger than L{MAX_EVENT}.
        """
        if self._after_cr:
            # CR and LF are one end of a line, also when they arrive apart.
            data = data.removeprefix(b"\n")
        if data:
            self._after_cr = data.endswith(b"\r")
        self._buffer += data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest
        events = [event for event in map(self._line, lines) if event is not None]
        if self._size + len(rest) > MAX_EVENT:
            raise _too_large()
        return events

    def _line(self, line: bytearray) -> Event | None:
        text = line.decode("utf-8", "replace")
        if self._first:
            self._first = False
            text = text.removeprefix("\ufeff")
        if not text:
            return self._dispatch()
        name, _, value = text.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
            self._size += len(line)
            if self._size > MAX_EVENT:
                raise _too_large()
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self.last_id = value
        return None

    def _dispatch(self) -> Event | None:
        data, event = self._data, self._event
        self._data, self._event, self._size = [], "", 0
        if not data:
            return None
        return Event("\n".join(data), event or "message", self.last_id)


def _too_large() -> FrameTooLarge:
    return FrameTooLarge(f"an event is larger than the {MAX_EVENT} bytes that are read")
