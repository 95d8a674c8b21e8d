"""
C{python -m tests.bench.peers.hash_tables}: a network of whole nodes of the hash table in one
process, as a child of the bench: on TCP and loopback, over secure channels, each with an
identity of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from ipaddress import ip_network
from pathlib import Path
from random import Random, SystemRandom
from tempfile import TemporaryDirectory
from time import perf_counter, process_time, time_ns
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint

from meshkit.identity.addresses import HostPort, MeshAddress
from meshkit.identity.keys import Identity
from meshkit.identity.network import NetworkSecret
from meshkit.kademlia import store
from meshkit.kademlia.contacts import DialRules
from meshkit.kademlia.node import KademliaNode
from meshkit.kademlia.protocol import LABEL, VERSION
from meshkit.runtime.database import Database
from meshkit.runtime.limits import PeerBuckets
from meshkit.shs import Capability, SecureListener, wrap_client
from tests.bench.peers.jobs import Job, run

#: Seconds after which it ends whatever it does.
LIFETIME: Final = 1_200
#: Bytes of what is put.
VALUE_BYTES: Final = 100
#: Records that are there to be found, and lookups of each asking node before it is timed.
STOCK: Final = 32
WARM_UP: Final = 16

_HOST: Final = "127.0.0.1"
_RNG: Final = SystemRandom()
_KEY: Final = NetworkSecret.generate(_RNG).key()
_CAPABILITY: Final = Capability.of(_KEY, LABEL, VERSION)
#: All nodes are at one address, which somebody has to answer for.
_RULES: Final = DialRules(own_blocks=(ip_network(f"{_HOST}/32"),))


async def make(reactor: Any, path: Path | None) -> tuple[KademliaNode, HostPort]:
    """
    @param path: of its database; L{None} to keep all in memory.
    @return: a node that has started, and where it listens.
    """
    identity = Identity(_RNG.randbytes(32))

    def endpoint(address: MeshAddress) -> IStreamClientEndpoint:
        return wrap_client(
            reactor,
            TCP4ClientEndpoint(reactor, address.host, address.port),
            identity=identity,
            capability=_CAPABILITY,
            peer=address.key,
            rng=_RNG,
        )

    database = None
    if path is not None:
        database = Database(reactor, str(path), readers=1)
        database.open_and_migrate({"kademlia": store.MIGRATIONS})
        database.startService()
    places: list[HostPort] = []
    node = KademliaNode(
        reactor,
        identity,
        _KEY.net_id,
        endpoint,
        rng=Random(_RNG.getrandbits(64)),
        wall_clock=time_ns,
        addresses=lambda: places,
        rules=_RULES,
        database=database,
    )
    # A few nodes ask as much here as thousands do.
    node.server.buckets = PeerBuckets(1e9, 1e9)
    listener = SecureListener(reactor, identity, _RNG)
    listener.register(_CAPABILITY, node.server)
    port = await TCP4ServerEndpoint(reactor, 0, interface=_HOST).listen(listener)
    places.append(HostPort(_HOST, port.getHost().port))
    await node.start()
    return node, places[0]


@define
class Network:
    """
    @ivar asking: the nodes that put and get.
    @ivar stock: names of what is there to be found, each with its value.
    """

    reactor: Any
    nodes: list[KademliaNode] = field(factory=list)
    asking: list[KademliaNode] = field(factory=list)
    stock: dict[bytes, bytes] = field(factory=dict)
    _folder: TemporaryDirectory[str] | None = None

    async def start(self, nodes: int, asking: int, disk: bool = False) -> None:
        """
        Job: make so many nodes that know one another, and records to be found; some of them
        are connected to all that they ask from then on.

        @param disk: each keeps its records in a database of its own.
        """
        if disk:
            self._folder = TemporaryDirectory(prefix="meshkit-bench-")
        first: list[MeshAddress] = []
        for number in range(nodes):
            path = Path(self._folder.name, f"{number}.sqlite") if self._folder else None
            node, place = await make(self.reactor, path)
            self.nodes.append(node)
            await node.bootstrap(first)
            if not first:
                first.append(MeshAddress(place.host, place.port, node.identity.public))
        self.asking = self.nodes[:: max(1, nodes // asking)][:asking]
        for _ in range(STOCK):
            name, value = _RNG.randbytes(16), _RNG.randbytes(VALUE_BYTES)
            await _RNG.choice(self.nodes).put("topic", name, value)
            self.stock[name] = value
        for node in self.asking:
            for _ in range(WARM_UP):
                await node.put("topic", _RNG.randbytes(16), _RNG.randbytes(VALUE_BYTES))
        for node in self.nodes:
            # So that those who came later are given what is theirs now, and not meanwhile.
            await node.upkeep.look_after()

    async def latencies(self, what: str, count: int) -> dict[str, Any]:
        """
        Job: one after the other, each by one of the asking nodes.

        @param what: C{get}, C{put} or C{absent}.
        @return: C{ms}, milliseconds of each; and on average C{cpu}, milliseconds of the
            processor, and C{questions}, how many were asked.
        """
        work = self._work(what)
        before, times = self._asked(), []
        used = process_time()
        for _ in range(count):
            start = perf_counter()
            await work()
            times.append(1000 * (perf_counter() - start))
        return {
            "ms": times,
            "cpu": 1000 * (process_time() - used) / count,
            "questions": (self._asked() - before) / count,
        }

    async def rate(self, in_flight: int, seconds: float) -> float:
        """Job: so many that get something, each one thing after the other; a second."""
        made = 0
        get = self._work("get")
        start = perf_counter()

        async def getter() -> None:
            nonlocal made
            while perf_counter() - start < seconds:
                await get()
                made += 1

        await gatherResults([Deferred.fromCoroutine(getter()) for _ in range(in_flight)])
        return made / (perf_counter() - start)

    def _asked(self) -> int:
        return sum(sum(node.client.asked.values()) for node in self.nodes)

    def _work(self, what: str) -> Callable[[], Coroutine[Any, Any, None]]:
        names = list(self.stock)

        async def get() -> None:
            name = _RNG.choice(names)
            found = await _RNG.choice(self.asking).get("topic", name)
            if [record.value for record in found] != [self.stock[name]]:
                raise RuntimeError("what was put is not what was got")

        async def put() -> None:
            node = _RNG.choice(self.asking)
            placed = await node.put("topic", _RNG.randbytes(16), _RNG.randbytes(VALUE_BYTES))
            if placed.accepted != placed.asked or not placed.asked:
                raise RuntimeError(f"of {placed.asked} nodes {placed.accepted} keep it")

        async def absent() -> None:
            if await _RNG.choice(self.asking).get("topic", _RNG.randbytes(16)):
                raise RuntimeError("what nobody put was found")

        return {"get": get, "put": put, "absent": absent}[what]


def main() -> None:
    def jobs(reactor: Any) -> Mapping[str, Job]:
        network = Network(reactor)
        return {
            "start": network.start,
            "latencies": network.latencies,
            "rate": network.rate,
        }

    run(jobs, LIFETIME)


if __name__ == "__main__":
    main()
