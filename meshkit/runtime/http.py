"""
What the web servers here have in common: connections on which nothing grows without a limit,
for the door of a node (L{meshkit.web.limits}) and for storage peers
(L{meshkit.storage.http.server}).

C{twisted.web} reads a whole request before anybody is asked, for as long as the client sends a
byte a minute, and answers what is malformed in its own way.  L{BoundedChannel} limits the size
and the number of headers, runs a deadline from the first byte of a request to its last, and lets
whoever inherits it decide when the headers are complete.

Who is refused gets an answer, after which the connection is closed: the rest of the body would
otherwise be taken for the next request.  Closing while the client still sends would make its TCP
discard the answer (RFC 9112, 9.6), so the sending half is closed first where there is such a
thing, and what arrives is dropped unread for L{LINGER_SECONDS} or C{linger_bytes}.

HTTP/1.1 only: each channel is made by its site, so neither TLS's ALPN nor an upgrade can put
HTTP/2 in its place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.web.http import HTTPChannel

from meshkit.errors import BodyTooLarge, HeadersTooLarge, MeshkitError, RequestTimeout

__all__ = ["LINGER_SECONDS", "BoundedChannel", "OpenChannels", "Refused", "too_large"]

#: How long what was on its way to who was refused is dropped.
LINGER_SECONDS: Final = 2.0
# More digits than any length needs, and fewer than int() refuses to read.
_LENGTH_DIGITS: Final = 19


class Refused(Exception):
    """
    Unwinds C{HTTPChannel}'s parser to where the refusal is answered.

    @ivar error: why.
    @ivar known: what is known of the request, for L{BoundedChannel.write_refusal}.
    """

    def __init__(self, error: MeshkitError, known: Any = None) -> None:
        super().__init__(error)
        self.error = error
        self.known = known


def too_large(limit: int) -> BodyTooLarge:
    """@return: the error that names the limit."""
    error = BodyTooLarge(f"the body is larger than the {limit} bytes that are accepted here")
    error.details = {"limit": limit}
    return error


class BoundedChannel(HTTPChannel, ABC):
    """
    One connection.

    States: receiving a request (a deadline runs from its first byte), answering it (what arrives
    meanwhile is kept by C{HTTPChannel}, which pauses the client at 16 KiB), full: the answer is
    not taken, and nothing else is begun; idle; and refused: our last answer is out, and what
    arrives is dropped.

    @cvar linger_bytes: that are dropped after a refusal.
    @ivar site: whose C{unused(channel)} is called when there is no request any more that was let
        in.
    @cvar malformed: the error of what is no request.
    @ivar leaving: it was told to make room.
    """

    linger_bytes: ClassVar[int]
    malformed: ClassVar[Callable[[str], MeshkitError]]

    site: Any
    transport: Any
    leaving = False
    _request_line = b""
    _head_bytes = 0
    _headers = 0
    _receiving = False
    _answering = False
    _refused = False
    _losing = False
    _site_closes = False
    # The client does not take what is sent.
    _full = False
    _dropped = 0
    _deadline: IDelayedCall | None = None
    _max_head: int
    _max_headers: int
    _max_body: int
    _receive_seconds: float

    def limit(
        self, *, max_head: int, max_headers: int, max_body: int, receive_seconds: float
    ) -> None:
        """
        To be called before the connection is made.

        @param max_head: bytes of request line and headers.
        @param max_headers: lines.
        @param max_body: bytes of the largest body, for an error; whoever inherits this counts.
        @param receive_seconds: from the first byte of a request to its last.
        """
        self._max_head, self._max_headers, self._max_body = max_head, max_headers, max_body
        self._receive_seconds = receive_seconds
        # C{HTTPChannel} has limits of its own, which answer without saying why.  Ours are never
        # the larger ones.
        self.MAX_LENGTH = self.totalHeadersSize = max_head
        self.maxHeaders = max_headers

    # --- what is different ---------------------------------------------------------------

    @abstractmethod
    def write_refusal(self, error: MeshkitError, known: Any) -> None:
        """
        Write the answer to the request that is being received, with C{Connection: close}.

        @param known: what was found out about it.
        """

    @abstractmethod
    def let_go(self, request: Any) -> None:
        """A request will not be answered: its body is needed no more."""

    @abstractmethod
    def can_half_close(self) -> bool:
        """Does the transport go on reading when its sending half is closed?"""

    def origin_form(self, line: bytes) -> bytes:
        """@return: a request line as it is to be read."""
        return line

    # --- receiving -----------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        if self._refused:
            self._drop(len(data))
            return
        if not self._answering:
            self._receiving = True
        super().dataReceived(data)
        if self._receiving and self._deadline is None and not self._losing:
            # Most requests come in one piece, and need no clock.
            self._deadline = self.callLater(self._receive_seconds, self._too_slow)

    def lineReceived(self, line: bytes) -> None:
        try:
            self._head_bytes += len(line) + len(self.delimiter)
            if self._head_bytes > self._max_head:
                raise Refused(self._head_too_large())
            if not self._request_line:
                self._request_line = line = self.origin_form(line)
                self._receiving = True
            super().lineReceived(line)
        except Refused as e:
            self.refuse(e.error, e.known)

    def lineLengthExceeded(self, line: bytes) -> None:
        self.refuse(self._head_too_large())

    def headerReceived(self, line: bytes) -> bool:
        name, _, value = line.partition(b":")
        value = value.strip(b" \t")
        if name.lower() == b"content-length" and len(value) > _LENGTH_DIGITS and value.isdigit():
            raise Refused(too_large(self._max_body))
        self._headers += 1
        if self._headers > self._max_headers:
            raise Refused(HeadersTooLarge(f"more than {self._max_headers} headers were sent"))
        return bool(super().headerReceived(line))

    def rawDataReceived(self, data: bytes) -> None:
        try:
            super().rawDataReceived(data)
        except Refused as e:
            self.refuse(e.error, e.known)

    def allContentReceived(self) -> None:
        self._stop_deadline()
        self._receiving = False
        self._answering = True
        self._request_line = b""
        self._head_bytes = 0
        self._headers = 0
        super().allContentReceived()

    def _respondToBadRequestAndDisconnect(self) -> None:
        # C{HTTPChannel} calls this for every malformed request.  It is private; were it
        # renamed, clients would get its bare 400 instead of ours.
        raise Refused(type(self).malformed("this is not a well-formed HTTP/1.1 request"))

    def _head_too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(f"request line and headers have to fit in {self._max_head} bytes")

    # --- what is taken -------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """The transport has more than it likes to keep."""
        self._full = True
        super().pauseProducing()

    def resumeProducing(self) -> None:
        """The transport has sent all of it."""
        self._full = False
        super().resumeProducing()
        if self.paused:
            self.paused = False
            self.site.unused(self)
            # What was kept meanwhile.
            super().dataReceived(b"")

    def hold(self) -> None:
        """What else the client has sent waits until it has taken this answer."""
        self.paused = True
        self.transport.pauseProducing()

    # --- refusing ------------------------------------------------------------------------

    def refuse(self, error: MeshkitError, known: Any = None) -> None:
        """Answer the request that is being received with an error, and close."""
        if self._refused:
            return
        self._refused = True
        self._receiving = False
        self._stop_deadline()
        self.setTimeout(None)
        self.clearLineBuffer()
        # Nobody else has seen these.
        for request in self.requests:
            self.let_go(request)
        self.requests.clear()
        self.site.unused(self)
        self.write_refusal(error, known)
        self._close_politely()

    def _close_politely(self) -> None:
        self._losing = True
        self._deadline = self.callLater(LINGER_SECONDS, self._give_up)
        transport = self.transport
        transport.unregisterProducer()
        transport.resumeProducing()
        if self.can_half_close():
            transport.loseWriteConnection()
        else:
            transport.loseConnection()

    def _drop(self, size: int) -> None:
        self._dropped += size
        if self._dropped > self.linger_bytes:
            self._stop_deadline()
            self.abort()

    def timeoutConnection(self) -> None:
        """The client is idle.  In the middle of a request that is worth an answer."""
        if self.requests:
            self.refuse(RequestTimeout())
        else:
            super().timeoutConnection()

    def _too_slow(self) -> None:
        self._deadline = None
        if self.requests:
            self.refuse(RequestTimeout())
        else:
            # Not even a request line: to answer would confuse a client that is just about to
            # send one.
            self.abort()

    # --- the end -------------------------------------------------------------------------

    def loseConnection(self) -> None:
        # Only once: some transports take it ill if a producer is unregistered twice.
        if not self._losing:
            self._losing = True
            super().loseConnection()

    def make_room(self) -> None:
        """Close, though nothing is wrong: others want to come in."""
        self.leaving = True
        if self.requests or self._refused:
            self.abort()
        else:
            self.loseConnection()

    def close_when_answered(self) -> None:
        """Close now if no answer is owed, else as soon as it is given."""
        self._site_closes = True
        if self._answering:
            self.persistent = 0
        elif not self._refused:
            self.loseConnection()

    def abort(self) -> None:
        """Close now, whatever is still on its way."""
        self.transport.abortConnection()

    def give_up_after(self, seconds: float) -> None:
        """Abort, unless something else happens."""
        self._stop_deadline()
        self._deadline = self.callLater(seconds, self._give_up)

    def _give_up(self) -> None:
        self._deadline = None
        self.abort()

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class OpenChannels:
    """The connections of a site, in the order in which they came."""

    def __init__(self, reactor: Any) -> None:
        """@param reactor: C{IReactorTime}."""
        self._reactor = reactor
        # A dict, for its order.
        self._channels: dict[Any, None] = {}
        self._waiting: list[Deferred[None]] = []

    def __len__(self) -> int:
        return len(self._channels)

    def __contains__(self, channel: Any) -> bool:
        return channel in self._channels

    def __iter__(self) -> Iterator[Any]:
        return iter(self._channels)

    def add(self, channel: Any) -> None:
        """A connection is there."""
        self._channels[channel] = None

    def remove(self, channel: Any) -> None:
        """A connection that was there is gone."""
        del self._channels[channel]
        if not self._channels:
            waiting, self._waiting = self._waiting, []
            for gone in waiting:
                gone.callback(None)

    def close(self, grace: float) -> Deferred[None]:
        """
        Close every connection: idle ones now, the others after the answer they wait for.

        @param grace: seconds after which what is still open is aborted, which cancels the
            handlers that are still at work.
        @return: Deferred that fires when no connection is left.
        """
        for channel in list(self._channels):
            channel.close_when_answered()
        if not self._channels:
            return succeed(None)
        timer = self._reactor.callLater(grace, self._abort_all)

        def done(result: Any) -> Any:
            if timer.active():
                timer.cancel()
            return result

        gone: Deferred[None] = Deferred()
        self._waiting.append(gone)
        return gone.addBoth(done)

    def _abort_all(self) -> None:
        for channel in list(self._channels):
            channel.abort()
