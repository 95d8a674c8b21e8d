"""
Replication between two real nodes: from signed bytes on A to searchable rows on B.

B is empty and knows nobody.  The clock starts when B is told A's address, so the time
holds the dial, the secret handshake and the comparison of what each side has; it stops
when B's door counts every message and a search for a word that only the last message
holds finds that one.
"""

from __future__ import annotations

import itertools
import random
import statistics
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter, sleep
from typing import Final

import msgspec
from attrs import frozen

from meshkit.feed.message import parse_message
from meshkit.identity.network import NetworkSecret
from tests.bench import ceilings, corpus, egregore
from tests.bench.ceilings import Rate
from tests.bench.doors import Client, client
from tests.bench.figures import ratio, spread, table
from tests.bench.nodes import Node, mesh_node

#: Seconds in which all has to be there.
PATIENCE: Final = 120.0
#: Seconds between two questions to B.  Each costs it about half a millisecond.
_PAUSE: Final = 0.02
#: Notes per request, when A is filled.
_BATCH: Final = 1_000

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
    while (have := stored(door)) < count:
        if perf_counter() - start > PATIENCE:
            raise RuntimeError(f"B has {have} of {count} messages after {PATIENCE:.0f} s")
        sleep(_PAUSE)
    word = corpus.own_word(count - 1)
    found = door.data("GET", f"/v1/insights/search?q={word}")["data"]
    if len(found) != 1 or word not in found[0]["content"]["observation"]:
        raise RuntimeError(f"B has all messages, but a search for {word!r} found {len(found)}")


def stored(door: Client) -> int:
    """How many messages a node says that it has."""
    count: int = door.data("GET", "/v1/status")["data"]["parts"]["feed"]["messages"]
    return count


def measure(quick: bool) -> str:
    """@return: the section."""
    with tempfile.TemporaryDirectory(prefix="meshkit-bench-") as name:
        return _measure(quick, Path(name))


def _measure(quick: bool, folder: Path) -> str:
    rounds, count, few = (2, 2_000, 300) if quick else (5, 10_000, 1_000)
    # A secret for this run only; what matters is that A and B have the same one.
    network = NetworkSecret.generate(random.SystemRandom()).text
    texts = corpus.contents(count)
    raws = corpus.signed(texts)
    messages = [parse_message(raw) for raw in raws]
    mean = statistics.mean(map(len, raws))
    binary = egregore.program()
    ours: list[Replicated] = []
    ours_few: list[float] = []
    theirs: list[float] = []
    rates: defaultdict[str, list[Rate]] = defaultdict(list)
    with ExitStack() as stack:
        node = stack.enter_context(mesh_node(folder / "a", network))
        loaded = load(node, texts, _BATCH)
        if binary is not None:
            other = stack.enter_context(mesh_node(folder / "a-few", network))
            load(other, texts[:few], _BATCH)
            source = stack.enter_context(egregore.sender(binary, folder, texts[:few]))
        for _ in range(rounds):
            ours.append(replicate(node, folder, network, len(raws)))
            rates["verify"].append(ceilings.verify_only(messages))
            rates["parse + verify"].append(ceilings.parse_and_verify(raws))
            rates["store, 100 per commit"].append(ceilings.store_only(messages, folder))
            rates["all three, inline, 100 per commit"].append(ceilings.all_inline(raws, folder))
            rates["all three, inline, 1,000 per commit"].append(
                ceilings.all_inline(raws, folder, 1_000)
            )
            if binary is not None:
                ours_few.append(replicate(other, folder, network, few).wall)
                theirs.append(egregore.replicate(binary, folder, source, few))
    wall = [it.wall for it in ours]
    receiver = [it.receiver for it in ours if it.receiver is not None]
    senders = [it.sender for it in ours if it.sender is not None]
    rows = [
        ["A to B", spread(wall, "/s"), "", spread(receiver, "/s"), ""],
        *(
            [
                f"one core: {name}",
                spread([it.wall for it in each], "/s"),
                ratio(wall, [it.wall for it in each]),
                spread([it.cpu for it in each], "/s"),
                ratio(receiver, [it.cpu for it in each]) if receiver else "absent",
            ]
            for name, each in rates.items()
        ),
    ]
    heads = ["", "messages", "A to B is x", "per CPU second (of B)", "B is x"]
    parts = [
        f"## Replication A to B: {len(raws):,} messages of {mean:.0f} bytes, two processes",
        table(heads, rows),
        f"A's share: {spread(senders, 'messages per CPU second')}.",
        f"## Egregore's own nodes, {few:,} messages, two processes",
    ]
    if binary is None:
        parts.append(f"absent: {egregore.VARIABLE} names no program")
    else:
        rows = [
            ["meshkit", spread(ours_few, "/s"), ""],
            ["Egregore", spread(theirs, "/s"), ratio(ours_few, theirs)],
        ]
        parts.append(table(["", "messages", "meshkit is x"], rows))
    parts.append(f"## Publishing in batches of {_BATCH:,} at the door")
    parts.append(spread(loaded, "messages/s"))
    return "\n\n".join(parts)
