"""
What one core of this machine does with the same messages when nothing else is asked of
it: each of these is a part of replication, done alone, in this process, in one thread.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import perf_counter, process_time
from typing import Final

from attrs import define, field, frozen

from meshkit.feed.message import Message, parse_message, verify_message
from meshkit.feed.store import MIGRATIONS, store_batch
from meshkit.runtime.container import DiskFile, migrate
from meshkit.runtime.transactions import Failed, WriterConnection, run_batch

BATCH: Final = 100
#: When the messages are said to have arrived.
_NOW_NS: Final = 1_770_000_000_000_000_000

_numbers: Final = itertools.count()


@frozen
class Rate:
    """
    How fast something went.

    @ivar wall: messages per second.
    @ivar cpu: messages per second of processor time, which neighbours on the machine
        disturb less.
    """

    wall: float
    cpu: float


@define
class _Stopwatch:
    """Started when it is made."""

    _wall: float = field(factory=perf_counter)
    _cpu: float = field(factory=process_time)

    def rate(self, count: int) -> Rate:
        return Rate(count / (perf_counter() - self._wall), count / (process_time() - self._cpu))


@contextmanager
def _database(folder: Path) -> Iterator[WriterConnection]:
    """An empty database as a node has it: WAL, C{synchronous=FULL}, the feed's tables."""
    path = folder / f"ceiling-{next(_numbers)}.db"
    backing = DiskFile(str(path))
    migrate(backing, {"feed": MIGRATIONS})
    with closing(backing.open_writer()) as connection:
        yield connection
    path.unlink()


def _store(connection: WriterConnection, messages: list[Message]) -> None:
    (outcome,) = run_batch(connection, [lambda it: store_batch(it, messages, _NOW_NS)])
    if isinstance(outcome, Failed):
        raise outcome.error
    if outcome.value.amount.stored != len(messages):
        raise RuntimeError("a message was not stored")


def verify_only(messages: list[Message]) -> Rate:
    """Signature and hash of messages that are parsed already."""
    watch = _Stopwatch()
    for message in messages:
        verify_message(message)
    return watch.rate(len(messages))


def parse_and_verify(raws: list[bytes]) -> Rate:
    """From bytes to verified messages."""
    watch = _Stopwatch()
    for raw in raws:
        verify_message(parse_message(raw))
    return watch.rate(len(raws))


def store_only(messages: list[Message], folder: Path, batch: int = BATCH) -> Rate:
    """
    Verified messages into rows and search index.

    @param batch: messages per commit.
    """
    with _database(folder) as connection:
        watch = _Stopwatch()
        for at in range(0, len(messages), batch):
            _store(connection, messages[at : at + batch])
        return watch.rate(len(messages))


def all_inline(raws: list[bytes], folder: Path, batch: int = BATCH) -> Rate:
    """
    From bytes to rows and search index.

    @param batch: messages per commit.
    """
    with _database(folder) as connection:
        watch = _Stopwatch()
        for at in range(0, len(raws), batch):
            messages = [parse_message(raw) for raw in raws[at : at + batch]]
            for message in messages:
                verify_message(message)
            _store(connection, messages)
        return watch.rate(len(raws))
