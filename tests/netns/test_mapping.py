"""Nodes behind a router such as many have at home, which they ask to pass connections on."""

from __future__ import annotations

import signal
from typing import Final

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from tests.netns.hosts import Internet, Router, skip_reason
from tests.netns.nodes import PORT, World, dial, node_on, told
from tests.process.mesh import Mesh, Node, wait_for

OUTSIDE: Final = "5.2.0.1"
PROTOCOLS: Final = ("pcp", "natpmp", "upnp")
#: Nothing but what this is about.
ALONE: Final = ("--disable", "dht", "--disable", "gossip", "--disable", "hooks")


@frozen
class _Made:
    """Ada is outside; each of the others behind the router, and asks in another protocol."""

    router: Router
    ada: Node
    inside: dict[str, Node]


def make(mesh: Mesh, internet: Internet) -> _Made:
    router = internet.router("router", OUTSIDE)
    router.map_ports(mesh.folder)
    ada = node_on(internet.host("ada", "5.1.0.1"), mesh, *ALONE)
    inside = {}
    for protocol in PROTOCOLS:
        asks = ("--mapping-protocol", protocol)
        inside[protocol] = node_on(router.host(protocol), mesh, *asks, *ALONE, network=ada)
    for node in (ada, *inside.values()):
        node.spawn()
    for node in (ada, *inside.values()):
        node.wait_ready()
    return _Made(router, ada, inside)


world = World(make)


def tearDownModule() -> None:
    world.close()


class MappingTests(SynchronousTestCase):
    skip = skip_reason(nft=True, miniupnpd=True)

    def test_who_asks_is_reached_from_outside_until_it_stops(self) -> None:
        made = world.get()
        found = {}
        for protocol, node in made.inside.items():
            (found[protocol],) = wait_for(f"a place by {protocol}", lambda node=node: told(node))
            status = node.status["parts"]["mapping"]
            self.assertEqual((status["state"], status["protocol"]), ("mapped", protocol))
            self.assertIsNone(status["problem"])
            self.assertTrue(found[protocol].startswith(f"net:{OUTSIDE}:"), found)
        # All listen at one port, and one of them has it outside as well.
        ports = {each.partition("~")[0].rpartition(":")[2] for each in found.values()}
        self.assertEqual(len(ports), len(PROTOCOLS))
        self.assertIn(str(PORT), ports)
        self.assertRegex(
            made.inside["natpmp"].good("status").out,
            r"mapping +state: mapped, protocol: natpmp, router: 192\.168\.1\.1, 1 places, \d+ secs",
        )
        for address in found.values():
            self.assertEqual(dial(made.ada, address)["address"], address)
        self.assertIn(found["upnp"], made.inside["upnp"].good("id").lines)
        self.assertEqual(made.router.mapped().count(f":{PORT}"), len(PROTOCOLS))
        for node in made.inside.values():
            self.assertEqual(node.stop(), -signal.SIGTERM)
        self.assertNotIn("dnat", made.router.mapped())
