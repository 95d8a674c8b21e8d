"""
One author with very many messages: what the nodes hold in memory, and whether it replicates.

The author's messages are signed and put into A's database by the functions of the store, as
that is not what is measured.  Then A starts, B dials it and takes them all, over the wire and
with every check.  C{MESHKIT_BENCH_MESSAGES} says how many.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from time import perf_counter, sleep
from typing import Final

import msgspec

from meshkit.feed.message import Message, sign_message
from meshkit.feed.store import store_batch
from meshkit.identity.keys import Identity
from meshkit.identity.network import NetworkSecret
from meshkit.runtime.container import DiskFile
from tests.bench import corpus
from tests.bench.doors import Client, client
from tests.bench.figures import spread, table
from tests.bench.nodes import Node, memory_bytes, mesh_node

#: How many messages, if it is not C{--quick}.
VARIABLE: Final = "MESHKIT_BENCH_MESSAGES"
MESSAGES: Final = 50_000
QUICK: Final = 5_000
#: Seconds in which B has to have got further.
PATIENCE: Final = 60.0

_SLICE: Final = 20_000
_BATCH: Final = 1_000
_FIRST_NS: Final = 1_760_000_000_000_000_000
_STEP_NS: Final = 1_000_000
_PAUSE: Final = 1.0
_PAGES: Final = 100
_MIB: Final = 2**20


def feed(count: int) -> Iterator[Message]:
    """The messages of one author."""
    identity = Identity(random.Random(corpus.SEED).randbytes(32))
    previous = None
    for first in range(0, count, _SLICE):
        texts = corpus.contents(min(_SLICE, count - first), first)
        for sequence, text in enumerate(texts, first + 1):
            message = sign_message(
                identity,
                sequence=sequence,
                previous=previous,
                timestamp_ns=_FIRST_NS + sequence * _STEP_NS,
                content=msgspec.json.decode(text),
            )
            previous = message.hash
            yield message


def fill(path: Path, count: int) -> None:
    """Put the feed into the database of a node that is not running."""
    messages = feed(count)
    with closing(DiskFile(str(path)).open_writer()) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        while batch := list(islice(messages, _BATCH)):
            connection.execute("BEGIN")
            store_batch(connection, batch, _FIRST_NS + count * _STEP_NS)
            connection.execute("COMMIT")


def stored(door: Client) -> int:
    """How many messages a node counts."""
    count: int = door.data("GET", "/v1/status")["data"]["parts"]["feed"]["messages"]
    return count


def use(door: Client, count: int) -> None:
    """What somebody does who reads: pages of a list, searches for rare and common words."""
    cursor = ""
    for _ in range(_PAGES):
        page = door.data("GET", f"/v1/feed?limit=200{cursor}")
        cursor = f"&cursor={page['metadata'].get('next_cursor', '')}"
    for number in range(_PAGES):
        word = corpus.own_word(number * (count // _PAGES))
        found = door.data("GET", f"/v1/insights/search?q={word}")["data"]
        if len(found) != 1:
            raise RuntimeError(f"a search for {word!r} found {len(found)}")


def receive(door: Client, count: int) -> list[float]:
    """@return: messages per second, of every second or so until all are there."""
    rates = []
    had, since, moved = stored(door), perf_counter(), perf_counter()
    while had < count:
        sleep(_PAUSE)
        now, has = perf_counter(), stored(door)
        if has > had:
            rates.append((has - had) / (now - since))
            moved = now
        elif now - moved > PATIENCE:
            raise RuntimeError(f"B has {has} of {count} messages and gets no more")
        had, since = has, now
    return rates


def _mib(node: Node) -> str:
    return f"{memory_bytes(node.pid) / _MIB:.0f}"


def measure(quick: bool) -> str:
    """@return: the section."""
    count = QUICK if quick else int(os.environ.get(VARIABLE, MESSAGES))
    network = NetworkSecret.generate(random.SystemRandom()).text
    with tempfile.TemporaryDirectory(prefix="meshkit-bench-") as name:
        a, b = Path(name, "a"), Path(name, "b")
        with mesh_node(a, network) as node:
            empty = _mib(node)
        begun = perf_counter()
        fill(a / "node.db", count)
        filled = perf_counter() - begun
        size = (a / "node.db").stat().st_size / _MIB
        begun = perf_counter()
        with mesh_node(a, network) as sender, client(sender.door) as at_sender:
            started = perf_counter() - begun
            if stored(at_sender) != count:
                raise RuntimeError("A does not count what was put into its database")
            fresh = _mib(sender)
            use(at_sender, count)
            used = _mib(sender)
            with mesh_node(b, network) as receiver, client(receiver.door) as at_receiver:
                address = msgspec.json.encode({"address": sender.address})
                cpu = receiver.cpu_seconds()
                begun = perf_counter()
                at_receiver.data("POST", "/v1/peers", address)
                rates = receive(at_receiver, count)
                took = perf_counter() - begun
                after = receiver.cpu_seconds()
                each = None if cpu is None or after is None else (after - cpu) / count * 1e6
                received = _mib(receiver)
                use(at_receiver, count)
                rows = [
                    ["A, before there was anything", empty],
                    [f"A, started with {count:,} messages", fresh],
                    [f"A, after {_PAGES} pages of 200 and {_PAGES} searches", used],
                    ["A, when B had them all", _mib(sender)],
                    [f"B, when it had received {count:,}", received],
                    [f"B, after {_PAGES} pages of 200 and {_PAGES} searches", _mib(receiver)],
                ]
    spent = "" if each is None else f", {each:.0f} us of B's processor time each"
    return "\n\n".join(
        [
            f"## One author with {count:,} messages ({size:,.0f} MiB)",
            table(["resident", "MiB"], rows),
            f"B had them after {took:.0f} s: {count / took:,.0f}/s, second by second "
            f"{spread(rates, '/s')}{spent}.",
            f"A started within {started:.1f} s. Storing them took {filled:.0f} s before.",
        ]
    )
