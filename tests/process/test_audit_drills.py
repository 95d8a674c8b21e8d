"""
The drills of docs/howto/storage-cluster.md: what an operator may meet, done to real daemons.

A peer stops, and comes back; there is no room anywhere; everything takes half a second more; an
owner or a peer is killed while shares are made anew.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from typing import Any, Final

from twisted.trial.unittest import SynchronousTestCase

from tests.process.audits import Cluster, Peer
from tests.process.mesh import Mesh, Node, wait_for
from tests.process.tracing import find_strace

#: How often somebody is killed.
KILLS: Final = int(os.environ.get("MESHKIT_KILLS") or 4)
#: Seconds that everything takes longer, there and back.
DELAY: Final = 0.5
#: What makes durable, or gives something its name.
_CALLS: Final = ("fdatasync", "fsync", "rename", "pwrite64")


class DrillCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.mesh = Mesh()
        self.addCleanup(self.mesh.close)

    def cluster(self, count: int, scheme: str, *arguments: str, **more: Any) -> Cluster:
        cluster = Cluster.make(self.mesh, count, scheme, *arguments, **more)
        self.addCleanup(cluster.close)
        return cluster


class AwayTests(DrillCase):
    def test_a_peer_that_stops_and_returns_in_time_costs_nothing(self) -> None:
        cluster = self.cluster(5, "2+2", "--audit-offline-grace", "3600")
        name = cluster.put()
        cluster.audit()
        before = cluster.holders(name)
        gone = [cluster.peer_of(key) for key in before[:3]]
        for peer in gone:
            peer.stop()
        # Too few are left to read it, and still nothing is made anew, as they may come back.
        looked = cluster.audit(code=4)
        self.assertEqual((looked["outcomes"]["offline"], looked["placed"]), (3, 0))
        for peer in gone:
            peer.start()
        back = cluster.audit()
        self.assertEqual((back["outcomes"]["success"], back["placed"]), (4, 0))
        self.assertEqual(cluster.holders(name), before)
        for standing in cluster.owner.good("audit", "peers", "--json").json:
            self.assertEqual((standing["failures"], standing["refused"]), (0, None))


class FullTests(DrillCase):
    def test_where_there_is_no_room_a_repair_waits_for_some(self) -> None:
        cluster = self.cluster(5, "2+2")
        spare = cluster.peers[-1]
        spare.stop()
        spare.arguments = ["--keeper-max-storage", "1MB", *spare.arguments[2:]]
        spare.start()
        name = cluster.put(size=4_000_000)
        before = cluster.holders(name)
        self.assertNotIn(spare.key, before)
        cluster.peer_of(before[0]).kill()
        refused = cluster.repair(name, code=3)
        self.assertEqual(refused["placed"], 0)
        self.assertEqual(cluster.holders(name)[1:], before[1:])
        self.assertTrue(cluster.get(name))
        spare.stop()
        self.assertEqual(list((spare.data / "keeper").rglob("incoming/*")), [])
        spare.arguments = ["--keeper-max-storage", "100MB", *spare.arguments[2:]]
        spare.start()
        repaired = cluster.repair(name)
        self.assertEqual(repaired["placed"], 1)
        self.assertEqual(cluster.holders(name), [spare.key, *before[1:]])


class SlowTests(DrillCase):
    def test_half_a_second_more_is_no_failure(self) -> None:
        cluster = self.cluster(4, "2+2", delays=[0.0] * 4)
        name = cluster.put()
        # So that it is known how fast they are.
        for _ in range(3):
            cluster.audit()
        for proxy in cluster.proxies:
            proxy.delay = DELAY / 2
        slow = cluster.audit()
        self.assertEqual(slow["outcomes"], {"success": 4})
        self.assertEqual(slow["placed"], 0)
        for standing in cluster.owner.good("audit", "peers", "--json").json:
            self.assertEqual((standing["failures"], standing["owes"]), (0, 0))
        self.assertTrue(cluster.get(name))


class KillTests(DrillCase):
    def setUp(self) -> None:
        super().setUp()
        self.seed = random.SystemRandom().randrange(2**32)
        self.rng = random.Random(self.seed)

    def check(self, cluster: Cluster, name: str) -> None:
        """All is as it should be, after a pass of those who are there now."""
        told = f"seed {self.seed}\n{cluster.owner.log_tail()}"
        found = cluster.repair(name)
        self.assertEqual(found["state"], "done", told)
        holders = cluster.holders(name)
        self.assertEqual(len(set(holders)), len(holders), told)
        self.assertEqual(cluster.health(name), "healthy", told)
        self.assertTrue(cluster.get(name), told)

    def lose(self, cluster: Cluster, name: str) -> Peer:
        """Take a share away from a peer that has one."""
        victim = cluster.peer_of(self.rng.choice(cluster.holders(name)))
        victim.stop()
        for path in (victim.data / "keeper").rglob("*"):
            if path.is_file():
                path.unlink()
        victim.start()
        return victim

    def test_an_owner_that_is_killed_in_a_repair_goes_on_with_it(self) -> None:
        cluster = self.cluster(5, "2+2")
        name = cluster.put(size=8_000_000)
        for turn in range(KILLS):
            self.lose(cluster, name)
            if turn % 2:
                self.kill_at_a_call(cluster.owner, name)
            else:
                cluster.owner.good("object", "repair", name, "--detach")
                self.wait(0.5)
                cluster.owner.kill()
            cluster.owner.start()
            self.check(cluster, name)
        # Shares that were placed and not written down are given up, or end with their leases.
        self.assertLessEqual(self.kept(cluster), 4 + KILLS)

    def test_a_peer_that_is_killed_while_it_is_given_a_share_is_given_it_again(self) -> None:
        cluster = self.cluster(5, "2+2")
        name = cluster.put(size=8_000_000)
        for _ in range(KILLS):
            self.lose(cluster, name)
            holders = cluster.holders(name)
            (spare,) = [peer for peer in cluster.peers if peer.key not in holders]
            cluster.owner.good("object", "repair", name, "--detach")
            self.wait(0.5)
            spare.kill()
            cluster.owner.cli("audit", "run", name)
            spare.start()
            self.check(cluster, name)
            for peer in cluster.peers:
                self.assertEqual(list((peer.data / "keeper").rglob("incoming/*")), [])

    def wait(self, seconds: float) -> None:
        """Up to so long, as chance has it."""
        end = time.monotonic() + self.rng.uniform(0, seconds)
        wait_for("the moment", lambda: time.monotonic() >= end, step=0.001)

    def kept(self, cluster: Cluster) -> int:
        return sum(len(peer.shares()) for peer in cluster.peers)

    def kill_at_a_call(self, owner: Node, name: str) -> None:
        """Kill it in a repair, at a call that makes something durable or gives it its name."""
        owner.stop()
        call, when = self.rng.choice(_CALLS), self.rng.randrange(1, 60)
        owner.prefix = [
            *(find_strace(), "-f", "-qq", "-o", str(owner.home / "trace")),
            *("-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={when}"),
        ]
        owner.spawn()
        process = owner.process
        assert process is not None
        ready = owner.data / "endpoints.json"
        wait_for("start or end", lambda: process.poll() is not None or ready.exists())
        if process.poll() is None:
            # Traced, it may be too slow to answer in time.
            with contextlib.suppress(subprocess.TimeoutExpired):
                owner.cli("object", "repair", name)
        if process.poll() is None:
            # There were not so many calls.
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)
        owner.process, owner.prefix = None, []
