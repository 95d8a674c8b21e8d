"""Two nodes behind two routers, which nobody can dial, and a relay outside."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import pytest
from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from tests.netns.hosts import Internet, skip_reason
from tests.netns.nodes import World, at, dial, node_on
from tests.process.mesh import Mesh, Node, wait_for
from tests.process.relays import RelayNode

RELAY: Final = "5.1.0.1"
HOME: Final = "5.2.0.1"
OFFICE: Final = "5.3.0.1"
RELAY_PORT: Final = 7661


@frozen
class _Made:
    """Bob is behind a router that can be asked for ports, and Eve behind a symmetric one."""

    relay: Node
    bob: Node
    eve: Node


def make(mesh: Mesh, internet: Internet) -> _Made:
    relay = RelayNode(mesh.folder / "relay", ())
    relay.home.mkdir()
    mesh._nodes.append(relay)
    relay.good("--relay", "init", "--blind")
    relay.prefix = internet.host("relay", RELAY).prefix
    door = f"unix:{relay.data / 'door.sock'}"
    relay.start("--listen", f"tcp:{RELAY_PORT}", "--api", door)
    through = ("--relays-blind", at(relay, RELAY, RELAY_PORT))
    home = internet.router("home", HOME)
    home.map_ports(mesh.folder)
    office = internet.router("office", OFFICE, symmetric=True)
    bob = node_on(home.host("bob"), mesh, *through, "--mapping-protocol", "auto")
    eve = node_on(office.host("eve"), mesh, *through, network=bob)
    for node in (bob, eve):
        node.spawn()
    for node in (bob, eve):
        node.wait_ready()
    return _Made(relay, bob, eve)


world = World(make)


def tearDownModule() -> None:
    world.close()


def _by_relay(node: Node) -> str:
    """@return: where a node is reached through the relay."""

    def look() -> str:
        (shown,) = node.status["parts"]["tunnel"]["relays"]
        return str(shown["address"]) if shown["reachable"] else ""

    return wait_for(f"relay of {node.home.name}", look)


class TunnelTests(SynchronousTestCase):
    skip = skip_reason(nft=True, miniupnpd=True)

    def tell(self, name: str, figures: object) -> None:
        """Nobody listens to trial."""

    @pytest.fixture(autouse=True)
    def _properties(self, record_property: Callable[[str, object], None]) -> None:
        self.tell = record_property  # type: ignore[method-assign]

    def test_the_relay_leads_them_together_until_there_is_a_direct_path(self) -> None:
        made = world.get()
        bob, eve = made.bob, made.eve
        address = _by_relay(bob)
        wait_for("the place that is mapped", lambda: at(bob, HOME) in bob.status["advertised"])
        began = time.monotonic()
        self.assertEqual(dial(eve, address)["transport"], "relay")

        def direct() -> bool:
            return bool(dial(eve, address)["transport"] == "direct")

        wait_for("a direct path", direct, step=0.2)
        self.tell("figures", f"a direct path in {time.monotonic() - began:.1f} s")
        # Nobody is let in by the other router, whoever asks.
        self.assertEqual(dial(bob, _by_relay(eve))["transport"], "relay")
