"""
A peer that reads nothing costs nothing: two processes, a secure channel over loopback
between them, and 1 GiB that wants to go through.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from attrs import define
from twisted.trial.unittest import SynchronousTestCase

from tests.process.flood import TOTAL
from tests.process.mesh import environment, wait_for

ROOT: Final = Path(__file__).resolve().parents[2]

#: By how much the memory of either process may grow, in KiB.
MAX_GROWTH: Final = 2 * 1024

#: What two kernels' socket buffers hold at most; far below what is to be sent.
MAX_ON_ITS_WAY: Final = 32 * 1024 * 1024


@define
class State:
    """What a process says of itself: memory in KiB now and at its peak, and the rest."""

    rss: int
    peak: int
    count: int
    sum: int
    rest: list[str]


class End:
    """One of the two processes."""

    def __init__(self, test: SynchronousTestCase, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.process.flood", *arguments],
            cwd=ROOT,
            env=environment(ROOT, PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        test.addCleanup(self.close)
        assert self.process.stdout is not None
        self.first = self.process.stdout.readline().strip()

    def order(self, line: str = "") -> State:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        words = self.process.stdout.readline().split()
        return State(*map(int, words[:4]), words[4:])

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
        self.process.wait(30)


class FloodTests(SynchronousTestCase):
    def test_a_gibibyte_for_a_peer_that_reads_nothing_and_then_all_of_it(self) -> None:
        reader = End(self, "reader")
        writer = End(self, "writer", reader.first)
        self.assertEqual(writer.first, "connected")
        # Once through everything, so that what is imported or cached late is there.
        for end in (reader, writer):
            end.order()
        before = {end: end.order("forget").rss for end in (reader, writer)}

        writer.order("go")
        # Pauses come and go until the kernels' buffers are full, and then one stays.
        stuck = self.at_rest(writer)
        self.assertGreater(int(stuck.rest[0]), 0)
        self.assertEqual(stuck.rest[1], "-")
        self.assertLess(stuck.count, MAX_ON_ITS_WAY)
        self.assertEqual((reader.order().count, reader.order().rest), (0, ["-"]))
        self.assert_small(before)

        reader.order("go")
        wait_for("end", lambda: reader.order().rest[0] != "-", seconds=300, step=0.2)
        wait_for("end", lambda: writer.order().rest[1] != "-")
        read, written = reader.order(), writer.order()
        self.assertEqual((read.count, written.count), (TOTAL, TOTAL))
        self.assertEqual(read.sum, written.sum)
        self.assertEqual((read.rest, written.rest[1]), (["ConnectionDone"], "ConnectionDone"))
        self.assert_small(before)

    def assert_small(self, before: dict[End, int]) -> None:
        for end, rss in before.items():
            print("GROWTH", end.order().peak - rss, end.order())
            self.assertLess(end.order().peak - rss, MAX_GROWTH)

    def at_rest(self, writer: End, seconds: float = 1.0) -> State:
        """Wait until it has written something, and nothing more for so long."""
        last, since = 0, time.monotonic()

        def look() -> State | None:
            nonlocal last, since
            state = writer.order()
            if state.count != last:
                last, since = state.count, time.monotonic()
            return state if last and time.monotonic() - since > seconds else None

        return wait_for("rest", look, step=0.05)
