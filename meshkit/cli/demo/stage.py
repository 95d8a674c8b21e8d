"""
The demo as a program: the reactor, signals, and an end without children.
"""

from __future__ import annotations

import os
import signal
import sys
from random import SystemRandom
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from meshkit.cli.demo.cluster import Cluster, DemoFailed, RunFolder
from meshkit.cli.demo.screens import Screen, open_screen
from meshkit.cli.demo.story import Story
from meshkit.cli.door import RemoteError
from meshkit.errors import MeshkitError
from meshkit.runtime.workers import WorkerPool

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Interrupted:
    """
    Turns signals into the cancelling of the story.  The second one kills the children
    at once, for whoever is in a hurry.

    @ivar number: the first signal that came.
    """

    def __init__(self, reactor: Any, cluster: Cluster) -> None:
        self._reactor = reactor
        self._cluster = cluster
        self._acting: Deferred[Any] | None = None
        self.number: int | None = None
        for number in _SIGNALS:
            # Whoever started us with "nohup" wants us to outlive the terminal.
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._received)

    def watch(self, acting: Deferred[Any]) -> None:
        self._acting = acting
        if self.number is not None:
            acting.cancel()

    def _received(self, number: int, frame: object) -> None:
        # Between any two instructions of the program: leave it to the reactor.
        self._reactor.callFromThread(self._deal, number)

    def _deal(self, number: int) -> None:
        if self.number is not None:
            self._cluster.kill_all()
            return
        self.number = number
        self._cluster.interrupted = True
        if self._acting is not None:
            self._acting.cancel()


def perform(*, check: bool, folder: str | None, messages: int) -> int:
    """
    Run the demo.

    @param check: do not wait for anybody, and let the checks decide.
    @param folder: where to keep the nodes; L{None} for a temporary folder.
    @param messages: how many to publish, at most.
    @return: exit code: 0 if all is well; 1 if a check or the demo failed; 128 and the
        number of the signal that interrupted it.
    """
    from twisted.internet import reactor as installed

    reactor: Any = installed
    screen = open_screen()
    rng = SystemRandom()
    cluster = Cluster(reactor, RunFolder.make(rng, folder), rng)
    interrupted = _Interrupted(reactor, cluster)
    workers = WorkerPool(reactor, 1, name="meshkit-demo")
    story = Story(cluster, screen, workers, check=check, messages=messages)
    outcome: list[Any] = []

    def begin() -> None:
        workers.startService()
        acting = Deferred.fromCoroutine(_act(story, cluster, workers, screen))
        interrupted.watch(acting)
        acting.addBoth(outcome.append).addCallback(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    # Ours are in place already.
    reactor.run(installSignalHandlers=False)
    return _exit_code(outcome[0], interrupted.number, story, check)


async def _act(story: Story, cluster: Cluster, workers: WorkerPool, screen: Screen) -> None:
    try:
        await story.play()
    except RemoteError as e:
        if e.status < 500:
            raise
        raise DemoFailed(f"a node answered {e.code}: {e}{cluster.logs()}") from e
    finally:
        # Whatever happened, and also when it was cancelled: nothing is left behind.
        screen.close()
        await cluster.stop_all()
        cluster.run.remove()
        await workers.stopService()


def _exit_code(outcome: Any, interrupted: int | None, story: Story, check: bool) -> int:
    if interrupted is not None:
        # Ctrl-C is how the demo is meant to end, once all was shown.
        return story.exit_code if story.waiting and not check else 128 + interrupted
    if isinstance(outcome, Failure):
        error = outcome.value
        if isinstance(error, BrokenPipeError):
            # Whoever read our output has left; so that nobody tries again at exit:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        if isinstance(error, MeshkitError):
            print(f"meshkit demo: {error} [{error.code}]", file=sys.stderr)
            return 1
        outcome.raiseException()
    return story.exit_code
