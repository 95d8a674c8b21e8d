"""A world is the same in every process, however that hashes and collects its garbage."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parents[2]

#: With this one a timer was once called at the same moment for ever.
SEED = 3
#: PYTHONHASHSEED, and the threshold of the collector.
PROCESSES = (("0", 700), ("1", 1), ("random", 50), ("random", 10_000))


class SameWorldTests(SynchronousTestCase):
    def test_in_every_process(self) -> None:
        children = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.sim.sameness", str(SEED), str(threshold)],
                cwd=ROOT,
                env={**os.environ, "PYTHONHASHSEED": hashing},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for hashing, threshold in PROCESSES
        ]
        for child in children:
            # Nothing happens if it has ended.
            self.addCleanup(child.kill)
        outcomes = [child.communicate(timeout=300) for child in children]
        self.assertEqual([child.returncode for child in children], [0] * len(children), outcomes)
        digests = {said for said, _ in outcomes}
        self.assertEqual(len(digests), 1, digests)
        self.assertRegex(digests.pop(), r"^[0-9a-f]{64}\n$")
