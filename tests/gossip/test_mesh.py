"""
Whole meshes of places, in memory and virtual time: everybody ends with everything, and no
more is sent than has to be.

The least possible is one copy of each message for each place but the one it comes from.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from meshkit.gossip.spread import GRAFT_AFTER
from meshkit.testing.identities import Author
from tests.gossip.support import GossipCase, Place


class MeshCase(GossipCase):
    def mesh(self, count: int) -> list[Place]:
        return [self.place(f"place {n}") for n in range(count)]

    def line(self, places: Sequence[Place]) -> None:
        for first, second in zip(places, places[1:], strict=False):
            self.connect(first, second)

    def clique(self, places: Sequence[Place]) -> None:
        for n, first in enumerate(places):
            for second in places[:n]:
                self.connect(first, second)

    def assert_same(self, places: Sequence[Place]) -> None:
        expected = places[0].heads()
        for place in places[1:]:
            self.assertEqual(place.heads(), expected, place.name)

    def sent(self, places: Sequence[Place]) -> int:
        return sum(
            account.sent for place in places for account in place.context.peers.ledger.accounts()
        )

    def ratio(self, what: str, places: Sequence[Place], messages: int) -> float:
        """Messages sent, over the least possible."""
        sent = sum(link.sent for place in places for link in place.links)
        ratio = sent / (messages * (len(places) - 1))
        print(f"{what}: {sent} copies, {ratio:.3f} of the least possible", file=sys.stderr)
        return ratio


class Spreading(MeshCase):
    def test_a_line_of_ten(self) -> None:
        places = self.mesh(10)
        self.line(places)
        self.run_for(1)
        for _ in range(20):
            places[0].publish()
            places[9].publish()
            places[4].publish()
            self.run_for(0.5)
        self.run_for(GRAFT_AFTER)
        self.assert_same(places)
        self.assertEqual(places[0].heads(), {places[n].key.raw: 20 for n in (0, 4, 9)})
        self.assertEqual(self.ratio("line of ten", places, 60), 1.0)

    def test_a_clique_of_ten(self) -> None:
        places = self.mesh(10)
        self.clique(places)
        self.run_for(1)
        for n in range(10):
            for place in places[:: 1 + n % 3]:
                place.publish()
            self.run_for(0.5)
        self.run_for(GRAFT_AFTER)
        self.assert_same(places)
        total = sum(places[0].heads().values())
        self.assertEqual(self.ratio("clique of ten", places, total), 1.0)

    def test_a_clique_of_ten_and_a_feed_of_nobody_in_it(self) -> None:
        places = self.mesh(10)
        self.clique(places)
        self.run_for(1)
        author = Author("somebody")
        for _ in range(30):
            places[3].ingest([author.write().raw])
            self.run_for(0.2)
        self.run_for(GRAFT_AFTER)
        self.assert_same(places)
        self.assertEqual(places[0].heads(), {author.key: 30})
        self.assertLess(self.ratio("clique of ten, a foreign feed", places, 30), 1.05)

    def test_all_start_with_something_else(self) -> None:
        places = self.mesh(10)
        for n, place in enumerate(places):
            place.ingest(Author(f"author {n}").write_many(20))
        self.clique(places)
        self.run_for(5)
        self.assert_same(places)
        self.assertEqual(len(places[0].heads()), 10)
        self.assertLess(self.ratio("clique of ten, all different", places, 200), 1.05)
