"""Nodes behind two routers, one of which keeps their ports and the other does not."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from tests.netns.hosts import Internet, skip_reason
from tests.netns.nodes import PORT, World, at, dial, node_on, told
from tests.process.mesh import Mesh, Node, wait_for

ADA: Final = "5.1.0.1"
FORWARDS: Final = "5.2.0.1"
SYMMETRIC: Final = "5.3.0.1"
#: What the router of Bob and Dan passes on to Dan, whose own port Bob has there.
DANS_PORT: Final = 8_000


@frozen
class _Made:
    """
    Ada is outside, and the only one whom the others are told of.  Bob and Dan are behind a router
    whose owner forwards a port to each of them; Eve behind a symmetric one that lets nobody in.
    """

    ada: Node
    bob: Node
    dan: Node
    eve: Node


def make(mesh: Mesh, internet: Internet) -> _Made:
    ada = node_on(internet.host("ada", ADA), mesh).start()
    home = internet.router("home", FORWARDS)
    hosts = [home.host("bob"), home.host("dan")]
    hosts.append(internet.router("office", SYMMETRIC, symmetric=True).host("eve"))
    home.forward(PORT, hosts[0], PORT)
    home.forward(DANS_PORT, hosts[1], PORT)
    peer = ("--peer", at(ada, ADA))
    advertise = {"dan": ("--advertise", f"{FORWARDS}:{DANS_PORT}")}
    nodes = [node_on(h, mesh, *peer, *advertise.get(h.name, ()), network=ada) for h in hosts]
    for node in nodes:
        node.spawn()
    for node in nodes:
        node.wait_ready()
    return _Made(ada, *nodes)


world = World(make)


def tearDownModule() -> None:
    world.close()


class ReachTests(SynchronousTestCase):
    skip = skip_reason(nft=True)

    def setUp(self) -> None:
        self.made: _Made = world.get()

    def test_a_node_hears_from_another_where_it_is_seen(self) -> None:
        bob = self.made.bob
        place = at(bob, FORWARDS)
        wait_for("place of bob's", lambda: told(bob) == [place])
        self.assertEqual(dial(self.made.ada, place)["address"], place)
        self.assertEqual(bob.good("id").lines[1:], [place])

    def test_what_the_operator_says_is_told_and_found_by_who_knows_the_key_alone(self) -> None:
        dan, eve = self.made.dan, self.made.eve
        place = at(dan, FORWARDS, DANS_PORT)
        self.assertEqual(told(dan), [place])
        found = wait_for("dan", lambda: self._dialled(eve, dan.status["identity"]), step=0.5)
        self.assertEqual(found, place)

    @staticmethod
    def _dialled(node: Node, key: str) -> str | None:
        done = node.cli("peer", "dial", key, "--json")
        return None if done.code else str(done.json["address"])

    def test_who_cannot_be_dialled_is_in_step_all_the_same(self) -> None:
        bob, eve = self.made.bob, self.made.eve
        for one, other in ((bob, eve), (eve, bob)):
            published = one.publish({"type": "note", "from": one.home.name})
            author = quote(one.status["identity"], safe="@")
            wait_for(
                f"{one.home.name}'s message at {other.home.name}",
                lambda other=other, author=author, published=published: (
                    published["hash"] in {each["hash"] for each in other.get(f"/v1/feed/{author}")}
                ),
            )
