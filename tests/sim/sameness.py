"""
One run of a world with all that moves in it, and its digest.  Alone, it prints that::

    python -m tests.sim.sameness SEED
"""

from __future__ import annotations

import gc
import sys

from meshkit.sim.world import SimNode, World

__all__ = ["digest"]


def run(seed: int) -> World:
    """Five nodes publish, crash, start again and go on."""
    world = World(seed)
    first = world.node("ada")
    others = [
        world.node(name, f'peers = ["{first.address}"]') for name in ("bob", "eve", "kim", "zoe")
    ]
    nodes = [first, *others]
    for node in nodes:
        node.start()
    for node in nodes:
        for number in range(3):
            node.call("POST", "/v1/publish", {"content": f"{node.name} {number}"})
    # In the middle of it.
    world.clock.callLater(0.005, others[1].crash)
    world.clock.callLater(0.3, first.kill)
    world.run(5)
    others[1].host.skew(2)
    for node in (others[1], first):
        node.start()
        node.ask("POST", "/v1/publish", {"content": "again"})
    world.run(30)
    for node in nodes:
        node.ask("GET", "/v1/feed?include_self=true&limit=200")
    # One of them is asked for all that it tells, and by an agent.
    for target in readable(first):
        first.ask("GET", target)
    first.agent("tools/list", "all")
    first.agent("tools/call", name="feed_publish", arguments={"content": "by an agent"})
    world.run(1)
    world.stop()
    world.run(60)
    return world


def readable(node: SimNode) -> list[str]:
    """@return: paths that can be asked for without saying more."""
    offered = node.ask("GET", "/v1/operations").json["data"]
    return [
        each["path"]
        for each in offered
        if each["method"] == "GET" and each["kind"] != "stream" and "{" not in each["path"]
    ]


def digest(seed: int) -> str:
    """@return: of everything that happened."""
    return run(seed).trace.digest


if __name__ == "__main__":
    if len(sys.argv) > 2:
        gc.set_threshold(int(sys.argv[2]))
    print(digest(int(sys.argv[1])))
