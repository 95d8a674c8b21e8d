"""
A network of py-libp2p's hosts with its Kademlia in one process, as a child of the bench:
Noise and yamux over TCP on loopback.  It runs in the virtual environment C{.tools/libp2p},
and imports nothing of ours.  Its jobs are those of C{hash_tables.py}.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable
from random import SystemRandom
from time import perf_counter, process_time
from typing import Any, Final

import trio
from libp2p import create_yamux_muxer_option, new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.peer.peerinfo import PeerInfo
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

LIFETIME: Final = 1_200
VALUE_BYTES: Final = 100
STOCK: Final = 8
WARM_UP: Final = 2
RNG: Final = SystemRandom()
ANYWHERE: Final = Multiaddr("/ip4/127.0.0.1/tcp/0")


async def run_node(task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
    """Task: a host and its hash table.  It starts with them."""
    keys = create_new_key_pair()
    noise = NoiseTransport(keys, noise_privkey=create_noise_key_pair().private_key)
    host = new_host(key_pair=keys, sec_opt={NOISE: noise}, muxer_opt=create_yamux_muxer_option())
    async with host.run(listen_addrs=[ANYWHERE]):
        table = KadDHT(host, DHTMode.SERVER)
        async with background_trio_service(table):
            task_status.started(table)
            await trio.sleep_forever()


def new_key() -> str:
    return os.urandom(16).hex()


class Network:
    """What the jobs are done with."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._nodes: list[KadDHT] = []
        self._asking: list[KadDHT] = []
        self._stock: dict[str, bytes] = {}
        self._asked = 0

    async def start(self, nodes: int, asking: int) -> None:
        """All know all; those that ask are connected to all before anything is timed."""

        async def add() -> None:
            self._nodes.append(await self._nursery.start(run_node))

        async with trio.open_nursery() as nursery:
            for _ in range(nodes):
                nursery.start_soon(add)
        self._asking = self._nodes[:asking]
        known = [PeerInfo(each.host.get_id(), each.host.get_addrs()) for each in self._nodes]

        async def meet(node: KadDHT) -> None:
            for info in known:
                if info.peer_id != node.local_peer_id:
                    node.host.get_peerstore().add_addrs(info.peer_id, info.addrs, 3600)
                    if node in self._asking:
                        await node.host.connect(info)
                    await node.add_peer(info.peer_id, skip_server_mode_check=True)
            self._count_streams(node.host)

        async with trio.open_nursery() as nursery:
            for node in self._nodes:
                nursery.start_soon(meet, node)
        for _ in range(STOCK):
            key, value = new_key(), os.urandom(VALUE_BYTES)
            await self._nodes[-1].put_value(key, value)
            self._stock[key] = value
        for _ in range(WARM_UP * asking):
            await self._work("get")()

    def _count_streams(self, host: Any) -> None:
        """What it asks it asks on a stream of its own."""
        new_stream = host.new_stream

        async def counting(*arguments: Any) -> Any:
            self._asked += 1
            return await new_stream(*arguments)

        host.new_stream = counting

    async def latencies(self, what: str, count: int) -> dict[str, Any]:
        work = self._work(what)
        before, times = self._asked, []
        used = process_time()
        for _ in range(count):
            start = perf_counter()
            await work()
            times.append(1000 * (perf_counter() - start))
        return {
            "ms": times,
            "cpu": 1000 * (process_time() - used) / count,
            "questions": (self._asked - before) / count,
        }

    async def rate(self, in_flight: int, seconds: float) -> float:
        made = 0
        get = self._work("get")
        start = perf_counter()

        async def getter() -> None:
            nonlocal made
            while perf_counter() - start < seconds:
                await get()
                made += 1

        async with trio.open_nursery() as nursery:
            for _ in range(in_flight):
                nursery.start_soon(getter)
        return made / (perf_counter() - start)

    def _work(self, what: str) -> Callable[[], Awaitable[None]]:
        keys = list(self._stock)

        async def get() -> None:
            key, node = RNG.choice(keys), RNG.choice(self._asking)
            # It keeps what it has got, and would ask nobody.
            node.value_store.remove(key.encode())
            if await node.get_value(key) != self._stock[key]:
                raise RuntimeError("what was put is not what was got")

        async def put() -> None:
            await RNG.choice(self._asking).put_value(new_key(), os.urandom(VALUE_BYTES))

        async def absent() -> None:
            if await RNG.choice(self._asking).get_value(new_key()) is not None:
                raise RuntimeError("what nobody put was found")

        return {"get": get, "put": put, "absent": absent}[what]

    async def collect(self) -> None:
        gc.collect()


async def main() -> None:
    async with trio.open_nursery() as nursery:
        network = Network(nursery)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            arguments = json.loads(line)
            job = getattr(network, arguments.pop("job"))
            try:
                answer = {"done": await job(**arguments)}
            except Exception:
                answer = {"failed": traceback.format_exc()[-2000:]}
            print(json.dumps(answer), flush=True)
        # Its hosts would need seconds to stop, and there is nothing to be lost.
        os._exit(0)


if __name__ == "__main__":
    signal.alarm(LIFETIME)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    logging.disable(logging.CRITICAL)
    trio.run(main)
