"""
Store and forward: from an author to a relay, and from the relay to who comes later.

The author and the reader are never there together.  A rate counts from the first messages that are
seen to have arrived to the last, which leaves out that the relay hears of registrations together.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter, sleep

from attrs import frozen

from meshkit.identity.network import NetworkSecret
from tests.bench import corpus
from tests.bench.doors import Client, client
from tests.bench.figures import spread, table
from tests.bench.nodes import Node, mesh_node
from tests.bench.replication import PATIENCE, load, stored

#: Seconds between two questions to who receives.
_PAUSE = 0.02
#: Notes per request, when the author is filled.
_BATCH = 1_000


@frozen
class Passed:
    """
    @ivar wall: messages per second.
    @ivar relay: messages per second of the relay's processor time; L{None} without C{/proc}.
    """

    wall: float
    relay: float | None


def receive(door: Client, count: int, relay: Node) -> Passed:
    """
    @param door: of who receives.
    @raise RuntimeError: if not all of it comes in time.
    """
    begun = perf_counter()
    first: tuple[float, int, float | None] | None = None
    while True:
        have, now = stored(door), perf_counter()
        if have and first is None:
            first = (now, have, relay.cpu_seconds())
        if first is not None and have >= count:
            break
        if now - begun > PATIENCE:
            raise RuntimeError(f"{have} of {count} messages have come after {PATIENCE:.0f} s")
        sleep(_PAUSE)
    at, before, used = first
    now_used = relay.cpu_seconds()
    came = count - before
    if came <= 0 or now <= at:
        raise RuntimeError("all came between two looks: take more messages")
    cpu = None if used is None or now_used is None or now_used <= used else now_used - used
    return Passed(came / (now - at), None if cpu is None else came / cpu)


def round_trip(folder: Path, network: str, texts: Sequence[bytes]) -> tuple[Passed, Passed]:
    """@return: to the relay, and from it."""
    with ExitStack() as stack:
        relay = stack.enter_context(mesh_node(folder / "relay", network, program="mesh-relay"))
        use = ("--relays-use", relay.address)
        with mesh_node(folder / "author", network) as author:
            load(author, list(texts), _BATCH)
        door = stack.enter_context(client(relay.door))
        with mesh_node(folder / "author", network, *use):
            into = receive(door, len(texts), relay)
        with mesh_node(folder / "reader", network, *use) as reader, client(reader.door) as its:
            return into, receive(its, len(texts), relay)


def measure(quick: bool) -> str:
    """@return: the section."""
    rounds, count = (2, 4_000) if quick else (5, 10_000)
    network = NetworkSecret.generate(random.SystemRandom()).text
    texts = corpus.contents(count)
    passed = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(prefix="meshkit-bench-") as name:
            passed.append(round_trip(Path(name), network, texts))
    rows = []
    for number, what in enumerate(("from an author to the relay", "from the relay to a reader")):
        each = [way[number] for way in passed]
        cpu = [it.relay for it in each if it.relay is not None]
        rows.append([what, spread([it.wall for it in each], "/s"), spread(cpu, "/s")])
    return "\n\n".join(
        [
            f"## Store and forward: {count:,} messages, three processes, never all at once",
            table(["", "messages", "per CPU second of the relay"], rows),
        ]
    )
