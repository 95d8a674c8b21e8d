"""Two nodes with nothing between them but a long wire that loses packets, and is cut."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final
from urllib.parse import quote

import pytest
from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from tests.netns.hosts import Host, Internet, SlowLink, skip_reason
from tests.netns.nodes import World, at, node_on
from tests.process.mesh import Mesh, Node, wait_for

#: A round trip of 100 ms, and of the packets each way one of twenty is lost.
DELAY: Final = 0.05
LOSS: Final = 0.05
#: Times that TCP asks again in vain before the wire is mended: each time it waits twice as long.
#: That is some seconds, short of what makes a node give its connection up; ten minutes, after
#: which it has done so, pass in C{tests/sim/test_ten_minutes.py}.
VAIN: Final = 4
MESSAGES: Final = 200


@frozen
class _Made:
    link: SlowLink
    ada: Node
    bob: Node


def make(mesh: Mesh, internet: Internet) -> _Made:
    link = internet.slow_link(("ada", "bob"), delay=DELAY, loss=LOSS)
    here, there = link.ends
    ada = node_on(here, mesh).start()
    bob = node_on(there, mesh, "--peer", at(ada, here.address), network=ada).start()
    return _Made(link, ada, bob)


world = World(make)


def tearDownModule() -> None:
    world.close()


def _publish(node: Node, count: int) -> None:
    body = b'{"contents": [%b]}' % b", ".join(b'"%d"' % n for n in range(count))
    assert node.ask("POST", "/v1/publish/batch", body).data


def _vain(host: Host) -> int:
    """@return: how often TCP has asked again there since it last heard something."""
    lines = host.run("cat", "/proc/net/tcp").splitlines()[1:]
    return max(int(line.split()[6], 16) for line in lines)


def _has(node: Node, author: Node, count: int) -> None:
    """Wait until a node has so many messages of an author."""
    path = f"/v1/feed/{quote(author.status['identity'], safe='@')}?limit=1"
    wait_for(
        f"{count} messages of {author.home.name} at {node.home.name}",
        lambda: node.ask("GET", path).json["metadata"]["total"] == count,
    )


class SlowTests(SynchronousTestCase):
    skip = skip_reason(tun=True)

    def tell(self, name: str, figures: object) -> None:
        """Nobody listens to trial."""

    @pytest.fixture(autouse=True)
    def _properties(self, record_property: Callable[[str, object], None]) -> None:
        self.tell = record_property  # type: ignore[method-assign]

    def test_they_are_in_step_in_spite_of_it_and_after_a_cut(self) -> None:
        made = world.get()
        _publish(made.ada, MESSAGES)
        began = time.monotonic()
        _has(made.bob, made.ada, MESSAGES)
        first = time.monotonic() - began
        made.link.cut()
        for node in (made.ada, made.bob):
            _publish(node, MESSAGES)
        cut_at = time.monotonic()
        wait_for("silence", lambda: _vain(made.link.ends[0]) >= VAIN, step=0.1)
        cut = time.monotonic() - cut_at
        made.link.mend()
        began = time.monotonic()
        _has(made.bob, made.ada, 2 * MESSAGES)
        _has(made.ada, made.bob, MESSAGES)
        again = time.monotonic() - began
        # TCP asks again ever more seldom: a wait that was begun in the silence is as long as that.
        self.assertLess(again, 30)
        self.tell("figures", f"in step in {first:.1f} s; cut for {cut:.1f} s, in {again:.1f} s")
