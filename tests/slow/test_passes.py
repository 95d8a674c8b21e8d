"""Passes over as many objects as a node may have."""

from __future__ import annotations

import os
import time
import tracemalloc

from meshkit.audit import state
from meshkit.audit.decisions import Policy
from meshkit.audit.passing import Pace
from meshkit.audit.replay import replay
from meshkit.runtime.container import DiskFile
from tests.audit.passes import PassesCase
from tests.runtime.support import scratch

HOUR = 3_600
OBJECTS = 2_000


class ManyTests(PassesCase):
    policy = Policy(every=6 * HOUR)
    peers = 30

    def make_backing(self) -> DiskFile:
        return DiskFile(os.path.join(scratch(self), "node.db"))

    def test_a_third_of_the_peers_goes_for_an_hour_and_nothing_is_made_anew(self) -> None:
        """2,000 objects of 6+3 at 30 peers; ten peers go, and come back."""
        objects = [self.world.put(seed, "6+3", 16 * 1024) for seed in range(OBJECTS)]
        begun = time.perf_counter()
        self.assertEqual(self.pass_by_itself().metrics.codes, {"healthy": OBJECTS})
        healthy = time.perf_counter() - begun
        gone = self.world.holders[::3]
        self.world.pass_time(6 * HOUR)
        for each in gone:
            each.says = "offline"
            each.times = 0
        runs = [self.pass_by_itself()]
        for _ in range(4):
            self.world.pass_time(HOUR // 4)
            runs.append(self.pass_by_itself())
        for each in gone:
            each.says = None
        self.world.pass_time(HOUR // 4)
        runs.append(self.pass_by_itself())
        for run in runs:
            self.assertEqual((run.state, run.metrics.placed, run.metrics.deferred), ("done", 0, 0))
            found = replay(self.read(state.trace, run.id))
            self.assertEqual((found.decisions, found.differing), (run.metrics.due, 0))
        # Each object has none to spare, and is waited for all the same.
        self.assertEqual(runs[0].metrics.codes, {"grace": OBJECTS})
        self.assertEqual(self.world.repairing.asked, [])
        self.assertEqual({self.state_of(each).code for each in objects[::50]}, {"healthy"})
        self.assertEqual(self.read(state.codes), {"healthy": OBJECTS})
        # One question for each page and peer while it is away, and none for each object.
        self.assertLessEqual(max(each.times for each in gone), 5 + OBJECTS // Pace().page)
        print(f"\na pass over {OBJECTS} healthy objects of 9 shares: {healthy:.2f} s")

    def test_a_pass_needs_no_more_memory_for_more_objects(self) -> None:
        """What is looked at is in memory a page at a time."""
        scheduler = self.make(pace=Pace(page=100))
        peaks = []
        for count in (300, 1_200):
            for seed in range(len(self.world.tracked.objects), count):
                self.world.put(seed, "6+3", 16 * 1024)
            self.world.standings.recorded.clear()
            self.run_pass(scheduler)
            self.world.standings.recorded.clear()
            self.world.standings.keep = False
            tracemalloc.start()
            self.run_pass(scheduler)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        self.assertLess(peaks[1], 1.5 * peaks[0])
