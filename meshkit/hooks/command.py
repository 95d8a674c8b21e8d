"""
Running a program for each message.

The program gets the message on its standard input, as the doors show it, and a few of its
fields in the environment (L{environment}).  What it prints is read to its end, so that it
never has to wait for us, and kept up to a limit.  It runs in a session of its own: at its
time limit the whole of that is told to end (C{SIGTERM}), and a little later it is ended
(C{SIGKILL}); and when it ends by itself, what it has left running ends with it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.error import ProcessTerminated
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from meshkit.hooks import launch
from meshkit.hooks.config import CommandHook
from meshkit.hooks.retries import Failed
from meshkit.identity.keys import PublicKey
from meshkit.interfaces import Arrival

#: Seconds in which what was killed has to be gone, and in which the output of a program
#: that has ended has to end: whoever left its session may hold that open for ever.
GONE_SECONDS: Final = 2.0
#: Seconds between C{SIGTERM} and C{SIGKILL} when the node stops.
STOP_GRACE: Final = 3.0
#: Characters of a field that are put into the environment.
MAX_FIELD: Final = 256
#: Characters of the output that are shown with an error.
SHOWN_OUTPUT: Final = 200

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Kill = Callable[[int, int], None]


def environment(hook: str, arrival: Arrival, attempt: int) -> dict[str, str]:
    """
    All that a command finds in its environment.

    The content type and the tags are whatever an author chose: one that is long, or has
    characters which are no printable ASCII, is left out.  All of it is in the message.
    """
    message = arrival.message
    fields = {
        "LANG": "C.UTF-8",
        "PATH": _PATH,
        "MESHKIT_ATTEMPT": str(attempt),
        "MESHKIT_AUTHOR": PublicKey(message.author).text,
        "MESHKIT_CHAIN_VALID": "true" if arrival.chain_valid else "false",
        "MESHKIT_HASH": message.hash.hex(),
        "MESHKIT_HOOK": hook,
        "MESHKIT_POSITION": str(message.position),
        "MESHKIT_SEQUENCE": str(message.sequence),
    }
    if message.content_type is not None and _is_plain(message.content_type):
        fields["MESHKIT_TYPE"] = message.content_type
    # A comma may be in a tag, a space is between words that nobody quoted.
    tags = ",".join(tag for tag in message.tags if _is_plain(tag) and "," not in tag)
    if tags and len(tags) <= MAX_FIELD:
        fields["MESHKIT_TAGS"] = tags
    return fields


def _is_plain(text: str) -> bool:
    return len(text) <= MAX_FIELD and text.isascii() and text.isprintable()


def kill_session(leader: int, number: int, kill: Kill = os.kill) -> None:
    """
    Send a signal to every process of a session that has not left its process group.

    @param leader: process id of its first process.
    """
    for target in (-leader, leader):
        try:
            kill(target, number)
        except ProcessLookupError:
            # Of the group: its leader has not come so far as to make it.  Of both: gone.
            continue
        except PermissionError:
            # It has become another user's: what may be done was done.
            return
        return


class _Child(ProcessProtocol):
    """
    One run of a program.

    @ivar ended: Deferred of L{None} or how it failed.
    """

    def __init__(
        self, clock: IReactorTime, hook: CommandHook, data: bytes, max_output: int, kill: Kill
    ) -> None:
        self._clock = clock
        self._hook = hook
        self._data = data
        self._max_output = max_output
        self._kill = kill
        self._due: IDelayedCall | None = None
        self._late = False
        self._leader: int | None = None
        self._exit: Failure | None = None
        self.output = bytearray()
        self.dropped = 0
        self.ended: Deferred[Failed | None] = Deferred()

    def connectionMade(self) -> None:
        transport: Any = self.transport
        self._leader = transport.pid
        self._wait(self._hook.timeout, self._too_late)
        transport.write(self._data)
        transport.closeStdin()

    # --- what it says

    def outReceived(self, data: bytes) -> None:
        kept = data[: max(0, self._max_output - len(self.output))]
        self.output += kept
        self.dropped += len(data) - len(kept)

    errReceived = outReceived

    # --- its end

    def stop(self) -> None:
        """End it before its time."""
        if self._exit is None and not self.ended.called:
            self._terminate(min(STOP_GRACE, self._hook.kill_after))

    def _too_late(self) -> None:
        self._late = True
        self._terminate(self._hook.kill_after)

    def _terminate(self, grace: float) -> None:
        self._signal(signal.SIGTERM)
        self._wait(grace, self._kill_all)

    def _kill_all(self) -> None:
        self._signal(signal.SIGKILL)
        self._wait(GONE_SECONDS, self._give_up)

    def _give_up(self) -> None:
        # In the hands of a driver: not even SIGKILL ends that.
        transport: Any = self.transport
        transport.loseConnection()
        self._finish(Failed("it cannot be killed, and was left behind"))

    def processExited(self, reason: Failure) -> None:
        self._exit = reason
        # What it has started and left behind.
        self._signal(signal.SIGKILL)
        self._wait(GONE_SECONDS, self._close)

    def _close(self) -> None:
        """Somebody outside the session holds its output open."""
        transport: Any = self.transport
        transport.loseConnection()

    def processEnded(self, reason: Failure) -> None:
        if self._late:
            failed: Failed | None = Failed(
                f"it was not done after {self._hook.timeout:g} s, and was ended"
            )
        else:
            failed = _judge_exit(reason, self.output)
        self._finish(failed)

    def _finish(self, result: Failed | None) -> None:
        self._stop_clock()
        if not self.ended.called:
            self.ended.callback(result)

    def _signal(self, number: int) -> None:
        if self._leader is not None:
            kill_session(self._leader, number, self._kill)

    def _wait(self, seconds: float, call: Callable[[], None]) -> None:
        self._stop_clock()
        self._due = self._clock.callLater(seconds, call)

    def _stop_clock(self) -> None:
        if self._due is not None and self._due.active():
            self._due.cancel()
        self._due = None


def _judge_exit(reason: Failure, output: bytes | bytearray) -> Failed | None:
    error = reason.value
    if not isinstance(error, ProcessTerminated):
        return None
    if error.signal is not None:
        return Failed(f"it was ended by signal {error.signal}")
    said = shown_output(bytes(output[: 4 * SHOWN_OUTPUT]), SHOWN_OUTPUT)
    return Failed(f"it exited with code {error.exitCode}" + (f", saying: {said}" if said else ""))


def shown_output(output: bytes, most: int) -> str:
    """What a program printed, as one line without anything that a terminal would obey."""
    text = " ".join(output.decode("utf-8", "replace").split())
    text = "".join(each if each.isprintable() else "\ufffd" for each in text)
    return text if len(text) <= most else text[:most] + "..."


class Commands:
    """Runs the program of one hook.  A L{meshkit.hooks.courier.Delivery}."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        hook: CommandHook,
        folder: str,
        running: DeferredSemaphore,
        max_output: int,
        *,
        spawn: Callable[..., Any] | None = None,
        kill: Kill = os.kill,
    ) -> None:
        """
        @param reactor: the clock, and C{spawnProcess}.
        @param folder: where the program runs.
        @param running: has a token for each command of the node that may run.
        @param max_output: bytes of output that are kept of a run.
        @param spawn: in place of the reactor's.
        @param kill: what sends signals.
        """
        self._reactor = reactor
        self._hook = hook
        self._folder = folder
        self._running = running
        self._max_output = max_output
        self._spawn = reactor.spawnProcess if spawn is None else spawn
        self._kill = kill
        self._child: _Child | None = None
        self._turn: Deferred[Any] | None = None
        self._stopping = False

    def deliver(self, arrival: Arrival, attempt: int) -> Deferred[Failed | None]:
        return Deferred.fromCoroutine(self._deliver(arrival, attempt))

    async def _deliver(self, arrival: Arrival, attempt: int) -> Failed | None:
        if self._stopping:
            return _STOPPED
        self._turn = self._running.acquire()
        try:
            await self._turn
        except CancelledError:
            return _STOPPED
        finally:
            self._turn = None
        try:
            return await self._run(arrival, environment(self._hook.name, arrival, attempt))
        finally:
            self._child = None
            self._running.release()

    async def _run(self, arrival: Arrival, variables: Mapping[str, str]) -> Failed | None:
        child = _Child(self._reactor, self._hook, arrival.text, self._max_output, self._kill)
        arguments = [sys.executable, "-I", "-S", launch.__file__, self._folder]
        try:
            self._spawn(
                child,
                sys.executable,
                [*arguments, *self._hook.arguments],
                env=dict(variables),
                childFDs={0: "w", 1: "r", 2: "r"},
            )
        except OSError as e:
            return Failed(f"no process could be made for it: {e.strerror or e}")
        self._child = child
        if self._stopping:
            child.stop()
        failed = await child.ended
        if child.output:
            self._log.debug(
                "the hook {name} printed: {output}",
                name=self._hook.name,
                output=shown_output(bytes(child.output), self._max_output),
            )
        if child.dropped:
            self._log.warn(
                "the hook {name} printed {dropped} bytes more than the {kept} that are kept",
                name=self._hook.name,
                dropped=child.dropped,
                kept=self._max_output,
            )
        return failed

    def stop(self) -> None:
        self._stopping = True
        if self._turn is not None:
            self._turn.cancel()
        if self._child is not None:
            self._child.stop()


_STOPPED: Final = Failed("the node stopped before it was done")
