"""Nodes of ours beside independent nodes of theirs: what arrives, and what never does."""

from __future__ import annotations

from typing import Any

from tests.gossip.egregore.stage import EgregoreCase, id_of, notes

SEED = b"t" * 32


class ReplicationTests(EgregoreCase):
    """Both directions, in both roles."""

    def test_they_dial_and_both_have_everything(self) -> None:
        node = self.ours()
        self.publish(node, *({"type": "note", "n": n} for n in range(3)))
        theirs = self.replica("client", pushes=False)
        theirs.hold(notes(SEED, 5))
        connection = self.dials(node, theirs)
        self.mesh.run(5)
        self.assertEqual(self.feed(node, id_of(SEED)), [1, 2, 3, 4, 5])
        self.assertEqual(sorted(theirs.feeds[node.identity.public.text]), [1, 2, 3])
        self.assertEqual((theirs.refused, theirs.peer.remote), ([], node.identity.public.text))
        self.assertIsNotNone(connection.lost)
        self.assertTrue(theirs.peer.ended)
        self.assertEqual(self.status(node)["broken"], {})

    def test_we_dial_and_both_have_everything(self) -> None:
        theirs: Any = []

        def make() -> Any:
            theirs.append(self.replica("server", pushes=False))
            theirs[-1].hold(notes(SEED, 5))
            return theirs[-1]

        place, _ = self.listens(make)
        node = self.ours("ada", place)
        self.mesh.run(5)
        self.assertEqual(self.feed(node, id_of(SEED)), [1, 2, 3, 4, 5])
        (shown,) = self.status(node)["places"]
        self.assertEqual((shown["failures"], shown["last_error"]), (0, None))
        self.assertEqual(shown["peer"], id_of(SEED))
        self.publish(node, {"type": "note"})
        # The next exchange comes by itself.
        self.mesh.run(330)
        self.assertEqual(len(theirs), 2)
        self.assertEqual(sorted(theirs[1].feeds[node.identity.public.text]), [1])


class PushTests(EgregoreCase):
    def test_both_push_as_it_comes(self) -> None:
        for role in ("client", "server"):
            theirs = self.replica(role)
            if role == "client":
                node = self.ours(role)
                connection = self.dials(node, theirs)
            else:
                place, connections = self.listens(lambda: theirs)  # noqa: B023
                node = self.ours(role, place)
                self.mesh.run(1)
                (connection,) = connections
            self.assertTrue(theirs.live, role)
            self.publish(node, {"type": "note", "text": "from ours"})
            for message in notes(SEED, 2):
                self.assertTrue(theirs.push(message))
            connection.flush()
            self.mesh.run(1)
            self.assertEqual(sorted(theirs.feeds[node.identity.public.text]), [1])
            self.assertEqual(self.feed(node, id_of(SEED)), [1, 2])
            self.assertEqual([link["phase"] for link in self.status(node)["links"]], ["live"])
            node.stop()
