"""C{meshkit feed rotate} between two nodes: the followers come along."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.process.mesh import Mesh, wait_for


class RotateTests(SynchronousTestCase):
    def test_followers_come_along_and_the_old_feed_ends(self) -> None:
        mesh = Mesh()
        self.addCleanup(mesh.close)
        a = mesh.node("a").start()
        old = a.good("id").out.splitlines()[0]
        b = mesh.node("b", "--peer", a.address, network=a).start()
        b.good("follow", old)
        first = a.good("publish", "first", "--json").json["hash"]
        wait_for("first", lambda: b.ask("GET", f"/v1/message/{first}").status == 200)
        self.assertIn("DATA_FOLDER_LOCKED", a.cli("feed", "rotate", "--yes").err)
        a.stop()
        new = a.good("feed", "rotate", "--yes", "--json").json["public_id"]
        a.start()
        self.assertEqual(a.good("id").out.splitlines()[0], new)
        # The address has changed, as the key is part of it.
        b.good("peer", "add", a.address)
        last = a.good("publish", "with a new key", "--json").json
        self.assertEqual((last["author"], last["sequence"]), (new, 2))
        wait_for("last", lambda: b.ask("GET", f"/v1/message/{last['hash']}").status == 200)
        follows = [each["author"] for each in b.good("follow", "--json").json]
        self.assertEqual(sorted(follows), sorted([old, new]))
        told = b.good("feed", "show", old, "--json").json["messages"]
        self.assertEqual([m["content"]["type"] for m in told], ["rotation", "message"])
