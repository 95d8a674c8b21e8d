"""
A world: machines, nodes on them, a network and a time, all from one seed.

::

    world = World(seed=7)
    ada = world.node("ada")
    bob = world.node("bob", f'peers = ["{ada.address}"]')
    ada.start()
    bob.start()
    ada.ask("POST", "/v1/publish", {"content": "hello"})
    ada.crash()
    world.run(10)
    ada.start()
    world.until(lambda: bob.ask("GET", "/v1/feed").json["metadata"]["total"] == 1, "the message")
    world.stop()
    print(world.trace.digest)

Two worlds with one seed, in which the same is done, are the same: so are their digests.
The nodes are those that C{twistd} runs; L{REPLACED} is all that they are given in place of
the real thing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from attrs import frozen
from twisted.logger import Logger

import meshkit_plugins
from meshkit.identity.network import NetworkSecret
from meshkit.runtime.config import Declaration
from meshkit.runtime.registry import discover_parts
from meshkit.services.config import NodeConfig
from meshkit.services.node import all_sections
from meshkit.services.programs import MESH_NODE, Program
from meshkit.sim.clock import SimClock, nanoseconds
from meshkit.sim.disk import PowerLost
from meshkit.sim.garbage import COLLECT_EVERY, Garbage, collecting_by_hand
from meshkit.sim.host import SimHost
from meshkit.sim.liars import LIARS, Liar
from meshkit.sim.memo import Memo
from meshkit.sim.network import SimNetwork
from meshkit.sim.node import Acknowledged, Said, SimNode
from meshkit.sim.seeds import Seeds
from meshkit.sim.storage import Images
from meshkit.sim.trace import KEPT, Trace, Watcher

__all__ = [
    "COLLECT_EVERY",
    "ON_REQUEST",
    "OVERDUE",
    "REPLACED",
    "Acknowledged",
    "Replaced",
    "Said",
    "SimHost",
    "SimNode",
    "World",
]

#: Names of parts that nodes have only in worlds that ask for them.
ON_REQUEST: Final = frozenset({"audit", "exchange", "keeper", "mailbox", "storage", "tunnel"})

#: Seconds of the world's time after which a start, a stop or an answer is overdue.
OVERDUE: Final = 60.0


@frozen
class Replaced:
    """
    One thing that a node is given in place of the real one.

    @ivar argument: of L{meshkit.services.node.NodeService}.
    @ivar real: what C{twistd mesh-node} gives.
    @ivar here: what a world gives.
    @ivar only: the option of L{World} without which it gives the real thing.
    """

    argument: str
    real: str
    here: str
    only: str = ""


#: All that is not real in a node of a world.  What else a node consists of is what runs
#: everywhere: the same services, parts, wire, ciphertext, SQLite and schema.
REPLACED: Final = (
    Replaced("reactor", "twisted.internet.reactor", "meshkit.sim.process.Process"),
    Replaced("rng", "random.SystemRandom", "random.Random"),
    Replaced("wall_clock", "time.time_ns", "meshkit.sim.host.SimHost.wall_clock"),
    Replaced("files", "meshkit.runtime.files.LocalFiles", "meshkit.sim.process.ProcessFiles"),
    Replaced("pid", "os.getpid", "meshkit.sim.process.Process.pid"),
    Replaced(
        "make_workers",
        "meshkit.runtime.workers.WorkerPool",
        "meshkit.sim.workers.InterleavedWorkers",
    ),
    Replaced(
        "make_database",
        "meshkit.runtime.container.DiskFile",
        "meshkit.sim.process.ProcessBacking",
    ),
    Replaced(
        "verify",
        "meshkit.identity.keys.PublicKey.verifies",
        "meshkit.sim.memo.Memo.verifies",
        only="memo",
    ),
)


class World:
    """
    See the module.

    @ivar clock: its time.
    @ivar seeds: its randomness.
    @ivar trace: what happened.
    @ivar network: what its machines are connected by.
    @ivar network_secret: what makes its nodes members of one network.
    @ivar memo: signatures that have been verified, if it remembers them.
    @ivar processes: how many have begun.
    @ivar garbage: its own, and what collecting that says.
    @ivar images: what the databases of nodes begin with.
    @ivar interleaved: worker pools finish in an order drawn from the seed, rather than in
        that in which they were asked.
    @ivar hosts: its machines by name.
    @ivar nodes: in the order in which they were made.
    @ivar liars: those who lie, likewise.
    @ivar acknowledged: every message of which a door has said that it is stored, in the
        order in which that was heard.
    """

    _log = Logger()

    def __init__(
        self,
        seed: int = 0,
        *,
        network_secret: NetworkSecret | None = None,
        make_network: Callable[[SimClock, Seeds, Trace], SimNetwork] = SimNetwork,
        folder: str | None = None,
        interleaved: bool = True,
        memo: bool = False,
        kept: int | None = KEPT,
        write: Callable[[bytes], object] | None = None,
        collect_every: int = COLLECT_EVERY,
        parts: Collection[str] = (),
    ) -> None:
        """
        @param network_secret: drawn from the seed, if not given.
        @param make_network: makes what connects the machines; C{partial(SimNetwork,
            latency=0.1)} for another one than usual.
        @param folder: of the real file system, where databases are kept in real files; in
            memory, if L{None}.
        @param memo: verify each signature of a message once, and not once for each node:
            see L{meshkit.sim.memo}.
        @param kept: see L{Trace}.
        @param write: see L{Trace}.
        @param collect_every: see L{Garbage}.
        @param parts: those of L{ON_REQUEST} that its nodes have.
        """
        self.clock = SimClock()
        self.seeds = Seeds(seed)
        self.trace = Trace(self.clock, kept=kept, write=write)
        self.interleaved = interleaved
        self.memo = Memo() if memo else None
        self.processes = 0
        self.network_secret = (
            NetworkSecret.generate(self.seeds.stream("world", "network"))
            if network_secret is None
            else network_secret
        )
        self.hosts: dict[str, SimHost] = {}
        self.nodes: list[SimNode] = []
        self.liars: list[Liar] = []
        self.acknowledged: list[Acknowledged] = []
        self.garbage = Garbage(collect_every)
        self.images = Images()
        self._declarations: list[tuple[Program, list[Any], Declaration[NodeConfig]]] = []
        self._listeners: list[Callable[[Said], object]] = []
        self._stepping = False
        self._folder = folder
        self._left_out = ON_REQUEST.difference(parts)
        self.network = make_network(self.clock, self.seeds, self.trace)

    @property
    def seed(self) -> int:
        """From which all is drawn."""
        return self.seeds.seed

    def watch(self, watcher: Watcher) -> None:
        """Tell somebody of every event from now on: see L{Trace.event}."""
        self.trace.watch(watcher)

    # --- who is there

    def host(self, name: str, *, behind: Any = None) -> SimHost:
        """
        Make a machine.

        @param name: unique in the world.
        @param behind: see L{SimNetwork.attach}.
        @raise ValueError: if there is one of that name.
        """
        self.network.attach(name, behind=behind)
        host = SimHost(self, name, self.network.hosts[name], self._folder)
        self.hosts[name] = host
        return host

    def node(
        self,
        name: str,
        config: str = "",
        *,
        makers: Sequence[Any] | None = None,
        behind: Any = None,
        program: Program = MESH_NODE,
    ) -> SimNode:
        """
        Make a node on a machine of its own.

        @param config: content of its C{meshkit.toml}.
        @param makers: its parts, of those that its program may have; if not given, all that are
            installed, but for those of L{ON_REQUEST} that the world does not have.
        @param behind: see L{host}.
        @param program: which daemon it is.
        """
        host = self.host(name, behind=behind)
        if makers is None:
            found = discover_parts(meshkit_plugins)
            makers = [each for each in found if each.name not in self._left_out]
        node = SimNode(self, host, config, program.parts_of(makers), program)
        self.nodes.append(node)
        return node

    def declaration(
        self, makers: Sequence[Any], program: Program = MESH_NODE
    ) -> Declaration[NodeConfig]:
        """@return: the settings of nodes with these parts."""
        parts = list(makers)
        for of, known, declared in self._declarations:
            if of is program and known == parts:
                return declared
        made = Declaration(program.config, all_sections(parts))
        self._declarations.append((program, parts, made))
        return made

    def listen(self, listener: Callable[[Said], object]) -> None:
        """Tell somebody of every answer of a door from now on."""
        self._listeners.append(listener)

    def _hear(self, said: Said) -> None:
        for listener in self._listeners:
            listener(said)

    def liar(
        self,
        name: str,
        kind: str,
        *,
        dials: Sequence[str] = (),
        behind: Any = None,
        **manners: Any,
    ) -> Liar:
        """
        Make somebody who lies, on a machine of his own.  He begins when he is started.

        @param kind: of L{LIARS}.
        @param dials: addresses of nodes that he dials; nodes may dial him as well.
        @param behind: see L{host}.
        @param manners: further arguments of that kind.
        @raise ValueError: if there is no such kind, or a machine of that name.
        """
        if kind not in LIARS:
            raise ValueError(f"nobody lies in the way {kind!r}: choose from {', '.join(LIARS)}")
        liar = LIARS[kind](self, self.host(name, behind=behind), dials, **manners)
        self.liars.append(liar)
        return liar

    def _acknowledge(self, message: Acknowledged) -> None:
        self.acknowledged.append(message)

    # --- time

    def run(self, seconds: float) -> None:
        """
        Let so much time pass, one event after the other.

        @raise RuntimeError: if called by an event of this world: what takes time cannot
            be waited for in a moment.
        """
        end = self.clock.ns + nanoseconds(seconds)
        with collecting_by_hand():
            while (due := self.clock.next_ns()) is not None and due <= end:
                self._step()
            self.clock.run_until(end)

    def until(self, condition: Callable[[], bool], what: str, seconds: float = OVERDUE) -> None:
        """
        Let time pass until something is so.

        @param condition: asked after each event.
        @param what: is waited for, for the error.
        @raise AssertionError: if it is not so after that many seconds, or when nothing
            is left that could happen.
        @raise RuntimeError: as L{run}.
        """
        end = self.clock.ns + nanoseconds(seconds)
        with collecting_by_hand():
            while not condition():
                due = self.clock.next_ns()
                if due is None or due > end:
                    raise AssertionError(f"still waiting for: {what} (seed {self.seed})")
                self._step()

    def _step(self) -> None:
        if self._stepping:
            raise RuntimeError("this waits, and cannot be called by what happens in the world")
        self._stepping = True
        try:
            self.clock.step()
        except PowerLost:
            # What was running when its machine stopped has come to its end.
            self.trace.event("power.lost")
        except Exception as e:
            # As a reactor does: it is logged, and others do not notice.
            self._log.failure("an event of the world raised an error (seed {seed})", seed=self.seed)
            self.trace.event("error", what=type(e).__name__)
        finally:
            self._stepping = False
        self.garbage.happened(self.clock.steps, self.processes)

    def collect(self) -> None:
        """
        Collect all garbage now: whoever looks for errors that nobody has heard of hears of
        those in it.
        """
        self.garbage.collect()

    def stop(self) -> None:
        """Stop every liar and every node that runs, and L{close}."""
        for liar in self.liars:
            liar.stop()
        for node in self.nodes:
            if node.running:
                node.stop()
        self.close()

    def close(self) -> None:
        """End every process where it stands, and forget all data."""
        for host in self.hosts.values():
            for process in host.processes:
                process.end()
        for host in self.hosts.values():
            host.storage.close()
        self.garbage.give_back()
