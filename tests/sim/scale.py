"""
A world of many nodes in which messages are published until all have all of them, and what
that costs.
"""

from __future__ import annotations

from contextlib import closing
from math import log2
from random import Random
from time import process_time

from attrs import define, field

from meshkit.sim.world import SimNode, World

__all__ = ["Crowd", "Lookups", "Phase", "hashes", "resident", "stored"]

#: How many others a node knows when it is made.
KNOWN = 3
#: Messages that are published in a second of the world.
RATE = 20
#: Seconds of the world in which all have to have everything after the last was published.
PATIENCE = 60.0


@define
class Phase:
    """
    Part of a run.

    @ivar cpu: seconds of this process.
    @ivar virtual: seconds of the world.
    @ivar events: calls of its clock.
    @ivar segments: that arrived.
    @ivar bytes: that they held.
    """

    cpu: float
    virtual: float
    events: int
    segments: int
    bytes: int


@define
class Crowd:
    """
    Nodes of one world, each of which knows some of those before it.

    @ivar world: theirs.
    @ivar nodes: themselves.
    @ivar phases: what was done, by name.
    @ivar before: bytes that this process had in memory before there was a node.
    """

    world: World
    nodes: list[SimNode] = field(factory=list)
    phases: dict[str, Phase] = field(factory=dict)
    before: int = 0

    @classmethod
    def make(cls, count: int, seed: int, *, memo: bool = True, config: str = "") -> Crowd:
        """
        Make the nodes, and start none of them.

        @param config: more of the configuration of each.
        """
        # So that the code of all parts is in memory before.
        first = World(seed)
        first.node("first").start()
        first.stop()
        made = cls(World(seed, memo=memo), before=resident())
        rng = Random(seed)
        for number in range(count):
            known = sorted(rng.sample(range(number), min(number, KNOWN)))
            peers = ", ".join(f'"{made.nodes[each].address}"' for each in known)
            made.nodes.append(made.world.node(f"n{number:04}", f"peers = [{peers}]\n{config}"))
        return made

    def start(self) -> None:
        """Start all at once, and let them find one another."""
        with self.phase("start"):
            for node in self.nodes:
                node.launch()
            self.world.until(lambda: all(node.ready for node in self.nodes), "all nodes")
            self.world.run(5)

    def join(self, seconds: float) -> None:
        """Start one after the other, evenly over a time, so that each finds those before it."""
        with self.phase("join"):
            for node in self.nodes:
                node.launch()
                self.world.run(seconds / len(self.nodes))
            self.world.until(lambda: all(node.ready for node in self.nodes), "all nodes")

    def idle(self, seconds: float) -> None:
        """Let nothing happen."""
        with self.phase("idle"):
            self.world.run(seconds)

    def publish(self, messages: int, authors: int) -> None:
        """Have messages published, one after the other by each of some of the nodes in turn."""
        step = len(self.nodes) // authors
        with self.phase("messages"):
            for number in range(messages):
                node = self.nodes[number % authors * step]
                node.call("POST", "/v1/publish", {"content": f"message {number}"})
                self.world.run(1 / RATE)
            deadline = self.world.clock.seconds() + PATIENCE
            while not self.agree(messages) and self.world.clock.seconds() < deadline:
                self.world.run(1)

    def agree(self, messages: int) -> bool:
        """Do all doors say that their nodes have so many messages?"""
        return all(stored(node) == messages for node in self.nodes)

    def phase(self, name: str) -> _Measured:
        return _Measured(self, name)

    @property
    def memory(self) -> float:
        """MiB that each node takes."""
        return (resident() - self.before) / len(self.nodes) / 2**20

    def figures(self, messages: int) -> str:
        """What the run was, in a few lines."""
        done = self.phases["messages"]
        deliveries = messages * (len(self.nodes) - 1)
        lines = [
            # Of what a process had before, some may have been free.
            f"{len(self.nodes):,} nodes, {messages:,} messages: {self.memory:.2f} MiB a node "
            f"beyond the {self.before / 2**20:.0f} MiB of the process",
            *(
                f"{name}: {each.cpu:.1f} s for {each.virtual:.1f} s of the world "
                f"(x{each.virtual / each.cpu:.2f}), {each.events:,} events "
                f"({each.events / each.cpu:,.0f}/s), {each.bytes:,} bytes"
                for name, each in self.phases.items()
            ),
            f"each delivery: {1000 * done.cpu / deliveries:.2f} ms, "
            f"{done.events / deliveries:.1f} events, {done.segments / deliveries:.1f} segments, "
            f"{done.bytes / deliveries:.0f} bytes",
        ]
        memo = self.world.memo
        if memo is not None:
            again = memo.hits + memo.misses - deliveries
            lines.append(
                f"signatures: {memo.misses:,} verified, {memo.hits:,} known, of which {again:,} "
                f"came with a message once more"
            )
        return "\n".join(lines)


@define
class Lookups:
    """
    What lookups at the doors of a crowd have found, and what they took.

    @ivar found: of how many the answer was what had been stored.
    @ivar failed: of the others, what was asked and answered.
    @ivar questions: of each, to other nodes.
    @ivar hops: of each.
    """

    found: int = 0
    failed: list[str] = field(factory=list)
    questions: list[int] = field(factory=list)
    hops: list[int] = field(factory=list)

    def put(self, node: SimNode, name: str, text: str) -> None:
        """Store a record, for which 18 nodes and more have to be found that keep it."""
        body = {"kind": "topic", "name": name, "text": text}
        answer = node.ask("POST", "/v1/dht/records", body)
        if answer.status != 201 or answer.json["data"]["accepted"] < 18:
            self.failed.append(f"{node.name} stores {name}: {answer.json}")

    def get(self, node: SimNode, name: str, text: str) -> None:
        """Look for it."""
        answer = node.ask("GET", f"/v1/dht/records/topic/{name}")
        data = answer.json.get("data", {"records": []})
        if [each["text"] for each in data["records"]] == [text]:
            self.found += 1
        else:
            self.failed.append(f"{node.name} looks for {name}: {answer.json}")
        if "lookup" in data:
            self.questions.append(data["lookup"]["questions"])
            self.hops.append(data["lookup"]["hops"])

    def figures(self, nodes: int) -> str:
        """How many were found, and by how much work."""
        questions, hops = sorted(self.questions), sorted(self.hops)
        count = len(questions)
        return (
            f"{self.found:,} of {count:,} found; log2({nodes:,}) = {log2(nodes):.1f}; hops "
            f"{sum(hops) / count:.2f} on average, {hops[-1]} at most; questions "
            f"{sum(questions) / count:.1f} on average, {questions[count * 95 // 100]} at the "
            f"95th percentile, {questions[-1]} at most"
        )


class _Measured:
    """What happens while it is entered is a phase."""

    def __init__(self, crowd: Crowd, name: str) -> None:
        self._crowd = crowd
        self._name = name

    def __enter__(self) -> None:
        self._began = self._now()

    def __exit__(self, *_: object) -> None:
        taken = [now - then for now, then in zip(self._now(), self._began, strict=True)]
        cpu, virtual, *counts = taken
        self._crowd.phases[self._name] = Phase(cpu, virtual, *map(int, counts))

    def _now(self) -> tuple[float, ...]:
        world = self._crowd.world
        network = world.network
        return (
            process_time(),
            world.clock.seconds(),
            world.clock.steps,
            network.segments,
            network.bytes,
        )


def stored(node: SimNode) -> int:
    """How many messages a node says it has."""
    found: int = node.ask("GET", "/v1/status").json["data"]["parts"]["feed"]["messages"]
    return found


def hashes(node: SimNode) -> set[str]:
    """Of the messages that a node has, as its disk says."""
    (database,) = node.host.storage.databases.values()
    with closing(database.open_reader()) as reader:
        return {hash.hex() for (hash,) in reader.execute("SELECT hash FROM feed_messages")}


def resident() -> int:
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[1])
    return pages * 4096
