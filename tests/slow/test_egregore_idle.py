"""A day of virtual time on a live connection with a node of Egregore, in which nothing is said."""

from __future__ import annotations

import gc

from tests.gossip.egregore.stage import EgregoreCase, id_of, notes
from tests.interop.egregore_peer import Replica

SEED = b"t" * 32
DAY = 86_400.0


class IdleTests(EgregoreCase):
    def test_after_a_day_of_silence_both_push_on_the_same_connection(self) -> None:
        made: list[Replica] = []

        def make() -> Replica:
            made.append(self.replica("server"))
            made[-1].feeds = made[0].feeds
            return made[-1]

        place, connections = self.listens(make)
        node = self.ours("ada", place)
        self.mesh.run(DAY / 24)
        gc.collect()
        before = len(gc.get_objects())
        self.mesh.run(DAY - DAY / 24)
        self.assertIsNone(connections[0].lost)
        theirs = made[0]
        # What is heaped up is the list of what the peer of this test was told.
        for replica in made:
            replica.said.clear()
            replica.peer.inbox.clear()
            replica._seen = 0
        gc.collect()
        self.assertLess(len(gc.get_objects()) - before, 20_000)
        node.ask("POST", "/v1/publish", {"content": {"type": "note"}})
        theirs.push(notes(SEED, 1)[0])
        connections[0].flush()
        self.mesh.run(0.2)
        self.assertEqual(sorted(theirs.feeds[node.identity.public.text]), [1])
        self.assertEqual(self.feed(node, id_of(SEED)), [1])
        # A complete exchange every five minutes, on connections of their own.
        self.assertLess(abs(len(made) - DAY / 300), 60)
        self.assertEqual(self.status(node)["broken"], {})
