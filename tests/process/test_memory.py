"""What a process that moves megabytes asks of the system, with and without the setting."""

from __future__ import annotations

import subprocess
import sys
from typing import Final
from unittest import SkipTest

from twisted.trial.unittest import SynchronousTestCase

#: Takes and frees some megabytes again and again, and prints how many pages it was given.
_PROGRAM: Final = """
import resource, sys
from meshkit.runtime.memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("no setting")
def turn():
    return [bytes(70_000) for _ in range(200)]
turn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    turn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

#: Has a thread take and free some megabytes, and then takes as many, and prints the same.
_THREADS: Final = """
import resource, sys, threading
from meshkit.runtime.memory import keep_freed_memory
if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit("no setting")
def turn():
    return [bytes(70_000) for _ in range(200)]
thread = threading.Thread(target=turn)
thread.start()
thread.join()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
turn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str, program: str = _PROGRAM) -> int:
    done = subprocess.run(
        [sys.executable, "-c", program, how], capture_output=True, text=True, timeout=60
    )
    if done.stderr.strip() == "no setting":
        raise SkipTest("the C library is not glibc")
    return int(done.stdout)


class Pages(SynchronousTestCase):
    def test_memory_that_was_freed_is_not_asked_for_again(self) -> None:
        # 50 turns of 14 MB are 170,000 pages of 4 KiB.
        self.assertLess(_faults("keep"), 2_000)
        self.assertGreater(_faults("as it is"), 20_000)

    def test_what_a_thread_has_freed_is_used_by_others(self) -> None:
        # 14 MB are 3,400 pages.
        self.assertLess(_faults("keep", _THREADS), 1_000)
        self.assertGreater(_faults("as it is", _THREADS), 2_000)
