"""
A node that is killed and put back from a backup, with real processes and a real disk.
"""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.process.mesh import Mesh, Node, wait_for


class Restored(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)

    def own(self, node: Node) -> Any:
        return node.ask("GET", "/v1/own-feed").data

    def sequence(self, node: Node) -> int:
        sequence: int = self.own(node)["sequence"]
        return sequence

    def test_it_fetches_what_it_forgot_before_it_goes_on(self) -> None:
        a = self.mesh.node("a").start()
        b = self.mesh.node("b", "--peer", a.address, network=a).start()
        for n in range(3):
            a.good("publish", f"before {n}")
        kept = a.home / "kept"
        # While the node runs, and its last messages are in the journal alone.
        said = a.good("backup", kept, "--json").json
        self.assertEqual(said["bytes"], kept.stat().st_size)
        for n in range(2):
            a.good("publish", f"after {n}")
        wait_for("b to have all", lambda: b.status["parts"]["feed"]["messages"] == 5)
        self.assertEqual(a.cli("doctor").code, 1)  # not while it runs
        a.kill()
        # What the kill has left is sound, and a backup is never put over it.
        self.assertEqual(a.good("doctor", "--json").json["messages"], 5)
        refused = a.cli("restore", kept)
        self.assertEqual(refused.code, 1)
        self.assertIn("File exists", refused.err)
        for suffix in ("", "-wal", "-shm"):
            (a.data / f"node.db{suffix}").unlink(missing_ok=True)
        self.assertIn("read-only", a.good("restore", kept).out)
        self.assertEqual(a.good("doctor", "--json").json["messages"], 3)

        a.start("--peer", b.address, more={"MESHKIT_FEED_WITNESSES": "2"})
        refused = a.cli("publish", "too early")
        self.assertEqual(refused.code, 1)
        self.assertIn("[FEED_READ_ONLY]", refused.err)
        wait_for("all to be back", lambda: self.sequence(a) == 5)
        self.assertIn("read only: ", a.good("status").out)
        self.assertEqual(a.cli("publish", "too early").code, 1)
        a.stop()

        a.start("--peer", b.address, more={"MESHKIT_FEED_WITNESSES": "1"})
        wait_for("b to be heard", lambda: self.own(a)["read_only"] is None)
        self.assertEqual(a.good("publish", "at last", "--json").json["sequence"], 6)
        wait_for("b to have it", lambda: b.status["parts"]["feed"]["messages"] == 6)
