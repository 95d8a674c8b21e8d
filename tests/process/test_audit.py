"""
Audits and repairs between real daemons: C{twistd mesh-storage}, and an owner's C{mesh-node}.

Kryden's tests 1, 6 and 7 are among them, and its A5: an identity that survives a restart needs
no repair.
"""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.process.audits import Cluster
from tests.process.mesh import MESHKIT, Mesh, run, wait_for


class AuditCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)

    def cluster(self, count: int, scheme: str, *arguments: str, **more: Any) -> Cluster:
        cluster = Cluster.make(self.mesh, count, scheme, *arguments, **more)
        self.addCleanup(cluster.close)
        return cluster

    def gone(self, found: Any) -> list[str | None]:
        """@return: who did not prove a share, by number of the share."""
        (seen,) = found["seen"]
        return [each["peer"] for each in seen["shares"] if each["outcome"] != "success"]


class RepairTests(AuditCase):
    def test_two_of_six_are_killed_and_the_file_is_whole_again(self) -> None:
        cluster = self.cluster(6, "2+2")
        name = cluster.put()
        healthy = cluster.audit()
        self.assertEqual(healthy["outcomes"]["success"], 4)
        self.assertEqual((healthy["degraded"], healthy["placed"]), (0, 0))
        before = cluster.holders(name)
        dead = [cluster.peer_of(key) for key in before[:2]]
        keys = [peer.key for peer in dead]
        for peer in dead:
            peer.kill()
        looked = cluster.audit(name[:12], "--no-repair", code=3)
        self.assertEqual(self.gone(looked), keys)
        self.assertEqual(cluster.holders(name), before)
        repaired = cluster.audit(name[:12])
        self.assertEqual((repaired["placed"], repaired["repaired"]), (2, 1))
        self.assertEqual((repaired["not_repaired"], repaired["lost"]), (0, 0))
        after = cluster.holders(name)
        # Only what was lost has moved, and to nobody who is dead or has a share already.
        self.assertEqual(after[2:], before[2:])
        self.assertEqual(len(set(after)), 4)
        self.assertFalse(set(after) & set(keys))
        self.assertEqual(cluster.health(name), "healthy")
        self.assertTrue(cluster.get(name))
        self.assertEqual(cluster.audit()["outcomes"]["success"], 4)

    def test_what_is_damaged_on_a_disk_is_made_anew_without_its_being_told_of_it(self) -> None:
        cluster = self.cluster(5, "2+2", "--audit-repair-below", "4")
        name = cluster.put()
        liar = cluster.peer_of(cluster.holders(name)[0])
        liar.stop()
        (share,) = liar.shares()
        data = bytearray(share.read_bytes())
        for at in range(100, len(data), 512):
            data[at] ^= 1
        share.write_bytes(data)
        liar.start("--keeper-scrub-rate", "0")
        found = cluster.audit()
        self.assertEqual(found["outcomes"]["failure"], 1)
        self.assertEqual(self.gone(found), [liar.key])
        self.assertEqual(found["placed"], 1)
        self.assertNotIn(liar.key, cluster.holders(name))
        self.assertEqual(cluster.health(name), "healthy")

    def test_an_identity_that_survives_its_restart_needs_no_repair(self) -> None:
        cluster = self.cluster(4, "2+2")
        name = cluster.put()
        cluster.audit()
        before = cluster.holders(name)
        for peer in cluster.peers:
            peer.stop()
            peer.start()
        found = cluster.audit()
        self.assertEqual((found["outcomes"]["success"], found["placed"]), (4, 0))
        self.assertEqual(cluster.holders(name), before)

    def test_one_object_is_repaired_when_somebody_asks_for_it(self) -> None:
        # As lazy as can be: by itself it would wait.
        cluster = self.cluster(5, "2+2", "--audit-repair-below", "2")
        name = cluster.put()
        other = cluster.put(seed=1)
        dead = cluster.peer_of(cluster.holders(name)[0])
        key = dead.key
        dead.kill()
        lazy = cluster.audit(name, code=3)
        self.assertEqual(lazy["placed"], 0)
        repaired = cluster.repair(name)
        self.assertEqual((repaired["objects"], repaired["placed"]), (1, 1))
        self.assertNotIn(key, cluster.holders(name))
        if key in (held := cluster.holders(other)):
            self.assertEqual(held, cluster.holders(other))
        self.assertTrue(cluster.get(name))

    def test_somebody_else_looks_after_an_object_whom_its_owner_gave_the_capability(self) -> None:
        cluster = self.cluster(5, "2+2")
        carer = self.mesh.node("carer", *cluster.owner.arguments, network=cluster.owner).start()
        for each in (*cluster.peers, carer):
            body = json.dumps({"address": each.address}).encode()
            self.assertTrue(cluster.owner.ask("POST", "/v1/peers", body).data)
        wait_for(
            "all in one hash table",
            lambda: (
                cluster.owner.get("/v1/dht/stats")["contacts"] >= 6
                and carer.get("/v1/dht/stats")["contacts"] >= 4
            ),
            step=0.1,
        )
        name = cluster.put()
        wait_for(
            "the object to be published",
            lambda: not cluster.owner.status["parts"]["storage"]["publishing"],
            step=0.1,
        )
        shown = cluster.owner.good("object", "stat", name, "--capabilities", "--json").json
        capability = shown["capabilities"]["repair"]
        watched = carer.good("audit", "watch", "-", "--json", stdin=capability.encode()).json
        self.assertEqual(watched["object"], name)
        self.assertEqual(
            [each["object"] for each in carer.good("audit", "watched", "--json").json], [name]
        )
        dead = cluster.peer_of(cluster.holders(name)[0])
        cluster.owner.stop()
        dead.kill()
        done = carer.good("object", "repair", name, "--json").json
        self.assertEqual(done["placed"], 1)
        # It has no key: it can neither read the object nor say that it is its own.
        self.assertEqual(carer.good("object", "ls", "--json").json, [])
        wait_for(
            "that to be published",
            lambda: not carer.status["parts"]["storage"]["publishing"],
            step=0.1,
        )
        cluster.owner.start()
        # Before it repairs, the owner looks whether somebody else has; so there is nothing to do.
        heard = cluster.repair(name)
        self.assertEqual((heard["placed"], heard["degraded"]), (0, 0))
        self.assertNotIn(dead.key, cluster.holders(name))
        self.assertTrue(cluster.get(name))
        carer.good("audit", "unwatch", name)
        self.assertEqual(carer.good("audit", "watched", "--json").json, [])


class ReceiptTests(AuditCase):
    def test_receipts_verify_in_another_folder_without_keys_and_daemons(self) -> None:
        cluster = self.cluster(4, "2+2")
        name = cluster.put()
        cluster.audit(name)
        shown = cluster.owner.good("audit", "show", "--json").json
        self.assertEqual(len(shown["receipts"]), 4)
        elsewhere = self.mesh.folder / "elsewhere"
        elsewhere.mkdir()
        for number, receipt in enumerate(shown["receipts"]):
            path = elsewhere / f"{number}.mkaudit"
            cluster.owner.good("audit", "show", receipt["id"], "--out", path)
        for each in (cluster.owner, *cluster.peers):
            each.stop()
        for number, receipt in enumerate(shown["receipts"]):
            path = elsewhere / f"{number}.mkaudit"
            done = run(*MESHKIT, "audit", "verify", path, "--json", home=elsewhere)
            self.assertEqual(done.code, 0, done.err)
            self.assertIn(receipt["peer"], done.out)
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            changed = elsewhere / "changed.mkaudit"
            changed.write_bytes(data)
            done = run(*MESHKIT, "audit", "verify", changed, home=elsewhere)
            self.assertEqual(done.code, 1, done.out)
        # It made nothing there.
        self.assertEqual(sorted(path.suffix for path in elsewhere.iterdir()), [".mkaudit"] * 5)


class StandingTests(AuditCase):
    def test_what_is_thought_of_peers_survives_a_restart(self) -> None:
        cluster = self.cluster(4, "2+2")
        cluster.put()
        cluster.audit()
        victim = cluster.peers[0]
        victim.stop()
        for share in victim.shares():
            share.unlink()
        victim.start()
        cluster.audit(code=3)
        before = cluster.owner.good("audit", "peers", "--json").json
        scores = {each["peer"]: each["score"] for each in before}
        self.assertEqual(len(scores), 4)
        self.assertEqual(min(scores, key=lambda key: scores[key]), victim.key)
        cluster.owner.stop()
        cluster.owner.start()
        self.assertEqual(cluster.owner.good("audit", "peers", "--json").json, before)
        # And passes are numbered on.
        runs = cluster.owner.good("audit", "show", "--json").json["runs"]
        cluster.audit(code=3)
        self.assertEqual(
            len(cluster.owner.good("audit", "show", "--json").json["runs"]), len(runs) + 1
        )
