"""
The thread in which aiortc runs, with an asyncio loop of its own, and connections in it.

Twisted's reactor stays what it is: nobody has to choose another one for WebRTC.  What is said to
the loop goes by C{call_soon_threadsafe}, what it says by C{callFromThread}; nothing else is shared.

aiortc draws its own randomness and its own time, so this cannot be simulated, and is not meant to:
L{meshkit.relay.webrtc.sessions} takes any L{Connection}.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.errors import WebRTCFailed, WebRTCMissing
from meshkit.relay.webrtc.asking import ask_servers
from meshkit.relay.webrtc.channel import ChannelTransport
from meshkit.relay.webrtc.description import MAX_CANDIDATES, count_candidates, leave_out
from meshkit.relay.webrtc.servers import Question, Seen, StunServers
from meshkit.relay.webrtc.sessions import OnChannel

T = TypeVar("T")

#: Seconds that connections may take to close when the thread ends, and once more if they do not.
STOP_SECONDS: Final = 2.0

#: The channel that is made with the offer, as a connection without one has nothing to negotiate.
#: It is open as long as the connection is.
_FIRST: Final = "meshkit"
#: Label of the others.
_STREAM: Final = "meshkit-stream/1"


def load_aiortc() -> Any:
    """
    @return: the module C{aiortc}.
    @raise WebRTCMissing: if it is not installed.
    """
    try:
        import aiortc
    except ImportError as e:
        raise WebRTCMissing(
            f"WebRTC needs the library aiortc, which cannot be imported ({e}): install it with "
            f"pip install 'meshkit[webrtc]'"
        ) from None
    return aiortc


class LoopThread(Service):
    """An asyncio loop in a thread of its own."""

    _log = Logger()

    def __init__(self, reactor: Any) -> None:
        """@param reactor: C{callFromThread}."""
        self._reactor = reactor
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def startService(self) -> None:
        super().startService()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._run, args=(self._loop,), name="meshkit-webrtc", daemon=True
        )
        self._thread.start()

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            loop.run_until_complete(self._finish())
        finally:
            loop.close()

    async def _finish(self) -> None:
        """Let what is being closed be closed; what is not after a while is given up."""
        for given_up in (False, True, True):
            tasks = sorted(asyncio.all_tasks(), key=asyncio.Task.get_name)
            rest = [task for task in tasks if task is not asyncio.current_task()]
            if not rest:
                return
            for task in rest:
                if given_up:
                    task.cancel()
            await asyncio.wait(rest, timeout=STOP_SECONDS)

    def stopService(self) -> Deferred[None]:
        """@return: Deferred that fires when the thread has ended."""
        super().stopService()
        ended: Deferred[None] = Deferred()
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is None or thread is None:
            ended.callback(None)
            return ended

        def wait() -> None:
            thread.join()
            self._reactor.callFromThread(ended.callback, None)

        loop.call_soon_threadsafe(loop.stop)
        # Not here: its end may take as long as that of a socket.
        threading.Thread(target=wait, name="meshkit-webrtc-end", daemon=True).start()
        return ended

    def tell(self, what: Callable[..., object], *arguments: Any) -> None:
        """Have something done in the loop; nothing happens if it is stopped."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(what, *arguments)

    def ask(self, make: Callable[[], Coroutine[Any, Any, T]]) -> Deferred[T]:
        """
        Run a coroutine in the loop.

        @return: Deferred of what it gives; whatever it raises that is no error of ours is a
            L{WebRTCFailed}.  Cancelling it cancels the coroutine.
        """
        loop = self._loop
        if loop is None:
            return fail(WebRTCFailed("WebRTC was stopped"))
        tasks: list[asyncio.Task[None]] = []

        def cancel(_: Deferred[T]) -> None:
            self.tell(lambda: [task.cancel() for task in tasks])

        done: Deferred[T] = Deferred(cancel)

        async def run() -> None:
            try:
                result: Any = await make()
            except asyncio.CancelledError:
                result = Failure(WebRTCFailed("it was given up"))
            except WebRTCFailed as e:
                result = Failure(e)
            except Exception as e:
                # Of a library that parses what a peer has written.
                result = Failure(WebRTCFailed(f"{type(e).__name__}: {e}"))
            self._reactor.callFromThread(settle, result)

        def settle(result: Any) -> None:
            if not done.called:
                (done.errback if isinstance(result, Failure) else done.callback)(result)

        loop.call_soon_threadsafe(lambda: tasks.append(loop.create_task(run())))
        return done


class AioConnection:
    """A L{meshkit.relay.webrtc.sessions.Connection} of aiortc."""

    def __init__(self, reactor: Any, thread: LoopThread, stun: StunServers | None = None) -> None:
        """
        @param thread: it runs.
        @param stun: servers that say which address they see; without one that answers only
            addresses of this machine's own are offered.
        @raise WebRTCMissing: if aiortc is not installed.
        """
        self._aiortc = load_aiortc()
        self._reactor = reactor
        self._thread = thread
        self._stun = stun
        self._pc: Any = None
        self._gone = False
        # Set in the loop when the first channel is open.
        self._path: asyncio.Event | None = None
        self.on_channel: OnChannel = lambda channel: None
        self.on_closed: Callable[[], None] = lambda: None

    # --- in the loop -------------------------------------------------------------------------

    async def _begin(self, questions: Sequence[Question]) -> Any:
        rtc = self._aiortc
        servers: list[Any] = []
        if questions:
            found = await ask_servers(questions)
            self._reactor.callFromThread(self._asked, None if found is None else found[1])
            if found is not None:
                servers.append(rtc.RTCIceServer(urls=[f"stun:{found[0].text}"]))
        # An empty list, and not None, for which aiortc would ask a server of its own choice.
        pc = self._pc = rtc.RTCPeerConnection(rtc.RTCConfiguration(iceServers=servers))
        self._path = asyncio.Event()

        def changed() -> None:
            if pc.connectionState in ("failed", "closed"):
                self._ended()

        pc.on("connectionstatechange", changed)
        return pc

    def _ended(self) -> None:
        self._reactor.callFromThread(self._closed)

    async def _offer(self, questions: Sequence[Question]) -> bytes:
        pc = await self._begin(questions)
        self._watch_first(pc.createDataChannel(_FIRST))
        await pc.setLocalDescription(await pc.createOffer())
        return _told_to_peer(pc)

    def _watch_first(self, channel: Any) -> None:
        path = self._path
        assert path is not None
        channel.on("open", path.set)
        channel.on("close", self._ended)
        if channel.readyState == "open":
            path.set()

    async def _answer(self, offer: bytes, questions: Sequence[Question]) -> bytes:
        pc = await self._begin(questions)

        def came(channel: Any) -> None:
            if channel.label == _FIRST:
                self._watch_first(channel)
            elif channel.label == _STREAM:
                _AioChannel(self, channel).came()
            else:
                channel.close()

        pc.on("datachannel", came)
        await self._told("offer", offer)
        await pc.setLocalDescription(await pc.createAnswer())
        return _told_to_peer(pc)

    async def _told(self, kind: str, description: bytes) -> None:
        sdp = description.decode("utf-8")
        # We send to each of these on the peer's word.
        if count_candidates(sdp) > MAX_CANDIDATES:
            raise WebRTCFailed(f"the {kind} names more than {MAX_CANDIDATES} addresses")
        if "m=audio" in sdp or "m=video" in sdp:
            raise WebRTCFailed(f"the {kind} is for a call, and not for data alone")
        await self._pc.setRemoteDescription(self._aiortc.RTCSessionDescription(sdp=sdp, type=kind))
        if self._pc.sctp is None:
            raise WebRTCFailed(f"the {kind} is for no data channels")

    async def _accept(self, answer: bytes) -> None:
        await self._told("answer", answer)
        assert self._path is not None
        await self._path.wait()

    async def _close(self) -> None:
        if self._pc is not None:
            await self._pc.close()
        self._ended()

    # --- in the reactor ------------------------------------------------------------------------

    def _closed(self) -> None:
        if not self._gone:
            self._gone = True
            self.on_closed()
            self._thread.ask(self._close).addErrback(lambda failure: failure.trap(WebRTCFailed))

    def _questions(self) -> Sequence[Question]:
        return () if self._stun is None else self._stun.questions()

    def _asked(self, seen: Seen | None) -> None:
        if self._stun is not None:
            self._stun.answered(seen)

    def offer(self) -> Deferred[bytes]:
        questions = self._questions()
        return self._thread.ask(lambda: self._offer(questions))

    def answer(self, offer: bytes) -> Deferred[bytes]:
        questions = self._questions()
        return self._thread.ask(lambda: self._answer(offer, questions))

    def accept(self, answer: bytes) -> Deferred[None]:
        return self._thread.ask(lambda: self._accept(answer))

    def open(self, make: OnChannel) -> Deferred[None]:
        opened: Deferred[None] = Deferred()

        def begin() -> None:
            try:
                channel = self._pc.createDataChannel(_STREAM)
            except Exception as e:
                why = WebRTCFailed(f"no data channel can be opened: {e}")
                self._reactor.callFromThread(_settle, opened, why)
                return
            _AioChannel(self, channel).open(make, opened)

        self._thread.tell(begin)
        return opened

    def close(self) -> None:
        self._closed()


class _AioChannel:
    """One data channel, on both sides of the border between the threads."""

    def __init__(self, owner: AioConnection, channel: Any) -> None:
        self._owner = owner
        self._channel = channel
        # In the reactor's thread; before it is there, and after it, nobody gets anything.
        self._transport: ChannelTransport | None = None
        self._gone = False
        self._waiting: Deferred[None] | None = None

    # --- in the loop -------------------------------------------------------------------------

    def open(self, make: OnChannel, opened: Deferred[None]) -> None:
        """It is ours, and not open yet."""
        self._waiting = opened
        self._listen()
        self._channel.on("open", lambda: self._reactor(self._opened, make, opened))

    def came(self) -> None:
        """The peer has opened it."""
        self._listen()
        self._reactor(self._opened, self._owner.on_channel, None)

    def _listen(self) -> None:
        self._channel.on("message", lambda message: self._reactor(self._message, message))
        self._channel.on("close", lambda: self._reactor(self._closed))

    def _reactor(self, what: Callable[..., None], *arguments: Any) -> None:
        self._owner._reactor.callFromThread(what, *arguments)

    def _send(self, messages: list[bytes]) -> None:
        if self._channel.readyState == "open":
            for message in messages:
                self._channel.send(message)

    # --- in the reactor ------------------------------------------------------------------------

    def _opened(self, make: OnChannel, opened: Deferred[None] | None) -> None:
        if opened is not None and opened.called:
            self.close()  # nobody waits for it any more
            return
        if not self._gone:
            self._transport = make(self)
            if self._transport is None:
                self.close()
        if opened is not None:
            _settle(opened, None)

    def _message(self, message: Any) -> None:
        if self._transport is not None:
            # Text is nothing that a stream sends: it is refused there.
            self._transport.message(message if isinstance(message, bytes) else b"")

    def _closed(self) -> None:
        transport, self._transport = self._transport, None
        self._gone = True
        if transport is not None:
            transport.closed()
        if self._waiting is not None:
            _settle(self._waiting, WebRTCFailed("the connection was lost"))

    def send(self, messages: list[bytes]) -> None:
        self._owner._thread.tell(self._send, messages)

    def close(self) -> None:
        self._owner._thread.tell(self._channel.close)


def _told_to_peer(pc: Any) -> bytes:
    return leave_out(str(pc.localDescription.sdp)).encode("utf-8")


def _settle(waiting: Deferred[None], error: Exception | None) -> None:
    if not waiting.called:
        if error is None:
            waiting.callback(None)
        else:
            waiting.errback(error)
