"""How a child that runs on Twisted does its jobs: see L{tests.bench.peers}."""

from __future__ import annotations

import gc
import json
import resource
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from time import process_time
from typing import Any, Final

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from twisted.internet.stdio import StandardIO
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

#: Seconds after which a child ends whatever it does.
LIFETIME: Final = 300

Job = Callable[..., Coroutine[Deferred[Any], Any, Any]]


class _Jobs(LineOnlyReceiver):
    delimiter = b"\n"

    def __init__(self, reactor: Any, jobs: Mapping[str, Job]) -> None:
        self._reactor = reactor
        self._jobs = jobs

    def lineReceived(self, line: bytes) -> None:
        arguments = json.loads(line)
        job = self._jobs[arguments.pop("job")]
        done = Deferred.fromCoroutine(job(**arguments))
        done.addCallbacks(
            lambda result: self._tell({"done": result}),
            lambda failure: self._tell({"failed": failure.getTraceback()}),
        )

    def _tell(self, what: object) -> None:
        self.sendLine(json.dumps(what).encode("ascii"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._reactor.running:
            self._reactor.stop()


async def cpu() -> float:
    """Job: processor seconds of this process so far."""
    return process_time()


async def collect() -> None:
    """Job: give back what is garbage, so that what is left can be weighed."""
    gc.collect()


def run(jobs: Callable[[Any], Mapping[str, Job]], lifetime: int = LIFETIME) -> None:
    """
    Do jobs until standard input ends.

    @param jobs: given the reactor, what this child can do, beside L{cpu} and L{collect}.
    """
    signal.alarm(lifetime)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    reactor: Any = installed
    StandardIO(_Jobs(reactor, {"cpu": cpu, "collect": collect, **jobs(reactor)}))
    reactor.run()
    sys.exit(0)
