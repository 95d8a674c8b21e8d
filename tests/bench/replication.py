"""
Replication between two real nodes: from signed bytes on A to searchable rows on B.

B is empty and knows nobody.  The clock starts when B is told A's address, so the time
holds the dial, the secret handshake and the comparison of what each side has; it stops
when B's door counts every message and a search for a word that only the last message
holds finds that one.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from time import perf_counter, sleep
from typing import Final

import msgspec
from attrs import frozen

from tests.bench import corpus
from tests.bench.doors import Client, client
from tests.bench.nodes import Node, mesh_node

#: Seconds in which all has to be there.
PATIENCE: Final = 120.0
#: Seconds between two questions to B.  Each costs it about half a millisecond.
_PAUSE: Final = 0.02

_numbers: Final = itertools.count()


@frozen
class Replicated:
    """
    @ivar wall: messages per second.
    @ivar sender: messages per second of A's processor time, L{None} without C{/proc}.
    @ivar receiver: likewise, of B's.
    """

    wall: float
    sender: float | None
    receiver: float | None


def load(node: Node, texts: list[bytes], batch: int) -> list[float]:
    """
    Publish notes at a node's door.

    @param batch: notes per request.
    @return: messages per second, of each request.
    """
    rates = []
    with client(node.door) as door:
        for at in range(0, len(texts), batch):
            some = texts[at : at + batch]
            body = b'{"contents":[' + b",".join(some) + b"]}"
            start = perf_counter()
            door.data("POST", "/v1/publish/batch", body)
            rates.append(len(some) / (perf_counter() - start))
    return rates


def replicate(sender: Node, folder: Path, network: str, count: int) -> Replicated:
    """
    @param sender: A, which holds C{count} notes of its own.
    @param folder: where B's data folder is made.
    """
    where = folder / f"late-{next(_numbers)}"
    with mesh_node(where, network) as receiver, client(receiver.door) as door:
        before = (sender.cpu_seconds(), receiver.cpu_seconds())
        start = perf_counter()
        door.data("POST", "/v1/peers", msgspec.json.encode({"address": sender.address}))
        wait_for_all(door, count, start)
        seconds = perf_counter() - start
        after = (sender.cpu_seconds(), receiver.cpu_seconds())
        used = [
            None if a is None or b is None or a == b else count / (a - b)
            for a, b in zip(after, before, strict=True)
        ]
        return Replicated(count / seconds, *used)


def wait_for_all(door: Client, count: int, start: float) -> None:
    """@raise RuntimeError: if B does not have all of it in time."""
    while (stored := _stored(door)) < count:
        if perf_counter() - start > PATIENCE:
            raise RuntimeError(f"B has {stored} of {count} messages after {PATIENCE:.0f} s")
        sleep(_PAUSE)
    word = corpus.own_word(count - 1)
    found = door.data("GET", f"/v1/insights/search?q={word}")["data"]
    if len(found) != 1 or word not in found[0]["content"]["observation"]:
        raise RuntimeError(f"B has all messages, but a search for {word!r} found {len(found)}")


def _stored(door: Client) -> int:
    stored: int = door.data("GET", "/v1/status")["data"]["parts"]["feed"]["messages"]
    return stored
