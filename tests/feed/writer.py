"""
A process that writes feeds into a database until it is killed, for L{tests.feed.test_kills}.

C{python -m tests.feed.writer}: for each line on its standard input, which names a file and
what to do, it forks a child that does it, and says when that one has died.  So a life costs
no imports.  What was acknowledged is told as C{KEY SEQUENCE HASH}, a line each, at once; with
the number of the request if it had one.  C{keys17} begins with request 17.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any, Final

import msgspec
from attrs import evolve
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock

from meshkit.feed import operations as offered
from meshkit.feed.part import MIGRATIONS, Config, FeedPart, make_part
from meshkit.runtime.database import Database
from meshkit.runtime.workers import WorkerPool
from meshkit.testing.identities import Author
from meshkit.testing.nodes import make_context

#: Whose node it is, and who sends messages to it.
OWN: Final = "killed"
PEER: Final = "peer"

#: What there is to do at the same time.
LOADS: Final = ("publish", "batches", "keys", "receive")
PUBLISHERS: Final = 4
BATCH: Final = 7
#: How often each request with a key is made before there is a next one, in all lives.
REPEATS: Final = 4
RECEIVED: Final = 300
MOST_SECONDS: Final = 60


def say(text: str) -> None:
    # In one system call, and not kept back: a line is told whole or not at all.
    os.write(1, f"{text}\n".encode("ascii"))


class Life:
    """What goes on between a start and the end."""

    def __init__(self, part: FeedPart, raws: list[bytes]) -> None:
        self._part = part
        self._raws = raws
        self._key = Author(OWN).key.hex()
        handlers = {bound.operation.name: bound.handler for bound in part.operations()}
        self._publish_one = handlers["feed_publish"]
        self._publish_batch = handlers["feed_publish_batch"]

    def begin(self, loads: list[str]) -> None:
        if "publish" in loads:
            for _ in range(PUBLISHERS):
                self._go_on(self._publish())
        if "batches" in loads:
            self._go_on(self._publish_batches())
        for load in loads:
            if load.startswith("keys"):
                self._go_on(self._publish_keys(int(load.removeprefix("keys"))))
        if "receive" in loads:
            self._go_on(self._receive())

    def _go_on(self, work: Any) -> None:
        Deferred.fromCoroutine(work).addErrback(lambda failure: say(f"failed {failure!r}"))

    async def _publish(self) -> None:
        while True:
            message = await self._part.publish({"text": "one alone"})
            say(f"{self._key} {message.sequence} {message.hash}")

    async def _publish_keys(self, number: int) -> None:
        """
        Ask for the same again and again: first what the life before may have left half done.
        Each request is made by two at a time.
        """
        while True:
            content = msgspec.Raw(b'{"keyed":"%d"}' % (number // REPEATS))
            request = offered.Publish(content, idempotency_key=f"key-{number // REPEATS}")
            answers = [Deferred.fromCoroutine(self._publish_one(request)) for _ in range(2)]
            for answer in await gatherResults(answers):
                text = msgspec.json.decode(answer)
                say(f"{self._key} {text['sequence']} {text['hash']} {number}")
            number += 1

    async def _publish_batches(self) -> None:
        while True:
            name = f'"{os.getpid()}-{time.monotonic_ns()}"'.encode()
            contents = [b'{"batch":%b}' % name] * BATCH
            published = await self._publish_batch(offered.PublishBatch(contents))
            say(f"{self._key} {published.last} {published.last_hash}")

    async def _receive(self) -> None:
        at = 0
        while at < len(self._raws):
            for verdict in await self._part.ingest(self._raws[at : at + BATCH]):
                say(f"{verdict.author.hex()} {verdict.sequence} {verdict.hash}")
            at += BATCH


def live(path: str, loads: list[str], raws: list[bytes], context: Any) -> None:
    # In case that nobody is left to kill it.
    signal.alarm(MOST_SECONDS)
    # Here: what it opens is not for the process that forks.
    from twisted.internet import reactor

    database = Database(reactor, path)
    database.open_and_migrate({"feed": MIGRATIONS})
    workers = WorkerPool(reactor, 2)
    part = make_part(
        evolve(
            context,
            reactor=reactor,
            database=database,
            workers=workers,
            wall_clock=time.time_ns,
        )
    )
    for service in (database, workers, part):
        service.startService()
    Life(part, raws).begin(loads)
    reactor.run(installSignalHandlers=False)  # type: ignore[attr-defined]


def main() -> None:
    raws = Author(PEER).write_many(RECEIVED)
    context = make_context(Clock(), OWN, config=Config(), migrations={"feed": MIGRATIONS})
    say("ready")
    for line in sys.stdin:
        path, *loads = line.split()
        child = os.fork()
        if not child:
            try:
                live(path, loads, raws, context)
            finally:
                os._exit(1)
        say(f"born {child}")
        os.waitpid(child, 0)
        say("dead")


if __name__ == "__main__":
    main()
